"""What does one forward pass of the teacher for five students save, beside five trainings?

    python benchmarks/together.py --device cpu

One pair of networks as in the default study, one as on CIFAR; on one thread, as the pipeline
trains. Writes what the page of methods shows, too.
"""

from statistics import median

import torch
from epoch import noise
from pairs import Row, device, keep, pairs, ratios
from torch import nn

from kdlib import data, models, store, train
from kdlib.data import Batches, Images
from kdlib.plan.runs import Student

METHODS = ("kd", "at", "sp", "fitnet", "pkt")


class Students:
    """A teacher and its students: one epoch with every method."""

    def __init__(self, images: Images, teacher: str, run: Student):
        self.images, self.run = images, run
        self.teacher = self.network(teacher)
        self.labelled = data.budget(images.train_labels.cpu(), run.labels_per_class, 0)

    def network(self, name: str, width: float = 1.0) -> nn.Module:
        """A network with its initial weights, for these images."""
        channels = self.images.train.shape[1]
        return models.build(name, classes=10, channels=channels, width=width, seed=0)

    def jobs(self) -> list[train.TrainingJob]:
        """Students with their initial weights."""
        return [
            train.TrainingJob(self.network(self.run.network, self.run.width), self.run, method)
            for method in METHODS
        ]

    def batches(self) -> Batches:
        """The batches of one run, from the start."""
        return Batches(self.images, self.labelled, self.run.batch_size, 0)

    def separate(self) -> None:
        """One student after the other."""
        for job in self.jobs():
            train.fit_many([job], self.batches(), self.teacher)

    def together(self) -> None:
        """All of them side by side."""
        train.fit_many(self.jobs(), self.batches(), self.teacher)

    def share(self, where: torch.device) -> float:
        """The teacher's share of one training: the most that sharing can save."""
        batch = next(iter(self.batches())).x
        batch = batch.contiguous(memory_format=torch.channels_last)
        student = self.network(self.run.network, self.run.width).to(where).train()

        def forward() -> None:
            with torch.no_grad():
                self.teacher(batch)

        def step() -> None:
            student(batch).square().mean().backward()

        forwards, steps = (median(each) for each in zip(*pairs(forward, step, where), strict=True))
        return forwards / (forwards + steps)


def main() -> None:
    """Measure both pairs of networks."""
    where = device(__doc__)
    torch.set_num_threads(1)
    digits = Student(network="resnet8", width=0.5, labels_per_class=2, epochs=1)
    cifar = Student(network="resnet20", width=1.0, labels_per_class="all", epochs=1)
    kinds = (
        (
            "digits",
            "resnet20 teaches resnet8 of half its width, digits",
            data.load("digits"),
            digits,
        ),
        ("resnet56-resnet20", "resnet56 teaches resnet20, 32 x 32 pixels", noise(384), cifar),
    )
    savings = {}
    for name, work, images, run in kinds:
        students = Students(images.to(where), work.split()[0], run)
        row = Row(
            f"five-{name}",
            f"five students of one teacher: {work}",
            "five separate runs of our own loop",
            1.6,
            scaled=f"one epoch of {len(images.train):,} images stands for a training",
        )
        measured = pairs(students.separate, students.together, where)
        saved = 1 / (1 - students.share(where) * (1 - 1 / len(METHODS)))
        why = f"the teacher's forward passes, saved for four of five, would give {saved:.2f}"
        keep(row, ratios(row, measured), where, why)
        separate, together = (median(each) for each in zip(*measured, strict=True))
        savings[name] = {
            "students": len(METHODS),
            "separate_seconds": round(separate, 3),
            "together_seconds": round(together, 3),
            "saving": round(1 - together / separate, 3),
        }
    if where.type == "cpu":
        store.save_benchmark("methods", "together", savings)


if __name__ == "__main__":
    main()
