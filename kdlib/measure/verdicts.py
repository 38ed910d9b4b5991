"""The five claims of the paper, judged by one RULE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdlib.measure import depth, statistics
from kdlib.measure.statistics import ACCURACY, CONTROLS, NUMBERS, PAIR
from kdlib.plan.methods import BASELINE
from kdlib.store import Results

RULE = """\
1. **A cell** is one claim on one data set, for one kind of teacher (which labels it was trained on,
   and where its weights began), one number of labels per class, one student network, and one space:
   the layers as means over positions, the same layers *flat* (every position, by its principal
   axes), or the maps of one embedding. The layers as means decide; the others stand beside them.
2. **The headline of a cell.** A *difference* compares one method with its reference for one seed.
   Differences are averaged over the methods within each seed, so each seed gives one number, and
   only seeds in which every method of the cell was run count. The mean of these numbers with its
   95 % t interval over seeds is the headline. Signs are turned so that above 0 agrees with the
   claim. Controls (`smooth`, `pseudo`, `shuffled`, `random`) are no methods; `transfer` is one.
3. **What is compared,** one number for each claim.
   - C1: by how many points of test accuracy the student comes closer to its teacher than the
     baseline of the same seed, with at most a tenth of the teacher's parameters. It is not asked
     where the teacher was trained from scratch on as few labels as the student: such a teacher has
     no lead.
   - C2: test accuracy of the student minus that of its own teacher, in points, where the teacher
     was trained on the same labels. Students of one teacher are averaged: each teacher counts as
     one seed.
   - C3: how much smaller than the baseline's the within-class spread is, the square root of the
     within-class share of variance, averaged over block1 and block2.
     It has no unit, so that networks compare, and unlike the silhouette it does not depend on which
     other class is nearest. The abstract names neither of the two intermediate layers, so both
     count.
   - C4: layers saved, by the linear probe. No more can be saved than the baseline needs to reach
     its own last accuracy; that number stands beside every headline, and an interval ends there.
   - C5: the silhouette minus the baseline's, averaged over block1 and block2, in the layers and in
     the maps of each embedding, each a cell of its own, for a map has no within-class share to
     compare. Here every method with every network counts as a method, and there is one cell for all
     networks. The claim joins several by *and*, so each part has its own word: layers, maps of each
     embedding, other architectures. There is no word for all of it.
4. **The methods of a cell.** A method *agrees* if the 95 % t interval of its own mean over seeds
   lies above 0, and *speaks against* the claim if it lies below.
5. **The words.** *holds*: the headline's interval lies above 0, at least three quarters of the
   methods agree, and none speaks against. *reverses*: the headline's interval lies below 0.
   *holds for some*: neither of these, but the headline's interval lies above 0, and the methods
   that agree are named. *does not show*: the rest; beside it are named the methods that speak
   against the claim, and those for it whose mean is above 0 with p below 0.05 after Holm's
   correction for the number of methods in the cell. *cannot show*, of C4, in place of all of
   these but *reverses*: less than half a layer can be saved.
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

MARGIN = 100 * statistics.MARGIN  # points of test accuracy that make no difference
SHARE = 0.75  # of the methods that must agree
LEVEL = 0.05
WORDS = {  # from how many seeds on: holds, holds for some, does not show, reverses
    5: ("holds", "holds for some", "does not show", "reverses"),
    3: (
        "consistent with the claim",
        "consistent with the claim for some",
        "does not show",
        "consistent with the opposite",
    ),
}
UNDECIDED = ("cannot show", "too few seeds", "no data", "not asked")
LEAST = 0.5  # layers that can be saved, for C4 to be judged
LAYERS = "layers"  # the space that decides: means over positions
FLAT = "flat layers"  # the same in the other view: no conclusion may hang on pooling
CELL = ["claim", "network", "teacher", "labels", "space"]
DIFFERENCES = [*CELL, "method", "seed", "difference", "possible"]
METHODS = [*CELL, "method", *NUMBERS, "p_holm", "speaks"]
COUNTS = ["methods", "agree", "against"]
NAMES = ["agreeing", "undecided", "opposing", "named"]
JUDGED = [*CELL, *NUMBERS, "possible", "p_equal", *COUNTS, *NAMES, "verdict"]
INTERMEDIATE = ("block1", "block2")  # neither the first layer nor the last before the logits
SPREAD, SILHOUETTE = "within_rms", "silhouette"
IN_LAYERS = ("C3", "C4", "C5")  # claims about layers: judged in both views


