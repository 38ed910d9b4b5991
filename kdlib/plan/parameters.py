"""What a notebook asks at its start: are the parameters it was given ones that it knows?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdlib.plan import runs

_PLAIN = (bool, int, float, str, list, dict, tuple, set, type(None))
_IPYTHON = ("In", "Out")
Kind = TypeVar("Kind", bound=runs.Experiment)


def read(kind: type[Kind], namespace: Mapping[str, Any]) -> Kind:
    """The choice that a notebook's parameters make, for example a `runs.Student`, checked.

    Takes every plain value of `namespace`, a copy of the notebook's `globals()` made right after
    the parameters: before imports, which would hide a mistyped `data`. Papermill adds a cell with
    what it was given and only warns of a name it does not know; here such a name, or a value of
    a wrong type, raises UsageError and lists the known ones. A notebook that JupyterLab started
    in its own folder goes on in the project's root, where results belong.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in _IPYTHON
    }
    runs.check(runs.hints(kind), given)
    if Path("../Snakefile").is_file() and not Path("Snakefile").is_file():
        os.chdir("..")
    return kind(**given)
