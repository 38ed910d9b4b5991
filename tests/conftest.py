"""Every annotated shape and type of kdlib is checked while the tests run."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

modules = {file.stem for file in (Path(__file__).parents[1] / "kdlib").glob("*.py")}
modules -= {"__init__", "__main__", "runs"}  # runs checks what it is given itself, in words
install_import_hook([f"kdlib.{module}" for module in modules], "beartype.beartype")


@pytest.fixture(scope="session")
def chromium():
    """Chromium without a window."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: none on PATH, and CHROMIUM does not name one")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=found, args=[*options, *quiet])
        yield browser
        browser.close()


def cut_off(context):
    """A page of a browser that may load files only: what else it asks for is refused and noted.

    Returns the page, the addresses it asked for, and what it complained about.
    """
    asked, complaints = [], []

    def guard(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            return route.continue_()
        asked.append(route.request.url)
        return route.abort()

    context.route("**/*", guard)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    return page, asked, complaints
