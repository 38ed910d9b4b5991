"""Features: match what the teacher computes on its way."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, models, one_of
from kdlib.data import Batch
from kdlib.distill.logits import softened
from kdlib.distill.method import (
    Method,
    Terms,
    exact,
    first_stage,
    labels,
    method,
    positive,
    same_classes,
    same_size,
    squared,
)
from kdlib.models import Forward


@method("fitnet", title="FitNet", cite="romero2015fitnets")
class FitNet(Method):
    """Feel what the teacher feels half-way: regress its features at one hint layer.

    Romero et al. 2015: mean (r(f_s) - f_t)^2 with a trained regressor r, here 1x1
    convolution, BatchNorm, ReLU. Departs from it: one stage together with the labels, as the
    benchmark does (weight 100, hint at block2), where the paper trains the hint first.

    stages=2 is the paper's form: first the hint alone, which moves the student up to that layer,
    for `warm_up_epochs` (0: 10); then CE + 4 KL(p_t^T || p_s^T), T = 3, without the factor T^2 (KL
    in place of cross-entropy, the gradient is the same). Departs from it: the 4 does not fall to 1.
    """

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        layer: str = "block2",
        weight: float = 100.0,
        stages: int = 1,
        warm_up_epochs: int = 0,
    ):
        super().__init__(student, teacher)
        one_of("number of stages", stages, (1, 2))
        if stages == 1 and warm_up_epochs:
            raise UsageError(
                f"warm_up_epochs {warm_up_epochs!r} of fitnet; allowed: with stages=2 only"
            )
        self.warm_up_epochs = first_stage(warm_up_epochs or 10) if stages == 2 else 0
        if stages == 2:
            same_classes("fitnet", student, teacher)
        one_of("layer", layer, student.features)
        self.layers, self.weight = (layer,), weight
        same_size("fitnet", layer, student, teacher)
        before, after = student.features[layer].shape[1], teacher.features[layer].shape[1]
        conv = nn.Conv2d(before, after, 1, bias=False)
        self.regressor = nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    def hint(self, student: Forward, teacher: Forward) -> Terms:
        (layer,) = self.layers
        distance = squared(self.regressor(student.features[layer]), teacher.features[layer])
        return {"fitnet": self.weight * distance}

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms | None:
        return self.hint(student, teacher) if self.warm_up_epochs else None

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        if self.warm_up_epochs:
            answers = 4 * softened(student.logits, teacher.logits, 3.0) / 3.0**2
            return {"labels": labels(student, batch), "kd": answers}
        return {"labels": labels(student, batch), **self.hint(student, teacher)}


@exact
def attention(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b hw"]:
    """Where a layer looks: mean over channels of squared activations, of unit length."""
    return F.normalize(features.pow(2).mean(1).flatten(1), dim=1)


@method("at", title="AT", cite="zagoruyko2017paying")
class AT(Method):
    """Look where the teacher looks: match normalised maps of squared activation.

    Zagoruyko & Komodakis 2017, eq. 2 with p = 2, at the three blocks. Departs from it: mean
    squared difference and weight 1000, as the benchmark code, so that weights compare.
    """

    layers = ("block1", "block2", "block3")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 1000.0):
        super().__init__(student, teacher)
        self.weight = weight
        for layer in self.layers:
            same_size("at", layer, student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        distances = [
            squared(attention(student.features[name]), attention(teacher.features[name]))
            for name in self.layers
        ]
        return {"labels": labels(student, batch), "at": self.weight * torch.stack(distances).sum()}


@exact
def flow(
    shallow: Float[Tensor, "b c h w"], deep: Float[Tensor, "b d i j"]
) -> Float[Tensor, "b c d"]:
    """How features flow: inner products of two layers' channels, over the number of pixels.

    The larger maps are max-pooled to the smaller ones' size first.
    """
    size = (min(shallow.shape[2], deep.shape[2]), min(shallow.shape[3], deep.shape[3]))
    a, b = (F.adaptive_max_pool2d(f, size).flatten(2) for f in (shallow, deep))
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


@method("fsp", title="FSP", cite="yim2017gift")
class FSP(Method):
    """Solve in the same steps: match how features flow from one layer to the next.

    Yim et al. 2017: sum over pairs of layers of mean (G_s - G_t)^2, G[i, j] = sum over
    pixels of f_l[i] f_(l+1)[j] / hw, for stem-block1, block1-block2, block2-block3, the larger maps
    max-pooled; the benchmark's weight 50 and mean over entries. First stage: this alone, for
    `warm_up_epochs`; main stage: the labels alone. Needs equal channels in both networks. The
    loss grows with the fourth power of the features, so the first stage learns at 0.01 times the
    run's rate: at the run's own it diverges.
    """

    layers = ("stem", "block1", "block2", "block3")
    main_teacher = False

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 50.0,
        warm_up_epochs: int = 10,
        warm_up_rate: float = 0.01,
    ):
        super().__init__(student, teacher)
        positive("warm_up_rate", warm_up_rate)
        self.weight, self.warm_up_epochs = weight, first_stage(warm_up_epochs)
        self.warm_up_rate = warm_up_rate
        for pair in pairwise(self.layers):
            ours, theirs = (
                [tuple(f.features[x].shape[1:]) for x in pair] for f in (student, teacher)
            )
            if [shape[0] for shape in ours] != [shape[0] for shape in theirs]:
                raise UsageError(
                    f"fsp needs equal channels at {pair[0]} and {pair[1]}; "
                    f"student {ours[0]} and {ours[1]}, teacher {theirs[0]} and {theirs[1]}"
                )

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = []
        for a, b in pairwise(self.layers):
            ours, theirs = (flow(f.features[a], f.features[b]) for f in (student, teacher))
            each.append(squared(ours, theirs))
        return {"fsp": self.weight * torch.stack(each).sum()}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": labels(student, batch)}


def _connectors(
    method: str, layers: tuple[str, ...], student: Forward, teacher: Forward
) -> nn.ModuleList:
    """A 1x1 convolution with BatchNorm per layer, from the student's channels to the teacher's."""
    made = nn.ModuleList()
    for layer in (raw.removesuffix(".raw") for raw in layers):
        same_size(method, layer, student, teacher)
        before, after = student.features[layer].shape[1], teacher.features[layer].shape[1]
        conv = nn.Conv2d(before, after, 1, bias=False)
        made.append(nn.Sequential(conv, nn.BatchNorm2d(after)))
    return made


def _deeper_counts_double(each: list[Tensor]) -> Float[Tensor, ""]:
    """Sum of one term per layer, each with half the weight of the next; the last has 1."""
    last = len(each) - 1
    return torch.stack([term / 2 ** (last - n) for n, term in enumerate(each)]).sum()


@exact
def boundary(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"], margin: float
) -> Float[Tensor, ""]:
    """How far the student is from firing where the teacher fires, and only there, by a margin.

    Of values before the ReLU: squared, summed over an image, mean over the batch.
    """
    silent = (student + margin).clamp(min=0).pow(2)
    firing = (margin - student).clamp(min=0).pow(2)
    return torch.where(teacher > 0, firing, silent).flatten(1).sum(1).mean()


@method("ab", title="AB", cite="heo2019knowledge")
class AB(Method):
    """Fire when the teacher fires: match the boundaries at which neurons become active.

    Heo et al. 2019 (activation boundaries): sum_l 2^(l - L) sum [(r(f_s) + m)^2 where
    f_t <= 0 and r(f_s) > -m, (r(f_s) - m)^2 where f_t > 0 and r(f_s) <= m], of the three blocks
    before their last ReLU, mean over images; r is a trained 1x1 convolution with BatchNorm. The
    benchmark's margin m = 1 and weight 3/1000. First stage: this alone, for `warm_up_epochs`; main
    stage: the labels alone.
    """

    layers = ("block1.raw", "block2.raw", "block3.raw")
    main_teacher = False

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 0.003,
        margin: float = 1.0,
        warm_up_epochs: int = 10,
    ):
        super().__init__(student, teacher)
        positive("margin", margin)
        self.weight, self.margin = weight, margin
        self.warm_up_epochs = first_stage(warm_up_epochs)
        self.connect = _connectors("ab", self.layers, student, teacher)

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = []
        for connect, layer in zip(self.connect, self.layers, strict=True):
            ours, theirs = connect(student.features[layer]), teacher.features[layer]
            each.append(boundary(ours, theirs, self.margin))
        return {"ab": self.weight * _deeper_counts_double(each)}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": labels(student, batch)}


@exact
def unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b chw"]:
    """All values of an image as one vector of unit length."""
    return F.normalize(features.flatten(1), dim=1)


def _convolutions(kind: Callable[..., nn.Module], sizes: tuple[int, ...]) -> nn.Sequential:
    """3x3 convolutions (or transposed ones) through these channels, BatchNorm, leaky ReLU 0.1."""
    steps: list[nn.Module] = []
    for before, after in pairwise(sizes):
        conv = kind(before, after, 3, padding=1, bias=False)
        steps += [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*steps)


@method("ft", title="FT", cite="kim2018paraphrasing")
class FT(Method):
    """Let the teacher put it in other words: match factors that an auto-encoder makes of it.

    Kim et al. 2018: first stage, for `warm_up_epochs`: mean (f_t - decode(encode(f_t))
    )^2 of the last block trains a paraphraser of k = 0.5 times the teacher's channels, the student
    is not touched. Main stage: CE + 200 mean |n(encode(f_t)) - n(translate(f_s))|, n = unit length,
    paraphraser frozen, the translator trained with the student. Three 3x3 convolutions each. The
    benchmark's weight, without the mean of squares over channels that it takes of both first.
    """

    layers = ("block3",)
    warm_up_student = False

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 200.0,
        share: float = 0.5,
        warm_up_epochs: int = 10,
    ):
        super().__init__(student, teacher)
        positive("share", share)
        same_size("ft", "block3", student, teacher)
        self.weight, self.warm_up_epochs = weight, first_stage(warm_up_epochs)
        ours, theirs = (f.features["block3"].shape[1] for f in (student, teacher))
        factors = max(1, int(share * theirs))
        self.encode = _convolutions(nn.Conv2d, (theirs, theirs, factors, factors))
        self.decode = _convolutions(nn.ConvTranspose2d, (factors, factors, theirs, theirs))
        self.translate = _convolutions(nn.Conv2d, (ours, ours, factors, factors))

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        told = teacher.features["block3"]
        return {"paraphraser": squared(self.decode(self.encode(told)), told)}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        self.encode.eval()  # frozen, statistics of BatchNorm included
        with torch.no_grad():
            theirs = unit(self.encode(teacher.features["block3"]))
        ours = unit(self.translate(student.features["block3"]))
        distance = (ours - theirs).abs().mean()
        return {"labels": labels(student, batch), "ft": self.weight * distance}


@exact
def selectivity(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b d h w"]
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of two sets of channel maps, kernel (a . b)^2.

    As a product of two matrices per image: no tensor of images x channels x channels x pixels.
    """
    ours, theirs = (F.normalize(f.flatten(2), dim=2) for f in (student, teacher))  # (b, c, hw)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.transpose(1, 2)).pow(2).mean()

    return kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)


