"""Methods beside each other: families, ranks, dots with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdlib import UsageError
from kdlib.measure.standings import one_network_each
from kdlib.plan.methods import BASELINE, FAMILIES, METHODS
from kdlib.report.charts import parts
from kdlib.report.charts.look import LINES, budgets, colours
from kdlib.report.charts.parts import numbers

MARKS = ("circle", "square", "diamond", "triangle-up", "cross")  # of families, in their order
GAIN = ["gain", "gain_low", "gain_high"]  # columns of `standings`
CLIPPED = ["at", "from", "to"]  # where a mean and its interval stand on an axis, see `_clipped`


def families(standings: pd.DataFrame) -> alt.FacetChart:
    """Draw test accuracy against labels per class, a panel per family: means, 95 % t intervals.

    Every panel has, in grey, the baselines of its networks; a name stands at the left of its line.
    Takes the table `standings`.
    """
    table = _panels(_some(standings))
    over = alt.selection_point(name="over", fields=["name"], on="pointerover")
    panel = alt.layer(*_lines(table, over), data=table).properties(width=270, height=280)
    names = list(dict.fromkeys(table["family"]))
    facets = panel.add_params(over).facet(
        alt.Facet("family:N", sort=names, title=None), columns=2, spacing=20
    )
    return facets.resolve_axis(x="independent").properties(
        title=alt.Title(
            "Test accuracy by family of methods",
            subtitle=f"{parts.over(table['n'])}; grey: baseline (no teacher); point to single out",
        ),
        description=_description(table),
    )


def ranked(standings: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Draw every method minus the baseline at one label budget, the largest difference first.

    Takes the table `standings`; the reader chooses the budget.
    """
    table = _ranks(one_network_each(_some(standings)))
    steps = budgets(table)
    marks = zip(FAMILIES.values(), MARKS, strict=True)
    names, shapes = zip(*(m for m in marks if m[0] in set(table["family"])), strict=True)
    radio = alt.binding_radio(options=steps, name="labels per class: ")
    ends = {b: floor(rows["gain"], rows["gain_low"]) for b, rows in table.groupby("labels")}
    table = _clipped(table, table["labels"].map(ends), GAIN)
    rows = alt.Chart(table).transform_filter("datum.labels == labels")
    rows = rows.encode(y=alt.Y("rank:O", axis=None))
    base = rows.encode(
        color=alt.Color("colour:N", scale=None),
        tooltip=["name:N", "family:N", *numbers("+.1f", GAIN), "pairs:Q"],
    )
    axis = alt.Axis(title="test accuracy minus baseline, points", tickCount=8, labelOverlap=True)
    x, low = (alt.X(f"{c}:Q", axis=axis) for c in ("at", "from"))
    shape = alt.Shape("family:N", scale=alt.Scale(domain=names, range=shapes), sort=names)
    points = base.mark_point(filled=True, size=65, opacity=1).encode(x=x, shape=shape)
    chart = alt.layer(
        parts.reference(alt.XDatum(0)),
        parts.interval(base, low, "to", width=1.6, column="gain_low"),
        points.transform_filter("!datum.outside"),
        *_outside(base.encode(x=x)),
        rows.mark_text(align="right", fontSize=11).encode(x=alt.value(-8), text="name:N"),
    )
    few = table[table["labels"] == steps[0]].sort_values("rank")
    words = ", ".join(f"{r.name} {r.gain:+.1f}" for r in few.itertuples(index=False))
    return chart.add_params(alt.param(name="labels", value=steps[0], bind=radio)).properties(
        width=440,
        height={"step": 17},
        title=alt.Title(
            "Every method minus baseline, at one label budget",
            subtitle=f"{parts.over(table['pairs'], 'paired seeds')}; "
            f"right of 0 is better{_arrow(table)}",
        ),
        description=f"Points of test accuracy minus baseline, {steps[0]} labels per class: "
        f"{words}.",
    )


