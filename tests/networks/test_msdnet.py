"""MSDNet against its published costs, its schedule of scales, and each exit alone against the whole net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import NETWORKS, exits, msdnet

QUICK = {"xla_backend_optimization_level": 0}


def test_published_costs(published):
    row = published["msdnet"]
    found = exits.costs(NETWORKS["msdnet"].from_arch_file(row["arch"]))
    assert (list(found.macs), list(found.params)) == (row["macs"], row["params"])
    assert [round(value / 1e6, 2) for value in found.macs] == row["published_macs_M"]
    assert [round(value / 1e6, 2) for value in found.params] == row["published_params_M"]
    assert NETWORKS["msdnet"]() == NETWORKS["msdnet"].from_arch_file(row["arch"])


def scales(net):
    """How many scales each layer leaves."""
    return [len(spec.added) for spec in net.arch.layers()]


def reduced(net):
    """Channels at the coarsest scale behind each layer that reduces them, by the number of the layer from 1."""
    return {i: spec.reduced[-1] for i, spec in enumerate(net.arch.layers(), 1) if spec.reduced}


def test_scales_are_given_up_one_by_one():
    net = msdnet.msdnet()
    assert net.arch.depths == (7,) * 5
    assert scales(net) == [4] * 9 + [3] * 9 + [2] * 9 + [1] * 8
    # Halved behind the layers 10, 19 and 28, at four times the width of the finest: 32, then 16 more a layer.
    widths = (32 + 10 * 16) // 2, ((32 + 10 * 16) // 2 + 9 * 16) // 2
    assert reduced(net) == {10: 4 * widths[0], 19: 4 * widths[1], 28: 4 * ((widths[1] + 9 * 16) // 2)}


def test_pruning_by_what_exits_still_read():
    net = msdnet.msdnet_cifar(pruning="min", blocks=4, base=3, step=2)
    assert scales(net) == [3] * 7 + [2, 1]
    assert reduced(net) == {3: 4 * ((16 + 3 * 6) // 2), 6: 4 * (((16 + 3 * 6) // 2 + 3 * 6) // 2)}
    assert reduced(msdnet.msdnet_cifar(reduction=0.0)) == {}


def test_step_modes():
    assert msdnet.msdnet_cifar(blocks=5, base=1, step=1, step_mode="lin_grow").arch.depths == (1, 2, 3, 4, 5)
    assert msdnet.msdnet_cifar(blocks=3, base=4, step=2, step_mode="lin_grow").arch.depths == (4, 3, 5)
    assert msdnet.msdnet_cifar(blocks=3, base=4, step=2).arch.depths == (4, 2, 2)


def test_bottlenecks():
    """The factors by default; at 0 there is no 1x1 convolution, and no more channels inside than there are to read."""
    (layer, *_) = msdnet.msdnet().arch.layers()
    assert layer.inner == (1, 2, 4, 4)
    net = msdnet.msdnet_cifar(bottlenecks=(0, 1, 100), blocks=1, base=2)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8))
    made = shapes["params"]["block1_layer0"]
    # Scales by name from the coarsest, 0, on.
    assert "scale2_own_bottleneck_conv" not in made
    assert made["scale1_own_bottleneck_conv"]["kernel"].shape == (1, 1, 32, 6)
    assert made["scale0_own_bottleneck_conv"]["kernel"].shape == (1, 1, 64, 64)


@pytest.mark.parametrize("name", ["msdnet", "msdnet_cifar"])
def test_an_exit_alone_is_that_exit_in_the_whole(small, noisy_variables, name):
    """In float64, from the images on and from the feature maps that the exit before left."""
    net = small(name).clone(dtype="float64")
    side, segments = net.arch.resolution, net.segments()
    variables = noisy_variables(small(name), (side, side, 3))
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8)

    def alone(number):
        def run(variables, carry):
            for segment in segments[:number]:
                for block in segment.blocks:
                    carry = exits.run(block, variables, carry)
            return exits.run(segments[number - 1].exit, variables, carry)

        return run

    def program(variables):
        logits, ends = net.apply(variables, images)
        carry, steps = images, []
        for segment in segments:
            step, carry = exits.run_segment(segment, variables, carry)
            steps.append(step)
        return logits, [ends[s.exit.name] for s in segments], steps

    with jax.enable_x64():
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        logits, whole, steps = jax.jit(program, compiler_options=QUICK)(variables)
        np.testing.assert_array_equal(logits, whole[-1])
        assert len(whole) == len(segments) > 1
        for number, (inside, step) in enumerate(zip(whole, steps, strict=True), 1):
            np.testing.assert_allclose(step, inside, rtol=1e-12, atol=1e-12)
            # Nothing of the later exits is there.
            names = {block.name for s in segments[:number] for block in (*s.blocks, s.exit)}
            own = {kind: {n: leaf for n, leaf in tree.items() if n in names} for kind, tree in variables.items()}
            found = jax.jit(alone(number), compiler_options=QUICK)(own, images)
            np.testing.assert_allclose(found, inside, rtol=1e-12, atol=1e-12)
            assert np.ptp(inside, axis=0).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "exits is 0, must be at least 1"),
        ({"base": 2.0}, "base is 2.0, must be at least 1 and whole"),
        ({"step_mode": "odd"}, r"step_mode is 'odd', choose from \['even', 'lin_grow'\]"),
        ({"pruning": "most"}, r"pruning is 'most', choose from \['max', 'min'\]"),
        ({"stem": "5x5"}, r"stem is '5x5', choose from \['7x7', '3x3'\]"),
        ({"factors": ()}, r"factors is \(\), must be at least 1"),
        ({"bottlenecks": (1, 2)}, r"bottlenecks is \(1, 2\), must be one from 0 for each factor"),
        ({"reduction": 1.5}, "reduction is 1.5, must be from 0 to 1"),
        ({"head_width": -1}, "head_width is -1"),
        ({"growth": 3, "factors": (1, 1)}, r"growth 3 times factors \(1, 1\) must be even"),
        ({"blocks": 1, "base": 2}, "2 layers, too few to give up 3 scales"),
    ],
)
def test_what_no_msdnet_has(options, message):
    with pytest.raises(ValueError, match=message):
        msdnet.msdnet(**options)
