"""Which images of a folder or an archive are for training and for the test, and their classes."""

from __future__ import annotations

import io
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdlib import UsageError
from kdlib.data.members import FORMATS, ending, formats, is_picture, members
from kdlib.data.sources import BAR, Listing, Picture, held_out
from kdlib.plan.source import below, hidden

# The words that name a split, and what may stand beside them: Training, x_test, valid_images.
WORDS = {
    "train": "train|training|trn|trainval",
    "val": "val|valid|validation|validate|dev|devel|development|eval|evaluation",
    "test": "test|testing|tests|tst|holdout",
    "unlabelled": "unlabelled|unlabeled|unlabel|unsupervised|nolabel|nolabels",
}
_BESIDE = "x|set|sets|data|dataset|image|images|img|imgs|pics|pictures|photos|split"
_WORD = {
    part: re.compile(rf"(?:{_BESIDE})?(?:{words})(?:{_BESIDE})?") for part, words in WORDS.items()
}
LISTED = 8  # endings or folders in one line


class Split(NamedTuple):
    """Names of the labelled images, training before test, and what was decided about them."""

    classes: tuple[str, ...]
    labels: np.ndarray
    names: list[str]
    training: int  # how many of them are for training
    drawn: bool  # whether the test images were drawn by the seed
    used: set[str]  # the folders at the top that were read
    notes: list[str]


def listing(path: Path, seed: int) -> Listing:
    """The pictures of a folder or an archive, with or without folders around them.

    Either train/<class>/ and test/<class>/, in any case and common spelling (Training/, x_test/);
    without test images val/ serves, and with train/ alone they are drawn by `seed`; or <class>/
    alone, split by `seed`. Images in unlabelled/ join. What is not read is noted in the listing.
    Raises UsageError, one line that names the file, for what is missing, empty, unreadable, leads
    out of the archive, or looks like a split and cannot be placed.
    """
    everything = {name for name, _ in BAR(members(path, lambda name: False), "listing files")}
    names = {name for name in everything if not hidden(name)}
    pictures = {name for name in names if is_picture(name)}
    if not pictures:
        there = _counted(names - pictures) or "no files"
        raise UsageError(f"{path}: no images, but {there}; allowed: {' '.join(sorted(formats()))}")
    top = _around(pictures, names)
    inside = {name.removeprefix(top) for name in names if name.startswith(top)} - {""}
    where = f"{path}/{top}"
    seen = sorted(name for name in inside if is_picture(name) and "/" in name)
    deep = {_head(name) for name in seen if name.count("/") > 1}
    parts = parts_of(dict.fromkeys(map(_head, seen)), deep)
    free = {name for name in inside if parts.get(_head(name)) == "unlabelled" and "/" in name}
    unlabelled = sorted(name for name in free if is_picture(name))
    split = _split(where, inside - free, parts, deep, seed)
    rows = split.names + unlabelled
    notes = [*split.notes, *_left_out(names, pictures, {top + row for row in rows})]
    if path.is_dir() and (links := below(path).links):
        notes.append(f"not followed, for what they lead to is read anyway: {_some(links)}")
    row_of = {top + name: row for row, name in enumerate(rows)}
    counts = (split.training, len(split.names) - split.training, len(unlabelled))
    return Listing(
        split.classes,
        split.labels,
        counts,
        partial(_pictures, path, row_of),
        flip=None,
        drawn=split.drawn,
        own=True,
        notes=tuple(notes),
    )


def part_of(folder: str) -> str:
    """The split that a folder's whole name stands for: train, val, test, unlabelled; "" for none.

    >>> [part_of(name) for name in ("Training", "x_test", "trainset", "tulip", "steam train")]
    ['train', 'test', 'train', '', '']
    """
    part, rest = _parsed(folder)
    return "" if rest else part


def parts_of(folders: Iterable[str], deep: Collection[str]) -> dict[str, str]:
    """The splits among folders that lie side by side, by their names.

    Whole names, and names that are alike but for the word of a split, as birds_train and
    birds_test, where these are `deep`: hold folders of images. A steam train is none.
    """
    parsed = {folder: _parsed(folder) for folder in folders}
    whole = {folder: part for folder, (part, rest) in parsed.items() if part and not rest}
    families: dict[tuple[str, ...], dict[str, str]] = {}
    for folder, (part, rest) in parsed.items():
        if part and rest and (folder in deep or part == "unlabelled"):
            families.setdefault(rest, {})[folder] = part
    for family in families.values():
        if len(set(family.values())) > 1:
            whole |= family
    return {folder: whole[folder] for folder in parsed if folder in whole}


