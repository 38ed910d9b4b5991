// The data that Python sent, and the view that both sides share.

/** Bytes arrive as a DataView that need not be aligned, so copy before casting. */
function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}

/** All of one network: facts as JSON, then arrays, one after another (explorer.py packs them). */
function unpack({ n }, view) {
  const all = bytes(view);
  const head = new DataView(all.buffer).getUint32(0, true);
  const { sizes, ...facts } = JSON.parse(new TextDecoder().decode(all.subarray(4, 4 + head)));
  const place = (i) => 4 + head + sizes.slice(0, i).reduce((sum, size) => sum + size, 0);
  const [coordinates, neighbours, predictions, frames, guesses] = [0, 1, 2, 3, 4].map((i) => new Int16Array(all.buffer, place(i), sizes[i] / 2));
  const errors = all.subarray(place(5));
  const { layers } = facts;
  const known = (numbers) => (numbers.some((i) => i !== MISSING) ? numbers : null);
  const reel = (layer) => facts.film.findIndex((r) => r.layer === layer);
  /** Which of all frames shows a layer after an epoch. */
  const number = (layer, epoch) => facts.film.slice(0, reel(layer)).reduce((sum, { epochs }) => sum + epochs.length, 0)
    + facts.film[reel(layer)].epochs.indexOf(epoch);
  return {
    ...facts,
    map(embedding, layer) {
      const start = (embedding * layers.length + layer) * n * 2;
      return coordinates.subarray(start, start + n * 2);
    },
    errors(embedding, layer) {
      const start = (embedding * layers.length + layer) * n;
      return errors.subarray(start, start + n);
    },
    /** The NEAREST images of each image in the layer itself, one after another; null if unknown. */
    neighbours: (layer) => known(neighbours.subarray(layer * n * NEAREST, (layer + 1) * n * NEAREST)),
    /** The map of a layer after an epoch of its film. */
    frame(layer, epoch) {
      const start = number(layer, epoch) * n * 2;
      return frames.subarray(start, start + n * 2);
    },
    /** What the network predicted after an epoch of a layer's film; null if unknown. */
    guesses(layer, epoch) {
      const start = number(layer, epoch) * n;
      return known(guesses.subarray(start, start + n));
    },
    /** The measures of a layer at an epoch of its film, those of its map among them. */
    measured(layer, epoch) {
      const { epochs, values } = facts.film[reel(layer)];
      return Object.fromEntries(Object.entries(values).map(([key, row]) => [key, row[epochs.indexOf(epoch)]]));
    },
    predictions,
    predicts: known(predictions) !== null,
  };
}

function decode(model) {
  const meta = model.get("meta");
  const labels = new Int16Array(bytes(model.get("labels")).buffer);
  const [parts, loading] = [Object.create(null), Object.create(null)]; // by run: what is there, and what is under way
  return {
    ...meta,
    labels,
    titles: Object.fromEntries(meta.embeddings.map(({ key, name }) => [key, name])),
    allowed: {
      left: meta.networks.map((network) => network.run),
      right: meta.networks.map((network) => network.run),
      layer: meta.layers,
      embedding: meta.embeddings.map(({ key }) => key),
      measure: meta.measures.length ? meta.measures.map((measure) => measure.key) : [""],
      shade: meta.shades,
      epoch: [TRAINED, ...meta.film.flatMap(({ epochs }) => epochs)],
      names: [true, false],
      brush: TOOLS,
      together: [true, false],
      align: [false, true],
      regions: [false, true],
      overview: [false, true],
    },
    /** All of a network; undefined until it is loaded. In the book a part that was not yet asked for is a
     *  function that promises it, with a kernel every part is there. */
    part(run) {
      const sent = model.get("parts")[run];
      if (!parts[run] && typeof sent !== "function") parts[run] = unpack(meta, sent);
      return parts[run];
    },
    /** Load a network. One that failed may be asked for again. */
    load(run) {
      const read = async () => { parts[run] ??= unpack(meta, await model.get("parts")[run]()); };
      if (!this.part(run)) loading[run] ??= read().finally(() => delete loading[run]);
      return loading[run] || Promise.resolve();
    },
    /** The epochs that the film of a layer has. */
    epochs: (run, layer) => meta.film.find((r) => r.run === run && r.layer === layer)?.epochs || [],
  };
}

