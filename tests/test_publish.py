"""Studies published from runs that a test invents, of the digits."""

import json
import shutil

import numpy as np
import pytest
from test_store import HISTORY, mapped

from kdlib import UsageError, data, publish, store
from kdlib.plan import studies

STUDY = """
dataset: digits
student: {epochs: 3}
methods: [baseline, kd, {method: kd, options: {temperature: 2}}]
labels_per_class: [2, 5]
seeds: [0, 1]
maps: {labels_per_class: [2], seeds: [0]}
embeddings: {pca: {}}
"""
BUDGETS = {"2": [0, 1], "5": [0, 1]}


@pytest.fixture(scope="module")
def rows(digits):
    return data.sample(digits.test_labels, 20)


class Machine:
    """A folder with a study file, in which runs are there or not."""

    def __init__(self, folder, digits, rows):
        self.folder, self.digits, self.rows = folder, digits, np.asarray(rows)
        self.file, self.to = folder / "mine.yaml", folder / "book/results/mine"
        self.file.write_text(STUDY)

    @property
    def study(self):
        return studies.read(self.file)

    def train(self, *cells, accuracy=0.5, rows=None):
        """All runs of some label budgets and seeds, and their teacher."""
        study = self.study
        for run in study.runs:
            if run.role == "teacher" or (run.labels_per_class, run.seed) in cells:
                self.save(run, accuracy, self.rows if rows is None else rows)

    def save(self, run, accuracy, rows, calibration=0.1):
        results = {"test_accuracy": accuracy, "test_images": 500}
        results |= {"calibration_error": calibration}
        results |= {"seconds": 1800.0, "parameters_count": 6, "architecture": {}, "device": "cpu"}
        weights = {"w": np.zeros(1, "float32")}
        teacher = {"network": "resnet20", "regime": "full", "weights": "random"}
        record = run.record() if run.role == "teacher" else run.record(teacher)
        store.save_run(run.folder, record, weights, HISTORY, **results, data=self.digits.hash)
        labels = self.digits.test_labels.numpy()[rows]
        x = np.arange(len(rows) * 10, dtype="float32").reshape(-1, 10)
        part = {"stem": x, "logits": x}
        layers = store.Layers(part, labels, part, labels, rows, rows)
        store.save_layers(run.folder, layers)
        for table in ("measures", "similarity", "map_measures"):
            store.save_table(table, run.root, run.name, [])
        value = [("stem", "knn", accuracy, "pooled")]
        store.save_table("measures", run.root, run.name, value)

    def map(self):
        study = self.study
        (maps,) = study.map_tables.values()
        mapped(study.root, maps.name, maps.networks, "pca", "numpy 2", 0.0)
        comparison = study.comparison.name
        store.save_table("comparison", study.root, comparison, [])
        store.save_table("sweeps", study.root, comparison, [])

    def publish(self, *, partial=False):
        return publish.publish(self.study, self.to, partial=partial)

    def forget(self):
        """Lose every run, as on another machine."""
        shutil.rmtree(self.folder / "runs")


@pytest.fixture
def machine(tmp_path, monkeypatch, digits, rows):
    monkeypatch.chdir(tmp_path)
    return Machine(tmp_path, digits, rows)


CELLS = [(2, 0), (2, 1), (5, 0), (5, 1)]


def test_a_whole_study_is_published_with_where_it_comes_from(machine):
    machine.train(*CELLS)
    machine.map()
    assert machine.publish() == (13, 0, 0, 0, 0)
    results = store.load(machine.to)
    study = results.study
    assert study["published"] == BUDGETS
    assert (study["missing"], study["embeddings"], study["sample"]) == (0, ["pca"], 20)
    assert study["provenance"]["hours"] == 6.5
    assert study["provenance"]["device"] == {"cpu": 13}
    assert study["provenance"]["code"] == {store.code_hash(): 13}
    assert study["versions"]["numpy"] == np.__version__
    assert (study["train_images"], study["test_images"]) == (1297, 500)
    np.testing.assert_array_equal(results.labels, machine.digits.test_labels.numpy()[machine.rows])
    shown = machine.digits.test[machine.rows].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(results.images, shown)


def test_settings_that_all_share_are_said_once_and_not_of_each_run(machine):
    machine.train(*CELLS)
    machine.map()
    machine.publish()
    results = store.load(machine.to)
    assert results.study["settings"] == {"teacher": {}, "student": {"epochs": "3"}}
    assert set(results.runs["options"]) == {"", "temperature=2"}
    raw = store.gather(machine.study.root, [machine.study.students[0].name], [])
    assert raw["runs"]["options"].tolist() == ["epochs=3"]


def test_what_is_missing_is_refused_or_left_out_cell_by_cell(machine):
    machine.train((2, 0), (2, 1))
    machine.save(
        next(s for s in machine.study.students if s.labels_per_class == 5), 0.5, machine.rows
    )
    with pytest.raises(
        UsageError, match=r"^5 of 13 runs are neither in .* nor published, .*--part"
    ):
        machine.publish()
    assert not machine.to.exists()
    assert machine.publish(partial=True) == (7, 0, 0, 6, 0)
    results = store.load(machine.to)
    assert results.study["published"] == {"2": [0, 1]}
    assert results.study["missing"] == 6
    assert results.study["embeddings"] == []
    assert set(results.runs["labels"]) == {"all", "2"}
    for table in ("measures", "predictions"):
        assert set(getattr(results, table)["run"]) == set(results.runs["run"])


