"""A data set as one tensor per split: read from its source, cached, and its label budgets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from kdlib import UsageError, __version__, printable
from kdlib.data import folders, members, sources
from kdlib.data.augment import largest_shift
from kdlib.data.sources import Listing, Picture
from kdlib.plan.source import PREFIX, Source, cache, folder_name
from kdlib.plan.strata import stratified

READING = 3  # counts how images are read; of another number the cache is made again
LEAKED = 0.1  # of the test images may be training images in a split that is given
LEAST = 20  # test images without which layers are not measured and mapped
SHOWN = 20  # classes that a summary lists


class Images(NamedTuple):
    """A whole data set: a uint8 tensor per split, on the device that trains."""

    name: str  # of its source: digits, birds-1f3a9c2e+size=32
    train: UInt8[Tensor, "n c h w"]
    train_labels: Int[Tensor, " n"]
    test: UInt8[Tensor, "m c h w"]
    test_labels: Int[Tensor, " m"]
    classes: tuple[str, ...]
    shift: int  # augmentation: largest shift in pixels, each way
    flip: bool  # augmentation: mirror left and right
    unlabelled: UInt8[Tensor, "u c h w"] = torch.empty(0, 1, 1, 1, dtype=torch.uint8)
    notes: tuple[str, ...] = ()  # what was left out and decided when it was read, a line each

    @property
    def mean(self) -> float:
        """Mean of the training images' values in [0, 1], of all channels alike."""
        return moments(self.train)[0]

    @property
    def std(self) -> float:
        """Standard deviation of the training images' values in [0, 1], of all channels alike."""
        return moments(self.train)[1]

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all images and labels."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_labels, self.test, self.test_labels, self.unlabelled):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def summary(self) -> str:
        """What was read, in some lines: sizes, images of every class, what was left out and why."""
        colours = "grey" if self.train.shape[1] == 1 else "colour"
        height, width = self.train.shape[2:]
        k = len(self.classes)
        counts = [
            torch.bincount(labels.cpu(), minlength=k).tolist()
            for labels in (self.train_labels, self.test_labels)
        ]
        lines = [
            f"{self.name}: {k:,} classes, {width} x {height} pixels, {colours}",
            f"{len(self.train):,} training, {len(self.test):,} test, {len(self.unlabelled):,} "
            "unlabelled images",
            "training  test  class",
        ]
        for train, test, name in list(zip(*counts, self.classes, strict=True))[:SHOWN]:
            lines.append(f"{train:8,}  {test:4,}  {printable(name)}")
        if k > SHOWN:
            most = (" to ".join(f"{n:,}" for n in sorted({min(c), max(c)})) for c in counts)
            lines.append(
                "... and {:,} more; {} training, {} test images each".format(k - SHOWN, *most)
            )
        return "\n".join([*lines, *map(printable, self.notes)])

    def take(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """The images of these rows, which count the training images, then the unlabelled ones."""
        if not len(self.unlabelled):
            return self.train[rows]
        n = len(self.train)
        train = self.train[rows.clamp(max=n - 1)]
        unlabelled = self.unlabelled[(rows - n).clamp(min=0)]
        return torch.where((rows < n)[:, None, None, None], train, unlabelled)

    def to(self, device: str | torch.device) -> Images:
        """The same data set on another device."""
        moved = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]


def moments(x: UInt8[Tensor, "n c h w"]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample) of bytes as values in [0, 1], from exact sums."""
    counts = torch.bincount(x.flatten(), minlength=256).tolist()
    n = sum(counts)
    first, second = (sum(v**power * count for v, count in enumerate(counts)) for power in (1, 2))
    deviation = math.sqrt((n * second - first**2) / (n * max(1, n - 1)))
    return first / n / 255, deviation / 255


def _digits() -> Listing:
    """scikit-learn's digits: 1,797 scans of 8 x 8 pixels, 50 of each class for the test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16 * 255).round().astype(np.uint8)
    test = np.zeros(len(pixels), dtype=bool)
    test[budget(torch.from_numpy(bunch.target), 50, seed=0).numpy()] = True
    order = np.argsort(test, kind="stable")
    pictures = [
        (row, f"digit {i}", partial(Image.fromarray, pixels[i])) for row, i in enumerate(order)
    ]
    classes = tuple(map(str, bunch.target_names))
    counts = (int((~test).sum()), int(test.sum()), 0)
    return Listing(classes, bunch.target[order], counts, lambda: pictures, flip=False)


