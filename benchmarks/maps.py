"""How much faster are 48 maps drawn as a family than by 48 calls of a package?

    python benchmarks/maps.py --device cpu

Layers of eight networks, 2,000 images, all cores. In a pair a few of the 48 are drawn each way,
other ones in each pair; time is per map. Quality is compared over all maps that were drawn.
"""

from collections.abc import Callable, Sequence
from statistics import mean

import numpy as np
import torch
from pairs import PAIRS, Pair, Row, cores, device, keep, ratios, seconds
from seen import layers
from sklearn.manifold import TSNE

from kdlib import embed
from kdlib.embed.ivis import TOGETHER
from kdlib.measure import faithfulness

N = 2000
NETWORKS = 8
STEPS = 1000  # of IVIS, as in the default study
WHY = {  # what takes our time where that is too much
    "tsne": "nine tenths are the exact gradient, n squared; two thirds of that repulsion",
    "ivis": "half are matrix products, near what the processor can; a seventh is SELU",
}

Cells = dict[tuple[str, str], np.ndarray]
Draw = Callable[[np.ndarray], np.ndarray]


def families() -> tuple[Cells, np.ndarray]:
    """48 layers, and the labels of the images."""
    cells: Cells = {}
    for seed in range(NETWORKS):
        seen, _, labels, _ = layers(seed, N, 0.5)
        cells |= {(f"network {seed}", layer): x for layer, x in seen.items()}
    return cells, labels


def quality(name: str, x: np.ndarray, points: np.ndarray, labels: np.ndarray) -> float:
    """One number of a map: its trustworthiness, or its k-NN accuracy."""
    return faithfulness.faithfulness(x, points, labels)[name]


def compare(
    cells: Cells,
    labels: np.ndarray,
    method: str,
    draw: Draw,
    at_once: int,
    asked: str,
    **options: int,
) -> tuple[list[Pair], float, float]:
    """Seconds per map of both ways, and the mean quality of theirs and of ours."""
    keys, measured, theirs, ours = list(cells), [], [], []
    first = layers(99, N, 0.5)[0]["pool"]
    draw(first)  # what a package does once in a process
    for i in range(PAIRS):
        block = {keys[(7 * i + 5 * j) % len(keys)]: None for j in range(at_once)}
        chosen = {key: cells[key] for key in block}
        made = {}

        def family(chosen: Cells = chosen, made: dict = made) -> None:
            how = {"workers": cores(), "progress": lambda done: None, **options}
            made["ours"] = embed.family(chosen, method, **how).maps

        def one(key: tuple[str, str] = keys[7 * i % len(keys)], made: dict = made) -> None:
            made["theirs"] = key, draw(cells[key])

        both = (one, family) if i % 2 else (family, one)
        took = {call: seconds(call) for call in both}
        measured.append((took[one], took[family] / len(chosen)))
        key, points = made["theirs"]
        theirs.append(quality(asked, cells[key], points, labels))
        ours.append(quality(asked, cells[key], made["ours"][key], labels))
    return measured, mean(theirs), mean(ours)


def told(asked: str, theirs: float, ours: float, margin: float) -> str:
    """The quality of both, in words."""
    equal = "equal" if abs(ours - theirs) <= margin else "better" if ours > theirs else "worse"
    return f"{asked} {ours:.3f} of ours, {theirs:.3f} of theirs, {equal} within {margin:g}"


def package(x: np.ndarray) -> np.ndarray:
    """The ivis package as this project uses it: neighbours given, annealed rate, equal steps."""
    how = {"engine": "package", "steps": STEPS, "progress": lambda done: None}
    return embed.embed(x, "ivis", **how)


def rows(where: torch.device) -> Sequence[tuple[Row, str, Draw, int, str, float, dict[str, int]]]:
    """Both rows: how theirs is drawn, how many maps of ours at once, and the quality asked."""
    n = f"of 6 layers x {NETWORKS} networks, n = {N:,}"
    many = 48 if where.type == "cuda" else TOGETHER * cores()
    stands = "the others take as long: time is per map"
    return (
        (
            Row(
                "tsne",
                f"t-SNE {n}, uncoupled as all numbers about maps are",
                "scikit-learn's TSNE with its defaults, a call for each",
                3.0,
                scaled=f"{2 * cores()} maps of ours and one of theirs in a pair; {stands}",
            ),
            *("tsne", TSNE().fit_transform, 2 * cores(), "trustworthiness", 0.005),
            {"coupling": 0},
        ),
        (
            Row(
                "ivis",
                f"IVIS {n}, {STEPS:,} steps",
                "the ivis package, equal steps and neighbours, a call for each",
                4.0,
                scaled=f"{many} maps of ours and one of theirs in a pair; {stands}",
            ),
            *("ivis", package, many, "map_knn", 0.02),
            {"steps": STEPS},
        ),
    )


def main() -> None:
    """Measure both rows; a row counts only where the quality is no worse."""
    where = device(__doc__)
    cells, labels = families()
    for row, method, draw, at_once, asked, margin, options in rows(where):
        measured, theirs, ours = compare(cells, labels, method, draw, at_once, asked, **options)
        words = told(asked, theirs, ours, margin)
        print(words, flush=True)
        fair = ours >= theirs - margin
        keep(row, ratios(row, measured), where, WHY[method] if fair else words, words, fair)


if __name__ == "__main__":
    main()
