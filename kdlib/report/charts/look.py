"""The colours and order of methods, their names in words, and how charts reach a page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import altair as alt
import pandas as pd

from kdlib.measure import metrics
from kdlib.measure.statistics import size
from kdlib.plan.methods import BASELINE, METHODS

GREY = "#7f868b"  # of the baseline
LINES = "#888"  # of what is drawn for reference, on light and on dark
# The methods of most studies, as far apart as ten colours and a grey can be (distance in OKLab,
# with normal colour vision and three kinds of colour blindness), visible on white and on dark. The
# rest is grey: charts name it, and point it out.
NAMED = {
    **{"kd": "#2f7fd0", "fitnet": "#bcae20", "at": "#c2005c", "simkd": "#8807ff", "sp": "#006b6e"},
    **{"transfer": "#06cad9", "pseudo": "#ba7a00", "shuffled": "#fe8d92", "random": "#6f5600"},
    "smooth": "#9f98ff",
}
FIRST = ("kd", "fitnet", "at")  # in legends, after baseline and controls
GREYS = ("#9ca4aa", "#b9c0c5")
TEACHER = "#3fae49"
# Classes: Petroff's ten colours, in the explorer, too.
CLASSES: tuple[str, ...] = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6")
CLASSES += ("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MIME = "application/vnd.vegalite.v5+json"  # nbformat and JupyterLab refuse an object under v6
BASELINE_LABEL = "baseline (no teacher)"
LABEL_EXPR = f"datum.label == '{BASELINE}' ? '{BASELINE_LABEL}' : datum.label"  # of Vega


def _palette() -> dict[str, str]:
    """Give each method of the table its colour, in the order of every legend."""
    controls = [key for key, method in METHODS.items() if method.control]
    order = dict.fromkeys([BASELINE, *controls, *FIRST, *METHODS])
    greys = {key: GREYS[i % len(GREYS)] for i, key in enumerate(order)}
    return greys | {BASELINE: GREY} | NAMED


COLOURS = _palette()


def name(measure: str) -> str:
    """Return a measure in words, or its key where no words are known."""
    entry = metrics.MEASURES.get(measure)
    return entry.title if entry else measure.replace("_", " ")


def hint(measure: str) -> str:
    """Return which direction of a measure is the better one; empty where that is not known."""
    entry = metrics.MEASURES.get(measure)
    return f"{entry.better} is better" if entry else ""


def label(method: str) -> str:
    """Return how legends and axes call a method."""
    return BASELINE_LABEL if method == BASELINE else method


def order(methods: Iterable[str]) -> list[str]:
    """Sort methods as every legend has them; those that are not in the table come last."""
    present = set(methods)
    return [m for m in COLOURS if m in present] + sorted(present - set(COLOURS))


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Give each method its colour, in the order of the legend.

    A method has the same colour in every chart; combinations and second forms of a method, which
    the table does not list, have what colours are left.
    """
    methods = order(methods)
    table = COLOURS | {"teacher": TEACHER}
    listed = {m: table[m] for m in methods if m in table}
    rest = [m for m in methods if m not in table]
    free = [shade for shade in NAMED.values() if shade not in listed.values()]
    free = free or list(NAMED.values())
    return listed | {m: free[i % len(free)] for i, m in enumerate(rest)}


def budgets(table: pd.DataFrame) -> list[str]:
    """Sort label budgets by size; "all" is the largest."""
    return sorted(table["labels"].unique(), key=size)


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
    if os.environ.get("KD_BOOK"):  # set by kdlib.report.sphinx while it builds
        return {MIME: spec, "text/plain": text}
    alt.JupyterChart.enable_offline()
    spec = {**spec, "config": {**spec.get("config", {}), "background": "white"}}
    chart = alt.JupyterChart(alt.Chart.from_dict(spec))
    bundle: Any = chart._repr_mimebundle_() or {}
    return bundle[0] if isinstance(bundle, tuple) else bundle
