"""Differences between networks over seeds, with their intervals.

The seed is the unit of replication: images of one network are not independent evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from kdlib import UsageError, one_of
from kdlib.plan.methods import BASELINE, METHODS
from kdlib.plan.runs import REGIMES
from kdlib.store import Results

PAIR = ["network", "labels", "seed"]  # what two runs share that differ in the method only
ACCURACY = "test_accuracy"  # a column of `runs` that pairs like a measure
CELL = ["network", "method", "labels", "layer"]
UNCLEAR = "not told apart"  # an interval that contains 0, and no proof of equivalence
EQUIVALENT = "no different"  # by the test of equivalence
MARGIN = 0.01  # of test accuracy, a point: less makes no difference
ENOUGH = 5  # seeds for EQUIVALENT
NUMBERS = ["mean", "low", "high", "n", "d", "p", "p_flip"]  # the columns of a difference
CONTROLS = tuple(key for key, method in METHODS.items() if method.control)
EQUAL = 1e-9  # a spread below this is rounding


# ---- which runs are compared -------------------------------------------------------------------


def size(labels: str) -> float:
    """Return a label budget as a number that sorts; "all" is the largest."""
    return float(labels) if labels.isdecimal() else np.inf


def regimes(results: Results) -> list[str]:
    """List the regimes of the teachers that students had, the one with most labels first.

    Only "full" where no student had a teacher.
    """
    runs = results.runs
    present = set(runs.loc[runs["role"] == "student", "regime"])
    return [regime for regime in REGIMES if regime in present] or ["full"]


def students(results: Results, regime: str | None = None) -> pd.DataFrame:
    """Return the students of one regime of teachers, and those that need no teacher.

    By default of the first regime of the study. `key` is the method's name in `runs`. A method
    that was run in several forms, with teachers of several networks or with other options, is
    `method` "kd" in its first form and a method of its own in the others:
    "kd (resnet20 temperature=2)". Of runs that differ in nothing but the seed of their teacher,
    and of several baselines, the first counts.
    """
    regime = regimes(results)[0] if regime is None else regime
    one_of("regime", regime, REGIMES)
    runs = results.runs[results.runs["role"] == "student"]
    runs = runs[runs["regime"].isin([regime, ""])]
    runs = runs.assign(key=runs["method"], form=_forms(results, runs))
    first = runs.groupby(["network", "labels", "key"])["form"].transform("first")
    other = (runs["form"] != first) & (runs["key"] != BASELINE)
    runs["method"] = runs["key"].where(~other, runs["key"] + " (" + runs["form"] + ")")
    return runs.drop(columns="form").drop_duplicates([*PAIR, "method"])


def _forms(results: Results, runs: pd.DataFrame) -> pd.Series:
    """Describe how each method was run: its teacher's network and options, and its own options."""
    options = results.runs.set_index("run")["options"]
    of_teacher = runs["teacher"].map(options[~options.index.duplicated()]).fillna("")
    parts = [runs["teacher_network"], of_teacher, runs["options"]]
    words = [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]
    return pd.Series(words, runs.index, dtype=object)


def values(
    results: Results, measure: str, *, regime: str | None = None, embedding: str | None = None
) -> pd.DataFrame:
    """List a measure of every student: run, method, network, labels, seed, layer, value.

    With an `embedding` the measure is one of its maps. Raises UsageError for an unknown measure or
    embedding, and where networks were measured on unequal numbers of images.
    """
    runs = students(results, regime)[["run", "method", *PAIR, ACCURACY]]
    if measure == ACCURACY:  # of the whole network: one value, at a layer of that name
        return runs.rename(columns={ACCURACY: "value"}).assign(layer="network")
    table = results.measures
    if embedding is not None:
        one_of("embedding", embedding, results.faithfulness["embedding"].unique())
        table = results.faithfulness[results.faithfulness["embedding"] == embedding]
    one_of("measure", measure, [*table["measure"].unique(), ACCURACY])
    _check_equal_n(results, runs["run"])
    table = table.loc[table["measure"] == measure, ["run", "layer", "value"]]
    return runs.drop(columns=ACCURACY).merge(table, on="run")


def _check_equal_n(results: Results, runs: pd.Series) -> None:
    """Raise UsageError where networks were measured on unequal numbers of images.

    Some measures grow with n (`metrics.Measure.depends_on_n`).
    """
    images = results.predictions["run"].value_counts()
    counts = sorted(set(images[images.index.isin(runs)].tolist()))
    if len(counts) > 1:
        raise UsageError(f"measures compare at equal n only; given n = {counts}")


