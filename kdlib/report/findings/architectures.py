"""Other pairs of networks: does the gain hang on the pair?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from jaxtyping import UInt8

from kdlib import store
from kdlib.measure import standings
from kdlib.plan import editions as plan
from kdlib.plan.methods import FAMILIES, METHODS
from kdlib.report import charts, editions, tables
from kdlib.report.findings.words import (
    NOT_RUN,
    architecture,
    data_set,
    interval,
    main_method,
    percent,
    seeds_of,
    students,
)
from kdlib.store import Results

WITH = {
    "student": "mostly with the student",
    "teacher": "mostly with the teacher",
    "pair": "with the pair itself",
}
Refusals = Mapping[tuple[str, str], Mapping[str, str]]  # (teacher, student) -> method -> reason


def pairs(results: Results) -> pd.DataFrame:
    """Give `standings.pairs` at the fewest labels of the study."""
    table = standings.pairs(results)
    return table[table["labels"] == charts.budgets(table)[0]] if len(table) else table


def main(table: pd.DataFrame) -> pd.DataFrame:
    """Select the pairs of the method that the chapter quotes."""
    return table[table["method"] == main_method(table["method"], otherwise="kd")]


def several(results: Results) -> bool:
    """Whether more than one pair of a teacher and a student was run."""
    return len(main(pairs(results))) > 1


def facts(results: Results, alone: Results | None = None) -> dict[str, Any]:
    """Give what the gain goes with, and the networks, with two headings of the chapter.

    Of a study of one pair only what is missing; `alone` is the main study of the edition then.
    """
    table = pairs(results)
    own = main(table)
    if not several(results):
        return {"opening": Markdown(_one_pair(results, results if alone is None else alone))}
    shares = standings.shares(own)
    percents = _to_hundred(shares)
    listed = ", ".join(f"{percent} % go with the {name}" for name, percent in percents.items())
    goes = f"What it adds goes {WITH[max(shares, key=lambda name: shares[name])]}" if shares else ""
    method = main_method(table["method"], otherwise="kd")
    opening = f"On {data_set(results.study)}, {_holds(own, method)}. {_which(results, own)}"
    return {
        "opening": Markdown(opening),
        "goes": goes or "What does the gain go with?",
        "shares": Markdown(
            f"Of the sum of squares of the gains of {method}, {listed}. The share of the pair "
            "includes the noise of the seeds, so it is too large rather than too small."
            if listed
            else "Not every student had every teacher, so the gains cannot be split here."
        ),
        **_gap_and_room(own, method),
    }


def _one_pair(results: Results, alone: Results) -> str:
    """State which pair was run, where others were, and what is needed."""
    runs = students(alone.runs)
    teachers, networks = (
        " and ".join(f"`{name}`" for name in dict.fromkeys(runs[column]) if name)
        for column in ("teacher_network", "network")
    )
    ran = f"one pair of networks was run: teacher {teachers}, student {networks}"
    ran = ran if teachers else "no pair of networks was run"
    name = results.study["name"]
    known = (
        name != alone.study["name"] and store.locate("studies").joinpath(f"{name}.yaml").exists()
    )
    needs = f"`studies/{name}.yaml`" if known else "`studies/architectures.yaml`, with other images"
    there = _elsewhere()
    return (
        f"On {data_set(alone.study)}, {ran}. Whether the gain depends on the pair of "
        f"networks is open on these images.{there} It takes one study of several teachers and "
        f"students: {needs}."
    )


def _elsewhere() -> str:
    """Link to the editions that have this chapter's figures; nothing where there are none."""
    every, page = editions.others(store.locate(plan.RESULTS)), "book/architectures"
    links = [
        f'<a href="{editions.address(page, edition, every)}">{edition.title}</a>'
        for edition in every
        if edition != editions.current() and several(store.brief(edition.architectures))
    ]
    return f" The chapter on {' and '.join(links)} has a grid of pairs." if links else ""


def _to_hundred(shares: Mapping[str, float]) -> dict[str, int]:
    """Round shares of 1 to percents that add up to 100: the largest remainders are rounded up.

    >>> _to_hundred({"a": 0.976, "b": 0.007, "c": 0.017})
    {'a': 97, 'b': 1, 'c': 2}
    """
    down = {name: int(100 * share) for name, share in shares.items()}
    missing = round(100 * sum(shares.values())) - sum(down.values())
    rest = sorted(shares, key=lambda name: 100 * shares[name] - down[name], reverse=True)
    return {name: down[name] + (name in rest[:missing]) for name in shares}


