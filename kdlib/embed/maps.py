"""Draw layers: features (n, d) become maps (n, 2), by t-SNE, IVIS, PCA and others.

A map is an illustration. Conclusions come from the features themselves (`kdlib.measure.metrics`), and
every map is shown with its faithfulness and with how far it moves by chance alone.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Num
from threadpoolctl import threadpool_limits

from kdlib import UsageError, one_of
from kdlib.embed.extras import localmap, pacmap, umap
from kdlib.embed.ivis import ivis
from kdlib.embed.prepare import check, checked, prepare, unit
from kdlib.embed.tsne import tsne

TITLES = {
    "tsne": "t-SNE",
    "ivis": "IVIS",
    "pca": "PCA",
    "umap": "UMAP",
    "pacmap": "PaCMAP",
    "localmap": "LocalMAP",
}
PACKAGES = {  # that draw; IVIS by the engine it is given
    "tsne": "openTSNE",
    "pca": "numpy",
    "umap": "umap-learn",
    "pacmap": "pacmap",
    "localmap": "pacmap",
}
STARTLESS = ("ivis", "pca")  # methods that do not use the start
RESTARTS = 3  # that the noise floor compares
JITTER = 0.01  # of the start's own spread

Progress = Callable[[float], None]  # is told the fraction done, 0 to 1
Cell = tuple[str, str]  # network, layer
Maps = dict[Cell, Float32[np.ndarray, "n 2"]]


def embed(
    features: Num[np.ndarray, "n d"],
    method: str = "tsne",
    *,
    seed: int = 0,
    start: Num[np.ndarray, "n 2"] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Float32[np.ndarray, "n 2"]:
    """Draw n features as n points: two images that the layer sees alike lie close together.

    All methods see the same preparation: centred, at most 50 principal components, one global
    scale. `start` (n, 2) is where t-SNE, UMAP and PaCMAP begin (default: the first two principal
    components); the other methods check and ignore it. t-SNE and PCA draw no random numbers:
    `seed` changes nothing in them. One thread, so the same bits on every call. `progress` is told
    the fraction done, at most four times a second; without it a bar shows up on stderr after two
    seconds. The options of each method are those of its function in EMBEDDERS.

    Raises UsageError for an unknown method or option, features that are not (n, d) with d >= 2,
    not finite or all equal, a start that is not (n, 2), too few images, and a wrong seed.

        points = embed(features, "ivis", seed=1, steps=3000)     # (500, 64) -> (500, 2)
    """
    _check_call(method, seed, options)
    with threadpool_limits(1):
        layer = prepare(features)
        first = _scaled_start(layer if start is None else start, len(layer), start is None)
        with _bar(TITLES[method], progress) as tell:
            points = EMBEDDERS[method](
                [layer], starts=[first], seed=seed, workers=1, progress=tell, **options
            )[0]
    return np.ascontiguousarray(points, dtype=np.float32)


class Family(NamedTuple):
    """Maps of networks x layers that can be laid side by side, and how they were made."""

    maps: Maps
    coupling: float  # 0: each map for itself; only then do numbers about maps mean something
    engine: str  # the package that drew them, and its version
    first: Maps | None = None  # not turned, where no start plays a part: the first of `restarts`


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
    """Draw the layers of several networks for the same images, so that the maps compare.

    Keys are (network, layer), layers in their order. All maps share one start (`shared_start`).
    t-SNE pulls each map weakly towards its neighbours: the layer before and after of the same
    network, and the same layer of the other networks, which have no order (`kdlib.embed.tsne`).
    `coupling` is the strength, by default .1 among networks and .2 along the layers of one; 0
    draws each map for itself. Coupled maps stand as drawn; the others are turned and mirrored to
    the start (`align`). Every map is centred, with a root mean square radius of 1.

    Layers that are equal to the bit share one map. The same bits for any number of `workers`:
    one thread per map, or per batch of maps. `progress` and errors as `embed`; UsageError also
    for layers of different images and for a coupling of another method.

        drawn = family({("kd", "stem"): a, ("kd", "block1"): b}, workers=2).maps
    """
    _check_call(method, seed, options)
    _check_family(features, workers)
    coupling = _coupling(coupling, method, features)
    with threadpool_limits(1):
        cells, same = _distinct(features)
        layers = [_named(key, features[key]) for key in cells]
        start = shared_start(layers)
        extra = {"coupling": coupling, "beside": _beside(cells, same)} if coupling else {}
        with _bar(f"{len(cells)} {TITLES[method]} maps", progress) as tell:
            drawn = EMBEDDERS[method](
                layers,
                starts=[_scaled_start(start, len(start), False)] * len(layers),
                seed=seed,
                workers=workers,
                progress=tell,
                **extra,
                **options,
            )
    placed = [unit(one) for one in drawn] if coupling else align(np.stack(drawn), reference=start)
    first = _shared(cells, same, map(unit, drawn)) if method in STARTLESS else None
    return Family(_shared(cells, same, placed), coupling, _engine(method, options), first)


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
    """Draw each layer three times, uncoupled, from slightly different beginnings.

    The shared start is jittered by 1 % of its own spread; IVIS, UMAP and PaCMAP get another seed
    as well. For the noise floor, and for numbers about maps: those of coupled maps borrow from
    each other. `first` (`Family.first`) saves drawing the first again. Arguments and errors as
    `family`.
    """
    _check_call(method, seed, options)
    _check_family(features, workers)
    with threadpool_limits(1):
        cells, same = _distinct(features)
        layers = [_named(key, features[key]) for key in cells]
        start, n = shared_start(layers), len(layers[0])
        jitter = np.random.default_rng(seed).normal(size=(RESTARTS, n, 2)) * JITTER * start.std()
        drawn = []
        with _bar(f"{RESTARTS} x {len(cells)} {TITLES[method]} maps", progress) as tell:
            for i in range(0 if first is None else 1, RESTARTS):
                drawn.append(
                    EMBEDDERS[method](
                        layers,
                        starts=[_scaled_start(start + jitter[i], n, False)] * len(layers),
                        seed=(seed + i) % 2**32,
                        workers=workers,
                        progress=lambda done, i=i: tell((i + done) / RESTARTS),
                        **options,
                    )
                )
    maps = [_shared(cells, same, map(unit, one)) for one in drawn]
    return maps if first is None else [first, *maps]


def noise_floor(restarted: Sequence[Maps]) -> dict[Cell, float]:
    """How far a point moves when nothing but the beginning changes, for each cell.

    Mean `displacement` over points and pairs of `restarts`. 0 is a map that always comes out the
    same; above .5 what moves between two maps means nothing.
    """
    return {
        key: float(
            np.mean([displacement(a[key], b[key]).mean() for a, b in combinations(restarted, 2)])
        )
        for key in restarted[0]
    }


def displacement(
    a: Num[np.ndarray, "n 2"], b: Num[np.ndarray, "n 2"], *, turned: bool = True
) -> Float[np.ndarray, " n"]:
    """How far each point lies from its place on the other map.

    In units of the map's width: both are centred and scaled to a root mean square distance of 1
    from the centre; two random places are about 1.3 apart. With `turned`, after orthogonal
    Procrustes. In [0, ...). Raises UsageError as `align`.
    """
    first, second = unit(a), unit(b)
    return np.linalg.norm((_turned(first, second) if turned else first) - second, axis=1)


def pca(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
) -> list[Float32[np.ndarray, "n 2"]]:
    """Look along the two directions of largest variance: the linear control, Pearson 1901.

    Distances are never stretched, only shortened; classes may lie on top of each other.
    """
    return [layer[:, :2] for layer in layers]


EMBEDDERS: dict[str, Callable[..., list[np.ndarray]]] = {
    "tsne": tsne,
    "ivis": ivis,
    "pca": pca,
    "umap": umap,
    "pacmap": pacmap,
    "localmap": localmap,
}


def shared_start(layers: Sequence[Num[np.ndarray, "n _"]]) -> Float32[np.ndarray, "n 2"]:
    """Give the t-SNE maps of several layers one beginning, so that they can be compared.

    The first two principal components of all prepared layers side by side; every layer has the
    same total variance in it. Halves the movement between neighbouring layers' maps and costs no
    faithfulness. Raises UsageError as `embed` does, and when the layers differ in n.

        start = shared_start([block1, block2])               # (500, 16), (500, 32) -> (500, 2)
    """
    if len({len(layer) for layer in layers}) != 1:
        counts = [len(layer) for layer in layers]
        raise UsageError(f"a shared start needs layers of the same images; given n = {counts}")
    with threadpool_limits(1):
        same = [x / np.sqrt(x.shape[1]) for x in map(prepare, layers)]
        return np.ascontiguousarray(prepare(np.concatenate(same, axis=1))[:, :2])


def align(
    maps: Num[np.ndarray, "m n 2"], reference: int | Num[np.ndarray, "n 2"] = 0
) -> Float[np.ndarray, "m n 2"]:
    """Turn and mirror maps of the same images so that they lie as alike as they can.

    Each map is centred and scaled to a root mean square distance of 1 from its centre; then
    orthogonal Procrustes (Schonemann 1966): the rotation or reflection with the least squared
    distance between matching points. No map changes its shape. With a number as reference that
    map stays as it is and the others follow as a chain, each turned to its neighbour on the
    reference's side: give the maps in the order of the layers. With a map (n, 2) as reference
    each map is turned to it directly. Raises UsageError for shapes other than (m, n, 2), values
    that are not finite, a map whose points are all equal, and a reference that is not there.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[2] != 2:
        raise UsageError(f"align needs maps of shape (m, n, 2); given {maps.shape}")
    aligned = np.stack([unit(one) for one in maps])
    if not isinstance(reference, int | np.integer):
        target = np.asarray(reference, dtype=np.float64)
        if target.shape != maps.shape[1:]:
            raise UsageError(f"the reference has shape {target.shape}; needed {maps.shape[1:]}")
        return np.stack([_turned(one, unit(target)) for one in aligned])
    check("reference", reference, 0, len(maps) - 1)
    for i in range(reference + 1, len(maps)):
        aligned[i] = _turned(aligned[i], aligned[i - 1])
    for i in range(reference - 1, -1, -1):
        aligned[i] = _turned(aligned[i], aligned[i + 1])
    return aligned


