"""The book that `make book` built: the numbers on its pages are those that the store holds."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import cut_off

from kdlib import store

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "_build/html"


def study_of(edition):
    """The name of the study that an edition shows; empty where that is not built."""
    file = edition / "results/study.json"
    return json.loads(file.read_text())["name"] if file.exists() else ""


# The edition of the study quick leads, or lies beside the one that does.
HTML = BUILT if study_of(BUILT) == "quick" else BUILT / "digits"

pytestmark = pytest.mark.skipif(
    study_of(HTML) != "quick",
    reason="the book of the study quick is not built; `make book` builds it",
)


@pytest.fixture(scope="module")
def results():
    """What the built book shows, from the files beside its pages."""
    return store.load(HTML / "results")


@pytest.fixture
def opened(chromium):
    """Open a page by double click, with the network cut."""
    contexts = []

    def open_page(name):
        contexts.append(chromium.new_context(reduced_motion="reduce"))
        page, refused, errors = cut_off(contexts[-1])
        page.goto((HTML / name).as_uri())
        page.wait_for_load_state()
        return page, refused, errors

    yield open_page
    for context in contexts:
        context.close()


def test_the_start_page_leads_to_the_book(opened):
    page, *_ = opened("index.html")
    page.wait_for_url("**/book/index.html")
    page.locator(".kd-explorer[data-ready=true]").wait_for()


def test_the_numbers_in_the_text_are_those_of_the_store(opened, results):
    page, *_ = opened("book/index.html")
    text = " ".join(page.locator("article").inner_text().split())
    runs = results.runs
    few = runs[(runs["role"] == "student") & (runs["labels"] == "2")]
    for method in ("baseline", "kd"):
        scores = 100 * few[few["method"] == method]["test_accuracy"]
        low, high = scores.min(), scores.max()
        words = f"{scores.mean():.1f} % (seeds from {low:.1f} to {high:.1f}, n = {len(scores)})"
        assert words in text
    table = results.measures.merge(few, on="run").query("measure == 'within_share'")
    wide = table.pivot_table(index=["layer", "seed"], columns="method", values="value")
    gain = (wide["kd"] - wide["baseline"]).groupby("layer").mean()
    assert f"kd minus the baseline: {gain['block2']:+.2f} [" in text


def test_the_explorer_shows_what_the_store_holds(opened, results):
    page, *_ = opened("book/index.html")
    explorer = page.locator(".kd-explorer[data-ready=true]")
    explorer.wait_for()
    left = explorer.get_by_label("Network on the left").input_value()
    right = explorer.get_by_label("Network on the right").input_value()
    runs = results.runs.set_index("run")
    assert (runs.loc[left, "method"], runs.loc[right, "method"]) == ("baseline", "kd")
    words = explorer.inner_text()
    for run in (left, right):
        assert f"{100 * runs.loc[run, 'test_accuracy']:.1f} %" in words
    wrong = {
        run: set(p.loc[p["prediction"].to_numpy() != results.labels, "image"])
        for run, p in results.predictions.groupby("run")
    }
    assert f"puts right: {len(wrong[left] - wrong[right])}" in words


def test_every_executed_notebook_and_table_is_there_to_take(opened, results):
    page, *_ = opened("book/status.html")
    links = [a.get_attribute("href") for a in page.locator("a[href*='results/']").all()]
    assert len(links) >= len(results.runs) + 5
    for link in links:
        assert (HTML / "book" / link).resolve().is_file(), link
    assert isinstance(pd.read_parquet(HTML / "results/measures.parquet"), pd.DataFrame)
