"""The explorer's maps in a real browser: zoom, images, regions, all layers, alignment, names."""

import math

import numpy as np
import pandas as pd
import pytest
import results as invented
from figure import KD, write
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from kdlib.embed.align import align
from kdlib.report import charts, explorer

WHEEL = 300  # pixels of a turn of the wheel
TURN = math.exp(0.002 * WHEEL)  # what it magnifies
STEP = 1.5  # a button or key


@pytest.fixture(scope="module")
def results():
    return invented.make(seeds=1, labels=("2",))


def wait(reader):
    """Until what was asked for is painted."""
    reader.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def middle(points):
    """The image nearest to the middle of a map, where no edge stops a zoom."""
    return int(np.linalg.norm(points, axis=1).argmin())


def turn(reader, up=True):
    reader.page.mouse.wheel(0, -WHEEL if up else WHEEL)
    reader.page.wait_for_timeout(150)
    wait(reader)


def about(point, factor):
    """The zoom after a turn of the wheel at a point: the point stays where it is."""
    return factor, *(np.asarray(point) * (1 - 1 / factor))


# ---- zoom


def test_the_wheel_zooms_both_maps_about_the_pointer(reader, results):
    points = reader.map("left", results)
    image = middle(points)
    assert reader.pointed("left", points[image]) == image
    turn(reader)
    assert reader.zoomed == ["left", "right"]
    zoom = about(points[image], TURN)
    assert reader.pointed("left", points[image], zoom) == image
    others = np.linalg.norm(points - zoom[1:], axis=1).argsort()[3:20:4]
    assert [reader.pointed("left", points[i], zoom) for i in others] == list(others)
    right = reader.map("right", results)  # about the same place of its frame
    close = int(np.linalg.norm(right - zoom[1:], axis=1).argmin())
    assert reader.pointed("right", right[close], zoom) == close


def test_each_map_can_be_zoomed_by_itself(reader):
    reader.label("zoom together").uncheck()
    assert "together=false" in reader.page.url
    reader.button("Zoom in, right map").click()
    assert reader.zoomed == ["right"]
    reader.button("Show the whole map, right map").click()
    assert reader.zoomed == []


def test_a_page_that_is_scrolled_is_not_stopped_by_a_map(reader, results):
    reader.pointed("left", reader.map("left", results)[5])
    turn(reader, up=False)  # a whole map cannot be zoomed out of: the page moves on
    top = reader.page.evaluate("scrollY")
    assert top > 0
    assert reader.zoomed == []
    turn(reader)  # and back, the pointer at rest
    assert reader.page.evaluate("scrollY") < top
    assert reader.zoomed == []


def test_control_and_wheel_zoom_always(reader, results):
    points = reader.map("left", results)
    reader.pointed("left", points[middle(points)])
    reader.page.keyboard.down("Control")
    turn(reader)
    reader.page.keyboard.up("Control")
    assert reader.zoomed == ["left", "right"]


def test_keys_zoom_and_move_a_map(reader, results):
    before = reader.pixels("left")
    points = reader.map("left", results)
    reader.canvas("left").focus()
    reader.press("+", "+")
    wait(reader)
    image = middle(points)
    assert reader.pointed("left", points[image], (STEP**2, 0, 0)) == image
    reader.press("Control+ArrowRight", "Control+ArrowUp")  # an eighth of the frame each
    wait(reader)
    zoom = (STEP**2, *np.array([1, 1]) / 8 / 0.465 / STEP**2)
    assert reader.layer == "block2"
    image = int(np.linalg.norm(points - zoom[1:], axis=1).argmin())
    assert reader.pointed("left", points[image], zoom) == image
    reader.press("-", "0")
    wait(reader)
    reader.page.mouse.move(0, 0)
    assert reader.zoomed == []
    assert (reader.pixels("left") == before).all()


