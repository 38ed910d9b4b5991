"""Sphinx extension: the meaning of a term, one hover away, at its first use on a page.

Loaded in `_config.yml`. Terms are those of the glossary in book/notation.md, symbols those of its
table: each becomes a link to that page, with its meaning as title. static/glossary.js shows the
meaning to the mouse, the keyboard and a finger; without it the browser shows the title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx

STATIC = Path(__file__).parent / "static"
PAGE = "book/notation"
LEFT_OUT = ("notation", "log", "status", "reference", "references")  # pages without marks
OWN_SYMBOLS = ("logits", "features", "relations", "schemes")  # pages that name theirs in place
BLOCK = re.compile(r"^```\{glossary\}\n(.*?)^```$", re.M | re.S)
ROW = re.compile(r"^\| (\$.+?\$(?:, \$.+?\$)*) \| (.+?) \| [^|]* \|$", re.M)
MARKUP = re.compile(r"\{[\w:]+\}`[^`]*`|[`*$]")  # roles, code, emphasis and formulas
HTML_LINK = re.compile(r"<a\b")
NOT_INSIDE = (  # where a word is no first use: headings, links, code, captions, formulas
    *(nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.caption),
    *(nodes.math, nodes.math_block, nodes.raw, nodes.target),
)


class Term(NamedTuple):
    """A term: the forms in which it is found, what it means, and its place on the page."""

    forms: tuple[str, ...]
    meaning: str
    anchor: str


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything; Sphinx calls this when it loads the extension."""
    app.connect("doctree-resolved", mark)
    app.add_js_file("kdlib/glossary.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def words(text: str) -> list[Term]:
    """Read the terms of a page's glossary, in its order.

    >>> words("```{glossary}\\nSeed\\nSeeds\\n  Draws *all*.\\n```")
    [Term(forms=('Seed', 'Seeds'), meaning='Draws all.', anchor='term-Seed')]
    """
    found = BLOCK.search(text)
    entries = re.split(r"\n\s*\n", found[1].strip()) if found else []
    terms = []
    for entry in entries:
        lines = entry.splitlines()
        forms = tuple(line.strip() for line in lines if not line.startswith(" "))
        meaning = " ".join(line.strip() for line in lines if line.startswith(" "))
        anchor = "term-" + re.sub(r"[^\w-]+", "-", forms[0]).strip("-")
        terms.append(Term(forms, _plain(meaning), anchor))
    return terms


def symbols(text: str) -> dict[str, str]:
    """Read the symbols of a page's table: what TeX calls each, and what it means.

    >>> symbols("| $n$ | images | number |")
    {'n': 'images'}
    """
    meanings: dict[str, str] = {}
    for row, meaning in ROW.findall(text):
        for formula in re.findall(r"\$(.+?)\$", row):
            parts = [formula] if "{" in formula else formula.split(", ")
            meanings |= {part.strip(): _plain(meaning) for part in parts}
    return meanings


def _plain(text: str) -> str:
    """Remove markup from a meaning: formulas keep their letters, citations go."""
    plain = re.sub(r"\\operatorname\{(\w+)\}", r"\1", text)
    plain = MARKUP.sub("", plain.replace("\\", ""))
    return re.sub(r"\s+([.,;])", r"\1", plain).strip()


def mark(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark the first use of every term and symbol on a page of the book."""
    source = Path(app.srcdir) / f"{PAGE}.md"
    folder, _, name = page.rpartition("/")
    if folder != "book" or name in LEFT_OUT or not source.is_file():
        return
    text = source.read_text("utf-8")
    for term in words(text):
        _mark_word(doctree, term)
    for symbol, meaning in symbols(text).items() if name not in OWN_SYMBOLS else ():
        _mark_symbol(doctree, symbol, meaning)


def _link(anchor: str, meaning: str, *children: nodes.Node) -> nodes.reference:
    """Make the link; on a page of a smaller edition `switch` leads it to the leading one."""
    target = f"notation.html#{anchor}"
    return nodes.reference(
        "", "", *children, refuri=target, internal=True, reftitle=meaning, classes=["kd-term"]
    )


def _inside(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def _in_html_link(node: nodes.Node) -> bool:
    """Tell whether a node stands in a link of HTML, which raw nodes of its paragraph open."""
    opened = 0
    while node.parent is not None and not isinstance(node, nodes.paragraph):
        for sibling in node.parent.children:
            if sibling is node:
                break
            for html in (raw.astext() for raw in sibling.findall(nodes.raw)):
                opened += len(HTML_LINK.findall(html)) - html.count("</a>")
        node = node.parent
    return opened > 0


def _may_be_marked(node: nodes.Node) -> bool:
    return not _inside(node, NOT_INSIDE) and not _in_html_link(node)


def _mark_word(doctree: nodes.document, term: Term) -> None:
    forms = "|".join(re.escape(form) for form in sorted(term.forms, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{forms})(?![\w-])", re.I)
    for text in doctree.findall(nodes.Text):
        found = pattern.search(text)
        if found is None or not _inside(text, (nodes.paragraph,)) or not _may_be_marked(text):
            continue
        before, word, after = text[: found.start()], found[0], text[found.end() :]
        pieces = [nodes.Text(before), _link(term.anchor, term.meaning, nodes.Text(word))]
        text.parent.replace(text, [*pieces, nodes.Text(after)])
        return


def _mark_symbol(doctree: nodes.document, symbol: str, meaning: str) -> None:
    for formula in doctree.findall(nodes.math):
        if formula.astext().strip() != symbol or not _may_be_marked(formula):
            continue
        link = _link("symbols", meaning)
        formula.parent.replace(formula, link)
        link += formula
        return
