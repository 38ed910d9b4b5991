"""The only module that reads and writes results: JSON, parquet and safetensors, never pickle.

    runs/<study>/<dataset>/<run>/run.json              parameters, facts, versions, results
                                 history.parquet       one row per epoch
                                 weights.safetensors
                                 snapshots.safetensors <epoch>.<weight>, where wanted
                                 checkpoint.safetensors  of a long training, until it is over
                                 features.safetensors  <split>.<layer>, <split>.rows, .labels;
                                                       flat.<split>.<layer>
    book/results/<study>/study.json                    what the book reads: see `Results`
                         <table>.parquet
                         sample.webp, .parquet         images on one sheet, and their labels
                         provenance.parquet            where each run comes from
                         executed/*.ipynb              notebooks as they ran

Each table has its columns, its file and its maker in `TABLES`. A file is written under another name
first and then renamed: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from pandas.api.types import is_numeric_dtype, is_string_dtype
from PIL import Image
from safetensors import SafetensorError

from kdlib import UsageError, checksums, one_of, path_of

Arrays = Mapping[str, np.ndarray]
Made = TypeVar("Made")
Kind = type | tuple[type, ...]  # of a value, as isinstance takes it
NONE: Mapping[Any, Any] = MappingProxyType({})

VIEWS = ("pooled", "flat")  # of a layer with positions: their mean, or principal axes of the map
COLUMNS = 40  # images in a row of the sheet
PLAIN = 16  # side in pixels up to which the sheet is lossless
QUALITY = 90  # of the sheet of larger images, WebP's scale to 100
PROVENANCE = ["run", "data", "code", "commit", "device", "versions"]  # versions as JSON
RECORDED = ("torch", "numpy", "scikit-learn", "openTSNE", "ivis", "tensorflow", "papermill")


class Table(NamedTuple):
    """One table of results: its columns, and the file and the notebook that it comes from."""

    header: str
    file: str = ""  # in a run's folder; or in the study's, with the maps' name for {}
    notebook: str = ""
    digits: int | None = None  # of coordinates, after the point
    later: str = ""  # columns that older files lack: there they are empty

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.header.split()


MAP_HEADER = "run layer embedding measure value engine coupling"
TABLES = {
    "runs": Table(  # from every run.json
        "run role network width method labels seed teacher teacher_network regime weights "
        "options unlabelled precision parameters test_accuracy "
        "calibration_error train_accuracy train_confidence seconds",
        later="train_accuracy train_confidence",  # of teachers
    ),
    "measures": Table("run layer measure value view", "measures.parquet", "measure"),
    "similarity": Table("run layer teacher_layer value view", "similarity.parquet", "measure"),
    "maps": Table("run layer embedding image x y error", "maps/{}.parquet", "embed", 3),
    "faithfulness": Table(MAP_HEADER, "maps/{}-faithfulness.parquet", "embed"),
    "neighbours": Table("run layer image rank neighbour", "maps/{}-neighbours.parquet", "embed"),
    "predictions": Table("run image prediction"),  # from the features
    "comparison": Table(
        "procedure run layer measure value", "maps/{}-comparison.parquet", "compare"
    ),
    "sweeps": Table(
        "run layer embedding setting seed image x y trustworthiness neighbours_kept map_knn "
        "map_silhouette",
        *("maps/{}-sweeps.parquet", "compare", 3),
    ),
    "teacher_logits": Table("run image label logit"),  # from the features
    "film": Table(
        "run epoch layer image x y prediction",
        *("maps/{}-film.parquet", "film", 3, "prediction"),
    ),
    "training": Table("run epoch layer measure value", "maps/{}-training.parquet", "film"),
}
# Numbers about maps that are not stored themselves; published as part of `faithfulness`.
MAP_MEASURES = Table(MAP_HEADER, "map_measures.parquet", "measure")

_TEXTS = (  # columns that hold text; all others hold numbers
    "run role network method labels teacher teacher_network regime weights options precision "
    "layer teacher_layer measure view embedding engine procedure data code commit device versions"
)
TEXTS = frozenset(_TEXTS.split())
FACTS = TABLES["runs"].columns[1:-6]  # of a run, known before it is trained (kdlib.plan.runs)
OPTIONAL = TABLES["runs"].later.split()  # NaN where it was not recorded
NUMBER = (int, float)
LARGEST_JSON = 2**28  # bytes of a record
RECORD: Mapping[str, Kind] = {  # what every run.json holds
    **dict.fromkeys(("parameters", "facts", "architecture"), dict),
    **dict.fromkeys(("test_accuracy", "calibration_error", "seconds"), NUMBER),
    **dict.fromkeys(("test_images", "parameters_count"), int),
    "data": str,
}
OF_FACTS: Mapping[str, Kind] = {
    **{fact: str if fact in TEXTS else NUMBER for fact in FACTS},
    "unlabelled": bool,
}
STUDY: Mapping[str, Kind] = {  # what every study.json holds
    **dict.fromkeys(("name", "dataset"), str),
    **dict.fromkeys(("classes", "layers", "embeddings"), list),
}


class Results(NamedTuple):
    """The published results of one study: all that charts, widgets and chapters read.

    Each table has the columns of its entry in `TABLES`. `run` identifies a network everywhere: its
    folder below runs/<study>/<dataset>/.
    """

    study: dict[str, Any]  # name, dataset, classes, layers, embeddings, parameters, versions
    runs: pd.DataFrame
    measures: pd.DataFrame  # of one view
    similarity: pd.DataFrame  # of one view: debiased CKA
    maps: pd.DataFrame
    faithfulness: pd.DataFrame
    neighbours: pd.DataFrame  # rank 0 is the nearest in the layer itself
    predictions: pd.DataFrame
    comparison: pd.DataFrame  # of maps made by several procedures
    sweeps: pd.DataFrame  # maps of one layer, by setting (perplexity, k) and seed
    teacher_logits: pd.DataFrame  # of teachers that have maps
    film: pd.DataFrame  # maps and predictions after some epochs, 0 is before training
    training: pd.DataFrame  # measures of those layers
    images: UInt8[np.ndarray, "n h w c"]  # the test sample, c is 1 or 3
    labels: Int[np.ndarray, " n"]


def _write(path: Path, fill: Callable[[Path], Made]) -> Made:
    """Let `fill` write a file beside `path`, then rename it; nothing stays behind on failure.

    Returns what `fill` does.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = fill(part)
        with part.open("r+b") as file:  # as Windows wants it
            os.fsync(file.fileno())
        part.replace(path)
        return made
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {_reason(problem)}") from problem
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