@pytest.mark.parametrize("how", ["tool", "Control"])
def test_a_zoomed_map_is_dragged_and_nothing_is_selected(reader, results, how):
    reader.button("Zoom in, left map").click()
    reader.button("Zoom in, left map").click()
    if how == "tool":
        reader.figure.get_by_role("radio", name="move").click()
        assert "brush=move" in reader.page.url
    else:
        reader.page.keyboard.down(how)
    reader.drag("left", (0.5, 0.5), (0.7, 0.4))
    wait(reader)
    reader.page.keyboard.up("Control")
    zoom = (STEP**2, *np.array([-0.2, -0.1]) / 0.465 / STEP**2)
    points = reader.map("left", results)
    image = int(np.linalg.norm(points - zoom[1:], axis=1).argmin())
    assert reader.pointed("left", points[image], zoom) == image
    assert reader.count().startswith("Drag")


def test_a_box_in_a_zoomed_map_selects_what_is_seen_in_it(reader, results):
    reader.button("Zoom in, left map").click()
    wait(reader)
    reader.drag("left", (0.25, 0.25), (0.75, 0.75))
    points = reader.map("left", results)
    inside = (np.abs(points) < 0.25 / 0.465 / STEP).all(axis=1).sum()
    assert int(reader.count().split()[0]) == pytest.approx(inside, abs=1)


def test_a_double_click_shows_the_whole_map_and_keeps_the_selection(reader):
    reader.drag("left", (0.3, 0.3), (0.7, 0.7))
    count = reader.count()
    reader.button("Zoom in, left map").click()
    box = reader.canvas("left").bounding_box()
    reader.page.mouse.dblclick(box["x"] + 150, box["y"] + 250)
    wait(reader)
    assert reader.zoomed == []
    assert reader.count() == count


def test_the_selection_is_brought_into_both_frames(reader, results):
    points = reader.map("left", results)
    chosen = np.sort(np.linalg.norm(points, axis=1).argsort()[:6])
    reader.page.evaluate(f"location.hash = 'selected={','.join(map(str, chosen))}'")
    reader.figure.locator(".kd-item").nth(3).wait_for()
    reader.button("Zoom to the selection").click()
    wait(reader)
    maps = {side: reader.map(side, results) for side in ("left", "right")}
    boxes = {s: (m[chosen].min(axis=0), m[chosen].max(axis=0)) for s, m in maps.items()}
    factor = min(2 / (1.15 * (high - low).max()) for low, high in boxes.values())
    assert 1 < factor < 16
    for side, (low, high) in boxes.items():
        limit = 1 - 1 / factor
        zoom = (factor, *((low + high) / 2).clip(-limit, limit))
        seen = [reader.pointed(side, maps[side][i], zoom) for i in chosen]
        assert seen == list(chosen)


def test_two_fingers_zoom_and_one_still_selects(read, results):
    opened = read(width=375)
    opened.canvas("left").scroll_into_view_if_needed()
    box = opened.canvas("left").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["width"] / 2

    def touch(kind, *spreads):
        points = [{"x": x + d, "y": y, "id": i} for i, d in enumerate(spreads)]
        opened.browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -30)
    touch("touchStart", -30, 30)
    for spread in (40, 50, 60):
        touch("touchMove", -spread, spread)
    touch("touchEnd")
    wait(opened)
    assert opened.zoomed == ["left", "right"]
    assert opened.count().startswith("Drag")
    points = opened.map("left", results)
    image = middle(points)
    opened.page.touchscreen.tap(*opened.at("left", points[image], (2, 0, 0)))
    assert opened.count().startswith("1 of 120")
    assert f"image {image}" in opened.text("card")
    assert opened.errors == []


# ---- images in the place of dots


def test_images_stand_in_for_dots_where_they_fit(reader, results):
    reader.label("names").uncheck()
    points = reader.map("left", results)
    apart = np.linalg.norm(points[:, None] - points, axis=2) + 9 * np.eye(len(points))
    inside = (np.abs(points) < 0.9).all(axis=1)
    for image in np.where(inside, apart.min(axis=1), 0).argsort()[-3:]:  # that no other covers
        reader.page.evaluate(f"location.hash = 'names=false&selected={image}'")
        reader.figure.locator(f".kd-item[aria-label^='image {image},']").wait_for()
        reader.button("Zoom to the selection").click()
        reader.page.mouse.move(0, 0)
        wait(reader)
        pixels, factor, side = reader.pixels("left"), 16, 72
        zoomed = (points[image] - points[image].clip(1 / factor - 1, 1 - 1 / factor)) * factor
        at = 0.465 * len(pixels) * zoomed * [1, -1] + len(pixels) / 2
        left, top = (at - side / 2).round().astype(int)
        crop = pixels[top : top + side, left : left + side].astype(np.uint8)
        small = np.asarray(Image.fromarray(crop).convert("L").resize((8, 8), Image.Resampling.BOX))
        likeness = np.corrcoef(small.ravel(), results.images[image, :, :, 0].ravel())[0, 1]
        assert likeness > 0.95


