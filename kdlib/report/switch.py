"""Sphinx extension: the switch between the editions of the book, and links from one to another.

Loaded in `_config.yml`. What a smaller edition refers to and does not have itself (formulas, the
reference, the log) is a page of the leading edition: its links go there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.osutil import relative_uri

from kdlib.report import editions

STATIC = Path(__file__).parent / "static"
PAGE = re.compile(
    r'(<a\b[^>]*?\bhref=")([\w-]+)(\.html[#"])'
)  # of a link to a page beside this one


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything; Sphinx calls this when it loads the extension."""
    app.connect("missing-reference", elsewhere)
    app.connect("html-page-context", add_switch)
    app.connect("html-page-context", lead_links)
    app.add_js_file("kdlib/editions.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _folder(app: Sphinx) -> str:
    """Return the folder of this edition below the leading one; empty in that one."""
    own, every = editions.current(), _existing(app)
    return editions.folder(own, every) if own in every else ""


def _existing(app: Sphinx) -> list[editions.Edition]:
    return editions.others(Path(app.srcdir) / editions.editions.RESULTS)


def elsewhere(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, words: nodes.TextElement
) -> nodes.reference | None:
    """Lead a reference to a page or a label that this edition lacks to the leading one."""
    folder, source = _folder(app), Path(app.srcdir) / editions.BOOK
    if not folder or node.get("refdomain") != "std":
        return None
    target, label = node["reftarget"], ""
    if node["reftype"] == "doc":
        page = source / f"{Path(target).name}.md"
        found = (page, editions.title(page)) if page.is_file() else None
    else:
        label = f"#{target.replace('_', '-')}"
        found = editions.labelled(target, source)
    if found is None:
        return None
    page, heading = found
    here, there = (f"{folder}/{node['refdoc']}.html", f"{editions.BOOK}/{page.stem}.html{label}")
    text = words.astext() if node.get("refexplicit") else heading
    return nodes.reference("", text, internal=True, refuri=relative_uri(here, there))


def lead_links(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Lead the links of raw HTML, tables for example, to pages that this edition lacks."""
    folder, place = _folder(app), Path(page).parent
    if not folder or "body" not in context:
        return
    up = "../" * (page.count("/") + 1)

    def to_lead(link: re.Match[str]) -> str:
        name = (place / link[2]).as_posix()
        exists = (Path(app.srcdir) / f"{name}.md").is_file()
        if name in app.env.found_docs or not exists:
            return link[0]
        return f"{link[1]}{up}{name}{link[3]}"

    context["body"] = PAGE.sub(to_lead, context["body"])


def add_switch(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Hand the entries of the switch to templates/editions.html, and links to lead.html."""
    context["kd_editions"] = editions.switch(page, _existing(app))
    if _folder(app):
        context["kd_lead"] = editions.lead_pages(page, Path(app.srcdir) / editions.BOOK)
