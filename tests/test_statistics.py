import numpy as np
import pandas as pd
import pytest
import results as invented
from scipy import stats

from kdlib import UsageError
from kdlib.measure import statistics

STUDENT = "students/{}/resnet8-{}-{}-{}"


def seeds_of(values):
    """One group of differences, or one per row of `values`."""
    values = np.atleast_2d(values)
    group = np.repeat(np.arange(len(values)), values.shape[1])
    return pd.DataFrame({"cell": group, "difference": values.ravel()})


def study(scores, layers=("stem", "block1", "block2", "block3", "pool", "logits"), accuracy=None):
    """Results from {(method, labels, seed, teacher): values of one measure, layer by layer}."""
    made = invented.make(n=20, seeds=1)
    runs, measures = [], []
    for number, ((method, labels, seed, teacher), values) in enumerate(scores.items()):
        run = STUDENT.format(teacher, method, labels, seed)
        runs.append(
            {"run": run, "role": "student", "network": "resnet8", "method": method}
            | {"labels": labels, "seed": seed, "parameters": 10, "seconds": 1.0}
            | {"test_accuracy": 0.5 if accuracy is None else accuracy[number]}
        )
        table = pd.DataFrame({"layer": layers, "value": values})
        measures.append(table.assign(run=run, measure="probe"))
    return made._replace(
        study=made.study | {"layers": list(layers)},
        runs=pd.DataFrame(runs),
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
    wanted, largest = np.full(5, np.nan), 0.0
    for place, i in enumerate([1, 3, 0, 4]):
        largest = max(largest, (4 - place) * p[i])
        wanted[i] = min(1, largest)
    assert statistics.holm(p) == pytest.approx(wanted, nan_ok=True)
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


def test_methods_that_share_no_seed_with_baseline_are_compared_by_welch():
    full = "resnet20-full-0"
    scores = {("baseline", "2", s, full): np.full(6, 0.1 * s) for s in range(3)}
    scores |= {("kd", "2", s, full): np.full(6, 0.1 * s) for s in range(3, 6)}
    table = statistics.compare(study(scores), "probe").set_index("layer")
    wanted = statistics.welch([0.3, 0.4, 0.5], [0.0, 0.1, 0.2])
    assert table.loc["block1", statistics.NUMBERS].to_dict() == pytest.approx(wanted, nan_ok=True)
    scores[("kd", "2", 0, full)] = np.full(6, 0.7)
    table = statistics.compare(study(scores), "probe").set_index("layer")
    assert table.loc["block1", ["mean", "n"]].to_list() == pytest.approx([0.7, 1])  # the pair only


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
            scores[method, "2", seed, "resnet20-full-0"] = shared + own
    return study(scores, layers)


def test_intervals_of_five_seeds_hold_the_truth_as_often_as_they_say(many):
    table = statistics.paired(many, "probe")
    held = ((table["low"] <= 0.2) & (table["high"] >= 0.2)).mean()
    assert len(table) == 5000
    assert 0.93 < held < 0.97


def test_p_and_interval_agree_in_every_case(many):
    table = statistics.compare(many, "probe")
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


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        ("students/resnet20-full-0/resnet8-kd-2-0", "full"),
        ("students/resnet20-full/resnet8-kd-2-0", "full"),
        ("students/resnet20-limited-2-0/resnet8-kd-2-0", "limited"),
        ("students/resnet20x2-pretrained-all-3+epochs=2/resnet8-kd-2-0", "pretrained"),
    ],
)
def test_the_name_of_a_student_says_what_its_teacher_learnt_from(run, wanted):
    assert statistics.regime(run) == wanted
    assert statistics.teacher(run) == "teachers/" + run.split("/")[1]


