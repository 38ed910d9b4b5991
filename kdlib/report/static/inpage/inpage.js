// The figure: two students train side by side in a worker; this script draws them and holds the controls.
//
// inpage.py joins it and the explorer's document.js into one anywidget module, and hands over the worker's
// source as TRAINER. What the reader can change lives in the traits of inpage.py: labels, temperature,
// weight, width, teacher, dark, seed (a change of these begins again) and playing.

const PACE = 2; // steps of gradient descent between two updates
const EVERY = 20; // milliseconds between two updates, at least: every second frame of a screen with 60 a second
const STILL = { pace: 100, every: 500 }; // for readers who want no motion: fewer and larger updates
const WORDY = 4; // every so many updates numbers and curves follow; the maps move at each
const EXTENT = 2.2; // half a map, in root mean squares of its points
const TITLES = ["Hard labels only", "With the teacher"];
const SETTINGS = ["labels", "teacher", "dark", "temperature", "weight", "width", "seed"];
const WORDS = {
  labels: "Labels per class", teacher: "Teacher, test accuracy", dark: "Dark knowledge", temperature: "Temperature",
  weight: "Weight of the teacher", width: "Hidden units", seed: "Seed",
};

/** The data as network.js takes it: two pixels lie in a byte, logits are in units of `step`. */
function unpack(model) {
  const { train, step, levels, teachers } = model.get("meta");
  const bytes = (name, kind) => {
    const { buffer, byteOffset, byteLength } = model.get(name);
    return new kind(buffer, byteOffset, byteLength);
  };
  const [pixels, logits] = [bytes("images", Uint8Array), bytes("logits", Int8Array)];
  const images = Float64Array.from({ length: 2 * pixels.length },
    (_, i) => (i % 2 ? pixels[i >> 1] & 15 : pixels[i >> 1] >> 4) / levels);
  const own = logits.length / teachers.length;
  const outputs = teachers.map(({ key }, i) => [key, Float64Array.from(logits.subarray(i * own, (i + 1) * own), (z) => z * step)]);
  return { images, train, labels: Array.from(bytes("classes", Uint8Array)), logits: Object.fromEntries(outputs) };
}

/** One menu for each setting. */
function menus(model, set) {
  const { choices, teachers } = model.get("meta");
  const named = {
    teacher: (key) => `${key}: ${percent(teachers.find((t) => t.key === key).accuracy)}`,
    labels: (n) => (n === "all" ? "all (100)" : n),
    weight: (w) => percent(w).replace(".0", ""),
  };
  const selects = SETTINGS.map((key) => make("select", { onchange: (event) => set(key, choices[key][event.target.selectedIndex]) },
    ...choices[key].map((value) => make("option", { value: String(value) }, (named[key] || String)(value)))));
  return {
    element: make("div", { className: "kd-settings", role: "group", "aria-label": "Settings" },
      ...SETTINGS.map((key, i) => make("label", {}, make("span", {}, WORDS[key]), selects[i]))),
    update: () => SETTINGS.forEach((key, i) => { selects[i].selectedIndex = choices[key].indexOf(model.get(key)); }),
  };
}

/** A curve of both students over the steps: a picture with its words. */
function chart(title, most, marks, value) {
  const [width, height, left, bottom] = [480, 160, 52, 20];
  const x = (t, end) => left + (width - left - 6) * (t / end);
  const y = (v) => 6 + (height - bottom - 6) * (1 - Math.min(v, most) / most);
  const lines = SIDES.map((side) => svg("g", { class: `kd-${side}` }, svg("polyline", { "vector-effect": "non-scaling-stroke" })));
  const grid = marks.flatMap(([v, name]) => [
    svg("line", { class: "kd-grid", x1: left, x2: width - 6, y1: y(v), y2: y(v) }),
    svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, name)]);
  const axis = [svg("text", { x: left, y: height - 3 }, "0"), svg("text", { x: width - 6, y: height - 3, "text-anchor": "end" })];
  const picture = svg("svg", { class: "kd-curve", viewBox: `0 0 ${width} ${height}`, role: "img" }, ...grid, ...axis, ...lines);
  return {
    element: make("figure", { className: "kd-growth" }, make("figcaption", {}, title), picture),
    update(history, end) {
      axis[1].textContent = `${thousands(end)} steps`;
      lines.forEach((line, k) => line.firstChild.setAttribute("points",
        history.map(({ steps, students }) => `${x(steps, end).toFixed(1)},${y(value(students[k])).toFixed(1)}`).join(" ")));
    },
    describe(words) { picture.setAttribute("aria-label", `${title}: ${words}`); },
  };
}

