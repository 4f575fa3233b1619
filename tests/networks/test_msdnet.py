"""MSDNet against its published costs, its schedule of scales, and each exit alone against the whole net."""

from pathlib import Path

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


def test_an_exit_alone_is_that_exit_in_the_whole(small, noisy_variables):
    """In float64, from the images on and from the feature maps that the exit before left."""
    net = small("msdnet_cifar").clone(dtype="float64")
    side, segments = net.arch.resolution, net.segments()
    variables = noisy_variables(small("msdnet_cifar"), (side, side, 3))
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


# The authors' own net, of which tests/networks/data keeps the weights and the answers.

ORIGINAL = {"blocks": 2, "base": 3, "step": 2, "channels": 4, "growth": 2, "factors": (1, 2, 2), "classes": 3}
PARTS = (("_bottleneck", 0), ("", 3))  # suffix of our layer, place of the authors'


def original_names(net):
    """The authors' name of every convolution with its norm, (convolution, norm), by (block, layer) of the net."""
    found, scales = {}, len(net.arch.factors)
    found["stem", "scale0", ""] = ("blocks.0.0.layers.0.0", "blocks.0.0.layers.0.1")
    for i in range(1, scales):
        found["stem", f"scale{i}"] = tuple(f"blocks.0.0.layers.{i}.net.{place}" for place in (0, 1))
    specs, place = iter(net.arch.layers()), 1
    for block, depth in enumerate(net.arch.depths):
        for i in range(depth):
            spec, name = next(specs), f"block{block + 1}_layer{i}"
            for k in range(len(spec.added)):
                scale = f"scale{len(spec.added) - 1 - k}"
                parts = {"own": "conv_normal"} | ({"finer": "conv_down"} if k or spec.drops else {})
                for ours, theirs in parts.items():
                    for suffix, at in PARTS:
                        modules = [f"blocks.{block}.{place}.layers.{k}.{theirs}.net.{at + n}" for n in (0, 1)]
                        found[name, f"{scale}_{ours}{suffix}"] = tuple(modules)
                if spec.reduced:
                    modules = [f"blocks.{block}.{place + 1}.m.{k}.net.{n}" for n in (0, 1)]
                    found[name, f"{scale}_reduced"] = tuple(modules)
            place += 2 if spec.reduced else 1
        for i, ours in enumerate(("first", "second")):
            found[f"exit{block + 1}", ours] = tuple(f"classifier.{block}.m.{i}.net.{n}" for n in (0, 1))
        place = 0
    return found


def imported(net, arrays):
    """The authors' state dict as variables of the net, float64."""
    params, stats, used = {}, {}, set()

    def put(tree, path, leaf):
        for key in path[:-1]:
            tree = tree.setdefault(key, {})
        tree[path[-1]] = jnp.asarray(leaf, jnp.float64)

    def take(name):
        used.add(name)
        return arrays[name].astype(np.float64)

    for (block, *inside, layer), (convolution, norm) in original_names(net).items():
        path = (block, *inside, f"{layer}_") if layer else (block, *inside, "")
        conv_path, norm_path = ((*path[:-1], path[-1] + kind) for kind in ("conv", "norm"))
        put(params, (*conv_path, "kernel"), take(f"{convolution}.weight").transpose(2, 3, 1, 0))
        put(params, (*norm_path, "scale"), take(f"{norm}.weight"))
        put(params, (*norm_path, "bias"), take(f"{norm}.bias"))
        # A bias in front of a norm is a shift of its mean.
        bias = take(f"{convolution}.bias") if f"{convolution}.bias" in arrays else 0
        put(stats, (*norm_path, "mean"), take(f"{norm}.running_mean") - bias)
        put(stats, (*norm_path, "var"), take(f"{norm}.running_var"))
    for i in range(len(net.arch.depths)):
        put(params, (f"exit{i + 1}", "classifier", "kernel"), take(f"classifier.{i}.linear.weight").T)
        put(params, (f"exit{i + 1}", "classifier", "bias"), take(f"classifier.{i}.linear.bias"))
    assert used == set(arrays) - {"images", "logits"}
    return {"params": params, "batch_stats": stats}


def test_answers_of_the_authors_own_net():
    with np.load(Path(__file__).parent / "data" / "tiny_msdnet.npz") as file:
        arrays = dict(file)
    net = msdnet.msdnet(resolution=128, padding="symmetric", **ORIGINAL).clone(dtype="float64")
    with jax.enable_x64():
        variables = imported(net, arrays)
        _, ends = jax.jit(net.apply, compiler_options=QUICK)(variables, arrays["images"])
        found = np.stack([ends["exit1"], ends["exit2"]])
    np.testing.assert_allclose(found, arrays["logits"], rtol=1e-9, atol=1e-12)
    assert np.ptp(arrays["logits"], axis=1).max() > 1e-4  # images differ by far more than that


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
