"""The pipeline on a study as small as can be, in a copy of the project: killed, changed, broken."""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import yaml
from filelock import FileLock
from PIL import Image

from kdlib import cli, models

ROOT = Path(__file__).parents[1]
NAMES = (
    "Snakefile",
    "kdlib",
    "notebooks",
    "studies",
    "profiles",
    "book",
    "_config.yml",
    "_toc.yml",
    "snakemake_logger_plugin_kdlib",
)
TEACHER = "runs/smoke/digits/teachers/resnet8-full-0+epochs=1"
STUDENTS = "runs/smoke/digits/students/resnet8-full-0+epochs=1"


def start(project, *more, file="studies/smoke.yaml"):
    return subprocess.Popen(
        [sys.executable, "-m", "kdlib", "study", file, "--", *(more or ("publish",))],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(project, *more, **options):
    process = start(project, *more, **options)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def planned(project, **options):
    """What a dry run would run, by kind and name."""
    code, said = run(project, "publish", "--dry-run", **options)
    assert code == 0, said
    lines = [line.removeprefix("would run ") for line in said.splitlines() if "would run" in line]
    return {line.split(":")[0] for line in lines}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, killed at a random-looking moment of its first study.

    Its path is one that a shell would take apart.
    """
    folder = tmp_path_factory.mktemp("project") / "a (b) 'c' $d [e] & {f} `g`"
    folder.mkdir()
    for name in NAMES:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "results", "executed")
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name, **({"ignore": ignore} if source.is_dir() else {}))
    return folder


def running_in(folder):
    """The processes that work in a folder: papermill, kernels."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                processes.append(process.cmdline())
    return processes


@pytest.fixture(scope="module")
def studied(project):
    """The study after a kill -9 of its process while students trained, and a second start."""
    process = start(project)
    deadline = time.time() + 120
    while not list((project / STUDENTS).glob("*.ipynb")) and time.time() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)  # the notebooks learn of it by themselves
    process.communicate()
    deadline = time.time() + 30
    while (left := running_in(project)) and time.time() < deadline:
        time.sleep(0.5)
    assert not left
    assert (project / TEACHER / "run.json").exists()
    torn = project / STUDENTS / "resnet8x0.5-kd-2-0+epochs=1"
    assert not (torn / "run.json").exists() or json.loads((torn / "run.json").read_text())
    code, said = run(project)
    assert code == 0, said
    return said


def test_a_killed_study_goes_on_by_itself_and_keeps_what_was_done(project, studied):
    assert "teacher" not in {line.split()[1] for line in studied.splitlines() if line[:1] == "["}
    assert not list(project.rglob("*.part"))
    told = json.loads((project / "book/results/smoke/study.json").read_text())
    assert told["sample"] == 200
    assert told["embeddings"] == ["tsne"]


def test_progress_says_which_notebook_and_how_many_of_how_many(studied):
    lines = [line for line in studied.splitlines() if line.startswith("[")]
    total = int(lines[-1].split("/")[1].split("]")[0])
    assert lines[-1].startswith(f"[{total}/{total}] ")
    assert "Everything" not in studied


def test_nothing_changed_means_nothing_runs(project, studied):
    for file in (*project.glob("kdlib/**/*.py"), *project.glob("notebooks/*.ipynb")):
        file.touch()
    code, said = run(project)
    assert code == 0
    assert "Everything is up to date." in said


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return lambda: file.write_text(text)


@pytest.mark.parametrize(
    ("file", "old", "new", "again", "kept"),
    [
        (
            "studies/smoke.yaml",
            "student: {epochs: 1}",
            "student: {epochs: 2}",
            "student",
            "teacher",
        ),
        ("kdlib/measure/metrics.py", '"""', '""" ', "measure", "student"),
        ("kdlib/train.py", '"""', '""" ', "teacher", "nobody"),
        ("notebooks/embed.ipynb", "Draw maps", "Draw all maps", "maps", "features"),
        ("kdlib/cli.py", '"""', '""" ', "publish", "maps"),
        ("kdlib/report/charts/look.py", '"""', '""" ', None, "publish"),
    ],
    ids=lambda v: v if isinstance(v, str) and "/" in v else "",
)
def test_only_what_changed_is_run_again(project, studied, file, old, new, again, kept):
    undo = change(project / file, old, new)
    kinds = {job.split()[0] for job in planned(project)}
    undo()
    assert kept not in kinds
    assert again in kinds if again else not kinds


