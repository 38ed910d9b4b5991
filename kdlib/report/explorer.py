"""The explorer: two networks side by side, layer by layer, with or without a kernel."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from kdlib import UsageError, embed, one_of
from kdlib.measure import metrics
from kdlib.measure.depth import relative
from kdlib.plan.methods import BASELINE
from kdlib.report import charts, onefile
from kdlib.report.networks import describe, group, layers_of
from kdlib.store import Results

MISSING = -32768  # the int16 of a point, neighbour or map that does not exist
UNKNOWN = 255  # the byte of an error that was not measured; 254 is an error of 1
TRAINED = -1  # the epoch of trained networks, beside those of the film
NEAREST = 10  # neighbours of each image
MANY = 20  # classes, from which on names would cover the maps
TOOLS = (
    "box",
    "lasso",
    "move",
)  # what dragging over a map does: draw one of these, or move the map
VOTERS = 5  # images nearest to a place of a map, whose predictions colour its region
REACH = 0.06  # of the map's side; places farther from every image have no region
LATE = 0.6  # relative depth from which on regions are drawn
MOST = 32_767  # images, of which int16 can number the neighbours
MANY_IMAGES = 2500  # from which on thumbnails are smaller
SIDE = 48  # largest thumbnail, in pixels
SIDE_OF_MANY = 32
QUALITY = 80  # of the sprite, WebP's scale to 100
QUALITY_OF_MANY = 60
COLUMNS = 40  # thumbnails in a row of the sprite; more where they are many
STATIC = Path(__file__).parent / "static"
SCRIPTS = (  # of static/explorer, in this order
    *("document", "alignment", "view", "controls", "zoom", "maps", "regions", "names"),
    *("painting", "pointer", "overview", "curve", "images", "selection", "explorer"),
)
CONSTANTS = {
    **{"MISSING": MISSING, "UNKNOWN": UNKNOWN, "TRAINED": TRAINED, "NEAREST": NEAREST},
    **{"MANY": MANY, "VOTERS": VOTERS, "REACH": REACH, "LATE": LATE},
    **{"TOOLS": TOOLS, "COLOURS": charts.CLASSES},
}


def _program() -> str:
    """Join the scripts of static/explorer into one module, as anywidget wants it."""
    constants = [f"const {name} = {json.dumps(value)};\n" for name, value in CONSTANTS.items()]
    scripts = [(STATIC / "explorer" / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    return "".join(constants) + "\n".join(scripts)


class _RefusedError(UsageError, traitlets.TraitError):
    """A UsageError that traitlets understands: it takes the old value back."""


class Explorer(anywidget.AnyWidget):
    """Two networks side by side, one dot per image, any layer; selections link by image.

    The traits below hold the whole view and follow the reader's hand: read them, set them,
    observe them. `show` makes an explorer from results.
    """

    _esm = _program()
    _css = STATIC / "explorer" / "explorer.css"

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
    brush = traitlets.Unicode("box", help="what dragging does: box, lasso or move").tag(sync=True)
    together = traitlets.Bool(True, help="whether both maps are zoomed together").tag(sync=True)
    align = traitlets.Bool(False, help="whether the selected images lie upon each other").tag(
        sync=True
    )
    regions = traitlets.Bool(False, help="whether decision regions are drawn").tag(sync=True)
    overview = traitlets.Bool(False, help="whether all layers are shown at once").tag(sync=True)

    meta = traitlets.Dict().tag(sync=True)  # what is known before a network is chosen: see _meta
    parts = traitlets.Dict().tag(sync=True)  # run -> all of that network, as bytes: see _parts
    labels = traitlets.Bytes().tag(sync=True)  # int16 [image]
    sprite = traitlets.Bytes().tag(sync=True)  # WebP, rows of images; empty without images

    results: Results | None = None  # what is shown; not sent to the page

    @traitlets.validate("left", "right", "layer", "embedding", "measure", "shade", "epoch", "brush")
    def _check_choice(self, proposal: dict[str, Any]) -> str | int:
        trait, value = proposal["trait"].name, proposal["value"]
        title = f"{trait} network" if trait in ("left", "right") else trait
        try:
            one_of(title, value, self._choices(trait))
        except UsageError as problem:
            raise _RefusedError(str(problem)) from None
        return value

    @traitlets.validate("selected", "hidden")
    def _check_numbers(self, proposal: dict[str, Any]) -> list[int]:
        trait, numbers = proposal["trait"].name, proposal["value"]
        if trait == "hidden":
            title, count = "class", len(self.meta["classes"])
        else:
            title, count = "image", self.meta["n"]
        for number in numbers:
            if not 0 <= number < count:
                limits = f"one of: 0 to {count - 1}"
                raise _RefusedError(f"no {title} {number} among the {trait}; {limits}")
        return numbers

    def save(self, path: str | Path) -> None:
        """Write one HTML file that shows this view: no kernel, no network, no other file.

        Below the explorer it has the curves of the measures over the layers and a table of
        numbers: means over seeds with their 95 % t intervals, where networks have several. Raises
        UsageError for a path that does not end in .html or cannot be written, and for an explorer
        without results.

        >>> explorer.show(store.load("book/results/quick")).save("distilled.html")
        """
        if self.results is None:
            raise UsageError("this explorer holds no results; make it by explorer.show(results)")
        onefile.write(self, self.results, Path(path))

    def _choices(self, trait: str) -> list[Any]:
        if trait in ("left", "right"):
            return [network["run"] for network in self.meta["networks"]]
        if trait in ("measure", "embedding"):
            return [choice["key"] for choice in self.meta[f"{trait}s"]] or [""]
        if trait == "epoch":
            return [TRAINED, *sorted({e for reel in self.meta["film"] for e in reel["epochs"]})]
        return list(TOOLS) if trait == "brush" else self.meta[f"{trait}s"]


VIEW = [  # the traits of the view, in the order of links and of a line of Python
    *("left", "right", "layer", "embedding", "measure", "shade", "epoch", "selected"),
    *("hidden", "names", "brush", "together", "align", "regions", "overview"),
]


def show(
    results: Results,
    *,
    left: str | None = None,
    right: str | None = None,
    **view: Any,
) -> Explorer:
    """Show two networks side by side; by default a baseline and the same network distilled.

    left and right are names of runs with maps in `results`; by default the baseline with
    the fewest labels, and the `kd` student of the same labels and seed. `view` takes the other
    traits of the view by their names: layer="block3" (or "50 %" of the depth, where networks have
    layers of their own), embedding="ivis", measure="silhouette",
    shade="error", epoch=5 (of the film of training), selected=[image numbers], hidden=[class
    numbers], names=False, brush="lasso" (or "move": dragging moves the map), together=False
    (each map is zoomed by itself), align=True (the right map is turned so that the selected
    images lie upon each other), regions=True (decision regions behind the last layers, along
    the film, too), overview=True (all layers at once).

    Raises UsageError for a name the results do not hold, and when they hold no maps at all.

    >>> view = show(store.load("book/results/quick"), layer="block2")
    >>> view.layer = "logits"
    """
    networks = mapped(results)
    parts = (networks, results.labels, results.study["layers"], results.study["embeddings"])
    if any(len(part) == 0 for part in parts):
        raise UsageError("these results hold no maps; embed some layers first, then publish")
    if len(results.labels) > MOST:
        raise UsageError(f"the explorer shows at most {MOST:,} images; given {len(results.labels)}")
    for name in view:
        one_of("view option", name, VIEW)
    if left is not None:
        one_of("left network", left, networks["run"])
    reels = _reels(results, networks)
    defaults = _defaults(results, networks)
    start = {**defaults, "left": left or defaults["left"], **view}
    start["right"] = right or _partner(networks, start["left"])
    explorer = Explorer(
        meta=_meta(results, networks, reels) | {"defaults": defaults},
        parts=_parts(results, networks, reels),
        labels=np.asarray(results.labels, "<i2").tobytes(),
        sprite=sprite(results.images),
        **start,
    )
    explorer.results = results
    return explorer


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


def stops(results: Results, runs: Iterable[str]) -> dict[str, float]:
    """Name the places of the slider, with their relative depths from 0 to 1.

    Where all networks have the same layers these are their names; otherwise "0 %", "25 %", ...:
    every depth at which one of them has a layer.
    """
    lists = {tuple(layers_of(results, run)) for run in runs}
    if len(lists) == 1:
        return dict(zip(*lists, relative(len(next(iter(lists)))), strict=True))
    places = {depth for layers in lists for depth in relative(len(layers))}
    return {f"{100 * depth:.3g} %": depth for depth in sorted(places)}


def _defaults(results: Results, networks: pd.DataFrame) -> dict[str, Any]:
    """Return the view that opens when nothing else is chosen."""
    layers, measures = list(stops(results, networks["run"])), _measures(results)
    students = networks[networks["role"] == "student"]
    baselines = students[students["method"] == BASELINE]
    choices = [table for table in (baselines, students, networks) if not table.empty]
    left = choices[0]["run"].iloc[0]
    return {
        "left": left,
        "right": _partner(networks, left),
        "layer": "block2" if "block2" in layers else layers[len(layers) // 2],
        "embedding": results.study["embeddings"][0],
        "measure": "knn" if "knn" in measures else next(iter(measures), ""),
        "shade": "class",
        "epoch": TRAINED,
        "selected": [],
        "hidden": [],
        "names": len(results.study["classes"]) <= MANY,
        **{"brush": "box", "together": True, "align": False, "regions": False, "overview": False},
    }


def _partner(networks: pd.DataFrame, run: str) -> str:
    """Return what to compare a network with: the same one distilled, else any other."""
    own = networks[networks["run"] == run].iloc[0]
    others = networks[networks["run"] != run]
    alike = ["role", "network", "labels", "seed"]
    same = others[(others[alike] == own[alike]).all(axis=1)]
    equals = others[others["role"] == own["role"]]
    for candidates in (same[same["method"] == "kd"], same, equals, others):
        if not candidates.empty:
            return candidates["run"].iloc[0]
    return run


# ---- bulk data, as bytes


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
    """Lay all images on one WebP sheet, row by row, in their order; (n, h, w, c) uint8.

    Up to 1,600 images 40 stand in a row; more make a square, for no browser draws a sheet of more
    than 16,383 pixels a side. Empty without images.
    """
    n, c = len(images), images.shape[-1]
    if not n:
        return b""
    *size, columns = _tile(images)
    sheet = Image.new("RGB", (columns * size[0], -(-n // columns) * size[1]))
    for i, image in enumerate(images):
        tile = Image.fromarray(image[..., 0] if c == 1 else image).convert("RGB")
        tile = tile if list(tile.size) == size else tile.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(tile, (i % columns * size[0], i // columns * size[1]))
    file = io.BytesIO()
    quality = QUALITY if n <= MANY_IMAGES else QUALITY_OF_MANY
    sheet.save(file, "WEBP", lossless=size[0] * size[1] <= 256, quality=quality)
    return file.getvalue()


def _tile(images: np.ndarray) -> list[int]:
    """Return width and height of an image in the sprite, and how many stand in a row."""
    n, h, w = images.shape[:3]
    side = SIDE if n <= MANY_IMAGES else SIDE_OF_MANY
    shrink = min(1.0, side / max(h, w))
    columns = max(COLUMNS, math.ceil(n**0.5))
    return [max(1, round(w * shrink)), max(1, round(h * shrink)), columns]


def _spread(
    table: pd.DataFrame,
    axes: Mapping[str, Collection[Any]],
    values: str | list[str],
    empty: int | float,
) -> np.ndarray:
    """Turn a long table into an array with an axis per key; `empty` where it has no row.

    Rows whose keys are not among those of the axes are left out.
    """
    places = []
    for name, keys in axes.items():
        codes, distinct = pd.factorize(table[name], use_na_sentinel=False)
        places.append(pd.Index(keys).get_indexer(distinct)[codes])
    complete = np.all([place >= 0 for place in places], axis=0)
    cells = table.loc[complete, values].to_numpy()
    array = np.full((*map(len, axes.values()), *cells.shape[1:]), empty)
    array[tuple(place[complete] for place in places)] = cells
    return array


def _axes(results: Results, networks: pd.DataFrame, *names: str) -> dict[str, Collection[Any]]:
    """Return the keys of some axes: names of runs, embeddings and layers, numbers of images."""
    axes = {
        "run": networks["run"],
        "embedding": results.study["embeddings"],
        "layer": results.study["layers"],
        "image": range(len(results.labels)),
    }
    return {name: axes[name] for name in names}


def _gather_maps(results: Results, networks: pd.DataFrame, values: str | list[str]) -> np.ndarray:
    """Gather columns of all maps, [network][embedding][layer][image]; NaN where there is none."""
    axes = _axes(results, networks, "run", "embedding", "layer", "image")
    return _spread(results.maps, axes, values, np.nan)


def _errors(results: Results, networks: pd.DataFrame) -> np.ndarray:
    """Return the share of neighbours that each dot lost, as bytes; nothing if never measured."""
    if "error" not in results.maps:
        return np.zeros((0, 0, len(results.study["layers"])), np.uint8)
    errors = _gather_maps(results, networks, "error")
    whole = np.round(errors.clip(0, 1) * (UNKNOWN - 1))
    return np.where(np.isnan(errors), UNKNOWN, whole).astype(np.uint8)


def _neighbours(results: Results, networks: pd.DataFrame) -> np.ndarray:
    """Gather each image's nearest in the layers themselves, [network][layer][image][NEAREST]."""
    if results.neighbours.empty:
        return np.zeros((0, len(results.study["layers"])), "<i2")
    axes = _axes(results, networks, "run", "layer", "image") | {"rank": range(NEAREST)}
    return _spread(results.neighbours, axes, "neighbour", MISSING).astype("<i2")


