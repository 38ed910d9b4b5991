"""Networks made here: their sizes, their layers, their initial weights."""

import pytest
import torch

from kdlib import models

SMALL = {"classes": 10, "channels": 1}
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_of_the_benchmark(name):
    assert models.count(models.build(name, classes=100)) == PUBLISHED[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_cifar_resnets_have_the_size_of_the_papers_table(name):
    count = models.count(models.build(name, classes=10)) / 1e6
    assert count == pytest.approx(MILLIONS[name], abs=0.006 if MILLIONS[name] < 1 else 0.06)


def test_published_parameter_counts():
    counts = {"resnet20": 269_722, "resnet32": 464_154, "resnet56": 853_018, "resnet110": 1_727_962}
    for name, count in counts.items():
        assert models.count(models.build(name, classes=10)) == count


def test_both_published_shortcuts():
    build = models.build
    assert models.count(build("resnet20", classes=10)) == 269_722
    assert models.count(build("resnet20", classes=100, shortcut="conv")) == 278_324
    assert models.count(build("resnet8x4", classes=100, shortcut="pad")) < PUBLISHED["resnet8x4"]


def test_the_default_student_is_at_least_ten_times_smaller():
    teacher, student = (
        models.build("resnet20", **SMALL),
        models.build("resnet8", **SMALL, width=0.5),
    )
    assert models.count(teacher) > 10 * models.count(student)


def test_layers_are_named_alike_and_in_order():
    forward = models.observe(models.build("resnet8", **SMALL), torch.rand(3, 1, 8, 8))
    shapes = {name: tuple(x.shape[1:]) for name, x in forward.features.items()}
    assert list(shapes) == list(models.LAYERS)
    assert shapes["block2"] == (32, 4, 4)
    assert shapes["pool"] == (64,)
    assert forward.features["logits"] is forward.logits


@pytest.mark.parametrize("name", models.NETWORKS)
def test_laws_of_networks_made_here(name):
    network = models.build(name, classes=3, channels=1, width=0.25, seed=4)
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    models.observe(network, x).logits.square().sum().backward()
    steps = {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")}
    assert steps <= {1}, "BatchNorm moves once per step"
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    forward = models.observe(network.eval(), x)
    assert tuple(forward.features) == models.LAYERS
    torch.testing.assert_close(forward.features["pool"], forward.features["block3"].mean((2, 3)))
    torch.testing.assert_close(network.logits(forward.features["pool"]), forward.logits)
    assert not forward.logits[0].equal(forward.logits[1]), "images have logits of their own"


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_a_width_is_seeded_and_scales_all_channels(width):
    def one(name):
        return models.build(name, classes=10, width=width, seed=3)

    for name, channels in (("resnet8", 64), ("vgg8", 512), ("vit", 192), ("wrn-16-1", 64)):
        assert one(name).logits.in_features == channels * width
        assert one(name).logits.weight.equal(one(name).logits.weight)
