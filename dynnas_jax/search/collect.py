"""Evaluating subnets in bulk: one compiled program for all genomes, statistics recalibrated inside."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from dynnas_jax import devices, processes, progress, records
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.data.resize import resized
from dynnas_jax.data.splits import in_batches
from dynnas_jax.elastic import Supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import width as width_of
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import losses, preemption
from dynnas_jax.train.agreement import agreed
from dynnas_jax.train.calibration import batches, recalibrate

CALIBRATION_BATCH = 128


class Answers(NamedTuple):
    """What subnets answered on the images of a split."""

    score: np.ndarray  # float32[n, m], confidence in [0, 1]; [n, m, S] of nets of S exits
    correct: np.ndarray  # bool, of the same shape


class Evaluator:
    """evaluate(variables, genomes int32[n, genes]) -> Answers on a split.

    Every genome runs masked on the largest net with its own statistics of the calibration images uint8[n, h, w, c]. The
    number of genomes, about `chunk` of them a call, is an argument of the program, not a shape: it compiles once for each
    resolution, whatever is asked. Genomes are dealt out to the devices of the mesh, which hold all images each; every
    process calls with the same genomes and has all answers.

    Args:
      form: "mapped", a device's genomes one after the other; "vmapped", `width` of them together, in their number's memory of
        one; "auto", what is fastest on this backend as far as it was measured, and takes no more than `width.MOST_PIXELS`.
      width: 0 for all that a device has in a call, or with "auto" by itself; rounded down to a divisor of their number.
      mesh: all devices of all processes by default.
      kept: bool[classes, classes], for an image of each class (row) the logits that its answer is chosen from; None: all.

    Raises:
      ValueError: for an unknown score or form, a width that does not fit it, or no calibration images.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: np.ndarray,
        split: Any,
        *,
        score: str = DEFAULT_SCORE,
        calibration_batch: int = CALIBRATION_BATCH,
        chunk: int = 16,
        form: str = "auto",
        width: int = 0,
        mesh: Mesh | None = None,
        kept: np.ndarray | None = None,
    ):
        if score not in SCORES:
            raise ValueError(f"score is {score!r}, choose from {list(SCORES)}")
        width_of.check(form, width)
        self.supernet, self.split, self.chunk = supernet, split, chunk
        self.mesh = mesh or devices.data_mesh()
        each, space = -(-chunk // self.mesh.size), supernet.space
        resolutions = space.sizes[space.index("resolution")] if "resolution" in space else 1
        # A call serves one resolution: of a mere chunk, many devices would get nothing.
        self.at_once = chunk if self.mesh.size == 1 else each * self.mesh.size * resolutions
        images, labels = in_batches(split, min(256, len(split)))
        calibration = batches(calibration, min(calibration_batch, len(calibration)))
        self.score, self.data = SCORES[score], devices.replicated(self.mesh, (calibration, images, labels))
        self.width = width_of.chosen(form, width, each, max(batch[0, ..., 0].size for batch in (calibration, images)))
        program = functools.partial(_answer_all, supernet, self.score, self.mesh, self.width, kept)
        whole = NamedSharding(self.mesh, PartitionSpec())
        self.program = processes.Together(jax.jit(program, static_argnames="resolution", out_shardings=whole))
        self._compiled, self._subnets, self._seconds = set(), 0, 0.0

    def __call__(self, variables: dict, genomes: np.ndarray) -> Answers:
        m, variables = len(self.split), self.placed(variables)
        shape = len(genomes), m, *_exits(self.supernet)
        answers = Answers(np.zeros(shape, np.float32), np.zeros(shape, bool))
        resolutions = np.asarray([self.supernet.arch(genome).resolution for genome in np.asarray(genomes)])
        with progress.counted("evaluating", len(genomes), "subnets") as advance:
            for resolution in np.unique(resolutions).tolist():
                mine = np.flatnonzero(resolutions == resolution)
                for which in (mine[start : start + self.at_once] for start in range(0, len(mine), self.at_once)):
                    found = self._answer(variables, np.asarray(genomes)[which], resolution)
                    for all_rows, some in zip(answers, found, strict=True):
                        all_rows[which] = some[: len(which), :m]
                    advance(len(which))
        return answers

    def placed(self, variables: dict) -> dict:
        """The variables on every device of the mesh; they stay where they lie so already."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        if all(isinstance(leaf, jax.Array) and leaf.sharding == whole for leaf in jax.tree.leaves(variables)):
            return variables
        # What one process has on its own devices goes to those of all through its memory.
        return devices.replicated(self.mesh, devices.on_host(variables) if processes.several() else variables)

    def _answer(self, variables: dict, genomes: np.ndarray, resolution: int) -> Answers:
        """The program's answers to at most `at_once` genomes of one resolution, with rows behind theirs."""
        rows = np.zeros((self.at_once, genomes.shape[1]), np.int32)
        rows[: len(genomes)] = genomes
        asked = devices.replicated(self.mesh, (rows, np.int32(len(genomes))))
        start = time.perf_counter()
        found = devices.on_host(self.program(variables, *asked, *self.data, resolution=resolution))
        if resolution in self._compiled:
            self._subnets, self._seconds = self._subnets + len(genomes), self._seconds + time.perf_counter() - start
        self._compiled.add(resolution)
        return Answers(*found)

    @property
    def subnets_per_s(self) -> float | None:
        """The speed of all calls but the first of each resolution, which compile; None before there are any."""
        return self._subnets / self._seconds if self._subnets else None


def _answer_all(
    supernet, score, mesh, width, kept, variables, genomes, count, calibration, images, labels, *, resolution
) -> Answers:
    """Answers to genomes int32[n, g], n a multiple of devices times width; rows from `count` on mean nothing."""
    axes, whole = mesh.axis_names, PartitionSpec()

    def own(variables, genomes, count, calibration, images, labels):
        # Dealt out one by one, so that the devices' numbers differ by one at most.
        genomes = genomes.reshape(-1, mesh.size, genomes.shape[-1])[:, jax.lax.axis_index(axes)]
        count = (count - jax.lax.axis_index(axes) + mesh.size - 1) // mesh.size
        # Batch by batch, since the pixels are floats meanwhile.
        calibration, images = (jax.lax.map(lambda b: resized(b, resolution), x) for x in (calibration, images))
        answer = functools.partial(answer_one, supernet, score, variables, calibration, images, labels, kept=kept)
        shape = len(labels), *_exits(supernet)
        return jax.tree.map(lambda rows: rows[:, None], _in_turn(answer, genomes, count, width, shape))

    spread = jax.shard_map(own, mesh=mesh, in_specs=whole, out_specs=PartitionSpec(None, axes), check_vma=False)
    answers = spread(variables, genomes, count, calibration, images, labels)
    return jax.tree.map(lambda rows: rows.reshape(len(genomes), len(labels), *_exits(supernet)), answers)


def _exits(supernet: Supernet) -> tuple[int, ...]:
    """The last axis of answers of nets of several exits; none of others."""
    return (len(supernet.exits),) if supernet.exits else ()


def _in_turn(answer: Callable, genomes: jax.Array, count: jax.Array, width: int, shape: tuple[int, ...]) -> Answers:
    """The answers to the first `count` genomes or a few more, `width` at a time."""

    def body(i, answers):
        some = jax.lax.dynamic_slice_in_dim(genomes, i * width, width)
        # Alone without a batch axis: vmap over one would make the masked kernels batched ones.
        found = jax.vmap(answer)(some) if width > 1 else jax.tree.map(lambda row: row[None], answer(some[0]))
        put = lambda rows, new: jax.lax.dynamic_update_slice_in_dim(rows, new, i * width, 0)  # noqa: E731
        return jax.tree.map(put, answers, found)

    score = jnp.zeros((len(genomes), *shape), jnp.float32)
    return jax.lax.fori_loop(0, (count + width - 1) // width, body, Answers(score, score > 0))


def answer_one(
    supernet: Supernet,
    score: Callable[[jax.Array], jax.Array],
    variables: dict,
    calibration: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    genome: jax.Array,
    kept: np.ndarray | None = None,
) -> Answers:
    """The answers of one subnet int32[genes]; pure and traceable. One that is no number has score 0 and is wrong.

    Args:
      score: of `confidence.SCORES`.
      variables: the supernet's, in the role the subnet is to answer in.
      calibration: uint8[batches, b, h, w, c], for its statistics.
      images: uint8[batches, b, h, w, c], at the same resolution.
      labels: int32[batches * b].
      kept: as in `Evaluator`.
    """
    net = supernet.masked_net()
    own = recalibrate(net, mask_variables(supernet, variables, genome), calibration)
    logits = jax.lax.map(lambda batch: jnp.stack(supernet.answers(net.apply(own, batch)), axis=1), images)
    logits = logits.reshape(len(labels), *_exits(supernet), -1)
    if kept is not None:
        own = jnp.asarray(kept)[labels]
        logits = losses.among(logits, own[:, None] if supernet.exits else own)
    labels = labels[:, None] if supernet.exits else labels
    sure = score(logits).astype(jnp.float32)
    known = jnp.isfinite(sure)
    return Answers(jnp.where(known, sure, 0.0), known & (logits.argmax(-1).astype(jnp.int32) == labels))


def images_each(calibration: int, held_out: int, calibration_batch: int = CALIBRATION_BATCH) -> int:
    """Images that an `Evaluator` forwards for one subnet in one role: whole batches for its statistics, and the split."""
    batch = min(calibration_batch, calibration)
    return calibration // batch * batch + held_out


def distinct(space: SearchSpace, key: jax.Array, count: int, *, pairs: bool = False) -> np.ndarray:
    """int32[n, genes]: the smallest, the largest and random genomes, no two of the same subnet.

    n is `count`, or less where four times as many draws do not hold so many.

    Args:
      pairs: the random ones are drawn as pairs, little no larger than big in any gene: of two that are drawn apart, hardly
        ever one fits below the other.
    """
    rows = PairSpace(space).sample(key, 2 * count).reshape(4 * count, -1) if pairs else space.sample(key, 4 * count)
    drawn = np.asarray(jax.jit(jax.vmap(space.canonical))(rows))
    ends = np.stack([space.smallest, np.asarray(space.canonical(space.largest))])
    rows = np.concatenate([ends, drawn])
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return rows[first][:count]


def roles(supernet: Supernet, variables: dict) -> tuple[dict, ...]:
    """The variables that a subnet runs on, in each of its roles: as little and as big where it is trained for both."""
    return (supernet.coupling.as_little(variables), variables) if supernet.coupling else (variables,)


def run(
    evaluate: Evaluator, variables: dict, genomes: np.ndarray, cost: Callable[[np.ndarray], int], path: Path
) -> records.Records:
    """Evaluates genomes int32[n, genes] into the records store at `path`; rows done before are not done again.

    The choices of the store are the exits of a net, or the `roles` of a subnet. It costs the same in each role, alone.
    Of several processes, which all call this, the first one reads and writes; `path` must be the same file for all.

    Args:
      cost: genome -> what it costs, such as `costs.macs.CostTable.exact`; or what is spent up to each exit, [S].

    Raises:
      ValueError: if the store at `path` is of another space or split, or holds other genomes.
    """
    store = None

    def begin() -> list[bool]:
        nonlocal store
        store, done = _resume(evaluate, genomes, path)
        return done.tolist()

    done = np.asarray(agreed(begin), bool)
    parts = roles(evaluate.supernet, evaluate.placed(variables))
    before = int(done.sum())
    bar = tqdm(
        total=len(genomes),
        initial=before,
        desc="collect",
        unit="subnet",
        disable=not processes.is_first() or None,
    )
    counted = progress.counted("collecting", len(genomes), "subnets", done=before)
    with bar, counted as advance, preemption.together() as asked:
        for start in range(0, len(genomes), evaluate.at_once):
            rows = genomes[start : start + evaluate.at_once]
            left = len(rows) - int(done[start : start + len(rows)].sum())
            if not left:
                continue
            found = [evaluate(own, rows) for own in parts]
            answers = found[0] if evaluate.supernet.exits else _of_roles(found)

            def write(start=start, rows=rows, answers=answers) -> None:
                nonlocal store
                score, correct = answers
                costs = [np.broadcast_to(cost(genome), score.shape[-1:]) for genome in rows]
                costs = np.asarray(costs, np.float64)
                store = store.write(start, genome=rows, score=score, correct=correct, cost=costs)

            agreed(write)
            bar.update(left)
            advance(left)
            if asked():
                raise preemption.Preempted("terminated between subnets; the same command goes on from there")
    return records.open(path, evaluate.supernet.space.fingerprint) if store is None else store


def _of_roles(found: list[Answers]) -> Answers:
    """Answers [n, m, roles] from those of each role."""
    return Answers(*(np.stack(each, axis=-1) for each in zip(*found, strict=True)))


def _resume(evaluate: Evaluator, genomes: np.ndarray, path: Path) -> tuple[records.Records, np.ndarray]:
    """The store at `path`, and bool[n]: which of the genomes are done there."""
    space, image_id = evaluate.supernet.space, evaluate.split.image_id
    choices = len(evaluate.supernet.exits) or (2 if evaluate.supernet.coupling else 1)
    options = {"genes": len(space.genes), "image_id": image_id, "choices": choices, "chunk_rows": evaluate.chunk}
    store = records.resume(path, space.fingerprint, **options)
    done = store.done()
    old = np.flatnonzero(done)
    if len(done) > len(genomes) or not np.array_equal(store.read("genome", old), genomes[old]):
        raise ValueError(f"{path}: holds records of other genomes; pass --redo=collect to collect again")
    return store, np.pad(done, (0, len(genomes) - len(done)))
