"""The network of IVIS in PyTorch, for many maps at once as batched matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from kdlib.embed.prepare import COMPONENTS
from kdlib.neighbours import nearest

if TYPE_CHECKING:
    from torch import Generator, Tensor

WIDTHS = (128, 128, 128)  # of the package's network "szubert"
SIZES = (COMPONENTS, *WIDTHS, 2)
DROPOUT = 0.1
SLOPE = -1.7580993408473766  # of SELU far below zero: its scale times alpha, negative
CHUNK = 50  # steps whose triplets are made at one time


class Fit(NamedTuple):
    """How IVIS is fitted."""

    k: int
    batch: int
    epochs: int
    rate: float  # the peak of a cosine schedule
    seed: int
    labels: Any = None  # whole numbers from 0, where the fit is supervised
    weight: float = 0.0  # of the classes in the loss


def fit_batched(
    layers: Sequence[Float32[np.ndarray, "n _"]],
    fit: Fit,
    progress: Callable[[float], None],
    device: str = "cpu",
) -> Float32[np.ndarray, "m n 2"]:
    """Fit the IVIS maps of many layers at once, as batched matrix products, in PyTorch.

    The package's network and loss (Szubert et al. 2019), Adam with a cosine-annealed rate. All
    maps share the random numbers: initial weights, triplets and dropout, so a map does not depend
    on the others. Departs from the package in the triplets: each draws its own neighbour, not each
    batch; and its negative is another anchor of the batch, which is computed already.
    """
    import torch

    m, n = len(layers), len(layers[0])
    steps = fit.epochs * -(-n // fit.batch)
    padded = np.zeros((m, n, COMPONENTS), np.float32)
    for row, layer in zip(padded, layers, strict=True):
        row[:, : layer.shape[1]] = layer
    data = torch.as_tensor(padded, device=device)
    near = torch.as_tensor(
        np.stack([nearest(layer, fit.k, "cosine").rows for layer in layers]), device=device
    )
    widths = [layer.shape[1] for layer in layers]
    weights = [w.to(device).requires_grad_() for w in initial_weights(widths, fit.seed)]
    adam = torch.optim.Adam(weights, lr=fit.rate, eps=1e-7, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    generator = torch.Generator(device).manual_seed(fit.seed)
    flat = data.flatten(0, 1)
    for step, (rows, negatives) in enumerate(_batches(near, steps, fit)):
        x = flat.index_select(0, rows.flatten()).view(m, -1, COMPONENTS)
        loss = triplet_loss(forward(x, weights, generator), negatives)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        schedule.step()
        progress((step + 1) / steps)
    with torch.no_grad():
        return forward(data, weights).cpu().numpy()


def initial_weights(widths: Sequence[int], seed: int) -> list[Tensor]:
    """Weights (m, a, b) and biases (m, 1, b) of each layer of m networks, in turn.

    LeCun normal, cut off at two standard deviations; Glorot uniform for the last. The same
    numbers for every map, in the first layer scaled by its number d of components (`widths`).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    m = len(widths)
    weights = []
    for i, (a, b) in enumerate(pairwise(SIZES)):
        w = torch.empty(a, b)
        if i < len(WIDTHS):
            std = 1 / 0.8796
            torch.nn.init.trunc_normal_(w, std=std, a=-2 * std, b=2 * std, generator=generator)
            fan_in = torch.tensor([float(d if i == 0 else a) for d in widths])
            weights.append(w / fan_in[:, None, None] ** 0.5)
        else:
            torch.nn.init.xavier_uniform_(w, generator=generator)
            weights.append(w.repeat(m, 1, 1))
        weights.append(torch.zeros(m, 1, b))
    return weights


def forward(x: Tensor, weights: Sequence[Tensor], generator: Generator | None = None) -> Tensor:
    """Map (m, b, 50) by m networks to (m, b, 2); with dropout where a generator is given."""
    import torch

    for i in range(len(WIDTHS)):
        x = torch.selu(torch.baddbmm(weights[2 * i + 1], x, weights[2 * i]))
        if generator is not None and i < len(WIDTHS) - 1:
            dropped = torch.rand(x.shape[1:], generator=generator, device=x.device) < DROPOUT
            scale = ((1 - DROPOUT) * (1 + DROPOUT * SLOPE**2)) ** -0.5
            lost = scale * dropped.float()
            x = torch.addcmul(SLOPE * (lost - scale * DROPOUT), x, scale - lost)
    return torch.baddbmm(weights[-1], x, weights[-2])


def triplet_loss(points: Tensor, negatives: Tensor) -> Tensor:
    """Sum over maps of mean max(0, d(a, p) - d + 1), d both d(a, n) and d(p, n).

    `points` (m, 2 b, 2) are anchors and positives; `negatives` (m, b) is the number of the anchor
    that is each triplet's negative.
    """
    import torch

    a, p = points.chunk(2, dim=1)
    n = a.gather(1, negatives[..., None].expand_as(a))
    far = torch.stack([_distance(a, n), _distance(p, n)])
    return (_distance(a, p) - far + 1).clamp_min(0).mean((0, 2)).sum()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).clamp_min(1e-7).sqrt()


def _batches(near: Tensor, steps: int, fit: Fit) -> Iterator[tuple[Tensor, Tensor]]:
    """The triplets of each step, as `triplets` makes them."""
    anchors, ranks = (x.to(near.device) for x in pairs(near.shape[1], steps, fit))
    for chunk in zip(anchors.split(CHUNK), ranks.split(CHUNK), strict=True):
        yield from zip(*triplets(near, *chunk), strict=True)


def pairs(n: int, steps: int, fit: Fit) -> tuple[Tensor, Tensor]:
    """Anchors (s, b) of all steps, each image once an epoch, and their positives' ranks (s, b)."""
    import torch

    generator = torch.Generator().manual_seed(fit.seed)
    epochs = -(-steps * fit.batch // n)
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(epochs)])
    anchors = order[: steps * fit.batch].view(steps, fit.batch)
    return anchors, torch.randint(fit.k, (steps, fit.batch), generator=generator)


def triplets(near: Tensor, anchors: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Make triplets of s steps and m maps from neighbours (m, n, k), anchors and ranks (s, b).

    Returns rows (s, m, 2 b) of anchors and positives among all rows of the m maps one below the
    other, and negatives (s, m, b), as places in the batch: the first of the four next anchors
    that is no neighbour.
    """
    import torch

    m, n, _ = near.shape
    s, b = anchors.shape
    neighbours = near[:, anchors]  # (m, s, b, k)
    positive = neighbours.gather(3, ranks.expand(m, s, b)[..., None])[..., 0]
    places = torch.arange(b, device=near.device)
    negative = places.roll(-1).expand_as(positive)
    for shift in (4, 3, 2, 1):
        candidate = anchors.roll(-shift, 1)
        wrong = (neighbours == candidate[..., None]).any(3) | (candidate == anchors)
        negative = torch.where(wrong, negative, places.roll(-shift))
    rows = torch.cat([anchors.expand(m, s, b), positive], 2)
    rows = rows + n * torch.arange(m, device=near.device)[:, None, None]
    return rows.transpose(0, 1), negative.transpose(0, 1)
