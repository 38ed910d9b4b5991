"""UMAP, PaCMAP and LocalMAP, where their packages are installed."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdlib import UsageError, embed
from kdlib.measure.faithfulness import faithfulness

MODULES = {"umap": "umap", "pacmap": "pacmap", "localmap": "pacmap"}


@pytest.fixture(params=MODULES)
def method(request):
    if importlib.util.find_spec(MODULES[request.param]) is None:
        pytest.skip(f"{MODULES[request.param]} is not installed: pip install -e '.[maps]'")
    return request.param


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:300], y[:300]


def test_maps_are_good_and_the_same_twice_and_silent(method, digits, capfd):
    x, y = digits
    points = embed.embed(x, method, seed=3)
    measures = faithfulness(x, points, y)
    assert measures["trustworthiness"] > 0.95
    assert measures["map_knn"] > 0.9
    assert (embed.embed(x, method, seed=3) == points).all()
    family = embed.family({("kd", "pool"): x, ("kd", "logits"): x[:, :40]}, method, workers=2)
    assert family.coupling == 0
    assert family.engine.split()[0] in ("umap-learn", "pacmap")
    output = capfd.readouterr()
    assert output.out == ""
    assert not [
        line
        for line in output.err.splitlines()
        if line and " maps: " not in line and "MAP: " not in line
    ]


def test_starts_and_options_are_used(method, digits):
    x, _ = digits
    own = embed.embed(x, method)
    start = np.random.default_rng(0).normal(size=(300, 2))
    assert (embed.embed(x, method, start=start) != own).any()
    assert (embed.embed(x, method, k=5) != own).any()
    with pytest.raises(UsageError, match=r"k must be .* between 2 and \d+ for n = 300"):
        embed.embed(x, method, k=300)


def test_tensorflow_is_not_started_for_umap():
    pytest.importorskip("umap", reason="umap is not installed: pip install -e '.[maps]'")
    code = "import sys, numpy; from kdlib import embed;"
    code += "embed.embed(numpy.random.default_rng(0).normal(size=(30, 4)), 'umap', k=5);"
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("key", MODULES)
def test_a_missing_package_is_one_line_that_names_the_installation(key, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[key], None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"needs .*, .* `pip install -e '.\[maps\]'`"):
        embed.embed(digits[0], key)
