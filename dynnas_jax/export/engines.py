"""Opens TFLite and ONNX files and runs the nets in them: numpy, and ai-edge-litert or onnxruntime.

A copy of this module lies in every export folder. Files are data: they are checked before LiteRT or onnxruntime sees them.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __package__:
    from dynnas_jax.export import confined, flatbuffer, metadata, soundness
else:  # lying alone in an export folder
    import confined
    import flatbuffer
    import metadata
    import soundness

UNNAMED = "net"  # what the one net of a file without signatures is called
_EDGETPU = "edgetpu"  # stands in the name of its library
EDGETPU_OPERATOR = "edgetpu-custom-op"
_CPU_PROVIDER = "CPUExecutionProvider"


class Tensor(NamedTuple):
    """An input or output: real = scale * (stored - zero_point); scale 0 where the file holds real values."""

    shape: tuple[int, ...]  # the batch (1) included
    dtype: str  # "float32" or "int8"
    scale: float
    zero_point: int

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """Real values as int8, the nearest that there is."""
        stored = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(stored, -128, 127).astype(np.int8)

    def dequantise(self, stored: np.ndarray) -> np.ndarray:
        """int8 as real values, float32."""
        return (stored.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


class Model:
    """One net of a file: named inputs, named outputs, and a way to run it."""

    def __init__(self, path: Path, name: str, inputs: dict, outputs: dict, invoke: Callable):
        """Args: inputs, outputs: `Tensor`s by name; invoke: stored inputs by name -> stored outputs by name."""
        self.path, self.name = path, name
        self.inputs: dict[str, Tensor] = inputs
        self.outputs: dict[str, Tensor] = outputs
        self.invoke: Callable[[dict], dict] = invoke
        bytes_as_stored = np.arange(256, dtype=np.float32)  # the stored value of each uint8
        self._bytes = {name: tensor.quantise(bytes_as_stored) for name, tensor in inputs.items() if tensor.scale}

    def run(self, values: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Real-valued outputs by name, float32 with the batch (1).

        Args: values: uint8 or float32 of an input's shape, or without its leading 1; by name where there are several inputs.
        Raises: ValueError for another shape or type, or other names.
        """
        if not isinstance(values, dict):
            if len(self.inputs) != 1:
                raise ValueError(f"{self.label} takes {', '.join(self.inputs)}: give each by its name")
            values = dict.fromkeys(self.inputs, values)
        if set(values) != set(self.inputs):
            raise ValueError(f"{self.label} takes {', '.join(self.inputs)}, not {', '.join(values)}")
        stored = self.invoke({name: self.store(name, value) for name, value in values.items()})
        return {name: self.real(name, value) for name, value in stored.items()}

    def store(self, name: str, values: np.ndarray) -> np.ndarray:
        """uint8 or float32 values as the file's input: float32, or int8 by its scale."""
        tensor = self.inputs[name]
        if values.shape not in (tensor.shape, tensor.shape[1:]):
            raise ValueError(
                f"{self.label} takes {name} of {list(tensor.shape[1:])}, not {list(values.shape)}: resize first"
            )
        if values.dtype not in (np.uint8, np.float32):
            raise ValueError(f"{self.label} takes uint8 or float32 values, not {values.dtype}: convert them first")
        values = values.reshape(tensor.shape)
        if not tensor.scale:
            return values.astype(np.float32, copy=False)
        return self._bytes[name][values] if values.dtype == np.uint8 else tensor.quantise(values)

    def real(self, name: str, stored: np.ndarray) -> np.ndarray:
        """A stored output as float32."""
        tensor = self.outputs[name]
        return tensor.dequantise(stored) if tensor.scale else stored

    @property
    def label(self) -> str:
        """The file and the net, for messages."""
        return f"{self.path.name}, {self.name}," if self.name != UNNAMED else self.path.name


def load(path: str | Path, threads: int = 1, delegate: str | None = None) -> dict[str, Model]:
    """The nets of a file by the names of its signatures, in the file's order; they share one interpreter.

    Args:
      path: a `.tflite` file of float32 or int8 inputs and outputs, or an `.onnx` file of float32 ones.
      threads: of LiteRT or onnxruntime, 1 to `confined.MOST_THREADS`.
      delegate: a shared library for LiteRT, such as libedgetpu.so.1; for ONNX an execution provider of onnxruntime.

    Raises: ValueError if the file is absent, damaged or of another kind, or cannot run here.
    """
    path = Path(path)
    confined.check_threads(threads)
    opening = _onnx if path.suffix == ".onnx" else _litert
    bound_bytes = 4 * soundness.MOST_VALUES + threads * confined.THREAD_BYTES
    if delegate is None or _EDGETPU in delegate:
        return opening(path, threads, delegate, bound_bytes)
    opening(path, threads, None, bound_bytes)  # first without it: drivers of GPUs reserve more than any bound
    return opening(path, threads, delegate, None)


