"""Tables -> Altair charts with one look: the same order and colours of methods everywhere."""

from kdlib.charts.answers import hesitant, pull, pulls, soft
from kdlib.charts.depth import difference, layers, likeness, saved
from kdlib.charts.gallery import FAMILIES, dots, families, floor, ranked
from kdlib.charts.judged import forest, tested
from kdlib.charts.look import (
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
from kdlib.charts.maps import film, scatter, sweep
from kdlib.charts.pairs import blocks, gaps, grid
from kdlib.charts.passes import training
from kdlib.charts.students import accuracy, gains, regimes

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
    "likeness",
    "name",
    "order",
    "pull",
    "pulls",
    "ranked",
    "regimes",
    "saved",
    "scatter",
    "soft",
    "sweep",
    "tested",
    "theme",
    "training",
]
