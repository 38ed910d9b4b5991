"""Where images come from: made once from the parameters, and handed to whatever asks. No torch."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from kdlib import UsageError, one_of

ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")
LARGEST = 1024  # pixels of a side
PREFIX = "folder:"  # of a path; may be left out where the path exists


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
NAMES = ("digits", *TORCHVISION)  # of data sets; anything else is a path


@dataclass(frozen=True)
class Source:
    """Where images come from and how they are read.

    `dataset` is a name of `NAMES`, or the path of a folder or an archive, with or without
    "folder:" before it. `size` brings the shorter side to so many pixels and cuts out the middle;
    `grey` drops the colours; `normalise` names published constants, or "data" for the training
    images' own. Raises UsageError for an unknown name and for a path that is not there.
    """

    dataset: str = "digits"
    size: int | None = None
    grey: bool = False
    normalise: str = "data"

    def __post_init__(self) -> None:
        if self.size is not None and not 4 <= self.size <= LARGEST:
            raise UsageError(f"size {self.size}; allowed: 4 to {LARGEST} pixels")
        path = self.path
        if path is None:
            one_of("data set", self.dataset, [*NAMES, "the path of a folder or an archive"])
        elif not path.is_dir() and not (path.is_file() and suffix(path)):
            problem = (
                "is neither a folder nor one of" if path.exists() else "is not there; allowed:"
            )
            raise UsageError(f"data set {path} {problem} a folder or {' '.join(ARCHIVES)}")

    @cached_property
    def path(self) -> Path | None:
        """The folder or archive that holds the images; None for a data set known by its name."""
        given = self.dataset
        if given in NAMES:
            return None
        if not given.removeprefix(PREFIX):
            raise UsageError(f"{PREFIX} names no path; allowed: a folder or an archive")
        path = Path(given.removeprefix(PREFIX)).expanduser()
        is_path = given.startswith(PREFIX) or path.exists() or "/" in given or suffix(path)
        return path.resolve() if is_path else None

    @property
    def files(self) -> list[Path]:
        """Every file that the images are read from, sorted; empty where none is there yet."""
        if self.dataset == "digits":
            module = find_spec("sklearn")
            folder = Path(module.origin).parent if module and module.origin else Path()
            return [folder / "datasets/data/digits.csv.gz"]
        if self.path is None:
            tops = sorted(root().glob(TORCHVISION[self.dataset].files))
        else:
            tops = [self.path]
        return [file for top in tops for file in ([top] if top.is_file() else _below(top))]

    @property
    def listing(self) -> list[tuple[str, int, int]]:
        """Path, bytes and time of every file: cheap, and different where the source has changed."""
        listed = []
        for file in self.files:
            try:
                state = os.stat(file)  # noqa: PTH116  (a Path takes as long again)
            except OSError:  # whoever reads it will say so
                continue
            listed.append((str(file), state.st_size, state.st_mtime_ns))
        return listed

    @cached_property
    def hash(self) -> str:
        """The first 8 hex digits of the SHA-256 of the files' names and contents."""
        top = self.path if self.path is not None and self.path.is_dir() else None
        digest = hashlib.sha256()
        for file, size, changed in self.listing:
            name = Path(file).relative_to(top).as_posix() if top else Path(file).name
            digest.update(f"{name if top else ''} {file_hash(file, size, changed)}\n".encode())
        return digest.hexdigest()[:8]

    @cached_property
    def name(self) -> str:
        """What the source is called in folders: digits, or birds-1f3a9c2e+size=32 of birds.zip.

        A folder or archive bears the hash of its content: two of one name cannot be mixed up.
        """
        name = self.dataset
        if self.path is not None:
            stem = self.path.name.removesuffix(suffix(self.path))
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:40] or "folder"
            name = f"{plain}-{self.hash}"
        if self.size is not None:
            name += f"+size={self.size}"
        if self.grey:
            name += "+grey"
        if self.normalise != "data":
            name += f"+normalise={self.normalise}"
        return name


def suffix(path: Path) -> str:
    """The ending of an archive's name, as it is written; empty for anything else."""
    name = path.name.lower()
    known = next((ending for ending in ARCHIVES if name.endswith(ending)), "")
    return path.name[len(path.name) - len(known) :]


@lru_cache(maxsize=4096)
def file_hash(file: str | Path, size: int, changed: int) -> str:
    """The first 8 hex digits of the SHA-256 of a file, worked out once for each state of it."""
    with open(file, "rb") as content:  # noqa: PTH123  (a Path takes as long again)
        return hashlib.file_digest(content, "sha256").hexdigest()[:8]


def _below(folder: Path) -> list[Path]:
    inside = os.walk(folder, followlinks=True)
    return sorted(Path(at, file) for at, _, files in inside for file in files)


def root() -> Path:
    """Where torchvision's files lie: KDLIB_DATA, or kdlib/data in the user's cache."""
    return Path(os.environ.get("KDLIB_DATA") or cache() / "data").expanduser()


def cache() -> Path:
    """Where decoded data sets are kept: KDLIB_CACHE, or kdlib in the user's cache (XDG)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KDLIB_CACHE") or Path(home, "kdlib")).expanduser()
