"""What is printed while a study runs."""

import json
import logging
import os

import pytest
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from kdlib.plan import stops
from snakemake_logger_plugin_kdlib import Failure, LogHandler, duration, failure, time_left


@pytest.fixture
def send(capsys):
    """Hand an event of Snakemake on; returns the lines that are printed."""
    handler = LogHandler(OutputSettings(dryrun=False, printshellcmds=False), None)

    def send(event, **fields):
        fields = {"levelno": logging.INFO} | fields
        record = logging.makeLogRecord({"event": event, **fields})
        handler.emit(record)
        return capsys.readouterr().err.splitlines()

    send.handler = handler
    yield send
    handler.close()


def begin(send, number, rule, name, log=("a.ipynb",)):
    send(LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards={"run": name}, log=list(log))


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


def failed_job(tmp_path, name, value, log):
    """The record of a job that failed on a cluster: its executed notebook, and Slurm's log."""
    error = {"output_type": "error", "ename": name, "evalue": value, "traceback": []}
    notebook, slurm = tmp_path / "a.ipynb", tmp_path / "7.log"
    notebook.write_text(json.dumps({"cells": [{"outputs": [error]}]}))
    slurm.write_text(log)
    return [str(notebook), str(slurm)]


def test_a_failure_on_a_cluster_says_why_what_the_scheduler_says_and_both_logs(send, tmp_path):
    files = failed_job(
        tmp_path, "UsageError", "the loss is not finite", "Error: the loss is not finite"
    )
    send(LogEvent.RUN_INFO, stats={"teacher": 1})
    begin(send, 1, "teacher", "t", log=files[:1])
    message = (
        "SLURM-job '7' failed, SLURM status is: 'FAILED'. Detailed failure reason unavailable "
    )
    message += "(status command is not 'sacct').For further error details see the cluster/cloud log"
    first, second, third = send(LogEvent.JOB_ERROR, jobid=1, rule_msg=message, log=files)
    assert first.endswith(": the loss is not finite")
    assert second == "  Slurm's job '7' failed, SLURM status is: 'FAILED'."
    assert third == f"  the executed notebook: {files[0]}; Slurm's log: {files[1]}"


def test_what_slurm_refuses_is_said_in_its_words(send):
    send(LogEvent.RUN_INFO, stats={"teacher": 1})
    begin(send, 1, "teacher", "t")
    message = (
        "SLURM sbatch failed. The error message was 'sbatch: error: no'.\n    sbatch call:\n  x"
    )
    _, said, _ = send(LogEvent.JOB_ERROR, jobid=1, rule_msg=message, log=["a.ipynb"])
    assert said == "  SLURM sbatch failed. The error message was 'sbatch: error: no'."


@pytest.mark.parametrize(
    ("name", "value", "log", "why", "mistake"),
    [
        ("UsageError", "kd: no", "Error: kd: no\n", "kd: no", True),
        (
            "ValueError",
            "bad\nmore",
            "ValueError: bad\nError: ValueError in",
            "ValueError: bad",
            False,
        ),
        (
            "UsageError",
            "of an earlier try",
            "slurmstepd: error: *** CANCELLED DUE TO TIME LIMIT\n",
            "",
            0,
        ),
        ("UsageError", "old", "Error: the kernel died\n", "Error: the kernel died", False),
        ("UsageError", "old", "nothing known", "", False),
    ],
)
def test_why_a_job_failed_is_read_from_its_files(name, value, log, why, mistake, tmp_path):
    found = failure(failed_job(tmp_path, name, value, log))
    assert found.mistake == mistake
    assert found.why == (why or (log.strip() if "slurmstepd" in log else ""))


def test_without_a_schedulers_log_a_notebook_counts_that_this_study_has_run(tmp_path):
    notebook, _ = failed_job(tmp_path, "UsageError", "kd: no", "")
    assert failure([notebook]) == Failure("kd: no", mistake=True)
    os.utime(notebook, (1, 1))  # of an earlier study: this one's never began
    assert failure([notebook]) == failure([]) == failure(["nowhere"]) == Failure()
    notebook, _ = failed_job(tmp_path, "ValueError", "bad", "")
    assert failure([notebook]) == Failure("ValueError: bad", mistake=False)


def test_a_job_that_worked_when_tried_again_has_not_failed(send):
    send(LogEvent.RUN_INFO, stats={"teacher": 1, "publish": 1})
    begin(send, 1, "teacher", "t")
    assert send(LogEvent.JOB_ERROR, jobid=1)
    assert send(None, msg="Trying to restart job 1.") == ["  it is tried again"]
    begin(send, 1, "teacher", "t")
    send(LogEvent.JOB_FINISHED, job_id=1)
    begin(send, 2, "publish", "p")
    assert send(LogEvent.JOB_FINISHED, job_id=2)[-1].startswith("done in ")


def test_waiting_is_told_from_running(send, tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho '7|PENDING|Resources'\necho '8|RUNNING|None'\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    send(LogEvent.RUN_INFO, stats={"teacher": 2})
    for job, number in ((1, 7), (2, 8)):
        begin(send, job, "teacher", f"t{job}")
        message = f"Job {job} has been submitted with SLURM jobid {number} (log: x)."
        assert send(None, msg=message) == []
    handler = send.handler
    assert [job.waits for job in handler.running.values()] == ["submitted", "submitted"]
    handler._ask_slurm()
    assert [str(job) for job in handler.running.values()] == [
        "teacher t1 waits (Resources) 0 s",
        "teacher t2 0 s",
    ]


def test_warnings_about_nobodys_mistake_are_not_shown(send):
    warning = {"levelno": logging.WARNING}
    assert send(None, msg="No SLURM account given, trying to guess.", **warning) == []
    unknown = "Both 'sacctmgr' and 'sshare' returned empty results for account 'us'."
    assert send(None, msg=f"{unknown} Proceeding without account validation.", **warning) == []
    assert send(None, msg="The given account us appears to be invalid.", **warning)


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