def test_a_new_seed_trains_the_new_students_only_and_taken_back_nothing(project, studied):
    undo = change(project / "studies/smoke.yaml", "seeds: [0]", "seeds: [0, 1]")
    jobs = planned(project)
    undo()
    assert planned(project) == set()
    assert {job for job in jobs if job.startswith("student")} == {
        "student resnet8-full-0+epochs=1-2-1-1",
    }


SERVED = """
teacher: {{network: resnet8, width: 0.25, weights: "https://nowhere.org/{}", epochs: 0}}
student: {{epochs: 1}}
runs_only: true
"""


def test_weights_that_were_fetched_since_train_nothing_again(project, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    network = models.build("resnet8", classes=10, channels=1, width=0.25)
    content = safetensors.torch.save(network.state_dict())
    file = tmp_path / f"weights/net-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    file.parent.mkdir()
    file.write_bytes(content)
    (project / "studies/served.yaml").write_text(SERVED.format(file.name))
    code, said = run(project, file="studies/served.yaml")
    assert code == 0, said
    file.unlink()  # before and after it is fetched, a study is the same
    assert planned(project, file="studies/served.yaml") == set()


def test_a_failing_notebook_says_why_and_where_and_the_others_go_on(project, studied):
    name = "studies/it's $(touch PWNED) {broken} `touch PWNED`; touch PWNED & [x].yaml"
    study = project / name
    text = (project / "studies/smoke.yaml").read_text()
    study.write_text(
        text.replace("[baseline, kd]", "[{method: baseline, learning_rate: 1e30}, kd]")
        + "students_per_kernel: 1\nname: broken\n"
    )
    code, said = run(project, "publish", "--retries", "2", file=name)
    assert code == 1
    assert "the loss is not finite" in said
    assert said.count("FAILED student") == 1  # a mistake: it is not tried again
    assert "tried again" not in said
    failed = next(line for line in said.splitlines() if line.startswith("FAILED student"))
    executed = project / failed.split(": ")[-1].strip()
    assert "the loss is not finite" in executed.read_text()
    assert not list(project.glob("**/PWNED"))
    students = project / "runs/broken/digits/students/resnet8-full-0+epochs=1"
    assert [f.parent.name for f in students.glob("*/run.json")] == ["resnet8x0.5-kd-2-0+epochs=1"]
    assert "1 failed; the others are done and kept" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: [baseline, kdd]", "method 'kdd'; one of: kd, logitstd, dkd, dist"),
        ("dataset: mnisst", "data set 'mnisst'; one of: digits"),
        ("student: {network: resnet9}", "unknown network 'resnet9'; one of: resnet8"),
        ("labels_per_class: [500]", "labels_per_class 500; allowed: 'all' or 1 to 124"),
        ("features: {sample: 501}", "sample 501; allowed: 1 to 500"),
        (
            "embeddings: {tsne: {perplexity: 126}}",
            "perplexity must be a number between 1 and 125 for n = 500 images; given 126",
        ),
        ("embeddings: {ivis: {k: 250}}", "between 1 and 249 for n = 500 images; given 250"),
        ("methods: [kd]", "allowed: baseline and at least one more"),
        ("embeddings: {umapp: {}}", "embedding 'umapp'; one of: tsne, ivis"),
        ("embeddings: {tsne: {perplexity: 400}}", "perplexity must be"),
        ("embeddings: {tsne: {perplexitty: 4}}", "unknown option of tsne 'perplexitty'"),
        ("embeddings: {pca: {}, ivis: {k: 15, steps: 0}}", "steps must be"),
        (
            "methods: [baseline, {method: kd, options: {temperatur: 2}}]",
            "unknown option 'temperatur' of method 'kd'",
        ),
        (
            "methods: [baseline, {method: kd, options: {temperature: hot}}]",
            "option temperature of kd",
        ),
        ("methods: [baseline, kd]\nstudent: {network_options: {shortcut: b}}", "shortcut"),
        ("teacher: {network_options: {nothing: 1}}", "unknown option 'nothing' of resnet20"),
        ("teacher: {augment: shift+flop}", "unknown augmentation 'flop'"),
        ('student: {augment: "$(touch PWNED)"}', "unknown augmentation '$(touch PWNED)'"),
        ('teacher: {weights: "a$(touch PWNED)b"}', "weights a$(touch PWNED)b: there is no such"),
        ("teacher: {network: resnet8}\nteacher_x: 1", "unknown parameter 'teacher_x'"),
        ("student: {normalise: imagenet}", "normalise by 3 channels, of images of 1"),
        ("name: a&touch PWNED", "allowed: a plain name"),
        ("film: {epochs: [0], layers: [blok]}", "layer of the film 'blok'; one of: stem, block1"),
    ],
    ids=lambda v: v.split(":")[0] if ":" in v else "",
)
def test_a_study_that_cannot_be_stops_before_it_starts(project, text, said, monkeypatch, capsys):
    (project / "studies/wrong.yaml").write_text(text)
    monkeypatch.chdir(project)
    code = cli.main(["study", "studies/wrong.yaml"])
    output = capsys.readouterr().err
    assert code == 2
    assert output.strip().startswith("kdlib: studies/wrong.yaml: ")
    assert said in output
    assert len(output.strip().splitlines()) == 1
    assert not (project / "runs/wrong").exists()
    assert not list(project.glob("PWNED"))


