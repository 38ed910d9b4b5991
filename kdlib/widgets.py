"""The explorer: two networks side by side, layer by layer, with or without a kernel."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from kdlib import UsageError, charts, metrics, one_of
from kdlib.store import Results

HERE = Path(__file__).parent
MISSING = -32768  # the int16 that says "no coordinate here"; explorer.js knows it, too
UNKNOWN = 255  # the byte that says "error not measured"; so does it this
SHADES = ("class", "error")  # what a dot's colour can mean: its class, or its lost neighbours
SIDE = 48  # largest thumbnail, in pixels
KINDS = ("teacher", "alone")  # of networks, beside "control" and "distilled"
COLUMNS = 40  # thumbnails in a row of the sprite


class _RefusedError(UsageError, traitlets.TraitError):
    """A UsageError that traitlets understands: it takes the old value back."""


class Explorer(anywidget.AnyWidget):
    """Two networks side by side, one dot per image, any layer; selections link by image.

    The traits below hold the whole view and follow the reader's hand: read them, set them,
    observe them. `explorer` makes one from results.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"

    left = traitlets.Unicode(help="run on the left").tag(sync=True)
    right = traitlets.Unicode(help="run on the right").tag(sync=True)
    layer = traitlets.Unicode(help="layer both maps show").tag(sync=True)
    embedding = traitlets.Unicode(help="how a layer became a map").tag(sync=True)
    measure = traitlets.Unicode(help="measure of the curves").tag(sync=True)
    shade = traitlets.Unicode("class", help="what colours mean: class or error").tag(sync=True)
    selected = traitlets.List(traitlets.Int(), help="numbers of images").tag(sync=True)

    meta = traitlets.Dict().tag(sync=True)  # names, curves, faithfulness: see _meta
    coordinates = traitlets.Bytes().tag(sync=True)  # int16 [network][embedding][layer][image][2]
    errors = traitlets.Bytes().tag(sync=True)  # uint8 [network][embedding][layer][image]: 254 is 1
    labels = traitlets.Bytes().tag(sync=True)  # int16 [image]
    predictions = traitlets.Bytes().tag(sync=True)  # int16 [network][image]; -1: not known
    sprite = traitlets.Bytes().tag(sync=True)  # WebP, COLUMNS images in a row

    @traitlets.validate("left", "right", "layer", "embedding", "measure", "shade")
    def _known(self, proposal: dict[str, Any]) -> str:
        trait = proposal["trait"].name
        what = {"left": "left network", "right": "right network"}.get(trait, trait)
        _one_of(what, proposal["value"], self._allowed(trait))
        return proposal["value"]

    @traitlets.validate("selected")
    def _shown(self, proposal: dict[str, Any]) -> list[int]:
        n = self.meta["n"]
        wrong = [i for i in proposal["value"] if not 0 <= i < n]
        if wrong:
            raise _RefusedError(f"no image {wrong[0]} among the selected; one of: 0 to {n - 1}")
        return proposal["value"]

    def _allowed(self, trait: str) -> list[str]:
        if trait in ("left", "right"):
            return [network["run"] for network in self.meta["networks"]]
        if trait == "measure":
            return [measure["key"] for measure in self.meta["measures"]]
        return self.meta[f"{trait}s"]


def explorer(
    results: Results,
    *,
    left: str | None = None,
    right: str | None = None,
    embedding: str | None = None,
    layer: str | None = None,
    measure: str = "knn",
    **view: Any,
) -> Explorer:
    """Show two networks side by side; by default one trained alone and the same one distilled.

    left and right are run ids with maps in `results`; by default the student trained alone with
    the fewest labels, and the `kd` student of the same labels and seed. `view` takes the remaining
    traits of the view, selected=[image numbers] and shade="error".

    Raises UsageError for a name the results do not hold, and when they hold no maps at all.

    >>> view = explorer(store.load("book/results/quick"), layer="block2")
    >>> view.layer = "logits"
    """
    if results.maps.empty:
        raise UsageError("these results hold no maps; embed some layers first, then publish")
    for name in view:
        one_of("view option", name, ["selected", "shade"])
    networks = mapped(results)
    layers = list(results.study["layers"])
    left = _default_left(networks) if left is None else left
    one_of("left network", left, networks["run"])
    return Explorer(
        meta=_meta(results, networks),
        coordinates=quantise(_placed(results, networks, ["x", "y"])).tobytes(),
        errors=_errors(results, networks).tobytes(),
        labels=np.asarray(results.labels, "<i2").tobytes(),
        predictions=_predictions(results, networks).tobytes(),
        sprite=sprite(results.images),
        left=left,
        right=_default_right(networks, left) if right is None else right,
        layer=("block2" if "block2" in layers else layers[0]) if layer is None else layer,
        embedding=results.study["embeddings"][0] if embedding is None else embedding,
        measure=measure,
        **view,
    )


