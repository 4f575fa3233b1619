"""The accuracy predictor: a small MLP from the one-hot code of a genome to its accuracy.

Three hidden layers of 400 units, as in once-for-all (Cai et al., "Once-for-All", 2020, section 3.4).
"""

import functools
import io
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.stats import kendalltau

from dynnas_jax.search_space import SearchSpace

WIDTHS = (400, 400, 400)
FEWEST_SUBNETS = 10  # with fewer, a rank correlation on the held-out part says nothing


class MLP(nn.Module):
    """Dense layers with ReLU between: float32[F] -> float32 scalar."""

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        for width in self.widths:
            inputs = nn.relu(nn.Dense(width)(inputs))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(inputs)[..., 0]


class Predictor(NamedTuple):
    """A fitted MLP and how well it ranks records it has not seen. Call it: genome int32[G] -> float32 scalar."""

    space: SearchSpace
    params: dict
    kendall_tau: float  # on the held-out records; 0 if it is undefined (all equal)
    fitted: int  # records
    held_out: int  # records
    predicted: np.ndarray  # float32[held_out]
    actual: np.ndarray  # float32[held_out]

    @property
    def rmse(self) -> float:
        """Root of the mean squared error on the held-out records, in the unit of the targets."""
        return float(np.sqrt(np.mean(np.square(self.predicted - self.actual))))

    def __call__(self, genome: jax.Array) -> jax.Array:
        """Predicted accuracy of one genome; close over the predictor in `jax.jit` and `jax.vmap`."""
        return predicted(self.space, self.params, genome)


def predicted(space: SearchSpace, params: dict, genome: jax.Array) -> jax.Array:
    """float32 scalar: what a predictor with these params says of a genome; params may be traced."""
    return MLP().apply({"params": params}, space.encode(genome))


def fit(
    space: SearchSpace,
    genomes: np.ndarray,
    accuracy: np.ndarray,
    *,
    key: jax.Array,
    held_out: float = 0.2,
    epochs: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 64,
) -> Predictor:
    """Fit the MLP to records with AdamW under a cosine schedule; the model kept has not seen the held-out records.

    Records of one subnet stay on one side of the split.

    Args:
        space: the space of the genomes.
        genomes: int32[n, G].
        accuracy: [n], in any unit; the predictor answers in the same.
        key: PRNG key of the split, the initial weights and the order of the minibatches.
        held_out: share of the distinct subnets that is held out.
        epochs: passes over the fitted records.
        learning_rate: of the first step.
        weight_decay: decoupled.
        batch_size: records in a minibatch, or all of them if there are fewer.

    Raises:
        ValueError: for mismatched shapes, an accuracy that is not finite, fewer than 10 distinct subnets, or a setting
            outside its range.
    """
    genomes, accuracy = _records(space, genomes, accuracy)
    if not 0 < held_out < 1:
        raise ValueError(f"predictor.fit: held_out is {held_out}; it must lie between 0 and 1")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"predictor.fit: epochs {epochs} and batch_size {batch_size} must be at least 1")
    split_key, train_key = jax.random.split(key)
    inputs = np.asarray(jax.jit(jax.vmap(space.encode))(genomes))
    unseen = _held_out(split_key, inputs, held_out)
    fitted = int((~unseen).sum())
    params = _train(
        train_key,
        inputs[~unseen],
        accuracy[~unseen],
        learning_rate,
        weight_decay,
        epochs=epochs,
        batch_size=min(batch_size, fitted),
    )
    predicted, actual = np.asarray(MLP().apply({"params": params}, inputs[unseen])), accuracy[unseen]
    return Predictor(space, params, _kendall_tau(predicted, actual), fitted, len(actual), predicted, actual)


