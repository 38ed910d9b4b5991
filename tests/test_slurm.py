"""A study on a Slurm cluster: a real one of one node, and what can be told without one."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import slurm
import torch

from kdlib import UsageError, cli, cluster
from kdlib.plan import studies

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/slurm"
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3")
ON_SLURM = ("publish", "--workflow-profile", "profiles/slurm", *QUICK)


# ---- without a cluster ---------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Slurm's commands, invented: `commands(squeue="echo ...")` says what they do."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(**scripts):
        for name, script in ({"sbatch": "", "squeue": "", "sinfo": "echo 8"} | scripts).items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path

    return make


@pytest.fixture
def study():
    return studies.read(ROOT / "studies/smoke.yaml")


def prepared(study, *more):
    """Snakemake's arguments as a dict: option -> values."""
    options = {}
    given = ["--workflow-profile", str(PROFILE), *more]
    for argument in cluster.prepare(study, Path("mine.yaml"), given):
        if argument.startswith("--"):
            values = options.setdefault(argument, [])
        else:
            values.append(argument)
    return options


def test_no_job_asks_for_more_processors_than_a_node_has(commands, study):
    commands(sinfo="printf '1\\n2\\n'")
    assert prepared(study)["--cores"] == ["2"]
    commands(sinfo="echo 64")
    assert prepared(study)["--cores"] == ["4"]
    assert prepared(study, "--cores", "3")["--cores"] == ["3"]


def test_the_processors_are_those_of_the_partition(commands, study):
    commands(sinfo='case "$*" in *--partition=small*) echo 1;; *) echo 64;; esac')
    assert prepared(study, "--default-resources", "slurm_partition=small")["--cores"] == ["1"]


def test_account_and_partition_are_set_and_the_rest_of_the_profile_stays(commands, study):
    commands()
    options = prepared(study, "--default-resources", "slurm_account=us", "runtime=30*attempt")
    assert options["--default-resources"] == [
        "runtime=30*attempt",
        "mem_mb=(4000 + 4 * 1) * attempt",  # the digits are less than a megabyte
        "slurm_account=us",
    ]


def test_time_and_memory_grow_with_the_images(commands, study, tmp_path):
    commands()
    big = tmp_path / "big.zip"
    with big.open("wb") as file:
        file.truncate(300_000_001)
    assert cluster.images_mb(studies.Source(str(big))) == 301
    given = dict(each.split("=", 1) for each in prepared(study)["--default-resources"])
    asked = {
        name: [eval(expression, {"attempt": n, "min": min}) for n in (1, 2)]
        for name, expression in given.items()
    }
    assert asked["runtime"] == [241, 482]
    assert asked["mem_mb"] == [4004, 8008]


def test_what_a_killed_study_left_is_cancelled_before_a_start_and_nothing_else(
    commands, study, capsys
):
    ours, other = cluster.job_names(study), "kdlib-0123456789ab"
    folder = commands()
    commands(
        squeue=f"test -e {folder}/gone || printf '7|{ours}_1\\n8|{other}_1\\n9|{ours}_2\\n'",
        scancel=f'echo "$@" >> {folder}/gone',
    )
    prepared(study, "--dry-run")
    assert not (folder / "gone").exists()
    options = prepared(study)
    assert options["--slurm-jobname-prefix"] == [ours]
    assert (folder / "gone").read_text() == "7 9\n"
    assert "cancelling 2 jobs that a killed study left" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["-n", "-nq", "--dry-run", "--unlock", "--summary", "--touch"])
def test_what_starts_nothing_cancels_nothing(commands, study, argument):
    folder = commands()
    commands(squeue=f"echo '7|{cluster.job_names(study)}_1'", scancel=f"touch {folder}/gone")
    prepared(study, argument)
    assert not (folder / "gone").exists()


def test_jobs_of_a_users_own_prefix_are_not_all_cancelled(commands, study):
    folder = commands()
    commands(squeue="echo '7|mine_1'", scancel=f"touch {folder}/gone")
    options = prepared(study, "--slurm-jobname-prefix", "mine")
    assert options["--slurm-jobname-prefix"] == [f"mine-{cluster.job_names(study)}"]
    assert not (folder / "gone").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workflow-profile", "profiles/slurm", "publish"],
        ["--profile", "profiles/slurm/config.yaml"],
        ["--executor", "slurm", "publish"],
        ["-e", "slurm", "--", "publish"],
    ],
)
def test_the_executor_is_told_from_targets_and_files(arguments, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: name)
    monkeypatch.chdir(ROOT)
    assert cluster.executor_of(arguments) == "slurm"


