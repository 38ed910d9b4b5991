// Pointer and keyboard on a map.

/** The outline of the brush: the trail itself, or the box between its ends. */
function corners(app, trail) {
  if (app.good.brush === "lasso") return trail;
  const [[a, b], [c, d]] = [trail[0], trail[trail.length - 1]];
  return [[a, b], [c, b], [c, d], [a, d]];
}

/** The images inside an outline: a ray from inside crosses it an odd number of times. */
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
  return [...app.data.labels.keys()].filter((i) => visible(app, self, i) && inside(now[2 * i], now[2 * i + 1]));
}

const visible = (app, self, i) => self.has(i) && !app.hidden.has(app.data.labels[i]);

/** The image nearest to a point of the canvas, -1 where none is near. */
function nearest(app, self, point) {
  const { scale, back } = projection(self.canvas);
  const [x, y] = back(point);
  const { now } = self.dots;
  let [best, image] = [(self.canvas.width / 28 / scale) ** 2, -1];
  for (let i = 0; i < app.data.n; i++) {
    const distance = (now[2 * i] - x) ** 2 + (now[2 * i + 1] - y) ** 2;
    if (distance < best && visible(app, self, i)) [best, image] = [distance, i];
  }
  return image;
}

function listen(app, self) {
  const { canvas } = self;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  let before = []; // with Shift, the images dragged over join those selected before
  const small = () => self.trail.every(([x, y]) => Math.hypot(x - self.trail[0][0], y - self.trail[0][1]) < 5 * (window.devicePixelRatio || 1));
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    self.trail = [at(event)];
    before = event.shiftKey ? [...app.selected] : [];
    canvas.setPointerCapture(event.pointerId);
    app.point(-1);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!self.trail) return app.point(nearest(app, self, at(event)), self);
    self.trail.push(at(event));
    app.selected = new Set([...before, ...enclosed(app, self, corners(app, self.trail))]); // not yet in the model
    app.draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!self.trail) return;
    const image = small() ? nearest(app, self, at(event)) : -1;
    const images = small() ? [image].filter((i) => i >= 0) : enclosed(app, self, corners(app, self.trail));
    self.trail = null;
    app.select(new Set([...before, ...images]));
    app.changed(); // the model stays silent if the selection is the one it had
    app.point(image, self);
  });
  canvas.addEventListener("pointercancel", () => { self.trail = null; app.changed(); });
  canvas.addEventListener("pointerleave", (event) => self.trail || event.pointerType === "touch" || app.point(-1));
  canvas.addEventListener("blur", () => app.point(-1));
  canvas.addEventListener("keydown", (event) => {
    const browse = (by) => {
      const list = [...(event.shiftKey ? app.selected : app.data.labels.keys())].filter((i) => visible(app, self, i));
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
