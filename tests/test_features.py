from collections import OrderedDict

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from kdlib import UsageError, data, features, models
from kdlib.measure import metrics, similarity, space

SPATIAL = ["stem", "block1", "block2", "block3"]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def network():
    return models.build("resnet8", classes=10, channels=1, width=0.5, seed=0)


def told(images):
    return {"mean": images.mean, "std": images.std}


def same(channels):
    """A network of one layer that says of an image what it is."""
    stem = torch.nn.Conv2d(channels, channels, 1, bias=False)
    torch.nn.init.dirac_(stem.weight)
    return torch.nn.Sequential(OrderedDict(stem=stem))


def whole(network, images, x, layer):
    with torch.no_grad():
        seen = models.observe(network.eval(), data.normalised(x, images.mean, images.std))
    return seen.features[layer].flatten(1).double().numpy()


@pytest.mark.parametrize("n", [100, 700])  # fewer and more images than the 512 features
def test_the_flat_view_is_the_pca_of_scikit_learn_fitted_on_training_images(network, digits, n):
    train, test = digits.train[:n], digits.test[:40]
    axes = features.fit(network, train, batch_size=64, **told(digits))
    assert list(axes) == SPATIAL  # pool and logits have no positions
    found = features.extract(network, test, axes=axes, **told(digits))
    assert list(found) == SPATIAL
    for layer in ("stem", "block2"):
        a, b = (whole(network, digits, x, layer) for x in (train, test))
        wanted = PCA(64, svd_solver="full").fit(a).transform(b)
        assert found[layer].shape == (40, 64)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(np.abs(found[layer].numpy()), np.abs(wanted), atol=2e-4 * scale)


def test_the_sign_of_an_axis_is_fixed(network, digits):
    train = digits.train[:200]
    for axis in features.fit(network, train, **told(digits)).values():
        top = axis.directions.abs().argmax(dim=0)
        assert (axis.directions[top, torch.arange(len(top))] > 0).all()
        torch.testing.assert_close(axis.directions.T @ axis.directions, torch.eye(len(top)))


def test_the_flat_view_keeps_what_pooling_throws_away(digits):
    """Two images whose map has one mean but other places of it."""
    shift = same(1)
    x = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    x[:20, 0, 2, 2], x[20:, 0, 5, 5] = 200, 200
    given = {"mean": 0.5, "std": 0.2, "layers": ["stem"]}
    pooled = features.extract(shift, x, **given)["stem"]
    assert pooled.std() == pytest.approx(0, abs=1e-6)
    axes = features.fit(shift, x, **given)
    flat = features.extract(shift, x, axes=axes, mean=0.5, std=0.2)["stem"]
    assert flat.shape == (40, 1)  # varies in one direction only
    assert (flat[:20] * flat[20:] < 0).all()


def test_large_maps_are_averaged_down_and_many_images_thinned_out(monkeypatch):
    look = same(3)
    x = torch.randint(0, 256, (50, 3, 32, 20), generator=torch.Generator().manual_seed(0))
    x = x.to(torch.uint8)
    given = {"mean": 0.5, "std": 0.2}
    axes = features.fit(look, x, layers=["stem"], **given)["stem"]
    assert axes.directions.shape == (3 * 8 * 8, 49)
    monkeypatch.setattr(features, "FITTED", 20)
    few = features.fit(look, x, layers=["stem"], **given)["stem"]
    torch.testing.assert_close(
        few.mean, features.fit(look, x[::3], layers=["stem"], **given)["stem"].mean
    )


def test_a_layer_that_is_dead_has_one_axis_along_which_nothing_moves(network, digits):
    dead = models.build("resnet8", classes=10, channels=1, width=0.5, seed=0)
    torch.nn.init.zeros_(dead.stem[1].weight)
    axes = features.fit(dead, digits.train[:50], layers=["stem"], **told(digits))
    found = features.extract(dead, digits.test[:9], axes=axes, **told(digits))["stem"]
    assert found.shape == (9, 1)
    assert (found == 0).all()


def test_axes_of_an_unknown_layer_are_refused(network, digits):
    with pytest.raises(UsageError, match="unknown layer 'block9'"):
        features.fit(network, digits.train[:9], layers=["block9"], **told(digits))


def test_a_network_that_nobody_trained_is_measured_as_any_other(network, digits):
    """What the architecture alone gives: a control."""
    teacher = models.build("resnet20", classes=10, channels=1, seed=1)
    test, train = slice(0, 200), slice(0, 400)
    labels = {"labels": digits.test_labels[test], "train_labels": digits.train_labels[train]}
    labels = {key: value.numpy() for key, value in labels.items()}
    views: dict[str, dict] = {"pooled": {}, "flat": {}}
    for name, each in (("own", network), ("teacher", teacher)):
        axes = features.fit(each, digits.train[train], **told(digits))
        for view, given in (("pooled", None), ("flat", axes)):
            seen = [
                {
                    layer: x.numpy()
                    for layer, x in features.extract(each, part, axes=given, **told(digits)).items()
                }
                for part in (digits.test[test], digits.train[train])
            ]
            views[view][name] = space.spaces(seen[0], train=seen[1], **labels)
    for view, layers in (("pooled", list(models.LAYERS)), ("flat", SPATIAL)):
        values = metrics.network(**views[view])
        assert list(values) == layers
        for measured in values.values():
            for key, value in measured.items():
                assert metrics.MEASURES[key].low <= value <= metrics.MEASURES[key].high, key
        alike = similarity.matrix(views[view]["own"], views[view]["teacher"])
        assert len(alike) == len(layers) ** 2
    assert metrics.network(views["flat"]["own"])["stem"]["probe"] > 0.8  # pixels, nearly


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_the_same_flat_view(network, digits):
    train, test = digits.train[:200], digits.test[:40]
    seen = []
    for device in ("cpu", "cuda"):
        net = network.to(device)
        axes = features.fit(net, train.to(device), **told(digits))
        seen.append(features.extract(net, test.to(device), axes=axes, **told(digits)))
    network.to("cpu")
    for layer in SPATIAL:
        first = seen[0][layer][:, :10], seen[1][layer][:, :10]
        torch.testing.assert_close(*first, rtol=0.01, atol=0.01 * float(first[0].abs().max()))
