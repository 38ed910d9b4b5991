import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib import UsageError, data
from kdlib.data import dataset
from kdlib.plan import source

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache, and a folder of torchvision's files, for this test only."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "root"))
    return tmp_path / "cache"


def pixels(shape, seed):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(file, shape=(32, 32, 3), seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(shape, seed)).save(file)
    return file


def flowers(folder, shape=(32, 32, 3), train=6, test=3, unlabelled=0):
    """A folder of images as a new user has one: each differs, named by its order."""
    seed = 0
    for part, n in (("train", train), ("test", test)):
        for name in CLASSES:
            for i in range(n):
                picture(folder / part / name / f"{i}.png", shape, seed := seed + 1)
    for i in range(unlabelled):
        picture(folder / "unlabelled" / f"{i}.png", shape, seed := seed + 1)
    return folder


def packed(folder, suffix, around=""):
    file = folder.with_name(folder.name + suffix)
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.rglob("*"), reverse=True):
                archive.write(path, f"{around}{path.relative_to(folder)}")
    else:
        with tarfile.open(file, f"w:{suffix.removeprefix('.tar').removeprefix('.')}") as archive:
            for path in sorted(folder.rglob("*"), reverse=True):  # not in the order of names
                archive.add(path, f"{around}{path.relative_to(folder)}", recursive=False)
    return file


@pytest.mark.parametrize(("shape", "channels"), [((28, 28), 1), ((32, 32, 3), 3)])
def test_a_folder_is_read_bit_for_bit(tmp_path, shape, channels):
    images = data.load(flowers(tmp_path / "flowers", shape, unlabelled=4))
    side = shape[0]
    assert images.classes == CLASSES
    assert images.train.shape == (18, channels, side, side)
    assert images.test.shape == (9, channels, side, side)
    assert images.unlabelled.shape == (4, channels, side, side)
    assert images.train_labels.tolist() == [k for k in range(3) for _ in range(6)]
    assert (images.shift, images.flip) == (side // 8, channels == 3)
    every = torch.cat([images.train, images.test, images.unlabelled])
    for seed, got in enumerate(every.numpy(), 1):
        expected = pixels(shape, seed).reshape(side, side, channels)
        np.testing.assert_array_equal(got.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".tar", ".zip"])
def test_an_archive_is_read_in_place_as_its_folder(tmp_path, suffix):
    folder = flowers(tmp_path / "flowers", (8, 8, 3), unlabelled=2)
    file = packed(folder, suffix, around="./some-folder/")
    before = sorted(tmp_path.iterdir())
    images = data.load(file)
    assert images.hash == data.load(folder).hash
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "cache"])


def test_one_folder_of_classes_is_split_by_seed_a_fifth_of_each_class(tmp_path):
    for k, name in enumerate(CLASSES):
        for i in range(10):
            picture(tmp_path / "all" / name / f"{i}.png", (8, 8), seed=10 * k + i)
    first, again, other = (data.load(tmp_path / "all", seed=s) for s in (0, 0, 1))
    assert torch.bincount(first.train_labels).tolist() == [8, 8, 8]
    assert torch.bincount(first.test_labels).tolist() == [2, 2, 2]
    assert first.hash == again.hash != other.hash
    together = torch.cat([first.train, first.test]).flatten(1).tolist()
    assert sorted(together) == sorted(pixels((8, 8), s).flatten().tolist() for s in range(30))


def test_size_resizes_the_shorter_side_and_cuts_out_the_middle(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 7:23] = (250, 100, 0)  # the middle square and around it
    for seed, part in enumerate(("train", "test")):
        picture(tmp_path / "f" / part / "tall" / "0.png", (40, 12, 3), seed)
        (tmp_path / "f" / part / "wide").mkdir()
        Image.fromarray(wide + seed).save(tmp_path / "f" / part / "wide" / "0.png")
    images = data.load(data.Source(f"{tmp_path}/f", size=16))
    assert images.train.shape == (2, 3, 16, 16)
    assert images.train[1].flatten(1).T.unique(dim=0).tolist() == [[250, 100, 0]]
    grey = data.load(data.Source(f"{tmp_path}/f", size=16, grey=True))
    assert grey.train[1].unique().tolist() == [round(0.299 * 250 + 0.587 * 100)]


