"""Measures along the layers: curves, differences, layers saved, similarity to the teacher."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.measure import depth, statistics
from kdlib.plan.methods import BASELINE
from kdlib.report.charts import parts
from kdlib.report.charts.look import COLOURS, budgets, hint, label, name, order
from kdlib.store import Results


def layers(results: Results, measure: str = "knn", *, network: str | None = None) -> alt.FacetChart:
    """Draw a measure layer by layer: one panel per label budget, one line per method."""
    one_of("measure", measure, results.measures["measure"].unique())
    runs = parts.students(results, network)
    network = runs["network"].iloc[0]
    values = results.measures.query("measure == @measure")[["run", "layer", "value"]]
    table = runs[["run", "method", "labels", "seed"]].merge(values, on="run")
    stages, steps = _distinct(results, table), budgets(runs)
    table = table[table["layer"].isin(stages)].drop(columns="run")
    table = _with_names(parts.with_means(table, "value"), stages[-1], steps[-1])
    axis = alt.Axis(labelAngle=-40)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None, axis=axis),
        xOffset=parts.offset(table, padding=1.5),
        color=parts.colour(table),
        opacity=parts.fade(table["method"]),
    )
    where = ["method:N", "layer:N", parts.LABELS]
    marks = parts.over_seeds(base, "value", name(measure), where, ".3f")
    words = (
        alt.Chart()
        .mark_text(align="left", dx=6, fontSize=11)
        .encode(
            x=alt.value("width"),
            y=alt.Y("place:Q", title=name(measure)),
            text="method:N",
            color=parts.colour(table),
        )
    )
    panel = alt.layer(*marks, parts.valid(words, "place"), data=table)
    header = parts.budget_header("middle")
    n = runs.groupby(["method", "labels"])["seed"].nunique()
    return (
        panel.properties(width=parts.share(620, len(steps)), height=210)
        .add_params(parts.chosen())
        .facet(column=alt.Column("labels:N", sort=steps, title=None, header=header), spacing=14)
        .properties(
            title=alt.Title(
                f"{name(measure)}, layer by layer, {network}",
                subtitle=f"{parts.over(n)}; dots: single seeds; {hint(measure)}",
            ),
            description=parts.spoken(table, "value", name(measure)),
        )
    )


def _distinct(results: Results, values: pd.DataFrame) -> list[str]:
    """List the layers that differ from the one before (`pool` of a ResNet does not), and logits."""
    wide = values.pivot_table(index="run", columns="layer", values="value")
    wide = wide[[layer for layer in results.study["layers"] if layer in wide]]
    return [*depth.steps(wide), *(layer for layer in wide if layer == "logits")]


def _with_names(table: pd.DataFrame, layer: str, labels: str) -> pd.DataFrame:
    """Add where the name of a method stands, right of the last panel: on one row, else NaN."""
    named = table["method"].isin(parts.named(table["method"])) & table["mean"].notna()
    ends = table.loc[named & (table["layer"] == layer) & (table["labels"] == labels), "mean"]
    span = table["mean"].max() - table["mean"].min()
    return table.assign(place=parts.apart(ends, gap=max(span, 1e-3) * 14 / 210))


def difference(
    results: Results, measure: str = "knn", *, network: str | None = None
) -> alt.FacetChart:
    """Draw method - baseline, paired by seed: every seed, the mean and its 95 % t interval."""
    network = parts.students(results, network)["network"].iloc[0]
    points = statistics.differences(results, measure).query("network == @network")
    means = parts.of_network(statistics.paired(results, measure), network)
    values = results.measures.query("measure == @measure")
    stages, steps = _distinct(results, values), budgets(means)
    points, means = (t[t["layer"].isin(stages)] for t in (points, means))
    # One table, which Vega-Lite splits by panel; four digits are more than a screen shows.
    table = pd.concat([points, means]).drop(columns="network").round(4)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None),
        xOffset=parts.offset(means),
        color=parts.colour(means),
        opacity=parts.fade(means["method"]),
    )
    where = ["method:N", "layer:N", parts.LABELS]
    marks = parts.differences(base, "minus baseline", where, "+.3f", size=70)
    header = parts.budget_header("start")
    return (
        alt.layer(*marks, data=table)
        .properties(width=560, height=120)
        .add_params(parts.chosen())
        .facet(row=alt.Row("labels:N", sort=steps, title=None, header=header), spacing=8)
        .properties(
            title=alt.Title(
                f"{name(measure)}: each method minus baseline, {network}",
                subtitle=f"diamond: {parts.over(means['n'], 'paired seeds')}; ticks: seeds; "
                f"{hint(measure)}",
            ),
            description=parts.spoken(means, "mean", f"{name(measure)} minus the baseline's"),
        )
    )


def saved(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw layers saved, seed by seed: where baseline and method reach the baseline's end."""
    network = parts.students(results, network)["network"].iloc[0]
    table = parts.of_network(depth.saved(results), network).round(3)
    ticks = [*table["steps"].iloc[0], "never"]
    step = min(12, max(4, 480 // len(table[["method", "seed"]].drop_duplicates())))
    table = table.drop(columns=["steps", "network"])
    seeds = alt.Scale(domain=sorted(set(table["seed"])))
    depths = parts.numbers(".2f", ("baseline", "depth"))
    layers_saved = parts.number("difference:Q", "layers saved", "+.2f")
    base = alt.Chart().encode(
        y=parts.methods_axis(table),
        yOffset=alt.YOffset("seed:N", scale=seeds),
        tooltip=["method:N", "seed:N", *depths, layers_saved],
    )
    names = f"{json.dumps(ticks)}[datum.value]"
    x = alt.X(
        "depth:Q",
        title="where the probe reaches the baseline's last accuracy",
        scale=alt.Scale(domain=[0, len(ticks) - 1], nice=False),
        axis=alt.Axis(values=list(range(len(ticks))), labelExpr=names, grid=True),
    )
    colour = parts.colour(table).legend(None)
    baseline = base.mark_tick(thickness=2.5, size=9, color=COLOURS[BASELINE])
    panel = alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=x, x2="baseline:Q", color=colour),
        baseline.encode(x="baseline:Q"),
        base.mark_circle(size=55, opacity=1).encode(x=x, color=colour),
        data=table,
    ).properties(width=520, height={"step": step, "for": "offset"})
    means = table.groupby(["method", "labels"], sort=False)["difference"].mean()
    words = "; ".join(f"{m} at {b} labels: {v:+.2f}" for (m, b), v in means.items())
    header = parts.budget_header("start")
    row = alt.Row("labels:N", sort=budgets(table), title=None, header=header)
    return panel.facet(row=row, spacing=8).properties(
        title=alt.Title(
            f"Layers saved, {network}",
            subtitle="one seed a line; dot: the method, grey tick: baseline; left of it is sooner",
        ),
        description=f"Layers saved by each method, mean over seeds: {words}.",
    )


