"""Live, with a kernel: map a layer again with other settings (notebooks/playground.ipynb)."""

from __future__ import annotations

import threading
from pathlib import Path

import altair as alt
import ipywidgets as w
import numpy as np
import pandas as pd

from kdlib import UsageError, embed, store
from kdlib.measure.faithfulness import faithfulness
from kdlib.plan import runs
from kdlib.report import charts


class Playground(w.VBox):
    """Pick a network, a layer and an embedding, set its options, press Draw.

    Only the options of the chosen embedding are visible. A map takes a second (t-SNE) to a minute
    (IVIS); meanwhile the bar moves, the controls are off, and the rest of the notebook can be
    used. `points` holds the last map: columns x, y, label, image.
    """

    def __init__(self, root: Path | None = None):
        """Offer every network below `root` that has features; by default of the study quick.

        Raises UsageError where there is none.
        """
        self.root = store.locate(runs.Experiment().root) if root is None else root
        files = sorted(self.root.glob("**/features.safetensors"))
        if not files:
            raise UsageError(f"no features below {self.root}; `make book` makes them")
        networks = [str(file.parent.relative_to(self.root)) for file in files]
        titles = [(title, key) for key, title in embed.TITLES.items()]
        wide = w.Layout(width="30em")
        self.network = w.Dropdown(options=networks, description="network", layout=wide)
        self.layer = w.Dropdown(description="layer", layout=wide)
        self.embedding = w.ToggleButtons(options=titles, description="embedding")
        self.perplexity = _slider("perplexity", 30, 2, 150)
        self.k = _slider("k", 15, 2, 150)
        self.steps = _slider("steps", 1000, 200, 5000, 200)
        self.seed = w.BoundedIntText(0, min=0, max=10**6, description="seed")
        self.button = w.Button(description="Draw", button_style="primary", icon="play")
        self.progress = w.FloatProgress(0, min=0, max=1, layout=w.Layout(width="20em"))
        self.message = w.HTML("Choose and press Draw.")
        alt.JupyterChart.enable_offline()
        self.map = w.Box()
        self.points = pd.DataFrame()
        self.options = {o.description: o for o in (self.perplexity, self.k, self.steps, self.seed)}
        self.network.observe(lambda change: self._load(), "value")
        self.embedding.observe(lambda change: self._show_options(), "value")
        self.button.on_click(lambda button: threading.Thread(target=self.draw).start())
        self._load()
        self._show_options()
        options = w.VBox(list(self.options.values()))
        status = w.HBox([self.button, self.progress, self.message])
        super().__init__([self.network, self.layer, self.embedding, options, status, self.map])

    def draw(self) -> None:
        """Map what is chosen and show it, or say in one line why that cannot be."""
        controls = [self.network, self.layer, self.embedding, self.button, *self.options.values()]
        for control in controls:
            control.disabled = True
        try:
            self._draw()
        except UsageError as problem:
            self.message.value = f"<b>Cannot draw this: {problem}</b>"
        except Exception as problem:  # any other, too, is shown: the thread has no output
            self.message.value = f"<b>Failed: {type(problem).__name__}: {problem}</b>"
            raise
        finally:
            for control in controls:
                control.disabled = False

    def _draw(self) -> None:
        layer, embedding = self.layer.value, self.embedding.value
        features, labels = self._layers.test[layer], self._layers.test_labels
        title = f"{embed.TITLES[embedding]} of {layer}, {len(labels)} images"

        def report(fraction: float) -> None:
            self.progress.value = fraction
            self.message.value = f"Drawing {title}: {fraction:.0%} ..."

        report(0.0)
        options = {name: self.options[name].value for name in self._visible()}
        points = embed.embed(features, embedding, progress=report, **options)
        values = faithfulness(features, points, labels)
        self.points = pd.DataFrame(points, columns=["x", "y"]).assign(
            label=labels.astype(str), image=np.arange(len(labels))
        )
        self._show(charts.scatter(self.points, f"{title}: {self.network.value}"))
        self.message.value = (
            f"Done. Trustworthiness {values['trustworthiness']:.2f}, neighbours kept "
            f"{values['neighbours_kept']:.0%}, 5-NN accuracy on the map {values['map_knn']:.2f}."
        )

    def _load(self) -> None:
        """Read the network's layers and offer them; the chosen one stays, where there is one."""
        try:
            self._layers = store.load_layers(self.root / self.network.value)
        except UsageError as problem:
            self.message.value = f"<b>{problem}</b>"
            return
        layers, chosen = list(self._layers.test), self.layer.value
        self.layer.options = layers
        self.layer.value = chosen if chosen in layers else layers[-1]

    def _visible(self) -> list[str]:
        """The names of the options that the chosen embedding has."""
        embedder = embed.EMBEDDERS[self.embedding.value]
        names = [name for name in self.options if name in embedder.options]
        return [*names, "seed"] if embedder.uses_seed else names

    def _show_options(self) -> None:
        visible = self._visible()
        for name, option in self.options.items():
            option.layout.display = "" if name in visible else "none"

    def _show(self, chart: alt.Chart) -> None:
        """Put a chart in place of the last one; a widget, so that any thread may do it."""
        if self.map.children:
            self.map.children[0].chart = chart
        else:
            self.map.children = (alt.JupyterChart(chart),)


def _slider(name: str, value: int, low: int, high: int, step: int = 1) -> w.IntSlider:
    return w.IntSlider(
        value, min=low, max=high, step=step, description=name, continuous_update=False
    )
