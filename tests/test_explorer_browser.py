"""The explorer in a real browser: a page of its own over file://, with the network cut."""

import json

import numpy as np
import pandas as pd
import pytest
import results as invented
from conftest import AT
from figure import BASELINE, KD, TEACHER, write

from kdlib import store
from kdlib.report import charts, explorer


@pytest.fixture(scope="module")
def results():
    return invented.make()


# ---- as it opens


def test_both_maps_are_drawn(reader):
    assert reader.ink("left") > 500
    assert reader.ink("right") > 500


def test_every_dot_stands_where_the_store_has_it(reader, results):
    reader.label("names").uncheck()
    pixels = reader.pixels("right")
    box = reader.canvas("right").bounding_box()
    paper = pixels[0, 0]
    for image in range(0, 120, 7):
        x, y = reader.place("right", image, results)
        assert (pixels[round(y - box["y"]), round(x - box["x"])] != paper).any()


def test_the_curve_and_the_words_show_the_starting_view(reader):
    assert reader.layer == "block2"
    assert "block2: baseline" in reader.text("summary")
    assert "trustworthiness" in reader.text("trust")
    assert "test accuracy" in reader.text("top")


def test_a_map_is_pale_where_it_is_poor_and_framed_where_places_cannot_be_compared(reader):
    def look(side):
        style = "c => [getComputedStyle(c).opacity, getComputedStyle(c).borderTopStyle]"
        return reader.text(f"panel.kd-{side} .kd-trust"), reader.canvas(side).evaluate(style)

    views = []
    for run in (None, TEACHER):
        if run:
            reader.label("Network on the right").select_option(run)
        for layer in ("stem", "block2", "logits"):
            reader.settle()
            reader.button(layer).click()
            views += [look(side) for side in ("left", "right")]
    for words, (opacity, border) in views:
        assert (opacity == "1") is ("Poor map" not in words)
        assert ("shown pale" in words) is ("Poor map" in words)
        assert (border == "dashed") is ("do not compare places" in words)
    assert {border for _, (_, border) in views} == {"dashed", "solid"}
    assert any(words for words, (opacity, border) in views if (opacity, border) == ("1", "dashed"))


def test_nothing_below_the_maps_moves_from_layer_to_layer_or_with_a_selection(reader):
    def at():
        scrolled = reader.page.evaluate("scrollY")
        parts = (reader.label("Layer"), reader.button("Find"))
        return [part.bounding_box()["y"] + scrolled for part in parts]

    before = at()
    for layer in ("stem", "block3", "logits"):
        reader.button(layer).click()
        reader.settle()
        assert at() == before, layer
    reader.button("distillation puts right").click()
    assert at() == before


# ---- layers, networks, measures


def test_the_slider_moves_by_keyboard_and_the_address_follows(reader):
    reader.label("Layer").focus()
    reader.press("ArrowRight")
    assert reader.layer == "block3"
    assert "block3: baseline" in reader.text("summary")
    assert "layer=block3" in reader.page.url


def test_a_click_on_the_curve_or_on_a_name_goes_to_the_layer(reader):
    reader.figure.locator(".kd-target").nth(4).click()
    assert reader.layer == "pool"
    reader.button("logits").click()
    assert reader.layer == "logits"


def test_play_walks_to_the_end(reader):
    reader.button("pool").click()
    reader.label("Play through the layers").click()
    reader.label("Stop").wait_for()
    reader.label("Play through the layers").wait_for(timeout=6000)
    assert reader.layer == "logits"


def test_embedding_network_and_measure_can_be_chosen(reader):
    before = reader.ink("left")
    reader.figure.get_by_role("radio", name="IVIS").click()
    assert reader.figure.get_by_role("radio", name="IVIS").get_attribute("aria-checked") == "true"
    assert reader.ink("left") != before
    reader.label("Network on the right").select_option(AT)
    reader.settle()
    assert "at" in reader.text("summary")
    reader.label("Measure of the curve").select_option("silhouette")
    assert reader.figure.locator(".kd-curve").get_attribute("aria-label").startswith("Silhouette")
    reader.button("Reset").click()
    assert reader.label("Network on the right").input_value() == KD
    assert reader.ink("left") == before