def renamed(model: Model, name: str, inputs: dict, outputs: dict) -> Model:
    """The same net under other names, which its compiler has dropped; tensors are told apart by their shapes.

    Args: name: of the net; inputs, outputs: shapes by the names that they shall have.
    Raises: ValueError where a shape fits none, or more than one.
    """
    new = []
    for wanted, tensors in ((inputs, model.inputs), (outputs, model.outputs)):
        if set(wanted) == set(tensors):
            new.append({key: key for key in wanted})
            continue
        fitting = {key: [old for old in tensors if tensors[old].shape == tuple(wanted[key])] for key in wanted}
        if len(wanted) != len(tensors) or any(len(found) != 1 for found in fitting.values()):
            raise ValueError(f"{model.path.name} holds {', '.join(tensors)}, not {', '.join(wanted)} of net {name}")
        new.append({key: found[0] for key, found in fitting.items()})
    old_in, old_out = new

    def invoke(stored):
        found = model.invoke({old_in[key]: value for key, value in stored.items()})
        return {key: found[old] for key, old in old_out.items()}

    taken = {key: model.inputs[old] for key, old in old_in.items()}
    given = {key: model.outputs[old] for key, old in old_out.items()}
    return Model(model.path, name, taken, given, invoke)


def _checked(model: Model) -> Model:
    """The same model, if its inputs and outputs are of kinds that are understood, and there is memory for it."""
    for name, tensor in (*model.inputs.items(), *model.outputs.items()):
        if tensor.dtype not in ("float32", "int8"):
            raise ValueError(f"{model.label} has {name} of {tensor.dtype}: this runtime knows float32 and int8")
        if tensor.dtype == "int8" and not 0 < tensor.scale < float("inf"):
            raise ValueError(f"{model.label} does not say what its int8 {name} means (scale {tensor.scale})")
    try:  # some of the memory is taken only as it runs
        model.invoke({name: np.full(tensor.shape, 100, tensor.dtype) for name, tensor in model.inputs.items()})
    except (ValueError, MemoryError) as error:
        if confined.is_of_memory(error.__cause__ or error):  # not a division by 0, say, which these values may lead to
            raise ValueError(str(error) or f"there is not enough memory for {model.label}") from error
    return model


def _plainly(invoke: Callable, wrong: str) -> Callable:
    """The same call, whose mistakes are one plain line: some are only found out when a net first runs."""

    def called(stored):
        try:
            return invoke(stored)
        except Exception as error:  # onnxruntime's have no base of their own
            raise ValueError(f"{wrong}: {confined.first_line(error)}") from error

    return called


def _litert(path: Path, threads: int, delegate: str | None, bound_bytes: int | None) -> dict[str, Model]:
    model = flatbuffer.load(path)  # LiteRT itself may crash on a damaged file
    if wrong := soundness.problem(model):
        raise ValueError(f"{path} is damaged, or no file for this runtime: {wrong}")
    if delegate is None and any(code.custom_code == EDGETPU_OPERATOR for code in model.operator_codes):
        raise ValueError(f"{path.name} is compiled for the Edge TPU: add --delegate=libedgetpu.so.1")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ValueError(f"{path.name} needs ai-edge-litert: pip install ai-edge-litert ({error})") from error
    delegates = [_delegate(delegate)] if delegate is not None else None
    with confined.confined(path, bound_bytes):
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, MemoryError) as error:  # an operator that it or the delegate lacks, too
            raise ValueError(f"LiteRT cannot run {path.name}: {confined.first_line(error)}") from error
        if not (signatures := list(interpreter.get_signature_list())):
            return {UNNAMED: _checked(_plain_graph(path, interpreter))}
        return {name: _checked(_signature(path, interpreter, name)) for name in signatures}


def _delegate(library: str):
    from ai_edge_litert.interpreter import load_delegate

    try:
        # First, since a Delegate of LiteRT that has no such library, or another one, prints a traceback when it goes.
        exports = ctypes.CDLL(library)
        for name in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
            getattr(exports, name)
        return load_delegate(library)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot load the delegate {library}: {confined.first_line(error)}") from error


