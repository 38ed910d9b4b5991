"""What every method is, and what the methods share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError
from kdlib.data import Batch
from kdlib.models import Forward
from kdlib.plan.methods import MethodFacts

NO_TEACHER = Forward(torch.empty(0, 0), {})  # the teacher of a student that learns alone
Terms = dict[str, Float[Tensor, ""]]  # of a loss, by name
CLASSES: dict[str, type[Method]] = {}  # by key, in the order of import; filled by `@method`
_Method = TypeVar("_Method", bound="Method")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Method(nn.Module, ABC):
    """A loss as named terms. Its own trained parts, if any, are ordinary submodules.

    It is built from one example output of each network, so that adapters find their sizes. What
    a method asks of the training beyond its loss is said by the attributes below.
    """

    facts: ClassVar[MethodFacts]  # what `@method` declares
    generations: int = 1  # of students, each the teacher of the next
    layers: tuple[str, ...] = ()  # which layers it must be shown, of both networks
    warm_up_epochs: int = 0  # how long a first stage is trained, by `warm_up`; 0: there is none
    warm_up_rate: float = 1.0  # learning rate of the first stage, in units of the run's
    warm_up_student: bool = True  # is the student shown to the first stage?
    main_teacher: bool = True  # is the teacher shown after the first stage?

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__()

    def setup(self, images: int, student: nn.Module) -> None:
        """Told once, before training: how many training images, numbered by rows; the student."""
        return None

    @abstractmethod
    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """The weighted terms of the loss on one batch; their sum is minimised."""

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms | None:
        """The terms of a first stage, trained before `forward` counts; None where there is none."""
        return None

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """Told once, after training: makes the network that is kept, by default the student."""
        return student


def method(
    key: str,
    *,
    title: str,
    cite: str,
    teacher: bool = True,
    unlabelled: bool = True,
    control: bool = False,
    same_network: bool = False,
    no_smaller: bool = False,
    untrained: bool = False,
    strong: bool = False,
) -> Callable[[type[_Method]], type[_Method]]:
    """Give a class its key and the facts that `kdlib.plan.methods.MethodFacts` documents.

    The arguments are literals: `kdlib.plan.methods` reads them from the source, without torch.
    """

    def register(cls: type[_Method]) -> type[_Method]:
        family = cls.__module__.rpartition(".")[2]
        cls.facts = MethodFacts(
            key,
            title,
            family,
            cite,
            teacher=teacher,
            unlabelled=unlabelled,
            control=control,
            same_network=same_network,
            no_smaller=no_smaller,
            untrained=untrained,
            strong=strong,
        )
        CLASSES[key] = cls
        return cls

    return register


def own_seed() -> int:
    """A seed for what a method draws while it trains, drawn by the seed it was built with."""
    return int(torch.randint(2**31, ()))


def labels(student: Forward, batch: Batch, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy with the labels of the batch's labelled images (its first rows)."""
    return F.cross_entropy(student.logits[: len(batch.y)], batch.y, label_smoothing=smoothing)


def exact(function: _Function) -> _Function:
    """Let a function of tensors compute in float32 or better, also inside autocast.

    Half precision is raised to float32, float64 left alone, and autocast switched off: it would
    round every matrix product again.
    """

    @wraps(function)
    def exactly(*given: Any, **named: Any) -> Any:
        half = (torch.float16, torch.bfloat16)
        raised = [x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in given]
        with torch.autocast(raised[0].device.type, enabled=False):
            return function(*raised, **named)

    return exactly  # type: ignore[return-value]


def positive(name: str, value: float | int) -> None:
    """Raise UsageError unless the value of this option is above 0."""
    if not 0 < value < math.inf:
        raise UsageError(f"{name} {value!r}; allowed: a number above 0")


def first_stage(epochs: int) -> int:
    """The length of a first stage; raises UsageError below 1."""
    if epochs < 1:
        raise UsageError(f"warm_up_epochs {epochs!r}; allowed: 1 or more")
    return epochs


def same_classes(method: str, student: Forward, teacher: Forward, least: int = 2) -> None:
    """Raise UsageError unless both networks name the same number of classes, `least` or more."""
    ours, theirs = tuple(student.logits.shape[1:]), tuple(teacher.logits.shape[1:])
    if ours != theirs or ours[0] < least:
        wanted = (
            "as many classes in both networks" if ours != theirs else f"{least} classes or more"
        )
        raise UsageError(f"{method} needs {wanted} at logits; student {ours}, teacher {theirs}")


def same_size(method: str, layer: str, student: Forward, teacher: Forward) -> None:
    """Raise UsageError unless both networks have maps of equal height and width at `layer`."""
    ours, theirs = student.features[layer].shape, teacher.features[layer].shape
    if len(ours) != 4 or ours[2:] != theirs[2:]:
        raise UsageError(
            f"{method} needs maps of equal height and width at {layer}; "
            f"student {tuple(ours[1:])}, teacher {tuple(theirs[1:])}"
        )


def targets(teacher: Forward, batch: Batch) -> Int[Tensor, " b"]:
    """The true class of each labelled image, the teacher's top class of each other one."""
    return torch.cat([batch.y, teacher.logits[len(batch.y) :].argmax(1)])


@exact
def squared(student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference of two tensors of one shape."""
    return F.mse_loss(student, teacher)
