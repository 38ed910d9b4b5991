"""t-SNE of one layer, or of many in step: an image keeps its place between adjacent maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from kdlib import UsageError
from kdlib.embed.align import unit
from kdlib.embed.prepare import check_number
from kdlib.embed.workers import Progress

EXAGGERATED = 250  # iterations with early exaggeration
STEP = 10  # iterations between two couplings
FREE = 20  # last iterations, without coupling
EXACT = 8000  # images up to which the exact gradient is faster than Barnes-Hut's
ROWS = 64  # of the n x n weights in memory at one time


def tsne(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
    adjacent: Sequence[Sequence[int]] = (),
    coupling: int | float = 0.0,
    perplexity: int | float = 30,
    early_exaggeration: int | float = 12,
    iterations: int = 250,
) -> list[Float[np.ndarray, "n 2"]]:
    """Keep each image near its neighbours: t-SNE by openTSNE, exact neighbours and gradient.

    van der Maaten & Hinton 2008; Policar et al. 2024; above 8,000 images Barnes-Hut (van der
    Maaten 2014), which then is faster. 250 iterations with early exaggeration,
    then `iterations` without. Distances between far clusters and the sizes of clusters mean
    nothing. Uses no random numbers.

    Several maps advance in step, one thread each, `workers` at a time. After every 10 iterations
    but the last 20 each map is pulled towards its `adjacent` maps (`pulled`), given by number; a
    simple relative of Dynamic t-SNE (Rauber et al. 2016). Raises UsageError unless
    4 * perplexity <= n.
    """
    check_tsne(
        len(layers[0]),
        perplexity=perplexity,
        early_exaggeration=early_exaggeration,
        iterations=iterations,
    )
    stages = [
        *_blocks(EXAGGERATED, exaggeration=early_exaggeration, momentum=0.5),
        *_blocks(iterations, exaggeration=1, momentum=0.8),
    ]
    total, done = EXAGGERATED + iterations, 0
    with ThreadPoolExecutor(workers) as pool:
        maps = list(pool.map(lambda x, s: _embedding(x, s, perplexity), layers, starts))
        for stage in stages:
            list(pool.map(lambda y, stage=stage: y.optimize(**stage, inplace=True), maps))
            done += stage["n_iter"]
            if coupling and done <= total - FREE:
                for embedding, points in zip(maps, pulled(maps, adjacent, coupling), strict=True):
                    embedding[:] = points
            progress(done / total)
    return [np.asarray(embedding) for embedding in maps]


def check_tsne(
    n: int,
    *,
    perplexity: int | float = 30,
    early_exaggeration: int | float = 12,
    iterations: int = 250,
) -> None:
    """Raise UsageError unless `tsne` can map n images by these options."""
    if n < 4:
        raise UsageError(f"t-SNE needs at least 4 images; given n = {n}")
    check_number("perplexity", perplexity, 1, n // 4, f" for n = {n} images", whole=False)
    check_number("early_exaggeration", early_exaggeration, 1, whole=False)
    check_number("iterations", iterations, 1, 100_000)


def pulled(
    maps: Sequence[np.ndarray], adjacent: Sequence[Sequence[int]], coupling: int | float
) -> list[Float[np.ndarray, "n 2"]]:
    """Move each map a little towards the mean of its adjacent maps, image by image.

    z = s ((1 - coupling) u + coupling * mean of the adjacent u), where u is a map centred and
    scaled to a root mean square radius of 1, and s the map's own radius: no map grows or shrinks
    to fit another. A map without adjacent ones stays.
    """
    units = [unit(points) for points in maps]
    moved = []
    for points, own, others in zip(maps, units, adjacent, strict=True):
        z = np.asarray(points)
        radius = np.sqrt(np.square(z - z.mean(axis=0)).sum(axis=1).mean())
        mean = np.mean([units[i] for i in others], axis=0) if others else own
        moved.append(((1 - coupling) * own + coupling * mean) * radius)
    return moved


def _embedding(layer: np.ndarray, start: np.ndarray, perplexity: int | float) -> Any:
    """A map before its first iteration."""
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    affinities = PerplexityBasedNN(
        layer, perplexity=perplexity, method="exact", n_jobs=1, random_state=0
    )
    gradient = exact if len(layer) <= EXACT else "bh"
    return TSNEEmbedding(
        start.copy(), affinities, negative_gradient_method=gradient, n_jobs=1, random_state=0
    )


def exact(
    embedding: Float[np.ndarray, "n 2"], P: Any, **_: Any
) -> tuple[float, Float[np.ndarray, "n 2"]]:
    """The gradient of t-SNE without approximation (van der Maaten & Hinton 2008, eq. 5).

    `P` are openTSNE's affinities, sparse; the factor 4 is left to its learning rate. Returned
    after the divergence, which is not needed and given as 0.
    """
    from openTSNE import _tsne

    y = np.asarray(embedding)
    pull, (push, total) = np.zeros_like(y), repulsion(y)
    _tsne.estimate_positive_gradient_nn(P.indices, P.indptr, P.data, y, y, pull, 1)
    return 0.0, pull - push / total


def repulsion(y: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "n 2"], float]:
    """sum_j w_ij^2 (y_i - y_j), and the sum of all w_ij = 1 / (1 + |y_i - y_j|^2), i != j.

    The weights w are symmetric: half of them are computed, in blocks of rows that stay in the
    processor's cache, in single precision.
    """
    y = (y - y.mean(axis=0)).astype(np.float32)
    n, one = len(y), np.ones((len(y), 1), np.float32)
    size = np.square(y).sum(axis=1, keepdims=True)
    left, right = np.hstack([-2 * y, one, 1 + size]), np.hstack([y, size, one]).T.copy()
    z, sums, total = np.hstack([y, one]), np.zeros((n, 3), np.float32), 0.0
    buffer = np.empty(ROWS * n, np.float32)
    for a in range(0, n, ROWS):
        b = min(a + ROWS, n)
        w = buffer[: (b - a) * (n - a)].reshape(b - a, n - a)
        np.matmul(left[a:b], right[:, a:], out=w)  # 1 + squared distances
        np.reciprocal(w, out=w)
        total += 2 * float((w @ one[a:]).sum()) - float(w[:, : b - a].sum())
        np.square(w, out=w)
        sums[a:b] += w @ z[a:]
        sums[b:] += w[:, b - a :].T @ z[a:b]
    return (y * sums[:, 2:] - sums[:, :2]).astype(np.float64), total - n


def _blocks(iterations: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Cut a phase into blocks of 10 iterations; the last may be shorter."""
    for first in range(0, iterations, STEP):
        yield {"n_iter": min(STEP, iterations - first), **settings}
