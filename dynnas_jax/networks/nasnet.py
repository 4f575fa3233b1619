"""NASNet-A (Zoph et al. 2018, arXiv 1707.07012): stages of any number of normal cells, a reduction cell before all but the first.

A cell reads the outputs of the two cells before it. The names (N @ P): N normal cells a stage, P channels before the classifier.
The auxiliary classifier that the authors train with is not here. MACs count separable convolutions as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.elastic import DROP_PATH, Block
from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.chains import ChainArch, ChainNet, Stem, check_counts, classified, conv_norm
from dynnas_jax.networks.mbconv import Numerics

STEMS = ("3x3", "3x3 and two cells")


class Pair(NamedTuple):
    """One of a cell's five sums: two operations, each on one of the hidden states."""

    left: str
    left_input: int  # 0 the last cell's output, 1 that of the cell before it, 2 and up the sums so far
    right: str
    right_input: int


# The cells of figure 4; "sep5" is a separable convolution of 5x5 twice, pooling is 3x3.
NORMAL = (
    Pair("sep5", 0, "sep3", 1),
    Pair("sep5", 1, "sep3", 1),
    Pair("avg", 0, "identity", 1),
    Pair("avg", 1, "avg", 1),
    Pair("sep3", 0, "identity", 0),
)
REDUCTION = (
    Pair("sep5", 0, "sep7", 1),
    Pair("max", 0, "sep7", 1),
    Pair("avg", 0, "sep5", 1),
    Pair("identity", 3, "avg", 2),
    Pair("sep3", 2, "max", 0),
)


class Carry(NamedTuple):
    """What goes from cell to cell: outputs [b, h, w, c]."""

    before: jax.Array | None  # of the cell before the last one
    last: jax.Array


@dataclass(frozen=True)
class CellSpec:
    """One cell."""

    filters: int
    reduction: bool  # halves height and width
    skips: bool  # its successor reads what it read as `before`, in place of its `last`


