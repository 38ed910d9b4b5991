"""Is it the teacher? What is left of a gain when a part of its knowledge is destroyed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib.measure import standings, statistics
from kdlib.plan import editions
from kdlib.report import charts, tables
from kdlib.report.findings.methods import NAMED, link
from kdlib.report.findings.words import (
    NOT_RUN,
    data_set,
    interval,
    number,
    percent,
    seeds,
    seeds_of,
)
from kdlib.store import Results

TAKEN = {  # control -> what it takes away, and what it leaves
    "smooth": ("the teacher, the unlabelled images", "soft targets on the labelled images"),
    "random": (
        "what the teacher has learnt",
        "soft targets for all images, of an untrained network",
    ),
    "pseudo": ("the probabilities, and the labels", "the teacher's top class for every image"),
    "shuffled": (
        "the order among wrong classes (dark knowledge)",
        "the top class and its probability",
    ),
    "self": ("the larger network", "a teacher of the student's architecture, with every label"),
    "born_again": ("the larger network", "the same over three generations"),
    "noisy_student": (
        "the larger network, the clean images",
        "distorted images, dropout, three generations",
    ),
}
BESIDE_KD = ("shuffled", "pseudo", "smooth", "random")
FIGURE = ("kd", *BESIDE_KD, "baseline", "self", "born_again", "noisy_student")
SUMMARY = ("kd", *BESIDE_KD, "baseline")
LAYERS = ("smooth", "pseudo", "shuffled", "random")  # whose layers are of interest
MOST = 0.75  # of kd's gain
NO_SHARE = "–"  # where kd does not beat the baseline
A_LOSS = "– (below the baseline)"  # a share of a gain is never negative
GAIN = ["gain", "gain_low", "gain_high"]
NOT_JUDGED = "one seed, not judged"
WITH_KD = {"above": "kd", "below": "kd", statistics.EQUIVALENT: "from kd"}


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
        if math.isnan(ratio):
            return NO_SHARE
        return f"{100 * ratio:.0f} %" if ratio >= 0 else A_LOSS

    def facts(self) -> dict[str, Any]:
        """Give the chapter's heading and the numbers that its prose quotes."""
        table = self.standings
        return {
            "claim": self.heading(),
            "leak": Markdown(self._leak()),
            "network": table["network"].iloc[0] if len(table) else "one network",
            "seeds": seeds_of(table["n"]),
            "other": Markdown(f"{NAMED}." if self._other_network() else ""),
        }

    def _other_network(self) -> bool:
        """Whether the figure names a method that was run on another network."""
        rows = self.home[self.home["method"].isin(FIGURE)]
        return bool(rows["name"].str.contains(", ").any())

    def _leak(self) -> str:
        """State whether the teachers were trained on the labels that the students lack."""
        teachers = self.teachers
        if teachers.empty:
            return "What a teacher was trained on decides what its outputs are worth."
        tested = f"{percent(teachers['test_accuracy'].mean())} of the test images"
        right = f"{self._known()}{tested} their true label."
        if set(teachers["regime"]) != {"full"}:
            return f"The teachers give {right}"
        return (
            "**The teacher was trained on every label, also on those that its students lack.** "
            f"It gives {right}{self._repeated()} With such a teacher a large share of `pseudo` is "
            "likely, and it does not follow that soft targets never matter."
        )

    def _repeated(self) -> str:
        """Compare `pseudo` with training with every label, where it is behind by an interval."""
        cells = [("pseudo", self.few), ("baseline", "all")]
        if self.few == "all" or not set(cells) <= set(self.gains.index):
            return ""
        row = statistics.minus(*(self._scores(*cell) for cell in cells))
        if not row["high"] < 0:
            return ""
        pseudo, every = (percent(self.gains.loc[cell, "accuracy"]) for cell in cells)
        return (
            f" Yet `pseudo` reaches {pseudo} and training with every true label {every}, a "
            f"difference of {interval(row[['mean', 'low', 'high']])} points (n = {row['n']:.0f}): "
            "perhaps because the same few labelled images are part of each batch of `pseudo`."
        )

    def _scores(self, method: str, labels: str) -> pd.Series:
        """Return the accuracies of a method in its network, by seed."""
        runs = statistics.students(self.gallery)
        own = runs["method"].eq(method) & runs["labels"].eq(labels)
        network = self.gains.loc[(method, labels), "network"]
        return runs[own & runs["network"].eq(network)].set_index("seed")[statistics.ACCURACY]

    @property
    def teachers(self) -> pd.DataFrame:
        """The teachers of the study."""
        return self.gallery.runs[self.gallery.runs["role"] == "teacher"]

    def _known(self) -> str:
        """How many training images the teachers give their true label; "" if not measured."""
        means = self.teachers[["train_accuracy", "train_confidence"]].astype(float).mean()
        if means.isna().any():
            return ""
        return (
            f"{percent(means['train_accuracy'])} of the training images of the students, with a "
            f"mean probability of {means['train_confidence']:.3f} for the top class, and "
        )

    def heading(self) -> str:
        """State what the controls show of dark knowledge."""
        if not self.was_run("shuffled", self.few):
            return "What a control leaves of a gain is what it did not take away"
        if not self.everywhere("shuffled"):
            return "One seed of each control: nothing is judged yet"
        if not self.never_below("shuffled"):
            return self._parts()
        if self.never_below("pseudo"):
            return "Accuracy is no evidence of dark knowledge here"
        if self.as_good("shuffled"):
            return "The order among wrong classes is not what helps here"
        return "That the order among wrong classes helps is not shown here"

    def _parts(self) -> str:
        """Head the figure where both softness and order are worth something."""
        hard, shuffled = (self.ratio(control, self.few) for control in ("pseudo", "shuffled"))
        if not (hard >= 0 and shuffled >= 0):  # NaN, too
            return "Part of the gain is the order among wrong classes"
        return (
            f"The teacher's top class gives {100 * hard:.0f} % of the gain, the order among wrong "
            f"classes {100 - round(100 * shuffled)} %"
        )

    def short(self) -> Markdown:
        """Answer in two sentences why distillation helps, with the fewest labels of the study."""
        return self._answer(whole=False)

    def why(self) -> Markdown:
        """Answer the same in a paragraph, with what the teacher knew and every label beside it."""
        return self._answer(whole=True)

    def _answer(self, *, whole: bool) -> Markdown:
        if not self._has_gain("kd"):
            return Markdown("The study that this edition reads did not run what would tell.")
        row, name = self.gains.loc[("kd", self.few)], self.gallery.study["name"]
        where = f"{data_set(self.gallery.study)}, {self.few} labels per class"
        if editions.reading(name).main != name:  # the second study on a page has its name there
            where += f", study `{name}`"
        if row["n"] < 2:
            return Markdown(f"Not known yet: the controls have one seed ({where}).")
        gain = f"`kd` adds {interval(row[GAIN])} points of test accuracy to the baseline ({where})"
        sentences = [*self._hard(knew=not whole), *self._order()]
        if not sentences:
            return Markdown(f"{gain}. No control that would tell was run.")
        first = (
            f"{gain}: {sentences[0]}" if self._has_share("pseudo") else f"{gain}. {sentences[0]}"
        )
        return Markdown(" ".join([first, *sentences[1:], *(self._learnt() if whole else [])]))

    def _has_share(self, control: str) -> bool:
        """Whether a control gives a share of kd's gain, and not a loss."""
        return self.ratio(control, self.few) >= 0

    def _loses(self, control: str) -> bool:
        return self.ratio(control, self.few) < 0

    def _hard(self, *, knew: bool) -> list[str]:
        """State how much of the gain the teacher's top class alone gives, in points first."""
        if self._loses("pseudo"):
            return ["The teacher's top class alone (`pseudo`) is, on average, below the baseline."]
        if not self._has_share("pseudo"):
            return []
        points, share = self.gains.loc[("pseudo", self.few), "gain"], self.share("pseudo", self.few)
        full = len(self.teachers) > 0 and self.teachers["regime"].eq("full").all()
        by = ", from a teacher that had learnt their true labels" if full and knew else ""
        words = f"{100 * points:.1f} of them ({share}) come with the teacher's top class alone "
        if self.ratio("pseudo", self.few) < MOST:
            return [f"{words}(`pseudo`){by}."]
        return [f"{words}(`pseudo`): **labels for images that had none**{by}."]

    def _learnt(self) -> list[str]:
        """State whether the teachers had learnt the labels that their students lack."""
        if self.teachers.empty or not self.teachers["regime"].eq("full").all():
            return []
        right = self.teachers["train_accuracy"].astype(float).mean()
        known = "" if math.isnan(right) else f", and classifies {percent(right)} of them correctly"
        lines = [f"The teacher was trained on the true labels of all these images{known}."]
        return [*lines, *self._reference()]

    def _reference(self) -> list[str]:
        """State what the baseline reaches with every true label and no teacher."""
        every = ("baseline", "all")
        if self.few == "all" or every not in self.gains.index:
            return []
        accuracy, kd = (self.gains.loc[key, "accuracy"] for key in (every, ("kd", self.few)))
        return [
            f"All true labels, without a teacher, take the same network to "
            f"{percent(accuracy)} ({seeds(int(self.gains.loc[every, 'n']))}); `kd` with {self.few} "
            f"labels per class reaches {percent(kd)}."
        ]

    def _order(self) -> list[str]:
        """State what the order among wrong classes is worth."""
        if self._loses("shuffled"):
            return [
                "Soft labels whose wrong classes are mixed up (`shuffled`) are, on average, below "
                "the baseline."
            ]
        if not self._has_share("shuffled"):
            return []
        row = self.beside.loc[("shuffled", self.few)]
        word = self.against_kd("shuffled", self.few)
        if word == "below kd":
            lost = interval((-row[end] for end in ("mean", "high", "low")), ".1f")
            share = f"{100 - round(100 * self.ratio('shuffled', self.few))} %"
            return [
                f"{self._certainty()} {lost} ({share}) need the order among the wrong classes, "
                f"called *dark knowledge*.{self._gone()}"
            ]
        difference = interval(row[["mean", "low", "high"]])
        if word == "above kd":
            end = "the order among the wrong classes, called *dark knowledge*, does not help here"
        elif word == statistics.UNCLEAR:
            end = "that their order, called *dark knowledge*, helps is not shown"
        else:
            end = "that is no different, so their order, called *dark knowledge*, is not needed"
        return [
            f"Soft labels whose wrong classes are mixed up (`shuffled`) differ from `kd` by "
            f"{difference} points: {end}."
        ]

    def _gone(self) -> str:
        """State with which more labels what the order is worth is not told apart from 0."""
        later = [
            labels
            for control, labels in self.beside.index
            if (control, labels != self.few) == ("shuffled", True)
            and self.against_kd("shuffled", labels) == statistics.UNCLEAR
        ]
        if not later:
            return ""
        row = self.beside.loc[("shuffled", later[0])]
        worth = interval(-row[end] for end in ("mean", "high", "low"))
        return (
            f" With {later[0]} labels per class that last part is not told apart from 0: {worth}."
        )

    def taken_away(self) -> HTML:
        """List what each control that was run lacks, and what it keeps; all where none was run."""
        run = [control for control in TAKEN if control in set(self.home["method"])]
        rows = [
            {"control": link(control, control), "lacks": TAKEN[control][0]}
            | {"keeps": TAKEN[control][1]}
            for control in run or TAKEN
        ]
        return tables.table(pd.DataFrame(rows), "What each control lacks, and what it keeps")

    def _certainty(self) -> str:
        """State what the teacher's certainty adds to its top class, where it does."""
        mixed = "`shuffled`: soft labels whose wrong classes are mixed up"
        cells = [(name, self.few) for name in ("pseudo", "shuffled")]
        ratios = [self.ratio(*cell) for cell in cells]
        if not 0 < ratios[0] < ratios[1] < 1:  # NaN, too
            return f"Of the points ({mixed})"
        hard, soft = (self.gains.loc[cell, "gain"] for cell in cells)
        share = round(100 * ratios[1]) - round(100 * ratios[0])
        return (
            f"{100 * (soft - hard):.1f} more ({share} %) come with its certainty ({mixed}); the "
            "last"
        )

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
        if self.was_run("transfer", self.few):
            row = self.beside.loc[("transfer", self.few), ["mean", "low", "high"]]
            lines.append(
                "The method `transfer`, soft labels at temperature 1 and no true label, minus "
                f"`kd`: {interval(row)} points."
            )
        lines += [self._own_kind(m) for m in ("self", "born_again") if self._has_gain(m)]
        return Markdown("\n".join(f"- {line}" for line in lines)) if lines else NOT_RUN

    def _softness(self) -> str:
        part = self.share("pseudo", self.few)
        share, rest = "Soft labels do not beat the baseline.", "The rest"
        if self._has_share("pseudo"):
            share = f"Hard labels from the teacher (`pseudo`) give {part} of what soft ones add."
        elif self._loses("pseudo"):
            share = "Hard labels from the teacher (`pseudo`) are, on average, below the baseline."
            rest = "What soft ones add"
        if self.as_good("pseudo"):
            return (
                f"{share} Accuracy is no different from that of `kd` within a point, or higher, at "
                "every label budget: no soft label is needed."
            )
        if self.never_below("pseudo"):
            return (
                f"{share} The two are not told apart at every budget: what soft labels add is not "
                "shown."
            )
        return f"{share} {rest} is the teacher's certainty and the order among wrong classes."

    def _dark_knowledge(self) -> str:
        difference = interval(self.beside.loc[("shuffled", self.few), ["mean", "low", "high"]])
        shuffled = f"With the wrong classes shuffled (`shuffled`), accuracy changes by {difference}"
        if self.as_good("shuffled"):
            return (
                f"{shuffled} points. It is no different within a point, or higher, at every label "
                "budget: these accuracies need no dark knowledge."
            )
        if self.never_below("shuffled"):
            return (
                f"{shuffled} points. It is below `kd` at no label budget, but not shown to be "
                "within a point at all of them: no evidence of dark knowledge, and none against it."
            )
        if self.against_kd("shuffled", self.few) == "below kd":
            return f"{shuffled} points: so much is dark knowledge."
        return f"{shuffled} points; at another label budget it is below `kd`."

    def _untrained_teacher(self) -> str:
        below_baseline = self.gains.loc[("random", self.few), "beside"] == "worse"
        if below_baseline and self.against_kd("random", self.few) == "below kd":
            return (
                "Targets from an untrained teacher (`random`) lower accuracy: many targets that "
                "mean nothing outweigh few labels."
            )
        return "That an untrained teacher (`random`) lowers accuracy is not shown."

    def _smoothing(self) -> str:
        row = self.gains.loc[("smooth", self.few)]
        effect = "adds" if row["beside"] == "better" else "adds nothing that is clear,"
        gain = interval(row[GAIN])
        return (
            f"Label smoothing, soft targets without a teacher (`smooth`), {effect} {gain} points."
        )

    def _has_gain(self, method: str) -> bool:
        cell = (method, self.few)
        return cell in self.gains.index and pd.notna(self.gains.loc[cell, "gain"])

    def _own_kind(self, method: str) -> str:
        row = self.gains.loc[(method, self.few)]
        meaning = (
            "a teacher that has every label need not be larger than its student."
            if row["beside"] == "better"
            else "that may be chance."
        )
        return (
            f"`{method}` adds {interval(row[GAIN])} points to the teacher's own network: {meaning}"
        )