def differences(
    results: Results, measure: str, *, regime: str | None = None, embedding: str | None = None
) -> pd.DataFrame:
    """Return every seed's difference method - baseline, layer by layer.

    Runs are paired: with one seed they share the labelled images, the initial weights and the
    order of batches. A run whose partner is missing is left out. `regime` is that of the methods'
    teachers (see `students`); with an `embedding` the measure is one of its maps.

    Returns columns network, method, labels, layer, seed, difference.
    """
    table = values(results, measure, regime=regime, embedding=embedding)
    baseline = table[table["method"] == BASELINE][[*PAIR, "layer", "value"]]
    pairs = table[table["method"] != BASELINE].merge(
        baseline, on=[*PAIR, "layer"], suffixes=("", "_baseline"), validate="many_to_one"
    )
    pairs["difference"] = pairs["value"] - pairs["value_baseline"]
    return pairs[[*CELL, "seed", "difference"]]


def matched(results: Results, measure: str, *, regime: str | None = None) -> pd.DataFrame:
    """Return every seed's difference to a baseline that is as accurate, thanks to more labels.

    The partner is the baseline of the same seed with the smallest larger label budget whose test
    accuracy is at least the method's. No other network takes its place.

    Returns columns network, method, labels, seed, budget (the partner's labels; NaN: there is no
    such student), layer, difference (NaN likewise).
    """
    runs = students(results, regime)
    runs["budget"] = runs["labels"].map(size)
    runs = runs[["run", "method", *PAIR, "budget", ACCURACY]]
    baselines, distilled = runs[runs["method"] == BASELINE], runs[runs["method"] != BASELINE]
    pairs = distilled.merge(baselines, on=["network", "seed"], suffixes=("", "_baseline"))
    more_labels = pairs["budget_baseline"] > pairs["budget"]
    as_accurate = pairs[f"{ACCURACY}_baseline"] >= pairs[ACCURACY]
    pairs = pairs[more_labels & as_accurate].sort_values("budget_baseline", kind="stable")
    partners = pairs.drop_duplicates("run")[["run", "run_baseline", "labels_baseline"]]
    own = values(results, measure, regime=regime)[["run", "layer", "value"]]
    others = own.set_axis(["run_baseline", "layer", "value_baseline"], axis=1)
    table = distilled.drop(columns="budget").merge(partners, on="run", how="left")
    table = table.merge(own, on="run")
    table = table.merge(others, on=["run_baseline", "layer"], how="left")
    table["difference"] = table["value"] - table["value_baseline"]
    table = table.rename(columns={"labels_baseline": "budget"})
    return table[["network", "method", "labels", "seed", "budget", "layer", "difference"]]


# ---- means, intervals and tests ----------------------------------------------------------------


