"""Measures of layers over the epochs of a training that was followed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlib import one_of
from kdlib.measure import metrics, similarity
from kdlib.measure.depth import depth
from kdlib.measure.space import Space, spaces
from kdlib.measure.statistics import CELL, PAIR, students
from kdlib.plan.methods import BASELINE
from kdlib.store import Layers, Results

MEASURES = ("within_share", "silhouette", "knn", "probe", "cka")


def measures(snapshots: Mapping[int, Layers], teacher: Layers) -> list[tuple[int, str, str, float]]:
    """Measure a network's layers after each epoch: rows (epoch, layer, measure, value).

    Each by itself, beside the teacher's layer of the same name, and beside itself after the last
    epoch (`cka_end`). All of the same images.
    """
    reference, end = _spaces(teacher), _spaces(snapshots[max(snapshots)])
    rows = []
    for epoch, layers in snapshots.items():
        for layer, space in _spaces(layers).items():
            values = metrics.measure(space, reference[layer], layer=layer, measures=MEASURES)
            values["cka_end"] = similarity.cka(space, end[layer])
            rows += [(epoch, layer, measure, value) for measure, value in values.items()]
    return rows


def _spaces(layers: Layers) -> dict[str, Space]:
    return spaces(layers.test, layers.test_labels, layers.train, layers.train_labels)


def curves(results: Results, measure: str) -> pd.DataFrame:
    """List a measure of every student whose training was followed, after every epoch stored.

    Returns the columns of CELL, seed, epoch, value: epoch 0 is before training, the last one the
    trained network. Raises UsageError for a measure that is not there, where a training was
    followed.
    """
    table = results.training
    if len(table):
        one_of("measure", measure, table["measure"].unique())
    runs = results.runs[results.runs["run"].isin(table["run"])]
    followed = students(results._replace(runs=runs))[["run", "method", *PAIR]]
    rows = table.loc[table["measure"] == measure, ["run", "layer", "epoch", "value"]]
    return rows.merge(followed, on="run")[[*CELL, "seed", "epoch", "value"]]


def epochs(results: Results, measure: str, target: float | None = None) -> pd.DataFrame:
    """Return after how many epochs a layer reaches a target, beside the baseline's same layer.

    Of a measure of which more is better. By default the target is one for both of a pair: nine
    tenths of the way that the baseline goes from before its training to its end; where that is no
    gain, both are there from the beginning. Linear between the epochs stored; one that never gets
    there counts as getting there at its last.

    Returns the columns of CELL, seed, epochs, baseline (its epochs), difference.
    """
    groups = curves(results, measure).groupby([*CELL, "seed"], sort=False)
    trainings = {cell: rows.sort_values("epoch") for cell, rows in groups}
    rows = []
    for (network, method, labels, layer, seed), curve in trainings.items():
        baseline = trainings.get((network, BASELINE, labels, layer, seed))
        if method == BASELINE or baseline is None:
            continue
        first, last = baseline["value"].iloc[[0, -1]]
        goal = first + 0.9 * (last - first) if target is None else target
        own, other = _reached(curve, goal), _reached(baseline, goal)
        rows.append((network, method, labels, layer, seed, own, other, own - other))
    return pd.DataFrame(rows, columns=[*CELL, "seed", "epochs", "baseline", "difference"])


def _reached(curve: pd.DataFrame, target: float) -> float:
    """Return the epoch, or a fraction between two, at which a curve first reaches a target."""
    place = depth(curve["value"], target)
    return float(np.interp(place, np.arange(len(curve)), curve["epoch"]))
