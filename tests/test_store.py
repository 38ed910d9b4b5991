import json
import os
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
    "weights": "random",
    "options": "",
    "unlabelled": False,
    "precision": "float32",
}


def save(folder, accuracy=0.5, role="teacher", data="0123", **parameters):
    record = {"parameters": {"dataset": "digits", **parameters}, "facts": FACTS | {"role": role}}
    weights = {"a": np.arange(6, dtype="float32").reshape(2, 3), "steps": np.array(7)}
    results = {"test_accuracy": accuracy, "test_images": 10, "calibration_error": 0.1}
    results |= {"seconds": 1.0, "parameters_count": 6}
    results |= {"architecture": {"classes": 10, "channels": 1}, "data": data}
    results |= {"calibration_error": 0.1}
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


def test_snapshots_come_back_by_epochs_and_do_not_outlive_their_run(tmp_path):
    weights = {"stem.0.weight": np.arange(3, dtype="float32"), "steps": np.array(7)}
    facts = {"test_accuracy": 0.5, "test_images": 10}
    store.save_run(tmp_path, {}, weights, HISTORY, {10: weights, 0: {"a": np.ones(2)}}, **facts)
    stored = store.load_snapshots(tmp_path)
    assert list(stored) == [0, 10]
    assert list(stored[0]) == ["a"]
    np.testing.assert_array_equal(stored[10]["stem.0.weight"], [0, 1, 2])
    store.save_run(tmp_path, {}, weights, HISTORY, **facts)
    with pytest.raises(
        UsageError, match=r"no snapshots.safetensors in .*student.*-y \"snapshots: "
    ):
        store.load_snapshots(tmp_path)


def test_a_network_trained_on_other_images_is_refused(tmp_path):
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
    assert {p.stat().st_mode & 0o444 for p in (tmp_path / "run").iterdir()} == {0o444}


def test_a_disk_that_is_full_costs_one_line_and_no_file(tmp_path):
    resource = pytest.importorskip("resource", reason="this system limits no files")
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


def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write below .*file: "):
        store.writable(tmp_path / "file" / "run")
    store.writable(tmp_path / "a" / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no such users")
def test_a_folder_closed_to_the_user_is_an_error(tmp_path):
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
def test_an_unreadable_or_empty_run_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match="delete it and run again") as caught:
        store.load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_run_is_an_error_that_names_what_makes_it(tmp_path):
    with pytest.raises(UsageError, match=r"run.json .*notebooks/teacher.ipynb"):
        store.load_run(tmp_path / "teachers" / "resnet20-full-0")


def test_broken_weights_and_tables_are_errors(tmp_path):
    save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"\x08")
    (tmp_path / "history.parquet").write_bytes(b"PAR1")
    for read in (store.load_weights, store.load_history):
        with pytest.raises(UsageError, match=r"cannot read .*; delete it and run again"):
            read(tmp_path)


def test_layers_come_back_in_order_and_other_images_are_refused(tmp_path):
    store.save_layers(tmp_path, layers())
    stored = store.load_layers(tmp_path)
    assert list(stored.test) == ["stem", "logits"]
    np.testing.assert_array_equal(stored.train["stem"], layers().train["stem"])
    store.save_layers(tmp_path, layers(shift=1.0))
    with pytest.raises(UsageError, match="holds features of other images"):
        store.save_layers(tmp_path, layers(rows=(0, 1, 2, 9)))
    np.testing.assert_array_equal(
        store.load_layers(tmp_path).test["stem"], layers(1.0).test["stem"]
    )


def test_layers_come_back_with_their_flat_view(tmp_path):
    x = np.arange(8, dtype="float32").reshape(4, 2)
    both = layers()._replace(flat_test={"stem": x + 1}, flat_train={"stem": x + 2})
    store.save_layers(tmp_path, both)
    stored = store.load_layers(tmp_path)
    assert list(stored.flat_test) == list(stored.flat_train) == ["stem"]
    np.testing.assert_array_equal(stored.flat_test["stem"], x + 1)
    np.testing.assert_array_equal(stored.flat_train["stem"], x + 2)
    np.testing.assert_array_equal(stored.test["stem"], layers().test["stem"])


