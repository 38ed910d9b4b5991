import json

import altair as alt
import numpy as np
import pandas as pd
import pytest
import results as invented
import torch
import vl_convert
from scipy import stats
from test_standings import of_pairs

from kdlib import UsageError
from kdlib.measure import statistics, verdicts
from kdlib.measure.standings import standings
from kdlib.report import charts
from kdlib.report.charts import parts


@pytest.fixture(scope="module")
def results():
    return invented.make(networks=("resnet8x0.5", "resnet14x0.5"), n=40, seeds=4)


CHOOSE = [charts.accuracy, charts.gains, charts.regimes, charts.layers, charts.difference]


@pytest.fixture(params=[charts.accuracy, charts.layers, charts.difference])
def chart(request, results):
    charts.enable()
    return request.param(results)


@pytest.mark.parametrize("draw", [charts.layers, charts.difference])
def test_an_unknown_measure_is_refused(results, draw):
    with pytest.raises(UsageError, match=r"'beauty'; .*within_share"):
        draw(results, "beauty")


def test_an_unknown_network_is_refused(results):
    with pytest.raises(UsageError, match="unknown network 'vgg'; one of: resnet8x0"):
        charts.accuracy(results, network="vgg")


def test_charts_are_valid_and_draw_without_a_network(chart):
    spec = chart.to_dict(validate=True)
    picture = vl_convert.vegalite_to_png(spec)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_charts_have_explicit_sizes_and_the_common_look(chart):
    text = json.dumps(chart.to_dict())
    assert '"container"' not in text
    assert chart.to_dict()["config"]["legend"]["orient"] == "top"
    assert charts.COLOURS["kd"] in text


def test_charts_state_their_seeds_and_have_a_description(chart):
    spec = chart.to_dict()
    assert "4" in spec["title"]["subtitle"]
    assert "resnet8x0.5" in spec["title"]["text"]
    assert "kd" in spec["description"]


def test_one_network_is_drawn_at_a_time(results):
    text = json.dumps(charts.accuracy(results, network="resnet14x0.5").to_dict())
    assert "resnet14x0.5" in text
    assert "resnet8x0.5" not in text


def test_results_without_students_are_refused(results):
    with pytest.raises(UsageError, match="no students"):
        charts.accuracy(results._replace(runs=results.runs.query("role == 'teacher'")))


def test_results_without_teachers_have_no_rule(results):
    students = results._replace(runs=results.runs.query("role == 'student'"))
    assert "teacher resnet20" not in json.dumps(charts.accuracy(students).to_dict())


def test_a_chart_with_one_seed_has_no_bars():
    spec = charts.difference(invented.make(n=20, seeds=1)).to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [charts.accuracy, charts.layers, charts.difference])
def test_a_chart_states_the_seeds_of_every_label_budget(results, draw):
    runs = results.runs
    some = results._replace(runs=runs[(runs["labels"] != "all") | (runs["seed"] < 3)])
    assert "mean of n = 3 or 4" in json.dumps(draw(some).to_dict())


def test_methods_keep_their_order_and_colours():
    assert charts.order(["at", "zzz", "kd", "baseline"]) == ["baseline", "kd", "at", "zzz"]
    assert charts.colours(["kd", "baseline"])["kd"] == charts.colours(["kd", "at"])["kd"]
    assert charts.colours(["teacher", "kd"])["teacher"] not in charts.COLOURS.values()
    combined = charts.colours(["kd", "kd+at", "kd+sp"])
    assert len(set(combined.values())) == 3


def test_no_two_methods_of_a_study_look_alike_and_the_rest_is_grey():
    study = ["baseline", "kd", "fitnet", "at", "sp", "simkd", "transfer"]
    study += ["pseudo", "shuffled", "random", "smooth"]
    palette = charts.colours(study)
    assert len(set(palette.values())) == len(study)
    for method, shade in charts.COLOURS.items():
        red, green, blue = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
        grey = max(red, green, blue) - min(red, green, blue) < 20
        assert grey is (method not in study or method == "baseline"), method


