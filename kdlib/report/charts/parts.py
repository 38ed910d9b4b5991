"""What several charts share: students, colours, intervals, words for those who cannot see."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from kdlib import UsageError, one_of
from kdlib.measure import statistics
from kdlib.plan.methods import BASELINE
from kdlib.report.charts.look import LABEL_EXPR, LINES, budgets, colours, label, order
from kdlib.store import Results

MANY = 11  # methods; of more a chart names those of FOCUS
FOCUS = (BASELINE, "kd", "pseudo", "shuffled", "teacher")  # what the argument of the book rests on
INTERVAL = ("mean", "low", "high")
LABELS = alt.Tooltip("labels:N", title="labels per class")


def students(results: Results, network: str | None) -> pd.DataFrame:
    """Pick the students of one network, by default the first; of the fullest teachers there are."""
    runs = statistics.students(results)
    if runs.empty:
        raise UsageError("these results hold no students; nothing to compare")
    network = runs["network"].iloc[0] if network is None else network
    one_of("network", network, runs["network"].unique())
    return runs[runs["network"] == network]


def of_network(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Pick the rows of paired differences of one network. Raises UsageError without any."""
    rows = table[table["network"] == network]
    if rows.empty:
        raise UsageError(
            f"no student of {network} shares labels and seed with a baseline; nothing to compare"
        )
    return rows


# ---- intervals over seeds ----------------------------------------------------------------------


def with_means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Add to a table of seeds a row per group with mean, low, high and n; seeds have none."""
    groups = [c for c in table if c not in ("seed", column)]
    means = statistics.summarise(table.assign(difference=table[column]), groups)
    means = means[[*groups, *INTERVAL, "n"]]
    return pd.concat([table, means], ignore_index=True).round(4 if column == "value" else 2)


def over_seeds(
    base: alt.Chart, column: str, title: str, where: list[Any], form: str
) -> list[alt.Chart]:
    """Draw a table of `with_means`: dots, intervals, and a line through the means."""
    y, low, mean = (
        alt.Y(f"{c}:Q", title=title, scale=alt.Scale(zero=False)) for c in (column, "low", "mean")
    )
    means = valid(base.encode(y=mean, tooltip=[*where, *numbers(form), "n:Q"]), "mean")
    seed = [*where, "seed:N", number(f"{column}:Q", title, form)]
    return [
        valid(base.mark_circle(size=12).encode(y=y, tooltip=seed), column),
        interval(base, low, width=1.3),
        means.mark_line(strokeWidth=2),
        means.mark_point(filled=True, size=34, opacity=1),
    ]


def differences(
    base: alt.Chart, title: str, where: list[Any], form: str = "+.1f", size: int = 80
) -> list[alt.Chart]:
    """Draw paired differences: a line at zero, intervals, a diamond per mean, a tick per seed.

    Rows are seeds with a `difference`, and groups with mean, low, high and n.
    """
    y, low, mean = (alt.Y(f"{c}:Q", title=title) for c in ("difference", "low", "mean"))
    diamonds = base.mark_point(filled=True, size=size, shape="diamond")
    ticks = base.mark_tick(size=size / 8 + 1, thickness=1.5)
    seed = [*where, "seed:N", number("difference:Q", "difference", form)]
    return [
        reference(alt.YDatum(0)),
        interval(base, low, width=1.6),
        valid(diamonds.encode(y=mean, tooltip=[*where, *numbers(form), "n:Q"]), "mean"),
        valid(ticks.encode(y=y, tooltip=seed), "difference"),
    ]


def interval(
    base: alt.Chart, low: alt.X | alt.Y, high: str = "high", *, width: float, column: str = "low"
) -> alt.Chart:
    """Draw a rule from `low` to the column `high`, where the row's `column` is a number."""
    axis = "x" if isinstance(low, alt.X) else "y"
    return valid(base.mark_rule(strokeWidth=width).encode(**{axis: low, f"{axis}2": high}), column)


def valid(chart: alt.Chart, column: str) -> alt.Chart:
    """Draw only rows in which a column is a number."""
    return chart.transform_filter(f"isValid(datum.{column})")


def reference(at: alt.X | alt.XDatum | alt.Y | alt.YDatum) -> alt.Chart:
    """Draw a dashed line across the panel; `at` is alt.XDatum(0) or alt.YDatum(0) for zero."""
    axis = "x" if isinstance(at, (alt.X, alt.XDatum)) else "y"
    return alt.Chart().mark_rule(strokeDash=[4, 3], color=LINES).encode(**{axis: at})


def joined(words: Sequence[str], last: str) -> str:
    """Join words as a sentence does, the last by "and" or "or".

    >>> joined(["a", "b", "c"], "and")
    'a, b and c'
    """
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def listed(numbers: Iterable[int | float]) -> str:
    """List distinct numbers, of more than three the ends: "1, 4 or 5", "1 to 5".

    >>> listed([5, 1, 4, 5])
    '1, 4 or 5'
    """
    words = [str(number) for number in sorted({int(number) for number in numbers})]
    if len(words) > 3:
        return f"{words[0]} to {words[-1]}"
    return joined(words, "or")


def counts(n: Iterable[int | float]) -> str:
    """Write the numbers of seeds behind a chart: "n = 3 or 5"."""
    return f"n = {listed(n)}"


def over(n: Iterable[int | float], noun: str = "seeds") -> str:
    """Write what a chart averages: "mean of n = 5 seeds, 95 % t interval"; of one seed, that."""
    numbers = [int(k) for k in n]
    if set(numbers) == {1}:
        return "one seed: no interval"
    return f"mean of {counts(numbers)} {noun}, 95 % t interval"


def number(field: str, title: str, form: str) -> alt.Tooltip:
    """Show a number of the row that is pointed at, in the format `form`."""
    return alt.Tooltip(field, title=title, format=form)


