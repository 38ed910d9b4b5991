"""The only module that reads and writes results: JSON, parquet and safetensors, never pickle.

    runs/<study>/<dataset>/<run>/run.json              parameters, versions, seconds, accuracy
                                 history.parquet       one row per epoch
                                 weights.safetensors
                                 snapshots.safetensors <passes>.<weight>, of those wanted
                                 features.safetensors  <split>.<layer>, <split>.rows, .labels;
                                                       flat.<split>.<layer>
                                 measures.parquet      layer measure value view
                                 similarity.parquet      layer teacher_layer value view
                                 map_measures.parquet      layer embedding measure value engine
    runs/<study>/<dataset>/maps/<maps>.parquet         run layer embedding image x y error
                               <maps>-faithfulness.parquet, -neighbours.parquet
                               <comparison>-comparison.parquet, -sweeps.parquet
                               <film>-film.parquet, -training.parquet
    book/results/<study>/                              what the book shows: see `Results`
                          executed/*.ipynb             notebooks as they ran

A file is written under another name first and then renamed: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from kdlib import UsageError, one_of

COMPARED = ("comparison", "sweeps")  # the tables of a comparison
FILMED = ("film", "training")  # those of a film of training
DRAWN = {"maps": "", "faithfulness": "-faithfulness", "neighbours": "-neighbours"}  # file's end
TABLES = (
    "runs",
    "measures",
    "similarity",
    *DRAWN,
    "predictions",
    "teacher_logits",
    *COMPARED,
    *FILMED,
)
VIEWS = ("pooled", "flat")  # how a layer with positions is seen: their mean, or principal axes
RECORDED = ("torch", "numpy", "scikit-learn", "openTSNE", "ivis", "tensorflow", "papermill")

COLUMNS = {
    "runs": [
        *("run", "role", "network", "width", "method", "labels", "seed"),
        *("teacher", "teacher_network", "regime", "options", "unlabelled", "precision"),
        *("parameters", "test_accuracy", "seconds"),
    ],
    "measures": ["run", "layer", "measure", "value", "view"],
    "similarity": ["run", "layer", "teacher_layer", "value", "view"],
    "maps": ["run", "layer", "embedding", "image", "x", "y", "error"],
    "faithfulness": ["run", "layer", "embedding", "measure", "value", "engine", "coupling"],
    "neighbours": ["run", "layer", "image", "rank", "neighbour"],
    "predictions": ["run", "image", "prediction"],
    "comparison": ["way", "run", "layer", "measure", "value"],
    "sweeps": [
        *("run", "layer", "embedding", "setting", "seed", "image", "x", "y"),
        *("trustworthiness", "neighbours_kept", "map_knn", "map_silhouette"),
    ],
    "teacher_logits": ["run", "image", "label", "logit"],
    "film": ["run", "epoch", "layer", "image", "x", "y"],
    "training": ["run", "epoch", "layer", "measure", "value"],
}

FACTS = COLUMNS["runs"][1:-3]  # of a run, as it was planned (kdlib.plan.runs)
RECORD = (  # what every run.json holds
    *("parameters", "facts", "test_accuracy", "test_images", "seconds"),
    *("parameters_count", "architecture", "data"),
)


# ---- files, whole or not at all ----------------------------------------------------------------


def _write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a file beside `path`, then rename it; nothing stays behind on failure."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)  # safetensors leaves files that only their owner can read
        part.replace(path)
    except (OSError, SafetensorError) as problem:
        raise UsageError(f"cannot write {path}: {_reason(problem)}") from problem
    finally:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None


def _reason(problem: Exception) -> str:
    """What the system says of a file, in its words and without its numbers."""
    return getattr(problem, "strerror", None) or " ".join(str(problem).split())


def _json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=False, allow_nan=False) + "\n"
    _write(path, lambda part: part.write_text(text))


def _parquet(path: Path, table: pd.DataFrame) -> None:
    _write(path, lambda part: table.to_parquet(part, index=False))


def _tensors(path: Path, tensors: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> None:
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    notes = {"kdlib": json.dumps(dict(told))}  # one: safetensors writes several in any order
    _write(path, lambda part: save_file(arrays, part, metadata=notes))


def _read(path: Path, read: Callable[[Path], Any], made_by: str) -> Any:
    if not path.is_file():
        raise UsageError(f"no {path.name} in {path.parent}; {made_by} makes it")
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise UsageError(f"cannot read {path}: {_reason(problem)}; delete it and run again") from (
            problem
        )


def writable(folder: Path) -> None:
    """Raise UsageError unless results can be written there; leaves nothing behind.

    Asked before hours of training, not after.
    """
    there = folder
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as problem:
        raise UsageError(f"cannot write below {there}: {_reason(problem)}") from problem


# ---- one run -----------------------------------------------------------------------------------


def save_run(
    folder: Path,
    record: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, np.ndarray],
    history: list[dict[str, float | int | str]],
    snapshots: Mapping[int, Mapping[str, np.ndarray]] = MappingProxyType({}),
    **results: Any,
) -> None:
    """Write a trained network; run.json comes last and says that the run is whole.

    `record` holds the run's "parameters" and its "facts", the columns of the table `runs` that are
    known before training. `snapshots` are its weights after some epochs, 0 being before training.
    `results` join the record: test accuracy, seconds, device, number of parameters, data hash.
    """
    path = folder / "snapshots.safetensors"
    path.unlink(missing_ok=True)  # of another training
    if snapshots:
        each = {f"{n}.{name}": x for n, those in snapshots.items() for name, x in those.items()}
        _tensors(path, each, record)
    _tensors(folder / "weights.safetensors", weights, record)
    _parquet(folder / "history.parquet", pd.DataFrame(history))
    _json(folder / "run.json", {**record, **results, "code": code_hash(), **versions()})


def load_run(folder: str | Path, data: str | None = None) -> dict[str, Any]:
    """Read the record of a trained network.

    Raises UsageError if there is none, if it is broken, and, with `data`, if the network was
    trained on images of another hash: two folders of images can be called alike.
    """
    path = Path(folder) / "run.json"
    record = _read(path, lambda p: json.loads(p.read_text()), _maker(path.parent))
    if (
        not isinstance(record, dict)
        or not set(RECORD) <= set(record)
        or not set(FACTS) <= set(record["facts"])
    ):
        raise UsageError(f"{path} is no record of a run; delete it and run again")
    if data not in (None, record["data"]):
        given = f"{record['parameters']['dataset']} was {record['data']}, now {data}"
        raise UsageError(
            f"{path.parent} was trained on other images, or normalised otherwise (hash of {given})"
        )
    return record


def load_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the weights of a trained network."""
    return _read(Path(folder) / "weights.safetensors", load_file, _maker(Path(folder)))


