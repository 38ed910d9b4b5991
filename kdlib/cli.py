"""`python -m kdlib`: run a study, look into networks, list runs, publish, build the book."""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from kdlib import UsageError, __version__, path_of, printable, store
from kdlib.plan import runs, stops, studies

LOCK = Path(".snakemake/kdlib.lock")
DAY = 86_400  # seconds
OF_THE_BOOK = ("snakemake", "psutil")  # packages that only that extra brings
DEVICES = ("auto", "cpu", "cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 2, after one line, for a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command = _parser(arguments[end + 1 :]).parse_args(arguments[:end])
    try:
        if arguments[0] in ("publish", "book"):  # run by a study, perhaps
            stops.end_with_the_study(f"python -m kdlib {' '.join(arguments[:2])}")
        for name, given in vars(command).items():
            if isinstance(given, Path):
                setattr(command, name, path_of(name, given))
        return command.call(command) or 0
    except UsageError as problem:
        print(f"kdlib: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as problem:  # no place, no permission
        line = f"{problem.filename or ''} {problem.strerror or problem}".strip()
        print(f"kdlib: {printable(line)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as problem:
        package = str(problem.name).partition(".")[0]
        if package not in OF_THE_BOOK:
            raise
        print(f"kdlib: {package} is not installed; pip install -e .[book]", file=sys.stderr)
        return 2
    except MemoryError:
        print("kdlib: there is not enough memory for that on this machine", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of everything that there is."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"kdlib: {printable(message)}; allowed: see {self.prog} --help\n")


def _path(text: str) -> Path:
    """A path of an argument; an empty one, as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; allowed: a path")
    return Path(text)


def _parser(for_snakemake: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser("python -m kdlib", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("study", help="run what a study still lacks, build the book")
    command.add_argument("file", nargs="?", default="studies/quick.yaml", type=_path)
    command.add_argument("--device", default="auto", choices=DEVICES)
    command.epilog = "What follows -- goes to Snakemake: -- --dry-run, -- -j 4, -- --forceall"
    command.set_defaults(call=lambda a: study(a.file, a.device, for_snakemake))

    command = commands.add_parser("list", help="the runs there are, as a table")
    command.add_argument("--results", default="runs", type=_path, help="folder of all studies")
    command.set_defaults(call=lambda a: list_runs(a.results))

    command = commands.add_parser("show", help="everything recorded of one run")
    command.add_argument("run", type=_path, help="its folder")
    command.set_defaults(call=lambda a: show(a.run))

    command = commands.add_parser("publish", help="copy what the book shows of a study")
    command.add_argument("file", nargs="?", default="studies/quick.yaml", type=_path)
    command.add_argument("--device", default="auto", choices=DEVICES)
    command.add_argument("--to", type=_path, help="default: book/results/<study>")
    command.add_argument(
        "--partial", action="store_true", help="only label budgets and seeds that are complete"
    )
    command.set_defaults(call=lambda a: publish(a.file, a.to, a.device, partial=a.partial))

    command = commands.add_parser("book", help="build the pages of one edition of the book")
    command.add_argument("edition", help="cifar10, digits, ...; study-<name> of a study of yours")
    command.add_argument("--computed", default="quick", help="the study computed on this machine")
    command.set_defaults(call=lambda a: _book(a.edition, a.computed))

    command = commands.add_parser("serve", help="show the book at an address of this machine")
    command.add_argument("--port", default=8000, type=int)
    command.add_argument("--folder", default="_build/html", type=_path, help="of its pages")
    command.set_defaults(call=lambda a: serve(a.folder, a.port))

    _add_look(commands.add_parser("look", help="look into networks that were trained elsewhere"))

    command = commands.add_parser("check", help="is the installation sound?")
    command.set_defaults(call=lambda a: _check())
    return parser


def _add_look(command: argparse.ArgumentParser) -> None:
    """The arguments of `look`: the parameters of `plan.look.Look`."""
    command.add_argument("folder", nargs="?", default="look", help="of the results and the page")
    command.add_argument("--data", help="a data set by name, a folder or an archive of images")
    command.add_argument("--size", type=int, help="side in pixels that images are brought to")
    command.add_argument("--grey", action="store_true", help="colour images made grey")
    command.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=NETWORK[@CHECKPOINT]",
        help="nets.py:student, package.nets:student, timm:resnet50 or resnet20, also with "
        "arguments, 'resnet20(width=0.5)'; several checkpoints by a pattern, kd-*.pt, are seeds "
        "of one network; a name that holds = stands in quotes, \"'lr=0.1'=resnet20\"",
    )
    command.add_argument("--features", help="instead of networks: .npz, .safetensors, .parquet")
    command.add_argument(
        "--layers",
        action="append",
        default=[],
        metavar="[NAME=]LAYER,LAYER",
        help="paths of modules; default: the last of every stage",
    )
    command.add_argument(
        "--teacher", help="that others are compared with; default: the one so called, or the first"
    )
    command.add_argument("--sample", type=int, help="images looked at; default: 1,000, or all")
    command.add_argument("--embeddings", default="tsne,pca", help="tsne, ivis, pca, ...")
    command.add_argument(
        "--normalise",
        action="append",
        default=[],
        metavar="[NAME=]CONSTANTS",
        help="own, data, none, imagenet, cifar10, ..., or .5,.4,.4:.2,.2,.2",
    )
    command.add_argument(
        "--input-size",
        action="append",
        default=[],
        metavar="[NAME=]PIXELS",
        help="side that images are resized to; default: as they are, or as the network asks for",
    )
    command.add_argument(
        "--weights-names",
        action="append",
        default=[],
        metavar="NAME=THEIRS:OURS,...",
        help="beginnings of names in a checkpoint, and what the network calls them: backbone.: ; "
        "one without a colon is left out",
    )
    command.add_argument(
        "--tokens",
        default="auto",
        choices=("auto", "class", "mean"),
        help="of a transformer: which stand for an image; auto: the class token where there is one",
    )
    command.add_argument("--device", default="auto", choices=DEVICES)
    command.add_argument("--threads", type=int, default=2, help="of the CPU; default: 2")
    command.epilog = "Needs no training and no study. A page that can be sent is in the folder."
    command.set_defaults(call=look)


def look(command: argparse.Namespace) -> None:
    """Look into networks that were trained elsewhere, or into a file of features."""
    from kdlib.foreign import reading
    from kdlib.plan.look import Look

    networks = _by_name("network", command.network)
    if "" in networks:
        raise UsageError(f"network {networks['']!r}; allowed: NAME=NETWORK or NAME=NETWORK@FILE")
    layers = {name: text.split(",") for name, text in _by_name("layers", command.layers).items()}
    sizes = {k: _pixels(v) for k, v in _by_name("input-size", command.input_size).items()}
    choice = Look(
        folder=command.folder,
        data=command.data,
        size=command.size,
        grey=command.grey,
        networks=networks,
        features=command.features,
        layers=layers.get("", layers or []),
        teacher=command.teacher,
        sample=command.sample,
        embeddings=command.embeddings.split(","),
        normalise=_for_all(_by_name("normalise", command.normalise), "own"),
        input_size=_for_all(sizes, None),
        weights_names=_names(_by_name("weights-names", command.weights_names)),
        tokens=command.tokens,
        device=command.device,
        threads=command.threads,
    )
    reading.run(choice)


def _by_name(what: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE by name; a value for all networks under "". Raises UsageError for one twice.

    A name in quotes may hold "=": 'lr=0.1'=resnet20.
    """
    values: dict[str, str] = {}
    for text in given:
        quoted = re.fullmatch(r"([\"'])(.+?)\1=(.*)", text, re.DOTALL)
        name, equals, value = quoted.group(2, 1, 3) if quoted else text.partition("=")
        if not equals:
            name, value = "", text
        if name in values or ("" in values) or (name == "" and values):
            raise UsageError(f"{what} {text!r}; allowed: once for each network, or once for all")
        values[name] = value
    return values


def _names(given: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """By network, the pairs of "backbone.:,head.:fc." as a dict."""
    if "" in given:
        raise UsageError(f"weights-names {[*given.values()]}; allowed: NAME=THEIRS:OURS,...")
    names: dict[str, dict[str, str | None]] = {}
    for name, text in given.items():
        pairs = (pair.partition(":") for pair in text.split(","))
        names[name] = {theirs: ours if colon else None for theirs, colon, ours in pairs}
    return names


def _for_all(values: dict[str, Any], default: Any) -> Any:
    return values.get("", values or default)


def _pixels(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"input-size {text!r}; allowed: a number of pixels")
    return int(text)


def _book(edition: str, computed: str) -> int:
    from kdlib.report import editions

    return editions.build(edition, computed)


def serve(folder: Path, port: int) -> None:
    """Serve the pages of the book to this machine until Ctrl-C."""
    if not (folder / "index.html").is_file():
        raise UsageError(f"no index.html in {folder}; `make book` makes it")
    if not 0 < port < 2**16:
        raise UsageError(f"port {port}; allowed: 1 to {2**16 - 1}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as problem:
        reason = problem.strerror or problem
        raise UsageError(f"port {port}: {reason}; another one: make serve PORT=8001") from None
    with server:
        print(f"http://127.0.0.1:{port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def _check() -> int:
    from kdlib import installation

    return installation.check()


# ---- study -------------------------------------------------------------------------------------


def study(file: Path, device: str = "auto", for_snakemake: Sequence[str] = ()) -> int:
    """Check a study, then let Snakemake run what it lacks. Goes on after a kill or power loss."""
    from kdlib import cluster, precheck

    executor = cluster.executor_of(for_snakemake)
    _check_arguments(for_snakemake)
    device = _planned_device(device)
    planned = studies.read(file, device)  # type: ignore[arg-type]
    try:
        precheck.check(planned)
    except UsageError as problem:
        raise UsageError(f"{file}: {problem}") from None
    store.writable(planned.root)
    here = Path(sys.executable).parent  # this Python's own papermill
    os.environ["PATH"] = os.pathsep.join([str(here), os.environ.get("PATH", "")])
    text = json.dumps(str(file), ensure_ascii=False)  # whatever is in it
    settings = [f"study={text}", f"device={device}"]
    here_only = executor == "local"  # on another machine its number is another's
    minutes = str(planned.checkpoint_minutes)  # in no parameter: it would run all again
    with (
        _only_one(),
        stops.announced() if here_only else contextlib.nullcontext(),
        stops.environment(runs.CHECKPOINT_MINUTES, minutes),
    ):
        own = ("Snakefile", "_config.yml", "_toc.yml", "kdlib", "notebooks", "book")
        date_back(*map(Path, own), planned.root)
        try:
            if executor == "slurm":
                for_snakemake = cluster.prepare(planned, file, for_snakemake)
            return run_snakemake(["--config", *settings, "--rerun-incomplete", *for_snakemake])
        finally:
            _tidy(planned)


def _tidy(planned: studies.Study) -> None:
    """Remove what nobody reads any more.

    The empty files that Snakemake puts where a notebook could not be written; what a process that
    was killed was writing, a day later; and, once all networks are trained, checkpoints older than
    their run: of notebooks whose students were others.
    """
    root, now = planned.root, time.time()
    for file in [*root.rglob("*.ipynb"), *root.rglob(".*.part")]:
        with contextlib.suppress(OSError):  # open elsewhere, or gone
            state = file.stat()
            old = file.suffix == ".part" and now - state.st_mtime > DAY
            if old or (file.suffix == ".ipynb" and state.st_size == 0):
                file.unlink()
    written = {run.folder: run.folder / "run.json" for run in planned.runs}
    if all(record.is_file() for record in written.values()):
        for folder, record in written.items():
            for file in folder.glob("checkpoint*.safetensors"):
                with contextlib.suppress(OSError):
                    if file.stat().st_mtime < record.stat().st_mtime:
                        file.unlink()


def date_back(*places: Path) -> None:
    """Date files of the future as of now, in their order, and say so: a clock was set back.

    Snakemake would take them for newer than whatever is made of them, and make that for ever.
    """
    late = []
    for place in places:
        for file in (place, *place.rglob("*")):
            with contextlib.suppress(OSError):
                changed = file.lstat().st_mtime_ns
                if changed > time.time_ns() and file.is_file() and not file.is_symlink():
                    late.append((changed, file))
    now = time.time_ns()
    for i, (_, file) in enumerate(sorted(late)):
        with contextlib.suppress(OSError):
            when = now - 10_000 * (len(late) - i)
            os.utime(file, ns=(when, when))
    if late:
        first = printable(str(min(late)[1]))
        print(f"{len(late)} files of the future count as of now: {first}, ...", file=sys.stderr)


def _planned_device(device: str) -> str:
    """The device that names of runs are made for; "auto" is what this machine has."""
    if device != "auto":  # of a job, perhaps, that runs on another machine
        return device
    from kdlib import train

    return train.choose_device("auto", 1).type


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold a lock that the system frees when this process is gone; wait while another runs."""
    LOCK.parent.mkdir(exist_ok=True)
    lock = FileLock(LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("a study still runs in this folder; waiting for its end", file=sys.stderr)
        lock.acquire()
    try:
        shutil.rmtree(".snakemake/locks", ignore_errors=True)  # Snakemake's own, of a killed one
        yield
    finally:
        lock.release()


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise UsageError for what Snakemake does not take, in its own words, and for --config.

    It would print all options that there are before them.
    """
    from snakemake.cli import parse_args

    own = ["study="]  # of which another --config, in whatever spelling, would take the place
    config, reason = own, ""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            config = parse_args(["--config", *own, "--rerun-incomplete", *arguments])[1].config
        except SystemExit as end:  # 0: --help
            if end.code:
                reason = errors.getvalue().strip().rpartition("error: ")[2]
        except Exception as problem:  # of a profile
            reason = " ".join(str(problem).split()) or type(problem).__name__
    if reason:
        raise UsageError(f"Snakemake: {reason}; allowed: see snakemake --help")
    if config != own:
        raise UsageError("--config is not taken; allowed: parameters in the study's file")


def run_snakemake(arguments: list[str]) -> int:
    """Run Snakemake in this process. Returns its exit status, or 128 + the signal that stopped it.

    A signal stops the notebooks that run, too; Snakemake alone would wait for their ends.
    """
    from snakemake.cli import main as snakemake

    code: int | str | None = 0
    with stops.passed_on() as received:
        try:
            snakemake(arguments)
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        if received and code:
            return 128 + received[0]
    return code if isinstance(code, int) else int(bool(code))


# ---- list, show --------------------------------------------------------------------------------


def list_runs(results: Path) -> None:
    """Print one line per run: study, name, accuracy, seconds, when."""
    if not results.is_dir():
        raise UsageError(f"no folder {results}; `make book` or a notebook makes runs")
    rows = [_line(folder, record, results) for folder, record in store.all_runs(results)]
    if not rows:
        raise UsageError(f"no runs below {results}; `make book` or a notebook makes some")
    head = ("study", "data set", "run", "test accuracy", "n", "seconds", "finished")
    widths = [max(len(printable(row[i])) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(
                printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
        )
    print(f"{len(rows)} runs below {results}")


def _line(folder: Path, record: dict[str, Any] | None, results: Path) -> tuple[str, ...]:
    study, dataset, *name = folder.relative_to(results).parts
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / "run.json").stat().st_mtime))
    if record is None:
        return (study, dataset, "/".join(name), "unreadable", "", "", when)
    accuracy, seconds = f"{record['test_accuracy']:.3f}", f"{record['seconds']:.1f}"
    return (study, dataset, "/".join(name), accuracy, str(record["test_images"]), seconds, when)


def show(folder: Path) -> None:
    """Print a run's record, its last epoch and its measures, if there are any."""
    record = store.load_run(folder)
    labelled = record.get("labelled", [])
    if len(labelled) > 20:
        record["labelled"] = f"{len(labelled)} images"
    parts = [json.dumps(record, indent=1)]
    parts.append(store.load_history(folder).tail(1).dropna(axis=1).to_string(index=False))
    if (folder / "measures.parquet").is_file():
        table = store.load_table("measures", folder.parent, folder.name, "pooled")
        table = table.drop_duplicates(["measure", "layer"], keep="last")
        wide = table.pivot(index="measure", columns="layer", values="value")
        parts.append(wide[table["layer"].unique()].round(3).to_string())
    for line in "\n".join(parts).split("\n"):
        print(printable(line))


# ---- publish -----------------------------------------------------------------------------------


def publish(file: Path, to: Path | None, device: str = "auto", *, partial: bool = False) -> None:
    """Gather a study's tables and its test images into the folder that the book reads."""
    from kdlib import publish

    study = studies.read(file, _planned_device(device))  # type: ignore[arg-type]
    folder = to or Path("book/results") / study.name
    counts = publish.publish(study, folder, partial=partial)
    print(f"{counts} of {len(study.runs)} networks -> {folder}")