def _predictions(results: Results, networks: pd.DataFrame) -> np.ndarray:
    axes = _axes(results, networks, "run", "image")
    return _spread(results.predictions, axes, "prediction", MISSING).astype("<i2")


def _reels(results: Results, networks: pd.DataFrame) -> list[dict[str, Any]]:
    """List the films of training: of which run and layer, after which epochs, and its measures."""
    film, layers = results.film, results.study["layers"]
    film = film[film["run"].isin(networks["run"]) & film["layer"].isin(layers)]
    training = results.training.set_index(["run", "layer"])
    reels = []
    for (run, layer), reel in film.groupby(["run", "layer"], sort=False):
        epochs = np.unique(reel["epoch"]).tolist()
        rows = training[training.index == (run, layer)]
        table = rows.pivot(index="measure", columns="epoch", values="value").reindex(columns=epochs)
        values = {measure: [_number(v) for v in row] for measure, *row in table.itertuples()}
        reels.append({"run": run, "layer": layer, "epochs": epochs, "values": values})
    return reels


def _frames(results: Results, reels: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of some films and what was predicted, reel by reel, epoch by epoch.

    Both are int16: maps (frame, image, 2), predictions (frame, image).
    """
    n = len(results.labels)
    maps, predictions = [np.zeros((0, n, 2), "<i2")], [np.zeros((0, n), "<i2")]
    for reel in reels:
        film = results.film[results.film["run"] == reel["run"]]
        film = film[film["layer"] == reel["layer"]].fillna({"prediction": MISSING})
        axes = {"epoch": reel["epochs"], "image": range(n)}
        maps.append(quantise(_spread(film, axes, ["x", "y"], np.nan)))
        predictions.append(_spread(film, axes, "prediction", MISSING).astype("<i2"))
    return np.concatenate(maps), np.concatenate(predictions)


def _parts(
    results: Results, networks: pd.DataFrame, reels: list[dict[str, Any]]
) -> dict[str, bytes]:
    """Pack each network by itself, so that a page need not load those that it does not show.

    A part is the length of its facts as uint32, the facts as JSON (its layers, curves of the
    measures, faithfulness of its maps, reels of its film, sizes in bytes of what follows), and then
    coordinates int16 [embedding][layer][image][2], neighbours int16 [layer][image][NEAREST],
    predictions int16 [image], frames int16 [reel][epoch][image][2], what was predicted then int16
    [reel][epoch][image] and errors uint8 [embedding][layer][image]. Neighbours and errors are empty
    where none were stored.
    """
    coordinates = quantise(_gather_maps(results, networks, ["x", "y"]))
    errors, neighbours = _errors(results, networks), _neighbours(results, networks)
    predictions, faithfulness = _predictions(results, networks), _faithfulness(results, networks)
    curves = {measure: _curves(results, networks, measure) for measure in _measures(results)}
    known = list(results.study["layers"])
    parts = {}
    for i, run in enumerate(networks["run"]):
        layers = layers_of(results, run)
        at = [known.index(layer) for layer in layers]
        own = [reel for reel in reels if reel["run"] == run]
        facts = {
            "layers": layers,
            "curves": {measure: _at(curve[i], at) for measure, curve in curves.items()},
            "faithfulness": [[maps[k] for k in at] for maps in faithfulness[i]],
            "film": own,
        }
        arrays = [coordinates[i][:, at], neighbours[i : i + 1, at], predictions[i]]
        arrays += [*_frames(results, own), errors[i : i + 1, :, at]]
        parts[run] = _pack(facts, [array.tobytes() for array in arrays])
    return parts


def _at(curve: dict[str, Any], places: list[int]) -> dict[str, Any]:
    """Take some layers of a curve."""
    rows = {key: [row[i] for i in places] for key, row in curve.items() if key != "seeds"}
    return rows | {"seeds": curve["seeds"]}


def _pack(facts: dict[str, Any], arrays: list[bytes]) -> bytes:
    """Join facts and arrays, as `_parts` says; what is int16 begins at an even place."""
    head = json.dumps(facts | {"sizes": [len(array) for array in arrays]}).encode()
    head += b" " * (len(head) % 2)
    return b"".join([len(head).to_bytes(4, "little"), head, *arrays])


# ---- names and numbers, as JSON


def _meta(results: Results, networks: pd.DataFrame, reels: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather what is known of all networks before one is chosen, as plain JSON."""
    study, measures = results.study, _measures(results)
    places = stops(results, networks["run"])
    shades = ["class"]
    if "error" in results.maps:
        shades.append("error")
    if not results.neighbours.empty:
        shades.append("change")
    return {
        "n": len(results.labels),
        "classes": [str(name) for name in study["classes"]],
        "layers": list(places),
        "depths": list(places.values()),
        "aligned": len({tuple(layers_of(results, run)) for run in networks["run"]}) == 1,
        "embeddings": [{"key": e, "name": embed.TITLES.get(e, e)} for e in study["embeddings"]],
        "networks": [describe(row, study) for row in networks.to_dict("records")],
        "measures": [{"key": m, "name": charts.name(m), "hint": charts.hint(m)} for m in measures],
        "ranges": {m: _range(results, m, reels) for m in measures},
        "film": [{key: reel[key] for key in ("run", "layer", "epochs")} for reel in reels],
        "tile": _tile(results.images) if len(results.images) else None,
        "shades": shades,
        "share": VIEW,
        "study": f"book/results/{study['name']}",
    }


def _measures(results: Results) -> list[str]:
    """Name the measures of layers that there are, known ones first."""
    there = results.measures["measure"].unique()
    return [m for m in dict.fromkeys([*metrics.MEASURES, *there]) if m in set(there)]


def _range(results: Results, measure: str, reels: list[dict[str, Any]]) -> list[float | None]:
    """Return the least and the largest value of a measure, over all runs and films."""
    values = list(results.measures.loc[results.measures["measure"] == measure, "value"])
    for reel in reels:
        values += [value for value in reel["values"].get(measure, []) if value is not None]
    finite = [value for value in values if np.isfinite(value)]
    return [_number(min(finite)), _number(max(finite))] if finite else [None, None]


def _curves(results: Results, networks: pd.DataFrame, measure: str) -> list[dict[str, Any]]:
    """Return, per network, the measure's value at every layer and its range over all seeds."""
    values = results.measures[results.measures["measure"] == measure].merge(results.runs, on="run")
    seeds = values.groupby([*group(results.study), "labels", "layer"])["value"]
    values = values.assign(low=seeds.transform("min"), high=seeds.transform("max"))
    values["seeds"] = seeds.transform("count")
    axes = _axes(results, networks, "run", "layer")
    table = _spread(values, axes, ["value", "low", "high", "seeds"], np.nan)
    return [
        {
            "values": [_number(v) for v in value],
            "low": [_number(v) for v in low],
            "high": [_number(v) for v in high],
            "seeds": int(np.nan_to_num(count).max()),
        }
        for value, low, high, count in table.transpose(0, 2, 1)
    ]


def _faithfulness(results: Results, networks: pd.DataFrame) -> list[list[list[dict[str, Any]]]]:
    """Return [network][embedding][layer] -> {measure: value}."""
    measures = results.faithfulness["measure"].unique()
    axes = _axes(results, networks, "run", "embedding", "layer") | {"measure": measures}
    table = _spread(results.faithfulness, axes, "value", np.nan)
    return [
        [[dict(zip(measures, map(_number, cell), strict=True)) for cell in row] for row in rows]
        for rows in table
    ]


def _number(value: Any) -> float | None:
    """Round for the page; what is not a number becomes null, for JSON has no NaN."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
