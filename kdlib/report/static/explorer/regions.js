// Decision regions: each place of a map in the colour of what the images nearest to it are predicted.
//
// The network itself decides in its layer, not on the map. What a region shows is a vote of up to VOTERS images, the
// nearest on the map within REACH of its side; as in deep-learning visualisation by DVI (Yang et al. 2022) regions
// lie behind the dots, but there a decoder asks the network, and here nothing is decoded.

const CELL = 6; // pixels of the screen
const RADIUS = REACH * 2 * EDGE;

/** The images of a map in square buckets, so that those near a place are found at once. */
function buckets(map, images) {
  const count = Math.max(1, Math.ceil(Math.sqrt(images.length)));
  const side = (2 * EDGE) / count;
  const cell = (v) => Math.max(0, Math.min(count - 1, Math.floor((v + EDGE) / side)));
  const all = Array.from({ length: count * count }, () => []);
  for (const i of images) all[cell(map[2 * i + 1]) * count + cell(map[2 * i])].push(i);
  return { all, count, side, cell };
}

/** A function of a place: the class that most of its voters are predicted, how many of them and of how many, as
 *  digits of one number (see `verdict`); -1 where no image is near. Between classes of equal votes the nearest voter
 *  decides. */
function voting(map, prediction, images) {
  const { all, count, side, cell } = buckets(map, images);
  const [who, far] = [new Int32Array(VOTERS), new Float64Array(VOTERS)];
  let found = 0;
  const visit = (list, x, y) => {
    for (const i of list) {
      const d = (map[2 * i] - x) ** 2 + (map[2 * i + 1] - y) ** 2;
      if (d > RADIUS ** 2 || (found === VOTERS && d >= far[found - 1])) continue;
      let k = found < VOTERS ? found++ : VOTERS - 1;
      for (; k && far[k - 1] > d; k--) { far[k] = far[k - 1]; who[k] = who[k - 1]; }
      far[k] = d;
      who[k] = prediction(i);
    }
  };
  return (x, y) => {
    found = 0;
    const [column, row] = [cell(x), cell(y)];
    const [right, up] = [x + EDGE - column * side, y + EDGE - row * side];
    const margin = Math.max(0, Math.min(right, side - right, up, side - up)); // to the nearest edge of its own bucket
    for (let ring = 0; (ring - 1) * side <= RADIUS; ring++) {
      const near = ring ? (ring - 1) * side + margin : 0; // nothing beyond is nearer than this
      if (ring && (near > RADIUS || (found === VOTERS && far[VOTERS - 1] <= near ** 2))) break;
      for (let r = Math.max(0, row - ring); r <= Math.min(count - 1, row + ring); r++) {
        const step = r === row - ring || r === row + ring ? 1 : 2 * ring;
        for (let c = column - ring; c <= column + ring; c += step) if (c >= 0 && c < count) visit(all[r * count + c], x, y);
      }
    }
    let [best, votes] = [-1, 0];
    for (let k = 0; k < found; k++) {
      let own = 0;
      for (let j = 0; j < found; j++) own += who[j] === who[k];
      if (own > votes) [best, votes] = [who[k], own];
    }
    return found ? (best * BASE + votes) * BASE + found : -1;
  };
}

const BASE = VOTERS + 1;
/** What a number of `voting` says: a class and its share of the votes. */
const verdict = (number) => [Math.floor(number / BASE / BASE), (Math.floor(number / BASE) % BASE) / (number % BASE)];

/** Whether regions can be drawn: at a late layer of a trained network whose predictions are known. */
function hasRegions(app, side) {
  const part = app.part(side);
  return app.epoch === TRAINED && part.predicts && relative(app.own(side), part.layers.length) >= LATE - 1e-9;
}

/** Tint the paper by regions, before dots are laid on it; not while dots travel. */
function paintRegions(app, self) {
  if (!app.good.regions || self.moving || !hasRegions(app, self.side)) return;
  const { canvas: { width }, image, pixels, margin, target } = self;
  const part = app.part(self.side);
  if (self.voted?.target !== target || self.voted.part !== part) {
    const images = [...app.data.labels.keys()].filter((i) => target[2 * i] > MISSING && part.prediction(i) !== MISSING);
    self.voted = { target, part, vote: voting(target, part.prediction, images) };
  }
  const { back } = projection(self);
  const cell = Math.round(CELL * (window.devicePixelRatio || 1) * (self.rough ? 2 : 1));
  const [tint, tints] = [tinting(app), new Map()];
  const mixed = (number) => {
    const [c, share] = verdict(number);
    tints.set(number, tint(c, 0.08 + 0.26 * share));
    return tints.get(number);
  };
  for (let top = 0; top < width; top += cell) {
    for (let left = 0; left < width; left += cell) {
      const [x, y] = back([left + cell / 2, top + cell / 2]);
      const number = self.voted.vote(x, y);
      if (number < 0) continue;
      const value = tints.get(number) ?? mixed(number);
      for (let line = top; line < Math.min(top + cell, width); line++) {
        const start = (line + margin) * image.width + left + margin;
        pixels.fill(value, start, start + Math.min(cell, width - left));
      }
    }
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
      element.textContent = SIDES.some((side) => hasRegions(app, side))
        ? `Regions: what most of the up to ${VOTERS} nearest images on the map are predicted; blank where none is near. `
          + "The network's own boundaries lie in the layer, not on the map."
        : "Regions are drawn at the last layers of trained networks.";
    },
  };
}
