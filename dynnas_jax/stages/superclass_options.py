"""What the sections of a run of superclasses may hold, beside those that all trainings share."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from dynnas_jax import networks
from dynnas_jax.data import superclasses
from dynnas_jax.search import evolution, generator, generator_fit, predictor
from dynnas_jax.stages import network_train, superclass_generator, superclass_search
from dynnas_jax.stages.train import fitted
from dynnas_jax.train import loop, state


def options(
    network: str | None, parameters: Callable[..., dict[str, inspect.Parameter]], filled: tuple[str, ...]
) -> dict[str, dict[str, inspect.Parameter]]:
    """By section the parameters that its keys fill in.

    Args:
      network: name of the space.
      parameters: what finds them (`settings.parameters`).
      filled: what a stage says of a training itself.

    Raises:
      ValueError: for an unknown network.
    """
    space = networks.supernet(network)
    return {
        "eas": parameters(space.resolve(), also=("network", "padding", "epsilon"), given=("channels", "classes")),
        "superclasses": parameters(superclasses.of),
        "teacher": parameters(loop.fit, fitted, network_train.run, given=filled),
        "teacher.optimizer": parameters(state.optimizer, given=("starts",)),
        "predict": parameters(predictor.fit, given=("key",)),
        "generator": parameters(superclass_generator.run, generator.shape_of, generator_fit.fit),
        "search": parameters(superclass_search.run, evolution.run),
    }
