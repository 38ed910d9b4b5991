"""Two ways to do the same work, measured side by side; every script of this folder does it so.

Both ways run in turn, in one process, after one round that does not count; who begins alternates.
A row of the table is the median ratio of the pairs and their range. Seconds are those of the wall
clock, on a GPU until its work is done; what counts is the ratio, for both ways share the moment.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from time import perf_counter
from typing import Any

import torch

from kdlib import store

PAIRS = 5
Pair = tuple[float, float]  # seconds of the other way, and of ours


@dataclass(frozen=True)
class Row:
    """One line of the table: what is done, beside what, and the ratio aimed at."""

    name: str
    work: str
    against: str
    target: float
    at_most: bool = False  # the ratio of ours to the other; else of the other to ours, at least
    scaled: str = ""  # what stands for what
    unit: str = "times"  # or s: seconds of ours, where nothing stands beside it


def device(about: str | None) -> torch.device:
    """The device that the command line names: --device cpu or cuda."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return torch.device(parser.parse_args().device)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Those cores in words."""
    return f"{cores()} core{'s' if cores() > 1 else ''}"


def seconds(call: Callable[[], Any], device: torch.device | None = None) -> float:
    """Wall-clock seconds of one call, on a GPU until its work is done."""
    _wait(device)
    start = perf_counter()
    call()
    _wait(device)
    return perf_counter() - start


def pairs(
    other: Callable[[], Any],
    ours: Callable[[], Any],
    device: torch.device | None = None,
    times: int = PAIRS,
    warm: bool = True,
) -> list[Pair]:
    """Seconds of both ways, in turn; with `warm`, a first round does not count."""
    measured = []
    for i in range(times + warm):
        both = (other, ours) if i % 2 else (ours, other)
        took = [seconds(call, device) for call in both]
        measured.append((took[0], took[1]) if i % 2 else (took[1], took[0]))
    return measured[warm:]


def ratios(row: Row, measured: Sequence[Pair]) -> list[float]:
    """One number per pair, in the direction of the row."""
    if row.unit == "s":
        return [ours for _, ours in measured]
    return [ours / other if row.at_most else other / ours for other, ours in measured]


def keep(
    row: Row,
    numbers: Sequence[float],
    device: torch.device | None = None,
    why: str = "",
    note: str = "",
    fair: bool = True,
) -> None:
    """Print a row and write it into the table that the book shows.

    `why` is stored only where that ratio is not reached: what takes the time instead. A row
    that is not `fair`, for ours is of less quality, is not reached.
    """
    middle = median(numbers)
    reached = fair and (middle <= row.target if row.at_most else middle >= row.target)
    gpu = device is not None and device.type == "cuda"
    entry = {
        "work": row.work,
        "against": row.against,
        "bound": "at most" if row.at_most else "at least",
        "target": row.target,
        "unit": row.unit,
        "median": round(middle, 3),
        "low": round(min(numbers), 3),
        "high": round(max(numbers), 3),
        "pairs": len(numbers),
        "reached": reached,
        "why": "" if reached else why,
        "note": "; ".join(filter(None, (row.scaled, note))),
        "machine": torch.cuda.get_device_name() if gpu else machine(),
        "date": date.today().isoformat(),
    }
    spread = f"{entry['low']:g} to {entry['high']:g}, {len(numbers)} pairs"
    target = f"{entry['bound']} {row.target:g}"
    print(
        f"{row.name:12} {middle:7.2f} {row.unit} ({spread}; target: {target}) {entry['why']}",
        flush=True,
    )
    table = store.load_benchmark("benchmarks", "speed")
    column = table.setdefault("gpu" if gpu else "cpu", {})
    column[row.name] = entry
    store.save_benchmark("benchmarks", "speed", table)


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
