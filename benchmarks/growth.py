"""How do time and memory of each stage grow with the images, and with the width?

    python benchmarks/growth.py

Maps and measures of 1,000 to 10,000 images, features and training at one to four times the width.
Each point runs in a process of its own, so that its peak memory is its own; ratios to the smallest
size are kept, never seconds, and the exponent of a line through them on logarithmic axes.
"""

import json
import subprocess
import sys
from datetime import date
from functools import partial
from time import process_time
from typing import Any

import numpy as np
import torch
from pairs import cores

from kdlib import store

SIZES = (1000, 2000, 5000, 10_000)
WIDTHS = (1.0, 2.0, 4.0)
STEPS = 200  # of IVIS, or 20 epochs, whatever is more: from 320 images on, n
LIMIT = 1.25  # the exponent of n log n over a decade is about 1.15
REASONS = {  # of stages whose method itself grows faster
    "tsne": "exact neighbours and, up to 8,000 images, the exact gradient: n squared",
    "measures": "exact neighbours and the k-NN probe: n squared; RSA takes 1,000 images at most",
    "faithfulness": "ranks of all images from each: n squared log n, in blocks of memory",
    "train": "a convolution's work goes with the square of its width",
    "features": "a convolution's work goes with the square of its width",
}


def cloud(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n points of ten classes in 64 dimensions; what is timed depends little on what they are."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 10
    points = rng.normal(size=(10, 64))[labels] + rng.normal(size=(n, 64))
    return points.astype(np.float32), labels


def stage(name: str, size: float) -> Any:
    """The call that is measured; its arguments are made before."""
    from epoch import BATCH, noise

    from kdlib import embed, features, models, train
    from kdlib.data import Batches
    from kdlib.measure import faithfulness, metrics, space
    from kdlib.plan.runs import Student

    silent = {"progress": lambda fraction: None}
    if name in ("train", "features"):
        images = noise(256)
        network = models.build("resnet8", classes=10, channels=3, width=size, seed=0)
        run = Student(method="baseline", width=size, epochs=1, batch_size=BATCH)
        if name == "train":
            return partial(train.fit, network, Batches(images, torch.arange(256), BATCH, 0), run)
        return partial(features.extract, network, images.train, mean=images.mean, std=images.std)
    x, y = cloud(int(size))
    train_x, train_y = cloud(2000)
    calls = {
        "tsne": partial(embed.embed, x, "tsne", iterations=50, **silent),
        "ivis": partial(embed.embed, x, "ivis", steps=STEPS, **silent),
        "measures": lambda: metrics.measure(space.Space(x, y, train_x, train_y)),
        "faithfulness": partial(faithfulness.faithfulness, x, x[:, :2], y),
    }
    return calls[name]


def point(name: str, size: float) -> None:
    """Measure one stage at one size, in this process: CPU seconds, and growth of peak memory."""
    from resource import RUSAGE_SELF, getrusage

    torch.set_num_threads(1)
    stage(name, {"train": 0.25, "features": 0.25}.get(name, 200))()  # imports, first calls
    call = stage(name, size)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    start = process_time()
    call()
    elapsed = process_time() - start
    print(json.dumps({"seconds": elapsed, "kilobytes": getrusage(RUSAGE_SELF).ru_maxrss - before}))


def measured(name: str, size: float) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, name, str(size)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(process.stdout.splitlines()[-1])


def curve(name: str, sizes: tuple[float, ...]) -> dict[str, Any]:
    """Time and memory at each size beside the smallest, and the exponents of time and memory."""
    points = [measured(name, size) for size in sizes]
    times = np.array([row["seconds"] for row in points])
    memory = np.array([max(row["kilobytes"], 1024) for row in points])  # below 1 MB is noise
    slope, memory_slope = (
        float(np.polyfit(np.log(sizes), np.log(y), 1)[0]) for y in (times, memory)
    )
    return {
        "of": "width" if sizes == WIDTHS else "images",
        "sizes": sizes,
        "times": [round(float(t), 2) for t in times / times[0]],
        "megabytes": [round(float(m) / 1024) for m in memory],
        "exponent": round(slope, 2),
        "memory_exponent": round(memory_slope, 2),
        "why": REASONS.get(name, "") if max(slope, memory_slope) > LIMIT else "",
        "date": date.today().isoformat(),
        "machine": f"{cores()} cores, one used",
    }


def main() -> None:
    """Measure every stage."""
    curves = {}
    for name in ("tsne", "ivis", "measures", "faithfulness", "features", "train"):
        row = curves[name] = curve(name, WIDTHS if name in ("train", "features") else SIZES)
        growth = f"exponent {row['exponent']} in time, {row['memory_exponent']} in memory"
        print(
            f"{name:12} {row['times']} times at {row['sizes']}; {growth}. {row['why']}", flush=True
        )
    store.save_benchmark("benchmarks", "growth", curves)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        point(sys.argv[1], float(sys.argv[2]))
    else:
        main()
