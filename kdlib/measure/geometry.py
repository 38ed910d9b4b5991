"""Numbers about one layer: how compact its classes are, what can be read off it, its shape.

Every measure takes a `Space` and is free of scale: the same layer larger, shifted or rotated gives
the same number. S_W, S_B and S_T are the scatter within classes, between them, and in total. What
each cannot be trusted for is its `pitfall` in `metrics.MEASURES`.
"""

from __future__ import annotations

import math

import numpy as np

from kdlib import UsageError, neighbours
from kdlib.measure.space import Space

VOTES = 5  # nearest neighbours whose majority is the output of a k-NN probe
PENALTY = 1e-4  # of the linear probe, chosen on pixels and random projections, not on networks
FITTED = 0.9  # of the images, those with the smaller ratios, that TwoNN is fitted to
LEAST = 10  # images without which no dimension can be estimated


# ---- compactness -------------------------------------------------------------------------------


def within_share(space: Space) -> float:
    """Share of the spread that is inside the classes: tr S_W / tr S_T, lower is more compact.

    S_T sums the squared distances to the grand mean, S_W those to the mean of the own class. In
    [0, 1]: 0 when each class is one point, 1 when all classes have one mean. It is 1 - eta^2 of
    the analysis of variance. Raises UsageError where a class has one image.
    """
    return float(np.square(space.within).sum() / np.square(space.x).sum())


def within_rms(space: Space) -> float:
    """Root mean square distance to the own class's mean, that to the grand mean being 1.

    sqrt(tr S_W / tr S_T), in [0, 1], lower is more compact. Raises UsageError as `within_share`.
    """
    return math.sqrt(within_share(space))


def fisher(space: Space) -> float:
    """Spread between classes over spread within: tr S_B / tr S_W, higher is more compact.

    From 0 to infinity, which it is when each class is one point. Calinski and Harabasz's index is
    (n - k) / (k - 1) times as large and so grows with n. Raises UsageError as `within_share`.
    """
    share = within_share(space)
    return (1 - share) / share if share else math.inf


def silhouette(space: Space) -> float:
    """How much closer an image is to its own class than to the nearest other one, on average.

    Mean of (b - a) / max(a, b): a is the mean cosine distance to the other images of the own
    class, b that to the nearest other class, after centring. In [-1, 1], higher is better, 0 is
    no structure. An image exactly at the centre has no direction: distance 1 to all others.
    Raises UsageError as `within_share`.
    """
    # Ours, for cosine distances add up: n k dot products do for scikit-learn's n n, and take a
    # 22nd of the time at n = 1,000 and an 80th at n = 10,000 (`benchmarks/measures.py`).
    length = np.linalg.norm(space.x, axis=1, keepdims=True)
    unit = np.divide(space.x, length, out=np.zeros_like(space.x), where=length > 0)
    sums = np.zeros_like(space.means)
    np.add.at(sums, space.y, unit)
    distances = space.counts - unit @ sums.T  # (n, k): summed over the images of each class
    rows = np.arange(len(distances))
    itself = 1.0 - np.square(unit).sum(axis=1)  # 0, or 1 where there is no direction
    a = (distances[rows, space.y] - itself) / (space.counts[space.y] - 1)
    distances = distances / space.counts
    distances[rows, space.y] = np.inf
    b = distances.min(axis=1)
    top = np.maximum(a, b)
    return float(np.divide(b - a, top, out=np.zeros_like(a), where=top > 0).mean())


def davies_bouldin(space: Space) -> float:
    """How large two classes are beside their distance, for each class's worst partner.

    Mean over classes c of max over k of (s_c + s_k) / d_ck: s is the mean distance to the class
    mean, d that between means. From 0 to infinity, lower is better. Raises UsageError where two
    classes have one mean, or a class one image.
    """
    from sklearn.metrics import davies_bouldin_score

    _ = space.apart  # raises where two means are equal
    return float(davies_bouldin_score(space.x, space.y))


