"""What the explorer says of a selection and of single images, in a real browser."""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import results as invented
from figure import BASELINE, KD, write

from kdlib.report import explorer

NASTY = ["=cmd()", "+1", "-2", "@x", 'a, "b"', "<b>bold</b>", "ü", "\ttab", "eight", "nine"]


@pytest.fixture(scope="module")
def results():
    few = invented.make(n=200, seeds=1, labels=("2",))
    return few._replace(study=few.study | {"classes": NASTY})


def predictions(results, run):
    table = results.predictions[results.predictions["run"] == run].sort_values("image")
    return table["prediction"].to_numpy()


def select(reader, images):
    numbers = ",".join(map(str, images))
    reader.page.evaluate(f"location.hash = 'selected={numbers}'")
    reader.figure.locator(f".kd-item[aria-label^='image {images[0]},']").wait_for()


# ---- the selection


def test_a_selection_says_its_classes_accuracies_and_extremes(reader, results):
    chosen = np.arange(5, 90, 3)
    select(reader, chosen)
    counts = Counter(results.labels[chosen].tolist())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{NASTY[c]} {count}" for c, count in ordered[:8]).replace(" \t", " ")
    rest = len(ordered) - 8
    assert reader.text("classes") == words + (f" and {rest} more classes" if rest > 0 else "")
    for side, run in (("left", BASELINE), ("right", KD)):
        right = int((predictions(results, run) == results.labels)[chosen].sum())
        line = reader.text(f"about .kd-{side}")
        assert f"{100 * right / len(chosen):.1f} % accuracy ({right} of {len(chosen)})" in line
        points = reader.map(side, results)[chosen]
        far = np.linalg.norm(points - points.mean(axis=0), axis=1)
        titles = reader.figure.locator(f".kd-about .kd-{side} .kd-member").evaluate_all(
            "all => all.map((e) => e.title)"
        )
        ends = (chosen[far.argmin()], chosen[far.argmax()])
        assert titles == [f"image {i}: show it large" for i in ends]


def test_a_selection_is_saved_as_csv_without_formulas(reader, results):
    chosen = np.flatnonzero(np.arange(200) % 4 == 0)
    select(reader, chosen)
    with reader.page.expect_download() as download:
        reader.button("Download CSV").click()
    assert download.value.suggested_filename == "selection.csv"
    text = Path(download.value.path()).read_bytes().decode("utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == [
        *("image", "class", "left: baseline (no teacher), 2 labels per class, seed 0"),
        "right: KD, 2 labels per class, seed 0",
    ]
    table = {int(row[0]): row[1:] for row in rows[1:]}
    assert sorted(table) == list(chosen)
    left, right = (predictions(results, run) for run in (BASELINE, KD))
    safe = [f"'{name}" if name[0] in "=+-@\t" else name for name in NASTY]
    for image, row in table.items():
        assert row == [safe[c] for c in (results.labels[image], left[image], right[image])]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row)


def test_the_rest_of_many_can_be_unfolded(reader):
    select(reader, range(152))
    items = reader.figure.locator(".kd-item")
    assert items.count() == 60
    reader.button("and 92 more").click()
    assert items.count() == 152
    reader.button("fewer").click()
    assert items.count() == 60


def test_thumbnails_are_walked_by_arrow_keys_and_shown_large(reader):
    select(reader, [3, 5, 8])
    items = reader.figure.locator(".kd-item")
    items.first.focus()
    reader.press("ArrowRight")
    second = items.nth(1).get_attribute("aria-label").split(",")[0]
    assert reader.page.evaluate("document.activeElement.ariaLabel").startswith(second)
    reader.press("Enter")
    assert second in reader.text("card")
    reader.press("Escape")
    assert reader.figure.locator(".kd-card").is_hidden()
    assert items.count() == 3


def test_hidden_classes_do_not_count(reader, results):
    select(reader, range(100))
    button = reader.figure.locator(".kd-legend button").nth(3)
    button.click()
    left = int((results.labels[:100] != 3).sum())
    assert reader.count().startswith(f"{left} of 200")
    assert "@x" not in reader.text("classes")
    wrong = [predictions(results, run) != results.labels for run in (BASELINE, KD)]
    fixed = int((wrong[0] & ~wrong[1] & (results.labels != 3)).sum())
    assert reader.button("distillation puts right").inner_text().endswith(f": {fixed}")
    button.click()
    assert reader.count().startswith("100 of 200")


