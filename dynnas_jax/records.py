"""The records store: what sampled subnets answered on held-out images.

One zarr (version 3) group, a directory, read and written through tensorstore:

    genome    int32[n, g]         one row a subnet
    score     float16[n, m, S]    encoded confidence of choice s on image i (see `encode`)
    correct   bool[n, m, S]
    cost      float64[n, S]       all MACs (or another unit) spent when choice s answers; integers are exact to 2^53
    image_id  int64[m]
    done      bool[n]             written after the rest of its row, so an interrupted chunk is simply done again

A choice is an exit of a net of several; or a role: subnets of one head have one (S = 1), those of a supernet that is trained as
pairs two, first as little, with little's head, then as big (S = 2). So column 0 is what any subnet does as little, the last one
what it does as big.

The group's attributes hold the schema's version and the space's fingerprint; they are written last at creation. One
process writes.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorstore as ts

from dynnas_jax.errors import first_line

SCHEMA = 1
LARGEST = 17.0  # stands for p = 1: above every float64 p < 1 (at most 15.95), and decodes to exactly 1
DTYPES = {
    "genome": "int32",
    "score": "float16",
    "correct": "bool",
    "cost": "float64",
    "image_id": "int64",
    "done": "bool",
}
ROWS = ("genome", "score", "correct", "cost", "done")  # arrays with one row a subnet; `done` grows and is written last


def encode(score: np.ndarray) -> np.ndarray:
    """float16 of -log10(1 - p), since float16 is coarse near 1; p = 1 becomes `LARGEST`. Monotone.

    Raises:
        ValueError: for a score that is not in [0, 1].
    """
    score = np.asarray(score, np.float64)
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError(f"records: scores must lie in [0, 1], got {score.min()} to {score.max()}")
    below_one = np.where(score < 1, score, 0.0)
    return np.where(score < 1, -np.log1p(-below_one) / np.log(10), LARGEST).astype(np.float16)


def decode(encoded: np.ndarray) -> np.ndarray:
    """float64 scores of encoded ones: within 2e-4 of the original, and 1 - p within 2 %."""
    return -np.expm1(-np.log(10) * np.asarray(encoded, np.float64))


class Records(NamedTuple):
    """An open store. Arrays are read when asked for, the rows asked for only."""

    path: Path
    fingerprint: str
    arrays: dict[str, ts.TensorStore]

    def done(self) -> np.ndarray:
        """bool[n]: the rows that are complete."""
        return self._get("done")

    def read(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The rows (a slice or an index array) of one array, as stored; `score` decoded, to float64.

        Raises:
            ValueError: for an unknown name or a damaged array.
        """
        if name not in self.arrays:
            raise ValueError(f"{self.path}: no array {name!r}; there are {', '.join(self.arrays)}")
        values = self._get(name, rows)
        return decode(values) if name == "score" else values

    def accuracy(self) -> np.ndarray:
        """float64[n, S]: share of the images each choice gets right; NaN where a row is not done. Reads by chunks."""
        done = self.done()
        correct = self.arrays["correct"]
        found = np.full((len(done), correct.shape[2]), np.nan)
        step = correct.chunk_layout.read_chunk.shape[0]
        for start in range(0, len(done), step):
            rows = start + np.flatnonzero(done[start : start + step])
            if rows.size:
                found[rows] = self._get("correct", rows).mean(axis=1, dtype=np.float64)
        return found

    def write(
        self, index: int, *, genome: np.ndarray, score: np.ndarray, correct: np.ndarray, cost: np.ndarray
    ) -> "Records":
        """Write rows from `index` on, over what stands there. Returns the store, grown as needed.

        Args:
            index: first row; at most n.
            genome: int32[k, g].
            score: [k, m, S] in [0, 1].
            correct: bool[k, m, S].
            cost: [k, S].

        Raises:
            ValueError: if a shape does not fit the store, a score is outside [0, 1], or `index` leaves a gap.
        """
        count = self.arrays["done"].shape[0]
        rows = {"genome": genome, "score": encode(score), "correct": np.asarray(correct, bool), "cost": cost}
        k = len(genome)
        if not 0 <= index <= count:
            raise ValueError(f"{self.path}: row {index} would leave a gap, the store has {count} rows")
        for name, values in rows.items():
            expected = (k, *self.arrays[name].shape[1:])
            if np.shape(values) != expected:
                raise ValueError(f"{self.path}: {name} has shape {np.shape(values)}, the store needs {expected}")
        grown = self._grow(max(count, index + k))
        where = slice(index, index + k)
        # An old row under these is first declared undone: its parts must not mix with the new ones.
        grown._set("done", where, np.zeros(k, bool))
        for name, values in rows.items():
            grown._set(name, where, values)
        grown._set("done", where, np.ones(k, bool))
        return grown

    def _grow(self, count: int) -> "Records":
        if count <= self.arrays["done"].shape[0]:
            return self
        arrays = dict(self.arrays)
        for name in ROWS:
            size = max(count, arrays[name].shape[0])  # an interrupted growth may have left some arrays longer
            arrays[name] = arrays[name].resize(exclusive_max=(size, *arrays[name].shape[1:]), expand_only=True).result()
        return self._replace(arrays=arrays)

    def _set(self, name: str, rows: slice, values: np.ndarray) -> None:
        array = self.arrays[name]
        array[rows].write(np.asarray(values).astype(array.dtype.numpy_dtype)).result()

    def _get(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        array = self.arrays[name]
        if name in ROWS:
            array = array[: self.arrays["done"].shape[0]]
        try:
            return array[rows].read().result()
        except ValueError as error:
            raise ValueError(
                f"{self.path}: cannot read {name}: {first_line(error)[:200]}; pass --redo=collect to collect again"
            ) from error


def create(
    path: str | Path, fingerprint: str, *, genes: int, image_id: np.ndarray, choices: int = 1, chunk_rows: int = 16
) -> Records:
    """Create an empty store (n = 0) at the directory `path`, over the remains of a creation that was interrupted.

    Args:
        path: by custom `records.zarr`.
        fingerprint: of the space of the genomes.
        genes: length g of a genome.
        image_id: int64[m], the images every row is about.
        choices: S.
        chunk_rows: rows in one file; collect in multiples of it.

    Raises:
        ValueError: if a store stands there already, or for a size below 1.
    """
    path = Path(path).absolute()
    image_id = np.asarray(image_id, np.int64)
    if (path / "zarr.json").exists():
        raise ValueError(f"{path}: a store stands here already; open it, or remove it first")
    if image_id.ndim != 1 or min(image_id.size, genes, choices, chunk_rows) < 1:
        sizes = f"image_id {image_id.shape}, genes {genes}, choices {choices}, chunk_rows {chunk_rows}"
        raise ValueError(f"{path}: {sizes}: image_id must be a vector, and every size at least 1")
    path.mkdir(parents=True, exist_ok=True)
    m = image_id.size
    arrays = {
        "genome": _array(path, "genome", (0, genes), (chunk_rows, genes)),
        "score": _array(path, "score", (0, m, choices), (chunk_rows, m, choices)),
        "correct": _array(path, "correct", (0, m, choices), (chunk_rows, m, choices)),
        "cost": _array(path, "cost", (0, choices), (chunk_rows, choices)),
        "image_id": _array(path, "image_id", (m,), (m,)),
        "done": _array(path, "done", (0,), (4096,)),
    }
    arrays["image_id"].write(image_id).result()
    attributes = {"schema": SCHEMA, "space": fingerprint}
    unfinished = path / "zarr.json.tmp"
    unfinished.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1))
    unfinished.replace(path / "zarr.json")
    return Records(path, fingerprint, arrays)


