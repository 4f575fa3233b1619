"""Tables of superclasses, from made-up artifacts."""

from types import SimpleNamespace

import pytest

from dynnas_jax.reports import superclass_tables, tables

NETS = [
    {"method": method, "superclass": name, "budget": budget, "macs": macs, "cost": macs, "accuracy": accuracy}
    for method, name, budget, macs, accuracy in (
        ("eas", "a", 100, 90, 0.5),
        ("eas", "b", 100, 80, 0.7),
        ("ofa_t", "a", 100, 100, 0.6),
        ("ofa_t", "b", 100, 70, 0.8),
        ("eas", "a", 200, 190, 0.9),
        ("eas", "b", 200, 170, 1.0),
        ("ofa_t", "a", 200, 180, 0.6),
        ("ofa_t", "b", 200, 200, 0.4),
    )
]
EVALUATION = {"images": 10, "unit": "macs", "nets": NETS}


def test_means_are_over_superclasses():
    rows = superclass_tables.accuracies(EVALUATION)
    assert [(row["budget"], row["method"]) for row in rows] == [
        (budget, superclass_tables.NAMES[method]) for budget in (100, 200) for method in ("eas", "ofa_t")
    ]
    assert [row["mean_accuracy"] for row in rows] == pytest.approx([0.6, 0.7, 0.95, 0.5])
    assert [row["mean_macs"] for row in rows] == [85, 85, 180, 190]
    assert (rows[0]["on_a"], rows[0]["on_b"]) == (0.5, 0.7)
    columns = superclass_tables.accuracy_columns(rows, "macs")
    assert [column.header for column in columns][2:4] == ["a", "b"]
    assert "50.0 %" in tables.html(rows, columns)


def test_distances_are_of_the_budget():
    nets = [
        {
            "budget": 100,
            "cost": 98,
            "first_cost": 110,
            "first_feasible": False,
            "feasible_share": 0.2,
            "repaired": False,
        },
        {
            "budget": 200,
            "cost": 196,
            "first_cost": 180,
            "first_feasible": True,
            "feasible_share": 0.6,
            "repaired": True,
        },
    ]
    (row,) = superclass_tables.budgets(SimpleNamespace(found={"methods": {"eas": {"nets": nets}}}))
    assert row["first_error"] == pytest.approx(0.1)
    assert row["taken_error"] == pytest.approx(0.02)
    assert (row["first_feasible"], row["feasible_samples"]) == pytest.approx((0.5, 0.4))
    assert (row["above"], row["repaired"], row["scenarios"]) == (0, 1, 2)


def test_what_has_not_run_has_no_rows():
    nothing = SimpleNamespace(found=None, evaluation=None, predictor=None)
    for rows in (superclass_tables.costs, superclass_tables.budgets, superclass_tables.predictors):
        assert rows(nothing) == []
    for rows in (superclass_tables.accuracies, superclass_tables.unions, superclass_tables.unknown):
        assert rows(None) == []


def test_dropout_is_a_mean_over_runs_with_its_spread():
    def told(rate, shift):
        nets = [{**net, "accuracy": net["accuracy"] - shift} for net in NETS]
        nets += [{**net, "method": "random", "accuracy": 0.1} for net in NETS if net["method"] == "eas"]
        return {"superclass_dropout": rate, "unit": "macs", "nets": nets}

    rows = superclass_tables.of_dropout([told(0.6, 0.0), told(0.0, 0.1), told(0.6, 0.2)])
    assert [(row["rate"], row["method"], row["runs"], row["budget"]) for row in rows] == [
        (rate, method, runs, budget)
        for rate, runs in ((0.0, 1), (0.6, 2))
        for method in ("EAS", "random")
        for budget in (100, 200)
    ]
    (own,) = (row for row in rows if (row["rate"], row["method"], row["budget"]) == (0.6, "EAS", 200))
    assert own["mean_accuracy"] == pytest.approx(0.85)
    assert own["mean_accuracy_sd"] == pytest.approx(0.2 / 2**0.5)
    assert own["on_a"] == pytest.approx(0.8)
    columns = superclass_tables.dropout_columns(rows, "macs")
    assert [column.header for column in columns][4:6] == ["a", "b"]
    page = tables.html(rows, columns)
    assert "85.0 ± 14.1 %" in page
    assert "50.0 %" in page, "a single run has no spread"


def test_the_papers_tables_that_have_not_run_are_told():
    found = {"methods": {"eas": {}, "ofa_t": {}}}
    digits = SimpleNamespace(config={"superclasses": {"groups": {}}}, found=found)
    rows = superclass_tables.paper(digits, with_rates=False)
    assert {row["dataset"] for row in rows} == {"ImageNet-10: not run", "ImageNet-12: not run", "Car-20: not run"}
    here = {row["place"]: row["here"] for row in rows}
    assert (here["Table 3"], here["Figures 4 and A"]) == ("What it takes", None)
    assert here["Figure 5"] == "Result, without multiple paths"
    imagenet = SimpleNamespace(config={"superclasses": {"known": "imagenet12"}}, found=None)
    rows = superclass_tables.paper(imagenet, with_rates=True)
    assert [row["place"] for row in rows if row["dataset"].endswith("this run")] == ["Table 2"]
    assert all(row["here"] is None for row in rows)
