"""Folders of images as people have them: what is read as what, and what is said."""

import re
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib import UsageError, data
from kdlib.data import folders
from kdlib.plan import source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache for this test only."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def top(tmp_path):
    return tmp_path / "my photos"


def fill(top, **counts):
    """Images that differ, so many below each folder; a slash in a name is written __."""
    for folder, count in counts.items():
        put(top / folder.replace("__", "/"), count)
    return top


def put(folder, count=1, names="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        seed = zlib.crc32(f"{folder.parts[-3:]} {i}".encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / names.format(i))


def two_classes(top, train, test=None, train_n=4, test_n=2):
    for part, n in ((train, train_n), (test, test_n)):
        for name in ("ant", "bee") if part else ():
            put(top / part / name, n)
    return top


def counts(images):
    return len(images.train), len(images.test), len(images.unlabelled)


def refused(path, facts):
    with pytest.raises(UsageError, match=facts) as caught:
        data.load(path)
    assert "\n" not in str(caught.value)
    assert not list(source.cache().glob("*.safetensors"))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("x_train", "x_test"),
        ("X-train", "X-test"),
        ("trainset", "testset"),
        ("TrainingSet", "TestSet"),
        ("training_images", "test_images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train2017", "test2017"),
        ("birds train", "birds test"),
        ("train", "valid"),
        ("train", "val"),
        ("Train", "Validation"),
        ("training", "dev"),
    ],
)
def test_splits_are_known_by_their_common_spellings(top, train, test):
    images = data.load(two_classes(top, train, test))
    assert images.classes == ("ant", "bee")
    assert counts(images) == (8, 4, 0)
    assert any("are the test images" in note for note in images.notes) == (
        folders.part_of(test.split("/")[0]) == "val"
    )


# Names of folders that lie side by side, of which the first two are splits or are not.
SPLITS = [
    ("train", "test"),
    ("TRAIN", "val"),
    ("Train images", "Test images"),
    ("x_train", "x_valid"),
    ("TrainingSet", "ValidationSet"),
    ("training-data-2017", "testing-data-2017"),
    ("trainval", "test"),
    ("birds train", "birds test"),
    ("seg_train", "seg_test"),
    ("flowers-Training", "flowers-Validation"),
]
CLASSES = [
    ("steam train", "car"),
    ("steam train", "crash test"),
    ("train station", "test tube"),
    ("bullet_train", "maglev_train"),
    ("model train set", "test pattern"),
    ("trainers", "boots"),
    ("valid passport", "invalid passport"),
    ("dev board", "test board meeting"),
    ("evaluation form", "training shoe"),
    ("рельсы train", "test поле"),
    ("unlabelled parcel", "labelled parcel"),
    ("test", "steam train"),
]


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_whole_names_and_names_alike_but_for_the_word_are_splits(top, train, test):
    images = data.load(two_classes(top, train, test))
    assert images.classes == ("ant", "bee")
    assert counts(images) == (8, 4, 0)


@pytest.mark.parametrize("deep", [False, True], ids=["images", "folders of images"])
@pytest.mark.parametrize("names", CLASSES[:-1])
def test_names_that_only_hold_the_word_of_a_split_are_classes(top, names, deep):
    images = data.load(fill(top, **{f"{name}/old" if deep else name: 5 for name in names}))
    assert images.classes == tuple(sorted(names))
    assert counts(images) == (8, 2, 0)


@pytest.mark.parametrize("names", CLASSES)
def test_below_a_class_such_names_are_no_split(top, names):
    images = data.load(fill(top, **{f"vehicles/{name}": 5 for name in names}, other=5))
    assert images.classes == ("other", "vehicles")
    assert counts(images) == (12, 3, 0)


@pytest.mark.parametrize(("train", "test"), SPLITS[:7])
def test_below_a_class_whole_names_are_refused(top, train, test):
    fill(top, **{f"ant/{train}": 4, f"ant/{test}": 2, "bee": 4})
    refused(top, f"ant: holds .*{train}.*, a split below a class; allowed: train/<class>/")


def test_folders_of_different_splits_with_some_of_the_same_classes_are_refused(top):
    fill(top, **{f"bird_train/{name}": 4 for name in "abc"})
    fill(top, **{f"birds_test/{name}": 2 for name in "ab"})
    refused(top, "bird_train/ and birds_test/ both hold a, b, like splits; allowed: train/<class")


def test_unlabelled_images_alone_are_refused(top):
    refused(fill(top, unlabelled=3), "unlabelled images only; allowed: classes of images beside")


def test_unlabelled_images_are_known_by_their_siblings(top):
    two_classes(top, "birds_train", "birds_test")
    put(top / "birds_unlabelled", 3)
    assert counts(data.load(top)) == (8, 4, 3)


