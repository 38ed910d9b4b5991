"""Images as one tensor on the device, label budgets, and batches that come augmented."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from kdlib import UsageError, __version__, one_of, sources
from kdlib.augment import AUGMENTATIONS, cutout, mirrored, randaugment, reach, shifted
from kdlib.sources import Listing

Level = float | tuple[float, ...]  # one for all channels, or one for each


class Constants(NamedTuple):
    """What images are normalised by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Images(NamedTuple):
    """One data set, whole: a uint8 tensor per split, kept on the device that trains."""

    name: str
    train: UInt8[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"]
    test: UInt8[Tensor, "m c h w"]
    test_labels: Int[Tensor, " m"]
    classes: tuple[str, ...]
    shift: int  # augmentation: largest shift in pixels, each way
    flip: bool  # augmentation: mirror left and right
    pool: UInt8[Tensor, "u c h w"] = torch.empty(0, 1, 1, 1, dtype=torch.uint8)  # never labelled
    constants: Constants | None = None  # published ones; without, of the training images

    @property
    def mean(self) -> Level:
        """Mean value of the training images in [0, 1], or what `constants` say."""
        return self.constants.mean if self.constants else _moments(self.train)[0] / 255

    @property
    def std(self) -> Level:
        """Standard deviation of the training images' values, or what `constants` say."""
        return self.constants.std if self.constants else _moments(self.train)[1] / 255

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all images, labels, and published constants."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_labels, self.test, self.test_labels, self.pool):
            digest.update(tensor.cpu().contiguous().numpy().data)
        if self.constants:
            digest.update(repr(self.constants).encode())
        return digest.hexdigest()[:16]

    def take(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """The images of these rows: first the training images are counted, then the pool."""
        if not len(self.pool):
            return self.train[rows]
        n = len(self.train)
        known, beyond = self.train[rows.clamp(max=n - 1)], self.pool[(rows - n).clamp(min=0)]
        return torch.where((rows < n)[:, None, None, None], known, beyond)

    def to(self, device: str | torch.device) -> Images:
        """The same data set on another device."""
        moved = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]


CONSTANTS: dict[str, Constants | None] = {  # mean and standard deviation by channel, in [0, 1]
    "data": None,  # one of each, of all bytes of the training images
    "imagenet": Constants((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision, akamaster
    "cifar10": Constants((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": Constants((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "kuangliu": Constants((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # chenyaofo, too
}


def _moments(x: UInt8[Tensor, "n c h w"]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample) of all bytes, by whole numbers: exact, small."""
    counts = torch.bincount(x.flatten(), minlength=256).tolist()
    n = sum(counts)
    first, second = (sum(v**power * count for v, count in enumerate(counts)) for power in (1, 2))
    return first / n, math.sqrt((n * second - first**2) / (n * max(1, n - 1)))


class Batch(NamedTuple):
    """What one step sees: labelled images first, then images of the pool without their labels."""

    x: Float[Tensor, "b c h w"]  # normalised, augmented
    y: Int[Tensor, " l"]  # the labels of the first l images
    rows: Int[Tensor, " b"]  # of Images.train, and after those of Images.pool
    strong: Float[Tensor, "b c h w"] | None = None  # the same, under RandAugment and cutout


def _digits(name: str, seed: int) -> Listing:
    """scikit-learn's digits: 1,797 scanned digits of 8 x 8 pixels, 50 of each class to test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16 * 255).round().astype(np.uint8)
    held = np.zeros(len(pixels), dtype=bool)
    held[budget(torch.from_numpy(bunch.target), 50, seed=0).numpy()] = True
    order = np.argsort(held, kind="stable")
    found = [
        (row, f"digit {i}", partial(Image.fromarray, pixels[i])) for row, i in enumerate(order)
    ]
    counts = (int((~held).sum()), int(held.sum()), 0)
    return Listing(
        tuple(map(str, bunch.target_names)), bunch.target[order], counts, lambda: found, False
    )


DATASETS: dict[str, Callable[[str, int], Listing]] = {
    "digits": _digits,
    **dict.fromkeys(sources.TORCHVISION, sources.torchvision),
}


def load(
    name: str,
    *,
    size: int | None = None,
    grey: bool = False,
    normalise: str = "data",
    seed: int = 0,
) -> Images:
    """Read a data set of `DATASETS`, or the images of `folder:<path>` (a folder or an archive).

    `size` brings the shorter side to so many pixels and cuts out the middle; `grey` drops the
    colours; `normalise` names published `CONSTANTS`; `seed` draws the test images where a source
    has none of its own. After the first read it is one memory-mapped file in KDLIB_CACHE (default:
    kdlib in the user's cache), which is read again when the source has changed. Raises
    UsageError: a name not in there, or bad images.
    """
    one_of("normalise", normalise, CONSTANTS)
    images = _load(name, size, grey, seed)._replace(constants=CONSTANTS[normalise])
    if images.constants and len(images.constants.mean) != images.train.shape[1]:
        raise UsageError(f"normalise {normalise!r} of grey images; allowed: data")
    return images


def _load(name: str, size: int | None, grey: bool, seed: int) -> Images:
    read: Callable[[str, int], Listing] = sources.folder
    if not name.startswith("folder:"):
        one_of("data set", name, [*DATASETS, "folder:<path>"])
        read = DATASETS[name]
    if size is not None and not 4 <= size <= sources.LARGEST:
        raise UsageError(f"size {size}; allowed: 4 to {sources.LARGEST} pixels")
    if name == "digits":
        return _read(read(name, seed), sources.place(name, size, grey), size, grey)
    kept = _kept(name, size, grey, seed)
    if (images := _recall(kept)) is None:
        listing = read(name, seed)  # may download
        kept = _kept(name, size, grey, seed)
        images = _read(listing, sources.place(name, size, grey), size, grey)
        _keep(images, kept)
        images = _recall(kept) or images
    return images


def _read(listing: Listing, name: str, size: int | None, grey: bool) -> Images:
    """Decode all images of a listing, once, into one tensor; its parts are views of that."""
    pixels = sources.pile(listing.pictures(), sum(listing.counts), size or listing.size, grey)
    train, test, pool = torch.from_numpy(pixels).split(listing.counts)
    train_labels, test_labels = torch.from_numpy(listing.labels).long().split(listing.counts[:2])
    flip = pixels.shape[1] == 3 if listing.flip is None else listing.flip
    shift = reach(min(pixels.shape[2:]))
    return Images(name, train, train_labels, test, test_labels, listing.classes, shift, flip, pool)


# The cache: one file per data set and way to read it, written whole or not at all.


def _kept(name: str, size: int | None, grey: bool, seed: int) -> Path:
    """The file that keeps a data set as its source is now."""
    paths = [sources.path_of(name)]
    if name in sources.TORCHVISION:
        paths = sorted(sources.root().glob(sources.TORCHVISION[name].files))
    place = sources.place(name, size, grey)
    digest = hashlib.sha256(repr((__version__, place, seed)).encode())
    for path in paths:
        for told in sources.state(path):
            digest.update(repr(told).encode())
    return sources.cache() / f"{place}-{digest.hexdigest()[:16]}.safetensors"


def _keep(images: Images, file: Path) -> None:
    tensors = {k: v.numpy() for k, v in images._asdict().items() if isinstance(v, Tensor)}
    rest = {k: json.dumps(v) for k, v in images._asdict().items() if not isinstance(v, Tensor)}
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, rest)
        part.chmod(0o644)  # safetensors leaves files that only their owner can read
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{file}: cannot be written ({error}); KDLIB_CACHE names another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _recall(file: Path) -> Images | None:
    """Map a kept file into memory; nothing where there is none, or none that can be read."""
    with contextlib.suppress(FileNotFoundError, SafetensorError), safe_open(file, "pt") as kept:
        rest = {k: json.loads(v) for k, v in kept.metadata().items()}
        tensors = {k: kept.get_tensor(k) for k in kept.keys()}  # noqa: SIM118
        return Images(**tensors, **rest | {"classes": tuple(rest["classes"])})
    return None


def budget(
    labels: Int[Tensor, " n"], per_class: int | str, seed: int, classes: tuple[str, ...] = ()
) -> Int[Tensor, " l"]:
    """Choose which images keep their label: `per_class` of every class, drawn by `seed`.

    Budgets of one seed are nested: the 2 of a class are among its 5. "all" keeps every label.
    Returns sorted rows. Raises UsageError below 1 or above what the smallest class has, and calls
    that by its name in `classes`.
    """
    if per_class == "all":
        return torch.arange(len(labels))
    counts = torch.bincount(labels.cpu())
    if not isinstance(per_class, int) or not 1 <= per_class <= int(counts.min()):
        smallest = int(counts.argmin())
        raise UsageError(
            f"labels_per_class {per_class!r}; allowed: 'all' or 1 to {int(counts.min())}, what the "
            f"smallest class has: {classes[smallest] if classes else smallest}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = [order[labels.cpu()[order] == k][:per_class] for k in range(len(counts))]
    return torch.cat(chosen).sort().values


def sample(labels: Int[Tensor, " n"], size: int) -> Int[Tensor, " m"]:
    """A fixed, stratified sample: about `size` images, the same share of every class.

    The same rows for every network and seed, so that all are looked at through the same images.
    """
    if not 0 < size <= len(labels):
        raise UsageError(f"sample {size}; allowed: 1 to {len(labels)} images")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rank = torch.empty(len(labels))  # in [0, 1) within the image's own class
    for k in labels.cpu().unique():
        own = order[labels.cpu()[order] == k]
        rank[own] = torch.arange(len(own)) / len(own)
    return rank.argsort(stable=True)[:size].sort().values


class _Stream:
    """An endless walk through some rows, every row once per round, each with its augmentation.

    All draws are made on the CPU, those of the order and of the set's own augmentation a round at
    a time, so they are the same on every device and nothing waits for the device inside a round.
    """

    def __init__(
        self,
        images: Images,
        rows: Tensor,
        *,
        size: int,
        seed: int,
        augment: tuple[str, ...] | None,
    ):
        self.images, self.rows, self.size = images, rows, min(size, len(rows))
        self.augment = augment
        self.generator, self.named, self.hard = (
            torch.Generator().manual_seed(seed + start) for start in (0, 10**9, 2 * 10**9)
        )
        self.queue: list[tuple[Tensor, Tensor, Tensor]] = []

    def _round(self) -> None:
        n, device, g = len(self.rows), self.images.train.device, self.generator
        largest = self.images.shift
        order = self.rows[torch.randperm(n, generator=g)].to(device)
        by = torch.randint(-largest, largest + 1, (n, 2), generator=g).to(device)
        mirror = (torch.rand(n, generator=g) < 0.5).to(device)
        sizes = [self.size] * (n // self.size) + [n % self.size] * (n % self.size > 0)
        if sizes[-1] == 1 and n > 1:  # a batch of one has no spread for BatchNorm
            sizes[-2:] = [sizes[-2] + 1]
        parts = (t.split(sizes) for t in (order, by, mirror))
        self.queue = list(zip(*parts, strict=True))

    def draw(self, strong: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """The next images, their rows, and the images changed strongly where that is asked for."""
        if not self.queue:
            self._round()
        index, by, mirror = self.queue.pop(0)
        x = self.images.take(index)
        if self.augment is None:
            x = shifted(x, by, self.images.shift) if self.images.shift else x
            x = mirrored(x, mirror) if self.images.flip else x
        for name in self.augment or ():
            x = AUGMENTATIONS[name](x, self.named)
        return x, index, cutout(randaugment(x, self.hard), self.hard) if strong else None


@dataclass
class Batches:
    """The batches of one run. Iterating once is one epoch: as many steps as the whole set needs.

    A step holds up to `size` labelled images, and with `pool` another `size` of all training
    images and of the set's unlabelled ones, their labels withheld. Where every image is labelled
    the pool adds nothing and is left out. Labelled images and pool are drawn by generators of
    their own, so that two runs of one seed see the same labelled images in the same order, with
    or without the pool. `augment` names augmentations, in order, that replace the set's own shift
    and flip; `strong` adds the same images under RandAugment and cutout, and changes no other.
    """

    images: Images
    labelled: Int[Tensor, " l"]  # rows of images.train, from `budget`
    size: int
    seed: int
    pool: bool = True
    augment: tuple[str, ...] | None = None  # of AUGMENTATIONS
    strong: bool = False

    def __post_init__(self) -> None:
        for name in self.augment or ():
            one_of("augmentation", name, AUGMENTATIONS)
        n = len(self.images.train) + len(self.images.pool)
        self.steps = -(-n // self.size)
        self._mean, self._std = self.images.mean, self.images.std
        streams = [self.labelled]
        if self.pool and len(self.labelled) < n:
            streams.append(torch.arange(n))
        options = {"size": self.size, "augment": self.augment}
        self._streams = [
            _Stream(self.images, rows, seed=2 * self.seed + i, **options)  # type: ignore[arg-type]
            for i, rows in enumerate(streams)
        ]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.steps):
            x, rows, strong = zip(*(s.draw(self.strong) for s in self._streams), strict=True)
            y = self.images.train_labels[rows[0]]
            yield Batch(
                normalised(torch.cat(x), self._mean, self._std),
                y,
                torch.cat(rows),
                normalised(torch.cat(strong), self._mean, self._std) if self.strong else None,
            )


def normalised(x: UInt8[Tensor, "b c h w"], mean: Level, std: Level) -> Float[Tensor, "b c h w"]:
    """Bytes to numbers: (x / 255 - mean) / std, by one mean and spread or by those of a channel."""
    if isinstance(mean, float) and isinstance(std, float):
        return (x.float() / 255 - mean) / std
    level, spread = (torch.tensor(v, device=x.device).reshape(-1, 1, 1) for v in (mean, std))
    return (x.float() / 255 - level) / spread
