"""What README says can be done as it says."""

import re
import shlex
from pathlib import Path

import yaml

from kdlib import train
from kdlib.plan import runs

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_first_call_from_python_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["points"].shape == (500, 2)
    score = train.evaluate(names["student"], names["digits"])
    assert capsys.readouterr().out == f"{score.accuracy}\n"


def test_the_commands_train_runs_and_each_student_names_a_teacher_of_theirs():
    teachers, students = [runs.Teacher()], []
    for line in re.findall(r"papermill --engine kdlib notebooks/(.*)", README):
        notebook, _, *words = shlex.split(line, comments=True)
        given = {}
        while words:
            match words:
                case ["-p", name, value, *words]:
                    given[name] = yaml.safe_load(value)
                case ["-y", text, *words]:
                    given |= yaml.safe_load(text)
                case _:
                    raise AssertionError(line)
        if notebook == "teacher.ipynb":
            teachers.append(runs.Teacher(**given))
        else:
            students.append(runs.Student(**given))
    assert len(students) == 5
    ready = {(run.study, run.dataset, run.size, run.name) for run in teachers}
    assert {(run.study, run.dataset, run.size, run.teacher_run) for run in students} == ready
