"""What a run is: every parameter that makes it, checked, and the folder it lands in.

No torch in here: the pipeline plans a whole study by these classes alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, ClassVar, get_args, get_type_hints

from kdlib import UsageError, one_of
from kdlib.plan.source import Source

_HINTS: dict[type, dict[str, Any]] = {}  # kept: a large study asks thousands of times


def hints(kind: type) -> dict[str, Any]:
    """The declared types of a class, by field."""
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


# The networks that features, measures and maps are made of unless others are named.
EXAMPLE: tuple[str, ...] = (
    "teachers/resnet20-full-0",
    "students/resnet20-full-0/resnet8x0.5-baseline-2-0",
    "students/resnet20-full-0/resnet8x0.5-kd-2-0",
)

PRECISIONS = ("auto", "float32", "bfloat16")

# What options of a method or an embedding may not be called: its other arguments.
RESERVED = ("seed", "method", "teacher", "student", "features", "start", "progress", "workers")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Which study's results are read and written."""

    dataset: str = "digits"  # a name of kdlib.plan.source.NAMES, or the path of images
    size: int | None = None  # side in pixels to which images are resized and cropped
    grey: bool = False  # colour images made grey
    normalise: str = "data"  # by the training images' own mean and spread, or as imagenet, ...
    study: str = "quick"  # its folder below `results`
    results: str = "runs"  # the folder of all studies

    # Parameters that no result depends on, or only in its last bits.
    machine: ClassVar[tuple[str, ...]] = ("results", "device", "threads", "workers")

    def __post_init__(self) -> None:
        check(hints(type(self)), asdict(self))
        for name in ("network", "method", "study", "embedding"):
            if hasattr(self, name):
                _plain(name, getattr(self, name).replace(":", ".", name == "network"))
        for name, hint in hints(type(self)).items():
            if hint is float:  # 1 and 1.0 are one run
                object.__setattr__(self, name, float(getattr(self, name)))
        for name, low in {"seed": 0, "threads": 1, "workers": 1}.items():
            _at_least(self, name, low)
        for name, high in {
            "seed": 2**32 - 1,
            "threads": 1024,
            "workers": 1024,
            "width": 64,
        }.items():
            if hasattr(self, name) and getattr(self, name) > high:
                raise UsageError(f"{name} {getattr(self, name)!r}; allowed: {high} or less")
        for name in getattr(self, "options", {}):
            if not isinstance(name, str) or name in RESERVED:
                raise UsageError(f"option {name!r} is none of a method or embedding")
        if hasattr(self, "networks") and not self.networks:
            raise UsageError("networks is empty; name at least one trained run")
        for network in getattr(self, "networks", ()):
            _run_name("networks", network)

    @property
    def root(self) -> Path:
        """The folder of the study's results on this data set."""
        return Path(self.results, self.study, self.data_name)

    @property
    def data_name(self) -> str:
        """What the data set is called in folders: a folder or archive of images by its own name."""
        return self.source.name

    @cached_property
    def source(self) -> Source:
        """Where the images come from."""
        return Source(self.dataset, self.size, self.grey, self.normalise)

    def settings(self) -> dict[str, Any]:
        """The parameters that results depend on."""
        return {k: v for k, v in asdict(self).items() if k not in self.machine}


