"""Networks that name their layers alike: stem block1 block2 block3 pool logits."""

from kdlib.models.build import (
    Grafted,
    architecture,
    build,
    check,
    count,
    differences,
    reinitialised,
    restore,
    weights,
)
from kdlib.models.cifar import LAYERS, NETWORKS
from kdlib.models.example import example
from kdlib.models.observe import Forward, layers, low_precision_copy, observe, part

__all__ = [
    "LAYERS",
    "NETWORKS",
    "Forward",
    "Grafted",
    "architecture",
    "build",
    "check",
    "count",
    "differences",
    "example",
    "folded",
    "layers",
    "observe",
    "part",
    "redrawn",
    "restore",
    "weights",
]
