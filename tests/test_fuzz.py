"""Files of every kind, changed at random: each is read, or refused in one line.

    KDLIB_FUZZ=10000 pytest tests/test_fuzz.py --hypothesis-seed 1     (make fuzz)

reads so many of them, instead of a few hundred that are always the same.
"""

import io
import os
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
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import numpy as safetensors_numpy
from test_store import layers, save

from kdlib import UsageError, data, models, store
from kdlib.foreign import files
from kdlib.models import checkpoints
from kdlib.plan import studies

INPUTS = int(os.environ.get("KDLIB_FUZZ", "400"))
SLOW = 20  # seconds that no input may take
ROOT = Path(__file__).parents[1]


class Kind(NamedTuple):
    """A kind of file: what it is called, a sound one, and what reads it."""

    file: str
    sound: bytes
    read: Callable[[Path], Any]


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, ("PNG", "JPEG", "GIF", "BMP")[seed % 4])
    return out.getvalue()


ENDINGS = ("png", "jpg", "gif", "bmp")
PICTURES = {
    f"{part}/{k}/{i}.{ENDINGS[(4 * i + 2 * k + j) % 4]}": picture(4 * i + 2 * k + j)
    for j, part in enumerate(("train", "test"))
    for k in range(2)
    for i in range(2)
}


def archive(kind):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as opened:
            for name, content in PICTURES.items():
                opened.writestr(name, content)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as opened:
        for name, content in PICTURES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return out.getvalue()


def written(write):
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def network():
    return models.build("resnet8", width=0.25, classes=3, channels=1)


def stored():
    """The files of a run, by name."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save(place)
        store.save_layers(place, layers())
        store.save_table("measures", place, ".", [("stem", "knn", 0.5, "pooled")])
        return {file.name: file.read_bytes() for file in place.iterdir()}


X = np.random.default_rng(0).normal(size=(20, 2))
ARRAYS = {"a/stem": X, "a/pool": X, "labels": np.arange(20) % 3}
STATE = {"state_dict": network().state_dict(), "epoch": 3, "args": {"lr": 0.1}}
RUN = stored()
KINDS = {
    **{
        name: Kind("mine.yaml", (ROOT / f"studies/{name}.yaml").read_bytes(), studies.read)
        for name in ("quick", "regimes", "cifar10_architectures")
    },
    "zip": Kind("birds.zip", archive("zip"), data.load),
    "tar": Kind("birds.tar", archive(""), data.load),
    "gz": Kind("birds.tar.gz", archive("gz"), data.load),
    "xz": Kind("birds.tar.xz", archive("xz"), data.load),
    "torch": Kind(
        "w.pt", written(partial(torch.save, STATE)), lambda file: checkpoints.load(network(), file)
    ),
    "legacy": Kind(
        "w.pth",
        written(lambda out: torch.save(STATE, out, _use_new_zipfile_serialization=False)),
        lambda file: checkpoints.load(network(), file),
    ),
    "safe": Kind(
        "w.safetensors",
        safetensors.torch.save(network().state_dict()),
        lambda file: checkpoints.load(network(), file),
    ),
    "npz": Kind("f.npz", written(lambda out: np.savez(out, **ARRAYS)), files.read),
    "features": Kind("f.safetensors", safetensors_numpy.save(ARRAYS), files.read),
    "columns": Kind(
        "f.parquet",
        pd.DataFrame({k: list(v) for k, v in ARRAYS.items()}).to_parquet(None),
        files.read,
    ),
    "run": Kind("run.json", RUN["run.json"], lambda file: store.load_run(file.parent)),
    "weights": Kind(
        "weights.safetensors",
        RUN["weights.safetensors"],
        lambda file: store.load_weights(file.parent),
    ),
    "layers": Kind(
        "features.safetensors",
        RUN["features.safetensors"],
        lambda file: store.load_layers(file.parent),
    ),
    "table": Kind(
        "measures.parquet",
        RUN["measures.parquet"],
        lambda file: store.load_table("measures", file.parent, "."),
    ),
}

# One change: where (of the file's length), how many bytes go, what comes, and how often.
PIECES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"[" * 99,
    b"&a *a",
    b"<<: ",
    b"\n",
    b"'",
    b"1e999",
    b"-1",
    b"../",
)
CHANGE = st.tuples(
    st.floats(0, 1),
    st.sampled_from((0, 1, 1, 4, 64, 10**6)),
    st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)),
    st.sampled_from((1, 1, 1, 3)),
)


def changed(content, changes):
    """The bytes with some of them exchanged."""
    for place, gone, piece, times in changes:
        at = int(place * len(content))
        content = content[:at] + piece * times + content[at + gone :]
    return content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_changed_at_random_is_read_or_refused_in_one_line(
    kind, tmp_path, monkeypatch
):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "run" / KINDS[kind].file
    file.parent.mkdir()
    outcomes = {"read": 0, "refused": 0}

    @settings(
        max_examples=-(-INPUTS // len(KINDS)),
        deadline=None,
        database=None,
        derandomize="KDLIB_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(CHANGE, min_size=1, max_size=4))
    def read(changes):
        file.write_bytes(changed(KINDS[kind].sound, changes))
        start = time.monotonic()
        try:
            KINDS[kind].read(file)
            outcomes["read"] += 1
        except UsageError as problem:
            outcomes["refused"] += 1
            assert str(problem).isprintable()
            assert len(str(problem)) < 3000
        assert time.monotonic() - start < SLOW

    file.write_bytes(KINDS[kind].sound)
    KINDS[kind].read(file)
    read()
    print(kind, outcomes)
    assert outcomes["refused"]
