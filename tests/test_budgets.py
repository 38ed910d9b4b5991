"""What the book promises its readers, of every page that is there, in a real browser.

The pages are those of the small book and, where `make book` has built it, those of the whole one.
"""

import csv
import functools
import http.server
import io
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from conftest import cut_off
from PIL import Image

BUILT = Path(__file__).parents[1] / "_build/html"
SMALL = ("explorer.html", "second.html", "search.html", "book/reference/distill.html")
PAGES = [("small", name) for name in SMALL] + [
    ("built", str(file.relative_to(BUILT)))
    for folder in ("book", "book/reference", "book/executed", "[a-z]*/book")
    for file in sorted(BUILT.glob(f"{folder}/*.html"))
]
AXE = """([rules, scheme]) => {
  document.documentElement.dataset.theme = scheme;
  return axe.run(document, { preload: false, resultTypes: ["violations"], runOnly: rules })
    .then(({ violations }) => violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`))
}"""
WCAG = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
CONTRAST = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
NARROW = {"type": "rule", "values": ["scrollable-region-focusable", "summary-name", "button-name"]}
WAITING = ".kd-figure[aria-busy], .kd-chart[aria-busy]"
CONTROLS = "a[href], button, input, select, summary, [role=slider], [role=button]"


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: "/".join(page))
def opened(request, book, chromium):
    """A page as a double click opens it, all of its figures drawn; and where it lies."""
    which, name = request.param
    file = (book if which == "small" else BUILT) / name
    context = chromium.new_context(reduced_motion="reduce", color_scheme="light")
    page, refused, errors = cut_off(context)
    page.goto(file.as_uri())
    ready(page)
    yield page, file, refused, errors
    context.close()


def ready(page):
    """Wait until every figure is drawn and every formula is set."""
    page.wait_for_load_state()
    page.wait_for_function(f"!document.querySelector('{WAITING}')")
    page.evaluate("window.MathJax?.startup?.promise")


