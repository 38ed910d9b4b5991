"""Tables -> Altair charts with one look: the same order and colours of methods everywhere."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image
from scipy.optimize import isotonic_regression
from scipy.special import softmax

from kdlib import UsageError, metrics, one_of, statistics
from kdlib.runs import regime_of
from kdlib.store import Results

# Who is drawn in which colour, in the order of every legend. Alone is grey, the controls are muted,
# methods have Petroff's colours (2021, arXiv 2107.02270), told apart with any colour vision.
COLOURS = {
    "alone": "#7f868b",
    "smooth": "#c2a878",
    "pseudo": "#8fa67f",
    "shuffled": "#a892b5",
    "random": "#c09494",
    "kd": "#2f7fd0",
    "fitnet": "#ee9a0b",
    "at": "#cc3a1e",
}
CONTROLS = statistics.CONTROLS
SPARE = ("#832db6", "#12805c", "#a96b59", "#0f9fb5", "#d6499a", "#7d8500")  # for other methods

# Classes: Petroff's ten colours, in the order that explorer.js has.
CLASSES: tuple[str, ...] = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6")
CLASSES += ("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")

MIME = "application/vnd.vegalite.v5+json"  # nbformat and JupyterLab refuse an object under v6


def name(measure: str) -> str:
    """Return a measure in words, or its key where no words are known."""
    known = metrics.MEASURES.get(measure)
    return known.title if known else measure.replace("_", " ")


def hint(measure: str) -> str:
    """Say which direction of a measure is the better one; empty where that is not known."""
    known = metrics.MEASURES.get(measure)
    return f"{known.better} is better" if known else ""


def order(methods: Iterable[str]) -> list[str]:
    """Sort methods as every legend has them; those without a place of their own come last."""
    given, known = set(methods), list(COLOURS)
    return [m for m in known if m in given] + sorted(given - set(known))


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Give each method its colour, in the order of the legend."""
    spare = iter(SPARE * 3)
    return {m: COLOURS.get(m) or next(spare) for m in order(methods)}


# ---- look


@alt.theme.register("kdlib", enable=False)
def theme() -> alt.theme.ThemeConfig:
    """Sizes and weights only: the page gives the colours of text and lines, light or dark."""
    font = "system-ui, -apple-system, 'Segoe UI', sans-serif"
    return {
        "config": {
            "font": font,
            "background": "transparent",
            "view": {"stroke": None},
            "axis": {
                "labelFontSize": 11,
                "titleFontSize": 12,
                "titleFontWeight": "normal",
                "titlePadding": 8,
                "domain": False,
                "tickSize": 4,
                "gridOpacity": 0.6,
            },
            "axisX": {"grid": False, "labelAngle": 0},
            "header": {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12},
            "legend": {"labelFontSize": 12, "symbolSize": 90, "title": None, "orient": "top"},
            "title": {
                "anchor": "start",
                "fontSize": 14,
                "fontWeight": "bold",
                "subtitleFontSize": 12,
                "subtitlePadding": 4,
                "offset": 12,
            },
        }
    }


def enable() -> None:
    """Make the look and the offline renderer the ones that notebooks of this process use."""
    alt.theme.enable("kdlib")
    alt.renderers.register("kdlib", _render)
    alt.renderers.enable("kdlib")
    alt.data_transformers.disable_max_rows()


