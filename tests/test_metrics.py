"""Measures against loops written from the formulas, scikit-learn, and data with known answers."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.metrics import calinski_harabasz_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from kdlib import UsageError, metrics
from kdlib.metrics import (
    FAITHFULNESS,
    MEASURES,
    distance_correlation,
    faithfulness,
    measure,
    neighbourhood_change,
    ranks,
)

# jaxtyping's checker, where it is switched on, speaks before kdlib does
WRONG_SHAPE = (UsageError, TypeError)


def blobs(n=120, d=6, classes=3, spread=1.0, seed=0):
    """Draw Gaussian classes around random centres."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = 2 * np.random.default_rng(99).normal(size=(classes, d))
    return centres[y] + spread * rng.normal(size=(n, d)), y


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))  # they come sorted by writer
    x, y = x[order], y[order]
    return x[:500], y[:500], x[500:1100], y[500:1100]


@pytest.fixture(scope="module")
def sample():
    x, y = blobs(n=90, spread=2.5)
    t, u = blobs(n=150, spread=2.5, seed=1)
    return x, y, t, u


def test_within_share_of_four_points_by_hand():
    x = np.array([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    # within: 4 * 1; total: 36 + 16 + 16 + 36
    assert metrics.within_share(x, np.array([0, 0, 1, 1])) == pytest.approx(4 / 104)


def test_within_share_agrees_with_a_loop_and_with_calinski_harabasz(sample):
    x, y, _, _ = sample
    mean, within, total = x.mean(0), 0.0, 0.0
    for i in range(len(x)):
        own = np.mean([x[j] for j in range(len(x)) if y[j] == y[i]], axis=0)
        within += sum((x[i] - own) ** 2)
        total += sum((x[i] - mean) ** 2)
    share = metrics.within_share(x, y)
    assert share == pytest.approx(within / total)
    n, k = len(x), 3
    assert (1 - share) / share * (n - k) / (k - 1) == pytest.approx(calinski_harabasz_score(x, y))


def test_within_share_of_gaussian_classes_is_the_known_ratio_of_variances():
    rng, y = np.random.default_rng(0), np.arange(40_000) % 2
    x = rng.normal(size=(len(y), 2))  # tr S_W = 2
    x[:, 0] += 4 * y  # the means are 4 apart: tr S_B = 4
    assert metrics.within_share(x, y) == pytest.approx(2 / 6, abs=0.01)


def test_within_share_is_0_for_points_and_1_for_equal_means():
    y = np.array([0, 0, 1, 1])
    assert metrics.within_share(np.eye(2)[y], y) == 0
    assert metrics.within_share(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), y) == 1


def test_within_share_without_structure_is_what_the_docstring_says():
    rng, y = np.random.default_rng(0), np.arange(60) % 20
    shares = [metrics.within_share(rng.normal(size=(60, 5)), y) for _ in range(50)]
    assert np.mean(shares) == pytest.approx((60 - 20) / (60 - 1), abs=0.02)


def test_silhouette_agrees_with_a_loop(sample):
    x, y, _, _ = sample
    c = x - x.mean(0)
    c = c / np.linalg.norm(c, axis=1, keepdims=True)
    values = []
    for i in range(len(c)):
        distance = [1 - sum(c[i] * c[j]) for j in range(len(c))]
        mean = {}
        for label in set(y):
            mean[label] = np.mean([distance[j] for j in range(len(c)) if y[j] == label and j != i])
        a, b = mean[y[i]], min(mean[label] for label in mean if label != y[i])
        values.append((b - a) / max(a, b))
    assert metrics.silhouette(x, y) == pytest.approx(np.mean(values))


def test_silhouette_is_1_for_two_points_and_negative_for_mixed_labels():
    x = np.repeat([[1.0, 0], [-1, 0]], 3, axis=0)
    assert metrics.silhouette(x, np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(1)
    assert metrics.silhouette(x, np.array([0, 1, 0, 1, 0, 1])) < 0


def test_knn_agrees_with_a_loop_over_training_images(sample):
    x, y, t, u = sample
    hits = 0
    for i in range(len(x)):
        a = x[i] - t.mean(0)
        cosine = [a @ (b - t.mean(0)) / np.linalg.norm(b - t.mean(0)) for b in t]
        nearest = u[np.argsort(cosine)[::-1][:5]]
        hits += np.bincount(nearest).argmax() == y[i]
    assert 0.5 < hits / len(x) < 0.99  # else the comparison would say little
    assert metrics.knn(x, y, t, u) == pytest.approx(hits / len(x))


def test_knn_and_probe_ask_training_images_only(sample):
    x, y, t, u = sample
    for probe in (metrics.knn, metrics.probe):
        assert probe(x, y, t, (u + 1) % 3) < 0.4  # taught wrong names, they answer wrong names
        assert probe(x[:7], y[:7], t, u) in [i / 7 for i in range(8)]


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
        return entropy.mean() + metrics.PENALTY / 2 * (w**2).sum()

    best = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-4}).x
    answers = ((x - centre) / scale @ best[:18].reshape(6, 3) + best[18:]).argmax(1)
    accuracy = (answers == y).mean()
    assert 0.5 < accuracy < 0.99
    assert metrics.probe(x, y, t, u) == pytest.approx(accuracy, abs=1.1 / len(y))


