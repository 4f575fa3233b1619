"""Every recipe in every mode: its keys are known, its supernet builds and fits its data; nothing is trained."""

import inspect
import json
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import elastic, job, recipe, settings
from dynnas_jax.costs import macs
from dynnas_jax.data import derived, superclasses
from dynnas_jax.dynamic import exit_targets, gate_targets
from dynnas_jax.networks import exits, growing
from dynnas_jax.reports import growth_study, study_tables
from dynnas_jax.search import generator, generator_fit, stage_importance
from dynnas_jax.stages import starting, superclass_generator, train
from dynnas_jax.study import claim, grid
from dynnas_jax.train import state

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
OTHERS = (
    "baselines.py",
    "study_digits.py",
    "study_cifar10.py",
    "enas4d_digits.py",
    "enas4d_cifar10.py",
    "enas4d_cifar100.py",
    "enas4d_imagenet.py",
    "msdnet.py",
    "eas_digits.py",
    "eas_imagenet100_at32.py",
    "eas_paper.py",
    "ds_net_digits.py",
    "ds_net_cifar10.py",
    "ds_net_imagenet.py",
    "ds_net_imagenet100_at32.py",
    "stage_growth_digits.py",
    "stage_growth_cifar10.py",
    "stage_growth_imagenet.py",
    "stage_growth_transfer.py",
    "study_growth_digits.py",
    "study_growth_cifar10.py",
)  # tested by themselves
EXITS = [f"enas4d_{data}.py{mode}" for data in ("digits", "cifar10", "cifar100") for mode in ("", ":tiny")]
EXITS += ["enas4d_imagenet.py", "baselines.py:digits,branchynet", "baselines.py:cifar10_tiny,branchynet"]
SLIMMABLE = [f"ds_net_{data}.py{mode}" for data in ("digits", "cifar10", "imagenet100_at32") for mode in ("", ":tiny")]
SLIMMABLE += [f"ds_net_cifar10.py:{gates}transfer{small}" for gates in ("", "gate_") for small in ("", "_tiny")]
SLIMMABLE += [f"ds_net_imagenet.py:{mode}" for mode in ("", "mobilenet", "mobilenet18", "efficientnet", "tiny")]
MSDNETS = [f"msdnet.py:{mode}" for mode in runpy.run_path(str(FOLDER / "msdnet.py"))["MODES"]]
SUPERCLASSES = [f"eas_{file}.py{mode}" for file in ("digits", "imagenet100_at32", "paper") for mode in ("", ":tiny")]
SUPERCLASSES += [f"eas_paper.py:{mode}" for mode in ("imagenet12", "car20")]
FILES = sorted(file.name for file in FOLDER.glob("*.py") if file.name not in OTHERS)
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


@pytest.mark.parametrize("path", [*EXITS, *MSDNETS])
def test_a_recipe_of_several_exits_builds_and_its_targets_can_be_met(path):
    config = settings.as_dict(settings.load([f"--config={FOLDER / path}"]))
    assert ("transfer_from" in config["train"]) == (path == "enas4d_imagenet.py"), (
        "whose rate is one for trained weights"
    )
    if "transfer_from" in config["train"]:
        with pytest.raises(
            ValueError, match="train.transfer_from is empty: name the working directory of a finished run"
        ):
            recipe.check(config)
        recipe.check({**config, "train": {**config["train"], "start_from": "weights.pth"}})
        config["train"]["transfer_from"] = "elsewhere"
    recipe.check(config)
    facts = facts_of(config)
    supernet = job.build(config, facts)
    net = supernet.largest_net()
    image = jax.ShapeDtypeStruct((2, *facts["image_shape"]), jnp.uint8)
    applied, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
    assert [logits.shape for logits in supernet.answers(applied)] == [(2, len(facts["classes"]))] * len(supernet.exits)
    assert set(variables) == {"params", "batch_stats"}
    spent = exits.costs(net)
    assert macs.params(variables) == spent.params[-1]
    asked = {key: value for key, value in config["dynamic"].items() if key != "score"}
    cheapest = exits.costs(supernet.net(supernet.arch(supernet.space.smallest)))
    exit_targets.check_reachable(exit_targets.asked({exit_targets.MACS: spent.macs[-1]}, **asked), cheapest.macs[0])


