"""Embed layers: features (n, d) become maps (n, 2), by t-SNE, IVIS, PCA and others."""

from kdlib.embed.align import align, displacement, shared_start
from kdlib.embed.embedders import EMBEDDERS, TITLES, Embedder
from kdlib.embed.maps import Family, check, embed, family, noise_floor, restarts

__all__ = [
    "EMBEDDERS",
    "TITLES",
    "Embedder",
    "Family",
    "align",
    "check",
    "displacement",
    "embed",
    "family",
    "noise_floor",
    "restarts",
    "shared_start",
]
