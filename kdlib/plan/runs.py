"""What a run is: every parameter that makes it, checked, and what it is called.

No torch in here: the pipeline plans a whole study by these classes.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from pydantic import Field

from kdlib import UsageError, one_of, path_of
from kdlib.plan import methods
from kdlib.plan.parameters import (
    AtLeastTwo,
    Cores,
    Count,
    Device,
    Labels,
    NotNegative,
    Number,
    Options,
    Positive,
    Seed,
    Side,
    Whole,
    Width,
    check,
    defaults,
    parameters,
    values,
)
from kdlib.plan.source import Source, cache, file_hash

# The networks that features, measures and maps are made of unless others are named.
EXAMPLE: tuple[str, ...] = (
    "teachers/resnet20-full-0",
    "students/resnet20-full-0/resnet8x0.5-baseline-2-0",
    "students/resnet20-full-0/resnet8x0.5-kd-2-0",
)
# What Windows takes for a device, whatever ending it has.
DEVICES = (
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(10)),
)
Kind = TypeVar("Kind", bound="Experiment")
Trained = TypeVar("Trained", bound="Run")
Regime = Literal["full", "limited", "pretrained"]
REGIMES: tuple[Regime, ...] = get_args(Regime)


class Constants(NamedTuple):
    """What a network's images are normalised by: one number per channel, of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CONSTANTS: dict[str, Constants | None] = {
    "data": None,  # one mean and one spread, of all bytes of the training images
    "imagenet": Constants((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision, akamaster
    "half": Constants((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]: EfficientNet-lite, ViT
    "cifar10": Constants((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": Constants((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "kuangliu": Constants((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # chenyaofo, too
}
CHECKPOINT_MINUTES = "KDLIB_CHECKPOINT_MINUTES"  # a study's, for the notebooks that it runs
MINUTES = 10.0  # of training between two checkpoints
INITIAL = ("simclr", "imagenet")  # weights that are no file
LONGEST = 120  # characters of a run's name
LONGEST_TEACHER = 50  # of the last part of a teacher's, which is part of its students' names

# What options of a method or an embedding may not be called: its other arguments.
RESERVED = (
    *("seed", "method", "teacher", "teachers", "student"),
    *("features", "start", "progress", "workers"),
)


@parameters
class Experiment:
    """Which images are read, and where the results of a study lie."""

    dataset: str = "digits"  # a name of kdlib.plan.source.NAMES, or the path of images
    size: Side | None = None  # side in pixels to which images are resized and cropped
    grey: bool = False  # colour images made grey
    train_images: Count | None = None  # how many are used, all classes alike; None: all
    study: str = "quick"  # its folder below `results`
    results: str = "runs"  # the folder of all studies

    # Parameters that no result depends on, or only in its last bits.
    machine: ClassVar[tuple[str, ...]] = (
        *("results", "device", "threads", "workers", "checkpoint_minutes"),
    )

    def __post_init__(self) -> None:
        plain("study", self.study)
        path_of("results", self.results)

    @cached_property
    def source(self) -> Source:
        """Where the images come from."""
        return Source(self.dataset, self.size, self.grey, self.train_images)

    @property
    def root(self) -> Path:
        """The folder of the study's results on these images."""
        return path_of("results", self.results) / self.study / self.source.name

    def settings(self) -> dict[str, Any]:
        """The parameters that results depend on."""
        return {k: v for k, v in values(self).items() if k not in self.machine}

    def altered(self: Kind, **changes: Any) -> Kind:
        """A copy with other parameters, of the same images."""
        copy: Kind = replace(self, **changes)
        if "source" in vars(self):
            vars(copy)["source"] = self.source
        return copy


@parameters
class Run(Experiment):
    """How a network is trained; what teachers and students have in common."""

    network: str = "resnet20"  # a name of kdlib.models.NETWORKS, of torchvision, module:callable
    width: Width = 1.0  # factor on the number of channels
    network_options: Options = Field(default_factory=dict)  # of its architecture: {shortcut: conv}
    normalise: str = "data"  # of CONSTANTS; own: the network's; data: the training images'
    input_size: Side | None = None  # side in pixels to which the network enlarges its images
    augment: str = "own"  # the data set's own shifts and flips, or several: shift+flip+cutout
    seed: Seed = 0  # of labelled images, initial weights, order and augmentation of batches
    weights_seed: Seed | None = None  # of the initial weights, where it is not `seed`
    epochs: Whole = 20  # each as many steps as the whole training set needs; 0: not trained
    batch_size: AtLeastTwo = 64  # labelled images per step; as many again of all images
    learning_rate: Positive = 0.1  # peak of a one-cycle schedule
    weight_decay: NotNegative = 5e-4  # of SGD with Nesterov momentum
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU
    device: Device = "auto"
    threads: Cores = 1  # of the CPU
    checkpoint_minutes: NotNegative | None = None  # of training between two checkpoints; 0: none;
    # None: as its study says, 10 by itself

    role: ClassVar[str]
    # Parameters that the folders and the first part of the name hold already.
    in_stem: ClassVar[tuple[str, ...]] = (
        *("dataset", "size", "grey", "train_images", "study", "network", "width", "seed"),
        "precision",  # bfloat16 is added to the name, float32 is what a name without it means
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        plain("network", self.network.replace(":", "."))
        one_of("normalise", self.normalise, (*CONSTANTS, "own"))

    def on(self: Trained, device: Literal["cpu", "cuda"]) -> Trained:
        """The same run on this device, with the precision that `auto` stands for there."""
        auto = "bfloat16" if device == "cuda" else "float32"
        precision = auto if self.precision == "auto" else self.precision
        return self.altered(device=device, precision=precision)

    @property
    def changed(self) -> dict[str, str]:
        """The settings that differ from their defaults and are not in the stem, as plain texts."""
        default = defaults(type(self))
        settings = {k: v for k, v in self.settings().items() if k not in self.in_stem}
        texts = texts_of({k: v for k, v in settings.items() if v != default[k]})
        if self.precision == "bfloat16":
            texts["precision"] = self.precision
        return dict(sorted(texts.items()))

    @cached_property
    def name(self) -> str:
        """What the run is called everywhere: its folder below `root`, made of its parameters."""
        return named(self._stem(), self.changed, LONGEST)

    def _stem(self) -> str:
        return f"{plain_text(self.network.replace(':', '.'))}{self._width()}"

    def _width(self) -> str:
        return "" if self.width == 1 else f"x{self.width}"  # resnet8x4.0; resnet8x4 is a network

    @property
    def augmentations(self) -> tuple[str, ...] | None:
        """What the batches are augmented by; None: as the data set says."""
        return None if self.augment == "own" else tuple(self.augment.split("+"))

    @property
    def initial_seed(self) -> int:
        """The seed of the initial weights."""
        return self.seed if self.weights_seed is None else self.weights_seed

    @property
    def minutes(self) -> float:
        """Of training between two checkpoints: its own, those of the study that runs it, or 10."""
        if self.checkpoint_minutes is not None:
            return self.checkpoint_minutes
        text = os.environ.get(CHECKPOINT_MINUTES, str(MINUTES))
        try:
            if 0 <= (minutes := float(text)) < math.inf:
                return minutes
        except ValueError:
            pass
        raise UsageError(f"{CHECKPOINT_MINUTES} {text!r}; allowed: 0 or more")

    @property
    def folder(self) -> Path:
        """Where the run's results lie."""
        return self.root / self.name

    def record(self) -> dict[str, Any]:
        """What is kept of the run beside its results: its parameters, and the facts about it.

        No path of this machine is in it. The facts are columns of the table `runs`: role network
        width method labels seed teacher teacher_network regime weights options unlabelled
        precision.
        """
        parameters = self.settings() | {"dataset": self.source.name}
        facts: dict[str, Any] = {
            "role": self.role,
            "network": f"{self.network}{self._width()}",
            "width": self.width,
            "seed": self.seed,
            "options": " ".join(f"{k}={v}" for k, v in self.changed.items() if k != "precision"),
            "precision": self.precision,
        }
        return {"parameters": parameters, "facts": facts}


@parameters
class Teacher(Run):
    """A large network, trained on every label or on as few as its students."""

    labels_per_class: Labels = "all"  # images of each class that keep their label, or all
    weights: str | None = None  # it begins with: simclr, imagenet, a file, an address; None: random
    weights_names: dict[str, str | None] = Field(
        default_factory=dict
    )  # beginnings of names in a checkpoint -> ours: {backbone.: ""}; null: left out
    pretrain_epochs: Count = 20  # of simclr, on all training images without labels
    head_epochs: Whole = 0  # of the classifier alone, before the `epochs` of all
    backbone_lr_factor: NotNegative = 1.0  # on the learning rate of all but the classifier

    role: ClassVar[str] = "teacher"
    in_stem: ClassVar[tuple[str, ...]] = (*Run.in_stem, "labels_per_class", "weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_address(self.weights):
            _ = self.weights_hash  # raises for an address without one
        if self.weights_names and (self.weights is None or self.weights in INITIAL):
            raise UsageError(f"weights_names with weights {self.weights}; allowed: with a file's")

    @property
    def regime(self) -> Regime:
        """What it knows: full: every label; limited: few; pretrained: few, and other weights."""
        if self.labels_per_class == "all":
            return "full"
        return "limited" if self.weights is None else "pretrained"

    @property
    def weights_file(self) -> Path | None:
        """The checkpoint that training begins with; None where it begins with none.

        That of an address is in the cache once it has been fetched. Raises UsageError for a file
        that is not there.
        """
        if self.weights is None or self.weights in INITIAL:
            return None
        if is_address(self.weights):
            return cache() / "weights" / PurePosixPath(self.weights).name
        file = path_of("weights", self.weights)
        if not file.is_file():
            raise UsageError(f"weights {self.weights}: there is no such file")
        return file

    @property
    def weights_hash(self) -> str:
        """Where its weights began, in one word: random, simclr, imagenet, or a checkpoint's hash.

        Raises UsageError for a file that is not there and for an address whose file name bears no
        hash.
        """
        if self.weights is None or self.weights in INITIAL:
            return self.weights or "random"
        if not is_address(self.weights):
            return content(self.weights_file)  # type: ignore[arg-type]
        return digest_in(self.weights)[:8]

    @property
    def changed(self) -> dict[str, str]:
        """As `Run.changed`; the weights of a file count by its content."""
        texts = super().changed
        if self.weights is not None:
            texts["weights"] = self.weights_hash
        return dict(sorted(texts.items()))

    @cached_property
    def name(self) -> str:
        """As `Run.name`, and short enough to be part of its students' names."""
        return named(self._stem(), self.changed, len("teachers/") + LONGEST_TEACHER)

    def _stem(self) -> str:
        budget = "" if self.regime == "full" else f"-{self.labels_per_class}"
        return f"teachers/{super()._stem()}-{self.regime}{budget}-{self.seed}"

    def record(self) -> dict[str, Any]:
        """As `Run.record`."""
        record = super().record()
        record["parameters"] |= {"weights": self.weights_hash}
        record["facts"] |= {
            "method": methods.BASELINE,
            "labels": str(self.labels_per_class),
            "teacher": "",
            "teacher_network": "",
            "regime": self.regime,
            "weights": self.weights_hash,
            "unlabelled": self.weights == "simclr",
        }
        return record


@parameters
class Student(Run):
    """A small network, trained on few labels: the baseline, or with a teacher."""

    network: str = "resnet8"
    width: Width = 0.5
    method: str = "kd"  # a name of kdlib.plan.methods.METHODS, or several: kd+at
    labels_per_class: Labels = 2  # images of each class that keep their label, or all
    teacher: str | list[str] = (
        "resnet20"  # a network's name, or a trained run's: teachers/resnet20-full-0; or several
    )
    teacher_labels: Literal["all", "same"] | None = None  # of one given by its network; None: all
    unlabelled: bool = True  # a method with a teacher learns from every training image
    unlabelled_batch_size: AtLeastTwo | None = None  # unlabelled images per step; None: batch_size
    cached_teacher: bool = False  # its logits once for each image and its mirror image, not shifted
    snapshots: list[int] = Field(
        default_factory=list
    )  # epochs after which weights are kept; 0: before
    options: Options = Field(
        default_factory=dict
    )  # of the method: {temperature: 2}; {at: {weight: 9}}
    students: list[Any] = Field(
        default_factory=lambda: [{}]
    )  # trained side by side by one teacher, each by what differs: [{method: at}, {width: 1}]

    role: ClassVar[str] = "student"
    machine: ClassVar[tuple[str, ...]] = (*Run.machine, "students", "snapshots")
    in_stem: ClassVar[tuple[str, ...]] = (
        *Run.in_stem,
        *("method", "labels_per_class", "teacher", "teacher_labels", "options"),
    )
    # What students that are trained side by side may differ in.
    own: ClassVar[tuple[str, ...]] = (
        *("method", "options", "network", "width", "network_options", "normalise", "input_size"),
        *("weights_seed", "unlabelled", "cached_teacher"),
        *("epochs", "learning_rate", "weight_decay", "snapshots"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_cached(methods.parse(self.method))
        check_options(self.options)
        for epoch in self.snapshots:
            if not 0 <= epoch <= self.epochs:
                raise UsageError(
                    f"snapshots {epoch!r}; allowed: 0 to {self.epochs}, the run's epochs"
                )
        for teacher in self._teachers:
            if "/" in teacher:
                _run_name("teacher", teacher, among=("teachers",))
                if self.teacher_labels is not None:
                    raise UsageError(
                        f"teacher_labels {self.teacher_labels!r} beside the run {teacher}; "
                        "allowed: with a network's name only"
                    )
        if not self._teachers or len(set(self.teacher_runs)) < len(self._teachers):
            raise UsageError(f"teacher {self.teacher!r}; allowed: one or more, each once")
        if len(self._teachers) > 1:
            methods.check_several(self.method)
        _ = self.each  # raises for bad values

    def _check_cached(self, parts: Sequence[methods.MethodFacts]) -> None:
        """Raise UsageError where a teacher's logits for the images as they are do not suffice."""
        if not self.cached_teacher:
            return
        if self.augment != "own":
            raise UsageError(f"augment {self.augment!r} with cached_teacher; allowed: own")
        for part in parts:
            if part.family in ("features", "relations"):
                raise UsageError(
                    f"method {part.key!r} with cached_teacher; allowed: those that need no layer "
                    "of the teacher but its logits"
                )

    @property
    def _teachers(self) -> list[str]:
        """The teachers as given."""
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher

    @property
    def teacher_runs(self) -> list[str]:
        """The teachers' runs: as given, or that of a given network with default settings."""
        return [self._run_of(teacher) for teacher in self._teachers]

    @property
    def teacher_run(self) -> str:
        """The teacher's run; of several the first, whose layers the student's are compared with."""
        return self.teacher_runs[0]

    def _run_of(self, teacher: str) -> str:
        if "/" in teacher:
            return teacher
        how: dict[str, Any] = {"network": teacher, "precision": self.precision}
        labels = self.labels_per_class if self.teacher_labels == "same" else "all"
        seed = 0 if labels == "all" else self.seed
        return Teacher(**how, labels_per_class=labels, seed=seed).name

    @property
    def each(self) -> list[Student]:
        """The students that are trained side by side, as if each were trained by itself."""
        if self.students == [{}]:
            return [self]
        for changes in self.students:
            if not isinstance(changes, dict):
                raise UsageError(f"students: {changes!r}; allowed: what differs, {{method: at}}")
            check(Student, changes, among=self.own)
        each = [self.altered(**({"students": [{}]} | changes)) for changes in self.students]
        if not each or len({run.name for run in each}) < len(each):
            raise UsageError(f"students {self.students!r}; allowed: one or more, each once")
        return each

    @property
    def changed(self) -> dict[str, str]:
        """As `Run.changed`, the method's options (of one of several methods as at.weight), and its
        teachers where they are several.
        """
        texts = super().changed | texts_of(self.options)
        if len(self._teachers) > 1:
            each = (plain_text(PurePosixPath(run).name) for run in self.teacher_runs)
            texts["teachers"] = "_".join(each)
        return dict(sorted(texts.items()))

    def _stem(self) -> str:
        teacher = PurePosixPath(self.teacher_run).name
        end = f"{plain_text(self.method)}-{self.labels_per_class}-{self.seed}"
        return f"students/{teacher}/{super()._stem()}-{end}"

    def record(self, teacher: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As `Run.record`; `teacher` are the facts of its teacher's record, where it has one.

        Of several teachers they are the first one's, and the options name all.
        """
        record = super().record()
        several = len(self._teachers) > 1
        record["parameters"]["teacher"] = self.teacher_runs if several else self.teacher_run
        needed = methods.needs_teacher(self.method)
        own = teacher if needed and teacher else {"network": "", "regime": "", "weights": ""}
        uses_unlabelled = any(part.unlabelled for part in methods.parse(self.method))
        record["facts"] |= {
            "method": self.method,
            "labels": str(self.labels_per_class),
            "teacher": self.teacher_run if needed else "",
            "teacher_network": own["network"],
            "regime": own["regime"],
            "weights": own["weights"],
            "unlabelled": self.unlabelled and uses_unlabelled,
        }
        return record


def side_by_side(students: Sequence[Student]) -> Student:
    """The parameters of one notebook that trains all of these; `each` gives them back."""
    first = students[0]
    changes = [
        {k: v for k in Student.own if (v := getattr(student, k)) != getattr(first, k)}
        for student in students
    ]
    return first.altered(students=changes)


@parameters
class Features(Experiment):
    """Which trained networks' features are extracted, and of which images."""

    networks: list[str] = Field(default_factory=lambda: list(EXAMPLE))  # names of runs
    sample: Count = 500  # test images, the same for every network, all classes alike, or all
    train_sample: Count = 2000  # training images for the probes, or all there are
    device: Device = "auto"
    threads: Cores = 1  # of the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.networks)


@parameters
class Measures(Experiment):
    """Which networks' layers are measured, and whose layers theirs are compared with."""

    networks: list[str] = Field(default_factory=lambda: list(EXAMPLE))  # names of runs
    teacher: str = ""  # a trained run; empty: each student's own teacher, of several the first
    mapped: list[str] = Field(
        default_factory=list
    )  # networks whose maps are measured, and not kept
    embeddings: dict[str, Any] = Field(
        default_factory=dict
    )  # of those maps: {tsne: {perplexity: 50}}
    map_layers: list[str] = Field(default_factory=lambda: ["block1", "block2"])  # of those maps
    threads: Cores = 1  # of the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.networks)
        for name in self.mapped:
            one_of("network to be mapped", name, self.networks)
        if self.teacher:
            _run_name("teacher", self.teacher)


@parameters
class Maps(Experiment):
    """Which networks' layers are mapped to two dimensions, and how."""

    networks: list[str] = Field(default_factory=lambda: list(EXAMPLE))  # names of runs
    embedding: str = "tsne"  # a name of kdlib.embed.EMBEDDERS
    coupling: Number | None = None  # of t-SNE maps; 0: none; default .1, .2 for one network
    seed: Seed = 0  # of the embedding
    options: Options = Field(default_factory=dict)  # of the embedding: {perplexity: 50}
    workers: Cores = 2  # maps made at the same time; the result does not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.networks)
        check_options(self.options)
        plain("embedding", self.embedding)

    @property
    def name(self) -> str:
        """The table's name: tsne-6-networks-1f3a for six networks, told apart by a hash."""
        changed: dict[str, Any] = dict(self.options)
        if self.seed:
            changed["seed"] = self.seed
        if self.coupling is not None:
            changed["coupling"] = float(self.coupling)
        return named(f"{self.embedding}-{_several(self.networks)}", texts_of(changed), LONGEST)


@parameters
class Film(Experiment):
    """Whose layers are followed through their training, and whose are mapped on the way."""

    networks: list[str] = Field(
        default_factory=lambda: list(EXAMPLE[1:])
    )  # students with snapshots
    mapped: list[str] = Field(default_factory=list)  # those of them that are mapped; empty: all
    layers: list[str] = Field(default_factory=lambda: ["block2", "block3"])  # that are mapped
    options: Options = Field(default_factory=dict)  # of t-SNE: {perplexity: 50}
    device: Device = "auto"
    threads: Cores = 1  # of the CPU
    workers: Cores = 2  # maps made at the same time; the result does not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.networks)
        check_options(self.options)
        for name in self.mapped:
            if name not in self.networks:
                raise UsageError(f"mapped: {name!r} is not among the networks")
        if not self.layers:
            raise UsageError("layers is empty; give at least one")
        object.__setattr__(self, "mapped", self.mapped or self.networks)

    @property
    def name(self) -> str:
        """The tables' name: film-2-networks-1f3a, and whatever differs from the defaults."""
        changed: dict[str, Any] = dict(self.options)
        if self.mapped != self.networks:
            changed["mapped"] = _several(self.mapped)
        if self.layers != defaults(Film)["layers"]:
            changed["layers"] = self.layers
        return named(f"film-{_several(self.networks)}", texts_of(changed), LONGEST)


@parameters
class Comparison(Experiment):
    """Which maps are made by several procedures, to tell the layer's part from the procedure's."""

    networks: list[str] = Field(default_factory=lambda: list(EXAMPLE))  # the last two are compared
    images: Annotated[int, Field(ge=20)] = (
        240  # of the sample, all classes alike; for the maps of `layer`
    )
    layer: str = "block2"  # mapped with each of the parameters and seeds below
    perplexities: list[Any] = Field(default_factory=lambda: [5, 15, 30, 50])  # of t-SNE
    ks: list[int] = Field(default_factory=lambda: [5, 15, 50])  # of IVIS
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])  # of t-SNE's random starts, of IVIS
    steps: Count = 500  # of IVIS
    workers: Cores = 2  # maps made at the same time; the result does not depend on it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_networks(self.networks)
        if len(self.networks) < 2:
            raise UsageError(f"networks {self.networks!r}; allowed: two or more")
        for name in ("perplexities", "ks", "seeds"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty; give at least one")

    @property
    def name(self) -> str:
        """The tables' name: compare-3-networks-1f3a, and whatever differs from the defaults."""
        default = defaults(Comparison)
        own = ("images", "layer", "perplexities", "ks", "seeds", "steps")
        changed = {k: getattr(self, k) for k in own if getattr(self, k) != default[k]}
        return named(f"compare-{_several(self.networks)}", texts_of(changed), LONGEST)


# ---- names -------------------------------------------------------------------------------------


def named(stem: str, changed: Mapping[str, str], longest: int) -> str:
    """A name: its stem, then what changed ("+epochs=5"); what is too long ends in a hash of it."""
    suffix = "".join(f"+{key}={text}" for key, text in sorted(changed.items()))
    if len(stem) + len(suffix) <= longest:
        return stem + suffix
    return f"{stem[: longest - 9]}+{_digest(stem + suffix)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def texts_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as plain texts for a name; those of a part of a combined method as at.weight."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            texts |= {f"{plain_text(f'{name}.{key}')}": _text(v) for key, v in value.items()}
        else:
            texts[plain_text(name)] = _text(value)
    return dict(sorted(texts.items()))


def _text(value: Any) -> str:
    return plain_text("_".join(map(str, value)) if isinstance(value, list) else str(value))


def plain_text(text: str) -> str:
    """The text in letters, digits and ._+-; what else it holds counts by a hash."""
    if re.fullmatch(r"[A-Za-z0-9._+-]{1,40}", text):
        return text
    short = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[:30].strip("-.")
    return f"{short}-{_digest(text)}"


def plain(what: str, name: str) -> None:
    """Raise UsageError unless a name can be a folder's, on every system."""
    form = re.fullmatch(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,79}", name)
    if not form or name.endswith(".") or name.partition(".")[0].lower() in DEVICES:
        raise UsageError(
            f"{what} {name!r}; allowed: a plain name of letters, digits and ._+=-, since it "
            "becomes a folder's"
        )


def is_address(weights: str | None) -> bool:
    """Whether weights are fetched from an address, and not read from a file."""
    return weights is not None and weights.startswith(("https://", "http://"))


def digest_in(address: str) -> str:
    """The SHA-256 that a file's name in an address ends in, or the digits of it that are there.

    Raises UsageError where there are fewer than 8.
    """
    match = re.search(r"-([0-9a-f]{8,64})(\.[A-Za-z]+)*$", address)
    if match is None:
        raise UsageError(
            f"weights {address}; allowed: an address whose file name ends in the SHA-256 "
            "of its content, or 8 digits of it, as resnet56-4bfd9763.th"
        )
    return match[1]


def content(file: Path) -> str:
    """What a file counts by in names and records: the first eight digits of its content's hash."""
    state = file.stat()
    return file_hash(file, state.st_size, state.st_mtime_ns)


def _several(networks: Sequence[str]) -> str:
    """Some networks in a name: how many, told apart by a hash."""
    return f"{len(networks)}-networks-{_digest('|'.join(networks))}"


def check_networks(networks: Sequence[object]) -> None:
    """Raise UsageError unless these are names of runs, one at least."""
    if not networks:
        raise UsageError("networks is empty; name at least one trained run")
    for network in networks:
        _run_name("networks", network)


def check_options(options: Mapping[Any, Any]) -> None:
    """Raise UsageError for an option that is none of a method or an embedding."""
    for name in options:
        if not isinstance(name, str) or name in RESERVED:
            raise UsageError(f"option {name!r} is none of a method or embedding")


def _run_name(what: str, name: object, among: tuple[str, ...] = ("teachers", "students")) -> None:
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] not in among or ".." in parts:
        raise UsageError(
            f"{what}: {name!r} names no run; `python -m kdlib list` names those there are"
        )
