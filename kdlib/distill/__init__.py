"""What a student is trained on: each method is a loss with a name, its paper and its constants.

A module per family; importing them fills `CLASSES`, key by key.
"""

from kdlib.distill import controls, features, logits, pretraining, relations, schemes
from kdlib.distill.build import Combined, build, refusals
from kdlib.distill.method import CLASSES, NO_TEACHER, LayerLoss, Method, Terms

__all__ = [
    "CLASSES",
    "NO_TEACHER",
    "Combined",
    "LayerLoss",
    "Method",
    "Terms",
    "build",
    "controls",
    "features",
    "logits",
    "pretraining",
    "refusals",
    "relations",
    "schemes",
]