PACKAGED = {"digits": _digits}  # small sets that come with a package and need no cache


def load(source: Source | str | Path = "digits", *, seed: int = 0) -> Images:
    """Read the images of a source; a name or a path stands for the `Source` made of it.

    `seed` draws the test images where a source has none of its own. After the first read a source
    is one memory-mapped file in KDLIB_CACHE (default: kdlib in the user's cache), which is made
    again when the source has changed. Of that, `train_images` of the source are taken, the same
    for every seed. Raises UsageError for images that cannot be read, and for more `train_images`
    than there are or fewer than classes.

    >>> load(Source("birds.zip", size=32)).train.shape
    torch.Size([5000, 3, 32, 32])
    """
    if not isinstance(source, Source):
        source = Source(str(source))
    images = _load(source, seed)._replace(name=source.name)
    if source.path is None and Path(source.dataset).exists():
        note = (
            f"the published data set, not ./{source.dataset}; {PREFIX}{source.dataset} reads that"
        )
        images = images._replace(notes=(*images.notes, note))
    n = len(images.train)
    if source.train_images is None or source.train_images == n:
        return images
    if not len(images.classes) <= source.train_images < n:
        raise UsageError(
            f"train_images {source.train_images}; allowed: {len(images.classes)} to {n:,}, the "
            f"training images of {source.name}"
        )
    rows = sample(images.train_labels, source.train_images)
    return images._replace(train=images.train[rows], train_labels=images.train_labels[rows])


def _load(source: Source, seed: int) -> Images:
    if source.dataset in PACKAGED:
        return _read(PACKAGED[source.dataset](), source)
    images = _from_cache(_cache_file(source, seed))
    if images is None:
        listing = _listing(source, seed)
        file = _cache_file(source, seed)  # after a download the source has files
        images = _read(listing, source)
        _to_cache(images, file)
        images = _from_cache(file) or images
    return images


def _listing(source: Source, seed: int) -> Listing:
    if source.path is not None:
        return folders.listing(source.path, seed)
    return sources.torchvision(source.dataset, seed)


def _read(listing: Listing, source: Source) -> Images:
    """Decode all images of a listing into one tensor; the splits are views of it."""
    size = source.size or listing.size
    names: dict[int, str] = {}

    def pictures() -> Iterator[Picture]:
        for row, name, open_picture in listing.pictures():
            names[row] = name
            yield row, name, open_picture

    pixels = sources.decode(pictures(), sum(listing.counts), size, source.grey)
    train, test, unlabelled = torch.from_numpy(pixels).split(listing.counts)
    train_labels, test_labels = torch.from_numpy(listing.labels).long().split(listing.counts[:2])
    images = Images(
        name="",
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        classes=listing.classes,
        shift=largest_shift(min(pixels.shape[2:])),
        flip=pixels.shape[1] == 3 if listing.flip is None else listing.flip,
        unlabelled=unlabelled,
        notes=listing.notes,
    )
    for part, x in (("training", train), ("test", test)):
        if (x == x[:1]).all():
            raise UsageError(
                f"{source.dataset}: all {len(x):,} {part} images are equal, so that nothing can be "
                "learnt or measured; allowed: images that differ"
            )
    return _apart(images, names, drawn=listing.drawn) if listing.own else images


