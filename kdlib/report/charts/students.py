"""Accuracy of students: by label budget, minus the baseline's, beside their own teachers."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlib.measure import statistics
from kdlib.report.charts import parts
from kdlib.report.charts.look import LABEL_EXPR, LINES, budgets, label
from kdlib.store import Results


def accuracy(results: Results, *, network: str | None = None) -> alt.LayerChart | alt.FacetChart:
    """Draw test accuracy against labels per class: means with 95 % t intervals, a dot per seed."""
    runs = parts.students(results, network)
    network = runs["network"].iloc[0]
    table = runs.assign(accuracy_pct=100 * runs["test_accuracy"])
    table = parts.with_means(table[["method", "labels", "seed", "accuracy_pct"]], "accuracy_pct")
    steps, title = budgets(runs), "test accuracy, %"
    table = parts.with_ends(table, "accuracy_pct", {"labels": steps[-1]}, 20 / 300)
    base = alt.Chart().encode(
        x=alt.X("labels:N", sort=steps, title="labels per class"),
        xOffset=parts.beside(table),
        color=parts.short_legend(table),
        opacity=parts.fade(table["method"]),
    )
    marks = parts.over_seeds(base, "accuracy_pct", title, ["method:N", parts.LABELS], ".1f")
    marks[0] = marks[0].add_params(parts.chosen())  # which the layer with a legend must hold
    n = runs.groupby(["method", "labels"])["seed"].nunique()
    chart = alt.layer(*_teacher(results), *marks, parts.ends(table, title), data=table)
    return chart.properties(
        width=560,
        height=300,
        title=alt.Title(
            f"Test accuracy of {network}",
            subtitle=f"{parts.over(n)}; dots: single seeds",
        ),
        description=parts.spoken(table, "accuracy_pct", "Test accuracy in percent"),
    )


def regimes(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw test accuracy against labels per class, a panel for what the teacher learnt from.

    A line through the means of every method and, dashed, of the teachers themselves; a band for
    the 95 % t interval over seeds, where there is more than one.
    """
    network = parts.students(results, network)["network"].iloc[0]
    panels = statistics.regimes(results)
    runs = pd.concat([_with_teachers(results, network, regime) for regime in panels])
    runs["difference"] = 100 * runs["test_accuracy"]
    table = statistics.summarise(runs, ["regime", "method", "labels"]).round(2)
    table = table[["regime", "method", "labels", *parts.INTERVAL, "n"]]
    base = alt.Chart().encode(
        x=alt.X("labels:N", sort=budgets(table), title="labels per class"),
        color=parts.colour(table).legend(symbolOpacity=1, labelExpr=LABEL_EXPR),
        opacity=parts.fade(table["method"]),
    )
    y = alt.Y("mean:Q", title="test accuracy, %", scale=alt.Scale(zero=False, domainMax=100))
    tooltip = ["method:N", "labels:N", *parts.numbers(".1f", unit=", %"), "n:Q"]
    dash = alt.condition("datum.method == 'teacher'", alt.value([6, 4]), alt.value([1, 0]))
    panel = alt.layer(
        base.mark_area(clip=True).encode(
            y=alt.Y("low:Q", title="test accuracy, %"), y2="high:Q", opacity=alt.value(0.15)
        ),
        base.mark_line(strokeWidth=2.2).encode(y=y, strokeDash=dash, tooltip=tooltip),
        *([_across(y, parts.colour(table))] if len(budgets(table)) == 1 else []),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tooltip),
        data=table,
    ).properties(width=parts.share(600, len(panels)), height=260)
    column = alt.Column("regime:N", sort=panels, title="what the teacher learnt from")
    several = table["n"].max() > 1
    spread = "mean over seeds; band: 95 % interval" if several else "one seed, no interval"
    few = budgets(table)[0]
    means = "; ".join(
        f"{row.regime}, {label(row.method)} {row.mean:.1f}"
        for row in table[table["labels"] == few].itertuples()
    )
    return (
        panel.add_params(parts.chosen())
        .facet(column=column, spacing=14)
        .properties(
            title=alt.Title(
                f"Test accuracy of {network} and of its teachers",
                subtitle=f"line: {spread}; dashed: the teachers",
            ),
            description=f"Mean test accuracy in percent with {few} labels per class: {means}.",
        )
    )


def _across(y: alt.Y, colour: alt.Color) -> alt.Chart:
    """Draw the teachers as dashed rules, where a line through one budget has no length."""
    teachers = alt.Chart().transform_filter("datum.method == 'teacher'")
    return teachers.mark_rule(strokeDash=[6, 4], strokeWidth=1.6).encode(
        y=y, color=colour.legend(None)
    )


def _with_teachers(results: Results, network: str, regime: str) -> pd.DataFrame:
    """List the students of one regime and their teachers, as method "teacher"."""
    students = statistics.students(results, regime)
    students = students[students["network"] == network]
    teachers = results.runs[results.runs["run"].isin(students["teacher"])].assign(method="teacher")
    if regime == "full":  # the same for every number of its students' labels
        teachers = pd.concat([teachers.assign(labels=labels) for labels in budgets(students)])
    return pd.concat([students, teachers]).assign(regime=regime)


def gains(results: Results, *, network: str | None = None) -> alt.LayerChart | alt.FacetChart:
    """Draw each method minus the baseline, in points: every seed, the mean, its 95 % t interval."""
    network = parts.students(results, network)["network"].iloc[0]
    points = statistics.differences(results, statistics.ACCURACY)
    points = parts.of_network(points, network)
    means = parts.of_network(statistics.paired(results, statistics.ACCURACY), network)
    table = pd.concat([points, means]).drop(columns=["network", "layer"])
    scaled = ["difference", *parts.INTERVAL]
    table[scaled] = (100 * table[scaled].astype(float)).round(2)
    base = alt.Chart(table).encode(
        x=alt.X("labels:N", sort=budgets(means), title="labels per class"),
        xOffset=parts.offset(means),
        color=parts.short_legend(means),
        opacity=parts.fade(means["method"]),
    )
    zero, *marks = parts.differences(base, "minus baseline, points", ["method:N", parts.LABELS])
    marks[0] = marks[0].add_params(parts.chosen())  # which the layer with a legend must hold
    return alt.layer(zero, *marks).properties(
        width=600,
        height=260,
        title=alt.Title(
            f"Each method minus baseline, {network}, in points of test accuracy",
            subtitle=f"diamond: {parts.over(means['n'], 'paired seeds')}; ticks: seeds",
        ),
        description=parts.spoken(
            means.assign(points=100 * means["mean"]),
            "points",
            "Points of test accuracy minus baseline",
        ),
    )


def _teacher(results: Results) -> list[alt.Chart]:
    """Draw the mean teacher as a dashed rule with its name; nothing where there is none."""
    runs = results.runs
    regime = statistics.regimes(results)[0]  # of the students in the chart
    teachers = runs[(runs["role"] == "teacher") & (runs["regime"] == regime)]
    if teachers.empty:
        return []
    mean = pd.DataFrame({"accuracy_pct": [100 * teachers["test_accuracy"].mean()]})
    words = f"teacher {teachers['network'].iloc[0]}, {mean['accuracy_pct'][0]:.1f} %"
    rule = alt.Chart(mean).mark_rule(strokeDash=[6, 4], color=LINES).encode(y="accuracy_pct:Q")
    text = alt.Chart(mean).mark_text(
        align="right", baseline="bottom", dx=-4, dy=-4, fontSize=11, color=LINES, text=words
    )
    return [rule, text.encode(y="accuracy_pct:Q", x=alt.value("width"))]
