"""Tables as HTML that reads well aloud, on a telephone, in light and in dark.

Their look is in static/book.css; without it they are plain tables.
"""

from __future__ import annotations

import base64
import html
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from IPython.display import HTML

from kdlib.embed import TITLES
from kdlib.embed.compare import PROCEDURES
from kdlib.measure import statistics, verdicts
from kdlib.plan.methods import BASELINE

SIGNS = {  # of the words of verdicts
    sign: tuple(dict.fromkeys(words[place] for words in verdicts.WORDS.values()))
    for place, sign in enumerate("✓≈○✗")
}
FORMS = {"points": "+.1f", "spread": "+.3f", "layers": "+.2f", "silhouette": "+.3f"}
NONE = "–"  # where there is nothing to show
# The tags that a cell may hold, all of them written here or in the findings. Any other "<" is text:
# names of classes, networks and files are somebody else's.
_TAGS = re.compile(
    r"<(?!/?(?:code|b|s|em|span|a)>|br>"
    r'|span (?:class="kd-[a-z]+"(?: data-sign="[^"<>]*")?|aria-hidden="true")>'
    r'|a (?:class="kd-set" data-set="[^"<>]*"|href="[\w./#=&%+-]*")>)'
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def cell(content: object) -> str:
    """What a cell holds as HTML that runs nothing: every tag but those of `_TAGS` is text.

    >>> cell("<script>1 < 2"), cell("<code>kd</code>")
    ('&lt;script>1 &lt; 2', '<code>kd</code>')
    """
    return _TAGS.sub("&lt;", str(content))


def csv_cell(content: Any) -> Any:
    """What a cell of a CSV file holds: text that a spreadsheet would compute gets a quote before.

    >>> csv_cell("=1+2"), csv_cell("kd"), csv_cell(-0.5)
    ("'=1+2", 'kd', -0.5)
    """
    return f"'{content}" if isinstance(content, str) and content.startswith(FORMULA) else content


def badge(verdict: str) -> str:
    """Mark a verdict up as HTML: a sign, the word, and a colour that repeats them."""
    sign = next((sign for sign, words in SIGNS.items() if verdict in words), NONE)
    return (
        f'<span class="kd-verdict" data-sign="{sign}">'
        f'<span aria-hidden="true">{sign}</span> {verdict}</span>'
    )


def table(rows: pd.DataFrame, caption: str) -> HTML:
    """Show a table of cells, as `cell` takes them: with a caption, headers and its own scroll bar.

    The first column names its row.
    """
    head = "".join(f'<th scope="col">{cell(column)}</th>' for column in rows.columns)
    body = "".join(
        f'<tr><th scope="row">{cell(first)}</th>'
        + "".join(f"<td>{cell(each)}</td>" for each in rest)
        + "</tr>"
        for first, *rest in rows.itertuples(index=False, name=None)
    )
    words = html.escape(caption, quote=True)
    return HTML(
        '<div class="kd-table" style="overflow-x: auto" role="region" tabindex="0" '
        f'aria-label="{words}">'
        f"<table><caption>{words}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def headline(cell: Mapping[Any, Any]) -> str:
    """Write the number of a cell of `verdicts`, with its interval, in the unit of its claim."""
    form = FORMS[verdicts.CLAIMS[cell["claim"]].unit]
    return _number(_interval(cell, form), cell["mean"])


def measured(cell: Mapping[Any, Any]) -> str:
    """Write `headline` with its unit; of layers saved, with how many can be saved at all."""
    unit = verdicts.CLAIMS[cell["claim"]].unit
    if unit != "layers":
        return f"{headline(cell)} {unit}"
    if cell["verdict"] != "cannot show":
        return f"{headline(cell)} of {cell['possible']:.2f} layers that can be saved"
    if cell["possible"] >= 0.005:
        return f"only {cell['possible']:.2f} layers can be saved"
    return "nothing to save: the baseline's first layer is as good as its last"


def parts(cell: Mapping[Any, Any]) -> dict[str, str]:
    """List the parts of C5 with the word of each: of a cell with the words of other spaces beside.

    A claim that joins its parts by "and" has no word of its own.
    """
    several = str(cell["network"]).endswith("networks")
    layers = f"layers of {cell['network']}" if several else "layers of this pair"
    words = {layers: cell["verdict"]}
    for embedding in ("tsne", "ivis"):
        words[f"{TITLES[embedding]} maps"] = cell["beside"].get(embedding, "no data")
    return words if several else words | {"other architectures": "no data"}


def _parts(cell: Mapping[Any, Any]) -> str:
    return "<br>".join(f"{name}: {badge(word)}" for name, word in parts(cell).items())


def judged(cells: pd.DataFrame, caption: str) -> HTML:
    """Show cells of `verdicts.cells`: verdict, headline, and which methods agree or do not."""
    records = cells.to_dict("records")
    several = [c for c in ("network", "teacher", "space") if cells[c].nunique() > 1]
    units = cells["claim"].map(lambda claim: verdicts.CLAIMS[claim].unit).unique()
    several_seeds = cells["n"] > 1  # of one seed no method has an interval to agree by
    possible = cells["possible"].map(_plain("{:.2f}"))
    columns = {
        "labels per class": cells["labels"],
        **{column: cells[column].replace(TITLES) for column in several},
        "verdict": [badge(cell["verdict"]) for cell in records],
        f"{', '.join(units)} [95 % interval]": [headline(cell) for cell in records],
        **({"can be saved": possible} if cells["possible"].notna().any() else {}),
        "seeds": cells["n"],
        "methods that agree": [
            f"{cell['agree']} of {cell['methods']}" if enough else NONE
            for cell, enough in zip(records, several_seeds, strict=True)
        ],
        "not told from 0": cells["undecided"].where(several_seeds, "").replace("", NONE),
        "against": cells["opposing"].replace("", NONE),
    }
    if cells["against"].sum() == 0:  # what would be empty only takes room
        del columns["against"]
    return table(pd.DataFrame(columns), caption)


def matched(control: pd.DataFrame, caption: str) -> HTML:
    """Show `verdicts.control`: every method beside a baseline that is as accurate."""
    records = control.to_dict("records")
    several = [c for c in ("network", "teacher") if control[c].nunique() > 1]
    columns = {
        "method": control["method"],
        "labels per class": control["labels"],
        **{column: control[column] for column in several},
        "verdict": [badge(row["verdict"]) for row in records],
        "spread [95 % interval]": [headline(row) for row in records],
        "seeds with a partner": control["seeds"],
        "its labels per class": control["budgets"].replace("", NONE),
    }
    return table(pd.DataFrame(columns), caption)


def overview(cells: pd.DataFrame, caption: str) -> HTML:
    """Show `verdicts.overview`: a row for each data set, teacher and budget, a column per claim.

    All labels come last, apart. On a narrow screen each row is a list.
    """
    cells = cells.assign(equal=verdicts.no_different(cells))
    limited, every = (cells[cells["labels"].eq("all") == last] for last in (False, True))
    body = _conditions(limited)
    if len(every):
        words = "All labels: a condition that the paper did not claim"
        span = len(verdicts.CLAIMS) + 1
        body += f'<tr><th scope="colgroup" colspan="{span}">{words}</th></tr>'
        body += _conditions(every)
    heads = [f'<a href="{c.figure}">{key}</a> {c.words}' for key, c in verdicts.CLAIMS.items()]
    head = "".join(f'<th scope="col">{words}</th>' for words in ["trained on", *heads])
    name = html.escape(caption, quote=True)
    return HTML(
        f'<div class="kd-table kd-overview" role="region" tabindex="0" aria-label="{name}">'
        f"<table><caption>{name}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def claims(cells: pd.DataFrame, caption: str) -> HTML:
    """Show `verdicts.overview` on one screen: a row per claim, a column per data set.

    Of each data set the condition with the fewest labels in which the claim was judged, or else
    was asked; a teacher is named unless it had every label. On a narrow screen each row is a list.
    """
    titles = list(dict.fromkeys(cells["data"]))
    head = "".join(f'<th scope="col">{html.escape(words)}</th>' for words in ["claim", *titles])
    body = ""
    for key, claim in verdicts.CLAIMS.items():
        cell = {title: _first(cells, key, title) for title in titles}
        columns = "".join(
            f'<td data-claim="{html.escape(title)}"><div>{_brief(cell[title])}</div></td>'
            for title in titles
        )
        words = f'<a href="{claim.figure}">{key}</a> {claim.words}'
        body += f'<tr><th scope="row">{words}</th>{columns}</tr>'
    name = html.escape(caption, quote=True)
    return HTML(
        f'<div class="kd-table kd-overview kd-claims" role="region" tabindex="0" '
        f'aria-label="{name}"><table><caption>{name}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _first(cells: pd.DataFrame, claim: str, data: str) -> Mapping[Any, Any]:
    """Choose the cell of a claim on a data set: judged before not, then the fewest labels."""
    rows = cells[(cells["claim"] == claim) & (cells["data"] == data)].to_dict("records")
    order = {word: place for place, word in enumerate(verdicts.UNDECIDED, start=1)}
    return min(
        rows, key=lambda cell: (order.get(cell["verdict"], 0), statistics.size(cell["labels"]))
    )


def _brief(cell: Mapping[Any, Any]) -> str:
    """Write a verdict, its headline with its unit, and the condition."""
    if pd.isna(cell["mean"]):
        return badge(cell["verdict"])
    labels = "all labels" if cell["labels"] == "all" else f"{cell['labels']} labels per class"
    seeds = "1 seed" if cell["n"] == 1 else f"{cell['n']} seeds"
    of_all = cell["teacher"].partition(" ")[0] == "full"
    teacher = "" if of_all else f"{html.escape(_teacher(cell['teacher']))}, "
    where = f"{labels}, {teacher}{seeds}"
    if cell["claim"] == "C5":
        return f"{_parts(cell)}<br>{where}"
    return f"{badge(cell['verdict'])}<br>{measured(cell)}<br>{where}"


def _conditions(cells: pd.DataFrame) -> str:
    """Write a row for each data set, teacher and label budget, with every claim."""
    rows = []
    for (data, teacher, labels), part in cells.groupby(["data", "teacher", "labels"], sort=False):
        budget = "all labels" if labels == "all" else f"{labels} labels per class"
        who = html.escape(_teacher(teacher)) if teacher else "not run"
        words = f"{html.escape(data)}<br>{who}<br>{budget}"
        columns = "".join(
            f'<td data-claim="{cell["claim"]}"><div>{_verdict(cell)}</div></td>'
            for cell in part.to_dict("records")
        )
        rows.append(f'<tr><th scope="row">{words}</th>{columns}</tr>')
    return "".join(rows)


def _teacher(kind: str) -> str:
    """Write a kind of teacher, "full (4bfd9763)", as a reader knows it: of a file, published."""
    regime, _, began = kind.partition(" (")
    if re.fullmatch(r"[0-9a-f]{8}\)", began):
        return f"{regime} teacher, used as published"
    return f"{kind} teacher"


def _verdict(cell: Mapping[Any, Any]) -> str:
    """Write a verdict, the headline with its unit, the votes, and where another space differs."""
    whole = cell["claim"] != "C5" or pd.isna(cell["mean"])
    lines = [badge(cell["verdict"]) if whole else _parts(cell)]
    if cell["equal"]:
        lines.append(f"{statistics.EQUIVALENT}, within {verdicts.MARGIN:g} point")
    if cell["n"] and pd.notna(cell["mean"]):
        lines.append(measured(cell) if whole else f"layers: {measured(cell)}")
        seeds = "1 seed" if cell["n"] == 1 else f"{cell['n']} seeds"
        votes = f"{cell['agree']:.0f} of {cell['methods']:.0f} methods, "
        lines.append(seeds if cell["n"] < min(verdicts.WORDS) else votes + seeds)
        if cell["named"] and cell["verdict"] == "does not show":
            lines.append(f"for: {cell['named']}")
        if cell["opposing"]:
            lines.append(f"against: {cell['opposing']}")
    parts_of_cell = () if whole else TITLES  # among the parts
    beside = {
        space: word
        for space, word in cell["beside"].items()
        if word != cell["verdict"] and space not in parts_of_cell
    }
    lines += [f"{TITLES.get(space, space)}: {word}" for space, word in beside.items()]
    return "<br>".join(lines)


BESIDE = {
    "better": "✓ beats baseline",
    statistics.UNCLEAR: "≈ not told apart from baseline",
    statistics.EQUIVALENT: "= no different from baseline",
    "worse": "✗ worse than baseline",
}


def constants(kind: type) -> dict[str, Any]:
    """Give the constants of a method's class: its keyword-only arguments, with their defaults."""
    arguments = inspect.signature(kind).parameters.values()
    return {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}


def standing(
    standings: pd.DataFrame, method: str, kind: type, cost: Mapping[str, float], *, images: str = ""
) -> HTML:
    """Show a method's rows of the table `standings`, its constants and its cost.

    `kind` is its class: the constants are the defaults of its keyword arguments. `cost` is how many
    times as long as the baseline's a training takes. `images` names the data set in the
    caption. A method that was not run has a sentence.
    """
    names = [f"{name} {default}" for name, default in constants(kind).items()]
    words = f"<p>Constants: {', '.join(names) or 'none'}."
    if method in cost and method != BASELINE:
        words += f" A training takes {cost[method]:.1f} times as long as the baseline's, on digits."
    words += "</p>"
    rows = standings[standings["method"] == method]
    if rows.empty:
        return HTML(f"{words}<p><em>{method} was not run.</em></p>")
    spread = zip(rows["least"], rows["most"], strict=True)
    network = {"network": rows["network"]} if rows["network"].nunique() > 1 else {}
    columns = {
        "labels per class": rows["labels"],
        **network,
        "beside the baseline": [_beside(row) for row in rows.to_dict("records")],
        "minus baseline, points": _percent(rows[["gain", "gain_low", "gain_high"]], "+"),
        "single seeds": [_number(f"{100 * a:+.1f} to {100 * b:+.1f}", a) for a, b in spread],
        "pairs": rows["pairs"].map(_plain("{:.0f}")),
        "test accuracy, %": _percent(rows[["accuracy", "low", "high"]], ""),
        "n": rows["n"],
    }
    caption = (
        f"{', '.join(filter(None, (method, *rows['network'].unique(), images)))}: "
        "mean and, of several seeds, 95 % t interval"
    )
    return HTML(words + table(pd.DataFrame(columns), caption).data)


def _number(words: str, value: float) -> str:
    return NONE if pd.isna(value) else f'<span class="kd-number">{words}</span>'


def _percent(rows: pd.DataFrame, sign: str) -> list[str]:
    """Write means with their intervals, in percent: columns mean, low, high."""
    words = []
    for row in rows.itertuples(index=False, name=None):
        mean, low, high = (f"{100 * value:{sign}.1f}" for value in row)
        words.append(_number(mean if pd.isna(row[1]) else f"{mean} [{low}, {high}]", row[0]))
    return words


def _beside(row: Mapping[Any, Any]) -> str:
    """Name where a method lies beside the baseline."""
    if row["method"] == "baseline":
        words = "the reference"
    elif pd.isna(row["gain"]):
        words = "no baseline to compare with"
    else:
        words = BESIDE.get(row["beside"], "one seed: not judged")
    return f'<span class="kd-number">{words}</span>'


def compared(procedures: pd.DataFrame, caption: str) -> HTML:
    """Show `comparison.procedures`, averaged over layers: what comparable maps cost."""
    groups = procedures.groupby("procedure", sort=False)
    means = groups.mean(numeric_only=True)
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
    columns["largest rise of map k-NN"] = [f"{value:+.3f}" for value in groups["rise"].max()]
    names = [PROCEDURES[name].title for name in means.index]
    return table(pd.DataFrame({"procedure": names, **columns}), caption)


def floors(noise: pd.DataFrame, caption: str) -> HTML:
    """Show `comparison.noise_floors`: a row per embedding, a column per layer.

    Means above 0.5 are crossed out.
    """
    mean = noise["mean"].map("{:.2f}".format)
    mean = mean.where(noise["mean"] <= 0.5, "<s>" + mean + "</s>")
    cells = noise.assign(cell=mean + noise["high"].map(" (up to {:.2f})".format))
    rows = cells.pivot(index="embedding", columns="layer", values="cell").fillna(NONE)
    layers, embeddings = (list(dict.fromkeys(noise[c])) for c in ("layer", "embedding"))
    rows = rows.loc[embeddings, layers]
    rows.insert(0, "maps", rows.index.map(TITLES))
    return table(rows, caption)


def speed(columns: Mapping[str, Mapping[str, Any]], caption: str) -> HTML:
    """Show what `make bench` measured: a row per task, the CPU and the GPU beside each other.

    Takes {"cpu": {name: row}, "gpu": ...} as benchmarks/pairs.py writes it; a column is empty where
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
    """Write the median, its range and pairs, the target and a note."""
    unit = "s" if row["unit"] == "s" else "×"
    bounds = f"{row['low']:.2f} to {row['high']:.2f} {unit}, n = {row['pairs']}"
    reached = "reached" if row["reached"] else f"not reached: {row['why']}"
    lines = [
        f"<b>{row['median']:.2f} {unit}</b> ({bounds}; {row['machine']}, {row['date']})",
        f"target: {row['bound']} {row['target']:g} {unit}; {reached}",
        row["note"],
    ]
    return "<br>".join(filter(None, lines))


def growth(stages: Mapping[str, Mapping[str, Any]], caption: str) -> HTML:
    """Show how each stage grows, as benchmarks/growth.py writes it: times beside the smallest."""
    rows = []
    for name, stage in stages.items():
        sizes = f"{stage['of']}: {', '.join(f'{size:,g}' for size in stage['sizes'])}"
        rows.append(
            {
                "stage": "<br>".join(filter(None, (f"{name}, by {sizes}", stage["why"]))),
                "time": ", ".join(f"{time:.3g}" for time in stage["times"]),
                "exponent": f"{stage['exponent']:.2f}",
                "megabytes": ", ".join(map(str, stage["megabytes"])),
                "its exponent": f"{stage['memory_exponent']:.2f}",
            }
        )
    return table(pd.DataFrame(rows), caption)


def chaos(measured: Mapping[str, Any], caption: str) -> HTML:
    """Show what came of the kills of benchmarks/chaos.py: how often each, and what was lost."""
    if not measured:
        return table(pd.DataFrame(), caption)
    ends = f"slowest end of a stopped study: {measured['slowest_end']:.1f} s"
    rows = [(kind, count) for kind, count in measured["kills"].items() if count]
    rows += [
        ("in all", sum(measured["kills"].values())),
        ("half-written files that were read", measured["half_written"]),
        (
            f"finished notebooks that ran again or are gone, of {measured['noted']} noted",
            measured["lost"],
        ),
    ]
    if measured["studies"]:
        of = f"{measured['studies']} x {measured['files']}"
        rows.append((f"files that differ in the end, of {of}", measured["different"]))
    words = f"{caption} (study {measured['study']}, seed {measured['seed']}; {ends}; "
    words += f"{measured['machine']}, {measured['date']}, commit {measured['commit'][:7]})"
    return table(pd.DataFrame(rows, columns=["what", "times"]), words)


def download(rows: pd.DataFrame, name: str, words: str) -> HTML:
    """Link to a table as a CSV file that lies in the page itself."""
    safe = rows.rename(columns=csv_cell).map(csv_cell)
    data = base64.b64encode(safe.to_csv(index=False).encode()).decode()
    return HTML(f'<a download="{name}.csv" href="data:text/csv;base64,{data}">{words}</a>')


def _interval(row: Mapping[Any, Any], form: str) -> str:
    mean, low, high = (f"{row[column]:{form}}" for column in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if pd.notna(row["low"]) else mean


def _plain(shape: str) -> Callable[[Any], str]:
    return lambda value: NONE if pd.isna(value) else shape.format(value)