def _render(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Hand a chart to the book as plain JSON, to a live notebook as an offline widget.

    Altair's own renderers load scripts from the network or are refused by nbformat.
    """
    text = spec.get("description") or "Vega-Lite chart"
    if os.environ.get("KD_BOOK"):  # set by kdlib.book while it builds
        return {MIME: spec, "text/plain": text}
    alt.JupyterChart.enable_offline()
    spec = {**spec, "config": {**spec.get("config", {}), "background": "white"}}
    chart = alt.JupyterChart(alt.Chart.from_dict(spec))
    bundle: Any = chart._repr_mimebundle_() or {}
    return bundle[0] if isinstance(bundle, tuple) else bundle


# ---- charts


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
        taught = students.loc[students["method"] != "alone", "run"].map(statistics.teacher)
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


def layers(results: Results, measure: str = "knn", *, network: str | None = None) -> alt.FacetChart:
    """Draw a measure layer by layer: one panel per label budget, one line per method."""
    one_of("measure", measure, results.measures["measure"].unique())
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    values = results.measures.query("measure == @measure")[["run", "layer", "value"]]
    table = runs[["run", "method", "labels", "seed"]].merge(values, on="run")
    table = _with_means(table.drop(columns="run"), "value")
    stages, steps = list(results.study["layers"]), budgets(runs)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None, axis=alt.Axis(labelAngle=-40)),
        xOffset=_beside(table),
        color=_colour(table),
        opacity=_fade(),
    )
    where = ["method:N", "layer:N", alt.Tooltip("labels:N", title="labels per class")]
    n = int(runs["seed"].nunique())
    marks = _over_seeds(base, "value", name(measure), where, ".3f")
    panel = alt.layer(*marks, data=table).properties(width=_share(620, len(steps)), height=210)
    return (
        panel.add_params(_chosen())
        .facet(
            column=alt.Column("labels:N", sort=steps, title=None, header=_header("middle")),
            spacing=14,
        )
        .properties(
            title=alt.Title(
                f"{name(measure)}, layer by layer, {network}",
                subtitle=f"mean of {n} seeds with 95 % t interval; dots: single seeds; "
                f"{hint(measure)}",
            ),
            description=_spoken(table, "value", name(measure)),
        )
    )


def difference(
    results: Results, measure: str = "knn", *, network: str | None = None
) -> alt.FacetChart:
    """Draw method - alone, paired by seed: every seed, the mean and its 95 % t interval."""
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    points = statistics.differences(results, measure).query("network == @network")
    cells = statistics.paired(results, measure).query("network == @network")
    if cells.empty:
        raise UsageError(f"no student of {network} shares labels and seed with one trained alone")
    steps, stages = budgets(cells), list(results.study["layers"])
    # One table, which Vega-Lite splits by panel; four digits are more than a screen shows.
    table = pd.concat([points, cells]).drop(columns="network").round(4)
    methods = order(cells["method"])
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None),
        xOffset=alt.XOffset("method:N", sort=methods),
        color=_colour(cells),
        opacity=_fade(),
    )
    where = ["method:N", "layer:N", alt.Tooltip("labels:N", title="labels per class")]
    numbers = [_number(f"{c}:Q", c, "+.3f") for c in ("mean", "low", "high")]
    title = "minus alone"
    seeds = (
        base.mark_tick(size=9, thickness=1.5)
        .encode(
            y=alt.Y("difference:Q", title=title),
            tooltip=[*where, "seed:N", _number("difference:Q", "difference", "+.3f")],
        )
        .transform_filter("isValid(datum.difference)")
    )
    bars = base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    bars = bars.transform_filter("isValid(datum.low)")
    means = (
        base.mark_point(filled=True, size=70, shape="diamond")
        .encode(y=alt.Y("mean:Q", title=title), tooltip=[*where, *numbers, "n:Q"])
        .transform_filter("isValid(datum.mean)")
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(y=alt.datum(0))
    panel = alt.layer(zero, bars, means, seeds, data=table).properties(width=560, height=120)
    n = sorted({int(k) for k in cells["n"]})
    return (
        panel.add_params(_chosen())
        .facet(row=alt.Row("labels:N", sort=steps, title=None, header=_header("start")), spacing=8)
        .properties(
            title=alt.Title(
                f"{name(measure)}: each method minus alone, {network}",
                subtitle=f"diamond: mean of n = {'/'.join(map(str, n))} paired seeds with 95 % t "
                f"interval; ticks: seeds; {hint(measure)}",
            ),
            description=_spoken(
                cells, "mean", f"Difference in {name(measure)} from the network trained alone"
            ),
        )
    )


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
        raise UsageError(f"no tests to draw for {title!r}; alone and a method beside it make some")
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


def saved(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw layers saved, seed by seed: where alone, and where a method, reaches alone's end."""
    network = _students(results, network)["network"].iloc[0]
    table = statistics.saved(results).query("network == @network").round(3)
    if table.empty:
        raise UsageError(f"no student of {network} shares labels and seed with one trained alone")
    ticks = [*table["steps"].iloc[0], "never"]
    step = min(12, max(4, 480 // len(table[["method", "seed"]].drop_duplicates())))
    table = table.drop(columns=["steps", "network"])
    depths = [_number(f"{c}:Q", c, ".2f") for c in ("alone", "depth")]
    base = alt.Chart().encode(
        y=_methods(table),
        yOffset=alt.YOffset("seed:N", scale=alt.Scale(domain=sorted(set(table["seed"])))),
        tooltip=["method:N", "seed:N", *depths, _number("difference:Q", "layers saved", "+.2f")],
    )
    x = alt.X(
        "depth:Q",
        title="where the probe reaches alone's last accuracy",
        scale=alt.Scale(domain=[0, len(ticks) - 1], nice=False),
        axis=alt.Axis(
            values=list(range(len(ticks))), labelExpr=f"{json.dumps(ticks)}[datum.value]", grid=True
        ),
    )
    colour = _colour(table).legend(None)
    alone = base.mark_tick(thickness=2.5, size=9, color=COLOURS["alone"]).encode(x="alone:Q")
    panel = alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=x, x2="alone:Q", color=colour),
        alone,
        base.mark_circle(size=55, opacity=1).encode(x=x, color=colour),
        data=table,
    ).properties(width=520, height={"step": step, "for": "offset"})
    means = table.groupby(["method", "labels"], sort=False)["difference"].mean()
    said = "; ".join(f"{m} at {b} labels: {v:+.2f}" for (m, b), v in means.items())
    row = alt.Row("labels:N", sort=budgets(table), title=None, header=_header("start"))
    return panel.facet(row=row, spacing=8).properties(
        title=alt.Title(
            f"Layers saved, {network}",
            subtitle="one seed a line; dot: the method, grey tick: alone; left of it is sooner",
        ),
        description=f"Layers saved by each method, mean over seeds: {said}.",
    )


MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down"]  # of networks
FAMILIES = {  # of methods: how panels and legends call them, a mark and a colour of their own
    "answers": ("answers", "circle", "#2f7fd0"),
    "features": ("features", "square", "#cc3a1e"),
    "relations": ("relations", "diamond", "#832db6"),
    "ways": ("ways of training", "triangle-up", "#ee9a0b"),
    "controls": ("controls", "cross", "#7f868b"),
}
GAIN = ["gain", "gain_low", "gain_high"]  # columns of `statistics.standings`


def families(standings: pd.DataFrame, family: Mapping[str, str]) -> alt.FacetChart:
    """Draw test accuracy against labels per class, a panel per family: means, 95 % t intervals.

    `standings` is `statistics.standings`; `family` says in which one a method is. Every panel has,
    in grey, the students alone of its networks; a name stands at the left of its line.
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
            subtitle=f"mean of n = {n} seeds, 95 % t interval; grey: alone; point to single out",
        ),
        description=_standing_said(table),
    )


def ranked(standings: pd.DataFrame, family: Mapping[str, str]) -> alt.LayerChart | alt.FacetChart:
    """Draw every method's gain over alone at one label budget, the largest first.

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
    axis = alt.Axis(title="test accuracy minus alone, points", tickCount=8, labelOverlap=True)
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
            "Every method minus alone, at one label budget",
            subtitle=f"mean of n = {n} paired seeds with 95 % t interval; right of 0 is better"
            + ("; arrow: further left" if table["outside"].any() else ""),
        ),
        description=f"Points of test accuracy over alone, {steps[0]} labels per class: {said}.",
    )


