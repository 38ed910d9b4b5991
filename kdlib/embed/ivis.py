"""IVIS: a small siamese network learns the map, by the package or by our own batched engine."""

from __future__ import annotations

import functools
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from kdlib import UsageError, one_of
from kdlib.embed.prepare import check_number
from kdlib.embed.siamese import Fit, fit_batched
from kdlib.embed.workers import Progress, parallel
from kdlib.neighbours import nearest

MAPS_PER_BATCH = 8  # on the CPU, whatever the number of workers: the same bits
RATES = (1e-2, 3e-3)  # peak learning rates, the next one where the loss is not finite
ENGINES = {"torch": "torch", "package": "ivis"}  # engine -> its package


def ivis(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
    engine: str = "torch",
    k: int = 15,
    batch: int = 32,
    steps: int = 5000,
    rates: Sequence[Any] = RATES,
    labels: Any = None,
    supervision_weight: int | float = 0.5,
) -> list[Float32[np.ndarray, "n 2"]]:
    """Learn the map: a small siamese network, IVIS (Szubert et al. 2019).

    `engine` "package" is the reference, by its authors, one map after another; "torch" is our
    own of the same network and loss, many maps as one batch, on the GPU when there is one. Its
    quality is the same (layers block2 to logits of a kd student of the default study, n = 500,
    1,000 steps, 3 seeds of each: means of the map's k-NN accuracy differ by .008 at most, of
    trustworthiness by .004), in a third of the time, and where eight maps are made at once in
    about a sixth. Both depart from the package's defaults, which stop
    long before convergence: exact cosine neighbours (`k`, without the image itself), `batch`
    triplets a step, about `steps` steps whatever n (never below 20 epochs) with a cosine-annealed
    learning rate, no early stopping. `rates` are the peak rates, tried in turn until the loss
    stays finite. The starts are not used.

    With `labels` (n,) the package's network learns to separate classes, too, with that share of
    the loss: such a map shows any labels, shuffled ones as well, and is no evidence.

    IVIS cannot show early layers (2-D k-NN .25-.45 where t-SNE has .74-.84): say so beside the
    map. Raises UsageError unless 2 k < n, for labels of another engine or length, and when the fit
    ends in numbers that are not finite.
    """
    n = len(layers[0])
    check_ivis(
        n,
        engine=engine,
        k=k,
        batch=batch,
        steps=steps,
        rates=rates,
        labels=labels,
        supervision_weight=supervision_weight,
    )
    classes = _classes(labels, n, engine)
    batch = min(batch, n)
    epochs = max(20, round(steps * batch / n))
    fit_all = _fit_torch if engine == "torch" else _fit_package
    maps: dict[int, np.ndarray] = {}
    for rate in rates:
        fit = Fit(k, batch, epochs, float(rate), seed, classes, float(supervision_weight))
        todo = [i for i in range(len(layers)) if i not in maps]
        fitted = fit_all([layers[i] for i in todo], fit, workers, progress)
        maps |= {
            i: points for i, points in zip(todo, fitted, strict=True) if np.isfinite(points).all()
        }
        if len(maps) == len(layers):
            return [maps[i] for i in range(len(layers))]
    raise UsageError(
        f"IVIS ends in undefined numbers at every peak learning rate given, {tuple(rates)};"
        " allowed: rates at which the loss stays finite, such as 0.003"
    )