def test_a_table_of_a_run_comes_back_with_its_name_in_all_views_or_one(tmp_path):
    values = {"pooled": {"stem": {"knn": 0.25}, "logits": {"knn": 0.5}}}
    values["flat"] = values["pooled"] | {"stem": {"knn": 0.75}}
    table = store.numbers(values, "view", "layer", "measure")
    store.save_table("measures", tmp_path, "teachers/a", table)
    assert store.load_table("measures", tmp_path, "teachers/a").values.tolist() == [
        ["teachers/a", "stem", "knn", 0.25, "pooled"],
        ["teachers/a", "logits", "knn", 0.5, "pooled"],
        ["teachers/a", "stem", "knn", 0.75, "flat"],
        ["teachers/a", "logits", "knn", 0.5, "flat"],
    ]
    pooled = store.load_table("measures", tmp_path, "teachers/a", "pooled")
    assert pooled["value"].tolist() == [0.25, 0.5]
    flat = store.load_table("measures", tmp_path, "teachers/a", "flat")
    assert flat["value"].tolist() == [0.75, 0.5]


@pytest.mark.parametrize("table", [name for name, entry in store.TABLES.items() if entry.file])
def test_every_table_names_its_notebook_and_refuses_a_file_without_its_columns(tmp_path, table):
    with pytest.raises(UsageError, match=rf"no .*{table}.*|{table}.parquet|no a.parquet") as caught:
        store.load_table(table, tmp_path, "a")
    assert f"notebooks/{store.TABLES[table].notebook}.ipynb makes it" in str(caught.value)
    with pytest.raises(KeyError):
        store.save_table(table, tmp_path, "a", pd.DataFrame({"layer": ["stem"]}))
    store.save_table(table, tmp_path, "a", [])
    assert list(store.load_table(table, tmp_path, "a")) == store.TABLES[table].columns
    (file,) = tmp_path.rglob("*.parquet")
    pd.DataFrame({"layer": ["stem"]}).to_parquet(file)  # of an older version
    with pytest.raises(UsageError, match=r"cannot read .*; delete it and run again"):
        store.load_table(table, tmp_path, "a")


def test_numbers_points_and_cells_are_laid_out_by_their_keys():
    nested = {("kd", "stem"): {"knn": 0.5, "probe": 1.0}}
    assert store.numbers(nested, "run", "layer", "measure").to_dict("list") == {
        "run": ["kd", "kd"],
        "layer": ["stem", "stem"],
        "measure": ["knn", "probe"],
        "value": [0.5, 1.0],
    }
    assert store.numbers({"pooled": {}, "flat": {}}, "view", "own", "other").empty
    points = store.points({("kd", 3): np.array([[0.1, 1], [2, 3]])}, "run", "epoch")
    assert list(points) == ["run", "epoch", "image", "x", "y"]
    assert points[["epoch", "image", "y"]].values.tolist() == [[3, 0, 1], [3, 1, 3]]
    cells = store.cells({"kd": np.array([[5, 7], [6, 4]])}, "run", "image", "rank", "neighbour")
    assert cells.values.tolist() == [
        *(["kd", 0, 0, 5], ["kd", 0, 1, 7], ["kd", 1, 0, 6], ["kd", 1, 1, 4])
    ]


def test_runs_that_were_published_before_teachers_were_judged_on_training_images_are_read(tmp_path):
    results.make(tmp_path, n=20)
    table = pd.read_parquet(tmp_path / "runs.parquet").drop(columns=[*store.OPTIONAL])
    store.save_frame(tmp_path / "runs.parquet", table)
    runs = store.load(tmp_path).runs
    assert runs["train_accuracy"].isna().all()
    assert runs["test_accuracy"].tolist() == table["test_accuracy"].tolist()


def test_results_are_loaded_in_one_view(tmp_path):
    made = results.make(None)
    flat = made.measures.assign(view="flat", value=made.measures["value"] + 1)
    both = pd.concat([made.measures, flat])
    store.publish(tmp_path, made._replace(measures=both))
    assert store.load(tmp_path).measures["value"].tolist() == made.measures["value"].tolist()
    assert store.load(tmp_path, view="flat").measures["value"].tolist() == flat["value"].tolist()
    assert store.load(tmp_path, view="flat").similarity.empty
    with pytest.raises(UsageError, match=r"'round'; .*pooled, flat"):
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
    with pytest.raises(
        UsageError, match="students/a/s has features of other images than teachers/b"
    ):
        store.teacher_of(tmp_path, "students/a/s", "teachers/b")


def extracted(root, name, shift=0.0, rows=range(4)):
    """A run with all that is measured of its layers."""
    save(root / name)
    store.save_layers(root / name, layers(shift, rows))
    for table in ("measures", "similarity", "map_measures"):
        store.save_table(table, root, name, [])


