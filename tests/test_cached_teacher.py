"""A teacher's logits computed once for each image and its mirror image."""

import pytest
import torch

from kdlib import UsageError, data, models, train
from kdlib.plan import runs, studies

LOGITS_ONLY = ["kd", "pseudo", "shuffled", "random", "transfer", "dkd", "noisy_student"]


@pytest.fixture(scope="module")
def photographs():
    """40 labelled images of 4 classes and 8 without a class, mirrored by their augmentation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    y = torch.arange(40) % 4
    unlabelled = torch.randint(0, 256, (8, 3, 16, 16), generator=generator, dtype=torch.uint8)
    classes = ("a", "b", "c", "d")
    return data.Images(
        "fake", x, y, x[:8], y[:8], classes, shift=2, flip=True, unlabelled=unlabelled
    )


def teacher(seed=9):
    return models.build("resnet8", classes=4, width=0.5, seed=seed)


def batches(images, **options):
    return data.Batches(images, torch.arange(8), 8, 0, **options)


def run(**changes):
    return runs.Student(**{"epochs": 2, "cached_teacher": True} | changes)


def trained(images, *, method="kd", seed=1, unlabelled=True, **changes):
    student = models.build("resnet8", classes=4, width=0.25, seed=seed)
    how = run(method=method, unlabelled=unlabelled, **changes)
    return train.job(student, how)


def weights(network):
    return torch.cat([x.flatten().double() for x in network.state_dict().values()])


def test_batches_tell_which_images_are_mirrored(photographs):
    still = photographs._replace(shift=0)
    for batch in batches(still):
        x = data.normalised(still.take(batch.rows), still.mean, still.std)
        flipped = torch.where(batch.mirrored[:, None, None, None], x.flip(3), x)
        assert torch.equal(batch.x, flipped)
        assert batch.mirrored.any()
        assert not batch.mirrored.all()


def test_images_of_a_set_that_is_not_mirrored_never_are(digits):
    few = data.Batches(digits, torch.arange(20), 64, 0)
    assert not any(batch.mirrored.any() for batch in few)
    named = data.Batches(digits, torch.arange(20), 64, 0, augment=("flip",))
    assert next(iter(named)).mirrored is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("unlabelled", [True, False])
def test_cached_logits_are_those_of_each_image_that_is_not_shifted(
    photographs, precision, unlabelled
):
    still = photographs._replace(shift=0)
    some = batches(still)
    network = train._frozen(teacher(), torch.device("cpu"))
    trainers = [
        train.Trainer(
            trained(still, precision=precision, unlabelled=unlabelled, cached_teacher=cached),
            network,
            some,
        )
        for cached in (True, False)
    ]
    teachers = train.Teachers(some)
    for batch in some:
        (cached, once), (direct, each) = teachers.outputs(trainers, batch).values()
        assert torch.equal(cached.rows, direct.rows)
        assert len(cached.rows) == (16 if unlabelled else 8)
        assert once.logits.dtype == each.logits.dtype
        tolerance = {"atol": 1e-5} if precision == "float32" else {"atol": 0.05, "rtol": 0.05}
        torch.testing.assert_close(once.logits, each.logits, **{"rtol": 1e-4} | tolerance)


def test_the_teacher_computes_each_image_and_its_mirror_image_once_for_all_students(photographs):
    counted = []
    network = teacher()
    jobs = [trained(photographs, method=method) for method in ("kd", "pseudo", "transfer")]
    network.register_forward_hook(lambda _, inputs, __: counted.append(len(inputs[0])))
    before = len(counted)
    train.fit_many(jobs, batches(photographs), network)
    sizes = 3 * 2  # each method is built from an output for two images
    assert sum(counted) - before == 2 * 48 + sizes


@pytest.mark.parametrize("method", LOGITS_ONLY)
def test_methods_of_logits_learn_from_cached_ones_as_by_themselves(photographs, method):
    student = "resnet8"
    width = 0.5  # as large as its teacher: noisy_student asks for it

    def one(name):
        network = models.build(student, classes=4, width=width, seed=1)
        return train.job(network, run(method=name, epochs=1))

    (alone,) = train.fit_many([one(method)], batches(photographs), teacher())
    first, _ = train.fit_many([one(method), one("kd")], batches(photographs), teacher())
    untrained = models.build(student, classes=4, width=width, seed=1)
    assert torch.equal(weights(alone.network), weights(first.network))
    assert not torch.equal(weights(alone.network), weights(untrained))


def test_it_is_part_of_the_name_and_no_parameter_of_a_student_without_a_teacher():
    assert run().name.endswith("+cached_teacher=True+epochs=2")
    grid = {"methods": ["baseline", "kd"], "student": {"cached_teacher": True}}
    baseline, kd = studies.Study(name="cached", **grid).students
    assert kd.cached_teacher
    assert not baseline.cached_teacher


@pytest.mark.parametrize("method", ["fitnet", "rkd", "kd+at", "simkd"])
def test_methods_that_need_layers_of_the_teacher_are_refused(method):
    with pytest.raises(UsageError, match="with cached_teacher; allowed: those that need no layer"):
        run(method=method)


def test_a_method_that_needs_layers_is_refused_when_it_is_trained(photographs):
    job = trained(photographs)._replace(method="at")
    with pytest.raises(UsageError, match="'at' with cached_teacher; allowed"):
        train.fit_many([job], batches(photographs), teacher())


def test_other_augmentations_than_those_of_the_set_are_refused(photographs):
    with pytest.raises(UsageError, match="augment 'shift' with cached_teacher; allowed: own"):
        run(augment="shift")
    with pytest.raises(UsageError, match="with cached_teacher; allowed: the set's"):
        train.fit_many([trained(photographs)], batches(photographs, augment=("shift",)), teacher())
