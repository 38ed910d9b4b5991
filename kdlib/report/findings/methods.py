"""Every method on the same students: the chapter of all methods, and its families' pages."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import store
from kdlib.measure import standings, statistics
from kdlib.plan import editions as plan
from kdlib.plan.methods import FAMILIES, METHODS
from kdlib.report import charts, editions, tables
from kdlib.report.findings.words import NOT_RUN, data_set, interval, larger, lead, seeds, seeds_of
from kdlib.store import Results

PAGES = {  # family -> its page, and what its methods copy
    "logits": ("logits", "the class probabilities that the teacher predicts"),
    "features": ("features", "what the teacher's layers compute"),
    "relations": ("relations", "how images relate to each other"),
    "schemes": ("schemes", "who teaches whom, in which order"),
    "controls": ("schemes", "a part of the teacher's outputs, or nothing"),
}
NAMED = "A name with a network behind it was trained on that network, as its method asks"
OTHER = f"{NAMED}: compare it with `baseline` of the same network, dashed."
LISTED = 5  # methods that a list names; the rest is folded
TOGETHER = {  # pairs of networks that benchmarks/ trained side by side
    "digits": "resnet20 to resnet8x0.5 on digits",
    "resnet56-resnet20": "resnet56 to resnet20 on images of CIFAR's size",
}


def rows(classes: Mapping[str, type]) -> Callable[[str], HTML]:
    """Return a function that shows constants, cost and results of one method of the gallery.

    `classes` are those of `kdlib.distill`, by key.
    """
    gallery = store.brief("methods")
    table, images = standings.standings(gallery), data_set(gallery.study)
    cost = store.load_benchmark("methods", "cost")
    other = _of_edition(gallery)
    own = standings.standings(other) if other else None

    def show(method: str) -> HTML:
        table_of_method = tables.standing(table, method, classes[method], cost, images=images)
        beside = "" if other is None or own is None else _beside(own, method, data_set(other.study))
        return HTML(table_of_method.data + beside)

    return show


def _of_edition(gallery: Results) -> Results | None:
    """Read the methods of this edition, where its images are not those of the gallery."""
    own = editions.brief("methods")
    other = data_set(own.study) != data_set(gallery.study)
    return own if other and len(own.runs) and len(gallery.runs) else None


def _beside(own: pd.DataFrame, method: str, images: str) -> str:
    """State what a method adds on the images of this edition, at its fewest labels; or nothing."""
    home = own[own["method"] == method]
    rows = _compared(home, charts.budgets(own)[0]) if len(home) else home
    if rows.empty:
        return ""
    row = rows.iloc[0]
    gain, n = interval(row[["gain", "gain_low", "gain_high"]]), seeds(int(row["pairs"]))
    return (
        f"<p>On {html.escape(images)}, with {row['labels']} labels per class: {gain} points "
        f"beside the baseline (n = {n}).</p>"
    )


def finding(family: str) -> Markdown:
    """State how many methods of a family beat the baseline with the fewest labels, and the best."""
    gallery = store.brief("methods")
    home = standings.one_network_each(standings.standings(gallery))
    home = home[home["method"].map(families()) == family]
    rows = _compared(home, charts.budgets(home)[0]) if len(home) else home
    if rows.empty:
        return NOT_RUN
    few = f"with {rows['labels'].iloc[0]} labels per class"
    where = f"{_borrowed(gallery)}On {data_set(gallery.study)}, {few}"
    if not rows["pairs"].gt(1).any():
        return Markdown(f"{where}, each of these methods has one seed: nothing is judged.")
    better, best = (rows["beside"] == "better").sum(), rows.loc[rows["gain"].idxmax()]
    count = f"all {better}" if better == len(rows) else f"{better} of the {len(rows)}"
    gain, n = interval(best[["gain", "gain_low", "gain_high"]]), seeds(int(best["pairs"]))
    return Markdown(
        f"{where}, {count} methods on this page beat the baseline. `{best['method']}` adds most, "
        f"{gain} points of test accuracy (mean and 95 % t interval, n = {n})."
        f"{_near(rows)}"
    )


def _near(rows: pd.DataFrame) -> str:
    """State how many methods add nearly as much as the best, where some do."""
    near = int((rows["gain"] >= rows["gain"].max() - statistics.MARGIN).sum()) - 1
    others = "other lies" if near == 1 else "others lie"
    return f" {near} {others} within a point of it: that is no ranking." if near else ""


def _borrowed(gallery: Results) -> str:
    """State whose numbers the page has, where they are not of the images of this edition."""
    other = _of_edition(gallery)
    if other is None:
        return ""
    images, every = data_set(gallery.study), editions.others(store.locate(plan.RESULTS))
    home = next((edition for edition in every if edition.title == images), None)
    name = images if home is None else _link_to(home, every, images)
    return (
        f"The numbers on this page are of the {name}, not of {data_set(other.study)}, unless "
        "stated otherwise. "
    )


def _link_to(home: plan.Edition, every: list[plan.Edition], words: str) -> str:
    return f'<a href="{editions.address("book/methods", home, every)}">{words}</a>'


def family_of(method: str) -> str:
    """Return the family of a method; the baseline stands with the controls."""
    return METHODS[method].family


def families() -> dict[str, str]:
    """Map every method to its family."""
    return {key: facts.family for key, facts in METHODS.items()}


def link(method: str, words: str) -> str:
    """Link to the section of a method."""
    page, _ = PAGES[METHODS[method].family]
    return f'<a href="{page}.html#method-{method.replace("_", "-")}">{words}</a>'


def facts(results: Results, side_by_side: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Count who beats the baseline; `side_by_side` is the benchmark of that name, by pair.

    The headings of the chapter are among them.
    """
    table = standings.standings(results)
    home = standings.one_network_each(table)
    absent = [key for key in METHODS if key not in set(table["method"])]
    savings = [f"{100 * pair['saving']:.0f} %" for pair in side_by_side.values()]
    saved = f"Side by side, students save {' or '.join(savings)} of their time"
    return {
        "dataset": data_set(results.study),
        "helps": _helps(home),
        "best": _best(home),
        "winner": Markdown(_winner(results, home)),
        "side": saved if savings else "Students side by side",
        "count": len(METHODS),
        "seeds": seeds_of(table["n"]),
        "network": table["network"].iloc[0] if len(table) else "one network",
        "absent": f"{len(absent)} of them were not run on these images."
        if absent
        else "All of them were run.",
        "other": Markdown(OTHER if home["name"].str.contains(", ").any() else ""),
    }


