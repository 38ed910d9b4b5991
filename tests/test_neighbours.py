"""The search for neighbours against loops and scikit-learn, ties and memory included."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from kdlib import UsageError, neighbours
from kdlib.neighbours import METRICS, nearest, ranks


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_agree_with_scikit_learn_on_digits(metric):
    x = load_digits().data + np.random.default_rng(0).normal(0, 0.01, (1797, 64))  # without ties
    distances, rows = NearestNeighbors(n_neighbors=15, metric=metric).fit(x).kneighbors()
    result = nearest(x, 15, metric)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_allclose(result.distances, distances, atol=1e-11)
    single = nearest(x.astype("float32"), 15, metric)  # as IVIS searches
    search = NearestNeighbors(n_neighbors=15, metric=metric).fit(x.astype("float32"))
    assert (single.rows == search.kneighbors(return_distance=False)).mean() > 0.9999


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_among_other_points_agree_with_scikit_learn(metric):
    rng = np.random.default_rng(0)
    x, others = rng.normal(size=(20, 4)) + 3, rng.normal(size=(50, 4)) + 3
    distances, rows = NearestNeighbors(n_neighbors=50, metric=metric).fit(others).kneighbors(x)
    result = nearest(x, 50, metric, among=others)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_allclose(result.distances, distances, atol=1e-11)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 20, 59])
def test_equal_distances_go_to_the_lower_row_whatever_is_in_memory(monkeypatch, metric, k):
    half = np.random.default_rng(0).choice([-3.0, -1, 1, 3], size=(30, 2))
    x = np.r_[half, -half]  # about 0, and most distances are equal
    result = nearest(x, k, metric)
    for i in range(60):
        distance = np.linalg.norm(x - x[i], axis=1)
        if metric == "cosine":
            distance = 1 - x @ x[i] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[i])
        order = [j for j in np.argsort(distance.round(9), kind="stable") if j != i]
        assert result.rows[i].tolist() == order[:k]
    monkeypatch.setattr(neighbours, "MEMORY", 8 * 60 * 7)
    np.testing.assert_array_equal(nearest(x, k, metric).rows, result.rows)


def test_equal_points_are_at_distance_0():
    x = np.array([[0.1, 7], [1, 7], [0.1, 7], [5, 1], [0.1, 7]]) * 1e3
    rows, distances = nearest(x, 4)
    assert rows[:, :2].tolist() == [[2, 4], [0, 2], [0, 4], [1, 0], [0, 2]]
    assert (distances[[0, 2, 4], :2] == 0).all()


def test_a_point_at_0_has_no_direction_and_is_at_distance_1_from_all():
    around = np.r_[np.eye(4), -np.eye(4), np.zeros((1, 4))]
    rows, distances = nearest(around, 8, "cosine")
    assert rows[8].tolist() == list(range(8))
    assert distances[8].tolist() == [1] * 8


def test_ranks_start_with_the_point_itself():
    x = np.array([[0.0, 0], [1, 0], [3, 0], [3, 0]])
    assert ranks(x).tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 0, 1], [3, 2, 1, 0]]


def test_ranks_are_the_places_of_neighbours_from_some_rows_or_all():
    x = np.random.default_rng(0).normal(size=(95, 6)) + 100
    whole, order = ranks(x), nearest(x, 94).rows
    np.testing.assert_array_equal(np.take_along_axis(whole, order, 1), [range(1, 95)] * 95)
    np.testing.assert_array_equal(ranks(x, slice(20, 41)), whole[20:41])


def test_a_search_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"'manhattan'; .*euclidean, cosine"):
        nearest(np.eye(5), 2, "manhattan")
    for k in (0, 5):
        with pytest.raises(UsageError, match=f"k .* 1 .* 4 .* 5.* {k}"):
            nearest(np.eye(5), k)
    with pytest.raises(UsageError, match=r"k .* 1 .* 5 .* 5.* 6"):
        nearest(np.eye(3, 5), 6, among=np.eye(5))
