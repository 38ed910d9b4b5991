"""What a run is: every parameter that makes it, checked, and the folder it lands in.

No torch in here: the pipeline plans a whole study by these classes alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, ClassVar, get_args, get_type_hints

import yaml

from kdlib import UsageError

# The networks that features, measures and maps are made of unless others are named.
EXAMPLE: tuple[str, ...] = (
    "teachers/resnet20-full-0",
    "students/resnet20-full-0/resnet8x0.5-alone-2-0",
    "students/resnet20-full-0/resnet8x0.5-kd-2-0",
)

# What options of a method or an embedding may not be called: its other arguments.
RESERVED = ("seed", "method", "teacher", "student", "features", "start", "progress", "workers")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which study's results are read and written."""

    dataset: str = "digits"  # a name of kdlib.data.DATASETS
    study: str = "quick"  # its folder below `results`
    results: str = "runs"  # the folder of all studies

    # Parameters that no result depends on, or only in its last bits.
    machine: ClassVar[tuple[str, ...]] = ("results", "device", "threads", "workers")

    def __post_init__(self) -> None:
        check(get_type_hints(type(self)), asdict(self))
        for name in ("dataset", "network", "method", "study", "embedding"):
            if hasattr(self, name):
                _plain(name, getattr(self, name))
        for name, hint in get_type_hints(type(self)).items():
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
        return Path(self.results, self.study, self.dataset)

    def settings(self) -> dict[str, Any]:
        """The parameters that results depend on."""
        return {k: v for k, v in asdict(self).items() if k not in self.machine}


