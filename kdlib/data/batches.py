"""Batches that come augmented, labelled images first; all of it on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from kdlib import one_of
from kdlib.data.augment import AUGMENTATIONS, cutout, mirrored, randaugment, shifted
from kdlib.data.dataset import Images, Level


class Batch(NamedTuple):
    """What one step sees: labelled images first, then others without their labels."""

    x: Float[Tensor, "b c h w"]  # normalised, augmented
    y: Int[Tensor, " l"]  # the labels of the first l images
    rows: Int[Tensor, " b"]  # of Images.train, and after those of Images.unlabelled
    strong: Float[Tensor, "b c h w"] | None = None  # the same, under RandAugment and cutout


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

    A step holds up to `size` labelled images, and with `unlabelled` another `size` of all training
    images and of the set's unlabelled ones, their labels withheld. Where every image is labelled
    they add nothing and are left out. Labelled and unlabelled images are drawn by generators of
    their own, so that two runs of one seed see the same labelled images in the same order, with
    or without the unlabelled ones. `augment` names augmentations, in order, that replace the set's own shift
    and flip; `strong` adds the same images under RandAugment and cutout, and changes no other.
    """

    images: Images
    labelled: Int[Tensor, " l"]  # rows of images.train, from `budget`
    size: int
    seed: int
    unlabelled: bool = True
    augment: tuple[str, ...] | None = None  # of AUGMENTATIONS
    strong: bool = False

    def __post_init__(self) -> None:
        for name in self.augment or ():
            one_of("augmentation", name, AUGMENTATIONS)
        n = len(self.images.train) + len(self.images.unlabelled)
        self.steps = -(-n // self.size)
        self._mean, self._std = self.images.mean, self.images.std
        streams = [self.labelled]
        if self.unlabelled and len(self.labelled) < n:
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
