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


def test_only_the_parameters_of_the_method_are_shown(panel):
    def shown():
        options = (panel.perplexity, panel.k, panel.steps, panel.seed)
        return [o.description for o in options if o.layout.display != "none"]

    assert shown() == ["perplexity"]
    panel.method.value = "ivis"
    assert shown() == ["k", "steps", "seed"]
    panel.method.value = "pca"
    assert shown() == []


def test_drawing_again_with_another_perplexity_gives_another_map_and_tells(panel):
    told = []
    panel.progress.observe(lambda change: told.append(change.new), "value")
    panel.perplexity.value = 5
    panel.draw()
    first = panel.points[["x", "y"]].to_numpy()
    assert "Done. Trustworthiness" in panel.message.value
    assert told[-1] == 1.0
    panel.perplexity.value = 10
    panel.draw()
    assert not np.allclose(first, panel.points[["x", "y"]])
    assert not panel.button.disabled
    (shown,) = panel.map.children
    values = next(iter(shown.chart.to_dict()["datasets"].values()))
    assert values[7]["x"] == pytest.approx(panel.points["x"][7])


def test_what_cannot_be_drawn_is_one_line_and_the_panel_lives_on(panel):
    panel.perplexity.value = 100
    panel.draw()
    assert "Cannot draw this: perplexity" in panel.message.value
    assert not panel.button.disabled
    panel.method.value = "pca"
    panel.draw()
    assert "Done." in panel.message.value


def test_a_folder_without_features_is_said(tmp_path):
    with pytest.raises(UsageError, match="no features below"):
        Playground(tmp_path)
