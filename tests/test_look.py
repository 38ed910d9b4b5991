"""Looking into networks that were trained elsewhere, and into features that never saw torch."""

import json
import re
import subprocess
import sys
import zipfile
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

import kdlib
from kdlib import UsageError, cli, models, store
from kdlib.data import forward_size
from kdlib.foreign import extraction, files, layers, networks, pictures, reading, subjects, tables
from kdlib.models import checkpoints
from kdlib.plan import look as plan
from kdlib.plan import source

NETS = """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Odd(nn.Module):
        '''No layer of it is called as ours are.'''

        def __init__(self, num_classes=7, width=4):
            super().__init__()
            self.first = nn.Conv2d(1, width, 3, padding=1)
            self.middle = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width))
            self.last = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
            self.out = nn.Linear(2 * width, num_classes)

        def forward(self, x):
            x = self.last(F.relu(self.middle(F.relu(self.first(x)))))
            return self.out(x.mean((2, 3)))

    def student(num_classes):
        return Odd(num_classes, 4)

    def wants(depth):
        return Odd()

    number = 3
"""


class Tiny(nn.Module):
    """A small transformer: tokens, blocks that are all alike, a tuple as its output."""

    def __init__(self, classes=10, blocks=6, class_token=False):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8)) if class_token else None
        block = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(blocks)]
        self.blocks = nn.ModuleList(block)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return {"aux": x, "logits": self.head(x.mean(1))}


def sequential(width=4, classes=10):
    torch.manual_seed(width)
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, classes),
    )


def found(network, size=8, channels=1, **options):
    torch.manual_seed(0)
    x = torch.randn(3, channels, size, size)
    with layers.in_evaluation(network):
        return layers.find("net", network, x, **options)


def named(anatomy):
    return [layer.name for layer in anatomy.layers]


