"""Networks that were trained elsewhere: made from what names them, with their weights."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, path_of, printable
from kdlib.models import NETWORKS, build, checkpoints, efficientnet, timm
from kdlib.plan.look import Reference, constants
from kdlib.plan.runs import CONSTANTS, Constants, Teacher, is_address

CLASSES = ("classes", "num_classes", "n_classes", "nclass")  # arguments of a callable
CHANNELS = ("channels", "in_channels", "in_chans", "num_channels")
PUBLISHED = 224  # pixels by side of the images that torchvision's weights are for
ORDINARY = 1000  # classes of a network as published, where its builder does not say


class Preparation(NamedTuple):
    """What is done to bytes of images before a network gets them."""

    constants: Constants
    size: int | None  # side in pixels; None: as the images are
    channels: int  # grey images are repeated, coloured ones made grey, where the network says so
    words: str

    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, h, w) bytes as the network wants them; numbers are only resized."""
        is_bytes = x.dtype == torch.uint8
        x = x.float()
        if x.shape[1] != self.channels:
            x = (
                x.mean(1, keepdim=True)
                if self.channels == 1
                else x.expand(-1, self.channels, -1, -1)
            )
        if is_bytes:
            mean, std = (torch.tensor(v, device=x.device).reshape(-1, 1, 1) for v in self.constants)
            x = (x / 255 - mean) / std
        if self.size is None or tuple(x.shape[2:]) == (self.size, self.size):
            return x
        shrinks = min(x.shape[2:]) > self.size
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=shrinks)


def make(
    name: str,
    source: Any,
    classes: int | None,
    channels: int,
    size: int,
    names: Mapping[str, str | None] | None = None,
) -> nn.Module:
    """The network of a Reference, with its weights; one that is in memory as it is.

    It is built for the classes of the images, and if its weights are of others then as its own
    code builds it. `names` maps beginnings of names in its checkpoint to its own. Raises
    UsageError, one line that names the network.
    """
    if isinstance(source, nn.Module):
        return _with_layers(name, source)
    if not isinstance(source, Reference):
        raise UsageError(
            f"network {name!r}: a {type(source).__name__}; allowed: a torch Module, a text such as "
            "'nets.py:student@kd.pt', or a list of these"
        )
    problem: UsageError | None = None
    for count in (classes, None):
        try:
            network = _with_layers(name, _built(name, source, count, channels, size))
            _load(name, network, source, names or {})
            return network
        except UsageError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _with_layers(name: str, network: nn.Module) -> nn.Module:
    """A network, unless it is compiled code: its layers cannot be looked into."""
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError(
            f"network {name!r}: is TorchScript, whose layers cannot be looked into; allowed: the "
            "Module that it was made from"
        )
    return network


def fingerprint(network: nn.Module, outputs: Iterable[Tensor]) -> str:
    """What tells a network apart from others: its structure, its weights and what it computes.

    `outputs` are those of its layers for some images: code that is changed shows in them.
    """
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            array = tensor.detach().cpu().contiguous()
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    for tensor in outputs:
        digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()[:16]


# ---- building ----------------------------------------------------------------------------------


def _built(
    name: str, source: Reference, classes: int | None, channels: int, size: int
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if source.kind == "known":
            return _known(name, source, classes or ORDINARY, channels, size)
        if source.kind == "timm":
            return _timm(name, source, classes, channels, size)
        from kdlib.models import torchvision  # noqa: F401  (so that code of others can import it)

        if source.kind == "file":
            module = _module_of(*_code(name, source))
        else:
            try:
                module = importlib.import_module(source.place)
            except (Exception, SystemExit) as error:  # whatever foreign code raises
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise UsageError(
                    f"network {name!r}: cannot import {source.place}: {reason}"
                ) from error
        return _called(name, source, module, classes, channels)


def _known(name: str, source: Reference, classes: int, channels: int, size: int) -> nn.Module:
    """One of kdlib's networks; of torchvision's as its own code builds it."""
    from kdlib.models import check_name, torchvision

    check_name(source.name)
    options = {"classes": classes, "channels": channels, "size": size, **dict(source.options)}
    if source.name in NETWORKS or source.name == efficientnet.NAME:
        return _of_ours(name, source, options)
    published = source.checkpoint == "imagenet"
    if published or channels == 3:
        library = torchvision.torchvision
        try:
            return library.models.get_model(  # type: ignore[no-any-return]
                source.name,
                weights="DEFAULT" if published else None,
                **({} if published else {"num_classes": classes}),
                **dict(source.options),
            )
        except (OSError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"network {name!r}: torchvision's {source.name}: {reason}") from error
    return _of_ours(name, source, options)


def _of_ours(name: str, source: Reference, options: Mapping[str, Any]) -> nn.Module:
    try:
        return build(source.name, **options)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"network {name!r}: {source.name}: {reason}") from error


