"""Maps of layers that stand still: sweeps, strips of a film, one scatter."""

from __future__ import annotations

import json

import altair as alt
import pandas as pd

from kdlib import UsageError, one_of
from kdlib.embed import TITLES
from kdlib.embed.compare import PACKAGE
from kdlib.report.charts import parts
from kdlib.report.charts.look import CLASSES, LINES
from kdlib.store import Results

ENGINES = {"ivis": "our engine", PACKAGE: "the package"}  # of IVIS
SETTINGS = {"tsne": ("perplexity", "start"), "ivis": ("k", "seed")}  # what a sweep varies
MANY = 20  # classes, from which on a legend is longer than its figure


def sweep(results: Results, embedding: str = "tsne", *, run: str | None = None) -> alt.FacetChart:
    """Draw many maps of one layer of one network: a row per perplexity or k, a column per seed.

    Above each map stand its trustworthiness and the share of neighbours it keeps; an image that
    is pointed at is marked in all. `run` is by default the last that has such maps.
    """
    kinds = [kind for kind in SETTINGS if kind in set(results.sweeps["embedding"])]
    one_of("embedding", embedding, kinds)
    maps = results.sweeps[results.sweeps["embedding"] == embedding]
    run = maps["run"].iloc[-1] if run is None else run
    one_of("run", run, maps["run"].unique())
    maps = maps[maps["run"] == run]
    title, (setting, seed) = TITLES[embedding], SETTINGS[embedding]
    cells = maps.groupby(["setting", "seed"], sort=True).first()
    names = [
        f"{setting} {k}, {seed} {s}|trust {trust:.2f}, keeps {share:.0%}"
        for (k, s), trust, share in zip(
            cells.index, cells["trustworthiness"], cells["neighbours_kept"], strict=True
        )
    ]
    layer, n = maps["layer"].iloc[0], maps["image"].nunique()
    columns = cells.index.get_level_values("seed").nunique()
    return (
        _strip(_stacked(maps, results, ["setting", "seed"]), names, results, 165)
        .facet(_named(names), columns=columns, spacing=8)
        .resolve_scale(x="independent", y="independent")
        .properties(
            title=alt.Title(
                f"{layer} by {title}, many times",
                subtitle=f"{_student(run, results)}; the same {n} images in every map",
            ),
            description=f"{title} maps of {layer}: " + "; ".join(names).replace("|", ": ") + ".",
        )
    )


def engines(results: Results, *, run: str | None = None) -> alt.FacetChart:
    """Draw IVIS maps of one layer of one network: a row for each engine, a column for each seed.

    Above each map stand its trustworthiness and the share of neighbours it keeps. `run` is by
    default the last that has such maps. Raises UsageError where the package made none.
    """
    maps = results.sweeps[results.sweeps["embedding"] == PACKAGE]
    if maps.empty:
        raise UsageError("these results hold no IVIS maps by its package; compare makes some")
    run = maps["run"].iloc[-1] if run is None else run
    one_of("run", run, maps["run"].unique())
    setting, order = maps["setting"].iloc[0], list(ENGINES)
    maps = results.sweeps[results.sweeps["embedding"].isin(order)]
    maps = maps[(maps["run"] == run) & (maps["setting"] == setting)]
    maps = maps.assign(row=maps["embedding"].map(order.index))
    cells = maps.groupby(["row", "seed"], sort=True).first()
    names = [
        f"{ENGINES[order[row]]}, seed {seed}|trust {trust:.2f}, keeps {share:.0%}"
        for (row, seed), trust, share in zip(
            cells.index, cells["trustworthiness"], cells["neighbours_kept"], strict=True
        )
    ]
    layer, n = maps["layer"].iloc[0], maps["image"].nunique()
    return (
        _strip(_stacked(maps, results, ["row", "seed"]), names, results, 165)
        .facet(_named(names), columns=maps["seed"].nunique(), spacing=8)
        .resolve_scale(x="independent", y="independent")
        .properties(
            title=alt.Title(
                f"{layer} by {TITLES['ivis']}, by our engine and by its authors' package",
                subtitle=f"{_student(run, results)}; k {setting}; the same {n} images in every map",
            ),
            description=f"{TITLES['ivis']} maps of {layer}: "
            + "; ".join(names).replace("|", ": ")
            + ".",
        )
    )


def film(results: Results, layer: str | None = None, *, images: int = 20) -> alt.FacetChart:
    """Draw one layer's maps, epoch after epoch: a row for each student whose training was followed.

    Of every class the first so many `images`; of one network. Above each map stands its
    trustworthiness.
    """
    layers = list(dict.fromkeys(results.film["layer"]))
    if not layers:
        raise UsageError("these results hold no film of training; a study's `film` makes one")
    layer = layers[0] if layer is None else layer
    one_of("layer", layer, layers)
    labels = pd.Series(results.labels)
    sample = labels.groupby(labels).head(images).index
    runs = results.runs[results.runs["run"].isin(results.film["run"])]
    methods = parts.students(results._replace(runs=runs), None).set_index("run")["method"]
    maps = results.film[(results.film["layer"] == layer) & results.film["run"].isin(methods.index)]
    maps = maps[maps["image"].isin(sample)]
    rows = {run: i for i, run in enumerate(dict.fromkeys(maps["run"]))}
    cells = maps[["run", "epoch"]].drop_duplicates()
    trust = results.training.query("layer == @layer and measure == 'trustworthiness'")
    trust = trust.set_index(["run", "epoch"])["value"]
    names = [
        f"{methods[run]}, {f'epoch {epoch}' if epoch else 'before'}|trust {trust[run, epoch]:.2f}"
        for run, epoch in cells.itertuples(index=False, name=None)
    ]
    stacked = _stacked(maps.assign(row=maps["run"].map(rows)), results, ["row", "epoch"])
    return (
        _strip(stacked, names, results, 86)
        .facet(_named(names), columns=len(cells) // len(rows), spacing=6)
        .resolve_scale(x="independent", y="independent")
        .properties(
            title=alt.Title(
                f"{layer} by t-SNE, epoch after epoch",
                subtitle=f"{_student(next(iter(rows)), results)}, and beside it: "
                f"{', '.join(methods[run] for run in list(rows)[1:])}; {len(sample)} images",
            ),
            description=f"t-SNE maps of {layer}: " + "; ".join(names).replace("|", ": ") + ".",
        )
    )


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
    legend = alt.Legend() if len(classes) <= MANY else None
    return (
        alt.Chart(table)
        .transform_calculate(map=f"sequence({len(names)})")
        .transform_flatten(["x", "y", "map"])
        .transform_calculate(name=f"{json.dumps(names)}[datum.map]")
        .mark_circle(opacity=0.85, strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=alt.Color("class:N", scale=colour, sort=classes, title="class", legend=legend),
            size=alt.condition(over, alt.value(220), alt.value(round(side / 10))),
            stroke=alt.condition(over, alt.value(LINES), alt.value(None)),
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
    row = results.runs.set_index("run").loc[run]
    return (
        f"{row['network']}, {row['method']}, {row['labels']} labels per class, seed {row['seed']}"
    )
