"""Look into networks as they are: features, maps, measures, similarity, predictions, one page.

No training and no study file. What is written is what the book reads of a study (`kdlib.store`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from kdlib import UsageError, embed, one_of, path_of, printable, store
from kdlib.foreign import files, pictures, tables
from kdlib.foreign.pictures import Pictures
from kdlib.foreign.subjects import Subject, check_layer, hash_of, key_of
from kdlib.measure.depth import relative
from kdlib.plan import look as plan
from kdlib.plan.look import Look
from kdlib.plan.source import Source
from kdlib.store import Results

WORK = ".look"  # in the results' folder: what need not be computed again
PAGE = "look.html"
BAR = partial(tqdm, delay=2, leave=False)


def look(
    networks: Any = None,
    images: Any = None,
    labels: Any = None,
    *,
    train: tuple[Any, Any] | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Results:
    """Look into networks that somebody trained: their layers as maps and as numbers.

    `networks` are torch modules by name (or a single one), or texts such as
    "nets.py:student@kd.pt", or arrays {layer: (n, d)}, or lists of these (seeds of one network), or
    the path of a file of features (`kdlib.foreign.files`). `images` are arrays or tensors, a
    `data.Images`, or what `data.load` takes; `labels` their classes, whole numbers or names,
    `classes` the names of those. What needs labels is left out without them. `train`, images and
    labels, is what the probes are fitted to; without it they are fitted to one half of the sample
    and tested on the other. `options` are the parameters of `kdlib.plan.look.Look` by name: folder,
    layers, teacher, sample, embeddings, normalise, input_size, weights_names, tokens, device,
    threads.

    Writes the folder (default "look") and returns what is in it; what is there already is not
    computed again. Networks are left as they were. Raises UsageError, before anything is computed,
    for what does not fit.

    >>> kdlib.look({"baseline": net, "distilled": other}, images, labels, folder="mine")
    """
    if isinstance(networks, str | Path):
        options["features"] = str(networks)
    elif hasattr(networks, "state_dict"):
        options["networks"] = {"network": networks}
    elif networks is not None:
        options["networks"] = dict(networks)
    if isinstance(images, str | Path):
        options["data"], images = str(images), None
    if isinstance(images, Source):
        from kdlib import data

        images = data.load(images)
    if "folder" in options:
        options["folder"] = str(options["folder"])
    if isinstance(options.get("layers"), str):
        options["layers"] = [options["layers"]]
    choice = Look(**options)
    return run(choice, images, labels, train=train, classes=classes)


def run(
    choice: Look,
    images: Any = None,
    labels: Any = None,
    *,
    train: tuple[Any, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Results:
    """Look as `choice` says; the arguments beside it are those of `look`."""
    for embedding in choice.embeddings:
        one_of("embedding", embedding, embed.EMBEDDERS)
    folder = path_of("folder", choice.folder).resolve()
    _check_folder(folder)
    if choice.features is not None or _in_arrays(choice.networks):
        _check_options(choice, train)
        subjects, sample = _of_features(choice, images, labels, classes)
    else:
        from kdlib.foreign import extraction

        sample = _pictures(choice, images, labels, train, classes)
        subjects, sample = extraction.subjects(choice, sample, folder / WORK)
    teacher = _teacher(choice, subjects)
    _check(subjects)
    left_out: dict[str, str] = {}
    results = _results(choice, folder, subjects, sample, teacher, left_out)
    store.publish(folder, results)
    _tidy(folder / WORK, subjects)
    _say(results.study, Path(choice.folder))
    from kdlib.report import explorer  # only now: mistakes are said before it is imported

    results = store.load(folder)
    explorer.show(results).save(folder / PAGE)
    return results


# ---- what is looked at -------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    """Raise UsageError where results cannot be written, or others lie there."""
    if not store.foreign(folder):
        raise UsageError(f"{folder} holds the results of a study; give another folder")
    store.writable(folder)


def _in_arrays(networks: Mapping[str, Any]) -> bool:
    return any(isinstance(_first(given), Mapping) for given in networks.values())


def _arrays(name: str, given: Any) -> dict[str, np.ndarray]:
    if not isinstance(given, Mapping):
        raise UsageError(
            f"network {name!r}: a {type(given).__name__} beside features; allowed: features of all "
            "networks, or networks only"
        )
    where = f"network {name!r}: layer"
    return {str(layer): pictures.array_of(f"{where} {layer}", x) for layer, x in given.items()}


def _check_options(choice: Look, train: Any) -> None:
    """Raise UsageError for what says how networks are run, where features are given."""
    usual = Look()
    for name in ("normalise", "input_size", "weights_names", "tokens"):
        if getattr(choice, name) != getattr(usual, name):
            raise UsageError(f"{name} with features; allowed: with networks")
    if train is not None:
        raise UsageError("train with features; allowed: with networks")


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, list | tuple) and given else given


def _of_features(
    choice: Look, images: Any, labels: Any, classes: Sequence[str] | None
) -> tuple[list[Subject], Pictures]:
    """Networks whose features are given, in a file or in memory."""
    if choice.features is not None:
        path = path_of("features", choice.features)
        found = files.read(path)
        images = found.images if images is None else images
        labels = found.labels if labels is None else labels
        classes = found.classes if classes is None else classes
        networks = {name: list(seeds.values()) for name, seeds in found.networks.items()}
        numbers = {name: list(seeds) for name, seeds in found.networks.items()}
        where = path.name
    else:
        numbers = {}
        networks = {
            name: [_arrays(name, each) for each in several]
            for name, given in choice.networks.items()
            for several in [given if isinstance(given, list | tuple) else [given]]
        }
        where = "in memory"
    plan.check_names(choice, list(networks))
    seeds = plan.seeds({name: [*rows] for name, rows in networks.items()}, numbers)
    chosen = {seed.run: _chosen(choice, seed.network, seed.source) for seed in seeds}
    for name, layers in chosen.items():
        for layer, x in layers.items():
            check_layer(name, layer, x)
    n = len(next(iter(chosen[seeds[0].run].values())))
    for name, layers in chosen.items():
        for layer, x in layers.items():
            if len(x) != n:
                first = seeds[0].run
                raise UsageError(
                    f"network {name!r}: layer {layer} is of {len(x)} images, {first!r} of {n}; "
                    "allowed: the same images in the same order"
                )
    sample = _beside(choice, images, labels, classes, n)
    rows = pictures.rows(n, sample.labels, choice.sample)
    sample = sample.take(rows, n)
    subjects = []
    for seed in seeds:
        layers = {name: np.asarray(x[rows], np.float32) for name, x in chosen[seed.run].items()}
        facts = {"source": where, "parameters": math.nan, "readings": ["as given"] * len(layers)}
        facts["preparation"] = ""
        facts["notes"] = _no_logits(layers, len(sample.classes))
        subjects.append(
            Subject(seed.run, seed.network, seed.seed, hash_of(layers), layers, {}, facts)
        )
    return subjects, sample


def _no_logits(layers: Mapping[str, np.ndarray], classes: int) -> list[str]:
    """A note where features hold no logits of all classes."""
    if not classes or ("logits" in layers and layers["logits"].shape[1] == classes):
        return []
    there = f"logits are (n, {layers['logits'].shape[1]})" if "logits" in layers else "no logits"
    return [f"{there}, which predictions need as a layer (n, {classes}): no predictions"]


def _chosen(choice: Look, network: str, layers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    wanted = plan.of(network, choice.layers, []) or list(layers)
    for name in wanted:
        one_of(f"layer of {network!r}", name, layers)
    return {name: layers[name] for name in wanted}


def _beside(
    choice: Look, images: Any, labels: Any, classes: Sequence[str] | None, n: int
) -> Pictures:
    """Images and labels beside features of n images, from memory, the file or a data set."""
    if choice.data is None:
        return pictures.given(images, labels, classes, n=n)
    loaded = _loaded(choice)
    if len(loaded.labels) != n:  # type: ignore[arg-type]
        raise UsageError(
            f"features of {n} images, data of {len(loaded.labels)} test images; "  # type: ignore
            "allowed: one row for each test image, in its order"
        )
    if labels is None:
        return loaded
    return pictures.given(loaded.images, labels, classes or loaded.classes, n=n)


def _pictures(
    choice: Look, images: Any, labels: Any, train: Any, classes: Sequence[str] | None
) -> Pictures:
    """The images that networks are looked at with."""
    if choice.data is not None:
        if any(given is not None for given in (images, labels, train, classes)):
            raise UsageError("data and images are both given; allowed: one of them")
        return _loaded(choice)
    if hasattr(images, "test_labels"):
        if any(given is not None for given in (labels, train, classes)):
            raise UsageError("labels, train or classes beside a data set, which has its own")
        return _of_images(images)
    if images is None:
        raise UsageError("no images are given; allowed: data, or images beside the networks")
    found = pictures.given(images, labels, classes)
    if train is not None:
        if found.labels is None:
            raise UsageError("train is given without labels of the images; allowed: both")
        more = pictures.given(train[0], train[1], found.classes)
        if more.images is None or more.labels is None:
            raise UsageError("train needs images and labels; given one of them")
        own, other = found.images, more.images
        assert own is not None
        if (own.dtype, own.shape[1:]) != (other.dtype, other.shape[1:]):
            raise UsageError(
                f"train images are {other.shape[1:]} of {other.dtype}; allowed: as the images, "
                f"{own.shape[1:]} of {own.dtype}"
            )
        found = found._replace(train=more.images, train_labels=more.labels)
    return found


def _loaded(choice: Look) -> Pictures:
    from kdlib import data

    assert choice.data is not None
    images = data.load(Source(choice.data, choice.size, choice.grey))
    for note in images.notes:
        print(printable(note))
    if (n := len(images.test)) < plan.LEAST:
        raise UsageError(
            f"data {choice.data}: {n} test images beside {len(images.train)} for training; "
            f"allowed: {plan.LEAST} or more in test/, or 5 times as many without a split"
        )
    return _of_images(images)


def _of_images(images: Any) -> Pictures:
    """The test images of a `data.Images`, and its training images for the probes."""
    return Pictures(
        images=images.test.cpu().numpy(),
        labels=images.test_labels.cpu().numpy(),
        classes=tuple(images.classes),
        name=images.name,
        train=images.train.cpu().numpy(),
        train_labels=images.train_labels.cpu().numpy(),
        moments=(images.mean, images.std),
    )


def _teacher(choice: Look, subjects: Sequence[Subject]) -> str:
    """The network that the others are compared with: as asked, the one so called, or the first."""
    names = [subject.network for subject in subjects]
    if choice.teacher is not None:
        one_of("teacher", choice.teacher, names)
        return choice.teacher
    return "teacher" if "teacher" in names else names[0]


def _check(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        for layer, x in subject.layers.items():
            check_layer(subject.run, layer, x)


# ---- what is computed --------------------------------------------------------------------------


def _results(
    choice: Look,
    folder: Path,
    subjects: Sequence[Subject],
    sample: Pictures,
    teacher: str,
    left_out: dict[str, str],
) -> Results:
    of_teacher = next(subject for subject in subjects if subject.network == teacher)
    work = folder / WORK
    labels = sample.labels
    measures, similar = [], []
    for subject in BAR(subjects, "measures"):
        other = None if subject.network == teacher else of_teacher
        key = key_of(subject.key, other and other.key, labels, sample.train_labels)
        if not (work / key / "left_out.parquet").is_file():
            with threadpool_limits(choice.threads):
                _measure(work, key, subject, other, sample)
        measures.append(store.load_table("measures", work, key).assign(run=subject.run))
        similar.append(store.load_table("similarity", work, key).assign(run=subject.run))
        missing = store.load_frame(work / key / "left_out.parquet")
        left_out |= dict(zip(missing["measure"], missing["reason"], strict=True))
    for name in {*left_out} & {name for table in measures for name in table["measure"]}:
        left_out[name] = f"in some layers: {left_out[name]}"
    mapped = _mapped(subjects)
    made = {kind: _maps(choice, work, kind, mapped, labels) for kind in choice.embeddings}
    frames = {
        name: pd.concat([each[name] for each in made.values()], ignore_index=True)
        for name in ("maps", "faithfulness", "neighbours")
    }
    frames["neighbours"] = frames["neighbours"].drop_duplicates(ignore_index=True)
    guesses = tables.predictions(subjects, len(sample.classes))
    for subject in subjects:
        if subject.run in guesses and labels is not None:
            note = tables.by_chance(guesses[subject.run], labels, len(sample.classes))
            subject.facts["notes"] = [*subject.facts.get("notes", []), *note]
    frames |= {
        "runs": tables.runs(subjects, teacher, of_teacher.run, guesses, labels),
        "measures": pd.concat(measures, ignore_index=True),
        "similarity": pd.concat(similar, ignore_index=True),
        "predictions": tables.of_predictions(guesses),
    }
    for name in store.TABLES:
        frames.setdefault(name, store.empty(name))
    n = len(next(iter(subjects[0].layers.values())))
    left_out |= _left_out(subjects, mapped, sample, frames)
    study = _study(choice, folder, subjects, sample, teacher, left_out, n)
    shown = np.full(n, -1) if labels is None else labels
    return Results(study, **frames, images=pictures.thumbnails(sample.images), labels=shown)


def _mapped(subjects: Sequence[Subject]) -> list[Subject]:
    """The first seed of each network."""
    return list({subject.network: subject for subject in reversed(subjects)}.values())[::-1]


def _left_out(
    subjects: Sequence[Subject],
    mapped: Sequence[Subject],
    sample: Pictures,
    frames: Mapping[str, pd.DataFrame],
) -> dict[str, str]:
    """What a look has besides measures and could not make here, and why."""
    missing = {}
    first = [subject.run for subject in mapped]
    if others := [subject.run for subject in subjects if subject.run not in first]:
        missing[f"maps of {', '.join(others)}"] = "of several seeds the first is mapped"
    shown = frames["faithfulness"]
    n = len(next(iter(subjects[0].layers.values())))
    if n < sample.whole:
        way = "way at random" if sample.labels is None else "the same share of every class"
        rest = f"{sample.whole - n:,} of {sample.whole:,} images"
        missing[rest] = f"a sample of {n:,} is looked at, {way}"
    if n > tables.RESTARTED:
        reason = f"from maps made three times, for up to {tables.RESTARTED:,} images"
        missing["noise of the maps, and how far they show classes"] = reason
    elif sample.labels is not None and "map_silhouette" not in set(shown["measure"]):
        missing["how far maps show classes"] = "every class needs two images"
    if len(mapped) < 2:
        missing["similarity to a teacher"] = "there is one network"
    elif undefined := int(frames["similarity"]["value"].isna().sum()):
        missing[f"similarity of {undefined} pairs of layers"] = "one varies in a single image only"
    if not sample.classes:
        missing["predictions"] = "they need labels, or the names of the classes"
    elif sample.labels is None:
        missing["accuracy of the predictions"] = "it needs the label of every image"
    return missing


def _measure(
    work: Path, key: str, subject: Subject, other: Subject | None, sample: Pictures
) -> None:
    """Measure a network's layers, beside those of the teacher that are as deep."""
    values, left_out = tables.measures(
        subject.layers,
        sample.labels,
        subject.train,
        sample.train_labels,
        None if other is None else other.layers,
    )
    rows = store.numbers(values, "layer", "measure")
    store.save_table("measures", work, key, rows.assign(view="pooled"))
    similar = store.empty("similarity").drop(columns="run")
    if other is not None:
        cka = tables.similarity(subject.layers, other.layers)
        similar = store.numbers(cka, "layer", "teacher_layer").assign(view="pooled")
    store.save_table("similarity", work, key, similar)
    missing = pd.DataFrame(sorted(left_out.items()), columns=["measure", "reason"])
    store.save_frame(work / key / "left_out.parquet", missing.astype(object))


