"""What a student copies: each method is a loss with a name, its paper and its constants."""
# ruff: noqa: D102 -- `forward` is documented once, in Method

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, one_of
from kdlib.data import Batch
from kdlib.models import Forward

NOBODY = Forward(torch.empty(0, 0), {})  # the teacher of a student that learns alone
Terms = dict[str, Float[Tensor, ""]]  # of a loss, by name
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Method(nn.Module, ABC):
    """A loss as named terms. Its own trained parts, if any, are ordinary submodules.

    It is built from one example output of each network, so that adapters find their sizes.
    """

    cite: ClassVar[str]  # key in book/references.bib
    title: ClassVar[str]  # how charts and pages call it
    teacher: ClassVar[bool] = True  # does it look at a teacher?
    layers: tuple[str, ...] = ()  # which layers it must be shown, of both networks
    warm_up_epochs: int = 0  # how long a first stage is trained, by `warm_up`; 0: there is none
    warm_up_rate: float = 1.0  # learning rate of the first stage, in units of the run's
    warm_up_student: bool = True  # is the student shown to the first stage?

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__()

    def enrol(self, images: int) -> None:
        """Told once, before training: how many training images there are, numbered by rows."""
        return None

    @abstractmethod
    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        """The weighted terms of the loss on one batch; their sum is minimised."""

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms | None:
        """The terms of a first stage, trained before `forward` counts; None where there is none."""
        return None


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


# ---- what the methods share


def _exact(function: _Function) -> _Function:
    """Let a function of tensors compute in float32 or better, also inside autocast.

    Half precision is raised to float32, float64 left alone, and autocast switched off: it would
    round every matrix product again.
    """

    @wraps(function)
    def exactly(*given: Any, **named: Any) -> Any:
        half = (torch.float16, torch.bfloat16)
        raised = [x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in given]
        with torch.autocast(raised[0].device.type, enabled=False):
            return function(*raised, **named)

    return exactly  # type: ignore[return-value]


def _positive(name: str, value: float | int) -> None:
    if not 0 < value < math.inf:
        raise UsageError(f"{name} {value!r}; allowed: a number above 0")


def _first_stage(epochs: int) -> int:
    if epochs < 1:
        raise UsageError(f"warm_up_epochs {epochs!r}; allowed: 1 or more")
    return epochs


def same_classes(method: str, student: Forward, teacher: Forward, least: int = 2) -> None:
    """Raise UsageError unless both networks name the same number of classes, `least` or more."""
    ours, theirs = tuple(student.logits.shape[1:]), tuple(teacher.logits.shape[1:])
    if ours != theirs or ours[0] < least:
        wanted = (
            "as many classes in both networks" if ours != theirs else f"{least} classes or more"
        )
        raise UsageError(f"{method} needs {wanted} at logits; student {ours}, teacher {theirs}")


def same_size(method: str, layer: str, student: Forward, teacher: Forward) -> None:
    """Raise UsageError unless both networks have maps of equal height and width at `layer`."""
    ours, theirs = student.features[layer].shape, teacher.features[layer].shape
    if len(ours) != 4 or ours[2:] != theirs[2:]:
        raise UsageError(
            f"{method} needs maps of equal height and width at {layer}; "
            f"student {tuple(ours[1:])}, teacher {tuple(theirs[1:])}"
        )


def targets(teacher: Forward, batch: Batch) -> Int[Tensor, " b"]:
    """The true class of each labelled image, the teacher's top class of each other one."""
    return torch.cat([batch.y, teacher.logits[len(batch.y) :].argmax(1)])


# ---- answers: match what the teacher says about each image


def _divergence(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"]
) -> Float[Tensor, " b"]:
    """KL(teacher || student) of each image, both given as log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(1)


@_exact
def softened(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(p_t^T || p_s^T) of two networks' logits, mean over the batch."""
    ours, theirs = (F.log_softmax(z / temperature, dim=1) for z in (student, teacher))
    return temperature**2 * _divergence(ours, theirs).mean()


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
        _positive("temperature", temperature)
        same_classes("kd", student, teacher)
        self.temperature, self.weight, self.label_weight = temperature, weight, label_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        distance = softened(student.logits, teacher.logits, self.temperature)
        return {
            "labels": self.label_weight * labels(student, batch),
            "kd": self.weight * distance,
        }


@_exact
def standardised(logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Logits of each image with mean 0 and standard deviation 1 over the classes."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


class LogitStd(Method):
    """Rank the classes as the teacher does, at a scale of one's own: KD on standardised logits.

    Sun et al. 2024: a CE(y, p_s) + b T^2 KL(q_t^T || q_s^T), q^T = softmax(Z / T), Z = (z - mean)
    / (standard deviation) over the classes of one image; the benchmark's a = 0.1, b = 9, T = 2.
    With two classes every Z is the same up to sign, so three or more are asked for.
    """

    cite, title = "sun2024logit", "logit std"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 2.0,
        weight: float = 9.0,
        label_weight: float = 0.1,
    ):
        super().__init__(student, teacher)
        _positive("temperature", temperature)
        same_classes("logitstd", student, teacher, least=3)
        self.temperature, self.weight, self.label_weight = temperature, weight, label_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = standardised(student.logits), standardised(teacher.logits)
        return {
            "labels": self.label_weight * labels(student, batch),
            "logitstd": self.weight * softened(ours, theirs, self.temperature),
        }


