"""What is read back from a finished run."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from dynnas_jax import finished, job
from dynnas_jax.data import sources
from dynnas_jax.dynamic import cascade
from dynnas_jax.networks import NETWORKS, weights
from dynnas_jax.stages import starting


def test_the_dynamic_network_of_a_run_answers_as_its_evaluation(tiny_run, quick_programs):
    data = {key: value for key, value in tiny_run.config["data"].items() if key != "augment"}
    images = sources.load(seed=tiny_run.config["seed"], **data).test.images
    out = np.load(tiny_run.workdir / "evaluate/outputs.npz")
    with quick_programs():
        found = finished.dynamic_of_run(tiny_run.workdir)
        answers = cascade.build(found.dynamic, capacity=20)(found.variables, images, found.thresholds)
    assert found.resolution == 8
    assert 0 < (out["choice"] == 0).sum() < len(out["choice"])
    np.testing.assert_array_equal(answers.choice, out["choice"])
    np.testing.assert_array_equal(answers.prediction, out["prediction"][np.arange(len(images)), out["choice"]])


def test_a_run_without_a_pair(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="is no working directory of dynnas"):
        finished.dynamic_of_run(tmp_path)
    for name in ("config.json", "train/data.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(tiny_run.workdir / name, tmp_path / name)
    with pytest.raises(ValueError, match="found.json is missing; `dynnas run` with its config makes it"):
        finished.dynamic_of_run(tmp_path)


# The target.

FACTS = {"image_shape": [32, 32, 3], "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.2] * 3}
SECTION = {"network": "small_images", "kernels": (3, 5, 7), "act": "hswish", "squeeze_excite": True}


def test_the_space_of_a_config_follows_its_target():
    whole = job.build_supernet(SECTION, FACTS)
    assert job.build_supernet(SECTION, FACTS, "x86").space == whole.space
    for target, act, se in (("edgetpu", "relu6", False), ("pi4", "relu6", True)):
        supernet = job.build_supernet(SECTION, FACTS, target)
        specs = [spec for _, spec in supernet.arch(supernet.space.largest).named_blocks()]
        assert {(spec.kernel, spec.act, spec.se > 0) for spec in specs} == {(5, act, se)}
        assert supernet.space.fingerprint != whole.space.fingerprint
    with pytest.raises(ValueError, match="target is 'pi3', choose from"):
        job.build_supernet(SECTION, FACTS, "pi3")
    with pytest.raises(ValueError, match=r"target edgetpu runs kernels 3 and 5 well, the space has only \[7\]"):
        job.build_supernet({**SECTION, "kernels": (7,)}, FACTS, "edgetpu")


def test_the_space_of_a_run_is_rebuilt_with_its_target(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data.json").write_text(json.dumps(FACTS))
    (tmp_path / "config.json").write_text(json.dumps({"supernet": SECTION, "target": "edgetpu"}))
    rebuilt = job.supernet_of_run(tmp_path)
    assert rebuilt.space == job.build_supernet(SECTION, FACTS, "edgetpu").space


def test_weights_of_the_whole_space_say_why_they_do_not_fit(tmp_path, noisy_variables):
    whole = NETWORKS["ofa_proxyless"](classes=2, resolutions=(32,))
    net = whole.largest_net()
    shapes = noisy_variables(net, (32, 32, 3))
    np.savez(tmp_path / "weights.npz", **weights.to_state_dict(net, shapes, "once-for-all"))
    section = {"network": "ofa_proxyless", "resolutions": (32,), "padding": "symmetric", "epsilon": 1e-3}
    for target, why in (
        ("x86", None),
        ("pi4", "target pi4 restricts the space, and weights of the whole one do not fit"),
    ):
        prepared = SimpleNamespace(supernet=job.build_supernet(section, FACTS, target), target=target)
        if why is None:
            starting.of_file(prepared, start_from=str(tmp_path / "weights.npz"))
        else:
            with pytest.raises(ValueError, match=rf"^[^\n]*its arrays do not fit the net: .*; {why}$"):
                starting.of_file(prepared, start_from=str(tmp_path / "weights.npz"))
