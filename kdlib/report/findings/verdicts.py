"""The five claims of the paper, judged by the rule of `kdlib.measure.verdicts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import embed, store
from kdlib.measure import depth, verdicts
from kdlib.plan.editions import EDITIONS
from kdlib.report import charts, tables
from kdlib.report.findings.words import counts, data_set, is_control, seeds_of, students
from kdlib.store import Results

NOT_PROBED = Markdown("*This study measured no probes in its layers.*")
VIEWS = [verdicts.LAYERS, verdicts.FLAT]
MEASURED = ("measures", "faithfulness")  # tables that claims rest on, beside the runs
PARTS = (verdicts.LAYERS, "tsne", "ivis")  # spaces of C5, in the order of `tables.parts`
LISTED = 6  # cells of a claim that a sentence lists; of more it counts the words


def rule() -> Markdown:
    """State the rule, in the words of the code that judges."""
    return Markdown(verdicts.RULE)


def studies(results: Results, flat: Results) -> dict[str, list[verdicts.Study]]:
    """Collect every published study by data set, and the one that the book is built for.

    That one comes first if no edition of the book reads it. A data set without runs is left out.
    """
    data: dict[str, list[verdicts.Study]] = {}
    own, name = verdicts.Study(results, flat), results.study["name"]
    if not any(name in edition.judging for edition in EDITIONS):
        data[f"{results.study['dataset']} ({name})"] = [own]
    for edition in EDITIONS:
        found = [own if other == name else _published(other) for other in edition.judging]
        data[edition.title] = [study for study in found if len(study.results.runs)]
    return {title: found for title, found in data.items() if found}


def _published(study: str) -> verdicts.Study:
    return verdicts.Study(*(store.brief(study, *MEASURED, view=view) for view in store.VIEWS))


def overview(results: Results, flat: Results) -> HTML:
    """Show every claim on every data set that there are results of."""
    caption = "Every claim on every data set: what decides, with its size and its votes"
    return tables.overview(verdicts.overview(studies(results, flat)), caption)


def claims(results: Results, flat: Results) -> HTML:
    """Show the claims of the abstract beside the verdict on every data set, on one screen."""
    caption = (
        "The claims of the abstract beside our verdicts; numbers are means over the methods, of "
        "teachers that had every label unless another is named"
    )
    return tables.claims(verdicts.overview(studies(results, flat)), caption)


def sentence(
    cells: pd.DataFrame, claim: str, space: str = verdicts.LAYERS, *, budgets: bool = True
) -> str:
    """State a claim's verdicts, by label budget; all labels last, apart, where they are judged.

    Of C5, which joins its parts by "and", every part has its own word. Without `budgets`, no label
    budget is named.
    """
    of_claim = cells[cells["claim"] == claim]
    rows = of_claim[of_claim["space"] == space]
    if rows.empty:
        return "**no data**"
    judged = rows["labels"].ne("all") | rows["verdict"].ne("too few seeds")
    rows = rows[judged] if judged.any() else rows
    limited, every = (rows[rows["labels"].eq("all") == last] for last in (False, True))
    parts = [
        _by_part(part, of_claim) if claim == "C5" else _listed(part, budgets=budgets)
        for part in (limited, every)
        if len(part)
    ]
    return "; apart from the claim, ".join(parts) if len(limited) else parts[0]


def _listed(rows: pd.DataFrame, *, budgets: bool) -> str:
    """List cells with their words and headlines, or count the words where there are many."""
    if len(rows) > LISTED:
        counts_of_words = rows["verdict"].value_counts()
        return ", ".join(
            f"**{word}** in {n} of {len(rows)} cells" for word, n in counts_of_words.items()
        )
    several = [c for c in ("network", "teacher") if rows[c].nunique() > 1]
    words = []
    for cell in rows.to_dict("records"):
        places = [*(cell[c] for c in several), *([_budget(cell["labels"])] if budgets else [])]
        where = f"{', '.join(places)}: " if places else ""
        number = "" if pd.isna(cell["mean"]) else f" ({tables.measured(cell)})"
        words.append(f"{where}**{cell['verdict']}**{which(cell)}{number}")
    return "; ".join(words)


def _budget(labels: str) -> str:
    return "all labels" if labels == "all" else f"{labels} labels per class"


def _by_part(rows: pd.DataFrame, cells: pd.DataFrame) -> str:
    """State the parts of C5, each with its own word, for the cells `rows` of its layers.

    `cells` has those of maps, too: of the same kind of teacher and label budget.
    """
    words = []
    for cell in rows.to_dict("records"):
        same = cells[(cells["teacher"] == cell["teacher"]) & (cells["labels"] == cell["labels"])]
        cell_of = {other["space"]: other for other in same.to_dict("records")}
        beside = {space: other["verdict"] for space, other in cell_of.items()}
        parts = tables.parts(cell | {"beside": beside})
        spaces = zip(parts, PARTS, strict=False)  # other architectures have none
        named = {name: which(cell_of[space]) for name, space in spaces if space in cell_of}
        each = ", ".join(f"{name} **{word}**{named.get(name, '')}" for name, word in parts.items())
        teacher = f"{cell['teacher']}, " if rows["teacher"].nunique() > 1 else ""
        words.append(f"{teacher}{_budget(cell['labels'])}: {each}")
    return "; ".join(words)


def which(cell: Mapping[Any, Any]) -> str:
    """Name the methods of a claim that holds for some, and those for and against one that does not.

    >>> which({"verdict": "does not show", "named": "kd", "opposing": "at"})
    ' (for: kd; against: at)'
    """
    if cell["verdict"].endswith("for some"):
        return f" ({cell['named']})" if cell["named"] else " (no method by itself)"
    if cell["verdict"] != "does not show":
        return ""
    sides = {"for": cell["named"], "against": cell["opposing"]}
    listed = "; ".join(f"{side}: {names}" for side, names in sides.items() if names)
    return f" ({listed})" if listed else ""


class Judged:
    """A study in both views of its layers, with the methods and the cells of every claim.

    Where it has no teachers of few labels, C2 is judged by a study of the same data that has.
    """

    def __init__(self, results: Results, flat: Results, regimes: Results):
        self.results, self.flat = results, flat
        differences = verdicts.differences(results, flat)
        same_data = regimes.study["dataset"] == results.study["dataset"]
        self.borrowed = ""  # the name of the study that C2 is judged by, where it is another
        if same_data and "C2" not in set(differences["claim"]):
            other = verdicts.differences(regimes)
            other = other[other["claim"] == "C2"]
            if len(other):
                self.borrowed = regimes.study["name"]
                differences = pd.concat([differences, other])
        self.methods = verdicts.methods(differences)
        self.cells = verdicts.cells(differences)

    @cached_property
    def control(self) -> pd.DataFrame:
        """C3 beside a baseline that is at least as accurate."""
        return verdicts.control(self.results)

    @property
    def probed(self) -> bool:
        """Whether both views of the layers were probed."""
        return all("probe" in set(r.measures["measure"]) for r in (self.results, self.flat))

    def facts(self) -> dict[str, Any]:
        """Give the verdicts, and the numbers that the prose quotes."""
        every = students(self.results.runs)
        seeds = every.groupby(["network", "method", "labels"])["seed"].nunique()
        borrowed = f"These are numbers of another study, `{self.borrowed}`. "
        return {
            **{claim: Markdown(self.stated(claim)) for claim in verdicts.CLAIMS},
            "seeds": seeds_of(seeds),
            "dataset": data_set(self.results.study),
            "n": f"{len(self.results.labels):,}",
            "C4-flat": Markdown(sentence(self.cells, "C4", verdicts.FLAT)),
            "borrowed": Markdown(borrowed if self.borrowed else ""),
            **self.partners(),
            **self.layers_saved(),
            **self.maps_and_layers(),
            **self.chance(),
        }

    def stated(self, claim: str) -> str:
        """State a claim's verdicts; where it does not apply to any teacher of the study, that."""
        kinds = verdicts.kinds(self.results)
        if claim in set(self.cells["claim"]) or any(map(verdicts.CLAIMS[claim].asked, kinds)):
            return sentence(self.cells, claim)
        return "**not asked** of the teachers of this study"

    def forest(self, claim: str, title: str) -> Any:
        """Draw the cells of a claim with their methods, or state that there are none."""
        cells, methods = (t[t["claim"] == claim] for t in (self.cells, self.methods))
        if cells.empty:
            return Markdown(f"*The study {self.results.study['name']} has no runs for {claim}.*")
        return charts.forest(cells, methods, title, verdicts.CLAIMS[claim].unit)

    def numbers(self, claim: str) -> HTML | None:
        """Show the cells of a claim; nothing where there are none."""
        rows = self.cells[self.cells["claim"] == claim]
        return None if rows.empty else tables.judged(rows, f"{claim}: every cell")

    def partners(self) -> dict[str, Any]:
        """Count the students with a baseline as accurate, and the methods that hold beside it."""
        counted = self.control["seeds"].astype(str).str.extract(r"(\d+) of (\d+)").astype(int).sum()
        judged = self.control[self.control["n"] >= min(verdicts.WORDS)]
        words = f"{counted[0]:.0f} of {counted[1]:.0f} distilled students have such a partner."
        if students(self.results.runs)["labels"].nunique() == 1:
            words += " This study has one label budget, so no baseline has more labels."
        elif judged.empty:
            words += " No method has one for three seeds, so nothing is judged."
        else:
            above = (judged["speaks"] > 0).sum()
            words += (
                f" {against(self.control)}. With three seeds or more, {above} of {len(judged)} are "
                "more compact by an interval."
            )
        return {"partners": Markdown(words)}

    def matched(self) -> HTML:
        """Show C3 beside a baseline that is at least as accurate."""
        caption = "C3 again, method by method, beside a baseline that is at least as accurate"
        return tables.matched(self.control, caption)

    def layers_saved(self) -> dict[str, Any]:
        """Give the baseline's depth in both views, and who never reaches what it reaches."""
        if not self.probed:
            return {"end-pooled": "not probed", "end-flat": "not probed", "never": NOT_PROBED}
        pooled, flat = depth.saved(self.results), depth.saved(self.flat)
        pooled = pooled[~is_control(pooled["method"])]
        late = [
            f"`{method}`, {labels} labels: in {(~rows['reached']).sum()} of {len(rows)} seeds"
            for (method, labels), rows in pooled.groupby(["method", "labels"], sort=False)
            if not rows["reached"].all()
        ]
        return {
            "end-pooled": _ends(pooled),
            "end-flat": _ends(flat),
            "never": Markdown(_late(late)),
        }

    def saved(self, view: str = "pooled") -> Any:
        """Draw the layers saved, in one view of the layers."""
        if not self.probed:
            return NOT_PROBED
        return charts.saved(self.results if view == "pooled" else self.flat)

    def maps_and_layers(self) -> dict[str, Any]:
        """Count how often a map agrees with its layer, and name what only a map supports."""
        rows = self.methods[self.methods["claim"] == "C5"]
        key = ["teacher", "labels", "method"]
        layers = rows[rows["space"] == verdicts.LAYERS]
        maps = rows[~rows["space"].isin(VIEWS)].merge(layers, on=key, suffixes=("", "_layer"))
        only = maps[(maps["speaks"] > 0) & (maps["speaks_layer"] <= 0)]
        names = [
            f"`{row.method}`, {row.labels} labels, on {embed.TITLES[row.space]}"
            for row in only.itertuples()
        ]
        return {
            "agree": f"{(maps['mean'] * maps['mean_layer'] > 0).sum()} of {len(maps)}",
            "mapped": ", ".join(dict.fromkeys(maps["labels"])) or "no",
            "only-maps": Markdown("; ".join(names) or "none"),
        }

    def chance(self) -> dict[str, str]:
        """Give the number of headlines, and how many would exclude 0 without any effect."""
        count = int((self.cells["n"] > 0).sum())
        return {
            "headlines": str(count),
            "chance": f"{verdicts.LEVEL * count:.1f}",
            "chance-for": f"{verdicts.LEVEL / 2 * count:.1f}",
        }


