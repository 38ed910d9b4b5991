// What is selected: which images, how both networks do on them, as a table to keep; and the line of Python.

/** The line of Python that shows the same view live: only what differs from the view that opens. */
function python({ model, data }) {
  const { defaults, study, share } = data;
  const text = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value).replaceAll(",", ", "));
  const differs = (key) => JSON.stringify(model.get(key)) !== JSON.stringify(defaults[key]);
  const keys = share.filter((key) => differs(key) || (key === "right" && differs("left")));
  const options = keys.map((key) => `, ${key}=${text(model.get(key))}`).join("");
  return `from kdlib import store; from kdlib.report import explorer; explorer.show(store.load(${text(study)})${options})`;
}

/** A cell of a table: quoted where needed, and never a formula to the program that opens it. */
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : `${value}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The selected images as CSV: number, class, and what each network predicts. */
function table(app, images) {
  const { data } = app;
  const sides = SIDES.filter((side) => app.part(side).predicts);
  const name = (c) => data.classes[c] ?? "";
  const rows = images.map((i) => [i, name(data.labels[i]), ...sides.map((side) => name(app.predicted[side][i]))]);
  return [["image", "class", ...sides.map((side) => `${side}: ${app.network(side).name}${app.known[side] && app.epoch !== TRAINED ? `, ${moment(app.epoch)}` : ""}`)], ...rows]
    .map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const MOST_CLASSES = 8; // that are named with their counts

/** The classes of some images, the most frequent first: "cat 12, dog 5". */
function classCounts({ data }, images) {
  const counts = new Map();
  for (const i of images) counts.set(data.labels[i], (counts.get(data.labels[i]) || 0) + 1);
  const known = [...counts].filter(([c]) => c >= 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  const words = known.slice(0, MOST_CLASSES).map(([c, count]) => `${data.classes[c]} ${thousands(count)}`);
  const rest = known.length - words.length;
  return words.join(", ") + (rest > 0 ? ` and ${rest} more classes` : "");
}

/** Of some images, the nearest to their mean place on a map and the farthest from it; null without places. */
function extremes(map, images) {
  const placed = images.filter((i) => map[2 * i] > MISSING);
  if (!placed.length) return null;
  const [x, y] = centre(map, placed);
  const far = (i) => Math.hypot(map[2 * i] - x, map[2 * i + 1] - y);
  return { nearest: placed.reduce((a, b) => (far(b) < far(a) ? b : a)), farthest: placed.reduce((a, b) => (far(b) > far(a) ? b : a)) };
}

/** What a selection is: its classes, each network's accuracy on it, and the members nearest to its middle and
 *  farthest from it on each map. */
function about(app, maps) {
  const element = make("div", { className: "kd-about" });
  const member = (words, i) => make("button", { type: "button", className: "kd-member", title: `image ${i}: show it large`,
    onpointerenter: () => app.point(i), onpointerleave: () => app.point(-1), onclick: () => app.enlarge(i) }, `${words} `, thumbnail(app, i, 24));
  const side = (self, images) => {
    const part = app.part(self.side);
    const judged = images.filter((i) => app.data.labels[i] >= 0);
    const right = judged.filter((i) => !app.wrong(self.side, i)).length;
    const accuracy = part.predicts && judged.length ? [make("b", {}, percent(right / judged.length)), ` accuracy (${right} of ${judged.length})`] : [];
    const ends = extremes(self.target, images);
    return make("div", { className: `kd-network kd-${self.side}` }, make("i", { className: "kd-mark" }), make("span", {}, `${app.network(self.side).short}: `, ...accuracy),
      ...(ends && images.length > 2 ? [make("span", { className: "kd-muted" }, "from its mean on this map"), member("nearest", ends.nearest), member("farthest", ends.farthest)] : []));
  };
  return {
    element,
    update(images) {
      element.hidden = !images.length;
      if (element.hidden) return;
      const counts = classCounts(app, images);
      element.replaceChildren(...(counts ? [make("div", { className: "kd-classes" }, counts)] : []), ...maps.map((self) => side(self, images)));
    },
  };
}

const FEW = 60; // thumbnails that are there at first
const MORE = 1000; // that come with each click

/** The selected images as thumbnails; arrow keys go from one to the next. */
function strip(app) {
  const { data } = app;
  const element = make("div", { className: "kd-strip", role: "group", "aria-label": "Selected images" });
  let [most, before] = [FEW, ""];
  const item = (i) => {
    const marks = SIDES.map((s) => make("i", { className: app.wrong(s, i) ? "kd-bad" : "" }));
    const predictions = SIDES.filter((s) => app.part(s).predicts)
      .map((s) => `${app.network(s).short} predicts ${data.classes[app.predicted[s][i]] ?? "?"}`).join(", ");
    const known = data.labels[i] < 0 ? "" : `, class ${data.classes[data.labels[i]]}`;
    const words = `image ${i}${known}${predictions && `: ${predictions}`}`;
    return make("button", { type: "button", className: "kd-item", title: words, "aria-label": words, tabIndex: -1,
      onfocus: (event) => event.target.matches(":focus-visible") && app.point(i), onblur: () => app.point(-1), onclick: () => app.enlarge(i),
      onpointerenter: () => app.point(i), onpointerleave: () => app.point(-1) }, thumbnail(app, i, 32), make("span", { className: "kd-marks" }, ...marks));
  };
  element.addEventListener("keydown", (event) => {
    const items = [...element.querySelectorAll(".kd-item")];
    const at = items.indexOf(event.target);
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by || at < 0) return;
    event.preventDefault();
    const next = items[(at + by + items.length) % items.length];
    items.forEach((one) => { one.tabIndex = one === next ? 0 : -1; });
    next.focus();
  });
  const more = (images) => {
    const rest = images.length - most;
    if (rest > 0) return [make("button", { type: "button", className: "kd-more", onclick: () => { most += MORE; fill(images); } }, `and ${thousands(rest)} more`)];
    return most > FEW ? [make("button", { type: "button", className: "kd-more", onclick: () => { most = FEW; fill(images); } }, "fewer")] : [];
  };
  const fill = (images) => {
    element.hidden = !images.length;
    element.replaceChildren(...images.slice(0, most).map(item), ...more(images));
    const first = element.querySelector(".kd-item");
    if (first) first.tabIndex = 0;
  };
  return {
    element,
    update(images) {
      const now = `${images}`;
      if (now !== before) most = FEW;
      before = now;
      fill(images);
    },
  };
}

/** An image by its number. */
function finder(app, maps) {
  const field = make("input", { type: "number", min: 0, max: app.data.n - 1, step: 1, placeholder: "number", "aria-label": "Find an image by its number" });
  const words = make("span", { className: "kd-muted", role: "status" });
  const find = () => {
    const image = Number(field.value);
    const there = field.value !== "" && Number.isInteger(image) && image >= 0 && image < app.data.n;
    words.textContent = !there ? `0 to ${app.data.n - 1}` : app.visible(image) ? "" : "its class is hidden";
    if (!there || !app.visible(image)) return;
    app.select([image]);
    app.enlarge(image);
    maps.forEach((self) => app.reveal(self, image));
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    find();
  });
  return make("span", { className: "kd-find" }, "image ", field, make("button", { type: "button", onclick: find }, "Find"), words);
}

/** The selected images, what can be done with them, and buttons that select what the networks disagree on. */
function selection(app, maps) {
  const { data } = app;
  const differ = (badSide, goodSide) => [...data.labels.keys()].filter(
    (i) => app.visible(i) && app.wrong(badSide, i) && !app.wrong(goodSide, i));
  const button = (words, title, onclick) => make("button", { type: "button", title, onclick }, words);
  const fixedBy = button("", "Select what the left network gets wrong and the right network right", () => app.select(differ("left", "right")));
  const lostBy = button("", "Select what the left network gets right and the right network wrong", () => app.select(differ("right", "left")));
  const near = button("Zoom to the selection", "Bring the selected images into the frames of both maps", () => app.zoomOnto([...app.selected]));
  const save = button("Download CSV", "The selected images as a table: number, class, predictions", () => download("selection.csv", table(app, sorted())));
  const reset = button("Reset", "Everything as it was at first", () => {
    line.hidden = true;
    app.reset();
  });
  const line = make("code", { className: "kd-python", tabIndex: 0, hidden: true });
  const status = make("span", { className: "kd-muted", role: "status" });
  const copy = make("button", { type: "button", title: "The line that shows this view in JupyterLab", onclick: async () => {
    line.hidden = false;
    getSelection().selectAllChildren(line);
    const done = await navigator.clipboard?.writeText(line.textContent).then(() => true, () => false);
    status.textContent = done ? "copied" : "press Ctrl + C to copy";
  } }, "Copy Python");
  const count = make("p", { className: "kd-count", "aria-live": "polite" });
  const sorted = () => [...app.selected].sort((i, j) => data.labels[i] - data.labels[j] || i - j);
  const [facts, images] = [about(app, maps), strip(app)];
  return {
    element: make("div", { className: "kd-selection" },
      make("div", { className: "kd-actions" }, count, fixedBy, lostBy, near, save, finder(app, maps), copy, status, reset), line, facts.element, images.element),
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
      const chosen = sorted();
      const bad = (s) => chosen.filter((i) => app.wrong(s, i)).length;
      near.disabled = save.disabled = !chosen.length;
      const [first, second] = sideNames(app);
      count.textContent = chosen.length
        ? `${thousands(chosen.length)} of ${thousands(data.n)} images selected${judged ? `; misclassified by ${first}: ${bad("left")}, by ${second}: ${bad("right")}` : ""}`
        : `Drag over either map to follow those images through both networks; point at a dot to see ${data.tile ? "its image" : "which it is"}.`;
      facts.update(chosen);
      images.update(chosen);
    },
  };
}