def mapped(results: Results) -> pd.DataFrame:
    """List the runs that have maps: teachers first, then students by labels, method and seed."""
    runs = results.runs[results.runs["run"].isin(results.maps["run"].unique())]
    methods, budgets = charts.order(runs["method"]), charts.budgets(runs)
    keys = pd.DataFrame(
        {
            "student": runs["role"] == "student",
            "network": runs["network"],
            "labels": runs["labels"].map(budgets.index),
            "method": runs["method"].map(methods.index),
            "seed": runs["seed"],
        }
    )
    return runs.loc[keys.sort_values(list(keys)).index].reset_index(drop=True)


def _default_left(networks: pd.DataFrame) -> str:
    students = networks[(networks["role"] == "student") & (networks["method"] == "alone")]
    return (networks if students.empty else students)["run"].iloc[0]


def _default_right(networks: pd.DataFrame, left: str) -> str:
    """Find the partner of `left`: the same student distilled, else any other network."""
    one = networks[networks["run"] == left].iloc[0]
    same = networks["run"] != left
    for column in ("role", "network", "labels", "seed"):
        same &= networks[column] == one[column]
    for choice in (networks[same & (networks["method"] == "kd")], networks[same], networks):
        other = choice[choice["run"] != left]
        if not other.empty:
            return other["run"].iloc[0]
    return left


# ---- data


def quantise(points: np.ndarray) -> np.ndarray:
    """Fit every map into the int16 square, (..., n, 2) float -> (..., n, 2) int16.

    Each map is centred and scaled by itself, both axes alike: distances of two maps are not
    comparable anyway. The error is at most half a step, 1 / 65,534 of the map's longer side.
    A point that is not finite becomes MISSING.
    """
    points = np.asarray(points, np.float64)
    bad = ~np.isfinite(points).all(axis=-1, keepdims=True)
    low = np.where(bad, np.inf, points).min(axis=-2, keepdims=True)
    high = np.where(bad, -np.inf, points).max(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):  # a map without a single point: inf - inf
        middle, half = (low + high) / 2, ((high - low) / 2).max(axis=-1, keepdims=True)
        whole = np.round((points - middle) / np.where(half > 0, half, 1) * 32767)
    return np.where(bad, MISSING, np.where(np.isfinite(whole), whole, 0)).astype("<i2")


