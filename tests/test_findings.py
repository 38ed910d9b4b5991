"""What chapters state is what the tables hold, in any study that they may be given."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import results as invented
from IPython.display import HTML, Markdown

from kdlib import distill, models, store
from kdlib.measure import standings
from kdlib.report import findings, tables
from kdlib.report.findings.words import architecture, counts, interval, main_method

SIZES = {"train_images": 100, "test_images": 50, "sample": 30, "data": "01", "code": "23"}


@pytest.fixture(scope="module")
def study():
    """An invented study of five methods, three seeds, and maps."""
    made = invented.make(n=60)
    return made._replace(study=made.study | SIZES | {"versions": {"python": "3"}})


@pytest.fixture(scope="module")
def judged(study):
    return findings.verdicts.Judged(study, study, store.brief("none of this name"))


def gallery(**accuracies):
    """A study of accuracies only: a list over seeds for each method, at two labels per class."""
    rows = [
        {"run": f"{method}-{seed}", "method": method, "seed": seed, "test_accuracy": accuracy}
        | ({} if method == "baseline" else {"teacher_network": "resnet20", "regime": "full"})
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return store.brief("none of this name")._replace(runs=invented.table_of_runs(rows))


NOTHING = {"baseline": [0.5, 0.6, 0.7], "kd": [0.8, 0.9, 1.0]}


# ---- numbers in words --------------------------------------------------------------------------


def test_an_interval_is_written_where_there_is_one():
    assert interval((0.1, 0.05, 0.15)) == "+10.0 [+5.0, +15.0]"
    assert interval((0.1, math.nan, math.nan)) == "+10.0"
    assert interval((2.0, 1.0, 3.0), ".2f", scale=1.0) == "2.00 [1.00, 3.00]"


def test_a_mean_that_rounds_to_nothing_has_no_minus():
    assert interval((-0.0001, math.nan, math.nan)) == "+0.0"


def test_numbers_of_seeds_are_listed_once():
    assert counts([5, 3, 5]) == "3 or 5"
    assert counts([1, 4, 5]) == "1, 4 or 5"
    assert counts([1, 2, 4, 5]) == "1 to 5"
    assert counts([]) == "no"


def test_kd_is_quoted_where_it_was_run():
    assert main_method(["at", "kd", "baseline"]) == "kd"
    assert main_method(["at", "baseline"]) == "at"
    assert main_method(["baseline"], otherwise="none") == "none"


def test_an_architecture_is_a_network_without_its_width():
    assert architecture("resnet8x0.5", 0.5) == "resnet8"
    assert architecture("resnet8", 1.0) == "resnet8"


# ---- any study can be stated -------------------------------------------------------------------


def stated(study, judged):
    """The facts of all chapters of a study."""
    constants = tables.constants(distill.CLASSES["kd"])
    yield findings.index.facts(study)
    yield findings.distillation.facts(study, constants)
    yield findings.regimes.facts(study)
    yield findings.regimes.Outperformed(study).facts(study)
    yield findings.labels.facts(study)
    yield findings.layers.facts(study)
    yield findings.measures.facts(study)
    yield judged.facts()
    yield findings.methods.facts(study, {})
    yield findings.architectures.facts(study)
    yield findings.controls.Controls(study).facts()
    yield findings.misreading.facts(study)
    yield findings.training.Followed(study).facts()
    yield findings.status.facts(study)


MAY_BE_EMPTY = {
    "borrowed",
    "error",
    "beyond",
    "best",
    "surest",
    "winner",
    "depth",
    "other",
    "planned",
}


def test_no_fact_is_missing_or_not_a_number(study, judged):
    for facts in stated(study, judged):
        for name, fact in facts.items():
            words = str(getattr(fact, "data", fact))
            assert "nan" not in words.split(), name
            assert words or name in MAY_BE_EMPTY, name


def test_a_gallery_that_was_not_run_states_so():
    absent = store.brief("none of this name")
    controls = findings.controls.Controls(absent)
    outperformed = findings.regimes.Outperformed(absent)
    for output in (
        controls.figure(),
        controls.table(),
        controls.conclusions(),
        outperformed.accuracies(),
        outperformed.forest(),
        findings.architectures.figure(pd.DataFrame.copy, absent),
        findings.architectures.by_method(absent),
        findings.architectures.shares(absent),
        findings.architectures.refused_table({}),
        findings.methods.figure(pd.DataFrame.copy, absent),
        findings.distillation.dark_table(absent),
        findings.distillation.dark_verdict(absent),
    ):
        assert isinstance(output, Markdown)
    for facts in (
        controls.facts(),
        outperformed.facts(absent),
        findings.architectures.facts(absent),
        findings.methods.facts(absent, {}),
    ):
        assert "nan" not in " ".join(str(getattr(f, "data", f)) for f in facts.values()).split()
    assert "Not run" in findings.methods.by_budget(absent).data


# ---- one seed, one budget, and a published teacher ---------------------------------------------


@pytest.fixture(scope="module")
def single():
    """An invented study of one seed and one budget of labels, whose teacher was published."""
    made = invented.make(n=60, seeds=1, labels=("2",))
    settings = {"settings": {"teacher": {"epochs": "0", "weights": "4bfd9763"}}}
    runs = made.runs.copy()
    runs.loc[runs["regime"] == "full", "weights"] = "4bfd9763"
    facts = made.study | SIZES | {"versions": {"python": "3"}} | settings
    return made._replace(study=facts, runs=runs)


def test_one_seed_is_stated_without_an_interval_or_a_verdict(single):
    judged = findings.verdicts.Judged(single, single, store.brief("none of this name"))
    for facts in stated(single, judged):
        for name, fact in facts.items():
            words = str(getattr(fact, "data", fact))
            assert "1 seeds" not in words, name
            assert "nan" not in words.split(), name
            assert "not clearly" not in words, name
            assert " beat " not in words, name


def test_one_seed_is_judged_on_no_claim_of_the_first_page(single):
    facts = findings.index.facts(single)
    for claim in ("compact", "earlier"):
        assert "too few seeds" in facts[claim].data
    assert facts["baseline"].endswith("% (one seed)")
    assert "no interval" in facts["certain"]


def test_a_published_teacher_was_not_trained_here(single, study):
    assert "by its publisher" in findings.index.facts(single)["learnt"]
    assert findings.index.facts(study)["learnt"] == "was trained on every label"
    assert "publisher" in findings.labels.facts(single)["expensive"].data
    assert "all 100 training images" in findings.labels.facts(study)["expensive"].data
    assert "was not trained" in findings.status.seconds(single).data
    assert "was not trained" not in findings.status.seconds(study).data


def test_controls_of_one_seed_judge_nothing():
    one = {"baseline": [0.4], "kd": [0.9], "pseudo": [0.8], "shuffled": [0.85]}
    controls = findings.controls.Controls(gallery(**one))
    assert controls.heading() == "One seed of each control: nothing is judged yet"
    assert controls.conclusions().data.startswith("Nothing yet")
    assert "not told apart" not in controls.table().data
    assert not controls.never_below("shuffled")
    assert "nothing is judged" in findings.distillation.dark_verdict(gallery(**one)).data
    assert "not judged" in findings.methods.by_budget(gallery(**one)).data
    assert findings.methods.facts(gallery(**one), {})["helps"].startswith("one seed")


def test_softness_is_no_evidence_of_the_order_of_wrong_classes():
    base = {"baseline": [0.4, 0.41, 0.42], "kd": [0.9, 0.91, 0.92]}
    hard = {"pseudo": [0.8, 0.81, 0.821]}
    only = gallery(**base, **hard, shuffled=[0.9, 0.92, 0.91])
    assert "is not shown" in findings.distillation.dark_verdict(only).data
    both = gallery(**base, **hard, shuffled=[0.8, 0.82, 0.81])
    assert "`shuffled` and `pseudo`" in findings.distillation.dark_verdict(both).data
    neither = gallery(**base, pseudo=[0.9, 0.92, 0.91], shuffled=[0.9, 0.92, 0.91])
    assert "**no evidence" in findings.distillation.dark_verdict(neither).data


def test_a_baseline_of_one_budget_reaches_no_method(single):
    worth = findings.labels.facts(single)["worth"].data
    assert worth.endswith(": even 2, the most tried, are not enough (n = 1)")
    assert "; " not in worth


def test_the_status_has_the_devices_that_trained_the_runs(single):
    assert isinstance(findings.status.provenance(single), Markdown)
    given = {"commit": {"abc": 3}, "code": {"12": 3}, "device": {"a GPU": 1, "": 2}, "hours": 1.5}
    known = single._replace(study=single.study | {"provenance": given})
    table = findings.status.provenance(known).data
    for words in ("abc", "a GPU", "1.5"):
        assert words in table


def test_the_page_on_misreading_names_the_engine_of_its_maps(single):
    assert findings.misreading.engine(single) == "our own engine"
    package = single.faithfulness.assign(engine="ivis 2.0.11")
    assert findings.misreading.engine(single._replace(faithfulness=package)) == "the package"


def test_teachers_have_their_calibration_error(single):
    table = findings.regimes.teachers(single, store.brief("none of this name")).data
    assert "<td>10.0</td>" in table
    twice = findings.regimes.teachers(single, single).data  # a study that lends to itself
    assert twice == table
    unknown = single._replace(runs=single.runs.assign(calibration_error=None))
    assert "<td>–</td>" in findings.regimes.teachers(unknown).data


def erring(seeds):
    """A study of a teacher with few labels, and of one with all."""
    teachers = {"t": ("full", 1.0), "l": ("limited", 0.5)}
    rows = [
        {"role": "teacher", "run": run, "network": "resnet20", "regime": regime}
        | {"method": "baseline", "labels": "2", "test_accuracy": accuracy}
        for run, (regime, accuracy) in teachers.items()
    ]
    reached = {"kd": (0.9, 0.6), "pseudo": (0.8, 0.7), "baseline": (0.4, 0.4)}
    for method, accuracies in reached.items():
        for (run, (regime, _)), accuracy in zip(teachers.items(), accuracies, strict=True):
            taught = {"teacher": run, "teacher_network": "resnet20", "regime": regime}
            for seed in range(seeds):
                same = {"run": f"{method}{run}{seed}", "method": method, "seed": seed}
                own = {} if method == "baseline" else taught
                rows.append(same | own | {"test_accuracy": accuracy + seed / 100})
    return store.brief("none of this name")._replace(runs=invented.table_of_runs(rows))


def test_teachers_that_were_run_at_other_budgets_and_networks_break_nothing():
    made = erring(3)
    more = made.runs[made.runs["role"] == "student"]
    more = more.assign(labels="1", run="o-" + more["run"], network="resnet14")
    more = more[more["regime"] != "full"]
    first = made._replace(runs=pd.concat([more, made.runs], ignore_index=True))
    both = more.assign(regime=more["regime"].replace("limited", "pretrained"))
    other = made._replace(runs=pd.concat([both, made.runs], ignore_index=True))
    for study in (first, other):
        assert (
            "`kd` minus `pseudo`"
            in findings.regimes.Outperformed(study).facts(study)["erring"].data
        )
    words = findings.regimes._of_regime(first, "limited", "2", "A teacher")
    assert "`kd` 61.0 %, `pseudo` 71.0 %" in words


def test_the_worst_calibrated_kind_of_teacher_is_named_once_with_its_number():
    made = erring(1)
    worse = made.runs["regime"].eq("limited") & made.runs["role"].eq("teacher")
    made = made._replace(
        runs=made.runs.assign(calibration_error=made.runs["calibration_error"].mask(worse, 0.5))
    )
    surest = findings.regimes._surest(made, made)
    assert surest.endswith("it is largest for `limited`, 50 points (n = 1).")
    assert findings.regimes._surest(pairs_of()) == ""


def test_a_flat_probe_is_named_and_other_networks_do_not_count(study):
    probe = study.measures["measure"].eq("probe")
    baseline = study.measures["run"].str.contains("-baseline-")
    value = study.measures["value"].mask(probe & baseline, 0.5)
    flat = study._replace(measures=study.measures.assign(value=value))
    words = findings.measures.facts(flat)["depth"].data
    assert words.startswith("The baseline's probe goes from 0.50 at the stem to 0.50 at the logits")
    assert words.endswith("nearly flat line.")
    few = flat.runs[flat.runs["role"].eq("student") & flat.runs["seed"].eq(0)]
    wide = few.assign(network="resnet8", run="w-" + few["run"])
    own = flat.measures[flat.measures["run"].isin(few["run"])]
    more = own.assign(run="w-" + own["run"], value=9.0)
    mixed = flat._replace(
        runs=pd.concat([flat.runs, wide]), measures=pd.concat([flat.measures, more])
    )
    assert findings.measures.facts(mixed)["depth"].data == words


def test_kd_and_pseudo_of_a_teacher_that_errs_stand_beside_those_of_one_that_does_not():
    several, one = erring(3), erring(1)
    words = findings.regimes.Outperformed(several).facts(several)["erring"].data
    assert "few labels as its students** (`resnet20`) predicts the right class for 50.0 %" in words
    assert "`kd` 61.0 %, `pseudo` 71.0 %. `kd` minus `pseudo`: -10.0 [-10.0, -10.0]" in words
    assert "`kd` minus `pseudo`: +10.0 [+10.0, +10.0] points (3 seeds)" in words
    words = findings.regimes.Outperformed(one).facts(one)["erring"].data
    assert words.count("one seed: no verdict") == 2
    assert "[" not in words
    full = one.runs[one.runs["regime"] != "limited"]
    none = findings.regimes.Outperformed(one._replace(runs=full))
    assert not none.erring
    assert "is open here" in none.facts(one)["erring"].data


def test_the_first_page_states_what_a_teacher_with_few_labels_gives():
    words = findings.regimes.Outperformed(erring(3)).short().data
    assert "One trained on as few labels as its students, 2 per class, classifies 50.0 %" in words
    assert "its student by `kd` 61.0 %, and the baseline 41.0 % (3 seeds)" in words
    whole = erring(1)
    whole = whole._replace(runs=whole.runs[whole.runs["regime"] != "limited"])
    assert "No student" in findings.regimes.Outperformed(whole).short().data


def test_the_first_page_is_about_the_students_of_one_kind_of_teacher(study):
    before = findings.index.facts(study)
    kd = study.runs.query("role == 'student' and method == 'kd'")
    limited = kd.assign(run=kd["run"] + "-l", teacher="few", regime="limited", test_accuracy=0.0)
    few = study.runs.query("role == 'teacher'").iloc[[0]]
    few = few.assign(run="few", regime="limited", test_accuracy=0.0)
    both = study._replace(runs=pd.concat([few, limited, study.runs], ignore_index=True))
    after = findings.index.facts(both)
    assert {key: after[key] for key in ("distilled", "teacher", "taught")} == {
        key: before[key] for key in ("distilled", "teacher", "taught")
    }
    assert "every label" in after["taught"]


def test_what_a_teacher_is_right_about_of_its_students_images_is_stated(study):
    constants = {"temperature": 4.0, "label_weight": 0.1, "weight": 0.9}
    words = [
        findings.distillation.facts(
            study._replace(runs=study.runs.assign(train_accuracy=right)), constants
        )["error"]
        for right in (0.98, float("nan"))
    ]
    assert "98.0 % of the images that its students learn from" in words[0]
    assert "learn from" not in words[1]


def test_a_claim_that_no_teacher_was_asked_is_not_without_data(single):
    judged = findings.verdicts.Judged(single, single, store.brief("none of this name"))
    assert "not asked" in judged.facts()["C2"].data
    assert "used as published" in findings.verdicts.overview(single, single).data


# ---- accuracies --------------------------------------------------------------------------------


def test_labels_are_worth_what_the_baseline_needs_for_the_same_accuracy(study):
    rows = study.runs.copy()
    of = rows["method"].eq("baseline") & rows["role"].eq("student")
    rows.loc[of, "test_accuracy"] = rows.loc[of, "labels"].map({"2": 0.3, "5": 0.6, "all": 0.9})
    rows.loc[rows["method"] == "kd", "test_accuracy"] = 0.5
    rows.loc[rows["method"] == "at", "test_accuracy"] = 0.8
    rows.loc[rows["method"] == "fitnet", "test_accuracy"] = 0.95
    worth = findings.labels.facts(study._replace(runs=rows))["worth"].data
    assert worth.startswith("`kd`: 5 (n = 3); `fitnet`: even all labels are not enough (n = 3); ")
    assert worth.endswith("; `at`: all labels (n = 3)")


def test_a_control_has_its_share_of_what_kd_adds():
    controls = findings.controls.Controls(gallery(**NOTHING, pseudo=[0.65, 0.75, 0.85]))
    assert controls.share("pseudo", "2") == "50 %"
    assert controls.share("shuffled", "2") == "–"
    worse = findings.controls.Controls(gallery(**NOTHING, pseudo=[0.4, 0.5, 0.6]))
    assert worse.share("pseudo", "2") == "– (below the baseline)"


def test_a_label_budget_of_one_seed_is_not_among_those_that_head_the_methods():
    made = gallery(**NOTHING, fitnet=[0.6, 0.71, 0.8])
    one = gallery(baseline=[0.9], kd=[0.8], fitnet=[0.8]).runs
    both = made.runs, one.assign(labels="all", run="all-" + one["run"])
    mixed = made._replace(runs=pd.concat(both, ignore_index=True))
    helps = findings.methods.facts(mixed, {})["helps"]
    assert helps == "2 of 2 methods beat the baseline with 2 labels per class"


def taught(made, **facts):
    """A study with a teacher of which these facts are known."""
    teacher = {"run": "teacher", "role": "teacher", "method": "baseline", "regime": "full"}
    row = invented.table_of_runs([teacher | {"test_accuracy": 0.9} | facts])
    return made._replace(runs=pd.concat([row, made.runs.astype(row.dtypes)], ignore_index=True))


def test_the_controls_state_what_the_teacher_knew_of_its_students_images():
    made = gallery(**NOTHING, pseudo=[0.79, 0.88, 0.98])
    whole = taught(made, train_accuracy=1.0, train_confidence=0.9992)
    part = taught(made, train_accuracy=0.98, train_confidence=0.97)
    errs = taught(made, train_accuracy=0.6, train_confidence=0.8, regime="limited")
    leaks = [
        findings.controls.Controls(each).facts()["leak"].data
        for each in (whole, part, taught(made), errs)
    ]
    assert "It gives 100.0 % of the training images of the students, with a mean" in leaks[0]
    assert "probability of 0.999 for the top class, and 90.0 % of the test images" in leaks[0]
    assert "each batch" not in leaks[0]
    assert "98.0 %" in leaks[1]
    assert "It gives 90.0 % of the test images their true label." in leaks[2]
    assert leaks[3].startswith("The teachers give 60.0 % of the training images")
    why = [findings.controls.Controls(each).why().data for each in (whole, taught(made), errs)]
    assert "true labels of all these images, and classifies 100.0 % of them correctly." in why[0]
    assert "true labels of all these images." in why[1]
    assert "true labels" not in why[2]


def test_hard_labels_that_fall_short_of_every_true_label_have_the_reason_beside_them():
    made = taught(gallery(**NOTHING, pseudo=[0.79, 0.88, 0.98]))
    every = [0.81, 0.9, 1.0]  # above, by an interval; then by a mean, one seed, and below
    for scores, behind in (
        (every, True),
        ([0.9, 0.88, 0.88], False),
        ([1.0], False),
        ([0.7, 0.8, 0.9], False),
    ):
        many = gallery(baseline=scores).runs
        runs = pd.concat([made.runs, many.assign(labels="all", run="all-" + many["run"])])
        leak = findings.controls.Controls(made._replace(runs=runs.reset_index(drop=True))).facts()
        assert ("images are part of each batch of `pseudo`" in leak["leak"].data) is behind
        assert ("points (n = 3): perhaps" in leak["leak"].data) is behind


def test_the_baseline_with_every_label_stands_beside_the_gain():
    made = taught(gallery(**NOTHING, pseudo=[0.79, 0.88, 0.98]))
    assert "All true labels" not in findings.controls.Controls(made).why().data
    many = gallery(baseline=[0.7, 0.8, 0.9]).runs
    every = made.runs, many.assign(labels="all", run="all-" + many["run"])
    with_all = made._replace(runs=pd.concat(every, ignore_index=True))
    words = findings.controls.Controls(with_all).why().data
    assert "network to 80.0 % (3 seeds); `kd` with 2 labels per class reaches 90.0 %" in words
    assert "All true labels" not in findings.controls.Controls(with_all).short().data


def test_the_heading_of_the_controls_has_their_shares():
    worse = {"pseudo": [0.65, 0.75, 0.85], "shuffled": [0.74, 0.841, 0.939]}
    heading = findings.controls.Controls(gallery(**NOTHING, **worse)).heading()
    assert "gives 50 % of the gain" in heading
    assert heading.endswith("20 %")


def test_a_control_below_the_baseline_has_no_share_of_the_gain():
    lost = [0.4, 0.51, 0.6]
    for controls in (
        {"pseudo": lost, "shuffled": [0.74, 0.841, 0.939]},
        {"pseudo": [0.65, 0.75, 0.85], "shuffled": lost},
        {"pseudo": lost, "shuffled": lost},
    ):
        made = findings.controls.Controls(gallery(**NOTHING, **controls))
        words = " ".join((made.heading(), made.short().data, made.conclusions().data))
        shares = [int(share) for share in re.findall(r"(-?\d+) %", words)]
        assert all(0 <= share <= 100 for share in shares), words
        assert "-10.0 of them" not in words
        assert "on average, below the baseline" in words
        assert "No control" not in words


def test_a_name_with_a_network_behind_it_is_explained_beside_the_controls():
    made = gallery(**NOTHING)
    assert findings.controls.Controls(made).facts()["other"].data == ""
    larger = gallery(baseline=[0.6, 0.7], self=[0.8, 0.9]).runs.assign(network="resnet20")
    runs = pd.concat([made.runs, larger.assign(run="l-" + larger["run"])], ignore_index=True)
    words = findings.controls.Controls(made._replace(runs=runs)).facts()["other"].data
    assert words.startswith("A name with a network behind it")


def test_the_layers_of_a_control_are_compared_with_those_of_kd():
    made = invented.make(n=30)
    runs = made.runs.assign(method=made.runs["method"].replace("at", "pseudo"))
    study = made._replace(runs=runs)
    row = findings.controls.compactness(study).set_index("method").loc["pseudo"]
    values = made.measures.query("measure == 'within_share' and layer == 'block2'")
    few = made.runs.query("labels == '2'").merge(values, on="run")
    means = few.groupby("method")["value"].mean()
    assert row["mean"] == pytest.approx(means["at"] - means["kd"])
    assert "`pseudo` minus `kd`" in findings.controls.compact(study).data
    assert "did not measure" in findings.controls.compact(made).data
    assert isinstance(findings.controls.layers(study), HTML)


def test_a_control_that_loses_nothing_is_never_below_kd():
    same = findings.controls.Controls(gallery(**NOTHING, shuffled=[0.81, 0.89, 1.0]))
    worse = findings.controls.Controls(gallery(**NOTHING, shuffled=[0.6, 0.71, 0.8]))
    absent = findings.controls.Controls(gallery(**NOTHING))
    assert same.never_below("shuffled")
    assert not worse.never_below("shuffled")
    assert not absent.never_below("shuffled")
    assert len({c.heading() for c in (same, worse, absent)}) == 3


@pytest.mark.parametrize(
    ("gains", "as_good", "word"),
    [
        ((0.001, -0.001, 0.002, -0.002, 0.0), True, "no different from kd"),
        ((0.001, -0.001, 0.002), False, "not told apart"),  # three seeds are too few
        ((0.04, -0.04, 0.02, -0.02, 0.0), False, "not told apart"),
        ((-0.04, -0.04, -0.05, -0.05, -0.05), False, "below kd"),
        ((0.04, 0.04, 0.05, 0.05, 0.05), True, "above kd"),
    ],
)
def test_a_control_is_as_good_as_kd_only_by_a_test(gains, as_good, word):
    kd = [0.8 + 0.01 * seed for seed in range(len(gains))]
    made = gallery(
        baseline=[accuracy - 0.3 for accuracy in kd],
        kd=kd,
        pseudo=[accuracy + gain for accuracy, gain in zip(kd, gains, strict=True)],
    )
    controls = findings.controls.Controls(made)
    assert controls.against_kd("pseudo", "2") == word
    assert controls.as_good("pseudo") is as_good
    assert ("no soft label is needed" in controls.conclusions().data) is as_good
    assert not controls.as_good("shuffled")  # not run


def test_the_short_answer_states_the_shares_of_the_controls():
    low, high = [0.5, 0.6, 0.7], [0.8, 0.9, 1.0]
    most = {"pseudo": [0.79, 0.88, 0.98], "shuffled": high}
    part = {"pseudo": [0.6, 0.7, 0.8]}
    short = [
        findings.controls.Controls(gallery(baseline=low, kd=high, **more)).short().data
        for more in (most, part, {})
    ]
    assert all("adds +30.0" in words for words in short)
    assert "28.3 of them (94 %) come with the teacher's top class alone (`pseudo`)" in short[0]
    assert "(`shuffled`) differ from `kd` by +0.0" in short[0]
    assert "**labels for images that had none**" in short[0]
    assert "10.0 of them (33 %)" in short[1]
    assert "had none" not in short[1]
    assert "No control" in short[2]
    one = findings.controls.Controls(gallery(baseline=[0.5], kd=[0.8], pseudo=[0.8])).short().data
    assert "one seed" in one
    assert "%" not in one
    assert "did not run" in findings.controls.Controls(gallery(baseline=low)).short().data


def test_kd_is_compared_with_its_controls_in_pairs():
    rows = findings.distillation.dark_knowledge(
        gallery(kd=[0.8, 0.9, 1.0], shuffled=[0.7, 0.81, 0.89], pseudo=[0.8, 0.9, 1.0])
    ).set_index("control")
    assert rows.loc["shuffled", "mean"] == pytest.approx(0.1)
    assert rows.loc["shuffled", "low"] > 0
    assert rows.loc["pseudo", "mean"] == 0
    assert list(rows["n"]) == [3, 3]


def test_methods_that_do_not_beat_the_baseline_are_named():
    results = gallery(**NOTHING, at=[0.5, 0.5, 0.9], random=[0.1, 0.2, 0.3])
    listed = findings.methods.by_budget(results).data
    assert "1 of 2 methods" in listed
    assert "0 of 1 controls" in listed
    assert listed.count("<a href") == 2


def test_every_family_has_a_page_and_every_method_a_family():
    assert {facts.family for facts in findings.methods.METHODS.values()} == set(
        findings.methods.PAGES
    )


def test_a_control_lists_only_what_was_run():
    listed = findings.controls.Controls(gallery(**NOTHING, pseudo=[0.6, 0.7, 0.8])).taken_away()
    assert "pseudo" in listed.data
    assert "shuffled" not in listed.data
    everything = findings.controls.Controls(store.brief("none of this name")).taken_away()
    assert "shuffled" in everything.data


def test_the_gain_is_split_into_top_class_certainty_and_order():
    most = {"pseudo": [0.69, 0.79, 0.891], "shuffled": [0.76, 0.861, 0.959]}
    words = findings.controls.Controls(gallery(**NOTHING, **most)).short().data
    assert "19.0 of them (63 %) come" in words
    assert "7.0 more (24 %) come with its certainty" in words
    assert "the last 4.0 [" in words
    assert "(13 %) need the order" in words
    assert words.count(". ") <= 1  # two sentences


def test_transfer_is_a_method_and_no_control():
    controls = findings.controls.Controls(gallery(**NOTHING, transfer=[0.7, 0.8, 0.91]))
    assert "transfer" not in controls.taken_away().data
    assert isinstance(controls.table(), Markdown)
    assert "The method `transfer`" in controls.conclusions().data


def test_what_is_missing_of_the_plan_is_said_where_a_study_is_first_met(single):
    facts = single.study | {"missing": 7, "published": {"2": [0], "5": [0, 1]}}
    lacking = single._replace(study=facts)
    words = "7 of the planned runs are missing; published are 1 seed at 2 and 2 seeds at 5 labels"
    assert words in findings.index.facts(lacking)["planned"].data
    assert words in findings.labels.facts(lacking)["planned"].data
    assert findings.index.facts(single)["planned"].data == ""


def test_what_a_teacher_was_trained_on_is_stated(single):
    facts = findings.controls.Controls(single).facts()
    assert "also on those that its students lack" in facts["leak"].data
    few = single._replace(runs=single.runs.assign(regime="limited"))
    assert "lack" not in findings.controls.Controls(few).facts()["leak"].data


def test_the_status_names_what_was_planned_and_is_missing(single):
    assert findings.status.facts(single)["planned"] == "No run of its plan is missing."
    axes = {"axes": {"labels_per_class": [2, "all"], "seeds": [0, 1]}}
    axes |= {"missing": 7, "published": {"2": [0]}}
    facts = findings.status.facts(single._replace(study=single.study | axes))
    assert "7 runs of its plan are missing" in facts["planned"]
    assert (
        "Planned are 2, all labels per class with 2 seeds each, published 2 (1 seed)."
        in facts["planned"]
    )
    assert "teacher: epochs 0" in facts["settings"]


def test_a_published_teacher_counts_no_minutes(single):
    seconds = single.runs["seconds"].where(single.runs["role"] == "teacher", 60.0)
    facts = findings.status.facts(single._replace(runs=single.runs.assign(seconds=seconds)))
    of_students = (single.runs["role"] == "student").sum()
    published = findings.words.is_published
    assert any(published(single.study, row) for row in single.runs.to_dict("records"))
    assert float(facts["minutes"]) >= of_students


def test_perplexity_is_compared_with_distillation():
    weak = findings.misreading._lead(pd.Series([0.1, 0.2]), pd.Series([0.08, 0.18]))
    assert "as large a difference as distillation" in weak
    strong = findings.misreading._lead(pd.Series([0.7, 0.8]), pd.Series([0.1, 0.2]))
    assert "differ by more" in strong
    assert "0.60" in strong


# ---- pairs of networks -------------------------------------------------------------------------


def pairs_of(width=0.5):
    """Two students of one teacher, of one architecture."""
    rows = [{"role": "teacher", "run": "t", "network": "resnet20", "parameters": 100}]
    for network, wide in (("resnet8", 1.0), (f"resnet8x{width:g}", width)):
        for seed in range(3):
            same = {"network": network, "width": wide, "seed": seed}
            rows.append(same | {"run": f"b{network}{seed}", "method": "baseline"})
            taught = {"teacher": "t", "teacher_network": "resnet20", "regime": "full"}
            rows.append(same | taught | {"run": f"k{network}{seed}", "test_accuracy": 0.7})
    absent = store.brief("none of this name")
    study = absent.study | {"classes": ["a", "b"]}
    return absent._replace(runs=invented.table_of_runs(rows), study=study)


def test_a_study_of_one_pair_states_what_was_run_and_nothing_else(study):
    absent = store.brief("none of this name")
    facts = findings.architectures.facts(absent, study)
    assert list(facts) == ["opening"]
    words = facts["opening"].data
    assert "one pair of networks was run: teacher `resnet20`, student `resnet8x0.5`" in words
    assert words.endswith("students: `studies/architectures.yaml`, with other images.")
    assert "no pair of networks was run" in findings.architectures.facts(absent)["opening"].data
    assert findings.architectures.several(pairs_of())
    assert not findings.architectures.several(study)


def test_one_architecture_in_several_widths_is_listed():
    listed = findings.architectures.widths(pairs_of()).data
    assert listed.count("resnet20 to resnet8") == 2
    results = pairs_of()
    half = results._replace(runs=results.runs[results.runs["network"] != "resnet8"])
    assert findings.architectures.widths(half) is None


def test_refusals_are_asked_for_pairs_of_networks_that_can_be_built():
    results = pairs_of()
    images = np.zeros((1, 8, 8, 1), np.uint8)
    refused = findings.architectures.refused(results, images, models.example, distill.refusals)
    assert set(refused) == {("resnet20", "resnet8"), ("resnet20", "resnet8x0.5")}
    crossing = findings.architectures.crossing(refused)
    able = [f for f in findings.methods.METHODS.values() if not f.same_network]
    refusing = {method for reasons in refused.values() for method in reasons}
    assert crossing["crossing"].data.startswith(f"{len(able) - len(refusing)} of {len(able)} ")

    def nothing(*_, **__):
        return None

    assert findings.architectures.refused(results, images, nothing, distill.refusals) == {}


def test_a_pair_refuses_methods_with_a_reason():
    small = models.example("resnet8", classes=10, channels=1, size=8)
    other = models.example("vgg8", classes=10, channels=1, size=8)
    reasons = distill.refusals(small, other)
    assert {"at", "fitnet"} <= set(reasons)
    assert {"kd", "sp", "baseline"}.isdisjoint(reasons)
    assert all(method in reason for method, reason in reasons.items())


def test_an_example_is_of_the_network_that_was_run_or_nothing():
    forward = models.example("resnet8", classes=10, channels=1, size=8, width=0.5)
    assert list(forward.features) == list(models.LAYERS)
    assert forward.logits.shape == (2, 10)
    assert models.example("resnet8", classes=10, size=8, parameters=1) is None
    assert models.example("resnet8", classes=10, width=-1.0) is None


def test_a_long_list_of_methods_is_folded():
    names = [f"m{i}" for i in range(9)]
    assert findings.methods._folded(names[:5]) == "m0, m1, m2, m3, m4"
    assert "<summary>and 4 more</summary>m5, m6, m7, m8" in findings.methods._folded(names)


def test_shares_in_percent_add_up_to_a_hundred():
    shares = findings.architectures._to_hundred({"a": 0.977, "b": 0.006, "c": 0.017})
    assert shares == {"a": 98, "b": 0, "c": 2}
    assert sum(findings.architectures._to_hundred(dict.fromkeys("abc", 1 / 3)).values()) == 100


def test_networks_of_a_study_are_listed_by_size(study):
    table = findings.regimes.networks(study)
    assert list(table["network"]) == ["resnet20", "resnet8x0.5"]
    left_out = findings.regimes.blocks(study, lambda *_, **__: None)
    assert isinstance(left_out, Markdown)


def test_a_link_leads_to_a_teacher_beside_its_own_student(study):
    link = findings.regimes.facts(study)["beside"].data
    view = dict(part.split("=") for part in link.split("#")[1].split('"')[0].split("&"))
    teachers = study.runs.set_index("run")["teacher"]
    assert teachers[view["right"]] == view["left"]
    assert set(study.maps["run"]) >= {view["right"], view["left"]}
    without = findings.regimes.facts(study._replace(maps=study.maps[:0]))["beside"].data
    assert "left=" not in without


# ---- layers and maps ---------------------------------------------------------------------------


def test_the_questions_of_the_layers_are_answered_image_by_image(study):
    facts = findings.layers.facts(study)
    runs = study.runs[study.runs["labels"].eq("2") & study.runs["seed"].eq(0)]
    runs = runs.set_index("method")["run"]
    predicted = study.predictions.pivot(index="image", columns="run", values="prediction")
    right = predicted.eq(study.labels, axis=0)
    put = (right[runs["kd"]] & ~right[runs["baseline"]]).sum()
    assert f"`kd` classifies {put} correctly that the baseline misclassifies" in facts["right"].data
    assert "of seed 0)" in facts["right"].data
    assert "of their ten nearest there are of their class with kd" in facts["scattered"]
    assert facts["separate"].data.startswith(("In ", "At the same layer"))
    bare = findings.layers.facts(study._replace(predictions=study.predictions[:0]))
    assert bare["right"].data == ""


def test_classes_separate_first_where_the_mark_is_first_passed():
    shares = pd.Series({"stem": 0.3, "block1": 0.5, "block2": 0.8})
    sooner = pd.Series({"stem": 0.3, "block1": 0.85, "block2": 0.9})
    never = pd.Series({"stem": 0.6, "block1": 0.6, "block2": 0.7})
    words = findings.layers._separate(shares, sooner, "kd")
    assert words.startswith("In `kd`: of an image's ten nearest, 80 % are of its class")
    assert "the baseline first has that share at `block2`, `kd` at `block1`" in words
    words = findings.layers._separate(sooner, shares, "kd")  # 90 %, which kd never has
    assert words.startswith("In the baseline: ")
    assert "`kd` at no layer" in words
    assert "`kd` at no layer" in findings.layers._separate(shares, never, "kd")
    assert findings.layers._separate(shares, shares, "kd").startswith("At the same layer in both")


def test_images_with_other_neighbours_are_counted():
    rows = [
        {"layer": at, "run": run, "image": image, "neighbour": 100 * moved + k, "rank": k}
        for at in ("block1", "block3")
        for image in range(4)
        for run, moved in (("b", False), ("d", image == 0 or (image == 1 and at == "block3")))
        for k in range(findings.layers.NEAREST)
    ]
    words = findings.layers._changed(pd.DataFrame(rows), "b", "d", 4)
    assert words.startswith("Of the ten nearest, 25 % at block1 and 50 % at block3 are others")
    assert "of 25 % and 50 % of the images, more than half" in words
    same = pd.DataFrame(rows).query("run == 'b'")
    equal = pd.concat([same, same.assign(run="d")])
    assert "0 % at block1 and 0 %" in findings.layers._changed(equal, "b", "d", 4)


def test_a_pair_shares_its_seed_and_layers_may_have_any_names(study):
    own = study.runs["seed"].eq(0) & study.runs["method"].eq("baseline")
    runs = study.runs[~own | study.runs["role"].eq("teacher")]
    neighbours = study.neighbours.assign(run=study.neighbours["run"].str.replace("-0", "-1"))
    later = study._replace(runs=runs, neighbours=pd.concat([study.neighbours, neighbours]))
    assert "of seed 1)" in findings.layers.facts(later)["right"].data
    names = {"block1": "early", "block3": "late"}
    layers = [names.get(at, at) for at in study.study["layers"]]
    other = study._replace(
        study=study.study | {"layers": layers},
        neighbours=study.neighbours.replace({"layer": names}),
        faithfulness=study.faithfulness.replace({"layer": names}),
    )
    assert "are others" in findings.layers.facts(other)["changed"].data
    assert isinstance(findings.layers.faithfulness(other), HTML)


def test_a_study_without_maps_states_so(study):
    bare = study._replace(
        maps=study.maps[:0], training=study.training[:0], similarity=study.similarity[:0]
    )
    assert isinstance(findings.measures.layers_and_maps(study), HTML)
    assert isinstance(findings.measures.layers_and_maps(bare), Markdown)
    assert isinstance(findings.measures.untrained(study), HTML)
    assert isinstance(findings.measures.untrained(bare), Markdown)
    assert isinstance(findings.measures.similarity(bare), Markdown)


def test_seeds_of_one_map_are_compared_within_a_setting():
    results = invented.make(n=20, seeds=1)
    run = results.sweeps["run"].iloc[0]
    assert 0.5 < findings.misreading.seed_displacement(results, "tsne", run) < 2
    same = results.sweeps.assign(x=results.sweeps["image"] * 1.0, y=results.sweeps["image"] ** 2)
    equal = results._replace(sweeps=same)
    assert findings.misreading.seed_displacement(equal, "tsne", run) == pytest.approx(0, abs=1e-6)
    single = results._replace(sweeps=results.sweeps[results.sweeps["seed"] == 0])
    assert findings.misreading.seed_displacement(single, "tsne", run) == 0


def test_two_engines_of_ivis_are_compared_by_the_gap_of_their_means(study):
    facts = findings.misreading.engines(study)
    for words in ("0.000 in trust", "0.000 in the share", "0.020 in the acc", "(kd, 2 maps by"):
        assert words in facts["engines"].data
    bare = study.sweeps[study.sweeps["embedding"] != "ivis package"]
    lacks = findings.misreading.engines(study._replace(sweeps=bare))
    assert "did not make both" in lacks["engines"].data


def test_bounds_that_coupling_breaks_are_named(study):
    facts = findings.misreading.coupling(study)
    assert facts["share-coupled"] == "20%"
    assert facts["bounds"].endswith("of 3")
    table = study.comparison.copy()
    coupled = (table["procedure"] == "coupled") & (table["measure"] == "displacement")
    table.loc[coupled, "value"] = 0.9
    worse = findings.misreading.coupling(study._replace(comparison=table))
    assert worse["share-coupled"] == "90%"
    assert int(worse["bounds"][0]) == int(facts["bounds"][0]) - 1
    assert "half" in worse["broken"]


def test_single_maps_above_the_bound_are_named_where_no_mean_is():
    floors = pd.DataFrame({"embedding": ["tsne", "ivis"], "layer": ["block2", "pool"]})
    words = findings.misreading._single(floors.assign(high=[0.57, 0.65]))
    assert words == "Single maps reach 0.57 (t-SNE of block2) and 0.65 (IVIS of pool)."
    assert "any single map" in findings.misreading._single(floors.assign(high=0.2))


def test_nothing_is_crossed_out_where_no_mean_is_above_the_bound(study):
    table = findings.misreading.floors(study).data
    assert ("Crossed out" in table) is ("<s>" in table)


def test_the_best_method_is_paired_with_kd_and_its_size_is_stated():
    made = gallery(baseline=[0.5, 0.6, 0.7], kd=[0.8, 0.9, 1.0], simkd=[0.83, 0.92, 1.0])
    size = made.runs["method"].eq("simkd") * 10 + 90
    words = findings.methods.facts(made._replace(runs=made.runs.assign(parameters=size)), {})
    assert "`simkd` minus `kd`, paired by seed, +1.7 [" in words["winner"].data
    assert "(n = 3); the interval is of the one that came out best" in words["winner"].data
    assert "100 parameters instead of 90 with `kd`" in words["winner"].data
    assert "adds most" in words["best"]
    assert words["best"].startswith("Of the methods, simkd adds most, with")
    control = gallery(**NOTHING, shuffled=[0.83, 0.92, 1.01], at=[0.6, 0.7, 0.81])
    words = findings.methods.facts(control, {})
    assert words["best"].startswith("Of the methods, kd adds most")
    assert "shuffled" not in words["winner"].data
    assert "no ranking" not in words["winner"].data
    near = gallery(**NOTHING, at=[0.795, 0.895, 0.996])
    assert "1 other lies within a point" in findings.methods.facts(near, {})["winner"].data


def test_a_method_has_its_own_gain_where_the_page_is_of_other_images(monkeypatch):
    digits, own = gallery(**NOTHING), gallery(baseline=[0.2, 0.3], kd=[0.5, 0.6])
    digits = digits._replace(study=digits.study | {"name": "methods"})
    own = own._replace(study=own.study | {"name": "cifar10"})
    monkeypatch.setattr(store, "brief", lambda name: digits)
    monkeypatch.setattr(findings.methods.editions, "brief", lambda role: own)
    opening = findings.methods.finding("logits").data
    assert opening.startswith("The numbers on this page are of the ")
    assert "not of CIFAR-10, unless stated otherwise" in opening
    monkeypatch.setattr(store, "load_benchmark", lambda *names: {})
    shown = findings.methods.rows(distill.CLASSES)("kd").data
    assert "On CIFAR-10, with 2 labels per class: +30.0 [+30.0, +30.0] points" in shown
    mine = own._replace(study=own.study | {"name": "mine", "dataset": "<b>birds"})
    monkeypatch.setattr(findings.methods.editions, "brief", lambda role: mine)
    assert "On &lt;b&gt;birds, with" in findings.methods.rows(distill.CLASSES)("kd").data
    alone = own._replace(runs=own.runs[own.runs["method"] != "baseline"])
    monkeypatch.setattr(findings.methods.editions, "brief", lambda role: alone)
    assert "On CIFAR-10" not in findings.methods.rows(distill.CLASSES)("kd").data
    monkeypatch.setattr(findings.methods.editions, "brief", lambda role: digits)
    assert "On CIFAR-10" not in findings.methods.rows(distill.CLASSES)("kd").data


def test_a_page_of_methods_opens_with_its_best(monkeypatch, tmp_path):
    found = findings.methods.finding("features").data
    home = standings.one_network_each(standings.standings(store.brief("methods")))
    rows = home[
        (home["labels"] == "2") & home["method"].map(findings.methods.families()).eq("features")
    ]
    best = rows.loc[rows["gain"].idxmax()]
    assert f"`{best['method']}` adds most, {100 * best['gain']:+.1f} [" in found
    assert f"{(rows['beside'] == 'better').sum()} of the {len(rows)} methods" in found
    assert f"n = {best['pairs']:.0f} seeds" in found
    monkeypatch.chdir(tmp_path)
    assert "Not run" in findings.methods.finding("features").data


def test_a_page_of_methods_with_one_seed_judges_nothing(monkeypatch):
    one = gallery(baseline=[0.4], fitnet=[0.8])
    monkeypatch.setattr(store, "brief", lambda name: one)
    assert "one seed: nothing is judged" in findings.methods.finding("features").data


# ---- the first page and its claims -------------------------------------------------------------


def test_the_first_page_names_the_verdict_at_every_position(study):
    alone, both = findings.index.facts(study), findings.index.facts(study, study)
    assert "position" not in alone["earlier"].data
    assert both["earlier"].data.startswith(alone["earlier"].data)
    assert "measured at every position of the layer" in both["earlier"].data
    assert "mean over positions, **" in both["earlier"].data


def test_many_cells_at_every_position_are_counted_on_the_first_page(judged):
    rows = judged.cells.query("claim == 'C4' and labels == '2'").assign(space="flat layers")
    many = pd.concat([rows.assign(network=f"n{i}") for i in range(9)])
    words = findings.index._flat(many, "C4")
    assert f"positions, **{rows['verdict'].iloc[0]}** in " in words


def test_the_first_page_has_one_number_for_compactness_and_the_comparison_as_accurate(study):
    values = study.measures.query("measure == 'within_share' and layer == 'block2'")
    few = study.runs.query("labels == '2'").merge(values, on="run")
    means = few.groupby("method")["value"].mean()
    two = few.assign(network="resnet8", run="w-" + few["run"], value=few["value"] + 9)
    wide = two[two["seed"] == 0]  # another network, of fewer runs, is not mixed in
    mixed = study._replace(
        runs=pd.concat([study.runs, wide[study.runs.columns]]),
        measures=pd.concat([study.measures, wide[study.measures.columns]]),
    )
    for made in (study, mixed):
        words = findings.index.facts(made)["compact"].data
        assert f"`kd` minus the baseline: {means['kd'] - means['baseline']:+.2f} [" in words
        assert "] (n = 3). The claim" in words
        assert words.split("At equal accuracy: ")[1].startswith(("no baseline", "beside a base"))
        assert "spread" not in words
    bare = study._replace(measures=study.measures[:0])
    assert "did not measure" in findings.index.facts(bare)["compact"].data


def test_who_is_less_compact_than_a_baseline_as_accurate_is_counted():
    control = pd.DataFrame(
        {
            "method": ["kd", "at", "sp", "ft"],
            "n": [0, 3, 1, 5],
            "mean": [0, 0.1, -0.1, -0.1],
            "speaks": [0, 1, 0, 0],
        }
    )
    words = findings.verdicts.against(control)
    assert words.startswith("A baseline at least as accurate exists for 3 pairs of")
    assert (
        "(n = 1, 3 or 5): in 2 of them the distilled student is less compact by the mean" in words
    )
    assert words.endswith("in none by an interval")
    control.loc[3, "speaks"] = -1
    assert findings.verdicts.against(control).endswith("in 1 by an interval")
    assert findings.verdicts.against(control[:1]).startswith("No method")
    assert findings.verdicts.against(control[:1], left_out="sp").startswith("No other method")
    assert "for 1 other pair of" in findings.verdicts.against(control[:3], left_out="sp")


def test_every_part_of_a_claim_with_and_has_its_own_word(judged):
    sentence = findings.verdicts.sentence(judged.cells, "C5")
    assert "layers of this pair **" in sentence
    assert "t-SNE maps **" in sentence
    assert "other architectures **no data**" in sentence
    assert "; apart from the claim, all labels: layers" in sentence


def test_maps_of_one_network_stand_beside_the_layers_of_several(judged):
    cells = judged.cells.query("claim == 'C5' and labels == '2'")
    decides = cells["space"] == "layers"
    cells = cells.assign(network=cells["network"].where(~decides, "2 networks"))
    cells.loc[cells["space"] == "tsne", ["verdict", "named"]] = ["holds for some", "kd, at"]
    sentence = findings.verdicts.sentence(cells, "C5")
    assert sentence.startswith("2 labels per class: layers of 2 networks **")
    assert "t-SNE maps **holds for some** (kd, at)" in sentence
    assert "no data" not in sentence
    later = cells.assign(teacher="limited", verdict="too few seeds")
    both = findings.verdicts.sentence(pd.concat([cells, later]), "C5")
    assert "limited, 2 labels per class: layers of 2 networks **too few seeds**" in both


def test_all_labels_of_too_few_seeds_stand_in_tables_only(judged):
    cells = judged.cells.copy()
    cells.loc[cells["labels"] == "all", "verdict"] = "too few seeds"
    assert "all labels" not in findings.verdicts.sentence(cells, "C3")
    only = cells[cells["labels"] == "all"]
    assert "all labels" in findings.verdicts.sentence(only, "C3")


def test_the_short_answer_states_that_the_teacher_knew_the_labels():
    made = gallery(**NOTHING, pseudo=[0.79, 0.88, 0.98])
    teacher = {"run": "t", "role": "teacher", "method": "baseline", "seed": 0}
    rows = [*made.runs.to_dict("records"), teacher | {"test_accuracy": 1.0}]
    for regime, knew in (("full", True), ("limited", False)):
        rows[-1]["regime"] = regime
        runs = invented.table_of_runs(rows)
        words = findings.controls.Controls(made._replace(runs=runs)).short().data
        assert ("had learnt their true labels" in words) is knew


def test_budgets_that_were_planned_and_not_run_are_named(study):
    axes = {"labels_per_class": [2, 5, 20, "all"]}
    planned = study._replace(study=study.study | {"axes": axes})
    assert "not run yet: 20" in findings.labels.until_when(planned).data
    axes["labels_per_class"].remove(20)
    assert "not run yet" not in findings.labels.until_when(planned).data


def test_the_best_method_is_named_where_another_is_quoted(study):
    runs = study.runs.copy()
    runs.loc[runs["method"].eq("at"), "test_accuracy"] += 1
    best = findings.labels.facts(study._replace(runs=runs))["best"].data
    assert best.startswith("`at` adds most: minus `kd`, paired by seed, +")
    assert "the interval is of the one that came out best" in best
    assert "parameters" not in best
    larger = runs.assign(parameters=runs["parameters"] + 7 * runs["method"].eq("at"))
    assert (
        "parameters instead of" in findings.labels.facts(study._replace(runs=larger))["best"].data
    )
    runs.loc[runs["method"].eq("kd"), "test_accuracy"] += 2
    assert findings.labels.facts(study._replace(runs=runs))["best"].data == ""


# ---- over training -----------------------------------------------------------------------------


def test_a_study_that_followed_no_training_has_no_figures(study):
    none = findings.training.Followed(
        study._replace(training=study.training[:0], film=study.film[:0])
    )
    assert isinstance(none.summary(), Markdown)
    assert none.table() is none.conclusion() is none.maps() is none.links() is None


def test_the_end_of_training_is_compared_layer_by_layer(study):
    followed = findings.training.Followed(study)
    further = followed.further()
    ends = followed.curves[followed.curves["epoch"] == max(invented.EPOCHS)]
    ends = ends[ends["layer"] == "block2"].groupby("method")["value"].mean()
    assert further.loc["block2", "mean"] == pytest.approx(ends["kd"] - ends["baseline"])
    assert list(further.index) == followed.layers
    conclusion = followed.conclusion().data
    assert "`block2`" in conclusion
    assert f"n = {followed.seeds} seeds" in conclusion
    assert "no verdict" not in conclusion


def test_a_layer_that_the_table_shows_as_equal_is_on_neither_side():
    table = pd.DataFrame({"mean": [0.3, -0.004, -0.2]}, index=["stem", "block1", "block2"])
    table["low"] = table["high"] = np.nan
    words = findings.training._where(table, ".2f", "it is", ("higher", "lower"))
    assert words == "It is higher at `stem` (+0.30) and lower at `block2` (-0.20)."
    words = findings.training._where(table[:1], ".2f", "it is", ("higher", "lower"))
    assert words == "It is higher at every layer: `stem` (+0.30)."
    words = findings.training._answer((["stem", "block1"], ["logits"]), [], 5)
    assert words.endswith("ends further at 2 of 5 layers and less far at 1; faster was not shown.")
    words = findings.training._answer((["stem"], []), ["stem"], 5)
    assert words.endswith("ends further at 1 of 5 layers; it settles sooner at 1.")


def test_one_seed_over_a_training_has_directions_and_no_verdict(study):
    first = study._replace(runs=study.runs[study.runs["seed"] == 0])
    followed = findings.training.Followed(first)
    assert followed.seeds == 1
    conclusion = followed.conclusion().data
    assert conclusion.startswith("**One seed: no verdict.** On ")
    assert "Its silhouette is higher at " in conclusion
    assert conclusion.count("no verdict") == 1
    assert "t interval" not in conclusion
    assert "One seed, no interval, n = 1" in followed.table().data


# ---- verdicts ----------------------------------------------------------------------------------


def test_a_sentence_holds_the_verdict_of_every_budget_all_labels_apart(judged):
    sentence = findings.verdicts.sentence(judged.cells, "C3")
    rows = judged.cells.query("claim == 'C3' and space == 'layers'")
    assert len(rows) == 3
    for word in rows["verdict"]:
        assert f"**{word}**" in sentence
    assert sentence.index("2 labels") < sentence.index("; apart from the claim, all labels: **")
    assert findings.verdicts.sentence(judged.cells, "C2") == "**no data**"
    assert judged.numbers("C2") is None


def test_many_cells_of_a_claim_are_counted_by_word(judged):
    rows = judged.cells.query("claim == 'C3' and space == 'layers' and labels == '2'")
    many = pd.concat([rows.assign(network=f"n{i}") for i in range(9)])
    sentence = findings.verdicts.sentence(many, "C3")
    assert sentence == f"**{rows['verdict'].iloc[0]}** in 9 of 9 cells"


def test_the_overview_holds_the_study_of_the_book_and_every_published_one(study):
    data = findings.verdicts.studies(study, study)
    assert list(data) == ["digits (invented)", "CIFAR-10", "digits"]
    published = [s.results.study["name"] for s in data["digits"]]
    assert "regimes" in published
    own = study._replace(study=study.study | {"name": "quick"})
    first = findings.verdicts.studies(own, own)["digits"][0]
    assert first.results is own
    table = findings.verdicts.overview(study, study).data
    assert len(table) < 40_000
    assert "limited teacher" in table


def test_c2_is_borrowed_only_from_the_same_data(study):
    results = gallery(**NOTHING)
    rows = results.runs.to_dict("records")
    limited = {"labels": "2", "regime": "limited"}
    for seed in range(3):
        teacher = {"run": f"t{seed}", "role": "teacher", "network": "resnet20", "seed": seed}
        rows.append(invented.RUN | teacher | limited | {"method": "baseline"})
    for row in rows:
        if row["method"] == "kd":
            row |= {"teacher": f"t{row['seed']}", "regime": "limited"}
    regimes = results._replace(runs=pd.DataFrame(rows))
    bare = study._replace(measures=study.measures[:0], faithfulness=study.faithfulness[:0])
    for data, borrowed in (("digits", True), ("birds", False)):
        of_data = regimes._replace(study=regimes.study | {"dataset": data})
        other = findings.verdicts.Judged(bare, bare, of_data)
        assert other.borrowed == (of_data.study["name"] if borrowed else "")
        assert (f"`{other.borrowed}`" in other.facts()["borrowed"].data) is borrowed
        assert ("C2" in set(other.cells["claim"])) is borrowed
    assert not findings.verdicts.Judged(bare, bare, bare).borrowed  # it has no such teachers


def test_signs_of_maps_are_compared_with_their_layers(judged):
    agree, of = map(int, judged.maps_and_layers()["agree"].split(" of "))
    maps = judged.methods[judged.methods["space"].isin(["tsne", "ivis"])]
    assert of == len(maps) > 0
    assert 0 < agree <= of


def test_chance_is_a_share_of_the_headlines(judged):
    facts = judged.chance()
    assert float(facts["chance"]) == pytest.approx(0.05 * int(facts["headlines"]), abs=0.051)


def test_a_study_with_a_limited_teacher_and_one_seed_says_so_in_the_chapter_on_labels():
    made = invented.make(n=30, seeds=1, labels=("2",))
    runs = made.runs.assign(regime=made.runs["regime"].replace("full", "limited"))
    mine = made._replace(study=made.study | SIZES | {"name": "mine"}, runs=runs)
    facts = findings.labels.facts(mine)
    assert facts["expensive"].data == "No teacher of this study was trained on every label."
    assert "one seed, no interval" in findings.labels.table(mine).data
    assert "every label" not in findings.labels.table(mine).data


def test_nothing_is_glued_as_nothing(monkeypatch):
    glued = {}
    monkeypatch.setattr(
        "kdlib.report.findings.words.myst_nb.glue",
        lambda name, value, display: glued.update({name: value}),
    )
    findings.glue({"a": Markdown(""), "b": Markdown("words"), "c": 3})
    assert isinstance(glued["a"], HTML)
    assert glued["b"].data == "words"
