import io
import json

import numpy as np
import pandas as pd
import pytest
import results as invented
from PIL import Image

from kdlib import UsageError
from kdlib.embed import TITLES
from kdlib.report.explorer import (
    COLUMNS,
    MISSING,
    UNKNOWN,
    VIEW,
    Explorer,
    mapped,
    quantise,
    show,
    sprite,
)

BASELINE = "students/resnet20-full/resnet8x0.5-baseline-2-0"
KD = "students/resnet20-full/resnet8x0.5-kd-2-0"


@pytest.fixture(scope="module")
def results():
    return invented.make()


def unpacked(view, run):
    """The facts of a network's part, and its arrays by name."""
    part, meta = view.parts[run], view.meta
    head = int.from_bytes(part[:4], "little")
    facts, at, arrays = json.loads(part[4 : 4 + head]), 4 + head, {}
    n, layers, embeddings = meta["n"], len(meta["layers"]), len(meta["embeddings"])
    shapes = {
        "coordinates": (embeddings, layers, n, 2),
        "neighbours": (-1, layers, n, 10),
        "predictions": (n,),
        "frames": (-1, n, 2),
        "guesses": (-1, n),
        "errors": (-1, embeddings, layers, n),
    }
    for (name, shape), size in zip(shapes.items(), facts["sizes"], strict=True):
        kind = np.uint8 if name == "errors" else "<i2"
        array = np.frombuffer(part[at : at + size], kind)
        arrays[name] = array.reshape(shape) if array.size else array
        at += size
    assert at == len(part)
    return facts, arrays


@pytest.fixture(scope="module")
def view(results):
    """An explorer as it opens; no test changes it."""
    return show(results)


def test_it_opens_on_the_fewest_labels_baseline_and_distilled(view):
    assert (view.left, view.right) == (BASELINE, KD)
    assert (view.layer, view.embedding, view.measure) == ("block2", "tsne", "knn")
    assert (view.selected, view.hidden) == ([], [])
    assert (view.shade, view.epoch, view.names, view.brush) == ("class", -1, True, "box")
    assert (view.together, view.align, view.regions, view.overview) == (True, False, False, False)


def test_the_partner_of_a_chosen_network_has_its_labels_and_seed(results):
    assert show(results, left=BASELINE.replace("-2-", "-all-")).right == KD.replace("-2-", "-all-")


def test_a_view_can_be_asked_for(results):
    choices = {
        **{"left": KD, "right": BASELINE, "layer": "pool", "embedding": "ivis", "measure": "probe"},
        **{"shade": "change", "epoch": -1, "selected": [3, 5], "hidden": [0, 9]},
        **{"names": False, "brush": "move", "together": False, "align": True},
        **{"regions": True, "overview": True},
    }
    view = show(results, **choices)
    assert list(choices) == VIEW
    assert {name: getattr(view, name) for name in VIEW} == choices


def test_the_whole_view_is_synced_and_shared_by_links(view):
    assert set(VIEW) <= set(view.trait_names(sync=True))
    assert view.meta["share"] == VIEW


def test_the_default_view_is_sent_so_that_a_line_of_python_holds_only_the_rest(results):
    view = show(results, left=KD, layer="pool", selected=[3])
    plain = show(results)
    assert view.meta["defaults"] == {name: getattr(plain, name) for name in VIEW}
    assert view.meta["study"] == "book/results/invented"


def test_traits_can_be_set_and_observed(results):
    view, values = show(results), []
    view.observe(lambda change: values.append(change["new"]), ["layer", "right", "selected"])
    view.layer = "logits"
    view.right = "teachers/resnet20-full-0"
    view.selected = [0, 7]
    assert values == ["logits", "teachers/resnet20-full-0", [0, 7]]


