"""The teacher's logits of one image, as labels at any temperature."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from kdlib import UsageError
from kdlib.plan.methods import BASELINE
from kdlib.report.charts.look import COLOURS
from kdlib.report.charts.parts import number
from kdlib.store import Results


def least_certain(results: Results, count: int = 6) -> pd.DataFrame:
    """Return the images of which the teacher is least certain, each of another class.

    That is where its two largest logits are closest; the image with the largest margin comes
    last. Returns image, truth, top, second (classes, as numbers) and margin (of the two logits), a
    row per image. Raises UsageError where the results hold no logits.
    """
    logits, images = _logits(results)
    ranked = np.argsort(-logits, axis=1, kind="stable")
    largest = np.take_along_axis(logits, ranked[:, :2], axis=1)
    columns = {"image": images, "truth": results.labels[images], "top": ranked[:, 0]}
    columns |= {"second": ranked[:, 1], "margin": largest[:, 0] - largest[:, 1]}
    table = pd.DataFrame(columns).sort_values("margin", kind="stable")
    rows = table.drop_duplicates("truth").head(count)
    certain = table[~table["image"].isin(rows["image"])].tail(1)
    return pd.concat([rows, certain], ignore_index=True)


MOST = 12  # classes of one image in the chart, the likeliest
LABELS = {"hard label": COLOURS[BASELINE], "soft label": COLOURS["kd"]}


def soft_labels(results: Results, temperature: float = 4.0) -> alt.VConcatChart:
    """Draw an image's hard label beside its soft one: the teacher's softmax, at a temperature.

    The reader chooses the image, among those of `least_certain`, and the temperature; the softmax
    is computed on the page.
    """
    table, pictures = _least_certain_labels(results)
    names = list(dict.fromkeys(table["name"]))
    menu: Any = {"name": alt.binding_select(options=names, name="image: ")}
    how: dict[str, Any] = {"fields": ["name"], "on": "image:click", "clear": False}
    chosen = alt.selection_point(
        name="chosen", value=[{"name": names[0]}], bind=menu, empty=False, **how
    )
    slider = alt.binding_range(min=1, max=20, step=0.5, name="temperature T: ")
    axis = alt.Axis(title=None, ticks=False, labelExpr="split(datum.label, ' (')[0]")
    strip = (
        alt.Chart(table)
        .transform_filter("datum.rank == 1")
        .transform_calculate(picture=f"{json.dumps(pictures)}[datum.name]")
        .mark_image(width=42, height=42)
        .encode(
            x=alt.X("name:N", sort=names, axis=axis),
            y=alt.value(22),
            url="picture:N",
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.35)),
            tooltip=alt.Tooltip("name:N", title="class"),
        )
        .add_params(chosen)
        .properties(width={"step": 46}, height=44)
    )
    chart = alt.vconcat(strip, _bars(table, chosen), spacing=14)
    return chart.add_params(alt.param(name="T", value=temperature, bind=slider)).properties(
        title=alt.Title("One image, two labels", subtitle="click an image, or use the menu"),
        description=_description(table, names[0], temperature),
    )


def gradient(results: Results) -> alt.LayerChart | alt.FacetChart:
    """Draw the length of the soft term's gradient by the student's logits, by temperature.

    Mean over the images of the sample, with and without T^2; the student is untrained and its
    logits are equal. Both scales are logarithmic.
    """
    n = len(_logits(results)[0])
    table = gradient_lengths(results).melt("temperature", ["T² KL", "KL"], "loss", "length")
    shade = {"T² KL": COLOURS["kd"], "KL": COLOURS["baseline"]}
    color = alt.Color(
        "loss:N", scale=alt.Scale(domain=list(shade), range=list(shade.values())), sort=list(shade)
    )
    ends = table[table["temperature"].isin([1, 4, 20])]
    words = "; ".join(
        f"{r.loss} at T = {r.temperature:g}: {r.length:.2g}" for r in ends.itertuples()
    )
    x = alt.X("temperature:Q", title="temperature T", scale=alt.Scale(type="log", domain=[1, 20]))
    y = alt.Y("length:Q", title="length of the gradient", scale=alt.Scale(type="log"))
    y = y.axis(values=[10.0**k for k in range(-6, 4)], format="~g")
    numbers = [number("temperature:Q", "T", ".1f"), number("length:Q", "length", ".3f")]
    base = alt.Chart(table).encode(
        x=x.axis(values=[1, 2, 4, 8, 20]), y=y, color=color, tooltip=["loss:N", *numbers]
    )
    return alt.layer(base.mark_line(strokeWidth=2.2), base.mark_point(filled=True)).properties(
        width=460,
        height=220,
        title=alt.Title(
            "The gradient of the soft term",
            subtitle=f"length of the gradient by the student's logits, mean of {n} images",
        ),
        description=f"Mean length of the gradient by the student's logits. {words}.",
    )


def gradient_lengths(results: Results) -> pd.DataFrame:
    """Compute the lengths of `gradient`: temperature, and the means for `T² KL` and `KL`.

    The gradient of KL(p_t || p_s) by the student's logits is (p_s - p_t) / T (Hinton et al. 2015,
    eq. 2).
    """
    logits, _ = _logits(results)
    rows = []
    for temperature in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 20):
        error = 1 / logits.shape[1] - softmax(logits / temperature, axis=1)
        length = float(np.linalg.norm(error / temperature, axis=1).mean())
        rows.append((temperature, temperature**2 * length, length))
    return pd.DataFrame(rows, columns=["temperature", "T² KL", "KL"])


def _logits(results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, k) of the first teacher with maps, and the numbers of the n images."""
    table = results.teacher_logits
    if table.empty:
        raise UsageError("these results hold no logits of a teacher; publish the study again")
    first = table[table["run"] == table["run"].iloc[0]]
    wide = first.pivot_table(index="image", columns="label", values="logit")
    return wide.to_numpy(float), wide.index.to_numpy()