@dataclass(frozen=True, kw_only=True)
class Arch(ChainArch):
    """A whole NASNet-A."""

    cells: tuple[int, ...]  # normal cells of each stage
    filters: int  # of the cells of the first stage; doubled at every reduction
    stem_out: int
    stem: str  # "3x3", or with stride 2 and followed by two reduction cells of a quarter and half the filters
    skip_reduction: bool  # whether the cell behind a reduction reads, as second input, what the reduction read so
    keep_path: (
        float  # with how much probability the last cell keeps each path in training, at the end; all at its start
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(cells=self.cells, filters=self.filters, stem_out=self.stem_out)
        if self.stem not in STEMS:
            raise ValueError(f"stem is {self.stem!r}, choose from {list(STEMS)}")
        if self.stem == STEMS[1] and self.filters % 4:
            raise ValueError(f"filters is {self.filters}, must be a multiple of 4: the stem's first cell has a quarter")
        if not 0 < self.keep_path <= 1:
            raise ValueError(f"keep_path is {self.keep_path}, must be above 0 and at most 1")

    def named_cells(self) -> tuple[tuple[str, CellSpec], ...]:
        """The cells between stem and head, with their names in the variables."""
        rows = []
        if self.stem == STEMS[1]:
            rows += [("stem_cell0", self.filters // 4, True, False), ("stem_cell1", self.filters // 2, True, False)]
        for stage, count in enumerate(self.cells, 1):
            filters = self.filters * 2 ** (stage - 1)
            if stage > 1:
                rows.append((f"reduction{stage - 1}", filters, True, self.skip_reduction))
            rows += [(f"stage{stage}_cell{i}", filters, False, False) for i in range(count)]
        return tuple((name, CellSpec(*rest)) for name, *rest in rows)

    def chain(self, numerics: Numerics, progress: Any = 1.0) -> tuple[Block, ...]:
        """stem, stage1_cell0, ..., reduction1, ..., head; `progress` in [0, 1] is how far training is."""
        stem, cell, head = (numerics.remade(module) for module in (CellStem, Cell, Head))
        links = [Block("stem", stem(self, numerics, name="stem"))]
        cells = self.named_cells()
        for i, (name, spec) in enumerate(cells, 1):
            # A deeper cell drops more, and more so later in training.
            keep = 1.0 if self.keep_path == 1 else 1 - i / len(cells) * (1 - self.keep_path) * progress
            links.append(Block(name, cell(spec, numerics, keep, name=name)))
        return (*links, Block("head", head(self.classes, name="head")))


class CellStem(nn.Module):
    """The first convolution and its norm, without an activation: every cell starts with one."""

    arch: Arch
    numerics: Numerics

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Carry:
        stride = 1 if self.arch.stem == STEMS[0] else 2
        return Carry(
            None, Stem(self.arch.stem_out, 3, stride, self.arch, self.numerics, act=None, name="first")(images, train)
        )


class Cell(nn.Module):
    """A normal or a reduction cell."""

    spec: CellSpec
    numerics: Numerics
    keep_path: Any = 1.0  # float, or a traced one: how probably each path of each image is kept in training

    @nn.compact
    def __call__(self, carry: Carry, train: bool = False) -> Carry:
        spec, pairs = self.spec, REDUCTION if self.spec.reduction else NORMAL
        last = conv_norm(self.numerics, train, nn.relu(carry.last), spec.filters, 1, 1, "last")
        states = [last, self._before(carry, train)]
        for i, pair in enumerate(pairs):
            left = self._operation(pair.left, states[pair.left_input], pair.left_input, f"pair{i}_left", train)
            right = self._operation(pair.right, states[pair.right_input], pair.right_input, f"pair{i}_right", train)
            states.append(left + right)
        if spec.reduction:
            out = states[3:]  # the sums that no other sum has read
        else:
            own = states[1] if states[1].shape[-1] == spec.filters else self._as_output(states[1], train)
            out = [own, *states[2:]]
        out = jnp.concatenate(out, -1)
        return Carry(carry.before if spec.skips else carry.last, out)

    def _before(self, carry: Carry, train: bool) -> jax.Array:
        """The second input in the size and with the channels of the first; the first itself, as it is, where there is none."""
        x, filters = carry.before, self.spec.filters
        if x is None:
            return carry.last
        if x.shape[1:3] != carry.last.shape[1:3]:
            return self._halved(nn.relu(x), train)
        if x.shape[-1] != filters:
            return conv_norm(self.numerics, train, nn.relu(x), filters, 1, 1, "before")
        return x

    def _as_output(self, x: jax.Array, train: bool) -> jax.Array:
        """The stem's output as a part of what the first cell puts out."""
        return conv_norm(self.numerics, train, x, self.spec.filters, 1, 1, "output")

    def _halved(self, x: jax.Array, train: bool) -> jax.Array:
        """Half the height and width: the even pixels give one half of the channels, the odd ones the other."""
        filters, numerics = self.spec.filters, self.numerics
        odd = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        halves = []
        for name, pixels, features in (("even", x, filters // 2), ("odd", odd, filters - filters // 2)):
            half = layers.Pointwise(features, numerics.depthwise, name=f"before_{name}_conv")(pixels[:, ::2, ::2])
            halves.append(numerics.kept(half))
        return numerics.norm(train, "before_norm")(jnp.concatenate(halves, -1))

    def _operation(self, kind: str, x: jax.Array, source: int, name: str, train: bool) -> jax.Array:
        """One operation on a hidden state; those of the cell's two inputs take its stride."""
        stride = 2 if self.spec.reduction and source < 2 else 1
        fits = x.shape[-1] == self.spec.filters
        if kind == "identity":
            return x if fits else conv_norm(self.numerics, train, nn.relu(x), self.spec.filters, 1, stride, name)
        if kind.startswith("sep"):
            x = self._separable(x, int(kind.removeprefix("sep")), stride, name, train)
        else:
            pool = layers.average_pool if kind == "avg" else layers.max_pool
            x = pool(x, 3, stride, self.numerics.padding)
            x = x if fits else conv_norm(self.numerics, train, x, self.spec.filters, 1, 1, name)
        return self._dropped(x, train)

    def _separable(self, x: jax.Array, kernel: int, stride: int, name: str, train: bool) -> jax.Array:
        """Twice: activation, depthwise convolution (the first with the stride), pointwise convolution, norm."""
        numerics, form = self.numerics, self.numerics.depthwise
        for place, step in (("first", stride), ("second", 1)):
            depthwise = layers.Depthwise(kernel, step, form, numerics.padding, name=f"{name}_{place}_depthwise")
            x = numerics.kept(depthwise(nn.relu(x)))
            x = conv_norm(numerics, train, x, self.spec.filters, 1, 1, f"{name}_{place}")
        return x

    def _dropped(self, x: jax.Array, train: bool) -> jax.Array:
        """Drop path: in training the path of an image is zero, or kept and divided by the probability of that.

        Only where there is a key for it: statistics are those of whole nets.
        """
        if not train or (isinstance(self.keep_path, float) and self.keep_path == 1) or not self.has_rng(DROP_PATH):
            return x
        keep = jnp.asarray(self.keep_path, layers.wide(x.dtype))
        kept = jax.random.bernoulli(self.make_rng(DROP_PATH), keep, (x.shape[0], 1, 1, 1))
        return x * (kept.astype(keep.dtype) / keep).astype(x.dtype)


class Head(nn.Module):
    """Activation, mean, and a dense layer, on the last cell's output."""

    classes: int

    @nn.compact
    def __call__(self, carry: Carry, train: bool = False) -> jax.Array:
        return classified(nn.relu(carry.last), self.classes)


class Net(ChainNet):
    """A NASNet; training one with `keep_path` below 1 drops paths with a random number key: apply(..., rngs={"drop_path": key}).

    With `progress` = step / steps (may be traced) paths are dropped more and more; by default as at the end of training.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, progress: Any = 1.0) -> tuple[jax.Array, dict[str, Any]]:
        endpoints, carry = {}, images
        for block in self.arch.chain(self.numerics, progress):
            carry = endpoints[block.name] = block.module(carry, train)
        return carry, endpoints


def nasnet(
    *,
    cells: tuple[int, ...] = (6, 6, 6),
    filters: int = 32,
    stem: int | None = None,
    keep_path: float = 1.0,
    classes: int = 10,
    resolution: int = 32,
    **options,
) -> Net:
    """NASNet-A for images of 32 pixels, of `cells` normal cells per stage; the default is (6 @ 768), 3.3 M params.

    Args:
      filters: of the first stage's cells. The channels before the classifier are six times those of the last stage.
      stem: channels of the first convolution, by default three times the filters.
      keep_path: see `Arch`; the authors train with 0.6.

    Raises:
      ValueError: as `Arch`.
    """
    return Net(
        Arch(
            resolution=resolution,
            classes=classes,
            cells=tuple(cells),
            filters=filters,
            stem_out=3 * filters if stem is None else stem,
            stem=STEMS[0],
            skip_reduction=False,
            keep_path=keep_path,
            **options,
        )
    )


def nasnet_mobile(
    *,
    cells: tuple[int, ...] = (4, 4, 4),
    filters: int = 44,
    stem: int = 32,
    skip_reduction: bool = False,
    keep_path: float = 1.0,
    classes: int = 1000,
    resolution: int = 224,
    **options,
) -> Net:
    """NASNet-A for ImageNet, by default the mobile (4 @ 1056): 564 M MACs, 5.3 M params.

    The large one, (6 @ 4032), has cells (6, 6, 6), filters 168, stem 96, skip_reduction, keep_path 0.7 and a resolution of 331.
    Arguments as in `nasnet`; skip_reduction: see `Arch`.
    """
    options = {"epsilon": 1e-3, **options}
    return Net(
        Arch(
            resolution=resolution,
            classes=classes,
            cells=tuple(cells),
            filters=filters,
            stem_out=stem,
            stem=STEMS[1],
            skip_reduction=skip_reduction,
            keep_path=keep_path,
            **options,
        )
    )
