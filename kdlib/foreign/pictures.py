"""The images that networks are looked at with: which they are, their labels, the sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8
from PIL import Image

from kdlib import UsageError
from kdlib.plan.look import LEAST, MOST, SAMPLE
from kdlib.plan.strata import stratified

THUMBNAIL = 64  # side in pixels of the images that are shown, at most
SHEET = 16_383  # pixels by side of a WebP file, at most
COLUMNS = 40  # images in a row of the sheet (`kdlib.store`)


class Pictures(NamedTuple):
    """The images of a look, and what is known of them."""

    images: np.ndarray | None  # (n, c, h, w), bytes, or numbers as networks take them
    labels: Int[np.ndarray, " n"] | None
    classes: tuple[str, ...]
    name: str = "images"
    train: np.ndarray | None = None  # (m, c, h, w): for the probes
    train_labels: Int[np.ndarray, " m"] | None = None
    moments: tuple[float, float] | None = None  # mean and deviation of the training images
    whole: int = 0  # how many there were before some were taken

    def take(self, rows: Int[np.ndarray, " m"], whole: int) -> Pictures:
        """Some of the images, of so many."""
        return self._replace(
            whole=whole,
            images=None if self.images is None else self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    @property
    def hash(self) -> str:
        """What tells these images and labels apart from others."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels, self.train, self.train_labels):
            if array is not None:
                digest.update(str((array.shape, array.dtype)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def given(
    images: Any, labels: Any, classes: Sequence[Any] | None = None, *, n: int | None = None
) -> Pictures:
    """Images and labels from memory or a file of features: arrays, tensors or lists.

    Images are (n, h, w), (n, h, w, c) or (n, c, h, w) of 1 or 3 channels: bytes, or numbers that
    networks take as they are. Labels are whole numbers from 0 or names, or one-hot (n, classes).
    `n` is how many there have to be. Raises UsageError.
    """
    array = None if images is None else _images(array_of("images", images))
    n = len(array) if n is None and array is not None else n
    if array is not None and len(array) != n:
        raise UsageError(f"{len(array)} images beside features of {n}; allowed: as many")
    classes = None if classes is None else [*map(str, classes)]
    if classes is not None and len({*classes}) < len(classes):
        raise UsageError(f"classes {classes[:8]}; allowed: names that differ")
    if labels is None:
        return Pictures(array, None, tuple(classes or ()))
    values = array_of("labels", labels)
    if values.ndim == 2 and values.shape[1] == 1:  # as Keras has them
        values = values[:, 0]
    elif values.ndim == 2:
        columns = values.shape[1]
        values = _of_one_hot(values)
        classes = [*map(str, range(columns))] if classes is None else classes
        if len(classes) != columns:
            raise UsageError(f"one-hot labels of {columns} classes, names of {len(classes)}; "
                             "allowed: as many")  # fmt: skip
        print("labels: one-hot, read as the index of the 1")
    numbers, names = _labels(values, classes)
    if n is not None and numbers.shape != (n,):
        raise UsageError(f"labels are {numbers.shape}, of {n} images; allowed: ({n},)")
    if len(np.unique(numbers)) < 2:
        raise UsageError("labels are all of one class; allowed: of two or more, or no labels")
    return Pictures(array, numbers, names)


def plain(values: Any) -> Any:
    """A tensor of any library as NumPy reads it; of numbers that NumPy lacks, as float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return values


def array_of(what: str, values: Any) -> np.ndarray:
    """Values of any library as an array; objects that are all whole numbers are such.

    Raises UsageError for lists of unequal lengths, and for masked values.
    """
    if np.ma.is_masked(values):
        raise UsageError(f"{what}: some are masked; allowed: a value for every image")
    try:
        array = np.asarray(plain(values))
    except ValueError:  # lists of unequal lengths
        raise UsageError(f"{what} are of unequal lengths; allowed: an array") from None
    numbers = array.dtype == object and all(
        isinstance(value, int | np.integer) for value in array.ravel()
    )
    return array.astype(np.int64) if numbers else array


def _of_one_hot(values: np.ndarray) -> Int[np.ndarray, " n"]:
    """Labels of one-hot rows (n, classes). Raises UsageError for rows that are none."""
    if values.dtype.kind in "biuf":
        ones = values == 1
        if (ones.sum(axis=1) == 1).all() and (values[~ones] == 0).all():
            return ones.argmax(axis=1)
    raise UsageError(
        f"labels are {values.shape}, and not each row is a single 1 among 0; allowed: (n,), or "
        "one-hot (n, classes)"
    )


def _images(x: np.ndarray) -> np.ndarray:
    shape = x.shape
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise UsageError(
            f"images are {shape}; allowed: (n, h, w), (n, h, w, c) or (n, c, h, w), of 1 or 3 "
            "channels"
        )
    if x.dtype == bool:
        return x.astype(np.uint8) * 255
    if x.dtype.kind in "iu":
        if x.min() < 0 or x.max() > 255:
            raise UsageError(
                f"images hold whole numbers from {x.min()} to {x.max()}; allowed: 0 to 255"
            )
        return x.astype(np.uint8)
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        raise UsageError(f"images must be finite numbers; given {x.dtype}, or NaN or infinity")
    return x.astype(np.float32)


def _labels(
    labels: np.ndarray, classes: Sequence[str] | None
) -> tuple[Int[np.ndarray, " n"], tuple[str, ...]]:
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind in "OUST":
        if pd.isna(labels).any():
            raise UsageError("labels: some are missing; allowed: one for every image")
        values = np.array([str(label) for label in labels.ravel()]).reshape(labels.shape)
        if classes is None:
            names, numbers = np.unique(values, return_inverse=True)
            return numbers.reshape(labels.shape).astype(np.int64), tuple(map(str, names))
        unknown = sorted({*values.ravel().tolist()} - {*classes})
        if unknown:
            raise UsageError(f"label {unknown[0]!r}; allowed: one of the classes that are given")
        place = {name: i for i, name in enumerate(classes)}
        return np.array([place[value] for value in values.tolist()]), tuple(classes)
    whole = labels.dtype.kind in "biu" or (
        labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels % 1 == 0).all()
    )
    if not whole or (labels.size and labels.min() < 0):
        raise UsageError(
            f"labels are {labels.dtype}, some not whole, missing or below 0; allowed: whole "
            "numbers from 0, or names"
        )
    numbers = labels.astype(np.int64)
    most = int(numbers.max(initial=-1)) + 1
    if classes is not None and len(classes) < most:
        raise UsageError(f"label {most - 1} of {len(classes)} classes; allowed: 0 to "
                         f"{len(classes) - 1}")  # fmt: skip
    if most > MOST:
        raise UsageError(f"label {most - 1}; allowed: 0 to {MOST - 1}")
    return numbers, tuple(map(str, range(most))) if classes is None else tuple(classes)


def rows(n: int, labels: Int[np.ndarray, " n"] | None, size: int | None) -> Int[np.ndarray, " m"]:
    """Which images are looked at: `size` of n, the same share of every class (`stratified`).

    Without a size 1,000, or all there are. Raises UsageError for a size above n, and for fewer
    than 20 images.
    """
    if n < LEAST:
        raise UsageError(f"{n} images; allowed: {LEAST} or more")
    if size is not None and size > n:
        raise UsageError(f"sample {size}; allowed: {LEAST} to {min(n, MOST):,} images")
    size = min(n, SAMPLE) if size is None else size
    order = np.random.default_rng(0).permutation(n)
    if labels is None or size == n:
        return np.sort(order[:size])
    return stratified(labels, order, size)


def thumbnails(images: np.ndarray | None) -> UInt8[np.ndarray, "n h w c"]:
    """Images to be shown: bytes, small enough for all of them on one sheet; none without images."""
    if images is None:
        return np.zeros((0, 1, 1, 1), np.uint8)
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        images = ((images - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    n, c, h, w = images.shape
    most = min(THUMBNAIL, SHEET // COLUMNS, SHEET // -(-n // COLUMNS))
    shrink = min(1.0, most / max(h, w))
    if shrink == 1:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    size = max(1, round(w * shrink)), max(1, round(h * shrink))
    shown = np.empty((n, size[1], size[0], c), np.uint8)
    for i, image in enumerate(images):
        tile = Image.fromarray(image[0] if c == 1 else image.transpose(1, 2, 0))
        pixels = np.asarray(tile.resize(size, Image.Resampling.LANCZOS))
        shown[i] = pixels[..., None] if c == 1 else pixels
    return shown