def intra_inter(space: Space) -> float:
    """Mean distance to the own class's mean over mean distance between class means.

    From 0 to infinity, lower is more compact; the ratio, and only the ratio, has no scale.
    Raises UsageError as `davies_bouldin`.
    """
    apart = space.apart[np.triu_indices(len(space.classes), 1)]
    return float(np.linalg.norm(space.within, axis=1).mean() / apart.mean())


def cdnv(space: Space) -> float:
    """Class-distance normalised variance: spread of two classes beside their squared distance.

    Mean over pairs of classes of (v_c + v_k) / (2 |m_c - m_k|^2), v the mean squared distance to
    the class mean. From 0 to infinity, lower is more compact; needs no inverse, so it serves in
    inner layers where NC1 does not. Raises UsageError as `davies_bouldin`.
    """
    spread = np.bincount(space.y, np.square(space.within).sum(axis=1)) / space.counts
    ratio = (spread[:, None] + spread) / (2 * np.square(space.apart))
    return float(ratio[np.triu_indices(len(spread), 1)].mean())


def nc1(space: Space) -> float:
    """Neural collapse, first sign: spread within classes in the directions that tell them apart.

    tr(S_W S_B^+) / k, S_W the mean over images, S_B over classes, S_B^+ the pseudo-inverse on the
    span of the class means (directions below 1e-8 of the largest are left out). From 0 (each
    class one point) to infinity, lower is more compact. Raises UsageError where a class has one
    image, or all classes have one mean.
    """
    k = len(space.classes)
    means = space.means - space.means.mean(axis=0)
    _, size, axes = np.linalg.svd(means / math.sqrt(k), full_matrices=False)
    if size[0] <= 1e-8 * np.abs(space.x).max():
        raise UsageError(f"class means must differ; those of all {k} classes are equal")
    spanned = size > 1e-8 * size[0]
    spread = np.square(space.within @ axes[spanned].T).mean(axis=0)
    return float((spread / np.square(size[spanned])).sum() / k)


def nc2_norms(space: Space) -> float:
    """Neural collapse, second sign: are all class means equally far from their centre?

    Standard deviation over mean of |m_c - m|. From 0, where they are; lower is more collapsed.
    Raises UsageError as `within_share`.
    """
    lengths = np.linalg.norm(space.means - space.means.mean(axis=0), axis=1)
    if lengths.mean() == 0:
        raise UsageError(f"class means must differ; those of all {len(lengths)} classes are equal")
    return float(lengths.std() / lengths.mean())


