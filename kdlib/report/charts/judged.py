"""The tests behind the verdicts, as a forest of intervals."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kdlib import UsageError
from kdlib.measure import statistics
from kdlib.report.charts.look import name
from kdlib.report.charts.parts import _colour, _methods, _number, _share


def tested(tests: pd.DataFrame) -> list[str]:
    """Say what each test of `verdicts.tests` compares: a measure and its layer."""
    words = tests["measure"].fillna("").str.removeprefix("map_").map(name)
    words = words.str[:1].str.lower() + words.str[1:]
    return [
        f"{w}, {at}" if at else w for w, at in zip(words, tests["layer"].fillna(""), strict=True)
    ]


def forest(
    tests: pd.DataFrame, title: str, *, row: str = "where", column: str = "what"
) -> alt.FacetChart:
    """Draw every test of `verdicts.tests`: mean and interval; right of 0 is for the claim.

    Panels are laid out by columns of `tests`, or by `where` (network, teacher, labels) and `what`
    (measure and layer). A full diamond speaks for or against the claim after Holm, a hollow one
    for nothing.
    """
    if tests.empty:
        raise UsageError(
            f"no tests to draw for {title!r}; baseline and a method beside it make some"
        )
    table = tests.assign(what=tested(tests), where=_where(tests)).round(4)
    table = table.loc[tests["labels"].map(statistics.size).sort_values(kind="stable").index]
    table["p_holm"] = table["p_holm"].map(lambda p: "" if pd.isna(p) else f"{p:.3f}")
    shown = ["method", "what", "where", "mean", "low", "high", "n", "p_holm", "speaks", row, column]
    table = table[list(dict.fromkeys(shown))]
    colour = _colour(table).legend(None)
    numbers = [_number(f"{c}:Q", c, "+.3f") for c in ("mean", "low", "high")]
    base = alt.Chart().encode(
        y=_methods(table),
        color=colour,
        tooltip=["method:N", "what:N", "where:N", *numbers, "n:Q", "p_holm:N"],
    )
    x = alt.X("mean:Q", title=None, axis=alt.Axis(tickCount=4, labelOverlap=True))
    points = base.mark_point(size=80, shape="diamond", opacity=1).encode(x=x)
    bars = base.mark_rule(strokeWidth=1.8).encode(x=alt.X("low:Q", title=None), x2="high:Q")
    panel = alt.layer(
        alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(x=alt.datum(0)),
        bars.transform_filter("isValid(datum.low)"),
        points.transform_filter("isValid(datum.mean)"),
        points.encode(fill=colour).transform_filter("isValid(datum.mean) && datum.speaks != 0"),
        data=_whole(table, row, column),
    ).properties(width=_share(560, table[column].nunique()), height={"step": 20})
    n = "/".join(str(k) for k in sorted(set(table["n"].astype(int))))
    said = "; ".join(f"{r.method}, {r.what}, {r.where}: {r.mean:+.3g}" for r in table.itertuples())
    title_lines = [
        f"right of 0 agrees with the claim; mean of n = {n} seeds with 95 % t interval",
        "full diamond: speaks for or against it, after Holm; hollow: for nothing",
    ]
    lines = alt.Header(labelExpr="split(datum.value, ', ')", labelFontSize=11)
    side = alt.Header(
        labelExpr="split(datum.value, ', ')", labelFontSize=11, labelAngle=0, labelAlign="left"
    )
    return panel.facet(
        row=alt.Row(f"{row}:N", sort=list(dict.fromkeys(table[row])), title=None, header=side),
        column=alt.Column(
            f"{column}:N", sort=list(dict.fromkeys(table[column])), title=None, header=lines
        ),
        spacing=14,
    ).properties(
        title=alt.Title(title, subtitle=title_lines),
        description=f"{title}. Right of 0 agrees with the claim. Means: {said}.",
    )


def _where(tests: pd.DataFrame) -> list[str]:
    """Name the cells' label budgets, and network and teacher where there are several."""
    several = [c for c in ("network", "teacher") if tests[c].nunique() > 1]
    words = [f"{b} labels" for b in tests["labels"]]
    return [", ".join(w) for w in zip(*(tests[c] for c in several), words, strict=True)]


def _whole(table: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    """Give every panel at least one line: Vega-Lite moves others into the place of one without."""
    panels = pd.MultiIndex.from_product([table[row].unique(), table[column].unique()])
    missing = panels.difference(pd.MultiIndex.from_frame(table[[row, column]]))
    return pd.concat([table, pd.DataFrame(list(missing), columns=[row, column])])
