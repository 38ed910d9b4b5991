import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kdlib import UsageError, augment, data


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_whole_and_split_once(digits):
    assert digits.train.shape == (1297, 1, 8, 8)
    assert torch.bincount(digits.test_labels).tolist() == [50] * 10
    together = torch.cat([digits.train, digits.test]).flatten(1).tolist()
    original = (load_digits().data / 16 * 255).round().astype(int).tolist()
    assert sorted(together) == sorted(original)
    assert digits.hash == "42bedc2bcb92c7c3"


def test_normalised_training_images_have_mean_0_and_sd_1(digits):
    x = data.normalised(digits.train, digits.mean, digits.std)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std()) - 1) < 1e-5


def test_budgets_are_stratified_seeded_and_nested(digits):
    labels = digits.train_labels
    small, large = data.budget(labels, 2, 3), data.budget(labels, 5, 3)
    assert torch.bincount(labels[small]).tolist() == [2] * 10
    assert set(small.tolist()) < set(large.tolist())
    assert data.budget(labels, 2, 3).equal(small)
    assert not data.budget(labels, 2, 4).equal(small)
    assert data.budget(labels, "all", 3).equal(torch.arange(len(labels)))


@pytest.mark.parametrize("per_class", [0, -1, 2000, "some"])
def test_a_budget_that_cannot_be_names_what_can(digits, per_class):
    with pytest.raises(UsageError, match="allowed: 'all' or 1 to 124"):
        data.budget(digits.train_labels, per_class, 0)


def test_an_unknown_data_set_names_the_known():
    with pytest.raises(UsageError, match="unknown data set 'digit'; one of: digits"):
        data.load("digit")


def test_samples_are_stratified_and_fixed(digits):
    rows = data.sample(digits.train_labels, 200)
    counts = torch.bincount(digits.train_labels[rows])
    assert len(rows) == len(set(rows.tolist())) == 200
    assert counts.min() >= 18
    assert counts.max() <= 22
    assert rows.equal(data.sample(digits.train_labels, 200))
    assert len(data.sample(digits.test_labels, 500)) == 500
    with pytest.raises(UsageError, match="allowed: 1 to 500"):
        data.sample(digits.test_labels, 501)


def test_shifting_agrees_with_moving_each_image_by_hand():
    x = torch.randint(0, 255, (20, 2, 5, 6), dtype=torch.uint8)
    by = torch.randint(-2, 3, (20, 2))
    moved = augment.shifted(x, by, 2).numpy()
    for image, (down, right), got in zip(x.numpy(), by.tolist(), moved, strict=True):
        wanted = np.zeros_like(image)
        for row in range(5):
            for column in range(6):
                if 0 <= row - down < 5 and 0 <= column - right < 6:
                    wanted[:, row, column] = image[:, row - down, column - right]
        np.testing.assert_array_equal(got, wanted)


def test_an_epoch_shows_every_image_of_the_pool_once(digits):
    batches = data.Batches(digits, data.budget(digits.train_labels, 2, 0), 64, 0)
    seen = torch.cat([batch.rows[len(batch.y) :] for batch in batches])
    assert len(batches) == 21
    assert sorted(seen.tolist()) == list(range(1297))


def test_only_labelled_images_carry_a_label(digits):
    labelled = data.budget(digits.train_labels, 2, 0)
    for batch in data.Batches(digits, labelled, 64, 0):
        assert set(batch.rows[: len(batch.y)].tolist()) <= set(labelled.tolist())
        assert batch.y.equal(digits.train_labels[batch.rows[: len(batch.y)]])
        assert len(batch.x) == len(batch.rows)


def test_runs_of_one_seed_are_paired_with_and_without_the_pool(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    with_pool, without = (
        list(data.Batches(digits, labelled, 32, 1, pool=pool)) for pool in (True, False)
    )
    for a, b in zip(with_pool, without, strict=True):
        assert a.y.equal(b.y)
        assert a.x[: len(a.y)].equal(b.x)  # the same images, moved alike
        assert len(a.x) > len(b.x)


def test_batches_repeat_by_seed_and_differ_from_epoch_to_epoch(digits):
    def one():
        return data.Batches(digits, torch.arange(1297), 64, 5)

    again = one()
    first, second = ([b.rows for b in again] for _ in range(2))
    assert torch.cat(first).equal(torch.cat([b.rows for b in one()]))
    assert not torch.cat(first).equal(torch.cat(second))
    assert sorted(torch.cat(first).tolist()) == list(range(1297))
