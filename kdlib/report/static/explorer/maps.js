// One panel per network: its map, how the map moves, and how far to trust it.

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
      const jump = from[i] <= MISSING || to[i] <= MISSING; // a point without a place at one end jumps
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

function panel(app, side) {
  const { data } = app;
  const canvas = make("canvas", { tabIndex: 0, role: "application", "aria-roledescription": "map" });
  const layerName = make("p", { className: "kd-layer", hidden: data.aligned });
  const trust = make("p", { className: "kd-trust" });
  const whose = make("p", { className: `kd-whose kd-${side}` }); // where the maps stand one above the other
  const loading = make("p", { className: "kd-loading", role: "status", hidden: true }); // seen after a while only
  const self = {
    side, canvas,
    pen: canvas.getContext("2d", { willReadFrequently: true }), // pixels are written by hand
    target: null, // the map that is shown, or is on its way
    zoom: whole(),
    pictureSize: 0, // of images that stand in for dots, in pixels
    dots: null, // a passage of the images' coordinates
    middles: null, // a passage of the classes' medians, where their names stand
    order: null, // which images are painted, in which order and as what
    trail: null, // where the pointer went while dragging
    moving: false,
    rough: false, // while zooming regions are drawn in cells of twice the side
    update() {
      const [network, layer] = [app.network(side), app.own(side)];
      const kind = data.titles[app.good.embedding];
      const still = app.epoch === TRAINED;
      const faith = still ? app.part(side).faithfulness[app.at("embedding")][layer]
        : app.part(side).measured(app.layer(side), app.epoch);
      layerName.replaceChildren(make("b", {}, app.layer(side)), make("span", { className: "kd-muted" },
        ` layer ${layer + 1} of ${app.part(side).layers.length}`));
      loading.hidden = !app.pending[side];
      loading.textContent = `loading ${app.chosen(side).name} …`;
      const failed = app.failed[side] ? [make("b", { className: "kd-nothing" }, app.failed[side]), `. Still ${network.name}. `] : [];
      trust.replaceChildren(...failed, ...trustWords(still ? `${kind} map` : `${kind} map ${moment(app.epoch)}`, faith));
      self.element.classList.toggle("kd-adrift", faith.noise_floor > BOUND);
      self.element.classList.toggle("kd-untrue", faith.trustworthiness != null && grade(faith) === 0);
      whose.replaceChildren(make("i", { className: "kd-mark" }), make("b", {}, network.short));
      canvas.classList.toggle("kd-move", app.good.brush === "move");
      canvas.setAttribute("aria-label", `${kind} map of ${data.n} images at ${app.layer(side)} of ${network.name}, ${moment(app.epoch)}. `
        + "Left and right arrow: layer. Up and down arrow: image by image, with Shift the selected ones. Enter: select that image, or no longer. Escape: clear the selection. "
        + "Plus and minus: zoom, 0: the whole map. Control and arrows, or arrows alone where dragging moves: move the map.");
    },
    retarget(to) {
      self.target = to;
      self.dots = passage(self.dots, to);
      self.middles = passage(self.middles, medians(data, to));
    },
    advance(t) {
      self.moving = t < 1;
      self.dots.advance(t);
      self.middles.advance(t);
    },
    has: (i) => self.dots.now[2 * i] > MISSING,
    /** Screen place of an image, or null where it has none. */
    place(i) {
      const { x, y } = projection(self);
      return self.has(i) ? [x(self.dots.now[2 * i]), y(self.dots.now[2 * i + 1])] : null;
    },
    /** Where an image's nearest in the layer itself lie on this map. */
    ends(i) {
      const near = app.near(side)?.subarray(i * NEAREST, (i + 1) * NEAREST) || [];
      return [...near].filter((j) => j !== MISSING && self.has(j)).map(self.place);
    },
    sort() { self.order = order(app, self); },
    draw() {
      self.sort();
      self.paint();
    },
    paint() {
      if (!self.dots || !fit(app, self)) return;
      self.dotCount = paint(app, self);
      self.mark();
      buttons.update();
      canvas.classList.toggle("kd-zoomed", self.zoom.factor > 1);
    },
    mark: () => self.pixels && drawMarks(app, self),
  };
  const buttons = zoomButtons(app, self);
  self.element = make("figure", { className: `kd-panel kd-${side}` }, whose, make("div", { className: "kd-frame" }, canvas, loading, buttons.element),
    layerName, trust);
  self.release = listen(app, self);
  return self;
}

const BOUND = 0.5; // of the noise floor, in widths of the map: above it places on two maps cannot be compared

/** How true a map is to its layer: 0 poor, 1 fair, 2 good. */
const grade = ({ trustworthiness: trust, neighbours_kept: share }) =>
  Math.min(trust >= 0.95 ? 2 : trust >= 0.85 ? 1 : 0, share == null ? 2 : share >= 0.4 ? 2 : share >= 0.15 ? 1 : 0);

/** How far to trust a map: a grade from the two numbers, then the numbers. A poor map is pale; one whose places
 *  cannot be compared with another map's may be good, and has a dashed frame. */
function trustWords(kind, faith) {
  const { trustworthiness: trust, neighbours_kept: share, noise_floor: floor } = faith;
  if (trust == null) return [`${kind}; its faithfulness was not measured.`];
  const stars = grade(faith);
  const word = ["Poor map", "Fair map", "Good map"][stars];
  const advice = ["shown pale; read the numbers, not the picture", "read groups, not single dots", "near here is mostly near in the layer"][stars];
  const drift = floor > BOUND && +fixed(floor) <= BOUND ? floor.toFixed(3) : fixed(floor); // not "0.50, above 0.5"
  const numbers = `trustworthiness ${fixed(trust)}` + (share == null ? "" : `, keeps ${Math.round(100 * share)} % of neighbours`)
    + (floor == null ? "" : `, noise floor ${drift}`);
  return [make("span", { className: `kd-grade kd-grade-${stars}`, "aria-hidden": "true" }, "●".repeat(stars + 1), "○".repeat(2 - stars)),
    make("b", {}, `${word}: `), `${advice}. `, make("span", { className: "kd-muted" }, `${numbers}.`),
    ...(floor > BOUND ? [make("b", { className: "kd-nothing" }, " Dashed frame: do not compare places between maps. "), `Computed again, images lie ${drift} of the map's width away.`] : [])];
}