def load_snapshots(folder: str | Path) -> dict[int, dict[str, np.ndarray]]:
    """Read the weights that a network had on its way, by passes through the images."""
    made_by = f'{_maker(Path(folder))} and -y "snapshots: [0, 1, 5]"'
    kept: dict[int, dict[str, np.ndarray]] = {}
    for key, value in _read(Path(folder) / "snapshots.safetensors", load_file, made_by).items():
        passes, _, name = key.partition(".")
        kept.setdefault(int(passes), {})[name] = value
    return {passes: kept[passes] for passes in sorted(kept)}


def load_history(folder: str | Path) -> pd.DataFrame:
    """Read what a training reported: one row per epoch."""
    return _read(Path(folder) / "history.parquet", pd.read_parquet, _maker(Path(folder)))


def _maker(folder: Path) -> str:
    kind = "teacher" if "teachers" in folder.parts else "student"
    return f"`papermill notebooks/{kind}.ipynb out.ipynb` with its parameters"


def found(root: str | Path = "runs") -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Every run below `root` with its record, None where that cannot be read."""
    for path in sorted(Path(root).glob("*/*/*/**/run.json")):
        try:
            yield path.parent, load_run(path.parent)
        except UsageError:
            yield path.parent, None


# ---- layers ------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """The features of one network, layer by layer, for training and test images.

    `flat_train` and `flat_test` hold the layers with positions again, as principal axes of the
    whole map instead of its mean over positions.
    """

    train: dict[str, Float[np.ndarray, "n d"]]
    train_labels: Int[np.ndarray, " n"]
    test: dict[str, Float[np.ndarray, "m d"]]
    test_labels: Int[np.ndarray, " m"]
    test_rows: Int[np.ndarray, " m"]  # of the data set's test images
    train_rows: Int[np.ndarray, " n"]
    flat_train: Mapping[str, Float[np.ndarray, "n p"]] = MappingProxyType({})
    flat_test: Mapping[str, Float[np.ndarray, "m p"]] = MappingProxyType({})


def save_layers(folder: Path, layers: Layers) -> None:
    """Write the features of a network beside its weights.

    Raises UsageError where other images of it are kept already: they would no longer compare.
    """
    path = folder / "features.safetensors"
    if path.exists():
        kept = load_layers(folder)
        for what in ("train_rows", "test_rows"):
            if not np.array_equal(getattr(kept, what), getattr(layers, what)):
                raise UsageError(
                    f"{path} keeps features of other images (another sample size or data set); "
                    "give this a study of its own"
                )
    tensors = {
        f"{split}.{name}": array
        for split in ("train", "test")
        for name, array in getattr(layers, split).items()
    }
    for split in ("train", "test"):
        for name, array in getattr(layers, f"flat_{split}").items():
            tensors[f"flat.{split}.{name}"] = array
        for what in ("labels", "rows"):
            tensors[f"{split}.{what}"] = getattr(layers, f"{split}_{what}")
    _tensors(path, tensors, {"layers": list(layers.test)})


def load_layers(folder: str | Path) -> Layers:
    """Read the features of a network. Raises UsageError if there are none."""
    made_by = "`papermill notebooks/features.ipynb out.ipynb` for its network"
    tensors, order = _read(Path(folder) / "features.safetensors", _ordered, made_by)
    kept = {f"{k}_{w}": tensors[f"{k}.{w}"] for k in ("train", "test") for w in ("labels", "rows")}
    for k in ("train", "test"):
        kept[k] = {n: tensors[f"{k}.{n}"] for n in order}
        flat = {n: tensors.get(f"flat.{k}.{n}") for n in order}
        kept[f"flat_{k}"] = {n: x for n, x in flat.items() if x is not None}
    return Layers(**kept)


def teacher_of(root: Path, run: str, named: str = "") -> str:
    """The run whose layers those of `run` are compared with: `named`, or its own teacher.

    Empty for a teacher. Raises UsageError unless both keep features of the same images.
    """
    teacher = named or load_run(root / run)["parameters"].get("teacher", "")
    if teacher in ("", run):
        return ""
    own, other = load_layers(root / run), load_layers(root / teacher)
    if not np.array_equal(own.test_rows, other.test_rows):
        raise UsageError(f"{run} was shown other images than {teacher}; extract one again")
    return teacher


def _ordered(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of a file, and its layers from first to last."""
    with safe_open(path, "numpy") as file:
        return load_file(path), json.loads(file.metadata()["kdlib"])["layers"]


