// The explorer: two networks side by side, one dot per image, any layer. Selections link by image.
//
// An anywidget module without imports. The same file runs in JupyterLab, talking to Python, and in
// the static book, without a kernel. What the reader can change lives in the traits of widgets.py,
// under the names people use: left, right (run ids), layer, embedding, measure, shade (what colours
// mean), selected (images).

const MISSING = -32768; // the int16 that says "no coordinate here"; widgets.py knows it, too
const PASSAGE = 450; // milliseconds from one layer to the next
const MANY = 20; // classes, from which on names would cover the maps
const UNKNOWN = 255; // the error of a dot that was not measured
const SIDES = ["left", "right"];
const EMBEDDING = { tsne: "t-SNE", ivis: "IVIS", umap: "UMAP", pca: "PCA" };

// Petroff 2021 (arXiv 2107.02270): ten colours that keep apart with any colour vision. After ten
// classes the colours come again with the next shape.
const COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
                 "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const SHAPES = ["circle", "square", "triangle", "diamond"];
const SHADES = ["#3f90da", "#92dadd", "#b9ac70", "#ffa90e", "#bd1f01"]; // of few to many lost neighbours
const colour = (c) => COLOURS[c % COLOURS.length];
const shape = (c) => SHAPES[Math.floor(c / COLOURS.length) % SHAPES.length];

const percent = (v) => `${(100 * v).toFixed(1)} %`;
const thousands = (v) => v.toLocaleString("en");
const size = (v) => (v >= 1e6 ? `${(v / 1e6).toFixed(1)} M` : v >= 1e3 ? `${Math.round(v / 1e3)} k` : `${v}`);
const fixed = (v) => (v == null ? "–" : v.toFixed(2));

// ---- document

/** Make an element: properties by name, "on..." as listeners, "aria-..." and such as attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.includes("-") && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** The same for SVG, attributes only. */
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// ---- data

/** Bytes arrive as a DataView that need not be aligned, so copy before casting. */
function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}

function decode(model) {
  const meta = model.get("meta");
  const coordinates = new Int16Array(bytes(model.get("coordinates")).buffer);
  const predictions = new Int16Array(bytes(model.get("predictions")).buffer);
  const labels = new Int16Array(bytes(model.get("labels")).buffer);
  const errors = bytes(model.get("errors"));
  const [E, L, block] = [meta.embeddings.length, meta.layers.length, meta.n * 2];
  return {
    ...meta,
    labels,
    allowed: {
      left: meta.networks.map((network) => network.run),
      right: meta.networks.map((network) => network.run),
      layer: meta.layers,
      embedding: meta.embeddings,
      measure: meta.measures.map((measure) => measure.key),
      shade: meta.shades,
    },
    map(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * block;
      return coordinates.subarray(start, start + block);
    },
    errors(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * meta.n;
      return errors.subarray(start, start + meta.n);
    },
    guess: (network, image) => predictions[network * meta.n + image],
    wrong: (network, image) => predictions[network * meta.n + image] !== labels[image],
  };
}

/** Everything the parts share: the data, the view by position, and how to change it. */
function start(model, root) {
  const data = decode(model);
  const app = {
    model, root, data,
    hidden: new Set(), // classes switched off in the legend
    selected: new Set(), // images
    hover: -1, // an image
    pointed: -1, // a class, while the pointer is on it in the legend
    names: data.classes.length <= MANY, // class names on the maps
    sheet: null, // address of the sprite
    good: {}, // the last value of each trait that made sense
  };
  for (const key of Object.keys(data.allowed)) app.good[key] = data.allowed[key][0];
  app.at = (key) => data.allowed[key].indexOf(app.good[key]);
  app.network = (side) => data.networks[app.at(side)];
  app.set = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };
  app.step = (by) => {
    const to = Math.max(0, Math.min(data.layers.length - 1, app.at("layer") + by));
    app.set("layer", data.layers[to]);
  };
  app.select = (images) => app.set("selected", [...images].sort((a, b) => a - b));
  // Take over what the model says, and refuse what cannot be (a mistyped link, for instance).
  app.read = () => {
    for (const [key, allowed] of Object.entries(data.allowed)) {
      if (allowed.includes(model.get(key))) app.good[key] = model.get(key);
      else model.set(key, app.good[key]);
    }
    const inside = (i) => Number.isInteger(i) && i >= 0 && i < data.n;
    app.selected = new Set((model.get("selected") || []).filter(inside));
  };
  app.sheet = URL.createObjectURL(new Blob([bytes(model.get("sprite"))], { type: "image/webp" }));
  return app;
}

// ---- controls

