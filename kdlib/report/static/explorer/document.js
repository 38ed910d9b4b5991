// Elements of the page, colours and numbers in words.

const SIDES = ["left", "right"];

// COLOURS are ten that keep apart with any colour vision; after ten classes they come again with the
// next shape.
const SHAPES = ["circle", "square", "triangle", "diamond"];
const colour = (c) => COLOURS[c % COLOURS.length];
const shape = (c) => SHAPES[Math.floor(c / COLOURS.length) % SHAPES.length];

const SHADES = ["#a8dca0", "#74c476", "#41a45a", "#1d8240", "#005a2a"]; // of few to many neighbours; no class is green
const MEANINGS = { class: "class", error: "neighbours lost", change: "neighbours changed" };
const MOST = { error: "all, between layer and map", change: "all, between left and right layer" }; // the ramp's end

const percent = (v) => `${(100 * v).toFixed(1)} %`;
const thousands = (v) => v.toLocaleString("en");
const size = (v) => (v >= 1e6 ? `${(v / 1e6).toFixed(1)} M` : v >= 1e3 ? `${Math.round(v / 1e3)} k` : `${v}`);
const fixed = (v) => (v == null ? "–" : v.toFixed(2));

/** The relative depth of layer i of n, 0 to 1; the only layer is the last. */
const relative = (i, n) => (n > 1 ? i / (n - 1) : 1);
/** The place among n that is nearest to a relative depth. */
const nearestTo = (depth, n) => Math.floor(depth * (n - 1) + 0.5);

/** Make an element: properties by name, "on..." as listeners, "aria-..." and such as attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.includes("-") && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  // Else JupyterLab keeps the arrow keys to itself.
  if (["button", "canvas", "input", "select"].includes(tag)) element.dataset.lmSuppressShortcuts = "true";
  element.append(...children);
  return element;
}

/** The same for SVG, attributes only. */
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

