"""The playground: it offers what there is, draws it, and outlives every mistake."""

import numpy as np
import pytest

from kdlib import UsageError, store
from kdlib.report import charts
from kdlib.report.playground import Playground


@pytest.fixture
def panel(tmp_path):
    charts.enable()
    y = np.arange(60) % 3
    for i, name in enumerate(("students/a", "teachers/b")):
        x = np.random.default_rng(i).normal(size=(60, 4)).astype("float32") + 3 * y[:, None]
        part = {"stem": x, "logits": x * 2}
        store.save_layers(tmp_path / name, store.Layers(part, y, part, y, y, y))
    return Playground(tmp_path)


def test_every_network_with_features_and_its_layers_can_be_picked(panel):
    assert panel.network.options == ("students/a", "teachers/b")
    panel.network.value = "teachers/b"
    assert panel.layer.options == ("stem", "logits")


def test_only_the_options_of_the_embedding_are_offered(panel):
    def visible():
        options = (panel.perplexity, panel.k, panel.steps, panel.seed)
        return [o.description for o in options if o.layout.display != "none"]

    assert visible() == ["perplexity"]
    panel.embedding.value = "ivis"
    assert visible() == ["k", "steps", "seed"]
    panel.embedding.value = "pca"
    assert visible() == []
    panel.embedding.value = "umap"
    assert visible() == ["k", "seed"]


def test_drawing_again_with_another_perplexity_gives_another_map(panel):
    fractions = []
    panel.progress.observe(lambda change: fractions.append(change.new), "value")
    panel.perplexity.value = 5
    panel.draw()
    first = panel.points[["x", "y"]].to_numpy()
    assert "Trustworthiness" in panel.message.value
    assert fractions[-1] == 1.0
    panel.perplexity.value = 10
    panel.draw()
    assert not np.allclose(first, panel.points[["x", "y"]])
    assert not panel.button.disabled
    (chart,) = panel.map.children
    values = next(iter(chart.chart.to_dict()["datasets"].values()))
    assert values[7]["x"] == pytest.approx(panel.points["x"][7])


def test_what_cannot_be_drawn_is_one_line_and_the_panel_lives_on(panel):
    panel.perplexity.value = 100
    panel.draw()
    assert "perplexity" in panel.message.value
    assert not panel.button.disabled
    panel.embedding.value = "pca"
    panel.draw()
    assert "Done." in panel.message.value


def test_a_folder_without_features_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no features below"):
        Playground(tmp_path)