def test_probe_reads_what_is_linear_and_only_that():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 2))
    line, ring = (x @ [1, 2] > 0.3).astype(int), (np.abs(x[:, 0]) > 0.67).astype(int)
    assert metrics.probe(x[:400], line[:400], x[400:], line[400:]) > 0.97
    assert metrics.probe(x[:400], ring[:400], x[400:], ring[400:]) < 0.65
    assert metrics.knn(x[:400], ring[:400], x[400:], ring[400:]) > 0.65


@pytest.mark.parametrize("d", [2, 64, 600])
def test_probe_converges_without_a_warning_on_hard_layers(d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, d)) * np.logspace(0, -6, d) + 50  # badly conditioned, off centre
    y = np.arange(300) % 10
    assert 0 <= metrics.probe(x[:100], y[:100], x[100:], y[100:]) <= 1


def test_probes_know_digits(digits):
    x, y, t, u = digits
    found = measure(x, y, train_features=t, train_labels=u)
    assert list(found) == ["within_share", "silhouette", "knn", "probe"] == list(MEASURES)
    assert found["knn"] > 0.9
    assert found["probe"] > 0.9
    assert all(isinstance(value, float) for value in found.values())


@pytest.mark.parametrize("name", MEASURES)
def test_measures_ignore_scale_shift_and_rotation_and_the_order_of_images(name, sample):
    x, y, t, u = sample
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    order = np.random.default_rng(6).permutation(len(x))
    expected = measure(x, y, train_features=t, train_labels=u, measures=[name])[name]
    for a, b in [(37.5 * x, 37.5 * t), (x + 9, t + 9), (x @ turn, t @ turn)]:
        found = measure(a, y, train_features=b, train_labels=u, measures=[name])
        assert found == {name: pytest.approx(expected, abs=1e-9)}
    found = measure(x[order], y[order], train_features=t, train_labels=u, measures=[name])
    assert found == {name: pytest.approx(expected)}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_move_in_the_stated_direction_and_stay_in_range(name):
    values = []
    for spread in (8.0, 3.0, 0.5):  # more and more compact
        (x, y), (t, u) = blobs(spread=spread), blobs(spread=spread, seed=1)
        values.append(measure(x, y, train_features=t, train_labels=u, measures=[name])[name])
    entry = MEASURES[name]
    assert values == sorted(values, reverse=entry.better == "lower")
    assert values[0] != values[2]
    assert all(entry.low <= value <= entry.high for value in values)


@pytest.mark.parametrize("table", [MEASURES, FAITHFULNESS])
def test_every_entry_has_words_and_a_documented_function(table):
    for entry in table.values():
        assert entry.better in ("lower", "higher")
        assert entry.low < entry.high
        assert entry.title
        assert entry.text
        assert entry.better in entry.function.__doc__
        assert "itfall" in entry.function.__doc__


def by_loops(x, z, k):
    """Trustworthiness, continuity and neighbours kept, word for word from the formulas."""
    n = len(x)

    def order(points, i):
        distance = [np.linalg.norm(points[i] - points[j]) for j in range(n)]
        return sorted((j for j in range(n) if j != i), key=lambda j: distance[j])

    torn = shown = kept = 0
    for i in range(n):
        near, seen = order(x, i), order(z, i)
        kept += len(set(near[:k]) & set(seen[:k]))
        shown += sum(near.index(j) + 1 - k for j in set(seen[:k]) - set(near[:k]))
        torn += sum(seen.index(j) + 1 - k for j in set(near[:k]) - set(seen[:k]))
    worst = n * k * (2 * n - 3 * k - 1) / 2
    return {
        "trustworthiness": 1 - shown / worst,
        "continuity": 1 - torn / worst,
        "neighbours_kept": kept / (n * k),
    }


