"""The gallery of methods: every one has its section, and no number in it was typed."""

import ast
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from results import make

from kdlib import UsageError, store
from kdlib.distill import CLASSES
from kdlib.measure.standings import one_network_each
from kdlib.measure.standings import standings as standings_of
from kdlib.plan.methods import METHODS

ROOT = Path(__file__).parents[1]
BIB = set(re.findall(r"^@\w+\{(.+),$", (ROOT / "book/references.bib").read_text(), re.MULTILINE))
PAGES = {"logits", "features", "relations", "schemes"}
QUOTE = r"```\{literalinclude\} (\S+)\n:pyobject: (\S+)\n"


def page(method):
    """The page of a method's family; controls stand below the training schemes."""
    family = METHODS[method].family
    return ROOT / "book" / f"{'schemes' if family == 'controls' else family}.md"


def section(method):
    """What stands between a method's anchor and the next one."""
    text = page(method).read_text()
    assert text.count(f"(method-{method})=\n") == 1
    return re.split(r"\(method-\w+\)=\n|```\{bib", text.split(f"(method-{method})=\n")[1])[0]


def defined(file, name):
    """Whether a file of kdlib defines a function or class, or a method of one: A.b."""
    body = ast.parse(file.read_text()).body
    for part in name.split("."):
        matches = [node for node in body if getattr(node, "name", None) == part]
        if not matches:
            return False
        body = matches[0].body
    return True


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_heading_sentence_formula_paper_code_and_results(method):
    text, facts = section(method), METHODS[method]
    assert re.match(r"## \S.+\n\n[A-Z].+\{cite\}`\w+`", text)
    assert f"{{cite}}`{facts.cite}`" in text
    assert facts.cite in BIB
    assert re.search(r"\n\$\$\n.+\n\$\$\n", text)
    assert f'\nrow("{method}")\n' in text
    quotes = re.findall(QUOTE, text)
    assert CLASSES[method].__name__ in {name.split(".")[0] for _, name in quotes}
    for file, name in quotes:
        assert defined(ROOT / "book" / file, name), name


@pytest.mark.parametrize("method", METHODS)
def test_the_symbols_of_a_formula_are_named(method):
    text = section(method)
    formula = text.split("$$")[1]
    named = text.split("$$")[2].split("```")[0]
    letters = r"\\(alpha|beta|gamma|lambda|tau|varepsilon|kappa|phi|mu|pi)\b"
    for greek in set(re.findall(letters, formula)):
        assert f"\\{greek}" in named, greek
    assert set(re.findall(r"`(\w+)`", named)) <= set(inspect.signature(CLASSES[method]).parameters)


CHAPTERS = ["methods", "architectures", "controls"]


@pytest.mark.parametrize("name", [*sorted(PAGES), *CHAPTERS])
def test_exercises_have_folded_solutions(name):
    text = re.split("^## Exercises?\n", (ROOT / f"book/{name}.md").read_text(), flags=re.M)[1]
    exercises = re.split(r"^\*\*\d\.\*\* ", text.split("\n## ")[0], flags=re.MULTILINE)
    exercises = exercises[1:] or exercises  # one has no number
    assert all("```{dropdown} Solution\n" in exercise for exercise in exercises)


@pytest.mark.parametrize("name", [*sorted(PAGES), *CHAPTERS])
def test_no_result_is_typed(name):
    text = (ROOT / f"book/{name}.md").read_text().split("---\n", 2)[2]
    prose = re.sub(r"```\{.*?\n```|\$\$.*?\$\$|\$.*?\$|`.*?`", "", text, flags=re.DOTALL)
    assert not re.search(r"\d+\.\d|\d+ ?%|\d+ (of|seeds|times|points)", prose.replace("95 % t", ""))


def test_the_pages_of_the_gallery_are_in_the_book():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    chapters = [chapter for part in parts for chapter in part["chapters"]]
    part = next(c for c in chapters if c["file"] == "book/methods")
    assert {c["file"] for c in part["sections"]} == {f"book/{name}" for name in PAGES}


# ---- what is known of one study, beside the one that the book shows


def test_a_study_that_was_not_published_has_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store.brief("methods").runs.empty
    assert store.load_benchmark("methods", "together") == {}
    assert one_network_each(standings_of(store.brief("methods"))).empty


def test_the_runs_of_a_study_need_none_of_its_other_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDLIB_STUDY", "quick")
    whole = make(tmp_path / "book/results/methods", n=20)
    (tmp_path / "book/results/methods/maps.parquet").unlink()
    brief = store.brief("methods")
    pd.testing.assert_frame_equal(brief.runs, whole.runs)
    assert brief.study["dataset"] == "digits"
    monkeypatch.chdir(tmp_path / "book")  # where a chapter runs
    assert len(store.brief("methods").runs) == len(whole.runs)


def test_a_brief_study_has_the_tables_that_were_asked_for_in_one_view(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = make(tmp_path / "book/results/methods", n=20)
    brief = store.brief("methods", "measures", "faithfulness")
    pd.testing.assert_frame_equal(brief.faithfulness, whole.faithfulness)
    assert len(brief.measures) == len(whole.measures) > 0
    assert brief.maps.empty
    assert store.brief("methods", "measures", view="flat").measures.empty
    (tmp_path / "book/results/methods/measures.parquet").unlink()
    assert store.brief("methods", "measures").measures.empty
    with pytest.raises(UsageError, match="table 'measure'"):
        store.brief("methods", "measure")


def test_what_a_benchmark_measured_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.save_benchmark("methods", "cost", {"kd": 2.5})
    assert store.load_benchmark("methods", "cost") == {"kd": 2.5}
