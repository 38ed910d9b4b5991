"""What is printed while a study runs."""

import logging

import pytest
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from kdlib.plan import stops
from snakemake_logger_plugin_kdlib import LogHandler, duration, time_left


@pytest.fixture
def send(capsys):
    """Hand an event of Snakemake on; returns the lines that are printed."""
    handler = LogHandler(OutputSettings(dryrun=False, printshellcmds=False), None)

    def send(event, **fields):
        record = logging.makeLogRecord({"event": event, "levelno": logging.INFO, **fields})
        handler.emit(record)
        return capsys.readouterr().err.splitlines()

    yield send
    handler.close()


def begin(send, number, rule, name):
    send(LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards={"run": name}, log=["a.ipynb"])


def test_every_finished_notebook_is_a_line_and_the_last_one_ends_the_study(send):
    stats = {"teacher": 1, "measure_2-0": 1, "measure_2-1": 1, "total": 3}
    assert send(LogEvent.RUN_INFO, stats=stats) == ["3 to run: 1 teacher, 2 measure"]
    begin(send, 1, "teacher", "teachers/resnet8-full-0")
    (line,) = send(LogEvent.JOB_FINISHED, job_id=1)
    assert line.startswith("[1/3] teacher resnet8-full-0")
    assert "left" not in line  # no measure has finished, so its seconds are unknown
    begin(send, 2, "measure_2-0", "2-0")
    begin(send, 3, "measure_2-1", "2-1")
    (line,) = send(LogEvent.JOB_FINISHED, job_id=2)
    assert line.startswith("[2/3] ")
    assert line.endswith(" left")
    line, end = send(LogEvent.JOB_FINISHED, job_id=3)
    assert line.startswith("[3/3] ")
    assert end.startswith("done in ")


@pytest.mark.parametrize(("content", "named"), [("{}", True), ("", False)])
def test_a_failure_names_the_executed_notebook_where_there_is_one(
    send, content, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ipynb").write_text(content)
    send(LogEvent.RUN_INFO, stats={"teacher": 1})
    begin(send, 1, "teacher", "t")
    (line,) = send(LogEvent.JOB_ERROR, jobid=1)
    assert line.startswith("FAILED teacher t after ")
    assert line.endswith("; the executed notebook: a.ipynb") == named


def test_what_fails_because_the_study_was_stopped_is_no_failure(send, monkeypatch):
    send(LogEvent.RUN_INFO, stats={"teacher": 1})
    begin(send, 1, "teacher", "t")
    monkeypatch.setattr(stops, "stopping", lambda: True)
    assert send(LogEvent.JOB_ERROR, jobid=1) == []


def test_time_left_is_the_mean_of_each_kind_times_its_jobs():
    assert time_left({"student": 4}, {"student": [10, 20]}) == "60 s left"
    assert time_left({"student": 4}, {"student": [10, 20]}, [("student", 10)]) == "50 s left"
    assert (
        time_left({"student": 1, "publish": 1}, {"student": [600]}) == "10 min left, then publish"
    )
    assert time_left({"maps": 2, "student": 0}, {"student": [600]}) == ""
    assert time_left({"student": 0}, {"student": [600]}) == ""


def test_no_time_is_given_that_was_not_measured():
    assert time_left({"student": 1, "maps": 2}, {"student": [600]}) == ""
    late = [("student", 601)]  # longer than any before: nobody knows how much longer
    assert time_left({"student": 2, "publish": 1}, {"student": [600]}, late) == ""


def test_time_left_counts_down_while_a_job_runs():
    words = [time_left({"maps": 2}, {"maps": [60]}, [("maps", n)]) for n in (0, 15, 30, 60)]
    assert words == ["2 min left", "2 min left", "2 min left", "60 s left"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "5 s"), (47, "45 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_a_duration_is_rounded_to_what_is_read(seconds, words):
    assert duration(seconds) == words