def _least_certain_labels(results: Results) -> tuple[pd.DataFrame, dict[str, str]]:
    """List classes, logits and truth of the images of `soft_labels`, and their pictures by name."""
    logits, images = _logits(results)
    classes = [str(name) for name in results.study["classes"]]
    parts, pictures = [], {}
    for row in least_certain(results).itertuples():
        z = logits[images == row.image][0]
        name = f"{classes[row.truth]} (no. {row.image})"
        part = pd.DataFrame({"name": name, "class": classes, "logit": z.round(4)})
        part["hard"] = (part.index == row.truth).astype(int)
        part["rank"] = part["logit"].rank(ascending=False, method="first").astype(int)
        parts.append(part)
        pictures[name] = _picture(results.images[row.image])
    return pd.concat(parts, ignore_index=True), pictures


def _picture(image: np.ndarray, side: int = 84) -> str:
    """Return a data URI of an image, its pixels as squares."""
    whole = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    whole.thumbnail((side, side))
    whole = whole.resize((side, round(side * whole.height / whole.width)), Image.Resampling.NEAREST)
    file = io.BytesIO()
    whole.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _bars(table: pd.DataFrame, chosen: alt.Parameter) -> alt.LayerChart | alt.FacetChart:
    """Draw the hard label of the chosen image, and the softmax of its logits at temperature T."""
    base = (
        alt.Chart(table)
        .transform_filter(chosen)
        .transform_joinaggregate(top="max(logit)")
        .transform_calculate(power="exp((datum.logit - datum.top) / T)")
        .transform_joinaggregate(total="sum(power)")
        .transform_filter(f"datum.rank <= {MOST} || datum.hard")
        .transform_calculate(
            **{"hard label": "datum.hard", "soft label": "datum.power / datum.total"}
        )
        .transform_fold(list(LABELS), ["label", "p"])
        .encode(
            y=alt.Y("class:N", sort=list(dict.fromkeys(table["class"])), title=None),
            yOffset=alt.YOffset("label:N", sort=list(LABELS)),
            x=alt.X("p:Q", title="probability", scale=alt.Scale(domain=[0, 1.15], nice=False)).axis(
                values=[0, 0.25, 0.5, 0.75, 1], format="%"
            ),
            tooltip=["class:N", "label:N", number("p:Q", "probability", ".2%")],
        )
    )
    shade = alt.Scale(domain=list(LABELS), range=list(LABELS.values()))
    bars = base.mark_bar().encode(color=alt.Color("label:N", scale=shade, sort=list(LABELS)))
    text = base.mark_text(align="left", dx=4, fontSize=11).encode(
        text=alt.Text("p:Q", format=".1%")
    )
    text = text.transform_filter("datum.label == 'soft label'")
    return alt.layer(bars, text).properties(width=322, height={"step": 10})


def _description(table: pd.DataFrame, name: str, temperature: float) -> str:
    """Describe what `soft_labels` shows as it opens."""
    own = table[table["name"] == name]
    p = pd.Series(softmax(own["logit"] / temperature), index=own["class"]).sort_values()[::-1]
    words = ", ".join(f"{100 * v:.0f} % for {c}" for c, v in p.head(3).items())
    truth = own.loc[own["hard"] == 1, "class"].iloc[0]
    return (
        f"Image {name}: the hard label is {truth}. The teacher's soft label at temperature "
        f"{temperature:g} is {words}, and less for all others. Image and temperature can be chosen."
    )
