"""The rule's gradient against the subnets' gradients, each computed alone and sliced."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dynnas_jax.elastic import extract
from dynnas_jax.networks import mbconv, ofa, template
from dynnas_jax.train import distillation, losses, rules, sandwich
from dynnas_jax.train.progressive_shrinking import Allowed

TEMPERATURE, KEY = 2.0, jax.random.key(7)


@pytest.fixture(scope="module")
def batch(split):
    return split.images[:12], split.labels[:12]


@pytest.fixture(scope="module")
def variables(micro, noisy_variables):
    return noisy_variables(micro.largest_net(), (8, 8, 1))


@pytest.fixture(scope="module")
def made(micro, variables, batch):
    objective = sandwich.rule(random_subnets=2, temperature=TEMPERATURE)(micro)
    return jax.jit(objective)(rules.Given(variables), *batch, KEY)


@pytest.fixture(scope="module")
def alone(micro, variables, batch):
    """alone(genome, teacher=None): (loss, logits, statistics, gradient) of one sliced subnet."""
    images, labels = batch

    def run(genome, teacher=None):
        net = micro.net(micro.arch(genome))

        def loss(params):
            own = extract(micro, {**variables, "params": params}, genome)[1]
            (logits, _), updated = net.apply(own, images, True, mutable=["batch_stats"])
            if teacher is None:
                return losses.cross_entropy(logits, labels), (logits, updated["batch_stats"])
            return distillation.soft_cross_entropy(logits, teacher, TEMPERATURE), (logits, updated["batch_stats"])

        (value, (logits, stats)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        return value, logits, stats, gradient

    return run


def test_gradient_is_the_mean_of_the_subnets(micro, batch, made, alone):
    space = micro.space
    loss, teacher, stats, gradient = alone(space.largest)
    genomes = [space.smallest, *np.asarray(space.sample(KEY, 2))]
    assert len({micro.arch(genome) for genome in [space.largest, *genomes]}) == 4
    students = [alone(genome, teacher) for genome in genomes]
    wanted = jax.tree.map(lambda *leaves: sum(leaves) / 4, gradient, *(student[3] for student in students))
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        found = dict(jax.tree_util.tree_leaves_with_path(made.gradient))[path]
        np.testing.assert_allclose(found, leaf, rtol=0, atol=1e-3 * max(0.01, np.abs(leaf).max()), err_msg=str(path))
    found = made.metrics
    np.testing.assert_allclose(found["loss_largest"], loss, rtol=1e-5)
    smallest, *others = (student[0] for student in students)
    np.testing.assert_allclose(found["loss_smallest"], smallest, rtol=1e-5)
    np.testing.assert_allclose(found["loss_random"], sum(others) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], (loss + smallest + sum(others)) / 4, rtol=1e-5)
    accuracy = (np.asarray(teacher).argmax(-1) == batch[1]).mean()
    assert 0 < accuracy < 1
    np.testing.assert_allclose(found["accuracy_largest"], accuracy, rtol=1e-6)
    # Running statistics are the largest net's, not those of the last subnet that ran.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), made.batch_stats, stats)


def test_the_largest_subnet_need_not_have_every_leaf(noisy_variables, batch):
    """Where the variables hold a shortcut's convolution that only other subnets have, the largest runs without it."""
    base = mbconv.Arch(8, 8, "relu6", (), 8, "relu6", 3, channels=1, mean=(0.4,), std=(0.3,))
    stage = template.Stage(1, 2, "relu6", False, (1,), (4, 8), (3,), (1,))
    options = {"divisor": 4, "stem_widths": (4, 8), "alike": True, "shortcuts": True}
    supernet = template.build(template.Template(base, (stage,), (8,), (), (), (), **options))
    variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
    shortcut = variables["params"]["stage1_block0"]["shortcut_conv"]["kernel"]
    objective = sandwich.rule(random_subnets=0)(supernet)
    made = jax.jit(objective)(rules.Given(variables), *batch, KEY)
    largest, own = extract(supernet, variables, supernet.space.largest)
    assert "shortcut_conv" not in own["params"]["stage1_block0"]
    (logits, _), _ = jax.jit(lambda v, x: largest.apply(v, x, True, mutable=["batch_stats"]))(own, batch[0])
    np.testing.assert_allclose(made.metrics["loss_largest"], losses.cross_entropy(logits, batch[1]), rtol=1e-5)
    assert made.gradient["stage1_block0"]["shortcut_conv"]["kernel"].shape == shortcut.shape
    assert jax.tree.structure(made.batch_stats) == jax.tree.structure(variables["batch_stats"])


def test_targets_and_smoothing_change_what_the_largest_learns_and_not_its_accuracy(micro, variables, batch, made):
    """Of the losses only the largest's."""
    images, labels = batch
    objective = jax.jit(sandwich.rule(random_subnets=0, temperature=TEMPERATURE, label_smoothing=0.2)(micro))
    targets = np.roll(np.eye(3, dtype=np.float32)[labels], 1, axis=1) * 0.3 + np.eye(3, dtype=np.float32)[labels] * 0.7
    found = objective(rules.Given(variables), images, labels, KEY, targets).metrics
    logits = micro.largest_net().apply(variables, images, True, mutable=["batch_stats"])[0][0]
    wanted = losses.cross_entropy(logits, jnp.asarray(0.8 * targets + 0.2 / 3))
    np.testing.assert_allclose(found["loss_largest"], wanted, rtol=1e-5)
    for name in ("loss_smallest", "accuracy_largest"):
        np.testing.assert_allclose(found[name], made.metrics[name], rtol=1e-5)


