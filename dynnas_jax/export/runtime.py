"""Runs exported classifiers on the device: numpy and ai-edge-litert, nothing else.

A copy of this module lies in every export folder, beside `flatbuffer.py` and `confidence.py`:

    import numpy
    from PIL import Image
    from runtime import DynamicClassifier

    classifier = DynamicClassifier(".", precision="int8")
    print(classifier.predict(numpy.asarray(Image.open("photo.png").convert("RGB").resize((32, 32)))))
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter

if __package__:
    from dynnas_jax import confidence
    from dynnas_jax.export import flatbuffer
else:  # lying alone in an export folder
    import confidence
    import flatbuffer


class Prediction(NamedTuple):
    """The answer for one image."""

    label: str
    class_index: int
    probability: float  # of that class, by the net that answered
    score: float  # the little net's confidence, in [0, 1]: what the threshold judged
    choice: int  # 0: the little net answered; 1: the big one
    latency_ms: float  # the whole decision, from image to answer


class Latency(NamedTuple):
    """Milliseconds of one call, over the runs of a benchmark."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    mean_ms: float


class _Scale(NamedTuple):
    """real = scale * (stored - zero_point); scale 0 for a float tensor."""

    scale: float
    zero_point: int

    def quantise(self, values: np.ndarray) -> np.ndarray:
        stored = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(stored, -128, 127).astype(np.int8)

    def dequantise(self, stored: np.ndarray) -> np.ndarray:
        return (stored.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)

    def equals(self, other: "_Scale") -> bool:
        """Whether stored values mean the same in both: to less than 1/80 of a step at the ends of int8."""
        return self.zero_point == other.zero_point and math.isclose(self.scale, other.scale, rel_tol=1e-4)


class Model:
    """One TFLite file with one input and named outputs, float32 or int8."""

    def __init__(self, path: str | Path, threads: int = 1):
        """Args: path: a TFLite file; threads: of LiteRT. Raises: ValueError if the file is absent or damaged."""
        flatbuffer.load(path)  # LiteRT itself may crash on a truncated file
        if threads < 1:
            raise ValueError(f"threads={threads}: LiteRT needs at least 1")
        self.path = Path(path)
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        inputs, self._outputs = _signature(self._interpreter)
        if len(inputs) != 1:
            raise ValueError(f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}): this runtime gives one")
        (self._input,) = inputs.values()
        self.input_shape = tuple(int(size) for size in self._input["shape"])  # [1, ...]
        self.input_scale = _Scale(*self._input["quantization"])
        self.output_shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in self._outputs.items()}
        self.output_scales = {name: _Scale(*tensor["quantization"]) for name, tensor in self._outputs.items()}
        if self.input_scale.scale:
            self._stored_byte = self.input_scale.quantise(np.arange(256))  # uint8 value -> stored value

    def run(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Real-valued outputs by name, float32, for one input.

        Args: values: uint8 or float32 of `input_shape`, or without its leading 1. An image lies in [0, 255].
        Raises: ValueError for another shape or dtype.
        """
        stored = self.invoke(self.store(values))
        return {name: self.real(name, value) for name, value in stored.items()}

    def store(self, values: np.ndarray) -> np.ndarray:
        """uint8 or float32 values as the file's input tensor: float32, or int8 by its scale."""
        if values.shape not in (self.input_shape, self.input_shape[1:]):
            raise ValueError(
                f"{self.path.name} takes {list(self.input_shape[1:])}, not {list(values.shape)}: resize first"
            )
        values = values.reshape(self.input_shape)
        if values.dtype not in (np.uint8, np.float32):
            raise ValueError(f"{self.path.name} takes uint8 or float32 values, not {values.dtype}: convert them first")
        if not self.input_scale.scale:
            return values.astype(np.float32, copy=False)
        return self._stored_byte[values] if values.dtype == np.uint8 else self.input_scale.quantise(values)

    def invoke(self, stored: np.ndarray) -> dict[str, np.ndarray]:
        """Stored outputs by name for a stored input of `input_shape` and the file's dtype."""
        self._interpreter.set_tensor(self._input["index"], stored)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(tensor["index"]) for name, tensor in self._outputs.items()}

    def real(self, name: str, stored: np.ndarray) -> np.ndarray:
        """A stored output as float32."""
        scale = self.output_scales[name]
        return scale.dequantise(stored) if scale.scale else stored