def _reason(problem: Exception) -> str:
    """The system's own words for a problem with a file, without its numbers."""
    return getattr(problem, "strerror", None) or " ".join(str(problem).split())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=False, allow_nan=False) + "\n"
    _write(path, lambda part: part.write_text(text, encoding="utf-8"))


def save_text(path: Path, text: str) -> None:
    """Write a text. Raises UsageError where that is not possible."""
    _write(path, partial(Path.write_text, data=text, encoding="utf-8"))


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    def fill(part: Path) -> None:
        with part.open("wb") as file:
            checksums.write_table(file, table)

    _write(path, fill)


def _read_parquet(path: Path) -> pd.DataFrame:
    return checksums.table(path.read_bytes())


def _write_tensors(path: Path, arrays: Arrays, notes: Mapping[str, Any] = NONE) -> str:
    """Write arrays by name; returns the checksum of the file."""

    def fill(part: Path) -> str:
        with part.open("wb") as file:
            return checksums.write_tensors(file, arrays, notes)

    return _write(path, fill)


def _read_tensors(path: Path) -> checksums.Tensors:
    return checksums.tensors(path.read_bytes())


def _read(path: Path, read: Callable[[Path], Any], made_by: str) -> Any:
    """What `read` makes of a file. Raises UsageError, one line, for none and for a damaged one."""
    if not path_of("file", path).is_file():
        raise UsageError(f"no {path.name} in {path.parent}; {made_by} makes it")
    try:
        return read(path)
    except MemoryError:
        raise
    except Exception as problem:  # whatever a damaged file raises
        reason = _reason(problem) or type(problem).__name__
        if isinstance(problem, KeyError):
            reason = f"it lacks {reason}"
        if getattr(problem, "errno", None) is None:  # not the system, that has no fault to find
            reason += "; delete it and run again"
        raise UsageError(f"cannot read {path}: {reason}") from problem


