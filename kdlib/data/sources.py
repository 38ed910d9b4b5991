"""Decode images into one NumPy array, upright and without transparency; torchvision's sets."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from kdlib import UsageError
from kdlib.plan import source
from kdlib.plan.source import LARGEST, TORCHVISION

TEST_SHARE = 0.2  # of each class, where a source has no test images of its own
ORIENTATION = 0x0112  # the tag of EXIF that says how a photograph is turned
BEHIND = (255, 255, 255, 255)  # white, behind what is transparent

BAR = partial(tqdm, delay=2, mininterval=2, leave=False)

Picture = tuple[int, str, Callable[[], Any]]  # row, name, and what opens it as a PIL image


class Listing(NamedTuple):
    """The content of a source before any picture is decoded: training, test, then unlabelled."""

    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]  # of the training and test pictures
    counts: tuple[int, int, int]  # training, test and unlabelled pictures
    pictures: Callable[[], Iterable[Picture]]  # in any order
    flip: bool | None  # may be mirrored; None: where it has colours
    size: int | None = None  # the default side in pixels, where pictures come in many sizes
    drawn: bool = False  # the test images were drawn, by a seed
    own: bool = False  # images of the user's, of which nobody has published results
    notes: tuple[str, ...] = ()  # what was left out and decided, a line each


def held_out(labels: Int[np.ndarray, " n"], seed: int) -> np.ndarray:
    """Which images are for the test, drawn by `seed`: a fifth of every class, one at least."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for k in np.unique(labels):
        members = order[labels[order] == k]
        test[members[: max(1, round(TEST_SHARE * len(members)))]] = True
    return test


# Pictures


def decode(
    pictures: Iterable[Picture], count: int, size: int | None, grey: bool
) -> UInt8[np.ndarray, "n c h w"]:
    """Decode all pictures into one array: grey where all of them are, or where `grey` is set.

    A photograph is turned as its EXIF tag says, and what is transparent is laid on white: the
    colours under it are seen by nobody. Of an animation it is the first picture. With `size` the
    shorter side is brought to it and the middle is cut out; without, all have to be of one size.
    Raises UsageError, naming the file, for one that is not, or is damaged, and for more pixels
    than the memory holds.
    """
    stack, read, coloured, first = np.empty((0,)), np.zeros(count, dtype=bool), False, ""
    for row, name, open_picture in BAR(pictures, "reading images", count):
        pixels = _pixels(name, open_picture, size, grey)
        sides = pixels.shape[1:]
        if not first:
            if max(sides) > LARGEST:
                raise UsageError(f"{name}: more than {LARGEST} pixels wide or high: give a size")
            stack, first = _empty((count, 1 if grey else 3, *sides)), name
        if sides != stack.shape[2:]:
            this, other = (f"{w} x {h}" for h, w in (sides, stack.shape[2:]))
            raise UsageError(
                f"{name} is {this}, {first} is {other}: give a size, such as size=32, for all"
            )
        stack[row], read[row] = pixels, True
        coloured |= len(pixels) == 3
    if not read.all():
        raise UsageError(f"{(~read).sum()} of {count} images beside {first} have disappeared")
    return stack if coloured or grey else np.ascontiguousarray(stack[:, :1])


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """Room for all images. Raises UsageError where this machine has less memory."""
    needed, memory = math.prod(shape), math.inf
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on every system
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UsageError(
            f"{shape[0]:,} images of {shape[3]} x {shape[2]} pixels take {needed / 2**30:,.0f} GiB "
            f"of memory; allowed: up to {memory / 2**30:,.0f} GiB; give a smaller size"
        )
    return np.empty(shape, np.uint8)


def _pixels(
    name: str, open_picture: Callable[[], Any], size: int | None, grey: bool
) -> UInt8[np.ndarray, "c h w"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what it reads all the same
            image = _plain(open_picture(), grey)
    except UnidentifiedImageError:
        raise UsageError(f"{name}: no readable image (of no format that Pillow knows)") from None
    except Exception as error:  # whatever Pillow raises for a damaged file
        reason = re.sub(r"<[^>]*>", "the file", str(error)) or type(error).__name__
        raise UsageError(f"{name}: no readable image ({reason})") from None
    if size is not None:
        side, (w, h) = min(image.size), image.size
        box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _plain(image: Any, grey: bool) -> Any:
    """A picture in grey (L) or colours (RGB), upright, on white."""
    image = _upright(image)
    if image.mode.startswith("I;16"):  # 16 bits: the upper 8 of them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel; allowed: 8 or 16")
    grey |= image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BEHIND), image)
    return image.convert("L" if grey else "RGB")


def _upright(image: Any) -> Any:
    """The picture, turned as its EXIF tag says; as it is where that is missing or damaged."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # whatever Pillow raises for damaged tags of a sound picture
        image.load()
        return image
    return ImageOps.exif_transpose(image) if turned else image


# torchvision


def torchvision(name: str, seed: int) -> Listing:
    """One of torchvision's data sets, from its files below `root`, or downloaded to there."""
    facts = TORCHVISION[name]
    train, test, unlabelled = (
        [_part(name, options) for options in split]
        for split in (facts.train, facts.test, facts.unlabelled)
    )
    labels = np.concatenate([np.asarray(_labels(part), np.int64) for part in train + test])
    n_train = sum(map(len, train))
    order = np.arange(len(labels))
    if not test:
        is_test = held_out(labels, seed)
        order, n_train = np.argsort(is_test, kind="stable"), int((~is_test).sum())
    classes = getattr(train[0], "classes", None) or range(int(labels.max()) + 1)
    # of several names of a class (Imagenette's) the first
    classes = tuple(str(k[0] if isinstance(k, tuple) else k) for k in classes)
    counts = (n_train, len(labels) - n_train, sum(map(len, unlabelled)))

    def pictures() -> Iterator[Picture]:
        rows = iter([*np.argsort(order), *range(len(order), sum(counts))])
        for part in train + test + unlabelled:
            for i in range(len(part)):
                picture = partial(_picture, part, i, facts.transposed)
                yield int(next(rows)), f"{name}, image {i}", picture

    return Listing(classes, labels[order], counts, pictures, facts.flip, facts.size)


def _picture(part: Any, i: int, transposed: bool) -> Any:
    image = part[i][0]
    return image.transpose(Image.Transpose.TRANSPOSE) if transposed else image


def _part(name: str, options: dict[str, Any]) -> Any:
    from kdlib.vision import torchvision as library

    facts = TORCHVISION[name]
    make = partial(getattr(library.datasets, facts.kind), source.root(), **options)
    try:
        return make()
    except (RuntimeError, OSError):
        pass  # missing or incomplete
    try:
        return make(download=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{name}: not in {source.root() / facts.files}, and no download ({reason}); put its "
            "files there, or name the folder that holds them in KDLIB_DATA"
        ) from None


def _labels(part: Any) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(part, attribute):
            return getattr(part, attribute)
    return [label for _, label in part._samples]
