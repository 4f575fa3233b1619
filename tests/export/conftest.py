"""One small pair of nets with random weights, exported once for all tests of this folder."""

import warnings
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.export import device_folder, dynamic, functions, metadata

SIZE, CLASSES, STEM = 16, 5, 8
THRESHOLD = 0.9  # about half of the images lie above it
LABELS = ["ant", "bee", "cat", "dog", "elk"]


def pooled(x):
    """Mean over the whole image, [b, 1, 1, c] (Flax's own divides by an integer, which strict promotion forbids)."""
    return nn.pooling.pool(x, 0.0, jax.lax.add, x.shape[1:3], x.shape[1:3], "VALID") / jnp.float32(
        x.shape[1] * x.shape[2]
    )


class Stem(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = images * jnp.float32(1 / 64) - jnp.float32(2)
        x = nn.Conv(STEM, (3, 3), strides=2, use_bias=False)(x)
        return nn.hard_swish(nn.BatchNorm(use_running_average=True)(x))


class Body(nn.Module):
    """Inverted residual with squeeze-and-excitation, head convolution, pooling, classifier."""

    hidden: int
    act: str

    @nn.compact
    def __call__(self, x):
        act = getattr(nn, self.act)
        norm = lambda: nn.BatchNorm(use_running_average=True)  # noqa: E731
        y = act(norm()(nn.Conv(self.hidden, (1, 1), use_bias=False)(x)))
        y = act(norm()(nn.Conv(self.hidden, (3, 3), feature_group_count=self.hidden, use_bias=False)(y)))
        s = pooled(y)
        y = y * nn.hard_sigmoid(nn.Conv(self.hidden, (1, 1))(nn.relu(nn.Conv(8, (1, 1))(s))))
        x = x + norm()(nn.Conv(STEM, (1, 1), use_bias=False)(y))
        x = act(norm()(nn.Conv(24, (1, 1), use_bias=False)(x)))
        x = pooled(x)
        return nn.Dense(CLASSES, kernel_init=nn.initializers.normal(3.0))(x.reshape(x.shape[0], -1))


class Pair(NamedTuple):
    """The nets as JAX functions, the export, and images to try them on."""

    little: object
    big_after_stem: object
    big: object
    images: np.ndarray  # uint8[n, SIZE, SIZE, 3]
    network: functions.Network
    promise: dynamic.Promise
    folder: Path  # one file a precision, ONNX files too
    facts: dict

    @property
    def macs(self):
        return self.promise.macs


def random_variables(net, key, x):
    """Initial weights, and moments of the norms that are not 0 and 1."""
    variables = net.init(key, x)
    leaves, tree = jax.tree.flatten(variables["batch_stats"])
    keys = jax.random.split(key, len(leaves))
    moments = [jax.random.uniform(k, leaf.shape, minval=0.5, maxval=1.0) for k, leaf in zip(keys, leaves, strict=True)]
    return {"params": variables["params"], "batch_stats": jax.tree.unflatten(tree, moments)}


def body_macs(hidden: int) -> int:
    """By hand: expand, depthwise, squeeze, excite, project, head convolution, classifier; at half the resolution."""
    pixels = (SIZE // 2) ** 2
    spatial = pixels * (STEM * hidden + 9 * hidden + hidden * STEM + STEM * 24)
    return spatial + hidden * 8 + 8 * hidden + 24 * CLASSES


STEM_MACS = (SIZE // 2) ** 2 * 9 * 3 * STEM


def some_images(count: int) -> np.ndarray:
    """Flat colours with some noise: they differ enough for different answers."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 255, (count, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 40, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return some_images(40)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, images) -> Pair:
    stem, small, large = Stem(), Body(16, "relu6"), Body(32, "swish")
    image = jnp.asarray(images[:1], jnp.float32)
    stem_variables = random_variables(stem, jax.random.key(0), image)
    features = stem.apply(stem_variables, image)
    small_variables = random_variables(small, jax.random.key(1), features)
    large_variables = random_variables(large, jax.random.key(2), features)

    @jax.jit
    def little(x):
        features = stem.apply(stem_variables, x)
        return small.apply(small_variables, features), features

    @jax.jit
    def big_after_stem(features):
        return large.apply(large_variables, features)

    @jax.jit
    def big(x):
        return large.apply(large_variables, stem.apply(stem_variables, x))

    macs = {
        "little": STEM_MACS + body_macs(16),
        "big_after_stem": body_macs(32),
        "big": STEM_MACS + body_macs(32),
    }
    network = functions.Network(
        {
            "little": functions.Function(
                lambda inputs: dict(zip(("logits", "stem"), little(inputs["image"]), strict=True)),
                {"image": (1, SIZE, SIZE, 3)},
            ),
            "big_after_stem": functions.Function(
                lambda inputs: {"logits": big_after_stem(inputs["stem"])}, {"stem": features.shape}
            ),
        },
        {"big": functions.whole(big, (SIZE, SIZE, 3))},
    )
    cost = (macs["little"], macs["little"] + macs["big_after_stem"])
    promise = dynamic.Promise(tuple(LABELS), cost, macs, (THRESHOLD,))
    folder = tmp_path_factory.mktemp("export") / "x86"
    with dynamic.all_or_nothing(folder) as unchecked:
        options = {"precisions": metadata.PRECISIONS, "onnx_too": True}
        facts = dynamic.export(network, promise, unchecked, target="x86", calibration=images, **options)
        device_folder.write(unchecked)
    return Pair(little, big_after_stem, big, images, network, promise, folder, facts)


def converted(hswish: bool, per_tensor: bool, folder: Path) -> bytes:
    """A net of 8x8 images that TensorFlow itself made: full int8, one signature; hard-swish behind the first convolution."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    first, depthwise, pointwise, dense = (
        (generator.normal(size=shape) / np.prod(shape[:-1]) ** 0.5).astype(np.float32)
        for shape in ((3, 3, 3, 8), (3, 3, 8, 1), (1, 1, 8, 16), (16, 5))
    )

    def net(images):
        y = tf.nn.conv2d(images / 128.0 - 1.0, first, 1, "SAME")
        y = y * tf.nn.relu6(y + 3.0) / 6.0 if hswish else tf.nn.relu6(y)
        y = tf.nn.relu6(tf.nn.depthwise_conv2d(y, depthwise, (1, 2, 2, 1), "SAME"))
        y = tf.nn.relu6(tf.nn.conv2d(y, pointwise, 1, "SAME"))
        return {"logits": tf.reshape(tf.nn.avg_pool2d(y, 4, 4, "VALID"), (1, 16)) @ dense}

    module = tf.Module()
    module.net = tf.function(net, input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32, name="image")])
    tf.saved_model.save(module, str(folder), signatures={"net": module.net.get_concrete_function()})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = np.random.default_rng(1).integers(0, 256, (16, 1, 8, 8, 3)).astype(np.float32)
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = per_tensor
    return converter.convert()


@pytest.fixture(scope="session")
def int8_file(tmp_path_factory) -> Path:
    """What the Edge TPU runs whole: MUL, SUB, CONV_2D, DEPTHWISE_CONV_2D, CONV_2D, AVERAGE_POOL_2D, FULLY_CONNECTED."""
    folder = tmp_path_factory.mktemp("int8_file")
    with warnings.catch_warnings(action="ignore"):
        (folder / "net.tflite").write_bytes(converted(False, True, folder / "saved"))
    return folder / "net.tflite"


@pytest.fixture(scope="session")
def unmapped_file(tmp_path_factory) -> Path:
    """The same with HARD_SWISH as operator 3, and a dense layer (operator 7) with a scale per channel."""
    folder = tmp_path_factory.mktemp("unmapped_file")
    with warnings.catch_warnings(action="ignore"):
        (folder / "net.tflite").write_bytes(converted(True, False, folder / "saved"))
    return folder / "net.tflite"


@pytest.fixture
def edited(tmp_path):
    """edited(path, change) -> a copy of the file at `path` whose tree of schema objects `change` has worked on."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def edit(path, change, name="edited.tflite"):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
        change(model)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        (tmp_path / name).write_bytes(builder.Output())
        return tmp_path / name

    return edit
