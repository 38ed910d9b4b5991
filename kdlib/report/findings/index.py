"""The first page: what a teacher changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from IPython.display import Markdown

from kdlib.measure import statistics, verdicts
from kdlib.plan.methods import BASELINE, METHODS
from kdlib.report import charts, explorer
from kdlib.report.findings.methods import PAGES, link
from kdlib.report.findings.verdicts import against, sentence, which
from kdlib.report.findings.words import (
    NO_MAPS,
    data_set,
    gain,
    images,
    interval,
    labelled_images,
    labels_each,
    lacks,
    learnt,
    main_method,
    main_network,
    percent,
    students,
)
from kdlib.store import Results

SHARE = "within_share"
TRANSFER = "soft labels only, at temperature 1, and no true label"


def facts(results: Results, flat: Results | None = None) -> dict[str, Any]:
    """Compare the baseline with one distilled student at the fewest labels of the study.

    `flat` is the same study in the view "flat", which the verdicts on layers then name, too.
    """
    every = statistics.students(results)  # of one kind of teacher
    fewest = charts.budgets(every)[0]
    few = every[every["labels"] == fewest]
    method = main_method(few["method"])
    baseline, distilled = (few[few["method"] == name] for name in ("baseline", method))
    teachers = results.runs[results.runs["role"] == "teacher"]
    own = teachers[teachers["run"].isin(distilled["teacher"])]
    teacher = (own if len(own) else teachers).iloc[0]
    size = int(baseline["parameters"].iloc[0])
    labelled = labelled_images(results.study, fewest)
    return {
        "dataset": data_set(results.study),
        "few": labels_each(fewest),
        "baseline": _accuracy(baseline),
        "distilled": _accuracy(distilled),
        "method": method,
        "names": Markdown(names(every["method"])),
        "learnt": learnt(results.study, teacher.to_dict()),
        "taught": "a teacher" + " that was trained on every label" * (teacher["regime"] == "full"),
        "teacher": percent(teacher["test_accuracy"]),
        "times": f"{teacher['parameters'] / size:.0f}",
        "teacher_size": f"{teacher['parameters']:,}",
        "student_size": f"{size:,}",
        **claims(results, fewest, flat),
        "certain": _certain(few["seed"].nunique()),
        "planned": Markdown(lacks(results.study)),
        "images": f"{len(results.labels):,}",
        "about": images(results.study).partition(": ")[0] + ".",
        "labelled": f"{labelled:,}",
        "others": f"{results.study['train_images'] - labelled:,}",
    }


def claims(results: Results, labels: str, flat: Results | None = None) -> dict[str, Markdown]:
    """State the verdicts on the two claims about layers, at one label budget."""
    cells = verdicts.cells(verdicts.differences(results, flat))
    few = cells[cells["labels"] == labels]
    saved = sentence(few, "C4") + _flat(few, "C4")
    return {"compact": Markdown(_compact(results, few, labels)), "earlier": Markdown(saved)}


def _compact(results: Results, cells: pd.DataFrame, labels: str) -> str:
    """Compare block2 of the method quoted with the baseline's, and with one as accurate.

    All of the network that most runs share, and of the first kind of teacher.
    """
    if SHARE not in set(results.measures["measure"]):
        return "This study did not measure its layers."
    kind, network = next(iter(verdicts.kinds(results))), main_network(students(results.runs))
    pairs = statistics.differences(results, SHARE)
    pairs = pairs[pairs["layer"].eq("block2") & pairs["labels"].eq(labels)]
    pairs = pairs[pairs["network"] == network]
    if pairs.empty:
        return "This study measured no layer `block2` of a pair of students."
    method = main_method(pairs["method"])
    row = statistics.summarise(pairs, ["method"]).set_index("method").loc[method]
    difference = interval(row[["mean", "low", "high"]], "+.2f", scale=1.0)
    verdict_cells = cells[(cells["claim"] == "C3") & (cells["space"] == verdicts.LAYERS)]
    verdict_cells = verdict_cells[
        (verdict_cells["teacher"] == kind) & (verdict_cells["network"] == network)
    ]
    words = " and ".join(f"**{c['verdict']}**{which(c)}" for c in verdict_cells.to_dict("records"))
    control = verdicts.control(results)
    own = control[(control["method"] == method) & (control["labels"] == labels)]
    own = own[(own["teacher"] == kind) & (own["network"] == network) & own["n"].gt(0)]
    partner = (
        f"no baseline is as accurate as `{method}`"
        if own.empty
        else f"beside a baseline at least as accurate, the verdict on `{method}` is "
        f"**{own['verdict'].iloc[0]}**"
    )
    return (
        "The within-class share of variance at `block2` (0: each class is one point), "
        f"`{method}` minus the baseline: {difference} (n = {row['n']:.0f}). The claim, over all "
        f"methods and both intermediate blocks: {words or '**no data**'}. "
        f"At equal accuracy: {partner}. {against(control, left_out=method)}."
    )


def _flat(cells: pd.DataFrame, claim: str) -> str:
    """Name the verdicts on a claim where layers are measured at every position."""
    rows = cells[(cells["claim"] == claim) & (cells["space"] == verdicts.FLAT)]
    if rows.empty:
        return ""
    return (
        "; measured at every position of the layer instead of its mean over positions, "
        f"{sentence(rows, claim, verdicts.FLAT, budgets=False)}"
    )


def probe(results: Results) -> str:
    """Give the distilled student minus the baseline in the probe at block2, fewest labels."""
    few = students(results.runs)
    few = few[few["labels"] == charts.budgets(few)[0]]
    method = main_method(few["method"])
    return gain(results, "probe", "block2", method=method, labels=few["labels"].iloc[0])


def names(methods: Iterable[str]) -> str:
    """Introduce the methods of a study by what they copy, and its controls."""
    present = [m for m in charts.order(methods) if m in METHODS and m != BASELINE]
    lines = ["- `baseline`: no teacher, the labels only."]
    for family, (_, copied) in PAGES.items():
        own = [m for m in present if METHODS[m].family == family]
        named = ", ".join(link(m, f"<code>{m}</code>") + _title(m) for m in own)
        if family == "controls":
            copied = "controls, each without a part of what a teacher gives"
        elif family == "schemes":
            copied = TRANSFER if own == ["transfer"] else "other ways to use a teacher's outputs"
        else:
            copied = f"copying {copied}"
        lines += [f"- {named}: {copied}."] if named else []
    return "\n".join(lines)


def _title(method: str) -> str:
    """Add a method's title in brackets, where it is more than its key in capitals."""
    title = METHODS[method].title
    return "" if title.lower() == method else f" ({title})"


def _certain(seeds: int) -> str:
    """State how certain a mean over so many seeds is."""
    if seeds == 1:
        return "There is one seed so far: without a second there is no interval, and no verdict."
    return "There are few seeds: an interval over so few is wide."


def view(results: Results, **view: Any) -> Any:
    """Show the explorer, where the study has maps: `explorer.show` with this view."""
    return NO_MAPS if results.maps.empty else explorer.show(results, **view)


def _accuracy(runs: pd.DataFrame) -> str:
    """Mean and range of test accuracy over seeds."""
    scores = 100 * runs["test_accuracy"]
    if len(scores) < 2:
        return " ".join([*(f"{score:.1f} %" for score in scores), "(one seed)"])
    span = f"seeds from {scores.min():.1f} to {scores.max():.1f}, n = {len(scores)}"
    return f"{scores.mean():.1f} % ({span})"
