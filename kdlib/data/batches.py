"""Augmented batches, labelled images first, made on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from kdlib import UsageError, one_of
from kdlib.data.augment import AUGMENTATIONS, cutout, mirrored, randaugment, shifted
from kdlib.data.dataset import Images


class Batch(NamedTuple):
    """The images of one step: labelled ones first, then unlabelled ones."""

    x: Float[Tensor, "b c h w"]  # normalised, augmented
    y: Int[Tensor, " l"]  # the labels of the first l images
    rows: Int[Tensor, " b"]  # of Images.train, and after those of Images.unlabelled
    strong: Float[Tensor, "b c h w"] | None = None  # the same images under RandAugment and cutout
    mirrored: Bool[Tensor, " b"] | None = None  # by the set's own augmentation; None: by another


class _Loader:
    """An endless sequence of augmented images: every row once per round, in a new order.

    All random numbers are drawn on the CPU, those of the order and of the set's own augmentation a
    round at a time, so they are the same on every device and no step waits for the device.
    """

    def __init__(
        self, images: Images, rows: Tensor, size: int, seed: int, augment: tuple[str, ...] | None
    ):
        self.images, self.rows, self.size = images, rows, min(size, len(rows))
        self.augment = augment
        self.order_generator, self.augment_generator, self.strong_generator = (
            torch.Generator().manual_seed(seed + start) for start in (0, 10**9, 2 * 10**9)
        )
        self.queue: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, shifts, mirrored; per batch

    def _start_round(self) -> None:
        n, device, generator = len(self.rows), self.images.train.device, self.order_generator
        largest = self.images.shift
        order = self.rows[torch.randperm(n, generator=generator)].to(device)
        shift = torch.randint(-largest, largest + 1, (n, 2), generator=generator).to(device)
        mirror = (torch.rand(n, generator=generator) < 0.5).to(device) & self.images.flip
        sizes = [self.size] * (n // self.size)
        if n % self.size:
            sizes.append(n % self.size)
        if sizes[-1] == 1 and n > 1:  # a batch of one has no spread for BatchNorm
            sizes[-2:] = [sizes[-2] + 1]
        self.queue = list(
            zip(order.split(sizes), shift.split(sizes), mirror.split(sizes), strict=True)
        )

    def next(self, strong: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The next images, their rows, which of them the set's own augmentation mirrors, and, if
        `strong`, the same images augmented strongly.
        """
        if not self.queue:
            self._start_round()
        rows, shift, mirror = self.queue.pop(0)
        x = self.images.take(rows)
        if self.augment is None:
            x = shifted(x, shift, self.images.shift) if self.images.shift else x
            x = mirrored(x, mirror) if self.images.flip else x
        for name in self.augment or ():
            x = AUGMENTATIONS[name](x, self.augment_generator)
        if not strong:
            return x, rows, mirror, None
        generator = self.strong_generator
        return x, rows, mirror, cutout(randaugment(x, generator), generator)


@dataclass
class Batches:
    """The batches of one run. Iterating once is one epoch: as many steps as the whole set needs.

    A step has up to `size` labelled images, and with `unlabelled` another `size` of all training
    images and of the set's unlabelled ones, without their labels; `unlabelled_size` is how many
    where it is given, and then counts the steps of an epoch, with and without the unlabelled
    images. Where every image is labelled they add nothing and are left out. Labelled and
    unlabelled images are drawn by generators of their own: runs of one seed train on the same
    labelled images in the same order, with or without the unlabelled ones. `augment` names
    augmentations, in order, that replace the set's own shift and flip; `strong` adds the same
    images under RandAugment and cutout, and changes no other. Raises UsageError for an unknown
    augmentation, sizes below 1 and images without any spread.
    """

    images: Images
    labelled: Int[Tensor, " l"]  # rows of images.train, from `budget`
    size: int
    seed: int
    unlabelled: bool = True
    augment: tuple[str, ...] | None = None  # of AUGMENTATIONS
    strong: bool = False
    unlabelled_size: int | None = None  # None: as `size`

    def __post_init__(self) -> None:
        sizes = [self.size, self.size if self.unlabelled_size is None else self.unlabelled_size]
        for size in sizes:
            if size < 1:
                raise UsageError(f"batch size {size!r}; allowed: 1 or more")
        for name in self.augment or ():
            one_of("augmentation", name, AUGMENTATIONS)
        n = len(self.images.train) + len(self.images.unlabelled)
        partly = len(self.labelled) < n
        self.steps = -(-n // sizes[partly])
        self._mean, self._std = self.images.mean, self.images.std
        if self._std == 0:  # every normalised value would be undefined
            raise UsageError(
                f"all pixels of all training images of {self.images.name} have one value; allowed: "
                "images that differ"
            )
        rows = [self.labelled]
        if self.unlabelled and partly:
            rows.append(torch.arange(n))
        self.loaders = [
            _Loader(self.images, part, sizes[i], 2 * self.seed + i, self.augment)
            for i, part in enumerate(rows)
        ]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.rest(0)

    def rest(self, done: int) -> Iterator[Batch]:
        """The batches of an epoch after the first `done`."""
        for _ in range(done, self.steps):
            parts = [loader.next(self.strong) for loader in self.loaders]
            x, rows, mirror, strong = zip(*parts, strict=True)
            yield Batch(
                normalised(torch.cat(x), self._mean, self._std),
                self.images.train_labels[rows[0]],
                torch.cat(rows),
                normalised(torch.cat(strong), self._mean, self._std) if self.strong else None,
                torch.cat(mirror) if self.augment is None else None,
            )


def forward_size(images: UInt8[Tensor, "n c h w"]) -> int:
    """How many images a forward pass without gradients takes at a time: 1,024 of 8 x 8 pixels.

    64 of 32 x 32: the largest maps then stay small enough that the allocator uses their memory
    again, and does not give it back to the system at every layer.
    """
    return max(8, min(1024, 2**16 // (images.shape[-1] * images.shape[-2])))


def normalised(x: UInt8[Tensor, "b c h w"], mean: float, std: float) -> Float[Tensor, "b c h w"]:
    """Bytes to numbers: (x / 255 - mean) / std, for all channels alike."""
    return (x.float() / 255 - mean) / std
