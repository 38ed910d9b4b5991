"""Why does knowledge distillation work? Train, look into the layers, compare."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

# ivis needs Keras 2. The switch has to be set before anything imports TensorFlow.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

__version__ = "0.3.0"


class UsageError(ValueError):
    """Somebody asked for what cannot be: says in one line what, what was given, what is allowed.

    Raised where input enters kdlib. Notebooks and the command line show the line and no
    traceback; everything else in Python sees an ordinary ValueError. Whatever is quoted in it is
    made `printable`, and the middle of a line that is longer than `LONGEST` is left out.
    """

    LONGEST = 1500  # characters

    def __init__(self, message: str = ""):
        line = printable(message)
        if len(line) > self.LONGEST:
            line = f"{line[:1000]} ... {line[-400:]}"
        super().__init__(line)

    def _render_traceback_(self) -> list[str]:  # IPython asks for this when a cell fails
        return [f"Cannot go on: {self}"]


def printable(text: str) -> str:
    """The text in one line: what moves the cursor or turns the writing is escaped.

    Letters of every script, and the joiners of some and of emoji, stay as they are.
    """
    joiners = "\u200c\u200d"
    return "".join(
        c if c.isprintable() or c in joiners else c.encode("unicode_escape").decode() for c in text
    )


def one_of(what: str, given: object, allowed: object) -> None:
    """Raise UsageError unless `given` is among `allowed`, naming all that are."""
    names = list(allowed)  # type: ignore[call-overload]
    if given not in names:
        raise UsageError(f"unknown {what} {given!r}; one of: {', '.join(map(str, names))}")


def path_of(what: str, given: str | os.PathLike[str]) -> Path:
    """The path that somebody gave, with ~ as the user's own folder.

    Raises UsageError for a text that can be no path here: empty, too long, with a NUL, or in a home
    folder that there is not. Whether something is there is not asked.
    """
    text = os.path.expanduser(given)  # noqa: PTH111  (a Path raises for ~nobody)
    reason = "" if text else "it is empty"
    if text.startswith("~"):
        reason = "there is no such home folder"
    try:
        os.stat(text or ".")  # noqa: PTH116  (a Path of such a text cannot be made)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as problem:  # too long, a NUL, links in a circle, no UTF-8
        reason = getattr(problem, "strerror", None) or str(problem)
    if reason:
        raise UsageError(
            f"{what} {text[:80]!r} is no path ({reason}); allowed: a path of this machine"
        )
    return Path(text)


def __getattr__(name: str) -> Any:
    """`kdlib.look`, imported when it is first used."""
    if name == "look":  # no import statement: whatever imports kdlib would depend on all of it
        return import_module("kdlib.foreign.reading").look
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")
