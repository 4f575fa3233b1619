"""The stage that collects records, on a finished tiny run."""

import numpy as np

from dynnas_jax import job, pipeline, records
from dynnas_jax.stages import collect
from dynnas_jax.workdir import Workdir, read_json


def test_speed_stands_beside_the_records_and_belongs_to_no_result(tiny_run, quick_programs, tmp_path):
    prepared = job.prepare(Workdir(tiny_run.workdir, pipeline.STAGES, tiny_run.config, {}), tiny_run.config)
    with quick_programs():
        files = collect.run(prepared, tmp_path, subnets=16, calibration_images=64, chunk=3)
    speed = read_json(tmp_path / "speed.json")
    assert (speed["devices"], speed["width"]) == (8, 1)  # a chunk of 3 leaves one for each device
    assert speed["subnets_per_s"] > 0
    assert speed["size_bytes"] == sum(
        path.stat().st_size for path in tmp_path.rglob("records.zarr/**/*") if path.is_file()
    )
    assert "speed.json" not in files
    assert {file.split("/")[0] for file in files} == {"records.zarr"}
    # In pieces of other sizes the records are the run's own.
    mine, whole = (records.open(folder / "records.zarr") for folder in (tmp_path, tiny_run.workdir / "collect"))
    np.testing.assert_array_equal(mine.read("genome"), whole.read("genome"))
    np.testing.assert_allclose(mine.read("score"), whole.read("score"), atol=1e-3)
