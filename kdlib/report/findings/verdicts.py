"""The five claims of the paper, judged by the rule of `kdlib.measure.verdicts`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import embed
from kdlib.measure import depth, verdicts
from kdlib.measure.faithfulness import LAYER_MEASURES
from kdlib.report import charts, tables
from kdlib.report.findings.words import is_control, students
from kdlib.store import Results

NOT_PROBED = Markdown("*This study measured no probes in its layers.*")
KEY = ["network", "teacher", "method", "labels"]
VIEWS = [verdicts.LAYERS, verdicts.FLAT]
FIGURES = {claim: what.figure for claim, what in verdicts.CLAIMS.items()}


def rule() -> Markdown:
    """State the rule, in the words of the code that judges."""
    return Markdown(verdicts.RULE)


class Judged:
    """A study in both views of its layers, with every test, cell and claim.

    Where it has no teachers of few labels, C2 is judged by the study `regimes` of the same data.
    """

    def __init__(self, results: Results, flat: Results, regimes: Results):
        self.results, self.flat = results, flat
        self.tests = verdicts.tests(results, flat)
        same_data = regimes.study["dataset"] == results.study["dataset"]
        self.borrowed = same_data and "C2" not in set(self.tests["claim"])
        if self.borrowed:
            tests = verdicts.tests(regimes)
            parts = [self.tests, tests[tests["claim"] == "C2"]]
            self.tests = pd.concat(parts, ignore_index=True)
        self.cells = verdicts.cells(self.tests)
        self.claims = verdicts.claims(self.cells).set_index("claim")

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
        seeds = sorted(every.groupby(["network", "method", "labels"])["seed"].nunique().unique())
        borrowed = "These are numbers of another study, `regimes`. " if self.borrowed else ""
        return {
            **{claim: Markdown(self.sentence(claim)) for claim in verdicts.CLAIMS},
            "seeds": " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]]))),
            "dataset": self.results.study["dataset"],
            "n": f"{len(self.results.labels):,}",
            "c4-views": verdicts.views(self.cells, "C4") or "no cell",
            "borrowed": Markdown(borrowed),
            **self.partners(),
            **self.layers_saved(),
            **self.maps_and_layers(),
            **self.chance(),
        }

    def sentence(self, claim: str) -> str:
        """State a claim's verdict, and how many cells it rests on."""
        row = self.claims.loc[claim]
        if not row["cells"]:
            return f"**{row['verdict']}**"
        counts = f"{row['supported']} of {row['cells']} cells"
        if claim in verdicts.IN_LAYERS:
            counts += f" ({verdicts.views(_titled(self.cells), claim)})"
        return f"**{row['verdict']}**: {counts}"

    def summary(self) -> HTML:
        """Show the five claims with their measures, counts and verdicts."""
        claims = verdicts.CLAIMS.items()
        rows = {
            "claim": [
                f'<a href="{what.figure}">{claim}</a> {what.words}' for claim, what in claims
            ],
            "measured as": [what.measured for _, what in claims],
            "cells for it": [
                f"{row.supported} of {row.cells}" if row.cells else "–"
                for row in self.claims.itertuples()
            ],
            "verdict": self.claims["verdict"].map(tables.badge).to_list(),
        }
        return tables.table(pd.DataFrame(rows), f"Verdicts on {self.results.study['dataset']}")

    def forest(self, claim: str, title: str, space: str = verdicts.LAYERS) -> Any:
        """Draw the tests of a claim in one space, or state that there are none."""
        tests = self.tests[(self.tests["claim"] == claim) & (self.tests["space"] == space)]
        if tests.empty:
            return Markdown(f"*{self.results.study['name']} did not run what {claim} needs.*")
        return charts.forest(tests, title)

    def numbers(self, claim: str) -> HTML | None:
        """Show the cells of a claim; nothing where there is no data."""
        rows = self.cells[self.cells["claim"] == claim]
        if (rows["verdict"] == "no data").all():
            return None
        caption = f"{claim}: every cell with the strongest of its tests"
        return tables.judged(_titled(rows), FIGURES, caption)

    def partners(self) -> dict[str, str]:
        """Count the students with a baseline as accurate, and the cells that hold beside it."""
        with_partner = self.control[self.control["verdict"] != "no such student"]
        counts = self.control["seeds"].astype(str).str.extract(r"(\d+) of (\d+)").astype(int).sum()
        judged = with_partner[with_partner["verdict"] != "too few seeds"]
        return {
            "partners": f"{counts[0]} of {counts[1]}",
            "better": f"{(judged['tests_for'] > 0).sum()} of {len(judged)}",
            "worse": f"{(judged['tests_against'] > 0).sum()} of {len(judged)}",
        }

    def matched(self) -> HTML:
        """Show C3 beside a baseline that is at least as accurate."""
        figures = dict.fromkeys(FIGURES, "verdicts.html#matched-accuracy")
        caption = "C3 again, beside a baseline that is at least as accurate"
        return tables.judged(self.control, figures, caption, also=["seeds", "budgets"])

    def layers_saved(self) -> dict[str, Any]:
        """Give the baseline's depth in both views, and who never reaches what it reaches."""
        if not self.probed:
            return {"end-pooled": "not probed", "end-flat": "not probed", "never": "nowhere"}
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
            "never": Markdown("; ".join(late) or "nowhere"),
        }

    def saved(self, view: str = "pooled") -> Any:
        """Draw the layers saved, in one view of the layers."""
        if not self.probed:
            return NOT_PROBED
        return charts.saved(self.results if view == "pooled" else self.flat)

    def beside_maps(self) -> pd.DataFrame:
        """List the tests of C5 of all students that have maps, layers first, maps after them."""
        tests = self.tests[self.tests["claim"] == "C5"]
        mapped = tests.loc[~tests["space"].isin(VIEWS), KEY].drop_duplicates()
        tests = tests.merge(mapped) if len(mapped) else tests
        return tests.sort_values("space", key=lambda space: ~space.isin(VIEWS), kind="stable")

    def maps_and_layers(self) -> dict[str, Any]:
        """Count how often a map agrees with its layer, and name what only a map supports."""
        tests = self.beside_maps()
        mapped = tests.loc[~tests["space"].isin(VIEWS), "labels"]
        tests = tests.assign(measure=tests["measure"].replace(LAYER_MEASURES))
        means = tests.pivot_table(index=[*KEY, "measure", "layer"], columns="space", values="mean")
        agree, count = 0, 0
        for space in means.columns.drop(VIEWS, errors="ignore"):
            product = (means[space] * means[verdicts.LAYERS])[means[space].notna()]
            agree, count = agree + int((product > 0).sum()), count + len(product)
        return {
            "agree": f"{agree} of {count}",
            "mapped": ", ".join(dict.fromkeys(mapped)) or "no",
            "only-maps": Markdown("; ".join(self._only_on_maps()) or "none"),
        }

    def _only_on_maps(self) -> list[str]:
        """Name the cells of C5 that a map supports and its layer does not."""
        cells = self.cells[(self.cells["claim"] == "C5") & self.cells["space"].notna()]
        cells = cells.assign(supported=(cells["tests_for"] > 0) & (cells["tests_against"] == 0))
        wide = cells.pivot_table(
            index=["network", "method", "labels"],
            columns="space",
            values="supported",
            aggfunc="max",
        )
        names = []
        for space in wide.columns.drop(VIEWS, errors="ignore"):
            rows = wide[wide[space].eq(True) & ~wide[verdicts.LAYERS].eq(True)]
            title = embed.TITLES[space]
            names += [f"`{m}`, {labels} labels, on {title}" for _, m, labels in rows.index]
        return names

    def everywhere(self) -> Any:
        """Draw C5 in the layers and on their maps, at the first budget that has maps."""
        tests = self.beside_maps()
        if tests.empty:
            return Markdown("*This study has no method beside the baseline.*")
        tests = _titled(tests[tests["labels"] == tests["labels"].iloc[0]])
        title = "Classes further apart than in the baseline, in layers and on maps"
        return charts.forest(tests, title, row="what", column="space")

    def everywhere_table(self) -> HTML:
        """Show the means of C5 in the layers and on their maps, side by side."""
        tests = self.beside_maps()
        tests = tests.assign(
            measure=tests["measure"].replace(LAYER_MEASURES).map(charts.name),
            words=[f"{row.mean:+.2f} (n = {row.n})" for row in tests.itertuples()],
        )
        rows = tests.pivot_table(
            index=["method", "labels", "measure", "layer"],
            columns="space",
            values="words",
            aggfunc="; ".join,
            sort=False,
        )
        views = [space for space in VIEWS if space in rows.columns]
        rows = rows[[*views, *rows.columns.drop(views)]].fillna("–")
        rows = rows.rename(columns=embed.TITLES).reset_index()
        return tables.table(rows, "Distilled minus baseline, in the layers and on maps of them")

    def chance(self) -> dict[str, str]:
        """Give the most tests of one cell, and how often one of them has p < 0.05 by chance."""
        judged = self.cells[~self.cells["verdict"].isin(verdicts.UNDECIDED)]
        tests = max([int(count) for count in judged["tests"] if count > 1], default=4)
        counted = (judged["tests"] > 1).any()
        return {
            "tests": str(tests) if counted else "several",
            "chance": f"{1 - 0.95**tests:.0%}",
        }


def _titled(table: pd.DataFrame) -> pd.DataFrame:
    """Replace the keys of embeddings by their titles."""
    return table.replace({"space": embed.TITLES})


def _ends(saved: pd.DataFrame) -> str:
    """Mean depth at which the baseline reaches its own last accuracy, by label budget."""
    depths = saved.groupby("labels", sort=False)["baseline"].mean()
    return ", ".join(f"{labels} labels {mean:.1f}" for labels, mean in depths.items())
