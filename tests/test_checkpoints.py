"""Published checkpoints: each is made here by its project's names and order, and followed by an
independent forward pass that reads the tensors by those names.
"""

import argparse
import collections
import datetime
import json
import pathlib
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from kdlib import UsageError, models
from kdlib.models import checkpoints


class Checkpoint(dict):
    """Tensors by name, with random values a trained network could have."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def random(self, *shape):
        return torch.rand(shape, generator=self.generator)

    def conv(self, name, before, after, size=3, bias=False):
        self[f"{name}.weight"] = (self.random(after, before, size, size) - 0.5) / before**0.5
        if bias:
            self[f"{name}.bias"] = self.random(after) - 0.5

    def norm(self, name, size, counted=True):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{part}"] = self.random(size) + (0.5 if part == "running_var" else -0.2)
        if counted:
            self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, before, after):
        self[f"{name}.weight"], self[f"{name}.bias"] = (
            self.random(after, before) - 0.5,
            self.random(after),
        )

    def run_conv(self, name, x, stride=1):
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, self.get(f"{name}.bias"), stride, weight.shape[2] // 2)

    def run_norm(self, name, x):
        mean, var, weight, bias = (
            self[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def run_linear(self, name, x):
        return x.mean((2, 3)) @ self[f"{name}.weight"].T + self[f"{name}.bias"]


def resnet(sizes, units, shortcut, head, classes=10, counted=True):
    """conv1 bn1 layer1.0.conv1 ...: akamaster (pad, linear), chenyaofo (downsample, fc)."""
    weights, before = Checkpoint(), sizes[0]
    weights.conv("conv1", 3, before)
    weights.norm("bn1", before, counted)
    for stage, after in enumerate(sizes, 1):
        for unit in range(units):
            name = f"layer{stage}.{unit}"
            for i, size in ((1, before), (2, after)):
                weights.conv(f"{name}.conv{i}", size, after)
                weights.norm(f"{name}.bn{i}", after, counted)
            if shortcut and before != after:
                weights.conv(f"{name}.{shortcut}.0", before, after, 1)
                weights.norm(f"{name}.{shortcut}.1", after, counted)
            before = after
    weights.linear(head, before, classes)
    return weights


def run_resnet(weights, x, units, shortcut, head):
    x = weights.run_norm("bn1", weights.run_conv("conv1", x)).relu()
    stages = {name.split(".")[0] for name in weights if name.startswith("layer")}
    for stage in sorted(stages):
        for unit in range(units):
            name = f"{stage}.{unit}"
            after = len(weights[f"{name}.conv1.weight"])
            stride = 1 if x.shape[1] == after else 2
            out = weights.run_norm(
                f"{name}.bn1", weights.run_conv(f"{name}.conv1", x, stride)
            ).relu()
            out = weights.run_norm(f"{name}.bn2", weights.run_conv(f"{name}.conv2", out))
            if stride == 2 and shortcut:
                x = weights.run_norm(
                    f"{name}.{shortcut}.1", weights.run_conv(f"{name}.{shortcut}.0", x, 2)
                )
            elif stride == 2:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, after // 4, after // 4))
            x = (out + x).relu()
    return weights.run_linear(head, x)


def wrn(depth, widen, classes=100):
    """conv1 block1.layer.0.bn1 ...: RepDistiller, batches normalised before each convolution."""
    weights, before = Checkpoint(), 16
    weights.conv("conv1", 3, before)
    for block in (1, 2, 3):
        after = 2 ** (block - 1) * 16 * widen
        for unit in range((depth - 4) // 6):
            name = f"block{block}.layer.{unit}"
            weights.norm(f"{name}.bn1", before)
            weights.conv(f"{name}.conv1", before, after)
            weights.norm(f"{name}.bn2", after)
            weights.conv(f"{name}.conv2", after, after)
            if before != after:
                weights.conv(f"{name}.convShortcut", before, after, 1)
            before = after
    weights.norm("bn1", before)
    weights.linear("fc", before, classes)
    return weights


def run_wrn(weights, x, depth):
    x = weights.run_conv("conv1", x)
    for block in (1, 2, 3):
        for unit in range((depth - 4) // 6):
            name = f"block{block}.layer.{unit}"
            stride = 2 if block > 1 and unit == 0 else 1
            ready = weights.run_norm(f"{name}.bn1", x).relu()
            out = weights.run_conv(f"{name}.conv1", ready, stride)
            out = weights.run_conv(f"{name}.conv2", weights.run_norm(f"{name}.bn2", out).relu())
            if f"{name}.convShortcut.weight" in weights:
                x = weights.run_conv(f"{name}.convShortcut", ready, stride)
            x = x + out
    return weights.run_linear("fc", weights.run_norm("bn1", x).relu())


def vgg(repeats, classes=100):
    """block0.0 (convolution) block0.1 (norm) block0.3 ...: RepDistiller."""
    weights, before = Checkpoint(), 3
    for block, (after, repeat) in enumerate(zip((64, 128, 256, 512, 512), repeats, strict=True)):
        for i in range(repeat):
            weights.conv(f"block{block}.{3 * i}", before, after, bias=True)
            weights.norm(f"block{block}.{3 * i + 1}", after)
            before = after
    weights.linear("classifier", before, classes)
    return weights


def run_vgg(weights, x, repeats):
    for block, repeat in enumerate(repeats):
        x = F.max_pool2d(x, 2) if block in (1, 2, 3) else x
        for i in range(repeat):
            name = f"block{block}."
            x = weights.run_conv(f"{name}{3 * i}", x)
            x = weights.run_norm(f"{name}{3 * i + 1}", x).relu()
    return weights.run_linear("classifier", x)


def x32():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


CIFAR = (16, 32, 64)
CASES = {
    "akamaster": (
        "resnet20",
        {},
        lambda: resnet(CIFAR, 3, "", "linear", counted=False),
        lambda weights, x: run_resnet(weights, x, 3, "", "linear"),
    ),
    "chenyaofo": (
        "resnet20",
        {"shortcut": "conv"},
        lambda: resnet(CIFAR, 3, "downsample", "fc"),
        lambda weights, x: run_resnet(weights, x, 3, "downsample", "fc"),
    ),
    "kuangliu": (
        "resnet18",
        {"small": True},
        lambda: resnet((64, 128, 256, 512), 2, "shortcut", "linear"),
        lambda weights, x: run_resnet(weights, x, 2, "shortcut", "linear"),
    ),
    "RepDistiller wrn-16-2": (
        "wrn-16-2",
        {},
        lambda: wrn(16, 2),
        lambda weights, x: run_wrn(weights, x, 16),
    ),
    "RepDistiller wrn-16-1": (
        "wrn-16-1",
        {},
        lambda: wrn(16, 1),
        lambda weights, x: run_wrn(weights, x, 16),
    ),
    "RepDistiller vgg11": (
        "vgg11",
        {},
        lambda: vgg((1, 1, 2, 2, 2)),
        lambda weights, x: run_vgg(weights, x, (1, 1, 2, 2, 2)),
    ),
}


@pytest.mark.parametrize("project", CASES)
def test_a_checkpoint_of_another_project_answers_as_it_does_there(project, tmp_path):
    name, options, make, answer = CASES[project]
    weights = make()
    classes = len(list(weights.values())[-1])
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "model.th"
    )
    network = models.build(name, classes=classes, **options)
    assert checkpoints.load(network, tmp_path / "model.th") == []
    with torch.no_grad():
        ours, theirs = network.eval()(x32()), answer(weights, x32())
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.std()))


def test_names_of_pytorchcv_are_known(tmp_path):
    weights, theirs = resnet(CIFAR, 3, "downsample", "fc"), {}
    for name, value in weights.items():
        start, *rest = name.split(".")
        if start in ("conv1", "bn1"):
            name = f"features.init_block.{start[:-1]}.{rest[0]}"
        elif start == "fc":
            name = f"output.{rest[0]}"
        elif rest[1] == "downsample":
            part = ("conv", "bn")[int(rest[2])]
            name = (
                f"features.stage{start[-1]}.unit{int(rest[0]) + 1}.identity_conv.{part}.{rest[3]}"
            )
        else:
            unit = f"features.stage{start[-1]}.unit{int(rest[0]) + 1}.body.conv{rest[1][-1]}"
            name = f"{unit}.{rest[1][:-1]}.{rest[2]}"
        theirs[name] = value
    safetensors.torch.save_file(theirs, tmp_path / "theirs.safetensors")
    network = models.build("resnet20", classes=10, shortcut="conv")
    checkpoints.load(network, tmp_path / "theirs.safetensors")
    assert network.block2[2].conv1.weight.equal(weights["layer2.2.conv1.weight"])
    assert network.block2[0].shortcut[1].bias.equal(weights["layer2.0.downsample.1.bias"])


def test_names_that_look_like_a_wrappers_stay_where_the_network_has_them(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

    torch.save(Wrapped().state_dict(), tmp_path / "net.pt")
    network = Wrapped()
    checkpoints.load_any(network, tmp_path / "net.pt")
    assert network.state_dict().keys() == {"net.weight", "net.bias"}


def test_no_constructor_of_a_checkpoint_is_called(tmp_path):
    """An array of objects over bytes of the file's own is a way to run its code."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "sound.pt")
    array = b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00Oc_codecs\nencode\n"
    array += b"X\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86RtR"
    body = b"\x80\x02cbuiltins\nlist\n" + array + b"\x85R."
    with (
        zipfile.ZipFile(tmp_path / "sound.pt") as sound,
        zipfile.ZipFile(tmp_path / "forged.pt", "w") as forged,
    ):
        for entry in sound.infolist():
            own = entry.filename.endswith("data.pkl")
            forged.writestr(entry.filename, body if own else sound.read(entry))
    code = "import sys; from pathlib import Path; from kdlib.models import checkpoints; "
    code += "print(type(checkpoints._read(Path(sys.argv[1]))).__name__)"
    command = [sys.executable, "-c", code, str(tmp_path / "forged.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "Ignored"), done.stderr


@pytest.mark.parametrize("nested", ["", "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_wrappers_are_taken_off(nested, prefix, tmp_path):
    network = models.build("resnet8", classes=10, width=0.5, seed=1)
    weights = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    whole = {nested: weights, "epoch": 3, "best": torch.tensor(0.9)} if nested else weights
    torch.save(whole, tmp_path / "weights.pt")
    other = models.build("resnet8", classes=10, width=0.5, seed=2)
    checkpoints.load(other, tmp_path / "weights.pt")
    assert all(
        value.equal(other.state_dict()[name]) for name, value in network.state_dict().items()
    )


def test_what_the_store_keeps_is_a_checkpoint(tmp_path):
    network = models.build("vit", classes=3, channels=1, width=0.25)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = models.build("vit", classes=3, channels=1, width=0.25, seed=1)
    checkpoints.load(other, tmp_path / "weights.safetensors")
    x = torch.rand(2, 1, 8, 8)
    assert network(x).equal(other(x))


def test_a_new_head_stays_as_initialised_and_only_if_asked(tmp_path):
    weights = dict(resnet(CIFAR, 1, "", "linear", classes=100))
    torch.save(weights, tmp_path / "model.th")
    network = models.build("resnet8", classes=10, seed=3)
    before = models.weights(network)
    message = r" 2 differ; logits.weight.*\(10, 64\).*\(100, 64\); .*new_head"
    with pytest.raises(UsageError, match=message):
        checkpoints.load(network, tmp_path / "model.th")
    assert (models.weights(network)["stem.0.weight"] == before["stem.0.weight"]).all()
    assert checkpoints.load(network, tmp_path / "model.th", new_head=True) == [
        "logits.weight",
        "logits.bias",
    ]
    after = models.weights(network)
    assert (after["logits.weight"] == before["logits.weight"]).all()
    assert network.stem[0].weight.equal(weights["conv1.weight"])


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "model.th"),
        (lambda file: file.write_text("no weights"), "model.th"),
        (lambda file: file.write_bytes(b""), "model.th"),
        (lambda file: file.write_bytes(pickle.dumps({"a": Evil()}, 2)), "model.th.*tensors"),
        (lambda file: torch.save({"state_dict": Evil()}, file), "model.th.*tensors"),
        (lambda file: torch.save(torch.ones(3), file), "model.th.* Tensor.*state_dict"),
        (lambda file: torch.save({"epoch": 3}, file), "model.th.*epoch"),
        (
            lambda file: torch.save(dict(resnet(CIFAR, 3, "", "linear")), file),
            "72 differ; block1.1.conv1.weight.*None",
        ),
        (
            lambda file: torch.save({"a.weight": torch.ones(3)}, file),
            "38 differ; stem.0.weight",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line_and_changes_nothing(make, message, tmp_path):
    file = tmp_path / "model.th"
    make(file)
    network = models.build("resnet8", classes=10)
    before = models.weights(network)
    with pytest.raises(UsageError, match=message) as raised:
        checkpoints.load(network, file)
    assert "\n" not in str(raised.value)
    after = models.weights(network)
    assert all((after[name] == before[name]).all() for name in before)


def test_a_damaged_safetensors_file_is_named(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"12345678 no header")
    with pytest.raises(UsageError, match=r"weights.safetensors"):
        checkpoints.load(models.build("resnet8", classes=10), file)


def test_torchvisions_weights_need_a_network_or_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    network = models.build("squeezenet1_1", classes=1000, size=64)
    with pytest.raises(UsageError, match=r"squeezenet1_1.*\.pth.*checkpoints"):
        checkpoints.load(network, "imagenet")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    other = models.build("squeezenet1_1", classes=1000, size=64, seed=1)
    torch.save(other.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    assert checkpoints.load(network, "imagenet") == []
    assert network.features[0].weight.equal(other.features[0].weight)
    with pytest.raises(UsageError, match="'imagenet' of resnet8"):
        checkpoints.load(models.build("resnet8", classes=10), "imagenet")


def small(seed=1):
    return models.build("resnet8", classes=10, width=0.25, seed=seed)


def holds_the_weights_of(network, other):
    theirs = other.state_dict()
    return all(value.equal(theirs[name]) for name, value in network.state_dict().items())


SETTINGS = {
    "a NumPy float": lambda: np.float64(0.93),
    "a NumPy integer": lambda: np.int64(7),
    "a NumPy boolean": lambda: np.bool_(True),
    "a NumPy text": lambda: np.str_("cosine"),
    "a NumPy array": lambda: np.arange(6.0).reshape(2, 3),
    "argparse": lambda: argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), milestones=[60, 120]),
    "a simple namespace": lambda: types.SimpleNamespace(lr=np.float32(0.1)),
    "a path": lambda: pathlib.Path("/data/cifar"),
    "a path of Windows": lambda: pathlib.PureWindowsPath("C:/data"),
    "an ordered dict": lambda: collections.OrderedDict(lr=0.1),
    "a history": lambda: collections.defaultdict(list, loss=[1.0, np.float64(0.5)]),
    "a date": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a queue": lambda: collections.deque([0.5, np.float64(0.25)], maxlen=10),
    "an optimiser": lambda: torch.optim.SGD(small().parameters(), 0.1).state_dict(),
}


@pytest.mark.parametrize("what", SETTINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_settings_beside_the_weights_are_read(what, zipped, tmp_path):
    network, other = small(), small(seed=2)
    whole = {"epoch": 3, "beside": SETTINGS[what](), "state_dict": network.state_dict()}
    torch.save(whole, tmp_path / "model.th", _use_new_zipfile_serialization=zipped)
    checkpoints.load(other, tmp_path / "model.th")
    assert holds_the_weights_of(other, network)


def prefixed(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


SETS = {
    "DeepSpeed": lambda x: {"module": x, "ds_config": {}, "optimizer": {"exp_avg": x}},
    "a moving average": lambda x: {"ema": prefixed("module.", x), "epoch": 1},
    "AveragedModel": lambda x: {"n_averaged": torch.tensor(3), **prefixed("module.", x)},
    "FSDP": lambda x: {"state_dict": prefixed("_fsdp_wrapped_module.", x)},
    "deeper": lambda x: {"last": {"student": x}},
    "a tuple": lambda x: (x, 3),
}


@pytest.mark.parametrize("kind", SETS)
def test_the_only_weights_of_a_file_are_read_whatever_their_key(kind, tmp_path):
    network, other = small(), small(seed=2)
    torch.save(SETS[kind](network.state_dict()), tmp_path / "model.th")
    checkpoints.load(other, tmp_path / "model.th")
    assert holds_the_weights_of(other, network)


def test_of_several_sets_of_weights_it_is_asked_which(tmp_path):
    student, teacher, other = small(), small(seed=2), small(seed=3)
    both = {"student": student.state_dict(), "teacher": teacher.state_dict()}
    torch.save(both, tmp_path / "model.th")
    with pytest.raises(UsageError, match=r'weights_names: \{"student\.": "", "teacher\.": null\}'):
        checkpoints.load(other, tmp_path / "model.th")
    checkpoints.load(other, tmp_path / "model.th", names={"teacher.": ""})
    assert holds_the_weights_of(other, teacher)


def test_a_moving_average_beside_the_weights_is_named_and_taken_when_asked_for(tmp_path):
    network, mean, other = small(), small(seed=2), small(seed=3)
    both = {"model_ema": mean.state_dict(), "model": network.state_dict(), "optimizer": {}}
    torch.save(both, tmp_path / "model.th")
    assert checkpoints.load_any(other, tmp_path / "model.th") == (
        "of model.th the weights 'model' are taken, not model_ema; "
        'weights_names {"model_ema.": ""} takes others'
    )
    assert holds_the_weights_of(other, network)
    assert checkpoints.load_any(other, tmp_path / "model.th", {"model_ema.": ""}) == ""
    assert holds_the_weights_of(other, mean)
    torch.save(network.state_dict(), tmp_path / "plain.th")
    assert checkpoints.load_any(other, tmp_path / "plain.th") == ""


@pytest.mark.parametrize("asked", ["model_ema.", "model_ema.module."])
def test_weights_that_are_asked_for_may_be_those_of_a_wrapper(asked, tmp_path):
    network, mean, other = small(), small(seed=2), small(seed=3)
    average = {"n_averaged": torch.tensor(3)} if asked == "model_ema." else {}
    average |= prefixed("module.", mean.state_dict())
    torch.save({"model_ema": average, "model": network.state_dict()}, tmp_path / "model.th")
    checkpoints.load(other, tmp_path / "model.th", names={asked: ""})
    assert holds_the_weights_of(other, mean)


@pytest.mark.parametrize("key", checkpoints.NESTS)
def test_names_mean_first_those_inside_the_weights_that_are_taken(key, tmp_path):
    network, other = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)) for _ in range(2))
    weights = network.state_dict()
    state = {f"{key}.{name}" if name[0] == "0" else name: x for name, x in weights.items()}
    torch.save({key: state, "ema": weights}, tmp_path / "model.th")
    checkpoints.load_any(other, tmp_path / "model.th", {f"{key}.": ""})
    assert holds_the_weights_of(other, network)


def test_a_beginning_that_all_names_have_stands_for_the_set_of_that_name(tmp_path):
    network, other = small(), small(seed=2)
    torch.save({"model": prefixed("model.", network.state_dict())}, tmp_path / "model.th")
    checkpoints.load(other, tmp_path / "model.th", names={"model.": ""})
    assert holds_the_weights_of(other, network)


def test_what_a_file_holds_beside_all_weights_can_be_left_out(tmp_path):
    network, other = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    more = {"loss.a": torch.ones(1), "loss.b": torch.ones(1), "0.more": torch.ones(1)}
    torch.save({**network.state_dict(), **more}, tmp_path / "model.th")
    with pytest.raises(UsageError) as refused:
        checkpoints.load_any(other, tmp_path / "model.th")
    names = {"loss.": None, "0.more": None}
    assert f"weights_names: {json.dumps(names)} leaves out the rest" in str(refused.value)
    checkpoints.load_any(other, tmp_path / "model.th", names)
    assert holds_the_weights_of(other, network)


def test_a_file_is_read_by_its_content_not_by_its_ending(tmp_path):
    network = small()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(network.state_dict(), tmp_path / "model.safetensors")
    for file in tmp_path.iterdir():
        other = small(seed=2)
        checkpoints.load(other, file)
        assert holds_the_weights_of(other, network)


def test_arrays_of_numpy_are_said_to_be_no_tensors(tmp_path):
    arrays = {name: value.numpy() for name, value in small().state_dict().items()}
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(UsageError, match=r"is an .npz of NumPy; allowed: a torch file or safetens"):
        checkpoints.load(small(), tmp_path / "model.npz")
    torch.save(arrays, tmp_path / "model.th")
    with pytest.raises(UsageError, match=r"not as tensors \(NumPy arrays\?\)"):
        checkpoints.load(small(), tmp_path / "model.th")


def test_arrays_of_numpy_1_are_read(tmp_path):
    network, other = small(), small(seed=2)
    torch.save({"best": np.float64(0.5), "model": network.state_dict()}, tmp_path / "new.th")
    with (
        zipfile.ZipFile(tmp_path / "new.th") as new,
        zipfile.ZipFile(tmp_path / "old.th", "w") as old,
    ):
        for entry in new.infolist():
            old.writestr(entry, new.read(entry).replace(b"numpy._core", b"numpy.core"))
    checkpoints.load(other, tmp_path / "old.th")
    assert holds_the_weights_of(other, network)


class Settings:
    """A class of a project of its own."""


def test_a_class_of_the_files_project_is_named_and_not_read(tmp_path):
    torch.save({"state_dict": small().state_dict(), "settings": Settings()}, tmp_path / "model.th")
    with pytest.raises(UsageError, match=r"more than tensors and plain settings \(\S*Settings\)"):
        checkpoints.load(small(), tmp_path / "model.th")


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "student.net."])
def test_an_unknown_prefix_is_shown_with_how_to_map_it(prefix, tmp_path):
    network, other = small(), small(seed=2)
    weights = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    weights["projector.weight"] = torch.ones(4, 4)
    torch.save(weights, tmp_path / "model.th")
    with pytest.raises(UsageError) as refused:
        checkpoints.load(other, tmp_path / "model.th")
    line = str(refused.value)
    assert "\n" not in line
    assert f"the file's names: {prefix}stem.0.weight, " in line
    assert "wanted: stem.0.weight, " in line
    assert f'weights_names: {{"{prefix}": "", "projector.": null}}' in line
    checkpoints.load(other, tmp_path / "model.th", names={prefix: "", "projector.": None})
    assert holds_the_weights_of(other, network)
    with pytest.raises(UsageError, match=r"weights_names 'trunk\.': no name in .* begins so"):
        checkpoints.load(other, tmp_path / "model.th", names={"trunk.": ""})


