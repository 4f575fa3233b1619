"""Every recipe in every mode: its keys are known, its supernet builds and fits its data; nothing is trained."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dynnas_jax import job, recipe, settings
from dynnas_jax.costs import macs

FOLDER = Path(__file__).parents[1] / "configs"
FACTS = {
    "digits": {"image_shape": [8, 8, 1], "classes": [""] * 10, "mean": [0.3], "std": [0.4]},
    "cifar10": {"image_shape": [32, 32, 3], "classes": [""] * 10, "mean": [0.5] * 3, "std": [0.25] * 3},
}
CASES = [f"{file.name}{mode}" for file in sorted(FOLDER.glob("*.py")) for mode in ("", ":tiny")]


@pytest.fixture(params=CASES)
def config(request):
    return settings.as_dict(settings.load([f"--config={FOLDER / request.param}"]))


def cost(supernet, genome):
    arch = supernet.arch(genome)
    return macs.net_cost(supernet.net(arch), (arch.resolution, arch.resolution, arch.channels))


def test_a_recipe_builds_and_fits_its_data(config):
    recipe.check(config)
    facts = FACTS[config["data"]["name"]]
    supernet = job.build_supernet(config["supernet"], facts)
    image = jax.ShapeDtypeStruct((2, *facts["image_shape"]), jnp.uint8)
    for genome in (supernet.space.smallest, supernet.space.largest):
        net = supernet.net(supernet.arch(genome))
        (logits, _), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
        assert logits.shape == (2, len(facts["classes"]))
        assert set(variables) == {"params", "batch_stats"}
    smallest, largest = cost(supernet, supernet.space.smallest), cost(supernet, supernet.space.largest)
    assert 0 < smallest[0] < largest[0]
    assert 0 < smallest[1] < largest[1]
    assert supernet.space.size() >= config["collect"]["subnets"]


def test_the_tiny_cifar_recipe_keeps_its_promise():
    config = settings.as_dict(settings.load([f"--config={FOLDER / 'cifar10.py'}:tiny"]))
    supernet = job.build_supernet(config["supernet"], FACTS["cifar10"])
    assert cost(supernet, supernet.space.largest)[0] <= 1_500_000


def test_tiny_modes_are_less_work(config, request):
    if request.node.callspec.params["config"].endswith(":tiny"):
        file = request.node.callspec.params["config"].removesuffix(":tiny")
        full = settings.as_dict(settings.load([f"--config={FOLDER / file}"]))
        assert config["train"]["steps"] < full["train"]["steps"]
        assert config["collect"]["subnets"] < full["collect"]["subnets"]