@pytest.mark.parametrize("k", [1, 4, 15])
def test_faithfulness_agrees_with_loops_and_scikit_learn(k):
    x, y = blobs(n=60)
    z = x[:, :2] + np.random.default_rng(3).normal(size=(60, 2))
    found = faithfulness(x, z, y, k=k)
    assert list(found) == list(FAITHFULNESS)
    for name, value in by_loops(x, z, k).items():
        assert found[name] == pytest.approx(value)
        assert value < 0.95
    assert found["trustworthiness"] == pytest.approx(sklearn_trustworthiness(x, z, n_neighbors=k))
    assert found["continuity"] == pytest.approx(sklearn_trustworthiness(z, x, n_neighbors=k))


def test_map_knn_agrees_with_leave_one_out_by_scikit_learn():
    x, y = blobs(n=80, spread=2.5)
    hits = cross_val_score(KNeighborsClassifier(5), x[:, :2], y, cv=LeaveOneOut())
    assert 0.3 < hits.mean() < 0.95
    assert faithfulness(x, x[:, :2], y)["map_knn"] == pytest.approx(hits.mean())


def test_map_knn_takes_any_whole_numbers_as_labels():
    x, y = blobs(n=80, spread=2.5)
    expected = faithfulness(x, x[:, :2], y)["map_knn"]
    assert faithfulness(x, x[:, :2], y * 100 - 7)["map_knn"] == expected


def test_a_perfect_map_scores_1_at_any_scale_shift_and_rotation():
    x, y = blobs(n=100, d=2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    found = faithfulness(x, 3 * (x @ turn) - 5, y)
    assert [found[name] for name in list(FAITHFULNESS)[:3]] == [1, 1, 1]


def test_a_random_map_scores_what_chance_gives():
    x, y = blobs(n=400)
    found = faithfulness(x, np.random.default_rng(1).normal(size=(400, 2)), y)
    assert found["trustworthiness"] == pytest.approx(0.5, abs=0.03)
    assert found["continuity"] == pytest.approx(0.5, abs=0.03)
    assert found["neighbours_kept"] == pytest.approx(15 / 399, abs=0.01)
    assert found["map_knn"] == pytest.approx(1 / 3, abs=0.08)


def test_torn_and_glued_maps_are_told_apart():
    x = np.stack([np.linspace(-1, 1, 100), np.zeros(100)], axis=1)
    y = np.arange(100) % 2
    torn = x + np.where(np.arange(100) % 2, 9, 0)[:, None]  # neighbours pulled apart
    glued = np.abs(x)  # two halves laid on each other
    a, b = faithfulness(x, torn, y), faithfulness(x, glued, y)
    assert a["continuity"] < a["trustworthiness"]
    assert b["trustworthiness"] < b["continuity"]


def test_distance_correlation_agrees_with_all_pairs_and_is_free_of_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 12)) * np.arange(12, 0, -1)
    z = 7 * x[:, :2] + rng.normal(size=(150, 2))
    expected = spearmanr(pdist(x), pdist(z)).statistic
    assert distance_correlation(x, z) == pytest.approx(expected, abs=0.01)
    assert distance_correlation(9 * x + 4, z) == pytest.approx(distance_correlation(x, z))
    assert abs(distance_correlation(x, rng.normal(size=(150, 2)))) < 0.05
    assert distance_correlation(x, np.ones((150, 2))) == 0


def test_neighbourhood_change_agrees_with_sets_and_is_the_error_of_each_point():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(80, 5)), rng.normal(size=(80, 9))
    found = neighbourhood_change(a, b, k=7)
    for i in range(80):
        near = [set(np.argsort(np.delete(np.linalg.norm(x - x[i], axis=1), i))[:7]) for x in (a, b)]
        assert found[i] == pytest.approx(1 - len(near[0] & near[1]) / 7)
    assert (neighbourhood_change(a, 3 * a @ np.linalg.qr(rng.normal(size=(5, 5)))[0]) == 0).all()
    lost = neighbourhood_change(a, a[:, :2])
    kept = faithfulness(a, a[:, :2], np.arange(80) % 2)["neighbours_kept"]
    assert lost.mean() == pytest.approx(1 - kept)
    with pytest.raises(WRONG_SHAPE):
        neighbourhood_change(a, b[1:])
    with pytest.raises(UsageError, match="k must be between 1 and 39 for n = 80 images; given 40"):
        neighbourhood_change(a, b, k=40)


