"""Tables as HTML that reads well aloud, on a telephone, in light and in dark."""

from __future__ import annotations

import base64
import html
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML

from kdlib.report import charts

SIGNS = {"✓": ("supported", "consistent with"), "≈": ("mixed", "consistent in part")}
SIGNS |= {"✗": ("not supported", "not shown")}
LOOK = """
.kd-judged { overflow-x: auto; margin: 1em 0; }
.kd-judged table { border-collapse: collapse; font-size: .8em; line-height: 1.35; margin: 0; }
.kd-judged table { min-width: 42em; }
.kd-judged caption { caption-side: top; text-align: left; padding: .3em 0; }
.kd-judged caption, .kd-judged th, .kd-judged td { color: var(--pst-color-text-base, inherit); }
.kd-judged th, .kd-judged td { padding: .25em .45em; text-align: left; vertical-align: top; }
.kd-judged tbody tr { border-top: 1px solid var(--pst-color-border, #ccc); }
.kd-judged tbody th { font-weight: 600; }
.kd-number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.kd-verdict { border-left: 4px solid #888; padding-left: .4em; white-space: nowrap; }
.kd-verdict[data-sign="✓"] { border-color: #2f7fd0; }
.kd-verdict[data-sign="≈"] { border-color: #ee9a0b; }
.kd-verdict[data-sign="✗"] { border-color: #cc3a1e; }
html[data-theme="dark"] .bd-content div.cell_output .text_html {
  background: none !important; color: inherit !important; padding: 0 !important; }
"""


def badge(verdict: str) -> str:
    """Mark a verdict up as HTML: a sign, the word, and a colour that repeats them."""
    sign = next((sign for sign, words in SIGNS.items() if verdict in words), "–")
    return (
        f'<span class="kd-verdict" data-sign="{sign}">'
        f'<span aria-hidden="true">{sign}</span> {verdict}</span>'
    )


def table(rows: pd.DataFrame, caption: str) -> HTML:
    """Show a table of HTML strings: with a caption, headers that are ones, and its own scroll bar.

    The first column names its row.
    """
    head = "".join(f'<th scope="col">{column}</th>' for column in rows.columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows.itertuples(index=False, name=None)
    )
    words = html.escape(caption, quote=True)
    return HTML(
        f"<style>{LOOK}</style>"
        f'<div class="kd-judged" role="region" tabindex="0" aria-label="{words}">'
        f"<table><caption>{words}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def judged(
    cells: pd.DataFrame, figures: Mapping[str, str], caption: str, *, also: Sequence[str] = ()
) -> HTML:
    """Show cells of `verdicts.cells` with their numbers; each links to the figure of its claim.

    `also` names further columns of `cells` to show.
    """
    several = [c for c in ("network", "teacher") if cells[c].nunique() > 1]
    columns = {
        "cell": [
            f'<a href="{figures[cell["claim"]]}">{_cell(cell, several)}</a>'
            for cell in cells.to_dict("records")
        ],
        **({"space": cells["space"].fillna("–")} if cells["space"].nunique() > 1 else {}),
        "verdict": cells["verdict"].map(badge),
        **{c: cells[c].fillna("–").replace("", "–") for c in also},
        "strongest test": charts.tested(cells),
        "mean [95 % interval]": [_interval(row) for row in cells.to_dict("records")],
        "n": cells["n"].map(_plain("{:d}")),
        "d": cells["d"].map(_plain("{:+.1f}")),
        "p Holm": cells["p_holm"].map(_plain("{:.3f}")),
        "p flip": cells["p_flip"].map(_plain("{:.3f}")),
        "for": [_count(f, of) for f, of in zip(cells["tests_for"], cells["tests"], strict=True)],
        "against": [
            _count(f, of) for f, of in zip(cells["tests_against"], cells["tests"], strict=True)
        ],
    }
    # What would be empty, or the same in every row, only takes room.
    empty = {"p flip": cells["p_flip"].isna(), "against": cells["tests_against"].fillna(0) == 0}
    empty["strongest test"] = [cells[["measure", "layer"]].drop_duplicates().shape[0] == 1]
    left = {name: column for name, column in columns.items() if not all(empty.get(name, [False]))}
    return table(pd.DataFrame(left), caption)


