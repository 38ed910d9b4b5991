"""The five claims of the paper, judged by one RULE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from kdlib.measure import depth, statistics
from kdlib.measure.faithfulness import LAYER_MEASURES
from kdlib.measure.statistics import ACCURACY, CONTROLS, NUMBERS, PAIR
from kdlib.plan.methods import BASELINE
from kdlib.store import Results

RULE = """\
1. **A cell** is one claim on one data set, for one kind of teacher (which labels it was trained on,
   and where its weights began), one number of labels per class, one student network, and one space:
   the layers as means over positions, the same layers *flat* (by the principal axes of their whole
   map), or the maps of one embedding. The layers as means decide; the others stand beside them.
2. **The headline of a cell.** A *difference* compares one method with its reference for one seed.
   Differences are averaged over the methods within each seed, so each seed gives one number, and
   only seeds in which every method of the cell was run count. The mean of these numbers with its
   95 % t interval over seeds is the headline. Signs are turned so that above 0 agrees with the
   claim. Controls are no methods.
3. **What is compared,** one number for each claim.
   C1: by how many points of test accuracy the student comes closer to its teacher than the baseline
   of the same seed, with at most a tenth of the teacher's parameters. It is not asked where the
   teacher was trained from scratch on as few labels as the student: such a teacher has no lead.
   C2: test accuracy of the student minus that of its own teacher, in points, where the teacher was
   trained on the same labels. Students of one teacher are averaged: each teacher counts as one seed.
   C3: how much smaller than the baseline's the within-class spread is, the square root of the
   within-class share of variance, averaged over block1 and block2. It is the one of our measures
   that is compactness and nothing else (the silhouette also rewards distance to other classes), and
   the abstract names neither of the two layers that are intermediate.
   C4: layers saved, by the linear probe.
   C5: the silhouette minus the baseline's, averaged over block1 and block2, in the layers and in
   the maps of each embedding, each a cell of its own, for a map has no within-class share to
   compare. Here every method with every network counts as a method, and there is one cell for all
   networks.
4. **The methods of a cell.** A method *agrees* if the 95 % t interval of its own mean over seeds
   lies above 0, and *speaks against* the claim if it lies below.
5. **The words.** *holds*: the headline's interval lies above 0, at least three quarters of the
   methods agree, and none speaks against. *reverses*: the headline's interval lies below 0.
   *holds for some*: neither of these, but the headline's interval lies above 0, and the methods
   that agree are named; or it does not, and the methods are named whose mean is above 0 with p
   below 0.05 after Holm's correction for the number of methods in the cell. *does not show*: the
   rest.
6. **Seeds.** These words need 5 seeds. With 3 or 4 they are *consistent with the claim*,
   *consistent with the opposite*, *consistent with the claim for some* and *does not show*; with
   fewer, *too few seeds*. What was not run is *no data*; a claim that does not apply to a kind of
   teacher is *not asked*. Differences that are equal in all seeds have no spread to judge by: above
   0 they count for nothing, below 0 they speak against.
7. **No different** is never concluded from an interval that contains 0. It needs a test of
   equivalence: two one-sided t tests, each at 5 %, that the mean lies within 1 point of test
   accuracy on either side of 0, and 5 seeds. Without it two accuracies are *not told apart*.
8. **All labels** is a condition that the paper, which speaks of limited labels, did not claim. It
   is judged by the same rule, and stands apart.
9. **Many tests.** The headline is one test per cell, not corrected over cells: without any effect
   5 % of the cells have an interval that excludes 0, half of them on the claim's side. Only the
   methods that are named without a headline are corrected, within their cell.
