"""timm's networks by their names; weights from an address."""

import hashlib
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch

from kdlib import UsageError, data, models, train
from kdlib.data import normalised
from kdlib.models import checkpoints
from kdlib.plan import runs


def network(name, classes=10, size=64, **options):
    return models.build(f"timm:{name}", classes=classes, size=size, **options)


@torch.no_grad()
def shapes(built, size=64, channels=3):
    x = torch.randn(2, channels, size, size)
    features = models.observe(built.eval(), x).features
    torch.testing.assert_close(features["logits"], models.part(built, "logits")(features["pool"]))
    return {layer: tuple(value.shape[1:]) for layer, value in features.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", [(32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2), (96,), (10,)]),
        (
            "mobilenetv3_small_050",  # five stages: the last four
            [(8, 16, 16), (16, 8, 8), (24, 4, 4), (288, 2, 2), (1024,), (10,)],
        ),
        ("convnext_atto", [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2), (320,), (10,)]),
    ],
)
def test_layers_are_the_last_stages_of_its_feature_info(name, expected):
    assert shapes(network(name)) == dict(zip(models.LAYERS, expected, strict=True))


def test_features_of_networks_with_channels_last_are_maps():
    swin = shapes(network("swin_tiny_patch4_window7_224"))
    assert [swin[layer] for layer in models.LAYERS[:4]] == [
        (96, 16, 16),
        (192, 8, 8),
        (384, 4, 4),
        (768, 2, 2),
    ]


def test_stages_of_one_resolution_are_taken_by_thirds():
    vit = network("test_vit", size=32)
    depth = len(vit.blocks)
    paths = [models.layers(vit)[f"block{i}"].module for i in (1, 2, 3)]
    assert paths == [f"blocks.{i * depth // 3 - 1}" for i in (1, 2, 3)]
    assert shapes(vit, 32)["block3"] == (64, 2, 2)


def test_images_of_one_channel_and_initial_weights_by_the_seed():
    first, again, other = (
        models.build("timm:test_resnet", classes=3, channels=1, size=32, seed=seed)
        for seed in (0, 0, 1)
    )
    assert shapes(first, 32, channels=1)["logits"] == (3,)
    weights = [models.part(n, "logits").weight for n in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_teacher_of_timm_is_trained_and_restored(digits):
    run = runs.Teacher(network="timm:test_resnet", input_size=32, epochs=1, batch_size=256)
    batches = data.Batches(digits, torch.arange(len(digits.train)), 256, 0)
    built = train.build(run, digits)
    history = train.fit(built, batches, run).history
    assert history[-1]["labels"] < 3.0
    again = models.restore({"architecture": models.architecture(built)}, models.weights(built))
    x = normalised(digits.test[:4], digits.mean, digits.std)
    with torch.no_grad():
        torch.testing.assert_close(again(x), built.eval()(x))
    assert run.name.startswith("teachers/timm.test_resnet-full-0+")


def test_its_own_normalisation_is_that_of_its_published_weights():
    assert models.own_constants("timm:test_resnet") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert models.own_constants("timm:resnet18") == runs.CONSTANTS["imagenet"]
    assert models.own_constants("resnet18") == runs.CONSTANTS["imagenet"]
    assert models.own_constants("efficientnet_lite0") == runs.CONSTANTS["half"]
    for name in ("resnet8", "module:callable"):
        with pytest.raises(UsageError, match=f"normalise 'own' of {name}; allowed"):
            models.own_constants(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonet", "timm has no network 'nonet'; some: "),
        ("levit_128s", "3 stages; allowed: four or more"),
        ("deit_tiny_distilled_patch16_224", "its classifier is a tuple; allowed: a linear layer"),
    ],
)
def test_what_does_not_fit_is_one_line(name, message):
    with pytest.raises(UsageError, match=message) as error:
        network(name, size=224)
    assert "\n" not in str(error.value)