def _check_family(features: Mapping[Cell, np.ndarray], workers: int) -> None:
    check("workers", workers, 1)
    if not features:
        raise UsageError("a family needs at least one layer; given none")
    for key in features:
        if not isinstance(key, tuple) or len(key) != 2:
            raise UsageError(f"a family's keys are (network, layer); given {key!r}")
    if len({len(layer) for layer in features.values()}) > 1:
        counts = {key: len(layer) for key, layer in features.items()}
        raise UsageError(f"the layers must show the same images; given n = {counts}")


def _distinct(
    features: Mapping[Cell, np.ndarray],
) -> tuple[list[Cell], dict[Cell, Cell]]:
    """The cells to draw, and for every cell the first one that is equal to the bit."""
    first: dict[bytes, Cell] = {}
    same = {key: first.setdefault(_content(x), key) for key, x in features.items()}
    return list(first.values()), same


def _shared(cells: Sequence[Cell], same: Mapping[Cell, Cell], drawn: Iterable[np.ndarray]) -> Maps:
    """The maps of the distinct cells, given to all."""
    own = dict(zip(cells, drawn, strict=True))
    return {key: own[one].astype(np.float32) for key, one in same.items()}


def _content(layer: np.ndarray) -> bytes:
    x = np.asarray(layer)
    return repr((x.shape, x.dtype.str)).encode() + x.tobytes()