def mapped(root, maps, names, kind, engine, coupling):
    """Maps of the stem of some networks."""
    keys = [(name, "stem") for name in names]
    made = {"embedding": kind, "engine": engine, "coupling": coupling}
    points = {key: np.full((4, 3), i, float) for i, key in enumerate(keys)}
    near = {key: np.array([[1, 2], [0, 2], [3, 1], [2, 1]]) for key in keys}
    tables = {
        "maps": store.points(points, "run", "layer", columns=("x", "y", "error")),
        "faithfulness": store.numbers(
            {key: {"trustworthiness": 1.0} for key in keys}, "run", "layer", "measure"
        ),
        "neighbours": store.cells(near, "run", "layer", "image", "rank", "neighbour"),
    }
    for table, rows in tables.items():
        store.save_table(table, root, maps, rows.assign(**made))


def test_a_study_is_gathered_from_its_runs_and_maps(tmp_path):
    teacher, student = names = ["teachers/t-full-0", "students/t-full-0/s-kd-2-0"]
    for i, name in enumerate(names):
        extracted(tmp_path, name, i)
        save(tmp_path / name, accuracy=0.5 + i / 10, role="student" if i else "teacher")
        values = [("stem", "knn", 0.25 + i, view) for view in store.VIEWS]
        store.save_table("measures", tmp_path, name, values)
    value = ("stem", "logits", 0.5, "flat")
    store.save_table("similarity", tmp_path, student, [value])
    value = ("stem", "ivis", "map_knn", 0.75, "torch 2", 0.0)
    store.save_table("map_measures", tmp_path, student, [value])
    for kind in ("tsne", "pca"):
        mapped(tmp_path, f"{kind}-x", names, kind, "openTSNE 1", 0.1)
    tables = store.gather(tmp_path, names, ["tsne-x", "pca-x"])
    for name, table in tables.items():
        assert list(table.columns) == store.TABLES[name].columns
    assert list(tables["runs"]["test_accuracy"]) == [0.5, 0.6]
    assert list(tables["runs"]["role"]) == ["teacher", "student"]
    assert list(tables["runs"]["parameters"]) == [6, 6]
    measures = tables["measures"]
    assert list(measures.query("view == 'pooled'")["value"]) == [0.25, 1.25]
    assert tables["similarity"].values.tolist() == [[student, "stem", "logits", 0.5, "flat"]]
    assert len(tables["maps"]) == 16
    assert tables["maps"]["error"].tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    layer = tables["neighbours"].query("run == @student")  # once, not of every kind of map
    assert layer[["image", "rank", "neighbour"]].values.tolist()[:4] == [
        *([0, 0, 1], [0, 1, 2], [1, 0, 0], [1, 1, 2])
    ]
    assert len(layer) == 8
    numbers = tables["faithfulness"][["value", "engine", "coupling"]].drop_duplicates()
    assert numbers.values.tolist() == [[1.0, "openTSNE 1", 0.1], [0.75, "torch 2", 0.0]]
    predictions = tables["predictions"]
    assert predictions.query("run == @teacher")["prediction"].tolist() == [1, 1, 1, 1]
    assert set(tables["teacher_logits"]["run"]) == {teacher}
    assert tables["teacher_logits"].query("image == 1").values.tolist() == [
        [teacher, 1, 0, 4.0],
        [teacher, 1, 1, 6.0],
    ]
    assert tables["comparison"].empty
    assert tables["film"].empty


def test_networks_of_different_images_are_not_gathered(tmp_path):
    names = ["teachers/a", "teachers/other"]
    extracted(tmp_path, names[0])
    extracted(tmp_path, names[1], rows=(5, 6, 7, 8))
    with pytest.raises(UsageError, match="has features of other images"):
        store.gather(tmp_path, names, [])
    save(tmp_path / names[1], data="4567")
    with pytest.raises(UsageError, match="was trained on other images"):
        store.gather(tmp_path, names, [], layers=False)


