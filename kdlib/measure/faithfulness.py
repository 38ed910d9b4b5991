"""Numbers about maps: how true one is to its layer, and what it shows of the classes.

Two tables: FAITHFULNESS, of a layer and its map, and MAP_MEASURES, of a map and its labels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError, neighbours
from kdlib.measure.geometry import VOTES
from kdlib.measure.metrics import INFINITY, Measure
from kdlib.measure.space import checked, finite
from kdlib.neighbours import ranks

CORE = 0.95  # of each class, whose hull is taken
NEIGHBOURS = 15  # or as many as are fewer than half of the images
LISTED = 10  # neighbours of every image that are stored and listed beside a map
PAIRS = 50_000  # of images, whose distances are correlated


def trustworthiness(
    layer_ranks: Int[np.ndarray, "b n"], map_ranks: Int[np.ndarray, "b n"], k: int = 15
) -> float:
    """Are neighbours on the map neighbours in the layer? 1 when no false neighbour is shown.

    1 - 2 / (n k (2n - 3k - 1)) * sum of (r - k) over all pairs that are among the k nearest on
    the map but only the r-th nearest in the layer (Venna & Kaski 2001). Takes the ranks in the
    layer and on the map (`kdlib.neighbours.ranks`) of all n images or of some. In [0, 1], higher
    is better, about .5 for a random map.
    """
    return 1 - _intrusion(layer_ranks, map_ranks, k)


def continuity(
    layer_ranks: Int[np.ndarray, "b n"], map_ranks: Int[np.ndarray, "b n"], k: int = 15
) -> float:
    """Are neighbours in the layer neighbours on the map? 1 when no neighbour is torn away.

    Trustworthiness with layer and map exchanged: the sum runs over pairs among the k nearest in
    the layer but only the r-th nearest on the map (Venna & Kaski 2001). In [0, 1], higher is
    better.
    """
    return 1 - _intrusion(map_ranks, layer_ranks, k)


def _intrusion(true: np.ndarray, judged: np.ndarray, k: int) -> float:
    """How far the k nearest of `judged` come from in `true`, as a share of the worst case."""
    images, n = true.shape
    excess = np.maximum(true - k, 0)[judged <= k].sum(dtype=np.int64)
    return float(2 * excess / (images * k * (2 * n - 3 * k - 1)))


def neighbours_kept(
    layer_ranks: Int[np.ndarray, "b n"], map_ranks: Int[np.ndarray, "b n"], k: int = 15
) -> float:
    """Mean share of an image's k nearest in the layer that are among its k nearest on the map.

    In [0, 1], higher is better, k / (n - 1) by chance (Lee & Verleysen 2009).
    """
    both = (layer_ranks <= k) & (map_ranks <= k)  # and the image itself
    return float(both.sum() / (len(layer_ranks) * k) - 1 / k)


def distance_correlation(
    features: Num[np.ndarray, "n d"], map: Num[np.ndarray, "n 2"], pairs: int = PAIRS
) -> float:
    """Are far images far on the map? Spearman's correlation of distances in layer and map.

    Over the same `pairs` random pairs for every map, drawn with replacement. In [-1, 1], higher
    is better, 0 for a random map.
    """
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(len(features), size=(2, pairs))
    a, b = a[a != b], b[a != b]
    distances = [np.linalg.norm(x[a] - x[b], axis=1) for x in (features, map)]
    if any((values == values[0]).all() for values in distances):
        return 0.0
    return float(spearmanr(*distances).statistic)


def neighbourhood_change(
    features_a: Num[np.ndarray, "n d"], features_b: Num[np.ndarray, "n e"], k: int | None = None
) -> Float[np.ndarray, " n"]:
    """Share of each image's k nearest in one space that are not among its k nearest in another.

    Of two layers or networks: what really changes for an image, which no motion between maps
    shows. Of a layer and its map: the error of each point, whose mean is 1 - neighbours kept. In
    [0, 1], 0 is the same neighbours, 1 - k / (n - 1) by chance. Euclidean, exact. By default k is
    15, or less where there are few images. Raises UsageError for values that are not finite,
    different n, and unless k < n / 2.
    """
    a, b = finite("features_a", features_a), finite("features_b", features_b)
    if len(a) != len(b):
        raise UsageError(f"both spaces must hold the same images; given n = {len(a)}, {len(b)}")
    k = _neighbours(k, len(a))
    own, other = (neighbours.nearest(x, k).rows for x in (a, b))
    shared = (own[:, :, None] == other[:, None, :]).sum(axis=(1, 2))
    change: np.ndarray = 1 - shared / k
    return change


def nearest(features: Num[np.ndarray, "n d"], k: int = LISTED) -> Int[np.ndarray, "n k"]:
    """Find the k images nearest to each in a layer, the nearest first, itself left out.

    Row numbers; cosine after centring, exact, as in the measure `knn`. Equal distances go to the
    lower row; an image at the centre has no direction and is at distance 1 from all. Raises
    UsageError for values that are not finite and unless 1 <= k < n.
    """
    x = finite("features", features)
    return neighbours.nearest(x - x.mean(axis=0), k, "cosine").rows


def map_knn(map_ranks: Int[np.ndarray, "b n"], labels: Int[np.ndarray, " n"]) -> float:
    """Accuracy of predicting the class of an image from its five nearest on the map.

    Majority of the 5 labels, the image's own left out; a tie goes to the lowest. In [0, 1],
    higher is better, chance is one over the number of classes.
    """
    classes, y = np.unique(labels, return_inverse=True)
    rows, voters = np.nonzero((map_ranks >= 1) & (map_ranks <= VOTES))
    votes = np.zeros((len(map_ranks), len(classes)))
    np.add.at(votes, (rows, y[voters]), 1)
    own = y[map_ranks.argmin(axis=1)]
    return float((votes.argmax(axis=1) == own).mean())


def map_silhouette(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> float:
    """How much nearer an image's own class lies on the map than the nearest other: mean silhouette.

    Rousseeuw 1987, Euclidean. In [-1, 1], higher is more compact. Raises UsageError for values
    that are not finite, wrong lengths and one class only.
    """
    from sklearn.metrics import silhouette_score

    x, y = checked(points, labels)
    return float(silhouette_score(x, y))


def map_hulls(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> float:
    """How much of the map do the classes cover? Summed area of their hulls over the hull of all.

    The convex hull of each class and that of all images, both of the 95 % of every class that lie
    nearest to its mean. In [0, k] for k classes, lower is more compact; above 1 hulls must
    overlap. A class of fewer than three places, or in a line, has no area; a map without any area
    has the value 1. Raises UsageError as `map_silhouette`.
    """
    x, y = checked(points, labels)
    cores = []
    for label in np.unique(y):
        own = x[y == label]
        distance = np.linalg.norm(own - own.mean(axis=0), axis=1)
        cores.append(own[distance.argsort(kind="stable")[: int(np.ceil(CORE * len(own)))]])
    whole = _area(np.concatenate(cores))
    return float(sum(map(_area, cores)) / whole) if whole else 1.0


def _area(points: np.ndarray) -> float:
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(points).volume)  # of a plane's hull, its area
    except (QhullError, ValueError):  # too few places, or all in a line
        return 0.0


FAITHFULNESS: dict[str, Measure] = {
    "trustworthiness": Measure(
        "Trustworthiness",
        trustworthiness,
        "higher",
        0,
        1,
        "neighbours on the map are neighbours in the layer",
        pitfall="Depends on n and k, so compare at equal n and k only; many equal distances "
        "(ReLU zeros) move it a little.",
    ),
    "continuity": Measure(
        "Continuity",
        continuity,
        "higher",
        0,
        1,
        "neighbours in the layer are neighbours on the map",
        pitfall="A map that squeezes everything together scores high; read it beside "
        "trustworthiness.",
    ),
    "neighbours_kept": Measure(
        "Neighbours kept",
        neighbours_kept,
        "higher",
        0,
        1,
        "share of the nearest neighbours in the layer that stay the nearest on the map",
        pitfall="Strict: a neighbour placed as the (k + 1)-th counts as lost; .3 to .5 is "
        "usual for good maps.",
    ),
    "distance_correlation": Measure(
        "Distance correlation",
        distance_correlation,
        "higher",
        -1,
        1,
        "rank correlation of distances in the layer and on the map",
        pitfall="Most pairs are far pairs, so it measures how true the arrangement of clusters "
        "is, and not the neighbours; PCA often wins.",
    ),
    "map_knn": Measure(
        "k-NN accuracy of the map",
        map_knn,
        "higher",
        0,
        1,
        "accuracy of the majority of the 5 nearest points on the map",
        pitfall="Measures what the map shows, not what the layer separates, and may exceed it: "
        "t-SNE sharpens clusters, and coupled maps borrow from each other, so only "
        "that of an uncoupled map is a measure. The layer's own is `knn`.",
    ),
}


LAYER_MEASURES = {"map_silhouette": "silhouette", "map_knn": "knn"}  # the same of the layer itself
MAP_MEASURES: dict[str, Measure] = {  # of maps made separately for each layer, without coupling
    "map_knn": FAITHFULNESS["map_knn"],
    "map_silhouette": Measure(
        "Silhouette of the map",
        map_silhouette,
        "higher",
        -1,
        1,
        "how much nearer a point lies to its own class than to the nearest other one",
        source="rousseeuw1987silhouettes",
        pitfall="Depends on the method and its parameters more than on the layer, whose own is"
        " `silhouette`; of uncoupled maps only.",
    ),
    "map_hulls": Measure(
        "Class hulls of the map",
        map_hulls,
        "lower",
        0,
        INFINITY,
        "summed area of the classes' hulls over that of all; above 1 they must overlap",
        pitfall="Depends on the method, its parameters and its seed more than on the layer; a "
        "class in two clumps covers what lies between them; of uncoupled maps only.",
    ),
}


def faithfulness(
    features: Num[np.ndarray, "n d"],
    map: Num[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"] | None,
    *,
    k: int | None = None,
    step: int = 1,
) -> dict[str, float]:
    """Compute how far a map can be trusted: the five numbers of FAITHFULNESS.

    Distances are Euclidean, in the layer and on the map, for every method, although IVIS starts
    from cosine neighbours. By default k is 15, or less where there are few images. The error of
    each point is `neighbourhood_change` of layer and map. Neighbours are among all images, of every
    image or, where these are many, of every `step`-th. Without labels there is no `map_knn`.
    Raises UsageError for values that are not finite, wrong lengths, one class only, and unless
    k < n / 2 and n > 5.

        faithfulness(layer, points, labels)                # {"trustworthiness": .97, ...}
    """
    x = finite("features", features) if labels is None else checked(features, labels)[0]
    points = finite("map", map)
    if points.shape != (len(x), 2):
        raise UsageError(f"map must be of shape ({len(x)}, 2); given {points.shape}")
    k = _neighbours(k, len(x))
    if len(x) <= VOTES:
        raise UsageError(f"faithfulness needs more than {VOTES} images; given {len(x)}")
    values, sizes = [], []
    for block in neighbours.blocks(-(-len(x) // step), len(x)):
        rows = slice(block.start * step, block.stop * step, step)
        both = ranks(x, rows), ranks(points, rows)
        ranked = [f(*both, k) for f in (trustworthiness, continuity, neighbours_kept)]
        values.append([*ranked, 0.0 if labels is None else map_knn(both[1], labels)])
        sizes.append(len(both[0]))
    trustworthy, continuous, preserved, knn = np.average(values, axis=0, weights=sizes).tolist()
    numbers = {
        "trustworthiness": trustworthy,
        "continuity": continuous,
        "neighbours_kept": preserved,
        "distance_correlation": distance_correlation(x, points),
    }
    return numbers if labels is None else numbers | {"map_knn": knn}


def map_measures(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Compute what a map shows of the classes: the numbers of MAP_MEASURES.

    Of a map made for one layer by itself: coupled maps borrow from each other. Raises UsageError as
    `map_silhouette`.
    """
    return {
        "map_knn": map_knn(ranks(points), labels),
        "map_silhouette": map_silhouette(points, labels),
        "map_hulls": map_hulls(points, labels),
    }


def _neighbours(k: int | None, n: int) -> int:
    """How many neighbours of n images count; raises UsageError where so many cannot."""
    most = (n - 1) // 2
    k = min(NEIGHBOURS, most) if k is None else k
    if not 1 <= k <= most:
        raise UsageError(f"k must be between 1 and {most} for n = {n} images; given {k}")
    return k
