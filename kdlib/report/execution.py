"""Sphinx extension: the code of chapters runs ahead of the reading, on all cores, and once.

Loaded in `_config.yml`, where myst-nb is told to take outputs from a cache. That cache knows a
chapter by its code alone; here it is kept for as long as what chapters read stays, too: results
and kdlib. What is not in it is executed before Sphinx reads the pages, in a few kernels that take
one chapter after another, since to start one and to import all that a chapter needs takes longer
than most chapters do. A chapter that fails is left to myst-nb, which executes it again and says
why. A page is read again when its text changed, and all are when what they show may have.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel
from myst_nb.core.read import create_nb_reader
from nbclient import NotebookClient
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

READ = ("kdlib", "book/results", "notebooks", "studies")  # what the code of chapters reads
EVERYWHERE = ("_config.yml", "_toc.yml", "book/notation.md", "book/references.bib")  # on all pages
HEADING = re.compile(r"^(?:#+ .*|\([\w-]+\)=)$", re.M)  # and the labels that lead to them
QUIET = ["--IPKernelApp.log_level=50"]  # a kernel reports nothing about itself
MOST = 4  # kernels at once, each with torch
ANEW = """\
import os, ipywidgets
ipywidgets.Widget.close_all()
os.chdir({folder!r})
get_ipython().reset(new_session=True)
"""  # names are gone then; what modules keep stays
log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything; Sphinx calls this when it loads the extension."""
    app.add_config_value("kdlib_pages", "", "env")  # when it changes, every page is read again
    app.connect("config-inited", keep_cache)
    app.connect("env-before-read-docs", ahead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def digest(texts: Iterable[bytes]) -> str:
    """Return the SHA-256 of texts, in hexadecimal digits."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text).digest())
    return whole.hexdigest()


def files(root: Path, places: Iterable[str]) -> Iterator[bytes]:
    """Yield the names and contents of files, and of all in folders."""
    for place in places:
        whole = root / place
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(root).as_posix().encode()
                yield file.read_bytes()


def packages() -> list[str]:
    """List what is installed, each with its version."""
    return sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())


def headings(book: Path) -> Iterator[bytes]:
    """Yield what other pages show of each page: its headings, with their labels."""
    for page in sorted([*book.glob("*.md"), *book.glob("*.ipynb")]):
        text = page.read_text("utf-8")
        if page.suffix == ".ipynb":
            text = "\n".join(cell.source for cell in nbformat.reads(text, 4).cells)
        yield "\n".join([page.stem, *HEADING.findall(text)]).encode()


def keep_cache(app: Sphinx, config: Config) -> None:
    """Keep the executed chapters of the last build, unless what they read has changed."""
    root = Path(app.srcdir)
    edition = [f"{name}={os.environ.get(name)}" for name in ("KDLIB_STUDY", "KDLIB_COMPUTED")]
    read = digest([*map(str.encode, [sys.version, *edition, *packages()]), *files(root, READ)])
    cache = Path(app.doctreedir).parent / "executed"
    mark = cache / "read"
    if not mark.is_file() or mark.read_text("utf-8") != read:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        mark.write_text(read, "utf-8")
    config.nb_execution_mode, config.nb_execution_cache_path = "cache", str(cache)
    config.kdlib_pages = digest([read.encode(), *files(root, EVERYWHERE), *headings(root / "book")])


def ahead(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Execute the chapters that are about to be read and are not in the cache."""
    reading, running = env.myst_config, env.mystnb_config  # type: ignore[attr-defined]
    cache = get_cache(running.execution_cache_path)
    waiting: dict[Path, nbformat.NotebookNode] = {}
    for page in pages:
        path = Path(env.doc2path(page))
        if any(path.match(pattern) for pattern in running.execution_excludepatterns):
            continue
        source = [path.read_text("utf-8")]
        app.emit("source-read", page, source)  # sections without results are left out
        reader = create_nb_reader(str(path), reading, running, source[0])
        notebook = reader.read(source[0]) if reader else None
        if notebook and any(cell.cell_type == "code" for cell in notebook.cells):
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                waiting[path] = notebook

    def keep(path: Path, notebook: nbformat.NotebookNode) -> None:
        record = CacheBundleIn(notebook, str(path))
        cache.cache_notebook_bundle(record, check_validity=False, overwrite=True)

    own = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    kernels = min(MOST, len(own(0)))
    asyncio.run(_execute(waiting, keep, running.execution_timeout, kernels))


async def _execute(
    notebooks: Mapping[Path, nbformat.NotebookNode],
    keep: Callable[[Path, nbformat.NotebookNode], object],
    timeout: float,
    kernels: int,
) -> None:
    """Execute notebooks, by the files that they are of, in so many kernels; keep what succeeds.

    `timeout` is in seconds for each cell. A notebook has its file's folder as its working
    directory and finds no name of another's.
    """
    waiting = iter(notebooks.items())  # which all kernels take from

    async def work() -> None:
        manager: AsyncKernelManager | None = None
        kernel: AsyncKernelClient | None = None
        try:
            for path, notebook in waiting:
                try:
                    if manager is None or kernel is None:
                        manager, kernel = await start_new_async_kernel(extra_arguments=QUIET)
                    anew = ANEW.format(folder=str(path.parent))
                    reply = await kernel.execute_interactive(anew, silent=True, timeout=timeout)
                    if reply["content"]["status"] != "ok":
                        raise RuntimeError("a kernel cannot be emptied")
                    client = NotebookClient(notebook, km=manager, timeout=timeout)
                    client.kc, client.record_timing = kernel, False  # times would be in the key
                    await client.async_execute()
                except Exception as problem:  # of any kind: myst-nb runs it again, and says which
                    log.info("%s: %s", path, type(problem).__name__)
                    await _end(manager, kernel)
                    manager = kernel = None
                else:
                    log.info("executed %s", path)
                    keep(path, notebook)
        finally:
            await _end(manager, kernel)

    await asyncio.gather(*(work() for _ in range(min(kernels, len(notebooks)))))


async def _end(manager: AsyncKernelManager | None, kernel: AsyncKernelClient | None) -> None:
    """End a kernel and the connection to it, where there are any."""
    if kernel is not None:
        kernel.stop_channels()
    if manager is not None:
        await manager.shutdown_kernel(now=True)
