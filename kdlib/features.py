"""Features of images, layer by layer: means over positions, or principal axes of whole maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import models
from kdlib.data import forward_size, normalised

MAX_AXES = 64  # principal axes of a flattened map
MAX_IMAGES = 2000  # training images that axes are fitted to
MAX_SIDE = 8  # larger maps are averaged down to 8 x 8 positions before they are flattened


class Axes(NamedTuple):
    """The principal axes of one layer's flattened map."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d p"]  # of length 1, in the order of decreasing variance


@torch.no_grad()
@models.deterministic()
def extract(
    network: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    *,
    mean: float,
    std: float,
    layers: Iterable[str] = models.LAYERS,
    axes: Mapping[str, Axes] | None = None,
    batch_size: int | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """The features of every layer from one forward pass, in evaluation mode: float32, on the CPU.

    A layer's feature is the mean over positions of its output, one number per channel (global
    average pooling); `logits` are taken as they are. In a ResNet `pool` is by construction the
    same mean of `block3`. With the `axes` of `fit`, and for their layers, it is the coordinates of
    the flattened map along them, which keep what pooling averages away. The network's device holds
    one batch at a time; the images may be on another. Raises UsageError for a layer that the
    network does not have.
    """
    layers = tuple(layers if axes is None else axes)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for outputs in _outputs(network, images, mean, std, layers, batch_size):
        for layer, x in outputs.items():
            if axes is not None:
                x = (_flat(x) - axes[layer].mean) @ axes[layer].directions
            elif x.ndim == 4:
                x = F.adaptive_avg_pool2d(x, 1).flatten(1)
            parts[layer].append(x.cpu())
    return {layer: torch.cat(part) for layer, part in parts.items()}


@torch.no_grad()
@models.deterministic()
def fit(
    network: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    *,
    mean: float,
    std: float,
    layers: Iterable[str] = models.LAYERS,
    batch_size: int | None = None,
) -> dict[str, Axes]:
    """The first 64 principal axes of the flattened map of every layer that has positions.

    Fitted to training images: all of them, or at most 2,000 evenly spaced. Fewer axes where the
    map varies in fewer directions. Signs are fixed: the largest entry of each is above 0. Raises
    UsageError for a layer that the network does not have.
    """
    images = images[:: -(-len(images) // MAX_IMAGES)]
    parts: dict[str, list[Tensor]] = {}
    for outputs in _outputs(network, images, mean, std, tuple(layers), batch_size):
        for layer, x in outputs.items():
            if x.ndim == 4 and x[0, 0].numel() > 1:
                parts.setdefault(layer, []).append(_flat(x))
    return {layer: _principal(torch.cat(part)) for layer, part in parts.items()}


def snapshots(
    record: Mapping[str, Any],
    weights: Mapping[int, Mapping[str, np.ndarray]],
    parts: Sequence[UInt8[Tensor, "_ c h w"]],
    *,
    mean: float,
    std: float,
    device: str | torch.device = "cpu",
) -> dict[int, list[dict[str, np.ndarray]]]:
    """The features of a run after some epochs: by epoch, for each part of the images, by layer.

    `record` and `weights` (by epoch) are those of `store.load_run` and `store.load_snapshots`.
    """
    plan = record["architecture"]
    student = {**record, "architecture": plan.get("student", plan)}  # before it takes a head over
    by_epoch = {}
    for epoch, tensors in weights.items():
        network = models.restore(student, tensors).to(device)
        extracted = [extract(network, images, mean=mean, std=std) for images in parts]
        by_epoch[epoch] = [{layer: x.numpy() for layer, x in part.items()} for part in extracted]
    return by_epoch


def _outputs(
    network: nn.Module,
    images: Tensor,
    mean: float,
    std: float,
    layers: tuple[str, ...],
    batch_size: int | None,
) -> Iterator[dict[str, Tensor]]:
    """The outputs of the layers, batch by batch, as float32."""
    device = next(network.eval().parameters()).device
    for x in images.split(batch_size or forward_size(images)):
        x = normalised(x.to(device), mean, std).contiguous(memory_format=torch.channels_last)
        outputs = models.observe(network, x, layers).features
        yield {layer: outputs[layer].float() for layer in layers}


def _flat(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    h, w = x.shape[2:]
    return F.adaptive_avg_pool2d(x, (min(h, MAX_SIDE), min(w, MAX_SIDE))).flatten(1)


def _principal(x: Float[Tensor, "n d"]) -> Axes:
    """Principal axes from the eigenvectors of the smaller of the two Gram matrices, in float64.

    Axes of less than 1e-10 of the first one's variance are left out.
    """
    mean = x.mean(dim=0)
    centred = (x - mean).double()
    wide = x.shape[1] > len(x)
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    count = max(1, min(MAX_AXES, int((values > values[-1] * 1e-10).sum())))
    vectors = vectors[:, -count:].flip(1)
    directions = F.normalize(centred.T @ vectors, dim=0) if wide else vectors
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return Axes(mean, torch.where(largest < 0, -directions, directions).float())