@method("nst", title="NST", cite="huang2017like")
class NST(Method):
    """Have neurons as selective as the teacher's: match the distribution of channel maps.

    Huang and Wang 2017: the squared maximum mean discrepancy mean k(t, t) + mean k(s, s) - 2 mean
    k(s, t) over the channels of each image, maps of unit length, polynomial kernel k(a, b) =
    (a . b)^2; the benchmark's weight 50 at the three blocks, CE 1.
    """

    layers = ("block1", "block2", "block3")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 50.0):
        super().__init__(student, teacher)
        self.weight = weight
        for layer in self.layers:
            same_size("nst", layer, student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [selectivity(student.features[x], teacher.features[x]) for x in self.layers]
        return {"labels": labels(student, batch), "nst": self.weight * torch.stack(each).sum()}


@exact
def gaussian(
    mean: Float[Tensor, "b c h w"], value: Float[Tensor, "b c h w"], spread: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Mean of 1/2 [(mean - value)^2 / v + log v], each channel's v = softplus(spread) + 1e-5."""
    variance = F.softplus(spread)[:, None, None] + 1e-5
    return 0.5 * ((mean - value).pow(2) / variance + variance.log()).mean()


@method("vid", title="VID", cite="ahn2019variational")
class VID(Method):
    """Tell as much as possible about the teacher: predict its features with a learned certainty.

    Ahn et al. 2019: a variational bound on mutual information, the negative log-likelihood of f_t
    under a Gaussian, sum_l mean 1/2 [(mu(f_s) - f_t)^2 / v + log v]; mu is three 1x1 convolutions,
    v one trained variance per channel that starts at 5. The benchmark's weight 1 at the three
    blocks, CE 1. Can be negative: a log-density has no floor at zero.
    """

    layers = ("block1", "block2", "block3")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 1.0):
        super().__init__(student, teacher)
        self.weight, self.mean, self.spread = weight, nn.ModuleDict(), nn.ParameterDict()
        for layer in self.layers:
            same_size("vid", layer, student, teacher)
            before, after = student.features[layer].shape[1], teacher.features[layer].shape[1]
            steps: list[nn.Module] = [nn.Conv2d(before, after, 1, bias=False)]
            for _ in range(2):
                steps += [nn.ReLU(), nn.Conv2d(after, after, 1, bias=False)]
            self.mean[layer] = nn.Sequential(*steps)
            start = math.log(math.expm1(5 - 1e-5))  # softplus makes a variance of 5 of it
            self.spread[layer] = nn.Parameter(torch.full((after,), start))

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [
            gaussian(self.mean[x](student.features[x]), teacher.features[x], self.spread[x])
            for x in self.layers
        ]
        return {"labels": labels(student, batch), "vid": self.weight * torch.stack(each).sum()}


@exact
def margins(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "c 1 1"]:
    """Mean of each channel's negative values; 0 where there are none."""
    negative = features.clamp(max=0)
    count = (negative < 0).sum((0, 2, 3)).clamp(min=1)
    return (negative.sum((0, 2, 3)) / count)[:, None, None]


@exact
def partial(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Squared difference but where s <= t <= 0; summed over an image, mean over the batch."""
    counted = (student > teacher) | (teacher > 0)
    return ((student - teacher).pow(2) * counted).flatten(1).sum(1).mean()


@method("ofd", title="OFD", cite="heo2019comprehensive")
class OFD(Method):
    """Copy what the ReLU lets through, and of the rest no more than that it is negative.

    Heo et al. 2019 (overhaul): sum_l 2^(l - L) d_p(r(f_s), max(f_t, m)) at the three blocks before
    their last ReLU; d_p sums squared differences but where s <= t <= 0, mean over images; r is a
    trained 1x1 convolution with BatchNorm, m each channel's mean negative value. The authors'
    weight 1/1000, CE 1. Departs from their code: m is taken over the batch, not from the
    parameters of the BatchNorm before (which in a ResNet is not all that the ReLU is given), and
    the teacher stays in evaluation mode.
    """

    layers = ("block1.raw", "block2.raw", "block3.raw")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 0.001):
        super().__init__(student, teacher)
        self.weight = weight
        self.connect = _connectors("ofd", self.layers, student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = []
        for connect, layer in zip(self.connect, self.layers, strict=True):
            told = teacher.features[layer]
            each.append(partial(connect(student.features[layer]), told.maximum(margins(told))))
        return {"labels": labels(student, batch), "ofd": self.weight * _deeper_counts_double(each)}


@exact
def context(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Mean squared difference at full size and pooled to 4, 2, 1 pixels, each half the last.

    It is the difference that is pooled, not either map, and each size from the one before.
    """
    total, weight, whole, apart = F.mse_loss(student, teacher), 1.0, 1.0, student - teacher
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            weight, apart = weight / 2, F.adaptive_avg_pool2d(apart, size)
            total, whole = total + weight * apart.square().mean(), whole + weight
    return total / whole


class _Fusion(nn.Module):
    """Fold what deeper layers say into a shallower one, pixel by pixel as attention decides."""

    def __init__(self, before: int, middle: int, after: int, deepest: bool):
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(before, middle, 1, bias=False), nn.BatchNorm2d(middle)
        )
        self.attend = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.expand = nn.Sequential(
            nn.Conv2d(middle, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.reduce(x)
        if deeper is not None and self.attend is not None:
            # a convolution of both maps as one, its second half before the deeper map is enlarged
            ours, theirs = self.attend.weight.chunk(2, dim=1)
            told = F.interpolate(F.conv2d(deeper, theirs), size=x.shape[2:])  # nearest
            share = torch.sigmoid(F.conv2d(x, ours, self.attend.bias) + told)  # (b, 2, h, w)
            x = x * share[:, :1] + F.interpolate(deeper, size=x.shape[2:]) * share[:, 1:]
        return x, self.expand(x)


def _maps(features: Tensor) -> Tensor:
    return features if features.ndim == 4 else features[:, :, None, None]


@method("reviewkd", title="ReviewKD", cite="chen2021distilling")
class ReviewKD(Method):
    """Review: let the student's deeper layers help to match the teacher's shallower ones.

    Chen et al. 2021: sum_l HCL(ABF_l(f_s, deeper), f_t), from the pooled features back to block1.
    ABF fuses layers by a learned attention; HCL is a squared difference at full size and pooled to
    4, 2, 1 pixels with weights 1, 1/2, 1/4, 1/8 over their sum (sizes below the map's own only).
    Weight 0.6, the benchmark's for its resnet56-resnet20 pair, CE 1. Departs from it: no warm-up
    of 20 epochs, and features after the ReLU. A batch needs two images or more.
    """

    layers = ("block1", "block2", "block3", "pool")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 0.6):
        super().__init__(student, teacher)
        self.weight, self.fusion = weight, nn.ModuleDict()
        middle = min(512, student.features["pool"].shape[1])
        for layer in self.layers:
            if layer != "pool":
                same_size("reviewkd", layer, student, teacher)
            before, after = student.features[layer].shape[1], teacher.features[layer].shape[1]
            self.fusion[layer] = _Fusion(before, middle, after, layer == "pool")

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        deeper, each = None, []
        for layer in reversed(self.layers):
            deeper, ours = self.fusion[layer](_maps(student.features[layer]), deeper)
            each.append(context(ours, _maps(teacher.features[layer])))
        return {"labels": labels(student, batch), "reviewkd": self.weight * torch.stack(each).sum()}


@method("simkd", title="SimKD", cite="chen2022knowledge")
class SimKD(Method):
    """Think with the teacher's head: make its last features, then use its own classifier.

    Chen et al. 2022: mean (P(f_s) - f_t)^2 at the last block, and nothing else: no labels, no
    answers. P is a trained bottleneck of 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and
    ReLU, through 1/2 of the teacher's channels. The network that is kept is the student, P, and the
    teacher's classifier. The larger of two maps is averaged down to the smaller.
    """

    layers = ("block3",)

    def __init__(
        self, student: Forward, teacher: Forward, *, weight: float = 1.0, reduction: int = 2
    ):
        super().__init__(student, teacher)
        positive("reduction", reduction)
        ours, theirs = (f.features["block3"].shape for f in (student, teacher))
        before, after = ours[1], theirs[1]
        self.size = (min(ours[2], theirs[2]), min(ours[3], theirs[3]))
        middle, steps = max(1, after // reduction), list[nn.Module]()
        if tuple(ours[2:]) != self.size:
            steps.append(nn.AdaptiveAvgPool2d(self.size))
        for a, b, size in ((before, middle, 1), (middle, middle, 3), (middle, after, 1)):
            conv = nn.Conv2d(a, b, size, padding=size // 2, bias=False)
            steps += [conv, nn.BatchNorm2d(b), nn.ReLU()]
        self.weight, self.projector = weight, nn.Sequential(*steps)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours = self.projector(student.features["block3"])
        theirs = F.adaptive_avg_pool2d(teacher.features["block3"], self.size)
        return {"simkd": self.weight * squared(ours, theirs)}

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        return models.Grafted(student, self.projector, models.part(teacher, "logits"))  # type: ignore[arg-type]