def _parsed(folder: str) -> tuple[str, tuple[str, ...]]:
    """The split that a name holds the word of, "" for none or several; and its other words."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+", folder)
    parts, rest = set(), []
    for word in map(str.lower, words):
        found = {part for part, known in _WORD.items() if known.fullmatch(word)}
        parts |= found
        if not found and not re.fullmatch(_BESIDE, word):
            rest.append(word)
    if parts in ({"train", "unlabelled"}, {"train", "val"}):
        return ("unlabelled" if "unlabelled" in parts else "train"), tuple(rest)
    return (parts.pop() if len(parts) == 1 else ""), tuple(rest)


# ---- which folders are the splits ---------------------------------------------------------------


def _split(
    where: str, names: set[str], known: Mapping[str, str], deep: set[str], seed: int
) -> Split:
    """Place the splits. Raises UsageError for what looks like one and cannot be placed."""
    pictures = {name for name in names if is_picture(name)}
    if not pictures:
        raise UsageError(f"{where}: unlabelled images only; allowed: classes of images beside them")
    heads = sorted({_head(name) for name in pictures if "/" in name})
    parts = {head: known[head] for head in heads if head in known}
    if not set(parts).intersection(deep) and len(parts) == 1 and len(heads) > 1:
        (name,) = parts  # as a class of railway pictures, or of test tubes
        split = _drawn(where, names, "", seed)
        note = f"{name}/ is taken for a class, since it holds images and no folders of classes"
        return split._replace(notes=[*split.notes, note])
    if not parts:
        _check_disguise(where, pictures)
        return _drawn(where, names, "", seed)
    by_part: dict[str, str] = {}
    for head, part in parts.items():
        if part in by_part:
            raise UsageError(
                f"{where}: {by_part[part]}/ and {head}/ both look like {_READS[part]}; allowed: "
                "one of each kind, train/<class>/ and test/<class>/"
            )
        by_part[part] = head
    if "train" not in by_part:
        raise UsageError(
            f"{where}: {' and '.join(f'{head}/' for head in parts)}, but no training images; "
            "allowed: train/<class>/ and test/<class>/, or <class>/ alone"
        )
    test = by_part.get("test", by_part.get("val"))
    if test is None:
        _check_beside(where, pictures, by_part["train"], set(heads) - set(parts))
        return _drawn(where, names, by_part["train"], seed)
    split = _as_given(where, names, by_part["train"], test)
    if "test" not in by_part:
        split.notes.append(f"no test/: the images of {test}/ are the test images")
    return split


_READS = {"train": "training images", "val": "validation images", "test": "test images"}


def _as_given(where: str, names: set[str], train: str, test: str) -> Split:
    classes, train_labels, train_rows = _labelled(where, names, train)
    others, test_labels, test_rows = _labelled(where, names, test)
    if classes != others:
        differ = sorted({*classes} ^ {*others})
        raise UsageError(f"{where}: not both in {train}/ and in {test}/: class {_some(differ)}")
    labels = np.concatenate([train_labels, test_labels])
    rows = train_rows + test_rows
    return Split(classes, labels, rows, len(train_rows), False, {train, test}, [])


def _drawn(where: str, names: set[str], part: str, seed: int) -> Split:
    classes, labels, rows = _labelled(where, names, part)
    for k in np.flatnonzero(np.bincount(labels) < 2):
        place = f"{where}{part}/{classes[k]}" if part else f"{where}{classes[k]}"
        raise UsageError(f"{place}: class {classes[k]!r} has 1 image, too few to split")
    test = held_out(labels, seed)
    order = np.argsort(test, kind="stable")
    rows = [rows[i] for i in order]
    note = f"no test images of their own: a fifth of each class, drawn by seed {seed}"
    return Split(classes, labels[order], rows, int((~test).sum()), True, {part}, [note])


def _check_beside(where: str, pictures: set[str], train: str, others: set[str]) -> None:
    """Raise UsageError where a folder of an unknown name holds the classes of the training images.

    It is perhaps the test set (Training/ beside Prüfung/), which would be drawn from the others.
    """
    inside: dict[str, set[str]] = {}
    for head, *rest in (name.split("/") for name in pictures):
        inside.setdefault(head, set()).add(rest[0] if len(rest) > 1 else "")
    for other in sorted(others):
        if inside[other] - {""} == inside[train] - {""}:
            raise UsageError(
                f"{where}: {other}/ holds the classes of {train}/ and may be the test images; "
                "allowed: test/ or val/ as its name; if it is neither, lay it elsewhere"
            )


def _check_disguise(where: str, pictures: set[str]) -> None:
    """Raise UsageError where folders that would be classes all hold the same folders.

    They are splits under names that are not known (fold1/, Prueba/), or each class is split.
    """
    inside: dict[str, set[str]] = {}
    for name in sorted(pictures):
        head, *rest = name.split("/")
        inside.setdefault(head, set()).add(rest[0] if len(rest) > 1 else "")
    for head, folders in inside.items():
        if len({part_of(folder) for folder in folders} & {"train", "val", "test"}) > 1:
            raise UsageError(
                f"{where}{head}: holds {_some(sorted(folders))}, a split below a class; "
                "allowed: train/<class>/ and test/<class>/"
            )
    words = {head: _parsed(head)[0] for head in inside}
    for one, other in itertools.combinations(sorted(inside), 2):
        alike = (inside[one] & inside[other]) - {""}
        if words[one] and words[other] and words[one] != words[other] and len(alike) > 1:
            raise UsageError(
                f"{where}: {one}/ and {other}/ both hold {_some(sorted(alike))}, like splits; "
                "allowed: train/<class>/ and test/<class>/, with the same classes in both"
            )
    first, *others = inside.values()
    if len(first) > 1 and "" not in first and others and all(own == first for own in others):
        raise UsageError(
            f"{where}: {_some(sorted(inside))} all hold the folders {_some(sorted(first))}, like "
            "splits of unknown names; allowed: train/<class>/ and test/<class>/, or <class>/ with "
            "its images in no folders of their own"
        )


def _around(pictures: set[str], names: set[str], top: str = "", *, into_parts: bool = False) -> str:
    """The folders around everything below `top`, as in flowers/train/...: "flowers/"."""
    while True:
        inside = {name.removeprefix(top) for name in pictures}
        heads = {_head(name) for name in inside}
        if len(heads) > 1 or any(name.count("/") < 2 for name in inside):
            return top
        (head,) = heads
        if (part_of(head) and not into_parts) or _has_empty_folders(names, top):
            return top
        top += f"{head}/"


def _has_empty_folders(names: set[str], top: str) -> bool:
    """Whether an empty folder lies directly below `top`: it is a class without images."""
    inside = [name.removeprefix(top) for name in names if name.startswith(top)]
    filled = {_head(name) for name in inside if "/" in name and not name.endswith("/")}
    return bool({_head(name) for name in inside if "/" in name} - filled)


def _labelled(
    where: str, names: set[str], part: str
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Classes, labels, and names of the pictures below `part`, one folder per class.

    A class is its name in Unicode's form NFC: some systems write the same letters differently.
    """
    prefix = f"{part}/" if part else ""
    if part:
        own = _below(names, part)
        prefix = _around({name for name in own if is_picture(name)}, own, prefix, into_parts=True)
    below_it = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    rows = sorted(name for name in below_it if is_picture(name))
    for row in rows:
        if "/" not in row:
            raise UsageError(
                f"{where}{prefix}{row}: is in no folder of a class; allowed: {prefix}<class>/ with "
                "its images in it"
            )
    classes = sorted({_class(name) for name in below_it if "/" in name})
    if len(classes) < 2:
        content = f"only class {classes[0]!r}" if classes else "no folder of a class"
        raise UsageError(f"{where}{prefix}: {content}; allowed: 2 classes or more")
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[_class(row)] for row in rows], dtype=np.int64)
    for k in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
        raise UsageError(
            f"{where}{prefix}{classes[k]}: no images of this class; allowed: images in every folder"
        )
    return tuple(classes), labels, [prefix + row for row in rows]


