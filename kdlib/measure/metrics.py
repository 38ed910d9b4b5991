"""Numbers about layers and maps, in one table each: MEASURES and FAITHFULNESS.

Every measure of a layer is free of scale: the same layer at another scale, shifted or rotated
gives the same number. Raw distances of two networks cannot be compared.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from kdlib import UsageError, one_of
from kdlib.measure import geometry, similarity
from kdlib.measure.geometry import NEIGHBOURS
from kdlib.measure.space import Space, checked, finite

BLOCK = 1000  # images whose neighbours are ranked at a time
CORE = 0.95  # of a class, whose hull is looked at
SHOWN = 10  # neighbours of every image that a map can name


class Measure(NamedTuple):
    """One number about a layer or a map, in the words of charts and chapters."""

    title: str
    function: Callable[..., float]
    better: str  # "lower", "higher" or "neither direction"
    low: float
    high: float
    text: str
    formula: str = ""  # LaTeX
    source: str = ""  # a key of book/references.bib
    needs: str = ""  # beside a layer: "training" images, or the "teacher"'s layer
    depends_on_n: bool = False  # two values compare only if both are of equally many images;
    # so all of a study are, or statistics refuses
    only: str = ""  # the one layer it is defined for

    @property
    def pitfall(self) -> str:
        """What it cannot be trusted for: the paragraph of its function that says so."""
        told = re.split("Pitfalls?: ", inspect.getdoc(self.function) or "")[-1]
        return " ".join(told.split("\n\n")[0].split())


INFINITY = float("inf")
NEEDED = {"training": "training images", "teacher": "the teacher's layer of the same images"}

MEASURES: dict[str, Measure] = {
    "within_share": Measure(
        "Within-class share",
        geometry.within_share,
        "lower",
        0,
        1,
        "share of the spread that lies inside the classes; lower is more compact",
        r"\operatorname{tr} S_W / \operatorname{tr} S_T",
        "fisher1936use",
    ),
    "silhouette": Measure(
        "Silhouette",
        geometry.silhouette,
        "higher",
        -1,
        1,
        "how much closer images are to their own class than to the nearest other one",
        r"\frac{1}{n} \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}",
        "rousseeuw1987silhouettes",
    ),
    "knn": Measure(
        "k-NN accuracy",
        geometry.knn,
        "higher",
        0,
        1,
        "test accuracy of the majority of the 5 nearest training images",
        r"\frac{1}{n} \sum_i [\operatorname{majority}_5(x_i) = y_i]",
        "cover1967nearest",
        needs="training",
    ),
    "probe": Measure(
        "Linear probe accuracy",
        geometry.probe,
        "higher",
        0,
        1,
        "test accuracy of a linear classifier fitted on training features",
        r"\frac{1}{n} \sum_i [\arg\max_c (W x_i + b)_c = y_i]",
        "alain2016understanding",
        needs="training",
    ),
    "within_rms": Measure(
        "Within-class distance",
        geometry.within_rms,
        "lower",
        0,
        1,
        "root mean square distance to the class mean, that to the grand mean being 1",
        r"\sqrt{\operatorname{tr} S_W / \operatorname{tr} S_T}",
        "fisher1936use",
    ),
    "fisher": Measure(
        "Fisher ratio",
        geometry.fisher,
        "higher",
        0,
        INFINITY,
        "spread between the classes over spread inside them",
        r"\operatorname{tr} S_B / \operatorname{tr} S_W",
        "fisher1936use",
    ),
    "davies_bouldin": Measure(
        "Davies-Bouldin index",
        geometry.davies_bouldin,
        "lower",
        0,
        INFINITY,
        "size of two classes beside their distance, for the worst partner of each",
        r"\frac{1}{k} \sum_c \max_{c' \neq c} \frac{s_c + s_{c'}}{|m_c - m_{c'}|}",
        "davies1979cluster",
    ),
    "intra_inter": Measure(
        "Intra / inter distance",
        geometry.intra_inter,
        "lower",
        0,
        INFINITY,
        "mean distance to the class mean over mean distance between class means",
        r"\overline{|x_i - m_{y_i}|} \,/\, \overline{|m_c - m_{c'}|}",
        "fisher1936use",
    ),
    "cdnv": Measure(
        "Class-distance variance",
        geometry.cdnv,
        "lower",
        0,
        INFINITY,
        "spread of two classes beside their squared distance, over all pairs",
        r"\overline{(v_c + v_{c'}) / (2 |m_c - m_{c'}|^2)}",
        "galanti2022role",
    ),
    "nc1": Measure(
        "Neural collapse 1",
        geometry.nc1,
        "lower",
        0,
        INFINITY,
        "spread inside classes along the directions that tell them apart",
        r"\operatorname{tr}(S_W S_B^{+}) / k",
        "papyan2020prevalence",
        depends_on_n=True,
    ),
    "nc2_norms": Measure(
        "Neural collapse 2, norms",
        geometry.nc2_norms,
        "lower",
        0,
        INFINITY,
        "how unequally far the class means are from their centre",
        r"\operatorname{sd} |m_c - m| \,/\, \overline{|m_c - m|}",
        "papyan2020prevalence",
    ),
    "nc2_angles": Measure(
        "Neural collapse 2, angles",
        geometry.nc2_angles,
        "lower",
        0,
        2,
        "how far the class means are from a simplex, where all angles are equal and widest",
        r"\overline{|\cos(m_c - m, m_{c'} - m) + 1 / (k - 1)|}",
        "papyan2020prevalence",
    ),
    "ncc": Measure(
        "Nearest class mean",
        geometry.ncc,
        "higher",
        0,
        1,
        "test accuracy of asking for the nearest class mean of training images",
        r"\frac{1}{n} \sum_i [\arg\min_c |x_i - m_c| = y_i]",
        "papyan2020prevalence",
        needs="training",
    ),
    "participation_ratio": Measure(
        "Participation ratio",
        geometry.participation_ratio,
        "neither direction",
        1,
        INFINITY,
        "how many directions share the spread",
        r"(\sum_j \lambda_j)^2 / \sum_j \lambda_j^2",
        "gao2017theory",
    ),
    "effective_rank": Measure(
        "Effective rank",
        geometry.effective_rank,
        "neither direction",
        1,
        INFINITY,
        "how many directions are in use: exp of the entropy of the singular values",
        r"\exp\bigl(-\sum_j p_j \log p_j\bigr), \; p_j = \sigma_j / \sum \sigma",
        "roy2007effective",
        depends_on_n=True,
    ),
    "twonn": Measure(
        "Intrinsic dimension (TwoNN)",
        geometry.twonn,
        "neither direction",
        0,
        INFINITY,
        "dimension from the ratio of the distances to the two nearest images",
        r"-\log(1 - F(\mu)) = d \log \mu, \; \mu = r_2 / r_1",
        "facco2017estimating",
        depends_on_n=True,
    ),
    "mle": Measure(
        "Intrinsic dimension (MLE)",
        geometry.mle,
        "neither direction",
        0,
        INFINITY,
        "dimension from the distances to the 20 nearest images",
        r"\Bigl(\overline{\log(T_{20} / T_j)}\Bigr)^{-1}",
        "levina2004maximum",
        depends_on_n=True,
    ),
    "cka": Measure(
        "CKA with the teacher",
        similarity.cka,
        "higher",
        -1,
        1,
        "likeness to the teacher's layer: debiased centred kernel alignment",
        r"\operatorname{HSIC}(X, Y) / \sqrt{\operatorname{HSIC}(X, X) \operatorname{HSIC}(Y, Y)}",
        "kornblith2019similarity",
        needs="teacher",
    ),
    "procrustes": Measure(
        "Procrustes similarity",
        similarity.procrustes,
        "higher",
        0,
        1,
        "how well the best rotation lays the layer on the teacher's",
        r"\|X^\top Y\|_*, \; \|X\| = \|Y\| = 1",
        "williams2021generalized",
        needs="teacher",
        depends_on_n=True,
    ),
    "mutual_knn": Measure(
        "Shared neighbours",
        similarity.mutual_knn,
        "higher",
        0,
        1,
        "share of the 10 nearest images that are the 10 nearest in the teacher's layer, too",
        r"\overline{|N_{10}(x_i) \cap N_{10}(y_i)|} / 10",
        "huh2024platonic",
        needs="teacher",
        depends_on_n=True,
    ),
    "rsa": Measure(
        "Agreement of distances",
        similarity.rsa,
        "higher",
        -1,
        1,
        "rank correlation of all distances with those in the teacher's layer",
        r"\rho\bigl(|x_i - x_j|, |y_i - y_j|\bigr)",
        "kriegeskorte2008representational",
        needs="teacher",
    ),
    "agreement": Measure(
        "Agreement of predictions",
        similarity.agreement,
        "higher",
        0,
        1,
        "share of test images that the network names as its teacher does",
        r"\frac{1}{n} \sum_i [\arg\max x_i = \arg\max y_i]",
        "stanton2021does",
        needs="teacher",
        only="logits",
    ),
}


def measure(
    space: Space,
    teacher: Space | None = None,
    *,
    layer: str = "",
    measures: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure one layer: every measure that can be, or those named.

    Without training images in the space there are no probes, without the teacher's space of the
    same images no likeness, and a measure of one `layer` only is of that. MEASURES holds what is
    to be known of each. Raises UsageError for an unknown measure, for one named that cannot be,
    and as the measures do.

        measure(Space(test, y, train, t), layer="block2")     # {"within_share": .41, ...}
    """
    can = {"": True, "training": space.trained, "teacher": teacher is not None}
    fits = [k for k, m in MEASURES.items() if can[m.needs] and m.only in ("", layer)]
    for name in measures or ():
        one_of("measure", name, MEASURES)
        if not can[MEASURES[name].needs]:
            raise UsageError(f"measure {name} needs {NEEDED[MEASURES[name].needs]}")
        if name not in fits:
            raise UsageError(f"measure {name} is of {MEASURES[name].only} only; given {layer!r}")
    return {
        name: MEASURES[name].function(space, *([teacher] * (MEASURES[name].needs == "teacher")))
        for name in (fits if measures is None else measures)
    }