def _others(logits: Float[Tensor, "b k"], target: Int[Tensor, " b"]) -> Float[Tensor, "b rest"]:
    """The logits of every class but the target, in their order."""
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, column + (column >= target[:, None]))


class Decoupled(NamedTuple):
    """KD's two halves, per image: KD / T^2 = tckd + (1 - p_t[target]) nckd."""

    tckd: Float[Tensor, " b"]  # target against all the rest
    nckd: Float[Tensor, " b"]  # among the rest


@_exact
def decoupled(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    temperature: float,
) -> Decoupled:
    """Split KL(p_t^T || p_s^T) of each image into target and non-target knowledge."""

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        rest, total = _others(logits, target), logits.logsumexp(1)
        hit = logits.gather(1, target[:, None])[:, 0]
        return torch.stack([hit - total, rest.logsumexp(1) - total], 1), F.log_softmax(rest, dim=1)

    (ours, our_rest), (theirs, their_rest) = (
        parts(student / temperature),
        parts(teacher / temperature),
    )
    return Decoupled(_divergence(ours, theirs), _divergence(our_rest, their_rest))


class DKD(Method):
    """Weigh apart what KD mixes: how sure the teacher is, and how it ranks the other classes.

    Zhao et al. 2022, eq. 7: CE + T^2 (a TCKD + b NCKD), TCKD = KL of (target, rest), NCKD = KL
    among the non-target classes; the benchmark's a = 1, T = 4, and b = 2 of its resnet56-resnet20
    pair. Departs from it: no warm-up of 20 epochs; all in log space, finite for any logits. The
    target of an image without a label is the teacher's top class. Needs three classes.
    """

    cite, title = "zhao2022decoupled", "DKD"

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
        _positive("temperature", temperature)
        same_classes("dkd", student, teacher, least=3)
        self.temperature, self.target_weight = temperature, target_weight
        self.rest_weight = rest_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        target = targets(teacher, batch)
        parts = decoupled(student.logits, teacher.logits, target, self.temperature)
        both = self.target_weight * parts.tckd.mean() + self.rest_weight * parts.nckd.mean()
        return {"labels": labels(student, batch), "dkd": self.temperature**2 * both}


