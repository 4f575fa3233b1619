"""Every recipe in every mode: its keys are known, its supernet builds and fits its data; nothing is trained."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import job, recipe, settings
from dynnas_jax.costs import macs
from dynnas_jax.stages import train

FOLDER = Path(__file__).parents[1] / "configs"
FACTS = {
    "digits": {"image_shape": [8, 8, 1], "classes": [""] * 10, "mean": [0.3], "std": [0.4]},
    **{
        name: {"image_shape": [size, size, 3], "classes": [""] * classes, "mean": [0.5] * 3, "std": [0.25] * 3}
        for name, size, classes in (
            ("cifar10", 32, 10),
            ("cifar100", 32, 100),
            ("imagenet100_at32", 32, 100),
            ("imagenet2012", None, 1000),
            ("imagenet100", None, 100),
            ("visual_wake_words", None, 2),
        )
    },
}
PODS = ("imagenet_ofa.py", "imagenet100.py", "visual_wake_words.py")
FILES = sorted(file.name for file in FOLDER.glob("*.py") if file.name != "baselines.py")
CASES = [f"{file}{mode}" for file in FILES for mode in ("", ":tiny")]
CASES += [f"{file}:{mode}" for file in PODS for mode in ("pod", "weights")]
BASELINES = "baselines.py"
BASELINE_MODES = runpy.run_path(str(FOLDER / BASELINES))
NETWORKS = [f"{dataset},{network}" for dataset in BASELINE_MODES["DATASETS"] for network in BASELINE_MODES["NETWORKS"]]


@pytest.fixture(params=CASES)
def config(request):
    return settings.as_dict(settings.load([f"--config={FOLDER / request.param}"]))


def facts_of(config):
    """The facts of a config's dataset; images that are not of one size have that of the config."""
    facts = FACTS[config["data"]["name"]]
    sides = [side or config["data"]["image_size"] for side in facts["image_shape"][:2]]
    return {**facts, "image_shape": [*sides, facts["image_shape"][2]]}


def cost(supernet, genome):
    arch = supernet.arch(genome)
    return macs.net_cost(supernet.net(arch), (arch.resolution, arch.resolution, arch.channels))


def test_a_recipe_builds_and_fits_its_data(config):
    recipe.check(config)
    facts = facts_of(config)
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
    rule, phases = train.rule_and_phases(
        supernet.space,
        config["train"]["steps"],
        *(config["train"].get(key) for key in ("sandwich_rule", "joint_rule", "progressive_shrinking")),
    )
    assert rule(supernet)
    assert phases is None or not phases.allowed.least[-1].any()


@pytest.mark.parametrize("file", PODS)
def test_a_pod_has_a_batch_for_every_chip(file):
    config = settings.as_dict(settings.load([f"--config={FOLDER / file}:pod"]))
    one = settings.as_dict(settings.load([f"--config={FOLDER / file}"]))
    assert config["train"]["batch_size"] % 8 == 0
    images = [c["train"]["batch_size"] * c["train"]["steps"] for c in (config, one)]
    assert images[0] == pytest.approx(images[1], rel=0.01)


@pytest.mark.parametrize("file", ["cifar10.py", "cifar100.py", "imagenet100_at32.py"])
def test_no_stage_of_small_images_is_one_pixel(file):
    for mode in ("", ":tiny"):
        config = settings.as_dict(settings.load([f"--config={FOLDER / file}{mode}"]))["supernet"]
        assert 32 // (config["stem_stride"] * math.prod(config["stage_strides"])) >= 4


def test_the_tiny_cifar_recipe_keeps_its_promise():
    config = settings.as_dict(settings.load([f"--config={FOLDER / 'cifar10.py'}:tiny"]))
    supernet = job.build_supernet(config["supernet"], FACTS["cifar10"])
    assert cost(supernet, supernet.space.largest)[0] <= 1_500_000


@pytest.mark.parametrize("file", FILES)
def test_tiny_modes_are_less_work(file):
    tiny, full = (settings.as_dict(settings.load([f"--config={FOLDER / file}{mode}"])) for mode in (":tiny", ""))
    assert tiny["train"]["steps"] < full["train"]["steps"]
    assert tiny["collect"]["subnets"] < full["collect"]["subnets"]


@pytest.mark.parametrize("file", PODS)
def test_a_start_from_once_for_alls_weights_needs_their_padding_and_no_phases(file):
    config = settings.as_dict(settings.load([f"--config={FOLDER / file}:weights", "--config.train.start_from=FILE"]))
    assert config["supernet"]["padding"] == "symmetric"
    assert config["supernet"]["kernel_transforms"]
    assert "progressive_shrinking" not in config["train"]
    assert config["train"]["start_from"] == "FILE"
    assert config["train"].get("new_classifier", False) == (config["data"]["name"] != "imagenet2012")


# Baselines.


@pytest.mark.parametrize("mode", ["", ":tiny", *(f":{mode}" for mode in NETWORKS)])
def test_a_baseline_builds_fits_its_data_and_trains_as_the_recipe_does(mode):
    config = settings.as_dict(settings.load([f"--config={FOLDER / BASELINES}{mode}"]))
    recipe.check(config)
    supernet = job.build(config, facts_of(config))
    arch = supernet.arch(supernet.space.largest)
    strides = np.cumprod([arch.stem_stride, *(spec.stride for _, spec in arch.named_blocks())])
    sides = -(-arch.resolution // strides)
    assert supernet.largest_net().arch.classes == 10
    assert (sides > 1).mean() >= 2 / 3
    dataset = (mode[1:] if "," in mode else "digits").partition(",")[0]
    file, inner, _ = BASELINE_MODES["DATASETS"][f"{dataset}{'_tiny' if mode == ':tiny' else ''}"]
    other = settings.as_dict(settings.load([f"--config={FOLDER / file}{inner and f':{inner}'}"]))
    assert config["data"] == other["data"]
    assert config["train"] == {**_without(other["train"], "sandwich_rule"), "label_smoothing": 0.0}


def _without(section, key):
    return {name: value for name, value in section.items() if name != key}


@pytest.mark.parametrize("dataset", BASELINE_MODES["DATASETS"])
def test_a_cascade_of_baselines_has_the_data_and_the_target_of_the_recipe(dataset):
    runs = [f"--config.cascade.{which}=runs/{which}" for which in ("little", "big")]
    config = settings.as_dict(settings.load([f"--config={FOLDER / BASELINES}:{dataset},cascade", *runs]))
    recipe.check(config)
    file, inner, _ = BASELINE_MODES["DATASETS"][dataset]
    other = settings.as_dict(settings.load([f"--config={FOLDER / file}{inner and f':{inner}'}"]))
    assert config["data"] == other["data"]
    assert config["cascade"] == {"little": "runs/little", "big": "runs/big"}
    assert config["dynamic"]["max_macs_fraction"] == other["dynamic"]["max_macs_fraction"]


def test_an_unknown_baseline():
    for mode in ("digits", "mnist,fbnet_a", "digits,msdnet"):
        with pytest.raises(ValueError, match="must be DATASET,NETWORK"):
            settings.load([f"--config={FOLDER / BASELINES}:{mode}"])
