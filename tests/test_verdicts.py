import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results as invented

from kdlib.measure import depth, verdicts

ROOT = Path(__file__).parents[1]
LAYERS = ("stem", "block1", "block2", "block3", "pool", "logits")
WOBBLE = (0.02, -0.02, 0.01, -0.01, 0.0)  # what a seed adds; sums to 0
RISE = np.array([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])  # of every measure of the baseline, layer by layer
SIGN = {"within_share": -1, "silhouette": 1, "knn": 1, "probe": 1}
NOTHING = invented.make(n=20, seeds=1)
CLEAR, NONE, REVERSED = 0.2, 0.0, -0.2


def study(seeds=5, methods=(("kd", CLEAR),), *, labels=("2",), regime="full", effects=None):
    """Results in which each method has one effect everywhere, or one per measure and layer."""
    runs, values = [], []
    for budget, seed in itertools.product(labels, range(seeds)):
        best = 0.9 if regime == "full" else 0.5
        teacher = f"teachers/{budget}-{seed}"
        row = {"labels": budget, "seed": seed}
        large = {"role": "teacher", "network": "resnet20", "method": "baseline", "parameters": 100}
        runs.append(row | large | {"run": teacher, "regime": regime, "test_accuracy": best})
        for method, effect in (("baseline", None), ("smooth", REVERSED), *methods):
            run = f"students/resnet8-{method}-{budget}-{seed}"
            gain = 0 if effect is None else effect + WOBBLE[seed]
            student = row | {"run": run, "method": method, "test_accuracy": 0.5 + gain}
            if method not in ("baseline", "smooth"):
                student |= {"teacher": teacher, "teacher_network": "resnet20", "regime": regime}
            runs.append(student)
            for measure, sign in SIGN.items():
                more = 0 if effect is None or effects is None else effects.get(measure, 0)
                of = zip(LAYERS, RISE + sign * gain + more, strict=True)
                values += [(run, layer, measure, value) for layer, value in of]
    measures = pd.DataFrame(values, columns=["run", "layer", "measure", "value"])
    maps = measures.assign(measure="map_" + measures["measure"])
    return NOTHING._replace(
        runs=invented.table_of_runs(runs),
        measures=measures,
        faithfulness=pd.concat([maps.assign(embedding=e) for e in ("tsne", "ivis")]),
    )


def judge(results):
    """The verdict of every claim."""
    cells = verdicts.cells(verdicts.tests(results))
    return verdicts.claims(cells).set_index("claim")["verdict"].to_dict()


@pytest.mark.parametrize(
    ("regime", "seeds", "effect", "word"),
    [
        ("full", 5, CLEAR, "supported"),
        ("full", 5, NONE, "not supported"),
        ("full", 5, REVERSED, "not supported"),
        ("full", 4, CLEAR, "consistent with"),
        ("full", 3, CLEAR, "consistent with"),
        ("full", 3, REVERSED, "not shown"),
        ("full", 2, CLEAR, "too few seeds"),
        ("full", 1, CLEAR, "too few seeds"),
        ("limited", 5, CLEAR, "supported"),
        ("limited", 5, REVERSED, "not supported"),
        ("limited", 3, CLEAR, "consistent with"),
        ("pretrained", 5, CLEAR, "supported"),
    ],
)
def test_every_claim_is_judged_by_its_data(regime, seeds, effect, word):
    words = judge(study(seeds, [("kd", effect)], regime=regime))
    missing = "C2" if regime == "full" else "C1"
    assert words == dict.fromkeys(verdicts.CLAIMS, word) | {missing: "no data"}


@pytest.mark.parametrize(
    ("effects", "word"),
    [
        ((CLEAR, CLEAR, NONE), "supported"),
        ((CLEAR, NONE, NONE), "mixed"),
        ((CLEAR, CLEAR, REVERSED), "mixed"),
        ((NONE, REVERSED, REVERSED), "not supported"),
    ],
)
def test_a_claim_needs_most_cells_and_none_against_it(effects, word):
    made = study(methods=list(zip(("kd", "at", "fitnet"), effects, strict=True)))
    assert judge(made) == dict.fromkeys(verdicts.CLAIMS, word) | {"C2": "no data"}


