"""Augmentation of whole batches on their device: random for every image, with no loop over them.

All random numbers come from the caller's generator, on the CPU: the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F


def shifted(
    x: UInt8[Tensor, "b c h w"], by: Int[Tensor, "b 2"], largest: int
) -> UInt8[Tensor, "b c h w"]:
    """Move each image by its own (down, right) pixels, zeros coming in: one batched gather."""
    h, w = x.shape[2:]
    x = F.pad(x, [largest] * 4)
    rows = torch.arange(h, device=x.device) + largest - by[:, :1]  # (b, h)
    columns = torch.arange(w, device=x.device) + largest - by[:, 1:]  # (b, w)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(x: UInt8[Tensor, "b c h w"], which: Bool[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
    """Exchange left and right of some images."""
    return torch.where(which[:, None, None, None], x.flip(3), x)


def largest_shift(side: int) -> int:
    """How many pixels images of this side are shifted at most: an eighth, 4 of CIFAR's 32."""
    return side // 8


def shift(x: UInt8[Tensor, "b c h w"], generator: Generator) -> UInt8[Tensor, "b c h w"]:
    """Pad and crop: each image by up to an eighth of its side, each way (He et al. 2016, 4.2)."""
    largest = largest_shift(min(x.shape[2:]))
    by = torch.randint(-largest, largest + 1, (len(x), 2), generator=generator)
    return shifted(x, _on_device(by, x), largest)


def flip(x: UInt8[Tensor, "b c h w"], generator: Generator) -> UInt8[Tensor, "b c h w"]:
    """Mirror every other image."""
    return mirrored(x, _uniform(x, 1, generator)[:, 0] < 0.5)


def cutout(
    x: UInt8[Tensor, "b c h w"], generator: Generator, share: float = 0.5
) -> UInt8[Tensor, "b c h w"]:
    """Blacken a square whose centre lies anywhere in the image (DeVries & Taylor 2017, sec. 3).

    `share` is the square's side in the image's: 0.5 as there on CIFAR-10. What reaches beyond the
    border is lost, so squares differ in area.
    """
    centre = _uniform(x, 2, generator)
    return x.masked_fill(_box(x, centre, torch.full_like(centre, share)), 0)


def jitter(
    x: UInt8[Tensor, "b c h w"], generator: Generator, strength: float = 0.4
) -> UInt8[Tensor, "b c h w"]:
    """Change brightness, then contrast, then saturation, by factors in 1 +- `strength` each.

    The grey image, and the mean of it, are what saturation and contrast pull towards.
    """
    factors = 1 + strength * (2 * _uniform(x, 3, generator) - 1)
    pixels = x.float() * _each(factors[:, 0])
    pixels = _towards(_grey(pixels).mean((2, 3), keepdim=True), pixels, factors[:, 1])
    return _bytes(_towards(_grey(pixels), pixels, factors[:, 2]))


def randaugment(
    x: UInt8[Tensor, "b c h w"], generator: Generator, operations: int = 2, magnitude: float = 0.9
) -> UInt8[Tensor, "b c h w"]:
    """Apply so many operations of `OPERATIONS` to each image (Cubuk et al. 2020, sec. 3).

    Operations are drawn uniformly, with repetition, at one `magnitude` in [0, 1] of their range
    (9 of 10 as there), those with two directions in one of them. Every operation runs once, on
    the images it was drawn for: the CPU holds their rows, so nothing waits for the device.
    """
    for _ in range(operations):
        index, sign = torch.rand(2, len(x), generator=generator)
        index = (index * len(OPERATIONS)).long()
        strength = torch.where(sign < 0.5, -magnitude, magnitude)
        pixels = x.float()
        for k, operation in enumerate(OPERATIONS.values()):
            chosen = (index == k).nonzero()[:, 0]
            if len(chosen):
                rows = _on_device(chosen, x)
                pixels[rows] = operation(pixels[rows], _on_device(strength[chosen], x))
        x = _bytes(pixels)
    return x


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "shift": shift,
    "flip": flip,
    "cutout": cutout,
    "jitter": jitter,
    "randaugment": randaugment,
}


# The operations of RandAugment: pixels in [0, 255] and a strength in [-1, 1] per image.

Pixels = Float[Tensor, "b c h w"]
Strength = Float[Tensor, " b"]


def _warp(x: Pixels, entries: dict[tuple[int, int], Tensor]) -> Pixels:
    """Move pixels by one affine map per image, the identity but for these entries (2 x 3)."""
    theta = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
    for (row, column), value in entries.items():
        theta[:, row, column] = value
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=False)


def _rotate(x: Pixels, strength: Strength) -> Pixels:
    angle = strength * math.radians(30)
    cos, sin = angle.cos(), angle.sin()
    return _warp(x, {(0, 0): cos, (0, 1): -sin, (1, 0): sin, (1, 1): cos})


def _autocontrast(x: Pixels, strength: Strength) -> Pixels:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * 255 / (high - low).clamp(min=1), x)