def dots(standings: pd.DataFrame, methods: Sequence[str]) -> alt.FacetChart:
    """Draw test accuracy of some methods, a panel per label budget: means, 95 % t intervals.

    `standings` is `statistics.standings`; `methods` go from above to below. Those that were
    trained on another network than most come last, with the student alone of that. Dashed: the
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


# ---- pairs of networks


def grid(pairs: pd.DataFrame) -> alt.FacetChart:
    """Draw what methods add for every pair of teacher and student: a panel per method.

    `pairs` is `statistics.pairs` of one label budget. The number is the gain over alone in
    points; with "≈" before it its 95 % t interval holds 0.
    """
    table = _gains(pairs)
    table["said"] = [
        f"{'≈ ' if low <= 0 <= high else ''}{gain:+.1f}"
        for gain, low, high in zip(table["gain"], table["low"], table["high"], strict=True)
    ]
    far = float(table["gain"].abs().max()) or 1.0
    students, teachers = (list(dict.fromkeys(table[c])) for c in ("network", "teacher"))
    numbers = [_number(f"{c}:Q", c, "+.1f") for c in ("gain", "low", "high")]
    scores = [_number(f"{c}:Q", f"{c}, %", ".1f") for c in ("alone", "accuracy")]
    smaller = _number("smaller:Q", "teacher / student, parameters", ".1f")
    base = alt.Chart(table).encode(
        x=alt.X("teacher:N", sort=teachers, title="teacher", axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("network:N", sort=students, title="student"),
        tooltip=["method:N", "teacher:N", "network:N", *numbers, "n:Q", *scores, smaller],
    )
    colour = alt.Color(
        "gain:Q",
        title="points over alone",
        scale=alt.Scale(scheme="blueorange", reverse=True, domain=[-far, far]),
        legend=alt.Legend(gradientLength=180, titleLimit=200),
    )
    dark = f"datum.gain > {0.55 * far} || datum.gain < {-0.8 * far}"
    words = alt.condition(dark, alt.value("white"), alt.value("black"))
    panel = alt.layer(
        base.mark_rect().encode(color=colour),
        base.mark_text(fontSize=11).encode(text="said:N", color=words),
    ).properties(width={"step": 54}, height={"step": 34})
    cells = zip(table["method"], table["teacher"], table["network"], table["said"], strict=True)
    said = "; ".join(f"{m}, {t} to {s}: {words}" for m, t, s, words in cells)
    n, methods = "/".join(map(str, sorted(set(table["n"])))), order(table["method"])
    return panel.facet(
        column=alt.Column("method:N", sort=methods, title=None), spacing=14
    ).properties(
        title=alt.Title(
            "What distillation adds, pair by pair",
            subtitle=f"test accuracy minus alone, points: mean of n = {n} paired seeds; "
            "≈: the 95 % interval holds 0",
        ),
        description=f"Points of test accuracy over the student alone. {said}.",
    )


def gaps(pairs: pd.DataFrame) -> alt.HConcatChart:
    """Draw the gains of `statistics.pairs` over the capacity gap, and over what alone lacks.

    Left: how many times as many parameters as its student the teacher has. Right: the errors of
    the student alone. A reader chooses the method; bars are 95 % t intervals.
    """
    table = _gains(pairs)
    table["lacks"] = (100 - table["alone"]).round(2)
    methods, students = order(table["method"]), list(dict.fromkeys(table["network"]))
    radio = alt.binding_radio(options=methods, name="method: ")
    numbers = [_number(f"{c}:Q", c, "+.1f") for c in ("gain", "low", "high")]
    base = alt.Chart(table).transform_filter("datum.method == method")
    base = base.encode(
        color=_colour(table).legend(None),
        tooltip=["method:N", "teacher:N", "network:N", *numbers, "n:Q"],
    )
    shape = alt.Shape(
        "network:N",
        sort=students,
        scale=alt.Scale(domain=students, range=MARKS),
        legend=alt.Legend(symbolFillColor="#888", symbolStrokeColor="#888"),
    )
    steps = alt.Axis(values=[1, 3, 10, 30, 100, 300, 1000], format=",", grid=False)
    wide = alt.Scale(type="log", nice=False, padding=14)
    near = alt.Scale(zero=False, nice=False, padding=14)
    xs = [
        alt.X("smaller:Q", title="parameters, teacher over student", scale=wide, axis=steps),
        alt.X("lacks:Q", title="errors of the student alone, %", scale=near),
    ]
    y, low = (alt.Y(f"{c}:Q", title="points over alone") for c in ("gain", "low"))
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(y=alt.datum(0))
    panels = [
        alt.layer(
            zero,
            base.mark_rule(strokeWidth=1.4)
            .encode(x=x, y=low, y2="high:Q")
            .transform_filter("isValid(datum.low)"),
            base.mark_point(filled=True, size=80, opacity=0.9).encode(x=x, y=y, shape=shape),
        ).properties(width=270, height=230)
        for x in xs
    ]
    first = table[table["method"] == methods[0]]
    cells = zip(first["teacher"], first["network"], first["smaller"], first["gain"], strict=True)
    said = "; ".join(f"{t} to {s}, {x:.1f} times: {g:+.1f}" for t, s, x, g in cells)
    return (
        alt.hconcat(*panels, spacing=20)
        .add_params(alt.param(name="method", value=methods[0], bind=radio))
        .properties(
            title=alt.Title(
                "The gap in size, and the room for improvement",
                subtitle="a mark is a pair of networks, its shape the student; 95 % t interval",
            ),
            description=f"Points of {methods[0]} over alone by how much larger the teacher is: "
            f"{said}.",
        )
    )


def likeness(results: Results, *, network: str | None = None) -> alt.FacetChart:
    """Draw how like each layer of the student is to each of its teacher's: alone beside kd.

    Linear CKA, mean over seeds, at the fewest labels; without kd another method. Where layers
    were compared in several views the reader chooses one.
    """
    runs = _students(results, network)
    network, few = runs["network"].iloc[0], budgets(runs)[0]
    other = [m for m in order(runs["method"]) if m != "alone"]
    shown = ["alone", "kd" if "kd" in other else other[0]] if other else ["alone"]
    runs = runs[(runs["labels"] == few) & runs["method"].isin(shown)]
    by = ["method", "view", "layer", "teacher_layer"]
    table = runs[["run", "method"]].merge(results.likeness, on="run")
    if table.empty:
        raise UsageError(f"no layers of {network} were compared with a teacher's")
    table = statistics.summarise(table.rename(columns={"value": "difference"}), by).round(3)
    table = table[[*by, "mean", "low", "high", "n"]]
    views, stages = list(dict.fromkeys(table["view"])), list(results.study["layers"])
    numbers = [_number(f"{c}:Q", c, ".2f") for c in ("mean", "low", "high")]
    base = (
        alt.Chart(table)
        .transform_filter("datum.view == view")
        .encode(
            x=alt.X("teacher_layer:N", sort=stages, title="teacher", axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("layer:N", sort=stages, title="student"),
            tooltip=["method:N", "layer:N", alt.Tooltip("teacher_layer:N"), *numbers, "n:Q"],
        )
    )
    scale = alt.Scale(scheme="blues", domain=[0, 1])
    panel = alt.layer(
        base.mark_rect().encode(
            color=alt.Color(
                "mean:Q", title="CKA", scale=scale, legend=alt.Legend(gradientLength=150)
            )
        ),
        base.mark_text(fontSize=11).encode(
            text=alt.Text("mean:Q", format=".2f"),
            color=alt.condition("datum.mean > 0.7", alt.value("white"), alt.value("black")),
        ),
    ).properties(width={"step": 40}, height={"step": 30})
    n = "/".join(map(str, sorted(set(table["n"]))))
    same = table[(table["layer"] == table["teacher_layer"]) & (table["view"] == views[0])]
    cells = zip(same["method"], same["layer"], same["mean"], strict=True)
    said = ", ".join(f"{m} {layer} {value:.2f}" for m, layer, value in cells)
    chosen: dict[str, Any] = {"name": "view", "value": views[0]}
    if len(views) > 1:
        chosen["bind"] = alt.binding_radio(options=views, name="view: ")
    return (
        panel.add_params(alt.param(**chosen))
        .facet(column=alt.Column("method:N", sort=shown, title=None), spacing=14)
        .properties(
            title=alt.Title(
                f"How like its teacher's layers are those of {network}",
                subtitle=f"linear CKA, {few} labels per class, mean of n = {n} seeds; 1 is alike",
            ),
            description=f"Likeness (CKA) of each layer to the teacher's of the same name: {said}.",
        )
    )


SETTINGS = {"tsne": ("t-SNE", "perplexity", "start"), "ivis": ("IVIS", "k", "seed")}


def sweep(results: Results, embedding: str = "tsne", *, run: str | None = None) -> alt.FacetChart:
    """Draw one layer of one network again and again: a row per perplexity or k, a column per seed.

    Above each map stand its trustworthiness and the share of neighbours it keeps; an image that
    is pointed at is marked in all. `run` is by default the last that was drawn.
    """
    kinds = results.sweeps["embedding"].unique()
    one_of("embedding", embedding, kinds)
    maps = results.sweeps[results.sweeps["embedding"] == embedding]
    run = maps["run"].iloc[-1] if run is None else run
    one_of("run", run, maps["run"].unique())
    maps = maps[maps["run"] == run]
    kind, word, seed = SETTINGS[embedding]
    cells = maps.groupby(["setting", "seed"], sort=True).first()
    names = [
        f"{word} {k}, {seed} {s}|trust {one.trustworthiness:.2f}, keeps {one.neighbours_kept:.0%}"
        for (k, s), one in zip(cells.index, cells.itertuples(), strict=True)
    ]
    layer, n = maps["layer"].iloc[0], maps["image"].nunique()
    columns = cells.index.get_level_values("seed").nunique()
    return (
        _strip(_stacked(maps, results, ["setting", "seed"]), names, results, 165)
        .facet(_named(names), columns=columns, spacing=8)
        .resolve_scale(x="independent", y="independent")
        .properties(
            title=alt.Title(
                f"{layer} by {kind}, again and again",
                subtitle=f"{_student(run, results)}; the same {n} images in every map",
            ),
            description=f"{kind} maps of {layer}: " + "; ".join(names).replace("|", ": ") + ".",
        )
    )


# ---- one answer, watched


def hesitant(results: Results, count: int = 6) -> pd.DataFrame:
    """Find the images whose teacher hesitates most, each of another class, and a sure one last.

    To hesitate is to have two logits close together at the top. Returns image, truth, top, second
    (classes, as numbers) and margin (of the two logits), a row per image. Raises UsageError where
    the results hold no answers.
    """
    logits, images = _logits(results)
    ranked = np.argsort(-logits, axis=1, kind="stable")
    ends = np.take_along_axis(logits, ranked[:, :2], axis=1)
    table = pd.DataFrame(
        {"image": images, "truth": results.labels[images], "top": ranked[:, 0]}
        | {"second": ranked[:, 1], "margin": ends[:, 0] - ends[:, 1]}
    ).sort_values("margin", kind="stable")
    found = table.drop_duplicates("truth").head(count)
    sure = table[~table["image"].isin(found["image"])].tail(1)
    return pd.concat([found, sure], ignore_index=True)


MOST = 12  # classes of one image that are drawn, the likeliest
TOLD = {"hard label": COLOURS["alone"], "soft label": COLOURS["kd"]}


def soft(results: Results, temperature: float = 4.0) -> alt.VConcatChart:
    """Draw an image's hard label beside its soft one: what the teacher says, at a temperature.

    The reader chooses the image, among `hesitant` ones, and the temperature; the softmax is
    computed on the page.
    """
    table, pictures = _asked(results)
    names = list(dict.fromkeys(table["name"]))
    menu: Any = {"name": alt.binding_select(options=names, name="image: ")}
    how: dict[str, Any] = {"fields": ["name"], "on": "image:click", "clear": False}
    chosen = alt.selection_point(
        name="chosen", value=[{"name": names[0]}], bind=menu, empty=False, **how
    )
    slider = alt.binding_range(min=1, max=20, step=0.5, name="temperature T: ")
    axis = alt.Axis(title=None, ticks=False, labelExpr="split(datum.label, ' (')[0]")
    strip = (
        alt.Chart(table)
        .transform_filter("datum.rank == 1")
        .transform_calculate(picture=f"{json.dumps(pictures)}[datum.name]")
        .mark_image(width=42, height=42)
        .encode(
            x=alt.X("name:N", sort=names, axis=axis),
            y=alt.value(22),
            url="picture:N",
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.35)),
            tooltip=alt.Tooltip("name:N", title="class"),
        )
        .add_params(chosen)
        .properties(width={"step": 46}, height=44)
    )
    heat = alt.param(name="T", value=temperature, bind=slider)
    drawn = alt.vconcat(strip, _told(table, chosen), spacing=14)
    return drawn.add_params(heat).properties(
        title=alt.Title("One image, told twice", subtitle="click an image, or use the menu"),
        description=_answer_said(table, names[0], temperature),
    )


def pull(results: Results) -> alt.LayerChart | alt.FacetChart:
    """Draw how hard the soft term pulls on the logits of an untrained student, by temperature.

    The length of the gradient, mean over the images that were drawn, with and without T^2; the
    student says the same of all classes. Both scales are logarithmic.
    """
    n = len(_logits(results)[0])
    table = pulls(results).melt("temperature", ["T² KL", "KL"], "loss", "length")
    shade = {"T² KL": COLOURS["kd"], "KL": COLOURS["alone"]}
    color = alt.Color(
        "loss:N", scale=alt.Scale(domain=list(shade), range=list(shade.values())), sort=list(shade)
    )
    ends = table[table["temperature"].isin([1, 4, 20])]
    said = "; ".join(
        f"{r.loss} at T = {r.temperature:g}: {r.length:.2g}" for r in ends.itertuples()
    )
    x = alt.X("temperature:Q", title="temperature T", scale=alt.Scale(type="log", domain=[1, 20]))
    y = alt.Y("length:Q", title="length of the gradient", scale=alt.Scale(type="log"))
    y = y.axis(values=[10.0**k for k in range(-6, 4)], format="~g")
    numbers = [_number("temperature:Q", "T", ".1f"), _number("length:Q", "length", ".3f")]
    base = alt.Chart(table).encode(
        x=x.axis(values=[1, 2, 4, 8, 20]), y=y, color=color, tooltip=["loss:N", *numbers]
    )
    return alt.layer(base.mark_line(strokeWidth=2.2), base.mark_point(filled=True)).properties(
        width=460,
        height=220,
        title=alt.Title(
            "How hard the teacher pulls",
            subtitle=f"gradient by the student's logits, mean of {n} images",
        ),
        description=f"Mean length of the gradient by the student's logits. {said}.",
    )


def pulls(results: Results) -> pd.DataFrame:
    """Compute what `pull` draws: temperature, and the mean length for `T² KL` and `KL`.

    The gradient of KL(p_t || p_s) by the student's logits is (p_s - p_t) / T (Hinton et al. 2015,
    eq. 2).
    """
    logits, _ = _logits(results)
    rows = []
    for heat in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 20):
        away = 1 / logits.shape[1] - softmax(logits / heat, axis=1)
        length = float(np.linalg.norm(away / heat, axis=1).mean())
        rows.append((heat, heat**2 * length, length))
    return pd.DataFrame(rows, columns=["temperature", "T² KL", "KL"])


def gains(results: Results, *, network: str | None = None) -> alt.LayerChart | alt.FacetChart:
    """Draw what each method adds to alone, in points: every seed, the mean, its 95 % t interval."""
    network = _students(results, network)["network"].iloc[0]
    points = statistics.differences(results, statistics.ACCURACY).query("network == @network")
    if points.empty:
        raise UsageError(f"no student of {network} shares labels and seed with one trained alone")
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
    axis = alt.Axis(title="points over alone")
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
            f"What each method adds to {network} alone, in points of test accuracy",
            subtitle=f"diamond: mean of n = {n} paired seeds with 95 % t interval; ticks: seeds",
        ),
        description=_spoken(
            cells.assign(points=100 * cells["mean"]), "points", "Points of test accuracy over alone"
        ),
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
    told = ["network:N", "layer:N", "channels:Q", alt.Tooltip("side:Q", title="pixels by side")]
    box = alt.Chart().mark_rect(color=COLOURS["kd"], opacity=0.55, stroke="#888")
    box = box.encode(x=x, x2="right:Q", y=y, y2="high:Q", tooltip=told)
    words = (
        alt.Chart().mark_text(fontSize=11).encode(x="middle:Q", y=alt.datum(-0.66), text="said:N")
    )
    head = alt.Header(labelOrient="top", labelAnchor="start", title=None)
    spoken = "; ".join(f"{r.network} {r.layer}: {r.said}" for r in table.itertuples())
    return (
        alt.layer(box, words, data=table)
        .properties(width=600, height=110)
        .facet(row=alt.Row("network:N", sort=names, title=None, header=head), spacing=6)
        .properties(
            title=alt.Title(
                "The networks, layer by layer",
                subtitle="height: pixels by side; width: channels; below: channels × pixels",
            ),
            description=f"Channels times pixels of every layer. {spoken}.",
        )
    )


def training(
    results: Results, measure: str = "silhouette", *, network: str | None = None
) -> alt.FacetChart:
    """Draw a measure of every layer over the passes of training: a mean and its 95 % t interval.

    A layer that repeats the one before, as the pool of a ResNet, is left out.
    """
    table = statistics.followed(results, measure)
    if table.empty:
        raise UsageError("these results hold no film of training; a study's `film` makes one")
    network = table["network"].iloc[0] if network is None else network
    one_of("network", network, table["network"].unique())
    table = table[table["network"] == network].rename(columns={"value": "difference"})
    stages = _apart(table, list(results.study["layers"]))
    means = statistics.summarise(table, ["method", "layer", "epoch"])
    means = means[means["layer"].isin(stages)].round(4).drop(columns=["d", "p", "p_flip"])
    kept, title = sorted(int(e) for e in table["epoch"].unique()), WAY.get(measure, name(measure))
    base = alt.Chart().encode(
        x=alt.X(
            "epoch:Q",
            scale=alt.Scale(type="sqrt", nice=False),
            axis=alt.Axis(values=kept, format="d"),
            title=None,
        ),
        color=_colour(table),
        opacity=_fade(),
    )
    tooltip = [
        *("method:N", "layer:N", alt.Tooltip("epoch:Q", title="passes")),
        _number("mean:Q", title, ".3f"),
        *(_number(f"{end}:Q", f"{end} end of the interval", ".3f") for end in ("low", "high")),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    band = base.mark_area(fillOpacity=0.25).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=2.2, point={"size": 30}).encode(y=y, tooltip=tooltip)
    n = int(means["n"].max())
    spread = f"band: 95 % t interval of {n} seeds" if n > 1 else "one seed: no interval"
    return (
        alt.layer(band, line, data=means)
        .properties(width=_share(620, len(stages)), height=190)
        .add_params(_chosen())
        .facet(column=alt.Column("layer:N", sort=stages, title=None), spacing=10)
        .properties(
            title=alt.Title(
                f"{title} after every pass kept, {network}",
                subtitle=f"across: passes through the training images, 0 is before; {spread}",
            ),
            description=_ended(means, title, stages),
        )
    )


def film(results: Results, layer: str | None = None, *, images: int = 20) -> alt.FacetChart:
    """Draw one layer's maps in a row, pass after pass: a row for each student that was drawn.

    Of every class the first so many `images`; of one network. Above each map stands its
    trustworthiness.
    """
    layers = list(dict.fromkeys(results.film["layer"]))
    if not layers:
        raise UsageError("these results hold no film of training; a study's `film` makes one")
    layer = layers[0] if layer is None else layer
    one_of("layer", layer, layers)
    labels = pd.Series(results.labels)
    shown = labels.groupby(labels).head(images).index
    drawn = results._replace(runs=results.runs[results.runs["run"].isin(results.film["run"])])
    methods = _students(drawn, None).set_index("run")["method"]
    maps = results.film[(results.film["layer"] == layer) & results.film["run"].isin(methods.index)]
    maps = maps[maps["image"].isin(shown)]
    rows = {run: i for i, run in enumerate(dict.fromkeys(maps["run"]))}
    cells = maps[["run", "epoch"]].drop_duplicates()
    trust = results.training.query("layer == @layer and measure == 'trustworthiness'")
    trust = trust.set_index(["run", "epoch"])["value"]
    names = [
        f"{methods[run]}, {f'pass {epoch}' if epoch else 'before'}|trust {trust[run, epoch]:.2f}"
        for run, epoch in cells.itertuples(index=False, name=None)
    ]
    stacked = _stacked(maps.assign(row=maps["run"].map(rows)), results, ["row", "epoch"])
    return (
        _strip(stacked, names, results, 86)
        .facet(_named(names), columns=len(cells) // len(rows), spacing=6)
        .resolve_scale(x="independent", y="independent")
        .properties(
            title=alt.Title(
                f"{layer} by t-SNE, pass after pass",
                subtitle=f"{_student(next(iter(rows)), results)}, and beside it: "
                f"{', '.join(methods[run] for run in list(rows)[1:])}; {len(shown)} images",
            ),
            description=f"t-SNE maps of {layer}: " + "; ".join(names).replace("|", ": ") + ".",
        )
    )


# ---- parts


WAY = {"cka_end": "CKA with its own end"}  # measures that only a film has


def _apart(table: pd.DataFrame, stages: list[str]) -> list[str]:
    """The layers that differ from the one before, and the logits."""
    wide = table.pivot_table(
        index=["method", "seed", "epoch"], columns="layer", values="difference"
    )
    wide = wide[[stage for stage in stages if stage in wide.columns]]
    return [*statistics.depths(wide), *(["logits"] if "logits" in wide.columns else [])]


def _ended(means: pd.DataFrame, what: str, stages: list[str]) -> str:
    """Say in a sentence where the curves of every layer end, for those who cannot see them."""
    last = means[means["epoch"] == means.groupby("method")["epoch"].transform("max")]
    said = [
        f"{stage} "
        + ", ".join(f"{m} {rows.set_index('method')['mean'][m]:.3g}" for m in order(rows["method"]))
        for stage, rows in ((s, last[last["layer"] == s]) for s in stages)
    ]
    return f"{what} over the passes of training, by layer. At the end: {'; '.join(said)}."


def scatter(points: pd.DataFrame, title: str, *, size: int = 460) -> alt.Chart:
    """Draw a map: columns x, y, label and image; a colour per class, its name on pointing."""
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False)
    return (
        alt.Chart(points, title=title, width=size, height=size)
        .mark_circle(size=40, opacity=0.8)
        .encode(
            alt.X("x:Q", axis=axis),
            alt.Y("y:Q", axis=axis),
            alt.Color("label:N", title="class", scale=alt.Scale(scheme="tableau10")),
            [alt.Tooltip("label:N", title="class"), alt.Tooltip("image:Q", title="number")],
        )
        .properties(description=f"{title}: a map of {len(points)} images, coloured by class")
    )


def _strip(table: pd.DataFrame, names: list[str], results: Results, side: int) -> alt.Chart:
    """Draw the maps of `_stacked`, to be told apart by name; an image pointed at shows in all."""
    over = alt.selection_point(name="over", fields=["image"], on="pointerover", empty=False)
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False)
    classes = [str(name) for name in results.study["classes"]]
    colour = alt.Scale(domain=classes, range=[CLASSES[i % 10] for i in range(len(classes))])
    return (
        alt.Chart(table)
        .transform_calculate(map=f"sequence({len(names)})")
        .transform_flatten(["x", "y", "map"])
        .transform_calculate(name=f"{json.dumps(names)}[datum.map]")
        .mark_circle(opacity=0.85, strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=alt.Color("class:N", scale=colour, sort=classes, title="class"),
            size=alt.condition(over, alt.value(220), alt.value(round(side / 10))),
            stroke=alt.condition(over, alt.value("#888"), alt.value(None)),
            tooltip=[alt.Tooltip("class:N"), alt.Tooltip("image:Q", title="number")],
        )
        .properties(width=side, height=side)
        .add_params(over)
    )


def _named(names: list[str]) -> alt.Facet:
    """Name the maps of `_strip`, in their order; a bar in a name begins a line."""
    lines = alt.Header(labelExpr="split(datum.value, '|')", labelFontSize=11, labelFontWeight=400)
    return alt.Facet("name:N", sort=names, title=None, header=lines)


def _stacked(maps: pd.DataFrame, results: Results, by: list[str]) -> pd.DataFrame:
    """One row per image with its places on all maps, to a pixel: what a page can carry."""
    ordered = maps.sort_values(["image", *by])
    whole = ordered.assign(x=(40 * ordered["x"]).round(), y=(40 * ordered["y"]).round())
    table = whole.groupby("image", as_index=False)[["x", "y"]].agg(lambda v: [int(i) for i in v])
    names = [str(results.study["classes"][results.labels[i]]) for i in table["image"]]
    return table.assign(**{"class": names})


def _student(run: str, results: Results) -> str:
    one = results.runs.set_index("run").loc[run]
    return (
        f"{one['network']}, {one['method']}, {one['labels']} labels per class, seed {one['seed']}"
    )


def budgets(table: pd.DataFrame) -> list[str]:
    """Sort label budgets by size; "all" is the largest."""
    return sorted(
        table["labels"].unique(), key=lambda b: (not b.isdigit(), int(b) if b.isdigit() else 0)
    )


def _students(results: Results, network: str | None) -> pd.DataFrame:
    """Pick the students of one network, by default the first; of the fullest teachers there are."""
    students = statistics.students(results)
    if students.empty:
        raise UsageError("these results hold no students; nothing to compare")
    network = students["network"].iloc[0] if network is None else network
    one_of("network", network, students["network"].unique())
    return students[students["network"] == network]


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


def _where(tests: pd.DataFrame) -> list[str]:
    """Name the cells' label budgets, and network and teacher where there are several."""
    several = [c for c in ("network", "teacher") if tests[c].nunique() > 1]
    words = [f"{b} labels" for b in tests["labels"]]
    return [", ".join(w) for w in zip(*(tests[c] for c in several), words, strict=True)]


