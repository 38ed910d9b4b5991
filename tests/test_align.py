"""Maps side by side: one start, turned to each other, and how far points move."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdlib import UsageError, embed
from kdlib.embed import align, shared_start
from kdlib.embed.prepare import prepare

# jaxtyping's checker, where it is switched on, comes before kdlib's own
WRONG_TYPE = (UsageError, TypeError)


@pytest.fixture(scope="module")
def few():
    return load_digits().data[:100].astype(np.float32)


def rms(points):
    return np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())


def test_shared_start_sees_every_layer_equally(few):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(100, 8))
    start = shared_start([few, 1e-3 * noise, few[:, :20]])
    assert start.shape == (100, 2)
    assert start.dtype == np.float32
    scaled = shared_start([few * 40, noise + 7, few[:, :20]])
    np.testing.assert_allclose(start, scaled, atol=1e-3)
    np.testing.assert_allclose(
        np.abs(np.corrcoef(shared_start([few, few]).T, prepare(few)[:, :2].T)[[0, 1], [2, 3]]), 1
    )
    with pytest.raises(UsageError, match=r"same images; given n = \[100, 50\]"):
        shared_start([few, few[:50]])
    with pytest.raises(UsageError, match="same images; given n = \\[\\]"):
        shared_start([])


def turned(points, degrees, mirrored=False):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points @ np.array([[c, -s], [s, c]]) * ([1, -1] if mirrored else [1, 1])


@pytest.mark.parametrize("reference", [0, 1, 3, "array"])
def test_align_recovers_turned_mirrored_scaled_and_shifted_copies(reference):
    base = np.random.default_rng(0).normal(size=(40, 2)) * [2, 1]
    copies = [
        base,
        9 * turned(base, 130) + 4,
        0.1 * turned(base, 20, mirrored=True) - 8,
        turned(base, 250),
    ]
    target = turned(base, 77) if reference == "array" else copies[reference]
    aligned = align(np.stack(copies), target if reference == "array" else reference)
    expected = (target - target.mean(0)) / rms(target)
    for points in aligned:
        np.testing.assert_allclose(points, expected, atol=1e-9)
        assert rms(points) == pytest.approx(1)


def test_align_turns_maps_only_and_finds_the_least_distance():
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(3, 30, 2))
    aligned = align(maps, 1)
    for before, after in zip(maps, aligned, strict=True):
        a = np.linalg.norm(before[:, None] - before[None], axis=2) / rms(before)
        np.testing.assert_allclose(np.linalg.norm(after[:, None] - after[None], axis=2), a)
    for one in (0, 2):  # no other angle, mirrored or not, comes closer to the neighbour
        best = ((aligned[one] - aligned[1]) ** 2).sum()
        for degrees in range(0, 360, 5):
            for mirrored in (False, True):
                other = turned(aligned[one], degrees, mirrored)
                assert ((other - aligned[1]) ** 2).sum() >= best - 1e-9


def test_align_follows_a_chain_from_the_reference():
    maps = np.random.default_rng(2).normal(size=(4, 30, 2))
    chain = align(maps, 3)
    np.testing.assert_allclose(align(maps[[1]], chain[2])[0], chain[1])
    np.testing.assert_allclose(align(maps[[0]], chain[1])[0], chain[0])
    chain = align(maps, 0)
    np.testing.assert_allclose(align(maps[[2]], chain[1])[0], chain[2])
    np.testing.assert_allclose(align(maps[[3]], chain[2])[0], chain[3])


def test_align_names_what_is_wrong():
    maps = np.random.default_rng(0).normal(size=(3, 10, 2))
    with pytest.raises(UsageError, match=r"reference .* 0 .* 2"):
        align(maps, 3)
    with pytest.raises(UsageError, match="all 10 rows are equal"):
        align(np.ones((2, 10, 2)))
    with pytest.raises(UsageError, match="must be finite"):
        align(maps * np.nan)
    with pytest.raises(WRONG_TYPE):
        align(maps[0])
    with pytest.raises(WRONG_TYPE):
        align(maps, maps[0, :5])


def test_displacement_is_zero_for_a_turned_copy_and_known_for_random_places():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2000, 2))
    copy = 3 * a[:, ::-1] + 5
    np.testing.assert_allclose(embed.displacement(a, copy), 0, atol=1e-9)
    assert embed.displacement(a, copy, turned=False).mean() > 0.5
    other = rng.normal(size=(2000, 2))
    assert embed.displacement(a, other, turned=False).mean() == pytest.approx(1.25, abs=0.05)
