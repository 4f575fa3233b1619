"""What a dynamic network answers on a split, against its two nets run directly."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.metrics import top_k_accuracy_score

from dynnas_jax.confidence import SCORES
from dynnas_jax.data.splits import Split
from dynnas_jax.dynamic import cascade, protocol, routers, thresholds
from dynnas_jax.networks import big_little, exits, msdnet


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def made(tiny, tiny_pair):
    """(pair, variables, a split of 13 images, logits float64[13, 2, 3] of the nets run directly)."""
    pair, own = tiny_pair
    split = Split(tiny.images[:13], np.arange(13, dtype=np.int32) % 3, np.arange(13))
    direct = [
        jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(own[which], split.images)
        for which, net in (("little", pair.little), ("big", pair.big))
    ]
    return pair, own, split, np.stack([np.asarray(logits, np.float64) for logits in direct], axis=1)


@pytest.mark.parametrize(("batch", "at_once"), [(4, 100), (13, 100), (256, 100), (4, 8)])
def test_padded_batches_and_parts_answer_as_one(made, batch, at_once):
    """13 images fill no batches of 4, and one of 256 would be mostly filling."""
    pair, variables, split, logits = made
    out = protocol.answers(protocol.confident_pair(pair), variables, split, batch=batch, at_once=at_once)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(out.score, (exponentials / exponentials.sum(-1, keepdims=True)).max(-1), atol=1e-5)
    np.testing.assert_array_equal(out.prediction, logits.argmax(-1))
    np.testing.assert_array_equal(out.correct, logits.argmax(-1) == split.labels[:, None])
    assert (out.score.shape, out.score.dtype, out.prediction.dtype) == ((13, 2), np.float32, np.int32)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_the_one_asked_for(made, score):
    pair, variables, split, logits = made
    out = protocol.answers(protocol.confident_pair(pair, score=score), variables, split, batch=16)
    np.testing.assert_allclose(out.score, SCORES[score](logits), atol=1e-5)
    assert out.score.min() >= 0
    assert out.score.max() <= 1


# Made-up logits: a split's images times weights.

CLASSES = 12


def _linear(weights, images):
    """logits[2, b, CLASSES] and scores of them."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    logits = flat[None] @ weights
    return logits, SCORES["entropy"](logits)


@pytest.fixture(scope="module")
def linear(tiny):
    """(weights, a split of 16 images of twelve classes, logits float64[16, 2, 12])."""
    weights = np.random.default_rng(0).normal(0, 2e-3, (2, 64, CLASSES)).astype(np.float32)
    split = Split(tiny.images, np.arange(16, dtype=np.int32) % CLASSES, np.arange(16))
    logits = tiny.images.reshape(16, -1).astype(np.float64) @ weights.astype(np.float64)
    return weights, split, np.moveaxis(logits, 0, 1)


def test_the_five_likeliest_are_those_of_scikit_learn(linear):
    weights, split, logits = linear
    out = protocol.answering(_linear, batch=5)(weights, split)
    for s in range(2):
        wanted = top_k_accuracy_score(split.labels, logits[:, s], k=5, labels=np.arange(CLASSES))
        assert out.among_likeliest[:, s].mean() == wanted
        assert 0 < wanted < 1
    assert (out.among_likeliest >= out.correct).all()


def test_the_probability_of_the_answer_and_the_odds_of_the_label(linear):
    """Also where the probability of the label is so near 1 that float32 rounds it."""
    weights, split, logits = linear
    for scale in (1, 30):
        out = protocol.answering(_linear, batch=16)(scale * weights, split)
        own = scale * np.take_along_axis(logits, split.labels[:, None, None], axis=-1)[..., 0]
        exponentials = np.exp(scale * logits)
        np.testing.assert_allclose(
            out.probability, (exponentials / exponentials.sum(-1, keepdims=True)).max(-1), rtol=1e-4
        )
        others = np.where(np.arange(CLASSES) == split.labels[:, None, None], -np.inf, scale * logits)
        np.testing.assert_allclose(out.label_log_odds, own - logsumexp(others, axis=-1), rtol=1e-4, atol=2e-3)
    assert (out.probability == 1).any()
    assert np.isfinite(out.label_log_odds).all()


def test_a_program_is_kept_for_other_variables_and_images(linear):
    weights, split, logits = linear
    traced = []
    answer = protocol.answering(lambda v, x: traced.append(x.shape) or _linear(v, x), batch=16)
    first, second = answer(weights, split), answer(-weights, split)
    assert traced == [(16, 8, 8, 1)]
    np.testing.assert_array_equal(first.prediction, logits.argmax(-1))
    np.testing.assert_array_equal(second.prediction, logits.argmin(-1))
    turned = Split(split.images[::-1], split.labels, split.image_id)
    np.testing.assert_array_equal(answer(weights, turned).prediction, logits[::-1].argmax(-1))
    assert len(traced) == 1


