"""The explorer: two networks side by side, layer by layer, with or without a kernel."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from kdlib import UsageError, one_of
from kdlib.measure import metrics
from kdlib.report import charts
from kdlib.store import Results

STATIC = Path(__file__).parent / "static"
MISSING = -32768  # the int16 that says "nothing here"; explorer.js knows it, too
UNKNOWN = 255  # the byte that says "error not measured"; so does it this
TRAINED = -1  # the epoch of trained networks, beside those of the film; and this
NEAREST = 10  # neighbours that are told of each image
MANY = 20  # classes, from which on names would cover the maps
BRUSHES = ("box", "lasso")  # what dragging over a map draws
SIDE = 48  # largest thumbnail, in pixels
KINDS = ("teacher", "baseline")  # of networks, beside "control" and "distilled"
COLUMNS = 40  # thumbnails in a row of the sprite


class _RefusedError(UsageError, traitlets.TraitError):
    """A UsageError that traitlets understands: it takes the old value back."""


class Explorer(anywidget.AnyWidget):
    """Two networks side by side, one dot per image, any layer; selections link by image.

    The traits below hold the whole view and follow the reader's hand: read them, set them,
    observe them. `explorer` makes one from results.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"

    left = traitlets.Unicode(help="run on the left").tag(sync=True)
    right = traitlets.Unicode(help="run on the right").tag(sync=True)
    layer = traitlets.Unicode(help="layer both maps show").tag(sync=True)
    embedding = traitlets.Unicode(help="how a layer became a map").tag(sync=True)
    measure = traitlets.Unicode(help="measure of the curves").tag(sync=True)
    shade = traitlets.Unicode("class", help="what colours mean: class, error, change").tag(
        sync=True
    )
    epoch = traitlets.Int(TRAINED, help="of the film, where there is one; -1: trained").tag(
        sync=True
    )
    selected = traitlets.List(traitlets.Int(), help="numbers of images").tag(sync=True)
    hidden = traitlets.List(traitlets.Int(), help="numbers of classes").tag(sync=True)
    names = traitlets.Bool(True, help="whether classes are named on the maps").tag(sync=True)
    brush = traitlets.Unicode("box", help="what dragging draws: box or lasso").tag(sync=True)

    meta = traitlets.Dict().tag(sync=True)  # names, curves, faithfulness: see _meta
    coordinates = traitlets.Bytes().tag(sync=True)  # int16 [network][embedding][layer][image][2]
    errors = traitlets.Bytes().tag(sync=True)  # uint8 [network][embedding][layer][image]: 254 is 1
    neighbours = traitlets.Bytes().tag(sync=True)  # int16 [network][layer][image][NEAREST]
    film = traitlets.Bytes().tag(sync=True)  # int16 [reel][epoch][image][2]: see meta["film"]
    labels = traitlets.Bytes().tag(sync=True)  # int16 [image]
    predictions = traitlets.Bytes().tag(sync=True)  # int16 [network][image]; -1: not known
    sprite = traitlets.Bytes().tag(sync=True)  # WebP, COLUMNS images in a row

    @traitlets.validate("left", "right", "layer", "embedding", "measure", "shade", "epoch", "brush")
    def _known(self, proposal: dict[str, Any]) -> str | int:
        trait = proposal["trait"].name
        what = {"left": "left network", "right": "right network"}.get(trait, trait)
        _one_of(what, proposal["value"], self._allowed(trait))
        return proposal["value"]

    @traitlets.validate("selected", "hidden")
    def _shown(self, proposal: dict[str, Any]) -> list[int]:
        trait = proposal["trait"].name
        what, n = ("image", self.meta["n"])
        if trait == "hidden":
            what, n = ("class", len(self.meta["classes"]))
        wrong = [i for i in proposal["value"] if not 0 <= i < n]
        if wrong:
            raise _RefusedError(f"no {what} {wrong[0]} among the {trait}; one of: 0 to {n - 1}")
        return proposal["value"]

    def _allowed(self, trait: str) -> list[Any]:
        if trait in ("left", "right"):
            return [network["run"] for network in self.meta["networks"]]
        if trait == "measure":
            return [measure["key"] for measure in self.meta["measures"]]
        if trait == "epoch":
            return [TRAINED, *sorted({e for reel in self.meta["film"] for e in reel["epochs"]})]
        return list(BRUSHES) if trait == "brush" else self.meta[f"{trait}s"]


VIEW = [  # the traits of the view, in the order in which they are told
    *("left", "right", "layer", "embedding", "measure", "shade", "epoch", "selected"),
    *("hidden", "names", "brush"),
]


