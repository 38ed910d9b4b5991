"""Weights from a file, also of other projects' networks, or torchvision's own.

The networks to `models.build` for checkpoints that are published for CIFAR:

    akamaster           resnet20 to resnet110
    chenyaofo           resnet20 to 56 with shortcut="conv"; vgg11_bn to 19_bn, mobilenet_v2 (with
                        width_mult), shufflenet_v2_x0_5 to x2_0, each with small=True
    huyvnphan           resnet18 to 50, densenet121 to 169 with small="pooled"; vgg11_bn to 19_bn;
                        mobilenet_v2 with small=True
    kuangliu, timm      resnet18 to 152 with small=True
    RepDistiller        resnet8 to 110 with shortcut="conv", resnet8x4, resnet32x4, wrn-*, vgg*
    pytorchcv           resnet20 to 110 with shortcut="conv"

Images have to be normalised as there (see `kdlib.plan.runs.CONSTANTS`); checkpoints do not record
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdlib import UsageError
from kdlib.models import efficientnet, timm
from kdlib.models.build import architecture, differences
from kdlib.models.cifar import NETWORKS
from kdlib.models.observe import layers
from kdlib.plan.runs import content, is_address

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

NESTS = ("state_dict", "model_state_dict", "model", "net")  # keys that hold the weights
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")  # left by wrappers
_WRN: tuple[Rule, ...] = (
    (r"^conv1\.", "stem.0."),
    (r"^block2\.layer\.0\.bn1\.", "block1.bn."),
    (r"^block3\.layer\.0\.bn1\.", "block2.bn."),
    (r"^bn1\.", "block3.bn."),
    (r"\.layer\.", ".units."),
    (r"\.convShortcut\.", ".shortcut."),
    (r"^fc\.", "logits."),
)
# How others name the same weights: (expression, our name), in this order.
NAMINGS: dict[str, tuple[Rule, ...]] = {
    "as here": (),
    "resnet: akamaster, chenyaofo, RepDistiller": (
        (r"^conv1\.", "stem.0."),
        (r"^bn1\.", "stem.1."),
        (r"^layer(\d)\.", r"block\1."),
        (r"\.downsample\.", ".shortcut."),
        (r"^(fc|linear)\.", "logits."),
    ),
    "resnet: pytorchcv": (
        (r"^features\.init_block\.conv\.", "stem.0."),
        (r"^features\.init_block\.bn\.", "stem.1."),
        (r"^features\.stage(\d)\.unit(\d+)\.", lambda m: f"block{m[1]}.{int(m[2]) - 1}."),
        (r"\.body\.conv(\d)\.conv\.", r".conv\1."),
        (r"\.body\.conv(\d)\.bn\.", r".bn\1."),
        (r"\.identity_conv\.conv\.", ".shortcut.0."),
        (r"\.identity_conv\.bn\.", ".shortcut.1."),
        (r"^output\.", "logits."),
    ),
    "torchvision's resnet18 to 152: kuangliu": (
        (r"\.shortcut\.", ".downsample."),
        (r"^linear\.", "fc."),
    ),
    "wrn-*-2: RepDistiller": ((r"^block1\.layer\.0\.bn1\.", "stem.1."), *_WRN),
    "wrn-*-1: RepDistiller": _WRN,
    "vgg: RepDistiller": (
        (r"^block0\.", "stem."),
        (r"^block([123])\.", r"block\1.1."),
        (r"^block4\.", "block3.2."),
        (r"^classifier\.", "logits."),
    ),
}


def fetch(weights: str, file: Path, digest: str) -> Path:
    """The file of a checkpoint: `file` itself, or what an address holds, fetched into it once.

    Raises UsageError where it cannot be fetched, and where the SHA-256 of its content does not
    begin with `digest`, also of one that lies there already.
    """
    if not is_address(weights):
        return file
    if file.is_file():
        if content(file) != digest:
            raise UsageError(f"weights {weights}: {file} holds others; delete it")
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights, str(file), hash_prefix=digest)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"weights {weights}: cannot be fetched to {file}: {error}") from None
    return file


def load(network: nn.Module, weights: str | Path, *, new_head: bool | None = False) -> list[str]:
    """Load the weights of a file into a network, in place; returns the names of those not loaded.

    `weights` is a safetensors file or a torch file (tensors only: no code of it is run), with names
    as here or of `NAMINGS`; or "imagenet", for the published weights of EfficientNet-lite0, timm's
    and torchvision's networks. Only with `new_head` does the classifier stay as initialised, for
    other classes; with None where it is of other classes. Raises UsageError, naming keys and
    shapes, unless every weight finds its place.
    """
    tensors = _imagenet(network) if str(weights) == "imagenet" else _tensors(Path(weights))
    head = layers(network)["logits"].module + "."
    attempts = []
    for rules in NAMINGS.values():
        renamed = {_renamed(name, rules): x for name, x in tensors.items()}
        if new_head:
            renamed = {name: x for name, x in renamed.items() if not name.startswith(head)}
        attempts.append((differences(network.state_dict(), renamed), renamed))
    differ, best = min(attempts, key=lambda attempt: len(attempt[0]))
    others = [line for line in differ if not line.startswith(head)]
    if others or (differ and new_head is False):
        hint = "" if others else "; new_head leaves the classifier as initialised"
        raise UsageError(
            f"weights {weights} do not fit: {len(differ)} differ; {'; '.join(differ[:3])}{hint}"
        )
    fresh = [name for name in network.state_dict() if differ and name.startswith(head)]
    loaded = {name: x for name, x in best.items() if name not in fresh}
    network.load_state_dict(loaded, strict=False)
    return fresh


def _renamed(name: str, rules: tuple[Rule, ...]) -> str:
    for expression, ours in rules:
        name = re.sub(expression, ours, name)
    return name


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without nesting and without a wrapper's prefix."""
    state: Any = _read(file)
    while isinstance(state, Mapping):
        inner = [state[name] for name in NESTS if isinstance(state.get(name), Mapping)]
        if not inner:
            break
        state = inner[0]
    if not isinstance(state, Mapping):
        raise UsageError(f"weights {file}: holds a {type(state).__name__}, not a state_dict")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"weights {file}: holds no tensors, but {', '.join(map(str, state))[:80]}")
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"weights {file}: there is no such file") from error
    except UnpicklingError as error:
        raise UsageError(
            f"weights {file}: is no torch file, or holds more than tensors, which is not read "
            "for safety; allowed: a saved state_dict"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"weights {file}: cannot be read: {reason}") from error


