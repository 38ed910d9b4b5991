"""How much faster are all measures of a network than one library call for each?

    python benchmarks/measures.py

Six layers of a network and of its teacher, 2,000 test and 2,000 training images. The other way
calls scikit-learn, SciPy or a plain formula anew for every measure of every layer, each with its
own distances, neighbours and spectrum. Prints by how much the two differ, too.
"""

import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from images import layers
from pairs import Row, device, keep, pairs, ratios
from scipy.spatial.distance import pdist
from scipy.stats import rankdata, spearmanr
from sklearn import metrics as sk
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid, NearestNeighbors
from threadpoolctl import threadpool_limits

from kdlib.measure import geometry, metrics, similarity, space

N = 2000
Layer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, train, t, other


def near(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest, searched for this measure only."""
    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors()


def spread(x: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Scatter within and between classes, their means and their sizes of spread."""
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(axis=0) for c in classes])
    inside = np.array([np.square(x[y == c] - m).sum() for c, m in zip(classes, means, strict=True)])
    counts = np.array([(y == c).sum() for c in classes])
    between = (counts * np.square(means - x.mean(axis=0)).sum(axis=1)).sum()
    return float(inside.sum()), float(between), means, inside / counts


def within_share(x: np.ndarray, y: np.ndarray) -> float:
    """tr S_W / tr S_T."""
    inside, between, _, _ = spread(x, y)
    return inside / (inside + between)