def show(
    results: Results,
    *,
    left: str | None = None,
    right: str | None = None,
    **view: Any,
) -> Explorer:
    """Show two networks side by side; by default one trained as a baseline and the same one distilled.

    left and right are run ids with maps in `results`; by default the baseline with
    the fewest labels, and the `kd` student of the same labels and seed. `view` takes the other
    traits of the view by their names: layer="block3", embedding="ivis", measure="silhouette",
    shade="error", epoch=5 (of the film of training), selected=[image numbers], hidden=[class
    numbers], names=False, brush="lasso".

    Raises UsageError for a name the results do not hold, and when they hold no maps at all.

    >>> view = explorer(store.load("book/results/quick"), layer="block2")
    >>> view.layer = "logits"
    """
    if results.maps.empty:
        raise UsageError("these results hold no maps; embed some layers first, then publish")
    for name in view:
        one_of("view option", name, VIEW)
    networks = mapped(results)
    one_of("left network", left or networks["run"][0], networks["run"])
    reels, film = _film(results, networks)
    first = _defaults(results, networks)
    start = first | {"left": left or first["left"]} | view
    start["right"] = right or _default_right(networks, start["left"])
    return Explorer(
        meta=_meta(results, networks) | {"film": reels, "defaults": first},
        coordinates=quantise(_placed(results, networks, ["x", "y"])).tobytes(),
        errors=_errors(results, networks).tobytes(),
        neighbours=_neighbours(results, networks).tobytes(),
        film=film.tobytes(),
        labels=np.asarray(results.labels, "<i2").tobytes(),
        predictions=_predictions(results, networks).tobytes(),
        sprite=sprite(results.images),
        **start,
    )


def _defaults(results: Results, networks: pd.DataFrame) -> dict[str, Any]:
    """Give the view that opens when nothing is asked for."""
    layers = list(results.study["layers"])
    left = _default_left(networks)
    return {
        "left": left,
        "right": _default_right(networks, left),
        "layer": "block2" if "block2" in layers else layers[0],
        "embedding": results.study["embeddings"][0],
        "measure": "knn",
        "shade": "class",
        "epoch": TRAINED,
        "selected": [],
        "hidden": [],
        "names": len(results.study["classes"]) <= MANY,
        "brush": "box",
    }


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
    students = networks[(networks["role"] == "student") & (networks["method"] == "baseline")]
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


def _neighbours(results: Results, networks: pd.DataFrame) -> np.ndarray:
    """Gather each image's nearest in the layers themselves, (network, layer, image, NEAREST)."""
    table = results.neighbours
    if table.empty:
        return np.zeros(0, "<i2")
    axes = [list(networks["run"]), list(results.study["layers"])]
    near = np.full((*map(len, axes), len(results.images), NEAREST), MISSING, "<i2")
    places = [
        pd.Index(a).get_indexer(table[c]) for a, c in zip(axes, ("run", "layer"), strict=True)
    ]
    places += [table["image"].to_numpy(), table["rank"].to_numpy()]
    known = np.all([p >= 0 for p in places], axis=0) & (places[-1] < NEAREST)
    near[tuple(p[known] for p in places)] = table.loc[known, "neighbour"]
    return near


def _film(results: Results, networks: pd.DataFrame) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Gather the film of training, in reels: whose, when, what was measured; and all frames.

    Frames are (frame, image, 2) int16, those of a reel together, in the order of its epochs.
    """
    film, told = results.film, results.training.set_index(["run", "layer"])
    shown = film[film["run"].isin(networks["run"]) & film["layer"].isin(results.study["layers"])]
    reels, frames = [], [np.zeros((0, len(results.images), 2), "<i2")]
    for (run, layer), reel in shown.groupby(["run", "layer"], sort=False):
        epochs = np.unique(reel["epoch"])
        points = np.full((len(epochs), len(results.images), 2), np.nan)
        points[np.searchsorted(epochs, reel["epoch"]), reel["image"]] = reel[["x", "y"]]
        values = told[told.index == (run, layer)].pivot(
            index="measure", columns="epoch", values="value"
        )
        rows = values.reindex(columns=epochs).T.to_dict("list").items()
        measured = {measure: [_number(value) for value in row] for measure, row in rows}
        reels.append({"run": run, "layer": layer, "epochs": epochs.tolist(), "values": measured})
        frames.append(quantise(points))
    return reels, np.concatenate(frames)


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
        "shades": _shades(results),
        "share": VIEW,
        "study": f"book/results/{study['name']}",
    }


def _shades(results: Results) -> list[str]:
    """List what a dot's colour can mean: its class, the neighbours it lost, those that changed."""
    told = {"error": "error" in results.maps, "change": not results.neighbours.empty}
    return ["class", *(shade for shade, known in told.items() if known)]


def _network(row: dict[str, Any]) -> dict[str, Any]:
    """Name a network for people: long in the menus, short beside a curve.

    `who` is the same for all seeds and budgets of labels of one network.
    """
    end = rf"(-{re.escape(row['labels'])})?-\d+(?=\+|$)"  # kd-2-0+temperature=2
    _, *teacher, own = who = [re.sub(end, "", part) for part in row["run"].split("/")]
    form = own.removeprefix(f"{row['network']}-")
    kind = row["method"] if row["role"] == "student" else "teacher"
    short = form if kind != "teacher" else kind + f" ({form})" * (form not in ("full", own))
    budget = "all labels" if row["labels"] == "all" else f"{row['labels']} labels per class"
    return {
        "run": row["run"],
        "who": "/".join(who),
        "short": short,
        "name": f"{short}, {budget}, seed {row['seed']}",
        "group": f"{row['role']} {row['network']}" + "".join(f" of {name}" for name in teacher),
        "labels": budget,
        "seed": f"seed {row['seed']}",
        "parameters": int(row["parameters"]),
        "accuracy": float(row["test_accuracy"]),
        "kind": kind if kind in KINDS else "control" if kind in charts.CONTROLS else "distilled",
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


def _one_of(what: str, given: object, allowed: list[Any]) -> None:
    try:
        one_of(what, given, allowed)
    except UsageError as problem:
        raise _RefusedError(str(problem)) from None