function networkSelect(app, side) {
  const groups = new Map();
  for (const network of app.data.networks) {
    if (!groups.has(network.group)) groups.set(network.group, make("optgroup", { label: network.group }));
    groups.get(network.group).append(make("option", { value: network.run }, network.name));
  }
  const select = make("select", { "aria-label": `Network on the ${side}`,
    onchange: () => app.set(side, select.value) }, ...groups.values());
  const accuracy = make("span", { className: "kd-muted" });
  return {
    element: make("div", { className: `kd-who kd-${side}` }, make("i", { className: "kd-mark" }), select, accuracy),
    update() {
      const network = app.network(side);
      select.value = network.run;
      accuracy.replaceChildren(make("b", {}, percent(network.accuracy)), ` test accuracy · ${size(network.parameters)} parameters`);
    },
  };
}

/** A row of buttons of which one is on; arrow keys move along it, as in any radio group. */
function embeddingSwitch(app) {
  const buttons = app.data.embeddings.map((name) => make("button", { type: "button", role: "radio",
    onclick: () => app.set("embedding", name) }, EMBEDDING[name] || name));
  const element = make("div", { className: "kd-switch", role: "radiogroup", "aria-label": "Embedding" }, ...buttons);
  element.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = (app.at("embedding") + by + buttons.length) % buttons.length;
    app.set("embedding", app.data.embeddings[next]);
    buttons[next].focus();
  });
  return {
    element,
    update() {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === app.at("embedding")));
        button.tabIndex = i === app.at("embedding") ? 0 : -1;
      });
    },
  };
}

/** Slider, layer names and play button. One step a second, and it stops at the end. */
function depthSlider(app) {
  const { layers } = app.data;
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play through the layers");
  };
  const go = () => {
    if (app.at("layer") === layers.length - 1) app.set("layer", layers[0]);
    timer = setInterval(() => {
      app.step(1);
      if (app.at("layer") === layers.length - 1) stop();
    }, 1100);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Stop");
  };
  const play = make("button", { type: "button", className: "kd-play", title: "Play through the layers",
    onclick: () => (timer ? stop() : go()) });
  const choose = (i) => { stop(); app.set("layer", layers[i]); };
  const slider = make("input", { type: "range", min: 0, max: layers.length - 1, step: 1, "aria-label": "Layer",
    oninput: () => choose(+slider.value) });
  const ticks = layers.map((name, i) => make("button", { type: "button", tabIndex: -1, onclick: () => choose(i) }, name));
  stop();
  return {
    element: make("div", { className: "kd-depth", style: `--n:${layers.length}` }, play,
      make("div", { className: "kd-track" }, slider, make("div", { className: "kd-ticks" }, ...ticks))),
    update() {
      const now = app.at("layer");
      slider.value = now;
      slider.setAttribute("aria-valuetext", layers[now]);
      ticks.forEach((tick, i) => tick.classList.toggle("kd-on", i === now));
    },
    stop,
  };
}

function legend(app) {
  const { classes, labels, n } = app.data;
  const toggle = (c) => (app.hidden.has(c) ? app.hidden.delete(c) : app.hidden.add(c));
  const members = (c) => Array.from({ length: n }, (_, i) => i).filter((i) => labels[i] === c);
  const point = (c) => { app.pointed = c; app.draw(); };
  const buttons = classes.map((name, c) => {
    const icon = svg("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12, "aria-hidden": "true" },
      svg("path", { d: outline(shape(c), 4.6), fill: colour(c) }));
    const button = make("button", { type: "button", "aria-pressed": "true",
      title: `${name}: click to hide or show, Shift + click to select all`,
      onclick: (event) => {
        if (event.shiftKey) return app.select(members(c));
        toggle(c);
        button.setAttribute("aria-pressed", String(!app.hidden.has(c)));
        app.draw();
      },
      onpointerenter: () => point(c), onpointerleave: () => point(-1) }, icon, name);
    return button;
  });
  const names = make("input", { type: "checkbox", checked: app.names,
    onchange: () => { app.names = names.checked; app.draw(); } });
  const shade = make("select", { "aria-label": "What colours mean", onchange: () => app.set("shade", shade.value) },
    make("option", { value: "class" }, "class"), make("option", { value: "error" }, "neighbours lost"));
  const ramp = make("span", { className: "kd-key" }, "none", ...SHADES.map((fill) =>
    make("i", { className: "kd-shade", style: `background:${fill}` })), "all");
  return {
    element: make("div", { className: "kd-legend", role: "group", "aria-label": "Classes" },
      ...(app.data.shades.length > 1 ? [make("label", { className: "kd-muted" }, "colour ", shade), ramp] : [make("span", { className: "kd-muted" }, "class")]),
      ...buttons, make("span", { className: "kd-key" }, make("i", { className: "kd-ring" }), "misclassified"),
      make("label", { className: "kd-key" }, names, "names")),
    update() {
      shade.value = app.good.shade;
      ramp.hidden = app.good.shade !== "error";
    },
    clear() {
      app.hidden.clear();
      app.names = names.checked = classes.length <= MANY;
      buttons.forEach((button) => button.setAttribute("aria-pressed", "true"));
    },
  };
}

