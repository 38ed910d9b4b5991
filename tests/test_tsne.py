"""Families of maps: they compare, stay faithful, and no map borrows what its layer lacks."""

import re
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from kdlib import UsageError, embed
from kdlib.embed.prepare import prepare
from kdlib.embed.tsne import exact, pulled, repulsion
from kdlib.measure.faithfulness import faithfulness

LAYERS = ("early", "middle", "late")
CELLS = [(network, layer) for network in ("baseline", "kd") for layer in LAYERS]
QUICK = {"perplexity": 5, "iterations": 30}


def invented(n=150, seed=0):
    """Two networks' features of the same images, with classes further apart in later layers."""
    rng = np.random.default_rng(seed)
    labels, centres = np.arange(n) % 6, rng.normal(size=(6, 8))
    own = 2 * rng.normal(size=(n, 3)) @ np.linalg.qr(rng.normal(size=(8, 3)))[0].T
    features = {}
    for network, layer in CELLS:
        order = 0.5 * 2 ** LAYERS.index(layer) + (0.2 if network == "kd" else 0)
        mixed = own + order * centres[labels] + 0.2 * rng.normal(size=(n, 8))
        features[network, layer] = np.maximum(mixed @ rng.normal(size=(8, 24)), 0)
    return features, labels


class Maps(NamedTuple):
    features: dict
    labels: np.ndarray
    baseline: dict  # maps: each for itself
    again: list  # restarted, uncoupled
    together: embed.Family
    measures: list  # of the coupled maps, and of each independent set


@pytest.fixture(scope="module")
def pairs():
    """Three such pairs of networks: what one pair of maps shows is mostly chance."""
    return [draw(*invented(seed=seed)) for seed in range(3)]


def draw(features, labels):
    """Features, labels, and their maps."""
    fractions = []
    options = {"perplexity": 20, "iterations": 100}
    settings = {**options, "workers": 2, "progress": fractions.append}
    baseline = {key: embed.embed(x, **options) for key, x in features.items()}
    again = embed.restarts(features, **settings)
    end = len(fractions)
    together = embed.family(features, **settings)
    for part in (fractions[:end], fractions[end:]):
        assert part == sorted(part)
        assert part[-1] == 1
    measures = [
        {cell: faithfulness(features[cell], points, labels) for cell, points in maps.items()}
        for maps in (together.maps, baseline, *again)
    ]
    return Maps(features, labels, baseline, again, together, measures)


@pytest.fixture(scope="module")
def few():
    features, _ = invented(60)
    return features


def movement(maps):
    """Mean displacement from the one network to the other, as the maps lie."""
    return np.mean(
        [embed.displacement(maps["baseline", x], maps["kd", x], turned=False) for x in LAYERS]
    )


def gained(pairs, measure, layers=LAYERS):
    """By how much coupled maps are above the mean of four independent ones, in some layers."""
    cells = [cell for cell in CELLS if cell[1] in layers]
    means = [
        [np.mean([values[cell][measure] for cell in cells]) for values in pair.measures]
        for pair in pairs
    ]
    return np.mean([coupled - np.mean(independent) for coupled, *independent in means])


def test_coupling_takes_away_what_moves_between_two_networks(pairs):
    assert {pair.together.coupling for pair in pairs} == {0.1}
    movement_coupled = np.mean([movement(pair.together.maps) for pair in pairs])
    assert movement_coupled < 0.6 * np.mean([movement(pair.baseline) for pair in pairs])
    # a shared start by itself does less
    assert movement_coupled < 0.85 * np.mean([movement(pair.again[0]) for pair in pairs])


def test_coupled_maps_are_as_faithful_as_independent_ones(pairs):
    assert gained(pairs, "trustworthiness") > -0.005
    assert gained(pairs, "neighbours_kept") > -0.005


def test_no_layer_borrows_its_classes_from_another(pairs):
    for layer in LAYERS:
        assert gained(pairs, "map_knn", [layer]) < 0.02
    # what would fail: the late layer's map for the early layer
    pair = pairs[0]
    late = faithfulness(pair.features["kd", "early"], pair.baseline["kd", "late"], pair.labels)
    early = [pair.measures[0][network, "early"]["map_knn"] for network in ("baseline", "kd")]
    assert late["map_knn"] > np.mean(early) + 0.2


