import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import results
from test_store import save

from kdlib import cli, store
from kdlib.plan import runs, stops, studies


def said(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("before", [None, "7"])
def test_a_study_hands_its_minutes_between_checkpoints_to_its_notebooks(
    tmp_path, monkeypatch, before
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    name, found = runs.CHECKPOINT_MINUTES, []
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    (tmp_path / "mine.yaml").write_text("{runs_only: true, checkpoint_minutes: 0.5}")
    planned = lambda _: found.append(runs.Student().minutes) or 0  # noqa: E731
    monkeypatch.setattr(cli, "run_snakemake", planned)
    assert cli.study(Path("mine.yaml"), "cpu") == 0
    assert found == [0.5]
    assert os.environ.get(name) == before


def test_what_nobody_reads_any_more_is_removed_after_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = studies.Study(name="mine", runs_only=True)
    names = [run.folder for run in planned.runs]
    now = time.time()
    files = {  # what is there: how old, in seconds
        planned.root / "students/.1.ipynb.77.part": 2 * cli.DAY,
        planned.root / "students/.2.ipynb.77.part": 60,
        names[0] / "checkpoint.safetensors": 500,
        names[1] / "checkpoint-first.safetensors": 10,
    }
    for file, age in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
        os.utime(file, (now - age,) * 2)
    (planned.root / "students/empty.ipynb").write_text("")
    (planned.root / "students/whole.ipynb").write_text("{}")

    def left():
        return sorted(f.name for f in planned.root.rglob("*") if f.is_file())

    young, checkpoints = ".2.ipynb.77.part", ["checkpoint-first.safetensors"]
    for folder in names[:-1]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")
        os.utime(folder / "run.json", (now - 100,) * 2)
    cli._tidy(planned)  # one network is not trained yet: it may go on from any of them
    assert left() == sorted(
        [
            young,
            *checkpoints,
            "checkpoint.safetensors",
            "whole.ipynb",
            *["run.json"] * len(names[1:]),
        ]
    )
    names[-1].mkdir(parents=True, exist_ok=True)
    (names[-1] / "run.json").write_text("{}")
    cli._tidy(planned)
    assert left() == sorted([young, *checkpoints, "whole.ipynb", *["run.json"] * len(names)])


def test_list_shows_a_line_per_run_and_marks_the_unreadable(tmp_path, capsys):
    save(tmp_path / "quick/digits/teachers/resnet20-full-0", accuracy=0.987)
    save(tmp_path / "mine/digits/students/resnet20-full-0/resnet8-kd-2-0", accuracy=0.5)
    broken = tmp_path / "quick/digits/students/x/y"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{")
    code, out, _ = said(capsys, "list", "--results", str(tmp_path))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["study", "data"]
    assert "0.987" in next(line for line in lines if "teachers/resnet20-full-0" in line)
    assert "unreadable" in next(line for line in lines if "students/x/y" in line)
    assert lines[-1].startswith("3 runs below")


def test_show_prints_everything_recorded(tmp_path, capsys):
    save(tmp_path / "run")
    store.save_table("measures", tmp_path, "run", [("stem", "knn", 0.123, "pooled")])
    code, out, _ = said(capsys, "show", str(tmp_path / "run"))
    assert code == 0
    assert '"test_accuracy": 0.5' in out
    assert "0.123" in out


@pytest.mark.parametrize(
    ("package", "arguments"), [("snakemake", ["study"]), ("psutil", ["publish", "x"])]
)
def test_a_command_of_the_book_without_its_packages_says_what_to_install(package, arguments):
    code = f"import sys; sys.modules[{package!r}] = None; from kdlib import cli; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(cli.main({arguments!r}))"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), stops.STUDY: "1@nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"kdlib: {package} is not installed; pip install -e .[book]\n"


def test_show_prints_nothing_of_a_run_that_is_damaged_and_no_escapes_of_its_tables(
    tmp_path, capsys
):
    save(tmp_path / "run")
    store.save_table("measures", tmp_path, "run", [("\x1b[31m", "k\u202en", 1.0, "pooled")])
    _, out, _ = said(capsys, "show", str(tmp_path / "run"))
    assert r"\x1b[31m" in out
    assert out.replace("\n", "").isprintable()
    (tmp_path / "run/history.parquet").write_bytes(b"")
    code, out, err = said(capsys, "show", str(tmp_path / "run"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["list", "--results", "nowhere"], "no folder nowhere"),
        (["show", "nowhere"], "no run.json in nowhere"),
        (["study", "nowhere.yaml"], "no study file nowhere.yaml"),
        (["publish", "nowhere.yaml"], "no study file nowhere.yaml"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(capsys, arguments, line):
    code, out, err = said(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(f"kdlib: {line}")
    assert err.count("\n") == 1


def test_a_study_of_a_combination_with_an_unknown_part_is_said(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("methods: [kd+at, kd+att]")
    code, _, err = said(capsys, "study", str(file))
    assert code == 2
    assert err.startswith(f"kdlib: {file}: ")
    assert "method 'att'; one of: kd, logitstd, dkd" in err


def test_an_empty_folder_of_results_is_said(tmp_path, capsys):
    code, _, err = said(capsys, "list", "--results", str(tmp_path))
    assert code == 2
    assert "no runs below" in err


@pytest.mark.parametrize("arguments", [[], ["lst"], ["study", "--devic", "gpu"]])
def test_a_typo_on_the_command_line_is_status_2_with_the_commands_there_are(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_check_says_on_one_screen_whether_the_installation_is_sound(capsys):
    code, out, _ = said(capsys, "check")
    lines = out.splitlines()
    assert code == 0, out
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    for name in ("torch", "torchvision", "ivis", "threads", "device"):
        assert any(line.startswith("ok ") and name in line for line in lines), out
    assert lines[-1] == "the installation is sound"


def test_published_test_results_can_be_read(tmp_path):
    made = results.make(tmp_path)
    assert len(store.load(tmp_path).runs) == len(made.runs)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_stopped_says_so_and_that_it_goes_on(tmp_path, stop):
    (tmp_path / "Snakefile").write_text("rule all:\n    shell: 'touch begun; sleep 3'\n")
    code = "from kdlib import cli; raise SystemExit(cli.run_snakemake(['--cores', '1']))"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        while not (tmp_path / "begun").exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(stop)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, message
    assert "the same command goes on" in message


def test_a_port_that_is_taken_is_one_line(tmp_path, capsys):
    (tmp_path / "index.html").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = said(capsys, "serve", "--port", port, "--folder", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"kdlib: port {port}: Address already in use; another one: make serve")


@pytest.mark.parametrize(
    ("given", "line"), [(["--port", "70000"], "port 70000; allowed: 1 to"), ([], "no index.html")]
)
def test_a_book_that_cannot_be_served_is_one_line(tmp_path, capsys, given, line):
    if given:
        (tmp_path / "index.html").write_text("")
    code, _, err = said(capsys, "serve", "--folder", str(tmp_path), *given)
    assert code == 2
    assert err.startswith(f"kdlib: {line}")


def test_files_of_the_future_count_as_of_now_in_their_order(tmp_path, capsys):
    later = time.time() + 86_400
    for i, name in enumerate(("run.json", "features", "measures")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (later + i, later + i))
    (tmp_path / "old").write_text("")
    os.utime(tmp_path / "old", (1e9, 1e9))
    cli.date_back(tmp_path)
    times = [(tmp_path / name).stat().st_mtime for name in ("run.json", "features", "measures")]
    assert times == sorted(set(times))
    assert times[-1] <= time.time()
    assert (tmp_path / "old").stat().st_mtime == 1e9
    assert capsys.readouterr().err.startswith("3 files of the future count as of now: ")
    cli.date_back(tmp_path)
    assert capsys.readouterr().err == ""


def test_names_of_runs_reach_the_terminal_in_one_line_each(tmp_path, capsys):
    save(tmp_path / "quick/digits/teachers/a\x1b[31m\n\u202eb")
    code, out, _ = said(capsys, "list", "--results", str(tmp_path))
    assert code == 0
    assert r"teachers/a\x1b[31m\n\u202eb" in out
    assert len(out.splitlines()) == 3