@pytest.fixture
def nets(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(dedent(NETS))
    return file


@pytest.fixture
def few(digits):
    """Sixty of the digits."""
    return digits.test[:60], digits.test_labels[:60]


def looked(networks, images=None, labels=None, folder="look", **options):
    options.setdefault("embeddings", ["pca"])
    return kdlib.look(networks, images, labels, folder=str(folder), **options)


# ---- which layers ------------------------------------------------------------------------------


def test_layers_are_the_last_outputs_of_the_stages():
    assert named(found(sequential(), classes=10)) == ["1", "5", "8", "logits"]


def test_layers_of_a_transformer_lie_evenly_in_its_depth():
    anatomy = found(Tiny(), classes=10)
    assert named(anatomy) == [
        *("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.5", "logits"),
    ]
    assert {layer.reading for layer in anatomy.layers[:-1]} == {"mean of tokens"}
    assert anatomy.notes == ["its output is a dict: the (n, 10) in it is taken"]


def test_three_blocks_of_a_transformer_are_not_taken_apart():
    blocks = ["blocks.0", "blocks.1", "blocks.2"]
    assert named(found(Tiny(blocks=3), classes=10)) == ["patches", *blocks, "logits"]


def test_a_class_token_stands_for_the_image_where_there_is_one():
    network = Tiny(class_token=True)
    assert found(network, classes=10).layers[0].reading == "class token"
    assert found(network, classes=10, tokens="mean").layers[0].reading == "mean of tokens"


def test_tokens_first_is_told_from_images_first():
    network = nn.TransformerEncoderLayer(8, 2, 16)  # (tokens, n, 8)
    output = network(torch.randn(5, 3, 8))
    ((tensor, axis),) = layers.tensors(output, 3)
    assert (tensor.shape, axis) == ((3, 5, 8), 1)


class TokensFirst(nn.Module):
    """A transformer as torch makes it by default: tokens are the first axis, images the second."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.block(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0))


def test_as_many_images_as_tokens_are_not_taken_for_tokens():
    torch.manual_seed(0)
    network, x = TokensFirst(), torch.randn(16, 1, 8, 8)  # 16 tokens
    with layers.in_evaluation(network):
        chosen = layers.find("net", network, x[:3], paths=["block"], classes=10).layers
        together = layers.observe(network, x, chosen)["block"]
        apart = torch.cat([layers.observe(network, each, chosen)["block"] for each in x.split(4)])
    assert chosen[0].reading == "mean of tokens, images second"
    assert together.shape == (16, 8)
    assert torch.allclose(together, apart, atol=1e-5)


class Returns(nn.Module):
    """A network that returns whatever a function makes of its logits and its last map."""

    def __init__(self, made):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.head, self.made = nn.Linear(6, 10), made

    def forward(self, x):
        x = self.second(self.first(x.mul_(2)))
        return self.made(self.head(x.mean((2, 3))), x)


@pytest.mark.parametrize(
    ("made", "end", "shape"),
    [
        (lambda logits, x: (x, logits), "logits", (3, 10)),
        (lambda logits, x: [x.mean((2, 3)), logits], "logits", (3, 10)),
        (lambda logits, x: {"features": x, "prediction": logits}, "logits", (3, 10)),
        (lambda logits, x: {"features": logits[:, :4], "logits": logits}, "logits", (3, 10)),
        (lambda logits, x: logits[:, :, None, None], "logits", (3, 10)),
        (lambda logits, x: logits.half(), "logits", (3, 10)),
        (lambda logits, x: (x, logits[:, :4]), "output", (3, 4)),
        (lambda logits, x: [x, x[:, :2]], "output", (3, 2)),
        (lambda logits, x: logits.to_sparse(), "head", (3, 10)),
        (lambda logits, x: logits.argmax(1), "head", (3, 10)),
    ],
)
def test_of_what_a_network_returns_the_output_of_all_classes_is_taken(made, end, shape):
    network, x = Returns(made), torch.randn(3, 1, 8, 8)
    before = x.clone()
    with layers.in_evaluation(network):
        anatomy = layers.find("net", network, x, classes=10)
        last = layers.observe(network, x, anatomy.layers)[end]
    assert named(anatomy)[-1] == end
    assert last.shape == shape
    assert x.equal(before)  # though the network changes its input


def test_two_blocks_of_a_transformer_are_not_taken_apart():
    assert named(found(Tiny(blocks=2), classes=10)) == ["patches", "blocks.0", "blocks.1", "logits"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_come_in_the_precision_of_the_network(few, tmp_path, dtype):
    results = looked({"net": sequential().to(dtype)}, *few, tmp_path / "look")
    assert results.runs["parameters"].tolist() == [models.count(sequential())]


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
def test_torchscript_has_no_layers_to_look_into(few, tmp_path):
    network = torch.jit.trace(sequential().eval(), torch.zeros(3, 1, 8, 8))
    with pytest.raises(UsageError, match=r"'net': is TorchScript, .*; allowed: the Module"):
        looked({"net": network}, *few, tmp_path / "look")


def test_what_works_in_place_does_not_change_the_layer_before_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    x = torch.randn(5, 1, 8, 8)
    with layers.in_evaluation(network):
        chosen = layers.find("net", network, x[:3], paths=["1"]).layers
        assert layers.observe(network, x, chosen)["1"].equal(network[1](x.flatten(1)))


def test_channels_last_are_told_from_channels_first():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(1, 6, 1), nn.Linear(6, 5), nn.Linear(5, 10)

        def forward(self, x):
            return self.head(self.b(self.a(x).permute(0, 2, 3, 1)).mean((1, 2)))

    network, x = Last(), torch.randn(3, 1, 8, 8)
    anatomy = found(network, classes=10)
    (layer,) = (layer for layer in anatomy.layers if layer.name == "b")
    assert layer.reading == "mean of positions, channels last"
    with layers.in_evaluation(network):
        features = layers.observe(network, x, [layer])["b"]
        by_hand = network.b(network.a(x).permute(0, 2, 3, 1)).mean((1, 2))
    torch.testing.assert_close(features, by_hand)


def test_a_deep_network_gives_eight_layers_evenly():
    stages = [nn.Sequential(nn.Conv2d(4, 4, 3, 1, 0), nn.ReLU()) for _ in range(12)]
    network = nn.Sequential(nn.Conv2d(1, 4, 1), *stages, nn.Flatten(), nn.Linear(256, 10))
    names = named(found(network, size=32, classes=10))
    assert len(names) == 8
    assert names[-2:] == ["12", "logits"]


def test_features_are_the_mean_over_positions_and_the_network_is_left_as_it_was():
    network = sequential()
    network[4].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    x = torch.randn(5, 1, 8, 8)
    with layers.in_evaluation(network):
        features = layers.observe(network, x, found(network, classes=10).layers)
        by_hand = network[:2](x).mean((2, 3))
    torch.testing.assert_close(features["1"], by_hand)
    assert [module.training for module in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_output_of_other_classes_is_said_to_predict_nothing():
    anatomy = found(sequential(classes=12), classes=10)
    assert named(anatomy)[-1] == "output"
    assert anatomy.notes == ["its output (n, 12) is not of 10 classes: no predictions"]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["9.c"], "unknown layer '9.c'; one of its 12 modules or logits, such as"),
        ([""], "''"),
    ],
)
def test_a_layer_that_is_none_is_refused(paths, words):
    with pytest.raises(UsageError, match=words):
        found(sequential(), paths=paths)


def test_images_that_a_network_cannot_take_are_refused():
    with pytest.raises(UsageError, match=r"'net': cannot take images of \(3, 8, 8\): "):
        found(sequential(), channels=3)


# ---- unequal depth -----------------------------------------------------------------------------


def test_layers_are_laid_side_by_side_by_relative_depth():
    assert tables.beside(["a", "b", "c"], ["1", "2", "3", "4", "5"]) == {
        "a": "1",
        "b": "3",
        "c": "5",
    }
    assert tables.in_order({"x": ["a", "z"], "y": ["a", "m", "z"]}) == ["a", "m", "z"]


def test_maps_of_unequal_depth_take_the_places_of_the_deepest():
    x = np.random.default_rng(0).normal(size=(30, 4))
    places, cells = tables._by_place({"s": dict.fromkeys("abc", x), "t": dict.fromkeys("12345", x)})
    assert [place for run, place in places if run == "s"] == ["0", "2", "4"]
    assert cells["s", "2"] == ("s", "b")


# ---- a whole look ------------------------------------------------------------------------------


def test_networks_in_memory_give_the_tables_of_a_study(few, tmp_path, capsys):
    networks = {"teacher": sequential(), "Schüler <b>": Tiny(blocks=4)}
    results = looked(networks, *few, tmp_path / "mine", embeddings=["tsne", "pca"])
    runs = results.runs.set_index("run")
    assert runs["role"].to_dict() == {"teacher": "teacher", "Schüler <b>": "student"}
    assert runs["teacher"].tolist() == ["", "teacher"]
    study = results.study
    assert study["foreign"]
    assert study["seeds"] == {"teacher": 1, "Schüler <b>": 1}
    assert (study["sample"], len(results.images), len(results.labels)) == (60, 60, 60)
    for network in study["networks"]:
        own = results.maps[results.maps["run"] == network["run"]]
        assert set(own["layer"]) == set(network["layers"])
        assert len(own) == 60 * len(network["layers"]) * 2
        assert network["depths"][0] == 0
        assert network["depths"][-1] == 1
    assert results.maps[["x", "y", "error"]].notna().all().all()
    similar = results.similarity
    assert set(similar["run"]) == {"Schüler <b>"}
    assert len(similar) == 6 * 4
    cka = results.measures[results.measures["measure"] == "cka"].set_index("layer")["value"]
    cell = similar.set_index(["layer", "teacher_layer"])["value"]
    assert cka["logits"] == pytest.approx(cell["logits", "logits"])
    assert set(results.predictions["run"]) == set(runs.index)
    output = capsys.readouterr().out
    assert "teacher: 1, 5, 8, logits; normalised by the images' own mean and deviation" in output
    assert "one seed of each network: a difference of two is no evidence about a method" in output


def test_the_accuracy_is_that_of_the_predictions(few, tmp_path):
    network = sequential()
    results = looked({"net": network}, *few, tmp_path / "look")
    x = few[0].float() / 255
    x = (x - x.mean()) / x.std(unbiased=False)
    right = (network.eval()(x).argmax(1) == few[1]).float().mean()
    assert results.runs["test_accuracy"].tolist() == pytest.approx([float(right)])


def test_what_is_done_is_not_done_again_unless_inputs_change(few, tmp_path, monkeypatch):
    network = sequential()
    looked({"net": network}, *few, tmp_path / "look")
    done = []
    for module, name in ((extraction, "_extracted"), (tables, "measures"), (tables, "maps")):
        real = getattr(module, name)
        spy = lambda *a, real=real, name=name: done.append(name) or real(*a)  # noqa: E731
        monkeypatch.setattr(module, name, spy)
    looked({"net": network}, *few, tmp_path / "look")
    assert done == []
    looked({"net": network}, *few, tmp_path / "look", embeddings=["pca", "tsne"])
    assert done == ["maps"]
    with torch.no_grad():
        network[0].weight += 1
    looked({"net": network}, *few, tmp_path / "look")
    assert done == ["maps", "_extracted", "measures", "maps"]
    assert len(list((tmp_path / "look/.look").glob("*/features.safetensors"))) == 1


def test_several_files_are_seeds_of_one_network(nets, few, tmp_path, capsys):
    sys.path.insert(0, str(tmp_path))
    try:
        import nets as module
    finally:
        sys.path.remove(str(tmp_path))
    for seed in (2, 10):
        torch.manual_seed(seed)
        network = nn.DataParallel(module.student(10))
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / f"kd-{seed}.pt")
    del sys.modules["nets"]
    text = f"{nets}:student@{tmp_path}/kd-*.pt"
    results = looked({"kd": text, "alone": f"{nets}:Odd"}, *few, tmp_path / "look")
    runs = results.runs.set_index("run")
    assert runs["seed"].to_dict() == {"kd 0": 0, "kd 1": 1, "alone": 0}
    assert runs["weights"].tolist() == ["kd-2.pt", "kd-10.pt", ""]
    assert results.study["seeds"] == {"kd": 2, "alone": 1}
    assert set(results.maps["run"]) == {"kd 0", "alone"}
    assert set(results.measures["run"]) == {"kd 0", "kd 1", "alone"}
    output = capsys.readouterr().out
    assert "no evidence" not in output
    assert "no checkpoint: as it is made, perhaps untrained" in output
    assert str(tmp_path) not in (tmp_path / "look/study.json").read_text()


def test_a_checkpoint_of_other_classes_is_read_by_a_network_of_its_own_default(nets, few, tmp_path):
    torch.manual_seed(0)
    namespace = {}
    exec(dedent(NETS), namespace)
    torch.save(namespace["Odd"]().state_dict(), tmp_path / "seven.pt")
    results = looked({"net": f"{nets}:Odd@{tmp_path}/seven.pt"}, *few, tmp_path / "look")
    assert results.predictions.empty
    assert "output" in results.study["layers"]
    assert results.runs["test_accuracy"].isna().all()


def test_a_network_that_a_file_keeps_is_made_anew_for_each_checkpoint(nets, few, tmp_path):
    nets.write_text(dedent(NETS) + "\nkept = Odd(10)\ndef same(num_classes):\n    return kept\n")
    for seed in (0, 1):
        torch.manual_seed(seed)
        namespace = {}
        exec(dedent(NETS), namespace)
        torch.save(namespace["Odd"](10).state_dict(), tmp_path / f"kd-{seed}.pt")
    for name in ("kept", "same"):
        seeds = plan.seeds({"kd": f"{nets}:{name}@{tmp_path}/kd-*.pt"})
        made = [networks.make(s.network, s.source, 10, 1, 8) for s in seeds]
        assert made[0] is not made[1]
        assert not made[0].out.weight.equal(made[1].out.weight)


def test_code_that_is_edited_is_read_again(few, tmp_path):
    file = tmp_path / "nets.py"
    code = """
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.line = nn.Linear(64, 10)
            def forward(self, x):
                return FACTOR * self.line(x.flatten(1))
    """
    means = []
    for factor in (1, 3):
        file.write_text(dedent(code).replace("FACTOR", str(factor)))
        results = looked({"net": f"{file}:Net"}, *few, tmp_path / "look", embeddings=["pca"])
        means.append(features_in(tmp_path / "look", "net", results)["logits"])
    assert np.allclose(3 * means[0], means[1], rtol=1e-5)


def features_in(folder, run, results):
    """The features of a network's layers in a folder of results where it is alone."""
    (file,) = folder.glob("*/*/features.safetensors")
    return {layer: np.asarray(x) for layer, x in store.load_layers(file.parent).test.items()}


def test_what_a_network_computes_tells_it_from_another_of_the_same_weights(few, tmp_path):
    class Net(nn.Module):
        def __init__(self, factor):
            super().__init__()
            torch.manual_seed(0)
            self.line, self.factor = nn.Linear(64, 10), factor

        def forward(self, x):
            return self.factor * self.line(x.flatten(1))

    found = []
    for factor in (1, 3):
        results = looked({"net": Net(factor)}, *few, tmp_path / "look", embeddings=["pca"])
        found.append(features_in(tmp_path / "look", "net", results)["logits"])
    assert np.allclose(3 * found[0], found[1], rtol=1e-5)


def coded(folder, **modules):
    """Write files of Python into a new folder."""
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def test_files_of_one_name_have_their_own_modules_beside_them(tmp_path):
    made = []
    for name, width in (("a", 3), ("b", 5)):
        text = "from torch import nn\nfrom blocks_beside import width\n"
        text += "def student():\n    return nn.Linear(2, width)\n"
        coded(tmp_path / name, nets=text, blocks_beside=f"width = {width}\n")
        reference = plan.parse("net", f"{tmp_path}/{name}/nets.py:student")
        made.append(networks.make("net", reference, 2, 3, 8).out_features)
    assert made == [3, 5]


def test_what_lies_beside_a_file_is_imported_when_its_callable_runs_too(tmp_path):
    made = []
    for name, width in (("a", 3), ("b", 5)):
        later = "from late_beside import width\n"
        text = "import late_beside\nfrom torch import nn\n"
        text += "def student():\n    import late_beside\n    from later_beside import width\n"
        text += "    assert late_beside.width == width\n    return nn.Linear(2, width)\n"
        beside = {"late_beside": f"width = {width}\n", "later_beside": later}
        coded(tmp_path / name, nets=text, **beside)
    path = list(sys.path)
    for name in "abab":
        reference = plan.parse("net", f"{tmp_path}/{name}/nets.py:student")
        made.append(networks.make("net", reference, 2, 3, 8).out_features)
    assert made == [3, 5, 3, 5]
    assert not {"late_beside", "later_beside"} & sys.modules.keys()
    assert sys.path == path


def test_a_file_of_features_that_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "FLOOR", 1000)
    np.savez_compressed(tmp_path / "f.npz", **{"a/x": np.zeros((1000, 100))})
    with pytest.raises(UsageError, match=r"it unpacks to 0\.0 GiB, 200 times its size"):
        files.read(tmp_path / "f.npz")