Values = Mapping[str, Mapping[str, float]]  # layer -> measure -> value


def save_measures(folder: Path, values: Values, flat: Values = MappingProxyType({})) -> None:
    """Write what was measured of each layer: {layer: {measure: value}}.

    `flat` are the layers that were measured again in the flat view; the others are the same there.
    """
    rows = [
        (layer, name, value, view)
        for view, seen in (("pooled", values), ("flat", {**values, **flat}))
        for layer, those in seen.items()
        for name, value in those.items()
    ]
    columns = ["layer", "measure", "value", "view"]
    _parquet(folder / "measures.parquet", pd.DataFrame(rows, columns=columns))


def save_similarity(folder: Path, views: Mapping[str, Mapping[tuple[str, str], float]]) -> None:
    """Write how alike each layer is to each of the teacher: {view: {(own, other): value}}."""
    rows = [(*cell, value, view) for view, those in views.items() for cell, value in those.items()]
    columns = ["layer", "teacher_layer", "value", "view"]
    _parquet(folder / "similarity.parquet", pd.DataFrame(rows, columns=columns))


def save_map_measures(folder: Path, rows: Sequence[tuple[str, str, str, float, str]]) -> None:
    """Write numbers about uncoupled maps that are not kept: layer embedding measure value engine.

    Without rows: that there are none.
    """
    columns = ["layer", "embedding", "measure", "value", "engine"]
    _parquet(folder / "map_measures.parquet", pd.DataFrame(rows, columns=columns))


def load_measures(folder: str | Path, view: str | None = "pooled") -> pd.DataFrame:
    """Read the measures of a network, in one view or (None) in all: layer measure value view."""
    return _measured(Path(folder) / "measures.parquet", view)


def load_similarity(folder: str | Path, view: str | None = "pooled") -> pd.DataFrame:
    """Read how alike layers are to the teacher's: layer teacher_layer value view."""
    return _measured(Path(folder) / "similarity.parquet", view)


def _measured(path: Path, view: str | None) -> pd.DataFrame:
    made_by = "`papermill notebooks/measure.ipynb out.ipynb` for its network"
    return _read(path, lambda p: _viewed(pd.read_parquet(p), view), made_by)


