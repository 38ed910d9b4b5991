import pytest

from kdlib import UsageError, runs


def test_a_run_lies_in_a_folder_made_of_its_parameters():
    run = runs.Student(method="at", labels_per_class=5, seed=3)
    wanted = "runs/quick/digits/students/resnet20-full-0/resnet8x0.5-at-5-3"
    assert run.folder.as_posix() == wanted
    assert runs.Teacher().name == "teachers/resnet20-full-0"
    assert runs.Teacher(width=2.0).name == "teachers/resnet20x2-full-0"


def test_settings_that_differ_get_a_folder_of_their_own():
    name = runs.Student(epochs=5, options={"temperature": 2}, pool=False).name
    assert name.endswith("resnet8x0.5-kd-2-0+temperature=2+epochs=5+pool=False")
    name = runs.Student(method="kd+at", options={"at": {"weight": 9.0}, "kd": {"weight": 1}}).name
    assert name.endswith("/resnet8x0.5-kd+at-2-0+at.weight=9.0+kd.weight=1")


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
        ({"epochs": 0}, "epochs 0; allowed: 1 or more"),
        ({"batch_size": 1}, "batch_size 1; allowed: 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate 0.0; allowed: above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan; allowed: above 0"),
        ({"weight_decay": -1e-4}, "weight_decay -0.0001; allowed: 0 or more"),
        ({"pool": "yes"}, "parameter pool must be bool, given 'yes'"),
        ({"method": "../at"}, "allowed: a plain name"),
        ({"study": ""}, "study ''; allowed: a plain name"),
        ({"teacher": "../../somewhere"}, "names no run"),
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
