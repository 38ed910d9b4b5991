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

import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from kdlib import UsageError, path_of
from kdlib.models import efficientnet, timm
from kdlib.models.build import architecture, differences
from kdlib.models.cifar import NETWORKS
from kdlib.models.observe import layers
from kdlib.plan.runs import digest_in, is_address

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


class Ignored:
    """Stands for whatever a checkpoint holds beside tensors: no constructor of theirs is called.

    NumPy's array, for one, would make objects of any bytes that a file gives it.
    """

    def __new__(cls, *_: Any, **__: Any) -> Ignored:
        """Take any arguments, and leave them."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments, and leave them."""

    def __setstate__(self, _state: Any) -> None:
        """Take any state, and leave it."""


# What training loops write beside tensors.
_KINDS = "Bool Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float16 Float32 Float64 Str Bytes"
_ARRAYS = [f"{core}.multiarray" for core in ("numpy.core", "numpy._core")]
_OMEGACONF = (  # in which Hydra and Lightning keep settings
    *("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata"),
    *(f"nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String", "Enum")),
)
PLAIN: list[Any] = [
    (lambda *_: {}, "collections.defaultdict"),  # weights may lie in it; torch puts them there
    *((Ignored, name) for name in ("argparse.Namespace", "types.SimpleNamespace")),
    *((Ignored, f"builtins.{name}") for name in ("int", "float", "str", "bool", "list", "dict")),
    *((Ignored, f"datetime.{name}") for name in ("date", "datetime", "timedelta", "timezone")),
    *((Ignored, f"omegaconf.{name}") for name in _OMEGACONF),
    (lambda *_: [], "collections.deque"),
    (Ignored, "typing.Any"),
    *((Ignored, f"numpy.{name}") for name in ("ndarray", "dtype")),
    *((Ignored, f"numpy.dtypes.{kind}DType") for kind in _KINDS.split()),
    *((Ignored, f"{place}.{name}") for place in _ARRAYS for name in ("scalar", "_reconstruct")),
    *(
        (Ignored, f"{place}.{pure}{system}Path")
        for place in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    ),
]
DEPTH = 10  # of dicts around the weights
SETS = 3  # of dicts around weights by names of their own: {"ema": {"model": ...}}
MOST = 20_000  # tensors in all sets of weights of a file
NESTS = ("state_dict", "model_state_dict", "model", "net")  # keys that hold the weights
PREFIXES = ("module.", "model.", "net.", "_orig_mod.", "_fsdp_wrapped_module.")  # of wrappers
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
        (r"^features\.stage(\d)\.unit(\d{1,4})\.", lambda m: f"block{m[1]}.{int(m[2]) - 1}."),
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


class Weights(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]  # by the file's names, or by those that were asked for
    note: str  # which other sets of weights it holds, in a line; "" for none


def fetch(weights: str, file: Path) -> Path:
    """The file of a checkpoint: `file` itself, or what an address holds, fetched into it once.

    Raises UsageError where it cannot be fetched, and where the SHA-256 of its content is not what
    the address says, also of one that lies there already.
    """
    if not is_address(weights):
        return file
    digest = digest_in(weights)
    if file.is_file():
        if not _sha256(file).startswith(digest):
            raise UsageError(f"weights {weights}: {file} holds others; delete it")
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights, str(file), hash_prefix=digest)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"weights {weights}: cannot be fetched to {file}: {error}") from None
    return file


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load(
    network: nn.Module,
    weights: str | Path,
    *,
    new_head: bool | None = False,
    names: Mapping[str, str | None] | None = None,
) -> list[str]:
    """Load the weights of a file into a network, in place; returns the names of those not loaded.

    `weights` is a safetensors file or a torch file (tensors and plain settings: no code of it is
    run), with names as here or of `NAMINGS`; or "imagenet", for the published weights of
    EfficientNet-lite0, timm's and torchvision's networks. `names` maps beginnings of names in the
    file to ours, {"backbone.": "", "projector.": None}; those of None are left out. Only with
    `new_head` does the classifier stay as initialised, for other classes; with None where it is of
    other classes. Raises UsageError, naming keys and shapes, unless every weight finds its place,
    and for weights that are not finite or no real numbers.
    """
    return _fill(network, _weights(network, weights, names).tensors, weights, new_head)


