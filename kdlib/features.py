"""What each layer says of each image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import models
from kdlib.data import normalised


@torch.no_grad()
def extract(
    network: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    *,
    mean: float,
    std: float,
    layers: Iterable[str] = models.LAYERS,
    batch_size: int = 512,
) -> dict[str, Float[Tensor, "n d"]]:
    """The features of every layer in one pass, in evaluation mode, as float32 on the CPU.

    The network's device holds one batch at a time; the images may lie elsewhere.
    A layer's feature is the mean over positions of its output, one number per channel (global
    average pooling); `logits` are taken as they are. In a ResNet `pool` is by construction the
    same mean of `block3`. Raises UsageError for a layer the network does not have.
    """
    layers = tuple(layers)
    device = next(network.eval().parameters()).device
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for x in images.split(batch_size):
        seen = models.observe(network, normalised(x.to(device), mean, std), layers).features
        for layer in layers:
            output = seen[layer].float()
            output = F.adaptive_avg_pool2d(output, 1).flatten(1) if output.ndim == 4 else output
            parts[layer].append(output.cpu())
    return {layer: torch.cat(part) for layer, part in parts.items()}
