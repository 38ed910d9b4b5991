"""Stops: what a study started ends with it, within seconds, and one line says so.

Whatever is killed here is killed at once. No result is lost by that: files are written whole or
not at all, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

GOES_ON = "the same command goes on from here"
STUDY = "KDLIB_STUDY_PROCESS"  # process@computer that runs a study, for all that it starts
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = threading.Event()


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Let all that this process starts meanwhile have a variable."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def announced() -> contextlib.AbstractContextManager[None]:
    """Let all that this process starts meanwhile know that it runs a study."""
    return environment(STUDY, f"{os.getpid()}@{platform.node()}")


def stopping() -> bool:
    """Whether the study of this process was stopped: what fails from now on is no failure."""
    return _STOPPING.is_set()


def study() -> int | None:
    """The process of the study that started this one; None where it runs elsewhere, or no more."""
    process = _announced()
    return process if process is not None and _runs(process) else None


def _announced() -> int | None:
    """The process of this machine's that was announced, whether it still runs or not."""
    process, _, computer = os.environ.get(STUDY, "").partition("@")
    return int(process) if process.isdigit() and computer == platform.node() else None


def end_with_the_study(what: str) -> None:
    """From now on end this process, and all that it started, when its study is gone.

    A kill of the study reaches none of its children. `what` begins the line that is printed. At
    once where it is gone already.
    """
    import psutil

    process = _announced()

    def watch(number: int) -> None:
        try:
            study = psutil.Process(number)  # another process may get its number later
            while study.is_running() and study.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        except psutil.AccessDenied:
            while psutil.pid_exists(number):
                time.sleep(1)
        except psutil.NoSuchProcess:
            pass
        end(f"{what} was stopped: its study is gone; {GOES_ON}", 128 + signal.SIGTERM)

    if process not in (None, os.getpid()):
        threading.Thread(target=watch, args=(process,), daemon=True).start()


def end_at_a_signal(what: str) -> None:
    """From now on SIGINT and SIGTERM end this process and all that it started, with one line."""

    def stop(number: int, _: object) -> None:
        told = study()  # it says itself what it stopped
        end("" if told else f"{what} was stopped", 128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def end(line: str, status: int) -> NoReturn:
    """Print a line, kill all that this process started, and end it."""
    import psutil

    if line:
        print(line, file=sys.stderr, flush=True)
    _kill(psutil.Process())
    os._exit(status)


@contextlib.contextmanager
def passed_on() -> Iterator[list[int]]:
    """While a study runs: SIGINT and SIGTERM stop its jobs, a second one also this process.

    Gives the signals that came. They are taken from the pipe that Python writes them to, because
    Snakemake puts a handler of its own in place of SIGTERM's, which waits for the jobs.
    """
    received: list[int] = []
    reading, writing = os.pipe()
    if os.name == "posix":  # elsewhere it may block, and Python 3.11 cannot ask
        os.set_blocking(writing, False)
    interrupt = signal.getsignal(signal.SIGINT)
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # until Snakemake starts
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def numbers() -> Iterator[int]:
        """What comes through the pipe; once stopped, jobs that begin meanwhile end, too."""
        while True:
            if stopping() and os.name == "posix" and not select.select([reading], [], [], 1)[0]:
                _stop_jobs()
            elif number := next(iter(os.read(reading, 1)), 0):
                yield number
            else:
                return

    def stop() -> None:
        for number in numbers():
            if number not in SIGNALS:
                continue
            received.append(number)
            if len(received) > 2 or (len(received) == 2 and received[0] == signal.SIGINT):
                os._exit(128 + number)
            _STOPPING.set()
            if len(received) == 1:
                names = _stop_jobs()
                where = f": {', '.join(names)}" if names else ""
                print(f"stopped{where}; {GOES_ON}", file=sys.stderr)
                if number == signal.SIGTERM:
                    os.kill(os.getpid(), signal.SIGINT)  # Snakemake stops, does not wait

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    try:
        yield received
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.write(writing, b"\0")
        watcher.join()
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
        os.close(reading)
        os.close(writing)
        _STOPPING.clear()


def _stop_jobs() -> list[str]:
    """Kill the notebooks and commands of a study that run here; returns what they are."""
    import psutil

    names = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name := _job(child.cmdline()):
                names.append(name)
                _kill(child)
                child.kill()
    return names


def _job(command: list[str]) -> str:
    """What a process does for a study, by its command line: an executed notebook, a command."""
    for i, word in enumerate(command[:4]):
        if Path(word).stem == "papermill":
            return [word, *(w for w in command[i + 1 :] if w.endswith(".ipynb"))][-1]
        if command[i : i + 2] == ["-m", "kdlib"]:
            return " ".join(command[i + 2 : i + 4])
    return ""


def _kill(process: object) -> None:
    """Kill all that a process started, and what those started."""
    import psutil

    assert isinstance(process, psutil.Process)
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def _runs(process: int) -> bool:
    """Whether a process is there, and is no zombie."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    return False
