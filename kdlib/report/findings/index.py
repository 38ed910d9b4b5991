"""The first page: what a teacher changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from kdlib import UsageError
from kdlib.measure import statistics, verdicts
from kdlib.plan.methods import BASELINE, METHODS
from kdlib.report import charts, explorer
from kdlib.report.findings.methods import PAGES, link
from kdlib.report.findings.verdicts import sentence
from kdlib.report.findings.words import (
    NO_MAPS,
    data_set,
    gain,
    images,
    labelled_images,
    labels_each,
    learnt,
    main_method,
    percent,
    students,
)
from kdlib.store import Results

WORDS = {"higher": "higher", "lower": "lower", statistics.UNCLEAR: "not clearly different"}
ONE_SEED = {  # how a single difference lies to 0
    1: "higher in the only seed",
    -1: "lower in the only seed",
    0: "the same in the only seed",
}


def facts(results: Results, flat: Results | None = None) -> dict[str, Any]:
    """Compare the baseline with one distilled student at the fewest labels of the study.

    `flat` is the same study in the view "flat", which the verdicts on layers then name, too.
    """
    every = students(results.runs)
    fewest = charts.budgets(every)[0]
    few = every[every["labels"] == fewest]
    method = main_method(few["method"])
    baseline, distilled = (few[few["method"] == name] for name in ("baseline", method))
    teacher = results.runs[results.runs["role"] == "teacher"].iloc[0]
    size = int(baseline["parameters"].iloc[0])
    labelled = labelled_images(results.study, fewest)
    layers, sides = {}, {}
    for name, layer in (("2", "block2"), ("3", "block3")):
        cell = {"method": method, "labels": fewest}
        layers[layer] = gain(results, "silhouette", layer, **cell)
        sides[f"verdict{name}"] = _verdict(results, layer, **cell)
    return {
        "dataset": data_set(results.study),
        "few": labels_each(fewest),
        "baseline": _accuracy(baseline),
        "distilled": _accuracy(distilled),
        "method": method,
        "names": Markdown(names(every["method"])),
        "learnt": learnt(results.study, teacher.to_dict()),
        "teacher": percent(teacher["test_accuracy"]),
        "times": f"{teacher['parameters'] / size:.0f}",
        "teacher_size": f"{teacher['parameters']:,}",
        "student_size": f"{size:,}",
        **layers,
        **sides,
        **claims(results, fewest, flat),
        "certain": _certain(few["seed"].nunique()),
        "images": f"{len(results.labels):,}",
        "about": Markdown(images(results.study)),
        "labelled": f"{labelled:,}",
        "others": f"{results.study['train_images'] - labelled:,}",
    }


def claims(results: Results, labels: str, flat: Results | None = None) -> dict[str, Markdown]:
    """State the verdicts on the two claims about layers, at one label budget."""
    cells = verdicts.cells(verdicts.differences(results, flat))
    few = cells[cells["labels"] == labels]
    return {
        name: Markdown(sentence(few, claim) + _flat(few, claim))
        for name, claim in (("compact", "C3"), ("earlier", "C4"))
    }


def _flat(cells: pd.DataFrame, claim: str) -> str:
    """Name the verdicts on a claim where layers are taken whole."""
    words = cells.loc[(cells["claim"] == claim) & (cells["space"] == verdicts.FLAT), "verdict"]
    named = " and ".join(f"**{word}**" for word in words.unique())
    return f"; with whole maps in place of their means, {named}" if named else ""


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
            copied = "other ways to use a teacher's outputs"
        else:
            copied = f"copying {copied}"
        lines += [f"- {named}: {copied}."] if named else []
    return "\n".join(lines)


def _title(method: str) -> str:
    """Add a method's title in brackets, where it is more than its key in capitals."""
    title = METHODS[method].title
    return "" if title.lower() == method else f" ({title})"


def _verdict(results: Results, layer: str, *, method: str, labels: str) -> str:
    """Name where the silhouette of a layer lies beside the baseline's; of one seed, its sign."""
    try:
        side = statistics.direction(results, "silhouette", layer, method=method, labels=labels)
    except UsageError:
        return "not known"
    table = statistics.differences(results, "silhouette")
    cell = (table["layer"] == layer) & (table["labels"] == labels) & (table["method"] == method)
    each = table.loc[cell, "difference"]
    return ONE_SEED[int(np.sign(each.iloc[0]))] if len(each) == 1 else WORDS[side]


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
