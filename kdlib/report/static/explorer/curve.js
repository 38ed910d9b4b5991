// The measure layer by layer.

/** The measure layer by layer, for both networks; a click on a layer goes there. */
function curve(app) {
  const { data } = app;
  const gutter = 44; // the play button below has the same width, so columns and slider line up
  const height = 132;
  const picture = svg("svg", { class: "kd-curve", role: "img", height });
  picture.addEventListener("click", (event) => {
    const i = event.target.dataset?.layer;
    if (i !== undefined) app.go(+i);
  });
  const select = make("select", { "aria-label": "Measure of the curve", onchange: () => app.set("measure", select.value) },
    ...data.measures.map(({ key, name }) => make("option", { value: key }, name)));
  const hint = make("span", { className: "kd-muted" });
  const summary = make("span", { className: "kd-summary", "aria-live": "polite" });

  function scales() {
    const [low, high] = data.ranges[app.good.measure][0] == null ? [0, 1] : data.ranges[app.good.measure];
    const step = [0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find((s) => (high - low) / s <= 4) || (high - low) / 4;
    const from = Math.floor(low / step) * step;
    const to = Math.max(from + step, Math.ceil(high / step) * step); // a measure may be one number everywhere
    const ticks = Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step);
    const width = picture.clientWidth || 600;
    const last = app.stops() - 1;
    const column = (width - gutter) / (last + 1);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`); // paper has another width
    return { ticks, width, column,
      x: (i, n) => gutter + (relative(i, n) * last + 0.5) * column,
      y: (v) => 12 + (1 - (v - from) / (to - from)) * (height - 24) };
  }
  /** A path through the layers that have a value. */
  const path = (values, { x, y }) => values.map((v, i) => (v == null ? "" : `${x(i, values.length)},${y(v)}`)).filter(Boolean).join(" ");

  function side(name, scale) {
    const { values, low, high, seeds } = app.part(name).curves[app.good.measure];
    const group = svg("g", { class: `kd-${name}` });
    const still = svg("g", { class: app.epoch === TRAINED ? "" : "kd-pale" }); // of the trained network
    group.append(still);
    if (seeds > 1) {
      const edge = `${path(low, scale)} ${path(high, scale).split(" ").reverse().join(" ")}`;
      still.append(svg("polygon", { class: "kd-band", points: edge }));
    }
    still.append(svg("polyline", { points: path(values, scale) }));
    const dot = (parent, i, v, r) => v != null && parent.append(svg("circle", { cx: scale.x(i, values.length), cy: scale.y(v), r }));
    values.forEach((v, i) => dot(still, i, v, 2.6));
    dot(group, app.own(name), app.value(app.good.measure, name), 5);
    return group;
  }
  /** Numbers at the current layer and names at the end, pushed apart where they would meet. */
  function words(scale) {
    const [a, b] = SIDES.map((s) => app.part(s).curves[app.good.measure].values);
    const group = svg("g");
    const write = (name, x, y, anchor, text) =>
      group.append(svg("text", { x, y, "text-anchor": anchor, class: `kd-word kd-${name}` }, text));
    const here = { left: app.value(app.good.measure, "left"), right: app.value(app.good.measure, "right") };
    const above = (a, b) => (a ?? 0) > (b ?? 0) ? { left: -10, right: 18 } : { left: 18, right: -10 };
    for (const [s, values] of [["left", a], ["right", b]]) {
      const [now, end] = [app.own(s), values.length - 1];
      if (here[s] != null) {
        const y = scale.y(here[s]) + above(here.left, here.right)[s];
        write(s, scale.x(now, values.length), Math.max(10, Math.min(height - 2, y)), "middle", fixed(here[s]));
      }
      const apart = Math.abs(scale.y(a.at(-1) ?? 0) - scale.y(b.at(-1) ?? 0)) < 13 ? above(a.at(-1), b.at(-1))[s] / 2.2 : 0;
      if (values[end] != null && scale.column > 80) {
        const letters = Math.floor((scale.width - scale.x(end, values.length) - 12) / 7); // that fit beside the line
        write(s, scale.x(end, values.length) + 10, scale.y(values[end]) + 4 + apart, "start", shorten(app.network(s).short, letters));
      }
    }
    return group;
  }
  return {
    element: make("div", { className: "kd-curves", hidden: !data.measures.length },
      make("div", { className: "kd-curve-head" }, make("label", {}, select), hint, summary), picture),
    update() {
      if (!data.measures.length) return;
      const scale = scales();
      const measure = data.measures[app.at("measure")];
      select.value = measure.key;
      const seeds = Math.max(...SIDES.map((s) => app.part(s).curves[measure.key].seeds));
      hint.textContent = [measure.hint, app.epoch === TRAINED ? (seeds > 1 && `lines: the networks on the maps; bands: the lowest to the highest of up to ${seeds} seeds`)
        : `large dots: ${moment(app.epoch)}; pale lines: once trained`].filter(Boolean).join(" · ");
      const grid = scale.ticks.map((v) => [
        svg("line", { class: "kd-grid", x1: gutter, x2: scale.width, y1: scale.y(v), y2: scale.y(v) }),
        svg("text", { class: "kd-axis", x: gutter - 8, y: scale.y(v) + 4, "text-anchor": "end" }, `${+v.toFixed(2)}`)]);
      const here = svg("rect", { class: "kd-here", x: gutter + app.stop() * scale.column, y: 0, width: scale.column, height, rx: 6 });
      const targets = Array.from({ length: app.stops() }, (_, i) => svg("rect", { class: "kd-target", "data-layer": i, y: 0, height,
        x: gutter + i * scale.column, width: scale.column }, svg("title", {}, `go to ${app.stopName(i)[1]}`)));
      picture.replaceChildren(here, ...grid.flat(), ...SIDES.map((s) => side(s, scale)), words(scale), ...targets);
      const [a, b] = SIDES.map((s) => app.part(s).curves[measure.key].values);
      const [u, v] = SIDES.map((s) => app.value(measure.key, s));
      const gap = u == null || v == null ? "" : ` (${v >= u ? "+" : "−"}${Math.abs(v - u).toFixed(2)})`;
      const number = (s, value) => make("b", { className: `kd-${s}` }, `${app.network(s).short} ${fixed(value)}`);
      summary.replaceChildren(`${app.stopName(app.stop())[0]}${app.epoch === TRAINED ? "" : ` ${moment(app.epoch)}`}: `, number("left", u), ", ", number("right", v), gap);
      picture.setAttribute("aria-label", `${measure.name}${data.aligned ? ` at ${data.layers.join(", ")}` : ""}. ` + SIDES.map((s, i) =>
        `${app.network(s).name}${data.aligned ? "" : ` at ${app.part(s).layers.join(", ")}`}: ${[a, b][i].map(fixed).join(", ")}`).join(". "));
    },
  };
}
