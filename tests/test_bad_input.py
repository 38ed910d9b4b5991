"""Bad input, a row for each kind: one line that names it, status 2, and nothing is written."""

import gzip
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import results
import safetensors.numpy
import safetensors.torch
import torch
from PIL import Image
from test_store import layers, save

from kdlib import UsageError, cli, data, models, precheck, store
from kdlib.foreign import files
from kdlib.models import checkpoints
from kdlib.plan import parameters, runs, studies
from kdlib.plan.look import Look
from kdlib.plan.source import Source

ROOT = Path(__file__).parents[1]
NUL, LONG, NO_UTF8, NOBODY = "a\0b", "a" * 5000, "a\udcffb", "~no-such-user/x"
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


class Bad(NamedTuple):
    """One kind of bad input: how it is made in a folder, what reads it, what the line holds."""

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Any], Any]
    words: tuple[str, ...]


def as_it_is(value):
    return lambda folder: value


# ---- parameters of each notebook -----------------------------------------------------------------


def parameter(kind, words, **given):
    name = f"{kind.__name__}-{'-'.join(given)}-{words[0][:20]}"
    return Bad(name, as_it_is(given), partial(parameters.read, kind), words)


SHARED = [
    parameter(kind, words, **given)
    for kind in (runs.Teacher, runs.Student, runs.Features, runs.Measures, runs.Maps, runs.Film)
    for given, words in (
        ({"epoch": 1}, ("unknown parameter 'epoch'; known: dataset",)),
        ({"study": "a/b"}, ("study 'a/b'; allowed: a plain name",)),
        ({"results": NOBODY}, ("results '~no-such-user/x' is no path", "home folder")),
        ({"results": LONG}, ("results 'aaa", "is no path (File name too long)")),
        ({"dataset": NUL}, (r"parameter dataset 'a\x00b'; allowed: UTF-8 without NUL",)),
        ({"threads": 0}, ("threads 0; allowed: 1 or more",)),
        ({"size": 2}, ("size 2; allowed: 4 or more",)),
        ({"grey": "yes"}, ("parameter grey must be boolean, given 'yes'",)),
    )
    if not (kind is runs.Maps and "threads" in given)
]
PARAMETERS = [
    *SHARED,
    parameter(runs.Teacher, ("size 9999; allowed: 1024 or less",), size=9999),
    parameter(runs.Teacher, ("train_images 0; allowed: 1 or more",), train_images=0),
    parameter(runs.Teacher, ("seed -1; allowed: 0 or more",), seed=-1),
    parameter(runs.Teacher, ("seed 4294967296; allowed: 4294967295 or less",), seed=2**32),
    parameter(runs.Teacher, ("learning_rate nan; allowed:",), learning_rate=float("nan")),
    parameter(runs.Teacher, ("learning_rate 0; allowed: above 0",), learning_rate=0),
    parameter(runs.Teacher, ("weight_decay inf; allowed: a finite",), weight_decay=float("inf")),
    parameter(runs.Teacher, ("width 1000; allowed: 64.0 or less",), width=1000),
    parameter(runs.Teacher, ("batch_size 1; allowed: 2 or more",), batch_size=1),
    parameter(runs.Teacher, ("parameter epochs must be", "given 1.5"), epochs=1.5),
    parameter(runs.Teacher, ("parameter epochs", "given True"), epochs=True),
    parameter(runs.Teacher, ("parameter epochs", "given None"), epochs=None),
    parameter(runs.Teacher, ("parameter epochs is nested too deeply; allowed: 20",), epochs=DEEP),
    parameter(runs.Teacher, ("device 'gpu'; one of: auto, cpu or cuda",), device="gpu"),
    parameter(runs.Teacher, ("precision 'half'; one of:",), precision="half"),
    parameter(runs.Teacher, ("normalise 'mnist'; one of: data, imagenet",), normalise="mnist"),
    parameter(runs.Teacher, ("network 'a b'; allowed: a plain name",), network="a b"),
    parameter(runs.Teacher, ("network ''; allowed:",), network=""),
    parameter(runs.Teacher, ("network 'nnn", " ... ", "since it becomes"), network="n" * 9999),
    parameter(runs.Teacher, ("labels_per_class 'few'; allowed: 1",), labels_per_class="few"),
    parameter(runs.Teacher, ("labels_per_class 0; allowed: 1",), labels_per_class=0),
    parameter(runs.Teacher, ("https://x/y.pth; allowed: an address",), weights="https://x/y.pth"),
    parameter(runs.Teacher, ("weights_names with weights None",), weights_names={"a.": ""}),
    parameter(runs.Teacher, ("network_options", "given [1]"), network_options=[1]),
    parameter(runs.Teacher, (r"augment 'a\udcffb'; allowed: UTF-8",), augment=NO_UTF8),
    parameter(runs.Teacher, ("'pool' is now called unlabelled",), pool=True)._replace(
        read=partial(parameters.read, runs.Student), name="renamed"
    ),
    parameter(runs.Student, ("method 'kdd'; one of:",), method="kdd"),
    parameter(runs.Student, ("method ''",), method=""),
    parameter(runs.Student, ("teacher: 'students/x' names no run",), teacher="students/x"),
    parameter(runs.Student, ("teacher: 'teachers/../x' names no",), teacher="teachers/../x"),
    parameter(runs.Student, ("teacher [];",), teacher=[]),
    parameter(runs.Student, ("teacher ['resnet20', 'resnet20']",), teacher=["resnet20"] * 2),
    parameter(
        runs.Student, ("teacher_labels 'all' beside the run",), teacher="teachers/a"
    )._replace(make=as_it_is({"teacher": "teachers/a", "teacher_labels": "all"})),
    parameter(runs.Student, ("snapshots 21; allowed: 0 to 20",), snapshots=[21]),
    parameter(runs.Student, ("snapshots", "given '0'"), snapshots=["0"]),
    parameter(runs.Student, ("option 'seed' is none of a method",), options={"seed": 1}),
    parameter(runs.Student, ("option 1 is none of a method",), options={1: 2}),
    parameter(runs.Student, ("students: 'kd'; allowed: what differs",), students=["kd"]),
    parameter(runs.Student, ("students []; allowed: one or more",), students=[]),
    parameter(runs.Student, ("unknown parameter 'seed'; known: method",), students=[{"seed": 1}]),
    parameter(runs.Student, ("with cached_teacher; allowed: own",), augment="shift")._replace(
        make=as_it_is({"augment": "shift", "cached_teacher": True})
    ),
    parameter(runs.Features, ("networks is empty",), networks=[]),
    parameter(runs.Features, ("networks: 'resnet20' names no run",), networks=["resnet20"]),
    parameter(runs.Features, ("networks", "given 'teachers/a'"), networks="teachers/a"),
    parameter(runs.Features, ("sample 0; allowed: 1 or more",), sample=0),
    parameter(runs.Measures, ("network to be mapped 'teachers/b'; one of",), mapped=["teachers/b"]),
    parameter(runs.Measures, ("teacher: 'x' names no run",), teacher="x"),
    parameter(runs.Maps, ("embedding '../x'; allowed: a plain name",), embedding="../x"),
    parameter(runs.Maps, ("coupling must be number, given 'much'",), coupling="much"),
    parameter(runs.Maps, ("workers 4096; allowed: 1024 or less",), workers=4096),
    parameter(runs.Film, ("layers is empty",), layers=[]),
    parameter(runs.Film, ("mapped: 'students/x' is not among",), mapped=["students/x"]),
    parameter(runs.Comparison, ("images 5; allowed: 20 or more",), images=5),
    parameter(runs.Comparison, ("networks ['teachers/a']; allowed: two",), networks=["teachers/a"]),
    parameter(runs.Comparison, ("ks is empty",), ks=[]),
    parameter(runs.Comparison, (r"layer 'a\udcffb'",), layer=NO_UTF8),
    parameter(Look, ("embeddings is empty; allowed:",), embeddings=[]),
    parameter(Look, ("sample 3; allowed: 20 to",), sample=3),
    parameter(Look, ("normalise '.5:0'; allowed:",), normalise=".5:0"),
    parameter(Look, ("unknown normalise 'x'; one of: own",), normalise="x"),
    parameter(Look, ("features x.csv; allowed: a file that ends in",), features="x.csv"),
    parameter(Look, ("features '~no-such-user/x.npz' is no path",), features=f"{NOBODY}.npz"),
    parameter(Look, ("tokens 'all'; one of: auto",), tokens="all"),
]


