"""What does one look of the teacher for five students save, beside five trainings by themselves?

    python benchmarks/together.py

Both ways in turn, in one process and on one thread, median of five rounds; CPU seconds, so that
another process on the machine does not count. Prints the ratio and writes what the book shows.
"""

from statistics import median
from time import process_time
from typing import Any

import torch
from torch import nn

from kdlib import data, models, store, train
from kdlib.data import Batches, Images
from kdlib.runs import Student

METHODS = ("kd", "at", "sp", "fitnet", "pkt")
ROUNDS = 5


def noise(images: int = 128) -> Images:
    """Random images of CIFAR's size: what is timed does not depend on what they show."""
    x = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(images) % 10
    return Images("noise", x, y, x, y, tuple("0123456789"), shift=4, flip=True)


class Pair:
    """A teacher, and the students that learn from it: one epoch with every method."""

    def __init__(self, images: Images, teacher: str, run: Student):
        self.images, self.run = images, run
        self.teacher = self.network(teacher)
        self.labelled = data.budget(images.train_labels, run.labels_per_class, 0)

    def network(self, name: str, width: float = 1.0) -> nn.Module:
        """A network with fresh weights for these images."""
        channels = self.images.train.shape[1]
        return models.build(name, classes=10, channels=channels, width=width, seed=0)

    def pupils(self) -> list[train.Pupil]:
        """Students that know nothing yet."""
        return [
            train.Pupil(self.network(self.run.network, self.run.width), self.run, method)
            for method in METHODS
        ]

    def batches(self) -> Batches:
        """The batches of one run, from the start."""
        return Batches(self.images, self.labelled, self.run.batch_size, 0)

    def separate(self) -> float:
        """Seconds for one student after the other."""
        pupils, start = self.pupils(), process_time()
        for pupil in pupils:
            train.fit(
                pupil.network, self.batches(), self.run, method=pupil.method, teacher=self.teacher
            )
        return process_time() - start

    def together(self) -> float:
        """Seconds for all of them side by side."""
        pupils, start = self.pupils(), process_time()
        train.fit_many(pupils, self.batches(), self.teacher)
        return process_time() - start

    def measure(self) -> dict[str, Any]:
        """Both ways in turn, after one round that does not count."""
        rounds = [(self.separate(), self.together()) for _ in range(1 + ROUNDS)][1:]
        separate, together = (median(each) for each in zip(*rounds, strict=True))
        return {
            "students": len(METHODS),
            "separate_seconds": round(separate, 3),
            "together_seconds": round(together, 3),
            "saving": round(1 - together / separate, 3),
        }


def main() -> None:
    """Measure both pairs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = Student(network="resnet8", width=0.5, labels_per_class=2, epochs=1)
    cifar = Student(network="resnet20", width=1.0, labels_per_class="all", epochs=1)
    measured = {}
    for name, pair in (
        ("digits", Pair(data.load("digits"), "resnet20", digits)),
        ("resnet56-resnet20", Pair(noise(), "resnet56", cifar)),
    ):
        measured[name] = found = pair.measure()
        ratio = found["together_seconds"] / found["separate_seconds"]
        print(f"{name}: {ratio:.2f} of the time of one after the other; {found}", flush=True)
    store.save_benchmark("methods", "together", measured)


if __name__ == "__main__":
    main()
