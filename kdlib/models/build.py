"""Networks that name their layers alike: stem block1 block2 block3 pool logits."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdlib import UsageError, one_of
from kdlib.models.cifar import LAYERS, NETWORKS, draw
from kdlib.models.observe import layers, observe


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    size: int = 32,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A network with the initial weights of `seed`: the same bits each time, on every machine.

    `name` is of `NETWORKS` (with 10 classes and 3 channels resnet20 has 269,722 parameters), or
    one of torchvision's classifiers (see `torchvision.build`), or "module:callable": what the callable
    returns, called with classes, channels and the options. `width` is a factor on the number of
    channels, for `NETWORKS` only; `size` the pixels by side of the images. Raises UsageError for
    what is unknown or does not fit.
    """
    if not width > 0:
        raise UsageError(f"width {width!r}; allowed: a number above 0")
    check(name)
    with _seeded(seed):
        if name in NETWORKS:
            network = _own(name, classes, channels, width, options)
            draw(network, seed)
        elif width != 1:
            raise UsageError(f"width {width!r} of {name}; allowed: 1.0, it has no widths")
        elif ":" in name:
            network = _called(name, classes, channels, options)
        else:
            from kdlib.models import torchvision

            network = torchvision.build(name, classes, channels, size, **options)
    if name not in NETWORKS:
        _try(name, network, torch.zeros(2, channels, size, size), classes)
    plan = {"name": name, "classes": classes, "channels": channels, "width": width, "size": size}
    network.architecture = {**plan, **options}  # type: ignore[assignment]
    return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Layers draw their first weights from torch's own generator; the caller's state comes back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def check(name: str) -> None:
    """Raise UsageError unless `build` knows a network of this name, saying which there are."""
    if name in NETWORKS or ":" in name:
        return
    from kdlib.models import torchvision

    if name not in torchvision.names():
        raise UsageError(
            f"unknown network {name!r}; one of: {', '.join(NETWORKS)}; or of torchvision "
            "(resnet18, convnext_tiny, ...), or module:callable"
        )


def _own(
    name: str, classes: int, channels: int, width: float, options: Mapping[str, Any]
) -> nn.Module:
    make, fixed, known = NETWORKS[name]
    if unknown := [option for option in options if option not in known]:
        allowed = ", ".join(known) or "none"
        raise UsageError(f"unknown option {unknown[0]!r} of {name}; allowed: {allowed}")
    return make(classes, channels, width, **fixed, **{**known, **options})


def _called(name: str, classes: int, channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The network of "module:callable"."""
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(f"network {name!r}: no module {error.name!r} on Python's path") from error
    except AttributeError as error:
        raise UsageError(f"network {name!r}: {module} has no {attribute!r}") from error
    given = {"classes": classes, "channels": channels, **options}
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        called = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise UsageError(f"network {name!r}: cannot be called with {called}: {error}") from error
    network = make(**given)
    if not isinstance(network, nn.Module):
        raise UsageError(f"network {name!r}: gives a {type(network).__name__}, not a torch Module")
    return network


@torch.no_grad()
def _try(name: str, network: nn.Module, x: Float[Tensor, "n c h w"], classes: int) -> None:
    """Raise UsageError unless the network answers x and all its layers can be observed."""
    where = layers(network)
    for layer in LAYERS:
        path = where.get(layer, "").partition(":")[0]
        if not path or path not in dict(network.named_modules()):
            given = repr(path) + " is no module of it" if path else "is missing"
            raise UsageError(
                f"network {name!r}: layer {layer} {given}; its layer_paths must say where "
                f"{', '.join(LAYERS)} are, for example {{'stem': 'conv1', ...}}"
            )
    try:
        seen = observe(network.eval(), x)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        shape = tuple(x.shape[1:])
        raise UsageError(f"network {name!r}: cannot take an image of {shape}: {said}") from error
    found = tuple(getattr(seen.logits, "shape", ())) or type(seen.logits).__name__
    if found != (len(x), classes):
        raise UsageError(f"network {name!r}: gives {found}; wanted {(len(x), classes)}")
    network.train()


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
    with _seeded(seed):
        projector, head = _read(plan["projector"]), _read(plan["head"])
    return Grafted(_assemble(plan["student"], seed), projector, head)


def reinitialised(network: nn.Module, seed: int) -> nn.Module:
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
        self.layer_paths = {**paths, "pool": "pool", "logits": "head"}
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
    if "architecture" not in record:
        raise UsageError("the record of this run does not say how its network was built; run again")
    plan = record["architecture"]
    network = _assemble(plan)
    if differ := differences(network.state_dict(), kept):
        called = plan.get("name", "this network with another's head")
        raise UsageError(f"weights do not fit {called}: {len(differ)} differ; {differ[0]}")
    network.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return network.eval()


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line for each weight of another shape, or missing on one side.

    BatchNorm's count of steps may be missing: older checkpoints do not hold it.
    """
    lines = []
    for name in {**wanted, **found}:
        one, other = (tuple(x[name].shape) if name in x else None for x in (wanted, found))
        if one != other and not (other is None and name.endswith("num_batches_tracked")):
            lines.append(f"{name}: wanted {one}, found {other}")
    return lines
