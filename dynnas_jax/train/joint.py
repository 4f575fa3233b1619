"""Training little and big subnets as pairs: the joint loss of the coupled big/little networks.

L = big L_big + little L_little + routing L_routing + consistency L_consistency, for each pair of a step: cross-entropies of
both nets, little's with big's soft targets in the place of labels where `distillation` is on; binary cross-entropy of the
router's decision against the best one, and the share of images it sends on; the Kullback-Leibler divergence of little's
answer from big's at a temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynnas_jax import decisions
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.decisions import OPTIMAL
from dynnas_jax.elastic import Coupling, Supernet
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import distillation, losses, rules
from dynnas_jax.train.rules import Objective, Update
from dynnas_jax.train.subnets import Ran, Runs

RANDOM_PAIRS = 1  # of a step
ROUTERS = ("confidence", "learned")


class _Options(NamedTuple):
    random_pairs: int
    big: float
    little: float
    routing: float
    consistency: float
    efficiency: float
    temperature: float
    distillation: bool
    big_distillation: bool
    optimal: str
    router: str
    score: str
    label_smoothing: float


@dataclass(frozen=True)
class Rule(rules.Rule):
    """What `rule` returns."""

    options: _Options

    def __call__(
        self,
        supernet: Supernet,
        axis_name: str | None = None,
        answers: Callable | None = None,
        subnet_axis: str | None = None,
    ) -> Objective:
        if supernet.coupling is None:
            raise ValueError("train.joint_rule needs a supernet of pairs; set supernet.coupled=True")
        if answers is not None:
            raise ValueError("train.joint_rule: a trained teacher is for the sandwich rule; leave out train.teacher")
        if subnet_axis is not None:
            raise ValueError("train.joint_rule: pairs are not spread over devices; leave out train.subnet_devices")
        runs = Runs(supernet, axis_name, None, "masked")
        return _Step(PairSpace(supernet.space), supernet.coupling, runs, self.options).update

    def drawn(self, space: SearchSpace, key: jax.Array, least: np.ndarray | None, pool: None) -> list[dict]:
        """As pair files."""
        pairs = PairSpace(space)
        return [pairs.to_json(genome) for genome in np.asarray(pairs.sample(key, self.options.random_pairs, least))]


def rule(
    *,
    random_pairs: int = RANDOM_PAIRS,
    big: float = 1.0,
    little: float = 1.0,
    routing: float = 0.1,
    consistency: float = 0.5,
    efficiency: float = 0.0,
    temperature: float = 2.0,
    distillation: bool = False,
    big_distillation: bool = False,
    optimal: str = OPTIMAL[0],
    router: str = ROUTERS[0],
    score: str = DEFAULT_SCORE,
    label_smoothing: float = 0.0,
) -> Rule:
    """Per step the smallest subnet with the largest, and `random_pairs` others, little no larger than big in any gene.

    The smallest and the largest run sliced, the others masked. The gradient is the mean over the pairs. Running statistics
    come from the largest; other subnets are recalibrated before use.

    Args:
      big, little, routing, consistency: weights of the terms; 0 leaves one out.
      efficiency: weight, inside the routing term, of the mean probability that an image is sent on to big.
      temperature: of the consistency term and of the distillation.
      distillation: little learns its big's answers (soft cross-entropy, no gradient into big) in place of the labels.
      big_distillation: likewise a big that is not the largest learns the largest's, as subnets do by the sandwich rule.
      optimal: the best decision is little "little_right": where little is right; or "little_right_or_both_wrong".
      router: "confidence", the `score` of little's answer; or "learned", the supernet's router.
      label_smoothing: of what is learned from labels.

    Raises:
      ValueError: for a weight or number below 0, terms that are all left out, distillation from a big that learns nothing, a
        temperature not above 0, a smoothing outside 0 to below 1, or an unknown router, decision or score.
    """
    given = {"big": big, "little": little, "routing": routing, "consistency": consistency, "efficiency": efficiency}
    for name, value in {"random_pairs": random_pairs, **given}.items():
        if not value >= 0:
            raise ValueError(f"train.joint_rule.{name} is {value}, must not be negative")
    if not any((big, little, routing, consistency)):
        raise ValueError("train.joint_rule: big, little, routing and consistency are all 0: nothing would be learned")
    if distillation and not big:
        raise ValueError("train.joint_rule.distillation: with big=0 no net learns the labels; write distillation=False")
    if not temperature > 0:
        raise ValueError(f"train.joint_rule.temperature is {temperature}, must be above 0")
    rules.check_label_smoothing("train.joint_rule.label_smoothing", label_smoothing)
    for name, value, known in (("optimal", optimal, OPTIMAL), ("router", router, ROUTERS), ("score", score, SCORES)):
        if value not in known:
            raise ValueError(f"train.joint_rule.{name} is {value!r}, choose from {list(known)}")
    options = {"temperature": temperature, "distillation": distillation, "big_distillation": big_distillation}
    options |= {"optimal": optimal, "router": router, "score": score, "label_smoothing": label_smoothing}
    return Rule(_Options(random_pairs, **given, **options))


class Terms(NamedTuple):
    """What the joint loss of one pair is made of, float32[] each."""

    big: jax.Array
    little: jax.Array
    routing: jax.Array
    consistency: jax.Array


def best_decision(little: jax.Array, big: jax.Array, labels: jax.Array, optimal: str) -> jax.Array:
    """bool[b]: whether little should answer, from both nets' logits[b, classes] and labels int[b]."""
    return decisions.best(little.argmax(-1) == labels, big.argmax(-1) == labels, optimal)


