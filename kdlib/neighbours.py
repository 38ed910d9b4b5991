"""The nearest neighbours of points: one exact search, and the ranks of all distances.

Ours rather than scikit-learn's, whose searches order equal distances by chance: here they go to the
lower row, so that a table of neighbours is the same on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError, one_of

METRICS = ("euclidean", "cosine")
MEMORY = 2**26  # bytes of distances in memory at one time
SAME = 1e-12  # a squared distance that is a smaller share of its points' squared lengths is 0
DIGITS = 12  # to which cosine distances in double precision are compared


class Neighbours(NamedTuple):
    """The k nearest of each point, the nearest first: their rows and their distances."""

    rows: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def nearest(
    points: Num[np.ndarray, "n d"],
    k: int,
    metric: str = "euclidean",
    *,
    among: Num[np.ndarray, "m d"] | None = None,
) -> Neighbours:
    """Find the k nearest neighbours of each point among the other points, or `among` others.

    Exact; equal distances go to the lower row. Points that differ by rounding only are at the
    Euclidean distance 0; cosine distances are those of the numbers as they are given, not
    centred, and that of a point at 0, which has no direction, is 1 from all. Raises UsageError
    for an unknown metric and unless 1 <= k <= m (without `among`, k < n).

        nearest(features, 15, "cosine").rows               # (n, 15), never the image itself
    """
    one_of("metric", metric, METRICS)
    others = points if among is None else among
    most = len(others) - 1 if among is None else len(others)
    if not 1 <= k <= most:
        raise UsageError(f"k must be between 1 and {most} for n = {len(others)}; given {k}")
    if metric == "euclidean":
        centre = others.mean(axis=0, dtype=np.float64)
        points, others = points - centre, others - centre
    distance = _squares if metric == "euclidean" else _cosines
    parts = []
    for rows in blocks(len(points), len(others)):
        distances = distance(points[rows], others)
        if among is None:
            np.fill_diagonal(distances[:, rows], np.inf)
        parts.append(_smallest(distances, k))
    columns, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Neighbours(columns, np.sqrt(distances) if metric == "euclidean" else distances)


def ranks(points: Num[np.ndarray, "n d"], rows: slice = slice(None)) -> Int[np.ndarray, "b n"]:
    """Rank all points by their Euclidean distance from each: 0 itself, 1 the nearest, ... n - 1.

    From those of `rows` only, where all would need too much memory. Equal distances are ranked by
    row number.
    """
    x = points - points.mean(axis=0, dtype=np.float64)
    distances = _squares(x[rows], x)
    np.fill_diagonal(distances[:, rows], -1)
    order = distances.argsort(axis=1, kind="stable").astype(np.int32)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(len(x), dtype=np.int32)[None], axis=1)
    return places


def blocks(n: int, m: int) -> list[slice]:
    """Slices of n rows, each of so many that their distances from m points fit into MEMORY."""
    size = max(1, MEMORY // (8 * m))
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def _squares(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n m"]:
    """Squared Euclidean distances of centred points."""
    sizes = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    squares: np.ndarray = sizes - 2 * a @ b.T
    squares[squares < SAME * sizes] = 0
    return squares


def _cosines(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n m"]:
    from sklearn.metrics.pairwise import cosine_distances

    distances: np.ndarray = cosine_distances(a, b)
    return distances.round(DIGITS) if distances.dtype == np.float64 else distances


def _smallest(values: Float[np.ndarray, "n m"], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the k smallest values of each row, in order, and those values."""
    columns = np.sort(np.argpartition(values, k - 1, axis=1)[:, :k], axis=1)
    smallest = np.take_along_axis(values, columns, axis=1)
    order = smallest.argsort(axis=1, kind="stable")
    columns = np.take_along_axis(columns, order, axis=1)
    tied = (values <= smallest.max(axis=1, keepdims=True)).sum(axis=1) > k  # with the k + 1-st
    columns[tied] = values[tied].argsort(axis=1, kind="stable")[:, :k]
    return columns, np.take_along_axis(values, columns, axis=1)
