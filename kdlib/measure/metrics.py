"""The measures of a layer, by name: the table MEASURES, and what computes it for a network.

Every measure is free of scale: the same layer at another scale, shifted or rotated gives the same
number. Raw distances of two networks cannot be compared. Measures of maps: `faithfulness`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kdlib import UsageError, one_of
from kdlib.measure import geometry, similarity
from kdlib.measure.space import Space


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
    pitfall: str = ""  # what it cannot be trusted for
    needs: str = ""  # beside a layer: "training" images, or the "teacher"'s layer
    depends_on_n: bool = False  # two values compare only if both are of equally many images;
    # so all of a study are, or statistics refuses
    only: str = ""  # the one layer it is defined for


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
        pitfall="Global: one far class hides two that overlap, which the silhouette shows; "
        "with few images a class low by chance, about (n - k) / n for k classes "
        "without any structure.",
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
        pitfall="Near 0 in early layers whatever happens; a class made of two clumps scores low.",
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
        pitfall="Saturates in late layers; training images that the network has memorised lie "
        "closer to their class than new ones.",
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
        pitfall="Measures what can be read off, not what the network uses; wide layers score "
        "higher because they are wide.",
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
        pitfall="Another scale of the within-class share, so no second piece of evidence.",
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
        pitfall="Another scale of the within-class share w, (1 - w) / w; late layers dominate "
        "plots.",
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
        pitfall="The worst pair of classes dominates.",
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
        pitfall="Averages hide one overlapping pair; the numerator by itself is no "
        "measure of compactness.",
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
        pitfall="Dominated by the two closest classes.",
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
        pitfall="Grows with n where d is near n, and with directions along which the means "
        "hardly differ; compare at equal n.",
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
        pitfall="Meaningful in the last layers only.",
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
        pitfall="Meaningful in the last layers only.",
    ),
    "ncc": Measure(
        "Nearest class mean",
        geometry.ncc,
        "higher",
        0,
        1,
        "test accuracy of predicting the class of the nearest mean of training images",
        r"\frac{1}{n} \sum_i [\arg\min_c |x_i - m_c| = y_i]",
        "papyan2020prevalence",
        pitfall="Fails for a class of two clumps, however clear they are.",
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
        pitfall="A few strong directions hide a long tail, which the effective rank counts.",
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
        pitfall="Grows with n where d is near n or above; compare at equal n and mind the width.",
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
        pitfall="Depends on n, since its scale is the distance to the nearest neighbour: "
        "compare at equal n; too low above about ten dimensions.",
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
        pitfall="Too low in many dimensions; its scale is wider than that of TwoNN.",
        depends_on_n=True,
    ),
    "cka": Measure(
        "CKA with the teacher",
        similarity.cka,
        "higher",
        -1,
        1,
        "similarity to the teacher's layer: debiased centred kernel alignment",
        r"\operatorname{HSIC}(X, Y) / \sqrt{\operatorname{HSIC}(X, X) \operatorname{HSIC}(Y, Y)}",
        "kornblith2019similarity",
        pitfall="One far image can decide it; the biased form is .67 for pure noise of n = 256"
        " images and d = 512 features.",
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
        pitfall="For pure noise it is .88 at n = 256, d = 512: compare at equal n and widths only.",
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
        pitfall="Depends on n and on the number of neighbours, 10: compare at equal ones only.",
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
        pitfall="Far pairs outnumber near ones, so it hardly reflects neighbourhoods.",
        needs="teacher",
    ),
    "agreement": Measure(
        "Agreement of predictions",
        similarity.agreement,
        "higher",
        0,
        1,
        "share of test images for which the network predicts the same class as its teacher",
        r"\frac{1}{n} \sum_i [\arg\max x_i = \arg\max y_i]",
        "stanton2021does",
        pitfall="Two good networks agree because both are right; read it beside their accuracy.",
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
    """Compute the measures of one layer: all that its data allow, or those named.

    Without training images in the space there are no probes, without the teacher's space of the
    same images no similarity, and a measure of one `layer` only is of that. Raises UsageError for
    an unknown measure, for one named that cannot be computed, and as the measures do.

        measure(Space(test, y, train, t), layer="block2")     # {"within_share": .41, ...}
    """
    available = {"": True, "training": space.trained, "teacher": teacher is not None}
    possible = [k for k, m in MEASURES.items() if available[m.needs] and m.only in ("", layer)]
    for name in measures or ():
        one_of("measure", name, MEASURES)
        if not available[MEASURES[name].needs]:
            raise UsageError(f"measure {name} needs {NEEDED[MEASURES[name].needs]}")
        if name not in possible:
            raise UsageError(f"measure {name} is of {MEASURES[name].only} only; given {layer!r}")
    values = {}
    for name in possible if measures is None else measures:
        entry = MEASURES[name]
        if entry.needs == "teacher":
            values[name] = entry.function(space, teacher)
        else:
            values[name] = entry.function(space)
    return values


def measure_layers(
    own: Mapping[str, Space], teacher: Mapping[str, Space] | None = None
) -> dict[str, dict[str, float]]:
    """Compute the measures of every layer, beside the teacher's layer of the same name.

    Returns {layer: {measure: value}}. Raises UsageError as `measure`, naming the layer.
    """
    values = {}
    for layer, space in own.items():
        try:
            values[layer] = measure(space, (teacher or {}).get(layer), layer=layer)
        except UsageError as problem:
            raise UsageError(f"{layer}: {problem}") from None
    return values