def _viewed(table: pd.DataFrame, view: str | None) -> pd.DataFrame:
    kept = table["view"].isin(VIEWS if view is None else [view])
    return table[kept].reset_index(drop=True)


Cells = Mapping[tuple[str, str], Float[np.ndarray, "n 2"]]  # (run, layer) -> map


def save_maps(
    root: Path,
    name: str,
    embedding: str,
    maps: Cells,
    faithfulness: Mapping[tuple[str, str], Mapping[str, float]],
    errors: Mapping[tuple[str, str], Float[np.ndarray, " n"]],
    neighbours: Mapping[tuple[str, str], Int[np.ndarray, "n k"]],
    *,
    engine: str,
    coupling: float,
) -> None:
    """Write the maps of a family of layers, how faithful each map and each point is, and what is
    nearest to each image in the layer itself (`metrics.nearest`).

    `engine` drew them; `coupling` 0 says that each was drawn for itself.
    """
    parts = [
        pd.DataFrame(
            {"run": run, "layer": layer, "embedding": embedding, "image": range(len(xy))}
            | {"x": xy[:, 0].astype("float32"), "y": xy[:, 1].astype("float32")}
            | {"error": errors[run, layer].astype("float32")}
        )
        for (run, layer), xy in maps.items()
    ]
    rows = [
        (run, layer, embedding, measure, value, engine, coupling)
        for (run, layer), those in faithfulness.items()
        for measure, value in those.items()
    ]
    columns = ["run", "layer", "embedding", "measure", "value", "engine", "coupling"]
    near = [_ranked(run, layer, those) for (run, layer), those in neighbours.items()]
    _parquet(root / "maps" / f"{name}-faithfulness.parquet", pd.DataFrame(rows, columns=columns))
    _parquet(root / "maps" / f"{name}-neighbours.parquet", pd.concat(near, ignore_index=True))
    _parquet(root / "maps" / f"{name}.parquet", pd.concat(parts, ignore_index=True))


def _ranked(run: str, layer: str, near: np.ndarray) -> pd.DataFrame:
    n, k = near.shape
    places = {"image": np.repeat(np.arange(n), k), "rank": np.tile(np.arange(k), n)}
    table = pd.DataFrame(places | {"neighbour": near.ravel()}).astype("int32")
    return table.assign(run=run, layer=layer)[COLUMNS["neighbours"]]


def save_comparison(
    root: Path,
    name: str,
    comparison: Sequence[tuple[str, str, str, str, float]],
    sweeps: Sequence[Mapping[str, Any]],
) -> None:
    """Write how maps compare that were drawn in several ways, and those of several parameters.

    `comparison` are rows (way, run, layer, measure, value). A sweep is one map: its columns,
    `image` (n,) and the coordinates `xy` (n, 2), which are kept to three digits.
    """
    parts = [
        pd.DataFrame(
            {k: v for k, v in one.items() if k != "xy"}
            | {axis: one["xy"][:, i].astype("float32").round(3) for i, axis in enumerate("xy")}
        )
        for one in sweeps
    ]
    tables = [
        pd.DataFrame(comparison, columns=pd.Index(COLUMNS["comparison"])),
        pd.concat(parts, ignore_index=True)[COLUMNS["sweeps"]],
    ]
    for kind, table in zip(COMPARED, tables, strict=True):
        _parquet(root / "maps" / f"{name}-{kind}.parquet", table)


def save_film(
    root: Path,
    name: str,
    maps: Mapping[tuple[str, int, str], Float[np.ndarray, "n 2"]],
    training: Sequence[tuple[str, int, str, str, float]],
) -> None:
    """Write what layers looked like on the way: maps, to three digits, and measures.

    `maps` are by (run, epoch, layer), `training` rows (run, epoch, layer, measure, value).
    """
    parts = [
        pd.DataFrame(
            {"run": run, "epoch": epoch, "layer": layer, "image": range(len(xy))}
            | {axis: xy[:, i].astype("float32").round(3) for i, axis in enumerate("xy")}
        )
        for (run, epoch, layer), xy in maps.items()
    ]
    tables = [
        pd.concat(parts, ignore_index=True),
        pd.DataFrame(training, columns=pd.Index(COLUMNS["training"])),
    ]
    for kind, table in zip(FILMED, tables, strict=True):
        _parquet(root / "maps" / f"{name}-{kind}.parquet", table)


# ---- one study, published ----------------------------------------------------------------------


