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
from kdlib.plan.methods import METHODS, MethodFacts

NO_TEACHER = Forward(torch.empty(0, 0), {})  # the outputs of a teacher where there is none
Terms = dict[str, Float[Tensor, ""]]  # of a loss, by name
CLASSES: dict[str, type[Method]] = {}  # by key; filled by `@method`
_Class = TypeVar("_Class", bound="type[Method]")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Method(nn.Module, ABC):
    """A loss as named terms. Its own trained parts, if any, are ordinary submodules.

    It is built from one example output of each network, which gives the sizes of its adapters. The
    attributes below say what it needs of the training beyond its loss.
    """

    facts: MethodFacts  # what `@method` declares
    generations: int = 1  # of students, each the teacher of the next
    layers: tuple[str, ...] = ()  # whose features it needs, of both networks
    warm_up_epochs: int = 0  # length of a first stage, trained by `warm_up`; 0: there is none
    warm_up_rate: float = 1.0  # learning rate of the first stage, in units of the run's
    warm_up_student: bool = True  # the first stage needs the student's outputs
    main_teacher: bool = True  # the main stage needs the teacher's outputs
    temperature: float = 1.0  # at which the probabilities of several teachers are averaged

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__()

    def setup(self, images: int, student: nn.Module) -> None:
        """Prepare for one training: the number of training images (rows), and the student."""
        return None

    @abstractmethod
    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """Compute the weighted terms of the loss on one batch; their sum is minimised."""

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """Compute the terms of the first stage; none where there is no first stage."""
        return {}

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """Return the network that the training ends with, by default the student."""
        return student


class LayerLoss(Method):
    """Labels, and a weighted distance between both networks' features, summed over layers."""

    equal_maps: ClassVar[tuple[str, ...]] = ()  # layers whose maps must agree in height and width

    def __init__(
        self, student: Forward, teacher: Forward, weight: float, *, pool_maps: bool | None = None
    ):
        """`pool_maps` is the option of that name, None in a method that has none."""
        super().__init__(student, teacher)
        self.weight = weight
        for layer in self.equal_maps:
            check_size(self.facts.key, layer, student, teacher, pool_maps)

    @abstractmethod
    def distance(
        self, layer: str, student: Float[Tensor, "b ..."], teacher: Float[Tensor, "b ..."]
    ) -> Float[Tensor, ""]:
        """Compute the distance between both networks' features at one layer."""

    def total(self, student: Forward, teacher: Forward) -> Float[Tensor, ""]:
        """The weighted sum of the distances at all layers."""
        each = [self.distance(x, student.features[x], teacher.features[x]) for x in self.layers]
        return self.weight * torch.stack(each).sum()

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """Compute the labels' term and the distance's, which has the method's key."""
        return {
            "labels": cross_entropy(student, batch),
            self.facts.key: self.total(student, teacher),
        }


def method(key: str, **facts: Any) -> Callable[[_Class], _Class]:
    """Register a class under its key, with the facts that `MethodFacts` documents.

    All arguments are literals: `kdlib.plan.methods` reads them from the source, without torch. The
    family is the module that the class is in. A class outside kdlib joins the table of this process
    only: `build` and `train.fit` know it. Raises UsageError for a key that another module has.
    """

    def register(cls: _Class) -> _Class:
        room, _, family = cls.__module__.rpartition(".")
        cls.facts = MethodFacts(key=key, family=family, **facts)
        if room != __package__:  # those of this package are in the table already
            if key in CLASSES and CLASSES[key].__module__ != cls.__module__:
                raise UsageError(f"method {key!r} is {CLASSES[key].__module__}'s; choose another")
            METHODS[key] = cls.facts
        CLASSES[key] = cls
        return cls

    return register


def own_seed() -> int:
    """A seed for a method's random numbers during training, from the seed it was built with."""
    return int(torch.randint(2**31, ()))