def _imagenet(network: nn.Module) -> dict[str, Tensor]:
    from kdlib.models import torchvision
    from kdlib.vision import torchvision as library

    name = architecture(network).get("name")
    if name == efficientnet.NAME:
        return _tensors(efficientnet.weights_file())
    if name is not None and name.startswith(timm.PREFIX):
        return timm.published(name, architecture(network)["channels"])
    if name in NETWORKS or name not in torchvision.names():
        raise UsageError(
            f"weights 'imagenet' of {name}; allowed: for {efficientnet.NAME}, timm's and "
            "torchvision's networks only"
        )
    published = library.models.get_model_weights(name).DEFAULT
    try:
        return dict(published.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UsageError(
            f"weights 'imagenet' of {name}: cannot fetch {published.url} ({error}); "
            f"put the file into {folder}"
        ) from error


def load_any(network: nn.Module, weights: str | Path) -> None:
    """Load the weights of a file into a network of anybody's, in place, every one of them.

    Read as by `load`; a network that names its layers as ours takes the names of `NAMINGS`, too.
    Raises UsageError, naming keys and shapes, unless every weight finds its place.
    """
    if "logits" in layers(network) and hasattr(network, "architecture"):
        load(network, weights)
        return
    tensors = _tensors(Path(weights))
    if differ := differences(network.state_dict(), tensors):
        kind = type(network).__name__
        raise UsageError(
            f"weights {weights} do not fit {kind}: {len(differ)} differ; {'; '.join(differ[:3])}"
        )
    network.load_state_dict(tensors, strict=False)
