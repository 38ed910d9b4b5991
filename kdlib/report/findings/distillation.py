"""Soft labels, temperature, and the two controls of dark knowledge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan, log, nan
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown
from scipy.special import softmax

from kdlib.measure import statistics
from kdlib.report import charts, tables
from kdlib.report.findings.words import interval, labelled_images, percent, students
from kdlib.store import Results

NO_LOGITS = Markdown("*This study has no logits of a teacher.*")
OF_LOGITS = (  # facts that need a teacher's logits
    *("truth", "top", "second", "error", "images", "cold", "warm", "without", "with"),
    *("margin", "even"),
)
CONTROLS = ("shuffled", "pseudo")  # what destroys dark knowledge


def facts(results: Results, constants: Mapping[str, Any]) -> dict[str, str]:
    """Describe one hesitant image and the temperature; `constants` are those of KD.

    Words stand in for what needs logits of a teacher, where the results hold none.
    """
    fewest = charts.budgets(students(results.runs))[0]
    images = results.study["train_images"]
    labelled = labelled_images(results.study, fewest)
    return {
        "temperature": f"{constants['temperature']:g}",
        "alpha": f"{constants['label_weight']:g}",
        "beta": f"{constants['weight']:g}",
        "few": fewest,
        "labelled": f"{labelled:,}",
        "rest": f"{images - labelled:,}",
        "share": f"{100 - 100 * labelled / images:.0f} %",
        **dict.fromkeys(OF_LOGITS, "not known"),
        **(_of_logits(results, constants["temperature"]) if len(results.teacher_logits) else {}),
    }


def _of_logits(results: Results, temperature: float) -> dict[str, str]:
    """Describe the image of which the first teacher is least certain, and what softening does."""
    logits = _logits(results)
    chosen = charts.least_certain(results)
    image = next(chosen.itertuples())
    margin = chosen["margin"].iloc[-1]  # of the image of which it is most certain
    classes = [str(name) for name in results.study["classes"]]
    shares = softmax(logits.loc[image.image] / temperature)
    mistake = " Its top class is not the label: soft labels pass on a teacher's mistakes, too."
    first = results.runs.set_index("run").loc[results.teacher_logits["run"].iloc[0]]
    right = float(first.get("train_accuracy", nan))
    learnt = (
        f" It gives {percent(right)} of the images that its students learn from their true label."
    )
    pulls = charts.gradient_lengths(results).set_index("temperature")
    return {
        "truth": classes[image.truth],
        "top": f"{100 * shares[image.top]:.0f} % for {classes[image.top]}",
        "second": f"{100 * shares[image.second]:.0f} % for {classes[image.second]}",
        "error": (mistake if image.top != image.truth else "") + learnt * (not isnan(right)),
        "images": f"{len(logits):,}",
        "cold": _top_share(logits, 1.0),
        "warm": _top_share(logits, temperature),
        "without": f"{pulls['KL'].max() / pulls['KL'].min():.0f}",
        "with": f"{pulls['T² KL'].max() / pulls['T² KL'].min():.1f}",
        "margin": f"{margin:.2f}",
        "even": f"{margin / log(3):.2f}",
    }


def figure(draw: Callable[..., Any], results: Results, *more: Any) -> Any:
    """Draw a chart of a teacher's logits, where the study has any."""
    return draw(results, *more) if len(results.teacher_logits) else NO_LOGITS


def _logits(results: Results) -> pd.DataFrame:
    """Logits of the first teacher: a row per image, a column per class."""
    rows = results.teacher_logits
    first = rows[rows["run"] == rows["run"].iloc[0]]
    return first.pivot(index="image", columns="label", values="logit")


def _top_share(logits: pd.DataFrame, temperature: float) -> str:
    """Mean probability of the top class at a temperature."""
    return f"{100 * softmax(logits.to_numpy() / temperature, axis=1).max(axis=1).mean():.1f} %"


def dark_knowledge(gallery: Results) -> pd.DataFrame:
    """Compare kd with the controls of dark knowledge, paired by seed, at the fewest labels.

    `gallery` is the study of methods. Returns the columns of `statistics.summarise` by control;
    empty where they were not run beside kd.
    """
    if gallery.runs.empty:
        return pd.DataFrame()
    runs = statistics.students(gallery)
    labels = charts.budgets(runs)[0]
    runs = runs[(runs["network"] == runs["network"].iloc[0]) & (runs["labels"] == labels)]
    scores = runs.pivot(index="seed", columns="method", values="test_accuracy")
    if "kd" not in scores:
        return pd.DataFrame()
    beside = scores[[control for control in CONTROLS if control in scores]]
    each = -beside.sub(scores["kd"], axis=0)
    each = each.melt(var_name="control", value_name="difference", ignore_index=False).dropna()
    return (
        statistics.summarise(each.assign(labels=labels), ["control", "labels"])
        if len(each)
        else pd.DataFrame()
    )


def dark_table(gallery: Results) -> HTML | Markdown:
    """Show `dark_knowledge`."""
    rows = dark_knowledge(gallery)
    if rows.empty:
        return Markdown("*The study of methods did not run `kd` beside these controls.*")
    columns = {
        "kd minus": [f"<code>{control}</code>" for control in rows["control"]],
        "test accuracy, points": [
            interval(values) for values in rows[["mean", "low", "high"]].to_numpy()
        ],
        "seeds": rows["n"].to_list(),
    }
    labels = rows["labels"].iloc[0]
    several = rows["n"].max() > 1
    words = "95 % t intervals over seeds" if several else "one seed, no interval"
    caption = f"kd beside its controls, {labels} labels per class; {words}"
    return tables.table(pd.DataFrame(columns), caption)


def dark_verdict(gallery: Results) -> Markdown:
    """State whether the gain of kd is evidence of dark knowledge."""
    rows = dark_knowledge(gallery)
    if rows.empty:
        return Markdown("This build cannot judge whether the order of the wrong classes matters.")
    several = rows[rows["n"] > 1]
    if several.empty:
        return Markdown("With one seed there is no interval, and nothing is judged.")
    better = [f"`{control}`" for control in several.loc[several["low"] > 0, "control"]]
    if "`shuffled`" in better:
        return Markdown(
            f"`kd` is better than {' and '.join(better)}: the order of the wrong classes matters, "
            "by as much as `shuffled` loses."
        )
    if better:
        return Markdown(
            "`kd` is better than `pseudo`, so soft labels add something; that it is the order of "
            "the wrong classes is not shown."
        )
    ahead = [f"`{control}`" for control in several.loc[several["high"] < 0, "control"]]
    if ahead:
        return Markdown(
            f"`kd` is worse than {' and '.join(ahead)}. So on these images the gain in accuracy is "
            "**no evidence of dark knowledge**."
        )
    controls = " or ".join(f"`{control}`" for control in several["control"])
    return Markdown(
        f"That `kd` is better than {controls} is not shown. So on these images the gain in "
        "accuracy is **no evidence of dark knowledge**."
    )
