"""The code of chapters: executed ahead, once for as long as what it reads stays, each by itself."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from sphinx.application import Sphinx
from sphinx.config import Config

from kdlib.report import execution

ROOT = Path(__file__).parents[1]
CHAPTER = """---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{name: python3, display_name: Python 3}}
---
# {title}

{text}

```{{code-cell}} ipython3
from pathlib import Path
with Path("../ran.txt").open("a") as file:
    file.write("{title}\\n")
print(Path("results/quick/numbers.txt").read_text() * 2)
{code}
```
"""


def notebook(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def said(executed):
    return "".join(output.text for cell in executed.cells for output in cell.outputs)


def test_notebooks_share_a_kernel_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    asked = {
        tmp_path / "a/first.md": notebook("import os; mine = 1", "print(os.getpid())"),
        tmp_path / "wrong.md": notebook("mine"),
        tmp_path / "last.md": notebook("import os", "print('mine' in dir(), os.getcwd())"),
        tmp_path / "a/again.md": notebook("import os", "print(os.getpid())"),
    }
    kept = {}
    run = execution._execute(asked, kept.__setitem__, timeout=60, kernels=1)
    with ThreadPoolExecutor(1) as other:  # this thread's loop may be another test's browser's
        other.submit(asyncio.run, run).result()
    assert [path.name for path in kept] == ["first.md", "last.md", "again.md"]
    assert said(kept[tmp_path / "last.md"]) == f"False {tmp_path}\n"
    counts = [[cell.execution_count for cell in executed.cells] for executed in kept.values()]
    assert counts == [[1, 2]] * 3
    assert said(kept[tmp_path / "a/again.md"]) != said(kept[tmp_path / "a/first.md"]), (
        "after a mistake the kernel is a new one"
    )


def test_headings_of_pages_and_notebooks_are_on_other_pages(tmp_path):
    (tmp_path / "a.md").write_text("(here)=\n# One\n\nText.\n", "utf-8")
    cells = [nbformat.v4.new_markdown_cell("# Two\n\nText."), nbformat.v4.new_code_cell("# three")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "b.ipynb")
    assert list(execution.headings(tmp_path)) == [b"a\n(here)=\n# One", b"b\n# Two\n# three"]


@pytest.fixture
def book(tmp_path):
    """A book of two chapters that print a result, and the means to build it."""
    excluded = "exclude_patterns = ['out', 'trees', 'jupyter_execute']\n"
    (tmp_path / "conf.py").write_text(excluded, "utf-8")
    (tmp_path / "index.md").write_text("# Book\n\n```{toctree}\nbook/one\nbook/two\n```\n", "utf-8")
    results = tmp_path / "book/results/quick"
    results.mkdir(parents=True)
    (results / "numbers.txt").write_text("17")
    write(tmp_path, "one")
    write(tmp_path, "two")
    return tmp_path


def write(book, title, text="Text.", code=""):
    page = CHAPTER.format(title=title, text=text, code=code)
    (book / f"book/{title}.md").write_text(page, "utf-8")


def build(book):
    """Build the book; return the chapters that ran, what Sphinx said, and the page of the first."""
    (book / "ran.txt").write_text("")
    extensions = "extensions=myst_nb,kdlib.report.execution"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going"),
            *("-D", extensions, "-d", book / "trees/doctrees", book, book / "out"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    page = book / "out/book/one.html"
    ran = sorted((book / "ran.txt").read_text().split())
    return ran, process, page.read_text("utf-8") if page.is_file() else ""


def test_a_chapter_runs_again_when_its_code_or_a_result_changed_and_not_for_its_text(book):
    ran, process, page = build(book)
    assert process.returncode == 0, process.stderr
    assert ran == ["one", "two"]
    assert "1717" in page

    write(book, "one", text="Another sentence.")
    ran, process, page = build(book)
    assert not ran
    assert "Another sentence." in page
    assert "1717" in page
    assert "reading sources... [100%] book/one" in process.stdout

    write(book, "one", code="print('more')")
    ran, process, page = build(book)
    assert ran == ["one"]
    assert "more" in page

    (book / "book/results/quick/numbers.txt").write_text("23")
    ran, process, page = build(book)
    assert ran == ["one", "two"]
    assert "2323" in page


def test_what_is_read_and_what_is_installed_decide_whether_outputs_are_kept(tmp_path, monkeypatch):
    app = object.__new__(Sphinx)
    app.srcdir, app.doctreedir = tmp_path, tmp_path / "trees/doctrees"
    (tmp_path / "kdlib").mkdir()
    (tmp_path / "book").mkdir()
    there = tmp_path / "trees/executed/kept"

    def keeps():
        config = Config()
        execution.keep_cache(app, config)
        kept = there.exists()
        there.touch()
        return kept, config.kdlib_pages

    assert not keeps()[0]
    kept, pages = keeps()
    assert kept
    (tmp_path / "book/one.md").write_text("# Another title", "utf-8")
    kept, others = keeps()
    assert kept
    assert others != pages
    (tmp_path / "kdlib/new.py").touch()
    assert not keeps()[0]
    monkeypatch.setenv("KDLIB_STUDY", "another")
    assert not keeps()[0]
    monkeypatch.setattr(execution, "packages", lambda: ["altair 99"])
    assert not keeps()[0]
    assert keeps()[0]


def test_a_chapter_that_fails_is_said_and_never_kept(book):
    write(book, "two", code="1 / 0")
    for _ in range(2):
        ran, process, _ = build(book)
        assert process.returncode == 1
        assert "CellExecutionError" in process.stderr
        (book / "trees/doctrees/environment.pickle").unlink()  # as kdlib.report.editions does
    assert set(ran) == {"two"}
    write(book, "two")
    ran, process, _ = build(book)
    assert process.returncode == 0
    assert ran == ["two"]