def test_budgets_go_from_few_to_all():
    table = pd.DataFrame({"labels": ["all", "20", "5", "100"]})
    assert charts.budgets(table) == ["5", "20", "100", "all"]


def test_the_book_gets_plain_json(results, monkeypatch):
    monkeypatch.setenv("KD_BOOK", "1")
    charts.enable()
    bundle = charts.accuracy(results)._repr_mimebundle_()
    assert bundle[charts.MIME]["description"] == bundle["text/plain"]


def test_a_live_notebook_gets_a_widget_that_needs_no_network(results, monkeypatch):
    monkeypatch.delenv("KD_BOOK", raising=False)
    charts.enable()
    bundle = charts.accuracy(results)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "esm.sh" not in str(alt.JupyterChart._esm)  # the CDN of the widget that is not offline


@pytest.fixture(scope="module")
def judged(results):
    """The cells and the methods of every claim on the invented results."""
    differences = verdicts.differences(results, results)
    return verdicts.cells(differences), verdicts.methods(differences)


@pytest.mark.parametrize("claim", ["C1", "C3", "C4", "C5"])
def test_a_claim_is_drawn_with_its_headlines_and_its_methods(judged, claim):
    charts.enable()
    cells, methods = (table[table["claim"] == claim] for table in judged)
    spec = charts.forest(cells, methods, "A claim", "points").to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    assert "all methods" in spec["description"]
    assert "kd" in spec["description"]
    (data,) = spec["datasets"].values()
    first = cells.iloc[0]
    lines = [row for row in data if row["method"] == "all methods"]
    assert len(lines) == len(cells)
    assert lines[0]["mean"] == pytest.approx(first["mean"], abs=1e-4)


def test_a_full_diamond_is_an_interval_that_excludes_zero(judged):
    cells, methods = (table.query("claim == 'C5'") for table in judged)
    (data,) = charts.forest(cells, methods, "Maps", "silhouette").to_dict()["datasets"].values()
    drawn = [row for row in data if row.get("mean") is not None]
    assert drawn
    for row in drawn:
        low, high = row["low"], row["high"]
        assert row["excludes"] is (low is not None and (low > 0 or high < 0))


def test_a_panel_without_cells_keeps_its_place(judged):
    cells, methods = (table.query("claim == 'C5'") for table in judged)
    few = cells[(cells["labels"] == "2") | (cells["space"] == "layers")]
    methods = methods.merge(few[verdicts.CELL])
    (data,) = charts.forest(few, methods, "Maps", "silhouette").to_dict()["datasets"].values()
    panels = {(row["where"], row["labels"]) for row in data}
    assert len(panels) == len({row["where"] for row in data}) * 3  # label budgets


def test_no_cells_cannot_be_drawn(judged):
    cells, methods = (table.query("claim == 'C2'") for table in judged)
    with pytest.raises(UsageError, match="C2"):
        charts.forest(cells, methods, "C2", "points")


def test_layers_saved_are_drawn_seed_by_seed(results):
    charts.enable()
    spec = charts.saved(results).to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    (data,) = (pd.DataFrame(rows) for rows in spec["datasets"].values())
    means, seeds = data.dropna(subset="mean"), data.dropna(subset="depth")
    assert (len(means), len(seeds)) == (4 * 3, 4 * 3 * 4)  # methods, label budgets, seeds
    by = ["method", "labels"]
    expected = seeds.groupby(by)["depth"].mean()
    assert list(means.set_index(by)["mean"].sort_index()) == pytest.approx(
        list(expected.sort_index()), abs=2e-3
    )
    assert "row" not in spec["facet"]  # a panel beside the other, each with its axis
    assert spec["spec"]["height"]["step"] == 20
    assert "kd at 2 labels: +" in spec["description"]


@pytest.fixture(params=[charts.families, charts.ranked])
def gallery(request, results):
    charts.enable()
    return request.param(standings(results))


def test_the_gallery_renders_and_has_a_description(gallery):
    spec = gallery.to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    assert "n = 4" in spec["title"]["subtitle"]
    assert "2 labels per class" in spec["description"]
    assert "kd" in spec["description"]


