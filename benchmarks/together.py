"""What does one look of the teacher for five students save, beside five trainings by themselves?

    python benchmarks/together.py --device cpu

One pair of networks as in the default study, one as on CIFAR; on one thread, as the pipeline
trains. Writes what the page of methods shows, too.
"""

from statistics import median
from typing import Any

import torch
from epoch import noise
from pairs import Row, device, keep, pairs, ratios
from torch import nn

from kdlib import data, models, store, train
from kdlib.data import Batches, Images
from kdlib.plan.runs import Student

METHODS = ("kd", "at", "sp", "fitnet", "pkt")


class Taught:
    """A teacher, and the students that learn from it: one epoch with every method."""

    def __init__(self, images: Images, teacher: str, run: Student):
        self.images, self.run = images, run
        self.teacher = self.network(teacher)
        self.labelled = data.budget(images.train_labels.cpu(), run.labels_per_class, 0)

    def network(self, name: str, width: float = 1.0) -> nn.Module:
        """A network with fresh weights for these images."""
        channels = self.images.train.shape[1]
        return models.build(name, classes=10, channels=channels, width=width, seed=0)

    def jobs(self) -> list[train.TrainingJob]:
        """Students that know nothing yet."""
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
            how: dict[str, Any] = {"method": job.method, "teacher": self.teacher}
            train.fit(job.network, self.batches(), self.run, **how)

    def together(self) -> None:
        """All of them side by side."""
        train.fit_many(self.jobs(), self.batches(), self.teacher)

    def share(self, where: torch.device) -> float:
        """What part of a training by itself the teacher is: the most that sharing can save."""
        batch = next(iter(self.batches())).x
        batch = batch.contiguous(memory_format=torch.channels_last)
        run = train.TrainingJob(self.jobs()[0].network, self.run, "kd")
        student, teacher = run.network.to(where).train(), self.teacher

        def look() -> None:
            with torch.no_grad():
                teacher(batch)

        def learn() -> None:
            student(batch).square().mean().backward()

        found = pairs(look, learn, where)
        looked, learnt = (median(each) for each in zip(*found, strict=True))
        return looked / (looked + learnt)


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
    shown = {}
    for name, work, images, run in kinds:
        taught = Taught(images.to(where), work.split()[0], run)
        row = Row(
            f"five-{name}",
            f"five students of one teacher: {work}",
            "five separate runs of our own loop",
            1.6,
            scaled=f"one epoch of {len(images.train):,} images stands for a training",
        )
        measured = pairs(taught.separate, taught.together, where)
        saved = 1 / (1 - taught.share(where) * (1 - 1 / len(METHODS)))
        why = f"the teacher's looks alone, saved for four of five, would give {saved:.2f}"
        keep(row, ratios(row, measured), where, why)
        separate, together = (median(each) for each in zip(*measured, strict=True))
        shown[name] = {
            "students": len(METHODS),
            "separate_seconds": round(separate, 3),
            "together_seconds": round(together, 3),
            "saving": round(1 - together / separate, 3),
        }
    if where.type == "cpu":
        store.save_benchmark("methods", "together", shown)


if __name__ == "__main__":
    main()
