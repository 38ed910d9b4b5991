"""Which layers a network has, whoever wrote it, and what they compute: by hooks on its modules."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdlib import UsageError

FEWEST, MOST = 3, 7  # layers that are chosen beside the network's output
EVENLY = 5  # layers that are chosen where no stages show
PROBE = 3  # images of the pass that finds the layers: rarely a number of tokens or of channels
OUTPUT = ("logits", "output")  # names of the network's own output: with a value per class, or other
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_tokens")

SECOND = ", images second"  # behind the reading of (t, b, d)

Tokens = Literal["auto", "class", "mean"]


@dataclass
class Call:
    """The last time that a module ran in a forward pass."""

    path: str  # of the module, as in nn.Module.named_modules
    start: int  # layers with weights that had run before it
    depth: int  # and after it
    output: Tensor | None  # (b, ...)
    axis: int  # of the images: 1 of (t, b, d)
    place: int = 0  # which of the tensors that it returned this is, of those with this axis


class Layer(NamedTuple):
    """One layer that is looked at."""

    name: str  # its module's path, or one of OUTPUT
    reading: str  # how its output becomes one vector per image, in words
    module: str = ""  # its path; empty: the network's own output
    place: int = 0  # which of the tensors for each image that it returns, of one reading


class Anatomy(NamedTuple):
    """The layers of a network from first to last, and what was noticed."""

    layers: list[Layer]
    notes: list[str]


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def find(
    name: str,
    network: nn.Module,
    x: Float[Tensor, "b c h w"],
    *,
    paths: Sequence[str] = (),
    classes: int | None = None,
    tokens: Tokens = "auto",
) -> Anatomy:
    """The layers to look at: those of `paths`, or the last output of every stage.

    A stage is a run of modules whose outputs have one resolution. From 3 to 7 of them, evenly in
    depth where there are more; where there are fewer (a transformer, whose blocks are all alike)
    five modules evenly in depth, counted in layers with weights; three blocks that are alike, or
    more, are not taken apart. Then the network's output, called
    "logits" where it has as many values as there are `classes`, else "output". x are a few images
    as the network takes them. Raises UsageError where the network cannot take them, and for a path
    that is no module, does not run or has no output for each image.
    """
    calls, whole, kind = _trace(name, network, x, classes)
    output = None if whole is None else whole.output
    notes = []
    if output is None:
        notes.append(f"its output, a {kind}, holds no vector for each image: no predictions")
    elif kind != "Tensor":
        notes.append(f"its output is a {kind}: the {_shape(output)} in it is taken")
    of_classes = output is not None and _is_of(output.shape[1:], classes)
    end = "logits" if of_classes else "output"
    if classes is not None and output is not None and end == "output":
        notes.append(f"its output {_shape(output)} is not of {classes} classes: no predictions")
    usable = output is not None and output[0].numel() > 1
    if paths:
        given = [_given(name, network, path, calls) for path in paths if path not in OUTPUT]
        chosen = [call for call in given if not _is(call.output, output)]
        asked = len(chosen) < len(paths)  # by its name, or as the module that gives it
        if usable and not asked:
            notes.append("its output is none of the layers: no predictions")
        usable = usable and asked
    else:
        chosen = _choose(calls, output)
    found = [Layer(_named(call), _reading(network, call, x, tokens), call.path) for call in chosen]
    if usable and whole is not None:
        found.append(Layer(end, _reading(network, whole, x, tokens), place=whole.place))
    if not found:
        raise UsageError(f"network {name!r}: no layer of it has an output for each image")
    return Anatomy(found, notes)


def _named(call: Call) -> str:
    """A module's path; of one that is called as something else here is, with a word behind it."""
    return f"{call.path} (module)" if call.path in (*OUTPUT, "labels") else call.path


