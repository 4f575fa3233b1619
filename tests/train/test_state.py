"""The optimizer by hand, its schedule, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from dynnas_jax.networks import ds_net
from dynnas_jax.train import state


def test_fresh_state():
    variables = {"params": {"a": {"kernel": jnp.ones(3)}}, "batch_stats": {"n": {"mean": jnp.ones(3)}}}
    fresh = state.create(variables, state.optimizer(10).transform)
    assert int(fresh.step) == 0
    assert int(fresh.bad_step) == -1
    counts = (fresh.bad_loss, fresh.average_loss, fresh.roll_backs)
    assert [(float(count), str(count.dtype)) for count in counts] == [(0, "float32"), (0, "float32"), (0, "int32")]
    np.testing.assert_array_equal(fresh.ema["a"]["kernel"], variables["params"]["a"]["kernel"])
    # One buffer cannot be donated twice.
    assert fresh.ema["a"]["kernel"] is not fresh.variables["params"]["a"]["kernel"]
    jax.block_until_ready(jax.jit(lambda x: x, donate_argnums=0)(fresh))


def test_schedule_warms_up_and_ends_at_zero():
    rates = [float(state.schedule(100, learning_rate=0.2, warm_up=0.1)(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.2, 11), atol=1e-6)
    np.testing.assert_allclose(rates[10:], 0.1 * (1 + np.cos(np.linspace(0, np.pi, 91))), atol=1e-6)


def test_schedule_falls_to_tenths():
    rates = [float(state.schedule(100, learning_rate=0.2, warm_up=0.1, drops=(0.5, 0.75))(step)) for step in range(100)]
    expected = [0.02 * step for step in range(10)] + [0.2] * 40 + [0.02] * 25 + [0.002] * 25
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    for wrong in ((0.75, 0.5), (0.0,), (1.0,)):
        with pytest.raises(ValueError, match="must be ascending shares"):
            state.optimizer(100, drops=wrong)


def test_schedule_ends_at_a_share():
    rates = [float(state.schedule(100, learning_rate=0.2, warm_up=0.1, final=0.01)(step)) for step in range(101)]
    cosine = 0.5 * (1 + np.cos(np.linspace(0, np.pi, 91)))
    np.testing.assert_allclose(rates[10:], 0.2 * (0.01 + 0.99 * cosine), atol=1e-6)


def test_schedule_falls_by_a_factor():
    rate = state.optimizer(10, learning_rate=0.5, warm_up=0.0, factor=0.9, factor_every=3).learning_rate
    # The warm-up has one step at least, which is at 0.
    np.testing.assert_allclose(
        [float(rate(step)) for step in range(1, 10)], 0.5 * 0.9 ** (np.arange(1, 10) // 3), rtol=1e-6
    )


def test_schedule_begins_anew():
    whole = state.schedule(90, learning_rate=0.2, warm_up=0.1, starts=(0, 40, 60))
    parts = [state.schedule(length, learning_rate=0.2, warm_up=0.1) for length in (40, 20, 30)]
    expected = [float(part(step)) for part, length in zip(parts, (40, 20, 30), strict=True) for step in range(length)]
    np.testing.assert_allclose([float(whole(step)) for step in range(90)], expected, atol=1e-7)


def test_three_steps_of_sgd_by_hand():
    """Nesterov: m <- mu m + g, p <- p - rate (g + mu m); decay on kernels alone, gradients clipped together."""
    params = {"a": {"kernel": jnp.asarray([3.0, -4.0]), "bias": jnp.asarray([1.0])}}
    gradient = {"a": {"kernel": jnp.asarray([6.0, 0.0]), "bias": jnp.asarray([8.0])}}
    transform = state.optimizer(
        8, learning_rate=0.5, warm_up=0.25, momentum=0.9, weight_decay=0.1, clip_norm=5.0
    ).transform
    opt_state = transform.init(params)
    expected = {"kernel": np.asarray([3.0, -4.0]), "bias": np.asarray([1.0])}
    momentum = {"kernel": np.zeros(2), "bias": np.zeros(1)}

    @jax.jit
    def move(opt_state, params):
        with jax.numpy_dtype_promotion("standard"):
            moves, opt_state = transform.update(gradient, opt_state, params)
        return opt_state, optax.apply_updates(params, moves)

    for rate in (0.0, 0.25, 0.5):
        opt_state, params = move(opt_state, params)
        for name, raw, decay in (("kernel", [6.0, 0.0], 0.1), ("bias", [8.0], 0.0)):
            clipped = np.asarray(raw) / 2 + decay * expected[name]  # the norm is 10, and 5 allowed
            momentum[name] = 0.9 * momentum[name] + clipped
            expected[name] = expected[name] - rate * (clipped + 0.9 * momentum[name])
            np.testing.assert_allclose(params["a"][name], expected[name], rtol=1e-5)


def test_of_a_network_of_gates_all_kernels_decay_but_theirs():
    supernet = ds_net.ds_mobilenet_small(
        resolution=8, stem=4, fixed=((8, 1, 1),), gated=((8, 1, 1),), gate_shared=False
    )
    shapes = jax.eval_shape(supernet.largest_net().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["params"])
    transform = state.optimizer(2, learning_rate=1.0, warm_up=0.0, momentum=0.0, weight_decay=0.5).transform

    @jax.jit
    def moved(params):
        still, at = jax.tree.map(jnp.zeros_like, params), transform.init(params)
        for _ in range(2):  # the rate of the first step is 0
            moves, at = transform.update(still, at, params)
        return moves

    with jax.numpy_dtype_promotion("standard"):
        moves = moved(params)
    decays = {path for path, move in traverse_util.flatten_dict(moves, sep="/").items() if np.abs(move).max() > 0}
    gates = {path for path in traverse_util.flatten_dict(params, sep="/") if "/gate/" in path}
    assert {path.split("/")[2] for path in gates} == {"reduce_conv", "attend_conv", "choose_conv", "choose_reduce_conv"}
    assert not decays & gates
    assert decays == {path for path in traverse_util.flatten_dict(params, sep="/") if path.endswith("kernel")} - gates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate is -0.1, must not be negative"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"clip_norm": -1}, "clip_norm is -1"),
        ({"momentum": 1.0}, "momentum is 1.0, must be at least 0 and below 1"),
        ({"warm_up": 1.5}, "warm_up is 1.5"),
        ({"final": 1.5}, "final is 1.5, must be a share"),
        ({"factor": 0.0}, "factor is 0.0, must be above 0"),
        ({"factor": 0.5, "factor_every": 0}, "factor_every is 0"),
        ({"factor": 0.5, "drops": (0.5,)}, "give one of them"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        state.optimizer(10, **options)
