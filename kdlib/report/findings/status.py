"""What was run, with what, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import store
from kdlib.report import editions, tables
from kdlib.report.findings.words import images, is_published, seeds
from kdlib.store import Results

MOST = 250  # runs that the page lists


def facts(results: Results) -> dict[str, Any]:
    """Give sizes, hashes and minutes of a study."""
    study, runs = results.study, results.runs
    return {
        "study": study["name"],
        "dataset": Markdown(images(study)),
        "count": len(runs),
        "minutes": f"{_trained(results)['seconds'].sum() / 60:.1f}",
        "planned": _planned(study),
        "settings": _settings(study),
        "sample": f"{study['sample']:,}",
        "data": study["data"],
        "code": study["code"],
        "beyond": f" The first {MOST} are listed." if len(runs) > MOST else "",
        "notebooks": _notebooks(study["name"]),
    }


def _trained(results: Results) -> pd.DataFrame:
    """Leave out the runs that trained nothing: teachers that are used as they were published."""
    rows = results.runs.to_dict("records")
    return results.runs.loc[[not is_published(results.study, row) for row in rows]]


def _planned(study: Mapping[str, Any]) -> str:
    """State which label budgets and seeds were planned, where runs of them are missing."""
    missing, axes = study.get("missing", 0), study.get("axes", {})
    if not missing:
        return "No run of its plan is missing."
    planned = ", ".join(map(str, axes.get("labels_per_class", ()))) or "more"
    published = study.get("published", {}).items()
    there = ", ".join(f"{labels} ({seeds(len(done))})" for labels, done in published) or "some"
    every = f" with {seeds(len(axes['seeds']))} each" if axes.get("seeds") else ""
    return (
        f"It is not complete: {missing} runs of its plan are missing. Planned are {planned} labels "
        f"per class{every}, published {there}."
    )


def _settings(study: Mapping[str, Any]) -> str:
    """State the settings of the study's file that are not at their defaults."""
    lines = [
        f"{role}: {', '.join(f'{name} {value}' for name, value in settings.items())}"
        for role, settings in study.get("settings", {}).items()
        if settings
    ]
    return f"Set in its file: {'; '.join(lines)}." if lines else "All its settings are defaults."


def _notebooks(study: str) -> str:
    """State where executed notebooks can be read: those of a study just computed, in the book."""
    if study == editions.computed():
        return "One of each kind can be read on the pages that follow this one."
    return "This study was run elsewhere; notebooks without a link were not published."


def seconds(results: Results) -> HTML:
    """Show how long trainings took, by network and method."""
    runs = results.runs
    runs = runs.assign(method=runs["method"].where(runs["role"] == "student", "–"))
    groups = runs.groupby(["role", "network", "method"], sort=False)
    rows = groups.agg(
        runs=("run", "count"),
        parameters=("parameters", "first"),
        mean=("seconds", "mean"),
        longest=("seconds", "max"),
    ).reset_index()
    rows["parameters"] = rows["parameters"].map("{:,}".format)
    for column in ("mean", "longest"):
        rows[column] = rows[column].map("{:.1f} s".format)
    rows = rows[["network", "role", "method", "runs", "parameters", "mean", "longest"]]
    caption = "Seconds of training; of students trained side by side each has its share"
    if any(is_published(results.study, run) for run in runs.to_dict("records")):
        caption += "; a teacher taken as published was not trained"
    return tables.table(rows.rename(columns={"mean": "training, mean"}), caption)


def executed(results: Results) -> HTML:
    """List the runs, each with a link to its executed notebook, where that was published."""
    runs = results.runs.head(MOST)
    there = store.locate(f"book/results/{results.study['name']}") / "executed"
    path = "../results/executed/{}.ipynb"
    rows = {
        "executed notebook": [
            f'<a href="{path.format(run)}">{run.split("/")[-1]}</a>'
            if (there / f"{run}.ipynb").is_file()
            else run.split("/")[-1]
            for run in runs["run"]
        ],
        "method": runs["method"],
        "labels per class": runs["labels"],
        "seed": runs["seed"],
        "test accuracy": (100 * runs["test_accuracy"]).map("{:.1f} %".format),
        "training": runs["seconds"].map("{:.1f} s".format),
    }
    return tables.table(pd.DataFrame(rows), "Every run")


def files(results: Results) -> HTML:
    """List the published tables with their columns and sizes."""
    folder = store.locate(f"book/results/{results.study['name']}")
    rows = [
        {
            "table": f'<a href="../results/{name}.parquet">{name}</a>',
            "columns": ", ".join(getattr(results, name).columns),
            "rows": f"{len(getattr(results, name)):,}",
            "kilobytes": f"{(folder / f'{name}.parquet').stat().st_size / 1000:.0f}",
        }
        for name in store.TABLES
    ]
    caption = "Published results; what has two views is counted in one"
    return tables.table(pd.DataFrame(rows), caption)


def provenance(results: Results) -> HTML | Markdown:
    """Show which code trained the runs, on which devices, and for how many hours."""
    given = results.study.get("provenance")
    if given is None:
        return Markdown("*This study was published without a record of where its runs come from.*")
    rows = [
        {"what": name, "value": value, "runs": count}
        for name in ("commit", "code", "device")
        for value, count in given[name].items()
    ]
    rows.append({"what": "hours of training", "value": f"{given['hours']:g}", "runs": ""})
    return tables.table(pd.DataFrame(rows), "What trained the runs, and where")


def versions(results: Results) -> HTML:
    """List the versions of what computed the results."""
    rows = pd.DataFrame(results.study["versions"].items(), columns=["package", "version"])
    return tables.table(rows, "What computed the results")
