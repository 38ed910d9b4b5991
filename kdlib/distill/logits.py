"""Match the teacher's logits: what it predicts for each image."""
# ruff: noqa: D102 -- `forward` and `distance` are documented once, in Method and KD

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from kdlib.data import Batch
from kdlib.distill.method import (
    Method,
    Terms,
    check_classes,
    check_positive,
    cross_entropy,
    full_precision,
    method,
    targets,
)
from kdlib.models import Forward


def _divergence(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"]
) -> Float[Tensor, " b"]:
    """KL(teacher || student) of each image, both given as log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(1)


@full_precision
def softened(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(p_t^T || p_s^T) of two networks' logits, mean over the batch."""
    ours, theirs = (F.log_softmax(z / temperature, dim=1) for z in (student, teacher))
    return temperature**2 * _divergence(ours, theirs).mean()


@method("kd", title="KD", cite="hinton2015distilling", several=True)
class KD(Method):
    """Match the teacher's class probabilities, softened by a temperature.

    Hinton et al. 2015: a CE(y, p_s) + b T^2 KL(p_t^T || p_s^T), mean over the batch, with the
    benchmark's a = 0.1, b = 0.9, T = 4. The second term uses the unlabelled images too. Of several
    teachers p_t is the mean of their p_t^T (You et al. 2017, see `schemes.ensemble`).
    """

    least_classes: ClassVar[int] = 2

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
        check_positive("temperature", temperature)
        check_classes(self.facts.key, student, teacher, self.least_classes)
        self.temperature, self.weight, self.label_weight = temperature, weight, label_weight

    def distance(self, student: Forward, teacher: Forward, batch: Batch) -> Float[Tensor, ""]:
        """Compute the distance between both networks' logits."""
        return softened(student.logits, teacher.logits, self.temperature)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        distance = self.distance(student, teacher, batch)
        return {
            "labels": self.label_weight * cross_entropy(student, batch),
            self.facts.key: self.weight * distance,
        }


@full_precision
def standardised(logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Logits of each image with mean 0 and standard deviation 1 over the classes."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


@method("logitstd", title="logit std", cite="sun2024logit")
class LogitStd(KD):
    """Match standardised logits: the teacher's ranking of the classes, whatever the scale.

    Sun et al. 2024: a CE(y, p_s) + b T^2 KL(q_t^T || q_s^T), q^T = softmax(Z / T), Z = (z - mean)
    / (standard deviation) over the classes of one image; the benchmark's a = 0.1, b = 9, T = 2.
    With two classes every Z is the same up to sign, so it needs three classes.
    """

    least_classes = 3

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 2.0,
        weight: float = 9.0,
        label_weight: float = 0.1,
    ):
        super().__init__(
            student, teacher, temperature=temperature, weight=weight, label_weight=label_weight
        )

    def distance(self, student: Forward, teacher: Forward, batch: Batch) -> Float[Tensor, ""]:
        ours, theirs = standardised(student.logits), standardised(teacher.logits)
        return softened(ours, theirs, self.temperature)


def _others(logits: Float[Tensor, "b k"], target: Int[Tensor, " b"]) -> Float[Tensor, "b rest"]:
    """The logits of every class but the target, in their order."""
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, column + (column >= target[:, None]))


class Decoupled(NamedTuple):
    """KD's two halves, per image: KD / T^2 = tckd + (1 - p_t[target]) nckd."""

    tckd: Float[Tensor, " b"]  # target against all the rest
    nckd: Float[Tensor, " b"]  # among the rest


@full_precision
def decoupled(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    temperature: float,
) -> Decoupled:
    """Split KL(p_t^T || p_s^T) of each image into target and non-target knowledge."""

    def parts(logits: Float[Tensor, "b k"]) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b rest"]]:
        rest, total = _others(logits, target), logits.logsumexp(1)
        hit = logits.gather(1, target[:, None])[:, 0]
        return torch.stack([hit - total, rest.logsumexp(1) - total], 1), F.log_softmax(rest, dim=1)

    ours, our_rest = parts(student / temperature)
    theirs, their_rest = parts(teacher / temperature)
    return Decoupled(_divergence(ours, theirs), _divergence(our_rest, their_rest))


@method("dkd", title="DKD", cite="zhao2022decoupled")
class DKD(Method):
    """Weight KD's two parts separately: the target's probability, and those of the other classes.

    Zhao et al. 2022: CE + T^2 (a TCKD + b NCKD), TCKD = KL of (target, rest), NCKD = KL
    among the non-target classes; the benchmark's a = 1, T = 4, and b = 2 of its resnet56-resnet20
    pair. Departs from it: no warm-up of 20 epochs; all in log space, finite for any logits. The
    target of an image without a label is the teacher's top class. Needs three classes.
    """

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        rest_weight: float = 2.0,
    ):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        check_classes("dkd", student, teacher, least=3)
        self.temperature, self.target_weight = temperature, target_weight
        self.rest_weight = rest_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        target = targets(teacher, batch)
        parts = decoupled(student.logits, teacher.logits, target, self.temperature)
        both = self.target_weight * parts.tckd.mean() + self.rest_weight * parts.nckd.mean()
        return {"labels": cross_entropy(student, batch), "dkd": self.temperature**2 * both}


