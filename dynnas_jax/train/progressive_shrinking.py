"""Progressive shrinking: which choices the subnets of a step may use (Cai et al. 2020, "Once-for-All", section 3.3).

The phase is a function of the step: no one starts it, a resumed run is in the right one, and none compiles anew. Genes go
by kind, the last part of their names: "kernel", "depth", "expand", "width", "resolution".
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.search_space import SearchSpace

ORDER = ("kernel", "depth", "expand", "width")
PHASE_KEYS = ("share", "unlock", "learning_rate", "random_subnets")


class Allowed(NamedTuple):
    """What a step may do; arrays of one phase, or of all phases along a leading axis."""

    least: jax.Array  # int32[genes], the smallest index of each gene; the largest always may be used
    random_subnets: jax.Array  # int32[]
    learning_rate: jax.Array  # float32[], factor of the schedule's


class Phases(NamedTuple):
    """A whole schedule."""

    first_step: np.ndarray  # int32[phases]
    allowed: Allowed  # NumPy, [phases, ...]
    sort_channels: bool = False  # before a phase that unlocks numbers of channels
    restart: bool = False  # whether the schedule of the learning rate begins anew with each phase

    @property
    def most_subnets(self) -> int:
        """The largest number of random subnets in any phase."""
        return int(self.allowed.random_subnets.max())

    @property
    def starts(self) -> tuple[int, ...]:
        """The steps at which the schedule of the learning rate begins."""
        return tuple(self.first_step.tolist()) if self.restart else (0,)

    def at(self, step: jax.Array) -> Allowed:
        """What a traced step may do."""
        phase = jnp.searchsorted(jnp.asarray(self.first_step), step, side="right") - 1
        return jax.tree.map(lambda rows: jnp.asarray(rows)[phase], self.allowed)

    def sorted_before(self, step: int, channel_genes: Sequence[int]) -> np.ndarray | None:
        """int32[genes], the smallest choices in use so far, if the channels are to be sorted before this step; else None."""
        phase = int(np.searchsorted(self.first_step, step))
        if not self.sort_channels or step == 0 or phase == len(self.first_step) or self.first_step[phase] != step:
            return None
        before, after = self.allowed.least[phase - 1], self.allowed.least[phase]
        return before if (before != after)[list(channel_genes)].any() else None

    def on_host(self, step: int) -> Allowed:
        """The same for a step that is a Python int, without JAX."""
        phase = int(np.searchsorted(self.first_step, step, side="right")) - 1
        return Allowed(*(rows[phase] for rows in self.allowed))


def schedule(
    space: SearchSpace,
    steps: int,
    *,
    random_subnets: int,
    order: Sequence[str] | None = None,
    largest_share: float = 0.25,
    phases: Sequence[dict] | None = None,
    sort_channels: bool = True,
    restart: bool = True,
) -> Phases:
    """Phases over `steps`: first the largest subnet alone, then one kind of gene after the other, all its values at once.

    Args:
      space: whose genes are unlocked. Resolution is free from the start unless it is named.
      random_subnets: of every phase that says nothing else.
      order: kinds; "kernel", "depth", "expand", "width" as far as the space has them if None.
      largest_share: part of the steps before anything is unlocked; the other phases share the rest evenly.
      phases: instead of `order` and `largest_share`, one dict a phase: `share` of the steps (1 in sum), `unlock`, a tuple of
        kinds or a dict from kinds to the number of largest values that may be used from then on; optionally
        `learning_rate`, a factor of the schedule's, and `random_subnets`.
      sort_channels: whether channels are put in the order of their importance before numbers of them are unlocked.
      restart: whether the learning rate begins anew with each phase, warm-up and cosine, as in the paper, where each phase is
        a training of its own; else one schedule spans all steps, and what is unlocked last learns at its end.

    Raises:
      ValueError: for a kind the space does not have (the nearest is named), phases that unlock nothing or leave a kind locked
        to the end, shares that do not sum to 1, or more phases than steps.
    """
    kinds: dict[str, int] = {}  # and the most values a gene of the kind has
    for gene, size in zip(space.genes, space.sizes, strict=True):
        kinds[kind_of(gene.name)] = max(size, kinds.get(kind_of(gene.name), 0))
    if phases is None:
        order = [kind for kind in ORDER if kind in kinds] if order is None else list(order)
        if not 0 <= largest_share < 1:
            raise ValueError(f"progressive_shrinking: largest_share is {largest_share}, must be at least 0 and below 1")
        if not order:
            raise ValueError("progressive_shrinking: order unlocks nothing; name kinds of genes, such as 'kernel'")
        shares = [(1 - largest_share) / len(order)] * len(order)
        phases = [{"share": share, "unlock": (kind,)} for share, kind in zip(shares, order, strict=True)]
        phases = ([{"share": largest_share, "unlock": ()}] if largest_share else []) + phases
    _check(phases, kinds)
    named = {kind for phase in phases for kind in phase["unlock"]}
    free = {"resolution"} - named
    if locked := sorted(set(kinds) - named - free):
        raise ValueError(f"progressive_shrinking: {locked[0]!r} stays locked to the end, but a search would use it")
    sizes = np.asarray(space.sizes, np.int32)
    usable = {kind: (10**6 if kind in free else 1) for kind in kinds}
    rows = []
    for phase in phases:
        unlocked = phase["unlock"]
        usable |= unlocked if isinstance(unlocked, dict) else dict.fromkeys(unlocked, 10**6)
        count = np.asarray([usable[kind_of(gene.name)] for gene in space.genes], np.int32)
        subnets, rate = phase.get("random_subnets", random_subnets), phase.get("learning_rate", 1.0)
        rows.append(Allowed(np.maximum(sizes - count, 0), np.int32(subnets), np.float32(rate)))
    allowed = Allowed(*(np.stack(column) for column in zip(*rows, strict=True)))
    if allowed.least[-1].any():
        partial = next(gene for gene, least in zip(space.genes, allowed.least[-1], strict=True) if least)
        raise ValueError(f"progressive_shrinking: {partial.name!r} is not wholly unlocked at the end; name more values")
    return Phases(_first_steps(phases, steps), allowed, sort_channels, restart)


def kind_of(gene: str) -> str:
    """The kind of a gene: "stage1.block0.kernel" is a "kernel"."""
    return gene.rpartition(".")[2]


def _first_steps(phases: Sequence[dict], steps: int) -> np.ndarray:
    ends = np.cumsum([phase["share"] for phase in phases])
    first = np.round(np.concatenate([[0], ends[:-1]]) * steps).astype(np.int32)
    if len(np.unique(first)) < len(first) or first[-1] >= steps:
        raise ValueError(f"progressive_shrinking: {len(phases)} phases do not fit {steps} steps; give more steps")
    return first


def _check(phases: Sequence[dict], kinds: dict[str, int]) -> None:
    """Every phase is whole, its kinds exist, and it changes something."""
    for number, phase in enumerate(phases):
        where = f"progressive_shrinking: phase {number}"
        if not isinstance(phase, dict) or not {"share", "unlock"} <= set(phase) <= set(PHASE_KEYS):
            raise ValueError(f"{where} is {phase!r}, must be a dict with share and unlock, of {', '.join(PHASE_KEYS)}")
        unlock = phase["unlock"]
        if isinstance(unlock, str) or not isinstance(unlock, (dict, tuple, list)):
            raise ValueError(f"{where} unlocks {unlock!r}, must be a tuple of kinds, or a dict of kinds and numbers")
        for kind in unlock:
            if kind not in kinds:
                near = difflib.get_close_matches(str(kind), sorted(kinds), n=1, cutoff=0.0)
                raise ValueError(f"{where} unlocks {kind!r}, which no gene of the space is; did you mean {near[0]!r}?")
        for kind, values in unlock.items() if isinstance(unlock, dict) else ():
            if type(values) is not int or values < 1:
                raise ValueError(f"{where} unlocks {values!r} values of {kind!r}, must be a whole number of at least 1")
            if values > kinds[kind]:
                raise ValueError(f"{where} unlocks {values} values of {kind!r}, which has at most {kinds[kind]}")
        if not phase["share"] > 0:
            raise ValueError(f"{where} has share {phase['share']!r}, must be above 0")
        if type(phase.get("random_subnets", 0)) is not int or phase.get("random_subnets", 0) < 0:
            raise ValueError(
                f"{where} has random_subnets {phase['random_subnets']!r}, must be a whole number, 0 or more"
            )
        if not phase.get("learning_rate", 1.0) >= 0:
            raise ValueError(f"{where} has learning_rate {phase['learning_rate']!r}, must not be negative")
    total = math.fsum(phase["share"] for phase in phases)
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise ValueError(f"progressive_shrinking: the shares of the phases sum to {total:.6g}, must be 1")
    if not any(phase["unlock"] for phase in phases):
        raise ValueError("progressive_shrinking: the phases unlock nothing; name kinds of genes in unlock")
