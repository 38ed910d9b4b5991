import numpy as np
import pytest

from kdlib import UsageError
from kdlib.measure import space
from kdlib.measure.space import Space

# jaxtyping's checker, where it is switched on, speaks before kdlib does
WRONG_SHAPE = (UsageError, TypeError)
GOOD = np.random.default_rng(0).normal(size=(90, 6))
LABELS = np.arange(90) % 3
NAN, INF = (np.where(np.eye(90, 6) == 1, bad, 1.0) for bad in (np.nan, np.inf))
ONE = np.zeros(90, dtype=int)


def test_the_twenty_nearest_are_those_of_a_loop():
    x = np.random.default_rng(0).normal(size=(50, 3)) + 100
    rows, distances = Space(x, np.arange(50) % 2).near
    assert rows.shape == distances.shape == (50, 20)
    for i in range(50):
        distance = np.linalg.norm(x - x[i], axis=1)
        distance[i] = np.inf
        expected = np.argsort(distance, kind="stable")[:20]
        assert rows[i].tolist() == expected.tolist()
        np.testing.assert_allclose(distances[i], distance[expected])


def test_of_equal_images_one_counts_for_distances():
    x = np.array([[0.1, 7], [1, 7], [0.1, 7], [5, 1], [0.1, 7]]) * 1e3
    assert Space(x, np.array([0, 0, 0, 1, 1])).distances.shape == (3, 2)


@pytest.mark.parametrize("d", [6, 200])
def test_the_spectrum_is_that_of_the_covariance_and_ends_in_zeros(d):
    x = np.random.default_rng(0).normal(size=(90, 3)) @ np.eye(3, d)
    values = Space(x, LABELS).spectrum
    np.testing.assert_allclose(
        values[:3], np.linalg.eigvalsh(90 * np.cov(x[:, :3].T, ddof=0))[::-1]
    )
    assert (values[3:] == 0).all()
    assert len(values) == min(90, d)


def test_class_means_are_relative_to_the_mean_of_all():
    result = Space(GOOD, LABELS * 10 - 4)
    np.testing.assert_allclose(result.means[1], GOOD[LABELS == 1].mean(0) - GOOD.mean(0))
    assert result.classes.tolist() == [-4, 6, 16]
    assert result.counts.tolist() == [30, 30, 30]


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (NAN, LABELS, "features must be finite; 6 of 90 rows hold NaN or infinity"),
        (INF, LABELS, "features must be finite; 6 of 90 rows"),
        (GOOD, ONE, "labels must hold at least two classes; given only 0"),
        (np.ones((90, 6)), LABELS, "features must differ; all 90 rows are equal"),
        (GOOD, ONE[:5], None),
        (GOOD[:, 0], LABELS, None),
    ],
)
def test_a_space_names_what_is_wrong_with_its_input(features, labels, words):
    with pytest.raises(WRONG_SHAPE if words is None else UsageError, match=words):
        Space(features, labels)


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (NAN, ONE, "training features must be finite; 6 of 90"),
        (GOOD, ONE, "training labels must hold at least two classes"),
        (GOOD, LABELS[:8], None),
        (GOOD[:, :4], LABELS, None),
    ],
)
def test_a_space_names_what_is_wrong_with_the_training_sample(features, labels, words):
    with pytest.raises(WRONG_SHAPE if words is None else UsageError, match=words):
        Space(GOOD, LABELS, features, labels)


def test_spaces_of_a_network_name_the_layer_that_is_wrong():
    good = {"stem": GOOD, "pool": GOOD}
    made = space.spaces(good, LABELS, good, LABELS)
    assert list(made) == ["stem", "pool"]
    assert all(one.trained for one in made.values())
    with pytest.raises(UsageError, match="pool: features must be finite"):
        space.spaces(good | {"pool": NAN}, LABELS, good, LABELS)
