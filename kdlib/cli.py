"""`python -m kdlib`: run a study, list and show runs, publish, check the installation."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from kdlib import UsageError, __version__, one_of, store
from kdlib.plan import methods, runs, studies

LOCK = Path(".snakemake/kdlib.lock")
BOOK = Path("_build/html/index.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 2, after one line, for what cannot be."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    more = arguments[end + 1 :]
    parser = argparse.ArgumentParser("python -m kdlib", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("study", help="run what a study still lacks, build the book")
    command.add_argument("file", nargs="?", default="studies/quick.yaml", type=Path)
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    command.epilog = "What follows -- goes to Snakemake: -- --dry-run, -- -j 4, -- --forceall"
    command.set_defaults(call=lambda a: study(a.file, a.device, more))

    command = commands.add_parser("list", help="the runs there are, as a table")
    command.add_argument("--results", default="runs", type=Path, help="folder of all studies")
    command.set_defaults(call=lambda a: list_runs(a.results))

    command = commands.add_parser("show", help="everything recorded of one run")
    command.add_argument("run", type=Path, help="its folder")
    command.set_defaults(call=lambda a: show(a.run))

    command = commands.add_parser("publish", help="copy what the book shows of a study")
    command.add_argument("file", nargs="?", default="studies/quick.yaml", type=Path)
    command.add_argument("--to", type=Path, help="default: book/results/<study>")
    command.set_defaults(call=lambda a: publish(a.file, a.to))

    command = commands.add_parser("check", help="is the installation sound?")
    command.set_defaults(call=lambda a: check())

    given = parser.parse_args(arguments[:end])
    try:
        return given.call(given) or 0
    except UsageError as problem:
        print(f"kdlib: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as problem:  # no place, no permission
        print(f"kdlib: {problem.filename or ''} {problem.strerror}".strip(), file=sys.stderr)
        return 2


# ---- study -------------------------------------------------------------------------------------


def study(file: Path, device: str = "auto", more: Sequence[str] = ()) -> int:
    """Check a study, then let Snakemake run what it lacks. Goes on after a kill or power loss."""
    from kdlib import data, embed, models, train

    planned = studies.read(file)
    for method in planned.keys:
        methods.parse(method, f"{file}: method")
    for embedding in planned.embeddings:
        one_of(f"{file}: embedding", embedding, embed.EMBEDDERS)
    for layer in planned.film.get("layers", ()):
        one_of(f"{file}: film: layer", layer, models.LAYERS)
    if "baseline" not in planned.keys or len(planned.keys) < 2:
        raise UsageError(f"{file}: methods {planned.keys}; allowed: alone and at least one more")
    train.use(device, 1)
    try:
        for network in {run.network for run in (*planned.teachers, *planned.students)}:
            models.check(network)
        images = data.load(planned.teachers[0].source)
        for labels in planned.labels_per_class:
            data.budget(images.train_labels, labels, 0, classes=images.classes)
        for block in list(planned.blocks)[:1]:
            looked = planned.looked(runs.Features, block)
            data.sample(images.test_labels, looked.sample)  # type: ignore[attr-defined]
    except UsageError as problem:
        raise UsageError(f"{file}: {problem}") from None
    store.writable(planned.teachers[0].root)
    with _only_one():
        _unlock()
        here = str(Path(sys.executable).parent)  # this Python's own snakemake and papermill
        path = os.pathsep.join([here, os.environ.get("PATH", "")])
        told = ["--config", f"study={file}", f"device={device}", "--rerun-incomplete"]
        command = [sys.executable, "-m", "snakemake", *told, *more]
        return _to_the_end(
            subprocess.Popen(command, env={**os.environ, "PATH": path}, close_fds=False)
        )


def _to_the_end(process: subprocess.Popen) -> int:
    """Wait for Snakemake, also after Ctrl-C: it gets the signal itself and stops cleanly.

    A kill it does not get by itself, so it is handed on.
    """
    stopped: list[int] = []

    def hand_on(number: int, _: object) -> None:
        stopped.append(number)
        process.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            stopped.append(signal.SIGINT)
    signal.signal(signal.SIGTERM, before)
    if stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
    return 128 + stopped[-1] if stopped else code


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold a lock that the system frees when this process and its Snakemake are gone."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("a study still runs in this folder; waiting for its end", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        yield


def _unlock() -> None:
    """Take away the lock that a killed Snakemake left; nobody else can be running now."""
    locks = Path(".snakemake/locks")
    if locks.is_dir():
        shutil.rmtree(locks)


# ---- list, show --------------------------------------------------------------------------------


def list_runs(results: Path) -> None:
    """Print one line per run: study, name, accuracy, seconds, when."""
    if not results.is_dir():
        raise UsageError(f"no folder {results}; `make book` or a notebook makes runs")
    rows = [_line(folder, record, results) for folder, record in store.found(results)]
    if not rows:
        raise UsageError(f"no runs below {results}; `make book` or a notebook makes some")
    head = ("study", "data set", "run", "test accuracy", "n", "seconds", "finished")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(f"{len(rows)} runs below {results}")


def _line(folder: Path, record: dict | None, results: Path) -> tuple[str, ...]:
    place, dataset, *name = folder.relative_to(results).parts
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / "run.json").stat().st_mtime))
    if record is None:
        return (place, dataset, "/".join(name), "unreadable", "", "", when)
    told = (
        f"{record['test_accuracy']:.3f}",
        str(record["test_images"]),
        f"{record['seconds']:.1f}",
    )
    return (place, dataset, "/".join(name), *told, when)


def show(folder: Path) -> None:
    """Print a run's record, its last epoch and its measures, if there are any."""
    record = store.load_run(folder)
    labelled = record.get("labelled", [])
    if len(labelled) > 20:
        record["labelled"] = f"{len(labelled)} images"
    print(json.dumps(record, indent=1))
    print(store.load_history(folder).tail(1).dropna(axis=1).to_string(index=False))
    if (folder / "measures.parquet").is_file():
        table = store.load_measures(folder)
        wide = table.pivot(index="measure", columns="layer", values="value")
        print(wide[table["layer"].unique()].round(3).to_string())


