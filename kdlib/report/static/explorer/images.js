// Single images: as thumbnails, at the pointer, and large.

/** An image with its longer side of about so many pixels; its number, where there are no images. */
function thumbnail(app, image, pixels) {
  if (!app.data.tile) return make("span", { className: "kd-muted" }, `#${image}`);
  const [w, h, columns] = app.data.tile;
  const zoom = Math.max(1, Math.round(pixels / Math.max(w, h)));
  return make("span", { className: "kd-thumb", style: `width:${w * zoom}px;height:${h * zoom}px;`
    + `background:url(${app.sheet}) -${(image % columns) * w * zoom}px -${Math.floor(image / columns) * h * zoom}px`
    + ` / ${w * columns * zoom}px auto;image-rendering:${w < 24 ? "pixelated" : "auto"}` });
}

/** What a network predicts of an image, right or wrong. */
function predictionLine(app, side, image) {
  if (!app.part(side).predicts) return "";
  const bad = app.wrong(side, image);
  return make("div", { className: `kd-network kd-${side}` }, make("i", { className: "kd-mark" }),
    `${app.network(side).short}: `, make("b", { className: bad ? "kd-bad" : "" }, `${app.data.classes[app.predicted[side][image]] ?? "?"} ${bad ? "✗" : "✓"}`));
}

/** Class and number of an image. */
function imageWords({ data }, image) {
  const known = data.labels[image] < 0 ? [] : ["class ", make("b", {}, data.classes[data.labels[image]] ?? "?"), " · "];
  return make("div", {}, ...known, make("span", { className: "kd-muted" }, `image ${image}`));
}

const nearIn = (app, side, image) => [...(app.near(side)?.subarray(image * NEAREST, (image + 1) * NEAREST) || [])].filter((i) => i !== MISSING);

/** Which part of the window a page can be seen in: a header may stay at its top. */
function inSight() {
  const heads = [...document.querySelectorAll(".bd-header, .bd-header-article")].map((head) => head.getBoundingClientRect().bottom);
  return [Math.max(0, ...heads.filter((bottom) => bottom < innerHeight / 2)) + 4, innerHeight - 4];
}

const isNarrow = (app) => app.root.clientWidth <= 600;

/** What the text calls the networks of both sides. */
function sideNames(app) {
  const [left, right] = SIDES.map((side) => app.network(side).short);
  return left === right ? SIDES : [left, right];
}

/** Lay a box beside an image's place on a map: where it covers the fewest ends of lines and the fewest dots, if
 *  need be above or below the map, and never out of sight. What can be closed keeps to the map, since it would
 *  cover the controls until then; on a narrow page it takes the end of the window that is farther from the dot. */
function layBeside(app, element, image, from, maps, closes = false) {
  const outer = app.root.getBoundingClientRect();
  const boxes = new Map([from, ...maps].map((self) => [self, self.canvas.getBoundingClientRect()])); // once, not for each dot
  const onPage = (self, [x, y]) => {
    const inner = boxes.get(self);
    const scale = inner.width / self.canvas.width;
    return [inner.left - outer.left + x * scale, inner.top - outer.top + y * scale];
  };
  const box = boxes.get(from);
  const [x, y] = onPage(from, from.place(image));
  const ends = maps.flatMap((self) => [image, ...nearIn(app, self.side, image)].filter(self.has).map((i) => onPage(self, self.place(i))));
  const every = Math.ceil(app.data.n / 1000);
  const dots = maps.flatMap((self) => Array.from({ length: Math.ceil(app.data.n / every) }, (_, k) => k * every).filter((i) => shown(app, self, i)).map((i) => onPage(self, self.place(i))));
  const [w, h] = [element.offsetWidth, element.offsetHeight];
  const inside = (left) => Math.max(4, Math.min(left, outer.width - w - 4));
  const [first, last] = inSight().map((edge) => edge - outer.top);
  const within = (top) => Math.max(first, Math.min(top, last - h));
  const covers = (points, [left, top]) => points.filter(([a, b]) => a > left - 6 && a < left + w + 6 && b > top - 6 && b < top + h + 6).length;
  const [above, below] = [box.top - outer.top - h - 4, box.bottom - outer.top + 4];
  const places = [x + 18, x - 18 - w, x - w / 2].flatMap((left) => [y - h / 2, y - h - 18, y + 18, above, below]
    .map((top) => [inside(left), within(top)]));
  const outsideMap = (top) => top + outer.top < box.top || top + h + outer.top > box.bottom;
  const cost = (place) => 10 * covers(ends, place) + (200 * covers(dots, place)) / Math.max(1, dots.length)
    + Math.hypot(place[0] + w / 2 - x, place[1] + h / 2 - y) / 60 + (closes && outsideMap(place[1]) ? 100 : 0);
  const [left, top] = closes && isNarrow(app) ? [4, 2 * y < first + last ? last - h : first] : places.map((place) => [cost(place), place]).reduce((best, one) => (one[0] < best[0] ? one : best))[1];
  element.style.left = `${left}px`;
  element.style.top = `${top}px`;
}