def rows(chart):
    """The tables of a chart, as one."""
    sets = chart.to_dict()["datasets"].values()
    return pd.DataFrame([row for each in sets for row in each if row])


def test_every_family_has_baseline_beside_it(results):
    table = rows(charts.families(standings(results)))
    assert set(table["family"]) == {"logits", "features", "controls"}
    for _, panel in table.groupby("family"):
        baseline = panel[(panel["name"] == "baseline") & (panel["labels"] == "2")]
        scores = results.runs.query("method == 'baseline' and labels == '2' and role == 'student'")
        scores = scores[scores["network"] == "resnet8x0.5"]["test_accuracy"]
        assert baseline["accuracy"].item() == pytest.approx(100 * scores.mean(), abs=0.01)
        assert baseline["colour"].item() == charts.COLOURS["baseline"]


def test_names_keep_the_order_of_their_lines_and_a_distance(results):
    table = rows(charts.families(standings(results))).dropna(subset="place")
    assert table.groupby("family")["name"].value_counts().max() == 1
    for _, panel in table.groupby("family"):
        placed = panel.sort_values("accuracy")["place"]
        assert placed.diff().dropna().min() > 0.4


def test_a_method_of_another_network_is_drawn_beside_its_own_baseline(results):
    small = results.runs["network"] == "resnet8x0.5"
    runs = results.runs[~(small & (results.runs["method"] == "at"))]
    runs = runs[(runs["network"] != "resnet14x0.5") | runs["method"].isin(["at", "baseline"])]
    table = rows(charts.families(standings(results._replace(runs=runs))))
    beside = table[table["family"] == "features"]
    assert set(beside["name"]) == {
        *("baseline", "baseline, resnet14x0.5", "fitnet", "at, resnet14x0.5"),
    }
    assert "baseline, resnet14x0.5" not in set(table.loc[table["family"] == "logits", "name"])


def test_methods_are_ranked_at_each_budget(results):
    table = rows(charts.ranked(standings(results)))
    assert set(table["name"]) == {"smooth", "kd", "fitnet", "at"}
    for labels, group in table.groupby("labels"):
        assert list(group.sort_values("rank")["gain"]) == sorted(group["gain"], reverse=True)
        assert sorted(group["rank"]) == [1, 2, 3, 4], labels
    paired = statistics.paired(results, "test_accuracy").query("network == 'resnet8x0.5'")
    row = paired.query("method == 'kd' and labels == '5'").iloc[0]
    bar = table.query("name == 'kd' and labels == '5'").iloc[0]
    assert bar["gain"] == pytest.approx(100 * row["mean"], abs=0.01)
    assert bar["gain_low"] == pytest.approx(100 * row["low"], abs=0.01)


def test_a_reader_chooses_the_budget_of_the_ranking(results):
    (param,) = charts.ranked(standings(results)).to_dict()["params"]
    assert param["bind"]["options"] == ["2", "5", "all"]
    assert param["value"] == "2"


def test_a_method_has_its_own_colour_in_the_ranking(results):
    table = rows(charts.ranked(standings(results)))
    for method, shade in zip(table["name"], table["colour"], strict=True):
        assert shade == charts.COLOURS[method]


def test_of_many_methods_those_of_the_argument_are_named():
    many = [*charts.COLOURS][: parts.MANY + 1]
    assert parts.named(many) == ["baseline", "pseudo", "shuffled", "kd"]
    assert set(parts.named(many[:-1])) == set(many[:-1])


def test_names_stand_at_the_ends_of_lines_apart_from_each_other(results):
    table = rows(charts.layers(results, "probe")).dropna(subset="place")
    assert set(table["layer"]) == {"logits"}
    assert set(table["labels"]) == {"all"}
    named = parts.named(results.runs.query("role == 'student'").method)
    assert set(named) <= set(table["method"])
    placed = table[table["method"].isin(named)].sort_values("mean")["place"]
    assert placed.diff().dropna().min() > 0
    moved = parts.apart(pd.Series([1.0, 1.1, 3.0]), gap=0.5)
    assert list(moved) == pytest.approx([0.8, 1.3, 3.0])


