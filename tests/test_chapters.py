"""The chapters: what they cite, what their cells import, and what they do with other studies."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import results as invented
import yaml
from conftest import cut_off

from kdlib import store
from kdlib.measure.metrics import MEASURES
from kdlib.report import editions, glossary

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PAGES = sorted(p for p in BOOK.iterdir() if p.suffix in (".md", ".ipynb"))
OF_RESULTS = [page for page in PAGES if page.stem != "look"]  # where a reader's own code stands


def text(page):
    """What a page says, as MyST."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def cited(page):
    """The keys that a page cites."""
    citations = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text(page))
    return {key.strip() for keys in citations for key in keys.split(",")}


def test_at_least_25_works_are_cited_and_every_entry_is():
    entries = re.findall(r"^@\w+\{(.+),$", (BOOK / "references.bib").read_text(), re.M)
    assert len(entries) == len(set(entries)) >= 25
    assert set().union(*map(cited, PAGES)) == set(entries)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_references_are_listed_once_on_a_page_of_their_own(page):
    assert ("{bibliography}" in text(page)) == (page.stem == "references")


def test_the_notation_has_every_measure_with_its_direction_range_and_source():
    rows = re.findall(
        r"^\| ([^|]+) \| ([↑↓–]) \| ([^|]+) \| (.+) \|$", text(BOOK / "notation.md"), re.M
    )
    arrows = {"higher": "↑", "lower": "↓", "neither direction": "–"}
    ends = [
        (m, "$\\infty$" if m.high == float("inf") else f"{m.high:g}") for m in MEASURES.values()
    ]
    assert rows == [
        (m.title, arrows[m.better], f"{m.low:g} to {high}", f"{{cite:t}}`{m.source}`")
        for m, high in ends
    ]


READS = {"store", "embed", "distill", "models", "measure", "report"}  # rooms; never the trainer