def _methods(table: pd.DataFrame) -> alt.Y:
    return alt.Y("method:N", scale=alt.Scale(domain=order(table["method"])), title=None)


def _whole(table: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    """Give every panel at least one line: Vega-Lite moves others into the place of one without."""
    panels = pd.MultiIndex.from_product([table[row].unique(), table[column].unique()])
    missing = panels.difference(pd.MultiIndex.from_frame(table[[row, column]]))
    return pd.concat([table, pd.DataFrame(list(missing), columns=[row, column])])


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
    alone = standings[standings["method"] == "alone"]
    first = home["network"].iloc[0]
    alone = alone.assign(name=["alone" if n == first else f"alone, {n}" for n in alone["network"]])
    steps, panels = budgets(standings), []
    span = standings["at"].max() - standings["at"].min()
    for key, (title, *_) in FAMILIES.items():
        own = home[(home["method"].map(family) == key) & (home["method"] != "alone")]
        beside = alone[alone["network"].isin({*own["network"], first})]
        panel = pd.concat([beside, own], ignore_index=True).assign(family=title)
        if len(own):
            panels.append(_placed(panel, steps, gap=max(span, 1) * 12 / 260))
    return pd.concat(panels, ignore_index=True)


def _placed(panel: pd.DataFrame, steps: list[str], gap: float) -> pd.DataFrame:
    """Give a panel's lines their colours, their points room beside each other, names a place.

    Names keep the order of their lines' left ends, `gap` apart, as near to them as can be.
    """
    names = list(dict.fromkeys(panel["name"]))
    shades = iter(colours(m for m in panel["method"] if m != "alone").items())
    shade = dict(shades) | {"alone": COLOURS["alone"]}
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
        [1, 0] if m != "alone" or n == "alone" else [3, 3]
        for m, n in zip(panel["method"], panel["name"], strict=True)
    ]
    ends = panel.loc[panel.groupby("name")["x"].idxmin(), "at"].sort_values(kind="stable")
    room = gap * np.arange(len(ends))
    places = pd.Series(isotonic_regression(ends - room).x + room, index=ends.index)
    kept = ["name", "family", "labels", "accuracy", "low", "high", "n", *DRAWN, "outside", "number"]
    return panel[[*kept, "x", "lead", "colour", "dash"]].assign(place=places.round(2))


