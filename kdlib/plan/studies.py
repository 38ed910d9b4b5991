"""A study: the grid of a study file, unfolded into runs.

No torch in here: the pipeline plans a whole study by these classes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from kdlib import UsageError
from kdlib.plan.runs import (
    Comparison,
    Features,
    Film,
    Maps,
    Measures,
    Experiment,
    Run,
    Student,
    Teacher,
    check,
    hints,
    side_by_side,
)

# Methods that need no teacher, and those whose student is of the teacher's own architecture;
# a test holds both against kdlib.distill.
TEACHERLESS = ("baseline", "smooth", "dml")
TEACHERS_NETWORK = ("self", "born_again", "noisy_student")
SET_BY_AXES = ("labels_per_class", "seed", "teacher", "teacher_regime", "students")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The grid of a study file: which networks are trained, looked at and mapped.

    Below `teacher` and `student` a list is one more axis: every value is crossed with all others.
    """

    name: str
    dataset: str = "digits"  # a name of kdlib.data.DATASETS, or folder:<path>
    size: int | None = None  # side in pixels to which images are resized and cropped
    grey: bool = False  # colour images made grey
    normalise: str = "data"  # a name of kdlib.data.CONSTANTS
    teacher: dict = field(default_factory=dict)  # parameters of notebooks/teacher.ipynb
    student: dict = field(default_factory=dict)  # parameters of notebooks/student.ipynb
    methods: list = field(
        default_factory=lambda: ["baseline", "kd"]
    )  # by name, or with parameters of their own: {method: kd, options: {temperature: 2}}
    labels_per_class: list = field(default_factory=lambda: [2])
    seeds: list = field(default_factory=lambda: [0])
    students_per_kernel: int = (
        5  # students of one teacher, label budget and seed in one kernel, at most
    )
    layers: bool = True  # look into the networks; without, their accuracy is all that is kept
    features: dict = field(default_factory=dict)  # parameters of notebooks/features.ipynb
    embeddings: dict = field(default_factory=lambda: {"tsne": {}})  # method -> its options
    maps: dict = field(default_factory=dict)  # mapped: axes as above; default: all, first seed
    film: dict = field(default_factory=dict)  # of training: epochs, layers, methods; default: none

    def __post_init__(self) -> None:
        check(hints(Study), asdict(self))
        check(dict.fromkeys(self.axes, list), self.maps)
        for axis, values in {**self.axes, **self.maps, **self._crossed()}.items():
            if not values:
                raise UsageError(f"{axis} is empty; a study needs at least one")
            for value in values:
                if axis in self.maps and value not in self.axes[axis]:
                    raise UsageError(f"maps: {axis} {value!r} is not in the study's {axis}")
            if len(set(map(str, values))) < len(values):
                raise UsageError(f"{axis} {values!r}; allowed: each once")
        self._check_film()
        if not self.embeddings:
            raise UsageError("embeddings is empty; a study needs at least one")
        if self.students_per_kernel < 1:
            raise UsageError(f"students_per_kernel {self.students_per_kernel}; allowed: 1 or more")
        self._check_fixed("teacher", self.teacher, "labels_per_class")
        self._check_fixed("features", self.features, "networks")
        for given in (self.student, *map(_told, self.methods)):
            self._check_fixed("student", given, *SET_BY_AXES)
        _ = self.students, self.drawn, self.followed  # raise for bad values
        for block in list(self.blocks)[:1]:
            self.looked(Features, block)

    def _check_film(self) -> None:
        """Raise UsageError unless a film is of epochs, and of methods that are drawn as maps."""
        check(dict.fromkeys(("epochs", "layers", "methods"), list), self.film)
        for name, values in ({"epochs": []} | self.film).items() if self.film else ():
            if not values:
                raise UsageError(f"film: {name} is empty; a film needs at least one")
        for method in self.film.get("methods", ()):
            if method not in (allowed := self.maps.get("methods", self.methods)):
                raise UsageError(f"film: method {method!r}; allowed, as in the maps: {allowed}")

    def _check_fixed(self, part: str, given: dict, *more: str) -> None:
        """Raise UsageError where a part names what the study sets itself."""
        for name in given:
            if name in (
                *Experiment.machine,
                "study",
                "dataset",
                "size",
                "grey",
                "normalise",
                *more,
            ):
                raise UsageError(f"{part}: {name} is not set here; the study sets it itself")

    def _crossed(self) -> dict[str, list]:
        """The lists below `teacher` and `student`, by name."""
        return {
            f"{part}: {name}": value
            for part in ("teacher", "student")
            for name, value in getattr(self, part).items()
            if isinstance(value, list)
        }

    @property
    def axes(self) -> dict[str, list]:
        """What every study varies."""
        return {k: getattr(self, k) for k in ("methods", "labels_per_class", "seeds")}

    @property
    def keys(self) -> list[str]:
        """The names of its methods, each once."""
        return list(dict.fromkeys(run.method for run in self.students))

    @cached_property
    def teachers(self) -> list[Teacher]:
        """All teachers: those of every label once, the others per label budget and seed."""
        cells = product(self.labels_per_class, self.seeds, _variants(self.teacher))
        return _once(self._teacher(given, labels, seed) for labels, seed, given in cells)

    def _teacher(self, given: dict, labels: int | str, seed: int) -> Teacher:
        """The teacher of one cell. Limited to every label it is the full one."""
        regime = given.get("regime", "full")
        if regime == "limited" and labels == "all":
            given, regime = given | {"regime": "full"}, "full"
        if regime != "pretrained":
            given = {k: v for k, v in given.items() if k != "weights"}
        if regime != "full":
            given = given | {"labels_per_class": labels, "seed": seed}
        return _made(Teacher, "teacher", given | self._data())

    @cached_property
    def students(self) -> list[Student]:
        """All students, those of one label budget and seed side by side."""
        every = self._students(**self.axes, all_variants=True)
        kept = {run.name for run in self.filmed}
        how = {"snapshots": self.film.get("epochs")}
        return [
            _made(Student, "film", asdict(run) | how) if run.name in kept else run for run in every
        ]

    def _students(
        self, methods: list, labels_per_class: list, seeds: list, *, all_variants: bool
    ) -> list[Student]:
        some = slice(None if all_variants else 1)
        variants = list(_variants(self.student))[some]
        teachers = list(_variants(self.teacher))[some]
        return _once(
            student
            for labels, seed in product(labels_per_class, seeds)
            for given, fixed in product(teachers, variants)
            for method in methods
            for student in self._cell(method, labels, seed, given, fixed)
        )

    def _cell(
        self, entry: str | dict, labels: int | str, seed: int, given: dict, fixed: dict
    ) -> Iterator[Student]:
        """One student; where it is of its teacher's network, `baseline` of that network, too."""
        teacher, own = self._teacher(given, labels, seed), _told(entry)
        method = own["method"]
        if method in TEACHERS_NETWORK:
            names = ("network", "width", "network_options")
            network = {name: getattr(teacher, name) for name in names}
            if "baseline" in self.methods:
                yield from self._cell(network | {"method": "baseline"}, labels, seed, given, fixed)
            own = own | network
        fixed = fixed | own
        if method in TEACHERLESS:  # alike for all teachers: kept with the first
            teacher = self._teacher(next(_variants(self.teacher)), labels, seed)
            fixed = {k: v for k, v in fixed.items() if k != "unlabelled" or method == "dml"}
        told = {"labels_per_class": labels, "seed": seed, "teacher": teacher.name}
        yield _made(Student, "student", fixed | told | self._data())

    @cached_property
    def kernels(self) -> dict[str, Student]:
        """The students that are trained side by side in one kernel, by the name of that."""
        groups: dict[tuple[str, str], list[Student]] = {}
        for student in self.students:
            group = f"{Path(student.teacher).name}/{student.labels_per_class}-{student.seed}"
            same = {k: v for k, v in student.settings().items() if k not in student.own}
            groups.setdefault((group, str(same)), []).append(student)
        kernels: dict[str, Student] = {}
        numbers: Counter[str] = Counter()
        for (group, _), members in groups.items():
            for start in range(0, len(members), self.students_per_kernel):
                numbers[group] += 1
                part = members[start : start + self.students_per_kernel]
                kernels[f"{group}-{numbers[group]}"] = side_by_side(part)
        return kernels

    @cached_property
    def blocks(self) -> dict[str, list[Run]]:
        """Networks that are looked into together, by label budget and seed; full teachers apart."""
        blocks: dict[str, list[Run]] = {"teacher": []}
        for run in (*self.teachers, *self.students) if self.layers else ():
            full = isinstance(run, Teacher) and run.regime == "full"
            block = "teacher" if full else f"{run.labels_per_class}-{run.seed}"  # type: ignore[attr-defined]
            blocks.setdefault(block, []).append(run)
        return {block: members for block, members in blocks.items() if members}

    @property
    def mapped(self) -> list[Run]:
        """The networks whose layers are drawn as maps, of the first variants, teachers first."""
        axes = self.axes | {"seeds": self.seeds[:1]} | self.maps
        students = self._students(**axes, all_variants=False)
        taught = {student.teacher for student in students}
        return [*(run for run in self.teachers if run.name in taught), *students]

    @property
    def measured(self) -> set[str]:
        """The networks whose maps are measured and not kept: as `mapped`, in every other seed."""
        kept = {run.name for run in self.mapped}
        axes = self.axes | self.maps | {"seeds": self.seeds}
        return {run.name for run in self._students(**axes, all_variants=False)} - kept

    @property
    def drawn(self) -> dict[str, Maps]:
        """The tables of maps, by embedding."""
        names = [run.name for run in self.mapped]
        return {
            method: _made(
                Maps,
                f"embeddings: {method}",
                {"networks": names, "embedding": method} | _drawn(options or {}) | self._shown(),
            )
            for method, options in self.embeddings.items()
            if self.layers
        }

    @property
    def compared(self) -> Comparison | None:
        """The maps that are drawn in several ways: alone and distilled, of the first cell."""
        axes = {"labels_per_class": self.labels_per_class[:1], "seeds": self.seeds[:1]}
        cell = self._students(self.methods, **axes, all_variants=False) if self.layers else []
        baseline = [run for run in cell if run.method == "baseline"]
        other = [run for run in cell if run.method != "baseline"]
        if not (baseline and other):
            return None
        distilled = min(other, key=lambda run: run.method != "kd")  # kd, or else the first
        names = [distilled.teacher, baseline[0].name, distilled.name]
        return _made(Comparison, "compared", {"networks": names} | self._shown())

    @property
    def filmed(self) -> list[Student]:
        """The students that are followed through training: of the maps' first budget, all seeds."""
        axes = self.axes | {"seeds": self.seeds[:1]} | self.maps
        axes |= {"methods": self.film.get("methods", axes["methods"])}
        axes |= {"seeds": list(dict.fromkeys([axes["seeds"][0], *self.seeds]))}
        axes |= {"labels_per_class": axes["labels_per_class"][:1]}
        return self._students(**axes, all_variants=False) if self.film and self.layers else []

    @property
    def followed(self) -> Film | None:
        """The film of training: every seed is measured, the first one drawn."""
        if not self.filmed:
            return None
        names = [run.name for run in self.filmed]
        drawn = [run.name for run in self.filmed if run.seed == self.filmed[0].seed]
        told = {"layers": self.film["layers"]} if "layers" in self.film else {}
        options = _drawn(self.embeddings.get("tsne") or {})["options"]
        given = {"networks": names, "mapped": drawn, "options": options}
        return _made(Film, "film", told | given | self._data())

    def looked(self, kind: type, block: str) -> Experiment:
        """The `Features` or `Measures` of one block's networks."""
        names = [run.name for run in self.blocks[block]]
        given = self.features | self._data() if kind is Features else self._shown()
        mapped = [name for name in names if name in self.measured] if kind is Measures else []
        if mapped:
            told = {method: _drawn(how or {})["options"] for method, how in self.embeddings.items()}
            given = given | {"mapped": mapped, "embeddings": told}
        return _made(kind, "features", given | {"networks": names})

    def _data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("dataset", "size", "grey", "normalise")} | {
            "study": self.name
        }

    def _shown(self) -> dict[str, Any]:
        """What finds results."""
        return self._data()