@dataclass(frozen=True, kw_only=True)
class Run(Place):
    """How a network is trained; what teachers and students have in common."""

    network: str = "resnet20"  # a name of kdlib.models.NETWORKS
    width: float = 1.0  # factor on the number of channels
    seed: int = 0  # draws labelled images, initial weights, order and augmentation of batches
    epochs: int = 20  # each as many steps as the whole training set needs
    batch_size: int = 64  # labelled images per step; as many of the pool again
    learning_rate: float = 0.1  # peak of a one-cycle schedule
    weight_decay: float = 5e-4  # of SGD with Nesterov momentum 0.9
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # of the CPU

    told: ClassVar[tuple[str, ...]] = ("dataset", "study", "network", "width", "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in {"epochs": 1, "batch_size": 2, "weight_decay": 0}.items():
            _at_least(self, name, low)
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
        size = "" if self.width == 1 else f"x{self.width:.12g}"
        return f"{self.network}{size}"

    @property
    def folder(self) -> Path:
        """Where the run's results lie."""
        return self.root / self.name


@dataclass(frozen=True, kw_only=True)
class Teacher(Run):
    """A large network, trained on every label."""

    def _stem(self) -> str:
        return f"teachers/{super()._stem()}-full-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Student(Run):
    """A small network, trained on few labels: alone, or by what a teacher says."""

    network: str = "resnet8"
    width: float = 0.5
    method: str = "kd"  # a name of kdlib.distill.METHODS, or several: kd+at
    labels_per_class: int | str = 2  # images of each class that keep their label, or all
    teacher: str = "teachers/resnet20-full-0"  # a trained teacher of the same study
    pool: bool = True  # a method with a teacher sees every training image, most without label
    options: dict = field(
        default_factory=dict
    )  # its constants: {temperature: 2}; {at: {weight: 9}}

    told: ClassVar[tuple[str, ...]] = (
        *Run.told,
        *("method", "labels_per_class", "teacher", "options"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = self.labels_per_class
        if labels != "all" and (isinstance(labels, str) or labels < 1):
            raise UsageError(f"labels_per_class {labels!r}; allowed: 1 or more, or 'all'")
        _run_name("teacher", self.teacher, among=("teachers",))

    def _stem(self) -> str:
        labels = f"{self.method}-{self.labels_per_class}-{self.seed}"
        teacher = PurePosixPath(self.teacher).name
        return f"students/{teacher}/{super()._stem()}-{labels}{_suffix(self.options)}"


@dataclass(frozen=True, kw_only=True)
class Features(Place):
    """Which trained networks are shown which images."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # names of runs
    sample: int = 500  # test images, the same for every network, all classes alike
    train_sample: int = 2000  # training images for the probes, or all there are
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # of the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sample", "train_sample"):
            _at_least(self, name, 1)


@dataclass(frozen=True, kw_only=True)
class Measures(Place):
    """Which networks' layers are measured."""

    networks: list = field(default_factory=lambda: list(EXAMPLE))  # names of runs
    threads: int = 1  # of the CPU


@dataclass(frozen=True, kw_only=True)
class Maps(Place):
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
        networks = hashlib.sha256("|".join(self.networks).encode()).hexdigest()[:4]
        stem = f"{self.embedding}-{len(self.networks)}-networks-{networks}"
        seed = {"seed": self.seed} if self.seed else {}
        coupling = {} if self.coupling is None else {"coupling": float(self.coupling)}
        return stem + _suffix(self.options | seed | coupling)


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


def _at_least(place: Place, name: str, low: int) -> None:
    if hasattr(place, name) and not getattr(place, name) >= low:
        raise UsageError(f"{name} {getattr(place, name)!r}; allowed: {low} or more")


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


@dataclass(frozen=True, kw_only=True)
class Study:
    """The grid of a study file, unfolded: which networks are trained, looked at and mapped."""

    name: str
    dataset: str = "digits"
    teacher: dict = field(default_factory=dict)  # parameters of notebooks/teacher.ipynb
    student: dict = field(default_factory=dict)  # parameters of notebooks/student.ipynb
    methods: list = field(default_factory=lambda: ["alone", "kd"])
    labels_per_class: list = field(default_factory=lambda: [2])
    seeds: list = field(default_factory=lambda: [0])
    features: dict = field(default_factory=dict)  # parameters of notebooks/features.ipynb
    embeddings: dict = field(default_factory=lambda: {"tsne": {}})  # method -> its options
    maps: dict = field(default_factory=dict)  # mapped: axes as above; default: all, first seed

    def __post_init__(self) -> None:
        check(get_type_hints(Study), asdict(self))
        check(dict.fromkeys(self.axes, list), self.maps)
        for axis, values in {**self.axes, **self.maps}.items():
            if not values:
                raise UsageError(f"{axis} is empty; a study needs at least one")
            for value in values:
                if axis in self.maps and value not in self.axes[axis]:
                    raise UsageError(f"maps: {axis} {value!r} is not in the study's {axis}")
            if len(set(map(str, values))) < len(values):
                raise UsageError(f"{axis} {values!r}; allowed: each once")
        if not self.embeddings:
            raise UsageError("embeddings is empty; a study needs at least one")
        own = (*Place.machine, "study", "dataset")
        each = {"teacher": (), "student": ("method", "labels_per_class", "seed", "teacher")}
        for part, more in {**each, "features": ("networks",)}.items():
            for name in getattr(self, part):
                if name in (*own, *more):
                    raise UsageError(f"{part}: {name} is not set here; the study sets it itself")
        _ = self.students, self.drawn, self.looked(Features, "teacher")  # raise for bad values

    @property
    def axes(self) -> dict[str, list]:
        """What the study varies."""
        return {k: getattr(self, k) for k in ("methods", "labels_per_class", "seeds")}

    @property
    def trained_teacher(self) -> Teacher:
        """The one teacher of the study."""
        return _made(Teacher, "teacher", self.teacher | self._place())

    @property
    def students(self) -> list[Student]:
        """All students, those of one label budget and seed side by side."""
        return self._students(**self.axes)

    @property
    def blocks(self) -> dict[str, list[Run]]:
        """Networks that are compared pairwise, by label budget and seed; the teacher apart."""
        blocks: dict[str, list[Run]] = {"teacher": [self.trained_teacher]}
        for student in self.students:
            block = f"{student.labels_per_class}-{student.seed}"
            blocks.setdefault(block, []).append(student)
        return blocks

    @property
    def mapped(self) -> list[Run]:
        """The networks whose layers are drawn as maps, the teacher first."""
        axes = self.axes | {"seeds": self.seeds[:1]} | self.maps
        return [self.trained_teacher, *self._students(**axes)]

    @property
    def drawn(self) -> dict[str, Maps]:
        """The tables of maps, by embedding."""
        names = [run.name for run in self.mapped]
        return {
            method: _made(
                Maps,
                f"embeddings: {method}",
                {"networks": names, "embedding": method, "options": options or {}} | self._place(),
            )
            for method, options in self.embeddings.items()
        }

    def looked(self, kind: type, block: str) -> Place:
        """The `Features` or `Measures` of one block's networks."""
        names = [run.name for run in self.blocks[block]]
        given = self.features if kind is Features else {}
        return _made(kind, "features", given | {"networks": names} | self._place())

    def _place(self) -> dict[str, str]:
        return {"study": self.name, "dataset": self.dataset}

    def _students(self, methods: list, labels_per_class: list, seeds: list) -> list[Student]:
        fixed = {"teacher": self.trained_teacher.name} | self.student | self._place()
        return [
            _made(Student, "student", fixed | {"method": m, "labels_per_class": n, "seed": s})
            for n in labels_per_class
            for s in seeds
            for m in methods
        ]


def _made(kind: type, what: str, given: dict[str, Any]) -> Any:
    try:
        check(get_type_hints(kind), given)
        return kind(**given)
    except UsageError as problem:
        raise UsageError(f"{what}: {problem}") from None


def study(file: str | Path) -> Study:
    """Read a study file. Raises UsageError, naming the file, for anything that is wrong in it."""
    file = Path(file)
    if not file.is_file():
        there = ", ".join(str(f) for f in sorted(file.parent.glob("*.yaml"))) or "none"
        raise UsageError(f"no study file {file}; there: {there}")
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(given, dict):
            raise UsageError("not a list of names and values")
        check(get_type_hints(Study), given)
        told: dict[str, Any] = {"name": file.stem} | given
        return Study(**told)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UsageError(f"{file}: not YAML: {' '.join(str(problem).split())}") from None
    except UsageError as problem:
        raise UsageError(f"{file}: {problem}") from None
