"""Where the meaning of a term is offered on a page."""

from unittest.mock import Mock

import pytest
from docutils import nodes
from sphinx.application import Sphinx

from kdlib.report import glossary

NOTATION = """```{glossary}
Logits
  The values before the softmax.
```

| symbol | meaning | shape |
|---|---|---|
| $T$ | temperature | number |
"""


def marked(tmp_path, *parts):
    """Mark a page of one paragraph; return the text of each link, and what its paragraph holds."""
    page = tmp_path / "book" / "notation.md"
    page.parent.mkdir()
    page.write_text(NOTATION)
    document = nodes.document(None, None)
    paragraph = nodes.paragraph("", "", *parts)
    document += paragraph
    glossary.mark(Mock(spec=Sphinx, srcdir=tmp_path), document, "book/labels")
    return [link.astext() for link in paragraph.findall(nodes.reference)], paragraph.astext()


def raw(html):
    return nodes.raw("", html, format="html")


@pytest.mark.parametrize(
    ("parts", "links"),
    [
        ([nodes.Text("the logits, at "), nodes.math("", "T")], ["logits", "T"]),
        ([raw("<a class='kd-set'>"), nodes.Text("the logits"), raw("</a>")], []),
        ([raw("<a>"), nodes.strong("", "", nodes.Text("the logits")), raw("</a>")], []),
        ([raw("<a>"), nodes.math("", "T"), raw("</a>")], []),
        ([raw("<a>"), nodes.Text("x"), raw("</a>"), nodes.Text(" then logits")], ["logits"]),
        (
            [
                raw("<a>"),
                nodes.Text("logits"),
                raw("</a>"),
                nodes.Text(" of "),
                nodes.Text("logits"),
            ],
            ["logits"],
        ),
        ([raw("<abbr>"), nodes.Text("logits"), raw("</abbr>")], ["logits"]),
    ],
)
def test_no_term_is_marked_inside_a_link(tmp_path, parts, links):
    found, text = marked(tmp_path, *parts)
    assert found == links
    assert text == nodes.paragraph("", "", *parts).astext()  # nothing is lost
