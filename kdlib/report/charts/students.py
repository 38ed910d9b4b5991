"""Accuracy of students: against labels, gained over baseline, beside their own teachers."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlib import UsageError
from kdlib.measure import statistics
from kdlib.plan.runs import regime_of
from kdlib.report.charts.look import budgets, order
from kdlib.report.charts.parts import (
    _beside,
    _chosen,
    _colour,
    _fade,
    _number,
    _over_seeds,
    _share,
    _spoken,
    _students,
    _with_means,
)
from kdlib.store import Results


def accuracy(results: Results, *, network: str | None = None) -> alt.LayerChart | alt.FacetChart:
    """Draw test accuracy against labels per class: means with 95 % t intervals, a dot per seed."""
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    table = runs.assign(accuracy_pct=100 * runs["test_accuracy"])
    table = _with_means(table[["method", "labels", "seed", "accuracy_pct"]], "accuracy_pct")
    base = alt.Chart(table).encode(
        x=alt.X("labels:N", sort=budgets(runs), title="labels per class"),
        xOffset=_beside(table, padding=6.0),
        color=_colour(table),
        opacity=_fade(),
    )
    n = int(runs["seed"].nunique())
    marks = _over_seeds(base, "accuracy_pct", "test accuracy, %", ["method:N", "labels:N"], ".1f")
    return (
        alt.layer(*_teacher(results), *marks)
        .add_params(_chosen())
        .properties(
            width=600,
            height=300,
            title=alt.Title(
                f"Test accuracy of {network}",
                subtitle=f"mean of {n} seeds with 95 % t interval; dots: single seeds",
            ),
            description=_spoken(table, "accuracy_pct", "Test accuracy in percent"),
        )
    )


def regimes(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw test accuracy against labels per class, a panel for what the teacher learnt from.

    A line through the means of every method and, dashed, of the teachers themselves; a band for
    the 95 % t interval over seeds, where there is more than one.
    """
    network = _students(results, network)["network"].iloc[0]
    parts = []
    for regime in statistics.regimes(results):
        students = statistics.students(results, regime).query("network == @network")
        taught = students.loc[students["method"] != "baseline", "run"].map(statistics.teacher)
        teachers = results.runs[results.runs["run"].isin(taught)].assign(method="teacher")
        if regime == "full":  # the same for every number of its students' labels
            each = [teachers.assign(labels=labels) for labels in budgets(students)]
            teachers = pd.concat(each)
        parts.append(pd.concat([students, teachers]).assign(regime=regime))
    runs = pd.concat(parts).assign(difference=lambda t: 100 * t["test_accuracy"])
    table = statistics.summarise(runs, ["regime", "method", "labels"]).round(2)
    table = table[["regime", "method", "labels", "mean", "low", "high", "n"]]
    base = alt.Chart().encode(
        x=alt.X("labels:N", sort=budgets(table), title="labels per class"),
        color=_colour(table).legend(symbolOpacity=1),
        opacity=_fade(),
    )
    y = alt.Y("mean:Q", title="test accuracy, %", scale=alt.Scale(zero=False, domainMax=100))
    said = [_number(f"{c}:Q", t, ".1f") for c, t in (("mean", "mean, %"), ("low", "from"))]
    told = ["method:N", "labels:N", *said, _number("high:Q", "to", ".1f"), "n:Q"]
    dash = alt.condition("datum.method == 'teacher'", alt.value([6, 4]), alt.value([1, 0]))
    panel = alt.layer(
        base.mark_area(clip=True).encode(
            y=alt.Y("low:Q", title="test accuracy, %"), y2="high:Q", opacity=alt.value(0.15)
        ),
        base.mark_line(strokeWidth=2.2).encode(y=y, strokeDash=dash, tooltip=told),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=told),
        data=table,
    ).properties(width=_share(600, table["regime"].nunique()), height=260)
    shown = statistics.regimes(results)
    column = alt.Column("regime:N", sort=shown, title="what the teacher learnt from")
    means = table.set_index(["regime", "labels", "method"])["mean"]
    few = budgets(table)[0]
    spoken = "; ".join(f"{r}, {m} {means[r, few, m]:.1f}" for r, _, m in means.loc[:, [few]].index)
    return (
        panel.add_params(_chosen())
        .facet(column=column, spacing=14)
        .properties(
            title=alt.Title(
                f"Test accuracy of {network} and of its teachers",
                subtitle="line: mean over seeds; band: 95 % interval; dashed: the teachers",
            ),
            description=f"Mean test accuracy in percent with {few} labels per class: {spoken}.",
        )
    )


