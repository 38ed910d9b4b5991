import numpy as np
import pandas as pd
import pytest
import results as invented
from scipy import stats

from kdlib import UsageError
from kdlib.measure import statistics

NOBODY = ("", "", "")
MADE = invented.make(n=20, seeds=1)  # with other runs and measures in each test
FULL = ("resnet20", "full", "")  # a teacher's network and regime, and the options of its student


def seeds_of(values):
    """One group of differences, or one per row of `values`."""
    values = np.atleast_2d(values)
    group = np.repeat(np.arange(len(values)), values.shape[1])
    return pd.DataFrame({"cell": group, "difference": values.ravel()})


def study(scores, layers=invented.LAYERS, accuracy=None):
    """Results from {(method, labels, seed, teacher): values of one measure, layer by layer}."""
    runs, measures = [], []
    for number, ((method, labels, seed, teacher), values) in enumerate(scores.items()):
        network, regime, options = NOBODY if method == "baseline" else teacher
        run = f"{number}"  # no fact is read from a name
        row = {"run": run, "method": method, "labels": labels, "seed": seed, "options": options}
        row |= {"teacher": network and f"teachers/{network}", "teacher_network": network}
        row |= {"test_accuracy": 0.5 if accuracy is None else accuracy[number], "regime": regime}
        runs.append(row)
        table = pd.DataFrame({"layer": layers, "value": values})
        measures.append(table.assign(run=run, measure="probe"))
    return MADE._replace(
        study=MADE.study | {"layers": list(layers)},
        runs=invented.table_of_runs(runs),
        measures=pd.concat(measures, ignore_index=True),
    )


def test_a_summary_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, (6, 5))
    table = statistics.summarise(seeds_of(values), ["cell"]).set_index("cell")
    for row, own in zip(values, table.itertuples(), strict=True):
        there = stats.ttest_1samp(row, 0)
        interval = there.confidence_interval(0.95)
        assert own.mean == pytest.approx(row.mean())
        assert (own.low, own.high) == pytest.approx((interval.low, interval.high))
        assert own.p == pytest.approx(there.pvalue)
        assert own.d == pytest.approx(row.mean() / row.std(ddof=1))
        assert own.n == 5
        assert np.isnan(own.p_flip)


def test_one_seed_has_a_mean_only():
    row = statistics.summarise(seeds_of([0.4]), ["cell"]).iloc[0]
    assert row["mean"] == 0.4
    assert row[["low", "high", "d", "p", "p_flip"]].isna().all()


def test_equal_differences_have_no_p():
    row = statistics.summarise(seeds_of([0.014, 0.014 + 1e-17, 0.014]), ["cell"]).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((0.014, 0.014))
    assert row[["d", "p"]].isna().all()


def test_nothing_to_summarise_gives_an_empty_table():
    table = statistics.summarise(seeds_of([0.4]).head(0), ["cell"])
    assert list(table) == ["cell", *statistics.NUMBERS]
    assert table.empty


def test_sign_flips_agree_with_scipy():
    values = np.random.default_rng(1).normal(0.5, 1, 7)
    there = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert statistics.sign_flip(values) == pytest.approx(there.pvalue)


def test_sign_flips_are_left_out_where_they_cannot_decide():
    assert statistics.sign_flip(np.ones(5)) is None
    assert statistics.sign_flip(np.ones(6)) == pytest.approx(2 / 2**6)
    assert statistics.sign_flip(np.ones(21)) is None


def test_holm_agrees_with_a_loop():
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.2])
    expected, largest = np.full(5, np.nan), 0.0
    for place, i in enumerate([1, 3, 0, 4]):
        largest = max(largest, (4 - place) * p[i])
        expected[i] = min(1, largest)
    assert statistics.holm(p) == pytest.approx(expected, nan_ok=True)
    assert statistics.holm([0.9, 0.8]).tolist() == [1, 1]


def test_holm_keeps_the_level_of_the_family():
    generator = np.random.default_rng(2)
    hits = [statistics.holm(generator.random(8)).min() < 0.05 for _ in range(4000)]
    assert np.mean(hits) < 0.06


def test_welch_agrees_with_scipy():
    generator = np.random.default_rng(3)
    one, other = generator.normal(1, 1, 5), generator.normal(0, 3, 8)
    there = stats.ttest_ind(one, other, equal_var=False)
    interval = there.confidence_interval(0.95)
    own = statistics.welch(one, other)
    assert (own["low"], own["high"]) == pytest.approx((interval.low, interval.high))
    assert own["p"] == pytest.approx(there.pvalue)
    pooled = np.sqrt((4 * one.var(ddof=1) + 7 * other.var(ddof=1)) / 11)
    assert own["d"] == pytest.approx((one.mean() - other.mean()) / pooled)
    assert own["n"] == 5


