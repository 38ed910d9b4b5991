"""A page that can be sent by mail: what is written, and how it opens by a double click."""

import base64
import json
import re
import zlib
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results as invented
from figure import Reader
from scipy import stats
from test_explorer_browser import COUNT

from kdlib import UsageError, store
from kdlib.report import explorer, onefile

UNEQUAL = {
    "teacher": [f"blocks.{i}" for i in range(8)],
    "baseline": ["conv1", "layer1", "layer2", "fc"],
    "distilled": ["conv1", "layer1", "layer2", "fc"],
}
EVIL = "<script>window.hacked=1</script>"
EVIL_NETWORK = '</script><img src=x onerror="window.hacked=2">'


def saved(results, folder, **view):
    """Save an explorer; return the file."""
    path = folder / "page.html"
    explorer.show(results, **view).save(path)
    return path


def words(file):
    """The text of a page without its scripts and tags."""
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", file.read_text("utf-8"), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def cells(file, number):
    """The rows of a table of a page."""
    body = re.findall(r"<tbody>(.*?)</tbody>", file.read_text("utf-8"), re.S)[number]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


@pytest.fixture(scope="module")
def foreign():
    return invented.foreign(UNEQUAL)


@pytest.fixture
def read(chromium):
    """Open a page over file:// with every request elsewhere refused; at the end none was made."""
    opened = []

    def open_page(file, *, scheme="light", width=1200, motion="reduce"):
        size = {"width": width, "height": 1000}
        context = chromium.new_context(
            viewport=size, color_scheme=scheme, reduced_motion=motion, has_touch=width < 500
        )
        requests = []
        context.on("request", lambda request: requests.append(request.url))
        reader = Reader(context, file.as_uri())
        opened.append((context, reader, requests))
        return reader

    yield open_page
    for context, reader, requests in opened:
        assert reader.errors == []
        assert reader.refused == []
        assert [url.split(":")[0] for url in requests if not url.startswith("blob:")] == ["file"]
        context.close()


# ---- what is written


def test_a_published_folder_becomes_one_file(tmp_path):
    invented.make(tmp_path / "results")
    explorer.show(store.load(tmp_path / "results")).save(tmp_path / "mail" / "page.html")
    assert [f.name for f in (tmp_path / "mail").iterdir()] == ["page.html"]
    text = (tmp_path / "mail" / "page.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"#]', text) == []
    assert str(tmp_path) not in text
    assert "default-src 'none'" in text


def test_the_page_opens_on_the_view_that_was_saved_and_holds_the_same_bytes(foreign, tmp_path):
    view = explorer.show(foreign, layer="33.3 %", embedding="pca")
    view.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    (record,) = json.loads(re.search(r'state\+json">(.*?)</script>', text)[1])["state"].values()
    assert {name: record["state"][name] for name in explorer.VIEW} == {
        name: getattr(view, name) for name in explorer.VIEW
    }
    found = {b["path"][-1]: zlib.decompress(base64.b64decode(b["data"])) for b in record["buffers"]}
    assert found == {**view.parts, "labels": view.labels, "sprite": view.sprite}


def test_only_html_is_written_and_only_where_that_is_possible(foreign, tmp_path):
    view = explorer.show(foreign)
    with pytest.raises(UsageError, match=r"page\.txt; allowed: a file that ends in \.html"):
        view.save(tmp_path / "page.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        view.save(tmp_path / "file" / "page.html")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_an_explorer_without_results_cannot_be_saved(tmp_path):
    with pytest.raises(UsageError, match=r"explorer\.show"):
        explorer.Explorer().save(tmp_path / "page.html")


def test_more_images_than_can_be_numbered_are_refused(foreign):
    with pytest.raises(UsageError, match="at most 32,767 images; given 32768"):
        explorer.show(foreign._replace(labels=np.zeros(32_768, np.int64)))


def test_single_networks_are_said_to_be_no_evidence_about_a_method(foreign, tmp_path):
    text = words(saved(foreign, tmp_path))
    assert "Each network here was trained once." in text
    assert "no evidence about a method" in text
    assert "±" not in text


def test_of_several_seeds_there_is_the_mean_with_its_interval(tmp_path):
    """Values 0.5, 0.6, 0.7: mean 0.6, half an interval t(0.975, 2) 0.1 / sqrt(3)."""
    file = saved(invented.foreign(UNEQUAL, seeds=3), tmp_path)
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    row = next(r for r in cells(file, 1) if r[:2] == ["baseline", "layer1"])
    assert row[2] == f"0.600 ± {half:.3f}"
    assert next(r for r in cells(file, 0) if r[0] == "baseline")[1] == "3"
    text = words(file)
    assert "means over 3 seeds with their 95 % t intervals" in text
    assert "trained once" not in text
    assert 'class="bar"' in file.read_text("utf-8")


def test_a_network_of_one_seed_among_others_of_several_is_named(tmp_path):
    results = invented.foreign(UNEQUAL, seeds=2)
    runs = results.runs[results.runs["run"] != "teacher 1"]
    text = words(saved(results._replace(runs=runs), tmp_path))
    assert "means over 2 seeds" in text
    assert "One seed only: teacher." in text


def test_the_table_has_a_row_for_every_layer_of_every_network(foreign, tmp_path):
    rows = cells(saved(foreign, tmp_path), 1)
    assert [row[:2] for row in rows] == [[n, layer] for n, own in UNEQUAL.items() for layer in own]


def test_curves_stand_at_the_relative_depth_of_their_layers(foreign, tmp_path):
    text = saved(foreign, tmp_path).read_text("utf-8")
    lines = re.findall(r'<polyline [^>]*points="([^"]*)"', text)
    places = [[float(p.split(",")[0]) for p in line.split()] for line in lines[:3]]
    assert [len(xs) for xs in places] == [8, 4, 4]
    assert len({(xs[0], xs[-1]) for xs in places}) == 1
    assert places[1][1] == pytest.approx(places[1][0] + (places[1][3] - places[1][0]) / 3, abs=0.1)
    assert ">relative depth<" in text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.13, 0.92, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.0, 2.0, None),
        (-7.0, 140.0, [-50, 0, 50, 100, 150]),
    ],
)
def test_ticks_are_few_round_and_around_the_values(low, high, ticks):
    made = onefile._ticks(low, high)
    assert 2 <= len(made) <= 7
    assert made[0] <= low <= high <= made[-1]
    assert ticks in (made, None)


