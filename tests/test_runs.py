import hashlib
import json
import os
import re

import pytest

from kdlib import UsageError
from kdlib.plan import runs


def test_a_run_lies_in_a_folder_made_of_its_parameters():
    run = runs.Student(method="at", labels_per_class=5, seed=3)
    wanted = "runs/quick/digits/students/resnet20-full-0/resnet8x0.5-at-5-3"
    assert run.folder.as_posix() == wanted
    assert runs.Teacher().name == "teachers/resnet20-full-0"
    assert runs.Teacher(width=2.0).name == "teachers/resnet20x2.0-full-0"


def test_settings_that_differ_get_a_folder_of_their_own():
    name = runs.Student(epochs=5, options={"temperature": 2}, unlabelled=False).name
    assert name.endswith("resnet8x0.5-kd-2-0+epochs=5+temperature=2+unlabelled=False")
    name = runs.Student(method="kd+at", options={"at": {"weight": 9.0}, "kd": {"weight": 1}}).name
    assert name.endswith("/resnet8x0.5-kd+at-2-0+at.weight=9.0+kd.weight=1")


def test_weights_kept_on_the_way_make_no_other_run():
    run = runs.Student(snapshots=[0, 5])
    assert (run.name, run.settings()) == (runs.Student().name, runs.Student().settings())
    side = runs.side_by_side([run, runs.Student(method="at")])
    assert [each.snapshots for each in side.each] == [[0, 5], []]
    for epochs in ([21], [-1], [True], ["5"]):
        with pytest.raises(UsageError, match=r"snapshots .*(allowed: 0 to 20|must be integer)"):
            runs.Student(snapshots=epochs)


def test_a_film_draws_networks_that_it_follows():
    film = runs.Film(networks=["students/a", "students/b"], mapped=["students/b"])
    assert film.name.startswith("film-2-networks-")
    assert "+mapped=1-networks-" in film.name
    other = runs.Film(networks=["students/a", "students/b"], mapped=["students/a"])
    assert film.name != other.name
    assert runs.Film(layers=["stem"], options={"perplexity": 5}).name.endswith(
        "+layers=stem+perplexity=5"
    )
    with pytest.raises(UsageError, match="mapped: 'students/c' is not among the networks"):
        runs.Film(mapped=["students/c"])
    with pytest.raises(UsageError, match="layers is empty; give at least one"):
        runs.Film(layers=[])


def test_a_number_is_the_same_run_with_and_without_a_point():
    assert runs.Student(learning_rate=1).name == runs.Student(learning_rate=1.0).name