def test_welch_of_one_value_or_of_no_spread_has_no_p():
    assert np.isnan(statistics.welch([1.0], [0.0, 1.0])["low"])
    equal = statistics.welch([1.0, 1.0], [0.0, 0.0])
    assert equal["mean"] == equal["low"] == 1
    assert np.isnan(equal["p"])


@pytest.fixture(scope="module")
def many():
    """5,000 layers of two students each on 5 seeds: their true difference is 0.2."""
    layers = [f"layer{i}" for i in range(5000)]
    generator = np.random.default_rng(4)
    scores = {}
    for seed in range(5):
        shared = generator.normal(0, 1, len(layers))  # what a pair has in common
        for method, mean in (("baseline", 0.0), ("kd", 0.2)):
            own = generator.normal(mean, 0.3, len(layers))
            scores[method, "2", seed, FULL] = shared + own
    return study(scores, layers)


def test_intervals_of_five_seeds_hold_the_truth_as_often_as_they_say(many):
    table = statistics.paired(many, "probe")
    held = ((table["low"] <= 0.2) & (table["high"] >= 0.2)).mean()
    assert len(table) == 5000
    assert 0.93 < held < 0.97


def test_p_and_interval_agree_in_every_case(many):
    table = statistics.summarise(statistics.differences(many, "probe"), statistics.CELL)
    assert ((table["p"] < 0.05) == ((table["low"] > 0) | (table["high"] < 0))).all()


def test_images_are_no_seeds():
    """A t interval over 500 images of each network, as if they were experiments, is too narrow."""
    generator = np.random.default_rng(5)
    networks = generator.normal(0, 1, (1000, 5, 1))  # no true effect, but networks differ
    images = (networks + generator.normal(0, 1, (1000, 5, 500))).reshape(1000, -1)
    table = statistics.summarise(seeds_of(images), ["cell"])
    assert ((table["low"] > 0) | (table["high"] < 0)).mean() > 0.5
    table = statistics.summarise(seeds_of(images.reshape(1000, 5, 500).mean(axis=2)), ["cell"])
    assert ((table["low"] > 0) | (table["high"] < 0)).mean() < 0.07


def test_students_of_one_regime_are_compared_and_those_without_a_teacher_belong_to_each():
    scores = {}
    for seed in range(3):
        scores["baseline", "2", seed, NOBODY] = np.full(6, 0.5)
        scores["smooth", "2", seed, NOBODY] = np.full(6, 0.7)
        scores["kd", "2", seed, FULL] = np.full(6, 0.9)
        scores["kd", "2", seed, ("resnet20", "limited", "")] = np.full(6, 0.6)
    made = study(scores)
    for regime, mean in (("full", 0.4), ("limited", 0.1)):
        table = statistics.paired(made, "probe", regime=regime).set_index("method")
        assert table.loc["kd", "mean"].to_numpy() == pytest.approx(mean)
        assert table.loc["smooth", "mean"].to_numpy() == pytest.approx(0.2)
        assert (table["n"] == 3).all()
    assert set(statistics.paired(made, "probe", regime="pretrained")["method"]) == {"smooth"}
    assert statistics.regimes(made) == ["full", "limited"]
    with pytest.raises(UsageError, match=r"'rich'; .*full, limited"):
        statistics.paired(made, "probe", regime="rich")


def test_the_partner_as_accurate_has_the_smallest_larger_budget():
    cells = [("kd", "2"), ("kd", "all"), *(("baseline", b) for b in ("2", "5", "10", "all"))]
    scores = {(m, b, 0, FULL): np.full(6, 0.1 * i) for i, (m, b) in enumerate(cells)}
    rows = statistics.matched(study(scores, accuracy=[0.8, 0.9, 0.9, 0.7, 0.8, 0.95]), "probe")
    rows = rows[rows["layer"] == "block1"].set_index("labels")
    assert rows.loc["2", "budget"] == "10"  # not the baseline at 2, nor the first that is larger
    assert rows.loc["2", "difference"] == pytest.approx(0 - 0.4)
    assert rows.loc["all", ["budget", "difference"]].isna().all()  # no larger budget


def test_a_partner_is_sought_within_its_own_seed():
    scores = {
        ("kd", "2", 0, FULL): np.zeros(6),
        ("baseline", "all", 0, FULL): np.zeros(6),
        ("baseline", "all", 1, FULL): np.zeros(6),
    }
    rows = statistics.matched(study(scores, accuracy=[0.8, 0.7, 0.9]), "probe")
    assert rows["budget"].isna().all()


