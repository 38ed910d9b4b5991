"""Measures along the layers: curves, differences, layers saved, likeness to the teacher."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.measure import statistics
from kdlib.report.charts.look import COLOURS, budgets, hint, name, order
from kdlib.report.charts.parts import (
    _beside,
    _chosen,
    _colour,
    _fade,
    _header,
    _methods,
    _number,
    _over_seeds,
    _share,
    _spoken,
    _students,
    _with_means,
)
from kdlib.store import Results


def layers(results: Results, measure: str = "knn", *, network: str | None = None) -> alt.FacetChart:
    """Draw a measure layer by layer: one panel per label budget, one line per method."""
    one_of("measure", measure, results.measures["measure"].unique())
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    values = results.measures.query("measure == @measure")[["run", "layer", "value"]]
    table = runs[["run", "method", "labels", "seed"]].merge(values, on="run")
    table = _with_means(table.drop(columns="run"), "value")
    stages, steps = list(results.study["layers"]), budgets(runs)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None, axis=alt.Axis(labelAngle=-40)),
        xOffset=_beside(table),
        color=_colour(table),
        opacity=_fade(),
    )
    where = ["method:N", "layer:N", alt.Tooltip("labels:N", title="labels per class")]
    n = int(runs["seed"].nunique())
    marks = _over_seeds(base, "value", name(measure), where, ".3f")
    panel = alt.layer(*marks, data=table).properties(width=_share(620, len(steps)), height=210)
    return (
        panel.add_params(_chosen())
        .facet(
            column=alt.Column("labels:N", sort=steps, title=None, header=_header("middle")),
            spacing=14,
        )
        .properties(
            title=alt.Title(
                f"{name(measure)}, layer by layer, {network}",
                subtitle=f"mean of {n} seeds with 95 % t interval; dots: single seeds; "
                f"{hint(measure)}",
            ),
            description=_spoken(table, "value", name(measure)),
        )
    )


def difference(
    results: Results, measure: str = "knn", *, network: str | None = None
) -> alt.FacetChart:
    """Draw method - baseline, paired by seed: every seed, the mean and its 95 % t interval."""
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    points = statistics.differences(results, measure).query("network == @network")
    cells = statistics.paired(results, measure).query("network == @network")
    if cells.empty:
        raise UsageError(
            f"no student of {network} shares labels and seed with one trained baseline"
        )
    steps, stages = budgets(cells), list(results.study["layers"])
    # One table, which Vega-Lite splits by panel; four digits are more than a screen shows.
    table = pd.concat([points, cells]).drop(columns="network").round(4)
    methods = order(cells["method"])
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None),
        xOffset=alt.XOffset("method:N", sort=methods),
        color=_colour(cells),
        opacity=_fade(),
    )
    where = ["method:N", "layer:N", alt.Tooltip("labels:N", title="labels per class")]
    numbers = [_number(f"{c}:Q", c, "+.3f") for c in ("mean", "low", "high")]
    title = "minus baseline"
    seeds = (
        base.mark_tick(size=9, thickness=1.5)
        .encode(
            y=alt.Y("difference:Q", title=title),
            tooltip=[*where, "seed:N", _number("difference:Q", "difference", "+.3f")],
        )
        .transform_filter("isValid(datum.difference)")
    )
    bars = base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    bars = bars.transform_filter("isValid(datum.low)")
    means = (
        base.mark_point(filled=True, size=70, shape="diamond")
        .encode(y=alt.Y("mean:Q", title=title), tooltip=[*where, *numbers, "n:Q"])
        .transform_filter("isValid(datum.mean)")
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(y=alt.datum(0))
    panel = alt.layer(zero, bars, means, seeds, data=table).properties(width=560, height=120)
    n = sorted({int(k) for k in cells["n"]})
    return (
        panel.add_params(_chosen())
        .facet(row=alt.Row("labels:N", sort=steps, title=None, header=_header("start")), spacing=8)
        .properties(
            title=alt.Title(
                f"{name(measure)}: each method minus baseline, {network}",
                subtitle=f"diamond: mean of n = {'/'.join(map(str, n))} paired seeds with 95 % t "
                f"interval; ticks: seeds; {hint(measure)}",
            ),
            description=_spoken(
                cells, "mean", f"Difference in {name(measure)} from the network trained baseline"
            ),
        )
    )


def saved(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw layers saved, seed by seed: where baseline, and where a method, reaches baseline's end."""
    network = _students(results, network)["network"].iloc[0]
    table = statistics.saved(results).query("network == @network").round(3)
    if table.empty:
        raise UsageError(
            f"no student of {network} shares labels and seed with one trained baseline"
        )
    ticks = [*table["steps"].iloc[0], "never"]
    step = min(12, max(4, 480 // len(table[["method", "seed"]].drop_duplicates())))
    table = table.drop(columns=["steps", "network"])
    depths = [_number(f"{c}:Q", c, ".2f") for c in ("baseline", "depth")]
    base = alt.Chart().encode(
        y=_methods(table),
        yOffset=alt.YOffset("seed:N", scale=alt.Scale(domain=sorted(set(table["seed"])))),
        tooltip=["method:N", "seed:N", *depths, _number("difference:Q", "layers saved", "+.2f")],
    )
    x = alt.X(
        "depth:Q",
        title="where the probe reaches baseline's last accuracy",
        scale=alt.Scale(domain=[0, len(ticks) - 1], nice=False),
        axis=alt.Axis(
            values=list(range(len(ticks))), labelExpr=f"{json.dumps(ticks)}[datum.value]", grid=True
        ),
    )
    colour = _colour(table).legend(None)
    baseline = base.mark_tick(thickness=2.5, size=9, color=COLOURS["baseline"]).encode(
        x="baseline:Q"
    )
    panel = alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=x, x2="baseline:Q", color=colour),
        baseline,
        base.mark_circle(size=55, opacity=1).encode(x=x, color=colour),
        data=table,
    ).properties(width=520, height={"step": step, "for": "offset"})
    means = table.groupby(["method", "labels"], sort=False)["difference"].mean()
    said = "; ".join(f"{m} at {b} labels: {v:+.2f}" for (m, b), v in means.items())
    row = alt.Row("labels:N", sort=budgets(table), title=None, header=_header("start"))
    return panel.facet(row=row, spacing=8).properties(
        title=alt.Title(
            f"Layers saved, {network}",
            subtitle="one seed a line; dot: the method, grey tick: baseline; left of it is sooner",
        ),
        description=f"Layers saved by each method, mean over seeds: {said}.",
    )


