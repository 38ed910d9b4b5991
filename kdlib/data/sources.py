"""Where images come from: folders, archives read in place, and torchvision's sets. No torch."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from tqdm import tqdm

from kdlib import UsageError
from kdlib.plan import source
from kdlib.plan.source import ARCHIVES, LARGEST, TORCHVISION

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
UNLABELLED = {"unlabelled", "unlabeled"}
TEST_SHARE = 0.2  # of each class, where a source has no test images of its own
BROKEN: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, tarfile.TarError)
BROKEN += (zipfile.BadZipFile, lzma.LZMAError, zlib.error)
NO_PICTURE: tuple[type[Exception], ...] = (SyntaxError, ValueError, Image.DecompressionBombError)
NO_PICTURE += BROKEN

BAR = partial(tqdm, delay=2, mininterval=2, leave=False)

Found = tuple[int, str, Callable[[], Any]]  # row, name, and what opens it as a PIL image


class Listing(NamedTuple):
    """What a source holds, before any picture is decoded: to train, to test, then unlabelled."""

    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]  # of the pictures to train and to test
    counts: tuple[int, int, int]  # pictures to train, to test, unlabelled
    pictures: Callable[[], Iterable[Found]]  # in any order
    flip: bool | None  # may be mirrored; None: where it has colours
    size: int | None = None  # the side to bring them to where none is asked for


def held_out(labels: Int[np.ndarray, " n"], seed: int) -> np.ndarray:
    """Which images are kept for the test, drawn by `seed`: a fifth of every class, one at least."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for k in np.unique(labels):
        own = order[labels[order] == k]
        test[own[: max(1, round(TEST_SHARE * len(own)))]] = True
    return test


# Folders and archives


def folder(path: Path, seed: int) -> Listing:
    """The pictures of a folder or an archive, with or without one folder around.

    Either train/<class>/ and test/<class>/ (other folders beside them are not read), or <class>/
    alone, split by `seed`; and unlabelled/. Raises UsageError, one line that names the file, for
    what is missing, empty, unreadable, or leads out of the archive.
    """
    names = {name for name, _ in BAR(_members(path, lambda name: False), "looking through files")}
    names = {name for name in names if not re.search(r"(^|/)(\.|__MACOSX/)", name)}
    top = _around(path, names)
    names = {name.removeprefix(top) for name in names}
    pool = sorted(name for name in names if _pooled(name) and _is_picture(name))
    where = f"{path}/{top}"
    if {name.split("/")[0] for name in names} & {"train", "test"}:
        classes, labels, rows, n = _split_as_given(where, names)
    else:
        classes, labels, rows, n = _split_by_seed(where, names, seed)
    slots = {top + name: row for row, name in enumerate(rows + pool)}
    counts = (n, len(rows) - n, len(pool))
    return Listing(classes, labels, counts, partial(_opened, path, slots), None)


_Split = tuple[
    tuple[str, ...], np.ndarray, list[str], int
]  # classes, labels, names, how many train


def _split_as_given(where: str, names: set[str]) -> _Split:
    classes, train_labels, train = _labelled(where, names, "train/")
    others, test_labels, test = _labelled(where, names, "test/")
    if classes != others:
        differ = ", ".join(sorted({*classes} ^ {*others}))
        raise UsageError(f"{where}: not both in train/ and in test/: class {differ}")
    return classes, np.concatenate([train_labels, test_labels]), train + test, len(train)


def _split_by_seed(where: str, names: set[str], seed: int) -> _Split:
    names = {name for name in names if not _pooled(name)}
    classes, labels, rows = _labelled(where, names, "")
    for k in np.flatnonzero(np.bincount(labels) < 2):
        raise UsageError(f"{where}{classes[k]}: class {classes[k]!r} has 1 image, too few to split")
    test = held_out(labels, seed)
    order = np.argsort(test, kind="stable")
    return classes, labels[order], [rows[i] for i in order], int((~test).sum())