def test_a_second_form_of_a_method_is_a_method_of_its_own():
    teachers = [FULL, ("resnet56", "full", ""), ("resnet20", "full", "temperature=2")]
    cells = [("baseline", NOBODY), *(("kd", teacher) for teacher in teachers)]
    scores = {(m, "2", s, t): np.full(6, 0.5) for m, t in cells for s in range(3)}
    del scores["kd", "2", 0, FULL]  # one that lacks a seed does not borrow it from another
    table = statistics.paired(study(scores), "probe").set_index("method")
    assert set(table.index) == {"kd", "kd (resnet56)", "kd (resnet20 temperature=2)"}
    assert set(table.loc["kd", "n"]) == {2}
    assert set(table.loc["kd (resnet56)", "n"]) == {3}


def test_teachers_of_one_network_that_learnt_otherwise_make_two_forms():
    scores = {("baseline", "2", 0, NOBODY): np.zeros(6), ("kd", "2", 0, FULL): np.zeros(6)}
    made = study(scores)
    kd = made.runs[made.runs["method"] == "kd"].iloc[0].to_dict()
    other = {"run": "teachers/other", "role": "teacher", "regime": "full", "options": "epochs=9"}
    rows = [*made.runs.to_dict("records"), other, kd | {"run": "more", "teacher": other["run"]}]
    methods = statistics.students(made._replace(runs=invented.table_of_runs(rows)))["method"]
    assert list(methods) == ["baseline", "kd", "kd (resnet20 epochs=9)"]


def test_measures_of_unequally_many_images_are_refused():
    results = invented.make(n=20, seeds=1)
    table = results.predictions
    kd = table["run"].str.contains("-kd-")
    fewer = results._replace(predictions=table[~kd | (table["image"] < 15)])
    with pytest.raises(UsageError, match=r"\[15, 20\]"):
        statistics.differences(fewer, "silhouette")
    assert len(statistics.differences(fewer, statistics.ACCURACY))  # of all test images


# ---- on invented results, by hand


@pytest.fixture(scope="module")
def results():
    return invented.make(networks=("resnet8x0.5", "resnet14x0.5"), n=40, seeds=4)


def by_hand(results, network, method, labels, layer, measure):
    """The paired differences by a plain loop over seeds."""
    differences = []
    for seed in sorted(results.runs["seed"].unique()):
        values = []
        for name in (method, "baseline"):
            run = f"students/resnet20-full/{network}-{name}-{labels}-{seed}"
            rows = results.measures
            rows = rows[(rows["run"] == run) & (rows["layer"] == layer)]
            values.append(rows[rows["measure"] == measure]["value"].item())
        differences.append(values[0] - values[1])
    return np.array(differences)


def test_paired_agrees_with_a_loop_and_with_scipy(results):
    table = statistics.paired(results, "within_share")
    assert list(table) == ["network", "method", "labels", "layer", "mean", "low", "high", "n"]
    assert len(table) == 2 * 4 * 3 * 6
    for row in table.sample(12, random_state=0).itertuples():
        values = by_hand(results, row.network, row.method, row.labels, row.layer, "within_share")
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert row.mean == pytest.approx(values.mean())
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        assert row.n == 4


def test_one_seed_has_a_mean_and_no_interval():
    table = statistics.paired(invented.make(n=20, seeds=1), "knn")
    assert table["mean"].notna().all()
    assert table[["low", "high"]].isna().all(axis=None)
    assert (table["n"] == 1).all()


def test_a_run_without_its_partner_is_left_out(results):
    lonely = results.runs.query("not (method == 'baseline' and seed == 3)")
    assert (statistics.paired(results._replace(runs=lonely), "knn")["n"] == 3).all()


def test_teachers_are_no_partners(results):
    assert set(statistics.paired(results, "knn")["network"]) == {"resnet8x0.5", "resnet14x0.5"}


