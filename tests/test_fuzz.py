"""Files of every kind, changed at random: each is read, or refused in one line.

    KDLIB_FUZZ=10000 pytest tests/test_fuzz.py --hypothesis-seed 1     (make fuzz)

reads so many of them, instead of a few hundred that are always the same.
"""

import io
import json
import os
import random
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

from kdlib import UsageError, checksums, data, models, store
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
    "study": Kind("mine.yaml", (ROOT / "studies/smoke.yaml").read_bytes(), studies.read),
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
    # Without checksums, which would refuse nearly all of them.
    "weights": Kind(
        "weights.safetensors",
        safetensors_numpy.save(checksums.tensors(RUN["weights.safetensors"]).arrays),
        lambda file: store.load_weights(file.parent),
    ),
    "layers": Kind(
        "features.safetensors",
        safetensors_numpy.save(
            checksums.tensors(RUN["features.safetensors"]).arrays,
            {"kdlib": json.dumps({"layers": ["stem", "logits"]})},
        ),
        lambda file: store.load_layers(file.parent),
    ),
    "table": Kind(
        "measures.parquet",
        checksums.table(RUN["measures.parquet"]).to_parquet(None),
        lambda file: store.load_table("measures", file.parent, "."),
    ),
}

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


def changed(content, rng):
    """The bytes with a few of them exchanged, mostly single ones."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, gone = rng.randrange(len(content) + 1), rng.choice((0, 1, 1, 1, 4, 64, len(content)))
        piece = rng.choice((rng.randbytes(1), rng.randbytes(1), rng.randbytes(4), *PIECES))
        content = content[:at] + piece * rng.choice((1, 1, 1, 3)) + content[at + gone :]
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
    @given(st.integers(0, 2**64))
    def read(seed):
        file.write_bytes(changed(KINDS[kind].sound, random.Random(seed)))
        start, line = time.monotonic(), ""
        try:
            KINDS[kind].read(file)
            outcomes["read"] += 1
        except UsageError as problem:
            outcomes["refused"] += 1
            line = str(problem)
        assert line == "" or line.isprintable()
        assert len(line) < 3000
        assert time.monotonic() - start < SLOW

    file.write_bytes(KINDS[kind].sound)
    KINDS[kind].read(file)
    read()
    print(kind, outcomes)
    assert outcomes["refused"]
