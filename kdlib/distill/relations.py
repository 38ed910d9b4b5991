"""Match relations: how images, or channels, are placed with respect to each other."""
# ruff: noqa: D102 -- `forward` and `distance` are documented once, in Method and LayerLoss

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.data import Batch
from kdlib.distill.method import (
    LayerLoss,
    Method,
    Terms,
    check_fraction,
    check_positive,
    cross_entropy,
    full_precision,
    method,
    own_seed,
    pointwise,
    squared,
    widths,
)
from kdlib.models import Forward


@full_precision
def similarities(features: Float[Tensor, "b ..."]) -> Float[Tensor, "b b"]:
    """Inner products of all pairs of images, rows of unit length."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


@method("sp", title="SP", cite="tung2019similarity")
class SP(LayerLoss):
    """Match the similarities of all pairs of images in a batch.

    Tung and Mori 2019: ||G(f_s) - G(f_t)||_F^2 / b^2, G = F F^T of the flattened maps of the last
    block, rows of unit length (L2); the benchmark's weight 3000, CE 1. Shapes may differ.
    """

    layers = ("block3",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 3000.0):
        super().__init__(student, teacher, weight)

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return squared(similarities(student), similarities(teacher))


@full_precision
def distances(h: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Distances of all pairs of images, over their mean."""
    apart = torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist")  # exact when near
    mean = apart.sum() / max(1, len(h) * (len(h) - 1))
    return apart / mean.clamp(min=1e-12)


def angles(distance: Float[Tensor, "b b"], at: slice) -> Float[Tensor, "n b b"]:
    """Cosines of the angles that all pairs of images make at some images (law of cosines).

    A batch may hold one image twice: where two all but coincide (1e-4 of the mean distance), the
    angle to them fades to none instead of being rounding noise.
    """
    half, near = distance.pow(2) / 2, 1 / distance.clamp(min=1e-4)
    inner = half[at, :, None] + (half[at, None] - half)  # of the vectors to the two images
    return inner * (near[at, :, None] * near[at, None])


