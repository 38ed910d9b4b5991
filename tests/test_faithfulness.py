"""Numbers about maps against loops, scikit-learn and known answers."""

import numpy as np
import pytest
from clouds import blobs
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from kdlib import UsageError, neighbours
from kdlib.measure.faithfulness import (
    FAITHFULNESS,
    MAP_MEASURES,
    distance_correlation,
    faithfulness,
    map_hulls,
    map_measures,
    map_silhouette,
    nearest,
    neighbourhood_change,
)

# jaxtyping's checker, where it is switched on, speaks before kdlib does
WRONG_SHAPE = (UsageError, TypeError)


@pytest.fixture(scope="module")
def sample():
    return blobs(n=90, spread=2.5)


def by_loops(x, z, k):
    """Trustworthiness, continuity and neighbours kept, word for word from the formulas."""
    n = len(x)

    def order(points, i):
        distance = [np.linalg.norm(points[i] - points[j]) for j in range(n)]
        return sorted((j for j in range(n) if j != i), key=lambda j: distance[j])

    torn = false = shared = 0
    for i in range(n):
        near, on_map = order(x, i), order(z, i)
        shared += len(set(near[:k]) & set(on_map[:k]))
        false += sum(near.index(j) + 1 - k for j in set(on_map[:k]) - set(near[:k]))
        torn += sum(on_map.index(j) + 1 - k for j in set(near[:k]) - set(on_map[:k]))
    worst = n * k * (2 * n - 3 * k - 1) / 2
    return {
        "trustworthiness": 1 - false / worst,
        "continuity": 1 - torn / worst,
        "neighbours_kept": shared / (n * k),
    }


@pytest.mark.parametrize("k", [1, 4, 15])
def test_faithfulness_agrees_with_loops_and_scikit_learn(k):
    x, y = blobs(n=60)
    z = x[:, :2] + np.random.default_rng(3).normal(size=(60, 2))
    result = faithfulness(x, z, y, k=k)
    assert list(result) == list(FAITHFULNESS)
    for name, value in by_loops(x, z, k).items():
        assert result[name] == pytest.approx(value)
        assert value < 0.95
    assert result["trustworthiness"] == pytest.approx(sklearn_trustworthiness(x, z, n_neighbors=k))
    assert result["continuity"] == pytest.approx(sklearn_trustworthiness(z, x, n_neighbors=k))


def test_map_knn_agrees_with_leave_one_out_by_scikit_learn():
    x, y = blobs(n=80, spread=2.5)
    hits = cross_val_score(KNeighborsClassifier(5), x[:, :2], y, cv=LeaveOneOut())
    assert 0.3 < hits.mean() < 0.95
    assert faithfulness(x, x[:, :2], y)["map_knn"] == pytest.approx(hits.mean())


def test_map_knn_takes_any_whole_numbers_as_labels():
    x, y = blobs(n=80, spread=2.5)
    expected = faithfulness(x, x[:, :2], y)["map_knn"]
    assert faithfulness(x, x[:, :2], y * 100 - 7)["map_knn"] == expected


def test_map_silhouette_agrees_with_a_loop():
    x, y = blobs(n=40, spread=2.5)
    values = []
    for i in range(40):
        away = np.linalg.norm(x[:, :2] - x[i, :2], axis=1)
        own, *other = (away[(y == c) & (np.arange(40) != i)].mean() for c in (y[i], *{*y} - {y[i]}))
        values.append((min(other) - own) / max(own, min(other)))
    assert map_silhouette(x[:, :2], y) == pytest.approx(np.mean(values))
    with pytest.raises(UsageError, match="at least two classes"):
        map_silhouette(x[:, :2], np.zeros(40, int))


def test_a_perfect_map_scores_1_at_any_scale_shift_and_rotation():
    x, y = blobs(n=100, d=2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    result = faithfulness(x, 3 * (x @ turn) - 5, y)
    assert [result[name] for name in list(FAITHFULNESS)[:3]] == [1, 1, 1]


def test_a_random_map_scores_what_chance_gives():
    x, y = blobs(n=400)
    result = faithfulness(x, np.random.default_rng(1).normal(size=(400, 2)), y)
    assert result["trustworthiness"] == pytest.approx(0.5, abs=0.03)
    assert result["continuity"] == pytest.approx(0.5, abs=0.03)
    assert result["neighbours_kept"] == pytest.approx(15 / 399, abs=0.01)
    assert result["map_knn"] == pytest.approx(1 / 3, abs=0.08)


def test_torn_and_glued_maps_differ():
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


def test_of_few_images_as_many_neighbours_count_as_can():
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2
    assert faithfulness(x, x[:, :2], y) == faithfulness(x, x[:, :2], y, k=9)
    assert (neighbourhood_change(x, x[:, :2]) == neighbourhood_change(x, x[:, :2], k=9)).all()


def test_neighbourhood_change_agrees_with_sets_and_is_the_error_of_each_point():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(80, 5)), rng.normal(size=(80, 9))
    result = neighbourhood_change(a, b, k=7)
    for i in range(80):
        near = [set(np.argsort(np.delete(np.linalg.norm(x - x[i], axis=1), i))[:7]) for x in (a, b)]
        assert result[i] == pytest.approx(1 - len(near[0] & near[1]) / 7)
    assert (neighbourhood_change(a, 3 * a @ np.linalg.qr(rng.normal(size=(5, 5)))[0]) == 0).all()
    lost = neighbourhood_change(a, a[:, :2])
    same = faithfulness(a, a[:, :2], np.arange(80) % 2)["neighbours_kept"]
    assert lost.mean() == pytest.approx(1 - same)
    with pytest.raises(WRONG_SHAPE):
        neighbourhood_change(a, b[1:])
    with pytest.raises(UsageError, match=r"k .* 1 .* 39 .* 80 .*40"):
        neighbourhood_change(a, b, k=40)