def test_the_noise_floor_is_high_where_a_layer_has_no_structure():
    rng = np.random.default_rng(0)
    sheet = rng.uniform(size=(150, 2)) @ rng.normal(size=(2, 8))
    layers = {("kd", "noise"): rng.normal(size=(150, 30)), ("kd", "sheet"): sheet}
    again = embed.restarts(layers, perplexity=20, workers=2)
    floor = embed.noise_floor(again)
    assert floor["kd", "noise"] > 0.5  # above which what moves means nothing
    assert floor["kd", "sheet"] < 0.5
    moved = [
        embed.displacement(again[i]["kd", "noise"], again[j]["kd", "noise"]).mean()
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert floor["kd", "noise"] == pytest.approx(np.mean(moved))


def test_the_floor_of_pca_is_zero(few):
    floor = embed.noise_floor(embed.restarts(few, "pca"))
    np.testing.assert_allclose(list(floor.values()), 0, atol=1e-6)


def test_a_pull_is_the_formula_and_changes_no_radius_by_itself():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(30, 2)) * scale + 4 for scale in (1, 50, 7)]
    moved = pulled(maps, [[1], [0], []], 0.3)
    radius = [np.sqrt(((m - m.mean(0)) ** 2).sum(1).mean()) for m in maps]
    same = [(m - m.mean(0)) / r for m, r in zip(maps, radius, strict=True)]
    np.testing.assert_allclose(moved[0], (0.7 * same[0] + 0.3 * same[1]) * radius[0])
    np.testing.assert_allclose(moved[1], (0.7 * same[1] + 0.3 * same[0]) * radius[1])
    np.testing.assert_allclose(moved[2], same[2] * radius[2])


def test_a_cell_is_pulled_by_the_next_layers_and_the_other_networks(monkeypatch):
    rng = np.random.default_rng(0)
    names = ("teacher", "baseline", "kd")
    layers = {(network, layer): rng.normal(size=(20, 4)) for network in names for layer in LAYERS}
    layers["kd", "late"] = layers["kd", "middle"]
    received = {}

    def function(layers, adjacent, **settings):
        received["adjacent"] = adjacent
        return [layer[:, :2] for layer in layers]

    embedder = replace(embed.EMBEDDERS["tsne"], function=function)
    monkeypatch.setitem(embed.EMBEDDERS, "tsne", embedder)
    embed.family(layers)
    adjacent = received["adjacent"]
    assert adjacent[0] == [1, 3, 6]  # teacher early: its middle, early of baseline and kd
    assert adjacent[4] == [1, 3, 5, 7]
    assert adjacent[7] == [1, 2, 4, 5, 6]  # kd middle stands for kd late, too


def test_the_same_bits_for_any_number_of_workers(few):
    one, two = (embed.family(few, workers=workers, **QUICK).maps for workers in (1, 2))
    assert list(one) == list(two) == CELLS
    for key in CELLS:
        assert (one[key] == two[key]).all()
        assert one[key].dtype == np.float32


def test_uncoupled_maps_are_those_of_one_layer_turned_to_the_start(few):
    family = embed.family(few, coupling=0, **QUICK)
    assert family.coupling == 0
    assert family.engine.startswith("openTSNE ")
    start = embed.shared_start([prepare(x) for x in few.values()])
    single = [embed.embed(x, start=start, **QUICK) for x in few.values()]
    expected = embed.align(np.stack(single), start)
    np.testing.assert_allclose(np.stack(list(family.maps.values())), expected, atol=1e-5)


def test_the_strength_follows_the_shape_of_the_family(few):
    chain = {key: x for key, x in few.items() if key[0] == "kd"}
    assert embed.family(chain, **QUICK).coupling == 0.2
    assert embed.family(few, **QUICK).coupling == 0.1
    assert embed.family(few, "pca").coupling == 0
    with pytest.raises(UsageError, match=r"'pca' .*coupling.* 0; .*0.1"):
        embed.family(few, "pca", coupling=0.1)
    for wrong in (-0.1, 0.6, float("nan")):
        with pytest.raises(UsageError, match=r"coupling .* 0 .* 0.5"):
            embed.family(few, coupling=wrong)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_equal_layers_are_drawn_once_and_get_the_same_map(method, few):
    layers = {("kd", "block3"): few["kd", "late"], ("kd", "pool"): few["kd", "late"].copy()}
    layers["kd", "logits"] = few["kd", "late"] * 2
    options = QUICK if method == "tsne" else {}
    maps = embed.family(layers, method, **options).maps
    assert list(maps) == list(layers)
    np.testing.assert_array_equal(maps["kd", "block3"], maps["kd", "pool"])
    assert maps["kd", "block3"] is not maps["kd", "pool"]


