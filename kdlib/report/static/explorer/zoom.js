// How a map is zoomed and moved.

const CLOSEST = 64; // times
const STEP = 1.5; // of a button or key

const whole = () => ({ factor: 1, x: 0, y: 0 }); // how many times, and which place is in the middle
const within = (value, limit) => Math.max(-limit, Math.min(limit, value));

/** From the square of int16 to pixels of a canvas, and back. */
function projection({ canvas: { width }, zoom: { factor, x: cx, y: cy } }) {
  const scale = (0.93 * width * factor) / 65534;
  const middle = width / 2;
  return { scale, x: (x) => middle + (x - cx) * scale, y: (y) => middle - (y - cy) * scale,
    back: ([x, y]) => [(x - middle) / scale + cx, cy - (y - middle) / scale] };
}

/** A zoom within its limits: the map never leaves the frame. */
function limited(factor, x, y) {
  const times = Math.max(1, Math.min(CLOSEST, factor));
  const limit = EDGE * (1 - 1 / times);
  return { factor: times, x: within(x, limit), y: within(y, limit) };
}

/** Zoom about a point of the canvas, which stays where it is; by default about the middle. */
function zoomBy(by, point) {
  return (self) => {
    const at = point || [self.canvas.width / 2, self.canvas.width / 2];
    const [x, y] = projection(self).back(at);
    const factor = Math.max(1, Math.min(CLOSEST, self.zoom.factor * by));
    const ratio = self.zoom.factor / factor;
    self.zoom = limited(factor, x + (self.zoom.x - x) * ratio, y + (self.zoom.y - y) * ratio);
  };
}

/** Move the map by so many pixels of the canvas. */
function moveBy(right, down) {
  return (self) => {
    const { scale } = projection(self);
    self.zoom = limited(self.zoom.factor, self.zoom.x - right / scale, self.zoom.y + down / scale);
  };
}

const zoomOut = (self) => { self.zoom = whole(); };

/** Bring some images into the frame, each map its own places; zoomed together, with one factor. */
function zoomOnto(panels, images, together) {
  const boxes = panels.map((self) => {
    const placed = images.filter(self.has);
    const [xs, ys] = [0, 1].map((axis) => placed.map((i) => self.target[2 * i + axis]));
    const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const side = Math.max(right - left, top - bottom, 1) * 1.15;
    return placed.length ? { factor: (2 * EDGE) / side, x: (left + right) / 2, y: (bottom + top) / 2 } : whole();
  });
  const least = Math.min(...boxes.map(({ factor }) => factor));
  panels.forEach((self, k) => {
    const { factor, x, y } = boxes[k];
    self.zoom = limited(Math.min(together ? least : factor, CLOSEST / 4), x, y);
  });
}

/** Buttons over the corner of a map. */
function zoomButtons(app, self) {
  const button = (words, label, change) => make("button", { type: "button", "aria-label": `${label}, ${self.side} map`,
    title: label, onclick: () => app.zoom(self, change) }, words);
  const reset = button("1 : 1", "Show the whole map", zoomOut);
  const out = button("−", "Zoom out", zoomBy(1 / STEP));
  return {
    element: make("div", { className: "kd-zoom", role: "group", "aria-label": `Zoom of the ${self.side} map` },
      button("+", "Zoom in", zoomBy(STEP)), out, reset),
    update() { out.disabled = reset.hidden = self.zoom.factor === 1; },
  };
}

/** The wheel zooms where the pointer was moved onto the map. A page that scrolls by under a pointer at
 *  rest goes on scrolling, and so does one whose map is already whole; Ctrl + wheel, which is also what
 *  pinching on a touchpad sends, zooms always. */
function listenWheel(app, self, at) {
  const { canvas } = self;
  let [meant, last] = [false, ""];
  canvas.addEventListener("pointermove", (event) => {
    const place = `${event.screenX} ${event.screenY}`; // a page that scrolls sends moves, too
    if (last && place !== last) meant = true;
    last = place;
  });
  canvas.addEventListener("pointerenter", (event) => { last = `${event.screenX} ${event.screenY}`; });
  canvas.addEventListener("pointerleave", () => { meant = false; });
  const scrolled = () => { meant = false; };
  window.addEventListener("scroll", scrolled, { passive: true, capture: true });
  canvas.addEventListener("wheel", (event) => {
    const held = event.ctrlKey || event.metaKey;
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    const inward = pixels < 0;
    if (!pixels || (!held && (!meant || (!inward && self.zoom.factor === 1)))) return;
    event.preventDefault();
    const strength = event.ctrlKey && Math.abs(pixels) < 40 ? 0.01 : 0.002; // pinching sends few pixels
    app.zoom(self, zoomBy(Math.exp(-within(pixels, 400) * strength), at(event)));
  }, { passive: false });
  return () => window.removeEventListener("scroll", scrolled, { capture: true });
}
