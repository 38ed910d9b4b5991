"""Make a method, or a sum of several, ready for a pair of networks."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdlib import UsageError
from kdlib.data import Batch
from kdlib.distill.method import CLASSES, NO_TEACHER, Method, Terms
from kdlib.models import Forward
from kdlib.plan import methods


class Combined(Method):
    """Several methods at once, "kd+at": the sum of their losses, the labels' term of the first.

    Each has its own options; a term keeps its name. First stages, where there are any, are trained
    together, as long as the longest of them and as slowly as the slowest of them asks for.
    """

    def __init__(self, parts: dict[str, Method]):
        super().__init__(NO_TEACHER, NO_TEACHER)
        self.parts = nn.ModuleDict(parts)  # so that their parameters are found
        self.members = list(parts.values())
        self.first = [part for part in self.members if part.warm_up_epochs]
        facts = [part.facts for part in self.members]
        self.facts = replace(
            facts[0],
            key="+".join(parts),
            title=" + ".join(part.title for part in facts),
            teacher=any(part.teacher for part in facts),
            unlabelled=any(part.unlabelled for part in facts),
            control=all(part.control for part in facts),
        )
        self.layers = tuple(dict.fromkeys(layer for part in self.members for layer in part.layers))
        self.warm_up_epochs = max(part.warm_up_epochs for part in self.members)
        self.warm_up_rate = min((part.warm_up_rate for part in self.first), default=1.0)
        self.warm_up_student = any(part.warm_up_student for part in self.first)
        self.main_teacher = any(p.facts.teacher and p.main_teacher for p in self.members)
        self.temperature = next((p.temperature for p in self.members if p.facts.teacher), 1.0)

    def setup(self, images: int, student: nn.Module) -> None:
        for part in self.members:
            part.setup(images, student)

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        for part in self.members:
            student = part.finalize(student, teacher)
        return student

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return _sum([part.warm_up(student, teacher, batch) for part in self.first])

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [part(student, teacher, batch) for part in self.members]
        for terms in each[1:]:
            terms.pop("labels", None)
        return _sum(each)


def _sum(each: list[Terms]) -> Terms:
    """All terms; those of one name added."""
    total: Terms = {}
    for terms in each:
        for name, term in terms.items():
            total[name] = total[name] + term if name in total else term
    return total


def build(
    name: str, student: Forward, teacher: Forward = NO_TEACHER, *, seed: int = 0, **options: Any
) -> Method:
    """Make a method ready for a pair of networks, from one example output of each.

    `options` are the method's own constants, for example temperature=2 for "kd"; of a combination
    such as "kd+at" a dict per key, for example at={"weight": 500}. `seed` decides the initial
    weights of its adapters. Raises UsageError for an unknown method or option, for a missing
    teacher, and where the two networks' shapes do not fit, naming layer and shapes.
    """
    if name in methods.PRETRAINING:
        return _single(name, student, teacher, seed, options)
    keys = [facts.key for facts in methods.parse(name)]
    if len(keys) == 1:
        return _single(name, student, teacher, seed, options)
    for key, own in options.items():
        if key not in keys or not isinstance(own, dict):
            raise UsageError(
                f"option {key!r} of method {name!r}, given {own!r}; "
                f"allowed: a dict of options for each of {', '.join(keys)}"
            )
    return Combined(
        {key: _single(key, student, teacher, seed, options.get(key, {})) for key in keys}
    )


def _single(
    key: str, student: Forward, teacher: Forward, seed: int, options: dict[str, Any]
) -> Method:
    cls = CLASSES[key]
    if cls.facts.teacher and teacher is NO_TEACHER:
        raise UsageError(f"method {key!r} needs a teacher, and none was given")
    _check(key, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(student, teacher, **options)


def _check(key: str, options: dict[str, Any]) -> None:
    """Raise UsageError for an option that the method does not have, or of another type."""
    declared = inspect.signature(CLASSES[key].__init__).parameters.values()
    defaults = {p.name: p.default for p in declared if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in defaults:
            allowed = ", ".join(defaults) or "none"
            raise UsageError(f"unknown option {option!r} of method {key!r}; one of: {allowed}")
        default = defaults[option]
        types = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, types) or isinstance(value, bool) != isinstance(default, bool):
            raise UsageError(f"option {option} of {key} is like {default!r}, given {value!r}")


def refusals(student: Forward, teacher: Forward) -> dict[str, str]:
    """Return the methods that cannot be built for a pair of networks, each with the reason.

    Methods that ask for the teacher's own network are left out.
    """
    reasons = {}
    for key, facts in methods.METHODS.items():
        if not facts.same_network:
            try:
                build(key, student, teacher)
            except UsageError as problem:
                reasons[key] = str(problem)
    return reasons
