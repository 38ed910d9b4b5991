// The explorer: two networks side by side, one dot per image, any layer. Selections link by image.
//
// An anywidget module without imports. The same file runs in JupyterLab, talking to Python, and in
// the static book, without a kernel. All that the reader can change lives in the traits of widgets.py,
// under the names people use: left, right (run ids), layer, embedding, epoch (of the film of training),
// measure, shade (what colours mean), selected (images), hidden (classes), names (on the maps), brush.
//
// In this file: document . data . view . controls . maps . painting . pointer and keyboard . curve .
// images . all together

const MISSING = -32768; // the int16 that says "nothing here"; widgets.py knows it, too
const TRAINED = -1; // the epoch of trained networks, beside those of the film; and this
const NEAREST = 10; // neighbours that are told of each image; and this
const PASSAGE = 450; // milliseconds from one layer to the next
const UNKNOWN = 255; // the error of a dot that was not measured
const SIDES = ["left", "right"];
const EMBEDDING = { tsne: "t-SNE", ivis: "IVIS", umap: "UMAP", pca: "PCA" };

// Petroff 2021 (arXiv 2107.02270): ten colours that keep apart with any colour vision. After ten
// classes the colours come again with the next shape.
const COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
                 "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const SHAPES = ["circle", "square", "triangle", "diamond"];
const SHADES = ["#3f90da", "#92dadd", "#b9ac70", "#ffa90e", "#bd1f01"]; // of few to many neighbours
const MEANINGS = { class: "class", error: "neighbours lost", change: "neighbours changed" };
const MOST = { error: "all, between layer and map", change: "all, between left and right layer" }; // the ramp's end
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
  // Else JupyterLab keeps the arrow keys to itself.
  if (["button", "canvas", "input", "select"].includes(tag)) element.dataset.lmSuppressShortcuts = "true";
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
  const neighbours = new Int16Array(bytes(model.get("neighbours")).buffer);
  const frames = new Int16Array(bytes(model.get("film")).buffer);
  const [E, L, block] = [meta.embeddings.length, meta.layers.length, meta.n * 2];
  const first = meta.film.map((_, i) => meta.film.slice(0, i).reduce((sum, { epochs }) => sum + epochs.length, 0));
  const reel = (run, layer) => meta.film.findIndex((one) => one.run === run && one.layer === layer);
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
      epoch: [TRAINED, ...meta.film.flatMap(({ epochs }) => epochs)],
      names: [true, false],
      brush: ["box", "lasso"],
    },
    map(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * block;
      return coordinates.subarray(start, start + block);
    },
    errors(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * meta.n;
      return errors.subarray(start, start + meta.n);
    },
    /** The NEAREST images of each image in the layer itself, one after another; null if unknown. */
    neighbours(network, layer) {
      const start = (network * L + layer) * meta.n * NEAREST;
      const own = neighbours.subarray(start, start + meta.n * NEAREST);
      return own.some((i) => i !== MISSING) ? own : null;
    },
    /** The epochs that the film of a layer has, and its map after one of them. */
    epochs: (run, layer) => meta.film[reel(run, layer)]?.epochs || [],
    frame(run, layer, epoch) {
      const one = reel(run, layer);
      const start = (first[one] + meta.film[one].epochs.indexOf(epoch)) * block;
      return frames.subarray(start, start + block);
    },
    /** What a layer measured then, by measure; its map's faithfulness, too. */
    measured(run, layer, epoch) {
      const { epochs, values } = meta.film[reel(run, layer)];
      return Object.fromEntries(Object.entries(values).map(([key, row]) => [key, row[epochs.indexOf(epoch)]]));
    },
    guess: (network, image) => predictions[network * meta.n + image],
    wrong: (network, image) => predictions[network * meta.n + image] !== labels[image],
  };
}

// ---- view

