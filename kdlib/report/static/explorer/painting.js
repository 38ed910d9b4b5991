// Dots as pixels, images in their place where they fit, and over them neighbours and the brush.

/** One dot as its pixels: how far each is from the middle, and what to add there. */
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

const UNKNOWN_FILL = "#888"; // of images without a label, or without a number
const LOOKS = COLOURS.length * SHAPES.length; // of classes; after these they come again
const PASSES = [{ ring: false, alpha: 0.13 }, { ring: true, alpha: 0.13 }, { ring: false, alpha: 0.9 }, { ring: true, alpha: 0.9 }];

/** The stamps of all classes and shades, by pass; made anew when size or theme changes. */
function stamps(app, { canvas, image: { width } }) {
  const key = `${width} ${app.ink.text}`;
  if (app.stamps?.key === key) return app.stamps;
  const r = dotSize(app.data, canvas.width);
  const make = (fill, kind) => PASSES.map((pass) => stamp(app, r, fill, kind, pass, width));
  const looks = Math.min(LOOKS, app.data.classes.length);
  const classes = Array.from({ length: looks }, (_, c) => make(colour(c), shape(c)));
  classes[LOOKS] = make(UNKNOWN_FILL, "circle");
  const shades = [...SHADES, UNKNOWN_FILL].map((fill) => make(fill, "circle"));
  app.stamps = { key, classes, shades };
  return app.stamps;
}

/** Which images are painted, in which order and as what: faded dots first, misclassified ones last, so that
 *  the important ones are never covered. */
function order(app, { side }) {
  const { data, selected, hidden, pointed } = app;
  const [part, shade] = [app.part(side), app.shade()];
  const level = (share) => (share < 0 ? SHADES.length : Math.min(SHADES.length - 1, Math.floor(share * SHADES.length)));
  const errors = shade === "error" && part.errors(app.at("embedding"), app.own(side));
  const changed = shade === "change" && changes(app.near("left"), app.near("right"), data.n);
  const passes = PASSES.map(() => []);
  data.labels.forEach((c, i) => {
    if (hidden.has(c)) return;
    const bright = (!selected.size || selected.has(i)) && (pointed < 0 || c === pointed);
    passes[2 * bright + app.wrong(side, i)].push(i);
  });
  const which = Uint16Array.from(data.labels, (c, i) => (changed ? level(changed[i])
    : errors ? level(errors[i] === UNKNOWN ? -1 : errors[i] / (UNKNOWN - 1)) : c < 0 ? LOOKS : c % LOOKS));
  return { passes: passes.map((images) => Uint32Array.from(images)), which, kind: shade === "class" ? "classes" : "shades" };
}

/** Size a canvas to the pixels of the screen; false while it is not on the page. The pixels have a margin
 *  for dots that lie partly outside. */
function fit(app, self) {
  const { canvas, pen } = self;
  const w = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (w && canvas.width !== w) canvas.width = canvas.height = w;
  const margin = 2 * Math.ceil(dotSize(app.data, w) * 1.6);
  if (w && self.image?.width !== w + 2 * margin) {
    self.image = pen.createImageData(w + 2 * margin, w + 2 * margin);
    self.pixels = new Uint32Array(self.image.data.buffer);
    self.margin = margin;
  }
  return w > 0;
}

function dotSize({ n }, width) {
  return Math.max(1.6 * (window.devicePixelRatio || 1), width / (n > 2500 ? 170 : n > 700 ? 125 : 90));
}

const LEAST_PICTURE = 18; // pixels of the screen, from which on images stand in for dots
const MOST_PICTURE = 72;
const LEAST_ZOOM = 1.5;

/** How large images are drawn, 0 where dots are: they grow with the map, and begin where the images, spread
 *  evenly, would fill a quarter of it. */
function pictureSize({ data, picture }, { canvas, zoom }) {
  const pixels = window.devicePixelRatio || 1;
  const side = (canvas.width * zoom.factor) / Math.sqrt(data.n) / 2;
  if (!picture || zoom.factor < LEAST_ZOOM || side < LEAST_PICTURE * pixels) return 0;
  return Math.min(side, MOST_PICTURE * pixels);
}

/** Lay every dot over the paper, pixel by pixel: many times as fast as asking the canvas to draw
 *  each. Two colours are mixed at once, in the two halves of a number. Returns how many dots of all there are,
 *  in the frame or not. */
