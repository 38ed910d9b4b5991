"""Which images stand for all: the same share of every class. No torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def stratified(
    labels: Int[np.ndarray, " n"], order: Int[np.ndarray, " n"], size: int
) -> Int[np.ndarray, " m"]:
    """The rows of `size` images or all there are, sorted: the same share of every class.

    Of each class the first in `order`, a permutation of the rows. Two of each class are among them
    where `size` allows it: large classes would leave small ones a single image.
    """
    rank = np.empty(len(labels), np.float32)  # in [0, 1) within the class of the image
    classes = np.unique(labels)
    for k in classes:
        members = order[labels[order] == k]
        rank[members] = np.arange(len(members), dtype=np.float32) / np.float32(len(members))
    chosen = rank.argsort(kind="stable")[:size]
    if size >= 2 * len(classes) and np.bincount(labels[chosen]).min() < 2:
        for k in classes:
            rank[order[labels[order] == k][:2]] = -1
        chosen = rank.argsort(kind="stable")[:size]
    return np.sort(chosen)
