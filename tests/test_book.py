"""A small book, built once, opened in a real browser by double click, with the network cut."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
import results as invented
from conftest import cut_off

import kdlib

KD = "students/resnet20-full/resnet8x0.5-kd-2-0"
AT = "students/resnet20-full/resnet8x0.5-at-2-0"
CONFIG = """
    title: A small book
    only_build_toc_files: true
    execute: {execute_notebooks: force}
    sphinx:
      recursive_update: true
      extra_extensions: [kdlib.book]
      config:
        html_context: {default_mode: auto}
"""
CONTENTS = """
    format: jb-book
    root: explorer
    chapters:
    - file: second
"""
CHAPTER = f"""
    ---
    jupytext:
      text_representation: {{extension: .md, format_name: myst}}
    kernelspec: {{name: python3, display_name: Python 3}}
    ---
    # A figure to touch

    Look at <a class="kd-set" data-set="layer=block3&embedding=ivis&right={AT}">block 3</a>.

    ```{{code-cell}} python
    from kdlib import charts, store, widgets
    charts.enable()
    results = store.load("results")
    widgets.explorer(results)
    ```

    ## A formula and a chart

    $$ L = T^2 \\sum_i p_i \\log (p_i / q_i) $$

    ```{{code-cell}} python
    charts.accuracy(results)
    ```

    ```{{code-cell}} python
    import ipywidgets
    ipywidgets.IntSlider()
    ```
"""
SECOND = """
    ---
    jupytext:
      text_representation: {extension: .md, format_name: myst}
    kernelspec: {name: python3, display_name: Python 3}
    ---
    # A second page

    ## The same figure

    ```{code-cell} python
    from kdlib import store, widgets
    widgets.explorer(store.load("results"), layer="pool")
    ```
"""


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The built pages of a small book."""
    folder = tmp_path_factory.mktemp("book")
    invented.make(folder / "results", n=120)
    for name, text in {
        "_config.yml": CONFIG,
        "_toc.yml": CONTENTS,
        "explorer.md": CHAPTER,
        "second.md": SECOND,
    }.items():
        (folder / name).write_text(dedent(text).lstrip())
    here = str(Path(kdlib.__file__).parents[1])
    ran = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "-W", "--keep-going"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return folder / "_build" / "html"


class Reader(NamedTuple):
    """A page somebody reads, what it asked the network for, and what it complained about."""

    page: object
    asked: list
    complaints: list

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
            "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".filter((value, i) => i % 4 == 3 && value > 100).length"
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
        page, asked, complaints = cut_off(context)
        page.goto(book.as_uri() + "/" + name)
        reader = Reader(page, asked, complaints)
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
    """The first chapter as it opens; at the end it must have stayed silent and asked nothing."""
    chapter.page.mouse.move(0, 0)
    chapter.explorer.get_by_role("button", name="Reset").dispatch_event("click")
    chapter.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    chapter.settle()
    yield chapter
    assert chapter.asked == []
    assert chapter.complaints == []


