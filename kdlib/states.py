"""The state of a training: all that a step changes, taken from its objects and put back into them.

The walk knows tensors, plain values, lists, tuples and dicts of them, modules, optimisers,
schedules and random generators, and no method by name. What else an object holds (images, other
objects) is not part of its state: it is built again as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Arrays = dict[str, np.ndarray]
_PARTS = (nn.Module, Optimizer, LRScheduler, torch.Generator)


class _UnfitError(Exception):
    """Something that is not part of a state."""


def take(thing: object, arrays: Arrays, without: Collection[str] = ()) -> dict[str, Any]:
    """The state of an object, as JSON; its tensors join `arrays` under names that stand in it.

    `without` are attributes left out.
    """
    told = {}
    for name, part in _parts(thing).items():
        if name in without:
            continue
        try:
            told[name] = ["parts", take(part, arrays)] if _whole(part) else _value(part, arrays)
        except _UnfitError:
            continue
    return told


def put(thing: object, told: dict[str, Any], arrays: Arrays) -> None:
    """Put a state back into an object that was built in the same way as the one it is of.

    Raises KeyError, ValueError or RuntimeError where it was not.
    """
    parts, given = _parts(thing), {}
    for name, value in told.items():
        if isinstance(value, list) and value[0] == "parts":
            put(parts[name], value[1], arrays)
        else:
            given[name] = _restored(value, arrays)
    if isinstance(thing, torch.Generator):
        thing.set_state(given["state"])
    elif isinstance(thing, Optimizer):
        _put_optimiser(thing, given)
    elif isinstance(thing, nn.Module):
        _put_module(thing, given)
    else:
        vars(thing).update(given)


def generators() -> dict[str, Any]:
    """The states of the random generators that a process has, of torch, NumPy and Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def put_generators(states: dict[str, Any]) -> None:
    """Put back what `generators` gave."""
    torch.set_rng_state(states["torch"])
    for device in range(min(len(states["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(states["cuda"][device].cpu(), device)
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


def take_value(value: object, arrays: Arrays) -> Any:
    """As `take`, of a plain value, a tensor or a container of them. Raises TypeError for others."""
    try:
        return _value(value, arrays)
    except _UnfitError:
        raise TypeError(f"{type(value).__name__} is no plain value") from None


def put_value(told: Any, arrays: Arrays) -> Any:
    """The value that `take_value` told."""
    return _restored(told, arrays)


def _whole(part: object) -> bool:
    return isinstance(part, _PARTS)


def _parts(thing: object) -> dict[str, Any]:
    """What an object's state consists of, by name."""
    if isinstance(thing, torch.Generator):
        return {"state": thing.get_state()}
    if isinstance(thing, Optimizer):
        groups = [{k: v for k, v in g.items() if k != "params"} for g in thing.param_groups]
        return {"groups": groups, "states": [dict(thing.state.get(p, {})) for p in _of(thing)]}
    if isinstance(thing, LRScheduler):
        return {k: v for k, v in vars(thing).items() if k != "optimizer"}
    if isinstance(thing, nn.Module):
        own = {
            f"{path}.{name}": value
            for path, module in thing.named_modules()
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (isinstance(value, torch.Generator) or not _whole(value))
        }
        return {"tensors": {k: v.detach() for k, v in _tensors(thing).items()}, **own}
    return vars(thing)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that a state_dict leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _of(optimiser: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimiser.param_groups for p in group["params"])


def _put_optimiser(optimiser: Optimizer, given: dict[str, Any]) -> None:
    for group, values in zip(optimiser.param_groups, given["groups"], strict=True):
        group.update(values)
    for parameter, values in zip(_of(optimiser), given["states"], strict=True):
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value = torch.empty_like(parameter).copy_(value)  # in its memory format
            optimiser.state[parameter][name] = value


@torch.no_grad()
def _put_module(module: nn.Module, given: dict[str, Any]) -> None:
    modules, tensors = dict(module.named_modules()), _tensors(module)
    for name, value in given.pop("tensors").items():
        tensors[name].copy_(value)
    for name, value in given.items():
        path, _, attribute = name.rpartition(".")
        modules[path].__dict__[attribute] = value


def _value(value: Any, arrays: Arrays) -> Any:
    """A plain value, tensor or container as JSON: what is no plain value is a list, kind first."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        kept = value.detach().cpu()
        kept = kept.float() if kept.dtype == torch.bfloat16 else kept  # NumPy has none
        how = [value.device.type, str(value.dtype).removeprefix("torch.")]
        return ["tensor", _named(kept.numpy(), arrays), *how]
    if isinstance(value, np.ndarray):
        return ["array", _named(value, arrays)]
    each: Callable[[Any], Any] = lambda part: _value(part, arrays)  # noqa: E731
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(each, value)]
    if type(value) is dict:
        return ["dict", *([each(key), each(part)] for key, part in value.items())]
    raise _UnfitError


def _named(array: np.ndarray, arrays: Arrays) -> str:
    name = str(len(arrays))
    arrays[name] = array
    return name


def _restored(told: Any, arrays: Arrays) -> Any:
    """The value that `_value` told."""
    if not isinstance(told, list):
        return told
    kind, *rest = told
    if kind == "tensor":
        name, device, dtype = rest
        return torch.from_numpy(arrays[name].copy()).to(device, getattr(torch, dtype))
    if kind == "array":
        return arrays[rest[0]]
    if kind == "dict":
        return {_restored(key, arrays): _restored(part, arrays) for key, part in rest}
    each = [_restored(part, arrays) for part in rest]
    return tuple(each) if kind == "tuple" else each
