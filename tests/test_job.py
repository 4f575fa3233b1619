"""What is read back from a finished run."""

import shutil

import numpy as np
import pytest

from dynnas_jax import job
from dynnas_jax.data import sources
from dynnas_jax.dynamic import cascade


def test_the_dynamic_network_of_a_run_answers_as_its_evaluation(tiny_run, quick_programs):
    data = {key: value for key, value in tiny_run.config["data"].items() if key != "augment"}
    images = sources.load(seed=tiny_run.config["seed"], **data).test.images
    out = np.load(tiny_run.workdir / "evaluate/outputs.npz")
    with quick_programs():
        found = job.dynamic_of_run(tiny_run.workdir)
        answers = cascade.build(found.dynamic, capacity=20)(found.variables, images, found.thresholds)
    assert found.resolution == 8
    assert 0 < (out["choice"] == 0).sum() < len(out["choice"])
    np.testing.assert_array_equal(answers.choice, out["choice"])
    np.testing.assert_array_equal(answers.prediction, out["prediction"][np.arange(len(images)), out["choice"]])


def test_a_run_without_a_pair(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="is no working directory of dynnas"):
        job.dynamic_of_run(tmp_path)
    for name in ("config.json", "train/data.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(tiny_run.workdir / name, tmp_path / name)
    with pytest.raises(ValueError, match="found.json is missing; `dynnas run` with its config makes it"):
        job.dynamic_of_run(tmp_path)
