import json
import os
import resource
import signal

import numpy as np
import pandas as pd
import pytest
import results

from kdlib import UsageError, store

HISTORY = [{"epoch": 1, "labels": 2.0}]


FACTS = {
    "role": "teacher",
    "network": "resnet8",
    "width": 1.0,
    "method": "baseline",
    "labels": "all",
    "seed": 0,
    "teacher": "",
    "teacher_network": "",
    "regime": "full",
    "options": "",
    "unlabelled": False,
    "precision": "float32",
}


def save(folder, accuracy=0.5, **parameters):
    record = {"parameters": {"dataset": "digits", **parameters}, "facts": FACTS}
    weights = {"a": np.arange(6, dtype="float32").reshape(2, 3), "steps": np.array(7)}
    results = {"test_accuracy": accuracy, "test_images": 10, "seconds": 1.0, "parameters_count": 6}
    results |= {"architecture": {"classes": 10, "channels": 1}, "data": "0123"}
    store.save_run(folder, record, weights, HISTORY, **results)


def layers(shift=0.0, rows=range(4)):
    x = np.arange(8, dtype="float32").reshape(4, 2) + shift
    y, rows = np.arange(4), np.array(rows)
    part = {"stem": x, "logits": x * 2}
    return store.Layers(part, y, part, y, rows, rows)


def test_a_run_comes_back_as_it_was(tmp_path):
    save(tmp_path / "run")
    record = store.load_run(tmp_path / "run")
    assert record["test_accuracy"] == 0.5
    assert record["versions"]["torch"]
    assert len(record["code"]) == 16
    weights = store.load_weights(tmp_path / "run")
    assert weights["steps"].shape == ()
    np.testing.assert_array_equal(weights["a"], np.arange(6).reshape(2, 3))
    assert store.load_history(tmp_path / "run").to_dict("records") == HISTORY


def test_weights_on_the_way_come_back_by_passes_and_do_not_outlive_their_run(tmp_path):
    weights = {"stem.0.weight": np.arange(3, dtype="float32"), "steps": np.array(7)}
    facts = {"test_accuracy": 0.5, "test_images": 10}
    store.save_run(tmp_path, {}, weights, HISTORY, {10: weights, 0: {"a": np.ones(2)}}, **facts)
    kept = store.load_snapshots(tmp_path)
    assert list(kept) == [0, 10]
    assert list(kept[0]) == ["a"]
    np.testing.assert_array_equal(kept[10]["stem.0.weight"], [0, 1, 2])
    store.save_run(tmp_path, {}, weights, HISTORY, **facts)
    with pytest.raises(
        UsageError, match=r"no snapshots.safetensors in .*student.*-y \"snapshots: "
    ):
        store.load_snapshots(tmp_path)


def test_a_network_that_saw_other_images_is_not_taken(tmp_path):
    save(tmp_path / "run")
    assert store.load_run(tmp_path / "run", "0123")
    with pytest.raises(
        UsageError, match=r"was trained on other images, .* \(hash of digits was 0123"
    ):
        store.load_run(tmp_path / "run", "4567")


def test_files_can_be_read_by_everyone_and_none_is_left_half(tmp_path):
    save(tmp_path / "run")
    files = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert files == ["history.parquet", "run.json", "weights.safetensors"]
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "run").iterdir()} == {0o644}


def test_a_disk_that_is_full_costs_one_line_and_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        big = {"w": np.zeros(10_000)}
        with pytest.raises(UsageError, match=r"cannot write .*weights.safetensors: "):
            store.save_run(tmp_path / "run", {}, big, HISTORY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "run").iterdir()) == []


def test_an_old_file_survives_a_failed_rewrite(tmp_path):
    save(tmp_path / "run", accuracy=0.1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path / "run", accuracy=float("nan"))
    assert store.load_run(tmp_path / "run")["test_accuracy"] == 0.1


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write below .*file: Not a directory"):
        store.writable(tmp_path / "file" / "run")
    store.writable(tmp_path / "a" / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_folder_closed_to_the_user_is_said(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    somebody = os.geteuid()
    if somebody == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match=r"cannot write below .*: Permission denied"):
            store.writable(closed / "runs" / "run")
    finally:
        os.seteuid(somebody)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"parameters": {}}'])
