import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results as invented

from kdlib import store
from kdlib.measure import depth, verdicts
from kdlib.measure.verdicts import FLAT, LAYERS, Study

ROOT = Path(__file__).parents[1]
NAMES = ("stem", "block1", "block2", "block3", "pool", "logits")
WOBBLE = (0.02, -0.02, 0.01, -0.01, 0.0)  # what a seed adds; sums to 0
RISE = np.array([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])  # of every measure of the baseline, layer by layer
SIGN = {"within_rms": -1, "silhouette": 1, "probe": 1}
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
                of = zip(NAMES, RISE + sign * gain + more, strict=True)
                values += [(run, layer, measure, value) for layer, value in of]
    measures = pd.DataFrame(values, columns=["run", "layer", "measure", "value"])
    maps = measures.assign(measure="map_" + measures["measure"])
    return NOTHING._replace(
        runs=invented.table_of_runs(runs),
        measures=measures,
        faithfulness=pd.concat([maps.assign(embedding=e) for e in ("tsne", "ivis")]),
    )


def cells_of(results, flat=None):
    return verdicts.cells(verdicts.differences(results, flat))


def judge(results):
    """The verdict of every claim."""
    table = verdicts.overview({"made": [Study(results)]})
    assert len(table) == len(verdicts.CLAIMS)
    return table.set_index("claim")["verdict"].to_dict()


def differences(values, claim="C3", possible=np.nan):
    """Differences of one cell: {method: one per seed}."""
    rows = [
        (claim, "resnet8", "full", "2", LAYERS, method, seed, value, possible)
        for method, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return pd.DataFrame(rows, columns=verdicts.DIFFERENCES)


def cell_of(values, claim="C3", possible=np.nan):
    return verdicts.cells(differences(values, claim, possible)).iloc[0]


def around(mean, spread=0.02, seeds=5):
    """Differences of some seeds, with this mean."""
    wobble = np.array([2.0, -2, 1, -1, 0])[:seeds]
    return list(mean + spread * (wobble - wobble.mean()))


# ---- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regime", "seeds", "effect", "word"),
    [
        ("full", 5, CLEAR, "holds"),
        ("full", 5, NONE, "does not show"),
        ("full", 5, REVERSED, "reverses"),
        ("full", 4, CLEAR, "consistent with the claim"),
        ("full", 3, CLEAR, "consistent with the claim"),
        ("full", 3, REVERSED, "consistent with the opposite"),
        ("full", 3, NONE, "does not show"),
        ("full", 2, CLEAR, "too few seeds"),
        ("full", 1, CLEAR, "too few seeds"),
        ("limited", 5, CLEAR, "holds"),
        ("limited", 5, REVERSED, "reverses"),
        ("limited", 4, CLEAR, "consistent with the claim"),
    ],
)
def test_every_claim_is_judged_by_its_data(regime, seeds, effect, word):
    words = judge(study(seeds, [("kd", effect)], regime=regime))
    missing = "C2" if regime == "full" else "C1"
    assert words == dict.fromkeys(verdicts.CLAIMS, word) | {missing: "not asked"}


@pytest.mark.parametrize(
    ("means", "word", "named"),
    [
        ((0.5, 0.5, 0.5, 0.5), "holds", "kd, at, fitnet, crd"),
        ((0.5, 0.5, 0.5, 0.0), "holds", "kd, at, fitnet"),  # three quarters agree
        ((0.5, 0.5, 0.0, 0.0), "holds for some", "kd, at"),  # half of them
        ((0.5, 0.5, 0.5, -0.1), "holds for some", "kd, at, fitnet"),  # one speaks against
        ((0.5, 0.0, 0.0, -0.5), "does not show", "kd"),  # a headline of 0, one by itself
        ((0.5, 0.0, -0.5, -0.5), "reverses", "kd"),
        ((0.0, 0.0, 0.0, 0.0), "does not show", ""),
        ((0.0, 0.0, 0.0, -0.5), "reverses", ""),
        ((0.1, -0.5, -0.5, -0.5), "reverses", "kd"),
    ],
)
def test_the_headline_and_the_votes_of_methods_give_the_word(means, word, named):
    values = dict(zip(("kd", "at", "fitnet", "crd"), map(around, means), strict=True))
    cell = cell_of(values)
    assert (cell["verdict"], cell["named"]) == (word, named)
    assert cell["agree"] == sum(mean > 0 for mean in means)
    assert cell["against"] == sum(mean < 0 for mean in means)
    assert cell["mean"] == pytest.approx(np.mean(means))


