"""The table of methods: what each is called, cites and needs, without importing torch.

The facts stand where a method is written, as arguments of `@method(...)` on its class, and are
read here from the sources of `kdlib.distill`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import kdlib
from kdlib import UsageError, one_of

BASELINE = "baseline"  # the key of training without a teacher
FAMILIES = {  # modules of kdlib.distill, and what they hold
    "logits": "logits",
    "features": "features",
    "relations": "relations",
    "schemes": "training schemes",
    "controls": "controls",
}


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method before it is built."""

    key: str  # its name in studies and results
    title: str  # its name in charts and chapters
    family: str  # one of FAMILIES
    cite: str  # key in book/references.bib
    teacher: bool = True  # needs a teacher
    unlabelled: bool = True  # uses images without a label
    control: bool = False  # uses no knowledge of a trained teacher's own
    same_network: bool = False  # the student has its teacher's architecture
    no_smaller: bool = False  # the student has as many parameters as its teacher, or more
    untrained: bool = False  # the teacher's weights are initialised again
    several: bool = False  # takes several teachers at once: the mean of their probabilities
    strong: bool = False  # the student is trained on strongly augmented images


def _read(family: str) -> dict[str, MethodFacts]:
    """Return the facts of one module of `kdlib.distill`, in the order of its classes."""
    source = Path(kdlib.__file__).parent / "distill" / f"{family}.py"
    table = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else []:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "method":
                key = ast.literal_eval(call.args[0])
                facts = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
                table[key] = MethodFacts(key=key, family=family, **facts)
    return table


METHODS = {key: facts for family in FAMILIES for key, facts in _read(family).items()}
PRETRAINING = _read("pretraining")  # of a teacher, before it is trained on labels


def parse(name: str, what: str = "method") -> list[MethodFacts]:
    """Return the facts of a method, or of several joined by "+" ("kd+at").

    Raises UsageError for an unknown key, for one that is named twice, and for one of several that
    decides which networks or images are used: that would change the others, too. `what` begins the
    message.
    """
    keys = name.split("+")
    for key in keys:
        if key == "alone":
            raise UsageError(f"{what} 'alone' is now called {BASELINE!r}")
        one_of(what, key, METHODS)
    if len(set(keys)) < len(keys):
        raise UsageError(f"{what} {name!r} names a method twice; each can be in it once")
    parts = [METHODS[key] for key in keys]
    for part in parts:
        if len(parts) > 1 and (part.same_network or part.strong or part.untrained):
            raise UsageError(f"{what} {name!r}: {part.key} cannot be combined with others")
    return parts


def check_several(name: str) -> None:
    """Raise UsageError where a method needs one teacher, and cannot learn from several at once."""
    parts = [part for part in parse(name) if part.teacher]
    if len(parts) > 1 or not all(part.several for part in parts):
        allowed = ", ".join(key for key, facts in METHODS.items() if facts.several)
        raise UsageError(
            f"method {name!r} with several teachers; allowed: one teacher, or one of {allowed}"
        )


def needs_teacher(name: str) -> bool:
    """Return whether a method needs a teacher. Raises UsageError for an unknown method."""
    parts = [PRETRAINING[name]] if name in PRETRAINING else parse(name)
    return any(part.teacher for part in parts)