/** One dot of a class, drawn once and then copied. */
function stamp(c, wrong, r, ink) {
  const side = 2 * Math.ceil(1.3 * r) + 1;
  const canvas = make("canvas", { width: side, height: side });
  const pen = canvas.getContext("2d");
  pen.arc(side / 2, side / 2, r, 0, 2 * Math.PI);
  pen.fillStyle = colour(c);
  pen.fill();
  pen.strokeStyle = ink;
  pen.lineWidth = r / 3;
  if (wrong) pen.stroke();
  return canvas;
}

/** The map of one student's hidden layer. */
function layerMap(app, k) {
  const canvas = make("canvas", { role: "img", "aria-label": `Map of the hidden layer of the student ${TITLES[k].toLowerCase()}` });
  const score = make("b");
  let size = 0; // in pixels of the screen; to ask for it at each update would lay out the page anew
  let stamps = {}; // of all classes, right and wrong; made anew when size or theme changes
  const head = make("div", { className: `kd-network kd-${SIDES[k]}` }, make("i", { className: "kd-mark" }),
    make("span", {}, TITLES[k]), make("span", { className: "kd-score" }, score, " of the test images right"));
  const place = (v, size) => size / 2 + (v / EXTENT) * (size / 2);
  const nearest = (event) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    const { points } = app.now.students[k];
    let [best, image] = [20 ** 2, -1]; // within 20 pixels of the pointer
    for (let i = 0; 2 * i < points.length; i++) {
      const distance = (place(points[2 * i], width) - event.clientX + left) ** 2 + (place(-points[2 * i + 1], width) - event.clientY + top) ** 2;
      if (distance < best) [best, image] = [distance, i];
    }
    if (image >= 0) app.choose(image);
  };
  canvas.addEventListener("pointermove", nearest);
  canvas.addEventListener("pointerdown", nearest);
  return {
    element: make("div", { className: "kd-panel" }, head, canvas),
    update() { score.textContent = percent(app.now.students[k].accuracy); },
    fit() { size = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)); },
    paint() {
      const { points, probabilities } = app.now.students[k];
      if (!size) return;
      if (canvas.width !== size) canvas.width = canvas.height = size;
      const pen = canvas.getContext("2d");
      const r = size / 110;
      pen.clearRect(0, 0, size, size);
      const key = `${size} ${app.ink}`;
      if (stamps.key !== key) stamps = { key, all: Array.from({ length: 20 }, (_, i) => stamp(i % 10, i >= 10, r, app.ink)) };
      for (let i = 0; 2 * i < points.length; i++) {
        const label = app.data.labels[app.data.train + i];
        const dot = stamps.all[label + 10 * (top(probabilities, i) !== label)];
        const middle = dot.width / 2;
        pen.drawImage(dot, place(points[2 * i], size) - middle, place(-points[2 * i + 1], size) - middle);
      }
      pen.beginPath();
      pen.arc(place(points[2 * app.image], size), place(-points[2 * app.image + 1], size), 2.4 * r, 0, 2 * Math.PI);
      pen.strokeStyle = app.ink;
      pen.lineWidth = r / 1.5;
      pen.stroke();
    },
  };
}

/** The most probable class of an image. */
function top(probabilities, image) {
  const from = image * 10;
  let best = from;
  for (let at = from + 1; at < from + 10; at++) if (probabilities[at] > probabilities[best]) best = at;
  return best - from;
}