def _helps(home: pd.DataFrame) -> str:
    """Head the figure of families: how many methods beat the baseline at both ends."""
    steps = charts.budgets(home)
    if not steps:
        return "no method was run yet"
    judged = [labels for labels in steps if _compared(home, labels)["pairs"].gt(1).any()]
    if not judged:
        return "one seed of each method was run, so none is judged yet"
    few, most = judged[0], judged[-1]
    heading = f"{_beating(home, few)} methods beat the baseline with {few} labels per class"
    if most == few:
        return heading
    every = "all labels" if most == "all" else most
    return f"{heading}, {_beating(home, most)} with {every}"


def _beating(home: pd.DataFrame, labels: str) -> str:
    rows = _compared(home, labels)
    rows = rows[~_are_controls(rows)]
    return f"{(rows['beside'] == 'better').sum()} of {len(rows)}"


def _best(home: pd.DataFrame) -> str:
    """Head the ranking: the best method at the fewest labels."""
    steps = charts.budgets(home)
    rows = _judged(home, steps[0]) if steps else home[:0]
    if rows.empty:
        return "Which method adds most?"
    best = rows.loc[rows["gain"].idxmax()]
    return f"Of the methods, {best['name']} adds most, with {steps[0]} labels per class"


def _winner(results: Results, home: pd.DataFrame) -> str:
    """Compare the best method with kd, pair by pair, and the sizes of their students."""
    steps = charts.budgets(home)
    rows = _judged(home, steps[0]) if steps else home[:0]
    if rows.empty:
        return ""
    best = rows.loc[rows["gain"].idxmax()]
    words = [_near(rows).strip()]
    runs = statistics.students(results)
    runs = runs[(runs["labels"] == steps[0]) & (runs["network"] == best["network"])]
    table = runs.pivot_table(index="seed", columns="method", values=statistics.ACCURACY)
    if best["method"] != "kd" and "kd" in table:
        words.append(f"`{best['method']}` {lead(table[best['method']], table['kd'])}.")
    if size := larger(runs, best["method"], "kd"):
        words.append(f"{size} with `kd`.")
    return " ".join(filter(None, words))


