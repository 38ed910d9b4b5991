"""Pretraining of a teacher without labels: no method of a student."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import models
from kdlib.data import Batch
from kdlib.distill.method import Method, Terms, check_positive, full_precision, method
from kdlib.models import Forward


@full_precision
def agreement(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], temperature: float
) -> Float[Tensor, ""]:
    """NT-Xent: cross-entropy of finding the other view among 2b - 1, by cosine similarity.

    -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), mean over the 2b views i, j the other view.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(len(z), device=z.device).roll(len(a))
    return F.cross_entropy(similarity, other)


@method("simclr", title="SimCLR", cite="chen2020simple", teacher=False, strong=True)
class SimCLR(Method):
    """Match two augmentations of an image, contrasted with other images; no label is used.

    Chen et al. 2020, eq. 1 and algorithm 1: NT-Xent of two views through a projector of two
    layers, t = 0.5 as for CIFAR-10. Departs from it: one view is augmented as for training, the
    other strongly, and the projector is as wide as the pooled features, then 128.
    """

    layers = ("pool",)

    def __init__(self, student: Forward, teacher: Forward, *, temperature: float = 0.5):
        super().__init__(student, teacher)
        check_positive("temperature", temperature)
        self.temperature = temperature
        width = student.features["pool"].flatten(1).shape[1]
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))

    def setup(self, images: int, student: nn.Module) -> None:
        self.network = (student,)  # in a tuple: not a part of the method

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        other = models.observe(self.network[0], batch.x, self.layers)
        a, b = (self.projector(view.features["pool"].flatten(1)) for view in (student, other))
        return {"simclr": agreement(a, b, self.temperature)}