def _in_percent(standings: pd.DataFrame) -> pd.DataFrame:
    """Give accuracies in percent, on one axis for every label budget that holds all alone."""
    columns = ["accuracy", "low", "high"]
    table = standings.assign(**{c: (100 * standings[c]).clip(0, 100).round(2) for c in columns})
    ends = [floor(rows["accuracy"], rows["low"]) for _, rows in table.groupby("labels")]
    alone = table.loc[table["method"] == "alone", ["accuracy", "low"]].min(axis=None)
    return _clipped(table, np.nanmin([*ends, alone]), columns)


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
    """Pick the rows of `dots`, in their order; methods of further networks, with alone, last."""
    home = statistics.at_home(standings)
    home = home[home["method"].isin(methods)]
    if home.empty:
        raise UsageError(f"none of {', '.join(methods)} was run; nothing to draw")
    first = home["network"].iloc[0]
    away = set(home["network"]) - {first}
    alone = standings[(standings["method"] == "alone") & standings["network"].isin(away)]
    table = pd.concat([home, alone.assign(name="alone, " + alone["network"])])
    place = {"alone": len(methods)} | {m: number for number, m in enumerate(methods)}
    return table.assign(
        far=table["network"].map({first: 0}).fillna(1), place=table["method"].map(place)
    ).sort_values(["far", "network", "place"], kind="stable")


