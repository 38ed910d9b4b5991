"""Networks made here, for images of 8 to 64 pixels. Their children are named as `LAYERS`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib import UsageError, one_of

LAYERS = ("stem", "block1", "block2", "block3", "pool", "logits")


class Network(NamedTuple):
    """A row of `NETWORKS`: how a network is made."""

    make: Callable[..., nn.Module]  # called with classes, channels, width, then these by name:
    fixed: dict[str, Any]
    options: dict[str, Any]  # what a user may choose, and the default


def _scaled(width: float, *sizes: int) -> list[int]:
    return [max(1, round(size * width)) for size in sizes]


def _conv(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)


def _conv_relu(before: int, after: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [_conv(before, after, size, stride), nn.BatchNorm2d(after), nn.ReLU()]


def _named(*blocks: nn.Module, features: int, classes: int) -> nn.Module:
    """Stem and three blocks, the mean over positions, a linear classifier."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts = (*blocks, pool, nn.Linear(features, classes))
    return nn.Sequential(OrderedDict(zip(LAYERS, parts, strict=True)))


def bottleneck(channels: Sequence[int], size: Sequence[int] | None = None) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU, through these three channels.

    With `size` (h, w) maps are averaged down to it first.
    """
    before, middle, after = channels
    steps = [nn.AdaptiveAvgPool2d(tuple(size))] if size else list[nn.Module]()
    steps += _conv_relu(before, middle, 1)
    steps += _conv_relu(middle, middle, 3)
    steps += _conv_relu(middle, after, 1)
    return nn.Sequential(*steps)


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He 2016).

    Where the shape changes, the shortcut takes every second pixel and pads new channels with
    zeros ("pad", option A), or is a 1x1 convolution with BatchNorm ("conv", option B).
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, stride=stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after), nn.BatchNorm2d(after)
        self.stride, self.extra = stride, after - before
        self.shortcut = None
        if shortcut == "conv" and (stride > 1 or self.extra):
            self.shortcut = nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            return self.relu(out + self.shortcut(x))
        x = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            x = F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return self.relu(out + x)


def resnet(
    classes: int,
    channels: int,
    width: float,
    *,
    depth: int,
    sizes: tuple[int, ...] = (16, 16, 32, 64),
    shortcut: str,
) -> nn.Module:
    """CIFAR ResNet (He 2016, section 4.2): `sizes` channels in the stem and the three blocks."""
    one_of("shortcut", shortcut, ("pad", "conv"))
    first, *after = _scaled(width, *sizes)

    def block(before: int, after: int, stride: int) -> nn.Module:
        units = [_Residual(before, after, stride, shortcut)]
        units += [_Residual(after, after, 1, shortcut) for _ in range((depth - 2) // 6 - 1)]
        return nn.Sequential(*units)

    return _named(
        nn.Sequential(*_conv_relu(channels, first)),
        block(first, after[0], 1),
        block(after[0], after[1], 2),
        block(after[1], after[2], 2),
        features=after[2],
        classes=classes,
    )


class _PreActivated(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions (Zagoruyko & Komodakis 2016).

    Where the shape changes, the first BatchNorm and ReLU are for the shortcut as well: they are
    then the last step of what comes before.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.changes = stride > 1 or before != after
        if not self.changes:
            self.bn1 = nn.BatchNorm2d(before)
        self.conv1, self.bn2 = _conv(before, after, stride=stride), nn.BatchNorm2d(after)
        self.conv2 = _conv(after, after)
        if self.changes:
            self.shortcut = _conv(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.changes else torch.relu(self.bn1(x))
        out = self.conv2(torch.relu(self.bn2(self.conv1(out))))
        return out + (self.shortcut(x) if self.changes else x)


def wrn(classes: int, channels: int, width: float, *, depth: int, widen: int) -> nn.Module:
    """Wide ResNet: blocks of 16, 32, 64 channels times `widen`, each ending in its ReLU."""
    first, *after = _scaled(width, 16, 16 * widen, 32 * widen, 64 * widen)

    def block(before: int, after: int, stride: int) -> nn.Module:
        units = [_PreActivated(before, after, stride)]
        units += [_PreActivated(after, after, 1) for _ in range((depth - 4) // 6 - 1)]
        return nn.Sequential(
            OrderedDict(units=nn.Sequential(*units), bn=nn.BatchNorm2d(after), relu=nn.ReLU())
        )

    stem: list[nn.Module] = [_conv(channels, first)]
    if first != after[0]:
        stem += [nn.BatchNorm2d(first), nn.ReLU()]
    return _named(
        nn.Sequential(*stem),
        block(first, after[0], 1),
        block(after[0], after[1], 2),
        block(after[1], after[2], 2),
        features=after[2],
        classes=classes,
    )


def vgg(classes: int, channels: int, width: float, *, repeats: tuple[int, ...]) -> nn.Module:
    """VGG with BatchNorm and one linear layer (Simonyan 2015, as Tian 2020 use it on CIFAR).

    Five stages of 64, 128, 256, 512, 512 channels with `repeats` convolutions each. The stem is
    the first; block3 the last two, which share a resolution.
    """
    before, stages = channels, []
    sizes = _scaled(width, 64, 128, 256, 512, 512)
    for size, repeat in zip(sizes, repeats, strict=True):
        steps: list[nn.Module] = []
        for _ in range(repeat):
            conv = nn.Conv2d(before, size, 3, padding=1)
            steps, before = [*steps, conv, nn.BatchNorm2d(size), nn.ReLU()], size
        stages.append(nn.Sequential(*steps))
    return _named(
        stages[0],
        nn.Sequential(nn.MaxPool2d(2), stages[1]),
        nn.Sequential(nn.MaxPool2d(2), stages[2]),
        nn.Sequential(nn.MaxPool2d(2), stages[3], stages[4]),
        features=before,
        classes=classes,
    )


class _Inverted(nn.Module):
    """Widen, convolve each channel by itself, narrow without a ReLU (Sandler 2018)."""

    def __init__(self, before: int, after: int, stride: int, expand: int):
        super().__init__()
        inside = before * expand
        self.conv = nn.Sequential(
            *_conv_relu(before, inside, 1),
            _conv(inside, inside, 3, stride, groups=inside),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            _conv(inside, after, 1),
            nn.BatchNorm2d(after),
        )
        self.same = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.same else self.conv(x)


def mobilenetv2(classes: int, channels: int, width: float) -> nn.Module:
    """MobileNetV2 of half width for 32x32 images (Sandler 2018, as Tian 2020 use it on CIFAR).

    The stem holds all layers at half resolution; then a block per halving.
    """
    before, last = max(1, round(16 * width)), max(1280, round(640 * width))

    def stage(after: int, repeat: int, stride: int, expand: int = 6) -> nn.Module:
        nonlocal before
        units = []
        for i in range(repeat):
            size = max(1, round(after * width / 2))
            units.append(_Inverted(before, size, stride if i == 0 else 1, expand))
            before = size
        return nn.Sequential(*units)

    first = nn.Sequential(*_conv_relu(channels, before, 3, 2))
    return _named(
        nn.Sequential(first, stage(16, 1, 1, expand=1), stage(24, 2, 1)),
        stage(32, 3, 2),
        nn.Sequential(stage(64, 4, 2), stage(96, 3, 1)),
        nn.Sequential(
            stage(160, 3, 2), stage(320, 1, 1), nn.Sequential(*_conv_relu(before, last, 1))
        ),
        features=last,
        classes=classes,
    )


class _Shuffled(nn.Module):
    """Half the channels stay as they are, half are convolved, then the two are shuffled (Ma 2018).

    With stride 2 all channels go both ways.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        half = after // 2
        into = before if stride > 1 else half
        self.left: nn.Module = nn.Identity()
        if stride > 1:
            depthwise = _conv(before, before, 3, stride, groups=before)
            self.left = nn.Sequential(
                depthwise, nn.BatchNorm2d(before), *_conv_relu(before, half, 1)
            )
        self.right = nn.Sequential(
            *_conv_relu(into, half, 1),
            _conv(half, half, 3, stride, groups=half),
            nn.BatchNorm2d(half),
            *_conv_relu(half, half, 1),
        )
        self.splits = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.splits else (x, x)
        both = torch.stack((self.left(left), self.right(right)), dim=2)  # (n, c, 2, h, w)
        return both.flatten(1, 2)