# Phases of progressive shrinking.


def assert_close(found, wanted):
    found = dict(jax.tree_util.tree_leaves_with_path(found))
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        atol = 1e-3 * max(0.01, np.abs(leaf).max())
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=atol, err_msg=str(path))


@pytest.fixture(scope="module")
def phased(micro, variables, batch):
    """phased(least, random_subnets): what the rule makes of a phase; one program for all phases."""
    objective = jax.jit(sandwich.rule(random_subnets=2, temperature=TEMPERATURE)(micro))

    def run(least, random_subnets):
        allowed = Allowed(jnp.asarray(least, jnp.int32), jnp.int32(random_subnets), jnp.float32(1))
        made = objective(rules.Given(variables, allowed=allowed), *batch, KEY)
        assert objective._cache_size() == 1
        return made

    return run


def test_a_phase_that_allows_all_is_the_plain_rule(micro, made, phased):
    found = phased(micro.space.smallest, 2)
    assert_close(found.gradient, made.gradient)
    assert_close(found.metrics, made.metrics)


def test_a_phase_trains_what_it_allows(micro, phased, alone):
    """The smallest that is unlocked, and one random subnet of the two there is room for."""
    space = micro.space
    least = np.where(["kernel" in gene.name for gene in space.genes], 0, space.largest)
    found, (_, teacher, _, gradient) = phased(least, 1), alone(space.largest)
    genome = np.asarray(space.sample(KEY, 2, jnp.asarray(least, jnp.int32)))[0]
    assert (genome >= least).all()
    students = [alone(genome, teacher)[3] for genome in (least.astype(np.int32), genome)]
    assert_close(found.gradient, jax.tree.map(lambda *leaves: sum(leaves) / 3, gradient, *students))


def test_where_all_is_locked_the_largest_trains_alone(micro, phased, alone):
    found, (loss, _, _, gradient) = phased(micro.space.largest, 2), alone(micro.space.largest)
    assert_close(found.gradient, gradient)
    np.testing.assert_allclose(found.metrics["loss"], loss, rtol=1e-5)


def test_a_free_resolution_unlocks_no_subnet():
    """The resolution is the step's: with all else locked only the largest counts."""
    space = ofa.small_images(image_size=16, resolutions=(8,), stage_widths=(8,), stage_strides=(1,)).space
    least = jnp.asarray(space.largest).at[space.index("resolution")].set(0)
    allowed = Allowed(least, jnp.int32(2), jnp.float32(1))
    np.testing.assert_array_equal(rules.weights_of(allowed, space, 2), [0, 0, 0])
    allowed = allowed._replace(least=least.at[space.index("stage1.depth")].set(0), random_subnets=jnp.int32(1))
    np.testing.assert_array_equal(rules.weights_of(allowed, space, 2), [1, 1, 0])


# Other ways to run the random subnets.


@pytest.mark.parametrize("subnets", ["switched", "pool"])
def test_other_ways_to_run_the_same_random_subnets(micro, variables, batch, made, subnets):
    rule = sandwich.rule(random_subnets=2, temperature=TEMPERATURE, subnets=subnets, pool_size=2)
    drawn = tuple(map(tuple, np.asarray(micro.space.sample(KEY, 2)).tolist()))
    pool = {"pool": drawn} if subnets == "pool" else {}
    found = jax.jit(functools.partial(rule(micro), **pool))(rules.Given(variables), *batch, KEY)
    assert_close(found.gradient, made.gradient)
    assert_close(found.metrics, made.metrics)


def test_a_pool_follows_from_the_step(micro):
    rule, space = sandwich.rule(subnets="pool", pool_size=6, pool_refresh=10), micro.space
    pools = [rule.pool(space, step, 3) for step in range(400)]
    assert pools[0] == pools[9] != pools[10] == pools[19]
    assert rule.pool(space, 25, 3) == pools[25] != rule.pool(space, 25, 4)
    assert {genome for pool in pools for genome in pool} == set(itertools.product(*map(range, space.sizes)))
    least = np.where(np.arange(len(space.sizes)) == 1, 0, space.largest).astype(np.int32)
    within = {genome for step in range(0, 400, 10) for genome in rule.pool(space, step, 3, least)}
    assert within == {tuple(least.tolist()), tuple(space.largest.tolist())}
    assert sandwich.rule().pool(space, 0, 3) is None


def test_a_step_without_its_pool(micro, variables, batch):
    with pytest.raises(ValueError, match="come from a pool, and the step was given none"):
        jax.eval_shape(sandwich.rule(subnets="pool")(micro), rules.Given(variables), *batch, KEY)


# Several devices.


