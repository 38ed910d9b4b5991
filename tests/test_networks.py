"""The zoo: networks made here, torchvision's by name, and anybody's by module:callable."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from kdlib import UsageError, features, models, vision

PUBLISHED = {  # with 100 classes: Tian 2020 (benchmark) and its code
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenetv2": 812_836,
    "shufflenetv2": 1_355_528,
}
MILLIONS = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
}
TORCHVISION = {  # with 1000 classes and images of 224 pixels: torchvision's table of weights
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "convnext_tiny": 28_589_128,
    "vit_b_16": 86_567_656,
    "swin_t": 28_288_354,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "mobilenet_v3_small": 2_542_856,
    "vgg11_bn": 132_868_840,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2_x0_5": 1_366_792,
    "mnasnet0_5": 2_218_512,
    "mobilenet_v2": 3_504_872,
    "maxvit_t": 30_919_624,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_of_the_benchmark(name):
    assert models.count(models.build(name, classes=100)) == PUBLISHED[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_cifar_resnets_have_the_size_of_the_papers_table(name):
    count = models.count(models.build(name, classes=10)) / 1e6
    assert count == pytest.approx(MILLIONS[name], abs=0.006 if MILLIONS[name] < 1 else 0.06)


def test_both_published_shortcuts():
    build = models.build
    assert models.count(build("resnet20", classes=10)) == 269_722
    assert models.count(build("resnet20", classes=100, shortcut="conv")) == 278_324
    assert models.count(build("resnet8x4", classes=100, shortcut="pad")) < PUBLISHED["resnet8x4"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_have_their_size_and_speak_our_layers(name):
    with torch.device("meta"):  # shapes only: nothing is computed
        network = models.build(name, classes=1000, size=224)
        seen = models.observe(network.eval(), torch.zeros(2, 3, 224, 224))
        sum(x.square().sum() for x in seen.features.values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert models.count(network) == TORCHVISION[name]
    assert set(seen.features) == set(models.LAYERS)
    maps = [seen.features[layer] for layer in ("stem", "block1", "block2", "block3")]
    assert all(x.ndim == 4 and x.shape[2] == x.shape[3] for x in maps)
    assert [x.shape[2] for x in maps] == sorted((x.shape[2] for x in maps), reverse=True)
    assert seen.features["pool"].ndim == 2
    assert seen.features["logits"].shape == (2, 1000)


def test_every_classifier_of_torchvision_belongs_to_a_family():
    for name in vision.names():
        assert set(vision.family(name).paths()) == set(models.LAYERS)
    with pytest.raises(UsageError, match="torchvision's perceiver: where its layers are is not"):
        vision.family("perceiver")


@pytest.mark.parametrize("name", models.NETWORKS)
def test_laws_of_networks_made_here(name):
    network = models.build(name, classes=3, channels=1, width=0.25, seed=4)
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    models.observe(network, x).logits.square().sum().backward()
    steps = {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")}
    assert steps <= {1}, "BatchNorm moves once per step"
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    seen = models.observe(network.eval(), x)
    assert tuple(seen.features) == models.LAYERS
    torch.testing.assert_close(seen.features["pool"], seen.features["block3"].mean((2, 3)))
    torch.testing.assert_close(network.logits(seen.features["pool"]), seen.logits)
    assert not seen.logits[0].equal(seen.logits[1]), "images are told apart"


@pytest.mark.parametrize("name", ["wrn-16-2", "mobilenetv2", "vit", "mobilenet_v3_small"])
def test_the_seed_makes_the_weights_of_any_network(name):
    def one(seed):
        torch.rand(7)
        return models.build(name, classes=10, channels=1, seed=seed).state_dict()

    before = torch.get_rng_state()
    models.build(name, classes=10)
    assert torch.get_rng_state().equal(before)
    first, again, other = one(1), one(1), one(2)
    assert all(first[key].equal(again[key]) for key in first)
    assert any(not first[key].equal(other[key]) for key in first)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_a_width_is_seeded_and_scales_all_channels(width):
    def one(name):
        return models.build(name, classes=10, width=width, seed=3)

    for name, channels in (("resnet8", 64), ("vgg8", 512), ("vit", 192), ("wrn-16-1", 64)):
        assert one(name).logits.in_features == channels * width
        assert one(name).logits.weight.equal(one(name).logits.weight)


def test_a_small_stem_keeps_the_resolution_and_grey_images_have_one_channel():
    x = torch.zeros(2, 1, 32, 32)
    told = {"classes": 10, "channels": 1}
    sides = {}
    for small in (False, True, "pooled"):
        network = models.build("resnet18", **told, small=small).eval()
        maps = models.observe(network, x).features
        sides[small] = [maps[layer].shape[2] for layer in ("stem", "block3")]
    assert sides == {False: [8, 1], True: [32, 4], "pooled": [16, 2]}
    assert models.architecture(network)["small"] == "pooled"
    seen = models.observe(models.build("mobilenet_v2", **told, small=True).eval(), x)
    assert seen.features["block3"].shape == (2, 1280, 4, 4)
    with torch.device("meta"):
        assert models.count(models.build("vgg11_bn", classes=10, small=True)) == 9_756_426


class Patches(nn.Module):
    """A transformer of one layer with a class token, by its own names."""

    def __init__(self, classes, channels):
        super().__init__()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
        self.cut = nn.Conv2d(channels, 8, 4, 4)
        self.last = nn.Identity()  # channels last
        self.head = nn.Linear(8, classes)
        self.layer_paths = {
            "stem": "cut",
            "block1": "layers.0",
            "block2": "layers.0",
            "block3": "last:last",
            "pool": "head:in",
            "logits": "head",
        }

    def forward(self, x):
        tokens = self.cut(x).flatten(2).mT
        tokens = self.layers[0](torch.cat((tokens.new_ones(len(x), 1, 8), tokens), 1))
        self.last(tokens[:, 1:].unflatten(1, (2, 2)))
        return self.head(tokens[:, 0])


def tiny(classes, channels, wide=4):
    """A network that names its children as we do."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blocks = {f"block{i}": nn.Conv2d(wide, wide, 1) for i in (1, 2, 3)}
    stem, logits = nn.Conv2d(channels, wide, 3), nn.Linear(wide, classes)
    return nn.Sequential(OrderedDict(stem=stem, **blocks, pool=pool, logits=logits))


