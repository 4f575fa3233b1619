import json

import numpy as np
import pytest

from dynnas_jax.reports import artifacts


def test_absent_artifacts_are_none(tmp_path):
    found = artifacts.read(tmp_path)
    assert found == artifacts.Artifacts(*[None] * 7, {}, (), {}, {}, {}, {})


def test_no_such_workdir(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        artifacts.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is corrupt"),
        ("config.json", "[1]", "holds no object"),
        ("search/found.json", '{"front": [], "pair": {"little": {}}}', r"found.json .*lacks 'pair.little.macs'"),
        ("evaluate/evaluation.json", "", "evaluation.json is corrupt"),
        ("evaluate/outputs.npz", "no archive", "outputs.npz is corrupt"),
        ("train/metrics.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n', "metrics.jsonl is corrupt at line 2"),
        ("export/x86/export.json", "{}", "lacks 'files'"),
    ],
)
def test_a_corrupt_artifact_is_one_line_that_names_it(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        artifacts.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_outputs_without_an_array_are_corrupt(tmp_path):
    (tmp_path / "evaluate").mkdir()
    np.savez(tmp_path / "evaluate" / "outputs.npz", score=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="outputs.npz is corrupt"):
        artifacts.read(tmp_path)


def test_a_line_being_written_is_left_out(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert artifacts.read(tmp_path).metrics == [{"step": 1, "loss": 2.0}]


def test_series_takes_the_last_of_a_step_and_sorts():
    entries = [{"step": 2, "a": 1.0}, {"step": 3, "a": 5.0}, {"step": 2, "a": 4.0}, {"step": 1, "b": 9.0}]
    steps, values = artifacts.series(json.loads(json.dumps(entries)), "a")
    np.testing.assert_array_equal(steps, [2, 3])
    np.testing.assert_array_equal(values, [4.0, 5.0])


def test_recorded_takes_the_complete_rows(workdir, records_store):
    np.testing.assert_array_equal(artifacts.recorded(workdir), records_store)


def test_no_records_or_damaged_ones(tmp_path):
    assert [len(values) for values in artifacts.recorded(tmp_path)] == [0, 0]
    (tmp_path / "collect" / "records.zarr").mkdir(parents=True)
    (tmp_path / "collect" / "records.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match="records.zarr"):
        artifacts.recorded(tmp_path)