def routing(answers: jax.Array, best: jax.Array, efficiency: float, *, logits: bool) -> jax.Array:
    """Mean binary cross-entropy of the decision "little answers", and `efficiency` times the mean share sent on to big.

    Args:
      answers: float[b], probabilities, or their logits where `logits`; best: bool[b].
    """
    if not logits:
        answers = losses.log_odds(answers)
    wrong = optax.sigmoid_binary_cross_entropy(answers, best.astype(answers.dtype)).mean()
    return wrong + efficiency * jax.nn.sigmoid(-answers).mean()


def divergence(little: jax.Array, big: jax.Array, temperature: float) -> jax.Array:
    """Mean of KL(softmax(little / T), softmax(big / T)) over logits[b, classes]."""
    inputs, targets = (jax.nn.log_softmax(logits / temperature) for logits in (big, little))
    return optax.losses.kl_divergence_with_log_targets(inputs, targets).mean()


class _Step(NamedTuple):
    """One step of the rule; `update` is its objective."""

    pairs: PairSpace
    coupling: Coupling
    runs: Runs
    options: _Options

    def update(self, given, images, labels, key, targets=None) -> Update:
        params, stats = given.variables["params"], given.variables["batch_stats"]
        batch = images, labels, labels if targets is None else targets
        learn = jax.value_and_grad(self._loss_of_pair, has_aux=True)
        ends = (self.runs.smallest_of(given.allowed), self.runs.largest)
        (loss, (big, little, terms, decided)), gradient = learn(params, *ends, stats, batch, None)
        total, count = rules.Sum(loss, gradient), 1
        metrics = {"loss_largest": terms.big, "loss_smallest": terms.little}
        metrics |= {"loss_routing": terms.routing, "loss_consistency": terms.consistency, "routing_accuracy": decided}
        if several := self.options.random_pairs:
            teacher = jax.lax.stop_gradient(big.logits) if self.options.big_distillation else None

            def learn_random(genome):
                nets = (self.runs.any_of(half) for half in self.pairs.halves(genome))
                (value, _), gradient = learn(params, *nets, stats, batch, teacher)
                return value, gradient

            weights = rules.weights_of(given.allowed, self.pairs.space, several)[1:]
            drawn = self.pairs.sample(key, several, None if given.allowed is None else given.allowed.least)
            total, random = total.plus_random(learn_random, drawn, weights)
            metrics["loss_random"] = random / weights.sum()
            count = 1 + weights.sum()
        for name, logits in (("accuracy_largest", big.logits), ("accuracy_smallest", little)):
            metrics[name] = (logits.argmax(-1) == labels).astype(jnp.float32).mean()
        return total.mean(count, {**stats, **big.batch_stats}, metrics)

    def _loss_of_pair(self, params, run_little, run_big, stats, batch, teacher):
        options, (images, labels, targets) = self.options, batch
        variables = {"params": params, "batch_stats": stats}
        big, little = run_big(variables, images), run_little(self.coupling.as_little(variables), images)
        best = best_decision(little.logits, big.logits, labels, options.optimal)
        answers, learned = self._decision(params, little), options.router == "learned"
        terms = Terms(
            self._learned(big.logits, targets, teacher),
            self._learned(little.logits, targets, big.logits if options.distillation else None),
            routing(answers, best, options.efficiency, logits=learned),
            divergence(little.logits, big.logits, options.temperature),
        )
        weights = Terms(options.big, options.little, options.routing, options.consistency)
        total = sum(weight * term for weight, term in zip(weights, terms, strict=True) if weight)
        taken = answers > (0 if learned else 0.5)
        return total, (big, little.logits, terms, (taken == best).astype(jnp.float32).mean())

    def _learned(self, logits, targets, teacher):
        """From labels, or from a teacher's logits where there is one."""
        if teacher is None:
            return losses.cross_entropy(logits, targets, self.options.label_smoothing)
        return distillation.soft_cross_entropy(logits, teacher, self.options.temperature)

    def _decision(self, params, little: Ran):
        """What the router says of "little answers": scores, or logits of the learned one."""
        if self.options.router == "confidence":
            return SCORES[self.options.score](little.logits)
        # The nets learn to classify; the router learns from them, not they from it.
        return self.coupling.route({"params": params}, jax.lax.stop_gradient(little.endpoint))
