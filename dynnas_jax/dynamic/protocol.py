"""What every dynamic network offers, and all that thresholds, evaluation, cascade and report see of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import progress
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES, max_softmax
from dynnas_jax.data.splits import AT_ONCE, in_batches, parts
from dynnas_jax.dynamic import quality, routers
from dynnas_jax.networks import big_little, exits

# (variables, carry) -> (logits[B, C], score[B] in [0, 1], next carry). The first carry is the images, the last is not read;
# every leaf of a carry has the images along its first axis, and no image's answer depends on the others.
Step = Callable[[dict, Any], tuple[jax.Array, jax.Array, Any]]


class Dynamic(NamedTuple):
    """A network with S choices of how much to spend on an image, each going on from what the one before it left."""

    steps: tuple[Step, ...]  # [S]
    cost: tuple[int, ...]  # [S], all MACs spent when choice s answers
    policy: Callable[[Any, Any], Any]  # (score[S, B], thresholds[S - 1]) -> choice int32[B]
    # Of two choices: (variables, images) -> (score[B], carry), before any has run; both steps go on from that carry, and what
    # the first says of itself is not asked. None where each step is scored by what it made.
    first: Callable[[dict, Any], tuple[jax.Array, Any]] | None = None

    def outputs(self, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What every choice answers on every image: logits[S, B, C], score[S, B]."""
        logits, scores, carry, before = [], [], images, None
        if self.first:
            before, carry = self.first(variables, images)
        for step in self.steps:
            answer, score, left = step(variables, carry)
            carry = carry if self.first else left
            logits.append(answer)
            scores.append(score)
        if self.first:
            scores[0] = before
        return jnp.stack(logits), jnp.stack(scores)


class Outputs(NamedTuple):
    """What a dynamic network answers on the m images of a split, whichever choice is taken."""

    score: np.ndarray  # float32[m, S]
    prediction: np.ndarray  # int32[m, S], the likeliest class
    correct: np.ndarray  # bool[m, S]
    probability: np.ndarray  # float32[m, S], of the likeliest class
    among_likeliest: np.ndarray  # bool[m, S], whether the label is one of the `quality.TOP` likeliest classes
    label_log_odds: np.ndarray  # float32[m, S], log(p / (1 - p)) of the probability p for the label

    def taken(self, choice: Any) -> Outputs:
        """The same of the choices that answer, all [m]: int[m], or one number for all images."""
        return Outputs(*(leaf[np.arange(len(leaf)), choice] for leaf in self))


def confident_pair(pair: big_little.Pair, *, score: str = DEFAULT_SCORE) -> Dynamic:
    """A big/little pair whose little net answers where its own confidence exceeds the threshold.

    Raises:
      ValueError: for an unknown score.
    """
    _confidence(score)
    return routed_pair(pair, routers.Router(confidence=score), score=score)


def routed_pair(
    pair: big_little.Pair, router: routers.Router, params: dict | None = None, *, score: str = DEFAULT_SCORE
) -> Dynamic:
    """A big/little pair whose little net answers where a router says so: one that has seen its features, or before it has run.

    Args:
      params: of the router, for its cost; the variables hold them beside the nets', as "router".
      score: the confidence that big's answer is given, for which the policy has no use.

    Raises:
      ValueError: for an unknown score.
    """
    confidence = _confidence(score)

    def little(variables, images):
        stem = big_little.run_stem(pair, variables, images)
        features = big_little.before_head(pair, "little", variables, stem)
        logits = big_little.head(pair, "little", variables, features)
        return logits, router.score(variables.get("router"), features, logits), stem

    def big(variables, stem):
        logits = big_little.after_stem(pair, "big", variables, stem)
        return logits, confidence(logits), None

    def first(variables, images):
        stem = big_little.run_stem(pair, variables, images)
        return router.score(variables["router"], stem, None), stem

    def little_alone(variables, stem):
        logits = big_little.after_stem(pair, "little", variables, stem)
        return logits, confidence(logits), None

    costs, extra = big_little.cost(pair), router_cost(pair, router, params).macs
    if router.place == "stem":
        spent = (extra + costs.little, extra + costs.big)
        return Dynamic((little_alone, big), spent, routers.policy, first)
    return Dynamic((little, big), tuple(cost + extra for cost in costs.cumulative), routers.policy)


def router_cost(pair: big_little.Pair, router: routers.Router, params: dict | None) -> routers.RouterCost:
    """What a router adds to a pair, by abstract evaluation."""
    if router.name == "confidence":
        return routers.RouterCost(0, 0)
    return router.cost(params, *looked_at(pair, router.place))


def looked_at(pair: big_little.Pair, place: str) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of the feature map at a place of a router, and of little's logits, of a batch of 1."""
    return jax.eval_shape(functools.partial(_looked_at, pair, place), *big_little.shapes(pair))


