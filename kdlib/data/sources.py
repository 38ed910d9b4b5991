"""Read the images of folders, of archives in place, of torchvision's sets, as NumPy arrays."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from kdlib import UsageError
from kdlib.plan import source
from kdlib.plan.source import LARGEST, TORCHVISION, hidden, suffix

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
UNLABELLED = {"unlabelled", "unlabeled"}
TEST_SHARE = 0.2  # of each class, where a source has no test images of its own
BROKEN: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, tarfile.TarError)
BROKEN += (zipfile.BadZipFile, lzma.LZMAError, zlib.error)
NO_PICTURE: tuple[type[Exception], ...] = (SyntaxError, ValueError, Image.DecompressionBombError)
NO_PICTURE += BROKEN

BAR = partial(tqdm, delay=2, mininterval=2, leave=False)

Picture = tuple[int, str, Callable[[], Any]]  # row, name, and what opens it as a PIL image


class Listing(NamedTuple):
    """The content of a source before any picture is decoded: training, test, then unlabelled."""

    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]  # of the training and test pictures
    counts: tuple[int, int, int]  # training, test and unlabelled pictures
    pictures: Callable[[], Iterable[Picture]]  # in any order
    flip: bool | None  # may be mirrored; None: where it has colours
    size: int | None = None  # the default side in pixels, where pictures come in many sizes


def held_out(labels: Int[np.ndarray, " n"], seed: int) -> np.ndarray:
    """Which images are for the test, drawn by `seed`: a fifth of every class, one at least."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for k in np.unique(labels):
        members = order[labels[order] == k]
        test[members[: max(1, round(TEST_SHARE * len(members)))]] = True
    return test


# Folders and archives


def folder(path: Path, seed: int) -> Listing:
    """The pictures of a folder or an archive, with or without one folder around.

    Either train/<class>/ and test/<class>/ (other folders beside them are not read), or <class>/
    alone, split by `seed`; and unlabelled/. Raises UsageError, one line that names the file, for
    what is missing, empty, unreadable, or leads out of the archive.
    """
    members = BAR(_members(path, lambda name: False), "listing files")
    names = {name for name, _ in members if not hidden(name)}
    top = _enclosing(path, names)
    names = {name.removeprefix(top) for name in names}
    unlabelled = sorted(name for name in names if _is_unlabelled(name) and _is_picture(name))
    where = f"{path}/{top}"
    if {name.split("/")[0] for name in names} & {"train", "test"}:
        classes, labels, rows, n = _split_as_given(where, names)
    else:
        classes, labels, rows, n = _split_by_seed(where, names, seed)
    row_of = {top + name: row for row, name in enumerate(rows + unlabelled)}
    counts = (n, len(rows) - n, len(unlabelled))
    return Listing(classes, labels, counts, partial(_pictures, path, row_of), None)


# Classes, labels and names of the labelled pictures, and how many of them are for training.
_Split = tuple[tuple[str, ...], np.ndarray, list[str], int]


def _split_as_given(where: str, names: set[str]) -> _Split:
    classes, train_labels, train = _labelled(where, names, "train/")
    others, test_labels, test = _labelled(where, names, "test/")
    if classes != others:
        differ = ", ".join(sorted({*classes} ^ {*others}))
        raise UsageError(f"{where}: not both in train/ and in test/: class {differ}")
    return classes, np.concatenate([train_labels, test_labels]), train + test, len(train)


def _split_by_seed(where: str, names: set[str], seed: int) -> _Split:
    names = {name for name in names if not _is_unlabelled(name)}
    classes, labels, rows = _labelled(where, names, "")
    for k in np.flatnonzero(np.bincount(labels) < 2):
        raise UsageError(f"{where}{classes[k]}: class {classes[k]!r} has 1 image, too few to split")
    test = held_out(labels, seed)
    order = np.argsort(test, kind="stable")
    return classes, labels[order], [rows[i] for i in order], int((~test).sum())


def _enclosing(path: Path, names: set[str]) -> str:
    """The folders around everything, as in flowers/train/...: "flowers/"."""
    pictures = [name for name in names if _is_picture(name)]
    if not pictures:
        raise UsageError(f"{path}: no images; allowed: {' '.join(sorted(PICTURES))}")
    top = ""
    while True:
        inside = [name.removeprefix(top) for name in names if name.startswith(top)]
        heads = {name.split("/")[0] for name in inside if "/" in name}
        has_classes_below = all(name.removeprefix(top).count("/") > 1 for name in pictures)
        if len(heads) > 1 or not has_classes_below or heads & {"train", "test", *UNLABELLED}:
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
            raise UsageError(f"{where}{part}{row}: is in no folder of a class")
    classes = sorted({name.split("/")[0] for name in below if "/" in name})
    if len(classes) < 2:
        content = f"only class {classes[0]!r}" if classes else "no folder of a class"
        raise UsageError(f"{where}{part}: {content}; allowed: 2 classes or more")
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[row.split("/")[0]] for row in rows], dtype=np.int64)
    for k in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
        raise UsageError(f"{where}{part}{classes[k]}: no images of this class")
    return tuple(classes), labels, [part + row for row in rows]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES and not name.endswith("/")


