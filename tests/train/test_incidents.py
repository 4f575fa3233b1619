"""What counts as an incident, what is told of it, and that it tells of what the step really used."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.elastic import init_supernet
from dynnas_jax.train import feed, incidents, progressive_shrinking, sandwich, state
from dynnas_jax.train.step import make_step


def run(losses, spike_factor, first=0):
    """(averages, spiked) of one loss after the other, inside jit as in the step."""
    step = jax.jit(lambda *given: incidents.update(*given, spike_factor=spike_factor))
    average, averages, spikes = jnp.float32(0), [], []
    for number, loss in enumerate(losses, first):
        average, spiked = step(average, jnp.float32(loss), jnp.int32(number))
        assert (average.dtype, spiked.dtype) == (jnp.float32, bool)
        averages.append(float(average))
        spikes.append(bool(spiked))
    return np.asarray(averages), spikes


def test_the_average_is_the_mean_at_first_and_forgets_later():
    losses = np.random.default_rng(0).uniform(1, 2, 400)
    averages, spikes = run(losses, 3.0)
    np.testing.assert_allclose(averages[:50], np.cumsum(losses[:50]) / np.arange(1, 51), rtol=1e-5)
    expected = averages[49]
    for loss, found in zip(losses[50:], averages[50:], strict=True):
        expected = 0.98 * expected + 0.02 * loss
        assert found == pytest.approx(expected, rel=1e-4)
    assert not any(spikes)


@pytest.mark.parametrize(
    ("loss", "factor", "spiked"), [(2.9, 3.0, False), (3.1, 3.0, True), (3.1, 0.0, False), (np.nan, 3.0, False)]
)
def test_a_spike_is_a_multiple_of_the_average_and_leaves_it_alone(loss, factor, spiked):
    averages, spikes = run([1.0] * 150 + [loss, 1.0], factor)
    assert spikes == [False] * 150 + [spiked, False]
    assert (averages[150] == averages[149]) == (spiked or math.isnan(loss))


def test_the_first_steps_may_do_as_they_like():
    losses = [1.0, 50.0, 0.1, 40.0] * (incidents.FIRST_STEPS // 4)
    assert not any(run(losses, 1.5)[1])
    assert run([*losses, 500.0], 1.5)[1][-1]


def test_the_first_incident_is_kept():
    current = state.create({"params": {"a": {"kernel": jnp.ones(2)}}, "batch_stats": {}}, state.optimizer(9).transform)
    current = current._replace(step=jnp.int32(200), average_loss=jnp.float32(2), roll_backs=jnp.int32(1))
    fine = current._replace(**incidents.watched(current, jnp.float32(5), spike_factor=3.0))
    assert incidents.found(fine) is None
    assert float(fine.average_loss) == pytest.approx(2 + 0.02 * 3)
    spiked = current._replace(**incidents.watched(current, jnp.float32(7), spike_factor=3.0))
    later = spiked._replace(step=jnp.int32(201))
    later = later._replace(**incidents.watched(later, jnp.float32(jnp.nan), spike_factor=3.0))
    for each in (spiked, later):
        found = incidents.found(each)
        assert (found.step, found.loss, found.roll_backs) == (200, 7.0, 1)
        assert found.what == "the loss of step 200 is 7, 3.5 times its running average"
    broken = current._replace(**incidents.watched(current, jnp.float32(jnp.inf)))
    assert incidents.found(broken).what == "the loss of step 200 is not finite"
    params = current._replace(ema={"a": {"kernel": jnp.asarray([1.0, jnp.nan])}})
    assert incidents.found(params).what == "the averaged params are not finite at step 200"


def test_other_draws_after_a_roll_back(micro):
    rule = sandwich.rule(subnets="pool", pool_size=4)
    pools = {rule.pool(micro.space, 0, incidents.other_seed(seed, n)) for seed in (7, 8) for n in (0, 1, 2)}
    assert len(pools) == 6
    key = jax.random.key(3)
    assert incidents.other_seed(7, 0) == 7
    assert incidents.other_key(key, 0) is key
    orders = [
        feed.batch_indices(100, 50, 0, incidents.other_seed(seed, n)).tolist() for seed in (7, 8) for n in (0, 1, 2)
    ]
    assert len({tuple(order) for order in orders}) == 6
    keys = [jax.random.key_data(incidents.other_key(key, n)).tolist() for n in (0, 1, 2)]
    assert len({tuple(words) for words in keys}) == 3


# The genomes of a step.


def used_genomes(micro, split, step_number, key, phases=None):
    """int32[n, genes] that the real step masked its variables by, caught inside the program."""
    seen = []

    class Space(type(micro.space)):
        def sample(self, key, count=None, least=None):
            drawn = super().sample(key, count, least)
            jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), drawn)
            return drawn

    spying = micro._replace(space=Space(**{name: getattr(micro.space, name) for name in Space.__dataclass_fields__}))
    transform = state.optimizer(10).transform
    step = make_step(spying, sandwich.rule(random_subnets=3), transform, devices.data_mesh(1), phases=phases)
    fresh = state.create(init_supernet(micro, jax.random.key(0), (8, 8, 1)), transform)
    batch = jnp.asarray(split.images), jnp.asarray(split.labels), jnp.arange(8, dtype=jnp.int32)
    jax.block_until_ready(step(fresh._replace(step=jnp.int32(step_number)), *batch, key))
    jax.effects_barrier()
    (found,) = seen
    return found


def test_the_genomes_are_those_that_the_step_used(micro, split):
    key = jax.random.key(5)
    expected = used_genomes(micro, split, 7, key)
    assert expected.shape == (3, len(micro.space.genes))
    rule, expected = sandwich.rule(random_subnets=3), [micro.space.to_json(genome) for genome in expected]
    assert incidents.drawn(rule, micro.space, key, 7, None, None) == expected
    assert incidents.drawn(rule, micro.space, key, 8, None, None) != expected


def test_in_a_phase_only_what_it_unlocks_and_counts(micro, split):
    phases = progressive_shrinking.schedule(
        micro.space,
        10,
        random_subnets=3,
        phases=(
            {"share": 0.5, "unlock": ("kernel",), "random_subnets": 2},
            {"share": 0.5, "unlock": ("expand", "width")},
        ),
    )
    key = jax.random.key(5)
    for number, counted in ((2, 2), (7, 3)):
        used = used_genomes(micro, split, number, key, phases)[:counted]
        found = incidents.drawn(sandwich.rule(random_subnets=3), micro.space, key, number, phases, None)
        assert found == [micro.space.to_json(genome) for genome in used]


# What happens.

SPIKE = incidents.Incident(137, "the loss of step 137 is not finite", math.nan, 1.5, 0)


def test_stopping_names_the_step_and_leaves_the_facts(tmp_path):
    with pytest.raises(
        ValueError, match=r"step 137 is not finite; the last good checkpoint is of step 100 .*incident_137"
    ):
        incidents.settle(SPIKE, incidents.rule(), 100, tmp_path, image_indices=[3, 1], genomes=[{"a": 1}])
    facts = json.loads((tmp_path / "incident_137.json").read_text())
    assert facts["image_indices"] == [3, 1]
    assert facts["genomes"] == [{"a": 1}]
    assert (facts["step"], facts["loss"], facts["average_loss"], facts["roll_backs"]) == (137, "nan", 1.5, 0)
    assert facts["done"] == "stopped; a lower learning_rate often helps"
    with pytest.raises(ValueError, match="not finite; there is no checkpoint yet. A lower"):
        incidents.settle(SPIKE, incidents.rule(on_incident="roll_back"), None)


def test_rolling_back_a_few_times(tmp_path):
    how = incidents.rule(on_incident="roll_back", most_roll_backs=2)
    for before in (0, 1):
        with pytest.raises(incidents.RollBack) as rolled:
            incidents.settle(SPIKE._replace(roll_backs=before), how, 100, tmp_path)
        assert rolled.value.roll_backs == before + 1
    with pytest.raises(ValueError, match="step 137 is not finite, after 2 roll-backs; the last good"):
        incidents.settle(SPIKE._replace(roll_backs=2), how, 100, tmp_path)
    files = {path.name: json.loads(path.read_text())["done"] for path in tmp_path.iterdir()}
    assert files == {
        "incident_137.json": "rolled back",
        "incident_137_roll_back_1.json": "rolled back",
        "incident_137_roll_back_2.json": "stopped; a lower learning_rate often helps",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spike_factor": 0.5}, "train.spike_factor is 0.5, must be above 1, or 0"),
        ({"spike_factor": math.nan}, "train.spike_factor is nan"),
        ({"on_incident": "ignore"}, "train.on_incident is 'ignore', choose from"),
        ({"most_roll_backs": -1}, "train.most_roll_backs is -1, must not be negative"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        incidents.rule(**options)
