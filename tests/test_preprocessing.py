"""Each network normalises and enlarges the images of a batch in its own way."""

import copy

import pytest
import torch

from kdlib import UsageError, data, models, train
from kdlib.plan.runs import CONSTANTS, Student, Teacher


@pytest.fixture
def photographs(digits):
    """Images in colour: the digits, each channel of another brightness."""

    def coloured(x):
        return torch.cat([x, x // 2, 255 - x], dim=1)

    train_images, test = coloured(digits.train[:300]), coloured(digits.test)
    labels = digits.train_labels[:300]
    return digits._replace(train=train_images, train_labels=labels, test=test)


def batch(images, n=6):
    return data.normalised(images.train[:n], images.mean, images.std)


def test_a_networks_own_constants_replace_those_of_the_data(photographs):
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in CONSTANTS["imagenet"])
    by_hand = (photographs.train[:6].float() / 255 - mean) / std
    plain = train.build(Teacher(network="resnet8"), photographs).eval()
    own = train.build(Teacher(network="resnet8", normalise="imagenet"), photographs).eval()
    torch.testing.assert_close(own(batch(photographs)), plain(by_hand), rtol=1e-4, atol=1e-5)
    assert not own(batch(photographs)).allclose(plain(batch(photographs)))


def test_a_networks_own_size_is_that_of_its_maps(photographs):
    run = Teacher(network="resnet8", input_size=24)
    network = train.build(run, photographs).eval()
    features = models.observe(network, batch(photographs)).features
    assert features["stem"].shape[2:] == (24, 24)
    enlarged = torch.nn.functional.interpolate(batch(photographs), (24, 24), mode="bilinear")
    plain = train.build(Teacher(network="resnet8"), photographs).eval()
    torch.testing.assert_close(plain(enlarged), network(batch(photographs)))


def test_a_network_that_needs_its_size_is_built_for_its_own(photographs):
    options = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    run = Teacher(network="vit_b_16", input_size=32, network_options=options)
    try:
        network = train.build(run, photographs)
    except UsageError as problem:
        pytest.skip(f"torchvision's builder takes no such options: {problem}")
    assert network(batch(photographs)).shape == (6, 10)


def test_copies_and_restored_networks_preprocess_as_the_first(photographs):
    run = Teacher(network="resnet8", normalise="imagenet", input_size=12)
    network = train.build(run, photographs).eval()
    x, expected = batch(photographs), None
    expected = network(x)
    restored = models.restore(
        {"architecture": models.architecture(network)}, models.weights(network)
    )
    assert restored(x).equal(expected)
    assert copy.deepcopy(network)(x).equal(expected)
    again = models.reinitialise(network, run.seed)
    assert again.train()(x).shape == expected.shape
    low = models.low_precision_copy(network, x[:2])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(low(x).float(), expected, rtol=0.1, atol=0.1)


def test_a_student_learns_from_a_teacher_that_sees_larger_images(photographs):
    teacher = train.build(Teacher(network="resnet8", input_size=16), photographs)
    for method in ("kd", "simkd", "sp"):
        run = Student(network="resnet8", method=method, epochs=1, labels_per_class=2)
        student = train.build(run, photographs)
        rows = data.budget(photographs.train_labels, 2, 0)
        batches = data.Batches(photographs, rows, 32, 0)
        trained = train.fit(student, batches, run, teacher=teacher).network
        assert 0 <= train.evaluate(trained, photographs).accuracy <= 1


def test_constants_of_colours_are_refused_for_grey_images(digits):
    with pytest.raises(UsageError, match="normalise by 3 channels, of images of 1; allowed: data"):
        train.build(Teacher(normalise="imagenet"), digits)


def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy():
    # 100 images at .8 and 100 at .6 for the predicted class: right 90 and 30 times
    logits = torch.zeros(200, 2, dtype=torch.double)
    logits[:100, 0], logits[100:, 0] = (torch.tensor(p / (1 - p)).log() for p in (0.8, 0.6))
    labels = torch.ones(200, dtype=torch.long)
    labels[:90], labels[100:130] = 0, 0
    assert train.calibration(logits, labels) == pytest.approx((0.1 + 0.3) / 2, abs=1e-6)
    sure = torch.eye(10)[torch.arange(10)] * 1000
    assert train.calibration(sure, torch.arange(10)) == 0
    assert train.calibration(sure, torch.arange(10).roll(1)) == pytest.approx(1)
