import pandas as pd
import results as invented

from kdlib.measure.depth import relative
from kdlib.report.explorer import stops
from kdlib.report.networks import families, layers_of

UNEQUAL = {"teacher": ["a", "b", "c", "d", "e"], "student": ["b", "x", "e"]}


def test_depths_go_from_0_to_1_and_the_only_layer_is_the_last():
    assert relative(3) == [0, 0.5, 1]
    assert relative(1) == [1]


def test_a_network_has_layers_of_its_own_or_those_of_the_study():
    assert layers_of(invented.foreign(UNEQUAL), "student") == UNEQUAL["student"]
    assert layers_of(invented.make(labels=("2",)), "any") == list(invented.LAYERS)


def test_stops_are_names_of_layers_or_every_depth_that_a_network_has():
    three_and_four = {"a": ["x", "y", "z"], "b": ["p", "q", "r", "s"]}
    names = stops(invented.foreign(three_and_four), three_and_four)
    assert list(names) == ["0 %", "33.3 %", "50 %", "66.7 %", "100 %"]
    assert list(stops(invented.foreign(UNEQUAL), ["student"])) == UNEQUAL["student"]


def test_seeds_from_files_of_their_own_are_one_family():
    table = families(invented.foreign(UNEQUAL, seeds=3))
    assert table["weights"].nunique() == 6
    assert list(table["family"]) == ["teacher"] * 3 + ["student"] * 3


def test_families_of_a_study_say_method_and_labels_and_no_two_are_called_alike():
    results = invented.make(labels=("2", "5"))
    other = results.runs[results.runs["method"] == "kd"].assign(regime="limited")
    other["run"] += "-limited"
    runs = pd.concat([results.runs, other], ignore_index=True)
    table = families(results._replace(runs=runs))
    counts = table.groupby("family")["seed"].agg(["count", "nunique"])
    assert (counts["count"] == counts["nunique"]).all()
    assert "kd, resnet8x0.5, 2 labels per class (2)" in counts.index
    assert "at, resnet8x0.5, 5 labels per class" in counts.index
