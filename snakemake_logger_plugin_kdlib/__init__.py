"""What Snakemake prints while a study runs: which notebook, how many of how many, time left.

`logger: kdlib` in profiles/*/config.yaml chooses it; Snakemake finds it by the module's name.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from kdlib import printable
from kdlib.plan import stops

LAST = ("publish", "edition", "book")  # steps that come once, at the end
BEAT = 30  # seconds between signs of life where the output is no terminal
BEGUN = time.time()
SUBMITTED = re.compile(r"Job (\d+) has been submitted with SLURM jobid (\d+)")
NOISE = (  # warnings of the Slurm plugin about what is nobody's mistake
    *("No SLURM account given", "No account was given", "Unable to guess SLURM account"),
    "MinJobAge",
    "Both 'sacctmgr' and 'sshare' returned empty results",  # where Slurm keeps no accounts
)
SCHEDULER = re.compile(r"^(slurmstepd|srun|sbatch): error: |Killed$|oom-kill", re.MULTILINE)


@dataclass
class Job:
    """One notebook that runs or ran."""

    kind: str
    title: str
    log: list[str]
    start: float = field(default_factory=time.monotonic)
    share: float = 0.0  # its part of the study's seconds: half of each while two jobs run
    slurm: str = ""  # its number there
    waits: str = ""  # what it waits for in Slurm's queue

    @property
    def seconds(self) -> float:
        """How long it has been running, or waiting."""
        return time.monotonic() - self.start

    def __str__(self) -> str:
        waiting = f"waits ({self.waits}) " if self.waits else ""
        return f"{self.title} {waiting}{self.seconds:.0f} s"

    def begin(self) -> None:
        """It was waiting and runs now."""
        self.waits, self.start, self.share = "", time.monotonic(), 0.0


@dataclass
class Failure:
    """Why a job failed, as far as its files tell."""

    why: str = ""  # one line
    mistake: bool = False  # of the study: to try again is no use


def failure(logs: Iterable[str]) -> Failure:
    """Read why a job failed from its executed notebook and its scheduler's log.

    logs: paths, the notebook's first, as Snakemake's record has them. What the notebook says counts
    only where the log says it, too: it may be of an earlier try. On this machine, where there is no
    log of a scheduler, it counts where it was written since this study began.
    """
    notebook, *others = [*logs, ""]
    if (here := not any(others)) and not _of_this_study(notebook):
        return Failure()
    said = re.sub(r"\x1b\[[0-9;]*m", "", "".join(map(_text, others)))  # without colours
    for name, value in _errors(_text(notebook)):
        line, usage = value.strip().partition("\n")[0], name == "UsageError"
        if line and (here or (line in said and (usage or name in said))):
            mistake = usage and not line.startswith("cannot write")  # as on a full disk
            return Failure(printable(line if usage else f"{name}: {line}"), mistake)
    lines = [line for line in said.splitlines() if SCHEDULER.search(line)]
    lines = lines or [line for line in said.splitlines() if line.startswith("Error: ")]
    return Failure(printable(lines[-1].strip()) if lines else "")


def _of_this_study(file: str) -> bool:
    try:
        return bool(file) and Path(file).stat().st_mtime >= BEGUN
    except OSError:
        return False


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace") if file else ""
    except OSError:
        return ""


def _errors(notebook: str) -> list[tuple[str, str]]:
    """The name and value of each error in an executed notebook."""
    try:
        outputs = [
            each for cell in json.loads(notebook)["cells"] for each in cell.get("outputs", ())
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [(e["ename"], e["evalue"]) for e in outputs if e.get("output_type") == "error"]


def kind(rule: str) -> str:
    """The kind of notebook: rules of one kind differ behind an underscore (measure_2-0)."""
    return rule.split("_")[0]


def scheduler_said(message: str) -> str:
    """The message of a cluster's plugin in one line; empty where there is none."""
    message = message.partition("For further error details")[0].partition("sbatch call:")[0]
    message = message.replace("Detailed failure reason unavailable", "").replace(
        "(status command is not 'sacct').", ""
    )
    return " ".join(message.replace("SLURM-job", "Slurm's job").split())


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_left(
    left: Counter[str], shares: dict[str, list[float]], running: Iterable[tuple[str, float]] = ()
) -> str:
    """The time that the jobs left take, from the mean share of finished jobs of their kinds.

    left: jobs not yet finished, by kind; shares: seconds of the finished ones; running: kind and
    seconds so far of those that run. Empty, rather than a guess, where no job of a kind has
    finished yet, but for the last steps, and where a job runs for longer than those of its kind.
    """
    kinds = [name for name, count in left.items() if count]
    measured = [name for name in kinds if shares.get(name)]
    last = [name for name in kinds if name not in measured]
    if not measured or any(name not in LAST for name in last):
        return ""
    seconds = sum(left[name] * mean(shares[name]) for name in measured)
    for name, spent in running:
        if name in measured and spent > mean(shares[name]):
            return ""
        seconds -= spent if name in measured else 0
    return f"{duration(seconds)} left{', then ' if last else ''}{', '.join(last)}"


