"""Few labels: who wins, by how much, and with how many labels still."""

from __future__ import annotations

from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib.measure import standings, statistics
from kdlib.report import charts, tables
from kdlib.report.findings.words import (
    data_set,
    interval,
    is_control,
    is_published,
    lacks,
    larger,
    lead,
    main_method,
    students,
)
from kdlib.store import Results

WORDS = {  # of `standings.standings`, column beside
    "better": "better than the baseline",
    statistics.UNCLEAR: "not told apart from it",
    statistics.EQUIVALENT: "no different from it",
    "worse": "worse",
}


def one_network(results: Results) -> pd.DataFrame:
    """Give `standings.standings` of the network that most runs share."""
    table = standings.standings(results)
    return table[table["network"] == table["network"].iloc[0]]


def facts(results: Results) -> dict[str, Any]:
    """Compare the baseline with one method, paired by seed and, for contrast, unpaired."""
    table = one_network(results)
    fewest = charts.budgets(table)[0]
    cells = table.set_index(["method", "labels"])
    at_few = [m for m in _methods(table) if (m, fewest) in cells.index]
    method = main_method(at_few)
    few = cells.loc[(method, fewest)]
    scores = _scores(results, table["network"].iloc[0], fewest)
    welch = statistics.welch(scores[method].dropna(), scores["baseline"].dropna())
    return {
        "few": fewest,
        "best": Markdown(_best(results, cells, at_few, fewest, method)),
        "method": method,
        "baseline": interval(cells.loc[("baseline", fewest), ["accuracy", "low", "high"]], ".1f"),
        "distilled": interval(few[["accuracy", "low", "high"]], ".1f"),
        "gain": interval(few[["gain", "gain_low", "gain_high"]]),
        "pairs": f"{few['pairs']:.0f} {'pair' if few['pairs'] == 1 else 'pairs'} of students that "
        "share a seed",
        "worth": Markdown(_all_worth({m: _worth(cells, m, fewest) for m in at_few})),
        "spread": Markdown(_spread(scores["baseline"].dropna())),
        "unpaired": interval(welch[key] for key in ("mean", "low", "high")),
        "planned": Markdown(lacks(results.study)),
        "expensive": Markdown(_expensive(results)),
        "test": f"{results.study['test_images']:,}",
        "dataset": data_set(results.study),
        "network": table["network"].iloc[0],
    }


def _best(
    results: Results, cells: pd.DataFrame, methods: list[str], labels: str, quoted: str
) -> str:
    """Name the method that adds most where it is not the one quoted: that much more, how large."""
    gains = cells.xs(labels, level="labels").loc[methods, "gain"].dropna()
    if gains.empty or gains.idxmax() == quoted:
        return ""
    best = str(gains.idxmax())
    network = cells["network"].iloc[0]
    scores = _scores(results, network, labels)
    words = f"`{best}` adds most: {lead(scores[best], scores[quoted])}"
    runs = students(results.runs)
    size = larger(runs[runs["network"] == network], best, quoted)
    return f"{words}. {size}." if size else f"{words}."


def _spread(baseline: pd.Series) -> str:
    """State how far the accuracies of the baseline lie apart from seed to seed."""
    if len(baseline) < 2:
        return "Here is one seed only, so how much accuracy varies from seed to seed is not known."
    low, high = (f"{100 * score:.1f}" for score in (baseline.min(), baseline.max()))
    return (
        f"Baselines range from {low} to {high} %. Labelled images and initial weights differ "
        "together, so this spread does not show which of the two matters more."
    )


def _expensive(results: Results) -> str:
    """State which labels the teachers of every label were trained on, if there are any."""
    teachers = results.runs[results.runs["role"] == "teacher"]
    full = teachers[teachers["regime"] == "full"].to_dict("records")
    if not full:
        return "No teacher of this study was trained on every label."
    labels = f"the labels of all {results.study['train_images']:,} training images"
    if any(is_published(results.study, teacher) for teacher in full):
        labels = "every label of the whole training set, by its publisher"
    return f"A `full` teacher was trained on {labels}. *Few labels* is true of the student only."


def _methods(table: pd.DataFrame) -> list[str]:
    """List the methods in the order of legends; the controls where there is nothing else."""
    every = charts.order(set(table["method"]) - {"baseline"})
    controls = is_control(pd.Series(every, dtype=object))
    return [m for m, control in zip(every, controls, strict=True) if not control] or every


