"""Sphinx extension: a book that needs no kernel and no network, opened by double click or served.

Loaded in `_config.yml`, among the extensions. It
- runs anywidgets on the page with widget-host.js, instead of RequireJS and a CDN,
- moves their big parts into side-car scripts, which pages share and the browser keeps,
- draws Vega-Lite charts with vega-host.js and one bundle made at build time by vl-convert,
- leaves out sections that an edition has no results for,
- gives every chart a picture (before JavaScript, on paper) and its numbers as CSV,
- sets MathJax from the sphinx-mathjax-offline package, as one file without web fonts,
- gives the theme's pages what static/templates and static/book.css say: lighter, quicker, right
  for screen readers.
"""

from __future__ import annotations

import csv
import hashlib
import html
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pydata_sphinx_theme
import vl_convert
from docutils import nodes
from myst_nb.core import render
from myst_nb.sphinx_ import NbMetadataCollector
from pygments.filter import Filter
from pygments.lexer import Lexer
from pygments.lexers import find_lexer_class_by_name
from pygments.token import Name, Punctuation, Text, Whitespace
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.osutil import relative_uri
from sphinx.writers.html5 import HTML5Translator

from kdlib.report import sections
from kdlib.report.reference import Reference
from kdlib.report.tables import csv_cell

STATIC = Path(__file__).parent / "static"
FOLDER = "kdlib"  # below _static, where all of this goes
CHARTS = tuple(f"application/vnd.vegalite.v{v}{dot}json" for v in (5, 6) for dot in "+.")
KERNEL = (
    '<p class="kd-note">This control needs a running kernel: <code>make lab</code> opens '
    "JupyterLab with the notebooks of this book.</p>"
)
LARGE = 4096  # characters of a part that is worth a side-car of its own
ICONS = (  # those that the theme's pages use, of the 1.5 MB that it would load
    *("angle-left", "angle-right", "arrow-up", "bars", "chevron-down", "circle-half-stroke"),
    *("code", "download", "expand", "file", "file-pdf", "list", "magnifying-glass", "moon"),
    *("rocket", "sun", "xmark"),
)
WORDS = "This figure is interactive and needs JavaScript; the text beside it says what it shows."


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything; Sphinx calls this when it loads the extension."""
    os.environ["KD_BOOK"] = "1"  # kernels inherit it: charts.enable() then emits plain JSON
    plugins = render.load_mime_renders()  # cached by myst-nb, so this is its list
    if Outputs not in plugins:
        plugins.append(Outputs)  # type: ignore[arg-type]
    app.add_node(Chart, html=(draw_chart, None), latex=(skip, None))
    app.add_node(Widget, html=(place_widget, None), latex=(skip, None))
    app.connect("config-inited", stage)
    app.connect("source-read", choose_sections)
    app.connect("doctree-resolved", scroll_formulas)
    app.connect("html-page-context", shrink, priority=400)  # before myst-nb writes the state
    app.connect("html-page-context", without_mathjax, priority=900)  # after MathJax was added
    app.add_directive("reference", Reference)
    for language in ("python", "ipython3"):
        app.add_lexer(language, plain(find_lexer_class_by_name(language)))
    app.add_css_file(f"{FOLDER}/book.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def plain(language: type[Lexer]) -> type[Lexer]:
    """Return a lexer for which names, brackets and spaces are plain text.

    They look like text anyway; unmarked, they spare a page with much code 25 kB.
    """

    class Plain(Filter):
        def filter(self, lexer: Lexer, stream: Any) -> Iterator[tuple[Any, str]]:
            for token, text in stream:
                yield (Text if token in (Name, Punctuation, Whitespace) else token), text

    class Language(language):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any):
            super().__init__(**{"stripnl": False, **options})
            self.add_filter(Plain())

    return Language


class Chart(nodes.General, nodes.Element):
    """A chart of Vega-Lite; `spec` is its JSON."""


class Widget(nodes.General, nodes.Element):
    """A Jupyter widget; `model` names it in the state that the page holds."""


class Outputs:
    """Makes nodes of charts and widgets; myst-nb asks it for every output of a cell."""

    mime_priority_overrides = tuple(("html", mime, 5) for mime in CHARTS)

    @staticmethod
    def handle_mime(
        renderer: render.NbElementRenderer, data: render.MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Return the node, or None for any other kind of output."""
        if data.mime_type in CHARTS:
            renderer.add_js_file("kd_charts", f"{FOLDER}/vega-host.js", {"defer": "defer"})
            return [Chart(spec=json.dumps(data.content, separators=(",", ":")))]
        if data.mime_type == render.WIDGET_VIEW_MIMETYPE:
            return [Widget(model=data.content["model_id"])]
        return None


