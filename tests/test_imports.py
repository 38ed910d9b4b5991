"""Who may import whom: the making half (torch) and the reading half share only the store."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "kdlib").rglob("*.py"))

# Modules of measure that read tables of results; the others compute what stands in them.
READERS = tuple(
    f"measure.{name}" for name in ("statistics", "verdicts", "standings", "depth", "training")
)
# A room (or a module that differs from its room) and what it may import of other rooms.
# Every room may import the errors in kdlib/__init__.py; cli.py may import everything.
MAY = {
    "plan": set(),
    "checksums": set(),
    "store": {"checksums"},
    "vision": set(),
    "neighbours": set(),
    "states": set(),
    "data": {"plan", "vision"},
    "models": {"plan", "vision"},
    "distill": {"data", "models", "plan"},
    "train": {"data", "models", "distill", "plan", "states"},
    "features": {"data", "models", "distill", "plan"},
    "embed": {"neighbours"},
    "measure": {"neighbours"},
    **{module: {"store", "plan"} for module in READERS},
    "measure.comparison": {"store", "embed", "neighbours"},
    "report": {"store", "measure", "embed", "plan"},
    "precheck": {"store", "plan", "data", "models", "embed", "train"},
    # Networks as they are, and all that is known of them: both halves, up to the page.
    "foreign": {
        *("store", "plan", "data", "models", "train", "measure", "embed", "neighbours", "report"),
    },
    "cluster": {"plan"},
    "publish": {"store", "plan", "data", "models"},
    "installation": {"embed", "vision"},
}
TORCHLESS = ("plan", "checksums", "store", "measure", "report.charts")


def dotted(file):
    """The name of a module below kdlib: "" of kdlib itself, "data" of data/__init__.py."""
    parts = file.relative_to(ROOT / "kdlib").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {dotted(file): file for file in FILES}


def imports(source):
    """The modules of kdlib that some source imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    for name in names:
        package, _, module = name.partition(".")
        if package == "kdlib":
            while module not in MODULES:  # a name inside a module
                module = module.rpartition(".")[0]
            yield module


@cache
def imports_of(module):
    return set(imports(MODULES[module].read_text())) - {"", module}


def within(module, room):
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"", "__main__", "cli"}))
def test_imports_flow_one_way(module):
    room = module.split(".")[0]
    allowed = MAY.get(module, MAY.get(room, set())) | {room}
    strangers = {
        other for other in imports_of(module) if not any(within(other, name) for name in allowed)
    }
    assert not strangers


def test_nothing_of_kdlib_imports_its_command_line():
    assert [m for m in MODULES if "cli" in imports_of(m)] == ["__main__"]


def test_no_module_imports_itself_through_others():
    TopologicalSorter({module: imports_of(module) for module in MODULES}).prepare()


def test_no_room_imports_itself_through_others():
    rooms = {}
    for module in set(MODULES) - {""}:
        room = module.split(".")[0]
        others = {other.split(".")[0] for other in imports_of(module)}
        rooms.setdefault(room, set()).update(others - {room})
    TopologicalSorter(rooms).prepare()


@pytest.mark.parametrize(
    "room", sorted(m for m, f in MODULES.items() if m and f.stem == "__init__")
)
def test_a_package_only_hands_names_on(room):
    body = ast.parse(MODULES[room].read_text()).body
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    assert all(isinstance(node, allowed) for node in body)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_planning_reading_measuring_and_drawing_need_no_torch():
    names = [f"kdlib.{m}" for m in MODULES if any(within(m, room) for room in TORCHLESS)]
    code = f"""
import sys
from importlib import import_module
import papermill  # which loads plan.engine: that cannot be loaded first
for name in {names}:
    import_module(name)
    assert "torch" not in sys.modules, name
    assert "tensorflow" not in sys.modules, name
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_tensorflow_uses_keras_2_from_before_anything_can_import_it():
    code = "import kdlib, os, sys; assert 'tensorflow' not in sys.modules;"
    done = python(code + "print(os.environ['TF_USE_LEGACY_KERAS'])")
    assert done.stdout.strip() == "1"


def test_torchvision_works_beside_any_torch():
    done = python(
        "from kdlib.vision import torchvision as v; print(v.models.resnet18(weights=None).fc)"
    )
    assert "out_features=1000" in done.stdout, done.stderr


ONLY_POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix"}
TEXT = {"read_text", "write_text"}  # of a path; the system's own encoding is another elsewhere


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_needs_posix_or_the_systems_encoding(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & ONLY_POSIX
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ONLY_POSIX
        text = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in TEXT
        given = [*node.args, *(each.value for each in node.keywords)] if text else []
        assert not text or "'utf-8'" in map(ast.unparse, given), ast.unparse(node)