def _scores(results: Results, network: str, labels: str) -> pd.DataFrame:
    """Test accuracies of one network and label budget: a row per seed, a column per method."""
    runs = statistics.students(results)
    runs = runs[(runs["labels"] == labels) & (runs["network"] == network)]
    return runs.pivot(index="seed", columns="method", values="test_accuracy")


def _all_worth(worth: dict[str, str]) -> str:
    """List what `_worth` states, each with the methods of which it is true."""
    same: dict[str, list[str]] = {}
    for method, labels in worth.items():
        same.setdefault(labels, []).append(f"`{method}`")
    return "; ".join(f"{', '.join(names)}: {labels}" for labels, names in same.items())


def _worth(cells: pd.DataFrame, method: str, fewest: str) -> str:
    """State with how many labels the baseline's mean is as high as a method's with the fewest."""
    baseline = cells["accuracy"].xs("baseline")
    target = cells.loc[(method, fewest), "accuracy"]
    budgets = charts.budgets(cells.reset_index())
    enough = [b for b in budgets if b in baseline and baseline[b] >= target]
    if not enough:
        last = "all labels" if budgets[-1] == "all" else f"{budgets[-1]}, the most tried,"
        tried = [b for b in budgets if b in baseline]
        return f"even {last} are not enough{_of(cells, tried[-1])}"
    return ("all labels" if enough[0] == "all" else enough[0]) + _of(cells, enough[0])


def _of(cells: pd.DataFrame, labels: str) -> str:
    """Name the number of seeds of the baseline with so many labels."""
    return f" (n = {cells.loc[('baseline', labels), 'n']:.0f})"


def table(results: Results) -> HTML:
    """Show test accuracy and the paired difference to the baseline, method by method."""
    rows = one_network(results)
    gains = rows[["gain", "gain_low", "gain_high"]].to_numpy()
    accuracies = rows[["accuracy", "low", "high"]].to_numpy()
    columns = {
        "method": [f"<code>{m}</code>" for m in rows["method"]],
        "labels per class": rows["labels"].to_list(),
        "test accuracy, %": [interval(values, ".1f") for values in accuracies],
        "minus baseline, points": ["–" if pd.isna(v[0]) else interval(v) for v in gains],
        "seeds": rows["n"].to_list(),
    }
    network = rows["network"].iloc[0]
    several = rows["n"].max() > 1
    words = "means with 95 % t intervals over seeds" if several else "one seed, no interval"
    caption = f"Students {network}: {words}"
    return tables.table(pd.DataFrame(columns), caption)


def download(results: Results) -> HTML:
    """Link to `one_network` as a CSV file."""
    return tables.download(one_network(results).round(5), "labels", "Download these numbers (CSV)")


def until_when(results: Results) -> Markdown:
    """List at which label budgets methods beat the baseline, and at which they do not."""
    rows = one_network(results)
    same: dict[str, list[str]] = {}
    for method in _methods(rows):
        same.setdefault(_pays(rows[rows["method"] == method]), []).append(f"`{method}`")
    if len(same) == 1:
        same = {words: ["every method"] for words in same}
    lines = [f"- {', '.join(names)}: {words}" for words, names in same.items()]
    return Markdown("\n".join([*lines, *_planned(results)]))


def _planned(results: Results) -> list[str]:
    """Name the label budgets that the study asks for and that were not run."""
    asked = map(str, results.study.get("axes", {}).get("labels_per_class", ()))
    run = set(students(results.runs)["labels"])
    missing = [labels for labels in asked if labels not in run]
    return [f"- planned, and not run yet: {', '.join(missing)}"] if missing else []


def _pays(rows: pd.DataFrame) -> str:
    beside = dict(zip(rows["labels"], rows["beside"], strict=True))
    parts = []
    for result, words in WORDS.items():
        budgets = [b for b in charts.budgets(rows) if beside[b] == result]
        if budgets:
            parts.append(f"{words} with {' and '.join(budgets)}")
    unjudged = [b for b in charts.budgets(rows) if not beside[b]]
    if unjudged:
        parts.append(f"not judged with {' and '.join(unjudged)} (one seed)")
    return "; ".join(parts)
