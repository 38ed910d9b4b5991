"""Compactness and accuracy, measured in the layers themselves."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import embed
from kdlib.measure import faithfulness, metrics, statistics
from kdlib.plan.methods import BASELINE
from kdlib.report import charts, tables
from kdlib.report.findings.words import data_set, gain, main_method, main_network, seeds, students
from kdlib.store import Results

QUOTED = ("within_share", "silhouette", "probe")
COMPARED = ("within_share", "silhouette", "knn", "probe")
ON_MAPS = {"silhouette": "Silhouette", "knn": "k-NN accuracy", "map_hulls": "Class hulls"}
ARROWS = {"lower": "↓", "higher": "↑"}


def facts(results: Results) -> dict[str, Any]:
    """Give the paired differences that the prose quotes, at the fewest labels of the study."""
    every = students(results.runs)
    fewest, method = charts.budgets(every)[0], main_method(every["method"])
    gains = {}
    for measure in QUOTED:
        for layer in ("stem", "block1", "block2", "block3"):
            words = gain(results, measure, layer, method=method, labels=fewest)
            gains[f"{measure}-{layer}"] = _bracketed(words)
    return {
        **gains,
        "n_seeds": seeds(every["seed"].nunique()),
        "seeds": Markdown(_certain(every["seed"].nunique())),
        "depth": Markdown(_depth(results, method, fewest)),
        "dataset": data_set(results.study),
        "labels": fewest,
        "method": method,
        "n": len(results.labels),
    }


def _bracketed(words: str) -> str:
    """Write a gain and its interval as all pages do.

    >>> _bracketed("-0.13 (95 % interval -0.15 to -0.11, n = 5 seeds)")
    '-0.13 [-0.15, -0.11]'
    """
    return re.sub(r"\(95 % interval (\S+) to (\S+), n = [^)]*\)", r"[\1, \2]", words)


def _depth(results: Results, method: str, labels: str) -> str:
    """State how the probe of each student rises from the first layer to the last."""
    few = statistics.students(results)
    few = few[few["labels"] == labels]
    few = few[few["network"] == main_network(few)]
    probe = results.measures[results.measures["measure"] == "probe"].merge(few, on="run")
    means = probe.groupby(["method", "layer"])["value"].mean()
    first, last = results.study["layers"][0], results.study["layers"][-1]
    ends = [(name, at) for name in (BASELINE, method) for at in (first, last)]
    if not set(ends) <= set(means.index):
        return ""
    a, b, c, d = (means[end] for end in ends)
    flat = b - a < (d - c) / 4
    words = (
        f"The baseline's probe goes from {a:.2f} at the {first} to {b:.2f} at the {last}, that of "
        f"`{method}` from {c:.2f} to {d:.2f}."
    )
    return f"{words} So *earlier* compares with a nearly flat line." if flat else words


def _certain(n: int) -> str:
    """State how certain a mean over n seeds is."""
    if n == 1:
        return "With 1 seed there is no interval yet: every difference on this page is of one pair."
    return f"With {n} seeds an interval is wide, and one that excludes 0 is evidence, not proof."


def similarity(results: Results) -> Any:
    """Draw how similar each layer is to each of the teacher's layers."""
    if results.similarity.empty:
        return Markdown("*This study did not compare its layers with the teacher's.*")
    return charts.similarity(results)


