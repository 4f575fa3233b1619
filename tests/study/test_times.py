"""How long what is left will take, from what was measured."""

import json

from dynnas_jax.study.times import Times


def test_a_run_takes_what_its_row_took_with_other_seeds_else_the_mean_of_all(tmp_path):
    times = Times(tmp_path, [])
    assert times.expected("a", 0) is None
    assert times.expected_of([]) == 0
    times.add("a", 0, 100.0, finished=True)
    times.add("a", 1, 60.0, finished=True)
    times.add("b", 0, 20.0, finished=True)
    assert times.expected("a", 2) == 80
    assert times.expected("c", 0) == 60
    assert times.expected_of([("a", 2), ("b", 1), ("c", 0)]) == 80 + 20 + 60


def test_a_run_that_was_stopped_counts_as_what_is_left_of_it(tmp_path):
    times = Times(tmp_path, [])
    times.add("a", 0, 100.0, finished=True)
    times.add("a", 1, 30.0, finished=False)
    assert times.expected("a", 1) == 70
    assert times.expected("a", 2) == 100
    times.add("a", 1, 90.0, finished=False)
    assert times.expected("a", 1) == 0
    assert times.of("a", 1) == 120


def test_times_are_kept_and_a_damaged_file_is_no_hindrance(tmp_path):
    Times(tmp_path, []).add("a", 0, 10.0, finished=True)
    assert Times(tmp_path, [("a", 0)]).expected("b", 0) == 10
    assert Times(tmp_path, []).expected("b", 0) is None
    assert json.loads((tmp_path / "times.json").read_text()) == {"a": {"0": 10.0}}
    (tmp_path / "times.json").write_text("{")
    assert Times(tmp_path, [("a", 0)]).expected("b", 0) is None