def test_what_lies_beside_a_file_is_imported_by_its_forward_passes_too(tmp_path):
    path = list(sys.path)
    for name, factor in (("a", 3), ("b", 5)):
        text = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
        text += "        from beside_forward import factor\n        return x * factor / (x != 9)\n"
        coded(tmp_path / name, nets=text, beside_forward=f"factor = {factor}\n")
    nets = {
        name: networks.make("net", plan.parse("net", f"{tmp_path}/{name}/nets.py:Net"), 2, 3, 8)
        for name in "ab"
    }
    for name, factor in (("a", 3), ("b", 5), ("a", 3)):
        assert nets[name](torch.ones(1)).item() == factor
    with pytest.raises(TypeError):
        nets["a"]("no tensor")
    nets["a"].register_forward_pre_hook(lambda *_: 1 / 0, prepend=True)
    with pytest.raises(ZeroDivisionError):
        nets["a"](torch.ones(1))
    assert "beside_forward" not in sys.modules
    assert sys.path == path


def test_slashes_and_signs_in_names_of_networks_in_memory_are_no_layers(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5))
    given = {"resnet/a": {"first": x}, "resnet/b": {"first": -x}, "kd@1": {"x/y": x}}
    results = looked(given, None, np.arange(60) % 2, tmp_path / "look")
    assert [(n["run"], n["layers"]) for n in results.study["networks"]] == [
        *(("resnet/a", ["first"]), ("resnet/b", ["first"]), ("kd@1", ["x/y"])),
    ]


def test_imagenets_weights_are_not_claimed_of_a_callable(nets, few, tmp_path):
    with pytest.raises(UsageError, match="weights 'imagenet' of student; allowed: for timm's"):
        looked({"net": f"{nets}:student@imagenet"}, *few, tmp_path / "look")


def test_a_network_of_fixed_size_is_made_for_the_size_that_it_is_given(few, tmp_path):
    results = looked({"net": "vit"}, *few, tmp_path / "look", input_size=16, embeddings=["pca"])
    assert "resized to 16 x 16" in results.study["networks"][0]["preparation"]


