"""Map by several procedures: what in a map is the layer's, and what the procedure's?

What the maps show is measured by `kdlib.measure.comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Num
from tqdm import tqdm

from kdlib.embed.align import unit
from kdlib.embed.embedders import TITLES
from kdlib.embed.maps import Cell, Maps, embed, family, restarts

PACKAGE = "ivis package"  # of a sweep: IVIS by its authors' package, not by our engine
SHUFFLED = 100  # images with shuffled labels: so few that a network can memorise them


class Procedure(NamedTuple):
    """How the maps of two networks are made."""

    title: str
    independent: bool = False  # no map borrows from another
    repetition: bool = False  # of another procedure: counts in its means, has no row of its own


_SHARED = f"{TITLES['tsne']}, one start for all"
PROCEDURES: dict[str, Procedure] = {
    "own start": Procedure(f"{TITLES['tsne']}, each from a start of its own", independent=True),
    "shared start": Procedure(_SHARED, independent=True),
    "again 1": Procedure(_SHARED, independent=True, repetition=True),
    "again 2": Procedure(_SHARED, independent=True, repetition=True),
    "coupled": Procedure(f"{TITLES['tsne']}, one start, coupled"),
    "ivis": Procedure(f"{TITLES['ivis']}, turned to fit"),
    "pca": Procedure(f"{TITLES['pca']}, turned to fit"),
}
RESTARTED = ("shared start", "again 1", "again 2")  # in the order of `restarts`
INDEPENDENT = [name for name, procedure in PROCEDURES.items() if procedure.independent]


def procedures(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    networks: tuple[str, str],
    *,
    steps: int,
    workers: int = 1,
) -> dict[str, Maps]:
    """Maps of two networks' layers by each of PROCEDURES, by its name.

    t-SNE from each layer's own principal components; from one start, three times, jittered by 1 %;
    coupled, together with all other networks in `features`; then IVIS (`steps`) and PCA.
    """
    pair = {cell: x for cell, x in features.items() if cell[0] in networks}
    own = {
        cell: embed(x, progress=_silent)
        for cell, x in tqdm(pair.items(), "t-SNE, own starts", delay=2)
    }
    maps = {"own start": own}
    maps |= dict(zip(RESTARTED, restarts(pair, workers=workers), strict=True))
    maps["coupled"] = family(features, workers=workers).maps
    maps["ivis"] = family(pair, "ivis", steps=steps, workers=workers).maps
    maps["pca"] = family(pair, "pca", workers=workers).maps
    return maps


def first_of_each_class(labels: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " m"]:
    """Rows of the first images of each class, as many of all: `size` in all, rounded up."""
    share = -(-size // len(np.unique(labels)))
    return np.sort(pd.Series(labels).groupby(labels).head(share).index.to_numpy())


class Setting(NamedTuple):
    """One map of a sweep, and how it was made."""

    embedding: str  # tsne, ivis, or PACKAGE
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
    with each k; of the last network with the middle one of these by its authors' package, too.
    """
    n = len(next(iter(layers.values())))
    starts = {seed: np.random.default_rng(seed).normal(size=(n, 2)) for seed in seeds}
    maps = []
    fitting = list(product([p for p in perplexities if 4 * p <= n], seeds, layers))
    for perplexity, seed, run in tqdm(fitting, "t-SNE", delay=2):
        points = embed(layers[run], perplexity=perplexity, start=starts[seed], progress=_silent)
        maps.append(Setting("tsne", perplexity, seed, run, points))
    usable = [k for k in ks if 2 * k < n]
    for k, seed in tqdm(list(product(usable, seeds)), "IVIS", delay=2):
        cells = {(run, ""): x for run, x in layers.items()}
        made = family(cells, "ivis", k=k, seed=seed, steps=steps, progress=_silent).maps
        maps += [Setting("ivis", k, seed, run, points) for (run, _), points in made.items()]
    run, middle = list(layers)[-1], usable[len(usable) // 2 :][:1]
    for k, seed in tqdm(list(product(middle, seeds)), "IVIS by its package", delay=2):
        settings: dict[str, Any] = {"engine": "package", "k": k, "seed": seed, "steps": steps}
        points = unit(embed(layers[run], "ivis", progress=_silent, **settings))
        maps.append(Setting(PACKAGE, k, seed, run, points))
    return maps


def shuffled_labels(
    features: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    steps: int = 1000,
) -> tuple[Int[np.ndarray, " n"], dict[str, Float32[np.ndarray, "n 2"]]]:
    """Shuffle labels, and map by IVIS supervised by them ("shuffled") and "unsupervised".

    A supervised map shows any classes it is trained on, even those that are random. Returns the
    shuffled labels and both maps.
    """
    shuffled = np.random.default_rng(seed).permutation(labels)
    settings: dict[str, Any] = {"steps": steps, "progress": _silent}
    supervision: dict[str, Any] = {
        "engine": "package",
        "labels": shuffled,
        "supervision_weight": 0.95,
    }
    maps = {
        "shuffled": embed(features, "ivis", **settings, **supervision),
        "unsupervised": embed(features, "ivis", **settings),
    }
    return shuffled, maps


def _silent(fraction: float) -> None:
    """Report no progress: a bar of the caller counts the maps."""
