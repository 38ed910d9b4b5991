"""Networks made by name, their record and their weights: built, restored, initialised again."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdlib import UsageError
from kdlib.models import efficientnet, timm
from kdlib.models.cifar import LAYERS, NETWORKS, bottleneck, initialise
from kdlib.models.observe import LayerPath, layers, observe
from kdlib.models.preprocessing import Preprocess
from kdlib.plan.runs import CONSTANTS, Constants


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    size: int = 32,
    seed: int = 0,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """A network with the initial weights of `seed`: the same bits each time, on every machine.

    `name` is of `NETWORKS` (with 10 classes and 3 channels resnet20 has 269,722 parameters), or
    "efficientnet_lite0", or one of torchvision's classifiers (see `torchvision.build`), or of
    timm's as "timm:resnet18" (see `timm.build`), or "module:callable" of any module on Python's
    path: the callable gets classes, channels and the options and returns a network.
    `width` is a factor on the number of channels, for `NETWORKS` only; `size` the pixels by side
    of the images. `preprocess`, or its record, is what the network does to them before its first
    layer. Raises UsageError for what is unknown or does not fit.
    """
    if not width > 0:
        raise UsageError(f"width {width!r}; allowed: a number above 0")
    check_name(name)
    if name not in NETWORKS and width != 1:
        raise UsageError(f"width {width!r} of {name}; allowed: 1.0, it has no widths")
    if isinstance(preprocess, Mapping):
        preprocess = Preprocess(**preprocess)
    sizes = {"classes": classes, "channels": channels, "width": width, "size": size}
    record = {"name": name, **sizes, **options}
    if preprocess is not None:
        record["preprocess"] = preprocess.record()
        size = preprocess.size or size
    with _seeded(seed):
        if name in NETWORKS:
            network = _from_table(name, classes, channels, width, options)
            initialise(network, seed)
        elif name == efficientnet.NAME:
            network = efficientnet.build(classes, channels, size, **options)
        elif name.startswith(timm.PREFIX):
            network = timm.build(name, classes, channels, size, **options)
        elif ":" in name:
            network = _from_callable(name, {"classes": classes, "channels": channels, **options})
        else:
            from kdlib.models import torchvision

            network = torchvision.build(name, classes, channels, size, **options)
    if name not in NETWORKS:
        _check_network(name, network, torch.zeros(2, channels, size, size), classes)
    if preprocess is not None:
        network.register_forward_pre_hook(preprocess)
    network.architecture = record  # type: ignore[assignment]
    return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's modules draw initial weights from the global generator: seed it, then put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def check_name(name: str) -> None:
    """Raise UsageError, with the names there are, unless `build` knows a network of this name."""
    if name in NETWORKS or name == efficientnet.NAME or ":" in name:
        return
    from kdlib.models import torchvision

    if name not in torchvision.names():
        raise UsageError(
            f"unknown network {name!r}; one of: {', '.join(NETWORKS)}, {efficientnet.NAME}; or of "
            "torchvision (resnet18, convnext_tiny, ...), timm:name, or module:callable"
        )


def own_constants(name: str) -> Constants | None:
    """Mean and standard deviation of each channel that a network's published weights expect.

    Raises UsageError for a network that has none.
    """
    if name.startswith(timm.PREFIX):
        return Constants(*timm.constants(name))
    if name == efficientnet.NAME:
        return CONSTANTS[efficientnet.NORMALISE]
    if name in NETWORKS or ":" in name:
        raise UsageError(f"normalise 'own' of {name}; allowed: for networks of ImageNet's weights")
    return CONSTANTS["imagenet"]


def _from_table(
    name: str, classes: int, channels: int, width: float, options: Mapping[str, Any]
) -> nn.Module:
    """A network of `NETWORKS`."""
    make, fixed, defaults = NETWORKS[name]
    for option in options:
        if option not in defaults:
            allowed = ", ".join(defaults) or "none"
            raise UsageError(f"unknown option {option!r} of {name}; allowed: {allowed}")
    return make(classes, channels, width, **fixed, **{**defaults, **options})


def _from_callable(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of "module:callable"."""
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(f"network {name!r}: no module {error.name!r} on Python's path") from error
    except AttributeError as error:
        raise UsageError(f"network {name!r}: {module} has no {attribute!r}") from error
    try:
        inspect.signature(make).bind(**arguments)
    except (TypeError, ValueError) as error:  # or it does not tell its arguments
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise UsageError(f"network {name!r}: cannot be called with {listed}: {error}") from error
    network = make(**arguments)
    if not isinstance(network, nn.Module):
        raise UsageError(f"network {name!r}: a {type(network).__name__}; allowed: a torch Module")
    return network


