"""The one training loop, for teachers and students alike.

For one student and one stage `fit` is this, to the bit:

    for batch in [*batches, *batches]:  # two epochs
        with torch.no_grad():
            theirs = models.observe(teacher, batch.x, method.layers)
        ours = models.observe(student, batch.x, method.layers)
        terms = method(ours, theirs, batch)  # {"labels": ..., "kd": ...}
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()  # SGD with Nesterov momentum
        schedule.step()  # one cycle over the steps of all epochs

What is more below: several students side by side, a first stage, generations, bfloat16.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from kdlib import UsageError, distill, models, one_of, states
from kdlib.data import Batch, Batches, Images, forward_size, normalised
from kdlib.distill import Method, Terms
from kdlib.models import Forward, checkpoints
from kdlib.plan import methods
from kdlib.plan.runs import CONSTANTS, Run, Student, Teacher


class Score(NamedTuple):
    """Accuracy of a trained network on test or training images."""

    accuracy: float  # in [0, 1]
    n: int  # images
    calibration_error: float  # in [0, 1]: how far confidence is from accuracy, see `calibration`
    confidence: float  # in [0, 1]: mean probability of the predicted class
    predictions: Int[Tensor, " n"]


def choose_device(device: str, threads: int) -> torch.device:
    """Choose the device: "auto" is a GPU where there is one.

    Also sets how many CPU threads torch may use: results are the same bits only for the same
    number. Raises UsageError for an unknown device or for cuda where there is none.
    """
    one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': torch finds no GPU; allowed: cpu or auto")
    torch.set_num_threads(threads)
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


Row = dict[str, float | int | str]  # of the history: one epoch


class TrainingJob(NamedTuple):
    """A network to be trained: how, and by what method."""

    network: nn.Module
    run: Run  # epochs, learning rate, weight decay, seed, precision
    method: str  # a key of plan.methods.METHODS, or several: kd+at
    options: Mapping[str, Any] = {}  # the method's own constants
    unlabelled: bool = True  # trained on the images without a label, too
    cached_teacher: bool = False  # its logits once for each image and its mirror image, not shifted
    head_epochs: int = 0  # of the classifier alone, before the run's epochs
    backbone_lr_factor: float = 1.0  # on all but the classifier; 0: frozen, also BatchNorm's means
    snapshots: Collection[int] = ()  # epochs after which its weights are stored, too; 0: before


class Trained(NamedTuple):
    """A network after its training, and its progress."""

    network: nn.Module
    history: list[Row]  # one row per epoch
    snapshots: dict[int, dict[str, np.ndarray]]  # its weights after some epochs


def build(run: Run, images: Images) -> nn.Module:
    """The network of a run, untrained, for these images: on the CPU, initialised by its seed.

    It normalises and enlarges them as the run says. Raises UsageError for what does not fit.
    """
    channels, side = images.train.shape[1], images.train.shape[-1]
    for option in run.network_options:
        if not isinstance(option, str) or option in inspect.signature(models.build).parameters:
            raise UsageError(f"network_options {option!r}; allowed: options of {run.network} alone")
    if run.normalise == "own":
        constants = models.own_constants(run.network)
    else:
        constants = CONSTANTS[run.normalise]
    return models.build(
        run.network,
        classes=len(images.classes),
        channels=channels,
        size=side,
        width=run.width,
        seed=run.initial_seed,
        preprocess=models.preprocess(images.mean, images.std, constants, channels, run.input_size),
        **run.network_options,
    )


def job(network: nn.Module, run: Run) -> TrainingJob:
    """How a run trains its network; a teacher's by the baseline."""
    if isinstance(run, Student):
        return TrainingJob(
            network,
            run,
            run.method,
            run.options,
            unlabelled=run.unlabelled,
            cached_teacher=run.cached_teacher,
            snapshots=run.snapshots,
        )
    if isinstance(run, Teacher):
        return TrainingJob(
            network,
            run,
            methods.BASELINE,
            head_epochs=run.head_epochs,
            backbone_lr_factor=run.backbone_lr_factor,
        )
    return TrainingJob(network, run, methods.BASELINE)


def fit(
    network: nn.Module,
    batches: Batches,
    run: Run,
    *,
    method: str | None = None,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    checkpoint: Checkpoint | None = None,
    **options: Any,
) -> Trained:
    """Train one network in place, on the device that holds `batches`: `fit_many` of one.

    Without `method` by the run's own method and options, of a run that has none as the baseline;
    `options` come before the run's. With `method` by that one and `options` alone.
    """
    one = job(network, run)._replace(snapshots=())
    if method is None:
        one = one._replace(options={**one.options, **options})
    else:
        one = one._replace(method=method, options=options)
    return fit_many([one], batches, teacher, checkpoint)[0]