class AngleDifference(torch.autograd.Function):
    """Sum of Huber differences of all angles, a few at a time: no tensor of size b^3 in memory."""

    @staticmethod
    def forward(
        ctx: Any, student: Float[Tensor, "b b"], teacher: Float[Tensor, "b b"]
    ) -> Float[Tensor, ""]:
        """Compute the sum, and its gradient with respect to the student's distances."""
        total, gradient = student.new_zeros(()), torch.zeros_like(student)
        for first in range(0, len(student), 8):
            at, ours = slice(first, first + 8), student.detach().requires_grad_()
            with torch.enable_grad():
                part = F.smooth_l1_loss(angles(ours, at), angles(teacher, at), reduction="sum")
            total += part.detach()
            gradient += torch.autograd.grad(part, ours)[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient that `forward` computed."""
        return ctx.saved_tensors[0] * upstream, None


@method("rkd", title="RKD", cite="park2019relational")
class RKD(LayerLoss):
    """Match distances of pairs of images and angles of triples.

    Park et al. 2019: w_d Huber(d_s / mean d_s, d_t / mean d_t) + w_a Huber(cos_s, cos_t) on the
    pooled features, means over all pairs and triples of the batch; the benchmark's w_d = 25, w_a =
    50, CE 1. Rotation and scale of either space change nothing.
    """

    layers = ("pool",)

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
    ):
        super().__init__(student, teacher, weight=1.0)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        ours, theirs = distances(student), distances(teacher)
        pairs = self.distance_weight * F.smooth_l1_loss(ours, theirs)
        triples = self.angle_weight * AngleDifference.apply(ours, theirs) / len(ours) ** 3
        return pairs + triples


@full_precision
def neighbours(h: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Probability that an image has another as its neighbour: (cosine + 1) / 2, rows sum to 1."""
    unit = F.normalize(h, dim=1)
    kernel = ((unit @ unit.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(1, keepdim=True)


@method("pkt", title="PKT", cite="passalis2018learning")
class PKT(LayerLoss):
    """Match the probability that one image is a neighbour of another.

    Passalis and Tefas 2018: p_t log(p_t / p_s), mean over all pairs, p[i, j] = (cos(h_i, h_j) + 1)
    / 2 with rows that sum to 1, on the pooled features; the benchmark's weight 30000, CE 1, and its
    1e-7 in the logarithm. As there, an image is also its own neighbour.
    """

    layers = ("pool",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 30000.0):
        super().__init__(student, teacher, weight)

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        ours, theirs = neighbours(student), neighbours(teacher)
        return (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).mean()


@full_precision
def congruence(h: Float[Tensor, "b d"], gamma: float, order: int) -> Float[Tensor, "b b"]:
    """Gaussian kernel exp(-gamma |a - b|^2) of unit vectors, its Taylor series up to `order`."""
    unit = F.normalize(h, dim=1)
    cosine = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


@method("cc", title="CC", cite="peng2019correlation")
class CC(LayerLoss):
    """Match the correlation of images: a Gaussian kernel over the batch.

    Peng et al. 2019: ||K(h_s) - K(h_t)||_F^2 / b^2, K the Taylor series of a Gaussian kernel on
    pooled features of unit length, gamma = 0.4, order 2. This is the paper's formula with weight
    100 as in Knowledge-Distillation-Zoo; RepDistiller's "CC" multiplies differences of images that
    happen to be next to each other, with weight 0.02. No KD term beside it, CE 1.
    """

    layers = ("pool",)

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 100.0,
        gamma: float = 0.4,
        order: int = 2,
    ):
        super().__init__(student, teacher, weight)
        check_positive("gamma", gamma)
        check_positive("order", order)
        self.gamma, self.order = gamma, order

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        ours, theirs = (congruence(h, self.gamma, self.order) for h in (student, teacher))
        return squared(ours, theirs)


@full_precision
def unit_view(h: Float[Tensor, "b d"], embed: nn.Module) -> Float[Tensor, "b e"]:
    """A linear map of features, scaled to unit length."""
    return F.normalize(embed(h), dim=1)


@full_precision
def merged(views: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
    """The mean over all places of an image in the batch, for each of them."""
    same = (rows[:, None] == rows).to(views)  # (b, b)
    return same @ views / same.sum(1, keepdim=True)


@full_precision
def cosines(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    """Inner products of all pairs of unit vectors."""
    return a @ b.to(a).T


@full_precision
def contrast(
    scores: Float[Tensor, "b k"], images: int, normaliser: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """-log g(positive) - sum log(1 - g(negative)), mean over the batch; column 0 is the positive.

    g(c) = p / (p + N / M) with p = exp(c) / Z, N negatives, M images.
    """
    log_p = scores - normaliser.log()
    odds = log_p - math.log((scores.shape[1] - 1) / images)  # log of g / (1 - g)
    return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(1)).mean()


@method("crd", title="CRD", cite="tian2020contrastive")
class CRD(Method):
    """Contrast images: near the teacher's view of the same image, far from its views of others.

    Tian et al. 2020: -log g(positive) - sum_N log(1 - g(negative)), g(c) = e^(c / t) / (e^(c / t) +
    N / M), c the inner product of unit vectors: trained linear maps of the pooled features to d =
    128. Each network's view is compared with a memory of the other's view of all M training
    images, which moves by 0.5 towards the view. The benchmark's t = 0.07, N = 16384, weight 0.8, CE
    1. As in the authors' code e^(c / t) is divided by Z = M times its mean over the first batch
    (without it the loss is some N times as large). Departs from it: a negative is any other image,
    sampled afresh on the device with replacement (each one once where there are not more than N),
    whatever its class: labels are few here.
    """

    layers = ("pool",)
    memory: Tensor  # (2, images, d), views of the student and of the teacher
    normaliser: Tensor  # (2,)

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 0.8,
        temperature: float = 0.07,
        negatives: int = 16384,
        size: int = 128,
        momentum: float = 0.5,
    ):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        check_positive("negatives", negatives)
        check_positive("size", size)
        check_fraction("momentum", momentum)
        self.weight, self.temperature = weight, temperature
        self.negatives, self.momentum = negatives, momentum
        sizes = widths("pool", student, teacher)
        self.embed = nn.ModuleList(nn.Linear(width, size) for width in sizes)
        self.seed = own_seed()
        self.register_buffer("normaliser", torch.zeros(2))
        self.register_buffer("memory", torch.zeros(2, 0, size))
        self.started = False  # after the first batch, which sets Z

    def setup(self, images: int, student: nn.Module) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        vectors = torch.randn(2, images, self.memory.shape[2], generator=generator)
        self.memory = F.normalize(vectors, dim=2).to(self.memory)
        device = next(student.parameters()).device
        self.generator = torch.Generator(device).manual_seed(self.seed)
        self.started = False

    def compared(self, rows: Int[Tensor, " b"]) -> Int[Tensor, "b k"]:
        """Rows of the memory: the image itself first, then its negatives."""
        images, device = self.memory.shape[1], rows.device
        shape = (len(rows), self.negatives)
        if images - 1 <= self.negatives:
            away = torch.arange(1, images, device=device).expand(len(rows), -1)
        else:
            away = torch.randint(1, images, shape, generator=self.generator, device=device)
        return torch.cat([rows[:, None], (rows[:, None] + away) % images], 1)

    @torch.no_grad()
    def update(self, views: list[Float[Tensor, "b d"]], rows: Int[Tensor, " b"]) -> None:
        """Move the memory of these images towards their views; of several views to the mean."""
        for memory, view in zip(self.memory, views, strict=True):
            mean = merged(view, rows).to(memory)
            moved = self.momentum * memory[rows] + (1 - self.momentum) * mean
            memory[rows] = F.normalize(moved, dim=1)  # rows that come twice: twice the same

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        pooled = [f.features["pool"] for f in (student, teacher)]
        views = [unit_view(h, embed) for h, embed in zip(pooled, self.embed, strict=True)]
        rows, memory = self.compared(batch.rows), self.memory.clone()  # it changes before backward
        each = []
        for n in (0, 1):
            # all images at once: far less memory than gathering N vectors for each
            scores = cosines(views[n], memory[1 - n]).gather(1, rows) / self.temperature
            if not self.started:
                self.normaliser[n] = memory.shape[1] * scores.detach().exp().mean()
            each.append(contrast(scores, memory.shape[1], self.normaliser[n]))
        self.started = True
        self.update(views, batch.rows)
        return {
            "labels": cross_entropy(student, batch),
            "crd": self.weight * torch.stack(each).sum(),
        }


@full_precision
def channels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Inner products of the channels of each image, rows of unit length."""
    maps = features.flatten(2)  # (b, c, hw)
    return F.normalize(torch.bmm(maps, maps.transpose(1, 2)), dim=2)


@method("ickd", title="ICKD", cite="liu2021exploring")
class ICKD(LayerLoss):
    """Match the correlation of channels within each image.

    Liu et al. 2021 (ICKD-C): ||G(r(f_s)) - G(f_t)||_F^2 / c, mean over the batch, G = F F^T of the
    (c, hw) maps of the last block, rows of unit length as in the authors' code; r is a trained 1x1
    convolution with BatchNorm. The authors' CIFAR weight 2.5, CE 1. Maps may differ in size.
    """

    layers = ("block3",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 2.5):
        before, after = widths("block3", student, teacher)
        super().__init__(student, teacher, weight * after)  # a mean over pairs of channels, times c
        self.embed = pointwise(before, after)

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return squared(channels(self.embed(student)), channels(teacher))