def test_a_family_names_the_layer_that_fails(few):
    bad = few["kd", "late"].copy()
    bad[3, 4] = np.nan
    with pytest.raises(UsageError, match=r"\('s', '2'\): .*finite; 1 .* 60"):
        embed.family({("s", "1"): few["kd", "late"], ("s", "2"): bad}, "pca")
    with pytest.raises(UsageError, match=r"same images; given n = \{.*: 60, .*: 30\}"):
        embed.family({("s", "1"): bad, ("s", "2"): bad[:30]}, "pca")
    with pytest.raises(UsageError, match=r"map of .*: features .* 60 "):
        embed.restarts({("s", "1"): np.ones((60, 4))}, "pca")
    with pytest.raises(UsageError, match=r"perplexity .* 1 .* 15 .* 60"):
        embed.family(few, perplexity=30)
    with pytest.raises(UsageError, match=r"workers .* 1; .*0"):
        embed.family(few, workers=0)
    with pytest.raises(UsageError, match="unknown option of tsne 'perplex'"):
        embed.family(few, perplex=3)
    with pytest.raises(UsageError, match="a family needs at least one layer"):
        embed.family({})
    with pytest.raises((UsageError, TypeError)):
        embed.family({"pool": few["kd", "late"]})


def test_a_bar_counts_maps_that_take_their_time(few, capfd, monkeypatch):
    embed.family(few, "pca")
    assert capfd.readouterr() == ("", "")  # done before a bar would appear

    def slow(layers, progress, **settings):
        time.sleep(2.1)
        progress(0.5)
        return [layer[:, :2] for layer in layers]

    monkeypatch.setitem(embed.EMBEDDERS, "tsne", replace(embed.EMBEDDERS["tsne"], function=slow))
    embed.family(few)
    assert re.search(r"6 t-SNE maps: +50%", capfd.readouterr().err)


@pytest.mark.parametrize("method", ["ivis", "pca"])
def test_a_map_that_needs_no_start_is_its_own_first_restart_to_the_bit(few, method):
    how = {"steps": 20} if method == "ivis" else {}
    family = embed.family(few, method, seed=3, **how)
    plain = embed.restarts(few, method, seed=3, **how)
    saved = embed.restarts(few, method, seed=3, first=family.unaligned, **how)
    for one, other in zip(plain, saved, strict=True):
        for key in few:
            np.testing.assert_array_equal(one[key], other[key])
    assert saved[0] is family.unaligned
    assert embed.displacement(saved[0]["kd", "late"], family.maps["kd", "late"]).max() < 1e-5


def test_a_map_that_needs_its_start_is_drawn_again(few):
    assert embed.family(few, **QUICK).unaligned is None


def test_repulsion_is_that_of_a_loop_over_pairs():
    y = np.random.default_rng(0).normal(size=(150, 2)) * 20 + 5
    push, total = repulsion(y)
    apart = y[:, None] - y[None]
    w = 1 / (1 + np.square(apart).sum(axis=2))
    np.fill_diagonal(w, 0)
    assert total == pytest.approx(w.sum(), rel=1e-4)
    looped = (np.square(w)[..., None] * apart).sum(axis=1)
    assert np.abs(push - looped).max() < 1e-3 * np.abs(looped).max()


def test_the_exact_gradient_is_what_barnes_hut_tends_to():
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.tsne import kl_divergence_bh

    y = np.random.default_rng(0).normal(size=(200, 2)) * 10
    affinities = PerplexityBasedNN(y, perplexity=10, method="exact").P
    ours = exact(y, affinities)[1]
    far = [
        np.abs(kl_divergence_bh(y, affinities, dof=1, bh_params={"theta": theta})[1] - ours).max()
        for theta in (0.5, 0.0)
    ]
    assert far[1] < min(1e-3 * np.abs(ours).max(), 0.1 * far[0])
