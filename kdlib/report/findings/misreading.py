"""How maps mislead: settings, starts, failures, noise, coupling and supervision, in numbers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown

from kdlib import embed
from kdlib.embed.compare import INDEPENDENT, PACKAGE, PROCEDURES
from kdlib.measure import comparison
from kdlib.measure.faithfulness import FAITHFULNESS
from kdlib.report import charts, tables
from kdlib.report.findings.words import NO_MAPS
from kdlib.store import Results

FAITHFUL = ["trustworthiness", "neighbours_kept"]
SPACES = {  # where an image's nearest neighbours are taken from -> column of `early_layers`
    "original space": "in the layer",
    "own start": f"on {embed.TITLES['tsne']}",
    "ivis": f"on {embed.TITLES['ivis']}",
    "pca": f"on {embed.TITLES['pca']}",
}
NOT_COMPARED = Markdown("*This study did not compare maps of one layer.*")
QUOTED = (  # by the chapter
    *("method", "n", "layer", "noisy", "first", "shuffled", "unsupervised", "spread"),
    *("tsne-trust", "tsne-apart"),
    *("ivis-trust", "ivis-neighbours", "ivis-silhouette", "ivis-silhouette-baseline"),
    *("ivis-apart", "tsne-floor", "bounds", "broken", "share-shared", "share-coupled"),
    *("turned-own start", "turned-shared start", "turned-coupled"),
    *("mean-trustworthiness", "mean-neighbours_kept", "rise-coupled", "rise-own"),
    *("change-trustworthiness", "change-neighbours_kept"),
    "engines",
    *("first-original space", "first-own start", "first-ivis", "first-pca"),
)
NOISE = 0.5  # a noise floor above which the movement between two maps means nothing


def facts(results: Results) -> dict[str, Any]:
    """Give all numbers of the chapter, by the section that quotes them; words where there is none.

    A study may lack the sweeps, the comparison of procedures, or one of the embeddings.
    """
    numbers: dict[str, Any] = dict.fromkeys(QUOTED, "not measured")
    numbers["all"] = len(results.labels)
    numbers["made"] = engine(results)
    numbers["lead"] = NOT_COMPARED
    if _swept(results):
        numbers |= {
            "method": method(results),
            "n": results.sweeps["image"].nunique(),
            "layer": results.sweeps["layer"].iloc[0],
            **settings(results),
            **engines(results),
            **noise(results),
        }
    if _compared(results):
        numbers |= coupling(results) | supervision(results) | first_layer(results)
    return numbers


def _swept(results: Results) -> bool:
    """Whether maps of a baseline and of one distilled student were made by several settings."""
    return results.sweeps["run"].nunique() == 2


def _compared(results: Results) -> bool:
    """Whether maps of two students were made by several procedures."""
    return _swept(results) and "coupled" in set(results.comparison["procedure"])


def sweep(results: Results, embedding: str) -> Any:
    """Draw the maps of one layer by an embedding's settings, where they were made."""
    if not _swept(results) or embedding not in set(results.sweeps["embedding"]):
        return NOT_COMPARED
    return charts.sweep(results, embedding)


def both_engines(results: Results) -> Any:
    """Draw IVIS maps of one layer by our engine and by its package, where both were made."""
    if PACKAGE not in set(results.sweeps["embedding"]):
        return NOT_COMPARED
    return charts.engines(results)


def method(results: Results) -> str:
    """Name the method of the distilled student on the maps."""
    methods = results.runs.set_index("run")["method"]
    _, distilled = _pair(results)
    return str(methods[distilled])


def _pair(results: Results) -> tuple[str, str]:
    """Name the baseline and the distilled student whose maps were swept."""
    baseline, distilled = dict.fromkeys(results.sweeps["run"])
    return baseline, distilled


def _span(values: pd.Series) -> str:
    """Write the smallest and the largest of some numbers, with digits enough to tell them apart.

    >>> _span(pd.Series([0.0312, 0.0347]))
    '0.031 to 0.035'
    """
    for digits in (2, 3, 4):
        low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in _ends(values))
        if low != high:
            return f"{low} to {high}"
    return f"{values.mean():.2f}"


