"""Means and standard deviations over seeds, and tables of them in three forms."""

import csv
import statistics

import pytest

from dynnas_jax.reports import spreads
from dynnas_jax.reports.spreads import Table, numbers, spread, words

VALUES = [0.912, 0.934, 0.951]


def test_a_spread_is_the_mean_and_the_sample_deviation():
    found = spread(VALUES, 3)
    assert found.mean == pytest.approx(statistics.mean(VALUES), rel=1e-12)
    assert found.deviation == pytest.approx(statistics.stdev(VALUES), rel=1e-12)
    assert (found.count, found.asked) == (3, 3)


def test_what_is_missing_is_told():
    assert spread([None, 0.5, None], 3) == spreads.Spread(0.5, None, 1, 3)
    assert spread([None, None], 2) is None
    assert spread([], 2) is None
    assert spread([None, ""], 2) == ""


@pytest.mark.parametrize(
    ("values", "asked", "options", "said"),
    [
        (VALUES, 3, {"scale": 0.01}, "93.23 ± 1.96"),
        (VALUES[:2], 3, {"scale": 0.01, "digits": 1}, "92.3 ± 1.6 (2 of 3 seeds)"),
        ([1234567.0], 1, {"digits": 0}, "1,234,567"),
        ([0.0012, 0.0008], 2, {"scale": 0.01, "sign": True}, "+0.10 ± 0.03"),
        ([-0.5, -0.5], 2, {"digits": 1, "sign": True}, "-0.5 ± 0.0"),
    ],
)
def test_a_spread_in_words(values, asked, options, said):
    assert spread(values, asked).text(**options) == said


@pytest.fixture
def table():
    columns = (words("label", ""), numbers("top1", "top-1 (%)", scale=0.01), numbers("macs", "MACs", 0))
    rows = [
        {"label": "a | b", "top1": spread(VALUES, 3), "macs": spread([10], 1)},
        {"label": "<none>", "top1": None, "macs": ""},
    ]
    return Table("made_up", "Made up", "Of nothing.", columns, rows, ("And so on.",))


def test_markdown(table):
    assert table.markdown().splitlines() == [
        *("# Made up", "", "Of nothing.", ""),
        *(
            "|  | top-1 (%) | MACs |",
            "| --- | --- | --- |",
            "| a \\| b | 93.23 ± 1.96 | 10 |",
            "| <none> | not run | – |",
        ),
        *("", "And so on."),
    ]


def test_files(table, tmp_path):
    table.write(tmp_path, "dynnas study --x")
    with (tmp_path / "made_up.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["top1"]) == pytest.approx(statistics.mean(VALUES))
    assert float(first["top1_sd"]) == pytest.approx(statistics.stdev(VALUES))
    assert (first["top1_n"], first["macs_n"], first["macs_sd"]) == ("3", "1", "")
    assert (second["top1"], second["macs"]) == ("", "")
    text = (tmp_path / "made_up.md").read_text()
    assert text == f"{table.markdown()}\n```\ndynnas study --x\n```\n"


def test_html(table):
    assert "<td>&lt;none&gt;</td>" in table.html()
    assert '<td class="number">not run</td>' in table.html()


def test_a_verdict_names_who_is_above_and_takes_what_cancels_for_equal():
    cancelled = spreads.spread([0.1 + 0.2 - 0.3, 0.0], 2)
    assert cancelled.mean > 0
    found = {"a": [0.02, 0.01], "b": [-0.02, -0.03], "c": [0.02], "d": [0.03, -0.01]}
    differences = {name: spreads.spread(values, 2) for name, values in found.items()}
    assert spreads.verdict({**differences, "e": cancelled, "f": None}, "coins") == (
        "Above coins, by more than the seeds differ: a. Not told apart from it: d, e. Below it: b. "
        "Beside coins, of one seed and not judged: c.",
    )
    alone = {"c": differences["c"], "f": None}
    assert spreads.verdict(alone, "coins") == ("Beside coins, of one seed and not judged: c.",)
    assert spreads.verdict({"f": None, "g": ""}, "coins") == ()
