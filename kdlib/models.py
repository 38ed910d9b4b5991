"""Networks that name their layers alike: stem block1 block2 block3 pool logits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdlib import UsageError, one_of

LAYERS = ("stem", "block1", "block2", "block3", "pool", "logits")


class Forward(NamedTuple):
    """What a network says about one batch."""

    logits: Float[Tensor, "b k"]
    features: dict[str, Tensor]  # layer -> (b, c, h, w) or (b, d)


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He 2016, option A).

    Where the resolution halves, the shortcut takes every second pixel and pads new channels
    with zeros.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.extra = stride, after - before
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        x = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            x = nn.functional.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return self.relu(out + x)


def _resnet(depth: int, classes: int, channels: int, width: float) -> nn.Module:
    """CIFAR ResNet (He 2016, section 4.2): three blocks of 16, 32, 64 channels, times `width`."""
    sizes = [max(1, round(c * width)) for c in (16, 32, 64)]
    per_block = (depth - 2) // 6

    def block(before: int, after: int, stride: int) -> nn.Module:
        first = _Residual(before, after, stride)
        return nn.Sequential(first, *(_Residual(after, after, 1) for _ in range(per_block - 1)))

    stem = nn.Sequential(
        nn.Conv2d(channels, sizes[0], 3, 1, 1, bias=False), nn.BatchNorm2d(sizes[0]), nn.ReLU()
    )
    parts = (
        stem,
        block(sizes[0], sizes[0], 1),
        block(sizes[0], sizes[1], 2),
        block(sizes[1], sizes[2], 2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(sizes[2], classes),
    )
    return nn.Sequential(OrderedDict(zip(LAYERS, parts, strict=True)))


NETWORKS = {f"resnet{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}


def build(
    name: str, *, classes: int, channels: int = 3, width: float = 1.0, seed: int = 0
) -> nn.Module:
    """A network with the initial weights of `seed`: the same bits each time, on every machine.

    Convolutions start as He 2015 (fan out), the classifier uniform in +-1/sqrt(d) and zero bias.
    Its children are named as `LAYERS`. With 10 classes and 3 channels resnet20 has 269,722
    parameters. Raises UsageError for an unknown name or a width that is not above 0.
    """
    one_of("network", name, NETWORKS)
    if not width > 0:
        raise UsageError(f"width {width!r}; allowed: a number above 0")
    with torch.random.fork_rng(devices=[]):  # layers draw weights when made; ours replace them
        network = _resnet(NETWORKS[name], classes, channels, width)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
    return network


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    """All parameters and BatchNorm statistics, as the store keeps them."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def restore(record: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> nn.Module:
    """The trained network of a run, from its record and its weights (see `kdlib.store`).

    Raises UsageError, naming keys and shapes, where the weights are of another network.
    """
    given = record["parameters"]
    shape = {name: record[name] for name in ("classes", "channels")}
    network = build(given["network"], width=given["width"], seed=given["seed"], **shape)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in kept.items()}
    if wanted != found:
        differ = [k for k in wanted | found if wanted.get(k) != found.get(k)]
        first = f"{differ[0]}: wanted {wanted.get(differ[0])}, found {found.get(differ[0])}"
        raise UsageError(f"weights do not fit {given['network']}: {len(differ)} differ; {first}")
    network.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return network.eval()


def observe(network: nn.Module, x: Tensor, layers: Iterable[str] = LAYERS) -> Forward:
    """Run `network` on x and keep what comes out of `layers`.

    "block1.raw" is what the last ReLU of block1 is given: the block's output before it. Raises
    UsageError for a layer that the network does not have, before anything is computed.
    """
    modules = dict(network.named_children())
    features: dict[str, Tensor] = {}
    handles = []
    wanted = list(layers)
    for layer in wanted:
        one_of("layer", layer.removesuffix(".raw"), modules)
    last = {x: _last_relu(x, modules) for x in wanted if x.endswith(".raw")}

    def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _input, output: features.__setitem__(layer, output)

    def keep_raw(layer: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, given: features.__setitem__(
            layer, given[0].clone() if module.inplace else given[0]
        )

    try:
        for layer in wanted:
            if layer in last:
                handles.append(last[layer].register_forward_pre_hook(keep_raw(layer)))
            else:
                handles.append(modules[layer].register_forward_hook(keep(layer)))
        logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(logits, features)


def _last_relu(layer: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    name = layer.removesuffix(".raw")
    found = [module for module in modules[name].modules() if isinstance(module, nn.ReLU)]
    if not found:
        raise UsageError(f"layer {name} of this network has no ReLU, so no output before it")
    return found[-1]
