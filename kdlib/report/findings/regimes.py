"""What a teacher learnt from decides which question is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib.measure import statistics, verdicts
from kdlib.report import charts, tables
from kdlib.report.findings.verdicts import sentence
from kdlib.report.findings.words import (
    NOT_RUN,
    architecture,
    data_set,
    interval,
    is_control,
    main_network,
    percent,
    seeds,
    students,
)
from kdlib.store import Results


def networks(results: Results) -> pd.DataFrame:
    """List the networks of a study, the largest first: network, width, role, parameters."""
    table = results.runs.drop_duplicates(["network", "role"])
    table = table.sort_values("parameters", ascending=False, kind="stable")
    return table[["network", "width", "role", "parameters"]].reset_index(drop=True)


def sizes(results: Results) -> HTML:
    """Show the networks of a study with their numbers of parameters."""
    table = networks(results)
    largest = table["parameters"].max()
    ratios = [f"1 / {largest / p:.0f}" if p < largest else "–" for p in table["parameters"]]
    rows = {
        "network": [f"<code>{name}</code>" for name in table["network"]],
        "role": table["role"],
        "parameters": table["parameters"].map("{:,}".format),
        "beside the largest": ratios,
    }
    return tables.table(
        pd.DataFrame(rows), f"The networks of this study of {data_set(results.study)}"
    )


def teachers(*studies: Results) -> HTML | Markdown:
    """Show how accurate the teachers of some studies are, and how well calibrated."""
    rows = pd.concat(
        [
            study.runs[study.runs["role"] == "teacher"].assign(study=study.study["name"])
            for study in studies
        ]
    )
    if rows.empty:
        return NOT_RUN
    rows = rows.drop_duplicates("run").reset_index(drop=True)
    rows["accuracy"] = 100 * rows["test_accuracy"]
    rows["error"] = 100 * rows["calibration_error"].astype(float)
    by = ["study", "regime", "network", "labels"]
    each = rows.groupby(by, sort=False)[["accuracy", "error"]].agg(["mean", "count"])
    columns = {
        "regime": [f"<code>{regime}</code>" for _, regime, _, _ in each.index],
        "network": [f"<code>{network}</code>" for _, _, network, _ in each.index],
        "labels per class": [labels for *_, labels in each.index],
        "study": [study for study, *_ in each.index],
        "test accuracy, %": each["accuracy", "mean"].map("{:.1f}".format).to_list(),
        "calibration error, points": [
            "–" if pd.isna(error) else f"{error:.1f}" for error in each["error", "mean"]
        ],
        "teachers": each["accuracy", "count"].to_list(),
    }
    caption = "The teachers: means over those of each kind"
    return tables.table(pd.DataFrame(columns), caption)


def blocks(results: Results, example: Callable[..., Any]) -> Any:
    """Draw the layers of the networks; `example` is `kdlib.models.example`.

    A network that was made with options of its own is left out.
    """
    _, height, width, channels = results.images.shape
    rows = []
    for network in networks(results).drop_duplicates("network").to_dict("records"):
        forward = example(
            architecture(network["network"], network["width"]),
            width=network["width"],
            classes=len(results.study["classes"]),
            channels=channels,
            size=max(height, width),
            parameters=network["parameters"],
        )
        for layer, x in forward.features.items() if forward else ():
            side = x.shape[-1] if x.ndim == 4 else 1
            rows.append((network["network"], layer, x.shape[1], side))
    if not rows:
        return Markdown("*These networks were made with options of their own; no figure of them.*")
    return charts.blocks(pd.DataFrame(rows, columns=["network", "layer", "channels", "side"]))


def facts(results: Results, *others: Results) -> dict[str, Any]:
    """Compare the smallest student with its teacher, and link to both in the explorer.

    Of all teachers of `others`, too, name the one that is calibrated worst.
    """
    every = students(results.runs)
    smallest = every.loc[every["parameters"].idxmin()]
    teachers = results.runs[results.runs["role"] == "teacher"].set_index("run")["parameters"]
    large = teachers.get(smallest["teacher"], teachers.max())
    one = every["network"].nunique() == 1
    return {
        "smallest": "The student" if one else "The smallest student",
        "times": f"{large / smallest['parameters']:.0f}",
        "surest": Markdown(_surest(results, *others)),
        **_views(results),
    }


def _surest(*studies: Results) -> str:
    """Name the kind of teacher with the largest calibration error, and how large it is."""
    runs = pd.concat([study.runs[study.runs["role"] == "teacher"] for study in studies])
    runs = runs.drop_duplicates("run")
    errors = runs.assign(error=100 * runs["calibration_error"].astype(float)).dropna(subset="error")
    means = errors.groupby("regime")["error"].agg(["mean", "count"])
    if len(means) < 2:
        return ""
    worst = means["mean"].idxmax()
    return (
        f"Averaged over the teachers of each regime, it is largest for `{worst}`, "
        f"{means.loc[worst, 'mean']:.0f} points (n = {means.loc[worst, 'count']})."
    )


def _views(results: Results) -> dict[str, HTML]:
    """Link to a teacher beside its student in the explorer, where both have maps."""
    mapped = set(results.maps["run"])
    pairs = students(results.runs)
    pairs = pairs[pairs["run"].isin(mapped) & pairs["teacher"].isin(mapped)]
    pairs = pairs[~is_control(pairs["method"])]
    pair = ""
    if len(pairs):
        first = pairs.iloc[0]
        pair = f"left={first['teacher']}&right={first['run']}&"
    return {
        "beside": HTML(
            f'<a href="layers.html#{pair}layer=block3">beside its student, at block3</a>'
        ),
        "early": HTML(f'<a href="layers.html#{pair}layer=block1">at block1</a>'),
    }


ERRING = {  # regime -> its teacher, in words
    "limited": "trained on as few labels as its students",
    "pretrained": "pre-trained, then trained on as few labels as its students",
}
ASKED = ("kd", "pseudo", "shuffled")  # soft labels, hard ones, soft ones without an order


class Outperformed:
    """The study `regimes`: students beside their own teachers, and the verdict on C2.

    Where it was not run, figures and tables are a sentence that states so.
    """

    def __init__(self, regimes: Results):
        self.regimes = regimes
        self.students = students(regimes.runs)
        differences = verdicts.differences(regimes)
        differences = differences[differences["claim"] == "C2"]
        self.methods = verdicts.methods(differences)
        self.cells = verdicts.cells(differences)

    @property
    def erring(self) -> bool:
        """Whether it has students of teachers with few labels."""
        return bool(self.students["regime"].isin(ERRING).any())

    def facts(self, main: Results) -> dict[str, Any]:
        """Give the verdicts, and what changes; `main` is the study whose teacher has all labels."""
        return {
            "verdict": Markdown(sentence(self.cells, "C2")),
            "which": Markdown(self._which()),
            "erring": Markdown(self._changes(main)),
        }

    def short(self) -> Markdown:
        """State what kd reaches with the best of the teachers that have few labels themselves."""
        own = self.students[
            self.students["regime"].isin(ERRING) & (self.students["method"] == "kd")
        ]
        if own.empty:
            return Markdown("No student here has a teacher with as few labels as itself.")
        few = charts.budgets(own)[0]
        score = self.regimes.runs.set_index("run")[statistics.ACCURACY]
        own = own[own["labels"] == few].assign(taught=lambda runs: runs["teacher"].map(score))
        regime = own.groupby("regime")["taught"].mean().idxmax()
        own = own[own["regime"] == regime]
        rows = self.students.query("method == 'baseline' and labels == @few and seed in @own.seed")
        words = f"{percent(own['taught'].mean())} of the test images correctly, its student by `kd`"
        return Markdown(
            f"What if the teacher has few labels, too? One {ERRING[regime]}, {few} per class, "
            f"classifies {words} {percent(own[statistics.ACCURACY].mean())}, and the baseline "
            f"{percent(rows[statistics.ACCURACY].mean())} ({seeds(own['seed'].nunique())})."
        )

    def _changes(self, main: Results) -> str:
        """State how good each teacher is, and its students by kd, pseudo and shuffled."""
        if not self.erring:
            return (
                f"On {data_set(main.study)} no student has a teacher with as few labels as "
                "itself, so what changes when the teacher errs is open here."
            )
        few = charts.budgets(self.students[self.students["regime"].isin(ERRING)])[0]
        whole = self.regimes if "full" in set(self.students["regime"]) else main
        lines = [
            _of_regime(self.regimes, regime, few, f"**A teacher {words}**")
            for regime, words in ERRING.items()
            if regime in set(self.students.loc[self.students["labels"] == few, "regime"])
        ]
        taught = students(whole.runs)
        if ((taught["regime"] == "full") & (taught["labels"] == few)).any():
            lines.append(_of_regime(whole, "full", few, "**The teacher with every label**"))
        head = f"On {data_set(self.regimes.study)}, with {few} labels per class:"
        return "\n".join([head, "", *(f"- {line}" for line in lines)])

    def _which(self) -> str:
        """State what was run."""
        n = seeds(self.students["seed"].nunique())
        images = f"{self.regimes.study.get('test_images', 0):,}"
        return f"One student network on {data_set(self.regimes.study)}, {n}, {images} test images."

    def larger(self) -> Markdown:
        """State what this study of a larger student shows; nothing where there is none."""
        if self.students.empty:
            return Markdown("")
        networks = ", ".join(f"`{name}`" for name in dict.fromkeys(self.students["network"]))
        n = seeds(self.students["seed"].nunique())
        return Markdown(
            f"A larger student, {networks}, was trained for longer in the study "
            f"`{self.regimes.study['name']}`, {n}. C2 there: {sentence(self.cells, 'C2')}."
        )

    def accuracies(self) -> Any:
        """Draw students and their teachers by regime."""
        return NOT_RUN if self.students.empty else charts.regimes(self.regimes)

    def forest(self) -> Any:
        """Draw C2: student minus its own teacher."""
        if self.cells.empty:
            return NOT_RUN
        title = "Student minus its own teacher, test accuracy"
        return charts.forest(self.cells, self.methods, title, verdicts.CLAIMS["C2"].unit)


def _of_regime(results: Results, regime: str, labels: str, words: str) -> str:
    """State how good the teachers of a regime are, their students, and kd minus pseudo."""
    runs = statistics.students(results, regime)
    runs = runs[runs["labels"] == labels]
    runs = runs[runs["network"] == main_network(runs[runs["regime"] == regime])]
    teachers = results.runs[results.runs["run"].isin(runs["teacher"])]
    table = runs.pivot_table(index="seed", columns="method", values=statistics.ACCURACY)
    there = [method for method in ASKED if method in table]
    listed = ", ".join(f"`{method}` {percent(table[method].mean())}" for method in there)
    line = (
        f"{words} (`{teachers['network'].iloc[0]}`) predicts the right class for "
        f"{percent(teachers['test_accuracy'].mean())} of the test images. Its students: {listed}"
    )
    if not {"kd", "pseudo"} <= set(there):
        return f"{line} ({seeds(len(table))})."
    row = statistics.minus(table["kd"], table["pseudo"])
    if not row["n"]:
        return f"{line} ({seeds(len(table))})."
    gain = interval(row[["mean", "low", "high"]])
    n = "one seed: no verdict" if row["n"] == 1 else seeds(int(row["n"]))
    return f"{line}. `kd` minus `pseudo`: {gain} points ({n})."