def test_three_and_four_seeds_have_words_of_their_own_for_some():
    word = cell_of({"kd": around(0.5, seeds=4), "at": around(0, seeds=4)})["verdict"]
    assert word == "consistent with the claim for some"


def test_methods_that_all_help_a_little_hold_together_and_none_by_itself():
    noise = [0.3, -0.3, 0.2, -0.2, 0.0]
    cell = cell_of({"kd": 0.1 + np.array(noise), "at": 0.1 - np.array(noise) + around(0, 1e-3)})
    assert (cell["verdict"], cell["agree"], cell["named"]) == ("holds for some", 0, "")
    assert cell["low"] > 0


def test_without_a_headline_a_method_is_named_only_after_holm():
    barely = around(0.05)
    alone = verdicts.methods(differences({"kd": barely})).iloc[0]
    assert 0.05 / 12 < alone["p"] < 0.05 / 2
    many = {f"m{i}": [10.0 * (-1) ** i * w for w in around(0, 1)] for i in range(11)}
    cell = cell_of({"kd": barely, **many})
    assert (cell["verdict"], cell["agreeing"], cell["named"]) == ("does not show", "kd", "")
    cell = cell_of({"kd": barely, **dict(list(many.items())[:1])})
    assert (cell["verdict"], cell["named"]) == ("does not show", "kd")


def test_some_never_hold_where_the_headline_is_not_above_zero():
    draw = np.random.default_rng(0)
    words = []
    for _ in range(60):
        means = draw.normal(0, 0.1, size=4)
        cell = cell_of({f"m{i}": list(draw.normal(mean, 0.05, 5)) for i, mean in enumerate(means)})
        words.append(cell["verdict"])
        if "holds" in cell["verdict"]:
            assert cell["low"] > 0
    assert {"holds for some", "does not show"} <= set(words)


@pytest.mark.parametrize(
    ("possible", "word", "high"),
    [
        (3.0, "holds", 2.2),
        (2.1, "holds", 2.1),
        (0.4, "cannot show", 0.4),
        (0.0, "cannot show", 0.0),
    ],
)
def test_no_more_layers_are_saved_than_can_be(possible, word, high):
    most = min(2.0, possible)
    cell = cell_of({"kd": around(most, 0.1 if possible else 0.0)}, "C4", possible)
    assert (cell["verdict"], cell["possible"]) == (word, possible)
    assert cell["high"] == pytest.approx(high, abs=0.01)
    assert cell["mean"] <= cell["high"]
    assert cell_of({"kd": [0.1]}, "C4", possible)["verdict"] == "too few seeds"
    assert cell_of({"kd": around(-1.0, 0.1)}, "C4", possible)["verdict"] == "reverses"


def test_what_can_be_saved_is_what_the_baseline_needs():
    made = study()
    cells = cells_of(made).set_index("claim")
    saved = depth.saved(made).query("method == 'kd'")["baseline"]
    assert cells["possible"].notna().groupby("claim").any().to_dict() == {
        claim: claim == "C4" for claim in ("C1", "C3", "C4", "C5")
    }
    assert cells.loc["C4", "possible"] == pytest.approx(saved.mean())
    first = np.where(np.array(NAMES) == "stem", 1.0, 0.0)  # as good as the last, and better
    flat = made.measures["measure"].eq("probe")
    value = made.measures["value"] + flat * np.resize(first, len(made.measures))
    nothing = made._replace(measures=made.measures.assign(value=value))
    assert judge(nothing)["C4"] == "cannot show"