def against(control: pd.DataFrame, *, left_out: str = "") -> str:
    """Count who is less compact than a baseline as accurate: by the mean, and by an interval.

    `control` is `verdicts.control`; `left_out` is a method that does not count.
    """
    rows = control[control["n"].gt(0) & control["method"].ne(left_out)]
    other = "other " if left_out else ""
    if rows.empty:
        return f"No {other}method has a baseline as accurate"
    pairs = "pair" if len(rows) == 1 else "pairs"
    by_interval = (rows["speaks"].lt(0) & rows["n"].ge(min(verdicts.WORDS))).sum()
    return (
        f"A baseline at least as accurate exists for {len(rows)} {other}{pairs} of method and "
        f"label budget (n = {counts(rows['n'])}): in {(rows['mean'] < 0).sum()} of them the "
        "distilled student is less compact by the mean, in "
        f"{by_interval or 'none'} by an interval"
    )


def _late(students: Sequence[str]) -> str:
    """State which students never reach the baseline's last accuracy, and how they count."""
    if not students:
        return "Every student reaches it."
    return (
        f"Never reached by {'; '.join(students)}. These count as if they reached it one layer "
        "after the last, which is too early, and makes their intervals too narrow."
    )


def _ends(saved: pd.DataFrame) -> str:
    """Mean depth at which the baseline reaches its own last accuracy, by label budget."""
    depths = saved.groupby("labels", sort=False)["baseline"].mean()
    return ", ".join(f"{labels} labels {mean:.1f}" for labels, mean in depths.items())
