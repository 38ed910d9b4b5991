"""One answer of the teacher, at any temperature."""

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
from kdlib.report.charts.look import COLOURS
from kdlib.report.charts.parts import _number
from kdlib.store import Results


def hesitant(results: Results, count: int = 6) -> pd.DataFrame:
    """Find the images whose teacher hesitates most, each of another class, and a sure one last.

    To hesitate is to have two logits close together at the top. Returns image, truth, top, second
    (classes, as numbers) and margin (of the two logits), a row per image. Raises UsageError where
    the results hold no answers.
    """
    logits, images = _logits(results)
    ranked = np.argsort(-logits, axis=1, kind="stable")
    ends = np.take_along_axis(logits, ranked[:, :2], axis=1)
    table = pd.DataFrame(
        {"image": images, "truth": results.labels[images], "top": ranked[:, 0]}
        | {"second": ranked[:, 1], "margin": ends[:, 0] - ends[:, 1]}
    ).sort_values("margin", kind="stable")
    found = table.drop_duplicates("truth").head(count)
    sure = table[~table["image"].isin(found["image"])].tail(1)
    return pd.concat([found, sure], ignore_index=True)


MOST = 12  # classes of one image that are drawn, the likeliest
TOLD = {"hard label": COLOURS["baseline"], "soft label": COLOURS["kd"]}


def soft(results: Results, temperature: float = 4.0) -> alt.VConcatChart:
    """Draw an image's hard label beside its soft one: what the teacher says, at a temperature.

    The reader chooses the image, among `hesitant` ones, and the temperature; the softmax is
    computed on the page.
    """
    table, pictures = _asked(results)
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
    heat = alt.param(name="T", value=temperature, bind=slider)
    drawn = alt.vconcat(strip, _told(table, chosen), spacing=14)
    return drawn.add_params(heat).properties(
        title=alt.Title("One image, told twice", subtitle="click an image, or use the menu"),
        description=_answer_said(table, names[0], temperature),
    )


def pull(results: Results) -> alt.LayerChart | alt.FacetChart:
    """Draw how hard the soft term pulls on the logits of an untrained student, by temperature.

    The length of the gradient, mean over the images that were drawn, with and without T^2; the
    student says the same of all classes. Both scales are logarithmic.
    """
    n = len(_logits(results)[0])
    table = pulls(results).melt("temperature", ["T² KL", "KL"], "loss", "length")
    shade = {"T² KL": COLOURS["kd"], "KL": COLOURS["baseline"]}
    color = alt.Color(
        "loss:N", scale=alt.Scale(domain=list(shade), range=list(shade.values())), sort=list(shade)
    )
    ends = table[table["temperature"].isin([1, 4, 20])]
    said = "; ".join(
        f"{r.loss} at T = {r.temperature:g}: {r.length:.2g}" for r in ends.itertuples()
    )
    x = alt.X("temperature:Q", title="temperature T", scale=alt.Scale(type="log", domain=[1, 20]))
    y = alt.Y("length:Q", title="length of the gradient", scale=alt.Scale(type="log"))
    y = y.axis(values=[10.0**k for k in range(-6, 4)], format="~g")
    numbers = [_number("temperature:Q", "T", ".1f"), _number("length:Q", "length", ".3f")]
    base = alt.Chart(table).encode(
        x=x.axis(values=[1, 2, 4, 8, 20]), y=y, color=color, tooltip=["loss:N", *numbers]
    )
    return alt.layer(base.mark_line(strokeWidth=2.2), base.mark_point(filled=True)).properties(
        width=460,
        height=220,
        title=alt.Title(
            "How hard the teacher pulls",
            subtitle=f"gradient by the student's logits, mean of {n} images",
        ),
        description=f"Mean length of the gradient by the student's logits. {said}.",
    )