/** Everything the parts share: the data, the view by position, and how to change it. */
function start(model, root) {
  const data = decode(model);
  const app = {
    model, root, data,
    good: {}, // the last value of each trait that made sense
    selected: new Set(), // images
    hidden: new Set(), // classes switched off in the legend
    epoch: TRAINED, // the one shown: the trait's, where there is a film of the view
    hover: -1, // an image
    pointed: -1, // a class, while the pointer is on it in the legend
    sheet: URL.createObjectURL(new Blob([bytes(model.get("sprite"))], { type: "image/webp" })),
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
  /** The epochs of which both networks have a map of this layer. */
  app.epochs = () => {
    if (app.good.embedding !== "tsne") return [];
    const [ours, theirs] = SIDES.map((side) => data.epochs(app.good[side], app.good.layer));
    return ours.filter((epoch) => theirs.includes(epoch));
  };
  app.map = (side) => (app.epoch === TRAINED
    ? data.map(app.at(side), app.at("embedding"), app.at("layer"))
    : data.frame(app.good[side], app.good.layer, app.epoch));
  /** Neighbours, errors and changes are known of trained networks only. */
  app.near = (side) => (app.epoch === TRAINED ? data.neighbours(app.at(side), app.at("layer")) : null);
  /** What the layer shown measures: of the trained network, or as it was then. */
  app.value = (measure, side) => (app.epoch === TRAINED
    ? data.curves[measure][app.at(side)].values[app.at("layer")]
    : data.measured(app.good[side], app.good.layer, app.epoch)[measure] ?? null);
  app.shade = () => (app.epoch === TRAINED ? app.good.shade : "class");
  // Take over what the model says, and refuse what cannot be (a mistyped link, for instance).
  app.read = () => {
    for (const [key, allowed] of Object.entries(data.allowed)) {
      if (allowed.includes(model.get(key))) app.good[key] = model.get(key);
      else model.set(key, app.good[key]);
    }
    const inside = (n) => (i) => Number.isInteger(i) && i >= 0 && i < n;
    app.selected = new Set(model.get("selected").filter(inside(data.n)));
    app.hidden = new Set(model.get("hidden").filter(inside(data.classes.length)));
    app.epoch = app.epochs().includes(app.good.epoch) ? app.good.epoch : TRAINED;
  };
  return app;
}

/** How much of each image's neighbourhood two networks do not share, 0..1; -1 where unknown. */
function changes(left, right, n) {
  return Float32Array.from({ length: n }, (_, image) => {
    const [from, to] = [image * NEAREST, (image + 1) * NEAREST];
    if (!left || !right || left[from] === MISSING || right[from] === MISSING) return -1;
    let shared = 0;
    for (let i = from; i < to; i++) for (let j = from; j < to; j++) shared += left[i] === right[j];
    return 1 - shared / NEAREST;
  });
}

// ---- controls

/** Which network: its kind, its labels and its seed, each a list of runs that differ in that alone. */
function networkSelect(app, side) {
  const { networks } = app.data;
  const list = (label) => make("select", { "aria-label": `${label} on the ${side}`,
    onchange: (event) => app.set(side, event.target.value) });
  const [who, labels, seed] = ["Network", "Labels", "Seed"].map(list);
  const facts = make("span", { className: "kd-muted" });
  /** Of each value that others have under a key, the run most like ours. */
  const like = (ours, key, others) => {
    const best = new Map();
    const score = (one) => 2 * (one.labels === ours.labels) + (one.seed === ours.seed);
    for (const one of others) {
      if (!best.has(one[key]) || score(one) > score(best.get(one[key]))) best.set(one[key], one);
    }
    return [...best.values()];
  };
  const option = (word) => (one) => make("option", { value: one.run }, one[word]);
  const fill = (select, run, items) => {
    select.replaceChildren(...items);
    select.value = run;
    select.hidden = items.length < 2;
  };
  return {
    element: make("div", { className: `kd-who kd-${side}` }, make("i", { className: "kd-mark" }), who, labels, seed, facts),
    update() {
      const ours = app.network(side);
      const groups = {};
      for (const one of like(ours, "who", networks)) (groups[one.group] ??= []).push(option("short")(one));
      fill(who, ours.run, Object.entries(groups).map(([label, options]) => make("optgroup", { label }, ...options)));
      const own = networks.filter((one) => one.who === ours.who);
      fill(labels, ours.run, like(ours, "labels", own).map(option("labels")));
      fill(seed, ours.run, own.filter((one) => one.labels === ours.labels).map(option("seed")));
      who.hidden = false;
      const rest = [labels, seed].map((select, i) => (select.hidden ? `${[ours.labels, ours.seed][i]} · ` : ""));
      facts.replaceChildren(...rest, make("b", {}, percent(ours.accuracy)), ` test accuracy · ${size(ours.parameters)} parameters`);
    },
  };
}

/** A row of buttons of which one is on; arrow keys move along it, as in any radio group. */
function radio(app, key, label, words) {
  const values = app.data.allowed[key];
  const buttons = values.map((value) => make("button", { type: "button", role: "radio",
    onclick: () => app.set(key, value) }, words[value] || value));
  const element = make("div", { className: "kd-switch", role: "radiogroup", "aria-label": label }, ...buttons);
  element.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = (app.at(key) + by + buttons.length) % buttons.length;
    app.set(key, values[next]);
    buttons[next].focus();
  });
  return {
    element,
    update() {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === app.at(key)));
        button.tabIndex = i === app.at(key) ? 0 : -1;
      });
    },
  };
}

/** A slider with its stops named below, and a button that walks through them and stops at the end.
 *  stops() are [name, words]; at() says where it stands; choose(i) goes there. */
