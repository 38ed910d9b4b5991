import pytest
import torch
from sklearn.datasets import load_digits

from kdlib import UsageError, data


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
    with pytest.raises(UsageError, match="'all' or 1 to 124"):
        data.budget(digits.train_labels, per_class, 0)


def test_a_class_that_has_too_few_images_is_named():
    labels = torch.tensor([0, 0, 1, 0, 2, 2])
    with pytest.raises(UsageError, match=r"1 to 1.*bee"):
        data.budget(labels, 2, 0, ("ant", "bee", "cat"))


def test_an_unknown_data_set_names_the_known():
    with pytest.raises(UsageError, match=r"'digit'.* digits, mnist"):
        data.load("digit")


def test_samples_are_stratified_and_fixed(digits):
    rows = data.sample(digits.train_labels, 200)
    counts = torch.bincount(digits.train_labels[rows])
    assert len(rows) == len(set(rows.tolist())) == 200
    assert counts.min() >= 18
    assert counts.max() <= 22
    assert rows.equal(data.sample(digits.train_labels, 200))
    assert len(data.sample(digits.test_labels, 500)) == 500
    with pytest.raises(UsageError, match="sample 0; allowed: 1 image"):
        data.sample(digits.test_labels, 0)


def test_a_sample_is_all_images_where_there_are_fewer(digits):
    assert data.sample(digits.test_labels, 10**6).equal(torch.arange(500))


def test_a_sample_holds_two_of_each_class_however_unlike_their_sizes(digits):
    labels = torch.tensor([0] * 500 + [1] * 3 + [2] * 2)
    counts = torch.bincount(labels[data.sample(labels, 20)])
    assert counts.tolist() == [16, 2, 2]
    many = digits._replace(
        test=torch.zeros(3000, 1, 1, 1, dtype=torch.uint8),
        test_labels=torch.arange(3000) % 1000,
        classes=tuple(map(str, range(1000))),
    )
    rows = data.test_sample(many, 500)
    assert torch.bincount(many.test_labels[rows]).tolist() == [2] * 1000
    assert data.check_sample(many, 500, asked=True) == 2000


def test_too_few_test_images_to_measure_are_refused_with_the_least(digits):
    assert data.check_sample(digits, 10**6, asked=False) == 500
    assert data.check_sample(digits, 3, asked=True) == 20
    with pytest.raises(UsageError, match="sample 501; allowed: 1 to 500"):
        data.check_sample(digits, 501, asked=True)
    two = digits.test_labels < 2
    few = digits._replace(
        test=digits.test[two][:19], test_labels=digits.test_labels[two][:19], classes=("0", "1")
    )
    with pytest.raises(UsageError, match=r"19 test images.* allowed: 20"):
        data.check_sample(few, 500, asked=False)
    lone = digits._replace(
        test=digits.test[:21], test_labels=torch.arange(21).clamp(max=1), classes=("ant", "bee")
    )
    with pytest.raises(UsageError, match=r"'ant' has 1 test image; allowed: 2"):
        data.check_sample(lone, 500, asked=False)


def test_digits_come_in_other_sizes_too():
    images = data.load(data.Source(size=32))
    assert images.name == "digits+size=32"
    assert images.train.shape == (1297, 1, 32, 32)
    assert images.train_labels.equal(data.load("digits").train_labels)
    assert images.shift == 4


def test_mean_and_sd_of_colours_agree_with_numpy():
    x = torch.randint(0, 200, (50, 3, 9, 7), dtype=torch.uint8)
    images = data.Images("x", x, torch.zeros(50).long(), x, torch.zeros(50).long(), ("a",), 1, True)
    assert abs(images.mean - x.numpy().mean() / 255) < 1e-12
    assert abs(images.std - x.numpy().std(ddof=1) / 255) < 1e-12


def test_rows_beyond_the_training_images_are_unlabelled_images(mixed):
    rows = torch.tensor([0, 996, 997, 1296, 5])
    expected = torch.stack(
        [mixed.train[0], mixed.train[-1], mixed.unlabelled[0], mixed.unlabelled[-1]]
    )
    assert mixed.take(rows)[:4].equal(expected)
    assert mixed.take(rows)[4].equal(mixed.train[5])


def test_unlabelled_images_enter_the_hash(mixed):
    assert mixed.hash != mixed._replace(unlabelled=mixed.unlabelled[:0]).hash


def test_a_part_of_the_training_images_is_the_same_each_time_and_all_classes_alike(digits):
    part = data.load(data.Source(train_images=200))
    assert len(part.train) == 200
    assert set(torch.bincount(part.train_labels).tolist()) <= {19, 20, 21}
    assert part.hash == data.load(data.Source(train_images=200)).hash != digits.hash
    assert part.test.equal(digits.test)
    whole = {image.numpy().tobytes() for image in digits.train}
    assert {image.numpy().tobytes() for image in part.train} <= whole
    assert data.load(data.Source(train_images=len(digits.train))).hash == digits.hash


@pytest.mark.parametrize("count", [9, 1298, 10**6])
def test_a_part_that_cannot_be_is_refused_with_what_there_is(count):
    with pytest.raises(UsageError, match=rf"train_images {count}; allowed: 10 to 1,297"):
        data.load(data.Source(train_images=count))


def test_a_folder_called_like_a_published_data_set_is_named(tmp_path, monkeypatch):
    assert data.load("digits").notes == ()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    note = "the published data set, not ./digits; folder:digits reads that"
    assert data.load("digits").notes == (note,)