def _judged(home: pd.DataFrame, labels: str) -> pd.DataFrame:
    """Select the methods, not the controls, of one label budget whose gain has an interval."""
    rows = _compared(home, labels).dropna(subset="gain_low")
    return rows[~_are_controls(rows)]


def _compared(home: pd.DataFrame, labels: str) -> pd.DataFrame:
    """Select the rows of one label budget that have a baseline beside them."""
    return home[(home["labels"] == labels) & home["gain"].notna()]


def _are_controls(rows: pd.DataFrame) -> pd.Series:
    return rows["method"].map(families()) == "controls"


def family_table() -> HTML:
    """List the families with what they copy, and their methods."""
    rows = [
        {
            "family": f'<a href="{page}.html">{FAMILIES[family]}</a>',
            "copies": words,
            "methods": ", ".join(link(key, key) for key in METHODS if family_of(key) == family),
        }
        for family, (page, words) in PAGES.items()
    ]
    return tables.table(pd.DataFrame(rows), "The families of methods")


def figure(draw: Callable[..., Any], results: Results) -> Any:
    """Draw a chart of `standings`, where the study was run."""
    table = standings.standings(results)
    return NOT_RUN if table.empty else draw(table)


def download(results: Results) -> HTML:
    """Link to `standings` as a CSV file."""
    table = standings.standings(results).round(5)
    return tables.download(table, "methods", "Download these numbers (CSV)")


def by_budget(results: Results) -> HTML:
    """List for each label budget how many beat the baseline, and name those that do not."""
    home = standings.one_network_each(standings.standings(results))
    lines = [_at_budget(home, labels) for labels in charts.budgets(home)]
    return HTML(f"<ul>{''.join(lines) or '<li>Not run.</li>'}</ul>")


def _at_budget(home: pd.DataFrame, labels: str) -> str:
    rows = _compared(home, labels)
    controls = _are_controls(rows)
    parts = []
    for kind, part in (("methods", rows[~controls]), ("controls", rows[controls])):
        rest = part[part["beside"] != "better"].sort_values("gain", ascending=False)
        names = _folded([_spread(row) for row in rest.to_dict("records")])
        if len(part) and not part["pairs"].gt(1).any():
            parts.append(f"{kind.capitalize()}, one seed, not judged: {_ended(names)}")
            continue
        count = f"{len(part) - len(rest)} of {len(part)} {kind} beat the baseline"
        parts.append(f"{count}; the rest: {_ended(names)}" if names else f"{count}.")
    budget = "all labels" if labels == "all" else f"{labels} labels per class"
    return f"<li><strong>{budget}</strong>: {' '.join(parts)}</li>"


def _ended(names: str) -> str:
    """End a sentence that lists names, where its end is not to be unfolded."""
    return names if names.endswith("</details>") else f"{names}."


def _folded(names: list[str]) -> str:
    """List names; of many the first, the rest, where it is more than two, to be unfolded."""
    if len(names) <= LISTED + 2:
        return ", ".join(names)
    head, rest = ", ".join(names[:LISTED]), ", ".join(names[LISTED:])
    return f"{head} <details><summary>and {len(names) - LISTED} more</summary>{rest}</details>"


def _spread(row: Mapping[Any, Any]) -> str:
    """A method with its mean gain and the gains of single seeds, in points."""
    gain, least, most = (f"{100 * row[c]:+.1f}" for c in ("gain", "least", "most"))
    if row["pairs"] == 1:
        return f"{link(row['method'], row['name'])} ({gain})"
    return f"{link(row['method'], row['name'])} ({gain}; seeds {least} to {most})"


def savings(side_by_side: Mapping[str, Mapping[str, float]]) -> Markdown:
    """List what one forward pass of the teacher for all students saves, as measured."""
    there = [pair for pair in TOGETHER if pair in side_by_side]
    return Markdown("\n".join(_saving(side_by_side, pair) for pair in there)) if there else NOT_RUN


def _saving(side_by_side: Mapping[str, Mapping[str, float]], pair: str) -> str:
    row = side_by_side[pair]
    return (
        f"- {TOGETHER[pair]}: {row['students']} students took {row['separate_seconds']:.3g} s one "
        f"after the other and {row['together_seconds']:.3g} s side by side, a saving of "
        f"{100 * row['saving']:.0f} %."
    )
