"""A small dynamic network written straight in TensorFlow: the device's run time is tried on files our exporter never saw.

Three steps that pass on one tensor, then two, and `large`, which answers alone. `python tests/export/hand_made.py` writes the
files in `data/` anew, and beside them what TensorFlow itself answers.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dynnas_jax.export import device_folder, flatbuffer

DATA = Path(__file__).with_name("data")

SIDE, CLASSES = 8, 4
LABELS = ["ant", "bee", "cat", "dog"]
STEPS = ["first", "second", "third"]
SHAPES = {
    "first": {"image": (1, SIDE, SIDE, 3)},
    "second": {"features": (1, SIDE, SIDE, 6)},
    "third": {"features": (1, SIDE, SIDE, 6), "context": (1, 6)},
    "large": {"image": (1, SIDE, SIDE, 3)},
}
OUTPUTS = {
    "first": {"logits": (1, CLASSES), "features": (1, SIDE, SIDE, 6)},
    "second": {"logits": (1, CLASSES), "features": (1, SIDE, SIDE, 6), "context": (1, 6)},
    "third": {"logits": (1, CLASSES)},
    "large": {"logits": (1, CLASSES)},
}
PIXELS = SIDE * SIDE
MACS = {
    "first": PIXELS * 27 * 6 + 6 * CLASSES,
    "second": PIXELS * 54 * 6 + 6 * CLASSES,
    "third": PIXELS * 54 * 6 + 12 * CLASSES,
    "large": PIXELS * 27 * 12 + 12 * CLASSES,
}
FILES = {
    ("one_file", "fp32"): dict.fromkeys(SHAPES, "model_fp32.tflite"),
    ("one_file", "int8"): dict.fromkeys(SHAPES, "model_int8.tflite"),
    ("own_files", "int8"): {name: f"{name}_int8.tflite" for name in SHAPES},
}
TARGETS = {"one_file": "x86", "own_files": "edgetpu"}
THRESHOLDS = (0.985, 0.97)  # 20, 11 and 9 of the images stop at the three steps


class HandMade(NamedTuple):
    """An export folder of each kind, and what TensorFlow answers."""

    one_file: Path  # as for hosts that choose between signatures: fp32 and int8
    own_files: Path  # as for the Edge TPU: int8
    images: np.ndarray  # uint8[40, SIDE, SIDE, 3]
    logits: dict[str, np.ndarray]  # by net: float32[40, CLASSES]


def images(count: int = 40) -> np.ndarray:
    """Flat colours with some noise: they differ enough for different answers."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 255, (count, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 40, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def metadata(kind: str, precision: str) -> dict:
    """What the exporter says of such nets."""
    signatures = {
        name: {
            side: {key: list(shape) for key, shape in shapes[name].items()}
            for side, shapes in (("inputs", SHAPES), ("outputs", OUTPUTS))
        }
        for name in SHAPES
    }
    return {
        "version": 2,
        "precision": precision,
        "target": TARGETS[kind],
        "labels": LABELS,
        "image_shape": [SIDE, SIDE, 3],
        "steps": STEPS,
        "whole": ["large"],
        "files": FILES[kind, precision],
        "signatures": signatures,
        "macs": MACS,
        "cost": np.cumsum([MACS[step] for step in STEPS]).tolist(),
        "policy": {"rule": "first_above", "score": "max_softmax"},
        "thresholds": list(THRESHOLDS),
    }


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory) -> HandMade:
    """The export folders; copy one before changing it."""
    folder = tmp_path_factory.mktemp("hand_made")
    for kind in TARGETS:
        shutil.copytree(DATA / kind, folder / kind)
        device_folder.write(folder / kind)
    with np.load(DATA / "answers.npz") as answers:
        return HandMade(folder / "one_file", folder / "own_files", images(), dict(answers))


def tell(path: Path, **changes) -> None:
    """Changes the metadata of a file."""
    told = {**flatbuffer.read_metadata(path), **changes}
    path.write_bytes(flatbuffer.pack_metadata(path, json.loads(json.dumps(told))))


def _module():
    """The nets, closed over random weights."""
    import tensorflow as tf

    rng = np.random.default_rng(1)
    weights = {
        name: tf.Variable((rng.normal(size=shape) * scale).astype(np.float32))
        for name, (shape, scale) in {
            "stem": ((3, 3, 3, 6), 0.3),
            "body": ((3, 3, 6, 6), 0.3),
            "first": ((6, CLASSES), 2.0),
            "second": ((6, CLASSES), 4.0),
            "third": ((12, CLASSES), 3.0),
            "wide": ((3, 3, 3, 12), 0.3),
            "large": ((12, CLASSES), 2.0),
        }.items()
    }
    conv = lambda x, name: tf.nn.relu6(tf.nn.conv2d(x, weights[name], 1, "SAME"))  # noqa: E731
    pooled = lambda x: tf.reshape(tf.nn.avg_pool2d(x, SIDE, SIDE, "VALID"), (1, x.shape[-1]))  # noqa: E731
    centred = lambda x: x * (1 / 64) - 2.0  # noqa: E731

    def first(image):
        features = conv(centred(image), "stem")
        return {"logits": pooled(features) @ weights["first"], "features": features}

    def second(features):
        features = conv(features, "body")
        context = pooled(features)
        return {"logits": context @ weights["second"], "features": features, "context": context}

    def third(features, context):
        both = tf.concat([pooled(conv(features, "body")), context], -1)
        return {"logits": both @ weights["third"]}

    def large(image):
        return {"logits": pooled(conv(centred(image), "wide")) @ weights["large"]}

    module = tf.Module()
    module.weights = list(weights.values())
    module.functions = {
        function.__name__: tf.function(function).get_concrete_function(
            **{name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in SHAPES[function.__name__].items()}
        )
        for function in (first, second, third, large)
    }
    return module


def _calibration(functions: dict, pictures: np.ndarray, names: list):
    """Real inputs of each signature, as the converter asks for them."""
    import tensorflow as tf

    for image in pictures:
        known = {"image": tf.constant(image[None].astype(np.float32))}
        for name in [*STEPS, "large"]:
            inputs = {key: known[key] for key in SHAPES[name]}
            if name in names:
                yield name, {key: value.numpy() for key, value in inputs.items()}
            known.update(functions[name](**inputs))


def _convert(saved: str, module, names: list, precision: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=names)
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _calibration(module.functions, images()[:8], names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def make(folder: Path = DATA) -> None:
    """Writes the files and the answers."""
    import tempfile

    import tensorflow as tf

    module = _module()
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(module, saved, signatures=module.functions)
        for (kind, precision), files in FILES.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for file in dict.fromkeys(files.values()):
                path = folder / kind / file
                path.write_bytes(_convert(saved, module, [name for name in files if files[name] == file], precision))
                path.write_bytes(flatbuffer.pack_metadata(path, metadata(kind, precision)))
    answers = {name: [] for name in SHAPES}
    for image in images():
        known = {"image": tf.constant(image[None].astype(np.float32))}
        for name in SHAPES:
            known.update(module.functions[name](**{key: known[key] for key in SHAPES[name]}))
            answers[name].append(known["logits"].numpy()[0])
    np.savez_compressed(folder / "answers.npz", **{name: np.stack(rows) for name, rows in answers.items()})


if __name__ == "__main__":
    make()