def test_the_headline_is_over_seeds_of_means_over_methods():
    one, other = [1.0, 2, 3, 4, 5], [3.0, 0, 1, 2, 1]
    cell = cell_of({"kd": one, "at": other})
    seeds = np.mean([one, other], axis=0)
    half = 2.7764451 * seeds.std(ddof=1) / 5**0.5  # the 97.5 % point of t with 4 degrees
    assert cell[["mean", "low", "high", "n"]].tolist() == pytest.approx(
        [seeds.mean(), seeds.mean() - half, seeds.mean() + half, 5]
    )


def test_a_seed_that_lacks_a_method_is_left_out_of_the_headline():
    cell = cell_of({"kd": around(0.5), "at": around(0.3, seeds=3)})
    assert (cell["n"], cell["verdict"]) == (3, "consistent with the claim")
    apart = differences({"kd": around(0.5), "at": around(0.3)})
    apart.loc[apart["method"] == "at", "seed"] += 10
    assert verdicts.cells(apart).iloc[0][["n", "verdict"]].tolist() == [0, "too few seeds"]


def test_one_seed_has_a_mean_and_never_an_interval():
    cell = cell_of({"kd": [0.5], "at": [0.3]})
    assert cell["mean"] == pytest.approx(0.4)
    assert cell[["low", "high", "p"]].isna().all()
    assert cell["verdict"] == "too few seeds"


def test_equal_differences_speak_against_a_claim_and_never_for_it():
    assert cell_of({"kd": [0.5] * 5})["verdict"] == "does not show"
    assert cell_of({"kd": [-0.5] * 5})["verdict"] == "reverses"


def test_without_an_effect_one_headline_in_twenty_excludes_zero():
    draw = np.random.default_rng(0)
    cells, seeds, methods = 1000, 5, 3
    shared = draw.normal(size=(cells, 1, seeds))  # methods of one seed share their baseline
    value = shared + 0.7 * draw.normal(size=(cells, methods, seeds))
    cell, method, seed = np.indices(value.shape)
    table = pd.DataFrame(
        {
            **{"claim": "C3", "teacher": "full", "labels": "2", "space": LAYERS},
            "possible": np.nan,
            **{"network": cell.ravel(), "method": method.ravel().astype(str)},
            **{"seed": seed.ravel(), "difference": value.ravel()},
        }
    )
    judged = verdicts.cells(table)
    wrong = ((judged["low"] > 0) | (judged["high"] < 0)).mean()
    assert wrong == pytest.approx(0.05, abs=0.02)  # three standard errors
    words = judged["verdict"].value_counts(normalize=True)
    assert words["reverses"] < 0.04
    assert words.get("holds", 0) < 0.025
    assert words.get("holds", 0) + words.get("holds for some", 0) < 0.06


# ---- equivalence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "equal"),
    [
        (around(0.1, 0.2), True),  # an interval well within a point
        (around(0.1, 2.0), False),  # not told apart, and not shown to be equal
        (around(0.9, 0.2), False),  # too close to the margin
        (around(0.1, 0.2, seeds=4), False),  # four seeds
        ([0.1], False),
    ],
)
def test_no_different_needs_a_test_of_equivalence_and_five_seeds(values, equal):
    cells = verdicts.cells(differences({"kd": values}, "C2"))
    assert verdicts.no_different(cells).tolist() == [equal]


def test_only_points_of_accuracy_have_a_margin():
    cells = verdicts.cells(differences({"kd": around(0.0001, 1e-5)}, "C3"))
    assert cells["p_equal"].isna().all()
    assert not verdicts.no_different(cells).any()


# ---- what is compared --------------------------------------------------------------------------


def test_controls_are_no_methods():
    table = verdicts.differences(study())
    assert set(table["method"]) == {"kd"}


def test_only_the_last_layers_more_compact_shows_nothing():
    late = np.where(np.isin(NAMES, ("block3", "pool", "logits")), 0.2, 0)
    made = study(methods=[("kd", NONE)], effects={"within_rms": -late, "silhouette": late})
    assert judge(made)["C3"] == judge(made)["C5"] == "does not show"