def _beside(cells: Sequence[Cell], same: Mapping[Cell, Cell]) -> list[list[int]]:
    """For each distinct cell the numbers of those that pull it, each once."""
    place = {key: i for i, key in enumerate(cells)}
    near: list[set[int]] = [set() for _ in cells]
    layers: dict[str, list[str]] = {}
    for network, layer in same:
        layers.setdefault(network, []).append(layer)
    pairs = [((n, a), (n, b)) for n, those in layers.items() for a, b in pairwise(those)]
    pairs += [(a, b) for a, b in combinations(same, 2) if a[1] == b[1]]
    for a, b in pairs:
        i, j = place[same[a]], place[same[b]]
        if i != j:
            near[i].add(j)
            near[j].add(i)
    return [sorted(those) for those in near]


def _coupling(given: int | float | None, method: str, features: Mapping[Cell, Any]) -> float:
    """The strength that is meant."""
    couples = "coupling" in inspect.signature(EMBEDDERS[method]).parameters
    if given is None:
        networks = {network for network, _ in features}
        return (0.2 if len(networks) == 1 else 0.1) if couples else 0.0
    check("coupling", given, 0, 0.5, whole=False)
    if given and not couples:
        raise UsageError(f"method {method!r} has no coupling; allowed: 0; given {given!r}")
    return float(given)


