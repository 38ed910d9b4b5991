"""Features of networks that were trained elsewhere: every chosen layer, for the same images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from kdlib import UsageError, models, store, train
from kdlib.data import forward_size, moments
from kdlib.foreign import layers, networks, pictures
from kdlib.foreign import subjects as stored
from kdlib.foreign.networks import Preparation
from kdlib.foreign.pictures import Pictures
from kdlib.foreign.subjects import Subject
from kdlib.plan import look as plan
from kdlib.plan.look import Look, Reference, Seed
from kdlib.plan.runs import Constants

BAR = partial(tqdm, delay=2, leave=False)


class Ready(NamedTuple):
    """A network of which nothing is missing but its features."""

    seed: Seed
    network: nn.Module
    preparation: Preparation
    anatomy: layers.Anatomy
    fingerprint: str


@models.deterministic()
def subjects(choice: Look, images: Pictures, work: Path) -> tuple[list[Subject], Pictures]:
    """The features of all networks, of a sample of the images; which is returned, too.

    Every network is made, loaded and tried on three images before the first is looked into.
    Features that are in `work` are read from there.
    """
    assert images.images is not None
    seeds = plan.seeds(choice.networks)
    plan.check_names(choice, [seed.network for seed in seeds])
    rows = pictures.rows(len(images.images), images.labels, choice.sample)
    sample = images.take(rows, len(images.images))
    if images.train is not None and images.train_labels is not None:
        m, k = len(images.train), len(np.unique(images.train_labels))
        if m < max(plan.LEAST, 4 * k):
            print(
                f"{m} training images are too few for the probes, which take halves of the sample"
            )
            sample = sample._replace(train=None, train_labels=None)
        else:
            few = pictures.rows(m, images.train_labels, min(m, stored.TRAIN))
            sample = sample._replace(train=images.train[few], train_labels=images.train_labels[few])
    threads = torch.get_num_threads()
    try:
        device = train.choose_device(choice.device, choice.threads)
        ready = [_ready(choice, seed, images, device) for seed in BAR(seeds, "networks")]
        return [_subject(each, sample, work, device, choice) for each in ready], sample
    finally:
        torch.set_num_threads(threads)


def _ready(choice: Look, seed: Seed, images: Pictures, device: torch.device) -> Ready:
    name, pixels = seed.network, images.images
    assert pixels is not None
    classes = len(images.classes) or None
    channels, size = pixels.shape[1], pixels.shape[-1]
    names = choice.weights_names.get(name, {})
    built = plan.of(name, choice.input_size, None) or size
    network = networks.make(name, seed.source, classes, channels, built, names)
    if isinstance(seed.source, Reference):
        network.to(device)
    try:
        preparation = networks.preparation(
            network,
            seed.source,
            plan.of(name, choice.normalise, "own"),
            plan.of(name, choice.input_size, None),
            _constants(images),
            channels,
        )
    except UsageError as problem:
        raise UsageError(f"network {name!r}: {problem}") from None
    if pixels.dtype != np.uint8:
        preparation = preparation._replace(words="numbers taken as they are")
    x = _prepared(network, preparation, pixels[: layers.PROBE], device)
    paths = plan.of(name, choice.layers, [])
    with layers.in_evaluation(network):
        if not paths and hasattr(network, "architecture"):
            paths = _named_alike(network)
        anatomy = layers.find(name, network, x, paths=paths, classes=classes, tokens=choice.tokens)
        outputs = layers.observe(network, x, anatomy.layers)
    fingerprint = networks.fingerprint(network, outputs.values())
    return Ready(seed, network, preparation, anatomy, fingerprint)


def _named_alike(network: nn.Module) -> list[str]:
    """The layers of a network of kdlib's, by their modules."""
    known = models.layers(network)
    outputs = [path.module for layer, path in known.items() if layer != "logits"]
    modules = [path for path in outputs if path != known["logits"].module]
    return [*dict.fromkeys(modules), "logits"]


def _constants(images: Pictures) -> Constants:
    """One mean and one deviation of the images' values in [0, 1]."""
    pixels = images.images
    assert pixels is not None
    if pixels.dtype != np.uint8:
        return Constants((0.0,), (1.0,))
    mean, std = images.moments or moments(torch.from_numpy(np.ascontiguousarray(pixels)))
    return Constants((mean,), (std or 1.0,))


def _prepared(
    network: nn.Module, preparation: Preparation, pixels: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Images as a network takes them, where its weights are and of their precision."""
    own = next(iter(network.parameters()), torch.empty(0, device=device))
    x = preparation(torch.from_numpy(np.ascontiguousarray(pixels)).to(own.device))
    return x.to(own.dtype) if own.is_floating_point() else x


def _subject(
    ready: Ready, sample: Pictures, work: Path, device: torch.device, choice: Look
) -> Subject:
    """The features of one network, read where they are known."""
    seed, network, preparation, anatomy, fingerprint = ready
    key = stored.key_of(fingerprint, tuple(preparation), anatomy.layers, sample.hash)
    folder = work / key
    if not (folder / "features.safetensors").is_file():
        parts = {}
        for part, pixels in (("test", sample.images), ("train", sample.train)):
            parts[part] = {} if pixels is None else _extracted(ready, pixels, device, part)
        for layer, x in parts["test"].items():
            stored.check_layer(seed.run, layer, x)
        stored.save_features(folder, parts)
    found = store.load_layers(folder)
    facts: dict[str, Any] = {
        "source": _described(seed.source, network),
        "weights": _weights(seed.source),
        "parameters": models.count(network),
        "readings": [layer.reading for layer in anatomy.layers],
        "preparation": preparation.words,
        "notes": anatomy.notes + _untrained(seed.source),
    }
    test = {layer.name: found.test[layer.name] for layer in anatomy.layers}
    return Subject(seed.run, seed.network, seed.seed, key, test, dict(found.train), facts)


def _extracted(
    ready: Ready, pixels: np.ndarray, device: torch.device, part: str
) -> dict[str, np.ndarray]:
    """The features of images in every layer, batch by batch."""
    network, preparation, anatomy = ready.network, ready.preparation, ready.anatomy
    side = preparation.size or pixels.shape[-1]
    batch = forward_size(torch.empty(1, 1, side, side, dtype=torch.uint8, device="meta"))
    while len(pixels) % batch == 1:  # networks that squeeze cannot take a single image
        batch += 1
    parts: dict[str, list[np.ndarray]] = {layer.name: [] for layer in anatomy.layers}
    starts = range(0, len(pixels), batch)
    with layers.in_evaluation(network):
        for start in BAR(starts, f"features of {ready.seed.run}, {part}"):
            x = _prepared(network, preparation, pixels[start : start + batch], device)
            for layer, features in layers.observe(network, x, anatomy.layers).items():
                parts[layer].append(features.cpu().numpy())
    return {layer: np.concatenate(part) for layer, part in parts.items()}


def _described(source: Any, network: nn.Module) -> str:
    """Where a network comes from, without a path of this machine."""
    if not isinstance(source, Reference):
        return type(network).__name__
    place = f"{Path(source.place).name}:" if source.place else ""
    prefix = "timm:" if source.kind == "timm" else ""
    options = ", ".join(f"{key}={value}" for key, value in source.options)
    return f"{prefix}{place}{source.name}" + (f"({options})" if options else "")


def _weights(source: Any) -> str:
    return Path(source.checkpoint).name if isinstance(source, Reference) else ""


def _untrained(source: Any) -> list[str]:
    if isinstance(source, Reference) and not source.checkpoint:
        return ["no checkpoint: as it is made, perhaps untrained"]
    return []
