/* Brings the charts of a page of the book to life: lazily, from one local bundle, in the colours of the page.

   sphinx.py has left a picture where each chart will stand, and its spec in a side-car script.

   Text can set a chart:  <a class="kd-set" data-chart="T=1">the teacher's own probabilities</a>
   It sets the last chart before it (or the first of the page), by the names of the chart's controls,
   or singles out a method of the legend: data-chart="method=kd"; without a value, all of them again.        */
(() => {
  "use strict";
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const colour = (name, otherwise) => `var(--pst-color-${name}, ${otherwise})`; // follows the theme, and print
  const [text, muted, line] = [colour("text-base", "#222"), colour("text-muted", "#666"), colour("border", "#ddd")];
  const CONFIG = {
    aria: false, // the figure has its words; those of single marks would be noise
    axis: { labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: text, titleColor: muted, symbolBaseFillColor: muted, symbolBaseStrokeColor: muted },
    header: { labelColor: text, titleColor: muted },
    title: { color: text, subtitleColor: muted },
    text: { color: text },
  };
  const PHONE = 560; // pixels; a wider page scrolls a chart that is wider still
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

  // ---- on a telephone: panels in a column, long titles on several lines, and no wider than the screen
  const pen = document.createElement("canvas").getContext("2d");
  function lines(text, font, room) { // words, in as many lines as the room asks for
    pen.font = font;
    return [].concat(text ?? []).flatMap((line) => line.split(" ").reduce((all, word) => {
      const longer = `${all[all.length - 1]} ${word}`.trim();
      if (pen.measureText(longer).width <= room) all[all.length - 1] = longer;
      else all.push(word);
      return all;
    }, [""]));
  }
  function below(spec, font, room) { // the names of axes below panels
    const { x } = spec.encoding || {};
    const broken = (one) => (one?.title ? { ...one, title: lines(one.title, font, room) } : one);
    const encoding = x && { encoding: { ...spec.encoding, x: { ...broken(x), ...(x.axis && { axis: broken(x.axis) }) } } };
    const inner = spec.spec && { spec: below(spec.spec, font, room) };
    const parts = ["layer", "vconcat", "hconcat"].filter((key) => spec[key]);
    return { ...spec, ...encoding, ...inner, ...Object.fromEntries(parts.map((key) => [key, spec[key].map((one) => below(one, font, room))])) };
  }
  function narrow(whole, room) {
    const { font = "sans-serif", title: large = {}, axis = {} } = whole.config || {};
    const spec = below(whole, `${axis.titleFontSize || 12}px ${font}`, room - 100);
    const { title, facet, hconcat, ...rest } = spec;
    const titles = title && { title: { ...title, text: lines(title.text, `bold ${large.fontSize || 14}px ${font}`, room - 12), subtitle: lines(title.subtitle, `${large.subtitleFontSize || 12}px ${font}`, room - 12) } };
    if (facet?.row && facet.column) { // a table of panels: those of a column below each other
      const { row, column } = facet;
      const header = { ...row.header, labelOrient: "top", labelAnchor: "start" };
      const inner = { facet: { row: { ...row, header } }, spec: spec.spec, spacing: spec.spacing };
      return { ...rest, ...titles, facet: { row: column }, spec: inner };
    }
    const across = facet && !facet.row && (facet.column || spec.columns > 1);
    const inner = across ? stacked(spec.spec, room) : { columns: 1 };
    const beside = inner.columns;
    return {
      ...rest,
      ...titles,
      ...(inner.spec && { spec: inner.spec }),
      ...(inner.alone && { resolve: { ...spec.resolve, axis: { ...spec.resolve?.axis, x: "independent" } } }),
      ...(facet && { facet: across && facet.column ? facet.column : facet }),
      ...(across && { columns: beside }),
      ...(hconcat && { vconcat: hconcat }),
    };
  }
  const axes = (spec) => [spec.encoding?.x, spec.encoding?.y, ...(spec.layer || []).flatMap((one) => [one.encoding?.x, one.encoding?.y])]
    .filter((channel) => channel?.field && channel.axis !== null && channel.axis?.labels !== false);
  /** Panels that were beside each other: maps, which have no axes, three in a row; others below each other, as wide
   *  as the screen, each with its axis. */
  function stacked(panel, room) {
    const { width, height } = panel;
    if (typeof width !== "number") return { columns: 1 };
    if (axes(panel).length) return { columns: 1, alone: true, spec: { ...panel, width: Math.max(width, room - 60) } };
    const columns = Math.max(1, Math.floor(room / Math.max(100, Math.min(width + 8, 112))));
    const side = Math.min(width, Math.floor((room - 12) / columns) - 8);
    return { columns, spec: { ...panel, width: side, ...(typeof height === "number" && { height: Math.round((height * side) / width) }) } };
  }
  function narrower(spec, by, share) { // all panels, since they lie below each other; `share` of what has a width per step
    const { width, mark } = spec;
    const step = width?.step && Math.max(20, width.step * share);
    const inner = spec.spec && { spec: narrower(spec.spec, by, share) };
    const each = spec.vconcat && { vconcat: spec.vconcat.map((one) => narrower(one, by, share)) };
    return {
      ...spec,
      ...(typeof width === "number" && { width: Math.max(120, width - by) }),
      ...(step && { width: { step } }),
      ...(step && mark?.type === "image" && { mark: { ...mark, width: step - 3, height: step - 3 } }),
      ...inner,
      ...each,
    };
  }
  const legendEnd = (view) => Math.max(0, ...view.scenegraph().root.items[0].items.filter(({ role }) => role === "legend")
    .map(({ bounds }) => view.origin()[0] + bounds.x2));

  async function embed(stage, spec, legend) {
    const config = { ...CONFIG, legend: { ...CONFIG.legend, ...legend } };
    const { view } = await window.vegaEmbed(stage, spec, { actions: false, renderer: "svg", config });
    return { view, wide: parseFloat(stage.querySelector("svg").getAttribute("width")) };
  }

  async function draw(figure) {
    const name = figure.dataset.spec;
    await Promise.all([script("vega-bundle"), script(`data/${name}`)]);
    const spec = JSON.parse(window.kdSidecars[name]);
    const stage = document.createElement("div");
    const box = figure.querySelector(".kd-scroll");
    const room = box.clientWidth;
    let { view, wide } = await embed(stage, spec);
    if (room && room < PHONE && wide > room) {
      let copy = narrow(spec, room);
      let columns = Math.max(1, Math.floor(room / 110)); // of the legend
      for (let tries = 0; tries < 8; tries++) { // labels at the ends of an axis may stick out of it
        ({ view, wide } = await embed(stage, copy, { columns }));
        if (wide <= room) break;
        if (legendEnd(view) > room && columns > 1) columns -= 1;
        else copy = narrower(copy, Math.ceil(wide - room), room / wide);
      }
    }
    figure.view = view;
    stage.querySelector("svg").setAttribute("aria-hidden", "true");
    stage.append(...legends(view));
    box.replaceChildren(stage);
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

  // ---- links in the text
  function set(view, text) {
    const signals = view.getState({ signals: () => true, data: () => false }).signals;
    for (const [key, value] of new URLSearchParams(text)) {
      const name = [key, ...Object.keys(signals).filter((one) => one.endsWith(`_${key}_legend`) || one.endsWith(`_${key}`))]
        .find((one) => one in signals);
      if (!name) console.warn(`this chart has nothing to set called ${key}`);
      else view.signal(name, typeof signals[name] === "number" ? Number(value) : value || null);
    }
    return view.runAsync();
  }
  async function follow(link, figures) {
    const before = figures.filter((figure) => figure.compareDocumentPosition(link) & Node.DOCUMENT_POSITION_FOLLOWING);
    const figure = before.pop() || figures[0];
    if (!figure) return;
    await attempt(figure);
    await set(figure.view, link.dataset.chart);
    const { top, bottom } = figure.getBoundingClientRect();
    const seen = Math.min(bottom, innerHeight) - Math.max(top, 0);
    const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (seen < Math.min(bottom - top, innerHeight) / 2) figure.scrollIntoView({ behavior: smooth ? "smooth" : "auto", block: "center" });
  }
  function links(figures) {
    for (const link of document.querySelectorAll(".kd-set[data-chart]")) {
      link.tabIndex = 0;
      link.setAttribute("role", "button");
      const act = (event) => { event.preventDefault(); follow(link, figures); };
      link.addEventListener("click", act);
      link.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") act(event); });
    }
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
    links(figures);
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
