"""Measures of one layer against loops, scikit-learn, scikit-dimension and known answers."""

import numpy as np
import pytest
from clouds import blobs
from sklearn import metrics as sklearn
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from kdlib import UsageError
from kdlib.measure import geometry
from kdlib.measure.space import Space


@pytest.fixture(scope="module")
def sample():
    return *blobs(n=90, spread=2.5), *blobs(n=150, seed=1, spread=2.5)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))  # they come sorted by writer
    x, y = x[order], y[order]
    return x[:500], y[:500], x[500:1100], y[500:1100]


def scatter(x, y):
    """S_W over images and S_B over classes, as sums of outer products."""
    means = {c: x[y == c].mean(0) for c in np.unique(y)}
    middle = np.mean(list(means.values()), axis=0)
    within = sum(np.outer(a - means[c], a - means[c]) for a, c in zip(x, y, strict=True)) / len(x)
    between = sum(np.outer(m - middle, m - middle) for m in means.values()) / len(means)
    return within, between


# ---- compactness


def test_within_share_of_four_points_by_hand():
    x = np.array([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    space = Space(x, np.array([0, 0, 1, 1]))
    # within: 4 * 1; total: 36 + 16 + 16 + 36
    assert geometry.within_share(space) == pytest.approx(4 / 104)
    assert geometry.within_rms(space) == pytest.approx((4 / 104) ** 0.5)
    assert geometry.fisher(space) == pytest.approx(100 / 4)


def test_within_share_agrees_with_a_loop_and_with_calinski_harabasz(sample):
    x, y, _, _ = sample
    mean, within, total = x.mean(0), 0.0, 0.0
    for i in range(len(x)):
        own = np.mean([x[j] for j in range(len(x)) if y[j] == y[i]], axis=0)
        within += sum((x[i] - own) ** 2)
        total += sum((x[i] - mean) ** 2)
    assert geometry.within_share(Space(x, y)) == pytest.approx(within / total)
    n, k = len(x), 3
    result = geometry.fisher(Space(x, y)) * (n - k) / (k - 1)
    assert result == pytest.approx(sklearn.calinski_harabasz_score(x, y))


def test_within_share_of_gaussian_classes_is_the_known_ratio_of_variances():
    rng, y = np.random.default_rng(0), np.arange(40_000) % 2
    x = rng.normal(size=(len(y), 2))  # tr S_W = 2
    x[:, 0] += 4 * y  # the means are 4 apart: tr S_B = 4
    assert geometry.within_share(Space(x, y)) == pytest.approx(2 / 6, abs=0.01)


def test_within_share_is_0_for_points_and_1_for_equal_means():
    y = np.array([0, 0, 1, 1])
    points = Space(np.eye(2)[y], y)
    assert geometry.within_share(points) == 0
    assert geometry.fisher(points) == float("inf")
    cross = Space(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), y)
    assert geometry.within_share(cross) == 1
    assert geometry.fisher(cross) == 0


def test_within_share_without_structure_is_what_the_docstring_says():
    rng, y = np.random.default_rng(0), np.arange(60) % 20
    shares = [geometry.within_share(Space(rng.normal(size=(60, 5)), y)) for _ in range(50)]
    assert np.mean(shares) == pytest.approx((60 - 20) / (60 - 1), abs=0.02)


@pytest.mark.parametrize("d", [1, 6, 200])
def test_silhouette_agrees_with_a_loop_and_with_scikit_learn(d):
    x, y = blobs(n=90, d=d, spread=2.5)
    c = x - x.mean(0)
    assert geometry.silhouette(Space(x, y)) == pytest.approx(
        sklearn.silhouette_score(c, y, metric="cosine")
    )
    c = c / np.linalg.norm(c, axis=1, keepdims=True)
    values = []
    for i in range(len(c)):
        distance = [1 - sum(c[i] * c[j]) for j in range(len(c))]
        mean = {}
        for label in set(y):
            mean[label] = np.mean([distance[j] for j in range(len(c)) if y[j] == label and j != i])
        a, b = mean[y[i]], min(mean[label] for label in mean if label != y[i])
        values.append((b - a) / max(a, b))
    assert geometry.silhouette(Space(x, y)) == pytest.approx(np.mean(values))


def test_silhouette_is_1_for_two_points_and_negative_for_mixed_labels():
    x = np.repeat([[1.0, 0], [-1, 0]], 3, axis=0)
    assert geometry.silhouette(Space(x, np.array([0, 0, 0, 1, 1, 1]))) == pytest.approx(1)
    assert geometry.silhouette(Space(x, np.array([0, 1, 0, 1, 0, 1]))) < 0


def test_silhouette_takes_images_without_a_direction():
    x = np.array([[0.0, 0], [0, 0], [1, 0], [1, 1], [-1, 0], [-1, -1]])  # two at the centre
    y = np.array([0, 0, 1, 1, 2, 2])
    c = np.ones((6, 6)) - np.eye(6)  # cosine distance is 1 wherever one has no direction
    for i in range(2, 6):
        for j in range(2, 6):
            c[i, j] = 1 - x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
    np.fill_diagonal(c, 0)
    result = geometry.silhouette(Space(x, y))
    assert result == pytest.approx(sklearn.silhouette_score(c, y, metric="precomputed"))


def test_davies_bouldin_agrees_with_scikit_learn(sample):
    x, y, _, _ = sample
    result = geometry.davies_bouldin(Space(x, y))
    assert result == pytest.approx(sklearn.davies_bouldin_score(x, y))


def test_distances_within_and_between_classes_agree_with_loops(sample):
    x, y, _, _ = sample
    means = [x[y == c].mean(0) for c in range(3)]
    spread = [np.mean([sum((a - means[c]) ** 2) for a in x[y == c]]) for c in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    apart = [np.linalg.norm(means[a] - means[b]) for a, b in pairs]
    own = np.mean([np.linalg.norm(a - means[c]) for a, c in zip(x, y, strict=True)])
    assert geometry.intra_inter(Space(x, y)) == pytest.approx(own / np.mean(apart))
    expected = [
        (spread[a] + spread[b]) / (2 * far**2) for (a, b), far in zip(pairs, apart, strict=True)
    ]
    assert geometry.cdnv(Space(x, y)) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("d", "classes"), [(6, 3), (2, 5), (40, 3)])
def test_nc1_agrees_with_the_pseudo_inverse_of_summed_outer_products(d, classes):
    x, y = blobs(n=90, d=d, classes=classes, spread=2.5)
    within, between = scatter(x, y)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes
    assert geometry.nc1(Space(x, y)) == pytest.approx(expected)


def test_nc1_of_gaussian_classes_is_known():
    y = np.arange(30_000) % 3
    x = 5 * np.eye(3)[y] + np.random.default_rng(0).normal(size=(len(y), 3))
    # S_B has 25 / 3 twice, S_W is 1 there: 2 * 3 / 25 / k
    assert geometry.nc1(Space(x, y)) == pytest.approx(2 * 3 / 25 / 3, rel=0.03)


def test_nc1_grows_with_the_number_of_images_where_they_are_as_few_as_features():
    values = [geometry.nc1(Space(*blobs(n=n, d=100, spread=6))) for n in (60, 6000)]
    assert values[1] > 1.5 * values[0]


def test_nc2_is_0_for_a_simplex_and_known_for_a_cross():
    y = np.arange(40) % 4
    noise = np.tile(np.repeat([[0.1], [-0.1]], 4, axis=0), (5, 4))
    simplex = Space(np.eye(4)[y] + noise, y)
    assert geometry.nc2_norms(simplex) == pytest.approx(0, abs=1e-12)
    assert geometry.nc2_angles(simplex) == pytest.approx(0, abs=1e-12)
    cross = Space(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])[y] + noise[:, :2], y)
    assert geometry.nc2_norms(cross) == pytest.approx(0.5)  # 3, 3, 1, 1
    # cosines -1, -1, 0, 0, 0, 0 beside -1/3
    assert geometry.nc2_angles(cross) == pytest.approx((2 * 2 / 3 + 4 / 3) / 6)


