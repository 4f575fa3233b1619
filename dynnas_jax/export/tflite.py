"""A JAX function -> a TFLite file, through jax2tf (native serialization), a SavedModel and TensorFlow's converter.

The graph is static (batch 1) and takes float32; full int8 gets int8 input and output. Routes that do not work, and
why, stand in the export notes of the documentation: a uint8 trace, a polymorphic batch, concrete functions.
"""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dynnas_jax.export import flatbuffer

PRECISIONS = ("fp32", "int8")
INPUT_NAME = "input"
SIGNATURE = "serving_default"


def convert(
    function: Callable,
    example_input_shape: tuple[int, ...],
    path: str | Path,
    *,
    precision: str = "fp32",
    calibration: np.ndarray | None = None,
    metadata: dict | None = None,
) -> None:
    """Writes `function` as a TFLite file at `path`; a failure leaves no file there.

    Args:
      function: one float32 array of `example_input_shape` (an image in [0, 255], or a stem's output) -> an array (named
        `logits`), a pair `(logits, stem)`, or a dict of arrays; closed over its variables.
      example_input_shape: static, the batch (1) included.
      path: the file; its folder exists.
      precision: "fp32", or "int8" (full integer, int8 input and output).
      calibration: [n, ...] uint8 or float32, real inputs that set the int8 scales; int8 only.
      metadata: JSON-able, goes into the file as its `dynnas` buffer.

    Raises: ValueError for a wrong argument or a function the converter cannot express; OSError if the disk refuses.
    """
    shape, path = tuple(example_input_shape), Path(path)
    _check_arguments(shape, path, precision, calibration)
    with tempfile.TemporaryDirectory(prefix="dynnas_") as folder, _quiet():
        content = _convert(named(function), shape, folder, precision, calibration)
    with _finished_file(path) as unfinished:
        unfinished.write_bytes(content)
        if metadata is not None:
            unfinished.write_bytes(flatbuffer.pack_metadata(unfinished, metadata))


def add_metadata(path: str | Path, metadata: dict) -> None:
    """Puts `metadata` (JSON-able) into an existing TFLite file as its one `dynnas` buffer, replacing an earlier one."""
    content = flatbuffer.pack_metadata(path, metadata)
    with _finished_file(Path(path)) as unfinished:
        unfinished.write_bytes(content)


def _check_arguments(shape: tuple[int, ...], path: Path, precision: str, calibration: np.ndarray | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if not shape or shape[0] != 1:
        raise ValueError(f"example_input_shape {shape} must start with a batch of 1: exported graphs are static")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if precision == "int8":
        if calibration is None or len(calibration) == 0:
            raise ValueError(f"{path.name}: int8 needs calibration inputs (some hundred training images)")
        if tuple(calibration.shape[1:]) != shape[1:] or calibration.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"{path.name}: calibration is {calibration.dtype}{list(calibration.shape)}, "
                f"but must be uint8 or float32 {['n', *shape[1:]]}"
            )


def named(function: Callable) -> Callable:
    """The same function with its outputs in a dict, so that the file's signature names them."""

    def with_names(inputs):
        outputs = function(inputs)
        if isinstance(outputs, dict):
            return outputs
        if isinstance(outputs, tuple):
            return dict(zip(("logits", "stem"), outputs, strict=True))
        return {"logits": outputs}

    return with_names


def _convert(function: Callable, shape: tuple, folder: str, precision: str, calibration: np.ndarray | None) -> bytes:
    """The bytes of the TFLite file; `folder` is scratch."""
    import tensorflow as tf
    from jax.experimental import jax2tf
    from tensorflow.lite.python.convert_phase import ConverterError

    # Lowered for the CPU whatever this host has: the converter knows no other platform.
    converted = jax2tf.convert(function, with_gradient=False, native_serialization_platforms=("cpu",))
    module = tf.Module()
    module.function = tf.function(
        converted, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32, name=INPUT_NAME)]
    )
    try:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: module.function.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision == "int8":
            _ask_for_int8(converter, calibration)
        return converter.convert()
    except ConverterError as error:
        raise ValueError(f"TensorFlow cannot express this function in TFLite: {str(error).splitlines()[0]}") from error
    except tf.errors.OpError as error:
        raise OSError(f"cannot write a SavedModel to {folder}: {error.message.splitlines()[0]}") from error


def _ask_for_int8(converter, calibration: np.ndarray) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None].astype(np.float32)] for row in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    # The Edge TPU compiler predates per-channel scales of dense layers.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True


@contextlib.contextmanager
def _finished_file(path: Path) -> Iterator[Path]:
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
def _quiet() -> Iterator[None]:
    """Silences TensorFlow: its log and absl's, its converter's Python warnings, what C++ writes to descriptor 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    levels: dict[logging.Logger, int] = {}
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
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