def test_faithfulness_of_many_images_is_that_of_their_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(95, 6)), np.arange(95) % 3
    whole = faithfulness(x, x[:, :2], y)
    monkeypatch.setattr(metrics, "BLOCK", 20)
    assert faithfulness(x, x[:, :2], y) == pytest.approx(whole)
    assert np.vstack([ranks(x, rows) for rows in metrics._blocks(95)]).tolist() == ranks(x).tolist()


def test_faithfulness_survives_duplicates():
    x = np.repeat(blobs(n=40)[0], 2, axis=0)
    found = faithfulness(x, x[:, :2], np.arange(80) % 2)
    assert all(0 <= value <= 1 for value in found.values())


def test_ranks_start_with_the_point_itself():
    x = np.array([[0.0, 0], [1, 0], [3, 0], [3, 0]])
    assert ranks(x).tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 0, 1], [3, 2, 1, 0]]


NAN, INF = (np.where(np.eye(90, 6) == 1, bad, 1.0) for bad in (np.nan, np.inf))
ONE, LONE = np.zeros(90, dtype=int), np.r_[np.zeros(89, dtype=int), 1]
FLAT = np.ones((90, 6))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("features", "labels", "error", "words"),
    [
        (NAN, None, UsageError, "features must be finite; 6 of 90 rows"),
        (INF, None, UsageError, "features must be finite; 6 of 90 rows"),
        (None, ONE, UsageError, "two classes; given only 0"),
        (None, ONE[:5], WRONG_SHAPE, None),
        (FLAT[:, 0], None, WRONG_SHAPE, None),
    ],
)
def test_every_measure_names_what_is_wrong_with_its_input(
    name, features, labels, error, words, sample
):
    x, y, t, u = sample
    x, y = x if features is None else features, y if labels is None else labels
    with pytest.raises(error, match=words):
        measure(x, y, train_features=t, train_labels=u, measures=[name])


@pytest.mark.parametrize("name", ["knn", "probe"])
@pytest.mark.parametrize(
    ("train_features", "train_labels", "error", "words"),
    [
        (NAN, ONE, UsageError, "training features must be finite; 6 of 90"),
        (FLAT, ONE, UsageError, "training labels must hold at least two classes"),
        (FLAT, LONE[:8], WRONG_SHAPE, None),
        (FLAT[:, :4], LONE, WRONG_SHAPE, None),
    ],
)
def test_probes_name_what_is_wrong_with_the_training_sample(
    name, train_features, train_labels, error, words, sample
):
    x, y, _, _ = sample
    with pytest.raises(error, match=words):
        measure(x, y, train_features=train_features, train_labels=train_labels, measures=[name])


def test_measures_name_their_own_limits(sample):
    x, y, t, u = sample
    for function in (metrics.within_share, metrics.silhouette):
        with pytest.raises(UsageError, match="every class needs two images; class 1 has one"):
            function(x, LONE)
        with pytest.raises(UsageError, match="features must differ; all 90 rows are equal"):
            function(FLAT, y)
    with pytest.raises(UsageError, match="at least 5 training images; given 4"):
        metrics.knn(x, y, t[:4], u[:4])
    with pytest.raises(UsageError, match="training features must differ; all 90 rows are equal"):
        metrics.probe(x, y, FLAT, y)
    with pytest.raises(UsageError, match="unknown measure 'silhuette'; one of: within_share, silh"):
        measure(x, y, train_features=t, train_labels=u, measures=["silhuette"])


def test_faithfulness_names_what_is_wrong(sample):
    x, y, _, _ = sample
    with pytest.raises(UsageError, match="k must be between 1 and 44 for n = 90 images; given 45"):
        faithfulness(x, x[:, :2], y, k=45)
    with pytest.raises(UsageError, match="k must be between 1"):
        faithfulness(x, x[:, :2], y, k=0)
    with pytest.raises(UsageError, match="map must be finite; 2 of 90 rows"):
        faithfulness(x, NAN[:, :2], y)
    with pytest.raises(UsageError, match="features must be finite"):
        faithfulness(NAN, x[:, :2], y)
    with pytest.raises(UsageError, match="two classes"):
        faithfulness(x, x[:, :2], ONE)
    with pytest.raises(UsageError, match="more than 5 images; given 4"):
        faithfulness(x[:4], x[:4, :2], y[:4], k=1)
    for wrong in (x[:, :3], x[:50, :2]):
        with pytest.raises(WRONG_SHAPE):
            faithfulness(x, wrong, y)
