"""Sandwich gate sparsification against its equations, on a network made of plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.networks import ds_net, gate
from dynnas_jax.stages import slimmable
from dynnas_jax.train import sparsification, state
from dynnas_jax.train.rules import Given
from dynnas_jax.train.step import make_step

LABELS = np.asarray([0, 1, 2, 0, 1, 2], np.int32)
NARROW = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 2, 2]]  # right, right, wrong, wrong, wrong, right
WIDE = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 1, 2]]  # the fourth is wrong too
SCORES = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def network():
    """One gate of three widths, whose head is what it adds to the scores of each image."""

    def masked(frozen, images, key, temperature):
        scores = jnp.asarray(SCORES) + frozen["params"]["gate"][None]
        return jnp.asarray(WIDE) * scores.max(axis=1, keepdims=True), (scores,), jax.nn.softmax(scores)[:, None]

    return sparsification.Network(
        heads=lambda params: params["gate"],
        with_heads=lambda params, heads: {**params, "gate": heads},
        masked=masked,
        ends=lambda variables, images: (jnp.asarray(NARROW), jnp.asarray(WIDE)),
        macs=lambda genome: (genome[0] * jnp.asarray([10.0, 20.0, 40.0])).sum(),
        most_macs=40,
    )


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_easy_images_go_to_the_narrowest():
    assert sparsification.wide(NARROW, WIDE, LABELS, "try_best").tolist() == [False, False, True, True, True, False]
    assert sparsification.wide(NARROW, WIDE, LABELS, "give_up").tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize("hard", sparsification.HARD)
@pytest.mark.parametrize("target_macs", [None, 30.0])
def test_the_losses_are_the_equations(hard, target_macs):
    head = jnp.asarray([0.1, -0.2, 0.3], jnp.float32)
    params = {"gate": head, "frozen": jnp.ones(2)}
    variables = {"params": params, "batch_stats": {}}
    rule = sparsification.rule(network(), hard=hard, target_macs=target_macs)
    update = rule(None)(Given(variables, teacher=variables), np.zeros((6, 1)), LABELS, jax.random.key(0))
    scores = np.float64(SCORES) + np.float64(head)
    chances = softmax(scores)
    classification = -np.log(softmax(WIDE * scores.max(1, keepdims=True))[np.arange(6), LABELS]).mean()
    spent = (chances @ [10.0, 20.0, 40.0]).mean()
    complexity = ((spent - (target_macs or 0.0)) / 40) ** 2
    last = {"try_best": [0, 0, 2, 2, 2, 0], "give_up": [0, 0, 2, 0, 2, 0]}[hard]
    sandwich = -np.log(chances[np.arange(6), last]).mean()
    told = update.metrics
    for name, value in (("classification", classification), ("complexity", complexity), ("sandwich", sandwich)):
        assert float(told[f"loss_{name}"]) == pytest.approx(value, rel=1e-5)
    assert float(told["loss"]) == pytest.approx(classification + 0.5 * complexity + sandwich, rel=1e-5)
    assert float(told["macs_share"]) == pytest.approx(spent / 40, rel=1e-5)
    shares = [float(told[f"gate1_choice{choice}"]) for choice in (1, 2, 3)]
    np.testing.assert_allclose(shares, chances.mean(0), rtol=1e-5)
    assert not np.asarray(update.gradient["frozen"]).any(), "the supernet is frozen"
    assert np.asarray(update.gradient["gate"]).any()


def test_one_device_learns_what_eight_do(noisy_variables, split):
    """Three steps of a real network: each image has noise of its own, and the MACs that are squared are the whole batch's."""
    facts = {"classes": 3, "resolution": 8, "channels": 1, "mean": (0.4,), "std": (0.3,), "ratios": (0.5, 1.0)}
    supernet = ds_net.ds_mobilenet_small(**facts, stem=4, fixed=((8, 1, 2),), gated=((8, 1, 1),))
    variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
    frozen = slimmable.with_path_statistics(supernet, variables, split.images[None, :16])
    network = slimmable.network(supernet)
    transform, found = state.optimizer(3, learning_rate=0.5, weight_decay=0.0).transform, {}
    for count in (1, 8):
        mesh = devices.data_mesh(count)
        step = make_step(supernet, sparsification.rule(network), transform, mesh, answers=network.ends)
        current = state.create(jax.tree.map(jnp.copy, variables), transform)
        batches = jnp.asarray([[*range(first, first + 16)] for first in (0, 16, 20)], jnp.int32)
        images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
        current, metrics = step(current, images, labels, batches, jax.random.key(1), frozen)
        found[count] = jax.tree.map(np.asarray, (metrics, gate.trained(current.variables["params"])))
    assert (np.abs(found[1][0]["gate1_choice1"] - 0.5) < 0.4).all(), "the noise decides"
    assert not np.array_equal(found[1][1]["stage2_block0"]["choose_conv"]["bias"], np.zeros(2))
    jax.tree.map(lambda one, eight: np.testing.assert_allclose(one, eight, rtol=2e-4, atol=2e-5), found[1], found[8])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sandwich": -1.0}, "sandwich is -1.0, must be a finite number of at least 0"),
        ({"sandwich": 0.0, "complexity": 0.0, "classification": 0.0}, "nothing to learn"),
        ({"hard": "later"}, "hard is 'later', choose from"),
        ({"temperature": 0.0}, "temperature is 0.0, must be above 0"),
    ],
)
def test_rules_there_are_none_of(options, message):
    with pytest.raises(ValueError, match=message):
        sparsification.rule(network(), **options)
