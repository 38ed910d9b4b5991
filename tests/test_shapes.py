"""While the tests run, the shapes in every signature of kdlib are checked."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from kdlib.distill import logits

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted((ROOT / "kdlib").rglob("*.py"))
    if file.stem != "__main__"
]


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        logits.softened(torch.zeros(2, 3), torch.zeros(4, 3), 1.0)


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeCheckError):
        logits.softened(torch.zeros(2, 3), [[0.0, 0.0, 0.0]] * 2, 1.0)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_checked(module):
    assert type(find_spec(module).loader).__module__ == "jaxtyping._import_hook"
