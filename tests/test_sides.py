"""The sides of a cascade that come of a supernet's run: the nets of its pair, each alone."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dynnas_jax import finished, job, pipeline, sides
from dynnas_jax.workdir import Workdir, read_json


def test_the_nets_of_a_searched_pair(tiny_run, quick_programs):
    little, big = sides.read_both(little=str(tiny_run.workdir), big=str(tiny_run.workdir))
    prepared = job.prepare(Workdir(tiny_run.workdir, pipeline.STAGES, tiny_run.config, {}), tiny_run.config)
    sides.check(little, big, prepared.images)
    evaluation = read_json(tiny_run.workdir / "evaluate" / "evaluation.json")
    out = np.load(tiny_run.workdir / "evaluate" / "outputs.npz")
    for side, which, answers in ((little, "little", out["prediction"][:, 0]), (big, "big", out["prediction"][:, 1])):
        assert (side.macs, side.params) == (evaluation[which]["macs"], evaluation[which]["params"])
        with quick_programs():
            logits = jax.jit(lambda v, x, net=side.net: net.apply(v, x)[0])(side.variables, prepared.images.test.images)
        np.testing.assert_array_equal(np.asarray(logits).argmax(-1), answers)
        rebuilt = finished.net_of(json.loads(json.dumps(side.made_of)))
        assert rebuilt == side.net
    with pytest.raises(ValueError, match="little costs .* no less than big's"):
        sides.check(big, little, prepared.images)


def test_a_supernet_s_run_must_have_come_to_its_pair(tiny_run, tmp_path):
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    (copy / "search" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="^cascade.little: .* its stage 'search' is not done; `dynnas run` does it$"):
        sides.read_both(little=str(copy), big=str(tiny_run.workdir))
