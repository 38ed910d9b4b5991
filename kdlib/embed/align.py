"""Lay maps side by side: one start, one scale, turned to each other; how far points move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Num
from threadpoolctl import threadpool_limits

from kdlib import UsageError
from kdlib.embed.prepare import check_number, prepare, validated


def shared_start(layers: Sequence[Num[np.ndarray, "n _"]]) -> Float32[np.ndarray, "n 2"]:
    """Give the t-SNE maps of several layers one start, so that they can be compared.

    The first two principal components of all prepared layers side by side; every layer has the
    same total variance in it. Halves the movement between neighbouring layers' maps and costs no
    faithfulness. Raises UsageError as `embed` does, and when the layers differ in n.

        start = shared_start([block1, block2])               # (500, 16), (500, 32) -> (500, 2)
    """
    counts = [len(layer) for layer in layers]
    if len(set(counts)) != 1:
        raise UsageError(f"a shared start needs layers of the same images; given n = {counts}")
    with threadpool_limits(1):
        scaled = [x / np.sqrt(x.shape[1]) for x in map(prepare, layers)]
        return np.ascontiguousarray(prepare(np.concatenate(scaled, axis=1))[:, :2])


def align(
    maps: Num[np.ndarray, "m n 2"], reference: int | Num[np.ndarray, "n 2"] = 0
) -> Float[np.ndarray, "m n 2"]:
    """Rotate and mirror maps of the same images so that matching points lie close together.

    Each map is centred and scaled to a root mean square distance of 1 from its centre; then
    orthogonal Procrustes (Schonemann 1966): the rotation or reflection with the least squared
    distance between matching points. No map changes its shape. With a number as reference that
    map stays as it is and the others follow as a chain, each turned to its neighbour on the
    reference's side: give the maps in the order of the layers. With a map (n, 2) as reference
    each map is turned to it directly. Raises UsageError for shapes other than (m, n, 2), values
    that are not finite, a map whose points are all equal, and a reference that is not there.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[2] != 2:
        raise UsageError(f"align needs maps of shape (m, n, 2); given {maps.shape}")
    aligned = np.stack([unit(points) for points in maps])
    if not isinstance(reference, int | np.integer):
        target = np.asarray(reference, dtype=np.float64)
        if target.shape != maps.shape[1:]:
            raise UsageError(f"the reference has shape {target.shape}; needed {maps.shape[1:]}")
        return np.stack([_rotated(points, unit(target)) for points in aligned])
    check_number("reference", reference, 0, len(maps) - 1)
    for i in range(reference + 1, len(maps)):
        aligned[i] = _rotated(aligned[i], aligned[i - 1])
    for i in range(reference - 1, -1, -1):
        aligned[i] = _rotated(aligned[i], aligned[i + 1])
    return aligned


def displacement(
    a: Num[np.ndarray, "n 2"], b: Num[np.ndarray, "n 2"], *, turned: bool = True
) -> Float[np.ndarray, " n"]:
    """How far each point lies from its place on the other map.

    In units of the map's width: both are centred and scaled to a root mean square distance of 1
    from the centre; two random places are about 1.3 apart. With `turned`, after orthogonal
    Procrustes. In [0, ...). Raises UsageError as `align`.
    """
    first, second = unit(a), unit(b)
    if turned:
        first = _rotated(first, second)
    return np.linalg.norm(first - second, axis=1)


def unit(points: Num[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return a map centred, with a root mean square distance of 1 from its centre."""
    x = validated(points)
    x = x - x.mean(axis=0)
    return x / np.sqrt(np.square(x).sum(axis=1).mean())


def _rotated(points: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Return the map rotated or mirrored onto the target."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)
