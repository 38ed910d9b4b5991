"""Live, with a kernel: draw a layer again with other parameters (notebooks/playground.ipynb)."""

from __future__ import annotations

import threading
from pathlib import Path

import altair as alt
import ipywidgets as w
import pandas as pd

from kdlib import UsageError, embed, store
from kdlib.measure import faithfulness
from kdlib.plan import runs
from kdlib.report import charts


class Playground(w.VBox):
    """Pick a network, a layer and a method, set its parameters, draw.

    Only the parameters of the chosen method are shown. A map takes a second (t-SNE) to a minute
    (IVIS); meanwhile the bar moves, the controls are off, and the rest of the notebook stays
    alive. `points` holds the last map: x, y, label, image.
    """

    def __init__(self, root: Path | None = None):
        """Offer every network below `root` that has features; default: of the study quick."""
        self.root = store.locate(runs.Experiment().root) if root is None else root
        found = sorted(p.parent for p in self.root.glob("**/features.safetensors"))
        if not found:
            raise UsageError(f"no features below {self.root}; `make book` makes them")
        names = [str(folder.relative_to(self.root)) for folder in found]
        wide = w.Layout(width="30em")
        self.network = w.Dropdown(options=names, description="network", layout=wide)
        self.layer = w.Dropdown(description="layer", layout=wide)
        methods = [(embed.TITLES[key], key) for key in embed.EMBEDDERS]
        self.method = w.ToggleButtons(options=methods, description="method")
        self.seed = w.BoundedIntText(0, min=0, max=10**6, description="seed")
        slider = {"continuous_update": False}
        self.perplexity = w.IntSlider(30, min=2, max=150, description="perplexity", **slider)
        self.k = w.IntSlider(15, min=2, max=150, description="k", **slider)
        self.steps = w.IntSlider(1000, min=200, max=5000, step=200, description="steps", **slider)
        self.button = w.Button(description="Draw", button_style="primary", icon="play")
        self.progress = w.FloatProgress(0, min=0, max=1, layout=w.Layout(width="20em"))
        self.message = w.HTML("Choose and press Draw.")
        alt.JupyterChart.enable_offline()
        self.map = w.Box()
        self.points = pd.DataFrame()
        self._options = {
            "tsne": [self.perplexity],
            "ivis": [self.k, self.steps, self.seed],
            "pca": [],
        }
        self._asked = [self.network, self.layer, self.method]
        self._asked += [self.perplexity, self.k, self.steps, self.seed, self.button]
        self.network.observe(lambda change: self._list_layers(), "value")
        self.method.observe(lambda change: self._show_options(), "value")
        self.button.on_click(lambda button: threading.Thread(target=self.draw).start())
        self._list_layers()
        self._show_options()
        options = w.VBox([self.perplexity, self.k, self.steps, self.seed])
        status = w.HBox([self.button, self.progress, self.message])
        super().__init__([self.network, self.layer, self.method, options, status, self.map])

    def _list_layers(self) -> None:
        try:
            self._layers = store.load_layers(self.root / self.network.value)
        except UsageError as problem:
            self.message.value = f"<b>{problem}</b>"
            return
        chosen = self.layer.value
        self.layer.options = list(self._layers.test)
        self.layer.value = chosen if chosen in self._layers.test else self.layer.options[-1]

    def _show_options(self) -> None:
        for option in (self.perplexity, self.k, self.steps, self.seed):
            option.layout.display = "" if option in self._options[self.method.value] else "none"

    def draw(self) -> None:
        """Draw what is chosen; says what it does, and in one line why it cannot."""
        method, layer = self.method.value, self.layer.value
        what = f"{embed.TITLES[method]} of {layer}, {len(self._layers.test_labels)} images"
        given = {o.description: o.value for o in self._options[method]}
        for control in self._asked:
            control.disabled = True
        try:
            self._tell(0.0, what)
            features, labels = self._layers.test[layer], self._layers.test_labels
            seed = given.pop("seed", 0)
            xy = embed.embed(
                features, method, seed=seed, progress=lambda done: self._tell(done, what), **given
            )
            said = faithfulness.faithfulness(features, xy, labels)
            frame = pd.DataFrame(xy, columns=["x", "y"])
            self.points = frame.assign(label=labels.astype(str), image=range(len(labels)))
            self._show(charts.scatter(self.points, f"{what}: {self.network.value}"))
            self.message.value = (
                f"Done. Trustworthiness {said['trustworthiness']:.2f}, neighbours kept "
                f"{said['neighbours_kept']:.0%}, 5-NN accuracy on the map {said['map_knn']:.2f}."
            )
        except UsageError as problem:
            self.message.value = f"<b>Cannot draw this: {problem}</b>"
        except Exception as problem:  # whatever it is: say it, and do not look busy for ever
            self.message.value = f"<b>Failed: {type(problem).__name__}: {problem}</b>"
            raise
        finally:
            for control in self._asked:
                control.disabled = False

    def _show(self, chart: alt.Chart) -> None:
        """Put a chart in place of the last one; a widget, so that any thread may do it."""
        if self.map.children:
            self.map.children[0].chart = chart
        else:
            self.map.children = (alt.JupyterChart(chart),)

    def _tell(self, done: float, what: str) -> None:
        self.progress.value = done
        self.message.value = f"Drawing {what}: {done:.0%} ..."