def summarise(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average the column `difference` within groups, each of whose rows is one seed.

    Returns the columns `by` and: mean; low and high, the 95 % t interval (df = n - 1); n; d,
    Cohen's d of paired differences, mean / standard deviation; p of the t test; p_flip (see
    `sign_flip`). One seed has a mean only, the rest is NaN. Differences that are equal in all
    seeds have no spread to judge by: no d and no p.
    """
    groups = table.astype({"difference": float}).groupby(list(by), sort=False)["difference"]
    rows = groups.agg(mean="mean", spread="std", n="count", p_flip=sign_flip).reset_index()
    spread = rows["spread"].mask(rows["spread"] < EQUAL)  # NaN where there is none to judge by
    error = spread / rows["n"] ** 0.5
    half = stats.t.ppf(0.975, rows["n"] - 1) * rows["spread"] / rows["n"] ** 0.5
    return rows.assign(
        low=rows["mean"] - half,
        high=rows["mean"] + half,
        d=rows["mean"] / spread,
        p=2 * stats.t.sf((rows["mean"] / error).abs(), rows["n"] - 1),
        p_flip=rows["p_flip"].astype(float),
    )[[*by, *NUMBERS]]


def minus(one: pd.Series, other: pd.Series) -> pd.Series:
    """Average one - other over the seeds that index both: the numbers of `summarise`."""
    pairs = (one - other).dropna().rename("difference").to_frame()
    rows = summarise(pairs.assign(of=""), ["of"])
    empty = dict.fromkeys(NUMBERS, np.nan) | {"n": 0}
    return rows.loc[0, NUMBERS] if len(rows) else pd.Series(empty)


def paired(results: Results, measure: str, *, regime: str | None = None) -> pd.DataFrame:
    """Average the paired differences over seeds, with the 95 % t interval (df = n - 1).

    One seed has no interval: low and high are NaN.

    Returns columns network, method, labels, layer, mean, low, high, n.
    """
    table = summarise(differences(results, measure, regime=regime), CELL)
    return table[[*CELL, "mean", "low", "high", "n"]]


def equivalence(
    mean: float, low: float, high: float, n: int | float, *, margin: float = MARGIN
) -> float:
    """Return the p of the test of equivalence: does the mean lie within `margin` of 0?

    The larger p of two one-sided t tests, of a mean at most -margin and of one at least margin
    (Schuirmann 1987). Below 0.05 means that a 90 % t interval lies within the margin. Takes the
    numbers of `summarise`: the standard error comes from low and high, the 95 % t interval over
    n seeds. NaN with fewer than two seeds. Raises UsageError for a margin that is not above 0.

    >>> round(equivalence(0.001, -0.004, 0.006, 5), 4)
    0.0038
    """
    if not margin > 0:
        raise UsageError(f"a margin of equivalence of {margin}; allowed: above 0")
    if not n >= 2:
        return float("nan")
    error = (high - low) / 2 / stats.t.ppf(0.975, n - 1)
    if error < EQUAL:
        return 0.0 if abs(mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(mean)) / error, n - 1))


def sign_flip(differences: Iterable[float]) -> float | None:
    """Return the exact two-sided p of the mean under all 2^n flips of sign (Fisher 1935).

    None below 6 seeds, where the smallest possible p is above 0.05 (2 / 2^5 = 0.0625), and above
    20, where there are too many flips to go through.
    """
    sample = np.asarray(list(differences), dtype=float)
    if not 6 <= len(sample) <= 20:
        return None
    test = stats.permutation_test(
        (sample,), np.sum, permutation_type="samples", n_resamples=np.inf, batch=2**14
    )
    return float(test.pvalue)


def holm(p: Iterable[float]) -> Float[np.ndarray, " m"]:
    """Adjust the p of m tests so that they may be read together (Holm 1979).

    The i-th smallest, from 1, becomes max over j <= i of (m - j + 1) p_j, 1 at most. NaN is no
    test: it stays and does not count. Not by statsmodels, whose function collects garbage at every
    call: 0.3 s for each cell of the verdicts.
    """
    raw = np.asarray(list(p), dtype=float)
    tests = np.flatnonzero(np.isfinite(raw))
    order = tests[np.argsort(raw[tests])]
    steps = raw[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(raw), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def welch(one: Iterable[float], other: Iterable[float]) -> dict[str, float]:
    """Compare the means of two groups that share no seeds: mean of one - mean of other.

    The interval and p are those of Welch's t test (1947); d divides by the pooled standard
    deviation; n is the smaller group. A group of one has no interval; groups without any spread
    have no d and no p.
    """
    x, y = (np.asarray(list(group), dtype=float) for group in (one, other))
    mean, n = x.mean() - y.mean(), min(len(x), len(y))
    row = dict.fromkeys(NUMBERS, np.nan) | {"mean": mean, "n": n}
    if n < 2:
        return row
    if np.hypot(stats.sem(x), stats.sem(y)) < EQUAL:
        return row | {"low": mean, "high": mean}
    test = stats.ttest_ind(x, y, equal_var=False)
    low, high = test.confidence_interval(0.95)
    pooled = np.sqrt((x.var() * len(x) + y.var() * len(y)) / (len(x) + len(y) - 2))
    return row | {"low": low, "high": high, "d": mean / pooled, "p": test.pvalue}


# ---- in words ----------------------------------------------------------------------------------


def _cell(results: Results, measure: str, layer: str, method: str, labels: str) -> pd.Series:
    table = paired(results, measure)
    rows = table[(table["layer"] == layer) & (table["labels"] == labels)]
    one_of(f"method beside baseline at {labels} labels", method, rows["method"].unique())
    return rows[rows["method"] == method].iloc[0]


def gain(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Write what a method gains over the baseline: mean paired difference, interval, seeds.

    Raises UsageError where the study holds no such pair.

    >>> gain(results, "knn", "block2", method="kd", labels="2")
    '+0.17 (95 % interval +0.11 to +0.23, n = 3 seeds)'
    """
    row = _cell(results, measure, layer, method, labels)
    if row["n"] == 1:
        return f"{row['mean']:+.2f} (one seed: no interval)"
    low, high = f"{row['low']:+.2f}", f"{row['high']:+.2f}"
    return f"{row['mean']:+.2f} (95 % interval {low} to {high}, n = {row['n']} seeds)"


def side(low: float, high: float, *, above: str = "higher", below: str = "lower") -> str:
    """Name the side of 0 on which an interval lies: UNCLEAR where it holds 0 or is none."""
    if low > 0:
        return above
    return below if high < 0 else UNCLEAR


def beside(
    mean: float,
    low: float,
    high: float,
    n: int | float,
    *,
    above: str = "higher",
    below: str = "lower",
    margin: float = MARGIN,
) -> str:
    """Name where an accuracy lies beside another: above, below, EQUIVALENT or UNCLEAR.

    By `side` of the 95 % t interval over n seeds. Where that holds 0, EQUIVALENT needs ENOUGH seeds
    and the test of `equivalence`; without it two accuracies are not told apart, which is no proof
    that they are equal.
    """
    where = side(low, high, above=above, below=below)
    if where != UNCLEAR or n < ENOUGH:
        return where
    return EQUIVALENT if equivalence(mean, low, high, n, margin=margin) < 0.05 else UNCLEAR
