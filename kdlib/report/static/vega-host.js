/* Brings the charts of a page of the book to life: lazily, from one local bundle, in the colours of the page.

   sphinx.py has left a picture where each chart will stand, and its spec in a side-car script.             */
(() => {
  "use strict";
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const colour = (name, otherwise) => `var(--pst-color-${name}, ${otherwise})`; // follows the theme, and print
  const [text, muted, line] = [colour("text-base", "#222"), colour("text-muted", "#666"), colour("border", "#ddd")];
  const CONFIG = {
    aria: false, // the figure has its words; those of single marks would be noise
    axis: { labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: text, titleColor: muted },
    header: { labelColor: text, titleColor: muted },
    title: { color: text, subtitleColor: muted },
    text: { color: text },
  };
  const MOST = 200; // rows of a table on the page; all of them are in the CSV

  const loading = {};
  function script(name) {
    loading[name] = loading[name] || new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = `${here}${name}.js`;
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${element.src} is missing`));
      document.head.append(element);
    });
    return loading[name];
  }

  async function draw(figure) {
    const name = figure.dataset.spec;
    await Promise.all([script("vega-bundle"), script(`data/${name}`)]);
    const spec = JSON.parse(window.kdSidecars[name]);
    const stage = document.createElement("div");
    const { view } = await window.vegaEmbed(stage, spec, { actions: false, renderer: "svg", config: CONFIG });
    stage.querySelector("svg").setAttribute("aria-hidden", "true");
    stage.append(...legends(view));
    figure.querySelector(".kd-scroll").replaceChildren(stage);
    figure.querySelector("figcaption").prepend(numbers(spec));
  }
  const attempt = (figure) => {
    figure.done = figure.done || draw(figure).catch((error) => {
      figure.append(`This chart could not be drawn. ${error}`);
      console.error(error);
    }).finally(() => figure.removeAttribute("aria-busy"));
    return figure.done;
  };

  // ---- what the mouse does in a legend, for the keyboard: a list beside the chart's own controls
  function legends(view) {
    const signals = Object.keys(view.getState({ signals: () => true, data: () => false }).signals);
    return signals.filter((name) => name.endsWith("_legend")).map((name) => {
      const field = name.split("_").slice(1, -1).join("_");
      const choice = document.createElement("select");
      choice.append(new Option("all", ""), ...view.scale("color").domain().map((value) => new Option(value)));
      choice.addEventListener("change", () => view.signal(name, choice.value || null).runAsync());
      const label = document.createElement("label");
      label.className = "kd-choice";
      label.append(`Show ${field} `, choice);
      return label;
    });
  }

  // ---- the numbers as tables, made when somebody opens them
  function numbers(spec) {
    const details = document.createElement("details");
    details.append(Object.assign(document.createElement("summary"), { textContent: "numbers" }));
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const box = Object.assign(document.createElement("div"), { className: "kd-numbers", tabIndex: 0 });
      box.append(...Object.values(spec.datasets).filter(([row]) => row && Object.keys(row).length).map(table));
      details.append(box);
    });
    return details;
  }
  function table(rows) {
    const keys = Object.keys(rows[0]);
    const element = document.createElement("table");
    element.createCaption().textContent = rows.length > MOST ? `The first ${MOST} of ${rows.length} rows` : `${rows.length} rows`;
    const head = element.createTHead().insertRow();
    keys.forEach((key) => head.append(Object.assign(document.createElement("th"), { textContent: key, scope: "col" })));
    const body = element.createTBody();
    for (const row of rows.slice(0, MOST)) {
      const line = body.insertRow();
      keys.forEach((key) => (line.insertCell().textContent = row[key] ?? ""));
    }
    return element;
  }

  async function start() {
    const figures = [...document.querySelectorAll(".kd-chart")];
    const observer = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
      if (!isIntersecting) return;
      observer.unobserve(target);
      attempt(target);
    }), { rootMargin: "600px" });
    figures.forEach((figure) => observer.observe(figure));
    addEventListener("beforeprint", () => figures.forEach(attempt));
    if (document.readyState !== "complete") await new Promise((loaded) => addEventListener("load", loaded));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 200));
    for (const figure of figures) {
      await new Promise((free) => idle(free));
      await attempt(figure); // all of them, so that a print has them
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