/** One test image, large, and what both students say of it at this step. */
function inspector(app) {
  const canvas = make("canvas", { width: 8, height: 8, role: "img", className: "kd-digit" });
  const slider = make("input", { type: "range", min: 0, max: app.data.labels.length - app.data.train - 1, value: 0,
    "aria-label": "Test image", oninput: () => app.choose(+slider.value) });
  const truth = make("span");
  const lists = TITLES.map(() => make("ol", { className: "kd-top3" }));
  const rows = lists.map((list) => [0, 1, 2].map(() => {
    const [word, bar, share] = [make("b"), make("i"), make("span")];
    list.append(make("li", {}, word, make("span", { className: "kd-bar" }, bar), share));
    return { word, bar, share };
  }));
  return {
    element: make("div", { className: "kd-inspect" },
      make("div", { className: "kd-one" }, canvas, make("label", {}, truth, slider)),
      ...lists.map((list, k) => make("div", { className: `kd-${SIDES[k]}` }, make("span", {}, TITLES[k]), list))),
    update() {
      const pen = canvas.getContext("2d");
      const pixels = pen.createImageData(8, 8);
      const from = (app.data.train + app.image) * 64;
      for (let p = 0; p < 64; p++) {
        pixels.data.fill(255 * app.data.images[from + p], 4 * p, 4 * p + 3);
        pixels.data[4 * p + 3] = 255;
      }
      pen.putImageData(pixels, 0, 0);
      const label = app.data.labels[app.data.train + app.image];
      canvas.setAttribute("aria-label", `Test image ${app.image}, a ${label}`);
      truth.textContent = `Test image ${app.image}: a ${label}`;
      slider.value = app.image;
      rows.forEach((three, k) => {
        const own = app.now.students[k].probabilities.subarray(app.image * 10, app.image * 10 + 10);
        const order = Array.from(own.keys()).sort((a, b) => own[b] - own[a]);
        three.forEach(({ word, bar, share }, i) => {
          word.textContent = order[i];
          word.classList.toggle("kd-true", order[i] === label);
          bar.style.width = `${100 * own[order[i]]}%`;
          share.textContent = `${Math.round(100 * own[order[i]])} %`;
        });
      });
    },
  };
}