# ---- study files ---------------------------------------------------------------------------------


def study(text, *words):
    def make(folder):
        file = folder / "mine.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return Bad(f"study-{text[:30]!r}", make, studies.read, ("mine.yaml: ", *words))


def merged(level):
    """A line that holds the one before it nine times, merged."""
    return f"a{level}: &a{level} {{<<: [{', '.join(9 * [f'*a{level - 1}'])}]}}\n"


STUDIES = [
    study("", "is empty"),
    study("[]", "is empty"),
    study("kd", "not a list of names and values"),
    study("a: [", "not YAML"),
    study(b"name: \xff", "not YAML"),
    study("name: a\0b", "not YAML"),
    study('dataset: "a\\0b"', r"parameter dataset 'a\x00b'; allowed: UTF-8 without NUL"),
    study("a: " + "[" * 3000, "nested too deeply"),
    study("a: " + "{a: " * 3000, "nested too deeply"),
    study("teacher: " + "[" * 40 + "]" * 40, "parameter teacher is nested too deeply"),
    study("methods: &a [*a]", ""),
    study("methods: !!python/object/apply:os.system [id]", "not YAML"),
    study("seeds: [0]\nseeds: [1]", "'seeds' stands 2 times in one place"),
    study("metods: [kd]", "unknown parameter 'metods'; known: name"),
    study("1: [kd]", "unknown parameter '1'"),
    study("? [1, 2]\n: 3", ""),
    study("name: ../up", "name of the study '../up'; allowed: a plain name"),
    study("name: 5", "parameter name must be string, given 5"),
    study("dataset: nowhere", "unknown data set 'nowhere'; one of: digits"),
    study("dataset: ./nowhere", "does not exist; allowed: a folder"),
    study("dataset: ~no-such-user/x", "is no path"),
    study("size: 1e9", "size 1000000000; allowed: 1024 or less"),
    study("seeds: []", "seeds is empty"),
    study("seeds: [0, 0]", "seeds [0, 0]; allowed: each once"),
    study("seeds: [a]", "seeds"),
    study("seeds: 3", "parameter seeds must be list, given 3"),
    study("methods: [[kd]]", "methods: ['kd']; allowed: a name"),
    study("methods: [{width: 1}]", "methods: {'width': 1}; allowed: a name"),
    study("methods: [baseline, kd+att]", "method 'att'; one of"),
    study("labels_per_class: all", "parameter labels_per_class must be list, given 'all'"),
    study("labels_per_class: [0]", "labels_per_class 0; allowed: 1 or more"),
    study("labels_per_class: [{a: 1}]", "labels_per_class {'a': 1}; allowed: 1 or more"),
    study("teacher: {seed: 1, epoch: 2}", "unknown parameter 'epoch'"),
    study("teacher: {labels_per_class: 3}", "labels_per_class 3; allowed: all, or same"),
    study("teacher: {ensemble: [{}]}", "allowed: an ensemble of two teachers or more"),
    study("teacher: {1: 2}", "parameter teacher must be string, given 1"),
    study("student: {study: x}", "study is not set here"),
    study("student: {epochs: -1}", "epochs -1; allowed: 0 or more"),
    study("student: {options: {[1]: 2}}", ""),
    study("features: {networks: []}", "networks is not set here"),
    study("features: {sample: 0}", "sample 0; allowed: 1 or more"),
    study("embeddings: {}", "embeddings is empty"),
    study("embeddings: {a/b: {}}", "embedding 'a/b'; allowed: a plain name"),
    study("embeddings: {tsne: [1]}", "embeddings"),
    study("embeddings: {1: {}}", "embeddings"),
    study("maps: {seed: [0]}", "unknown parameter 'seed'; known: methods"),
    study("maps: {seeds: 0}", "maps: parameter seeds must be list, given 0"),
    study("maps: {seeds: [7]}", "maps: seeds 7 is not in the study's seeds"),
    study("film: {epoch: [0]}", "film: unknown parameter 'epoch'; known: epochs"),
    study("film: {epochs: [99]}", "snapshots 99; allowed: 0 to 20"),
    study("film: {epochs: [x]}", "snapshots"),
    study("film: {epochs: [0], methods: [at]}", "film: method 'at'; allowed"),
    study("students_per_kernel: 0", "students_per_kernel 0; allowed: 1 or more"),
    study("device: cuda", "unknown parameter 'device'"),
    study("seeds: [" + "1" * 5000 + "]", "not YAML"),
    study("seeds: [2020-99-99]", "not YAML: a value is not of its type (month must be in 1..12)"),
    study("seeds: [!!int abc]", "not YAML"),
    study("runs_only: !!bool perhaps", "not YAML: a value is not of its type"),
    study("seeds: !!timestamp abc", "not YAML"),
    study("teacher: !!map [1]", "not YAML"),
    study("a0: &a0 {x: 1}\n" + "".join(map(merged, range(1, 12))), "more than 100,000 values"),
    study("#" * 2**20 + "#", "1,048,577 bytes; allowed: up to 1,048,576")._replace(name="long"),
    study("student: {epochs: 1e19}", "epochs 10000000000000000000; allowed: 2147483647 or less"),
    study("student: {batch_size: 1e18}", "allowed: 1048576 or less"),
]


