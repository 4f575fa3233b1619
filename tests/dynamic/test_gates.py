"""Gated networks answer alike masked, one by one through the switch, and grouped in chunks."""

import jax
import numpy as np
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade, gate_targets, gates
from dynnas_jax.elastic import init
from dynnas_jax.networks import ds_net, gate, gated, gated_parts

FACTS = {"classes": 3, "resolution": 8, "channels": 1, "mean": (0.4,), "std": (0.3,), "ratios": (0.5, 1.0)}
SMALL = {
    "two gates": (
        ds_net.ds_resnet_small,
        {"depths": (1, 1), "widths": (8, 16), "strides": (1, 2), "stem": 8, "groups": 4},
    ),
    "one gate": (ds_net.ds_mobilenet_small, {"stem": 8, "fixed": ((8, 1, 1),), "gated": ((16, 1, 2),)}),
}


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module", params=SMALL)
def network(request, noisy_variables):
    """(supernet, variables, images) whose gates pick every ratio for some image."""
    build, options = SMALL[request.param]
    supernet = build(**FACTS, **options)
    variables = {"batch_stats": {}, **noisy_variables(supernet.largest_net(), (8, 8, 1))}
    stats = variables["batch_stats"]
    variables[gated.PATHS] = jax.tree.map(lambda leaf: np.stack([leaf, 1.2 * leaf]), stats)
    for name in supernet.arch.segments[0].blocks:
        if name in stats:
            variables[gated.PATHS][name] = jax.tree.map(lambda leaf: np.stack([leaf] * 2), stats[name])
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (24, 8, 8, 1)) * np.linspace(0, 1, 24)[:, None, None, None]
    images, heads = images.astype(np.uint8), gate.trained(variables["params"])
    for number, (block, own) in enumerate(heads.items(), 1):
        # Every second image above, every second below.
        told = _scores(supernet, variables, images, number)
        last = own["choose_conv"]
        bias = np.asarray([0.0, -np.median(told[:, 1] - told[:, 0])], np.float32)
        heads[block] = {**own, "choose_conv": {**last, "bias": last["bias"] + bias}}
        variables["params"] = gate.with_trained(variables["params"], {block: heads[block]})
    return supernet, variables, images


def _scores(supernet, variables, images, number):
    ran = jax.jit(lambda v, x: gated.masked(supernet, v, x, None, 1.0))(variables, images)
    return np.asarray(ran.scores[number - 1])


def test_the_three_ways_agree(network):
    supernet, variables, images = network
    masked = jax.jit(lambda v, x: gated.masked(supernet, v, x, None, 1.0))(variables, images)
    ways = {"grouped": jax.jit(gates.grouped(supernet, capacity=5))}
    grouped = ways["grouped"](variables, images)
    one = jax.jit(gates.switched(supernet))
    alone = [one(variables, images[row : row + 1]) for row in range(len(images))]
    path = np.concatenate([np.asarray(each.path) for each in alone])
    assert len(np.unique(path, axis=0)) == len(gates.paths(supernet)), "or the test shows nothing"
    np.testing.assert_array_equal(grouped.path, path)
    cut = jax.jit(lambda v: gated_parts.cut(supernet, v))(variables)
    for found, expected in ((one(cut, images[:1]), alone[0]), (ways["grouped"](cut, images), grouped)):
        np.testing.assert_array_equal(found.path, expected.path)
        np.testing.assert_allclose(found.logits, expected.logits, atol=2e-6)
    np.testing.assert_array_equal(masked.genome.argmax(-1), path)
    np.testing.assert_allclose(grouped.logits, np.concatenate([each.logits for each in alone]), atol=2e-6)
    np.testing.assert_allclose(masked.logits, grouped.logits, atol=2e-6)
    for number, genome in enumerate(gates.paths(supernet)):
        rows = np.flatnonzero(gates.number_of(supernet, path) == number)
        net, own = gated.path(supernet, variables, genome)
        np.testing.assert_allclose(net.apply(own, images[rows])[0], np.asarray(grouped.logits)[rows], atol=2e-6)


@pytest.mark.parametrize("capacity", [None, 3])
def test_the_rows_that_a_batch_takes(network, monkeypatch, capacity):
    """Counted as they run, on the path that each image takes."""
    supernet, variables, images = network
    run, ran = gated_parts.run_padded, []

    def counted(supernet, given, part, carry):
        jax.debug.callback(lambda: ran.append((part.number, len(carry))))
        return run(supernet, given, part, carry)

    monkeypatch.setattr(gated_parts, "run_padded", counted)
    found = jax.jit(gates.grouped(supernet, capacity=capacity))(variables, images)
    jax.effects_barrier()
    segments = range(len(supernet.arch.segments))
    computed = tuple(sum(rows for number, rows in ran if number == segment) for segment in segments)
    assert computed == gates.rows(supernet, np.asarray(found.path), capacity)
    assert computed[0] == len(images)
    sizes, groups = gates.capacities(supernet, len(images), capacity), (2, 4)
    for segment in segments[1:]:
        assert computed[segment] <= len(images) + groups[segment - 1] * (sizes[segment] - 1)