def test_names_may_be_mapped_to_those_of_a_known_project(tmp_path):
    theirs = {f"backbone.{name}": x for name, x in resnet(CIFAR, 1, "", "linear").items()}
    theirs["head.weight"] = theirs.pop("backbone.linear.weight")
    theirs["head.bias"] = theirs.pop("backbone.linear.bias")
    torch.save(theirs, tmp_path / "model.th")
    network = models.build("resnet8", classes=10)
    checkpoints.load(network, tmp_path / "model.th", names={"backbone.": "", "head.": "logits."})
    assert network.logits.weight.equal(theirs["head.weight"])
    assert network.block1[0].conv1.weight.equal(theirs["backbone.layer1.0.conv1.weight"])


STRANGE = {
    "NaN": lambda x: torch.full_like(x, float("nan")),
    "infinity": lambda x: torch.full_like(x, float("inf")),
    "one infinity": lambda x: torch.cat([torch.full((1,), -torch.inf), x.flatten()[1:]]).reshape(
        x.shape
    ),
    "too large for float32": lambda x: torch.full_like(x, 1e300, dtype=torch.float64),
    "complex": lambda x: x.to(torch.complex64),
    "int8": lambda x: x.to(torch.int8),
    "int64": lambda x: x.to(torch.int64),
    "bool": lambda x: x > 0,
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "sparse": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore:.*quantiz.*:Warning", "ignore:.*deprecated.*:Warning")
def test_weights_that_are_no_finite_numbers_are_refused_by_their_own_name(kind, tmp_path):
    weights = dict(resnet(CIFAR, 1, "", "linear"))
    weights["layer2.0.conv1.weight"] = STRANGE[kind](weights["layer2.0.conv1.weight"])
    torch.save(weights, tmp_path / "model.th")
    network = models.build("resnet8", classes=10)
    before = models.weights(network)
    with pytest.raises(UsageError, match=r"layer2\.0\.conv1\.weight (is|holds) .*; allowed: "):
        checkpoints.load(network, tmp_path / "model.th")
    after = models.weights(network)
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_converted(dtype, tmp_path):
    network = small()
    weights = {
        k: x.to(dtype) if x.is_floating_point() else x for k, x in small().state_dict().items()
    }
    torch.save(weights, tmp_path / "model.th")
    checkpoints.load(network, tmp_path / "model.th")
    assert network.logits.weight.dtype == torch.float32


def itself():
    state = {"epoch": 3}
    state["model"] = state
    return state


def nested():
    state = small().state_dict()
    for _ in range(300):
        state = {"model": state}
    return state


def huge_header(file):
    """A file of safetensors that claims 2^50 bytes."""
    header = b'{"a":{"dtype":"F32","shape":[281474976710656],"data_offsets":[0,1125899906842624]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))


def bomb(file):
    """A torch file whose weights unpack to a gigabyte."""
    torch.save({"a": torch.zeros(10)}, file.with_suffix(".small"))
    with (
        zipfile.ZipFile(file.with_suffix(".small")) as small_one,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as large,
    ):
        for entry in small_one.namelist():
            data = small_one.read(entry)
            large.writestr(entry, bytes(2**26) if entry.endswith("data/0") else data)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("model.th", lambda file: torch.save(itself(), file), "holds no tensors, but epoch, model"),
        ("model.th", lambda file: torch.save(nested(), file), "holds no tensors"),
        ("model.th", bomb, "claims to hold more than its"),
        ("a.safetensors", huge_header, "cannot be read"),
        (
            "model.th",
            lambda file: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, file),
            "do not fit",
        ),
        ("model.th", lambda file: file.mkdir(), "is a folder; allowed: a file"),
        (
            "model.th",
            lambda file: file.write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * 10**5 + b"."),
            "model.th",
        ),
        (
            "model.th",
            lambda file: file.write_bytes(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f"),
            "model.th",
        ),
    ],
    ids=["itself", "300 dicts", "bomb", "safetensors", "expanded", "folder", "deep", "long"],
)
def test_hostile_files_are_refused_in_one_line(name, make, message, tmp_path):
    make(tmp_path / name)
    with pytest.raises(UsageError, match=message) as refused:
        checkpoints.load(small(), tmp_path / name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
