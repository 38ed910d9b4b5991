"""What a network does to its images before its first layer: its own size and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError


class Preprocess:
    """Scale and shift each channel, then resize: a hook before a network's forward pass.

    Networks that see the same batches may want images of other sizes, normalised otherwise. The
    batch is normalised by the data set's own mean and standard deviation; x * scale + offset turns
    that into the network's own. `size` is the side in pixels of what the network sees, by bilinear
    interpolation (antialiased where it is smaller); None: as it comes.
    """

    def __init__(self, scale: Sequence[float], offset: Sequence[float], size: int | None = None):
        self.scale, self.offset, self.size = list(scale), list(offset), size

    def __call__(
        self, _network: nn.Module, inputs: tuple[Float[Tensor, "b c h w"]]
    ) -> Float[Tensor, "b c s t"]:
        """The images as the network wants them."""
        (x,) = inputs
        scale, offset = (self._channels(values, x) for values in (self.scale, self.offset))
        x = torch.addcmul(offset, x, scale)
        if self.size is None or x.shape[2:] == (self.size, self.size):
            return x
        shrinks = min(x.shape[2:]) > self.size
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=shrinks)

    def record(self) -> dict[str, Any]:
        """What makes it again, fit for JSON."""
        return {"scale": self.scale, "offset": self.offset, "size": self.size}

    @staticmethod
    def _channels(values: list[float], x: Tensor) -> Tensor:
        return torch.tensor(values, dtype=x.dtype).reshape(-1, 1, 1).to(x.device, non_blocking=True)


def preprocess(
    mean: float,
    std: float,
    constants: tuple[Sequence[float], Sequence[float]] | None,
    channels: int,
    size: int | None = None,
) -> Preprocess | None:
    """What turns batches of a data set's mean and spread into a network's own; None: nothing.

    `constants` are the mean and the standard deviation of each channel that the network was
    normalised by, of values in [0, 1]; None: those of the data set. Raises UsageError where they
    are of another number of channels.
    """
    if constants is None:
        return None if size is None else Preprocess([1.0] * channels, [0.0] * channels, size)
    means, stds = constants
    if len(means) != channels:
        raise UsageError(
            f"normalise by {len(means)} channels, of images of {channels}; allowed: data"
        )
    scale = [std / own for own in stds]
    offset = [(mean - level) / own for level, own in zip(means, stds, strict=True)]
    return Preprocess(scale, offset, size)