# ---- publish -----------------------------------------------------------------------------------


def publish(file: Path, to: Path | None) -> None:
    """Gather a study's tables and its test images into the folder that the book reads."""
    from kdlib import data, models

    planned = studies.read(file)
    trained = [*planned.teachers, *planned.students]
    root = trained[0].root
    tables = store.gather(
        root,
        [run.name for run in trained],
        [maps.name for maps in planned.drawn.values()],
        planned.compared.name if planned.compared else "",
        planned.followed.name if planned.followed else "",
        layers=planned.layers,
    )
    images = data.load(planned.teachers[0].source)
    rows = (
        store.load_layers(trained[0].folder).test_rows.tolist() if planned.layers else list[int]()
    )
    told = {
        "name": planned.name,
        "dataset": images.name,
        "classes": list(images.classes),
        "layers": list(models.LAYERS),
        "embeddings": list(planned.drawn),
        "maps": {name: maps.name for name, maps in planned.drawn.items()},
        "axes": planned.axes | {"methods": planned.keys},
        "train_images": len(images.train),
        "test_images": len(images.test),
        "sample": len(rows),
        "data": images.hash,
        "code": store.code_hash(),
        **store.versions(),
    }
    folder = to or Path("book/results") / planned.name
    store.publish(
        folder,
        store.Results(
            told,
            **tables,
            images=images.test[rows].permute(0, 2, 3, 1).numpy(),
            labels=images.test_labels[rows].numpy(),
        ),
        executed=_executed(planned),
    )
    print(f"{len(trained)} networks, {len(tables['maps']):,} map points -> {folder}")


