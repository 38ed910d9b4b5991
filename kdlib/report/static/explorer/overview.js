// All layers at once: a small map for each layer of both networks.

const SMALL = 92; // pixels of the screen

/** Dots of one pixel or two, by class, the images that are not selected pale. */
function miniature(app, canvas, map) {
  const pen = canvas.getContext("2d");
  const { width } = canvas;
  const picture = pen.createImageData(width, width);
  const pixels = new Uint32Array(picture.data.buffer);
  const tint = tinting(app);
  const [bright, pale] = [1, 0.15].map((weight) => app.data.classes.map((_, c) => tint(c, weight)));
  const dot = Math.max(1, Math.round(width / 60));
  const scale = (width - 2 * dot) / (2 * EDGE);
  pixels.fill(app.ink.pixel);
  const lay = (i, colours) => {
    const [x, y] = [Math.floor((map[2 * i] + EDGE) * scale), Math.floor((EDGE - map[2 * i + 1]) * scale)];
    const value = colours[app.data.labels[i]] ?? 0xff888888;
    for (let r = 0; r < dot; r++) for (let c = 0; c < dot; c++) pixels[(y + r + 1) * width + x + c + 1] = value;
  };
  const there = [...app.data.labels.keys()].filter((i) => map[2 * i] > MISSING && app.visible(i));
  const chosen = app.selected.size ? there.filter((i) => app.selected.has(i)) : there;
  if (app.selected.size) there.forEach((i) => lay(i, pale));
  chosen.forEach((i) => lay(i, bright));
  pen.putImageData(picture, 0, 0);
}

/** A row for each network, a column for each layer; a click on one goes there. */
function overview(app) {
  const element = make("div", { className: "kd-overview", role: "group", "aria-label": "All layers", hidden: true });
  const go = (stop) => app.go(stop);
  let cells = [];
  const build = () => {
    const pixels = Math.round(SMALL * (window.devicePixelRatio || 1));
    cells = SIDES.flatMap((side) => Array.from({ length: app.stops() }, (_, stop) => {
      const canvas = make("canvas", { width: pixels, height: pixels, "aria-hidden": "true", "aria-label": "small map" });
      const name = make("span", {});
      return { side, stop, canvas, name,
        button: make("button", { type: "button", className: `kd-small kd-${side}`, onclick: () => go(stop) }, canvas, name) };
    }));
    element.style.setProperty("--n", app.stops());
    element.replaceChildren(...cells.map(({ button }) => button));
  };
  return {
    element,
    update() {
      element.hidden = !app.good.overview;
      if (element.hidden) return;
      if (cells.length !== 2 * app.stops()) build();
      for (const { side, stop, canvas, name, button } of cells) {
        const part = app.part(side);
        name.textContent = app.layer(side, stop);
        button.setAttribute("aria-label", `${app.layer(side, stop)} of ${app.network(side).name}`);
        button.setAttribute("aria-pressed", String(stop === app.stop()));
        miniature(app, canvas, part.map(app.at("embedding"), app.own(side, stop)));
      }
    },
  };
}
