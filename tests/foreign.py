"""Networks of somebody else, for `models.build("foreign:tiny")`: some fit, some do not."""

from collections import OrderedDict

import torch
from torch import nn

from kdlib.models import LayerPath


class Patches(nn.Module):
    """A transformer of one layer with a class token, by its own names."""

    def __init__(self, classes, channels):
        super().__init__()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
        self.cut = nn.Conv2d(channels, 8, 4, 4)
        self.last = nn.Identity()  # channels last
        self.head = nn.Linear(8, classes)
        self.layer_paths = {
            "stem": "cut",
            "block1": "layers.0",
            "block2": "layers.0",
            "block3": LayerPath("last", channels_last=True),
            "pool": LayerPath("head", at="input"),
            "logits": "head",
        }

    def forward(self, x):
        tokens = self.cut(x).flatten(2).mT
        tokens = self.layers[0](torch.cat((tokens.new_ones(len(x), 1, 8), tokens), 1))
        self.last(tokens[:, 1:].unflatten(1, (2, 2)))
        return self.head(tokens[:, 0])


def tiny(classes, channels, wide=4):
    """A network that names its children as kdlib does."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blocks = {f"block{i}": nn.Conv2d(wide, wide, 1) for i in (1, 2, 3)}
    stem, logits = nn.Conv2d(channels, wide, 3), nn.Linear(wide, classes)
    return nn.Sequential(OrderedDict(stem=stem, **blocks, pool=pool, logits=logits))


def nameless(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def astray(classes, channels):
    network = Patches(classes, channels)
    network.layer_paths["block2"] = "layers.7"
    return network


def one_too_many(classes, channels):
    return tiny(classes + 1, channels)


def no_network(classes, channels):
    return classes