def _engine(method: str, options: Mapping[str, Any]) -> str:
    torch = options.get("engine", "torch") == "torch"
    name = ("torch" if torch else "ivis") if method == "ivis" else PACKAGES[method]
    return f"{name} {version(name)}"


def _named(key: Cell, layer: np.ndarray) -> Float32[np.ndarray, "n c"]:
    """Prepare a layer; say in any error which it was."""
    try:
        return prepare(layer)
    except UsageError as problem:
        raise UsageError(f"map of {key!r}: {problem}") from None


@contextmanager
def _bar(title: str, progress: Progress | None) -> Iterator[Progress]:
    """Report the fraction done: to `progress`, or as a bar on stderr."""
    if progress:
        yield _seldom(progress)
        progress(1.0)
        return
    from tqdm import tqdm

    shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, desc=title, delay=2, mininterval=1, bar_format=shape) as bar:
        yield _seldom(lambda done: bar.update(done - bar.n))
        bar.update(1 - bar.n)


def _seldom(progress: Progress) -> Progress:
    """Pass on at most four reports a second, each above the last, and none of the end."""
    last, told = -np.inf, 0.0

    def tell(fraction: float) -> None:
        nonlocal last, told
        if told < fraction < 1 and time.monotonic() - last >= 0.25:
            last, told = time.monotonic(), float(fraction)
            progress(told)

    return tell


def _check_call(method: str, seed: int, options: Mapping[str, Any]) -> None:
    one_of("method", method, EMBEDDERS)
    common = ("layers", "starts", "seed", "workers", "progress", "beside", "coupling")
    known = [o for o in inspect.signature(EMBEDDERS[method]).parameters if o not in common]
    for name in options:
        if not known:
            raise UsageError(f"method {method!r} has no options; given {name!r}")
        one_of(f"option of {method}", name, known)
    check("seed", seed, 0, 2**32 - 1)


def _scaled_start(start: np.ndarray, n: int, own: bool) -> Float[np.ndarray, "n 2"]:
    """Return the start centred, with a standard deviation of 1e-4 in its wider direction."""
    points = np.asarray(start[:, :2] if own else start, dtype=np.float64)
    if points.shape != (n, 2):  # openTSNE would make a map of as many dimensions as it is given
        raise UsageError(f"start must be of shape ({n}, 2); given {points.shape}")
    return checked(points - points.mean(axis=0)) / points.std(axis=0).max() * 1e-4


def _turned(points: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Return the map rotated or mirrored onto the target."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)
