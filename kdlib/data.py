"""Images as one tensor on the device, label budgets, and batches that come augmented."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from kdlib import UsageError, one_of


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

    @property
    def mean(self) -> float:
        """Mean grey or colour value of the training images, in [0, 1]."""
        return float(self.train.double().mean() / 255)

    @property
    def std(self) -> float:
        """Standard deviation of the training images' values, in [0, 1]."""
        return float(self.train.double().std() / 255)

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all images and labels."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device) -> Images:
        """The same data set on another device."""
        moved = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]


class Batch(NamedTuple):
    """What one step sees: labelled images first, then images of the pool without their labels."""

    x: Float[Tensor, "b c h w"]  # normalised, augmented
    y: Int[Tensor, " l"]  # the labels of the first l images
    rows: Int[Tensor, " b"]  # of Images.train


def _digits() -> Images:
    """scikit-learn's digits: 1,797 scanned digits of 8 x 8 pixels, 50 of each class to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    test = budget(labels, 50, seed=0)
    train = torch.ones(len(labels), dtype=torch.bool)
    train[test] = False
    names = tuple(str(name) for name in bunch.target_names)
    return Images(
        "digits", images[train], labels[train], images[test], labels[test], names, 1, False
    )


DATASETS: dict[str, Callable[[], Images]] = {"digits": _digits}


def load(name: str) -> Images:
    """Read a data set of `DATASETS` into memory. Raises UsageError for a name not in there."""
    one_of("data set", name, DATASETS)
    return DATASETS[name]()


def budget(labels: Int[Tensor, " n"], per_class: int | str, seed: int) -> Int[Tensor, " l"]:
    """Choose which images keep their label: `per_class` of every class, drawn by `seed`.

    Budgets of one seed are nested: the 2 of a class are among its 5. "all" keeps every label.
    Returns sorted rows. Raises UsageError below 1 or above what the smallest class has.
    """
    if per_class == "all":
        return torch.arange(len(labels))
    counts = torch.bincount(labels.cpu())
    if not isinstance(per_class, int) or not 1 <= per_class <= int(counts.min()):
        raise UsageError(
            f"labels_per_class {per_class!r}; allowed: 'all' or 1 to {int(counts.min())}, "
            "what the smallest class has"
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


def shifted(
    x: UInt8[Tensor, "b c h w"], by: Int[Tensor, "b 2"], largest: int
) -> UInt8[Tensor, "b c h w"]:
    """Move each image by its own (down, right) pixels, zeros coming in: one batched gather."""
    h, w = x.shape[2:]
    x = torch.nn.functional.pad(x, [largest] * 4)
    rows = torch.arange(h, device=x.device) + largest - by[:, :1]  # (b, h)
    columns = torch.arange(w, device=x.device) + largest - by[:, 1:]  # (b, w)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class _Stream:
    """An endless walk through some rows, every row once per round, each with its augmentation.

    All draws are made on the CPU, a round at a time, so the order is the same on every device
    and nothing waits for the device inside a round.
    """

    def __init__(self, images: Images, rows: Tensor, size: int, seed: int):
        self.images, self.rows, self.size = images, rows, min(size, len(rows))
        self.generator = torch.Generator().manual_seed(seed)
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

    def draw(self) -> tuple[Tensor, Tensor]:
        if not self.queue:
            self._round()
        index, by, mirror = self.queue.pop(0)
        x = self.images.train[index]
        if self.images.shift:
            x = shifted(x, by, self.images.shift)
        if self.images.flip:
            x = torch.where(mirror[:, None, None, None], x.flip(3), x)
        return x, index


@dataclass
class Batches:
    """The batches of one run. Iterating once is one epoch: as many steps as the whole set needs.

    A step holds up to `size` labelled images, and with `pool` another `size` of all training
    images, their labels withheld. With every label known the pool adds nothing and is left out.
    Labelled images and pool are drawn by generators of their own, so that two runs of one seed
    see the same labelled images in the same order, with or without the pool.
    """

    images: Images
    labelled: Int[Tensor, " l"]  # rows of images.train, from `budget`
    size: int
    seed: int
    pool: bool = True

    def __post_init__(self) -> None:
        n = len(self.images.train)
        self.steps = -(-n // self.size)
        self._mean, self._std = self.images.mean, self.images.std
        streams = [self.labelled]
        if self.pool and len(self.labelled) < n:
            streams.append(torch.arange(n))
        seeds = (2 * self.seed, 2 * self.seed + 1)
        self._streams = [
            _Stream(self.images, rows, self.size, seed)
            for rows, seed in zip(streams, seeds, strict=False)
        ]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.steps):
            drawn = [stream.draw() for stream in self._streams]
            rows = torch.cat([r for _, r in drawn])
            x = torch.cat([x for x, _ in drawn])
            y = self.images.train_labels[drawn[0][1]]
            yield Batch(normalised(x, self._mean, self._std), y, rows)


def normalised(x: UInt8[Tensor, "b c h w"], mean: float, std: float) -> Float[Tensor, "b c h w"]:
    """Bytes to numbers of mean 0 and standard deviation 1 over the training set."""
    return (x.float() / 255 - mean) / std