def _executed(planned: studies.Study) -> dict[str, Path]:
    """The notebooks of a study as they ran, by the names they get in the book.

    Every run, and for the pages one of each kind: the teacher, a student, and what looked on.
    """
    root = planned.teachers[0].root
    made = {run.name: run.folder / "teacher.ipynb" for run in planned.teachers}
    for kernel, together in planned.kernels.items():
        made |= {run.name: root / f"students/{kernel}.ipynb" for run in together.each}
    pages = {"teacher": made[planned.teachers[0].name], "student": made[planned.mapped[-1].name]}
    if not planned.layers:
        return {name: file for name, file in (made | pages).items() if file.is_file()}
    block = list(planned.blocks)[-1]
    pages |= {
        "features": root / f"features/{block}.ipynb",
        "measure": root / f"measures/{block}.ipynb",
    }
    pages |= {"embed": root / f"maps/{next(iter(planned.drawn.values())).name}.ipynb"}
    if planned.compared:
        pages |= {"compare": root / f"maps/{planned.compared.name}.ipynb"}
    if planned.followed:
        pages |= {"film": root / f"maps/{planned.followed.name}.ipynb"}
    return {name: file for name, file in (made | pages).items() if file.is_file()}


# ---- check -------------------------------------------------------------------------------------


def check() -> int:
    """Print, in one screen, whether everything that kdlib needs is there and works."""
    lines = [("python", _python), ("torch", _torch), ("device", _device), ("threads", _threads)]
    lines += [("torchvision", _torchvision), ("ivis", _ivis), ("openTSNE", _version("openTSNE"))]
    lines += [("papermill", _papermill), ("snakemake", _version("snakemake"))]
    lines += [("jupyter-book", _version("jupyter_book")), ("browser", _browser), ("disk", _disk)]
    bad = 0
    for name, ask in lines:
        try:
            mark, said = "ok ", ask()
        except Exception as problem:  # whatever is broken there is what we are here to tell
            mark, said = "BAD", f"{type(problem).__name__}: {problem}".splitlines()[0]
            bad += 1
        print(f"{mark}  {name:<13}{textwrap.shorten(said, 80)}", flush=True)
    print("the installation is sound" if not bad else f"{bad} of {len(lines)} are not sound")
    return 1 if bad else 0


def _version(module: str) -> Callable[[], str]:
    def ask() -> str:
        found = import_module(module)
        from importlib.metadata import packages_distributions, version

        return version(packages_distributions()[found.__name__][0])

    return ask


def _python() -> str:
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(f"{sys.version.split()[0]}; TensorFlow 2.21 wants 3.11 to 3.13")
    return f"{sys.version.split()[0]} in {sys.prefix}"


def _torch() -> str:
    import torch

    torch.ones(2, 2).matmul(torch.ones(2, 2))
    return torch.__version__


def _device() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(gpus) or "cpu (torch sees no GPU)"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} for torch, {os.cpu_count()} cores"


def _torchvision() -> str:
    from kdlib.vision import torchvision

    torchvision.models.resnet18(weights=None)
    return f"{torchvision.__version__}; resnet18 builds"


def _ivis() -> str:
    import numpy as np

    from kdlib import embed

    points = np.random.default_rng(0).normal(size=(64, 4))
    embed.embed(points, "ivis", steps=2)
    from importlib.metadata import version

    return f"{version('ivis')} with TensorFlow {version('tensorflow')}; embeds"


def _papermill() -> str:
    from papermill.engines import papermill_engines

    if papermill_engines.get_engine().__module__ != "kdlib.plan.engine":
        raise RuntimeError("kdlib's engine is not papermill's default: pip install -e . again")
    return f"{_version('papermill')()} with kdlib's engine"


def _browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    return found or "none found; the tests of the book are skipped"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 1:
        raise RuntimeError(f"{free:.1f} GiB free here")
    return f"{free:.0f} GiB free here"
