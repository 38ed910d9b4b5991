"""How many times as long as the baseline's does a training by each method take?

    python benchmarks/cost.py

Every method by itself, as students of the study `methods` are trained but for a tenth of the
epochs (first stages likewise), in turn, on one thread, median of three rounds; CPU seconds, so
that another process on the machine does not count. Seconds in `runs` do not tell: students that are
trained side by side share them. Prints the ratios and writes what the book shows.
"""

from statistics import median
from time import process_time

import torch
from torch import nn

from kdlib import data, models, store, train
from kdlib.data import Batches, Images
from kdlib.plan import methods
from kdlib.plan.runs import Student

ROUNDS = 3
FIRST_STAGES = {method: {"warm_up_epochs": 1} for method in ("fsp", "ab", "ft")}  # of 10


def student_of(method: str) -> tuple[str, float]:
    """The network and width that the study trains by a method."""
    facts = methods.METHODS[method]
    if facts.same_network or facts.no_smaller:
        return "resnet20", 1.0
    return "resnet8", 1.0 if method == "fsp" else 0.5


def seconds(method: str, network: tuple[str, float], images: Images, teacher: nn.Module) -> float:
    """CPU seconds of one short training."""
    name, width = network
    run = Student(network=name, width=width, epochs=2)
    student = models.build(name, classes=10, channels=1, width=width, seed=0)
    batches = Batches(images, data.budget(images.train_labels, 2, 0), run.batch_size, 0)
    options = FIRST_STAGES.get(method, {})
    start = process_time()
    train.fit(student, batches, run, method=method, teacher=teacher, **options)
    return process_time() - start


def main() -> None:
    """Measure every method and, for each of their networks, the baseline."""
    torch.set_num_threads(1)
    images = data.load("digits")
    teacher = models.build("resnet20", classes=10, channels=1, seed=0)
    cells = [(method, student_of(method)) for method in methods.METHODS]
    baselines = [(methods.BASELINE, network) for _, network in cells]
    cells = list(dict.fromkeys(baselines + cells))
    seconds(*cells[0], images, teacher)  # the first training of a process starts more than itself
    rounds = [{c: seconds(*c, images, teacher) for c in cells} for _ in range(ROUNDS)]
    took = {cell: median(each[cell] for each in rounds) for cell in cells}
    cost = {
        method: round(took[method, network] / took[methods.BASELINE, network], 2)
        for method, network in cells
        if method != methods.BASELINE
    }
    for method, ratio in sorted(cost.items(), key=lambda pair: pair[1]):
        print(f"{method:14} {ratio:5.2f} times the baseline's")
    store.save_benchmark("methods", "cost", cost)


if __name__ == "__main__":
    main()
