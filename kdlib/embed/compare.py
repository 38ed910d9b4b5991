"""Compare procedures of mapping: what in a map is the layer's, and what the procedure's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Num
from tqdm import tqdm

from kdlib.embed.align import align, displacement
from kdlib.embed.maps import Cell, Maps, embed, family, restarts
from kdlib.measure.faithfulness import faithfulness, map_knn, map_silhouette
from kdlib.neighbours import ranks

PERPLEXITY = 30  # or a quarter of the images
SHUFFLED = 100  # images with shuffled labels: so few that a network can memorise them
SWEPT = ("trustworthiness", "neighbours_kept", "map_knn")  # measures of a sweep, of `faithfulness`

Row = tuple[str, str, str, str, float]  # procedure, run, layer, measure, value


def procedures(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    networks: tuple[str, str],
    *,
    steps: int,
    workers: int = 1,
) -> dict[str, Maps]:
    """Maps of two networks' layers by each procedure, by its name.

    t-SNE from each layer's own principal components; from one start, three times, jittered by 1 %;
    coupled, together with all other networks in `features`; then IVIS (`steps`) and PCA.
    """
    pair = {cell: x for cell, x in features.items() if cell[0] in networks}
    n = len(next(iter(features.values())))
    settings: dict[str, Any] = {"perplexity": min(PERPLEXITY, n // 4)}
    own = {
        cell: embed(x, progress=_silent, **settings)
        for cell, x in tqdm(pair.items(), "t-SNE, own starts", delay=2)
    }
    settings["workers"] = workers
    first, *others = restarts(pair, **settings)
    maps = {"own start": own, "shared start": first}
    maps |= {f"again {i}": again for i, again in enumerate(others, 1)}
    maps["coupled"] = family(features, **settings).maps
    maps["ivis"] = family(pair, "ivis", steps=steps, workers=workers).maps
    maps["pca"] = family(pair, "pca", workers=workers).maps
    return maps


def comparison(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    labels: Int[np.ndarray, " n"],
    maps: Mapping[str, Maps],
    networks: tuple[str, str],
) -> list[Row]:
    """Measure the maps of `procedures`: rows (procedure, run, layer, measure, value).

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


def first_of_each_class(labels: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " m"]:
    """Rows of the first images of each class, as many of all: `size` in all, rounded up."""
    share = -(-size // len(np.unique(labels)))
    return np.sort(pd.Series(labels).groupby(labels).head(share).index.to_numpy())


class Setting(NamedTuple):
    """One map of a sweep, and how it was made."""

    embedding: str
    setting: int  # perplexity of t-SNE, k of IVIS
    seed: int
    run: str
    points: Float32[np.ndarray, "n 2"]


def sweep(
    layers: Mapping[str, Num[np.ndarray, "n _"]],
    *,
    perplexities: Sequence[int],
    ks: Sequence[int],
    seeds: Sequence[int],
    steps: int,
) -> list[Setting]:
    """Map one layer of some networks (by run) again and again, with other settings and seeds.

    t-SNE from random starts, with each perplexity that n allows; IVIS from other initial weights,
    with each k.
    """
    n = len(next(iter(layers.values())))
    starts = {seed: np.random.default_rng(seed).normal(size=(n, 2)) for seed in seeds}
    maps = []
    fitting = list(product([p for p in perplexities if 4 * p <= n], seeds, layers))
    for perplexity, seed, run in tqdm(fitting, "t-SNE", delay=2):
        points = embed(layers[run], perplexity=perplexity, start=starts[seed], progress=_silent)
        maps.append(Setting("tsne", perplexity, seed, run, points))
    fitting = list(product([k for k in ks if 2 * k < n], seeds))
    for k, seed in tqdm(fitting, "IVIS", delay=2):
        cells = {(run, ""): x for run, x in layers.items()}
        made = family(cells, "ivis", k=k, seed=seed, steps=steps, progress=_silent).maps
        maps += [Setting("ivis", k, seed, run, points) for (run, _), points in made.items()]
    return maps


def sweep_measures(
    layers: Mapping[str, Num[np.ndarray, "n _"]],
    labels: Int[np.ndarray, " n"],
    maps: Sequence[Setting],
) -> pd.DataFrame:
    """List the points of a `sweep` and the measures of each map: a row for each point.

    Columns run embedding setting seed image x y, those of SWEPT and map_silhouette. Each map is
    turned to the first of its run and embedding: it may lie anyhow, which is not what a sweep
    shows.
    """
    references: dict[tuple[str, str], np.ndarray] = {}
    tables = []
    for embedding, setting, seed, run, points in maps:
        reference = references.setdefault((embedding, run), points)
        xy = align(points[None], reference=reference)[0].astype("float32")
        values = faithfulness(layers[run], points, labels)
        table = pd.DataFrame(xy, columns=["x", "y"]).assign(image=range(len(xy)), run=run)
        table = table.assign(embedding=embedding, setting=setting, seed=seed)
        table = table.assign(**{measure: values[measure] for measure in SWEPT})
        tables.append(table.assign(map_silhouette=map_silhouette(points, labels)))
    return pd.concat(tables, ignore_index=True)


def shuffled_labels(
    features: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    steps: int = 1000,
) -> dict[str, float]:
    """The map's k-NN accuracy for shuffled labels: supervised by them, and without supervision.

    By IVIS: a supervised map shows any classes it is trained on, even those that are random.
    """
    dealt = np.random.default_rng(seed).permutation(labels)
    settings: dict[str, Any] = {"steps": steps, "progress": _silent}
    supervision: dict[str, Any] = {"engine": "package", "labels": dealt, "supervision_weight": 0.95}
    maps = {
        "shuffled": embed(features, "ivis", **settings, **supervision),
        "unsupervised": embed(features, "ivis", **settings),
    }
    return {name: map_knn(ranks(points), dealt) for name, points in maps.items()}


def _silent(fraction: float) -> None:
    """Report no progress: a bar of the caller counts the maps."""
