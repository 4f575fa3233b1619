"""JAX functions -> a TFLite file, through jax2tf (native serialization), a SavedModel and TensorFlow's converter.

A file holds one function or several: its signatures, which share the weights they have in common. Graphs are static (batch 1)
and take float32; full int8 gets int8 inputs and outputs. Routes that do not work, and why, stand in docs/export.md.
"""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.export import flatbuffer, functions
from dynnas_jax.export.metadata import PRECISIONS

INPUT_NAME = "input"
SIGNATURE = "serving_default"


class Signature(NamedTuple):
    """One function of a file."""

    function: Callable[[dict], dict]  # float32 arrays by input name -> arrays by output name; closed over its variables
    shapes: dict[str, tuple[int, ...]]  # of the inputs, the batch (1) included
    calibration: dict[str, np.ndarray] | None = (
        None  # [n, ...] uint8 or float32 of each input: they set the int8 scales
    )


class Saved(NamedTuple):
    """Functions traced once, from which files are written."""

    signatures: dict[str, Signature]
    folder: str  # of the SavedModel

    def write(
        self,
        path: str | Path,
        *,
        precision: str = "fp32",
        only: tuple[str, ...] | None = None,
        float_outside: bool = False,
        metadata: dict | None = None,
    ) -> None:
        """Writes one TFLite file; a failure leaves none there.

        Args:
          path: the file; its folder exists.
          precision: of `metadata.PRECISIONS`: "fp16" and "dynamic_range" store the weights so and compute on floats.
          only: names of the signatures that go into the file; None: all, sharing weights.
          float_outside: int8 with float32 inputs and outputs.
          metadata: JSON-able, goes into the file as its `dynnas` buffer.

        Raises: ValueError for a wrong argument or a function the converter cannot express; OSError if the disk refuses.
        """
        path, names = Path(path), tuple(self.signatures) if only is None else only
        _check_file(path, precision, {name: self.signatures[name] for name in names})
        with quiet():
            content = self._converted(names, precision, float_outside)
        with finished_file(path) as unfinished:
            unfinished.write_bytes(content)
            if metadata is not None:
                unfinished.write_bytes(flatbuffer.pack_metadata(unfinished, metadata))

    def _converted(self, names: tuple[str, ...], precision: str, float_outside: bool) -> bytes:
        """The bytes of the file, signatures in the order of `names`."""
        import tensorflow as tf
        from tensorflow.lite.python.convert_phase import ConverterError

        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(self.folder, signature_keys=list(names))
            if precision != "fp32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if precision == "fp16":
                converter.target_spec.supported_types = [tf.float16]
            if precision == "int8":
                self._ask_for_int8(converter, names, float_outside)
            return converter.convert()
        except ConverterError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"TensorFlow cannot express this function in TFLite: {reason}") from error
        except RuntimeError as error:  # bare, of its quantizer
            reason = next(iter(str(error).splitlines()), "its quantizer does not say why")
            raise ValueError(f"TensorFlow cannot express this function in TFLite, {precision}: {reason}") from error

    def _ask_for_int8(self, converter, names: tuple[str, ...], float_outside: bool) -> None:
        import tensorflow as tf

        converter.representative_dataset = lambda: self._samples(names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if not float_outside:
            converter.inference_input_type = converter.inference_output_type = tf.int8
        # The Edge TPU compiler predates per-channel scales of dense layers.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True

    def _samples(self, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name in names:
            inputs = self.signatures[name].calibration
            for row in zip(*inputs.values(), strict=True):
                yield name, {key: value[None].astype(np.float32) for key, value in zip(inputs, row, strict=True)}


@contextlib.contextmanager
def saved(signatures: dict[str, Signature]) -> Iterator[Saved]:
    """Traces functions, by the names of their signatures, for the files that are written inside the block.

    Raises: ValueError for a wrong shape or a function that JAX cannot trace for TensorFlow; OSError if the disk refuses.
    """
    for name, signature in signatures.items():
        for key, shape in signature.shapes.items():
            if not shape or shape[0] != 1:
                raise ValueError(f"{name}: input {key} is {shape}, must start with a batch of 1: graphs are static")
    with tempfile.TemporaryDirectory(prefix="dynnas_") as folder:
        with quiet():
            _save(signatures, folder)
        yield Saved(signatures, folder)


def _save(signatures: dict[str, Signature], folder: str) -> None:
    import tensorflow as tf

    module, shared = tf.Module(), {}
    module.functions = {name: _traced(signature, shared) for name, signature in signatures.items()}
    concrete = {name: function.get_concrete_function() for name, function in module.functions.items()}
    try:
        tf.saved_model.save(module, folder, signatures=concrete)
    except tf.errors.OpError as error:
        raise OSError(f"cannot write a SavedModel to {folder}: {error.message.splitlines()[0]}") from error


def _traced(signature: Signature, shared: dict[int, tuple]):
    """The TensorFlow function of a signature; `shared` holds the constants of all, by identity, with the arrays they are of."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    names = tuple(signature.shapes)
    call, arrays, _ = functions.opened(functions.Function(signature.function, signature.shapes))
    for array in arrays:
        if id(array) not in shared:
            shared[id(array)] = tf.constant(np.asarray(array)), array
    constants = [shared[id(array)][0] for array in arrays]

    def named(constants, *inputs):
        return call(constants, dict(zip(names, inputs, strict=True)))

    # Lowered for the CPU whatever this host has: the converter knows no other platform.
    converted = jax2tf.convert(named, with_gradient=False, native_serialization_platforms=("cpu",))
    specs = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in signature.shapes.items()]
    return tf.function(lambda *inputs: converted(constants, *inputs), autograph=False, input_signature=specs)


def convert(
    function: Callable,
    example_input_shape: tuple[int, ...],
    path: str | Path,
    *,
    precision: str = "fp32",
    calibration: np.ndarray | None = None,
    metadata: dict | None = None,
) -> None:
    """Writes one function of one array as a TFLite file at `path`; a failure leaves no file there.

    Args:
      function: one float32 array of `example_input_shape` (an image in [0, 255], say) -> an array (named `logits`) or a dict
        of arrays; closed over its variables.
      example_input_shape: static, the batch (1) included.
      path, precision, metadata: of `Saved.write`.
      calibration: [n, ...] uint8 or float32, real inputs that set the int8 scales; int8 only.

    Raises: ValueError for a wrong argument or a function the converter cannot express; OSError if the disk refuses.
    """

    def named(inputs):
        outputs = function(inputs[INPUT_NAME])
        return outputs if isinstance(outputs, dict) else {"logits": outputs}

    inputs = None if calibration is None else {INPUT_NAME: calibration}
    signatures = {SIGNATURE: Signature(named, {INPUT_NAME: tuple(example_input_shape)}, inputs)}
    _check_file(Path(path), precision, signatures)
    with saved(signatures) as traced:
        traced.write(path, precision=precision, metadata=metadata)


def add_metadata(path: str | Path, metadata: dict) -> None:
    """Puts `metadata` (JSON-able) into an existing TFLite file as its one `dynnas` buffer, replacing an earlier one."""
    content = flatbuffer.pack_metadata(path, metadata)
    with finished_file(Path(path)) as unfinished:
        unfinished.write_bytes(content)


def _check_file(path: Path, precision: str, signatures: dict[str, Signature]) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    for name, signature in signatures.items() if precision == "int8" else ():
        for key, shape in signature.shapes.items():
            inputs = (signature.calibration or {}).get(key)
            if inputs is None or len(inputs) == 0:
                raise ValueError(f"{path.name}: int8 needs calibration inputs (some hundred training images)")
            if tuple(inputs.shape[1:]) != tuple(shape[1:]) or inputs.dtype not in (np.uint8, np.float32):
                raise ValueError(
                    f"{path.name}: calibration of {name}'s {key} is {inputs.dtype}{list(inputs.shape)}, "
                    f"but must be uint8 or float32 {['n', *shape[1:]]}"
                )


@contextlib.contextmanager
def finished_file(path: Path) -> Iterator[Path]:
    """Gives a neighbouring name to write to; it becomes `path` if the block succeeds, and vanishes if not."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # gone after success, and on a broken disk nothing more can be done
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TensorFlow: its log and absl's, its converter's Python warnings, what C++ writes to descriptor 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    levels: dict[logging.Logger, int] = {}
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        # Its converter and tf2onnx ask TensorFlow's own interpreter.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow as tf

            # The log is made on first use, and where Python is interactive that sets its level anew.
            levels = {log: log.level for log in (logging.getLogger("absl"), tf.get_logger())}
            for log in levels:
                log.setLevel(logging.ERROR)
            yield
        finally:
            for log, level in levels.items():
                log.setLevel(level)
            os.dup2(kept, 2)
            os.close(kept)