@pytest.mark.parametrize("draw", CHOOSE)
def test_a_click_in_the_legend_singles_out_a_method(results, draw):
    """Vega-Lite binds a legend only where the layer that holds the choice has the colour."""
    charts.enable()
    spec = vl_convert.vegalite_to_vega(draw(results).to_dict())
    assert "chosen_method_legend" in {signal["name"] for signal in spec["signals"]}


OTHERS = ("at", "sp", "fitnet", "kd", "rkd", "cc", "crd", "vid", "nst", "ft", "dkd", "nkd", "pkt")


def test_methods_lie_at_their_x_and_a_legend_names_no_other_than_the_chart_does(results):
    table = results.runs.query("role == 'student'")
    many = pd.concat([table.assign(method=m) for m in OTHERS])
    many = pd.concat([table, many])
    assert many["method"].nunique() > parts.MANY
    values = parts.short_legend(many).to_dict()["legend"]["values"]
    assert values == parts.named(many["method"])
    places = parts.beside(many).to_dict()["scale"]["domain"]
    first, last = (places.index(method) for method in (values[0], "pkt"))
    assert len(set(places)) == len(places)
    assert 0 < (last - first) / len(places) < 1 / 5


def test_a_layer_that_repeats_the_one_before_is_not_drawn(results):
    measures = results.measures
    block3 = measures[measures["layer"] == "block3"]
    rest = measures[measures["layer"] != "pool"]
    repeats = results._replace(measures=pd.concat([rest, block3.assign(layer="pool")]))
    for draw in (charts.layers, charts.difference):
        assert "pool" not in set(rows(draw(repeats, "probe"))["layer"])


@pytest.mark.parametrize("draw", [charts.families, charts.ranked])
def test_a_study_without_students_has_no_gallery(results, draw):
    none = standings(results._replace(runs=results.runs.iloc[:0]))
    with pytest.raises(UsageError, match="no students"):
        draw(none)


def test_a_ranking_needs_students_baseline(results):
    taught = results.runs.query("method != 'baseline'")
    with pytest.raises(UsageError, match="nothing to rank"):
        charts.ranked(standings(results._replace(runs=taught)))


@pytest.mark.parametrize("draw", [charts.accuracy, charts.layers])
def test_means_stand_with_their_intervals_beside_the_seeds(results, draw):
    spec = draw(results).to_dict()
    table = pd.DataFrame(max(spec["datasets"].values(), key=len))
    column = "accuracy_pct" if "accuracy_pct" in table else "value"
    by = [c for c in ("method", "labels", "layer") if c in table]
    for cell, group in table.groupby(by):
        seeds, (mean,) = group[column].dropna(), group.dropna(subset="mean").to_dict("records")
        interval = stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
        numbers = (mean["mean"], mean["low"], mean["high"])
        assert numbers == pytest.approx((seeds.mean(), *interval), abs=0.05), cell
        assert mean["n"] == len(seeds) == 4


def test_an_axis_begins_below_all_but_outliers():
    assert (
        charts.floor([10.0, 80.0, 90.0, 91.0, 92.0, 95.0], [5.0, 78.0, 88.0, 90.0, 91.0, 94.0])
        == 78
    )
    assert charts.floor([10.0, 80.0], [5.0, 78.0]) == 5  # two are no crowd
    assert charts.floor([90.0, 91.0, 92.0], [np.nan, 90.0, 91.0]) == 90  # one seed has no interval


@pytest.fixture(scope="module")
def fallen(results):
    """Standings in which one method lies far below all others."""
    runs = results.runs.copy()
    lost = (runs["method"] == "smooth") & (runs["labels"] == "5")
    runs.loc[lost, "test_accuracy"] = 0.05 + 0.001 * runs.loc[lost, "seed"]
    return standings(results._replace(runs=runs))