def stage(app: Sphinx, config: Config) -> None:
    """Put the scripts where Sphinx copies them from, and point MathJax and myst-nb to them.

    Not into the book's own `_static`: Jupyter Book loads every script in there on every page.
    """
    root = Path(app.doctreedir) / "kdlib_static"
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("widget-host.js", "vega-host.js", "editions.js", "glossary.js"):
        shutil.copyfile(STATIC / name, folder / name)
    (folder / "book.css").write_text((STATIC / "book.css").read_text("utf-8") + _icons(), "utf-8")
    if not (folder / "vega-bundle.js").exists():
        source = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # has top-level constants: wrap it
        (folder / "vega-bundle.js").write_text("(function(){" + source + "})();", "utf-8")
    if not (folder / "mathjax.js").exists():
        shutil.copyfile(_mathjax(), folder / "mathjax.js")
    config.html_static_path.append(str(root))
    config.templates_path.insert(0, str(STATIC / "templates"))
    config.mathjax_path = f"{FOLDER}/mathjax.js"
    # MathJax's menu can load more from the network; without it nothing can.
    config.mathjax3_config = {"options": {"enableMenu": False}}
    config.nb_ipywidgets_js = {f"{FOLDER}/widget-host.js": {"defer": "defer"}}


def _icons() -> str:
    """Return the theme's icons as CSS: its own drawings, as masks in the colour of the text."""
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"
    source = (theme / "scripts/fontawesome.js").read_text("utf-8")
    rules = []
    for name in ICONS:
        icons = re.findall(rf'[,{{]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+","([^"]+)"', source)
        width, height, path = icons[-1]  # the solid icon comes after the outlined one
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'>"
        svg += f"<path d='{path}'/></svg>"
        rules.append(f'.fa-{name}{{--kd-icon:url("data:image/svg+xml,{quote(svg)}")}}')
    return "\n".join(rules) + "\n"


def _mathjax() -> Path:
    """Find the one file of MathJax that draws with SVG and holds all of TeX."""
    package = "sphinx-mathjax-offline"
    for file in importlib.metadata.files(package) or []:
        if file.name == "tex-svg-full.js":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"tex-svg-full.js is not in the installed {package}")


