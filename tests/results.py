"""Small invented results: distilled layers separate classes sooner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from kdlib.embed.compare import PACKAGE
from kdlib.store import TABLES, Results, publish

LAYERS = ("stem", "block1", "block2", "block3", "pool", "logits")
METHODS = ("baseline", "smooth", "kd", "fitnet", "at")
MAPPED = ("teacher", "baseline", "kd", "at")
EMBEDDINGS = ("tsne", "ivis")
ENGINES = {"tsne": "openTSNE 1.0.4", "ivis": "torch 2.13.0"}
COUPLING = {"tsne": 0.1, "ivis": 0.0}
SKILL = {"teacher": 1.0, "baseline": 0.45, "smooth": 0.48, "kd": 0.72, "fitnet": 0.6, "at": 0.66}
HELP = {"2": 0.0, "5": 0.1, "all": 0.2}
EPOCHS = (0, 1, 3, 8)  # of the film


RUN = {  # of a student, unless a test says otherwise
    **{"role": "student", "network": "resnet8", "width": 1.0, "method": "kd", "labels": "2"},
    **{"seed": 0, "teacher": "", "teacher_network": "", "regime": "", "options": ""},
    **{"weights": "", "calibration_error": 0.1, "train_accuracy": None, "train_confidence": None},
    **{"unlabelled": True, "precision": "float32", "parameters": 10, "test_accuracy": 0.5},
    "seconds": 1.0,
}


def table_of_runs(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table `runs`, with what the rows leave out."""
    return pd.DataFrame([RUN | row for row in rows])


def make(
    folder: str | Path | None = None,
    networks: Sequence[str] = ("resnet8x0.5",),
    n: int = 120,
    *,
    seeds: int = 3,
    labels: Sequence[str] = ("2", "5", "all"),
) -> Results:
    """Invent results; with a folder, also write them where `store.load` finds them."""
    digits = load_digits()
    image = np.arange(n) % len(digits.target)
    images = (digits.images[image, :, :, None] * 15.9).astype(np.uint8)
    truth = digits.target[image].astype(np.int64)
    runs = pd.DataFrame(_runs(networks, seeds, labels))
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in list(TABLES)[1:]}
    for number, run in enumerate(runs.to_dict("records")):
        generator = np.random.default_rng(number)
        _measure(run, tables, generator)
        wrong = generator.random(n) > run["test_accuracy"]
        guess = np.where(wrong, (truth + generator.integers(1, 10, n)) % 10, truth)
        rows = {"run": run["run"], "image": np.arange(n), "prediction": guess}
        tables["predictions"].append(pd.DataFrame(rows))
        if run["seed"] == 0 and (run["method"] in MAPPED or run["role"] == "teacher"):
            _maps(run, truth, guess, tables, generator)
            _logits(run, truth, tables)
    study = {
        "name": "invented",
        "dataset": "digits",
        "classes": [str(i) for i in range(10)],
        "layers": list(LAYERS),
        "embeddings": list(EMBEDDINGS),
    }
    _compare_procedures(truth, tables)
    _film(runs[(runs["role"] == "student") & (runs["labels"] == labels[0])], truth, tables)
    frames = {name: pd.concat(rows, ignore_index=True) for name, rows in tables.items()}
    results = Results(study, runs=runs, **frames, images=images, labels=truth)
    if folder is not None:
        publish(Path(folder), results)
    return results


