"""IVIS: a small siamese network learns the map, by the package or by our own batched engine."""

from __future__ import annotations

import functools
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from kdlib import UsageError, one_of
from kdlib.embed.prepare import COMPONENTS, check
from kdlib.embed.workers import each
from kdlib.neighbours import nearest

WIDTHS = (128, 128, 128)  # of the package's network "szubert"
DROPOUT = 0.1
SLOPE = -1.7580993408473766  # of SELU far below zero: its scale times alpha, negative
TOGETHER = 8  # maps of one batch on the CPU, whatever the number of workers: the same bits
AHEAD = 50  # steps whose triplets are made at one time
ENGINES = ("torch", "package")

Progress = Callable[[float], None]


class Fit(NamedTuple):
    """How IVIS is fitted."""

    k: int
    batch: int
    epochs: int
    rate: float  # the peak of a cosine schedule
    seed: int
    labels: Any = None  # whole numbers from 0, where the fit is told classes
    weight: float = 0.0  # of the classes in the loss


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
    rates: Sequence[Any] = (1e-2, 3e-3),
    labels: Any = None,
    supervision_weight: int | float = 0.5,
) -> list[Float32[np.ndarray, "n 2"]]:
    """Learn the map: a small siamese network, IVIS (Szubert et al. 2019).

    `engine` "package" is the reference, by its authors, one map after another; "torch" is our
    own of the same network and loss, many maps as one batch, on the GPU when there is one. Its
    quality is the same (layers block2 to logits of a kd student of the default study, n = 500,
    1,000 steps, 3 seeds of each: means of the map's k-NN accuracy differ by .008 at most, of
    trustworthiness by .004), in a third of the time, and where eight maps are drawn at once in
    about a sixth. Both depart from the package's defaults, which stop
    long before convergence: exact cosine neighbours (`k`, without the image itself), `batch`
    triplets a step, about `steps` steps whatever n (never below 20 epochs) with a cosine-annealed
    learning rate, no early stopping. `rates` are the peak rates, tried in turn until the loss
    stays finite. The starts are not used.

    With `labels` (n,) the package's network learns to tell classes, too, that much of the loss
    being about them: such a map shows any labels, shuffled ones as well, and is no evidence.

    IVIS cannot show early layers (2-D k-NN .25-.45 where t-SNE has .74-.84): say so beside the
    map. Raises UsageError unless 2 k < n, for labels of another engine or length, and when the fit
    ends in numbers that are not finite.
    """
    n = len(layers[0])
    one_of("engine of ivis", engine, ENGINES)
    if n < 3:
        raise UsageError(f"IVIS needs at least 3 images; given n = {n}")
    check("k", k, 1, (n - 1) // 2, f" for n = {n} images")
    if not isinstance(rates, (list, tuple)) or not rates or not all(_is_rate(r) for r in rates):
        raise UsageError(f"rates {rates!r}; allowed: a list of learning rates above 0")
    check("batch", batch, 2)
    check("steps", steps, 1)
    told = _classes(labels, n, engine)
    check("supervision_weight", supervision_weight, 0, 1, whole=False)
    batch = min(batch, n)
    draw = _draw_batched if engine == "torch" else _draw_each
    maps: list[Any] = [None] * len(layers)
    todo = list(range(len(layers)))
    for rate in rates:
        epochs = max(20, round(steps * batch / n))
        fit = Fit(k, batch, epochs, float(rate), seed, told, float(supervision_weight))
        drawn = draw([layers[i] for i in todo], fit, workers, progress)
        for i, points in zip(todo, drawn, strict=True):
            maps[i] = points
        todo = [i for i in todo if not np.isfinite(maps[i]).all()]
        if not todo:
            return maps
    raise UsageError(
        f"IVIS ends in undefined numbers at every peak learning rate given, {tuple(rates)};"
        " allowed: rates at which the loss stays finite, such as 0.003"
    )


def _draw_batched(
    layers: Sequence[np.ndarray], fit: Fit, workers: int, progress: Progress
) -> list[np.ndarray]:
    """Fit all maps by our own engine: on the GPU at once, on the CPU in batches side by side."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = len(layers) if device == "cuda" else TOGETHER
    parts = [layers[i : i + size] for i in range(0, len(layers), size)]
    done = [0.0] * len(parts)

    def draw(i: int) -> np.ndarray:
        torch.set_num_threads(1)  # each thread has a number of its own

        def tell(fraction: float) -> None:
            done[i] = fraction * len(parts[i]) / len(layers)
            progress(sum(done))

        return fit_batched(parts[i], fit, tell, device)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers) as pool:
            return [points for part in pool.map(draw, range(len(parts))) for points in part]
    finally:
        torch.set_num_threads(threads)


def _draw_each(
    layers: Sequence[np.ndarray], fit: Fit, workers: int, progress: Progress
) -> list[np.ndarray]:
    """Fit all maps by the package, one by one."""
    if workers == 1 and len(layers) == 1:
        return [_fit_package(layers[0], None, fit, progress)]
    return each(functools.partial(_fit_package, fit=fit), layers, layers, workers, progress)


def _classes(labels: Any, n: int, engine: str) -> Any:
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


def neighbours(layer: Float32[np.ndarray, "n d"], k: int) -> Int[np.ndarray, "n k"]:
    """Find the k exact nearest neighbours by cosine, without the image itself."""
    return nearest(layer, k, "cosine").rows


def fit_batched(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    fit: Fit,
    progress: Callable[[float], None],
    device: str = "cpu",
) -> Float32[np.ndarray, "m n 2"]:
    """Fit the IVIS maps of many layers at once, as batched matrix products, in PyTorch.

    The package's network and loss (Szubert et al. 2019), Adam with a cosine-annealed rate. All
    maps share the random numbers: first weights, triplets and dropout, so a map is the same in
    every company. Departs from the package in the triplets: each draws its own neighbour, not each
    batch; and its negative is another anchor of the batch, which the network has seen already.
    """
    import torch

    steps = fit.epochs * -(-len(layers[0]) // fit.batch)
    x = np.zeros((len(layers), len(layers[0]), COMPONENTS), np.float32)
    for i, layer in enumerate(layers):
        x[i, :, : layer.shape[1]] = layer
    data = torch.as_tensor(x, device=device)
    near = torch.as_tensor(np.stack([neighbours(one, fit.k) for one in layers]), device=device)
    weights = [w.to(device).requires_grad_() for w in _weights([a.shape[1] for a in layers], fit)]
    adam = torch.optim.Adam(weights, lr=fit.rate, eps=1e-7, fused=True)
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    chance = torch.Generator(device).manual_seed(fit.seed)
    draws = [drawn.to(device) for drawn in _pairs(near.shape[1], steps, fit)]
    triplets = chain.from_iterable(
        zip(*_triplets(near, *some), strict=True)
        for some in zip(*(drawn.split(AHEAD) for drawn in draws), strict=True)
    )
    flat = data.flatten(0, 1)
    for step, (rows, others) in enumerate(triplets):
        shown = flat.index_select(0, rows.flatten()).view(len(layers), -1, COMPONENTS)
        loss = _loss(_network(shown, weights, chance), others)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        annealed.step()
        progress((step + 1) / steps)
    with torch.no_grad():
        return _network(data, weights, None).cpu().numpy()


def _weights(widths: Sequence[int], fit: Fit) -> list[Any]:
    """First weights and biases of each layer of the network, a map in each row.

    LeCun normal, cut off at two standard deviations; Glorot uniform for the last. The same
    numbers for every map, scaled by the number d of its components.
    """
    import torch

    chance = torch.Generator().manual_seed(fit.seed)
    weights = []
    sizes = (COMPONENTS, *WIDTHS, 2)
    for i, (a, b) in enumerate(pairwise(sizes)):
        fan = (
            torch.tensor([float(d) for d in widths])
            if i == 0
            else torch.full((len(widths),), float(a))
        )
        w = torch.empty(a, b)
        if i < len(WIDTHS):
            torch.nn.init.trunc_normal_(
                w, std=1 / 0.8796, a=-2 / 0.8796, b=2 / 0.8796, generator=chance
            )
            weights.append(w / fan[:, None, None] ** 0.5)
        else:
            torch.nn.init.xavier_uniform_(w, generator=chance)
            weights.append(w.repeat(len(widths), 1, 1))
        weights.append(torch.zeros(len(widths), 1, b))
    return weights


def _network(x: Any, weights: Sequence[Any], chance: Any) -> Any:
    """Send (m, b, 50) through m networks to (m, b, 2); with dropout where `chance` is given."""
    import torch

    for i in range(len(WIDTHS)):
        x = torch.selu(torch.baddbmm(weights[2 * i + 1], x, weights[2 * i]))
        if chance is not None and i < len(WIDTHS) - 1:
            lost = torch.rand(x.shape[1:], generator=chance, device=x.device) < DROPOUT
            scale = ((1 - DROPOUT) * (1 + DROPOUT * SLOPE**2)) ** -0.5
            lost = scale * lost.float()
            x = torch.addcmul(SLOPE * (lost - scale * DROPOUT), x, scale - lost)
    return torch.baddbmm(weights[-1], x, weights[-2])


def _loss(points: Any, others: Any) -> Any:
    """Sum over maps of mean max(0, d(a, p) - d + 1), d both d(a, n) and d(p, n).

    `points` (m, 2 b, 2) are anchors and positives; `others` (m, b) says which anchor is each
    triplet's negative.
    """
    import torch

    a, p = points.chunk(2, dim=1)
    n = a.gather(1, others[..., None].expand_as(a))
    far = torch.stack([_distance(a, n), _distance(p, n)])
    return (_distance(a, p) - far + 1).clamp_min(0).mean((0, 2)).sum()


def _distance(a: Any, b: Any) -> Any:
    return (a - b).square().sum(-1).clamp_min(1e-7).sqrt()


def _pairs(n: int, steps: int, fit: Fit) -> tuple[Any, Any]:
    """Draw the anchors of each step, each image once an epoch, and their positives' ranks."""
    import torch

    chance = torch.Generator().manual_seed(fit.seed)
    rounds = -(-steps * fit.batch // n)
    order = torch.cat([torch.randperm(n, generator=chance) for _ in range(rounds)])
    anchors = order[: steps * fit.batch].view(steps, fit.batch)
    return anchors, torch.randint(fit.k, (steps, fit.batch), generator=chance)


def _triplets(near: Any, anchors: Any, ranks: Any) -> tuple[Any, Any]:
    """Make (s, b) anchors and ranks the triplets of s steps of m maps.

    Gives rows (s, m, 2 b) of anchors and positives among all rows of the m maps one below the
    other, and negatives (s, m, b), as places in the batch: the first of the four next anchors
    that is no neighbour.
    """
    import torch

    m, n, _ = near.shape
    s, b = anchors.shape
    mine = near[:, anchors]  # (m, s, b, k)
    positive = mine.gather(3, ranks.expand(m, s, b)[..., None])[..., 0]
    places = torch.arange(b, device=near.device)
    negative = places.roll(-1).expand_as(positive)
    for shift in (4, 3, 2, 1):
        tried = anchors.roll(-shift, 1)
        wrong = (mine == tried[..., None]).any(3) | (tried == anchors)
        negative = torch.where(wrong, negative, places.roll(-shift))
    rows = torch.cat([anchors.expand(m, s, b), positive], 2)
    rows = rows + n * torch.arange(m, device=near.device)[:, None, None]
    return rows.transpose(0, 1), negative.transpose(0, 1)


def _fit_package(
    layer: np.ndarray, start: Any, fit: Fit, progress: Progress | None = None
) -> Float32[np.ndarray, "n 2"]:
    """Fit one map by the package. Its rows are shuffled: it forms its batches of contiguous ones.

    The global generators of `random` and numpy are left as they were found; TensorFlow's is
    seeded. Where the loss was not finite the map is not, either.
    """
    tensorflow, package = _tensorflow()
    callbacks = tensorflow.keras.callbacks
    order = np.random.default_rng(fit.seed).permutation(len(layer))
    tell = progress or (lambda fraction: None)
    model = package(
        neighbour_matrix=neighbours(layer[order], fit.k),
        batch_size=fit.batch,
        epochs=fit.epochs,
        n_epochs_without_progress=fit.epochs,
        supervision_weight=fit.weight,
        callbacks=[
            callbacks.LearningRateScheduler(
                lambda epoch: float(fit.rate * (1 + np.cos(np.pi * epoch / fit.epochs)) / 2)
            ),
            callbacks.LambdaCallback(on_epoch_end=lambda e, _: tell((e + 1) / fit.epochs)),
        ],
        verbose=0,
    )
    with _global_seed(fit.seed), warnings.catch_warnings():
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
