"""Over training: sooner, or only further? Students whose weights were stored on their way."""

from __future__ import annotations

from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from kdlib.measure import statistics, training
from kdlib.measure.depth import steps
from kdlib.plan.methods import BASELINE
from kdlib.report import charts, explorer, tables
from kdlib.report.findings.words import data_set, interval, main_method, number, seeds
from kdlib.store import Results

NONE = Markdown("*This study follows no training: the line `film` of a study file asks for it.*")
NO_FILM = Markdown("*This study has no maps over a training.*")
PAIR = ["network", "labels", "seed", "layer"]
SETTLED = 0.9  # similarity (CKA) of a layer with itself at the end


class Followed:
    """Students that were followed over training, and one method beside the baseline.

    `curves` is `training.curves` for the silhouette, `epochs` those that were stored. Empty
    where the study followed none: then every figure and table is a sentence that states so.
    """

    def __init__(self, results: Results):
        self.results = results
        self.curves = training.curves(results, "silhouette")
        self.method = main_method(self.curves["method"], otherwise="distilled")
        if not {BASELINE, self.method} <= set(self.curves["method"]):  # nothing to compare
            self.curves = self.curves[:0]
        self.epochs = sorted(int(epoch) for epoch in self.curves["epoch"].unique())
        self.seeds = int(self.curves["seed"].nunique())
        self.layers = self._layers()

    def _layers(self) -> list[str]:
        """Choose the layers that differ from the one before, and the logits."""
        order = [at for at in self.results.study["layers"] if at in set(self.curves["layer"])]
        wide = self.curves.pivot_table(
            index=["method", "seed", "epoch"], columns="layer", values="value"
        )[order]
        return [*steps(wide), *(at for at in order if at == "logits")]

    @property
    def n(self) -> str:
        """The number of seeds, with its noun."""
        return seeds(self.seeds)

    def facts(self) -> dict[str, str]:
        """Give the number of seeds."""
        return {"seeds": self.n}

    def summary(self) -> Markdown:
        """State which students were followed, and after which epochs."""
        if self.curves.empty:
            return NONE
        methods = ", ".join(charts.order(self.curves["method"]))
        epochs = ", ".join(map(str, self.epochs))
        return Markdown(
            f"Followed with {self.curves['labels'].iloc[0]} labels per class: {methods}, {self.n} "
            f"of each. {len(self.results.labels)} images. Stored after {epochs} epochs: 0 is "
            "before training, the last is the trained network."
        )

    @property
    def mapped(self) -> bool:
        """Whether both students have maps over their training."""
        runs = set(self.results.film["run"]) & set(self.results.maps["run"])
        return len(self.curves) > 0 and len(runs) > 1

    @property
    def layer(self) -> str | None:
        """The first layer that has maps over training."""
        return next(iter(self.results.film["layer"]), None)

    def maps(self) -> Any:
        """Show both students in the explorer, half-way through training."""
        if not self.mapped:
            return NO_FILM if len(self.curves) else None
        runs = self.results.runs[self.results.runs["run"].isin(self.results.film["run"])]
        by_method = runs.set_index("method")["run"]
        sides = {"left": "baseline", "right": self.method}
        pair = {side: by_method[name] for side, name in sides.items() if name in by_method}
        middle = self.epochs[len(self.epochs) // 2]
        return explorer.show(self.results, **pair, layer=self.layer, epoch=middle)

    def links(self) -> HTML | None:
        """Link to the explorer's epochs and layers."""
        if not self.mapped:
            return None
        epochs = [_view(f"epoch={epoch}", _after(epoch)) for epoch in self.epochs]
        layers = dict.fromkeys(self.results.film["layer"])
        layers_ = [_view(f"layer={at}", f"<code>{at}</code>") for at in layers]
        doubt = _view("epoch=0", "Doubt it")
        return HTML(
            f"<p>Compare {', '.join(epochs)}; at {' or '.join(layers_)}. {doubt}: before training "
            f"both maps show the same network, {self.method} or not.</p>"
        )

    def film(self) -> Any:
        """Draw the maps of one layer, epoch after epoch."""
        return None if not self.mapped else charts.film(self.results, self.layer)

    def curve(self, measure: str) -> Any:
        """Draw a measure of every layer over the epochs."""
        return None if self.curves.empty else charts.training(self.results, measure)

    def further(self) -> pd.DataFrame:
        """Give each layer's difference of silhouettes at the end: mean, low, high."""
        last = self.curves.groupby("method")["epoch"].transform("max")
        ends = self.curves[self.curves["epoch"] == last]
        baseline = ends[ends["method"] == "baseline"]
        both = ends.merge(baseline, on=PAIR, suffixes=("", "_baseline"))
        return self._over_seeds(both.assign(difference=both["value"] - both["value_baseline"]))

    def sooner(self) -> pd.DataFrame:
        """Give each pair's epochs until nine tenths of what the baseline gains in silhouette."""
        return training.epochs(self.results, "silhouette")

    def settled(self) -> pd.DataFrame:
        """Give each pair's epochs until a layer is similar to itself at the end."""
        return training.epochs(self.results, "cka_end", SETTLED)

    def _over_seeds(self, pairs: pd.DataFrame) -> pd.DataFrame:
        own = (pairs["method"] == self.method) & pairs["layer"].isin(self.layers)
        return statistics.summarise(pairs[own], ["layer"]).set_index("layer")

    def table(self) -> HTML | None:
        """Show layer by layer what the three questions find."""
        if self.curves.empty:
            return None
        further = self.further()
        rows: dict[str, dict[str, str]] = {
            at: {"layer": at, "ends further by": _interval(further.loc[at], "+.2f")}
            for at in self.layers
        }
        for words, pairs in (("reaches the mark", self.sooner()), ("settles", self.settled())):
            means = (
                pairs[pairs["method"] == self.method]
                .groupby("layer")[["baseline", "epochs"]]
                .mean()
            )
            differences = self._over_seeds(pairs)
            for at, row in rows.items():
                row[f"baseline {words}"] = f"{means.loc[at, 'baseline']:.1f}"
                row[f"{self.method} {words}"] = f"{means.loc[at, 'epochs']:.1f}"
                row[f"{words}: difference"] = _interval(differences.loc[at], "+.1f")
        sure = "One seed, no interval" if self.seeds == 1 else "Mean and 95 % t interval"
        caption = (
            "Silhouette at the end; epochs until a mark; epochs until settled. "
            f"{sure}, n = {self.seeds}"
        )
        return tables.table(pd.DataFrame(list(rows.values())), caption)

    def conclusion(self) -> Markdown | None:
        """State the three findings, and of one seed that nothing is judged."""
        if self.curves.empty:
            return None
        labels = self.curves["labels"].iloc[0]
        end, settling = self.further(), self._over_seeds(self.settled())
        at = [layer for layer in self.layers if layer != "logits"][-1]
        difference = interval(end.loc[at, ["mean", "low", "high"]], "+.2f", scale=1.0)
        sooner = self._over_seeds(self.sooner())
        answer, sure = "One seed: no verdict.", ""
        if self.seeds > 1:
            answer = _answer(_layers(end, ".2f"), _layers(settling, ".1f")[1], len(self.layers))
            sure = (
                "\n\nAt other layers the 95 % t interval contains 0, or the mean rounds to it "
                f"(n = {self.seeds} paired seeds; {3 * len(self.layers)} intervals, not corrected "
                "for their number)."
            )
        return Markdown(
            f"**{answer}** On {data_set(self.results.study)}, with "
            f"{labels} labels per class, the silhouette of `{self.method}` at `{at}` minus the "
            f"baseline's is {difference} after training (n = {self.n}).\n\n"
            f"- **Further?** {_where(end, '.2f', 'its silhouette is', ('higher', 'lower'))}\n"
            f"- **At the same mark sooner?** "
            f"{_where(sooner, '.1f', 'it arrives', ('later', 'sooner'))}\n"
            f"- **Faster?** {_where(settling, '.1f', 'it settles', ('later', 'sooner'))}{sure}"
        )


def _answer(ends: tuple[list[str], list[str]], sooner: list[str], n: int) -> str:
    """Answer the question of the chapter: at how many of n layers further, less far, and faster."""
    further, less = ends
    words = f"The distilled student ends further at {len(further)} of {n} layers"
    words += f" and less far at {len(less)}" if less else ""
    faster = f"settles sooner at {len(sooner)}" if sooner else "faster was not shown"
    return f"{words}; {'it ' if sooner else ''}{faster}."


def _after(epoch: int) -> str:
    if epoch == 0:
        return "before training"
    return f"after {epoch} {'epoch' if epoch == 1 else 'epochs'}"


def _view(view: str, words: str) -> str:
    """Link to a view of the explorer on this page."""
    return f'<a class="kd-set" data-set="{view}">{words}</a>'


def _interval(row: pd.Series, form: str) -> str:
    return number(interval(row[["mean", "low", "high"]], form, scale=1.0))


def _layers(table: pd.DataFrame, form: str) -> tuple[list[str], list[str]]:
    """Name the layers whose interval lies above 0, and below; of one seed whose value does.

    A mean that the table shows as 0 is neither.
    """
    digits = int(form.strip(".f"))
    table = table[table["mean"].round(digits) != 0]
    low, high = (table[side].fillna(table["mean"]) for side in ("low", "high"))
    return list(table.index[low > 0]), list(table.index[high < 0])


def _where(table: pd.DataFrame, form: str, words: str, sides: tuple[str, str]) -> str:
    """State at which layers a student is on which side of the baseline, and by how much."""
    layers_by_side = dict(zip(sides, _layers(table, form), strict=True))
    means = {at: f"`{at}` ({table.loc[at, 'mean']:+{form}})" for at in table.index}
    parts = [
        f"{side} at {', '.join(means[at] for at in layers)}"
        for side, layers in layers_by_side.items()
        if layers
    ]
    sentence = " and ".join(parts) or "not clearly different at any layer"
    if len(parts) == 1 and sum(map(len, layers_by_side.values())) == len(table):
        sentence = sentence.replace(" at ", " at every layer: ", 1)
    return f"{words[:1].upper()}{words[1:]} {sentence}."