def checked(text, *words):
    """A study whose fault only its networks, methods and embeddings can tell."""
    row = study(text, *words)
    return row._replace(
        name=f"check-{text[:40]!r}",
        read=lambda file: precheck.check(studies.read(file)),
        words=words,
    )


def leaves(classes, channels):
    """A network of somebody's that ends Python instead."""
    raise SystemExit(0)


SMALL = "network: resnet8, network_options"


CHECKED = [
    checked(f"teacher: {{{SMALL}: {{width: 3}}}}", "network_options 'width'; allowed: options of"),
    checked(f"teacher: {{{SMALL}: {{1: 2}}}}", "network_options 1; allowed: options of resnet8"),
    checked("teacher: {network: vit, network_options: {patch: 0}}", "patch 0 of vit; allowed"),
    checked("teacher: {network: 'torch:zeros'}", "network 'torch:zeros': cannot be called"),
    checked(
        "methods: [baseline, {method: crd, options: {size: 1000000000000}}]",
        "method 'crd' for network 'resnet8' cannot be built here: RuntimeError: ",
    ),
    checked(
        "teacher: {network: 'test_bad_input:leaves'}",
        "network 'test_bad_input:leaves' cannot be built here: SystemExit: 0",
    ),
    checked("embeddings: {tsne: {iterations: 1e12}}", "between 1 and 100000; given 1000000000000"),
]


# ---- images --------------------------------------------------------------------------------------