"""

LEVEL = 0.05
WORDS = {  # from how many seeds on: tests for only, for and against, none for
    5: ("supported", "mixed", "not supported"),
    3: ("consistent with", "consistent in part", "not shown"),
}
UNDECIDED = ("too few seeds", "no data")
LAYERS = "layers"  # the space that is no map
FLAT = "flat layers"  # the same in the other view: no conclusion may hang on pooling
CELL = ["claim", "network", "teacher", "method", "labels", "space"]
TEST = [*CELL, "measure", "layer"]
JUDGED = [*TEST, *NUMBERS, "p_holm", "speaks"]
COUNTS = ["tests", "tests_for", "tests_against"]
INTERMEDIATE = ("block1", "block2")  # neither the first layer nor the last before the logits
COMPACT = {"within_share": -1, "silhouette": 1}  # the sign that agrees with "more compact"
APART = tuple(LAYER_MEASURES.values())  # measures of layers that a map has, too
MAPPED = tuple(LAYER_MEASURES)  # the same of a map
IN_LAYERS = ("C3", "C4", "C5")  # claims about layers: asked in both views


class Claim(NamedTuple):
    """What the paper's abstract says, how it is measured here, and where to look."""

    words: str
    measured: str
    figure: str  # chapter and anchor
    tests: Callable[[Results], Iterator[pd.DataFrame]]


# ---- tests, claim by claim ---------------------------------------------------------------------


def _by_regime(results: Results) -> Iterator[tuple[str, Results]]:
    """Split a study by the regime of its teachers: baselines, and what was distilled from these.

    Controls are left out: no claim is about them. A method without a teacher counts once, in the
    first regime.
    """
    runs = results.runs[~results.runs["method"].isin(CONTROLS)]
    for number, regime in enumerate(statistics.regimes(results._replace(runs=runs))):
        baselines = runs["regime"].eq("") & (runs["method"].eq(BASELINE) | (number == 0))
        part = runs[runs["role"].eq("teacher") | runs["regime"].eq(regime) | baselines]
        yield regime, results._replace(runs=part)


def _trios(results: Results) -> pd.DataFrame:
    """Join every distilled student with its baseline and with its teacher, where there are."""
    parts = [
        statistics.students(part).assign(regime=regime) for regime, part in _by_regime(results)
    ]
    students = pd.concat(parts)
    baseline = students[students["method"] == BASELINE].drop_duplicates(PAIR)[[*PAIR, ACCURACY]]
    distilled = students[students["method"] != BASELINE]
    table = distilled.merge(baseline, on=PAIR, how="left", suffixes=("", "_baseline"))
    teachers = results.runs[results.runs["role"] == "teacher"].set_index("run")
    teachers = teachers[["labels", "parameters", ACCURACY]].add_suffix("_teacher")
    return table.join(teachers, on="teacher")


def _smaller(results: Results) -> Iterator[pd.DataFrame]:
    """C1: how much less accuracy is missing to the teacher, at a tenth of its parameters."""
    table = _trios(results).dropna(subset=f"{ACCURACY}_baseline")
    small = 10 * table["parameters"] <= table["parameters_teacher"]
    table = table[small & (table["regime"] == "full")]
    of_teacher = table[f"{ACCURACY}_teacher"]
    baseline = (of_teacher - table[f"{ACCURACY}_baseline"]).clip(lower=0)
    distilled = (of_teacher - table[ACCURACY]).clip(lower=0)
    yield _over_seeds(table.assign(difference=baseline - distilled), "closer to the teacher")


def _outdone(results: Results) -> Iterator[pd.DataFrame]:
    """C2: student - teacher, which learnt from the same labels; one teacher counts once."""
    table = _trios(results)
    table = table[(table["regime"] != "full") & (table["labels"] == table["labels_teacher"])]
    table = table.assign(difference=table[ACCURACY] - table[f"{ACCURACY}_teacher"])
    by = ["network", "regime", "method", "labels", "teacher"]
    means = table.groupby(by, sort=False)["difference"].mean().reset_index()
    yield _over_seeds(means, "test accuracy")