def shufflenetv2(classes: int, channels: int, width: float) -> nn.Module:
    """ShuffleNetV2 1x with a 1x1 stem for 32x32 images (Ma 2018, as Tian 2020 use it on CIFAR)."""
    first, last = _scaled(width, 24, 1024)
    after = [2 * half for half in _scaled(width, 58, 116, 232)]

    def stage(before: int, after: int, repeat: int) -> nn.Module:
        rest = [_Shuffled(after, after, 1) for _ in range(repeat)]
        return nn.Sequential(_Shuffled(before, after, 2), *rest)

    return _named(
        nn.Sequential(*_conv_relu(channels, first, 1)),
        stage(first, after[0], 3),
        stage(after[0], after[1], 7),
        nn.Sequential(stage(after[1], after[2], 3), *_conv_relu(after[2], last, 1)),
        features=last,
        classes=classes,
    )


class _Transformer(nn.Module):
    """Attention between positions, then two linear layers at each (Dosovitskiy 2021)."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query_key_value, self.project = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.expand, self.reduce = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Float[Tensor, "n t c"]) -> Float[Tensor, "n t c"]:
        n, t, c = x.shape
        parts = self.query_key_value(self.norm1(x)).view(n, t, 3, self.heads, c // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, t, c / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.project(attended.transpose(1, 2).reshape(n, t, c))
        return x + self.reduce(F.gelu(self.expand(self.norm2(x))))


class _Tokens(nn.Module):
    """Some `_Transformer` layers between two maps; the first block adds the positions."""

    def __init__(self, size: int, heads: int, repeat: int, first: bool, last: bool):
        super().__init__()
        self.layers = nn.Sequential(*(_Transformer(size, heads) for _ in range(repeat)))
        self.norm = nn.LayerNorm(size) if last else nn.Identity()
        self.first = first

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        tokens = x.flatten(2).transpose(1, 2)
        if self.first:
            tokens = tokens + _positions(x)
        return self.norm(self.layers(tokens)).transpose(1, 2).reshape(x.shape)


def _positions(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "t c"]:
    """Sine and cosine of both coordinates, a quarter of the channels each (Beyer 2022)."""
    _, c, h, w = x.shape
    steps = torch.arange(c // 4, device=x.device) / max(1, c // 4 - 1)
    angle = [
        torch.arange(n, device=x.device)[:, None] * 10_000.0**-steps for n in (h, w)
    ]  # (h, c / 4) and (w, c / 4)
    down, across = angle[0].repeat_interleave(w, 0), angle[1].repeat(h, 1)
    return torch.cat((down.sin(), down.cos(), across.sin(), across.cos()), dim=1).to(x.dtype)


def vit(classes: int, channels: int, width: float, *, patch: int) -> nn.Module:
    """A small vision transformer: 9 layers of 192 features, 3 heads, for images of any size.

    Dosovitskiy 2021, in the plain form of Beyer 2022: fixed positions, no class token, the mean
    over positions is classified. `patch` pixels by side become one position. Raises UsageError
    unless it is a number of pixels.
    """
    if not isinstance(patch, int) or patch < 1:
        raise UsageError(f"patch {patch!r} of vit; allowed: a whole number of pixels, 1 or more")
    size = 12 * max(1, round(16 * width))

    def block(first: bool = False, last: bool = False) -> nn.Module:
        return _Tokens(size, 3, 3, first, last)

    return _named(
        nn.Conv2d(channels, size, patch, patch),
        block(first=True),
        block(),
        block(last=True),
        features=size,
        classes=classes,
    )


_TIMES_4 = {"sizes": (32, 64, 128, 256)}
NETWORKS: dict[str, Network] = {
    **{
        f"resnet{depth}": Network(resnet, {"depth": depth}, {"shortcut": "pad"})
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": Network(resnet, {"depth": depth, **_TIMES_4}, {"shortcut": "conv"})
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"wrn-{depth}-{widen}": Network(wrn, {"depth": depth, "widen": widen}, {})
        for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2))
    },
    "vgg8": Network(vgg, {"repeats": (1, 1, 1, 1, 1)}, {}),
    "vgg11": Network(vgg, {"repeats": (1, 1, 2, 2, 2)}, {}),
    "vgg13": Network(vgg, {"repeats": (2, 2, 2, 2, 2)}, {}),
    "mobilenetv2": Network(mobilenetv2, {}, {}),
    "shufflenetv2": Network(shufflenetv2, {}, {}),
    "vit": Network(vit, {}, {"patch": 4}),
}


def initialise(network: nn.Module, seed: int) -> None:
    """Give a new network the initial weights of `seed`.

    Convolutions start as He 2015 (fan out); linear layers, and patches that do not overlap,
    uniform in +-1/sqrt(d); biases at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        patches = isinstance(module, nn.Conv2d) and module.stride[0] == module.kernel_size[0] > 1
        if isinstance(module, nn.Conv2d) and not patches:
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        else:
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