@torch.no_grad()
def _check_network(
    name: str, network: nn.Module, x: Float[Tensor, "n c h w"], classes: int
) -> None:
    """Raise UsageError unless the network classifies x and all its layers can be observed."""
    paths, modules = layers(network), dict(network.named_modules())
    for layer in LAYERS:
        if layer in paths and paths[layer].module in modules:
            continue
        problem = f"{paths[layer].module!r} is no module of it" if layer in paths else "is missing"
        raise UsageError(
            f"network {name!r}: layer {layer} {problem}; its layer_paths must say where "
            f"{', '.join(LAYERS)} are, for example {{'stem': 'conv1', ...}}"
        )
    try:
        logits = observe(network.eval(), x).logits
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"network {name!r}: cannot take an image of {tuple(x.shape[1:])}: {reason}"
        ) from error
    shape = (len(x), classes)
    if not isinstance(logits, Tensor) or logits.shape != shape:
        output = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"network {name!r}: its output is {output}; allowed: {shape}")
    network.train()


def architecture(network: nn.Module) -> dict[str, Any]:
    """What `restore` needs to build this network again, fit for JSON.

    Raises UsageError for a network that neither `build` nor `Grafted` made.
    """
    if not hasattr(network, "architecture"):
        raise UsageError(f"{type(network).__name__} has no record of how it was built; use build()")
    return dict(network.architecture)  # type: ignore[arg-type]


def _from_record(record: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network of an `architecture`, with the initial weights of `seed`."""
    if "student" not in record:
        return build(**record, seed=seed)
    student = _from_record(record["student"], seed)
    sizes = {key: value for key, value in record.items() if key != "student"}
    return Grafted(student, **sizes, seed=seed)


def reinitialise(network: nn.Module, seed: int) -> nn.Module:
    """A copy of `network` with the initial weights of `seed`: those that `build` gives it.

    The copy is on the same device, its BatchNorm statistics are those of an untrained network,
    and torch's global generator is left alone. Raises UsageError as `architecture` does.
    """
    fresh = _from_record(architecture(network), seed)
    again = copy.deepcopy(network)
    again.load_state_dict(fresh.state_dict())
    return again


class Grafted(nn.Module):
    """A student with its teacher's classifier: the final network of SimKD (Chen et al. 2022).

    The student up to block3; a projector to the teacher's channels (see `bottleneck`); the mean
    over positions; the linear classifier, which is not trained. The student is copied, without its
    own classifier; projector and classifier have initial weights of `seed`, to be replaced.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        channels: Sequence[int],  # of the projector: student's, middle, teacher's
        classes: int,
        size: Sequence[int] | None = None,  # of the projector's maps; None: the student's own
        bias: bool = True,  # of the classifier
        seed: int = 0,
    ):
        super().__init__()
        self.student = copy.deepcopy(student)
        with _seeded(seed):
            self.projector = bottleneck(channels, size)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(channels[-1], classes, bias).requires_grad_(False)
        paths = {
            name: replace(path, module=f"student.{path.module}")
            for name, path in layers(student).items()
        }
        self.layer_paths = {**paths, "pool": LayerPath("pool"), "logits": LayerPath("head")}
        self.student.set_submodule(layers(student)["logits"].module, nn.Identity())
        self.architecture = {
            "student": architecture(student),
            "channels": list(channels),
            "classes": classes,
            "size": None if size is None else list(size),
            "bias": bias,
        }

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of the images."""
        features = observe(self.student, x, ("block3",)).features["block3"]
        return self.head(self.pool(self.projector(features)))


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def weights(network: nn.Module) -> dict[str, np.ndarray]:
    """All parameters and BatchNorm statistics by name, in the form of `kdlib.store`."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def restore(record: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> nn.Module:
    """The trained network of a run, from its record and its weights (see `kdlib.store`).

    The record holds an `architecture`. Raises UsageError, naming keys and shapes, where the
    weights are of another network.
    """
    if "architecture" not in record:
        raise UsageError("the record of this run does not say how its network was built; run again")
    network = _from_record(record["architecture"])
    if differ := differences(network.state_dict(), weights):
        name = record["architecture"].get("name", "this network with its teacher's classifier")
        raise UsageError(f"weights do not fit {name}: {len(differ)} differ; {differ[0]}")
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.eval()


def differences(network: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[str]:
    """A line for each weight that has another shape in a checkpoint, or is missing on one side.

    BatchNorm's count of steps may be missing in the checkpoint: older ones do not hold it.
    """
    lines = []
    for name in {**network, **checkpoint}:
        ours = tuple(network[name].shape) if name in network else None
        theirs = tuple(checkpoint[name].shape) if name in checkpoint else None
        if theirs is None and name.endswith("num_batches_tracked"):
            continue
        if ours != theirs:
            lines.append(f"{name}: must be {ours}, is {theirs}")
    return lines