def similarity(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw how similar each layer of the student is to each of its teacher's: baseline, then kd.

    Linear CKA, mean over seeds, at the fewest labels; without kd another method. Where layers
    were compared in several views the reader chooses one.
    """
    runs = parts.students(results, network)
    network, few = runs["network"].iloc[0], budgets(runs)[0]
    methods = _baseline_and_one(order(runs["method"]))
    runs = runs[(runs["labels"] == few) & runs["method"].isin(methods)]
    table = runs[["run", "method"]].merge(results.similarity, on="run")
    if table.empty:
        raise UsageError(f"no layers of {network} were compared with a teacher's")
    by = ["method", "view", "layer", "teacher_layer"]
    table = statistics.summarise(table.rename(columns={"value": "difference"}), by).round(3)
    table = table[[*by, *parts.INTERVAL, "n"]]
    views, stages = list(dict.fromkeys(table["view"])), list(results.study["layers"])
    base = (
        alt.Chart(table)
        .transform_filter("datum.view == view")
        .encode(
            x=alt.X("teacher_layer:N", sort=stages, title="teacher", axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("layer:N", sort=stages, title="student"),
            tooltip=["method:N", "layer:N", "teacher_layer:N", *parts.numbers(".2f"), "n:Q"],
        )
    )
    scale, legend = alt.Scale(scheme="blues", domain=[0, 1]), alt.Legend(gradientLength=150)
    white = alt.condition("datum.mean > 0.7", alt.value("white"), alt.value("black"))
    text = base.mark_text(fontSize=11).encode(text=alt.Text("mean:Q", format=".2f"), color=white)
    panel = alt.layer(
        base.mark_rect().encode(color=alt.Color("mean:Q", title="CKA", scale=scale, legend=legend)),
        text,
    ).properties(width={"step": 40}, height={"step": 30})
    same = table[(table["layer"] == table["teacher_layer"]) & (table["view"] == views[0])]
    cells = zip(same["method"], same["layer"], same["mean"], strict=True)
    words = ", ".join(f"{label(m)} {layer} {value:.2f}" for m, layer, value in cells)
    view: dict[str, Any] = {"name": "view", "value": views[0]}
    if len(views) > 1:
        view["bind"] = alt.binding_radio(options=views, name="view: ")
    subtitle = f"linear CKA, {few} labels per class, mean over seeds, {parts.counts(table['n'])}"
    return (
        panel.add_params(alt.param(**view))
        .facet(column=parts.methods_column(methods), spacing=14)
        .properties(
            title=alt.Title(
                f"Similarity of the layers of {network} to its teacher's",
                subtitle=f"{subtitle}; 1: the same up to rotation and scale",
            ),
            description=f"Similarity (CKA) of each layer to the teacher's of the same name: "
            f"{words}.",
        )
    )


def _baseline_and_one(methods: list[str]) -> list[str]:
    """Choose the baseline and kd; without kd the first other method."""
    others = [method for method in methods if method != BASELINE]
    return [BASELINE, *(["kd"] if "kd" in others else others[:1])]