class Study(NamedTuple):
    """A study, with the other view of its layers where they were measured."""

    results: Results
    flat: Results | None = None


class Claim(NamedTuple):
    """What the paper's abstract says, how it is measured here, and where to look."""

    words: str
    measured: str
    unit: str  # of a difference: points (of test accuracy), spread, layers or silhouette
    figure: str  # chapter and anchor
    differences: Callable[[Results], Iterator[pd.DataFrame]]
    not_of: str = ""  # the regime of teachers that it does not apply to

    def asked(self, teacher: str) -> bool:
        """Whether the claim applies to a kind of teacher (see `kinds`)."""
        return not self.not_of or not teacher.startswith(self.not_of)


# ---- differences, claim by claim ---------------------------------------------------------------


def kinds(results: Results) -> dict[str, Results]:
    """Split a study by the kind of its teachers: baselines, and what was distilled from these.

    A kind is "limited", or "pretrained (simclr)" where it is known from which weights the teachers
    began. Controls are left out: no claim is about them. A method without a teacher counts once,
    with the first kind.
    """
    runs = results.runs[~results.runs["method"].isin(CONTROLS)].reset_index(drop=True)
    kind = _kind(runs)
    student = runs["role"].eq("student")
    regimes = statistics.regimes(results._replace(runs=runs))
    of_regime = [kind[student & kind.ne("") & runs["regime"].eq(r)].unique() for r in regimes]
    names = [name for found in of_regime for name in found] or regimes[:1]
    without = student & kind.eq("")
    baseline = runs["method"].eq(BASELINE)
    parts = {}
    for number, name in enumerate(names):
        chosen = kind.eq(name) | (without & (baseline | (number == 0)))
        parts[name] = results._replace(runs=runs[chosen | ~student])
    return parts


def _kind(runs: pd.DataFrame) -> pd.Series:
    """Name the kind of every student's teacher; empty without one."""
    regime = runs["regime"].where(runs["role"].eq("student"), "")
    if "weights" not in runs:
        return regime
    began = runs[runs["role"].eq("teacher")].drop_duplicates("run").set_index("run")["weights"]
    weights = runs["teacher"].map(began).astype(object).fillna("").astype(str)
    weights = weights.replace("random", "").str[:8]  # of a file: the start of its hash
    return regime.where(weights.eq("") | regime.eq(""), regime + " (" + weights + ")")


def _trios(results: Results) -> Iterator[pd.DataFrame]:
    """Join every distilled student with its baseline and its teacher, by kind of teacher."""
    teachers = results.runs[results.runs["role"] == "teacher"].drop_duplicates("run")
    teachers = teachers.set_index("run")[["labels", "seed", "parameters", ACCURACY]]
    for kind, part in kinds(results).items():
        students = statistics.students(part)
        baseline = students.loc[students["method"] == BASELINE, [*PAIR, ACCURACY]]
        distilled = students[students["method"] != BASELINE]
        table = distilled.merge(baseline, on=PAIR, how="left", suffixes=("", "_baseline"))
        yield table.join(teachers.add_suffix("_teacher"), on="teacher").assign(kind=kind)


def _closer(results: Results) -> Iterator[pd.DataFrame]:
    """C1: how much less accuracy is missing to the teacher, at a tenth of its parameters."""
    for table in _trios(results):
        small = 10 * table["parameters"] <= table["parameters_teacher"]
        rows = table[small & (table["regime"] != "limited")]
        of_teacher = rows[f"{ACCURACY}_teacher"]
        baseline = (of_teacher - rows[f"{ACCURACY}_baseline"]).clip(lower=0)
        distilled = (of_teacher - rows[ACCURACY]).clip(lower=0)
        yield rows.assign(difference=100 * (baseline - distilled))


