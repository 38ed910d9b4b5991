"""Differences between networks that share a seed, with their intervals."""

from __future__ import annotations

import pandas as pd
from scipy import stats

from kdlib import one_of
from kdlib.store import Results

PAIR = ["network", "labels", "seed"]  # what two runs share that differ in the method only
ACCURACY = "test_accuracy"  # a column of runs that pairs like a measure
CELL = ["network", "method", "labels", "layer"]


def differences(results: Results, measure: str) -> pd.DataFrame:
    """Give every seed's difference method - alone, layer by layer.

    Runs are paired: with one seed they share the labelled images, the first weights and the order
    of batches. A run whose partner is missing is left out.

    Returns columns network, method, labels, layer, seed, difference.
    """
    one_of("measure", measure, [*results.measures["measure"].unique(), ACCURACY])
    students = results.runs[results.runs["role"] == "student"]
    values = results.measures.query("measure == @measure")[["run", "layer", "value"]]
    if measure == ACCURACY:  # of the whole network: one value, at a layer of that name
        values = students[["run"]].assign(layer="network", value=students[ACCURACY])
    table = students[["run", "method", *PAIR]].merge(values, on="run")
    alone = table[table["method"] == "alone"][[*PAIR, "layer", "value"]]
    pairs = table[table["method"] != "alone"].merge(
        alone, on=[*PAIR, "layer"], suffixes=("", "_alone"), validate="many_to_one"
    )
    pairs["difference"] = pairs["value"] - pairs["value_alone"]
    return pairs[[*CELL, "seed", "difference"]]


def paired(results: Results, measure: str) -> pd.DataFrame:
    """Average the paired differences over seeds, with the 95 % t interval (df = n - 1).

    The seed is the unit of replication: images of one network are not independent evidence.
    One seed has no interval: low and high are NaN.

    Returns columns network, method, labels, layer, mean, low, high, n.
    """
    groups = differences(results, measure).groupby(CELL, sort=False)["difference"]
    table = groups.agg(mean="mean", spread="std", n="count").reset_index()
    half = stats.t.ppf(0.975, table["n"] - 1) * table["spread"] / table["n"] ** 0.5
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)[
        [*CELL, "mean", "low", "high", "n"]
    ]


def _cell(results: Results, measure: str, layer: str, method: str, labels: str) -> pd.Series:
    table = paired(results, measure)
    rows = table[(table["layer"] == layer) & (table["labels"] == labels)]
    one_of(f"method beside alone at {labels} labels", method, rows["method"].unique())
    return rows[rows["method"] == method].iloc[0]


def gain(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Say in words what a method gains over `alone`: the mean paired difference, its interval, n.

    Raises UsageError where the study holds no such pair.

    >>> gain(results, "knn", "block2", method="kd", labels="2")
    '+0.17 (95 % interval +0.11 to +0.23, n = 3 seeds)'
    """
    row = _cell(results, measure, layer, method, labels)
    if row["n"] == 1:
        return f"{row['mean']:+.2f} (one seed: no interval)"
    low, high = f"{row['low']:+.2f}", f"{row['high']:+.2f}"
    return f"{row['mean']:+.2f} (95 % interval {low} to {high}, n = {row['n']} seeds)"


def verdict(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Say where a method lies beside `alone`: higher, lower, or not told apart.

    Higher or lower only where the 95 % interval of the paired difference excludes 0.
    """
    row = _cell(results, measure, layer, method, labels)
    if row["low"] > 0:
        return "higher"
    return "lower" if row["high"] < 0 else "not told apart"
