"""UMAP, PaCMAP and LocalMAP, each by its authors' package: optional, `pip install -e '.[maps]'`."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from kdlib import UsageError
from kdlib.embed.prepare import check_number
from kdlib.embed.workers import Progress, parallel


def umap(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
    k: int = 15,
    min_dist: int | float = 0.1,
) -> list[np.ndarray]:
    """Keep a graph of fuzzy neighbourhoods: UMAP, McInnes et al. 2018, by umap-learn.

    `k` nearest neighbours; points no closer than about `min_dist`. Raises UsageError unless
    2 <= k < n, and when umap-learn is not installed.
    """
    check_umap(len(layers[0]), k=k, min_dist=min_dist)
    settings = {"n_neighbors": k, "min_dist": min_dist, "random_state": seed, "n_jobs": 1}
    return parallel(
        functools.partial(_fit_umap, settings=settings), layers, starts, workers, progress
    )


def pacmap(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
    k: int = 10,
) -> list[np.ndarray]:
    """Keep near, middle and far pairs: PaCMAP, Wang et al. 2021, by its authors.

    `k` nearest neighbours. Raises UsageError unless 2 <= k < n / 2, and when pacmap is not
    installed.
    """
    return _pairs("PaCMAP", layers, starts, seed, k, workers=workers, progress=progress)


def localmap(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    *,
    starts: Sequence[Float[np.ndarray, "n 2"]],
    seed: int,
    workers: int,
    progress: Progress,
    k: int = 10,
) -> list[np.ndarray]:
    """Part the clusters that false neighbours hold together: LocalMAP, Wang et al. 2024.

    PaCMAP with a last phase that weighs pairs by their distance on the map. Options and errors
    as `pacmap`.
    """
    return _pairs("LocalMAP", layers, starts, seed, k, workers=workers, progress=progress)


def _pairs(
    kind: str,
    layers: Sequence[np.ndarray],
    starts: Sequence[np.ndarray],
    seed: int,
    k: int,
    **settings: Any,
) -> list[np.ndarray]:
    check_pairs(len(layers[0]), k=k)
    fit = functools.partial(_fit_pacmap, kind=kind, k=k, seed=seed)
    return parallel(fit, layers, starts, **settings)


def check_umap(n: int, *, k: int = 15, min_dist: int | float = 0.1) -> None:
    """Raise UsageError unless `umap` can map n images by these options."""
    _package("umap", "umap-learn")
    check_number("k", k, 2, n - 1, f" for n = {n} images")
    check_number("min_dist", min_dist, 0, 1, whole=False)


def check_pairs(n: int, *, k: int = 10) -> None:
    """Raise UsageError unless `pacmap` and `localmap` can map n images by these options."""
    _package("pacmap", "pacmap")
    check_number("k", k, 2, (n - 1) // 2, f" for n = {n} images")


def _package(module: str, package: str) -> Any:
    """Import what only these methods need. Raises UsageError where it is missing.

    Without the parametric half of UMAP, which would start TensorFlow and is not used.
    """
    sys.modules.setdefault("umap.parametric_umap", None)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"this method needs {package}, which is not installed;"
            " `pip install -e '.[maps]'` in the project's folder installs it"
        ) from None


def _fit_umap(layer: np.ndarray, start: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    model = _package("umap", "umap-learn").UMAP(init=start.astype(np.float32), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit_transform(layer)


def _fit_pacmap(layer: np.ndarray, start: np.ndarray, kind: str, k: int, seed: int) -> np.ndarray:
    package = _package("pacmap", "pacmap")
    logging.getLogger("pacmap").setLevel(logging.ERROR)  # it logs the seed and the search
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(package, kind)(n_neighbors=k, random_state=seed, apply_pca=False)
        return model.fit_transform(layer, init=start.astype(np.float32))
