"""The layers of any network, by name: where they are and what they compute."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from kdlib import UsageError, models
from kdlib.models import before_relu

SMALL = {"classes": 10, "channels": 1}


def test_a_layer_before_its_last_relu_is_the_input_of_that_relu():
    network, x = models.build("resnet14", **SMALL), torch.rand(3, 1, 8, 8)
    names = ("stem", before_relu("stem"), before_relu("block2"), "block2")
    features = models.observe(network, x, names).features
    for layer in ("stem", "block2"):
        assert features[before_relu(layer)].min() < 0
        assert features[before_relu(layer)].relu().equal(features[layer])
    steps = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True))
    foreign = torch.nn.Sequential(OrderedDict(first=steps))
    (raw,) = models.observe(foreign, x - 0.5, [before_relu("first")]).features.values()
    assert raw.equal(x - 0.5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet8", "pool"), ("resnet8", "x"), ("mobilenetv2", "block1"), ("vit", "block1")],
)
def test_a_layer_that_does_not_end_in_a_relu_is_refused(name, layer):
    with pytest.raises(UsageError, match=layer):
        models.observe(models.build(name, **SMALL), torch.rand(2, 1, 8, 8), [before_relu(layer)])


def test_the_last_relu_of_a_pre_activated_block_is_its_own():
    network = models.build("wrn-16-2", **SMALL)
    features = models.observe(
        network, torch.rand(2, 1, 8, 8), (before_relu("block1"), "block1")
    ).features
    assert features[before_relu("block1")].relu().equal(features["block1"])


def test_an_unknown_layer_is_refused_before_anything_is_computed():
    network = models.build("resnet8", **SMALL).train()
    with pytest.raises(UsageError, match=r"'block9'.*stem, block1"):
        models.observe(network, torch.rand(2, 1, 8, 8), ["stem", "block9"])
    assert network.stem[1].num_batches_tracked == 0
    assert not any(m._forward_hooks for m in network.modules())


def test_layers_are_the_children_of_a_network_or_where_its_layer_paths_say():
    assert models.layers(models.build("resnet8", **SMALL)) == {
        name: models.LayerPath(name) for name in models.LAYERS
    }
    network = models.build("foreign:Patches", classes=5, channels=1, size=8)
    assert models.layers(network)["block1"] == models.LayerPath("layers.0")
    assert models.layers(network)["pool"] == models.LayerPath("head", at="input")
    assert models.part(network, "pool") is network.head


def test_observing_leaves_no_hooks_and_changes_nothing():
    network, x = models.build("resnet8", **SMALL).eval(), torch.rand(2, 1, 8, 8)
    assert models.observe(network, x).logits.equal(network(x))
    assert not any(m._forward_hooks for m in network.modules())


def test_batchnorm_moves_once_per_step():
    network = models.build("resnet8", **SMALL).train()
    models.observe(network, torch.rand(4, 1, 8, 8))
    assert {
        int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")
    } == {1}


def test_tokens_become_a_map_without_the_class_token():
    network = models.build("foreign:Patches", classes=5, channels=1, size=8).eval()
    x = torch.rand(3, 1, 8, 8)
    features = models.observe(network, x).features
    assert features["block1"].shape == (3, 8, 2, 2)
    outputs = []
    handle = network.layers[0].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    network(x)
    handle.remove()
    (tokens,) = outputs
    for i in range(4):
        assert features["block1"][:, :, i // 2, i % 2].equal(tokens[:, 1 + i])
    assert features["block3"].equal(features["block1"])
    assert features["pool"].equal(tokens[:, 0])
    assert features["logits"].equal(network.head(features["pool"]))


def trained(name, **options):
    """A network whose BatchNorms change what they get, as after a training."""
    network = models.build(name, classes=10, channels=3, seed=0, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for what, low, high in (("running_mean", -1, 1), ("running_var", 0.5, 2)):
                getattr(module, what).uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("resnet20", {}, 0),
        ("resnet8", {"shortcut": "conv"}, 0),
        ("wrn-16-1", {}, 13),  # not folded: shortcuts take what convolutions give
        ("mobilenetv2", {}, 0),
        ("vit", {}, 0),
        ("resnet18", {"size": 64}, 0),  # torchvision's
    ],
)
def test_a_low_precision_copy_has_the_same_features_in_every_layer(name, options, left):
    network, x = trained(name, **options), torch.randn(4, 3, 32, 32)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    lighter = models.low_precision_copy(network, x[:2])
    assert norms(lighter) == left
    for key, value in network.state_dict().items():
        assert (value == before[key]).all()
    with torch.no_grad():
        expected = models.observe(network, x)
        with torch.autocast("cpu", torch.bfloat16):
            got = models.observe(lighter, x)
    assert list(got.features) == list(expected.features)
    for layer, features in expected.features.items():
        assert float((got.features[layer] - features).abs().max()) < 0.04 * float(
            features.abs().max()
        )


def test_nothing_is_folded_where_a_layer_is_the_output_of_the_convolution():
    network = trained("resnet20")
    paths = {name: name for name in models.LAYERS}
    network.layer_paths = {**paths, "stem": "stem.0"}
    x = torch.randn(4, 3, 32, 32)
    lighter = models.low_precision_copy(network, x)
    assert norms(lighter) == norms(network) == 19
    with torch.no_grad():
        expected = models.observe(network, x, ["stem"]).features["stem"]
        with torch.autocast("cpu", torch.bfloat16):
            got = models.observe(lighter, x, ["stem"]).features["stem"]
    assert float((got - expected).abs().max()) < 0.02 * float(expected.abs().max())