/** Everything the parts share: the data, the view by position, and how to change it. */
function start(model, root) {
  const data = decode(model);
  const app = {
    model, root, data,
    good: {}, // the last value of each trait that made sense: what is on the page
    pending: {}, // by side, a run that was chosen and is not loaded yet
    failed: {}, // by side, words on a run that could not be loaded
    selected: new Set(), // images, without those of hidden classes
    hidden: new Set(), // classes switched off in the legend
    epoch: TRAINED, // that of both maps: the trait's, where there is a film of the view
    predicted: {}, // by side, classes of images: at this epoch, or once trained where no others are known
    known: {}, // by side, whether those are of this epoch
    hover: -1, // an image
    large: -1, // an image, shown large
    pointed: -1, // a class, while the pointer is on it in the legend
    sheet: data.tile && URL.createObjectURL(new Blob([bytes(model.get("sprite"))], { type: "image/webp" })),
  };
  for (const key of Object.keys(data.allowed)) app.good[key] = data.allowed[key][0];
  app.at = (key) => data.allowed[key].indexOf(app.good[key]);
  app.network = (side) => data.networks[app.at(side)];
  app.part = (side) => data.part(app.good[side]);
  /** The network that was chosen, whether or not it is on the page yet. */
  app.chosen = (side) => data.networks.find(({ run }) => run === (app.pending[side] || app.good[side]));
  /** Load a network; when it is there, the page changes to it, unless another was chosen meanwhile. */
  const load = (side, run) => {
    if (app.pending[side] === run) return;
    app.pending[side] = run;
    app.failed[side] = "";
    data.load(run).then(() => app.moved(), (error) => {
      if (app.pending[side] !== run) return;
      app.failed[side] = `${app.chosen(side).name} could not be loaded: ${error.message}`;
      app.pending[side] = "";
      app.set(side, app.good[side]);
    });
  };
  /** Load the networks that the page opens with. */
  app.open = () => Promise.all(SIDES.map((side) => {
    if (data.allowed[side].includes(model.get(side))) app.good[side] = model.get(side);
    return data.load(app.good[side]);
  }));
  app.set = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };
  // Networks of unequal layers stand side by side by relative depth: a stop for each layer of the deeper
  // one, and beside it the other's nearest.
  app.stops = () => Math.max(...SIDES.map((side) => app.part(side).layers.length));
  app.stop = () => nearestTo(data.depths[app.at("layer")], app.stops());
  app.own = (side, stop = app.stop()) => nearestTo(relative(stop, app.stops()), app.part(side).layers.length);
  app.layer = (side, stop = app.stop()) => app.part(side).layers[app.own(side, stop)];
  /** A stop by the layer's name, or by its depth where the two networks name theirs otherwise; and in words. */
  app.stopName = (stop) => {
    const [left, right] = SIDES.map((side) => app.layer(side, stop));
    const [own, other] = SIDES.map((side) => app.part(side).layers);
    if (own.length === other.length && own.every((name, i) => name === other[i])) return [left, left];
    const depth = `${Math.round(100 * relative(stop, app.stops()))} %`;
    return [depth, `${depth} of the depth: ${left} left, ${right} right`];
  };
  app.go = (stop) => {
    const to = relative(stop, app.stops());
    const far = data.depths.map((depth) => Math.abs(depth - to));
    app.set("layer", data.layers[far.indexOf(Math.min(...far))]);
  };
  app.step = (by) => app.go(Math.max(0, Math.min(app.stops() - 1, app.stop() + by)));
  app.select = (images) => app.set("selected", [...images].sort((a, b) => a - b));
  /** The epochs of which both networks have a map of this layer. */
  app.epochs = () => {
    if (app.good.embedding !== "tsne") return [];
    const [left, right] = SIDES.map((side) => data.epochs(app.good[side], app.layer(side)));
    return left.filter((epoch) => right.includes(epoch));
  };
  app.wrong = (side, image) => data.labels[image] >= 0 && app.predicted[side][image] !== MISSING
    && app.predicted[side][image] !== data.labels[image];
  app.visible = (image) => !app.hidden.has(data.labels[image]);
  const stored = (side) => (app.epoch === TRAINED
    ? app.part(side).map(app.at("embedding"), app.own(side))
    : app.part(side).frame(app.layer(side), app.epoch));
  /** The maps of both sides as they are shown: as stored, or with the selected images upon each other. */
  app.maps = () => {
    const [left, right] = SIDES.map(stored);
    return app.good.align ? upon(left, right, [...app.selected]) : { left, right };
  };
  /** Neighbours, errors and changes are known of trained networks only. */
  app.near = (side) => (app.epoch === TRAINED ? app.part(side).neighbours(app.own(side)) : null);
  /** A measure of the current layer: of the trained network, or at the epoch of the film. */
  app.value = (measure, side) => (app.epoch === TRAINED
    ? app.part(side).curves[measure].values[app.own(side)]
    : app.part(side).measured(app.layer(side), app.epoch)[measure] ?? null);
  app.shade = () => (app.epoch === TRAINED ? app.good.shade : "class");
  // Take over the traits; refuse impossible values (a mistyped link, for instance).
  app.read = () => {
    for (const [key, allowed] of Object.entries(data.allowed)) {
      const value = model.get(key);
      if (!allowed.includes(value)) model.set(key, app.good[key]);
      else if (SIDES.includes(key) && !data.part(value)) load(key, value);
      else {
        if (value !== app.good[key]) app.failed[key] = "";
        app.pending[key] = "";
        app.good[key] = value;
      }
    }
    const inside = (n) => (i) => Number.isInteger(i) && i >= 0 && i < n;
    app.hidden = new Set(model.get("hidden").filter(inside(data.classes.length)));
    app.selected = new Set(model.get("selected").filter(inside(data.n)).filter(app.visible));
    app.epoch = app.epochs().includes(app.good.epoch) ? app.good.epoch : TRAINED;
    for (const side of SIDES) {
      const part = app.part(side);
      const now = app.epoch === TRAINED ? part.predicts && part.predictions : part.guesses(app.layer(side), app.epoch);
      app.known[side] = Boolean(now);
      app.predicted[side] = now || part.predictions;
    }
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