def test_without_images_dots_stay_dots(results, read, tmp_path):
    bare = results._replace(images=results.images[:0])
    opened = read(write(tmp_path, explorer.show(bare)))
    for _ in range(4):
        opened.button("Zoom in, left map").click()
    wait(opened)
    assert opened.ink("left") > 50
    assert opened.errors == []


# ---- decision regions


def test_regions_are_the_votes_of_the_nearest_images(reader, results):
    """At places without dots: the class most of the 5 nearest within 6 % are predicted."""
    reader.label("names").uncheck()
    reader.button("logits").click()
    table = results.predictions[results.predictions["run"] == KD].sort_values("image")
    points = reader.map("right", results, layer="logits")
    assert {0, 3, 5} <= check_votes(reader, points, table["prediction"].to_numpy())


@pytest.mark.parametrize("epoch", [1, 3])
def test_regions_follow_the_film(reader, results, epoch):
    """The maps and the predictions of each epoch, as the film plays."""
    reader.label("names").uncheck()
    reader.button("block3").click()
    reader.button(f"after {epoch} epoch").click()
    film = results.film.query("run == @KD and layer == 'block3' and epoch == @epoch")
    film = film.sort_values("image")
    points = explorer.quantise(film[["x", "y"]].to_numpy()) / 32767
    assert {0, 1, 2, 3} <= check_votes(reader, points, film["prediction"].to_numpy())


def check_votes(reader, points, predictions):
    """Compare each cell without dots with the votes computed here; returns the largest counts."""
    reader.page.mouse.move(0, 0)
    plain = reader.pixels("right")
    reader.label("decision regions").check()
    reader.page.mouse.move(0, 0)
    assert "regions=true" in reader.page.url
    assert "up to 5 nearest" in reader.text("regions")
    pixels = reader.pixels("right")
    width, cell = len(pixels), 6
    corners = np.arange(0, width - cell, cell)
    rows, columns = (grid.ravel() for grid in np.meshgrid(corners, corners, indexing="ij"))
    centres = np.stack([columns, rows], axis=1) + cell / 2
    at = (centres - width / 2) / (0.465 * width) * [1, -1]
    far, near = NearestNeighbors(n_neighbors=5).fit(points).kneighbors(at)
    colours = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in charts.CLASSES]
    checked = set()
    for row, column, distance, images in zip(rows, columns, far, near, strict=True):
        if (plain[row : row + cell, column : column + cell] != plain[0, 0]).any():
            continue  # a dot is there
        voters = predictions[images[distance <= 0.12]]
        if np.abs(distance - 0.12).min() < 1e-3:
            continue
        counts = [int((voters == v).sum()) for v in voters]
        expected = plain[0, 0]
        if counts:
            weight = 0.08 + 0.26 * max(counts) / len(counts)
            winner = voters[counts.index(max(counts))]
            expected = np.round(255 * (1 - weight) + np.array(colours[winner]) * weight)
        found = pixels[row + 2, column + 2]
        assert np.abs(found - expected).max() <= 1
        checked.add(max(counts, default=0))
    return checked


def test_regions_are_of_the_last_layers_only(reader):
    reader.label("decision regions").check()
    assert reader.text("regions").startswith("Regions are drawn at the last layers of networks")
    reader.page.mouse.move(0, 0)
    tinted = reader.pixels("left")
    reader.label("decision regions").uncheck()
    assert (reader.pixels("left") == tinted).all()
    assert reader.figure.locator(".kd-regions").is_hidden()
    reader.button("block3").click()
    reader.label("decision regions").check()
    assert "nearest images" in reader.text("regions")


