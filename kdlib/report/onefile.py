"""One HTML file that needs nothing else: an explorer, curves of the measures, tables of numbers.

Everything is inside: scripts, styles, images, and data as deflated bytes in base64. The file asks
for nothing, which its own Content-Security-Policy enforces. Names are text, never markup.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import anywidget
import numpy as np
import pandas as pd
from scipy import stats

from kdlib import UsageError, store
from kdlib.measure import metrics
from kdlib.measure.depth import relative
from kdlib.report import charts
from kdlib.report.networks import families, layers_of
from kdlib.store import Results

STATIC = Path(__file__).parent / "static"
DASHES = ("", "6 4", "2 3", "9 3 2 3")  # of lines, after as many networks as there are colours
WIDTH, HEIGHT = 340, 190  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 44  # its margins
LONG = 9  # letters of a layer's name that fit below a chart
SINGLE = (
    "Two networks that were trained in the same way differ, too. So a difference between two "
    "single networks is no evidence about a method; that takes several seeds of each."
)


def write(widget: anywidget.AnyWidget, results: Results, path: Path) -> None:
    """Write a widget of these results, their curves and their numbers as one HTML file.

    Raises UsageError for a path that does not end in .html, and where it cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot save to {path}; allowed: a file that ends in .html")
    networks = families(results)
    numbers = summarise(results, networks)
    page = Template((STATIC / "onefile.html").read_text("utf-8"))
    text = page.substitute(
        title=escape(str(results.study["name"])),
        style=(STATIC / "onefile.css").read_text("utf-8"),
        summary=_summary(results, networks),
        evidence=_evidence(networks),
        model=widget.model_id,
        state=_state(widget),
        host=(STATIC / "widget-host.js").read_text("utf-8"),
        curves=_curves(results, networks, numbers),
        tables=_networks(results, networks) + _numbers(results, networks, numbers),
        notes=_notes(results),
    )
    store.save_text(path, text)


# ---- the explorer ------------------------------------------------------------------------------


def _state(widget: anywidget.AnyWidget) -> str:
    """Return a widget as the JSON that widget-host.js reads, its bytes deflated."""
    own = widget.get_state()
    names = (*own["meta"]["share"], "meta", "_esm", "_css")
    state = {name: own[name] for name in names} | {"parts": {}}
    state["meta"] = {**own["meta"], "study": ""}  # there is no folder beside a file that was sent
    buffers = [_buffer(["labels"], own["labels"]), _buffer(["sprite"], own["sprite"])]
    buffers += [_buffer(["parts", run], part) for run, part in own["parts"].items()]
    record = {"model_module": "anywidget", "state": state, "buffers": buffers}
    text = json.dumps({"state": {widget.model_id: record}}, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # no name can end the script


def _buffer(path: list[str], content: bytes) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(content, 9)).decode()
    return {"path": path, "deflated": True, "data": data}


# ---- numbers over seeds ------------------------------------------------------------------------


def summarise(results: Results, networks: pd.DataFrame) -> pd.DataFrame:
    """Average every measure over the seeds of each network, layer by layer.

    Returns columns family, layer, measure, mean, half (of the 95 % t interval, df = n - 1; NaN
    for one seed) and n.
    """
    table = networks[["run", "family"]].merge(results.measures, on="run")
    table = table[np.isfinite(table["value"])]
    return _average(table, ["family", "layer", "measure"], "value")


