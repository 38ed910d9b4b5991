"""Is anything lost when a study is killed, stopped, or finds no place to write?

    python benchmarks/chaos.py --kills 100 --seed 0

Runs a study (the smallest, or `--study`) in a copy of the project, undisturbed. Then runs it in a
second copy, where at random moments something ends or breaks: the whole group of processes,
Snakemake, papermill or a kernel is killed, the study gets SIGTERM or Ctrl-C, the disk is full, the
folder of results can no longer be written. The same command goes on after each. Before each it is
noted which notebooks have finished: none of their files may be missing later or have been written
again. After each all files are read. Whenever the study is done all are compared with the
undisturbed ones, and it begins again; it is let end once each kind of fault has come. Prints a line
for each and writes what the book shows, so that a run that was stopped counts, too (`--go-on` adds
to it). Linux only; a full disk and a folder that root cannot write need a mount, and are left out,
with a line, where that is not allowed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
from pairs import machine
from safetensors import safe_open

from kdlib import publish, store
from kdlib.plan import studies

ROOT = Path(__file__).parents[1]
COPIED = ("Snakefile", "kdlib", "notebooks", "studies", "profiles", "book", "_config.yml")
COPIED += ("_toc.yml", "snakemake_logger_plugin_kdlib")
KILLED = {  # whom, by what
    "SIGKILL to all": ("all", signal.SIGKILL),
    "SIGKILL to Snakemake": ("study", signal.SIGKILL),
    "SIGKILL to papermill": ("papermill", signal.SIGKILL),
    "SIGKILL to a kernel": ("ipykernel_launcher", signal.SIGKILL),
    "SIGTERM": ("study", signal.SIGTERM),
    "Ctrl-C": ("group", signal.SIGINT),
}
BROKEN = ("full disk", "read-only folder")
ALONE = ("SIGKILL to papermill", "SIGKILL to a kernel")  # the study itself goes on
TRAINED = ("run.json", "weights.safetensors", "history.parquet")
MEASURED = ("measures.parquet", "similarity.parquet", "map_measures.parquet")
PLACE = 256  # megabytes of the disk that becomes full
ENDS = 10  # seconds in which all processes of a stopped study have to end
LONGEST = 3600  # seconds of a study
VOLATILE = ("seconds", "device")  # of a run's record
UNTOLD = ("runs.parquet", "provenance.parquet")  # published tables that hold seconds and dates


class Copy:
    """A copy of the project in which a study runs, in a session of its own."""

    def __init__(self, folder: Path, study: Path):
        self.folder, self.study = folder, study
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            ignore = shutil.ignore_patterns("__pycache__", "results")
            copy(source, folder / name, **({"ignore": ignore} if source.is_dir() else {}))
        shutil.copy(study, folder / "studies" / study.name)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the study."""
        with (self.folder / "said.txt").open("w") as said:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "kdlib", "study", f"studies/{self.study.name}"),
                    *("--", "publish"),
                ],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def processes(self) -> list[psutil.Process]:
        """The processes that work in the folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
        return found

    def files(self) -> list[Path]:
        """What the study has written that anyone reads."""
        return [f for top in ("runs", "book/results") for f in read(self.folder / top)]

    def reset(self) -> None:
        """Forget all results."""
        for top in ("runs", "book/results"):
            for entry in (self.folder / top).glob("*"):
                shutil.rmtree(entry)


def read(folder: Path) -> Iterator[Path]:
    """The files below a folder but those that are being written, which nobody reads."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return (f for f in files if f.is_file() and not f.name.startswith("."))


