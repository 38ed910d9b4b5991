"""What a verdict rests on: the headline and the methods of every cell, as a forest of intervals."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from kdlib import UsageError
from kdlib.embed import TITLES
from kdlib.measure import statistics
from kdlib.report.charts import parts
from kdlib.report.charts.look import LINES, colours, order

ALL = "all methods"  # the line of the headline
PANEL = ["where", "labels"]


def forest(cells: pd.DataFrame, methods: pd.DataFrame, title: str, unit: str) -> alt.FacetChart:
    """Draw cells of one claim: the headline of each, and below it its methods.

    `cells` and `methods` are those of `verdicts`; right of 0 agrees with the claim, in `unit`. A
    column of panels for each label budget, and a row for each network, kind of teacher and space
    where there are several. A full diamond has an interval that excludes 0.
    """
    if cells.empty:
        raise UsageError(f"no cells to draw for {title!r}; a baseline and a method make some")
    table = _lines(cells, methods)
    lines = [ALL, *order(set(table["method"]) - {ALL})]
    palette = colours(lines[1:]) | {ALL: LINES}
    scale = alt.Scale(domain=list(palette), range=list(palette.values()))
    colour: Any = alt.Color("method:N", scale=scale, legend=None)
    base = alt.Chart().encode(
        y=alt.Y("method:N", scale=alt.Scale(domain=lines), title=None),
        color=colour,
        tooltip=["method:N", parts.LABELS, "where:N", *parts.numbers("+.3f"), "n:Q"],
    )
    x = alt.X("mean:Q", title=None, axis=alt.Axis(tickCount=4, labelOverlap=True))
    points = parts.valid(base.mark_point(size=80, shape="diamond", opacity=1).encode(x=x), "mean")
    panel = alt.layer(
        parts.reference(alt.XDatum(0)),
        parts.interval(base, alt.X("low:Q", title=None), width=1.8),
        points,
        points.encode(fill=colour).transform_filter("datum.excludes"),
        data=_every_panel(table),
    ).properties(width=parts.share(560, table["labels"].nunique()), height={"step": 20})
    budgets = sorted(set(table["labels"]), key=statistics.size)
    rows = list(dict.fromkeys(table["where"]))
    side = alt.Header(
        labelExpr="split(datum.value, ', ')", labelAngle=0, labelAlign="left", labelFontSize=11
    )
    means = "; ".join(
        f"{r.method}, {r.labels} labels{', ' * bool(r.where)}{r.where}: {r.mean:+.3g}"
        for r in table.itertuples()
    )
    return panel.facet(
        row=alt.Row("where:N", sort=rows, title=None, header=side),
        column=alt.Column(
            "labels:N", sort=budgets, title=None, header=parts.budget_header("middle")
        ),
        spacing=14,
    ).properties(
        title=alt.Title(
            title,
            subtitle=[
                f"{unit}; right of 0 agrees with the claim; {parts.over(table['n'])}",
                f"full diamond: the interval excludes 0; {ALL}: the headline of the cell",
            ],
        ),
        description=f"{title}, in {unit}. Right of 0 agrees with the claim. Means: {means}.",
    )


def _lines(cells: pd.DataFrame, methods: pd.DataFrame) -> pd.DataFrame:
    """Lay out a line for every headline of several methods, and one for every method."""
    headlines = cells[cells["methods"] > 1].assign(method=ALL)
    columns = ["network", "teacher", "space", "labels", "method", *parts.INTERVAL, "n"]
    tables = [table[columns] for table in (headlines, methods) if len(table)]
    table = pd.concat(tables, ignore_index=True).dropna(subset="mean")
    several = [c for c in ("network", "teacher", "space") if table[c].nunique() > 1]
    words = table[several].replace({"space": TITLES}).itertuples(index=False)
    table["where"] = [", ".join(row) for row in words] if several else ""
    table["excludes"] = (table["low"] > 0) | (table["high"] < 0)
    return table[[*PANEL, "method", *parts.INTERVAL, "n", "excludes"]].round(4)


def _every_panel(table: pd.DataFrame) -> pd.DataFrame:
    """Give every panel at least one line: Vega-Lite moves others into the place of one without."""
    panels = pd.MultiIndex.from_product([table[column].unique() for column in PANEL])
    missing = panels.difference(pd.MultiIndex.from_frame(table[PANEL]))
    return pd.concat([table, pd.DataFrame(list(missing), columns=PANEL)])