def pulls(results: Results) -> pd.DataFrame:
    """Compute what `pull` draws: temperature, and the mean length for `T² KL` and `KL`.

    The gradient of KL(p_t || p_s) by the student's logits is (p_s - p_t) / T (Hinton et al. 2015,
    eq. 2).
    """
    logits, _ = _logits(results)
    rows = []
    for heat in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 20):
        away = 1 / logits.shape[1] - softmax(logits / heat, axis=1)
        length = float(np.linalg.norm(away / heat, axis=1).mean())
        rows.append((heat, heat**2 * length, length))
    return pd.DataFrame(rows, columns=["temperature", "T² KL", "KL"])


def _logits(results: Results) -> tuple[np.ndarray, np.ndarray]:
    """What the first teacher drawn says: logits (n, k), and the numbers of the n images."""
    if results.teacher_logits.empty:
        raise UsageError("these results hold no answers of a teacher; publish the study again")
    own = results.teacher_logits[
        results.teacher_logits["run"] == results.teacher_logits["run"].iloc[0]
    ]
    wide = own.pivot_table(index="image", columns="label", values="logit")
    return wide.to_numpy(float), wide.index.to_numpy()


def _asked(results: Results) -> tuple[pd.DataFrame, dict[str, str]]:
    """List classes, logits and truth of the images of `soft`, and the picture of each by name."""
    logits, images = _logits(results)
    classes = [str(name) for name in results.study["classes"]]
    parts, pictures = [], {}
    for one in hesitant(results).itertuples():
        z = logits[images == one.image][0]
        name = f"{classes[one.truth]} (no. {one.image})"
        part = pd.DataFrame({"name": name, "class": classes, "logit": z.round(4)})
        part["hard"] = (part.index == one.truth).astype(int)
        part["rank"] = part["logit"].rank(ascending=False, method="first").astype(int)
        parts.append(part)
        pictures[name] = _picture(results.images[one.image])
    return pd.concat(parts, ignore_index=True), pictures


def _picture(image: np.ndarray, side: int = 84) -> str:
    """A data URI of an image, its pixels as squares."""
    whole = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    whole.thumbnail((side, side))
    whole = whole.resize((side, round(side * whole.height / whole.width)), Image.Resampling.NEAREST)
    file = io.BytesIO()
    whole.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _told(table: pd.DataFrame, chosen: alt.Parameter) -> alt.LayerChart | alt.FacetChart:
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
        .transform_fold(list(TOLD), ["label", "p"])
        .encode(
            y=alt.Y("class:N", sort=list(dict.fromkeys(table["class"])), title=None),
            yOffset=alt.YOffset("label:N", sort=list(TOLD)),
            x=alt.X("p:Q", title="probability", scale=alt.Scale(domain=[0, 1.15], nice=False)).axis(
                values=[0, 0.25, 0.5, 0.75, 1], format="%"
            ),
            tooltip=["class:N", "label:N", _number("p:Q", "probability", ".2%")],
        )
    )
    shade = alt.Scale(domain=list(TOLD), range=list(TOLD.values()))
    bars = base.mark_bar().encode(color=alt.Color("label:N", scale=shade, sort=list(TOLD)))
    words = base.mark_text(align="left", dx=4, fontSize=11).encode(
        text=alt.Text("p:Q", format=".1%")
    )
    words = words.transform_filter("datum.label == 'soft label'")
    return alt.layer(bars, words).properties(width=322, height={"step": 10})


def _answer_said(table: pd.DataFrame, name: str, temperature: float) -> str:
    """Say in words what `soft` shows as it opens."""
    own = table[table["name"] == name]
    p = pd.Series(softmax(own["logit"] / temperature), index=own["class"]).sort_values()[::-1]
    said = ", ".join(f"{100 * v:.0f} % for {c}" for c, v in p.head(3).items())
    truth = own.loc[own["hard"] == 1, "class"].iloc[0]
    return (
        f"Image {name}: the hard label is {truth}. The teacher's soft label at temperature "
        f"{temperature:g} is {said}, and less for all others. Image and temperature can be chosen."
    )