def test_a_comparison_and_a_film_are_gathered_with_their_study(tmp_path):
    name = "students/t/a"
    extracted(tmp_path, name)
    mapped(tmp_path, "pca-x", [name], "pca", "numpy 2", 0.0)
    for name_of, words in [({"comparison": "compare-x"}, "compare"), ({"film": "film-x"}, "film")]:
        with pytest.raises(
            UsageError, match=rf"no {words}-x-.*parquet in .*notebooks/{words}.ipyn"
        ):
            store.gather(tmp_path, [name], ["pca-x"], **name_of)
    place = {"run": name, "layer": "stem", "embedding": "tsne", "setting": 5, "seed": 0}
    xy = np.array([[0.12345, 1], [2, 3]])
    measures = dict.fromkeys(store.TABLES["sweeps"].columns[-4:], 0.5)
    sweep = store.points({tuple(place.values()): xy}, *place).assign(image=[3, 9], **measures)
    values = [("pca", name, "stem", "map_knn", 0.5)]
    store.save_table("comparison", tmp_path, "compare-x", values)
    store.save_table("sweeps", tmp_path, "compare-x", sweep)
    film = store.points({(name, 0, "stem"): xy}, "run", "epoch", "layer").assign(prediction=[3, 1])
    store.save_table("film", tmp_path, "film-x", film)
    store.save_table("training", tmp_path, "film-x", [(name, 0, "stem", "knn", 0.25)])
    tables = store.gather(tmp_path, [name], ["pca-x"], "compare-x", "film-x")
    assert tables["comparison"].values.tolist() == [list(values[0])]
    assert tables["training"].values.tolist() == [[name, 0, "stem", "knn", 0.25]]
    assert tables["sweeps"]["image"].tolist() == [3, 9]
    assert tables["film"]["image"].tolist() == [0, 1]
    assert tables["film"]["prediction"].tolist() == [3, 1]
    for table in ("sweeps", "film"):  # to three digits
        np.testing.assert_allclose(tables[table][["x", "y"]], [[0.123, 1], [2, 3]], rtol=1e-6)


def test_a_film_of_before_predictions_were_kept_can_be_read(tmp_path):
    made = results.make(None, n=60, seeds=1, labels=("2",))
    store.publish(tmp_path, made._replace(film=made.film.drop(columns="prediction")))
    film = store.load(tmp_path).film
    assert film["prediction"].isna().all()
    assert film["image"].tolist() == made.film["image"].tolist()


def test_published_results_come_back_as_they_were(tmp_path):
    made = results.make(None)
    store.publish(tmp_path, made, {"students/x": "{}"})
    assert (tmp_path / "executed/students/x.ipynb").read_text() == "{}"
    again = store.load(tmp_path)
    assert again.study == json.loads(json.dumps(made.study)) | {"image": [8, 8, 1]}
    for table in store.TABLES:
        pd.testing.assert_frame_equal(
            getattr(again, table), getattr(made, table), check_dtype=False, rtol=0, atol=5.1e-4
        )
    np.testing.assert_array_equal(again.images, made.images)
    assert not list(tmp_path.parent.glob(".*.part"))


def test_photographs_come_back_in_their_places_and_nearly_as_they_were(tmp_path):
    made = results.make(None)
    steps = np.linspace(0, 255, 32).round().astype(np.uint8)
    photographs = np.zeros((len(made.images), 32, 24, 3), np.uint8)
    photographs[..., 0] = steps[:, None]
    photographs[..., 1] = 2 * np.arange(len(photographs), dtype=np.uint8)[:, None, None]
    store.publish(tmp_path, made._replace(images=photographs))
    again = store.load(tmp_path).images
    assert again.shape == photographs.shape
    assert np.abs(again.astype(int) - photographs).mean() < 3


def test_a_study_is_published_whole_or_stays_as_it_was(tmp_path):
    made = results.make(None)
    folder = tmp_path / "study"
    store.publish(folder, made)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.publish(folder, made._replace(study={"n": float("nan")}, maps=made.maps[:1]))
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_no_published_results_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"no study.json in .*; `make book`"):
        store.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_ever_pickled():
    from pathlib import Path

    for file in (Path(store.__file__).parent).rglob("*.py"):
        text = file.read_text("utf-8")
        assert "import pickle" not in text, file
        assert "torch.save" not in text, file


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied$"),
        (OSError("damaged"), "damaged; delete it and run again$"),  # as pyarrow says it
        (ValueError("damaged"), "damaged; delete it and run again$"),
    ],
)
def test_only_a_damaged_file_is_to_be_deleted(tmp_path, problem, said):
    def read(_):
        raise problem

    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match=said):
        store._read(tmp_path / "a", read, "nobody")


def test_want_of_memory_is_no_fault_of_a_file(tmp_path):
    def read(_):
        raise MemoryError

    (tmp_path / "a").write_text("")
    with pytest.raises(MemoryError):
        store._read(tmp_path / "a", read, "nobody")
