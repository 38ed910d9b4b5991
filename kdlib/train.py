"""The one training loop: a teacher and a student go through the same lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from kdlib import UsageError, distill, models
from kdlib.data import Batch, Batches, Images, Level, normalised
from kdlib.distill import Method
from kdlib.models import Forward, checkpoints
from kdlib.plan import methods
from kdlib.plan.runs import Run, Teacher


class Score(NamedTuple):
    """What a trained network reaches on the test set."""

    accuracy: float  # in [0, 1]
    n: int  # test images
    predictions: Int[Tensor, " n"]


def use(device: str, threads: int) -> torch.device:
    """Choose where to compute: "auto" takes a GPU where there is one.

    Also sets how many CPU threads torch may use: results are the same bits only for the same
    number. Raises UsageError for an unknown device or for cuda where there is none.
    """
    allowed = ("auto", "cpu", "cuda")
    if device not in allowed:
        raise UsageError(f"unknown device {device!r}; one of: {', '.join(allowed)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': torch sees no GPU here; use cpu or auto")
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True  # the same bits each time on a GPU too
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


Row = dict[str, float | int | str]  # what is told of one epoch


class TrainingJob(NamedTuple):
    """A network to be trained: how, and by what method."""

    network: nn.Module
    run: Run  # epochs, learning rate, weight decay, seed
    method: str = "baseline"  # a name of kdlib.plan.methods.METHODS, or several: kd+at
    options: Mapping[str, Any] = {}  # the method's own constants
    unlabelled: bool = True  # is it shown the images without a label?
    backbone_lr_factor: float = (
        1.0  # learning rate of all but the classifier, times the other; 0: frozen
    )
    snapshots: Collection[int] = ()  # epochs after which its weights are kept, too; 0: before


class Trained(NamedTuple):
    """A network after its training, and how that went."""

    network: nn.Module
    history: list[Row]  # one row per epoch
    snapshots: dict[int, dict[str, np.ndarray]]  # its weights on the way, by epoch


def fit(
    network: nn.Module,
    batches: Batches,
    run: Run,
    *,
    method: str = "baseline",
    teacher: nn.Module | None = None,
    backbone_lr_factor: float = 1.0,
    **options: Any,
) -> Trained:
    """Train one network in place, on the device that holds `batches`: `fit_many` of one."""
    return fit_many(
        [TrainingJob(network, run, method, options, backbone_lr_factor=backbone_lr_factor)],
        batches,
        teacher,
    )[0]


def fit_many(
    jobs: Sequence[TrainingJob], batches: Batches, teacher: nn.Module | None = None
) -> list[Trained]:
    """Train several networks side by side, on the same batches, by one teacher.

    The teacher looks at each batch once, for all who learn from it; apart from that no pupil
    knows of another, and on the CPU each ends with the same bits as trained by itself.

    A row of the history holds the generation, the stage, the epoch in it, its last learning rate,
    and the mean of every term of the loss. A method with a first stage trains that before
    ("warm_up", then "main"), each with an optimiser and a schedule of its own; one with several
    generations then begins again, with a fresh network and the trained one as its teacher.
    `snapshots` counts the passes of all of these, and changes no bit of what is trained. The
    teacher is only read: no gradient, no BatchNorm statistics. SGD with Nesterov momentum 0.9 and
    a one-cycle schedule (Smith 2018); in channels_last. Where `Run.precision` says so the networks
    run in bfloat16, weights, statistics and losses stay in float32 (Kalamkar et al. 2019,
    arXiv:1905.12322), and the teacher is looked at in the form of `models.folded`. Raises
    UsageError where a method does not fit the networks, and when a loss is no longer a number.
    """
    if teacher is not None:
        _frozen(teacher, batches.images.train.device)
    learners = [_Trainer(job, teacher, batches) for job in jobs]
    epochs = max(learner.epochs for learner in learners)
    learning = [learner.learn() for learner in learners]
    narrow: dict[nn.Module, nn.Module] = {}
    wishes: dict[int, _TeacherRequest] = {}
    trained: dict[int, Trained] = {}

    def teach(i: int, seen: _Seen | None) -> None:
        """Go on with one learner, up to its next wish or to its end."""
        try:
            wishes[i] = learning[i].send(seen)
        except StopIteration as done:
            wishes.pop(i, None)
            trained[i] = done.value

    for i in range(len(learners)):
        teach(i, None)
    bar = tqdm(range(epochs), "epochs", delay=2, mininterval=2, leave=False)
    for batch in chain.from_iterable(batches for _ in bar):
        seen = _seen(wishes, batch, narrow)
        for i, wish in list(wishes.items()):
            teach(i, seen[wish.key])
    return [trained[i] for i in range(len(learners))]


def pretrain(network: nn.Module, images: Images, run: Teacher) -> list[Row]:
    """Give a teacher what it knows before it sees its labels; one row per epoch, if it is trained.

    `run.weights` is "simclr": self-supervised on all images without their labels (Chen et al.
    2020, see `distill.SimCLR`); "imagenet": torchvision's; or a checkpoint's file, whose
    classifier begins anew where it is of other classes; or None: nothing. Raises UsageError for
    weights that do not fit.
    """
    if run.weights is None:
        return []
    if run.weights != "simclr":
        try:
            checkpoints.load(network, run.weights)
        except UsageError:  # of other classes, perhaps
            checkpoints.load(network, run.weights, new_head=True)
        return []
    rows = torch.arange(len(images.train))
    batches = Batches(images, rows, run.batch_size, run.seed, False, run.augmentations)
    epochs = replace(run, epochs=run.pretrain_epochs)
    history = fit(network, batches, epochs, method="simclr").history
    return [row | {"stage": "simclr"} for row in history]


class _TeacherRequest(NamedTuple):
    """What a learner wants for its next step."""

    teacher: nn.Module | None
    layers: tuple[str, ...]  # of the teacher
    unlabelled: bool
    precision: str

    @property
    def key(self) -> _Key:
        """Learners of equal key are served by one look of the teacher."""
        return id(self.teacher), self.unlabelled, self.precision


_Key = tuple[int, bool, str]


class _Seen(NamedTuple):
    batch: Batch
    told: Forward  # what the teacher says of it


@torch.no_grad()
def _seen(
    wishes: Mapping[int, _TeacherRequest], batch: Batch, narrow: dict[nn.Module, nn.Module]
) -> dict[_Key, _Seen]:
    """Serve all wishes for one batch: a teacher is asked once, for all the layers wanted.

    `narrow` keeps the copies of teachers that look in bfloat16.
    """
    batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
    served = {}
    for key in {wish.key: None for wish in wishes.values()}:
        alike = [wish for wish in wishes.values() if wish.key == key]
        teacher, shown = alike[0].teacher, batch if alike[0].unlabelled else _labelled(batch)
        layers = dict.fromkeys(layer for wish in alike for layer in wish.layers)
        told = distill.NO_TEACHER
        if teacher is not None:
            device, precision = batch.x.device, alike[0].precision
            if _is_narrow(device, precision):
                if teacher not in narrow:
                    narrow[teacher] = models.low_precision_copy(teacher, shown.x[:2])
                teacher = narrow[teacher]
            with _autocast(device, precision):
                told = models.observe(teacher, shown.x, layers)
        served[key] = _Seen(shown, told)
    return served


def _labelled(batch: Batch) -> Batch:
    """The labelled images of a batch alone."""
    n = len(batch.y)
    strong = None if batch.strong is None else batch.strong[:n]
    return Batch(batch.x[:n], batch.y, batch.rows[:n], strong)


_Lessons = Generator[_TeacherRequest, _Seen, list[Row]]


class _Trainer:
    """One pupil's training, step by step: it says what it wishes to see and is sent it."""

    def __init__(self, job: TrainingJob, teacher: nn.Module | None, batches: Batches):
        self.job, self.batches = job, batches
        self.device = batches.images.train.device
        self.network = job.network
        self.teacher = teacher if methods.needs_teacher(job.method) else None
        if self.teacher is not None:
            _check_sizes(job, self.teacher)
        self.loss = self._method()
        batches.strong = batches.strong or self.loss.facts.strong
        stages = sum(stage.epochs for stage in _stages(self.loss, job.run))
        self.epochs = self.loss.generations * stages
        self.passes = 0
        self.snapshots: dict[int, dict[str, np.ndarray]] = {}

    def learn(self) -> Generator[_TeacherRequest, _Seen | None, Trained]:
        history: list[Row] = []
        self._snapshot()
        for generation in range(1, self.loss.generations + 1):
            if generation > 1:
                fresh = models.reinitialised(self.network, self.job.run.seed + generation - 1)
                self.network, self.teacher = fresh, _frozen(self.network, self.device)
                self.loss = self._method()
            for stage in _stages(self.loss, self.job.run):
                rows = yield from self._train(stage)
                history += [{"generation": generation, **row} for row in rows]
            self.network = self.loss.finalize(self.network, self.teacher)
        return Trained(self.network, history, self.snapshots)

    def _snapshot(self) -> None:
        """Keep the weights as they are now, if they are wanted."""
        if self.passes in self.job.snapshots:
            self.snapshots[self.passes] = deepcopy(models.weights(self.network))

    def _train(self, stage: _Stage) -> _Lessons:
        """Train one stage with an optimiser and a schedule of its own; returns a row per epoch."""
        loss, run, steps = self.loss, self.job.run, len(self.batches)
        rows: list[Row] = []
        optimiser, schedule = self._optimiser(stage)
        teacher = self.teacher if stage.teacher else None
        unlabelled = self.job.unlabelled and loss.facts.unlabelled
        wish = _TeacherRequest(teacher, loss.layers, unlabelled, run.precision)
        for epoch in range(1, stage.epochs + 1):
            sums: dict[str, Tensor] = {}
            for _ in range(steps):
                batch, told = yield wish
                with _autocast(self.device, run.precision):
                    terms = stage.terms(self._shown(stage, batch), told, batch)
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(terms.values())).sum().backward()
                optimiser.step()
                schedule.step()
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + term.detach()
            means = {name: float(value) / steps for name, value in sums.items()}
            if not all(map(math.isfinite, means.values())):
                where = f"{self.job.method}: the loss is no number in epoch {epoch}"
                given = f"try less than learning_rate {run.learning_rate:g}"
                raise UsageError(f"{where} ({stage.name} stage); {given}")
            rate = float(schedule.get_last_lr()[0])
            rows.append({"stage": stage.name, "epoch": epoch, "learning_rate": rate, **means})
            self.passes += 1
            self._snapshot()
        return rows

    def _optimiser(self, stage: _Stage) -> tuple[torch.optim.SGD, OneCycleLR]:
        """An optimiser of the network and of the method's own parts, and its schedule."""
        run, factor = self.job.run, self.job.backbone_lr_factor
        head = [*models.part(self.network, "logits").parameters(), *self.loss.parameters()]
        body = [p for p in self.network.parameters() if all(p is not other for other in head)]
        groups: list[dict[str, Any]] = [{"params": head, "lr": stage.rate}]
        if factor == 0:
            self.network.eval()  # BatchNorm statistics stand still, too
        else:
            groups.append({"params": body, "lr": factor * stage.rate})
        how: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "fused": True}
        optimiser = torch.optim.SGD(groups, stage.rate, weight_decay=run.weight_decay, **how)
        total = max(2, stage.epochs * len(self.batches))
        rise = max(0.2, 1.5 / total)  # of the schedule: one step at least, or it divides by zero
        rates = [group["lr"] for group in groups]
        return optimiser, OneCycleLR(optimiser, rates, total_steps=total, pct_start=rise)

    def _shown(self, stage: _Stage, batch: Batch) -> Forward:
        """What the student says of a batch, if the stage looks at it."""
        if not stage.student:
            return distill.NO_TEACHER
        x = batch.x
        if self.loss.facts.strong and batch.strong is not None:
            x = batch.strong
        return models.observe(self.network, x, self.loss.layers)

    def _method(self) -> Method:
        """The method, sized from one look of both networks at two images."""
        job, images, seed = self.job, self.batches.images, self.job.run.seed
        x = normalised(images.train[:2], images.mean, images.std)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            shown = models.observe(self.network.eval(), x)
            told = distill.NO_TEACHER if self.teacher is None else models.observe(self.teacher, x)
        loss = distill.build(job.method, shown, told, seed=seed, **job.options)
        if loss.facts.untrained and self.teacher is not None:
            self.teacher = _frozen(models.reinitialised(self.teacher, seed), self.device)
        loss.setup(len(images.train) + len(images.unlabelled), self.network.train())
        return loss.to(self.device)


