"""Maps of one layer beside each other: drawn in several procedures, and what noise looks like."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from kdlib import one_of
from kdlib.store import Results

INDEPENDENT = ("own start", "shared start")  # procedures whose maps cannot borrow from another
AGAIN = "again "  # begins the names of repetitions of "shared start", jittered
DISTANCES = ["displacement", "displacement_turned", "trustworthiness", "neighbours_kept"]


def procedures(results: Results) -> pd.DataFrame:
    """Return how far an image lies from its place in the other network, by procedure of mapping.

    Columns way layer displacement displacement_turned trustworthiness neighbours_kept map_knn
    rise spread: means over both networks. A single map of a layer depends on its start, so `rise`,
    what a map's k-NN accuracy borrows, is over the *mean* of the layer's independent maps (one
    from its own start, three from a shared one, jittered); `spread` is how far apart the best and
    the worst of those are. A layer that is another again (`pool`) counts like any.
    """
    table = results.comparison
    knn = table[table["measure"] == "map_knn"].pivot_table(
        index=["run", "layer"], columns="way", values="value"
    )
    independent = knn[[way for way in knn if way in INDEPENDENT or way.startswith(AGAIN)]]
    rise = knn.sub(independent.mean(axis=1), axis=0).groupby(level="layer").mean().stack()
    spread = (independent.max(axis=1) - independent.min(axis=1)).groupby(level="layer").mean()
    means = table.pivot_table(index=["way", "layer"], columns="measure", values="value")
    means = means[means["displacement"].notna()]
    means = means.join(rise.rename("rise")).join(spread.rename("spread"))
    names = [way for way in dict.fromkeys(table["way"]) if not way.startswith(AGAIN)]
    layers = list(dict.fromkeys(table["layer"]))
    order = pd.MultiIndex.from_product([names, layers], names=["way", "layer"])
    means = means.reindex(order[order.isin(means.index)])
    return means[[*DISTANCES, "map_knn", "rise", "spread"]].reset_index()


def noise_floors(results: Results) -> pd.DataFrame:
    """Return the noise floor of every layer's maps: columns embedding layer mean low high runs.

    Mean, least and largest over the networks that have maps (`embed.noise_floor`).
    """
    table = results.faithfulness[results.faithfulness["measure"] == "noise_floor"]
    rows = table.groupby(["embedding", "layer"])["value"].agg(["mean", "min", "max", "count"])
    rows.columns = pd.Index(["mean", "low", "high", "runs"])
    layers = list(results.study["layers"])
    return rows.reset_index().sort_values(
        ["embedding", "layer"], key=lambda c: c.map(layers.index) if c.name == "layer" else c
    )


def change(
    neighbours: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]
) -> Float[np.ndarray, " n"]:
    """Return the share of every image's ten nearest in one layer that are not so in another.

    What really changed for an image between two cells, which no motion between their maps shows.
    `neighbours` is that table of `Results`, a cell (run, layer). In [0, 1], by image; 0 is the
    same ten, 1 - 10 / (n - 1) by chance. Raises UsageError for a run or layer not in the table.

        change(results.neighbours, (baseline, "block2"), (kd, "block2")).mean()
    """
    a, b = (_nearest(neighbours, *cell) for cell in (one, other))
    common = (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    return np.asarray(1 - common / a.shape[1])


def _nearest(neighbours: pd.DataFrame, run: str, layer: str) -> np.ndarray:
    """Return the nearest images of each image (n, k) in one layer of one run."""
    one_of("run with maps", run, neighbours["run"].unique())
    rows = neighbours[neighbours["run"] == run]
    one_of(f"layer of {run}", layer, rows["layer"].unique())
    rows = rows[rows["layer"] == layer]
    return np.asarray(rows.pivot(index="image", columns="rank", values="neighbour"))