def _weights(
    network: nn.Module,
    weights: str | Path,
    names: Mapping[str, str | None] | None,
    wanted: Container[str] = (),
) -> Weights:
    """The weights of a file, or "imagenet", by the names that `names` maps them to."""
    if str(weights) == "imagenet":
        loaded = Weights(_imagenet(network), "")
    else:
        loaded = _tensors(Path(weights), wanted, names)
    return loaded._replace(tensors=_mapped(loaded.tensors, names, weights)) if names else loaded


def _fill(
    network: nn.Module, tensors: Mapping[str, Tensor], weights: str | Path, new_head: bool | None
) -> list[str]:
    """Load tensors into a network, in place; returns the names of those not loaded (`load`)."""
    head = layers(network)["logits"].module + "."
    differ, best = _best(network, tensors, head if new_head else None)
    others = [line for line in differ if not line.startswith(head)]
    if others or (differ and new_head is False):
        hint = "; new_head leaves the classifier as initialised"
        raise UsageError(
            f"weights {weights} do not fit: {len(differ)} differ; {'; '.join(differ[:3])}"
            f"{_beside(network, tensors, head, len(others)) if others else hint}"
        )
    fresh = [name for name in network.state_dict() if differ and name.startswith(head)]
    loaded = {name: tensors[own] for name, own in best.items() if name not in fresh}
    _check_values(network, loaded, best, weights)
    network.load_state_dict(loaded, strict=False)
    return fresh


