import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from kdlib import UsageError
from kdlib.plan import runs, source, studies
from kdlib.plan.source import Source

HOME = "HOME" if os.name == "posix" else "USERPROFILE"
POSIX = pytest.mark.skipif(os.name != "posix", reason="paths are others here")


@pytest.fixture
def birds(tmp_path):
    """A folder of files; what is in them does not matter here."""
    return write(tmp_path / "birds")


def write(folder, owl=b"owl"):
    for name, content in {"owl/1.png": owl, "owl/2.png": b"2", "wren/1.png": b"wren"}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def zipped(folder, file):
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            member = zipfile.ZipInfo(str(path.relative_to(folder)))  # of one date always
            archive.writestr(member, path.read_bytes())
    return file


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "digits"),
        ({"dataset": "cifar10", "size": 16, "grey": True}, "cifar10+size=16+grey"),
        ({"dataset": "cifar10", "train_images": 100}, "cifar10+train_images=100"),
    ],
)
def test_a_published_set_goes_by_its_name_and_how_it_is_read(options, name):
    assert Source(**options).name == name
    assert Source(**options).path is None


@pytest.mark.parametrize("spelling", ["folder:{}", "{}", "{}/", "folder:{}/"])
def test_a_path_is_known_with_and_without_its_prefix(birds, spelling):
    given = Source(spelling.format(birds))
    assert given.path == birds
    assert given.name == Source(str(birds)).name


@pytest.mark.parametrize("spelling", ["birds.zip", "./birds.zip", "folder:birds.zip"])
def test_an_archive_here_needs_no_prefix(birds, monkeypatch, spelling):
    zipped(birds, birds.parent / "birds.zip")
    monkeypatch.chdir(birds.parent)
    run = runs.Teacher(dataset=spelling)
    assert run.source.path == birds.parent / "birds.zip"
    assert run.folder.parts[:2] == ("runs", "quick")
    assert run.folder.parts[2].startswith("birds-")


def test_a_class_that_is_deleted_makes_another_study(birds):
    def study():
        return studies.Study(name="mine", dataset=str(birds))

    before = study()
    assert study().root == before.root
    shutil.rmtree(birds / "wren")
    assert study().root != before.root
    assert study().source.hash != before.source.hash


def test_the_contents_of_a_folder_are_read_once_for_each_listing(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    first = Source(str(birds)).hash
    monkeypatch.setattr(source, "file_hash", None)  # would be called to read a file
    assert Source(str(birds)).hash == first
    (birds / "wren/1.png").unlink()
    with pytest.raises(TypeError):
        _ = Source(str(birds)).hash


@POSIX
def test_each_real_folder_counts_once_however_many_links_lead_to_it(birds, tmp_path):
    before = Source(str(birds))
    files, digest = before.files, before.hash
    (birds / "owl/up").symlink_to(birds.parent)
    (birds / "wren/owls").symlink_to(birds / "owl")
    (birds / "here").symlink_to(birds)
    assert Source(str(birds)).files == files
    assert Source(str(birds)).hash == digest
    assert source.below(birds).links == ["here", "owl/up", "wren/owls"]
    other = write(tmp_path / "elsewhere")
    for name in ("first", "second"):
        (birds / name).symlink_to(other / "owl")
    assert source.below(birds).files[:2] == ["first/1.png", "first/2.png"]
    assert "second" in source.below(birds).links


def test_a_path_may_be_relative_or_in_the_home_of_the_user(birds, monkeypatch):
    monkeypatch.chdir(birds.parent)
    monkeypatch.setenv(HOME, str(birds.parent))
    assert Source("birds").path == Source("folder:birds").path == Source("~/birds").path == birds


def test_a_name_wins_over_a_folder_of_that_name_unless_the_prefix_says_folder(
    tmp_path, monkeypatch
):
    write(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert Source("digits").path is None
    assert Source("folder:digits").path == tmp_path / "digits"
    assert Source("folder:digits").name != "digits"


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("flowers.zip", "flowers-"),
        ("Flowers.ZIP", "Flowers-"),
        ("my flowers (2).zip", "my-flowers-2-"),
        ("\u82b1.zip", "images-"),
        ("x" * 90 + ".zip", "x" * 40 + "-"),
    ],
)
def test_the_name_of_an_archive_is_short_and_plain_and_bears_its_hash(birds, file, start):
    given = Source(str(zipped(birds, birds.parent / file)), size=32)
    assert given.name == f"{start}{given.hash}+size=32"
    assert re.fullmatch(r"[A-Za-z0-9._=+-]+", given.name)