def _outdone(results: Results) -> Iterator[pd.DataFrame]:
    """C2: student - teacher, which was trained on the same labels; a teacher counts once."""
    for table in _trios(results):
        same = table["labels"] == table["labels_teacher"]
        rows = table[same & (table["regime"] != "full")]
        rows = rows.assign(difference=100 * (rows[ACCURACY] - rows[f"{ACCURACY}_teacher"]))
        by = ["network", "kind", "method", "labels", "teacher", "seed_teacher"]
        means = rows.groupby(by, sort=False)["difference"].mean().reset_index()
        yield means.rename(columns={"seed_teacher": "seed"})


def _compact(results: Results) -> Iterator[pd.DataFrame]:
    """C3: less spread within classes at intermediate layers than the baseline."""
    for kind, part in kinds(results).items():
        table = _intermediate(part, SPREAD)
        yield table.assign(difference=-table["difference"], kind=kind)


def _earlier(results: Results) -> Iterator[pd.DataFrame]:
    """C4: layers saved, of those that the baseline takes to its own last accuracy."""
    if "probe" in set(results.measures["measure"]):
        for kind, part in kinds(results).items():
            table = depth.saved(part)
            yield table.assign(kind=kind, possible=table["baseline"])


def _everywhere(results: Results) -> Iterator[pd.DataFrame]:
    """C5: classes further apart at intermediate layers and in their maps, over all networks."""
    for kind, part in kinds(results).items():
        tables = [_intermediate(part, SILHOUETTE).assign(space=LAYERS)]
        for embedding in results.study.get("embeddings", ()):
            table = _intermediate(part, f"map_{SILHOUETTE}", embedding=embedding)
            tables.append(table.assign(space=embedding))
        for table in tables:
            networks = table["network"].unique()
            if len(networks) > 1:
                words = table["method"] + " (" + table["network"] + ")"
                table = table.assign(method=words, network=f"{len(networks)} networks")
            yield table.assign(kind=kind)


def _intermediate(results: Results, measure: str, *, embedding: str | None = None) -> pd.DataFrame:
    """Compare with the baseline, averaged over intermediate layers; empty where not measured."""
    measured = results.measures
    if embedding is not None:
        measured = results.faithfulness[results.faithfulness["embedding"] == embedding]
    by = ["network", "method", "labels", "seed"]
    if measure not in set(measured["measure"]):
        return pd.DataFrame(columns=[*by, "difference"])
    rows = statistics.differences(results, measure, embedding=embedding)
    rows = rows[rows["layer"].isin(INTERMEDIATE)]
    return rows.groupby(by, sort=False)["difference"].mean().reset_index()


CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "A student with a tenth of its teacher's parameters comes closer to its accuracy",
        "points of test accuracy by which the distilled student comes closer to its teacher than "
        "the baseline, with at most a tenth of the teacher's parameters",
        "points",
        "verdicts.html#figure-c1",
        _closer,
        not_of="limited",
    ),
    "C2": Claim(
        "With few labels the student can outperform its own teacher",
        "points of test accuracy of the student above its teacher, which was trained on the same "
        "labels",
        "points",
        "verdicts.html#figure-c2",
        _outdone,
        not_of="full",
    ),
    "C3": Claim(
        "Distilled representations are more compact",
        "how much smaller than the baseline's the within-class spread is, at block1 and block2",
        "spread",
        "verdicts.html#figure-c3",
        _compact,
    ),
    "C4": Claim(
        "Accuracy comes already in earlier layers",
        "layers saved: how much sooner the linear probe reaches the accuracy that it has at the "
        "last layer of the baseline",
        "layers",
        "verdicts.html#figure-c4",
        _earlier,
    ),
    "C5": Claim(
        "It holds across architectures, methods and both embeddings",
        "silhouette minus the baseline's at block1 and block2, in the layers and in maps of them, "
        "for every network and method",
        "silhouette",
        "verdicts.html#figure-c5",
        _everywhere,
    ),
}


