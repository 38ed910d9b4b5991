"""Archives and folders that claim more than they hold, or hold what is no image."""

import gzip
import io
import os
import re
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from kdlib import UsageError, data
from kdlib.data import members
from kdlib.plan import source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache for this test only."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))


def content(seed=0, form="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


NAMES = [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)]


def folder(path):
    for seed, name in enumerate(NAMES):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content(seed))
    return path


def refused(path, facts, **options):
    """One line, within seconds."""
    start = time.perf_counter()
    with pytest.raises(UsageError, match=facts) as caught:
        data.load(data.Source(str(path), **options))
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert "_io." not in str(caught.value)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_header_that_claims_more_than_there_is(tmp_path, suffix):
    for claimed, name in ((2**50, "ant/9.png"), (2**50, "ant/9.txt"), (2**33, "ant/9.png")):
        header = tarfile.TarInfo(name)
        header.size = claimed
        file = tmp_path / f"bomb{suffix}"
        packed = header.tobuf(tarfile.GNU_FORMAT) + bytes(9000)
        file.write_bytes(gzip.compress(packed) if suffix == ".tar.gz" else packed)
        refused(file, f"bomb{suffix}: '{name}' claims [0-9,]+ MiB; allowed: up to")


def test_a_zip_file_with_an_image_of_3_gib(tmp_path, monkeypatch):
    file = tmp_path / "bomb.zip"
    monkeypatch.setattr(members, "LARGEST_FILE", 2**20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ant/0.bmp", bytes(2**20 + 1))
    refused(file, "bomb.zip: 'ant/0.bmp' claims 1 MiB; allowed: up to 1 MiB")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_that_unpacks_to_many_times_its_size(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(source, "FLOOR", 2**20)
    file = tmp_path / f"bomb{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(40):
                archive.writestr(f"ant/{i}.bmp", bytes(2**20))
    else:
        with tarfile.open(file, "w:gz") as archive:
            for i in range(40):
                header = tarfile.TarInfo(f"ant/{i}.bmp")
                header.size = 2**20
                archive.addfile(header, io.BytesIO(bytes(2**20)))
    refused(file, f"bomb{suffix}: unpacks to more than 200 times its size")


def test_a_file_on_disk_that_is_larger_than_an_image_can_be(tmp_path):
    path = folder(tmp_path / "f")
    with (path / "ant/0.png").open("r+b") as file:
        file.truncate(members.LARGEST_FILE + 1)
    refused(path, "f/ant/0.png: 256 MiB; allowed: up to 256 MiB", size=8)


def test_an_image_of_few_bytes_and_too_many_pixels(tmp_path):
    path = folder(tmp_path / "f")
    data_of = content()
    at = data_of.index(b"IHDR") + 4
    wide = data_of[:at] + (2**17).to_bytes(4, "big") * 2 + data_of[at + 8 :]
    sound = wide[: at + 13] + zlib.crc32(wide[at - 4 : at + 13]).to_bytes(4, "big")
    (path / "ant/0.png").write_bytes(sound + wide[at + 17 :])
    refused(path, "f/ant/0.png: no readable image .*pixels", size=8)


def test_more_pixels_than_the_memory_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    refused(folder(tmp_path / "f"), "6 images of 8 x 8 pixels take .* smaller size")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["ant/9.png", "ant/9.txt"])
def test_a_pipe_is_no_image(tmp_path, name):
    path = folder(tmp_path / "f")
    os.mkfifo(path / name)
    refused(path, f"f/{name} is a pipe or a device")


def test_a_device_is_no_image_and_no_archive(tmp_path):
    path = folder(tmp_path / "f")
    (path / "ant/9.png").symlink_to("/dev/zero")
    refused(path, "f/ant/9.png is a pipe or a device")
    (tmp_path / "f.zip").symlink_to("/dev/zero")
    refused(tmp_path / "f.zip", "is a device or a pipe")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE])
def test_only_files_of_a_tar_archive_are_images(tmp_path, kind):
    with tarfile.open(tmp_path / "f.tar", "w") as archive:
        member = tarfile.TarInfo("ant/0.png")
        member.type = kind
        archive.addfile(member)
    refused(tmp_path / "f.tar", "'ant/0.png' is a (pipe or a device|link); only files")


def test_an_encrypted_member_is_one_line(tmp_path):
    file = tmp_path / "f.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for seed, name in enumerate(NAMES):
            archive.writestr(name, content(seed))
    raw = file.read_bytes()
    for at in (m.start() for m in re.finditer(rb"PK\x01\x02", raw)):
        raw = raw[: at + 8] + b"\1" + raw[at + 9 :]
    file.write_bytes(raw)
    refused(file, "f.zip: cannot be read .*")


def test_names_in_utf_8_that_is_not_declared_are_read(tmp_path):
    file = tmp_path / "f.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for seed, name in enumerate(NAMES):
            archive.writestr(name.replace("ant", "猫"), content(seed))
    raw = file.read_bytes()
    for mark, at in ((rb"PK\x01\x02", 8), (rb"PK\x03\x04", 6)):
        for start in (m.start() + at for m in re.finditer(mark, raw)):
            flags = int.from_bytes(raw[start : start + 2], "little") & ~0x800
            raw = raw[:start] + flags.to_bytes(2, "little") + raw[start + 2 :]
    file.write_bytes(raw)
    assert data.load(file).classes == ("bee", "猫")


def test_names_that_are_no_utf_8_are_read(tmp_path):
    path = folder(tmp_path / "f")
    (path / "ant").rename(os.fsdecode(os.fsencode(path) + b"/\xe4nt"))
    images = data.load(path)
    assert sorted(images.classes) == ["bee", "\ufffdnt"]
    assert "\ufffdnt" in images.summary


def test_a_file_of_another_format_than_images_runs_no_other_program(tmp_path):
    path = folder(tmp_path / "f")
    (path / "ant/0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    refused(path, "f/ant/0.png: no readable image")