@pytest.mark.parametrize("word", ["tulip", "contest", "strain", "latest", "invalid", "trains"])
def test_a_word_that_only_holds_one_is_no_split(top, word):
    assert folders.part_of(word) == ""
    images = data.load(fill(top, **{word: 5, "other": 5}))
    assert images.classes == tuple(sorted((word, "other")))


def test_validation_images_that_are_not_used_are_counted(top):
    two_classes(top, "train", "test")
    images = data.load(two_classes(top, "val"))
    assert counts(images) == (8, 4, 0)
    assert "8 in val/" in re.sub(r"4 in val/\w+/, 4 in val/\w+/", "8 in val/", str(images.notes))


@pytest.mark.parametrize("part", ["train", "Training", "x_train"])
def test_training_images_alone_are_split_by_seed_and_by_class(top, part):
    first, again, other = (
        data.load(two_classes(top, part, train_n=10), seed=seed) for seed in (0, 0, 1)
    )
    assert first.classes == ("ant", "bee")
    assert torch.bincount(first.test_labels).tolist() == [2, 2]
    assert torch.bincount(first.train_labels).tolist() == [8, 8]
    assert first.hash == again.hash != other.hash
    assert any("a fifth of each class, drawn by seed 0" in note for note in first.notes)


def test_unlabelled_images_join_a_split_that_is_drawn(top):
    two_classes(top, "Train", train_n=5)
    put(top / "Unlabeled", 3)
    assert counts(data.load(top)) == (8, 2, 3)


@pytest.mark.parametrize(
    ("parts", "facts"),
    [
        (("train", "Training", "test"), "Training/ and train/ both look like training images"),
        (("train_1", "train_2"), "train_1/ and train_2/ both"),
        (("test",), "test/, but no training images"),
        (("test", "val"), "test/ and val/, but no training images"),
        (("Prueba", "Entrenamiento"), "Entrenamiento, Prueba all hold the folders ant, bee"),
        (("fold1", "fold2", "fold3"), "fold1, fold2, fold3 all hold"),
        (("训练", "测试"), "all hold the folders ant, bee, like splits"),
    ],
)
def test_what_looks_like_a_split_and_cannot_be_placed_is_refused(top, parts, facts):
    for part in parts:
        two_classes(top, part)
    refused(top, f"my photos.*{facts}.*allowed: .*train/<class>/")


@pytest.mark.parametrize("name", ["Prüfung", "gallery", "测试"])
def test_a_folder_of_the_same_classes_beside_the_training_images_is_refused(top, name):
    two_classes(top, "Training", name)
    refused(top, f"{name}/ holds the classes of Training/ and may be the test images; allowed: t")
    put(top / name / "cat")  # other classes: no test set
    assert f"{name}/" in data.load(top).notes[1]


def test_a_split_below_each_class_is_refused(top):
    fill(top, ant__train=4, ant__test=2, bee__train=4, bee__test=2)
    refused(top, r"ant: holds test, train, a split below a class; allowed: train/<class>/")


def test_splits_without_classes_are_refused(top):
    refused(fill(top, train=4, test=2), r"train/0.png: is in no folder of a class")


@pytest.mark.parametrize("name", ["train", "Test images", "valid"])
def test_a_class_that_is_called_like_a_split_stays_one_and_it_is_said(top, name):
    images = data.load(fill(top, **{name: 5, "bus": 5}))
    assert images.classes == tuple(sorted((name, "bus")))
    assert f"{name}/ is taken for a class" in str(images.notes)
    assert data.load(two_classes(top.with_name("b"), "train/train", "test/train")).classes == (
        "ant",
        "bee",
    )


def test_folders_around_that_hold_no_images_besides_are_passed(top):
    two_classes(top, "CUB/images/train", "CUB/images/test")
    (top / "CUB/attributes").mkdir()
    (top / "CUB/attributes/all.csv").write_text("1")
    (top / "README").write_text("1")
    images = data.load(top)
    assert counts(images) == (8, 4, 0)
    assert "1 .csv, 1 without an ending" in str(images.notes)


def test_every_file_that_is_not_read_is_counted_by_its_ending(top):
    two_classes(top, "train", "test")
    for name in ("a.txt", "b.TXT", "train/ant/c.pdf", "train/d.json", "notes"):
        (top / name).write_text("1")
    put(top / "extra", 3)
    (line,) = (note for note in data.load(top).notes if "files that are no images" in note)
    for expected in ("2 .txt", "1 .pdf", "1 .json", "1 without an ending"):
        assert expected in line
    assert "images that are not read: 3 in extra/" in data.load(top).notes