@models.deterministic()
def fit_many(
    jobs: Sequence[TrainingJob],
    batches: Batches,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:
    """Train several networks side by side, on the same batches, with one teacher.

    Of a list of teachers each computes every batch, by its own normalisation and input size, and
    the mean of their probabilities counts as one teacher's (`distill.schemes.ensemble`), for
    methods that allow it.

    The teacher computes each batch once for all students that need it. Nothing else is shared: on
    the CPU each student ends with the same bits as trained by itself.

    A row of the history holds the generation, the stage, the epoch in it, the learning rate that
    the next step would have, and the mean of every term of the loss. A method with a first stage
    trains that before ("warm_up", then "main"), a teacher's classifier by itself between the two
    ("head", Kumar et al. 2022, arXiv:2202.10054), each with an optimiser and a schedule of its
    own. A method with several generations then starts again, with a newly initialised student and
    the trained one as its teacher. `snapshots` counts the epochs of all of these, and changes no
    bit of the training.

    The teacher is moved to the device, put into evaluation mode and no longer asks for gradients;
    its weights and BatchNorm statistics stay as they are. SGD with Nesterov momentum and a
    one-cycle schedule (Smith 2018), in channels_last: the learning rate rises to its peak and
    falls, the momentum goes from 0.95 to 0.85 and back. In bfloat16 (`Run.precision`) weights,
    statistics and losses stay in float32 (Kalamkar et al. 2019, arXiv:1905.12322), and the teacher
    is replaced by its `models.low_precision_copy`. With a `checkpoint` the training is kept every
    so often, and goes on from there with the same bits. Raises UsageError where a method does not
    fit the networks, and when a loss is no longer finite.
    """
    for each in _listed(teacher):
        _frozen(each, batches.images.train.device)
    trainers = [Trainer(job, teacher, batches) for job in jobs]
    batches.strong = batches.strong or any(trainer.loss.facts.strong for trainer in trainers)
    epochs = max(trainer.planned_epochs for trainer in trainers)
    teachers = Teachers(batches)
    begun, step = _resume(checkpoint, batches, trainers) if checkpoint else (0, 0)
    for epoch in tqdm(range(begun, epochs), "epochs", delay=2, mininterval=2, leave=False):
        active = [trainer for trainer in trainers if not trainer.finished]
        for batch in batches.rest(step):
            outputs = teachers.outputs(active, batch)
            for trainer in active:
                trainer.step(*outputs[trainer.request])
            step += 1
            if checkpoint and step < len(batches) and checkpoint.due():
                _keep(checkpoint, batches, trainers, epoch, step)
        for trainer in active:
            trainer.end_epoch()
        step = 0
        if checkpoint and checkpoint.due(last=epoch + 1 == epochs):
            _keep(checkpoint, batches, trainers, epoch + 1, step)
    return [Trained(trainer.network, trainer.history, trainer.snapshots) for trainer in trainers]


@runtime_checkable
class Checkpoint(Protocol):
    """Where a training is kept while it runs; `store.Checkpoint` is one."""

    def due(self, last: bool = False) -> bool:
        """Whether it is time to keep it; `last`: it is over."""

    def save(self, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep it in place of what was kept before."""

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """What was kept of this training; None where there is nothing."""


def _keep(
    checkpoint: Checkpoint, batches: Batches, trainers: list[Trainer], epoch: int, step: int
) -> None:
    """Keep a training after so many epochs and steps."""
    arrays: dict[str, np.ndarray] = {}
    state = {
        "epoch": epoch,
        "step": step,
        "generators": states.take_value(states.generators(), arrays),
        "loaders": [states.take(loader, arrays) for loader in batches.loaders],
        "trainers": [states.take(trainer, arrays, trainer.given) for trainer in trainers],
    }
    checkpoint.save(state, arrays)


def _resume(checkpoint: Checkpoint, batches: Batches, trainers: list[Trainer]) -> tuple[int, int]:
    """Bring trainers and batches to where they were kept. Returns the epochs and steps done."""
    kept = checkpoint.load()
    if kept is None:
        return 0, 0
    state, arrays = kept
    for loader, told in zip(batches.loaders, state["loaders"], strict=True):
        states.put(loader, told, arrays)
    for trainer, told in zip(trainers, state["trainers"], strict=True):
        trainer.skip(told.get("trained_epochs", 0))
        states.put(trainer, told, arrays)
    states.put_generators(states.put_value(state["generators"], arrays))
    return state["epoch"], state["step"]


def pretrain(
    network: nn.Module, images: Images, run: Teacher, checkpoint: Checkpoint | None = None
) -> list[Row]:
    """Initialise a teacher before it is trained on labels; one row per epoch, if it is trained.

    `run.weights` is "simclr": self-supervised on the training images without their labels, and on
    no other unlabelled ones (Chen et al. 2020, see `distill.pretraining`); "imagenet":
    torchvision's; or a checkpoint's file or address, whose classifier is initialised again where
    it is of other classes; or None: nothing. Raises UsageError for weights that do not fit.
    """
    if run.weights is None:
        return []
    if run.weights != "simclr":
        weights: str | Path = run.weights
        if file := run.weights_file:
            weights = checkpoints.fetch(run.weights, file)
        checkpoints.load(network, weights, new_head=None, names=run.weights_names)
        return []
    rows = torch.arange(len(images.train))
    batches = Batches(images, rows, run.batch_size, run.seed, False, run.augmentations)
    unsupervised = run.altered(epochs=run.pretrain_epochs, head_epochs=0, backbone_lr_factor=1.0)
    trained = fit(network, batches, unsupervised, method="simclr", checkpoint=checkpoint)
    return [row | {"stage": "simclr"} for row in trained.history]


class TeacherRequest(NamedTuple):
    """What a trainer needs from a teacher; equal requests share one forward pass per batch."""

    teacher: nn.Module | None  # None: nothing
    unlabelled: bool  # of all images of a batch, not of the labelled ones only
    precision: str  # float32 or bfloat16
    cached: bool  # its logits for the images as they are, not for each augmented view
    others: tuple[nn.Module, ...] = ()  # teachers beside it; the mean of all counts
    temperature: float = 1.0  # at which their probabilities are averaged


class Teachers:
    """What teachers output for the batches of one training, for all trainers that ask for it."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.copies: dict[nn.Module, nn.Module] = {}  # in low precision, by teacher
        self.caches: dict[TeacherRequest, Float[Tensor, "2 n k"]] = {}  # as they are; mirrored

    @torch.no_grad()
    def outputs(
        self, trainers: Sequence[Trainer], batch: Batch
    ) -> dict[TeacherRequest, tuple[Batch, Forward]]:
        """Compute, for every request, its images of the batch and its teacher's outputs for them.

        One forward pass per request, for the layers of all trainers that share it; none where its
        logits are cached.
        """
        batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
        layers: dict[TeacherRequest, list[str]] = {}
        for trainer in trainers:
            layers.setdefault(trainer.request, []).extend(trainer.loss.layers)
        outputs = {}
        for request in layers:
            images = batch if request.unlabelled else _labelled(batch)
            if request.teacher is None:
                forward = distill.NO_TEACHER
            elif request.cached:
                forward = self._lookup(request, images)
            else:
                forward = self._forward(request, images.x, dict.fromkeys(layers[request]))
            outputs[request] = images, forward
        return outputs

    def _forward(
        self, request: TeacherRequest, x: Float[Tensor, "b c h w"], layers: Iterable[str] = ()
    ) -> Forward:
        """The outputs of a request's teacher, or the logits that stand for all of its teachers."""
        assert request.teacher is not None
        first = self._observe(request.teacher, request.precision, x, layers)
        if not request.others:
            return first
        others = [self._observe(each, request.precision, x) for each in request.others]
        each = torch.stack([first.logits, *(other.logits for other in others)])
        return Forward(distill.schemes.ensemble(each, request.temperature), {})

    def _observe(
        self,
        teacher: nn.Module,
        precision: str,
        x: Float[Tensor, "b c h w"],
        layers: Iterable[str] = (),
    ) -> Forward:
        """The outputs of one teacher."""
        if precision == "bfloat16":
            if teacher not in self.copies:
                self.copies[teacher] = models.low_precision_copy(teacher, x[:2])
            teacher = self.copies[teacher]
        with _autocast(x.device, precision):
            return models.observe(teacher, x, layers)

    def _lookup(self, request: TeacherRequest, batch: Batch) -> Forward:
        """The cached logits for the images of a batch, computed when they are first needed."""
        if batch.mirrored is None:
            raise UsageError("augmentations of their own with cached_teacher; allowed: the set's")
        if request not in self.caches:
            self.caches[request] = self._logits(request)
        return Forward(self.caches[request][batch.mirrored.long(), batch.rows], {})

    def _logits(self, request: TeacherRequest) -> Float[Tensor, "2 n k"]:
        """The logits for each image that a request can be of, as it is and mirrored; else 0."""
        images, rows = self.batches.images, self.batches.labelled
        n = len(images.train) + len(images.unlabelled)
        if request.unlabelled and self.batches.unlabelled:
            rows = torch.arange(n)
        table, mean, std = torch.empty(0), images.mean, images.std
        chunks = rows.to(images.train.device).split(forward_size(images.train))
        for chunk in tqdm(chunks, "teacher", delay=2, mininterval=2, leave=False):
            x = normalised(images.take(chunk), mean, std)
            for i, view in enumerate([x, x.flip(3)] if images.flip else [x]):
                view = view.contiguous(memory_format=torch.channels_last)
                logits = self._forward(request, view).logits
                if not len(table):
                    table = logits.new_zeros(2, n, logits.shape[1])
                table[i, chunk] = logits
        return table


def _labelled(batch: Batch) -> Batch:
    """The labelled images of a batch alone."""
    n = len(batch.y)
    strong, mirrored = (None if x is None else x[:n] for x in (batch.strong, batch.mirrored))
    return Batch(batch.x[:n], batch.y, batch.rows[:n], strong, mirrored)


class Stage(NamedTuple):
    """One part of a training, with an optimiser and a schedule of its own."""

    name: str  # warm_up, head or main
    epochs: int
    learning_rate: float  # peak of its schedule
    backbone_lr_factor: float  # on all but the classifier; 0: frozen, also BatchNorm's means
    student: bool = True  # uses the student's outputs
    teacher: bool = True  # uses the teacher's outputs


def stages(loss: Method, job: TrainingJob) -> list[Stage]:
    """A method's first stage, if it has any; the classifier's, if the job has any; the main one."""
    run, factor, teacher = job.run, job.backbone_lr_factor, loss.main_teacher
    planned = [Stage("main", run.epochs, run.learning_rate, factor, teacher=teacher)]
    if job.head_epochs:
        head = Stage("head", job.head_epochs, run.learning_rate, 0.0, teacher=teacher)
        planned.insert(0, head)
    if loss.warm_up_epochs:
        rate, student = loss.warm_up_rate * run.learning_rate, loss.warm_up_student
        planned.insert(0, Stage("warm_up", loss.warm_up_epochs, rate, factor, student))
    return planned


class Trainer:
    """The training of one job, step by step: generations of stages, stages of epochs."""

    generation = 1
    epoch = 0  # of this stage, the last one that is over
    trained_epochs = 0  # of all stages and generations
    finished = False
    stage: Stage
    later: list[Stage]  # the stages of this generation that follow
    request: TeacherRequest  # for each batch of this stage
    sums: dict[str, Tensor]  # of each term of the loss, over the steps of this epoch

    def __init__(
        self,
        job: TrainingJob,
        teacher: nn.Module | Sequence[nn.Module] | None,
        batches: Batches,
    ):
        self.job, self.images, self.steps = job, batches.images, len(batches)
        self.device = batches.images.train.device
        self.precision = job.run.on("cuda" if self.device.type == "cuda" else "cpu").precision
        self.network = job.network
        teachers = _listed(teacher) if methods.needs_teacher(job.method) else []
        self.teacher = teachers[0] if teachers else None
        self.others = tuple(teachers[1:])
        self.history: list[Row] = []
        self.frozen: list[nn.Parameter] = []
        self.snapshots: dict[int, dict[str, np.ndarray]] = {}
        self.loss = self._method()
        planned = stages(self.loss, job)
        self.planned_epochs = self.loss.generations * sum(stage.epochs for stage in planned)
        self._snapshot()
        self._start(planned)
        self._advance()

    def step(self, batch: Batch, teacher: Forward) -> None:
        """Take one step of the optimiser, on one batch and the teacher's outputs for it."""
        with _autocast(self.device, self.precision):
            terms = self._terms(batch, teacher)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimiser.step()
        self.schedule.step()
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0) + term.detach()

    def end_epoch(self) -> None:
        """Write the epoch into the history; start the next stage or generation where it is time.

        Raises UsageError where a term of the loss is not finite.
        """
        self.epoch += 1
        self.trained_epochs += 1
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise UsageError(
                f"{self.job.method}: the loss is not finite in epoch {self.epoch} "
                f"({self.stage.name} stage); "
                f"try less than learning_rate {self.job.run.learning_rate:g}"
            )
        row: Row = {
            "generation": self.generation,
            "stage": self.stage.name,
            "epoch": self.epoch,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
        }
        self.history.append({**row, **means})
        self.sums = {}
        self._snapshot()
        self._advance()

    @property
    def given(self) -> tuple[str, ...]:
        """What no step changes: a teacher that was trained before."""
        return ("teacher",) if self.generation == 1 else ()

    def skip(self, epochs: int) -> None:
        """Start the stage or generation that comes after so many epochs, without training."""
        for _ in range(epochs):
            self.epoch += 1
            self.trained_epochs += 1
            self._advance()

    def _advance(self) -> None:
        """Start the next stage after the last epoch of one, or the next generation, or finish."""
        while self.epoch == self.stage.epochs and not self.finished:
            if self.later:
                self._start(self.later)
                continue
            trained = self.loss.finalize(self.network, self.teacher)
            if self.generation == self.loss.generations:
                self._thaw()
                self.network, self.finished = trained, True
            else:
                self._start_generation(teacher=trained)

    def _start_generation(self, teacher: nn.Module) -> None:
        """Train a newly initialised student, with the last one as its teacher."""
        self.generation += 1
        self.network = models.reinitialise(teacher, self.job.run.seed + self.generation - 1)
        self.teacher = _frozen(teacher, self.device)
        self.loss = self._method()
        self._start(stages(self.loss, self.job))

    def _start(self, planned: list[Stage]) -> None:
        """Start the first of these stages."""
        self.stage, *self.later = planned
        self.epoch, self.sums = 0, {}
        self.optimiser, self.schedule = self._optimiser()
        self.request = TeacherRequest(
            self.teacher if self.stage.teacher else None,
            self.job.unlabelled and self.loss.facts.unlabelled,
            self.precision,
            self.job.cached_teacher,
            self.others,
            self.loss.temperature if self.others else 1.0,
        )
        if self.job.cached_teacher and self.teacher is not None and self.loss.layers:
            raise UsageError(
                f"method {self.job.method!r} with cached_teacher; allowed: those that need no "
                "layer of the teacher but its logits"
            )

    def _snapshot(self) -> None:
        """Store the weights as they are now, if the job asks for it."""
        if self.trained_epochs in self.job.snapshots:
            self.snapshots[self.trained_epochs] = deepcopy(models.weights(self.network))

    def _terms(self, batch: Batch, teacher: Forward) -> Terms:
        """The terms of the loss on one batch, in this stage."""
        loss, student = self.loss, distill.NO_TEACHER
        if self.stage.student:
            x = batch.x
            if loss.facts.strong and batch.strong is not None:
                x = batch.strong
            student = models.observe(self.network, x, loss.layers)
        if self.stage.name == "warm_up":
            return loss.warm_up(student, teacher, batch)
        return loss(student, teacher, batch)

    def _optimiser(self) -> tuple[torch.optim.SGD, OneCycleLR]:
        """An optimiser of the network and of the method's own parts, and its schedule."""
        run, factor, rate = self.job.run, self.stage.backbone_lr_factor, self.stage.learning_rate
        head = [*models.part(self.network, "logits").parameters(), *self.loss.parameters()]
        backbone = [p for p in self.network.parameters() if all(p is not other for other in head)]
        groups: list[dict[str, Any]] = [{"params": head, "lr": rate}]
        self._thaw()
        self.network.train(factor > 0)  # BatchNorm statistics are frozen, too
        if factor == 0:
            self.frozen = [p for p in backbone if p.requires_grad]
            for parameter in self.frozen:
                parameter.requires_grad_(False)
        else:
            groups.append({"params": backbone, "lr": factor * rate})
        optimiser = torch.optim.SGD(
            groups, rate, weight_decay=run.weight_decay, momentum=0.9, nesterov=True, fused=True
        )  # the schedule sets the momentum, too: from 0.95 to 0.85 and back
        total = max(2, self.stage.epochs * self.steps)
        rise = max(0.2, 1.5 / total)  # of the schedule: one step at least, or it divides by zero
        rates = [group["lr"] for group in groups]
        return optimiser, OneCycleLR(optimiser, rates, total_steps=total, pct_start=rise)

    def _thaw(self) -> None:
        """Let what a stage froze be trained again."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []

    def _method(self) -> Method:
        """The method of this job; its teacher initialised again where the method asks for that."""
        job, images, seed = self.job, self.images, self.job.run.seed
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        loss = method_of(job, self.teacher, images, self.others)
        if loss.facts.untrained and self.teacher is not None:
            self.teacher = _frozen(models.reinitialise(self.teacher, seed), self.device)
        loss.setup(len(images.train) + len(images.unlabelled), self.network.train())
        return loss.to(self.device)


def method_of(
    job: TrainingJob,
    teacher: nn.Module | None,
    images: Images,
    others: Sequence[nn.Module] = (),
) -> Method:
    """Build a job's method, sized by one forward pass of both networks on two images.

    `others` are teachers beside the first. All networks are on the images' device, and in
    evaluation mode afterwards. Raises UsageError where the method does not fit the networks or
    does not allow several teachers, and for options that it does not have.
    """
    if others:
        methods.check_several(job.method)
    if teacher is not None:
        _check_sizes(job, teacher)
    x = normalised(images.train[:2], images.mean, images.std)
    with torch.no_grad():
        ours, theirs = models.observe(job.network.eval(), x), distill.NO_TEACHER
        if teacher is not None:
            theirs = models.observe(teacher.eval(), x)
        for other in others:
            _check_classes(theirs.logits, other.eval()(x))
    return distill.build(job.method, ours, theirs, seed=job.run.seed, **job.options)


def _check_sizes(job: TrainingJob, teacher: nn.Module) -> None:
    """Raise UsageError where the method asks for another size of student."""
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (job.network, teacher)]
    ours, theirs = models.count(job.network), models.count(teacher)
    for facts in methods.parse(job.method):
        if facts.same_network and shapes[0] != shapes[1]:
            allowed = "of its teacher's own architecture"
        elif facts.no_smaller and ours < theirs:
            allowed = "no smaller than its teacher"
        else:
            continue
        raise UsageError(
            f"{job.method}: the student must be {allowed}; "
            f"student {ours:,} parameters, teacher {theirs:,}"
        )


def _check_classes(first: Tensor, other: Tensor) -> None:
    """Raise UsageError unless two teachers have the same number of classes."""
    if first.shape != other.shape:
        raise UsageError(
            f"teachers of {first.shape[1]} and {other.shape[1]} classes; "
            "allowed: several of as many classes"
        )


def _listed(teacher: nn.Module | Sequence[nn.Module] | None) -> list[nn.Module]:
    """The teachers, as a list."""
    if teacher is None:
        return []
    return [teacher] if isinstance(teacher, nn.Module) else list(teacher)


def _frozen(teacher: nn.Module, device: torch.device) -> nn.Module:
    """The same network in evaluation mode, on the device, without gradients."""
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher.eval().requires_grad_(False)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
@models.deterministic()
def predict(
    network: nn.Module, images: UInt8[Tensor, "n c h w"], mean: float, std: float
) -> Float[Tensor, "n k"]:
    """The logits of each image, in evaluation mode, on the CPU."""
    network.eval()
    batches = images.split(forward_size(images))
    return torch.cat([network(normalised(x, mean, std)).float().cpu() for x in batches])


def evaluate(network: nn.Module, images: Images, split: str = "test") -> Score:
    """Accuracy, calibration and confidence on all "test" or "train" images, in evaluation mode.

    Training images count with their true labels, also those that training hides, and as they are:
    not shifted, not flipped. Raises UsageError for another split.
    """
    one_of("split", split, ("test", "train"))
    on, labels = (
        (images.test, images.test_labels)
        if split == "test"
        else (images.train, images.train_labels)
    )
    logits, labels = predict(network, on, images.mean, images.std), labels.cpu()
    confidence, predictions = logits.double().softmax(1).max(1)
    accuracy = float((predictions == labels).double().mean())
    error = calibration(logits, labels)
    return Score(accuracy, len(labels), error, float(confidence.mean()), predictions)


def calibration(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3), in [0, 1].

    Images are sorted into bins of equal width by the probability of the predicted class; the error
    is the mean, over images, of the distance between accuracy and mean probability of their bin.
    """
    confidence, predictions = logits.double().softmax(1).max(1)
    gap = (predictions == labels).double() - confidence
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return float(
        torch.zeros(bins, dtype=torch.double).index_add(0, index, gap).abs().sum() / len(gap)
    )
