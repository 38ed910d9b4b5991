"""A study on a Slurm cluster: what is settled with Slurm before Snakemake begins."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kdlib import UsageError
from kdlib.plan.source import Source
from kdlib.plan.studies import Study

HERE = ("local", "dryrun", "touch")  # executors that come with Snakemake
SIGNED = "kdlib-"  # how the names of our jobs begin
NOT_ON_SLURM = '$ ` " % \\ and line breaks'
ODD = re.compile(r'[$`"%\\\n]')  # a shell in between would read them, Slurm itself the %
_NO_START = re.compile(  # arguments of Snakemake with which it runs nothing
    r"-[a-zA-Z]*n[a-zA-Z]*$|--(dry|unlock|summary|detailed-summary|list|dag|rulegraph|filegraph|"
    r"touch|report|lint|cleanup|help|version|archive|d3dag|print-compilation)"
)
PATIENCE = 180  # seconds that cancelled jobs may take to end


def executor_of(arguments: Sequence[str]) -> str:
    """The executor that Snakemake's arguments ask for, by option or profile: local, slurm, ...

    Raises UsageError, one line, where its plugin is not installed: Snakemake names neither.
    """
    given, _ = _taken(arguments, "--executor", "-e")
    if not given:
        given = [str(_profile(arguments).get("executor", HERE[0]))]
    plugin = f"snakemake-executor-plugin-{given[-1]}"
    if given[-1] not in HERE and find_spec(plugin.replace("-", "_")) is None:
        extra = "pip install -e .[slurm]" if given[-1] == "slurm" else f"pip install {plugin}"
        raise UsageError(f"executor {given[-1]!r} is not installed; {extra}")
    return given[-1]


def prepare(study: Study, file: Path, arguments: Sequence[str]) -> list[str]:
    """Snakemake's arguments, completed for Slurm.

    Jobs are named after the study and its folder, and those of such a name that a killed study
    left are cancelled first: two must not write the same files. The profile's default resources
    stay where the command line sets others; `images_mb` in them is the size of the data set. No
    job asks for more processors than a node has. Raises UsageError where there is no Slurm, where
    jobs cannot be cancelled, and for a folder or a study's file whose path a shell on the node
    would change.
    """
    for path in (Path.cwd(), file):
        if found := ODD.search(str(path)):
            raise UsageError(
                f"{path}: {found[0]!r} in a path; on Slurm allowed: none of {NOT_ON_SLURM}"
            )
    if shutil.which("sbatch") is None:
        raise UsageError("no sbatch on this machine; start the study where jobs are submitted")
    profile = _profile(arguments)
    own, rest = _taken(arguments, "--default-resources", "--default-res", several=True)
    resources = _by_name([*_as_list(profile.get("default-resources")), *own])
    given, rest = _taken(rest, "--slurm-jobname-prefix")
    prefix = "-".join([*given[-1:], job_names(study)])  # what is cancelled bears this name
    rest += ["--slurm-jobname-prefix", prefix]
    if not _taken(rest, "--cores", "-c")[0]:
        largest = _processors(resources.get("slurm_partition"))
        wanted = str(profile.get("cores", 1))  # or all
        rest += ["--cores", str(min(int(wanted), largest) if wanted.isdigit() else largest)]
    if not any(_NO_START.match(argument) for argument in rest):
        _cancel_what_is_left(prefix)
    size = str(images_mb(study.source))
    each = [re.sub(r"\bimages_mb\b", size, f"{k}={v}") for k, v in resources.items()]
    return [*rest, "--default-resources", *each] if each else rest


def job_names(study: Study) -> str:
    """How the names of a study's jobs begin: others in the same folder or elsewhere differ."""
    place = hashlib.sha256(f"{Path.cwd()}\n{study.name}".encode()).hexdigest()[:12]
    return SIGNED + place


def images_mb(source: Source) -> int:
    """The size of a data set's files in megabytes, rounded up; 0 where none is there yet."""
    return -(-sum(size for _, size, _ in source.listing) // 1_000_000)


def _cancel_what_is_left(prefix: str) -> None:
    """Cancel jobs of a study whose process was killed, and wait for their end."""
    left = _jobs(prefix)
    if not left:
        return
    jobs = "1 job" if len(left) == 1 else f"{len(left)} jobs"
    print(f"cancelling {jobs} that a killed study left in Slurm", file=sys.stderr)
    _ask("scancel", *left)
    deadline = time.monotonic() + PATIENCE
    while _jobs(prefix):
        if time.monotonic() > deadline:
            raise UsageError(f"jobs {', '.join(left)} do not end; see squeue --me")
        time.sleep(1)


def _jobs(prefix: str) -> list[str]:
    """The numbers of jobs of this user that wait, run or end, by how their names begin."""
    rows = (line.split("|", 1) for line in _ask("squeue", "--me", "--noheader", "--format=%A|%j"))
    return [number for number, name in rows if name.startswith(f"{prefix}_")]


def _processors(partition: str | None) -> int:
    """How many processors the largest node has, of the partition or of all."""
    asked = ["--noheader", "--exact", "--format=%c"]
    if partition:
        asked.append(f"--partition={partition}")
    return max((int(line) for line in _ask("sinfo", *asked) if line.strip().isdigit()), default=1)


def _ask(*command: str) -> list[str]:
    """The lines that a command of Slurm prints; raises UsageError with its own message."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise UsageError(f"{command[0]} does not answer: {problem}") from None
    if done.returncode:
        raise UsageError(" ".join(done.stderr.split()) or f"{command[0]} failed")
    return done.stdout.splitlines()


# ---- Snakemake's arguments -----------------------------------------------------------------------


def _taken(
    arguments: Sequence[str], *names: str, several: bool = False
) -> tuple[list[str], list[str]]:
    """The values of an option, which may take `several` at once, and the arguments without it."""
    values, rest, inside = [], [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in names:
            inside = not equals
            values += [value] if equals else []
        elif inside and not argument.startswith("-"):
            values.append(argument)
            inside = several
        else:
            inside = False
            rest.append(argument)
    return values, rest


def _profile(arguments: Sequence[str]) -> dict[str, Any]:
    """What the profiles say: that of the workflow before the other, as Snakemake takes them."""
    from snakemake.cli import get_profile_dir

    settings: dict[str, Any] = {}
    usual = os.environ.get("SNAKEMAKE_PROFILE", "")
    for option, default in (("--profile", usual), ("--workflow-profile", "profiles/default")):
        for place in filter(None, (_taken(arguments, option)[0] or [default])[-1:]):
            found = get_profile_dir(place) or get_profile_dir(str(Path("profiles") / place))
            if not found and place not in ("none", "profiles/default"):
                raise UsageError(f"{option} {place}: there is none; allowed: a folder of a profile")
            if found:
                try:
                    settings |= yaml.safe_load(found[1].read_text("utf-8")) or {}
                except (yaml.YAMLError, TypeError, OSError) as problem:
                    reason = " ".join(str(problem).split())
                    raise UsageError(f"{option} {place}: cannot be read: {reason}") from None
    return settings


def _as_list(resources: Any) -> list[str]:
    """Default resources of a profile, which may be a list or names with values."""
    if isinstance(resources, dict):
        return [f"{name}={value}" for name, value in resources.items()]
    return [str(each) for each in resources or ()]


def _by_name(resources: Sequence[str]) -> dict[str, str]:
    """name=value, the last of each name."""
    pairs = (each.partition("=") for each in resources)
    return {name: value for name, _, value in pairs}