def _json(path: Path, kinds: Mapping[str, Kind] = NONE) -> dict[str, Any]:
    """A JSON file that holds values by name, those of `kinds` among them. Raises ValueError."""
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"it holds {size:,} bytes; allowed: up to {LARGEST_JSON:,}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not values by name")
    _check_kinds(content, kinds)
    return content


def _check_kinds(content: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Raise ValueError unless each value is there and of its kind."""
    for name, kind in kinds.items():
        value = content[name]
        boolean = isinstance(value, bool) and kind is not bool
        number = isinstance(value, NUMBER) and not abs(value) < 2**63  # nor NaN
        if boolean or number or not isinstance(value, kind):
            raise ValueError(f"{name} is {str(value)[:80]!r}, a {type(value).__name__}")


def _parquet(path: Path, columns: Sequence[str] = (), later: str = "") -> pd.DataFrame:
    """A table with these columns, which hold text or numbers. Raises ValueError for another one.

    Those of `later` that it lacks are empty.
    """
    table = _read_parquet(path)
    table = table.assign(**dict.fromkeys(set(later.split()) - set(table), np.nan))
    for column in columns:
        values = table[column].dropna()
        right = is_string_dtype if column in TEXTS else is_numeric_dtype
        if len(values) and not right(values):
            raise ValueError(f"column {column!r} holds {table[column].dtype}")
    return table


def _table(path: Path, entry: Table) -> pd.DataFrame:
    """One published table. Raises ValueError for another one, and for a run that stands twice."""
    table = _parquet(path, entry.columns, entry.later)
    if entry is TABLES["runs"] and table["run"].duplicated().any():
        raise ValueError(f"run {table['run'][table['run'].duplicated()].iloc[0]!r} stands twice")
    return table


def writable(folder: Path) -> None:
    """Raise UsageError unless results can be written there; leaves nothing behind.

    Called before hours of training, not after.
    """
    existing = path_of("folder", folder)
    try:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as problem:
        raise UsageError(f"cannot write below {existing}: {_reason(problem)}") from problem


def locate(folder: str | Path) -> Path:
    """Find a folder of the project, from its root or, as a notebook runs, from one below."""
    path = path_of("folder", folder)
    return next((p for p in (path, Path("..", path)) if p.is_dir()), path)


def save_table(
    table: str, root: Path, name: str, rows: pd.DataFrame | Iterable[tuple[Any, ...]]
) -> None:
    """Write one table of the run `name`, or of the maps, the comparison or the film of that name.

    `root` is the study's folder. `rows` have the table's columns in their order, or are a frame
    that has them; for one run, without the column `run`.
    """
    path, entry = _place(table, root, name)
    columns = entry.columns if "{}" in entry.file else [c for c in entry.columns if c != "run"]
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=columns)
    _write_parquet(path, _rounded(frame[columns], entry))


def _rounded(table: pd.DataFrame, entry: Table) -> pd.DataFrame:
    """The table with as many digits of its coordinates as it keeps."""
    if entry.digits is None:
        return table
    return table.round({"x": entry.digits, "y": entry.digits})


def load_table(table: str, root: str | Path, name: str, view: str | None = None) -> pd.DataFrame:
    """Read one table of the run `name`, or of the maps, the comparison or the film of that name.

    Of measures and similarity in one `view`, where that is given. Raises UsageError where the file
    is missing, cannot be read, or lacks a column.
    """
    path, entry = _place(table, Path(root), name)

    def read(path: Path) -> pd.DataFrame:
        own = "{}" in entry.file
        frame = _parquet(path, [c for c in entry.columns if own or c != "run"], entry.later)
        frame = frame if own else frame.assign(run=name)
        return _viewed(frame[entry.columns], view)

    frame: pd.DataFrame = _read(path, read, f"notebooks/{entry.notebook}.ipynb")
    return frame


def save_frame(path: Path, rows: pd.DataFrame) -> None:
    """Write rows that are no table of results."""
    _write_parquet(path, rows)


def load_frame(path: Path) -> pd.DataFrame:
    """Read the rows of `save_frame`."""
    rows: pd.DataFrame = _read(path, _parquet, "what wrote it")
    return rows


def _place(table: str, root: Path, name: str) -> tuple[Path, Table]:
    entry = MAP_MEASURES if table == "map_measures" else TABLES[table]
    path = root / entry.file.format(name) if "{}" in entry.file else root / name / entry.file
    return path, entry


def _viewed(table: pd.DataFrame, view: str | None) -> pd.DataFrame:
    return table if view is None else table[table["view"] == view].reset_index(drop=True)


def empty(table: str) -> pd.DataFrame:
    """One table of results without rows."""
    return pd.DataFrame(columns=pd.Index(TABLES[table].columns))


def numbers(values: Mapping[Any, Any], *levels: str) -> pd.DataFrame:
    """Lay out nested mappings as a table: a column for each level of keys, and "value".

    A key that is a tuple fills several columns.

        numbers({("kd", "stem"): {"knn": 0.5}}, "run", "layer", "measure")
    """
    rows: list[tuple[tuple[Any, ...], Any]] = [((), values)]
    while any(isinstance(content, Mapping) for _, content in rows):
        rows = [
            ((*keys, *(key if isinstance(key, tuple) else (key,))), inner)
            for keys, content in rows
            for key, inner in content.items()
        ]
    return pd.DataFrame([(*keys, value) for keys, value in rows], columns=[*levels, "value"])


def points(
    maps: Mapping[Any, Float[np.ndarray, "n c"]],
    *levels: str,
    columns: tuple[str, ...] = ("x", "y"),
) -> pd.DataFrame:
    """Lay out maps as a table of points: a column for each level of keys, image, x and y."""
    frames = {
        key: pd.DataFrame(array.astype("float32"), columns=columns) for key, array in maps.items()
    }
    return pd.concat(frames, names=[*levels, "image"]).reset_index()


def cells(arrays: Mapping[Any, np.ndarray], *levels: str) -> pd.DataFrame:
    """Lay out matrices as a table: a column for each level of keys, and row, column and value.

    The last three of `levels` name those.

        cells({("kd", "stem"): neighbours}, "run", "layer", "image", "rank", "neighbour")
    """
    frames = {key: pd.DataFrame(array).stack() for key, array in arrays.items()}
    return pd.concat(frames, names=levels[:-1]).rename(levels[-1]).reset_index()


def save_run(
    folder: Path,
    record: Mapping[str, Mapping[str, Any]],
    weights: Arrays,
    history: list[dict[str, float | int | str]],
    snapshots: Mapping[int, Arrays] = NONE,
    **results: Any,
) -> None:
    """Write a trained network; run.json comes last: where it is, the run is whole.

    `record` holds the run's "parameters" and its "facts", the columns of the table `runs` that are
    known before training. `snapshots` are its weights after some epochs, 0 being before training.
    `results` join the record: test accuracy, seconds, device, number of parameters, data hash.
    """
    path = folder / "snapshots.safetensors"
    path.unlink(missing_ok=True)  # of another training
    if snapshots:
        tensors = {f"{n}.{k}": x for n, arrays in snapshots.items() for k, x in arrays.items()}
        _write_tensors(path, tensors, record)
    checksum = _write_tensors(folder / "weights.safetensors", weights, record)
    _write_parquet(folder / "history.parquet", pd.DataFrame(history))
    sums = {"checksums": {"weights.safetensors": checksum}}
    whole = {**record, **results, **sums, "code": code_hash(), **versions()}
    _write_json(folder / "run.json", whole)


class Checkpoint:
    """A training of hours while it runs, kept in the folder of its run, in place of the last one.

    It is of one training: what it was of is told with it, and one of another is not used. A part
    of a training that comes before, as a pretraining, is kept by itself.
    """

    def __init__(self, folder: Path, minutes: float, part: str = "", **told: Any):
        """`minutes` of training between two; 0: none. `told` is what the training depends on."""
        self.path, self.minutes = folder / f"checkpoint{part}.safetensors", minutes
        self.told = json.loads(json.dumps({**told, "code": code_hash(), **versions()}))
        self.begun = self.last = time.monotonic()
        self.written = False
        self.seconds = 0.0  # that this training took until the state from which it goes on

    def due(self, last: bool = False) -> bool:
        """Whether it is time for the next; `last`: for that of a part that is over."""
        over = last and self.written
        return self.minutes > 0 and (over or time.monotonic() - self.last >= 60 * self.minutes)

    def save(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Write a state, whole or not at all. Without place the training goes on, with a line."""
        try:
            seconds = self.seconds + time.monotonic() - self.begun
            notes = {"of": self.told, "seconds": seconds, "state": state}
            _write_tensors(self.path, arrays, notes)
            self.written = True
        except UsageError as problem:
            print(f"no checkpoint: {problem}")
        self.last = time.monotonic()

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The last state of this training, which begins or goes on now.

        None where there is no file, and, with a line, where it is of another training.
        """
        self.begun = time.monotonic()
        if not self.path.is_file():
            return None
        try:
            arrays, notes = (found := _read_tensors(self.path)).arrays, found.notes
            told = notes["of"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            print(f"{self.path} cannot be read: training begins again")
            return None
        names = dict.fromkeys([*told, *self.told])
        other = [name for name in names if told.get(name) != self.told.get(name)]
        if other:
            print(f"{self.path} is of other {', '.join(other)}: training begins again")
            return None
        self.seconds, self.written = float(notes["seconds"]), True
        state = dict(notes["state"])
        print(
            f"goes on from {self.path}: {state['epoch']} epochs and {state['step']} steps are done"
        )
        return state, dict(arrays)

    def remove(self) -> None:
        """Delete it: the training is over, and its result is written."""
        self.path.unlink(missing_ok=True)


def load_run(folder: str | Path, data: str | None = None) -> dict[str, Any]:
    """Read the record of a trained network.

    Raises UsageError if there is none, if it is broken, and, with `data`, if the network was
    trained on images of another hash.
    """
    path = Path(folder) / "run.json"
    record: dict[str, Any] = _read(path, _record, _trainer(path.parent))
    if data not in (None, record["data"]):
        hashes = f"{record['parameters']['dataset']} was {record['data']}, now {data}"
        raise UsageError(
            f"{path.parent} was trained on other images, or normalised otherwise (hash of {hashes})"
        )
    return record


def _record(path: Path) -> dict[str, Any]:
    record = _json(path, RECORD)
    _check_kinds(record["facts"], OF_FACTS)
    _check_kinds(record["parameters"], {"dataset": str})
    optional = {"labelled": list} | dict.fromkeys(OPTIONAL, NUMBER)
    _check_kinds(record, {name: kind for name, kind in optional.items() if name in record})
    return record


def load_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the weights of a trained network."""
    path = Path(folder) / "weights.safetensors"
    found: checksums.Tensors = _read(path, _read_tensors, _trainer(Path(folder)))
    record = path.with_name("run.json")
    if found.checksum and record.is_file():
        text = record.read_bytes()  # searched, not read: it may list thousands of labelled images
        if b'"checksums"' in text and f'"{found.checksum}"'.encode() not in text:
            raise UsageError(f"{path} is of another training than run.json; delete both, run again")
    return found.arrays


def load_snapshots(folder: str | Path) -> dict[int, dict[str, np.ndarray]]:
    """Read the weights that a network had during training, by epoch."""
    made_by = f'{_trainer(Path(folder))} and -y "snapshots: [0, 1, 5]"'

    def read(path: Path) -> dict[int, dict[str, np.ndarray]]:
        snapshots: dict[int, dict[str, np.ndarray]] = {}
        for key, value in _read_tensors(path).arrays.items():
            epoch, _, name = key.partition(".")
            snapshots.setdefault(int(epoch), {})[name] = value
        return dict(sorted(snapshots.items()))

    return dict(_read(Path(folder) / "snapshots.safetensors", read, made_by))


def load_history(folder: str | Path) -> pd.DataFrame:
    """Read what a training reported: one row per epoch."""
    path = Path(folder) / "history.parquet"
    history: pd.DataFrame = _read(path, _parquet, _trainer(Path(folder)))
    return history


def _trainer(folder: Path) -> str:
    notebook = "teacher" if "teachers" in folder.parts else "student"
    return f"`papermill --engine kdlib notebooks/{notebook}.ipynb out.ipynb` with its parameters"


def all_runs(root: str | Path = "runs") -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Every run below `root` with its record, None where that cannot be read."""
    for path in sorted(Path(root).glob("*/*/*/**/run.json")):
        try:
            yield path.parent, load_run(path.parent)
        except UsageError:
            yield path.parent, None


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
    flat_train: Mapping[str, Float[np.ndarray, "n p"]] = NONE
    flat_test: Mapping[str, Float[np.ndarray, "m p"]] = NONE


def save_layers(folder: Path, layers: Layers) -> None:
    """Write the features of a network beside its weights.

    Raises UsageError where features of other images are there: the two would not compare.
    """
    path = folder / "features.safetensors"
    if path.exists():
        before = load_layers(folder)
        for what in ("train_rows", "test_rows"):
            if not np.array_equal(getattr(before, what), getattr(layers, what)):
                raise UsageError(
                    f"{path} holds features of other images (another sample size or data set); "
                    "give this a study of its own"
                )
    tensors: dict[str, np.ndarray] = {}
    for field, value in layers._asdict().items():
        key = field.replace("_", ".")  # flat.train, train.labels
        if isinstance(value, Mapping):
            tensors |= {f"{key}.{name}": array for name, array in value.items()}
        else:
            tensors[key] = value
    _write_tensors(path, tensors, {"layers": list(layers.test)})


def load_layers(folder: str | Path) -> Layers:
    """Read the features of a network. Raises UsageError if there are none."""
    made_by = "`papermill --engine kdlib notebooks/features.ipynb out.ipynb` for its network"
    layers: Layers = _read(Path(folder) / "features.safetensors", _layers, made_by)
    return layers


OF_IMAGES = ("train_labels", "test_labels", "test_rows", "train_rows")


def _layers(path: Path) -> Layers:
    """The layers of a file, from first to last. Raises ValueError where they do not fit."""
    found = _read_tensors(path)
    tensors, order = found.arrays, found.notes["layers"]
    fields: dict[str, Any] = {}
    for field in Layers._fields:
        key = field.replace("_", ".")
        named = {name: tensors.get(f"{key}.{name}") for name in order}
        layers = {name: x for name, x in named.items() if x is not None}
        fields[field] = tensors[key] if field in OF_IMAGES else layers
    for part, rows in (("train", "train_rows"), ("test", "test_rows")):
        n = {len(x) for name in (part, f"flat_{part}") for x in fields[name].values()}
        if len(n | ({len(fields[rows])} - {0})) > 1:  # without rows: foreign
            raise ValueError(f"{part} holds features of different numbers of images")
    return Layers(**fields)


def teacher_of(root: Path, run: str, named: str = "") -> str:
    """The run whose layers those of `run` are compared with: `named`, or its own teacher.

    A baseline's is the teacher of its study, that of a student of several its first. Empty for a
    teacher. Raises UsageError unless both have features of the same images.
    """
    own_teacher = load_run(root / run)["parameters"].get("teacher", "")
    first = own_teacher[0] if isinstance(own_teacher, list) else own_teacher
    teacher = named or str(first)
    if teacher in ("", run):
        return ""
    own, other = load_layers(root / run), load_layers(root / teacher)
    if not np.array_equal(own.test_rows, other.test_rows):
        raise UsageError(f"{run} has features of other images than {teacher}; extract one again")
    return teacher


def load(folder: str | Path | None = None, *, view: str | None = "pooled") -> Results:
    """Read the published results of a study, for example "book/results/quick".

    In the `view` "flat", layers with positions were measured by the principal axes of their whole
    map instead of its mean over positions: does a conclusion depend on pooling? None: both views.

    Without a folder: of the study that the book is built for (KDLIB_STUDY, default quick), from
    the project's root, book/ or notebooks/ alike. Raises UsageError when the folder holds none,
    or when a file in it cannot be read.
    """
    if view is not None:
        one_of("view", view, VIEWS)
    own = locate("book/results") / os.environ.get("KDLIB_STUDY", "quick")
    folder = own if folder is None else Path(folder)
    made_by = "`make book` for the study quick, `python -m kdlib publish` for any"
    study = _read(folder / "study.json", _study, made_by)
    tables = {}
    for name, entry in TABLES.items():
        tables[name] = _read(folder / f"{name}.parquet", partial(_table, entry=entry), made_by)
    for name in ("measures", "similarity"):
        tables[name] = _viewed(tables[name], view)
    sample = _read(folder / "sample.parquet", partial(_parquet, columns=["label"]), made_by)
    labels = sample["label"].to_numpy()
    images = np.zeros((0, 1, 1, 1), np.uint8)
    if study.get("image") is not None:
        read = partial(_read_sheet, shape=(len(labels), *study["image"]))
        images = _read(folder / "sample.webp", read, made_by)
    return Results(study, **tables, images=images, labels=labels)


def _study(path: Path) -> dict[str, Any]:
    study = _json(path, STUDY)
    for name in ("layers", "embeddings"):
        if len({each for each in study[name] if isinstance(each, str)}) < len(study[name]):
            raise ValueError(f"{name} is {str(study[name])[:80]!r}, not texts, each once")
    image = study.get("image")
    sides = image if isinstance(image, list) else []
    if image is not None and (len(sides) != 3 or not all(type(n) is int and n > 0 for n in sides)):
        raise ValueError(f"image is {str(image)[:80]!r}")
    return study


def foreign(folder: Path) -> bool:
    """Whether a folder holds the results of a look at others' networks, or none of any study."""
    path = folder / "study.json"
    return not path.is_file() or bool(_read(path, _json, "look").get("foreign"))


def brief(study: str, *tables: str, view: str = "pooled") -> Results:
    """Read the runs of a published study, and the tables named, whichever the book is built for.

    All other tables are left empty, and so are those that were not published. Measures are those of
    one `view` (see `load`).
    """
    one_of("view", view, VIEWS)
    for name in tables:
        one_of("table", name, TABLES)
    folder = locate(f"book/results/{study}")
    found = {name: empty(name) for name in TABLES}
    facts: dict[str, Any] = {"name": study, "dataset": "", "embeddings": []}
    if (folder / "study.json").is_file():
        facts = _read(folder / "study.json", _study, "publish")
        tables = ("runs", *tables)
        for name in tables:
            file = folder / f"{name}.parquet"
            if name == "runs" or file.is_file():
                table = _read(file, partial(_table, entry=TABLES[name]), "publish")
                found[name] = _viewed(table, view if "view" in table else None)
    no_images, no_labels = np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64)
    return Results(facts, **found, images=no_images, labels=no_labels)