def test_what_is_taken_are_the_answers_of_the_choices(linear):
    weights, split, _ = linear
    out = protocol.answering(_linear)(weights, split)
    choice = np.arange(16) % 2
    taken = out.taken(choice)
    for leaf, of in zip(taken, out, strict=True):
        np.testing.assert_array_equal(leaf, np.where(choice == 0, of[:, 0], of[:, 1]))
    np.testing.assert_array_equal(out.taken(1).score, out.score[:, 1])


def test_policy_and_thresholds_agree(made):
    pair, variables, split, _ = made
    dynamic = protocol.confident_pair(pair)
    out = protocol.answers(dynamic, variables, split, batch=16)
    assert dynamic.cost == big_little.cost(pair).cumulative
    seen = set()
    for threshold in (0.0, *np.sort(out.score[:, 0]), 1.0):
        choice = np.asarray(dynamic.policy(out.score.T, np.asarray([threshold], np.float32)))
        point = thresholds.evaluate(out.score, out.correct, np.asarray(dynamic.cost), [threshold])
        assert point.accuracy == pytest.approx(out.correct[np.arange(13), choice].mean())
        assert point.average_cost == pytest.approx(np.asarray(dynamic.cost)[choice].mean())
        assert point.exit_rate == pytest.approx(np.bincount(choice, minlength=2) / 13)
        seen.add(int((choice == 0).sum()))
    assert seen == set(range(14))


def test_outputs_are_the_protocol_s(made):
    pair, variables, split, logits = made
    found, score = jax.jit(protocol.confident_pair(pair).outputs)(variables, split.images)
    assert (found.shape, score.shape) == ((2, 13, 3), (2, 13))
    np.testing.assert_allclose(found, np.moveaxis(logits, 1, 0), rtol=1e-4, atol=1e-5)