def test_where_and_with_how_many_threads_is_no_other_run():
    here, there = runs.Student(), runs.Student(device="cpu", threads=4, results="elsewhere")
    assert here.name == there.name
    assert here.settings() == there.settings()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": -1}, "seed -1; allowed: 0 or more"),
        ({"seed": 2**70}, "allowed: 4294967295 or less"),
        ({"options": {"seed": 3}}, "option 'seed' is none of a method or embedding"),
        ({"seed": 1.5}, "parameter seed must be integer, given 1.5"),
        ({"seed": True}, "parameter seed must be integer, given True"),
        ({"labels_per_class": 0}, "labels_per_class 0; allowed: 1 or more, or 'all'"),
        ({"labels_per_class": "some"}, "labels_per_class 'some'; allowed"),
        ({"labels_per_class": 2.5}, "labels_per_class 2.5; allowed: 1 or more, or 'all'"),
        ({"epochs": -1}, "epochs -1; allowed: 0 or more"),
        ({"batch_size": 1}, "batch_size 1; allowed: 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate 0.0; allowed: above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan; allowed: a finite number"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001; allowed: 0 or more"),
        ({"unlabelled": "yes"}, "parameter unlabelled must be boolean, given 'yes'"),
        ({"pool": False}, "parameter 'pool' is now called unlabelled"),
        ({"body_rate": 0.1}, "unknown parameter 'body_rate'; known: dataset"),
        ({"weight_decay": "much"}, "parameter weight_decay must be number, given 'much'"),
        ({"width": 65}, "width 65; allowed: 64.0 or less"),
        ({"device": "tpu"}, "unknown device 'tpu'; one of: auto, cpu or cuda"),
        ({"method": "../at"}, "unknown method '../at'; one of: kd, logitstd"),
        ({"method": "alone"}, "method 'alone' is now called 'baseline'"),
        ({"network": "../net"}, "network '../net'; allowed: a plain name"),
        ({"study": ""}, "study ''; allowed: a plain name"),
        ({"teacher": "../../somewhere"}, "names no run"),
        ({"teacher_regime": "full"}, "'teacher_regime' is now called teacher_labels"),
        ({"teacher_labels": "some"}, "unknown teacher_labels 'some'; one of: all or same"),
        (
            {"teacher": "teachers/resnet20-full-0", "teacher_labels": "same"},
            "teacher_labels 'same' beside the run teachers/resnet20-full-0",
        ),
        ({"normalise": "mine"}, "unknown normalise 'mine'; one of: data, imagenet"),
        ({"input_size": 2}, "input_size 2; allowed: 4 or more"),
        ({"students": []}, r"students \[\]; allowed: one or more"),
        ({"students": [{"seed": 3}]}, "unknown parameter 'seed'; known: method, options, network"),
        ({"students": [{}, {}]}, "allowed: one or more, each once"),
        ({"students": ["at"]}, "students: 'at'; allowed: what differs, {method: at}"),
        ({"size": 0}, "size 0; allowed: 4 or more"),
        ({"width": float("nan")}, "width nan; allowed"),
    ],
)
def test_a_parameter_that_cannot_be_is_said_in_one_line(given, said):
    with pytest.raises(UsageError, match=said) as caught:
        runs.Student(**given)
    assert "\n" not in str(caught.value)


def test_maps_of_other_networks_or_options_are_another_table():
    names = {
        runs.Maps().name,
        runs.Maps(embedding="ivis").name,
        runs.Maps(networks=list(runs.EXAMPLE[:2])).name,
        runs.Maps(options={"perplexity": 50}).name,
        runs.Maps(seed=1).name,
    }
    assert len(names) == 5
    assert runs.Maps(workers=7).name == runs.Maps().name


def test_a_teacher_is_found_by_its_network_and_labels_or_by_its_name():
    assert runs.Student().teacher_run == "teachers/resnet20-full-0"
    limited = runs.Student(teacher="resnet56", teacher_labels="same", seed=3)
    assert limited.teacher_run == "teachers/resnet56-limited-2-3"
    made = runs.Teacher(network="resnet56", labels_per_class=2, seed=3)
    assert limited.teacher_run == made.name
    assert limited.on("cuda").teacher_run == made.on("cuda").name != made.name
    assert runs.Student(teacher=limited.teacher_run, seed=3).name == limited.name
    every = runs.Student(teacher_labels="same", labels_per_class="all")
    assert every.teacher_run == runs.Teacher().name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels_per_class": 0}, "labels_per_class 0; allowed: 1 or more, or 'all'"),
        ({"regime": "limited"}, "'regime' is now called labels_per_class"),
        ({"weights": "https://a.org/net.pt"}, "an address whose file name ends in the SHA-256"),
        ({"backbone_lr_factor": -1.0}, "backbone_lr_factor -1.0; allowed: 0 or more"),
    ],
)
def test_a_teacher_that_cannot_be_is_said_in_one_line(given, said):
    with pytest.raises(UsageError, match=said):
        runs.Teacher(**given)