@pytest.mark.parametrize(("path", "epochs"), [("msdnet.py:imagenet", 90), ("enas4d_imagenet.py", 24)])
def test_recipes_for_imagenet_have_the_epochs_of_their_papers(path, epochs):
    train = settings.load([f"--config={FOLDER / path}"]).train
    assert train.steps * train.batch_size == pytest.approx(epochs * (1_281_167 - 10_000), rel=1e-3)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("enas4d_cifar10.py", "cifar10.py"),
        ("enas4d_cifar10.py:tiny", "cifar10.py:tiny"),
        ("enas4d_cifar10.py", "cifar10_coupled.py:apart"),
        ("enas4d_cifar100.py", "cifar100.py"),
        ("enas4d_imagenet.py", "imagenet_ofa.py"),
    ],
)
def test_nets_of_several_exits_can_start_from_the_recipe_of_single_nets_that_is_named(path, source):
    several, single = (settings.as_dict(settings.load([f"--config={FOLDER / name}"])) for name in (path, source))
    base, trained = job.base_of(several, facts_of(several)), job.build(single, facts_of(single))
    shape = tuple(facts_of(several)["image_shape"])
    variables = jax.eval_shape(lambda key: elastic.init_supernet(trained, key, shape), jax.random.key(0))
    starting.check_fits(trained, variables, base, shape)


