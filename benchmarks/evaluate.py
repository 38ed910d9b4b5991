"""How much faster is evaluation in batches whose maps the allocator can use again?

    taskset -c 0 python benchmarks/evaluate.py --device cpu

Images of CIFAR's size through resnet20 and resnet56, on one thread. kdlib chooses batches by their
largest maps; the other way takes 1,024 images at a time, whose maps of 64 MB the allocator gives
back to the system, and asks for again, at every layer. Processor time counts, of the program and of
the system for it: on one thread another process on the machine then does not.
"""

from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from statistics import median

import torch
from epoch import network, noise
from pairs import Row, device, keep, pairs, ratios
from torch import nn

from kdlib import train
from kdlib.data import Images, forward_size, normalised

BATCH = 1024
IMAGES = 1024  # one batch of the other way
LIMIT = 5.0  # percent of the time of the processor that the system may take


class Usage:
    """The processor time of a call, each time that it is made: its own, and the system's for it."""

    def __init__(self, call: Callable[[], object]):
        self.call = call
        self.seconds: list[float] = []  # of processor time
        self.percent: list[float] = []  # of them, spent by the system
        self.faults: list[int] = []  # pages that the system had to provide

    def __call__(self) -> None:
        """Make the call, and note what it took."""
        before = getrusage(RUSAGE_SELF)
        self.call()
        after = getrusage(RUSAGE_SELF)
        system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
        self.seconds.append(system + user)
        self.percent.append(100 * system / (system + user))
        self.faults.append(after.ru_minflt - before.ru_minflt)

    def __str__(self) -> str:
        return f"{median(self.percent[1:]):.1f} % and {median(self.faults[1:]):,} page faults"


@torch.no_grad()
def in_large_batches(net: nn.Module, images: Images) -> torch.Tensor:
    """The logits of all images, 1,024 at a time."""
    batches = images.train.split(BATCH)
    return torch.cat([net(normalised(x, images.mean, images.std)).cpu() for x in batches])


def main() -> None:
    """Measure a row for each network."""
    where = device(__doc__)
    torch.set_num_threads(1)
    images = noise(IMAGES).to(where)
    for name in ("resnet20", "resnet56"):
        net = network(name).to(where).eval()
        scale = images.mean, images.std
        large = Usage(lambda: in_large_batches(net, images))  # noqa: B023 - called in this turn
        ours = Usage(lambda: train.predict(net, images.train, *scale))  # noqa: B023
        row = Row(
            f"evaluate-{name}",
            f"evaluation of images of 32 x 32 pixels by {name}",
            f"the same in batches of {BATCH:,}",
            2.5,
            scaled=f"{IMAGES:,} images stand for a test set: time is in the batches",
        )
        walls = pairs(large, ours, where)
        times = list(zip(large.seconds[1:], ours.seconds[1:], strict=True))
        measured = times if where.type == "cpu" else walls
        note = (
            f"batches of {forward_size(images.train)}; the system takes {ours} of ours, "
            f"{large} of the other way; one thread"
        )
        why = "no more can be saved than the system takes of the other way"
        within = where.type == "cuda" or median(ours.percent[1:]) < LIMIT
        keep(row, ratios(row, measured), where, why, note, fair=within)


if __name__ == "__main__":
    main()
