"""Images as one tensor on the device, label budgets, and batches that come augmented."""

from kdlib.data.batches import Batch, Batches, normalised
from kdlib.data.dataset import CONSTANTS, Constants, Images, Level, budget, load, sample

__all__ = [
    "CONSTANTS",
    "Batch",
    "Batches",
    "Constants",
    "Images",
    "Level",
    "budget",
    "load",
    "normalised",
    "sample",
]
