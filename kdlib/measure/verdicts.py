"""The five claims of the paper, judged by one rule.

1. A **test** is a mean difference between networks over seeds, signed so that above 0 agrees with
   the claim, with its 95 % t interval and its p after Holm, over all tests of its cell. With p
   below 0.05 it speaks *for* the claim if the mean is above 0, and *against* it if below.
   Differences that are equal in all seeds have no spread and no p: below 0 they speak against
   the claim, above 0 for nothing.
2. A **cell** is one network, one regime of teachers, one method, one label budget and one space:
   the layers themselves, the same layers *flat* (by the principal axes of their whole map, where
   the first averages over positions), or a kind of map. It is *supported* if a test speaks for the
   claim and none against it, *mixed* if there are both, and *not supported* if none speaks for it.
3. A **claim** is *supported* if more than half of its cells are and no cell holds a test against
   it, *not supported* if no cell holds a test for it, and *mixed* otherwise.
4. These words need 5 seeds. With 3 or 4 they are *consistent with*, *consistent in part* and
   *not shown*, and mean no more than that; with fewer a cell has *too few seeds*. What the study
   did not run is *no data*. Neither of the last two counts among the cells of a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from kdlib.measure import statistics
from kdlib.measure.statistics import ACCURACY, CONTROLS, NUMBERS, PAIR
from kdlib.store import Results

LEVEL = 0.05
WORDS = {5: ("supported", "mixed", "not supported")}  # from how many seeds on: for, both, none for
WORDS |= {3: ("consistent with", "consistent in part", "not shown")}
UNDECIDED = ("too few seeds", "no data")
LAYERS = "layers"  # the space that is no map
FLAT = "flat layers"  # the same in the other view: no conclusion may hang on pooling
CELL = ["claim", "network", "teacher", "method", "labels", "space"]
TEST = [*CELL, "measure", "layer"]
COUNTS = ["tests", "tests_for", "tests_against"]
INTERMEDIATE = ("block1", "block2")  # neither the first layer nor the last before the answer
COMPACT = {"within_share": -1, "silhouette": 1}  # the sign that agrees with "more compact"
APART = {LAYERS: ("silhouette", "knn")}  # measures that a map has, too
IN_LAYERS = ("C3", "C4", "C5")  # claims about layers: asked in both views
MAPPED = ("map_silhouette", "map_knn")  # the same two of a map


class Claim(NamedTuple):
    """What the paper's abstract says, how it is measured here, and where to look."""

    words: str
    measured: str
    figure: str  # chapter and anchor
    tests: Callable[[Results], Iterator[pd.DataFrame]]


# ---- tests, claim by claim ---------------------------------------------------------------------


def _trios(results: Results) -> pd.DataFrame:
    """Join every distilled student with its baseline and with its teacher, where there are."""
    runs = results.runs.assign(rival=lambda t: t["run"])
    teachers = runs[runs["role"] == "teacher"]
    teachers = teachers[["rival", "labels", "parameters", ACCURACY]]
    found = [
        statistics.students(results, regime).assign(teacher=regime)
        for regime in statistics.regimes(results)
    ]
    students = pd.concat(found)
    baseline = students[students["method"] == "baseline"].drop_duplicates(PAIR)[[*PAIR, ACCURACY]]
    taught = students[~students["method"].isin(("baseline", *CONTROLS))]
    taught = taught.assign(rival=taught["run"].map(statistics.teacher))
    table = taught.merge(baseline, on=PAIR, how="left", suffixes=("", "_baseline"))
    return table.merge(teachers, on="rival", suffixes=("", "_teacher"))


def _smaller(results: Results) -> Iterator[pd.DataFrame]:
    """C1: how much less accuracy is missing to the teacher, at a tenth of its parameters."""
    table = _trios(results).dropna(subset=f"{ACCURACY}_baseline")
    small = 10 * table["parameters"] <= table["parameters_teacher"]
    table = table[small & (table["teacher"] == "full")]
    of_teacher = table[f"{ACCURACY}_teacher"]
    missing = [(of_teacher - table[a]).clip(lower=0) for a in (f"{ACCURACY}_baseline", ACCURACY)]
    yield _over_seeds(table.assign(difference=missing[0] - missing[1]), "closer to the teacher")


def _outdone(results: Results) -> Iterator[pd.DataFrame]:
    """C2: student - teacher, which learnt from the same labels; one teacher counts once."""
    table = _trios(results)
    table = table[(table["teacher"] != "full") & (table["labels"] == table["labels_teacher"])]
    table = table.assign(difference=table[ACCURACY] - table[f"{ACCURACY}_teacher"])
    by = ["network", "teacher", "method", "labels", "rival"]
    table = table.groupby(by, sort=False)["difference"].mean().reset_index()
    yield _over_seeds(table, "test accuracy")