def _looked_at(pair: big_little.Pair, place: str, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the feature map at a router's place, little's logits)."""
    stem = big_little.run_stem(pair, variables, images)
    features = big_little.before_head(pair, "little", variables, stem)
    return stem if place == "stem" else features, big_little.head(pair, "little", variables, features)


class Observed(NamedTuple):
    """What routers weigh of the images of a split, and where the nets are right."""

    inputs: tuple[dict[str, np.ndarray], ...]  # of each router, [m, d] by kind
    correct: np.ndarray  # bool[m, 2], of little and big


def observed(
    pair: big_little.Pair, variables: dict, split: Any, tried: tuple[routers.Router, ...], *, batch: int = 256
) -> Observed:
    """What each of some routers would weigh on a split; none is asked."""

    def one(variables, images):
        stem = big_little.run_stem(pair, variables, images)
        features = big_little.before_head(pair, "little", variables, stem)
        logits = big_little.head(pair, "little", variables, features)
        places = {"little": features, "stem": stem}
        seen = tuple(router.inputs(places[router.place], logits) for router in tried)
        both = logits, big_little.after_stem(pair, "big", variables, stem)
        return seen, jnp.stack([answer.argmax(-1).astype(jnp.int32) for answer in both], axis=-1)

    run, found = jax.jit(lambda v, x: jax.lax.map(functools.partial(one, v), x)), []
    for part in parts(split, AT_ONCE):
        images, _ = in_batches(part, min(batch, len(split)))
        found.append(jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, leaf.shape[-1]), run(variables, images)))
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(split)], *found)
    inputs, prediction = whole
    return Observed(inputs, prediction == split.labels[:, None])


def multi_exit(net: exits.ExitNet, *, score: str = DEFAULT_SCORE) -> Dynamic:
    """A net of S exits; an image leaves at the first whose own confidence exceeds its threshold.

    What goes from step to step are the feature maps behind an exit. Variables are those of the whole net.

    Raises:
      ValueError: for an unknown score.
    """
    confidence = _confidence(score)

    def step(segment, variables, carry):
        logits, left = exits.run_segment(segment, variables, carry)
        return logits, confidence(logits), left

    steps = tuple(functools.partial(step, segment) for segment in net.segments())
    return Dynamic(steps, exits.costs(net).macs, routers.policy)


def _confidence(score: str) -> Callable:
    if score not in SCORES:
        raise ValueError(f"dynamic: score is {score!r}, choose from {list(SCORES)}")
    return SCORES[score]


def answers(dynamic: Dynamic, variables: dict, split: Any, *, batch: int = 256, at_once: int = AT_ONCE) -> Outputs:
    """Every choice's answer on every image of a split, by a program that is compiled for this call; see `answering`."""
    return answering(dynamic.outputs, batch=batch, at_once=at_once)(variables, split)


def answering(outputs: Callable, *, batch: int = 256, at_once: int = AT_ONCE) -> Callable[[dict, Any], Outputs]:
    """(variables, split) -> Outputs, by one compiled program (two where a split's last part is smaller) that is kept.

    Args:
      outputs: (variables, images) -> (logits[S, B, C], score[S, B]), such as `Dynamic.outputs`.
      batch: images that are run together; at_once: images on the device at a time.
    """
    run = jax.jit(functools.partial(_map, outputs))

    def answer(variables: dict, split: Any) -> Outputs:
        found = []
        with progress.counted("answering", len(split), "images") as advance:
            for part in parts(split, at_once):
                images, labels = in_batches(part, min(batch, len(split)))
                told = run(variables, images, labels.reshape(images.shape[:2]))
                found.append([np.asarray(leaf)[: len(part)] for leaf in told])
                advance(len(part))
        return Outputs(*(np.concatenate(leaves) for leaves in zip(*found, strict=True)))

    return answer


def _map(outputs: Callable, variables: dict, images: jax.Array, labels: jax.Array) -> Outputs:
    """Leaves [k * b, S], over images[k, b, ...] and their labels int32[k, b]."""

    def one(batch):
        logits, score = outputs(variables, batch[0])
        return told(logits.astype(jnp.float32), score, batch[1])

    found = jax.lax.map(one, (images, labels))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 2).reshape(-1, leaf.shape[1]), found)


def told(logits: jax.Array, score: jax.Array, labels: jax.Array) -> Outputs:
    """Leaves [S, b] from logits[S, b, C], score[S, b] and labels int32[b]."""
    classes = logits.shape[-1]
    prediction = logits.argmax(-1).astype(jnp.int32)
    _, likeliest = jax.lax.top_k(logits, min(quality.TOP, classes))
    is_label = jax.nn.one_hot(labels, classes, dtype=bool)[None]
    # Without the label in the sum, so that a p near 1 keeps its distance to 1.
    others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    own = jnp.where(is_label, logits, 0.0).sum(axis=-1)
    return Outputs(
        score=score,
        prediction=prediction,
        correct=prediction == labels[None],
        probability=max_softmax(logits),
        among_likeliest=(likeliest == labels[None, :, None]).any(axis=-1),
        label_log_odds=own - others,
    )