def open(path: str | Path, fingerprint: str | None = None, *, image_id: np.ndarray | None = None) -> Records:
    """Open a store, to read it or to write on.

    Args:
        path: the directory.
        fingerprint: the space it must be of, if given.
        image_id: int64[m], the images it must be about, if given.

    Raises:
        ValueError: if it is no store, damaged, of another schema or space, or about other images.
    """
    path = Path(path).absolute()
    found = _attributes(path)
    if found["schema"] != SCHEMA:
        raise ValueError(f"{path}: records of schema {found['schema']!r}, this version reads {SCHEMA}; collect again")
    if fingerprint not in (None, found["space"]):
        raise ValueError(f"{path}: records of space {found['space']!r}, but this space is {fingerprint!r}")
    try:
        arrays = {name: ts.open(_spec(path, name), open=True).result() for name in DTYPES}
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged records store: {first_line(error)[:200]}; pass --redo=collect to collect again"
        ) from error
    _check_shapes(path, arrays)
    store = Records(path, found["space"], arrays)
    if image_id is not None and not np.array_equal(store.read("image_id"), image_id):
        raise ValueError(
            f"{path}: records about other images than the {len(image_id)} given; pass --redo=collect to collect again"
        )
    return store


def resume(
    path: str | Path, fingerprint: str, *, genes: int, image_id: np.ndarray, choices: int = 1, chunk_rows: int = 16
) -> Records:
    """The store at `path`: opened if it stands there, else created. Arguments as in `create`.

    Raises:
        ValueError: as `open`, and if its genomes or choices are of another number.
    """
    if not (Path(path) / "zarr.json").exists():
        return create(path, fingerprint, genes=genes, image_id=image_id, choices=choices, chunk_rows=chunk_rows)
    store = open(path, fingerprint, image_id=image_id)
    found = (store.arrays["genome"].shape[1], store.arrays["score"].shape[2])
    if found != (genes, choices):
        raise ValueError(
            f"{path}: records of {found[0]} genes and {found[1]} choices, not {genes} and {choices}; "
            "pass --redo=collect to collect again"
        )
    return store


def _spec(path: Path, name: str) -> dict:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / name}/"}}


def _array(path: Path, name: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> ts.TensorStore:
    metadata = {
        "shape": shape,
        "data_type": DTYPES[name],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1}}, {"name": "crc32c"}],
    }
    return ts.open(_spec(path, name) | {"metadata": metadata}, create=True, delete_existing=True).result()


def _attributes(path: Path) -> dict:
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return {name: attributes[name] for name in ("schema", "space")}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no records store here, or its creation was interrupted; collect first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}/zarr.json: not the group of a records store; pass --redo=collect to collect again"
        ) from error


def _check_shapes(path: Path, arrays: dict[str, ts.TensorStore]) -> None:
    for name, array in arrays.items():
        if array.dtype.name != DTYPES[name]:
            raise ValueError(f"{path}: {name} is {array.dtype.name}, not {DTYPES[name]}; not a records store")
    rows, (m, s) = arrays["done"].shape[0], (arrays["image_id"].shape[0], arrays["cost"].shape[-1])
    tails = {"genome": arrays["genome"].shape[1:], "score": (m, s), "correct": (m, s), "cost": (s,)}
    for name, tail in tails.items():
        shape = arrays[name].shape
        if len(shape) != 1 + len(tail) or shape[1:] != tail or shape[0] < rows:
            raise ValueError(
                f"{path}: {name} has shape {shape}, which does not fit {rows} rows of {tail}; collect again"
            )