def _compact(results: Results) -> Iterator[pd.DataFrame]:
    """C3: more compact at intermediate layers than baseline."""
    for regime in statistics.regimes(results):
        for measure, sign in COMPACT.items():
            yield _at_layers(results, measure, regime, sign=sign)


def _earlier(results: Results) -> Iterator[pd.DataFrame]:
    """C4: layers saved."""
    for regime in (
        statistics.regimes(results) if "probe" in set(results.measures["measure"]) else ()
    ):
        table = statistics.saved(results, teachers=regime).assign(teacher=regime)
        yield _over_seeds(table, "layers saved")


def _everywhere(results: Results) -> Iterator[pd.DataFrame]:
    """C5: classes further apart at intermediate layers, in the layers and in maps of them."""
    spaces = APART | dict.fromkeys(results.study["embeddings"], MAPPED)
    for regime in statistics.regimes(results):
        for space, measures in spaces.items():
            for measure in measures:
                yield _at_layers(results, measure, regime, space=space)


def _over_seeds(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    table = table[~table["method"].isin(CONTROLS)]
    found = statistics.summarise(table, ["network", "teacher", "method", "labels"])
    return found.assign(space=LAYERS, measure=measure, layer="")


def _at_layers(
    results: Results, measure: str, regime: str, *, space: str = LAYERS, sign: int = 1
) -> pd.DataFrame:
    """Compare with baseline at the intermediate layers; empty where the study lacks the measure."""
    embedding = None if space == LAYERS else space
    held = results.measures
    if embedding is not None:
        held = results.faithfulness[results.faithfulness["embedding"] == embedding]
    if measure not in set(held["measure"]):
        return pd.DataFrame()
    found = statistics.compare(results, measure, teachers=regime, embedding=embedding)
    found = found[found["layer"].isin(INTERMEDIATE) & ~found["method"].isin(CONTROLS)]
    if sign < 0:
        turned = {"mean": -found["mean"], "low": -found["high"], "high": -found["low"]}
        found = found.assign(**turned, d=-found["d"])
    return found.assign(teacher=regime, space=space, measure=measure)


CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "Distillation reduces the size of a network",
        "how much closer than baseline the distilled student comes to its teacher's test accuracy, "
        "with at most a tenth of the teacher's parameters",
        "verdicts.html#figure-c1",
        _smaller,
    ),
    "C2": Claim(
        "With few labels the student can outperform its own teacher",
        "test accuracy of the student minus that of its teacher, which learnt from the same labels",
        "verdicts.html#figure-c2",
        _outdone,
    ),
    "C3": Claim(
        "Distilled representations are more compact",
        "within-class share and silhouette at block1 and block2, beside the baseline",
        "verdicts.html#figure-c3",
        _compact,
    ),
    "C4": Claim(
        "Accuracy comes already in earlier layers",
        "layers saved: how much sooner the linear probe reads what it reads at the end of baseline",
        "verdicts.html#figure-c4",
        _earlier,
    ),
    "C5": Claim(
        "It holds across architectures, methods and both embeddings",
        "silhouette and k-NN accuracy at block1 and block2, in the layers and in their maps",
        "verdicts.html#figure-c5",
        _everywhere,
    ),
}


# ---- the rule ----------------------------------------------------------------------------------


def tests(results: Results, flat: Results | None = None) -> pd.DataFrame:  # noqa: PT028
    """List every test of every claim (point 1 of the rule).

    `flat` is the same study in the view "flat" (`store.load`): what is asked of layers is then
    asked of both views, and each makes cells of its own.

    Returns the columns claim, network, teacher (a regime), method, labels, space, measure, layer,
    the numbers of `statistics.summarise`, p_holm, and speaks: 1 for the claim, -1 against it, 0.
    """
    found = [t.assign(claim=c) for c in CLAIMS for t in CLAIMS[c].tests(results)]
    if flat is not None:
        seen = [t.assign(claim=c) for c in IN_LAYERS for t in CLAIMS[c].tests(flat) if len(t)]
        found += [t[t["space"] == LAYERS].assign(space=FLAT) for t in seen]
    found = [t for t in found if len(t)]
    if not found:
        return pd.DataFrame(columns=[*TEST, *NUMBERS, "p_holm", "speaks"])
    return _spoken(pd.concat(found, ignore_index=True)[[*TEST, *NUMBERS]])


def _spoken(table: pd.DataFrame) -> pd.DataFrame:
    table["p_holm"] = table.groupby(CELL, sort=False)["p"].transform(statistics.holm)
    direction = (table["mean"] > 0).astype(int) - (table["mean"] < 0).astype(int)
    equal = table["p"].isna() & (table["n"] >= min(WORDS))
    speaks = direction.where(table["p_holm"] < LEVEL, direction.clip(upper=0).where(equal, 0))
    return table.assign(speaks=speaks)


