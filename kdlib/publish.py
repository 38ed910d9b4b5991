"""Publish a study: gather what the book shows of it, from this machine and what was published.

A study may be trained seed by seed, over several sessions and machines, and its run folders may be
gone: what was published of runs that are not here is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdlib import UsageError, data, models, store
from kdlib.plan.runs import Run, is_address
from kdlib.plan.studies import Study

OF_MAPS = ("maps", "faithfulness")  # tables whose rows belong to a run and an embedding
WHOLE = ("comparison", "sweeps", "film", "training")  # tables of one notebook: not merged
ROUNDING = 0.002  # test accuracy that other hardware may change
COMMITS = 300  # the newest, that are searched for the code of a training


class Counts(NamedTuple):
    """What became of the runs of a study when it was published."""

    added: int
    replaced: int
    kept: int  # as published before: they are not on this machine
    missing: int  # of the study file, not published
    dropped: int  # published before, of a study that has them no longer

    def __str__(self) -> str:
        """As on the command line: 12 added, 3 replaced."""
        return ", ".join(f"{n} {what}" for what, n in self._asdict().items() if n) or "none"


def publish(study: Study, folder: Path, *, partial: bool = False) -> Counts:
    """Write what the book shows of a study to a folder, all of it or nothing.

    Rows of runs that are on this machine replace those published; those of other runs are kept.
    With `partial`, label budgets and seeds of which every run is here or published, and no others.

    Raises UsageError where a run is missing, without `partial`; where no label budget and seed is
    whole, with it; and where published runs, which would be kept, are of other images or another
    sample of them, are none of those that are published now, or have a teacher that ended elsewhere
    when trained anew. A method, a value of a setting or a seed may be added: names of runs hold
    their settings.
    """
    images = data.load(study.source)
    names = [run.name for run in study.runs]
    here = [run.name for run in study.runs if _is_here(run, study)]
    before = _before(folder) if partial or len(here) < len(names) else None
    published = [] if before is None else [n for n in names if n in set(before.runs["run"])]
    there = {*here, *published}
    chosen = _whole_cells(study, there) if partial else names
    if missing := [name for name in chosen if name not in there]:
        _refuse_missing(study, missing)
    here = [name for name in here if name in chosen]
    kept = [name for name in published if name in chosen and name not in here]
    dropped = set() if before is not None else _earlier(folder) - set(names)

    for name in here[:1]:  # all of one hash, as `store.gather` sees to
        store.load_run(study.root / name, images.hash)
    tables = _gather(study, here, may_lack=partial or before is not None)
    rows = [] if study.runs_only or not here else _rows(study, here[0])
    facts = _facts(study, images, rows)
    origin = _provenance(study, here)
    sample = images.test[rows].permute(0, 2, 3, 1).numpy()
    labels = images.test_labels[rows].numpy()
    if before is not None:
        _check_alike(folder, before.study, facts)
        _check_kept(folder, list(before.runs["run"]), names, chosen)
        _check_teachers(folder, before.runs, tables["runs"], kept)
        tables = _merge(before, tables, chosen)
        earlier = store.load_provenance(folder)
        origin = pd.concat([earlier[~earlier["run"].isin(here)], origin], ignore_index=True)
        if not here:
            sample, labels = before.images, before.labels
            facts |= {key: before.study[key] for key in ("sample", "sample_rows")}
    tables = _of_runs(tables, chosen)
    tables["runs"]["options"] = tables["runs"]["run"].map(study.options)
    origin = origin[origin["run"].isin(chosen)]
    embedded = set(tables["maps"]["embedding"])
    facts |= {
        "embeddings": [name for name in study.map_tables if name in embedded],
        "published": _published(study, chosen),
        "missing": len(names) - len(chosen),
        "provenance": _summary(origin, tables["runs"]),
        "versions": _versions(origin),
    }
    results = store.Results(facts, **tables, images=sample, labels=labels)
    store.publish(folder, results, _executed(study, chosen), origin)
    replaced = len(set(here) & set(published))
    absent = len(names) - len(chosen)
    return Counts(len(here) - replaced, replaced, len(kept), absent, len(dropped))


# ---- which runs --------------------------------------------------------------------------------


def _is_here(run: Run, study: Study) -> bool:
    """Whether all that is published of a run is on this machine."""
    files = ["run.json"]
    if not study.runs_only:
        files += ["features.safetensors", "measures.parquet", "similarity.parquet"]
        files.append("map_measures.parquet")
    return all((run.folder / file).is_file() for file in files)


def _before(folder: Path) -> store.Results | None:
    """What was published before, in both views; None where nothing was.

    Raises UsageError where only a part of it is there, or where an earlier version published it.
    """
    if not (folder / "study.json").is_file():
        return None
    if not (folder / "provenance.parquet").is_file():
        raise UsageError(
            f"{folder} lacks provenance.parquet, so that nothing can join what is published; "
            "publish it from a machine with every run, or delete it"
        )
    return store.load(folder, view=None)


def _earlier(folder: Path) -> set[str]:
    """The runs that were published before; none where that cannot be read."""
    try:
        return set(store.load_frame(folder / "runs.parquet")["run"])
    except (UsageError, KeyError):
        return set()


def _whole_cells(study: Study, there: Collection[str]) -> list[str]:
    """The runs of every label budget and seed that is whole. Raises UsageError for none."""
    cells: dict[tuple[str, int], set[str]] = {}
    for run in study.students:
        cell = cells.setdefault((str(run.labels_per_class), run.seed), set())
        cell |= {run.name, *run.teacher_runs}
    whole = set().union(*(cell for cell in cells.values() if cell <= set(there)))
    if not whole:
        raise UsageError(
            f"{study.root} holds no label budget and seed with all {len(study.keys)} methods and "
            "their teacher; nothing is published"
        )
    return [run.name for run in study.runs if run.name in whole]


def _refuse_missing(study: Study, missing: list[str]) -> None:
    first = study.root / missing[0]
    raise UsageError(
        f"{len(missing)} of {len(study.runs)} runs are neither in {study.root} nor published, "
        f"the first {first.relative_to(study.root)}; --partial publishes what is whole"
    )


def _published(study: Study, chosen: Collection[str]) -> dict[str, list[int]]:
    """The seeds that are published of each label budget."""
    seeds: dict[str, list[int]] = {}
    for run in study.students:
        if run.name in chosen:
            known = seeds.setdefault(str(run.labels_per_class), [])
            if run.seed not in known:
                known.append(run.seed)
    return seeds


# ---- tables ------------------------------------------------------------------------------------


def _gather(study: Study, here: list[str], *, may_lack: bool) -> dict[str, pd.DataFrame]:
    """The tables of the runs that are here; with `may_lack`, without maps that are not made yet."""
    if not here:
        return {name: pd.DataFrame(columns=t.columns) for name, t in store.TABLES.items()}

    def names(tables: Iterable[Any], file: str) -> list[str]:
        planned = [table.name for table in tables if table is not None]
        made = study.root / "maps"
        return [n for n in planned if not may_lack or (made / file.format(n)).is_file()]

    return store.gather(
        study.root,
        here,
        names(study.map_tables.values(), "{}.parquet"),
        "".join(names([study.comparison], "{}-sweeps.parquet")),
        "".join(names([study.film_table], "{}-training.parquet")),
        layers=not study.runs_only,
    )


def _rows(study: Study, run: str) -> list[int]:
    rows: list[int] = store.load_layers(study.root / run).test_rows.tolist()
    return rows


def _merge(
    before: store.Results, tables: dict[str, pd.DataFrame], chosen: list[str]
) -> dict[str, pd.DataFrame]:
    """New rows in place of old ones of the same run, or run and embedding; else old rows.

    Nothing is kept of a run that was trained anew and ended elsewhere, and no table of one notebook
    that such a run is in.
    """
    scores = ["run", "test_accuracy", "calibration_error"]
    old, new = (set(t[scores].itertuples(False, None)) for t in (before.runs, tables["runs"]))
    again = {run for run, *_ in new - old}  # or for the first time
    order = {run: number for number, run in enumerate(chosen)}
    merged = {}
    for name, rows in tables.items():
        kept = getattr(before, name)
        is_old = kept["run"].isin(again)
        if name in WHOLE:
            kept = kept[:0] if is_old.any() else kept
            merged[name] = kept if rows.empty else rows
            continue
        kept = kept[~is_old]
        keys = ["run", "embedding"] if name in OF_MAPS else ["run"]
        is_new = pd.MultiIndex.from_frame(kept[keys]).isin(pd.MultiIndex.from_frame(rows[keys]))
        parts = [part for part in (kept[~is_new], rows) if len(part)] or [rows]
        table = pd.concat(parts, ignore_index=True)
        merged[name] = table.sort_values("run", kind="stable", key=lambda runs: runs.map(order))
    return merged


def _of_runs(tables: dict[str, pd.DataFrame], chosen: list[str]) -> dict[str, pd.DataFrame]:
    """The rows of the runs that are published."""
    return {name: t[t["run"].isin(chosen)].reset_index(drop=True) for name, t in tables.items()}


def _check_alike(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError unless runs published before compare with those on this machine."""
    words = {"data": "images", "sample_rows": "test images of the maps"}
    for key, what in words.items():
        old, new = before.get(key), now[key]
        if old != new and new is not None:
            raise UsageError(
                f"{folder} was published with other {what} ({old}, now {new}); delete it, or give "
                "this study a name of its own"
            )