def _gains(pairs: pd.DataFrame) -> pd.DataFrame:
    """Give the gains of `statistics.pairs` in points."""
    if pairs.empty:
        raise UsageError("no pair of a teacher and a student to draw")
    columns = ("gain", "low", "high", "alone", "accuracy")
    table = pairs.assign(**{c: (100 * pairs[c]).round(2) for c in columns})
    return table.assign(smaller=table["smaller"].round(2))


def _ranks(home: pd.DataFrame, family: Mapping[str, str]) -> pd.DataFrame:
    """Rank the methods by what they add, at each budget; gains in points."""
    table = home[home["gain"].notna() & home["method"].isin(family)]
    if table.empty:
        raise UsageError("no method shares labels and seed with a student alone; nothing to rank")
    table = table.assign(
        **{c: (100 * table[c]).round(2) for c in GAIN},
        rank=table.groupby("labels")["gain"].rank(ascending=False, method="first").astype(int),
        family=table["method"].map(lambda method: FAMILIES[family[method]][0]),
    )
    return table[["name", "family", "labels", *GAIN, "pairs", "rank"]]


def _logits(results: Results) -> tuple[np.ndarray, np.ndarray]:
    """What the first teacher drawn says: logits (n, k), and the numbers of the n images."""
    if results.answers.empty:
        raise UsageError("these results hold no answers of a teacher; publish the study again")
    own = results.answers[results.answers["run"] == results.answers["run"].iloc[0]]
    wide = own.pivot_table(index="image", columns="label", values="logit")
    return wide.to_numpy(float), wide.index.to_numpy()


