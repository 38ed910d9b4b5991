"""A small book, built once, opened in a real browser by double click, with the network cut."""

from typing import NamedTuple

import pytest
from conftest import AT, cut_off

from kdlib.report import sphinx


class Reader(NamedTuple):
    """A page somebody reads, what it refused the network for, and what it complained about."""

    page: object
    refused: list
    errors: list

    @property
    def explorer(self):
        return self.page.locator(".kd-explorer[data-ready=true]")

    @property
    def layer(self):
        return self.explorer.get_by_label("Layer", exact=True).get_attribute("aria-valuetext")

    def canvas(self, side):
        return self.explorer.locator(f".kd-panel.kd-{side} canvas")

    def ink(self, side):
        """How many pixels of a map are drawn on."""
        return self.canvas(side).evaluate(
            "c => new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height)"
            ".data.buffer).filter((value, i, all) => value !== all[0]).length"
        )

    def settle(self):
        self.page.wait_for_selector(".kd-explorer[data-moving=false]")


@pytest.fixture(scope="module")
def read(book, chromium):
    """Open a page over file://, with every request to elsewhere refused and written down."""
    contexts = []

    def open_page(name="explorer.html", *, scheme="light", width=1200, motion="reduce"):
        context = chromium.new_context(
            viewport={"width": width, "height": 1000}, color_scheme=scheme, reduced_motion=motion
        )
        contexts.append(context)
        page, refused, errors = cut_off(context)
        page.goto(book.as_uri() + "/" + name)
        reader = Reader(page, refused, errors)
        if name.startswith(("explorer", "second")):
            reader.explorer.wait_for()
            reader.settle()
        return reader

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def chapter(read):
    """The first chapter, opened once."""
    return read()


@pytest.fixture
def reader(chapter):
    """The first chapter as it opens; at the end it must have stayed silent and refused nothing."""
    chapter.page.mouse.move(0, 0)
    chapter.explorer.get_by_role("button", name="Reset").dispatch_event("click")
    chapter.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    chapter.settle()
    yield chapter
    assert chapter.refused == []
    assert chapter.errors == []


@pytest.mark.parametrize("name", ["explorer.html", "second.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_needs_the_network_or_complains(read, name, scheme):
    opened = read(name, scheme=scheme)
    opened.page.mouse.wheel(0, 4000)
    opened.page.wait_for_timeout(300)
    assert opened.refused == []
    assert opened.errors == []


def test_the_search_finds_pages_without_a_server(read):
    opened = read("search.html?q=figure")
    opened.page.locator("#search-results li a").first.wait_for()
    assert opened.errors == []


def test_pages_are_light_and_share_their_data(book):
    assert (book / "second.html").stat().st_size < 100_000
    data = list((book / "_static/kdlib/data").iterdir())
    assert sum(file.stat().st_size for file in data) < 600_000
    pages = [(book / name).read_text() for name in ("explorer.html", "second.html")]
    shared = [file for file in data if all(file.stem in page for page in pages)]
    assert len(shared) >= 3  # program, coordinates, sprite


def test_pages_name_no_script_of_another_place(book):
    for name in ("explorer.html", "second.html", "search.html", "genindex.html"):
        text = (book / name).read_text()
        for start in ('src="http', 'src="//', "unpkg", "jsdelivr", "cdnjs", "x-thebe-config"):
            assert start not in text


def test_only_pages_with_a_formula_load_mathjax(book):
    loading = [page.name for page in book.glob("*.html") if "mathjax.js" in page.read_text()]
    assert loading == ["explorer.html"]


def test_the_contents_of_a_long_page_follow_the_reader(read):
    page = read("book/reference/measure.html").page
    for heading in ("kdlib.measure.metrics", "kdlib.measure.space"):
        page.get_by_role("heading", name=heading).first.evaluate("e => e.scrollIntoView()")
        page.mouse.wheel(0, 60)
        page.locator("nav.page-toc a.active", has_text=heading).wait_for()


def test_a_link_in_the_text_sets_the_figure(reader):
    reader.page.locator(".kd-set").click()
    reader.settle()
    assert reader.layer == "block3"
    assert reader.explorer.get_by_label("Network on the right").input_value() == AT
    assert reader.explorer.get_by_role("radio", name="IVIS").get_attribute("aria-checked") == "true"


def test_an_address_restores_a_view_and_a_mistyped_one_does_no_harm(read):
    opened = read(f"explorer.html#layer=logits&right={AT}&selected=3,5,9999&left=nobody&x=1")
    assert opened.layer == "logits"
    assert opened.explorer.get_by_label("Network on the right").input_value() == AT
    assert opened.explorer.locator(".kd-item").count() == 2
    assert opened.errors == []


def test_the_figure_fits_a_telephone(read):
    opened = read(width=390)
    assert opened.ink("left") > 200
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_colours_follow_the_theme(reader):
    ink = "getComputedStyle(document.querySelector('.kd-explorer')).color"
    before = reader.page.evaluate(ink)
    reader.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert reader.page.evaluate(ink) != before


def test_charts_are_drawn_and_formulas_set(reader):
    reader.page.locator(".kd-chart").scroll_into_view_if_needed()
    reader.page.locator(".kd-chart svg").wait_for()
    assert "teacher" in reader.page.locator(".kd-chart").inner_html()
    reader.page.locator("mjx-container svg").first.wait_for()


def test_a_control_that_needs_a_kernel_has_a_note(reader):
    note = reader.page.locator(".kd-note")
    assert "needs a running kernel: make lab opens JupyterLab" in note.inner_text()
    places = [link.get_attribute("href") for link in note.locator("a").all()]
    assert [place.split("/")[2] for place in places] == [
        "mybinder.org",
        "colab.research.google.com",
    ]
    assert all("somebody/something" in place for place in places)


def test_the_numbers_of_a_chart_hold_no_formula(tmp_path):
    rows = [{"=run": "=cmd()", "value": -0.5}, {"=run": "kd", "value": 1}]
    (name,) = sphinx._tables({"datasets": {"a": rows}}, tmp_path, "chart")
    lines = (tmp_path / name).read_text("utf-8").splitlines()
    assert lines == ["'=run,value", "'=cmd(),-0.5", "kd,1"]
