"""How well methods do over seeds, one by one and for every pair of a teacher and a student."""

from __future__ import annotations

import pandas as pd

from kdlib.measure.statistics import ACCURACY, PAIR, beside, differences, students, summarise
from kdlib.plan.methods import BASELINE
from kdlib.store import Results

GROUP = ["network", "method", "labels"]
STANDING = [*GROUP, "accuracy", "low", "high", "n"]
GAIN = ["gain", "gain_low", "gain_high", "pairs", "least", "most", "beside"]
PAIRED = ["teacher", *GROUP, "gain", "low", "high", "n", "accuracy", "baseline", "smaller"]


def standings(results: Results, *, regime: str | None = None) -> pd.DataFrame:
    """Summarise, over seeds, how accurate every method is and what it adds to the baseline.

    `regime` is that of the methods' teachers, by default the first that the study has.

    Returns network, method, labels; accuracy with low and high, its 95 % t interval over n seeds;
    gain with gain_low and gain_high, the same of the paired difference to the baseline; pairs,
    their number; least and most, the gains of single seeds; beside: better, worse, no
    different or not told apart (`statistics.beside`). Without a pair these are NaN and an empty
    word. First comes the network that most runs share. Empty where no student was trained.
    """
    if results.runs.empty:
        return pd.DataFrame(columns=[*STANDING, *GAIN])
    accuracies = students(results, regime).assign(difference=lambda t: t[ACCURACY])
    table = summarise(accuracies, GROUP).rename(columns={"mean": "accuracy"})[STANDING]
    pairs = differences(results, ACCURACY, regime=regime)
    gains = summarise(pairs, GROUP).set_index(GROUP)[["mean", "low", "high", "n"]]
    gains.columns = pd.Index(GAIN[:4])
    extremes = pairs.groupby(GROUP)["difference"].agg(least="min", most="max")
    table = table.merge(gains.join(extremes).reset_index(), how="left", on=GROUP)
    numbers = table[["gain", "gain_low", "gain_high", "pairs"]].itertuples(index=False, name=None)
    table["beside"] = [
        "" if pd.isna(row[1]) else beside(*row, above="better", below="worse") for row in numbers
    ]
    runs_of_network = table["network"].map(table["network"].value_counts())
    order = runs_of_network.sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def one_network_each(table: pd.DataFrame) -> pd.DataFrame:
    """Reduce `standings` to one network per method: the first, which most others share.

    A column `name` is the method, and its network where that is another one.
    """
    first = table.groupby("method", sort=False)["network"].transform("first")
    rows = table[table["network"] == first].reset_index(drop=True)
    most = rows["network"].iloc[0] if len(rows) else ""
    network = (", " + rows["network"]).where(rows["network"] != most, "")
    return rows.assign(name=rows["method"] + network)


def pairs(results: Results) -> pd.DataFrame:
    """Summarise, over seeds, what every method adds for every pair of a teacher and a student.

    Paired like `differences`, but every teacher apart: teachers of the first regime that the
    study has, each named by its network.

    Returns teacher, network, method, labels; gain with low and high, its 95 % t interval over n
    seeds; baseline and accuracy, the means of the two that are compared; smaller, how many times as
    many parameters as the student its teacher has. Networks by size. Empty where nothing was run.
    """
    if results.runs.empty:
        return pd.DataFrame(columns=PAIRED)
    runs = students(results)
    baseline = runs.loc[runs["method"] == BASELINE, [*PAIR, ACCURACY]]
    distilled = runs[runs["teacher"] != ""].assign(method=lambda t: t["key"])
    distilled = distilled.assign(teacher=distilled["teacher_network"])
    by = ["teacher", *GROUP]
    table = distilled.drop_duplicates([*by, "seed"])
    table = table.merge(baseline, on=PAIR, suffixes=("", "_baseline"))
    if table.empty:  # no method with a teacher, or no baseline beside it
        return pd.DataFrame(columns=PAIRED)
    table["difference"] = table[ACCURACY] - table[f"{ACCURACY}_baseline"]
    means = table.groupby(by)[[ACCURACY, f"{ACCURACY}_baseline"]].mean()
    means.columns = pd.Index(["accuracy", "baseline"])
    gains = summarise(table, by).rename(columns={"mean": "gain"})
    rows = gains[[*by, "gain", "low", "high", "n"]].merge(means.reset_index(), on=by)
    parameters = results.runs.groupby("network")["parameters"].first()
    sizes = rows[["teacher", "network"]].apply(lambda column: column.map(parameters))
    rows["smaller"] = sizes["teacher"] / sizes["network"]
    return rows.loc[sizes.sort_values(["teacher", "network"]).index].reset_index(drop=True)


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
