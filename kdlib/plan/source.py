"""Which data set: its name in folders, its files and its hash. No torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from kdlib import UsageError, one_of, path_of

ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")
SMALLEST, LARGEST = 4, 1024  # pixels of a side
MOST_FILES = 10_000_000  # below one folder
RATIO = 200  # by which an archive may grow when it is unpacked, where that is above FLOOR
FLOOR = 2**30  # bytes
SPARSE = 2**30  # bytes from which on a file is not read that is nearly all holes
PREFIX = "folder:"  # may stand before a path; has to where the path is also the name of a data set


class PublishedSet(NamedTuple):
    """How one of torchvision's data sets is read."""

    kind: str  # the class in torchvision.datasets
    files: str  # what it reads, below `root`
    train: tuple[dict[str, Any], ...]  # options that open the parts to train on
    test: tuple[dict[str, Any], ...] = ()  # none: a fifth is held out
    unlabelled: tuple[dict[str, Any], ...] = ()
    flip: bool = True  # may be mirrored
    size: int | None = None  # of the shorter side, where images come in many sizes
    transposed: bool = False  # images come with rows and columns exchanged


def _by(
    key: str, train: Any, test: Any
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    return ({key: train},), ({key: test},)


_LETTERS = tuple({"split": "balanced", "train": train} for train in (True, False))
_NETTE = tuple({"split": part, "size": "160px"} for part in ("train", "val"))
_FLAG, _NAME = _by("train", True, False), _by("split", "train", "test")
TORCHVISION = {
    "mnist": PublishedSet("MNIST", "MNIST/raw", *_FLAG, flip=False),
    "fashionmnist": PublishedSet("FashionMNIST", "FashionMNIST/raw", *_FLAG),
    "kmnist": PublishedSet("KMNIST", "KMNIST/raw", *_FLAG, flip=False),
    "emnist": PublishedSet(
        "EMNIST", "EMNIST/raw", _LETTERS[:1], _LETTERS[1:], flip=False, transposed=True
    ),
    "usps": PublishedSet("USPS", "usps*.bz2", *_FLAG, flip=False),
    "svhn": PublishedSet("SVHN", "*_32x32.mat", *_NAME, flip=False),
    "cifar10": PublishedSet("CIFAR10", "cifar-10-batches-py", *_FLAG),
    "cifar100": PublishedSet("CIFAR100", "cifar-100-python", *_FLAG),
    "stl10": PublishedSet("STL10", "stl10_binary", *_NAME, unlabelled=({"split": "unlabeled"},)),
    "food101": PublishedSet("Food101", "food-101", *_NAME, size=64),
    "flowers102": PublishedSet(
        "Flowers102", "flowers-102", ({"split": "train"}, {"split": "val"}), _NAME[1], size=64
    ),
    "oxfordpets": PublishedSet(
        "OxfordIIITPet", "oxford-iiit-pet", *_by("split", "trainval", "test"), size=64
    ),
    "eurosat": PublishedSet("EuroSAT", "eurosat", ({},)),
    "imagenette": PublishedSet("Imagenette", "imagenette2-160", _NETTE[:1], _NETTE[1:], size=64),
}
PACKAGED = {"digits": ("sklearn", "datasets/data/digits.csv.gz")}  # package, file in there
NAMES = (*PACKAGED, *TORCHVISION)  # of data sets; anything else is a path


@dataclass(frozen=True)
class Source:
    """Where images come from and how they are read.

    `dataset` is a name of `NAMES`, or the path of a folder or an archive, with or without
    "folder:" before it. `size` brings the shorter side to so many pixels and cuts out the middle;
    `grey` drops the colours; `train_images` is how many training images are used, all classes
    alike. The path and the hash are worked out once: a source that has changed since is another
    `Source`. Raises UsageError, one line, for an unknown name, a path that does not exist, and a
    number out of range.
    """

    dataset: str = "digits"
    size: int | None = None
    grey: bool = False
    train_images: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not SMALLEST <= self.size <= LARGEST:
            raise UsageError(f"size {self.size}; allowed: {SMALLEST} to {LARGEST} pixels")
        if self.train_images is not None and self.train_images < 1:
            raise UsageError(f"train_images {self.train_images}; allowed: 1 or more")
        if self.path is None:
            return
        allowed = f"a folder, or a file that ends in {', '.join(ARCHIVES)}"
        if not self.path.exists():
            raise UsageError(f"data set {self.path} does not exist; allowed: {allowed}")
        if not (self.path.is_dir() or self.path.is_file()):
            raise UsageError(f"data set {self.path} is a device or a pipe; allowed: {allowed}")
        if self.path.is_file() and not suffix(self.path):
            raise UsageError(f"data set {self.path} is no archive; allowed: {allowed}")

    @cached_property
    def path(self) -> Path | None:
        """The folder or archive that holds the images; None for a data set known by its name."""
        if self.dataset in NAMES:
            return None
        place = self.dataset.removeprefix(PREFIX)
        if not place:
            raise UsageError(f"data set {self.dataset!r}; allowed: {', '.join(NAMES)}, or a path")
        path = path_of("data set", place)
        has_folder = "/" in place or os.sep in place
        is_path = place != self.dataset or has_folder or bool(suffix(path)) or path.exists()
        if not is_path:
            one_of("data set", self.dataset, [*NAMES, "or the path of a folder or an archive"])
        return path_of("data set", path.resolve())

    @property
    def files(self) -> list[Path]:
        """Every file that the images are read from, sorted; empty where none is there yet."""
        if self.path is not None:
            tops = [self.path]
        elif self.dataset in PACKAGED:
            package, file = PACKAGED[self.dataset]
            spec = find_spec(package)
            tops = [Path(spec.origin).parent / file] if spec and spec.origin else []
        else:
            tops = sorted(root().glob(TORCHVISION[self.dataset].files))
        return [file for top in tops for file in ([top] if top.is_file() else below(top).paths)]

    @property
    def listing(self) -> list[tuple[str, int, int]]:
        """Path, bytes and time of every file: cheap, and different where the source has changed."""
        rows = []
        for file in self.files:
            with contextlib.suppress(OSError):  # a broken link: reading it says so
                state = os.stat(file)  # noqa: PTH116  (a Path takes as long again)
                rows.append((str(file), state.st_size, state.st_mtime_ns))
        return rows

    @cached_property
    def hash(self) -> str:
        """The first 8 hex digits of the SHA-256 of all contents, in a folder with their names.

        It depends neither on the place nor on the name of a folder or archive. Worked out once for
        each listing, and remembered in the cache: every kernel of a study asks for it.
        """
        listing = self.listing
        memory = cache() / "hashes" / hashlib.sha256(repr(listing).encode()).hexdigest()[:32]
        with contextlib.suppress(OSError):
            if len(known := memory.read_text(encoding="utf-8")) == 8:
                return known
        value = self._content_hash(listing)
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            memory.parent.mkdir(parents=True, exist_ok=True)
            part = memory.with_suffix(f".{os.getpid()}")
            part.write_text(value, encoding="utf-8")
            part.replace(memory)
        return value

    def _content_hash(self, listing: list[tuple[str, int, int]]) -> str:
        digest = hashlib.sha256()
        for file, size, changed in listing:
            name = ""
            if self.path is not None and self.path.is_dir():
                name = Path(file).relative_to(self.path).as_posix()
            row = f"{name} {file_hash(file, size, changed)}\n"
            digest.update(row.encode(errors="surrogateescape"))  # names that are no UTF-8
        return digest.hexdigest()[:8]

    @cached_property
    def name(self) -> str:
        """What the source is called in folders: digits, or birds-1f3a9c2e+size=32 of birds.zip.

        Letters, digits and -._=+ only. A folder or archive bears the hash of its content: two of
        one name cannot be mixed up, and a copy in another place has the same name.
        """
        name = self.dataset
        if self.path is not None:
            stem = self.path.name.removesuffix(suffix(self.path))
            name = f"{folder_name(stem) or 'images'}-{self.hash}"
        if self.size is not None:
            name += f"+size={self.size}"
        if self.grey:
            name += "+grey"
        if self.train_images is not None:
            name += f"+train_images={self.train_images}"
        return name


def folder_name(name: str) -> str:
    """A name as a folder can bear it on any system: at most 40 letters, digits and -._"""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:40].strip("-.")


