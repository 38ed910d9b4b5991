"""Match the teacher's features: what it computes at its layers."""
# ruff: noqa: D102 -- `forward` and `distance` are documented once, in Method and LayerLoss

from __future__ import annotations

import math
from abc import abstractmethod
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
    LayerLoss,
    Method,
    Terms,
    check_classes,
    check_positive,
    check_size,
    check_warm_up,
    cross_entropy,
    full_precision,
    method,
    pointwise,
    pooled,
    squared,
    widths,
)
from kdlib.models import Forward

BLOCKS = ("block1", "block2", "block3")


@method("fitnet", title="FitNet", cite="romero2015fitnets")
class FitNet(LayerLoss):
    """Regress the teacher's features at one layer half-way, the hint.

    Romero et al. 2015: mean (r(f_s) - f_t)^2 with a trained regressor r, here 1x1
    convolution, BatchNorm, ReLU. Departs from it: one stage together with the labels, as the
    benchmark does (weight 100, hint at block2), where the paper trains the hint first.

    stages=2 is the paper's form: first the hint alone, which trains the student up to that layer,
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
        super().__init__(student, teacher, weight)
        one_of("number of stages", stages, (1, 2))
        if stages == 2:
            self.warm_up_epochs = check_warm_up(warm_up_epochs or 10)
            check_classes("fitnet", student, teacher)
        elif warm_up_epochs:
            raise UsageError(
                f"warm_up_epochs {warm_up_epochs!r} of fitnet; allowed: with stages=2 only"
            )
        one_of("layer", layer, student.features)
        check_size("fitnet", layer, student, teacher)
        self.layers = (layer,)
        self.regressor = pointwise(*widths(layer, student, teacher)).append(nn.ReLU())

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return squared(self.regressor(student), teacher)

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"fitnet": self.total(student, teacher)} if self.warm_up_epochs else {}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        if not self.warm_up_epochs:
            return super().forward(student, teacher, batch)
        kd = 4 * softened(student.logits, teacher.logits, 3.0) / 3.0**2
        return {"labels": cross_entropy(student, batch), "kd": kd}


@full_precision
def attention(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b hw"]:
    """The attention map of a layer: mean of squared activations over channels, unit length."""
    return F.normalize(features.pow(2).mean(1).flatten(1), dim=1)


@method("at", title="AT", cite="zagoruyko2017paying")
class AT(LayerLoss):
    """Match the teacher's spatial attention maps: normalised means of squared activations.

    Zagoruyko & Komodakis 2017, eq. 2 with p = 2, at the three blocks. Departs from it: mean
    squared difference and weight 1000, as the benchmark code, so that weights compare.

    pool_maps=True takes maps of unequal size, for which the paper (section 3.1) interpolates the
    attention maps: the larger features are averaged down first, as the benchmark code does. One
    pixel has no attention map, so it is refused.
    """

    layers = equal_maps = BLOCKS

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 1000.0,
        pool_maps: bool = False,
    ):
        super().__init__(student, teacher, weight, pool_maps=pool_maps)
        for layer in self.layers if pool_maps else ():
            ours, theirs = student.features[layer].shape, teacher.features[layer].shape
            if ours[2:] != theirs[2:] and min(ours[2], theirs[2]) * min(ours[3], theirs[3]) == 1:
                raise UsageError(
                    f"at with pool_maps needs maps of more than one pixel at {layer}; "
                    f"student {tuple(ours[1:])}, teacher {tuple(theirs[1:])}"
                )

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        ours, theirs = pooled(student, teacher)
        return squared(attention(ours), attention(theirs))


@full_precision
def flow(
    shallow: Float[Tensor, "b c h w"], deep: Float[Tensor, "b d i j"]
) -> Float[Tensor, "b c d"]:
    """The flow between two layers: inner products of their channels, over the number of pixels.

    The larger maps are max-pooled to the smaller ones' size first.
    """
    size = (min(shallow.shape[2], deep.shape[2]), min(shallow.shape[3], deep.shape[3]))
    a, b = (F.adaptive_max_pool2d(f, size).flatten(2) for f in (shallow, deep))
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


@method("fsp", title="FSP", cite="yim2017gift")
class FSP(Method):
    """Match the flow of features from one layer to the next.

    Yim et al. 2017: sum over pairs of layers of mean (G_s - G_t)^2, G[i, j] = sum over
    pixels of f_l[i] f_(l+1)[j] / hw, for stem-block1, block1-block2, block2-block3, the larger maps
    max-pooled; the benchmark's weight 50 and mean over entries. First stage: this alone, for
    `warm_up_epochs`; main stage: the labels alone. Needs equal channels in both networks. The
    loss grows with the fourth power of the features, so the first stage is trained at 0.01 times
    the run's learning rate: at the run's own it diverges.
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
        check_positive("warm_up_rate", warm_up_rate)
        self.weight, self.warm_up_epochs = weight, check_warm_up(warm_up_epochs)
        self.warm_up_rate = warm_up_rate
        for a, b in pairwise(self.layers):
            ours, theirs = (
                [tuple(f.features[x].shape[1:]) for x in (a, b)] for f in (student, teacher)
            )
            if [shape[0] for shape in ours] != [shape[0] for shape in theirs]:
                raise UsageError(
                    f"fsp needs equal channels at {a} and {b}; "
                    f"student {ours[0]} and {ours[1]}, teacher {theirs[0]} and {theirs[1]}"
                )

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = []
        for a, b in pairwise(self.layers):
            ours, theirs = (flow(f.features[a], f.features[b]) for f in (student, teacher))
            each.append(squared(ours, theirs))
        return {"fsp": self.weight * torch.stack(each).sum()}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": cross_entropy(student, batch)}


