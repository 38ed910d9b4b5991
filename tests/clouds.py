"""Invented features: Gaussian classes."""

import numpy as np


def blobs(n=120, d=6, classes=3, spread=1.0, seed=0):
    """Draw Gaussian classes around random centres."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = 2 * np.random.default_rng(99).normal(size=(classes, d))
    return centres[y] + spread * rng.normal(size=(n, d)), y