def test_a_format_that_pillow_cannot_read_here_is_counted(top, monkeypatch):
    known = {k: v for k, v in folders.formats().items() if k not in (".heic", ".avif")}
    monkeypatch.setattr("kdlib.data.members.formats", lambda: known)
    two_classes(top, "train", "test")
    (top / "train/ant/a.heic").write_bytes(b"1")
    (top / "train/ant/b.AVIF").write_bytes(b"1")
    (line,) = (note for note in data.load(top).notes if "files that are no images" in note)
    assert "1 .heic" in line
    assert "1 .avif" in line
    assert "pillow-heif" in line


@pytest.mark.parametrize("ending", ["jfif", "avif", "JPG", "jpe", "webp", "tga", "jp2", "apng"])
def test_less_common_endings_are_read(top, ending):
    form = {"jfif": "JPEG", "jpe": "JPEG", "JPG": "JPEG", "apng": "PNG", "jp2": "JPEG2000"}
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            put(top / part / name, 1)
            file = top / part / name / "0.png"
            Image.open(file).save(file.with_suffix(f".{ending}"), form.get(ending, ending.upper()))
            file.unlink()
    images = data.load(top)
    assert counts(images) == (2, 2, 0)
    assert images.notes == ()


def test_a_photograph_is_turned_by_its_tag(top):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :8] = (250, 10, 10)  # red on the left
    for part, shift in (("train", 0), ("test", 1)):
        for turn, name in ((1, "as it is"), (6, "right"), (3, "half")):
            exif = Image.Exif()
            exif[0x0112] = turn
            file = top / part / name / "0.png"
            file.parent.mkdir(parents=True)
            side = wide if turn != 6 else wide.transpose(1, 0, 2)[::-1]
            Image.fromarray(np.ascontiguousarray(side) + shift).save(file, exif=exif)
    images = data.load(data.Source(str(top), size=8))
    upright, half, right = (images.train[i].float().mean(dim=(1, 2)) for i in range(3))
    raw = data.load(top)
    assert raw.train.shape == (3, 3, 8, 16)
    by_class = dict(zip(raw.classes, raw.train, strict=True))
    assert by_class["right"].equal(by_class["as it is"])
    assert by_class["half"].equal(by_class["as it is"].flip(1, 2))
    assert upright.equal(right)
    assert half[0] == upright[0]