def test_an_unreadable_or_empty_run_is_said_in_one_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match="delete it and run again") as caught:
        store.load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_run_says_what_makes_it(tmp_path):
    with pytest.raises(UsageError, match=r"no run.json in .*; `papermill notebooks/teacher.ipynb"):
        store.load_run(tmp_path / "teachers" / "resnet20-full-0")


def test_broken_weights_and_tables_are_said(tmp_path):
    save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"\x08")
    (tmp_path / "history.parquet").write_bytes(b"PAR1")
    for read in (store.load_weights, store.load_history):
        with pytest.raises(UsageError, match=r"cannot read .*; delete it and run again"):
            read(tmp_path)


def test_layers_come_back_in_order_and_other_images_are_refused(tmp_path):
    store.save_layers(tmp_path, layers())
    kept = store.load_layers(tmp_path)
    assert list(kept.test) == ["stem", "logits"]
    np.testing.assert_array_equal(kept.train["stem"], layers().train["stem"])
    store.save_layers(tmp_path, layers(shift=1.0))
    with pytest.raises(UsageError, match="keeps features of other images"):
        store.save_layers(tmp_path, layers(rows=(0, 1, 2, 9)))
    np.testing.assert_array_equal(
        store.load_layers(tmp_path).test["stem"], layers(1.0).test["stem"]
    )


def test_layers_come_back_with_their_flat_view(tmp_path):
    x = np.arange(8, dtype="float32").reshape(4, 2)
    given = layers()._replace(flat_test={"stem": x + 1}, flat_train={"stem": x + 2})
    store.save_layers(tmp_path, given)
    kept = store.load_layers(tmp_path)
    assert list(kept.flat_test) == list(kept.flat_train) == ["stem"]
    np.testing.assert_array_equal(kept.flat_test["stem"], x + 1)
    np.testing.assert_array_equal(kept.flat_train["stem"], x + 2)
    np.testing.assert_array_equal(kept.test["stem"], layers().test["stem"])


def test_measures_of_the_flat_view_stand_beside_the_pooled_ones(tmp_path):
    values = {"stem": {"knn": 0.25}, "logits": {"knn": 0.5}}
    store.save_measures(tmp_path, values, {"stem": {"knn": 0.75}})
    assert store.load_measures(tmp_path, None).values.tolist() == [
        ["stem", "knn", 0.25, "pooled"],
        ["logits", "knn", 0.5, "pooled"],
        ["stem", "knn", 0.75, "flat"],
        ["logits", "knn", 0.5, "flat"],  # has no positions: the same in both
    ]
    assert store.load_measures(tmp_path)["value"].tolist() == [0.25, 0.5]
    assert store.load_measures(tmp_path, "flat")["value"].tolist() == [0.75, 0.5]
    pd.DataFrame({"layer": ["stem"]}).to_parquet(tmp_path / "measures.parquet")  # older
    with pytest.raises(UsageError, match=r"cannot read .*measures.parquet.*; delete it and run"):
        store.load_measures(tmp_path)


def test_results_are_loaded_in_one_view(tmp_path):
    made = results.make(None)
    flat = made.measures.assign(view="flat", value=made.measures["value"] + 1)
    both = pd.concat([made.measures, flat])
    store.publish(tmp_path, made._replace(measures=both))
    assert store.load(tmp_path).measures["value"].tolist() == made.measures["value"].tolist()
    assert store.load(tmp_path, view="flat").measures["value"].tolist() == flat["value"].tolist()
    assert store.load(tmp_path, view="flat").similarity.empty
    with pytest.raises(UsageError, match="unknown view 'round'; one of: pooled, flat"):
        store.load(tmp_path, view="round")


