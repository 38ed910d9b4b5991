"""What the layers of a network compute: hooks by the layer's name, on any network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.hooks import RemovableHandle

from kdlib import UsageError, one_of
from kdlib.models.cifar import LAYERS

_BEFORE_RELU = ".raw"


@dataclass(frozen=True)
class LayerPath:
    """Where the features of a layer are in a network: on which side of which module."""

    module: str  # its path, as in `nn.Module.named_modules`: features.7
    at: Literal["output", "input", "before_relu"] = "output"  # the last: of the module's last ReLU
    channels_last: bool = False  # features are (n, h, w, c)


class Forward(NamedTuple):
    """The result of a forward pass of one batch."""

    logits: Float[Tensor, "b k"]
    features: dict[str, Tensor]  # layer -> (b, c, h, w) or (b, d)


def layers(network: nn.Module) -> dict[str, LayerPath]:
    """Where each layer of a network is, by the layer's name.

    Those of its attribute `layer_paths`, for example {"stem": "conv1", "pool": LayerPath("fc",
    at="input"), ...}, a plain string for a module's output; without it, the network's children.
    """
    paths = getattr(network, "layer_paths", None) or {
        name: name for name, _ in network.named_children()
    }
    return {
        name: LayerPath(path) if isinstance(path, str) else path for name, path in paths.items()
    }


def before_relu(layer: str) -> str:
    """The name by which `observe` gives a layer's output before its last ReLU: block1.raw."""
    return f"{layer}{_BEFORE_RELU}"


def locate(network: nn.Module, layer: str) -> LayerPath:
    """Where a layer is, or its output before the last ReLU by the name of `before_relu`.

    Raises UsageError where the network has no such layer.
    """
    name = layer.removesuffix(_BEFORE_RELU)
    paths = layers(network)
    one_of("layer", name, paths)
    return paths[name] if name == layer else replace(paths[name], at="before_relu")


def part(network: nn.Module, layer: str) -> nn.Module:
    """The module of a layer. Raises UsageError where the network has no such layer."""
    return network.get_submodule(locate(network, layer).module)


@contextmanager
def deterministic() -> Iterator[None]:
    """The same bits each time on a GPU, too; afterwards cuDNN is as it was. Also a decorator."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic
    cudnn.deterministic = True
    try:
        yield
    finally:
        cudnn.deterministic = before


def observe(
    network: nn.Module, x: Float[Tensor, "b c h w"], layers: Iterable[str] = LAYERS
) -> Forward:
    """A forward pass of `network` on x, with the features of `layers`: (b, c, h, w) or (b, d).

    A name of `before_relu` gives a layer's output before its last ReLU. Raises UsageError for a
    layer that the network does not have, before anything is computed.
    """
    features: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for layer in layers:
            handles += _add_hooks(network, layer, features)
        logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(logits, features)


@torch.no_grad()
def low_precision_copy(network: nn.Module, x: Float[Tensor, "n c h w"]) -> nn.Module:
    """A copy for forward passes under bfloat16 autocast: the same outputs, with less work.

    Each BatchNorm is folded into the convolution before it, by its statistics in evaluation mode
    (Jacob et al. 2018, arXiv:1712.05877, section 3.2), and the weights of convolutions and linear
    layers are stored in bfloat16. A forward pass of x finds which BatchNorm follows which
    convolution; where folding would change the features of a layer, nothing is folded.
    """
    lighter = copy.deepcopy(network).eval()
    before, pairs = _convolutions_with_norms(lighter, x)
    names = {module: name for name, module in lighter.named_modules()}
    for conv, norm in pairs:
        lighter.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        lighter.set_submodule(names[norm], nn.Identity())
    if not _agree(before, observe(lighter, x)):
        lighter = copy.deepcopy(network).eval()
    for module in lighter.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bfloat16()
    return lighter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _convolutions_with_norms(
    network: nn.Module, x: Tensor
) -> tuple[Forward, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """A forward pass, and each convolution whose output a BatchNorm gets, with that BatchNorm."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def add_output(conv: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        outputs.append((output, conv))

    def add_pair(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, norm) for output, conv in outputs if output is inputs[0])

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(add_output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(add_pair))
    forward = observe(network, x)
    for handle in handles:
        handle.remove()
    return forward, pairs


def _agree(first: Forward, second: Forward) -> bool:
    """Whether two forward passes differ by no more than rounding."""
    pairs = [(first.logits, second.logits)]
    pairs += [(x, second.features[layer]) for layer, x in first.features.items()]
    return all(float((a - b).abs().max()) <= 0.01 * float(a.abs().max()) for a, b in pairs)


def _add_hooks(
    network: nn.Module, layer: str, features: dict[str, Tensor]
) -> list[RemovableHandle]:
    """Hooks that put the features of a layer into `features` at the next forward pass."""
    path = locate(network, layer)
    module = network.get_submodule(path.module)
    if path.at == "before_relu":
        return _add_relu_hooks(module, layer, features)
    convert = _vectors if layer in ("pool", "logits") else _map

    def store(x: Tensor) -> None:
        features[layer] = convert(x.permute(0, 3, 1, 2) if path.channels_last else x)

    if path.at == "input":
        return [module.register_forward_pre_hook(lambda _module, inputs: store(inputs[0]))]
    return [module.register_forward_hook(lambda _module, _inputs, output: store(output))]


def _add_relu_hooks(
    module: nn.Module, layer: str, features: dict[str, Tensor]
) -> list[RemovableHandle]:
    name = layer.removesuffix(_BEFORE_RELU)
    relus = [inner for inner in module.modules() if isinstance(inner, nn.ReLU)]
    if not relus:
        raise UsageError(f"layer {name} of this network has no ReLU, so no output before it")

    def store(relu: nn.ReLU, inputs: tuple[Tensor, ...]) -> None:
        features[layer] = inputs[0].clone() if relu.inplace else inputs[0]

    def compare(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if features[layer].shape != output.shape:
            raise UsageError(f"layer {name} of this network does not end in a ReLU")

    return [relus[-1].register_forward_pre_hook(store), module.register_forward_hook(compare)]


def _vectors(x: Tensor) -> Tensor:
    """One vector per image: the mean over positions of a map."""
    return x.mean((2, 3)) if x.ndim == 4 else x


def _map(x: Tensor) -> Tensor:
    """Tokens (n, t, c) as a square map (n, c, h, w), without the class token; maps as they are."""
    if x.ndim != 3:
        return x
    side = math.isqrt(x.shape[1])
    if x.shape[1] - side**2 not in (0, 1):
        raise UsageError(f"{x.shape[1]} tokens are no square map, with or without a class token")
    return x[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
