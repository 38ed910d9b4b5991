// Everything above and below the maps that is clicked, dragged or chosen.

/** Choose a network by its kind, its labels and its seed: three menus of runs. */
function networkSelect(app, side) {
  const { networks } = app.data;
  const menu = (label) => make("select", { "aria-label": `${label} on the ${side}`,
    onchange: (event) => app.set(side, event.target.value) });
  const [families, labels, seeds] = ["Network", "Labels", "Seed"].map(menu);
  const facts = make("span", { className: "kd-muted" });
  /** For each value of a key among `candidates`, the network most like the current one. */
  const closest = (current, key, candidates) => {
    const best = new Map();
    const score = (network) => 2 * (network.labels === current.labels) + (network.seed === current.seed);
    for (const network of candidates) {
      const rival = best.get(network[key]);
      if (!rival || score(network) > score(rival)) best.set(network[key], network);
    }
    return [...best.values()];
  };
  const option = (key) => (network) => make("option", { value: network.run }, network[key]);
  const fill = (select, run, items) => {
    select.replaceChildren(...items);
    select.value = run;
    select.hidden = items.length < 2;
  };
  return {
    element: make("div", { className: `kd-network kd-${side}` }, make("i", { className: "kd-mark" }), families, labels, seeds, facts),
    update() {
      const current = app.chosen(side);
      const groups = {};
      const last = ({ kind }) => kind === "control"; // the methods first, then what they have to beat
      const kinds = closest(current, "family", networks).sort((a, b) => last(a) - last(b));
      for (const network of kinds) (groups[network.group] ??= []).push(option("short")(network));
      fill(families, current.run, Object.entries(groups).map(([label, options]) => make("optgroup", { label }, ...options)));
      families.hidden = false;
      const family = networks.filter((network) => network.family === current.family);
      fill(labels, current.run, closest(current, "labels", family).map(option("labels")));
      fill(seeds, current.run, family.filter((network) => network.labels === current.labels).map(option("seed")));
      const words = [labels.hidden && current.labels, seeds.hidden && current.seed,
        current.accuracy != null && [make("b", {}, percent(current.accuracy)), " test accuracy"],
        current.parameters != null && `${size(current.parameters)} parameters`].filter(Boolean);
      facts.replaceChildren(...words.flatMap((word, i) => [...(i ? [" · "] : []), ...[word].flat()]));
    },
  };
}

/** A row of buttons of which one is on; arrow keys move along it, as in any radio group. */
function radio(app, key, label, words) {
  const values = app.data.allowed[key];
  const buttons = values.map((value) => make("button", { type: "button", role: "radio",
    onclick: () => app.set(key, value) }, words[value] || value));
  const element = make("div", { className: "kd-switch", role: "radiogroup", "aria-label": label }, ...buttons);
  element.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = (app.at(key) + by + buttons.length) % buttons.length;
    app.set(key, values[next]);
    buttons[next].focus();
  });
  return {
    element,
    update() {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === app.at(key)));
        button.tabIndex = i === app.at(key) ? 0 : -1;
      });
    },
  };
}

/** A box to tick for a trait that is true or false. */
function tick(app, key, words, title) {
  const box = make("input", { type: "checkbox", onchange: () => app.set(key, box.checked) });
  const element = make("label", { className: "kd-key", title }, box, words);
  return { element, update() { box.checked = app.good[key]; } };
}

/** How the maps are looked at. */
function options(app) {
  const known = app.data.classes.length > 0;
  const late = known && SIDES.some((side) => app.part(side).predicts);
  const ticks = [...(known ? [tick(app, "names", "names", "Name the classes on the maps")] : []),
    tick(app, "together", "zoom together", "Zoom and move both maps together, or each by itself"),
    tick(app, "align", "align the selection", `Turn and shift the right map so that the selected images lie upon those on the left (${FEWEST} or more images)`),
    tick(app, "overview", "all layers", "Show small maps of all layers of both networks"),
    ...(late ? [tick(app, "regions", "decision regions", "Colour the last layers' maps by what the nearest images are predicted, once trained and along the film")] : [])];
  return {
    element: make("div", { className: "kd-options", role: "group", "aria-label": "Maps" }, ...ticks.map((each) => each.element)),
    update() { ticks.forEach((each) => each.update()); },
  };
}

/** A slider with its stops named below, and a button that walks through them and stops at the end.
 *  stops() are [name, words]; at() says where it stands; choose(i) goes there. */
function walk({ label, play: title, pause, stops, at, choose }) {
  let [timer, names] = [0, ""];
  const last = () => stops().length - 1;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", title);
  };
  const go = () => {
    if (at() === last()) choose(0);
    timer = setInterval(() => {
      choose(Math.min(at() + 1, last()));
      if (at() >= last()) stop();
    }, pause);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Stop");
  };
  const jump = (i) => { stop(); choose(i); };
  const play = make("button", { type: "button", className: "kd-play", title, onclick: () => (timer ? stop() : go()) });
  const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": label, oninput: () => jump(+slider.value) });
  const ticks = make("div", { className: "kd-ticks" });
  const element = make("div", { className: "kd-walk" }, play, make("div", { className: "kd-track" }, slider, ticks));
  stop();
  return {
    element, stop,
    update() {
      const [now, known] = [at(), stops()];
      if (names !== String(known)) {
        names = String(known);
        slider.max = known.length - 1;
        element.style.setProperty("--n", known.length);
        ticks.replaceChildren(...known.map(([name, words], i) => make("button", { type: "button", tabIndex: -1,
          title: words, "aria-label": words, onclick: () => jump(i) }, name)));
      }
      slider.value = now;
      slider.setAttribute("aria-valuetext", known[now]?.[1] ?? "");
      [...ticks.children].forEach((tick, i) => tick.classList.toggle("kd-on", i === now));
    },
  };
}

