"""Networks by name: built, restored from a record, initialised again; and refused."""

import json

import pytest
import torch

from kdlib import UsageError, models

SMALL = {"classes": 10, "channels": 1}


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn-16-2", "mobilenetv2", "vit", "mobilenet_v3_small"]
)
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


def test_a_network_of_a_callable_is_built_restored_and_reinitialised():
    own = models.build("foreign:tiny", classes=5, channels=1, size=8, wide=6, seed=1)
    assert models.architecture(own)["wide"] == 6
    assert own.logits.weight.equal(models.reinitialise(own, 1).logits.weight)
    assert not own.logits.weight.equal(models.reinitialise(own, 2).logits.weight)
    again = models.restore({"architecture": models.architecture(own)}, models.weights(own))
    assert again.stem.weight.equal(own.stem.weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet8", {"width": 0.0}, "width 0.0"),
        ("resnet9", {}, "'resnet9'.* resnet8, .*torchvision.*module:callable"),
        ("resnet8", {"shortcut": "none"}, "shortcut 'none'.* pad, conv"),
        ("resnet8", {"patch": 2}, "'patch' of resnet8.* shortcut"),
        ("vgg8", {"patch": 2}, "'patch' of vgg8"),
        ("mobilenet_v3_small", {"width": 0.5}, "width 0.5 of mobilenet_v3_small.* 1.0"),
        ("mobilenet_v3_small", {"wide": 2}, "mobilenet_v3_small.*'wide'"),
        ("mobilenet_v3_small", {"small": "yes"}, "'yes' of mobilenet_v3_small.* False, True"),
        ("maxvit_t", {}, "maxvit_t.* 7"),
        ("alexnet", {}, r"'alexnet'.*\(3, 32, 32\).* too small"),
        ("nowhere:net", {}, "'nowhere:net'.*'nowhere'"),
        ("foreign:net", {}, "'foreign:net'.*'net'"),
        ("foreign:tiny", {"deep": 2}, "'foreign:tiny'.*classes=10, .*'deep'"),
        ("foreign:no_network", {}, "'foreign:no_network'.* int"),
        ("foreign:one_too_many", {}, r"\(2, 11\).*\(2, 10\)"),
        ("foreign:nameless", {}, "stem.*layer_paths"),
        ("foreign:astray", {}, "block2 'layers.7'.*layer_paths"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_line(name, options, message):
    with torch.device("meta"), pytest.raises(UsageError, match=message) as raised:
        models.build(name, classes=10, **options)
    assert "\n" not in str(raised.value)


def test_weights_come_back_bit_for_bit_and_foreign_ones_are_refused():
    network = models.build("resnet8", **SMALL, seed=3)
    record = {"architecture": models.architecture(network)}
    again = models.restore(record, models.weights(network))
    assert all(a.equal(b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    with pytest.raises(UsageError, match=r"resnet8: \d+ .*stem.0.weight.*16.*8"):
        models.restore(record, models.weights(models.build("resnet8", **SMALL, width=0.5)))
    with pytest.raises(UsageError, match="record"):
        models.restore({}, models.weights(network))


def grafted(seed=5, size=None, bias=True):
    """A small student, and the network made of it and the sizes of a larger teacher."""
    student = models.build("resnet8", **SMALL, width=0.5, seed=seed)
    sizes = {"channels": (32, 20, 64), "classes": 10, "size": size, "bias": bias}
    return student, models.Grafted(student, **sizes, seed=seed)


def test_a_grafted_student_has_another_classifier_and_names_its_layers_alike():
    student, network = grafted()
    student.eval(), network.eval()
    x = torch.rand(3, 1, 8, 8)
    forward, own = models.observe(network, x), models.observe(student, x)
    assert tuple(forward.features) == models.LAYERS
    assert all(forward.features[name].equal(own.features[name]) for name in models.LAYERS[:4])
    pooled = network.projector(own.features["block3"]).mean((2, 3))
    torch.testing.assert_close(forward.features["pool"], pooled)
    torch.testing.assert_close(forward.logits, network.head(pooled))
    without_head = models.count(student) - models.count(student.logits)
    projector = 32 * 20 + 9 * 20 * 20 + 20 * 64 + 2 * (20 + 20 + 64)
    assert models.count(network) == without_head + projector + 65 * 10
    assert not student(x).equal(own.features["pool"]), "the student itself keeps its classifier"


@pytest.mark.parametrize("sizes", [{}, {"size": (1, 1), "bias": False}])
def test_a_grafted_student_comes_back_from_its_record(sizes):
    network = grafted(**sizes)[1].train()
    network(torch.rand(4, 1, 8, 8))
    record = json.loads(json.dumps({"architecture": models.architecture(network)}))
    again = models.restore(record, models.weights(network))
    x = torch.rand(2, 1, 8, 8)
    assert again(x).equal(network.eval()(x))


@pytest.mark.parametrize("graft", [False, True])
def test_reinitialised_networks_are_what_the_seed_makes(graft):
    def make(seed):
        return grafted(seed)[1] if graft else models.build("resnet8", **SMALL, seed=seed)

    network = make(1).train()
    network(torch.rand(4, 1, 8, 8) + 3)
    state, before = torch.get_rng_state(), models.weights(network)
    again = models.reinitialise(network, 2).state_dict()
    assert torch.get_rng_state().equal(state)
    fresh = make(2).state_dict()
    assert list(again) == list(fresh)
    assert all(again[name].equal(value) for name, value in fresh.items())
    assert any(not value.equal(network.state_dict()[name]) for name, value in again.items())
    after = models.weights(network)
    assert all((before[name] == after[name]).all() for name in before), "the original is unchanged"


def test_a_network_of_unknown_making_cannot_be_reinitialised():
    with pytest.raises(UsageError, match="Linear"):
        models.reinitialise(torch.nn.Linear(2, 2), 0)
