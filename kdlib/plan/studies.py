"""A study: the grid of a study file, unfolded into runs.

No torch in here: the pipeline plans a whole study by these classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field

from kdlib import UsageError, path_of
from kdlib.plan import methods
from kdlib.plan.parameters import (
    EXPONENT,
    Count,
    Int,
    Labels,
    NotNegative,
    Side,
    check,
    number,
    parameters,
)
from kdlib.plan.runs import (
    MINUTES,
    Comparison,
    Experiment,
    Features,
    Film,
    Maps,
    Measures,
    Run,
    Student,
    Teacher,
    plain,
    side_by_side,
)
from kdlib.plan.source import Source

SET_BY_AXES = ("labels_per_class", "seed", "teacher", "teacher_labels", "students")
DATA = ("dataset", "size", "grey", "train_images")
Kind = TypeVar("Kind", bound=Experiment)
Options = dict[str, Any] | None
# Students of a kernel where their number is not given: many in a study of more than LARGE, which
# would be thousands of jobs. Of two sizes only: another cuts kernels anew, which trains them again.
SHARING, CROWDED, LARGE = 5, 25, 1500
TSNE: dict[str, Options] = {"tsne": {}}
FEW: tuple[Labels, ...] = (2,)  # labels per class


@parameters
class Study:
    """The grid of a study file: which networks are trained, measured and mapped.

    Below `teacher` and `student` a list is one more axis: every value is crossed with all others.
    `teacher: [a, b]` are two teachers, each with students of its own; `teacher: {ensemble: [a, b]}`
    are two that teach every student together, and may be an entry of such a list.
    """

    name: str
    dataset: str = "digits"  # a name of kdlib.plan.source.NAMES, or the path of images
    size: Side | None = None  # side in pixels to which images are resized and cropped
    grey: bool = False  # colour images made grey
    train_images: Count | None = None  # how many are used, all classes alike; None: all
    teacher: dict[str, Any] | list[dict[str, Any]] = Field(
        default_factory=dict
    )  # of notebooks/teacher.ipynb, for one teacher or several; labels_per_class: all or same
    student: dict[str, Any] = Field(default_factory=dict)  # parameters of notebooks/student.ipynb
    methods: list[Any] = Field(
        default_factory=lambda: [methods.BASELINE, "kd"]
    )  # by name, or with parameters of their own: {method: kd, options: {temperature: 2}}
    labels_per_class: list[Labels] = Field(default_factory=lambda: [*FEW])
    seeds: list[Int] = Field(default_factory=lambda: [0])
    students_per_kernel: Count | None = None  # of one teacher, label budget and seed, trained side
    # by side; None: 5, and more in studies of more than 1,500 students: few jobs rather than short
    checkpoint_minutes: NotNegative = MINUTES  # of a training, between two checkpoints; 0: none
    kernels_by: Literal["budget", "seed"] = "budget"  # networks whose features share a kernel, and
    # whose measures do: of one label budget and seed; seed: of all budgets, where each is short
    runs_only: bool = False  # train and test, but extract no features: no measures, maps or film
    features: dict[str, Any] = Field(default_factory=dict)  # parameters of notebooks/features.ipynb
    embeddings: dict[str, Options] = Field(
        default_factory=lambda: dict(TSNE)
    )  # method -> its options
    maps: dict[str, Any] = Field(
        default_factory=dict
    )  # mapped: axes as above; default: all, first seed
    film: dict[str, Any] = Field(
        default_factory=dict
    )  # of training: epochs, layers, methods; default: none
    device: Literal["cpu", "cuda"] = "cpu"  # where it runs: a GPU trains in bfloat16

    def __post_init__(self) -> None:
        plain("name of the study", self.name)
        self._check_axes()
        self._check_film()
        if self.runs_only and self.film:
            raise UsageError("film of a study with runs_only: true; allowed: without runs_only")
        if not self.embeddings and not self.runs_only:
            raise UsageError("embeddings is empty; a study needs at least one")
        for given in self._teacher_members:
            self._check_fixed("teacher", given)
        self._check_fixed("features", self.features, "networks")
        self._check_fixed("student", self.student, "method")
        for given in (self.student, *map(_parameters_of, self.methods)):
            self._check_fixed("student", given, *SET_BY_AXES)
        _ = self.students, self.map_tables, self.film_table  # raise for bad values
        for block in list(self.blocks)[:1]:
            self.features_of(block)

    def _check_axes(self) -> None:
        """Raise UsageError unless every axis has values, each once, and maps are of these."""
        for name in self.maps:
            if name not in self.axes:
                raise UsageError(f"unknown parameter {name!r}; known: {', '.join(self.axes)}")
            if not isinstance(self.maps[name], list):
                raise UsageError(f"maps: parameter {name} must be list, given {self.maps[name]!r}")
        lists = self._crossed() | {"teacher": self._teacher_entries}
        for axis, points in [*self.axes.items(), *self.maps.items(), *lists.items()]:
            if not points:
                raise UsageError(f"{axis} is empty; a study needs at least one")
            if len(set(map(str, points))) < len(points):
                raise UsageError(f"{axis} {points!r}; allowed: each once")
        for axis, points in self.maps.items():
            for value in points:
                if value not in self.axes[axis]:
                    raise UsageError(f"maps: {axis} {value!r} is not in the study's {axis}")

    def _check_film(self) -> None:
        """Raise UsageError unless a film is of epochs, and of methods that are mapped."""
        known = ("epochs", "layers", "methods")
        for name, points in self.film.items():
            if name not in known:
                raise UsageError(f"film: unknown parameter {name!r}; known: {', '.join(known)}")
            if not isinstance(points, list):
                raise UsageError(f"film: parameter {name} must be list, given {points!r}")
        if not self.film:
            return
        for name, points in ({"epochs": []} | self.film).items():
            if not points:
                raise UsageError(f"film: {name} is empty; a film needs at least one")
        mapped = self.maps.get("methods", self.methods)
        for method in self.film.get("methods", ()):
            if method not in mapped:
                raise UsageError(f"film: method {method!r}; allowed, as in the maps: {mapped}")

    def _check_fixed(self, part: str, given: dict[str, Any], *more: str) -> None:
        """Raise UsageError where a part names what the study sets itself."""
        for name in given:
            if name in (*Experiment.machine, "study", *DATA, *more):
                raise UsageError(f"{part}: {name} is not set here; the study sets it itself")

    def _crossed(self) -> dict[str, list[Any]]:
        """The lists below `teacher` and `student`, by name."""
        members = self._teacher_members
        parts = [("teacher", members[0])] if len(members) == 1 else []
        parts = parts or [(f"teacher {i}", given) for i, given in enumerate(members, 1)]
        return {
            f"{part}: {name}": value
            for part, given in [*parts, ("student", self.student)]
            for name, value in given.items()
            if isinstance(value, list)
        }

    @property
    def _teacher_entries(self) -> list[dict[str, Any]]:
        return self.teacher if isinstance(self.teacher, list) else [self.teacher]

    @property
    def _teacher_members(self) -> list[dict[str, Any]]:
        """The entries of `teacher`, those of an ensemble one by one."""
        return [member for entry in self._teacher_entries for member in _members(entry)]

    def _teacher_grid(self) -> list[tuple[dict[str, Any], ...]]:
        """The parameters of every teacher, but for labels and seed; of an ensemble, of each."""
        return [
            point
            for entry in self._teacher_entries
            for point in product(*(_grid(member) for member in _members(entry)))
        ]

    @cached_property
    def source(self) -> Source:
        """Where the images come from; all runs are handed this one."""
        return Source(self.dataset, self.size, self.grey, self.train_images)

    @property
    def axes(self) -> dict[str, list[Any]]:
        """What every study varies."""
        return {k: getattr(self, k) for k in ("methods", "labels_per_class", "seeds")}

    @property
    def keys(self) -> list[str]:
        """The names of its methods, each once."""
        return list(dict.fromkeys(run.method for run in self.students))

    @property
    def root(self) -> Path:
        """The folder of its results."""
        return self.teachers[0].root

    @property
    def runs(self) -> list[Run]:
        """All runs, teachers first."""
        return [*self.teachers, *self.students]

    @cached_property
    def shared(self) -> dict[str, dict[str, str]]:
        """Settings other than the defaults that all teachers share, and all students, by role."""
        changed = {
            role: [run.changed for run in self.runs if run.role == role]
            for role in ("teacher", "student")
        }
        return {
            role: {k: v for k, v in each[0].items() if all(own.get(k) == v for own in each)}
            for role, each in changed.items()
        }

    @property
    def options(self) -> dict[str, str]:
        """In what each run, by name, differs from the defaults and not all of its role do.

        The column `options` of a published study; precision has a column of its own.
        """
        apart = {
            run.name: {k: v for k, v in run.changed.items() if k not in self.shared[run.role]}
            for run in self.runs
        }
        return {
            name: " ".join(f"{k}={v}" for k, v in own.items() if k != "precision")
            for name, own in apart.items()
        }

    # ---- what is trained -----------------------------------------------------------------------

    @cached_property
    def teachers(self) -> list[Teacher]:
        """All teachers: those of every label once, the others per label budget and seed."""
        cells = product(self.seeds, self.labels_per_class, self._teacher_grid())
        return _distinct(
            self._teacher(given, labels, seed)
            for seed, labels, members in cells
            for given in members
        )

    def _teacher(self, given: dict[str, Any], labels: int | str, seed: int) -> Teacher:
        """The teacher of one cell: of every label one for all, of the same labels one for each."""
        known = given.get("labels_per_class", "all")
        if known not in ("all", "same"):
            raise UsageError(
                f"teacher: labels_per_class {known!r}; allowed: all, or same: as its students"
            )
        known = labels if known == "same" else "all"
        if known != "all" and "seed" in given:
            raise UsageError(
                f"teacher: seed {given['seed']!r} with labels_per_class same; allowed: without, "
                "it has the seed of its students"
            )
        given = given | {"labels_per_class": known}
        if known != "all":
            given |= {"seed": seed}
        return self._make(Teacher, "teacher", given).on(self.device)

    @cached_property
    def students(self) -> list[Student]:
        """All students, those of one label budget and seed side by side."""
        every = self._students(**self.axes, all_variants=True)
        followed = {run.name for run in self.film_students}
        try:
            return [
                run.altered(snapshots=self.film["epochs"]) if run.name in followed else run
                for run in every
            ]
        except UsageError as problem:
            raise UsageError(f"film: {problem}") from None

    def _students(
        self,
        methods: list[Any],
        labels_per_class: list[Any],
        seeds: list[Any],
        *,
        all_variants: bool,
    ) -> list[Student]:
        students, teachers = list(_grid(self.student)), self._teacher_grid()
        if not all_variants:
            students, teachers = students[:1], teachers[:1]
        return _distinct(
            student
            for seed, labels in product(seeds, labels_per_class)
            for given, fixed in product(teachers, students)
            for method in methods
            for student in self._cell(method, labels, seed, given, fixed)
        )

    def _cell(
        self,
        entry: str | dict[str, Any],
        labels: int | str,
        seed: int,
        given: tuple[dict[str, Any], ...],
        fixed: dict[str, Any],
    ) -> Iterator[Student]:
        """One student; where it has its teacher's network, the baseline of that network, too."""
        teachers = [self._teacher(member, labels, seed) for member in given]
        own = _parameters_of(entry)
        parts = methods.parse(own["method"])
        if any(part.same_network or part.no_smaller for part in parts):
            names = ("network", "width", "network_options", "normalise", "input_size")
            network = {name: getattr(teachers[0], name) for name in names}
            if methods.BASELINE in self.methods:
                baseline = network | {"method": methods.BASELINE}
                yield from self._cell(baseline, labels, seed, given, fixed)
            own = own | network
        fixed = fixed | own
        if not any(part.teacher for part in parts):  # the same for all teachers
            teachers = [self._teacher(self._teacher_grid()[0][0], labels, seed)]
            unused = ["cached_teacher"]
            if not any(part.unlabelled for part in parts):
                unused.append("unlabelled")
            fixed = {k: v for k, v in fixed.items() if k not in unused}
        runs = [teacher.name for teacher in teachers]
        several = {"teacher": runs if len(runs) > 1 else runs[0]}
        cell = {"labels_per_class": labels, "seed": seed} | several
        yield self._make(Student, "student", fixed | cell).on(self.device)

    @cached_property
    def kernels(self) -> dict[str, Student]:
        """The students that are trained side by side in one kernel, by the name of that."""
        groups: dict[tuple[str, str], list[Student]] = {}
        for student in self.students:
            group = f"{Path(student.teacher_run).name}/{student.labels_per_class}-{student.seed}"
            same = {k: v for k, v in student.settings().items() if k not in student.own}
            groups.setdefault((group, str(same)), []).append(student)
        size = self.students_per_kernel or (SHARING if len(self.students) <= LARGE else CROWDED)
        kernels: dict[str, Student] = {}
        numbers: Counter[str] = Counter()
        for (group, _), members in groups.items():
            for start in range(0, len(members), size):
                numbers[group] += 1
                part = members[start : start + size]
                kernels[f"{group}-{numbers[group]}"] = side_by_side(part)
        return kernels

    # ---- what is measured and mapped -----------------------------------------------------------

    @cached_property
    def blocks(self) -> dict[str, list[Run]]:
        """Networks whose features are extracted in one kernel; full teachers apart."""
        blocks: dict[str, list[Run]] = {"teacher": []}
        if self.runs_only:
            return {}
        runs: list[Teacher | Student] = [*self.teachers, *self.students]
        for run in runs:
            own = f"{'seed' if self.kernels_by == 'seed' else run.labels_per_class}-{run.seed}"
            full = isinstance(run, Teacher) and run.regime == "full"
            blocks.setdefault("teacher" if full else own, []).append(run)
        return {block: members for block, members in blocks.items() if members}

    def features_of(self, block: str) -> Features:
        """Which features are extracted of one block's networks."""
        names = {"networks": [run.name for run in self.blocks[block]]}
        return self._make(Features, "features", self.features | names)

    def measures_of(self, block: str) -> Measures:
        """What is measured of one block's networks."""
        names = [run.name for run in self.blocks[block]]
        given: dict[str, Any] = {"networks": names}
        mapped = [name for name in names if name in self.measured]
        if mapped:
            options = {method: _options(how)["options"] for method, how in self.embeddings.items()}
            given |= {"mapped": mapped, "embeddings": options}
        return self._make(Measures, "measures", given)

    @property
    def mapped(self) -> list[Run]:
        """The networks whose layers are mapped, of the first variants, teachers first."""
        axes = self.axes | {"seeds": self.seeds[:1]} | self.maps
        students = self._students(**axes, all_variants=False)
        teachers = {name for student in students for name in student.teacher_runs}
        return [*(run for run in self.teachers if run.name in teachers), *students]

    @property
    def measured(self) -> set[str]:
        """The networks whose maps are measured and not kept: as `mapped`, in every other seed."""
        mapped = {run.name for run in self.mapped}
        axes = self.axes | self.maps | {"seeds": self.seeds}
        return {run.name for run in self._students(**axes, all_variants=False)} - mapped

    @property
    def map_tables(self) -> dict[str, Maps]:
        """The tables of maps, by embedding."""
        if self.runs_only:
            return {}
        names = [run.name for run in self.mapped]
        return {
            embedding: self._make(
                Maps,
                f"embeddings: {embedding}",
                {"networks": names, "embedding": embedding} | _options(how),
            )
            for embedding, how in self.embeddings.items()
        }

    @property
    def comparison(self) -> Comparison | None:
        """The maps made by several procedures: of baseline and distilled, of the first cell."""
        if self.runs_only:
            return None
        labels, seeds = self.labels_per_class[:1], self.seeds[:1]
        cell = self._students(self.methods, labels, seeds, all_variants=False)
        baselines = [run for run in cell if run.method == methods.BASELINE]
        distilled = [run for run in cell if run.method != methods.BASELINE]
        if not (baselines and distilled):
            return None
        kd = [run for run in distilled if run.method == "kd"]
        other = (kd or distilled)[0]
        names = [other.teacher_run, baselines[0].name, other.name]
        return self._make(Comparison, "comparison", {"networks": names})

    @property
    def film_students(self) -> list[Student]:
        """The students followed through training: of the maps' first budget, all seeds."""
        if not self.film or self.runs_only:
            return []
        axes = self.axes | {"seeds": self.seeds[:1]} | self.maps
        axes["methods"] = self.film.get("methods", axes["methods"])
        axes["seeds"] = list(dict.fromkeys([axes["seeds"][0], *self.seeds]))
        axes["labels_per_class"] = axes["labels_per_class"][:1]
        return self._students(**axes, all_variants=False)

    @property
    def film_table(self) -> Film | None:
        """The film of training: every seed is measured, the first one mapped."""
        students = self.film_students
        if not students:
            return None
        given = {
            "networks": [run.name for run in students],
            "mapped": [run.name for run in students if run.seed == students[0].seed],
            "options": _options(self.embeddings.get("tsne"))["options"],
        }
        if "layers" in self.film:
            given["layers"] = self.film["layers"]
        return self._make(Film, "film", given)

    def _make(self, kind: type[Kind], what: str, given: dict[str, Any]) -> Kind:
        """Parameters of this study's images; `what` begins the line of an error."""
        data = {name: getattr(self, name) for name in DATA} | {"study": self.name}
        try:
            made = kind(**(given | data))
        except UsageError as problem:
            raise UsageError(f"{what}: {problem}") from None
        vars(made)["source"] = self.source  # handed on: its hash is worked out once
        return made