def polygon(points):
    """The area of a convex hull: the points that see all others on one side, by the shoelace."""
    centre = points.mean(axis=0)
    edges = [
        (a, b)
        for a in points
        for b in points
        if (a != b).any() and all(np.linalg.det([b - a, c - a]) > -1e-9 for c in points)
    ]
    corners = np.unique([a for a, _ in edges], axis=0)
    turn = np.arctan2(*(corners - centre).T[::-1])
    x, y = corners[turn.argsort()].T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


def test_hulls_agree_with_the_shoelace_formula():
    rng = np.random.default_rng(0)
    xy, labels = rng.normal(size=(40, 2)), np.repeat([0, 1], 20)
    xy[labels == 1] += 2
    cores = []
    for c in (0, 1):
        own = xy[labels == c]
        far = np.linalg.norm(own - own.mean(axis=0), axis=1)
        cores.append(own[far < far.max()])  # 19 of 20
    expected = sum(map(polygon, cores)) / polygon(np.vstack(cores))
    assert map_hulls(xy, labels) == pytest.approx(expected)
    turned = 7 * xy @ np.linalg.qr(rng.normal(size=(2, 2)))[0] + 3
    assert map_hulls(turned, labels) == pytest.approx(expected)


def test_hulls_of_squares_are_known_and_those_of_lines_are_none():
    square = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    labels = np.repeat([0, 1], 4)
    assert map_hulls(np.vstack([square, square]), labels) == pytest.approx(2)  # on each other
    assert map_hulls(np.vstack([square, square + np.array([3, 0])]), labels) == pytest.approx(2 / 4)
    line = np.c_[np.arange(4.0), np.arange(4.0)]
    assert map_hulls(np.vstack([square * 3, line]), labels) == pytest.approx(1)
    assert map_hulls(np.vstack([line, line + 1]), labels) == 1
    with pytest.raises(UsageError, match="at least two classes"):
        map_hulls(square, np.zeros(4, dtype=int))


def test_faithfulness_survives_duplicates():
    x = np.repeat(blobs(n=40)[0], 2, axis=0)
    result = faithfulness(x, x[:, :2], np.arange(80) % 2)
    assert all(0 <= value <= 1 for value in result.values())


NAN = np.where(np.eye(90, 6) == 1, np.nan, 1.0)
ONE = np.zeros(90, dtype=int)


def test_faithfulness_names_what_is_wrong(sample):
    x, y = sample
    with pytest.raises(UsageError, match=r"k .* 1 .* 44 .* 90 .*45"):
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


def test_map_measures_are_those_of_the_table(sample):
    x, y = sample
    result = map_measures(x[:, :2], y)
    assert list(result) == list(MAP_MEASURES)
    assert result["map_knn"] == faithfulness(x, x[:, :2], y)["map_knn"]
    for name, value in result.items():
        assert MAP_MEASURES[name].low <= value <= MAP_MEASURES[name].high
        assert MAP_MEASURES[name].pitfall


def test_the_nearest_images_are_those_by_cosine_after_centring(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 6)) + 3
    x[7] = x[12]
    monkeypatch.setattr(neighbours, "MEMORY", 8 * 90 * 40)
    result = nearest(x, 5)
    c = x - x.mean(axis=0)
    for i in range(90):
        far = [1 - c[i] @ c[j] / np.linalg.norm(c[i]) / np.linalg.norm(c[j]) for j in range(90)]
        far[i] = np.inf
        assert result[i].tolist() == np.argsort(np.round(far, 9), kind="stable")[:5].tolist()
    assert result[7, 0] == 12
    np.testing.assert_array_equal(nearest(4 * x - 1, 5), result)
    around = np.r_[np.eye(4), -np.eye(4), np.zeros((1, 4))]  # the last has no direction
    assert nearest(around, 8)[8].tolist() == list(range(8))


@pytest.mark.parametrize("k", [0, 5])
def test_the_nearest_of_too_few_images_are_refused(k):
    with pytest.raises(UsageError, match=f"k .* 4 .* 5.*{k}"):
        nearest(np.eye(5), k)


def test_faithfulness_of_many_images_is_that_of_their_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(95, 6)), np.arange(95) % 3
    whole = faithfulness(x, x[:, :2], y)
    monkeypatch.setattr(neighbours, "MEMORY", 8 * 95 * 20)
    assert faithfulness(x, x[:, :2], y) == pytest.approx(whole)
