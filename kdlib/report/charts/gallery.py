"""Methods beside each other: families, ranks, dots with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from kdlib import UsageError
from kdlib.measure import statistics
from kdlib.report.charts.look import COLOURS, budgets, colours
from kdlib.report.charts.parts import _colour, _header, _number, _share

FAMILIES = {  # of methods: how panels and legends call them, a mark and a colour of their own
    "logits": ("logits", "circle", "#2f7fd0"),
    "features": ("features", "square", "#cc3a1e"),
    "relations": ("relations", "diamond", "#832db6"),
    "ways": ("ways of training", "triangle-up", "#ee9a0b"),
    "controls": ("controls", "cross", "#7f868b"),
}
GAIN = ["gain", "gain_low", "gain_high"]  # columns of `statistics.standings`


def families(standings: pd.DataFrame, family: Mapping[str, str]) -> alt.FacetChart:
    """Draw test accuracy against labels per class, a panel per family: means, 95 % t intervals.

    `standings` is `statistics.standings`; `family` says in which one a method is. Every panel has,
    in grey, the baselines of its networks; a name stands at the left of its line.
    """
    table = _panels(_some(standings), family)
    over = alt.selection_point(name="over", fields=["name"], on="pointerover")
    panel = alt.layer(*_lines(table, over), data=table).properties(width=270, height=280)
    names = list(dict.fromkeys(table["family"]))
    n = "/".join(map(str, sorted(set(table["n"]))))
    facets = panel.add_params(over).facet(
        alt.Facet("family:N", sort=names, title=None), columns=2, spacing=20
    )
    return facets.resolve_axis(x="independent").properties(
        title=alt.Title(
            "Test accuracy by family of methods",
            subtitle=f"mean of n = {n} seeds, 95 % t interval; grey: baseline; point to single out",
        ),
        description=_standing_said(table),
    )


def ranked(standings: pd.DataFrame, family: Mapping[str, str]) -> alt.LayerChart | alt.FacetChart:
    """Draw every method's gain over baseline at one label budget, the largest first.

    `standings` is `statistics.standings`; the reader chooses the budget.
    """
    table = _ranks(statistics.at_home(_some(standings)), family)
    steps = budgets(table)
    chosen = [each for each in FAMILIES.values() if each[0] in set(table["family"])]
    names, shapes, shades = (list(each) for each in zip(*chosen, strict=True))
    radio = alt.binding_radio(options=steps, name="labels per class: ")
    numbers = [_number(f"{c}:Q", c.replace("_", ", "), "+.1f") for c in GAIN]
    ends = {b: floor(r["gain"], r["gain_low"]) for b, r in table.groupby("labels")}
    table = _clipped(table, table["labels"].map(ends), GAIN)
    rows = alt.Chart(table).transform_filter("datum.labels == labels")
    rows = rows.encode(y=alt.Y("rank:O", axis=None))
    base = rows.encode(
        color=alt.Color("family:N", scale=alt.Scale(domain=names, range=shades), sort=names),
        tooltip=["name:N", "family:N", *numbers, "pairs:Q"],
    )
    axis = alt.Axis(title="test accuracy minus baseline, points", tickCount=8, labelOverlap=True)
    x, low = (alt.X(f"{c}:Q", axis=axis) for c in ("at", "from"))
    form = alt.Shape("family:N", scale=alt.Scale(domain=names, range=shapes), sort=names)
    marks = [
        alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=1.6)
        .encode(x=low, x2="to:Q")
        .transform_filter("isValid(datum.gain_low)"),
        base.mark_point(filled=True, size=65, opacity=1)
        .encode(x=x, shape=form)
        .transform_filter("!datum.outside"),
        *_outside(base.encode(x=x)),
        rows.mark_text(align="right", fontSize=11).encode(x=alt.value(-8), text="name:N"),
    ]
    n = "/".join(str(int(k)) for k in sorted(set(table["pairs"])))
    few = table[table["labels"] == steps[0]].sort_values("rank")
    said = ", ".join(
        f"{who} {gain:+.1f}" for who, gain in zip(few["name"], few["gain"], strict=True)
    )
    drawn = alt.layer(*marks).add_params(alt.param(name="labels", value=steps[0], bind=radio))
    return drawn.properties(
        width=440,
        height={"step": 17},
        title=alt.Title(
            "Every method minus baseline, at one label budget",
            subtitle=f"mean of n = {n} paired seeds with 95 % t interval; right of 0 is better"
            + ("; arrow: further left" if table["outside"].any() else ""),
        ),
        description=f"Points of test accuracy over baseline, {steps[0]} labels per class: {said}.",
    )


def dots(standings: pd.DataFrame, methods: Sequence[str]) -> alt.FacetChart:
    """Draw test accuracy of some methods, a panel per label budget: means, 95 % t intervals.

    `standings` is `statistics.standings`; `methods` go from above to below. Those that were
    trained on another network than most come last, with the baseline of that. Dashed: the
    first.
    """
    table = _rows(_in_percent(_some(standings)), methods)
    steps, rows = budgets(table), list(dict.fromkeys(table["name"]))
    first = table[table["name"] == rows[0]].set_index("labels")["at"]
    table = table.assign(beside=table["labels"].map(first))
    numbers = [_number(f"{c}:Q", f"{c}, %", ".1f") for c in ("accuracy", "low", "high")]
    axis = alt.Axis(title="test accuracy, %", tickCount=4, labelOverlap=True)
    scale = alt.Scale(zero=False, nice=False, padding=14)
    x, low, beside = (
        alt.X(f"{c}:Q", axis=axis, scale=scale) for c in ("at", "from", "min(beside)")
    )
    base = alt.Chart().encode(
        y=alt.Y("name:N", sort=rows, title=None),
        color=_colour(table).legend(None),
        tooltip=["name:N", alt.Tooltip("labels:N", title="labels per class"), *numbers, "n:Q"],
    )
    panel = alt.layer(
        alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(x=beside),
        base.mark_rule(strokeWidth=1.8)
        .encode(x=low, x2="to:Q")
        .transform_filter("isValid(datum.low)"),
        base.mark_point(filled=True, size=70, opacity=1)
        .encode(x=x)
        .transform_filter("!datum.outside"),
        *_outside(base.encode(x=x), shown=".0f"),
        data=table,
    ).properties(width=_share(520, len(steps)), height={"step": 22})
    n = "/".join(map(str, sorted(set(table["n"]))))
    few = table[table["labels"] == steps[0]]
    said = ", ".join(f"{w} {a:.1f}" for w, a in zip(few["name"], few["accuracy"], strict=True))
    column = alt.Column("labels:N", sort=steps, title=None, header=_header("middle"))
    return panel.facet(column=column, spacing=14).properties(
        title=alt.Title(
            "Test accuracy, method by method",
            subtitle=f"mean of n = {n} seeds, 95 % t interval; dashed: {rows[0]}"
            + ("; arrow: further left" if table["outside"].any() else ""),
        ),
        description=f"Test accuracy in percent, with {steps[0]} labels per class: {said}.",
    )


DRAWN = ["at", "from", "to"]  # where a mean and its interval are drawn, see `_clipped`


def floor(means: Iterable[float], lows: Iterable[float]) -> float:
    """Say where an axis may begin: below the intervals of all means that are no outliers.

    An outlier lies more than 1.5 quartile distances below the middle half (Tukey 1977).

    >>> floor([10.0, 80.0, 90.0, 91.0, 92.0, 95.0], [5.0, 78.0, 88.0, 90.0, 91.0, 94.0])
    78.0
    """
    given, ends = (np.asarray(list(values), dtype=float) for values in (means, lows))
    first, third = np.quantile(given, (0.25, 0.75))
    return float(np.fmin(given, ends)[given >= first - 1.5 * (third - first)].min())


def _clipped(table: pd.DataFrame, end: Any, columns: list[str]) -> pd.DataFrame:
    """Add where mean, low and high are drawn on an axis that begins at `end`; `outside`: not on it.

    `end` is a number, or one per row.
    """
    drawn = {at: table[c].clip(lower=end) for at, c in zip(DRAWN, columns, strict=True)}
    outside = table[columns[0]] < end
    return table.assign(**drawn, outside=outside, number=table[columns[0]].where(outside).round(1))


def _outside(base: alt.Chart, *, down: bool = False, shown: str = "+.1f") -> list[alt.Chart]:
    """Mark what lies below the axis with an arrow at its end, and the number beside it."""
    rows = base.transform_filter("datum.outside")
    words = rows.encode(text=alt.Text("number:Q", format=shown), color=alt.value("#888"))
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


def _panels(standings: pd.DataFrame, family: Mapping[str, str]) -> pd.DataFrame:
    """Lay out `families`: rows of every panel, with colours, places and room between names."""
    standings = _in_percent(standings)
    home = statistics.at_home(standings)
    baseline = standings[standings["method"] == "baseline"]
    first = home["network"].iloc[0]
    baseline = baseline.assign(
        name=["baseline" if n == first else f"baseline, {n}" for n in baseline["network"]]
    )
    steps, panels = budgets(standings), []
    span = standings["at"].max() - standings["at"].min()
    for key, (title, *_) in FAMILIES.items():
        own = home[(home["method"].map(family) == key) & (home["method"] != "baseline")]
        beside = baseline[baseline["network"].isin({*own["network"], first})]
        panel = pd.concat([beside, own], ignore_index=True).assign(family=title)
        if len(own):
            panels.append(_placed(panel, steps, gap=max(span, 1) * 12 / 260))
    return pd.concat(panels, ignore_index=True)


def _placed(panel: pd.DataFrame, steps: list[str], gap: float) -> pd.DataFrame:
    """Give a panel's lines their colours, their points room beside each other, names a place.

    Names keep the order of their lines' left ends, `gap` apart, as near to them as can be.
    """
    names = list(dict.fromkeys(panel["name"]))
    shades = iter(colours(m for m in panel["method"] if m != "baseline").items())
    shade = dict(shades) | {"baseline": COLOURS["baseline"]}
    aside = np.linspace(-0.14, 0.14, len(names))
    panel = panel.assign(
        x=[
            steps.index(b) + aside[names.index(m)]
            for b, m in zip(panel["labels"], panel["name"], strict=True)
        ],
        lead=-0.3,
        colour=panel["method"].map(shade),
    )
    panel["dash"] = [
        [1, 0] if m != "baseline" or n == "baseline" else [3, 3]
        for m, n in zip(panel["method"], panel["name"], strict=True)
    ]
    ends = panel.loc[panel.groupby("name")["x"].idxmin(), "at"].sort_values(kind="stable")
    room = gap * np.arange(len(ends))
    places = pd.Series(isotonic_regression(ends - room).x + room, index=ends.index)
    kept = ["name", "family", "labels", "accuracy", "low", "high", "n", *DRAWN, "outside", "number"]
    return panel[[*kept, "x", "lead", "colour", "dash"]].assign(place=places.round(2))


def _in_percent(standings: pd.DataFrame) -> pd.DataFrame:
    """Give accuracies in percent, on one axis for every label budget that holds all baseline."""
    columns = ["accuracy", "low", "high"]
    table = standings.assign(**{c: (100 * standings[c]).clip(0, 100).round(2) for c in columns})
    ends = [floor(rows["accuracy"], rows["low"]) for _, rows in table.groupby("labels")]
    baseline = table.loc[table["method"] == "baseline", ["accuracy", "low"]].min(axis=None)
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
    numbers = [_number(f"{c}:Q", f"{c}, %", ".1f") for c in ("accuracy", "low", "high")]
    base = alt.Chart().encode(
        x=x,
        y=y["at"],
        opacity=alt.condition(over, alt.value(0.95), alt.value(0.12)),
        tooltip=["name:N", alt.Tooltip("labels:N", title="labels per class"), *numbers, "n:Q"],
        detail="name:N",
    )
    drawn = base.encode(color=alt.Color("colour:N", scale=None))
    lead = drawn.mark_rule(strokeWidth=0.7).encode(x="lead:Q", x2="x:Q")
    name = base.mark_text(align="right", dx=-3, fontSize=11).encode(x="lead:Q", text="name:N")
    return [
        lead.encode(y=y["place"], y2="at:Q").transform_filter("isValid(datum.place)"),
        drawn.mark_rule(strokeWidth=1.3)
        .encode(y=y["from"], y2="to:Q")
        .transform_filter("isValid(datum.low)"),
        drawn.mark_line(strokeWidth=1.8).encode(strokeDash=alt.StrokeDash("dash:N", scale=None)),
        drawn.mark_point(filled=True, size=34).transform_filter("!datum.outside"),
        *_outside(drawn, down=True, shown=".0f"),
        name.encode(y=y["place"]).transform_filter("isValid(datum.place)"),
    ]


def _standing_said(table: pd.DataFrame) -> str:
    """Say in words what `families` shows at the fewest labels."""
    few = budgets(table)[0]
    said = []
    for family, rows in table[table["labels"] == few].groupby("family", sort=False):
        each = zip(rows["name"], rows["accuracy"], strict=True)
        said.append(f"{family}: " + ", ".join(f"{name} {value:.1f}" for name, value in each))
    return f"Test accuracy in percent, with {few} labels per class. {'; '.join(said)}."


def _rows(standings: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Pick the rows of `dots`, in their order; methods of further networks, with baseline, last."""
    home = statistics.at_home(standings)
    home = home[home["method"].isin(methods)]
    if home.empty:
        raise UsageError(f"none of {', '.join(methods)} was run; nothing to draw")
    first = home["network"].iloc[0]
    away = set(home["network"]) - {first}
    baseline = standings[(standings["method"] == "baseline") & standings["network"].isin(away)]
    table = pd.concat([home, baseline.assign(name="baseline, " + baseline["network"])])
    place = {"baseline": len(methods)} | {m: number for number, m in enumerate(methods)}
    return table.assign(
        far=table["network"].map({first: 0}).fillna(1), place=table["method"].map(place)
    ).sort_values(["far", "network", "place"], kind="stable")


def _ranks(home: pd.DataFrame, family: Mapping[str, str]) -> pd.DataFrame:
    """Rank the methods by what they add, at each budget; gains in points."""
    table = home[home["gain"].notna() & home["method"].isin(family)]
    if table.empty:
        raise UsageError("no method shares labels and seed with a baseline; nothing to rank")
    table = table.assign(
        **{c: (100 * table[c]).round(2) for c in GAIN},
        rank=table.groupby("labels")["gain"].rank(ascending=False, method="first").astype(int),
        family=table["method"].map(lambda method: FAMILIES[family[method]][0]),
    )
    return table[["name", "family", "labels", *GAIN, "pairs", "rank"]]