@pytest.mark.parametrize(
    ("labels", "weights", "regime", "began"),
    [
        ("all", None, "full", "random"),
        ("all", "https://a.org/net-4bfd9763.th", "full", "4bfd9763"),
        (2, None, "limited", "random"),
        (2, "simclr", "pretrained", "simclr"),
    ],
)
def test_which_labels_a_teacher_saw_and_where_its_weights_began_are_two_facts(
    labels, weights, regime, began
):
    teacher = runs.Teacher(labels_per_class=labels, weights=weights)
    facts = teacher.record()["facts"]
    assert (facts["regime"], facts["weights"]) == (regime, began)
    taught = runs.Student(teacher=teacher.name).record(facts)["facts"]
    assert (taught["regime"], taught["weights"]) == (regime, began)


def test_an_address_counts_by_the_hash_in_its_name_like_the_file_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    file = tmp_path / f"net-{digest[:8]}.th"
    file.write_bytes(content)
    address = f"https://a.org/x/net-{digest[:8]}.th"
    assert runs.Teacher(weights=address).name == runs.Teacher(weights=str(file)).name
    long = runs.Teacher(weights=f"https://a.org/x/net-{digest}.pt.tar")
    assert long.name == runs.Teacher(weights=address).name
    assert runs.Teacher(weights=address).weights_file == tmp_path / "weights" / file.name


def test_students_side_by_side_are_runs_of_their_own():
    run = runs.Student(students=[{}, {"method": "at", "options": {"weight": 9}}, {"width": 1.0}])
    assert [student.name.split("/")[-1] for student in run.each] == [
        "resnet8x0.5-kd-2-0",
        "resnet8x0.5-at-2-0+weight=9",
        "resnet8-kd-2-0",
    ]
    assert run.name == run.each[0].name
    assert all(student.each == [student] for student in run.each)


def test_a_name_is_short_and_plain_whatever_the_parameters():
    options = {f"constant_{i}": i / 7 for i in range(9)}
    odd = runs.Student(method="kd", options=options | {"name": "a b/$(c)"}, augment="shift+flip")
    teacher = runs.Teacher(network="some.long.module.of.mine.networks:make_a_network", epochs=3)
    taught = runs.Student(teacher=teacher.name, options=options)
    for name in (odd.name, teacher.name, taught.name):
        assert len(name) <= 120
        assert re.fullmatch(r"[A-Za-z0-9._+=/-]+", name)
    other = runs.Student(method="kd", options=options | {"name": "a b/$(d)"}, augment="shift+flip")
    assert odd.name != other.name
    many = "kd+at+sp+pkt+cc+nst+vid"
    longest = [runs.Student(teacher=teacher.name, method=many, seed=seed) for seed in (0, 10**9)]
    assert [len(run.name) <= 120 for run in longest] == [True, True]
    assert longest[0].name != longest[1].name
    lists = [{"at": {"w": [1, 2]}}, {"at": {"w": 1.2}}]
    assert len({runs.Student(method="kd+at", options=given).name for given in lists}) == 2