@pytest.mark.parametrize("draw", [charts.families, charts.ranked])
def test_what_lies_far_below_is_an_arrow_with_its_number(fallen, draw):
    chart = draw(fallen)
    assert vl_convert.vegalite_to_png(chart.to_dict(validate=True)).startswith(b"\x89PNG")
    table = rows(chart)
    outside = table[table["outside"] == True]  # noqa: E712 -- NaN where a row has no mark
    assert set(outside["name"]) == {"smooth"}
    assert set(outside["labels"]) == {"5"}
    number = outside["number"].iloc[0]
    assert number == pytest.approx(
        outside.iloc[0][{"families": "accuracy"}.get(draw.__name__, "gain")], abs=0.06
    )
    assert table["at"].min() > number + 20


def test_dots_keep_their_order_and_have_baseline_of_a_further_network(results):
    away = results.runs["method"].isin(["at", "baseline"]) & (
        results.runs["network"] == "resnet14x0.5"
    )
    home = (results.runs["network"] == "resnet8x0.5") & (results.runs["method"] != "at")
    table = standings(results._replace(runs=results.runs[away | home]))
    spec = charts.dots(table, ["kd", "baseline", "smooth", "at"]).to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    names = list(dict.fromkeys(row["name"] for row in max(spec["datasets"].values(), key=len)))
    assert names == ["kd", "baseline", "smooth", "baseline, resnet14x0.5", "at, resnet14x0.5"]
    assert "n = 4 seeds" in spec["title"]["subtitle"]
    assert "dashed: kd" in spec["title"]["subtitle"]
    assert "at, resnet14x0.5 " in spec["description"]


def test_dots_of_methods_that_were_not_run_are_refused(results):
    with pytest.raises(UsageError, match="none of crd, sp was run"):
        charts.dots(standings(results), ["crd", "sp"])


# ---- pairs of networks


@pytest.mark.parametrize("draw", [charts.grid, charts.gaps])
@pytest.mark.parametrize("seeds", [1, 3])
def test_pairs_render_and_have_a_description(draw, seeds):
    charts.enable()
    table = of_pairs(lambda t, s, seed: 0.1 * (t == "large") + 0.02 * seed, seeds)
    spec = draw(table).to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    assert "large to tiny" in spec["description"]
    with pytest.raises(UsageError, match="no pair"):
        draw(table.iloc[:0])


def test_a_cell_of_the_grid_marks_an_interval_that_holds_0():
    table = of_pairs(lambda t, s, seed: 0.1 if t == "large" else 0.02 * (seed - 1))
    texts = {(r.teacher, r.network): r.text for r in rows(charts.grid(table)).itertuples()}
    assert texts["large", "tiny"] == "+10.0"
    assert texts["wide-16-2", "tiny"].startswith("≈ ")


# ---- similarity


def test_layers_are_compared_with_the_teachers_baseline_beside_kd(results):
    charts.enable()
    chart = charts.similarity(results)
    spec = chart.to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    table = rows(chart)
    assert set(table["method"]) == {"baseline", "kd"}
    assert len(table) == 2 * 6 * 6
    runs = results.runs.query("method == 'kd' and labels == '2' and network == 'resnet8x0.5'")
    cell = results.similarity.query("layer == 'block2' and teacher_layer == 'block1'")
    expected = cell[cell["run"].isin(runs["run"])]["value"].mean()
    square = table.query("method == 'kd' and layer == 'block2' and teacher_layer == 'block1'")
    assert square["mean"].item() == pytest.approx(expected, abs=0.001)
    assert set(table["n"]) == {4}
    assert "mean over seeds, n = 4" in spec["title"]["subtitle"]
    assert "kd block2" in spec["description"]
    assert not any("bind" in param for param in spec["params"])


def test_a_reader_chooses_the_view_in_which_layers_are_compared(results):
    flat = results.similarity.assign(view="flat", value=0.5)
    both = results._replace(similarity=pd.concat([results.similarity, flat]))
    (param,) = charts.similarity(both).to_dict()["params"]
    assert param["bind"]["options"] == ["pooled", "flat"]
    assert param["value"] == "pooled"