// ---- maps

/** The outline of a shape around 0, 0 as an SVG path; canvas and legend draw the same one. */
function outline(name, r) {
  if (name === "square") return `M${-r * 0.85},${-r * 0.85}H${r * 0.85}V${r * 0.85}H${-r * 0.85}Z`;
  if (name === "triangle") return `M0,${-r * 1.15}L${r * 1.05},${r * 0.8}H${-r * 1.05}Z`;
  if (name === "diamond") return `M0,${-r * 1.2}L${r * 1.2},0L0,${r * 1.2}L${-r * 1.2},0Z`;
  return `M${-r},0A${r},${r} 0 1 1 ${r},0A${r},${r} 0 1 1 ${-r},0Z`;
}

/** One drawn dot per class, right and wrong: copying it is much faster than drawing each dot. */
function stamps(app, r, ink) {
  const key = `${r} ${ink}`;
  if (app.stamps?.key === key) return app.stamps;
  const stamp = (fill, kind, wrong) => {
    const canvas = make("canvas", { width: Math.ceil(r * 4), height: Math.ceil(r * 4) });
    const pen = canvas.getContext("2d");
    pen.translate(canvas.width / 2, canvas.height / 2);
    const path = new Path2D(outline(kind, r));
    pen.fillStyle = fill;
    pen.fill(path);
    pen.strokeStyle = ink;
    pen.lineWidth = Math.max(1, r * 0.34);
    if (wrong) pen.stroke(path);
    return canvas;
  };
  const all = (wrong) => app.data.classes.map((_, c) => stamp(colour(c), shape(c), wrong));
  const shades = (wrong) => [...SHADES, "#888"].map((fill) => stamp(fill, "circle", wrong));
  app.stamps = { key, half: Math.ceil(r * 4) / 2,
    class: { right: all(false), wrong: all(true) }, error: { right: shades(false), wrong: shades(true) } };
  return app.stamps;
}

/** Coordinates on their way from where they are to where they shall be. */
function passage(before, to) {
  const from = before ? before.now.slice() : Float32Array.from(to);
  const now = from.slice();
  const advance = (t) => {
    for (let i = 0; i < to.length; i++) {
      const jump = from[i] <= MISSING || to[i] <= MISSING; // what has no place at one end jumps
      now[i] = jump ? to[i] : from[i] + (to[i] - from[i]) * t;
    }
  };
  return { now, advance };
}

/** The median of each class on a map, MISSING for a class without dots. */
function medians({ classes, labels }, map) {
  const values = classes.map(() => [[], []]);
  labels.forEach((c, i) => {
    if (c < 0 || map[2 * i] <= MISSING) return;
    values[c][0].push(map[2 * i]);
    values[c][1].push(map[2 * i + 1]);
  });
  return values.flat().map((v) => (v.length ? v.sort((a, b) => a - b)[v.length >> 1] : MISSING));
}

function onScreen({ width }, x, y) {
  if (x <= MISSING || y <= MISSING) return null;
  const margin = width * 0.035;
  const scale = (width - 2 * margin) / 65534;
  return [margin + (x + 32767) * scale, margin + (32767 - y) * scale];
}

function panel(app, side) {
  const { data } = app;
  const canvas = make("canvas", { tabIndex: 0, role: "img" });
  const trust = make("p", { className: "kd-trust" });
  const self = {
    side, canvas,
    element: make("figure", { className: `kd-panel kd-${side}` }, canvas, trust),
    base: make("canvas"), // dots and names; rings and boxes are drawn over a copy of it
    dots: null, // a Passage of the images' coordinates
    middles: null, // a Passage of the classes' medians, where their names stand
    box: null, // the box being dragged
    update() {
      const [network, layer] = [app.network(side), app.at("layer")];
      const kind = EMBEDDING[app.good.embedding] || app.good.embedding;
      const faith = data.faithfulness[app.at(side)][app.at("embedding")][layer];
      trust.replaceChildren(...trustWords(kind, faith));
      self.element.classList.toggle("kd-adrift", faith.noise_floor > 0.5);
      canvas.setAttribute("aria-label", `${kind} map of ${data.n} images at ${data.layers[layer]} of ${network.name}. `
        + "Left and right arrow: layer. Up and down arrow: image by image. Escape: clear the selection.");
    },
    retarget() {
      const to = data.map(app.at(side), app.at("embedding"), app.at("layer"));
      self.dots = passage(self.dots, to);
      self.middles = passage(self.middles, medians(data, to));
    },
    advance(t) {
      self.dots.advance(t);
      self.middles.advance(t);
    },
    /** Screen place of an image, or null where it has none. */
    place: (i) => onScreen(canvas, self.dots.now[2 * i], self.dots.now[2 * i + 1]),
    draw() {
      drawDots(app, self);
      self.mark();
    },
    mark: () => drawMarks(app, self),
  };
  listen(app, self);
  return self;
}

