"""At what depth of a network a measure reaches a target, and how many layers that saves."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from kdlib.measure.statistics import PAIR, values
from kdlib.plan.methods import BASELINE
from kdlib.store import Results

SAVED = ["network", "method", "labels", "seed", "steps", "baseline", "depth", "reached"]


def relative(count: int) -> list[float]:
    """Return the relative depth, 0 to 1, of each of so many layers; a single one is the last."""
    return [i / (count - 1) for i in range(count)] if count > 1 else [1.0] * count


def depth(profile: Iterable[float], target: float) -> float:
    """Return how many layers deep a profile first reaches a target; 0 is the first layer.

    Linear between layers. One that never reaches it counts as reaching it one layer after the
    last: a stand-in, always worse than any that does.

    >>> depth([0.25, 0.5, 1.0], 0.75)
    1.5
    """
    values = np.asarray(list(profile), dtype=float)
    above = np.flatnonzero(values >= target)
    if not len(above):
        return float(len(values))
    first = int(above[0])
    if first == 0:
        return 0.0
    low, high = values[first - 1], values[first]
    return float(first - 1 + (target - low) / (high - low))


def steps(table: pd.DataFrame) -> list[str]:
    """Choose the layers that count as steps: columns of `table`, without those that repeat.

    Logits are the output, not a layer on the way to it. A layer equal to the one before, as the
    pool of a ResNet, is the same one again.
    """
    distinct: list[str] = []
    for layer in table.columns.drop("logits", errors="ignore"):
        if not distinct or not np.allclose(table[layer], table[distinct[-1]]):
            distinct.append(layer)
    return distinct


def saved(results: Results, measure: str = "probe", *, regime: str | None = None) -> pd.DataFrame:
    """Count the layers that a student saves over the baseline of the same seed.

    The depth where the baseline first reaches the accuracy of its own last layer, minus the depth
    where the distilled student does (see `depth`). `regime` is that of its teacher.

    Returns columns network, method, labels, seed, steps (of that network), baseline and depth (both
    in layers, 0 the first), reached, difference.
    """
    table = values(results, measure, regime=regime)
    measured = set(table["layer"])
    order = [layer for layer in results.study["layers"] if layer in measured]
    rows = []
    for network, of_network in table.groupby("network", sort=False):
        profiles = of_network.pivot_table(
            index=["method", *PAIR[1:]], columns="layer", values="value"
        )[order].dropna()
        layers = steps(profiles)
        for (method, labels, seed), profile in profiles[layers].iterrows():
            partner = (BASELINE, labels, seed)
            if method == BASELINE or partner not in profiles.index:
                continue
            baseline = profiles.loc[partner, layers]
            target = baseline.iloc[-1]
            deep, own = depth(baseline, target), depth(profile, target)
            reached = own < len(layers)
            rows.append((network, method, labels, seed, layers, deep, own, reached, deep - own))
    return pd.DataFrame(rows, columns=[*SAVED, "difference"])
