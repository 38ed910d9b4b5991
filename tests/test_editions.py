"""Editions of the book: which there are, their pages and links, and chapters of poor studies."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import results as invented
import yaml
from IPython.display import HTML, Markdown
from test_chapters import BOOK, ROOT, cells, text

from kdlib import store
from kdlib.plan import editions as table
from kdlib.report import editions

READING = [name for name in editions.CHAPTERS if name != "references"]
FACTS = dict.fromkeys(("train_images", "test_images", "sample"), 60)
FACTS |= {"data": "0123", "code": "4567", "versions": {"python": "3"}}


# ---- chapters of any study ---------------------------------------------------------------------


def only(whole, keep):
    """Reduce a study to the runs for which `keep` holds, in all its tables."""
    runs = whole.runs[keep(whole.runs)]
    tables = {name: getattr(whole, name) for name in store.TABLES}
    names = runs["run"]
    return whole._replace(**{k: t[t["run"].isin(names)] for k, t in tables.items()})


def without(whole, *names):
    """Empty some tables of a study."""
    return whole._replace(**{name: getattr(whole, name)[:0] for name in names})


def a_teacher(runs):
    return runs["role"] == "teacher"


def one_regime(whole, regime):
    """Let every teacher be of one regime."""
    runs = whole.runs
    return whole._replace(runs=runs.assign(regime=runs["regime"].replace({"full": regime})))


def photographs(whole):
    """A hundred classes, in colour."""
    classes = [f"class {i}" for i in range(100)]
    images = np.repeat(whole.images, 3, axis=-1).repeat(4, 1).repeat(4, 2)
    return whole._replace(study=whole.study | {"classes": classes}, images=images)


POOR = {
    "as it is": lambda s: s,
    "one seed": lambda s: only(s, lambda r: (r["seed"] == 0)),
    "baseline and kd": lambda s: only(
        s, lambda r: a_teacher(r) | r["method"].isin(["baseline", "kd"])
    ),
    "one method that is not kd": lambda s: only(
        s, lambda r: a_teacher(r) | r["method"].isin(["baseline", "at"])
    ),
    "no full teacher": lambda s: one_regime(s, "pretrained"),
    "all labels only": lambda s: without(
        only(s, lambda r: r["labels"] == "all"), "comparison", "sweeps", "film", "training"
    ),
    "no film": lambda s: without(s, "film", "training"),
    "no comparison of maps": lambda s: without(s, "comparison", "sweeps"),
    "no maps": lambda s: without(
        s, "maps", "faithfulness", "neighbours", "teacher_logits", "comparison", "sweeps", "film"
    ),
    "one embedding": lambda s: s._replace(
        study=s.study | {"embeddings": ["tsne"]},
        maps=s.maps[s.maps["embedding"] == "tsne"],
        faithfulness=s.faithfulness[s.faithfulness["embedding"] == "tsne"],
    ),
    "no similarity": lambda s: without(s, "similarity"),
    "photographs": photographs,
}


@pytest.fixture(scope="module")
def whole():
    made = invented.make(n=60)
    return made._replace(study=made.study | FACTS)


@pytest.fixture(params=POOR)
def project(request, whole, tmp_path, monkeypatch):
    """A folder with one study, from which chapters read."""
    results = POOR[request.param](whole)
    results = results._replace(study=results.study | {"name": "poor"})
    store.publish(tmp_path / "book/results/poor", results)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDLIB_STUDY", "poor")
    return tmp_path


def run(code, names):
    """Run a cell as a notebook does: its last expression is shown."""
    *body, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def words(shown):
    """What an output says in words, charts as their specification."""
    if isinstance(shown, HTML | Markdown):
        return shown.data
    return str(shown.to_dict()) if hasattr(shown, "to_dict") else str(shown)


@pytest.mark.parametrize("name", READING)
def test_a_chapter_can_be_made_of_any_study(name, project, monkeypatch):
    page = next(BOOK.glob(f"{name}.[mi]*"))
    glued, outputs = {}, []
    monkeypatch.setattr("myst_nb.glue", lambda key, value, **_: glued.update({key: value}))
    names = {"display": outputs.append}
    for _, code in cells(page):
        outputs.append(run(code, names))
    wanted = set(re.findall(r"\{glue:(?:text)?\}`([^`]+)`", text(page)))
    assert wanted <= set(glued)
    for fact in (*glued.values(), *filter(None, map(words, outputs))):
        assert "nan" not in re.findall(r"\w+", words(fact).lower()), fact
