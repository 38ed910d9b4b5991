"""What a notebook asks at its start: are the parameters it was given ones that it knows?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from kdlib import runs

_PLAIN = (bool, int, float, str, list, dict, tuple, set, type(None))
_IPYTHON = ("In", "Out")


def parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the notebook whose `globals()` are given, checked.

    Known are the names that the `parameters` cell annotates (`seed: int = 0`). Papermill adds
    a cell with what it was given and only warns of a name it does not know; here such a name,
    or a value of another type than annotated, raises UsageError and lists the known ones. Call
    it in the first cell after the parameters, before anything else is assigned.
    """
    known = namespace.get("__annotations__", {})
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in _IPYTHON
    }
    runs.check(_types(known), given)
    return given


def _types(annotations: Mapping[str, Any]) -> dict[str, Any]:
    holder = type("Parameters", (), {"__annotations__": dict(annotations)})
    return get_type_hints(holder)
