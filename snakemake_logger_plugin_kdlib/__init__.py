"""What Snakemake says while a study runs: which notebook, how many of how many, time left.

`logger: kdlib` in profiles/*/config.yaml chooses it; Snakemake finds it by the module's name.
"""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Seconds a notebook of each kind takes in the default study on two cores: only a first guess,
# scaled and then replaced by what this study really takes.
GUESS = {
    "teacher": 15,
    "student": 12,
    "features": 6,
    "measure": 5,
    "maps": 50,
    "film": 30,
    "book": 22,
}
BEAT = 30  # seconds between signs of life where the output is no terminal


@dataclass
class Job:
    """One notebook that runs or ran."""

    rule: str
    what: str
    log: list[str]
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.start


def kind(rule: str) -> str:
    """The kind of notebook: rules of one kind differ behind an underscore (measure_2-0)."""
    return rule.split("_")[0]


def spoken(seconds: float) -> str:
    """A duration as one says it."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class LogHandler(LogHandlerBase):
    """Prints a line per finished notebook, and between them what is running."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Start with nothing known."""
        self.left: dict[str, int] = {}  # kind -> jobs not yet finished
        self.took: dict[str, list[float]] = {}  # kind -> seconds of those that are
        self.running: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}
        self.done = self.total = 0
        self.most = 2  # notebooks side by side
        self.live = sys.stderr.isatty()
        self.mutex = threading.Lock()
        self.begun = time.monotonic()
        threading.Thread(target=self._beat, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message of Snakemake."""
        event = getattr(record, "event", None)
        take = {
            LogEvent.RUN_INFO: self._planned,
            LogEvent.JOB_INFO: self._started,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._broke,
        }.get(event or LogEvent.DEBUG_DAG)
        with self.mutex:
            if take:
                take(record)
            elif event is LogEvent.ERROR or (event is None and record.levelno >= logging.WARNING):
                if "CalledProcessError" not in str(record.msg):  # the notebook said it itself
                    self._say(record.getMessage())
            elif event is None and "Nothing to be done" in str(record.msg):
                self._say("Everything is up to date.")

    def _planned(self, record: Any) -> None:
        counts = dict(record.stats)
        counts.pop("total", None)
        self.left = {}
        for rule, count in counts.items():
            self.left[kind(rule)] = self.left.get(kind(rule), 0) + count
        self.total = sum(self.left.values())
        said = ", ".join(f"{count} {name}" for name, count in self.left.items())
        time = "" if self.common_settings.dryrun else f"; {self._remaining()}"
        self._say(f"{self.total} to run: {said}{time}")

    def _started(self, record: Any) -> None:
        told = "/".join(record.wildcards.values()) or record.rule_name.partition("_")[2]
        what = f"{kind(record.rule_name)} {told.split('/')[-1]}".strip()
        self.running[record.jobid] = Job(record.rule_name, what, list(record.log or []))
        if self.common_settings.dryrun:
            self._say(textwrap.shorten(f"would run {what}: {record.reason}", 160))

    def _finished(self, record: Any) -> None:
        job = self.running.pop(record.job_id, None)
        if job is None:
            return
        self.done += 1
        self.left[kind(job.rule)] = self.left.get(kind(job.rule), 1) - 1
        self.took.setdefault(kind(job.rule), []).append(job.seconds)
        of = f"[{self.done:>{len(str(self.total))}}/{self.total}]"
        self._say(f"{of} {job.what}  {job.seconds:.0f} s; {self._remaining()}")
        if self.done == self.total and not self.failed:
            self._say(f"done in {spoken(time.monotonic() - self.begun)}")

    def _broke(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        if job:
            self.failed[record.jobid] = job
            where = f"; the executed notebook: {', '.join(job.log)}" if job.log else ""
            self._say(f"FAILED {job.what} after {job.seconds:.0f} s{where}")

    def _remaining(self) -> str:
        """Time left: every kind's own mean, or its guess scaled by how the others did."""
        known = {name: sum(t) / len(t) for name, t in self.took.items()}
        guessed = sum(GUESS.get(name, 10) * len(t) for name, t in self.took.items())
        scale = sum(map(sum, self.took.values())) / guessed if guessed else 1.0
        cores = self._side_by_side()
        work = 0.0
        for name, count in self.left.items():
            each = known.get(name, GUESS.get(name, 10) * scale)
            alone = name in ("teacher", "maps", "book", "publish")  # nothing runs beside these
            work += max(0, count) * each / (1 if alone else cores)
        spent = sum(min(job.seconds, 60) for job in self.running.values()) / cores
        return f"about {spoken(max(0.0, work - spent))} left" if work > 0 else "nothing left"

    def _side_by_side(self) -> int:
        """How many notebooks run side by side, as far as was seen."""
        self.most = max(self.most, len(self.running))
        return self.most

    def _say(self, text: str) -> None:
        clear = "\r\033[K" if self.live else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)

    def _beat(self) -> None:
        """Between two finished notebooks: what is running, and for how long."""
        said = time.monotonic()
        while True:
            time.sleep(1)
            with self.mutex:
                if not self.running or not self.total:
                    continue
                jobs = ", ".join(f"{j.what} {j.seconds:.0f} s" for j in self.running.values())
                line = f"[{self.done}/{self.total}] running: {jobs}; {self._remaining()}"
                if self.live:
                    width = shutil.get_terminal_size().columns - 1
                    print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
                elif time.monotonic() - said > BEAT:
                    said = time.monotonic()
                    self._say(f"  {line}")

    def close(self) -> None:
        """At the end: which notebooks failed, and where to look."""
        if self.failed:
            self._say(f"{len(self.failed)} failed; the others are done and kept:")
            for job in self.failed.values():
                self._say(f"  {job.what}: {', '.join(job.log)}")
            self.failed = {}
        super().close()