def compactness(results: Results) -> pd.DataFrame:
    """Average the within-class share at block2, control - kd, at the fewest labels, over seeds.

    Returns the columns of `statistics.summarise` by method; empty where it was not measured.
    """
    if "within_share" not in set(results.measures["measure"]):
        return pd.DataFrame()
    each = statistics.differences(results, "within_share")
    each = each[each["layer"] == "block2"]
    if each.empty:
        return pd.DataFrame()
    each = each[each["labels"] == charts.budgets(each)[0]]
    kd = each.loc[each["method"] == "kd", ["network", "seed", "difference"]]
    both = each.merge(kd, on=["network", "seed"], suffixes=("", "_kd"))
    both["difference"] -= both["difference_kd"]
    both = both[both["method"].isin(LAYERS)]
    return statistics.summarise(both, ["method"]) if len(both) else pd.DataFrame()


def layers(results: Results) -> HTML | Markdown:
    """Show how compact the controls' layers are beside kd's, with paired intervals."""
    rows = compactness(results)
    if rows.empty:
        return Markdown(
            f"*The study `{results.study['name']}` measured the layers of no control beside kd.*"
        )
    table = pd.DataFrame(
        {
            "control": [link(method, method) for method in rows["method"]],
            "within-class share at block2, minus kd": [
                number(interval(row, "+.3f", scale=1.0))
                for row in rows[["mean", "low", "high"]].to_numpy()
            ],
            "seeds": rows["n"],
        }
    )
    caption = "Above 0: less compact than kd. Paired mean and, of several seeds, 95 % t interval"
    return tables.table(table, caption)


def compact(results: Results) -> Markdown:
    """State whether the layers of `pseudo` are as compact as those of kd."""
    rows = compactness(results)
    row = rows[rows["method"] == "pseudo"] if len(rows) else rows
    if row.empty:
        return Markdown(
            "This study did not measure the layers of `pseudo`, so whether compactness needs soft "
            "labels is open here."
        )
    mean, low, high, n = row[["mean", "low", "high", "n"]].iloc[0]
    difference = interval((mean, low, high), "+.3f", scale=1.0)
    words = f"In the within-class share at `block2`, `pseudo` minus `kd` is {difference}"
    if n < 2:
        return Markdown(f"{words}, of one seed: nothing is judged.")
    if low > 0:
        return Markdown(f"{words}: hard labels from the teacher leave the layers less compact.")
    if high < 0:
        return Markdown(f"{words}: hard labels from the teacher make the layers more compact.")
    return Markdown(
        f"{words}: the two are not told apart, so nothing here shows that compact layers need soft "
        "labels."
    )