def test_a_network_keeps_its_labels_when_the_method_changes_and_its_method_when_labels_do(reader):
    reader.label("Labels on the right").select_option(label="5 labels per class")
    reader.settle()
    assert reader.label("Network on the right").input_value() == KD.replace("-2-", "-5-")
    reader.label("Network on the right").select_option(label="at")
    reader.settle()
    assert reader.label("Labels on the right").input_value() == AT.replace("-2-", "-5-")
    assert "seed 0" in reader.text("top .kd-right .kd-muted")
    assert reader.label("Network on the left").input_value() == BASELINE
    assert reader.label("Seed on the right").is_hidden()


def test_seeds_can_be_chosen_where_several_are_drawn(results, read, tmp_path):
    second = results.maps.query("run == @KD").assign(run=KD[:-1] + "1")
    more = results._replace(maps=pd.concat([results.maps, second], ignore_index=True))
    opened = read(write(tmp_path, explorer.show(more)))
    opened.label("Seed on the right").select_option(label="seed 1")
    assert opened.label("Network on the right").input_value() == KD[:-1] + "1"


def test_images_travel_from_layer_to_layer(read):
    opened = read(motion="no-preference")
    opened.figure.evaluate(
        "f => { window.moves = []; new MutationObserver(() => moves.push(f.dataset.moving))"
        ".observe(f, { attributeFilter: ['data-moving'] }) }"
    )
    opened.figure.locator(".kd-target").nth(5).click()
    opened.settle()
    assert opened.page.evaluate("moves.includes('true')")
    assert opened.errors == []


def test_nothing_travels_for_who_wants_no_motion(reader):
    reader.page.evaluate(
        "() => { window.calls = 0; window.original = requestAnimationFrame;"
        " window.requestAnimationFrame = (f) => { window.calls++; return original(f); }; }"
    )
    reader.label("Layer").focus()
    reader.press("ArrowRight")
    assert reader.figure.get_attribute("data-moving") == "false"
    assert (
        reader.page.evaluate("() => { window.requestAnimationFrame = original; return calls; }")
        == 0
    )


# ---- colours and classes


@pytest.mark.parametrize("shade", ["error", "change"])
def test_dots_can_be_coloured_by_their_neighbours(reader, shade):
    before = reader.colours("left")
    reader.label("What colours mean").select_option(shade)
    assert f"shade={shade}" in reader.page.url
    assert reader.colours("left") != before
    assert {"error": "layer and map", "change": "left and right"}[shade] in reader.text("ramp")
    reader.button("Reset").click()
    assert reader.colours("left") == before
    assert reader.figure.locator(".kd-ramp").is_hidden()


def test_a_dot_has_the_colour_of_how_much_its_neighbourhood_changes(reader, results):
    """1 - |left and right| / 10, in five steps from light to dark; the same in both panels."""
    reader.label("names").uncheck()
    reader.label("What colours mean").select_option("change")
    near = results.neighbours.query("layer == 'block2'").set_index(["run", "image"])["neighbour"]
    places = np.array([reader.place("right", i, results) for i in range(120)])
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 99 * np.eye(120)
    box = reader.canvas("right").bounding_box()
    reader.page.mouse.move(0, 0)
    pixels = reader.pixels("right")
    ramp = [(168, 220, 160), (116, 196, 118), (65, 164, 90), (29, 130, 64), (0, 90, 42)]
    laid = 0.9 * np.array(ramp) + 0.1 * 255  # dots let a tenth of the paper through
    levels = set()
    for image in np.flatnonzero(apart.min(axis=1) > 9):  # that no other dot covers
        shared = len(set(near[BASELINE, image]) & set(near[KD, image]))
        x, y = (places[image] - (box["x"], box["y"])).round().astype(int)
        level = int(np.abs(pixels[y, x] - laid).sum(axis=1).argmin())
        assert level == min(4, int((1 - shared / 10) * 5 + 1e-9))
        levels.add(level)
    assert len(levels) >= 3


