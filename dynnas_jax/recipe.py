"""What a recipe may hold: the keys of every section, and values that make sense together, found before any work."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

from dynnas_jax import settings

# The least value, or least and greatest, of options that would else be found wrong only when their stage begins, hours later.
_LEAST = {
    "supernet": {"epsilon": 0},
    "train": {
        "steps": 1,
        "batch_size": 1,
        "steps_per_call": 1,
        "subnet_devices": 1,
        "spike_factor": 0,
        "most_roll_backs": 0,
        "heartbeat_s": 1,
        "checkpoint_every": 1,
        "log_every": 1,
        "evaluate_every": 0,
        "ema_decay": (0, 1),
    },
    "collect": {"subnets": 10, "calibration_images": 1, "chunk": 1},
    "predict": {"epochs": 1, "batch_size": 1, "held_out": (0, 1)},
    "search": {
        **{"budgets": 1, "population": 2, "generations": 1, "children": 1, "tournament": 1, "calibration_images": 1},
        **{"mutation_share": (0, 1), "mutation_probability": (0, 1)},
    },
    "export": {"calibration_images": 1, "max_accuracy_loss": (0, 1), "threads": 1, "runs": 1, "warm_up": 0},
    "dynamic": {"max_macs_fraction": 0, "max_latency_fraction": 0, "max_accuracy_loss": 0},
}


def stage(name: str) -> Callable:
    """The function of a stage: (job, folder, **options) -> the files it leaves."""
    return importlib.import_module(f"dynnas_jax.stages.{name}").run


def options(config: dict) -> settings.Options:
    """What each section of a config may hold. Raises ValueError for an unknown network, or a fixed one."""
    from dynnas_jax import networks
    from dynnas_jax.data import augment, mixing, sources, streams
    from dynnas_jax.dynamic import routing
    from dynnas_jax.search import evolution, pairs, predictor
    from dynnas_jax.train import joint, loop, metrics, progressive_shrinking, sandwich, state

    network = networks.supernet(config["supernet"].get("network"))
    parameters = settings.parameters
    filled = ("seed", "augment", "mix", "initial", "phases", "directory", "evaluate", "mesh", "config")
    return {
        "data": parameters(sources.load, also=("name", "augment"), given=("seed",)),
        "data.augment": parameters(augment.rule),
        "data.stream": parameters(streams.rule),
        "supernet": parameters(
            network.resolve(),
            also=("network", "padding", "epsilon", "coupled", "router_units"),
            given=("channels", "classes"),
        ),
        "train": parameters(loop.fit, stage("train"), given=filled),
        "train.optimizer": parameters(state.optimizer, given=("starts",)),
        "train.sandwich_rule": parameters(sandwich.rule),
        "train.joint_rule": parameters(joint.rule),
        "train.progressive_shrinking": parameters(progressive_shrinking.schedule, given=("random_subnets",)),
        "train.mixing": parameters(mixing.rule),
        "train.wandb": parameters(metrics.weights_and_biases),
        "collect": parameters(stage("collect")),
        "predict": parameters(predictor.fit, given=("key",)),
        "search": parameters(stage("search"), evolution.run),
        "dynamic": parameters(pairs.choose_pair, routing.asked),
        **{name: parameters(stage(name)) for name in ("evaluate", "export", "report")},
    }


def check(config: dict) -> None:
    """Every key of the config must configure something, and no value be impossible.

    Raises:
      ValueError: naming the unknown key and the nearest, or the value and what it must be.
    """
    if not isinstance(config["data"].get("name"), str):
        raise ValueError("data.name is missing: digits, a TFDS dataset, or the path of an .npz file or of a folder")
    for section, known in options(config).items():
        content = functools.reduce(lambda node, key: node.get(key) or {}, section.split("."), config)
        settings.check_options(section, content, known)
    _check_values(config)
    _build(config)


def _check_values(config: dict) -> None:
    from dynnas_jax.export import targets
    from dynnas_jax.export.metadata import PRECISIONS
    from dynnas_jax.search.collect import FORMS
    from dynnas_jax.search.pairs import BIG_NETS, cost_fraction, unit
    from dynnas_jax.stages import routers

    settings.check_least("", config, {"seed": 0})
    for section, least in _LEAST.items():
        settings.check_least(f"{section}.", config[section], least)
    dynamic = config["dynamic"]
    cost_fraction(**dynamic)
    unit(dynamic, bool(config["search"].get("latency_table")))
    precisions = config["export"].get("precisions", ())
    routers.check(dynamic, config)
    if dynamic.get("big_net", BIG_NETS[0]) not in BIG_NETS:
        raise ValueError(f"dynamic.big_net is {dynamic['big_net']!r}, choose from {list(BIG_NETS)}")
    if config["collect"].get("form", FORMS[0]) not in FORMS:
        raise ValueError(f"collect.form is {config['collect']['form']!r}, choose from {list(FORMS)}")
    if not set(precisions) <= set(PRECISIONS):
        raise ValueError(f"export.precisions is {tuple(precisions)!r}, choose from {PRECISIONS}")
    targets.target(config["target"])


def _build(config: dict) -> None:
    """Builds what training is made of, so that a value none of it accepts is found before the first step."""
    from dynnas_jax.data import augment, mixing, streams
    from dynnas_jax.train import joint, sandwich, state

    train = config["train"]
    parts = [
        ("data.augment", augment.rule, config["data"].get("augment")),
        ("data.stream", streams.rule, config["data"].get("stream")),
        ("train.optimizer", functools.partial(state.optimizer, train.get("steps", 1)), train.get("optimizer")),
        ("train.sandwich_rule", sandwich.rule, train.get("sandwich_rule")),
        ("train.joint_rule", joint.rule, train.get("joint_rule")),
    ]
    if train.get("mixing"):
        parts.append(("train.mixing", mixing.rule, train["mixing"]))
    for section, function, options in parts:
        try:
            function(**(options or {}))
        except TypeError as error:
            raise ValueError(f"{section}: {options} holds a value of another type ({error})") from error
