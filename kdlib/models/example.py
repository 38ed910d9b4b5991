"""A network's layers at their sizes, without training it."""

from __future__ import annotations

import torch

from kdlib import UsageError
from kdlib.models.build import build, count
from kdlib.models.observe import Forward, observe


def example(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    size: int = 32,
    parameters: int | None = None,
) -> Forward | None:
    """Return what an untrained network outputs for two blank images of `size` by `size` pixels.

    None where the network cannot be built from these facts, or has not this many `parameters`: it
    was made with options of its own.

        example("resnet20", classes=10).features["block3"].shape  # (2, 64, 8, 8)
    """
    try:
        network = build(name, classes=classes, channels=channels, width=width, size=size)
    except UsageError:
        return None
    if parameters is not None and count(network) != parameters:
        return None
    with torch.no_grad():
        return observe(network.eval(), torch.zeros(2, channels, size, size))
