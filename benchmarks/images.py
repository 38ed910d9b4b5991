"""Images, and features of them by small networks: what the other scripts map and measure."""

from functools import cache

import numpy as np
import torch

from kdlib import data, features, models, train
from kdlib.data import Batches, Images, augment
from kdlib.plan.runs import Student


@cache
def images() -> Images:
    """The digits."""
    return data.load("digits")


def shifted(rows: slice) -> tuple[torch.Tensor, np.ndarray]:
    """Digits and their labels, each in nine places: 16,173 images in a fixed random order."""
    x = torch.cat([images().train, images().test])
    y = torch.cat([images().train_labels, images().test_labels])
    order = torch.randperm(9 * len(x), generator=torch.Generator().manual_seed(0))[rows]
    by = torch.cartesian_prod(*2 * [torch.arange(-1, 2)])[order // len(x)]
    return augment.shifted(x[order % len(x)], by, 1), y[order % len(x)].numpy()


def layers(
    seed: int, n: int, width: float = 1.0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Every layer of a network after two epochs: of n images, of 2,000 others, and both labels."""
    run = Student(method="baseline", width=width, labels_per_class="all", epochs=2, seed=seed)
    network = models.build("resnet8", classes=10, channels=1, width=width, seed=seed)
    labelled = torch.arange(len(images().train))
    train.fit(network, Batches(images(), labelled, run.batch_size, seed), run)
    parts, labels = zip(*map(shifted, (slice(n), slice(-2000, None))), strict=True)
    scale = {"mean": images().mean, "std": images().std}
    test, train_part = (
        {layer: x.numpy() for layer, x in features.extract(network, part, **scale).items()}
        for part in parts
    )
    return test, train_part, *labels
