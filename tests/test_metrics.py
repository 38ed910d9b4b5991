"""The laws of all measures of a layer, and which of them are computed."""

from pathlib import Path

import numpy as np
import pytest
from clouds import blobs

from kdlib import UsageError
from kdlib.measure import faithfulness
from kdlib.measure.metrics import MEASURES, measure, measure_layers
from kdlib.measure.space import Space


@pytest.fixture(scope="module")
def sample():
    x, y = blobs(n=90, spread=2.5)
    t, u = blobs(n=150, spread=2.5, seed=1)
    return x, y, t, u


def pair(x, y, t, u):
    """A layer beside a teacher's: the same images, classes further apart, in another width."""
    return Space(x, y, t, u), Space(np.c_[x, 3 * y], y)


def measured(name, x, y, t, u):
    own, teacher = pair(x, y, t, u)
    layer = MEASURES[name].only or "block1"
    if name == "agreement":  # wants as many logits
        teacher = Space(x + np.roll(x, 1, axis=1), y)
    return measure(own, teacher, layer=layer, measures=[name])[name]


@pytest.mark.parametrize("name", MEASURES)
def test_measures_ignore_scale_shift_and_rotation_and_the_order_of_images(name, sample):
    x, y, t, u = sample
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    order = np.random.default_rng(6).permutation(len(x))
    teacher = pair(x, y, t, u)[1]
    if name == "agreement":  # of names, not of a space: only scale and order
        turn, teacher = np.eye(6), Space(x + np.roll(x, 1, axis=1), y)
    layer = MEASURES[name].only or "block1"
    expected = measured(name, x, y, t, u)
    for a, b in [(37.5 * x, 37.5 * t), (x + 9, t + 9), (x @ turn, t @ turn)]:
        result = measure(Space(a, y, b, u), teacher, layer=layer, measures=[name])
        assert result == {name: pytest.approx(expected, rel=1e-8, abs=1e-9)}
    assert measured(name, x[order], y[order], t, u) == pytest.approx(expected)


@pytest.mark.parametrize("name", [k for k, m in MEASURES.items() if m.needs != "teacher"])
def test_measures_move_in_the_stated_direction_and_stay_in_range(name):
    values = []
    for spread in (8.0, 3.0, 0.5):  # more and more compact
        values.append(measured(name, *blobs(spread=spread), *blobs(spread=spread, seed=1)))
    entry = MEASURES[name]
    if entry.better != "neither direction" and not name.startswith("nc2"):
        assert values == sorted(values, reverse=entry.better == "lower")
    assert values[0] != values[2]
    assert all(entry.low <= value <= entry.high for value in values)


def test_measures_that_depend_on_n_are_marked():
    """Ten times the images of the same classes: these move by a fifth, the others hardly."""
    for name, entry in MEASURES.items():
        few, many, d, much = (100, 1000, 300, 20) if entry.depends_on_n else (500, 5000, 6, 3)
        values = []
        for n in (few, many):
            x, y = blobs(n=n, d=d, spread=4)
            noise = np.random.default_rng(5).normal(size=x.shape)
            layer = MEASURES[name].only
            own, teacher = Space(x, y, *blobs(d=d, spread=4, seed=1)), Space(x + much * noise, y)
            values.append(measure(own, teacher, layer=layer, measures=[name])[name])
        moved = abs(values[1] / values[0] - 1)
        assert (moved > 0.2) if entry.depends_on_n else (moved < 0.12), (name, values)


def test_one_call_measures_all_that_can_be(sample):
    x, y, t, u = sample
    baseline = [k for k, m in MEASURES.items() if not m.needs]
    probes = [k for k, m in MEASURES.items() if m.needs == "training"]
    assert list(measure(Space(x, y))) == baseline
    assert set(measure(Space(x, y, t, u))) == {*baseline, *probes}
    own, teacher = pair(*sample)
    result = measure(own, teacher)
    assert set(result) == {*MEASURES} - {"agreement"}
    assert all(isinstance(value, float) for value in result.values())
    assert set(measure(own, own, layer="logits")) == {*MEASURES}


def test_a_network_is_measured_layer_by_layer_beside_its_teacher(sample):
    own, teacher = pair(*sample)
    result = measure_layers({"stem": own, "pool": own}, {"pool": teacher, "more": teacher})
    assert result["pool"] == measure(own, teacher)
    assert result["stem"] == measure(own)
    assert measure_layers({"stem": own}) == {"stem": measure(own)}
    lone = Space(sample[0], np.r_[np.zeros(89, dtype=int), 1])
    with pytest.raises(UsageError, match="pool: every class needs two images"):
        measure_layers({"stem": own, "pool": lone})


def test_measures_that_cannot_be_are_named(sample):
    x, y, _, _ = sample
    with pytest.raises(UsageError, match=r"'silhuette'; .*within_share, silh"):
        measure(Space(x, y), measures=["silhuette"])
    for name, expected in [("knn", "training images"), ("cka", "the teacher's layer")]:
        with pytest.raises(UsageError, match=f"measure {name} needs {expected}"):
            measure(Space(x, y), measures=[name])
    with pytest.raises(UsageError, match=r"agreement .*logits.* 'pool'"):
        measure(Space(x, y), Space(x, y), layer="pool", measures=["agreement"])


@pytest.mark.parametrize("table", [MEASURES, faithfulness.FAITHFULNESS, faithfulness.MAP_MEASURES])
def test_every_entry_has_words_a_pitfall_and_a_documented_function(table):
    for entry in table.values():
        assert entry.low < entry.high
        assert entry.title
        assert entry.text
        assert entry.better in ("lower", "higher", "neither direction")
        assert entry.better in " ".join(entry.function.__doc__.split()).lower()
        assert entry.pitfall
        assert "itfall" not in entry.function.__doc__  # it is in the table


def test_every_measure_has_a_formula_and_a_source_in_the_bibliography():
    known = (Path(__file__).parents[1] / "book/references.bib").read_text()
    for entry in MEASURES.values():
        assert entry.formula.count("{") == entry.formula.count("}")
        assert entry.formula
        assert f"{{{entry.source}," in known
