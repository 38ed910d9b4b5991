"""What the chapters of the book state, computed from published results: a module for each chapter.

`facts` of a chapter returns the words and numbers that its prose quotes; `glue` hands them to the
page. The other functions return tables and lists, or a sentence where a study lacks what they need.
"""

from kdlib.report.findings import (
    architectures,
    controls,
    distillation,
    index,
    labels,
    layers,
    measures,
    methods,
    misreading,
    regimes,
    status,
    training,
    verdicts,
)
from kdlib.report.findings.words import glue

__all__ = [
    "architectures",
    "controls",
    "distillation",
    "glue",
    "index",
    "labels",
    "layers",
    "measures",
    "methods",
    "misreading",
    "regimes",
    "status",
    "training",
    "verdicts",
]
