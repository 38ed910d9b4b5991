"""The one training loop: a teacher and a student go through the same lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from kdlib import UsageError, distill, models
from kdlib.data import Batch, Batches, Images, normalised
from kdlib.distill import Method
from kdlib.models import Forward
from kdlib.runs import Run


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


def fit(
    network: nn.Module,
    batches: Batches,
    run: Run,
    *,
    method: str = "alone",
    teacher: nn.Module | None = None,
    **options: Any,
) -> list[dict[str, float | int | str]]:
    """Train `network` in place, on the device that holds `batches`; one row per epoch.

    A row holds the stage, the epoch in it, its last learning rate, and the mean of every term of
    the loss. A method with a first stage trains that before ("warm_up", then "main"), each with
    an optimiser and a schedule of its own. The teacher is only read: no gradient, no BatchNorm
    statistics. SGD with Nesterov momentum 0.9 and a one-cycle schedule (Smith 2018); on a GPU in
    bfloat16 autocast and channels_last. `options` are the method's own constants. Raises
    UsageError where the method does not fit the networks, and when the loss is no longer a number.
    """
    device = batches.images.train.device
    layout = _layout(device)
    network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    if teacher is not None:
        teacher.to(device, memory_format=layout)  # type: ignore[call-overload]
        teacher.eval().requires_grad_(False)
    loss = _method(method, network, teacher, batches, run.seed, options).to(device)
    history: list[dict[str, float | int | str]] = []
    for stage in _stages(loss, run):
        history += _train(stage, loss, network, teacher, batches=batches, run=run)
    return history


class _Stage(NamedTuple):
    name: str  # warm_up or main
    terms: Callable[[Forward, Forward, Batch], Any]
    epochs: int
    rate: float  # peak of its schedule
    student: bool = True  # is it shown the student?


def _stages(loss: Method, run: Run) -> list[_Stage]:
    main = _Stage("main", loss, run.epochs, run.learning_rate)
    if not loss.warm_up_epochs:
        return [main]
    rate = loss.warm_up_rate * run.learning_rate
    first = _Stage("warm_up", loss.warm_up, loss.warm_up_epochs, rate, loss.warm_up_student)
    return [first, main]


def _train(
    stage: _Stage,
    loss: Method,
    network: nn.Module,
    teacher: nn.Module | None,
    *,
    batches: Batches,
    run: Run,
) -> Iterator[dict[str, float | int | str]]:
    """Train one stage with an optimiser and a schedule of its own; yields a row per epoch."""
    device = batches.images.train.device
    trained = [*network.parameters(), *loss.parameters()]
    optimiser = torch.optim.SGD(
        trained, stage.rate, 0.9, weight_decay=run.weight_decay, nesterov=True
    )
    total = max(2, stage.epochs * len(batches))
    rise = max(0.2, 1.5 / total)  # of the schedule: one step at least, or it divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, stage.rate, total_steps=total, pct_start=rise
    )
    count = range(1, stage.epochs + 1)
    for epoch in tqdm(count, f"{stage.name} epochs", delay=2, mininterval=2, leave=False):
        sums: dict[str, Tensor] = {}
        for batch in batches:
            batch = batch._replace(x=batch.x.contiguous(memory_format=_layout(device)))
            with _autocast(device):
                terms = stage.terms(*_look(stage, loss, network, teacher, batch), batch)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
            schedule.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        row = {name: float(value) / len(batches) for name, value in sums.items()}
        if not all(map(math.isfinite, row.values())):
            where = f"epoch {epoch} ({stage.name} stage)"
            given = f"learning_rate {run.learning_rate:g}"
            raise UsageError(f"the loss is no number in {where}; try less than {given}")
        rate = float(schedule.get_last_lr()[0])
        yield {"stage": stage.name, "epoch": epoch, "learning_rate": rate, **row}


def _layout(device: torch.device) -> torch.memory_format:
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _look(
    stage: _Stage, loss: Method, network: nn.Module, teacher: nn.Module | None, batch: Batch
) -> tuple[Forward, Forward]:
    """What student and teacher say of a batch, and of them only whom the loss looks at."""
    shown = told = distill.NOBODY
    if teacher is not None:
        with torch.no_grad():
            told = models.observe(teacher, batch.x, loss.layers)
    if stage.student:
        shown = models.observe(network, batch.x, loss.layers)
    return shown, told


def _method(
    name: str,
    network: nn.Module,
    teacher: nn.Module | None,
    batches: Batches,
    seed: int,
    options: dict,
) -> Method:
    """The method, sized from one look of both networks at two images."""
    mean, std = batches.images.mean, batches.images.std
    x = normalised(batches.images.train[:2], mean, std)
    was_training = network.training
    with torch.no_grad():
        shown = models.observe(network.eval(), x)
        told = models.observe(teacher, x) if teacher is not None else distill.NOBODY
    network.train(was_training)
    loss = distill.build(name, shown, told, seed=seed, **options)
    loss.enrol(len(batches.images.train), network)
    return loss


@torch.no_grad()
def predict(
    network: nn.Module, images: UInt8[Tensor, "n c h w"], mean: float, std: float
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