def whole(file: Path) -> bool:
    """Whether a file can be read as what its name says."""
    try:
        if file.suffix in (".json", ".ipynb"):
            json.loads(file.read_text())
        elif file.suffix == ".parquet":
            pd.read_parquet(file)
        elif file.suffix == ".safetensors":
            with safe_open(file, "numpy") as opened:
                _ = [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    except FileNotFoundError:  # by now: what a notebook that failed has written is removed
        return True
    except Exception as problem:  # whatever it is: it cannot be read
        print(f"  half written: {file}: {problem}")
        return False
    return True


def content(file: Path) -> str:
    """What of a file has to be the same however often its study was disturbed."""
    data = file.read_bytes()
    if file.name == "run.json":
        record = json.loads(data)
        data = json.dumps({k: v for k, v in record.items() if k not in VOLATILE}).encode()
    return hashlib.sha256(data).hexdigest()


def ends(copy: Copy) -> dict[str, str]:
    """The end of a study: a hash for each file whose bits do not depend on when it was made."""
    kinds = (".parquet", ".safetensors", ".webp")
    return {
        str(file.relative_to(copy.folder)): content(file)
        for file in copy.files()
        if (file.suffix in kinds and file.name not in UNTOLD) or file.name == "run.json"
    }


Stamps = dict[str, tuple[tuple[int, int], ...]]  # of a notebook's files: inode and time, ns


def notebooks(study: studies.Study) -> dict[str, list[Path]]:
    """The files that each notebook of a study makes, those of all its networks."""
    root, found = study.root, {}
    for teacher in study.teachers:
        found[teacher.name] = [root / teacher.name / file for file in TRAINED]
    for name, kernel in study.kernels.items():
        found[f"students {name}"] = [root / run.name / f for run in kernel.each for f in TRAINED]
    for block, members in study.blocks.items():
        folders = [root / run.name for run in members]
        found[f"features {block}"] = [folder / "features.safetensors" for folder in folders]
        found[f"measures {block}"] = [folder / file for folder in folders for file in MEASURED]
    several: list[tuple[str, tuple[str, ...]]] = [
        (maps.name, ("maps", "faithfulness", "neighbours")) for maps in study.map_tables.values()
    ]
    if study.comparison:
        several.append((study.comparison.name, ("comparison", "sweeps")))
    if study.film_table:
        several.append((study.film_table.name, ("film", "training")))
    for name, tables in several:
        found[f"maps {name}"] = [root / store.TABLES[kind].file.format(name) for kind in tables]
    return found


def finished(copy: Copy, files: Mapping[str, list[Path]]) -> Stamps:
    """The notebooks that have finished: all of their files are there, and none is being made.

    Snakemake notes what is being made in .snakemake/incomplete, by the name in base 64.
    """
    stamps = {name: stamp for name, each in files.items() if (stamp := _stamps(copy, each))}
    top = copy.folder / ".snakemake/incomplete"
    marks = [file.relative_to(top).parts for file in top.rglob("*") if file.is_file()]
    unfinished = {
        base64.urlsafe_b64decode("".join(part.lstrip("@") for part in parts)).decode()
        for parts in marks
    }
    return {k: v for k, v in stamps.items() if unfinished.isdisjoint(map(str, files[k]))}


def _stamps(copy: Copy, files: list[Path]) -> tuple[tuple[int, int], ...]:
    """Inode and time of each file; nothing where one is not there."""
    try:
        stats = [(copy.folder / file).stat() for file in files]
    except FileNotFoundError:
        return ()
    return tuple((stat.st_ino, stat.st_mtime_ns) for stat in stats)


def again(copy: Copy, files: Mapping[str, list[Path]], before: Stamps) -> list[str]:
    """The notebooks that had finished and whose files are gone or were written again."""
    return [name for name, stamps in before.items() if _stamps(copy, files[name]) != stamps]


def send(copy: Copy, process: subprocess.Popen[bytes], kind: str, draw: random.Random) -> bool:
    """Kill or stop what this kind says. Returns whether there was anybody."""
    whom, number = KILLED[kind]
    if whom == "study":
        process.send_signal(number)
    elif whom == "group":
        os.killpg(process.pid, number)
    else:
        found = copy.processes()
        if whom != "all":
            found = [each for each in found if any(whom in word for word in command(each))]
            found = [draw.choice(found)] if found else []
        for each in found:
            with contextlib.suppress(psutil.Error):
                each.send_signal(number)
        return bool(found)
    return True


def command(process: psutil.Process) -> list[str]:
    """The first words of a process's command line."""
    try:
        return process.cmdline()[:4]
    except psutil.Error:
        return []


@contextlib.contextmanager
def broken(copy: Copy, kind: str) -> Iterator[None]:
    """A full disk, or a folder of results that cannot be written, for a while."""
    filler, runs = copy.folder / "filler", copy.folder / "runs"
    if kind == "full disk":
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    else:
        runs.mkdir(exist_ok=True)
        mount("--bind", str(runs), str(runs))
        mount("-o", "remount,bind,ro", str(runs))
    try:
        yield
    finally:
        if kind == "full disk":
            filler.unlink()
        else:
            subprocess.run(["umount", "-l", str(runs)], check=True)


def mount(*arguments: str) -> bool:
    """Mount something. Returns whether that is allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    return done.returncode == 0


def gone(copy: Copy) -> float:
    """Seconds until nobody works in the folder any more; whoever does so for long is killed."""
    start = time.monotonic()
    while (left := copy.processes()) and time.monotonic() - start < 3 * ENDS:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return time.monotonic() - start


@dataclass
class Tally:
    """What came of all that happened to a study; what the book shows."""

    study: str
    seed: int
    kills: dict[str, int] = field(default_factory=dict)  # by kind
    studies: int = 0  # that went on until they were done
    files: int = 0  # of each that are compared
    noted: int = 0  # finished notebooks, over all moments at which something happened
    half_written: int = 0
    lost: int = 0  # notebooks that had finished and ran again, or whose files are gone
    different: int = 0
    slowest_end: float = 0.0  # seconds until all processes of a stopped study were gone
    machine: str = field(default_factory=machine)
    date: str = field(default_factory=lambda: date.today().isoformat())
    commit: str = field(default_factory=lambda: publish.commit_of(store.code_hash()))

    @property
    def happened(self) -> int:
        """How often something happened."""
        return sum(self.kills.values())

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, and all processes ended in time."""
        nothing = not (self.half_written or self.lost or self.different)
        return nothing and self.slowest_end <= ENDS


@dataclass
class Chaos:
    """A study to which things happen."""

    copy: Copy
    wanted: dict[str, str]  # as of `ends`
    length: float  # seconds of the study when nothing happens to it
    tally: Tally
    draw: random.Random
    process: subprocess.Popen[bytes] | None = None
    disturbed: bool = False  # whether something happened to this process
    begun: bool = False  # and not done
    before: Stamps = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.notebooks = notebooks(studies.read(self.copy.study))

    def go_on(self, seconds: float) -> bool:
        """Run the study for so long, or until its end; returns whether it still runs.

        When it is done it is compared with the undisturbed one and begins again.
        """
        if self.process is None:
            self.process, self.disturbed = self.copy.start(), False
            self.begun = True
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        self._stopped()
        self._check()
        if code == 0:
            self._compare()
        elif not self.disturbed:
            print((self.copy.folder / "said.txt").read_text())
            raise SystemExit("a study to which nothing happened has failed")
        return False

    def finish(self) -> None:
        """Let a study that has begun go on until it is done."""
        while self.begun:
            self.go_on(LONGEST)

    def happen(self, kind: str) -> bool:
        """Let something happen to the study that runs; returns whether there was anybody."""
        assert self.process is not None
        self._check()
        self.before |= finished(self.copy, self.notebooks)
        noted = len(self.before)
        if kind in BROKEN:
            with broken(self.copy, kind), contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)  # it may still be computing: place is back before it writes
        elif not send(self.copy, self.process, kind, self.draw):
            return False
        self.disturbed = True
        if kind not in BROKEN and kind not in ALONE:
            seconds = self._stopped()
            self.tally.slowest_end = max(self.tally.slowest_end, round(seconds, 1))
        self._check()
        self.tally.noted += noted
        self.tally.kills[kind] = self.tally.kills.get(kind, 0) + 1
        return True

    def time_left(self) -> float:
        """About the seconds that the study will go on for when nothing happens."""
        return self.length * (1 - len(self.before) / len(self.notebooks))

    def _stopped(self) -> float:
        assert self.process is not None
        seconds = gone(self.copy)
        self.process.wait(LONGEST)
        self.process = None
        return seconds

    def _check(self) -> None:
        self.tally.half_written += sum(not whole(file) for file in self.copy.files())
        for name in again(self.copy, self.notebooks, self.before):
            print(f"  it had finished and was made again, or is gone: {name}")
            self.tally.lost += 1
            del self.before[name]

    def _compare(self) -> None:
        now = ends(self.copy)
        names = self.wanted.keys() | now.keys()
        wrong = sorted(name for name in names if self.wanted.get(name) != now.get(name))
        self.tally.different += len(wrong)
        self.tally.studies += 1
        print(f"  study {self.tally.studies} is done; {len(wrong)} files differ {wrong[:3]}")
        self.copy.reset()
        self.before, self.begun = {}, False