def test_grey_colour_and_16_bit_files_share_one_set(tmp_path):
    for part, seed in (("train", 0), ("test", 10)):
        picture(tmp_path / "f" / part / "colour" / "0.png", (8, 8, 3), seed)
        picture(tmp_path / "f" / part / "grey" / "0.png", (8, 8), seed)
        deep = pixels((8, 8), seed + 5).astype(np.uint16) * 256 + 7
        Image.fromarray(deep).save(tmp_path / "f" / part / "grey" / "1.png")
    images = data.load(tmp_path / "f")
    assert images.train.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(images.train[1], np.stack([pixels((8, 8), 0)] * 3))
    np.testing.assert_array_equal(images.train[2], np.stack([pixels((8, 8), 5)] * 3))


def refused(path, facts, **options):
    """Loading raises one line that holds these facts; nothing of it is cached."""
    with pytest.raises(UsageError, match=facts) as caught:
        data.load(data.Source(str(path), **options))
    assert "\n" not in str(caught.value)
    assert not list(source.cache().glob("*"))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty.* .bmp")


def test_a_corrupt_image_is_named(tmp_path):
    folder = flowers(tmp_path / "flowers")
    file = folder / "train/bee/3.png"
    whole = file.read_bytes()
    for broken in (b"", b"no image", whole[: len(whole) // 2], whole[:40] + bytes(9) + whole[49:]):
        file.write_bytes(broken)
        refused(folder, "flowers/train/bee/3.png")
    refused(packed(folder, ".tar.xz"), "flowers.tar.xz/train/bee/3.png")


def test_images_of_several_sizes_need_a_size(tmp_path):
    folder = flowers(tmp_path / "flowers")
    picture(folder / "train/cat/5.png", (20, 32, 3))
    refused(folder, r"train/cat/5.png.* 32 x 20.*test/ant/0.png.* 32 x 32.*size")
    assert data.load(data.Source(str(folder), size=8)).train.shape == (18, 3, 8, 8)


def test_an_empty_class_is_named(tmp_path):
    folder = flowers(tmp_path / "flowers")
    for part in ("train", "test"):
        (folder / part / "dog").mkdir()
    refused(folder, "flowers/train/dog")
    refused(packed(folder, ".tar.gz"), "flowers.tar.gz/train/dog")
    refused(packed(folder, ".zip"), "flowers.zip/train/dog")


def test_one_class_only_is_too_few(tmp_path):
    picture(tmp_path / "f/rose/0.png")
    picture(tmp_path / "f/rose/1.png", seed=1)
    refused(tmp_path / "f", "'rose'.* 2")


def test_a_class_of_one_image_cannot_be_split(tmp_path):
    for name in ("rose/0", "rose/1", "tulip/0"):
        picture(tmp_path / f"f/{name}.png")
    refused(tmp_path / "f", "'tulip'.* 1 image")


def test_train_and_test_hold_the_same_classes(tmp_path):
    folder = flowers(tmp_path / "flowers")
    picture(folder / "test/eel/0.png")
    refused(folder, "train/.*test/.* eel")


def test_an_image_in_no_class_is_named(tmp_path):
    folder = flowers(tmp_path / "flowers")
    picture(folder / "train/stray.png")
    refused(folder, "flowers/train/stray.png")


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".tar", ".zip"])
def test_an_archive_that_is_damaged_or_cut_short_is_named(tmp_path, suffix):
    file = packed(flowers(tmp_path / "flowers", (8, 8)), suffix)
    whole = file.read_bytes()
    for broken in (b"", b"no archive at all" * 99, whole[: len(whole) * 2 // 3]):
        file.write_bytes(broken)
        refused(file, f"flowers{suffix}")
    for at in (len(whole) // 3, len(whole) // 2):  # some bytes changed in the middle
        file.write_bytes(
            whole[:at] + bytes(b ^ 90 for b in whole[at : at + 600]) + whole[at + 600 :]
        )
        refused(file, f"flowers{suffix}")


def test_a_tar_file_that_ends_between_two_files_is_cut_short_all_the_same(tmp_path):
    file = packed(flowers(tmp_path / "flowers", (8, 8)), ".tar")
    with tarfile.open(file) as archive:
        middle = archive.getmembers()[12].offset
    file.write_bytes(file.read_bytes()[:middle])
    refused(file, "flowers.tar.*cut short")


def test_huge_images_need_a_size(tmp_path):
    for seed, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        picture(tmp_path / f"f/{name}.png", (1030, 8), seed)
    refused(tmp_path / "f", "f/a/0.png.* 1024 .*size")
    assert data.load(data.Source(f"{tmp_path}/f", size=8)).train.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["../out/0.png", "/out/0.png", "a/../../0.png", "..\\out\\0.png"])
def test_a_path_out_of_the_archive_is_refused(tmp_path, name):
    content = picture(tmp_path / "0.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr(name, content)
    refused(tmp_path / "f.zip", re.escape(repr(name)))
    with tarfile.open(tmp_path / "f.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    refused(tmp_path / "f.tar", re.escape(repr(name)))


def test_of_two_files_of_one_name_in_an_archive_the_later_counts(tmp_path):
    file = packed(flowers(tmp_path / "flowers", (8, 8)), ".tar")
    new = picture(tmp_path / "new.png", (8, 8), seed=99)
    with tarfile.open(file, "a") as archive:
        archive.add(new, "train/ant/0.png")
    images = data.load(file)
    assert len(images.train) == 18
    np.testing.assert_array_equal(images.train[0, 0], pixels((8, 8), 99))


def test_a_link_in_an_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "f.tar", "w") as archive:
        member = tarfile.TarInfo("train/a/0.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    refused(tmp_path / "f.tar", "'train/a/0.png'.* link")


def test_a_broken_link_in_a_folder_is_named(tmp_path):
    folder = flowers(tmp_path / "flowers")
    (folder / "train/ant/9.png").symlink_to(tmp_path / "nowhere.png")
    refused(folder, "flowers/train/ant/9.png")


def test_a_set_is_decoded_once_and_then_mapped_into_memory(tmp_path, cache):
    folder = flowers(tmp_path / "flowers", unlabelled=3)
    first = data.load(folder)
    (file,) = cache.glob("*.safetensors")
    written = file.stat().st_ino
    os.utime(file, (1e9, 1e9))
    again = data.load(folder)
    assert file.stat().st_ino == written
    assert time.time() - file.stat().st_mtime < 60  # of its last use
    assert again.hash == first.hash
    assert (again.mean, again.std) == (first.mean, first.std)
    assert [v for v in again if not torch.is_tensor(v)] == [
        v for v in first if not torch.is_tensor(v)
    ]


def test_everything_that_decides_what_is_read_is_in_the_name_of_the_cached_file(
    tmp_path, monkeypatch
):
    folder = flowers(tmp_path / "flowers")
    seen = []

    def name(seed=0, **how):
        seen.append(dataset._cache_file(source.Source(str(folder), **how), seed).name)

    name()
    name(seed=1)
    name(size=16)
    name(grey=True)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "READING", dataset.READING + 1)
        name()
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "__version__", "0")
        name()
    with monkeypatch.context() as patch:
        patch.setattr(dataset.members, "formats", dict)
        name()
    picture(folder / "train/ant/0.png", seed=99)
    name()
    (folder / "train/ant/0.png").rename(folder / "train/ant/00.png")
    name()
    assert len(set(seen)) == len(seen) == 9
    name(train_images=9)  # taken from the same file
    assert seen[-1] == seen[-2]


def test_a_changed_source_is_read_again(tmp_path, cache):
    folder = flowers(tmp_path / "flowers")
    first = data.load(folder)
    picture(folder / "train/ant/0.png", seed=99)
    assert data.load(folder).hash != first.hash
    picture(folder / "train/ant/0.png", seed=1)
    assert data.load(folder).hash == first.hash
    assert len(list(cache.glob("*.safetensors"))) == 3


def test_a_damaged_cache_is_made_again(tmp_path, cache):
    folder = flowers(tmp_path / "flowers")
    expected = data.load(folder).hash
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    assert data.load(folder).hash == expected


def test_a_cache_that_cannot_be_written_names_its_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="KDLIB_CACHE"):
        data.load(flowers(tmp_path / "flowers"))


@pytest.mark.parametrize(
    "damage", [b"", b"\x02" + bytes(7) + b"{}", b"\xff" * 99], ids=["empty", "other", "huge"]
)
def test_a_file_of_the_cache_that_is_another_is_made_again(tmp_path, cache, damage):
    folder = flowers(tmp_path / "flowers")
    expected = data.load(folder).hash
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(damage)
    assert data.load(folder).hash == expected


DAY = 86_400


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"a": (91, 1), "b": (89, 1)}, "b"),  # unused for 90 days
        ({"a": (10, 4), "b": (9, 4), "c": (8, 4)}, "bc"),  # the longest unused above the limit
        ({"a": (0.5, 9), "b": (6.5, 9), "c": (8, 1)}, "ab"),  # but none of the last week
        ({"a": (-100, 1), "b": (91, 1)}, "a"),  # a clock that jumped
    ],
)
def test_old_files_of_the_cache_are_deleted(tmp_path, monkeypatch, files, left):
    monkeypatch.setattr(dataset, "CACHE", 8)
    now = time.time()
    for name, (days, size) in files.items():
        for ending in ("safetensors", "txt"):
            file = tmp_path / f"{name}-{'0' * 16}.{ending}"
            file.write_bytes(bytes(size))
            os.utime(file, (now - days * DAY,) * 2)
    dataset.prune(tmp_path)
    (tmp_path / "my-model.safetensors").write_bytes(b"")
    os.utime(tmp_path / "my-model.safetensors", (0, 0))
    dataset.prune(tmp_path)
    kept = {file.name for file in tmp_path.glob("*.safetensors")}
    assert kept == {"my-model.safetensors", *(f"{name}-{'0' * 16}.safetensors" for name in left)}
    assert len([*tmp_path.glob("*.txt")]) == len(files)  # nobody else's


