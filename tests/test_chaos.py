"""A few kills of benchmarks/chaos.py, at random moments of a study of runs only."""

import os
import random
import subprocess
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


class Quick:
    """A copy whose study ends with the next of these statuses; None: it runs for long."""

    study = ROOT / "studies/smoke.yaml"

    def __init__(self, folder, *statuses):
        self.folder, self.statuses, self.resets = folder, list(statuses), 0
        (folder / "said.txt").write_text("why")

    def start(self):
        status = self.statuses.pop(0)
        code = "import time; time.sleep(60)" if status is None else f"raise SystemExit({status})"
        return subprocess.Popen([sys.executable, "-S", "-c", code])

    def processes(self):
        return []

    def files(self):
        return []

    def reset(self):
        self.resets += 1


def of(copy):
    return chaos.Chaos(copy, {}, 100.0, chaos.Tally("smoke", 0), random.Random(0))


def test_a_study_goes_on_until_it_is_done_and_is_compared_once(tmp_path):
    run = of(Quick(tmp_path, None, 0))
    run.finish()  # nothing has begun
    assert run.tally.studies == 0
    assert run.go_on(0.1)
    assert run.happen("SIGTERM")
    assert run.tally.kills == {"SIGTERM": 1}
    assert run.begun
    run.finish()
    assert (run.tally.studies, run.copy.resets, run.begun) == (1, 1, False)


def test_a_study_that_fails_though_nothing_happened_ends_it_all(tmp_path, capsys):
    with pytest.raises(SystemExit, match="nothing happened has failed"):
        of(Quick(tmp_path, 1)).go_on(60)
    assert "why" in capsys.readouterr().out


def test_the_time_left_counts_the_notebooks_that_have_finished(tmp_path):
    run = of(Quick(tmp_path))
    assert run.time_left() == 100
    run.before = dict.fromkeys(list(run.notebooks)[: len(run.notebooks) // 3], ())
    assert run.time_left() == pytest.approx(100 * 2 / 3, abs=8)
