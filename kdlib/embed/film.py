"""Follow layers through a training: their maps and their measures after some epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from kdlib.embed.maps import family
from kdlib.measure import metrics, similarity
from kdlib.measure.space import Space, spaces
from kdlib.store import Layers

MEASURES = ("within_share", "silhouette", "knn", "probe", "cka")

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


def measures(epochs: Mapping[int, Layers], teacher: Layers) -> list[tuple[int, str, str, float]]:
    """Measure a network's layers after each epoch: rows (epoch, layer, measure, value).

    Each by itself, beside the teacher's layer of the same name, and beside itself after the last
    epoch (`cka_end`). All of the same images.
    """
    reference, end = _spaces(teacher), _spaces(epochs[max(epochs)])
    rows = []
    for epoch, layers in epochs.items():
        for layer, space in _spaces(layers).items():
            values = metrics.measure(space, reference[layer], layer=layer, measures=MEASURES)
            values["cka_end"] = similarity.cka(space, end[layer])
            rows += [(epoch, layer, measure, value) for measure, value in values.items()]
    return rows


def _spaces(layers: Layers) -> dict[str, Space]:
    return spaces(layers.test, layers.test_labels, layers.train, layers.train_labels)