def _parameters_of(entry: Any) -> dict[str, Any]:
    """The parameters of a student that an entry of `methods` names."""
    given = entry if isinstance(entry, dict) else {"method": entry}
    if not isinstance(given.get("method"), str):
        raise UsageError(f"methods: {entry!r}; allowed: a name, or {{method: kd, width: 1}}")
    return given


def _members(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The teachers of an entry of `teacher`: itself, or those of an ensemble."""
    if "ensemble" not in entry:
        return [entry]
    members: Any = entry["ensemble"]
    whole = isinstance(members, list) and all(isinstance(member, dict) for member in members)
    if not whole or len(members) < 2 or len(entry) > 1:
        raise UsageError(
            f"teacher: {entry!r}; allowed: an ensemble of two teachers or more, by itself: "
            "{ensemble: [{network: resnet20}, {network: resnet14}]}"
        )
    return list(members)


def _options(how: dict[str, Any] | None) -> dict[str, Any]:
    """The parameters of maps that an entry of `embeddings` names: options, and their coupling."""
    how = how or {}
    options = {"options": {key: value for key, value in how.items() if key != "coupling"}}
    return options | ({"coupling": how["coupling"]} if "coupling" in how else {})


def _grid(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the lists in it, in their order.

    scikit-learn's ParameterGrid sorts the names, and its import takes longer than all planning.
    """
    lists = {k: v if isinstance(v, list) else [v] for k, v in given.items()}
    for point in product(*lists.values()):
        yield dict(zip(lists, point, strict=True))


def _distinct(runs: Iterable[Any]) -> list[Any]:
    return list({run.name: run for run in runs}.values())


LARGEST = 100_000  # values in a study file, those of an alias each time
TOO_MANY = f"holds more than {LARGEST:,} values; allowed: fewer, with no loops"
LARGEST_FILE = 2**20  # bytes of it


class _Loader(yaml.SafeLoader):
    """YAML as most expect it: 5e-4 is a number, and no name stands twice."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Raise UsageError for more values than a study has, before all of them are read."""
        self.nodes += 1
        if self.nodes > 2 * LARGEST:  # names and values
            raise UsageError(TOO_MANY)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raise UsageError for a name that stands twice, of which YAML would keep the last."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name, count in Counter(names).items():
            if count > 1:
                line = node.start_mark.line + 1
                raise UsageError(f"{name!r} stands {count} times in one place, from line {line} on")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Raise UsageError for merges (<<) of merges that become more values than a study has."""
        super().flatten_mapping(node)
        if len(node.value) > LARGEST:
            raise UsageError(TOO_MANY)


_Loader.add_implicit_resolver("!exponent", EXPONENT, list("-+.0123456789"))
_Loader.add_constructor("!exponent", lambda _, node: number(node.value))


def _check_size(given: dict[Any, Any]) -> None:
    """Raise UsageError for more values than a study has: aliases of aliases, or of themselves."""
    todo: list[Any] = [given]
    count = 0
    while todo:
        value = todo.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            todo.extend(inner)
            count += len(value)
        if count > LARGEST:
            raise UsageError(TOO_MANY)


def _parsed(file: Path) -> Any:
    """The content of a YAML file. Raises UsageError for what is none, and for a file too large."""
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise UsageError(f"{size:,} bytes; allowed: up to {LARGEST_FILE:,}")
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (UsageError, OSError):
        raise
    except RecursionError:
        raise UsageError("nested too deeply") from None
    except Exception as problem:  # also what a value raises that is not what its tag says
        reason = " ".join(str(problem).split()) or type(problem).__name__
        if not isinstance(problem, yaml.YAMLError | UnicodeError):
            reason = f"a value is not of its type ({reason})"
        raise UsageError(f"not YAML: {reason[:500]}") from None


def read(file: str | Path, device: Literal["cpu", "cuda"] = "cpu") -> Study:
    """Read a study file, to be run on a device.

    Raises UsageError, naming the file, for anything that is wrong in it.
    """
    file = path_of("study file", file)
    if not file.is_file():
        there = ", ".join(str(f) for f in sorted(Path("studies").glob("*.yaml"))) or "none"
        raise UsageError(f"no study file {file}; in studies/: {there}")
    try:
        given = _parsed(file)
        if not given:
            raise UsageError("is empty; allowed: one line at least, as methods: [baseline, kd]")
        if not isinstance(given, dict):
            raise UsageError("not a list of names and values")
        _check_size(given)
        given = {str(name): value for name, value in given.items()}
        check(Study, given, among=tuple(n for n in Study.__annotations__ if n != "device"))
        return Study(**({"name": file.stem} | given | {"device": device}))
    except UsageError as problem:
        raise UsageError(f"{file}: {problem}") from None
