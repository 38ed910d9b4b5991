"""The notebooks as a person runs them: with papermill, from the repository's root."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kdlib import UsageError, store
from kdlib.measure import metrics
from kdlib.plan import look, parameters, runs

ROOT = Path(__file__).parents[1]
MADE_BY = {
    "teacher": runs.Teacher,
    "student": runs.Student,
    "features": runs.Features,
    "measure": runs.Measures,
    "embed": runs.Maps,
    "compare": runs.Comparison,
    "film": runs.Film,
    "look": look.Look,
}
LOOK = {  # a look has none that would do anything
    "data": "digits",
    "networks": {
        "teacher": "resnet20@runs/quick/digits/teachers/resnet20-full-0/weights.safetensors"
    },
}
# Defaults that a class fills in from others: here, as a notebook says them.
STARTS = {"student": {"teacher": "resnet20"}, "film": {"mapped": []}, "look": LOOK}


def cells(name, kind="code"):
    found = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
    return [c for c in found if c["cell_type"] == kind]


def papermill(name, out, structured=None, **plain):
    given = ["-y", json.dumps(structured)] if structured else []
    given += [word for key, value in plain.items() for word in ("-p", key, str(value))]
    command = [Path(sys.executable).parent / "papermill", "--engine", "kdlib"]
    command += [f"notebooks/{name}.ipynb", out, *given]
    return subprocess.run(
        [*command, "--no-progress-bar", "--log-level", "ERROR"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", MADE_BY)
def test_the_parameters_cell_says_the_defaults_that_the_library_has(name):
    (cell,) = (c for c in cells(name) if "parameters" in c["metadata"].get("tags", []))
    source = "".join(cell["source"])
    in_notebook = {
        (node.target if isinstance(node, ast.AnnAssign) else node.targets[0]).id: ast.literal_eval(
            node.value
        )
        for node in ast.parse(source).body
    }
    assert in_notebook == parameters.defaults(MADE_BY[name]) | STARTS.get(name, {})
    assert source.count("\n    ") or all("#" in line for line in source.splitlines())


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda f: f.stem)
def test_notebooks_are_short_and_kept_without_outputs(file):
    code = cells(file.stem)
    assert len(code) <= 8
    assert not any(c["outputs"] or c["execution_count"] for c in code)
    text = "\n".join("".join(c["source"]) for c in code)
    if file.stem in MADE_BY:
        assert not [
            n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.ClassDef)
        ]
    assert "".join(cells(file.stem, "markdown")[0]["source"]).startswith("# ")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole study made by hand, as small as it can be."""
    results = tmp_path_factory.mktemp("hand") / "runs"
    networks = ["teachers/resnet20-full-0+epochs=1"]
    networks += ["students/resnet20-full-0+epochs=1/resnet8x0.5-at-5-3+epochs=1"]
    student = {"teacher": networks[0], "method": "at", "labels_per_class": 5, "seed": 3}
    steps = [
        ("teacher", {"results": results, "epochs": 1}),
        ("student", {"results": results, "epochs": 1, **student}),
    ]
    for name, plain in steps:
        structured = {"snapshots": [0, 1]} if name == "student" else None
        done = papermill(name, results.parent / f"{name}.ipynb", structured, **plain)
        assert done.returncode == 0, done.stderr
    little = {"perplexities": [5], "ks": [5], "seeds": [0, 1], "steps": 50, "images": 100}
    maps = {"mapped": networks[1:], "embeddings": {"tsne": {"iterations": 50}, "pca": {}}}
    steps = (("features", {"sample": 200}), ("measure", maps), ("embed", {}), ("compare", little))
    followed = {"networks": networks[1:], "mapped": networks[1:], "layers": ["block1"]}
    for name, more in (*steps, ("film", followed)):
        told = {"networks": networks, **more, "results": str(results)}
        done = papermill(name, results.parent / f"{name}.ipynb", told)
        assert done.returncode == 0, done.stderr
    return results, networks