def _equalize(x: Pixels, strength: Strength) -> Pixels:
    """Each channel through its own cumulated histogram, so that all values are as frequent."""
    b, c, h, w = x.shape
    values = x.reshape(b * c, h * w).round().long()
    counts = torch.zeros(b * c, 256, dtype=torch.long, device=x.device)
    below = counts.scatter_add_(1, values, torch.ones_like(values)).cumsum(1).gather(1, values)
    least = below.amin(1, keepdim=True)  # how many pixels have the lowest value
    spread = (below - least) * 255 / (h * w - least).clamp(min=1)
    return torch.where(least < h * w, spread, values.float()).reshape(x.shape)


def _posterize(x: Pixels, strength: Strength) -> Pixels:
    step = 2.0 ** (4 * strength.abs()).round()  # 8 bits down to 4
    return (x / _each(step)).floor() * _each(step)


def _solarize(x: Pixels, strength: Strength) -> Pixels:
    return torch.where(x >= _each(256 * (1 - strength.abs())), 255 - x, x)


def _colour(x: Pixels, strength: Strength) -> Pixels:
    return _towards(_grey(x), x, 1 + 0.9 * strength)


def _contrast(x: Pixels, strength: Strength) -> Pixels:
    return _towards(_grey(x).mean((2, 3), keepdim=True), x, 1 + 0.9 * strength)


def _brightness(x: Pixels, strength: Strength) -> Pixels:
    return x * _each(1 + 0.9 * strength)


def _sharpness(x: Pixels, strength: Strength) -> Pixels:
    around = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, 1)
    smooth = (9 * around + 4 * x) / 13  # Pillow's filter: 1 for each neighbour, 5 for the pixel
    return _towards(smooth, x, 1 + 0.9 * strength)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda x, strength: x,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "colour": _colour,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": lambda x, strength: _warp(x, {(0, 1): 0.3 * strength}),
    "shear_y": lambda x, strength: _warp(x, {(1, 0): 0.3 * strength}),
    "translate_x": lambda x, strength: _warp(x, {(0, 2): 0.9 * strength}),  # 2 is the whole side
    "translate_y": lambda x, strength: _warp(x, {(1, 2): 0.9 * strength}),
}


class Mixed(NamedTuple):
    """Pairs of images in one: the loss is lam * loss(y) + (1 - lam) * loss(y2), per image."""

    x: Float[Tensor, "b c h w"]
    y: Int[Tensor, " b"]
    y2: Int[Tensor, " b"]  # the labels of the partners
    lam: Float[Tensor, " b"]  # the share of the image itself


def mixup(
    x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"], generator: Generator, alpha: float = 1.0
) -> Mixed:
    """lam x + (1 - lam) x2, with lam ~ Beta(alpha, alpha) per image (Zhang et al. 2018, eq. 1)."""
    partner, lam = _partners(x, generator, alpha)
    return Mixed(_each(lam) * x + _each(1 - lam) * x[partner], y, y[partner], lam)


def cutmix(
    x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"], generator: Generator, alpha: float = 1.0
) -> Mixed:
    """A box of 1 - lam of the area comes from the partner (Yun et al. 2019, eq. 1 and 2).

    lam ~ Beta(alpha, alpha) per image, and then what the box leaves when cut off at the border.
    """
    partner, lam = _partners(x, generator, alpha)
    side = (1 - lam).sqrt()[:, None].expand(-1, 2)
    inside = _box(x, _uniform(x, 2, generator), side)
    lam = 1 - inside.float().mean((1, 2, 3))
    return Mixed(torch.where(inside, x[partner], x), y, y[partner], lam)


MIXTURES = {"mixup": mixup, "cutmix": cutmix}


def _partners(x: Tensor, generator: Generator, alpha: float) -> tuple[Tensor, Tensor]:
    seed = int(torch.randint(2**62, (), generator=generator))
    lam = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(x))).float()
    return _on_device(torch.randperm(len(x), generator=generator), x), _on_device(lam, x)


def _uniform(x: Tensor, numbers: int, generator: Generator) -> Float[Tensor, "b numbers"]:
    """Uniform random numbers in [0, 1) for each image, on its device."""
    return _on_device(torch.rand(len(x), numbers, generator=generator), x)


def _on_device(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers of the CPU on the device of the images; the CPU does not wait for the copy."""
    return numbers.to(x.device, non_blocking=True)


def _each(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _box(
    x: Tensor, centre: Float[Tensor, "b 2"], side: Float[Tensor, "b 2"]
) -> Bool[Tensor, "b 1 h w"]:
    """The pixels of a box per image, its centre and sides given as shares of the image's."""
    inside = []
    for axis, length in enumerate(x.shape[2:]):
        at = torch.arange(length, device=x.device)
        first = ((centre[:, axis] - side[:, axis] / 2) * length).round()[:, None]
        last = ((centre[:, axis] + side[:, axis] / 2) * length).round()[:, None]
        inside.append((at >= first) & (at < last))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _towards(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Between another image (factor 0) and the image (1), or beyond it; clipped to [0, 255]."""
    return (other + _each(factor) * (x - other)).clamp(0, 255)


def _grey(x: Tensor) -> Float[Tensor, "b 1 h w"]:
    """Luma of red, green and blue (ITU-R BT.601); a grey image is its own."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _bytes(x: Tensor) -> UInt8[Tensor, "b c h w"]:
    return x.clamp(0, 255).round().to(torch.uint8)