def intra_inter(x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance to the own mean over mean distance between means."""
    _, _, means, _ = spread(x, y)
    own = np.linalg.norm(x - means[np.unique(y, return_inverse=True)[1]], axis=1)
    return float(own.mean() / pdist(means).mean())


def cdnv(x: np.ndarray, y: np.ndarray) -> float:
    """Spread of two classes beside their squared distance."""
    _, _, means, size = spread(x, y)
    a, b = np.triu_indices(len(means), 1)
    return float(((size[a] + size[b]) / (2 * pdist(means, "sqeuclidean"))).mean())


def nc1(x: np.ndarray, y: np.ndarray) -> float:
    """tr(S_W S_B^+) / k."""
    _, _, means, _ = spread(x, y)
    own = x - means[np.unique(y, return_inverse=True)[1]]
    centred = means - means.mean(axis=0)
    inverse = np.linalg.pinv(centred.T @ centred / len(means), rcond=1e-16)
    return float(np.trace(own.T @ own / len(x) @ inverse) / len(means))


def nc2_norms(x: np.ndarray, y: np.ndarray) -> float:
    """Spread of the lengths of the centred class means."""
    _, _, means, _ = spread(x, y)
    far = np.linalg.norm(means - means.mean(axis=0), axis=1)
    return float(far.std() / far.mean())


def nc2_angles(x: np.ndarray, y: np.ndarray) -> float:
    """How far the class means are from a simplex."""
    _, _, means, _ = spread(x, y)
    cosine = 1 - pdist(means - means.mean(axis=0), "cosine")
    return float(np.abs(cosine + 1 / (len(means) - 1)).mean())


def knn(x: np.ndarray, y: np.ndarray, train: np.ndarray, t: np.ndarray) -> float:
    """Five nearest training images, by cosine."""
    centre = train.mean(axis=0)
    classifier = KNeighborsClassifier(5, metric="cosine").fit(train - centre, t)
    return float(classifier.score(x - centre, y))


def probe(x: np.ndarray, y: np.ndarray, train: np.ndarray, t: np.ndarray) -> float:
    """Multinomial logistic regression with the same penalty."""
    centre = train.mean(axis=0)
    scale = np.sqrt(np.square(train - centre).sum(axis=1).mean())
    classifier = LogisticRegression(C=1 / (1e-4 * len(train)), max_iter=10_000)
    return float(classifier.fit((train - centre) / scale, t).score((x - centre) / scale, y))


def participation_ratio(x: np.ndarray) -> float:
    """From the explained variance of a PCA."""
    values = PCA().fit(x).explained_variance_
    return float(values.sum() ** 2 / np.square(values).sum())


def effective_rank(x: np.ndarray) -> float:
    """From the singular values of a PCA."""
    p = PCA().fit(x).singular_values_
    p = p[p > 1e-7 * p[0]] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def twonn(x: np.ndarray) -> float:
    """From the two nearest of every image that differs."""
    far = near(np.unique(x, axis=0), 2)[0]
    ratio = np.sort(np.log(far[:, 1] / far[:, 0]))[: int(len(far) * 0.9)]
    share = -np.log1p(-np.arange(1, len(ratio) + 1) / len(far))
    return float(ratio @ share / (ratio @ ratio))


def mle(x: np.ndarray) -> float:
    """From the twenty nearest of every image that differs."""
    far = near(np.unique(x, axis=0), 20)[0]
    return float(1 / np.log(far[:, -1:] / far[:, :-1]).mean())


def cka(x: np.ndarray, other: np.ndarray) -> float:
    """Debiased, from the two n x n kernels as in its paper."""
    n = len(x)
    k, m = (a @ a.T for a in (x, other))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        both = np.vdot(a, b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(both - 2 / (n - 2) * a.sum(axis=0) @ b.sum(axis=0))

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def procrustes(x: np.ndarray, other: np.ndarray) -> float:
    """The nuclear norm of the product of both, centred and of norm 1."""
    a, b = (z - z.mean(axis=0) for z in (x, other))
    return float(np.linalg.norm((a / np.linalg.norm(a)).T @ (b / np.linalg.norm(b)), "nuc"))


def mutual_knn(x: np.ndarray, other: np.ndarray) -> float:
    """Share of the ten nearest in both, each searched anew."""
    a, b = near(x, 10)[1], near(other, 10)[1]
    return float(np.mean([len(np.intersect1d(*rows)) for rows in zip(a, b, strict=True)]) / 10)


def rsa(x: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of the distances of all pairs."""
    return float(spearmanr(pdist(x), pdist(other)).statistic)


def own_code(x: np.ndarray, y: np.ndarray) -> str:
    """What our silhouette and our ranks buy: how much faster they are than the libraries'."""
    layer = space.Space(x, y)
    distances = pdist(layer.x[:1000])
    with threadpool_limits(1):
        silhouette = seconds(lambda: sk.silhouette_score(layer.x, y, metric="cosine"))
        silhouette /= seconds(lambda: geometry.silhouette(layer))
        ranks = seconds(lambda: rankdata(distances))
        ranks /= seconds(lambda: similarity.ranked(distances))
    return f"silhouette by itself {silhouette:.0f} times, ranks of distances {ranks:.1f} times"


def seconds(compute: Callable[[], Any]) -> float:
    """The shortest of five trials."""
    return min(timeit.repeat(compute, number=1, repeat=5))


def baseline(layer: str, one: Layer) -> dict[str, float]:
    """Every measure of one layer, each by a call of its own."""
    x, y, train, t, other = one
    of_classes: dict[str, Callable[..., Any]] = {
        "within_share": within_share,
        "silhouette": lambda x, y: sk.silhouette_score(x - x.mean(axis=0), y, metric="cosine"),
        "within_rms": lambda x, y: np.sqrt(within_share(x, y)),
        "fisher": lambda x, y: sk.calinski_harabasz_score(x, y) * 9 / (len(x) - 10),
        "davies_bouldin": sk.davies_bouldin_score,
        "intra_inter": intra_inter,
        "cdnv": cdnv,
        "nc1": nc1,
        "nc2_norms": nc2_norms,
        "nc2_angles": nc2_angles,
    }
    values = {name: f(x, y) for name, f in of_classes.items()}
    values |= {"knn": knn(x, y, train, t), "probe": probe(x, y, train, t)}
    values["ncc"] = NearestCentroid().fit(train, t).score(x, y)
    values |= {f.__name__: f(x) for f in (participation_ratio, effective_rank, twonn, mle)}
    values |= {f.__name__: f(x, other) for f in (cka, procrustes, mutual_knn, rsa)}
    if layer == "logits":
        values["agreement"] = (x.argmax(axis=1) == other.argmax(axis=1)).mean()
    return values


def main() -> None:
    """Measure the row, and how far both ways agree."""
    where = device(__doc__)
    (own, train, y, t), (teacher, teacher_train, _, _) = layers(0, N, 0.5), layers(1, N)
    made = {}

    def ours() -> None:
        """As the notebook does: the spaces, then every measure of each."""
        spaces = space.spaces(own, y, train, t), space.spaces(teacher, y, teacher_train, t)
        made["ours"] = metrics.measure_layers(*spaces)

    def theirs() -> None:
        made["theirs"] = {
            layer: baseline(layer, (x.astype(float), y, train[layer].astype(float), t, other))
            for layer, x in own.items()
            for other in [teacher[layer].astype(float)]
        }

    row = Row(
        "measures",
        f"all {len(metrics.MEASURES)} measures of one network, 6 layers, n = {N:,}",
        "one library call per measure and layer, each with its own neighbours and spectrum",
        4.0,
    )
    with threadpool_limits(1):
        measured = pairs(theirs, ours)
    ours_of, theirs_of = made["ours"], made["theirs"]
    apart = {
        name: max(abs(ours_of[k][name] / v[name] - 1) for k, v in theirs_of.items() if name in v)
        for name in theirs_of["logits"]
    }
    sampled = apart.pop("rsa")
    worst = max(apart, key=apart.__getitem__)
    note = f"both agree to {apart[worst]:.0e} ({worst} differs most); RSA, of all pairs there and "
    note += f"of 1,000 images here, to {sampled:.3f}; {own_code(next(iter(own.values())), y)}"
    print(note)
    why = "ranks of distances, the search for neighbours and the probe's fit take most"
    keep(row, ratios(row, measured), where, why, note)


if __name__ == "__main__":
    main()
