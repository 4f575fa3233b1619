"""Builds latency tables: every distinct block of a space as TFLite, timed by LiteRT beside whole nets, and corrected by these.

A block that runs alone is not what it is in a net: it pays for a call of its own, and finds its weights in the cache. What is
left of it in a net is fitted to whole nets, timed in the same rounds (see `fit`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import nnls
from tqdm import tqdm

from dynnas_jax.export import functions, tflite
from dynnas_jax.export import rounds as timing
from dynnas_jax.export.functions import Function

LITERT, JAX = RUNTIMES = ("litert", "jax")
AT_ONCE = 32  # blocks of one conversion, whose start takes longer than a block
FEWEST_NETS = 4  # for the three unknowns of the fit
HIGHEST, BRIGHTEST = 2.0, 255.0  # of random inputs, which are drawn from 0 on: of feature maps, and of images
SAMPLES = 4  # random inputs that set the int8 scales; no time depends on them


class Part(NamedTuple):
    """A block, or a whole net, to be timed."""

    name: str
    function: Function
    blocks: tuple[str, ...] = ()  # of a net: the names of what it consists of


def block(name: str, run: Callable[..., Any], shapes: Sequence[tuple[int, ...]], images: bool = False) -> Part:
    """A block as a part of its own.

    Args:
      run: float32 arrays of `shapes`, each the batch of 1 included -> any pytree of arrays.
      images: whether the first of what it reads are images.
    """
    first = functions.IMAGE if images else "input0"
    names = [first, *(f"input{place}" for place in range(1, len(shapes)))]

    def call(arrays: dict) -> dict:
        outputs = jax.tree.leaves(run(*(arrays[each] for each in names)))
        return {f"output{place}": output for place, output in enumerate(outputs)}

    return Part(name, Function(call, dict(zip(names, map(tuple, shapes), strict=True))))


EMPTY = block("a call of LiteRT", lambda x: x + np.float32(1), [(1, 1)])


class Fit(NamedTuple):
    """What the measured blocks become in a net; all in ms."""

    overhead_ms: float  # of a net
    block_ms: dict[str, tuple[float, float]]  # of each block, and its standard deviation
    how: dict  # JSON-able


def timed(
    parts: Sequence[Part],
    folder: Path,
    *,
    plan: dict,
    precision: str,
    runtime: str = LITERT,
    threads: int = 1,
    rounds: int = 30,
    open_model: Callable[[bytes, int], Callable[[], object]] = lambda content, threads: (
        timing.Invocation(content, threads).run
    ),
    **clock: Any,
) -> np.ndarray:
    """Milliseconds float64[rounds, n] of parts.

    What is done stands in `folder`, from which an interrupted call goes on: the files, and every finished round.

    Args:
      plan: JSON-able, what the folder must have been begun for.
      runtime: `LITERT`, or `JAX`: programs on the device that JAX runs on, in float32.

    Raises:
      ValueError: for a folder that was begun for something else, or a part that TFLite cannot express.
    """
    _claim(folder, {**plan, "parts": [part.name for part in parts]})
    if runtime == JAX:
        runs = _compiled(parts)
    else:
        runs = [open_model(content, threads) for content in _converted(parts, folder, precision)]
    with tqdm(total=rounds * len(runs), desc="timing", unit="burst", disable=None) as bar:
        return timing.measure(runs, folder / "rounds.jsonl", rounds=rounds, tick=bar.update, **clock)


def _claim(folder: Path, plan: dict) -> None:
    """Marks a folder as begun for a plan."""
    folder.mkdir(parents=True, exist_ok=True)
    file, text = folder / "plan.json", json.dumps(plan, indent=1)
    if file.exists():
        if file.read_text() != text:
            raise ValueError(f"{folder} was begun for another table; remove it, or choose another --output")
        return
    if any(folder.iterdir()):
        raise ValueError(f"{folder} was not made by dynnas; choose another --output")
    file.write_text(text)


def _compiled(parts: Sequence[Part]) -> list[Callable[[], object]]:
    """Every part as a call of its JAX program, which returns when the device is done; the inputs are on the device."""
    runs = []
    for part in tqdm(parts, desc="compiling", unit="part", disable=None):
        inputs = jax.device_put({name: values[:1] for name, values in drawn_inputs(part).items()})
        runs.append(functools.partial(_done, jax.jit(part.function.call).lower(inputs).compile(), inputs))
    return runs


def _done(program: Callable[[dict], Any], inputs: dict) -> None:
    jax.block_until_ready(program(inputs))


def _converted(parts: Sequence[Part], folder: Path, precision: str) -> list[bytes]:
    """Every part as the content of a TFLite file; groups of them that stand in the folder are not converted again."""
    groups, size = [[]], 0
    for index, part in enumerate(parts):
        if groups[-1] and size + max(1, len(part.blocks)) > AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += max(1, len(part.blocks))
    contents: list[bytes] = []
    with tqdm(total=len(parts), desc=f"converting to {precision}", unit="part", disable=None) as bar:
        for number, group in enumerate(groups):
            path = folder / f"parts{number:03d}.tflite"
            if not path.exists():
                _convert([parts[index] for index in group], path, precision)
            found = timing.cut(path.read_bytes())
            contents += [found[f"part{place}"] for place in range(len(group))]
            bar.update(len(group))
    return contents


def _convert(parts: Sequence[Part], path: Path, precision: str) -> None:
    """One file of several parts, its signatures numbered."""
    signatures = {
        f"part{place}": tflite.Signature(*part.function, drawn_inputs(part)) for place, part in enumerate(parts)
    }
    with tflite.saved(signatures) as traced:
        traced.write(path, precision=precision)


def drawn_inputs(part: Part) -> dict[str, np.ndarray]:
    """float32[SAMPLES, ...] for every input of a part, by its name."""
    generator = np.random.default_rng(0)
    return {
        name: generator.uniform(0, BRIGHTEST if name == functions.IMAGE else HIGHEST, (SAMPLES, *shape[1:])).astype(
            np.float32
        )
        for name, shape in part.function.shapes.items()
    }


def check_nets(parts: Sequence[Part]) -> None:
    """Raises ValueError for fewer nets than the fit has unknowns."""
    if (count := sum(bool(part.blocks) for part in parts)) < FEWEST_NETS:
        raise ValueError(
            f"{count} nets to fit the blocks to, must be at least {FEWEST_NETS}; of several exits each is one, with what it adds"
        )


def fit(parts: Sequence[Part], samples: np.ndarray) -> Fit:
    """What blocks take in nets, and a net besides, from the measured times ms float64[rounds, n] of both.

    A net takes the overhead o and its blocks' x_b = e + c (t_b - t_call): t_b is a block's time alone, t_call that of
    `EMPTY`, which is next to nothing but a call of LiteRT; c scales what the block does, e is what each costs a net besides.
    o, e and c are the non-negative ones with the least sum of squared relative errors of the nets.

    Raises:
      ValueError: for fewer nets than the fit has unknowns.
    """
    middle, spread = timing.typical(samples)
    call = middle[[part.name for part in parts].index(EMPTY.name)]
    own = np.maximum(middle - call, 0)
    alone = {part.name: i for i, part in enumerate(parts) if not part.blocks and part.name != EMPTY.name}
    nets = {i: [alone[name] for name in part.blocks] for i, part in enumerate(parts) if part.blocks}
    check_nets(parts)
    columns = np.asarray([[1, len(blocks), own[blocks].sum()] for blocks in nets.values()])
    measured = middle[list(nets)]
    (overhead, each, scale), _ = nnls(columns / measured[:, None], np.ones(len(nets)))
    errors = np.abs(columns @ [overhead, each, scale] / measured - 1)
    block_ms = {name: (float(each + scale * own[i]), float(scale * spread[i])) for name, i in alone.items()}
    unknowns = {"call_ms": float(call), "scale": float(scale), "each_ms": float(each)}
    return Fit(float(overhead), block_ms, {"nets": len(nets), "median_error": float(np.median(errors)), **unknowns})
