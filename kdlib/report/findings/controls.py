"""Is it the teacher? What is left of a gain when a part of its knowledge is destroyed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib.measure import standings, statistics
from kdlib.report import charts, tables
from kdlib.report.findings.methods import link
from kdlib.report.findings.words import (
    NOT_RUN,
    gain,
    interval,
    number,
    percent,
    seeds_of,
    students,
)
from kdlib.store import Results

TAKEN = {  # control -> what it takes away, and what it leaves
    "smooth": ("teacher, unlabelled images, any knowledge", "soft targets on the labelled images"),
    "random": (
        "all that the teacher learnt",
        "the unlabelled images, soft targets, the outputs of some network",
    ),
    "pseudo": (
        "softness: how sure the teacher is, and which other classes it finds likely",
        "its top class for every unlabelled image",
    ),
    "shuffled": (
        "which wrong classes the teacher finds likelier (dark knowledge)",
        "its top class, and how sure it is of it",
    ),
    "transfer": ("the labels", "soft targets only, on all images"),
    "self": ("the larger network", "a teacher of the student's own architecture, with every label"),
    "born_again": ("the larger network", "as self, and three generations"),
    "noisy_student": (
        "the larger network, and the ease",
        "distorted images, dropout, three generations",
    ),
}
BESIDE_KD = ("shuffled", "pseudo", "transfer", "smooth", "random")
FIGURE = ("kd", *BESIDE_KD, "baseline", "self", "born_again", "noisy_student")
SUMMARY = ("kd", *BESIDE_KD, "baseline")
LAYERS = ("smooth", "pseudo", "shuffled", "random", "transfer")  # whose layers are of interest
SHARES = {  # controls whose share of kd's gain the short answer gives
    "pseudo": "the teacher's top class alone",
    "shuffled": "soft targets with the wrong classes in another order",
}
MOST = 0.75  # of kd's gain
NO_SHARE = "–"  # where kd does not beat the baseline
GAIN = ["gain", "gain_low", "gain_high"]
NOT_JUDGED = "one seed, not judged"
WITH_KD = {"above": "kd", "below": "kd", statistics.EQUIVALENT: "from kd"}


def taken_away() -> HTML:
    """List what each control takes away, and what it leaves."""
    rows = [
        {"control": link(control, control), "takes away": taken, "leaves": left}
        for control, (taken, left) in TAKEN.items()
    ]
    return tables.table(pd.DataFrame(rows), "What each control takes away")


class Controls:
    """The study of methods, with every control beside kd. Empty where it was not run."""

    def __init__(self, gallery: Results):
        self.gallery = gallery
        self.standings = standings.standings(gallery)
        self.home = standings.one_network_each(self.standings)
        self.gains = self.home.set_index(["method", "labels"])
        self.budgets = charts.budgets(self.home)
        self.few = self.budgets[0] if self.budgets else ""
        self.beside = self._beside_kd()

    def _beside_kd(self) -> pd.DataFrame:
        """Average the differences control - kd, paired by seed: by method and labels."""
        each = statistics.differences(self.gallery, statistics.ACCURACY)
        kd = each.loc[each["method"] == "kd", ["network", "labels", "seed", "difference"]]
        rest = each[each["method"] != "kd"]
        both = rest.merge(kd, on=["network", "labels", "seed"], suffixes=("", "_kd"))
        both["difference"] -= both["difference_kd"]
        by = ["method", "labels"]
        return statistics.summarise(both, by).set_index(by)

    def was_run(self, control: str, labels: str) -> bool:
        """Whether a control was run beside kd."""
        return (control, labels) in self.beside.index

    def against_kd(self, control: str, labels: str) -> str:
        """Return where a control lies beside kd: above, below, no different or not told apart.

        Of one seed NOT_JUDGED.
        """
        row = self.beside.loc[(control, labels)]
        if row["n"] < 2:
            return NOT_JUDGED
        numbers = [row[column] for column in ("mean", "low", "high", "n")]
        word = statistics.beside(*numbers, above="above", below="below")
        return word if word == statistics.UNCLEAR else f"{word} {WITH_KD[word]}"

    def everywhere(self, control: str) -> set[str]:
        """Return where a control lies beside kd, over all label budgets at which it is judged."""
        budgets = [labels for labels in self.budgets if self.was_run(control, labels)]
        return {self.against_kd(control, labels) for labels in budgets} - {NOT_JUDGED}

    def never_below(self, control: str) -> bool:
        """Whether a control was run, and lies below kd at no label budget."""
        found = self.everywhere(control)
        return bool(found) and "below kd" not in found

    def as_good(self, control: str) -> bool:
        """Whether a control is no different from kd, or above it, at every label budget."""
        found = self.everywhere(control)
        return bool(found) and found <= {"above kd", f"{statistics.EQUIVALENT} from kd"}

    def ratio(self, control: str, labels: str) -> float:
        """Return a control's gain in units of kd's; NaN unless kd beats the baseline."""
        if not {(control, labels), ("kd", labels)} <= set(self.gains.index):
            return math.nan
        kd = self.gains.loc[("kd", labels)]
        if kd["beside"] != "better":
            return math.nan
        return float(self.gains.loc[(control, labels), "gain"] / kd["gain"])

    def share(self, control: str, labels: str) -> str:
        """Return `ratio` in percent, in words."""
        ratio = self.ratio(control, labels)
        return NO_SHARE if math.isnan(ratio) else f"{100 * ratio:.0f} %"

    def facts(self) -> dict[str, str]:
        """Give the chapter's heading and the numbers that its prose quotes."""
        teacher = self.gallery.runs.loc[
            self.gallery.runs["role"] == "teacher", "test_accuracy"
        ].mean()
        last = ("kd", self.budgets[-1] if self.budgets else "")
        room = teacher - self.gains.loc[last, "accuracy"] if last in self.gains.index else None
        table = self.standings
        return {
            "claim": self.heading(),
            "right": percent(teacher) if pd.notna(teacher) else "an unknown share",
            "room": f"{100 * room:.1f}" if room is not None else "an unknown number of",
            "network": table["network"].iloc[0] if len(table) else "one network",
            "seeds": seeds_of(table["n"]),
        }

    def heading(self) -> str:
        """State what the controls show of dark knowledge."""
        if not self.was_run("shuffled", self.few):
            return "What a control leaves of a gain is what it did not take away"
        if not self.everywhere("shuffled"):
            return "One seed of each control: nothing is judged yet"
        if not self.never_below("shuffled"):
            return "Part of the gain is the order among wrong classes"
        if self.never_below("pseudo"):
            return "Accuracy is no evidence of dark knowledge here"
        if self.as_good("shuffled"):
            return "The order among wrong classes is not what helps here"
        return "That the order among wrong classes helps is not shown here"

    def short(self) -> Markdown:
        """Answer in a paragraph why distillation helps, with the fewest labels of the study."""
        if not self._has_gain("kd"):
            return Markdown("The study that this edition reads did not run what would tell.")
        row = self.gains.loc[("kd", self.few)]
        source = f"`{self.gallery.study['name']}`, {self.few} labels per class"
        if row["n"] < 2:
            return Markdown(f"Not known yet: the controls have one seed ({source}).")
        added = (
            f"`kd` adds {interval(row[GAIN])} points of test accuracy to the baseline ({source})"
        )
        shares = {control: self.share(control, self.few) for control in SHARES}
        listed = [
            f"{words} (`{control}`) reaches {shares[control]}"
            for control, words in SHARES.items()
            if shares[control] != NO_SHARE
        ]
        if not listed:
            return Markdown(f"{added}; no control with a share of that was run.")
        rest = f" Of that, {'; '.join(listed)}. {self.heading()}."
        if self.ratio("pseudo", self.few) >= MOST:
            rest += (
                " So a class for every unlabelled image, from a teacher that is mostly right, is "
                "worth most of what distillation adds."
            )
        return Markdown(f"{added}.{rest}")

    def figure(self, methods: Sequence[str] = FIGURE) -> Any:
        """Draw the accuracies of kd and the controls."""
        names = [method for method in methods if method in set(self.home["method"])]
        return charts.dots(self.standings, names) if names else NOT_RUN

    def table(self) -> HTML | Markdown:
        """Show the controls beside kd."""
        rows = [
            self._row(control, labels)
            for control in BESIDE_KD
            for labels in self.budgets
            if self.was_run(control, labels)
        ]
        caption = "Controls beside kd: mean paired difference and 95 % t interval over seeds"
        return tables.table(pd.DataFrame(rows), caption) if rows else NOT_RUN

    def _row(self, control: str, labels: str) -> dict[str, Any]:
        row = self.beside.loc[(control, labels)]
        return {
            "control": control,
            "labels per class": labels,
            "minus kd, points": number(interval(row[["mean", "low", "high"]])),
            "n": int(row["n"]),
            "beside kd": self.against_kd(control, labels),
            "share of kd's gain": self.share(control, labels),
        }

    def conclusions(self) -> Markdown:
        """List what follows from the controls, with the fewest labels."""
        judged = {self.against_kd(m, self.few) for m in BESIDE_KD if self.was_run(m, self.few)}
        if judged == {NOT_JUDGED}:
            return Markdown(
                "Nothing yet. There is one seed of each control: every difference above is of one "
                "pair of students, and has no interval."
            )
        lines = []
        if self.was_run("pseudo", self.few):
            lines.append(self._softness())
        if self.was_run("shuffled", self.few):
            lines.append(self._dark_knowledge())
        if self.was_run("random", self.few):
            lines.append(self._untrained_teacher())
        if self.was_run("smooth", self.few):
            lines.append(self._smoothing())
        lines += [self._own_kind(m) for m in ("self", "born_again") if self._has_gain(m)]
        return Markdown("\n".join(f"- {line}" for line in lines)) if lines else NOT_RUN

    def _softness(self) -> str:
        part = self.share("pseudo", self.few)
        share = (
            f"Hard targets reach {part} of what soft ones add with {self.few} labels per class."
            if part != NO_SHARE
            else f"Soft targets do not beat the baseline with {self.few} labels per class."
        )
        if self.as_good("pseudo"):
            return (
                f"{share} Nothing here needs softness: with labels for the unlabelled images alone "
                "accuracy is no different from kd's within a point, or higher, at every budget."
            )
        if self.never_below("pseudo"):
            return (
                f"{share} The two are not told apart everywhere: what softness adds is not shown."
            )
        return f"{share} The rest is what softness is worth."

    def _dark_knowledge(self) -> str:
        if self.as_good("shuffled"):
            return (
                "To give the teacher's other probabilities to the wrong classes costs no accuracy, "
                "within a point, at any budget: these accuracies need no dark knowledge."
            )
        if self.never_below("shuffled"):
            return (
                "To give the teacher's other probabilities to the wrong classes costs accuracy at "
                "no budget that can be told from 0, nor is the difference within a point at all of "
                "them: these accuracies are no evidence of dark knowledge, and none against it."
            )
        return (
            "With the wrong classes in another order accuracy falls somewhere: that much is dark "
            "knowledge."
        )

    def _untrained_teacher(self) -> str:
        below_baseline = self.gains.loc[("random", self.few), "beside"] == "worse"
        if below_baseline and self.against_kd("random", self.few) == "below kd":
            return "A teacher that learnt nothing harms: not the outputs of every network will do."
        return "That a teacher which learnt nothing harms is not shown where labels are few."

    def _smoothing(self) -> str:
        row = self.gains.loc[("smooth", self.few)]
        effect = "something" if row["beside"] == "better" else "nothing that is clear"
        gain = interval(row[GAIN])
        return (
            f"Softness without a teacher adds {effect} where labels are few ({gain} points over "
            "the baseline)."
        )

    def _has_gain(self, method: str) -> bool:
        cell = (method, self.few)
        return cell in self.gains.index and pd.notna(self.gains.loc[cell, "gain"])

    def _own_kind(self, method: str) -> str:
        row = self.gains.loc[(method, self.few)]
        meaning = (
            "a teacher that is no larger will do."
            if row["beside"] == "better"
            else "no more than could be chance."
        )
        return (
            f"`{method}` adds {interval(row[GAIN])} points to the teacher's own network: {meaning}"
        )


def layers(results: Results) -> Markdown:
    """List how compact the controls' layers are in a study; name those not measured."""
    runs = students(results.runs)
    fewest, methods = charts.budgets(runs)[0], set(runs["method"])
    measured = [control for control in LAYERS if control in methods]
    lines = []
    if measured and "baseline" in methods:
        for method in ("kd", *measured):
            if method in methods:
                words = gain(results, "within_share", "block2", method=method, labels=fewest)
                lines.append(
                    f"- `{method}` minus baseline at `block2`, {fewest} labels per class: {words}"
                )
    head = "Within-class share of variance; smaller is more compact:"
    if not lines:
        head = f"Study `{results.study['name']}` measured no control's layers."
    missing = [f"`{control}`" for control in ("pseudo", "shuffled") if control not in measured]
    tail = (
        f"**Open**: the layers of {' and '.join(missing)} were not measured. Whether equal "
        "accuracy comes with equal compactness, this study does not tell. One that measures them "
        "is one line: `methods: [baseline, kd, pseudo, shuffled]` in a copy of its file."
        if missing
        else ""
    )
    return Markdown("\n".join([head, "", *lines, "", tail]))
