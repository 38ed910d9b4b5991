"""Images as one tensor on the device, label budgets, and augmented batches."""

from kdlib.data.batches import Batch, Batches, forward_size, normalised
from kdlib.data.dataset import Images, budget, check_sample, load, moments, sample, test_sample
from kdlib.plan.source import Source

__all__ = [
    "Batch",
    "Batches",
    "Images",
    "Source",
    "budget",
    "check_sample",
    "forward_size",
    "load",
    "moments",
    "normalised",
    "sample",
    "test_sample",
]