def gains(results: Results, *, network: str | None = None) -> alt.LayerChart | alt.FacetChart:
    """Draw what each method adds to baseline, in points: every seed, the mean, its 95 % t interval."""
    network = _students(results, network)["network"].iloc[0]
    points = statistics.differences(results, statistics.ACCURACY).query("network == @network")
    if points.empty:
        raise UsageError(
            f"no student of {network} shares labels and seed with one trained baseline"
        )
    cells = statistics.paired(results, statistics.ACCURACY).query("network == @network")
    table = pd.concat([points, cells])[
        ["method", "labels", "seed", "difference", "mean", "low", "high", "n"]
    ]
    scaled = ["difference", "mean", "low", "high"]
    table[scaled] = (100 * table[scaled].astype(float)).round(2)
    base = alt.Chart(table).encode(
        x=alt.X("labels:N", sort=budgets(cells), title="labels per class"),
        xOffset=alt.XOffset("method:N", sort=order(cells["method"])),
        color=_colour(cells),
        opacity=_fade(),
    )
    axis = alt.Axis(title="points over baseline")
    told = ["method:N", alt.Tooltip("labels:N", title="labels per class")]
    numbers = [_number(f"{c}:Q", c, "+.1f") for c in scaled[1:]]
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(y=alt.datum(0))
    bars = base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", axis=axis), y2="high:Q")
    means = base.mark_point(filled=True, size=80, shape="diamond")
    seeds = base.mark_tick(size=12, thickness=1.5).encode(
        y=alt.Y("difference:Q", axis=axis),
        tooltip=[*told, "seed:N", _number("difference:Q", "points", "+.1f")],
    )
    layered = alt.layer(
        zero,
        bars.transform_filter("isValid(datum.low)"),
        means.encode(
            y=alt.Y("mean:Q", axis=axis), tooltip=[*told, *numbers, "n:Q"]
        ).transform_filter("isValid(datum.mean)"),
        seeds.transform_filter("isValid(datum.difference)"),
    )
    n = "/".join(str(k) for k in sorted({int(k) for k in cells["n"]}))
    return layered.add_params(_chosen()).properties(
        width=600,
        height=260,
        title=alt.Title(
            f"What each method adds to {network} baseline, in points of test accuracy",
            subtitle=f"diamond: mean of n = {n} paired seeds with 95 % t interval; ticks: seeds",
        ),
        description=_spoken(
            cells.assign(points=100 * cells["mean"]),
            "points",
            "Points of test accuracy over baseline",
        ),
    )


def _teacher(results: Results) -> list[alt.Chart]:
    """Draw the mean teacher as a dashed rule with its name; nothing where there is none."""
    teachers = results.runs[results.runs["role"] == "teacher"]
    shown = statistics.regimes(results)[0]  # of the students that are drawn
    teachers = teachers[teachers["run"].map(regime_of) == shown]
    if teachers.empty:
        return []
    mean = pd.DataFrame({"accuracy_pct": [100 * teachers["test_accuracy"].mean()]})
    words = f"teacher {teachers['network'].iloc[0]}, {mean['accuracy_pct'][0]:.1f} %"
    rule = alt.Chart(mean).mark_rule(strokeDash=[6, 4], color="#888").encode(y="accuracy_pct:Q")
    text = alt.Chart(mean).mark_text(
        align="right", baseline="bottom", dy=-4, fontSize=11, color="#888", text=words
    )
    return [rule, text.encode(y="accuracy_pct:Q", x=alt.value(596))]
