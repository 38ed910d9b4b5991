// A network of one hidden layer, and two of them trained side by side: no page, no clock, no library.
//
// A worker runs this, and so does the test that compares it with PyTorch. All numbers are doubles, and all
// chance comes from one seed, so the same settings give the same curves.

const PIXELS = 64;
const CLASSES = 10;
const RATE = 0.05; // of gradient descent
const MOMENTUM = 0.9;
const LABELLED = 32; // images in a batch of labelled ones, if there are so many
const ANY = 64; // images in a batch for the teacher's term, of all training images

/** Numbers in [0, 1) from a seed: Marsaglia's xorshift with 32 bits, its first numbers thrown away. */
function generator(seed) {
  let state = (Math.imul(seed + 1, 0x9e3779b1) | 1) >>> 0;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
  for (let i = 0; i < 20; i++) next();
  return next;
}

/** Shuffle a list in place, by Fisher and Yates. */
function shuffle(list, random) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

/** Give batches of a list without end: each time through it in a new order. */
function batches(list, size, random) {
  let queue = [];
  return () => {
    const batch = [];
    while (batch.length < Math.min(size, list.length)) {
      if (!queue.length) queue = shuffle([...list], random);
      batch.push(queue.pop());
    }
    return batch;
  };
}

/** Write softmax(z / t) of CLASSES logits from place `from` into `out` at place `to`. */
function softmax(z, from, t, out, to) {
  let [largest, sum] = [-Infinity, 0];
  for (let c = 0; c < CLASSES; c++) largest = Math.max(largest, z[from + c]);
  for (let c = 0; c < CLASSES; c++) sum += out[to + c] = Math.exp((z[from + c] - largest) / t);
  for (let c = 0; c < CLASSES; c++) out[to + c] /= sum;
}

/** Weights as He et al. (2015) draw them, uniformly; biases 0. w1 is [pixel][unit], w2 is [unit][class]. */
function network(width, random) {
  const uniform = (n, inputs) => Float64Array.from({ length: n }, () => (2 * random() - 1) * Math.sqrt(6 / inputs));
  const values = [uniform(PIXELS * width, PIXELS), new Float64Array(width), uniform(width * CLASSES, width), new Float64Array(CLASSES)];
  return { width, values, speed: values.map((part) => new Float64Array(part.length)) };
}

const copy = ({ width, values, speed }) => ({ width, values: values.map((part) => part.slice()), speed: speed.map((part) => part.slice()) });

/** Compute one image's hidden layer and logits into hidden[h...] and logits[z...]. */
function forward({ width, values: [w1, b1, w2, b2] }, images, image, hidden, h, logits, z) {
  for (let u = 0; u < width; u++) hidden[h + u] = b1[u];
  for (let p = 0; p < PIXELS; p++) {
    const x = images[image * PIXELS + p];
    if (x) for (let u = 0, at = p * width; u < width; u++) hidden[h + u] += x * w1[at + u];
  }
  for (let c = 0; c < CLASSES; c++) logits[z + c] = b2[c];
  for (let u = 0; u < width; u++) {
    if (hidden[h + u] <= 0) hidden[h + u] = 0;
    else for (let c = 0; c < CLASSES; c++) logits[z + c] += hidden[h + u] * w2[u * CLASSES + c];
  }
}

/** Add one image's share to the gradient, from that of its logits. */
function backward({ width, values: [, , w2] }, images, image, hidden, slope, [g1, gb1, g2, gb2]) {
  for (let c = 0; c < CLASSES; c++) gb2[c] += slope[c];
  const below = new Float64Array(width);
  for (let u = 0; u < width; u++) {
    if (!hidden[u]) continue;
    for (let c = 0, at = u * CLASSES; c < CLASSES; c++) {
      g2[at + c] += hidden[u] * slope[c];
      below[u] += w2[at + c] * slope[c];
    }
    gb1[u] += below[u];
  }
  for (let p = 0; p < PIXELS; p++) {
    const x = images[image * PIXELS + p];
    if (x) for (let u = 0, at = p * width; u < width; u++) g1[at + u] += x * below[u];
  }
}

/** Take one step of gradient descent with momentum; return the loss before it.
 *
 *  The loss is (1 - weight) CE(label) over `labelled` + weight T^2 KL(teacher || student) over `any`,
 *  both as means over their images. `targets` are the teacher's probabilities at temperature T. */
function step(net, { images, labels }, { weight, temperature: t, targets }, labelled, any) {
  const gradient = net.values.map((part) => new Float64Array(part.length));
  const hidden = new Float64Array(net.width);
  const [logits, p, slope] = [0, 0, 0].map(() => new Float64Array(CLASSES));
  let loss = 0;
  if (weight < 1) {
    for (const image of labelled) {
      forward(net, images, image, hidden, 0, logits, 0);
      softmax(logits, 0, 1, p, 0);
      const share = (1 - weight) / labelled.length;
      loss -= share * Math.log(p[labels[image]]);
      for (let c = 0; c < CLASSES; c++) slope[c] = share * (p[c] - (c === labels[image]));
      backward(net, images, image, hidden, slope, gradient);
    }
  }
  if (weight > 0) {
    for (const image of any) {
      forward(net, images, image, hidden, 0, logits, 0);
      softmax(logits, 0, t, p, 0);
      const share = weight / any.length;
      for (let c = 0; c < CLASSES; c++) {
        const q = targets[image * CLASSES + c];
        if (q > 0) loss += share * t * t * q * Math.log(q / p[c]);
        slope[c] = share * t * (p[c] - q);
      }
      backward(net, images, image, hidden, slope, gradient);
    }
  }
  net.values.forEach((part, k) => {
    const [speed, change] = [net.speed[k], gradient[k]];
    for (let i = 0; i < part.length; i++) part[i] -= RATE * (speed[i] = MOMENTUM * speed[i] + change[i]);
  });
  return loss;
}

