"""Two small students train in the page: from hard labels, and with a teacher's soft labels."""

from __future__ import annotations

import json
import warnings
from typing import Any, NamedTuple

import anywidget
import numpy as np
import traitlets
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from kdlib import UsageError, one_of
from kdlib.report import charts, explorer

TRAIN, TEST = 1000, 500  # images in the page, of scikit-learn's 1,797 digits
LEVELS = 15  # of grey, so that two pixels fit a byte; scikit-learn has 16
STEP = 1 / 8  # between the values that a teacher's logit can have: one signed byte each
TEACHERS = {"good": 100, "middling": 5, "poor": 1}  # labels of each class that it learnt from
HIDDEN = 64  # units of a teacher's hidden layer
CHOICES: dict[str, tuple[Any, ...]] = {  # of each control
    "labels": ("1", "2", "5", "10", "all"),
    "temperature": (1, 2, 4, 8),
    "weight": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    "width": (8, 16, 32),
    "teacher": tuple(TEACHERS),
    "dark": ("kept", "dropped", "shuffled"),
    "seed": tuple(range(20)),
}
STEPS = 1000  # of gradient descent, from the first weights to the end


class Digits(NamedTuple):
    """What the page trains on: the training images first, then the test images."""

    images: np.ndarray  # (TRAIN + TEST, 64) uint8, 0 to LEVELS
    labels: np.ndarray  # (TRAIN + TEST,) uint8
    logits: dict[str, np.ndarray]  # teacher -> (TRAIN, 10) int8, in units of STEP
    accuracy: dict[str, float]  # teacher -> test accuracy


def digits() -> Digits:
    """Take images from scikit-learn's digits and train the three teachers on them: two seconds.

    A teacher is a network of one hidden layer; the three differ only in how many labelled images
    of each class they learnt from. Nothing depends on the machine but for rounding.
    """
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.target))[: TRAIN + TEST]
    images = np.minimum(source.data[order], LEVELS).astype(np.uint8)
    labels = source.target[order].astype(np.uint8)
    logits, accuracy = {}, {}
    for name, count in TEACHERS.items():
        known = [np.flatnonzero(labels[:TRAIN] == c)[:count] for c in range(10)]
        chosen = np.concatenate(known)
        teacher = MLPClassifier(
            HIDDEN,
            alpha=0.1,
            learning_rate_init=0.003,
            batch_size=min(64, len(chosen)),
            max_iter=max(60, 2000 // len(chosen)),
            n_iter_no_change=1000,
            random_state=0,
        )
        with warnings.catch_warnings():  # it stops after so many epochs, as it should
            warnings.simplefilter("ignore", ConvergenceWarning)
            teacher.fit(images[chosen] / LEVELS, labels[chosen])
        outputs = np.log(teacher.predict_proba(images / LEVELS).clip(1e-12))
        outputs -= outputs.mean(axis=1, keepdims=True)
        accuracy[name] = float((outputs[TRAIN:].argmax(axis=1) == labels[TRAIN:]).mean())
        logits[name] = np.round(outputs[:TRAIN] / STEP).clip(-127, 127).astype(np.int8)
    return Digits(images, labels, logits, accuracy)


def _program() -> str:
    """Join the scripts into one module, as anywidget wants it; the worker's is a string in it."""
    folder = explorer.STATIC / "inpage"
    trainer = "\n".join((folder / name).read_text("utf-8") for name in ("network.js", "worker.js"))
    constants = {"COLOURS": charts.CLASSES, "TRAINER": trainer}
    lines = [f"const {name} = {json.dumps(value)};\n" for name, value in constants.items()]
    document = (explorer.STATIC / "explorer" / "document.js").read_text("utf-8")
    return "".join(lines) + document + (folder / "inpage.js").read_text("utf-8")


def _style() -> str:
    """Join the explorer's style and what this figure adds."""
    names = ("explorer/explorer.css", "inpage/inpage.css")
    return "\n".join((explorer.STATIC / name).read_text("utf-8") for name in names)


class _RefusedError(UsageError, traitlets.TraitError):
    """A UsageError that traitlets understands: it takes the old value back."""


class InPage(anywidget.AnyWidget):
    """Two students that train in the page; its traits are what the reader can set.

    Any change of a setting begins again from the first weights. `show` makes one with its data.
    """

    _esm = _program()
    _css = _style()

    labels = traitlets.Unicode("all", help="labelled images of each class").tag(sync=True)
    teacher = traitlets.Unicode("good", help="which of the three teachers").tag(sync=True)
    dark = traitlets.Unicode("kept", help="probabilities of the wrong classes").tag(sync=True)
    temperature = traitlets.Int(4, help="of the teacher's term").tag(sync=True)
    weight = traitlets.Float(0.9, help="of the teacher's term; the rest is the label's").tag(
        sync=True
    )
    width = traitlets.Int(16, help="units in a student's hidden layer").tag(sync=True)
    seed = traitlets.Int(0, help="of first weights, labelled images and batches").tag(sync=True)
    playing = traitlets.Bool(False, help="whether the students are training").tag(sync=True)

    meta = traitlets.Dict().tag(sync=True)
    images = traitlets.Bytes().tag(sync=True)  # two pixels in a byte, [image][32]
    classes = traitlets.Bytes().tag(sync=True)  # uint8 [image]
    logits = traitlets.Bytes().tag(sync=True)  # int8 [teacher][training image][class]

    @traitlets.validate(*CHOICES)
    def _check(self, proposal: dict[str, Any]) -> Any:
        trait, value = proposal["trait"].name, proposal["value"]
        try:
            one_of(trait, value, CHOICES[trait])
        except UsageError as problem:
            raise _RefusedError(str(problem)) from None
        return value


def show(**settings: Any) -> InPage:
    """Show two students that train in the page, with the three teachers trained now.

    `settings` are the traits of `InPage` by name: labels="all", teacher="poor", dark="shuffled".
    Raises UsageError for an unknown setting or a value that it cannot have.

    >>> view = show(labels="5", temperature=2)
    >>> view.teacher
    'good'
    """
    for name in settings:
        one_of("setting", name, [*CHOICES, "playing"])
    source = digits()
    teachers = [{"key": key, "accuracy": value} for key, value in source.accuracy.items()]
    pixels = source.images
    return InPage(
        images=(pixels[:, ::2] << 4 | pixels[:, 1::2]).tobytes(),
        classes=source.labels.tobytes(),
        logits=np.concatenate(list(source.logits.values())).tobytes(),
        meta={
            "train": TRAIN,
            "step": STEP,
            "levels": LEVELS,
            "steps": STEPS,
            "choices": CHOICES,
            "teachers": teachers,
            "share": [*CHOICES, "playing"],
        },
        **settings,
    )