def numbers(form: str, columns: Iterable[str] = INTERVAL, unit: str = "") -> list[alt.Tooltip]:
    """Show several numbers of the row that is pointed at: mean, low and high."""
    return [number(f"{c}:Q", c.replace("_", ", ") + unit, form) for c in columns]


# ---- methods -----------------------------------------------------------------------------------


def offset(table: pd.DataFrame) -> alt.XOffset:
    """Set methods a little apart, so that their intervals can be told apart."""
    return alt.XOffset("method:N", sort=order(table["method"]))


def colour(table: pd.DataFrame) -> alt.Color:
    """Draw every method in its colour, with a legend."""
    palette = colours(table["method"].unique())
    scale = alt.Scale(domain=list(palette), range=list(palette.values()))
    legend = alt.Legend(labelExpr=LABEL_EXPR)
    return alt.Color("method:N", scale=scale, sort=list(palette), legend=legend)


def methods_axis(table: pd.DataFrame) -> alt.Y:
    """Draw a line per method."""
    scale = alt.Scale(domain=order(table["method"]))
    return alt.Y("method:N", scale=scale, title=None, axis=alt.Axis(labelExpr=LABEL_EXPR))


def methods_column(methods: list[str]) -> alt.Column:
    """Draw a panel per method, in this order."""
    header = alt.Header(labelExpr=LABEL_EXPR)
    return alt.Column("method:N", sort=methods, title=None, header=header)


def chosen() -> alt.Parameter:
    """Let a click on the legend single out methods; shift adds, a click elsewhere shows all."""
    return alt.selection_point(name="chosen", fields=["method"], bind="legend")


def named(methods: Iterable[str]) -> list[str]:
    """Choose the methods that a chart names: all, or of many those of FOCUS."""
    names = order(methods)
    return names if len(names) <= MANY else [m for m in names if m in FOCUS]


def fade(methods: Iterable[str]) -> Any:
    """Fade the methods that are not `chosen`; without a choice those that are not `named`."""
    return _singled_out(methods, 0.9, 0.18)


def _singled_out(methods: Iterable[str], clear: float, faint: float) -> Any:
    return alt.condition(
        f"length(data('chosen_store')) ? vlSelectionTest('chosen_store', datum) : "
        f"indexof({json.dumps(named(methods))}, datum.method) >= 0",
        alt.value(clear),
        alt.value(faint),
    )


def apart(ends: pd.Series, gap: float) -> pd.Series:
    """Move numbers `gap` apart, in their order and as little as can be: for names at line ends."""
    ends = ends.sort_values(kind="stable")
    room = gap * np.arange(len(ends))
    return pd.Series(isotonic_regression(ends - room).x + room, index=ends.index)


# ---- names at the ends of lines ----------------------------------------------------------------


def beside(table: pd.DataFrame) -> alt.XOffset:
    """Set methods apart within a sixth of the room of one x: they belong to it, not to the next.

    Vega takes no more than one step of padding, so empty places stand on both sides.
    """
    methods = order(table["method"])
    empty = round(2.5 * max(1, len(methods) - 1))
    left, right = ([f"{side}{i}" for i in range(empty)] for side in "<>")
    return alt.XOffset("method:N", scale=alt.Scale(domain=[*left, *methods, *right]))


def short_legend(table: pd.DataFrame) -> alt.Color:
    """Draw every method in its colour; the legend has those only that the chart names."""
    return colour(table).legend(labelExpr=LABEL_EXPR, values=named(table["method"]))


def with_ends(table: pd.DataFrame, column: str, end: dict[str, str], share: float) -> pd.DataFrame:
    """Add to a table of `with_means` where names stand, as `place`: in rows of means at `end`.

    `end` is a value for each of some columns: the last x, the last panel. Names of `named` methods
    stand `share` of the axis apart, the others' where their lines end.
    """
    here = table["mean"].notna() & (table[list(end)] == pd.Series(end)).all(axis=1)
    values = table[[column, "low", "high", "mean"]].astype(float)
    span = values.max(axis=None) - values.min(axis=None)
    known = table["method"].isin(named(table["method"]))
    places = apart(table.loc[here & known, "mean"], gap=max(span, 1e-3) * share)
    return table.assign(place=places.combine_first(table.loc[here & ~known, "mean"]))


def ends(table: pd.DataFrame, title: str) -> alt.Chart:
    """Write names where `with_ends` placed them: of the named methods, or of those `chosen`."""
    words = alt.Chart().mark_text(align="left", dx=6, fontSize=11)
    return valid(words, "place").encode(
        x=alt.value("width"),
        y=alt.Y("place:Q", title=title, scale=alt.Scale(zero=False)),
        text="method:N",
        color=short_legend(table),
        opacity=_singled_out(table["method"], 1.0, 0.0),
    )


# ---- panels and words --------------------------------------------------------------------------


def budget_header(anchor: Literal["start", "middle"]) -> alt.Header:
    """Name a panel by its label budget."""
    words = "datum.value == 'all' ? 'all labels' : datum.value + ' labels per class'"
    return alt.Header(labelExpr=words, labelOrient="top", labelAnchor=anchor, labelPadding=4)


def share(width: int, panels: int) -> int:
    """Return the width of one of several panels, in pixels."""
    return max(120, width // panels)


def spoken(table: pd.DataFrame, column: str, what: str) -> str:
    """Describe the chart in two sentences, for those who cannot see it."""
    few = budgets(table)[0]
    means = table[table["labels"] == few].groupby("method")[column].mean()
    parts = ", ".join(f"{label(method)} {means[method]:.3g}" for method in order(means.index))
    return f"{what}, by labels per class. On average with {few} labels per class: {parts}."