/** Return the teacher's probabilities at a temperature, [image][class], changed as `dark` says.
 *
 *  "kept" changes nothing; the top class always keeps its probability. "dropped" spreads the rest evenly
 *  over the other classes; "shuffled" permutes the others' probabilities, once for each image. */
function soften(logits, temperature, dark, random) {
  const targets = new Float64Array(logits.length);
  for (let at = 0; at < logits.length; at += CLASSES) {
    softmax(logits, at, temperature, targets, at);
    if (dark === "kept") continue;
    const own = targets.subarray(at, at + CLASSES);
    const top = own.indexOf(Math.max(...own));
    const wrong = [...own.keys()].filter((c) => c !== top);
    const rest = wrong.map((c) => own[c]);
    if (dark === "shuffled") shuffle(rest, random);
    else rest.fill((1 - own[top]) / rest.length);
    wrong.forEach((c, i) => { own[c] = rest[i]; });
  }
  return targets;
}

/** Choose so many labelled training images of each class; all of them for "all". */
function budget(labels, train, perClass, random) {
  const order = shuffle(Array.from({ length: train }, (_, i) => i), random);
  if (perClass === "all") return order;
  const counts = new Array(CLASSES).fill(0);
  return order.filter((i) => counts[labels[i]]++ < Number(perClass));
}

/** Two students with the same first weights and the same labelled images: one learns from labels alone. */
function pair(data, settings) {
  const random = generator(settings.seed);
  const first = network(settings.width, random);
  const labelled = batches(budget(data.labels, data.train, settings.labels, random), LABELLED, random);
  const [forTeacher, forWrong] = [generator(settings.seed + 1000), generator(settings.seed + 2000)];
  const any = batches(Array.from({ length: data.train }, (_, i) => i), ANY, forTeacher);
  const targets = soften(data.logits[settings.teacher], settings.temperature, settings.dark, forWrong);
  const objectives = [{ weight: 0 }, { weight: settings.weight, temperature: settings.temperature, targets }];
  const nets = [first, copy(first)];
  const self = {
    nets, steps: 0, losses: [NaN, NaN], batch: null,
    /** Both take a step, with the same batches. */
    step() {
      self.batch = [labelled(), any()];
      self.losses = nets.map((net, k) => step(net, data, objectives[k], ...self.batch));
      self.steps += 1;
    },
  };
  return self;
}

/** Test a network: hidden layer and probabilities of all test images, accuracy and cross-entropy. */
function evaluate(net, { images, labels, train }) {
  const n = labels.length - train;
  const hidden = new Float64Array(n * net.width);
  const [logits, probabilities] = [new Float64Array(n * CLASSES), new Float32Array(n * CLASSES)];
  const p = new Float64Array(CLASSES);
  let [right, loss] = [0, 0];
  for (let i = 0; i < n; i++) {
    const label = labels[train + i];
    forward(net, images, train + i, hidden, i * net.width, logits, i * CLASSES);
    softmax(logits, i * CLASSES, 1, p, 0);
    probabilities.set(p, i * CLASSES);
    right += p.indexOf(Math.max(...p)) === label;
    loss -= Math.log(Math.max(p[label], 1e-12)) / n;
  }
  return { hidden, probabilities, accuracy: right / n, loss };
}

/** A linear map of a hidden layer: towards its two directions of largest variance.
 *
 *  Each call takes one step of orthogonal iteration from the axes of the call before, so the map follows
 *  the principal components smoothly, without a jump or a change of sign. Returns [image][2], scaled so
 *  that the root mean square of all points is 1. */
function projector(width) {
  const axes = [0, 1].map((k) => Float64Array.from({ length: width }, (_, u) => Math.cos((u * 2 + k) * 1.7 + k)));
  const middle = new Float64Array(width);
  const dot = (a, b) => a.reduce((sum, v, u) => sum + v * b[u], 0);
  const straighten = () => axes.forEach((axis, k) => {
    if (k) { const along = dot(axis, axes[0]); axis.forEach((_, u) => { axis[u] -= along * axes[0][u]; }); }
    const length = Math.sqrt(dot(axis, axis)) || 1;
    axis.forEach((_, u) => { axis[u] /= length; });
  });
  let begun = false;
  return (hidden) => {
    const n = hidden.length / width;
    const points = new Float32Array(2 * n);
    middle.fill(0);
    for (let i = 0, at = 0; i < n; i++) for (let u = 0; u < width; u++, at++) middle[u] += hidden[at] / n;
    const project = () => {
      for (let i = 0, at = 0; i < n; i++, at += width) {
        let [x, y] = [0, 0];
        for (let u = 0; u < width; u++) {
          const v = hidden[at + u] - middle[u];
          x += v * axes[0][u];
          y += v * axes[1][u];
        }
        points[2 * i] = x;
        points[2 * i + 1] = y;
      }
    };
    for (let rounds = begun ? 1 : 30; rounds > 0; rounds--) {
      project();
      axes.forEach((axis) => axis.fill(0));
      for (let i = 0, at = 0; i < n; i++, at += width) {
        for (let u = 0; u < width; u++) {
          const v = hidden[at + u] - middle[u];
          axes[0][u] += v * points[2 * i];
          axes[1][u] += v * points[2 * i + 1];
        }
      }
      straighten();
    }
    begun = true;
    straighten();
    project();
    let square = 0;
    for (const v of points) square += v * v;
    const scale = Math.sqrt(square / n) || 1;
    return points.map((v) => v / scale);
  };
}