def _asked(results: Results) -> tuple[pd.DataFrame, dict[str, str]]:
    """List classes, logits and truth of the images of `soft`, and the picture of each by name."""
    logits, images = _logits(results)
    classes = [str(name) for name in results.study["classes"]]
    parts, pictures = [], {}
    for one in hesitant(results).itertuples():
        z = logits[images == one.image][0]
        name = f"{classes[one.truth]} (no. {one.image})"
        part = pd.DataFrame({"name": name, "class": classes, "logit": z.round(4)})
        part["hard"] = (part.index == one.truth).astype(int)
        part["rank"] = part["logit"].rank(ascending=False, method="first").astype(int)
        parts.append(part)
        pictures[name] = _picture(results.images[one.image])
    return pd.concat(parts, ignore_index=True), pictures


def _picture(image: np.ndarray, side: int = 84) -> str:
    """A data URI of an image, its pixels as squares."""
    whole = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    whole.thumbnail((side, side))
    whole = whole.resize((side, round(side * whole.height / whole.width)), Image.Resampling.NEAREST)
    file = io.BytesIO()
    whole.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _told(table: pd.DataFrame, chosen: alt.Parameter) -> alt.LayerChart | alt.FacetChart:
    """Draw the hard label of the chosen image, and the softmax of its logits at temperature T."""
    base = (
        alt.Chart(table)
        .transform_filter(chosen)
        .transform_joinaggregate(top="max(logit)")
        .transform_calculate(power="exp((datum.logit - datum.top) / T)")
        .transform_joinaggregate(total="sum(power)")
        .transform_filter(f"datum.rank <= {MOST} || datum.hard")
        .transform_calculate(
            **{"hard label": "datum.hard", "soft label": "datum.power / datum.total"}
        )
        .transform_fold(list(TOLD), ["label", "p"])
        .encode(
            y=alt.Y("class:N", sort=list(dict.fromkeys(table["class"])), title=None),
            yOffset=alt.YOffset("label:N", sort=list(TOLD)),
            x=alt.X("p:Q", title="probability", scale=alt.Scale(domain=[0, 1.15], nice=False)).axis(
                values=[0, 0.25, 0.5, 0.75, 1], format="%"
            ),
            tooltip=["class:N", "label:N", _number("p:Q", "probability", ".2%")],
        )
    )
    shade = alt.Scale(domain=list(TOLD), range=list(TOLD.values()))
    bars = base.mark_bar().encode(color=alt.Color("label:N", scale=shade, sort=list(TOLD)))
    words = base.mark_text(align="left", dx=4, fontSize=11).encode(
        text=alt.Text("p:Q", format=".1%")
    )
    words = words.transform_filter("datum.label == 'soft label'")
    return alt.layer(bars, words).properties(width=322, height={"step": 10})