def test_controls_make_no_cells():
    cells = verdicts.cells(verdicts.tests(study()))
    assert set(cells["method"].dropna()) == {"kd"}


def test_a_cell_with_tests_for_and_against_is_mixed():
    made = study(effects={"within_share": 2 * CLEAR})  # less compact, and better apart
    cells = verdicts.cells(verdicts.tests(made)).set_index("claim")
    assert cells.loc["C3", "verdict"] == "mixed"
    assert cells.loc["C3", ["tests", "tests_for", "tests_against"]].to_list() == [4, 2, 2]


def test_only_the_last_layers_more_compact_supports_nothing():
    late = np.where(np.isin(LAYERS, ("block3", "pool", "logits")), 0.2, 0)
    made = study(methods=[("kd", NONE)], effects={"within_share": -late, "silhouette": late})
    assert judge(made)["C3"] == "not supported"


def test_holm_guards_a_cell_of_several_tests():
    once = np.where(np.array(LAYERS) == "block1", 0.025, 0)  # p = 0.024, one of four tests
    made = study(methods=[("kd", NONE)], effects={"silhouette": once})
    tests = verdicts.tests(made).query("claim == 'C3'")
    assert tests["p"].min() < 0.05 < tests["p_holm"].min()
    assert judge(made)["C3"] == "not supported"


def test_numbers_of_a_cell_are_those_of_the_statistics():
    made = study(methods=[("kd", CLEAR), ("at", NONE)])
    cell = verdicts.cells(verdicts.tests(made)).query("claim == 'C4' and method == 'kd'").iloc[0]
    saved = depth.saved(made).query("method == 'kd'")["difference"]
    assert cell["mean"] == pytest.approx(saved.mean())
    assert cell["d"] == pytest.approx(saved.mean() / saved.std())
    assert cell["n"] == 5


def test_lower_is_better_turns_the_whole_interval():
    tests = verdicts.tests(study()).query("claim == 'C3'").set_index(["measure", "layer"])
    share, other = tests.loc[("within_share", "block1")], tests.loc[("silhouette", "block1")]
    for number in ("mean", "low", "high", "d"):
        assert share[number] == pytest.approx(other[number])
    assert share["low"] < share["mean"] < share["high"]


def test_equal_differences_speak_against_a_claim_and_never_for_it():
    for effect, speaks in ((CLEAR, 0), (REVERSED, -1)):
        made = study(methods=[("kd", NONE)])
        values = made.measures
        kd = values["run"].str.contains("-kd-")
        baseline = values.loc[values["run"].str.contains("-baseline-"), "value"].to_numpy()
        values.loc[kd, "value"] = baseline + effect * values.loc[kd, "measure"].map(SIGN)
        tests = verdicts.tests(made).query("claim == 'C3'")
        assert (tests["speaks"] == speaks).all()
        assert tests["p"].isna().all()


def test_a_student_beyond_a_tenth_of_its_teacher_is_no_test_of_size():
    made = study()
    large = made.runs.assign(parameters=100)
    assert judge(made._replace(runs=large))["C1"] == "no data"


def test_one_teacher_of_many_students_is_one_experiment():
    made = study(regime="limited")
    runs = made.runs.replace({"teacher": r"/2-\d"}, {"teacher": "/2-0"}, regex=True)
    made = made._replace(runs=runs)
    cell = verdicts.cells(verdicts.tests(made)).set_index("claim").loc["C2"]
    assert (cell["n"], cell["verdict"]) == (1, "too few seeds")


def test_a_method_without_a_teacher_counts_once_and_has_none_to_come_closer_to():
    made = study(methods=[("kd", CLEAR), ("dml", CLEAR), ("at", CLEAR)])
    runs = made.runs
    runs.loc[runs["method"] == "dml", ["teacher", "teacher_network", "regime"]] = ""
    runs.loc[runs["method"] == "at", "regime"] = "limited"
    cells = verdicts.cells(verdicts.tests(made))
    cells = cells[cells["method"] == "dml"]
    assert set(cells["claim"]) == {"C3", "C4", "C5"}
    assert set(cells["teacher"]) == {"full"}