def cells(tests: pd.DataFrame) -> pd.DataFrame:
    """Judge every cell (point 2 of the rule); a claim without any has one, of no data.

    Returns the columns of its test with the smallest p, tests, tests_for, tests_against, verdict.
    """
    found = _judged(tests)
    missing = [claim for claim in CLAIMS if claim not in set(found["claim"])]
    return _ordered([found, pd.DataFrame({"claim": missing, "verdict": "no data"})])


def _judged(tests: pd.DataFrame) -> pd.DataFrame:
    table = tests.sort_values("p_holm", kind="stable").assign(
        tests_for=tests["speaks"] > 0, tests_against=tests["speaks"] < 0, tests=1
    )
    groups = table.groupby(CELL, sort=False)
    counts = groups[COUNTS].sum().reset_index()
    found = groups.head(1).drop(columns=COUNTS).merge(counts, on=CELL)
    count = found[[*COUNTS[1:], "n"]].itertuples(index=False, name=None)
    return found.assign(verdict=[_word(*numbers) for numbers in count])


def _ordered(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of cells and sort them by claim, network, teacher, label budget and method."""
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    table = table.reindex(columns=parts[0].columns)
    table = table.astype(dict.fromkeys(["n", *COUNTS], "Int64"))
    table["budget"] = [statistics.size(str(labels)) for labels in table["labels"]]
    table = table.sort_values([*CELL[:3], "budget", "method", "space"], kind="stable")
    return table.drop(columns="budget").reset_index(drop=True)


def _word(some_for: int, some_against: int, n: int) -> str:
    if n < min(WORDS):
        return "too few seeds"
    good, both, none = WORDS[max(k for k in WORDS if k <= n)]
    if not some_for:
        return none
    return both if some_against else good


def views(cells: pd.DataFrame, claim: str) -> str:
    """Say how many cells of a claim are supported, by space: "layers 6 of 9, tsne 1 of 3"."""
    judged = cells[(cells["claim"] == claim) & ~cells["verdict"].isin(UNDECIDED)]
    known = sorted(judged["space"].unique(), key=lambda space: (space != LAYERS, space))
    counted = []
    for space, of in ((space, judged[judged["space"] == space]) for space in known):
        good = (of["tests_for"] > 0) & (of["tests_against"] == 0)
        counted.append(f"{space} {int(good.sum())} of {len(of)}")
    return ", ".join(counted)


def claims(cells: pd.DataFrame) -> pd.DataFrame:
    """Judge every claim (point 3 of the rule).

    Returns columns claim, verdict, supported (cells that are), cells (that could be judged).
    """
    rows = []
    for claim, of in cells.groupby("claim"):
        judged = of[~of["verdict"].isin(UNDECIDED)]
        if judged.empty:
            rows.append((claim, of["verdict"].iloc[0], 0, 0))
            continue
        against = bool(judged["tests_against"].any())
        supported = int(((judged["tests_for"] > 0) & (judged["tests_against"] == 0)).sum())
        few = 2 * supported <= len(judged)
        word = _word(bool(judged["tests_for"].any()), few or against, int(judged["n"].min()))
        rows.append((claim, word, supported, len(judged)))
    return pd.DataFrame(rows, columns=["claim", "verdict", "supported", "cells"])


# ---- a control ---------------------------------------------------------------------------------


def control(results: Results) -> pd.DataFrame:
    """Judge C3 beside a baseline that is as accurate: is it more than a by-product?

    The same tests and the same rule, with the partners of `statistics.matched` in place of the
    baseline of the same labels.

    Returns the columns of `cells`, seeds ("2 of 3" have a partner) and budgets (of the partners).
    The verdict is "no such student" where no seed has one.
    """
    found = []
    for regime in statistics.regimes(results):
        for measure, sign in COMPACT.items():
            if measure in set(results.measures["measure"]):
                table = statistics.matched(results, measure, teachers=regime)
                table["difference"] *= sign
                found.append(table.assign(teacher=regime, measure=measure))
    if not found:  # a study that never looked into its layers
        columns = [*TEST, *NUMBERS, "p_holm", "speaks", *COUNTS, "verdict", "seeds", "budgets"]
        return pd.DataFrame(columns=columns)
    table = pd.concat(found).assign(claim="C3", space=LAYERS)
    table = table[table["layer"].isin(INTERMEDIATE) & ~table["method"].isin(CONTROLS)]
    tests = statistics.summarise(table.dropna(subset="budget"), TEST)
    partners = (
        table.drop_duplicates([*CELL, "seed"])
        .groupby(CELL, sort=False)
        .agg(
            all=("seed", "size"),
            some=("budget", "count"),
            budgets=("budget", lambda b: ", ".join(sorted(set(b.dropna()), key=statistics.size))),
        )
    )
    partners["seeds"] = partners["some"].astype(str) + " of " + partners["all"].astype(str)
    partners = partners[["seeds", "budgets"]].reset_index()
    joined = partners.merge(_judged(_spoken(tests)), on=CELL, how="left")
    said = joined["verdict"].astype(object).fillna("no such student")
    return _ordered([joined.assign(verdict=said)])