def _runs(networks: Sequence[str], seeds: int, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for seed in range(seeds):
        yield _run("teacher", "resnet20", "baseline", "all", seed, 272_474)
    for cell in itertools.product(networks, METHODS, labels, range(seeds)):
        yield _run("student", *cell, 19_700)


def _run(role: str, network: str, method: str, labels: str, seed: int, size: int) -> dict[str, Any]:
    skill = _skill(role, method, labels)
    student = f"students/resnet20-full/{network}-{method}-{labels}-{seed}"
    distilled = role == "student" and method not in ("baseline", "smooth")
    return {
        "run": student if role == "student" else f"teachers/{network}-full-{seed}",
        "role": role,
        "network": network,
        "width": 0.5 if network.endswith("x0.5") else 1.0,
        "method": method,
        "labels": labels,
        "seed": seed,
        "teacher": "teachers/resnet20-full-0" if distilled else "",
        "teacher_network": "resnet20" if distilled else "",
        "regime": "full" if distilled or role == "teacher" else "",
        "weights": "random" if distilled or role == "teacher" else "",
        "options": "",
        "unlabelled": role == "student",
        "precision": "float32",
        "parameters": size,
        "test_accuracy": min(0.99, 0.3 + 0.65 * skill + 0.01 * np.sin(7 * seed + 3 * skill)),
        "calibration_error": 0.1,
        "train_accuracy": None if distilled or role != "teacher" else 0.999,
        "train_confidence": None if distilled or role != "teacher" else 0.99,
        "seconds": 3.0,
    }


def _skill(role: str, method: str, labels: str) -> float:
    return 1.0 if role == "teacher" else min(1.0, SKILL[method] + HELP.get(labels, 0.05))


def _order(run: dict[str, Any], depth: int) -> float:
    """How well a layer separates the classes, 0..1."""
    skill = _skill(run["role"], run["method"], run["labels"])
    return skill * (0.25 + 0.75 * depth / (len(LAYERS) - 1)) ** (1.6 - skill)


def _measure(run: dict[str, Any], tables: dict[str, list[pd.DataFrame]], generator: Any) -> None:
    for depth, layer in enumerate(LAYERS):
        order = _order(run, depth)
        values = {
            "within_share": 1 - 0.8 * order,
            "silhouette": -0.05 + 0.6 * order,
            "knn": 0.25 + 0.7 * order,
            "probe": 0.35 + 0.62 * order,
        }
        rows = pd.DataFrame({"measure": values.keys(), "value": values.values()})
        rows["value"] += generator.normal(0, 0.012, len(rows))
        share = max(rows["value"].iloc[0], 0)  # the within-class share
        rows.loc[len(rows)] = ["within_rms", np.sqrt(share)]
        tables["measures"].append(rows.assign(run=run["run"], layer=layer, view="pooled"))
    _compare(run, tables)


def _compare(run: dict[str, Any], tables: dict[str, list[pd.DataFrame]]) -> None:
    """How like the teacher's each layer is: most where both are equally deep."""
    rows = [
        (run["run"], own, other, 1 - 0.15 * abs(i - j) - 0.3 * (1 - _order(run, i)), "pooled")
        for i, own in enumerate(LAYERS)
        for j, other in enumerate(LAYERS)
        if run["role"] == "student"
    ]
    if rows:
        tables["similarity"].append(pd.DataFrame(rows, columns=TABLES["similarity"].columns))


def _compare_procedures(truth: np.ndarray, tables: dict[str, list[pd.DataFrame]]) -> None:
    """Maps of baseline and kd by each procedure; block2 by three settings and two seeds."""
    runs = [f"students/resnet20-full/resnet8x0.5-{method}-2-0" for method in ("baseline", "kd")]
    moved = {"own start": 1.0, "shared start": 0.5, "again 1": 0.5, "again 2": 0.5}
    moved |= {"coupled": 0.2, "ivis": 0.6, "pca": 0.3}
    more = {"ivis": -0.05, "again 1": 0.04, "again 2": -0.02}
    rows = [
        *(("original space", run, layer, "map_knn", 0.9) for run in runs for layer in LAYERS),
        *(
            (w, runs[1], "block2", "map_knn", v)
            for w, v in (("shuffled", 1), ("unsupervised", 0.1))
        ),
    ]
    for (procedure, far), (depth, layer) in itertools.product(moved.items(), enumerate(LAYERS)):
        rows += [(procedure, runs[1], layer, "displacement", far)]
        rows += [(procedure, runs[1], layer, "displacement_turned", 0.7 * far)]
        for run, name in itertools.product(runs, ("trustworthiness", "neighbours_kept", "map_knn")):
            rows.append((procedure, run, layer, name, 0.5 + 0.08 * depth + more.get(procedure, 0)))
    tables["comparison"].append(pd.DataFrame(rows, columns=TABLES["comparison"].columns))
    settings = [("tsne", 5), ("tsne", 30), ("ivis", 15), (PACKAGE, 15)]
    for number, ((kind, k), seed, run) in enumerate(itertools.product(settings, (0, 1), runs)):
        if kind == PACKAGE and run == runs[0]:
            continue  # the package maps the last network only
        x, y = np.random.default_rng(number).normal(size=(2, len(truth))).round(3)
        knn = 0.82 if kind == PACKAGE else 0.8
        numbers = {"trustworthiness": 0.9, "neighbours_kept": 0.4, "map_knn": knn}
        cell = {"run": run, "layer": "block2", "embedding": kind, "setting": k, "seed": seed}
        points = {"image": np.arange(len(truth)), "x": x, "y": y, "map_silhouette": 0.01 * k}
        table = pd.DataFrame(cell | points | numbers)[TABLES["sweeps"].columns]
        tables["sweeps"].append(table)


def _film(runs: pd.DataFrame, truth: np.ndarray, tables: dict[str, list[pd.DataFrame]]) -> None:
    """Layers on the way: all begin alike and go most of their way in the first epochs."""
    angle = truth * 2 * np.pi / 10
    runs = runs[runs["method"].isin(["baseline", "kd"])]
    cells = itertools.product(runs.to_dict("records"), EPOCHS, enumerate(LAYERS))
    for number, (run, epoch, (depth, layer)) in enumerate(cells):
        done = 1 - 2.0**-epoch
        order = 0.2 + done * (_order(run, depth) - 0.2)
        wave = 0.02 * np.sin(number) * (epoch > 0)
        values = {
            "within_share": 1 - 0.8 * order + wave,
            "silhouette": -0.05 + 0.6 * order + wave,
            "knn": 0.25 + 0.7 * order + wave,
            "probe": 0.35 + 0.62 * order + wave,
            "cka": 0.2 + 0.7 * order + wave,
            "cka_end": 1 - 0.1 * (7 - depth) * (1 - done / (1 - 2.0 ** -EPOCHS[-1])),
        }
        place = {"run": run["run"], "epoch": epoch, "layer": layer}
        if run["seed"] == 0 and layer in ("block2", "block3"):
            spread = np.random.default_rng(number).normal(0, 1.2 - order, (2, len(truth)))
            x, y = (np.c_[np.cos(angle), np.sin(angle)].T * order * 3 + spread).round(3)
            image = np.arange(len(truth))
            guess = np.where(image % 10 < 10 * order, truth, (truth + 1 + number) % 10)
            frame = {"image": image, "x": x, "y": y, "prediction": guess}
            tables["film"].append(pd.DataFrame(place | frame))
            values |= {"trustworthiness": 0.8 + 0.18 * order, "neighbours_kept": 0.3 + 0.3 * order}
        rows = pd.DataFrame({"measure": values.keys(), "value": values.values()}).assign(**place)
        tables["training"].append(rows[TABLES["training"].columns])


def _logits(run: dict[str, Any], truth: np.ndarray, tables: dict[str, list[pd.DataFrame]]) -> None:
    """A teacher's logits: the label's is the largest, in every fifth image hardly."""
    if run["role"] != "teacher":
        return
    logits = np.zeros((len(truth), 10))
    image = np.arange(len(truth))
    logits[image, truth] = 9
    logits[image, truth - 1] = np.where(image % 5, 1, 8.5 - image / len(image))
    rows, label = np.indices(logits.shape)
    cells = {"image": rows.ravel(), "label": label.ravel(), "logit": logits.ravel()}
    tables["teacher_logits"].append(pd.DataFrame({"run": run["run"], **cells}))


def _maps(
    run: dict[str, Any],
    truth: np.ndarray,
    guess: np.ndarray,
    tables: dict[str, list[pd.DataFrame]],
    generator: Any,
) -> None:
    angle = np.arange(10) * 2 * np.pi / 10
    centre = np.c_[np.cos(angle), np.sin(angle)] * (1 + 0.5 * (np.arange(10) % 2))[:, None]
    noise = np.random.default_rng(7).normal(size=(len(truth), 2))  # an image keeps its place
    for depth, layer in enumerate(LAYERS):
        order = _order(run, depth)
        for embedding in EMBEDDINGS:
            slack = 1 if embedding == "tsne" else 1.3
            goal = centre[np.where(depth > 2, guess, truth)] * order * 3
            fresh = generator.normal(0, 0.1, noise.shape)
            x, y = (goal + noise * slack * (1.15 - 0.8 * order) + fresh).T
            image = np.arange(len(truth))
            place = {"run": run["run"], "layer": layer, "embedding": embedding}
            error = (1 - order) * (image % 5) / 4
            points = pd.DataFrame({**place, "image": image, "x": x, "y": y, "error": error})
            tables["maps"].append(points)
            faith = {
                "trustworthiness": 0.8 + 0.18 * order / slack,
                "continuity": 0.85 + 0.12 * order,
                "neighbours_kept": 0.2 + 0.4 * order / slack,
                "distance_correlation": 0.3 + 0.5 * order,
                "map_knn": 0.3 + 0.6 * order,
                "map_silhouette": -0.2 + 0.7 * order,
                "map_hulls": 1.6 - order,
                "noise_floor": 0.9 - 0.8 * order,
            }
            rows = pd.DataFrame({"measure": faith.keys(), "value": faith.values()})
            made = {"engine": ENGINES[embedding], "coupling": COUPLING[embedding]}
            tables["faithfulness"].append(rows.assign(**place, **made))
        tables["neighbours"].append(_nearest(run["run"], layer, goal + noise))


def _nearest(run: str, layer: str, features: np.ndarray) -> pd.DataFrame:
    """The ten images nearest to each, the nearest first."""
    far = np.linalg.norm(features[:, None] - features, axis=2)
    np.fill_diagonal(far, np.inf)
    near = far.argsort(axis=1)[:, :10]
    images, ranks = np.indices(near.shape)
    places = {"image": images.ravel(), "rank": ranks.ravel(), "neighbour": near.ravel()}
    return pd.DataFrame({"run": run, "layer": layer, **places})


def foreign(
    networks: dict[str, Sequence[str]],
    n: int = 60,
    *,
    classes: Sequence[str] = ("cat", "dog", "eel"),
    seeds: int = 1,
    pictured: bool = True,
) -> Results:
    """Invent networks that somebody trained elsewhere, each with layers of its own.

    Without `classes` there are no labels. Of several seeds the first has maps.
    """
    generator = np.random.default_rng(0)
    truth = np.arange(n) % len(classes) if classes else np.full(n, -1)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    described = []
    for (name, layers), seed in itertools.product(networks.items(), range(seeds)):
        run = name if seeds == 1 else f"{name} {seed}"
        facts = {"role": "teacher" if name == "teacher" else "student", "weights": f"{run}.pt"}
        facts |= {"network": name, "method": name, "seed": seed, "labels": "", "unlabelled": False}
        right = {"parameters": 1e6 if classes else np.nan, "test_accuracy": 0.8}
        right |= {} if classes else {"test_accuracy": np.nan}
        rows["runs"].append(table_of_runs([facts | right | {"run": run}]))
        described.append({"run": run, "network": name, "seed": seed, "layers": list(layers)})
        described[-1] |= {"readings": ["as given"], "source": "file.npz", "notes": []}
        guess = {"prediction": np.where(generator.random(n) < 0.8, truth, 0)}
        if classes:
            frame = pd.DataFrame({"run": run, "image": np.arange(n)} | guess)
            rows["predictions"].append(frame)
        for layer in layers:
            values = {"knn": 0.5 + 0.1 * seed} if classes else {}
            values |= {"effective_rank": 3.0 + 2 * seed}
            keys = {"run": run, "layer": layer, "view": "pooled"}
            rows["measures"] += [
                pd.DataFrame([keys | {"measure": m, "value": v}]) for m, v in values.items()
            ]
            if seed == 0:
                _foreign_maps(run, layer, truth, rows, generator)
    tables = {
        name: pd.concat(parts, ignore_index=True)[TABLES[name].columns]
        if parts
        else pd.DataFrame(columns=TABLES[name].columns)
        for name, parts in rows.items()
    }
    study = {
        **{"foreign": True, "name": "look", "dataset": "images", "classes": list(classes)},
        **{"layers": list(dict.fromkeys(layer for own in networks.values() for layer in own))},
        **{"embeddings": ["tsne", "pca"], "networks": described},
        **{"seeds": dict.fromkeys(networks, seeds), "left_out": {}},
        **{"labelled": bool(classes), "pictured": pictured, "probes": ""},
    }
    shape = (n, 12, 12, 3) if pictured else (0, 1, 1, 1)
    images = generator.integers(0, 256, shape).astype(np.uint8)
    return Results(study, **tables, images=images, labels=truth)


def _foreign_maps(
    run: str, layer: str, truth: np.ndarray, rows: dict[str, list[pd.DataFrame]], generator: Any
) -> None:
    n = len(truth)
    for embedding in ("tsne", "pca"):
        x, y = generator.normal(size=(2, n)).round(3) + truth % 7
        keys = {"run": run, "layer": layer, "embedding": embedding}
        points = {"image": np.arange(n), "x": x, "y": y, "error": generator.random(n)}
        rows["maps"].append(pd.DataFrame(keys | points))
        keys |= {"measure": "trustworthiness", "value": 0.9, "engine": "any", "coupling": 0.1}
        rows["faithfulness"].append(pd.DataFrame([keys]))
    near = {"image": np.repeat(np.arange(n), 10), "rank": np.tile(np.arange(10), n)}
    near["neighbour"] = generator.integers(0, n, 10 * n)
    rows["neighbours"].append(pd.DataFrame({"run": run, "layer": layer} | near))