def test_students_of_one_regime_are_compared_and_baseline_counts_once():
    scores = {}
    for seed in range(3):
        for teacher, value in (("resnet20-full-0", 0.9), (f"resnet20-limited-2-{seed}", 0.6)):
            scores["baseline", "2", seed, teacher] = np.full(6, 0.5)
            scores["kd", "2", seed, teacher] = np.full(6, value)
    made = study(scores)
    for regime, mean in (("full", 0.4), ("limited", 0.1)):
        table = statistics.paired(made, "probe", teachers=regime)
        assert table["mean"].to_numpy() == pytest.approx(mean)
        assert (table["n"] == 3).all()
    assert statistics.paired(made, "probe", teachers="pretrained").empty
    with pytest.raises(UsageError, match="unknown regime 'rich'; one of: full, limited"):
        statistics.paired(made, "probe", teachers="rich")


@pytest.mark.parametrize(
    ("profile", "target", "wanted"),
    [
        ((0.4, 0.6, 0.8), 0.7, 1.5),
        ((0.4, 0.6, 0.8), 0.8, 2),
        ((0.4, 0.6, 0.8), 0.1, 0),
        ((0.4, 0.9, 0.2, 0.9), 0.65, 0.5),  # the first time counts
        ((0.4, 0.6, 0.8), 0.9, 3),  # never: one layer after the last
    ],
)
def test_the_depth_of_a_target_is_read_off_between_layers(profile, target, wanted):
    assert statistics.depth(profile, target) == pytest.approx(wanted)


def test_layers_saved_by_hand():
    full = "resnet20-full-0"
    scores = {
        ("baseline", "2", 0, full): (0.2, 0.4, 0.6, 0.7, 0.7, 0.9),  # pool repeats block3
        ("kd", "2", 0, full): (0.3, 0.6, 0.8, 0.9, 0.9, 0.9),
        ("baseline", "2", 1, full): (0.2, 0.8, 0.6, 0.7, 0.7, 0.9),  # there before its own end
        ("kd", "2", 1, full): (0.3, 0.5, 0.6, 0.6, 0.6, 0.99),  # never: logits are no layer
        ("kd", "2", 2, full): (0.3, 0.5, 0.6, 0.6, 0.6, 0.99),  # no partner
    }
    table = statistics.saved(study(scores)).set_index("seed")
    assert table["steps"].iloc[0] == ["stem", "block1", "block2", "block3"]
    assert table["difference"].to_dict() == pytest.approx({0: 3 - 1.5, 1: 0.5 / 0.6 - 4})
    assert table["reached"].to_dict() == {0: True, 1: False}


def test_a_pool_that_differs_is_a_step_of_its_own():
    full = "resnet20-full-0"
    scores = {
        ("baseline", "2", 0, full): (0.2, 0.4, 0.6, 0.7, 0.8, 0.9),
        ("kd", "2", 0, full): (0.3, 0.6, 0.8, 0.9, 0.9, 0.9),
    }
    row = statistics.saved(study(scores)).iloc[0]
    assert row["difference"] == pytest.approx(4 - 2)


def test_the_partner_as_accurate_has_the_smallest_larger_budget():
    full = "resnet20-full-0"
    cells = [("kd", "2"), ("kd", "all"), *(("baseline", b) for b in ("2", "5", "10", "all"))]
    scores = {(m, b, 0, full): np.full(6, 0.1 * i) for i, (m, b) in enumerate(cells)}
    found = statistics.matched(study(scores, accuracy=[0.8, 0.9, 0.9, 0.7, 0.8, 0.95]), "probe")
    found = found[found["layer"] == "block1"].set_index("labels")
    assert found.loc["2", "budget"] == "10"  # not alone at 2, nor the first that is larger
    assert found.loc["2", "difference"] == pytest.approx(0 - 0.4)
    assert found.loc["all", ["budget", "difference"]].isna().all()  # no larger budget


def test_a_partner_is_sought_within_its_own_seed():
    full = "resnet20-full-0"
    scores = {
        ("kd", "2", 0, full): np.zeros(6),
        ("baseline", "all", 0, full): np.zeros(6),
        ("baseline", "all", 1, full): np.zeros(6),
    }
    found = statistics.matched(study(scores, accuracy=[0.8, 0.7, 0.9]), "probe")
    assert found["budget"].isna().all()


