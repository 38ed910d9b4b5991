"""The tests behind the verdicts, as a forest of intervals."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from kdlib import UsageError
from kdlib.measure import statistics
from kdlib.measure.faithfulness import LAYER_MEASURES
from kdlib.report.charts import parts
from kdlib.report.charts.look import name


def test_labels(tests: pd.DataFrame) -> list[str]:
    """Return what each test of `verdicts.tests` compares: a measure and its layer."""
    words = tests["measure"].fillna("").replace(LAYER_MEASURES).map(name)
    words = words.str[:1].str.lower() + words.str[1:]
    layers = tests["layer"].fillna("")
    return [f"{w}, {layer}" if layer else w for w, layer in zip(words, layers, strict=True)]


def forest(
    tests: pd.DataFrame, title: str, *, row: str = "where", column: str = "what"
) -> alt.FacetChart:
    """Draw every test of `verdicts.tests`: mean and interval; right of 0 is for the claim.

    Panels are laid out by columns of `tests`, or by `where` (network, teacher, labels) and `what`
    (measure and layer). A full diamond speaks for or against the claim after Holm, a hollow one
    for nothing.
    """
    if tests.empty:
        raise UsageError(f"no tests to draw for {title!r}; a baseline and a method make some")
    table = tests.assign(what=test_labels(tests), where=_where(tests)).round(4)
    table = table.loc[tests["labels"].map(statistics.size).sort_values(kind="stable").index]
    table["p_holm"] = table["p_holm"].map(lambda p: "" if pd.isna(p) else f"{p:.3f}")
    columns = ["method", "what", "where", *parts.INTERVAL, "n", "p_holm", "speaks", row, column]
    table = table[list(dict.fromkeys(columns))]
    colour: Any = parts.colour(table).legend(None)
    base = alt.Chart().encode(
        y=parts.methods_axis(table),
        color=colour,
        tooltip=["method:N", "what:N", "where:N", *parts.numbers("+.3f"), "n:Q", "p_holm:N"],
    )
    x = alt.X("mean:Q", title=None, axis=alt.Axis(tickCount=4, labelOverlap=True))
    points = parts.valid(base.mark_point(size=80, shape="diamond", opacity=1).encode(x=x), "mean")
    panel = alt.layer(
        parts.reference(alt.XDatum(0)),
        parts.interval(base, alt.X("low:Q", title=None), width=1.8),
        points,
        points.encode(fill=colour).transform_filter("datum.speaks != 0"),
        data=_every_panel(table, row, column),
    ).properties(width=parts.share(560, table[column].nunique()), height={"step": 20})
    means = "; ".join(f"{r.method}, {r.what}, {r.where}: {r.mean:+.3g}" for r in table.itertuples())
    n = parts.counts(table["n"])
    subtitle = [
        f"right of 0 agrees with the claim; mean of {n} seeds with 95 % t interval",
        "full diamond: speaks for or against it, after Holm; hollow: for nothing",
    ]
    lines = alt.Header(labelExpr="split(datum.value, ', ')", labelFontSize=11)
    rows, columns = list(dict.fromkeys(table[row])), list(dict.fromkeys(table[column]))
    side = lines.copy()
    side.labelAngle, side.labelAlign = 0, "left"
    return panel.facet(
        row=alt.Row(f"{row}:N", sort=rows, title=None, header=side),
        column=alt.Column(f"{column}:N", sort=columns, title=None, header=lines),
        spacing=14,
    ).properties(
        title=alt.Title(title, subtitle=subtitle),
        description=f"{title}. Right of 0 agrees with the claim. Means: {means}.",
    )


def _where(tests: pd.DataFrame) -> list[str]:
    """Name the cells' label budgets, and network and teacher where there are several."""
    several = [c for c in ("network", "teacher") if tests[c].nunique() > 1]
    words = [f"{b} labels" for b in tests["labels"]]
    return [", ".join(w) for w in zip(*(tests[c] for c in several), words, strict=True)]


def _every_panel(table: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    """Give every panel at least one line: Vega-Lite moves others into the place of one without."""
    panels = pd.MultiIndex.from_product([table[row].unique(), table[column].unique()])
    missing = panels.difference(pd.MultiIndex.from_frame(table[[row, column]]))
    return pd.concat([table, pd.DataFrame(list(missing), columns=[row, column])])
