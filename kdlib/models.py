"""Networks that name their layers alike: stem block1 block2 block3 pool logits."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    plan = {"name": name, "classes": classes, "channels": channels, "width": width}
    network.architecture = plan  # type: ignore[assignment]
    return network


def architecture(network: nn.Module) -> dict[str, Any]:
    """What `restore` has to know to build this network again, fit for JSON.

    Raises UsageError for a network that neither `build` nor `Grafted` made.
    """
    if isinstance(network, Grafted):
        parts = {name: _spelt(getattr(network, name)) for name in ("projector", "head")}
        return {"student": architecture(network.student), **parts}
    if not hasattr(network, "architecture"):
        raise UsageError(f"{type(network).__name__} has no record of how it was built; use build()")
    return dict(network.architecture)  # type: ignore[arg-type]


def _assemble(plan: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network of an `architecture`, with the initial weights of `seed`."""
    if "student" not in plan:
        return build(**plan, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector, head = _read(plan["projector"]), _read(plan["head"])
    return Grafted(_assemble(plan["student"], seed), projector, head)


def redrawn(network: nn.Module, seed: int) -> nn.Module:
    """A copy of `network` with the initial weights of `seed`: what `build` would have made.

    The copy lies on the same device, its BatchNorm statistics are those of an untrained network,
    and the caller's random numbers are left alone. Raises UsageError as `architecture` does.
    """
    fresh = _assemble(architecture(network), seed)
    again = copy.deepcopy(network)
    again.load_state_dict(fresh.state_dict())
    return again


_PARTS: dict[str, tuple[str, ...]] = {  # what a projector or a head may be made of
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups", "bias"),
    "Linear": ("in_features", "out_features", "bias"),
    "BatchNorm2d": ("num_features",),
    "AdaptiveAvgPool2d": ("output_size",),
    "ReLU": (),
    "Identity": (),
}


def _spelt(module: nn.Module) -> list[Any]:
    """A module as JSON: its kind, then its constants, or its parts where it is a Sequential."""
    kind = type(module).__name__
    if isinstance(module, nn.Sequential):
        return [kind, [_spelt(part) for part in module]]
    one_of("part of a projector or head", kind, ("Sequential", *_PARTS))
    given = {name: getattr(module, name) for name in _PARTS[kind]}
    if "bias" in given:
        given["bias"] = given["bias"] is not None
    return [kind, given]


def _read(spelt: Sequence[Any]) -> nn.Module:
    kind, given = spelt
    if kind == "Sequential":
        return nn.Sequential(*map(_read, given))
    lists = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
    return getattr(nn, kind)(**lists)


class Grafted(nn.Module):
    """A student that thinks with its teacher's head (SimKD, Chen 2022): what is used in the end.

    The student up to block3, `projector`, the mean over positions, `head`: a copy of the
    teacher's classifier. `projector` and `head` are made of `_PARTS` and nn.Sequential. All three
    are copied; the student's own classifier is left out.
    """

    def __init__(self, student: nn.Module, projector: nn.Module, head: nn.Module):
        super().__init__()
        self.student = copy.deepcopy(student)
        self.projector = copy.deepcopy(projector)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = copy.deepcopy(head)
        paths = {name: f"student.{path}" for name, path in layers(student).items()}
        self.layers = {**paths, "pool": "pool", "logits": "head"}
        self.student.set_submodule(layers(student)["logits"], nn.Identity())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Class scores."""
        seen = observe(self.student, x, ("block3",)).features["block3"]
        return self.head(self.pool(self.projector(seen)))


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    """All parameters and BatchNorm statistics, as the store keeps them."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def restore(record: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> nn.Module:
    """The trained network of a run, from its record and its weights (see `kdlib.store`).

    The record holds an `architecture`. Raises UsageError, naming keys and shapes, where the
    weights are of another network.
    """
    plan = record.get("architecture") or {
        "name": record["parameters"]["network"],
        "width": record["parameters"]["width"],
        **{name: record[name] for name in ("classes", "channels")},
    }
    network = _assemble(plan)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in kept.items()}
    if wanted != found:
        differ = [k for k in wanted | found if wanted.get(k) != found.get(k)]
        first = f"{differ[0]}: wanted {wanted.get(differ[0])}, found {found.get(differ[0])}"
        called = plan.get("name", "this network with another's head")
        raise UsageError(f"weights do not fit {called}: {len(differ)} differ; {first}")
    network.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return network.eval()


def layers(network: nn.Module) -> dict[str, str]:
    """Where each layer of the network is: the path of its module.

    A network whose children are not named as `LAYERS` has such a table as its `layers`.
    """
    table = getattr(network, "layers", None)
    return (
        table if isinstance(table, dict) else {name: name for name, _ in network.named_children()}
    )


def observe(network: nn.Module, x: Tensor, layers: Iterable[str] = LAYERS) -> Forward:
    """Run `network` on x and keep what comes out of `layers`.

    "block1.raw" is what the last ReLU of block1 is given: the block's output before it. Raises
    UsageError for a layer that the network does not have, before anything is computed.
    """
    features: dict[str, Tensor] = {}
    handles = []
    wanted = {layer: part(network, layer.removesuffix(".raw")) for layer in layers}
    for layer in wanted:
        if layer.endswith(".raw"):
            wanted[layer] = _last_relu(layer, wanted[layer])

    def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _input, output: features.__setitem__(layer, output)

    def keep_raw(layer: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, given: features.__setitem__(
            layer, given[0].clone() if module.inplace else given[0]
        )

    try:
        for layer, module in wanted.items():
            if layer.endswith(".raw"):
                handles.append(module.register_forward_pre_hook(keep_raw(layer)))
            else:
                handles.append(module.register_forward_hook(keep(layer)))
        logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(logits, features)


def part(network: nn.Module, layer: str) -> nn.Module:
    """The module of a layer. Raises UsageError where the network has no such layer."""
    paths = layers(network)
    one_of("layer", layer, paths)
    return network.get_submodule(paths[layer])


def _last_relu(layer: str, module: nn.Module) -> nn.Module:
    found = [part for part in module.modules() if isinstance(part, nn.ReLU)]
    if not found:
        name = layer.removesuffix(".raw")
        raise UsageError(f"layer {name} of this network has no ReLU, so no output before it")
    return found[-1]
