"""Differences between networks over seeds, with their intervals.

The seed is the unit of replication: images of one network are not independent evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from kdlib import UsageError, one_of
from kdlib.plan.runs import REGIMES, regime_of
from kdlib.store import Results

PAIR = ["network", "labels", "seed"]  # what two runs share that differ in the method only
ACCURACY = "test_accuracy"  # a column of runs that pairs like a measure
CELL = ["network", "method", "labels", "layer"]
NUMBERS = ["mean", "low", "high", "n", "d", "p", "p_flip"]  # what is said of a difference
CONTROLS = ("smooth", "pseudo", "shuffled", "random")  # no knowledge of a trained teacher's own
INDEPENDENT = ("own start", "shared start")  # ways of drawing maps that cannot borrow
AGAIN = "again "  # how the same from a shared start, jittered, are called
EQUAL = 1e-9  # a spread below this is rounding


# ---- who is compared with whom -----------------------------------------------------------------


def teacher(run: str) -> str:
    """Name the teacher of a student, as `runs` has it.

    >>> teacher("students/resnet20-limited-2-0/resnet8-kd-2-0")
    'teachers/resnet20-limited-2-0'
    """
    return f"teachers/{run.split('/')[1]}"


def regime(run: str) -> str:
    """Say what a student's teacher learnt from: full, limited or pretrained; full if unnamed."""
    return regime_of(teacher(run))


def size(labels: str) -> float:
    """Give a label budget as a number that sorts: `all` is the largest."""
    return float(labels) if labels.isdigit() else np.inf


def regimes(results: Results) -> list[str]:
    """List the regimes of teachers in a study, the fullest first; full where there is no method."""
    runs = results.runs[
        (results.runs["role"] == "student") & (results.runs["method"] != "baseline")
    ]
    found = set(runs["run"].map(regime))
    return [regime for regime in REGIMES if regime in found] or ["full"]


def students(results: Results, teachers: str | None = None) -> pd.DataFrame:
    """Pick the students of one regime of teachers, with baselines, who have none.

    Without a regime: of the first one that the study has. Where a baseline was trained
    beside several teachers it is the same one: kept once. A second form of one method, with
    another teacher or other options, is a method of its own: "kd (resnet20 temperature=2)".
    """
    teachers = regimes(results)[0] if teachers is None else teachers
    one_of("regime", teachers, REGIMES)
    found = results.runs[results.runs["role"] == "student"]
    found = found[(found["method"] == "baseline") | (found["run"].map(regime) == teachers)].copy()
    again = found.duplicated([*PAIR, "method"]) & (found["method"] != "baseline")
    found.loc[again, "method"] += " (" + found.loc[again, "run"].map(_form) + ")"
    return found.drop_duplicates([*PAIR, "method"])


def _form(run: str) -> str:
    """What tells a student from others of its method: the teacher's network, changed options."""
    return " ".join([_network(run.split("/")[1]), *run.split("/")[-1].split("+")[1:]])


def _network(teacher: str) -> str:
    """Take a teacher's network from the name of its folder: resnet20 of resnet20-full-0."""
    return re.split(rf"-(?:{'|'.join(REGIMES)})(?:-|$)", teacher)[0]


def _values(
    results: Results, measure: str, teachers: str | None, embedding: str | None
) -> pd.DataFrame:
    """List a measure of every student: run, method, network, labels, seed, layer, value."""
    found = students(results, teachers)[["run", "method", *PAIR, ACCURACY]]
    if measure == ACCURACY:  # of the whole network: one value, at a layer of that name
        return found.rename(columns={ACCURACY: "value"}).assign(layer="network")
    table = results.measures
    if embedding is not None:
        one_of("embedding", embedding, results.faithfulness["embedding"].unique())
        table = results.faithfulness[results.faithfulness["embedding"] == embedding]
    one_of("measure", measure, [*table["measure"].unique(), ACCURACY])
    _check_equal_n(results, found["run"])
    table = table.loc[table["measure"] == measure, ["run", "layer", "value"]]
    return found.drop(columns=ACCURACY).merge(table, on="run")


def _check_equal_n(results: Results, runs: pd.Series) -> None:
    """Raise UsageError where networks were shown unequal numbers of images.

    Some measures grow with n (`metrics.Measure.depends_on_n`).
    """
    shown = results.predictions["run"].value_counts()
    counts = sorted(set(shown[shown.index.isin(runs)].tolist()))
    if len(counts) > 1:
        raise UsageError(f"measures compare at equal n only; given n = {counts}")


