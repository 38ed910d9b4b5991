"""Tables -> Altair charts with one look: the same order and colours of methods everywhere."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping
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
    """Draw test accuracy against labels per class: a line through the means, a dot per seed."""
    runs = _students(results, network)
    network = runs["network"].iloc[0]
    table = runs.assign(accuracy_pct=100 * runs["test_accuracy"])
    table = table[["method", "labels", "seed", "accuracy_pct"]].round(3)
    x = alt.X(
        "labels:N", sort=budgets(runs), title="labels per class", scale=alt.Scale(padding=0.3)
    )
    y = alt.Y("accuracy_pct:Q", title="test accuracy, %", scale=alt.Scale(zero=False))
    base = alt.Chart(table).encode(x=x, color=_colour(table), opacity=_fade())
    lines = base.mark_line(strokeWidth=2.2).encode(y=y.aggregate("mean"))
    means = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y.aggregate("mean"),
        tooltip=[
            "method:N",
            "labels:N",
            _number("mean(accuracy_pct):Q", "mean, %", ".1f"),
            alt.Tooltip("count():Q", title="seeds"),
        ],
    )
    seeds = base.mark_circle(size=22).encode(
        y=y, tooltip=["method:N", "labels:N", "seed:N", _number("accuracy_pct:Q", "%", ".1f")]
    )
    layers = [*_teacher(results), seeds, lines, means]
    n = int(runs["seed"].nunique())
    return (
        alt.layer(*layers)
        .add_params(_chosen())
        .properties(
            width=600,
            height=300,
            title=alt.Title(
                f"Test accuracy of {network}",
                subtitle=f"line: mean of {n} seeds; dots: single seeds",
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
    table = table.drop(columns="run").round(4)
    stages, steps = list(results.study["layers"]), budgets(runs)
    base = alt.Chart().encode(
        x=alt.X("layer:N", sort=stages, title=None, axis=alt.Axis(labelAngle=-40)),
        color=_colour(table),
        opacity=_fade(),
    )
    y = alt.Y("value:Q", title=name(measure), scale=alt.Scale(zero=False))
    where = ["method:N", "layer:N", alt.Tooltip("labels:N", title="labels per class")]
    seeds = base.mark_circle(size=12).encode(
        y=y, tooltip=[*where, "seed:N", _number("value:Q", name(measure), ".3f")]
    )
    mean = base.mark_line(strokeWidth=2.2, point={"size": 26}).encode(
        y=y.aggregate("mean"),
        tooltip=[
            *where,
            _number("mean(value):Q", "mean", ".3f"),
            alt.Tooltip("count():Q", title="seeds"),
        ],
    )
    n = int(runs["seed"].nunique())
    panel = alt.layer(seeds, mean, data=table).properties(width=_share(620, len(steps)), height=210)
    return (
        panel.add_params(_chosen())
        .facet(
            column=alt.Column("labels:N", sort=steps, title=None, header=_header("middle")),
            spacing=14,
        )
        .properties(
            title=alt.Title(
                f"{name(measure)}, layer by layer, {network}",
                subtitle=f"line: mean of {n} seeds; dots: single seeds; {hint(measure)}",
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
    rows = alt.Chart(table).transform_filter("datum.labels == labels")
    rows = rows.encode(y=alt.Y("rank:O", axis=None))
    base = rows.encode(
        color=alt.Color("family:N", scale=alt.Scale(domain=names, range=shades), sort=names),
        tooltip=["name:N", "family:N", *numbers, "pairs:Q"],
    )
    axis = alt.Axis(title="test accuracy minus alone, points", tickCount=8, labelOverlap=True)
    x, low = (alt.X(f"{c}:Q", axis=axis) for c in GAIN[:2])
    form = alt.Shape("family:N", scale=alt.Scale(domain=names, range=shapes), sort=names)
    marks = [
        alt.Chart().mark_rule(strokeDash=[4, 3], color="#888").encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=1.6)
        .encode(x=low, x2="gain_high:Q")
        .transform_filter("isValid(datum.gain_low)"),
        base.mark_point(filled=True, size=65, opacity=1).encode(x=x, shape=form),
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
            subtitle=f"mean of n = {n} paired seeds with 95 % t interval; right of 0 is better",
        ),
        description=f"Points of test accuracy over alone, {steps[0]} labels per class: {said}.",
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
    over = alt.selection_point(name="over", fields=["image"], on="pointerover", empty=False)
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False)
    classes = [str(name) for name in results.study["classes"]]
    colour = alt.Scale(domain=classes, range=[CLASSES[i % 10] for i in range(len(classes))])
    panel = (
        alt.Chart(_stacked(maps, results))
        .transform_calculate(map=f"sequence({len(names)})")
        .transform_flatten(["x", "y", "map"])
        .transform_calculate(name=f"{json.dumps(names)}[datum.map]")
        .mark_circle(opacity=0.85, strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=alt.Color("class:N", scale=colour, sort=classes, title="class"),
            size=alt.condition(over, alt.value(220), alt.value(16)),
            stroke=alt.condition(over, alt.value("#888"), alt.value(None)),
            tooltip=[alt.Tooltip("class:N"), alt.Tooltip("image:Q", title="number")],
        )
        .properties(width=165, height=165)
        .add_params(over)
    )
    lines = alt.Header(labelExpr="split(datum.value, '|')", labelFontSize=11, labelFontWeight=400)
    layer, n = maps["layer"].iloc[0], maps["image"].nunique()
    columns = cells.index.get_level_values("seed").nunique()
    return (
        panel.facet(
            alt.Facet("name:N", sort=names, title=None, header=lines), columns=columns, spacing=8
        )
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
    table = _asked(results)
    names = list(dict.fromkeys(table["name"]))
    menu: Any = {"name": alt.binding_select(options=names, name="image: ")}
    how: dict[str, Any] = {"fields": ["name"], "on": "image:click", "clear": False}
    chosen = alt.selection_point(
        name="chosen", value=[{"name": names[0]}], bind=menu, empty=False, **how
    )
    slider = alt.binding_range(min=1, max=20, step=0.5, name="temperature T: ")
    axis = alt.Axis(title=None, ticks=False, labelExpr="split(datum.label, ' (')[0]")
    strip = (
        alt.Chart(table[table["picture"] != ""][["name", "picture"]])
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


# ---- parts


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


def _stacked(maps: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row per image with its places on all maps, to a pixel: what a page can carry."""
    ordered = maps.sort_values(["image", "setting", "seed"])
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


