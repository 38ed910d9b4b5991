"""A flipped bit in a file of results is noticed; other programs and older files stay readable."""

import io
import json
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from test_store import HISTORY, layers, save

from kdlib import UsageError, checksums, store

ROWS = pd.DataFrame({"layer": ["stem", "pool"], "value": [0.25, -1.0]})
ARRAYS = {"w": np.arange(6, dtype="float32").reshape(2, 3), "steps": np.array(7)}


def written(write, *given):
    """The file that `write` writes, as bytes."""
    file = io.BytesIO()
    write(file, *given)
    return file.getvalue()


FILES = {
    "table": (written(checksums.write_table, ROWS), checksums.table),
    "tensors": (written(checksums.write_tensors, ARRAYS, {"layers": ["w"]}), checksums.tensors),
}


def same(found):
    if isinstance(found, pd.DataFrame):
        return found.equals(ROWS)
    return set(found.arrays) == set(ARRAYS) and all(
        np.array_equal(found.arrays[k], v) and found.arrays[k].dtype == v.dtype
        for k, v in ARRAYS.items()
    )


@pytest.mark.parametrize("kind", FILES)
def test_no_flipped_bit_changes_what_is_read(kind):
    content, read = FILES[kind]
    assert same(read(content))
    noticed = 0
    for bit in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert same(read(bytes(flipped))), bit  # the mark itself, without which it is read
        except (ValueError, OSError, KeyError, SafetensorError):
            noticed += 1
    assert noticed > 0.9 * 8 * len(content) / 3


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_is_an_error(kind):
    content, read = FILES[kind]
    for end in range(0, len(content), 97):
        with pytest.raises((ValueError, OSError, SafetensorError)):
            read(content[:end])


def test_other_programs_read_the_files():
    plain = pyarrow.parquet.read_table(io.BytesIO(FILES["table"][0])).to_pandas()
    pd.testing.assert_frame_equal(plain, ROWS)
    np.testing.assert_array_equal(safetensors.load(FILES["tensors"][0])["w"], ARRAYS["w"])


def test_a_file_of_tensors_has_the_bytes_that_safetensors_writes():
    draw = np.random.default_rng(0)
    arrays = {"empty": np.zeros((0, 3), "float32"), "number": np.array(7)}
    for kind in checksums.CODES:
        for n in (1, 5, 16):
            values = draw.integers(0, 2, (n, 3)).astype(kind)
            arrays |= {f"{kind} {n}": values, f"Ähre {kind} {n}": values.T}
    arrays["big-endian"] = np.arange(5, dtype=">f4")
    content = written(checksums.write_tensors, arrays, {"layers": ["ü", '"']})
    found = checksums.tensors(content)
    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    ordered["number"] = arrays["number"]
    notes = json.dumps({"checksum": found.checksum, "layers": ["ü", '"']})
    assert content == safetensors.save(ordered, {"kdlib": notes})
    blank = content.replace(found.checksum.encode(), b"0" * checksums.DIGITS, 1)
    assert int(found.checksum, 16) == checksums.of(blank)


def test_an_array_of_objects_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="array 'x' is of object; allowed: uint64, "):
        store._write_tensors(tmp_path / "a.safetensors", {"x": np.array([None])})
    assert not list(tmp_path.iterdir())


def test_arrays_are_written_one_by_one_and_none_is_copied(tmp_path):
    arrays = {str(i): np.ones((1000, 1000)) for i in range(8)}
    tracemalloc.start()
    store._write_tensors(tmp_path / "a.safetensors", arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < arrays["0"].nbytes / 4


def test_files_without_a_checksum_are_read_as_before():
    assert same(checksums.table(ROWS.to_parquet(None, index=False)))
    found = checksums.tensors(safetensors.save(ARRAYS))
    assert same(found)
    assert found.checksum == ""


def test_the_sum_is_that_of_words_modulo_2_64():
    words = [2**63, 2**63 + 5, 7]
    content = b"".join(word.to_bytes(8, "little") for word in words) + b"\x02\x01"
    assert checksums.of(content) == (sum(words) + 2 + 256) % 2**64


def test_a_run_names_its_weights_and_refuses_those_of_another_training(tmp_path):
    save(tmp_path / "a")
    written = store.load_run(tmp_path / "a")["checksums"]["weights.safetensors"]
    content = (tmp_path / "a/weights.safetensors").read_bytes()
    assert checksums.tensors(content).checksum == written
    store.save_run(tmp_path / "b", {}, {"a": np.ones((2, 3), "float32")}, HISTORY)
    (tmp_path / "a/weights.safetensors").write_bytes(
        (tmp_path / "b/weights.safetensors").read_bytes()
    )
    with pytest.raises(UsageError, match=r"is of another training than run.json; delete both"):
        store.load_weights(tmp_path / "a")


def test_a_run_of_an_earlier_version_is_read_as_it_is(tmp_path):
    save(tmp_path)
    record = store.load_run(tmp_path)
    old = {k: v for k, v in record.items() if k != "checksums"}
    store._write_json(tmp_path / "run.json", old)
    weights = store.load_weights(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(safetensors.save(weights))
    assert set(store.load_weights(tmp_path)) == set(weights)
    assert store.load_run(tmp_path) == old


def test_the_same_features_are_the_same_file(tmp_path):
    for name in "ab":
        store.save_layers(tmp_path / name, layers())
    files = [(tmp_path / name / "features.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