def differences(
    results: Results, measure: str, *, teachers: str | None = None, embedding: str | None = None
) -> pd.DataFrame:
    """Give every seed's difference method - baseline, layer by layer.

    Runs are paired: with one seed they share the labelled images, the first weights and the order
    of batches. A run whose partner is missing is left out. `teachers` is the regime of the
    methods' teachers (see `students`); with an `embedding` the measure is one of its maps.

    Returns columns network, method, labels, layer, seed, difference.
    """
    table = _values(results, measure, teachers, embedding)
    baseline = table[table["method"] == "baseline"][[*PAIR, "layer", "value"]]
    pairs = table[table["method"] != "baseline"].merge(
        baseline, on=[*PAIR, "layer"], suffixes=("", "_baseline"), validate="many_to_one"
    )
    pairs["difference"] = pairs["value"] - pairs["value_baseline"]
    return pairs[[*CELL, "seed", "difference"]]


# ---- over seeds --------------------------------------------------------------------------------


def summarise(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average the column `difference` within groups, one row of it being one seed.

    Returns the columns `by` and: mean; low and high, the 95 % t interval (df = n - 1); n; d,
    Cohen's d of paired differences, mean / standard deviation; p of the t test; p_flip (see
    `sign_flip`). One seed has a mean only, the rest is NaN. Differences that are equal in all
    seeds have no spread to judge by: no d and no p.
    """
    groups = table.astype({"difference": float}).groupby(list(by), sort=False)["difference"]
    found = groups.agg(mean="mean", spread="std", n="count", p_flip=sign_flip).reset_index()
    spread = found["spread"].mask(found["spread"] < EQUAL)  # NaN where there is none to judge by
    error = spread / found["n"] ** 0.5
    half = stats.t.ppf(0.975, found["n"] - 1) * found["spread"] / found["n"] ** 0.5
    return found.assign(
        low=found["mean"] - half,
        high=found["mean"] + half,
        d=found["mean"] / spread,
        p=2 * stats.t.sf((found["mean"] / error).abs(), found["n"] - 1),
        p_flip=found["p_flip"].astype(float),
    )[[*by, *NUMBERS]]


def paired(results: Results, measure: str, *, teachers: str | None = None) -> pd.DataFrame:
    """Average the paired differences over seeds, with the 95 % t interval (df = n - 1).

    One seed has no interval: low and high are NaN.

    Returns columns network, method, labels, layer, mean, low, high, n.
    """
    table = summarise(differences(results, measure, teachers=teachers), CELL)
    return table[[*CELL, "mean", "low", "high", "n"]]


STANDING = ["network", "method", "labels", "accuracy", "low", "high", "n"]
GAIN = ["gain", "gain_low", "gain_high", "pairs", "least", "most", "beside"]


def standings(results: Results, *, teachers: str = "full") -> pd.DataFrame:
    """Sum up, over seeds, how every method does and what it adds to the baseline.

    Returns network, method, labels; accuracy with low and high, its 95 % t interval over n seeds;
    gain with gain_low and gain_high, the same of the paired difference to baseline; pairs, their
    number; least and most, the gains of single seeds; beside: better, worse or not told apart, by
    whether the interval excludes 0. Without a pair these are NaN and an empty word. First comes
    the network that most runs share. Empty where no student was trained.
    """
    if results.runs.empty:
        return pd.DataFrame(columns=[*STANDING, *GAIN])
    by = STANDING[:3]
    scores = summarise(students(results, teachers).assign(difference=lambda t: t[ACCURACY]), by)
    each = differences(results, ACCURACY, teachers=teachers)
    gains = (
        summarise(each, by).set_index(by)[["mean", "low", "high", "n"]].set_axis(GAIN[:4], axis=1)
    )
    single = each.groupby(by)["difference"].agg(least="min", most="max")
    table = scores.rename(columns={"mean": "accuracy"})[STANDING]
    table = table.merge(gains.join(single).reset_index(), how="left", on=by)
    table["beside"] = [
        "" if pd.isna(low) else "better" if low > 0 else "worse" if high < 0 else "not told apart"
        for low, high in zip(table["gain_low"], table["gain_high"], strict=True)
    ]
    common = table["network"].map(-table["network"].value_counts())
    return table.loc[common.sort_values(kind="stable").index].reset_index(drop=True)


def at_home(table: pd.DataFrame) -> pd.DataFrame:
    """Keep of `standings` one network per method: the first, which most others share.

    A column `name` is the method, and its network where that is another one.
    """
    first = table.groupby("method", sort=False)["network"].transform("first")
    kept = table[table["network"] == first].reset_index(drop=True)
    other = kept["network"] != (kept["network"].iloc[0] if len(kept) else "")
    return kept.assign(name=kept["method"] + (", " + kept["network"]).where(other, ""))


PAIRED = ["teacher", *STANDING[:3], "gain", "low", "high", "n", "accuracy", "baseline", "smaller"]


def pairs(results: Results) -> pd.DataFrame:
    """Sum up, over seeds, what every method adds for every pair of a teacher and a student.

    Paired like `differences`, but every teacher apart: teachers of the first regime that the
    study has, each called by its network.

    Returns teacher, network, method, labels; gain with low and high, its 95 % t interval over n
    seeds; baseline and accuracy, the means of the two that are compared; smaller, how many times as
    many parameters as the student its teacher has. Networks by size. Empty where nothing was run.
    """
    if results.runs.empty:
        return pd.DataFrame(columns=PAIRED)
    runs = students(results).drop(columns="method").join(results.runs[["method"]])
    sizes = results.runs.groupby("network")["parameters"].first()
    baseline = runs.loc[runs["method"] == "baseline", [*PAIR, ACCURACY]]
    found = runs[runs["method"] != "baseline"].merge(baseline, on=PAIR, suffixes=("", "_baseline"))
    found["teacher"] = found["run"].map(lambda run: _network(run.split("/")[1]))
    by = ["teacher", *STANDING[:3]]
    found = found.drop_duplicates([*by, "seed"])
    table = found.assign(difference=found[ACCURACY] - found[f"{ACCURACY}_baseline"])
    means = table.groupby(by)[[ACCURACY, f"{ACCURACY}_baseline"]].mean()
    means.columns = ["accuracy", "baseline"]
    table = summarise(table, by)[[*by, "mean", "low", "high", "n"]].rename(columns={"mean": "gain"})
    table = table.merge(means.reset_index(), on=by)
    ours, theirs = (table[c].map(sizes) for c in ("network", "teacher"))
    order = pd.DataFrame({"teacher": theirs, "student": ours}).sort_values(["teacher", "student"])
    return table.assign(smaller=theirs / ours).loc[order.index].reset_index(drop=True)


def shares(table: pd.DataFrame) -> dict[str, float]:
    """Split the spread of the gains of `pairs` by what it goes with: student, teacher, the pair.

    g_st = mean + a_s + b_t + c_st: the sums of squares of a, b and c over their sum; c is what
    student and teacher by themselves do not tell, noise of the seeds included. For one method and
    label budget. Empty unless every student has every teacher, and there are two or more of each.
    """
    cells = table.pivot(index="network", columns="teacher", values="gain")
    if min(cells.shape, default=0) < 2 or cells.isna().any(axis=None):
        return {}
    gain = cells.to_numpy() - cells.to_numpy().mean()
    a, b = gain.mean(1, keepdims=True), gain.mean(0, keepdims=True)
    parts = {"student": a + 0 * b, "teacher": b + 0 * a, "pair": gain - a - b}
    total = float((gain**2).sum())
    return {name: float((part**2).sum()) / total if total else 0.0 for name, part in parts.items()}


def sign_flip(differences: Iterable[float]) -> float | None:
    """Give the exact two-sided p of the mean under all 2^n flips of sign (Fisher 1935).

    None below 6 seeds, where the smallest possible p is above 0.05 (2 / 2^5 = 0.0625), and above
    20, where there are too many flips to go through.
    """
    values = np.asarray(list(differences), dtype=float)
    if not 6 <= len(values) <= 20:
        return None
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(values.sum()) * (1 - 1e-9)).mean())


def holm(p: Iterable[float]) -> Float[np.ndarray, " m"]:
    """Adjust the p of m tests so that they may be read together (Holm 1979).

    The i-th smallest, from 1, becomes max over j <= i of (m - j + 1) p_j, 1 at most. NaN is no
    test: it stays and does not count.
    """
    given = np.asarray(list(p), dtype=float)
    order = np.argsort(given)[: np.isfinite(given).sum()]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(given), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def welch(one: Iterable[float], other: Iterable[float]) -> dict[str, float]:
    """Compare the means of two groups that share no seeds: mean of one - mean of other.

    The interval and p have the degrees of freedom of Welch (1947); d divides by the pooled
    standard deviation; n is the smaller group. A group of one has no interval; groups without
    any spread have no d and no p.
    """
    x, y = (np.asarray(list(group), dtype=float) for group in (one, other))
    mean, n = x.mean() - y.mean(), min(len(x), len(y))
    nothing = dict.fromkeys(NUMBERS, np.nan) | {"mean": mean, "n": n}
    if n < 2:
        return nothing
    a, b = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    error = np.sqrt(a + b)
    if error < EQUAL:
        return nothing | {"low": mean, "high": mean}
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    half = stats.t.ppf(0.975, freedom) * error
    spread = np.sqrt((x.var() * len(x) + y.var() * len(y)) / (len(x) + len(y) - 2))
    p = 2 * stats.t.sf(abs(mean) / error, freedom)
    return nothing | {"low": mean - half, "high": mean + half, "d": mean / spread, "p": p}


def compare(
    results: Results, measure: str, *, teachers: str | None = None, embedding: str | None = None
) -> pd.DataFrame:
    """Compare every method with baseline, layer by layer: paired, or by Welch where no seed is shared.

    Returns the columns of CELL and NUMBERS.
    """
    pairs = differences(results, measure, teachers=teachers, embedding=embedding)
    table = summarise(pairs, CELL)
    known = set(table[CELL].itertuples(index=False, name=None))
    groups = dict(list(_values(results, measure, teachers, embedding).groupby(CELL)["value"]))
    rows = [
        dict(zip(CELL, cell, strict=True)) | welch(values, groups[baseline])
        for cell, values in groups.items()
        if cell[1] != "baseline"
        and cell not in known
        and (baseline := (cell[0], "baseline", *cell[2:])) in groups
    ]
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True) if rows else table


# ---- earlier, and as accurate ------------------------------------------------------------------


def depth(profile: Iterable[float], target: float) -> float:
    """Say how many layers deep a profile first reaches a target; 0 is the first layer.

    Linear between layers. One that never reaches it counts as reaching it one layer after the
    last: a stand-in, always worse than any that does.

    >>> depth([0.4, 0.6, 0.8], 0.7)
    1.5
    """
    values = np.asarray(list(profile), dtype=float)
    above = np.flatnonzero(values >= target)
    if not len(above):
        return float(len(values))
    if not above[0]:
        return 0.0
    low, high = values[above[0] - 1 : above[0] + 1]
    return float(above[0] - 1 + (target - low) / (high - low))


def depths(table: pd.DataFrame) -> list[str]:
    """Choose the layers that count as steps: columns of `table`, without those that repeat.

    Logits are the answer, not a layer on the way. A layer equal to the one before, as the pool
    of a ResNet, is the same one again.
    """
    kept: list[str] = []
    for layer in table.columns.drop("logits", errors="ignore"):
        if not kept or not np.allclose(table[layer], table[kept[-1]]):
            kept.append(layer)
    return kept


def saved(results: Results, measure: str = "probe", *, teachers: str | None = None) -> pd.DataFrame:
    """Count the layers that a student saves: at what depth is it as good as baseline at its end?

    Per seed: the depth where the baseline first reaches the accuracy of its own last layer,
    minus the depth where the distilled one does (see `depth`).

    Returns columns network, method, labels, seed, steps (of that network), baseline and depth (both
    in layers, 0 the first), reached, difference.
    """
    values = _values(results, measure, teachers, None)
    order = [layer for layer in results.study["layers"] if layer in set(values["layer"])]
    rows = []
    for network, of in values.groupby("network", sort=False):
        table = of.pivot_table(index=["method", *PAIR[1:]], columns="layer", values="value")
        table = table[order].dropna()
        steps = depths(table)
        for (method, labels, seed), profile in table[steps].iterrows():
            partner = ("baseline", labels, seed)
            if method == "baseline" or partner not in table.index:
                continue
            baseline = table.loc[partner, steps]
            own, found = (depth(those, baseline.iloc[-1]) for those in (baseline, profile))
            reached = found < len(steps)
            rows.append((network, method, labels, seed, steps, own, found, reached, own - found))
    columns = ["network", "method", "labels", "seed", "steps", "baseline", "depth", "reached"]
    return pd.DataFrame(rows, columns=[*columns, "difference"])


def matched(results: Results, measure: str, *, teachers: str | None = None) -> pd.DataFrame:
    """Compare a method with a baseline that is as accurate, thanks to more labels.

    Per seed the partner is the baseline of the smallest larger label budget whose test
    accuracy is at least the method's. No other network takes its place.

    Returns columns network, method, labels, seed, budget (the partner's labels; NaN: there is no
    such student), layer, difference (NaN likewise).
    """
    runs = students(results, teachers).assign(rank=lambda t: t["labels"].map(size))
    runs = runs[["run", "method", *PAIR, "rank", ACCURACY]]
    baseline, taught = runs[runs["method"] == "baseline"], runs[runs["method"] != "baseline"]
    both = taught.merge(baseline, on=["network", "seed"], suffixes=("", "_baseline"))
    more = both["rank_baseline"] > both["rank"]
    found = both[more & (both[f"{ACCURACY}_baseline"] >= both[ACCURACY])]
    found = found.sort_values("rank_baseline", kind="stable").drop_duplicates("run")
    found = found[["run", "run_baseline", "labels_baseline"]].rename(
        columns={"labels_baseline": "budget"}
    )
    values = _values(results, measure, teachers, None)[["run", "layer", "value"]]
    table = taught.merge(found, on="run", how="left").merge(values, on="run")
    table = table.merge(
        values.add_suffix("_baseline").rename(columns={"layer_baseline": "layer"}),
        on=["run_baseline", "layer"],
        how="left",
    )
    table["difference"] = table["value"] - table["value_baseline"]
    return table[["network", "method", "labels", "seed", "budget", "layer", "difference"]]


# ---- in words ----------------------------------------------------------------------------------


def _cell(results: Results, measure: str, layer: str, method: str, labels: str) -> pd.Series:
    table = paired(results, measure)
    rows = table[(table["layer"] == layer) & (table["labels"] == labels)]
    one_of(f"method beside baseline at {labels} labels", method, rows["method"].unique())
    return rows[rows["method"] == method].iloc[0]


def gain(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Say in words what a method gains over `baseline`: the mean paired difference, its interval, n.

    Raises UsageError where the study holds no such pair.

    >>> gain(results, "knn", "block2", method="kd", labels="2")
    '+0.17 (95 % interval +0.11 to +0.23, n = 3 seeds)'
    """
    row = _cell(results, measure, layer, method, labels)
    if row["n"] == 1:
        return f"{row['mean']:+.2f} (one seed: no interval)"
    low, high = f"{row['low']:+.2f}", f"{row['high']:+.2f}"
    return f"{row['mean']:+.2f} (95 % interval {low} to {high}, n = {row['n']} seeds)"