def observe(
    network: nn.Module, x: Float[Tensor, "b c h w"], layers: Sequence[Layer]
) -> dict[str, Float[Tensor, "b d"]]:
    """One vector per image of every layer, from one forward pass. Hooks are gone afterwards."""
    outputs: dict[str, Tensor] = {}

    def keep(layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[layer.name] = _vectors(output, layer, len(x))

        return hook

    handles = []
    try:
        for layer in layers:
            if layer.module:
                module = network.get_submodule(layer.module)
                handles.append(module.register_forward_hook(keep(layer)))
        whole = network(x.clone())  # which may work in place
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if not layer.module:
            outputs[layer.name] = _vectors(whole, layer, len(x))
    return {layer.name: outputs[layer.name] for layer in layers}


def tensors(
    output: Any, b: int, axes: Sequence[int] = (0, 1)
) -> list[tuple[Float[Tensor, "b ..."], int]]:
    """The tensors for b images in what a module returned: a tensor, tuple, dict, dataclass.

    Each with which of its `axes` the images were: (t, b, d) becomes (b, t, d). Of a mapping or an
    object with "logits" those alone.
    """
    if isinstance(output, Tensor):
        plain = output.is_floating_point() and output.layout is torch.strided
        if not plain or output.ndim < 2:
            return []
        if 0 in axes and output.shape[0] == b:
            return [(output, 0)]
        if 1 in axes and output.ndim == 3 and output.shape[1] == b:
            return [(output.transpose(0, 1), 1)]
        return []
    return [tensor for inner in _parts(output) for tensor in tensors(inner, b, axes)]


def _parts(output: Any) -> list[Any]:
    if is_dataclass(output) and not isinstance(output, Mapping):
        output = {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, Mapping):
        return [output["logits"]] if "logits" in output else list(output.values())
    if isinstance(output, list | tuple):
        return list(output)
    return []


def _whole(output: Any, b: int, depth: int, classes: int | None) -> Call | None:
    """A network's own output: of several tensors the one of all classes, else the first vector.

    Of maps alone the last, which is the deepest.
    """
    candidates = tensors(output, b)
    if not candidates:
        return None
    sizes = [tuple(x.shape[1:]) for x, _ in candidates]
    of_classes = [i for i, size in enumerate(sizes) if _is_of(size, classes)]
    vectors = [i for i, size in enumerate(sizes) if len(size) == 1]
    chosen = [*of_classes, *vectors, len(candidates) - 1][0]
    x, axis = candidates[chosen]
    return Call("", 0, depth, x, axis, sum(other == axis for _, other in candidates[:chosen]))


def _is_of(size: Sequence[int], classes: int | None) -> bool:
    """Whether an output has one value for each class: (k), or (k, 1, 1) of a convolution."""
    return classes is not None and size[0] == classes == math.prod(size)


# ---- one forward pass --------------------------------------------------------------------------


def _trace(
    name: str, network: nn.Module, x: Tensor, classes: int | None
) -> tuple[dict[str, Call], Call | None, str]:
    """What every module did in one forward pass, in the order in which they ended; the network's
    own output, and its type."""
    calls: dict[str, Call] = {}
    starts: dict[str, int] = {}
    depth = 0

    def begin(path: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            starts[path] = depth

        return hook

    def end(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal depth
            depth += any(p.ndim > 1 for p in module.parameters(recurse=False))
            calls.pop(path, None)
            candidates = [*tensors(output, len(x)), (None, 0)]
            calls[path] = Call(path, starts.get(path, depth), depth, *candidates[0])

        return hook

    handles = []
    try:
        for path, module in network.named_modules():
            if path:
                handles.append(module.register_forward_pre_hook(begin(path)))
                handles.append(module.register_forward_hook(end(path)))
        output = network(x.clone())  # which may work in place
    except Exception as error:  # whatever foreign code raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"network {name!r}: cannot take images of {tuple(x.shape[1:])}: {reason}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls, _whole(output, len(x), depth, classes), type(output).__name__


# ---- which layers ------------------------------------------------------------------------------


def _given(name: str, network: nn.Module, path: str, calls: Mapping[str, Call]) -> Call:
    known = [path for path, _ in network.named_modules() if path]
    if path not in known:
        near = difflib.get_close_matches(path, list(calls), 4, 0.3) or list(calls)[:4]
        raise UsageError(
            f"network {name!r}: unknown layer {path!r}; one of its {len(known)} modules or "
            f"{OUTPUT[0]}, such as {', '.join(near)}"
        )
    if path not in calls or calls[path].output is None:
        problem = "does not run" if path not in calls else "has no output for each image"
        raise UsageError(f"network {name!r}: layer {path!r} {problem}; allowed: one that does")
    return calls[path]


def _choose(calls: Mapping[str, Call], output: Tensor | None) -> list[Call]:
    """The last output of every stage, without the network's own output."""
    units = _below("", calls)
    while units and _is(units[-1].output, output) and _grows(units[-1], calls):
        units = units[:-1] + _below(units[-1].path, calls)
    while True:
        stages = _stages(_distinct(units, output))
        large = [unit for unit in units if _grows(unit, calls)]
        if _enough(stages) or len(_distinct(units, output)) >= EVENLY or not large:
            break
        widest = max(large, key=lambda unit: unit.depth - unit.start)
        alike = len(_alike(widest, units))
        if alike >= FEWEST or (alike > 1 and len(_distinct(units, output)) >= FEWEST):
            break
        place = units.index(widest)
        units = units[:place] + _below(widest.path, calls) + units[place + 1 :]
    if not _enough(stages):
        return _evenly(_distinct(units, output))
    if len(stages) > MOST:
        last = len(stages) - 1
        return [stages[round(i * last / (MOST - 1))] for i in range(MOST)]
    return stages


def _below(path: str, calls: Mapping[str, Call]) -> list[Call]:
    """The modules inside one that ran, without those inside them, in order."""
    prefix = f"{path}." if path else ""
    inside = [call for call in calls.values() if call.path.startswith(prefix)]
    outer = [
        call
        for call in inside
        if not any(call.path.startswith(f"{other.path}.") for other in inside)
    ]
    return outer


def _alike(unit: Call, units: Sequence[Call]) -> list[Call]:
    """The blocks beside one in the same container that are as deep, at one resolution."""
    return [
        other
        for other in units
        if other.path.rpartition(".")[0] == unit.path.rpartition(".")[0]
        and other.depth - other.start == unit.depth - unit.start
        and _resolution(other) == _resolution(unit)
    ]


def _grows(unit: Call, calls: Mapping[str, Call]) -> bool:
    """Whether a module holds several layers with weights, in modules of its own."""
    return unit.depth - unit.start > 1 and bool(_below(unit.path, calls))


def _distinct(units: Sequence[Call], output: Tensor | None) -> list[Call]:
    """One module for each depth: the last before the resolution changes (no pooling)."""
    kept: dict[int, Call] = {}
    for unit in units:
        if unit.output is None or unit.depth == 0 or _is(unit.output, output):
            continue
        if unit.output[0].numel() < 2:
            continue
        first = kept.get(unit.depth)
        if first is None or _resolution(first) == _resolution(unit):
            kept[unit.depth] = unit
    return [kept[depth] for depth in sorted(kept)]


def _stages(units: Sequence[Call]) -> list[Call]:
    """The last of every run of one resolution."""
    return [
        unit
        for i, unit in enumerate(units)
        if i == len(units) - 1 or _resolution(units[i + 1]) != _resolution(unit)
    ]


def _enough(stages: Sequence[Call]) -> bool:
    """Whether stages show the network: three, none of them most of it, or four."""
    if len(stages) <= FEWEST:
        ends = [0, *(stage.depth for stage in stages)]
        widest = max(b - a for a, b in pairwise(ends)) if stages else 0
        return len(stages) == FEWEST and widest <= 0.6 * ends[-1]
    return True


def _evenly(units: Sequence[Call]) -> list[Call]:
    if len(units) <= EVENLY:
        return list(units)
    chosen = {}
    for i in range(1, EVENLY + 1):
        target = units[-1].depth * i / EVENLY
        nearest = min(units, key=lambda unit: abs(unit.depth - target))
        chosen[nearest.path] = nearest
    return list(chosen.values())


def _resolution(call: Call) -> tuple[int, ...]:
    x = call.output
    if x is None or x.ndim == 2:
        return ()
    if x.ndim == 3:
        return (x.shape[1],)
    return tuple(x.shape[1:-1]) if _channels_last(x) else tuple(x.shape[2:])


def _is(x: Tensor | None, output: Tensor | None) -> bool:
    """Whether a module's output is the network's, as a vector or as a map of one position."""
    if x is None or output is None:
        return False
    if {x[0].numel(), output[0].numel()} == {x.shape[1], output.shape[1]}:
        x, output = x.flatten(1), output.flatten(1)
    if x.shape != output.shape:
        return False
    return x.data_ptr() == output.data_ptr() or bool(torch.equal(x, output))


def _shape(x: Tensor) -> str:
    return f"(n, {', '.join(map(str, x.shape[1:]))})"


# ---- one vector per image ----------------------------------------------------------------------


def _channels_last(x: Tensor) -> bool:
    """Whether a map is (b, h, w, c): its two middle axes are equal, its last two are not."""
    return x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]


def _reading(network: nn.Module, call: Call, images: Tensor, tokens: Tokens) -> str:
    """How an output becomes one vector per image: one of the words of `_vectors`."""
    x = call.output
    assert x is not None
    if x.ndim == 2:
        return "as it is"
    if x.ndim == 3:
        word = "class token" if _by_class_token(network, x, tokens) else "mean of tokens"
        return word + (SECOND if call.axis else "")
    square = images.shape[-1] == images.shape[-2]
    if square and _channels_last(x):
        return "mean of positions, channels last"
    return "mean of positions"


def _by_class_token(network: nn.Module, x: Tensor, tokens: Tokens) -> bool:
    """Whether the first token stands for the image: a network with one, on more than a square."""
    if tokens != "auto":
        return tokens == "class"
    names = [name.rpartition(".")[2] for name, _ in network.named_parameters()]
    has_one = any(name in CLASS_TOKENS for name in names)
    return has_one and math.isqrt(x.shape[1]) ** 2 != x.shape[1]


def _vectors(output: Any, layer: Layer, b: int) -> Float[Tensor, "b d"]:
    """One vector per image; copies, as what comes behind may work in place."""
    candidates = tensors(output, b, (1,) if layer.reading.endswith(SECOND) else (0,))
    if len(candidates) <= layer.place:
        raise UsageError(f"a layer has no output for each of {b} images, as it had of {PROBE}")
    x = candidates[layer.place][0].detach().float()
    word = layer.reading.removesuffix(SECOND)
    if word == "as it is":
        return x.clone()
    if word == "class token":
        return x[:, 0].clone()
    if word == "mean of tokens":
        return x.mean(1)
    if word == "mean of positions, channels last":
        return x.mean((1, 2))
    return x.mean(tuple(range(2, x.ndim)))
