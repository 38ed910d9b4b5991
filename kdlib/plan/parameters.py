"""Parameters of runs, studies and notebooks: declared once, checked where they come in.

A class of parameters is a frozen dataclass whose types hold the bounds. Whatever does not fit is
one line: what, what was given, what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kdlib import UsageError

Kind = TypeVar("Kind")


def number(value: object) -> object:
    """A number that YAML takes for text, 5e-4 or 1e3, and those in lists and dicts; all else as is.

    A whole number is an int, which a parameter that is a float takes, too.
    """
    if isinstance(value, str):
        try:
            found = float(value)
        except ValueError:
            return value
        return int(found) if found.is_integer() else found
    if isinstance(value, list):
        return [_exponent(each) for each in value]
    if isinstance(value, dict):
        return {key: _exponent(each) for key, each in value.items()}
    return value


def _exponent(value: object) -> object:
    """As `number`, inside of lists and dicts: other texts there may be meant as they are."""
    return value if isinstance(value, str) and not EXPONENT.fullmatch(value) else number(value)


EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_NUMBERS = BeforeValidator(number)
Int = Annotated[int, _NUMBERS]
MOST = 2**31 - 1  # of anything that is counted: what multiplies it still fits into 64 bits
Whole = Annotated[Int, Field(ge=0, le=MOST)]
Count = Annotated[Int, Field(ge=1, le=MOST)]
AtLeastTwo = Annotated[Int, Field(ge=2, le=2**20)]  # images of a step
Cores = Annotated[Int, Field(ge=1, le=1024)]
Seed = Annotated[Int, Field(ge=0, le=2**32 - 1)]
Number = Annotated[float, _NUMBERS, Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Width = Annotated[float, _NUMBERS, Field(gt=0, le=64.0, allow_inf_nan=False)]
Side = Annotated[Int, Field(ge=4, le=1024)]  # of an image, in pixels
Device = Literal["auto", "cpu", "cuda"]
Labels = Annotated[
    Annotated[int, Field(ge=1)] | Literal["all"], _NUMBERS
]  # images of each class that keep their label
Options = Annotated[dict[Any, Any], _NUMBERS]  # of a method, an embedding, a network

DEEPEST = 20  # levels of lists and dicts in a parameter
LONGEST = 200  # characters of a value in a message

# Parameters that have another name than in an earlier version.
RENAMED = {
    "pool": "unlabelled",
    "body_rate": "backbone_lr_factor",
    "keep": "snapshots",
    "shown": "map_layers",
    "drawn": "mapped",
    "together": "students_per_kernel",
    "regime": "labels_per_class (all, or as few as the students) and weights",
    "teacher_regime": "teacher_labels (all or same)",
    "layers": "runs_only (layers: false is runs_only: true)",
}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def parameters(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that raises UsageError for parameters that do not fit."""
    config = ConfigDict(extra="forbid", strict=True)
    made: Any = pydantic.dataclasses.dataclass(kind, frozen=True, kw_only=True, config=config)
    start: Callable[..., None] = made.__init__

    @wraps(start)
    def checked(self: Any, **given: Any) -> None:
        for name, value in given.items():
            _check_plain(name, value)
        try:
            start(self, **given)
        except ValidationError as problem:
            raise UsageError(_line(problem.errors()[0], names(type(self)))) from None

    made.__init__ = checked
    return cast(type[Kind], made)


def _check_plain(name: str, value: object, depth: int = 0) -> None:
    """Raise UsageError for a text that no file can hold, and for lists in lists without end."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            raise UsageError(f"parameter {name} {_short(value)}; allowed: UTF-8 without NUL")
        return
    if not isinstance(value, dict | list | tuple):
        return
    if depth == DEEPEST:
        raise UsageError(f"parameter {name} is nested too deeply; allowed: {DEEPEST} levels")
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for part in parts:
        _check_plain(name, part, depth + 1)


def _short(value: object) -> str:
    """A value in a line."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def names(kind: Any) -> list[str]:
    """The names of a class's parameters."""
    return [field.name for field in fields(kind)]


def values(parameters: Any) -> dict[str, Any]:
    """The parameters by name."""
    return {name: getattr(parameters, name) for name in names(type(parameters))}


def defaults(kind: Any) -> dict[str, Any]:
    """The default of each parameter, by name; of a class whose parameters all have one."""
    if kind not in _DEFAULTS:
        _DEFAULTS[kind] = values(kind())
    return _DEFAULTS[kind]


_DEFAULTS: dict[Any, dict[str, Any]] = {}  # a large study asks thousands of times


def check(kind: Any, given: Mapping[str, Any], among: tuple[str, ...]) -> None:
    """Raise UsageError unless each name is `among` the parameters of `kind` and its value fits."""
    known = list(among)
    for name, value in given.items():
        if name not in known:
            raise UsageError(_unknown(name, known))
        _check_plain(name, value)
        try:
            _types(kind)[name].validate_python(value, strict=True)
        except ValidationError as problem:
            details = problem.errors()[0]
            raise UsageError(_line(details | {"loc": (name, *details["loc"])}, known)) from None


@cache
def _types(kind: Any) -> dict[str, Any]:
    return {
        name: TypeAdapter(field.rebuild_annotation())
        for name, field in kind.__pydantic_fields__.items()
    }


def read(kind: type[Kind], namespace: Mapping[str, Any]) -> Kind:
    """The parameters that a notebook was given, for example a `runs.Student`, checked.

    Takes every plain value of `namespace`, a copy of the notebook's `globals()` made right after
    its parameters: before imports, which would hide a mistyped `data`. Papermill adds a cell with
    what it was given and only warns of a name it does not know; here such a name, or a value of
    a wrong type, raises UsageError and lists the known ones. A notebook that JupyterLab started
    in its own folder goes on in the project's root, where results belong.
    """
    plain = (bool, int, float, str, list, dict, tuple, set, NoneType)
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in ("In", "Out")
    }
    if Path("../Snakefile").is_file() and not Path("Snakefile").is_file():
        os.chdir("..")
    return kind(**given)


def _unknown(name: str, known: list[str]) -> str:
    if name in RENAMED and RENAMED[name].split()[0] in known:
        return f"parameter {name!r} is now called {RENAMED[name]}"
    return f"unknown parameter {name!r}; known: {', '.join(known)}"


_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "above {}"),
    "less_than_equal": ("le", "{} or less"),
}


def _line(error: ErrorDetails | dict[str, Any], known: list[str]) -> str:
    """One mistake in one line: what, given, allowed."""
    name, given, kind = str(error["loc"][0]) if error["loc"] else "", error["input"], error["type"]
    context = error.get("ctx", {})
    if kind == "value_error":  # raised by a class's own checks
        return str(context["error"])
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return _unknown(name, known)
    if name == "labels_per_class" and kind != "list_type":
        return f"{name} {_short(given)}; allowed: 1 or more, or 'all'"
    if kind == "literal_error":
        return f"unknown {name} {_short(given)}; one of: {context['expected'].replace(chr(39), '')}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{name} {_short(given)}; allowed: {words.format(context[bound])}"
    if kind == "finite_number":
        return f"{name} {_short(given)}; allowed: a finite number"
    wanted = str(error["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    return f"parameter {name} must be {wanted}, given {_short(given)}"
