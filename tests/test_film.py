"""A film: layers at the snapshots of a run, mapped as one family a layer, and measured."""

import numpy as np
import pytest
import torch

from kdlib import embed, features, models, store
from kdlib.embed import film
from kdlib.measure import metrics, similarity, space, training

QUICK = {"perplexity": 5, "iterations": 20}


@pytest.fixture(scope="module")
def layers():
    """A network after 0, 1 and 4 epochs, and its teacher: layers of the same images."""
    rng = np.random.default_rng(0)
    labels, train_labels = np.arange(30) % 3, np.arange(60) % 3
    centres = rng.normal(size=(3, 6))

    def part(labels, epoch):
        return {"block1": epoch * centres[labels] + rng.normal(size=(len(labels), 6))}

    return {
        epoch: store.Layers(
            train=part(train_labels, epoch),
            train_labels=train_labels,
            test=part(labels, epoch),
            test_labels=labels,
            test_rows=np.arange(30),
            train_rows=np.arange(60),
        )
        for epoch in (0, 1, 4, 9)
    }


def test_a_film_is_one_family_of_maps_for_each_layer(layers):
    frames = {
        (run, epoch, layer): layers[epoch].test["block1"] * scale
        for layer, scale in (("block1", 1), ("block2", -2))
        for run in ("baseline", "kd")
        for epoch in (0, 1)
    }
    maps = film.film(frames, **QUICK)
    assert list(maps) == list(frames)
    cells = {
        (run, str(epoch)): features
        for (run, epoch, layer), features in frames.items()
        if layer == "block2"
    }
    family = embed.family(cells, **QUICK).maps
    np.testing.assert_array_equal(maps["kd", 1, "block2"], family["kd", "1"])


def test_every_epoch_is_measured_beside_the_teacher_and_the_end(layers):
    teacher = layers[9]
    epochs = {epoch: layers[epoch] for epoch in (0, 1, 4)}
    values = {row[:3]: row[3] for row in training.measures(epochs, teacher)}
    assert len(values) == 3 * (len(training.MEASURES) + 1)

    def spaces(epoch):
        x = layers[epoch]
        return space.spaces(x.test, x.test_labels, x.train, x.train_labels)["block1"]

    for epoch in epochs:
        by_hand = metrics.measure(spaces(epoch), spaces(9), layer="block1")
        for measure in training.MEASURES:
            assert values[epoch, "block1", measure] == by_hand[measure]
        end = similarity.cka(spaces(epoch), spaces(4))
        assert values[epoch, "block1", "cka_end"] == end
    assert values[4, "block1", "cka_end"] == pytest.approx(1)


def test_snapshots_are_extracted_from_the_weights_of_their_epoch():
    parts = [torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8) for n in (5, 7)]
    scale = {"mean": 0.5, "std": 0.25}
    shape = {"classes": 10, "channels": 1, "width": 0.25}
    networks = {epoch: models.build("resnet8", seed=epoch, **shape) for epoch in (0, 3)}
    weights = {epoch: models.weights(network) for epoch, network in networks.items()}
    record = {"architecture": models.architecture(networks[0])}
    taken_over = {"architecture": {"student": record["architecture"], "head": {}}}  # at the end
    for run in (record, taken_over):
        by_epoch = features.snapshots(run, weights, parts, **scale)
        assert list(by_epoch) == [0, 3]
        for epoch, extracted in by_epoch.items():
            for images, layers in zip(parts, extracted, strict=True):
                expected = features.extract(networks[epoch], images, **scale)
                assert list(layers) == list(expected)
                np.testing.assert_array_equal(layers["block3"], expected["block3"])