def network(
    own: Mapping[str, Space], teacher: Mapping[str, Space] | None = None
) -> dict[str, dict[str, float]]:
    """Measure every layer of a network, beside the teacher's layer of the same name.

    Returns {layer: {measure: value}}. Raises UsageError as `measure`, naming the layer.
    """
    values = {}
    for layer, space in own.items():
        try:
            values[layer] = measure(space, (teacher or {}).get(layer), layer=layer)
        except UsageError as problem:
            raise UsageError(f"{layer}: {problem}") from None
    return values


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
    a, b = finite("features_a", features_a), finite("features_b", features_b)
    if len(a) != len(b):
        raise UsageError(f"both spaces must hold the same images; given n = {len(a)}, {len(b)}")
    _check_k(k, len(a))
    kept = [((ranks(a, r) <= k) & (ranks(b, r) <= k)).sum(axis=1) - 1 for r in _blocks(len(a))]
    return 1 - np.concatenate(kept) / k


def nearest(features: Num[np.ndarray, "n d"], k: int = SHOWN) -> Int[np.ndarray, "n k"]:
    """Find the k images that a layer sees most like each, the nearest first, itself left out.

    Row numbers; cosine after centring, exact, as the `knn` measure asks. Equal distances go to the
    lower row; an image at the centre has no direction and is at distance 1 from all. Raises
    UsageError for values that are not finite and unless 1 <= k < n.
    """
    x = finite("features", features)
    if not 1 <= k < len(x):
        raise UsageError(f"k must be between 1 and {len(x) - 1} for n = {len(x)}; given {k}")
    x = x - x.mean(axis=0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    near = []
    for rows in _blocks(len(x)):
        far = (1 - unit[rows] @ unit.T).round(12)  # what is equal but for rounding is equal
        far[np.arange(len(far)), np.arange(len(x))[rows]] = np.inf
        near.append(far.argsort(axis=1, kind="stable")[:, :k])
    return np.concatenate(near)


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


def map_silhouette(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> float:
    """How much nearer an image's own class lies on the map than the nearest other: mean silhouette.

    Rousseeuw 1987, Euclidean. In [-1, 1], higher is more compact. Pitfalls: depends on the method
    and its parameters more than on the layer, whose own is `silhouette`; of uncoupled maps only.
    Raises UsageError for values that are not finite, wrong lengths and one class only.
    """
    from sklearn.metrics import silhouette_score

    x, y = checked(points, labels)
    return float(silhouette_score(x, y))


def map_hulls(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> float:
    """How much of the map do the classes cover? Summed area of their hulls over the hull of all.

    The convex hull of each class and that of all images, both of the 95 % of every class that lie
    nearest to its mean. In [0, k] for k classes, lower is more compact; above 1 hulls must
    overlap. A class of fewer than three places, or in a line, has no area; a map without any area
    has the value 1. Pitfalls: depends on the method, its parameters and its seed more than on the
    layer; a class in two clumps covers what lies between them; of uncoupled maps only. Raises
    UsageError as `map_silhouette`.
    """
    x, y = checked(points, labels)
    kept = []
    for label in np.unique(y):
        own = x[y == label]
        far = np.linalg.norm(own - own.mean(axis=0), axis=1)
        kept.append(own[far.argsort(kind="stable")[: int(np.ceil(CORE * len(own)))]])
    whole = _area(np.concatenate(kept))
    return float(sum(map(_area, kept)) / whole) if whole else 1.0


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


MAP_MEASURES: dict[str, Measure] = {  # numbers about maps; of uncoupled ones only
    "map_knn": FAITHFULNESS["map_knn"],
    "map_silhouette": Measure(
        "Silhouette of the map",
        map_silhouette,
        "higher",
        -1,
        1,
        "how much nearer a point lies to its own class than to the nearest other one",
        source="rousseeuw1987silhouettes",
    ),
    "map_hulls": Measure(
        "Class hulls of the map",
        map_hulls,
        "lower",
        0,
        INFINITY,
        "summed area of the classes' hulls over that of all; above 1 they must overlap",
    ),
}


def map_measures(points: Num[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Say what a map shows of the classes: the numbers of PICTURED.

    Of a map drawn for itself: coupled ones borrow from each other. Raises UsageError as
    `map_silhouette`.
    """
    return {
        "map_knn": map_knn(ranks(points), labels),
        "map_silhouette": map_silhouette(points, labels),
        "map_hulls": map_hulls(points, labels),
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
    x, y = checked(features, labels)
    points = finite("map", map)
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