def picture(size=8, form="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


GOOD = {
    f"{part}/{k}/{i}.png": picture(seed=9 * i + k)
    for part in ("train", "test")
    for k in range(2)
    for i in range(2)
}


def images(name, content, *words, archive=""):
    """A folder of images, or a zip file of them, without what is None."""

    def make(folder):
        pictures = {k: v for k, v in (GOOD | content).items() if v is not None}
        place = folder / f"birds{archive}"
        if archive:
            with zipfile.ZipFile(place, "w") as file:
                for key, value in pictures.items():
                    file.writestr(key, value)
            return place
        for key, value in pictures.items():
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            (place / key).write_bytes(value)
        return place

    return Bad(f"images-{name}", make, data.load, words)


def raw(name, content, *words):
    """A file with any content."""

    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return Bad(f"raw-{name}-{content[:10]!r}", make, data.load, words)


def tarred(**member):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("train/a/0.png")
        for key, value in member.items():
            setattr(info, key, value)
        archive.addfile(info)
    return out.getvalue()


def holes(name, folder):
    """A file of a terabyte that takes no place on the disk; gives what is at the top of it."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("wb") as file:
        file.truncate(2**40)
    return folder / Path(name).parts[0]


def hashed(path):
    return Source(str(path)).hash


NONE = dict.fromkeys(GOOD)
IMAGES = [
    images("damaged", {"train/0/0.png": picture()[:40]}, "train/0/0.png: no readable image"),
    images("text", {"train/0/0.png": b"hello"}, "train/0/0.png: no readable image"),
    images("empty", {"train/0/0.png": b""}, "train/0/0.png: no readable image"),
    images("other-size", {"train/0/0.png": picture(9)}, "is 9 x 9", "give a size"),
    images("huge", {"train/0/0.png": picture(1100)}, "give a size"),
    images("no-images", NONE | {"a/b.txt": b""}, "no images, but 1 .txt; allowed: "),
    images("one-class", {k: None for k in GOOD if "/1/" in k}, "allowed: 2 classes or more"),
    images(
        "other-classes", {"test/2/0.png": picture()}, "not both in train/ and in test/: class 2"
    ),
    images("no-class", {"train/x.png": picture()}, "train/x.png: is in no folder of a class"),
    images("two-trains", {"Training/0/0.png": picture()}, "both look like training images"),
    images("no-train", {k: None for k in GOOD if k[:5] == "train"}, "but no training images"),
    images("all-equal", dict.fromkeys(GOOD, picture()), "images are equal"),
    images(
        "leaked",
        {f"test/{k}/{i}.png": GOOD[f"train/{k}/{i}.png"] for k in (0, 1) for i in (0, 1)},
        "are the same image",
    ),
    images("up", {"../x.png": picture()}, "'../x.png' leads out of", archive=".zip"),
    images("nothing-zipped", NONE, "no images, but no files", archive=".zip"),
    raw("a.zip", b"", "a.zip: cannot be read"),
    raw("a.zip", b"PK\3\4" + bytes(50), "a.zip: cannot be read"),
    raw("a.tar", b"", "a.tar: cannot be read"),
    raw("a.tar", bytes(700), "a.tar: "),
    raw("a.tar.gz", b"\x1f\x8b" + bytes(9), "a.tar.gz: cannot be read"),
    raw("a.tar.xz", b"\xfd7zXZ\0", "a.tar.xz: cannot be read"),
    raw("a.tar", tarred(size=2**50)[:512], "claims 1,073,741,824 MiB; allowed: up to 256 MiB"),
    raw("b.tar", tarred(type=tarfile.FIFOTYPE), "is a pipe or a device"),
    raw("c.tar", tarred(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
    raw("d.tar", tarred(name="/a/0.png"), "leads out of the archive"),
    raw("e.tar.gz", gzip.compress(bytes(2**26 + 2**20), 1), "in more than 64 MiB of zeros"),
    *(
        Bad(f"holes-{name}", partial(holes, name), hashed, ("claims 1,024 GiB, of which the",))
        for name in ("birds.zip", "birds.tar", "birds/train/0/0.png")
        if hasattr(os, "SEEK_HOLE")
    ),
    raw("a.rar", b"Rar!", "is no archive; allowed: a folder, or a file that ends in .tar.xz"),
    Bad("source-empty", as_it_is(""), data.load, ("data set ''",)),
    Bad("source-nul", as_it_is(f"./{NUL}"), data.load, ("is no path (embedded null byte)",)),
    Bad("source-long", as_it_is(f"./{LONG}"), data.load, ("is no path (File name too long)",)),
    Bad("source-nobody", as_it_is(NOBODY), data.load, ("is no path",)),
    Bad("source-device", as_it_is("/dev/null"), data.load, ("is a device or a pipe",)),
    Bad("source-typo", as_it_is("digit"), data.load, ("unknown data set 'digit'; one of: digits",)),
]


# ---- checkpoints ---------------------------------------------------------------------------------


def weights():
    return {
        k: v.clone() for k, v in models.build("resnet8", classes=4, channels=1).state_dict().items()
    }


def checkpoint(name, content, *words, suffix=".pt"):
    def make(folder):
        file = folder / f"w{suffix}"
        made = content() if callable(content) else content
        if isinstance(made, bytes):
            file.write_bytes(made)
        elif suffix == ".safetensors":
            safetensors.torch.save_file(made, file)
        else:
            torch.save(made, file)
        return file

    network = models.build("resnet8", classes=4, channels=1)
    return Bad(f"checkpoint-{name}", make, partial(checkpoints.load, network), words)


def altered(**changes):
    """The weights with others in their place, by the name with _ for a dot."""
    state = weights()
    first = next(iter(state))
    return (
        state | {first: changes["first"](state[first])} if "first" in changes else state | changes
    )


class Strange:
    """Something that is unpickled by code."""

    def __reduce__(self):
        return os.system, ("touch here",)


def loop():
    state = {}
    state["state_dict"] = state
    return state


def shared(keys=40):
    """A dict on each of many paths: two kB of a file, 40 * 40 * 40 * 40 places."""
    state = {}
    for _ in range(4):
        state = {f"k{i}": state for i in range(keys)}
    return state


def sets(keys=40):
    """One set of weights on each of many paths."""
    state = weights()
    for _ in range(3):
        state = {f"k{i}": state for i in range(keys)}
    return state


CHECKPOINTS = [
    checkpoint("empty", b"", "cannot be read"),
    checkpoint("text", b"hello", "weights"),
    checkpoint("cut", lambda: torch_bytes(weights())[:2000], "weights"),
    checkpoint("code", lambda: {"w": Strange()}, "which is not read for safety; allowed: a saved"),
    checkpoint("pickle", pickle.dumps({"a": 1}), "weights"),
    checkpoint("pickled-code", pickle.dumps(Strange()), "weights"),
    checkpoint("list", [1, 2], "holds a list, not a state_dict"),
    checkpoint("number", 5, "holds a int, not a state_dict"),
    checkpoint("none", {}, "holds no tensors, but nothing"),
    checkpoint("plain", {"epoch": 3}, "holds no tensors, but epoch"),
    checkpoint(
        "number-keys", {1: torch.ones(2), 2: torch.ones(2)}, "do not fit", "the file's names: 1, 2"
    ),
    checkpoint("loop", loop, "holds no tensors"),
    checkpoint("shared", partial(shared, 300), "holds no tensors, but k0, k1"),
    checkpoint("sets", sets, "holds sets of weights of more than 20,000 tensors; allowed: a saved"),
    checkpoint("averaged", {"n_averaged": torch.tensor(3)}, "holds no tensors, but n_averaged"),
    checkpoint("network", lambda: torch.nn.Linear(2, 2), "which is not read for safety"),
    checkpoint("others", {"a": torch.ones(2)}, "do not fit", "the file's names: a"),
    checkpoint(
        "digits",
        lambda: {f"features.stage1.unit{'1' * 5000}.x": torch.ones(2)},
        *("do not fit", "the file's names: features.stage1.unit111"),
    ),
    checkpoint("shape", lambda: altered(first=lambda x: x[:1]), "do not fit: 1 differ"),
    checkpoint("nan", lambda: altered(first=lambda x: x * float("nan")), "holds NaN or infinity"),
    checkpoint("large", lambda: altered(first=lambda x: x.double() + 1e300), "NaN or infinity"),
    checkpoint("complex", lambda: altered(first=lambda x: x.to(torch.complex64)), "is complex64"),
    checkpoint(
        "int8", lambda: altered(first=lambda x: x.to(torch.int8)), "is int8; allowed: float32"
    ),
    checkpoint("fp8", lambda: altered(first=lambda x: x.to(torch.float8_e4m3fn)), "is float8"),
    checkpoint("bool", lambda: altered(first=lambda x: x > 0), "is bool; allowed"),
    checkpoint("sparse", lambda: altered(first=lambda x: x.to_sparse()), "is sparse_coo; allowed"),
    checkpoint("meta", lambda: altered(first=lambda x: x.to("meta")), "is without numbers (meta)"),
    checkpoint("header", (10**12).to_bytes(8, "little"), "cannot be read", suffix=".safetensors"),
    checkpoint(
        "no-json", (2).to_bytes(8, "little") + b"[}", "cannot be read", suffix=".safetensors"
    ),
    checkpoint("none", b"", "cannot be read", suffix=".safetensors")._replace(name="safe-empty"),
    Bad(
        "checkpoint-long",
        as_it_is(LONG),
        lambda file: checkpoints.load(network(), file),
        ("is no path (File name too long)",),
    ),
    Bad(
        "checkpoint-nobody",
        as_it_is(NOBODY),
        lambda file: checkpoints.load(network(), file),
        ("is no path",),
    ),
    Bad(
        "checkpoint-nowhere",
        as_it_is("x.pt"),
        lambda file: checkpoints.load(network(), file),
        ("weights x.pt: there is no such file",),
    ),
    Bad(
        "checkpoint-folder",
        as_it_is("."),
        lambda file: checkpoints.load(network(), file),
        ("weights .: is a folder; allowed: a file",),
    ),
]


def network():
    return models.build("resnet8", classes=4, channels=1)


def torch_bytes(state):
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


# ---- stores --------------------------------------------------------------------------------------


def stored(name, change, *words, read=store.load_run):
    """A run's folder of which something was changed."""

    def make(folder):
        place = folder / "runs/teachers/a"
        save(place)
        store.save_layers(place, layers())
        change(place)
        return place

    return Bad(f"store-{name}", make, read, (*words, "delete"))


def record(**changes):
    """run.json with other values; of what is None, without it."""

    def change(place):
        file = place / "run.json"
        found = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def facts(**changes):
    def change(place):
        found = json.loads((place / "run.json").read_text())["facts"] | changes
        record(facts=found)(place)

    return change


def content(name, value):
    return lambda place: (place / name).write_bytes(value)


def table(name, frame):
    return lambda place: frame.to_parquet(place / name)


def flipped(name, place):
    """A file with one bit turned over."""
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 4
    (place / name).write_bytes(data)


def measures(place):
    return store.load_table("measures", place.parent, place.name)


ROWS = pd.DataFrame({"layer": ["a"], "measure": ["knn"], "value": [0.5], "view": ["pooled"]})
RUN_JSON = {
    "empty": b"",
    "cut": b'{"a',
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "no-utf8": b"\xff",
    "deep": b"[" * 100_000,
    "many-digits": b"1" * 5000,
    "text": b'"a"',
    "bom": b"\xef\xbb\xbf{}",
}
OTHER_KINDS: list[tuple[str, Any]] = [
    ("parameters", []),
    ("parameters", {"data": 5}),
    ("parameters", {"dataset": 5}),
    ("facts", "kd"),
    ("test_accuracy", "high"),
    ("test_accuracy", None),
    ("test_accuracy", True),
    ("test_accuracy", [0.5]),
    ("test_accuracy", 10**400),
    ("test_accuracy", float("nan")),
    ("test_images", 1.5),
    ("test_images", "10"),
    ("calibration_error", {}),
    ("seconds", "long"),
    ("seconds", float("inf")),
    ("parameters_count", "many"),
    ("architecture", []),
    ("data", 7),
    ("labelled", 5),
    ("train_accuracy", "high"),
    ("train_confidence", [0.9]),
]
OTHER_FACTS = [
    ("width", "wide"),
    ("seed", "0"),
    ("unlabelled", "yes"),
    ("method", 3),
    ("role", None),
]
STORES = [
    stored("run.json-holes", lambda p: holes("run.json", p), "allowed: up to 268,435,456"),
    *(stored(f"run.json-{k}", content("run.json", v), "cannot read") for k, v in RUN_JSON.items()),
    *(
        stored(
            f"{k}-{i}", record(**{k: v}), "cannot read", "data" if k == "parameters" and v else k
        )
        for i, (k, v) in enumerate(OTHER_KINDS)
    ),
    *(stored(f"fact-{k}", facts(**{k: v}), "cannot read", k) for k, v in OTHER_FACTS),
    *(
        stored(
            f"weights-{k}",
            content("weights.safetensors", v),
            "cannot read",
            read=store.load_weights,
        )
        for k, v in {
            "empty": b"",
            "short": b"\x08",
            "huge": b"\xff" * 9,
            "zeros": bytes(99),
        }.items()
    ),
    stored(
        "weights-flipped",
        partial(flipped, "weights.safetensors"),
        "its checksum is another",
        read=store.load_weights,
    ),
    stored(
        "features-flipped",
        partial(flipped, "features.safetensors"),
        "its checksum is another",
        read=store.load_layers,
    ),
    stored(
        "history-flipped",
        partial(flipped, "history.parquet"),
        "its checksum is another",
        read=store.load_history,
    ),
    stored(
        "features-of-others",
        lambda p: (p / "features.safetensors").write_bytes(
            safetensors.numpy.save({"a": np.ones(3)})
        ),
        "cannot read",
        read=store.load_layers,
    ),
    stored(
        "features-uneven",
        lambda p: store._write_tensors(
            p / "features.safetensors",
            {
                "train.a": np.ones((3, 2)),
                "train.b": np.ones((4, 2)),
                **{
                    f"{part}.{kind}": np.zeros(3, int)
                    for part in ("train", "test")
                    for kind in ("labels", "rows")
                },
            },
            {"layers": ["a", "b"]},
        ),
        "different numbers of images",
        read=store.load_layers,
    ),
    stored(
        "snapshots-names",
        lambda p: (p / "snapshots.safetensors").write_bytes(
            safetensors.numpy.save({"a.b": np.ones(3)})
        ),
        "cannot read",
        read=store.load_snapshots,
    ),
    *(
        stored(f"table-{k}", change, "cannot read", read=measures)
        for k, change in {
            "empty": content("measures.parquet", b""),
            "cut": content("measures.parquet", b"PAR1PAR1"),
            "json": content("measures.parquet", b"{}"),
            "no-column": table("measures.parquet", ROWS.drop(columns="view")),
            "text-value": table("measures.parquet", ROWS.assign(value="much")),
            "number-layer": table("measures.parquet", ROWS.assign(layer=3)),
            "list-measure": table("measures.parquet", ROWS.assign(measure=[[1]])),
            "date-value": table("measures.parquet", ROWS.assign(value=pd.Timestamp("2020-01-01"))),
        }.items()
    ),
    stored(
        "history-text", content("history.parquet", b"epoch"), "cannot read", read=store.load_history
    ),
    stored(
        "show-no-history",
        lambda p: (p / "history.parquet").write_bytes(b""),
        "cannot read",
        read=lambda place: cli.show(place),
    ),
    Bad("store-long", as_it_is(LONG), store.load_run, ("is no path (File name too long)",)),
    Bad("store-nul", as_it_is(NUL), store.load_run, ("is no path (embedded null byte)",)),
    Bad("store-nowhere", as_it_is("x"), store.load_run, ("no run.json in x",)),
    Bad("writable-long", as_it_is(Path(LONG)), store.writable, ("is no path",)),
    Bad("writable-file", as_it_is(Path("/dev/null/x")), store.writable, ("cannot write below",)),
]


# ---- published results ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def published_files():
    """The files of published results, by name."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        results.make(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def published(name, change, *words):
    return Bad(f"published-{name}", change, store.load, words)


def published_study(**changes):
    def change(place):
        found = json.loads((place / "study.json").read_text()) | changes
        (place / "study.json").write_text(json.dumps({k: v for k, v in found.items() if v != ...}))

    return change


def column(name, **values):
    def change(place):
        frame = pd.read_parquet(place / name)
        frame.assign(**values).to_parquet(place / name)

    return change


PUBLISHED = [
    published("study-list", content("study.json", b"[]"), "study.json: it holds a list"),
    published("study-empty", content("study.json", b""), "cannot read"),
    published("study-lacks", content("study.json", b"{}"), "it lacks 'name'"),
    published("study-name", published_study(name=5), "name is '5', a int"),
    published("study-classes", published_study(classes="ab"), "classes is 'ab', a str"),
    published("study-layers", published_study(layers={"a": 1}), "layers"),
    published("study-layer-twice", published_study(layers=["a", "a"]), "layers is", "each once"),
    published("study-layer-number", published_study(layers=[1]), "layers is '[1]', not texts"),
    published(
        "runs-twice",
        lambda p: pd.concat(2 * [pd.read_parquet(p / "runs.parquet")]).to_parquet(
            p / "runs.parquet"
        ),
        "stands twice",
    ),
    published("study-image", published_study(image=[8, 8]), "image is '[8, 8]'"),
    published("study-image-0", published_study(image=[0, 8, 1]), "image is '[0, 8, 1]'"),
    published("study-image-large", published_study(image=[9999, 9999, 3]), "cannot read"),
    published(
        "runs-column",
        lambda p: (
            pd.read_parquet(p / "runs.parquet").drop(columns="seed").to_parquet(p / "runs.parquet")
        ),
        "it lacks 'seed'",
    ),
    published("runs-seed", column("runs.parquet", seed="x"), "column 'seed' holds"),
    published("runs-method", column("runs.parquet", method=1), "column 'method' holds"),
    published("maps-x", column("maps.parquet", x="x"), "column 'x' holds"),
    published("sample-label", column("sample.parquet", label="x"), "column 'label' holds"),
    published("sheet", content("sample.webp", b"RIFF"), "sample.webp"),
    published("sheet-flipped", partial(flipped, "maps.parquet"), "maps.parquet", "checksum"),
    published(
        "sheet-small",
        lambda p: Image.new("RGB", (40 * 8, 8)).save(p / "sample.webp"),
        "sample.webp",
    ),
    published("nothing", lambda p: [f.unlink() for f in p.iterdir()], "no study.json in"),
    published("no-table", lambda p: (p / "maps.parquet").unlink(), "no maps.parquet in"),
]


# ---- files of features ---------------------------------------------------------------------------


def features(name, content, *words, suffix=".npz"):
    def make(folder):
        file = folder / f"f{suffix}"
        content(file) if callable(content) else file.write_bytes(content)
        return file

    return Bad(f"features-{name}{suffix}", make, files.read, ("features ", *words))


def npz(**arrays):
    return lambda file: np.savez(file, **{k.replace("__", "/"): v for k, v in arrays.items()})


X = np.random.default_rng(0).normal(size=(30, 3))
FEATURES = [
    features("empty", b"", "cannot be read"),
    features("text", b"hello", "cannot be read"),
    features("pickle", pickle.dumps([1]), "cannot be read"),
    features("objects", npz(a__b=np.array([{}, 1], object)), "cannot be read"),
    features("none", npz(), "no features"),
    features("flat", npz(a=X), "'a'; allowed: network/layer"),
    features("no-layer", npz(a__=X), "'a/'; allowed: network/layer"),
    features("labels-only", npz(labels=np.arange(3)), "no features"),
    features("npy", lambda file: file.write_bytes(npy()), "cannot be read"),
    features("empty", b"", "cannot be read", suffix=".safetensors"),
    features("huge", b"\xff" * 16, "cannot be read", suffix=".safetensors"),
    features(
        "classes",
        lambda file: file.write_bytes(safetensors.numpy.save({"a/b": X}, {"classes": "[" * 9000})),
        "cannot be read",
        suffix=".safetensors",
    ),
    features("empty", b"", "cannot be read", suffix=".parquet"),
    features("text", b"PAR1 hello PAR1", "cannot be read", suffix=".parquet"),
    features(
        "ragged",
        lambda file: pd.DataFrame({"a/b": [[1], [1, 2]]}).to_parquet(file),
        "cannot be read",
        suffix=".parquet",
    ),
    features(
        "no-rows",
        lambda file: pd.DataFrame({"a/b": []}).to_parquet(file),
        "cannot be read",
        suffix=".parquet",
    ),
]


def npy():
    out = io.BytesIO()
    np.save(out, X)
    return out.getvalue()


# ---- the command line ----------------------------------------------------------------------------


def command(*arguments, words, make=lambda folder: None):
    name = "-".join(a.strip("-")[:20] for a in arguments)
    return Bad(f"command-{name}", lambda folder: make(folder) or arguments, run, words)


def run(arguments):
    """What the command says; raises UsageError with it, as everything else in this table does."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2


def data_of(name, *arrays):
    return lambda folder: np.savez(folder / name, **dict(arrays))


NETS = "import torch\ndef net(): return torch.nn.Linear(2, 2)\ndef bad(): return 1/0\nnumber = 5\n"
NETS += "def leaves(): raise SystemExit(0)\n"
LOOK = ("look", "out", "--data", "digits", "--network")


def nets(folder):
    (folder / "nets.py").write_text(NETS)
    (folder / "syntax.py").write_text("def net(:")
    (folder / "exits.py").write_text("raise SystemExit")


COMMANDS = [
    command(words=("arguments are required: COMMAND", "--help")),
    command("lst", words=("invalid choice: 'lst'", "'study', 'list', 'show'")),
    command("lst\x1b[31m", words=("invalid choice: ", r"\x1b[31m")),
    command("study", "--devic", "gpu", words=("--device", "gpu")),
    command("study", "a", "b\nc", words=(r"unrecognized arguments: b\nc",)),
    command("list", "--results", "nowhere", words=("no folder nowhere",)),
    command("list", "--results", NUL, words=(r"results 'a\x00b' is no path",)),
    command("list", "--results", LONG, words=("results 'aaa", "File name too long")),
    command("list", "--results", NOBODY, words=("results '~no-such-user/x' is no path",)),
    command("list", "--results", "/dev/null", words=("no folder /dev/null",)),
    command("show", LONG, words=("run 'aaa", "File name too long")),
    command("show", "a\u202eb", words=(r"no run.json in a\u202eb",)),
    command("show", NO_UTF8, words=(r"no run.json in a\udcffb",)),
    command("study", "nowhere.yaml", words=("no study file nowhere.yaml",)),
    command("study", LONG, words=("file 'aaa", "File name too long")),
    command("study", ".", words=("no study file .",)),
    command("study", "--", "--nonsense", words=("Snakemake: unrecognized arguments: --nonsense",)),
    command("study", "--", "-j", "many", words=("Snakemake: ",)),
    command("study", "--", "--config", "a=b", words=("--config is not taken; allowed: param",)),
    command("study", "--", "--config=a=b", words=("--config is not taken; allowed: param",)),
    command("study", "--", "-Ca=b", words=("--config is not taken; allowed: parameters in",)),
    command("study", "--", "--profile", "nowhere", words=("--profile nowhere: there is none",)),
    command("publish", "x.yaml", "--to", "", words=("argument --to: it is empty; allowed: a",)),
    command("publish", "nowhere.yaml", words=("no study file nowhere.yaml",)),
    command("book", "x\x1b[2J", words=(r"unknown edition 'x\x1b[2J'; one of",)),
    command("look", words=("no images are given; allowed: data",)),
    command("look", "--network", "a", words=("network 'a'; allowed: NAME=NETWORK",)),
    command("look", "--network", "a=b", "--network", "a=c", words=("once for each network",)),
    command("look", "--input-size", "big", words=("input-size 'big'; allowed: a number",)),
    command("look", "--input-size", "\u00b2", words=("input-size '\u00b2'; allowed: a number",)),
    command("look", "--weights-names", "b", words=("weights-names ['b']; allowed",)),
    command("look", "--embeddings", "tsn", words=("unknown embedding 'tsn'; one of: tsne",)),
    command("look", "--features", "x.npz", words=("features x.npz: there is no such file",)),
    command("look", "--features", f"{LONG}.npz", words=("is no path (File name too long)",)),
    command("look", NOBODY, "--data", "digits", words=("folder '~no-such-user/x' is no path",)),
    command("look", "", "--data", "digits", words=("folder '' is no path (it is empty)",)),
    command("look", NO_UTF8, words=(r"parameter folder 'a\udcffb'; allowed: UTF-8",)),
    command("look", "/dev/null/x", "--data", "digits", words=("cannot write below",)),
    command(*LOOK, "a=resnet8@x.pt", words=("network 'a': there is no file x.pt",)),
    command(*LOOK, f"a=resnet8@{LONG}", words=("network 'a': checkpoint", "is no path")),
    command(*LOOK, f"a={NOBODY}.py:net", words=("network 'a': file '~no-such-user/x.py'",)),
    command(*LOOK, "a=resnet9", words=("resnet9",)),
    command(*LOOK, "a b\nc=resnet8", words=(r"network 'a b\nc'; allowed: a name of 1 to 60",)),
    command(*LOOK, "=resnet8", words=("network 'resnet8'; allowed: NAME=NETWORK",)),
    command(*LOOK, "a=nowhere.py:net", words=("there is no file", "nowhere.py")),
    command(*LOOK, "a=syntax.py:net", words=("syntax.py cannot be run: SyntaxError",), make=nets),
    command(*LOOK, "a=nets.py:none", words=("has no 'none'; it has: net, bad",), make=nets),
    command(*LOOK, "a=nets.py:number", words=("number is a int; allowed: a callable",), make=nets),
    command(*LOOK, "a=nets.py:bad", words=("bad() fails: division by zero",), make=nets),
    command(*LOOK, "a=nets.py:leaves", words=("leaves() fails: 0",), make=nets),
    command(*LOOK, "a=exits.py:net", words=("exits.py cannot be run: SystemExit",), make=nets),
    command(*LOOK, "a=nets.py:net", words=("network 'a'",), make=nets),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("layer x is of 20 images, 'a' of 30",),
        make=data_of("f.npz", ("a/x", X), ("b/x", X[:20])),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("have NaN or infinity in it",),
        make=data_of("f.npz", ("a/x", X * np.nan)),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("is the same for all 30 images",),
        make=data_of("f.npz", ("a/x", X * 0)),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("is float64 (30,); allowed",),
        make=data_of("f.npz", ("a/x", X[:, 0])),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("is <U1 (30, 3); allowed: numbers",),
        make=data_of("f.npz", ("a/x", np.full((30, 3), "a"))),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("5 images; allowed: 20 or more",),
        make=data_of("f.npz", ("a/x", X[:5])),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("labels are (3,), of 30 images",),
        make=data_of("f.npz", ("a/x", X), ("labels", np.arange(3))),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("labels are float64",),
        make=data_of("f.npz", ("a/x", X), ("labels", X[:, 0])),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        words=("images are (30, 2, 2, 7); allowed",),
        make=data_of("f.npz", ("a/x", X), ("images", np.zeros((30, 2, 2, 7)))),
    ),
    command(
        "look",
        "out",
        "--features",
        "f.npz",
        "--teacher",
        "b",
        words=("teacher 'b'; one of: a",),
        make=data_of("f.npz", ("a/x", X)),
    ),
]