def test_two_sets_of_one_name_differ_and_a_copy_is_the_same(birds, tmp_path):
    other = write(tmp_path / "elsewhere/birds", owl=b"another owl")
    copy = shutil.copytree(birds, tmp_path / "copy/birds")
    assert Source(str(birds)).name != Source(str(other)).name
    assert Source(str(birds)).name == Source(str(copy)).name
    first, changed, same = (
        Source(str(zipped(folder, folder.parent / "birds.zip"))) for folder in (birds, other, copy)
    )
    assert first.name == same.name != changed.name


@pytest.mark.parametrize(
    "change",
    [
        lambda birds: (birds / "owl/1.png").write_bytes(b"OWL"),
        lambda birds: (birds / "owl/3.png").write_bytes(b"3"),
        lambda birds: (birds / "owl/2.png").unlink(),
        lambda birds: (birds / "owl/2.png").rename(birds / "wren/2.png"),
    ],
)
def test_a_folder_that_changes_has_another_hash_and_listing(birds, change):
    before = Source(str(birds))
    hash_before, listing_before = before.hash, before.listing
    change(birds)
    assert Source(str(birds)).hash != hash_before
    assert before.listing != listing_before


def test_all_files_of_a_folder_are_listed_but_hidden_ones(birds):
    before = Source(str(birds)).hash
    for name in (".DS_Store", ".git/x", "__MACOSX/owl/1.png", "owl/.2.png"):
        (birds / name).parent.mkdir(parents=True, exist_ok=True)
        (birds / name).write_bytes(b"x")
    given = Source(str(birds))
    assert given.files == [birds / "owl/1.png", birds / "owl/2.png", birds / "wren/1.png"]
    assert given.hash == before


def test_an_archive_is_one_file_and_digits_is_that_of_scikit_learn(birds):
    file = zipped(birds, birds.parent / "birds.zip")
    assert Source(str(file)).files == [file]
    (csv,) = Source("digits").files
    assert csv.name == "digits.csv.gz"
    assert csv.is_file()


def test_the_files_of_a_published_set_are_those_below_its_root(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    assert Source("cifar10").files == []
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"x")
    assert Source("cifar10").files == [tmp_path / "cifar-10-batches-py/test_batch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "digit"}, "'digit'.* digits, .*imagenette"),
        ({"dataset": "folder:"}, "'folder:'.* digits"),
        ({"dataset": ""}, "''.* digits"),
        ({"dataset": "/nowhere/flowers"}, r"nowhere[/\\]flowers .*folder"),
        ({"dataset": "flowers.zip"}, r"[/\\]flowers.zip .*folder"),
        pytest.param({"dataset": "~no-such-user/x"}, "is no path .*home folder", marks=POSIX),
        ({"dataset": "/x\0y/flowers"}, "no path"),
        pytest.param({"dataset": "/" + 5000 * "x"}, "no path .*too long", marks=POSIX),
        pytest.param({"dataset": os.devnull}, "device or a pipe", marks=POSIX),
        ({"dataset": "folder:flowers"}, r"[/\\]flowers .*folder"),
        ({"dataset": __file__}, r"test_source.py .*\.tar\.xz"),
        ({"size": 3}, "size 3;.* 4 to 1024"),
        ({"size": 5000}, "size 5000;.* 4 to 1024"),
        ({"train_images": 0}, "train_images 0;.* 1 or more"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        Source(**options)
    assert "\n" not in str(caught.value)


def test_cache_and_files_lie_where_the_environment_says(monkeypatch, tmp_path):
    for name in ("KDLIB_CACHE", "KDLIB_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (source.cache(), source.root()) == (tmp_path / "kdlib", tmp_path / "kdlib/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv(HOME, str(tmp_path))
    assert source.cache() == tmp_path / ".cache/kdlib"
    monkeypatch.setenv("KDLIB_DATA", "~/mine")
    assert source.root() == tmp_path / "mine"


def test_a_source_is_made_without_torch():
    code = (
        "import sys; from kdlib.plan import source; source.Source(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
