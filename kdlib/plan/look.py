"""What a look at networks that were trained elsewhere is: its parameters, checked. No torch.

A network is written as NETWORK or NETWORK@CHECKPOINT, where NETWORK is a file and a callable
(`nets.py:student`), a module and a callable (`package.nets:student`), a name of timm's
(`timm:resnet50`) or a name of kdlib's or torchvision's (`resnet20`), and behind it arguments if
need be (`resnet20(width=0.5)`; `classes=100` where it has others than the images). CHECKPOINT is a
file or a folder as Hugging Face writes it, several by a pattern (`kd-*.pt`: seeds of one network),
an address whose file name bears a hash, or "imagenet" for published weights.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field

from kdlib import UsageError, one_of, path_of
from kdlib.plan.parameters import Cores, Count, Device, Side, parameters
from kdlib.plan.runs import CONSTANTS, INITIAL, Constants, is_address

LEAST = 20  # images: with fewer no neighbourhood is left to be kept
MOST = 32_767  # images: their numbers are 16 bits wide in the explorer
SAMPLE = 1000  # images that are looked at, where there are more and nothing else is asked for
EMBEDDINGS = ("tsne", "pca")
FILES = (".npz", ".safetensors", ".parquet")  # of features
IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # weights in a checkpoint's folder
NORMALISE = ("own", "none", *CONSTANTS)
LONGEST_NAME = 60  # characters of a network's name
Value = TypeVar("Value")

_PYTHON = r"[A-Za-z_][A-Za-z0-9_.]*"
_BEHIND = r"(\((?P<options>[^()]*)\))?(@(?P<checkpoint>.+))?"
_FORMS = {
    "file": rf"(?P<place>.+?\.py):(?P<name>{_PYTHON})",
    "timm": r"timm:(?P<name>[A-Za-z0-9_./-]+)",
    "module": rf"(?P<place>{_PYTHON}):(?P<name>{_PYTHON})",
    "known": r"(?P<name>[A-Za-z0-9_-]+)",
}


class Reference(NamedTuple):
    """Where one network comes from."""

    text: str  # as it was written
    kind: Literal["file", "timm", "module", "known"]
    name: str  # of the callable, or of the network
    place: str = ""  # the file or the module
    checkpoint: str = ""  # a file or an address; empty: the network is taken as it is made
    options: tuple[tuple[str, Any], ...] = ()  # arguments by name


class Seed(NamedTuple):
    """One network as it is called everywhere, and what it is made from."""

    run: str  # its name, and behind it which seed where there are several
    network: str  # its name
    seed: int
    source: Any  # a Reference, or what was given in memory


@parameters
class Look:
    """Which networks, or features of them, are looked into, and how."""

    folder: str = "look"  # of the results
    data: str | None = None  # a data set by name, or the path of a folder or archive of images
    size: Side | None = None  # side in pixels to which images are resized and cropped
    grey: bool = False  # colour images made grey
    networks: dict[str, Any] = Field(
        default_factory=dict
    )  # by name: {kd: nets.py:student@kd.pt}; a list of them is seeds of one network
    features: str | None = None  # a file of features, instead of networks
    layers: Any = Field(default_factory=list)  # paths of modules, for all or by network; []: chosen
    teacher: str | None = None  # the network that the others are compared with
    sample: Count | None = None  # images that are looked at; None: 1,000, or all there are
    embeddings: list[str] = Field(default_factory=lambda: [*EMBEDDINGS])  # tsne, ivis, pca, ...
    normalise: str | dict[str, str] = "own"  # for all or by network: own, none, imagenet, ...
    input_size: Side | dict[str, Side] | None = None  # that images are resized to, in pixels
    weights_names: dict[str, dict[str, str | None]] = Field(
        default_factory=dict
    )  # by network: beginnings of names in its checkpoint -> its own; null: left out
    tokens: Literal["auto", "class", "mean"] = "auto"  # of a sequence: which stand for the image
    device: Device = "auto"
    threads: Cores = 2  # of the CPU; the last bits of the results depend on it

    def __post_init__(self) -> None:
        listed = self.layers.values() if isinstance(self.layers, dict) else [self.layers]
        if not all(isinstance(names, list | tuple) for names in listed):
            raise UsageError(
                f"layers {self.layers!r}; allowed: a list of paths, or one for each network by name"
            )
        if not self.embeddings:
            raise UsageError("embeddings is empty; allowed: tsne, ivis, pca, ... one at least")
        if len(set(self.embeddings)) < len(self.embeddings):
            raise UsageError(f"embeddings {self.embeddings}; allowed: each once")
        if self.sample is not None and not LEAST <= self.sample <= MOST:
            raise UsageError(f"sample {self.sample}; allowed: {LEAST} to {MOST:,} images")
        values = self.normalise.values() if isinstance(self.normalise, dict) else [self.normalise]
        for value in values:
            constants(value)
        if self.features is not None:
            _check_file(self.features)
        if self.features is not None and self.networks:
            raise UsageError("networks and features are both given; allowed: one of them")


def _check_file(features: str) -> None:
    path = path_of("features", features)
    if path.suffix.lower() not in FILES:
        raise UsageError(f"features {features}; allowed: a file that ends in {', '.join(FILES)}")
    if not path.is_file():
        raise UsageError(f"features {features}: there is no such file")


def constants(normalise: str) -> Constants | None:
    """What images are normalised by: of CONSTANTS, "none", or numbers as ".5,.4,.4:.2,.2,.2".

    None for "own" and "data", which depend on the network and the images. Raises UsageError.
    """
    if normalise in ("own", "data"):
        return None
    if normalise == "none":
        return Constants((0.0,), (1.0,))
    if normalise in CONSTANTS:
        return CONSTANTS[normalise]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in normalise.split(":"))
    except ValueError:
        one_of(
            "normalise", normalise, [*NORMALISE, "or means and deviations, as .5,.4,.4:.2,.2,.2"]
        )
        raise
    if len(mean) != len(std) or min(std) <= 0:
        raise UsageError(f"normalise {normalise!r}; allowed: as many deviations above 0 as means")
    return Constants(mean, std)


def of(network: str, option: Mapping[str, Value] | Value, default: Value) -> Value:
    """The value of an option for one network, where it may be given for all or by network."""
    if isinstance(option, Mapping):
        return option.get(network, default)
    return option


def check_names(choice: Look, networks: list[str]) -> None:
    """Raise UsageError unless options by network are of networks that there are."""
    for what in ("layers", "normalise", "input_size", "weights_names"):
        option = getattr(choice, what)
        for name in option if isinstance(option, Mapping) else ():
            one_of(f"network of {what}", name, networks)
    if choice.teacher is not None:
        one_of("teacher", choice.teacher, networks)


def seeds(
    networks: Mapping[str, Any], numbers: Mapping[str, Sequence[int]] | None = None
) -> list[Seed]:
    """Every single network, in the order given: a pattern or a list stands for several seeds.

    They are numbered from 0, unless `numbers` has those of the network. Raises UsageError for a
    name that cannot be shown, a text that is no network, and files that are not there.
    """
    if not networks:
        raise UsageError("no networks are given; allowed: one or more, by name")
    made = []
    for name, given in networks.items():
        _check_name(name)
        several = given if isinstance(given, list | tuple) else [given]
        sources = [one for each in several for one in _expanded(name, each)]
        if not sources:
            raise UsageError(f"network {name!r}: an empty list; allowed: one or more")
        own = (numbers or {}).get(name, range(len(sources)))
        for seed, source in zip(own, sources, strict=True):
            run = name if len(sources) == 1 else f"{name} {seed}"
            made.append(Seed(run, name, seed, source))
    runs = [seed.run for seed in made]
    if twice := [run for run in runs if runs.count(run) > 1]:
        raise UsageError(f"two networks would be called {twice[0]!r}; allowed: names that differ")
    return made


def _check_name(name: object) -> None:
    whole = isinstance(name, str) and name.strip() == name and name.isprintable()
    if not whole or not 0 < len(str(name)) <= LONGEST_NAME:
        raise UsageError(
            f"network {name!r}; allowed: a name of 1 to {LONGEST_NAME} printable characters"
        )


def _expanded(name: str, given: Any) -> list[Any]:
    if not isinstance(given, str):
        return [given]
    reference = parse(name, given)
    pattern = reference.checkpoint
    if not pattern or pattern in INITIAL or is_address(pattern):
        return [reference]
    pattern = str(path_of(f"network {name!r}: checkpoint", pattern))
    whole = [pattern] if Path(pattern).exists() else []
    files = whole or sorted(glob.glob(_pattern(pattern)), key=natural)  # noqa: PTH207  (a Path knows no pattern with a root)
    if not files:
        raise UsageError(f"network {name!r}: there is no file {pattern}")
    return [reference._replace(checkpoint=_weights_in(name, file)) for file in files]


def _weights_in(name: str, place: str) -> str:
    """A checkpoint's file; of a folder, as Hugging Face writes one, the file of weights in it."""
    if not Path(place).is_dir():
        return place
    for file in IN_FOLDER:
        if (Path(place) / file).is_file():
            return str(Path(place) / file)
    raise UsageError(
        f"network {name!r}: the folder {place} holds no {' or '.join(IN_FOLDER)}; allowed: a file"
    )


