"""Editions of the book: which there are, their pages and links, and chapters of poor studies."""

import ast
import json
import re

import numpy as np
import pandas as pd
import pytest
import results as invented
import yaml
from IPython.display import HTML, Markdown
from test_chapters import BOOK, ROOT, cells, text

from kdlib import store
from kdlib.plan import editions as plan
from kdlib.report import editions, sections

READING = [name for name in editions.CHAPTERS if name != "references"]
FACTS = dict.fromkeys(("train_images", "test_images", "sample"), 60)
FACTS |= {"data": "0123", "code": "4567", "versions": {"python": "3"}}


# ---- which editions there are --------------------------------------------------------------------


def published(folder, *names, seeds=3):
    """A folder of results in which these studies measured layers."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "measures.parquet").touch()
        record = {"published": {"10": list(range(seeds)), "100": [0]}}
        (folder / name / "study.json").write_text(json.dumps(record))
    return folder


def test_photographs_lead_where_they_are_published(tmp_path):
    results = published(tmp_path, "cifar10", "quick")
    assert [e.key for e in plan.existing("quick", results)] == ["cifar10", "digits"]
    assert [e.key for e in plan.existing("mine", results)] == ["cifar10", "digits", "study-mine"]


def test_until_then_the_study_just_computed_leads(tmp_path):
    few = published(tmp_path / "few", "cifar10", "quick", seeds=2)
    assert [e.key for e in plan.existing("quick", few)] == ["digits", "cifar10"]
    results = published(tmp_path, "cifar100", "quick")
    assert [e.key for e in plan.existing("quick", results)] == ["digits", "cifar100"]
    assert [e.key for e in plan.existing("mine", tmp_path / "none")] == ["study-mine"]


def test_a_leading_study_that_is_computed_and_not_published_yet_is_an_edition(tmp_path):
    assert [each.main for each in plan.existing("cifar10", tmp_path)] == ["cifar10"]
    both = plan.existing("cifar10", published(tmp_path, "quick"))
    assert {each.main for each in both} == {"cifar10", "quick"}


def test_an_edition_of_its_own_reads_its_own_study_for_everything():
    own = plan.of_study("mine")
    assert own.studies == ["mine"]
    assert plan.of_study("quick").studies == ["quick", "regimes", "architectures", "methods"]
    assert plan.reading("regimes").key == "digits"


def test_editions_have_folders_and_studies_that_no_other_has():
    for column in ("key", "title", "main"):
        assert len({getattr(each, column) for each in plan.EDITIONS}) == len(plan.EDITIONS)
    assert not {"book", "results"} & {each.key for each in plan.EDITIONS}


# ---- their pages and links -----------------------------------------------------------------------


def pages(contents):
    """All pages of a table of contents."""
    return [page for part in contents["parts"] for page in below(part["chapters"])]


def below(entries):
    for entry in entries:
        yield entry.get("file") or entry["glob"]
        yield from below(entry.get("sections", []))


@pytest.fixture(scope="module")
def contents():
    return yaml.safe_load((ROOT / "_toc.yml").read_text())


def test_the_leading_edition_has_every_page_and_a_smaller_one_its_chapters(contents):
    whole = set(pages(contents))
    lead = set(pages(editions.contents(contents, lead=True, own=True)))
    small = set(pages(editions.contents(contents, lead=False, own=False)))
    own = set(pages(editions.contents(contents, lead=False, own=True)))
    assert lead == whole
    assert small == {f"book/{name}" for name in editions.CHAPTERS} - {contents["root"]}
    assert own - small == {p for p in whole if p.startswith("book/executed/")}


def test_executed_notebooks_are_in_the_edition_of_their_study(contents):
    lead = set(pages(editions.contents(contents, lead=True, own=False)))
    assert not any(page.startswith("book/executed/") for page in lead)


@pytest.fixture
def three(monkeypatch):
    """Three editions, the third of which was computed here; pages of the second are built."""
    monkeypatch.setenv("KDLIB_STUDY", "cifar100")
    monkeypatch.setenv("KDLIB_COMPUTED", "quick")
    return [plan.of_study(name) for name in ("cifar10", "cifar100", "quick")]


def test_the_switch_leads_to_the_same_page_of_each_edition(three):
    entries = editions.switch("book/labels", three)
    links = ["../../book/labels.html", "#", "../../digits/book/labels.html"]
    assert [entry["href"] for entry in entries] == links
    assert [entry["current"] for entry in entries] == [False, True, False]
    assert [entry["computed"] for entry in entries] == [False, False, True]


def test_the_switch_leads_from_a_page_that_others_lack_to_their_first(three, monkeypatch):
    monkeypatch.setenv("KDLIB_STUDY", "cifar10")
    entries = editions.switch("book/reference/data", three)
    assert entries[1]["href"] == "../../cifar100/book/index.html"
    assert editions.switch("search", three)[2]["href"] == "digits/book/index.html"


def test_every_page_of_the_book_is_a_chapter_or_has_a_link_in_the_sidebar(contents):
    listed = {f"book/{name}" for name in (*editions.CHAPTERS, *editions.LEAD_ONLY)}
    rest = set(pages(contents)) - listed
    assert all(page.startswith(("book/executed/", "book/reference/")) for page in rest)
    links = dict(editions.lead_pages("book/labels", BOOK)).values()
    assert next(iter(links)) == "../../book/logits.html"
    assert len(links) == len(editions.LEAD_ONLY)


def test_one_edition_needs_no_switch(three):
    assert editions.switch("book/labels", three[1:2]) == []


def test_a_page_has_a_title_and_a_label_a_page():
    assert editions.title(BOOK / "notation.md").startswith("Glossary")
    page, heading = editions.labelled("method-kd", BOOK)
    assert page.name == "logits.md"
    assert heading
    assert editions.labelled("nothing-of-this-name", BOOK) is None


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
    logits = whole.teacher_logits
    logits = pd.concat([logits.assign(label=logits["label"] + 10 * k) for k in range(10)])
    images = np.repeat(whole.images, 3, axis=-1).repeat(4, 1).repeat(4, 2)
    study = whole.study | {"classes": classes}
    return whole._replace(study=study, images=images, teacher_logits=logits)


POOR = {
    "as it is": lambda s: s,
    "one seed": lambda s: only(s, lambda r: r["seed"] == 0),
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
    "one's own": lambda s: without(
        one_regime(only(photographs(s), lambda r: r["seed"] == 0), "pretrained"),
        *("maps", "faithfulness", "neighbours", "comparison", "sweeps", "film", "training"),
    ),
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
    source = sections.kept(text(page))
    wanted = set(re.findall(r"\{glue:(?:text)?\}`([^`]+)`", source))
    assert wanted <= set(glued)
    for fact in (*glued.values(), *filter(None, map(words, outputs))):
        assert "nan" not in re.findall(r"\w+", words(fact).lower()), fact