def dots(standings: pd.DataFrame, methods: Sequence[str]) -> alt.FacetChart:
    """Draw test accuracy of some methods, a panel per label budget: means, 95 % t intervals.

    Takes the table `standings`; `methods` go from above to below. Those that were trained on
    another network than most come last, with the baseline of that. Dashed: the first.
    """
    table = _rows(_in_percent(_some(standings)), methods)
    steps, names = budgets(table), list(dict.fromkeys(table["name"]))
    first = table[table["name"] == names[0]].set_index("labels")["at"]
    table = table.assign(first=table["labels"].map(first))
    axis = alt.Axis(title="test accuracy, %", tickCount=4, labelOverlap=True)
    scale = alt.Scale(zero=False, nice=False, padding=14)
    x, low, dashed = (alt.X(f"{c}:Q", axis=axis, scale=scale) for c in ("at", "from", "min(first)"))
    accuracies = numbers(".1f", ("accuracy", "low", "high"), unit=", %")
    base = alt.Chart().encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelExpr=parts.LABEL_EXPR)),
        color=parts.colour(table).legend(None),
        tooltip=["name:N", parts.LABELS, *accuracies, "n:Q"],
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    panel = alt.layer(
        parts.reference(dashed),
        parts.interval(base, low, "to", width=1.8),
        points.transform_filter("!datum.outside"),
        *_outside(base.encode(x=x), form=".0f"),
        data=table,
    ).properties(width=parts.share(520, len(steps)), height={"step": 22})
    few = table[table["labels"] == steps[0]]
    words = ", ".join(f"{r.name} {r.accuracy:.1f}" for r in few.itertuples(index=False))
    header = parts.budget_header("middle")
    column = alt.Column("labels:N", sort=steps, title=None, header=header)
    return panel.facet(column=column, spacing=14).properties(
        title=alt.Title(
            "Test accuracy, method by method",
            subtitle=f"{parts.over(table['n'])}; dashed: {names[0]}{_arrow(table)}",
        ),
        description=f"Test accuracy in percent, with {steps[0]} labels per class: {words}.",
    )


def floor(means: Iterable[float], lows: Iterable[float]) -> float:
    """Return where an axis may begin: below the intervals of all means that are no outliers.

    An outlier lies more than 1.5 quartile distances below the middle half (Tukey 1977).

    >>> floor([10.0, 80.0, 90.0, 91.0, 92.0, 95.0], [5.0, 78.0, 88.0, 90.0, 91.0, 94.0])
    78.0
    """
    centres, ends = (np.asarray(list(values), dtype=float) for values in (means, lows))
    first, third = np.quantile(centres, (0.25, 0.75))
    return float(np.fmin(centres, ends)[centres >= first - 1.5 * (third - first)].min())


def _arrow(table: pd.DataFrame) -> str:
    """Explain the arrow, for a subtitle, where the chart has one."""
    return "; arrow: further left" if table["outside"].any() else ""


def _clipped(table: pd.DataFrame, end: Any, columns: list[str]) -> pd.DataFrame:
    """Add where mean, low and high stand on an axis that begins at `end`; `outside`: not on it.

    `end` is a number, or one per row.
    """
    places = {at: table[c].clip(lower=end) for at, c in zip(CLIPPED, columns, strict=True)}
    outside = table[columns[0]] < end
    return table.assign(**places, outside=outside, number=table[columns[0]].where(outside).round(1))


def _outside(base: alt.Chart, *, down: bool = False, form: str = "+.1f") -> list[alt.Chart]:
    """Mark what lies below the axis with an arrow at its end, and the number beside it."""
    rows = base.transform_filter("datum.outside")
    words = rows.encode(text=alt.Text("number:Q", format=form), color=alt.value(LINES))
    return [
        rows.mark_point(filled=True, size=80, opacity=1).encode(
            shape=alt.value("triangle-down" if down else "triangle-left")
        ),
        words.mark_text(dy=12, fontSize=11) if down else words.mark_text(align="left", dx=8),
    ]


def _some(standings: pd.DataFrame) -> pd.DataFrame:
    if standings.empty:
        raise UsageError("these results hold no students; nothing to compare")
    return standings


def _panels(standings: pd.DataFrame) -> pd.DataFrame:
    """Lay out `families`: rows of every panel, with colours, places and room between names."""
    standings = _in_percent(standings)
    rows = one_network_each(standings)
    methods = rows[rows["method"].isin(METHODS) & (rows["method"] != BASELINE)]
    family = methods["method"].map(lambda method: METHODS[method].family)
    most = rows["network"].iloc[0]
    baseline = standings[standings["method"] == BASELINE]
    network = (", " + baseline["network"]).where(baseline["network"] != most, "")
    baseline = baseline.assign(name=BASELINE + network)
    steps, panels = budgets(standings), []
    span = standings["at"].max() - standings["at"].min()
    for key, title in FAMILIES.items():
        own = methods[family == key]
        beside = baseline[baseline["network"].isin({*own["network"], most})]
        panel = pd.concat([beside, own], ignore_index=True).assign(family=title)
        if len(own):
            panels.append(_placed(panel, steps, gap=max(span, 1) * 12 / 260))
    return pd.concat(panels, ignore_index=True)


def _placed(panel: pd.DataFrame, steps: list[str], gap: float) -> pd.DataFrame:
    """Give a panel's lines their colours, their points room beside each other, names a place.

    Names keep the order of their lines' left ends, `gap` apart, as near to them as can be.
    """
    names = list(dict.fromkeys(panel["name"]))
    aside = dict(zip(names, np.linspace(-0.14, 0.14, len(names)), strict=True))
    solid = (panel["method"] != BASELINE) | (panel["name"] == BASELINE)
    panel = panel.assign(
        x=panel["labels"].map(steps.index) + panel["name"].map(aside),
        lead=-0.3,
        colour=panel["method"].map(colours(panel["method"])),
        dash=[[1, 0] if line else [3, 3] for line in solid],
    )
    places = parts.apart(panel.loc[panel.groupby("name")["x"].idxmin(), "at"], gap)
    columns = ["name", "family", "labels", "accuracy", "low", "high", "n", *CLIPPED, "outside"]
    columns += ["number", "x", "lead", "colour", "dash"]
    return panel[columns].assign(place=places.round(2))


