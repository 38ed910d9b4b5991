"""The tables of a look, from features: any ordered list of layers, and networks of unequal depth.

Layers of two networks are laid side by side by relative depth: 0 is a network's first layer, 1 its
last, the others lie evenly between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from kdlib import UsageError, embed, store
from kdlib.measure import faithfulness, metrics
from kdlib.measure import similarity as similarities
from kdlib.measure.depth import relative
from kdlib.measure.metrics import MEASURES
from kdlib.measure.space import Space

RESTARTED = 2000  # images up to which maps are made three times, for numbers about maps
JUDGED = 2000  # images whose neighbours on a map are compared with those in the layer
SINGULAR = (UsageError, np.linalg.LinAlgError, ValueError, ZeroDivisionError)

Features = Mapping[str, np.ndarray]  # layer -> (n, d), from first to last


def beside(own: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """For each layer of one network that of another which is nearest in relative depth."""
    places = relative(len(other))
    return {
        layer: other[min(range(len(other)), key=lambda i: abs(places[i] - depth))]
        for layer, depth in zip(own, relative(len(own)), strict=True)
    }


def in_order(layers: Mapping[str, Sequence[str]]) -> list[str]:
    """Every layer's name once, by its mean relative depth."""
    places: dict[str, list[float]] = {}
    for names in layers.values():
        for name, depth in zip(names, relative(len(names)), strict=True):
            places.setdefault(name, []).append(depth)
    return sorted(places, key=lambda name: float(np.mean(places[name])))


# ---- runs and predictions ----------------------------------------------------------------------


def runs(
    subjects: Sequence[Any],
    teacher: str,
    teacher_run: str,
    guesses: Mapping[str, np.ndarray],
    labels: Int[np.ndarray, " n"] | None,
) -> pd.DataFrame:
    """The table `runs`; what is not known is NaN or empty. Accuracies are those on the sample."""
    rows = []
    for subject in subjects:
        student = subject.network != teacher
        guess = guesses.get(subject.run)
        right = math.nan if guess is None or labels is None else float((guess == labels).mean())
        known = {
            "run": subject.run,
            "role": "student" if student else "teacher",
            "network": subject.network,
            "width": 1.0,
            "method": subject.network,
            "seed": subject.seed,
            "teacher": teacher_run if student else "",
            "teacher_network": teacher if student else "",
            "weights": subject.facts.get("weights", ""),
            "unlabelled": False,
            "precision": "float32",
            "parameters": float(subject.facts["parameters"]),
            "test_accuracy": right,
            **dict.fromkeys(("calibration_error", *store.OPTIONAL, "seconds"), math.nan),
        }
        rows.append([known.get(column, "") for column in store.TABLES["runs"].columns])
    return pd.DataFrame(rows, columns=store.TABLES["runs"].columns)


def predictions(subjects: Sequence[Any], classes: int) -> dict[str, Int[np.ndarray, " n"]]:
    """The class of the largest logit, of networks that have one for each class."""
    made = {}
    for subject in subjects:
        logits = subject.layers.get("logits")
        if classes and logits is not None and logits.shape[1] == classes:
            made[subject.run] = logits.argmax(axis=1)
    return made


def by_chance(
    guess: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], classes: int
) -> list[str]:
    """A note where a network is right no more often than by chance, by two standard deviations."""
    right, chance = float((guess == labels).mean()), 1 / classes
    if classes < 2 or right > chance + 2 * math.sqrt(chance * (1 - chance) / len(labels)):
        return []
    return [
        f"right on {right:.1%} of the images, as by chance: normalisation and order of the classes "
        "may not be those of its training"
    ]