/** Say how far to trust a map: a word from the two numbers, then the numbers. */
function trustWords(kind, { trustworthiness: trust, neighbours_kept: kept, noise_floor: floor }) {
  if (trust == null) return [`${kind} map; its faithfulness was not measured.`];
  const grade = Math.min(trust >= 0.95 ? 2 : trust >= 0.85 ? 1 : 0, kept == null ? 2 : kept >= 0.4 ? 2 : kept >= 0.15 ? 1 : 0);
  const word = ["Poor map", "Fair map", "Good map"][grade];
  const advice = ["read the numbers, not the picture", "read groups, not single dots", "near here is mostly near in the layer"][grade];
  const numbers = `trustworthiness ${fixed(trust)}` + (kept == null ? "" : `, keeps ${Math.round(100 * kept)} % of neighbours`)
    + (floor == null ? "" : `, noise floor ${fixed(floor)}`);
  return [make("span", { className: `kd-grade kd-grade-${grade}`, "aria-hidden": "true" }, "●".repeat(grade + 1), "○".repeat(2 - grade)),
    make("b", {}, `${word}: `), `${advice}. `, make("span", { className: "kd-muted" }, `${numbers}.`),
    ...(floor > 0.5 ? [make("b", { className: "kd-nothing" }, " Movement here means nothing: "), `drawn again, images lie ${fixed(floor)} of the map's width away.`] : [])];
}

/** Size a canvas to the pixels of the screen; false while it is not on the page. */
function fit(canvas, base) {
  const w = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (w && canvas.width !== w) canvas.width = canvas.height = w;
  if (w && base.width !== w) base.width = base.height = w;
  return w > 0;
}

function dotSize({ n }, width) {
  return Math.max(1.6 * (window.devicePixelRatio || 1), width / (n > 2500 ? 170 : n > 700 ? 125 : 90));
}

function drawDots(app, self) {
  const { data, selected, hidden, pointed } = app;
  if (!fit(self.canvas, self.base) || !self.dots) return;
  const { base } = self;
  const pen = base.getContext("2d");
  const { [app.good.shade]: { right, wrong }, half } = stamps(app, dotSize(data, base.width), app.ink.text);
  const network = app.at(self.side);
  const errors = app.good.shade === "error" && data.errors(network, app.at("embedding"), app.at("layer"));
  const level = (e) => (e === UNKNOWN ? SHADES.length : Math.floor((e * SHADES.length) / UNKNOWN));
  const which = (i) => (errors ? level(errors[i]) : data.labels[i]);
  // Faded dots first, misclassified ones last, so that what matters is never covered.
  const passes = [[], [], []];
  for (let i = 0; i < data.n; i++) {
    const c = data.labels[i];
    if (c < 0 || hidden.has(c)) continue;
    const bright = (!selected.size || selected.has(i)) && (pointed < 0 || c === pointed);
    passes[!bright ? 0 : data.wrong(network, i) ? 2 : 1].push(i);
  }
  pen.clearRect(0, 0, base.width, base.width);
  let drawn = 0;
  passes.forEach((images, pass) => {
    pen.globalAlpha = pass ? 0.9 : 0.13;
    for (const i of images) {
      const xy = self.place(i);
      if (!xy) continue;
      const stamp = pass === 2 || (!pass && data.wrong(network, i)) ? wrong : right;
      pen.drawImage(stamp[which(i)], xy[0] - half, xy[1] - half);
      drawn++;
    }
  });
  pen.globalAlpha = 1;
  if (!drawn) message(app, pen, hidden.size ? "these classes are hidden" : "no map of this layer was stored");
  else if (app.names || pointed >= 0) classNames(app, self, pen);
}