def test_compactness_names_what_it_cannot_measure(sample):
    x = sample[0]
    lone = Space(x, np.r_[np.zeros(89, dtype=int), 1])
    names = ["within_share", "within_rms", "fisher", "silhouette", "davies_bouldin"]
    names += ["intra_inter", "cdnv", "nc1", "nc2_norms", "nc2_angles"]
    for name in names:
        with pytest.raises(UsageError, match="class 1 "):
            getattr(geometry, name)(lone)
    same = Space(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), np.array([3, 3, 7, 7]))
    for name in names[4:]:
        with pytest.raises(UsageError, match="class means must differ"):
            getattr(geometry, name)(same)


# ---- accuracy


def test_knn_agrees_with_a_loop_over_training_images(sample):
    x, y, t, u = sample
    hits = 0
    for i in range(len(x)):
        a = x[i] - t.mean(0)
        cosine = [a @ (b - t.mean(0)) / np.linalg.norm(b - t.mean(0)) for b in t]
        nearest = u[np.argsort(cosine)[::-1][:5]]
        hits += np.bincount(nearest).argmax() == y[i]
    assert 0.5 < hits / len(x) < 0.99  # else the comparison would say little
    assert geometry.knn(Space(*sample)) == pytest.approx(hits / len(x))


@pytest.mark.parametrize("name", ["knn", "probe", "ncc"])
def test_probes_ask_training_images_only(name, sample):
    x, y, t, u = sample
    function = getattr(geometry, name)
    assert function(Space(x, y, t, (u + 1) % 3)) < 0.4  # taught wrong names, they answer them
    assert function(Space(x[:7], y[:7], t, u)) in [i / 7 for i in range(8)]