# ---- the rule ----------------------------------------------------------------------------------


def differences(results: Results, flat: Results | None = None) -> pd.DataFrame:
    """List the differences that every claim rests on, one per cell, method and seed.

    Their units are those of CLAIMS, and above 0 agrees with the claim. `flat` is the same study in
    the view "flat" (`store.load`): what is asked of layers is then asked of both views, and each
    makes cells of its own.

    Returns the columns DIFFERENCES; possible is the largest difference there can be, where that is
    known.
    """
    tables = [_of_claim(key, results) for key in CLAIMS]
    if flat is not None:
        views = [_of_claim(key, flat) for key in IN_LAYERS]
        tables += [table[table["space"] == LAYERS].assign(space=FLAT) for table in views]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame(columns=DIFFERENCES)
    return pd.concat(tables, ignore_index=True)


def _of_claim(key: str, results: Results) -> pd.DataFrame:
    tables = [table for table in CLAIMS[key].differences(results) if len(table)]
    if not tables:
        return pd.DataFrame(columns=DIFFERENCES)
    table = pd.concat(tables, ignore_index=True).assign(claim=key)
    table["teacher"] = table["kind"]
    if "space" not in table:
        table["space"] = LAYERS
    if "possible" not in table:
        table["possible"] = np.nan
    return table.dropna(subset="difference")[DIFFERENCES].astype({"difference": float})


def methods(differences: pd.DataFrame) -> pd.DataFrame:
    """Average the differences of every method over seeds (point 4 of the rule).

    Returns the columns METHODS: the numbers of `statistics.summarise`, p_holm (over the methods of
    the cell), and speaks: 1 for the claim, -1 against it, 0 for nothing.
    """
    rows = _within(statistics.summarise(differences, [*CELL, "method"]), differences)
    p = rows.groupby(CELL, sort=False)["p"].transform(statistics.holm)
    return rows.assign(p_holm=p.astype(float), speaks=_speaks(rows))[METHODS]


