"""Features made ready for every embedder: checked, at most 50 components, one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Num

from kdlib import UsageError

COMPONENTS = 50  # principal components that every embedder starts from


def prepare(features: Num[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
    """Centre, keep the first c <= 50 principal components, divide all by one number.

    The mean square of the result is 1: the same layer at another scale, shifted or rotated gives
    the same map up to rounding. In each component the entry of largest size is positive, which
    fixes the signs. Raises UsageError as `validated` does.
    """
    x = validated(features)
    x = x - x.mean(axis=0)
    # Not scikit-learn's PCA, whose last float32 digit differs where channels are constant or
    # repeat each other, and for d > n: t-SNE makes another map of it.
    if x.shape[1] <= len(x):
        scores = x @ np.linalg.eigh(x.T @ x)[1][:, : -COMPONENTS - 1 : -1]
    else:  # more features than images: the same scores from the smaller (n, n) matrix
        values, vectors = np.linalg.eigh(x @ x.T)
        scores = (vectors * np.sqrt(values.clip(0)))[:, : -COMPONENTS - 1 : -1]
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
    scores = scores * np.where(largest < 0, -1, 1)
    return (scores / np.sqrt(np.square(scores).mean())).astype(np.float32)


def validated(features: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Return the features as float64.

    Raises UsageError unless they are real numbers of shape (n, d) with n and d at least 2,
    finite, and not all rows equal. Rows that occur twice are allowed.
    """
    x = np.asarray(features)
    if x.dtype.kind not in "fiub":
        raise UsageError(f"features must be real numbers; given {x.dtype}")
    x = x.astype(np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 2:
        raise UsageError(f"features must be (n, d) with n and d at least 2; given {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise UsageError(f"features must be finite; {rows} of {len(x)} rows hold NaN or infinity")
    if (x == x[0]).all():
        raise UsageError(f"features must differ; all {len(x)} rows are equal")
    return x


def check_number(
    name: str,
    value: Any,
    low: int,
    high: int | float = np.inf,
    suffix: str = "",
    *,
    whole: bool = True,
) -> None:
    """Raise UsageError unless `value` is a (whole) number from low to high.

    `suffix` follows the range in the message, for example " for n = 100 images".
    """
    kinds = (int, np.integer) if whole else (int, float, np.number)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        allowed = f"of at least {low}" if high == np.inf else f"between {low} and {high}"
        raise UsageError(f"{name} must be {kind} {allowed}{suffix}; given {value!r}")