def _signature(path: Path, interpreter, name: str) -> Model:
    runner = interpreter.get_signature_runner(name)
    inputs = {key: _tensor(details) for key, details in runner.get_input_details().items()}
    outputs = {key: _tensor(details) for key, details in runner.get_output_details().items()}
    return Model(
        path, name, inputs, outputs, _plainly(lambda stored: runner(**stored), f"LiteRT cannot run {path.name}")
    )


def _plain_graph(path: Path, interpreter) -> Model:
    inputs = {details["name"]: details for details in interpreter.get_input_details()}
    outputs = {details["name"]: details for details in interpreter.get_output_details()}

    def invoke(stored):
        for name, value in stored.items():
            interpreter.set_tensor(inputs[name]["index"], value)
        interpreter.invoke()
        return {name: interpreter.get_tensor(details["index"]) for name, details in outputs.items()}

    tensors = [{name: _tensor(details) for name, details in side.items()} for side in (inputs, outputs)]
    return Model(path, UNNAMED, *tensors, _plainly(invoke, f"LiteRT cannot run {path.name}"))


def _tensor(details: dict) -> Tensor:
    scale, zero_point = details["quantization"]
    shape = tuple(int(size) for size in details["shape"])
    return Tensor(shape, np.dtype(details["dtype"]).name, float(scale), int(zero_point))


def _onnx(path: Path, threads: int, delegate: str | None, bound_bytes: int | None) -> dict[str, Model]:
    files = metadata.read_onnx(path).get("files", {})  # also sees whether the file is whole
    if not isinstance(files, dict):  # unlike the first of its folder, this one need not be checked yet
        raise ValueError(f"the metadata of {path.name} does not give a file of each net: export it again")
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path.name} needs onnxruntime: pip install onnxruntime ({error})") from error
    providers = onnxruntime.get_available_providers()
    if delegate is not None and delegate not in providers:
        raise ValueError(f"delegate {delegate!r} is no execution provider of this onnxruntime: {', '.join(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    confined.bound_onnx(options, 8 * soundness.MOST_VALUES)
    names = [_CPU_PROVIDER] if delegate in (None, _CPU_PROVIDER) else [delegate, _CPU_PROVIDER]
    # The exporter names each file by its one net: NET_PRECISION.onnx.
    name = next((net for net, file in files.items() if file == path.name), path.stem.rpartition("_")[0])
    with confined.confined(path, bound_bytes):
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=names)
        except Exception as error:
            raise ValueError(f"onnxruntime cannot run {path.name}: {confined.first_line(error)}") from error
        if names[0] not in session.get_providers():  # it goes on by the other, and says so on descriptor 2 alone
            why = "its libraries or its device are not there"
            raise ValueError(f"{delegate} does not start ({why}): onnxruntime would run {path.name} by {_CPU_PROVIDER}")
        return {name: _checked(_session(path, name, session))}


def _session(path: Path, name: str, session) -> Model:
    inputs = {node.name: _onnx_tensor(path, node) for node in session.get_inputs()}
    outputs = {node.name: _onnx_tensor(path, node) for node in session.get_outputs()}
    order = list(outputs)
    invoke = lambda stored: dict(zip(order, session.run(order, stored)))  # noqa: B905, E731
    return Model(path, name, inputs, outputs, _plainly(invoke, f"onnxruntime cannot run {path.name}"))


def _onnx_tensor(path: Path, node) -> Tensor:
    if not all(isinstance(size, int) and size > 0 for size in node.shape):
        raise ValueError(f"{path.name} has {node.name} of shape {node.shape}: this runtime needs static shapes")
    return Tensor(tuple(node.shape), "float32" if node.type == "tensor(float)" else node.type, 0.0, 0)


def passing(given: Tensor, taken: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a stored output of one net to the stored input of the next.

    int8 to int8 goes by a table of 256 entries, or untouched where both scales agree: never through floats.
    """
    if not given.scale and not taken.scale:
        return _same
    if given.scale and taken.scale:
        if given.zero_point == taken.zero_point and abs(given.scale / taken.scale - 1) <= 1e-4:
            return _same  # to less than 1/30 of a step at the ends of int8
        stored = np.arange(256, dtype=np.uint8)
        table = taken.quantise(given.dequantise(stored.view(np.int8)))  # by the stored value's bit pattern
        return functools.partial(_by_table, table)
    return taken.quantise if taken.scale else given.dequantise


def _same(stored: np.ndarray) -> np.ndarray:
    return stored


def _by_table(table: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return table[stored.view(np.uint8)]
