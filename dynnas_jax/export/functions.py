"""A network as it is exported: functions of named arrays, closed over their variables, each to become a signature.

The steps of a dynamic network stand in order, each reading what the one before it left; nets that answer alone stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import numpy as np

IMAGE = "image"  # the input of the first step, and of every net that answers alone: [0, 255]
LOGITS, SCORE = "logits", "score"
SINGLE = "net"  # the one step of a network that always answers


class Function(NamedTuple):
    """One signature: what it computes and what it reads."""

    call: Callable[[dict], dict]  # float32 arrays by input name -> by output name, `logits` among them
    shapes: dict[str, tuple[int, ...]]  # of the inputs, the batch (1) included


class Network(NamedTuple):
    """A dynamic network, or a single net."""

    steps: dict[str, Function]  # in order; the first reads `image`
    whole: dict[str, Function]  # nets that read `image` and answer alone
    # Where one of two steps is chosen before either runs: what reads `image`, gives `score` and what both steps read.
    router: dict[str, Function] | None = None
    # Where nets score what may follow them, the router first: of each the names of those, one for each of its scores.
    routes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never written into

    @property
    def in_turn(self) -> dict[str, Function]:
        """What runs one after the other: the router, where there is one, and the steps."""
        return {**(self.router or {}), **self.steps}

    @property
    def functions(self) -> dict[str, Function]:
        """All of them by name, what runs in turn first."""
        return {**self.in_turn, **self.whole}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return next(iter(self.in_turn.values())).shapes[IMAGE][1:]


class Opened(NamedTuple):
    """A function of its variables too: parts of a network share them, and are not compiled each with a copy of its own."""

    call: Callable[[list, dict], dict]  # (arrays, inputs) -> outputs
    arrays: list[jax.Array]  # that the function is closed over
    gives: tuple[str, ...]  # the names of its outputs


def opened(function: Function) -> Opened:
    """The function, traced, with what it is closed over taken out; what it makes of that alone is made at once."""
    given = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in function.shapes.items()}
    closed, outputs = jax.make_jaxpr(function.call, return_shape=True)(given)
    (jaxpr, arrays), tree = _constants_folded(closed), jax.tree.structure(outputs)

    def call(arrays: list, inputs: dict) -> dict:
        return tree.unflatten(jax.core.eval_jaxpr(jaxpr, arrays, *jax.tree.leaves(inputs)))

    return Opened(call, arrays, tuple(outputs))


def _constants_folded(closed: Any) -> tuple[Any, list[jax.Array]]:
    """The jaxpr without its equations of constants alone, and its constants with what these make; but those that make more
    numbers of fewer, such as broadcasts, stay.

    The converter folds few of them: it would leave the slices of a kernel to the device.
    """
    jaxpr, constant, folded, left = closed.jaxpr, set(closed.jaxpr.constvars), [], []
    for equation in jaxpr.eqns:
        read = _variables(equation.invars)
        before, after = (sum(variable.aval.size for variable in of) for of in (read, equation.outvars))
        known = constant.issuperset(read) and after <= before
        (folded if known else left).append(equation)
        constant.update(equation.outvars if known else ())
    asked = {variable for equation in left for variable in _variables(equation.invars)} | set(_variables(jaxpr.outvars))
    made = [variable for equation in folded for variable in equation.outvars if variable in asked]
    program = jaxpr.replace(invars=[], outvars=made, eqns=folded)
    values = zip(made, jax.jit(lambda arrays: jax.core.eval_jaxpr(program, arrays))(closed.consts), strict=True)
    kept = {
        variable: value for variable, value in zip(jaxpr.constvars, closed.consts, strict=True) if variable in asked
    }
    kept |= values
    return jaxpr.replace(constvars=[*kept], eqns=left), [*kept.values()]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, jax.extend.core.Literal)]


def whole(net: Callable, image_shape: Sequence[int]) -> Function:
    """A net that answers alone: net(images float32[1, h, w, c] in [0, 255]) -> logits[1, C]."""
    return Function(lambda inputs: {LOGITS: net(inputs[IMAGE])}, {IMAGE: (1, *image_shape)})


def single(net: Callable, image_shape: Sequence[int]) -> Network:
    """A network of one net, which always answers."""
    return Network({SINGLE: whole(net, image_shape)}, {})


def from_steps(
    steps: dict[str, Callable],
    variables: Any,
    image_shape: Sequence[int],
    *,
    carries: Sequence[str] = (),
    own_score: bool = False,
    whole: dict[str, Function] | None = None,
) -> Network:
    """The steps of a dynamic network under names.

    Args:
      steps: by name, in order, as `dynamic.protocol.Dynamic` has them: (variables, carry) -> (logits[1, C], score[1], next
        carry); the first carry is an image float32[1, h, w, c] in [0, 255], the others are any pytrees of arrays. What a step
        passes on as it came keeps its name and is no output of that step: the next one is given it again, such as the image.
      carries: names of what goes from one step to the next, [S - 1], such as ("stem",); a carry of several arrays numbers
        them, and leaves out what the next step does not read. By default `after_` and the name of the step that made it.
      own_score: whether the score of each step but the last is an output of its own, being more than a function of the logits.
      whole: nets that answer alone.

    Raises: ValueError for another number of carries.
    """
    names = [*(carries or (f"after_{name}" for name in list(steps)[:-1])), None]
    if len(names) != len(steps):
        raise ValueError(f"{len(steps)} steps pass on {len(steps) - 1} carries, not {len(names) - 1}: {names[:-1]}")
    carry: Any = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    taken, linked = (IMAGE,), []
    for step, passed_on in zip(steps.values(), names, strict=True):
        leaves, tree = jax.tree.flatten(carry)
        shapes = {key: tuple(leaf.shape) for key, leaf in zip(taken, leaves, strict=True)}
        same = _as_it_came(step, variables, carry) if passed_on else ()
        carry = jax.eval_shape(step, variables, carry)[2] if passed_on else None
        numbered = _numbered(passed_on, len(jax.tree.leaves(carry)))
        given = tuple(None if place is not None else name for name, place in zip(numbered, same, strict=True))
        linked.append(_Link(step, tree, taken, shapes, given))
        taken = tuple(name if p is None else taken[p] for name, p in zip(numbered, same, strict=True))
    wanted, found = set(), {}
    for name, link in reversed(list(zip(steps, linked, strict=True))):
        call = _call(link, variables, frozenset(wanted), own_score and link is not linked[-1])
        read = _read(call, link.shapes)
        wanted |= read
        found[name] = Function(call, {key: shape for key, shape in link.shapes.items() if key in read})
    return Network(dict(reversed(found.items())), whole or {})


def routed(
    router: Callable,
    steps: dict[str, Callable],
    variables: Any,
    image_shape: Sequence[int],
    *,
    names: tuple[str, str],
    whole: dict[str, Function],
) -> Network:
    """Two steps of which a router chooses one, from what it leaves.

    Args:
      router: (variables, image) -> (score[1], carry), as `dynamic.protocol.Dynamic.first`; the carry is one array.
      steps: two by name, (variables, carry) -> (logits[1, C], ...).
      names: of the router and of the carry.
      whole: nets that answer alone.
    """
    function, carry = names
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    shape = tuple(jax.eval_shape(router, variables, image)[1].shape)

    def first(inputs: dict) -> dict:
        score, left = router(variables, inputs[IMAGE])
        return {SCORE: score, carry: left}

    def answering(step: Callable) -> Function:
        return Function(lambda inputs: {LOGITS: step(variables, inputs[carry])[0]}, {carry: shape})

    nets = {name: answering(step) for name, step in steps.items()}
    return Network(nets, whole, {function: Function(first, {IMAGE: (1, *image_shape)})})


def gated(parts: dict[str, Any], variables: Any, image_shape: Sequence[int]) -> Network:
    """Parts of which each scores those that may follow it, so that the best one is run; the last ones answer.

    Args:
      parts: by name, each before those that follow it, and the one that reads images first: `call`, (variables, carry) ->
        (what it leaves, scores[1, s] or None); `reads` and `gives`, names of one array each, a last one's `logits`; and
        `following`, the names of s parts, () for those that answer.
    """
    shapes: dict[str, Any] = {IMAGE: jax.ShapeDtypeStruct((1, *image_shape), np.float32)}
    nets, (first, *_) = {}, parts
    for name, part in parts.items():
        shapes[part.gives] = jax.eval_shape(part.call, variables, shapes[part.reads])[0]
        nets[name] = Function(_of_part(part, variables), {part.reads: tuple(shapes[part.reads].shape)})
    routes = {name: tuple(part.following) for name, part in parts.items() if part.following}
    return Network({name: net for name, net in nets.items() if name != first}, {}, {first: nets[first]}, routes)


def _of_part(part: Any, variables: Any) -> Callable[[dict], dict]:
    def call(inputs: dict) -> dict:
        left, scores = part.call(variables, inputs[part.reads])
        return {part.gives: left, **({SCORE: scores} if part.following else {})}

    return call


class _Link(NamedTuple):
    """A step with the names of what it could read and of what it could pass on."""

    step: Callable
    tree: Any  # of its carry
    taken: tuple[str, ...]  # the leaves
    shapes: dict[str, tuple[int, ...]]  # of those
    given: tuple[str | None, ...]  # None for what it passes on as it came


def _as_it_came(step: Callable, variables: Any, carry: Any) -> tuple[int | None, ...]:
    """For each array that a step passes on, which of those it was given that is; None for one it made."""
    leaves, tree = jax.tree.flatten(carry)
    traced = jax.make_jaxpr(lambda *given: jax.tree.leaves(step(variables, tree.unflatten(given))[2]))(*leaves).jaxpr
    places = {id(variable): place for place, variable in enumerate(traced.invars)}
    return tuple(places.get(id(variable)) for variable in traced.outvars)


def _numbered(name: str | None, count: int) -> tuple[str | None, ...]:
    return (name,) * count if count < 2 else tuple(f"{name}_{i}" for i in range(count))


def _call(link: _Link, variables: Any, wanted: frozenset[str], own_score: bool) -> Callable:
    """The step as a function of named arrays that passes on what is wanted; what it need not read may be left out."""

    def call(inputs: dict) -> dict:
        leaves = [inputs.get(name, np.zeros(link.shapes[name], np.float32)) for name in link.taken]
        logits, score, carry = link.step(variables, jax.tree.unflatten(link.tree, leaves))
        outputs = {LOGITS: logits, **({SCORE: score} if own_score else {})}
        passed_on = zip(link.given, jax.tree.leaves(carry) if link.given else (), strict=True)
        return outputs | {name: value for name, value in passed_on if name in wanted}

    return call


def _read(call: Callable, shapes: dict[str, tuple[int, ...]]) -> set[str]:
    """The names of the inputs that an output depends on: the converter would leave the others in float."""
    names = sorted(shapes)  # as JAX orders a dict's leaves
    traced = jax.make_jaxpr(call)({name: jax.ShapeDtypeStruct(shapes[name], np.float32) for name in names}).jaxpr
    needed = {id(variable) for variable in traced.outvars}
    for equation in reversed(traced.eqns):
        if needed & {id(variable) for variable in equation.outvars}:
            needed |= {id(variable) for variable in equation.invars}
    return {name for name, variable in zip(names, traced.invars, strict=True) if id(variable) in needed}


def inputs(network: Network, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What every function reads for uint8[n, h, w, c] images: by its name and the input's, [n, ...], uint8 for images.

    The steps run in JAX, one image at a time as the device sees them.
    """
    return inputs_and_outputs(network, images, 0)[0]