def _check_kept(
    folder: Path, before: list[str], names: Collection[str], chosen: Collection[str]
) -> None:
    """Raise UsageError where runs published before are not published now, and so would be lost."""
    staying = set(chosen)
    lost = [run for run in before if run not in staying]
    if not lost:
        return
    reason = "which the study has no longer"
    if lost[0] in names:
        reason = "whose label budget and seed lack runs that are new in the study"
    raise UsageError(
        f"{folder} holds {len(lost)} runs that would be lost, the first {lost[0]}, {reason}; "
        "train what is new, delete the folder, or give this study a name of its own"
    )


def _check_teachers(
    folder: Path, before: pd.DataFrame, now: pd.DataFrame, kept: Collection[str]
) -> None:
    """Raise UsageError where a teacher of runs that are kept was trained anew to another accuracy.

    Another machine may round differently, so that a few images change sides.
    """
    old, new = (t.set_index("run")["test_accuracy"] for t in (before, now))
    for run in kept:
        teacher = before.set_index("run").at[run, "teacher"]
        if teacher in old and teacher in new and abs(new[teacher] - old[teacher]) > ROUNDING:
            raise UsageError(
                f"{folder} holds {run} of a teacher with test accuracy {old[teacher]:.4f}; "
                f"{teacher} was trained anew and has {new[teacher]:.4f}: publish from a machine "
                "that has its students, too, or delete the folder"
            )