def cross_entropy(student: Forward, batch: Batch, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy with the labels of the batch's labelled images (its first rows)."""
    return F.cross_entropy(student.logits[: len(batch.y)], batch.y, label_smoothing=smoothing)


def targets(teacher: Forward, batch: Batch) -> Int[Tensor, " b"]:
    """The true class of each labelled image, the teacher's top class of each other one."""
    return torch.cat([batch.y, teacher.logits[len(batch.y) :].argmax(1)])


def full_precision(function: _Function) -> _Function:
    """Let a function of tensors compute in float32 or better, also inside autocast.

    Half precision is raised to float32, float64 left as it is, and autocast switched off: it would
    round every matrix product again.
    """

    @wraps(function)
    def exactly(*inputs: Any, **named: Any) -> Any:
        half = (torch.float16, torch.bfloat16)
        raised = [x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in inputs]
        with torch.autocast(raised[0].device.type, enabled=False):
            return function(*raised, **named)

    return exactly  # type: ignore[return-value]


@full_precision
def squared(
    student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Mean squared difference of two tensors of one shape."""
    return F.mse_loss(student, teacher)


def widths(layer: str, student: Forward, teacher: Forward) -> tuple[int, int]:
    """The channels of the student and of the teacher at a layer."""
    return student.features[layer].shape[1], teacher.features[layer].shape[1]


def pointwise(before: int, after: int) -> nn.Sequential:
    """An adapter: 1x1 convolution and BatchNorm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))


def check_positive(name: str, value: float | int) -> None:
    """Raise UsageError unless the value of this option is above 0."""
    if not 0 < value < math.inf:
        raise UsageError(f"{name} {value!r}; allowed: a number above 0")


def check_fraction(name: str, value: float) -> None:
    """Raise UsageError unless the value of this option is in [0, 1)."""
    if not 0 <= value < 1:
        raise UsageError(f"{name} {value!r}; allowed: 0 or more and below 1")


def check_warm_up(epochs: int) -> int:
    """Return the length of a first stage. Raises UsageError below 1."""
    if epochs < 1:
        raise UsageError(f"warm_up_epochs {epochs!r}; allowed: 1 or more")
    return epochs


def check_classes(key: str, student: Forward, teacher: Forward, least: int = 2) -> None:
    """Raise UsageError unless both networks have the same number of classes, `least` or more."""
    ours, theirs = tuple(student.logits.shape[1:]), tuple(teacher.logits.shape[1:])
    allowed = None
    if ours != theirs:
        allowed = "as many classes in both networks"
    elif ours[0] < least:
        allowed = f"{least} classes or more"
    if allowed:
        raise UsageError(f"{key} needs {allowed} at logits; student {ours}, teacher {theirs}")


def check_size(
    key: str, layer: str, student: Forward, teacher: Forward, pool_maps: bool | None = None
) -> None:
    """Raise UsageError unless both networks have maps of equal height and width at `layer`.

    With `pool_maps` any two maps will do; None stands for a method without that option.
    """
    ours, theirs = student.features[layer].shape, teacher.features[layer].shape
    maps = len(ours) == len(theirs) == 4
    if maps and (pool_maps or ours[2:] == theirs[2:]):
        return
    hint = "; pool_maps: true averages the larger map" if maps and pool_maps is not None else ""
    raise UsageError(
        f"{key} needs maps of equal height and width at {layer}; "
        f"student {tuple(ours[1:])}, teacher {tuple(theirs[1:])}{hint}"
    )


def pooled(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b d i j"]
) -> tuple[Float[Tensor, "b c m n"], Float[Tensor, "b d m n"]]:
    """Average the larger of two maps down to the other's height and width.

    As the benchmark's code does for AT, NST, VID and FT. Maps of equal size are returned as they
    are.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    ours, theirs = (
        f if tuple(f.shape[2:]) == size else F.adaptive_avg_pool2d(f, size)
        for f in (student, teacher)
    )
    return ours, theirs
