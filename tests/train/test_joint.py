"""The joint loss against its terms computed in float64, and the rule's gradient against pairs run sliced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from dynnas_jax import devices
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.networks import coupled
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.train import joint, loop, rules
from dynnas_jax.train.progressive_shrinking import ORDER, Allowed

KEY = jax.random.key(3)
OPTIONS = {"random_pairs": 1, "big": 0.9, "little": 1.1, "routing": 0.4, "consistency": 0.6, "efficiency": 0.2}


@pytest.fixture(scope="module")
def pairs(micro):
    return coupled.coupled(micro, router_units=5)


@pytest.fixture(scope="module")
def variables(pairs, noisy_variables):
    made = init_supernet(pairs, KEY, (8, 8, 1))
    noise = iter(jax.random.split(jax.random.key(1), 1000))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), made)


@pytest.fixture(scope="module")
def batch(split):
    return split.images[:12], split.labels[:12]


def logits_pair(generator, count=50, classes=4):
    little, big = 2 * generator.normal(size=(2, count, classes))
    return little, big, generator.integers(0, classes, count)


def test_terms_in_float64():
    little, big, labels = logits_pair(np.random.default_rng(0))
    log_little, log_big = log_softmax(little / 3, axis=1), log_softmax(big / 3, axis=1)
    wanted = (np.exp(log_little) * (log_little - log_big)).sum(1).mean()
    single = lambda array: jnp.asarray(array, jnp.float32)  # noqa: E731
    np.testing.assert_allclose(joint.divergence(single(little), single(big), 3.0), wanted, rtol=1e-5)
    right, both_wrong = little.argmax(1) == labels, (little.argmax(1) != labels) & (big.argmax(1) != labels)
    assert 0 < right.sum() < 50
    assert both_wrong.any()
    for optimal, best in (("little_right", right), ("little_right_or_both_wrong", right | both_wrong)):
        found = joint.best_decision(single(little), single(big), jnp.asarray(labels), optimal)
        np.testing.assert_array_equal(found, best)
        probability = softmax(little, axis=1).max(1)
        cross = -np.where(best, np.log(probability), np.log1p(-probability)).mean()
        wanted = cross + 0.3 * (1 - probability).mean()
        found = joint.routing(single(probability), jnp.asarray(best), 0.3, logits=False)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        from_logits = single(np.log(probability / (1 - probability)))
        np.testing.assert_allclose(joint.routing(from_logits, jnp.asarray(best), 0.3, logits=True), wanted, rtol=1e-4)
    certain = joint.routing(single([0.0, 1.0]), jnp.asarray([True, False]), 0.0, logits=False)
    assert np.isfinite(certain)


def least_of(space, kinds):
    """A phase of progressive shrinking in which genes of these kinds are unlocked."""
    return np.where([gene.name.rpartition(".")[2] in kinds for gene in space.genes], 0, space.largest).astype(np.int32)


@pytest.mark.parametrize(
    ("router", "distillation", "of_big", "unlocked"),
    [
        *((router, *of, None) for router in joint.ROUTERS for of in ((False, False), (True, True), (True, False))),
        *(("confidence", True, True, unlocked) for unlocked in (ORDER, ("kernel",), ())),
    ],
)
def test_gradient_is_the_mean_over_pairs_run_sliced(pairs, variables, batch, router, distillation, of_big, unlocked):
    images, labels = batch
    options = {**OPTIONS, "router": router, "distillation": distillation, "temperature": 2.0}
    options["big_distillation"] = of_big
    space = pairs.space
    least = None if unlocked is None else least_of(space, unlocked)
    allowed = None if least is None else Allowed(jnp.asarray(least), jnp.int32(1), jnp.float32(1))
    made = jax.jit(joint.rule(**options)(pairs))(rules.Given(variables, allowed=allowed), images, labels, KEY)
    drawn = PairSpace(space).halves(np.asarray(PairSpace(space).sample(KEY, 1, least))[0])
    chosen = [(space.smallest if least is None else least, space.largest), tuple(drawn)]
    assert all((little <= big).all() and (least is None or (little >= least).all()) for little, big in chosen)
    assert joint.rule(**options).drawn(space, KEY, least, None) == [PairSpace(space).to_json(np.concatenate(drawn))]
    if unlocked == ():  # the largest trains alone, as its own little too
        chosen = chosen[:1]

    def forward(variables, genome):
        net, own = extract(pairs, variables, genome)
        (logits, endpoints), _ = net.apply(own, images, True, mutable=["batch_stats"])
        return logits, list(endpoints.values())[-2]

    def loss(params):
        own, total = {**variables, "params": params}, 0.0
        largest = jax.lax.stop_gradient(forward(own, space.largest)[0])
        for number, (little, big) in enumerate(chosen):
            z_big, (z_little, features) = forward(own, big)[0], forward(coupled.as_little(own), little)
            best = joint.best_decision(z_little, z_big, labels, "little_right")
            learned = router == "learned"
            score = coupled.route(own, jax.lax.stop_gradient(features)) if learned else jax.nn.softmax(z_little).max(-1)
            hard = lambda z: -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1).mean()  # noqa: E731
            soft = lambda z, t: -4 * (jax.nn.softmax(t / 2) * jax.nn.log_softmax(z / 2)).sum(-1).mean()  # noqa: E731
            total += 0.9 * (soft(z_big, largest) if of_big and number else hard(z_big))
            total += 1.1 * (soft(z_little, jax.lax.stop_gradient(z_big)) if distillation else hard(z_little))
            total += 0.4 * joint.routing(score, best, 0.2, logits=learned)
            total += 0.6 * joint.divergence(z_little, z_big, 2.0)
        return total / len(chosen)

    value, wanted = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(made.metrics["loss"], value, rtol=1e-4)
    found = dict(jax.tree_util.tree_leaves_with_path(made.gradient))
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        np.testing.assert_allclose(
            found[path], leaf, rtol=0, atol=2e-3 * max(0.01, np.abs(leaf).max()), err_msg=str(path)
        )
    moved = np.abs(made.gradient[coupled.PLACE]["router"]["out"]["kernel"]).max()
    assert (moved > 0) == (router == "learned")
    assert np.abs(made.gradient[coupled.PLACE]["head"]["classifier"]["kernel"]).max() > 0
    assert jax.tree.structure(made.batch_stats) == jax.tree.structure(variables["batch_stats"])


def test_a_weight_of_0_leaves_its_term_out(pairs, variables, batch):
    off = dict.fromkeys(("big", "little", "routing", "consistency"), 0.0)
    for name, place in (("little", coupled.PLACE), ("big", "head")):
        rule = joint.rule(**{**off, name: 1.0, "random_pairs": 0})
        gradient = jax.jit(rule(pairs))(rules.Given(variables), *batch, KEY).gradient
        others = {coupled.PLACE, "head"} - {place}
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient[place])) > 0
        assert all(np.abs(leaf).max() == 0 for other in others for leaf in jax.tree.leaves(gradient[other]))


def test_the_learned_router_learns_from_the_nets_and_not_they_from_it(pairs, variables, batch):
    rule = joint.rule(big=0.0, little=0.0, consistency=0.0, routing=1.0, router="learned", random_pairs=0)
    gradient = jax.jit(rule(pairs))(rules.Given(variables), *batch, KEY).gradient
    router = gradient[coupled.PLACE].pop("router")
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(router))
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient))


def test_pairs_are_trained_and_learn(pairs, split):
    state = loop.fit(
        pairs, split, joint.rule(router="learned"), steps=40, batch_size=20, mesh=devices.data_mesh(1),
        optimizer={"learning_rate": 0.2},
    )  # fmt: skip
    objective = jax.jit(joint.rule(random_pairs=0, router="learned")(pairs))
    before = init_supernet(pairs, jax.random.fold_in(jax.random.key(0), 0), (8, 8, 1))
    batch = split.images, split.labels, KEY
    first, last = (objective(rules.Given(v), *batch).metrics for v in (before, state.variables))
    for name in ("loss_largest", "loss_smallest", "loss_routing"):
        assert last[name] < first[name], name


def test_eight_devices_equal_one(pairs, split):
    """Both nets' statistics, and the router's decisions, are of the whole batch."""
    one, eight = (
        loop.fit(
            pairs, split, joint.rule(router="learned"), steps=3, batch_size=24, mesh=devices.data_mesh(count),
            optimizer={"learning_rate": 0.1},
        ).variables
        for count in (1, 8)
    )  # fmt: skip

    def same(path, mine, its):
        mine, its = np.asarray(mine), np.asarray(its)
        np.testing.assert_allclose(its, mine, rtol=0, atol=1e-3 * max(0.1, np.abs(mine).max()), err_msg=str(path))

    jax.tree_util.tree_map_with_path(same, one, eight)


def test_what_is_refused(micro, pairs):
    for options, said in (
        ({"little": -0.1}, "train.joint_rule.little is -0.1, must not be negative"),
        ({"random_pairs": -1}, "random_pairs is -1"),
        (dict.fromkeys(("big", "little", "routing", "consistency"), 0.0), "all 0: nothing would be learned"),
        ({"big": 0.0, "distillation": True}, "with big=0 no net learns the labels"),
        ({"temperature": 0.0}, "temperature is 0.0, must be above 0"),
        ({"router": "oracle"}, r"router is 'oracle', choose from \['confidence', 'learned'\]"),
        ({"optimal": "never"}, "optimal is 'never'"),
        ({"score": "luck"}, "score is 'luck'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            joint.rule(**options)
    with pytest.raises(ValueError, match=r"needs a supernet of pairs; set supernet\.coupled=True"):
        joint.rule()(micro)
    with pytest.raises(ValueError, match="router_units is 0"):
        coupled.coupled(micro, router_units=0)
    with pytest.raises(ValueError, match="a trained teacher is for the sandwich rule"):
        joint.rule()(pairs, None, lambda variables, images: images)
    with pytest.raises(ValueError, match="pairs are not spread"):
        joint.rule()(pairs, None, None, "subnet")
