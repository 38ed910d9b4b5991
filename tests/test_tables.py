import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import results as invented
from test_standings import ACCURACIES, constructed
from test_verdicts import study

from kdlib.embed.compare import PROCEDURES
from kdlib.measure import comparison, verdicts
from kdlib.measure.standings import standings
from kdlib.report import tables

FIGURES = {claim: what.figure for claim, what in verdicts.CLAIMS.items()}


def rows(html):
    """The texts of a table's body, row by row."""
    body = html.data.split("<tbody>")[1]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in cells]


def test_a_table_has_a_caption_and_headers_with_their_scope():
    table = pd.DataFrame({"claim": ["C1", "C2"], "n": ["3", "5"]})
    text = tables.table(table, 'Verdicts of "a" & b').data
    assert "<caption>Verdicts of &quot;a&quot; &amp; b</caption>" in text
    assert text.count('<th scope="col">') == 2
    assert text.count('<th scope="row">') == 2
    assert 'tabindex="0"' in text  # it scrolls, so a keyboard must reach it
    assert rows(tables.table(table, "x")) == [["C1", "3"], ["C2", "5"]]


def test_a_verdict_is_a_sign_and_a_word_not_a_colour_alone():
    signs = {tables.badge(word).split('data-sign="')[1][0] for word in verdicts.WORDS[5]}
    assert signs == {"✓", "≈", "✗"}
    for word in (*verdicts.UNDECIDED, "no such student"):
        assert f"</span> {word}</span>" in tables.badge(word)
        assert 'data-sign="–"' in tables.badge(word)


def test_every_cell_shows_its_numbers_and_links_to_its_figure():
    cells = verdicts.cells(verdicts.tests(study()))
    table = tables.judged(cells, FIGURES, "all")
    assert len(rows(table)) == len(cells)
    for claim, figure in FIGURES.items():
        assert f'<a href="{figure}">' in table.data, claim
    first = cells.iloc[0]
    interval = f"{first['mean']:+.3f} [{first['low']:+.3f}, {first['high']:+.3f}]"
    assert interval in rows(table)[0]
    assert any("no data" in cell for cell in rows(table)[1])  # C2
    assert "nan" not in table.data.lower().replace("tenant", "")


def test_a_column_that_would_be_empty_is_left_out():
    cells = verdicts.cells(verdicts.tests(study()))
    assert "p flip" not in tables.judged(cells, FIGURES, "x").data
    some = cells.assign(p_flip=np.where(cells.index == 0, 0.031, np.nan))
    assert "p flip" in tables.judged(some, FIGURES, "x").data


def test_the_control_shows_how_many_seeds_have_a_partner():
    control = verdicts.control(invented.make(n=20))
    table = tables.judged(control, FIGURES, "x", also=["seeds", "budgets"])
    assert any("0 of 3" in row and "– no such student" in row for row in rows(table))


def test_procedures_are_compared_with_independent_maps():
    table = rows(tables.compared(comparison.procedures(invented.make(n=20)), "x"))
    assert [row[0] for row in table] == [p.title for p in PROCEDURES.values() if not p.repetition]
    coupled = table[2]
    assert coupled[1:4] == ["0.20", "0.20", "0.14"]  # moves, its share of the first, turned
    assert (table[0][-1], coupled[-1], table[3][-1]) == ("-0.005", "-0.005", "-0.055")


def test_a_floor_above_a_half_is_crossed_out():
    noise = pd.DataFrame(
        {
            "embedding": ["tsne"] * 2,
            "layer": ["stem", "pool"],
            "mean": [0.6, 0.2],
            "high": [0.7, 0.6],
        }
    )
    table = tables.floors(noise, "x")
    assert "<s>0.60</s> (up to 0.70)" in table.data
    assert rows(table) == [["t-SNE", "0.60 (up to 0.70)", "0.20 (up to 0.60)"]]


def test_speed_is_shown_with_its_range_its_aim_and_why_it_was_missed():
    row = {"work": "an epoch", "against": "the standard loop", "bound": "at least", "target": 2.0}
    row |= {"median": 1.5, "low": 1.4, "high": 1.72, "pairs": 5, "unit": "times", "reached": False}
    row |= {
        "why": "networks are 90 %",
        "note": "scaled",
        "machine": "2 cores",
        "date": "2026-11-22",
    }
    quick = row | {"median": 6.0, "reached": True, "machine": "a GPU"}
    ((work, cpu, gpu),) = rows(tables.speed({"cpu": {"epoch": row}, "gpu": {"epoch": quick}}, "x"))
    assert work == "an epochbeside the standard loop"
    assert cpu.startswith("1.50 × (1.40 to 1.72 ×, n = 5; 2 cores, 2026-11-22)")
    assert "at least 2 ×; not reached: networks are 90 %" in cpu
    assert gpu.startswith("6.00")
    assert gpu.endswith("reachedscaled")
    assert rows(tables.speed({"cpu": {"epoch": row}}, "x"))[0][2] == ""


def test_what_was_never_measured_is_an_empty_table():
    assert rows(tables.speed({}, "x")) == rows(tables.growth({}, "x")) == []


def test_growth_shows_every_size_and_its_exponent():
    stage = {"of": "images", "sizes": [1000, 2000], "times": [1.0, 4.1], "exponent": 2.04}
    stage |= {"megabytes": [3, 6], "memory_exponent": 1.0, "why": "all pairs"}
    table = rows(tables.growth({"tsne": stage}, "x"))
    assert table == [["tsne, by images: 1,000, 2,000all pairs", "1, 4.1", "2.04", "3, 6", "1.00"]]


# ---- a method's rows


class Kind:
    """A method with three constants."""

    def __init__(self, classes, *, temperature=4.0, weight=0.9, label_weight=0.1):
        pass


@pytest.fixture(scope="module")
def table():
    return standings(constructed(**ACCURACIES))


@pytest.mark.parametrize(
    ("method", "word", "seeds"),
    [
        ("kd", "✓ beats baseline", "+29.0 to +31.0"),
        ("at", "≈ does not beat baseline", "-10.0 to +10.0"),
        ("random", "✗ worse than baseline", "-41.0 to -39.0"),
        ("baseline", "the reference", "–"),
        ("self", "no baseline to compare with", "–"),
        ("sp", "one seed: not judged", "+40.0 to +40.0"),
    ],
)
def test_a_method_is_judged_beside_the_baseline_with_its_spread(table, method, word, seeds):
    first = rows(tables.standing(table, method, Kind, {}))[0]
    assert {word, seeds} <= set(first)


def test_a_row_holds_accuracy_difference_cost_and_constants(table):
    html = tables.standing(table, "kd", Kind, {"kd": 1.94})
    assert "temperature 4.0, weight 0.9, label_weight 0.1" in html.data
    assert "1.9 times" in html.data
    assert len(rows(html)) == 2  # on two networks
    assert "+30.0 [+27.5, +32.5]" in rows(html)[0]


def test_a_method_without_results_has_its_constants_and_a_sentence(table):
    html = tables.standing(table, "crd", Kind, {}).data
    assert "crd was not run" in html
    assert "not measured" in html
    assert "weight 0.9" in html


def test_a_download_holds_the_table(table):
    link = tables.download(table, "methods", "All numbers").data
    assert link.startswith('<a download="methods.csv" href="data:text/csv;base64,')
    data = base64.b64decode(re.search(r'base64,(.+?)"', link).group(1))
    assert list(pd.read_csv(io.BytesIO(data))["method"]) == list(table["method"])
