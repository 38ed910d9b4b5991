"""How far is an epoch of distillation from the field's standard loop, and from the limit?

    python benchmarks/epoch.py --device cpu

resnet56 teaches resnet20 by kd on images of CIFAR's size, 64 a batch. The standard loop: PIL images
through torchvision's transforms in two worker processes, a forward pass of the teacher for each
batch, loss and accuracy read after each step. The limit: forward, backward and step on tensors that
are ready. Ours runs in bfloat16; that it teaches no less is checked with students of the default
study, which has to be there (`make book`): trained again in bfloat16 they reach the accuracy that
they had.
"""

import sys
from dataclasses import replace
from statistics import mean, median

import torch
from pairs import Row, device, keep, pairs, ratios
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from kdlib import data, distill, models, store, train
from kdlib.data import Batches, Images
from kdlib.plan.runs import Student
from kdlib.vision import torchvision

BATCH = 64
RUN = Student(
    network="resnet20",
    width=1.0,
    labels_per_class="all",
    epochs=1,
    batch_size=BATCH,
    precision="bfloat16",
)
SEEDS = (0, 1, 2)
MARGIN = 0.01  # of test accuracy, the mean over the seeds


def noise(images: int) -> Images:
    """Random images of CIFAR's size: what is timed does not depend on what they show."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=chance)
    y = torch.arange(images) % 10
    return Images("noise", x, y, x[:64], y[:64], tuple("0123456789"), shift=4, flip=True)


def network(name: str) -> nn.Module:
    """A network with fresh weights."""
    return models.build(name, classes=10, channels=3, seed=0)


class Pictures(Dataset):
    """The same images as PIL pictures, augmented one by one."""

    def __init__(self, images: Images):
        self.x, self.y = images.train.permute(0, 2, 3, 1).numpy(), images.train_labels
        transforms = torchvision.transforms
        self.change = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((images.mean,) * 3, (images.std,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.change(Image.fromarray(self.x[i])), int(self.y[i])


class Standard:
    """The loop that the field's repositories share, with the same networks and batches."""

    def __init__(self, images: Images, device: torch.device):
        options = {"batch_size": BATCH, "shuffle": True, "num_workers": 2}
        pin = device.type == "cuda"
        self.loader = DataLoader(
            Pictures(images), **options, persistent_workers=True, pin_memory=pin
        )
        self.device = device
        self.teacher = network("resnet56").to(device).eval()

    def epoch(self) -> None:
        """Train a fresh student for one epoch."""
        student = network("resnet20").to(self.device).train()
        sgd = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
        losses, right = 0.0, 0.0
        for x, y in self.loader:
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            with torch.no_grad():
                targets = self.teacher(x)
            logits = student(x)
            soft = F.kl_div(
                F.log_softmax(logits / 4, 1), F.softmax(targets / 4, 1), reduction="batchmean"
            )
            loss = 0.1 * F.cross_entropy(logits, y) + 0.9 * 16 * soft
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses += loss.item()
            right += (logits.argmax(1) == y).float().mean().item()


class Ours:
    """The loop of kdlib, and what is left of it where everything but the networks is ready."""

    def __init__(self, images: Images, device: torch.device):
        self.images, self.device = images.to(device), device
        self.teacher = network("resnet56")
        self.labelled = torch.arange(len(images.train))
        self.epoch()  # brings the teacher into its place and layout
        self.low_precision_copy = models.low_precision_copy(
            self.teacher, self.images.train[:2].float()
        )
        self.ready = [
            (batch, batch.x.contiguous(memory_format=torch.channels_last))
            for batch in self.batches()
        ]

    def batches(self) -> Batches:
        """The batches of one run, from the start."""
        return Batches(self.images, self.labelled, BATCH, 0)

    def epoch(self, precision: str = RUN.precision) -> None:
        """Train a fresh student for one epoch."""
        run = replace(RUN, precision=precision)
        train.fit(network("resnet20"), self.batches(), run, method="kd", teacher=self.teacher)

    def limit(self) -> None:
        """The same arithmetic without data path, schedule or history."""
        student = network("resnet20").to(self.device, memory_format=torch.channels_last).train()
        example = models.Forward(torch.zeros(2, 10), {})
        kd = distill.build("kd", example, example)
        sgd = torch.optim.SGD(
            student.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
        )
        for batch, x in self.ready:
            with torch.autocast(self.device.type, torch.bfloat16):
                with torch.no_grad():
                    targets = models.Forward(self.low_precision_copy(x), {})
                terms = kd(models.Forward(student(x), {}), targets, batch)
            sgd.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            sgd.step()


def accuracies(where: torch.device) -> tuple[float, float]:
    """Of kd students of the default study: as they were trained, and trained again in bfloat16."""
    images = data.load("digits").to(where)
    before, after = [], []
    for seed in SEEDS:
        run = Student(seed=seed, labels_per_class=5, precision=RUN.precision)
        folder = replace(run, precision="auto").on("cuda" if where.type == "cuda" else "cpu").folder
        if not (folder / "run.json").is_file():
            sys.exit(f"no {folder}; first: make book")
        before.append(store.load_run(folder)["test_accuracy"])
        place = run.root / run.teacher
        teacher = models.restore(store.load_run(place), store.load_weights(place))
        student = models.build("resnet8", classes=10, channels=1, width=0.5, seed=seed)
        batches = Batches(images, data.budget(images.train_labels.cpu(), 5, seed), BATCH, seed)
        student = train.fit(student, batches, run, teacher=teacher, method="kd").network
        after.append(train.evaluate(student, images).accuracy)
    return mean(before), mean(after)


def main() -> None:
    """Measure both rows."""
    where = device(__doc__)
    images = noise(1344 if where.type == "cpu" else 12_800)
    scaled = f"{len(images.train):,} images stand for an epoch: time is in the batches"
    both = f"{torch.get_num_threads()} threads each" if where.type == "cpu" else "two workers"
    standard, ours = Standard(images, where), Ours(images, where)
    row = Row(
        "epoch",
        "one epoch of kd, resnet56 teaches resnet20, 32 x 32 pixels, batches of 64",
        "the field's standard loop in float32",
        2.0 if where.type == "cpu" else 5.0,
        scaled=scaled,
    )
    measured = pairs(standard.epoch, ours.epoch, where)
    few = noise(len(images.train) // 3)
    beside = Standard(few, where), Ours(few, where)
    full = pairs(beside[0].epoch, lambda: beside[1].epoch("float32"), where)
    before, after = accuracies(where)
    note = (
        f"ours in bfloat16, in float32 {median(ratios(row, full)):.2f}; {both}; "
        f"test accuracy of {len(SEEDS)} kd students of the default study {after:.3f} in bfloat16, "
        f"{before:.3f} in float32"
    )
    why = "the two networks' own arithmetic takes nearly all of our epoch: see the limit"
    keep(row, ratios(row, measured), where, why, note, fair=after >= before - MARGIN)
    row = Row(
        "step",
        "the same epoch",
        "the same forward, backward and step on ready tensors: the limit",
        1.05,
        at_most=True,
        scaled=scaled,
    )
    why = "batches, schedule and history take the rest"
    keep(row, ratios(row, pairs(ours.limit, ours.epoch, where)), where, why)


if __name__ == "__main__":
    main()