@pytest.mark.parametrize(("mode", "groups"), [("imagenet10", 10), ("imagenet12", 12), ("car20", 20)])
def test_generators_see_the_paper_s_validation_images_ninety_times(mode, groups):
    """A step reads at most as many images as the smallest superclass has, here as many as all if they are alike."""
    config = settings.as_dict(settings.load([f"--config={FOLDER / 'eas_paper.py'}:{mode}"]))
    default = inspect.signature(generator_fit.fit).parameters["batch_size"].default
    assert len(superclasses.read(superclasses.path_of(mode))) == groups
    images = min(config["generator"].get("batch_size", default), config["data"]["holdout"] // groups)
    assert config["generator"]["steps"] * images == pytest.approx(90 * config["data"]["holdout"], rel=1e-2)


@pytest.mark.parametrize("path", SUPERCLASSES)
def test_a_recipe_of_superclasses_builds_and_its_budgets_are_in_the_space(path):
    config = settings.as_dict(settings.load([f"--config={FOLDER / path}"]))
    recipe.check(config)
    side = config["data"].get("image_size", 32)
    known = config["superclasses"].get("known")
    names = derived.listed(superclasses.path_of(known)) if known else tuple(range(10))
    groups = superclasses.of(names, **config["superclasses"])
    facts = {"image_shape": [side, side, 3], "classes": names, "mean": [0.5] * 3, "std": [0.25] * 3}
    facts = {**FACTS["digits"], "classes": names} if config["data"]["name"] == "digits" else facts
    supernet = job.build(config, facts)
    smallest, largest = (cost(supernet, genome)[0] for genome in (supernet.space.smallest, supernet.space.largest))
    section = config["generator"]
    assert smallest <= section.get("least_budget", smallest) < section.get("most_budget", largest) <= largest
    generator.shape_of(supernet.space, len(groups.names))
    superclass_generator.tasks(groups, section.get("unions", ()))
    train.rule_and_phases(
        supernet.space,
        config["train"]["steps"],
        {"teacher": "trained", **config["train"]["sandwich_rule"]},
        None,
        config["train"]["progressive_shrinking"],
    )
    if "class_list" in config["data"]:
        assert derived.listed(Path(config["data"]["class_list"])) == names


@pytest.mark.parametrize("name", SLIMMABLE)
def test_networks_of_gates_build_and_reach_their_target(name):
    config = settings.as_dict(settings.load([f"--config={FOLDER / name.removesuffix(':')}"]))
    # What the modes of transfer leave open, one after the other.
    for stage in [stage for stage in ("train", "gate") if "transfer_from" in config[stage]]:
        with pytest.raises(ValueError, match=f"{stage}.transfer_from is empty: name the working directory"):
            recipe.check(config)
        config[stage]["transfer_from"] = "elsewhere"
    assert ("transfer" in name) == ("transfer_from" in config["train"])
    assert ("gate_transfer" in name) == ("transfer_from" in config["gate"])
    recipe.check(config)
    supernet = job.build(config, facts_of(config))
    if config["dynamic"]:
        target, table = gate_targets.asked(supernet, **config["dynamic"]), macs.table(supernet)
        assert table.exact(supernet.space.smallest) < target < table.exact(supernet.space.largest)
    for stage in ("train", "gate"):
        rate = state.optimizer(config[stage]["steps"], **config[stage]["optimizer"]).learning_rate
        assert float(rate(config[stage]["steps"] - 1)) < 0.5 * config[stage]["optimizer"]["learning_rate"]


@pytest.mark.parametrize(("mode", "published"), [("", 0.2), ("mobilenet", 0.08), ("mobilenet18", 0.08)])
def test_a_step_of_gated_networks_on_imagenet_is_as_long_as_that_of_added_gradients(mode, published):
    """One step of plain SGD by the recipe on the mean of four gradients, against the paper's rate and decay on their sum."""
    config = settings.as_dict(settings.load([f"--config={FOLDER / 'ds_net_imagenet.py'}:{mode}".removesuffix(":")]))
    own, paths = config["train"]["optimizer"], 2 + config["train"]["bootstrapping"]["random_paths"]
    gradients, weight = np.asarray([0.3, -0.1, 0.25, 0.7])[:paths], 1.7
    wanted = published * (gradients.sum() + 1e-4 * weight)
    assert own["learning_rate"] * (gradients.mean() + own["weight_decay"] * weight) == pytest.approx(wanted)


GROWTHS = {
    "stage_growth_digits.py": ("", "tiny", "inf_fs", "il_fs_tiny", "random", "choose", "choose_il_fs_tiny"),
    "stage_growth_cifar10.py": ("", "tiny", "cells", "cells_tiny", "transfer", "read_off", "ensemble", "choose_inf_fs"),
    "stage_growth_imagenet.py": ("", "tiny"),
}


@pytest.mark.parametrize("path", [f"{file}:{mode}" for file, modes in GROWTHS.items() for mode in modes])
def test_a_recipe_that_grows_begins_as_it_says(path):
    config = settings.as_dict(settings.load([f"--config={FOLDER / path.removesuffix(':')}"]))
    recipe.check(config)
    supernet = job.build(config, facts_of(config))
    depths = growing.depths(supernet.largest_net())
    begins = config["grow"].get("initial_modules") or growing.FAMILIES[config["growth"]["name"]].initial_modules
    assert depths == (begins,) * len(depths)
    for options in (config["train"], {**config["train"], **config["grow"].get("further", {})}):
        assert options["steps"] >= 20
        state.optimizer(options["steps"], **options["optimizer"])


@pytest.mark.parametrize("file", ["stage_growth_digits.py", "stage_growth_cifar10.py"])
@pytest.mark.parametrize("mode", ["choose", "choose_inf_fs", "choose_il_fs", "choose_il_fs_tiny"])
def test_the_values_to_choose_from_hold_the_one_that_is_else_taken(mode, file):
    """The criterion's default stands first: of equals the first is taken."""
    path = f"--config={FOLDER / file}"
    choosing = settings.as_dict(settings.load([f"{path}:{mode}"]))["grow"]
    assumed = settings.as_dict(settings.load([f"{path}:{mode.removeprefix('choose').strip('_')}".strip(":")]))
    assert "criterion_options" not in choosing
    assert choosing["criterion"] == assumed["grow"]["criterion"]
    ((name, values),) = choosing["choose"].items()
    assert len(values) >= 3
    assert {name: assumed["grow"]["criterion_options"][name]} == assumed["grow"]["criterion_options"]
    assert assumed["grow"]["criterion_options"][name] in values
    for value in values:
        stage_importance.check(choosing["criterion"], **{name: value})
    criterion = stage_importance.CRITERIA[choosing["criterion"]]
    assert values[0] == inspect.signature(criterion).parameters[name].default


@pytest.mark.parametrize(
    ("mode", "option"), [("", "depths"), ("cells", "cells"), ("tiny", "depths"), ("cells_tiny", "cells")]
)
def test_depths_found_elsewhere_are_those_of_the_file(mode, option, tmp_path):
    """As many trainings as the rival of uniform depth; without a file nothing else is trained in its place."""
    path = f"--config={FOLDER / 'stage_growth_transfer.py'}:{mode}".removesuffix(":")
    config = settings.as_dict(settings.load([path]))
    with pytest.raises(ValueError, match="network.arch is None: give an arch file"):
        recipe.check(config)
    file = tmp_path / "candidate.json"
    file.write_text(json.dumps({option: [2, 3, 2], "resolution": 8, "channels": 1}))
    config = recipe.with_files(settings.as_dict(settings.load([path, f"--config.network.arch={file}"])))
    recipe.check(config)
    arch = job.build(config, facts_of(config)).largest_net().arch
    assert [getattr(arch, option), arch.resolution, arch.channels, arch.classes] == [(2, 3, 2), 32, 3, 100]
    rival = "resnet110" if option == "depths" else "nasnet241"
    size = 16 if mode.endswith("tiny") else 32
    assert config["report"]["title"].startswith(f"100 classes of ImageNet at {size}x{size}:")
    rivals = f"{path.partition(':')[0]}:{rival}{'_tiny' * mode.endswith('tiny')}"
    assert settings.as_dict(settings.load([rivals]))["train"] == config["train"]


@pytest.mark.parametrize("mode", ["", ":tiny"])
def test_the_criteria_that_the_study_of_growing_compares_train_alike(mode, tmp_path):
    study = grid.read([f"--config={FOLDER / 'study_growth_digits.py'}{mode}"])
    claim.claim(study, tmp_path / "W")
    configs = {row.name: row.config(0, tmp_path) for row in study.rows if "growth_criteria" in row.tables}
    assert [config["grow"]["criterion"] for config in configs.values()] == ["pls", "inf_fs", "il_fs", "random"]
    alike = ("iterations", "initial_modules", "growth")
    for config in configs.values():
        recipe.check(config)
        assert config["train"] == configs["pls"]["train"]
        assert [config["grow"].get(key) for key in alike] == [configs["pls"]["grow"].get(key) for key in alike]


def test_the_paper_s_recipe_of_growing():
    config = settings.as_dict(settings.load([f"--config={FOLDER / 'stage_growth_cifar10.py'}"]))
    epoch = 45_000 // 128
    rate = state.optimizer(config["train"]["steps"], **config["train"]["optimizer"]).learning_rate
    found = [float(rate(number * epoch)) for number in (1, 99, 101, 149, 151, 199)]
    np.testing.assert_allclose(found, [0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4], rtol=1e-5)
    assert config["grow"]["further"]["steps"] == 100 * epoch
    cells = settings.as_dict(settings.load([f"--config={FOLDER / 'stage_growth_cifar10.py'}:cells"]))
    assert growing.depths(job.build(cells, facts_of(cells)).largest_net()) == (2, 2, 2)


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


# Studies.


ALL_TABLES = set(study_tables.PLACES) - set(growth_study.TABLES)


@pytest.mark.parametrize(
    ("file", "mode", "tables"),
    [
        ("study_digits.py", "", ALL_TABLES),
        ("study_digits.py", ":tiny", ALL_TABLES),
        ("study_cifar10.py", ":tiny", {"main", "training", "behaviour"}),
    ],
)
def test_a_study_s_rows_are_what_their_runs_would_take(file, mode, tables, tmp_path):
    study = grid.read([f"--config={FOLDER / file}{mode}"])
    claim.claim(study, tmp_path / "W")
    assert {table for row in study.rows for table in row.tables} == tables
    for row in study.rows:
        config = row.config(0, tmp_path)
        assert config["data"] == study.rows[0].config(0, tmp_path)["data"]
        assert len(row.seeds) == (1 if mode else 3)
        # A cascade needs the nets of its rows only, and a table that tells of devices needs an export.
        assert ("export" in row.stage_names(config)) == bool({"main", "routers"} & set(row.tables))


@pytest.mark.parametrize(
    ("file", "absent"),
    [
        ("study_growth_digits.py", {"growth_cells", "growth_elsewhere"}),  # neither cells nor another dataset
        ("study_growth_cifar10.py", set()),
    ],
)
def test_a_study_of_growth_shows_every_table_of_its_own(file, absent):
    """All of the paper's on CIFAR-10; rows' modes are known, and those of the tiny nets are the others' but for the depths."""
    names = []
    for mode in ("", ":tiny"):
        study = grid.read([f"--config={FOLDER / file}{mode}"])
        assert {table for row in study.rows for table in row.tables} == {"main", *growth_study.TABLES} - absent
        for row in study.rows:
            row.config(0, Path("W"))
        names.append({row.name for row in study.rows if not row.name.startswith("from")})
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("file", "modules"),
    [
        ("study_growth_digits.py", [2, 1, 3, 4]),
        ("study_growth_cifar10.py", [6, 2, 4, 8, 10]),
        ("study_growth_cifar10.py:tiny", [1, 2, 3]),
    ],
)
def test_nets_of_the_table_of_initial_depths_differ_by_these_alone(file, modules):
    """One iteration of each is what the table shows; all are trained further alike, and nothing else is trained, or told."""
    study = grid.read([f"--config={FOLDER / file}"])
    rows = [row for row in study.rows if "growth_initial" in row.tables]
    first, *others = (row.config(0, Path("W")) for row in rows)
    begins = growing.FAMILIES["cifar_resnet"].initial_modules
    assert [config["grow"].get("initial_modules", begins) for config in (first, *others)] == modules
    for row, config in zip(rows[1:], others, strict=True):
        recipe.check(config)
        assert config["grow"] == {**config["grow"], "iterations": 1, "uniform": False}
        assert row.stage_names(config) == ("grow", "evaluate")
        assert not config["evaluate"].get("together")
        for key in ("data", "growth", "train"):
            assert config[key] == first[key]
        alike = ("criterion", "criterion_options", "further", "growth")
        assert [config["grow"].get(key) for key in alike] == [first["grow"].get(key) for key in alike]


