// Decision regions: each place of a map in the colour of what the images nearest to it are predicted.
//
// The network itself decides in its layer, not on the map. What a region shows is a vote of up to VOTERS images, the
// nearest on the map within REACH of its side; as in deep-learning visualisation by DVI (Yang et al. 2022) regions
// lie behind the dots, but there a decoder asks the network, and here nothing is decoded.

const CELL = 6; // pixels of the screen
const RADIUS = REACH * 2 * EDGE;

/** The images of a map in square buckets, row by row, so that those near a place are found at once: where the
 *  images of each bucket begin, and the places and predictions of all. */
function buckets(map, predictions) {
  const count = Math.max(1, Math.ceil(Math.sqrt(predictions.length)));
  const side = (2 * EDGE) / count;
  const cell = (v) => Math.max(0, Math.min(count - 1, Math.floor((v + EDGE) / side)));
  const own = Int32Array.from(predictions, (c, i) => (c === MISSING || map[2 * i] <= MISSING ? -1
    : cell(map[2 * i + 1]) * count + cell(map[2 * i])));
  const begins = new Int32Array(count * count + 1);
  for (const bucket of own) if (bucket >= 0) begins[bucket + 1]++;
  for (let k = 0; k < count * count; k++) begins[k + 1] += begins[k];
  const [next, all] = [begins.slice(), begins[count * count]];
  const [xs, ys, classes] = [new Float32Array(all), new Float32Array(all), new Int32Array(all)];
  own.forEach((bucket, i) => {
    if (bucket < 0) return;
    const k = next[bucket]++;
    xs[k] = map[2 * i];
    ys[k] = map[2 * i + 1];
    classes[k] = predictions[i];
  });
  return { begins, xs, ys, classes, count, side, cell };
}

const [WHO, FAR] = [new Int32Array(VOTERS), new Float64Array(VOTERS)]; // the voters of a place, the nearest first

/** The class that most voters of a place are predicted, how many of them and of how many, as digits of one number
 *  (see `verdict`); -1 where no image is near. Between classes of equal votes the nearest voter decides. */
function poll({ begins, xs, ys, classes, count, side, cell }, x, y) {
  const column = cell(x);
  const row = cell(y);
  const right = x + EDGE - column * side;
  const up = y + EDGE - row * side;
  const margin = Math.max(0, Math.min(right, side - right, up, side - up)); // to the nearest edge of its own bucket
  let found = 0;
  let reach = RADIUS ** 2; // no voter is farther; squared
  for (let ring = 0; (ring - 1) * side + margin <= RADIUS; ring++) {
    const near = ring ? (ring - 1) * side + margin : 0; // nothing beyond is nearer than this
    if (found === VOTERS && reach <= near ** 2) break;
    const first = Math.max(0, column - ring);
    const last = Math.min(count - 1, column + ring);
    for (let r = Math.max(0, row - ring); r <= Math.min(count - 1, row + ring); r++) {
      const whole = r === row - ring || r === row + ring; // else only the two ends belong to the ring
      for (let c = whole ? first : column - ring; c <= last; c += whole ? count : 2 * ring) {
        if (c < 0) continue;
        const end = begins[r * count + (whole ? last : c) + 1];
        for (let i = begins[r * count + c]; i < end; i++) {
          const d = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
          if (d > reach || (found === VOTERS && d === reach)) continue;
          let k = found < VOTERS ? found++ : VOTERS - 1;
          for (; k && FAR[k - 1] > d; k--) { FAR[k] = FAR[k - 1]; WHO[k] = WHO[k - 1]; }
          FAR[k] = d;
          WHO[k] = classes[i];
          if (found === VOTERS) reach = FAR[VOTERS - 1];
        }
      }
    }
  }
  let best = -1;
  let votes = 0;
  for (let k = 0; k < found; k++) {
    let own = 0;
    for (let j = k; j < found; j++) own += WHO[j] === WHO[k];
    if (own <= votes) continue;
    best = WHO[k];
    votes = own;
  }
  return found ? (best * BASE + votes) * BASE + found : -1;
}