class _Stage(NamedTuple):
    name: str  # warm_up or main
    terms: Callable[[Forward, Forward, Batch], Any]
    epochs: int
    rate: float  # peak of its schedule
    student: bool = True  # is it shown the student?
    teacher: bool = True  # is it shown the teacher?


def _stages(loss: Method, run: Run) -> list[_Stage]:
    main = _Stage("main", loss, run.epochs, run.learning_rate, teacher=loss.main_teacher)
    if not loss.warm_up_epochs:
        return [main]
    rate = loss.warm_up_rate * run.learning_rate
    first = _Stage("warm_up", loss.warm_up, loss.warm_up_epochs, rate, loss.warm_up_student)
    return [first, main]


def _check_sizes(job: TrainingJob, teacher: nn.Module) -> None:
    """Raise UsageError where the method asks for a student of the teacher's architecture."""
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (job.network, teacher)]
    ours, theirs = models.count(job.network), models.count(teacher)
    method = methods.METHODS.get(job.method)
    if method and method.same_network and shapes[0] != shapes[1]:
        wanted = "of its teacher's own architecture"
    elif method and method.no_smaller and ours < theirs:
        wanted = "no smaller than its teacher"
    else:
        return
    raise UsageError(
        f"{job.method}: the student must be {wanted}; "
        f"student {ours:,} parameters, teacher {theirs:,}"
    )


def _frozen(teacher: nn.Module, device: torch.device) -> nn.Module:
    """A teacher: in evaluation mode, no gradients."""
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher.eval().requires_grad_(False)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=_is_narrow(device, precision))


def _is_narrow(device: torch.device, precision: str) -> bool:
    """Do the networks run in bfloat16?"""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


@torch.no_grad()
def predict(
    network: nn.Module, images: UInt8[Tensor, "n c h w"], mean: Level, std: Level
) -> Int[Tensor, " n"]:
    """The class that the network names for each image."""
    network.eval()
    parts = [network(normalised(x, mean, std)).argmax(1) for x in images.split(1024)]
    return torch.cat(parts).cpu()


def evaluate(network: nn.Module, images: Images) -> Score:
    """Test accuracy, on all test images, in evaluation mode."""
    predictions = predict(network, images.test, images.mean, images.std)
    right = predictions == images.test_labels.cpu()
    return Score(float(right.double().mean()), len(right), predictions)