def test_a_damaged_tag_of_a_sound_photograph_turns_nothing(top):
    two_classes(top, "train", "test")
    file = top / "train/ant/0.jpg"
    Image.open(top / "train/ant/0.png").save(file, exif=b"Exif\0\0MM\0*\0\0\xff\xff\1\2")
    (top / "train/ant/0.png").unlink()
    assert counts(data.load(top)) == (8, 4, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_colours_under_full_transparency_are_not_read(top, mode):
    shape = (8, 8, 2 if mode == "LA" else 4)
    for seed, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        pixels = np.random.default_rng(seed).integers(0, 250, shape, dtype=np.uint8)
        pixels[..., -1] = 255
        pixels[:4, :, -1] = 0  # the upper half is transparent
        picture = Image.fromarray(pixels, "LA" if mode == "LA" else "RGBA")
        if mode == "P":
            picture = picture.quantize(16)
        (top / place).mkdir(parents=True)
        picture.save(top / place / "0.png")
    images = data.load(top)
    assert images.train.shape == (2, 1 if mode == "LA" else 3, 8, 8)
    assert images.train[:, :, :4].unique().tolist() == [255]
    assert len(images.train[:, :, 4:].unique()) > 2


def test_what_is_half_transparent_is_mixed_with_white(top):
    for i, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (top / place).mkdir(parents=True)
        Image.new("RGBA", (8, 8), (10 * i, 0, 0, 128)).save(top / place / "0.png")
    image = data.load(top).train[0]
    assert image.unique().tolist() == [127]


def test_copies_of_test_images_are_left_out_of_a_drawn_training_set(top):
    fill(top, ant=10, bee=10)
    for i in range(10):  # each a second time
        (top / f"ant/copy {i}.png").write_bytes((top / f"ant/{i}.png").read_bytes())
    images = data.load(top)
    test = {x.numpy().tobytes() for x in images.test}
    assert not [x for x in images.train if x.numpy().tobytes() in test]
    (note,) = (note for note in images.notes if "left out" in note)
    left_out = 30 - len(images.train) - len(images.test)
    assert f"{left_out} training images are left out" in note
    assert left_out > 0


def test_a_test_set_that_was_trained_on_is_refused_with_an_example(top):
    two_classes(top, "train", "test")
    for name in ("ant", "bee"):
        file = top / "train" / name / "0.png"
        file.write_bytes((top / "test" / name / "1.png").read_bytes())
    refused(top, r"train/ant/0.png and .*test/ant/1.png are the same .*2 of 4 test images.*10%")


def test_a_single_copy_in_a_split_that_is_given_stays_and_is_said(top):
    two_classes(top, "train", "test", test_n=10)
    (top / "train/ant/0.png").write_bytes((top / "test/ant/1.png").read_bytes())
    images = data.load(top)
    assert counts(images) == (8, 20, 0)
    assert "1 training images are test images as well" in str(images.notes)


def test_images_that_are_all_equal_are_refused_with_the_cause(top):
    for i, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (top / name).mkdir(parents=True)
        Image.new("L", (8, 8), 7).save(top / name / f"{i}.png")
    refused(top, r"my photos: all 2 training images are equal")


def test_images_of_a_single_colour_are_counted(top):
    two_classes(top, "train", "test")
    Image.new("RGB", (8, 8), (7, 7, 7)).save(top / "train/ant/0.png")
    assert "training images of a single colour: 1" in data.load(top).notes


def test_images_that_hardly_differ_are_noted(top):
    for i, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (top / place).mkdir(parents=True)
        picture = Image.new("L", (64, 64), 7)
        picture.putpixel((i, 0), 9)
        picture.save(top / place / "0.png")
    assert "hardly differ: their standard deviation is 0.0" in str(data.load(top).notes)


def test_a_link_to_a_folder_around_it_is_not_followed(top):
    two_classes(top, "train", "test", train_n=2, test_n=1)
    (top / "train/ant/up").symlink_to(top)
    (top / "train/bee/loop").symlink_to(top / "train/bee")
    (top / "train/bee/outside").symlink_to(top.parent)
    images = data.load(top)
    assert counts(images) == (4, 2, 0)
    assert "train/ant/up, train/bee/loop, train/bee/outside" in str(images.notes)


def test_two_links_to_each_other_end(top, tmp_path):
    two_classes(top, "train", "test", train_n=2, test_n=1)
    for one, other in (("x", "y"), ("y", "x")):
        (tmp_path / one).mkdir(exist_ok=True)
        (tmp_path / one / "on").symlink_to(tmp_path / other)
    (top / "train/ant/more").symlink_to(tmp_path / "x")
    assert counts(data.load(top)) == (4, 2, 0)


def test_a_link_to_images_elsewhere_is_followed_once(top, tmp_path):
    put(tmp_path / "store/ant", 5)
    put(top / "bee", 5)
    (top / "ant").symlink_to(tmp_path / "store/ant")
    (top / "formica").symlink_to(tmp_path / "store/ant")
    images = data.load(top)
    assert images.classes == ("ant", "bee")
    assert counts(images) == (8, 2, 0)
    assert "formica" in str(images.notes)


@pytest.mark.parametrize("name", ["قطة", "猫", "🦜", "👩‍🔬", "ünïcödé", "क्षत्रिय"])
def test_classes_may_be_named_in_any_script(top, name):
    images = data.load(fill(top, **{name: 5, "bee": 5}))
    assert set(images.classes) == {"bee", unicodedata.normalize("NFC", name)}
    assert unicodedata.normalize("NFC", name) in images.summary


def test_one_class_written_in_two_forms_of_unicode_is_one(top):
    for part in ("train", "test"):
        put(top / part / "bee", 2)
        put(top / part / unicodedata.normalize("NFD" if part == "train" else "NFC", "élan"), 2)
    assert data.load(top).classes == ("bee", "élan")


def test_what_moves_the_cursor_is_escaped_where_it_is_said(top):
    images = data.load(fill(top, **{"a\x1b[2Jnt": 5, "b\u202eee\n": 5}))
    assert "a\\x1b[2Jnt" in images.summary
    assert "b\\u202eee\\n" in images.summary


def test_the_summary_lists_classes_with_their_counts_and_what_was_left_out(top):
    two_classes(top, "Training", "Testing")
    put(top / "unlabelled", 3)
    (top / "labels.csv").write_text("1")
    lines = data.load(top).summary.splitlines()
    assert re.fullmatch(r"my-photos-\w{8}: 2 classes, 8 x 8 pixels, colour", lines[0])
    assert lines[1] == "8 training, 4 test, 3 unlabelled images"
    assert [line.split() for line in lines[3:5]] == [["4", "2", "ant"], ["4", "2", "bee"]]
    assert "1 .csv" in lines[5]
    assert data.load(top).summary.splitlines() == lines  # from the cache, too


def test_the_summary_of_many_classes_is_short(digits):
    many = digits._replace(
        train_labels=torch.arange(len(digits.train)) % 100,
        test_labels=torch.arange(len(digits.test)) % 100,
        classes=tuple(map(str, range(100))),
    )
    assert len(many.summary.splitlines()) == 24
    assert many.summary.splitlines()[-1] == "... and 80 more; 12 to 13 training, 5 test images each"
