"""The API reference: every public name of kdlib is in it, and no page of it is too long."""

import ast
from pathlib import Path

import pytest

import kdlib

ROOT = Path(kdlib.__file__).parent
PAGES = sorted((ROOT.parent / "book/reference").glob("*.md"))


def public_names():
    """Every name that a module of kdlib defines without an underscore, with the module's own."""
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [getattr(node, "name", "_")]
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign):
                names = [node.target.id]
            yield from (f"{module}.{name}" for name in names if not name.startswith("_"))


@pytest.fixture(scope="module")
def pages(book):
    return {page.stem: book / f"book/reference/{page.stem}.html" for page in PAGES}


def test_every_public_name_has_its_place_in_the_reference(pages):
    text = "".join(page.read_text("utf-8") for page in pages.values())
    names = list(public_names())
    assert len(names) > 300
    assert [name for name in names if f'id="{name}"' not in text] == []


def test_no_page_of_the_reference_is_too_long(pages, book):
    assert [page.name for page in pages.values() if page.stat().st_size > 100_000] == []
    assert (book / "genindex.html").stat().st_size < 200_000  # a list, to be searched


def test_a_name_shows_its_signature_its_docstring_and_a_constant_its_comment(pages):
    text = pages["explorer"].read_text("utf-8")
    assert "def quantise(points: np.ndarray) -&gt; np.ndarray" in text
    assert "Fit every map into the int16 square" in text
    assert "SIDE = 48  # largest thumbnail, in pixels" in text
