"""What several charts share: students, colours, intervals, words for those who cannot see."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.measure import statistics
from kdlib.report.charts.look import budgets, colours, order
from kdlib.store import Results


def _students(results: Results, network: str | None) -> pd.DataFrame:
    """Pick the students of one network, by default the first; of the fullest teachers there are."""
    students = statistics.students(results)
    if students.empty:
        raise UsageError("these results hold no students; nothing to compare")
    network = students["network"].iloc[0] if network is None else network
    one_of("network", network, students["network"].unique())
    return students[students["network"] == network]


def _with_means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Add to a table of seeds a row per group with mean, low, high and n; seeds have none."""
    groups = [c for c in table if c not in ("seed", column)]
    means = statistics.summarise(table.assign(difference=table[column]), groups)
    means = means[[*groups, "mean", "low", "high", "n"]]
    return pd.concat([table, means]).round(4 if column == "value" else 2)


def _over_seeds(
    base: alt.Chart, column: str, title: str, where: list[Any], shown: str
) -> list[alt.Chart]:
    """Draw a table of `_with_means`: dots, intervals, and a line through the means."""
    scale = alt.Scale(zero=False)
    numbers = [_number(f"{c}:Q", c, shown) for c in ("mean", "low", "high")]
    mean = base.encode(
        y=alt.Y("mean:Q", title=title, scale=scale), tooltip=[*where, *numbers, "n:Q"]
    ).transform_filter("isValid(datum.mean)")
    return [
        base.mark_circle(size=12)
        .encode(
            y=alt.Y(f"{column}:Q", title=title, scale=scale),
            tooltip=[*where, "seed:N", _number(f"{column}:Q", title, shown)],
        )
        .transform_filter(f"isValid(datum.{column})"),
        base.mark_rule(strokeWidth=1.3)
        .encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
        .transform_filter("isValid(datum.low)"),
        mean.mark_line(strokeWidth=2),
        mean.mark_point(filled=True, size=34, opacity=1),
    ]


def _beside(table: pd.DataFrame, padding: int | float = 1.5) -> alt.XOffset:
    """Set methods a little apart, so that their intervals can be told apart."""
    return alt.XOffset("method:N", sort=order(table["method"]), scale=alt.Scale(padding=padding))


def _colour(table: pd.DataFrame) -> alt.Color:
    palette = colours(table["method"].unique())
    scale = alt.Scale(domain=list(palette), range=list(palette.values()))
    return alt.Color("method:N", scale=scale, sort=list(palette))


def _chosen() -> alt.Parameter:
    """Let a click on the legend single out methods; shift adds, a click elsewhere shows all."""
    return alt.selection_point(name="chosen", fields=["method"], bind="legend")


def _fade() -> Any:
    return alt.condition(
        "!length(data('chosen_store')) || vlSelectionTest('chosen_store', datum)",
        alt.value(0.9),
        alt.value(0.12),
    )


def _number(field: str, title: str, shown: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format=shown)


def _header(anchor: Literal["start", "middle"]) -> alt.Header:
    """Name a panel by its label budget."""
    words = "datum.value == 'all' ? 'all labels' : datum.value + ' labels per class'"
    return alt.Header(labelExpr=words, labelOrient="top", labelAnchor=anchor, labelPadding=4)


def _share(width: int, panels: int) -> int:
    return max(120, width // panels)


def _spoken(table: pd.DataFrame, column: str, what: str) -> str:
    """Say in two sentences what the chart shows, for those who cannot see it."""
    few = budgets(table)[0]
    means = table[table["labels"] == few].groupby("method")[column].mean()
    parts = ", ".join(f"{method} {means[method]:.3g}" for method in order(means.index))
    return f"{what}, by labels per class. On average with {few} labels per class: {parts}."


def _methods(table: pd.DataFrame) -> alt.Y:
    return alt.Y("method:N", scale=alt.Scale(domain=order(table["method"])), title=None)
