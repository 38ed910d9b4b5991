"""Tables -> Altair charts with one look: the same order and colours of methods everywhere."""

from kdlib.measure.statistics import CONTROLS
from kdlib.report.charts.depth import difference, layers, saved, similarity
from kdlib.report.charts.forest import forest
from kdlib.report.charts.gallery import dots, families, floor, ranked
from kdlib.report.charts.logits import gradient, gradient_lengths, least_certain, soft_labels
from kdlib.report.charts.look import (
    CLASSES,
    COLOURS,
    MIME,
    budgets,
    colours,
    enable,
    hint,
    label,
    name,
    order,
    theme,
)
from kdlib.report.charts.maps import engines, film, scatter, sweep
from kdlib.report.charts.pairs import blocks, gaps, grid
from kdlib.report.charts.students import accuracy, gains, regimes
from kdlib.report.charts.training import training

__all__ = [
    "CLASSES",
    "COLOURS",
    "CONTROLS",
    "MIME",
    "accuracy",
    "blocks",
    "budgets",
    "colours",
    "difference",
    "dots",
    "enable",
    "engines",
    "families",
    "film",
    "floor",
    "forest",
    "gains",
    "gaps",
    "gradient",
    "gradient_lengths",
    "grid",
    "hint",
    "label",
    "layers",
    "least_certain",
    "name",
    "order",
    "ranked",
    "regimes",
    "saved",
    "scatter",
    "similarity",
    "soft_labels",
    "sweep",
    "theme",
    "training",
]
