"""torchvision's networks by name."""

import pytest
import torch

from kdlib import UsageError, models
from kdlib.models import torchvision

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


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_has_its_published_size_and_all_layers(name):
    with torch.device("meta"):  # shapes only: nothing is computed
        network = models.build(name, classes=1000, size=224)
        forward = models.observe(network.eval(), torch.zeros(2, 3, 224, 224))
        sum(x.square().sum() for x in forward.features.values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert models.count(network) == TORCHVISION[name]
    assert set(forward.features) == set(models.LAYERS)
    maps = [forward.features[layer] for layer in ("stem", "block1", "block2", "block3")]
    assert all(x.ndim == 4 and x.shape[2] == x.shape[3] for x in maps)
    assert [x.shape[2] for x in maps] == sorted((x.shape[2] for x in maps), reverse=True)
    assert forward.features["pool"].ndim == 2
    assert forward.features["logits"].shape == (2, 1000)


def test_every_classifier_belongs_to_a_family():
    for name in torchvision.names():
        assert set(torchvision.family(name).paths()) == set(models.LAYERS)
    with pytest.raises(UsageError, match="perceiver"):
        torchvision.family("perceiver")


def test_a_small_stem_keeps_the_resolution_and_grey_images_have_one_channel():
    x = torch.zeros(2, 1, 32, 32)
    sizes = {"classes": 10, "channels": 1}
    sides = {}
    for small in (False, True, "pooled"):
        network = models.build("resnet18", **sizes, small=small).eval()
        maps = models.observe(network, x).features
        sides[small] = [maps[layer].shape[2] for layer in ("stem", "block3")]
    assert sides == {False: [8, 1], True: [32, 4], "pooled": [16, 2]}
    assert models.architecture(network)["small"] == "pooled"
    features = models.observe(models.build("mobilenet_v2", **sizes, small=True).eval(), x).features
    assert features["block3"].shape == (2, 1280, 4, 4)
    with torch.device("meta"):
        assert models.count(models.build("vgg11_bn", classes=10, small=True)) == 9_756_426
