import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from kdlib import UsageError, models

SMALL = {"classes": 10, "channels": 1}


def test_published_parameter_counts():
    counts = {"resnet20": 269_722, "resnet32": 464_154, "resnet56": 853_018, "resnet110": 1_727_962}
    for name, count in counts.items():
        assert models.count(models.build(name, classes=10)) == count


def test_the_default_student_is_at_least_ten_times_smaller():
    teacher, student = (
        models.build("resnet20", **SMALL),
        models.build("resnet8", **SMALL, width=0.5),
    )
    assert models.count(teacher) > 10 * models.count(student)


def test_layers_are_named_alike_and_in_order():
    seen = models.observe(models.build("resnet8", **SMALL), torch.rand(3, 1, 8, 8))
    shapes = {name: tuple(x.shape[1:]) for name, x in seen.features.items()}
    assert list(shapes) == list(models.LAYERS)
    assert shapes["block2"] == (32, 4, 4)
    assert shapes["pool"] == (64,)
    assert seen.features["logits"] is seen.logits


def test_raw_is_what_the_last_relu_of_a_layer_is_given():
    network, x = models.build("resnet14", **SMALL), torch.rand(3, 1, 8, 8)
    seen = models.observe(network, x, ("stem", "stem.raw", "block2.raw", "block2")).features
    for layer in ("stem", "block2"):
        assert seen[f"{layer}.raw"].min() < 0
        assert seen[f"{layer}.raw"].relu().equal(seen[layer])
    steps = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True))
    foreign = torch.nn.Sequential(OrderedDict(first=steps))
    assert models.observe(foreign, x - 0.5, ("first.raw",)).features["first.raw"].equal(x - 0.5)
    for layer, said in (("pool.raw", "layer pool of this network has no ReLU"), ("x.raw", "'x'")):
        with pytest.raises(UsageError, match=said):
            models.observe(network, x, (layer,))


def test_pool_is_the_mean_of_block3():
    seen = models.observe(models.build("resnet8", **SMALL).eval(), torch.rand(3, 1, 8, 8)).features
    torch.testing.assert_close(seen["pool"], seen["block3"].mean((2, 3)))


def test_the_seed_makes_the_weights_whatever_else_is_drawn():
    def one(seed):
        torch.rand(7)
        return torch.cat(
            [p.flatten() for p in models.build("resnet8", **SMALL, seed=seed).parameters()]
        )

    before = torch.get_rng_state()
    assert models.build("resnet8", **SMALL)
    assert torch.get_rng_state().equal(before)
    assert one(1).equal(one(1))
    assert not one(1).equal(one(2))


def test_watching_leaves_no_hooks_and_changes_nothing():
    network, x = models.build("resnet8", **SMALL).eval(), torch.rand(2, 1, 8, 8)
    assert models.observe(network, x).logits.equal(network(x))
    assert not any(m._forward_hooks for m in network.modules())


