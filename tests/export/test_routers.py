"""Exported routers, TFLite and ONNX, against JAX's scores: one that sees the stem alone, and one beside little's head.

The learned router stands in little's file whether it was trained with the nets or afterwards: its variables are alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.dynamic.routers import STATISTICS, Router
from dynnas_jax.export import dynamic, engines, functions

SHAPE, CLASSES, CHANNELS = (8, 8, 1), 10, 8
ROUTERS = {
    "stem": Router("difficulty", "stem", statistics=tuple(STATISTICS)),
    "learned": Router("learned", "little", units=4),
}


def drawn(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def router_variables(router):
    if router.name == "learned":
        hidden, out = {"kernel": drawn(1, CHANNELS, 4), "bias": drawn(2, 4)}, {"kernel": drawn(3, 4, 1)}
        return {"hidden": hidden, "out": out | {"bias": drawn(4, 1)}}
    sizes = {"mean": CHANNELS, "variance": CHANNELS, "entropy": 2, "norm": 2}
    return {
        "kernels": {name: drawn(i, size, 1) for i, (name, size) in enumerate(sizes.items())},
        "bias": drawn(9, 1) - 2,
    }


def stem(variables, images):
    x = jax.lax.conv_general_dilated(
        images / 128 - 1, variables["stem"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu6(x)


def answer(variables, which, features):
    return features.mean(axis=(1, 2)) @ variables[which]


def network_of(router):
    """(the network, the score of an image float32[1, h, w, c] in JAX)."""
    variables = {
        "stem": drawn(11, 3, 3, 1, CHANNELS),
        **{name: 3 * drawn(12 + i, CHANNELS, CLASSES) for i, name in enumerate(("little", "big"))},
        "router": router_variables(router),
    }

    def score(v, features):
        return router.score(v["router"], features, None)

    def little_with_stem(v, images):
        features = stem(v, images)
        return answer(v, "little", features), score(v, features), features

    def first(v, images):
        features = stem(v, images)
        return score(v, features), features

    def alone(which):
        return functions.whole(lambda x: answer(variables, which, stem(variables, x)), SHAPE)

    if router.place == "stem":
        steps = {
            f"{which}_after_stem": lambda v, x, which=which: (answer(v, which, x), None, None)
            for which in ("little", "big")
        }
        names, whole = ("router", "stem"), {which: alone(which) for which in ("little", "big")}
        network = functions.routed(first, steps, variables, SHAPE, names=names, whole=whole)
    else:
        big = lambda v, x: (answer(v, "big", x), None, None)  # noqa: E731
        steps, whole = {"little": little_with_stem, "big_after_stem": big}, {"big": alone("big")}
        network = functions.from_steps(steps, variables, SHAPE, carries=("stem",), own_score=True, whole=whole)
    return network, jax.jit(lambda image: score(variables, stem(variables, image))[0])


@pytest.fixture(scope="module", params=ROUTERS)
def exported(request, tmp_path_factory):
    """(the router, its scores of some images in JAX, those images, the folder, the facts)."""
    router, images = ROUTERS[request.param], np.random.default_rng(0).integers(0, 256, (24, *SHAPE)).astype(np.uint8)
    images = (images * np.linspace(0.1, 1, 24)[:, None, None, None]).astype(np.uint8)
    network, score = network_of(router)
    counted = {
        name: macs.macs(one.call, {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in one.shapes.items()})
        for name, one in network.functions.items()
    }
    promise = dynamic.Promise(tuple(map(str, range(CLASSES))), (1, 2), counted, (0.5,), "own")
    folder = tmp_path_factory.mktemp("routed") / "x86"
    with dynamic.all_or_nothing(folder) as unchecked:
        options = {"target": "x86", "precisions": ("fp32", "int8"), "onnx_too": True}
        facts = dynamic.export(network, promise, unchecked, calibration=images, **options)
    exact = np.asarray([score(jnp.asarray(image[None], jnp.float32)) for image in images])
    return router, exact, images, folder, facts


def scores(path, name, images):
    """What onnxruntime, or LiteRT through the engine of this package, makes of the images."""
    feeds = [{"image": image[None].astype(np.float32)} for image in images]
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return np.asarray([session.run(["score"], feed)[0].item() for feed in feeds])
    model = engines.load(path)[name]
    return np.asarray([model.run({"image": image[None]})["score"].item() for image in images])


@pytest.mark.parametrize("engine", ["", "_onnx"])
def test_the_scores_are_those_of_jax(exported, engine):
    router, exact, images, folder, facts = exported
    name = "router" if router.place == "stem" else "little"
    assert np.ptp(exact) > 0.1  # or equal scores would prove nothing
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.1)):
        found = scores(folder / facts[f"{name}_{precision}{engine}"]["path"], name, images)
        np.testing.assert_allclose(found, exact, atol=tolerance)


def test_the_router_in_front_is_a_file_of_its_own_and_the_other_in_little_s(exported):
    router, _, _, _, facts = exported
    onnx = {fact["function"] for key, fact in facts.items() if key.endswith("_onnx")}
    front = {"router", "little_after_stem", "big_after_stem", "little", "big"}
    assert onnx == (front if router.place == "stem" else {"little", "big_after_stem", "big"})
