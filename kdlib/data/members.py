"""What a folder or an archive holds, read in place and within limits."""

from __future__ import annotations

import contextlib
import functools
import gzip
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image, features

from kdlib import UsageError
from kdlib.plan.source import MOST_FILES, RATIO, below, most_unpacked, suffix

LARGEST_FILE = 2**28  # bytes of one image: 256 MiB
LARGEST_SKIPPED = 2**34  # bytes of a file in an archive that is not read: 16 GiB
LARGEST_END = 2**26  # bytes of zeros at the end of a tar archive

# Endings of images, and what Pillow calls their format; it reads no other, whatever a file holds.
FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".heic", ".heif"), "HEIF"),  # with pillow-heif only
    **{".bmp": "BMP", ".dib": "DIB", ".gif": "GIF", ".webp": "WEBP", ".avif": "AVIF"},
    **{".tga": "TGA", ".qoi": "QOI"},
}
_LIBRARIES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


@functools.cache
def formats() -> dict[str, str]:
    """The formats that Pillow can read here, by ending, as `FORMATS`."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return {
        ending: name
        for ending, name in FORMATS.items()
        if name in Image.OPEN and (name not in _LIBRARIES or features.check(_LIBRARIES[name]))
    }


def ending(name: str) -> str:
    """The ending of a file's name, in small letters: ".png"; empty where it has none."""
    return PurePosixPath(name).suffix.lower()


def is_picture(name: str) -> bool:
    """Whether a member is an image that can be read, by its ending."""
    return not name.endswith("/") and ending(name) in formats()


Wanted = Callable[[str], bool]  # whether the content of a file is read, by its name


def members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Name of everything in a folder or archive, with its content where the name is wanted.

    Names of folders end with a slash. Archives are read from start to end, nothing is unpacked.
    Raises UsageError, one line, for what is damaged, leads out of the archive, or is larger than
    an image or a data set can be: that is found out before it is read.
    """
    walk = _in_tar
    if path.is_dir():
        walk = _on_disk
    elif suffix(path).lower() == ".zip":
        walk = _in_zip
    try:
        yield from walk(path, wanted)
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged archive raises
        raise UsageError(f"{path}: cannot be read ({str(error) or type(error).__name__})") from None


class _Budget:
    """Counts what is taken out of one archive. Raises UsageError where it is too much."""

    def __init__(self, path: Path):
        self.path, self.files, self.total = path, 0, 0
        self.most = most_unpacked(path)

    def take(self, name: str, size: int) -> None:
        """One more file of so many bytes, which is read if it is an image, or else skipped."""
        self.files, self.total = self.files + 1, self.total + size
        largest = LARGEST_FILE if is_picture(name) else LARGEST_SKIPPED
        if not 0 <= size <= largest:
            allowed = f"up to {largest / 2**20:,.0f} MiB"
            raise UsageError(
                f"{self.path}: {name!r} claims {size / 2**20:,.0f} MiB; allowed: {allowed}"
            )
        if self.total > self.most:
            raise UsageError(
                f"{self.path}: unpacks to more than {RATIO} times its size; allowed: less"
            )
        if self.files > MOST_FILES:
            raise UsageError(f"{self.path}: more than {MOST_FILES:,} files")


def _on_disk(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    there = below(path)
    for name in there.folders:
        yield f"{name}/", b""
    for name in there.files:
        yield name, _content(path / name) if wanted(name) else b""


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > LARGEST_FILE:
            raise UsageError(
                f"{file}: {size / 2**20:,.0f} MiB; allowed: up to {LARGEST_FILE / 2**20:,.0f} MiB"
            )
        return opened.read(LARGEST_FILE)


def _in_tar(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    unpack: Any = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open}.get(
        path.suffix.lower(), open
    )
    budget = _Budget(path)
    with unpack(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for member in iter(archive.next, None):
            archive.members.clear()  # type: ignore[attr-defined]  # or memory grows
            name = _relative(path, f"{member.name}/" if member.isdir() else member.name)
            if is_picture(name) and not member.isfile():
                kind = "link" if member.issym() or member.islnk() else "pipe or a device"
                raise UsageError(f"{path}: {name!r} is a {kind}; only files are read in an archive")
            budget.take(name, member.size)
            content = archive.extractfile(member) if wanted(name) else None
            yield name, content.read() if content else b""
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError where the archive ends too early.

    tarfile takes a header that is damaged or missing for the end.
    """
    rest: IO[bytes] = archive.fileobj  # type: ignore[assignment]
    missing = rest.tell() < archive.offset + tarfile.BLOCKSIZE  # type: ignore[attr-defined]
    length = 0
    for part in iter(lambda: rest.read(2**16), b""):
        missing |= bool(part.strip(b"\0"))
        length += len(part)
        if length > LARGEST_END:
            raise tarfile.ReadError(f"ends in more than {LARGEST_END / 2**20:,.0f} MiB of zeros")
    if missing:
        raise tarfile.ReadError("damaged or cut short")


def _in_zip(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    budget = _Budget(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _relative(path, _name_in_zip(member))
            if is_picture(name):
                budget.take(name, member.file_size)
            yield name, archive.read(member) if wanted(name) else b""


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """The name as UTF-8, which some programs write without saying so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


def _relative(path: Path, name: str) -> str:
    """./train//a.png as train/a.png; raises UsageError for a path out of the archive."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"{path}: {name!r} leads out of the archive")
    return f"{parts}/" if name.endswith("/") else str(parts)
