"""Images as one tensor on the device, label budgets, and batches that come augmented."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from kdlib import UsageError, __version__, one_of
from kdlib.data import sources
from kdlib.data.augment import reach
from kdlib.data.sources import Listing
from kdlib.plan.source import Source, cache

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
    unlabelled: UInt8[Tensor, "u c h w"] = torch.empty(
        0, 1, 1, 1, dtype=torch.uint8
    )  # never labelled
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
        for tensor in (self.train, self.train_labels, self.test, self.test_labels, self.unlabelled):
            digest.update(tensor.cpu().contiguous().numpy().data)
        if self.constants:
            digest.update(repr(self.constants).encode())
        return digest.hexdigest()[:16]

    def take(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """The images of these rows: first the training images are counted, then the unlabelled ones."""
        if not len(self.unlabelled):
            return self.train[rows]
        n = len(self.train)
        known, beyond = self.train[rows.clamp(max=n - 1)], self.unlabelled[(rows - n).clamp(min=0)]
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


def _digits() -> Listing:
    """scikit-learn's digits: 1,797 scanned digits of 8 x 8 pixels, 50 of each class to test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16 * 255).round().astype(np.uint8)
    held = np.zeros(len(pixels), dtype=bool)
    held[budget(torch.from_numpy(bunch.target), 50, seed=0).numpy()] = True
    order = np.argsort(held, kind="stable")
    pictures = [
        (row, f"digit {i}", partial(Image.fromarray, pixels[i])) for row, i in enumerate(order)
    ]
    counts = (int((~held).sum()), int(held.sum()), 0)
    return Listing(
        tuple(map(str, bunch.target_names)), bunch.target[order], counts, lambda: pictures, False
    )


def load(source: Source | str = "digits", *, seed: int = 0) -> Images:
    """Read the images of a source; a name or a path stands for `Source` of it.

    `seed` draws the test images where a source has none of its own. After the first read it is one
    memory-mapped file in KDLIB_CACHE (default: kdlib in the user's cache), which is read again
    when the source has changed. Raises UsageError for bad images.
    """
    if isinstance(source, str):
        source = Source(source)
    one_of("normalise", source.normalise, CONSTANTS)
    images = _load(source, seed)._replace(constants=CONSTANTS[source.normalise], name=source.name)
    if images.constants and len(images.constants.mean) != images.train.shape[1]:
        raise UsageError(f"normalise {source.normalise!r} of grey images; allowed: data")
    return images


def _load(source: Source, seed: int) -> Images:
    if source.dataset == "digits":
        return _read(_digits(), source)
    file = _cache_file(source, seed)
    if (images := _recall(file)) is None:
        listing = _listing(source, seed)  # may download
        file = _cache_file(source, seed)
        images = _read(listing, source)
        _remember(images, file)
        images = _recall(file) or images
    return images


def _listing(source: Source, seed: int) -> Listing:
    if source.path is not None:
        return sources.folder(source.path, seed)
    return sources.torchvision(source.dataset, seed)


def _read(listing: Listing, source: Source) -> Images:
    """Decode all images of a listing, once, into one tensor; its parts are views of that."""
    size = source.size or listing.size
    pixels = sources.decode(listing.pictures(), sum(listing.counts), size, source.grey)
    train, test, unlabelled = torch.from_numpy(pixels).split(listing.counts)
    train_labels, test_labels = torch.from_numpy(listing.labels).long().split(listing.counts[:2])
    flip = pixels.shape[1] == 3 if listing.flip is None else listing.flip
    shift = reach(min(pixels.shape[2:]))
    labels = train_labels, test_labels
    return Images("", train, labels[0], test, labels[1], listing.classes, shift, flip, unlabelled)


# The cache: one file per data set and way to read it, written whole or not at all.


def _cache_file(source: Source, seed: int) -> Path:
    """The file that holds a data set as its source is now."""
    how = (__version__, source.dataset, source.size, source.grey, seed, source.listing)
    digest = hashlib.sha256(repr(how).encode()).hexdigest()[:16]
    stem = source.path.stem if source.path else source.dataset
    return cache() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stem)[:40]}-{digest}.safetensors"


def _remember(images: Images, file: Path) -> None:
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
    """Map a file of the cache into memory; None where there is none, or none that can be read."""
    with contextlib.suppress(FileNotFoundError, SafetensorError), safe_open(file, "pt") as held:
        rest = {k: json.loads(v) for k, v in held.metadata().items()}
        tensors = {k: held.get_tensor(k) for k in held.keys()}  # noqa: SIM118
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