def test_a_student_is_compared_with_its_own_teacher_or_the_one_named(tmp_path):
    save(tmp_path / "teachers/a")
    save(tmp_path / "teachers/b")
    save(tmp_path / "students/a/s", teacher="teachers/a")
    for name, rows in [("teachers/a", range(4)), ("teachers/b", (0, 1, 2, 9))]:
        store.save_layers(tmp_path / name, layers(rows=rows))
    store.save_layers(tmp_path / "students/a/s", layers())
    assert store.teacher_of(tmp_path, "teachers/a") == ""
    assert store.teacher_of(tmp_path, "teachers/a", "teachers/a") == ""
    assert store.teacher_of(tmp_path, "students/a/s") == "teachers/a"
    with pytest.raises(UsageError, match="students/a/s was shown other images than teachers/b"):
        store.teacher_of(tmp_path, "students/a/s", "teachers/b")


def test_a_study_is_gathered_from_its_runs_and_maps(tmp_path):
    names = ["teachers/t-full-0", "students/t-full-0/s-kd-2-0"]
    for i, name in enumerate(names):
        save(tmp_path / name, accuracy=0.5 + i / 10)
        store.save_layers(tmp_path / name, layers(i))
        store.save_measures(tmp_path / name, {"stem": {"knn": 0.25 + i}})
        told = [("stem", "ivis", "map_knn", 0.75, "torch 2")] if "student" in name else []
        store.save_map_measures(tmp_path / name, told)
        alike = {("stem", "logits"): 0.5} if "student" in name else {}
        store.save_similarity(tmp_path / name, {"pooled": alike, "flat": alike})
    maps = {(name, "stem"): np.full((4, 2), i, float) for i, name in enumerate(names)}
    found = {key: {"trustworthiness": 1.0} for key in maps}
    errors = {key: np.array([0, 0.5, 0, 1]) for key in maps}
    made = {"engine": "openTSNE 1", "coupling": 0.1}
    near = {key: np.array([[1, 2], [0, 2], [3, 1], [2, 1]]) for key in maps}
    for kind in ("tsne", "pca"):
        store.save_maps(tmp_path, f"{kind}-x", kind, maps, found, errors, near, **made)
    tables = store.gather(tmp_path, names, ["tsne-x", "pca-x"])
    assert list(tables["runs"]["test_accuracy"]) == [0.5, 0.6]
    measures = tables["measures"]
    assert list(measures.query("view == 'pooled'")["value"]) == [0.25, 1.25]
    assert list(tables["similarity"].columns) == store.COLUMNS["similarity"]
    assert tables["similarity"].query("view == 'flat'").values.tolist() == [
        [names[1], "stem", "logits", 0.5, "flat"]
    ]
    assert len(tables["maps"]) == 16
    assert tables["maps"]["error"].tolist() == [0, 0.5, 0, 1] * 4
    assert list(tables["neighbours"].columns) == store.COLUMNS["neighbours"]
    layer = tables["neighbours"].query("run == @names[1]")  # once, not of every kind of map
    assert layer[["image", "rank", "neighbour"]].values.tolist()[:4] == [
        *([0, 0, 1], [0, 1, 2], [1, 0, 0], [1, 1, 2])
    ]
    assert len(layer) == 8
    said = tables["faithfulness"][["value", "engine", "coupling"]].drop_duplicates()
    assert said.values.tolist() == [[1.0, "openTSNE 1", 0.1], [0.75, "torch 2", 0.0]]
    assert list(tables["faithfulness"].columns) == store.COLUMNS["faithfulness"]
    assert tables["predictions"].query("run == @names[0]")["prediction"].tolist() == [1, 1, 1, 1]
    assert tables["teacher_logits"].query("image == 1").values.tolist() == [
        [names[0], 1, 0, 4.0],
        [names[0], 1, 1, 6.0],
    ]
    store.save_layers(tmp_path / "teachers/other", layers(rows=(5, 6, 7, 8)))
    save(tmp_path / "teachers/other")
    with pytest.raises(UsageError, match="was shown other images"):
        store.gather(tmp_path, [names[0], "teachers/other"], ["tsne-x"])