def test_without_a_comparison_there_is_no_similarity_to_draw(results):
    with pytest.raises(UsageError, match=r"no layers of resnet8x0\.5 were compared"):
        charts.similarity(results._replace(similarity=results.similarity.iloc[:0]))


@pytest.mark.parametrize(("embedding", "panels"), [("tsne", 4), ("ivis", 2)])
def test_a_sweep_has_a_panel_per_setting_and_seed_with_its_faithfulness(results, embedding, panels):
    spec = charts.sweep(results, embedding).to_dict()
    assert vl_convert.vegalite_to_vega(spec)
    names = spec["facet"]["sort"]
    assert len(names) == panels
    assert all("|trust 0.90, keeps 40%" in name for name in names)
    (rows,) = spec["datasets"].values()
    maps = results.sweeps[results.sweeps["embedding"] == embedding]
    maps = maps[maps["run"] == maps["run"].iloc[-1]]
    first = maps["setting"].min()
    second = maps[(maps["setting"] == first) & (maps["seed"] == 1)].set_index("image")
    for row in rows:
        assert row["x"][1] == round(40 * second.loc[row["image"], "x"])
        assert row["class"] == str(results.labels[row["image"]])


def test_two_engines_of_ivis_lie_side_by_side_seed_by_seed(results):
    spec = charts.engines(results).to_dict()
    assert vl_convert.vegalite_to_vega(spec)
    assert [name.split("|")[0] for name in spec["facet"]["sort"]] == [
        f"{engine}, seed {seed}" for engine in ("our engine", "the package") for seed in (0, 1)
    ]
    (rows,) = spec["datasets"].values()
    maps = results.sweeps.query("embedding == 'ivis package' and seed == 0")
    maps = maps[maps["run"] == maps["run"].iloc[-1]].set_index("image")
    assert {row["image"]: row["x"][2] for row in rows} == {
        image: round(40 * x) for image, x in maps["x"].items()
    }
    without = results.sweeps[results.sweeps["embedding"] != "ivis package"]
    with pytest.raises(UsageError, match="no IVIS maps by its package"):
        charts.engines(results._replace(sweeps=without))


def test_no_tooltip_is_called_image_which_would_be_an_address(results):
    points = pd.DataFrame({"x": [0], "y": [1], "label": ["2"], "image": [3]})
    for chart in (charts.sweep(results), charts.scatter(points, "a map")):
        spec = chart.to_dict()
        tooltips = spec.get("spec", spec)["encoding"]["tooltip"]
        titles = [tooltip["title"] for tooltip in tooltips if tooltip["field"] == "image"]
        assert titles == ["number"]


def test_a_sweep_that_was_not_made_is_refused(results):
    with pytest.raises(UsageError, match=r"'umap'; .*tsne, ivis"):
        charts.sweep(results, "umap")


def test_regimes_have_a_panel_each_with_their_teachers(results):
    students = results.runs.query("role == 'student' and method == 'kd'")
    limited = students.assign(run=students["run"] + "-limited", teacher="few", regime="limited")
    teacher = results.runs.query("role == 'teacher'").iloc[[0]].assign(run="few", regime="limited")
    runs = pd.concat([results.runs, limited, teacher], ignore_index=True)
    spec = charts.regimes(results._replace(runs=runs)).to_dict(validate=True)
    assert vl_convert.vegalite_to_png(spec).startswith(b"\x89PNG")
    (table,) = (pd.DataFrame(rows) for rows in spec["datasets"].values())
    assert set(table["regime"]) == {"full", "limited"}
    for _, panel in table.groupby("regime"):
        assert {"baseline", "kd", "teacher"} <= set(panel["method"])
    kd = table.query("regime == 'limited' and method == 'kd' and labels == '2'").iloc[0]
    first = students[students["network"] == students["network"].iloc[0]]
    scores = first.query("labels == '2'")["test_accuracy"]
    assert kd["mean"] == pytest.approx(100 * scores.mean(), abs=0.01)
    assert "limited, kd" in spec["description"]
    assert "rule" not in {layer["mark"]["type"] for layer in spec["spec"]["layer"]}
    few = runs[(runs["role"] == "teacher") | (runs["labels"] == "2")]
    few = few.assign(labels=few["labels"].mask(few["run"] == "few", "2"))
    spec = charts.regimes(results._replace(runs=few)).to_dict(validate=True)
    assert "rule" in {layer["mark"]["type"] for layer in spec["spec"]["layer"]}, "teachers, dashed"