BESIDE = {
    "better": "✓ beats baseline",
    "not told apart": "≈ does not beat baseline",
    "worse": "✗ worse than baseline",
}


def standing(standings: pd.DataFrame, method: str, kind: type, cost: Mapping[str, float]) -> HTML:
    """Show a method's rows of `statistics.standings`, its constants and its cost beside baseline.

    `kind` is its class: the constants are the defaults of its keyword arguments. `cost` says how
    many times as long as baseline a training takes. Where it was not run, says so.
    """
    given = inspect.signature(kind).parameters.values()
    constants = [f"{p.name} {p.default}" for p in given if p.kind is p.KEYWORD_ONLY]
    took = f"{cost[method]:.1f} times baseline's" if method in cost else "not measured"
    told = f"<p>Constants: {', '.join(constants) or 'none'}. Time of a training: {took}.</p>"
    rows = standings[standings["method"] == method]
    if rows.empty:
        return HTML(f"{told}<p><em>{method} was not run.</em></p>")
    spread = zip(rows["least"], rows["most"], strict=True)
    columns = {
        "labels per class": rows["labels"],
        **({"network": rows["network"]} if rows["network"].nunique() > 1 else {}),
        "beside baseline": [_beside(row) for row in rows.to_dict("records")],
        "minus baseline, points": _percent(rows[["gain", "gain_low", "gain_high"]], "+"),
        "single seeds": [_number(f"{100 * a:+.1f} to {100 * b:+.1f}", a) for a, b in spread],
        "pairs": rows["pairs"].map(_plain("{:.0f}")),
        "test accuracy, %": _percent(rows[["accuracy", "low", "high"]], ""),
        "n": rows["n"],
    }
    caption = (
        f"{method}, {', '.join(rows['network'].unique())}: mean and 95 % t interval over seeds"
    )
    return HTML(told + table(pd.DataFrame(columns), caption).data)


def _number(words: str, value: float) -> str:
    return "–" if pd.isna(value) else f'<span class="kd-number">{words}</span>'


def _percent(rows: pd.DataFrame, sign: str) -> list[str]:
    """Write means with their intervals, in percent: columns mean, low, high."""
    said = []
    for each in rows.itertuples(index=False, name=None):
        mean, low, high = (f"{100 * value:{sign}.1f}" for value in each)
        said.append(_number(mean if pd.isna(each[1]) else f"{mean} [{low}, {high}]", each[0]))
    return said


def _beside(row: Mapping[Any, Any]) -> str:
    """Say where a method lies beside the baseline."""
    if row["method"] == "baseline":
        words = "the reference"
    elif pd.isna(row["gain"]):
        words = "no baseline beside it"
    else:
        words = BESIDE.get(row["beside"], "one seed: not judged")
    return f'<span class="kd-number">{words}</span>'


WAYS = {
    "own start": "t-SNE, each from a start of its own",
    "shared start": "t-SNE, one start for all",
    "coupled": "t-SNE, one start, coupled",
    "ivis": "IVIS, turned to fit",
    "pca": "PCA, turned to fit",
}


def compared(ways: pd.DataFrame, caption: str) -> HTML:
    """Show `statistics.ways`, averaged over its layers: what comparable maps cost, and what not."""
    found = ways.groupby("way", sort=False)
    means = found.mean(numeric_only=True)
    base = means.loc["own start", "displacement"]
    numbers = {
        "moves, as drawn": means["displacement"],
        "share of own start": means["displacement"] / base,
        "moves, turned to fit": means["displacement_turned"],
        "trustworthiness": means["trustworthiness"],
        "neighbours kept": means["neighbours_kept"],
        "map k-NN": means["map_knn"],
    }
    columns = {name: values.map("{:.2f}".format) for name, values in numbers.items()}
    columns["largest rise of map k-NN"] = [f"{value:+.3f}" for value in found["rise"].max()]
    names = [WAYS.get(way, way) for way in means.index]
    return table(pd.DataFrame({"way": names, **columns}), caption)


