"""torchvision's classifiers, with their layers named as ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from kdlib import UsageError
from kdlib.models.observe import LayerPath
from kdlib.vision import torchvision


def _without(path: str) -> Callable[[nn.Module], None]:
    return lambda network: network.set_submodule(path, nn.Identity())


def _every_pixel(network: nn.Module) -> None:
    network.get_submodule("features.2.conv.1.0").stride = (1, 1)  # type: ignore[assignment]


def _short_head(network: nn.Module) -> None:
    network.set_submodule("avgpool", nn.Identity())
    classes = network.get_submodule("classifier.6").out_features
    for layer, size in (("0", 512), ("3", 512), ("6", classes)):
        network.set_submodule(f"classifier.{layer}", nn.Linear(512, size))  # type: ignore[arg-type]


class Family(NamedTuple):
    """Where the layers of a family of torchvision's networks are, and how these are built.

    A string is the path of the module whose output a layer is; `pool` is the input of `logits`.
    """

    stem: str | LayerPath
    block1: str | LayerPath
    block2: str | LayerPath
    block3: str | LayerPath
    logits: str
    small: Callable[[nn.Module], None] | None = None  # a change beyond the first convolution
    size: str = ""  # the builder's argument for the pixels by side of an image
    off: tuple[str, ...] = ()  # the builder's arguments that have to be False

    def paths(self) -> dict[str, str | LayerPath]:
        """The path of each layer, by its name."""
        return {
            "stem": self.stem,
            "block1": self.block1,
            "block2": self.block2,
            "block3": self.block3,
            "pool": LayerPath(self.logits, at="input"),
            "logits": self.logits,
        }


_RESNET = Family("maxpool", "layer2", "layer3", "layer4", "fc", _without("maxpool"))
_VIT = "encoder.layers.encoder_layer_"
_PLAIN = ("aux_logits", "init_weights")


def _nhwc(module: str) -> LayerPath:
    return LayerPath(module, channels_last=True)


def _vgg(first: int, second: int, third: int) -> Family:
    stem, block1, block2 = (f"features.{last}" for last in (first, second, third))
    return Family(stem, block1, block2, "features", "classifier.6", _short_head)


# By the beginning of a network's name; the longest that matches counts.
FAMILIES = {
    "alexnet": Family("features.2", "features.5", "features.9", "features", "classifier.6"),
    "convnext": Family("features.0", "features.3", "features.5", "features.7", "classifier.2"),
    "densenet": Family(
        "features.pool0",
        "features.denseblock2",
        "features.denseblock3",
        "features",
        "classifier",
        _without("features.pool0"),
    ),
    "efficientnet_b": Family(
        "features.0", "features.3", "features.5", "features.8", "classifier.1"
    ),
    "efficientnet_v2": Family("features.0", "features.3", "features.5", "features", "classifier.1"),
    "googlenet": Family(
        "maxpool1",
        "inception3b",
        "inception4e",
        "inception5b",
        "fc",
        _without("maxpool1"),
        off=_PLAIN,
    ),
    "inception_v3": Family("maxpool1", "Mixed_5d", "Mixed_6e", "Mixed_7c", "fc", off=_PLAIN),
    "maxvit": Family("stem", "blocks.1", "blocks.2", "blocks.3", "classifier.5", size="input_size"),
    "mnasnet": Family("layers.7", "layers.9", "layers.11", "layers", "classifier.1"),
    "mobilenet_v2": Family(
        "features.0", "features.6", "features.13", "features.18", "classifier.1", _every_pixel
    ),
    "mobilenet_v3_large": Family(
        "features.0", "features.6", "features.12", "features.16", "classifier.3"
    ),
    "mobilenet_v3_small": Family(
        "features.0", "features.3", "features.8", "features.12", "classifier.3"
    ),
    "regnet": Family("stem", "trunk_output.block2", "trunk_output.block3", "trunk_output", "fc"),
    "resnet": _RESNET,
    "resnext": _RESNET,
    "shufflenet_v2": Family("maxpool", "stage2", "stage3", "conv5", "fc", _without("maxpool")),
    "squeezenet1_0": Family("features.2", "features.6", "features.11", "features", "classifier"),
    "squeezenet1_1": Family("features.2", "features.5", "features.8", "features", "classifier"),
    "swin": Family(
        _nhwc("features.0"), _nhwc("features.3"), _nhwc("features.5"), "permute", "head"
    ),
    "vgg11": _vgg(2, 10, 15),
    "vgg11_bn": _vgg(3, 14, 21),
    "vgg13": _vgg(4, 14, 19),
    "vgg13_bn": _vgg(6, 20, 27),
    "vgg16": _vgg(4, 16, 23),
    "vgg16_bn": _vgg(6, 23, 33),
    "vgg19": _vgg(4, 18, 27),
    "vgg19_bn": _vgg(6, 26, 39),
    "vit_b": Family(
        "conv_proj", f"{_VIT}3", f"{_VIT}7", "encoder", "heads.head", size="image_size"
    ),
    "vit_l": Family(
        "conv_proj", f"{_VIT}7", f"{_VIT}15", "encoder", "heads.head", size="image_size"
    ),
    "vit_h": Family(
        "conv_proj", f"{_VIT}10", f"{_VIT}21", "encoder", "heads.head", size="image_size"
    ),
    "wide_resnet": _RESNET,
}


def names() -> list[str]:
    """torchvision's networks that classify images."""
    return torchvision.models.list_models(module=torchvision.models)


