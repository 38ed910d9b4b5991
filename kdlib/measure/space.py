"""One layer of one network as every measure takes it: checked, centred, its neighbours known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError

NEAREST = 20  # neighbours of every image that are kept
CHUNK = 1000  # rows whose distances are in memory at one time
SAME = 1e-12  # images whose squared distance is a smaller share of their size count as equal


class Space:
    """What one layer says of n images, worked out once for all measures.

    Takes features (n, d) and labels (n,), and for the probes those of training images: (m, d) and
    (m,). `x` are the features as float64, centred; `y` the classes as 0 .. k - 1; the spectrum,
    the neighbours and the class means are worked out when first asked for, and kept.

    Raises UsageError for values that are not finite, wrong lengths or widths, one class only, and
    features that are all equal.

        Space(test, y, train, t)            # then: metrics.measure(space), geometry.nc1(space)
    """

    def __init__(
        self,
        features: Num[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"],
        train_features: Num[np.ndarray, "m d"] | None = None,
        train_labels: Int[np.ndarray, " m"] | None = None,
    ):
        self.raw, self.labels = checked(features, labels)  # (n, d), (n,)
        if (self.raw == self.raw[0]).all():
            raise UsageError(f"features must differ; all {len(self.raw)} rows are equal")
        self.x = self.raw - self.raw.mean(axis=0)
        self.classes, self.y = np.unique(self.labels, return_inverse=True)
        self._train = None
        if train_features is not None and train_labels is not None:
            self._train = checked(train_features, train_labels, "training ")
            if self._train[0].shape[1] != self.x.shape[1]:
                raise UsageError(
                    f"training features have {self._train[0].shape[1]} columns; "
                    f"the features have {self.x.shape[1]}"
                )

    @property
    def trained(self) -> bool:
        """Are there training images, as the probes need?"""
        return self._train is not None

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training features (m, d) and labels (m,). Raises UsageError where there are none."""
        if self._train is None:
            raise UsageError("a probe asks training images; this space was given none")
        return self._train

    @cached_property
    def counts(self) -> Int[np.ndarray, " k"]:
        """Images of each class. Raises UsageError where a class has one image only."""
        counts = np.bincount(self.y)
        if counts.min() < 2:
            lone = self.classes[counts.argmin()]
            raise UsageError(f"every class needs two images; class {lone} has one")
        return counts

    @cached_property
    def means(self) -> Float[np.ndarray, "k d"]:
        """The mean of each class, seen from the mean of all images."""
        sums = np.zeros((len(self.classes), self.x.shape[1]))
        np.add.at(sums, self.y, self.x)
        return sums / self.counts[:, None]

    @cached_property
    def within(self) -> Float[np.ndarray, "n d"]:
        """Every image seen from the mean of its own class."""
        return self.x - self.means[self.y]

    @cached_property
    def apart(self) -> Float[np.ndarray, "k k"]:
        """Distances between class means, infinite from each to itself.

        Raises UsageError where two classes have one mean.
        """
        far = np.linalg.norm(self.means[:, None] - self.means[None], axis=2)
        np.fill_diagonal(far, np.inf)
        if far.min() == 0:
            a, b = self.classes[np.argwhere(far == 0)[0]]
            raise UsageError(f"class means must differ; those of {a} and {b} are equal")
        return far

    @cached_property
    def spectrum(self) -> Float[np.ndarray, " r"]:
        """Eigenvalues of x'x from the largest down, min(n, d) of them, none below 0."""
        n, d = self.x.shape
        values = np.linalg.eigvalsh(self.x.T @ self.x if d <= n else self.x @ self.x.T)[::-1]
        return np.where(values < values[0] * 1e-14, 0.0, values)

    @cached_property
    def near(self) -> tuple[Int[np.ndarray, "n q"], Float[np.ndarray, "n q"]]:
        """The 20 nearest other images of each, or all there are: rows and Euclidean distances."""
        return _neighbours(self.x)

    @cached_property
    def distances(self) -> Float[np.ndarray, "p q"]:
        """Those distances among images that differ: of several that are equal, one counts."""
        far = self.near[1]
        if far[:, 0].min() == 0:
            single = np.unique(self.x, axis=0)
            far = _neighbours(single)[1] if len(single) > 1 else far[:0]
        return far[far[:, 0] > 0]


def _neighbours(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = np.square(x).sum(axis=1)
    q = min(NEAREST, len(x) - 1)
    parts = [_nearest(x, size, i, q) for i in range(0, len(x), CHUNK)]
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def _nearest(x: np.ndarray, size: np.ndarray, start: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(start, min(start + CHUNK, len(x)))
    both = size[rows, None] + size
    square = both - 2 * x[rows] @ x.T
    square[square < SAME * both] = 0
    square[np.arange(len(rows)), rows] = np.inf
    some = np.sort(np.argpartition(square, q - 1, axis=1)[:, :q], axis=1)
    far = np.take_along_axis(square, some, axis=1)
    order = far.argsort(axis=1, kind="stable")  # equal distances: by row number
    return np.take_along_axis(some, order, 1), np.sqrt(np.take_along_axis(far, order, 1))


def spaces(
    test: Mapping[str, np.ndarray],
    labels: Int[np.ndarray, " n"],
    train: Mapping[str, np.ndarray],
    train_labels: Int[np.ndarray, " m"],
) -> dict[str, Space]:
    """The spaces of a network, by layer, from its features by layer.

    Raises UsageError as `Space`, naming the layer.
    """
    made = {}
    for layer, features in test.items():
        try:
            made[layer] = Space(features, labels, train[layer], train_labels)
        except UsageError as problem:
            raise UsageError(f"{layer}: {problem}") from None
    return made


def finite(what: str, given: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Return (n, d) numbers as float64. Raises UsageError, naming `what`, for anything else."""
    x = np.asarray(given)
    if x.dtype.kind not in "fiub":
        raise UsageError(f"{what} must be real numbers; given {x.dtype}")
    x = x.astype(np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise UsageError(f"{what} must be (n, d) with n and d at least 1; given {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise UsageError(f"{what} must be finite; {rows} of {len(x)} rows hold NaN or infinity")
    return x


def checked(
    features: np.ndarray, labels: np.ndarray, what: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float64 and labels, or say what is wrong with them."""
    x, y = finite(f"{what}features", features), np.asarray(labels)
    if y.shape != (len(x),):
        raise UsageError(f"{what}labels must be ({len(x)},) as the features; given {y.shape}")
    if len(np.unique(y)) < 2:
        raise UsageError(f"{what}labels must hold at least two classes; given only {y[0]}")
    return x, y