def test_accuracy_is_of_one_regime_and_its_own_teachers(results):
    students = results.runs.query("role == 'student' and method == 'kd'")
    limited = students.assign(run=students["run"] + "-limited", teacher="few", regime="limited")
    teacher = results.runs.query("role == 'teacher'").assign(
        run="few", regime="limited", test_accuracy=0.0
    )
    mixed = pd.concat([results.runs, limited.assign(test_accuracy=0.0), teacher])
    expected, datasets = (
        charts.accuracy(results._replace(runs=runs)).to_dict()["datasets"]
        for runs in (results.runs, mixed)
    )
    assert sorted(map(str, datasets.values())) == sorted(map(str, expected.values()))


def test_the_least_certain_images_are_those_with_the_smallest_margin_of_their_class(results):
    table = charts.least_certain(results, 3)
    logits = results.teacher_logits.pivot(index="image", columns="label", values="logit").to_numpy()
    ends = np.sort(logits, axis=1)
    margin = ends[:, -1] - ends[:, -2]
    assert len(table) == 4
    assert table["truth"][:3].is_unique
    assert table["margin"][0] == pytest.approx(margin.min())
    for row in table[:3].itertuples():
        assert row.margin == pytest.approx(margin[results.labels == row.truth].min())
        assert (row.top, row.second) == tuple(np.argsort(-logits[row.image])[:2])
    assert table["margin"][3] == pytest.approx(margin.max())


def test_the_soft_label_is_the_softmax_at_the_temperature(results):
    charts.enable()
    scene = charts.soft_labels(results, 3.0).to_dict()
    assert {p["name"]: p.get("value") for p in scene["params"]}["T"] == 3.0
    number = charts.least_certain(results)["image"][0]
    z = results.teacher_logits.set_index("image").loc[number, "logit"].to_numpy() / 3
    p = np.exp(z) / np.exp(z).sum()
    svg = vl_convert.vegalite_to_svg(scene)
    for share in sorted(p)[-2:]:
        assert f">{100 * share:.1f}%<" in svg
    assert f"{100 * p.max():.0f} %" in scene["description"]


def test_without_logits_a_soft_label_is_refused(results):
    with pytest.raises(UsageError, match="logits"):
        charts.soft_labels(results._replace(teacher_logits=results.teacher_logits[:0]))


def test_the_gradient_is_the_one_that_torch_finds(results):
    logits = results.teacher_logits.pivot(index="image", columns="label", values="logit").to_numpy()
    for temperature, both, plain in charts.gradient_lengths(results).itertuples(index=False):
        teacher = torch.tensor(logits / temperature).softmax(1)
        student = torch.zeros(logits.shape, dtype=torch.float64, requires_grad=True)
        ours = (student / temperature).log_softmax(1)
        (teacher * (teacher.log() - ours)).sum().backward()
        length = student.grad.norm(dim=1).mean().item()
        assert plain == pytest.approx(length)
        assert both == pytest.approx(temperature**2 * length)


def test_gains_are_the_paired_differences_in_points(results):
    charts.enable()
    scene = charts.gains(results).to_dict()
    table = pd.DataFrame(
        scene["datasets"][max(scene["datasets"], key=lambda k: len(scene["datasets"][k]))]
    )
    expected = statistics.paired(results, "test_accuracy").query("network == 'resnet8x0.5'")
    means = table.dropna(subset="mean").set_index(["method", "labels"])["mean"]
    for row in expected.itertuples():
        assert means[row.method, row.labels] == pytest.approx(100 * row.mean, abs=0.01)
    assert "points" in scene["description"].lower()