def test_what_a_killed_process_left_in_the_cache_is_deleted_the_day_after(tmp_path):
    for name, days in (("a", 2), ("b", 0)):
        part = tmp_path / f"{name}-{'0' * 16}.123.part"
        part.write_bytes(b"")
        os.utime(part, (time.time() - days * DAY,) * 2)
    dataset.prune(tmp_path)
    assert [file.name[0] for file in tmp_path.iterdir()] == ["b"]


def test_two_processes_share_a_cache(tmp_path, cache):
    folder = flowers(tmp_path / "flowers")
    code = f"from kdlib import data; print(data.load({str(folder)!r}).hash)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert {out.strip() for out, _ in said} == {data.load(folder).hash}, said
    assert len(list(cache.glob("*.*"))) == 1


# torchvision's sets, from files as they lie below its root


def idx(file, values):
    """LeCun's format of MNIST."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    file.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize(
    ("name", "place"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_files_of_torchvision_are_read_where_they_lie(name, place):
    for part, n in (("train", 20), ("t10k", 10)):
        raw = source.root() / place / "raw"
        idx(raw / f"{part}-images-idx3-ubyte", pixels((n, 28, 28), n))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    images = data.load(name)
    np.testing.assert_array_equal(images.train[:, 0], pixels((20, 28, 28), 20))
    np.testing.assert_array_equal(images.test[:, 0], pixels((10, 28, 28), 10))
    assert images.train_labels.tolist() == [*range(10), *range(10)]
    assert (images.name, len(images.classes), images.shift) == (name, 10, 3)
    assert images.flip == (name == "fashionmnist")
    assert data.load(name).hash == images.hash


def test_emnist_stands_upright():
    raw = source.root() / "EMNIST/raw"
    for part, n in (("train", 94), ("test", 47)):
        idx(raw / f"emnist-balanced-{part}-images-idx3-ubyte", pixels((n, 28, 28), n))
        idx(raw / f"emnist-balanced-{part}-labels-idx1-ubyte", np.arange(n) % 47)
    images = data.load("emnist")
    np.testing.assert_array_equal(images.train[:, 0], pixels((94, 28, 28), 94).transpose(0, 2, 1))
    assert len(images.classes) == 47


def test_a_set_without_test_images_is_split(tmp_path):
    for k in range(10):
        for i in range(5):
            picture(source.root() / f"eurosat/2750/K{k}/{i}.jpg", (64, 64, 3), seed=5 * k + i)
    images = data.load("eurosat")
    assert torch.bincount(images.train_labels).tolist() == [4] * 10
    assert torch.bincount(images.test_labels).tolist() == [1] * 10
    assert images.classes[3] == "K3"


def test_images_of_many_sizes_come_in_the_size_of_the_table():
    for part in ("train", "val"):
        for k, name in enumerate(("n01440764", "n02102040")):
            for i in range(2):
                file = source.root() / f"imagenette2-160/{part}/{name}/{i}.JPEG"
                picture(file.with_suffix(".jpeg"), (160, 170 + i + k, 3))
    images = data.load("imagenette")
    assert images.train.shape == (4, 3, 64, 64)
    assert images.classes == ("tench", "English springer")
    assert data.load(data.Source("imagenette", size=32)).test.shape == (4, 3, 32, 32)


def test_the_unlabelled_part_of_stl10_joins_the_pool(monkeypatch):
    import hashlib

    from kdlib.vision import torchvision

    folder = source.root() / "stl10_binary"
    folder.mkdir(parents=True)
    sums = {}
    for part, n in (("train", 4), ("test", 2), ("unlabeled", 3)):
        files = {f"{part}_X.bin": pixels((n, 3, 96, 96), n), f"{part}_y.bin": np.arange(n) % 2 + 1}
        for name, values in files.items():
            (folder / name).write_bytes(values.astype(np.uint8).tobytes())
            sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    for listed in ("train_list", "test_list"):  # the sums of the real files
        own = [[name, sums.get(name)] for name, _ in getattr(torchvision.datasets.STL10, listed)]
        monkeypatch.setattr(torchvision.datasets.STL10, listed, own)
    images = data.load("stl10")
    np.testing.assert_array_equal(
        images.unlabelled, pixels((3, 3, 96, 96), 3).transpose(0, 1, 3, 2)
    )
    assert images.train.shape == (4, 3, 96, 96)
    assert images.train_labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", source.TORCHVISION)
def test_without_files_and_network_one_line_names_the_places(name, monkeypatch):
    for protocol in ("http_proxy", "https_proxy"):  # nobody listens there
        monkeypatch.setenv(protocol, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    where = str(source.root() / source.TORCHVISION[name].files).replace("*", r"\*")
    with pytest.raises(UsageError, match=f"{name}.*{where}") as caught:
        data.load(name)
    assert "KDLIB_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_jpeg_copy_of_cifar10_is_ready_within_2_seconds_and_400_mb(tmp_path):
    if not (file := os.environ.get("KDLIB_JPEG_CIFAR10")):
        pytest.skip("KDLIB_JPEG_CIFAR10 names no archive of CIFAR-10's images as JPEG files")
    images = data.load(file)
    assert images.train.shape == (50_000, 3, 32, 32)
    assert torch.bincount(images.test_labels).tolist() == [1000] * 10
    assert images.classes[0] == "airplane"
    code = """if True:
        import pathlib, sys, time
        resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
        before = resident()
        from kdlib import data
        start = time.perf_counter()
        images = data.load(sys.argv[1])
        print(time.perf_counter() - start, (resident() - before) / 1e6)"""
    command = [sys.executable, "-c", code, file]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 2
    assert megabytes < 400
