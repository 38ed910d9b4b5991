"""A few kills of benchmarks/chaos.py, at random moments of a study of runs only."""

import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
chaos = pytest.importorskip("chaos", reason="psutil is not installed")

STUDY = """
teacher: {epochs: 1, network: resnet8, width: 0.25}
student: {epochs: 1, width: 0.25}
methods: [baseline, kd]
labels_per_class: [2]
seeds: [0]
runs_only: true
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_study_that_is_killed_at_random_moments_loses_nothing(tmp_path):
    (tmp_path / "mini.yaml").write_text(STUDY)
    tally = chaos.Tally("mini", random.SystemRandom().randrange(10**6))
    chaos.chaos(tally, tmp_path / "mini.yaml", 3, 10.0)
    assert tally.half_written == tally.lost == tally.different == 0
    assert tally.slowest_end <= chaos.ENDS
    assert tally.happened == 3
    assert tally.studies >= 1
    assert tally.sound


def test_a_file_that_is_half_written_or_has_other_bits_is_noticed(tmp_path):
    good, bad = tmp_path / "run.json", tmp_path / "features.safetensors"
    good.write_text('{"a": 1, "seconds": 2}')
    bad.write_bytes(b"half")
    assert chaos.whole(good)
    assert not chaos.whole(bad)
    before = chaos.content(good)
    good.write_text('{"a": 1, "seconds": 3}')
    assert chaos.content(good) == before
    good.write_text('{"a": 2, "seconds": 2}')
    assert chaos.content(good) != before


@pytest.fixture
def trained(tmp_path):
    """A folder in which one notebook has finished and another is being run."""
    files = {"kd": [Path("runs/kd/a"), Path("runs/kd/b")], "at": [Path("runs/at/a")]}
    for file in (file for each in files.values() for file in each):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    mark = tmp_path / ".snakemake/incomplete" / chaos.base64.b64encode(b"runs/at/a").decode()
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    return SimpleNamespace(copy=SimpleNamespace(folder=tmp_path), files=files, mark=mark)


def test_a_notebook_has_finished_once_all_its_files_are_there_and_none_is_being_made(trained):
    assert set(chaos.finished(trained.copy, trained.files)) == {"kd"}
    trained.mark.unlink()
    assert set(chaos.finished(trained.copy, trained.files)) == {"kd", "at"}
    (trained.copy.folder / "runs/kd/b").unlink()
    assert set(chaos.finished(trained.copy, trained.files)) == {"at"}


@pytest.mark.parametrize("bits", ["1", "2"])
def test_what_had_finished_and_is_made_again_is_lost_even_where_its_bits_are_the_same(
    trained, bits
):
    before = chaos.finished(trained.copy, trained.files)
    assert chaos.again(trained.copy, trained.files, before) == []
    file = trained.copy.folder / "runs/kd/b"
    part = file.with_name(".b.part")
    part.write_text(bits)
    os.utime(part, ns=(1, 1))
    part.replace(file)
    assert chaos.again(trained.copy, trained.files, before) == ["kd"]


def test_what_had_finished_and_is_gone_is_lost(trained):
    before = chaos.finished(trained.copy, trained.files)
    (trained.copy.folder / "runs/kd/a").unlink()
    assert chaos.again(trained.copy, trained.files, before) == ["kd"]


def test_the_notebooks_of_the_smallest_study_make_all_files_that_are_compared():
    study = chaos.studies.read(ROOT / "studies/smoke.yaml")
    files = [file for each in chaos.notebooks(study).values() for file in each]
    assert len(files) == len(set(files))
    assert {file.name for file in files} >= {
        *chaos.TRAINED,
        *chaos.MEASURED,
        "features.safetensors",
    }
    assert sum("maps" in file.parts for file in files) == 3 + 2 + 2