def test_no_whole_cell_is_an_error_and_nothing_is_published(machine):
    machine.train()
    with pytest.raises(UsageError, match="no label budget and seed with all 2 methods"):
        machine.publish(partial=True)
    assert not machine.to.exists()


def test_seeds_that_are_trained_elsewhere_join_those_published(machine):
    machine.train((2, 0), (5, 0))
    machine.map()
    assert machine.publish(partial=True) == (7, 0, 0, 6, 0)
    first = store.load(machine.to)
    machine.forget()
    machine.train((2, 1), (5, 1))
    assert machine.publish() == (6, 1, 6, 0, 0)
    results = store.load(machine.to)
    assert results.study["published"] == BUDGETS
    assert results.study["provenance"]["hours"] == 6.5
    assert list(results.runs["run"]) == [run.name for run in machine.study.runs]
    for table in ("measures", "predictions"):
        assert set(getattr(results, table)["run"]) == set(results.runs["run"])
    for table in ("maps", "faithfulness", "neighbours"):  # were made on the other machine
        pairs = (getattr(r, table).astype(str) for r in (first, results))
        assert (
            len(set(map(tuple, next(pairs).to_numpy())) ^ set(map(tuple, next(pairs).to_numpy())))
            == 0
        )
    machine.forget()
    assert machine.publish() == (0, 0, 13, 0, 0)
    again = store.load(machine.to)
    np.testing.assert_array_equal(again.images, first.images)
    assert {**again.study, "code": ""} == {**results.study, "code": ""}


def test_a_run_trained_anew_takes_nothing_over(machine):
    machine.train((2, 0), (2, 1))
    machine.map()
    machine.publish(partial=True)
    machine.forget()
    machine.train((2, 0), accuracy=0.75)
    machine.save(machine.study.teachers[0], 0.501, machine.rows)  # other hardware
    assert machine.publish(partial=True) == (0, 4, 3, 6, 0)
    results = store.load(machine.to)
    accuracy = results.runs.set_index("run")["test_accuracy"]
    assert accuracy.pop(machine.study.teachers[0].name) == 0.501
    new = {run.name for run in machine.study.students if run.seed == 0} & set(accuracy.index)
    assert {run: value for run, value in accuracy.items() if run in new} == dict.fromkeys(new, 0.75)
    assert set(accuracy[~accuracy.index.isin(new)]) == {0.5}
    assert results.maps.empty
    values = results.measures.set_index("run")["value"]
    assert values.drop(machine.study.teachers[0].name).to_dict() == accuracy.to_dict()


def test_students_of_a_teacher_that_ended_elsewhere_are_not_joined(machine):
    machine.train((2, 0), (2, 1))
    machine.publish(partial=True)
    before = {file: file.read_bytes() for file in machine.to.rglob("*.*")}
    machine.forget()
    machine.train((2, 0), accuracy=0.75)
    with pytest.raises(UsageError, match=r"test accuracy 0\.5000; .* trained anew and has 0\.7500"):
        machine.publish(partial=True)
    assert {file: file.read_bytes() for file in machine.to.rglob("*.*")} == before


def test_a_comparison_of_a_run_trained_anew_is_not_kept_in_part(machine):
    machine.train(*CELLS)
    machine.map()
    study = machine.study
    values = [("pca", run, "block1", "map_knn", 0.5) for run in study.comparison.networks]
    store.save_table("comparison", study.root, study.comparison.name, values)
    machine.publish()
    assert set(store.load(machine.to).comparison["run"]) == set(study.comparison.networks)
    machine.forget()
    (again,) = (run for run in study.students if run.name == study.comparison.networks[1])
    machine.save(again, 0.5, machine.rows)
    machine.publish()
    assert len(store.load(machine.to).comparison) == 3
    machine.save(again, 0.5, machine.rows, calibration=0.2)
    assert machine.publish() == (0, 1, 12, 0, 0)
    results = store.load(machine.to)
    assert results.comparison.empty
    assert set(results.maps["run"]) == {run.name for run in study.mapped} - {again.name}


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("images", lambda m: edit(m.to / "study.json", data="other")),
        ("test images of the maps", lambda m: edit(m.to / "study.json", sample_rows="other")),
    ],
)
def test_what_does_not_compare_is_refused_and_the_published_stays(machine, what, change):
    machine.train((2, 0))
    machine.publish(partial=True)
    change(machine)
    before = {file: file.read_bytes() for file in machine.to.rglob("*.*")}
    machine.forget()
    machine.train((2, 1))
    with pytest.raises(UsageError, match=rf"mine was published with other {what} \(.*delete it"):
        machine.publish(partial=True)
    assert {file: file.read_bytes() for file in machine.to.rglob("*.*")} == before


