"""Files of features: networks, their layers, numbers for each image, made by any program.

Names are nested by slashes: `network/layer` holds an array (n, d). Beside them may stand `labels`
(n,), whole numbers or names; `classes`, the names of classes 0, 1, ...; `images`, bytes (n, h, w)
or (n, h, w, 3). Several seeds of one network are `network@7/layer`, `network@8/layer`, and keep
their numbers. Nothing of it needs torch.

    .npz           one array for each name, layers in the order in which they were saved
    .safetensors   as well; layers in natural order (block2 before block10), as the format keeps
                   none; `classes` as JSON in its metadata
    .parquet       one row for each image: a column of lists `network/layer`, or columns of numbers
                   `network/layer/0`, `network/layer/1`, ...; and a column `labels`
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors import safe_open

from kdlib import UsageError
from kdlib.plan.look import natural
from kdlib.plan.source import RATIO, most_unpacked

OTHERS = ("labels", "classes", "images")  # names that are no layer's


class Features(NamedTuple):
    """What a file of features holds."""

    networks: dict[str, dict[int, dict[str, np.ndarray]]]  # network -> seed -> layer -> (n, d)
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    images: np.ndarray | None


def read(path: Path) -> Features:
    """Read a file of features. Raises UsageError for one that cannot be read or holds none."""
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    try:
        arrays = readers[path.suffix.lower()](path)
    except Exception as problem:  # whatever a damaged file raises
        reason = " ".join(str(problem).split()) or type(problem).__name__
        if "allow_pickle" in reason:
            reason = "an array of objects is in it; allowed: of numbers, or of texts (astype(str))"
        raise UsageError(f"features {path}: cannot be read: {reason}") from problem
    networks = nested({key: x for key, x in arrays.items() if key not in OTHERS}, str(path))
    classes = arrays.get("classes")
    if classes is not None and classes.dtype.kind == "S":
        classes = np.char.decode(classes, "utf-8", "replace")
    names = None if classes is None else tuple(map(str, classes.ravel().tolist()))
    return Features(networks, arrays.get("labels"), names, arrays.get("images"))


def nested(
    arrays: Mapping[str, np.ndarray], where: str
) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Arrays by "network/layer" as network -> seed -> layer -> array, in their order.

    A network without @ and a number is seed 0. Raises UsageError for a name without a slash, a
    seed that stands there twice, and where there is none at all.
    """
    by_name: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        name, slash, layer = key.partition("/")
        if not (slash and name and layer):
            raise UsageError(
                f"features {where}: {key!r}; allowed: network/layer, {', '.join(OTHERS)}"
            )
        by_name.setdefault(name, {})[layer] = array
    if not by_name:
        raise UsageError(f"features {where}: no features; allowed: arrays called network/layer")
    networks: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, layers in by_name.items():
        parts = re.fullmatch(r"(.+)@([0-9]{1,9})", name)
        network, seed = (parts[1], int(parts[2])) if parts else (name, 0)
        seeds = networks.setdefault(network, {})
        if seed in seeds:
            raise UsageError(
                f"features {where}: {name!r} is seed {seed} of {network!r} once more; allowed: "
                "each seed once, as network@0/layer, network@1/layer"
            )
        seeds[seed] = layers
    return networks


def _npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_unpacked(path):
        raise ValueError(f"it unpacks to {unpacked / 2**30:,.1f} GiB, {RATIO} times its size")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, "numpy") as file:
        names = sorted(file.keys(), key=natural)
        short = {name for name in names if file.get_slice(name).get_dtype() == "BF16"}
        arrays = {
            name: _bfloat16(path, name) if name in short else file.get_tensor(name)
            for name in names
        }
        notes = file.metadata() or {}
    if "classes" in notes:
        arrays["classes"] = np.array(json.loads(notes["classes"]))
    return arrays


def _bfloat16(path: Path, name: str) -> np.ndarray:
    """A tensor of bfloat16, which NumPy does not know, as float32: the upper half of its bits."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        upper = np.frombuffer(file.read(end - begin), "<u2")
    bits: Any = upper.astype(np.uint32) << 16
    return bits.view(np.float32).reshape(entry["shape"])  # type: ignore[no-any-return]


def _parquet(path: Path) -> dict[str, np.ndarray]:
    table = pd.read_parquet(path)
    arrays: dict[str, Any] = {}
    columns: dict[str, list[str]] = {}
    for column in map(str, table.columns):
        name, _, number = column.rpartition("/")
        if column == "labels" and pd.api.types.is_scalar(table[column].iloc[0]):
            arrays[column] = table[column].to_numpy()
        elif number.isdecimal() and "/" in name:
            columns.setdefault(name, []).append(column)
        else:
            arrays[column] = np.stack([np.asarray(row) for row in table[column]])
    for name, parts in columns.items():
        arrays[name] = table[sorted(parts, key=natural)].to_numpy()
    return arrays