function message(app, pen, words) {
  const w = pen.canvas.width;
  pen.fillStyle = app.ink.text;
  pen.font = `${w / 26}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.fillText(words, w / 2, w / 2);
}

/** Each class's name at the median of its dots: the second cue beside the colour. */
function classNames(app, { canvas, middles }, pen) {
  const { classes } = app.data;
  const pixels = window.devicePixelRatio || 1;
  const em = pixels * (canvas.clientWidth < 260 ? 10 : 12.5);
  pen.font = `700 ${em}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 1.6 * pixels;
  classes.forEach((name, c) => {
    const xy = onScreen(canvas, middles.now[2 * c], middles.now[2 * c + 1]);
    if (!xy || app.hidden.has(c) || (app.pointed >= 0 && app.pointed !== c)) return;
    const words = name.length > 12 ? `${name.slice(0, 11)}…` : name;
    const [w, h] = [pen.measureText(words).width + em * 0.7, em * 1.35];
    pen.beginPath();
    pen.roundRect(xy[0] - w / 2, xy[1] - h / 2, w, h, h / 3);
    pen.fillStyle = app.ink.paper;
    pen.globalAlpha = 0.88;
    pen.fill();
    pen.globalAlpha = 1;
    pen.strokeStyle = colour(c);
    pen.stroke();
    pen.fillStyle = app.ink.text;
    pen.fillText(words, xy[0], xy[1] + em * 0.06);
  });
}

/** The drawn dots, and over them the ring of the hovered image and the box being dragged. */
function drawMarks(app, { canvas, base, box, place }) {
  if (!base.width) return;
  const pen = canvas.getContext("2d");
  const r = dotSize(app.data, canvas.width);
  pen.clearRect(0, 0, canvas.width, canvas.width);
  pen.drawImage(base, 0, 0);
  pen.strokeStyle = app.ink.text;
  const xy = app.hover >= 0 && place(app.hover);
  if (xy) {
    pen.lineWidth = r * 0.55;
    pen.beginPath();
    pen.arc(xy[0], xy[1], r * 2.3, 0, 2 * Math.PI);
    pen.stroke();
  }
  if (box) {
    pen.lineWidth = 1;
    pen.setLineDash([5, 4]);
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([]);
  }
}