def test_a_checkpoint_counts_by_its_content_and_leaves_no_path(tmp_path):
    files = [tmp_path / "a" / "net.pt", tmp_path / "b" / "other name.pt", tmp_path / "net.pt"]
    for file, text in zip(files, ("same", "same", "else"), strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    given = {"labels_per_class": 2}
    one, same, other = (runs.Teacher(weights=str(file), **given) for file in files)
    assert one.name == same.name
    assert one.name != other.name
    assert str(tmp_path) not in json.dumps(one.record())
    assert "net" not in one.name.removeprefix("teachers/resnet20")
    with pytest.raises(UsageError, match=r"weights .*nowhere.pt: there is no such file"):
        _ = runs.Teacher(weights=str(tmp_path / "nowhere.pt"), **given).name


def test_a_run_in_bfloat16_is_another_run_than_one_in_float32():
    auto = runs.Student()
    cpu, gpu = auto.on("cpu"), auto.on("cuda")
    assert (cpu.precision, gpu.precision) == ("float32", "bfloat16")
    assert cpu.name != gpu.name
    assert gpu.name == runs.Student(precision="bfloat16").name
    assert cpu.name == runs.Student(precision="float32").on("cuda").name
    assert gpu.record()["facts"]["precision"] == "bfloat16"


def test_the_record_of_a_run_holds_the_facts_that_tables_need():
    teacher = runs.Teacher(labels_per_class=5, seed=1).on("cpu")
    student = runs.Student(teacher=teacher.name, labels_per_class=5, seed=1, options={"weight": 2})
    facts = student.on("cpu").record(teacher.record()["facts"])["facts"]
    assert facts == {
        "role": "student",
        "network": "resnet8x0.5",
        "width": 0.5,
        "method": "kd",
        "labels": "5",
        "seed": 1,
        "teacher": teacher.name,
        "teacher_network": "resnet20",
        "regime": "limited",
        "weights": "random",
        "options": "weight=2",
        "unlabelled": True,
        "precision": "float32",
    }
    baseline = runs.Student(method="baseline").record(teacher.record()["facts"])["facts"]
    assert (baseline["teacher"], baseline["teacher_network"], baseline["regime"]) == ("", "", "")
    assert baseline["unlabelled"] is False


def test_images_of_one_name_in_two_places_get_two_folders(tmp_path):
    archives = [tmp_path / where / "my birds.zip" for where in ("x1", "x2", "x3")]
    for archive, content in zip(archives, (b"one", b"two", b"one"), strict=True):
        archive.parent.mkdir()
        archive.write_bytes(content)
    made = [runs.Student(dataset=f"folder:{file}", size=32, grey=True) for file in archives]
    roots = [run.root.as_posix() for run in made]
    assert roots[0].startswith("runs/quick/my-birds-")
    assert roots[0].endswith("+size=32+grey")
    assert roots[0] == roots[2]
    assert roots[0] != roots[1]
    assert runs.Maps(dataset=str(archives[0]), size=32, grey=True).root.as_posix() == roots[0]
    assert str(tmp_path) not in json.dumps(made[0].record())


def test_layers_are_compared_with_the_own_teacher_or_a_run_that_is_named():
    assert runs.Measures().teacher == ""
    assert runs.Measures(teacher="teachers/a").teacher == "teachers/a"
    with pytest.raises(UsageError, match="teacher: 'a' names no run"):
        runs.Measures(teacher="a")
    with pytest.raises(UsageError, match="unknown network to be mapped 'teachers/a'; one of:"):
        runs.Measures(mapped=["teachers/a"])


def test_the_folder_of_results_may_be_below_ones_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(tmp_path))
    run = runs.Teacher(results="~/my runs")
    assert run.folder == tmp_path / "my runs/quick/digits/teachers/resnet20-full-0"


@pytest.mark.skipif(os.name != "posix", reason="any name is one of a home folder here")
def test_a_home_folder_that_there_is_not_is_no_path():
    with pytest.raises(UsageError, match=r"results '~nobody\.there/runs' is no path"):
        runs.Teacher(results="~nobody.there/runs")


def test_names_of_a_checkpoints_weights_are_part_of_the_teachers_name(tmp_path):
    file = tmp_path / "net.pt"
    file.write_bytes(b"weights")
    plain, mapped, other = (
        runs.Teacher(weights=str(file), weights_names=names).name
        for names in ({}, {"backbone.": ""}, {"backbone.": "", "head.": None})
    )
    assert len({plain, mapped, other}) == 3
    assert max(map(len, (plain, mapped, other))) <= 60
    with pytest.raises(UsageError, match="weights_names with weights simclr; allowed: with a file"):
        runs.Teacher(weights="simclr", weights_names={"a.": ""})


def test_the_unlabelled_batch_size_is_named_where_it_is_set():
    assert "unlabelled_batch_size" not in runs.Student().name
    run = runs.Student(batch_size=16, unlabelled_batch_size=64)
    assert run.name.endswith("-kd-2-0+batch_size=16+unlabelled_batch_size=64")
    with pytest.raises(UsageError, match="unlabelled_batch_size 1; allowed: 2 or more"):
        runs.Student(unlabelled_batch_size=1)
