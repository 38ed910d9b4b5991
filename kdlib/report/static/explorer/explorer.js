// The explorer: all parts together, and when each is drawn again.
//
// The scripts of this folder are one anywidget module without imports: explorer.py joins them. It runs
// in JupyterLab, talking to Python, and in the static book, without a kernel. All that the reader can
// change lives in the traits of explorer.py: left, right (runs), layer, embedding, epoch (of the film of
// training), measure, shade (what colours mean), selected (images), hidden (classes), names, brush, together,
// align, regions, overview. Where the maps are zoomed to is not among them.

const PASSAGE = 450; // milliseconds from one layer to the next

async function render({ model, el: root }) {
  const app = start(model, root);
  await app.open();
  root.classList.add("kd-explorer");
  const heads = SIDES.map((side) => networkSelect(app, side));
  const panels = SIDES.map((side) => panel(app, side));
  const embeddings = radio(app, "embedding", "Embedding", app.data.titles);
  const brush = radio(app, "brush", "Dragging", { box: "▭ box", lasso: "◌ lasso", move: "✥ move" });
  const [switches, depth, reel, classes, curves, small, words] =
    [options, depthSlider, film, legend, curve, overview, regionWords].map((part) => part(app));
  const [images, tip, large] = [selection, tooltip, card].map((part) => part(app, panels));
  const parts = [...heads, embeddings, brush, switches, depth, reel, classes, curves, small, images, large, words, ...panels];
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;
  let due = null; // the update to come once all traits that change together have changed

  app.draw = () => panels.forEach((panel) => panel.draw());
  app.point = (image, from = panels[0]) => {
    if (image === app.hover && (image < 0) === tip.element.hidden) return;
    app.hover = image;
    panels.forEach((panel) => panel.mark());
    tip.show(image, from);
  };
  /** Show an image large beside its dot; -1: none. */
  app.enlarge = (image) => {
    app.large = image;
    large.update();
    large.place(panels.find((panel) => panel.has(image)) || panels[0]);
    app.point(-1);
    panels.forEach((panel) => panel.mark());
  };
  let repaint = 0; // a frame that is asked for
  let rest = 0; // a timer: the zoom has come to rest
  const repaintAll = (rough) => panels.forEach((panel) => { panel.rough = rough; panel.paint(); });
  const zoomed = (chosen, change) => {
    chosen.forEach(change);
    if (app.hover >= 0) app.point(-1);
    repaint ||= requestAnimationFrame(() => {
      repaint = 0;
      repaintAll(app.good.regions);
      clearTimeout(rest);
      if (app.good.regions) rest = setTimeout(() => repaintAll(false), 150);
    });
  };
  /** Change the zoom of a map, and that of the other where they are zoomed together. */
  app.zoom = (self, change) => zoomed(app.good.together ? panels : [self], change);
  app.zoomOnto = (chosen) => zoomed([panels], (all) => zoomOnto(all, chosen, app.good.together));
  /** Move a map as far as an image is outside its frame. */
  app.reveal = (self, image) => {
    const place = self.place(image);
    if (!place || place.every((v) => v >= 0 && v <= self.canvas.width)) return;
    zoomed([self], () => { self.zoom = limited(self.zoom.factor, self.target[2 * image], self.target[2 * image + 1]); });
  };
  const update = () => {
    app.read();
    parts.forEach((part) => part.update());
  };
  /** Words, colours or the selection changed: no motion. */
  const settle = () => {
    update();
    app.draw();
  };
  /** The maps changed: every image travels to its new place, so the eye can follow it. */
  const travel = () => {
    app.point(-1);
    app.read();
    const maps = app.maps();
    panels.forEach((panel) => panel.retarget(maps[panel.side]));
    update();
    cancelAnimationFrame(frame);
    const begin = performance.now();
    const step = (now) => {
      const t = still.matches ? 1 : Math.min(1, Math.max(0, (now - begin) / PASSAGE));
      panels.forEach((panel) => panel.advance(t * t * (3 - 2 * t)));
      panels.forEach((panel) => panel.paint());
      if (t < 1) frame = requestAnimationFrame(step);
      root.dataset.moving = String(t < 1 || SIDES.some((side) => app.pending[side]));
    };
    panels.forEach((panel) => panel.sort());
    step(begin);
  };
  const soon = (action) => {
    if (!due) queueMicrotask(() => { const now = due; due = null; now(); });
    if (due !== travel) due = action;
  };
  app.changed = () => soon(settle);
  app.moved = () => soon(travel);
  const first = Object.fromEntries(app.data.share.map((key) => [key, model.get(key)]));
  app.reset = () => {
    depth.stop();
    reel.stop();
    zoomed(panels, zoomOut);
    app.enlarge(-1);
    model.set(first);
    model.save_changes();
    app.changed();
  };
  /** Colours of text and paper, from whichever theme is around us. */
  const restyle = () => {
    const style = getComputedStyle(root);
    const [text, paper] = ["--kd-text", "--kd-paper"].map((name) => style.getPropertyValue(name));
    const pen = make("canvas", { width: 1, height: 1 }).getContext("2d");
    pen.fillStyle = paper;
    pen.fillRect(0, 0, 1, 1);
    app.ink = { text, paper, pixel: new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0] };
    panels.forEach((panel) => panel.paint());
    small.update();
  };

  root.append(
    make("div", { className: "kd-top" }, heads[0].element, heads[1].element),
    make("div", { className: "kd-keys" }, embeddings.element, brush.element, switches.element, classes.element),
    make("div", { className: "kd-panels" }, ...panels.map((each) => each.element)),
    words.element, make("div", { className: "kd-below" }, curves.element, depth.element, small.element, reel.element),
    images.element, tip.element, large.element);
  if (app.sheet) {
    app.picture = Object.assign(new Image(), { src: app.sheet });
    app.picture.decode().then(() => panels.forEach((panel) => panel.paint()), () => { app.picture = null; });
  }
  restyle();
  travel();
  const escape = (event) => event.key === "Escape" && app.large >= 0 && app.enlarge(-1);
  root.addEventListener("keydown", escape);
  const outside = ({ target }) => { // a phone has no Escape, and no room to look past the card
    const own = [large.element, ...panels.map(({ canvas }) => canvas)].some((element) => element.contains(target));
    if (app.large >= 0 && !own && isNarrow(app)) app.enlarge(-1);
  };
  document.addEventListener("pointerdown", outside);
  const themes = new MutationObserver(restyle);
  for (const node of [document.documentElement, document.body]) {
    themes.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] });
  }
  const paper = window.matchMedia("print"); // is white, in a dark theme, too
  paper.addEventListener("change", restyle);
  const sizes = new ResizeObserver(() => { // also the moment JupyterLab puts us on the page
    curves.update();
    restyle();
  });
  sizes.observe(root);
  const moving = ["left", "right", "layer", "embedding", "epoch", "align"];
  const turned = () => (app.good.align ? app.moved : app.changed)(); // the selection settles how maps are turned
  const events = app.data.share.map((key) => [`change:${key}`, moving.includes(key) ? app.moved
    : ["selected", "hidden"].includes(key) ? turned : app.changed]);
  events.forEach(([name, action]) => model.on(name, action));
  root.dataset.ready = "true";
  return () => {
    events.forEach(([name, action]) => model.off(name, action));
    depth.stop();
    reel.stop();
    root.removeEventListener("keydown", escape);
    document.removeEventListener("pointerdown", outside);
    themes.disconnect();
    paper.removeEventListener("change", restyle);
    sizes.disconnect();
    cancelAnimationFrame(frame);
    cancelAnimationFrame(repaint);
    clearTimeout(rest);
    panels.forEach((panel) => panel.release());
    URL.revokeObjectURL(app.sheet);
  };
}

export default { render };
