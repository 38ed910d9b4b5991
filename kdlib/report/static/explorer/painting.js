// Dots as pixels, and over them class names, neighbours and the brush.

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

const LOOKS = COLOURS.length * SHAPES.length; // of classes; after these they come again
const PASSES = [{ ring: false, alpha: 0.13 }, { ring: true, alpha: 0.13 }, { ring: false, alpha: 0.9 }, { ring: true, alpha: 0.9 }];

/** The stamps of all classes and shades, by pass; made anew when size or theme changes. */
function stamps(app, width) {
  const key = `${width} ${app.ink.text}`;
  if (app.stamps?.key === key) return app.stamps;
  const r = dotSize(app.data, width);
  const make = (fill, kind) => PASSES.map((pass) => stamp(app, r, fill, kind, pass, width));
  const looks = Math.min(LOOKS, app.data.classes.length);
  const classes = Array.from({ length: looks }, (_, c) => make(colour(c), shape(c)));
  classes[LOOKS] = make("#888", "circle"); // of images without a label
  const shades = [...SHADES, "#888"].map((fill) => make(fill, "circle"));
  app.stamps = { key, classes, shades };
  return app.stamps;
}

/** Which images are painted, in which order and as what: faded dots first, misclassified ones last, so that
 *  the important ones are never covered. */
function order(app, { side }) {
  const { data, selected, hidden, pointed } = app;
  const [part, shade] = [app.part(side), app.shade()];
  const level = (share) => (share < 0 ? SHADES.length : Math.min(SHADES.length - 1, Math.floor(share * SHADES.length)));
  const errors = shade === "error" && part.errors(app.at("embedding"), app.at("layer"));
  const changed = shade === "change" && changes(app.near("left"), app.near("right"), data.n);
  const passes = PASSES.map(() => []);
  data.labels.forEach((c, i) => {
    if (hidden.has(c)) return;
    const bright = (!selected.size || selected.has(i)) && (pointed < 0 || c === pointed);
    passes[2 * bright + part.wrong(i)].push(i);
  });
  const which = Uint16Array.from(data.labels, (c, i) => (changed ? level(changed[i])
    : errors ? level(errors[i] === UNKNOWN ? -1 : errors[i] / (UNKNOWN - 1)) : c < 0 ? LOOKS : c % LOOKS));
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
function paint(app, { canvas, pixels, order: { passes, which, kind }, dots: { now } }) {
  const { x, y } = projection(canvas);
  const known = stamps(app, canvas.width)[kind];
  pixels.fill(app.ink.pixel);
  let count = 0;
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
      count++;
    }
  });
  return count;
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
  if (!self.dotCount) message(app, pen, app.hidden.size ? "these classes are hidden" : "no map of this layer was stored");
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
