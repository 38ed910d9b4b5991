/* Draws the charts of a page of the book: lazily, from one local bundle, in the colours of the page. */
(() => {
  "use strict";
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const STYLE = `
    .kd-chart { margin: 1.2em 0; overflow-x: auto; }
    .kd-chart .vega-embed { display: block; }
    .kd-chart svg { max-width: max(100%, 560px); height: auto; }
    .kd-chart .vega-bind label { margin-right: 1em; }`;

  let bundle;
  function library() {
    bundle = bundle || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${here}vega-bundle.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${script.src} is missing`));
      document.head.append(script);
    });
    return bundle;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    const text = of("--pst-color-text-base", "#222");
    const muted = of("--pst-color-text-muted", "#666");
    const line = of("--pst-color-border", "#ddd");
    return {
      axis: { labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: text, titleColor: muted },
      header: { labelColor: text, titleColor: muted },
      title: { color: text, subtitleColor: muted },
      text: { color: text },
    };
  }

  async function draw(figure) {
    await library();
    const spec = JSON.parse(figure.querySelector("script").textContent);
    figure.drawn?.finalize();
    const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
    const options = { actions: false, renderer: "svg", config: colours(), tooltip: { theme } };
    figure.drawn = await window.vegaEmbed(figure.querySelector("div"), spec, options);
    figure.removeAttribute("aria-busy");
  }
  const attempt = (figure) => draw(figure).catch((error) => {
    figure.append(`This chart could not be drawn. ${error}`);
    console.error(error);
  });

  function start() {
    const figures = [...document.querySelectorAll(".kd-chart")];
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
    const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
      if (!isIntersecting) return;
      seen.unobserve(target);
      attempt(target);
    }), { rootMargin: "600px" });
    figures.forEach((figure) => seen.observe(figure));
    new MutationObserver(() => figures.filter((figure) => figure.drawn).forEach(attempt))
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    addEventListener("beforeprint", () => figures.filter((figure) => !figure.drawn).forEach(attempt));
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
