"""Numbers about spaces and maps: how compact a layer is, how much it knows, how true its map is.

Every number here is free of scale: the same layer at another scale, shifted or rotated gives the
same number. Raw distances of two networks cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError, one_of

NEIGHBOURS = 5  # whose majority is the answer of a k-NN probe
BLOCK = 1000  # images whose neighbours are ranked at a time


class Measure(NamedTuple):
    """One number about a layer or a map, in the words of charts and chapters."""

    title: str
    function: Callable[..., float]
    better: str  # "lower" or "higher"
    low: float
    high: float
    text: str
    trained: bool = False  # needs training features, too


def within_share(features: Num[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of the spread that is inside the classes: tr S_W / tr S_T, lower is more compact.

    S_T sums the squared distances to the grand mean, S_W those to the mean of the own class. In
    [0, 1]: 0 when each class is one point, 1 when all classes have one mean. It is 1 - eta^2 of
    the analysis of variance (Fisher 1925). Pitfalls: global, so one far class hides two that
    overlap, which silhouette sees; with few images a class, low by chance: about (n - k) / n for
    k classes without any structure. Raises UsageError for values that are not finite, wrong
    lengths, one class only, a class of one image, and features that are all equal.
    """
    x, y = _checked(features, labels)
    _check_classes(x, y)
    within = sum(np.square(x[y == c] - x[y == c].mean(axis=0)).sum() for c in np.unique(y))
    return float(within / np.square(x - x.mean(axis=0)).sum())


