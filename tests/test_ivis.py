"""IVIS: our batched engine against the package and against loops written from the formulas."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kdlib import UsageError, embed
from kdlib.embed import ivis, siamese
from kdlib.embed.prepare import prepare
from kdlib.embed.siamese import Fit, fit_batched
from kdlib.measure.faithfulness import faithfulness
from kdlib.neighbours import nearest

N = 300
SEEDS = (0, 1)
QUICK = {"k": 5, "steps": 1}  # never less than 20 epochs


def silent(fraction):
    """Report to nobody."""


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:N]
    return x[order], y[order]


@pytest.fixture(scope="module")
def layers(digits):
    """Nine layers: more than one batch of maps."""
    x = digits[0][:120]
    return {("kd", str(i)): x[:, i : 55 + i] for i in range(9)}


def test_the_batched_engine_is_as_good_as_the_package(digits):
    x, y = digits
    measures = {
        engine: [
            faithfulness(x, embed.embed(x, "ivis", engine=engine, seed=seed, steps=400), y)
            for seed in SEEDS
        ]
        for engine in ivis.ENGINES
    }
    for measure in ("map_knn", "trustworthiness"):
        ours, theirs = (np.mean([f[measure] for f in measures[e]]) for e in ivis.ENGINES)
        assert ours > theirs - 0.02


def test_the_engine_is_named(layers):
    few = dict(list(layers.items())[:1])
    quick = {"k": 5, "steps": 1}
    assert embed.family(few, "ivis", **quick).engine == f"torch {torch.__version__}"
    assert embed.family(few, "ivis", engine="package", **quick).engine == "ivis 2.0.11"
    with pytest.raises(UsageError, match=r"'tensor'; .*torch, package"):
        embed.family(few, "ivis", engine="tensor")


def test_the_same_bits_for_any_number_of_workers_and_engine_threads_as_before(layers):
    before = torch.get_num_threads()
    one, two = (embed.family(layers, "ivis", workers=w, **QUICK).maps for w in (1, 3))
    assert torch.get_num_threads() == before
    for key in layers:
        assert (one[key] == two[key]).all()
    other = embed.family(layers, "ivis", seed=1, **QUICK).maps
    assert (one["kd", "0"] != other["kd", "0"]).any()


def test_the_package_gives_the_same_bits_in_workers(layers, capfd):
    few = {cell: x[:40] for cell, x in list(layers.items())[:2]}
    how = {"engine": "package", "k": 5, "steps": 1, "progress": silent}
    one, two = (embed.family(few, "ivis", workers=w, **how).maps for w in (1, 2))
    for key in few:
        assert (one[key] == two[key]).all()
    assert capfd.readouterr() == ("", "")  # TensorFlow's start-up in the workers, too


def test_a_map_is_the_same_in_every_company(layers):
    prepared = [prepare(x) for x in layers.values()]
    narrow = prepared[3][:, :7]  # widths may differ
    fit = Fit(5, 32, 5, 1e-3, 7)
    together = fit_batched([prepared[0], narrow], fit, silent)
    np.testing.assert_allclose(fit_batched([narrow], fit, silent)[0], together[1], atol=1e-4)


def test_network_and_loss_agree_with_a_numpy_loop():
    rng = np.random.default_rng(0)
    weights = siamese.initial_weights([50, 9], 3)
    x = rng.normal(size=(2, 12, 50)).astype(np.float32)
    points = siamese.forward(torch.as_tensor(x), weights)
    others = torch.as_tensor([[1, 2, 0, 0, 1, 2], [5, 3, 4, 1, 2, 0]])
    losses = []
    for i in range(2):
        z = x[i].astype(float)
        for w, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            z = z @ w[i].numpy() + b[i].numpy()
            z = 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * (np.exp(z) - 1))
        z = z @ weights[-2][i].numpy()
        np.testing.assert_allclose(points[i].numpy(), z, atol=1e-4)
        a, p, n = z[:6], z[6:], z[others[i]]
        for near, far in ((p, n), (p, p - n + a)):
            apart = np.linalg.norm(a - near, axis=1), np.linalg.norm(a - far, axis=1)
            losses.append(np.maximum(apart[0] - apart[1] + 1, 0).mean() / 2)
    assert float(siamese.triplet_loss(points, others)) == pytest.approx(sum(losses), rel=1e-4)


def test_first_weights_have_the_spread_that_their_width_asks_for():
    wide, narrow = siamese.initial_weights([50, 10], 0)[0]
    assert float(wide.std()) == pytest.approx(50**-0.5, rel=0.03)
    torch.testing.assert_close(narrow, wide * 5**0.5)


def test_dropout_keeps_mean_and_spread():
    chance = torch.Generator().manual_seed(0)
    weights = siamese.initial_weights([50], 0)
    x = torch.randn(1, 4000, 50, generator=chance)
    with_dropout = siamese.forward(x, weights, chance)
    without = siamese.forward(x, weights)
    assert float((with_dropout - without).abs().mean()) > 0.05
    assert float(with_dropout.std()) == pytest.approx(float(without.std()), rel=0.1)


def test_positives_are_neighbours_and_negatives_are_not(digits):
    layers = prepare(digits[0]), prepare(digits[0][:, ::2])
    near = torch.as_tensor(np.stack([nearest(x, 15, "cosine").rows for x in layers]))
    anchors, ranks = siamese.pairs(N, 40, Fit(15, 32, 1, 0.01, 0))
    rows, others = siamese.triplets(near, anchors, ranks)
    wrong = 0
    for m in (0, 1):
        a, p = (rows[:, m] - N * m).split(32, dim=1)
        n = a.gather(1, others[:, m])
        mine = near[m, a]
        assert (a == anchors).all()
        assert (mine.gather(2, ranks[..., None])[..., 0] == p).all()
        wrong += int(((mine == n[..., None]).any(2) | (n == a)).sum())
    assert wrong <= 2  # four tries each: by chance one in a million
    assert anchors.flatten()[:N].unique().numel() == N  # every image once an epoch


def test_a_batch_of_two_has_the_other_anchor_as_negative(layers):
    near = torch.as_tensor(nearest(prepare(layers["kd", "0"]), 5, "cosine").rows)[None]
    anchors, ranks = siamese.pairs(120, 60, Fit(5, 2, 1, 0.01, 0))
    others = siamese.triplets(near, anchors, ranks)[1]
    assert (others == torch.tensor([1, 0])).all()
    with pytest.raises(UsageError, match=r"batch must be .* given 1"):
        embed.family(layers, "ivis", batch=1)


def test_only_maps_that_diverge_are_fitted_again(layers):
    few = dict(list(layers.items())[:2])
    quick = {"k": 5, "steps": 1, "progress": silent}
    plain = embed.family(few, "ivis", rates=(1e-2,), **quick).maps
    again = embed.family(few, "ivis", rates=(1e30, 1e-2), **quick).maps
    for key in few:
        assert (plain[key] == again[key]).all()
    with pytest.raises(UsageError, match="learning rate"):
        embed.family(few, "ivis", rates=(1e30,), **quick)


def test_too_many_neighbours_are_refused(layers):
    with pytest.raises(
        UsageError, match=r"k must be .* between 1 and 59 for n = 120 .*; given 120"
    ):
        embed.family(layers, "ivis", k=120)


def test_labels_of_another_engine_or_length_are_refused(digits):
    x, y = digits
    with pytest.raises(UsageError, match=r"engine 'torch'; allowed: \(300,\) with 'package'"):
        embed.embed(x, "ivis", labels=y)
    with pytest.raises(UsageError, match=r"labels \(299,\) with engine 'package'; allowed"):
        embed.embed(x, "ivis", engine="package", labels=y[1:])