def test_a_module_by_itself_and_a_last_batch_of_one_image(tmp_path):
    class Squeezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.line, self.end = nn.Linear(256, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.end(self.line(x.flatten(1)).relu().squeeze())

    batch = forward_size(torch.empty(1, 1, 16, 16, dtype=torch.uint8))
    images = np.random.default_rng(0).integers(0, 255, (batch + 1, 16, 16)).astype("uint8")
    labels = np.arange(batch + 1) % 3
    results = looked(Squeezes(), images, labels, tmp_path / "look", sample=batch + 1)
    assert results.study["networks"][0]["layers"] == ["line", "logits"]


def test_the_module_that_gives_the_output_is_the_output(nets, few, tmp_path, capsys):
    results = looked({"net": sequential()}, *few, tmp_path / "look", layers=["1", "11"])
    assert results.study["networks"][0]["layers"] == ["1", "logits"]
    assert not results.predictions.empty
    results = looked({"net": sequential()}, *few, tmp_path / "look", layers="1")
    assert results.study["networks"][0]["layers"] == ["1"]
    assert "its output is none of the layers: no predictions" in capsys.readouterr().out


def test_a_module_called_output_is_read_itself():
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.output, self.end = nn.Linear(64, 6), nn.Linear(6, 10)

        def forward(self, x):
            return self.end(self.output(x.flatten(1)).relu())

    network, x = Called(), torch.randn(3, 1, 8, 8)
    with layers.in_evaluation(network):
        chosen = layers.find("net", network, x, classes=10).layers
        read = layers.observe(network, x, chosen)
        assert {name: y.shape[1] for name, y in read.items()} == {
            "output (module)": 6,
            "logits": 10,
        }
        assert read["output (module)"].equal(network.output(x.flatten(1)))


def test_classes_without_labels_say_how_many_there_are(nets, few, tmp_path):
    names = [f"class {i}" for i in range(10)]
    results = looked({"net": f"{nets}:student"}, few[0], None, tmp_path / "look", classes=names)
    assert results.study["networks"][0]["layers"][-1] == "logits"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(["a", "b", None], None), ([b"a", b"b", b"a"], ("a", "b")), (["a", "a", "a"], None)],
)
def test_labels_are_texts_none_missing_and_of_two_classes(labels, classes):
    array = np.array(labels * 10, dtype=None if classes else object)
    if classes is None:
        with pytest.raises(UsageError, match=r"^labels"):
            pictures.given(None, array, n=30)
    else:
        assert pictures.given(None, array, n=30).classes == classes


@pytest.mark.parametrize(
    ("networks", "options", "words"),
    [
        ({"a": {"l": np.eye(40)}, "b": nn.Identity()}, {}, "'b': a Identity beside features"),
        ({"a": {"l": np.eye(40)}}, {"tokens": "class"}, "tokens with features"),
        ({"a": {"l": np.eye(40)}}, {"train": (0, 0)}, "train with features"),
        ({"a": nn.Identity()}, {"layers": 3}, "layers 3; allowed: a list of paths"),
    ],
)
def test_what_would_be_left_out_is_refused(networks, options, words, tmp_path):
    images = np.zeros((40, 8, 8), np.uint8)
    with pytest.raises(UsageError, match=words):
        looked(networks, images, np.arange(40) % 2, tmp_path / "look", **options)


def test_probes_are_fitted_to_images_of_the_same_kind(few, tmp_path):
    train = (few[0].numpy().astype("float32"), few[1].numpy())
    with pytest.raises(
        UsageError, match=r"train images are \(1, 8, 8\) of float32; allowed: as the"
    ):
        looked({"net": sequential()}, *few, tmp_path / "look", train=train)


def test_a_pattern_in_a_folder_with_brackets(tmp_path):
    folder = tmp_path / "a [b]"
    folder.mkdir()
    for seed in (0, 1):
        (folder / f"kd-{seed}.pt").touch()
    found = plan.seeds({"kd": f"resnet8@{folder}/kd-*.pt"})
    assert [seed.run for seed in found] == ["kd 0", "kd 1"]


@pytest.mark.parametrize("prefix", ["net.", "student.net.", "zz."])
def test_the_prefix_that_is_proposed_is_the_networks_whatever_stands_beside_it(tmp_path, prefix):
    torch.manual_seed(0)
    network, other = sequential(), sequential()
    tensors = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    tensors |= {"acc.total": torch.tensor(3), "criterion.weight": torch.ones(2)}
    torch.save({"state_dict": tensors}, tmp_path / "lightning.ckpt")
    with pytest.raises(UsageError) as caught:
        checkpoints.load_any(other, tmp_path / "lightning.ckpt")
    text = re.search(r"weights_names: (\{.*\}) takes what begins with (.*)", str(caught.value))
    assert text[2] == prefix
    names = json.loads(text[1])
    assert names == {prefix: "", "acc.": None, "criterion.": None}
    checkpoints.load_any(other, tmp_path / "lightning.ckpt", names)
    for name, value in network.state_dict().items():
        assert other.state_dict()[name].equal(value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "of Git LFS; all"),
        (b"\n<!DOCTYPE html><html>", "is a web page, perhaps of a download that failed; allowed"),
        (None, "is TorchScript, which is code; allowed: a saved state_dict"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_often_taken_for_a_checkpoint_is_named(tmp_path, content, words, suffix):
    file = tmp_path / f"weights{suffix}"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("data.pkl", "code/net.py", "constants.pkl"):
                archive.writestr(f"weights/{name}", b"1")
    else:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        checkpoints.load_any(sequential(), file)
    assert "\n" not in str(caught.value)


def test_a_folder_of_hugging_face_stands_for_the_weights_in_it(tmp_path):
    for seed, file in enumerate(["model.safetensors", "pytorch_model.bin"]):
        (tmp_path / f"checkpoint-{seed}").mkdir()
        (tmp_path / f"checkpoint-{seed}" / file).touch()
    found = plan.seeds({"one": f"resnet8@{tmp_path}/checkpoint-0"})
    assert found[0].source.checkpoint == str(tmp_path / "checkpoint-0/model.safetensors")
    found = plan.seeds({"kd": f"resnet8@{tmp_path}/checkpoint-*"})
    assert [seed.source.checkpoint for seed in found] == [
        str(tmp_path / "checkpoint-0/model.safetensors"),
        str(tmp_path / "checkpoint-1/pytorch_model.bin"),
    ]
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"the folder .*other holds no model.safetensors or py"):
        plan.seeds({"kd": f"resnet8@{tmp_path}/other"})
    with pytest.raises(UsageError, match="other: is a folder; allowed: a file"):
        checkpoints.load_any(sequential(), tmp_path / "other")


def test_a_name_without_a_colon_is_left_out():
    assert cli._names({"kd": "backbone.:,head"}) == {"kd": {"backbone.": "", "head": None}}