def test_a_second_study_waits_for_the_one_that_runs(project, studied):
    with FileLock(project / ".snakemake/kdlib.lock"):
        process = start(project)
        line = process.stdout.readline()
        assert line.strip() == "a study still runs in this folder; waiting for its end"
        assert process.poll() is None
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Everything is up to date." in said


OTHERS = """
dataset: "{folder}"
teacher: {{network: resnet8, width: 0.25, epochs: 0, weights: "{weights}"}}
student: {{epochs: 0}}
embeddings: {{pca: {{}}}}
features: {{sample: 4}}
"""


def test_a_shell_hands_every_text_of_a_study_on_as_it_is(project, tmp_path):
    odd = tmp_path / "a $(touch PWNED) `touch PWNED` {b} 'c' [d] & ; | > \\ * ~ # ! 🦜 é"
    rng = np.random.default_rng(0)
    for part, label, i in itertools.product(("train", "test"), "ab", range(3)):
        (odd / part / label).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(image).save(odd / part / label / f"{i}.png")
    network = models.build("resnet8", classes=2, width=0.25)
    torch.save(network.state_dict(), odd.with_suffix(".pt"))
    texts = {"folder": odd, "weights": odd.with_suffix(".pt")}
    texts = {key: json.dumps(str(p), ensure_ascii=False)[1:-1] for key, p in texts.items()}
    (project / "studies/others.yaml").write_text(OTHERS.format(**texts), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "publish", "--dry-run", "--printshellcmds"),
            *("--cores", "1", "--workflow-profile", "none"),
            *("--config", 'study="studies/others.yaml"', "device=cpu"),
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    commands = re.findall(r"papermill --engine kdlib .*", done.stdout + done.stderr)
    assert len(commands) >= 5, done.stderr
    shell = "papermill() { printf '%s\\0' \"$@\"; }; set -euo pipefail; "
    for command in commands:
        ran = subprocess.run(
            ["bash", "-c", shell + command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        arguments = ran.stdout.split("\0")
        assert arguments[arguments.index("dataset") + 1] == str(odd)
        text = arguments[arguments.index("-y") + 1]
        settings = json.loads(text)
        assert yaml.safe_load(text) == settings  # as papermill reads it: no surrogates
        assert settings["study"] == "others"
        if "weights" in settings:
            assert settings["weights"] == str(odd.with_suffix(".pt"))
    assert not list(tmp_path.glob("**/PWNED"))


def test_tables_of_maps_share_the_cores(project):
    command = [sys.executable, "-m", "snakemake", "publish", "--dry-run", "--printshellcmds"]
    command += ["--forceall", "--cores", "8", "--workflow-profile", "none"]
    command += ["--config", "study=studies/smoke.yaml", "device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    found = re.findall(r"-p workers (\d+)", done.stdout + done.stderr)
    assert found == ["2", "2", "2"], done.stderr  # of maps, of the comparison, of the film
