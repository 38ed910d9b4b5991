"""How much faster are features of all layers from one forward pass than one pass per layer?

    python benchmarks/layers.py --device cpu

resnet20 on images of CIFAR's size. kdlib observes all six layers in one forward pass and writes
one file; the other way runs the network once for each layer, with a hook that appends to a Python
list, written by `np.save`.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from epoch import network, noise
from pairs import Row, device, keep, pairs, ratios
from torch import nn

from kdlib import features, models, store
from kdlib.data import Images, normalised

IMAGES = {"cpu": 500, "cuda": 10_000}
BATCH = 512


def one_pass(net: nn.Module, images: Images, folder: Path) -> None:
    """kdlib's way: all layers at once, one file."""
    rows = np.arange(len(images.test))
    tensors = features.extract(net, images.test, mean=images.mean, std=images.std, batch_size=BATCH)
    labels = images.test_labels.cpu().numpy()
    test = {layer: x.numpy() for layer, x in tensors.items()}
    train = {layer: x[:1] for layer, x in test.items()}  # a file holds both; one row is enough
    (folder / "features.safetensors").unlink(missing_ok=True)
    store.save_layers(folder, store.Layers(train, labels[:1], test, labels, rows, rows[:1]))


@torch.no_grad()
def six_passes(net: nn.Module, images: Images, folder: Path) -> None:
    """A forward pass for each layer, with a hook into a list."""
    for layer in models.LAYERS:
        rows: list[np.ndarray] = []

        def append(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            mean = output.mean((2, 3)) if output.ndim == 4 else output
            rows.extend(mean.cpu().numpy())  # noqa: B023 - called within this turn

        handle = models.part(net, layer).register_forward_hook(append)
        for x in images.test.split(BATCH):
            net(normalised(x, images.mean, images.std))
        handle.remove()
        np.save(folder / f"{layer}.npy", np.stack(rows))


def main() -> None:
    """Measure the row."""
    where = device(__doc__)
    images = noise(IMAGES[where.type])
    images = images._replace(test=images.train, test_labels=images.train_labels).to(where)
    net = network("resnet20").to(where).eval()
    row = Row(
        "features",
        "features of 6 layers, on disk: one pass",
        "six passes with hooks into Python lists, np.save",
        4.0,
        scaled=f"{len(images.test):,} images stand for 10,000: time is per image",
    )
    with tempfile.TemporaryDirectory() as folder:
        both = pairs(
            lambda: six_passes(net, images, Path(folder)),
            lambda: one_pass(net, images, Path(folder)),
            where,
        )
    keep(row, ratios(row, both), where, "the one pass and its file take the rest")


if __name__ == "__main__":
    main()