def inputs_and_outputs(network: Network, images: np.ndarray, most: int) -> tuple[dict, dict]:
    """What every function reads, as `inputs` gives it, and what it answers to the first so many images, as `outputs` does."""
    found = {name: {IMAGE: images} for name in network.whole}
    answered = {}
    known: dict[str, np.ndarray] = {IMAGE: images}
    read = {key for function in network.functions.values() for key in function.shapes}
    for name, function in network.in_turn.items():
        found[name] = {key: known[key] for key in function.shapes}
        runner = _Runner(function)
        every = bool(read & {*runner.gives})  # what nobody reads is not asked of all images
        told = runner.answers(found[name], None if every else most)
        if every:
            known |= {key: np.concatenate([row[key] for row in told]) for key in runner.gives}
        answered[name] = told[:most]
    return found, answered | {name: outputs(function, found[name], most) for name, function in network.whole.items()}


def outputs(function: Function, values: dict[str, np.ndarray], most: int | None = None) -> list[dict[str, np.ndarray]]:
    """What JAX answers for each row of values[n, ...], or the first so many: arrays by output name, batch (1) included."""
    return _Runner(function).answers(values, most)


class _Runner:
    """A function compiled once, which answers to single images."""

    def __init__(self, function: Function):
        # TPUs and new GPUs round float32 products otherwise; LiteRT does not.
        with jax.default_matmul_precision("highest"):
            call, arrays, self.gives = opened(function)
        self._run, self._arrays = jax.jit(call), jax.device_put(arrays)  # once, where they are NumPy's

    def answers(self, values: dict[str, np.ndarray], most: int | None) -> list[dict[str, np.ndarray]]:
        given = [{key: row[None].astype(np.float32) for key, row in each.items()} for each in rows(values, most)]
        return [{key: np.asarray(value) for key, value in self._run(self._arrays, each).items()} for each in given]


def rows(values: dict[str, np.ndarray], most: int | None = None) -> list[dict[str, np.ndarray]]:
    """Arrays[n, ...] by name as a list of n dicts of single ones."""
    return [dict(zip(values, row, strict=True)) for row in list(zip(*values.values(), strict=True))[:most]]