@pytest.mark.parametrize(("file", "steps"), [("study_digits.py", 700), ("study_cifar10.py", 10_546)])
def test_the_trainings_that_the_study_compares_are_equal(file, steps):
    study = grid.read([f"--config={FOLDER / file}"])
    rows = {row.name: row.config(0, Path("W")) for row in study.rows}
    trains = [rows[name]["train"] for name in ("apart_little", "apart_big", "coupled", "without_distillation")]
    assert [train["steps"] for train in trains] == [steps // 2, steps // 2, steps, steps]
    same = [{key: train[key] for key in ("batch_size", "optimizer", "ema_decay")} for train in trains]
    assert all(other == same[0] for other in same)
    # Four nets a step, of pairs and of the sandwich.
    assert 2 * (1 + trains[2]["joint_rule"]["random_pairs"]) == 2 + trains[0]["sandwich_rule"]["random_subnets"] == 4
    # The independent pair's nets are chosen for the same target.
    aims = [rows[name]["dynamic"].get("max_macs_fraction") for name in ("coupled", "apart", "cascade", "once_for_all")]
    assert len(set(aims)) == 1
    assert aims[0] is not None
    without = {"distillation": False, "big_distillation": False}
    assert trains[2]["joint_rule"] | without == trains[3]["joint_rule"]


def test_one_term_or_one_kind_of_choice_is_all_that_a_row_of_an_ablation_changes():
    study = grid.read([f"--config={FOLDER / 'study_digits.py'}"])
    full = study.row("coupled").config(0, Path("W"))
    changes = {f"without_{name}": {name: 0.0} for name in ("little", "routing", "consistency")}
    changes |= {"without_big": {"big": 0.0, "distillation": False}}
    changes |= {"labels_for_big": {"big_distillation": False}, "efficiency": {"efficiency": 0.1}}
    for name, change in changes.items():
        other = study.row(name).config(0, Path("W"))
        assert other["train"]["joint_rule"] == {**full["train"]["joint_rule"], **change}
        assert other["train"]["joint_rule"] != full["train"]["joint_rule"]
        assert other["supernet"] == full["supernet"]
    largest = cost(job.build_supernet(full["supernet"], FACTS["digits"]), _largest(full))
    for name in ("width", "depth", "kernel"):
        other = study.row(f"only_{name}").config(0, Path("W"))
        assert other["train"] == full["train"]
        supernet = job.build_supernet(other["supernet"], FACTS["digits"])
        kinds = {
            gene.name.rpartition(".")[2]
            for gene, size in zip(supernet.space.genes, supernet.space.sizes, strict=True)
            if size > 1
        }
        assert kinds == {name}
        assert cost(supernet, supernet.space.largest) == largest
        assert supernet.space.size() >= other["collect"]["subnets"]


def _largest(config):
    return job.build_supernet(config["supernet"], FACTS["digits"]).space.largest
