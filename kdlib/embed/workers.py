"""Make maps one by one, in several processes at once, and report how far they are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

Progress = Callable[[float], None]  # takes the fraction done, 0 to 1
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
INTERVAL = 0.25  # seconds between two reports, at least


def parallel(
    function: Callable[..., np.ndarray],
    layers: Sequence[np.ndarray],
    starts: Sequence[np.ndarray],
    workers: int,
    progress: Progress,
) -> list[np.ndarray]:
    """Return function(layer, start) of every pair, made in `workers` processes; in this one if 1.

    Each process keeps to one thread, so that the bits do not depend on the number of workers.
    """
    from joblib import Parallel, delayed, parallel_config

    jobs = (delayed(function)(*pair) for pair in zip(layers, starts, strict=True))
    maps = []
    end = {"initializer": _end_with, "initargs": (os.getpid(),)}  # equal ones: kept between calls
    with parallel_config("loky", inner_max_num_threads=1, **end):
        pool = Parallel(min(workers, len(layers)), return_as="generator", max_nbytes=None)
        for points in pool(jobs):
            maps.append(points)
            progress(len(maps) / len(layers))
    return maps


def _end_with(parent: int) -> None:
    """Let this process end when the one that started it is gone: a kill reaches no child."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def reporting(title: str, progress: Progress | None) -> Iterator[Progress]:
    """Pass the fraction done on to `progress`, or to a bar on stderr after two seconds.

    At most four reports a second, each above the last; 1 is reported once, at the end.
    """
    bar = tqdm(total=1.0, desc=title, delay=2, bar_format=BAR, disable=progress is not None)
    report = progress or (lambda fraction: bar.update(fraction - bar.n))
    last, highest = -np.inf, 0.0

    def throttled(fraction: float) -> None:
        nonlocal last, highest
        if highest < fraction < 1 and time.monotonic() - last >= INTERVAL:
            last, highest = time.monotonic(), float(fraction)
            report(highest)

    with bar:
        yield throttled
        report(1.0)