def test_batchnorm_moves_once_per_step():
    network = models.build("resnet8", **SMALL).train()
    models.observe(network, torch.rand(4, 1, 8, 8))
    assert {
        int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "running_mean")
    } == {1}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: models.build("resnet9", **SMALL), "unknown network 'resnet9'; one of: resnet8"),
        (
            lambda: models.build("resnet8", **SMALL, width=0.0),
            "width 0.0; allowed: a number above 0",
        ),
        (
            lambda: models.observe(
                models.build("resnet8", **SMALL), torch.rand(1, 1, 8, 8), ["block9"]
            ),
            "unknown layer 'block9'; one of: stem, block1",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(asked, said):
    with pytest.raises(UsageError, match=said):
        asked()


def test_weights_come_back_bit_for_bit_and_foreign_ones_are_refused():
    network = models.build("resnet8", **SMALL, seed=3)
    record = {"architecture": models.architecture(network)}
    again = models.restore(record, models.weights(network))
    assert all(a.equal(b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    with pytest.raises(
        UsageError, match=r"weights do not fit resnet8: \d+ differ; stem.0.weight: wanted"
    ):
        models.restore(record, models.weights(models.build("resnet8", **SMALL, width=0.5)))
    with pytest.raises(UsageError, match=r"the record of this run does not say how its network"):
        models.restore({}, models.weights(network))


def grafted(seed=5):
    """A small student with a projector and the head of a larger teacher."""
    student, teacher = (models.build("resnet8", **SMALL, width=w, seed=seed) for w in (0.5, 1.0))
    projector = torch.nn.Sequential(
        torch.nn.Conv2d(32, 64, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
    )
    return student, projector, teacher.logits


def test_a_grafted_student_answers_with_its_teachers_head_and_names_its_layers_alike():
    student, projector, head = (part.eval() for part in grafted())
    network, x = models.Grafted(student, projector, head).eval(), torch.rand(3, 1, 8, 8)
    seen, own = models.observe(network, x), models.observe(student, x)
    assert tuple(seen.features) == models.LAYERS
    assert all(seen.features[layer].equal(own.features[layer]) for layer in models.LAYERS[:4])
    pooled = projector(own.features["block3"]).mean((2, 3))
    torch.testing.assert_close(seen.features["pool"], pooled)
    torch.testing.assert_close(seen.logits, head(pooled))
    baseline = models.count(student) - models.count(student.logits)
    assert models.count(network) == baseline + models.count(projector) + models.count(head)
    assert not student(x).equal(own.features["pool"]), "the student itself keeps its classifier"


def test_a_grafted_student_comes_back_from_its_record():
    network = models.Grafted(*grafted()).train()
    network(torch.rand(4, 1, 8, 8))
    record = json.loads(json.dumps({"architecture": models.architecture(network)}))
    again = models.restore(record, models.weights(network))
    x = torch.rand(2, 1, 8, 8)
    assert again(x).equal(network.eval()(x))
    odd = models.Grafted(grafted()[0], torch.nn.Dropout(), torch.nn.Linear(32, 10))
    with pytest.raises(UsageError, match=r"unknown part of a projector or head 'Dropout'; one of"):
        models.architecture(odd)


@pytest.mark.parametrize("graft", [False, True])
def test_redrawn_is_what_the_seed_would_have_made(graft):
    def make(seed):
        return (
            models.Grafted(*grafted(seed)) if graft else models.build("resnet8", **SMALL, seed=seed)
        )

    network = make(1).train()
    network(torch.rand(4, 1, 8, 8) + 3)
    before, kept = torch.get_rng_state(), models.weights(network)
    once, twice, other = (models.reinitialised(network, seed).state_dict() for seed in (2, 2, 3))
    assert torch.get_rng_state().equal(before)
    assert all(value.equal(twice[name]) for name, value in once.items())
    assert any(not value.equal(other[name]) for name, value in once.items())
    student = {name: value for name, value in make(2).state_dict().items() if "stem" in name}
    assert all(once[name].equal(value) for name, value in student.items())
    now = models.weights(network)
    assert all((kept[name] == now[name]).all() for name in kept), "the original stays as it was"


def test_a_network_of_unknown_making_cannot_be_redrawn():
    with pytest.raises(UsageError, match=r"Linear has no record of how it was built; use build"):
        models.reinitialised(torch.nn.Linear(2, 2), 0)


def unsettled(name, **options):
    """A network whose BatchNorms do something."""
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
def test_a_folded_network_says_the_same_in_every_layer(name, options, left):
    network, x = unsettled(name, **options), torch.randn(4, 3, 32, 32)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    low_precision_copy = models.low_precision_copy(network, x[:2])
    assert norms(low_precision_copy) == left
    for key, value in network.state_dict().items():
        assert (value == before[key]).all()
    with torch.no_grad():
        wanted = models.observe(network, x)
        with torch.autocast("cpu", torch.bfloat16):
            found = models.observe(low_precision_copy, x)
    assert list(found.features) == list(wanted.features)
    for layer, seen in wanted.features.items():
        assert float((found.features[layer] - seen).abs().max()) < 0.04 * float(seen.abs().max())


def test_nothing_is_folded_where_a_layer_is_what_the_convolution_gives():
    network = unsettled("resnet20")
    paths = {name: name for name in models.LAYERS}
    network.layer_paths = {**paths, "stem": "stem.0"}
    x = torch.randn(4, 3, 32, 32)
    low_precision_copy = models.low_precision_copy(network, x)
    assert norms(low_precision_copy) == norms(network) == 19
    with torch.no_grad():
        wanted = models.observe(network, x, ["stem"]).features["stem"]
        with torch.autocast("cpu", torch.bfloat16):
            found = models.observe(low_precision_copy, x, ["stem"]).features["stem"]
    assert float((found - wanted).abs().max()) < 0.02 * float(wanted.abs().max())