def _average(table: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    groups = table.groupby(by, sort=False)[column]
    rows = groups.agg(mean="mean", spread="std", n="count").reset_index()
    half = stats.t.ppf(0.975, np.maximum(rows["n"] - 1, 1)) * rows["spread"] / rows["n"] ** 0.5
    return rows.assign(half=half).drop(columns="spread")


def _measures(numbers: pd.DataFrame) -> list[str]:
    """Name the measures that there are, known ones first."""
    there = list(numbers["measure"].unique())
    return [m for m in dict.fromkeys([*metrics.MEASURES, *there]) if m in there]


# ---- words -------------------------------------------------------------------------------------


def _summary(results: Results, networks: pd.DataFrame) -> str:
    study = results.study
    classes = len(study["classes"])
    names = list(dict.fromkeys(networks["family"]))
    data = "" if study["dataset"] == "images" else f" of {study['dataset']}"
    facts = [
        f"{len(results.labels):,} images{data}",
        f"{classes:,} classes" if classes else "no labels",
        f"{len(names)} networks" if len(names) > 1 else "one network",
    ]
    return escape(", ".join(facts))


def _evidence(networks: pd.DataFrame) -> str:
    """Say what the networks are evidence of: one seed is one seed."""
    seeds = networks.groupby("family", sort=False)["seed"].nunique()
    if (seeds == 1).all():
        return f"<b>One seed is one seed.</b> Each network here was trained once. {SINGLE}"
    low, high = seeds[seeds > 1].min(), seeds.max()
    count = f"{low}" if low == high else f"{low} to {high}"
    words = (
        f"Curves and tables show means over {count} seeds with their 95 % t intervals; "
        "the maps show single networks."
    )
    single = list(seeds.index[seeds == 1])
    if single:
        words += f" <b>One seed only: {escape(', '.join(single))}.</b> {SINGLE}"
    return words


def _notes(results: Results) -> str:
    """List what a reader has to know about the networks, and what was left out and why."""
    study = results.study
    notes = []
    if not study.get("labelled", True):
        notes.append(
            "No labels were given: dots have one colour, and what needs classes is left out."
        )
    if not len(results.images):
        notes.append("No images were given: dots only.")
    for network in study.get("networks", []):
        readings = list(dict.fromkeys(network.get("readings", [])))
        facts = [network.get("source"), network.get("weights"), network.get("preparation")]
        facts += [f"layers read as: {', '.join(readings)}"] if readings else []
        words = "; ".join(filter(None, [*facts, *network.get("notes", [])]))
        if words:
            notes.append(f"{network['run']}: {words}.")
    if study.get("probes"):
        notes.append(f"Probes were fitted to {study['probes']}.")
    reasons: dict[str, list[str]] = {}
    for measure, reason in study.get("left_out", {}).items():
        known = measure in metrics.MEASURES  # else it is in words
        reasons.setdefault(reason, []).append(charts.name(measure) if known else measure)
    notes += [f"Left out: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2><ul>{items}</ul>" if items else ""


# ---- curves ------------------------------------------------------------------------------------


def _curves(results: Results, networks: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """Draw every measure over relative depth, a line for each network, and their legend."""
    if numbers.empty:
        return "<p>No measures of these layers were stored.</p>"
    layers = {f: layers_of(results, run) for f, run in _first(networks).items()}
    used = [family for family in layers if family in set(numbers["family"])]
    looks = {family: _look(i) for i, family in enumerate(used)}
    keys = "".join(
        f'<li><svg width="30" height="10" aria-hidden="true"><line x1="1" x2="29" y1="5" y2="5" '
        f"{looks[family]}/></svg> {escape(family)}</li>"
        for family in used
    )
    figures = [
        _figure(measure, rows, layers, looks)
        for measure, rows in _by_measure(numbers)
        if rows["family"].duplicated().any()  # of one layer there is no curve
    ]
    if not figures:
        return (
            "<p>Each network has one layer, so there are no curves; the table has its numbers.</p>"
        )
    return f'<ul class="legend">{keys}</ul><div class="charts">{"".join(figures)}</div>'


def _first(networks: pd.DataFrame) -> dict[str, str]:
    """Return the first run of each family."""
    return dict(networks.drop_duplicates("family")[["family", "run"]].to_numpy().tolist())


def _by_measure(numbers: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((m, numbers[numbers["measure"] == m]) for m in _measures(numbers))


def _look(i: int) -> str:
    """Return colour and dashes of the i-th line, as attributes of SVG."""
    dash = DASHES[i // len(charts.CLASSES) % len(DASHES)]
    return f'stroke="{charts.CLASSES[i % len(charts.CLASSES)]}" stroke-dasharray="{dash}"'


def _figure(
    measure: str, rows: pd.DataFrame, layers: dict[str, list[str]], looks: dict[str, str]
) -> str:
    half = rows["half"].fillna(0)
    ticks = _ticks((rows["mean"] - half).min(), (rows["mean"] + half).max())
    low, high = ticks[0], ticks[-1]
    scale = (HEIGHT - TOP - BOTTOM) / (high - low)
    marks = []
    for value in ticks:
        y = HEIGHT - BOTTOM - (value - low) * scale
        marks.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    marks += _axis([layers[family] for family in looks])
    words = []
    for family, look in looks.items():
        own = rows[rows["family"] == family].set_index("layer")
        names = layers[family]
        points = [
            (_x(depth), HEIGHT - BOTTOM - (own.loc[name, "mean"] - low) * scale, name)
            for depth, name in zip(relative(len(names)), names, strict=True)
            if name in own.index
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        marks.append(f'<polyline {look} points="{path}"/>')
        for x, y, name in points:
            cell = own.loc[name]
            text = f"{family}, {name}: {_cell(cell['mean'], cell['half'])}"
            words.append(text)
            marks.append(_dot(x, y, cell["half"] * scale, look, text))
    title, hint = charts.name(measure), charts.hint(measure)
    label = escape(f"{title} layer by layer. {'; '.join(words)}")
    frame = f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{label}">'
    picture = f"{frame}{''.join(marks)}</svg>"
    caption = f"<b>{escape(title)}</b> <span>{escape(hint)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def _x(depth: float) -> float:
    return LEFT + 8 + depth * (WIDTH - LEFT - RIGHT - 16)


def _dot(x: float, y: float, half: float, look: str, text: str) -> str:
    """Draw a mean, with its interval where it has one; the words appear at the pointer."""
    bar = ""
    if np.isfinite(half):
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - half:.1f}" y2="{y + half:.1f}"'
        bar = f'<line class="bar" {look} {ends}/>'
    dot = f'<circle {look} cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    return f"<g><title>{escape(text)}</title>{bar}{dot}</g>"


def _axis(layers: Sequence[list[str]]) -> list[str]:
    """Name the layers below a chart; their relative depth, where networks have their own."""
    if len({tuple(names) for names in layers}) == 1:
        names = layers[0]
        places = list(zip(relative(len(names)), names, strict=True))
    else:
        places = [(i / 4, f"{25 * i} %") for i in range(5)]
    y = HEIGHT - BOTTOM + 12
    few = len(places) <= 6
    marks = []
    for depth, name in places:
        short = name if len(name) <= LONG else f"…{name[1 - LONG :]}"
        turn = "" if few else f' transform="rotate(-45 {_x(depth):.1f} {y})"'
        anchor = "middle" if few else "end"
        marks.append(
            f'<text x="{_x(depth):.1f}" y="{y}" text-anchor="{anchor}"{turn}>{escape(short)}</text>'
        )
    if len({tuple(names) for names in layers}) > 1:
        x = (LEFT + WIDTH - RIGHT) / 2
        marks.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">relative depth</text>')
    return marks


def _ticks(low: float, high: float) -> list[float]:
    """Return from 2 to 6 round numbers around a range."""
    if high - low < 1e-4 * max(abs(low), abs(high), 1e-4):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [float(f"{k * step:.6g}") for k in np.arange(first, last + 1)]


# ---- tables ------------------------------------------------------------------------------------


def _cell(mean: float, half: float) -> str:
    """Return a mean, with half of its interval where there is one."""
    words = f"{mean:.3f}" if abs(mean) < 100 else f"{mean:.4g}"
    return words if not np.isfinite(half) else f"{words} ± {half:.3f}"


def _networks(results: Results, networks: pd.DataFrame) -> str:
    """Return the table of networks: seeds, layers, parameters, accuracy."""
    right = _average(networks.assign(pct=100 * networks["test_accuracy"]), ["family"], "pct")
    right = right.set_index("family")
    rows = []
    for family, runs in networks.groupby("family", sort=False):
        row, parameters = right.loc[family], runs["parameters"].iloc[0]
        accuracy = "–"
        if np.isfinite(row["mean"]):
            half = f" ± {row['half']:.1f}" if np.isfinite(row["half"]) else ""
            accuracy = f"{row['mean']:.1f}{half}"
        size = f"{int(parameters):,}" if np.isfinite(parameters) else "–"
        layers = ", ".join(layers_of(results, runs["run"].iloc[0]))
        rows.append([family, _seeds(runs["seed"]), size, accuracy, layers])
    head = ["network", "seeds", "parameters", "test accuracy, %", "layers"]
    return _table("Networks", head, rows, names=1, words=("layers",))


def _seeds(seeds: pd.Series) -> str:
    """Count seeds, and name those that are not 0, 1, 2, ...: "2 (7, 12)"."""
    numbers = sorted(set(seeds))
    known = numbers == list(range(len(numbers)))
    return f"{len(numbers)}" + ("" if known else f" ({', '.join(map(str, numbers))})")


def _numbers(results: Results, networks: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """Return the table of all measures: a row for each layer of each network."""
    if numbers.empty:
        return ""
    measures = _measures(numbers)
    keys = zip(numbers["family"], numbers["layer"], numbers["measure"], strict=True)
    cells = dict(zip(keys, map(_cell, numbers["mean"], numbers["half"]), strict=True))
    rows = [
        [family, layer, *(cells.get((family, layer, measure), "–") for measure in measures)]
        for family, run in _first(networks).items()
        for layer in layers_of(results, run)
    ]
    head = ["network", "layer", *(charts.name(measure) for measure in measures)]
    return _table("Measures, layer by layer", head, rows, names=2)


def _table(
    title: str, head: list[str], rows: list[list[str]], *, names: int, words: tuple[str, ...] = ()
) -> str:
    """Return a table whose first columns are names; it scrolls by itself, by keyboard, too."""
    kinds = [' class="word"' if i < names or h in words else "" for i, h in enumerate(head)]
    cells = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(head, kinds, strict=True)
    )
    lines = []
    for row in rows:
        parts = [
            f'<th scope="row" class="word">{escape(text)}</th>'
            if i < names
            else f"<td{kinds[i]}>{escape(text)}</td>"
            for i, text in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(parts)}</tr>")
    return (
        f'<h3>{escape(title)}</h3><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(title)}"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