def test_the_present_folder_is_a_folder(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked({"net": sequential()}, *few, ".")
    assert (tmp_path / "look.html").is_file()


def test_names_of_ours_of_timm_and_of_torchvision_are_networks(few, tmp_path):
    from kdlib.vision import torchvision  # first: timm imports it

    assert torchvision
    pytest.importorskip("timm")
    networks = {"ours": "resnet8", "timm": "timm:resnet10t", "vision": "squeezenet1_1"}
    images = np.repeat(np.asarray(few[0]), 4, axis=2).repeat(4, axis=3)
    results = looked(networks, images[:24], few[1][:24], tmp_path / "look", sample=24)
    ours, of_timm, vision = results.study["networks"]
    assert ours["layers"] == ["stem", "block1", "block2", "block3", "pool", "logits"]
    assert "its own constants" in of_timm["preparation"]
    assert vision["preparation"] == "normalised by the images' own mean and deviation"


def test_as_many_classes_as_images_and_two(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5))
    for labels in (np.arange(60), np.arange(60) % 2):
        results = looked({"net": {"a": x}}, None, labels, tmp_path / f"{labels.max()}")
        assert {"effective_rank", "twonn"} <= set(results.measures["measure"])
    assert "silhouette" in set(results.measures["measure"])
    alone = store.load(tmp_path / "59")
    assert "every class needs two images" in alone.study["left_out"]["silhouette"]


def test_without_labels_what_needs_them_is_left_out_and_said(few, tmp_path, capsys):
    results = looked({"net": sequential()}, few[0], None, tmp_path / "look", embeddings=["tsne"])
    assert results.labels.tolist() == [-1] * 60
    assert not results.study["labelled"]
    assert set(results.measures["measure"]) == {
        *("participation_ratio", "effective_rank", "twonn", "mle"),
    }
    assert "trustworthiness" in set(results.faithfulness["measure"])
    assert "map_knn" not in set(results.faithfulness["measure"])
    assert results.predictions.empty
    output = capsys.readouterr().out
    assert ": needs the label of every image; there are none" in output
    assert "left out: " in output


def test_twenty_images_are_enough(few, tmp_path):
    results = looked(
        {"net": sequential()}, few[0][:20], few[1][:20], tmp_path / "look",
        embeddings=["tsne", "pca"],
    )  # fmt: skip
    assert len(results.maps) == 20 * 4 * 2


def test_training_images_are_what_probes_are_fitted_to(digits, few, tmp_path):
    train = (digits.train[:200], digits.train_labels[:200])
    results = looked({"net": sequential()}, *few, tmp_path / "look", train=train)
    assert results.study["probes"] == "training images"
    probe = results.measures[results.measures["measure"] == "knn"]["value"]
    assert probe.between(0.2, 1).all()


def test_too_few_training_images_leave_the_probes_to_the_sample(digits, few, tmp_path, capsys):
    train = (digits.train[:12], digits.train_labels[:12])
    results = looked({"net": sequential()}, *few, tmp_path / "look", train=train)
    assert results.study["probes"] == "the two halves of the sample in turn"
    assert "knn" in set(results.measures["measure"])
    assert "12 training images are too few for the probes" in capsys.readouterr().out


def test_a_network_no_better_than_chance_is_said():
    labels = np.arange(200) % 10
    assert "right on 10.0% of the images" in tables.by_chance(np.zeros(200, int), labels, 10)[0]
    assert tables.by_chance(labels, labels, 10) == []


def test_a_data_set_gives_its_test_images(digits, tmp_path):
    results = looked({"net": sequential()}, "digits", None, tmp_path / "look", sample=100)
    assert results.study["dataset"] == "digits"
    assert len(results.labels) == 100
    assert np.bincount(results.labels).tolist() == [10] * 10


# ---- features of any program -------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    labels = np.arange(60) % 3
    draw = np.random.default_rng(0)
    made = {
        f"{name}/{layer}": (draw.normal(size=(60, 4)) + i * labels[:, None]).astype("float32")
        for name, depth in (("old", 3), ("new", 2))
        for i, layer in enumerate([f"block{9 + i}" for i in range(depth)])
    }
    return made, labels


def written(kind, path, arrays, labels):
    if kind == ".npz":
        np.savez(path, labels=np.array(["b", "c", "ä"])[labels], **arrays)
    elif kind == ".safetensors":
        save_file({**arrays, "labels": labels}, path, {"classes": json.dumps(["b", "c", "ä"])})
    elif kind == ".parquet":
        table = pd.DataFrame({key: list(x) for key, x in arrays.items() if "old" in key})
        wide = {f"{k}/{j}": x[:, j] for k, x in arrays.items() if "new" in k for j in range(4)}
        table.assign(**wide, labels=np.array(["b", "c", "ä"])[labels]).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", plan.FILES)
def test_a_file_of_features_is_read(kind, arrays, tmp_path):
    path = written(kind, tmp_path / f"features{kind}", *arrays)
    results = looked(path, folder=tmp_path / "look", teacher="old", embeddings=["tsne", "pca"])
    assert {n["run"]: n["layers"] for n in results.study["networks"]} == {
        "old": ["block9", "block10", "block11"],
        "new": ["block9", "block10"],
    }
    assert results.study["classes"] == ["b", "c", "ä"]
    assert results.labels.tolist() == arrays[1].tolist()
    assert len(results.images) == 0
    assert results.study["image"] is None
    knn = results.measures.query("measure == 'knn' and run == 'old'").set_index("layer")["value"]
    assert knn["block11"] > 0.7 > knn["block9"]
    assert results.runs["parameters"].isna().all()