def test_probe_reaches_the_minimum_of_its_stated_loss(sample):
    from scipy.optimize import minimize

    x, y, t, u = sample
    centre = t.mean(0)
    scale = np.sqrt(((t - centre) ** 2).sum(1).mean())
    z, hot = (t - centre) / scale, np.eye(3)[u]

    def loss(flat):
        w, b = flat[:18].reshape(6, 3), flat[18:]
        s = z @ w + b
        entropy = np.log(np.exp(s).sum(1)) - (s * hot).sum(1)
        return entropy.mean() + geometry.PENALTY / 2 * (w**2).sum()

    best = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-4}).x
    answers = ((x - centre) / scale @ best[:18].reshape(6, 3) + best[18:]).argmax(1)
    accuracy = (answers == y).mean()
    assert 0.5 < accuracy < 0.99
    assert geometry.probe(Space(*sample)) == pytest.approx(accuracy, abs=1.1 / len(y))


def test_probe_reads_what_is_linear_and_only_that():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 2))
    line, ring = (x @ [1, 2] > 0.3).astype(int), (np.abs(x[:, 0]) > 0.67).astype(int)
    straight = Space(x[:400], line[:400], x[400:], line[400:])
    bent = Space(x[:400], ring[:400], x[400:], ring[400:])
    assert geometry.probe(straight) > 0.97
    assert geometry.probe(bent) < 0.65 < geometry.knn(bent)


@pytest.mark.parametrize("d", [2, 64, 600])
def test_probe_converges_without_a_warning_on_hard_layers(d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, d)) * np.logspace(0, -6, d) + 50  # badly conditioned, off centre
    y = np.arange(300) % 10
    assert 0 <= geometry.probe(Space(x[:100], y[:100], x[100:], y[100:])) <= 1


def test_ncc_agrees_with_scikit_learn(sample):
    x, y, t, u = sample
    expected = NearestCentroid().fit(t, u).score(x, y)
    assert 0.5 < expected < 0.99
    assert geometry.ncc(Space(*sample)) == pytest.approx(expected)


def test_probes_know_digits(digits):
    space = Space(*digits)
    assert geometry.knn(space) > 0.9
    assert geometry.probe(space) > 0.9
    assert geometry.ncc(space) > 0.85


def test_probes_name_what_they_lack(sample):
    x, y, t, u = sample
    for function in (geometry.knn, geometry.probe, geometry.ncc):
        with pytest.raises(UsageError, match="training"):
            function(Space(x, y))
    with pytest.raises(UsageError, match="at least 5 training images; given 4"):
        geometry.knn(Space(x, y, t[:4], u[:4]))
    with pytest.raises(UsageError, match=r"training features .* 90 "):
        geometry.probe(Space(x, y, np.ones((90, 6)), y))


# ---- shape


