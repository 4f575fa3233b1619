"""What a recipe may hold: the keys of every section, and values that make sense together, found before any work."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

from dynnas_jax import kinds, sections, settings
from dynnas_jax.export import confined
from dynnas_jax.workdir import file_digest

_RATES = {"learning_rate": 0, "weight_decay": 0}  # of a predictor
# The least value, or least and greatest, of options that would else be found wrong only when their stage begins, hours later.
_LEAST = {
    "supernet": {"epsilon": 0},
    "network": {"epsilon": 0},
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
        "calibration_images": 1,
        "power_w": 0,
    },
    "gate": {
        **{"steps": 0, "batch_size": 1, "calibration_images": 1, "ema_decay": (0, 1)},
        **{"checkpoint_every": 1, "log_every": 1, "power_w": 0},
    },
    "evaluate": {"calibration_images": 1, "timed_batches": 1, "one_by_one_images": 1, "batch": 1, "capacity": 1},
    "collect": {"subnets": 10, "calibration_images": 1, "chunk": 1},
    "grow": {
        **{"iterations": 1, "initial_modules": 1, "growth": 1, "samples": 8, "pooled_side": 1, "power_w": 0},
        "grid_g_per_kwh": 0,
    },
    "predict": {"epochs": 1, "batch_size": 1, "held_out": (0, 1), "gap_subnets": 0, **_RATES},
    "search": {
        **{"budgets": 1, "population": 2, "generations": 1, "children": 1, "tournament": 1, "calibration_images": 1},
        **{"mutation_share": (0, 1), "mutation_probability": (0, 1), "effort_images": 1, "cost_weight": 0},
        "recorded_candidates": 0,
    },
    "search.differentiable": {
        **{"batch_size": 1, "train_images": 1, "learning_rate": 0, "weight_learning_rate": 0, "temperature": 0},
        **{"final_temperature": 0, "over_weight": 0, "softness": 0, "candidates": 1},
    },
    "search.evolutionary": {"population": 2, "tournament": 1, "mutation_share": (0, 1), "mutation_probability": (0, 1)},
    "search.once_for_all": {
        **{"records": (0, 1), "epochs": 1, "batch_size": 1, "held_out": (0, 1), "population": 2, "generations": 1},
        **{"children": 1, "tournament": 1, "mutation_share": (0, 1), "mutation_probability": (0, 1), **_RATES},
    },
    "generator": {"steps": 1, "batch_size": 2, "scenarios": 1, "cost_scenarios": 0, "cost_weight": 0},
    "export": {
        **{"calibration_images": 1, "max_accuracy_loss": (0, 1), "runs": 1, "warm_up": 0},
        "threads": (1, confined.MOST_THREADS),
    },
    "dynamic": {"max_macs_fraction": 0, "max_latency_fraction": 0, "max_accuracy_loss": 0},
}


def with_files(config: dict) -> dict:
    """The config with the content of the files that it names in its nets' places, so that a run needs them no more.

    Raises:
      ValueError: for an arch file that cannot be read.
    """
    if file := (config.get("superclasses") or {}).get("file"):
        from dynnas_jax.data import superclasses

        config = {**config, "superclasses": {"groups": superclasses.read(Path(str(file)).expanduser())}}
    named = [name for name in _FIXED if isinstance(config.get(name, {}).get("arch"), str)]
    if not named:
        return config
    from dynnas_jax.networks import fixed

    return {**config, **{name: fixed.with_arch(config[name]) for name in named}}


def sources(config: dict) -> dict[str, str | None]:
    """Hashes of what a run reads from elsewhere, None where there is nothing to read."""
    from dynnas_jax.data.sources import identity

    start, teacher = (config.get("train", {}).get(key) for key in ("start_from", "teacher"))
    files = {"train.start_from": start, "train.teacher": teacher and Path(str(teacher)) / "train" / "manifest.json"}
    if transfer := config.get("train", {}).get("transfer_from"):
        files["train.transfer_from"] = Path(str(transfer)) / "train" / "manifest.json"
    if transfer := config.get("gate", {}).get("transfer_from"):
        files["gate.transfer_from"] = Path(str(transfer)) / "gate" / "manifest.json"
    files |= {
        f"{name}.latency_table": config.get(name, {}).get("latency_table")
        for name in ("search", "dynamic", "generator")
    }
    grow = config.get("grow", {})
    also = config.get("evaluate", {}).get("also") or ()
    if isinstance(also, (tuple, list)):  # its stage refuses what is none
        files |= {f"evaluate.also{number}": kinds.net_manifest(run) for number, run in enumerate(also)}
    files["grow.source"] = kinds.net_manifest(grow.get("source"))
    files |= {f"cascade.{which}": kinds.net_manifest(run) for which, run in config.get("cascade", {}).items()}
    found = {key: Path(str(file)).expanduser() for key, file in files.items() if file}
    hashes = {key: file_digest(file) for key, file in found.items() if file.is_file()}
    return {"data.name": identity(**config["data"]), **hashes}


_FIXED = ("network", "exit_network", "growth")  # sections of one fixed network


def check(config: dict) -> None:
    """Every key of the config must configure something, and no value be impossible.

    Raises:
      ValueError: naming the unknown key and the nearest, or the value and what it must be.
    """
    if not isinstance(config["data"].get("name"), str):
        raise ValueError("data.name is missing: digits, a TFDS dataset, or the path of an .npz file or of a folder")
    kind = kinds.of(config)
    for section, known in sections.options(config).items():
        settings.check_options(section, settings.content(config, section), known)
    _check_values(config)
    if kind.name in _FIXED:
        from dynnas_jax.networks import fixed

        fixed.check(config[kind.name], several_exits=kind is kinds.EXIT_NETWORK)
    if "train" in config:
        _build(config)
    if further := settings.content(config, "grow.further"):
        _build_further({**config["train"], **further})


def _check_values(config: dict) -> None:
    from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
    from dynnas_jax.dynamic import exit_targets
    from dynnas_jax.export import targets
    from dynnas_jax.search.pairs import BIG_NETS, cost_fraction, unit
    from dynnas_jax.search.width import FORMS
    from dynnas_jax.stages import routers, slimmable, starting, strategies

    settings.check_least("", config, {"seed": 0})
    for section, least in {**_LEAST, "grow.further": _LEAST["train"]}.items():
        settings.check_least(f"{section}.", settings.content(config, section), least)
    if (grid := config.get("grow", {}).get("grid_g_per_kwh", 0)) is None or math.isinf(grid):
        raise ValueError(f"grow.grid_g_per_kwh is {grid}, must be a finite number")
    dynamic, collect = config.get("dynamic", {}), config.get("collect", {})
    if kinds.of(config) is kinds.MULTI_EXIT:
        starting.check_named(config, "train")
    if kinds.of(config) in kinds.OF_EXITS:
        exit_targets.check(**{key: value for key, value in dynamic.items() if key != "score"})
    elif kinds.of(config) is kinds.SLIMMABLE:
        starting.check_named(config, "train", "gate")
        _build_parts(slimmable.parts(config))
    elif "dynamic" in config:
        cost_fraction(**dynamic)
        unit(dynamic, bool(config.get("search", {}).get("latency_table")))
    if "supernet" in config:
        routers.check(dynamic, config)
        strategies.check(config.get("search", {}), dynamic)
    elif (score := dynamic.get("score", DEFAULT_SCORE)) not in list(SCORES):
        raise ValueError(f"dynamic.score is {score!r}, choose from {list(SCORES)}")
    if dynamic.get("big_net", BIG_NETS[0]) not in BIG_NETS:
        raise ValueError(f"dynamic.big_net is {dynamic['big_net']!r}, choose from {list(BIG_NETS)}")
    if collect.get("form", FORMS[0]) not in FORMS:
        raise ValueError(f"collect.form is {collect['form']!r}, choose from {list(FORMS)}")
    targets.check_precisions("export.precisions", config["export"].get("precisions", ()), config["target"])


def _build(config: dict) -> None:
    """Builds what training is made of, so that a value none of it accepts is found before the first step."""
    from dynnas_jax.data import augment, streams
    from dynnas_jax.train import joint, sandwich

    train = config["train"]
    parts = [
        ("data.augment", augment.rule, config["data"].get("augment")),
        ("data.stream", streams.rule, config["data"].get("stream")),
        ("train.sandwich_rule", sandwich.rule, train.get("sandwich_rule")),
        ("train.joint_rule", joint.rule, train.get("joint_rule")),
    ]
    _build_parts([*parts, *_of_training(train)])


def _build_further(train: dict) -> None:
    """As `_build` for a further training: the section `train`, with the keys of `grow.further` in their places."""
    try:
        _build_parts(_of_training(train))
    except ValueError as error:
        raise ValueError(f"grow.further: {error}") from error


def _of_training(train: dict) -> list[tuple[str, Callable, dict | None]]:
    """The parts of a training that every kind of run has."""
    from dynnas_jax.data import mixing
    from dynnas_jax.train import incidents, state

    watched = {key: train[key] for key in ("spike_factor", "on_incident", "most_roll_backs") if key in train}
    parts = [
        ("train.optimizer", functools.partial(state.optimizer, train.get("steps", 1)), train.get("optimizer")),
        ("train", incidents.rule, watched),
    ]
    return [*parts, ("train.mixing", mixing.rule, train["mixing"])] if train.get("mixing") else parts


def _build_parts(parts: list[tuple[str, Callable, dict | None]]) -> None:
    """Calls (section, function, its keyword arguments). Raises ValueError as the functions do, or for a value of another type."""
    for section, function, options in parts:
        try:
            function(**(options or {}))
        except TypeError as error:
            raise ValueError(f"{section}: {options} holds a value of another type ({error})") from error
