"""Numbers about two layers and the same images: how similar are their representations?

All are free of scale and of rotation, and of the two widths; a student's layer is compared with
its teacher's. Canonical correlations (SVCCA, PWCCA) are left out: .94 for pure noise at n = d.
What each cannot be trusted for is its `pitfall` in `metrics.MEASURES`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from kdlib import UsageError
from kdlib.measure.space import Space

SHARED = 10  # nearest neighbours of each image that two layers may share
RANKED = 1000  # images whose distances RSA ranks
ROUNDING = 1e-12  # of a sum of squares, that is 0 but for rounding


def cka(student: Space, teacher: Space, *, debiased: bool = True) -> float:
    """Centred kernel alignment, linear: do two layers place images alike?

    HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) with Song et al.'s unbiased HSIC of the linear
    kernels: a cosine, in [-1, 1], higher is more alike, 0 for unrelated layers, 1 for the same
    up to scale and rotation. Without `debiased`, ||X'Y||^2 / (||X'X|| ||Y'Y||), in [0, 1]. Raises
    UsageError for fewer than 4 images or unequal numbers of them.
    """
    _check(student, teacher, 4)
    both, own, other = (
        _hsic(a, b, debiased)
        for a, b in ((student, teacher), (student, student), (teacher, teacher))
    )
    sizes = (float(np.square(space.x).sum()) ** 2 for space in (student, teacher))
    if any(value <= ROUNDING * size for value, size in zip((own, other), sizes, strict=True)):
        raise UsageError("cka needs layers that vary in more than one image")
    return float(both / np.sqrt(own * other))


def matrix(
    student: Mapping[str, Space], teacher: Mapping[str, Space]
) -> dict[tuple[str, str], float]:
    """Debiased CKA of every layer of one network with every layer of another: (own, other)."""
    return {(a, b): cka(x, y) for a, x in student.items() for b, y in teacher.items()}


def procrustes(student: Space, teacher: Space) -> float:
    """How well the best rotation lays one layer on the other: the nuclear norm of X'Y.

    Both centred and of norm 1; in [0, 1], higher is more alike. Raises UsageError for unequal
    numbers of images.
    """
    _check(student, teacher, 2)
    x, y = (s.x / np.linalg.norm(s.x) for s in (student, teacher))
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum())


def mutual_knn(student: Space, teacher: Space) -> float:
    """Mean share of an image's ten nearest in one layer that are among its ten in the other.

    Euclidean distance after centring. In [0, 1], higher is more alike, 10 / (n - 1) by chance. No
    far image can move it. Raises UsageError for n <= 10 or unequal numbers of images.
    """
    _check(student, teacher, SHARED + 1)
    a, b = (s.near.rows[:, :SHARED] for s in (student, teacher))
    return float((a[:, :, None] == b[:, None, :]).sum() / a.size)


def rsa(student: Space, teacher: Space) -> float:
    """Do two layers agree on which images are far apart? Rank correlation of all distances.

    Spearman's rho of the Euclidean distances of all pairs, among at most 1,000 images evenly
    spaced in the sample. In [-1, 1], higher is more alike. Raises UsageError for fewer than 3
    images, unequal numbers of them, or distances that are all equal.
    """
    _check(student, teacher, 3)
    a, b = _ranks(student), _ranks(teacher)
    if not a.any() or not b.any():
        raise UsageError("rsa needs distances that differ")
    return float(a @ b)


def agreement(student: Space, teacher: Space) -> float:
    """Share of images whose class two networks predict alike, right or wrong.

    Of their logits only, the largest of which is the prediction. In [0, 1], higher is more alike.
    Raises UsageError for unequal numbers of images or of classes.
    """
    _check(student, teacher, 1)
    a, b = student.raw, teacher.raw
    if a.shape != b.shape:
        raise UsageError(f"agreement needs equally many logits; given {a.shape[1]}, {b.shape[1]}")
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def _check(student: Space, teacher: Space, least: int) -> None:
    n, m = len(student.x), len(teacher.x)
    if n != m:
        raise UsageError(f"two layers must be of the same images; given {n} and {m}")
    if n < least:
        raise UsageError(f"similarity needs at least {least} images; given {n}")


def _hsic(a: Space, b: Space, debiased: bool) -> float:
    """HSIC up to a factor that CKA divides out, of centred features, so without n x n matrices.

    With K = XX' without its diagonal, Song et al. 2012, eq. 5: tr(KL) + 1'K1 1'L1 / ((n - 1)(n -
    2)) - 2 / (n - 2) 1'KL1. Centred, K1 = -diag(XX').
    """
    both = np.square(a.x.T @ b.x).sum()
    if not debiased:
        return float(both)
    n, own, other = len(a.x), np.square(a.x).sum(axis=1), np.square(b.x).sum(axis=1)
    pairs = own.sum() * other.sum() / ((n - 1) * (n - 2))
    return float(both - own @ other * n / (n - 2) + pairs)


def _ranks(space: Space) -> Float[np.ndarray, " p"]:
    """The ranks of all distances, centred and of norm 1, or 0 where all are equal."""
    from scipy.spatial.distance import pdist

    step = -(-len(space.x) // RANKED)
    ranks = ranked(pdist(space.x[::step]))
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length else ranks


def ranked(values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Ranks from 1, equal values sharing their mean, as SciPy's `rankdata` to the last bit.

    Ours, for it takes 2.3 times as long, and these ranks are what takes most time of all measures
    (`benchmarks/measures.py`).
    """
    order = values.argsort()
    rising = values[order]
    first = np.flatnonzero(np.r_[True, rising[1:] != rising[:-1], True])  # of each run of equals
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((first[:-1] + first[1:] + 1) / 2, np.diff(first))
    return ranks