def test_an_option_it_does_not_have_is_one_line():
    with pytest.raises(UsageError, match=r"network .timm:test_resnet.: .*colour"):
        network("test_resnet", colour="red")


def test_without_timm_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"needs? timm, .*; `pip install -e '\.\[teachers\]'`"):
        network("test_resnet")


def test_without_a_network_weights_of_imagenet_are_one_line(monkeypatch, tmp_path):
    import huggingface_hub as hub

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="weights 'imagenet' of timm:test_resnet: cannot be fet"):
        checkpoints.load(network("test_resnet"), "imagenet")


# ---- weights from an address -------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what is asked for."""

    def log_message(self, *_):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, the address it is served at, and the paths that were asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("urllib.request._opener", None)  # of another test, with its proxies
    folder = tmp_path / "served"
    folder.mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    serving.asked = []
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{serving.server_port}", serving.asked
    serving.shutdown()
    thread.join()
    serving.server_close()


def served(folder, address, network, digest=None):
    """The address of a network's weights, whose name bears their hash or another."""
    file = folder / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return f"{address}/{file.rename(folder / f'net-{digest}.safetensors').name}"


def test_weights_of_an_address_are_fetched_once(server, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    folder, address, asked = server
    given = models.build("resnet8", classes=10, channels=1, width=0.25, seed=5)
    weights = served(folder, address, given)
    run = runs.Teacher(network="resnet8", width=0.25, weights=weights)
    for _ in range(2):
        built = train.build(run, digits)
        assert train.pretrain(built, digits, run) == []
        assert torch.equal(built.stem[0].weight, given.stem[0].weight)
    assert len(asked) == 1
    assert run.weights_file.is_relative_to(tmp_path / "cache")
    assert run.name.endswith(f"+weights={run.weights_hash}")


def test_weights_of_another_hash_are_refused_and_not_kept(server, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    folder, address, _ = server
    given = models.build("resnet8", classes=10, channels=1, width=0.25)
    run = runs.Teacher(
        network="resnet8", width=0.25, weights=served(folder, address, given, "0" * 8)
    )
    with pytest.raises(UsageError, match=r"cannot be fetched to .*invalid hash value") as error:
        train.pretrain(train.build(run, digits), digits, run)
    assert "\n" not in str(error.value)
    assert list(run.weights_file.parent.iterdir()) == []


def test_other_weights_in_the_cache_are_refused(server, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    _, address, asked = server
    run = runs.Teacher(network="resnet8", width=0.25, weights=f"{address}/net-12345678.pt")
    run.weights_file.parent.mkdir(parents=True)
    run.weights_file.write_bytes(b"other")
    with pytest.raises(UsageError, match=r"net-12345678\.pt holds others; delete it"):
        train.pretrain(train.build(run, digits), digits, run)
    assert not asked


def test_an_address_where_nothing_is_is_one_line(server, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    _, address, _ = server
    run = runs.Teacher(network="resnet8", width=0.25, weights=f"{address}/net-12345678.pt")
    with pytest.raises(UsageError, match=r"net-12345678\.pt: cannot be fetched to .*: .*404"):
        train.pretrain(train.build(run, digits), digits, run)
    assert list(run.weights_file.parent.iterdir()) == []


@pytest.mark.parametrize(("classes", "fresh"), [(5, ["logits.weight", "logits.bias"]), (10, [])])
def test_a_classifier_is_initialised_again_only_for_other_classes(tmp_path, classes, fresh):
    given = models.build("resnet8", classes=classes, width=0.25, seed=5)
    safetensors.torch.save_file(given.state_dict(), tmp_path / "net.safetensors")
    built = models.build("resnet8", classes=10, width=0.25)
    initial = built.logits.weight.clone()
    assert checkpoints.load(built, tmp_path / "net.safetensors", new_head=None) == fresh
    assert torch.equal(built.logits.weight, initial if fresh else given.logits.weight)
    assert torch.equal(built.stem[0].weight, given.stem[0].weight)
