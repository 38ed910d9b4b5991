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
    end = {"layer": stages[-1], "labels": steps[-1]}
    table = parts.with_ends(parts.with_means(table, "value"), "value", end, 18 / 210)
    axis = alt.Axis(labelAngle=-40)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None, axis=axis),
        xOffset=parts.beside(table),
        color=parts.short_legend(table),
        opacity=parts.fade(table["method"]),
    )
    where = ["method:N", "layer:N", parts.LABELS]
    marks = parts.over_seeds(base, "value", name(measure), where, ".3f")
    panel = alt.layer(*marks, parts.ends(table, name(measure)), data=table)
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
        color=parts.short_legend(means),
        opacity=parts.fade(means["method"]),
    )
    where = ["method:N", "layer:N", parts.LABELS]
    zero, *marks = parts.differences(base, "minus baseline", where, "+.3f", size=70)
    marks[0] = marks[0].add_params(parts.chosen())  # which the layer with a legend must hold
    header = parts.budget_header("start")
    return (
        alt.layer(zero, *marks, data=table)
        .properties(width=560, height=120)
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
    table = table[["method", "labels", "seed", "baseline", "depth", "difference"]]
    means = table.groupby(["method", "labels"], as_index=False, sort=False).agg(
        mean=("depth", "mean"),
        mean_baseline=("baseline", "mean"),
        mean_difference=("difference", "mean"),
        n=("seed", "count"),
    )
    steps = budgets(table)
    counts = means.groupby("labels")["n"].max()
    where: list[Any] = ["method:N", parts.LABELS]
    base = alt.Chart().encode(y=parts.methods_axis(table))
    axis = alt.Axis(
        title="layer",
        values=list(range(len(ticks))),
        labelExpr=f"{json.dumps(ticks)}[datum.value]",
        labelAngle=-60,
        labelOverlap=False,
        grid=True,
    )
    scale = alt.Scale(domain=[0, len(ticks) - 1], nice=False)

    def x(column: str) -> alt.X:
        return alt.X(f"{column}:Q", axis=axis, scale=scale)

    colour = parts.colour(table).legend(None)
    numbers = [
        parts.number("mean:Q", "depth", ".2f"),
        parts.number("mean_baseline:Q", "baseline", ".2f"),
        parts.number("mean_difference:Q", "layers saved", "+.2f"),
    ]
    lines = parts.valid(base.encode(tooltip=[*where, *numbers, "n:Q"]), "mean")
    seed = [*where, "seed:N", *parts.numbers(".2f", ("baseline", "depth"))]
    seeds = parts.valid(base.encode(tooltip=seed), "depth")
    baseline = lines.mark_tick(thickness=2.5, size=12, color=COLOURS[BASELINE])
    panel = alt.layer(
        lines.mark_rule(strokeWidth=1.6).encode(x=x("mean"), x2="mean_baseline:Q", color=colour),
        baseline.encode(x=x("mean_baseline")),
        seeds.mark_tick(size=8, opacity=0.6).encode(x=x("depth"), color=colour),
        lines.mark_circle(size=60, opacity=1).encode(x=x("mean"), color=colour),
        data=pd.concat([table, means.round(3)]),
    ).properties(width=parts.share(600, len(steps)), height={"step": 20})
    words = "; ".join(
        f"{row.method} at {row.labels} labels: {row.mean_difference:+.2f}"
        for row in means.itertuples()
    )
    header = parts.budget_header("middle")
    column = alt.Column("labels:N", sort=steps, title=None, header=header)
    return panel.facet(column=column, spacing=14).properties(
        title=alt.Title(
            f"Layers saved, {network}: where the probe reaches the baseline's last accuracy",
            subtitle=[
                f"dot: the method; grey tick: its baseline; left of it is sooner; means of "
                f"{parts.counts(counts)} seeds",
                "small ticks: seeds of the method",
            ],
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
