"""timm's classifiers, by their names, with their layers named as ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from kdlib import UsageError
from kdlib.models.efficientnet import EXTRA
from kdlib.models.observe import LayerPath

PREFIX = "timm:"  # of a network's name


def library() -> ModuleType:
    """The package timm. Raises UsageError where it is not installed."""
    from kdlib.vision import torchvision  # first: timm imports it, and it may not load by itself

    assert torchvision
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UsageError(f"networks of timm need timm, which is not installed; {EXTRA}") from None
    return timm


def build(name: str, classes: int, channels: int, size: int, **options: Any) -> nn.Module:
    """The network of "timm:resnet18", untrained, with `layer_paths`. `options` go to its builder.

    Layers are the stages of its `feature_info`: block1, block2 and block3 are the last three, stem
    the one before them. Where all stages have one resolution, as in a vision transformer, block1,
    block2 and block3 end at a third, two thirds and all of them, and stem is the first. Raises
    UsageError for an unknown name, for what timm refuses, and for a network of fewer than four
    stages or without a single linear classifier.
    """
    timm, short = library(), name.removeprefix(PREFIX)
    if not timm.is_model(short):
        near = timm.list_models(f"*{short[:6]}*")[:5] or timm.list_models()[:5]
        raise UsageError(f"timm has no network {short!r}; some: {', '.join(near)}")
    given = {"num_classes": classes, "in_chans": channels}
    if timm.models.get_pretrained_cfg_value(short, "fixed_input_size"):
        given["img_size"] = size
    try:
        network: nn.Module = timm.create_model(short, pretrained=False, **given | options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"network {name!r}: {reason}") from error
    network.layer_paths = _paths(name, network)  # type: ignore[assignment]
    return network


def _paths(name: str, network: nn.Module) -> dict[str, LayerPath]:
    """Where the layers of a network are, by the rule of `build`."""
    stages = list(getattr(network, "feature_info", None) or ())
    if len(stages) < 4:
        raise UsageError(f"network {name!r}: {len(stages)} stages; allowed: four or more")
    head = network.get_classifier()  # type: ignore[operator]
    heads = [path for path, module in network.named_modules() if module is head]
    if not heads or not isinstance(head, nn.Linear):
        raise UsageError(
            f"network {name!r}: its classifier is a {type(head).__name__}; allowed: a linear layer"
        )
    n = len(stages)
    one_resolution = len({stage["reduction"] for stage in stages}) == 1
    chosen = (0, n // 3 - 1, 2 * n // 3 - 1, n - 1) if one_resolution else range(n - 4, n)
    last = getattr(network, "output_fmt", None) == "NHWC"
    blocks = ("stem", "block1", "block2", "block3")
    paths = {
        layer: LayerPath(stages[i]["module"], channels_last=last)
        for layer, i in zip(blocks, chosen, strict=True)
    }
    return paths | {"pool": LayerPath(heads[0], at="input"), "logits": LayerPath(heads[0])}


def constants(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that its published weights were trained with."""
    value, short = library().models.get_pretrained_cfg_value, name.removeprefix(PREFIX)
    return tuple(value(short, "mean")), tuple(value(short, "std"))


def published(name: str, channels: int) -> dict[str, Tensor]:
    """Its weights of ImageNet, from the cache of huggingface_hub or its server.

    Raises UsageError where there are none, or no network.
    """
    timm, short = library(), name.removeprefix(PREFIX)
    try:
        with _quiet("timm", "huggingface_hub"):
            network = timm.create_model(short, pretrained=True, in_chans=channels)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"weights 'imagenet' of {name}: cannot be fetched: {reason}") from error
    return dict(network.state_dict())


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers of these names report nothing but errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