def _signature(interpreter: Interpreter) -> tuple[dict, dict]:
    """Tensor details by name, inputs and outputs. The runner must not outlive this call: it would block `invoke`."""
    runner = interpreter.get_signature_runner()
    return runner.get_input_details(), runner.get_output_details()


class DynamicClassifier:
    """A little net that answers the images it is sure of, and a big one, grown on the same stem, for the others."""

    def __init__(self, folder: str | Path, precision: str = "fp32", threads: int = 1):
        """Loads `little_{precision}.tflite` and `big_after_stem_{precision}.tflite`.

        Args: folder: an export folder; precision: "fp32" or "int8"; threads: of LiteRT.
        Raises: ValueError if a file or its metadata is absent, damaged, or they do not fit each other.
        """
        little_path = Path(folder) / f"little_{precision}.tflite"
        self.little = Model(little_path, threads)
        self.big = Model(Path(folder) / f"big_after_stem_{precision}.tflite", threads)
        stem_shape = self.little.output_shapes.get("stem")
        if stem_shape != self.big.input_shape:
            raise ValueError(f"{folder}: little's stem is {stem_shape}, big takes {self.big.input_shape}: not one pair")
        self.metadata = flatbuffer.read_metadata(little_path)
        self.labels: list[str] = self.metadata["labels"]
        self.cost: list[int] = self.metadata["cost"]  # all MACs spent when choice s answers
        self._score = confidence.SCORES[self.metadata["policy"]["score"]]
        self.threshold = self.metadata["thresholds"][0]
        self._pass_on = _passing(self.little.output_scales["stem"], self.big.input_scale)

    @property
    def threshold(self) -> float:
        """The little net answers where its score is strictly above this; may be changed between predictions."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if math.isnan(value):
            raise ValueError(f"threshold {value} is no number: scores lie in [0, 1]")
        self._threshold = float(value)

    def predict(self, image: np.ndarray) -> Prediction:
        """Classifies one image, uint8[height, width, channels] of the size the nets were exported for.

        Raises: ValueError for another size or dtype.
        """
        start = time.perf_counter()
        if image.dtype != np.uint8:
            raise ValueError(f"images are uint8 in [0, 255], not {image.dtype}: convert them first")
        stored = self.little.invoke(self.little.store(image))
        logits = self.little.real("logits", stored["logits"])[0]
        score = float(self._score(logits))
        choice = 0 if score > self._threshold else 1
        if choice == 1:
            answer = self.big.invoke(self._pass_on(stored["stem"]))["logits"]
            logits = self.big.real("logits", answer)[0]
        class_index = int(logits.argmax())
        probability = float(confidence.max_softmax(logits))
        latency_ms = (time.perf_counter() - start) * 1e3
        return Prediction(self.labels[class_index], class_index, probability, score, choice, latency_ms)


def _passing(given: _Scale, taken: _Scale) -> Callable[[np.ndarray], np.ndarray]:
    """The stem's stored tensor, from the little net's scale to the big one's."""
    if given.equals(taken):
        return lambda stored: stored
    stored = np.arange(256, dtype=np.uint8)
    table = taken.quantise(given.dequantise(stored.view(np.int8)))  # by the stored value's bit pattern
    return lambda stored: table[stored.view(np.uint8)]


def bench(target: Model | Callable, inputs: Sequence[np.ndarray], *, runs: int = 1000, warm_up: int = 100) -> Latency:
    """Times single calls, one input after the other and round again.

    Args:
      target: a `Model` (its `run` is timed: scaling in and out included), or a callable of one input.
      inputs: at least one.
      runs: calls that count; warm_up: calls before them.
    """
    if len(inputs) == 0 or runs < 1:
        raise ValueError(f"bench needs at least one input and one run, not {len(inputs)} and {runs}")
    call = target.run if isinstance(target, Model) else target
    durations = np.empty(runs)
    for step in range(-warm_up, runs):
        values = inputs[step % len(inputs)]
        start = time.perf_counter()
        call(values)
        if step >= 0:
            durations[step] = time.perf_counter() - start
    median, p10, p90, p95 = (float(value) for value in np.percentile(durations * 1e3, (50, 10, 90, 95)))
    return Latency(median, p10, p90, p95, float(durations.mean() * 1e3))
