// Names of classes on a map, none over another and none outside.

/** Where a name may stand, in its own widths and heights away from the middle of its class; the nearest first. */
const SEATS = [[0, 0], [0, -1.1], [0, 1.1], [0.7, 0], [-0.7, 0], [0.6, -1.1], [-0.6, -1.1], [0.6, 1.1], [-0.6, 1.1],
  [0, -2.3], [0, 2.3], [1.2, 0], [-1.2, 0]];
const LONGEST = 14; // letters of a name

const shorten = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
const meet = (a, b) => a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3];

/** The classes whose names are wanted, the largest first, for theirs finds a place first. */
function named({ data, hidden, pointed }) {
  if (pointed >= 0) return [pointed];
  const sizes = data.classes.map(() => 0);
  data.labels.forEach((c) => { if (c >= 0) sizes[c]++; });
  return [...sizes.keys()].filter((c) => !hidden.has(c)).sort((a, b) => sizes[b] - sizes[a] || a - b);
}

/** Each class's name at the median of its dots, or beside it where another stands there: the second cue beside
 *  the colour. A name without a free place is left out. */
function classNames(app, self) {
  const { canvas, middles: { now }, pen } = self;
  const { x, y } = projection(self);
  const pixels = window.devicePixelRatio || 1;
  const em = pixels * (canvas.clientWidth < 260 ? 10 : 12.5);
  pen.font = `700 ${em}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  self.seats ??= new Map(); // where names stood last: on their way they should not jump to and fro
  const taken = [];
  const all = [];
  const inside = (v) => v >= 0 && v <= canvas.width;
  for (const c of named(app)) {
    if (now[2 * c] <= MISSING) continue;
    const middle = [x(now[2 * c]), y(now[2 * c + 1])];
    if (!middle.every(inside)) continue;
    const words = shorten(app.data.classes[c], LONGEST);
    const [w, h] = [pen.measureText(words).width + em * 0.7, em * 1.35];
    const box = ([right, down]) => [
      [middle[0] + right * w - w / 2, w], [middle[1] + down * h - h / 2, h],
    ].map(([start, length]) => Math.max(pixels, Math.min(start, canvas.width - length - pixels))).concat([w, h]);
    const last = (self.moving && self.seats.get(c)) || SEATS[0];
    const seat = [last, ...SEATS].find((one) => !taken.some((other) => meet(box(one), other)));
    if (!seat) continue;
    self.seats.set(c, seat);
    taken.push(box(seat));
    all.push({ words, middle, box: box(seat), ink: app.shade() === "class" ? colour(c) : app.ink.text });
  }
  pen.lineWidth = 1.6 * pixels;
  all.forEach((name) => lead(pen, name)); // the lines first, so that none goes through a word
  all.forEach((name) => write(app, pen, name));
}

/** A line from a name to its class, where they stand apart. */
function lead(pen, { middle, box: [left, top, w, h], ink }) {
  if (Math.hypot(left + w / 2 - middle[0], top + h / 2 - middle[1]) <= h) return;
  pen.strokeStyle = ink;
  pen.beginPath();
  pen.moveTo(...middle);
  pen.lineTo(left + w / 2, top + h / 2);
  pen.stroke();
}

function write(app, pen, { words, box: [left, top, w, h], ink }) {
  pen.strokeStyle = ink;
  pen.beginPath();
  pen.roundRect(left, top, w, h, h / 3);
  pen.fillStyle = app.ink.paper;
  pen.globalAlpha = 0.88;
  pen.fill();
  pen.globalAlpha = 1;
  pen.stroke();
  pen.fillStyle = app.ink.text;
  pen.fillText(words, left + w / 2, top + h / 2 + h * 0.045);
}