# ---- what is said of the study -----------------------------------------------------------------


def _facts(study: Study, images: data.Images, rows: list[int]) -> dict[str, Any]:
    """What study.json says of the study, whichever runs are published."""
    return {
        "name": study.name,
        "dataset": images.name,
        "classes": list(images.classes),
        "layers": list(models.LAYERS),
        "maps": {name: maps.name for name, maps in study.map_tables.items()},
        "axes": study.axes | {"methods": study.keys},
        "settings": study.shared,
        "train_images": len(images.train),
        "test_images": len(images.test),
        "sample": len(rows),
        "sample_rows": _digest(np.asarray(rows, "<i8").tobytes()) if rows else None,
        "data": images.hash,
        "code": store.code_hash(),
    }


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _provenance(study: Study, here: list[str]) -> pd.DataFrame:
    """Where each run that is here comes from: columns store.PROVENANCE."""
    rows = []
    for name in here:
        record = store.load_run(study.root / name)
        code, device = record["code"], record.get("device", "")
        versions = json.dumps(record["versions"])
        rows.append((name, record["data"], code, commit_of(code), device, versions))
    return pd.DataFrame(rows, columns=store.PROVENANCE, dtype=object)


def _summary(origin: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """What trained the runs, in short: each value with the number of runs it is of."""
    counts = {name: dict(Counter(origin[name])) for name in ("code", "commit", "device")}
    return counts | {"hours": round(float(runs["seconds"].sum()) / 3600, 2)}


def _versions(origin: pd.DataFrame) -> dict[str, str]:
    """The versions of what trained the runs, and all where there are several."""
    versions: dict[str, list[str]] = {}
    for text in origin["versions"].unique():
        for name, version in json.loads(text).items():
            known = versions.setdefault(name, [])
            if version not in known:
                known.append(version)
    return {name: ", ".join(known) for name, known in versions.items()}


@cache
def commit_of(code: str) -> str:
    """The newest commit of git whose library has this hash of code; "unknown" where none has."""
    top = Path(__file__).parents[1]
    listed = (
        _git(top, "rev-list", "--all", f"--max-count={COMMITS}", "--", "kdlib").decode().split()
    )
    known: dict[str, bytes] = {}
    return next((commit for commit in listed if _code_of(top, commit, known) == code), "unknown")


def _code_of(top: Path, commit: str, known: dict[str, bytes]) -> str:
    """The hash of code (`store.code_hash`) of a commit."""
    listed = _git(top, "ls-tree", "-r", commit, "kdlib/").decode().splitlines()
    files = {Path(line.split("\t")[1]): line.split()[2] for line in listed if line[-3:] == ".py"}
    contents = _contents(top, [files[file] for file in sorted(files)], known)
    digest = sha256()
    for file, content in zip(sorted(files), contents, strict=True):
        digest.update(file.relative_to("kdlib").as_posix().encode() + content)
    return digest.hexdigest()[:16]


def _contents(top: Path, objects: list[str], known: dict[str, bytes]) -> list[bytes]:
    """The contents of objects of git; those that are not yet in `known` are read."""
    new = [name for name in objects if name not in known]
    output = _git(top, "cat-file", "--batch", given="\n".join(new)) if new else b""
    for name in new:
        head, _, output = output.partition(b"\n")
        size = int(head.split()[2])
        known[name], output = output[:size], output[size + 1 :]
    return [known[name] for name in objects]


def _git(top: Path, *arguments: str, given: str = "") -> bytes:
    """What git prints; nothing where there is no git, or no repository."""
    try:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=top, input=given.encode(), capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout


# ---- executed notebooks ------------------------------------------------------------------------


def _executed(study: Study, chosen: Collection[str]) -> dict[str, str]:
    """The notebooks of a study as they ran, by the names they get in the book.

    Every run that is published, and for the pages one of each kind: the teacher, a student, and
    what follows them. No path of images or of weights is in them: the name of the images and of
    the file replace it.
    """
    root = study.root
    files = {run.name: run.folder / "teacher.ipynb" for run in study.teachers}
    for kernel, together in study.kernels.items():
        files |= {run.name: root / f"students/{kernel}.ipynb" for run in together.each}
    files["teacher"] = files[study.teachers[0].name]
    files["student"] = files[study.mapped[-1].name]
    if not study.runs_only:
        block = list(study.blocks)[-1]
        files["features"] = root / f"features/{block}.ipynb"
        files["measure"] = root / f"measures/{block}.ipynb"
        files["embed"] = root / f"maps/{next(iter(study.map_tables.values())).name}.ipynb"
    if study.comparison:
        files["compare"] = root / f"maps/{study.comparison.name}.ipynb"
    if study.film_table:
        files["film"] = root / f"maps/{study.film_table.name}.ipynb"
    for run in study.runs:
        if run.name not in chosen:
            del files[run.name]
    names = {study.dataset: study.source.name}
    names |= {t.weights: Path(t.weights).name for t in study.teachers if t.weights}
    return {
        key: _replaced(file.read_text("utf-8"), names)
        for key, file in files.items()
        if file.is_file()
    }


def _replaced(notebook: str, names: Mapping[str, str]) -> str:
    """The text of a notebook with names in place of paths."""
    for path, name in names.items():
        if os.sep in path and not is_address(path):
            notebook = notebook.replace(json.dumps(path)[1:-1], json.dumps(name)[1:-1])
    return notebook
