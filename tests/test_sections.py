"""Sections that only some editions have."""

from pathlib import Path

import pytest

from kdlib import UsageError
from kdlib.report import sections

BOOK = Path(__file__).parents[1] / "book"
SOURCE = "# Title\n\n% only: {}\n## Heading\n\n% a comment\n% end\n\n## Always\n"


@pytest.mark.parametrize("there", [True, False])
def test_a_section_goes_with_its_heading(monkeypatch, there):
    monkeypatch.setitem(sections.CONDITIONS, "pairs", lambda: there)
    own = "## Heading\n\n% a comment\n" if there else ""
    assert sections.kept(SOURCE.format("pairs")) == f"# Title\n\n{own}\n## Always\n"


def test_an_unknown_condition_is_refused():
    with pytest.raises(UsageError, match="'nothing'; one of: pairs"):
        sections.kept(SOURCE.format("nothing"))


@pytest.mark.parametrize(
    "source",
    [
        "% only: pairs\nText.\n",
        "% only:pairs\nText.\n% end\n",
        "% only: pairs \nText.\n% end\n",
        "Text.\n% end\n",
        "% only: pairs\n% only: erring\n% end\n% end\n",
    ],
)
def test_a_section_that_does_not_begin_or_end_is_refused(monkeypatch, source):
    for name in sections.CONDITIONS:
        monkeypatch.setitem(sections.CONDITIONS, name, lambda: True)
    with pytest.raises(UsageError, match="stands alone"):
        sections.kept(source)


def test_a_section_may_end_a_page(monkeypatch):
    monkeypatch.setitem(sections.CONDITIONS, "pairs", lambda: False)
    assert sections.kept("Text.\n% only: pairs\nMore.\n% end") == "Text.\n"


def test_every_section_of_the_book_that_begins_ends(monkeypatch):
    names = list(sections.CONDITIONS)
    for name in names:
        monkeypatch.setitem(sections.CONDITIONS, name, lambda: True)
    sources = [page.read_text() for page in BOOK.glob("*.md")]
    assert all(f"% only: {name}\n" in "".join(sources) for name in names)
    for source in sources:
        assert "% only" not in sections.kept(source)
        assert "% end" not in sections.kept(source)
