"""Tables -> Altair charts with one look: the same order and colours of methods everywhere."""

from kdlib.report.charts.depth import difference, layers, saved, similarity
from kdlib.report.charts.gallery import FAMILIES, dots, families, floor, ranked
from kdlib.report.charts.judged import forest, tested
from kdlib.report.charts.logits import hesitant, pull, pulls, soft
from kdlib.report.charts.look import (
    CLASSES,
    COLOURS,
    CONTROLS,
    MIME,
    budgets,
    colours,
    enable,
    hint,
    name,
    order,
    theme,
)
from kdlib.report.charts.maps import film, scatter, sweep
from kdlib.report.charts.pairs import blocks, gaps, grid
from kdlib.report.charts.passes import training
from kdlib.report.charts.students import accuracy, gains, regimes

__all__ = [
    "CLASSES",
    "COLOURS",
    "CONTROLS",
    "FAMILIES",
    "MIME",
    "accuracy",
    "blocks",
    "budgets",
    "colours",
    "difference",
    "dots",
    "enable",
    "families",
    "film",
    "floor",
    "forest",
    "gains",
    "gaps",
    "grid",
    "hesitant",
    "hint",
    "layers",
    "name",
    "order",
    "pull",
    "pulls",
    "ranked",
    "regimes",
    "saved",
    "scatter",
    "similarity",
    "soft",
    "sweep",
    "tested",
    "theme",
    "training",
]
