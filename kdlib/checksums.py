"""Tables and tensors as files that notice a flipped bit.

Each file holds a checksum of all its other bytes, and stays a file that any program reads. One of
an earlier version of kdlib, or of another program, has none and is read as it is. The checksum is
a sum of 64-bit words, which costs less than a twentieth of the reading: CRC-32 or SHA-256 would
double it. It is made for accidents, not against forgers.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors import numpy as safetensors

MARK = b"kdlib-checksum:"  # before the footer of a table, where no reader of parquet looks
DIGITS = 16  # of a checksum, hexadecimal
IN_HEADER = re.compile(rb'checksum\\": \\"([0-9a-f]{16})')  # of tensors: JSON in a JSON


class Tensors(NamedTuple):
    """What a safetensors file holds."""

    arrays: dict[str, np.ndarray]
    header: bytes
    checksum: str  # empty where it has none

    @property
    def notes(self) -> dict[str, Any]:
        """What was written beside the arrays; of another program nothing."""
        notes: dict[str, Any] = json.loads(
            json.loads(self.header).get("__metadata__", {}).get("kdlib", "{}")
        )
        return notes


def of(content: bytes | memoryview) -> int:
    """The sum of the 64-bit words of some bytes modulo 2^64, the last one filled up by zeros.

    Every single flipped bit changes it.

    >>> of(bytes([1, 0, 0, 0, 0, 0, 0, 0, 2]))
    3
    """
    words = len(content) // 8
    total = int(np.frombuffer(content, "<u8", words).sum(dtype=np.uint64))
    return (total + int.from_bytes(content[8 * words :], "little")) % 2**64


def _digits(total: int) -> bytes:
    return f"{total:0{DIGITS}x}".encode()


def _check(written: bytes, total: int) -> None:
    if written != _digits(total):
        raise ValueError("its checksum is another, so it is damaged or was changed")


# ---- tables ------------------------------------------------------------------------------------


def table_file(table: pd.DataFrame) -> bytes:
    """The parquet file of a table, with its checksum."""
    plain: bytes = table.to_parquet(None, index=False, compression="zstd", compression_level=9)
    footer = _footer(plain)
    return plain[:footer] + MARK + _digits(of(plain)) + plain[footer:]


def table(content: bytes) -> pd.DataFrame:
    """The table of a parquet file. Raises ValueError for another checksum, or as pyarrow."""
    footer = _footer(content)
    digits = footer - DIGITS
    mark = digits - len(MARK)
    if mark >= 0 and content[mark:digits] == MARK:
        _check(content[digits:footer], of(content[:mark] + content[footer:]))
    found: pd.DataFrame = pd.read_parquet(io.BytesIO(content))
    return found


def _footer(content: bytes) -> int:
    """Where the footer begins, whose length stands at the end; its own places count from 0."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


# ---- tensors -----------------------------------------------------------------------------------


def tensors_file(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> tuple[bytes, str]:
    """The safetensors file of some arrays with notes beside them, and its checksum."""
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    blank = json.dumps({"checksum": "0" * DIGITS, **notes})
    plain = safetensors.save(ordered, {"kdlib": blank})  # one: several come in any order
    checksum = _digits(of(plain))
    place = IN_HEADER.search(plain)
    assert place is not None
    return plain[: place.start(1)] + checksum + plain[place.end(1) :], checksum.decode()


def tensors(content: bytes) -> Tensors:
    """What a safetensors file holds. Raises ValueError for another checksum, SafetensorError."""
    header = 8 + int.from_bytes(content[:8], "little")
    head, checksum = content[:header], b""
    if place := IN_HEADER.search(head):
        checksum = place[1]
        start, end = place.span(1)
        blank = head[:start] + b"0" * DIGITS + head[end:]
        total = of(blank) + of(memoryview(content)[header:])
        _check(checksum, total % 2**64)
    return Tensors(safetensors.load(content), head[8:], checksum.decode())