def _holds(own: pd.DataFrame, method: str) -> str:
    """Head the grid: for how many pairs a method beats the baseline."""
    if not own["n"].gt(1).any():
        return "one seed of each pair was run, so none is judged yet"
    return f"{method} beats the baseline for {_count(own)}"


def _which(results: Results, own: pd.DataFrame) -> str:
    """State which networks were paired."""
    few, networks = own["labels"].iloc[0], _networks(results, own)
    return (
        f"Every student has {few} labels per class, every pair {seeds_of(own['n'])}.\n\n"
        f"Teachers, with their size and test accuracy: {networks['teachers']}. Students: "
        f"{networks['students']}; a number at the end of a name, after an x, is a factor on its "
        f"channels. Poorest of the baselines: {networks['poorest']}. All students learn from the "
        "same recipe, made for ResNets; none got constants of its own."
    )


def _networks(results: Results, own: pd.DataFrame) -> dict[str, str]:
    """List teachers and students with their sizes; name the poorest baseline."""
    sizes = results.runs.groupby("network")["parameters"].first()
    teachers = results.runs[results.runs["role"] == "teacher"]
    scores = teachers.groupby("network")["test_accuracy"].mean()
    poorest = own.loc[own["baseline"].idxmin()]
    return {
        "teachers": ", ".join(
            f"{name} ({sizes[name]:,} parameters, {percent(scores[name])})"
            for name in dict.fromkeys(own["teacher"])
        ),
        "students": ", ".join(
            f"{name} ({sizes[name]:,} parameters)" for name in dict.fromkeys(own["network"])
        ),
        "poorest": f"{poorest['network']} with {percent(poorest['baseline'])}",
    }


def _gap_and_room(own: pd.DataFrame, method: str) -> dict[str, Any]:
    """Correlate the gain with the gap in size and with the errors that the baseline makes."""
    errors = 1 - own["baseline"]
    gap = own["gain"].corr(own["smaller"], method="spearman")
    room = own["gain"].corr(errors, method="spearman")
    removed = 100 * own["gain"] / errors
    if abs(room) > abs(gap):
        heading = "What the baseline lacks predicts more than the gap in size"
    elif abs(gap) > 0:
        heading = "The gap in size predicts more than what the baseline lacks"
    else:
        heading = "The gap in size, and what the baseline lacks"
    if pd.isna(gap) or pd.isna(room):
        return {"rule": heading, "ranks": Markdown("*Not known here: too few pairs were run.*")}
    return {
        "rule": heading,
        "ranks": Markdown(
            f"Over the {len(own)} pairs of {method} the gain's rank correlation with the gap in "
            f"size is {gap:+.2f}, with the errors of the baseline {room:+.2f}. The pairs of one "
            "student share its baselines, so there are fewer independent points than marks. "
            f"{method} removes {_span(removed)} of the errors of each student."
        ),
    }