def test_every_notebook_runs_by_hand_and_lands_where_its_parameters_say(made):
    results, networks = made
    for name in networks:
        folder = results / "quick/digits" / name
        record = store.load_run(folder)
        assert 0 <= record["test_accuracy"] <= 1
        assert record["parameters"]["epochs"] == 1
        measures = store.load_table("measures", results / "quick/digits", name)
        assert measures["value"].notna().all()
        for key, rows in measures.groupby("measure"):
            known = metrics.MEASURES[key]
            assert rows["value"].between(known.low, known.high).all(), key
        student = name == networks[1]
        wanted = {k for k, m in metrics.MEASURES.items() if student or m.needs != "teacher"}
        assert set(measures["measure"]) == wanted
        views = measures.query("measure == 'probe'").pivot(
            index="layer", columns="view", values="value"
        )
        assert (views["pooled"] == views["flat"])[["pool", "logits"]].all()
        assert (views["pooled"] != views["flat"]).any()
        told = pd.read_parquet(folder / "map_measures.parquet")
        assert (len(told), told["value"].notna().all()) == (12 if student else 0, True)
        alike = store.load_table("similarity", results / "quick/digits", name)
        assert alike.groupby("view").size().tolist() == ([36, 36] if student else [])
        assert alike["value"].between(-1, 1).all()
    assert len(store.load_run(results / "quick/digits" / networks[1])["labelled"]) == 50
    printed = (results.parent / "teacher.ipynb").read_text()
    assert "digits: 10 classes, 8 x 8 pixels, grey" in printed
    assert "1,297 training, 500 test, 0 unlabelled images" in printed
    assert "sample 200: 200 test images" in (results.parent / "features.ipynb").read_text()
    assert "'perplexity': 30" in (results.parent / "embed.ipynb").read_text()
    maps = pd.read_parquet(next((results / "quick/digits/maps").glob("tsne-2-*[0-9a-f].parquet")))
    assert maps.groupby(["run", "layer"]).size().tolist() == [200] * 12
    assert maps[["x", "y"]].notna().all().all()


def test_a_comparison_has_every_procedure_every_setting_and_its_images(made):
    results, networks = made
    folder = results / "quick/digits/maps"
    table = pd.read_parquet(next(folder.glob("compare-2-*-comparison.parquet")))
    t_sne = {"own start", "shared start", "again 1", "again 2", "coupled"}
    others = {"original space", "ivis", "pca", "shuffled", "unsupervised"}
    assert set(table["procedure"]) == t_sne | others
    moved = table[table["measure"] == "displacement"]
    assert moved.groupby("procedure").size().to_dict() == dict.fromkeys((*t_sne, "ivis", "pca"), 6)
    assert moved["value"].between(0.01, 2).all()
    shuffled, unsupervised = (
        table.set_index("procedure").loc[name, "value"] for name in ("shuffled", "unsupervised")
    )
    assert shuffled > 0.5 > unsupervised
    sweeps = pd.read_parquet(next(folder.glob("compare-2-*-sweeps.parquet")))
    assert sweeps.groupby(["embedding", "seed", "run"]).size().tolist() == [100] * 10
    assert sweeps["image"].nunique() == 100
    assert sweeps["image"].between(0, 199).all()
    assert set(sweeps["run"]) == set(networks)


def test_a_film_begins_untrained_and_ends_as_the_network_that_was_kept(made):
    results, (_, student) = made
    folder = results / "quick/digits"
    training = pd.read_parquet(next((folder / "maps").glob("film-1-*-training.parquet")))
    assert set(training["run"]) == {student}
    assert sorted(set(training["epoch"])) == [0, 1]
    own = training.set_index(["measure", "layer", "epoch"])["value"]
    table = store.load_table("measures", folder, student, "pooled")
    kept = table.set_index(["measure", "layer"])["value"]
    for measure in ("within_share", "silhouette", "knn", "probe", "cka"):
        assert own[measure].xs(1, level="epoch").to_dict() == kept[measure].to_dict()
        assert (own[measure].xs(0, level="epoch") != kept[measure]).any()
    ends = own["cka_end"].unstack()
    assert ends[1].between(1 - 1e-9, 1 + 1e-9).all()
    assert (ends[0] < 1 - 1e-6).all()
    film = pd.read_parquet(next((folder / "maps").glob("film-1-*-film.parquet")))
    assert film.groupby(["run", "epoch", "layer"]).size().tolist() == [200, 200]
    predictions = film.pivot(index="image", columns="epoch", values="prediction")
    logits = store.load_layers(folder / student).test["logits"]
    assert predictions[1].tolist() == logits.argmax(1).tolist()
    assert (predictions[0] != predictions[1]).any()
    assert film[["x", "y"]].abs().max().max() > 0.5
    assert own["trustworthiness"].index.tolist() == [("block1", 0), ("block1", 1)]
    assert own["trustworthiness"].between(0.5, 1).all()