/** Pointer and keyboard on a map. */
function listen(app, self) {
  const { canvas } = self;
  const { data } = app;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const visible = (i) => !app.hidden.has(data.labels[i]) && self.place(i);
  const nearest = ([x, y]) => {
    let [best, found] = [(canvas.width / 28) ** 2, -1];
    for (let i = 0; i < data.n; i++) {
      const xy = visible(i);
      const distance = xy ? (xy[0] - x) ** 2 + (xy[1] - y) ** 2 : Infinity;
      if (distance < best) [best, found] = [distance, i];
    }
    return found;
  };
  const inside = ([ax, ay, bx, by]) => {
    const found = [];
    for (let i = 0; i < data.n; i++) {
      const xy = visible(i);
      const between = (v, a, b) => v >= Math.min(a, b) && v <= Math.max(a, b);
      if (xy && between(xy[0], ax, bx) && between(xy[1], ay, by)) found.push(i);
    }
    return found;
  };
  let kept = []; // with Shift, a box adds to what was selected before it
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    self.box = [...at(event), ...at(event)];
    kept = event.shiftKey ? [...app.selected] : [];
    canvas.setPointerCapture(event.pointerId);
    app.point(-1);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!self.box) return app.point(nearest(at(event)), self);
    self.box.splice(2, 2, ...at(event));
    app.selected = new Set([...kept, ...inside(self.box)]); // while dragging, not yet in the model
    app.draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!self.box) return;
    const [ax, ay, bx, by] = self.box;
    const clicked = Math.hypot(bx - ax, by - ay) < 5 * (window.devicePixelRatio || 1);
    const one = nearest(at(event));
    const found = clicked ? (one < 0 ? [] : [one]) : inside(self.box);
    self.box = null;
    app.select(new Set([...kept, ...found]));
    app.changed(); // the model stays silent if the selection is the one it had
  });
  canvas.addEventListener("pointercancel", () => { self.box = null; app.changed(); });
  canvas.addEventListener("pointerleave", () => self.box || app.point(-1));
  canvas.addEventListener("blur", () => app.point(-1));
  canvas.addEventListener("keydown", (event) => {
    const browse = (by) => {
      const list = (app.selected.size ? [...app.selected] : [...data.labels.keys()]).filter(visible);
      const next = list.indexOf(app.hover) + by;
      if (list.length) app.point(list[(next + list.length) % list.length], self);
    };
    const action = {
      ArrowLeft: () => app.step(-1), ArrowRight: () => app.step(1),
      ArrowDown: () => browse(1), ArrowUp: () => browse(app.hover < 0 ? 0 : -1),
      Escape: () => { app.point(-1); app.select([]); },
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// ---- curve

/** The measure layer by layer, for both networks; a click on a layer goes there. */
function curve(app) {
  const { data } = app;
  const gutter = 44; // the play button below has the same width, so columns and slider line up
  const height = 132;
  const picture = svg("svg", { class: "kd-curve", role: "img", height });
  picture.addEventListener("click", (event) => {
    const i = event.target.dataset?.layer;
    if (i !== undefined) app.set("layer", data.layers[+i]);
  });
  const select = make("select", { "aria-label": "Measure of the curve", onchange: () => app.set("measure", select.value) },
    ...data.measures.map(({ key, name }) => make("option", { value: key }, name)));
  const hint = make("span", { className: "kd-muted" });
  const summary = make("span", { className: "kd-summary", "aria-live": "polite" });

  function scales() {
    const all = data.curves[app.good.measure].flatMap((c) => [...c.values, ...c.low, ...c.high]).filter((v) => v != null);
    const [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    const step = [0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find((s) => (high - low) / s <= 4) || (high - low) / 4;
    const [from, to] = [Math.floor(low / step) * step, Math.ceil(high / step) * step || step];
    const ticks = Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step);
    const width = picture.clientWidth || 600;
    const column = (width - gutter) / data.layers.length;
    return { ticks, width, column,
      x: (i) => gutter + (i + 0.5) * column,
      y: (v) => 12 + (1 - (v - from) / (to - from)) * (height - 24) };
  }
  /** A path through the layers that have a value. */
  const path = (values, { x, y }) => values.map((v, i) => (v == null ? "" : `${x(i)},${y(v)}`)).filter(Boolean).join(" ");

  function side(name, scale) {
    const { values, low, high, seeds } = data.curves[app.good.measure][app.at(name)];
    const group = svg("g", { class: `kd-${name}` });
    if (seeds > 1) {
      const edge = `${path(low, scale)} ${path(high, scale).split(" ").reverse().join(" ")}`;
      group.append(svg("polygon", { class: "kd-band", points: edge }));
    }
    group.append(svg("polyline", { points: path(values, scale) }));
    values.forEach((v, i) => v != null && group.append(svg("circle", {
      cx: scale.x(i), cy: scale.y(v), r: i === app.at("layer") ? 5 : 2.6 })));
    return group;
  }
  /** Numbers at the current layer and names at the end, pushed apart where they would meet. */
  function words(scale) {
    const [a, b] = SIDES.map((s) => data.curves[app.good.measure][app.at(s)].values);
    const group = svg("g");
    const write = (name, x, y, anchor, text) =>
      group.append(svg("text", { x, y, "text-anchor": anchor, class: `kd-word kd-${name}` }, text));
    const now = app.at("layer");
    const end = data.layers.length - 1;
    const above = (i) => (a[i] ?? 0) > (b[i] ?? 0) ? { left: -10, right: 18 } : { left: 18, right: -10 };
    for (const [s, values] of [["left", a], ["right", b]]) {
      if (values[now] != null) {
        write(s, scale.x(now), Math.max(10, Math.min(height - 2, scale.y(values[now]) + above(now)[s])), "middle", fixed(values[now]));
      }
      const apart = Math.abs(scale.y(a[end] ?? 0) - scale.y(b[end] ?? 0)) < 13 ? above(end)[s] / 2.2 : 0;
      if (values[end] != null && scale.column > 80) write(s, scale.x(end) + 10, scale.y(values[end]) + 4 + apart, "start", app.network(s).short);
    }
    return group;
  }
  return {
    element: make("div", { className: "kd-curves" },
      make("div", { className: "kd-curve-head" }, make("label", {}, select), hint, summary), picture),
    update() {
      const scale = scales();
      const measure = data.measures[app.at("measure")];
      select.value = measure.key;
      hint.textContent = measure.hint;
      const grid = scale.ticks.map((v) => [
        svg("line", { class: "kd-grid", x1: gutter, x2: scale.width, y1: scale.y(v), y2: scale.y(v) }),
        svg("text", { class: "kd-axis", x: gutter - 8, y: scale.y(v) + 4, "text-anchor": "end" }, `${+v.toFixed(2)}`)]);
      const here = svg("rect", { class: "kd-here", x: gutter + app.at("layer") * scale.column, y: 0, width: scale.column, height, rx: 6 });
      const targets = data.layers.map((name, i) => svg("rect", { class: "kd-target", "data-layer": i, y: 0, height,
        x: gutter + i * scale.column, width: scale.column }, svg("title", {}, `go to ${name}`)));
      picture.replaceChildren(here, ...grid.flat(), ...SIDES.map((s) => side(s, scale)), words(scale), ...targets);
      const [a, b] = SIDES.map((s) => data.curves[measure.key][app.at(s)].values);
      const [u, v] = [a[app.at("layer")], b[app.at("layer")]];
      const gap = u == null || v == null ? "" : ` (${v >= u ? "+" : "−"}${Math.abs(v - u).toFixed(2)})`;
      const say = (s, value) => make("b", { className: `kd-${s}` }, `${app.network(s).short} ${fixed(value)}`);
      summary.replaceChildren(`${app.good.layer}: `, say("left", u), ", ", say("right", v), gap);
      picture.setAttribute("aria-label", `${measure.name} at ${data.layers.join(", ")}. ` + SIDES.map((s, i) =>
        `${app.network(s).name}: ${[a, b][i].map(fixed).join(", ")}`).join(". "));
    },
  };
}

// ---- images

function thumbnail(app, image, zoom) {
  const [w, h, columns] = app.data.tile;
  return make("span", { className: "kd-thumb", style: `width:${w * zoom}px;height:${h * zoom}px;`
    + `background:url(${app.sheet}) -${(image % columns) * w * zoom}px -${Math.floor(image / columns) * h * zoom}px`
    + ` / ${w * columns * zoom}px auto;image-rendering:${w < 24 ? "pixelated" : "auto"}` });
}

/** What a hovered image is, and what both networks take it for. */
function tooltip(app) {
  const { data } = app;
  const element = make("div", { className: "kd-tip", hidden: true, role: "status" });
  const verdict = (side, image) => {
    const guess = data.guess(app.at(side), image);
    const bad = data.wrong(app.at(side), image);
    return make("div", { className: `kd-who kd-${side}` }, make("i", { className: "kd-mark" }),
      `${app.network(side).short}: `, make("b", { className: bad ? "kd-bad" : "" }, `${data.classes[guess] ?? "?"} ${bad ? "✗" : "✓"}`));
  };
  return {
    element,
    show(image, from) {
      element.hidden = image < 0 || !from?.place(image);
      if (element.hidden) return;
      const zoom = Math.max(1, Math.round(72 / Math.max(...data.tile.slice(0, 2))));
      element.replaceChildren(thumbnail(app, image, zoom), make("div", {}, make("div", {},
        "class ", make("b", {}, data.classes[data.labels[image]] ?? "?")),
        ...SIDES.map((s) => verdict(s, image)), make("div", { className: "kd-muted" }, `image ${image}`)));
      const [outer, inner] = [app.root.getBoundingClientRect(), from.canvas.getBoundingClientRect()];
      const [x, y] = from.place(image).map((v) => v * (inner.width / from.canvas.width));
      const [left, top] = [inner.left - outer.left + x, inner.top - outer.top + y];
      const flip = left + 20 + element.offsetWidth > outer.width;
      const beside = flip ? left - 16 - element.offsetWidth : left + 16;
      element.style.left = `${Math.max(4, beside)}px`;
      element.style.top = `${Math.max(4, top - element.offsetHeight / 2)}px`;
    },
  };
}

/** The selected images, and how many of them each network gets wrong. */
function selection(app) {
  const { data } = app;
  const most = 60;
  const differ = (badSide, goodSide) => [...data.labels.keys()].filter(
    (i) => data.wrong(app.at(badSide), i) && !data.wrong(app.at(goodSide), i));
  const fixedBy = make("button", { type: "button", onclick: () => app.select(differ("left", "right")),
    title: "Select what the left network gets wrong and the right one right" });
  const lostBy = make("button", { type: "button", onclick: () => app.select(differ("right", "left")),
    title: "Select what the left network gets right and the right one wrong" });
  const reset = make("button", { type: "button", onclick: () => app.reset() }, "Reset");
  const count = make("p", { className: "kd-count", "aria-live": "polite" });
  const strip = make("div", { className: "kd-strip" });
  const one = (i) => {
    const thumb = thumbnail(app, i, Math.max(1, Math.round(32 / data.tile[0])));
    const marks = SIDES.map((s) => make("i", { className: data.wrong(app.at(s), i) ? "kd-bad" : "" }));
    const said = SIDES.map((s) => `${app.network(s).short} says ${data.classes[data.guess(app.at(s), i)] ?? "?"}`).join(", ");
    return make("span", { className: "kd-item", title: `image ${i}, class ${data.classes[data.labels[i]]}: ${said}`,
      onpointerenter: () => app.point(i), onpointerleave: () => app.point(-1) }, thumb, make("span", { className: "kd-marks" }, ...marks));
  };
  return {
    element: make("div", { className: "kd-selection" },
      make("div", { className: "kd-actions" }, fixedBy, lostBy, reset), count, strip),
    update() {
      const [a, b] = SIDES.map(app.network);
      const [won, lost] = a.kind === "alone" && b.kind === "distilled"
        ? ["distillation puts right", "distillation gets newly wrong"]
        : a.short !== b.short ? [`only ${b.short} is right`, `only ${a.short} is right`] : ["only right-hand is right", "only left-hand is right"];
      fixedBy.textContent = `${won}: ${differ("left", "right").length}`;
      lostBy.textContent = `${lost}: ${differ("right", "left").length}`;
      const images = [...app.selected].sort((i, j) => data.labels[i] - data.labels[j] || i - j);
      const bad = (s) => images.filter((i) => data.wrong(app.at(s), i)).length;
      count.textContent = images.length
        ? `${thousands(images.length)} of ${thousands(data.n)} images selected; wrong: ${bad("left")} left, ${bad("right")} right`
        : "Drag a box over either map to follow those images through both networks; hover over a dot to see its image.";
      strip.replaceChildren(...images.slice(0, most).map(one));
      if (images.length > most) strip.append(make("span", { className: "kd-muted" }, `and ${thousands(images.length - most)} more`));
    },
  };
}

// ---- all together

function render({ model, el: root }) {
  const app = start(model, root);
  root.classList.add("kd-explorer");
  const heads = SIDES.map((side) => networkSelect(app, side));
  const panels = SIDES.map((side) => panel(app, side));
  const [kinds, depth, classes, curves, images, tip] =
    [embeddingSwitch, depthSlider, legend, curve, selection, tooltip].map((part) => part(app));
  const parts = [...heads, kinds, depth, classes, curves, images, ...panels];
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;

  app.draw = () => panels.forEach((one) => one.draw());
  app.point = (image, from = panels[0]) => {
    if (image === app.hover && (image < 0) === tip.element.hidden) return;
    app.hover = image;
    panels.forEach((one) => one.mark());
    tip.show(image, from);
  };
  /** Something small changed: say it again, without motion. */
  app.changed = () => {
    app.read();
    parts.forEach((part) => part.update());
    app.draw();
  };
  /** The maps changed: every image travels to its new place, so the eye can follow it. */
  app.travel = () => {
    app.read();
    app.point(-1);
    parts.forEach((part) => part.update());
    panels.forEach((one) => one.retarget());
    cancelAnimationFrame(frame);
    const begin = performance.now();
    const step = (now) => {
      const t = still.matches ? 1 : Math.min(1, Math.max(0, (now - begin) / PASSAGE));
      panels.forEach((one) => one.advance(t * t * (3 - 2 * t)));
      app.draw();
      if (t < 1) frame = requestAnimationFrame(step);
      root.dataset.moving = String(t < 1);
    };
    step(begin);
  };
  const first = Object.fromEntries(Object.keys(app.data.allowed).map((key) => [key, model.get(key)]));
  app.reset = () => {
    depth.stop();
    classes.clear();
    for (const [key, value] of Object.entries(first)) model.set(key, value);
    app.select([]);
    app.changed();
  };
  /** Colours of text and paper, from whichever theme is around us. */
  const restyle = () => {
    const style = getComputedStyle(root);
    app.ink = { text: style.getPropertyValue("--kd-text"), paper: style.getPropertyValue("--kd-paper") };
    app.draw();
  };

  root.append(
    make("div", { className: "kd-top" }, heads[0].element, heads[1].element),
    make("div", { className: "kd-keys" }, kinds.element, classes.element),
    make("div", { className: "kd-panels" }, ...panels.map((one) => one.element)),
    make("div", {}, curves.element, depth.element),
    images.element, tip.element);
  restyle();
  app.travel();
  const themes = new MutationObserver(restyle);
  for (const node of [document.documentElement, document.body]) {
    themes.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] });
  }
  const sizes = new ResizeObserver(() => { // also the moment JupyterLab puts us on the page
    curves.update();
    restyle();
  });
  sizes.observe(root);
  const events = [["change:left change:right change:layer change:embedding", app.travel], ["change:measure change:shade change:selected", app.changed]];
  events.forEach(([names, action]) => names.split(" ").forEach((name) => model.on(name, action)));
  root.dataset.ready = "true";
  return () => {
    events.forEach(([names, action]) => names.split(" ").forEach((name) => model.off(name, action)));
    depth.stop();
    themes.disconnect();
    sizes.disconnect();
    cancelAnimationFrame(frame);
    URL.revokeObjectURL(app.sheet);
  };
}

export default { render };
