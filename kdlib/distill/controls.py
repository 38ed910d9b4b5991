"""Controls: no teacher, or a teacher without its dark knowledge."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from kdlib.data import Batch
from kdlib.distill.logits import KD, softened
from kdlib.distill.method import (
    Method,
    Terms,
    check_classes,
    check_fraction,
    cross_entropy,
    method,
    targets,
)
from kdlib.models import Forward


@method(
    "baseline", title="baseline (no teacher)", cite="he2016deep", teacher=False, unlabelled=False
)
class Baseline(Method):
    """No teacher: cross-entropy on the labelled images. What every method is compared with."""

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": cross_entropy(student, batch)}


@method(
    "smooth",
    title="label smoothing",
    cite="szegedy2016rethinking",
    teacher=False,
    unlabelled=False,
    control=True,
)
class Smooth(Method):
    """Soft targets without a teacher: label smoothing.

    Szegedy et al. 2016, section 7: cross-entropy with (1 - e) onehot(y) + e / k, e = 0.1.
    """

    def __init__(self, student: Forward, teacher: Forward, *, smoothing: float = 0.1):
        super().__init__(student, teacher)
        check_fraction("smoothing", smoothing)
        self.smoothing = smoothing

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": cross_entropy(student, batch, self.smoothing)}


@method("pseudo", title="pseudo-labels", cite="lee2013pseudo", control=True, several=True)
class Pseudo(Method):
    """Cross-entropy with the teacher's top class of every image: more labels, and nothing else.

    Pseudo-labels (Lee 2013), here a trained teacher's and also where the label is known: what KD
    gains beyond this control is not in the teacher's top class.
    """

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__(student, teacher)
        check_classes("pseudo", student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"pseudo": F.cross_entropy(student.logits, teacher.logits.argmax(1))}


@method("shuffled", title="shuffled KD", cite="furlanello2018born", control=True, several=True)
class Shuffled(KD):
    """KD without dark knowledge: the teacher's non-target probabilities go to the wrong classes.

    Furlanello et al. 2018 (dark knowledge with permuted predictions): KD after the teacher's
    non-target logits of each image are permuted. The target's probability is unchanged, the
    similarity of the other classes to it is lost. The target is the label, or the teacher's top
    class where there is none. An image has the same permutation in every batch: one of 1009 that
    the seed decides. Constants as KD. Needs three classes.
    """

    least_classes = 3
    orders: Int[Tensor, "1009 k"]  # permutations of the classes

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 4.0,
        weight: float = 0.9,
        label_weight: float = 0.1,
    ):
        super().__init__(
            student, teacher, temperature=temperature, weight=weight, label_weight=label_weight
        )
        orders = [torch.randperm(teacher.logits.shape[1]) for _ in range(1009)]
        self.register_buffer("orders", torch.stack(orders))

    def permuted(self, teacher: Forward, batch: Batch) -> Float[Tensor, "b k"]:
        """The teacher's logits, those of the non-target classes in another order."""
        target = targets(teacher, batch)[:, None]
        order = self.orders[batch.rows % len(self.orders)]
        straight = torch.arange(order.shape[1], device=order.device).expand_as(order)
        # sorting with the target at -1 puts it first: in the class order, and in the permuted one
        place, source = (x.scatter(1, target, -1).argsort(1) for x in (straight, order))
        return teacher.logits.scatter(1, place, teacher.logits.gather(1, source))

    def distance(self, student: Forward, teacher: Forward, batch: Batch) -> Float[Tensor, ""]:
        return softened(student.logits, self.permuted(teacher, batch), self.temperature)


@method("random", title="random teacher", cite="yuan2020revisiting", control=True, untrained=True)
class Random(KD):
    """KD from an untrained teacher: its weights are initialised again.

    A poorly trained teacher can still help (Yuan et al. 2020); this one has no more than its
    architecture. Loss and constants as KD.
    """