def test_what_was_left_out_is_said_with_its_reason(tmp_path):
    results = invented.foreign(UNEQUAL, classes=(), pictured=False)
    study = results.study | {"left_out": {"knn": "needs classes", "probe": "needs classes"}}
    text = words(saved(results._replace(study=study), tmp_path))
    assert "No labels were given" in text
    assert "No images were given" in text
    assert "Left out: k-NN accuracy, Linear probe accuracy: needs classes." in text


def test_results_of_a_study_keep_one_list_of_layers(tmp_path):
    results = invented.make(labels=("2",))
    assert explorer.show(results).meta["aligned"]
    text = saved(results, tmp_path).read_text("utf-8")
    assert ">relative depth<" not in text
    assert ">block2</text>" in text


# ---- in a browser


def test_it_opens_by_a_double_click_and_changes_layers(foreign, tmp_path, read):
    reader = read(saved(foreign, tmp_path))
    before = reader.pixels("left")
    assert reader.ink("left") > 300
    reader.label("Layer").focus()
    reader.press("ArrowRight")
    reader.settle()
    assert (reader.pixels("left") != before).any()


def test_networks_of_one_list_of_layers_have_the_names_on_the_slider(foreign, tmp_path, read):
    reader = read(saved(foreign, tmp_path, left="baseline", right="distilled"))
    assert reader.figure.locator(".kd-ticks button").all_inner_texts()[:4] == UNEQUAL["baseline"]
    assert reader.figure.locator(".kd-walk").first.locator(".kd-ticks button").count() == 4