def test_what_is_wrong_is_of_the_moment_of_the_film(reader, results):
    reader.page.evaluate("location.hash = 'layer=block3&epoch=1&selected=1,2,3,4,5,6,7,8'")
    reader.figure.locator(".kd-item").nth(7).wait_for()
    film = results.film.query("run == @KD and layer == 'block3' and epoch == 1").set_index("image")
    then = film["prediction"].loc[1:8].to_numpy()
    right = int((then == results.labels[1:9]).sum())
    assert f"accuracy ({right} of 8)" in reader.text("about .kd-right")
    assert "Rings mark images that they misclassify then." in reader.text("film")
    reader.label("Find an image by its number").fill("7")
    reader.label("Find an image by its number").press("Enter")
    assert f"kd:\n{then[6]} " in reader.text("card")


def test_a_film_without_predictions_says_that_it_has_no_regions(results, read, tmp_path):
    older = results._replace(film=results.film.assign(prediction=np.nan))
    opened = read(write(tmp_path, explorer.show(older)), view="#layer=block3&epoch=3")
    plain = opened.pixels("right")
    opened.label("decision regions").check()
    opened.page.mouse.move(0, 0)
    assert "do not hold what the networks predicted after each epoch" in opened.text("regions")
    assert (opened.pixels("right") == plain).all()
    assert "misclassify once trained" in opened.text("film")
    opened.button("trained").click()
    assert "up to 5 nearest" in opened.text("regions")


# ---- all layers at once


def test_all_layers_of_both_networks_are_a_click_away(reader):
    reader.label("all layers").check()
    assert "overview=true" in reader.page.url
    small = reader.figure.locator(".kd-small")
    assert small.count() == 12
    names = [small.nth(i).get_attribute("aria-label") for i in (0, 11)]
    assert names == [
        "stem of baseline (no teacher), 2 labels per class, seed 0",
        "logits of KD, 2 labels per class, seed 0",
    ]
    drawn = small.locator("canvas").evaluate_all("all => all.map((c) => c.toDataURL())")
    assert len(set(drawn)) >= 10  # pool may repeat block3
    small.nth(9).click()
    assert reader.layer == "block3"
    pressed = small.evaluate_all("all => all.map((e) => e.getAttribute('aria-pressed') === 'true')")
    assert [i for i, on in enumerate(pressed) if on] == [3, 9]
    reader.label("all layers").uncheck()
    assert small.first.is_hidden()


# ---- alignment


def test_the_right_map_is_turned_onto_the_left_by_the_selected_images(reader, results):
    chosen = np.flatnonzero(results.labels == 4)
    reader.page.evaluate(f"location.hash = 'align=true&selected={','.join(map(str, chosen))}'")
    reader.figure.locator(".kd-item").nth(3).wait_for()
    reader.settle()
    left, right = (reader.map(side, results) for side in ("left", "right"))
    a, b = left[chosen], right[chosen]
    u, _, v = np.linalg.svd((b - b.mean(axis=0)).T @ (a - a.mean(axis=0)))
    moved = (right - b.mean(axis=0)) @ (u @ v) + a.mean(axis=0)
    extent = max(1, np.abs(moved).max())
    turned = align(np.stack([a, b]))  # kdlib's own, scaled besides: the same rotation
    np.testing.assert_allclose(
        turned[1] * np.linalg.norm(b - b.mean(axis=0)) / np.linalg.norm(turned[1]),
        moved[chosen] - a.mean(axis=0),
    )
    for side, points in (("left", left / extent), ("right", moved / extent)):
        apart = np.linalg.norm(points[:, None] - points, axis=2) + 9 * np.eye(len(points))
        free = np.flatnonzero(apart.min(axis=1) > 0.02)[::5]
        assert [reader.pointed(side, points[i]) for i in free] == list(free)


def test_two_images_do_not_settle_how_a_map_is_turned(reader):
    before = reader.pixels("right")
    reader.label("align the selection").check()
    reader.page.mouse.move(0, 0)
    reader.settle()
    assert (reader.pixels("right") == before).all()


# ---- names, narrow pages


def renamed(results, names):
    """The results with other names of classes, as many as are given."""
    labels = np.arange(len(results.labels)) % len(names)
    return results._replace(labels=labels, study=results.study | {"classes": names})


