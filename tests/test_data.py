import pytest
import torch
from sklearn.datasets import load_digits

from kdlib import UsageError, data


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


def test_a_class_that_has_too_few_images_is_named():
    labels = torch.tensor([0, 0, 1, 0, 2, 2])
    with pytest.raises(UsageError, match="1 to 1, what the smallest class has: bee"):
        data.budget(labels, 2, 0, ("ant", "bee", "cat"))


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


@pytest.fixture(scope="module")
def mixed(digits):
    """The digits, 300 of them in the pool, without a label."""
    return digits._replace(
        train=digits.train[300:], train_labels=digits.train_labels[300:], pool=digits.train[:300]
    )


def test_digits_come_in_other_sizes_too():
    images = data.load("digits", size=32)
    assert images.name == "digits+size=32"
    assert images.train.shape == (1297, 1, 32, 32)
    assert images.train_labels.equal(data.load("digits").train_labels)
    assert images.shift == 4


def test_mean_and_sd_of_colours_agree_with_numpy():
    x = torch.randint(0, 200, (50, 3, 9, 7), dtype=torch.uint8)
    images = data.Images("x", x, torch.zeros(50).long(), x, torch.zeros(50).long(), ("a",), 1, True)
    assert abs(images.mean - x.numpy().mean() / 255) < 1e-12
    assert abs(images.std - x.numpy().std(ddof=1) / 255) < 1e-12


def test_rows_beyond_the_training_images_are_of_the_pool(mixed):
    rows = torch.tensor([0, 996, 997, 1296, 5])
    wanted = torch.stack([mixed.train[0], mixed.train[-1], mixed.pool[0], mixed.pool[-1]])
    assert mixed.take(rows)[:4].equal(wanted)
    assert mixed.take(rows)[4].equal(mixed.train[5])


def test_unlabelled_images_join_the_pool_after_the_training_images(mixed):
    still = mixed._replace(shift=0)
    batches = data.Batches(still, data.budget(still.train_labels, 2, 0), 64, 0)
    assert len(batches) == 21
    seen = []
    for batch in batches:
        wanted = data.normalised(still.take(batch.rows), still.mean, still.std)
        assert batch.x.equal(wanted)
        seen.append(batch.rows[len(batch.y) :])
        assert batch.rows[: len(batch.y)].max() < 997
    assert sorted(torch.cat(seen).tolist()) == list(range(1297))


def test_unlabelled_images_are_shown_where_every_training_image_has_its_label(mixed):
    batches = data.Batches(mixed, torch.arange(997), 64, 0)
    assert any((batch.rows[len(batch.y) :] >= 997).any() for batch in batches)


def test_unlabelled_images_enter_the_hash(mixed):
    assert mixed.hash != mixed._replace(pool=mixed.pool[:0]).hash


def test_strong_images_are_the_same_images_and_change_no_other(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    plain, both = (
        list(data.Batches(digits, labelled, 32, 1, strong=strong)) for strong in (False, True)
    )
    for a, b in zip(plain, both, strict=True):
        assert a.strong is None
        assert a.x.equal(b.x)
        assert a.rows.equal(b.rows)
        assert b.strong.shape == b.x.shape
        assert not b.strong.equal(b.x)
    black = -digits.mean / digits.std  # what the strong images are before cutout stays recognisable
    similarity = torch.nn.functional.cosine_similarity
    own = similarity((b.x - black).flatten(1), (b.strong - black).flatten(1)).mean()
    other = similarity((b.x - black).flatten(1), (b.strong - black).roll(1, 0).flatten(1)).mean()
    assert own > other


def test_strong_labelled_images_are_paired_with_and_without_the_pool(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    with_pool, without = (
        data.Batches(digits, labelled, 32, 1, pool=pool, strong=True) for pool in (True, False)
    )
    for a, b in zip(with_pool, without, strict=True):
        assert a.strong[: len(a.y)].equal(b.strong)


def test_named_augmentations_replace_those_of_the_set(digits):
    def epoch(names, seed=0):
        return list(data.Batches(digits, torch.arange(1297), 64, seed, augment=names))

    own, none, cut, again = (epoch(n) for n in (None, (), ("flip", "cutout"), ("flip", "cutout")))
    for a, b, c, d in zip(own, none, cut, again, strict=True):
        assert a.rows.equal(b.rows)
        assert a.rows.equal(c.rows)
        assert b.x.equal(data.normalised(digits.train[b.rows], digits.mean, digits.std))
        assert not a.x.equal(b.x)
        assert not c.x.equal(b.x)
        assert c.x.equal(d.x)


def test_an_unknown_augmentation_names_the_known(digits):
    with pytest.raises(UsageError, match="unknown augmentation 'blur'; one of: shift, flip, cutou"):
        data.Batches(digits, torch.arange(9), 4, 0, augment=("blur",))


def test_images_are_normalised_by_their_own_spread_or_by_published_constants_of_each_channel():
    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    mean, std = data.CONSTANTS["imagenet"]
    seen = data.normalised(x, mean, std)
    by_hand = torch.stack([(x[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(seen, by_hand)
    with pytest.raises(UsageError, match="normalise 'imagenet' of grey images; allowed: data"):
        data.load("digits", normalise="imagenet")
    with pytest.raises(UsageError, match="unknown normalise 'mine'; one of: data, imagenet"):
        data.load("digits", normalise="mine")