function walk({ label, play: title, pause, stops, at, choose }) {
  let [timer, names] = [0, ""];
  const last = () => stops().length - 1;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", title);
  };
  const go = () => {
    if (at() === last()) choose(0);
    timer = setInterval(() => {
      choose(Math.min(at() + 1, last()));
      if (at() >= last()) stop();
    }, pause);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Stop");
  };
  const jump = (i) => { stop(); choose(i); };
  const play = make("button", { type: "button", className: "kd-play", title, onclick: () => (timer ? stop() : go()) });
  const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": label, oninput: () => jump(+slider.value) });
  const ticks = make("div", { className: "kd-ticks" });
  const element = make("div", { className: "kd-walk" }, play, make("div", { className: "kd-track" }, slider, ticks));
  stop();
  return {
    element, stop,
    update() {
      const [now, known] = [at(), stops()];
      if (names !== String(known)) {
        names = String(known);
        slider.max = known.length - 1;
        element.style.setProperty("--n", known.length);
        ticks.replaceChildren(...known.map(([name, words], i) => make("button", { type: "button", tabIndex: -1,
          title: words, "aria-label": words, onclick: () => jump(i) }, name)));
      }
      slider.value = now;
      slider.setAttribute("aria-valuetext", known[now]?.[1] ?? "");
      [...ticks.children].forEach((tick, i) => tick.classList.toggle("kd-on", i === now));
    },
  };
}

function depthSlider(app) {
  const { layers } = app.data;
  const stops = layers.map((name) => [name, name]);
  return walk({ label: "Layer", play: "Play through the layers", pause: 1100, stops: () => stops,
    at: () => app.at("layer"), choose: (i) => app.set("layer", layers[i]) });
}

const moment = (epoch) => (epoch === TRAINED ? "trained" : epoch === 0 ? "before training" : `after ${epoch} pass${epoch === 1 ? "" : "es"}`);

/** The film: the same layer after some passes through the images. Its last stop is the trained network's own map. */
function film(app) {
  const { data } = app;
  const stops = () => [...app.epochs(), TRAINED];
  const walker = walk({ label: "Passes", play: "Play the film of training", pause: 800,
    stops: () => stops().map((epoch) => [epoch === TRAINED ? "trained" : `${epoch}`, moment(epoch)]),
    at: () => stops().indexOf(app.epoch), choose: (i) => app.set("epoch", stops()[i]) });
  const words = make("p", { className: "kd-muted" });
  const whose = (key, name) => [...new Set(data.film.map((reel) => name(reel[key])))].join(", ");
  const short = (run) => data.networks.find((network) => network.run === run).short;
  const kept = `kept for ${whose("run", short)} at ${whose("layer", String)}, as t-SNE`;
  return {
    element: make("div", { className: "kd-film", hidden: !data.film.length }, words, walker.element),
    stop: walker.stop,
    update() {
      const none = stops().length === 1;
      if (none) walker.stop();
      walker.element.hidden = none;
      words.replaceChildren(make("b", {}, "Film of training: "), none ? `none of this view; ${kept}.`
        : app.epoch === TRAINED ? "the same layer from pass to pass; here the trained networks."
          : `both networks ${moment(app.epoch)}. Rings mark what they get wrong once trained.`);
      walker.update();
    },
  };
}