ADDED = {
    "a method": ("kd, {", "kd, at, {"),
    "a variant of a method": (
        "temperature: 2}}]",
        "temperature: 2}}, {method: kd, options: {temperature: 8}}]",
    ),
    "a method of other epochs": ("kd, {", "kd, {method: kd, epochs: 4}, {"),
    "a student's setting": ("epochs: 3", "epochs: [3, 4]"),
    "a new setting": ("epochs: 3", "epochs: 3, width: [1.0, 0.5]"),
    "a teacher": ("student:", "teacher: [{network: resnet20}, {network: resnet14}]\nstudent:"),
    "a seed": ("seeds: [0, 1]\nmaps", "seeds: [0, 1, 2]\nmaps"),
}


@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_to_a_published_study_joins_it(machine, added):
    machine.train((2, 0), (2, 1), (5, 0), (5, 1))
    machine.publish(partial=True)
    old = store.load(machine.to)
    options = old.runs.set_index("run")["options"]
    assert set(options) == {"", "temperature=2"}
    machine.forget()
    machine.file.write_text(STUDY.replace(*ADDED[added]))
    study = machine.study
    new = [run for run in study.runs if run.name not in set(old.runs["run"])]
    assert new
    for run in new:
        machine.save(run, 0.75, machine.rows)
    assert machine.publish() == (len(new), 0, 13, 0, 0)
    results = store.load(machine.to)
    assert list(results.runs["run"]) == [run.name for run in study.runs]
    accuracy = results.runs.set_index("run")["test_accuracy"]
    assert accuracy[old.runs["run"]].tolist() == [0.5] * 13
    assert results.study["settings"] == study.shared
    assert results.runs.set_index("run")["options"].to_dict() == study.options


def test_what_is_added_and_not_trained_loses_no_published_run(machine):
    machine.train((2, 0))
    machine.publish(partial=True)
    before = {file: file.read_bytes() for file in machine.to.rglob("*.*")}
    machine.forget()
    machine.file.write_text(STUDY.replace("kd, {", "kd, at, {"))
    machine.train((2, 1))
    words = r"mine holds 3 runs that would be lost, the first students/.* runs that are new"
    with pytest.raises(UsageError, match=words):
        machine.publish(partial=True)
    assert {file: file.read_bytes() for file in machine.to.rglob("*.*")} == before


@pytest.mark.parametrize(
    "change", [("epochs: 3", "epochs: 4"), ("[baseline, kd, {", "[baseline, {")]
)
def test_published_runs_that_a_study_has_no_longer_are_not_lost(machine, change):
    machine.train((2, 0))
    machine.publish(partial=True)
    before = {file: file.read_bytes() for file in machine.to.rglob("*.*")}
    machine.forget()
    machine.file.write_text(STUDY.replace(*change))
    machine.train((2, 1))
    with pytest.raises(UsageError, match=r"would be lost, .*, which the study has no longer; "):
        machine.publish(partial=True)
    assert {file: file.read_bytes() for file in machine.to.rglob("*.*")} == before


def test_runs_that_a_study_dropped_are_counted_when_all_others_are_here(machine):
    machine.train(*CELLS)
    machine.map()
    machine.publish()
    machine.file.write_text(STUDY.replace("[baseline, kd, {", "[baseline, {"))
    machine.map()
    counts = machine.publish()
    assert counts.dropped == 4
    assert str(counts).endswith("4 dropped")
    assert not store.load(machine.to).runs["options"].eq("").all()


def test_what_an_earlier_version_published_is_not_overwritten_by_a_part(machine):
    machine.train((2, 0))
    machine.publish(partial=True)
    (machine.to / "provenance.parquet").unlink()
    with pytest.raises(
        UsageError, match=r"mine lacks provenance.parquet, so that nothing can join"
    ):
        machine.publish(partial=True)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_executed_notebooks_name_the_images_and_weights_and_not_their_place(machine, tmp_path):
    machine.train(*CELLS)
    machine.map()
    archive, weights = tmp_path / "somewhere/birds", tmp_path / "elsewhere/net.pt"
    study = machine.study
    note = study.teachers[0].folder / "teacher.ipynb"
    note.write_text(json.dumps({"dataset": str(archive), "weights": str(weights)}))
    object.__setattr__(study, "dataset", str(archive))
    object.__setattr__(study.teachers[0], "weights", str(weights))
    assert set(publish._executed(study, [])) == {"teacher"}
    texts = publish._executed(study, [study.teachers[0].name])
    assert set(texts) == {"teacher", study.teachers[0].name}
    assert json.loads(texts["teacher"]) == {"dataset": "digits", "weights": "net.pt"}


def test_the_commit_of_a_training_is_found_by_its_code_and_unknown_without():
    root = publish.Path(publish.__file__).parents[1]
    head = publish._git(root, "rev-list", "--all", "--max-count=1", "--", "kdlib").decode().strip()
    if not head:
        pytest.skip("no repository of git")
    assert publish.commit_of(publish._code_of(root, head, {})) != "unknown"
    assert publish.commit_of("0" * 16) == "unknown"
