import io

import numpy as np
import pytest
import results as invented
from PIL import Image

from kdlib import UsageError
from kdlib.widgets import COLUMNS, MISSING, UNKNOWN, Explorer, explorer, mapped, quantise, sprite

ALONE = "students/resnet20-full/resnet8x0.5-alone-2-0"
KD = "students/resnet20-full/resnet8x0.5-kd-2-0"


@pytest.fixture(scope="module")
def results():
    return invented.make()


@pytest.fixture
def view(results):
    return explorer(results)


def test_it_opens_on_the_fewest_labels_alone_and_distilled(view):
    assert (view.left, view.right) == (ALONE, KD)
    assert (view.layer, view.embedding, view.measure) == ("block2", "tsne", "knn")
    assert view.selected == []


def test_the_partner_of_a_chosen_network_has_its_labels_and_seed(results):
    assert explorer(results, left=ALONE.replace("-2-", "-all-")).right == KD.replace("-2-", "-all-")


def test_a_view_can_be_asked_for(results):
    view = explorer(results, left=KD, right=ALONE, layer="pool", embedding="ivis", selected=[3, 5])
    assert (view.left, view.right, view.layer, view.embedding) == (KD, ALONE, "pool", "ivis")
    assert view.selected == [3, 5]


def test_traits_can_be_set_and_observed(view):
    seen = []
    view.observe(lambda change: seen.append(change["new"]), ["layer", "right", "selected"])
    view.layer = "logits"
    view.right = "teachers/resnet20-full-0"
    view.selected = [0, 7]
    assert seen == ["logits", "teachers/resnet20-full-0", [0, 7]]