def _pattern(path: str) -> str:
    """A pattern whose folder is taken as it is, where there is one: it may have brackets."""
    folder, name = Path(path).parent, Path(path).name
    return str(Path(glob.escape(str(folder))) / name) if folder.is_dir() else path


def parse(name: str, text: str) -> Reference:
    """Read NETWORK@CHECKPOINT. Raises UsageError for what is none."""
    for kind, form in _FORMS.items():
        found = re.fullmatch(form + _BEHIND, text)
        if found:
            parts = {key: value or "" for key, value in found.groupdict().items()}
            options = _options(name, parts.pop("options"))
            return Reference(text, kind, **parts, options=options)  # type: ignore[arg-type]
    raise UsageError(
        f"network {name!r}: {text!r}; allowed: file.py:callable, module:callable, timm:name or a "
        "network's name, behind it (argument=value, ...) and @checkpoint"
    )


def _options(name: str, text: str) -> tuple[tuple[str, Any], ...]:
    """The arguments of "width=0.5, shortcut=conv": numbers, true, false, null, else texts."""
    options: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = map(str.strip, part.partition("="))
        if not equals or not key.isidentifier() or key in options:
            raise UsageError(f"network {name!r}: argument {part!r}; allowed: name=value, each once")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value.strip("'\"")
    return tuple(options.items())


def natural(text: str) -> list[Any]:
    """Sort key by which block2 comes before block10."""
    parts = enumerate(re.split(r"([0-9]+)", text))  # text, number, text, ...
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (-1, part) for i, part in parts]
