"""Teachers and students of many architectures."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdlib import UsageError
from kdlib.report.charts import parts
from kdlib.report.charts.look import COLOURS, LINES, order

TOOLTIP: list[Any] = [
    *("method:N", "teacher:N", "network:N"),
    *parts.numbers("+.1f", ("gain", "low", "high")),
    "n:Q",
]
MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down"]  # of networks


def grid(pairs: pd.DataFrame) -> alt.FacetChart:
    """Draw what methods add for every pair of teacher and student: a panel per method.

    `pairs` is `standings.pairs` of one label budget. The number is the gain over the baseline in
    points; with "≈" before it its 95 % t interval holds 0.
    """
    table = _gains(pairs)
    holds_zero = (table["low"] <= 0) & (table["high"] >= 0)
    table["text"] = np.where(holds_zero, "≈ ", "") + table["gain"].map("{:+.1f}".format)
    far = float(table["gain"].abs().max()) or 1.0
    students, teachers = (list(dict.fromkeys(table[c])) for c in ("network", "teacher"))
    base = alt.Chart(table).encode(
        x=alt.X("teacher:N", sort=teachers, title="teacher", axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("network:N", sort=students, title="student"),
        tooltip=[
            *TOOLTIP,
            *parts.numbers(".1f", ("baseline", "accuracy"), unit=", %"),
            parts.number("smaller:Q", "teacher / student, parameters", ".1f"),
        ],
    )
    colour = alt.Color(
        "gain:Q",
        title="minus baseline, points",
        scale=alt.Scale(scheme="blueorange", reverse=True, domain=[-far, far]),
        legend=alt.Legend(gradientLength=180, titleLimit=200),
    )
    dark = f"datum.gain > {0.55 * far} || datum.gain < {-0.8 * far}"
    white = alt.condition(dark, alt.value("white"), alt.value("black"))
    panel = alt.layer(
        base.mark_rect().encode(color=colour),
        base.mark_text(fontSize=11).encode(text="text:N", color=white),
    ).properties(width={"step": 54}, height={"step": 34})
    rows = table.itertuples()
    words = "; ".join(f"{r.method}, {r.teacher} to {r.network}: {r.text}" for r in rows)
    column = alt.Column("method:N", sort=order(table["method"]), title=None)
    return panel.facet(column=column, spacing=14).properties(
        title=alt.Title(
            "What distillation adds, pair by pair",
            subtitle="test accuracy minus baseline, points: "
            f"{parts.over(table['n'], 'paired seeds')}; ≈: an interval with 0",
        ),
        description=f"Points of test accuracy minus baseline. {words}.",
    )


def gaps(pairs: pd.DataFrame) -> alt.HConcatChart:
    """Draw the gains of `standings.pairs` over the capacity gap, and over the baseline's errors.

    Left: how many times as many parameters as its student the teacher has. Right: the errors of
    the baseline. A reader chooses the method; bars are 95 % t intervals.
    """
    table = _gains(pairs)
    table["errors"] = (100 - table["baseline"]).round(2)
    methods, students = order(table["method"]), list(dict.fromkeys(table["network"]))
    radio = alt.binding_radio(options=methods, name="method: ")
    base = alt.Chart(table).transform_filter("datum.method == method")
    base = base.encode(color=parts.colour(table).legend(None), tooltip=TOOLTIP)
    shape = alt.Shape(
        "network:N",
        sort=students,
        scale=alt.Scale(domain=students, range=MARKS),
        legend=alt.Legend(symbolFillColor=LINES, symbolStrokeColor=LINES),
    )
    steps = alt.Axis(values=[1, 3, 10, 30, 100, 300, 1000], format=",", grid=False)
    wide = alt.Scale(type="log", nice=False, padding=14)
    near = alt.Scale(zero=False, nice=False, padding=14)
    xs = [
        alt.X("smaller:Q", title="parameters, teacher over student", scale=wide, axis=steps),
        alt.X("errors:Q", title="errors of the baseline, %", scale=near),
    ]
    y, low = (alt.Y(f"{c}:Q", title="minus baseline, points") for c in ("gain", "low"))
    points = base.mark_point(filled=True, size=80, opacity=0.9).encode(y=y, shape=shape)
    panels = [
        alt.layer(
            parts.reference(alt.YDatum(0)),
            parts.interval(base.encode(x=x), low, width=1.4),
            points.encode(x=x),
        ).properties(width=270, height=230)
        for x in xs
    ]
    first = table[table["method"] == methods[0]].itertuples()
    words = "; ".join(
        f"{r.teacher} to {r.network}, {r.smaller:.1f} times: {r.gain:+.1f}" for r in first
    )
    return (
        alt.hconcat(*panels, spacing=20)
        .add_params(alt.param(name="method", value=methods[0], bind=radio))
        .properties(
            title=alt.Title(
                "The gap in size, and the room for improvement",
                subtitle="a mark is a pair of networks, its shape the student; 95 % t interval",
            ),
            description=f"{methods[0]} minus baseline, points, by how much larger the teacher is: "
            f"{words}.",
        )
    )


def blocks(shapes: pd.DataFrame) -> alt.FacetChart:
    """Draw networks as rows of boxes, one per layer: as high as its maps, as wide as its channels.

    `shapes` has the columns network, layer, channels, side (pixels; 1 for a vector). Both are drawn
    by their square root: further on, boxes are lower and wider, fewer places and more channels.
    """
    names = list(dict.fromkeys(shapes["network"]))
    stages = list(dict.fromkeys(shapes["layer"]))
    table = _boxes(shapes, stages)
    axis = alt.Axis(
        values=list(range(len(stages))),
        labelExpr=f"{json.dumps(stages)}[datum.value]",
        title=None,
        grid=False,
    )
    x = alt.X("left:Q", axis=axis, scale=alt.Scale(domain=[-0.6, len(stages) - 0.4], nice=False))
    y = alt.Y("low:Q", axis=None, scale=alt.Scale(domain=[-0.75, 0.62], nice=False))
    side = alt.Tooltip("side:Q", title="pixels by side")
    tooltip = ["network:N", "layer:N", "channels:Q", side]
    box = alt.Chart().mark_rect(color=COLOURS["kd"], opacity=0.55, stroke=LINES)
    box = box.encode(x=x, x2="right:Q", y=y, y2="high:Q", tooltip=tooltip)
    words = (
        alt.Chart().mark_text(fontSize=11).encode(x="middle:Q", y=alt.datum(-0.66), text="text:N")
    )
    head = alt.Header(labelOrient="top", labelAnchor="start", title=None)
    words_by_layer = "; ".join(f"{r.network} {r.layer}: {r.text}" for r in table.itertuples())
    return (
        alt.layer(box, words, data=table)
        .properties(width=600, height=110)
        .facet(row=alt.Row("network:N", sort=names, title=None, header=head), spacing=6)
        .properties(
            title=alt.Title(
                "The networks, layer by layer",
                subtitle="height: pixels by side; width: channels; below: channels × pixels",
            ),
            description=f"Channels times pixels of every layer. {words_by_layer}.",
        )
    )


def _gains(pairs: pd.DataFrame) -> pd.DataFrame:
    """Give the gains of `standings.pairs` in points."""
    if pairs.empty:
        raise UsageError("no pair of a teacher and a student to draw")
    columns = ("gain", "low", "high", "baseline", "accuracy")
    table = pairs.assign(**{c: (100 * pairs[c]).round(2) for c in columns})
    return table.assign(smaller=table["smaller"].round(2))


def _boxes(shapes: pd.DataFrame, stages: list[str]) -> pd.DataFrame:
    """Give every layer of `blocks` its rectangle and its text."""
    at = shapes["layer"].map(stages.index)
    half = 0.42 * np.sqrt(shapes["channels"] / shapes["channels"].max())
    tall = 0.5 * np.sqrt(shapes["side"] / shapes["side"].max())
    flat = shapes["side"] == 1
    pixels = np.where(flat, "", " × " + shapes["side"].astype(str) + "²")
    text = shapes["channels"].astype(str) + pixels
    return shapes.assign(
        middle=at, left=at - half, right=at + half, low=-tall, high=tall, text=text
    )
