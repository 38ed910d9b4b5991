"""Measures of two layers against loops, ckatorch, scipy, and noise with a known answer."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import rankdata, spearmanr

from kdlib import UsageError
from kdlib.measure import similarity
from kdlib.measure.space import Space

ALL = [similarity.cka, similarity.procrustes, similarity.mutual_knn, similarity.rsa]


def pair(n=60, d=7, e=4, seed=0):
    """Draw two layers of unequal width that are alike, but not very."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x @ rng.normal(size=(d, e)) + 2 * rng.normal(size=(n, e))
    return x + 5, y - 1


def spaces(x, y):
    labels = np.arange(len(x)) % 3
    return Space(x, labels), Space(y, labels)


def hsic(x, y):
    """Song et al. 2012, eq. 5, word for word, of features that nobody centred."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)])
def test_cka_agrees_with_the_papers_formulas(n, d):
    x, y = pair(n, d)
    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert similarity.cka(*spaces(x, y)) == pytest.approx(expected)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert similarity.cka(*spaces(x, y), debiased=False) == pytest.approx(expected)


def test_cka_agrees_with_ckatorch():
    core = pytest.importorskip("ckatorch.core", reason="ckatorch is not installed")
    import torch

    x, y = (torch.from_numpy(a) for a in pair())
    for unbiased in (True, False):
        expected = float(core.cka_base(x, y, kernel="linear", unbiased=unbiased))
        result = similarity.cka(*spaces(x.numpy(), y.numpy()), debiased=unbiased)
        assert result == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "biased"), [(256, 0.667), (1000, 0.338)])
def test_debiased_cka_of_pure_noise_is_0_where_the_biased_one_is_not(n, biased):
    rng = np.random.default_rng(0)
    noise = spaces(rng.normal(size=(n, 512)), rng.normal(size=(n, 512)))
    assert similarity.cka(*noise) == pytest.approx(0, abs=0.01)
    assert similarity.cka(*noise, debiased=False) == pytest.approx(biased, abs=0.01)


def test_one_far_image_moves_cka_and_not_shared_neighbours():
    x, y = pair(n=400, d=10, e=10)
    y = x.copy()
    y[0] = 500
    far = spaces(x, y)
    assert similarity.cka(*far) < 0.2
    assert similarity.mutual_knn(*far) > 0.9


def test_procrustes_is_the_best_rotation_of_scipy():
    x, y = pair(e=7)
    a, b = (z - z.mean(0) for z in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    turn, scale = orthogonal_procrustes(a, b)
    result = similarity.procrustes(*spaces(x, y))
    assert result == pytest.approx(scale)
    assert result == pytest.approx(1 - np.linalg.norm(a @ turn - b) ** 2 / 2)


def test_procrustes_of_pure_noise_is_what_the_table_says():
    rng = np.random.default_rng(0)
    noise = spaces(rng.normal(size=(256, 512)), rng.normal(size=(256, 512)))
    assert similarity.procrustes(*noise) == pytest.approx(0.88, abs=0.02)


def test_shared_neighbours_agree_with_a_loop():
    x, y = pair()
    shared = 0
    for i in range(len(x)):
        near = [
            set(np.argsort([np.linalg.norm(z[i] - b) for b in z], kind="stable")[1:11])
            for z in (x, y)
        ]
        shared += len(near[0] & near[1])
    result = similarity.mutual_knn(*spaces(x, y))
    assert result == pytest.approx(shared / 10 / len(x))
    assert 0.2 < result < 0.8


def test_shared_neighbours_of_noise_are_what_chance_gives():
    rng = np.random.default_rng(0)
    noise = spaces(rng.normal(size=(1000, 20)), rng.normal(size=(1000, 20)))
    assert similarity.mutual_knn(*noise) == pytest.approx(10 / 999, abs=0.003)


@pytest.mark.parametrize("n", [60, 2300])
def test_rsa_agrees_with_spearman_by_scipy_over_at_most_1000_images(n):
    x, y = pair(n)
    step = 1 if n == 60 else 3
    expected = spearmanr(pdist(x[::step]), pdist(y[::step])).statistic
    assert similarity.rsa(*spaces(x, y)) == pytest.approx(expected)


def test_rsa_agrees_with_spearman_by_scipy_where_most_distances_are_equal():
    halves = np.random.default_rng(0).integers(-1, 2, size=(2, 35, 2)).astype(float)
    x, y = (np.r_[half, -half] for half in halves)  # about 0
    expected = spearmanr(pdist(x), pdist(y)).statistic
    assert similarity.rsa(*spaces(x, y)) == pytest.approx(expected, rel=1e-12)


def test_agreement_counts_images_that_both_name_alike():
    a = np.array([[3.0, 1, 0], [0, 1, 2], [5, 4, 9], [0, 7, 0]])
    b = np.array([[9.0, 1, 8], [0, 2, 1], [1, 2, 3], [0, 1, 0]])
    assert similarity.agreement(*spaces(a, b)) == 0.75


@pytest.mark.parametrize("function", ALL)
def test_similarity_is_1_with_oneself_and_ignores_scale_shift_rotation_and_order(function):
    x, y = pair()
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(7, 7)))[0]
    order = np.random.default_rng(6).permutation(len(x))
    assert function(*spaces(x, 3 * x @ turn - 9)) == pytest.approx(1)
    expected = function(*spaces(x, y))
    assert -0.1 < expected < 0.99
    for a, b in [(37.5 * x, y), (x + 9, y), (x @ turn, y), (x[order], y[order]), (y, x)]:
        assert function(*spaces(a, b)) == pytest.approx(expected)


@pytest.mark.parametrize("function", [*ALL, similarity.agreement])
def test_similarity_falls_with_noise(function):
    x, _ = pair()
    noise = np.random.default_rng(3).normal(size=x.shape)
    values = [function(*spaces(x, x + much * noise)) for much in (0.1, 1, 10)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.85


def test_the_matrix_has_every_pair_of_layers():
    x, y = spaces(*pair())
    result = similarity.matrix({"stem": x, "pool": y}, {"stem": y, "logits": x})
    assert list(result) == [
        ("stem", "stem"),
        ("stem", "logits"),
        ("pool", "stem"),
        ("pool", "logits"),
    ]
    assert result["stem", "logits"] == pytest.approx(1)
    assert result["stem", "stem"] == similarity.cka(x, y)


def test_similarity_names_what_it_cannot_compare():
    x, y = pair()
    labels = np.arange(60) % 3
    for function in (*ALL, similarity.agreement):
        with pytest.raises(UsageError, match=r"60 .*50"):
            function(Space(x, labels), Space(y[:50], labels[:50]))
    for function, n in [(similarity.cka, 3), (similarity.mutual_knn, 10), (similarity.rsa, 2)]:
        with pytest.raises(UsageError, match=f" {n + 1} .* {n}"):
            function(*spaces(x[:n], y[:n]))
    with pytest.raises(UsageError, match=r"agreement .*7, 4"):
        similarity.agreement(*spaces(x, y))
    with pytest.raises(UsageError, match="rsa needs distances that differ"):
        similarity.rsa(*spaces(np.eye(60)[:3], x[:3]))


def test_ranks_are_those_of_scipy_to_the_bit_also_of_equal_values():
    values = np.random.default_rng(0).normal(size=5000).round(2)
    assert np.array_equal(similarity.ranked(values), rankdata(values))
    assert np.array_equal(similarity.ranked(np.ones(3)), rankdata(np.ones(3)))


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_varies_in_one_image_has_no_cka_whatever_the_rounding(seed):
    draw = np.random.default_rng(seed)
    x, single = draw.normal(size=(40, 6)), np.zeros((40, 3))
    single[0] = draw.normal(size=3)
    with pytest.raises(UsageError, match="vary in more than one image"):
        similarity.cka(Space(x, None), Space(single, None))