def family(name: str) -> Family:
    """The row of `FAMILIES` for a network. Raises UsageError where there is none."""
    starts = [start for start in FAMILIES if name.startswith(start)]
    if not starts:
        raise UsageError(
            f"torchvision's {name}: where its layers are is not known; "
            "add a row to FAMILIES in kdlib/models/torchvision.py"
        )
    return FAMILIES[max(starts, key=len)]


def build(
    name: str, classes: int, channels: int, size: int, small: bool | str = False, **options: Any
) -> nn.Module:
    """One of torchvision's networks, untrained, with `layer_paths`. `options` go to its builder.

    `small` is for small images: the first convolution becomes 3x3 with stride 1 and the pooling
    after it is left out, or stays with "pooled". With True MobileNetV2 halves once less, too, and
    VGG classifies 512 features by layers of 512: the forms that are published for CIFAR. Raises
    UsageError for what torchvision refuses.
    """
    row = family(name)
    fixed: dict[str, Any] = dict.fromkeys(row.off, False)
    if row.size == "image_size":
        fixed["image_size"] = size
    elif row.size == "input_size":
        fixed["input_size"] = (size, size)
    try:
        network = torchvision.models.get_model(
            name, weights=None, num_classes=classes, **fixed | options
        )
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"torchvision's {name}: {reason}") from error
    parameters = inspect.signature(type(network)).parameters
    for option in options:  # builders with **kwargs ignore what they do not know
        if "kwargs" in parameters and option not in parameters:
            raise UsageError(f"torchvision's {name}: takes no {option!r}")
    if small not in (False, True, "pooled") or (small and row.size):
        allowed = "False" if row.size else "False, True, pooled"
        raise UsageError(f"small {small!r} of {name}; allowed: {allowed}")
    if small or channels != 3:
        _replace_first(network, channels, bool(small))
    if small is True and row.small:
        row.small(network)
    network.layer_paths = row.paths()
    return network


def _replace_first(network: nn.Module, channels: int, small: bool) -> None:
    """A new first convolution, for images of so many channels; if `small`, 3x3 with stride 1."""
    convolutions = (
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    path, old = next(convolutions)
    shape = (3, 1, 1) if small else (old.kernel_size, old.stride, old.padding)
    new = nn.Conv2d(channels, old.out_channels, *shape, bias=old.bias is not None)  # type: ignore
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(path, new)