BOXES = """() => {
  window.boxes = [];
  const original = CanvasRenderingContext2D.prototype.roundRect;
  CanvasRenderingContext2D.prototype.roundRect = function (x, y, w, h, r) {
    boxes.push([this.canvas.closest(".kd-panel").className, this.canvas.width, x, y, x + w, y + h]);
    return original.call(this, x, y, w, h, r);
  };
}"""


def test_names_of_many_classes_do_not_overlap(results, read, tmp_path):
    many = renamed(results, [f"a class called {i}" for i in range(40)])
    opened = read(write(tmp_path, explorer.show(many, names=True)))
    opened.page.evaluate(BOXES)
    opened.label("names").uncheck()
    opened.label("names").check()
    boxes = opened.page.evaluate("boxes")
    for side in ("left", "right"):
        own = [box[1:] for box in boxes if f"kd-{side}" in box[0]]
        assert len(own) >= 8
        for k, (width, *a) in enumerate(own):
            assert min(a) >= 0
            assert max(a) <= width
            for _, *b in own[:k]:
                assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


@pytest.mark.parametrize("width", [375, 1200])
def test_long_names_stay_in_the_figure(results, read, tmp_path, width):
    names = [f"{'a very long name of a class without an end ' * 2}{i}" for i in range(9)]
    names.append("Donaudampfschifffahrtsgesellschaftskapitaenskajuetenschluessel" * 2)
    opened = read(write(tmp_path, explorer.show(renamed(results, names))), width=width)
    image = int(np.flatnonzero(np.arange(120) % 10 == 9)[3])
    opened.label("Find an image by its number").fill(str(image))
    opened.label("Find an image by its number").press("Enter")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = opened.figure.evaluate(
        """f => [...f.querySelectorAll("*")].filter((e) => e.checkVisibility()
          && !e.closest("option")
            && !["auto", "hidden"].includes(getComputedStyle(e.parentElement).overflowX)
          && e.getBoundingClientRect().right > f.getBoundingClientRect().right + 1)
          .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert beyond == []


def test_on_a_telephone_maps_stand_one_above_the_other_and_say_whose_they_are(read):
    opened = read(width=375)
    left, right = (opened.canvas(side).bounding_box() for side in ("left", "right"))
    figure = opened.figure.bounding_box()
    assert left["width"] == right["width"] == pytest.approx(figure["width"], abs=2)
    assert right["y"] >= left["y"] + left["height"]
    assert opened.text("panel.kd-right .kd-whose") == "kd"
    small = opened.figure.evaluate(
        """f => [...f.querySelectorAll("button, select, .kd-key, input:not([type=checkbox])")]
          .filter((e) => e.checkVisibility() && Math.min(e.getBoundingClientRect().height,
            e.getBoundingClientRect().width) < 24).map((e) => e.outerHTML)"""
    )
    assert small == []


# ---- speed


@pytest.mark.parametrize(("n", "most"), [(1000, 1 / 60), (10_000, 1 / 30)])
def test_zooming_costs_less_than_a_frame_lasts(read, tmp_path, n, most):
    few = invented.make(n=1000, seeds=1, labels=("2",))
    few = few._replace(film=few.film.iloc[:0], neighbours=few.neighbours.iloc[:0])
    image = np.arange(n) % 1000
    tables = {
        name: pd.concat(
            [t.assign(image=t["image"] + k) for k in range(0, n, 1000)], ignore_index=True
        )
        for name, t in (("maps", few.maps), ("predictions", few.predictions))
    }
    large = few._replace(images=few.images[image], labels=few.labels[image], **tables)
    opened = read(write(tmp_path, explorer.show(large)))
    opened.page.evaluate(
        """() => { window.painted = 0; const put = CanvasRenderingContext2D.prototype.putImageData;
          CanvasRenderingContext2D.prototype.putImageData = function (...values) {
            painted++; return put.apply(this, values); }; }"""
    )
    opened.pointed("left", opened.map("left", large)[0])
    before = opened.cpu
    for up in [True] * 8 + [False] * 7:
        opened.page.mouse.wheel(0, -WHEEL if up else WHEEL)
        opened.page.wait_for_timeout(60)
    frames = opened.page.evaluate("painted") / 2
    assert frames >= 10
    assert 0 < (opened.cpu - before) / frames < most