def _apart(images: Images, names: Mapping[int, str], *, drawn: bool) -> Images:
    """Keep test images apart from all others, by their pixels.

    Where the test was drawn, copies of its images are left out of the others. A split that is
    given stays as it is, and what it shares is noted. Raises UsageError where that is more than a
    tenth of the test images, and for a class without other images.
    """
    test = {digest: row for row, digest in enumerate(_digests(images.test), len(images.train))}
    digests = {part: _digests(getattr(images, part)) for part in ("train", "unlabelled")}
    copies = {
        part: torch.tensor([digest in test for digest in each], dtype=torch.bool)
        for part, each in digests.items()
    }
    train, unlabelled = copies.values()
    blank = int((images.train.flatten(1) == images.train.flatten(1)[:, :1]).all(dim=1).sum())
    notes = [f"training images of a single colour: {blank:,}"] if blank else []
    if 0 < 255 * images.std < 1:
        notes.append(
            "the training images hardly differ: their standard deviation is "
            f"{255 * images.std:.2g} of 255, to which they are scaled, so that training may fail"
        )
    words = {"train": "training", "unlabelled": "unlabelled"}
    found = " and ".join(f"{int(c.sum()):,} {words[k]}" for k, c in copies.items() if c.any())
    if not found:
        return images._replace(notes=(*images.notes, *notes))
    if not drawn:
        leaked = set(digests["train"]) & set(test)
        if len(leaked) > LEAKED * len(images.test):
            row = int(train.nonzero()[0])
            other = test[digests["train"][row]]
            raise UsageError(
                f"{names[row]} and {names[other]} are the same image, one for training and one for "
                f"the test, as are {len(leaked):,} of {len(images.test):,} test images; allowed: "
                f"up to {LEAKED:.0%}"
            )
        notes.append(f"{found} images are test images as well: kept, as the split is given")
        return images._replace(notes=(*images.notes, *notes))
    notes.append(f"{found} images are left out, for they are test images as well")
    images = images._replace(
        train=images.train[~train],
        train_labels=images.train_labels[~train],
        unlabelled=images.unlabelled[~unlabelled],
        notes=(*images.notes, *notes),
    )
    counts = torch.bincount(images.train_labels, minlength=len(images.classes))
    for k in (counts == 0).nonzero().flatten().tolist():
        raise UsageError(
            f"class {images.classes[k]!r}: each of its images is a copy of a test image; "
            "allowed: two images or more that differ"
        )
    return images


def _digests(pixels: UInt8[Tensor, "n c h w"]) -> list[bytes]:
    """What tells every image from those with other pixels."""
    return [hashlib.blake2b(x, digest_size=16).digest() for x in pixels.numpy()]


# The cache: one file per data set and way to read it, written whole or not at all. A file's time is
# that of its last use. Whoever writes one deletes those that were not used for `UNUSED` days, and
# the longest unused ones above `CACHE` bytes; never one that was used within `RECENT` days: a
# training on another machine may have mapped it, and would end where it is deleted over NFS.
UNUSED, CACHE, RECENT = 90, 5 * 2**30, 7


def _cache_file(source: Source, seed: int) -> Path:
    """The cached file of a source in its present state."""
    formats = sorted(members.formats())  # what Pillow reads may grow
    key = (
        __version__,
        READING,
        source.dataset,
        source.size,
        source.grey,
        seed,
        source.listing,
        formats,
    )
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    stem = source.path.stem if source.path else source.dataset
    return cache() / f"{folder_name(stem)}-{digest}.safetensors"


def _to_cache(images: Images, file: Path) -> None:
    tensors = {k: v.numpy() for k, v in images._asdict().items() if isinstance(v, Tensor)}
    rest = {k: json.dumps(v) for k, v in images._asdict().items() if not isinstance(v, Tensor)}
    part = file.with_suffix(f".{uuid.uuid4().hex}.part")  # of two machines perhaps, by one folder
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, rest)
        part.chmod(0o644)  # safetensors leaves files that only their owner can read
        part.replace(file)
        prune(file.parent)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{file}: cannot be written ({error}); KDLIB_CACHE names another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


_OURS = re.compile(r".+-[0-9a-f]{16}\.(safetensors|.+\.part)")  # other files are left alone


