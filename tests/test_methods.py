"""The table of methods."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdlib import UsageError, data, distill, models, train
from kdlib.distill.method import LayerLoss, method, squared
from kdlib.plan import methods, runs

ROOT = Path(__file__).parents[1]


def test_the_table_read_from_the_sources_is_what_the_classes_declare():
    declared = {key: cls.facts for key, cls in distill.CLASSES.items()}
    assert declared == methods.METHODS | methods.PRETRAINING


def test_the_table_needs_no_torch():
    code = "import sys, kdlib.plan.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_families_come_in_order_and_each_has_methods():
    families = dict.fromkeys(facts.family for facts in methods.METHODS.values())
    assert list(families) == list(methods.FAMILIES)


def test_every_method_cites_a_reference_of_the_book():
    references = (ROOT / "book" / "references.bib").read_text()
    for facts in methods.METHODS.values():
        assert f"{{{facts.cite}," in references
        assert facts.title


def test_titles_are_told_apart():
    titles = [facts.title for facts in methods.METHODS.values()]
    assert len(set(titles)) == len(titles)


def test_controls_use_no_knowledge_of_a_trained_teacher():
    controls = {key for key, facts in methods.METHODS.items() if facts.control}
    assert controls == {"smooth", "pseudo", "shuffled", "random"}


def test_a_combination_is_parsed_in_its_order():
    assert [facts.key for facts in methods.parse("kd+at")] == ["kd", "at"]
    assert [facts.key for facts in methods.parse("baseline")] == [methods.BASELINE]


@pytest.mark.parametrize("name", ["kdd", "kd+kd", "", "kd+", "kd+self", "at+random", "simclr"])
def test_unknown_and_impossible_names_are_refused(name):
    with pytest.raises(UsageError):
        methods.parse(name)


def test_a_combination_needs_a_teacher_where_one_of_its_methods_does():
    needing = [
        name for name in ("baseline", "smooth", "dml", "simclr") if methods.needs_teacher(name)
    ]
    assert not needing
    assert methods.needs_teacher("kd")
    assert methods.needs_teacher("baseline+at")


def test_the_old_name_of_the_baseline_is_refused_with_the_new_one():
    with pytest.raises(UsageError, match=methods.BASELINE):
        methods.parse("alone")


def test_a_method_of_ones_own_is_trained_and_combined_and_takes_no_other_ones_key(monkeypatch):
    for table in (methods.METHODS, distill.CLASSES):
        monkeypatch.setitem(table, "pooled", None)  # so that it is taken out again
        del table["pooled"]

    @method("pooled", title="pooled features", cite="romero2015fitnets")
    class Pooled(LayerLoss):
        """Match the pooled features."""

        layers = ("stem",)

        def __init__(self, student, teacher, *, weight: float = 1.0):
            super().__init__(student, teacher, weight)

        def distance(self, layer, student, teacher):
            return squared(student.mean(1), teacher.mean(1))

    digits = data.load("digits")
    student, teacher = (models.build("resnet8", classes=10, channels=1, seed=i) for i in (0, 1))
    run = runs.Student(method="kd+pooled", options={"pooled": {"weight": 2.0}}, epochs=1)
    batches = data.Batches(digits, data.budget(digits.train_labels, 1, 0), 64, 0, unlabelled=False)
    history = train.fit(student, batches, run, teacher=teacher).history
    assert list(history[0])[4:] == ["labels", "kd", "pooled"]
    for key in ("kd", "simclr"):
        with pytest.raises(UsageError, match=key):
            method(key, title="mine", cite="romero2015fitnets")(Pooled)
    with pytest.raises(UsageError):
        runs.Student(method="simclr")