def test_blocks_are_as_high_as_maps_and_as_wide_as_channels():
    rows = [("a", "stem", 16, 8), ("a", "logits", 4, 1), ("b", "stem", 4, 8)]
    shapes = pd.DataFrame(rows, columns=["network", "layer", "channels", "side"])
    charts.enable()
    scene = charts.blocks(shapes).to_dict()
    boxes = pd.DataFrame(next(iter(scene["datasets"].values())))
    wide, high = boxes["right"] - boxes["left"], boxes["high"] - boxes["low"]
    assert wide[0] == pytest.approx(2 * wide[2])
    assert high[0] == pytest.approx(8**0.5 * high[1])
    assert boxes["text"].tolist() == ["16 × 8²", "4", "4 × 8²"]
    vl_convert.vegalite_to_svg(scene)


@pytest.mark.parametrize("measure", ["silhouette", "cka_end"])
def test_training_has_a_panel_per_layer_and_a_mean_per_epoch(results, measure):
    chart = charts.training(results, measure, network="resnet14x0.5")
    spec = chart.to_dict()
    (rows,) = spec["datasets"].values()
    table = pd.DataFrame(rows)
    assert list(dict.fromkeys(table["layer"])) == list(invented.LAYERS)
    assert sorted(set(table["epoch"])) == list(invented.EPOCHS)
    point = table.query("method == 'kd' and layer == 'block3' and epoch == 3").iloc[0]
    runs = [f"students/resnet20-full/resnet14x0.5-kd-2-{seed}" for seed in range(4)]
    own = results.training[results.training["run"].isin(runs)]
    own = own[(own["layer"] == "block3") & (own["epoch"] == 3)]
    values = own[own["measure"] == measure]["value"]
    assert (point["mean"], point["n"]) == (pytest.approx(values.mean(), abs=1e-4), 4)
    half = stats.t.ppf(0.975, 3) * values.std() / 2
    assert point["high"] == pytest.approx(values.mean() + half, abs=1e-4)
    assert "At the end: stem baseline" in spec["description"]
    assert vl_convert.vegalite_to_svg(spec).startswith("<svg")


def test_a_layer_that_repeats_the_one_before_is_not_drawn_over_training(results):
    again = results.training[results.training["layer"] == "block3"].assign(layer="pool")
    others = results.training[results.training["layer"] != "pool"]
    chart = charts.training(results._replace(training=pd.concat([others, again])))
    (rows,) = chart.to_dict()["datasets"].values()
    assert set(pd.DataFrame(rows)["layer"]) == set(invented.LAYERS) - {"pool"}


def test_a_film_is_a_row_of_maps_per_student_each_with_its_trustworthiness(results):
    chart = charts.film(results, "block3", images=2)
    spec = chart.to_dict()
    names = spec["facet"]["sort"]
    trust = results.training.query("measure == 'trustworthiness' and layer == 'block3'")
    of_kd = [name for name in names if name.startswith("kd")]
    assert [name.split("|")[0] for name in of_kd] == [
        "kd, before",
        *(f"kd, epoch {epoch}" for epoch in invented.EPOCHS[1:]),
    ]
    value = trust.query("run.str.endswith('resnet8x0.5-kd-2-0') and epoch == 3")["value"].item()
    assert f"kd, epoch 3|trust {value:.2f}" in names
    assert spec["columns"] == len(invented.EPOCHS)
    (rows,) = spec["datasets"].values()
    assert len(rows) == 20
    assert all(len(row["x"]) == len(names) for row in rows)
    assert vl_convert.vegalite_to_svg(spec).startswith("<svg")


def test_without_a_film_training_cannot_be_drawn(results):
    bare = results._replace(film=results.film.iloc[:0], training=results.training.iloc[:0])
    for draw in (charts.training, charts.film):
        with pytest.raises(UsageError, match="film"):
            draw(bare)
    with pytest.raises(UsageError, match=r"'stem'; .*block2, block3"):
        charts.film(results, "stem")


def test_the_baseline_is_grey_as_the_chapters_describe_it():
    shade = charts.COLOURS["baseline"].removeprefix("#")
    channels = [int(shade[i : i + 2], 16) for i in (0, 2, 4)]
    assert max(channels) - min(channels) < 16
