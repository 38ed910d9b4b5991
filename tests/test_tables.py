import base64
import io
import re

import pandas as pd
import pytest
import results as invented
from test_standings import ACCURACIES, constructed
from test_verdicts import study

from kdlib.embed.compare import PROCEDURES
from kdlib.measure import comparison, verdicts
from kdlib.measure.standings import standings
from kdlib.report import tables


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
    for words in verdicts.WORDS.values():
        signs = [tables.badge(word).split('data-sign="')[1][0] for word in words]
        assert signs == ["✓", "≈", "○", "✗"]
    for word in (*verdicts.UNDECIDED, "no such student"):
        assert f"</span> {word}</span>" in tables.badge(word)
        assert 'data-sign="–"' in tables.badge(word)


def test_every_cell_shows_its_verdict_its_headline_and_its_votes():
    made = study(methods=[("kd", 0.2), ("at", 0.0)])
    cells = verdicts.cells(verdicts.differences(made, made))
    accuracy = cells[cells["claim"] == "C1"]
    row = accuracy.iloc[0]
    assert rows(tables.judged(accuracy, "C1")) == [
        [
            *("2", "≈ holds for some", f"+10.0 [{row['low']:+.1f}, {row['high']:+.1f}]"),
            *("5", "1 of 2", "at"),
        ]
    ]
    spaces = rows(tables.judged(cells[cells["claim"] == "C5"], "C5"))
    assert [line[1] for line in spaces] == ["layers", "flat layers", "IVIS", "t-SNE"]


def test_who_speaks_against_has_a_column_where_there_is_one():
    made = study(methods=[("kd", 0.2), ("at", -0.1)])
    cells = verdicts.cells(verdicts.differences(made))
    table = tables.judged(cells[cells["claim"] == "C3"], "C3")
    assert 'scope="col">against</th>' in table.data
    assert rows(table)[0][-1] == "at"


def test_the_claims_have_a_row_each_and_a_column_per_data_set():
    made = study(labels=("2", "all"), methods=[("kd", 0.2), ("at", 0.0)])
    data = {"digits": [verdicts.Study(made)], "CIFAR-10": []}
    table = tables.claims(verdicts.overview(data), "The claims")
    found = rows(table)
    assert [row[0].split()[0] for row in found] == list(verdicts.CLAIMS)
    assert found[0][0].endswith(verdicts.CLAIMS["C1"].words)
    assert "≈ holds for some" in found[0][1]
    assert "2 labels per class, 5 seeds" in found[0][1]  # the fewest labels
    assert found[1][1] == "– not asked"
    assert {row[2] for row in found} == {"– no data"}
    assert table.data.count('data-claim="digits"') == len(verdicts.CLAIMS)
    parts = ["layers of this pair: ≈ holds for some", "t-SNE maps: ≈ holds for some"]
    parts += ["IVIS maps: ≈ holds for some", "other architectures: – no data"]
    assert found[4][1].startswith("".join(parts))
    assert "of 3.00 layers that can be saved" in found[3][1]


def test_a_claim_of_too_few_seeds_is_not_hidden_by_one_that_was_not_asked():
    data = {"digits": [verdicts.Study(study()), verdicts.Study(study(1, regime="limited"))]}
    found = rows(tables.claims(verdicts.overview(data), "The claims"))
    assert found[1][1].startswith("– too few seeds+22.0 points")
    assert "limited teacher, 1 seed" in found[1][1]


def test_the_parts_of_a_claim_with_several_networks_name_no_other():
    cell = {"network": "3 networks", "verdict": "holds", "beside": {"ivis": "does not show"}}
    assert tables.parts(cell) == {
        "layers of 3 networks": "holds",
        "t-SNE maps": "no data",
        "IVIS maps": "does not show",
    }


def test_where_nothing_can_be_saved_there_is_no_number_of_layers():
    cell = {"claim": "C4", "mean": 0.0, "low": 0.0, "high": 0.0}
    cell["verdict"] = "cannot show"
    assert tables.measured(cell | {"possible": 0.0}).startswith("nothing to save")
    assert tables.measured(cell | {"possible": 0.3}) == "only 0.30 layers can be saved"
    judged = tables.measured(cell | {"possible": 2.2, "verdict": "does not show"})
    assert (
        judged
        == '<span class="kd-number">+0.00 [+0.00, +0.00]</span> of 2.20 layers that can be saved'
    )


