"""Draw maps one by one, in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MAPS_PER_PROCESS = 32  # then a fresh one: a process that fits IVIS grows by about 7 MB a map


def each(
    draw: Callable[..., np.ndarray],
    layers: Sequence[np.ndarray],
    starts: Sequence[np.ndarray],
    workers: int,
    progress: Callable[[float], None],
) -> list[np.ndarray]:
    """Return draw(layer, start) of each pair, in `workers` processes; with one worker in this.

    Each process keeps to one thread, so that the bits do not depend on the number of workers.
    """
    drawn: list[Any] = [None] * len(layers)
    workers = min(workers, len(layers))
    if workers <= 1:
        for i, pair in enumerate(zip(layers, starts, strict=True)):
            drawn[i] = draw(*pair)
            progress((i + 1) / len(drawn))
        return drawn
    from joblib.externals.loky import ProcessPoolExecutor, as_completed

    single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    done, block = 0, workers * MAPS_PER_PROCESS
    for first in range(0, len(drawn), block):
        with ProcessPoolExecutor(workers, env=single) as pool:
            numbers = range(first, min(first + block, len(drawn)))
            jobs = {pool.submit(draw, layers[i], starts[i]): i for i in numbers}
            try:
                for job in as_completed(jobs):
                    drawn[jobs[job]] = job.result()
                    done += 1
                    progress(done / len(drawn))
            finally:
                for job in jobs:
                    job.cancel()
    return drawn