class Results(NamedTuple):
    """The published results of one study: all that charts, widgets and chapters read.

    `run` identifies a network everywhere: its folder below runs/<study>/<dataset>/.
    """

    study: dict[str, Any]  # name, dataset, classes, layers, embeddings, parameters, versions
    runs: pd.DataFrame  # run role network method labels seed parameters test_accuracy seconds
    measures: pd.DataFrame  # run layer measure value view, of one view
    similarity: pd.DataFrame  # run layer teacher_layer value view, of one view: debiased CKA
    maps: pd.DataFrame  # run layer embedding image x y error
    faithfulness: pd.DataFrame  # run layer embedding measure value engine coupling
    neighbours: pd.DataFrame  # run layer image rank neighbour: 0 the nearest in the layer itself
    predictions: pd.DataFrame  # run image prediction
    comparison: pd.DataFrame  # way run layer measure value: maps drawn in several ways
    sweeps: pd.DataFrame  # one layer's maps, by setting (perplexity, k) and seed; see COLUMNS
    teacher_logits: pd.DataFrame  # run image label logit: what a teacher that is drawn says
    film: pd.DataFrame  # run epoch layer image x y: maps after some epochs, 0 is before training
    training: pd.DataFrame  # run epoch layer measure value: what those layers measured
    images: UInt8[np.ndarray, "n h w c"]  # the test sample, c is 1 or 3
    labels: Int[np.ndarray, " n"]


def load(folder: str | Path | None = None, *, view: str = "pooled") -> Results:
    """Read the published results of a study, for example "book/results/quick".

    In the `view` "flat", layers with positions were measured by the principal axes of their whole
    map instead of its mean over positions: does a conclusion hang on pooling?

    Without a folder: of the study that the book is built for (KDLIB_STUDY, default quick), from
    the project's root, book/ or notebooks/ alike. Raises UsageError when the folder holds none,
    or when a file in it cannot be read.
    """
    one_of("view", view, VIEWS)
    folder = _shown() if folder is None else Path(folder)
    made_by = "`make book` for the study quick, `python -m kdlib publish` for any"
    study = _read(folder / "study.json", lambda p: json.loads(p.read_text()), made_by)
    tables = {name: _read(folder / f"{name}.parquet", pd.read_parquet, made_by) for name in TABLES}
    for name in ("measures", "similarity"):
        tables[name] = _viewed(tables[name], view)
    sample = _read(folder / "sample.safetensors", load_file, made_by)
    return Results(study, **tables, images=sample["images"], labels=sample["labels"])


def brief(study: str) -> Results:
    """Read the runs of a published study alone, whichever study the book is built for.

    Its other tables are left empty; where the study was not published, so are its runs.
    """
    folder = near(f"book/results/{study}")
    empty = {name: pd.DataFrame(columns=pd.Index(COLUMNS.get(name, []))) for name in TABLES}
    told: dict[str, Any] = {"name": study, "dataset": "", "embeddings": []}
    if (folder / "study.json").is_file():
        told = _read(folder / "study.json", lambda p: json.loads(p.read_text()), "publish")
        empty["runs"] = _read(folder / "runs.parquet", pd.read_parquet, "publish")
    nothing = np.zeros((0, 1, 1, 1), np.uint8)
    return Results(told, **empty, images=nothing, labels=np.zeros(0, np.int64))


def load_benchmark(study: str, name: str) -> dict[str, Any]:
    """Read what a script of benchmarks/ measured; nothing where it has not run."""
    path = near(f"book/results/{study}") / f"{name}.json"
    return _read(path, lambda p: json.loads(p.read_text()), name) if path.is_file() else {}


def save_benchmark(study: str, name: str, measured: Mapping[str, Any]) -> None:
    """Write what a script of benchmarks/ measured, beside the study that shows it."""
    _json(Path("book/results") / study / f"{name}.json", measured)


def _shown() -> Path:
    return near("book/results") / os.environ.get("KDLIB_STUDY", "quick")


def near(folder: str | Path) -> Path:
    """A folder of the project, seen from its root or, as a notebook does, from one below."""
    return next((p for p in (Path(folder), Path("..", folder)) if p.is_dir()), Path(folder))


def publish(folder: Path, results: Results, executed: Mapping[str, Path] | None = None) -> None:
    """Write the small part of a study that the book shows; study.json last.

    `executed` are notebooks as they ran, copied below executed/ under the names given.
    """
    for name, notebook in (executed or {}).items():
        _write(folder / "executed" / f"{name}.ipynb", partial(shutil.copyfile, notebook))
    for name in TABLES:
        _parquet(folder / f"{name}.parquet", getattr(results, name))
    sample = {"images": results.images, "labels": results.labels}
    _tensors(folder / "sample.safetensors", sample, {})
    _json(folder / "study.json", results.study)