@pytest.mark.parametrize("name", ["explorer.html", "second.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_needs_the_network_or_complains(read, name, scheme):
    opened = read(name, scheme=scheme)
    opened.page.mouse.wheel(0, 4000)
    opened.page.wait_for_timeout(300)
    assert opened.asked == []
    assert opened.complaints == []


def test_the_search_finds_pages_without_a_server(read):
    opened = read("search.html?q=figure")
    opened.page.locator("#search-results li a").first.wait_for()
    assert opened.complaints == []


def test_pages_are_light_and_share_their_data(book):
    assert (book / "second.html").stat().st_size < 100_000
    data = list((book / "_static/kdlib/data").iterdir())
    assert sum(file.stat().st_size for file in data) < 500_000
    pages = [(book / name).read_text() for name in ("explorer.html", "second.html")]
    shared = [file for file in data if all(file.stem in page for page in pages)]
    assert len(shared) >= 3  # program, coordinates, sprite


def test_pages_name_no_script_of_another_place(book):
    for name in ("explorer.html", "second.html", "search.html", "genindex.html"):
        text = (book / name).read_text()
        for start in ('src="http', 'src="//', "unpkg", "jsdelivr", "cdnjs", "x-thebe-config"):
            assert start not in text


def test_both_maps_are_drawn(reader):
    assert reader.ink("left") > 500
    assert reader.ink("right") > 500


def test_the_curve_and_the_words_show_the_starting_view(reader):
    assert reader.layer == "block2"
    assert "block2: alone" in reader.explorer.locator(".kd-summary").inner_text()
    assert "trustworthiness" in reader.explorer.locator(".kd-trust").first.inner_text()
    assert "test accuracy" in reader.explorer.locator(".kd-top").inner_text()


def test_a_map_whose_movement_means_nothing_is_faded_and_says_so(reader):
    reader.explorer.locator(".kd-ticks button", has_text="stem").click()
    reader.settle()
    words = reader.explorer.locator(".kd-panel.kd-left .kd-trust")
    assert "noise floor 0." in words.inner_text()
    assert "Movement here means nothing" in words.inner_text()
    assert reader.canvas("left").evaluate("c => getComputedStyle(c).opacity") == "0.5"
    reader.explorer.get_by_label("Network on the right").select_option("teachers/resnet20-full-0")
    reader.explorer.locator(".kd-ticks button", has_text="logits").click()
    reader.settle()
    assert "nothing" not in reader.explorer.locator(".kd-panel.kd-right .kd-trust").inner_text()
    assert reader.canvas("right").evaluate("c => getComputedStyle(c).opacity") == "1"


def test_dots_can_be_coloured_by_the_neighbours_they_lost(reader):
    colours = (
        "c => new Set(new Uint32Array(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    before = reader.canvas("left").evaluate(colours)
    reader.explorer.get_by_label("What colours mean").select_option("error")
    assert "shade=error" in reader.page.url
    assert reader.canvas("left").evaluate(colours) != before
    assert reader.explorer.locator(".kd-shade").first.is_visible()
    reader.explorer.get_by_role("button", name="Reset").click()
    assert reader.canvas("left").evaluate(colours) == before
    assert not reader.explorer.locator(".kd-shade").first.is_visible()


def test_the_slider_moves_by_keyboard_and_the_address_follows(reader):
    reader.explorer.get_by_label("Layer", exact=True).focus()
    reader.page.keyboard.press("ArrowRight")
    assert reader.layer == "block3"
    assert "block3: alone" in reader.explorer.locator(".kd-summary").inner_text()
    assert "layer=block3" in reader.page.url


def test_the_maps_listen_to_arrow_keys(reader):
    reader.canvas("left").focus()
    reader.page.keyboard.press("ArrowLeft")
    assert reader.layer == "block1"
    reader.page.keyboard.press("ArrowDown")
    assert "image 0" in reader.explorer.locator(".kd-tip").inner_text()


def test_a_click_on_the_curve_goes_to_the_layer(reader):
    reader.explorer.locator(".kd-target").nth(4).click()
    assert reader.layer == "pool"


def test_a_click_on_a_layer_name_goes_there(reader):
    reader.explorer.locator(".kd-ticks button", has_text="logits").click()
    assert reader.layer == "logits"


def test_play_walks_to_the_end(reader):
    reader.explorer.locator(".kd-ticks button", has_text="pool").click()
    reader.explorer.get_by_label("Play through the layers").click()
    reader.explorer.get_by_label("Stop").wait_for()
    reader.explorer.get_by_label("Play through the layers").wait_for(timeout=3000)
    assert reader.layer == "logits"


def drag(reader, side):
    box = reader.canvas(side).bounding_box()
    x, y, size = box["x"], box["y"], box["width"]
    reader.page.mouse.move(x + 0.3 * size, y + 0.3 * size)
    reader.page.mouse.down()
    reader.page.mouse.move(x + 0.7 * size, y + 0.7 * size, steps=4)
    reader.page.mouse.up()


def test_a_box_selects_the_same_images_in_both_panels(reader):
    before = reader.ink("left"), reader.ink("right")
    drag(reader, "left")
    count = reader.explorer.locator(".kd-count").inner_text()
    assert "of 120 images selected" in count
    n = int(count.split()[0])
    assert 0 < n < 120
    assert reader.explorer.locator(".kd-item").count() == min(n, 60)
    assert reader.ink("left") < before[0]  # the others are faded
    assert reader.ink("right") < before[1]
    reader.canvas("left").focus()
    reader.page.keyboard.press("Escape")
    assert reader.explorer.locator(".kd-item").count() == 0
    assert (reader.ink("left"), reader.ink("right")) == before


def test_a_selection_stays_while_the_view_changes(reader):
    drag(reader, "right")
    count = reader.explorer.locator(".kd-count").inner_text()
    reader.explorer.locator(".kd-target").nth(0).click()
    reader.explorer.get_by_role("radio", name="IVIS").click()
    assert reader.explorer.locator(".kd-count").inner_text() == count


def test_hovering_shows_the_image_its_class_and_both_predictions(reader):
    box = reader.canvas("right").bounding_box()
    tip = reader.explorer.locator(".kd-tip")
    for step in range(10, 20):  # along a line that crosses the cloud of dots
        reader.page.mouse.move(box["x"] + step / 30 * box["width"], box["y"] + box["height"] / 2)
        if tip.is_visible():
            break
    words = tip.inner_text()
    assert "class" in words
    assert "alone:" in words
    assert "kd:" in words
    assert tip.locator(".kd-thumb").is_visible()
    reader.page.mouse.move(box["x"], box["y"] - 60)
    tip.wait_for(state="hidden")


def test_a_button_selects_what_distillation_puts_right(reader):
    button = reader.explorer.get_by_role("button", name="distillation puts right")
    n = int(button.inner_text().split(":")[1])
    button.click()
    count = reader.explorer.locator(".kd-count").inner_text()
    assert count == f"{n} of 120 images selected; wrong: {n} left, 0 right"


def test_the_legend_hides_a_class(reader):
    before = reader.ink("left")
    button = reader.explorer.locator(".kd-legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert reader.ink("left") < before


def test_embedding_network_and_measure_can_be_chosen(reader):
    before = reader.ink("left")
    reader.explorer.get_by_role("radio", name="IVIS").click()
    assert reader.explorer.get_by_role("radio", name="IVIS").get_attribute("aria-checked") == "true"
    assert reader.ink("left") != before
    reader.explorer.get_by_label("Network on the right").select_option(AT)
    assert "at" in reader.explorer.locator(".kd-summary").inner_text()
    reader.explorer.get_by_label("Measure of the curve").select_option("silhouette")
    label = reader.explorer.locator(".kd-curve").get_attribute("aria-label")
    assert label.startswith("Silhouette")
    reader.explorer.get_by_role("button", name="Reset").click()
    assert reader.explorer.get_by_label("Network on the right").input_value() == KD
    assert reader.ink("left") == before


def test_a_link_in_the_text_sets_the_figure(reader):
    reader.page.locator(".kd-set").click()
    assert reader.layer == "block3"
    assert reader.explorer.get_by_label("Network on the right").input_value() == AT
    assert reader.explorer.get_by_role("radio", name="IVIS").get_attribute("aria-checked") == "true"


def test_an_address_restores_a_view_and_a_mistyped_one_does_no_harm(read):
    opened = read(f"explorer.html#layer=logits&right={AT}&selected=3,5,9999&left=nobody&x=1")
    assert opened.layer == "logits"
    assert opened.explorer.get_by_label("Network on the right").input_value() == AT
    assert opened.explorer.locator(".kd-item").count() == 2
    assert opened.complaints == []


def test_images_travel_from_layer_to_layer(read):
    opened = read(motion="no-preference")
    opened.explorer.locator(".kd-target").nth(5).click()
    assert opened.explorer.get_attribute("data-moving") == "true"
    opened.settle()
    assert opened.complaints == []


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


def test_a_control_that_needs_a_kernel_says_so(reader):
    assert "needs a running kernel" in reader.page.locator(".kd-note").inner_text()
