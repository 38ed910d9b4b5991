"""Networks that name their layers alike: stem block1 block2 block3 pool logits."""

from kdlib.models.build import (
    Grafted,
    architecture,
    build,
    check_name,
    count,
    own_constants,
    reinitialise,
    restore,
    weights,
)
from kdlib.models.cifar import LAYERS, NETWORKS, bottleneck
from kdlib.models.example import example
from kdlib.models.observe import (
    Forward,
    LayerPath,
    before_relu,
    deterministic,
    layers,
    low_precision_copy,
    observe,
    part,
)
from kdlib.models.preprocessing import Preprocess, preprocess

__all__ = [
    "LAYERS",
    "NETWORKS",
    "Forward",
    "Grafted",
    "LayerPath",
    "Preprocess",
    "architecture",
    "before_relu",
    "bottleneck",
    "build",
    "check_name",
    "count",
    "deterministic",
    "example",
    "layers",
    "low_precision_copy",
    "observe",
    "own_constants",
    "part",
    "preprocess",
    "reinitialise",
    "restore",
    "weights",
]
