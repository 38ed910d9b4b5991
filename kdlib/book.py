"""Sphinx extension: a book that needs no kernel and no network, opened by double click or served.

Loaded in `_config.yml` by `sphinx: {extra_extensions: [kdlib.book]}`. It
- runs anywidgets on the page with widget-host.js, instead of RequireJS and a CDN,
- moves their big parts into side-car scripts, which pages share and the browser keeps,
- draws Vega-Lite charts with vega-host.js and one bundle made at build time by vl-convert,
- sets MathJax from the sphinx-mathjax-offline package, as one file without web fonts,
- disconnects sphinx-thebe, which Jupyter Book loads though nothing uses it.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import json
import os
import shutil
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from myst_nb.core import render
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
FOLDER = "kdlib"  # below _static, where all of this goes
CHARTS = tuple(f"application/vnd.vegalite.v{v}{dot}json" for v in (5, 6) for dot in "+.")
VIEW = '<script type="application/vnd.jupyter.widget-view+json">'
LARGE = 4096  # characters of a part that is worth a side-car of its own
SEARCH = 'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
AIM = """document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".page-toc")) document.body.dataset.bsTarget = ".page-toc";
  else document.body.removeAttribute("data-bs-spy");
});"""
WORDS = "This figure is interactive and needs JavaScript; the text beside it says what it shows."


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything; Sphinx calls this when it loads the extension."""
    os.environ["KD_BOOK"] = "1"  # kernels inherit it: charts.enable() then emits plain JSON
    plugins = render.load_mime_renders()  # cached by myst-nb, so this is its list
    if Chart not in plugins:
        plugins.append(Chart)  # type: ignore[arg-type]
    app.connect("config-inited", unplug)
    app.connect("config-inited", stage)
    app.connect("env-get-outdated", stale)
    app.connect("html-page-context", shrink, priority=400)  # before myst-nb writes the state
    app.connect("html-page-context", quiet)
    app.connect("html-page-context", aim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Chart:
    """Renders a Vega-Lite spec as a figure that vega-host.js fills in."""

    mime_priority_overrides = tuple(("html", mime, 5) for mime in CHARTS)

    @staticmethod
    def handle_mime(
        renderer: render.NbElementRenderer, data: render.MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Return the figure, or None for any other kind of output."""
        if data.mime_type not in CHARTS:
            return None
        spec = render.sanitize_script_content(json.dumps(data.content, separators=(",", ":")))
        words = html.escape(data.content.get("description") or "Chart", quote=True)
        renderer.add_js_file("kd_charts", f"{FOLDER}/vega-host.js", {"defer": "defer"})
        text = (
            f'<figure class="kd-chart" role="group" aria-label="{words}" aria-busy="true">'
            f'<script type="application/json">{spec}</script><div></div>'
            f"<noscript>{words}</noscript></figure>"
        )
        return [nodes.raw(text=text, format="html")]


def stage(app: Sphinx, config: Config) -> None:
    """Put the scripts where Sphinx copies them from, and point MathJax and myst-nb to them.

    Not into the book's own `_static`: Jupyter Book loads every script in there on every page.
    """
    root = Path(app.doctreedir) / "kdlib_static"
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("widget-host.js", "vega-host.js"):
        shutil.copyfile(HERE / name, folder / name)
    if not (folder / "vega-bundle.js").exists():
        source = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # has top-level constants: wrap it
        (folder / "vega-bundle.js").write_text("(function(){" + source + "})();", "utf-8")
    if not (folder / "mathjax.js").exists():
        shutil.copyfile(_mathjax(), folder / "mathjax.js")
    config.html_static_path.append(str(root))
    config.mathjax_path = f"{FOLDER}/mathjax.js"
    # MathJax's menu can load more from the network; without it nothing can.
    config.mathjax3_config = {"options": {"enableMenu": False}}
    config.nb_ipywidgets_js = {f"{FOLDER}/widget-host.js": {"defer": "defer"}}


def _mathjax() -> Path:
    """Find the one file of MathJax that draws with SVG and holds all of TeX."""
    package = "sphinx-mathjax-offline"
    for file in importlib.metadata.files(package) or []:
        if file.name == "tex-svg-full.js":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"tex-svg-full.js is not in the installed {package}")


def stale(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Read every chapter that runs code again: results may have changed where its text has not."""
    return [page for page in env.found_docs if NbMetadataCollector.get_exec_data(env, page)]


def shrink(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Move the big parts of a page's widgets into side-cars; keep only what the host reads."""
    if app.builder.format != "html":
        return
    if VIEW in context.get("body", ""):
        context["body"] = context["body"].replace(VIEW, f"<noscript>{WORDS}</noscript>{VIEW}")
    scripts = NbMetadataCollector.get_js_files(app.env, page)
    _, attributes = scripts.get("ipywidgets_state", (None, {}))
    if "body" not in attributes:
        return
    content = json.loads(attributes["body"])
    folder = Path(app.outdir) / "_static" / FOLDER / "data"
    folder.mkdir(parents=True, exist_ok=True)
    content["state"] = {
        key: _slim(model, folder)
        for key, model in content["state"].items()
        if not model["model_name"].endswith(("LayoutModel", "StyleModel"))
    }
    body = render.sanitize_script_content(json.dumps(content, separators=(",", ":")))
    scripts["ipywidgets_state"] = (None, {**attributes, "body": body})


def _slim(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    for buffer in model.get("buffers", []):
        if len(buffer.get("data", "")) > LARGE:
            buffer["src"] = _sidecar(buffer.pop("data"), folder)
    for key in ("_esm", "_css"):
        source = model["state"].get(key)
        if isinstance(source, str) and len(source) > LARGE:
            model["state"][key] = {"src": _sidecar(source, folder)}
    return model


def _sidecar(text: str, folder: Path) -> str:
    """Write a script that leaves `text` behind; the same text is the same file for all pages."""
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = folder / f"{name}.js"
    if not file.exists():
        script = f'(window.kdSidecars=window.kdSidecars||{{}})["{name}"]={json.dumps(text)};'
        file.write_text(script, "utf-8")
    return name


def quiet(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Keep the search page from fetching excerpts where a browser refuses that: on file://."""
    if page == "search":
        app.add_js_file(None, body=SEARCH)


def aim(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let the page's own contents follow the reader: the theme looks for a class that is gone.

    It would take every link of the page for a section, and fail on `layers.html#layer=stem`.
    """
    app.add_js_file(None, body=AIM)


def unplug(app: Sphinx, config: Config) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book loads though nothing here uses it.

    It declares a constant twice and names a CDN on every page. Its static files do no harm.
    """
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            handler = listener.handler
            if handler.__module__ == "sphinx_thebe" and handler.__name__ != "st_static_path":
                app.disconnect(listener.id)
