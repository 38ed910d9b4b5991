"""The chapters as text: what they cite, and what their cells do with other studies."""

import json
import re
from pathlib import Path

import pytest

from kdlib.metrics import MEASURES

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PAGES = sorted(p for p in BOOK.iterdir() if p.suffix in (".md", ".ipynb"))


def text(page):
    """What a page says, as MyST."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def cited(page):
    """The keys that a page cites."""
    found = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text(page))
    return {key.strip() for keys in found for key in keys.split(",")}


def test_at_least_25_works_are_cited_and_every_entry_is():
    entries = re.findall(r"^@\w+\{(.+),$", (BOOK / "references.bib").read_text(), re.M)
    assert len(entries) == len(set(entries)) >= 25
    assert set().union(*map(cited, PAGES)) == set(entries)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_references_are_listed_once_on_a_page_of_their_own(page):
    assert ("{bibliography}" in text(page)) == (page.stem == "references")


def test_the_notation_has_every_measure_with_its_direction_range_and_source():
    rows = re.findall(
        r"^\| ([^|]+) \| ([↑↓–]) \| ([^|]+) \| (.+) \|$", text(BOOK / "notation.md"), re.M
    )
    arrows = {"higher": "↑", "lower": "↓", "neither direction": "–"}
    ends = [
        (m, "$\\infty$" if m.high == float("inf") else f"{m.high:g}") for m in MEASURES.values()
    ]
    assert rows == [
        (m.title, arrows[m.better], f"{m.low:g} to {high}", f"{{cite:t}}`{m.source}`")
        for m, high in ends
    ]
