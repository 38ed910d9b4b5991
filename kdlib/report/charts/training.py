"""Measures over the epochs of a training."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.measure import depth, statistics
from kdlib.measure import training as followed
from kdlib.report.charts import parts
from kdlib.report.charts.look import label, name, order
from kdlib.store import Results

TITLES = {"cka_end": "CKA with its own end"}  # of measures that only a film has


def training(
    results: Results, measure: str = "silhouette", *, network: str | None = None
) -> alt.FacetChart:
    """Draw a measure of every layer over the epochs of training: a mean and its 95 % t interval.

    A layer that repeats the one before, as the pool of a ResNet, is left out.
    """
    table = followed.curves(results, measure)
    if table.empty:
        raise UsageError("these results hold no film of training; a study's `film` makes one")
    network = table["network"].iloc[0] if network is None else network
    one_of("network", network, table["network"].unique())
    table = table[table["network"] == network].rename(columns={"value": "difference"})
    layers = _distinct(table, list(results.study["layers"]))
    means = statistics.summarise(table, ["method", "layer", "epoch"])
    means = means[means["layer"].isin(layers)].round(4).drop(columns=["d", "p", "p_flip"])
    epochs = sorted(int(epoch) for epoch in table["epoch"].unique())
    title = TITLES.get(measure, name(measure))
    scale, axis = alt.Scale(type="sqrt", nice=False), alt.Axis(values=epochs, format="d")
    base = alt.Chart().encode(
        x=alt.X("epoch:Q", scale=scale, axis=axis, title=None),
        color=parts.colour(table),
        opacity=parts.fade(table["method"]),
    )
    tooltip = ["method:N", "layer:N", "epoch:Q", *parts.numbers(".3f"), "n:Q"]
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    band = base.mark_area(fillOpacity=0.25).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2, point={"size": 30}).encode(y=y, tooltip=tooltip)
    n = int(means["n"].max())
    spread = f"band: 95 % t interval of {n} seeds" if n > 1 else "one seed: no interval"
    return (
        alt.layer(band, line, data=means)
        .properties(width=parts.share(620, len(layers)), height=190)
        .add_params(parts.chosen())
        .facet(column=alt.Column("layer:N", sort=layers, title=None), spacing=10)
        .properties(
            title=alt.Title(
                f"{title} over training, {network}",
                subtitle=f"across: epochs, 0 is before training; {spread}",
            ),
            description=_description(means, title, layers),
        )
    )


def _distinct(table: pd.DataFrame, order: list[str]) -> list[str]:
    """Return the layers that differ from the one before, and the logits."""
    by = ["method", "seed", "epoch"]
    wide = table.pivot_table(index=by, columns="layer", values="difference")
    wide = wide[[layer for layer in order if layer in wide.columns]]
    return depth.steps(wide) + [layer for layer in wide.columns if layer == "logits"]


def _description(means: pd.DataFrame, what: str, layers: list[str]) -> str:
    """Describe where the curves of every layer end, for those who cannot see them."""
    last = means[means["epoch"] == means.groupby("method")["epoch"].transform("max")]
    ends = last.set_index(["layer", "method"])["mean"]
    words = []
    for layer in layers:
        methods = order(ends[layer].index)
        words.append(f"{layer} " + ", ".join(f"{label(m)} {ends[layer, m]:.3g}" for m in methods))
    return f"{what} over the epochs of training, by layer. At the end: {'; '.join(words)}."