def undisturbed(copy: Copy) -> tuple[dict[str, str], float]:
    """What a study ends with to which nothing happens, and its seconds."""
    start = time.monotonic()
    process = copy.start()
    try:
        if process.wait(LONGEST) != 0:
            raise SystemExit((copy.folder / "said.txt").read_text())
    finally:
        gone(copy)
    return ends(copy), time.monotonic() - start


def chaos(tally: Tally, study: Path, kills: int, minutes: float, *, save: bool = False) -> None:
    """Let so many things happen to a study, in so many minutes, and add to the tally.

    With `save` the tally is written after each.
    """
    until = time.monotonic() + 60 * minutes
    draw = random.Random(f"{tally.seed} {tally.happened}")
    with TemporaryDirectory() as place:
        one, other = Path(place, "undisturbed"), Path(place, "disturbed")
        one.mkdir()
        other.mkdir()
        kinds = [*KILLED]
        if mounted := mount("-t", "tmpfs", "-o", f"size={PLACE}m", "none", str(other)):
            kinds += BROKEN
        else:
            print(f"{', '.join(BROKEN)}: left out, because mounting is not allowed")
        copy = Copy(other, study)
        try:
            wanted, length = undisturbed(Copy(one, study))
            tally.files = len(wanted)
            print(f"undisturbed: {length:.0f} s, {len(wanted)} files", flush=True)
            run = Chaos(copy, wanted, length, tally, draw)
            deck: list[str] = []
            while tally.happened < kills and time.monotonic() < until:
                if not deck:  # each as often as any other, and then the study is let end
                    run.finish()
                    deck = draw.sample(kinds, len(kinds))
                delay = draw.uniform(1, max(2 * run.time_left() / (len(deck) + 1), length / 8))
                if run.go_on(delay) and run.happen(deck[-1]):
                    words = f"{tally.happened}/{kills} {deck.pop()} after {delay:.1f} s"
                    print(f"{words}; {len(run.before)} of {len(run.notebooks)} had finished")
                if save:
                    store.save_benchmark("benchmarks", "chaos", asdict(tally))
                sys.stdout.flush()
            run.finish()
        finally:
            for process in copy.processes():
                process.kill()
            if mounted:
                subprocess.run(["umount", "-l", str(other)], check=True)
    if save:
        store.save_benchmark("benchmarks", "chaos", asdict(tally))


def main() -> int:
    """Run, write the result, and say whether nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="at most, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, default=ROOT / "studies/smoke.yaml")
    parser.add_argument("--go-on", action="store_true", help="add to the result that is there")
    parser.add_argument("--no-result", action="store_true", help="write nothing for the book")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # nothing is left
    tally = Tally(given.study.stem, given.seed)
    if given.go_on and (there := store.load_benchmark("benchmarks", "chaos")):
        earlier = Tally(**there)
        if (earlier.study, earlier.commit) != (tally.study, tally.commit):
            raise SystemExit(
                f"--go-on: the result that is there is of the study {earlier.study} and commit "
                f"{earlier.commit}, now {tally.study} and {tally.commit}; run it without --go-on"
            )
        tally = earlier
    chaos(tally, given.study, given.kills, given.minutes, save=not given.no_result)
    print(json.dumps(asdict(tally)))
    return 0 if tally.sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