def test_compactness_is_the_mean_of_two_layers_with_its_sign_turned():
    one = np.where(np.array(NAMES) == "block1", -0.2, 0)
    made = study(methods=[("kd", NONE)], effects={"within_rms": one})
    cell = cells_of(made).set_index(["claim", "space"]).loc[("C3", LAYERS)]
    assert cell["mean"] == pytest.approx(0.1)
    assert cell["low"] < cell["mean"] < cell["high"]


def test_accuracy_is_in_points_and_depth_in_layers():
    made = study(methods=[("kd", CLEAR)])
    cells = cells_of(made).set_index(["claim", "space"])["mean"]
    assert cells["C1", LAYERS] == pytest.approx(20)
    saved = depth.saved(made).query("method == 'kd'")["difference"]
    assert cells["C4", LAYERS] == pytest.approx(saved.mean())


def test_a_student_beyond_its_teacher_has_no_distance_left():
    made = study(methods=[("kd", 0.45)])
    cell = cells_of(made).query("claim == 'C1'").iloc[0]
    assert cell["mean"] == pytest.approx(40)  # of 90 %, from 50 %


def test_a_student_beyond_a_tenth_of_its_teacher_is_no_test_of_size():
    made = study()
    large = made.runs.assign(parameters=100)
    assert judge(made._replace(runs=large))["C1"] == "no data"


def test_one_teacher_of_many_students_is_one_experiment():
    made = study(regime="limited")
    runs = made.runs.replace({"teacher": r"/2-\d"}, {"teacher": "/2-0"}, regex=True)
    cell = cells_of(made._replace(runs=runs)).set_index("claim").loc["C2"]
    assert (cell["n"], cell["verdict"]) == (1, "too few seeds")


def test_a_teacher_of_other_labels_is_not_outdone():
    made = study(labels=("2",), regime="limited")
    students = made.runs["role"] == "student"
    made.runs.loc[students, "labels"] = "5"
    assert judge(made)["C2"] == "no data"


def test_a_method_without_a_teacher_counts_once_and_has_none_to_come_closer_to():
    made = study(methods=[("kd", CLEAR), ("dml", CLEAR), ("at", CLEAR)])
    runs = made.runs
    runs.loc[runs["method"] == "dml", ["teacher", "teacher_network", "regime"]] = ""
    runs.loc[runs["method"] == "at", "regime"] = "limited"
    table = verdicts.differences(made)
    table = table[table["method"] == "dml"]
    assert set(table["claim"]) == {"C3", "C4", "C5"}
    assert set(table["teacher"]) == {"full"}


def test_teachers_are_told_apart_by_where_their_weights_began():
    one, other = study(regime="pretrained"), study(regime="pretrained", methods=[("kd", REVERSED)])
    runs = other.runs.replace({"run": "^", "teacher": "^(?=t)"}, "other/", regex=True)
    runs = pd.concat([one.runs.assign(weights="simclr"), runs.assign(weights="imagenet")])
    cells = cells_of(one._replace(runs=runs)).query("claim == 'C2'").set_index("teacher")
    assert cells["verdict"].to_dict() == {
        "pretrained (simclr)": "holds",
        "pretrained (imagenet)": "reverses",
    }
    for drawn in (None, "", "random"):
        plain = one._replace(runs=one.runs.assign(weights=drawn))
        assert set(cells_of(plain)["teacher"]) == {"pretrained"}


def test_maps_and_both_views_make_cells_beside_the_layers():
    clear, none = study(), study(methods=[("kd", NONE)])
    cells = cells_of(clear, none)
    spaces = cells.groupby("claim")["space"].agg(set).to_dict()
    assert spaces["C1"] == {LAYERS}
    assert spaces["C3"] == spaces["C4"] == {LAYERS, FLAT}
    assert spaces["C5"] == {LAYERS, FLAT, "tsne", "ivis"}
    words = cells.set_index(["claim", "space"])["verdict"]
    assert words["C4", LAYERS] == "holds"
    assert words["C4", FLAT] == "does not show"
    beside = verdicts.overview({"x": [Study(clear, none)]}).set_index("claim")["beside"]
    assert beside["C1"] == {}
    assert beside["C5"] == {FLAT: "does not show", "tsne": "holds", "ivis": "holds"}