def test_a_class_that_was_clicked_does_not_dim_the_others(reader):
    button = reader.figure.locator(".kd-legend button").nth(3)
    button.click()
    at_rest = reader.pixels("left")
    reader.page.mouse.move(0, 0)
    assert (reader.pixels("left") == at_rest).all()
    reader.figure.locator(".kd-legend button").nth(4).hover()
    assert (reader.pixels("left") != at_rest).any()
    button.hover()  # a hidden class has nothing to point at
    assert (reader.pixels("left") == at_rest).all()


def test_shift_and_click_show_a_hidden_class_and_select_it(reader, results):
    button = reader.figure.locator(".kd-legend button").nth(3)
    button.click()
    button.click(modifiers=["Shift"])
    assert button.get_attribute("aria-pressed") == "true"
    assert reader.count().startswith(f"{int((results.labels == 3).sum())} of 200")


def test_the_line_of_python_of_many_images_takes_little_room(reader):
    select(reader, range(152))
    reader.button("Copy Python").click()
    assert reader.text("python").endswith("151])")
    assert reader.figure.locator(".kd-python").bounding_box()["height"] < 100


# ---- one image


def test_an_image_is_found_by_its_number_and_shown_large_with_its_nearest(reader, results):
    field = reader.label("Find an image by its number")
    field.fill("57")
    field.press("Enter")
    card = reader.figure.locator(".kd-card")
    assert f"class {NASTY[results.labels[57]]} · image 57" in reader.text("card")
    assert reader.count().startswith("1 of 200")
    assert "selected=57" in reader.page.url
    assert max(card.locator(".kd-thumb").first.bounding_box().values()) >= 190
    near = results.neighbours.query("layer == 'block2' and image == 57").sort_values("rank")
    expected = [*near[near["run"] == BASELINE]["neighbour"], *near[near["run"] == KD]["neighbour"]]
    titles = card.locator(".kd-nearest > span").evaluate_all("all => all.map((e) => e.title)")
    assert [int(title.split()[1].rstrip(",")) for title in titles] == expected
    reader.button("block3").click()
    assert "nearest in block3" in reader.text("card")
    reader.button("Close the image").click()
    assert card.is_hidden()


def test_a_number_that_is_not_there_is_refused_in_words(reader):
    field = reader.label("Find an image by its number")
    field.fill("200")
    field.press("Enter")
    assert "0 to 199" in reader.text("find")
    assert reader.count().startswith("Drag")
    reader.figure.locator(".kd-legend button").nth(2).click()
    field.fill("2")
    reader.button("Find").click()
    assert "its class is hidden" in reader.text("find")


def test_a_click_shows_an_image_large_and_escape_closes_it(reader, results):
    points = reader.map("left", results)
    image = reader.pointed("left", points[20])
    reader.page.mouse.click(*reader.at("left", points[20]))
    assert f"image {image}" in reader.text("card")
    assert reader.figure.locator(".kd-tip").is_hidden()  # it would say the same
    reader.canvas("left").focus()
    reader.press("Escape")
    assert reader.figure.locator(".kd-card").is_hidden()


def test_a_tooltip_covers_neither_its_dot_nor_the_ends_of_lines(reader, results):
    near = results.neighbours.query("layer == 'block2'").set_index(["run", "image"])["neighbour"]
    maps = {BASELINE: reader.map("left", results), KD: reader.map("right", results)}
    sides = {BASELINE: "left", KD: "right"}
    for start in range(0, 200, 25):
        image = reader.pointed("right", maps[KD][start])
        tip = reader.figure.locator(".kd-tip").bounding_box()
        for run, points in maps.items():
            for i in (image, *near[run, image]):
                x, y = reader.at(sides[run], points[i])
                inside = tip["x"] < x < tip["x"] + tip["width"]
                assert not (inside and tip["y"] < y < tip["y"] + tip["height"])


# ---- curves


def test_in_the_film_curves_are_pale_and_bands_are_explained(read, tmp_path):
    opened = read(write(tmp_path, explorer.show(invented.make())))
    head = opened.figure.locator(".kd-curve-head")
    assert "bands: the lowest to the highest of up to 3 seeds" in head.inner_text()
    assert opened.figure.locator(".kd-pale").count() == 0
    opened.button("after 3 epochs").click()
    assert "large dots: after 3 epochs; pale lines: once trained" in head.inner_text()
    assert opened.figure.locator(".kd-pale").count() == 2