def _is_unlabelled(name: str) -> bool:
    return name.split("/")[0] in UNLABELLED


def _pictures(path: Path, row_of: dict[str, int]) -> Iterator[Picture]:
    for name, content in _members(path, row_of.__contains__):
        if name in row_of:
            yield row_of[name], f"{path}/{name}", partial(Image.open, io.BytesIO(content))


def _members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name of everything in a folder or archive, with its content where the name is wanted.

    Names of folders end with a slash. Archives are read from start to end, nothing is unpacked.
    """
    walk = _in_tar
    if path.is_dir():
        walk = _on_disk
    elif suffix(path).lower() == ".zip":
        walk = _in_zip
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
            archive.members.clear()  # type: ignore[attr-defined]  # or memory grows
            name = _relative(path, f"{member.name}/" if member.isdir() else member.name)
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
            name = _relative(path, member)
            yield name, archive.read(member) if wanted(name) else b""


def _relative(path: Path, name: str) -> str:
    """./train//a.png as train/a.png; raises UsageError for a path out of the archive."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"{path}: {name!r} leads out of the archive")
    return f"{parts}/" if name.endswith("/") else str(parts)


# Pictures


def decode(
    pictures: Iterable[Picture], count: int, size: int | None, grey: bool
) -> UInt8[np.ndarray, "n c h w"]:
    """Decode all pictures into one array: grey where all of them are, or where `grey` is set.

    With `size` the shorter side is brought to it and the middle is cut out; without, all have to
    be of one size. Raises UsageError, naming the file, for one that is not, or is damaged.
    """
    stack, read, coloured, first = np.empty((0,)), np.zeros(count, dtype=bool), False, ""
    for row, name, open_picture in BAR(pictures, "reading images", count):
        pixels = _pixels(name, open_picture, size, grey)
        sides = pixels.shape[1:]
        if not first:
            if max(sides) > LARGEST:
                raise UsageError(f"{name}: more than {LARGEST} pixels wide or high: give a size")
            stack, first = np.empty((count, 1 if grey else 3, *sides), np.uint8), name
        if sides != stack.shape[2:]:
            this, other = (f"{w} x {h}" for h, w in (sides, stack.shape[2:]))
            raise UsageError(
                f"{name} is {this}, {first} is {other}: give a size, such as size=32, for all"
            )
        stack[row], read[row] = pixels, True
        coloured |= len(pixels) == 3
    if not read.all():
        raise UsageError(f"{(~read).sum()} of {count} images beside {first} have disappeared")
    return stack if coloured or grey else np.ascontiguousarray(stack[:, :1])


def _pixels(
    name: str, open_picture: Callable[[], Any], size: int | None, grey: bool
) -> UInt8[np.ndarray, "c h w"]:
    try:
        image = open_picture()
        if image.mode.startswith("I;16"):  # 16 bits: the upper 8 of them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError("32 bits per pixel; allowed: 8 or 16")
        image = image.convert("L" if grey or image.mode in ("1", "L", "LA") else "RGB")
    except UnidentifiedImageError:
        raise UsageError(f"{name}: no readable image (of no format that Pillow knows)") from None
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
    facts = TORCHVISION[name]
    train, test, unlabelled = (
        [_part(name, options) for options in split]
        for split in (facts.train, facts.test, facts.unlabelled)
    )
    labels = np.concatenate([np.asarray(_labels(part), np.int64) for part in train + test])
    n_train = sum(map(len, train))
    order = np.arange(len(labels))
    if not test:
        is_test = held_out(labels, seed)
        order, n_train = np.argsort(is_test, kind="stable"), int((~is_test).sum())
    classes = getattr(train[0], "classes", None) or range(int(labels.max()) + 1)
    # of several names of a class (Imagenette's) the first
    classes = tuple(str(k[0] if isinstance(k, tuple) else k) for k in classes)
    counts = (n_train, len(labels) - n_train, sum(map(len, unlabelled)))

    def pictures() -> Iterator[Picture]:
        rows = iter([*np.argsort(order), *range(len(order), sum(counts))])
        for part in train + test + unlabelled:
            for i in range(len(part)):
                picture = partial(_picture, part, i, facts.transposed)
                yield int(next(rows)), f"{name}, image {i}", picture

    return Listing(classes, labels[order], counts, pictures, facts.flip, facts.size)


def _picture(part: Any, i: int, transposed: bool) -> Any:
    image = part[i][0]
    return image.transpose(Image.Transpose.TRANSPOSE) if transposed else image


def _part(name: str, options: dict[str, Any]) -> Any:
    from kdlib.vision import torchvision as library

    facts = TORCHVISION[name]
    make = partial(getattr(library.datasets, facts.kind), source.root(), **options)
    try:
        return make()
    except (RuntimeError, OSError):
        pass  # missing or incomplete
    try:
        return make(download=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{name}: not in {source.root() / facts.files}, and no download ({reason}); put its "
            "files there, or name the folder that holds them in KDLIB_DATA"
        ) from None


def _labels(part: Any) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(part, attribute):
            return getattr(part, attribute)
    return [label for _, label in part._samples]
