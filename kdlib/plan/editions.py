"""The editions of the book: one for each data set that there are results of.

Every edition is built from the same chapters and reads other studies. The first one leads: its
pages are at the top of the book and hold what is the same for all data sets, too; those of the
others are in folders beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

LEAD = "cifar10"  # where seeds enough are published; until then the study just computed
ENOUGH = 3  # seeds: with fewer no difference has an interval worth a word
RESULTS = Path("book/results")


class Edition(NamedTuple):
    """One data set: how the switch calls it, and the studies that its chapters read.

    Chapters read the `main` study; those on teachers, on a student of more capacity, on pairs of
    networks and on all methods read the study of that role, which is empty where there is none.
    """

    key: str  # its folder, unless it leads
    title: str  # in the switch
    words: str  # what the images are
    main: str
    regimes: str = ""
    capacity: str = ""
    architectures: str = ""
    methods: str = ""
    whole: int = 0  # images of the original data set, where a study may have fewer
    missing: tuple[int, str] = (0, "")  # how many test images an incomplete copy has; what it lacks

    @property
    def studies(self) -> list[str]:
        """Every study that it reads, each once."""
        names = (*self.judging, self.architectures, self.methods)
        return list(dict.fromkeys(filter(None, names)))

    @property
    def judging(self) -> list[str]:
        """The studies that judge the paper's claims, each once."""
        return list(dict.fromkeys(filter(None, (self.main, self.regimes, self.capacity))))


EDITIONS = (
    Edition(
        *("cifar10", "CIFAR-10", "photographs of ten kinds of animals and vehicles", "cifar10"),
        regimes="cifar10_pretrained",
        capacity="cifar10_capacity",
        architectures="cifar10_architectures",
        methods="cifar10",
        whole=60_000,
        missing=(
            9_979,
            "The lossless copy lacks 98 images, 93 of ships and 5 of horses; the same study of "
            "torchvision's download (`dataset: cifar10`) has them.",
        ),
    ),
    Edition(
        *("cifar100", "CIFAR-100", "photographs of a hundred kinds of things", "cifar100"),
        regimes="cifar100",
        architectures="cifar100",
        methods="cifar100",
        whole=60_000,
    ),
    Edition(
        *("digits", "digits", "handwritten digits of 8 x 8 pixels", "quick"),
        regimes="regimes",
        architectures="architectures",
        methods="methods",
    ),
)


def of_study(name: str) -> Edition:
    """Give the edition whose main study this is: one of the table, or one of its own.

    One of its own reads this study for everything.
    """
    for edition in EDITIONS:
        if edition.main == name:
            return edition
    words = f"the images of the study {name}"
    return Edition(
        f"study-{name}", name, words, name, regimes=name, architectures=name, methods=name
    )


def reading(study: str) -> Edition:
    """Give the edition one of whose chapters reads this study."""
    return next((each for each in EDITIONS if study in each.studies), of_study(study))


def existing(computed: str = "", results: Path = RESULTS) -> list[Edition]:
    """List the editions that there are results of, the leading one first.

    `computed` is the study just computed, whose results may not be there yet. A study without
    layers has no book. Photographs lead from `ENOUGH` seeds on.
    """
    names = dict.fromkeys([*(e.main for e in EDITIONS), computed])
    there = [
        name
        for name in filter(None, names)
        if name == computed or (results / name / "measures.parquet").is_file()
    ]
    first = LEAD if LEAD in there and _seeds(results / LEAD) >= ENOUGH else computed
    return [of_study(name) for name in sorted(there, key=lambda name: name != first)]


def _seeds(folder: Path) -> int:
    """How many seeds a study has in the label budget that has most of them; 0 if not published."""
    file = folder / "study.json"
    if not file.is_file():
        return 0
    published = json.loads(file.read_text(encoding="utf-8")).get("published", {})
    return max((len(seeds) for seeds in published.values()), default=0)