def test_shape_of_equal_directions_is_their_number():
    x = np.zeros((16, 9))
    x[:, 2:5] = np.array(np.meshgrid([1, -1], [1, -1], [1, -1], [0, 0])).reshape(4, 16)[:3].T
    space = Space(x, np.arange(16) % 2)
    assert geometry.participation_ratio(space) == pytest.approx(3)
    assert geometry.effective_rank(space) == pytest.approx(3)


@pytest.mark.parametrize("d", [6, 200])
def test_shape_agrees_with_singular_values_by_scipy(d):
    from scipy.linalg import svdvals
    from scipy.stats import entropy

    x, y = blobs(n=90, d=d, spread=2.5)
    values = svdvals(x - x.mean(0))
    result = geometry.effective_rank(Space(x, y))
    assert result == pytest.approx(np.exp(entropy(values)), rel=1e-6)
    result = geometry.participation_ratio(Space(x, y))
    assert result == pytest.approx(sum(values**2) ** 2 / sum(values**4))


def swiss(n, d, seed=0):
    """A d-dimensional manifold, curled up in 3 d dimensions."""
    u = np.random.default_rng(seed).uniform(size=(n, d))
    return np.concatenate([np.cos(3 * u), np.sin(3 * u), u], axis=1), np.arange(n) % 2


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_intrinsic_dimension_is_that_of_the_manifold(d):
    space = Space(*swiss(2000, d))
    assert geometry.twonn(space) == pytest.approx(d, rel=0.07)
    assert geometry.mle(space) == pytest.approx(d, rel=0.1)


def test_dimensions_agree_with_loops(sample):
    x, y, _, _ = sample
    ratios, slow = [], []
    for a in x:
        far = sorted(np.linalg.norm(a - b) for b in x)[1:]
        ratios.append(np.log(far[1] / far[0]))
        slow.append(np.mean([np.log(far[19] / far[j]) for j in range(19)]))
    n, top, bottom = len(x), 0.0, 0.0
    for i, ratio in enumerate(sorted(ratios)[: int(0.9 * n)], 1):
        top += -np.log(1 - i / n) * ratio
        bottom += ratio**2
    assert geometry.twonn(Space(x, y)) == pytest.approx(top / bottom)
    assert geometry.mle(Space(x, y)) == pytest.approx(1 / np.mean(slow))


def test_dimensions_agree_with_scikit_dimension(digits):
    skdim = pytest.importorskip("skdim", reason="scikit-dimension is not installed")
    x, y, _, _ = digits
    space = Space(x, y)
    assert geometry.twonn(space) == pytest.approx(skdim.id.TwoNN().fit(x).dimension_, rel=0.01)
    result = skdim.id.MLE(K=20).fit(x, n_neighbors=20, comb="mle").dimension_
    assert geometry.mle(space) == pytest.approx(result, rel=0.06)  # it divides by 18, not by 19


@pytest.mark.parametrize("function", [geometry.twonn, geometry.mle])
def test_of_images_that_are_equal_one_counts_for_dimensions(function):
    x, y = swiss(400, 2)
    expected = function(Space(x, y))
    twice = Space(np.concatenate([x, x[:100], x[:1].repeat(30, axis=0)]), np.arange(530) % 2)
    assert function(twice) == pytest.approx(expected)
    with pytest.raises(UsageError, match="images that differ; given 3"):
        function(Space(np.repeat(np.eye(3), 20, axis=0), np.arange(60) % 2))


def test_of_few_images_all_others_are_the_neighbours_of_the_maximum_likelihood():
    x, y = swiss(15, 2)
    distances = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2))[:, 1:]
    by_hand = 1 / np.log(distances[:, -1:] / distances[:, :-1]).mean()
    assert geometry.mle(Space(x, y)) == pytest.approx(by_hand)


def test_dimensions_name_what_they_lack():
    x, y = swiss(20, 2)
    with pytest.raises(UsageError, match=r"mle .* 10 .* 9"):
        geometry.mle(Space(x[:9], y[:9]))
    with pytest.raises(UsageError, match=r"twonn .* 10 .* 2"):
        geometry.twonn(Space(x[:2], y[:2]))
    corners = Space(np.eye(30), np.arange(30) % 2)
    for function in (geometry.twonn, geometry.mle):
        with pytest.raises(UsageError, match="all neighbours are equally far"):
            function(corners)
