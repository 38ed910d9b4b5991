"""Measures over the passes of a training."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.measure import statistics
from kdlib.report.charts.look import name, order
from kdlib.report.charts.parts import _chosen, _colour, _fade, _number, _share
from kdlib.store import Results


def training(
    results: Results, measure: str = "silhouette", *, network: str | None = None
) -> alt.FacetChart:
    """Draw a measure of every layer over the passes of training: a mean and its 95 % t interval.

    A layer that repeats the one before, as the pool of a ResNet, is left out.
    """
    table = statistics.followed(results, measure)
    if table.empty:
        raise UsageError("these results hold no film of training; a study's `film` makes one")
    network = table["network"].iloc[0] if network is None else network
    one_of("network", network, table["network"].unique())
    table = table[table["network"] == network].rename(columns={"value": "difference"})
    stages = _apart(table, list(results.study["layers"]))
    means = statistics.summarise(table, ["method", "layer", "epoch"])
    means = means[means["layer"].isin(stages)].round(4).drop(columns=["d", "p", "p_flip"])
    kept, title = sorted(int(e) for e in table["epoch"].unique()), WAY.get(measure, name(measure))
    base = alt.Chart().encode(
        x=alt.X(
            "epoch:Q",
            scale=alt.Scale(type="sqrt", nice=False),
            axis=alt.Axis(values=kept, format="d"),
            title=None,
        ),
        color=_colour(table),
        opacity=_fade(),
    )
    tooltip = [
        *("method:N", "layer:N", alt.Tooltip("epoch:Q", title="passes")),
        _number("mean:Q", title, ".3f"),
        *(_number(f"{end}:Q", f"{end} end of the interval", ".3f") for end in ("low", "high")),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    band = base.mark_area(fillOpacity=0.25).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2, point={"size": 30}).encode(y=y, tooltip=tooltip)
    n = int(means["n"].max())
    spread = f"band: 95 % t interval of {n} seeds" if n > 1 else "one seed: no interval"
    return (
        alt.layer(band, line, data=means)
        .properties(width=_share(620, len(stages)), height=190)
        .add_params(_chosen())
        .facet(column=alt.Column("layer:N", sort=stages, title=None), spacing=10)
        .properties(
            title=alt.Title(
                f"{title} after every pass kept, {network}",
                subtitle=f"across: passes through the training images, 0 is before; {spread}",
            ),
            description=_ended(means, title, stages),
        )
    )


WAY = {"cka_end": "CKA with its own end"}  # measures that only a film has


def _apart(table: pd.DataFrame, stages: list[str]) -> list[str]:
    """The layers that differ from the one before, and the logits."""
    wide = table.pivot_table(
        index=["method", "seed", "epoch"], columns="layer", values="difference"
    )
    wide = wide[[stage for stage in stages if stage in wide.columns]]
    return [*statistics.depths(wide), *(["logits"] if "logits" in wide.columns else [])]


def _ended(means: pd.DataFrame, what: str, stages: list[str]) -> str:
    """Say in a sentence where the curves of every layer end, for those who cannot see them."""
    last = means[means["epoch"] == means.groupby("method")["epoch"].transform("max")]
    said = [
        f"{stage} "
        + ", ".join(f"{m} {rows.set_index('method')['mean'][m]:.3g}" for m in order(rows["method"]))
        for stage, rows in ((s, last[last["layer"] == s]) for s in stages)
    ]
    return f"{what} over the passes of training, by layer. At the end: {'; '.join(said)}."
