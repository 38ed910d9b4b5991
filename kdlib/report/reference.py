"""The API reference of the book: every public name of kdlib, read from its source.

A page says `{reference} kdlib.plan` and gets a section for each module of that package: signatures,
docstrings, and constants with the comments beside them. Nothing is imported. Large packages have
two pages: the one leaves out, by `:without: runs studies`, what the other names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
LONGEST = 12  # lines of a constant; longer ones are cut


class Reference(SphinxDirective):
    """Document a module, or the modules of a package: `{reference} kdlib.plan`."""

    required_arguments = 1
    option_spec = {"without": str.split}  # noqa: RUF012 - docutils wants a plain dict

    def run(self) -> list[nodes.Node]:
        """Return one section per module."""
        text: list[str] = []
        files = modules(self.arguments[0])
        for file in (f for f in files if f.stem not in self.options.get("without", [])):
            self.env.note_dependency(str(file))
            text += document(file)
        section = nodes.section()
        self.state.nested_parse(StringList(text), self.content_offset, section, match_titles=True)
        return section.children


def modules(name: str) -> list[Path]:
    """List the source files of a package, its own first, or the one of a module."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def module_name(file: Path) -> str:
    """Return the name under which a source file is imported."""
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def document(file: Path) -> Iterator[str]:
    """Return the Markdown of a module: its docstring, its constants, functions and classes."""
    source = file.read_text("utf-8")
    tree, lines, name = ast.parse(source), source.splitlines(), module_name(file)
    yield from (f"## `{name}`", "", f"```{{py:currentmodule}} {name}", "```", "", *_docstring(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _class(node, lines)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield from _function("function", node, lines)
        for constant in _assigned(node):
            yield from ("", f":::{{py:data}} {constant}", ":no-index-entry:", "")
            yield from (*_code(_source(node, lines)), ":::")


def _class(node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    """Return a class with its fields and those public methods that have a docstring."""
    fields = [line for item in node.body if _assigned(item) for line in _source(item, lines)]
    head = lines[node.lineno - 1].partition("  # ")[0].removesuffix(":")
    yield from ("", f"::::{{py:class}} {node.name}", "", *_code([head, *fields]), *_docstring(node))
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    for method in methods:
        if not method.name.startswith("_") and ast.get_docstring(method):
            yield from _function("method", method, lines)
    yield "::::"


def _function(kind: str, node: ast.FunctionDef, lines: list[str]) -> Iterator[str]:
    head = "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])
    indexed = () if kind == "function" else (":no-index-entry:",)  # many have a method `loss`
    yield from ("", f":::{{py:{kind}}} {node.name}", *indexed, "")
    yield from (*_code(dedent(head).removesuffix(":").splitlines()), *_docstring(node), ":::")


def _assigned(node: ast.stmt) -> list[str]:
    """Return the public names that a statement assigns."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def _source(node: ast.stmt, lines: list[str]) -> list[str]:
    """Return a statement as it is written, with the comment beside it."""
    source = lines[node.lineno - 1 : node.end_lineno]
    return source if len(source) <= LONGEST else [*source[:LONGEST], "..."]


def _code(lines: list[str]) -> list[str]:
    plain = [line.partition("  # type: ")[0] for line in lines]
    return ["```text", *plain, "```", ""]


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """Return a docstring as Markdown; its examples are code."""
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        if paragraph.startswith(">>>"):
            yield from _code(paragraph.splitlines())
        else:
            yield from (*paragraph.splitlines(), "")