@pytest.mark.parametrize(
    ("trait", "value", "allowed"),
    [
        ("layer", "block9", "stem, block1, block2"),
        ("embedding", "umap", "tsne, ivis"),
        ("measure", "beauty", "within_share, silhouette, knn, probe"),
        ("shade", "beauty", "class, error"),
        ("left", "nobody", ALONE),
        ("right", "nobody", KD),
        ("selected", [1, 120], "0 to 119"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_changes_nothing(
    view, results, trait, value, allowed
):
    before = getattr(view, trait)
    with pytest.raises(UsageError, match="one of") as refusal:
        setattr(view, trait, value)
    assert allowed in str(refusal.value)
    assert getattr(view, trait) == before
    with pytest.raises(UsageError, match=allowed):
        explorer(results, **{trait: value})


def test_an_unknown_option_is_refused(results):
    with pytest.raises(UsageError, match="unknown view option 'colour'; one of: selected"):
        explorer(results, colour="red")


def test_a_refused_value_from_the_page_is_taken_back(view):
    with pytest.raises(UsageError):
        view.set_state({"layer": "block9"})
    assert view.layer == "block2"


def test_results_without_maps_are_refused(results):
    with pytest.raises(UsageError, match="hold no maps"):
        explorer(results._replace(maps=results.maps.iloc[:0]))


def test_networks_have_names_that_people_read(view):
    networks = {network["run"]: network for network in view.meta["networks"]}
    assert networks[KD]["name"] == "kd, 2 labels per class, seed 0"
    assert networks["teachers/resnet20-full-0"]["name"] == "teacher, all labels, seed 0"
    assert networks[KD]["group"] == "student resnet8x0.5"
    assert [networks[run]["kind"] for run in (ALONE, KD)] == ["alone", "distilled"]


def test_networks_come_in_the_order_teacher_budget_method(results):
    table = mapped(results)
    assert table["role"].iloc[0] == "teacher"
    assert list(table["labels"].iloc[1:]) == ["2"] * 3 + ["5"] * 3 + ["all"] * 3
    assert list(table["method"].iloc[1:4]) == ["alone", "kd", "at"]


def test_every_point_is_where_the_store_has_it(results, view):
    networks = [network["run"] for network in view.meta["networks"]]
    shape = (len(networks), 2, 6, len(results.images), 2)
    points = np.frombuffer(view.coordinates, "<i2").reshape(shape)
    run, embedding, layer = networks.index(KD), 1, 3
    stored = results.maps.query("run == @KD and embedding == 'ivis' and layer == 'block3'")
    stored = stored.sort_values("image")[["x", "y"]].to_numpy()
    assert np.corrcoef(stored[:, 0], points[run, embedding, layer, :, 0])[0, 1] > 0.999999
    assert np.corrcoef(stored[:, 1], points[run, embedding, layer, :, 1])[0, 1] > 0.999999


def test_quantising_errs_by_half_a_step_at_most():
    points = np.random.default_rng(0).normal(size=(3, 500, 2)) * [[[1, 5]]] + 100
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    side = (high - low).max(axis=2, keepdims=True)
    back = quantise(points) / 32767 * side / 2 + (low + high) / 2
    assert np.abs(back - points).max() <= (side / 65534 / 2).max() * 1.000001
    assert np.abs(quantise(points)).max() == 32767


def test_points_that_are_not_numbers_or_all_the_same_do_no_harm():
    points = np.ones((3, 4, 2))
    points[1, 2, 0] = np.nan
    points[2] = np.inf
    whole = quantise(points)
    assert (whole[0] == 0).all()
    assert (whole[1, 2] == MISSING).all()
    assert (whole[2] == MISSING).all()


def test_a_network_without_one_of_the_maps_still_shows(results):
    maps = results.maps.query("not (run == @KD and embedding == 'ivis')")
    view = explorer(results._replace(maps=maps), embedding="ivis")
    assert view.right == KD


def test_predictions_follow_the_networks(results, view):
    table = np.frombuffer(view.predictions, "<i2").reshape(-1, len(results.images))
    networks = [network["run"] for network in view.meta["networks"]]
    stored = results.predictions.query("run == @KD").sort_values("image")["prediction"]
    assert (table[networks.index(KD)] == stored.to_numpy()).all()


def test_the_sprite_holds_every_image_in_its_place(results, view):
    sheet = Image.open(io.BytesIO(view.sprite))
    w, h, columns = view.meta["tile"]
    assert sheet.size == (w * columns, h * -(-len(results.images) // columns))
    x, y = 41 % columns * w, 41 // columns * h
    tile = np.asarray(sheet.convert("L"))[y : y + h, x : x + w]
    assert (tile == results.images[41, :, :, 0]).all()


def test_the_sprite_takes_colour_and_shrinks_large_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 64, 3)).astype(np.uint8)
    assert Image.open(io.BytesIO(sprite(images))).size == (32 * COLUMNS, 48)


def test_curves_carry_the_range_over_seeds(results, view):
    networks = [network["run"] for network in view.meta["networks"]]
    curve = view.meta["curves"]["knn"][networks.index(KD)]
    stored = results.measures.query("measure == 'knn' and layer == 'pool'")
    seeds = stored[stored["run"].str.contains("-kd-2-")]["value"]
    assert curve["seeds"] == 3
    assert curve["low"][4] == pytest.approx(seeds.min(), abs=1e-4)
    assert curve["high"][4] == pytest.approx(seeds.max(), abs=1e-4)


def test_faithfulness_belongs_to_the_map_shown(results, view):
    networks = [network["run"] for network in view.meta["networks"]]
    shown = view.meta["faithfulness"][networks.index(KD)][0][2]["trustworthiness"]
    stored = results.faithfulness.query(
        "run == @KD and embedding == 'tsne' and layer == 'block2' and measure == 'trustworthiness'"
    )["value"].item()
    assert shown == pytest.approx(stored, abs=1e-4)


def test_five_thousand_images_stay_small():
    n, runs, views = 5000, 4, 12
    assert quantise(np.zeros((runs, views, n, 2))).nbytes <= 1_000_000
    images = np.random.default_rng(0).integers(0, 17, (n, 8, 8, 1)).astype(np.uint8) * 15
    assert len(sprite(images)) <= 250_000


def test_an_explorer_without_data_can_be_made():
    assert Explorer().layer == ""


def test_errors_belong_to_the_dots_of_their_map(results, view):
    networks = [network["run"] for network in view.meta["networks"]]
    table = np.frombuffer(view.errors, np.uint8).reshape(len(networks), 2, 6, len(results.images))
    stored = results.maps.query("run == @KD and embedding == 'ivis' and layer == 'block3'")
    stored = stored.sort_values("image")["error"].to_numpy()
    assert stored.max() > 0.1
    np.testing.assert_allclose(table[networks.index(KD), 1, 3] / 254, stored, atol=1 / 500)


def test_what_was_not_measured_is_unknown_and_without_errors_there_is_no_choice(results):
    unknown = results.maps.assign(error=results.maps["error"].where(results.maps["run"] != KD))
    some = explorer(results._replace(maps=unknown))
    assert (np.frombuffer(some.errors, np.uint8) == UNKNOWN).sum() == 2 * 6 * len(results.images)
    none = explorer(results._replace(maps=results.maps.drop(columns="error")))
    assert (none.errors, none.meta["shades"]) == (b"", ["class"])
    with pytest.raises(UsageError, match="unknown shade 'error'; one of: class"):
        none.shade = "error"
