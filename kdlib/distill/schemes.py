"""Training schemes: who teaches whom, in which order, and on which images."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import models
from kdlib.data import Batch
from kdlib.distill.logits import KD, softened
from kdlib.distill.method import (
    Method,
    Terms,
    check_classes,
    check_fraction,
    check_positive,
    cross_entropy,
    full_precision,
    method,
    own_seed,
)
from kdlib.models import Forward


@full_precision
def imitated(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float = 1.0
) -> Float[Tensor, " b"]:
    """-T^2 sum_k p_t^T log p_s^T of each image: cross-entropy with the teacher's probabilities."""
    target = F.softmax(teacher / temperature, dim=1)
    return -(temperature**2) * (target * F.log_softmax(student / temperature, dim=1)).sum(1)


@full_precision
def ensemble(logits: Float[Tensor, "m b k"], temperature: float) -> Float[Tensor, "b k"]:
    """The logits that stand for m teachers: at T their probabilities are the mean of the teachers'.

    You et al. 2017 (Learning from Multiple Teacher Networks, KDD), the average of the softened
    outputs: softmax(z / T) = mean_i softmax(z_i / T), solved by z = z_1 + T log(mean_i p_i / p_1),
    which for equal teachers is z_1 to the bit. Departs from it: no triplets of intermediate
    features, and no voting.
    """
    log_p = F.log_softmax(logits / temperature, dim=2)
    ratio = log_p - log_p[0]  # in logarithms
    largest = ratio.amax(0)
    return logits[0] + temperature * (largest + (ratio - largest).exp().mean(0).log())


@method("born_again", title="born again", cite="furlanello2018born", same_network=True)
class BornAgain(Method):
    """Distil a network into one of its own architecture, generation after generation.

    Furlanello et al. 2018: CE(y, p_s) + CE(p_t, p_s) at T = 1, the teacher of a generation the
    trained student of the one before, all of one architecture; three generations, as many as the
    paper shows.
    """

    def __init__(self, student: Forward, teacher: Forward, *, generations: int = 3):
        super().__init__(student, teacher)
        check_positive("generations", generations)
        check_classes("born_again", student, teacher)
        self.generations = generations

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        imitation = imitated(student.logits, teacher.logits).mean()
        return {"labels": cross_entropy(student, batch), "born_again": imitation}


@method("dml", title="DML", cite="zhang2018deep", teacher=False)
class DML(Method):
    """Train two students of one architecture together, each with the other as its teacher.

    Zhang et al. 2018: L_1 = CE(y, p_1) + KL(p_2 || p_1), L_2 = CE(y, p_2) + KL(p_1 || p_2), T = 1.
    Both are updated in the same step, the other's logits detached; the paper's algorithm updates
    one after the other. The peer differs in its initial weights only, and is discarded.
    """

    peer: nn.Module

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 1.0):
        super().__init__(student, teacher)
        self.weight, self.seed = weight, own_seed()

    def setup(self, images: int, student: nn.Module) -> None:
        self.peer = models.reinitialise(student, self.seed)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        peer = Forward(self.peer(batch.x), {})
        ours = softened(student.logits, peer.logits.detach(), 1.0)
        theirs = softened(peer.logits, student.logits.detach(), 1.0)
        return {
            "labels": cross_entropy(student, batch),
            "dml": self.weight * ours,
            "peer": cross_entropy(peer, batch) + self.weight * theirs,
        }


@method("transfer", title="transfer", cite="chen2020big", several=True)
class Transfer(Method):
    """Distil without labels: soft targets alone, on all images.

    Chen et al. 2020 (SimCLRv2, its third step): -T^2 sum_k p_t^T log p_s^T, mean over all images,
    labelled or not; no label is used. T = 1 as in the authors' notebook.
    """

    def __init__(self, student: Forward, teacher: Forward, *, temperature: float = 1.0):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        check_classes("transfer", student, teacher)
        self.temperature = temperature

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"transfer": imitated(student.logits, teacher.logits, self.temperature).mean()}


@method("noisy_student", title="noisy student", cite="xie2020self", no_smaller=True, strong=True)
class NoisyStudent(Method):
    """Train the student on distorted images, with targets from its teacher on clean ones.

    Xie et al. 2020: CE(y, p_s) on the labelled images + CE(p_t, p_s) on the unlabelled ones, soft
    targets, the student on strongly augmented images and with dropout 0.5 before its classifier;
    three generations, each the teacher of the next. The student should not be smaller than its
    teacher. Departs from it: no stochastic depth, and the unlabelled images are neither filtered
    nor balanced by class.
    """

    def __init__(
        self, student: Forward, teacher: Forward, *, dropout: float = 0.5, generations: int = 3
    ):
        super().__init__(student, teacher)
        check_positive("generations", generations)
        check_fraction("dropout", dropout)
        check_classes("noisy_student", student, teacher)
        self.dropout, self.generations, self.seed = dropout, generations, own_seed()

    def setup(self, images: int, student: nn.Module) -> None:
        device = next(student.parameters()).device
        self.generator = torch.Generator(device).manual_seed(self.seed)
        self.hook = models.part(student, "logits").register_forward_pre_hook(self.drop)

    def drop(self, classifier: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Dropout of the classifier's inputs, during training."""
        if not classifier.training:
            return None
        (h,) = inputs
        mask = torch.rand(h.shape, generator=self.generator, device=h.device) >= self.dropout
        return (h * mask / (1 - self.dropout),)

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        self.hook.remove()
        return student

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        n = len(batch.y)
        each = imitated(student.logits[n:], teacher.logits[n:])
        imitation = each.sum() / max(1, len(each))  # 0 where every image is labelled
        return {"labels": cross_entropy(student, batch), "noisy_student": imitation}


@method("self", title="self-distillation", cite="allenzhu2023towards", same_network=True)
class Self(KD):
    """KD where student and teacher have one architecture.

    Self-distillation as in Allen-Zhu & Li 2023: what the student gains is not a larger network's
    knowledge. Loss and constants as KD.
    """
