"""NASNet-A against published costs; cells against their figure; drop path against its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.elastic import image_struct
from dynnas_jax.networks import nasnet
from dynnas_jax.networks.mbconv import Numerics

QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", ["4 @ 768", "5 @ 768", "6 @ 768", "4 @ 1056", "6 @ 4032"])
def test_published_costs(published, meets_published, name):
    """(N @ P): the channels before the classifier too; Keras counts the same trainable params."""
    (row,) = (row for row in published["nasnet"]["nets"] if row["name"] == name)
    net = meets_published(row)
    assert row.get("keras_params", row["params"]) == row["params"]
    *_, (_, last) = net.arch.named_cells()
    assert 6 * last.filters == int(name.split()[-1])


def test_every_stage_has_its_own_number_of_cells():
    net = nasnet.nasnet(cells=(1, 2, 1), filters=4, resolution=16)
    names = [block.name for block in net.chain()]
    assert names == [
        "stem",
        "stage1_cell0",
        "reduction1",
        "stage2_cell0",
        "stage2_cell1",
        "reduction2",
        "stage3_cell0",
        "head",
    ]
    (_, ends), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), image_struct(net.arch))
    shapes = {name: end.last.shape[1:] for name, end in ends.items() if name != "head"}
    assert shapes["stem"] == (16, 16, 12)
    assert shapes["stage1_cell0"] == (16, 16, 24)
    assert (shapes["reduction1"], shapes["stage2_cell1"]) == ((8, 8, 32), (8, 8, 48))
    assert (shapes["reduction2"], shapes["stage3_cell0"]) == ((4, 4, 64), (4, 4, 96))


def test_which_outputs_a_cell_reads():
    """Behind a reduction the second input is what the reduction read first or, where it is skipped, second."""
    for skips, expected in ((False, 24), (True, 12)):
        arch = nasnet.nasnet(cells=(1, 1), filters=4, resolution=8).arch
        net = nasnet.Net(arch.__class__(**{**vars(arch), "skip_reduction": skips}))
        (_, ends), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), image_struct(net.arch))
        assert ends["reduction1"].before.shape == (1, 8, 8, expected)
        assert ends["stage2_cell0"].before.shape == ends["reduction1"].last.shape


def plain_cell(kind, states, run):
    """Figure 4 of the paper, written out."""
    last, before = states
    if kind == "normal":
        sums = [
            run("sep5", last, "pair0_left") + run("sep3", before, "pair0_right"),
            run("sep5", before, "pair1_left") + run("sep3", before, "pair1_right"),
            run("avg", last, "") + before,
            run("avg", before, "") + run("avg", before, ""),
            run("sep3", last, "pair4_left") + last,
        ]
        return np.concatenate([before, *sums], -1)
    first = run("sep5", last, "pair0_left") + run("sep7", before, "pair0_right")
    second = run("max", last, "") + run("sep7", before, "pair1_right")
    third = run("avg", last, "") + run("sep5", before, "pair2_right")
    fourth = second + run("avg", first, "")
    fifth = run("sep3", first, "pair4_left") + run("max", last, "")
    return np.concatenate([second, third, fourth, fifth], -1)


@pytest.mark.parametrize("kind", ["normal", "reduction"])
def test_cells_are_those_of_the_figure(kind, noisy_variables):
    spec = nasnet.CellSpec(4, kind == "reduction", False)
    module, generator = nasnet.Cell(spec, Numerics()), np.random.default_rng(0)
    carry = nasnet.Carry(*(generator.normal(size=(2, 7, 7, 4)).astype(np.float32) for _ in range(2)))
    shapes = jax.eval_shape(module.init, jax.random.key(0), carry)
    variables = jax.tree.map(lambda leaf: np.abs(generator.normal(size=leaf.shape)).astype(np.float32) + 0.5, shapes)

    def run(operation, x, name):
        stride = 2 if kind == "reduction" and x.shape[1] == 7 else 1
        if operation.startswith("sep"):
            return np.asarray(separable(name, stride, x))
        return pooled(operation, np.asarray(x), stride)

    def separable(name, stride, x):
        for place, step in (("first", stride), ("second", 1)):
            own = {k: variables["params"][f"{name}_{place}_{k}"] for k in ("depthwise", "conv", "norm")}
            x = jax.lax.conv_general_dilated(
                jnp.maximum(x, 0),
                own["depthwise"]["kernel"],
                (step, step),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=4,
            )
            x = normed(x @ own["conv"]["kernel"][0, 0], own["norm"], variables["batch_stats"][f"{name}_{place}_norm"])
        return x

    def normed(x, norm, stats):
        rows = [leaf.reshape(1, 1, 1, -1) for leaf in (stats["mean"], stats["var"], norm["scale"], norm["bias"])]
        return (x - rows[0]) / jnp.sqrt(rows[1] + 1e-5) * rows[2] + rows[3]

    last = np.maximum(carry.last, 0) @ variables["params"]["last_conv"]["kernel"][0, 0]
    last = normed(last, variables["params"]["last_norm"], variables["batch_stats"]["last_norm"])
    expected = plain_cell(kind, (np.asarray(last), carry.before), run)
    found = jax.jit(module.apply, compiler_options=QUICK)(variables, carry)
    np.testing.assert_allclose(found.last, expected, rtol=2e-4, atol=1e-3)
    np.testing.assert_array_equal(found.before, carry.last)


def pooled(kind, x, stride):
    """3x3 windows of an odd image, over the pixels that are there."""
    side = -(-x.shape[1] // stride)
    out = np.zeros((x.shape[0], side, side, x.shape[-1]), np.float32)
    for row in range(side):
        for column in range(side):
            rows, columns = (slice(max(place * stride - 1, 0), place * stride + 2) for place in (row, column))
            window = x[:, rows, columns]
            out[:, row, column] = window.mean((1, 2)) if kind == "avg" else window.max((1, 2))
    return out


# Drop path.


def test_an_image_s_path_is_dropped_or_scaled_up():
    keep, images = 0.7, 4000
    cell = nasnet.Cell(nasnet.CellSpec(2, False, False), Numerics(), keep)
    x = np.random.default_rng(0).uniform(1, 2, (images, 1, 2, 2)).astype(np.float32)

    def dropped(x, train):
        return cell.apply({}, x, train, method=cell._dropped, rngs={"drop_path": jax.random.key(1)})

    found = np.asarray(dropped(x, True)) / x
    kept = (found > 0).all((1, 2, 3))
    np.testing.assert_allclose(found[kept], 1 / keep, rtol=1e-5)
    assert (found[~kept] == 0).all()
    assert abs(kept.mean() - keep) < 4 * (keep * (1 - keep) / images) ** 0.5
    np.testing.assert_array_equal(dropped(x, False), x)


def test_drop_path_follows_the_depth_and_the_progress(small):
    net = small("nasnet", keep_path=0.6, cells=(2, 1))
    probabilities = [block.module.keep_path for block in net.arch.chain(Numerics(), 0.5)[1:-1]]
    np.testing.assert_allclose(probabilities, [1 - i / 4 * 0.4 * 0.5 for i in (1, 2, 3, 4)])
    assert [block.module.keep_path for block in net.arch.chain(Numerics(), 1.0)[1:-1]][-1] == pytest.approx(0.6)


def test_training_with_drop_path(small, noisy_variables):
    """At progress 0 nothing is dropped; later images differ from key to key, and evaluation never does."""
    net, plain = small("nasnet", keep_path=0.3, cells=(1,)), small("nasnet", cells=(1,))
    variables = noisy_variables(net, (8, 8, 3))
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)

    def trained(progress, key):
        (logits, _), _ = net.apply(variables, images, True, progress, rngs={"drop_path": key}, mutable=["batch_stats"])
        return logits

    run = jax.jit(trained, compiler_options=QUICK)
    key, other = jax.random.split(jax.random.key(0))
    whole = jax.jit(lambda: plain.apply(variables, images, True, mutable=["batch_stats"])[0][0], compiler_options=QUICK)
    start = np.asarray(run(jnp.float32(0), key))
    np.testing.assert_allclose(start, whole(), rtol=1e-3, atol=1e-4)
    late = np.asarray(run(jnp.float32(1), key))
    np.testing.assert_array_equal(late, run(jnp.float32(1), key))
    assert np.abs(late - start).max() > 1e-2
    assert np.abs(late - run(jnp.float32(1), other)).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": ()}, r"cells is \(\), must be at least 1"),
        ({"cells": (1, 0)}, r"cells is \(1, 0\), must be at least 1"),
        ({"keep_path": 0.0}, "keep_path is 0.0, must be above 0 and at most 1"),
    ],
)
def test_what_no_nasnet_has(options, message):
    with pytest.raises(ValueError, match=message):
        nasnet.nasnet(**options)


def test_filters_of_the_stem_s_cells():
    with pytest.raises(ValueError, match="filters is 42, must be a multiple of 4"):
        nasnet.nasnet_mobile(filters=42)