@pytest.mark.parametrize(("backend", "most"), [("cpu", 1.2), ("gpu", 1.4)])
def test_groups_behind_a_gate_are_padded_little(monkeypatch, backend, most):
    """A batch of 256 images, 183 of which take the narrowest path and 73 the widest; and three gates that take all ways."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    build, options = SMALL["one gate"]
    one = build(**{**FACTS, "ratios": (0.25, 0.5, 0.75, 1.0)}, **options)
    path = np.repeat([[0], [3]], (183, 73), axis=0)
    assert gates.rows(one, path)[0] == 256
    assert gates.rows(one, path)[1] <= most * 256
    three = ds_net.ds_resnet_small()
    spread = np.random.default_rng(0).integers(0, 4, (256, 3))
    assert max(gates.rows(three, spread)) <= 2 * 256


@pytest.mark.parametrize("capacity", [0, 2.5, True, "8"])
def test_capacities_that_are_none(network, capacity):
    with pytest.raises(ValueError, match="must be a whole number of images from 1"):
        gates.capacities(network[0], 24, capacity)


def test_straight_through_is_one_hot_with_the_gradient_of_the_chances():
    scores = np.asarray([0.3, 1.0, -0.5], np.float32)
    weights = np.asarray([1.0, 2.0, 4.0], np.float32)
    assert gated.straight_through(scores, None, 2.0).tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    found = jax.grad(lambda s: (gated.straight_through(s, None, 2.0) * weights).sum())(scores)
    expected = jax.grad(lambda s: (jax.nn.softmax(s / 2.0) * weights).sum())(scores)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    drawn = jax.vmap(lambda key: gated.straight_through(scores, key, 1.0))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(drawn.mean(0), jax.nn.softmax(scores), atol=0.03)  # what Gumbel noise is for


def test_images_by_their_choice():
    carry = np.arange(11, dtype=np.float32)[:, None]
    choice = np.asarray([0, 2, 2, 1, 0, 2, 2, 2, 1, 0, 2], np.int32)
    functions = [lambda v, x, factor=factor: factor * x for factor in (1.0, 10.0, 100.0)]
    found = cascade.by_choice(functions, 3, {}, jax.numpy.asarray(carry), jax.numpy.asarray(choice))
    np.testing.assert_array_equal(found[:, 0], carry[:, 0] * 10.0**choice)


def test_the_spread_of_choices():
    spread = gates.Spread.of(np.asarray([0, 0, 1, 3]), 4)
    assert spread.share.tolist() == [0.5, 0.25, 0.0, 0.25]
    assert spread.entropy == pytest.approx(1.5 * np.log(2))
    assert spread.largest_entropy == pytest.approx(2 * np.log(2))


def test_targets(network):
    supernet = network[0]
    table = macs.table(supernet)
    least, most = (table.exact(end) for end in (supernet.space.smallest, supernet.space.largest))
    assert gate_targets.asked(supernet) is None
    assert gate_targets.asked(supernet, target_macs_fraction=1.0) == most
    for target in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"outside what the paths span, {least} to {most}"):
            gate_targets.asked(supernet, target_macs=target)
    with pytest.raises(ValueError, match="not both"):
        gate_targets.asked(supernet, target_macs=least, target_macs_fraction=0.5)
    with pytest.raises(ValueError, match="must be above 0"):
        gate_targets.asked(supernet, target_macs_fraction=0.0)
    cost = dict(zip(map(tuple, gates.paths(supernet).tolist()), gates.cost(supernet), strict=True))
    assert cost[tuple(supernet.space.largest.tolist())] == most


@pytest.mark.parametrize("target", [1.5, 3.0, 3.6, 5.0])
def test_the_tilt_that_meets_a_target(target):
    """Against every step of a staircase: images leave the wide path one by one as the tilt grows."""
    limits = np.sort(np.random.default_rng(0).normal(size=40) * 3)
    average = lambda tilt: 1.0 + 4.0 * (limits > tilt).mean()  # noqa: E731
    met = gate_targets.meet(average, target)
    steps = np.asarray([1.0 + 4.0 * count / 40 for count in range(41)])
    assert met.average_macs == pytest.approx(steps[steps <= target].max())
    assert average(met.tilt) == met.average_macs


def test_a_target_that_only_a_large_tilt_meets_and_one_that_none_does():
    met = gate_targets.meet(lambda tilt: 1.0 if tilt >= 5000 else 4.0, 2.0)
    assert met.average_macs == 1.0
    assert 5000 <= met.tilt < 5001
    missed = gate_targets.meet(lambda tilt: 4.0, 2.0)
    assert missed.average_macs == 4.0, "what it came to, not what was asked for"


def test_parts_of_some_paths_tell_only_their_scores():
    build, options = SMALL["one gate"]
    supernet = build(**{**FACTS, "ratios": (0.25, 0.5, 0.75, 1.0)}, **options)
    variables = {**init(supernet.largest_net(), jax.random.key(0), (8, 8, 1)), gated.PATHS: {}}
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype(np.float32)
    whole, some = gates.parts(supernet), gates.parts(supernet, (0, 3))
    assert list(some) == ["to_gate", "path1", "path4"]
    assert some["to_gate"].following == ("path1", "path4")
    carry, every = whole["to_gate"].call(variables, image)
    left, told = some["to_gate"].call(variables, image)
    np.testing.assert_array_equal(left, carry)
    np.testing.assert_array_equal(told, np.asarray(every)[:, [0, 3]])