@pytest.fixture(scope="session")
def axe():
    """The rules of axe-core as a script, from a package: nothing is downloaded."""
    package = pytest.importorskip("axe_playwright_python", reason="no axe-playwright-python")
    return (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")


def test_no_page_asks_for_anything_or_complains(opened):
    page, _, refused, errors = opened
    assert page.locator(":is(article, #search-results, main) h1").last.is_visible()
    assert page.locator("mjx-container :is([fill=red], [data-mml-node=merror])").count() == 0
    assert refused == []
    assert errors == []


def test_a_page_is_at_most_100_kilobytes(opened):
    assert opened[1].stat().st_size <= 100_000


def test_every_icon_has_a_drawing(opened):
    bare = (
        opened[0]
        .locator("i[class*=fa-]")
        .evaluate_all(
            "all => all.filter((e) => !getComputedStyle(e).getPropertyValue('--kd-icon'))"
            ".map((e) => e.className)"
        )
    )
    assert bare == []


def test_axe_finds_nothing(opened, axe):
    page = opened[0]
    page.evaluate(axe)
    violations = page.evaluate(AXE, [WCAG, "light"])
    violations += page.evaluate(AXE, [CONTRAST, "dark"])
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert violations == []


def test_a_page_fits_a_telephone(opened, axe):
    page = opened[0]
    before = page.viewport_size
    page.set_viewport_size({"width": 375, "height": 800})
    page.wait_for_timeout(350)  # the theme looks for boxes that scroll, three tenths later
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.evaluate(axe)
    violations = page.evaluate(AXE, [NARROW, "light"])
    page.set_viewport_size(before)
    assert wide <= 375
    assert violations == []


def test_every_figure_has_words_a_picture_and_its_numbers(opened):
    page = opened[0]
    assert page.locator("article img:not([alt])").count() == 0
    assert page.locator("canvas:not([aria-label])").count() == 0
    for chart in page.locator(".kd-chart").all():
        assert len(chart.get_attribute("aria-label")) > 20
        links = [link.evaluate("a => a.href") for link in chart.locator("figcaption a").all()]
        *tables, picture = [Path(unquote(urlparse(link).path)) for link in links]
        assert "<svg" in picture.read_text("utf-8")
        for table in tables:
            rows = list(csv.reader(table.read_text("utf-8").splitlines()))
            assert len(rows) > 1
            assert {len(row) for row in rows} == {len(rows[0])}
        chart.locator("summary").dispatch_event("click")
        assert chart.locator("td").count() >= (len(tables) > 0)
        chart.locator("summary").dispatch_event("click")


def test_every_control_of_a_chart_changes_it(opened):
    for chart in opened[0].locator(".kd-chart").all():
        drawing = chart.locator("svg")
        for control in chart.locator(":is(select, input)").all():
            before = drawing.inner_html()
            if control.evaluate("e => e.tagName") == "SELECT":
                control.select_option(index=1)
            elif control.get_attribute("type") == "range":
                control.press("ArrowRight")
            elif not control.is_checked():
                control.check()
            else:
                continue
            opened[0].wait_for_function(
                "([drawing, before]) => drawing.innerHTML !== before",
                arg=[drawing.element_handle(), before],
            )


def test_a_printed_page_shows_its_figures(opened):
    page = opened[0]
    assert page.pdf()[:4] == b"%PDF"
    page.emulate_media(media="print")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")  # paper is white all the same
    page.evaluate("scrollTo(0, 0)")
    boxes = page.locator(".kd-figure, .kd-chart").evaluate_all(
        "all => all.map((e) => e.getBoundingClientRect()).map((r) => [r.x, r.y, r.right, r.bottom])"
    )
    paper = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.emulate_media(media="screen")
    assert paper.getpixel((2, 2)) == 255
    for box in boxes:
        pixels = np.asarray(paper.crop([int(edge) for edge in box]), dtype=int)
        assert (pixels < 200).sum() > 1000
        assert np.bincount(pixels.ravel()).argmax() == 255


def test_the_tab_key_reaches_every_control(opened):
    page = opened[0]
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.evaluate(
        """controls => {
          window.missed = new Set([...document.querySelectorAll(controls)].filter((e) =>
            e.checkVisibility({ visibilityProperty: true }) && !e.disabled && !e.closest("dialog")
            && !e.matches("[role=radio][aria-checked=false], [type=radio], .kd-ticks *")));
          document.addEventListener("focusin", ({ target }) => window.missed.delete(target));
        }""",
        CONTROLS,
    )
    rounds = 0  # the first may start where somebody clicked last
    for _ in range(1000):
        page.keyboard.press("Tab")
        rounds += page.evaluate("document.activeElement === document.body")
        if rounds == 2 or not page.evaluate("window.missed.size"):
            break
    missed = page.evaluate("[...window.missed].map((e) => e.outerHTML.slice(0, 200))")
    assert missed == []


@pytest.fixture(scope="module")
def address(book):
    """Where the small book is served."""
    handler = functools.partial(Quiet, directory=book)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that writes no log."""

    def log_message(self, *_):
        return


@pytest.mark.parametrize("name", ["explorer.html", "second.html", "search.html?q=figure"])
def test_a_served_page_asks_its_server_alone(address, chromium, name):
    context = chromium.new_context()
    page, refused, errors = cut_off(context, address)
    start = time.perf_counter()
    page.goto(address + name)
    if "search" not in name:
        page.locator(".kd-explorer[data-ready=true]").wait_for()
        assert time.perf_counter() - start < 5  # one second, by itself on two slow cores
    ready(page)
    context.close()
    assert refused == []
    assert errors == []


@pytest.mark.parametrize("how", ["by double click", "from a server"])
def test_firefox_draws_every_figure_and_asks_for_nothing(firefox, book, address, how):
    home = book.as_uri() + "/" if how == "by double click" else address
    firefox.open(home + "explorer.html#layer=pool")
    count = f"""new Promise((done) => {{
      const look = () => document.querySelector("{WAITING}") ? setTimeout(look, 50) : done(
        document.querySelectorAll(".kd-explorer[data-ready=true] canvas, .kd-chart svg").length);
      look();
    }})"""
    assert firefox.evaluate(count) >= 3
    assert firefox.evaluate("document.querySelector('.kd-summary').innerText").startswith("pool")
    events = [(event["method"], event["params"]) for event in firefox.events]
    refused = [p["request"]["url"] for method, p in events if method.startswith("network")]
    logs = [params for method, params in events if method.startswith("log")]
    assert [url for url in refused if not url.startswith((home, "file:", "data:", "blob:"))] == []
    assert [params["text"] for params in logs if params["level"] == "error"] == []