@pytest.fixture(scope="module")
def spread(micro, variables, split):
    """spread(data, subnet, rule, allowed=None): the update of 16 images on a mesh of data x subnet devices."""

    def run(data, subnet, rule, allowed=None):
        mesh = jax.make_mesh((data, subnet), ("data", "subnet"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        objective = rule(micro, "data", subnet_axis="subnet" if subnet > 1 else None)
        specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data"), PartitionSpec())

        @jax.jit
        @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
        def update(given, images, labels, key):
            return jax.lax.pmean(objective(given, images, labels, key), "data")

        return update(rules.Given(variables, allowed=allowed), split.images[:16], split.labels[:16], KEY)

    return run


def assert_equal_updates(found, wanted):
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        np.testing.assert_allclose(other, leaf, rtol=1e-4, atol=1e-4 * max(0.01, np.abs(leaf).max()), err_msg=str(path))


def test_random_subnets_spread_over_devices_make_the_same_update(spread):
    """1 device == 8 with parts of the batch == 4 parts of the batch x 2 of the random subnets."""
    rule = sandwich.rule(random_subnets=2, temperature=TEMPERATURE)
    one = spread(1, 1, rule)
    assert_equal_updates(spread(8, 1, rule), one)
    assert_equal_updates(spread(4, 2, rule), one)


def test_phases_spread_too(micro, spread):
    least = np.where(["kernel" in gene.name for gene in micro.space.genes], 0, micro.space.largest)
    allowed = Allowed(jnp.asarray(least, jnp.int32), jnp.int32(1), jnp.float32(1))
    rule = sandwich.rule(random_subnets=2, temperature=TEMPERATURE)
    assert_equal_updates(spread(2, 2, rule, allowed), spread(1, 1, rule, allowed))


def test_what_does_not_divide_over_the_devices(spread):
    with pytest.raises(ValueError, match="random_subnets is 3, must divide over the 2 devices of the axis 'subnet'"):
        spread(4, 2, sandwich.rule(random_subnets=3))
    with pytest.raises(ValueError, match="the 4 images of a device do not divide over the 8 devices of the axis"):
        jax.eval_shape(
            lambda: spread(1, 8, lambda *a, **k: _with_four_images(sandwich.rule(random_subnets=8)(*a, **k)))
        )


def _with_four_images(objective):
    return lambda given, images, labels, key: objective(given, images[:4], labels[:4], key)


# Teachers.


def test_averaged_params_teach(micro, variables, batch, alone):
    ema = jax.tree.map(lambda leaf: 0.8 * leaf, variables["params"])
    objective = jax.jit(sandwich.rule(random_subnets=0, temperature=TEMPERATURE, teacher="ema")(micro))
    found = objective(rules.Given(variables, ema=ema), *batch, KEY)
    averaged = {**variables, "params": ema}
    teacher = micro.largest_net().apply(averaged, batch[0], True, mutable=["batch_stats"])[0][0]
    student = alone(micro.space.smallest, teacher)
    np.testing.assert_allclose(found.metrics["loss_smallest"], student[0], rtol=1e-5)
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, alone(micro.space.largest)[3], student[3])
    assert_close(found.gradient, wanted)


def test_a_trained_net_teaches(micro, variables, batch, alone):
    weights = np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32)
    answers = lambda given, images: images.reshape(len(images), -1).astype(np.float32) @ given / 1000  # noqa: E731
    rule = sandwich.rule(random_subnets=0, temperature=TEMPERATURE, teacher="trained")
    found = jax.jit(rule(micro, None, answers))(rules.Given(variables, teacher=weights), *batch, KEY)
    student = alone(micro.space.smallest, answers(weights, batch[0]))
    np.testing.assert_allclose(found.metrics["loss_smallest"], student[0], rtol=1e-5)
    with pytest.raises(ValueError, match="'trained' needs a trained net; give train.teacher"):
        rule(micro)
    with pytest.raises(ValueError, match="a trained net is given, but the teacher is 'in_place'"):
        sandwich.rule()(micro, None, answers)


def test_without_random_subnets_no_such_loss(micro, variables, batch):
    objective = sandwich.rule(random_subnets=0)(micro)
    shapes = jax.eval_shape(objective, rules.Given(variables), *batch, KEY)
    assert set(shapes.metrics) == {"loss", "loss_largest", "loss_smallest", "accuracy_largest"}
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in shapes.metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_subnets": -1}, "random_subnets is -1, must not be negative"),
        ({"temperature": 0}, "temperature is 0, must be above 0"),
        ({"teacher": "aunt"}, "teacher is 'aunt', choose from ['in_place', 'ema', 'trained']"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, must be at least 0 and below 1"),
        ({"subnets": "cut"}, "subnets is 'cut', choose from ['auto', 'masked', 'switched', 'pool']"),
        ({"subnets": "pool", "pool_size": 1}, "pool_size is 1, must be at least random_subnets, 2, and 1"),
        ({"pool_refresh": 0}, "pool_refresh is 0 steps, must be at least 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match="sandwich: ") as caught:
        sandwich.rule(**options)
    assert message in str(caught.value)
