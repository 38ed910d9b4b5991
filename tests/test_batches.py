import pytest
import torch

from kdlib import UsageError, data


def test_an_epoch_has_every_training_image_once_without_its_label(digits):
    batches = data.Batches(digits, data.budget(digits.train_labels, 2, 0), 64, 0)
    rows = torch.cat([batch.rows[len(batch.y) :] for batch in batches])
    assert len(batches) == 21
    assert sorted(rows.tolist()) == list(range(1297))


def test_only_labelled_images_carry_a_label(digits):
    labelled = data.budget(digits.train_labels, 2, 0)
    for batch in data.Batches(digits, labelled, 64, 0):
        assert set(batch.rows[: len(batch.y)].tolist()) <= set(labelled.tolist())
        assert batch.y.equal(digits.train_labels[batch.rows[: len(batch.y)]])
        assert len(batch.x) == len(batch.rows)


def test_runs_of_one_seed_are_paired_with_and_without_unlabelled_images(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    with_others, without = (
        list(data.Batches(digits, labelled, 32, 1, unlabelled=unlabelled))
        for unlabelled in (True, False)
    )
    for a, b in zip(with_others, without, strict=True):
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


def test_unlabelled_images_come_after_the_training_images(mixed):
    still = mixed._replace(shift=0)
    batches = data.Batches(still, data.budget(still.train_labels, 2, 0), 64, 0)
    assert len(batches) == 21
    rows = []
    for batch in batches:
        expected = data.normalised(still.take(batch.rows), still.mean, still.std)
        assert batch.x.equal(expected)
        rows.append(batch.rows[len(batch.y) :])
        assert batch.rows[: len(batch.y)].max() < 997
    assert sorted(torch.cat(rows).tolist()) == list(range(1297))


def test_unlabelled_images_are_used_where_every_training_image_has_its_label(mixed):
    batches = data.Batches(mixed, torch.arange(997), 64, 0)
    assert any((batch.rows[len(batch.y) :] >= 997).any() for batch in batches)


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


def test_strong_labelled_images_are_paired_with_and_without_unlabelled_images(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    with_others, without = (
        data.Batches(digits, labelled, 32, 1, unlabelled=unlabelled, strong=True)
        for unlabelled in (True, False)
    )
    for a, b in zip(with_others, without, strict=True):
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
    with pytest.raises(UsageError, match=r"'blur'.* shift, flip, cutout"):
        data.Batches(digits, torch.arange(9), 4, 0, augment=("blur",))


def test_images_without_any_spread_are_refused_before_training(digits):
    black = digits._replace(train=torch.zeros_like(digits.train))
    with pytest.raises(UsageError, match="all pixels of all training images of digits have one"):
        data.Batches(black, torch.arange(20), 10, seed=0)


def test_labelled_and_unlabelled_batches_may_be_of_unequal_size(digits):
    labelled = data.budget(digits.train_labels, 5, 1)
    with_others, without = (
        data.Batches(digits, labelled, 8, 1, unlabelled=unlabelled, unlabelled_size=64)
        for unlabelled in (True, False)
    )
    assert len(with_others) == len(without) == 21  # each unlabelled image once
    rows = []
    for a, b in zip(with_others, without, strict=True):
        assert a.y.equal(b.y)  # paired as ever
        assert a.x[: len(a.y)].equal(b.x)
        assert len(a.y) <= 8
        rows.append(a.rows[len(a.y) :])
    assert [len(part) for part in rows[:-1]] == [64] * 20
    assert sorted(torch.cat(rows).tolist()) == list(range(1297))


def test_batches_of_one_size_are_the_same_bits_whether_it_is_given_once_or_twice(digits):
    labelled = data.budget(digits.train_labels, 2, 0)
    once, twice = (
        list(data.Batches(digits, labelled, 32, 0, unlabelled_size=size)) for size in (None, 32)
    )
    for a, b in zip(once, twice, strict=True):
        assert a.x.equal(b.x)
        assert a.rows.equal(b.rows)


def test_where_every_image_is_labelled_the_unlabelled_size_counts_for_nothing(digits):
    batches = data.Batches(digits, torch.arange(1297), 32, 0, unlabelled_size=512)
    assert len(batches) == 41
    assert sum(len(batch.x) for batch in batches) == 1297


def test_an_unlabelled_size_that_cannot_be_is_refused(digits):
    with pytest.raises(UsageError, match="batch size 0; allowed: 1 or more"):
        data.Batches(digits, torch.arange(20), 8, 0, unlabelled_size=0)
