"""The first page: what a teacher changes."""

from __future__ import annotations

import pandas as pd

from kdlib.measure import statistics
from kdlib.report import charts
from kdlib.report.findings.words import labelled_images, main_method, percent, students
from kdlib.store import Results

WORDS = {"higher": "higher", "lower": "lower", statistics.UNCLEAR: "not clearly different"}


def facts(results: Results) -> dict[str, str]:
    """Compare the baseline with one distilled student at the fewest labels of the study."""
    every = students(results.runs)
    fewest = charts.budgets(every)[0]
    few = every[every["labels"] == fewest]
    method = main_method(few["method"])
    baseline, distilled = (few[few["method"] == name] for name in ("baseline", method))
    teacher = results.runs[results.runs["role"] == "teacher"].iloc[0]
    size = int(baseline["parameters"].iloc[0])
    labelled = labelled_images(results.study, fewest)
    layers, verdicts = {}, {}
    for name, layer in (("2", "block2"), ("3", "block3")):
        cell = {"method": method, "labels": fewest}
        layers[layer] = statistics.gain(results, "silhouette", layer, **cell)
        verdict = statistics.direction(results, "silhouette", layer, **cell)
        verdicts[f"verdict{name}"] = WORDS[verdict]
    agrees = set(verdicts.values()) == {"higher"}
    return {
        "few": fewest,
        "baseline": _accuracy(baseline),
        "distilled": _accuracy(distilled),
        "teacher": percent(teacher["test_accuracy"]),
        "times": f"{teacher['parameters'] / size:.0f}",
        "teacher_size": f"{teacher['parameters']:,}",
        "student_size": f"{size:,}",
        **layers,
        **verdicts,
        "agrees": "is consistent" if agrees else "does not clearly agree",
        "images": f"{len(results.labels):,}",
        "dataset": results.study["dataset"],
        "labelled": f"{labelled:,}",
        "others": f"{results.study['train_images'] - labelled:,}",
    }


def _accuracy(runs: pd.DataFrame) -> str:
    """Mean and range of test accuracy over seeds."""
    scores = 100 * runs["test_accuracy"]
    span = f"{scores.min():.1f} to {scores.max():.1f}, n = {len(scores)} seeds"
    return f"{scores.mean():.1f} % ({span})"
