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
LAYERS = ("block1", "block3")  # that the prose compares, where a study has them
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
    """Compare the first baseline with the distilled student of its seed, image by image."""
    runs = students(results.runs)
    few, method = charts.budgets(runs)[0], main_method(runs["method"])
    runs = runs[(runs["labels"] == few) & runs["run"].isin(results.neighbours["run"])]
    one, other = (runs[runs["method"] == name] for name in (BASELINE, method))
    pairs = one.merge(other, on=["network", "seed"], suffixes=("", "_distilled"))
    words = dict.fromkeys(("scattered", "at-stem"), UNKNOWN)
    facts = words | dict.fromkeys(("separate", "right", "changed"), Markdown(""))
    if pairs.empty or results.predictions.empty:
        return facts
    baseline, distilled, seed = pairs.loc[0, ["run", "run_distilled", "seed"]]
    labels = results.labels
    predicted = results.predictions.pivot(index="image", columns="run", values="prediction")
    correct = predicted[[baseline, distilled]].eq(labels, axis=0)
    put = correct[distilled] & ~correct[baseline]
    lost = correct[baseline] & ~correct[distilled]
    near = _near(results, baseline, distilled)
    own = near.assign(same=labels[near["neighbour"]] == labels[near["image"]])
    share = own.groupby(["layer", "run"])["same"].mean()
    of_put = own[own["image"].isin(put.index[put])].groupby(["layer", "run"])["same"].mean()
    first = results.study["layers"][0]
    layers = [at for at in results.study["layers"] if at in set(near["layer"])]
    of_baseline, of_distilled = (
        share.xs(run, level="run")[layers] for run in (baseline, distilled)
    )
    return facts | {
        "separate": Markdown(_separate(of_baseline, of_distilled, method)),
        "right": Markdown(
            f"Of {len(labels):,} test images `{method}` classifies {put.sum()} correctly that the "
            f"baseline misclassifies, and {lost.sum()} the other way round (one pair, of seed "
            f"{seed})."
        ),
        "scattered": _around(of_put, "block1", baseline, distilled, method),
        "at-stem": _around(of_put, first, baseline, distilled, method),
        "changed": Markdown(_changed(near, baseline, distilled, len(labels))),
    }


def _near(results: Results, *runs: str) -> pd.DataFrame:
    """Select the nearest images of some networks."""
    table = results.neighbours
    return table[table["run"].isin(runs) & (table["rank"] < NEAREST)]


def _separate(baseline: pd.Series, distilled: pd.Series, method: str) -> str:
    """Answer which network first has the share of neighbours of one's own class that is the mark.

    Both are shares by layer, in order; the mark is the baseline's at its last layer.
    """
    mark, last = baseline.iloc[-1], baseline.index[-1]
    reached = [share.index[share >= mark] for share in (baseline, distilled)]
    depths = [baseline.index.get_loc(at[0]) if len(at) else len(baseline) for at in reached]
    sooner = "In the baseline" if depths[0] < depths[1] else f"In `{method}`"
    where = "At the same layer in both" if depths[0] == depths[1] else sooner
    first, other = (f"at `{at[0]}`" if len(at) else "at no layer" for at in reached)
    return (
        f"{where}: of an image's ten nearest, {100 * mark:.0f} % are of its class at the "
        f"baseline's `{last}`; the baseline first has that share {first}, `{method}` {other} (one "
        "pair)."
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
    """State how many of the nearest images are not the same in the two networks, by layer."""
    keys = ["layer", "image", "neighbour"]
    a, b = (near.loc[near["run"] == run, keys] for run in (baseline, distilled))
    common = a.merge(b, on=keys).groupby(["layer", "image"]).size()
    layers = [at for at in LAYERS if at in set(a["layer"])] or [a["layer"].iloc[-1]]
    rows = [
        common[common.index.get_level_values("layer") == at].droplevel("layer") for at in layers
    ]
    others = [NEAREST - row.reindex(range(n), fill_value=0) for row in rows]
    of_all = [
        f"{100 * row.mean() / NEAREST:.0f} % at {at}"
        for row, at in zip(others, layers, strict=True)
    ]
    of_images = [f"{100 * (row > NEAREST / 2).mean():.0f} %" for row in others]
    return (
        f"Of the ten nearest, {' and '.join(of_all)} are others; of {' and '.join(of_images)} of "
        "the images, more than half."
    )


def faithfulness(results: Results) -> HTML | Markdown:
    """Show how far the maps of two layers can be trusted, means over the networks on maps."""
    if results.maps.empty:
        return NO_MAPS
    on_maps = results.faithfulness["run"].isin(results.maps["run"])  # others have numbers only
    means = results.faithfulness[on_maps].pivot_table(
        index=["embedding", "layer"], columns="measure", values="value"
    )
    chosen = means.index.get_level_values("layer").isin(LAYERS)
    means = means[chosen] if chosen.any() else means
    rows = means[list(MEASURES)].map("{:.2f}".format)
    rows.columns = [FAITHFULNESS[name].title for name in MEASURES]
    rows.insert(0, "map", [f"{embed.TITLES[kind]}, {layer}" for kind, layer in rows.index])
    return tables.table(rows, "Means over the networks on maps: how far each map can be trusted")