def choose_sections(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave out of a chapter the sections that this edition has no results for."""
    source[0] = sections.kept(source[0])


def scroll_formulas(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Let a formula that is too wide be scrolled by keyboard, too: the theme does so by class."""
    for formula in doctree.findall(nodes.math_block):
        formula["classes"].append("pst-scrollable-table-container")


def shrink(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Move the big parts of a page's widgets into side-cars; keep only what the host reads."""
    scripts = NbMetadataCollector.get_js_files(app.env, page)
    _, attributes = scripts.get("ipywidgets_state", (None, {}))
    if app.builder.format != "html" or doctree is None or "body" not in attributes:
        return
    content, folder = json.loads(attributes["body"]), _folder(app)
    models = content["state"] = {
        key: _slim(model, folder)
        for key, model in content["state"].items()
        if not model["model_name"].endswith(("LayoutModel", "StyleModel"))
    }
    body = render.sanitize_script_content(json.dumps(content, separators=(",", ":")))
    scripts["ipywidgets_state"] = (None, {**attributes, "body": body})
    first = next(doctree.findall(Widget), None)
    sidecars = _sidecars(models[first["model"]]) if first and first["model"] in models else []
    base = context["pathto"](f"_static/{FOLDER}/data/", 1)
    context["metatags"] += "".join(
        f'<link rel="preload" as="script" href="{base}{name}.js">' for name in sidecars
    )


def without_mathjax(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Spare a page without a formula the 2.3 MB of MathJax.

    Sphinx counts the formulas of outputs that a page has as LaTeX and shows as HTML.
    """
    if doctree is not None and next(doctree.findall(_is_formula), None) is None:
        scripts = context["script_files"]
        scripts[:] = [s for s in scripts if not str(s.filename).endswith("mathjax.js")]


def _is_formula(node: nodes.Node) -> bool:
    return isinstance(node, nodes.math | nodes.math_block)


def place_widget(writer: HTML5Translator, widget: Widget) -> None:
    """Write the HTML in which widget-host.js shows a widget, or words on why it cannot."""
    scripts = NbMetadataCollector.get_js_files(writer.builder.env, writer.builder.current_docname)
    models = json.loads(scripts["ipywidgets_state"][1]["body"])["state"]
    key = widget["model"]
    if models.get(key, {}).get("model_module") == "anywidget":
        place = f'<div class="kd-figure" data-model="{key}" aria-busy="true"></div>'
        writer.body.append(f"<noscript>{WORDS}</noscript>{place}")
    else:
        writer.body.append(KERNEL)
    raise nodes.SkipNode


def skip(writer: Any, node: nodes.Element) -> None:
    """Leave out what a document without scripts cannot show."""
    raise nodes.SkipNode


def _sidecars(model: dict[str, Any]) -> list[str]:
    """Name the files that a widget loads, so that the browser asks for all of them at once.

    Of an explorer's parts, those of the two networks that it opens with.
    """
    state, chosen = model["state"], [model["state"].get(side) for side in ("left", "right")]
    buffers = [
        buffer
        for buffer in model.get("buffers", [])
        if buffer["path"][0] != "parts" or buffer["path"][1] in chosen
    ]
    parts = [*buffers, state.get("_esm"), state.get("_css")]
    return [part["src"] for part in parts if isinstance(part, dict) and "src" in part]


def _folder(app: Sphinx) -> Path:
    """Where side-cars lie: the same one for all pages."""
    folder = Path(app.outdir) / "_static" / FOLDER / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def draw_chart(writer: HTML5Translator, chart: Chart) -> None:
    """Write the HTML of one chart; its spec, its picture and its tables become files."""
    spec, builder = json.loads(chart["spec"]), writer.builder
    folder, name = _folder(builder.app), _sidecar(chart["spec"], _folder(builder.app))
    page = builder.get_target_uri(builder.current_docname)
    base = relative_uri(page, f"_static/{FOLDER}/data/")
    words = html.escape(spec.get("description") or "Chart", quote=True)
    size = _picture(spec, folder / f"{name}.svg")
    links = []
    for number, file in enumerate(_tables(spec, folder, name), 1):
        title = "data" if number == 1 else f"data {number}"
        links.append(f'<a href="{base}{file}" download>{title} (CSV)</a>')
    links.append(f'<a href="{base}{name}.svg" download>picture (SVG)</a>')
    writer.body.append(
        f'<figure class="kd-chart" role="group" aria-label="{words}" aria-busy="true" '
        f'data-spec="{name}"><div class="kd-scroll pst-scrollable-table-container">'
        f'<img src="{base}{name}.svg" alt="" loading="lazy" {size}></div>'
        f"<figcaption>{' '.join(links)}</figcaption></figure>"
    )
    raise nodes.SkipNode


def _picture(spec: dict[str, Any], file: Path) -> str:
    """Draw a chart for paper and for readers without JavaScript; return its size as attributes."""
    if not file.exists():
        config = {"background": "white", "aria": False}
        file.write_text(vl_convert.vegalite_to_svg(spec, config=config), "utf-8")
    width, height = re.findall(r'(?:width|height)="([\d.]+)"', file.read_text("utf-8"))[:2]
    return f'width="{float(width):.0f}" height="{float(height):.0f}"'


def _tables(spec: dict[str, Any], folder: Path, name: str) -> list[str]:
    """Write the tables that a chart draws as CSV; return the names of the files."""
    tables = sorted((t for t in spec.get("datasets", {}).values() if t and t[0]), key=len)[::-1]
    files = [f"{name}-{number}.csv" for number in range(len(tables))]
    for rows, file in zip(tables, files, strict=True):
        with (folder / file).open("w", encoding="utf-8", newline="") as out:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.writer(out)
            writer.writerow(map(csv_cell, columns))
            writer.writerows([csv_cell(row.get(column, "")) for column in columns] for row in rows)
    return files
