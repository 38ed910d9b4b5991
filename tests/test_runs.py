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
    assert name.endswith("resnet8x0.5-kd-2-0+temperature=2+epochs=5+unlabelled=False")
    name = runs.Student(method="kd+at", options={"at": {"weight": 9.0}, "kd": {"weight": 1}}).name
    assert name.endswith("/resnet8x0.5-kd+at-2-0+at.weight=9.0+kd.weight=1")


def test_weights_kept_on_the_way_make_no_other_run():
    run = runs.Student(snapshots=[0, 5])
    assert (run.name, run.settings()) == (runs.Student().name, runs.Student().settings())
    side = runs.side_by_side([run, runs.Student(method="at")])
    assert [each.keep for each in side.each] == [[0, 5], []]
    for keep in ([21], [-1], [True], ["5"]):
        with pytest.raises(UsageError, match="; allowed: 0 to 20, the run's epochs"):
            runs.Student(snapshots=keep)


def test_a_film_draws_networks_that_it_follows():
    film = runs.Film(networks=["students/a", "students/b"], drawn=["students/b"])
    assert film.name.startswith("film-2-networks-")
    assert film.name.endswith("+drawn=1")
    assert runs.Film(layers=["stem"], options={"perplexity": 5}).name.endswith(
        "+layers=stem+perplexity=5"
    )
    with pytest.raises(UsageError, match="drawn: 'students/c' is not among the networks"):
        runs.Film(drawn=["students/c"])
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
        ({"seed": 1.5}, "parameter seed must be int, given 1.5; known: dataset"),
        ({"seed": True}, "parameter seed must be int, given True"),
        ({"labels_per_class": 0}, "labels_per_class 0; allowed: 1 or more, or 'all'"),
        ({"labels_per_class": "some"}, "labels_per_class 'some'; allowed"),
        ({"labels_per_class": 2.5}, "labels_per_class must be int or str, given 2.5"),
        ({"epochs": -1}, "epochs -1; allowed: 0 or more"),
        ({"batch_size": 1}, "batch_size 1; allowed: 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate 0.0; allowed: above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan; allowed: above 0"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001; allowed: 0 or more"),
        ({"pool": "yes"}, "parameter pool must be bool, given 'yes'"),
        ({"method": "../at"}, "allowed: a plain name"),
        ({"study": ""}, "study ''; allowed: a plain name"),
        ({"teacher": "../../somewhere"}, "names no run"),
        ({"teacher_regime": "some"}, "unknown teacher_regime 'some'; one of: full, limited"),
        (
            {"teacher": "teachers/resnet20-full-0", "teacher_regime": "limited"},
            "teacher_regime 'limited'; given teachers/resnet20-full-0",
        ),
        ({"students": []}, r"students \[\]; allowed: one or more"),
        ({"students": [{"seed": 3}]}, "unknown parameter 'seed'; known: network, width"),
        ({"students": [{}, {}]}, "allowed: one or more, each once"),
        ({"students": ["at"]}, "students: 'at'; allowed: what differs, {method: at}"),
        ({"size": 0}, "size 0; allowed: 1 or more"),
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


def test_a_teacher_is_found_by_its_network_and_regime_or_by_its_name():
    assert runs.Student().teacher == "teachers/resnet20-full-0"
    limited = runs.Student(teacher="resnet56", teacher_regime="limited", seed=3)
    assert limited.teacher == "teachers/resnet56-limited-2-3"
    assert (
        limited.teacher
        == runs.Teacher(network="resnet56", regime="limited", labels_per_class=2, seed=3).name
    )
    assert runs.Student(teacher=limited.teacher).teacher_regime == "limited"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels_per_class": 2}, "labels_per_class 2 of a full teacher; allowed: 'all'"),
        ({"regime": "limited"}, "labels_per_class 'all' of a limited teacher; allowed: 1 or more"),
        ({"regime": "pretrained"}, "weights None of a pretrained teacher; allowed: simclr"),
        ({"weights": "simclr"}, "weights 'simclr' of a full teacher"),
        ({"backbone_lr_factor": -1.0}, "backbone_lr_factor -1.0; allowed: 0 or more"),
    ],
)
def test_a_teacher_that_cannot_be_is_said_in_one_line(given, said):
    with pytest.raises(UsageError, match=said):
        runs.Teacher(**given)


def test_students_side_by_side_are_runs_of_their_own():
    run = runs.Student(students=[{}, {"method": "at", "options": {"weight": 9}}, {"width": 1.0}])
    assert [student.name.split("/")[-1] for student in run.each] == [
        "resnet8x0.5-kd-2-0",
        "resnet8x0.5-at-2-0+weight=9",
        "resnet8-kd-2-0",
    ]
    assert run.name == run.each[0].name
    assert all(student.each == [student] for student in run.each)


def test_images_of_a_folder_get_a_folder_of_its_name():
    run = runs.Student(dataset="folder:/some/where/my birds.tar.xz", size=32, grey=True)
    assert run.root.as_posix() == "runs/quick/my-birds+size=32+grey"
    assert runs.Maps(dataset="my-birds+size=32+grey").root == run.root


def test_layers_are_compared_with_the_own_teacher_or_a_run_that_is_named():
    assert runs.Measures().teacher == ""
    assert runs.Measures(teacher="teachers/a").teacher == "teachers/a"
    with pytest.raises(UsageError, match="teacher: 'a' names no run"):
        runs.Measures(teacher="a")
    with pytest.raises(UsageError, match="unknown network to be mapped 'teachers/a'; one of:"):
        runs.Measures(mapped=["teachers/a"])