def save(predictor: Predictor, folder: str | Path) -> None:
    """Write `params.npz` and, last, `predictor.json` (fingerprint and held-out results) into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = flatten_dict(predictor.params, sep="/")
    np.savez(folder / "params.npz", **{name: np.asarray(leaf) for name, leaf in leaves.items()})
    numbers = {name: getattr(predictor, name) for name in ("kendall_tau", "fitted", "held_out")}
    points = {name: np.asarray(getattr(predictor, name), np.float64).tolist() for name in ("predicted", "actual")}
    text = json.dumps({"space": predictor.space.fingerprint, **numbers, **points}, indent=1)
    (folder / "predictor.json").write_text(text + "\n", encoding="utf-8")


def load(folder: str | Path, space: SearchSpace) -> Predictor:
    """Read what `save` wrote.

    Raises:
        ValueError: if a file is missing or damaged, or the predictor was fitted for another space.
    """
    folder = Path(folder)
    try:
        results = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        with np.load(io.BytesIO((folder / "params.npz").read_bytes()), allow_pickle=False) as archive:
            leaves = {name: jnp.asarray(archive[name]) for name in archive.files}
        fingerprint, *counts = (results[name] for name in ("space", "kendall_tau", "fitted", "held_out"))
        points = [np.asarray(results[name], np.float32) for name in ("predicted", "actual")]
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{folder} holds no readable predictor ({str(error).splitlines()[0]}); pass --redo=predict to fit it again"
        ) from error
    if fingerprint != space.fingerprint:
        raise ValueError(f"{folder}: fitted for space {fingerprint!r}, but this space is {space.fingerprint!r}")
    inputs = jax.ShapeDtypeStruct((sum(space.sizes),), jnp.float32)
    expected = flatten_dict(jax.eval_shape(MLP().init, jax.random.key(0), inputs)["params"], sep="/")
    if {k: v.shape for k, v in leaves.items()} != {k: v.shape for k, v in expected.items()}:
        raise ValueError(f"{folder}/params.npz does not hold the weights of this predictor; fit it again")
    return Predictor(space, unflatten_dict(leaves, sep="/"), *counts, *points)


@functools.partial(jax.jit, static_argnames=("epochs", "batch_size"))
def _train(key, inputs, targets, learning_rate, weight_decay, *, epochs: int, batch_size: int) -> dict:
    """Params of the MLP fitted to inputs float32[n, F] and targets float32[n]: one scan over the minibatches.

    It fits the standardised targets, whatever their unit and spread; mean and deviation then go into the last layer.
    """
    count = inputs.shape[0]
    steps = count // batch_size
    mean, deviation = targets.mean(), targets.std()
    deviation = jnp.where(deviation > 0, deviation, 1.0)
    standardised = (targets - mean) / deviation
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, epochs * steps), weight_decay=weight_decay)
    init_key, order_key = jax.random.split(key)

    def loss(params, batch):
        return jnp.mean((MLP().apply({"params": params}, inputs[batch]) - standardised[batch]) ** 2)

    def step(carry, batch):
        params, state = carry
        gradient = jax.grad(loss)(params, batch)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, epoch_key):
        order = jax.random.permutation(epoch_key, count)[: steps * batch_size].reshape(steps, batch_size)
        return jax.lax.scan(step, carry, order)

    params = MLP().init(init_key, inputs[0])["params"]
    (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), jax.random.split(order_key, epochs))
    last = params[f"Dense_{len(WIDTHS)}"]
    scaled = {"kernel": last["kernel"] * deviation, "bias": last["bias"] * deviation + mean}
    return {**params, f"Dense_{len(WIDTHS)}": scaled}


def _records(space: SearchSpace, genomes, accuracy) -> tuple[np.ndarray, np.ndarray]:
    genomes, accuracy = np.asarray(genomes, np.int32), np.asarray(accuracy, np.float32)
    if genomes.ndim != 2 or genomes.shape[1] != len(space.sizes) or accuracy.shape != genomes.shape[:1]:
        raise ValueError(
            f"predictor.fit: genomes {genomes.shape} and accuracy {accuracy.shape} "
            f"must be [n, {len(space.sizes)}] and [n]"
        )
    if not np.isfinite(accuracy).all():
        where = int(np.argmin(np.isfinite(accuracy)))
        raise ValueError(f"predictor.fit: accuracy[{where}] is {accuracy[where]}; leave out records that are not done")
    return genomes, accuracy


def _held_out(key, inputs: np.ndarray, share: float) -> np.ndarray:
    """bool[n]: the records of a random share of the distinct inputs, at least two and at most all but two of them."""
    distinct, subnet = np.unique(inputs, axis=0, return_inverse=True)
    count = len(distinct)
    if count < FEWEST_SUBNETS:
        raise ValueError(f"predictor.fit: {count} distinct subnets on record, at least {FEWEST_SUBNETS} are needed")
    chosen = np.asarray(jax.random.permutation(key, count))[: min(max(round(share * count), 2), count - 2)]
    return np.isin(subnet.reshape(-1), chosen)


def _kendall_tau(predicted: np.ndarray, actual: np.ndarray) -> float:
    tau = float(kendalltau(predicted, actual).statistic)
    return 0.0 if np.isnan(tau) else tau