async function render({ model, el: root }) {
  root.classList.add("kd-explorer", "kd-inpage");
  const address = URL.createObjectURL(new Blob([TRAINER], { type: "text/javascript" }));
  const worker = new Worker(address);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const end = model.get("meta").steps;
  const app = { data: unpack(model), image: 0, now: null, ink: "" };
  let [run, asked, last, loop, due] = [0, false, 0, 0, false];
  let history = [];

  const set = (key, value) => {
    model.set(key, value);
    model.save_changes();
  };
  const settings = menus(model, set);
  const panels = TITLES.map((_, k) => layerMap(app, k));
  const charts = [
    chart("Test accuracy", 1, [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]], ({ accuracy }) => accuracy),
    chart("Cross-entropy on the test images", 3, [[0, "0"], [1, "1"], [2, "2"], [3, "3"]], ({ loss }) => loss),
  ];
  const image = inspector(app);
  const play = make("button", { type: "button", className: "kd-start", onclick: () => set("playing", !model.get("playing")) });
  const reset = make("button", { type: "button", onclick: () => { set("playing", false); begin(); } }, "↺ Reset");
  const count = make("span", { className: "kd-muted" });
  const said = make("p", { className: "kd-said", role: "status" });

  app.choose = (i) => {
    app.image = i;
    panels.forEach((panel) => panel.paint());
    image.update();
  };
  const ask = (message) => {
    asked = true;
    worker.postMessage({ id: run, steps: 0, ...message });
  };
  /** Go back to the first weights. */
  const begin = () => {
    [run, history] = [run + 1, []];
    ask({ settings: Object.fromEntries(SETTINGS.map((key) => [key, model.get(key)])) });
  };
  const summary = () => TITLES.map((title, k) => {
    const { accuracy, loss } = app.now.students[k];
    return `${title.toLowerCase()} ${percent(accuracy)}, cross-entropy ${fixed(loss)}`;
  }).join("; ");
  const announce = () => {
    said.textContent = `After ${thousands(app.now.steps)} steps, test accuracy: ${summary()}.`;
    charts.forEach((each) => each.describe(`after ${app.now.steps} steps: ${summary()}`));
  };
  const paint = () => {
    if (!app.now) return;
    panels.forEach((panel) => panel.paint());
    if (model.get("playing") && history.length % WORDY && !still.matches) return;
    [...panels, image].forEach((part) => part.update());
    charts.forEach((each) => each.update(history, end));
    count.textContent = `step ${thousands(app.now.steps)} of ${thousands(end)}`;
  };
  const frame = (time) => {
    loop = model.get("playing") ? requestAnimationFrame(frame) : 0;
    const [pace, every] = still.matches ? [STILL.pace, STILL.every] : [PACE, EVERY];
    if (!loop || asked || time - last < every) return;
    last = time;
    ask({ steps: Math.min(pace, end - app.now.steps) });
  };
  const update = () => {
    due = false;
    const key = String(SETTINGS.map((name) => model.get(name)));
    const playing = model.get("playing");
    const over = app.now?.steps >= end && playing && !loop;
    if (key !== root.dataset.settings || over) begin();
    root.dataset.settings = key;
    settings.update();
    play.textContent = playing ? "❚❚ Pause" : "▶ Play";
    if (playing && !loop) loop = requestAnimationFrame(frame);
    if (playing) said.textContent = "Training.";
    else if (app.now) {
      paint();
      announce();
    }
  };
  const soon = () => { // once for all traits that change together
    if (!due) queueMicrotask(update);
    due = true;
  };
  const started = new Promise((resolve, reject) => {
    worker.onerror = ({ message }) => reject(new Error(`The training stopped: ${message}`));
    worker.onmessage = ({ data: news }) => {
      if (news.id !== run) return; // of settings that are no more
      asked = false;
      app.now = news;
      history.push({ steps: news.steps, students: news.students.map(({ accuracy, loss }) => ({ accuracy, loss })) });
      root.dataset.steps = news.steps;
      paint();
      if (!news.steps && !model.get("playing")) announce();
      if (news.steps >= end && model.get("playing")) set("playing", false);
      resolve();
    };
  });
  const restyle = () => {
    panels.forEach((panel) => panel.fit());
    app.ink = getComputedStyle(root).getPropertyValue("--kd-text");
    paint();
  };

  worker.postMessage({ data: app.data, id: 0, settings: Object.fromEntries(SETTINGS.map((key) => [key, model.get(key)])), steps: 0 });
  root.append(
    settings.element,
    make("div", { className: "kd-actions" }, play, reset, count),
    make("div", { className: "kd-panels" }, ...panels.map(({ element }) => element)),
    make("p", { className: "kd-muted kd-how" }, "Each dot is a test image in the colour of its class, ringed where the student is wrong. "
      + "Both maps are linear projections: the hidden layer, seen along its two directions of largest variance, followed from step to step. "
      + "Each map is scaled to fit, and its axes have nothing to do with those of the other map."),
    make("div", { className: "kd-keys kd-digits", "aria-label": "Colours of the classes", role: "group" }, ...Array.from({ length: 10 }, (_, c) =>
      make("span", {}, make("i", { className: "kd-shade", style: `background:${colour(c)}` }), ` ${c}`))),
    image.element,
    make("div", { className: "kd-panels kd-charts" }, ...charts.map(({ element }) => element)),
    said);
  update();
  const names = [...SETTINGS, "playing"].map((key) => `change:${key}`);
  names.forEach((name) => model.on(name, soon));
  const themes = new MutationObserver(restyle);
  for (const node of [document.documentElement, document.body]) {
    themes.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] });
  }
  const sizes = new ResizeObserver(restyle);
  sizes.observe(root);
  await started;
  root.dataset.ready = "true";
  return () => {
    names.forEach((name) => model.off(name, soon));
    themes.disconnect();
    sizes.disconnect();
    cancelAnimationFrame(loop);
    worker.terminate();
    URL.revokeObjectURL(address);
  };
}

export default { render };
