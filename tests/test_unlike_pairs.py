"""Feature and relation methods on pairs of unlike networks: what runs, and what is refused."""

import inspect

import pytest
import torch

from kdlib import UsageError, distill, models
from kdlib.data import Batch
from kdlib.distill.method import CLASSES, pooled
from kdlib.models import Forward
from kdlib.plan import runs
from kdlib.plan.methods import METHODS

POOLING = ("at", "ft", "nst", "vid")
COMPARED = [k for k, facts in METHODS.items() if facts.family in ("features", "relations")]
RELATIONS = [k for k in COMPARED if METHODS[k].family == "relations"]
PAIRS = {  # teacher, student, on images of 16 x 16 pixels
    "equal": ("resnet14", "resnet8"),
    "smaller": ("vgg8", "resnet8"),  # the teacher's maps
    "larger": ("resnet14", "vgg8"),
    "tokens": ("vit", "resnet8"),
    "family": ("resnet14", "mobilenetv2"),  # one pixel at block3
}
SIZE = "needs maps of equal height and width at block"
CHANNELS = "needs equal channels at stem"
# What each method does with unlike maps: None: it runs; pool_maps: with that option; else refused.
UNLIKE = {
    **dict.fromkeys([*RELATIONS, "simkd"], None),
    **dict.fromkeys(POOLING, "pool_maps"),
    **dict.fromkeys(["fitnet", "ab", "ofd", "reviewkd"], SIZE),
    "fsp": CHANNELS,
}
OTHERWISE = {("ft", "tokens"): None}  # block3 is of equal size


def outcome(key, pair):
    return None if pair == "equal" else OTHERWISE.get((key, pair), UNLIKE[key])


@pytest.fixture(scope="module")
def outputs():
    """Of each pair: the student's and the teacher's outputs for 4 images."""
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for pair, names in PAIRS.items():
        raw = [models.before_relu(f"block{i}") for i in (1, 2, 3)] if pair == "equal" else []
        found[pair] = [
            models.observe(models.build(name, classes=4, size=16), x, (*models.LAYERS, *raw))
            for name in reversed(names)
        ]
    return found


def built(key, pair, outputs, **options):
    student, teacher = outputs[pair]
    method = distill.build(key, student, teacher, **options)
    method.setup(4, models.build(PAIRS[pair][1], classes=4, size=16))
    return method


def losses(method, student, teacher):
    """All terms of both stages."""
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.arange(2), torch.arange(4))
    return method.warm_up(student, teacher, batch) | method(student, teacher, batch)


def test_every_method_that_compares_features_is_in_the_table():
    assert set(UNLIKE) == set(COMPARED)
    signatures = {key: inspect.signature(cls.__init__) for key, cls in CLASSES.items()}
    with_option = {key for key, own in signatures.items() if "pool_maps" in own.parameters}
    assert with_option == set(POOLING)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("key", COMPARED)
def test_a_method_runs_on_a_pair_or_with_an_option_or_is_refused_in_a_line(key, pair, outputs):
    wanted, options = outcome(key, pair), {}
    if wanted is not None:
        with pytest.raises(UsageError) as error:
            built(key, pair, outputs)
        line = str(error.value)
        assert line.startswith(f"{key} {CHANNELS if key == 'fsp' else SIZE}")
        assert "\n" not in line
        assert ("pool_maps: true" in line) == (wanted == "pool_maps")
        if wanted != "pool_maps":
            return
        options = {"pool_maps": True}
    if (key, pair) == ("at", "family"):
        with pytest.raises(UsageError, match=r"more than one pixel at block3; student \(1280, 1"):
            built(key, pair, outputs, **options)
        return
    student, teacher = outputs[pair]
    features = {k: v.detach().requires_grad_() for k, v in student.features.items()}
    student = Forward(student.logits.detach().requires_grad_(), features)
    teacher = Forward(teacher.logits.detach(), {k: v.detach() for k, v in teacher.features.items()})
    method = built(key, pair, outputs, **options)
    loss = sum(losses(method, student, teacher).values())
    assert loss.isfinite()
    loss.backward()
    reached = [v.grad for v in features.values() if v.grad is not None]
    assert any(gradient.any() for gradient in reached)


@pytest.mark.parametrize("key", POOLING)
def test_the_loss_of_equal_maps_is_the_same_bits_with_and_without_the_option(key, outputs):
    student, teacher = outputs["equal"]
    with_option, without = (
        losses(built(key, "equal", outputs, **options), student, teacher)
        for options in ({"pool_maps": True}, {})
    )
    assert all(with_option[name].equal(without[name]) for name in without)


def halved(maps):
    """The mean of every 2 x 2 pixels."""
    return maps.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))


@pytest.mark.parametrize("key", ["at", "nst", "vid"])
@pytest.mark.parametrize("pair", ["smaller", "larger"])
def test_the_larger_map_is_averaged_down_to_the_smaller(key, pair, outputs):
    student, teacher = outputs[pair]
    larger, smaller = (teacher, student) if pair == "larger" else (student, teacher)
    by_hand = larger._replace(
        features={k: halved(v) if k.startswith("block") else v for k, v in larger.features.items()}
    )
    for block in ("block1", "block2", "block3"):
        assert by_hand.features[block].shape[2:] == smaller.features[block].shape[2:]
    method = built(key, pair, outputs, pool_maps=True)
    given = losses(method, student, teacher)[key]
    if pair == "larger":
        wanted = losses(method, student, by_hand)[key]
    else:
        wanted = losses(method, by_hand, teacher)[key]
    torch.testing.assert_close(given, wanted)


def test_ft_averages_its_factors_and_not_the_maps_they_are_made_of(outputs):
    student, teacher = (f.features["block3"] for f in outputs["larger"])
    method = built("ft", "larger", outputs, pool_maps=True).eval()
    ours, theirs = method.translate(student), halved(method.encode(teacher))
    unit = [f.flatten(1) / f.flatten(1).norm(dim=1, keepdim=True) for f in (ours, theirs)]
    wanted = (unit[0] - unit[1]).abs().mean()
    torch.testing.assert_close(method.distance("block3", student, teacher), wanted)


def test_each_side_is_averaged_where_it_is_the_larger_one():
    ours, theirs = pooled(torch.zeros(1, 2, 6, 3), torch.zeros(1, 5, 4, 4))
    assert (ours.shape, theirs.shape) == ((1, 2, 4, 3), (1, 5, 4, 3))


def test_the_option_is_named_in_the_run_and_a_run_without_it_keeps_its_name():
    one = runs.Student(method="at", options={"pool_maps": True})
    assert one.name.endswith("/resnet8x0.5-at-2-0+pool_maps=True")
    several = runs.Student(method="kd+at", options={"at": {"pool_maps": True}})
    assert several.name.endswith("/resnet8x0.5-kd+at-2-0+at.pool_maps=True")
    assert one.record()["facts"]["options"] == "pool_maps=True"
    assert runs.Student(method="at").name.endswith("/resnet8x0.5-at-2-0")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pool_maps": 1}, "option pool_maps of at is like False, given 1"),
        ({"pool_maps": "yes"}, "option pool_maps of at is like False, given 'yes'"),
        ({"weight": True}, "option weight of at is like 1000.0, given True"),
    ],
)
def test_the_option_is_true_or_false(options, line, outputs):
    with pytest.raises(UsageError, match=line):
        built("at", "equal", outputs, **options)
