"""Read what the devices of a mesh tell each other from the text of a compiled, partitioned program."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_RESULT = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w-]+)\(", re.M)
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_MADE_BY = re.compile(r'op_name="([^"]*)"')


class Array(NamedTuple):
    """The type of an array as one device has it."""

    dtype: str  # as HLO writes it: "f32", "u8", "pred"
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Raises ValueError for a dtype that has no size, such as a token."""
        bits = _BITS.get(self.dtype) or (int(match[1]) if (match := re.match(r"[su](\d+)$", self.dtype)) else 0)
        if not bits:
            raise ValueError(f"HLO: the size of {self.dtype!r} is not known; add it to benchmarks/hlo.py")
        return -(-math.prod(self.shape) * bits // 8)


class Collective(NamedTuple):
    """One exchange between devices."""

    kind: str  # one of COLLECTIVES
    results: tuple[Array, ...]  # on one device
    made_by: str  # path of the JAX operation it comes from

    @property
    def size_bytes(self) -> int:
        """Of the results on one device."""
        return sum(array.size_bytes for array in self.results)


def arrays(text: str) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """(operation, its results) of every instruction, inside fusions too."""
    for match in _RESULT.finditer(text):
        yield match[2], _arrays(match[1])


def collectives(text: str) -> list[Collective]:
    """Every exchange of a program; the body of a loop counts once, an asynchronous one where it ends."""
    found = []
    for match in _RESULT.finditer(text):
        kind = match[2].removesuffix("-done")
        if kind in COLLECTIVES:
            line = text[match.start() : text.find("\n", match.end())]
            made_by = _MADE_BY.search(line)
            found.append(Collective(kind, _arrays(match[1]), made_by[1] if made_by else ""))
    return found


def _arrays(result: str) -> tuple[Array, ...]:
    return tuple(
        Array(dtype, tuple(int(length) for length in lengths.split(",") if length))
        for dtype, lengths in _SHAPE.findall(result)
    )
