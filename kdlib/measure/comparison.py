"""Maps of one layer made by several procedures, measured and compared, and what noise looks like.

The procedures are those of `kdlib.embed.compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num

from kdlib import one_of
from kdlib.embed import align, displacement
from kdlib.embed.compare import INDEPENDENT, PACKAGE, PROCEDURES, Setting
from kdlib.embed.maps import Cell, Maps
from kdlib.measure.faithfulness import faithfulness, map_knn, map_silhouette
from kdlib.neighbours import ranks
from kdlib.store import Results

DISTANCES = ["displacement", "displacement_turned", "trustworthiness", "neighbours_kept"]
SWEPT = ("trustworthiness", "neighbours_kept", "map_knn")  # measures of a sweep, of `faithfulness`

Row = tuple[str, str, str, str, float]  # procedure, run, layer, measure, value


# ---- of maps -----------------------------------------------------------------------------------


def measures(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    labels: Int[np.ndarray, " n"],
    maps: Mapping[str, Maps],
    networks: tuple[str, str],
) -> list[Row]:
    """Measure the maps of `compare.procedures`: rows (procedure, run, layer, measure, value).

    Every map's faithfulness; how far images move between the two networks, turned and as they
    lie, in rows of the second network; and the k-NN accuracy of the layers themselves, as
    procedure "original space".
    """
    first, second = networks
    cells = [cell for cell in features if cell[0] in networks]
    rows = [
        ("original space", *cell, "map_knn", map_knn(ranks(features[cell]), labels))
        for cell in cells
    ]
    for procedure, made in maps.items():
        for cell in cells:
            values = faithfulness(features[cell], made[cell], labels)
            rows += [(procedure, *cell, measure, value) for measure, value in values.items()]
        for layer in [layer for network, layer in cells if network == second]:
            a, b = made[first, layer], made[second, layer]
            for measure, turned in (("displacement", False), ("displacement_turned", True)):
                value = float(displacement(a, b, turned=turned).mean())
                rows.append((procedure, second, layer, measure, value))
    return rows


def accuracies(
    maps: Mapping[str, Num[np.ndarray, "n 2"]], labels: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Return each map's k-NN accuracy for some labels, by the map's name."""
    return {name: map_knn(ranks(points), labels) for name, points in maps.items()}


def sweep_measures(
    layers: Mapping[str, Num[np.ndarray, "n _"]],
    labels: Int[np.ndarray, " n"],
    maps: Sequence[Setting],
) -> pd.DataFrame:
    """List the points of a `compare.sweep` and the measures of each map: a row for each point.

    Columns run embedding setting seed image x y, those of SWEPT and map_silhouette. Each map is
    turned to the first of its run and method: it may lie anyhow, which is not what a sweep
    shows.
    """
    references: dict[tuple[str, str], np.ndarray] = {}
    tables = []
    for embedding, setting, seed, run, points in maps:
        kind = "ivis" if embedding == PACKAGE else embedding  # the two lie alike, to be compared
        reference = references.setdefault((kind, run), points)
        xy = align(points[None], reference=reference)[0].astype("float32")
        values = faithfulness(layers[run], points, labels)
        table = pd.DataFrame(xy, columns=["x", "y"]).assign(image=range(len(xy)), run=run)
        table = table.assign(embedding=embedding, setting=setting, seed=seed)
        table = table.assign(**{measure: values[measure] for measure in SWEPT})
        tables.append(table.assign(map_silhouette=map_silhouette(points, labels)))
    return pd.concat(tables, ignore_index=True)


# ---- of results --------------------------------------------------------------------------------


def procedures(results: Results) -> pd.DataFrame:
    """Return how far an image lies from its place in the other network, by procedure of mapping.

    Columns procedure layer displacement displacement_turned trustworthiness neighbours_kept map_knn
    rise spread: means over both networks. A single map of a layer depends on its start, so `rise`,
    what a map's k-NN accuracy borrows, is over the *mean* of the layer's independent maps (one
    from its own start, three from a shared one, jittered); `spread` is how far apart the best and
    the worst of those are. A layer that is another again (`pool`) counts like any.
    """
    table = results.comparison
    knn = table[table["measure"] == "map_knn"].pivot_table(
        index=["run", "layer"], columns="procedure", values="value"
    )
    independent = knn[[name for name in knn if name in INDEPENDENT]]
    rise = knn.sub(independent.mean(axis=1), axis=0).groupby(level="layer").mean().stack()
    spread = (independent.max(axis=1) - independent.min(axis=1)).groupby(level="layer").mean()
    means = table.pivot_table(index=["procedure", "layer"], columns="measure", values="value")
    means = means[means["displacement"].notna()]
    means = means.join(rise.rename("rise")).join(spread.rename("spread"))
    names = [name for name, procedure in PROCEDURES.items() if not procedure.repetition]
    layers = list(dict.fromkeys(table["layer"]))
    order = pd.MultiIndex.from_product([names, layers], names=["procedure", "layer"])
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
