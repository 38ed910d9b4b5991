"""Every annotated shape and type of kdlib is checked while the tests run; and the small book."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from filelock import FileLock
from jaxtyping import install_import_hook

install_import_hook("kdlib", "shapes.check")  # before anything imports kdlib

LONGEST = [
    f"test_{name}" for name in ("notebooks", "slurm", "pipeline", "chapters", "sphinx", "budgets")
]
LONGEST += ["test_explorer_browser", "test_explorer_firefox"]
LONGEST += ["test_chaos", "test_stops", "test_states"]


def pytest_collection_modifyitems(items):
    """Side by side, the files that take longest begin first."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def made_once(tmp_path_factory, name, make):
    """A folder that `make(folder)` fills: in the first worker that asks, for all of them."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half made by a worker that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def digits():
    """The digits as one data set."""
    from kdlib import data

    return data.load("digits")


@pytest.fixture(scope="session")
def mixed(digits):
    """The digits, 300 of them without a label."""
    return digits._replace(
        train=digits.train[300:],
        train_labels=digits.train_labels[300:],
        unlabelled=digits.train[:300],
    )


@pytest.fixture(scope="session")
def chromium():
    """Chromium without a window."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if name and (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: none on PATH, and CHROMIUM does not name one")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=program, args=[*options, *quiet])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def firefox():
    """Firefox without a window."""
    program = next(
        (path for name in ("firefox-esr", "firefox") if (path := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no Firefox on PATH")
    from firefox import Firefox

    browser = Firefox(program)
    yield browser
    browser.close()


def cut_off(context, home="file:"):
    """A page of a browser that may load from `home` only: all else is refused and noted.

    Returns the page, the addresses that were refused, and its errors.
    """
    refused, errors = [], []

    def guard(route):
        if route.request.url.startswith((home, "data:", "blob:")):
            return route.continue_()
        refused.append(route.request.url)
        return route.abort()

    context.route("**/*", guard)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    return page, refused, errors


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    """A page that shows the explorer of a module's `results`, and nothing else."""
    from figure import write

    from kdlib.report import explorer

    return write(tmp_path_factory.mktemp("page"), explorer.show(results))


@pytest.fixture(scope="module")
def read(address, chromium):
    """A function that opens this page."""
    from figure import opening

    with opening(chromium, address) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def opened(read):
    """This page, opened once."""
    return read()


@pytest.fixture
def reader(opened):
    """The figure as it opens; at the end there must be no error and no request."""
    opened.page.mouse.move(0, 0)
    opened.button("Reset").dispatch_event("click")
    opened.page.evaluate("scrollTo({ top: 0, behavior: 'instant' }); document.activeElement.blur()")
    opened.settle()
    yield opened
    assert opened.refused == []
    assert opened.errors == []


AT = "students/resnet20-full/resnet8x0.5-at-2-0"
PUBLISHED = {  # as if the source of the book were on GitHub
    "repository": {"url": "https://github.com/somebody/something", "branch": "main"},
    "launch_buttons": {
        "notebook_interface": "jupyterlab",
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    },
}
CONTENTS = """
    format: jb-book
    root: explorer
    chapters:
    - file: second
    - file: book/reference
      sections:
      - glob: book/reference/*
"""
CHAPTER = f"""
    ---
    jupytext:
      text_representation: {{extension: .md, format_name: myst}}
    kernelspec: {{name: python3, display_name: Python 3}}
    ---
    # A figure to touch

    Look at <a class="kd-set" data-set="layer=block3&embedding=ivis&right={AT}">block 3</a>.

    ```{{code-cell}} python
    from kdlib import store
    from kdlib.report import charts, explorer
    charts.enable()
    results = store.load("results")
    explorer.show(results)
    ```

    ## A formula and a chart

    $$ L = T^2 \\sum_i p_i \\log (p_i / q_i) $$

    ```{{code-cell}} python
    charts.accuracy(results)
    ```

    ```{{code-cell}} python
    import ipywidgets
    ipywidgets.IntSlider()
    ```
"""
SECOND = """
    ---
    jupytext:
      text_representation: {extension: .md, format_name: myst}
    kernelspec: {name: python3, display_name: Python 3}
    ---
    # A second page

    ## The same figure

    ```{code-cell} python
    from kdlib import store
    from kdlib.report import explorer
    explorer.show(store.load("results"), layer="pool")
    ```
"""


def build(folder):
    """Build the small book in a folder."""
    import results as invented  # not earlier: what it imports of kdlib has to be checked, too

    root = Path(__file__).parents[1]
    invented.make(folder / "results", n=120)
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    (folder / "_config.yml").write_text(yaml.safe_dump(config | PUBLISHED))
    for name, text in {"_toc.yml": CONTENTS, "explorer.md": CHAPTER, "second.md": SECOND}.items():
        (folder / name).write_text(dedent(text).lstrip())
    shutil.copytree(root / "book/reference", folder / "book/reference")
    for name in ("reference.md", "references.bib"):
        shutil.copy(root / "book" / name, folder / "book")
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "-W", "--keep-going"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The built pages of a small book."""
    return made_once(tmp_path_factory, "book", build) / "_build" / "html"