@dataclass(frozen=True, kw_only=True)
class Run(Experiment):
    """How a network is trained; what teachers and students have in common."""

    network: str = "resnet20"  # a name of kdlib.models.NETWORKS
    width: float = 1.0  # factor on the number of channels
    network_options: dict = field(default_factory=dict)  # of its architecture: {shortcut: conv}
    augment: str = "own"  # the data set's own shifts and flips, or several: shift+flip+cutout
    seed: int = 0  # draws labelled images, initial weights, order and augmentation of batches
    weights_seed: int | None = None  # draws the initial weights, where `seed` is not to
    epochs: int = 20  # each as many steps as the whole training set needs; 0: left as it begins
    batch_size: int = 64  # labelled images per step; as many of the pool again
    learning_rate: float = 0.1  # peak of a one-cycle schedule
    weight_decay: float = 5e-4  # of SGD with Nesterov momentum 0.9
    precision: str = "auto"  # of training: float32, bfloat16, or auto: bfloat16 on a GPU
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # of the CPU

    # What the stem of the name and the folder above it tell already.
    told: ClassVar[tuple[str, ...]] = (
        *("dataset", "size", "grey", "normalise", "study", "network", "width", "seed"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in {"epochs": 0, "batch_size": 2, "weight_decay": 0, "size": 1}.items():
            _at_least(self, name, low)
        _at_least(self, "weights_seed", 0)
        one_of("precision", self.precision, PRECISIONS)
        for name in ("width", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} {getattr(self, name)!r}; allowed: above 0")

    @property
    def name(self) -> str:
        """The run's folder below `root`, made of its parameters: its name everywhere."""
        default = {f.name: f.default for f in fields(self)}
        untold = {k: v for k, v in self.settings().items() if k not in self.told}
        return self._stem() + _suffix({k: v for k, v in untold.items() if v != default[k]})

    def _stem(self) -> str:
        size = "" if self.width == 1 else f"x{self.width}"  # resnet8x4.0; resnet8x4 is a network
        return f"{self.network.replace(':', '.')}{size}"

    @property
    def augmentations(self) -> tuple[str, ...] | None:
        """What the batches are augmented by; None: as the data set says."""
        return None if self.augment == "own" else tuple(self.augment.split("+"))

    @property
    def initial(self) -> int:
        """The seed of the initial weights."""
        return self.seed if self.weights_seed is None else self.weights_seed

    @property
    def folder(self) -> Path:
        """Where the run's results lie."""
        return self.root / self.name


REGIMES = ("full", "limited", "pretrained")


@dataclass(frozen=True, kw_only=True)
class Teacher(Run):
    """A large network: trained on every label, on as few as its students, or pre-trained."""

    regime: str = "full"  # full: every label; limited: few; pretrained: knows images before
    labels_per_class: int | str = "all"  # images of each class that keep their label, or all
    weights: str | None = None  # pretrained: simclr, a checkpoint's file, or imagenet
    pretrain_epochs: int = 20  # of simclr, on all images without labels
    backbone_lr_factor: float = (
        1.0  # learning rate of all but the classifier, times the other; 0: frozen
    )

    told: ClassVar[tuple[str, ...]] = (*Run.told, "regime", "labels_per_class")

    def __post_init__(self) -> None:
        super().__post_init__()
        _labels(self.labels_per_class)
        _at_least(self, "pretrain_epochs", 1)
        _at_least(self, "backbone_lr_factor", 0)
        one_of("regime", self.regime, REGIMES)
        if (self.labels_per_class == "all") < (self.regime == "full"):
            raise UsageError(
                f"labels_per_class {self.labels_per_class!r} of a full teacher; allowed: 'all', "
                "or regime limited"
            )
        if self.regime == "limited" and self.labels_per_class == "all":
            raise UsageError("labels_per_class 'all' of a limited teacher; allowed: 1 or more")
        if (self.regime == "pretrained") != (self.weights is not None):
            raise UsageError(
                f"weights {self.weights!r} of a {self.regime} teacher; allowed: simclr, "
                "a checkpoint's file or imagenet, with regime pretrained, and only with that"
            )

    def _stem(self) -> str:
        return teacher_name(super()._stem(), self.regime, self.labels_per_class, self.seed)


def teacher_name(network: str, regime: str, labels: int | str, seed: int) -> str:
    """What the run of a teacher is called: teachers/resnet20-limited-2-0."""
    budget = "" if regime == "full" else f"-{labels}"
    return f"teachers/{network}-{regime}{budget}-{seed}"


def regime_of(teacher: str) -> str:
    """Which regime a teacher's name tells: full, limited or pretrained."""
    words = PurePosixPath(teacher).name.partition("+")[0].split("-")
    return next((word for word in reversed(words) if word in REGIMES), "full")


@dataclass(frozen=True, kw_only=True)
class Student(Run):
    """A small network, trained on few labels: alone, or by what a teacher says."""

    network: str = "resnet8"
    width: float = 0.5
    method: str = "kd"  # a name of kdlib.plan.methods.METHODS, or several: kd+at
    labels_per_class: int | str = 2  # images of each class that keep their label, or all
    teacher: str = "resnet20"  # a network's name, or a trained run's: teachers/resnet20-full-0
    teacher_regime: str | None = None  # full, limited or pretrained; None: full, or as its name
    unlabelled: bool = True  # a method with a teacher sees every training image, most without label
    snapshots: list = field(
        default_factory=list
    )  # weights after these passes are kept, too; 0: before
    options: dict = field(
        default_factory=dict
    )  # its constants: {temperature: 2}; {at: {weight: 9}}
    students: list = field(
        default_factory=lambda: [{}]
    )  # trained side by side by one teacher, each by what differs: [{method: at}, {width: 1}]

    machine: ClassVar[tuple[str, ...]] = (*Run.machine, "students", "snapshots")
    told: ClassVar[tuple[str, ...]] = (
        *Run.told,
        *("method", "labels_per_class", "teacher", "teacher_regime", "options"),
    )
    # What students that are trained side by side may differ in.
    own: ClassVar[tuple[str, ...]] = (
        *("method", "options", "network", "width", "network_options", "weights_seed", "unlabelled"),
        *("epochs", "learning_rate", "weight_decay", "snapshots"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _labels(self.labels_per_class)
        if self.teacher_regime is not None:
            one_of("teacher_regime", self.teacher_regime, REGIMES)
        for epoch in self.snapshots:
            if type(epoch) is not int or not 0 <= epoch <= self.epochs:
                raise UsageError(
                    f"snapshots {epoch!r}; allowed: 0 to {self.epochs}, the run's epochs"
                )
        if "/" not in self.teacher:
            kind = self.teacher_regime or "full"
            seed = 0 if kind == "full" else self.seed
            name = teacher_name(self.teacher, kind, self.labels_per_class, seed)
            object.__setattr__(self, "teacher", name)
        _run_name("teacher", self.teacher, among=("teachers",))
        if self.teacher_regime not in (None, regime_of(self.teacher)):
            raise UsageError(f"teacher_regime {self.teacher_regime!r}; given {self.teacher}")
        object.__setattr__(self, "teacher_regime", regime_of(self.teacher))
        _ = self.each

    @property
    def each(self) -> list[Student]:
        """The students that are trained side by side, as if each were trained by itself."""
        if self.students == [{}]:
            return [self]
        known = {k: v for k, v in hints(Student).items() if k in self.own}
        for changes in self.students:
            if not isinstance(changes, dict):
                raise UsageError(f"students: {changes!r}; allowed: what differs, {{method: at}}")
            check(known, changes)
        each = [replace(self, **({"students": [{}]} | changes)) for changes in self.students]
        if not each or len({run.name for run in each}) < len(each):
            raise UsageError(f"students {self.students!r}; allowed: one or more, each once")
        return each

    def _stem(self) -> str:
        labels = f"{self.method}-{self.labels_per_class}-{self.seed}"
        teacher = PurePosixPath(self.teacher).name
        return f"students/{teacher}/{super()._stem()}-{labels}{_suffix(self.options)}"


def side_by_side(students: Sequence[Student]) -> Student:
    """The parameters of one notebook that trains all of these; `each` gives them back."""
    first = students[0]
    changes = [
        {k: v for k in Student.own if (v := getattr(student, k)) != getattr(first, k)}
        for student in students
    ]
    return replace(first, students=changes)


@dataclass(frozen=True, kw_only=True)
class Features(Experiment):
    """Which trained networks are shown which images."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # names of runs
    sample: int = 500  # test images, the same for every network, all classes alike
    train_sample: int = 2000  # training images for the probes, or all there are
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # of the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sample", "train_sample", "size"):
            _at_least(self, name, 1)


@dataclass(frozen=True, kw_only=True)
class Measures(Experiment):
    """Which networks' layers are measured, and whose layers theirs are compared with."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # names of runs
    teacher: str = ""  # a trained run; empty: each student is compared with its own teacher
    mapped: list = field(default_factory=list)  # those whose maps are measured, too, and not kept
    embeddings: dict = field(default_factory=dict)  # of those maps: {tsne: {perplexity: 50}}
    map_layers: list = field(default_factory=lambda: ["block1", "block2"])  # layers of those maps
    threads: int = 1  # of the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.mapped:
            one_of("network to be mapped", name, self.networks)
        if self.teacher:
            _run_name("teacher", self.teacher)


@dataclass(frozen=True, kw_only=True)
class Maps(Experiment):
    """Which networks' layers are drawn in two dimensions, and how."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # names of runs
    embedding: str = "tsne"  # a name of kdlib.embed.EMBEDDERS
    coupling: float | None = None  # of t-SNE maps; 0: none; default .1, .2 for one network
    seed: int = 0  # of the embedding
    options: dict = field(default_factory=dict)  # of the embedding: {perplexity: 50}
    workers: int = 2  # maps made at the same time; the result does not depend on it

    @property
    def name(self) -> str:
        """The table's name: tsne-6-networks-1f3a for six networks, told apart by a hash."""
        stem = f"{self.embedding}-{_several(self.networks)}"
        seed = {"seed": self.seed} if self.seed else {}
        coupling = {} if self.coupling is None else {"coupling": float(self.coupling)}
        return stem + _suffix(self.options | seed | coupling)


@dataclass(frozen=True, kw_only=True)
class Film(Experiment):
    """Whose layers are followed through their training, and whose are drawn on the way."""

    networks: list = field(default_factory=lambda: list(EXAMPLE[1:]))  # students that kept weights
    mapped: list = field(default_factory=list)  # those of them drawn as maps; empty: all
    layers: list = field(default_factory=lambda: ["block2", "block3"])  # drawn as maps
    options: dict = field(default_factory=dict)  # of t-SNE: {perplexity: 50}
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # of the CPU
    workers: int = 2  # maps made at the same time; the result does not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, "size", 1)
        for name in self.mapped:
            if name not in self.networks:
                raise UsageError(f"mapped: {name!r} is not among the networks")
        if not self.layers:
            raise UsageError("layers is empty; give at least one")
        object.__setattr__(self, "mapped", self.mapped or self.networks)

    @property
    def name(self) -> str:
        """The tables' name: film-2-networks-1f3a, and whatever differs from the defaults."""
        mapped = {} if self.mapped == self.networks else {"mapped": len(self.mapped)}
        layers = {} if self.layers == Film().layers else {"layers": ",".join(self.layers)}
        return f"film-{_several(self.networks)}" + _suffix(self.options | mapped | layers)


@dataclass(frozen=True, kw_only=True)
class Comparison(Experiment):
    """Which maps are drawn in several ways, to see what is a layer's and what the way's."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # runs; the last two are compared
    images: int = 240  # of the sample, all classes alike; for the maps of `layer` only
    layer: str = "block2"  # drawn with each of the parameters and seeds below
    perplexities: list = field(default_factory=lambda: [5, 15, 30, 50])  # of t-SNE
    ks: list = field(default_factory=lambda: [5, 15, 50])  # of IVIS
    seeds: list = field(default_factory=lambda: [0, 1, 2])  # of t-SNE's starts at random, of IVIS
    steps: int = 500  # of IVIS
    workers: int = 2  # maps made at the same time; the result does not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.networks) < 2:
            raise UsageError(f"networks {self.networks!r}; allowed: two or more")
        for name, low in {"images": 20, "steps": 1}.items():
            _at_least(self, name, low)
        for name in ("perplexities", "ks", "seeds"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty; give at least one")

    @property
    def name(self) -> str:
        """The tables' name: compare-3-networks-1f3a, and whatever differs from the defaults."""
        default = {f.name: getattr(Comparison(), f.name) for f in fields(self)}
        told = ("dataset", "study", "networks")
        changed = {k: v for k, v in self.settings().items() if k not in told and v != default[k]}
        return f"compare-{_several(self.networks)}" + _suffix(changed).replace(", ", ",")


def _several(networks: Sequence[str]) -> str:
    """Some networks in a name: how many, told apart by a hash."""
    return f"{len(networks)}-networks-{hashlib.sha256('|'.join(networks).encode()).hexdigest()[:4]}"


def _suffix(changed: Mapping[str, Any]) -> str:
    """Settings that differ from their defaults, as the end of a name: "+epochs=5".

    Those of one part of a combined method carry its key: "+at.weight=500".
    """
    changed = {k: v for name, value in changed.items() for k, v in _flat(name, value).items()}
    return "".join(f"+{k}={v}" for k, v in sorted(changed.items())).replace("/", "_")


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {f"{name}.{key}": inner for key, inner in value.items()}


def _labels(labels: int | str) -> None:
    if labels != "all" and (isinstance(labels, str) or labels < 1):
        raise UsageError(f"labels_per_class {labels!r}; allowed: 1 or more, or 'all'")


def _at_least(experiment: Experiment, name: str, low: int) -> None:
    value = getattr(experiment, name, None)
    if value is not None and not value >= low:
        raise UsageError(f"{name} {getattr(experiment, name)!r}; allowed: {low} or more")


def _run_name(what: str, name: object, among: tuple[str, ...] = ("teachers", "students")) -> None:
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] not in among or ".." in parts:
        raise UsageError(
            f"{what}: {name!r} names no run; `python -m kdlib list` names those there are"
        )


def check(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UsageError unless every name given is known and every value of the declared type."""
    known = {name: hint for name, hint in known.items() if not str(hint).startswith("typing.Cl")}
    listed = ", ".join(known)
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"unknown parameter {name!r}; known: {listed}")
        kinds = get_args(known[name]) if isinstance(known[name], UnionType) else (known[name],)
        fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
        if not fits or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise UsageError(f"parameter {name} must be {wanted}, given {value!r}; known: {listed}")


def _plain(what: str, name: str) -> None:
    if not name or name.startswith(".") or not set(name).isdisjoint('/\\:*?"<>| \n\t{}'):
        raise UsageError(f"{what} {name!r}; allowed: a plain name, since it becomes a folder's")