def _timm(name: str, source: Reference, classes: int | None, channels: int, size: int) -> nn.Module:
    library = timm.library()
    if not library.is_model(source.name):
        near = library.list_models(f"*{source.name[:6]}*")[:5] or library.list_models()[:5]
        raise UsageError(f"network {name!r}: timm has no {source.name!r}; some: {', '.join(near)}")
    published = source.checkpoint == "imagenet"
    given: dict[str, Any] = {} if published else {"in_chans": channels}
    if classes is not None and not published:
        given["num_classes"] = classes
    if not published and library.models.get_pretrained_cfg_value(source.name, "fixed_input_size"):
        given["img_size"] = size
    try:
        given |= dict(source.options)
        network: nn.Module = library.create_model(source.name, pretrained=published, **given)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"network {name!r}: timm's {source.name}: {reason}") from error
    return network


def _code(name: str, source: Reference) -> tuple[str, str]:
    """The file of a Reference, and a hash of what it holds now."""
    path = path_of(f"network {name!r}: file", source.place).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _module_of(file: str, _hash: str) -> Any:
    """The module that a file holds; what lies beside it can be imported by it.

    What it imports from there is not kept for others: another file has modules of its own.
    """
    path = Path(file)
    spec = importlib.util.spec_from_file_location(
        f"_look_{abs(hash((file, _hash)))}_{path.stem}", path
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    try:
        with _importing(module):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        del sys.modules[spec.name]
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{file} cannot be run: {type(error).__name__}: {reason}") from error
    return module


_BESIDE: dict[str, dict[str, ModuleType]] = {}  # modules that lie beside a file's, by its name


@contextlib.contextmanager
def _importing(module: Any) -> Iterator[None]:
    """Let a file's code import what lies beside it; afterwards that is nobody else's."""
    folder, own = Path(module.__file__).parent, _BESIDE.setdefault(module.__name__, {})
    before = set(sys.modules)
    hidden = {name: sys.modules[name] for name in own if name in sys.modules}
    sys.modules.update(own)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before | own.keys() & sys.modules.keys():
            if name in own or _lies_in(folder, name):
                own[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a module was imported from a folder: not kdlib, nor a package installed there."""
    place = getattr(sys.modules[name], "__file__", None)
    if place is None or name.partition(".")[0] == "kdlib" or "site-packages" in Path(place).parts:
        return False
    return Path(place).is_relative_to(folder)


def _called(
    name: str, source: Reference, module: Any, classes: int | None, channels: int
) -> nn.Module:
    """The network of a callable, which gets the classes and channels that it has arguments for."""
    made = module
    for part in source.name.split("."):
        made = getattr(made, part, None)
    if made is None:
        there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise UsageError(
            f"network {name!r}: {source.place} has no {source.name!r}; it has: "
            f"{', '.join(there[:8]) or 'no callable'}"
        )
    if isinstance(made, nn.Module):  # one of a file is every network that names it
        network = copy.deepcopy(made)
        if source.kind == "file":
            _let_import(network, module)
        return network
    if not callable(made):
        raise UsageError(f"network {name!r}: {source.name} is a {type(made).__name__}; allowed: a "
                         "callable that returns a torch Module, or a Module")  # fmt: skip
    try:
        options = dict(source.options)
        given = _arguments(name, source, made, options, classes, channels)
        beside = _importing(module) if source.kind == "file" else contextlib.nullcontext()
        with beside:
            network = made(**given, **options)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"network {name!r}: {source.name}() fails: {reason}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise UsageError(f"network {name!r}: {source.name}() is a {kind}; allowed: a torch Module")
    kept = any(network is value for value in vars(module).values())  # for its next caller, too
    network = copy.deepcopy(network) if kept else network
    if source.kind == "file":
        _let_import(network, module)
    return network


def _let_import(network: nn.Module, module: Any) -> None:
    """Let the forward passes of a file's network import what lies beside the file, too."""
    passes: list[contextlib.AbstractContextManager[None]] = []

    def begin(*_: Any) -> None:
        passes.append(_importing(module))
        passes[-1].__enter__()

    def end(*_: Any) -> None:
        if passes:  # none where a hook of the network's own failed before `begin`
            passes.pop().__exit__(None, None, None)

    network.register_forward_pre_hook(begin)
    network.register_forward_hook(end, always_call=True)


def _arguments(
    name: str,
    source: Reference,
    made: Callable[..., Any],
    options: Mapping[str, Any],
    classes: int | None,
    channels: int,
) -> dict[str, Any]:
    """What a callable needs beside the arguments that are given."""
    given: dict[str, Any] = {}
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):
        return given
    for key, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or key in options:
            continue
        needed = parameter.default is parameter.empty
        if key in CLASSES and (needed or classes is not None):
            given[key] = classes or ORDINARY
        elif key in CHANNELS and needed:
            given[key] = channels
        elif needed:
            allowed = ", ".join((CLASSES[0], CLASSES[1], CHANNELS[0], CHANNELS[1]))
            raise UsageError(
                f"network {name!r}: {source.name} needs {key!r}: write {source.name}({key}=...); "
                f"known without: {allowed}"
            )
    return given


# ---- weights -----------------------------------------------------------------------------------


def _load(
    name: str, network: nn.Module, source: Reference, names: Mapping[str, str | None]
) -> None:
    published = source.checkpoint == "imagenet"
    if not source.checkpoint or (published and source.kind == "timm"):
        return
    if published and source.kind in ("file", "module"):
        raise UsageError(
            f"network {name!r}: weights 'imagenet' of {source.name}; allowed: for timm's, "
            "torchvision's and ours"
        )
    if published and not hasattr(network, "architecture"):  # torchvision's, which has them
        return
    weights: str | Path = source.checkpoint
    if is_address(source.checkpoint):
        made = Teacher(weights=source.checkpoint)
        assert made.weights_file is not None
        weights = checkpoints.fetch(source.checkpoint, made.weights_file)
    try:
        if note := checkpoints.load_any(network, weights, names):
            print(printable(f"{name}: {note}"))
    except UsageError as problem:
        raise UsageError(f"network {name!r}: {problem}") from None


# ---- preparation -------------------------------------------------------------------------------


def preparation(
    network: nn.Module,
    source: Any,
    normalise: str,
    size: int | None,
    data: Constants,
    channels: int,
) -> Preparation:
    """How images are made ready for a network: what was asked for, else what it says of itself.

    A network says so by timm's `pretrained_cfg`, or is published with ImageNet's weights; the
    size only where it is fixed or the weights are published. Else `data`, the images' own mean
    and deviation. Raises UsageError for numbers of channels that do not fit.
    """
    own, own_size = _own(network, source)
    words = normalise
    wanted = constants(normalise)
    if normalise == "own":
        wanted, words = own, "its own constants"
    if wanted is None:
        wanted, words = data, "the images' own mean and deviation"
    takes = _takes(network, channels)
    note = ""
    if takes != channels:
        note = ", grey repeated" if channels == 1 else ", made grey"
    if len(wanted.mean) not in (1, takes):
        if takes == 1:
            wanted = Constants(
                (sum(wanted.mean) / len(wanted.mean),), (sum(wanted.std) / len(wanted.std),)
            )
        else:
            raise UsageError(
                f"normalise by {len(wanted.mean)} channels, of images of {takes}; allowed: data"
            )
    size = size if size is not None else own_size
    if size is not None:
        note += f", resized to {size} x {size}"
    return Preparation(wanted, size, takes, f"normalised by {words}{note}")


def _own(network: nn.Module, source: Any) -> tuple[Constants | None, int | None]:
    """Mean and deviation, and the side in pixels, that a network says of itself."""
    published = isinstance(source, Reference) and source.checkpoint == "imagenet"
    config = getattr(network, "pretrained_cfg", None)
    if isinstance(config, Mapping) and {"mean", "std"} <= {*config}:
        size = getattr(getattr(network, "patch_embed", None), "img_size", None)
        if published:
            size = config["input_size"]
        elif not config.get("fixed_input_size"):
            size = None
        return Constants(tuple(config["mean"]), tuple(config["std"])), size and size[-1]
    if published:
        name = efficientnet.NORMALISE if source.name == efficientnet.NAME else "imagenet"
        return CONSTANTS[name], PUBLISHED
    return None, None


def _takes(network: nn.Module, channels: int) -> int:
    """How many channels a network's first convolution has; as many as there are, without one."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    takes = channels if first is None else first.in_channels
    return takes if {takes, channels} == {1, 3} else channels
