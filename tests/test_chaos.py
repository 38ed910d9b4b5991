"""A few kills of benchmarks/chaos.py, at random moments of a study of runs only."""

import random
import sys
from pathlib import Path

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
    found = chaos.chaos(3, random.SystemRandom().randrange(10**6), tmp_path / "mini.yaml", 10.0)
    assert found["half_written"] == found["lost"] == found["different"] == 0
    assert found["slowest_end"] <= chaos.ENDS
    assert sum(found["kills"].values()) == 3


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
