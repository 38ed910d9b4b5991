"""Who may import whom: the making half (torch) and the showing half share only the store."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY = {
    "runs": {"sources"},
    "studies": {"runs"},
    "augment": set(),
    "sources": {"vision"},
    "data": {"augment", "sources"},
    "networks": set(),
    "models": {"networks", "vision"},
    "checkpoints": {"models", "vision"},
    "distill": {"data", "models"},
    "train": {"data", "models", "checkpoints", "distill", "runs"},
    "features": {"data", "models"},
    "store": set(),
    "prepare": set(),
    "workers": set(),
    "coupled": {"prepare"},
    "parametric": {"prepare", "workers"},
    "extras": {"prepare", "workers"},
    "embed": {"prepare", "coupled", "parametric", "extras"},
    "space": set(),
    "geometry": {"space"},
    "similarity": {"space"},
    "metrics": {"space", "geometry", "similarity"},
    "statistics": {"runs", "store"},
    "verdicts": {"store", "statistics"},
    "charts": {"runs", "store", "statistics", "metrics"},
    "tables": {"charts"},
    "widgets": {"store", "charts", "metrics"},
    "book": set(),
    "vision": set(),
    "notebook": {"runs"},
    "engine": set(),
    "playground": {"store", "charts", "embed", "metrics", "runs"},
}
ANYTHING = {"cli", "__main__", "__init__"}
FILES = sorted((ROOT / "kdlib").rglob("*.py"))
MODULES = {file.relative_to(ROOT / "kdlib").parts[0].removesuffix(".py") for file in FILES}


def imported(source):
    """The modules of kdlib that some source imports, at any depth of nesting."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "kdlib":
            yield from (a.name for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdlib."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("kdlib."))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT / "kdlib")))
def test_imports_flow_one_way(file):
    module = file.relative_to(ROOT / "kdlib").parts[0].removesuffix(".py")
    if module not in ANYTHING:
        assert set(imported(file.read_text())) <= MAY[module] | {module}


def test_chapters_read_results_and_never_train():
    showing = {"store", "statistics", "verdicts", "charts", "widgets", "embed", "metrics"}
    showing |= {"tables", "space", "geometry", "similarity", "distill", "models"}
    cells = []
    for chapter in (ROOT / "book").glob("*.ipynb"):
        found = json.loads(chapter.read_text())["cells"]
        cells += ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    for chapter in (ROOT / "book").glob("*.md"):
        parts = chapter.read_text().split("```{code-cell}")[1:]
        cells += [part.split("```")[0].split("\n", 2)[2] for part in parts]
    assert len(cells) > 8
    for cell in cells:
        code = "\n".join(line for line in cell.splitlines() if not line.startswith(":"))
        assert set(imported(code)) <= showing, cell


TORCHLESS = (
    *("runs", "studies", "sources", "store", "statistics", "verdicts", "charts", "notebook"),
)


@pytest.mark.parametrize("module", TORCHLESS)
def test_the_showing_half_and_the_planning_need_no_torch(module):
    code = f"import sys, kdlib.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_tensorflow_is_told_to_use_keras_2_before_anything_can_import_it():
    code = "import kdlib, os, sys; assert 'tensorflow' not in sys.modules;"
    code += "print(os.environ['TF_USE_LEGACY_KERAS'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "1"


def test_torchvision_works_beside_any_torch():
    code = "from kdlib.vision import torchvision as v; print(v.models.resnet18(weights=None).fc)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "out_features=1000" in done.stdout, done.stderr