@_exact
def correlation(a: Float[Tensor, "n m"], b: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Pearson's correlation of each row of a with the same row of b; 0 for a constant row."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)


@_exact
def softmax(logits: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, "b k"]:
    """Class probabilities at a temperature."""
    return F.softmax(logits / temperature, dim=1)


class DIST(Method):
    """Keep the teacher's order, not its numbers: correlate probabilities within image and class.

    Huang et al. 2022: CE + w T^2 [b (1 - mean_i r(p_s[i], p_t[i])) + g (1 - mean_k r(p_s[:, k],
    p_t[:, k]))] with Pearson's r over the classes of an image and over the images of a class; the
    benchmark's b = g = 1, T = 4, w = 2. One affine map of all p_s changes neither term.
    """

    cite, title = "huang2022knowledge", "DIST"

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
        _positive("temperature", temperature)
        same_classes("dist", student, teacher)
        self.temperature, self.weight = temperature, weight
        self.image_weight, self.class_weight = image_weight, class_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (softmax(f.logits, self.temperature) for f in (student, teacher))
        images = self.image_weight * (1 - correlation(ours, theirs).mean())
        classes = self.class_weight * (1 - correlation(ours.T, theirs.T).mean())
        scale = self.weight * self.temperature**2
        return {"labels": labels(student, batch), "dist": scale * (images + classes)}


@_exact
def normalised_kd(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    temperature: float,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Cross-entropies of each image: at its target, and among the other classes alone."""
    ours = F.log_softmax(student, dim=1).gather(1, target[:, None])[:, 0]
    theirs = F.softmax(teacher, dim=1).gather(1, target[:, None])[:, 0]
    rest, told = (_others(z, target) / temperature for z in (student, teacher))
    among = -(F.softmax(told, dim=1) * F.log_softmax(rest, dim=1)).sum(1)
    return -theirs * ours, among


class NKD(Method):
    """Spread what is left as the teacher spreads it: KD with the non-target classes rescaled to 1.

    Yang et al. 2023: CE - p_t[y] log p_s[y] - g T^2 sum_{k != y} n_t[k] log n_s[k], n^T = softmax
    over the non-target classes; the authors' g = 1.5, T = 1. Both added terms are cross-entropies:
    they do not vanish for a perfect copy. The target of an image without a label is the teacher's
    top class. Needs three classes.
    """

    cite, title = "yang2023from", "NKD"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        temperature: float = 1.0,
        rest_weight: float = 1.5,
    ):
        super().__init__(student, teacher)
        _positive("temperature", temperature)
        same_classes("nkd", student, teacher, least=3)
        self.temperature, self.rest_weight = temperature, rest_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        target = targets(teacher, batch)
        hit, rest = normalised_kd(student.logits, teacher.logits, target, self.temperature)
        scale = self.rest_weight * self.temperature**2
        return {"labels": labels(student, batch), "nkd": hit.mean() + scale * rest.mean()}


@_exact
def levels(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Differences of two networks' answers: image by image, between images, between classes."""
    p, q = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    images = (p @ p.T - q @ q.T).pow(2).sum() / len(p)
    classes = (p.T @ p - q.T @ q).pow(2).sum() / p.shape[1]
    return softened(student, teacher, temperature), images, classes


class MLKD(Method):
    """Answer as the teacher does image by image, and relate images, and classes, as it does.

    Jin et al. 2023: sum over T in (2, 3, 4, 5, 6) of the instance level T^2 KL(p_t^T || p_s^T), the
    batch level ||P_s P_s^T - P_t P_t^T||_F^2 / b and the class level ||P_s^T P_s - P_t^T P_t||_F^2
    / k, P the (b, k) matrix of probabilities at T. All three weigh 0.9 beside 0.1 CE, KD's
    benchmark constants (the paper's sum has no weights). Departs from the authors' code: one view
    of each image where that takes two, and so neither its confidence masks nor 480 epochs.
    The class level grows with (b / k)^2: on digits (k = 10, b = 128) weight 0.9 did not learn at
    the default rate where 0.1 did (one run each).
    """

    cite, title = "jin2023multi", "MLKD"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        weight: float = 0.9,
        label_weight: float = 0.1,
    ):
        super().__init__(student, teacher)
        same_classes("mlkd", student, teacher)
        self.weight, self.label_weight = weight, label_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [levels(student.logits, teacher.logits, float(t)) for t in (2, 3, 4, 5, 6)]
        total = torch.stack([part for level in each for part in level]).sum()
        return {
            "labels": self.label_weight * labels(student, batch),
            "mlkd": self.weight * total,
        }


# ---- features: match what the teacher computes on its way


@_exact
def squared(student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference of two tensors of one shape."""
    return F.mse_loss(student, teacher)


class FitNet(Method):
    """Feel what the teacher feels half-way: regress its features at one hint layer.

    Romero et al. 2015, eq. 3: mean (r(f_s) - f_t)^2 with a trained regressor r, here 1x1
    convolution, BatchNorm, ReLU. Departs from it: one stage together with the labels, as the
    benchmark does (weight 100, hint at block2), where the paper trains the hint first.

    stages=2 is the paper's form: first the hint alone, which moves the student up to that layer,
    for `warm_up_epochs`; then CE + 4 KL(p_t^T || p_s^T), T = 3, without the factor T^2 (eq. 2; KL
    in place of cross-entropy, the gradient is the same). Departs from it: the 4 does not fall to 1.
    """

    cite, title = "romero2015fitnets", "FitNet"

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        layer: str = "block2",
        weight: float = 100.0,
        stages: int = 1,
        warm_up_epochs: int = 10,
    ):
        super().__init__(student, teacher)
        one_of("number of stages", stages, (1, 2))
        self.warm_up_epochs = _first_stage(warm_up_epochs) if stages == 2 else 0
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


@_exact
def attention(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b hw"]:
    """Where a layer looks: mean over channels of squared activations, of unit length."""
    return F.normalize(features.pow(2).mean(1).flatten(1), dim=1)


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
            same_size("at", layer, student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        distances = [
            squared(attention(student.features[name]), attention(teacher.features[name]))
            for name in self.layers
        ]
        return {"labels": labels(student, batch), "at": self.weight * torch.stack(distances).sum()}


@_exact
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


class NST(Method):
    """Have neurons as selective as the teacher's: match the distribution of channel maps.

    Huang and Wang 2017: the squared maximum mean discrepancy mean k(t, t) + mean k(s, s) - 2 mean
    k(s, t) over the channels of each image, maps of unit length, polynomial kernel k(a, b) =
    (a . b)^2; the benchmark's weight 50 at the three blocks, CE 1.
    """

    cite, title = "huang2017like", "NST"
    layers = ("block1", "block2", "block3")

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 50.0):
        super().__init__(student, teacher)
        self.weight = weight
        for layer in self.layers:
            same_size("nst", layer, student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [selectivity(student.features[x], teacher.features[x]) for x in self.layers]
        return {"labels": labels(student, batch), "nst": self.weight * torch.stack(each).sum()}


@_exact
def gaussian(
    mean: Float[Tensor, "b c h w"], value: Float[Tensor, "b c h w"], spread: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """Mean of 1/2 [(mean - value)^2 / v + log v], each channel's v = softplus(spread) + 1e-5."""
    variance = F.softplus(spread)[:, None, None] + 1e-5
    return 0.5 * ((mean - value).pow(2) / variance + variance.log()).mean()


class VID(Method):
    """Tell as much as possible about the teacher: predict its features with a learned certainty.

    Ahn et al. 2019: a variational bound on mutual information, the negative log-likelihood of f_t
    under a Gaussian, sum_l mean 1/2 [(mu(f_s) - f_t)^2 / v + log v]; mu is three 1x1 convolutions,
    v one trained variance per channel that starts at 5. The benchmark's weight 1 at the three
    blocks, CE 1. Can be negative: a log-density has no floor at zero.
    """

    cite, title = "ahn2019variational", "VID"
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


@_exact
def channels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """How the channels of one image go together: their inner products, rows of unit length."""
    maps = features.flatten(2)  # (b, c, hw)
    return F.normalize(torch.bmm(maps, maps.transpose(1, 2)), dim=2)


class ICKD(Method):
    """Keep channels as diverse as the teacher's: match how they go together within each image.

    Liu et al. 2021 (ICKD-C): ||G(r(f_s)) - G(f_t)||_F^2 / c, mean over the batch, G = F F^T of the
    (c, hw) maps of the last block, rows of unit length as in the authors' code; r is a trained 1x1
    convolution with BatchNorm. The authors' CIFAR weight 2.5, CE 1. Maps may differ in size.
    """

    cite, title = "liu2021exploring", "ICKD"
    layers = ("block3",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 2.5):
        super().__init__(student, teacher)
        self.weight = weight
        before, after = student.features["block3"].shape[1], teacher.features["block3"].shape[1]
        self.embed = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        told = channels(teacher.features["block3"])
        distance = squared(channels(self.embed(student.features["block3"])), told)
        return {"labels": labels(student, batch), "ickd": self.weight * told.shape[1] * distance}


@_exact
def context(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Mean squared difference at full size and pooled to 4, 2, 1 pixels, each half the last."""
    total, weight, whole = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            weight /= 2
            ours, theirs = (F.adaptive_avg_pool2d(f, size) for f in (student, teacher))
            total, whole = total + weight * F.mse_loss(ours, theirs), whole + weight
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
            deeper = F.interpolate(deeper, size=x.shape[2:])  # nearest
            share = torch.sigmoid(self.attend(torch.cat([x, deeper], 1)))  # (b, 2, h, w)
            x = x * share[:, :1] + deeper * share[:, 1:]
        return x, self.expand(x)


def _maps(features: Tensor) -> Tensor:
    return features if features.ndim == 4 else features[:, :, None, None]


class ReviewKD(Method):
    """Review: let the student's deeper layers help to match the teacher's shallower ones.

    Chen et al. 2021: sum_l HCL(ABF_l(f_s, deeper), f_t), from the pooled features back to block1.
    ABF fuses layers by a learned attention; HCL is a squared difference at full size and pooled to
    4, 2, 1 pixels with weights 1, 1/2, 1/4, 1/8 over their sum (sizes below the map's own only).
    Weight 0.6, the benchmark's for its resnet56-resnet20 pair, CE 1. Departs from it: no warm-up
    of 20 epochs, and features after the ReLU. A batch needs two images or more.
    """

    cite, title = "chen2021distilling", "ReviewKD"
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


@_exact
def flow(
    shallow: Float[Tensor, "b c h w"], deep: Float[Tensor, "b d i j"]
) -> Float[Tensor, "b c d"]:
    """How features flow: inner products of two layers' channels, over the number of pixels.

    The larger maps are max-pooled to the smaller ones' size first.
    """
    size = (min(shallow.shape[2], deep.shape[2]), min(shallow.shape[3], deep.shape[3]))
    a, b = (F.adaptive_max_pool2d(f, size).flatten(2) for f in (shallow, deep))
    return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]


class FSP(Method):
    """Solve in the same steps: match how features flow from one layer to the next.

    Yim et al. 2017, eq. 1 and 2: sum over pairs of layers of mean (G_s - G_t)^2, G[i, j] = sum over
    pixels of f_l[i] f_(l+1)[j] / hw, for stem-block1, block1-block2, block2-block3, the larger maps
    max-pooled; the benchmark's weight 50 and mean over entries. First stage: this alone, for
    `warm_up_epochs`; main stage: the labels alone. Needs equal channels in both networks. The
    loss grows with the fourth power of the features, so the first stage learns at 0.01 times the
    run's rate: at the run's own it diverges.
    """

    cite, title = "yim2017gift", "FSP"
    layers = ("stem", "block1", "block2", "block3")

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
        _positive("warm_up_rate", warm_up_rate)
        self.weight, self.warm_up_epochs = weight, _first_stage(warm_up_epochs)
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


@_exact
def boundary(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"], margin: float
) -> Float[Tensor, ""]:
    """How far the student is from firing where the teacher fires, and only there, by a margin.

    Of values before the ReLU: squared, summed over an image, mean over the batch.
    """
    silent = (student + margin).clamp(min=0).pow(2)
    firing = (margin - student).clamp(min=0).pow(2)
    return torch.where(teacher > 0, firing, silent).flatten(1).sum(1).mean()


class AB(Method):
    """Fire when the teacher fires: match the boundaries at which neurons become active.

    Heo et al. 2019 (activation boundaries): sum_l 2^(l - L) sum [(r(f_s) + m)^2 where
    f_t <= 0 and r(f_s) > -m, (r(f_s) - m)^2 where f_t > 0 and r(f_s) <= m], of the three blocks
    before their last ReLU, mean over images; r is a trained 1x1 convolution with BatchNorm. The
    benchmark's margin m = 1 and weight 3/1000. First stage: this alone, for `warm_up_epochs`; main
    stage: the labels alone.
    """

    cite, title = "heo2019knowledge", "AB"
    layers = ("block1.raw", "block2.raw", "block3.raw")

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
        _positive("margin", margin)
        self.weight, self.margin = weight, margin
        self.warm_up_epochs = _first_stage(warm_up_epochs)
        self.connect = _connectors("ab", self.layers, student, teacher)

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = []
        for connect, layer in zip(self.connect, self.layers, strict=True):
            ours, theirs = connect(student.features[layer]), teacher.features[layer]
            each.append(boundary(ours, theirs, self.margin))
        return {"ab": self.weight * _deeper_counts_double(each)}

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


@_exact
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


class FT(Method):
    """Let the teacher put it in other words: match factors that an auto-encoder makes of it.

    Kim et al. 2018: first stage, for `warm_up_epochs`: mean (f_t - decode(encode(f_t))
    )^2 of the last block trains a paraphraser of k = 0.5 times the teacher's channels, the student
    is not touched. Main stage: CE + 200 mean |n(encode(f_t)) - n(translate(f_s))|, n = unit length,
    paraphraser frozen, the translator trained with the student. Three 3x3 convolutions each. The
    benchmark's weight, without the mean of squares over channels that it takes of both first.
    """

    cite, title = "kim2018paraphrasing", "FT"
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
        _positive("share", share)
        same_size("ft", "block3", student, teacher)
        self.weight, self.warm_up_epochs = weight, _first_stage(warm_up_epochs)
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


@_exact
def margins(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "c 1 1"]:
    """Mean of each channel's negative values; 0 where there are none."""
    negative = features.clamp(max=0)
    count = (negative < 0).sum((0, 2, 3)).clamp(min=1)
    return (negative.sum((0, 2, 3)) / count)[:, None, None]


@_exact
def partial(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Squared difference but where s <= t <= 0; summed over an image, mean over the batch."""
    counted = (student > teacher) | (teacher > 0)
    return ((student - teacher).pow(2) * counted).flatten(1).sum(1).mean()


class OFD(Method):
    """Copy what the ReLU lets through, and of the rest no more than that it is negative.

    Heo et al. 2019 (overhaul): sum_l 2^(l - L) d_p(r(f_s), max(f_t, m)) at the three blocks before
    their last ReLU; d_p sums squared differences but where s <= t <= 0, mean over images; r is a
    trained 1x1 convolution with BatchNorm, m each channel's mean negative value. The authors'
    weight 1/1000, CE 1. Departs from their code: m is taken over the batch, not from the
    parameters of the BatchNorm before (which in a ResNet is not all that the ReLU is given), and
    the teacher stays in evaluation mode.
    """

    cite, title = "heo2019comprehensive", "OFD"
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


# ---- relations: match how images lie to each other


@_exact
def similarities(features: Float[Tensor, "b ..."]) -> Float[Tensor, "b b"]:
    """Inner products of all pairs of images, rows of unit length."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


class SP(Method):
    """Find alike what the teacher finds alike: match the similarities of all pairs in a batch.

    Tung and Mori 2019: ||G(f_s) - G(f_t)||_F^2 / b^2, G = F F^T of the flattened maps of the last
    block, rows of unit length (L2); the benchmark's weight 3000, CE 1. Shapes may differ.
    """

    cite, title = "tung2019similarity", "SP"
    layers = ("block3",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 3000.0):
        super().__init__(student, teacher)
        self.weight = weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (similarities(f.features["block3"]) for f in (student, teacher))
        return {"labels": labels(student, batch), "sp": self.weight * squared(ours, theirs)}


class Geometry(NamedTuple):
    """How the images of a batch lie to each other."""

    distances: Float[Tensor, "b b"]  # over their mean
    angles: Float[Tensor, "b b b"]  # cosine of the angle that images j, k make at image i


@_exact
def geometry(h: Float[Tensor, "b d"]) -> Geometry:
    """Distances of all pairs and angles of all triples of images, whatever the scale.

    A batch may hold one image twice: where two all but coincide (1e-4 of the mean distance), the
    direction between them fades to none instead of being rounding noise of unit length.
    """
    apart = h[None] - h[:, None]  # (b, b, d), from image i to image j
    distance = torch.linalg.vector_norm(apart, dim=2)
    mean = (distance.sum() / max(1, len(h) * (len(h) - 1))).clamp(min=1e-12)
    directions = apart / torch.maximum(distance, 1e-4 * mean.detach())[:, :, None]
    return Geometry(distance / mean, torch.bmm(directions, directions.transpose(1, 2)))


class RKD(Method):
    """Lay images out as the teacher does: match distances of pairs and angles of triples.

    Park et al. 2019: w_d Huber(d_s / mean d_s, d_t / mean d_t) + w_a Huber(cos_s, cos_t) on the
    pooled features, means over all pairs and triples of the batch; the benchmark's w_d = 25, w_a =
    50, CE 1. Rotation and scale of either space change nothing. Memory grows as b^3.
    """

    cite, title = "park2019relational", "RKD"
    layers = ("pool",)

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
    ):
        super().__init__(student, teacher)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (geometry(f.features["pool"]) for f in (student, teacher))
        distances = self.distance_weight * F.smooth_l1_loss(ours.distances, theirs.distances)
        angles = self.angle_weight * F.smooth_l1_loss(ours.angles, theirs.angles)
        return {"labels": labels(student, batch), "rkd": distances + angles}


@_exact
def neighbours(h: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Probability that an image has another as its neighbour: (cosine + 1) / 2, rows sum to 1."""
    unit = F.normalize(h, dim=1)
    kernel = ((unit @ unit.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(1, keepdim=True)


class PKT(Method):
    """Have the teacher's neighbours: match the probability that one image is near another.

    Passalis and Tefas 2018: p_t log(p_t / p_s), mean over all pairs, p[i, j] = (cos(h_i, h_j) + 1)
    / 2 with rows that sum to 1, on the pooled features; the benchmark's weight 30000, CE 1, and its
    1e-7 in the logarithm. As there, an image is also its own neighbour.
    """

    cite, title = "passalis2018learning", "PKT"
    layers = ("pool",)

    def __init__(self, student: Forward, teacher: Forward, *, weight: float = 30000.0):
        super().__init__(student, teacher)
        self.weight = weight

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (neighbours(f.features["pool"]) for f in (student, teacher))
        distance = (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).mean()
        return {"labels": labels(student, batch), "pkt": self.weight * distance}


@_exact
def congruence(h: Float[Tensor, "b d"], gamma: float, order: int) -> Float[Tensor, "b b"]:
    """Gaussian kernel exp(-gamma |a - b|^2) of unit vectors, its Taylor series up to `order`."""
    unit = F.normalize(h, dim=1)
    cosine = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


class CC(Method):
    """Correlate images as the teacher does: match a Gaussian kernel over the batch.

    Peng et al. 2019: ||K(h_s) - K(h_t)||_F^2 / b^2, K the Taylor series of a Gaussian kernel on
    pooled features of unit length, gamma = 0.4, order 2. This is the paper's formula with weight
    100 as in Knowledge-Distillation-Zoo; RepDistiller's "CC" multiplies differences of images that
    happen to be next to each other, with weight 0.02. No KD term beside it, CE 1.
    """

    cite, title = "peng2019correlation", "CC"
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
        super().__init__(student, teacher)
        _positive("gamma", gamma)
        _positive("order", order)
        self.weight, self.gamma, self.order = weight, gamma, order

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        ours, theirs = (
            congruence(f.features["pool"], self.gamma, self.order) for f in (student, teacher)
        )
        return {"labels": labels(student, batch), "cc": self.weight * squared(ours, theirs)}


@_exact
def view(h: Float[Tensor, "b d"], embed: nn.Module) -> Float[Tensor, "b e"]:
    """A linear map of features, scaled to unit length."""
    return F.normalize(embed(h), dim=1)


@_exact
def merged(seen: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
    """Of each image the mean of all its places in the batch."""
    same = (rows[:, None] == rows).to(seen)  # (b, b)
    return same @ seen / same.sum(1, keepdim=True)


@_exact
def cosines(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    """Inner products of all pairs of unit vectors."""
    return a @ b.to(a).T


@_exact
def contrast(
    scores: Float[Tensor, "b k"], images: int, normaliser: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """-log g(positive) - sum log(1 - g(negative)), mean over the batch; column 0 is the positive.

    g(c) = p / (p + N / M) with p = exp(c) / Z, N negatives, M images.
    """
    log_p = scores - normaliser.log()
    odds = log_p - math.log((scores.shape[1] - 1) / images)  # log of g / (1 - g)
    return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(1)).mean()


class CRD(Method):
    """Tell images apart as the teacher does: be near its view of the same image, far from others.

    Tian et al. 2020: -log g(positive) - sum_N log(1 - g(negative)), g(c) = e^(c / t) / (e^(c / t) +
    N / M), c the inner product of unit vectors: trained linear maps of the pooled features to d =
    128. Each network's view is compared with a memory of the other's view of all M training
    images, which moves by 0.5 to what is seen. The benchmark's t = 0.07, N = 16384, weight 0.8, CE
    1. As in the authors' code e^(c / t) is divided by Z = M times its mean over the first batch
    (without it the loss is some N times as large). Departs from it: a negative is any other image,
    drawn afresh on the device with replacement (each one once where there are not more than N),
    whatever its class: labels are few here.
    """

    cite, title = "tian2020contrastive", "CRD"
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
        _positive("temperature", temperature)
        _positive("negatives", negatives)
        _positive("size", size)
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum {momentum!r}; allowed: 0 or more and below 1")
        self.weight, self.temperature = weight, temperature
        self.negatives, self.momentum = negatives, momentum
        ours, theirs = (f.features["pool"].shape[1] for f in (student, teacher))
        self.embed = nn.ModuleList([nn.Linear(ours, size), nn.Linear(theirs, size)])
        self.seed = int(torch.randint(2**31, ()))
        self.register_buffer("normaliser", torch.zeros(2))
        self.register_buffer("memory", torch.zeros(2, 0, size))
        self.generator: torch.Generator | None = None
        self.started = False  # has a first batch set Z?

    def enrol(self, images: int) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(2, images, self.memory.shape[2], generator=generator)
        self.memory = F.normalize(drawn, dim=2).to(self.memory)
        self.generator, self.started = None, False

    def compared(self, rows: Int[Tensor, " b"]) -> Int[Tensor, "b k"]:
        """Rows of the memory: the image itself first, then those that it is told apart from."""
        images, device = self.memory.shape[1], rows.device
        if self.generator is None:
            self.generator = torch.Generator(device).manual_seed(self.seed)
        shape = (len(rows), self.negatives)
        if images - 1 <= self.negatives:
            away = torch.arange(1, images, device=device).expand(len(rows), -1)
        else:
            away = torch.randint(1, images, shape, generator=self.generator, device=device)
        return torch.cat([rows[:, None], (rows[:, None] + away) % images], 1)

    @torch.no_grad()
    def remember(self, views: list[Tensor], rows: Int[Tensor, " b"]) -> None:
        """Move the memory of these images to what was seen; an image seen twice to the mean."""
        for memory, seen in zip(self.memory, views, strict=True):
            mean = merged(seen, rows).to(memory)
            moved = self.momentum * memory[rows] + (1 - self.momentum) * mean
            memory[rows] = F.normalize(moved, dim=1)  # rows that come twice: twice the same

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        seen = [f.features["pool"] for f in (student, teacher)]
        views = [view(h, embed) for h, embed in zip(seen, self.embed, strict=True)]
        rows, memory = self.compared(batch.rows), self.memory.clone()  # it changes before backward
        each = []
        for n in (0, 1):
            # all images at once: far less memory than gathering N vectors for each
            scores = cosines(views[n], memory[1 - n]).gather(1, rows) / self.temperature
            if not self.started:
                self.normaliser[n] = memory.shape[1] * scores.detach().exp().mean()
            each.append(contrast(scores, memory.shape[1], self.normaliser[n]))
        self.started = True
        self.remember(views, batch.rows)
        return {"labels": labels(student, batch), "crd": self.weight * torch.stack(each).sum()}


# ---- controls: a teacher without its dark knowledge


class Pseudo(Method):
    """More labels and nothing else: cross-entropy with the teacher's top class of every image.

    Pseudo-labels (Lee 2013), here a trained teacher's and also where the label is known: what KD
    gains beyond this control is not in the teacher's top class.
    """

    cite, title = "lee2013pseudo", "pseudo-labels"

    def __init__(self, student: Forward, teacher: Forward):
        super().__init__(student, teacher)
        same_classes("pseudo", student, teacher)

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return {"pseudo": F.cross_entropy(student.logits, teacher.logits.argmax(1))}


class Shuffled(Method):
    """KD without dark knowledge: the teacher's non-target probabilities go to the wrong classes.

    Furlanello et al. 2018 (dark knowledge with permuted predictions): KD after the teacher's
    non-target logits of each image are permuted. How sure it is of the target stays, what it is
    reminded of is lost. The target is the label, or the teacher's top class where there is none. An
    image keeps its permutation, one of 1009 that the seed draws, in whatever batch it comes.
    Constants as KD. Needs three classes.
    """

    cite, title = "furlanello2018born", "shuffled KD"
    orders: Tensor  # (1009, k), permutations of the classes

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
        same_classes("shuffled", student, teacher, least=3)
        constants = {"temperature": temperature, "weight": weight, "label_weight": label_weight}
        self.kd = KD(student, teacher, **constants)
        orders = [torch.randperm(teacher.logits.shape[1]) for _ in range(1009)]
        self.register_buffer("orders", torch.stack(orders))

    def permuted(self, teacher: Forward, batch: Batch) -> Float[Tensor, "b k"]:
        """The teacher's logits, those of the non-target classes in another order."""
        target = targets(teacher, batch)[:, None]
        order = self.orders[batch.rows % len(self.orders)]
        straight = torch.arange(order.shape[1], device=order.device).expand_as(order)
        # sorting with the target at -1 puts it first: in the class order, and in the drawn one
        place, source = (x.scatter(1, target, -1).argsort(1) for x in (straight, order))
        return teacher.logits.scatter(1, place, teacher.logits.gather(1, source))

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        terms = self.kd(student, teacher._replace(logits=self.permuted(teacher, batch)), batch)
        return {"labels": terms["labels"], "shuffled": terms["kd"]}


METHODS: dict[str, type[Method]] = {
    "alone": Alone,
    "smooth": Smooth,
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
    "logitstd": LogitStd,
    "dkd": DKD,
    "dist": DIST,
    "nkd": NKD,
    "mlkd": MLKD,
    "nst": NST,
    "vid": VID,
    "ickd": ICKD,
    "reviewkd": ReviewKD,
    "fsp": FSP,
    "ab": AB,
    "ft": FT,
    "ofd": OFD,
    "sp": SP,
    "rkd": RKD,
    "pkt": PKT,
    "cc": CC,
    "crd": CRD,
    "pseudo": Pseudo,
    "shuffled": Shuffled,
}


class Combined(Method):
    """Several methods at once, "kd+at": the sum of their losses, the labels' term of the first.

    Each has its own options; a term keeps its name. First stages, where there are any, are trained
    together, as long as the longest of them and as slowly as the slowest of them asks for.
    """

    def __init__(self, parts: dict[str, Method]):
        super().__init__(NOBODY, NOBODY)
        self.parts = nn.ModuleDict(parts)  # so that their parameters are found
        self.members = members = list(parts.values())
        self.layers = tuple(dict.fromkeys(layer for part in members for layer in part.layers))
        self.warm_up_epochs = max(part.warm_up_epochs for part in members)
        self.warm_up_rate = min((p.warm_up_rate for p in self.first()), default=1.0)
        self.warm_up_student = any(p.warm_up_student for p in self.first())

    def first(self) -> list[Method]:
        return [part for part in self.members if part.warm_up_epochs]

    def enrol(self, images: int) -> None:
        for part in self.members:
            part.enrol(images)

    def warm_up(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        return _sum([part.warm_up(student, teacher, batch) or {} for part in self.first()])

    def forward(self, student: Forward, teacher: Forward, batch: Batch) -> Terms:
        each = [part(student, teacher, batch) for part in self.members]
        for terms in each[1:]:
            terms.pop("labels", None)
        return _sum(each)


def _sum(each: list[Terms]) -> Terms:
    """All terms; those of one name added."""
    total: Terms = {}
    for name, term in (pair for terms in each for pair in terms.items()):
        total[name] = total[name] + term if name in total else term
    return total


def known(name: str, what: str = "method") -> list[str]:
    """The keys in a method's name: one of `METHODS`, or several of them joined by "+".

    Raises UsageError for an unknown key, or one that is named twice.
    """
    keys = name.split("+")
    for key in keys:
        one_of(what, key, METHODS)
    if len(set(keys)) < len(keys):
        raise UsageError(f"{what} {name!r} names a method twice; each can be in it once")
    return keys


def build(
    name: str, student: Forward, teacher: Forward = NOBODY, *, seed: int = 0, **options: Any
) -> Method:
    """Make a method ready for a pair of networks, from one example output of each.

    `options` are the method's own constants, for example temperature=2 for "kd"; of a combination
    such as "kd+at" a dict per key, for example at={"weight": 500}. `seed` draws the initial
    weights of its adapters. Raises UsageError for an unknown method or option, for a missing
    teacher, and where the two networks' shapes do not fit, naming layer and shapes.
    """
    keys = known(name)
    if len(keys) == 1:
        return _single(name, student, teacher, seed, options)
    for key, own in options.items():
        if key not in keys or not isinstance(own, dict):
            raise UsageError(
                f"option {key!r} of method {name!r}, given {own!r}; "
                f"allowed: a dict of options for each of {', '.join(keys)}"
            )
    return Combined(
        {key: _single(key, student, teacher, seed, options.get(key, {})) for key in keys}
    )


def _single(
    name: str, student: Forward, teacher: Forward, seed: int, options: dict[str, Any]
) -> Method:
    kind = METHODS[name]
    if kind.teacher and teacher is NOBODY:
        raise UsageError(f"method {name!r} needs a teacher, and none was given")
    declared = inspect.signature(kind.__init__).parameters.values()
    allowed = {p.name: p.default for p in declared if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in allowed:
            listed = ", ".join(allowed) or "none"
            raise UsageError(f"unknown option {option!r} of method {name!r}; known: {listed}")
        wanted = (int, float) if isinstance(allowed[option], float) else type(allowed[option])
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UsageError(
                f"option {option} of {name} is like {allowed[option]!r}, given {value!r}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(student, teacher, **options)


def needs_teacher(name: str) -> bool:
    """Whether a method looks at a teacher. Raises UsageError for an unknown method."""
    return any(METHODS[key].teacher for key in known(name))