function legend(app) {
  const { classes, labels, n, shades } = app.data;
  const members = (c) => Array.from({ length: n }, (_, i) => i).filter((i) => labels[i] === c);
  const point = (c) => { app.pointed = c; app.draw(); };
  const toggle = (c) => app.set("hidden", classes.map((_, i) => i).filter((i) => app.hidden.has(i) !== (i === c)));
  const buttons = classes.map((name, c) => {
    const icon = svg("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12, "aria-hidden": "true" },
      svg("path", { d: outline(shape(c), 4.6), fill: colour(c) }));
    return make("button", { type: "button", title: `${name}: click to hide or show, Shift + click to select all`,
      onclick: (event) => (event.shiftKey ? app.select(members(c)) : toggle(c)),
      onfocus: (event) => event.target.matches(":focus-visible") && point(c), onblur: () => point(-1),
      onpointerenter: () => point(c), onpointerleave: () => point(-1) }, icon, name);
  });
  const names = make("input", { type: "checkbox", onchange: () => app.set("names", names.checked) });
  const shade = make("select", { "aria-label": "What colours mean", onchange: () => app.set("shade", shade.value) },
    ...shades.map((value) => make("option", { value }, MEANINGS[value])));
  const most = make("span");
  const ramp = make("span", { className: "kd-key kd-ramp" }, "none", ...SHADES.map((fill) =>
    make("i", { className: "kd-shade", style: `background:${fill}` })), most);
  return {
    element: make("div", { className: "kd-legend", role: "group", "aria-label": "Classes and colours" },
      make("label", { className: "kd-muted", hidden: shades.length < 2 }, "colour: ", shade), ramp,
      ...buttons, make("span", { className: "kd-key" }, make("i", { className: "kd-ring" }), "misclassified",
        make("label", { className: "kd-key" }, names, "names"))),
    update() {
      shade.value = app.shade();
      shade.disabled = app.epoch !== TRAINED;
      shade.title = shade.disabled ? "known of trained networks only" : "what colours mean";
      ramp.hidden = app.shade() === "class";
      most.textContent = MOST[app.shade()] || "";
      names.checked = app.good.names;
      buttons.forEach((button, c) => button.setAttribute("aria-pressed", String(!app.hidden.has(c))));
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

/** From the square of int16 to pixels of a canvas, and back. */
function projection({ width }) {
  const margin = width * 0.035;
  const scale = (width - 2 * margin) / 65534;
  return { scale, x: (x) => margin + (x + 32767) * scale, y: (y) => margin + (32767 - y) * scale,
    back: ([x, y]) => [(x - margin) / scale - 32767, 32767 - (y - margin) / scale] };
}

function panel(app, side) {
  const { data } = app;
  const canvas = make("canvas", { tabIndex: 0, role: "application", "aria-roledescription": "map" });
  const trust = make("p", { className: "kd-trust" });
  const self = {
    side, canvas,
    pen: canvas.getContext("2d", { willReadFrequently: true }), // pixels are written by hand
    element: make("figure", { className: `kd-panel kd-${side}` }, canvas, trust),
    dots: null, // a passage of the images' coordinates
    middles: null, // a passage of the classes' medians, where their names stand
    cast: [], // who is painted, in which order and as what
    trail: null, // where the pointer went while dragging
    update() {
      const [network, layer] = [app.network(side), app.at("layer")];
      const kind = EMBEDDING[app.good.embedding] || app.good.embedding;
      const still = app.epoch === TRAINED;
      const faith = still ? data.faithfulness[app.at(side)][app.at("embedding")][layer]
        : data.measured(app.good[side], app.good.layer, app.epoch);
      trust.replaceChildren(...trustWords(still ? `${kind} map` : `${kind} map ${moment(app.epoch)}`, faith));
      self.element.classList.toggle("kd-adrift", faith.noise_floor > 0.5);
      canvas.setAttribute("aria-label", `${kind} map of ${data.n} images at ${data.layers[layer]} of ${network.name}, ${moment(app.epoch)}. `
        + "Left and right arrow: layer. Up and down arrow: image by image, with Shift the selected ones. Enter: select that image, or no longer. Escape: clear the selection.");
    },
    retarget() {
      const to = app.map(side);
      self.dots = passage(self.dots, to);
      self.middles = passage(self.middles, medians(data, to));
    },
    advance(t) {
      self.dots.advance(t);
      self.middles.advance(t);
    },
    has: (i) => self.dots.now[2 * i] > MISSING,
    /** Screen place of an image, or null where it has none. */
    place(i) {
      const { x, y } = projection(canvas);
      return self.has(i) ? [x(self.dots.now[2 * i]), y(self.dots.now[2 * i + 1])] : null;
    },
    /** Where an image's nearest in the layer itself lie on this map. */
    ends(i) {
      const near = app.near(side)?.subarray(i * NEAREST, (i + 1) * NEAREST) || [];
      return [...near].filter((one) => one !== MISSING && self.has(one)).map(self.place);
    },
    draw() {
      self.cast = cast(app, self);
      self.paint();
    },
    paint() {
      if (!self.dots || !fit(self)) return;
      self.drawn = paint(app, self);
      self.mark();
    },
    mark: () => self.pixels && drawMarks(app, self),
  };
  listen(app, self);
  return self;
}

/** Say how far to trust a map: a word from the two numbers, then the numbers. */
function trustWords(kind, { trustworthiness: trust, neighbours_kept: kept, noise_floor: floor }) {
  if (trust == null) return [`${kind}; its faithfulness was not measured.`];
  const grade = Math.min(trust >= 0.95 ? 2 : trust >= 0.85 ? 1 : 0, kept == null ? 2 : kept >= 0.4 ? 2 : kept >= 0.15 ? 1 : 0);
  const word = ["Poor map", "Fair map", "Good map"][grade];
  const advice = ["read the numbers, not the picture", "read groups, not single dots", "near here is mostly near in the layer"][grade];
  const numbers = `trustworthiness ${fixed(trust)}` + (kept == null ? "" : `, keeps ${Math.round(100 * kept)} % of neighbours`)
    + (floor == null ? "" : `, noise floor ${fixed(floor)}`);
  return [make("span", { className: `kd-grade kd-grade-${grade}`, "aria-hidden": "true" }, "●".repeat(grade + 1), "○".repeat(2 - grade)),
    make("b", {}, `${word}: `), `${advice}. `, make("span", { className: "kd-muted" }, `${numbers}.`),
    ...(floor > 0.5 ? [make("b", { className: "kd-nothing" }, " Movement here means nothing: "), `drawn again, images lie ${fixed(floor)} of the map's width away.`] : [])];
}

// ---- painting

/** One dot, drawn once and kept as its pixels: how far from its middle, and what to add there. */
function stamp(app, r, fill, kind, { ring, alpha }, width) {
  const side = 2 * Math.ceil(r * 1.6) + 1;
  const pen = make("canvas", { width: side, height: side }).getContext("2d");
  pen.translate(side / 2, side / 2);
  const path = new Path2D(outline(kind, r));
  pen.fillStyle = fill;
  pen.fill(path);
  pen.strokeStyle = app.ink.text;
  pen.lineWidth = Math.max(1, r * 0.34);
  if (ring) pen.stroke(path);
  const rgba = pen.getImageData(0, 0, side, side).data;
  const inked = Array.from({ length: side * side }, (_, i) => i).filter((i) => rgba[4 * i + 3] > 8);
  const weight = inked.map((i) => Math.round(rgba[4 * i + 3] * alpha * (256 / 255)));
  const half = side >> 1;
  return {
    where: Int32Array.from(inked, (i) => (Math.floor(i / side) - half) * width + (i % side) - half),
    rest: Int32Array.from(weight, (a) => 256 - a),
    redBlue: Int32Array.from(inked, (i, k) => Math.imul(rgba[4 * i] | (rgba[4 * i + 2] << 16), weight[k])),
    green: Int32Array.from(inked, (i, k) => Math.imul(rgba[4 * i + 1] << 8, weight[k])),
  };
}

const PASSES = [{ ring: false, alpha: 0.13 }, { ring: true, alpha: 0.13 }, { ring: false, alpha: 0.9 }, { ring: true, alpha: 0.9 }];

/** The stamps of all classes and shades, by pass; made anew when size or theme changes. */
function stamps(app, width) {
  const key = `${width} ${app.ink.text}`;
  if (app.stamps?.key === key) return app.stamps;
  const r = dotSize(app.data, width);
  const make = (fill, kind) => PASSES.map((pass) => stamp(app, r, fill, kind, pass, width));
  const classes = app.data.classes.map((_, c) => make(colour(c), shape(c)));
  const shades = [...SHADES, "#888"].map((fill) => make(fill, "circle"));
  app.stamps = { key, classes, shades };
  return app.stamps;
}

/** Who is painted, in which order and as what: faded dots first, misclassified ones last, so that
 *  what matters is never covered. */
function cast(app, { side }) {
  const { data, selected, hidden, pointed } = app;
  const [network, shade] = [app.at(side), app.shade()];
  const level = (share) => (share < 0 ? SHADES.length : Math.min(SHADES.length - 1, Math.floor(share * SHADES.length)));
  const errors = shade === "error" && data.errors(network, app.at("embedding"), app.at("layer"));
  const changed = shade === "change" && changes(app.near("left"), app.near("right"), data.n);
  const passes = PASSES.map(() => []);
  data.labels.forEach((c, i) => {
    if (c < 0 || hidden.has(c)) return;
    const bright = (!selected.size || selected.has(i)) && (pointed < 0 || c === pointed);
    passes[2 * bright + data.wrong(network, i)].push(i);
  });
  const which = Uint16Array.from(data.labels, (c, i) => (changed ? level(changed[i])
    : errors ? level(errors[i] === UNKNOWN ? -1 : errors[i] / (UNKNOWN - 1)) : Math.max(0, c)));
  return { passes: passes.map((images) => Uint32Array.from(images)), which, kind: shade === "class" ? "classes" : "shades" };
}

/** Size a canvas to the pixels of the screen; false while it is not on the page. */
function fit(self) {
  const { canvas, pen } = self;
  const w = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (w && canvas.width !== w) canvas.width = canvas.height = w;
  if (w && self.image?.width !== w) {
    self.image = pen.createImageData(w, w);
    self.pixels = new Uint32Array(self.image.data.buffer);
  }
  return w > 0;
}

function dotSize({ n }, width) {
  return Math.max(1.6 * (window.devicePixelRatio || 1), width / (n > 2500 ? 170 : n > 700 ? 125 : 90));
}

/** Lay every dot over the paper, pixel by pixel: many times as fast as asking the canvas to draw
 *  each. Two colours are mixed at once, in the two halves of a number. Returns how many dots. */
function paint(app, { canvas, pixels, cast: { passes, which, kind }, dots: { now } }) {
  const { x, y } = projection(canvas);
  const known = stamps(app, canvas.width)[kind];
  pixels.fill(app.ink.pixel);
  let drawn = 0;
  passes.forEach((images, pass) => {
    for (const i of images) {
      if (now[2 * i] <= MISSING) continue;
      const middle = Math.round(y(now[2 * i + 1])) * canvas.width + Math.round(x(now[2 * i]));
      const { where, rest, redBlue, green } = known[which[i]][pass];
      for (let k = 0; k < where.length; k++) {
        const at = middle + where[k];
        const under = pixels[at];
        pixels[at] = 0xff000000
          | (((redBlue[k] + Math.imul(under & 0xff00ff, rest[k])) >>> 8) & 0xff00ff)
          | (((green[k] + Math.imul(under & 0x00ff00, rest[k])) >>> 8) & 0x00ff00);
      }
      drawn++;
    }
  });
  return drawn;
}

function message({ ink }, pen, words) {
  const w = pen.canvas.width;
  pen.fillStyle = ink.text;
  pen.font = `${w / 26}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.fillText(words, w / 2, w / 2);
}

/** Each class's name at the median of its dots: the second cue beside the colour. */
function classNames(app, { canvas, middles, pen }) {
  const { classes } = app.data;
  const { x, y } = projection(canvas);
  const pixels = window.devicePixelRatio || 1;
  const em = pixels * (canvas.clientWidth < 260 ? 10 : 12.5);
  pen.font = `700 ${em}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 1.6 * pixels;
  classes.forEach((name, c) => {
    if (middles.now[2 * c] <= MISSING || app.hidden.has(c) || (app.pointed >= 0 && app.pointed !== c)) return;
    const xy = [x(middles.now[2 * c]), y(middles.now[2 * c + 1])];
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

/** The painted dots, and over them names, the hovered image with its neighbours, and the brush. */
function drawMarks(app, self) {
  const { pen, image, trail, place } = self;
  const r = dotSize(app.data, image.width);
  pen.putImageData(image, 0, 0);
  if (!self.drawn) message(app, pen, app.hidden.size ? "these classes are hidden" : "no map of this layer was stored");
  else if (app.good.names || app.pointed >= 0) classNames(app, self);
  pen.strokeStyle = app.ink.text;
  if (app.hover >= 0 && self.has(app.hover)) {
    drawNeighbours(app, self, r);
    circle(pen, place(app.hover), r * 2.3, r * 0.55);
  }
  if (trail) {
    const [first, ...others] = corners(app, trail);
    pen.beginPath();
    pen.moveTo(...first);
    others.forEach((xy) => pen.lineTo(...xy));
    pen.closePath();
    pen.lineWidth = window.devicePixelRatio || 1;
    pen.setLineDash([5, 4]);
    pen.stroke();
    pen.setLineDash([]);
  }
}

function circle(pen, [x, y], r, width) {
  pen.lineWidth = width;
  pen.beginPath();
  pen.arc(x, y, r, 0, 2 * Math.PI);
  pen.stroke();
}

/** Lines from an image to its nearest in the layer itself: long ones are where the map lies. */
function drawNeighbours(app, self, r) {
  const { pen } = self;
  const ends = self.ends(app.hover);
  const from = self.place(app.hover);
  for (const [style, width] of [[app.ink.paper, r * 0.8], [app.ink.text, Math.max(1, r * 0.28)]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    ends.forEach((to) => { pen.moveTo(...from); pen.lineTo(...to); });
    pen.stroke();
    ends.forEach((to) => circle(pen, to, r * 0.3, width));
  }
}

// ---- pointer and keyboard

/** The outline of what is dragged over: the trail itself, or the box between its ends. */
function corners(app, trail) {
  if (app.good.brush === "lasso") return trail;
  const [[a, b], [c, d]] = [trail[0], trail[trail.length - 1]];
  return [[a, b], [c, b], [c, d], [a, d]];
}

/** The images inside an outline: those from where a ray crosses it an odd number of times. */
function enclosed(app, self, outline) {
  const { back } = projection(self.canvas);
  const around = outline.map(back);
  const { now } = self.dots;
  const inside = (x, y) => {
    let odd = false;
    around.forEach(([ax, ay], k) => {
      const [bx, by] = around[(k || around.length) - 1];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    });
    return odd;
  };
  return [...app.data.labels.keys()].filter((i) => seen(app, self, i) && inside(now[2 * i], now[2 * i + 1]));
}

const seen = (app, self, i) => self.has(i) && !app.hidden.has(app.data.labels[i]);

/** The image nearest to a point of the canvas, -1 where none is near. */
function nearest(app, self, point) {
  const { scale, back } = projection(self.canvas);
  const [x, y] = back(point);
  const { now } = self.dots;
  let [best, found] = [(self.canvas.width / 28 / scale) ** 2, -1];
  for (let i = 0; i < app.data.n; i++) {
    const distance = (now[2 * i] - x) ** 2 + (now[2 * i + 1] - y) ** 2;
    if (distance < best && seen(app, self, i)) [best, found] = [distance, i];
  }
  return found;
}

function listen(app, self) {
  const { canvas } = self;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  let kept = []; // with Shift, what is dragged over joins what was selected before
  const small = () => self.trail.every(([x, y]) => Math.hypot(x - self.trail[0][0], y - self.trail[0][1]) < 5 * (window.devicePixelRatio || 1));
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    self.trail = [at(event)];
    kept = event.shiftKey ? [...app.selected] : [];
    canvas.setPointerCapture(event.pointerId);
    app.point(-1);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!self.trail) return app.point(nearest(app, self, at(event)), self);
    self.trail.push(at(event));
    app.selected = new Set([...kept, ...enclosed(app, self, corners(app, self.trail))]); // not yet in the model
    app.draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!self.trail) return;
    const one = small() ? nearest(app, self, at(event)) : -1;
    const found = small() ? [one].filter((i) => i >= 0) : enclosed(app, self, corners(app, self.trail));
    self.trail = null;
    app.select(new Set([...kept, ...found]));
    app.changed(); // the model stays silent if the selection is the one it had
    app.point(one, self);
  });
  canvas.addEventListener("pointercancel", () => { self.trail = null; app.changed(); });
  canvas.addEventListener("pointerleave", (event) => self.trail || event.pointerType === "touch" || app.point(-1));
  canvas.addEventListener("blur", () => app.point(-1));
  canvas.addEventListener("keydown", (event) => {
    const browse = (by) => {
      const list = [...(event.shiftKey ? app.selected : app.data.labels.keys())].filter((i) => seen(app, self, i));
      const next = list.indexOf(app.hover) + by;
      if (list.length) app.point(list[(next + list.length) % list.length], self);
    };
    const choose = () => {
      const rest = [...app.selected].filter((i) => i !== app.hover);
      if (app.hover >= 0) app.select(app.selected.has(app.hover) ? rest : [...rest, app.hover]);
    };
    const action = {
      ArrowLeft: () => app.step(-1), ArrowRight: () => app.step(1), Enter: choose, " ": choose,
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
    const films = data.film.flatMap(({ values }) => values[app.good.measure] || []);
    const all = data.curves[app.good.measure].flatMap((c) => [...c.values, ...c.low, ...c.high]).concat(films).filter((v) => v != null);
    const [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    const step = [0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find((s) => (high - low) / s <= 4) || (high - low) / 4;
    const [from, to] = [Math.floor(low / step) * step, Math.ceil(high / step) * step || step];
    const ticks = Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step);
    const width = picture.clientWidth || 600;
    const column = (width - gutter) / data.layers.length;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`); // paper has another width
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
    const dot = (i, v, r) => v != null && group.append(svg("circle", { cx: scale.x(i), cy: scale.y(v), r }));
    values.forEach((v, i) => dot(i, v, 2.6));
    dot(app.at("layer"), app.value(app.good.measure, name), 5);
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
    const here = { left: app.value(app.good.measure, "left"), right: app.value(app.good.measure, "right") };
    const above = (ours, theirs) => (ours ?? 0) > (theirs ?? 0) ? { left: -10, right: 18 } : { left: 18, right: -10 };
    for (const [s, values] of [["left", a], ["right", b]]) {
      if (here[s] != null) {
        const y = scale.y(here[s]) + above(here.left, here.right)[s];
        write(s, scale.x(now), Math.max(10, Math.min(height - 2, y)), "middle", fixed(here[s]));
      }
      const apart = Math.abs(scale.y(a[end] ?? 0) - scale.y(b[end] ?? 0)) < 13 ? above(a[end], b[end])[s] / 2.2 : 0;
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
      const [u, v] = SIDES.map((s) => app.value(measure.key, s));
      const gap = u == null || v == null ? "" : ` (${v >= u ? "+" : "−"}${Math.abs(v - u).toFixed(2)})`;
      const say = (s, value) => make("b", { className: `kd-${s}` }, `${app.network(s).short} ${fixed(value)}`);
      summary.replaceChildren(`${app.good.layer}${app.epoch === TRAINED ? "" : ` ${moment(app.epoch)}`}: `, say("left", u), ", ", say("right", v), gap);
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
  /** How many of the lines end at images of the same class. */
  const company = (image) => {
    const alike = SIDES.map((side) => [...(app.near(side)?.subarray(image * NEAREST, (image + 1) * NEAREST) || [])]
      .filter((i) => data.labels[i] === data.labels[image]).length);
    return `lines: its ${NEAREST} nearest in ${app.good.layer}, ${alike[0]} left and ${alike[1]} right of its class`;
  };
  return {
    element,
    show(image, from) {
      element.hidden = image < 0 || !from?.place(image);
      if (element.hidden) return;
      const zoom = Math.max(1, Math.round(72 / Math.max(...data.tile.slice(0, 2))));
      const lines = app.near("left") && app.near("right");
      element.replaceChildren(thumbnail(app, image, zoom), make("div", {}, make("div", {},
        "class ", make("b", {}, data.classes[data.labels[image]] ?? "?"), make("span", { className: "kd-muted" }, ` · image ${image}`)),
        ...SIDES.map((s) => verdict(s, image)), make("div", { className: "kd-muted kd-company", hidden: !lines }, lines ? company(image) : "")));
      const [outer, inner] = [app.root.getBoundingClientRect(), from.canvas.getBoundingClientRect()];
      const onPage = ([x, y]) => [inner.left - outer.left + (x * inner.width) / from.canvas.width, inner.top - outer.top + (y * inner.height) / from.canvas.height];
      const [x, y] = onPage(from.place(image));
      const ends = from.ends(image).map(onPage);
      const [w, h] = [element.offsetWidth, element.offsetHeight];
      const fits = (left) => Math.max(4, Math.min(left, outer.width - w - 4));
      // Of the places around the dot, the one that covers the fewest ends of its lines.
      const covered = ([left, top]) => [[x, y], ...ends].filter(([a, b]) => a > left - 6 && a < left + w + 6 && b > top - 6 && b < top + h + 6).length;
      const places = [x + 16, x - 16 - w, x - w / 2].flatMap((left) => [y - h / 2, y - h - 16, y + 16].map((top) => [fits(left), Math.max(4, top)]));
      const [left, top] = places.reduce((best, place) => (covered(place) < covered(best) ? place : best));
      element.style.left = `${left}px`;
      element.style.top = `${top}px`;
    },
  };
}

/** The line of Python that gives the same view live: only what differs from what opens by itself. */
function python({ model, data }) {
  const { defaults, study, share } = data;
  const text = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value).replaceAll(",", ", "));
  const differs = (key) => JSON.stringify(model.get(key)) !== JSON.stringify(defaults[key]);
  const given = share.filter((key) => differs(key) || (key === "right" && differs("left")));
  const options = given.map((key) => `, ${key}=${text(model.get(key))}`).join("");
  return `from kdlib import store, widgets; widgets.explorer(store.load(${text(study)})${options})`;
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
  const line = make("code", { className: "kd-python", tabIndex: 0, hidden: true });
  const said = make("span", { className: "kd-muted", role: "status" });
  const copy = make("button", { type: "button", title: "The line that shows this view in JupyterLab", onclick: async () => {
    line.hidden = false;
    getSelection().selectAllChildren(line);
    const done = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    said.textContent = done ? "copied" : "press Ctrl + C to copy";
  } }, "Copy Python");
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
      make("div", { className: "kd-actions" }, count, fixedBy, lostBy, copy, said, reset), line, strip),
    update() {
      if (line.textContent !== python(app)) said.textContent = "";
      line.textContent = python(app);
      const [a, b] = SIDES.map(app.network);
      const [won, lost] = a.kind === "baseline" && b.kind === "distilled"
        ? ["distillation puts right", "distillation gets newly wrong"]
        : a.short !== b.short ? [`only ${b.short} is right`, `only ${a.short} is right`] : ["only right-hand is right", "only left-hand is right"];
      fixedBy.textContent = `${won}: ${differ("left", "right").length}`;
      lostBy.textContent = `${lost}: ${differ("right", "left").length}`;
      const images = [...app.selected].sort((i, j) => data.labels[i] - data.labels[j] || i - j);
      const bad = (s) => images.filter((i) => data.wrong(app.at(s), i)).length;
      count.textContent = images.length
        ? `${thousands(images.length)} of ${thousands(data.n)} images selected; wrong: ${bad("left")} left, ${bad("right")} right`
        : "Drag over either map to follow those images through both networks; point at a dot to see its image.";
      strip.hidden = !images.length;
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
  const kinds = radio(app, "embedding", "Embedding", EMBEDDING);
  const brush = radio(app, "brush", "Dragging draws", { box: "▭ box", lasso: "◌ lasso" });
  const [depth, reel, classes, curves, images, tip] =
    [depthSlider, film, legend, curve, selection, tooltip].map((part) => part(app));
  const parts = [...heads, kinds, brush, depth, reel, classes, curves, images, ...panels];
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;
  let due = null; // what is to be said again once everything that changes now has changed

  app.draw = () => panels.forEach((one) => one.draw());
  app.point = (image, from = panels[0]) => {
    if (image === app.hover && (image < 0) === tip.element.hidden) return;
    app.hover = image;
    panels.forEach((one) => one.mark());
    tip.show(image, from);
  };
  const tell = () => {
    app.read();
    parts.forEach((part) => part.update());
  };
  /** Something small changed: say it again, without motion. */
  const settle = () => {
    tell();
    app.draw();
  };
  /** The maps changed: every image travels to its new place, so the eye can follow it. */
  const travel = () => {
    app.point(-1);
    tell();
    panels.forEach((one) => one.retarget());
    cancelAnimationFrame(frame);
    const begin = performance.now();
    const step = (now) => {
      const t = still.matches ? 1 : Math.min(1, Math.max(0, (now - begin) / PASSAGE));
      panels.forEach((one) => one.advance(t * t * (3 - 2 * t)));
      panels.forEach((one) => one.paint());
      if (t < 1) frame = requestAnimationFrame(step);
      root.dataset.moving = String(t < 1);
    };
    app.draw();
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
    panels.forEach((one) => one.paint());
  };

  root.append(
    make("div", { className: "kd-top" }, heads[0].element, heads[1].element),
    make("div", { className: "kd-keys" }, kinds.element, brush.element, classes.element),
    make("div", { className: "kd-panels" }, ...panels.map((one) => one.element)),
    make("div", {}, curves.element, depth.element, reel.element),
    images.element, tip.element);
  restyle();
  travel();
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
  const moving = ["left", "right", "layer", "embedding", "epoch"];
  const events = app.data.share.map((key) => [`change:${key}`, moving.includes(key) ? app.moved : app.changed]);
  events.forEach(([name, action]) => model.on(name, action));
  root.dataset.ready = "true";
  return () => {
    events.forEach(([name, action]) => model.off(name, action));
    depth.stop();
    reel.stop();
    themes.disconnect();
    paper.removeEventListener("change", restyle);
    sizes.disconnect();
    cancelAnimationFrame(frame);
    URL.revokeObjectURL(app.sheet);
  };
}

export default { render };