def test_outputs_are_the_steps_one_after_the_other(made):
    pair, variables, split, logits = made
    dynamic = protocol.confident_pair(pair)
    assert len(dynamic.steps) == len(dynamic.cost) == 2
    found, score, stem = jax.jit(dynamic.steps[0])(variables, split.images)
    np.testing.assert_allclose(found, logits[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score, SCORES["max_softmax"](logits[:, 0]), atol=1e-5)
    assert stem.shape == (13, 8, 8, 8)
    found, score, _ = jax.jit(dynamic.steps[1])(variables, stem[4:7])  # any images, from their stems alone
    np.testing.assert_allclose(found, logits[4:7, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score, SCORES["max_softmax"](logits[4:7, 1]), atol=1e-5)


def test_outputs_of_made_up_steps():
    """The carry goes from step to step."""
    steps = tuple(
        lambda variables, carry, s=s: (carry[:, None] * variables, carry / 100, carry + 10**s) for s in range(3)
    )
    logits, score = protocol.Dynamic(steps, (1, 2, 3), routers.policy).outputs(
        np.float32([[1, -1]]), np.float32([0, 2])
    )
    np.testing.assert_array_equal(logits[..., 0], [[0, 2], [1, 3], [11, 13]])
    np.testing.assert_array_equal(logits[..., 1], -logits[..., 0])
    np.testing.assert_allclose(score, np.asarray(logits[..., 0]) / 100)


def test_an_unknown_score(made):
    with pytest.raises(ValueError, match=r"score is 'luck', choose from \['max_softmax', 'margin', 'entropy'\]"):
        protocol.confident_pair(made[0], score="luck")


# Other routers.


@pytest.fixture(scope="module")
def routed(made):
    """{label: (router, its variables)} on the features of the made pair, params drawn."""
    pair, variables, _, _ = made
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    channels = list(pair.little.arch.named_blocks())[-1][1].out
    learned = {"hidden": {"kernel": draw(channels, 4), "bias": draw(4)}, "out": {"kernel": draw(4, 1), "bias": draw(1)}}
    found = {"learned": (routers.Router("learned"), {**variables, "router": learned})}
    for place, width in (("little", channels), ("stem", 8)):
        params = {"kernels": {"mean": draw(width, 1), "entropy": draw(2, 1)}, "bias": draw(1)}
        router = routers.Router("difficulty", place, statistics=("mean", "entropy"))
        found[place] = router, {**variables, "router": params}
    return found


@pytest.fixture(scope="module")
def places(made):
    """What the blocks in front of little's head, and the stem, make of the images, by place."""
    pair, variables, split, _ = made
    _, ends = jax.jit(lambda v, x: pair.little.apply(v, x))(variables["little"], split.images)
    return {"little": list(ends.values())[-2], "stem": ends["stem"]}


@pytest.fixture(scope="module")
def answered(made, routed):
    """{label: (the dynamic network, its outputs)}"""
    found = {}
    for which, (router, variables) in routed.items():
        dynamic = protocol.routed_pair(made[0], router, variables["router"])
        found[which] = dynamic, protocol.answers(dynamic, variables, made[2], batch=8)
    return found


@pytest.mark.parametrize("which", ["learned", "little", "stem"])
def test_a_router_scores_what_little_or_the_stem_has_made(made, routed, answered, places, which):
    logits, (router, variables), (_, out) = made[3], routed[which], answered[which]
    wanted = router.score(variables["router"], places[router.place], None)
    np.testing.assert_allclose(out.score[:, 0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.prediction, logits.argmax(-1))


@pytest.mark.parametrize("which", ["learned", "stem"])
def test_a_cascade_runs_the_nets_on_the_images_that_each_answers(made, routed, answered, which):
    (_, _, split, logits), (_, variables), (dynamic, out) = made, routed[which], answered[which]
    ordered = np.sort(out.score[:, 0])
    bounds = np.float32([(ordered[5] + ordered[6]) / 2])
    found = cascade.build(dynamic, capacity=4)(variables, split.images, bounds)
    choice = np.where(out.score[:, 0] > bounds, 0, 1)
    np.testing.assert_array_equal(found.choice, choice)
    np.testing.assert_array_equal(found.answered, [7, 6])
    np.testing.assert_allclose(found.logits, logits[np.arange(13), choice], rtol=1e-4, atol=1e-4)


def test_what_a_router_costs_is_counted(made, answered):
    pair = made[0]
    costs = big_little.cost(pair)
    channels = list(pair.little.arch.named_blocks())[-1][1].out
    own = {"learned": 4 * channels + 4, "little": channels + 2, "stem": 8 + 2}
    for which, (dynamic, _) in answered.items():
        together = costs.little + costs.big - costs.stem if which != "stem" else costs.big
        assert dynamic.cost == (costs.little + own[which], together + own[which])


def test_what_routers_weigh_is_observed_as_it_is_scored(made, routed, answered):
    pair, _, split, logits = made
    tried = tuple(router for router, _ in routed.values())
    seen = protocol.observed(pair, made[1], split, (*tried, routers.Router()), batch=8)
    np.testing.assert_array_equal(seen.correct, logits.argmax(-1) == split.labels[:, None])
    np.testing.assert_allclose(seen.inputs[-1]["logits"], logits[:, 0], rtol=1e-4, atol=1e-4)
    for (which, (router, variables)), inputs in zip(routed.items(), seen.inputs, strict=False):
        wanted = answered[which][1].score[:, 0]
        np.testing.assert_allclose(router.judge(variables["router"], inputs), wanted, rtol=1e-4, atol=1e-5)


# A net of several exits.


@pytest.fixture(scope="module")
def exits_made(noisy_variables):
    """(MSDNet of three exits, variables, a split of 13 images, logits float64[13, 3, 3] of the net run whole)."""
    net = msdnet.msdnet_cifar(
        resolution=8, classes=3, blocks=3, base=1, step=1, channels=4, growth=2, factors=(1, 2), head_width=8
    )
    variables = noisy_variables(net, (8, 8, 3))
    images = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3)).astype(np.uint8)
    _, ends = jax.jit(net.apply)(variables, images)
    logits = np.stack([np.asarray(ends[f"exit{s}"], np.float64) for s in (1, 2, 3)], axis=1)
    return net, variables, Split(images, np.arange(13, dtype=np.int32) % 3, np.arange(13)), logits


def test_every_exit_is_a_choice(exits_made):
    net, variables, split, logits = exits_made
    dynamic = protocol.multi_exit(net)
    assert len(dynamic.steps) == 3
    assert dynamic.cost == exits.costs(net).macs
    out = protocol.answers(dynamic, variables, split, batch=13)
    np.testing.assert_allclose(out.score, SCORES["max_softmax"](logits), atol=1e-5)
    np.testing.assert_array_equal(out.prediction, logits.argmax(-1))


def test_a_cascade_of_exits_answers_as_the_policy_does(exits_made):
    """Feature maps of several scales are gathered for the images that go on."""
    net, variables, split, logits = exits_made
    dynamic = protocol.multi_exit(net, score="margin")
    score = SCORES["margin"](logits)
    bounds = np.quantile(score[:, :2], 0.46, axis=0, method="midpoint").astype(np.float32)  # between two images
    answers = cascade.build(dynamic, capacity=4)(variables, split.images, bounds)
    choice = np.asarray(routers.policy(score.T, bounds))
    assert set(choice.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(answers.choice, choice)
    np.testing.assert_array_equal(answers.answered, np.bincount(choice, minlength=3))
    np.testing.assert_allclose(answers.logits, logits[np.arange(13), choice], rtol=1e-4, atol=1e-5)


def test_an_unknown_score_of_exits(exits_made):
    with pytest.raises(ValueError, match="score is 'luck', choose from"):
        protocol.multi_exit(exits_made[0], score="luck")