def of_predictions(guesses: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The table `predictions`."""
    if not guesses:
        return store.empty("predictions")
    columns = {run: guess[:, None] for run, guess in guesses.items()}
    table = store.cells(columns, "run", "image", "", "prediction")
    return table[store.TABLES["predictions"].columns]


# ---- measures ----------------------------------------------------------------------------------


def measures(
    layers: Features,
    labels: Int[np.ndarray, " n"] | None,
    train: Features,
    train_labels: Int[np.ndarray, " m"] | None,
    teacher: Features | None,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Every measure of every layer that can be computed, and why the others cannot.

    Probes are fitted to the training features; without those to one half of the images and tested
    on the other, each in its turn.
    """
    values: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    pairs = beside(list(layers), list(teacher)) if teacher else {}
    others = {name: Space(x, labels) for name, x in (teacher or {}).items()}
    for layer, x in layers.items():
        values[layer] = {}
        pair = others.get(pairs.get(layer, ""))
        whole = Space(x, labels)
        trained = Space(x, labels, train[layer], train_labels) if train else None
        for name, entry in MEASURES.items():
            if entry.needs == "teacher" and teacher is None:
                continue
            if entry.only and not (layer == entry.only == pairs.get(layer)):
                continue
            try:
                if entry.needs == "training":
                    value = _probe(name, x, labels, trained)
                else:
                    value = metrics.measure(whole, pair, layer=layer, measures=[name])[name]
            except SINGULAR as problem:
                left_out[name] = " ".join(str(problem).split())
                continue
            if math.isfinite(value):
                values[layer][name] = value
            else:
                left_out[name] = f"not finite in {layer}"
    return values, left_out


def _probe(
    name: str, x: np.ndarray, labels: Int[np.ndarray, " n"] | None, trained: Space | None
) -> float:
    """A measure that needs training images: with them, or by halves."""
    if trained is not None:
        _check_classes(trained.train[1])
        return metrics.measure(trained, measures=[name])[name]
    if labels is None:
        raise UsageError("needs the label of every image; there are none")
    _check_classes(labels)
    first = _half(labels)
    folds = [(first, ~first), (~first, first)]
    values = [
        metrics.measure(Space(x[a], labels[a], x[b], labels[b]), measures=[name])[name]
        for a, b in folds
    ]
    return float(np.average(values, weights=[a.sum() for a, _ in folds]))


def _check_classes(labels: Int[np.ndarray, " n"]) -> None:
    """Raise UsageError where a probe would be fitted to a class of hardly an image."""
    k = len(np.unique(labels))
    if len(labels) < 4 * k:
        raise UsageError(f"needs four images of each class; given {len(labels)} of {k} classes")


def _half(labels: Int[np.ndarray, " n"]) -> np.ndarray:
    """Every second image of each class, in random order."""
    order = np.random.default_rng(0).permutation(len(labels))
    half = np.zeros(len(labels), dtype=bool)
    for number, k in enumerate(np.unique(labels)):
        half[order[labels[order] == k][number % 2 :: 2]] = True
    return half


def similarity(layers: Features, teacher: Features) -> dict[tuple[str, str], float]:
    """Debiased CKA of every layer with every layer of the teacher, where it is defined."""
    own = {name: Space(x, None) for name, x in layers.items()}
    other = {name: Space(x, None) for name, x in teacher.items()}
    made = {}
    for a, x in own.items():
        for b, y in other.items():
            try:
                made[a, b] = similarities.cka(x, y)
            except UsageError:  # layers that vary in one image only
                made[a, b] = math.nan
    return made


# ---- maps --------------------------------------------------------------------------------------


def maps(
    networks: Mapping[str, Features],
    kind: str,
    labels: Int[np.ndarray, " n"] | None,
    workers: int,
) -> dict[str, pd.DataFrame]:
    """The tables `maps`, `faithfulness` and `neighbours` by one embedding.

    Maps are coupled along the layers of a network, and between networks where layers are as deep:
    a network of fewer layers takes the nearest places of the one that has most. Numbers about what
    a map shows of classes come from maps made separately, for at most 2,000 images.
    """
    features, cells = _by_place(networks)
    n = len(next(iter(features.values())))
    family = embed.family(features, kind, workers=workers)
    restarts = []
    if n <= RESTARTED:
        restarts = embed.restarts(features, kind, first=family.unaligned, workers=workers)
    floor = embed.noise_floor(restarts) if restarts else {}
    points, numbers, near = {}, {}, {}
    step = -(-n // JUDGED)
    for place, x in features.items():
        xy, cell = family.maps[place], cells[place]
        values = faithfulness.faithfulness(x, xy, labels, step=step)
        values.pop("map_knn", None)  # coupled maps borrow from each other
        if restarts and labels is not None:
            separate = pd.DataFrame([_classes_on(each[place], labels) for each in restarts])
            values |= separate.mean().to_dict()
        if floor:
            values["noise_floor"] = floor[place]
        numbers[cell] = values
        points[cell] = np.c_[xy, faithfulness.neighbourhood_change(x, xy)]
        near[cell] = faithfulness.nearest(x)
    made = {"embedding": kind, "engine": family.engine, "coupling": family.coupling}
    levels, ranked = ("run", "layer"), ("image", "rank", "neighbour")
    frames = {
        "maps": store.points(points, *levels, columns=("x", "y", "error")),
        "faithfulness": store.numbers(numbers, *levels, "measure"),
        "neighbours": store.cells(near, *levels, *ranked).astype(dict.fromkeys(ranked, "int32")),
    }
    return {
        name: frame.assign(**made)[store.TABLES[name].columns] for name, frame in frames.items()
    }


def _classes_on(points: Float[np.ndarray, "n 2"], labels: np.ndarray) -> dict[str, float]:
    try:
        return faithfulness.map_measures(points, labels)
    except SINGULAR:  # a class for every image
        return {}


def _by_place(
    networks: Mapping[str, Features],
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], tuple[str, str]]]:
    """Features by network and place among the layers of the deepest, and the layer at each."""
    most = max(map(len, networks.values()))
    features, cells = {}, {}
    for run, layers in networks.items():
        for depth, (layer, x) in zip(relative(len(layers)), layers.items(), strict=True):
            place = run, str(math.floor(depth * (most - 1) + 0.5))
            features[place], cells[place] = x, (run, layer)
    return features, cells