def _span(percents: pd.Series) -> str:
    """Write the smallest and the largest of some percents, once where they are the same."""
    low, high = (f"{value:.0f}" for value in (percents.min(), percents.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _count(rows: pd.DataFrame) -> str:
    return f"{(rows['low'] > 0).sum()} of {len(rows)} pairs"


def _gain(row: Mapping[Any, Any]) -> str:
    return interval([row["gain"], row["low"], row["high"]])


def figure(draw: Callable[[pd.DataFrame], Any], results: Results) -> Any:
    """Draw a chart of the pairs, where the study was run."""
    table = pairs(results)
    return draw(table) if len(table) else NOT_RUN


def by_method(results: Results) -> Markdown:
    """List for each method at how many pairs it beats the baseline; name the pairs where not."""
    table = pairs(results)
    if table.empty:
        return NOT_RUN
    lines = [_by_method(m, table[table["method"] == m]) for m in charts.order(table["method"])]
    failed = results.runs[
        (results.runs["role"] == "student") & (results.runs["test_accuracy"] < 0.5)
    ]
    names = [
        f"`{run['method']}`, {run['teacher_network'] or 'no teacher'} to {run['network']}, "
        f"{run['labels']} labels, seed {run['seed']} ({100 * run['test_accuracy']:.0f} %)"
        for run in failed.to_dict("records")
    ]
    lines.append(
        f"- Wrong about most test images, and counted as they are: {'; '.join(names) or 'none'}."
    )
    return Markdown("\n".join(lines))


def _by_method(method: str, rows: pd.DataFrame) -> str:
    rest = rows[~(rows["low"] > 0)].to_dict("records")
    names = ", ".join(f"{row['teacher']} to {row['network']} ({_gain(row)})" for row in rest)
    if not rows["n"].gt(1).any():
        return f"- `{method}`, one seed, not judged: {names}."
    line = f"- `{method}` beats the baseline for {_count(rows)}"
    return f"{line}; not: {names}." if names else f"{line}."


def shares(results: Results) -> HTML | Markdown:
    """Show what the spread of gains goes with, method by method."""
    table = pairs(results)
    rows = []
    for method in charts.order(table["method"]):
        parts = standings.shares(table[table["method"] == method])
        if parts:
            percents = _to_hundred(parts)
            rows.append({"method": method} | {k: f"{share} %" for k, share in percents.items()})
    if not rows:
        return NOT_RUN
    return tables.table(pd.DataFrame(rows), "Shares of the spread of gains, by what they go with")


def widths(results: Results) -> Markdown | None:
    """List the gains of architectures that were students in several widths."""
    own = main(pairs(results))
    width = results.runs.drop_duplicates("network").set_index("network")["width"]
    names = [architecture(name, width[name]) for name in own["network"]]
    several = own.groupby(names)["network"].transform("nunique") > 1
    lines = [
        f"- {row['teacher']} to {row['network']}, {row['smaller']:.0f} times as many parameters: "
        f"{_gain(row)}"
        for row in own[several.to_numpy(dtype=bool)].to_dict("records")
    ]
    if not lines:
        return None
    return Markdown("\n".join(["Capacity only, one architecture in several widths:", "", *lines]))


def refused(
    results: Results,
    images: UInt8[np.ndarray, "n h w c"],
    example: Callable[..., Any],
    refusals: Callable[[Any, Any], dict[str, str]],
) -> Refusals:
    """Find for each pair the methods that cannot be built: (teacher, student) -> reasons.

    For images of the size of `images`; `example` is `kdlib.models.example`, `refusals`
    `kdlib.distill.refusals`.
    """
    own = main(pairs(results))
    _, height, width, channels = images.shape
    widths = results.runs.drop_duplicates("network").set_index("network")["width"]
    sizes = {"classes": len(results.study.get("classes", ())), "channels": channels}
    sizes["size"] = max(height, width)
    forward = {
        name: example(architecture(name, widths[name]), width=widths[name], **sizes)
        for name in {*own["teacher"], *own["network"]}
    }
    each = zip(own["teacher"], own["network"], strict=True)
    return {
        (teacher, student): refusals(forward[student], forward[teacher])
        for teacher, student in each
        if forward[student] and forward[teacher]
    }


def crossing(refused: Refusals) -> dict[str, Any]:
    """Count the methods that can be built for every pair, and those that cannot, by family."""
    if not refused:
        return {"crossing": Markdown("")}
    able = [key for key, facts in METHODS.items() if not facts.same_network]
    ever = {method for reasons in refused.values() for method in reasons}
    families = {
        title: sum(METHODS[key].family == family for key in ever)
        for family, title in FAMILIES.items()
    }
    reasons = [why for each in refused.values() for method, why in each.items() if method != "fsp"]
    stay = "; ".join(f"{title} {n}" for title, n in families.items() if n) or "none"
    example = f" One of these refusals: *{reasons[0]}*." if reasons else ""
    return {
        "crossing": Markdown(
            f"{len(able) - len(ever)} of {len(able)} methods can be built for every pair above. "
            f"Refused somewhere, by family: {stay}.{example}"
        )
    }


def refused_table(refused: Refusals) -> HTML | Markdown:
    """Show which methods a pair refuses; pairs that refuse the same share a row."""
    if not refused:
        return NOT_RUN
    groups: dict[str, list[str]] = {}
    for pair, reasons in refused.items():
        groups.setdefault(", ".join(reasons) or "none", []).append(" to ".join(pair))
    rows = [{"refused": methods, "pairs": ", ".join(names)} for methods, names in groups.items()]
    return tables.table(pd.DataFrame(rows), "Methods that a pair refuses")
