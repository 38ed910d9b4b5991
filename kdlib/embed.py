"""Draw a layer: features (n, d) become a map (n, 2), by t-SNE, IVIS or PCA.

A map is an illustration. Conclusions come from the features themselves (`kdlib.metrics`),
and every map is shown with its faithfulness.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Num
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from kdlib import UsageError, one_of

TITLES = {"tsne": "t-SNE", "ivis": "IVIS", "pca": "PCA"}
COMPONENTS = 50  # of the PCA that every method starts from
MAPS_PER_WORKER = 32  # then a fresh process: one that fits IVIS grows by about 7 MB a map

Progress = Callable[[float], None]  # is told the fraction done, 0 to 1


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
    scale. `start` (n, 2) is where t-SNE begins (default: the first two principal components);
    the other methods check and ignore it. Only IVIS draws random numbers: `seed` changes
    nothing in t-SNE and PCA. One thread, so the same bits on every call. `progress` is told the
    fraction done, at most four times a second. The options of each method are in EMBEDDERS.

    Raises UsageError for an unknown method or option, features that are not (n, d) with d >= 2,
    not finite or all equal, a start that is not (n, 2), too few images, and a wrong seed.

        points = embed(features, "ivis", seed=1, steps=3000)     # (500, 64) -> (500, 2)
    """
    _check_call(method, seed, options)
    with threadpool_limits(1):
        layer = prepare(features)
        first = _scaled_start(layer if start is None else start, len(layer), start is None)
        tell = _seldom(progress)
        points = EMBEDDERS[method](layer, seed=seed, start=first, progress=tell, **options)
    if progress:
        progress(1.0)
    return np.ascontiguousarray(points, dtype=np.float32)


def tsne(
    layer: Float32[np.ndarray, "n d"],
    *,
    seed: int,
    start: Float[np.ndarray, "n 2"],
    progress: Progress,
    perplexity: int | float = 30,
    early_exaggeration: int | float = 12,
    iterations: int = 250,
) -> Float[np.ndarray, "n 2"]:
    """Keep each image beside its neighbours: t-SNE by openTSNE, Barnes-Hut, exact neighbours.

    van der Maaten & Hinton 2008; Policar et al. 2024. 250 iterations with early exaggeration,
    then `iterations` without. Distances between far clusters and the sizes of clusters mean
    nothing. Raises UsageError unless 3 * perplexity <= n - 1.
    """
    from openTSNE import TSNE

    largest = (len(layer) - 1) // 3
    _check("perplexity", perplexity, 1, largest, f" for n = {len(layer)} images", whole=False)
    _check("early_exaggeration", early_exaggeration, 1, whole=False)
    _check("iterations", iterations, 1)
    done = {"before": 0, "now": 0}

    def tell(iteration: int, error: float, points: np.ndarray) -> None:
        if iteration < done["now"]:  # openTSNE counts each of its two phases from the start
            done["before"] = 250
        done["now"] = iteration
        progress((done["before"] + iteration) / (250 + iterations))

    return np.asarray(
        TSNE(
            perplexity=perplexity,
            early_exaggeration=early_exaggeration,
            early_exaggeration_iter=250,
            n_iter=iterations,
            initialization=start,
            negative_gradient_method="bh",
            neighbors="exact",
            n_jobs=1,
            random_state=seed,
            callbacks=tell,
            callbacks_every_iters=10,
        ).fit(layer)
    )


