"""Images as one tensor on the device, label budgets, and augmented batches."""

from kdlib.data.batches import Batch, Batches, normalised
from kdlib.data.dataset import Images, Level, budget, load, sample
from kdlib.plan.source import CONSTANTS, Constants, Source

__all__ = [
    "CONSTANTS",
    "Batch",
    "Batches",
    "Constants",
    "Images",
    "Level",
    "Source",
    "budget",
    "load",
    "normalised",
    "sample",
]
