"""What a student copies: each method is a loss with a name, its paper and its constants."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, one_of
from kdlib.data import Batch
from kdlib.models import Forward

NOBODY = Forward(torch.empty(0, 0), {})  # the teacher of a student that learns alone
Terms = dict[str, Float[Tensor, ""]]  # of a loss, by name


class Method(nn.Module, ABC):
    """A loss as named terms. Its own trained parts, if any, are ordinary submodules.

    It is built from one example output of each network, so that adapters find their sizes.
    """

    cite: ClassVar[str]  # key in book/references.bib
    title: ClassVar[str]  # how charts and pages call it
    teacher: ClassVar[bool] = True  # does it look at a teacher?
    layers: tuple[str, ...] = ()  # which layers it must be shown, of both networks

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__()

    @abstractmethod
    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """The weighted terms of the loss on one batch; their sum is minimised."""


def labels(student: Forward, batch: Batch, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy with the labels of the batch's labelled images (its first rows)."""
    return F.cross_entropy(student.logits[: len(batch.y)], batch.y, label_smoothing=smoothing)


class Alone(Method):
    """No teacher: cross-entropy on the labelled images. The control for everything else."""

    cite, title, teacher = "he2016deep", "alone", False

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": labels(student, batch)}


class Smooth(Method):
    """Soft targets without a teacher: label smoothing.

    Szegedy et al. 2016, section 7: cross-entropy with (1 - e) onehot(y) + e / k, e = 0.1.
    """

    cite, title, teacher = "szegedy2016rethinking", "label smoothing", False

    def __init__(self, student: Forward, teacher: Forward, *, smoothing: float = 0.1):
        super().__init__(student, teacher)
        if not 0 <= smoothing < 1:
            raise UsageError(f"smoothing {smoothing!r}; allowed: 0 or more and below 1")
        self.smoothing = smoothing

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": labels(student, batch, self.smoothing)}


class KD(Method):
    """Answer as the teacher answers: match class probabilities softened by a temperature.

    Hinton et al. 2015: a CE(y, p_s) + b T^2 KL(p_t^T || p_s^T), mean over the batch, with the
    benchmark's a = 0.1, b = 0.9, T = 4. The second term sees the unlabelled pool too.
    """

    cite, title = "hinton2015distilling", "KD"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 4.0,
        weight: float = 0.9,
        label_weight: float = 0.1,
    ):
        super().__init__(student, teacher)
        if not temperature > 0:
            raise UsageError(f"temperature {temperature!r}; allowed: a number above 0")
        self.temperature, self.weight, self.label_weight = temperature, weight, label_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        t = self.temperature
        ours = F.log_softmax(student.logits.float() / t, dim=1)
        theirs = F.log_softmax(teacher.logits.float() / t, dim=1)
        divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return {
            "labels": self.label_weight * labels(student, batch),
            "kd": self.weight * t * t * divergence,
        }


def same_size(method: str, layer: str, student: Tensor, teacher: Tensor) -> None:
    """Raise UsageError unless both networks have maps of equal height and width at `layer`."""
    if student.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise UsageError(
            f"{method} needs maps of equal height and width at {layer}; "
            f"student {tuple(student.shape[1:])}, teacher {tuple(teacher.shape[1:])}"
        )


class FitNet(Method):
    """Feel what the teacher feels half-way: regress its features at one hint layer.

    Romero et al. 2015, eq. 3: mean (r(f_s) - f_t)^2 with a trained regressor r, here 1x1
    convolution, BatchNorm, ReLU. Departs from it: one stage together with the labels, as the
    benchmark does (weight 100, hint at block2), where the paper trains the hint first.
    """

    cite, title = "romero2015fitnets", "FitNet"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        layer: str = "block2",
        weight: float = 100.0,
    ):
        super().__init__(student, teacher)
        one_of("layer", layer, student.features)
        self.layers, self.weight = (layer,), weight
        ours, theirs = student.features[layer], teacher.features[layer]
        same_size("fitnet", layer, ours, theirs)
        conv = nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False)
        self.regressor = nn.Sequential(conv, nn.BatchNorm2d(theirs.shape[1]), nn.ReLU())

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        (layer,) = self.layers
        ours = self.regressor(student.features[layer]).float()
        distance = F.mse_loss(ours, teacher.features[layer].float())
        return {"labels": labels(student, batch), "fitnet": self.weight * distance}


def attention(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b hw"]:
    """Where a layer looks: mean over channels of squared activations, of unit length."""
    return F.normalize(features.float().pow(2).mean(1).flatten(1), dim=1)


class AT(Method):
    """Look where the teacher looks: match normalised maps of squared activation.

    Zagoruyko & Komodakis 2017, eq. 2 with p = 2, at the three blocks. Departs from it: mean
    squared difference and weight 1000, as the benchmark code, so that weights compare.
    """

    cite, title = "zagoruyko2017paying", "AT"
    layers = ("block1", "block2", "block3")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 1000.0):
        super().__init__(student, teacher)
        self.weight = weight
        for layer in self.layers:
            same_size("at", layer, student.features[layer], teacher.features[layer])

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        distances = [
            F.mse_loss(attention(student.features[name]), attention(teacher.features[name]))
            for name in self.layers
        ]
        return {"labels": labels(student, batch), "at": self.weight * torch.stack(distances).sum()}


METHODS: dict[str, type[Method]] = {
    "alone": Alone,
    "smooth": Smooth,
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
}


def build(
    name: str, student: Forward, teacher: Forward = NOBODY, *, seed: int = 0, **options: Any
) -> Method:
    """Make a method ready for a pair of networks, from one example output of each.

    `options` are the method's own constants, for example temperature=2 for "kd"; `seed` draws
    the initial weights of its adapters. Raises UsageError for an unknown method or option, for a
    missing teacher, and where the two networks' shapes do not fit, naming layer and shapes.
    """
    one_of("method", name, METHODS)
    kind = METHODS[name]
    if kind.teacher and teacher is NOBODY:
        raise UsageError(f"method {name!r} needs a teacher, and none was given")
    declared = inspect.signature(kind.__init__).parameters.values()
    known = {p.name: p.default for p in declared if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in known:
            raise UsageError(
                f"unknown option {option!r} of method {name!r}; known: {', '.join(known) or 'none'}"
            )
        wanted = (int, float) if isinstance(known[option], float) else type(known[option])
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UsageError(
                f"option {option} of {name} is like {known[option]!r}, given {value!r}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(student, teacher, **options)


def needs_teacher(name: str) -> bool:
    """Whether a method looks at a teacher. Raises UsageError for an unknown method."""
    one_of("method", name, METHODS)
    return METHODS[name].teacher
