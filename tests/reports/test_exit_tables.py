"""Rows of nets of several exits that no run tells: what others have published."""

from types import SimpleNamespace

import pytest

from dynnas_jax.reports import exit_tables


def test_published_points_of_one_label_belong_together():
    points = [("A", 92e6, 0.705), ("B", 5e6, 0.5), ("A", 123e6, 0.708)]
    config = {"report": {"published": [dict(zip(("label", "macs", "accuracy"), p, strict=True)) for p in points]}}
    assert exit_tables.published(config) == {"A": [(92e6, 0.705), (123e6, 0.708)], "B": [(5e6, 0.5)]}
    assert exit_tables.published({"report": {}}) == exit_tables.published(None) == {}


def test_points_of_other_data_are_left_out():
    points = [{"label": data, "data": data, "macs": 1e6, "accuracy": 0.5} for data in ("cifar10", "cifar100")]
    config = {"report": {"published": points}, "data": {"name": "cifar100"}}
    assert exit_tables.published(config) == {"cifar100": [(1e6, 0.5)]}


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"label": "A", "macs": 5}, "is no point of label, macs and accuracy"),
        ({"label": "A", "macs": 5, "accuracy": 70.5}, "an accuracy from 0 to 1"),
        ({"label": "A", "macs": "many", "accuracy": 0.7}, "is no point"),
        ("A", "is no point"),
    ],
)
def test_what_is_no_point(point, said):
    with pytest.raises(ValueError, match=said):
        exit_tables.published({"report": {"published": (point,)}})


def test_points_that_are_no_list():
    with pytest.raises(ValueError, match="report.published is 3, must be a tuple of points"):
        exit_tables.published({"report": {"published": 3}})


def test_a_single_net_that_costs_more_is_marked():
    net = {"target": 1e6, "accuracy": 0.5, "images": 100, "average_macs": 9e5, "macs": [9e5]}
    single = {"accuracy": 0.6, "macs": 8e5}
    nets = [{**net, "single": {**single, "feasible": feasible}} for feasible in (True, False)] + [net]
    rows = exit_tables.summary(SimpleNamespace(evaluation={"nets": nets}))
    assert [row["single_is_dearer"] for row in rows] == [False, True, False]