def _class(name: str) -> str:
    readable = _head(name).encode(errors="surrogateescape").decode(errors="replace")
    return unicodedata.normalize("NFC", readable)


def _head(name: str) -> str:
    return name.split("/", 1)[0]


def _below(names: Iterable[str], folder: str) -> set[str]:
    return {name for name in names if name.startswith(f"{folder}/")}


# ---- what is said -------------------------------------------------------------------------------


def _left_out(names: set[str], pictures: set[str], read: set[str]) -> Iterator[str]:
    """What is not read, in a line for images in folders that are not used and one for the rest."""
    unused = Counter(name.rpartition("/")[0] or "." for name in pictures - read)
    if unused:
        tops = Counter[str]()
        for folder, count in unused.items():
            tops["/".join(folder.split("/")[:2])] += count
        where = _some([f"{count:,} in {folder}/" for folder, count in tops.most_common()])
        yield f"images that are not read: {where}"
    if others := _counted(names - pictures):
        yield f"files that are no images that can be read here: {others}"


def _counted(names: Iterable[str]) -> str:
    """Files by their ending: "7 .txt, 3 .heic (with pillow-heif they are read)"."""
    counts = Counter(ending(name) or "without an ending" for name in names if name[-1] != "/")
    lines = []
    for end, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        hint = " (read where Pillow can; .heic takes pillow-heif)" if end in FORMATS else ""
        lines.append(f"{count:,} {end}{hint}")
    return _some(lines)


def _some(items: list[str]) -> str:
    """The first of them in a line, and how many more."""
    more = len(items) - LISTED
    return ", ".join(items[:LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _pictures(path: Path, row_of: dict[str, int]) -> Iterator[Picture]:
    for name, content in members(path, row_of.__contains__):
        if name in row_of:
            yield row_of[name], f"{path}/{name}", partial(_open, content)


def _open(content: bytes) -> Any:
    return Image.open(io.BytesIO(content), formats=sorted(set(formats().values())))
