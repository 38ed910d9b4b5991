"""A study checked before any of it runs: each network and method is built once, on two images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlib import UsageError, one_of, store
from kdlib.plan import methods
from kdlib.plan.runs import Run, Teacher, is_address
from kdlib.plan.studies import Study

CHECKED = Path(".snakemake/kdlib-checked")  # what was checked last, by study
# What decides whether a network can be built, and a method for it.
NETWORK = ("network", "width", "network_options", "normalise", "input_size")


def check(study: Study) -> None:
    """Raise UsageError for what only the networks, the images or the embeddings can tell.

    Networks with their initial weights, methods with their options for each pair of networks,
    augmentations, embeddings with their options and number of images, layers of the film. What was
    checked before, by the same code, is not checked again.
    """
    if methods.BASELINE not in study.keys or len(study.keys) < 2:
        allowed = f"{methods.BASELINE} and at least one more"
        raise UsageError(f"methods {study.keys}; allowed: {allowed}")
    memory, facts = CHECKED / study.name, _facts(study)
    if facts is not None and memory.is_file() and memory.read_text(encoding="utf-8") == facts:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two images are too few for more
    try:
        _check(study)
    finally:
        torch.set_num_threads(threads)
    if facts is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(facts, encoding="utf-8")


def _facts(study: Study) -> str | None:
    """A digest of all that is checked; None where it cannot be known: networks of others' code."""
    if any(":" in run.network and not run.network.startswith("timm:") for run in study.runs):
        return None
    each = sorted({json.dumps([run.name, run.settings()], default=str) for run in study.runs})
    more = [study.embeddings, study.features, study.film, study.runs_only, study.source.hash]
    here = [r.weights for r in study.teachers if r.weights_file and r.weights_file.is_file()]
    more += [store.code_hash(), store.versions(), here]
    return sha256(json.dumps([each, more], default=str).encode()).hexdigest()


def _check(study: Study) -> None:
    from kdlib import data, embed, models, train
    from kdlib.data.augment import AUGMENTATIONS

    for embedding in study.embeddings:
        one_of("embedding", embedding, embed.EMBEDDERS)
    for layer in study.film.get("layers", ()):
        one_of("layer of the film", layer, models.LAYERS)
    for network in {run.network for run in study.runs}:
        models.check_name(network)
    for name in {name for run in study.runs for name in run.augmentations or ()}:
        one_of("augmentation", name, AUGMENTATIONS)
    images = data.load(study.source)
    for labels in study.labels_per_class:
        data.budget(images.train_labels, labels, 0, classes=images.classes)
    for block in list(study.blocks)[:1]:
        size = study.features_of(block).sample
        n = data.check_sample(images, size, asked="sample" in study.features)
        for embedding, maps in study.map_tables.items():
            embed.check(embedding, n, maps.options, maps.coupling)

    @cache
    def built(key: str) -> nn.Module:
        """The network of the run with this key, after a forward pass of two images."""
        run = by_key[key]
        x = data.normalised(images.train[:2], images.mean, images.std)
        with _building(f"network {run.network!r}"):
            network = train.build(run, images)
            with torch.no_grad():
                models.observe(network.eval(), x)
        return network

    by_key = {_key(run): run for run in study.runs}
    _check_weights(study.teachers, built)
    teachers = {run.name: run for run in study.teachers}
    done = set()
    for run in study.students:
        keys = [_key(teachers[name]) for name in run.teacher_runs]
        case = (_key(run), tuple(keys), run.method, repr(run.options))
        if case in done:
            continue
        done.add(case)
        needed = keys if methods.needs_teacher(run.method) else []
        first, *others = map(built, needed) if needed else [None]
        with _building(f"method {run.method!r} for network {run.network!r}"):
            job = train.job(train.build(run, images), run)
            train.method_of(job, first, images, [each for each in others if each is not None])


@contextmanager
def _building(what: str) -> Iterator[None]:
    """Raise UsageError, with the kind of error, for whatever sizes and code of others raise."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")  # about what is refused here anyway
            yield
    except (UsageError, OSError):
        raise
    except (Exception, SystemExit) as problem:
        reason = str(problem).strip().partition("\n")[0][:300]
        kind = type(problem).__name__
        raise UsageError(f"{what} cannot be built here: {kind}: {reason}") from problem


def _key(run: Run) -> str:
    """What the network of a run is, as text."""
    return repr([getattr(run, name) for name in NETWORK])


def _check_weights(teachers: Iterable[Teacher], built: Callable[[str], nn.Module]) -> None:
    """Raise UsageError for a checkpoint that does not fit; one of an address that is here."""
    from kdlib.models import checkpoints

    done: set[Any] = set()
    for run in teachers:
        network, file = built(_key(run)), run.weights_file
        case = (_key(run), run.weights_hash, repr(run.weights_names))
        if case in done or file is None or (is_address(run.weights) and not file.is_file()):
            continue
        done.add(case)
        checkpoints.load(network, file, new_head=None, names=run.weights_names)