def untrained(results: Results) -> HTML | Markdown:
    """Show the measures of layers before training beside those of the trained students."""
    every = students(results.runs)
    fewest, method = charts.budgets(every)[0], main_method(every["method"])
    few = every[every["labels"] == fewest]
    start = results.training[results.training["epoch"] == 0]
    start = start[start["measure"].isin(COMPARED) & start["run"].isin(few["run"])]
    start = start.drop_duplicates(["layer", "measure", "value"])  # methods share initial weights
    if start.empty:
        return Markdown("*This study stored no network as it was before training.*")
    means = {"untrained": _means(start)}
    for name in ("baseline", method):
        runs = few.loc[few["method"] == name, "run"]
        means[name] = _means(results.measures[results.measures["run"].isin(runs)])
    measures = [m for m in COMPARED if m in set(start["measure"])]
    rows = [(m, layer) for m in measures for layer in results.study["layers"]]
    table = pd.DataFrame(means).loc[rows].map("{:.2f}".format)
    table.insert(0, "measure, layer", [f"{charts.name(m)}, {layer}" for m, layer in rows])
    table = table[_new(table)]
    of_others = seeds(every["seed"].nunique())
    n = f"n = {start['run'].nunique()} untrained, {of_others} of the others"
    caption = f"Before training and after, at {fewest} labels per class: {n}"
    return tables.table(table, f"{caption}; {len(results.labels)} test images")


def _means(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby(["measure", "layer"])["value"].mean()


def layers_and_maps(results: Results) -> HTML | Markdown:
    """Show measures of the layers beside the same measures of their maps, for two students."""
    every = students(results.runs)
    fewest, method = charts.budgets(every)[0], main_method(every["method"])
    pair = ["baseline", method]
    runs = every[(every["labels"] == fewest) & every["method"].isin(pair)]
    runs = runs.loc[runs["run"].isin(results.maps["run"]), ["run", "method"]]
    names = faithfulness.LAYER_MEASURES.values()
    of_layers = results.measures[results.measures["measure"].isin(names)]
    of_maps = results.faithfulness[results.faithfulness["measure"].isin(faithfulness.MAP_MEASURES)]
    of_maps = of_maps.assign(
        space=of_maps["embedding"].map(embed.TITLES),
        measure=of_maps["measure"].replace(faithfulness.LAYER_MEASURES),
    )
    both = pd.concat([of_layers.assign(space="layer"), of_maps]).merge(runs, on="run")
    if both.empty:
        return Markdown("*This study has no maps of both students.*")
    table = both.pivot_table(
        index=["measure", "layer"], columns=["space", "method"], values="value"
    )
    columns = [(space, name) for space in dict.fromkeys(both["space"]) for name in pair]
    rows = [(m, at) for m in ON_MAPS for at in results.study["layers"] if (m, at) in table.index]
    table = table.reindex(columns=columns).loc[rows]
    table = table.map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")
    table.columns = [f"{space}: {name}" for space, name in columns]
    table.insert(0, "measure, layer", [f"{ON_MAPS[m]}, {layer}" for m, layer in rows])
    table = table[_new(table)]
    caption = f"In the layers and in their uncoupled maps; {len(results.labels)} images"
    return tables.table(table, caption)


def _new(table: pd.DataFrame) -> pd.Series:
    """Tell which rows differ from the row before: `pool` repeats `block3` in many networks."""
    values = table.iloc[:, 1:]
    return (values != values.shift()).any(axis=1)


def pitfalls() -> HTML:
    """List every measure with its range, its direction and its pitfall."""
    every = metrics.MEASURES | faithfulness.FAITHFULNESS | faithfulness.MAP_MEASURES
    rows = [
        {
            "measure": m.title,
            "what it states": m.text,
            "range": f"{m.low:g} to {'∞' if m.high == float('inf') else f'{m.high:g}'}",
            "better": ARROWS.get(m.better, "–"),
            "pitfall": _pitfall(m),
        }
        for m in every.values()
    ]
    caption = f"{len(rows)} measures of layers, of maps, and of how faithful a map is"
    return tables.table(pd.DataFrame(rows), caption)


def _pitfall(measure: metrics.Measure) -> str:
    sentence = measure.pitfall[:1].upper() + measure.pitfall[1:]
    has_warning = "compare at equal" in measure.pitfall
    return (
        sentence
        if has_warning or not measure.depends_on_n
        else f"Compare at equal n only. {sentence}"
    )