def silhouette(features: Num[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """How much closer an image is to its own class than to the nearest other one, on average.

    Mean of (b - a) / max(a, b): a is the mean cosine distance to the other images of the own
    class, b that to the nearest other class, after centring (Rousseeuw 1987; by scikit-learn).
    In [-1, 1], higher is better, 0 is no structure. Pitfalls: near 0 in early layers whatever
    happens; a class made of two clumps scores low. Raises UsageError as `within_share`.
    """
    from sklearn.metrics import silhouette_score

    x, y = _checked(features, labels)
    _check_classes(x, y)
    return float(silhouette_score(x - x.mean(axis=0), y, metric="cosine"))


def knn(
    features: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    train_features: Num[np.ndarray, "m d"],
    train_labels: Int[np.ndarray, " m"],
) -> float:
    """Accuracy of asking the five nearest training images, cosine after centring.

    Majority of the labels of the 5 nearest among the *training* features, tested on `features`;
    a tie goes to the lowest label; the centre is the training mean (Cover & Hart 1967; as a
    probe: Wu et al. 2018). In [0, 1], higher is better, chance is one over the
    number of classes. Pitfalls: saturates in
    late layers; training images that the network has learnt by heart lie closer to their class
    than new ones. Raises UsageError for values that are not finite, wrong lengths or widths, one
    class only, and fewer than 5 training images.
    """
    from sklearn.neighbors import KNeighborsClassifier

    x, y, train_x, train_y = _checked_pair(features, labels, train_features, train_labels)
    if len(train_x) < NEIGHBOURS:
        raise UsageError(f"knn needs at least {NEIGHBOURS} training images; given {len(train_x)}")
    probe = KNeighborsClassifier(NEIGHBOURS, metric="cosine", algorithm="brute")
    probe.fit(train_x - train_x.mean(axis=0), train_y)
    return float((probe.predict(x - train_x.mean(axis=0)) == y).mean())


def probe(
    features: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    train_features: Num[np.ndarray, "m d"],
    train_labels: Int[np.ndarray, " m"],
) -> float:
    """Accuracy of the best linear reading of a layer, fitted on training features only.

    Multinomial logistic regression, tested on `features` (Alain & Bengio 2016; by scikit-learn).
    Features are centred and divided by one number, the root mean square distance of the training
    features to their mean, so that one penalty means the same for every network and every width:
    mean cross-entropy + PENALTY / 2 * ||w||^2. In [0, 1], higher is better, chance is one over
    the number of classes. Pitfalls: says what *can* be read, not what the network uses; wide
    layers read better by their width alone. Raises UsageError as `knn`.
    """
    from sklearn.linear_model import LogisticRegression

    x, y, train_x, train_y = _checked_pair(features, labels, train_features, train_labels)
    centre = train_x.mean(axis=0)
    scale = np.sqrt(np.square(train_x - centre).sum(axis=1).mean())
    if scale == 0:
        raise UsageError(f"training features must differ; all {len(train_x)} rows are equal")
    reading = LogisticRegression(C=1 / (PENALTY * len(train_x)), max_iter=10_000)
    reading.fit((train_x - centre) / scale, train_y)
    return float((reading.predict((x - centre) / scale) == y).mean())


PENALTY = 1e-4  # of the linear probe, chosen on pixels and random projections, not on networks

MEASURES: dict[str, Measure] = {
    "within_share": Measure(
        "Within-class share",
        within_share,
        "lower",
        0,
        1,
        "share of the spread that lies inside the classes; lower is more compact",
    ),
    "silhouette": Measure(
        "Silhouette",
        silhouette,
        "higher",
        -1,
        1,
        "how much closer images are to their own class than to the nearest other one",
    ),
    "knn": Measure(
        "k-NN accuracy",
        knn,
        "higher",
        0,
        1,
        "test accuracy of the majority of the 5 nearest training images",
        trained=True,
    ),
    "probe": Measure(
        "Linear probe accuracy",
        probe,
        "higher",
        0,
        1,
        "test accuracy of a linear classifier fitted on training features",
        trained=True,
    ),
}


def measure(
    features: Num[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    train_features: Num[np.ndarray, "m d"],
    train_labels: Int[np.ndarray, " m"],
    measures: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure one layer of one network on the test sample: every measure, or those named.

    MEASURES holds the title, range and direction of each. Raises UsageError for an unknown
    measure, and as the measures do.

        measure(test, y, train_features=train, train_labels=t)    # {"within_share": .41, ...}
    """
    names = list(MEASURES) if measures is None else list(measures)
    for name in names:
        one_of("measure", name, MEASURES)
    train = (train_features, train_labels)
    return {
        name: MEASURES[name].function(features, labels, *(train if MEASURES[name].trained else ()))
        for name in names
    }


def trustworthiness(
    near: Int[np.ndarray, "b n"], shown: Int[np.ndarray, "b n"], k: int = 15
) -> float:
    """Are neighbours on the map neighbours in the layer? 1 when no false neighbour is shown.

    1 - 2 / (n k (2n - 3k - 1)) * sum of (r - k) over all pairs that are among the k nearest on
    the map but only the r-th nearest in the layer (Venna & Kaski 2001). `near` and `shown` are
    the `ranks` in the layer and on the map, of all n images or of some. In [0, 1], higher is
    better, about .5 for a random map. Pitfalls: depends on n and k, so compare at equal n and k
    only; many equal distances (ReLU zeros) move it a little.
    """
    return 1 - _intruders(near, shown, k)


def continuity(near: Int[np.ndarray, "b n"], shown: Int[np.ndarray, "b n"], k: int = 15) -> float:
    """Are neighbours in the layer neighbours on the map? 1 when no neighbour is torn away.

    Trustworthiness with layer and map exchanged: the sum runs over pairs among the k nearest in
    the layer but only the r-th nearest on the map (Venna & Kaski 2001). In [0, 1], higher is
    better. Pitfall: a map that squeezes everything together scores high; read it beside
    trustworthiness.
    """
    return 1 - _intruders(shown, near, k)


def neighbours_kept(
    near: Int[np.ndarray, "b n"], shown: Int[np.ndarray, "b n"], k: int = 15
) -> float:
    """Mean share of an image's k nearest in the layer that are among its k nearest on the map.

    In [0, 1], higher is better, k / (n - 1) by chance (Lee & Verleysen 2009). Pitfall:
    strict, a neighbour shown as the (k + 1)-th counts as lost; .3 to .5 is usual for good maps.
    """
    return float(((near <= k) & (shown <= k)).sum() / (len(near) * k) - 1 / k)


def distance_correlation(
    features: Num[np.ndarray, "n d"], map: Num[np.ndarray, "n 2"], pairs: int = 50_000
) -> float:
    """Are far images far on the map? Spearman's correlation of distances in layer and map.

    Over the same `pairs` random pairs for every map, drawn with replacement. In [-1, 1], higher
    is better, 0 for a random map. Pitfall: most pairs are far pairs, so it says how true the
    arrangement of clusters is and nothing about neighbours; PCA often wins.
    """
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(len(features), size=(2, pairs))
    a, b = a[a != b], b[a != b]
    apart = [np.linalg.norm(x[a] - x[b], axis=1) for x in (features, map)]
    if any((those == those[0]).all() for those in apart):
        return 0.0
    return float(spearmanr(*apart).statistic)


def neighbourhood_change(
    features_a: Num[np.ndarray, "n d"], features_b: Num[np.ndarray, "n e"], k: int = 15
) -> Float[np.ndarray, " n"]:
    """Share of each image's k nearest in one space that are not among its k nearest in another.

    Of two layers or networks: what really changes for an image, which no motion between maps
    shows. Of a layer and its map: the error of each point, whose mean is 1 - neighbours kept. In
    [0, 1], 0 is the same neighbours, 1 - k / (n - 1) by chance. Euclidean, exact; equal distances
    go to the lower row. Raises UsageError for values that are not finite, different n, and unless
    k < n / 2.
    """
    a, b = _finite("features_a", features_a), _finite("features_b", features_b)
    if len(a) != len(b):
        raise UsageError(f"both spaces must hold the same images; given n = {len(a)}, {len(b)}")
    _check_k(k, len(a))
    kept = [((ranks(a, r) <= k) & (ranks(b, r) <= k)).sum(axis=1) - 1 for r in _blocks(len(a))]
    return 1 - np.concatenate(kept) / k


def map_knn(shown: Int[np.ndarray, "b n"], labels: Int[np.ndarray, " n"]) -> float:
    """Accuracy of asking an image's five nearest on the map, itself left out.

    Majority of the 5 labels; a tie goes to the lowest. In [0, 1], higher is better, chance is
    one over the number of classes. Pitfalls: says what the picture shows, not what the layer
    knows, and may exceed it: t-SNE sharpens clusters, and coupled maps borrow from each other, so
    only that of an uncoupled map is a measure. The layer's own is `knn`.
    """
    classes, answers = np.unique(labels, return_inverse=True)
    rows, asked = np.nonzero((shown >= 1) & (shown <= NEIGHBOURS))
    votes = np.zeros((len(shown), len(classes)))
    np.add.at(votes, (rows, answers[asked]), 1)
    own = answers[shown.argmin(axis=1)]
    return float((votes.argmax(axis=1) == own).mean())


FAITHFULNESS: dict[str, Measure] = {
    "trustworthiness": Measure(
        "Trustworthiness",
        trustworthiness,
        "higher",
        0,
        1,
        "neighbours on the map are neighbours in the layer",
    ),
    "continuity": Measure(
        "Continuity",
        continuity,
        "higher",
        0,
        1,
        "neighbours in the layer are neighbours on the map",
    ),
    "neighbours_kept": Measure(
        "Neighbours kept",
        neighbours_kept,
        "higher",
        0,
        1,
        "share of the nearest neighbours in the layer that stay the nearest on the map",
    ),
    "distance_correlation": Measure(
        "Distance correlation",
        distance_correlation,
        "higher",
        -1,
        1,
        "rank correlation of distances in the layer and on the map",
    ),
    "map_knn": Measure(
        "k-NN accuracy of the map",
        map_knn,
        "higher",
        0,
        1,
        "accuracy of the majority of the 5 nearest points on the map",
    ),
}


def faithfulness(
    features: Num[np.ndarray, "n d"],
    map: Num[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"],
    *,
    k: int = 15,
) -> dict[str, float]:
    """Say how far a map can be trusted: the five numbers of FAITHFULNESS.

    Distances are Euclidean, in the layer and on the map, for every method, although IVIS looks
    for cosine neighbours. The error of each point is `neighbourhood_change` of layer and map.
    Raises UsageError for values that are not finite, wrong lengths, one class only, and unless
    k < n / 2 and n > 5.

        faithfulness(layer, points, labels)                # {"trustworthiness": .97, ...}
    """
    x, y = _checked(features, labels)
    points = _finite("map", map)
    if points.shape != (len(x), 2):
        raise UsageError(f"map must be of shape ({len(x)}, 2); given {points.shape}")
    _check_k(k, len(x))
    if len(x) <= NEIGHBOURS:
        raise UsageError(f"faithfulness needs more than {NEIGHBOURS} images; given {len(x)}")
    parts, sizes = [], []
    for rows in _blocks(len(x)):
        near, shown = ranks(x, rows), ranks(points, rows)
        three = [f(near, shown, k) for f in (trustworthiness, continuity, neighbours_kept)]
        parts.append([*three, map_knn(shown, y)])
        sizes.append(len(near))
    trust, whole, kept, right = np.average(parts, axis=0, weights=sizes).tolist()
    return {
        "trustworthiness": trust,
        "continuity": whole,
        "neighbours_kept": kept,
        "distance_correlation": distance_correlation(x, points),
        "map_knn": right,
    }


def ranks(points: Num[np.ndarray, "n d"], rows: slice = slice(None)) -> Int[np.ndarray, "b n"]:
    """Rank all points by their Euclidean distance from each: 0 itself, 1 the nearest, ... n - 1.

    From those of `rows` only, where all would need too much memory. Equal distances are ranked by
    row number.
    """
    from sklearn.metrics.pairwise import euclidean_distances

    x = np.asarray(points, dtype=np.float64)
    x = x - x.mean(axis=0)
    asked = np.arange(len(x))[rows]
    distances = euclidean_distances(x[asked], x)
    distances[np.arange(len(asked)), asked] = -1
    order = distances.argsort(axis=1, kind="stable").astype(np.int32)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(len(x), dtype=np.int32)[None], axis=1)
    return place


def _blocks(n: int) -> list[slice]:
    """Some rows at a time: the memory needed grows with n, not with its square."""
    return [slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]


def _check_k(k: int, n: int) -> None:
    if not 1 <= k < n / 2:
        raise UsageError(f"k must be between 1 and {(n - 1) // 2} for n = {n} images; given {k}")


def _intruders(true: np.ndarray, judged: np.ndarray, k: int) -> float:
    """How far the k nearest of `judged` come from in `true`, as a share of the worst case."""
    asked, n = true.shape
    far = np.maximum(true - k, 0)[judged <= k].sum(dtype=np.int64)
    return float(2 * far / (asked * k * (2 * n - 3 * k - 1)))


def _finite(what: str, given: np.ndarray) -> Float[np.ndarray, "n d"]:
    x = np.asarray(given)
    if x.dtype.kind not in "fiub":
        raise UsageError(f"{what} must be real numbers; given {x.dtype}")
    x = x.astype(np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise UsageError(f"{what} must be (n, d) with n and d at least 1; given {x.shape}")
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x)).any(axis=1).sum())
        raise UsageError(f"{what} must be finite; {rows} of {len(x)} rows hold NaN or infinity")
    return x


def _checked(
    features: np.ndarray, labels: np.ndarray, what: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return features as float64 and labels, or say what is wrong with them."""
    x, y = _finite(f"{what}features", features), np.asarray(labels)
    if y.shape != (len(x),):
        raise UsageError(f"{what}labels must be ({len(x)},) as the features; given {y.shape}")
    if len(np.unique(y)) < 2:
        raise UsageError(f"{what}labels must hold at least two classes; given only {y[0]}")
    return x, y


def _checked_pair(
    features: np.ndarray, labels: np.ndarray, train_features: np.ndarray, train_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return test and training sample, or say what is wrong with them."""
    x, y = _checked(features, labels)
    train_x, train_y = _checked(train_features, train_labels, "training ")
    if x.shape[1] != train_x.shape[1]:
        raise UsageError(
            f"training features have {train_x.shape[1]} columns; the features have {x.shape[1]}"
        )
    return x, y, train_x, train_y


def _check_classes(x: np.ndarray, y: np.ndarray) -> None:
    """Raise where compactness is not defined."""
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        raise UsageError(f"every class needs two images; class {classes[counts.argmin()]} has one")
    if (x == x[0]).all():
        raise UsageError(f"features must differ; all {len(x)} rows are equal")