def test_networks_of_unequal_depth_stand_side_by_side_by_relative_depth(foreign, tmp_path, read):
    reader = read(saved(foreign, tmp_path, left="baseline", right="teacher", layer="0 %"))
    seen = []
    for _ in range(8):
        seen.append([reader.text(f"panel.kd-{side} .kd-layer b") for side in ("left", "right")])
        reader.label("Layer").focus()
        reader.press("ArrowRight")
        reader.settle()
    own = UNEQUAL["baseline"]
    assert [right for _, right in seen] == UNEQUAL["teacher"]
    assert [left for left, _ in seen] == [own[i] for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert "fc left, blocks.7 right" in reader.layer
    assert "blocks.7 of teacher" in reader.canvas("right").get_attribute("aria-label")


def test_a_dot_is_named_at_the_pointer(foreign, tmp_path, read):
    reader = read(saved(foreign, tmp_path))
    reader.canvas("left").focus()
    reader.press("ArrowDown")
    tip = reader.text("tip")
    assert "class cat" in tip
    assert "image 0" in tip
    assert reader.figure.locator(".kd-tip .kd-thumb").count() == 1


def test_names_are_text_whatever_they_hold(tmp_path, read):
    networks = {EVIL_NETWORK: ["a<b>", "</svg>"], "日本語 ネット": ["слой", "طبقة"]}
    results = invented.foreign(networks, classes=(EVIL, "猫", "قطة"))
    study = results.study | {"name": f"{EVIL}", "left_out": {"knn": EVIL}}
    reader = read(saved(results._replace(study=study), tmp_path))
    reader.canvas("left").focus()
    reader.press("ArrowDown")
    assert EVIL in reader.text("tip")
    assert EVIL in reader.text("legend")
    assert "猫" in reader.text("legend")
    assert reader.page.locator("h1").inner_text() == EVIL
    assert EVIL_NETWORK in reader.page.locator("table").first.inner_text()
    assert reader.page.locator("img").count() == 0
    assert reader.page.evaluate("window.hacked") is None


def test_without_labels_dots_are_grey_and_what_needs_classes_is_not_offered(tmp_path, read):
    results = invented.foreign(UNEQUAL, classes=())
    reader = read(saved(results, tmp_path))
    assert reader.ink("left") > 300
    pixels = reader.pixels("left").reshape(-1, 3)
    assert np.ptp(pixels, axis=1).max() < 12
    assert "no classes are known" in reader.text("legend")
    for gone in ("misclassified", "names"):
        assert gone not in reader.text("legend")
    assert "accuracy" not in reader.text("top")
    assert reader.figure.get_by_role("button", name="only").count() == 0
    reader.canvas("left").focus()
    reader.press("ArrowDown")
    assert reader.text("tip").split("\n")[0] == "image 0"
    reader.drag("left", (0.3, 0.3), (0.7, 0.7))
    assert "wrong" not in reader.count()


def test_without_images_there_are_dots_with_numbers(tmp_path, read):
    results = invented.foreign(UNEQUAL, pictured=False)
    reader = read(saved(results, tmp_path))
    reader.canvas("left").focus()
    reader.press("ArrowDown")
    assert "image 0" in reader.text("tip")
    assert reader.figure.locator(".kd-thumb").count() == 0
    reader.drag("left", (0.1, 0.1), (0.9, 0.9))
    assert reader.figure.locator(".kd-item").first.inner_text().startswith("#")


@pytest.mark.parametrize("count", [2, 100, 1000])
def test_the_legend_stays_usable_with_many_classes(tmp_path, read, count):
    names = [f"class {i}" for i in range(count)]
    reader = read(saved(invented.foreign(UNEQUAL, n=1000, classes=names), tmp_path))
    legend = reader.figure.locator(".kd-legend")
    assert legend.bounding_box()["height"] <= 111
    assert legend.locator("button").count() == count
    find = reader.label("Find a class")
    assert find.is_visible() == (count > explorer.MANY)
    if count > explorer.MANY:
        find.fill("CLASS 99")
        shown = legend.locator("button:visible").all_inner_texts()
        assert shown == [name for name in names if "class 99" in name]
        legend.locator("button:visible").first.click(modifiers=["Shift"])
        assert reader.count().startswith(f"{1000 // count} of 1,000")


def test_results_without_measures_still_have_maps(foreign, tmp_path, read):
    results = foreign._replace(measures=foreign.measures.iloc[:0])
    reader = read(saved(results, tmp_path))
    assert reader.ink("right") > 300
    assert reader.figure.locator(".kd-curves").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_and_a_screen_reader_can_read_it(foreign, tmp_path, read, scheme):
    package = pytest.importorskip("axe_playwright_python", reason="no axe-playwright-python")
    reader = read(saved(foreign, tmp_path), scheme=scheme, width=375)
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert reader.page.evaluate("document.documentElement.dataset.theme") == scheme
    reader.page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = reader.page.evaluate(
        "() => axe.run(document, { preload: false, resultTypes: ['violations'] }).then((r) =>"
        " r.violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`))"
    )
    assert found == []


def test_the_theme_can_be_changed(foreign, tmp_path, read):
    reader = read(saved(foreign, tmp_path))
    before = reader.pixels("left")[0, 0]
    reader.page.get_by_role("button", name="light / dark").click()
    assert reader.pixels("left")[0, 0].sum() < before.sum() / 2


# ---- ten thousand images


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """10,000 images, two networks, eight layers of each, two embeddings."""
    networks = {name: [f"{name}.{i}" for i in range(8)] for name in ("baseline", "distilled")}
    results = invented.foreign(networks, n=10_000, classes=[f"class {i}" for i in range(10)])
    smooth = np.linspace(0, 255, 12).astype(np.uint8)  # a photograph is no noise
    images = np.broadcast_to(smooth[:, None, None], results.images.shape)
    return saved(results._replace(images=images), tmp_path_factory.mktemp("large"))


def test_ten_thousand_images_are_a_few_megabytes(large):
    assert large.stat().st_size < 8_000_000


def test_ten_thousand_images_open_in_two_seconds(large, read):
    """Counted is the work, for the machine may be busy."""
    assert 0 < read(large).cpu < 1


def test_ten_thousand_images_travel_at_60_frames_a_second(large, read):
    reader = read(large, motion="no-preference")
    reader.page.evaluate(COUNT)
    before = reader.cpu
    for _ in range(3):
        reader.label("Layer").focus()
        reader.press("ArrowRight")
        reader.page.wait_for_timeout(100)
        reader.settle()
    frames = reader.page.evaluate("painted") / 2
    assert frames >= 6
    assert 0 < (reader.cpu - before) / frames < 1 / 60


def test_a_sheet_of_many_images_stays_below_what_browsers_draw():
    images = np.zeros((32_767, 1, 1, 1), np.uint8)
    w, h, columns = explorer._tile(np.broadcast_to(images, (32_767, 64, 64, 3)))
    rows = -(-32_767 // columns)
    assert max(w * columns, h * rows) < 16_384
    assert pd.Series([w, h]).eq(32).all()