def _around(path: Path, names: set[str]) -> str:
    """The folders around everything, as in flowers/train/...: "flowers/"."""
    pictures = [name for name in names if _is_picture(name)]
    if not pictures:
        raise UsageError(f"{path}: no images in there; known are {' '.join(sorted(PICTURES))}")
    top = ""
    while True:
        inside = [name.removeprefix(top) for name in names if name.startswith(top)]
        heads = {name.split("/")[0] for name in inside if "/" in name}
        deep = all(name.removeprefix(top).count("/") > 1 for name in pictures)
        if len(heads) > 1 or not deep or heads & {"train", "test", *UNLABELLED}:
            return top
        top += f"{heads.pop()}/"


def _labelled(
    where: str, names: set[str], part: str
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Classes, labels, and names of the pictures below `part`, one folder per class."""
    below = [name.removeprefix(part) for name in names if name.startswith(part)]
    rows = sorted(name for name in below if _is_picture(name))
    for row in rows:
        if "/" not in row:
            raise UsageError(f"{where}{part}{row}: lies in no folder of a class")
    classes = sorted({name.split("/")[0] for name in below if "/" in name})
    if len(classes) < 2:
        only = f"only class {classes[0]!r}" if classes else "no folder of a class"
        raise UsageError(f"{where}{part}: {only} in there; needs 2 classes or more")
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[row.split("/")[0]] for row in rows], dtype=np.int64)
    for k in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
        raise UsageError(f"{where}{part}{classes[k]}: no images of this class")
    return tuple(classes), labels, [part + row for row in rows]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES and not name.endswith("/")


def _pooled(name: str) -> bool:
    return name.split("/")[0] in UNLABELLED


def _opened(path: Path, slots: dict[str, int]) -> Iterator[Found]:
    for name, content in _members(path, slots.__contains__):
        if name in slots:
            yield slots[name], f"{path}/{name}", partial(Image.open, io.BytesIO(content))


def _members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of all that lies at `path`, content of what is wanted only.

    Folders end with a slash. Archives are gone through from start to end, nothing is unpacked.
    """
    known = next((suffix for suffix in ARCHIVES if path.name.lower().endswith(suffix)), None)
    if not path.is_dir() and not (path.is_file() and known):
        there = (
            "neither a folder nor one of" if path.exists() else "not there; allowed: a folder or"
        )
        raise UsageError(f"folder:{path}: {there} {' '.join(ARCHIVES)}")
    walk = _on_disk if path.is_dir() else _in_zip if known == ".zip" else _in_tar
    try:
        yield from walk(path, wanted)
    except BROKEN as error:
        raise UsageError(f"{path}: cannot be read ({str(error) or type(error).__name__})") from None


def _on_disk(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    def stop(error: OSError) -> None:
        raise error

    for within, folders, files in os.walk(path, onerror=stop, followlinks=True):
        folders.sort()
        below = Path(within).relative_to(path)
        if below.parts:
            yield f"{below.as_posix()}/", b""
        for file in sorted(files):
            name = (below / file).as_posix()
            yield name, (path / name).read_bytes() if wanted(name) else b""


def _in_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    unpack: Any = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open}.get(
        path.suffix.lower(), open
    )
    with unpack(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for member in iter(archive.next, None):
            archive.members.clear()  # type: ignore[attr-defined]  # or all are kept
            name = _plain(path, member.name + "/" * member.isdir())
            if (member.issym() or member.islnk()) and _is_picture(name):
                raise UsageError(f"{path}: {name!r} is a link; only files are read in an archive")
            content = archive.extractfile(member) if member.isfile() and wanted(name) else None
            yield name, content.read() if content else b""
        rest: Any = archive.fileobj  # tarfile takes a header that is damaged or missing for the end
        missing = rest.tell() < archive.offset + tarfile.BLOCKSIZE  # type: ignore[attr-defined]
        if missing or any(part.strip(b"\0") for part in iter(lambda: rest.read(2**16), b"")):
            raise tarfile.ReadError("damaged or cut short")


def _in_zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = _plain(path, member)
            yield name, archive.read(member) if wanted(name) else b""


def _plain(path: Path, name: str) -> str:
    """./train//a.png as train/a.png. Raises UsageError where it leads out of the archive."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"{path}: {name!r} leads out of the archive")
    return str(parts) + "/" * name.endswith("/")


# Pictures


def decode(
    found: Iterable[Found], count: int, size: int | None, grey: bool
) -> UInt8[np.ndarray, "n c h w"]:
    """Decode all pictures into one array: grey where all of them are, or where `grey` says so.

    With `size` the shorter side is brought to it and the middle is cut out; without, all have to
    be of one size. Raises UsageError, naming the file, for one that is not, or is damaged.
    """
    stack, read, coloured, first = np.empty((0,)), np.zeros(count, dtype=bool), False, ""
    for row, name, open_one in BAR(found, "reading images", count):
        pixels = _pixels(name, open_one, size, grey)
        sides = pixels.shape[1:]
        if not first:
            if max(sides) > LARGEST:
                raise UsageError(f"{name}: more than {LARGEST} pixels wide or high: give a size")
            stack, first = np.empty((count, 1 if grey else 3, *sides), np.uint8), name
        if sides != stack.shape[2:]:
            one, other = (f"{w} x {h}" for h, w in (sides, stack.shape[2:]))
            raise UsageError(
                f"{name} is {one}, {first} is {other}: give a size, such as size=32, "
                "and all are brought to it"
            )
        stack[row], read[row] = pixels, True
        coloured |= len(pixels) == 3
    if not read.all():
        raise UsageError(f"{(~read).sum()} of {count} images beside {first} are no longer there")
    return stack if coloured or grey else np.ascontiguousarray(stack[:, :1])


def _pixels(
    name: str, open_one: Callable[[], Any], size: int | None, grey: bool
) -> UInt8[np.ndarray, "c h w"]:
    try:
        image = open_one()
        if image.mode.startswith("I;16"):  # 16 bits: the upper 8 of them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError("32 bits per pixel; allowed: 8 or 16")
        image = image.convert("L" if grey or image.mode in ("1", "L", "LA") else "RGB")
    except NO_PICTURE as error:
        raise UsageError(f"{name}: no readable image ({error})") from None
    if size is not None:
        side, (w, h) = min(image.size), image.size
        box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# torchvision


def torchvision(name: str, seed: int) -> Listing:
    """One of torchvision's data sets, from its files below `root`, or downloaded to there."""
    own = TORCHVISION[name]
    train, test, pool = (
        [_part(name, options) for options in part] for part in (own.train, own.test, own.unlabelled)
    )
    labels = np.concatenate([np.asarray(_labels(part), np.int64) for part in train + test])
    n = sum(map(len, train))
    order = np.arange(len(labels))
    if not test:
        held = held_out(labels, seed)
        order, n = np.argsort(held, kind="stable"), int((~held).sum())
    known = getattr(train[0], "classes", None) or range(int(labels.max()) + 1)
    classes = tuple(str(k[0] if isinstance(k, tuple) else k) for k in known)
    counts = (n, len(labels) - n, sum(map(len, pool)))

    def pictures() -> Iterator[Found]:
        rows = iter([*np.argsort(order), *range(len(order), sum(counts))])
        for part in train + test + pool:
            for i in range(len(part)):
                picture = partial(_picture, part, i, own.transposed)
                yield int(next(rows)), f"{name}, image {i}", picture

    return Listing(classes, labels[order], counts, pictures, own.flip, own.size)


def _picture(part: Any, i: int, transposed: bool) -> Any:
    image = part[i][0]
    return image.transpose(Image.Transpose.TRANSPOSE) if transposed else image


def _part(name: str, options: dict[str, Any]) -> Any:
    from kdlib.vision import torchvision as library

    own = TORCHVISION[name]
    make = partial(getattr(library.datasets, own.kind), source.root(), **options)
    try:
        return make()
    except (RuntimeError, OSError):
        pass  # not there, or not whole
    try:
        return make(download=True)
    except Exception as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"{name}: not in {source.root() / own.files}, and no download ({why}); put its files there, "
            "or name the folder that holds them in KDLIB_DATA"
        ) from None


def _labels(part: Any) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(part, attribute):
            return getattr(part, attribute)
    return [label for _, label in part._samples]
