"""Embed layers: features (n, d) become maps (n, 2), one or a family that compares.

A map is an illustration. Conclusions come from the features themselves (`kdlib.measure.metrics`),
and every map is shown with its faithfulness and with how far it moves by chance alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Num
from threadpoolctl import threadpool_limits

from kdlib import UsageError, one_of
from kdlib.embed.align import align, displacement, shared_start, unit
from kdlib.embed.embedders import EMBEDDERS, Embedder
from kdlib.embed.prepare import check_number, prepare, validated
from kdlib.embed.workers import Progress, reporting

RESTARTS = 3  # that the noise floor compares
JITTER = 0.01  # of the start's own spread

Cell = tuple[str, str]  # network, layer
Maps = dict[Cell, Float32[np.ndarray, "n 2"]]


def check(
    method: str, n: int, options: Mapping[str, Any], coupling: int | float | None = None
) -> None:
    """Raise UsageError unless `family` can map n images by this method and these options."""
    embedder = _embedder(method, 0, options)
    _strength(coupling, method, {})
    embedder.check(n, **{**embedder.defaults(n), **options})


def embed(
    features: Num[np.ndarray, "n d"],
    method: str = "tsne",
    *,
    seed: int = 0,
    start: Num[np.ndarray, "n 2"] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Float32[np.ndarray, "n 2"]:
    """Map n features to n points: images with similar features lie close together.

    All methods start from the same preparation: centred, at most 50 principal components, one
    global scale. `start` (n, 2) is where t-SNE, UMAP and PaCMAP begin (default: the first two
    principal components); the other methods check and ignore it. t-SNE and PCA use no random
    numbers: `seed` changes nothing in them. One thread, so the same bits on every call. `progress`
    is called with the fraction done, at most four times a second; without it a bar shows up on
    stderr after two seconds. EMBEDDERS lists the options of each method; its function explains
    them. The defaults of perplexity and k are smaller where there are few images.

    Raises UsageError for an unknown method or option, features that are not (n, d) with d >= 2,
    not finite or all equal, a start that is not (n, 2), too few images, and a wrong seed.

        points = embed(features, "ivis", seed=1, steps=3000)     # (500, 64) -> (500, 2)
    """
    embedder = _embedder(method, seed, options)
    with threadpool_limits(1):
        layer = prepare(features)
        options = embedder.defaults(len(layer)) | options
        start = _scaled_start(layer[:, :2] if start is None else start, len(layer))
        with reporting(embedder.title, progress) as report:
            (points,) = embedder.function(
                [layer], starts=[start], seed=seed, workers=1, progress=report, **options
            )
    return np.ascontiguousarray(points, dtype=np.float32)


class Family(NamedTuple):
    """Maps of networks x layers that can be laid side by side, and how they were made."""

    maps: Maps
    coupling: float  # 0: each map for itself; only then do numbers about maps mean something
    engine: str  # the package that made them, and its version
    unaligned: Maps | None = None  # before `align`, of a method without a start: its first restart


def family(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    method: str = "tsne",
    *,
    seed: int = 0,
    workers: int = 1,
    coupling: int | float | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Family:
    """Embed the layers of several networks for the same images, so that the maps compare.

    Keys are (network, layer), layers in their order. All maps share one start (`shared_start`).
    t-SNE pulls each map weakly towards the adjacent ones: the layer before and after of the same
    network, and the same layer of the other networks, which have no order (`kdlib.embed.tsne`).
    `coupling` is the strength, by default .1 among networks and .2 along the layers of one; 0
    makes each map for itself. Coupled maps stay as they are; the others are turned and mirrored
    to the start (`align`). Every map is centred, with a root mean square radius of 1.

    Layers that are equal to the bit share one map. The same bits for any number of `workers`:
    one thread per map, or per batch of maps. `progress` and errors as `embed`; UsageError also
    for layers of different images and for a coupling of another method.

        maps = family({("kd", "stem"): a, ("kd", "block1"): b}, workers=2).maps
    """
    embedder = _embedder(method, seed, options)
    _check_family(features, workers)
    strength = _strength(coupling, method, features)
    settings = _sized(embedder, features) | options
    with threadpool_limits(1):
        representatives = _representatives(features)
        layers = _prepared(features, representatives)
        start = shared_start(layers)
        if strength:
            settings |= {"coupling": strength, "adjacent": _adjacent(representatives)}
        with reporting(f"{len(layers)} {embedder.title} maps", progress) as report:
            maps = embedder.function(
                layers,
                starts=[_scaled_start(start, len(start))] * len(layers),
                seed=seed,
                workers=workers,
                progress=report,
                **settings,
            )
    units = [unit(points) for points in maps]
    return Family(
        maps=_for_all(representatives, units if strength else align(np.stack(maps), start)),
        coupling=strength,
        engine=embedder.made_by(options),
        unaligned=None if embedder.uses_start else _for_all(representatives, units),
    )


def restarts(
    features: Mapping[Cell, Num[np.ndarray, "n _"]],
    method: str = "tsne",
    *,
    seed: int = 0,
    workers: int = 1,
    first: Maps | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Maps]:
    """Embed each layer three times, uncoupled, from slightly different starts.

    The shared start is jittered by 1 % of its own spread; IVIS, UMAP and PaCMAP get another seed
    as well. For the noise floor, and for numbers about maps: those of coupled maps borrow from
    each other. `first` (`Family.unaligned`) saves making the first again. Arguments and errors as
    `family`.
    """
    embedder = _embedder(method, seed, options)
    _check_family(features, workers)
    options = _sized(embedder, features) | options
    results = [] if first is None else [first]
    with threadpool_limits(1):
        representatives = _representatives(features)
        layers = _prepared(features, representatives)
        start = shared_start(layers)
        shape = (RESTARTS, len(start), 2)
        jitter = np.random.default_rng(seed).normal(size=shape) * JITTER * start.std()
        with reporting(f"{RESTARTS} x {len(layers)} {embedder.title} maps", progress) as report:
            for i in range(len(results), RESTARTS):
                maps = embedder.function(
                    layers,
                    starts=[_scaled_start(start + jitter[i], len(start))] * len(layers),
                    seed=(seed + i) % 2**32,
                    workers=workers,
                    progress=lambda fraction, i=i: report((i + fraction) / RESTARTS),
                    **options,
                )
                results.append(_for_all(representatives, map(unit, maps)))
    return results


def noise_floor(restarted: Sequence[Maps]) -> dict[Cell, float]:
    """How far a point moves when nothing but the start and the seed change, for each cell.

    Mean `displacement` over points and pairs of `restarts`. 0 is a map that always comes out the
    same; above .5 what moves between two maps means nothing.
    """
    pairs = list(combinations(restarted, 2))
    return {
        cell: float(np.mean([displacement(a[cell], b[cell]).mean() for a, b in pairs]))
        for cell in restarted[0]
    }


def _embedder(method: str, seed: int, options: Mapping[str, Any]) -> Embedder:
    """The method of that name, its options and seed checked by name and range."""
    one_of("embedding", method, EMBEDDERS)
    embedder = EMBEDDERS[method]
    for name in options:
        if not embedder.options:
            raise UsageError(f"method {method!r} has no options; given {name!r}")
        one_of(f"option of {method}", name, embedder.options)
    check_number("seed", seed, 0, 2**32 - 1)
    return embedder


def _sized(embedder: Embedder, features: Mapping[Cell, np.ndarray]) -> dict[str, Any]:
    """The defaults of the options that the number of images limits."""
    return dict(embedder.defaults(len(next(iter(features.values())))))


def _check_family(features: Mapping[Cell, np.ndarray], workers: int) -> None:
    check_number("workers", workers, 1)
    if not features:
        raise UsageError("a family needs at least one layer; given none")
    for cell in features:
        if not isinstance(cell, tuple) or len(cell) != 2:
            raise UsageError(f"a family's keys are (network, layer); given {cell!r}")
    counts = {cell: len(layer) for cell, layer in features.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(f"the layers must show the same images; given n = {counts}")


def _strength(coupling: int | float | None, method: str, features: Mapping[Cell, Any]) -> float:
    """The strength of coupling, where none is given that of the family's shape."""
    couples = EMBEDDERS[method].couples
    if coupling is None:
        networks = {network for network, _ in features}
        return (0.2 if len(networks) == 1 else 0.1) if couples else 0.0
    check_number("coupling", coupling, 0, 0.5, whole=False)
    if coupling and not couples:
        raise UsageError(f"method {method!r} has no coupling; allowed: 0; given {coupling!r}")
    return float(coupling)