class LogHandler(LogHandlerBase):
    """Prints a line per finished notebook, and between them what is running."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Start with nothing measured."""
        self.left: Counter[str] = Counter()  # jobs not yet finished, by kind
        self.shares: dict[str, list[float]] = defaultdict(list)  # of finished jobs, by kind
        self.running: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}
        self.done = self.total = 0
        self.terminal = sys.stderr.isatty()
        self.mutex = threading.Lock()
        self.begun = self.shared_until = time.monotonic()
        threading.Thread(target=self._beat, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message of Snakemake."""
        if stops.stopping():  # it has been said
            return
        event = getattr(record, "event", None)
        handlers = {
            LogEvent.RUN_INFO: self._planned,
            LogEvent.JOB_INFO: self._started,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
        }
        with self.mutex:
            self._share()
            if event in handlers:
                handlers[event](record)
            elif event is LogEvent.ERROR or (event is None and record.levelno >= logging.WARNING):
                message = record.getMessage()
                # the notebook's own message came
                if "CalledProcessError" not in message and not message.startswith(NOISE):
                    self._print(message)
            elif event is None:
                self._told(record.getMessage())

    def _planned(self, record: Any) -> None:
        self.left = Counter()
        for rule, count in record.stats.items():
            if rule != "total":
                self.left[kind(rule)] += count
        self.total = self.left.total()
        counts = ", ".join(f"{count} {name}" for name, count in self.left.items())
        self._print(f"{self.total} to run: {counts}")

    def _started(self, record: Any) -> None:
        name = "/".join(record.wildcards.values()) or record.rule_name.partition("_")[2]
        title = f"{kind(record.rule_name)} {name.split('/')[-1]}".strip()
        self.running[record.jobid] = Job(kind(record.rule_name), title, list(record.log or []))
        if self.common_settings.dryrun:
            self._print(textwrap.shorten(f"would run {title}: {record.reason}", 160))

    def _told(self, message: str) -> None:
        """What Snakemake and the Slurm plugin say in passing."""
        if "Nothing to be done" in message:
            self._print("Everything is up to date.")
        elif message.startswith("Trying to restart job"):
            self._print("  it is tried again")
        elif (found := SUBMITTED.match(message)) and int(found[1]) in self.running:
            job = self.running[int(found[1])]
            job.slurm, job.waits = found[2], "submitted"

    def _finished(self, record: Any) -> None:
        job = self.running.pop(record.job_id, None)
        if job is None:
            return
        self.failed.pop(record.job_id, None)  # before it was tried again
        self.done += 1
        self.left[job.kind] -= 1
        self.shares[job.kind].append(job.share)
        count = f"[{self.done:>{len(str(self.total))}}/{self.total}]"
        self._print(f"{count} {job.title}  {job.seconds:.0f} s{self._remaining()}")
        if self.done == self.total and not self.failed:
            self._print(f"done in {duration(time.monotonic() - self.begun)}")

    def _failed(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        if job:
            self.failed[record.jobid] = job
            there = [log for log in job.log if Path(log).is_file() and Path(log).stat().st_size]
            where = f"the executed notebook: {', '.join(there)}" if there else ""
            begun = f"FAILED {job.title} after {job.seconds:.0f} s"
            message = scheduler_said(getattr(record, "rule_msg", None) or "")
            if not message:  # on this machine: the notebook's own message is on the screen
                self._print(f"{begun}; {where}" if where else begun)
                return
            logs = [log for log in getattr(record, "log", ()) if log and log not in job.log]
            why = failure([*(job.log[:1] or [""]), *logs]).why
            self._print(f"{begun}{': ' if why else ''}{why}")
            self._print(f"  {message}")
            own = [f"Slurm's log: {', '.join(logs)}"] if logs else []
            self._print(f"  {'; '.join([where, *own] if where else own)}")

    def _share(self) -> None:
        """Divide the seconds since the last call among the jobs that run."""
        now = time.monotonic()
        for job in self.running.values():
            job.share += (now - self.shared_until) / len(self.running)
        self.shared_until = now

    def _remaining(self) -> str:
        """The time left, behind a semicolon; nothing where nothing is measured."""
        running = [(job.kind, job.share) for job in self.running.values()]
        text = time_left(self.left, self.shares, running)
        return f"; {text}" if text else ""

    def _print(self, text: str) -> None:
        clear = "\r\033[K" if self.terminal else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)

    def _beat(self) -> None:
        """Between two finished notebooks: what is running, and for how long."""
        last = asked = time.monotonic()
        while True:
            time.sleep(1)
            if time.monotonic() - asked > BEAT:
                asked = time.monotonic()
                self._ask_slurm()
            with self.mutex:
                if not self.running or not self.total:
                    continue
                self._share()
                jobs = ", ".join(map(str, self.running.values()))
                line = f"[{self.done}/{self.total}] running: {jobs}{self._remaining()}"
                if self.terminal:
                    width = shutil.get_terminal_size().columns - 1
                    print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
                elif time.monotonic() - last > BEAT:
                    last = time.monotonic()
                    self._print(f"  {line}")

    def _ask_slurm(self) -> None:
        """Tell the jobs that wait in Slurm's queue from those that run."""
        with self.mutex:
            waiting = {job.slurm: job for job in self.running.values() if job.waits}
        if not waiting:
            return
        command = ["squeue", "--noheader", "--format=%A|%T|%r", f"--jobs={','.join(waiting)}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return
        with self.mutex:
            for line in done.stdout.splitlines():
                number, state, reason = [*line.split("|", 2), "", ""][:3]
                if number in waiting and state == "PENDING":
                    waiting[number].waits = reason
                elif number in waiting:
                    waiting[number].begin()

    def close(self) -> None:
        """At the end: which notebooks failed, and where to look."""
        if self.failed:
            self._print(f"{len(self.failed)} failed; the others are done and kept:")
            for job in self.failed.values():
                self._print(f"  {job.title}: {', '.join(job.log)}")
            self.failed = {}
        super().close()