def _in_percent(standings: pd.DataFrame) -> pd.DataFrame:
    """Give accuracies in percent, on one axis for every label budget that holds all baselines."""
    columns = ["accuracy", "low", "high"]
    table = standings.assign(**{c: (100 * standings[c]).clip(0, 100).round(2) for c in columns})
    ends = [floor(rows["accuracy"], rows["low"]) for _, rows in table.groupby("labels")]
    baseline = table.loc[table["method"] == BASELINE, ["accuracy", "low"]].min(axis=None)
    return _clipped(table, np.nanmin([*ends, baseline]), columns)


def _lines(table: pd.DataFrame, over: alt.Parameter) -> list[alt.Chart]:
    """Draw the lines of one panel of `families`, and lead from each to its name."""
    steps, lowest = budgets(table), table[["from", "place"]].min(axis=None)
    reach = [lowest - 4, max(101, table["place"].max() + 2)]
    ticks = alt.Axis(values=list(range(0, 101, 10)), title="test accuracy, %")
    y = {
        column: alt.Y(f"{column}:Q", scale=alt.Scale(domain=reach, nice=False), axis=ticks)
        for column in ("at", "from", "place")
    }
    x = alt.X(
        "x:Q",
        title="labels per class",
        scale=alt.Scale(domain=[-1.15, len(steps) - 0.7], nice=False),
        axis=alt.Axis(
            values=list(range(len(steps))), labelExpr=f"{json.dumps(steps)}[datum.value]"
        ),
    )
    accuracies = numbers(".1f", ("accuracy", "low", "high"), unit=", %")
    base = alt.Chart().encode(
        x=x,
        y=y["at"],
        opacity=alt.condition(over, alt.value(0.95), alt.value(0.12)),
        tooltip=["name:N", parts.LABELS, *accuracies, "n:Q"],
        detail="name:N",
    )
    lines = base.encode(color=alt.Color("colour:N", scale=None))
    lead = lines.mark_rule(strokeWidth=0.7).encode(x="lead:Q", x2="x:Q", y=y["place"], y2="at:Q")
    name = base.mark_text(align="right", dx=-3, fontSize=11).encode(x="lead:Q", text="name:N")
    return [
        parts.valid(lead, "place"),
        parts.interval(lines, y["from"], "to", width=1.3),
        lines.mark_line(strokeWidth=1.8).encode(strokeDash=alt.StrokeDash("dash:N", scale=None)),
        lines.mark_point(filled=True, size=34).transform_filter("!datum.outside"),
        *_outside(lines, down=True, form=".0f"),
        parts.valid(name.encode(y=y["place"]), "place"),
    ]


def _description(table: pd.DataFrame) -> str:
    """Describe what `families` shows at the fewest labels."""
    few = budgets(table)[0]
    words = []
    for family, rows in table[table["labels"] == few].groupby("family", sort=False):
        methods = (f"{r.name} {r.accuracy:.1f}" for r in rows.itertuples(index=False))
        words.append(f"{family}: " + ", ".join(methods))
    return f"Test accuracy in percent, with {few} labels per class. {'; '.join(words)}."


def _rows(standings: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Pick the rows of `dots`, in their order; methods of further networks, with baseline, last."""
    rows = one_network_each(standings)
    rows = rows[rows["method"].isin(methods)]
    if rows.empty:
        raise UsageError(f"none of {', '.join(methods)} was run; nothing to draw")
    first = rows["network"].iloc[0]
    others = set(rows["network"]) - {first}
    baseline = standings[(standings["method"] == BASELINE) & standings["network"].isin(others)]
    baseline = baseline.assign(name=f"{BASELINE}, " + baseline["network"])
    table = pd.concat([rows, baseline])
    place = {BASELINE: len(methods)} | {method: i for i, method in enumerate(methods)}
    table = table.assign(other=table["network"] != first, place=table["method"].map(place))
    return table.sort_values(["other", "network", "place"], kind="stable")


def _ranks(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank the methods by what they add, at each budget; gains in points."""
    table = rows[rows["gain"].notna() & rows["method"].isin(METHODS)]
    if table.empty:
        raise UsageError("no method shares labels and seed with a baseline; nothing to rank")
    table = table.assign(
        **{c: (100 * table[c]).round(2) for c in GAIN},
        rank=table.groupby("labels")["gain"].rank(ascending=False, method="first").astype(int),
        family=table["method"].map(lambda method: FAMILIES[METHODS[method].family]),
        colour=table["method"].map(colours(table["method"])),
    )
    return table[["name", "family", "colour", "labels", *GAIN, "pairs", "rank"]]