def _some(standings: pd.DataFrame) -> pd.DataFrame:
    if standings.empty:
        raise UsageError("these results hold no students; nothing to compare")
    return standings


def _panels(standings: pd.DataFrame, family: Mapping[str, str]) -> pd.DataFrame:
    """Lay out `families`: rows of every panel, with colours, places and room between names."""
    home = statistics.at_home(standings)
    alone = standings[standings["method"] == "alone"]
    first = home["network"].iloc[0]
    alone = alone.assign(name=["alone" if n == first else f"alone, {n}" for n in alone["network"]])
    steps, panels = budgets(standings), []
    span = 100 * (standings["accuracy"].max() - standings["accuracy"].min())
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
        **{c: (100 * panel[c]).clip(0, 100).round(2) for c in ("accuracy", "low", "high")},
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
    ends = panel.loc[panel.groupby("name")["x"].idxmin(), "accuracy"].sort_values(kind="stable")
    room = gap * np.arange(len(ends))
    places = pd.Series(isotonic_regression(ends - room).x + room, index=ends.index)
    kept = ["name", "family", "labels", "accuracy", "low", "high", "n"]
    return panel[[*kept, "x", "lead", "colour", "dash"]].assign(place=places.round(2))


def _lines(table: pd.DataFrame, over: alt.Parameter) -> list[alt.Chart]:
    """Draw the lines of one panel of `families`, and lead from each to its name."""
    steps, lowest = budgets(table), table[["accuracy", "place"]].min(axis=None)
    reach = [lowest - 2, max(101, table["place"].max() + 2)]
    y = alt.Y("accuracy:Q", title="test accuracy, %", scale=alt.Scale(domain=reach, nice=False))
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
        y=y.axis(values=list(range(0, 101, 10))),
        opacity=alt.condition(over, alt.value(0.95), alt.value(0.12)),
        tooltip=["name:N", alt.Tooltip("labels:N", title="labels per class"), *numbers, "n:Q"],
        detail="name:N",
    )
    drawn = base.encode(color=alt.Color("colour:N", scale=None))
    lead = drawn.mark_rule(strokeWidth=0.7).encode(x="lead:Q", x2="x:Q")
    name = base.mark_text(align="right", dx=-3, fontSize=11).encode(x="lead:Q", text="name:N")
    return [
        lead.encode(y="place:Q", y2="accuracy:Q").transform_filter("isValid(datum.place)"),
        drawn.mark_rule(strokeWidth=1.3, clip=True)
        .encode(y="low:Q", y2="high:Q")
        .transform_filter("isValid(datum.low)"),
        drawn.mark_line(strokeWidth=1.8).encode(strokeDash=alt.StrokeDash("dash:N", scale=None)),
        drawn.mark_point(filled=True, size=34),
        name.encode(y="place:Q").transform_filter("isValid(datum.place)"),
    ]


def _standing_said(table: pd.DataFrame) -> str:
    """Say in words what `families` shows at the fewest labels."""
    few = budgets(table)[0]
    said = []
    for family, rows in table[table["labels"] == few].groupby("family", sort=False):
        each = zip(rows["name"], rows["accuracy"], strict=True)
        said.append(f"{family}: " + ", ".join(f"{name} {value:.1f}" for name, value in each))
    return f"Test accuracy in percent, with {few} labels per class. {'; '.join(said)}."


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


def _asked(results: Results) -> pd.DataFrame:
    """List classes, logits and truth of the images of `soft`; the picture in one row of each."""
    logits, images = _logits(results)
    classes = [str(name) for name in results.study["classes"]]
    parts = []
    for one in hesitant(results).itertuples():
        z = logits[images == one.image][0]
        name = f"{classes[one.truth]} (no. {one.image})"
        part = pd.DataFrame({"name": name, "class": classes, "logit": (z - z.max()).round(4)})
        part["hard"] = (part.index == one.truth).astype(int)
        part["rank"] = part["logit"].rank(ascending=False, method="first").astype(int)
        part["picture"] = np.where(part.index == 0, _picture(results.images[one.image]), "")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


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
        alt.Chart(table.drop(columns="picture"))
        .transform_filter(chosen)
        .transform_calculate(power="exp(datum.logit / T)")
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
    said = ", ".join(f"{c} {100 * v:.0f} %" for c, v in p.head(3).items())
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