def ivis(
    layer: Float32[np.ndarray, "n d"],
    *,
    seed: int,
    start: Float[np.ndarray, "n 2"],
    progress: Progress,
    k: int = 15,
    batch: int = 32,
    steps: int = 5000,
    rates: Sequence[Any] = (1e-2, 3e-3),
) -> Float32[np.ndarray, "n 2"]:
    """Learn the map: a small siamese network, IVIS by the package of its authors.

    Szubert et al. 2019, the package's network and loss without labels. Departs from its
    defaults, which stop long before convergence: exact cosine neighbours (`k`, without the
    image itself), `batch` triplets a step, about `steps` steps whatever n (never below 20
    epochs) with a cosine-annealed learning rate, no early stopping. `rates` are the peak rates,
    tried in turn until the loss stays finite. The rows are shuffled by the seed for the fit,
    because the package forms its batches of contiguous rows.

    IVIS cannot show early layers (2-D k-NN .25-.45 where t-SNE has .74-.84): say so beside the
    map. The global generators of `random` and numpy are left as they were found, TensorFlow's is
    seeded. Raises UsageError unless 2 k < n, and when the fit ends in numbers that are not finite.
    """
    n = len(layer)
    _check("k", k, 1, (n - 1) // 2, f" for n = {n} images")
    if not isinstance(rates, (list, tuple)) or not rates or not all(_is_rate(r) for r in rates):
        raise UsageError(f"rates {rates!r}; allowed: a list of learning rates above 0")
    _check("batch", batch, 1)
    _check("steps", steps, 1)
    order = np.random.default_rng(seed).permutation(n)
    for rate in rates:
        points, losses = _fit_ivis(
            layer[order], seed, rate, progress, k=k, batch=min(batch, n), steps=steps
        )
        if np.isfinite(losses).all() and np.isfinite(points).all():
            return points[np.argsort(order)]
    raise UsageError(
        f"IVIS ends in undefined numbers at every peak learning rate given, {tuple(rates)};"
        " allowed: rates at which the loss stays finite, such as 0.003"
    )


def pca(
    layer: Float32[np.ndarray, "n d"],
    *,
    seed: int,
    start: Float[np.ndarray, "n 2"],
    progress: Progress,
) -> Float32[np.ndarray, "n 2"]:
    """Look along the two directions of largest variance: the linear control, Pearson 1901.

    Distances are never stretched, only shortened; classes may lie on top of each other.
    """
    return layer[:, :2]


EMBEDDERS: dict[str, Callable[..., np.ndarray]] = {"tsne": tsne, "ivis": ivis, "pca": pca}


def prepare(features: Num[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
    """Centre, keep the first c <= 50 principal components, divide all by one number.

    The mean square of the result is 1: the same layer at another scale, shifted or rotated gives
    the same map up to rounding. In each component the entry of largest size is positive, which
    fixes the signs. Raises UsageError as `embed` does.
    """
    x = _checked(features)
    x = x - x.mean(axis=0)
    if x.shape[1] <= len(x):
        scores = x @ np.linalg.eigh(x.T @ x)[1][:, : -COMPONENTS - 1 : -1]
    else:  # more features than images: the same scores from the smaller (n, n) matrix
        values, vectors = np.linalg.eigh(x @ x.T)
        scores = (vectors * np.sqrt(values.clip(0)))[:, : -COMPONENTS - 1 : -1]
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
    scores = scores * np.where(largest < 0, -1, 1)
    return (scores / np.sqrt(np.square(scores).mean())).astype(np.float32)


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
        unit = [x / np.sqrt(x.shape[1]) for x in map(prepare, layers)]
        return np.ascontiguousarray(prepare(np.concatenate(unit, axis=1))[:, :2])


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
    aligned = np.stack([_unit(one) for one in maps])
    if not isinstance(reference, int | np.integer):
        target = np.asarray(reference, dtype=np.float64)
        if target.shape != maps.shape[1:]:
            raise UsageError(f"the reference has shape {target.shape}; needed {maps.shape[1:]}")
        return np.stack([_turned(one, _unit(target)) for one in aligned])
    _check("reference", reference, 0, len(maps) - 1)
    for i in range(reference + 1, len(maps)):
        aligned[i] = _turned(aligned[i], aligned[i - 1])
    for i in range(reference - 1, -1, -1):
        aligned[i] = _turned(aligned[i], aligned[i + 1])
    return aligned


def embed_many(
    features: Mapping[Any, Num[np.ndarray, "n _"]],
    method: str = "tsne",
    *,
    seed: int = 0,
    workers: int = 1,
    start: Num[np.ndarray, "n 2"] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[Any, Float32[np.ndarray, "n 2"]]:
    """Draw many layers of the same images, one map each, in `workers` processes at once.

    The same keys in the same order, and the same bits for any number of workers: each map takes
    one thread. Layers that are equal to the bit share the work of one map. IVIS enlarges the
    process it runs in by about 7 MB a map: with one worker that is this process, several are
    renewed after 32 maps each. `progress` is told the fraction of maps done; without it a bar
    shows up on stderr after two seconds. Raises UsageError as `embed` does, naming the key.

        maps = embed_many({"block1": a, "block2": b}, "ivis", workers=2)    # {"block1": ...}
    """
    _check_call(method, seed, options)
    _check("workers", workers, 1)
    for key, layer in features.items():
        with _naming(key):
            _checked(layer)
    if len({len(layer) for layer in features.values()}) > 1:
        counts = {key: len(layer) for key, layer in features.items()}
        raise UsageError(f"the layers must show the same images; given n = {counts}")
    draw = functools.partial(embed, method=method, seed=seed, start=start, **options)
    content = {key: np.asarray(layer).tobytes() for key, layer in features.items()}
    first = {those: key for key, those in reversed(content.items())}  # equal layers, one map
    maps = {}
    with _bar(len(first), TITLES[method], progress) as tell:
        for key, points in _drawn(draw, {key: features[key] for key in first.values()}, workers):
            maps[key] = points
            tell(len(maps))
    return {key: maps[first[content[key]]].copy() for key in features}


def _drawn(
    draw: Callable[..., np.ndarray], features: Mapping[Any, np.ndarray], workers: int
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield key and map as they get ready."""
    keys = list(features)
    workers = min(workers, len(keys))
    if workers <= 1:
        for key in keys:
            with _naming(key):
                points = draw(features[key])
            yield key, points
        return
    from joblib.externals.loky import ProcessPoolExecutor, as_completed

    single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    block = workers * MAPS_PER_WORKER
    for first in range(0, len(keys), block):
        with ProcessPoolExecutor(workers, env=single) as pool:
            jobs = {pool.submit(draw, features[key]): key for key in keys[first : first + block]}
            try:
                for job in as_completed(jobs):
                    with _naming(jobs[job]):
                        points = job.result()
                    yield jobs[job], points
            finally:
                for job in jobs:
                    job.cancel()


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _fit_ivis(
    layer: np.ndarray,
    seed: int,
    rate: float,
    progress: Progress,
    *,
    k: int,
    batch: int,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit IVIS once; return the map and the loss of each epoch."""
    tensorflow, package = _tensorflow()
    callbacks = tensorflow.keras.callbacks
    epochs = max(20, round(steps * batch / len(layer)))
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(layer)
    model = package(
        neighbour_matrix=search.kneighbors(return_distance=False),  # (n, k) without the row itself
        batch_size=batch,
        epochs=epochs,
        n_epochs_without_progress=epochs,
        callbacks=[
            callbacks.LearningRateScheduler(
                lambda epoch: float(rate * (1 + np.cos(np.pi * epoch / epochs)) / 2)
            ),
            callbacks.LambdaCallback(on_epoch_end=lambda e, _: progress((e + 1) / epochs)),
        ],
        verbose=0,
    )
    with _global_seed(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensorflow.random.set_seed(seed)
        points = model.fit_transform(layer)
        tensorflow.keras.backend.clear_session()
    return points, np.asarray(model.loss_history_)


@functools.cache
def _tensorflow() -> tuple[Any, Any]:
    """Import TensorFlow and ivis, once: silent, one thread, no GPU (it is torch's)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # a fifth faster on these small matrices
    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import tensorflow
            from ivis import Ivis
        except ImportError as problem:
            raise UsageError(f"method 'ivis' needs ivis and tensorflow: {problem}") from problem
        with suppress(RuntimeError):  # somebody used TensorFlow before: too late to set
            tensorflow.config.set_visible_devices([], "GPU")
            tensorflow.config.threading.set_intra_op_parallelism_threads(1)
            tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.zeros(1)  # the devices announce themselves at the first use
    return tensorflow, Ivis


@contextmanager
def _silence() -> Iterator[None]:
    """Close stderr at its file descriptor: TensorFlow's C++ start-up heeds no setting."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators, which ivis draws from, and put them back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _naming(key: Hashable) -> Iterator[None]:
    """Say in any error which map it was."""
    try:
        yield
    except UsageError as problem:
        raise UsageError(f"map of {key!r}: {problem}") from None
    except Exception as problem:
        raise RuntimeError(f"map of {key!r} failed: {problem}") from problem


@contextmanager
def _bar(total: int, title: str, progress: Progress | None) -> Iterator[Callable[[int], None]]:
    """Report how many of `total` maps are done: to `progress`, or as a bar on stderr."""
    if progress:
        yield lambda done: progress(done / total)
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"{title} maps", unit="map", delay=2) as bar:
        yield lambda done: bar.update(done - bar.n)


def _seldom(progress: Progress | None) -> Progress:
    """Pass on at most four reports a second, and none of the end: that is the caller's."""
    last = -np.inf

    def tell(fraction: float) -> None:
        nonlocal last
        if progress and fraction < 1 and time.monotonic() - last >= 0.25:
            last = time.monotonic()
            progress(float(fraction))

    return tell


def _check_call(method: str, seed: int, options: Mapping[str, Any]) -> None:
    one_of("method", method, EMBEDDERS)
    common = ("layer", "seed", "start", "progress")
    known = [o for o in inspect.signature(EMBEDDERS[method]).parameters if o not in common]
    for name in options:
        if not known:
            raise UsageError(f"method {method!r} has no options; given {name!r}")
        one_of(f"option of {method}", name, known)
    _check("seed", seed, 0, 2**32 - 1)


def _check(
    name: str,
    given: Any,
    low: int,
    high: int | float = np.inf,
    why: str = "",
    *,
    whole: bool = True,
) -> None:
    """Raise UsageError unless a number lies between low and high."""
    kinds = (int, np.integer) if whole else (int, float, np.number)
    if isinstance(given, bool) or not isinstance(given, kinds) or not low <= given <= high:
        kind = "a whole number" if whole else "a number"
        allowed = f"of at least {low}" if high == np.inf else f"between {low} and {high}"
        raise UsageError(f"{name} must be {kind} {allowed}{why}; given {given!r}")


def _checked(features: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Return the features as float64, or say what is wrong with them."""
    x = np.asarray(features)
    if x.dtype.kind not in "fiub":
        raise UsageError(f"features must be real numbers; given {x.dtype}")
    x = x.astype(np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 2:
        raise UsageError(f"features must be (n, d) with n and d at least 2; given {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise UsageError(f"features must be finite; {rows} of {len(x)} rows hold NaN or infinity")
    if (x == x[0]).all():
        raise UsageError(f"features must differ; all {len(x)} rows are equal")
    return x


def _scaled_start(start: np.ndarray, n: int, own: bool) -> Float[np.ndarray, "n 2"]:
    """Return the start centred, with a standard deviation of 1e-4 in its wider direction."""
    points = np.asarray(start[:, :2] if own else start, dtype=np.float64)
    if points.shape != (n, 2):  # openTSNE would make a map of as many dimensions as it is given
        raise UsageError(f"start must be of shape ({n}, 2); given {points.shape}")
    return _checked(points - points.mean(axis=0)) / points.std(axis=0).max() * 1e-4


def _unit(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return the map centred, with a root mean square distance of 1 from its centre."""
    x = _checked(points)
    x = x - x.mean(axis=0)
    return x / np.sqrt(np.square(x).sum(axis=1).mean())


def _turned(points: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Return the map rotated or mirrored onto the target."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)