def test_classes_have_the_colours_of_the_charts(reader):
    icons = reader.figure.locator(".kd-legend path").all()
    assert [icon.get_attribute("fill") for icon in icons] == list(charts.CLASSES)


def test_the_legend_hides_a_class(reader):
    before = reader.ink("left")
    button = reader.figure.locator(".kd-legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert "hidden=0" in reader.page.url
    reader.page.mouse.move(0, 0)
    assert reader.ink("left") < before
    button.click()
    assert "hidden" not in reader.page.url


def test_a_class_is_selected_from_the_legend_by_mouse_or_keys(reader, results):
    members = int((results.labels == 3).sum())
    button = reader.figure.locator(".kd-legend button").nth(3)
    button.click(modifiers=["Shift"])
    assert reader.count().startswith(f"{members} of 120")
    reader.press("Escape")
    reader.button("Reset").click()
    button.focus()
    reader.press("Shift+Enter")
    assert reader.count().startswith(f"{members} of 120")


def test_names_on_the_maps_can_be_switched_off(reader):
    before = reader.colours("left")
    reader.label("names").uncheck()
    assert reader.colours("left") != before
    assert "names=false" in reader.page.url


# ---- selecting


def test_a_box_selects_the_same_images_in_both_panels(reader):
    before = reader.ink("left"), reader.ink("right")
    reader.drag("left", (0.3, 0.3), (0.7, 0.7))
    n = int(reader.count().split()[0])
    assert "of 120 images selected" in reader.count()
    assert 0 < n < 120
    assert reader.figure.locator(".kd-item").count() == min(n, 60)
    reader.page.mouse.move(0, 0)
    assert reader.ink("left") < before[0]  # the others are faded
    assert reader.ink("right") < before[1]
    reader.canvas("left").focus()
    reader.press("Escape")
    assert reader.figure.locator(".kd-item").count() == 0
    assert (reader.ink("left"), reader.ink("right")) == before


def test_a_lasso_selects_what_it_goes_around_and_a_box_more(reader, results):
    corners = [(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)]
    reader.drag("left", corners[0], (0.9, 0.9))
    box = int(reader.count().split()[0])
    reader.figure.get_by_role("radio", name="lasso").click()
    reader.drag("left", *corners)
    area = reader.canvas("left").bounding_box()
    places = [reader.place("left", i, results) for i in range(120)]
    at = [((x - area["x"]) / area["width"], (y - area["y"]) / area["width"]) for x, y in places]
    inside = [x > 0.1 and y > 0.1 and x + y < 1 for x, y in at]
    assert 0 < sum(inside) < box
    assert int(reader.count().split()[0]) == pytest.approx(sum(inside), abs=1)
    assert "brush=lasso" in reader.page.url


def test_with_shift_a_second_box_adds(reader):
    reader.drag("left", (0.1, 0.1), (0.5, 0.9))
    first = int(reader.count().split()[0])
    reader.page.keyboard.down("Shift")
    reader.drag("left", (0.5, 0.1), (0.9, 0.9))
    reader.page.keyboard.up("Shift")
    assert int(reader.count().split()[0]) > first


def test_a_selection_stays_while_the_view_changes(reader):
    reader.drag("right", (0.3, 0.3), (0.7, 0.7))
    count = reader.count().split(";")[0]
    reader.figure.locator(".kd-target").nth(0).click()
    reader.figure.get_by_role("radio", name="IVIS").click()
    reader.label("Network on the left").select_option(TEACHER)
    reader.settle()
    assert reader.count().split(";")[0] == count


def test_a_button_selects_what_distillation_puts_right(reader):
    button = reader.button("distillation puts right")
    n = int(button.inner_text().split(":")[1])
    button.click()
    assert reader.count() == f"{n} of 120 images selected; misclassified by baseline: {n}, by kd: 0"


# ---- one image


def test_hovering_shows_the_image_its_class_and_both_predictions(reader, results):
    tip = reader.figure.locator(".kd-tip")
    reader.page.mouse.move(*reader.place("right", 50, results))
    words = tip.inner_text()
    assert f"class {results.labels[50]}" in words
    assert "baseline:" in words
    assert "kd:" in words
    assert tip.locator(".kd-thumb").is_visible()
    box = reader.canvas("right").bounding_box()
    reader.page.mouse.move(box["x"], box["y"] - 60)
    tip.wait_for(state="hidden")


def lines(reader, results, side, image):
    """How much of the straight ways to an image's neighbours is dark while it is pointed at."""
    reader.label("names").uncheck()
    reader.canvas("left").focus()
    reader.press(*["ArrowDown"] * (image + 1))
    pixels = reader.pixels(side)
    dark = np.pad(pixels.max(axis=2) < 110, 1)
    wide = np.any([np.roll(dark, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    near = results.neighbours[results.neighbours["run"] == {"left": BASELINE, "right": KD}[side]]
    near = near[(near["layer"] == "block2") & (near["image"] == image)]["neighbour"]
    box = reader.canvas(side).bounding_box()
    at = [np.subtract(reader.place(side, i, results), (box["x"], box["y"])) for i in (image, *near)]
    ways = [np.linspace(at[0], end, 40).round().astype(int) for end in at[1:]]
    return [wide[way[:, 1] + 1, way[:, 0] + 1].mean() for way in ways]


@pytest.mark.parametrize("side", ["left", "right"])
def test_lines_lead_to_the_ten_nearest_of_the_layer_by_keyboard_too(reader, results, side):
    assert np.mean(lines(reader, results, side, 4)) > 0.85
    assert "its 10 nearest in block2" in reader.text("tip")
    reader.canvas("left").blur()
    assert reader.figure.locator(".kd-tip").is_hidden()


def test_without_neighbours_there_are_no_lines_and_no_words_of_them(results, read, tmp_path):
    bare = results._replace(neighbours=results.neighbours.iloc[:0])
    opened = read(write(tmp_path, explorer.show(bare)))
    assert np.mean(lines(opened, results, "left", 4)) < 0.5
    assert "nearest" not in opened.text("tip")
    assert opened.figure.locator("option[value=change]").count() == 0


def test_the_maps_listen_to_keys(reader):
    reader.canvas("left").focus()
    reader.press("ArrowLeft")
    assert reader.layer == "block1"
    reader.press("ArrowDown", "ArrowDown")
    assert "image 1" in reader.text("tip")
    reader.press("Enter", "ArrowDown", "Space")
    assert reader.count().startswith("2 of 120")
    reader.press("Shift+ArrowDown")
    assert "image 1" in reader.text("tip")
    reader.press("Enter")
    assert reader.count().startswith("1 of 120")
    reader.press("Escape")
    assert reader.count().startswith("Drag")


# ---- film


def test_the_film_is_offered_where_both_networks_have_it(reader):
    assert reader.epoch == "trained"
    reader.button("stem").click()
    words = "none of this view; there is one for baseline, kd at block2, block3, as t-SNE"
    assert words in reader.text("film")
    assert reader.label("Epochs").is_hidden()
    reader.button("block3").click()
    assert reader.epoch == "trained"
    reader.label("Network on the left").select_option(TEACHER)
    reader.settle()
    assert reader.label("Epochs").is_hidden()
    assert words in reader.text("film")


def test_the_film_goes_from_before_training_to_the_end(reader):
    reader.button("block3").click()
    trained = reader.pixels("left")
    reader.label("Epochs").focus()
    reader.press("Home")
    assert reader.epoch == "before training"
    assert "epoch=0" in reader.page.url
    assert (reader.pixels("left") != trained).any()
    assert reader.label("What colours mean").is_disabled()
    reader.label("Play the film of training").click()
    reader.label("Stop").wait_for()
    reader.label("Play the film of training").wait_for(timeout=8000)
    assert reader.epoch == "trained"
    reader.page.mouse.move(0, 0)
    assert (reader.pixels("left") == trained).all()


def test_numbers_in_the_film_are_those_of_its_moment(reader, results):
    reader.button("after 3 epochs").click()
    rows = results.training.query("layer == 'block2' and epoch == 3")
    value = rows.set_index(["run", "measure"])["value"]
    assert f"block2 after 3 epochs: baseline {value[BASELINE, 'knn']:.2f}" in reader.text("summary")
    assert f"trustworthiness {value[KD, 'trustworthiness']:.2f}" in reader.text(
        "panel.kd-right .kd-trust"
    )


def test_an_epoch_waits_where_there_is_no_film(reader):
    reader.button("after 1 epoch").click()
    assert "block2 after 1 epoch:" in reader.text("summary")
    reader.button("stem").click()
    assert "stem: baseline" in reader.text("summary")
    reader.button("block3").click()
    assert reader.epoch == "after 1 epoch"


def test_a_study_without_a_film_has_no_word_of_it(results, read, tmp_path):
    bare = results._replace(film=results.film.iloc[:0])
    opened = read(write(tmp_path, explorer.show(bare)))
    assert opened.figure.locator(".kd-film").is_hidden()


# ---- links, addresses, Python


def test_a_link_in_the_text_sets_the_figure(reader):
    reader.page.locator(".kd-set").nth(0).click()
    reader.settle()
    assert (reader.layer, reader.epoch) == ("block3", "after 8 epochs")
    assert reader.figure.locator(".kd-item").count() == 2
    reader.page.locator(".kd-set").nth(1).focus()
    reader.press("Enter")
    assert reader.figure.locator(".kd-item").count() == 0
    assert reader.label("Network on the right").input_value() == AT
    assert reader.label("Measure of the curve").input_value() == "probe"
    assert reader.figure.get_by_role("radio", name="IVIS").get_attribute("aria-checked") == "true"


def test_an_address_restores_the_whole_view(reader, read):
    reader.page.locator(".kd-set").nth(0).click()
    reader.settle()
    reader.label("names").uncheck()
    reader.figure.locator(".kd-legend button").nth(7).click()
    reader.figure.get_by_role("radio", name="lasso").click()
    view = "#" + reader.page.url.split("#")[1]
    again = read(view=view)
    for side in ("left", "right"):
        reader.page.mouse.move(0, 0)
        assert (again.pixels(side) == reader.pixels(side)).all()
    assert again.page.url.split("#")[1] == view[1:]
    again.page.evaluate("location.hash = 'layer=pool'")
    again.page.wait_for_function("document.querySelector('[aria-label=Layer]').value == 4")
    assert again.figure.locator(".kd-item").count() == 0  # what it does not name is as it opens
    assert again.label("names").is_checked()


def test_a_mistyped_address_does_no_harm(read):
    view = f"#layer=logits&right={AT}&selected=3,5,9999,x&left=nobody&epoch=two&hidden=77&y=1"
    opened = read(view=view)
    assert opened.layer == "logits"
    assert opened.label("Network on the left").input_value() == BASELINE
    assert opened.label("Network on the right").input_value() == AT
    assert opened.figure.locator(".kd-item").count() == 2
    assert opened.errors == []


def test_a_button_gives_the_line_of_python_that_shows_the_same_view(
    reader, results, tmp_path, monkeypatch
):
    reader.label("Network on the left").select_option(AT)
    reader.settle()
    reader.page.locator(".kd-set").nth(0).click()
    reader.settle()
    reader.label("names").uncheck()
    reader.button("Copy Python").click()
    line = reader.text("python")
    assert reader.page.evaluate("String(getSelection())") == line
    assert "measure" not in line  # nothing that opens by itself
    monkeypatch.chdir(tmp_path)
    store.publish(tmp_path / "book/results/invented", results)
    *first, last = line.split("; ")
    spaces = {}
    exec("; ".join(first), spaces)
    view = eval(last, spaces)
    assert (view.left, view.right, view.layer, view.names) == (AT, KD, "block3", False)
    assert (view.shade, view.epoch, view.selected) == ("change", 8, [3, 5])


# ---- everywhere


def test_the_figure_fits_a_telephone(read):
    opened = read(width=375)
    assert opened.ink("left") > 200
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    opened.canvas("right").tap()
    opened.button("distillation puts right").tap()
    assert "images selected" in opened.count()


def test_every_control_is_reached_by_keys(reader):
    reader.button("block3").click()
    reached = set()
    reader.page.locator(".kd-set").last.focus()
    for _ in range(45):
        reader.press("Tab")
        reached.add(
            reader.page.evaluate(
                "(e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent)"
                "(document.activeElement)"
            )
            .split(" map")[0]
            .split(":")[0]
            .strip()
        )
    expected = {"Network on the left", "Labels on the right", "t-SNE", "names", "Layer", "Epochs"}
    expected |= {"Play through the layers", "Play the film of training", "Measure of the curve"}
    expected |= {"▭ box", "distillation puts right", "Copy Python", "Reset", "What colours mean"}
    assert expected - reached == set()


def test_every_control_has_a_name(reader):
    unnamed = reader.figure.evaluate(
        "f => [...f.querySelectorAll('button, select, input, canvas')].filter(e =>"
        " !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_jupyterlab_leaves_every_control_its_keys(reader):
    bare = ":is(button, select, input, canvas):not([data-lm-suppress-shortcuts])"
    assert reader.figure.locator("button").count() > 20
    assert reader.figure.locator(bare).count() == 0


def test_the_maps_follow_the_theme(read):
    opened = read()
    light = opened.pixels("left")[0, 0]
    style = ":root { --pst-color-background: #101010; --pst-color-text-base: #eeeeee }"
    opened.page.add_style_tag(content=style)
    opened.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    opened.page.wait_for_timeout(100)
    assert tuple(light) == (255, 255, 255)
    assert tuple(opened.pixels("left")[0, 0]) == (16, 16, 16)


# ---- networks are loaded when they are chosen


@pytest.fixture
def parts(read, results, tmp_path):
    """A figure, the files of its networks by run, those asked for, and those to be late."""
    view = explorer.show(results)
    address = write(tmp_path, view)
    state = json.loads(
        (tmp_path / "index.html").read_text().split('widget-state+json">')[1].split("</script>")[0]
    )
    buffers = state["state"][view.model_id]["buffers"]
    files = {b["path"][1]: b["src"] for b in buffers if b["path"][0] == "parts"}
    opened, asked, late = read(address), [], {}

    def answer(route):
        run = next((r for r, name in files.items() if name in route.request.url), None)
        asked.append(run)
        if run in late:
            late[run].append(route)
        else:
            route.continue_()

    opened.page.route("**/data/*.js", answer)
    return opened, files, asked, late


def test_only_the_networks_that_are_chosen_are_loaded_and_each_once(parts):
    opened, files, asked, _ = parts
    there = "Object.keys(window.kdSidecars)"
    loaded = set(opened.page.evaluate(there)) & set(files.values())
    assert loaded == {files[BASELINE], files[KD]}
    opened.label("Network on the right").select_option(AT)
    opened.settle()
    opened.label("Network on the right").select_option(KD)
    opened.label("Network on the left").select_option(AT)
    opened.settle()
    assert asked == [AT]
    assert "at" in opened.text("summary")
    assert opened.errors == []


def test_a_network_that_is_late_is_announced_and_never_shown_as_another(parts):
    opened, _, _, late = parts
    late[AT] = []
    before, words = opened.pixels("right"), opened.text("summary")
    opened.label("Network on the right").select_option(AT)
    opened.figure.locator(".kd-right .kd-loading").wait_for()
    assert opened.text("panel.kd-right .kd-loading") == "loading AT, 2 labels per class, seed 0 …"
    assert opened.text("summary") == words
    assert (opened.pixels("right") == before).all()
    assert opened.label("Network on the right").input_value() == AT
    opened.label("Network on the right").select_option(TEACHER)  # which comes at once
    opened.settle()
    teacher = opened.pixels("right")
    assert "teacher" in opened.text("summary")
    assert not opened.figure.locator(".kd-right .kd-loading").is_visible()
    late[AT].pop().continue_()
    opened.page.wait_for_timeout(300)
    assert opened.label("Network on the right").input_value() == TEACHER
    assert (opened.pixels("right") == teacher).all()
    opened.page.locator(".kd-set").nth(1).click()  # which asks for it, too
    assert opened.text("summary").split(", ")[1].startswith("at ")
    assert opened.errors == []


def test_a_network_that_is_there_in_time_is_not_announced(parts):
    opened, *_ = parts
    opened.page.evaluate(
        "() => { window.seen = 0; new MutationObserver(() => document.querySelectorAll("
        "'.kd-loading:not([hidden])').forEach((e) => { seen += getComputedStyle(e).visibility === "
        "'visible' })).observe(document.body, { subtree: true, attributes: true }) }"
    )
    opened.label("Network on the right").select_option(AT)
    opened.settle()
    assert opened.page.evaluate("seen") == 0


def test_a_network_that_cannot_be_loaded_says_so_and_the_last_one_stays(parts):
    opened, _, asked, late = parts
    late[AT] = []
    before = opened.pixels("right")
    opened.label("Network on the right").select_option(AT)
    opened.page.wait_for_timeout(100)
    late.pop(AT).pop().abort()
    opened.settle()
    words = opened.text("panel.kd-right .kd-trust")
    assert words.startswith("AT, 2 labels per class, seed 0 could not be loaded: file://")
    assert "Still KD, 2 labels per class, seed 0." in words
    assert opened.label("Network on the right").input_value() == KD
    assert (opened.pixels("right") == before).all()
    opened.label("Network on the right").select_option(AT)  # is asked for again
    opened.settle()
    assert asked == [AT, AT]
    assert opened.text("summary").split(", ")[1].startswith("at ")
    assert "could not" not in opened.text("panel.kd-right .kd-trust")


# ---- speed: what is counted is the work, for the machine may be busy


COUNT = """() => {
  let time = 0; // a frame lasts a sixtieth of a second, however busy the machine is
  const frame = requestAnimationFrame;
  window.requestAnimationFrame = (call) => frame(() => call(time += 1000 / 60));
  performance.now = () => time;
  window.painted = 0;
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...values) {
    painted++;
    return put.apply(this, values);
  };
}"""


def many(n):
    """Invented results of so many images: the same thousand again and again."""
    few = invented.make(n=1000, seeds=1, labels=("2",))
    few = few._replace(film=few.film.iloc[:0])
    image = np.arange(n) % 1000
    tables = {
        name: pd.concat(
            [
                getattr(few, name).assign(image=getattr(few, name)["image"] + k)
                for k in range(0, n, 1000)
            ],
            ignore_index=True,
        )
        for name in ("maps", "predictions")
    }
    return few._replace(images=few.images[image], labels=few.labels[image], **tables)


@pytest.mark.parametrize("regions", ["", "#regions=true&layer=pool"])
@pytest.mark.parametrize(("n", "most"), [(1000, 1 / 60), (10_000, 1 / 30)])
def test_a_frame_costs_less_than_it_lasts(read, tmp_path, n, most, regions):
    opened = read(write(tmp_path, explorer.show(many(n))), view=regions, motion="no-preference")
    opened.page.evaluate(COUNT)
    before = opened.cpu
    for layer in ("block3", "logits" if regions else "block2", "block3"):
        opened.button(layer).click()
        opened.settle()
    frames = opened.page.evaluate("painted") / 2
    assert frames > 60
    assert 0 < (opened.cpu - before) / frames < most


@pytest.mark.parametrize("regions", ["", "#regions=true&layer=pool"])
def test_the_figure_opens_in_a_second_and_changes_layers_in_a_twentieth(read, tmp_path, regions):
    opened = read(write(tmp_path, explorer.show(many(1000))), view=regions)
    assert 0 < opened.cpu < 1
    slider = opened.figure.locator("[aria-label=Layer]")
    slider.focus()
    before = opened.cpu
    for key in ("ArrowRight", "ArrowLeft") * 5:
        opened.press(key)
    assert opened.layer == ("pool" if regions else "block2")
    assert 0 < (opened.cpu - before) / 10 < 0.05