def test_the_same_run_again_gives_the_same_bits_in_the_same_place(made, tmp_path):
    results, networks = made
    folder = results / "quick/digits" / networks[1]
    before = {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "run.json"}
    student = {
        "teacher": networks[0],
        "method": "at",
        "labels_per_class": 5,
        "seed": 3,
        "epochs": 1,
    }
    again = papermill(
        "student", tmp_path / "out.ipynb", {"snapshots": [0, 1]}, results=results, **student
    )
    assert again.returncode == 0
    after = {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "run.json"}
    assert after["weights.safetensors"] == before["weights.safetensors"]
    assert after == before


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"sed": 3}, "unknown parameter 'sed'; known: dataset, size, grey, train_images"),
        ({"labels_per_class": 500}, "labels_per_class 500; allowed: 'all' or 1 to 124"),
        ({"teacher": "teachers/nobody"}, "no run.json in"),
    ],
    ids=lambda p: "-".join(p) if isinstance(p, dict) else "",
)
def test_a_mistake_is_one_line_and_status_2_and_nothing_is_written(tmp_path, mistake, said):
    results = tmp_path / "runs"
    done = papermill("student", tmp_path / "out.ipynb", results=results, **mistake)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith(f"Error: {said}")
    assert "Traceback" not in done.stderr + done.stdout
    assert len(lines) <= 2  # papermill warns of an unknown name itself
    assert not results.exists()
    assert "Traceback" not in (tmp_path / "out.ipynb").read_text()


@pytest.mark.parametrize("kernel", ["python3", "of-another-machine"])
def test_a_kernel_says_nothing_of_its_own_sockets_whatever_its_name(tmp_path, kernel):
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": []}
    told = 'import logging\nlogging.getLogger("tornado.general").error("a socket is closed")'
    spec = {"name": kernel, "display_name": "Python 3", "language": "python"}
    book = {"cells": [cell | {"source": told}], "metadata": {"kernelspec": spec}}
    (tmp_path / "in.ipynb").write_text(json.dumps(book | {"nbformat": 4, "nbformat_minor": 5}))
    command = [Path(sys.executable).parent / "papermill", "--engine", "kdlib"]
    command += ["in.ipynb", "out.ipynb"]
    quiet = ["--no-progress-bar", "--log-level", "ERROR"]
    done = subprocess.run([*command, *quiet], cwd=tmp_path, capture_output=True, check=True)
    assert b"socket" not in done.stderr
    assert (b"no kernel 'of-another-machine' here; python3 is used" in done.stderr) == (
        kernel != "python3"
    )


def test_parameters_are_the_plain_values_of_the_notebook():
    space = {"seed": 1, "options": {}, "_x": 2, "In": [], "Out": {}, "json": json, "Path": Path}
    assert parameters.read(runs.Maps, space) == runs.Maps(seed=1)
    with pytest.raises(UsageError, match="unknown parameter 'sed'; known: dataset"):
        parameters.read(runs.Maps, {**space, "sed": 3})
    with pytest.raises(UsageError, match="unknown parameter 'data'; known: dataset"):
        parameters.read(runs.Student, {"data": "cifar10"})
    with pytest.raises(UsageError, match="unknown method 'kdd'; one of: kd, logitstd, dkd, dist"):
        parameters.read(runs.Student, {"method": "kdd"})


def test_papermill_knows_every_parameter_with_its_comment():
    from papermill import inspect_notebook

    for name, kind in MADE_BY.items():
        found = inspect_notebook(ROOT / f"notebooks/{name}.ipynb")
        assert set(found) == set(parameters.names(kind))
        assert all(p["help"] for p in found.values() if p["name"] != "networks"), found
