"""What a map of a layer cannot show."""

from __future__ import annotations

from IPython.display import HTML, Markdown

from kdlib import embed
from kdlib.measure.faithfulness import FAITHFULNESS
from kdlib.report import charts, tables
from kdlib.report.findings.words import NO_MAPS, data_set, labels_each, students
from kdlib.store import Results

MEASURES = ("trustworthiness", "neighbours_kept", "map_knn")
LAYERS = ("block1", "block3")


def facts(results: Results) -> dict[str, int | str]:
    """Count the networks and the images on the maps; name the data set and the fewest labels."""
    return {
        "networks": results.maps["run"].nunique(),
        "images": len(results.labels),
        "dataset": data_set(results.study),
        "few": labels_each(charts.budgets(students(results.runs))[0]),
    }


def faithfulness(results: Results) -> HTML | Markdown:
    """Show how far the maps of two layers can be trusted, means over the networks on maps."""
    if results.maps.empty:
        return NO_MAPS
    on_maps = results.faithfulness["run"].isin(results.maps["run"])  # others have numbers only
    means = results.faithfulness[on_maps].pivot_table(
        index=["embedding", "layer"], columns="measure", values="value"
    )
    rows = means.loc[(slice(None), list(LAYERS)), list(MEASURES)].map("{:.2f}".format)
    rows.columns = [FAITHFULNESS[name].title for name in MEASURES]
    rows.insert(0, "map", [f"{embed.TITLES[kind]}, {layer}" for kind, layer in rows.index])
    return tables.table(rows, "Means over the networks on maps: how far each map can be trusted")