def cells(page):
    """The code cells of a page: their tags and their code."""
    if page.suffix == ".md":
        pattern = r"```\{code-cell\} \w+\n(?::tags: \[([^\]]*)\]\n)?(.*?)\n```"
        matches = re.findall(pattern, page.read_text(), re.DOTALL)
        return [(set(filter(None, tags.split(", "))), code) for tags, code in matches]
    return [
        (set(cell["metadata"].get("tags", [])), "".join(cell["source"]))
        for cell in json.loads(page.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


def imported(code):
    """The modules that a cell imports, by their full names."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("page", OF_RESULTS, ids=lambda p: p.stem)
def test_a_chapter_reads_results_and_shows_them_and_trains_nothing(page):
    for _, code in cells(page):
        for name in imported(code):
            package, room, *_ = name.split(".")
            assert package == "kdlib", name
            assert room in READS, name


@pytest.mark.parametrize("page", OF_RESULTS, ids=lambda p: p.stem)
def test_cells_of_a_chapter_are_short_and_can_be_read(page):
    for tags, code in cells(page):
        assert len(code.strip().splitlines()) <= 10, code
        assert max(map(len, code.splitlines())) <= 100, code
        assert not tags & {"remove-cell", "remove-input"}, code
        defined = (ast.FunctionDef, ast.ClassDef, ast.For)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(code))), code


OWN = (
    "index",
    "distillation",
    "architectures",
    "regimes",
    "labels",
    "again",
    "notation",
    "log",
    "status",
)


def smallest(folder):
    """Publish a study as small as can be: one method that is not kd, one seed, one budget."""
    whole = invented.make(n=30, seeds=1, labels=("2",))
    runs = whole.runs[whole.runs["method"].isin(["baseline", "at"])]
    tables = {name: getattr(whole, name) for name in store.TABLES}
    tables = {name: table[table["run"].isin(runs["run"])] for name, table in tables.items()}
    facts = dict.fromkeys(("train_images", "test_images", "sample"), 30)
    facts |= {"data": "0123", "code": "4567", "versions": {"python": "3"}, "embeddings": ["tsne"]}
    study = whole.study | facts | {"name": "smallest"}
    store.publish(folder, whole._replace(study=study, **tables))


def project(folder):
    """A small edition of some chapters; those that they point to are there by name only.

    Photographs lead, and are not built: what is no chapter of every edition would be there.
    """
    for name in ("cifar10", "smallest"):
        (folder / "book/results" / name).mkdir(parents=True)
    photographs = folder / "book/results/cifar10"  # of seeds enough, and of no run
    (photographs / "measures.parquet").touch()
    pd.DataFrame(columns=store.TABLES["runs"].columns).to_parquet(photographs / "runs.parquet")
    facts = {"name": "cifar10", "dataset": "", "embeddings": [], "published": {"10": [0, 1, 2]}}
    (photographs / "study.json").write_text(json.dumps(facts))
    for name in OWN:
        shutil.copy(BOOK / f"{name}.md", folder / "book")
    for name in ("references.md", "references.bib"):
        shutil.copy(BOOK / name, folder / "book")
    texts = "\n".join(text(BOOK / f"{name}.md") for name in OWN)
    others = set(re.findall(r"\{doc\}`(?:[^`<]*<)?(\w+)>?`", texts)) - {*OWN, "references"}
    for name in others:
        (folder / f"book/{name}.md").write_text(f"# {name}\n\n## Another chapter\n")
    chapters = (*OWN[1:], "references", *sorted(others & {*editions.CHAPTERS}))
    part = {"caption": "All", "chapters": [{"file": f"book/{name}"} for name in chapters]}
    contents = {"format": "jb-book", "root": "book/index", "parts": [part]}
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents))
    for name in ("_config.yml", "kdlib", "studies"):
        (folder / name).symlink_to(ROOT / name)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The pages of that book, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("chapters")
    project(folder)
    smallest(folder / "book/results/smallest")
    ran = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "-W", "--keep-going"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KDLIB_STUDY": "smallest",
            "KDLIB_COMPUTED": "smallest",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    return folder / "_build/html/book"


def test_a_study_as_small_as_can_be_makes_chapters_without_a_warning(built):
    page = (built / "regimes.html").read_text()
    assert "does the student outperform its own teacher?" not in page  # no teacher that errs
    assert "what changes when the teacher errs is open here" in page
    for name in built.glob("*.html"):
        assert "% only" not in name.read_text()


@pytest.fixture
def opened(built, chromium):
    """Open a chapter; at the end it must have asked for nothing and complained of nothing."""
    context = chromium.new_context(reduced_motion="reduce")
    page, asked, complaints = cut_off(context)

    def go(name):
        file, _, view = name.partition("#")
        page.goto((built / file).as_uri() + (f"#{view}" if view else ""))
        page.wait_for_load_state()
        return page

    yield go
    context.close()
    assert asked == []
    assert complaints == []


def test_a_slider_turns_a_hard_label_soft(opened):
    figure = opened("distillation.html").locator(".kd-chart").first
    figure.locator("svg g.mark-text text").first.wait_for()

    def highest():
        shares = figure.locator("svg g.mark-text.role-mark text").all_text_contents()
        return max(float(share.rstrip("%")) for share in shares if "." in share)

    before = highest()
    figure.get_by_role("slider").fill("20")
    figure.page.wait_for_timeout(500)
    assert highest() < before
    last = figure.get_by_role("combobox").locator("option").count() - 1
    figure.get_by_role("combobox").select_option(index=last)
    figure.get_by_role("slider").fill("1")
    figure.page.wait_for_timeout(500)
    assert highest() > 95


def test_a_link_in_the_text_sets_a_chart(opened):
    page = opened("distillation.html")
    figure = page.locator(".kd-chart").first
    figure.locator("svg g.mark-text text").first.wait_for()
    slider = figure.get_by_role("slider")
    page.get_by_role("button", name="Raise it to 20.").click()
    page.wait_for_timeout(500)
    assert slider.input_value() == "20"
    page.get_by_role("button", name="Lower the temperature to 1.").press("Enter")
    page.wait_for_timeout(500)
    assert slider.input_value() == "1"


def test_a_term_shows_its_meaning_to_the_mouse_the_keyboard_and_a_finger(opened, built, chromium):
    page = opened("distillation.html")
    terms = page.locator("a.kd-term")
    assert terms.count() > 8
    words = [word.lower() for word in terms.all_inner_texts()]
    assert len(words) == len(set(words))  # the first use only
    box = page.locator("#kd-meaning")
    assert box.is_hidden()
    term = page.locator("a.kd-term[href$='#term-Temperature']")
    term.hover()
    assert box.inner_text().startswith("The number that logits are divided by")
    page.mouse.move(0, 0)
    box.wait_for(state="hidden")
    term.focus()
    assert box.is_visible()
    assert term.get_attribute("aria-describedby") == box.get_attribute("id")
    page.keyboard.press("Escape")
    assert box.is_hidden()
    symbol = page.locator("a.kd-term[href$='notation.html#symbols']").first
    assert symbol.get_attribute("data-meaning")
    context = chromium.new_context(has_touch=True, viewport={"width": 375, "height": 700})
    touched, *_ = cut_off(context)
    touched.goto((built / "distillation.html").as_uri())
    touched.locator("a.kd-term").first.tap()
    assert touched.locator("#kd-meaning").is_visible()
    rect = touched.locator("#kd-meaning").bounding_box()
    assert rect["x"] >= 0
    assert rect["x"] + rect["width"] <= 375
    assert "distillation" in touched.url
    context.close()


def test_every_term_has_its_place_in_the_glossary(opened):
    page = opened("notation.html")
    for term in glossary.words((BOOK / "notation.md").read_text()):
        assert page.locator(f"[id='{term.anchor}']").count() == 1, term.forms
        assert term.meaning.endswith("."), term.forms


def test_links_to_a_view_of_the_explorer_do_no_harm_to_the_contents(opened):
    page = opened("regimes.html")
    assert page.locator("a[href^='layers.html#']").count() == 2
    target = page.evaluate("document.body.dataset.bsTarget")
    assert page.locator(target).count() == 1  # the page's own contents


def test_what_a_smaller_edition_lacks_is_a_page_of_the_leading_one(opened):
    page = opened("distillation.html")
    link = page.locator("article a[href$='schemes.html']").first
    assert link.get_attribute("href") == "../../book/schemes.html"
    assert link.inner_text() == "defined"  # as the page calls it
    raw = opened("regimes.html").locator("article a", has_text="pseudo").first
    assert raw.get_attribute("href") == "../../book/schemes.html#method-pseudo"


def test_the_switch_names_every_edition_and_marks_what_was_computed_here(opened):
    switch = opened("labels.html").get_by_role("navigation", name="Data set", exact=True)
    assert switch.get_by_role("link").all_inner_texts() == ["CIFAR-10", "smallest computed here"]
    assert switch.locator("[aria-current]").inner_text().startswith("smallest")
    assert switch.get_by_role("link").first.get_attribute("href") == "../../book/labels.html"


@pytest.mark.parametrize("name", ["distillation", "labels", "regimes"])
def test_every_chart_fits_a_telephone(opened, name):
    page = opened("log.html")
    page.set_viewport_size({"width": 375, "height": 700})
    opened(f"{name}.html")
    page.wait_for_function(
        "[...document.querySelectorAll('.kd-chart')].every(e => e.querySelector('.vega-embed'))"
    )
    too_wide = page.locator(".kd-chart .kd-scroll").evaluate_all(
        "all => all.map(e => e.querySelector('svg').getAttribute('width') - e.clientWidth)"
        ".filter(by => by > 8)"
    )
    assert too_wide == []


TO_TOP = "e => e.scrollIntoView({ behavior: 'instant' })"
STAY = "document.addEventListener('click', (event) => event.preventDefault())"


@pytest.mark.parametrize("width", [375, 1300])
def test_the_switch_stays_in_view_and_takes_the_place_along(opened, width):
    page = opened("labels.html")
    page.set_viewport_size({"width": width, "height": 700})
    page.evaluate(STAY)
    page.locator("#until-when-does-it-pay").evaluate(TO_TOP)
    page.wait_for_timeout(300)
    link = page.locator(".kd-editions a").first
    assert 0 <= link.bounding_box()["y"] < 120
    link.click()
    assert link.evaluate("a => a.hash") == "#until-when-does-it-pay"
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    link.click()
    assert link.evaluate("a => a.hash") == ""


def test_the_view_of_the_explorer_goes_along_without_runs_and_images(opened):
    page = opened("index.html#layer=block3&left=nobody&selected=3,5&at=how-to-read-this-page")
    figure = page.locator(".kd-explorer[data-ready=true]")
    figure.wait_for()
    layer = figure.get_by_label("Layer", exact=True)
    assert layer.get_attribute("aria-valuetext") == "block3"
    page.wait_for_timeout(300)
    assert (
        abs(page.locator("#how-to-read-this-page").evaluate("e => e.getBoundingClientRect().top"))
        < 300
    )
    page.evaluate(STAY)
    link = page.locator(".kd-editions a").first
    link.click()
    assert link.evaluate("a => a.hash") == "#layer=block3&at=how-to-read-this-page"