def suffix(path: Path) -> str:
    """The ending of an archive's name, as it is written; empty for anything else."""
    name = path.name.lower()
    known = next((ending for ending in ARCHIVES if name.endswith(ending)), "")
    return path.name[len(path.name) - len(known) :]


def hidden(name: str) -> bool:
    """Whether a file's path in its folder is never read: .git/x, a/.DS_Store, __MACOSX/x."""
    return re.search(r"(^|/)(\.|__MACOSX/)", name) is not None


@functools.cache
def file_hash(file: str | Path, size: int, changed: int) -> str:
    """The first 8 hex digits of the SHA-256 of a file, computed once for each state of it.

    Raises UsageError for a large file that is nearly all holes: reading it would not end.
    """
    with open(file, "rb") as content:  # noqa: PTH123  (a Path takes as long again)
        if size > SPARSE:
            _check_holes(file, content.fileno())
        return hashlib.file_digest(content, "sha256").hexdigest()[:8]


def most_unpacked(archive: Path) -> int:
    """Return how many bytes an archive may become when it is unpacked."""
    return max(FLOOR, RATIO * archive.stat().st_size)


def _check_holes(file: str | Path, opened: int) -> None:
    state = os.fstat(opened)
    on_disk = 512 * getattr(state, "st_blocks", state.st_size)  # Windows does not say
    if on_disk >= state.st_size // 200 or not hasattr(os, "SEEK_HOLE"):
        return
    first_hole = os.lseek(opened, 0, os.SEEK_HOLE)  # some file systems say that nothing takes place
    os.lseek(opened, 0, os.SEEK_SET)
    if first_hole < state.st_size:
        raise UsageError(
            f"{file}: claims {state.st_size / 2**30:,.0f} GiB, of which the disk holds "
            f"{on_disk / 2**30:,.1f}; allowed: files without such holes"
        )