def test_every_network_counts_as_a_method_where_the_claim_is_about_networks():
    one, other = study(), study(methods=[("kd", REVERSED)])
    renamed = {"resnet8": "vgg8"}
    runs = other.runs.replace({"network": renamed})
    runs["run"] = runs["run"].str.replace("resnet8", "vgg8")
    measures = other.measures.assign(run=other.measures["run"].str.replace("resnet8", "vgg8"))
    made = one._replace(
        runs=pd.concat([one.runs, runs[runs["role"] == "student"]]),
        measures=pd.concat([one.measures, measures]),
    )
    cells = cells_of(made)
    assert len(cells.query("claim == 'C3'")) == 2  # one for each network
    cell = cells.query("claim == 'C5' and space == 'layers'").iloc[0]
    assert (cell["network"], cell["methods"], cell["against"]) == ("2 networks", 2, 1)
    assert cell["agreeing"] == "kd (resnet8)"


def test_results_with_nothing_beside_baseline_are_no_data():
    made = study(methods=())
    assert cells_of(made).empty
    assert set(judge(made).values()) == {"no data"}
    assert verdicts.control(made).empty


def test_any_results_can_be_judged():
    for seeds in (1, 3):
        made = invented.make(n=20, seeds=seeds, networks=("resnet8", "resnet14"))
        table = verdicts.overview({"digits": [Study(made, made)]})
        assert len(table) == 5 * 3  # claims, label budgets
        assert set(table.query("claim == 'C2'")["verdict"]) == {"not asked"}


def test_a_study_that_never_looked_into_layers_has_its_accuracies_judged():
    made = study(regime="limited")
    made = made._replace(measures=made.measures.head(0), faithfulness=made.faithfulness.head(0))
    words = dict.fromkeys(verdicts.CLAIMS, "no data")
    assert judge(made) == words | {"C1": "not asked", "C2": "holds"}
    assert verdicts.control(made).empty


# ---- over data sets ----------------------------------------------------------------------------


def test_the_overview_has_every_claim_for_every_data_set_teacher_and_budget():
    full, limited = study(labels=("2", "all")), study(regime="limited")
    absent = Study(store.brief("none of this name"))
    data = {"digits": [Study(full), Study(limited)], "CIFAR-10": [absent], "CIFAR-100": []}
    table = verdicts.overview(data)
    assert len(table) == 5 * (3 + 1 + 1)
    words = table.set_index(["data", "claim", "teacher", "labels"])["verdict"]
    assert words["digits", "C1", "full", "2"] == "holds"
    assert words["digits", "C1", "full", "all"] == "holds"
    assert words["digits", "C2", "limited", "2"] == "holds"
    assert words["digits", "C1", "limited", "2"] == words["digits", "C2", "full", "2"]
    assert words["digits", "C1", "limited", "2"] == "not asked"
    assert set(words["CIFAR-10"]) == set(words["CIFAR-100"]) == {"no data"}
    assert verdicts.overview({}).empty


def test_of_two_studies_the_one_with_more_seeds_counts_and_then_the_first():
    few, many = study(3), study(methods=[("kd", REVERSED)])
    clear = study()
    for studies, word in (((few, many), "reverses"), ((clear, many), "holds")):
        table = verdicts.overview({"x": [Study(made) for made in studies]}).set_index("claim")
        assert table.loc["C3", "verdict"] == word


# ---- the control -------------------------------------------------------------------------------


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
    assert table.loc["2"].to_list() == ["5 of 5", "5", "holds"]
    assert table.loc["5"].to_list() == ["0 of 5", "", "no such student"]


def test_the_control_can_take_the_compactness_away():
    made = accurate("kd", ("2", "5"), {"5": 0.95})
    rich = made.measures["run"].str.contains("-baseline-5-")
    gain = CLEAR * made.measures["measure"].map(SIGN)
    made.measures.loc[rich, "value"] += gain[rich]
    assert verdicts.control(made).iloc[0]["verdict"] == "does not show"
    cells = cells_of(made).query("claim == 'C3' and labels == '2'")
    assert cells.iloc[0]["verdict"] == "holds"


# ---- words on pages ----------------------------------------------------------------------------


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
