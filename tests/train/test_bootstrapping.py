"""In-place ensemble bootstrapping against its equations, path by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.elastic import extract
from dynnas_jax.train import bootstrapping
from dynnas_jax.train.rules import Given


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def cross_entropy(logits, targets):
    return -(targets * np.log(softmax(logits))).sum(-1).mean()


def test_the_mean_answer_is_the_mean_of_chances():
    generator = np.random.default_rng(0)
    answers = [generator.normal(size=(5, 3)) * 3 for _ in range(3)]
    for temperature in (1.0, 4.0):
        found = bootstrapping.mean_answer([jnp.asarray(a, jnp.float32) for a in answers], temperature)
        expected = np.mean([softmax(a / temperature) for a in answers], axis=0)
        np.testing.assert_allclose(softmax(np.float64(found) / temperature), expected, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"target": "online"}, {"ensemble": False, "temperature": 2.0}])
def test_each_path_learns_what_the_equations_say(tiny, options):
    supernet, images, labels = tiny.supernet, tiny.images, np.arange(16, dtype=np.int32) % 3
    space, stats = supernet.space, tiny.variables["batch_stats"]
    ema = jax.tree.map(lambda leaf: 0.9 * leaf, tiny.variables["params"])
    rule = bootstrapping.rule(random_paths=1, **options)
    key = jax.random.key(3)
    update = jax.jit(rule(supernet))(Given(tiny.variables, ema), images, labels, key)
    drawn = np.asarray(space.sample(key, 1))[0]
    assert rule.drawn(space, key, None, None) == [space.to_json(drawn)]

    def answers(params, genome):
        net, own = extract(supernet, {"params": params, "batch_stats": stats}, genome)
        return np.float64(jax.jit(lambda v: net.apply(v, images, True, mutable=["batch_stats"])[0][0])(own))

    online = [answers(tiny.variables["params"], genome) for genome in (space.largest, drawn, space.smallest)]
    target = ema if options.get("target", "ema") == "ema" else tiny.variables["params"]
    heat = options.get("temperature", 1.0)
    widest, random = (softmax(answers(target, genome) / heat) for genome in (space.largest, drawn))
    mean = (widest + random) / 2 if options.get("ensemble", True) else widest
    losses = [
        cross_entropy(online[0], np.eye(3)[labels]),
        heat**2 * cross_entropy(online[1] / heat, widest),
        heat**2 * cross_entropy(online[2] / heat, mean),
    ]
    names = ("loss_largest", "loss_random", "loss_smallest")
    np.testing.assert_allclose([update.metrics[name] for name in names], losses, rtol=2e-4)
    assert float(update.metrics["loss"]) == pytest.approx(np.mean(losses), rel=2e-4)
    assert float(jnp.abs(update.gradient["head"]["classifier"]["kernel"]).sum()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_paths": -1}, "random_paths is -1, must not be negative"),
        ({"target": "mean"}, "target is 'mean', choose from"),
        ({"temperature": 0.0}, "temperature is 0.0, must be above 0"),
        ({"random_paths": 0}, "give random_paths above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_rules_there_are_none_of(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrapping.rule(**options)