def prune(folder: Path) -> None:
    """Delete what nobody has used for long, and what a killed process left, from the cache."""
    now, day, total, states = time.time(), 86_400, 0, []
    for file in filter(lambda file: _OURS.fullmatch(file.name), folder.glob("*")):
        with contextlib.suppress(OSError):  # another process was faster
            states.append((file.stat().st_mtime, file.stat().st_size, file))
    for used, size, file in sorted(states, reverse=True):
        total += size
        days = (now - used) / day
        part = file.suffix == ".part" and days > 1
        if part or days > UNUSED or (total > CACHE and days > RECENT):
            with contextlib.suppress(OSError):
                file.unlink()


def _from_cache(file: Path) -> Images | None:
    """Map a file of the cache into memory; None where it does not exist or cannot be read."""
    with contextlib.suppress(Exception), safe_open(file, "pt") as opened:  # whatever is damaged
        with contextlib.suppress(OSError):  # a cache that others write
            os.utime(file)
        rest = {k: json.loads(v) for k, v in opened.metadata().items()}
        tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
        lists = {name: tuple(rest[name]) for name in ("classes", "notes")}
        return Images(**tensors, **rest | lists)
    return None


def budget(
    labels: Int[Tensor, " n"], per_class: int | str, seed: int, classes: tuple[str, ...] = ()
) -> Int[Tensor, " l"]:
    """Choose which images keep their label: `per_class` of every class, drawn by `seed`.

    Budgets of one seed are nested: the 2 of a class are among its 5. "all" keeps every label.
    Returns sorted rows. Raises UsageError below 1 or above the size of the smallest class, with
    its name in `classes`.
    """
    if per_class == "all":
        return torch.arange(len(labels))
    counts = torch.bincount(labels.cpu())
    if not isinstance(per_class, int) or not 1 <= per_class <= int(counts.min()):
        smallest = int(counts.argmin())
        raise UsageError(
            f"labels_per_class {per_class!r}; allowed: 'all' or 1 to {int(counts.min())}: class "
            f"{classes[smallest] if classes else smallest} has no more images"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = [order[labels.cpu()[order] == k][:per_class] for k in range(len(counts))]
    return torch.cat(chosen).sort().values


def sample(labels: Int[Tensor, " n"], size: int) -> Int[Tensor, " m"]:
    """A fixed, stratified sample: `size` images or all there are, the same share of every class.

    The same rows for every network and seed, so that all are compared on the same images. Two of
    each class are among them where `size` allows it. Raises UsageError below 1.
    """
    if size < 1:
        raise UsageError(f"sample {size}; allowed: 1 image or more")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(stratified(labels.cpu().numpy(), order.numpy(), size))


def test_sample(images: Images, size: int) -> Int[Tensor, " m"]:
    """The rows of the test images whose features are extracted: `size`, or all there are.

    More where these are fewer than two of each class, without which no class can be measured.
    """
    return sample(images.test_labels, max(size, 2 * len(images.classes)))


def check_sample(images: Images, size: int, *, asked: bool) -> int:
    """How many images `test_sample` takes.

    Raises UsageError for too few to measure and map, and for a `size` that was asked for, as no
    default is, above the number of test images.
    """
    if asked and size > len(images.test):
        raise UsageError(f"sample {size}; allowed: 1 to {len(images.test)} images")
    rows = test_sample(images, size)
    counts = torch.bincount(images.test_labels[rows].cpu(), minlength=len(images.classes))
    for k in (counts < 2).nonzero().flatten().tolist():
        raise UsageError(
            f"class {images.classes[k]!r} has {int(counts[k])} test image; allowed: 2 or more, so "
            "that it can be measured, or runs_only: true"
        )
    if len(rows) < LEAST:
        raise UsageError(
            f"{len(rows)} test images (sample {size}, of {len(images.test)}); allowed: {LEAST} or "
            "more, so that layers can be measured and mapped, or runs_only: true"
        )
    return len(rows)