def test_the_overview_has_a_row_for_every_condition_and_all_labels_apart():
    made = study(labels=("2", "all"), methods=[("kd", 0.2), ("at", 0.0)])
    flat = study(labels=("2", "all"), methods=[("kd", 0.0), ("at", 0.0)])
    few = study(seeds=1, regime="limited")
    data = {"digits": [verdicts.Study(made, flat), verdicts.Study(few)], "CIFAR-10": []}
    table = tables.overview(verdicts.overview(data), "All")
    found = rows(table)
    assert [len(row) for row in found] == [6, 6, 6, 1, 6]
    assert found[-2] == ["All labels: a condition that the paper did not claim"]
    assert found[0][0] == "digitsfull teacher2 labels per class"
    assert "+10.0" in found[0][1]
    assert "1 of 2 methods, 5 seeds" in found[0][1]
    assert "not told from 0" not in found[0][1]  # that is in the table of the claim
    assert found[0][2] == "– not asked"
    assert "flat layers: does not show" in found[0][3]
    assert found[1][2] == "– too few seeds+22.0 points1 seed"
    assert found[2][1:] == ["– no data"] * 5
    assert "nan" not in table.data


def test_an_accuracy_that_is_no_different_is_said_to_be_so():
    made = study(regime="limited")
    teacher = made.runs["role"] == "teacher"
    equal = 0.5 + 0.001 * made.runs["seed"] - 0.002
    made = made._replace(
        runs=made.runs.assign(test_accuracy=equal.where(~teacher, 0.5)),
        measures=made.measures[:0],
    )
    table = tables.overview(verdicts.overview({"digits": [verdicts.Study(made)]}), "x")
    assert "does not showno different, within 1 point" in rows(table)[0][2]


def test_the_control_shows_how_many_seeds_have_a_partner():
    control = verdicts.control(invented.make(n=20))
    table = tables.matched(control, "x")
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
    assert rows(tables.chaos({}, "x")) == []


def test_kills_are_shown_by_kind_with_what_was_lost():
    measured = {
        "kills": {"SIGTERM": 3, "full disk": 2},
        "studies": 2,
        "files": 63,
        "half_written": 0,
    }
    measured |= {"lost": 1, "noted": 20, "different": 4, "slowest_end": 2.5, "seed": 7}
    measured |= {
        "study": "smoke",
        "machine": "2 cores",
        "date": "2026-11-28",
        "commit": "abcdef012",
    }
    assert rows(tables.chaos(measured, "x")) == [
        ["SIGTERM", "3"],
        ["full disk", "2"],
        ["in all", "5"],
        ["half-written files that were read", "0"],
        ["finished notebooks that ran again or are gone, of 20 noted", "1"],
        ["files that differ in the end, of 2 x 63", "4"],
    ]
    none = {"studies": 0, "kills": {"SIGTERM": 3, "full disk": 0}}
    words = str(rows(tables.chaos(measured | none, "x")))
    assert "full disk" not in words
    assert "differ" not in words


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
        ("at", "≈ not told apart from baseline", "-10.0 to +10.0"),
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
    assert "A training takes 1.9 times as long as the baseline's, on digits." in html.data
    assert "times as long" not in tables.standing(table, "baseline", Kind, {"baseline": 1.0}).data
    assert len(rows(html)) == 2  # on two networks
    assert "+30.0 [+27.5, +32.5]" in rows(html)[0]


def test_a_method_without_results_has_its_constants_and_a_sentence(table):
    html = tables.standing(table, "crd", Kind, {}).data
    assert "crd was not run" in html
    assert "A training takes" not in html
    assert "weight 0.9" in html


def test_a_download_holds_the_table(table):
    link = tables.download(table, "methods", "All numbers").data
    assert link.startswith('<a download="methods.csv" href="data:text/csv;base64,')
    data = base64.b64decode(re.search(r'base64,(.+?)"', link).group(1))
    assert list(pd.read_csv(io.BytesIO(data))["method"]) == list(table["method"])


def test_what_others_call_their_networks_is_text_in_a_table():
    names = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "1 < 2 & 3",
        "<b onclick=x>",
    ]
    names += ['<a href="javascript:alert(1)">x</a>', '<span class="kd-x" onclick="x">']
    html = tables.table(
        pd.DataFrame({"<i>net</i>": names, "ours": ["<code>kd</code><br>x"] * 6}), "<c>"
    )
    assert set(re.findall(r"<(?!/)[^>]*>", html.data.split("<thead>")[1])) == {
        *("<tr>", "<td>", "<tbody>", '<th scope="row">', '<th scope="col">', "<code>", "<br>")
    }


def test_a_download_holds_no_formula():
    cells = ["=cmd()", "+1", "-1", "@x", "\t=1", "kd"]
    link = tables.download(pd.DataFrame({"=name": cells, "value": [-1.5] * 6}), "a", "b").data
    data = base64.b64decode(re.search(r'base64,(.+?)"', link).group(1))
    table = pd.read_csv(io.BytesIO(data))
    assert list(table["'=name"]) == [f"'{cell}" for cell in cells[:-1]] + ["kd"]
    assert list(table["value"]) == [-1.5] * 6