def _best(
    network: nn.Module, tensors: Mapping[str, Tensor], left_out: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """What differs under the naming that fits best, and under it: our name -> the file's.

    Without the weights that begin with `left_out`.
    """
    attempts = []
    for rules in NAMINGS.values():
        renamed = {_renamed(name, rules): name for name in tensors}
        if left_out:
            renamed = {name: own for name, own in renamed.items() if not name.startswith(left_out)}
        found = {name: tensors[own] for name, own in renamed.items()}
        attempts.append((differences(network.state_dict(), found), renamed))
    return min(attempts, key=lambda attempt: len(attempt[0]))


def _mapped(
    tensors: Mapping[str, Tensor], names: Mapping[str, str | None], weights: str | Path
) -> dict[str, Tensor]:
    """The tensors by other names. Raises UsageError for a beginning that no name has."""
    mapped = {}
    for beginning in names:
        if not any(name.startswith(beginning) for name in tensors):
            raise UsageError(
                f"weights_names {beginning!r}: no name in {weights} begins so; there are "
                f"{', '.join(list(tensors)[:3])}, ..."
            )
    for name, value in tensors.items():
        known = [beginning for beginning in names if name.startswith(beginning)]
        longest = max(known, key=len, default="")
        ours = names.get(longest, longest)
        if ours is not None:
            mapped[ours + name[len(longest) :]] = value
    return mapped


def _beside(network: nn.Module, tensors: Mapping[str, Tensor], head: str, differ: int) -> str:
    """The file's own names beside the wanted ones; where a prefix is in the way, how to map it."""
    theirs, ours = (", ".join(list(each)[:3]) for each in (tensors, network.state_dict()))
    words = f"; the file's names: {theirs}, ...; wanted: {ours}, ..."
    parts = [name.split(".") for name in tensors]
    beginnings = {".".join(p[:n]) + "." for p in parts for n in (1, 2) if len(p) > n}
    counts = {}
    for beginning in sorted(beginnings)[:50]:
        part = {n.removeprefix(beginning): x for n, x in tensors.items() if n.startswith(beginning)}
        lines = _best(network, part)[0]
        counts[beginning] = sum(not (head and line.startswith(head)) for line in lines)
    best = min(counts, key=lambda beginning: counts[beginning], default="")
    if best and counts[best] < differ:
        rest = sorted({f"{p[0]}." for p in parts if not ".".join(p).startswith(best)})
        mapping = {best: "", **dict.fromkeys(rest)}
        words += f"; weights_names: {json.dumps(mapping)} takes what begins with {best}"
    return words


def _too_many(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """How to leave out what a file holds beside every weight of the network; or nothing."""
    wanted = network.state_dict()
    rest = {name: x for name, x in tensors.items() if name not in wanted}
    if differences(wanted, {name: x for name, x in tensors.items() if name in wanted}):
        return ""
    heads = {name: f"{name.partition('.')[0]}." for name in rest if "." in name}
    free = {head for head in heads.values() if not any(w.startswith(head) for w in wanted)}
    left = dict.fromkeys(head if (head := heads.get(n, "")) in free else n for n in rest)
    return f"; weights_names: {json.dumps(dict(islice(left.items(), 5)))} leaves out the rest"


def _check_values(
    network: nn.Module,
    loaded: Mapping[str, Tensor],
    own: Mapping[str, str],
    weights: str | Path,
) -> None:
    """Raise UsageError for a weight that is no finite number where the network has one."""
    wanted = network.state_dict()
    for name, value in loaded.items():
        floating = wanted[name].is_floating_point()
        allowed = FLOATS if floating else WHOLE
        plain = value.layout is torch.strided and not value.is_quantized
        kind = value.dtype if plain else value.layout
        if value.dtype not in allowed or not plain or value.is_meta:
            words = "without numbers (meta)" if value.is_meta else str(kind).removeprefix("torch.")
            listed = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            raise UsageError(f"weights {weights}: {own[name]} is {words}; allowed: {listed}")
        if floating and not bool(torch.isfinite(value.to(wanted[name].dtype)).all()):
            raise UsageError(
                f"weights {weights}: {own[name]} holds NaN or infinity; allowed: numbers"
            )


FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)


def _renamed(name: str, rules: tuple[Rule, ...]) -> str:
    for expression, ours in rules:
        name = re.sub(expression, ours, name)
    return name


def _tensors(
    file: Path, wanted: Container[str] = (), names: Iterable[str] | None = None
) -> Weights:
    """The tensors of a checkpoint by name, without nesting and without a wrapper's prefix.

    Names that are all `wanted` stay as they are. Of several sets of weights what a name of `NESTS`
    says is taken, else the only one; else all of them, by names that begin with the set's. Sets
    that a beginning of `names` asks for are taken instead, by such names, unless names in what
    would be taken begin so.
    """
    state: Any = _read(file)
    sets = _sets(file, state, SETS, {})
    inner = _inner(state)
    taken = _own_tensors(inner)
    if not taken and len(sets) == 1:
        (taken,) = sets.values()
    taken = _unwrapped(taken, wanted)
    beyond = [b for b in names or () if not any(name.startswith(b) for name in taken)]
    asked = {key: own for key, own in sets.items() if _asks(beyond, key)}
    if asked:
        return Weights(_of_sets(asked, beyond, wanted), "")
    if taken:
        return Weights(taken, _others(file, list(sets)))
    if sets:
        return Weights(_flat(sets), "")
    if not isinstance(inner, Mapping):
        raise UsageError(f"weights {file}: holds a {type(inner).__name__}, not a state_dict")
    arrays = any(isinstance(value, Ignored) for value in inner.values())
    words = ", not as tensors (NumPy arrays?)" if arrays else ""
    raise UsageError(f"weights {file}: holds no tensors, but {_listed(inner)}{words}")


def _inner(state: Any) -> Any:
    """What a checkpoint holds under the names of `NESTS`; itself without them."""
    for _ in range(DEPTH):
        inner = [state[k] for k in NESTS if isinstance(state, Mapping) and k in state]
        inner = [value for value in inner if isinstance(value, Mapping)]
        if not inner:
            break
        state = inner[0]
    return state


def _own_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors that a dict holds itself, by name."""
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(name): value for name, value in items if isinstance(value, Tensor)}


def _unwrapped(tensors: Mapping[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """Tensors by names without a wrapper's prefix; as they are if all names are `wanted`."""
    tensors = dict(tensors)
    if all(name in wanted for name in tensors):
        return tensors
    if "n_averaged" in tensors and "n_averaged" not in wanted:  # of torch's AveragedModel
        del tensors["n_averaged"]
    while tensors:
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _sets(
    file: Path, state: Any, depth: int, known: dict[tuple[int, int], dict[str, dict[str, Tensor]]]
) -> dict[str, dict[str, Tensor]]:
    """The sets of weights in a checkpoint, by the keys that lead to them: "ema", "ema.model".

    A set is a dict of tensors of two axes or more, and others, by names; an optimiser's are by
    numbers. `known` are those of what was looked at before, which may lie in many places. Raises
    UsageError for more than `MOST` tensors in all.
    """
    if not isinstance(state, Mapping | list | tuple):
        return {}
    place = id(state), depth
    if place in known:
        return known[place]
    sets: dict[str, dict[str, Tensor]] = {}
    known[place] = sets
    if not isinstance(state, Mapping):
        state = {str(i): value for i, value in enumerate(state)}
    if not all(isinstance(key, str) for key in state):
        return sets
    own = _own_tensors(state)
    if any(value.ndim > 1 for value in own.values()):
        if depth < SETS:  # those of the file itself are no set beside others
            sets[""] = own
        return sets
    count = 0
    for key, value in state.items() if depth else ():
        if not key.startswith("optim"):
            for inner, tensors in _sets(file, value, depth - 1, known).items():
                sets[f"{key}.{inner}" if inner else key] = tensors
                count += len(tensors)
                if count > MOST:
                    raise UsageError(
                        f"weights {file}: holds sets of weights of more than {MOST:,} tensors; "
                        "allowed: a saved state_dict"
                    )
    return sets


def _asks(names: Iterable[str], key: str) -> bool:
    return any(beginning.startswith(f"{key}.") for beginning in names)


def _flat(sets: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{key}.{name}": x for key, own in sets.items() for name, x in own.items()}


def _of_sets(
    sets: Mapping[str, Mapping[str, Tensor]], names: Iterable[str], wanted: Container[str]
) -> dict[str, Tensor]:
    """Sets of weights by names that begin with the set's.

    Without a wrapper's prefix, unless `names` says it, too ("ema.module.").
    """
    whole = _flat(sets)
    deeper = [beginning for beginning in names if beginning.removesuffix(".") not in sets]
    if any(name.startswith(beginning) for beginning in deeper for name in whole):
        return whole
    return _flat({key: _unwrapped(own, wanted) for key, own in sets.items()})


def _others(file: Path, keys: Sequence[str]) -> str:
    """What sets of weights a file holds beside those that are taken, in a line; "" for none.

    Moving averages, for one: which of them is meant, `names` say (`load`).
    """
    taken = [key for nest in NESTS for key in keys if key.split(".")[0] == nest]
    rest = [key for key in keys if key not in taken[:1]]
    if not taken or not rest:
        return ""
    return (
        f"of {file.name} the weights {taken[0]!r} are taken, not {', '.join(rest[:4])}; "
        f"weights_names {json.dumps({f'{rest[0]}.': ''})} takes others"
    )


def _listed(names: Iterable[Any]) -> str:
    """The first names in one line."""
    return (
        " ".join(", ".join(str(name) for name in islice(names, 5)).split())[:80].rstrip(" ,")
        or "nothing"
    )


def _read(file: Path) -> Any:
    """What a file holds, once its sizes are checked; no code of it is run."""
    if path_of("weights", file).is_dir():
        raise UsageError(f"weights {file}: is a folder; allowed: a file, such as one in it")
    if not file.is_file():
        raise UsageError(f"weights {file}: there is no such file")
    try:
        if kind := _other_kind(file):
            raise UsageError(f"weights {file}: {kind}")
        if _is_safetensors(file):
            return safetensors.torch.load_file(file)
        _check_sizes(file)
        # opened, for by its name torch would take it for safetensors
        with (
            torch.serialization.safe_globals(PLAIN),
            warnings.catch_warnings(),
            file.open("rb") as opened,
        ):
            warnings.simplefilter("ignore")  # of torch, about kinds of tensors
            return torch.load(opened, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UsageError(
            f"weights {file}: is no torch file, or holds more than tensors and plain settings"
            f"{_stranger(str(error))}, which is not read for safety; allowed: a saved state_dict"
        ) from error
    except UsageError:
        raise
    except Exception as error:  # a damaged file raises anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"weights {file}: cannot be read: {reason[:200]}") from error


def _is_safetensors(file: Path) -> bool:
    """Whether a file begins as safetensors do, whatever it is called: a length, then JSON."""
    with file.open("rb") as opened:
        head = opened.read(9)
    torchs = head.startswith((b"PK", b"\x80"))
    return head[8:] == b"{" or (file.suffix == ".safetensors" and not torchs)


def _other_kind(file: Path) -> str:
    """What a file is that is often taken for a checkpoint, and what to do; "" for any other."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if not head:
        return "cannot be read: it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS; allowed: the file itself, as `git lfs pull` fetches it"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, perhaps of a download that failed; allowed: a saved state_dict"
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            inside = archive.namelist()
            if inside and all(name.endswith(".npy") for name in inside):
                return "is an .npz of NumPy; allowed: a torch file or safetensors"
            if any(name.endswith("/constants.pkl") for name in inside):
                return (
                    "is TorchScript, which is code; allowed: a saved state_dict, as that of "
                    "torch.jit.load(file).state_dict()"
                )
    return ""


def _stranger(message: str) -> str:
    """The class or function that torch refuses, in brackets, where its message names one."""
    found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)", message)
    return f" ({found[1] or found[2]})" if found else ""


def _check_sizes(file: Path) -> None:
    """Raise UsageError for an archive whose entries are larger than the file, or compressed.

    torch stores them as they are: what unpacks to more is made to fill the memory.
    """
    if not zipfile.is_zipfile(file):
        return
    size = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size:
        raise UsageError(f"weights {file}: claims to hold more than its {size:,} bytes; not read")


def _imagenet(network: nn.Module) -> dict[str, Tensor]:
    from kdlib.models import torchvision
    from kdlib.vision import torchvision as library

    name = architecture(network).get("name")
    if name == efficientnet.NAME:
        return _tensors(efficientnet.weights_file()).tensors
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


def load_any(
    network: nn.Module, weights: str | Path, names: Mapping[str, str | None] | None = None
) -> str:
    """Load the weights of a file into a network of anybody's, in place, every one of them.

    Returns which other sets of weights the file holds (moving averages, for one), in a line, or
    "". Read as by `load`, whose `names` these are; a network that names its layers as ours takes
    the names of `NAMINGS`, too. Raises UsageError, naming keys and shapes, unless every weight
    finds its place.
    """
    ours = "logits" in layers(network) and hasattr(network, "architecture")
    tensors, note = _weights(network, weights, names, () if ours else network.state_dict())
    if ours:
        _fill(network, tensors, weights, new_head=False)
        return note
    if differ := differences(network.state_dict(), tensors):
        kind = type(network).__name__
        raise UsageError(
            f"weights {weights} do not fit {kind}: {len(differ)} differ; {'; '.join(differ[:3])}"
            + (_too_many(network, tensors) or _beside(network, tensors, "", len(differ)))
        )
    _check_values(network, tensors, {name: name for name in tensors}, weights)
    network.load_state_dict(tensors, strict=False)
    return note
