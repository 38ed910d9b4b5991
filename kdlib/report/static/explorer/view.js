// The data that Python sent, and the view that both sides share.

/** Bytes arrive as a DataView that need not be aligned, so copy before casting. */
function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}

function decode(model) {
  const meta = model.get("meta");
  const coordinates = new Int16Array(bytes(model.get("coordinates")).buffer);
  const predictions = new Int16Array(bytes(model.get("predictions")).buffer);
  const labels = new Int16Array(bytes(model.get("labels")).buffer);
  const errors = bytes(model.get("errors"));
  const neighbours = new Int16Array(bytes(model.get("neighbours")).buffer);
  const frames = new Int16Array(bytes(model.get("film")).buffer);
  const [E, L, block] = [meta.embeddings.length, meta.layers.length, meta.n * 2];
  const first = meta.film.map((_, i) => meta.film.slice(0, i).reduce((sum, { epochs }) => sum + epochs.length, 0));
  const reel = (run, layer) => meta.film.findIndex((r) => r.run === run && r.layer === layer);
  return {
    ...meta,
    labels,
    titles: Object.fromEntries(meta.embeddings.map(({ key, name }) => [key, name])),
    allowed: {
      left: meta.networks.map((network) => network.run),
      right: meta.networks.map((network) => network.run),
      layer: meta.layers,
      embedding: meta.embeddings.map(({ key }) => key),
      measure: meta.measures.map((measure) => measure.key),
      shade: meta.shades,
      epoch: [TRAINED, ...meta.film.flatMap(({ epochs }) => epochs)],
      names: [true, false],
      brush: BRUSHES,
    },
    map(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * block;
      return coordinates.subarray(start, start + block);
    },
    errors(network, embedding, layer) {
      const start = ((network * E + embedding) * L + layer) * meta.n;
      return errors.subarray(start, start + meta.n);
    },
    /** The NEAREST images of each image in the layer itself, one after another; null if unknown. */
    neighbours(network, layer) {
      const start = (network * L + layer) * meta.n * NEAREST;
      const own = neighbours.subarray(start, start + meta.n * NEAREST);
      return own.some((i) => i !== MISSING) ? own : null;
    },
    /** The epochs that the film of a layer has, and its map after one of them. */
    epochs: (run, layer) => meta.film[reel(run, layer)]?.epochs || [],
    frame(run, layer, epoch) {
      const i = reel(run, layer);
      const start = (first[i] + meta.film[i].epochs.indexOf(epoch)) * block;
      return frames.subarray(start, start + block);
    },
    /** The measures of a layer at an epoch of its film, those of its map among them. */
    measured(run, layer, epoch) {
      const { epochs, values } = meta.film[reel(run, layer)];
      return Object.fromEntries(Object.entries(values).map(([key, row]) => [key, row[epochs.indexOf(epoch)]]));
    },
    prediction: (network, image) => predictions[network * meta.n + image],
    wrong: (network, image) => predictions[network * meta.n + image] !== labels[image],
  };
}

/** Everything the parts share: the data, the view by position, and how to change it. */
function start(model, root) {
  const data = decode(model);
  const app = {
    model, root, data,
    good: {}, // the last value of each trait that made sense
    selected: new Set(), // images
    hidden: new Set(), // classes switched off in the legend
    epoch: TRAINED, // that of both maps: the trait's, where there is a film of the view
    hover: -1, // an image
    pointed: -1, // a class, while the pointer is on it in the legend
    sheet: URL.createObjectURL(new Blob([bytes(model.get("sprite"))], { type: "image/webp" })),
  };
  for (const key of Object.keys(data.allowed)) app.good[key] = data.allowed[key][0];
  app.at = (key) => data.allowed[key].indexOf(app.good[key]);
  app.network = (side) => data.networks[app.at(side)];
  app.set = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };
  app.step = (by) => {
    const to = Math.max(0, Math.min(data.layers.length - 1, app.at("layer") + by));
    app.set("layer", data.layers[to]);
  };
  app.select = (images) => app.set("selected", [...images].sort((a, b) => a - b));
  /** The epochs of which both networks have a map of this layer. */
  app.epochs = () => {
    if (app.good.embedding !== "tsne") return [];
    const [left, right] = SIDES.map((side) => data.epochs(app.good[side], app.good.layer));
    return left.filter((epoch) => right.includes(epoch));
  };
  app.map = (side) => (app.epoch === TRAINED
    ? data.map(app.at(side), app.at("embedding"), app.at("layer"))
    : data.frame(app.good[side], app.good.layer, app.epoch));
  /** Neighbours, errors and changes are known of trained networks only. */
  app.near = (side) => (app.epoch === TRAINED ? data.neighbours(app.at(side), app.at("layer")) : null);
  /** A measure of the current layer: of the trained network, or at the epoch of the film. */
  app.value = (measure, side) => (app.epoch === TRAINED
    ? data.curves[measure][app.at(side)].values[app.at("layer")]
    : data.measured(app.good[side], app.good.layer, app.epoch)[measure] ?? null);
  app.shade = () => (app.epoch === TRAINED ? app.good.shade : "class");
  // Take over the traits; refuse impossible values (a mistyped link, for instance).
  app.read = () => {
    for (const [key, allowed] of Object.entries(data.allowed)) {
      if (allowed.includes(model.get(key))) app.good[key] = model.get(key);
      else model.set(key, app.good[key]);
    }
    const inside = (n) => (i) => Number.isInteger(i) && i >= 0 && i < n;
    app.selected = new Set(model.get("selected").filter(inside(data.n)));
    app.hidden = new Set(model.get("hidden").filter(inside(data.classes.length)));
    app.epoch = app.epochs().includes(app.good.epoch) ? app.good.epoch : TRAINED;
  };
  return app;
}

/** How much of each image's neighbourhood two networks do not share, 0..1; -1 where unknown. */
function changes(left, right, n) {
  return Float32Array.from({ length: n }, (_, image) => {
    const [from, to] = [image * NEAREST, (image + 1) * NEAREST];
    if (!left || !right || left[from] === MISSING || right[from] === MISSING) return -1;
    let shared = 0;
    for (let i = from; i < to; i++) for (let j = from; j < to; j++) shared += left[i] === right[j];
    return 1 - shared / NEAREST;
  });
}