def test_the_names_of_jobs_are_those_of_a_study_in_a_folder(study, tmp_path, monkeypatch):
    name = cluster.job_names(study)
    assert name == cluster.job_names(study)
    assert name != cluster.job_names(studies.read(ROOT / "studies/quick.yaml"))
    monkeypatch.chdir(tmp_path)
    assert name != cluster.job_names(study)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--executor", "nowhere"], "'nowhere' is not installed; pip install snakemake-executor"),
        (["--executor=slurm"], "'slurm' is not installed; pip install -e .[slurm]"),
        (["--workflow-profile", str(PROFILE)], "'slurm' is not installed; pip install -e .[slurm]"),
    ],
)
def test_a_missing_executor_is_one_line(arguments, line, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert cli.main(["study", str(ROOT / "studies/smoke.yaml"), "--", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kdlib: executor {line}")
    assert said.count("\n") == 1


def test_the_executors_of_snakemake_itself_need_nothing():
    assert cluster.executor_of([]) == "local"
    assert (
        cluster.executor_of(["publish", "-n", "--workflow-profile", "profiles/default"]) == "local"
    )


def test_the_default_profile_may_be_one_of_a_cluster(tmp_path, monkeypatch, commands, study):
    monkeypatch.chdir(tmp_path)
    commands(sinfo="echo 6")
    (tmp_path / "profiles/default").mkdir(parents=True)
    (tmp_path / "profiles/default/config.yaml").write_text("executor: slurm\ncores: all\n")
    assert cluster.executor_of([]) == "slurm"
    assert "--cores 6" in " ".join(cluster.prepare(study, Path("mine.yaml"), []))


def test_where_there_is_no_slurm_and_where_it_does_not_answer_is_one_line(
    commands, study, tmp_path, monkeypatch
):
    commands(sinfo="echo 'slurm_load: no controller' >&2; exit 1")
    with pytest.raises(UsageError, match="slurm_load: no controller"):
        prepared(study)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="no sbatch on this machine"):
        prepared(study)


@pytest.mark.parametrize("name", ["a$(touch PWNED).yaml", "a`b`.yaml", 'a"b.yaml', "a%j.yaml"])
def test_a_path_that_a_shell_on_a_node_would_change_is_refused(commands, study, name):
    commands()
    with pytest.raises(UsageError, match="in a path; on Slurm allowed: none of"):
        cluster.prepare(study, Path(name), [])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_is_asked_for_on_cuda_only_and_need_not_be_where_the_study_is_started(
    device, monkeypatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = []
    monkeypatch.setattr(cli, "run_snakemake", lambda arguments: asked.extend(arguments) or 0)
    assert cli.study(Path("studies/smoke.yaml"), device) == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "publish", "--dry-run", "--cores", "1"),
            *("--workflow-profile", "none", "--forceall", *asked),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "rule teacher:" in said
    assert ("gpu=1" in said) == (device == "cuda")


THOUSANDS = """
from kdlib.plan import methods, studies
own = [k for k, f in methods.METHODS.items() if not (f.same_network or f.no_smaller)]
names = ["baseline", *(key for key in own if key != "baseline")]
grid = {"labels_per_class": [2, 5, 10], "seeds": [*range(107)]}
study = studies.Study(name="x", methods=names[:20], **grid)
print(len(study.students), len(study.teachers) + len(study.kernels), 2 * len(study.blocks))
print(len(studies.Study(name="x", methods=names[:12]).kernels))
"""


def test_a_study_of_6420_students_is_hundreds_of_jobs():
    done = subprocess.run(  # without the checks of every shape, which take a minute
        [sys.executable, "-c", THOUSANDS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    students, trainings, others, small = map(int, done.stdout.split())
    assert students == 6420
    assert trainings < 400
    assert trainings + others < 1000
    assert small == 3  # five students in each, as ever: nothing is run again


def test_the_command_of_the_readme_and_the_chapter_is_one():
    said = [(ROOT / file).read_text() for file in ("README.md", "book/again.md")]
    commands = [line.strip() for text in said for line in text.splitlines() if "slurm_acc" in line]
    assert len(commands) == 2
    assert commands[0] == commands[1]
    for part in ("profiles/slurm", "slurm_account=", "slurm_partition=", "runtime="):
        assert part in commands[0]


# ---- on a real one -------------------------------------------------------------------------------

STUDY = """
teacher: {network: resnet8, width: 0.25, epochs: 1}
student: {network: resnet8, width: 0.25, epochs: 1}
runs_only: true
"""
WRONG = "methods: [baseline, kd, {method: at, learning_rate: 1.0e+30}]\nstudents_per_kernel: 1\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The variables that Slurm's commands need."""
    if why := slurm.missing():
        pytest.skip(why)
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -e .[slurm]")
    with slurm.running(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def start(project, file, *more, variables):
    return subprocess.Popen(
        [sys.executable, "-m", "kdlib", "study", file, "--device", "cpu", "--", *more],
        cwd=project,
        env={
            **os.environ,
            **variables,
            "PYTHONPATH": str(project),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a study needs, in a folder whose name a shell would take apart."""
    folder = tmp_path_factory.mktemp("cluster") / "a 'b' (c) & {d}"
    (folder / "book").mkdir(parents=True)
    names = ("Snakefile", "_config.yml", "_toc.yml")
    for name in ("kdlib", "notebooks", "profiles", "snakemake_logger_plugin_kdlib", *names):
        source, ignore = ROOT / name, shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    for name, more in {"far": WRONG, "near": "methods: [baseline, kd]\n"}.items():
        (folder / f"{name}.yaml").write_text(STUDY + more)
    return folder


@pytest.fixture(scope="module")
def studied(project, machine):
    """A study on the cluster, killed while students trained and started again; a job cancelled.

    Gives the exit status and what the second start said, and the jobs there were.
    """
    teacher = project / "runs/far/digits/teachers/resnet8x0.25-full-0+epochs=1/run.json"

    def students(state):
        jobs = slurm.jobs(machine)
        return [job for job in jobs if "student" in job.rule and job.state == state]

    process = start(project, "far.yaml", *ON_SLURM, variables=machine)
    try:
        slurm.wait_for(lambda: teacher.exists() and students("RUNNING"), 300)
    finally:
        os.kill(process.pid, signal.SIGKILL)  # its jobs go on
        said, _ = process.communicate()
        print(said)
    left = {job.number for job in (*students("RUNNING"), *students("PENDING"))}
    process = start(project, "far.yaml", *ON_SLURM, variables=machine)
    slurm.wait_for(lambda: [job for job in students("RUNNING") if job.number not in left], 150)
    job = next(job for job in students("RUNNING") if job.number not in left)
    slurm.ask(["scancel", job.number], machine)
    said, _ = process.communicate(timeout=400)
    return process.returncode, said, slurm.jobs(machine)


def test_a_wrong_student_says_why_and_is_not_tried_again_and_the_others_finish(project, studied):
    code, said, _ = studied
    assert code == 1, said
    lines = said.splitlines()
    (at,) = [i for i, line in enumerate(lines) if "the loss is not finite" in line]
    assert lines[at].startswith("FAILED student")
    assert "status is: 'FAILED'" in lines[at + 1]
    notebook, log = (part.partition(": ")[2] for part in lines[at + 2].strip().split("; "))
    for file in (project / notebook, Path(log)):
        assert "the loss is not finite" in file.read_text()
    runs = sorted(f.parent.name for f in project.glob("runs/far/digits/students/*/*/run.json"))
    assert [name.split("-")[1] for name in runs] == ["baseline", "kd"]
    assert "1 failed; the others are done and kept" in said


def test_a_start_cancels_what_a_killed_one_left_and_no_work_is_done_twice_at_once(studied):
    _, said, jobs = studied
    assert "that a killed study left in Slurm" in said
    assert "1 teacher" not in said  # it was trained before the kill
    spans = {}
    for job in jobs:
        if job.begin != "N/A" and job.state != "PENDING":
            spans.setdefault(job.rule, []).append((job.begin, job.end))
    assert len(spans) == 4
    for each in spans.values():
        each.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(each)), each


def test_a_cancelled_job_is_seen_and_tried_again(studied):
    _, said, jobs = studied
    assert "status is: 'CANCELLED'" in said
    assert "  it is tried again" in said.splitlines()
    assert sum(job.state == "COMPLETED" for job in jobs) == 3  # teacher and two students


def tensors(file):
    """A file of safetensors without its header, which names the study."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_the_weights_are_those_of_this_machine_to_the_bit(project, studied, machine):
    process = start(project, "near.yaml", "publish", variables={})
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    files = sorted((project / "runs/near").rglob("weights.safetensors"))
    assert len(files) == 3
    for file in files:
        other = project / "runs/far" / file.relative_to(project / "runs/near")
        assert tensors(other) == tensors(file), file


def test_nothing_that_is_nobodys_mistake_is_said(studied):
    _, said, _ = studied
    for noise in ("sacct", "account", "MinJobAge", "Warning"):
        assert noise not in said


def test_a_job_that_slurm_refuses_says_slurms_reason(project, machine):
    more = ("--forcerun", "teacher", "--retries", "0", "--default-resources", "slurm_partition=no")
    process = start(project, "near.yaml", *ON_SLURM, *more, variables=machine)
    said, _ = process.communicate(timeout=120)
    assert process.returncode
    assert "invalid partition specified: no" in said