const BASE = VOTERS + 1;
/** What a number of `poll` says: a class and its share of the votes. */
const verdict = (number) => [Math.floor(number / BASE / BASE), (Math.floor(number / BASE) % BASE) / (number % BASE)];

/** Whether regions can be drawn: at a late layer, of a network whose predictions at this moment are known. */
const hasRegions = (app, side) => app.known[side] && relative(app.own(side), app.part(side).layers.length) >= LATE - 1e-9;

/** What is polled in each cell of a map's frame, row by row. It is kept until the map, the predictions or the zoom
 *  change; while dots travel cells are larger, and polled anew for each frame. */
function polled(app, self) {
  const [predictions, { width }] = [app.predicted[self.side], self.canvas];
  const cell = Math.round(CELL * (window.devicePixelRatio || 1) * (self.rough || self.moving ? 2 : 1));
  const key = [self.moving ? {} : self.target, predictions, self.zoom, cell, width];
  if (self.polled && key.every((value, k) => value === self.polled.key[k])) return self.polled;
  const map = self.dots.now;
  const known = buckets(map, predictions);
  const { x: left, scale } = projection(self);
  const [from, count] = [left(0), Math.ceil(width / cell)];
  const top = projection(self).y(0);
  const numbers = new Int32Array(count * count);
  for (let k = 0, row = 0; row < count; row++) {
    const y = (top - (row + 0.5) * cell) / scale;
    for (let column = 0; column < count; column++, k++) numbers[k] = poll(known, ((column + 0.5) * cell - from) / scale, y);
  }
  self.polled = { key, cell, count, numbers };
  return self.polled;
}

/** Tint the paper by regions, before dots are laid on it. */
function paintRegions(app, self) {
  if (!app.good.regions || !hasRegions(app, self.side)) return;
  const { canvas: { width }, image, pixels, margin } = self;
  const { cell, count, numbers } = polled(app, self);
  const [tint, tints] = [tinting(app), new Map([[-1, app.ink.pixel]])];
  const mixed = (number) => {
    const [c, share] = verdict(number);
    tints.set(number, tint(c, 0.08 + 0.26 * share));
    return tints.get(number);
  };
  for (let k = 0, row = 0; row < count; row++) {
    const line = (row * cell + margin) * image.width + margin; // the first of the row: the others are the same
    for (let column = 0; column < count; column++, k++) {
      const value = tints.get(numbers[k]) ?? mixed(numbers[k]);
      const end = line + Math.min((column + 1) * cell, width);
      for (let at = line + column * cell; at < end; at++) pixels[at] = value;
    }
    for (let down = 1; down < Math.min(cell, width - row * cell); down++) pixels.copyWithin(line + down * image.width, line, line + width);
  }
}

/** A class's colour laid over the paper with a weight from 0 to 1, as a number of the pixels. */
function tinting({ ink }) {
  const part = (number, k) => (number >>> (8 * k)) & 255;
  return (c, weight) => {
    const rgb = Number.parseInt(colour(c).slice(1), 16);
    const mixed = [0, 1, 2].map((k) => Math.round(part(ink.pixel, k) * (1 - weight) + part(rgb, 2 - k) * weight));
    return (0xff000000 | (mixed[2] << 16) | (mixed[1] << 8) | mixed[0]) >>> 0;
  };
}

/** What the regions are, and are not. */
function regionWords(app) {
  const element = make("p", { className: "kd-muted kd-regions", role: "status" });
  return {
    element,
    update() {
      element.hidden = !app.good.regions;
      const shown = SIDES.filter((side) => hasRegions(app, side));
      const late = SIDES.some((side) => relative(app.own(side), app.part(side).layers.length) >= LATE - 1e-9);
      const blank = "No regions here: these results do not hold what the networks predicted after each epoch of the film.";
      element.textContent = shown.length
        ? `Regions: what most of the up to ${VOTERS} nearest images on the map are predicted; blank where none is near. `
          + "The network's own boundaries lie in the layer, not on the map."
        : late && app.epoch !== TRAINED ? blank : "Regions are drawn at the last layers of networks whose predictions are known.";
    },
  };
}