def test_features_need_no_torch(arrays, tmp_path):
    path = written(".npz", tmp_path / "features.npz", *arrays)
    code = f"""
import sys, kdlib
kdlib.look({str(path)!r}, folder={str(tmp_path / "look")!r}, embeddings=["tsne", "pca"])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_seeds_and_logits_and_images_of_a_file(arrays, tmp_path):
    made, labels = arrays
    logits = np.eye(3, dtype="float32")[labels] + 0.1 * made["old/block9"][:, :3] ** 0
    logits[:6] = logits[:6, ::-1]
    seeds = {"kd@0/logits": logits, "kd@1/logits": logits + 1}
    images = np.zeros((60, 5, 4, 3), np.uint8)
    np.savez(tmp_path / "f.npz", labels=labels, images=images, **seeds)
    results = looked(tmp_path / "f.npz", folder=tmp_path / "look")
    right = (logits.argmax(1) == labels).mean()
    assert results.runs["run"].tolist() == ["kd 0", "kd 1"]
    assert results.runs["test_accuracy"].tolist() == [right, right]
    assert results.images.shape == images.shape


def test_seeds_of_a_file_keep_their_numbers_and_the_page_names_them(tmp_path, capsys):
    x = {seed: np.random.default_rng(seed).normal(size=(40, 3)) for seed in (7, 12, 3)}
    arrays = {f"kd@{seed}/end": value for seed, value in x.items()} | {"alone@5/end": -x[7]}
    np.savez(tmp_path / "f.npz", labels=np.arange(40) % 2, **arrays)
    results = looked(tmp_path / "f.npz", folder=tmp_path / "look")
    seeds = results.runs.set_index("run")["seed"].to_dict()
    assert seeds == {"kd 7": 7, "kd 12": 12, "kd 3": 3, "alone": 5}
    assert set(results.maps["run"]) == {"kd 7", "alone"}
    mapped = {n["run"]: n["mapped"] for n in results.study["networks"]}
    assert mapped == {"kd 7": True, "kd 12": False, "kd 3": False, "alone": True}
    page = (tmp_path / "look/look.html").read_text("utf-8")
    assert "<td>3 (3, 7, 12)</td>" in page
    assert "<td>1 (5)</td>" in page
    assert "Left out: maps of kd 12, kd 3: of several seeds the first is mapped." in page
    assert "kd 12: end" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("kd@7", "kd@07"), ("kd", "kd@0"), ("kd@0", "kd")])
def test_a_seed_that_a_file_has_twice_is_one_line(names, tmp_path):
    np.savez(tmp_path / "f.npz", **{f"{name}/end": np.eye(30) for name in names})
    with pytest.raises(UsageError, match=f"{names[1]!r} is seed . of 'kd' once more"):
        looked(tmp_path / "f.npz", folder=tmp_path / "look")


LINE = np.random.default_rng(0).normal(size=(40, 6))


@pytest.mark.parametrize(
    ("networks", "labels", "classes", "words"),
    [
        (["a"], [0, 1], None, "similarity to a teacher: there is one network"),
        (["a", "b"], [0, 1], None, "no logits, which predictions need as a layer (n, 2): no"),
        (["a", "b"], None, None, "predictions: they need labels, or the names of the classes"),
        (["a", "b"], None, ("x", "y"), "accuracy of the predictions: it needs the label of every"),
        (["a", "b"], range(40), None, "how far maps show classes: every class needs two images"),
    ],
)
def test_every_part_that_is_missing_is_said_on_the_page_with_its_reason(
    networks, labels, classes, words, tmp_path, capsys
):
    given = {name: {"end": LINE * (i + 1)} for i, name in enumerate(networks)}
    labels = None if labels is None else np.resize(labels, 40)
    looked(given, None, labels, tmp_path / "look", classes=classes)
    assert words in (tmp_path / "look/look.html").read_text("utf-8")
    assert words in capsys.readouterr().out


def test_logits_of_other_classes_and_layers_without_similarity_are_said(tmp_path):
    single = np.zeros((40, 3))
    single[0] = 1, 2, 3
    given = {"a": {"one": single, "logits": LINE}, "b": {"one": LINE, "logits": LINE}}
    looked(given, None, np.arange(40) % 2, tmp_path / "look")
    page = (tmp_path / "look/look.html").read_text("utf-8")
    assert "logits are (n, 6), which predictions need as a layer (n, 2): no predictions" in page
    assert "similarity of 2 pairs of layers: one varies in a single image only" in page


def test_numbers_that_take_too_long_for_many_images_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESTARTED", 39)
    results = looked({"a": {"end": LINE}}, None, np.arange(40) % 2, tmp_path / "look")
    assert not {"map_knn", "noise_floor"} & set(results.faithfulness["measure"])
    page = (tmp_path / "look/look.html").read_text("utf-8")
    assert "noise of the maps, and how far they show classes: from maps made three times" in page


def test_networks_of_one_layer_say_why_there_are_no_curves(tmp_path):
    looked({"a": {"end": LINE}}, None, np.arange(40) % 2, tmp_path / "look")
    assert "has one layer, so there are no curves" in (tmp_path / "look/look.html").read_text()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((np.array([1, 2]), np.array([3])), (np.array([1]), np.array([2, 3]))),
        ((np.zeros(2, "int32"),), (np.zeros(1, "int64"),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        ((None,), (np.array([]),)),
        (("1",), (1,)),
    ],
)
def test_keys_of_what_is_stored_differ_where_their_parts_do(one, other):
    assert subjects.key_of(*one) == subjects.key_of(*one) != subjects.key_of(*other)


def test_keys_of_what_is_stored_depend_on_the_code(monkeypatch):
    before = subjects.key_of("a")
    monkeypatch.setattr(store, "code_hash", lambda: "other")
    assert subjects.key_of("a") != before


def test_what_is_stored_is_found_by_labels_teacher_and_names(tmp_path, monkeypatch):
    labels = np.arange(40) % 2
    made = []
    for name in ("measures", "maps"):
        real = getattr(tables, name)
        monkeypatch.setattr(
            tables, name, lambda *a, real=real, name=name: made.append(name) or real(*a)
        )

    def look(**change):
        given = {"a": {"end": LINE}, "b": {"end": -LINE}}
        choice = {"networks": given, "labels": labels} | change
        made.clear()
        looked(choice.pop("networks"), None, choice.pop("labels"), tmp_path / "look", **choice)
        return sorted(made)

    assert look() == ["maps", "measures", "measures"]
    assert look(labels=labels[::-1]) == ["maps", "measures", "measures"]
    assert look(teacher="b") == ["measures", "measures"]
    other = {"c": {"end": LINE}, "b": {"end": -LINE}}
    assert look(networks=other) == ["maps"]


def test_paths_and_names_with_an_emoji(nets, tmp_path, few):
    place = tmp_path / "🦜 é 猫"
    place.mkdir()
    code = nets.rename(place / "nets 🐍.py")
    torch.manual_seed(0)
    namespace = {}
    exec(dedent(NETS), namespace)
    torch.save(namespace["Odd"](10).state_dict(), place / "w 🏋.pt")
    text = f"{code}:student@{place}/w 🏋.pt"
    labels = [f"{label} 🐦" for label in few[1].tolist()]
    results = looked({"net 🦉": text}, few[0], labels, place / "look 🔍")
    assert results.runs["weights"].tolist() == ["w 🏋.pt"]
    assert results.study["classes"][0] == "0 🐦"
    page = (place / "look 🔍/look.html").read_text("utf-8")
    assert "net 🦉" in page
    page.encode("utf-8")


def read(path):
    """What a file of features holds, as a look takes it."""
    choice = plan.Look(features=str(path))
    found, sample = reading._of_features(choice, None, None, None)
    reading._check(found)
    return {subject.run: subject.layers for subject in found}, sample


def test_a_file_of_features_may_end_in_capitals_and_its_labels_be_a_column(tmp_path):
    np.savez(tmp_path / "f.npz", **{"a/end": LINE, "labels": np.arange(40)[:, None] % 3})
    layers, sample = read((tmp_path / "f.npz").rename(tmp_path / "F.NPZ"))
    assert layers["a"]["end"].shape == (40, 6)
    assert sample.labels.tolist() == (np.arange(40) % 3).tolist()


def test_classes_in_bytes_are_texts(tmp_path):
    names = np.array(["ä".encode(), b"b"])
    np.savez(tmp_path / "f.npz", **{"a/end": LINE, "labels": np.arange(40) % 2, "classes": names})
    assert read(tmp_path / "f.npz")[1].classes == ("ä", "b")


def test_features_in_bfloat16_are_read_as_torch_has_them(tmp_path):
    from safetensors.torch import save_file as save_tensors

    torch.manual_seed(0)
    x = {"a/end": torch.randn(40, 5).bfloat16(), "a/first": torch.randn(40, 3)}
    save_tensors(x, tmp_path / "f.safetensors")
    layers, _ = read(tmp_path / "f.safetensors")
    for name, values in layers["a"].items():
        assert np.array_equal(values, x[f"a/{name}"].float().numpy())


def test_numbers_too_large_for_float32_are_named():
    for x in (LINE * 1e200, (LINE * 1e35).astype("float32")):
        with pytest.raises(
            UsageError, match=r"its largest number is \S+e\+\d+; allowed: to 1e\+30"
        ):
            subjects.check_layer("a", "end", x)


Y = np.arange(40) % 4


@pytest.mark.parametrize(
    "labels",
    [
        np.eye(5, dtype=int)[Y],
        np.eye(5, dtype=np.float32)[Y],
        np.eye(5, dtype=bool)[Y].tolist(),
        torch.eye(5)[torch.tensor(Y)],
    ],
)
def test_one_hot_labels_are_read_and_it_is_said(labels, capsys):
    found = pictures.given(None, labels, n=40)
    assert found.labels.tolist() == Y.tolist()
    assert found.classes == ("0", "1", "2", "3", "4")
    assert capsys.readouterr().out == "labels: one-hot, read as the index of the 1\n"


def test_whole_numbers_among_objects_are_numbers():
    rows = np.arange(40) % 12
    found = pictures.given(None, rows.astype(object), n=40)  # as text 10 came before 2
    assert found.labels.tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (np.eye(4)[Y] + np.eye(4)[Y - 1], None, "not each row is a single 1 among 0"),
        (np.full((40, 4), 0.25), None, "not each row is a single 1 among 0"),
        (np.zeros((40, 4), int), None, "not each row is a single 1 among 0"),
        (np.eye(4)[Y], ["a", "b"], "one-hot labels of 4 classes, names of 2; allowed: as many"),
        (np.ma.array(Y, mask=Y == 1), None, "labels: some are masked; allowed: a value for every"),
        ([[1, 2]] * 20 + [[1]] * 20, None, "labels are of unequal lengths; allowed: an array"),
    ],
)
def test_labels_that_are_none_are_refused(labels, classes, words):
    with pytest.raises(UsageError, match=words):
        pictures.given(None, labels, classes, n=40)


def test_one_hot_labels_of_a_parquet_file_are_read(tmp_path):
    rows = {"a/x": [*np.random.default_rng(0).normal(size=(40, 3))], "labels": [*np.eye(4)[Y]]}
    pd.DataFrame(rows).to_parquet(tmp_path / "features.parquet")
    results = looked(tmp_path / "features.parquet", folder=tmp_path / "look")
    assert results.labels.tolist() == Y.tolist()


def test_what_a_sample_leaves_out_is_said(tmp_path, capsys):
    results = looked({"a": {"x": X}}, None, Y, tmp_path / "look", sample=20)
    assert "20 of 40 images: a sample of 20 is looked at, the same share of every class" in (
        capsys.readouterr().out
    )
    assert "20 of 40 images" in results.study["left_out"]


# ---- mistakes ----------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(40, 3))


@pytest.mark.parametrize(
    ("networks", "images", "labels", "options", "words"),
    [
        ({}, np.zeros((40, 8, 8)), None, {}, "no networks are given"),
        ({"a": "nets"}, None, None, {}, "no images are given"),
        ({"a": {"x": X[:, 0]}}, None, None, {}, "layer x is float64"),
        ({"a": {"x": X * np.nan}}, None, None, {}, "40 of 40 images have NaN or infinity"),
        ({"a": {"x": X}, "b": {"y": X[1:]}}, None, None, {}, "'b': layer y is of 39 images"),
        ({"a": {"x": np.ones((40, 3))}}, None, None, {}, "is the same for all 40 images"),
        ({"a": {"x": X[:19]}}, None, None, {}, "19 images; allowed: 20 or more"),
        ({"a": {"x": X}}, None, [0] * 39, {}, r"labels are \(39,\), of 40 images"),
        ({"a": {"x": X}}, None, [-1] * 40, {}, "missing or below 0"),
        ({"a": {"x": X}}, np.zeros((39, 8, 8)), None, {}, "39 images beside features of 40"),
        ({"a": {"x": X}}, np.zeros((40, 8, 8, 4)), None, {}, "of 1 or 3 channels"),
        ({"a": {"x": X}}, None, None, {"sample": 41}, "sample 41; allowed: 20 to 40 images"),
        ({"a": {"x": X}}, None, None, {"sample": 3}, "sample 3; allowed: 20 to 32,767"),
        ({"a": {"x": X}}, None, None, {"teacher": "b"}, "unknown teacher 'b'; one of: a"),
        ({"a": {"x": X}}, None, None, {"layers": ["y"]}, "unknown layer of 'a' 'y'; one of: x"),
        ({"a": {"x": X}}, None, None, {"layers": {"b": ["x"]}}, "unknown network of layers 'b'"),
        ({"a": {"x": X}}, None, None, {"embeddings": ["tnse"]}, "unknown embedding 'tnse'"),
        ({"a": {"x": X}}, None, None, {"embeddings": []}, "embeddings is empty"),
        ({"a": {"x": X}}, None, None, {"perplexity": 3}, "unknown parameter 'perplexity'"),
        ({" a": {"x": X}}, None, None, {}, "printable characters"),
        ({"a": [{"x": X}] * 2, "a 0": {"x": X}}, None, None, {}, "would be called 'a 0'"),
        ({"a": "resnet8@no.pt"}, np.zeros((40, 8, 8)), None, {}, "there is no file no.pt"),
        ({"a": "resnet8@no-*.pt"}, np.zeros((40, 8, 8)), None, {}, "there is no file no-"),
        ({"a": "what ever"}, np.zeros((40, 8, 8)), None, {}, "allowed: file.py:callable"),
        ({"a": "resnet9"}, np.zeros((40, 8, 8)), None, {}, "unknown network 'resnet9'"),
        ({"a": "no.py:f"}, np.zeros((40, 8, 8)), None, {}, "there is no file .*no.py"),
        ({"a": "no_module:f"}, np.zeros((40, 8, 8)), None, {}, "cannot import no_module"),
        ({"a": 3}, np.zeros((40, 8, 8)), None, {}, "'a': a int; allowed: a torch Module"),
        ({"a": "resnet8"}, np.zeros((40, 8, 8)), None, {"normalise": "imagnet"}, "'imagnet'"),
        ({"a": "resnet8"}, np.zeros((40, 8, 8)), None, {"normalise": "1,2:3"}, "as many"),
    ],
)
def test_what_is_wrong_is_one_line(networks, images, labels, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        looked(networks, images, labels, tmp_path / "look", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "look").exists()


@pytest.mark.parametrize(
    ("text", "parameters", "described"),
    [
        ("{nets}:wants(depth=2)", 555, "nets.py:wants(depth=2)"),
        ("{nets}:Odd(width=8, num_classes=3)", 1_899, "nets.py:Odd(width=8, num_classes=3)"),
        ("resnet8(width=0.5, shortcut=conv)", None, "resnet8(width=0.5, shortcut=conv)"),
        ("resnet8( classes=3 )", None, "resnet8(classes=3)"),
    ],
)
def test_a_network_is_made_with_the_arguments_behind_its_name(
    nets, few, tmp_path, text, parameters, described
):
    if parameters is None:  # one of ours: as `build` makes it
        options = {"classes": 10, "channels": 1, "size": 8}
        options |= dict(plan.parse("net", text).options)
        parameters = models.count(models.build("resnet8", **options))
    results = looked({"net": text.format(nets=nets)}, *few, tmp_path / "look")
    network = results.study["networks"][0]
    assert network["source"] == described
    assert results.runs["parameters"].tolist() == [parameters]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet8(width)", "argument 'width'; allowed: name=value, each once"),
        ("resnet8(width=1, width=2)", "argument 'width=2'; allowed: name=value, each once"),
        ("resnet8(depth=3)", "'net': resnet8: .*depth"),
        ("resnet8(width=-1.0)", "width -1.0; allowed: a number above 0"),
        ("resnet8(width=wide)", "'net': resnet8: "),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(few, tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        looked({"net": text}, *few, tmp_path / "look")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody", "has no 'nobody'; it has: Odd, student, wants"),
        ("number", "a int; allowed: a callable"),
        ("wants", r"needs 'depth': write wants\(depth=...\); known without: classes, num_classes"),
    ],
)
def test_a_callable_that_does_not_fit_is_one_line(nets, few, tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        looked({"net": f"{nets}:{name}"}, *few, tmp_path / "look")


def test_a_checkpoint_of_another_network_is_one_line(nets, few, tmp_path):
    torch.save(sequential().state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        UsageError,
        match=r"'net': weights .*other.pt do not fit Odd: \d+ differ.*the file's names: 0.weight",
    ):
        looked({"net": f"{nets}:Odd@{tmp_path}/other.pt"}, *few, tmp_path / "look")


def test_names_in_a_checkpoint_are_mapped(nets, few, tmp_path):
    torch.manual_seed(0)
    network = sequential()
    tensors = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save(tensors, tmp_path / "prefix.pt")
    other = sequential()
    with pytest.raises(UsageError, match=r'weights_names: \{"backbone\.": ""\} takes'):
        checkpoints.load_any(other, tmp_path / "prefix.pt")
    checkpoints.load_any(other, tmp_path / "prefix.pt", {"backbone.": ""})
    for name, value in network.state_dict().items():
        assert other.state_dict()[name].equal(value)
    with pytest.raises(UsageError, match="unknown network of weights_names 'b'; one of: a"):
        looked({"a": other}, *few, tmp_path / "look", weights_names={"b": {"x": ""}})


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = sequential()
    network[3].weight.data[0, 0, 0, 0] = torch.nan
    torch.save(network.state_dict(), tmp_path / "nan.pt")
    with pytest.raises(UsageError, match=r"3\.weight holds NaN or infinity"):
        checkpoints.load_any(sequential(), tmp_path / "nan.pt")


def test_a_network_that_computes_nan_is_named(few, tmp_path):
    network = sequential()
    network[3].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(UsageError, match="'net': layer 5: 60 of 60 images have NaN or infinity"):
        looked({"net": network}, *few, tmp_path / "look")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "cannot be read"),
        ({"kd": X}, "allowed: network/layer"),
        ({"kd/a": X, "labels": np.array(["a", None] * 20)}, "an array of objects is in it; all"),
        ({}, "no features"),
    ],
)
def test_a_file_that_is_none_of_features_is_one_line(content, words, tmp_path):
    path = tmp_path / "features.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(UsageError, match=words):
        looked(path, folder=tmp_path / "look")


def test_results_of_a_study_are_not_written_over(tmp_path):
    (tmp_path / "study.json").write_text('{"name": "quick"}')
    with pytest.raises(UsageError, match="holds the results of a study"):
        looked({"a": {"x": X}}, folder=tmp_path)


# ---- the command -------------------------------------------------------------------------------


def test_the_command_looks(nets, tmp_path, capsys):
    out = tmp_path / "my look (1)"
    given = ["look", str(out), "--data", "digits", "--sample", "40", "--embeddings", "pca"]
    given += ["--network", f"odd={nets}:student", "--layers", "odd=first,last"]
    given += ["--normalise", "none", "--input-size", "odd=16"]
    assert cli.main(given) == 0
    study = store.load(out).study
    (network,) = study["networks"]
    assert network["layers"] == ["first", "last"]
    assert network["preparation"] == "normalised by none, resized to 16 x 16"
    assert "odd: first, last; normalised by none" in capsys.readouterr().out


def test_too_few_test_images_of_a_folder_are_said_to_be_those(tmp_path, capsys):
    for i in range(30):
        file = tmp_path / "birds" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    given = ["look", str(tmp_path / "look"), "--data", str(tmp_path / "birds")]
    assert cli.main([*given, "--network", "net=resnet8"]) == 2
    assert "birds: 6 test images beside 24 for training; allowed: 20 or" in capsys.readouterr().err


def test_a_name_with_an_equals_sign_stands_in_quotes(nets, tmp_path):
    out, name = tmp_path / "look", "lr=0.1, <b>=</b>"
    given = ["look", str(out), "--data", "digits", "--sample", "40", "--embeddings", "pca"]
    given += ["--network", f"'{name}'={nets}:Odd(width=2)", "--layers", f'"{name}"=first,last']
    assert cli.main(given) == 0
    (network,) = store.load(out).study["networks"]
    assert (network["run"], network["layers"]) == (name, ["first", "last"])
    page = (out / "look.html").read_text("utf-8")
    assert "<b>=" not in page
    assert "lr=0.1, &lt;b&gt;=&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--network", "nets.py:a"], "allowed: NAME=NETWORK"),
        (["--network", "a=x.py:f", "--network", "a=y.py:f"], "once for each network"),
        (["--features", "no.npz"], "there is no such file"),
        (["--features", "no.csv"], "allowed: a file that ends in .npz"),
        (["--input-size", "big"], "allowed: a number of pixels"),
        ([], "no images are given"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(given, words, tmp_path, capsys):
    assert cli.main(["look", str(tmp_path / "look"), *given]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


# ---- images ------------------------------------------------------------------------------------


def test_thumbnails_fit_on_one_sheet_however_many_there_are():
    for n, side in ((20, 64), (10_000, 64), (32_767, 20)):
        images = np.broadcast_to(np.zeros((1, 1, 100, 80), np.uint8), (n, 1, 100, 80))
        if n > 10_000:
            images = images[:, :, ::5, ::5]
        shape = pictures.thumbnails(images).shape
        assert max(shape[1:3]) <= side
        assert -(-n // pictures.COLUMNS) * shape[1] <= pictures.SHEET


def test_a_sample_is_stratified_and_the_same_each_time():
    labels = np.repeat([0, 1], [300, 100])
    rows = pictures.rows(400, labels, 40)
    assert np.bincount(labels[rows]).tolist() == [30, 10]
    assert np.array_equal(rows, pictures.rows(400, labels, 40))


def test_the_chapter_says_what_the_two_published_checkpoints_show():
    table = store.load("book/results/checkpoints").measures
    for measure, near in (("knn", 0.05), ("silhouette", 0.02)):
        wide = table[table["measure"] == measure].pivot(
            index="layer", columns="run", values="value"
        )
        lost = wide["cifar10"] - wide["cifar100"]
        assert (lost[["stem", "block1", "block2"]].abs() < near).all()
        assert lost["block3"] > 0.2
    probe = table[table["measure"] == "probe"].pivot(index="layer", columns="run", values="value")
    lost = probe["cifar10"] - probe["cifar100"]
    assert lost["block1"] < 0.05 < 0.1 < lost["block2"]