def floors(found: pd.DataFrame, titles: Mapping[str, str], caption: str) -> HTML:
    """Show `statistics.floors`: a row per embedding, a column per layer; above .5 crossed out."""
    rows = {}
    for kind, cells in found.groupby("embedding", sort=False):
        rows[titles[str(kind)]] = {
            one.layer: f"{'<s>' if one.mean > 0.5 else ''}{one.mean:.2f}"
            f"{'</s>' if one.mean > 0.5 else ''} (up to {one.high:.2f})"
            for one in cells.itertuples()
        }
    shown = pd.DataFrame(rows).T.fillna("–")
    shown.insert(0, "maps", shown.index)
    return table(shown, caption)


def speed(columns: Mapping[str, Mapping[str, Any]], caption: str) -> HTML:
    """Show what `make bench` measured: a line for each work, the CPU and the GPU beside each other.

    Takes {"cpu": {name: row}, "gpu": ...} as benchmarks/pairs.py keeps it; a column is empty where
    nothing was measured.
    """
    lines: dict[str, dict[str, str]] = {}
    for kind, rows in columns.items():
        for name, row in rows.items():
            beside = f"{row['work']}<br>beside {row['against']}" if row["against"] else row["work"]
            line = lines.setdefault(name, {"work": beside, "CPU": "", "GPU": ""})
            line[kind.upper()] = _measured(row)
    return table(pd.DataFrame(list(lines.values()), columns=["work", "CPU", "GPU"]), caption)


def _measured(row: Mapping[str, Any]) -> str:
    """The median, its range and pairs; what was wanted; and what is to be known of it."""
    unit = "s" if row["unit"] == "s" else "×"
    bounds = f"{row['low']:.2f} to {row['high']:.2f} {unit}, n = {row['pairs']}"
    reached = "reached" if row["reached"] else f"not reached: {row['why']}"
    told = [
        f"<b>{row['median']:.2f} {unit}</b> ({bounds}; {row['machine']}, {row['date']})",
        f"wanted: {row['bound']} {row['target']:g} {unit}; {reached}",
        row["note"],
    ]
    return "<br>".join(filter(None, told))


def growth(stages: Mapping[str, Mapping[str, Any]], caption: str) -> HTML:
    """Show how each stage grows, as benchmarks/growth.py keeps it: times beside the smallest."""
    rows = []
    for name, told in stages.items():
        sizes = f"{told['of']}: {', '.join(f'{size:,g}' for size in told['sizes'])}"
        rows.append(
            {
                "stage": "<br>".join(filter(None, (f"{name}, by {sizes}", told["why"]))),
                "time": ", ".join(f"{time:.3g}" for time in told["times"]),
                "exponent": f"{told['exponent']:.2f}",
                "megabytes": ", ".join(map(str, told["megabytes"])),
                "its exponent": f"{told['memory_exponent']:.2f}",
            }
        )
    return table(pd.DataFrame(rows), caption)


def download(rows: pd.DataFrame, name: str, words: str) -> HTML:
    """Link to a table as a CSV file that lies in the page itself."""
    data = base64.b64encode(rows.to_csv(index=False).encode()).decode()
    return HTML(f'<a download="{name}.csv" href="data:text/csv;base64,{data}">{words}</a>')


def _cell(cell: Mapping[Any, Any], several: Sequence[str]) -> str:
    if pd.isna(cell["method"]):
        return cell["claim"]
    words = [*(cell[c] for c in several), cell["method"], f"{cell['labels']} labels"]
    return f'<span class="kd-number">{cell["claim"]}: {", ".join(words)}</span>'


def _count(some: Any, of: Any) -> str:
    return "–" if pd.isna(of) else f'<span class="kd-number">{some} of {of}</span>'


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["mean"]):
        return "–"
    interval = f" [{row['low']:+.3f}, {row['high']:+.3f}]" if pd.notna(row["low"]) else ""
    return f'<span class="kd-number">{row["mean"]:+.3f}{interval}</span>'


def _plain(shape: str) -> Callable[[Any], str]:
    return lambda value: "–" if pd.isna(value) else shape.format(value)