def verdict(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Say where a method lies beside `baseline`: higher, lower, or not told apart.

    Higher or lower only where the 95 % interval of the paired difference excludes 0.
    """
    row = _cell(results, measure, layer, method, labels)
    if row["low"] > 0:
        return "higher"
    return "lower" if row["high"] < 0 else "not told apart"


def ways(results: Results) -> pd.DataFrame:
    """How far an image lies from its place in the other network, by way of drawing its maps.

    Columns way layer displacement displacement_turned trustworthiness neighbours_kept map_knn
    rise spread: means over both networks. A single map of a layer is a matter of its start, so
    `rise`, what a map's k-NN accuracy borrows, is over the *mean* of the layer's independent maps
    (one from its own start, three from a shared one, jittered); `spread` is how far apart the best
    and the worst of those are. A layer that is another again (`pool`) counts like any.
    """
    table = results.comparison
    knn = table[table["measure"] == "map_knn"].pivot_table(
        index=["run", "layer"], columns="way", values="value"
    )
    alike = knn[[way for way in knn if way in INDEPENDENT or way.startswith(AGAIN)]]
    rise = knn.sub(alike.mean(axis=1), axis=0).groupby(level="layer").mean().stack().rename("rise")
    spread = (alike.max(axis=1) - alike.min(axis=1)).groupby(level="layer").mean()
    means = table.pivot_table(index=["way", "layer"], columns="measure", values="value")
    means = means[means["displacement"].notna()].join(rise).join(spread.rename("spread"))
    drawn = [way for way in dict.fromkeys(table["way"]) if not way.startswith(AGAIN)]
    cells = pd.MultiIndex.from_product(
        [drawn, list(dict.fromkeys(table["layer"]))], names=["way", "layer"]
    )
    means = means.reindex(cells[cells.isin(means.index)])
    columns = ["displacement", "displacement_turned", "trustworthiness", "neighbours_kept"]
    return means[[*columns, "map_knn", "rise", "spread"]].reset_index()


def change(
    neighbours: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]
) -> Float[np.ndarray, " n"]:
    """Share of every image's ten nearest in one layer that are not its ten nearest in another.

    What really changed for an image between two cells, which no motion between their maps shows.
    `neighbours` is that table of `Results`, a cell (run, layer). In [0, 1], by image; 0 is the
    same ten, 1 - 10 / (n - 1) by chance. Raises UsageError for a run or layer not in the table.

        change(results.neighbours, (baseline, "block2"), (kd, "block2")).mean()
    """
    near = []
    for run, layer in (one, other):
        one_of("run with maps", run, neighbours["run"].unique())
        rows = neighbours[neighbours["run"] == run]
        one_of(f"layer of {run}", layer, rows["layer"].unique())
        rows = rows[rows["layer"] == layer]
        near.append(rows.pivot(index="image", columns="rank", values="neighbour").to_numpy())
    kept = (near[0][:, :, None] == near[1][:, None, :]).sum(axis=(1, 2))
    return 1 - kept / near[0].shape[1]


def floors(results: Results) -> pd.DataFrame:
    """The noise floor of every layer's maps: columns embedding layer mean low high runs.

    Mean, least and largest over the networks that were drawn (`embed.noise_floor`).
    """
    table = results.faithfulness[results.faithfulness["measure"] == "noise_floor"]
    found = table.groupby(["embedding", "layer"])["value"]
    found = found.agg(["mean", "min", "max", "count"])
    found.columns = ["mean", "low", "high", "runs"]
    stages = list(results.study["layers"])
    return found.reset_index().sort_values(
        ["embedding", "layer"], key=lambda c: c.map(stages.index) if c.name == "layer" else c
    )


# ---- over training -----------------------------------------------------------------------------


def followed(results: Results, measure: str) -> pd.DataFrame:
    """List a measure of every student whose training was followed, after every pass kept.

    Returns the columns of CELL, seed, epoch, value: epoch 0 is before training, the last one the
    trained network. Raises UsageError for a measure that is not there, where there is a film.
    """
    table = results.training
    if len(table):
        one_of("measure", measure, table["measure"].unique())
    runs = results.runs[results.runs["run"].isin(table["run"])]
    found = students(results._replace(runs=runs))[["run", "method", *PAIR]]
    rows = table.loc[table["measure"] == measure, ["run", "layer", "epoch", "value"]]
    return rows.merge(found, on="run")[[*CELL, "seed", "epoch", "value"]]


def passes(results: Results, measure: str, target: float | None = None) -> pd.DataFrame:
    """After how many passes a layer reaches a target, beside the same layer of the baseline.

    Of a measure of which more is better. By default the target is one for both of a pair: nine
    tenths of the way that baseline goes from before its training to its end; where that is no gain,
    both are there from the beginning. Linear between the passes kept; one that never gets there
    counts as getting there at its last.

    Returns the columns of CELL, seed, passes, baseline (its passes), difference.
    """
    table = followed(results, measure)
    groups = table.groupby([*CELL, "seed"], sort=False)
    curves = {cell: rows.sort_values("epoch") for cell, rows in groups}
    rows = []
    for (network, method, labels, layer, seed), curve in curves.items():
        baseline = curves.get((network, "baseline", labels, layer, seed))
        if method != "baseline" and baseline is not None:
            first, last = baseline["value"].iloc[[0, -1]]
            bar = first + 0.9 * (last - first) if target is None else target
            took, other = _reached(curve, bar), _reached(baseline, bar)
            rows.append((network, method, labels, layer, seed, took, other, took - other))
    return pd.DataFrame(rows, columns=[*CELL, "seed", "passes", "baseline", "difference"])


def _reached(curve: pd.DataFrame, target: float) -> float:
    """The pass, or a fraction between two, at which a curve first reaches a target."""
    at = depth(curve["value"], target)
    return float(np.interp(at, np.arange(len(curve)), curve["epoch"]))
