"""Procedures of mapping: all are there, measured as by hand; supervision misleads."""

import numpy as np
import pytest

from kdlib import embed
from kdlib.embed import compare
from kdlib.measure import comparison
from kdlib.measure.faithfulness import faithfulness, map_knn
from kdlib.neighbours import ranks

NETWORKS = ("baseline", "kd")
LAYERS = ("block1", "block2")
STEPS = 1  # IVIS runs 20 epochs at least


@pytest.fixture(scope="module")
def labels():
    return np.arange(60) % 3


@pytest.fixture(scope="module")
def features(labels):
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(3, 5))
    return {
        (network, layer): centres[labels] + rng.normal(size=(60, 5))
        for network in ("teacher", *NETWORKS)
        for layer in LAYERS
    }


@pytest.fixture(scope="module")
def maps(features):
    return compare.procedures(features, NETWORKS, steps=STEPS)


def test_every_procedure_maps_both_networks(features, maps):
    assert list(maps) == list(compare.PROCEDURES)
    for made in maps.values():
        assert set(made) >= {cell for cell in features if cell[0] in NETWORKS}
    pair = {cell: x for cell, x in features.items() if cell[0] in NETWORKS}
    single = embed.embed(pair["kd", "block2"], perplexity=15)
    np.testing.assert_array_equal(maps["own start"]["kd", "block2"], single)
    together = embed.family(features, perplexity=15).maps
    np.testing.assert_array_equal(maps["coupled"]["kd", "block2"], together["kd", "block2"])


def test_a_comparison_holds_the_measures_of_every_map_and_the_movement(features, labels, maps):
    rows = comparison.measures(features, labels, maps, NETWORKS)
    table = {row[:4]: row[4] for row in rows}
    assert len(table) == len(rows) == 4 + 7 * (4 * 5 + 2 * 2)
    x = features["kd", "block1"]
    space = table["original space", "kd", "block1", "map_knn"]
    assert space == map_knn(ranks(x), labels)
    values = faithfulness(x, maps["ivis"]["kd", "block1"], labels)
    for measure, value in values.items():
        assert table["ivis", "kd", "block1", measure] == value
    a, b = (maps["pca"][network, "block2"] for network in NETWORKS)
    for measure, turned in (("displacement", False), ("displacement_turned", True)):
        moved = table["pca", "kd", "block2", measure]
        assert moved == embed.displacement(a, b, turned=turned).mean()


def test_a_sweep_has_every_setting_that_fits_and_turns_maps_to_the_first(features, labels):
    layers = {network: features[network, "block1"] for network in NETWORKS}
    grid = {"perplexities": [5, 40], "ks": [4, 30], "seeds": [0, 1]}  # 40 and 30: too many for 60
    maps = compare.sweep(layers, **grid, steps=STEPS)
    expected = [("tsne", 5, seed, run) for seed in (0, 1) for run in NETWORKS]
    expected += [("ivis", 4, seed, run) for seed in (0, 1) for run in NETWORKS]
    expected += [(compare.PACKAGE, 4, seed, "kd") for seed in (0, 1)]
    assert [one[:4] for one in maps] == expected
    table = comparison.sweep_measures(layers, labels, maps)
    rows = table.groupby(["embedding", "setting", "seed", "run"], sort=False)
    assert list(rows.groups) == expected
    for one in maps:
        values = faithfulness(layers[one.run], one.points, labels)
        assert set(rows.get_group(one[:4])["trustworthiness"]) == {values["trustworthiness"]}
        assert rows.get_group(one[:4])["image"].tolist() == list(range(60))
    first, again = (
        rows.get_group(("tsne", 5, seed, "kd"))[["x", "y"]].to_numpy() for seed in (0, 1)
    )
    np.testing.assert_allclose(first, embed.align(maps[1].points[None])[0], atol=1e-6)
    turned = embed.displacement(first, again).mean()
    assert embed.displacement(first, again, turned=False).mean() == pytest.approx(turned, rel=1e-3)
    ours, package = (
        rows.get_group((engine, 4, 0, "kd"))[["x", "y"]].to_numpy()
        for engine in ("ivis", compare.PACKAGE)
    )
    turned = embed.displacement(ours, package).mean()
    assert embed.displacement(ours, package, turned=False).mean() == pytest.approx(turned, rel=1e-3)


def test_a_sweep_without_a_k_that_fits_has_no_maps_by_ivis(features):
    layers = {network: features[network, "block1"] for network in NETWORKS}
    maps = compare.sweep(layers, perplexities=[5], ks=[30], seeds=[0], steps=STEPS)
    assert {one.embedding for one in maps} == {"tsne"}


def test_the_first_images_of_each_class_are_as_many_of_all():
    labels = np.array([2, 2, 0, 1, 2, 0, 1, 1, 0])
    assert compare.first_of_each_class(labels, 6).tolist() == [0, 1, 2, 3, 5, 6]
    assert compare.first_of_each_class(labels, 4).tolist() == [0, 1, 2, 3, 5, 6]
    in_order = np.repeat([0, 1, 2], 50)  # as an archive's images come, class by class
    assert compare.first_of_each_class(in_order, 6).tolist() == [0, 1, 50, 51, 100, 101]


def test_supervised_ivis_shows_even_shuffled_labels():
    x = np.random.default_rng(0).normal(size=(40, 20))
    labels = np.arange(40) % 4
    shuffled, maps = compare.shuffled_labels(x, labels, seed=0, steps=200)
    assert sorted(shuffled) == sorted(labels)
    assert shuffled.tolist() != labels.tolist()
    values = comparison.accuracies(maps, shuffled)
    assert values["shuffled"] > 0.8
    assert values["unsupervised"] < 0.5
