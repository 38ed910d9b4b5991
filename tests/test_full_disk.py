"""A disk that is full, at every step: one line, and what was whole stays whole."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import results
from test_store import layers, save

from kdlib import UsageError, cli, store

PAPERMILL = [str(Path(sys.executable).parent / "papermill"), "--engine", "kdlib"]
PAPERMILL += ["--no-progress-bar", "--log-level", "ERROR"]


@pytest.fixture
def disk(tmp_path):
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"mounting is not allowed: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk):
    """Leave no place on the disk."""
    with (
        pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
        (disk / "filler").open("wb", buffering=0) as file,
    ):
        file.writelines(bytes(4096) for _ in range(10**6))


def contents(folder):
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != "filler"}


@pytest.fixture(scope="module")
def made():
    """Invented results."""
    return results.make(None, n=60, seeds=1, labels=("2",))


WRITERS = {
    "training": lambda disk, _: save(disk / "teachers/a", accuracy=0.6),
    "extraction": lambda disk, _: store.save_layers(disk / "teachers/a", layers(1.0)),
    "measuring": lambda disk, _: store.save_table(
        "measures", disk, "teachers/a", [("stem", "knn", float(i), "pooled") for i in range(9999)]
    ),
    "drawing": lambda disk, _: store.save_table(
        "maps", disk, "tsne", [("a", "stem", "tsne", i, i / 3, i / 7, 0.5) for i in range(9999)]
    ),
    "publishing": lambda disk, made: store.publish(disk / "book", made),
    "the result of a benchmark": lambda disk, _: store.save_text(disk / "text", "x" * 9999),
}


@pytest.mark.parametrize("step", WRITERS)
def test_a_step_on_a_full_disk_is_one_line_and_leaves_what_was_there(step, disk, made):
    save(disk / "teachers/a")
    store.save_layers(disk / "teachers/a", layers())
    WRITERS[step](disk, made)
    before = contents(disk)
    fill(disk)
    with pytest.raises(UsageError) as problem:
        WRITERS[step](disk, made)
    assert str(problem.value).startswith("cannot write ")
    assert "\n" not in str(problem.value)
    assert contents(disk) == before


def test_building_on_a_full_disk_is_one_line(disk, made, monkeypatch, capsys):
    monkeypatch.chdir(disk)
    store.publish(Path("book/results/quick"), made, {"teacher": "{}" * 5000})
    before = contents(disk / "book/results")
    fill(disk)
    assert cli.main(["book", "digits"]) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert len(said.splitlines()) == 1
    assert contents(disk / "book/results") == before


def test_a_checkpoint_without_place_leaves_the_last_one_and_the_training_goes_on(disk, capsys):
    checkpoint = store.Checkpoint(disk, 1.0, run="a")
    checkpoint.save({"epoch": 1, "step": 0}, {})
    fill(disk)
    checkpoint.save({"epoch": 2, "step": 0, "history": ["x"] * 9999}, {})
    assert "no checkpoint: cannot write" in capsys.readouterr().out
    state, _ = checkpoint.load()
    assert state["epoch"] == 1


def test_a_notebook_on_a_full_disk_is_refused_in_one_line_before_it_trains(disk):
    root = Path(__file__).parents[1]
    (disk / "out.ipynb").write_text(json.dumps({"before": 1}))
    fill(disk)
    for out, results_folder in ((disk.parent / "out.ipynb", disk), (disk / "out.ipynb", disk)):
        done = subprocess.run(
            [
                *(*PAPERMILL, "notebooks/teacher.ipynb", str(out), "-p", "epochs", "1"),
                *("-p", "network", "resnet8", "-p", "results", str(results_folder)),
            ],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode == 2, done.stderr
        assert lines[-1].startswith("Error: cannot write ")
        assert lines[-1].endswith("No space left on device")
        assert "Traceback" not in done.stderr
    assert json.loads((disk / "out.ipynb").read_text()) == {"before": 1}
    assert not list(disk.rglob("*.part"))