# ---- the table -----------------------------------------------------------------------------------

TABLE = [*PARAMETERS, *STUDIES, *CHECKED, *IMAGES, *CHECKPOINTS, *STORES, *FEATURES, *COMMANDS]


BAR = re.compile(r"[^\r\n]*%\|[^\r\n]*|\s*")  # of progress, drawn on a machine that is slow


def everything(folder):
    """What lies in a folder and beside it, but for the cache, which may remember what it read."""
    found = sorted(p for p in folder.parent.rglob("*") if folder.parent / "cache" not in p.parents)
    return {p: content_of(p) for p in found if p != folder.parent / "cache"}


def content_of(path):
    """What a file holds, but for one of holes: its length."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    return size if size > 2**28 else path.read_bytes()


def refused(row, folder, capsys):
    given = row.make(folder)
    before, start, work = everything(folder), time.monotonic(), time.process_time()
    if row.read is run:
        run(given)
        out, line = capsys.readouterr()
        assert out == ""
        *bars, line = line.split("\r")
        assert [bar for bar in bars if not BAR.fullmatch(bar)] == []
        assert line.startswith("kdlib: ")
        assert line.count("\n") == 1
        line = line.removesuffix("\n")
    else:
        with pytest.raises(UsageError) as caught:
            row.read(given)
        line = str(caught.value)
    assert time.process_time() - work < 20  # seconds, whatever else the machine does
    assert time.monotonic() - start < 120  # also of what only waits
    assert line.isprintable()
    assert len(line) < 1500
    for word in row.words:
        assert word in line
    assert everything(folder) == before


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, and a cache beside it."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    return place


@pytest.mark.parametrize(
    "row", TABLE, ids=[row.name.encode("unicode_escape").decode()[:60] for row in TABLE]
)
def test_bad_input_is_one_line(row, folder, capsys):
    refused(row, folder, capsys)


@pytest.mark.parametrize("row", PUBLISHED, ids=[row.name for row in PUBLISHED])
def test_bad_published_results_are_one_line(row, folder, capsys, published_files):
    def make(folder):
        for name, content in published_files.items():
            (folder / "study").mkdir(exist_ok=True)
            (folder / "study" / name).write_bytes(content)
        row.make(folder / "study")
        return folder / "study"

    refused(row._replace(make=make), folder, capsys)


def test_a_fault_of_kdlib_is_no_fault_of_a_study(folder, monkeypatch):
    def faulty(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(data, "budget", faulty)
    (folder / "a.yaml").write_text("methods: [baseline, kd]")
    with pytest.raises(KeyError):
        precheck.check(studies.read(folder / "a.yaml"))


def test_the_table_has_a_hundred_kinds_and_more():
    assert len({(row.name, row.words) for row in (*TABLE, *PUBLISHED)}) > 350


def python(*arguments, folder):
    """Another process; its exit status and what it writes to stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KDLIB_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_command_in_a_process_of_its_own_is_one_line(tmp_path):
    code, line = python("-m", "kdlib", "show", "nowhere\x1b[31m", folder=tmp_path)
    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith(r"kdlib: no run.json in nowhere\x1b[31m; ")
    assert not list(tmp_path.iterdir())


def test_a_notebook_in_a_process_of_its_own_is_one_line(tmp_path):
    given = ("-p", "epochs", "many")
    run = ("-m", "papermill", "--engine", "kdlib", "--no-progress-bar", "--log-level", "ERROR")
    notebook = ROOT / "notebooks/teacher.ipynb"
    code, line = python(*run, str(notebook), "out.ipynb", *given, folder=tmp_path)
    assert code == 2, line
    assert line.strip().splitlines()[-1].startswith("Error: parameter epochs must be")
    assert "Traceback" not in line
    assert [file.name for file in tmp_path.iterdir()] == ["out.ipynb"]
