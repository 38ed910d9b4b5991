"""The networks of results: their names, their layers, and which differ in the seed only."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from kdlib.plan.methods import BASELINE, METHODS
from kdlib.store import Results

_GROUP = (  # columns of `runs` that networks share which differ in nothing but labels and seed
    *("role", "network", "method", "teacher_network", "regime", "weights"),
    *("options", "unlabelled", "precision"),
)


def group(study: dict[str, Any]) -> list[str]:
    """List the columns of `runs` that are the same for all seeds and budgets of one network."""
    return ["role", "network"] if study.get("foreign") else list(_GROUP)


def layers_of(results: Results, run: str) -> list[str]:
    """List the layers of a network, from first to last: the study's, unless it has its own."""
    own = {network["run"]: network["layers"] for network in results.study.get("networks", [])}
    return list(own.get(run, results.study["layers"]))


def describe(row: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    """Name a network for people: `name` in words, `short` beside a curve, `group` in the menu.

    `family` is the same for all seeds and budgets of labels of one network.
    """
    words = _named(row, study) if study.get("foreign") else _trained(row)
    return {
        "run": row["run"],
        "family": " ".join(str(row[column]) for column in group(study)),
        **words,
        "parameters": int(row["parameters"]) if math.isfinite(row["parameters"]) else None,
        "accuracy": float(row["test_accuracy"]) if math.isfinite(row["test_accuracy"]) else None,
    }


def _named(row: dict[str, Any], study: dict[str, Any]) -> dict[str, str]:
    """Name a network that was trained elsewhere: as its owner does."""
    said = study.get("seeds", {}).get(row["network"], 1) > 1 or row["seed"] > 0
    seed = f"seed {row['seed']}" if said else ""
    return {
        "short": row["network"],
        "name": ", ".join(filter(None, [row["network"], seed])),
        "group": row["role"],
        "labels": "",
        "seed": seed,
        "kind": "teacher" if row["role"] == "teacher" else "",
    }


def _trained(row: dict[str, Any]) -> dict[str, str]:
    """Name a network of a study: by its method, its labels and its seed."""
    labels = "all labels" if row["labels"] == "all" else f"{row['labels']} labels per class"
    group = f"{row['role']} {row['network']}"
    if row["role"] == "teacher":
        kind = title = "teacher"
        short = kind if row["regime"] == "full" else f"{kind} ({row['regime']})"
    else:
        short = row["method"]
        kind, title = _method(short)
    if row["teacher_network"]:
        group += f" of {row['teacher_network']} ({row['regime']})"
    if kind == "control":
        group += ", controls"
    if row["options"]:
        short, title = (f"{words} {row['options']}" for words in (short, title))
    return {
        "short": short,
        "name": f"{title}, {labels}, seed {row['seed']}",
        "group": group,
        "labels": labels,
        "seed": f"seed {row['seed']}",
        "kind": kind,
    }


def _method(name: str) -> tuple[str, str]:
    """Return the kind of a student (baseline, control or distilled) and its method in words."""
    if name == BASELINE:
        return "baseline", "baseline (no teacher)"
    facts = METHODS.get(name)
    if facts is None:  # several at once, "kd+at"
        return "distilled", name
    return ("control" if facts.control else "distilled"), facts.title


def families(results: Results) -> pd.DataFrame:
    """Return the runs with a column `family`: in words, the same for all seeds of one network.

    Families keep the order of their first runs, teachers first.
    """
    runs = results.runs.sort_values("role", key=lambda role: role == "student", kind="stable")
    described = [describe(row, results.study) for row in runs.to_dict("records")]
    several = runs["network"].nunique() > 1 and not results.study.get("foreign")
    names = []
    for network, words in zip(runs["network"], described, strict=True):
        parts = [words["short"], network if several else "", words["labels"]]
        names.append(", ".join(filter(None, parts)))
    key = [words["family"] + words["labels"] for words in described]
    return _distinct(runs.assign(family=names, key=key))


def _distinct(runs: pd.DataFrame) -> pd.DataFrame:
    """Number families that have one name and differ in what it does not say."""
    for name, group in runs.groupby("family", sort=False):
        keys = list(dict.fromkeys(group["key"]))
        if len(keys) > 1:
            numbers = group["key"].map(lambda key, keys=keys: keys.index(key) + 1)
            runs.loc[group.index, "family"] = name + " (" + numbers.astype(str) + ")"
    return runs.drop(columns="key").reset_index(drop=True)
