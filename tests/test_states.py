"""A training that is stopped at any step and goes on has the bits of one that never was."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from kdlib import UsageError, data, models, states, store, train
from kdlib.plan.runs import Student, Teacher

STEP = 1e-9  # minutes: a checkpoint after every step


class PulledPlugError(Exception):
    """The end of a training that did not ask for it."""


class Pulled(store.Checkpoint):
    """A checkpoint whose training ends after so many steps."""

    left = 10**9

    def due(self, last=False):
        if self.left == 0:
            raise PulledPlugError
        self.left -= 1
        return super().due(last)


@pytest.fixture(scope="module")
def small(digits):
    """The first digits."""
    return digits._replace(train=digits.train[:150], train_labels=digits.train_labels[:150])


@pytest.fixture(scope="module")
def teacher(small):
    return models.build("resnet8", classes=10, channels=1, width=0.5, seed=3)


def students(small, changes, **given):
    run = Student(students=changes, network="resnet8", width=0.25, batch_size=32, **given)
    return [train.job(train.build(each, small), each) for each in run.each]


def batches_of(small):
    rows = data.budget(small.train_labels, 2, 0, classes=small.classes)
    return data.Batches(small, rows, 32, seed=0)


def ends(trained):
    """Everything a training gives, as bytes."""
    return [
        (
            {k: v.tobytes() for k, v in models.weights(one.network).items()},
            one.history,
            {n: {k: v.tobytes() for k, v in w.items()} for n, w in one.snapshots.items()},
        )
        for one in trained
    ]


CASES = {
    "plain": ([{"method": "kd"}], {"epochs": 2, "snapshots": [0, 1]}),
    "two stages": ([{"method": "ft", "options": {"warm_up_epochs": 1}}], {"epochs": 1}),
    "first stage of the student": (
        [{"method": "fsp", "width": 0.5, "options": {"warm_up_epochs": 1}}],
        {"epochs": 1},
    ),
    "a memory": ([{"method": "crd", "options": {"negatives": 20}}], {"epochs": 2}),
    "a combination": ([{"method": "kd+crd", "options": {"crd": {"negatives": 20}}}], {"epochs": 1}),
    "a peer": ([{"method": "dml"}], {"epochs": 1}),
    "generations": (
        [{"method": "born_again", "width": 0.5, "options": {"generations": 2}}],
        {"epochs": 1},
    ),
    "dropout and strong images": (
        [{"method": "noisy_student", "width": 0.5, "options": {"generations": 2}}],
        {"epochs": 1},
    ),
    "another classifier": ([{"method": "simkd"}], {"epochs": 1}),
    "several side by side": (
        [
            {"method": "baseline"},
            {"method": "crd", "epochs": 1},
            {"method": "ab", "options": {"warm_up_epochs": 1}},
            {"method": "kd", "cached_teacher": True},
        ],
        {"epochs": 2},
    ),
    "random numbers of torch": (
        [{"method": "kd", "network": "mobilenetv2", "width": 1.0}],
        {"epochs": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_stopped_at_random_steps_ends_with_the_same_bits(case, small, teacher, tmp_path):
    changes, given = CASES[case]

    def fit(checkpoint):
        torch.manual_seed(5)
        jobs = students(small, changes, **given)
        return train.fit_many(jobs, batches_of(small), teacher, checkpoint)

    counted = Pulled(tmp_path, 0.0)
    straight = ends(fit(counted))
    steps = 10**9 - counted.left
    pulled, draw = 0, random.Random(case)
    while True:
        checkpoint = Pulled(tmp_path, STEP, run=case)
        checkpoint.left = draw.randint(0, (steps - 1) // 3) if pulled < 3 else 10**9
        try:
            trained = fit(checkpoint)
            break
        except PulledPlugError:
            pulled += 1
            torch.rand(3)  # in another process all random numbers would be others
    assert pulled == 3
    assert ends(trained) == straight


def test_a_pretrained_teacher_goes_on_in_both_of_its_parts(small, tmp_path):
    run = Teacher(
        network="resnet8", width=0.25, weights="simclr", pretrain_epochs=1, epochs=1, head_epochs=1
    )

    def fit(first, then):
        network = train.build(run, small)
        before = train.pretrain(network, small, run, first)
        rows = torch.arange(150)
        batches = data.Batches(small, rows, 64, 0, unlabelled=False)
        after = train.fit(network, batches, run, checkpoint=then)
        return ends([after]), before

    straight, pulled = fit(None, None), 0
    for left in [(1, 99), (0, 99), (99, 2), (99, 1), (99, 99)]:
        parts = [Pulled(tmp_path, STEP, part) for part in ("-first", "")]
        for part, steps in zip(parts, left, strict=True):
            part.left = steps
        try:
            found = fit(*parts)
        except PulledPlugError:
            pulled += 1
    assert pulled == 4
    assert found == straight


def test_below_its_minutes_a_training_writes_no_checkpoint(small, teacher, tmp_path):
    for minutes in (10.0, 0.0):
        checkpoint = store.Checkpoint(tmp_path, minutes)
        train.fit_many(students(small, [{}], epochs=1), batches_of(small), teacher, checkpoint)
    assert not list(tmp_path.iterdir())
    assert Student().minutes == 10
    assert Student(checkpoint_minutes=3).name == Student().name
    assert Student(checkpoint_minutes=3).settings() == Student().settings()


def test_the_minutes_between_checkpoints_are_the_runs_own_or_its_studys(monkeypatch):
    monkeypatch.setenv("KDLIB_CHECKPOINT_MINUTES", "2.5")
    assert Student().minutes == Teacher().minutes == 2.5
    assert Student(checkpoint_minutes=0).minutes == 0
    for wrong in ("-1", "nan", "inf", "soon", ""):
        monkeypatch.setenv("KDLIB_CHECKPOINT_MINUTES", wrong)
        with pytest.raises(UsageError, match=r"KDLIB_CHECKPOINT_MINUTES '.*'; allowed: 0 or more"):
            _ = Student().minutes


def test_a_training_that_goes_on_counts_the_seconds_before(tmp_path, monkeypatch):
    clock = 100.0
    monkeypatch.setattr(store.time, "monotonic", lambda: clock)
    for begins, saves, seconds in [(100.0, 130.0, 0.0), (500.0, 512.0, 30.0), (900.0, 901.0, 42.0)]:
        clock = begins - 7
        kept = store.Checkpoint(tmp_path, 1.0, run="a")
        clock = begins  # what comes between, as a pretraining, is no part of this training
        kept.load()
        assert kept.seconds == seconds
        clock = saves
        kept.save({"epoch": 1, "step": 2}, {"x": np.arange(3)})


def test_a_checkpoint_of_another_training_is_not_used_and_that_is_said(tmp_path, capsys):
    kept = store.Checkpoint(tmp_path, 1.0, run={"epochs": 3}, data="a")
    kept.save({"epoch": 1, "step": 2}, {"x": np.arange(3)})
    again = store.Checkpoint(tmp_path, 1.0, run={"epochs": 3}, data="a")
    state, arrays = again.load()
    assert state == {"epoch": 1, "step": 2}
    assert arrays["x"].tolist() == [0, 1, 2]
    assert capsys.readouterr().out.strip() == (
        f"goes on from {kept.path}: 1 epochs and 2 steps are done"
    )
    assert store.Checkpoint(tmp_path, 1.0, run={"epochs": 4}, data="b").load() is None
    assert capsys.readouterr().out.strip() == (
        f"{kept.path} is of other run, data: training begins again"
    )
    kept.path.write_bytes(kept.path.read_bytes()[:50])
    assert kept.load() is None
    assert "cannot be read: training begins again" in capsys.readouterr().out
    kept.remove()
    assert not list(tmp_path.iterdir())
    assert kept.load() is None


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    checkpoint = store.Checkpoint(tmp_path / "file", STEP)
    checkpoint.save({}, {})
    assert capsys.readouterr().out.startswith("no checkpoint: cannot write ")


def test_the_state_of_an_object_is_all_of_it_that_a_step_can_change():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("hidden", torch.zeros(2), persistent=False)
            self.norm = nn.BatchNorm1d(2)
            self.count, self.draws = 0, torch.Generator().manual_seed(1)
            self.seen = {"rows": [torch.zeros(1, dtype=torch.bfloat16)]}
            self.others = (nn.Linear(1, 1),)  # somebody else's

    one, other = Part(), Part()
    one.hidden += 1
    one.norm(torch.rand(4, 2))
    one.norm.eval()
    one.count, one.later = 3, torch.ones(2, dtype=torch.int64)
    one.seen["rows"].append(torch.ones(2))
    torch.rand(5, generator=one.draws)
    arrays = {}
    told = states.take(one, arrays)
    states.put(other, told, arrays)
    assert other.hidden.tolist() == [1, 1]
    assert torch.equal(other.norm.running_mean, one.norm.running_mean)
    assert not other.norm.training
    assert (other.count, other.later.tolist()) == (3, [1, 1])
    assert other.seen["rows"][0].dtype == torch.bfloat16
    assert other.seen["rows"][1].tolist() == [1, 1]
    assert torch.equal(other.draws.get_state(), one.draws.get_state())
    assert other.others[0] is not one.others[0]
    with pytest.raises(TypeError, match="Part is no plain value"):
        states.take_value(one, {})
