/* Runs anywidgets on a page of the book: without a kernel, a network or RequireJS, from file:// too.

   The page holds the state of its widgets as JSON (myst-nb puts it there); sphinx.py has moved big
   parts into side-car scripts. Of a trait `parts`, each is loaded when it is asked for: until then
   it is a function that promises its bytes. A widget that is not an anywidget gets a sentence instead of a
   control that looks alive and does nothing.

   Text can drive a figure:  <a class="kd-set" data-set="layer=block3&embedding=ivis">block 3</a>
   and so can the address:   chapter.html#layer=block3&embedding=ivis                              */
(() => {
  "use strict";
  const STATE = "application/vnd.jupyter.widget-state+json";
  const here = document.currentScript.src.replace(/[^/]*$/, "");

  // ---- side-cars: fetch() is refused on file://, so each is a script that leaves a string behind
  const sidecars = (window.kdSidecars = window.kdSidecars || {});
  const loading = {};
  function sidecar(name) {
    loading[name] = loading[name] || new Promise((resolve, reject) => {
      if (name in sidecars) return resolve(sidecars[name]);
      const script = document.createElement("script");
      script.src = `${here}data/${name}.js`;
      script.onload = () => resolve(sidecars[name]);
      script.onerror = () => {
        delete loading[name]; // the next one who asks tries again
        script.remove();
        reject(new Error(`${script.src} is missing`));
      };
      document.head.append(script);
    });
    return loading[name];
  }
  function bytes(base64) { // with millions of them, a loop is many times as fast as Uint8Array.from
    const letters = atob(base64);
    const array = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) array[i] = letters.charCodeAt(i);
    return array;
  }

  async function inflate(array) {
    if (!window.DecompressionStream) throw new Error("This page needs a browser of 2023 or later.");
    const stream = new Blob([array]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // ---- a model as anywidget modules know it, with nobody at the other end
  class Model {
    constructor(state) {
      this.state = state;
      this.initial = { ...state };
      this.listeners = {};
    }
    get(key) { return this.state[key]; }
    set(key, value) {
      const changes = typeof key === "object" ? key : { [key]: value };
      const changed = Object.keys(changes).filter((k) => JSON.stringify(this.state[k]) !== JSON.stringify(changes[k]));
      Object.assign(this.state, changes);
      changed.forEach((k) => this.emit(`change:${k}`, this.state[k]));
      if (changed.length) this.emit("change");
    }
    emit(name, ...values) { (this.listeners[name] || []).slice().forEach((f) => f(this, ...values)); }
    on(names, listener) {
      names.split(" ").forEach((name) => (this.listeners[name] = this.listeners[name] || []).push(listener));
    }
    off(names, listener) {
      if (!names) this.listeners = {};
      else names.split(" ").forEach((name) => {
        this.listeners[name] = (this.listeners[name] || []).filter((f) => listener && f !== listener);
      });
    }
    save_changes() { if (this === figures[0]?.model) remember(this); }
    send() {}
  }

  const records = {}; // model id -> its state on the page
  const models = {}; // model id -> promise of its Model
  const figures = []; // {element, id, model}, in the order of the page

  function load(id) {
    models[id] = models[id] || (async () => {
      const { state, buffers = [] } = records[id];
      await Promise.all(buffers.map(async ({ path, data, src, deflated }) => {
        const read = async () => {
          const array = bytes(src ? await sidecar(src) : data);
          return new DataView((deflated ? await inflate(array) : array).buffer);
        };
        const owner = path.slice(0, -1).reduce((object, key) => object[key], state);
        owner[path[path.length - 1]] = path[0] === "parts" ? read : await read();
      }));
      for (const key of ["_esm", "_css"]) if (state[key]?.src) state[key] = await sidecar(state[key].src);
      return new Model(state);
    })();
    return models[id];
  }

  // ---- running the modules
  const modules = new Map();
  function module(source) {
    if (!modules.has(source)) {
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      modules.set(source, import(address).then(async ({ default: widget }) => (typeof widget === "function" ? widget() : widget)));
    }
    return modules.get(source);
  }
  const styled = new Set();
  function style(css) {
    if (!css || styled.has(css)) return;
    styled.add(css);
    document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  }
  async function show(figure) {
    const model = (figure.model = await load(figure.id));
    style(model.get("_css"));
    const widget = await module(model.get("_esm"));
    if (!model.ready) model.ready = Promise.resolve(widget.initialize?.({ model }));
    await model.ready;
    figure.element.textContent = "";
    await widget.render?.({ model, el: figure.element });
  }
  function mount(figure) {
    figure.done = figure.done || show(figure).catch((error) => {
      figure.element.textContent = `This figure could not start. ${error}`;
      console.error(error);
    }).finally(() => figure.element.removeAttribute("aria-busy"));
    return figure.done;
  }

  // ---- views as text: layer=block3&selected=3,14,15
  const shared = (state) => state.meta?.share || [];
  function typed(value, like) {
    if (Array.isArray(like)) return value.split(",").filter(Boolean).map(Number);
    return typeof like === "number" ? Number(value) : typeof like === "boolean" ? value === "true" : value;
  }
  function apply(model, text, before = {}) {
    const settings = [...new URLSearchParams(text)].filter(([key]) => shared(model.state).includes(key));
    model.set({ ...before, ...Object.fromEntries(settings.map(([key, value]) => [key, typed(value, model.get(key))])) });
  }
  function remember(model) {
    const text = shared(model.state)
      .map((key) => [key, String(model.get(key)), String(model.initial[key])])
      .filter(([, now, before]) => now !== before && now.length < 8000) // only what differs, and fits
      .map(([key, now]) => `${key}=${now.replace(/[&%+#\s]/g, encodeURIComponent)}`).join("&");
    try {
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    } catch { /* some browsers refuse many calls in a row; the next one will do */ }
  }
  const inAddress = () => (location.hash.includes("=") ? location.hash.slice(1) : "");
  /** Scroll to a figure of whose maps less than half is in view: to its start, or to the maps where both do not fit. */
  function intoView({ element }) {
    const maps = element.querySelector(".kd-panels") || element;
    const [from, { top, bottom }] = [element.getBoundingClientRect().top, maps.getBoundingClientRect()];
    const head = parseFloat(getComputedStyle(element).scrollMarginTop) || 0;
    if (Math.min(bottom, innerHeight) - Math.max(top, head) >= Math.min(bottom - top, innerHeight - head) / 2) return;
    const whole = bottom - from <= innerHeight - head;
    maps.style.scrollMarginTop = `${head}px`;
    const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    (whole ? element : maps).scrollIntoView({ behavior: smooth ? "smooth" : "auto", block: "start" });
  }
  async function follow(link) {
    // A link belongs to the last figure before it, or else to the first one of the page.
    const before = figures.filter(({ element }) => element.compareDocumentPosition(link) & Node.DOCUMENT_POSITION_FOLLOWING);
    const figure = before.pop() || figures[0];
    if (!figure) return;
    await mount(figure);
    apply(figure.model, link.dataset.set);
    figure.model.save_changes();
    intoView(figure);
  }
  function links() {
    for (const link of document.querySelectorAll(".kd-set[data-set]")) {
      link.tabIndex = 0;
      link.setAttribute("role", "button");
      link.addEventListener("click", (event) => { event.preventDefault(); follow(link); });
      link.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        follow(link);
      });
    }
  }

  // ---- the page
  function notes() {
    // What needs a kernel offers the places that the page's own menu knows: Binder, Colab.
    const places = [...document.querySelectorAll(".dropdown-launch-buttons a")];
    for (const note of document.querySelectorAll(".kd-note")) {
      note.append(...places.map((a) => Object.assign(document.createElement("a"), { href: a.href, textContent: a.textContent.trim() })));
    }
  }
  async function start() {
    for (const script of document.querySelectorAll(`script[type="${STATE}"]`)) Object.assign(records, JSON.parse(script.textContent).state);
    for (const element of document.querySelectorAll(".kd-figure")) figures.push({ element, id: element.dataset.model });
    notes();
    links();
    const observer = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
      if (!isIntersecting) return;
      observer.unobserve(target);
      mount(figures.find(({ element }) => element === target));
    }), { rootMargin: "600px" });
    figures.forEach(({ element }) => observer.observe(element));
    const view = async () => {
      if (!inAddress() || !figures.length) return;
      await mount(figures[0]);
      const { model } = figures[0];
      const before = Object.fromEntries(shared(model.state).map((key) => [key, model.initial[key]]));
      apply(model, inAddress(), before); // the address holds what differs from how the figure opens
      if (!/[#&]at=/.test(location.hash)) intoView(figures[0]); // editions.js goes to the section
    };
    addEventListener("hashchange", view);
    await view();
    if (document.readyState !== "complete") await new Promise((loaded) => addEventListener("load", loaded));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 200));
    for (const figure of figures) {
      await new Promise((free) => idle(free));
      await mount(figure); // all of them, so that a print has them
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
