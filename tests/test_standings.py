import itertools

import pandas as pd
import pytest
import results as invented
from scipy import stats

from kdlib.measure import standings
from kdlib.measure.statistics import UNCLEAR

MADE = invented.make(n=20, seeds=1, labels=("2",))  # with other runs in each test


# ---- a method's rows


def constructed(**accuracy):
    """Results of students whose accuracies are given, a list over seeds for each method."""
    rows = []
    for name, accuracies in accuracy.items():
        method, _, network = name.partition("__")
        for seed, value in enumerate(accuracies):
            row = {"run": f"{name}-{seed}", "method": method, "network": network or "small"}
            rows.append(row | {"seed": seed, "test_accuracy": value})
    return MADE._replace(runs=invented.table_of_runs(rows))


ACCURACIES = {
    "baseline": [0.5, 0.6, 0.7],
    "kd": [0.8, 0.91, 0.99],
    "at": [0.5, 0.7, 0.6],
    "random": [0.1, 0.21, 0.29],
    "baseline__large": [0.6, 0.6, 0.6],
    "fsp__large": [0.7, 0.71, 0.72],
    "kd__large": [0.7, 0.7, 0.7],
    "self__huge": [0.9, 0.9, 0.9],
    "sp": [0.9],
}


@pytest.fixture(scope="module")
def table():
    return standings.standings(constructed(**ACCURACIES))


def of(table, method):
    return table[table["method"] == method].iloc[0]


def test_standings_name_what_is_better_than_baseline(table):
    words = {m: of(table, m)["beside"] for m in ("kd", "at", "random", "fsp")}
    assert words == {"kd": "better", "at": UNCLEAR, "random": "worse", "fsp": "better"}
    kd = of(table, "kd")
    assert kd["accuracy"] == pytest.approx(0.9)
    assert kd["gain"] == pytest.approx(0.3)
    assert (kd["least"], kd["most"]) == pytest.approx((0.29, 0.31))
    assert (kd["n"], kd["pairs"]) == (3, 3)


def test_a_method_is_compared_with_baseline_of_its_own_network(table):
    assert of(table, "fsp")["gain"] == pytest.approx(0.11)
    lonely = of(table, "self")
    assert pd.isna(lonely["gain"])
    assert lonely["beside"] == ""


def test_every_method_has_one_network_and_strangers_are_named(table):
    home = standings.one_network_each(table)
    assert not home.duplicated(["method", "labels"]).any()
    assert of(home, "kd")["network"] == "small"
    names = set(home["name"])
    assert {"kd", "baseline", "fsp, large", "self, huge"} <= names


# ---- pairs of networks


def paired_networks(gain, seeds=3):
    """Runs of two students with two teachers, `gain(teacher, student, seed)` above the baseline."""
    sizes = {"large": 1000, "wide-16-2": 500, "small": 10, "tiny": 5}
    rows = []
    for network in ("large", "wide-16-2"):
        teacher = {"role": "teacher", "method": "baseline", "labels": "all", "regime": "full"}
        rows.append(teacher | {"run": f"teachers/{network}", "network": network})
    for student, seed in itertools.product(("small", "tiny"), range(seeds)):
        row = {"network": student, "seed": seed, "labels": "5"}
        rows.append(row | {"run": f"{student}-{seed}", "method": "baseline"})
        for network in ("large", "wide-16-2"):
            row |= {"teacher": f"teachers/{network}", "teacher_network": network, "regime": "full"}
            score = 0.5 + gain(network, student, seed)
            rows.append(row | {"run": f"{network}-{student}-{seed}", "test_accuracy": score})
    table = invented.table_of_runs(rows)
    return table.assign(parameters=table["network"].map(sizes))


def of_pairs(gain, seeds=3):
    return standings.pairs(MADE._replace(runs=paired_networks(gain, seeds)))


def test_every_pair_has_its_own_gain_with_interval():
    table = of_pairs(lambda t, s, seed: 0.1 * (t == "large") + 0.2 * (s == "tiny") + 0.01 * seed)
    assert list(zip(table["teacher"], table["network"], strict=True)) == [
        *(("wide-16-2", "tiny"), ("wide-16-2", "small"), ("large", "tiny"), ("large", "small")),
    ]
    assert list(table["gain"]) == pytest.approx([0.21, 0.01, 0.31, 0.11])
    assert list(table["smaller"]) == [100, 50, 200, 100]
    assert set(table["n"]) == {3}
    interval = stats.ttest_1samp([0.30, 0.31, 0.32], 0).confidence_interval(0.95)
    assert table.loc[2, ["low", "high"]].to_list() == pytest.approx(list(interval))
    assert list(table["accuracy"] - table["baseline"]) == pytest.approx(list(table["gain"]))


@pytest.mark.parametrize(
    ("gain", "whom"),
    [
        (lambda t, s, _: 0.1 * (s == "tiny"), "student"),
        (lambda t, s, _: 0.1 * (t == "large"), "teacher"),
        (lambda t, s, _: 0.1 * ((t == "large") == (s == "tiny")), "pair"),
    ],
)
def test_the_spread_of_gains_goes_with_whom_it_hangs_on(gain, whom):
    shares = standings.shares(of_pairs(gain))
    assert shares[whom] == pytest.approx(1)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_grid_with_a_hole_has_no_shares():
    table = of_pairs(lambda t, s, seed: 0.1)
    assert standings.shares(table) == {"student": 0, "teacher": 0, "pair": 0}
    assert standings.shares(table.iloc[1:]) == {}
    assert standings.shares(table.iloc[:0]) == {}


def test_no_runs_make_no_pairs():
    assert standings.pairs(MADE._replace(runs=MADE.runs.iloc[:0])).empty


def test_a_study_without_a_distilled_method_has_no_pairs():
    runs = MADE.runs[MADE.runs["method"].isin(["baseline", "smooth"])]
    assert standings.pairs(MADE._replace(runs=runs)).empty