def publish(
    folder: Path,
    results: Results,
    executed: Mapping[str, str] = NONE,
    provenance: pd.DataFrame | None = None,
) -> None:
    """Write the small part of a study that the book shows: all of it or, on failure, nothing.

    `executed` are the texts of notebooks as they ran, to lie below executed/ under the names
    given. `provenance` has the columns PROVENANCE, a row for each run. Images of more than PLAIN
    pixels a side lose what WebP takes from them; study.json gets their height, width and channels
    as "image", null where there are no images.
    """
    folder = folder.absolute()
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    try:
        for name, notebook in executed.items():
            file = part / "executed" / f"{name}.ipynb"
            _write(file, partial(Path.write_text, data=notebook, encoding="utf-8"))
        for name, entry in TABLES.items():
            _write_parquet(part / f"{name}.parquet", _rounded(getattr(results, name), entry))
        if provenance is not None:
            _write_parquet(part / "provenance.parquet", provenance[PROVENANCE])
        _write_parquet(part / "sample.parquet", pd.DataFrame({"label": results.labels}))
        shape: dict[str, Any] = {"image": None}
        if len(results.images) == len(results.labels):
            _write(part / "sample.webp", partial(_write_sheet, results.images))
            shape = {"image": list(results.images.shape[1:])}
        _write_json(part / "study.json", results.study | shape)
        _move(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move(part: Path, folder: Path) -> None:
    """Put every file of a folder in its place in another one; study.json last."""
    files = [file for file in part.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.name == "study.json"):
        to = folder / file.relative_to(part)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            file.replace(to)
        except OSError as problem:
            raise UsageError(f"cannot write {to}: {_reason(problem)}") from problem


def _write_sheet(images: UInt8[np.ndarray, "n h w c"], path: Path) -> None:
    """Lay images on one WebP sheet, COLUMNS in a row, in their order."""
    n, h, w, c = images.shape
    sheet = np.zeros((max(1, -(-n // COLUMNS)), COLUMNS, h, w, 3), np.uint8)
    sheet.reshape(-1, h, w, 3)[:n] = images  # grey ones become three equal channels
    picture = Image.fromarray(sheet.swapaxes(1, 2).reshape(-1, COLUMNS * w, 3))
    plain = c == 1 or max(h, w) <= PLAIN
    picture.save(path, "WEBP", lossless=plain, quality=100 if plain else QUALITY, method=6)


def _read_sheet(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n h w c"]:
    """The images of a sheet."""
    n, h, w, c = shape
    with Image.open(path) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    rows = sheet.reshape(-1, h, COLUMNS, w, 3).swapaxes(1, 2)
    images = np.ascontiguousarray(rows.reshape(-1, h, w, 3)[:n, ..., :c])
    if len(images) < n or c not in (1, 3):
        raise ValueError(f"it holds {len(images)} images, of {n} labels")
    return images


def load_provenance(folder: Path) -> pd.DataFrame:
    """Read where each published run comes from: the columns PROVENANCE."""
    read = partial(_parquet, columns=PROVENANCE)
    table: pd.DataFrame = _read(folder / "provenance.parquet", read, "publish")
    return table


def gather(
    root: Path,
    names: list[str],
    maps: list[str],
    comparison: str = "",
    film: str = "",
    *,
    layers: bool = True,
) -> dict[str, pd.DataFrame]:
    """The tables of `Results` from a study's own folder: runs, maps, comparison and film named.

    Without `layers` there are runs only, and the other tables are empty. Raises UsageError where
    a file is missing, and where two networks were trained or extracted on different images.
    """
    tables = {name: empty(name) for name in TABLES}
    data = load_run(root / names[0])["data"]
    columns, rows = TABLES["runs"].columns, []
    for name in names:
        record = load_run(root / name, data)
        row = record["facts"] | record | {"run": name, "parameters": record["parameters_count"]}
        row = dict.fromkeys(OPTIONAL, np.nan) | row
        rows.append([row[column] for column in columns])
    tables["runs"] = pd.DataFrame(rows, columns=columns)
    if layers:
        tables |= _gather_layers(root, tables["runs"], maps)
    for name, kinds in ((comparison, ("comparison", "sweeps")), (film, ("film", "training"))):
        if name:
            tables |= {kind: load_table(kind, root, name) for kind in kinds}
    return tables


def _gather_layers(root: Path, runs: pd.DataFrame, maps: list[str]) -> dict[str, pd.DataFrame]:
    names = list(runs["run"])
    outputs = _logits(root, names)
    predictions = {name: logits.argmax(1)[:, None] for name, logits in outputs.items()}
    tables = {"predictions": cells(predictions, "run", "image", "", "prediction")}
    for kind in ("measures", "similarity", "map_measures"):
        tables[kind] = _together(load_table(kind, root, name) for name in names)
    for kind in ("maps", "faithfulness", "neighbours"):
        tables[kind] = _together([empty(kind), *(load_table(kind, root, name) for name in maps)])
    tables["faithfulness"] = _together([tables["faithfulness"], tables.pop("map_measures")])
    tables["neighbours"] = tables["neighbours"].drop_duplicates()  # the same beside every map
    mapped = runs["run"].isin(tables["maps"]["run"]) & (runs["role"] == "teacher")
    if mapped.any():
        logits = {name: outputs[name] for name in runs["run"][mapped]}
        tables["teacher_logits"] = cells(logits, "run", "image", "label", "logit")
    return {
        name: table[TABLES[name].columns].reset_index(drop=True) for name, table in tables.items()
    }


def _together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All rows of some tables; an empty one has no types that could change another's."""
    parts = list(tables)
    return pd.concat([part for part in parts if len(part)] or parts[-1:], ignore_index=True)


def _logits(root: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The logits of each network. Raises UsageError where two have features of other images."""
    rows, logits = load_layers(root / names[0]).test_rows, {}
    for name in names:
        layers = load_layers(root / name)
        if not np.array_equal(layers.test_rows, rows):
            raise UsageError(f"{name} has features of other images than {names[0]}; extract again")
        logits[name] = layers.test["logits"]
    return logits


def load_benchmark(study: str, name: str) -> dict[str, Any]:
    """Read what a script of benchmarks/ measured; nothing where it has not run."""
    path = locate(f"book/results/{study}") / f"{name}.json"
    return dict(_read(path, _json, name)) if path.is_file() else {}


def save_benchmark(study: str, name: str, measured: Mapping[str, Any]) -> None:
    """Write what a script of benchmarks/ measured, beside the study that shows it."""
    _write_json(Path("book/results") / study / f"{name}.json", measured)


@cache
def code_hash() -> str:
    """The first 16 hex digits of the SHA-256 of the library's Python files."""
    digest = hashlib.sha256()
    top = Path(__file__).parent
    for file in sorted(top.rglob("*.py")):
        digest.update(file.relative_to(top).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, Any]:
    """Versions of what computes the results."""
    installed = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return {"versions": installed}
