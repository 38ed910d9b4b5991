"""The gallery of methods: every one has its section, and no number in it was typed."""

import ast
import base64
import inspect
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from results import make

from kdlib import store
from kdlib.distill import CLASSES
from kdlib.measure.standings import one_network_each
from kdlib.measure.standings import standings as standings_of
from kdlib.plan.methods import FAMILIES, METHODS
from kdlib.report import charts, tables

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
        found = [n for n in body if getattr(n, "name", None) == part]
        if not found:
            return False
        body = found[0].body
    return True


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_heading_sentence_formula_paper_code_and_results(method):
    text, kind = section(method), METHODS[method]
    assert re.match(r"## \S.+\n\n[A-Z].+\{cite\}`\w+`", text)
    assert f"{{cite}}`{kind.cite}`" in text
    assert kind.cite in BIB
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
    text = (ROOT / f"book/{name}.md").read_text().split("## Exercises\n")[1].split("\n## ")[0]
    asked = re.split(r"^\*\*\d\.\*\* ", text, flags=re.MULTILINE)[1:]
    assert len(asked) >= 2
    assert all("```{dropdown} Solution\n" in one for one in asked)


@pytest.mark.parametrize("name", [*sorted(PAGES), *CHAPTERS])
def test_no_result_is_typed(name):
    text = (ROOT / f"book/{name}.md").read_text().split("---\n", 2)[2]
    prose = re.sub(r"```\{.*?\n```|\$\$.*?\$\$|\$.*?\$|`.*?`", "", text, flags=re.DOTALL)
    assert not re.search(r"\d+\.\d|\d+ ?%|\d+ (of|seeds|times|points)", prose.replace("95 % t", ""))


def test_the_pages_of_the_gallery_are_in_the_book():
    chapters = yaml.safe_load((ROOT / "_toc.yml").read_text())["chapters"]
    found = next(c for c in chapters if c["file"] == "book/methods")
    assert {c["file"] for c in found["sections"]} == {f"book/{name}" for name in PAGES}


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
    found = store.brief("methods")
    pd.testing.assert_frame_equal(found.runs, whole.runs)
    assert found.study["dataset"] == "digits"
    monkeypatch.chdir(tmp_path / "book")  # where a chapter runs
    assert len(store.brief("methods").runs) == len(whole.runs)


def test_what_a_benchmark_measured_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.save_benchmark("methods", "cost", {"kd": 2.5})
    assert store.load_benchmark("methods", "cost") == {"kd": 2.5}


# ---- a method's rows


def constructed(**accuracy):
    """Results of students of these accuracies, a list over seeds for each method__network."""
    fixed = {"role": "student", "labels": "2", "seconds": 1.0, "parameters": 10, "options": ""}
    rows = []
    for name, values in accuracy.items():
        method, _, network = name.partition("__")
        taught = METHODS[method].teacher
        facts = {
            "method": method,
            "network": network or "small",
            "teacher": "teachers/t" if taught else "",
            "teacher_network": "t" if taught else "",
            "regime": "full" if taught else "",
        }
        for seed, value in enumerate(values):
            run = {"run": f"students/{name}-{seed}", "seed": seed, "test_accuracy": value}
            rows.append({**fixed, **facts, **run})
    return make(None, n=20, seeds=4, labels=("2",))._replace(runs=pd.DataFrame(rows))


ACCURACIES = {
    "baseline": [0.5, 0.6, 0.7],
    "kd": [0.8, 0.91, 0.99],
    "at": [0.5, 0.7, 0.6],
    "random": [0.1, 0.21, 0.29],
    "baseline__large": [0.6, 0.6, 0.6],
    "fsp__large": [0.7, 0.71, 0.72],
    "kd__large": [0.7, 0.7, 0.7],
    "self__huge": [0.9, 0.9, 0.9],
    "sp": [0.9],
}


@pytest.fixture(scope="module")
def standings():
    return standings_of(constructed(**ACCURACIES))


def of(table, method):
    return table[table["method"] == method].iloc[0]


def test_standings_say_who_is_better_than_baseline(standings):
    said = {m: of(standings, m)["beside"] for m in ("kd", "at", "random", "fsp")}
    assert said == {"kd": "better", "at": "not told apart", "random": "worse", "fsp": "better"}
    kd = of(standings, "kd")
    assert kd["accuracy"] == pytest.approx(0.9)
    assert kd["gain"] == pytest.approx(0.3)
    assert (kd["least"], kd["most"]) == pytest.approx((0.29, 0.31))
    assert (kd["n"], kd["pairs"]) == (3, 3)


def test_a_method_is_compared_with_baseline_of_its_own_network(standings):
    assert of(standings, "fsp")["gain"] == pytest.approx(0.11)
    lonely = of(standings, "self")
    assert pd.isna(lonely["gain"])
    assert lonely["beside"] == ""


def test_at_home_every_method_has_one_network_and_strangers_are_named(standings):
    home = one_network_each(standings)
    assert not home.duplicated(["method", "labels"]).any()
    assert of(home, "kd")["network"] == "small"
    names = set(home["name"])
    assert {"kd", "baseline", "fsp, large", "self, huge"} <= names


def shown(standings, method, cost=None):
    return tables.standing(standings, method, CLASSES[method], cost or {}).data


def test_a_method_that_does_not_beat_baseline_is_said_to_be_so_with_its_spread(standings):
    spread = r"{}</span></td><td>[^–]+</td><td><span class=.kd-number.>{}<"
    for method, words, seeds in (
        ("at", "≈ does not beat baseline", r"-10\.0 to \+10\.0"),
        ("random", "✗ worse than baseline", r"-41\.0 to -39\.0"),
    ):
        assert re.search(spread.format(words, seeds), shown(standings, method))
    assert "✓ beats baseline<" in shown(standings, "kd")
    assert "the reference" in shown(standings, "baseline")
    assert "no baseline" in shown(standings, "self")
    assert "one seed: not judged" in shown(standings, "sp")


def test_a_row_holds_accuracy_difference_cost_and_constants(standings):
    said = shown(standings, "kd", {"kd": 1.94})
    assert "temperature 4.0, weight 0.9, label_weight 0.1" in said
    assert "1.9 times" in said
    assert '<span class="kd-number">+30.0 [+27.5, +32.5]</span>' in said
    assert said.count('<th scope="row">') == 2  # on two networks


def test_a_method_without_results_says_so(standings):
    said = shown(standings, "crd")
    assert "crd was not run" in said
    assert "not measured" in said
    assert "negatives 16384" in said


def test_a_download_holds_the_table(standings):
    link = tables.download(standings, "methods", "All numbers").data
    assert link.startswith('<a download="methods.csv" href="data:text/csv;base64,')
    data = base64.b64decode(re.search(r'base64,(.+?)"', link).group(1))
    found = pd.read_csv(io.BytesIO(data))
    assert list(found["method"]) == list(standings["method"])


def test_every_family_of_the_methods_has_a_panel_of_its_own():
    accuracies = {m: [0.5, 0.6] for m in ("baseline", "kd", "at", "sp", "dml", "smooth")}
    chart = charts.families(standings_of(constructed(**accuracies))).to_dict()
    assert chart["facet"]["sort"] == list(FAMILIES.values())