def gather(
    root: Path,
    names: list[str],
    maps: list[str],
    compared: str = "",
    filmed: str = "",
    *,
    layers: bool = True,
) -> dict[str, pd.DataFrame]:
    """The tables of `Results` from a study's own folder: runs, maps, comparison and film named.

    Without `layers` there are runs only, and the other tables are empty. Raises UsageError where
    one is missing, or where two networks were shown other images.
    """
    records = pd.DataFrame([_row(name, load_run(root / name)) for name in names])
    looked = _gathered(root, names, maps) if layers else {}
    for name, kinds, maker in ((compared, COMPARED, "compare"), (filmed, FILMED, "film")):
        for kind in kinds if name else ():
            path = root / "maps" / f"{name}-{kind}.parquet"
            looked[kind] = _read(path, pd.read_parquet, f"notebooks/{maker}.ipynb")
    empty = {name: pd.DataFrame(columns=pd.Index(COLUMNS[name])) for name in TABLES[1:]}
    return {"runs": records, **empty, **looked}


def _gathered(root: Path, names: list[str], maps: list[str]) -> dict[str, pd.DataFrame]:
    measures, similarity, predictions = [], [], []
    rows: np.ndarray | None = None
    for name in names:
        layers = load_layers(root / name)
        rows = layers.test_rows if rows is None else rows
        if not np.array_equal(rows, layers.test_rows):
            raise UsageError(f"{name} was shown other images than {names[0]}; extract it again")
        measures.append(load_measures(root / name, None).assign(run=name))
        similarity.append(load_similarity(root / name, None).assign(run=name))
        said = layers.test["logits"].argmax(1)
        predictions.append(
            pd.DataFrame({"image": range(len(said)), "prediction": said, "run": name})
        )
    drawn = {
        kind: pd.concat(
            [
                _read(root / "maps" / f"{m}{end}.parquet", pd.read_parquet, "notebooks/embed.ipynb")
                for m in maps
            ],
            ignore_index=True,
        )
        for kind, end in DRAWN.items()
    }
    parts = [_map_measures(root, name) for name in names]
    parts = [part for part in [drawn["faithfulness"], *parts] if len(part)]
    drawn["faithfulness"] = pd.concat(parts, ignore_index=True)
    drawn["neighbours"] = drawn["neighbours"].drop_duplicates(ignore_index=True)  # of every kind
    shown = dict.fromkeys(drawn["maps"]["run"])
    logits = [_teacher_logits(root, name) for name in shown if name.startswith("teachers/")]
    return {
        "measures": pd.concat(measures, ignore_index=True)[COLUMNS["measures"]],
        "similarity": pd.concat(similarity, ignore_index=True)[COLUMNS["similarity"]],
        "predictions": pd.concat(predictions, ignore_index=True)[COLUMNS["predictions"]],
        **({"teacher_logits": pd.concat(logits, ignore_index=True)} if logits else {}),
        **drawn,
    }


def _teacher_logits(root: Path, name: str) -> pd.DataFrame:
    """The logits of one network for the images it was shown, a row per image and class."""
    logits = load_layers(root / name).test["logits"]
    image, label = np.indices(logits.shape)
    said = {"image": image.ravel(), "label": label.ravel(), "logit": logits.ravel()}
    return pd.DataFrame(said).assign(run=name)[COLUMNS["teacher_logits"]]


def _map_measures(root: Path, name: str) -> pd.DataFrame:
    path = root / name / "map_measures.parquet"
    table = _read(path, pd.read_parquet, "notebooks/measure.ipynb").assign(run=name, coupling=0.0)
    return table[COLUMNS["faithfulness"]]


def _row(name: str, record: dict[str, Any]) -> dict[str, Any]:
    results = {"parameters": record["parameters_count"]}
    results |= {key: record[key] for key in ("test_accuracy", "seconds")}
    return {"run": name, **{key: record["facts"][key] for key in FACTS}, **results}


# ---- what a result depends on ------------------------------------------------------------------


@cache
def code_hash() -> str:
    """The first 16 hex digits of the SHA-256 of the library's Python files."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for file in sorted(here.rglob("*.py")):
        digest.update(file.relative_to(here).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, Any]:
    """Versions of what computes the results."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {"versions": found}
