"""One layer of one network as every measure takes it: checked, centred, with its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError
from kdlib.neighbours import Neighbours, nearest

NEAREST = 20  # neighbours of every image that measures take


class Space:
    """The features of n images in one layer, with what several measures need computed once.

    Takes features (n, d) and labels (n,), and for the probes those of training images: (m, d) and
    (m,). `x` are the features as float64, centred; `y` the classes as 0 .. k - 1; the spectrum,
    the neighbours and the class means are computed at their first use. Without labels there is
    no `y`, and what needs it raises UsageError.

    Raises UsageError for values that are not finite, wrong lengths or widths, one class only, and
    features that are all equal.

        Space(test, y, train, t)            # then: metrics.measure(space), geometry.nc1(space)
    """

    def __init__(
        self,
        features: Num[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"] | None,
        train_features: Num[np.ndarray, "m d"] | None = None,
        train_labels: Int[np.ndarray, " m"] | None = None,
    ):
        if labels is None:
            self.raw, self._labels = finite("features", features), None
        else:
            self.raw, self._labels = checked(features, labels)  # (n, d), (n,)
        if (self.raw == self.raw[0]).all():
            raise UsageError(f"features must differ; all {len(self.raw)} rows are equal")
        self.x = self.raw - self.raw.mean(axis=0)
        self._train = None
        if train_features is not None and train_labels is not None:
            self._train = checked(train_features, train_labels, "training ")
            if self._train[0].shape[1] != self.x.shape[1]:
                raise UsageError(
                    f"training features have {self._train[0].shape[1]} columns; "
                    f"the features have {self.x.shape[1]}"
                )

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The labels as they were given. Raises UsageError where there are none."""
        if self._labels is None:
            raise UsageError("needs the label of every image; there are none")
        return self._labels

    @cached_property
    def classes(self) -> Int[np.ndarray, " k"]:
        """The distinct labels, sorted."""
        return np.unique(self.labels)

    @cached_property
    def y(self) -> Int[np.ndarray, " n"]:
        """The class of each image, as its number in `classes`."""
        return np.searchsorted(self.classes, self.labels)

    @property
    def trained(self) -> bool:
        """Are there training images, as the probes need?"""
        return self._train is not None

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training features (m, d) and labels (m,). Raises UsageError where there are none."""
        if self._train is None:
            raise UsageError("a probe needs training images; there are none")
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
        """The mean of each class, from the mean of all images."""
        sums = np.zeros((len(self.classes), self.x.shape[1]))
        np.add.at(sums, self.y, self.x)
        means: np.ndarray = sums / self.counts[:, None]
        return means

    @cached_property
    def within(self) -> Float[np.ndarray, "n d"]:
        """Every image, from the mean of its own class."""
        within: np.ndarray = self.x - self.means[self.y]
        return within

    @cached_property
    def apart(self) -> Float[np.ndarray, "k k"]:
        """Distances between class means, infinite from each to itself.

        Raises UsageError where two classes have one mean.
        """
        distances: np.ndarray = np.linalg.norm(self.means[:, None] - self.means[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        if distances.min() == 0:
            a, b = self.classes[np.argwhere(distances == 0)[0]]
            raise UsageError(f"class means must differ; those of {a} and {b} are equal")
        return distances

    @cached_property
    def spectrum(self) -> Float[np.ndarray, " r"]:
        """Eigenvalues of x'x from the largest down, min(n, d) of them, none below 0."""
        n, d = self.x.shape
        values = np.linalg.eigvalsh(self.x.T @ self.x if d <= n else self.x @ self.x.T)[::-1]
        return np.where(values < values[0] * 1e-14, 0.0, values)

    @cached_property
    def near(self) -> Neighbours:
        """The 20 nearest other images of each, or all there are: rows and Euclidean distances."""
        return nearest(self.x, min(NEAREST, len(self.x) - 1))

    @cached_property
    def distances(self) -> Float[np.ndarray, "p q"]:
        """Those distances among images that differ: of several that are equal, one counts."""
        distances = self.near.distances
        if distances[:, 0].min() == 0:
            single = np.unique(self.x, axis=0)
            least = min(NEAREST, len(single) - 1)
            distances = nearest(single, least).distances if least else distances[:0]
        return distances[distances[:, 0] > 0]


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


def finite(what: str, array: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Return (n, d) numbers as float64. Raises UsageError, naming `what`, for anything else."""
    x = np.asarray(array)
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
    """Return features as float64 and labels. Raises UsageError, naming what is wrong with them."""
    x, y = finite(f"{what}features", features), np.asarray(labels)
    if y.shape != (len(x),):
        raise UsageError(f"{what}labels must be ({len(x)},) as the features; given {y.shape}")
    if len(np.unique(y)) < 2:
        raise UsageError(f"{what}labels must hold at least two classes; given only {y[0]}")
    return x, y