def test_a_gain_is_written_with_its_interval_and_its_seeds():
    made = invented.make(None)
    table = statistics.paired(made, "knn").query("layer == 'block2' and labels == '2'")
    row = table[table["method"] == "kd"].iloc[0]
    gain = statistics.gain(made, "knn", "block2", method="kd", labels="2")
    assert gain == (
        f"{row['mean']:+.2f} (95 % interval {row['low']:+.2f} to {row['high']:+.2f}, n = 3 seeds)"
    )
    one = invented.make(None, seeds=1)
    assert statistics.gain(one, "knn", "block2", method="kd", labels="2").endswith(
        "(one seed: no interval)"
    )
    with pytest.raises(UsageError, match=r"method .* 2 labels 'kdd'"):
        statistics.gain(made, "knn", "block2", method="kdd", labels="2")


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ((0.30, 0.31, 0.32), "higher"),
        ((-0.30, -0.31, -0.32), "lower"),
        ((-0.30, 0.10, 0.40), statistics.UNCLEAR),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero(gains, word):
    made = invented.make(None)
    ids = made.runs.query("role == 'student' and labels == '2'")
    values = made.measures.copy()
    for seed, gain in enumerate(gains):
        run = ids[ids["seed"] == seed].set_index("method")["run"]
        for method, value in (("baseline", 0.5), ("kd", 0.5 + gain)):
            rows = (values["run"] == run[method]) & (values["measure"] == "knn")
            values.loc[rows & (values["layer"] == "block2"), "value"] = value
    made = made._replace(measures=values)
    assert statistics.side(*ends(made)) == word


def ends(results):
    """The interval of the difference that kd makes in one layer."""
    rows = statistics.paired(results, "knn").set_index(["layer", "method", "labels"])
    return rows.loc[("block2", "kd", "2"), ["low", "high"]]


def test_one_seed_gives_no_direction():
    one = invented.make(None, seeds=1)
    assert statistics.side(*ends(one)) == statistics.UNCLEAR


# ---- equivalence -------------------------------------------------------------------------------


def summary(differences):
    """The mean, low, high and n of some differences."""
    row = statistics.summarise(seeds_of(np.array([differences])), ["cell"]).iloc[0]
    return [float(row[column]) for column in ("mean", "low", "high", "n")]


@pytest.mark.parametrize("mean", [-0.012, -0.004, 0.0, 0.003, 0.02])
def test_equivalence_is_two_one_sided_t_tests(mean):
    sample = mean + np.array([0.004, -0.003, 0.001, -0.006, 0.004])
    above = stats.ttest_1samp(sample, -0.01, alternative="greater").pvalue
    below = stats.ttest_1samp(sample, 0.01, alternative="less").pvalue
    assert statistics.equivalence(*summary(sample)) == pytest.approx(max(above, below))


def test_equivalence_keeps_its_level_at_the_margin_and_is_found_within_it():
    generator = np.random.default_rng(6)
    noise = generator.normal(0, 0.004, (2000, 5))
    found = {}
    for mean in (0.0, 0.01, 0.02):
        rows = statistics.summarise(seeds_of(mean + noise), ["cell"])
        numbers = rows[["mean", "low", "high", "n"]].itertuples(index=False)
        found[mean] = np.mean([statistics.equivalence(*row) < 0.05 for row in numbers])
    assert found[0.01] == pytest.approx(0.05, abs=0.015)  # a true difference of the margin
    assert found[0.02] < 0.005
    assert found[0.0] > 0.8


def test_equivalence_of_one_seed_or_of_no_spread():
    assert np.isnan(statistics.equivalence(0.0, np.nan, np.nan, 1))
    assert statistics.equivalence(0.005, 0.005, 0.005, 5) == 0
    assert statistics.equivalence(0.02, 0.02, 0.02, 5) == 1
    with pytest.raises(UsageError, match=r"margin of equivalence of 0\.0; allowed: above 0"):
        statistics.equivalence(0.0, -0.1, 0.1, 5, margin=0.0)


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.05, 0.01, 0.09, 5), "higher"),
        ((-0.05, -0.09, -0.01, 5), "lower"),
        ((0.003, 0.001, 0.005, 5), "higher"),  # less than a point, and not 0
        ((0.001, -0.004, 0.006, 5), statistics.EQUIVALENT),
        ((0.001, -0.004, 0.006, 4), statistics.UNCLEAR),
        ((0.001, -0.030, 0.032, 5), statistics.UNCLEAR),
        ((0.001, np.nan, np.nan, 1), statistics.UNCLEAR),
    ],
)
def test_no_different_is_a_test_and_not_an_interval_around_zero(numbers, word):
    assert statistics.beside(*numbers) == word


def test_accuracy_pairs_like_a_measure():
    made = invented.make(None)
    students = made.runs[made.runs["role"] == "student"]
    wide = students.pivot_table(index=["labels", "seed"], columns="method", values="test_accuracy")
    expected = (wide["kd"] - wide["baseline"])["2"].mean()
    row = statistics.paired(made, "test_accuracy").query("method == 'kd' and labels == '2'").iloc[0]
    assert row["mean"] == pytest.approx(expected)