def _ends(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def settings(results: Results) -> dict[str, Any]:
    """Give the spans of map measures over the settings and seeds of each embedding.

    For "tsne" and "ivis": trust, neighbours and silhouette of the distilled student's maps, the
    silhouette of the baseline's, and apart, how far an image moves from seed to seed. With t-SNE
    also the lead of the chapter.
    """
    maps = results.sweeps.groupby(["embedding", "run", "setting", "seed"], sort=True)
    numbers = maps[[*FAITHFUL, "map_silhouette"]].first()
    baseline, distilled = _pair(results)
    facts: dict[str, Any] = {}
    swept = set(results.sweeps["embedding"])
    for kind in (kind for kind in ("tsne", "ivis") if kind in swept):
        own = numbers.loc[(kind, distilled)]
        means = numbers.loc[kind, "map_silhouette"].groupby(level=["run", "setting"]).mean()
        facts |= {
            f"{kind}-trust": _span(own["trustworthiness"]),
            f"{kind}-neighbours": _span(own["neighbours_kept"]),
            f"{kind}-silhouette": _span(means[distilled]),
            f"{kind}-silhouette-baseline": _span(means[baseline]),
            f"{kind}-apart": f"{seed_displacement(results, kind, distilled):.2f}",
        }
        if kind == "tsne":
            facts["lead"] = Markdown(_lead(means[distilled], means[baseline]))
    return facts


def _lead(distilled: pd.Series, baseline: pd.Series) -> str:
    """Compare what perplexity does to the silhouette of a map with what distillation does."""
    gap = distilled - baseline
    by_perplexity = max(np.ptp(distilled), np.ptp(baseline))
    end = (
        "Perplexity alone makes as large a difference as distillation does."
        if by_perplexity >= gap.abs().min()
        else "Here the networks differ by more than perplexity changes, at every perplexity tried."
    )
    return (
        "Change the perplexity, and the mean silhouette of a t-SNE map of one and the same layer "
        f"runs from {_span(distilled)} (baseline: {_span(baseline)}). At equal perplexity the two "
        f"networks differ by {_span(gap)}. {end}"
    )


def engine(results: Results) -> str:
    """Name what made the IVIS maps of the explorer."""
    maps = results.faithfulness
    names = set(maps.loc[maps["embedding"] == "ivis", "engine"])
    own = {name for name in names if name.startswith("torch")}
    words = {"our own engine": own, "the package": names - own}
    return " and ".join(word for word, found in words.items() if found) or "neither"


def engines(results: Results) -> dict[str, Markdown]:
    """Give the gap between the means over seeds of our IVIS engine and its package, by measure.

    Of the layer and the setting that both mapped, in one sentence, and how many maps each made.
    """
    sweeps = results.sweeps
    package = sweeps[sweeps["embedding"] == PACKAGE]
    if package.empty:
        return {"engines": Markdown("This study did not make both of one layer.")}
    same = ["run", "layer", "setting"]
    alike = sweeps[(sweeps[same] == package[same].iloc[0]).all(axis=1)]
    alike = alike[alike["embedding"].isin(["ivis", PACKAGE])]
    columns = {"trust": FAITHFUL[0], "neighbours": FAITHFUL[1], "knn": "map_knn"}
    maps = alike.groupby(["embedding", "seed"])[list(columns.values())].first()
    means = maps.groupby(level="embedding").mean()
    gaps = (means.loc[PACKAGE] - means.loc["ivis"]).abs()
    trust, neighbours, knn = (f"{gaps[column]:.3f}" for column in columns.values())
    return {
        "engines": Markdown(
            "The two side by side, at the same `k` and number of steps: averaged over seeds, they "
            f"differ by at most {trust} in trustworthiness, {neighbours} in the share of "
            f"neighbours kept and {knn} in the accuracy of the five nearest "
            f"({method(results)}, {len(maps.loc[PACKAGE])} maps by each)."
        )
    }


def seed_displacement(results: Results, embedding: str, run: str) -> float:
    """Mean distance between an image's places on maps of two seeds, in widths of the map.

    Over all pairs of seeds of one setting; 0 where there is one seed.
    """
    sweeps = results.sweeps
    sweeps = sweeps[(sweeps["embedding"] == embedding) & (sweeps["run"] == run)]
    means = []
    for _, setting in sweeps.sort_values("image").groupby("setting"):
        maps = [rows[["x", "y"]].to_numpy() for _, rows in setting.groupby("seed")]
        means += [embed.displacement(a, b).mean() for a, b in combinations(maps, 2)]
    return float(np.mean(means)) if means else 0.0


def noise(results: Results) -> dict[str, str]:
    """Give the noise floor of each embedding at the swept layer; name means and maps above 0.5."""
    floors = comparison.noise_floors(results)
    at = floors[floors["layer"] == results.sweeps["layer"].iloc[0]].set_index("embedding")["mean"]
    above = floors[floors["mean"] > NOISE].groupby("embedding")["layer"]
    names = [f"{embed.TITLES[kind]} {', '.join(layers)}" for kind, layers in above]
    means = f"Here the mean is above it for {'; '.join(names)}." if names else ""
    return {f"{kind}-floor": f"{mean:.2f}" for kind, mean in at.items()} | {
        "noisy": f"{means or 'Here no mean over the networks is above it.'} {_single(floors)}"
    }


def _single(floors: pd.DataFrame) -> str:
    """State how noisy the noisiest single map of each embedding is, of those above the bound."""
    worst = floors.loc[floors.groupby("embedding", sort=False)["high"].idxmax()]
    maps = [
        f"{row.high:.2f} ({embed.TITLES[row.embedding]} of {row.layer})"
        for row in worst[worst["high"] > NOISE].itertuples()
    ]
    return f"Single maps reach {' and '.join(maps)}." if maps else "Nor is any single map."


def coupling(results: Results) -> dict[str, str]:
    """Give what a shared start and coupling buy, what they cost, and which bounds hold."""
    maps = comparison.procedures(results)
    means = maps.groupby("procedure").mean(numeric_only=True)
    rise = maps.groupby("procedure")["rise"].max()
    share = means["displacement"] / means.loc["own start", "displacement"]
    change = means.loc["coupled"] - means[means.index.isin(INDEPENDENT)].mean()
    by_layer = maps.pivot(index="layer", columns="procedure", values=FAITHFUL)
    largest = {m: (by_layer[m]["coupled"] - by_layer[m]["own start"]).abs().max() for m in FAITHFUL}
    bounds = {
        "displacement falls by less than half": share["coupled"] <= 0.5,
        "faithfulness changes by .005 or more": change[FAITHFUL].abs().max() < 0.005,
        "k-NN accuracy rises by more than .02": rise["coupled"] <= 0.02,
    }
    broken = [words for words, holds in bounds.items() if not holds]
    turned = {
        name: means.loc[name, "displacement_turned"]
        for name in ("own start", "shared start", "coupled")
    }
    return {
        "share-shared": f"{share['shared start']:.0%}",
        "share-coupled": f"{share['coupled']:.0%}",
        **{f"turned-{name}": f"{value:.2f}" for name, value in turned.items()},
        **{f"mean-{m}": f"{change[m]:+.4f}" for m in FAITHFUL},
        **{f"change-{m}": f"{largest[m]:.3f}" for m in FAITHFUL},
        "rise-coupled": f"{rise['coupled']:+.3f}",
        "rise-own": f"{rise['own start']:+.3f}",
        "spread": _span(maps.loc[maps["procedure"] == "coupled", "spread"]),
        "bounds": f"{len(bounds) - len(broken)} of {len(bounds)}",
        "broken": f"Broken: {'; '.join(broken)}." if broken else "None is broken.",
    }


def _accuracies(results: Results, index: list[str]) -> pd.DataFrame:
    """Accuracy of the nearest neighbours, by `index`: a column for each kind of map."""
    rows = results.comparison[results.comparison["measure"] == "map_knn"]
    return rows.pivot_table(index=index, columns="procedure", values="value")


def supervision(results: Results) -> dict[str, str]:
    """Give the accuracy of random labels on a map that was supervised by them, and on one not."""
    values = results.comparison.set_index("procedure")["value"]
    names = ("shuffled", "unsupervised")
    return {name: f"{values[name]:.2f}" for name in names if name in values}


def first_layer(results: Results) -> dict[str, str]:
    """Give the accuracy of the nearest neighbours in the first layer and on its maps."""
    knn = _by_layer(results)
    first = knn.index[0]
    numbers = {f"first-{name}": f"{knn.loc[first, name]:.2f}" for name in SPACES if name in knn}
    return {"first": first} | numbers


def _by_layer(results: Results) -> pd.DataFrame:
    knn = _accuracies(results, ["layer"])
    return knn.reindex([layer for layer in results.study["layers"] if layer in knn.index])


def early_layers(results: Results) -> HTML | Markdown:
    """Show the accuracy of the nearest neighbours in every layer and on its maps."""
    if not _compared(results):
        return NOT_COMPARED
    spaces = _by_layer(results)
    rows = spaces[[name for name in SPACES if name in spaces]]
    rows = rows.rename(columns=SPACES).map("{:.2f}".format)
    rows.insert(0, "layer", rows.index)
    pair = f"mean of baseline and {method(results)}"
    return tables.table(rows, f"Accuracy of an image's five nearest, itself left out; {pair}")


def floors(results: Results) -> HTML | Markdown:
    """Show the noise floor of every layer's maps."""
    if results.maps.empty:
        return NO_MAPS
    noise = comparison.noise_floors(results)
    caption = (
        f"Noise floor, mean over the networks on maps (and largest); {len(results.labels)} images"
    )
    if noise["mean"].gt(NOISE).any():
        caption += f". Crossed out: above {NOISE}"
    return tables.floors(noise, caption)


def faithfulness(results: Results) -> HTML | Markdown:
    """Show how faithful the explorer's maps are, means over its networks."""
    if results.maps.empty:
        return NO_MAPS
    on_maps = results.faithfulness["run"].isin(results.maps["run"])
    means = results.faithfulness[on_maps].pivot_table(
        index=["embedding", "layer"], columns="measure", values="value"
    )
    means["lost"] = results.maps.groupby(["embedding", "layer"])["error"].mean()
    cells = [(e, at) for e in results.study["embeddings"] for at in results.study["layers"]]
    titles = {name: m.title for name, m in FAITHFULNESS.items() if name != "map_knn"}
    titles["lost"] = "Error of a point, mean"
    rows = means.loc[[cell for cell in cells if cell in means.index], list(titles)]
    rows = rows.rename(columns=titles).map("{:.2f}".format)
    rows.insert(0, "maps", [f"{embed.TITLES[e]}, {at}" for e, at in rows.index])
    networks = results.maps["run"].nunique()
    caption = f"Faithfulness of the explorer's maps, mean over {networks} networks"
    return tables.table(rows, f"{caption}; {len(results.labels)} images")


def comparable(results: Results) -> HTML | Markdown:
    """Show what comparable maps buy and cost, means over the layers."""
    if not _compared(results):
        return NOT_COMPARED
    maps = comparison.procedures(results)
    pair = f"Maps of baseline beside {method(results)}"
    caption = f"{pair}, means over {maps['layer'].nunique()} layers, {len(results.labels)} images"
    return tables.compared(maps, caption)


def comparable_by_layer(results: Results) -> HTML | Markdown:
    """Show how far an image moves between the two students, turned to fit, layer by layer."""
    if not _compared(results):
        return NOT_COMPARED
    maps = comparison.procedures(results)
    rows = maps.pivot(index="layer", columns="procedure", values="displacement_turned")
    titles = {name: procedure.title for name, procedure in PROCEDURES.items()}
    rows = rows.reindex(index=_by_layer(results).index, columns=maps["procedure"].unique())
    rows = rows.map("{:.2f}".format).rename(columns=titles)
    rows.insert(0, "layer", rows.index)
    return tables.table(rows, f"Layer by layer: from baseline to {method(results)}, turned to fit")
