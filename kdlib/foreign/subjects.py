"""One network of a look: its features, what they depend on, and where they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdlib import UsageError, store
from kdlib.store import Layers

LARGEST = 1e30  # number in features: they are float32
TRAIN = 2000  # training images for the probes, or all there are


class Subject(NamedTuple):
    """One network with the features of the sample, however it came to them."""

    run: str  # how it is called in every table
    network: str
    seed: int
    key: str  # of its features: what they depend on
    layers: dict[str, np.ndarray]  # layer -> (n, d), from first to last
    train: dict[str, np.ndarray]  # of training images; empty without
    facts: dict[str, Any]  # source, parameters, readings, preparation


def check_layer(network: str, layer: str, x: np.ndarray) -> None:
    """Raise UsageError unless features are finite numbers (n, d), d at least 2, that differ."""
    where = f"network {network!r}: layer {layer}"
    if x.dtype.kind not in "fiub" or x.ndim != 2 or x.shape[1] < 2:
        raise UsageError(f"{where} is {x.dtype} {x.shape}; allowed: numbers (n, d), d at least 2")
    if bad := int((~np.isfinite(x)).any(axis=1).sum()):
        raise UsageError(f"{where}: {bad} of {len(x)} images have NaN or infinity in it")
    largest = np.abs(x).max(initial=0)
    if largest > LARGEST:
        raise UsageError(f"{where}: its largest number is {largest:.1e}; allowed: to {LARGEST:.0e}")
    if len(x) and (x == x[0]).all():
        raise UsageError(f"{where} is the same for all {len(x)} images; leave it out")


def hash_of(layers: Mapping[str, np.ndarray]) -> str:
    """What tells features apart from others."""
    digest = hashlib.sha256()
    for name, x in layers.items():
        digest.update(f"{name} {x.shape} {x.dtype}".encode())
        digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()[:16]


def key_of(*parts: Any) -> str:
    """A name for what depends on these, and on how it is computed."""
    digest = hashlib.sha256(store.code_hash().encode())
    for part in parts:
        array = isinstance(part, np.ndarray)
        digest.update(repr((part.shape, part.dtype.str) if array else part).encode())
        digest.update(part.tobytes() if array else b"")
    return digest.hexdigest()[:16]


def save_features(folder: Path, subject: Mapping[str, Any]) -> None:
    """Write the features of one network to the folder of its key."""
    no_rows = np.zeros(0, np.int64)
    store.save_layers(
        folder,
        Layers(
            train=subject["train"],
            train_labels=no_rows,
            test=subject["test"],
            test_labels=no_rows,
            test_rows=no_rows,
            train_rows=no_rows,
        ),
    )