def _answer_said(table: pd.DataFrame, name: str, temperature: float) -> str:
    """Say in words what `soft` shows as it opens."""
    own = table[table["name"] == name]
    p = pd.Series(softmax(own["logit"] / temperature), index=own["class"]).sort_values()[::-1]
    said = ", ".join(f"{100 * v:.0f} % for {c}" for c, v in p.head(3).items())
    truth = own.loc[own["hard"] == 1, "class"].iloc[0]
    return (
        f"Image {name}: the hard label is {truth}. The teacher's soft label at temperature "
        f"{temperature:g} is {said}, and less for all others. Image and temperature can be chosen."
    )


def _boxes(shapes: pd.DataFrame, stages: list[str]) -> pd.DataFrame:
    """Give every layer of `blocks` its rectangle and its words."""
    at = shapes["layer"].map(stages.index)
    half = 0.42 * np.sqrt(shapes["channels"] / shapes["channels"].max())
    tall = 0.5 * np.sqrt(shapes["side"] / shapes["side"].max())
    flat = shapes["side"] == 1
    said = shapes["channels"].astype(str) + np.where(
        flat, "", " × " + shapes["side"].astype(str) + "²"
    )
    return shapes.assign(
        middle=at, left=at - half, right=at + half, low=-tall, high=tall, said=said
    )