def sprite(images: np.ndarray) -> bytes:
    """Lay all images on one WebP sheet, COLUMNS in a row, in their order; (n, h, w, c) uint8."""
    n, h, w, c = images.shape
    shrink = min(1.0, SIDE / max(h, w))
    size = (max(1, round(w * shrink)), max(1, round(h * shrink)))
    sheet = Image.new("RGB", (COLUMNS * size[0], -(-n // COLUMNS) * size[1]))
    for i, image in enumerate(images):
        tile = Image.fromarray(image[..., 0] if c == 1 else image).convert("RGB")
        tile = tile if tile.size == size else tile.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % COLUMNS * size[0], i // COLUMNS * size[1]))
    file = io.BytesIO()
    sheet.save(file, "WEBP", lossless=size[0] * size[1] <= 256, quality=80)
    return file.getvalue()


def _placed(results: Results, networks: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Gather columns of all maps, (network, embedding, layer, image, column); NaN where none is."""
    study, maps = results.study, results.maps
    axes = [list(networks["run"]), list(study["embeddings"]), list(study["layers"])]
    points = np.full((*map(len, axes), len(results.images), len(columns)), np.nan)
    places = [
        pd.Index(axis).get_indexer(maps[column])
        for axis, column in zip(axes, ("run", "embedding", "layer"), strict=True)
    ]
    places.append(maps["image"].to_numpy())
    known = np.all([p >= 0 for p in places], axis=0) & (places[-1] < len(results.images))
    points[tuple(p[known] for p in places)] = maps.loc[known, columns].to_numpy()
    return points


def _errors(results: Results, networks: pd.DataFrame) -> np.ndarray:
    """The share of neighbours that each dot lost, as bytes; UNKNOWN where it was not measured."""
    if "error" not in results.maps:
        return np.zeros(0, np.uint8)
    errors = _placed(results, networks, ["error"])[..., 0]
    whole = np.round(errors.clip(0, 1) * (UNKNOWN - 1))
    return np.where(np.isnan(errors), UNKNOWN, whole).astype(np.uint8)


def _predictions(results: Results, networks: pd.DataFrame) -> np.ndarray:
    guesses = results.predictions
    network = pd.Index(networks["run"]).get_indexer(guesses["run"])
    table = np.full((len(networks), len(results.images)), -1, "<i2")
    known = network >= 0
    table[network[known], guesses["image"].to_numpy()[known]] = guesses["prediction"][known]
    return table


def _meta(results: Results, networks: pd.DataFrame) -> dict[str, Any]:
    """Gather everything that is not bulk data, as plain JSON."""
    study = results.study
    h, w = results.images.shape[1:3]
    shrink = min(1.0, SIDE / max(h, w))
    measured = list(results.measures["measure"].unique())
    keys = sorted(measured, key=lambda k: [*metrics.MEASURES, *measured].index(k))
    return {
        "n": len(results.images),
        "classes": [str(name) for name in study["classes"]],
        "layers": list(study["layers"]),
        "embeddings": list(study["embeddings"]),
        "networks": [_network(row) for row in networks.to_dict("records")],
        "measures": [{"key": k, "name": charts.name(k), "hint": charts.hint(k)} for k in keys],
        "curves": {k: list(_curves(results, networks, k)) for k in keys},
        "faithfulness": _faithfulness(results, networks),
        "tile": [max(1, round(w * shrink)), max(1, round(h * shrink)), COLUMNS],
        "shades": list(SHADES if "error" in results.maps else SHADES[:1]),
        "share": ["left", "right", "layer", "embedding", "measure", "shade", "selected"],
    }


def _network(row: dict[str, Any]) -> dict[str, Any]:
    """Name a network for people: long in the menus, short beside a curve."""
    teacher = row["role"] == "teacher"
    budget = "all labels" if row["labels"] == "all" else f"{row['labels']} labels per class"
    short = "teacher" if teacher else row["method"]
    return {
        "run": row["run"],
        "short": short,
        "name": f"{short}, {budget}, seed {row['seed']}",
        "group": f"{row['role']} {row['network']}",
        "parameters": int(row["parameters"]),
        "accuracy": float(row["test_accuracy"]),
        "kind": short if short in KINDS else "control" if short in charts.CONTROLS else "distilled",
    }


def _curves(results: Results, networks: pd.DataFrame, measure: str) -> Iterator[dict[str, Any]]:
    """Give, per network, the measure's value at every layer and its range over all seeds."""
    same = ["role", "network", "method", "labels"]
    values = results.measures.query("measure == @measure").merge(results.runs, on="run")
    own = values.set_index(["run", "layer"])["value"]
    spread = values.groupby([*same, "layer"])["value"].agg(["min", "max", "count"])
    for row in networks.to_dict("records"):
        cell = [(*(row[k] for k in same), layer) for layer in results.study["layers"]]
        around = spread.reindex(cell)
        yield {
            "values": [_number(own.get((row["run"], c[-1]))) for c in cell],
            "low": [_number(v) for v in around["min"]],
            "high": [_number(v) for v in around["max"]],
            "seeds": int(around["count"].max()) if around["count"].notna().any() else 0,
        }


def _faithfulness(results: Results, networks: pd.DataFrame) -> list[list[list[dict[str, Any]]]]:
    """Give [network][embedding][layer] -> {measure: value}."""
    place = ["run", "embedding", "layer"]
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in results.faithfulness.to_dict("records"):
        known.setdefault(tuple(row[k] for k in place), {})[row["measure"]] = _number(row["value"])
    study = results.study
    return [
        [[known.get((run, e, layer), {}) for layer in study["layers"]] for e in study["embeddings"]]
        for run in networks["run"]
    ]


def _number(value: Any) -> float | None:
    """Round for the page; what is not a number becomes null, for JSON has no NaN."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _one_of(what: str, given: object, allowed: list[str]) -> None:
    try:
        one_of(what, given, allowed)
    except UsageError as problem:
        raise _RefusedError(str(problem)) from None