def _within(rows: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """End intervals at what is possible, and add that: its mean over the seeds of each cell."""
    possible = differences.groupby(CELL, sort=False)["possible"].mean().reset_index()
    rows = rows.merge(possible, on=CELL, how="left")
    most = rows[["mean", "possible"]].max(axis=1).where(rows["possible"].notna(), np.inf)
    return rows.assign(high=rows["high"].clip(upper=most))


def _speaks(rows: pd.DataFrame) -> pd.Series:
    """Tell on which side of 0 an interval lies: 1, -1 or 0; without spread never 1."""
    above = (rows["low"] > 0) & rows["p"].notna()
    return above.astype(int) - (rows["high"] < 0).astype(int)


def cells(differences: pd.DataFrame) -> pd.DataFrame:
    """Judge every cell of `differences` (points 2 and 5 of the rule).

    Returns the columns JUDGED: the cell, the numbers of its headline, possible (the mean of that of
    DIFFERENCES), p_equal of the test of equivalence (of points of test accuracy only), how many
    methods there are, agree and speak against, their names ("kd, at"), the methods that are named
    for the claim, and the verdict. Sorted by claim, network, teacher and label budget.
    """
    if differences.empty:
        return pd.DataFrame(columns=JUDGED)
    seeds = differences.groupby([*CELL, "seed"], sort=False)["difference"].agg(["mean", "count"])
    seeds = seeds.reset_index().rename(columns={"mean": "difference"})
    most = differences.groupby(CELL, sort=False)["method"].nunique().rename("methods")
    seeds = seeds.merge(most.reset_index(), on=CELL)
    headline = statistics.summarise(seeds[seeds["count"] == seeds["methods"]], CELL)
    headline = _within(headline, differences)
    rows = _votes(methods(differences)).merge(headline, on=CELL, how="left")
    rows["n"] = rows["n"].fillna(0).astype(int)
    points = rows["claim"].map({key: claim.unit == "points" for key, claim in CLAIMS.items()})
    numbers = rows[["mean", "low", "high", "n"]].itertuples(index=False)
    equal = pd.Series([statistics.equivalence(*row, margin=MARGIN) for row in numbers])
    rows["p_equal"] = equal.where(points)
    rows["speaks"] = _speaks(rows)
    rows["named"] = rows["agreeing"].where(rows["speaks"] > 0, rows["named"])
    rows["verdict"] = [_word(row) for row in rows.to_dict("records")]
    return _ordered(rows[JUDGED])


def _votes(methods: pd.DataFrame) -> pd.DataFrame:
    """Count and name the methods of every cell that agree, and those that speak against."""
    rows = []
    for cell, part in methods.groupby(CELL, sort=False):
        speaks, certain = part["speaks"], part["p_holm"] < LEVEL
        votes = {
            "methods": len(part),
            "agree": int((speaks > 0).sum()),
            "against": int((speaks < 0).sum()),
            "agreeing": _names(part[speaks > 0]),
            "undecided": _names(part[speaks == 0]),
            "opposing": _names(part[speaks < 0]),
            "named": _names(part[(speaks > 0) & certain]),
        }
        rows.append(dict(zip(CELL, cell, strict=True)) | votes)
    return pd.DataFrame(rows)


def _names(methods: pd.DataFrame) -> str:
    return ", ".join(methods["method"])


def _word(cell: Mapping[Any, Any]) -> str:
    """Choose the word of a cell (points 5 and 6 of the rule)."""
    if cell["n"] < min(WORDS):
        return "too few seeds"
    holds, some, nothing, reverses = WORDS[max(seeds for seeds in WORDS if seeds <= cell["n"])]
    if cell["speaks"] < 0:
        return reverses
    if cell.get("possible", np.nan) < LEAST:
        return "cannot show"
    most = cell["agree"] >= SHARE * cell["methods"] and not cell["against"]
    if cell["speaks"] > 0 and most:
        return holds
    return some if cell["speaks"] > 0 else nothing


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort cells by claim, network, teacher, label budget and space, LAYERS first."""
    budget = [statistics.size(str(labels)) for labels in rows["labels"]]
    other = [(space != LAYERS) + (space not in (LAYERS, FLAT)) for space in rows["space"]]
    rows = rows.assign(budget=budget, other=other)
    by = ["claim", "network", "teacher", "budget", "other", "space"]
    rows = rows.sort_values(by, kind="stable").drop(columns=["budget", "other"])
    return rows.reset_index(drop=True)


def no_different(cells: pd.DataFrame) -> pd.Series:
    """Tell which cells have equal accuracies by the test of equivalence (point 7 of the rule)."""
    return (cells["p_equal"] < LEVEL) & (cells["n"] >= max(WORDS))


# ---- over data sets ----------------------------------------------------------------------------


def overview(data: Mapping[str, Iterable[Study]]) -> pd.DataFrame:
    """Judge every claim on several data sets: their titles, and the studies of each.

    For each claim, kind of teacher and label budget of a data set counts the study with the most
    seeds, the first of these, and of its networks the one of most runs (C5 has all of them).

    Returns the columns data, JUDGED (of the layers that decide) and beside: the verdicts in other
    spaces, by space. Every claim has a row for every data set, kind of teacher and budget: "no
    data" where no study ran what the claim needs, "not asked" where it does not apply. A data set
    without any study has one row for each claim, of no teacher.
    """
    parts = [_of_data(list(studies)).assign(data=title) for title, studies in data.items()]
    columns = ["data", *JUDGED, "beside"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _of_data(studies: list[Study]) -> pd.DataFrame:
    """Judge every claim on one data set: a row for each claim, kind of teacher and budget."""
    found = [row for study in studies for row in _main_cells(study)]
    best: dict[tuple[str, str, str], dict[Any, Any]] = {}
    for row in found:
        key = (row["claim"], row["teacher"], row["labels"])
        if key not in best or row["n"] > best[key]["n"]:
            best[key] = row
    conditions = [pair for study in studies for pair in _conditions(study.results)]
    rows = []
    for claim, what in CLAIMS.items():
        for teacher, labels in dict.fromkeys(conditions or [("", "")]):
            none = {
                "n": 0,
                "beside": {},
                "verdict": "no data" if what.asked(teacher) else "not asked",
            }
            row = {"claim": claim, "teacher": teacher, "labels": labels}
            rows.append(row | best.get((claim, teacher, labels), none))
    return pd.DataFrame(rows).reindex(columns=[*JUDGED, "beside"])


def _main_cells(study: Study) -> Iterator[dict[Any, Any]]:
    """Judge one study, in its network of most runs; each row has the other spaces beside it."""
    judged = cells(differences(*study))
    students = study.results.runs[study.results.runs["role"] == "student"]
    main = students["network"].value_counts().index[:1]
    judged = judged[judged["network"].isin(main) | judged["claim"].eq("C5")]
    for _, rows in judged.groupby(["claim", "teacher", "labels"], sort=False):
        decides = rows["space"].eq(LAYERS)
        beside = dict(rows.loc[~decides, ["space", "verdict"]].itertuples(index=False, name=None))
        for row in rows[decides].to_dict("records"):
            yield row | {"beside": beside}


def _conditions(results: Results) -> list[tuple[str, str]]:
    """List the kinds of teachers and the label budgets at which a study distilled."""
    pairs = []
    for kind, part in kinds(results).items():
        runs = part.runs[part.runs["role"].eq("student") & part.runs["method"].ne(BASELINE)]
        pairs += [(kind, b) for b in sorted(set(runs["labels"]), key=statistics.size)]
    return pairs


# ---- a control ---------------------------------------------------------------------------------


def control(results: Results) -> pd.DataFrame:
    """Judge C3 beside a baseline that is as accurate: is it more than a by-product?

    The same number and the same words, method by method, with the partners of
    `statistics.matched` in place of the baseline of the same labels.

    Returns the columns METHODS, seeds ("2 of 3" have a partner), budgets (of the partners) and
    verdict, which is "no such student" where no seed has one.
    """
    columns = [*METHODS, "seeds", "budgets", "verdict"]
    if SPREAD not in set(results.measures["measure"]):  # layers were not measured
        return pd.DataFrame(columns=columns)
    parts = [statistics.matched(r, SPREAD).assign(teacher=k) for k, r in kinds(results).items()]
    table = pd.concat(parts)
    table = table[table["layer"].isin(INTERMEDIATE)].assign(claim="C3", space=LAYERS)
    if table.empty:
        return pd.DataFrame(columns=columns)
    by = [*CELL, "method", "seed"]
    groups = table.assign(difference=-table["difference"]).groupby(by, sort=False)
    seeds = groups.agg({"difference": "mean", "budget": "first"}).reset_index()
    seeds["possible"] = np.nan
    rows = methods(seeds.dropna(subset="budget"))
    rows = _partners(seeds).merge(rows, on=[*CELL, "method"], how="left")
    rows["n"] = rows["n"].fillna(0).astype(int)
    rows["verdict"] = [_alone(row) for row in rows.to_dict("records")]
    return _ordered(rows)[columns]


def _partners(table: pd.DataFrame) -> pd.DataFrame:
    """Count for every method of `control` the seeds with a partner, and list its label budgets."""
    groups = table.groupby([*CELL, "method"], sort=False)
    rows = groups.agg(
        seeds=("seed", "size"),
        partners=("budget", "count"),
        budgets=("budget", lambda b: ", ".join(sorted(set(b.dropna()), key=statistics.size))),
    )
    rows["seeds"] = rows["partners"].astype(str) + " of " + rows["seeds"].astype(str)
    return rows.drop(columns="partners").reset_index()


def _alone(row: Mapping[Any, Any]) -> str:
    """Choose the word of a cell of one method."""
    if not row["n"]:
        return "no such student"
    speaks = row["speaks"]
    votes = {"agree": int(speaks > 0), "against": int(speaks < 0), "methods": 1, "named": ""}
    return _word({**row, **votes})