function paint(app, self) {
  const { canvas, image, pixels, margin, order: { passes, which, kind }, dots: { now } } = self;
  const { x, y } = projection(self);
  const known = stamps(app, self)[kind];
  const [low, high] = [-margin / 2, canvas.width + margin / 2];
  pixels.fill(app.ink.pixel);
  paintRegions(app, self);
  self.pictureSize = pictureSize(app, self);
  let count = 0;
  passes.forEach((images, pass) => {
    for (const i of images) {
      if (now[2 * i] <= MISSING) continue;
      count++;
      if (self.pictureSize) continue;
      const [across, down] = [Math.round(x(now[2 * i])), Math.round(y(now[2 * i + 1]))];
      if (across < low || across >= high || down < low || down >= high) continue;
      const middle = (down + margin) * image.width + across + margin;
      const { where, rest, redBlue, green } = known[which[i]][pass];
      for (let k = 0; k < where.length; k++) {
        const at = middle + where[k];
        const under = pixels[at];
        pixels[at] = 0xff000000
          | (((redBlue[k] + Math.imul(under & 0xff00ff, rest[k])) >>> 8) & 0xff00ff)
          | (((green[k] + Math.imul(under & 0x00ff00, rest[k])) >>> 8) & 0x00ff00);
      }
    }
  });
  return count;
}

/** The images themselves in the place of dots, framed in their dots' colours; dark frames are misclassified. */
function drawPictures(app, self) {
  const { pen, canvas, pictureSize: side, order: { passes, which, kind }, dots: { now } } = self;
  const { x, y } = projection(self);
  const [w, h, columns] = app.data.tile;
  const [wide, high] = [(side * w) / Math.max(w, h), (side * h) / Math.max(w, h)];
  const edge = Math.max(1.5 * (window.devicePixelRatio || 1), side / 14);
  pen.imageSmoothingEnabled = w >= 24;
  passes.forEach((images, pass) => {
    const { ring, alpha } = PASSES[pass];
    pen.globalAlpha = alpha;
    for (const i of images) {
      if (now[2 * i] <= MISSING) continue;
      const [left, top] = [x(now[2 * i]) - wide / 2, y(now[2 * i + 1]) - high / 2];
      if (left > canvas.width || top > canvas.width || left + wide < 0 || top + high < 0) continue;
      if (ring) {
        pen.fillStyle = app.ink.text;
        pen.fillRect(left - 2 * edge, top - 2 * edge, wide + 4 * edge, high + 4 * edge);
      }
      pen.fillStyle = fills(kind)[which[i]];
      pen.fillRect(left - edge, top - edge, wide + 2 * edge, high + 2 * edge);
      pen.drawImage(app.picture, (i % columns) * w, Math.floor(i / columns) * h, w, h, left, top, wide, high);
    }
  });
  pen.globalAlpha = 1;
}

/** The colours that `order` numbers, of classes or shades. */
const fills = (kind) => (kind === "classes"
  ? Array.from({ length: LOOKS + 1 }, (_, c) => (c === LOOKS ? UNKNOWN_FILL : colour(c))) : [...SHADES, UNKNOWN_FILL]);

function message({ ink }, pen, words) {
  const w = pen.canvas.width;
  pen.fillStyle = ink.text;
  pen.font = `${w / 26}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.fillText(words, w / 2, w / 2);
}

/** The painted dots or images, and over them names, the hovered image with its neighbours, and the brush. */
function drawMarks(app, self) {
  const { pen, image, margin, trail, place } = self;
  const r = Math.max(dotSize(app.data, self.canvas.width), self.pictureSize / 3.5);
  pen.putImageData(image, -margin, -margin);
  if (self.pictureSize) drawPictures(app, self);
  if (!self.dotCount) message(app, pen, app.hidden.size ? "these classes are hidden" : "no map of this layer was stored");
  else if (app.good.names || app.pointed >= 0) classNames(app, self);
  pen.strokeStyle = app.ink.text;
  if (app.large >= 0 && self.has(app.large)) circle(pen, place(app.large), r * 2.3, r * 0.55);
  if (app.hover >= 0 && self.has(app.hover)) {
    drawNeighbours(app, self, Math.min(r, dotSize(app.data, self.canvas.width) * 1.5));
    circle(pen, place(app.hover), r * 2.3, Math.min(r * 0.55, 4 * (window.devicePixelRatio || 1)));
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
