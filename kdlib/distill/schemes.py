"""Ways of training: who teaches whom, in which order, and what the student is shown."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, models
from kdlib.data import Batch
from kdlib.distill.logits import KD, softened
from kdlib.distill.method import (
    Method,
    Terms,
    exact,
    labels,
    method,
    own_seed,
    positive,
    same_classes,
)
from kdlib.models import Forward


@exact
def imitated(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float = 1.0
) -> Float[Tensor, " b"]:
    """-T^2 sum_k p_t^T log p_s^T of each image: cross-entropy with the teacher's probabilities."""
    told = F.softmax(teacher / temperature, dim=1)
    return -(temperature**2) * (told * F.log_softmax(student / temperature, dim=1)).sum(1)


@method("born_again", title="born again", cite="furlanello2018born", same_network=True)
class BornAgain(Method):
    """Be taught by the network that one was, generation after generation.

    Furlanello et al. 2018: CE(y, p_s) + CE(p_t, p_s) at T = 1, the teacher of a generation the
    trained student of the one before, all of one architecture; three generations, as many as the
    paper shows.
    """

    def __init__(self, student: Forward, teacher: Forward, *, generations: int = 3):
        super().__init__(student, teacher)
        positive("generations", generations)
        same_classes("born_again", student, teacher)
        self.generations = generations

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        told = imitated(student.logits, teacher.logits).mean()
        return {"labels": labels(student, batch), "born_again": told}


@method("dml", title="DML", cite="zhang2018deep", teacher=False)
class DML(Method):
    """Learn with a peer instead of a teacher: two students of one kind teach each other.

    Zhang et al. 2018: L_1 = CE(y, p_1) + KL(p_2 || p_1), L_2 = CE(y, p_2) + KL(p_1 || p_2), T = 1.
    Both are updated in the same step, each taking the other's answer as given; the paper's
    algorithm updates one after the other. The peer differs in its initial weights only, and is not
    kept.
    """

    peer: nn.Module

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 1.0):
        super().__init__(student, teacher)
        self.weight, self.seed = weight, own_seed()

    def setup(self, images: int, student: nn.Module) -> None:
        self.peer = models.reinitialised(student, self.seed)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        peer = Forward(self.peer(batch.x), {})
        ours = softened(student.logits, peer.logits.detach(), 1.0)
        theirs = softened(peer.logits, student.logits.detach(), 1.0)
        return {
            "labels": labels(student, batch),
            "dml": self.weight * ours,
            "peer": labels(peer, batch) + self.weight * theirs,
        }


@method("transfer", title="transfer", cite="chen2020big")
class Transfer(Method):
    """Hand a task over without labels: soft targets alone, on all images.

    Chen et al. 2020 (SimCLRv2, its third step): -T^2 sum_k p_t^T log p_s^T, mean over the labelled
    images and the pool; no label is looked at. T = 1 as in the authors' notebook.
    """

    def __init__(self, student: Forward, teacher: Forward, *, temperature: float = 1.0):
        super().__init__(student, teacher)
        positive("temperature", temperature)
        same_classes("transfer", student, teacher)
        self.temperature = temperature

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"transfer": imitated(student.logits, teacher.logits, self.temperature).mean()}


@method("noisy_student", title="noisy student", cite="xie2020self", no_smaller=True, strong=True)
class NoisyStudent(Method):
    """Make it hard for the student alone: it is shown distorted images, its teacher clean ones.

    Xie et al. 2020: CE(y, p_s) on the labelled images + CE(p_t, p_s) on the pool, soft targets, the
    student on strongly augmented images and with dropout 0.5 before its classifier; three
    generations, each the teacher of the next. The student should not be smaller than its teacher.
    Departs from it: no stochastic depth, and the pool is neither filtered nor balanced by class.
    """

    def __init__(
        self, student: Forward, teacher: Forward, *, dropout: float = 0.5, generations: int = 3
    ):
        super().__init__(student, teacher)
        positive("generations", generations)
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout {dropout!r}; allowed: 0 or more and below 1")
        same_classes("noisy_student", student, teacher)
        self.dropout, self.generations, self.seed = dropout, generations, own_seed()

    def setup(self, images: int, student: nn.Module) -> None:
        device = next(student.parameters()).device
        self.generator = torch.Generator(device).manual_seed(self.seed)
        self.hook = models.part(student, "logits").register_forward_pre_hook(self.drop)

    def drop(self, classifier: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
        """Dropout of what the classifier is given, while it is trained."""
        if not classifier.training:
            return None
        (h,) = given
        kept = torch.rand(h.shape, generator=self.generator, device=h.device) >= self.dropout
        return (h * kept / (1 - self.dropout),)

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        self.hook.remove()
        return student

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        known = len(batch.y)
        each = imitated(student.logits[known:], teacher.logits[known:])
        pool = each.sum() / max(1, len(each))  # 0 where there is no pool
        return {"labels": labels(student, batch), "noisy_student": pool}


@method("self", title="self-distillation", cite="allenzhu2023towards", same_network=True)
class Self(KD):
    """Learn from one's own kind: KD where student and teacher are of one architecture.

    Self-distillation as in Allen-Zhu & Li 2023: what the student gains is not a larger network's
    knowledge. Loss and constants as KD.
    """

    term = "self"