def _maps(
    choice: Look, work: Path, kind: str, mapped: Sequence[Subject], labels: np.ndarray | None
) -> dict[str, pd.DataFrame]:
    """The maps of every layer by one embedding, and their numbers."""
    key = _map_key(kind, mapped, labels)
    names = ("maps", "faithfulness", "neighbours")
    if not (work / f"maps/{key}-neighbours.parquet").is_file():
        layers = {subject.run: subject.layers for subject in mapped}
        made = tables.maps(layers, kind, labels, choice.threads)
        for name in names:
            store.save_table(name, work, key, made[name])
    return {name: store.load_table(name, work, key) for name in names}


def _map_key(kind: str, mapped: Sequence[Subject], labels: np.ndarray | None) -> str:
    return key_of(kind, [(s.run, s.key) for s in mapped], labels)


def _tidy(work: Path, subjects: Sequence[Subject]) -> None:
    """Delete features of other inputs, which are large."""
    keep = {subject.key for subject in subjects}
    for place in work.glob("*/features.safetensors"):
        if place.parent.name not in keep:
            shutil.rmtree(place.parent, ignore_errors=True)


# ---- what is said ------------------------------------------------------------------------------


def _study(
    choice: Look,
    folder: Path,
    subjects: Sequence[Subject],
    sample: Pictures,
    teacher: str,
    left_out: Mapping[str, str],
    n: int,
) -> dict[str, Any]:
    mapped = [subject.run for subject in _mapped(subjects)]
    networks = [
        {
            "run": subject.run,
            "network": subject.network,
            "seed": subject.seed,
            "role": "teacher" if subject.network == teacher else "student",
            "mapped": subject.run in mapped,
            "layers": list(subject.layers),
            "depths": [round(place, 4) for place in relative(len(subject.layers))],
            **{k: v for k, v in subject.facts.items() if k != "parameters"},
        }
        for subject in subjects
    ]
    probes = "training images" if subjects[0].train else "the two halves of the sample in turn"
    return {
        "foreign": True,
        "name": folder.resolve().name,
        "dataset": sample.name,
        "classes": list(sample.classes),
        "layers": tables.in_order({s.run: list(s.layers) for s in subjects}),
        "embeddings": list(choice.embeddings),
        "networks": networks,
        "teacher": teacher,
        "seeds": {s.network: sum(o.network == s.network for o in subjects) for s in subjects},
        "labelled": sample.labels is not None,
        "pictured": sample.images is not None,
        "sample": n,
        "probes": probes if sample.labels is not None else "",
        "left_out": dict(left_out),
        "code": store.code_hash(),
        **store.versions(),
    }


def _say(study: Mapping[str, Any], folder: Path) -> None:
    """Print what was looked at, and what was left out and why."""
    for network in study["networks"]:
        words = [f"{network['run']}: {', '.join(network['layers'])}"]
        words += [network["preparation"], *network.get("notes", [])]
        print(printable("; ".join(filter(None, words))))
    reasons: dict[str, list[str]] = {}
    for measure, reason in study["left_out"].items():
        reasons.setdefault(reason, []).append(measure)
    for reason, names in reasons.items():
        print(printable(f"left out: {', '.join(names)}: {reason}"))
    place = printable(str(folder))
    print(f"{study['sample']} images; compared with {study['teacher']} -> {place}")
    if max(study["seeds"].values()) == 1:
        print("one seed of each network: a difference of two is no evidence about a method")