class BeforeReLU(LayerLoss):
    """A distance of the three blocks before their last ReLU, through trained 1x1 convolutions.

    A layer weighs half as much as the next one.
    """

    layers = tuple(models.before_relu(block) for block in BLOCKS)
    equal_maps = BLOCKS

    def __init__(self, student: Forward, teacher: Forward, weight: float):
        super().__init__(student, teacher, weight)
        sizes = [widths(block, student, teacher) for block in BLOCKS]
        self.connect = nn.ModuleList(pointwise(before, after) for before, after in sizes)

    @abstractmethod
    def between(
        self, student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Compute the distance between maps of one shape."""

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        n = self.layers.index(layer)
        return self.between(self.connect[n](student), teacher) / 2 ** (len(self.layers) - 1 - n)


@full_precision
def boundary(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"], margin: float
) -> Float[Tensor, ""]:
    """Squared distance of values before the ReLU to the teacher's side of zero, with a margin.

    Summed over an image, mean over the batch.
    """
    inactive = (student + margin).clamp(min=0).pow(2)
    active = (margin - student).clamp(min=0).pow(2)
    return torch.where(teacher > 0, active, inactive).flatten(1).sum(1).mean()


@method("ab", title="AB", cite="heo2019knowledge")
class AB(BeforeReLU):
    """Match activation boundaries: which neurons are active, before the student learns labels.

    Heo et al. 2019 (activation boundaries): sum_l 2^(l - L) sum [(r(f_s) + m)^2 where
    f_t <= 0 and r(f_s) > -m, (r(f_s) - m)^2 where f_t > 0 and r(f_s) <= m], of the three blocks
    before their last ReLU, mean over images; r is a trained 1x1 convolution with BatchNorm. The
    benchmark's margin m = 1 and weight 3/1000. First stage: this alone, for `warm_up_epochs`; main
    stage: the labels alone.
    """

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
        super().__init__(student, teacher, weight)
        check_positive("margin", margin)
        self.margin, self.warm_up_epochs = margin, check_warm_up(warm_up_epochs)

    def between(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return boundary(student, teacher, self.margin)

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"ab": self.total(student, teacher)}

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"labels": cross_entropy(student, batch)}


@full_precision
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
class FT(LayerLoss):
    """Match factors: codes of the teacher's features that an auto-encoder is trained for first.

    Kim et al. 2018: first stage, for `warm_up_epochs`: mean (f_t - decode(encode(f_t))
    )^2 of the last block trains a paraphraser of k = 0.5 times the teacher's channels, the student
    is not trained. Main stage: CE + 200 mean |n(encode(f_t)) - n(translate(f_s))|, n = unit length,
    paraphraser frozen, the translator trained with the student. Three 3x3 convolutions each. The
    benchmark's weight, without the mean of squares over channels that it takes of both first.

    pool_maps=True takes maps of unequal size: the larger factors are averaged down to the smaller,
    as the benchmark's code does.
    """

    layers = equal_maps = ("block3",)
    warm_up_student = False

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 200.0,
        share: float = 0.5,
        warm_up_epochs: int = 10,
        pool_maps: bool = False,
    ):
        super().__init__(student, teacher, weight, pool_maps=pool_maps)
        check_positive("share", share)
        self.warm_up_epochs = check_warm_up(warm_up_epochs)
        ours, theirs = widths("block3", student, teacher)
        factors = max(1, int(share * theirs))
        self.encode = _convolutions(nn.Conv2d, (theirs, theirs, factors, factors))
        self.decode = _convolutions(nn.ConvTranspose2d, (factors, factors, theirs, theirs))
        self.translate = _convolutions(nn.Conv2d, (ours, ours, factors, factors))

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        maps = teacher.features["block3"]
        return {"paraphraser": squared(self.decode(self.encode(maps)), maps)}

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        self.encode.eval()  # frozen, statistics of BatchNorm included
        with torch.no_grad():
            factors = self.encode(teacher)
        ours, theirs = pooled(self.translate(student), factors)
        return (unit(ours) - unit(theirs)).abs().mean()


@full_precision
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
class NST(LayerLoss):
    """Match the distribution of channel maps, the selectivity of the neurons.

    Huang and Wang 2017: the squared maximum mean discrepancy mean k(t, t) + mean k(s, s) - 2 mean
    k(s, t) over the channels of each image, maps of unit length, polynomial kernel k(a, b) =
    (a . b)^2; the benchmark's weight 50 at the three blocks, CE 1.

    pool_maps=True takes maps of unequal size: the larger is averaged down to the smaller, as the
    benchmark's code does.
    """

    layers = equal_maps = BLOCKS

    def __init__(
        self, student: Forward, teacher: Forward, *, weight: float = 50.0, pool_maps: bool = False
    ):
        super().__init__(student, teacher, weight, pool_maps=pool_maps)

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return selectivity(*pooled(student, teacher))


@full_precision
def gaussian(
    mean: Float[Tensor, "b c h w"], value: Float[Tensor, "b c h w"], spread: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Mean of 1/2 [(mean - value)^2 / v + log v], each channel's v = softplus(spread) + 1e-5."""
    variance = F.softplus(spread)[:, None, None] + 1e-5
    return 0.5 * ((mean - value).pow(2) / variance + variance.log()).mean()


@method("vid", title="VID", cite="ahn2019variational")
class VID(LayerLoss):
    """Maximise mutual information with the teacher: predict its features and their variance.

    Ahn et al. 2019: a variational bound on mutual information, the negative log-likelihood of f_t
    under a Gaussian, sum_l mean 1/2 [(mu(f_s) - f_t)^2 / v + log v]; mu is three 1x1 convolutions,
    v one trained variance per channel that starts at 5. The benchmark's weight 1 at the three
    blocks, CE 1. Can be negative: a log-density has no floor at zero.

    pool_maps=True takes maps of unequal size: the larger is averaged down to the smaller, the
    student's before mu, as the benchmark's code does.
    """

    layers = equal_maps = BLOCKS

    def __init__(
        self, student: Forward, teacher: Forward, *, weight: float = 1.0, pool_maps: bool = False
    ):
        super().__init__(student, teacher, weight, pool_maps=pool_maps)
        self.mean, self.spread = nn.ModuleDict(), nn.ParameterDict()
        start = math.log(math.expm1(5 - 1e-5))  # softplus makes a variance of 5 of it
        for layer in self.layers:
            before, after = widths(layer, student, teacher)
            steps: list[nn.Module] = [nn.Conv2d(before, after, 1, bias=False)]
            for _ in range(2):
                steps += [nn.ReLU(), nn.Conv2d(after, after, 1, bias=False)]
            self.mean[layer] = nn.Sequential(*steps)
            self.spread[layer] = nn.Parameter(torch.full((after,), start))

    def distance(self, layer: str, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        ours, theirs = pooled(student, teacher)
        return gaussian(self.mean[layer](ours), theirs, self.spread[layer])


@full_precision
def margins(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "c 1 1"]:
    """Mean of each channel's negative values; 0 where there are none."""
    negative = features.clamp(max=0)
    count = (negative < 0).sum((0, 2, 3)).clamp(min=1)
    return (negative.sum((0, 2, 3)) / count)[:, None, None]


@full_precision
def partial(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Squared difference but where s <= t <= 0; summed over an image, mean over the batch."""
    counted = (student > teacher) | (teacher > 0)
    return ((student - teacher).pow(2) * counted).flatten(1).sum(1).mean()


@method("ofd", title="OFD", cite="heo2019comprehensive")
class OFD(BeforeReLU):
    """Match positive values before the ReLU, and of the others only that they are negative.

    Heo et al. 2019 (overhaul): sum_l 2^(l - L) d_p(r(f_s), max(f_t, m)) at the three blocks before
    their last ReLU; d_p sums squared differences but where s <= t <= 0, mean over images; r is a
    trained 1x1 convolution with BatchNorm, m each channel's mean negative value. The authors'
    weight 1/1000, CE 1. Departs from their code: m is taken over the batch, not from the
    parameters of the BatchNorm before (which in a ResNet is not all of the ReLU's input), and
    the teacher stays in evaluation mode.
    """

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 0.001):
        super().__init__(student, teacher, weight)

    def between(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        return partial(student, teacher.maximum(margins(teacher)))


@full_precision
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
    """Fuse a layer with the fusion of the deeper ones, pixel by pixel, weighted by attention."""

    def __init__(self, before: int, middle: int, after: int, deepest: bool):
        super().__init__()
        self.reduce = pointwise(before, middle)
        self.attend = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.expand = nn.Sequential(
            nn.Conv2d(middle, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.reduce(x)
        if deeper is not None and self.attend is not None:
            # a convolution of both maps as one, its second half before the deeper map is enlarged
            ours, theirs = self.attend.weight.chunk(2, dim=1)
            score = F.interpolate(F.conv2d(deeper, theirs), size=x.shape[2:])  # nearest
            share = torch.sigmoid(F.conv2d(x, ours, self.attend.bias) + score)  # (b, 2, h, w)
            x = x * share[:, :1] + F.interpolate(deeper, size=x.shape[2:]) * share[:, 1:]
        return x, self.expand(x)


def _maps(features: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c h w"]:
    """Features as maps: pooled ones become maps of one pixel."""
    return features if features.ndim == 4 else features[:, :, None, None]


@method("reviewkd", title="ReviewKD", cite="chen2021distilling")
class ReviewKD(Method):
    """Match the teacher's shallower layers with a fusion of the student's deeper ones.

    Chen et al. 2021: sum_l HCL(ABF_l(f_s, deeper), f_t), from the pooled features back to block1.
    ABF fuses layers by a learned attention; HCL is a squared difference at full size and pooled to
    4, 2, 1 pixels with weights 1, 1/2, 1/4, 1/8 over their sum (sizes below the map's own only).
    Weight 0.6, the benchmark's for its resnet56-resnet20 pair, CE 1. Departs from it: no warm-up
    of 20 epochs, and features after the ReLU. A batch needs two images or more.
    """

    layers = (*BLOCKS, "pool")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 0.6):
        super().__init__(student, teacher)
        self.weight, self.fusion = weight, nn.ModuleDict()
        middle = min(512, student.features["pool"].shape[1])
        for layer in self.layers:
            if layer != "pool":
                check_size("reviewkd", layer, student, teacher)
            before, after = widths(layer, student, teacher)
            self.fusion[layer] = _Fusion(before, middle, after, deepest=layer == "pool")

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        deeper, each = None, []
        for layer in reversed(self.layers):
            deeper, ours = self.fusion[layer](_maps(student.features[layer]), deeper)
            each.append(context(ours, _maps(teacher.features[layer])))
        return {
            "labels": cross_entropy(student, batch),
            "reviewkd": self.weight * torch.stack(each).sum(),
        }


@method("simkd", title="SimKD", cite="chen2022knowledge")
class SimKD(Method):
    """Match the teacher's last features and use its own classifier on them.

    Chen et al. 2022: mean (P(f_s) - f_t)^2 at the last block, and nothing else: no labels, no
    logits. P is a trained bottleneck of 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and
    ReLU, through 1/2 of the teacher's channels. The final network is the student, P, and the
    teacher's classifier. The larger of two maps is averaged down to the smaller.
    """

    layers = ("block3",)

    def __init__(
        self, student: Forward, teacher: Forward, *, weight: float = 1.0, reduction: int = 2
    ):
        super().__init__(student, teacher)
        check_positive("reduction", reduction)
        ours, theirs = (f.features["block3"].shape for f in (student, teacher))
        classified = teacher.features["pool"].shape[1]
        if classified != theirs[1]:
            raise UsageError(
                f"simkd: the teacher classifies {classified} features; "
                f"allowed: the {theirs[1]} channels of its block3"
            )
        self.size = (min(ours[2], theirs[2]), min(ours[3], theirs[3]))
        self.channels = (ours[1], max(1, theirs[1] // reduction), theirs[1])
        self.smaller = self.size if tuple(ours[2:]) != self.size else None
        self.weight, self.projector = weight, models.bottleneck(self.channels, self.smaller)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours = self.projector(student.features["block3"])
        theirs = F.adaptive_avg_pool2d(teacher.features["block3"], self.size)
        return {"simkd": self.weight * squared(ours, theirs)}

    def finalize(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        head = models.part(teacher, "logits")  # type: ignore[arg-type]
        if not isinstance(head, nn.Linear):
            kind = type(head).__name__
            raise UsageError(f"simkd: the teacher's classifier is a {kind}; allowed: Linear")
        network = models.Grafted(
            student,
            channels=self.channels,
            classes=head.out_features,
            size=self.smaller,
            bias=head.bias is not None,
        )
        network.projector.load_state_dict(self.projector.state_dict())
        network.head.load_state_dict(head.state_dict())
        return network.to(head.weight.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
