"""What is installed: versions said once, pins that agree, files that belong into the wheel."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdlib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}


def pins(file):
    """The version of each package that a file of pins names."""
    lines = (line for line in (ROOT / file).read_text().splitlines() if "==" in line)
    return {canonicalize_name(name): v for name, v in (line.split("==") for line in lines)}


def test_the_version_is_the_same_in_every_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdlib.__version__
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == kdlib.__version__


def test_every_pin_of_the_requirements_is_a_pin_of_the_constraints():
    assert pins("requirements.txt").items() <= pins("constraints.txt").items()


@pytest.mark.parametrize("extra", ["", "book", "dev"])
def test_what_is_declared_is_pinned_by_a_version_that_is_allowed(extra):
    pinned = pins("requirements.txt")
    for line in DECLARED[extra]:
        requirement = Requirement(line)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_every_pin_is_declared():
    declared = {canonicalize_name(Requirement(d).name) for each in DECLARED.values() for d in each}
    assert set(pins("requirements.txt")) <= declared


def test_every_file_beside_the_code_is_in_the_wheel():
    packages = PROJECT["tool"]["setuptools"]["package-data"]
    patterns = [f"{p.replace('.', '/')}/{each}" for p, all_ in packages.items() for each in all_]
    files = [
        f for f in (ROOT / "kdlib").rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")
    ]
    assert len(files) > 5
    for file in files:
        name = str(file.relative_to(ROOT))
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


MODULES = [
    f.relative_to(ROOT / "kdlib") for f in (ROOT / "kdlib").rglob("*.py") if f.stem[0] != "_"
]


@pytest.mark.parametrize("file", sorted(MODULES), ids=str)
def test_the_readme_names_every_module_or_the_folder_it_is_in(file):
    text = (ROOT / "README.md").read_text()
    assert re.search(rf" {file.parts[:2][-1]}[ /]", text)