@pytest.mark.parametrize(
    ("trait", "value", "allowed"),
    [
        ("layer", "block9", "stem, block1, block2"),
        ("embedding", "umap", "tsne, ivis"),
        ("measure", "beauty", "within_share, silhouette, knn, probe"),
        ("shade", "beauty", "class, error, change"),
        ("epoch", 7, "-1, 0, 1, 3, 8"),
        ("brush", "knife", "box, lasso, move"),
        ("hidden", [10], "0 to 9"),
        ("left", "nobody", BASELINE),
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
        show(results, **{trait: value})


def test_an_unknown_option_is_refused(results):
    with pytest.raises(UsageError, match=r"'colour'; .*left, "):
        show(results, colour="red")


def test_a_refused_value_from_the_page_is_taken_back(view):
    with pytest.raises(UsageError):
        view.set_state({"layer": "block9"})
    assert view.layer == "block2"


@pytest.mark.parametrize("lost", ["runs", "labels", "layers", "embeddings"])
def test_results_that_lack_what_maps_are_of_are_refused(results, lost):
    without = (
        results._replace(**{lost: getattr(results, lost)[:0]})
        if lost in results._fields
        else results._replace(study=results.study | {lost: []})
    )
    with pytest.raises(UsageError, match="hold no maps"):
        show(without)


def test_results_without_maps_are_refused(results):
    with pytest.raises(UsageError, match="hold no maps"):
        show(results._replace(maps=results.maps.iloc[:0]))


def test_networks_have_names_that_people_read(view):
    networks = {network["run"]: network for network in view.meta["networks"]}
    assert networks[KD]["name"] == "KD, 2 labels per class, seed 0"
    assert networks[BASELINE]["name"] == "baseline (no teacher), 2 labels per class, seed 0"
    assert networks["teachers/resnet20-full-0"]["name"] == "teacher, all labels, seed 0"
    assert networks[KD]["group"] == "student resnet8x0.5 of resnet20 (full)"
    assert [networks[run]["kind"] for run in (BASELINE, KD)] == ["baseline", "distilled"]


def changed(results, run=KD, **columns):
    """The network that the explorer makes of KD under another name and with other facts."""
    tables = {name: getattr(results, name).replace(KD, run) for name in ("maps", "predictions")}
    runs = results.runs.replace(KD, run)
    for name, value in columns.items():
        runs.loc[runs["run"] == run, name] = value
    view = show(results._replace(runs=runs, **tables))
    return next(network for network in view.meta["networks"] if network["run"] == run)


def test_networks_that_differ_in_labels_and_seed_alone_are_one_family(results):
    networks = [n for n in show(results).meta["networks"] if n["short"] == "kd"]
    assert {network["labels"] for network in networks} == {
        *("2 labels per class", "5 labels per class", "all labels")
    }
    (family,) = {network["family"] for network in networks}
    third = changed(results, KD[:-1] + "3", seed=3)
    assert (third["family"], third["seed"]) == (family, "seed 3")
    for facts in (
        {"regime": "limited"},
        {"weights": "simclr"},
        {"options": "temperature=2"},
        {"unlabelled": False},
    ):
        assert changed(results, **facts)["family"] != family


def test_a_network_is_named_by_its_method_its_options_and_its_teacher(results):
    other = changed(results, labels="5", regime="limited", options="temperature=2")
    assert (other["short"], other["labels"]) == ("kd temperature=2", "5 labels per class")
    assert other["group"] == "student resnet8x0.5 of resnet20 (limited)"
    control = changed(results, method="pseudo")
    assert control["group"] == "student resnet8x0.5 of resnet20 (full), controls"


def test_what_a_network_is_does_not_depend_on_the_name_of_its_run(results):
    facts = changed(results)
    other = changed(results, "students/any/name-at-all")
    assert {**other, "run": ""} == {**facts, "run": ""}


def test_embeddings_have_the_titles_of_their_family(results):
    maps = results.maps.replace({"embedding": {"ivis": "pacmap"}})
    study = {**results.study, "embeddings": ["tsne", "pacmap"]}
    view = show(results._replace(maps=maps, study=study))
    assert [(e["key"], e["name"]) for e in view.meta["embeddings"]] == [
        ("tsne", TITLES["tsne"]),
        ("pacmap", TITLES["pacmap"]),
    ]


def test_networks_come_in_the_order_teacher_budget_method(results):
    table = mapped(results)
    assert table["role"].iloc[0] == "teacher"
    assert list(table["labels"].iloc[1:]) == ["2"] * 3 + ["5"] * 3 + ["all"] * 3
    assert list(table["method"].iloc[1:4]) == ["baseline", "kd", "at"]


def test_every_point_is_where_the_store_has_it(results, view):
    points = unpacked(view, KD)[1]["coordinates"][1, 3]
    stored = results.maps.query("run == @KD and embedding == 'ivis' and layer == 'block3'")
    stored = stored.sort_values("image")[["x", "y"]].to_numpy()
    assert np.corrcoef(stored[:, 0], points[:, 0])[0, 1] > 0.999999
    assert np.corrcoef(stored[:, 1], points[:, 1])[0, 1] > 0.999999


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
    view = show(results._replace(maps=maps), embedding="ivis")
    assert view.right == KD


def test_predictions_follow_the_networks(results, view):
    assert list(view.parts) == [network["run"] for network in view.meta["networks"]]
    stored = results.predictions.query("run == @KD").sort_values("image")["prediction"]
    assert (unpacked(view, KD)[1]["predictions"] == stored.to_numpy()).all()


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
    curve = unpacked(view, KD)[0]["curves"]["knn"]
    stored = results.measures.query("measure == 'knn' and layer == 'pool'")
    seeds = stored[stored["run"].str.contains("-kd-2-")]["value"]
    assert curve["seeds"] == 3
    assert curve["low"][4] == pytest.approx(seeds.min(), abs=1e-4)
    assert curve["high"][4] == pytest.approx(seeds.max(), abs=1e-4)
    everywhere = results.measures.query("measure == 'knn'")["value"]
    low, high = view.meta["ranges"]["knn"]
    assert low <= everywhere.min() + 1e-4
    assert high >= everywhere.max() - 1e-4


def test_faithfulness_belongs_to_the_map_shown(results, view):
    values = unpacked(view, KD)[0]["faithfulness"][0][2]["trustworthiness"]
    stored = results.faithfulness.query(
        "run == @KD and embedding == 'tsne' and layer == 'block2' and measure == 'trustworthiness'"
    )["value"].item()
    assert values == pytest.approx(stored, abs=1e-4)


def test_five_thousand_images_stay_small():
    n, runs, views = 5000, 4, 12
    assert quantise(np.zeros((runs, views, n, 2))).nbytes <= 1_000_000
    images = np.random.default_rng(0).integers(0, 17, (n, 8, 8, 1)).astype(np.uint8) * 15
    assert len(sprite(images)) <= 250_000


def test_what_a_page_holds_before_a_network_is_chosen_hardly_grows_with_their_number(results):
    few = results._replace(maps=results.maps[results.maps["run"].isin([BASELINE, KD])])
    small, large = (json.dumps(show(r).meta) for r in (few, results))
    networks = len(json.loads(large)["networks"]) - 2
    assert networks >= 8
    assert len(large) - len(small) < 500 * networks


def test_an_explorer_without_data_can_be_made():
    assert Explorer().layer == ""


def test_errors_belong_to_the_dots_of_their_map(results, view):
    table = unpacked(view, KD)[1]["errors"][0]
    stored = results.maps.query("run == @KD and embedding == 'ivis' and layer == 'block3'")
    stored = stored.sort_values("image")["error"].to_numpy()
    assert stored.max() > 0.1
    np.testing.assert_allclose(table[1, 3] / 254, stored, atol=1 / 500)


def test_what_was_not_measured_is_unknown_and_without_errors_there_is_no_choice(results):
    unknown = results.maps.assign(error=results.maps["error"].where(results.maps["run"] != KD))
    some = show(results._replace(maps=unknown))
    assert (unpacked(some, KD)[1]["errors"] == UNKNOWN).all()
    assert (unpacked(some, BASELINE)[1]["errors"] != UNKNOWN).all()
    none = show(results._replace(maps=results.maps.drop(columns="error")))
    assert unpacked(none, KD)[1]["errors"].size == 0
    assert none.meta["shades"] == ["class", "change"]
    with pytest.raises(UsageError, match=r"'error'; .*class, change"):
        none.shade = "error"


def test_neighbours_are_those_of_the_layer_and_missing_where_there_are_none(results):
    rows = results.neighbours.query("not (run == @KD and layer == 'pool')")
    view = show(results._replace(neighbours=rows))
    near = unpacked(view, KD)[1]["neighbours"][0]
    stored = rows.query("run == @KD and layer == 'block3' and image == 7").sort_values("rank")
    assert (near[3, 7] == stored["neighbour"].to_numpy()).all()
    assert (near[4] == MISSING).all()


def test_without_neighbours_there_is_no_shade_of_change(results):
    view = show(results._replace(neighbours=results.neighbours.iloc[:0]))
    assert unpacked(view, KD)[1]["neighbours"].size == 0
    assert view.meta["shades"] == ["class", "error"]
    with pytest.raises(UsageError, match=r"'change'; .*class, error"):
        view.shade = "change"


def test_the_film_holds_its_frames_in_the_order_of_reels_and_epochs(results):
    image = np.arange(len(results.images))
    frames = [
        pd.DataFrame(
            {"run": run, "epoch": e, "layer": layer, "image": image, "x": e * image, "y": 0}
        ).assign(prediction=(image + e) % 10 if run == BASELINE else np.nan)
        for run, layer, epochs in ((BASELINE, "block2", (5, 0)), (KD, "pool", (1,)))
        for e in epochs
    ]
    film = pd.concat([*frames, frames[0].assign(run="without maps")], ignore_index=True)
    film = film[(film["epoch"] > 0) | (film["image"] != 3)]
    training = pd.DataFrame(
        [(BASELINE, 5, "block2", "knn", 0.5), (BASELINE, 0, "stem", "knn", 0.1)],
        columns=results.training.columns,
    )
    view = show(results._replace(film=film, training=training), epoch=5)
    assert view.meta["film"] == [
        {"run": BASELINE, "layer": "block2", "epochs": [0, 5]},
        {"run": KD, "layer": "pool", "epochs": [1]},
    ]
    facts, arrays = unpacked(view, BASELINE)
    assert [reel["values"] for reel in facts["film"]] == [{"knn": [None, 0.5]}]
    assert len(arrays["frames"]) == 2
    assert (arrays["frames"][0, 3] == MISSING).all()
    assert (np.delete(arrays["frames"][0], 3, axis=0) == 0).all()
    assert (arrays["frames"][1, 0, 0], arrays["frames"][1, -1, 0]) == (-32767, 32767)
    expected = (image + np.array([[0], [5]])) % 10
    expected[0, 3] = MISSING
    assert (arrays["guesses"] == expected).all()
    assert (unpacked(view, KD)[1]["guesses"] == MISSING).all()
    assert unpacked(view, KD)[0]["film"][0]["values"] == {}
    assert unpacked(view, "teachers/resnet20-full-0")[1]["frames"].size == 0
    view.epoch = 1
    with pytest.raises(UsageError, match="unknown epoch 2; one of: -1, 0, 1, 5"):
        view.epoch = 2
