"""What each section of a recipe may hold: the options of the functions that it configures."""

from __future__ import annotations

from dynnas_jax import kinds, settings

_FILLED = ("seed", "augment", "mix", "initial", "phases", "directory", "evaluate", "mesh", "config", "drop")


def options(config: dict) -> settings.Options:
    """What each section of a config may hold. Raises ValueError for an unknown network, or one of another kind of run."""
    kind, parameters = kinds.of(config), settings.parameters
    sections = {"data": _data, kind.name: _OF_KIND[kind.name]}
    sections |= {"train": _train, "dynamic": _dynamic}
    found: settings.Options = {}
    for name in kind.sections:
        if name in sections:
            found |= sections[name](config, kind)
        elif name in kind.names and name not in found:
            found[name] = parameters(kind.function(name))
    return found


def unused(config: dict) -> set[str]:
    """Keys of `options`, by their dotted names, that mean nothing in a config which leaves them out.

    What a growth searches, or another criterion takes; and what the arch file of a network of many archs says in their place.
    """
    kind = kinds.of(config)
    found = set()
    if kind is kinds.GROWTH:
        from dynnas_jax.networks import growing
        from dynnas_jax.search import stage_importance
        from dynnas_jax.stages import growth_nets

        asked = growth_nets.Options(**config.get("grow", {}))
        own = stage_importance.CRITERIA.get(asked.criterion)
        taken = set(settings.parameters(own)) if own and not asked.choose else set()
        every = settings.parameters(*stage_importance.CRITERIA.values())
        found = {f"grow.criterion_options.{key}" for key in every if key not in taken}
        found.add(f"growth.{growing.family(config['growth'].get('name')).option}")
    elif kind in (kinds.NETWORK, kinds.EXIT_NETWORK):
        from dynnas_jax.networks import fixed

        section = config[kind.name]
        if section.get("arch") is not None and fixed.loader(section).family:
            found = {f"{kind.name}.{key}" for key in fixed.parameters(section)}
    sections = {key: key.rpartition(".")[::2] for key in found}
    return {key for key, (section, name) in sections.items() if name not in settings.content(config, section)}


def _data(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.data import augment, sources, streams

    return {
        "data": settings.parameters(sources.load, also=("name", "augment"), given=("seed", "with_test")),
        "data.augment": settings.parameters(augment.rule),
        "data.stream": settings.parameters(streams.rule),
    }


def _supernet(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax import networks
    from dynnas_jax.search import evolution, predictor
    from dynnas_jax.stages.strategies import STRATEGIES

    network = networks.supernet(config["supernet"].get("network"))
    also = ("network", "padding", "epsilon", "coupled", "router_units")
    return {
        "supernet": settings.parameters(network.resolve(), also=also, given=("channels", "classes")),
        "predict": settings.parameters(predictor.fit, given=("key",)),
        "search": settings.parameters(kind.function("search"), evolution.run, also=tuple(STRATEGIES)),
        **{f"search.{name}": settings.parameters(*one.configured, given=one.given) for name, one in STRATEGIES.items()},
    }


def _network(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.networks import fixed, growing

    if kind is kinds.GROWTH:
        growing.family(config["growth"].get("name"))
    return {kind.name: fixed.parameters(config[kind.name])}


def _multi_exit(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax import networks
    from dynnas_jax.networks import multi_supernet
    from dynnas_jax.search import evolution, predictor

    network, parameters = networks.supernet(config["multi_exit"].get("network")), settings.parameters
    also, given = ("network", "padding", "epsilon"), ("channels", "classes", "supernet")
    return {
        "multi_exit": parameters(network.resolve(), multi_supernet.build, also=also, given=given),
        "predict": parameters(predictor.fit, kind.function("predict"), given=("key",)),
        "search": parameters(kind.function("search"), evolution.run),
    }


def _eas(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.stages import superclass_options

    return superclass_options.options(config["eas"].get("network"), settings.parameters, _FILLED)


def _cascade(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax import sides

    return {"cascade": settings.parameters(sides.read_both)}


def _train(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.data import mixing
    from dynnas_jax.search import stage_importance
    from dynnas_jax.stages.train import fitted
    from dynnas_jax.train import joint, loop, metrics, progressive_shrinking, sandwich, state

    parameters = settings.parameters
    found = {
        "train": parameters(loop.fit, fitted, kind.function("train"), given=_FILLED),
        "train.optimizer": parameters(state.optimizer, given=("starts",)),
        "train.mixing": parameters(mixing.rule),
        "train.wandb": parameters(metrics.weights_and_biases),
    }
    if kind is kinds.GROWTH:
        for name in (
            "start_from",
            "new_classifier",
            "power_w",
        ):  # of the section `grow`: the first two are its `source`
            del found["train"][name]
        steps = found["train"]["steps"].replace(default=None)  # as many as `train.steps`
        found["grow.further"], found["grow.further.optimizer"] = (
            {**found["train"], "steps": steps},
            found["train.optimizer"],
        )
        found["grow.criterion_options"] = parameters(*stage_importance.CRITERIA.values())
    if kind in (kinds.NETWORK, kinds.EXIT_NETWORK, kinds.GROWTH):
        del found["train"]["teacher"]
        return found
    if kind is kinds.SLIMMABLE:
        del found["train"]["teacher"]
        return found
    if kind is kinds.SUPERNET:
        del found["train"]["transfer_from"], found["train"]["transfer_sorted"]
    if kind is kinds.EAS:
        del found["train"]["teacher"]
    joined = {"train.joint_rule": parameters(joint.rule)} if kind is kinds.SUPERNET else {}
    return found | {
        "train.sandwich_rule": parameters(sandwich.rule),
        **joined,
        "train.progressive_shrinking": parameters(progressive_shrinking.schedule, given=("random_subnets",)),
    }


def _dynamic(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.dynamic import exit_targets, protocol, routing
    from dynnas_jax.search import pairs

    if kind is kinds.SUPERNET:
        return {"dynamic": settings.parameters(pairs.choose_pair, routing.asked)}
    if kind is kinds.SLIMMABLE:
        return {}  # beside what the section of the kind says
    if kind in kinds.OF_EXITS:
        return {"dynamic": settings.parameters(exit_targets.asked, given=("most",), also=("score",))}
    # Of a cascade both nets are given, no latency table tells what they take, and their confidence routes.
    given = ("big_net", "max_latency_fraction")
    return {"dynamic": settings.parameters(pairs.choose_pair, protocol.confident_pair, given=given)}


def _slimmable(config: dict, kind: kinds.Kind) -> settings.Options:
    from dynnas_jax.stages import slimmable

    return slimmable.options(config, settings.parameters, kind.function("gate"))


_OF_KIND = {
    "supernet": _supernet,
    "network": _network,
    "cascade": _cascade,
    "multi_exit": _multi_exit,
    "exit_network": _network,
    "eas": _eas,
    "growth": _network,
    "slimmable": _slimmable,
}
# What a stage says of a training itself.
