"""The rule that trains one fixed net on the labels: cross-entropy, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax

from dynnas_jax.elastic import DROP_PATH, Supernet
from dynnas_jax.train import losses, rules
from dynnas_jax.train.rules import Objective, Update


@dataclass(frozen=True)
class Rule(rules.Rule):
    """What `rule` returns."""

    label_smoothing: float

    def __call__(
        self,
        supernet: Supernet,
        axis_name: str | None = None,
        answers: Callable | None = None,
        subnet_axis: str | None = None,
    ) -> Objective:
        if answers is not None or subnet_axis is not None:
            raise ValueError("train: one fixed net learns labels, alone; leave out train.teacher and subnet_devices")
        net = supernet.largest_net().clone(axis_name=axis_name)
        scheduled = "progress" in inspect.signature(type(net).__call__).parameters  # what it drops depends on it

        def labelled(params, batch_stats, images, targets, key, progress):
            variables = {"params": params, "batch_stats": batch_stats}
            options = {"progress": progress} if scheduled and progress is not None else {}
            mutable, rngs = ["batch_stats"], {DROP_PATH: key}
            applied, updated = net.apply(variables, images, True, mutable=mutable, rngs=rngs, **options)
            learn = lambda logits: losses.cross_entropy(logits, targets, self.label_smoothing)  # noqa: E731
            return losses.of_exits(learn, supernet.answers(applied)), (applied[0], updated.get("batch_stats", {}))

        def objective(given, images, labels, key, targets=None):
            learned = labels if targets is None else targets
            # Paths are dropped image by image, so every device needs a key of its own.
            own = key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))
            run = jax.value_and_grad(labelled, has_aux=True)
            (loss, (logits, stats)), gradient = run(
                given.variables["params"], given.variables["batch_stats"], images, learned, own, given.progress
            )
            accuracy = (logits.argmax(-1).astype(labels.dtype) == labels).mean()
            return Update(gradient, stats, {"loss": loss, "accuracy": accuracy})

        return objective


def rule(*, label_smoothing: float = 0.0) -> Rule:
    """Each step the net learns the labels, or the targets of mixed images; every exit of a net of several, in equal measure.

    Args:
      label_smoothing: the part of each label or target that is spread evenly over all classes.

    Raises:
      ValueError: for a smoothing outside 0 to below 1.
    """
    rules.check_label_smoothing("train: label_smoothing", label_smoothing)
    return Rule(label_smoothing)
