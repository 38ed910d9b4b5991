"""What is killed or stopped: nothing lives on, one line says so, no file is half written."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import nbformat
import papermill  # which loads the engine; not the other way round
import psutil
import pytest

from kdlib.plan import engine, stops

ROOT = Path(__file__).parents[1]
HERE = Path(sys.executable).parent
PAPERMILL = [str(HERE / "papermill"), "--engine", "kdlib", "--no-progress-bar"]
SLEEP = "from pathlib import Path\nimport time\nPath('begun').touch()\ntime.sleep(120)"
STUDY = """
import subprocess, sys
from kdlib.plan import stops
with stops.announced():
    subprocess.run(sys.argv[1:])
"""
SNAKEMAKE = "from kdlib import cli; raise SystemExit(cli.run_snakemake(['--cores', '1']))"
WORKERS = """
import time
import numpy as np
from kdlib.embed import workers
def slow(layer, start):
    open(f"begun{int(start[0, 0])}", "w").close()
    time.sleep(120)
    return layer
layers = [np.zeros((2, 2)), np.ones((2, 2))]
workers.parallel(slow, layers, layers, 2, print)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a notebook that sleeps."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(SLEEP)],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "sleep.ipynb")
    return tmp_path


@contextlib.contextmanager
def started(folder, *command, begun=("begun",)):
    """A process of its own session that works in the folder, once it has begun."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{HERE}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while not all((folder / name).exists() for name in begun) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    try:
        yield process
    finally:
        for left in working_in(folder):
            left.kill()
        process.wait()
        process.stdout.close()


def working_in(folder):
    """The processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                found.append(process)
    return found


def gone(folder, seconds=10):
    """Whether nobody works in the folder within this time."""
    deadline = time.monotonic() + seconds
    while (left := working_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not left


def kernel_in(folder):
    return next(p for p in working_in(folder) if "ipykernel_launcher" in p.cmdline())


def test_a_study_that_is_killed_alone_ends_its_notebooks_with_one_line(folder):
    command = [*PAPERMILL, "sleep.ipynb", "out.ipynb"]
    with started(folder, sys.executable, "-c", STUDY, *command) as process:
        process.kill()
        assert gone(folder)
        said, _ = process.communicate()
    assert said.splitlines()[-1] == f"out.ipynb was stopped: its study is gone; {stops.GOES_ON}"


def test_a_study_that_has_ended_is_not_announced_any_longer(monkeypatch):
    monkeypatch.delenv(stops.STUDY, raising=False)
    with stops.announced():
        assert os.environ[stops.STUDY].startswith(f"{os.getpid()}@")
    assert stops.STUDY not in os.environ


def test_the_kernel_of_a_papermill_that_is_killed_ends(folder):
    with started(folder, str(HERE / "papermill"), "sleep.ipynb", "out.ipynb") as process:
        process.kill()
        assert gone(folder)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_notebook_that_is_stopped_by_hand_is_one_line_and_a_whole_file(folder, signals):
    with started(folder, *PAPERMILL, "sleep.ipynb", "out.ipynb") as process:
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            time.sleep(0.3)
        assert gone(folder)
        said, _ = process.communicate()
    assert process.returncode == 128 + signals[0]
    assert said.splitlines().count("out.ipynb was stopped") == 1
    assert "Traceback" not in said
    assert json.loads((folder / "out.ipynb").read_text())["cells"]
    assert not list(folder.glob(".*.part"))


def test_a_kernel_that_was_killed_is_called_so(folder):
    with started(folder, *PAPERMILL, "sleep.ipynb", "out.ipynb") as process:
        kernel_in(folder).kill()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1] == f"Error: the kernel was killed by SIGKILL; {stops.GOES_ON}"


@pytest.mark.parametrize(
    ("status", "out_of_memory", "said"),
    [
        (-signal.SIGKILL, True, "killed by the system: out of memory"),
        (-signal.SIGSEGV, False, "killed by SIGSEGV"),
        (-signal.SIGSEGV, True, "killed by SIGSEGV"),
        (-40, False, "killed by signal 40; "),  # one of real time has no name
        (3, False, "ended by itself (exit status 3)"),
    ],
)
def test_the_end_of_a_kernel_is_called_what_it_is(status, out_of_memory, said):
    assert said in engine._ended(status, out_of_memory)


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]]
)
def test_a_study_does_not_wait_for_its_notebooks_when_it_is_stopped(folder, signals):
    rule = f"rule all:\n    shell: '{' '.join(PAPERMILL)} sleep.ipynb out.ipynb'\n"
    (folder / "Snakefile").write_text(rule)
    with started(folder, sys.executable, "-c", SNAKEMAKE) as process:
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            time.sleep(0.3)
        assert gone(folder)
        said, _ = process.communicate()
    assert process.returncode in (128 + signals[0], -signals[0])
    assert "Traceback" not in said
    assert f"stopped: out.ipynb; {stops.GOES_ON}" in said.splitlines()