def nc2_angles(space: Space) -> float:
    """Neural collapse, second sign: do all class means stand at equal, widest angles?

    Mean over pairs of |cos(m_c - m, m_k - m) + 1 / (k - 1)|. In [0, 2], 0 for a simplex; lower
    is more collapsed. Always 0 for two classes. Raises UsageError where a class mean is the
    centre, and as `within_share`.
    """
    means = space.means - space.means.mean(axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if lengths.min() == 0:
        raise UsageError("class means must differ from their centre; one does not")
    cosine = (means / lengths) @ (means / lengths).T
    k = len(means)
    return float(np.abs(cosine[np.triu_indices(k, 1)] + 1 / (k - 1)).mean())


# ---- accuracy ----------------------------------------------------------------------------------


def knn(space: Space) -> float:
    """Accuracy of predicting the class of an image from its five nearest training images.

    Cosine distance after centring by the training mean; majority of the labels of the 5 nearest
    among the *training* features, a tie goes to the lowest label. In [0, 1], higher is better,
    chance is one over the number of classes. Raises UsageError without training images, or fewer
    than 5.
    """
    features, labels = space.train
    if len(features) < VOTES:
        raise UsageError(f"knn needs at least {VOTES} training images; given {len(features)}")
    centre = features.mean(axis=0)
    test, train = _directions(space.raw - centre), _directions(features - centre)
    classes, y = np.unique(labels, return_inverse=True)
    voters = y[neighbours.nearest(test, VOTES, among=train).rows]  # (n, 5)
    votes = (voters[:, :, None] == np.arange(len(classes))).sum(axis=1)
    return float((classes[votes.argmax(axis=1)] == space.labels).mean())


def _directions(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, whose Euclidean distances order as cosine distances of x do.

    A row without a direction, all zeros, is at a right angle to those that have one.
    """
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.concatenate([x / np.where(length > 0, length, 1), length == 0], axis=1)


def probe(space: Space) -> float:
    """Accuracy of the best linear classifier of a layer, fitted on training features only.

    Multinomial logistic regression (by scikit-learn). Features are centred and divided by one
    number, the root mean square distance of the training features to their mean, so that one
    penalty means the same for every network and every width: mean cross-entropy + PENALTY / 2 *
    ||w||^2. In [0, 1], higher is better, chance is one over the number of classes. Raises
    UsageError without training images, or where they are all equal.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels = space.train
    centre = features.mean(axis=0)
    scale = np.sqrt(np.square(features - centre).sum(axis=1).mean())
    if scale == 0:
        raise UsageError(f"training features must differ; all {len(features)} rows are equal")
    classifier = LogisticRegression(C=1 / (PENALTY * len(features)), max_iter=10_000)
    classifier.fit((features - centre) / scale, labels)
    return float((classifier.predict((space.raw - centre) / scale) == space.labels).mean())


def ncc(space: Space) -> float:
    """Accuracy of predicting the class whose mean of *training* images is the nearest.

    Euclidean distance; a tie goes to the lowest label. In [0, 1], higher is better, chance is one
    over the number of classes. Neural collapse's fourth sign is that the network decides so
    itself. Raises UsageError without training images.
    """
    features, labels = space.train
    classes = np.unique(labels)
    means = np.stack([features[labels == c].mean(axis=0) for c in classes])
    distances = np.square(means).sum(axis=1) - 2 * space.raw @ means.T  # squared, up to |x|^2
    return float((classes[distances.argmin(axis=1)] == space.labels).mean())


# ---- shape -------------------------------------------------------------------------------------


def participation_ratio(space: Space) -> float:
    """How many directions share the spread: (sum of l)^2 / sum of l^2 over the spectrum.

    In [1, min(n, d)]: m where m directions have equal variance. Neither direction is better.
    """
    values = space.spectrum
    return float(values.sum() ** 2 / np.square(values).sum())


def effective_rank(space: Space) -> float:
    """How many directions are in use: exp of the entropy of the singular values.

    exp(-sum p log p) with p the singular values divided by their sum (RankMe takes the same of
    features that are not centred). In [1, min(n, d)]. Neither direction is better.
    """
    values = np.sqrt(space.spectrum)
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def twonn(space: Space) -> float:
    """Intrinsic dimension from two neighbours: how fast does the second follow the first?

    With r = second / first nearest distance, -log(1 - F(r)) = d log r: the slope through the
    origin over the 90 % of images with the smallest r, F the share of images up to r. Above 0;
    neither direction is better. Of images that are equal only one counts. Raises UsageError where
    fewer than 10 remain, or all nearest neighbours are equally far.
    """
    distances = _distances(space, "twonn")
    n = len(distances)
    x = np.sort(np.log(distances[:, 1] / distances[:, 0]))[: int(n * FITTED)]
    y = -np.log1p(-np.arange(1, len(x) + 1) / n)
    return float(x @ y / (x @ x))


def mle(space: Space) -> float:
    """Intrinsic dimension from 20 neighbours: how fast do they become more with distance?

    1 / mean of log(T_20 / T_j) over the images and j = 1 .. 19, T_j the distance to the j-th
    nearest (Levina and Bickel's estimator with the inverses averaged, as MacKay and Ghahramani
    correct it). Above 0; neither direction is better. Of images that are equal only one counts.
    Of fewer than 21 images all others are neighbours. Raises UsageError where fewer than 10
    remain, or all neighbours are equally far.
    """
    distances = _distances(space, "mle")
    return float(1 / np.log(distances[:, -1:] / distances[:, :-1]).mean())


def _distances(space: Space, name: str) -> np.ndarray:
    distances = space.distances
    n = len(distances)
    if n < LEAST:
        raise UsageError(f"{name} needs at least {LEAST} images that differ; given {n}")
    if np.ptp(distances[:, :2] / distances[:, :1]) < 1e-9:
        raise UsageError(f"{name} needs distances that differ; all neighbours are equally far")
    return distances