def test_a_teacher_of_other_labels_is_not_outdone():
    made = study(labels=("2",), regime="limited")
    students = made.runs["role"] == "student"
    made.runs.loc[students, "labels"] = "5"
    assert judge(made)["C2"] == "no data"


def test_maps_are_judged_beside_their_layers():
    cells = verdicts.cells(verdicts.tests(study())).query("claim == 'C5'")
    assert set(cells["space"]) == {"layers", "tsne", "ivis"}
    without = study()._replace(faithfulness=study().faithfulness.head(0))
    assert set(verdicts.tests(without).query("claim == 'C5'")["space"]) == {"layers"}


def test_what_is_asked_of_layers_is_asked_in_both_views():
    clear, none = study(), study(methods=[("kd", NONE)])
    cells = verdicts.cells(verdicts.tests(clear, none))
    spaces = cells.groupby("claim")["space"].agg(set).to_dict()
    both = {verdicts.LAYERS, verdicts.FLAT}
    assert spaces["C1"] == {verdicts.LAYERS}
    assert spaces["C3"] == spaces["C4"] == both
    assert spaces["C5"] == both | {"tsne", "ivis"}
    words = verdicts.claims(cells).set_index("claim")["verdict"]
    assert words[["C3", "C4", "C5"]].tolist() == ["mixed", "mixed", "supported"]
    assert verdicts.views(cells, "C4") == "layers 1 of 1, flat layers 0 of 1"
    alike = verdicts.claims(verdicts.cells(verdicts.tests(clear, clear))).set_index("claim")
    assert alike.loc["C4", ["verdict", "supported", "cells"]].tolist() == ["supported", 2, 2]


def test_results_with_nothing_beside_baseline_are_no_data():
    made = study(methods=())
    assert set(judge(made).values()) == {"no data"}
    assert verdicts.control(made).empty


def test_any_results_can_be_judged():
    for seeds in (1, 3):
        made = invented.make(n=20, seeds=seeds, networks=("resnet8", "resnet14"))
        words = judge(made)
        assert list(words) == list(verdicts.CLAIMS)
        assert words["C2"] == "no data"
        assert len(verdicts.control(made)) == 2 * 3 * 3


def test_a_study_that_never_looked_into_layers_has_its_accuracies_judged():
    made = study(regime="limited")
    made = made._replace(measures=made.measures.head(0), faithfulness=made.faithfulness.head(0))
    assert judge(made) == dict.fromkeys(verdicts.CLAIMS, "no data") | {"C2": "supported"}
    assert verdicts.control(made).empty


def accurate(method, labels, scores):
    """A study whose test accuracies are given, budget by budget."""
    made = study(methods=[(method, CLEAR)], labels=labels)
    for budget, score in scores.items():
        made.runs.loc[made.runs["run"].str.contains(f"-baseline-{budget}-"), "test_accuracy"] = (
            score
        )
    return made


def test_the_control_judges_compactness_beside_a_student_as_accurate():
    made = accurate("kd", ("2", "5"), {"5": 0.95})
    control = verdicts.control(made).set_index("labels")
    table = control[["seeds", "budgets", "verdict"]]
    assert table.loc["2"].to_list() == ["5 of 5", "5", "supported"]
    assert table.loc["5"].to_list() == ["0 of 5", "", "no such student"]


def test_the_control_can_take_the_compactness_away():
    made = accurate("kd", ("2", "5"), {"5": 0.95})
    rich = made.measures["run"].str.contains("-baseline-5-")
    gain = CLEAR * made.measures["measure"].map(SIGN)
    made.measures.loc[rich, "value"] += gain[rich]
    assert verdicts.control(made).iloc[0]["verdict"] == "not supported"
    assert judge(made)["C3"] != "not supported"


def test_the_rule_names_every_word_it_uses():
    for words in (*verdicts.WORDS.values(), verdicts.UNDECIDED):
        for word in words:
            assert f"*{word}*" in " ".join(verdicts.RULE.split())


def test_the_chapter_quotes_the_rule_and_has_every_figure():
    chapter = (ROOT / "book/verdicts.md").read_text()
    assert "findings.verdicts.rule()" in chapter
    for claim in verdicts.CLAIMS.values():
        page, anchor = claim.figure.split("#")
        assert page == "verdicts.html"
        assert f"({anchor})=" in chapter
