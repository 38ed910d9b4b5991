"""How much faster are 48 maps made as a family than by 48 calls of a package?

    python benchmarks/maps.py --device cpu

Layers of eight networks, 2,000 images, all cores. In a pair a few of the 48 are made by each side,
other ones in each pair; time is per map. Quality is compared over all maps that were made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from images import layers
from pairs import PAIRS, Pair, Row, cores, device, keep, ratios, seconds
from sklearn.manifold import TSNE

from kdlib import embed
from kdlib.embed.ivis import MAPS_PER_BATCH
from kdlib.measure.faithfulness import faithfulness

N = 2000
NETWORKS = 8
STEPS = 1000  # of IVIS, as in the default study

Cells = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One row: an embedding of ours beside a package's, and the quality that has to be equal."""

    row: Row
    embedding: str
    options: Mapping[str, int]
    maps_at_once: int  # of ours; the package makes one
    package: Callable[[np.ndarray], np.ndarray]
    measure: str  # of quality, of `faithfulness`
    margin: float  # by which ours may be worse
    bottleneck: str  # what takes our time where that is too much


def cells_and_labels() -> tuple[Cells, np.ndarray]:
    """48 layers, and the labels of the images."""
    cells: Cells = {}
    for seed in range(NETWORKS):
        features, _, labels, _ = layers(seed, N, 0.5)
        cells |= {(f"network {seed}", layer): x for layer, x in features.items()}
    return cells, labels


def compare(cells: Cells, labels: np.ndarray, contest: Contest) -> tuple[list[Pair], float, float]:
    """Seconds per map of both sides, and the mean quality of theirs and of ours."""
    keys, options = list(cells), {"workers": cores(), **contest.options}
    pairs, theirs, ours = [], [], []

    def quality(cell: tuple[str, str], points: np.ndarray) -> float:
        return faithfulness(cells[cell], points, labels)[contest.measure]

    contest.package(layers(99, N, 0.5)[0]["pool"])  # what a package does once in a process
    for i in range(PAIRS):
        cell = keys[7 * i % len(keys)]
        numbers = range(7 * i, 7 * i + 5 * contest.maps_at_once, 5)
        chosen = {keys[j % len(keys)]: cells[keys[j % len(keys)]] for j in numbers}
        maps = {}

        def family(chosen: Cells = chosen, maps: dict = maps) -> None:
            silent = {"progress": lambda fraction: None}
            maps["ours"] = embed.family(chosen, contest.embedding, **options, **silent).maps

        def single(cell: tuple[str, str] = cell, maps: dict = maps) -> None:
            maps["theirs"] = contest.package(cells[cell])

        order = (single, family) if i % 2 else (family, single)
        times = {call: seconds(call) for call in order}
        pairs.append((times[single], times[family] / len(chosen)))
        theirs.append(quality(cell, maps["theirs"]))
        ours.append(quality(cell, maps["ours"][cell]))
    return pairs, mean(theirs), mean(ours)


def ivis_package(x: np.ndarray) -> np.ndarray:
    """The ivis package as this project uses it: neighbours given, annealed rate, equal steps."""
    return embed.embed(x, "ivis", engine="package", steps=STEPS, progress=lambda fraction: None)


def contests(where: torch.device) -> tuple[Contest, Contest]:
    """Both rows."""
    work = f"of 6 layers x {NETWORKS} networks, n = {N:,}"
    scaled = "{} maps of ours and one of theirs in a pair; the others take as long: time is per map"
    batches = NETWORKS * 6 if where.type == "cuda" else MAPS_PER_BATCH * cores()
    return (
        Contest(
            row=Row(
                "tsne",
                f"t-SNE {work}, uncoupled as all numbers about maps are",
                "scikit-learn's TSNE with its defaults, a call for each",
                3.0,
                scaled=scaled.format(2 * cores()),
            ),
            embedding="tsne",
            options={"coupling": 0},
            maps_at_once=2 * cores(),
            package=TSNE().fit_transform,
            measure="trustworthiness",
            margin=0.005,
            bottleneck="nine tenths: the exact gradient, n squared; two thirds of that repulsion",
        ),
        Contest(
            row=Row(
                "ivis",
                f"IVIS {work}, {STEPS:,} steps",
                "the ivis package, equal steps and neighbours, a call for each",
                4.0,
                scaled=scaled.format(batches),
            ),
            embedding="ivis",
            options={"steps": STEPS},
            maps_at_once=batches,
            package=ivis_package,
            measure="map_knn",
            margin=0.02,
            bottleneck="half are matrix products, near what the processor can; a seventh is SELU",
        ),
    )


def main() -> None:
    """Measure both rows; a row counts only where the quality is no worse."""
    where = device(__doc__)
    cells, labels = cells_and_labels()
    for contest in contests(where):
        pairs, theirs, ours = compare(cells, labels, contest)
        better = "better" if ours > theirs else "worse"
        verdict = "equal" if abs(ours - theirs) <= contest.margin else better
        quality = (
            f"{contest.measure} {ours:.3f} of ours, {theirs:.3f} of theirs, "
            f"{verdict} within {contest.margin:g}"
        )
        print(quality, flush=True)
        fair = verdict != "worse"
        why = contest.bottleneck if fair else quality
        keep(contest.row, ratios(contest.row, pairs), where, why, quality, fair)


if __name__ == "__main__":
    main()