def _told(entry: str | dict) -> dict:
    """The parameters of a student that an entry of `methods` names."""
    told = entry if isinstance(entry, dict) else {"method": entry}
    if "method" not in told:
        raise UsageError(f"methods: {entry!r}; allowed: a name, or {{method: kd, width: 1}}")
    return told


def _drawn(options: dict) -> dict:
    """The parameters of maps that an entry of `embeddings` names: options, and their coupling."""
    apart = {key: options[key] for key in ("coupling",) if key in options}
    return apart | {"options": {key: options[key] for key in options if key not in apart}}


def _variants(given: dict) -> Iterator[dict]:
    """Every combination of the lists in it."""
    lists = {k: v if isinstance(v, list) else [v] for k, v in given.items()}
    for values in product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def _once(made: Iterator[Any]) -> list[Any]:
    return list({run.name: run for run in made}.values())


def _made(kind: type, what: str, given: dict[str, Any]) -> Any:
    try:
        check(hints(kind), given)
        return kind(**given)
    except UsageError as problem:
        raise UsageError(f"{what}: {problem}") from None


def read(file: str | Path) -> Study:
    """Read a study file. Raises UsageError, naming the file, for anything that is wrong in it."""
    file = Path(file)
    if not file.is_file():
        there = ", ".join(str(f) for f in sorted(file.parent.glob("*.yaml"))) or "none"
        raise UsageError(f"no study file {file}; there: {there}")
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(given, dict):
            raise UsageError("not a list of names and values")
        check(hints(Study), given)
        told: dict[str, Any] = {"name": file.stem} | given
        return Study(**told)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UsageError(f"{file}: not YAML: {' '.join(str(problem).split())}") from None
    except UsageError as problem:
        raise UsageError(f"{file}: {problem}") from None