def nameless(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def astray(classes, channels):
    network = Patches(classes, channels)
    network.layer_paths["block2"] = "layers.7"
    return network


def one_too_many(classes, channels):
    return tiny(classes + 1, channels)


def no_network(classes, channels):
    return classes


def test_anybodys_network_speaks_our_layers():
    own = models.build("test_networks:tiny", classes=5, channels=1, size=8, wide=6, seed=1)
    assert models.architecture(own)["wide"] == 6
    assert own.logits.weight.equal(models.reinitialised(own, 1).logits.weight)
    assert not own.logits.weight.equal(models.reinitialised(own, 2).logits.weight)
    again = models.restore({"architecture": models.architecture(own)}, models.weights(own))
    assert again.stem.weight.equal(own.stem.weight)


def test_tokens_become_a_map_without_the_class_token():
    network = models.build("test_networks:Patches", classes=5, channels=1, size=8).eval()
    x = torch.rand(3, 1, 8, 8)
    seen = models.observe(network, x).features
    assert seen["block1"].shape == (3, 8, 2, 2)
    kept = []
    handle = network.layers[0].register_forward_hook(lambda _m, _i, output: kept.append(output))
    network(x)
    handle.remove()
    for at in range(4):
        assert seen["block1"][:, :, at // 2, at % 2].equal(kept[0][:, 1 + at])
    assert seen["block3"].equal(seen["block1"])
    assert seen["pool"].equal(kept[0][:, 0])
    assert seen["logits"].equal(network.head(seen["pool"]))


@pytest.mark.parametrize("name", ["vit", "shufflenetv2", "test_networks:Patches"])
def test_features_of_any_network_are_one_number_per_channel(name):
    network = models.build(name, classes=5, channels=1, size=8)
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    told = {"mean": 0.3, "std": 0.4}
    whole = features.extract(network, images, **told)
    parts = features.extract(network, images, batch_size=3, **told)
    assert list(whole) == list(models.LAYERS)
    seen = models.observe(network.eval(), (images / 255 - 0.3) / 0.4).features
    for layer, x in whole.items():
        assert x.shape == seen[layer].shape[:2]
        torch.testing.assert_close(x, parts[layer])
    torch.testing.assert_close(whole["block2"], seen["block2"].mean((2, 3)).detach())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet9", {}, r"unknown network 'resnet9'; one of: resnet8, .*; or of torchvision"),
        ("resnet8", {"shortcut": "none"}, "unknown shortcut 'none'; one of: pad, conv"),
        ("resnet8", {"patch": 2}, "unknown option 'patch' of resnet8; allowed: shortcut"),
        ("vgg8", {"patch": 2}, "unknown option 'patch' of vgg8; allowed: none"),
        ("mobilenet_v3_small", {"width": 0.5}, "width 0.5 of mobilenet_v3_small; allowed: 1.0"),
        ("mobilenet_v3_small", {"wide": 2}, "torchvision's mobilenet_v3_small: .*'wide'"),
        (
            "mobilenet_v3_small",
            {"small": "yes"},
            "small .yes. of mobilenet_v3_small; allowed: False, True",
        ),
        ("maxvit_t", {}, "torchvision's maxvit_t: .* not divisible by partition size 7"),
        ("alexnet", {}, r"network 'alexnet': cannot take an image of \(3, 32, 32\): .* too small"),
        ("nowhere:net", {}, "network 'nowhere:net': no module 'nowhere' on Python's path"),
        ("test_networks:net", {}, "network 'test_networks:net': test_networks has no 'net'"),
        ("test_networks:tiny", {"deep": 2}, r"cannot be called with classes=10, .*'deep'"),
        ("test_networks:no_network", {}, "gives a int, not a torch Module"),
        ("test_networks:one_too_many", {}, r"gives \(2, 11\); wanted \(2, 10\)"),
        ("test_networks:nameless", {}, "layer stem is missing; its layer_paths must say where"),
        ("test_networks:astray", {}, "layer block2 'layers.7' is no module of it; its layer_paths"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name, options, said):
    with torch.device("meta"), pytest.raises(UsageError, match=said) as raised:
        models.build(name, classes=10, **options)
    assert "\n" not in str(raised.value)


def test_raw_outputs_exist_only_where_a_layer_ends_in_a_relu():
    x = torch.rand(2, 3, 16, 16)
    wide = models.build("wrn-16-2", classes=10)
    seen = models.observe(wide, x, ("block1.raw", "block1")).features
    assert seen["block1.raw"].relu().equal(seen["block1"])
    for name, said in (("mobilenetv2", "does not end in a ReLU"), ("vit", "has no ReLU")):
        with pytest.raises(UsageError, match=f"layer block1 of this network {said}"):
            models.observe(models.build(name, classes=10), x, ("block1.raw",))
