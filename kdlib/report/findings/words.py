"""Numbers and lists as a sentence states them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import myst_nb
import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import UsageError
from kdlib.measure import statistics
from kdlib.plan import editions
from kdlib.plan.methods import BASELINE
from kdlib.report import charts
from kdlib.report.charts.parts import joined, listed
from kdlib.store import Results

NOT_RUN = Markdown("*Not run.*")
NOTHING = HTML("<span></span>")
NO_MAPS = Markdown("*This study has no maps of its layers.*")


def glue(facts: Mapping[str, Any]) -> None:
    """Hand facts to the page of a chapter, which quotes them by {glue:text} or {glue}."""
    for name, value in facts.items():
        if isinstance(value, Markdown) and not value.data.strip():  # a page would show its repr
            value = NOTHING
        myst_nb.glue(name, value, display=False)


def interval(values: Iterable[float], form: str = "+.1f", *, scale: float = 100.0) -> str:
    """Write mean, low and high, times `scale`: "mean [low, high]"; the mean only where low is NaN.

    >>> interval((0.1, 0.05, 0.15))
    '+10.0 [+5.0, +15.0]'
    """
    digits = int(form.strip("+.f"))
    mean, low, high = (f"{round(scale * value, digits) + 0.0:{form}}" for value in values)
    return mean if low.strip("+-") == "nan" else f"{mean} [{low}, {high}]"


def number(words: str) -> str:
    """Mark a number up as HTML, so that it is not broken over two lines."""
    return f'<span class="kd-number">{words}</span>'


def percent(share: float) -> str:
    """Write a share in percent: "95.1 %"."""
    return f"{100 * share:.1f} %"


def counts(numbers: Iterable[int], *, none: str = "no") -> str:
    """Write numbers of seeds, from the smallest: "3 or 5"; `none` where there are none."""
    return listed(numbers) or none


def seeds(n: int) -> str:
    """Write a number of seeds with its noun: "1 seed", "5 seeds"."""
    return f"{n} {'seed' if n == 1 else 'seeds'}"


def seeds_of(numbers: Iterable[int]) -> str:
    """List distinct numbers of seeds with their noun: "1 seed", "3 or 5 seeds", "no seeds"."""
    words = counts(numbers)
    return f"{words} {'seed' if words == '1' else 'seeds'}"


def main_method(methods: Iterable[str], *, otherwise: str = "") -> str:
    """Choose the method that a chapter quotes: kd if it was run, else the first of the legend."""
    names = [method for method in charts.order(methods) if method != BASELINE]
    return "kd" if "kd" in names else next(iter(names), otherwise)


def main_network(runs: pd.DataFrame) -> str:
    """Name the network that most runs share; "" of no runs."""
    return next(iter(runs["network"].value_counts().index), "")


def lead(best: pd.Series, other: pd.Series) -> str:
    """State by how much the best method leads another, whose name is that of `other`.

    Both are accuracies by seed. The same seeds chose the best, which an interval does not know.
    """
    row = statistics.minus(best, other)
    if not row["n"]:
        return f"and `{other.name}` share no seed"
    words = f"minus `{other.name}`, paired by seed, {interval(row[['mean', 'low', 'high']])} points"
    words = f"{words} (n = {row['n']:.0f})"
    if row["n"] < 2:
        return words
    return f"{words}; the interval is of the one that came out best, and not corrected for that"


def larger(runs: pd.DataFrame, best: str, other: str) -> str:
    """State how much larger the student of a method is than another's, of runs of one network."""
    size = runs.groupby("method")["parameters"].max()
    if not size[best] > size.get(other, math.inf):
        return ""
    return f"Its student has {size[best]:,.0f} parameters instead of {size[other]:,.0f}"


def labelled_images(study: Mapping[str, Any], labels: str) -> int:
    """Count the labelled training images of a study at one label budget."""
    total: int = study["train_images"]
    return total if labels == "all" else int(labels) * len(study["classes"])


def data_set(study: Mapping[str, Any]) -> str:
    """Name the data set of a study as the switch between editions does."""
    edition = editions.reading(study["name"])
    return edition.title if edition in editions.EDITIONS else str(study["dataset"])


def images(study: Mapping[str, Any]) -> str:
    """Say in a line which images a study has, from its facts: how many, of what, what is missing.

    >>> images({"name": "quick", "train_images": 1297, "test_images": 500, "dataset": "digits"})
    'digits, 1,297 images to train and 500 to test on: handwritten digits of 8 x 8 pixels.'
    """
    edition = editions.reading(study["name"])
    of = f" (of its {edition.whole:,})" if edition.whole else ""
    train, test = f"{study['train_images']:,}", f"{study['test_images']:,}"
    line = f"{data_set(study)}, {train} images to train and {test} to test on{of}: {edition.words}."
    tested, lacks = edition.missing
    return f"{line} {lacks}" if study["test_images"] == tested else line


def lacks(study: Mapping[str, Any]) -> str:
    """Say in a sentence what is missing of a study's plan; "" where nothing is, or none is known.

    >>> lacks({"missing": 66, "published": {"10": [0, 1, 2]}})
    '66 of the planned runs are missing; published are 3 seeds at 10 labels per class.'
    """
    if not study.get("missing"):
        return ""
    budgets = [f"{seeds(len(each))} at {labels}" for labels, each in study["published"].items()]
    verb = "is" if study["missing"] == 1 else "are"
    return (
        f"{study['missing']} of the planned runs {verb} missing; published are "
        f"{joined(budgets, 'and')} labels per class."
    )


def labels_each(labels: str) -> str:
    """Write a label budget: "2 labels of each class", or all."""
    return "every label" if labels == "all" else f"{labels} labels of each class"


LEARNT = {  # regime of a teacher -> what it was trained on
    "full": "was trained on every label",
    "limited": "was trained on as few labels as its student",
    "pretrained": "was pre-trained, and then trained on as few labels as its student",
}


def is_published(study: Mapping[str, Any], run: Mapping[Any, Any]) -> bool:
    """Whether a row of `runs` is a teacher of every label that was used as it was published."""
    if (run["role"], run["regime"]) != ("teacher", "full") or run["weights"] == "random":
        return False
    settings = study.get("settings", {}).get("teacher", {})
    return settings.get("epochs") == "0" or "epochs=0" in run["options"].split()


def learnt(study: Mapping[str, Any], teacher: Mapping[Any, Any]) -> str:
    """State what a teacher, a row of `runs`, was trained on, and whether by somebody else."""
    if is_published(study, teacher):
        return "was trained by its publisher on every label, and is used as it was published"
    return LEARNT[teacher["regime"]]


def gain(results: Results, measure: str, layer: str, *, method: str, labels: str) -> str:
    """Write `statistics.gain`, or that the study did not measure it."""
    try:
        return statistics.gain(results, measure, layer, method=method, labels=labels)
    except UsageError:
        return "not measured"


def students(runs: pd.DataFrame) -> pd.DataFrame:
    """Select the students of the table `runs`."""
    return runs[runs["role"] == "student"]


def is_control(methods: pd.Series) -> pd.Series:
    """Tell for each name of a method whether it is a control."""
    return methods.isin(statistics.CONTROLS)


def architecture(network: str, width: float) -> str:
    """Return the architecture of a network as shown: resnet8 of "resnet8x0.5", width 0.5."""
    return network.removesuffix(f"x{width:g}")
