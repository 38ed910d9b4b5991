// Single images: the tooltip, the selection, and the line of Python.

/** An image with its longer side of about so many pixels; its number, where there are no images. */
function thumbnail(app, image, pixels) {
  if (!app.data.tile) return make("span", { className: "kd-muted" }, `#${image}`);
  const [w, h, columns] = app.data.tile;
  const zoom = Math.max(1, Math.round(pixels / Math.max(w, h)));
  return make("span", { className: "kd-thumb", style: `width:${w * zoom}px;height:${h * zoom}px;`
    + `background:url(${app.sheet}) -${(image % columns) * w * zoom}px -${Math.floor(image / columns) * h * zoom}px`
    + ` / ${w * columns * zoom}px auto;image-rendering:${w < 24 ? "pixelated" : "auto"}` });
}

/** The image at the pointer: its class, and what both networks predict. */
function tooltip(app) {
  const { data } = app;
  const element = make("div", { className: "kd-tip", hidden: true, role: "status" });
  const prediction = (side, image) => {
    if (!app.part(side).predicts) return "";
    const predicted = app.part(side).prediction(image);
    const bad = app.part(side).wrong(image);
    return make("div", { className: `kd-network kd-${side}` }, make("i", { className: "kd-mark" }),
      `${app.network(side).short}: `, make("b", { className: bad ? "kd-bad" : "" }, `${data.classes[predicted] ?? "?"} ${bad ? "✗" : "✓"}`));
  };
  /** How many of the lines end at images of the same class. */
  const sameClass = (image) => {
    const counts = SIDES.map((side) => [...(app.near(side)?.subarray(image * NEAREST, (image + 1) * NEAREST) || [])]
      .filter((i) => data.labels[i] === data.labels[image]).length);
    const where = app.layer("left") === app.layer("right") ? app.layer("left") : "the layer";
    return `lines: its ${NEAREST} nearest in ${where}${data.labels[image] < 0 ? "" : `, ${counts[0]} left and ${counts[1]} right of its class`}`;
  };
  return {
    element,
    show(image, from) {
      element.hidden = image < 0 || !from?.place(image);
      if (element.hidden) return;
      const lines = app.near("left") && app.near("right");
      const known = data.labels[image] < 0 ? [] : ["class ", make("b", {}, data.classes[data.labels[image]] ?? "?"), " · "];
      element.replaceChildren(...(data.tile ? [thumbnail(app, image, 72)] : []), make("div", {}, make("div", {},
        ...known, make("span", { className: "kd-muted" }, `image ${image}`)),
        ...SIDES.map((s) => prediction(s, image)), make("div", { className: "kd-muted kd-company", hidden: !lines }, lines ? sameClass(image) : "")));
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

/** The line of Python that shows the same view live: only what differs from the view that opens. */
function python({ model, data }) {
  const { defaults, study, share } = data;
  const text = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value).replaceAll(",", ", "));
  const differs = (key) => JSON.stringify(model.get(key)) !== JSON.stringify(defaults[key]);
  const keys = share.filter((key) => differs(key) || (key === "right" && differs("left")));
  const options = keys.map((key) => `, ${key}=${text(model.get(key))}`).join("");
  return `from kdlib import store; from kdlib.report import explorer; explorer.show(store.load(${text(study)})${options})`;
}

/** The selected images, and how many of them each network gets wrong. */
function selection(app) {
  const { data } = app;
  const most = 60;
  const differ = (badSide, goodSide) => [...data.labels.keys()].filter(
    (i) => app.part(badSide).wrong(i) && !app.part(goodSide).wrong(i));
  const fixedBy = make("button", { type: "button", onclick: () => app.select(differ("left", "right")),
    title: "Select what the left network gets wrong and the right network right" });
  const lostBy = make("button", { type: "button", onclick: () => app.select(differ("right", "left")),
    title: "Select what the left network gets right and the right network wrong" });
  const reset = make("button", { type: "button", onclick: () => app.reset() }, "Reset");
  const line = make("code", { className: "kd-python", tabIndex: 0, hidden: true });
  const status = make("span", { className: "kd-muted", role: "status" });
  const copy = make("button", { type: "button", title: "The line that shows this view in JupyterLab", onclick: async () => {
    line.hidden = false;
    getSelection().selectAllChildren(line);
    const done = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    status.textContent = done ? "copied" : "press Ctrl + C to copy";
  } }, "Copy Python");
  const count = make("p", { className: "kd-count", "aria-live": "polite" });
  const strip = make("div", { className: "kd-strip" });
  const item = (i) => {
    const thumb = thumbnail(app, i, 32);
    const marks = SIDES.map((s) => make("i", { className: app.part(s).wrong(i) ? "kd-bad" : "" }));
    const predictions = SIDES.filter((s) => app.part(s).predicts)
      .map((s) => `${app.network(s).short} predicts ${data.classes[app.part(s).prediction(i)] ?? "?"}`).join(", ");
    const known = data.labels[i] < 0 ? "" : `, class ${data.classes[data.labels[i]]}`;
    return make("span", { className: "kd-item", title: `image ${i}${known}${predictions && `: ${predictions}`}`,
      onpointerenter: () => app.point(i), onpointerleave: () => app.point(-1) }, thumb, make("span", { className: "kd-marks" }, ...marks));
  };
  return {
    element: make("div", { className: "kd-selection" },
      make("div", { className: "kd-actions" }, count, fixedBy, lostBy, copy, status, reset), line, strip),
    update() {
      if (line.textContent !== python(app)) status.textContent = "";
      line.textContent = python(app);
      const [a, b] = SIDES.map(app.network);
      const judged = data.classes.length > 0 && SIDES.every((s) => app.part(s).predicts);
      fixedBy.hidden = lostBy.hidden = !judged;
      copy.hidden = !data.study;
      const [won, lost] = a.kind === "baseline" && b.kind === "distilled"
        ? ["distillation puts right", "distillation gets newly wrong"]
        : a.short !== b.short ? [`only ${b.short} is right`, `only ${a.short} is right`] : ["only right-hand is right", "only left-hand is right"];
      fixedBy.textContent = `${won}: ${differ("left", "right").length}`;
      lostBy.textContent = `${lost}: ${differ("right", "left").length}`;
      const images = [...app.selected].sort((i, j) => data.labels[i] - data.labels[j] || i - j);
      const bad = (s) => images.filter((i) => app.part(s).wrong(i)).length;
      count.textContent = images.length
        ? `${thousands(images.length)} of ${thousands(data.n)} images selected${judged ? `; wrong: ${bad("left")} left, ${bad("right")} right` : ""}`
        : `Drag over either map to follow those images through both networks; point at a dot to see ${data.tile ? "its image" : "which it is"}.`;
      strip.hidden = !images.length;
      strip.replaceChildren(...images.slice(0, most).map(item));
      if (images.length > most) strip.append(make("span", { className: "kd-muted" }, `and ${thousands(images.length - most)} more`));
    },
  };
}