function depthSlider(app) {
  const walker = walk({ label: "Layer", play: "Play through the layers", pause: 1100,
    stops: () => Array.from({ length: app.stops() }, (_, i) => app.stopName(i)), at: app.stop, choose: app.go });
  walker.element.classList.add("kd-depth");
  return walker;
}

const moment = (epoch) => (epoch === TRAINED ? "trained" : epoch === 0 ? "before training" : `after ${epoch} epoch${epoch === 1 ? "" : "s"}`);

/** The film: the same layer after some epochs. Its last stop is the trained network's own map. */
function film(app) {
  const { data } = app;
  const stops = () => [...app.epochs(), TRAINED];
  const walker = walk({ label: "Epochs", play: "Play the film of training", pause: 800,
    stops: () => stops().map((epoch) => [epoch === TRAINED ? "trained" : `${epoch}`, moment(epoch)]),
    at: () => stops().indexOf(app.epoch), choose: (i) => app.set("epoch", stops()[i]) });
  const words = make("p", { className: "kd-muted" });
  const whose = (key, name) => [...new Set(data.film.map((reel) => name(reel[key])))].join(", ");
  const short = (run) => data.networks.find((network) => network.run === run).short;
  const available = `there is one for ${whose("run", short)} at ${whose("layer", String)}, as t-SNE`;
  return {
    element: make("div", { className: "kd-film", hidden: !data.film.length }, words, walker.element),
    stop: walker.stop,
    update() {
      const none = stops().length === 1;
      if (none) walker.stop();
      walker.element.classList.toggle("kd-absent", none);
      words.replaceChildren(make("b", {}, "Film of training: "), none ? `none of this view; ${available}.`
        : app.epoch === TRAINED ? "the same layer from epoch to epoch; here the trained networks."
          : `both networks ${moment(app.epoch)}. Rings mark images that they misclassify ${SIDES.every((side) => app.known[side]) ? "then" : "once trained"}.`);
      walker.update();
    },
  };
}

function legend(app) {
  const { classes, labels, n, shades } = app.data;
  const predicts = () => SIDES.some((side) => app.part(side).predicts) && classes.length > 0;
  const members = (c) => Array.from({ length: n }, (_, i) => i).filter((i) => labels[i] === c);
  const point = (c) => { app.pointed = app.hidden.has(c) ? -1 : c; app.draw(); };
  const hide = (c, hidden) => app.set("hidden", classes.map((_, i) => i).filter((i) => (i === c ? hidden : app.hidden.has(i))));
  const toggle = (c) => {
    hide(c, !app.hidden.has(c));
    app.pointed = -1; // else all others would stay pale until the pointer leaves
    app.changed();
  };
  const choose = (c) => { hide(c, false); app.select(members(c)); };
  const buttons = classes.map((name, c) => {
    const icon = svg("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12, "aria-hidden": "true" },
      svg("path", { d: outline(shape(c), 4.6), fill: colour(c) }));
    return make("button", { type: "button", title: `${name}: click to hide or show, Shift + click to select all`,
      onclick: (event) => (event.shiftKey ? choose(c) : toggle(c)),
      onfocus: (event) => event.target.matches(":focus-visible") && point(c), onblur: () => point(-1),
      onpointerenter: () => point(c), onpointerleave: () => point(-1) }, icon, make("span", {}, name));
  });
  const find = make("input", { type: "search", placeholder: `find one of ${thousands(classes.length)} classes`,
    "aria-label": "Find a class", hidden: classes.length <= MANY, oninput: () => {
      const words = find.value.trim().toLocaleLowerCase();
      buttons.forEach((button, c) => { button.hidden = !classes[c].toLocaleLowerCase().includes(words); });
    } });
  const ring = make("span", { className: "kd-key" }, make("i", { className: "kd-ring" }), "misclassified");
  const shade = make("select", { "aria-label": "What colours mean", onchange: () => app.set("shade", shade.value) },
    ...shades.map((value) => make("option", { value }, value === "class" && !classes.length ? "nothing" : MEANINGS[value])));
  const most = make("span");
  const ramp = make("span", { className: "kd-key kd-ramp" }, "none", ...SHADES.map((fill) =>
    make("i", { className: "kd-shade", style: `background:${fill}` })), most);
  const element = make("div", { className: "kd-legend", role: "group", "aria-label": "Classes and colours" },
      make("label", { className: "kd-muted", hidden: shades.length < 2 }, "colour: ", shade), ramp,
      find, make("span", { className: "kd-muted", hidden: classes.length > 0 }, "no classes are known"), ...buttons,
      ring);
  return {
    element,
    update() {
      element.classList.toggle("kd-shaded", app.shade() !== "class"); // then dots have other colours than classes
      shade.value = app.shade();
      shade.disabled = app.epoch !== TRAINED;
      shade.title = shade.disabled ? "known of trained networks only" : "what colours mean";
      ramp.hidden = app.shade() === "class";
      ring.hidden = !predicts();
      most.textContent = MOST[app.shade()] || "";
      buttons.forEach((button, c) => button.setAttribute("aria-pressed", String(!app.hidden.has(c))));
    },
  };
}