def similarity(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw how like each layer of the student is to each of its teacher's: baseline beside kd.

    Linear CKA, mean over seeds, at the fewest labels; without kd another method. Where layers
    were compared in several views the reader chooses one.
    """
    runs = _students(results, network)
    network, few = runs["network"].iloc[0], budgets(runs)[0]
    other = [m for m in order(runs["method"]) if m != "baseline"]
    shown = ["baseline", "kd" if "kd" in other else other[0]] if other else ["baseline"]
    runs = runs[(runs["labels"] == few) & runs["method"].isin(shown)]
    by = ["method", "view", "layer", "teacher_layer"]
    table = runs[["run", "method"]].merge(results.similarity, on="run")
    if table.empty:
        raise UsageError(f"no layers of {network} were compared with a teacher's")
    table = statistics.summarise(table.rename(columns={"value": "difference"}), by).round(3)
    table = table[[*by, "mean", "low", "high", "n"]]
    views, stages = list(dict.fromkeys(table["view"])), list(results.study["layers"])
    numbers = [_number(f"{c}:Q", c, ".2f") for c in ("mean", "low", "high")]
    base = (
        alt.Chart(table)
        .transform_filter("datum.view == view")
        .encode(
            x=alt.X("teacher_layer:N", sort=stages, title="teacher", axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("layer:N", sort=stages, title="student"),
            tooltip=["method:N", "layer:N", alt.Tooltip("teacher_layer:N"), *numbers, "n:Q"],
        )
    )
    scale = alt.Scale(scheme="blues", domain=[0, 1])
    panel = alt.layer(
        base.mark_rect().encode(
            color=alt.Color(
                "mean:Q", title="CKA", scale=scale, legend=alt.Legend(gradientLength=150)
            )
        ),
        base.mark_text(fontSize=11).encode(
            text=alt.Text("mean:Q", format=".2f"),
            color=alt.condition("datum.mean > 0.7", alt.value("white"), alt.value("black")),
        ),
    ).properties(width={"step": 40}, height={"step": 30})
    n = "/".join(map(str, sorted(set(table["n"]))))
    same = table[(table["layer"] == table["teacher_layer"]) & (table["view"] == views[0])]
    cells = zip(same["method"], same["layer"], same["mean"], strict=True)
    said = ", ".join(f"{m} {layer} {value:.2f}" for m, layer, value in cells)
    chosen: dict[str, Any] = {"name": "view", "value": views[0]}
    if len(views) > 1:
        chosen["bind"] = alt.binding_radio(options=views, name="view: ")
    return (
        panel.add_params(alt.param(**chosen))
        .facet(column=alt.Column("method:N", sort=shown, title=None), spacing=14)
        .properties(
            title=alt.Title(
                f"How like its teacher's layers are those of {network}",
                subtitle=f"linear CKA, {few} labels per class, mean of n = {n} seeds; 1 is alike",
            ),
            description=f"Likeness (CKA) of each layer to the teacher's of the same name: {said}.",
        )
    )
