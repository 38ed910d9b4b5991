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


def constants(images):
    return {"mean": images.mean, "std": images.std}


def identity(channels):
    """A network of one layer, the identity."""
    stem = torch.nn.Conv2d(channels, channels, 1, bias=False)
    torch.nn.init.dirac_(stem.weight)
    return torch.nn.Sequential(OrderedDict(stem=stem))


def whole(network, images, x, layer):
    with torch.no_grad():
        forward = models.observe(network.eval(), data.normalised(x, images.mean, images.std))
    return forward.features[layer].flatten(1).double().numpy()


@pytest.mark.parametrize("name", ["vit", "shufflenetv2", "foreign:Patches"])
def test_features_of_any_network_are_one_number_per_channel(name):
    network = models.build(name, classes=5, channels=1, size=8)
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    level = {"mean": 0.3, "std": 0.4}
    whole = features.extract(network, images, **level)
    parts = features.extract(network, images, batch_size=3, **level)
    assert list(whole) == list(models.LAYERS)
    outputs = models.observe(network.eval(), (images / 255 - 0.3) / 0.4).features
    for layer, x in whole.items():
        assert x.shape == outputs[layer].shape[:2]
        torch.testing.assert_close(x, parts[layer])
    torch.testing.assert_close(whole["block2"], outputs["block2"].mean((2, 3)).detach())


@pytest.mark.parametrize("n", [100, 700])  # fewer and more images than the 512 features
def test_the_flat_view_is_the_pca_of_scikit_learn_fitted_on_training_images(network, digits, n):
    train, test = digits.train[:n], digits.test[:40]
    axes = features.fit(network, train, batch_size=64, **constants(digits))
    assert list(axes) == SPATIAL  # pool and logits have no positions
    got = features.extract(network, test, axes=axes, **constants(digits))
    assert list(got) == SPATIAL
    for layer in ("stem", "block2"):
        a, b = (whole(network, digits, x, layer) for x in (train, test))
        expected = PCA(64, svd_solver="full").fit(a).transform(b)
        assert got[layer].shape == (40, 64)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.abs(got[layer].numpy()), np.abs(expected), atol=2e-4 * scale)


def test_the_sign_of_an_axis_is_fixed(network, digits):
    train = digits.train[:200]
    for axis in features.fit(network, train, **constants(digits)).values():
        top = axis.directions.abs().argmax(dim=0)
        assert (axis.directions[top, torch.arange(len(top))] > 0).all()
        torch.testing.assert_close(axis.directions.T @ axis.directions, torch.eye(len(top)))


def test_the_flat_view_holds_what_pooling_throws_away(digits):
    """Two images whose map has one mean but other places of it."""
    network = identity(1)
    x = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    x[:20, 0, 2, 2], x[20:, 0, 5, 5] = 200, 200
    options = {"mean": 0.5, "std": 0.2, "layers": ["stem"]}
    pooled = features.extract(network, x, **options)["stem"]
    assert pooled.std() == pytest.approx(0, abs=1e-6)
    axes = features.fit(network, x, **options)
    flat = features.extract(network, x, axes=axes, mean=0.5, std=0.2)["stem"]
    assert flat.shape == (40, 1)  # varies in one direction only
    assert (flat[:20] * flat[20:] < 0).all()


def test_large_maps_are_averaged_down_and_many_images_thinned_out(monkeypatch):
    network = identity(3)
    x = torch.randint(0, 256, (50, 3, 32, 20), generator=torch.Generator().manual_seed(0))
    x = x.to(torch.uint8)
    options = {"mean": 0.5, "std": 0.2}
    axes = features.fit(network, x, layers=["stem"], **options)["stem"]
    assert axes.directions.shape == (3 * 8 * 8, 49)
    monkeypatch.setattr(features, "MAX_IMAGES", 20)
    few = features.fit(network, x, layers=["stem"], **options)["stem"]
    torch.testing.assert_close(
        few.mean, features.fit(network, x[::3], layers=["stem"], **options)["stem"].mean
    )


def test_a_layer_that_is_dead_has_one_axis_along_which_nothing_moves(network, digits):
    dead = models.build("resnet8", classes=10, channels=1, width=0.5, seed=0)
    torch.nn.init.zeros_(dead.stem[1].weight)
    axes = features.fit(dead, digits.train[:50], layers=["stem"], **constants(digits))
    got = features.extract(dead, digits.test[:9], axes=axes, **constants(digits))["stem"]
    assert got.shape == (9, 1)
    assert (got == 0).all()


def test_axes_of_an_unknown_layer_are_refused(network, digits):
    with pytest.raises(UsageError, match="'block9'"):
        features.fit(network, digits.train[:9], layers=["block9"], **constants(digits))


def test_an_untrained_network_is_measured_as_any_other(network, digits):
    """What the architecture gives without training: a control."""
    teacher = models.build("resnet20", classes=10, channels=1, seed=1)
    test, train = slice(0, 200), slice(0, 400)
    labels = {"labels": digits.test_labels[test], "train_labels": digits.train_labels[train]}
    labels = {key: value.numpy() for key, value in labels.items()}
    views: dict[str, dict] = {"pooled": {}, "flat": {}}
    for name, each in (("own", network), ("teacher", teacher)):
        axes = features.fit(each, digits.train[train], **constants(digits))
        for view, fitted in (("pooled", None), ("flat", axes)):
            parts = [
                {
                    layer: x.numpy()
                    for layer, x in features.extract(
                        each, part, axes=fitted, **constants(digits)
                    ).items()
                }
                for part in (digits.test[test], digits.train[train])
            ]
            views[view][name] = space.spaces(parts[0], train=parts[1], **labels)
    for view, layers in (("pooled", list(models.LAYERS)), ("flat", SPATIAL)):
        values = metrics.measure_layers(**views[view])
        assert list(values) == layers
        for measured in values.values():
            for key, value in measured.items():
                assert metrics.MEASURES[key].low <= value <= metrics.MEASURES[key].high, key
        alike = similarity.matrix(views[view]["own"], views[view]["teacher"])
        assert len(alike) == len(layers) ** 2
    assert metrics.measure_layers(views["flat"]["own"])["stem"]["probe"] > 0.8  # pixels, nearly


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_flat_view(network, digits):
    train, test = digits.train[:200], digits.test[:40]
    views = []
    for device in ("cpu", "cuda"):
        net = network.to(device)
        axes = features.fit(net, train.to(device), **constants(digits))
        views.append(features.extract(net, test.to(device), axes=axes, **constants(digits)))
    network.to("cpu")
    for layer in SPATIAL:
        first = views[0][layer][:, :10], views[1][layer][:, :10]
        torch.testing.assert_close(*first, rtol=0.01, atol=0.01 * float(first[0].abs().max()))


def test_features_are_those_of_evaluation_mode_and_change_nothing(network, digits):
    network.train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    x = data.normalised(digits.test[:70], digits.mean, digits.std)
    pooled = features.extract(network, digits.test[:70], batch_size=32, **constants(digits))
    with torch.no_grad():
        outputs = models.observe(network.eval(), x).features
    torch.testing.assert_close(pooled["block1"], outputs["block1"].mean((2, 3)))
    torch.testing.assert_close(pooled["logits"], outputs["logits"])
    assert all(x.equal(before[name]) for name, x in network.state_dict().items())
    with pytest.raises(UsageError, match="block9"):
        features.extract(network, digits.test[:2], layers=["block9"], **constants(digits))