def test_a_second_form_of_a_method_is_a_method_of_its_own():
    cells = [("baseline", "resnet20-full-0"), ("kd", "resnet20-full-0"), ("kd", "resnet56-full-0")]
    scores = {(m, "2", s, t): np.full(6, 0.5) for m, t in cells for s in range(3)}
    made = study(scores)
    hot = made.runs.query("method == 'kd' and run.str.contains('resnet20')")
    hot = hot.assign(run=hot["run"] + "+temperature=2")
    values = made.measures[made.measures["run"].str.contains("resnet20-full-0/resnet8-kd")]
    values = values.assign(run=values["run"] + "+temperature=2")
    made = made._replace(
        runs=pd.concat([made.runs, hot]), measures=pd.concat([made.measures, values])
    )
    table = statistics.paired(made, "probe")
    assert set(table["method"]) == {"kd", "kd (resnet56)", "kd (resnet20 temperature=2)"}
    assert (table["n"] == 3).all()


def test_ways_compare_maps_with_the_mean_of_independent_ones():
    found = statistics.ways(invented.make(n=20)).set_index(["way", "layer"])
    assert found.loc[("coupled", "block2"), "displacement"] == 0.2
    assert found.loc[("coupled", "block2"), "displacement_turned"] == pytest.approx(0.14)
    assert found.loc[("ivis", "pool"), "rise"] == pytest.approx(-0.05 - 0.02 / 4)
    assert found.loc[("coupled", "stem"), "rise"] == pytest.approx(-0.02 / 4)
    assert found["spread"].to_numpy() == pytest.approx(0.06)
    assert set(found.index.get_level_values("way")).isdisjoint({"original space", "again 1"})
    assert list(dict.fromkeys(found.index.get_level_values("layer"))) == list(invented.LAYERS)


def test_measures_of_unequally_many_images_are_refused():
    results = invented.make(n=20, seeds=1)
    said = results.predictions
    kd = said["run"].str.contains("-kd-")
    fewer = results._replace(predictions=said[~kd | (said["image"] < 15)])
    with pytest.raises(UsageError, match=r"measures compare at equal n only; given n = \[15, 20\]"):
        statistics.differences(fewer, "silhouette")
    assert len(statistics.differences(fewer, statistics.ACCURACY))  # of all test images


def test_the_change_of_a_neighbourhood_is_counted_image_by_image():
    results = invented.make(seeds=1)
    baseline, kd = (
        f"students/resnet20-full/resnet8x0.5-{method}-2-0" for method in ("baseline", "kd")
    )
    table = results.neighbours.sample(frac=1, random_state=0)  # in any order of rows
    found = statistics.change(table, (baseline, "block1"), (kd, "block2"))
    by_cell = dict(list(table.groupby(["run", "layer", "image"])["neighbour"]))
    for image in range(len(results.labels)):
        near = [set(by_cell[baseline, "block1", image]), set(by_cell[kd, "block2", image])]
        assert found[image] == pytest.approx(1 - len(near[0] & near[1]) / 10)
    assert 0 < found.mean() < 1
    assert (statistics.change(table, (kd, "stem"), (kd, "stem")) == 0).all()
    with pytest.raises(UsageError, match=r"unknown run with maps 'kd'; one of: .*teachers/"):
        statistics.change(table, ("kd", "stem"), (kd, "stem"))
    with pytest.raises(UsageError, match=r"unknown layer of .*-kd-2-0 'block9'; one of: .*stem"):
        statistics.change(table, (kd, "stem"), (kd, "block9"))