@full_precision
def correlation(a: Float[Tensor, "n m"], b: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Pearson's correlation of each row of a with the same row of b; 0 for a constant row."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)


@full_precision
def softmax(logits: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, "b k"]:
    """Class probabilities at a temperature."""
    return F.softmax(logits / temperature, dim=1)


@method("dist", title="DIST", cite="huang2022knowledge")
class DIST(Method):
    """Correlate probabilities with the teacher's, over the classes and over the images.

    Huang et al. 2022: CE + w T^2 [b (1 - mean_i r(p_s[i], p_t[i])) + g (1 - mean_k r(p_s[:, k],
    p_t[:, k]))] with Pearson's r over the classes of an image and over the images of a class; the
    benchmark's b = g = 1, T = 4, w = 2. One affine map of all p_s changes neither term.
    """

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 4.0,
        weight: float = 2.0,
        image_weight: float = 1.0,
        class_weight: float = 1.0,
    ):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        check_classes("dist", student, teacher)
        self.temperature, self.weight = temperature, weight
        self.image_weight, self.class_weight = image_weight, class_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (softmax(f.logits, self.temperature) for f in (student, teacher))
        images = self.image_weight * (1 - correlation(ours, theirs).mean())
        classes = self.class_weight * (1 - correlation(ours.T, theirs.T).mean())
        scale = self.weight * self.temperature**2
        return {"labels": cross_entropy(student, batch), "dist": scale * (images + classes)}


@full_precision
def normalised_kd(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    temperature: float,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Cross-entropies of each image: at its target, and among the other classes alone."""
    ours = F.log_softmax(student, dim=1).gather(1, target[:, None])[:, 0]
    theirs = F.softmax(teacher, dim=1).gather(1, target[:, None])[:, 0]
    our_rest, their_rest = (_others(z, target) / temperature for z in (student, teacher))
    among = -(F.softmax(their_rest, dim=1) * F.log_softmax(our_rest, dim=1)).sum(1)
    return -theirs * ours, among


@method("nkd", title="NKD", cite="yang2023from")
class NKD(Method):
    """Match the teacher's distribution among the non-target classes, rescaled to sum to 1.

    Yang et al. 2023: CE - p_t[y] log p_s[y] - g T^2 sum_{k != y} n_t[k] log n_s[k], n^T = softmax
    over the non-target classes; the authors' g = 1.5, T = 1. Both added terms are cross-entropies:
    they do not vanish for a perfect copy. The target of an image without a label is the teacher's
    top class. Needs three classes.
    """

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 1.0,
        rest_weight: float = 1.5,
    ):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        check_classes("nkd", student, teacher, least=3)
        self.temperature, self.rest_weight = temperature, rest_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        target = targets(teacher, batch)
        hit, rest = normalised_kd(student.logits, teacher.logits, target, self.temperature)
        scale = self.rest_weight * self.temperature**2
        return {"labels": cross_entropy(student, batch), "nkd": hit.mean() + scale * rest.mean()}


@full_precision
def levels(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Differences of two networks' logits: image by image, between images, between classes."""
    p, q = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    images = (p @ p.T - q @ q.T).pow(2).sum() / len(p)
    b, k = p.shape
    classes = (p.T @ p - q.T @ q).pow(2).sum() / k * (64 / b * k / 100) ** 2
    return softened(student, teacher, temperature), images, classes


@method("mlkd", title="MLKD", cite="jin2023multi")
class MLKD(KD):
    """Match probabilities image by image, and how they relate images and classes to each other.

    Jin et al. 2023: sum over T in (2, 3, 4, 5, 6) of the instance level T^2 KL(p_t^T || p_s^T), the
    batch level ||P_s P_s^T - P_t P_t^T||_F^2 / b and the class level ||P_s^T P_s - P_t^T P_t||_F^2
    / k, P the (b, k) matrix of probabilities at T. All three weigh 0.9 beside 0.1 CE, KD's
    benchmark constants (the paper's sum has no weights). Departs from the authors' code: one view
    of each image where that takes two, and so neither its confidence masks nor 480 epochs; and the
    class level, which grows with (b / k)^2, is taken at the paper's b = 64 images and k = 100
    classes whatever the batch. As it stands in the paper it is 300 times as large on digits (b =
    114, k = 10), and students did not learn: accuracy 0.10, with this factor 0.99 (resnet8x0.5, 5
    labels per class, two seeds each).
    """

    def __init__(
        self, student: Forward, teacher: Forward, *, weight: float = 0.9, label_weight: float = 0.1
    ):
        super().__init__(student, teacher, weight=weight, label_weight=label_weight)

    def distance(self, student: Forward, teacher: Forward, batch: Batch) -> Float[Tensor, ""]:
        each = [levels(student.logits, teacher.logits, float(t)) for t in (2, 3, 4, 5, 6)]
        return torch.stack([part for level in each for part in level]).sum()
