"""What a student is trained on: each method is a loss with a name, its paper and its constants."""

from kdlib.distill.build import Combined, build, refusals
from kdlib.distill.controls import Baseline, Pseudo, Random, Shuffled, Smooth
from kdlib.distill.features import AB, AT, FSP, FT, NST, OFD, VID, FitNet, ReviewKD, SimKD
from kdlib.distill.logits import DIST, DKD, KD, MLKD, NKD, LogitStd
from kdlib.distill.method import CLASSES, NO_TEACHER, Method, Terms
from kdlib.distill.pretraining import SimCLR
from kdlib.distill.relations import CC, CRD, ICKD, PKT, RKD, SP
from kdlib.distill.schemes import DML, BornAgain, NoisyStudent, Self, Transfer

__all__ = [
    "AB",
    "AT",
    "CC",
    "CLASSES",
    "CRD",
    "DIST",
    "DKD",
    "DML",
    "FSP",
    "FT",
    "ICKD",
    "KD",
    "MLKD",
    "NKD",
    "NO_TEACHER",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "Baseline",
    "BornAgain",
    "Combined",
    "FitNet",
    "LogitStd",
    "Method",
    "NoisyStudent",
    "Pseudo",
    "Random",
    "ReviewKD",
    "Self",
    "Shuffled",
    "SimCLR",
    "SimKD",
    "Smooth",
    "Terms",
    "Transfer",
    "build",
    "refusals",
]
