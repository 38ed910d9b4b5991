"""Is anything lost when a study is killed, stopped, or finds no place to write?

    python benchmarks/chaos.py --kills 100 --seed 0

Runs a study (the smallest, or `--study`) in a copy of the project, undisturbed. Then runs it in a
second copy, where at random moments something ends or breaks: the whole group of processes,
Snakemake, papermill or a kernel is killed, the study gets SIGTERM or Ctrl-C, the disk is full, the
folder of results can no longer be written. The same command goes on after each. After each all
files are read; whenever the study is done all are compared with the undisturbed ones, and it begins
again. Prints a line for each, and writes what the book shows. Linux only; a full disk and a folder
that root cannot write need a mount, and are left out, with a line, where that is not allowed.
"""

from __future__ import annotations

import argparse
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
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
from safetensors import safe_open

from kdlib import store

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
PLACE = 256  # megabytes of the disk that becomes full
ENDS = 10  # seconds in which all processes of a stopped study have to end
LONGEST = 900  # seconds of a study
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


def disturb(copy: Copy, kind: str, delay: float, draw: random.Random) -> tuple[bool, bool, float]:
    """Run a study until `delay`, then let something happen.

    Returns whether it did, whether the study is done, and the seconds until all processes were
    gone.
    """
    process = copy.start()
    try:
        return False, process.wait(delay) == 0, gone(copy)
    except subprocess.TimeoutExpired:
        pass
    if kind in BROKEN:
        with broken(copy, kind), contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)  # it may still be computing: place is back before it writes
        happened = True
    else:
        happened = send(copy, process, kind, draw)
    if kind in BROKEN or kind in ALONE:
        process.wait(LONGEST)
        return happened, process.returncode == 0, gone(copy)
    seconds = gone(copy)
    process.wait(LONGEST)
    return happened, False, seconds


def chaos(kills: int, seed: int, study: Path, minutes: float) -> dict[str, object]:
    """Let so many things happen to a study, in so many minutes. Returns what came of it."""
    until = time.monotonic() + 60 * minutes
    draw, happened, done = random.Random(seed), Counter[str](), 0
    half = lost = different = 0
    slowest = 0.0
    with TemporaryDirectory() as place:
        one, other = Path(place, "undisturbed"), Path(place, "disturbed")
        one.mkdir()
        other.mkdir()
        kinds = [*KILLED]
        if mount("-t", "tmpfs", "-o", f"size={PLACE}m", "none", str(other)):
            kinds += BROKEN
        else:
            print(f"{', '.join(BROKEN)}: left out, because mounting is not allowed")
        try:
            calm, copy = Copy(one, study), Copy(other, study)
            start = time.monotonic()
            if calm.start().wait(LONGEST) != 0:
                raise SystemExit((one / "said.txt").read_text())
            length, wanted = time.monotonic() - start, ends(calm)
            print(f"undisturbed: {length:.0f} s, {len(wanted)} files", flush=True)
            finished: dict[str, str] = {}
            deck: list[str] = []
            last = False  # nothing more happens: the study is let end
            while not last or finished:
                deck = deck or draw.sample(kinds, len(kinds))  # each as often as any other
                kind = deck[-1]
                last = happened.total() >= kills or time.monotonic() > until
                delay = LONGEST if last else draw.uniform(2, max(4, length / 3))
                did, over, seconds = disturb(copy, kind, delay, draw)
                if did:
                    happened[deck.pop()] += 1
                half += sum(not whole(file) for file in copy.files())
                now = ends(copy)
                lost += sum(now.get(name) != hashed for name, hashed in finished.items() if over)
                finished |= {name: now[name] for name in now if name.endswith("run.json")}
                if did and kind not in BROKEN and kind not in ALONE:
                    slowest = max(slowest, seconds)
                if did:
                    words = "done" if over else f"{len(now)} files, ended in {seconds:.1f} s"
                    print(f"{happened.total()}/{kills} {kind} after {delay:.1f} s: {words}")
                if over:
                    wrong = [k for k in wanted.keys() | now.keys() if wanted.get(k) != now.get(k)]
                    different += len(wrong)
                    done, finished = done + 1, {}
                    print(f"  study {done} is done; {len(wrong)} files differ {wrong[:3]}")
                    copy.reset()
                elif last:
                    print((other / "said.txt").read_text())
                    raise SystemExit("a study that nothing happened to did not end")
                sys.stdout.flush()
        finally:
            for process in [*calm.processes(), *copy.processes()]:
                process.kill()
            if set(kinds) & set(BROKEN):
                subprocess.run(["umount", "-l", str(other)], check=True)
    return {
        "kills": dict(sorted(happened.items())),
        "studies": done,
        "files": len(wanted),
        "half_written": half,
        "lost": lost,
        "different": different,
        "slowest_end": round(slowest, 1),
        "seed": seed,
        "study": study.stem,
        "date": date.today().isoformat(),
    }


def main() -> int:
    """Run, write the result, and say whether nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="at most, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=Path, default=ROOT / "studies/smoke.yaml")
    parser.add_argument("--no-result", action="store_true", help="write nothing for the book")
    given = parser.parse_args()
    result = chaos(given.kills, given.seed, given.study, given.minutes)
    print(json.dumps(result))
    if not given.no_result:
        store.save_benchmark("benchmarks", "chaos", result)
    sound = not (result["half_written"] or result["lost"] or result["different"])
    return 0 if sound and float(str(result["slowest_end"])) <= ENDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