def _representatives(features: Mapping[Cell, np.ndarray]) -> dict[Cell, Cell]:
    """For every cell the first whose features are equal to the bit: only that one is embedded."""
    first: dict[tuple, Cell] = {}
    representatives = {}
    for cell, features_of in features.items():
        x = np.asarray(features_of)
        content = (x.shape, x.dtype.str, x.tobytes())
        representatives[cell] = first.setdefault(content, cell)
    return representatives


def _prepared(
    features: Mapping[Cell, np.ndarray], representatives: Mapping[Cell, Cell]
) -> list[Float32[np.ndarray, "n _"]]:
    """The distinct layers, prepared. Raises UsageError that names the layer."""
    layers = []
    for cell in dict.fromkeys(representatives.values()):
        try:
            layers.append(prepare(features[cell]))
        except UsageError as problem:
            raise UsageError(f"map of {cell!r}: {problem}") from None
    return layers


def _for_all(representatives: Mapping[Cell, Cell], maps: Iterable[np.ndarray]) -> Maps:
    """The maps of the distinct layers, a copy for every cell."""
    distinct = dict(zip(dict.fromkeys(representatives.values()), maps, strict=True))
    return {cell: distinct[first].astype(np.float32) for cell, first in representatives.items()}


def _adjacent(representatives: Mapping[Cell, Cell]) -> list[list[int]]:
    """For each distinct layer the numbers of those that pull it, each once."""
    number = {cell: i for i, cell in enumerate(dict.fromkeys(representatives.values()))}
    layers: dict[str, list[str]] = {}
    for network, layer in representatives:
        layers.setdefault(network, []).append(layer)
    pairs = [
        ((network, a), (network, b)) for network, row in layers.items() for a, b in pairwise(row)
    ]
    pairs += [(a, b) for a, b in combinations(representatives, 2) if a[1] == b[1]]
    adjacent: list[set[int]] = [set() for _ in number]
    for a, b in pairs:
        i, j = number[representatives[a]], number[representatives[b]]
        if i != j:
            adjacent[i].add(j)
            adjacent[j].add(i)
    return [sorted(numbers) for numbers in adjacent]


def _scaled_start(start: np.ndarray, n: int) -> Float[np.ndarray, "n 2"]:
    """Return the start centred, with a standard deviation of 1e-4 in its wider direction."""
    points = np.asarray(start, dtype=np.float64)
    if points.shape != (n, 2):  # openTSNE would make a map of as many dimensions as it is given
        raise UsageError(f"start must be of shape ({n}, 2); given {points.shape}")
    return validated(points - points.mean(axis=0)) / points.std(axis=0).max() * 1e-4