def test_the_floor_of_a_layer_is_a_mean_over_networks_in_the_order_of_layers():
    results = invented.make(n=20)
    found = statistics.floors(results)
    own = results.faithfulness.query("measure == 'noise_floor' and embedding == 'tsne'")
    values = own[own["layer"] == "block1"]["value"]
    row = found.set_index(["embedding", "layer"]).loc[("tsne", "block1")]
    assert row["mean"] == pytest.approx(values.mean())
    assert (row["low"], row["high"], row["runs"]) == (values.min(), values.max(), len(values))
    assert list(found["layer"])[:6] == list(invented.LAYERS)


# ---- over training


def curve(run, layer, values, measure="silhouette"):
    rows = [(run, epoch, layer, measure, value) for epoch, value in values.items()]
    return pd.DataFrame(rows, columns=["run", "epoch", "layer", "measure", "value"])


@pytest.fixture
def on_the_way():
    """Alone gains 0.5 in 10 passes; distilled gains 1.0, evenly, at the same layer."""
    made = invented.make(seeds=1)
    runs = [f"students/resnet20-full/resnet8x0.5-{m}-2-0" for m in ("baseline", "kd")]
    parts = [curve(runs[0], "stem", {0: 0.0, 5: 0.25, 10: 0.5})]
    parts += [curve(runs[1], "stem", {0: 0.0, 5: 0.5, 10: 1.0})]
    return made, made._replace(training=pd.concat(parts)), runs


def test_the_same_mark_is_nine_tenths_of_what_baseline_gains(on_the_way):
    _, results, _ = on_the_way
    (row,) = statistics.passes(results, "silhouette").to_dict("records")
    assert (row["method"], row["layer"], row["labels"], row["seed"]) == ("kd", "stem", "2", 0)
    assert (row["passes"], row["baseline"]) == (pytest.approx(4.5), pytest.approx(9.0))
    assert row["difference"] == pytest.approx(-4.5)


def test_a_given_target_is_asked_of_both_and_never_reached_counts_as_the_last_pass(on_the_way):
    _, results, _ = on_the_way
    (row,) = statistics.passes(results, "silhouette", 0.75).to_dict("records")
    assert (row["passes"], row["baseline"], row["difference"]) == (7.5, 10, -2.5)


def test_where_baseline_gains_nothing_both_are_there_from_the_beginning(on_the_way):
    _, results, runs = on_the_way
    worse = curve(runs[0], "stem", {0: 0.3, 5: 0.2, 10: 0.1})
    kd = curve(runs[1], "stem", {0: 0.3, 5: 0.5, 10: 1.0})
    (row,) = statistics.passes(
        results._replace(training=pd.concat([worse, kd])), "silhouette"
    ).to_dict("records")
    assert (row["passes"], row["baseline"], row["difference"]) == (0, 0, 0)


def test_a_student_without_its_partner_has_no_passes_to_compare(on_the_way):
    _, results, runs = on_the_way
    only = results.training[results.training["run"] == runs[1]]
    assert statistics.passes(results._replace(training=only), "silhouette").empty


def test_followed_lists_every_pass_of_every_seed_and_no_other_measure():
    made = invented.make(seeds=2)
    table = statistics.followed(made, "knn")
    assert len(table) == 2 * 2 * len(invented.LAYERS) * len(invented.EPOCHS)
    run = "students/resnet20-full/resnet8x0.5-kd-2-1"
    own = made.training[made.training["run"] == run]
    own = own[(own["layer"] == "block2") & (own["measure"] == "knn")]
    found = table.query("method == 'kd' and seed == 1 and layer == 'block2'")
    assert found[["epoch", "value"]].values.tolist() == own[["epoch", "value"]].values.tolist()
    with pytest.raises(UsageError, match="unknown measure 'loss'; one of: within_share"):
        statistics.followed(made, "loss")


def test_a_study_without_a_film_has_nothing_followed():
    made = invented.make(seeds=1)
    made = made._replace(training=made.training.iloc[:0])
    assert statistics.followed(made, "silhouette").empty
    assert statistics.passes(made, "silhouette").empty