def _compact(results: Results) -> Iterator[pd.DataFrame]:
    """C3: more compact at intermediate layers than the baseline."""
    for regime, part in _by_regime(results):
        for measure, sign in COMPACT.items():
            yield _at_layers(part, measure, sign=sign).assign(teacher=regime)


def _earlier(results: Results) -> Iterator[pd.DataFrame]:
    """C4: layers saved."""
    if "probe" in set(results.measures["measure"]):
        for regime, part in _by_regime(results):
            yield _over_seeds(depth.saved(part).assign(regime=regime), "layers saved")


def _everywhere(results: Results) -> Iterator[pd.DataFrame]:
    """C5: classes further apart at intermediate layers, in the layers and in maps of them."""
    for regime, part in _by_regime(results):
        for measure in APART:
            yield _at_layers(part, measure).assign(teacher=regime)
        for embedding in results.study["embeddings"]:
            for measure in MAPPED:
                yield _at_layers(part, measure, embedding=embedding).assign(teacher=regime)


def _over_seeds(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    means = statistics.summarise(table, ["network", "regime", "method", "labels"])
    means = means.rename(columns={"regime": "teacher"})
    return means.assign(space=LAYERS, measure=measure, layer="")


def _at_layers(
    results: Results, measure: str, *, embedding: str | None = None, sign: int = 1
) -> pd.DataFrame:
    """Compare with the baseline at intermediate layers; empty where the study lacks the measure."""
    measured = results.measures
    if embedding is not None:
        measured = results.faithfulness[results.faithfulness["embedding"] == embedding]
    if measure not in set(measured["measure"]):
        return pd.DataFrame()
    rows = statistics.compare(results, measure, embedding=embedding)
    rows = rows[rows["layer"].isin(INTERMEDIATE)]
    if sign < 0:
        rows = rows.assign(mean=-rows["mean"], low=-rows["high"], high=-rows["low"], d=-rows["d"])
    return rows.assign(space=embedding or LAYERS, measure=measure)


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
    tables = [t.assign(claim=key) for key, claim in CLAIMS.items() for t in claim.tests(results)]
    if flat is not None:
        for key in IN_LAYERS:
            layers = [t[t["space"] == LAYERS] for t in CLAIMS[key].tests(flat) if len(t)]
            tables += [t.assign(claim=key, space=FLAT) for t in layers]
    tables = [t for t in tables if len(t)]
    if not tables:
        return pd.DataFrame(columns=JUDGED)
    return _direction(pd.concat(tables, ignore_index=True)[[*TEST, *NUMBERS]])


def _direction(tests: pd.DataFrame) -> pd.DataFrame:
    """Add p_holm, and whether each test speaks for the claim (1), against it (-1) or neither."""
    p = tests.groupby(CELL, sort=False)["p"].transform(statistics.holm)
    sign = (tests["mean"] > 0).astype(int) - (tests["mean"] < 0).astype(int)
    equal_in_all_seeds = tests["p"].isna() & (tests["n"] >= min(WORDS))
    without_p = sign.clip(upper=0).where(equal_in_all_seeds, 0)
    return tests.assign(p_holm=p, speaks=sign.where(p < LEVEL, without_p))


def cells(tests: pd.DataFrame) -> pd.DataFrame:
    """Judge every cell (point 2 of the rule); a claim without any has one, of no data.

    Returns the columns of its test with the smallest p, tests, tests_for, tests_against, verdict.
    """
    table = _judged(tests)
    missing = [claim for claim in CLAIMS if claim not in set(table["claim"])]
    return _ordered([table, pd.DataFrame({"claim": missing, "verdict": "no data"})])


def _judged(tests: pd.DataFrame) -> pd.DataFrame:
    table = tests.sort_values("p_holm", kind="stable")
    counted = table.assign(
        tests=1, tests_for=table["speaks"] > 0, tests_against=table["speaks"] < 0
    )
    counts = counted.groupby(CELL, sort=False)[COUNTS].sum().reset_index()
    rows = table.groupby(CELL, sort=False).head(1).merge(counts, on=CELL)
    numbers = zip(rows["tests_for"], rows["tests_against"], rows["n"], strict=True)
    return rows.assign(verdict=[_word(*row) for row in numbers])


def _ordered(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of cells and sort them by claim, network, teacher, label budget and method."""
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    table = table.reindex(columns=parts[0].columns)
    table = table.astype(dict.fromkeys(["n", *COUNTS], "Int64"))
    table["budget"] = [statistics.size(str(labels)) for labels in table["labels"]]
    table = table.sort_values([*CELL[:3], "budget", "method", "space"], kind="stable")
    return table.drop(columns="budget").reset_index(drop=True)


def _word(tests_for: int, tests_against: int, n: int) -> str:
    if n < min(WORDS):
        return "too few seeds"
    supported, mixed, not_supported = WORDS[max(seeds for seeds in WORDS if seeds <= n)]
    if not tests_for:
        return not_supported
    return mixed if tests_against else supported


def _supported(cells: pd.DataFrame) -> int:
    """Count the cells with a test for the claim and none against it."""
    return int(((cells["tests_for"] > 0) & (cells["tests_against"] == 0)).sum())


def views(cells: pd.DataFrame, claim: str) -> str:
    """Count the supported cells of a claim, by space: "layers 6 of 9, tsne 1 of 3"."""
    judged = cells[(cells["claim"] == claim) & ~cells["verdict"].isin(UNDECIDED)]
    spaces = sorted(judged["space"].unique(), key=lambda space: (space != LAYERS, space))
    parts = {space: judged[judged["space"] == space] for space in spaces}
    return ", ".join(f"{space} {_supported(part)} of {len(part)}" for space, part in parts.items())


def claims(cells: pd.DataFrame) -> pd.DataFrame:
    """Judge every claim (point 3 of the rule).

    Returns columns claim, verdict, supported (cells that are), cells (that could be judged).
    """
    rows = []
    for claim, of_claim in cells.groupby("claim"):
        judged = of_claim[~of_claim["verdict"].isin(UNDECIDED)]
        if judged.empty:
            rows.append((claim, of_claim["verdict"].iloc[0], 0, 0))
            continue
        supported, against = _supported(judged), bool(judged["tests_against"].any())
        half_or_less = 2 * supported <= len(judged)
        some_for, n = bool(judged["tests_for"].any()), int(judged["n"].min())
        word = _word(some_for, half_or_less or against, n)
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
    tables = []
    for regime, part in _by_regime(results):
        for measure, sign in COMPACT.items():
            if measure in set(results.measures["measure"]):
                table = statistics.matched(part, measure)
                table["difference"] *= sign
                tables.append(table.assign(teacher=regime, measure=measure))
    if not tables:  # a study whose layers were not measured
        return pd.DataFrame(columns=[*JUDGED, *COUNTS, "verdict", "seeds", "budgets"])
    table = pd.concat(tables).assign(claim="C3", space=LAYERS)
    table = table[table["layer"].isin(INTERMEDIATE)]
    tests = statistics.summarise(table.dropna(subset="budget"), TEST)
    rows = _partners(table).merge(_judged(_direction(tests)), on=CELL, how="left")
    verdict = rows["verdict"].astype(object).fillna("no such student")
    return _ordered([rows.assign(verdict=verdict)])


def _partners(table: pd.DataFrame) -> pd.DataFrame:
    """Count for every cell of `control` the seeds with a partner, and list its label budgets."""
    groups = table.drop_duplicates([*CELL, "seed"]).groupby(CELL, sort=False)
    rows = groups.agg(
        seeds=("seed", "size"),
        partners=("budget", "count"),
        budgets=("budget", lambda b: ", ".join(sorted(set(b.dropna()), key=statistics.size))),
    )
    rows["seeds"] = rows["partners"].astype(str) + " of " + rows["seeds"].astype(str)
    return rows.drop(columns="partners").reset_index()
