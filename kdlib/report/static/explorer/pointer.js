// Pointer and keyboard on a map.

/** The outline of the brush: the trail itself, or the box between its ends. */
function corners(app, trail) {
  if (app.good.brush === "lasso") return trail;
  const [[a, b], [c, d]] = [trail[0], trail[trail.length - 1]];
  return [[a, b], [c, b], [c, d], [a, d]];
}

/** The images inside an outline: a ray from inside crosses it an odd number of times. */
function enclosed(app, self, outline) {
  const { back } = projection(self);
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
  return [...app.data.labels.keys()].filter((i) => shown(app, self, i) && inside(now[2 * i], now[2 * i + 1]));
}

const shown = (app, self, i) => self.has(i) && app.visible(i);

/** The image nearest to a point of the canvas, -1 where none is near. */
function nearest(app, self, point) {
  const { scale, back } = projection(self);
  const [x, y] = back(point);
  const { now } = self.dots;
  const reach = Math.max(self.canvas.width / 28, self.pictureSize * 0.75);
  let [best, image] = [(reach / scale) ** 2, -1];
  for (let i = 0; i < app.data.n; i++) {
    const distance = (now[2 * i] - x) ** 2 + (now[2 * i + 1] - y) ** 2;
    if (distance < best && shown(app, self, i)) [best, image] = [distance, i];
  }
  return image;
}

/** What hands do on a map. One finger or button draws the brush; with the tool "move", Ctrl or the middle button
 *  it moves the map; two fingers zoom and move it. A click selects one image and shows it large. */
function listen(app, self) {
  const { canvas } = self;
  const pixels = () => window.devicePixelRatio || 1;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const fingers = new Map(); // pointers that are down, by number
  let grip = null; // where the map is held, and where it was taken
  let before = []; // with Shift, the images dragged over join those selected before
  let clicks = []; // what was selected before each of the last two clicks
  const near = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) < 5 * pixels();
  const click = (event, kept) => {
    const image = nearest(app, self, at(event));
    clicks = [...clicks.slice(-1), [...app.selected]];
    app.select(new Set([...kept, ...(image < 0 ? [] : [image])]));
    app.enlarge(image);
    app.point(image, self);
  };
  const span = () => {
    const [[a, b], [c, d]] = fingers.values();
    return { middle: [(a + c) / 2, (b + d) / 2], width: Math.max(1, Math.hypot(a - c, b - d)) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    const held = event.button === 1 || event.ctrlKey || event.metaKey;
    if (event.button > 1) return;
    fingers.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    app.point(-1);
    if (fingers.size > 1) {
      self.trail = grip = null;
      app.changed();
    } else if (held || app.good.brush === "move") grip = { from: at(event), last: at(event), still: !held };
    else {
      self.trail = [at(event)];
      before = event.shiftKey ? [...app.selected] : [];
    }
    if (held) event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return app.point(nearest(app, self, at(event)), self);
    if (fingers.size === 2) {
      const from = span();
      fingers.set(event.pointerId, at(event));
      const to = span();
      app.zoom(self, moveBy(to.middle[0] - from.middle[0], to.middle[1] - from.middle[1]));
      app.zoom(self, zoomBy(to.width / from.width, to.middle));
    } else if (grip) {
      const here = at(event);
      if (grip.still && near(here, grip.from)) return;
      grip.still = false;
      app.zoom(self, moveBy(here[0] - grip.last[0], here[1] - grip.last[1]));
      grip.last = here;
    } else if (self.trail) {
      self.trail.push(at(event));
      app.selected = new Set([...before, ...enclosed(app, self, corners(app, self.trail))]); // not yet in the model
      app.draw();
    }
  });
  const release = (event) => {
    const [trail, held] = [self.trail, grip];
    fingers.delete(event.pointerId);
    self.trail = grip = null;
    return [trail, held];
  };
  canvas.addEventListener("pointerup", (event) => {
    const [trail, held] = release(event);
    if (held?.still) click(event, event.shiftKey ? app.selected : []);
    if (!trail) return;
    if (trail.every((place) => near(place, trail[0]))) click(event, before);
    else {
      app.select(new Set([...before, ...enclosed(app, self, corners(app, trail))]));
      app.enlarge(-1);
      clicks = [];
    }
    app.changed(); // the model stays silent if the selection is the one it had
  });
  canvas.addEventListener("pointercancel", (event) => { release(event); app.changed(); });
  canvas.addEventListener("pointerleave", (event) => self.trail || event.pointerType === "touch" || app.point(-1));
  canvas.addEventListener("dblclick", (event) => {
    if (event.shiftKey) return;
    app.zoom(self, zoomOut);
    if (clicks.length < 2) return;
    app.select(clicks[0]); // the two clicks were none
    app.enlarge(-1);
  });
  // With two fingers the browser neither scrolls nor zooms the page.
  const both = (event) => event.touches.length > 1 && event.preventDefault();
  for (const name of ["touchstart", "touchmove"]) canvas.addEventListener(name, both, { passive: false });
  canvas.addEventListener("blur", () => app.point(-1));
  canvas.addEventListener("keydown", (event) => keys(app, self, event));
  return listenWheel(app, self, at);
}

function keys(app, self, event) {
  const browse = (by) => {
    const list = [...(event.shiftKey ? app.selected : app.data.labels.keys())].filter((i) => shown(app, self, i));
    const next = list.indexOf(app.hover) + by;
    if (!list.length) return;
    const image = list[(next + list.length) % list.length];
    app.reveal(self, image);
    app.point(image, self);
  };
  const choose = () => {
    const rest = [...app.selected].filter((i) => i !== app.hover);
    if (app.hover >= 0) app.select(app.selected.has(app.hover) ? rest : [...rest, app.hover]);
  };
  const step = self.canvas.width / 8;
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const moving = moves[event.key] && (event.ctrlKey || app.good.brush === "move");
  const action = moving ? () => app.zoom(self, moveBy(...moves[event.key])) : !event.ctrlKey && !event.metaKey && {
    ArrowLeft: () => app.step(-1), ArrowRight: () => app.step(1), Enter: choose, " ": choose,
    ArrowDown: () => browse(1), ArrowUp: () => browse(app.hover < 0 ? 0 : -1),
    "+": () => app.zoom(self, zoomBy(STEP)), "=": () => app.zoom(self, zoomBy(STEP)),
    "-": () => app.zoom(self, zoomBy(1 / STEP)), 0: () => app.zoom(self, zoomOut),
    Escape: () => {
      app.point(-1);
      if (app.large >= 0) app.enlarge(-1);
      else app.select([]);
    },
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
