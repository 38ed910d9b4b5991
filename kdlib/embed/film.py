"""Follow layers through a training: their maps after some epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from kdlib.embed.maps import family

Frame = tuple[str, int, str]  # run, epoch, layer


def film(
    features: Mapping[Frame, Num[np.ndarray, "n _"]], *, workers: int = 1, **options: Any
) -> dict[Frame, Float32[np.ndarray, "n 2"]]:
    """Map each layer as one t-SNE family, coupled from epoch to epoch and from run to run.

    Keys are (run, epoch, layer), epochs in their order. Options and errors as `family`.
    """
    maps: dict[Frame, np.ndarray] = {}
    for layer in dict.fromkeys(layer for _, _, layer in features):
        frames = [frame for frame in features if frame[2] == layer]
        cells = {(run, str(epoch)): features[run, epoch, layer] for run, epoch, _ in frames}
        made = family(cells, workers=workers, **options).maps
        maps |= dict(zip(frames, made.values(), strict=True))
    return maps
