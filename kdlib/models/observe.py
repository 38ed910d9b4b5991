"""What the layers of a network compute: hooks by the layer's name, on any network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdlib import UsageError, one_of
from kdlib.models.cifar import LAYERS


class Forward(NamedTuple):
    """What a network says about one batch."""

    logits: Float[Tensor, "b k"]
    features: dict[str, Tensor]  # layer -> (b, c, h, w) or (b, d)


def layers(network: nn.Module) -> dict[str, str]:
    """Where each layer of the network is: the path of its module.

    A network whose children are not named as `LAYERS` says so by its `layer_paths`. A path may
    end in `:in`, for what the module is given, or in `:last`, where channels come last.
    """
    paths = getattr(network, "layer_paths", None)
    return dict(paths) if paths else {name: name for name, _ in network.named_children()}


def part(network: nn.Module, layer: str) -> nn.Module:
    """The module of a layer. Raises UsageError where the network has no such layer."""
    paths = layers(network)
    one_of("layer", layer, paths)
    return network.get_submodule(paths[layer].partition(":")[0])


def observe(network: nn.Module, x: Tensor, layers: Iterable[str] = LAYERS) -> Forward:
    """Run `network` on x and keep what comes out of `layers`: (b, c, h, w), or (b, d).

    "block1.raw" is what the last ReLU of block1 is given: the block's output before it. Raises
    UsageError for a layer that the network does not have, before anything is computed.
    """
    features: dict[str, Tensor] = {}
    handles: list[Any] = []
    try:
        for layer in layers:
            if layer.endswith(".raw"):
                handles += _watch_relu(network, layer, features)
            else:
                handles.append(_watch(network, layer, features))
        logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(logits, features)


@torch.no_grad()
def low_precision_copy(network: nn.Module, x: Float[Tensor, "n c h w"]) -> nn.Module:
    """A copy for bfloat16 autocast that is only looked at: it says the same, with less work.

    Each BatchNorm is folded into the convolution before it, by its statistics in evaluation mode
    (Jacob et al. 2018, arXiv:1712.05877, section 3.2), and the weights of convolutions and linear
    layers are kept in bfloat16. Which convolution comes before which BatchNorm is seen by showing
    it x; where a layer would then say something else, nothing is folded.
    """
    copied = copy.deepcopy(network).eval()
    made: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    handles = []
    for module in copied.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda m, _, out: made.append((out, m))))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, given: pairs.extend((c, m) for out, c in made if out is given[0])
                )
            )
    before = observe(copied, x)
    for handle in handles:
        handle.remove()
    names = {module: name for name, module in copied.named_modules()}
    for conv, norm in pairs:
        copied.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        copied.set_submodule(names[norm], nn.Identity())
    if not _alike(before, observe(copied, x)):
        copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bfloat16()
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _alike(one: Forward, other: Forward) -> bool:
    """Do two looks agree, but for rounding?"""
    pairs = [(one.logits, other.logits), *((x, other.features[k]) for k, x in one.features.items())]
    return all(float((a - b).abs().max()) <= 0.01 * float(a.abs().max()) for a, b in pairs)


def _watch(network: nn.Module, layer: str, features: dict[str, Tensor]) -> Any:
    module = part(network, layer)
    form = layers(network)[layer].partition(":")[2]

    def keep(output: Tensor) -> None:
        features[layer] = _as_map(output, form, layer in ("pool", "logits"))

    if form == "in":
        return module.register_forward_pre_hook(lambda _module, given: keep(given[0]))
    return module.register_forward_hook(lambda _module, _given, output: keep(output))


def _watch_relu(network: nn.Module, layer: str, features: dict[str, Tensor]) -> list[Any]:
    name = layer.removesuffix(".raw")
    module = part(network, name)
    found = [inner for inner in module.modules() if isinstance(inner, nn.ReLU)]
    if not found:
        raise UsageError(f"layer {name} of this network has no ReLU, so no output before it")

    def keep(relu: nn.Module, given: tuple[Tensor, ...]) -> None:
        features[layer] = given[0].clone() if relu.inplace else given[0]

    def compare(_module: nn.Module, _given: object, output: Tensor) -> None:
        if features[layer].shape != output.shape:
            raise UsageError(f"layer {name} of this network does not end in a ReLU")

    return [found[-1].register_forward_pre_hook(keep), module.register_forward_hook(compare)]


def _as_map(x: Tensor, form: str, pooled: bool) -> Tensor:
    """Channels second: (n, c, h, w). Tokens become a square map, without the class token."""
    if form == "last":
        x = x.permute(0, 3, 1, 2)
    if pooled:
        return x.mean((2, 3)) if x.ndim == 4 else x
    if x.ndim == 3:
        side = math.isqrt(x.shape[1])
        if x.shape[1] - side**2 not in (0, 1):
            raise UsageError(
                f"{x.shape[1]} tokens are no square map, with or without a class token"
            )
        x = x[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
    return x
