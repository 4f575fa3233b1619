"""The layout of TFLite files, and a reader that trusts none of it: what is out of place is found before memory is taken for it.

A copy of this module lies beside `flatbuffer.py` in every export folder; numpy alone.
"""

from __future__ import annotations

import functools
import mmap
import struct
from types import SimpleNamespace

import numpy as np

MAX_TABLES = 200_000  # of a file; nets have some thousands

# The schema (TensorFlow's schema.fbs, version 3): of each table its fields in the order of their numbers. [..] is a vector, =1 a
# default that is not 0, `name:Union?` takes two numbers, the first for its type. Tables not named here hold scalars alone.
_TABLES = {
    "Model": "version:u32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:str buffers:[Buffer] "
    "metadata_buffer:[i32] metadata:[Metadata] signature_defs:[SignatureDef] external_buffer_groups:[Named] "
    "external_buffers:[ExternalBuffer]",
    "OperatorCode": "deprecated_builtin_code:i8 custom_code:str version:i32=1 builtin_code:i32",
    "SubGraph": "tensors:[Tensor] inputs:[i32] outputs:[i32] operators:[Operator] name:str debug_metadata_index:i32=-1",
    "Tensor": "shape:[i32] type:i8 buffer:u32 name:str quantization:Quantization is_variable:u8 sparsity:Sparsity "
    "shape_signature:[i32] has_rank:u8 variant_tensors:[Variant] external_buffer:u32",
    "Quantization": "min:[f32] max:[f32] scale:[f32] zero_point:[i64] details:Details? quantized_dimension:i32",
    "CustomQuantization": "custom:[u8]",
    "BlockShape": "scales:i32 zero_points:i32 block_size:i32 block_shape:[i32]",
    "Sparsity": "traversal_order:[i32] block_map:[i32] dim_metadata:[Dimension]",
    "Dimension": "format:i8 dense_size:i32 array_segments:Indices? array_indices:Indices?",
    "Indices32": "values:[i32]",
    "Indices16": "values:[u16]",
    "Indices8": "values:[u8]",
    "Variant": "shape:[i32] type:i8 has_rank:u8",
    "Operator": "opcode_index:u32 inputs:[i32] outputs:[i32] builtin_options:Options? custom_options:[u8] "
    "custom_options_format:i8 mutating_variable_inputs:[u8] intermediates:[i32] large_custom_options_offset:u64 "
    "large_custom_options_size:u64 builtin_options_2:Options2? debug_metadata_index:i32=-1",
    "Buffer": "data:[u8] offset:u64 size:u64",
    "Named": "name:str",
    "ExternalBuffer": "id:u32 group:u32 offset:u64 length:u64 packing:str",
    "Metadata": "name:str buffer:u32",
    "SignatureDef": "inputs:[TensorMap] outputs:[TensorMap] signature_key:str unused:u32 subgraph_index:u32",
    "TensorMap": "name:str tensor_index:u32",
    "Conv2D": "padding:i8 stride_w:i32 stride_h:i32 activation:i8 dilation_w:i32=1 dilation_h:i32=1",
    "DepthwiseConv2D": "padding:i8 stride_w:i32 stride_h:i32 multiplier:i32 activation:i8 dilation_w:i32=1 dilation_h:i32=1",
    "Pool2D": "padding:i8 stride_w:i32 stride_h:i32 filter_width:i32 filter_height:i32 activation:i8",
    "FullyConnected": "activation:i8 weights_format:i8 keep_num_dims:u8 asymmetric:u8 bias_type:i8 quant_spec:[u8]",
    "Concatenation": "axis:i32 activation:i8",
    # Options that nothing here reads: the kinds of their fields alone.
    "Integers": "[i32]",
    "Floats": "[f32]",
    "Strings": "str str",
    "Embeddings": "i32 [i32] [i32]",
    "Wide": "[i64]",
    "Wide3": "[i64] [i64] [i64]",
    "Convolution": "[i64] [i64] [i64] [i64] [u8] i64 i64 [i64] i64 i64 [i64] i64 i64 [i64] i64 i64 [u32]",
    "CustomCall": "str u8 str i32 [i32] [u8]",
    "Scatter": "u8 [i64] [i64] [i64]",
    "DotGeneral": "[i64] [i64] [i64] [i64] [u32]",
    "ReduceWindow": "[i64] [i64] [i64] [i64] [i64]",
    "Gather": "[i64] [i64] [i64] i64 [i64]",
    "Composite": "str i32 [u8]",
}
# Which table a union's type stands for; all others hold scalars alone.
_UNIONS = {
    "Details": {1: "CustomQuantization", 2: "BlockShape", 3: "BlockShape"},
    "Indices": {1: "Indices32", 2: "Indices16", 3: "Indices8"},
    "Options": {
        **{1: "Conv2D", 2: "DepthwiseConv2D", 3: "Embeddings", 5: "Pool2D", 8: "FullyConnected", 10: "Concatenation"},
        **{17: "Integers", 30: "Integers", 111: "Strings", 115: "Floats"},
    },
    "Options2": {
        **{2: "Wide", 3: "Wide3", 6: "Wide", 9: "Wide", 10: "Wide3", 17: "Wide"},
        **{4: "Convolution", 5: "CustomCall", 7: "Scatter", 12: "DotGeneral", 13: "ReduceWindow", 16: "Gather"},
        **{21: "Composite", 23: "Integers"},
    },
}
_NUMBERS = {"i8": "b", "u8": "B", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f32": "f"}
_NUMBERS = {kind: struct.Struct("<" + form) for kind, form in _NUMBERS.items()}
_FORMS = {kind: np.dtype(form.format) for kind, form in _NUMBERS.items()}


class DamagedError(Exception):
    """What is wrong with a file's structure."""


@functools.cache
def _fields(table: str) -> list[tuple[int, str, str, int]]:
    """(number, name, kind, default) of a table's fields; a union's type comes before it."""
    fields, number = [], 0
    for field in _TABLES.get(table, "").split():
        name, _, kind = field.rpartition(":")
        kind, _, default = kind.partition("=")
        name = name or f"field{number}"
        if kind.endswith("?"):
            fields.append((number, f"{name}_type", "u8", 0))
            number += 1
        fields.append((number, name, kind, int(default or 0)))
        number += 1
    return fields


class Content:
    """The bytes of a file, and how much may still be read of them: what many others point at is not taken without end."""

    def __init__(self, content: bytes | mmap.mmap):
        self.content = content
        self.left_bytes, self.left_tables = 2 * len(content), MAX_TABLES

    def number(self, kind: str, at: int) -> int | float:
        form = _NUMBERS[kind]
        if not 0 <= at <= len(self.content) - form.size:
            raise DamagedError(f"something points at byte {at}")
        return form.unpack_from(self.content, at)[0]

    def _follow(self, at: int) -> int:
        return at + self.number("u32", at)

    def _take(self, what: str, size: int, at: int) -> None:
        """Counts `size` bytes from `at`. All must be inside the file, before any memory is taken for them."""
        self.left_bytes -= size
        if not 0 <= at <= len(self.content) - size:
            raise DamagedError(f"a {what} of {size} bytes at byte {at}")
        if self.left_bytes < 0:
            raise DamagedError("its parts overlap")

    def table(self, name: str, at: int) -> SimpleNamespace:
        """The table at a place, and all it points at."""
        vtable = at - self.number("i32", at)
        length, size = self.number("u16", vtable), self.number("u16", vtable + 2)
        if length < 4 or length % 2 or size < 4 or vtable + length > len(self.content):
            raise DamagedError(f"a table at byte {at}")
        self._take("table", size, at)
        self.left_tables -= 1
        if self.left_tables < 0:
            raise DamagedError(f"more than {MAX_TABLES} tables")
        found = SimpleNamespace()
        for number, field, kind, default in _fields(name):
            entry = vtable + 4 + 2 * number
            offset = self.number("u16", entry) if 4 + 2 * number < length else 0
            if offset and offset + (_NUMBERS[kind].size if kind in _NUMBERS else 4) > size:
                raise DamagedError(f"a table at byte {at}")
            if kind.endswith("?"):
                kind = _UNIONS[kind[:-1]].get(getattr(found, f"{field}_type"), "scalars")
            setattr(found, field, self._value(kind, at + offset) if offset else self._absent(kind, default))
        return found

    def _value(self, kind: str, at: int):
        if kind in _NUMBERS:
            return self.number(kind, at)
        place = self._follow(at)
        if kind == "str":
            text = self.vector("u8", place)
            if self.number("u8", place + 4 + len(text)):
                raise DamagedError(f"a text at byte {place} has no end")
            return text.tobytes().decode(errors="replace")
        if not kind.startswith("["):
            return self.table(kind, place)
        inner = kind[1:-1]
        if inner in _NUMBERS:
            return self.vector(inner, place)
        places = range(place + 4, place + 4 + 4 * len(self.vector("u32", place)), 4)
        return [self.table(inner, self._follow(entry)) for entry in places]

    @staticmethod
    def _absent(kind: str, default: int):
        if kind in _NUMBERS:
            return default
        if kind == "str":
            return ""
        if kind.startswith("["):
            return np.zeros(0, _FORMS[kind[1:-1]]) if kind[1:-1] in _FORMS else []
        return None

    def vector(self, kind: str, at: int) -> np.ndarray:
        """The numbers of a vector, a view of the file."""
        count, form = self.number("u32", at), _FORMS[kind]
        self._take("vector", count * form.itemsize, at + 4)
        return np.frombuffer(self.content, form, count, at + 4)
