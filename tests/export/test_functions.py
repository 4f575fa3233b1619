"""Networks as functions of named arrays: what they compute is what their steps compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.export import functions


def first(variables, images):
    mean = images.mean(axis=(1, 2)) * variables["scale"]
    return mean, mean[:, 0], {"half": images / 2.0, "all": (mean, mean + 1.0)}


def second(variables, carry):
    logits = carry["half"].sum(axis=(1, 2)) - carry["all"][1] * variables["scale"]
    return logits, logits[:, 1], [logits]


def third(variables, carry):
    return carry[0] * variables["scale"], carry[0][:, 2], None


VARIABLES = {"scale": jnp.float32(3)}
STEPS = {"one": first, "two": second, "three": third}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)


def test_steps_by_name_equal_the_steps_one_after_the_other():
    network = functions.from_steps(STEPS, VARIABLES, (5, 5, 3), own_score=True)
    assert network.image_shape == (5, 5, 3)
    shapes = [function.shapes for function in network.functions.values()]
    halves = {"after_one_1": (1, 3), "after_one_2": (1, 5, 5, 3)}  # nobody reads after_one_0
    assert shapes == [{"image": (1, 5, 5, 3)}, halves, {"after_two": (1, 3)}]
    inputs = functions.inputs(network, IMAGES)
    carry = IMAGES.astype(np.float32)
    for name, step in STEPS.items():
        logits, score, carry = step(VARIABLES, carry)
        found = functions.outputs(network.steps[name], inputs[name])
        np.testing.assert_allclose(np.concatenate([row["logits"] for row in found]), logits, rtol=1e-5)
        if name != "three":
            np.testing.assert_allclose(np.concatenate([row["score"] for row in found]), score, rtol=1e-5)
    assert set(found[0]) == {"logits"}  # the last passes nothing on, and nobody asks how sure it is
    assert set(functions.outputs(network.steps["one"], inputs["one"])[0]) == {"logits", "score", *halves}


def test_inputs_and_outputs_are_what_both_give_alone():
    whole = {"alone": functions.whole(lambda images: images.sum(axis=(1, 2)), (5, 5, 3))}
    network = functions.from_steps(STEPS, VARIABLES, (5, 5, 3), own_score=True, whole=whole)
    inputs, found = functions.inputs_and_outputs(network, IMAGES, 3)
    for name, function in network.functions.items():
        for key, values in functions.inputs(network, IMAGES)[name].items():
            np.testing.assert_array_equal(inputs[name][key], values)
            assert len(values) == len(IMAGES)
        alone = functions.outputs(function, inputs[name], 3)
        assert [sorted(row) for row in found[name]] == [sorted(row) for row in alone]
        assert len(alone) == 3
        for row, expected in zip(found[name], alone, strict=True):
            for key, value in expected.items():
                np.testing.assert_array_equal(row[key], value)


def test_what_nobody_reads_is_not_asked_of_all_images():
    asked = []

    def last(variables, carry):
        jax.debug.callback(lambda: asked.append(None))
        return carry * variables["scale"], None

    router = lambda v, x: (x.mean(axis=(1, 2, 3)), x.sum(axis=(1, 2)))  # noqa: E731
    network = functions.routed(
        router, {"low": last, "high": last}, VARIABLES, (5, 5, 3), names=("gate", "stem"), whole={}
    )
    _, found = functions.inputs_and_outputs(network, IMAGES, 1)
    jax.effects_barrier()
    assert [len(rows) for rows in found.values()] == [1, 1, 1]
    assert len(asked) == 2  # once each


def test_an_opened_function_shares_arrays_and_makes_none_on_the_way():
    kernel, bias = jnp.arange(24.0).reshape(2, 12), jnp.arange(4.0)

    def part(rows):
        """Reads some of the kernel, a scale made of it, and the bias for every pixel."""

        def call(inputs):
            scale = jax.lax.rsqrt(jnp.square(kernel).sum() + 1.0)
            return {"logits": inputs["image"] @ (kernel[:, rows] * scale) + jnp.broadcast_to(bias, (5, 5, 4))}

        return call

    shape = {"image": (5, 5, 2)}
    parts = [functions.Function(part(slice(start, start + 4)), shape) for start in (0, 8)]
    image = np.random.default_rng(0).uniform(size=shape["image"]).astype(np.float32)
    opened = [functions.opened(function) for function in parts]
    for function, own in zip(parts, opened, strict=True):
        assert own.gives == ("logits",)
        found = own.call(own.arrays, {"image": image})["logits"]
        np.testing.assert_allclose(found, function.call({"image": image})["logits"], rtol=1e-6)
        assert sorted(array.shape for array in own.arrays) == [(2, 4), (4,)]  # a slice, and a bias that stays small
        left = jax.make_jaxpr(own.call)(own.arrays, {"image": image}).jaxpr
        assert {equation.primitive.name for equation in left.eqns} == {"dot_general", "broadcast_in_dim", "add"}
    assert all(any(array is bias for array in own.arrays) for own in opened)


def test_a_router_in_front_of_two_steps():
    router = lambda v, x: (x.mean(axis=(1, 2, 3)) / 255, x / 2.0)  # noqa: E731
    steps = {
        "low": lambda v, x: (x.sum(axis=(1, 2)), None),
        "high": lambda v, x: (x.max(axis=(1, 2)) * v["scale"], None),
    }
    whole = {"alone": functions.whole(lambda images: images.sum(axis=(1, 2)), (5, 5, 3))}
    network = functions.routed(router, steps, VARIABLES, (5, 5, 3), names=("gate", "stem"), whole=whole)
    assert list(network.functions) == ["gate", "low", "high", "alone"]
    assert network.image_shape == (5, 5, 3)
    inputs = functions.inputs(network, IMAGES)
    assert {name: list(values) for name, values in inputs.items()} == {
        "gate": ["image"],
        "low": ["stem"],
        "high": ["stem"],
        "alone": ["image"],
    }
    found = {name: functions.outputs(function, inputs[name]) for name, function in network.functions.items()}
    images = IMAGES.astype(np.float64)
    np.testing.assert_allclose([row["score"][0] for row in found["gate"]], images.mean(axis=(1, 2, 3)) / 255, rtol=1e-5)
    np.testing.assert_allclose([row["logits"][0] for row in found["low"]], images.sum(axis=(1, 2)) / 2, rtol=1e-5)
    np.testing.assert_allclose([row["logits"][0] for row in found["high"]], images.max(axis=(1, 2)) * 1.5, rtol=1e-5)


def test_carries_get_the_names_they_are_given():
    whole = {"alone": functions.whole(lambda images: images.sum(axis=(1, 2)), (5, 5, 3))}
    network = functions.from_steps(STEPS, VARIABLES, (5, 5, 3), carries=("stem", "neck"), whole=whole)
    assert list(network.functions) == ["one", "two", "three", "alone"]
    assert list(network.steps["two"].shapes) == ["stem_1", "stem_2"]
    assert list(network.steps["three"].shapes) == ["neck"]
    outputs = jax.eval_shape(
        network.steps["two"].call, {k: jnp.zeros(s) for k, s in network.steps["two"].shapes.items()}
    )
    assert set(outputs) == {"logits", "neck"}
    with pytest.raises(ValueError, match="3 steps pass on 2 carries, not 1: \\['stem'\\]"):
        functions.from_steps(STEPS, VARIABLES, (5, 5, 3), carries=("stem",))


def test_rows_are_single_ones_in_order():
    rows = functions.rows({"a": np.arange(3), "b": np.arange(3) + 10}, 2)
    assert rows == [{"a": 0, "b": 10}, {"a": 1, "b": 11}]


def test_a_single_net_has_one_step():
    network = functions.single(lambda images: images.mean(axis=(1, 2)), (5, 5, 3))
    assert list(network.functions) == ["net"]
    (row,) = functions.outputs(network.steps["net"], {"image": IMAGES}, 1)
    np.testing.assert_allclose(row["logits"][0], IMAGES[0].astype(np.float64).mean(axis=(0, 1)), rtol=1e-6)


def looks_only(variables, images):
    mean = images.mean(axis=(1, 2))
    return mean, mean[:, 0], images


def hands_on(variables, images):
    most = images.max(axis=(1, 2)) * variables["scale"]
    return most, most[:, 0], (images, most, images)


def looks_again(variables, carry):
    image, most, same = carry
    logits = (image + same).sum(axis=(1, 2)) - most
    return logits, logits[:, 0], None


def test_what_a_step_passes_on_as_it_came_is_no_output():
    """The image is given to every step that reads it, by its own name."""
    steps = {"one": looks_only, "two": hands_on, "three": looks_again}
    network = functions.from_steps(steps, VARIABLES, (5, 5, 3))
    image = {"image": (1, 5, 5, 3)}
    assert [f.shapes for f in network.functions.values()] == [image, image, {**image, "after_two_1": (1, 3)}]
    inputs, carry = functions.inputs(network, IMAGES), IMAGES.astype(np.float32)
    outputs = [set(), {"after_two_1"}, set()]
    for (name, step), others in zip(steps.items(), outputs, strict=True):
        logits, _, carry = step(VARIABLES, carry)
        found = functions.outputs(network.steps[name], inputs[name])
        assert set(found[0]) == {"logits", *others}
        np.testing.assert_allclose(np.concatenate([row["logits"] for row in found]), logits, rtol=1e-5)


def test_what_an_early_step_made_goes_past_a_later_one():
    def passes(variables, carry):
        return carry[:, 0] * 1.0, carry[:, 0, 0], carry

    def makes(variables, images):
        return images.mean(axis=(1, 2)), images[:, 0, 0, 0], images[:, 0]

    last = lambda variables, row: (row.sum(axis=1), row[:, 0, 0], None)  # noqa: E731
    network = functions.from_steps({"one": makes, "two": passes, "three": last}, VARIABLES, (5, 5, 3))
    assert [list(function.shapes) for function in network.functions.values()] == [
        ["image"],
        ["after_one"],
        ["after_one"],
    ]
    (row,) = functions.outputs(network.steps["three"], functions.inputs(network, IMAGES[:1])["three"])
    np.testing.assert_allclose(row["logits"][0], IMAGES[0, 0].astype(np.float32).sum(axis=0), rtol=1e-6)