def check_ivis(
    n: int,
    *,
    engine: str = "torch",
    k: int = 15,
    batch: int = 32,
    steps: int = 5000,
    rates: Sequence[Any] = RATES,
    labels: Any = None,
    supervision_weight: int | float = 0.5,
) -> None:
    """Raise UsageError unless `ivis` can map n images by these options."""
    one_of("engine of ivis", engine, ENGINES)
    if n < 3:
        raise UsageError(f"IVIS needs at least 3 images; given n = {n}")
    check_number("k", k, 1, (n - 1) // 2, f" for n = {n} images")
    if not isinstance(rates, (list, tuple)) or not rates or not all(map(_is_rate, rates)):
        raise UsageError(f"rates {rates!r}; allowed: a list of learning rates above 0")
    check_number("batch", batch, 2)
    check_number("steps", steps, 1, 10_000_000)
    _classes(labels, n, engine)
    check_number("supervision_weight", supervision_weight, 0, 1, whole=False)


def _fit_torch(
    layers: Sequence[np.ndarray], fit: Fit, workers: int, progress: Progress
) -> list[np.ndarray]:
    """Fit all maps by our own engine: on the GPU at once, on the CPU in batches side by side."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = len(layers) if device == "cuda" else MAPS_PER_BATCH
    batches = [layers[i : i + size] for i in range(0, len(layers), size)]
    done = [0.0] * len(batches)  # maps

    def fit_batch(i: int) -> np.ndarray:
        torch.set_num_threads(1)  # each thread has a number of its own

        def report(fraction: float) -> None:
            done[i] = fraction * len(batches[i])
            progress(sum(done) / len(layers))

        return fit_batched(batches[i], fit, report, device)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers) as pool:
            return [points for maps in pool.map(fit_batch, range(len(batches))) for points in maps]
    finally:
        torch.set_num_threads(threads)


def _fit_package(
    layers: Sequence[np.ndarray], fit: Fit, workers: int, progress: Progress
) -> list[np.ndarray]:
    """Fit all maps by the package, one by one."""
    if len(layers) == 1:
        return [_fit_one(layers[0], fit=fit, progress=progress)]
    return parallel(functools.partial(_fit_one, fit=fit), layers, layers, workers, progress)


def _classes(labels: Any, n: int, engine: str) -> Int[np.ndarray, " n"] | None:
    """Number the classes from 0, as the package wants them."""
    if labels is None:
        return None
    if engine != "package" or np.shape(labels) != (n,):
        raise UsageError(
            f"labels {np.shape(labels)} with engine {engine!r}; allowed: ({n},) with 'package'"
        )
    return np.unique(labels, return_inverse=True)[1]


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _fit_one(
    layer: np.ndarray, start: Any = None, *, fit: Fit, progress: Progress = lambda fraction: None
) -> Float32[np.ndarray, "n 2"]:
    """Fit one map by the package. Its rows are shuffled: it forms its batches of contiguous ones.

    The global generators of `random` and numpy keep their state; TensorFlow's is seeded. Where
    the loss was not finite the map is not, either.
    """
    tensorflow, package = _tensorflow()
    callbacks = tensorflow.keras.callbacks
    order = np.random.default_rng(fit.seed).permutation(len(layer))
    model = package(
        neighbour_matrix=nearest(layer[order], fit.k, "cosine").rows,
        batch_size=fit.batch,
        epochs=fit.epochs,
        n_epochs_without_progress=fit.epochs,
        supervision_weight=fit.weight,
        callbacks=[
            callbacks.LearningRateScheduler(
                lambda epoch: float(fit.rate * (1 + np.cos(np.pi * epoch / fit.epochs)) / 2)
            ),
            callbacks.LambdaCallback(on_epoch_end=lambda e, _: progress((e + 1) / fit.epochs)),
        ],
        verbose=0,
    )
    with global_seed(fit.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensorflow.random.set_seed(fit.seed)
        points = model.fit_transform(
            layer[order], None if fit.labels is None else fit.labels[order]
        )
        tensorflow.keras.backend.clear_session()
    finite = np.isfinite(model.loss_history_).all()
    return points[np.argsort(order)] if finite else np.full_like(points, np.nan)


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
        with suppress(RuntimeError):  # TensorFlow was used before: too late to set
            tensorflow.config.set_visible_devices([], "GPU")
            tensorflow.config.threading.set_intra_op_parallelism_threads(1)
            tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.zeros(1)  # the devices announce themselves at the first use
    return tensorflow, Ivis


@contextmanager
def _silence() -> Iterator[None]:
    """Close stderr at its file descriptor: TensorFlow's C++ start-up heeds no setting."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators, which ivis draws from, and put them back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
