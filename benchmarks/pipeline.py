"""What does the pipeline add to the work itself, and what does nothing cost?

    python benchmarks/pipeline.py

Reads what the default study left in runs/: it has to be there, run from nothing by `make book`,
and the book built. Then runs `make book` again, which has nothing to do, and starts a notebook.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pairs import Row, cores, device, keep, pairs, ratios, seconds

from kdlib import store
from kdlib.plan import studies

STUDY = Path("studies/quick.yaml")
BOOK = ["make", "book"]
PIPELINE = [sys.executable, "-m", "snakemake", "--config", f"study={STUDY}", "device=auto"]
IMPORT = [sys.executable, "-c", "import kdlib.train"]
MAPPING = (  # calls that make maps
    *("embed.embed(", "embed.family(", "embed.restarts("),
    *("compare.procedures(", "compare.sweep(", "compare.shuffled_labels(", "film.film("),
)
PAUSE = 60  # seconds without a notebook: the study was stopped and went on later


def run(command: list[str]) -> None:
    """One command, silently; it has to succeed."""
    subprocess.run(command, check=True, capture_output=True)


def executed(root: Path) -> Iterator[dict[str, Any]]:
    """The notebooks that a study left."""
    for file in root.rglob("*.ipynb"):
        notebook = json.loads(file.read_text())
        if notebook["metadata"].get("papermill", {}).get("duration"):
            yield notebook


def wall(notebooks: list[dict[str, Any]]) -> float:
    """Seconds from the first notebook's start to the last one's end, without pauses."""
    times = sorted(
        tuple(datetime.fromisoformat(record[k]).timestamp() for k in ("start_time", "end_time"))
        for record in (n["metadata"]["papermill"] for n in notebooks)
    )
    total, until = 0.0, times[0][0]
    for start, end in times:
        gap = max(0.0, start - until)
        total += (gap if gap < PAUSE else 0) + max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def mapping(notebooks: list[dict[str, Any]]) -> float:
    """Seconds of the cells that make maps."""
    return sum(
        cell["metadata"]["papermill"]["duration"]
        for notebook in notebooks
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and any(call in "".join(cell["source"]) for call in MAPPING)
    )


def overhead(study: studies.Study) -> None:
    """How much longer a study takes than its training and its maps."""
    root = study.teachers[0].root
    notebooks = list(executed(root))
    names = [run.name for run in (*study.teachers, *study.students)]
    training = sum(store.load_run(root / name)["seconds"] for name in names)
    embedding, took = mapping(notebooks), wall(notebooks)
    row = Row(
        "study",
        f"the default study by the pipeline, {cores()} cores",
        "the sum of its seconds of training and of embedding",
        1.35,
        at_most=True,
        scaled=f"read from its {len(notebooks)} executed notebooks; beside training spread over "
        f"the cores, and embedding, it is {took / (training / cores() + embedding):.2f}",
    )
    baseline = training + embedding
    inside = sum(n["metadata"]["papermill"]["duration"] for n in notebooks)
    why = (
        f"of {took:.0f} s, {baseline:.0f} are this work; the notebooks hold {inside:.0f} s in all: "
        "imports, features, measures and faithfulness; kernels start between them"
    )
    keep(row, [took / baseline], why=why)


def opening(to: Path) -> list[str]:
    """A notebook that only imports, as every run of one begins; the command that runs it."""
    notebook = json.loads(Path("notebooks/student.ipynb").read_text())
    cells = notebook["cells"]
    first = next(i for i, c in enumerate(cells) if "from kdlib" in "".join(c["source"]))
    notebook["cells"] = cells[: first + 1]
    (to / "opening.ipynb").write_text(json.dumps(notebook))
    program = str(Path(sys.executable).parent / "papermill")
    return [program, "--no-progress-bar", str(to / "opening.ipynb"), str(to / "out.ipynb")]


def idle(command: list[str]) -> list[float]:
    """Seconds of a command that has nothing to do, five times; before it, what it still had to."""
    run(command)
    return [seconds(lambda: run(command)) for _ in range(5)]


def main() -> None:
    """Measure the four rows, then keep them: what is kept is new to the book."""
    device(__doc__)
    study = studies.read(STUDY)
    if not (study.teachers[0].folder / "run.json").is_file():
        sys.exit("no finished study in runs/; first: make book")
    book, pipeline = idle(BOOK), idle(PIPELINE)
    with TemporaryDirectory() as folder:
        start = opening(Path(folder))
        begun = pairs(lambda: run(IMPORT), lambda: run(start))
    overhead(study)
    why = "imports of torch and Snakemake's own start take most"
    for name, work, took, limit in (
        ("nothing", "make book, when nothing has changed", book, 10.0),
        ("pipeline", "the pipeline by itself when nothing has changed", pipeline, 5.0),
    ):
        keep(Row(name, work, "", limit, at_most=True, unit="s"), took, why=why)
    row = Row(
        "start",
        "start of one notebook run, up to its imports",
        'python -c "import kdlib.train"',
        2.5,
        at_most=True,
    )
    why = "papermill's and the kernel's own imports and the kernel's shutdown take the rest"
    keep(row, ratios(row, begun), why=why)


if __name__ == "__main__":
    main()
