"""What a map of a layer cannot show."""

from __future__ import annotations

from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import embed
from kdlib.measure.faithfulness import FAITHFULNESS
from kdlib.plan.methods import BASELINE
from kdlib.report import charts, tables
from kdlib.report.findings.words import NO_MAPS, data_set, labels_each, main_method, students
from kdlib.store import Results

MEASURES = ("trustworthiness", "neighbours_kept", "map_knn")
LAYERS = ("block1", "block3")


NEAREST = 10  # images around an image, as the explorer's lines show them
UNKNOWN = "this study did not measure it"


def facts(results: Results) -> dict[str, Any]:
    """Give what the questions of the chapter find, for the pair that the explorer opens with.

    Also the networks and the images on the maps, the data set and the fewest labels.
    """
    return {
        **_pair(results),
        "networks": results.maps["run"].nunique(),
        "images": len(results.labels),
        "dataset": data_set(results.study),
        "few": labels_each(charts.budgets(students(results.runs))[0]),
    }


def _pair(results: Results) -> dict[str, Any]:
    """Compare the baseline and the distilled student of the first seed, image by image."""
    runs = students(results.runs)
    few, method = charts.budgets(runs)[0], main_method(runs["method"])
    runs = runs[(runs["labels"] == few) & runs["run"].isin(results.neighbours["run"])]
    pair = [runs.loc[runs["method"] == name, "run"] for name in (BASELINE, method)]
    words = dict.fromkeys(("scattered", "at-stem"), UNKNOWN)
    facts = words | dict.fromkeys(("separate", "right", "changed"), Markdown(""))
    if not all(map(len, pair)) or results.predictions.empty:
        return facts
    baseline, distilled = (names.iloc[0] for names in pair)
    labels = results.labels
    predicted = results.predictions.pivot(index="image", columns="run", values="prediction")
    correct = predicted[[baseline, distilled]].eq(labels, axis=0)
    put = correct[distilled] & ~correct[baseline]
    lost = correct[baseline] & ~correct[distilled]
    near = _near(results, baseline, distilled)
    own = near.assign(same=labels[near["neighbour"]] == labels[near["image"]])
    share = own.groupby(["layer", "run"])["same"].mean()
    of_put = own[own["image"].isin(put.index[put])].groupby(["layer", "run"])["same"].mean()
    first, last = results.study["layers"][0], "block3"
    return facts | {
        "separate": Markdown(_separate(share, baseline, distilled, first, last, method)),
        "right": Markdown(
            f"Of {len(labels):,} test images `{method}` classifies {put.sum()} correctly that the "
            f"baseline misclassifies, and {lost.sum()} the other way round (one pair of seed 0)."
        ),
        "scattered": _around(of_put, "block1", baseline, distilled, method),
        "at-stem": _around(of_put, first, baseline, distilled, method),
        "changed": Markdown(_changed(near, baseline, distilled, len(labels))),
    }


def _near(results: Results, *runs: str) -> pd.DataFrame:
    """Select the nearest images of some networks."""
    table = results.neighbours
    return table[table["run"].isin(runs) & (table["rank"] < NEAREST)]


def _separate(
    share: pd.Series, baseline: str, distilled: str, first: str, last: str, method: str
) -> str:
    """Answer in which network the classes separate: the share of neighbours of one's own class."""
    a, b, c, d = (share[at, run] for run in (baseline, distilled) for at in (first, last))
    where = f"In `{method}`" if d - c > b - a else "In the baseline"
    return (
        f"{where}: of an image's ten nearest in the layer, {100 * c:.0f} % are of its class at the "
        f"{first} and {100 * d:.0f} % at {last}; in the baseline {100 * a:.0f} and {100 * b:.0f} %."
    )


def _around(share: pd.Series, layer: str, baseline: str, distilled: str, method: str) -> str:
    """State how many neighbours of the images put right are of their class in one layer."""
    own, other = (100 * share.get((layer, run), float("nan")) for run in (distilled, baseline))
    if pd.isna(own) or pd.isna(other):
        return UNKNOWN
    return (
        f"{own:.0f} % of their ten nearest there are of their class with {method}, "
        f"{other:.0f} % with the baseline"
    )


def _changed(near: pd.DataFrame, baseline: str, distilled: str, n: int) -> str:
    """State which share of the nearest images is not the same in the two networks, by layer."""
    keys = ["layer", "image", "neighbour"]
    a, b = (near.loc[near["run"] == run, keys] for run in (baseline, distilled))
    kept = a.merge(b, on=keys).groupby("layer").size() / (NEAREST * n)
    parts = [f"{100 * (1 - kept.get(at, 0)):.0f} % at {at}" for at in LAYERS]
    return f"Most images do: of the ten nearest, {' and '.join(parts)} are others."


def faithfulness(results: Results) -> HTML | Markdown:
    """Show how far the maps of two layers can be trusted, means over the networks on maps."""
    if results.maps.empty:
        return NO_MAPS
    on_maps = results.faithfulness["run"].isin(results.maps["run"])  # others have numbers only
    means = results.faithfulness[on_maps].pivot_table(
        index=["embedding", "layer"], columns="measure", values="value"
    )
    rows = means.loc[(slice(None), list(LAYERS)), list(MEASURES)].map("{:.2f}".format)
    rows.columns = [FAITHFULNESS[name].title for name in MEASURES]
    rows.insert(0, "map", [f"{embed.TITLES[kind]}, {layer}" for kind, layer in rows.index])
    return tables.table(rows, "Means over the networks on maps: how far each map can be trusted")
