"""Draw layers: features (n, d) become maps (n, 2), by t-SNE, IVIS, PCA and others."""

from kdlib.embed.maps import (
    EMBEDDERS,
    TITLES,
    Family,
    align,
    displacement,
    embed,
    family,
    noise_floor,
    restarts,
    shared_start,
)

__all__ = [
    "EMBEDDERS",
    "TITLES",
    "Family",
    "align",
    "displacement",
    "embed",
    "family",
    "noise_floor",
    "restarts",
    "shared_start",
]