def test_workers_that_make_maps_end_with_who_started_them(tmp_path):
    (tmp_path / "maps.py").write_text(WORKERS)
    begun = ("begun0", "begun1")
    with started(tmp_path, sys.executable, "maps.py", begun=begun) as process:
        process.kill()
        assert gone(tmp_path)


def test_a_notebook_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    engine._write_whole()
    handler = engine.papermill_io.get_handler("local")
    file = tmp_path / "out.ipynb"
    handler.write("before", str(file))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        handler.write("after", str(file))
    assert file.read_text() == "before"
    assert [f.name for f in tmp_path.iterdir()] == ["out.ipynb"]


def test_a_notebook_written_to_a_device_or_a_link_stays_there(tmp_path):
    engine._write_whole()
    handler = engine.papermill_io.get_handler("local")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "real.ipynb")
    handler.write("text", str(tmp_path / "link.ipynb"))
    assert (tmp_path / "link.ipynb").is_symlink()
    assert (tmp_path / "real.ipynb").read_text() == "text"
    handler.write("text", os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_notebook_whose_kernel_was_killed_in_its_training_goes_on_with_the_same_bits(tmp_path):
    command = [*PAPERMILL, str(ROOT / "notebooks/teacher.ipynb"), "out.ipynb", "-p", "epochs", "2"]
    command += ["-p", "network", "resnet8", "-p", "width", "0.25"]
    run = "quick/digits/teachers/resnet8x0.25-full-0+epochs=2"
    straight = ["-p", "results", "straight", "-p", "checkpoint_minutes", "0"]
    pulled = ["-p", "results", "pulled", "-p", "checkpoint_minutes", "0.0001"]
    begun = [f"pulled/{run}/checkpoint.safetensors"]
    with started(tmp_path, *command, *pulled, begun=begun) as process:
        kernel_in(tmp_path).kill()
        said, _ = process.communicate(timeout=60)
    assert "killed by SIGKILL" in said
    assert not (tmp_path / f"pulled/{run}/run.json").exists()
    for how in (pulled, straight):
        subprocess.run(
            [*command, *how],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        if how == pulled:
            assert "goes on from " in (tmp_path / "out.ipynb").read_text()
    for name in ("weights.safetensors", "history.parquet"):
        one, other = ((tmp_path / top / run / name).read_bytes() for top in ("pulled", "straight"))
        assert one == other
    assert not list((tmp_path / "pulled").rglob("checkpoint*"))


@pytest.mark.parametrize("taken", [1, engine.STARTS])
def test_a_kernel_whose_port_was_taken_starts_again(tmp_path, monkeypatch, capsys, taken):
    starts = []
    with socket.create_server(("127.0.0.1", 0)) as other:

        class Unlucky(engine.Kernel):
            def __init__(self, **options):
                super().__init__(**options)
                starts.append(self)
                if len(starts) <= taken:
                    self.cache_ports, self.shell_port = False, other.getsockname()[1]

        monkeypatch.setattr(engine, "Kernel", Unlucky)
        cells = [nbformat.v4.new_code_cell("print(6 * 7)")]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / "in.ipynb")

        def run():
            paths = str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")
            options = {"kernel_name": "python3", "progress_bar": False}
            return papermill.execute_notebook(*paths, engine_name="kdlib", **options)

        if taken < engine.STARTS:
            assert run().cells[-1].outputs[0].text == "42\n"
        else:
            with pytest.raises(click.ClickException, match=r"before its first cell, 3 times of 3"):
                run()
    assert len(starts) == min(taken + 1, engine.STARTS)
    again = "exit status 1) before its first cell; it is started again"
    assert capsys.readouterr().err.count(again) == len(starts) - 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_kernel_that_is_killed_at_its_start_is_not_started_again(tmp_path, monkeypatch):
    starts = []

    class Killed(engine.Kernel):
        async def _async_start_kernel(self, **options):
            starts.append(self)
            await super()._async_start_kernel(**options)
            os.kill(self.provisioner.pid, signal.SIGKILL)

        start_kernel = _async_start_kernel

    monkeypatch.setattr(engine, "Kernel", Killed)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "in.ipynb")
    paths = str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")
    options = {"kernel_name": "python3", "progress_bar": False, "engine_name": "kdlib"}
    with pytest.raises(click.ClickException, match=r"^the kernel was killed by SIGKILL; "):
        papermill.execute_notebook(*paths, **options)
    assert len(starts) == 1
