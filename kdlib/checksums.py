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

from kdlib import UsageError

MARK = b"kdlib-checksum:"  # before the footer of a table, where no reader of parquet looks
DIGITS = 16  # of a checksum, hexadecimal
CODES = {  # of numbers in a safetensors file, in the order in which they lie there
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
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


def write_table(file: io.BufferedIOBase, table: pd.DataFrame) -> None:
    """Write the parquet file of a table, with its checksum."""
    plain: bytes = table.to_parquet(None, index=False, compression="zstd", compression_level=9)
    footer = _footer(plain)
    file.write(memoryview(plain)[:footer])
    file.write(MARK + _digits(of(plain)))
    file.write(memoryview(plain)[footer:])


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


def write_tensors(
    file: io.BufferedIOBase, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]
) -> str:
    """Write the safetensors file of some arrays with notes beside them; returns its checksum.

    Array by array: none is copied but one that is not contiguous. The format, of which the bytes
    are those that safetensors itself writes: 8 bytes with the length of the header, the header as
    JSON, filled up by spaces to a multiple of 8, and the arrays, largest numbers first. Raises
    UsageError for an array of anything but numbers.
    """
    for name, array in arrays.items():
        if array.dtype.name not in CODES:
            raise UsageError(f"array {name!r} is of {array.dtype}; allowed: {', '.join(CODES)}")
    kinds = list(CODES)
    order = sorted(arrays, key=lambda name: (kinds.index(arrays[name].dtype.name), name))
    blank = json.dumps({"checksum": "0" * DIGITS, **notes})
    header: dict[str, Any] = {"__metadata__": {"kdlib": blank}}  # one: several come in any order
    start = 0
    for name in order:
        array = arrays[name]
        end = start + array.nbytes
        code, shape = CODES[array.dtype.name], list(array.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    place = IN_HEADER.search(text)
    assert place is not None
    head = len(text).to_bytes(8, "little") + text
    file.write(head)
    total, written = of(head), 0
    for name in order:
        content = _content(arrays[name])
        file.write(content)
        total += _shifted(content, written % 8)
        written += len(content)
    checksum = _digits(total % 2**64)
    file.seek(8 + place.start(1))
    file.write(checksum)
    return checksum.decode()


def _content(array: np.ndarray) -> memoryview:
    """The bytes of an array, row by row, numbers little-endian."""
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return little.reshape(-1).view(np.uint8).data


def _shifted(content: memoryview, places: int) -> int:
    """As `of`, of bytes that begin so many places within a word."""
    begun = min(-places % 8, len(content))
    return (int.from_bytes(content[:begun], "little") << 8 * places) + of(content[begun:])


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