class Below(NamedTuple):
    """What lies below a folder, each by its path from there; sorted, without what is hidden."""

    top: Path
    files: list[str]
    folders: list[str]
    links: list[str]  # to folders that are not followed: they lie here already, or around this one

    @property
    def paths(self) -> list[Path]:
        """The files as whole paths."""
        return [self.top / name for name in self.files]


def below(top: Path) -> Below:
    """List a folder with all below it: each real folder once, however many links lead to it.

    Links to folders elsewhere are followed; those to a folder that is read anyway, or that holds
    this one, are not. Raises UsageError for a folder that cannot be read, a pipe or a device, and
    more files than 10 million.
    """
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    skipped: list[str] = []
    known: set[tuple[int, int]] = set()
    real = Path(os.path.realpath(top))
    around = {_identity(folder) for folder in (real, *real.parents)}
    todo = [""]
    while todo or links:  # links last: what they lead to is perhaps here
        name = todo.pop() if todo else links.pop(0)
        identity = _identity(top / name)
        if identity in known or (name and identity in around):
            skipped.append(name)
            continue
        known.add(identity)
        if name:
            folders.append(name)
        for entry in _entries(top / name):
            inside = f"{name}/{entry.name}" if name else entry.name
            if hidden(f"{entry.name}/" if entry.is_dir() else entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else todo).append(inside)
            elif entry.is_file() or not os.path.exists(entry.path):  # noqa: PTH110  (a broken link)
                files.append(inside)
            else:
                raise UsageError(f"{top}/{inside} is a pipe or a device; allowed: files")
        if len(files) > MOST_FILES:
            raise UsageError(f"{top}: more than {MOST_FILES:,} files")
    return Below(top, sorted(files), sorted(folders), sorted(skipped))


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, whatever path leads to it."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        raise UsageError(f"{folder}: cannot be read ({problem.strerror or problem})") from None


def root() -> Path:
    """Where torchvision's files are: KDLIB_DATA, or kdlib/data in the user's cache."""
    return path_of("KDLIB_DATA", os.environ.get("KDLIB_DATA") or cache() / "data")


def cache() -> Path:
    """Where decoded data sets are stored: KDLIB_CACHE, or kdlib in the user's cache (XDG)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return path_of("KDLIB_CACHE", os.environ.get("KDLIB_CACHE") or f"{home}/kdlib")