def looked_into(root, name):
    """One network, all that is known of its layers, and a map of one."""
    save(root / name)
    store.save_layers(root / name, layers())
    store.save_measures(root / name, {"stem": {"knn": 0.5}})
    store.save_similarity(root / name, {})
    store.save_map_measures(root / name, [])
    maps, found = {(name, "stem"): np.zeros((2, 2))}, {(name, "stem"): {"continuity": 1.0}}
    how = {"errors": {(name, "stem"): np.zeros(2)}, "engine": "numpy 2", "coupling": 0.0}
    how["neighbours"] = {(name, "stem"): np.array([[1], [0]])}
    store.save_maps(root, "pca-x", "pca", maps, found, **how)


def test_a_comparison_is_gathered_with_its_study(tmp_path):
    name = "teachers/a"
    looked_into(tmp_path, name)
    with pytest.raises(UsageError, match=r"no compare-x-comparison.parquet in .*compare"):
        store.gather(tmp_path, [name], ["pca-x"], "compare-x")
    numbers = dict.fromkeys(store.COLUMNS["sweeps"][-4:], 0.5)
    cell = {"run": name, "layer": "stem", "embedding": "tsne", "setting": 5, "seed": 0}
    xy = np.array([[0.12345, 1], [2, 3]])
    sweep = cell | numbers | {"image": np.array([3, 9]), "xy": xy}
    store.save_comparison(tmp_path, "compare-x", [("pca", name, "stem", "map_knn", 0.5)], [sweep])
    tables = store.gather(tmp_path, [name], ["pca-x"], "compare-x")
    assert tables["comparison"].values.tolist() == [["pca", name, "stem", "map_knn", 0.5]]
    assert list(tables["sweeps"].columns) == store.COLUMNS["sweeps"]
    assert tables["sweeps"]["image"].tolist() == [3, 9]
    np.testing.assert_allclose(tables["sweeps"][["x", "y"]], [[0.123, 1], [2, 3]], rtol=1e-6)
    without = store.gather(tmp_path, [name], ["pca-x"])
    assert without["sweeps"].empty
    assert list(without["comparison"].columns) == store.COLUMNS["comparison"]


def test_a_film_is_gathered_with_its_study(tmp_path):
    name = "students/t/a"
    looked_into(tmp_path, name)
    with pytest.raises(UsageError, match=r"no film-x-film.parquet in .*notebooks/film.ipynb"):
        store.gather(tmp_path, [name], ["pca-x"], filmed="film-x")
    on_the_way = {(name, 0, "stem"): np.array([[0.12345, 1], [2, 3]])}
    store.save_film(tmp_path, "film-x", on_the_way, [(name, 0, "stem", "knn", 0.25)])
    tables = store.gather(tmp_path, [name], ["pca-x"], filmed="film-x")
    assert tables["training"].values.tolist() == [[name, 0, "stem", "knn", 0.25]]
    assert list(tables["film"].columns) == store.COLUMNS["film"]
    assert tables["film"]["image"].tolist() == [0, 1]
    np.testing.assert_allclose(tables["film"][["x", "y"]], [[0.123, 1], [2, 3]], rtol=1e-6)
    without = store.gather(tmp_path, [name], ["pca-x"])
    assert without["film"].empty
    assert list(without["training"].columns) == store.COLUMNS["training"]


def test_published_results_come_back_as_they_were(tmp_path):
    made = results.make(None)
    (tmp_path / "out.ipynb").write_text("{}")
    store.publish(tmp_path, made, {"students/x": tmp_path / "out.ipynb"})
    assert (tmp_path / "executed/students/x.ipynb").read_text() == "{}"
    again = store.load(tmp_path)
    assert again.study == json.loads(json.dumps(made.study))
    for table in store.TABLES:
        pd.testing.assert_frame_equal(
            getattr(again, table), getattr(made, table), check_dtype=False
        )
    np.testing.assert_array_equal(again.images, made.images)


def test_no_published_results_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"no study.json in .*; `make book`"):
        store.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_ever_pickled():
    from pathlib import Path

    for file in (Path(store.__file__).parent).glob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text, file
        assert "torch.save" not in text, file