/** The image at the pointer: its class, and what both networks predict. */
function tooltip(app, maps) {
  const { data } = app;
  const element = make("div", { className: "kd-tip", hidden: true, role: "status" });
  /** How many of the lines end at images of the same class. */
  const sameClass = (image) => {
    const counts = SIDES.map((side) => nearIn(app, side, image).filter((i) => data.labels[i] === data.labels[image]).length);
    const where = app.layer("left") === app.layer("right") ? app.layer("left") : "the layer";
    const names = sideNames(app);
    return `lines: its ${NEAREST} nearest in ${where}${data.labels[image] < 0 ? "" : `; of its class: ${names.map((name, k) => `${counts[k]} (${name})`).join(", ")}`}`;
  };
  return {
    element,
    show(image, from) {
      element.hidden = image < 0 || image === app.large || !from?.place(image);
      if (element.hidden) return;
      const lines = app.near("left") && app.near("right");
      element.replaceChildren(...(data.tile ? [thumbnail(app, image, 72)] : []), make("div", {}, imageWords(app, image),
        ...SIDES.map((s) => predictionLine(app, s, image)), make("div", { className: "kd-muted kd-company", hidden: !lines }, lines ? sameClass(image) : "")));
      layBeside(app, element, image, from, maps);
    },
  };
}

/** One image large, with what both networks predict and the images nearest to it in the layer. */
function card(app, maps) {
  const { data } = app;
  const close = make("button", { type: "button", "aria-label": "Close the image", onclick: () => app.enlarge(-1) }, "✕");
  const body = make("div", { className: "kd-card-body" });
  const element = make("div", { className: "kd-card", role: "dialog", hidden: true }, body, close);
  const small = (i) => make("span", { title: `image ${i}${data.labels[i] < 0 ? "" : `, class ${data.classes[data.labels[i]]}`}`,
    onpointerenter: () => app.point(i), onpointerleave: () => app.point(-1) }, thumbnail(app, i, 28));
  const row = (side) => {
    const near = nearIn(app, side, app.large);
    return near.length ? [make("div", {}, make("div", { className: `kd-network kd-${side}` }, make("i", { className: "kd-mark" }),
      make("span", { className: "kd-muted" }, `${app.network(side).short}: nearest in ${app.layer(side)}`)), make("div", { className: "kd-nearest" }, ...near.map(small)))] : [];
  };
  return {
    element,
    update() {
      element.hidden = app.large < 0;
      if (element.hidden) return;
      element.setAttribute("aria-label", `Image ${app.large}`);
      body.replaceChildren(...(data.tile ? [thumbnail(app, app.large, isNarrow(app) ? 96 : 192)] : []), make("div", {}, imageWords(app, app.large),
        ...SIDES.map((s) => predictionLine(app, s, app.large)), make("div", { className: "kd-rows" }, ...SIDES.flatMap(row))));
    },
    /** Beside the image's dot on a map. */
    place(from) {
      if (app.large >= 0 && from.place(app.large)) layBeside(app, element, app.large, from, maps, true);
    },
  };
}
