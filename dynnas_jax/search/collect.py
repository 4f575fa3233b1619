"""Evaluating subnets in bulk: one compiled program for all genomes, statistics recalibrated inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dynnas_jax import records
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.data.resize import resized
from dynnas_jax.data.splits import in_batches
from dynnas_jax.elastic import Supernet, mask_variables
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train.calibration import batches, recalibrate


class Answers(NamedTuple):
    """What subnets answered on the images of a split."""

    score: np.ndarray  # float32[n, m], confidence in [0, 1]
    correct: np.ndarray  # bool[n, m]


class Evaluator:
    """evaluate(variables, genomes int32[n, genes]) -> Answers on a split.

    Every genome runs masked on the largest net with its own statistics of the calibration images uint8[n, h, w, c]. The
    number of genomes, `chunk` of them a call, is an argument of the program, not a shape: it compiles once for each
    resolution, whatever is asked.

    Raises:
      ValueError: for an unknown score, or no calibration images.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: np.ndarray,
        split: Any,
        *,
        score: str = DEFAULT_SCORE,
        calibration_batch: int = 128,
        chunk: int = 16,
    ):
        if score not in SCORES:
            raise ValueError(f"score is {score!r}, choose from {list(SCORES)}")
        self.supernet, self.split, self.chunk = supernet, split, chunk
        images, labels = in_batches(split, min(256, len(split)))
        calibration = batches(calibration, min(calibration_batch, len(calibration)))
        self._data = jax.device_put((calibration, images, labels))
        program = functools.partial(_answer_all, supernet, SCORES[score], chunk)
        self.program = jax.jit(program, static_argnames="resolution")

    def __call__(self, variables: dict, genomes: np.ndarray) -> Answers:
        m = len(self.split)
        answers = Answers(np.zeros((len(genomes), m), np.float32), np.zeros((len(genomes), m), bool))
        resolutions = np.asarray([self.supernet.arch(genome).resolution for genome in np.asarray(genomes)])
        for resolution in np.unique(resolutions).tolist():
            mine = np.flatnonzero(resolutions == resolution)
            for which in (mine[start : start + self.chunk] for start in range(0, len(mine), self.chunk)):
                rows = np.zeros((self.chunk, len(self.supernet.space.genes)), np.int32)
                rows[: len(which)] = genomes[which]
                found = self.program(variables, rows, np.int32(len(which)), *self._data, resolution=resolution)
                for all_rows, some in zip(answers, found, strict=True):
                    all_rows[which] = np.asarray(some)[: len(which), :m]
        return answers


def _answer_all(supernet, score, chunk, variables, genomes, count, calibration, images, labels, *, resolution):
    """(score float32[chunk, m], correct bool[chunk, m]); rows from `count` on stay zero."""
    net = supernet.largest_net()
    # Batch by batch, since the pixels are floats meanwhile.
    calibration, images = (jax.lax.map(lambda b: resized(b, resolution), x) for x in (calibration, images))

    def one(genome):
        own = recalibrate(net, mask_variables(supernet, variables, genome), calibration)
        logits = jax.lax.map(lambda batch: net.apply(own, batch)[0], images)
        logits = logits.reshape(-1, logits.shape[-1])
        return score(logits).astype(jnp.float32), logits.argmax(-1).astype(jnp.int32) == labels

    def body(i, answers):
        return jax.tree.map(lambda rows, row: rows.at[i].set(row), answers, one(genomes[i]))

    scores = jnp.zeros((chunk, len(labels)), jnp.float32)
    return jax.lax.fori_loop(0, count, body, (scores, scores > 0))


def distinct(space: SearchSpace, key: jax.Array, count: int) -> np.ndarray:
    """int32[n, genes]: the smallest, the largest and random genomes, no two of the same subnet.

    n is `count`, or less where four times as many draws do not hold so many.
    """
    drawn = np.asarray(jax.jit(jax.vmap(space.canonical))(space.sample(key, 4 * count)))
    ends = np.stack([space.smallest, np.asarray(space.canonical(space.largest))])
    rows = np.concatenate([ends, drawn])
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return rows[first][:count]


def run(
    evaluate: Evaluator, variables: dict, genomes: np.ndarray, cost: Callable[[np.ndarray], int], path: Path
) -> records.Records:
    """Evaluates genomes int32[n, genes] into the records store at `path`; rows done before are not done again.

    Args:
      cost: genome -> what it costs, such as `costs.macs.CostTable.exact`.

    Raises:
      ValueError: if the store at `path` is of another space or split, or holds other genomes.
    """
    space, split = evaluate.supernet.space, evaluate.split
    store = records.resume(
        path, space.fingerprint, genes=len(space.genes), image_id=split.image_id, chunk_rows=evaluate.chunk
    )
    done = store.done()
    old = np.flatnonzero(done)
    if len(done) > len(genomes) or not np.array_equal(store.read("genome", old), genomes[old]):
        raise ValueError(f"{path}: holds records of other genomes; pass --redo=collect to collect again")
    with tqdm(total=len(genomes), initial=len(old), desc="collect", unit="subnet") as bar:
        for start in range(0, len(genomes), evaluate.chunk):
            rows = genomes[start : start + evaluate.chunk]
            if done[start : start + len(rows)].sum() == len(rows):
                continue
            answers = evaluate(variables, rows)
            costs = np.asarray([[cost(genome)] for genome in rows], np.float64)
            store = store.write(
                start, genome=rows, score=answers.score[..., None], correct=answers.correct[..., None], cost=costs
            )
            bar.update(len(rows) - int(done[start : start + len(rows)].sum()))
    return store
