"""How important the features of a stage are: three criteria, each a score for every feature, whose mean is the stage's.

Sources: the use of the three is that of Jordao et al. 2020 (stage-wise architecture search); PLS with variable importance in
projection (Geladi and Kowalski 1986; Mehmood et al. 2012), infinite feature selection (Roffo et al. 2015) and its latent
supervised variant (Roffo et al. 2017). All three say how evenly the features share what the criterion measures, on one scale
whatever the number of features, so that stages of other nets may be compared. NumPy on the host, in float64.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

REACH = 0.9  # r rho(A): every further step along the graph counts for so much less; below 1 the series converges
# That the criteria may take: with images, and a program that holds no training, it stays below 2 GB.
MOST_BYTES = 10**9
_COPIES = (
    8  # arrays of the size of the features, and of features x features, that the hungriest criterion holds at a time
)
FEWEST_SAMPLES = 8
_NOISE = 1e-12  # edges, at most 1, that are no more than what rounding leaves
_FEW = 64  # features, for which all eigenvalues are as soon found as one


class Bounds(NamedTuple):
    """How much of a stage's features is looked at."""

    samples: int
    side: int  # pixels that its maps are pooled to, height = width


class Plsa(NamedTuple):
    """Probabilistic latent semantic analysis of features as documents and tokens as words."""

    relevance: np.ndarray  # float64[features], P(relevant | feature)
    tokens: np.ndarray  # float64[tokens, 2], P(token | relevant), P(token | not)
    likelihood: tuple[float, ...]  # the log-likelihood, divided by the counts, after each iteration


def needed_bytes(samples: int, features: int) -> int:
    """Memory that any of the criteria takes at most."""
    return 8 * _COPIES * (samples * features + features**2)


def bounds(channels: int, height: int, *, samples: int, side: int, most_bytes: int = MOST_BYTES) -> Bounds:
    """The largest pooling up to `side`, then the most samples up to `samples`, with which a stage fits into memory.

    Args:
      channels, height: of the stage's maps, [height, height, channels].

    Raises:
      ValueError: where even one feature for each channel does not fit.
    """
    for pooled in range(min(side, height), 0, -1):
        features = channels * pooled**2
        fits = most_bytes // (8 * _COPIES * features) - features
        if fits >= min(samples, FEWEST_SAMPLES if pooled == 1 else samples):
            return Bounds(min(samples, fits), pooled)
    raise ValueError(
        f"grow: features of {channels} channels need {needed_bytes(FEWEST_SAMPLES, channels):,} bytes of memory at least, more "
        f"than the {most_bytes:,} there may be; choose a narrower network"
    )


# Criteria: (features float[n, d], labels int[n], **options) -> float64[d].


def pls(features: np.ndarray, labels: np.ndarray, *, components: int = 2) -> np.ndarray:
    """float64[d]: variable importance in projection on the scores of partial least squares; their squares average 1.

    VIP_j = sqrt(d sum_a SS_a w_ja^2 / sum_a SS_a), with unit weights w_a and SS_a = |t_a|^2 |q_a|^2, what component a explains
    of the classes (one-hot, standardised).

    Args:
      components: of the projection; fewer where there are fewer features or samples.
    """
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.exceptions import ConvergenceWarning

    features, classes = np.asarray(features, np.float64), np.unique(labels)
    one_hot = (np.asarray(labels)[:, None] == classes).astype(np.float64)
    if components > min(features.shape) // 4:  # as many as there may be directions
        components = min(components, int(np.linalg.matrix_rank(features - features.mean(axis=0))))
    if components == 0:
        return np.ones(features.shape[1])
    fitted = PLSRegression(n_components=components, scale=True, tol=1e-12)
    with warnings.catch_warnings():
        # Where the classes are explained before the last component, the rest of them count for nothing below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        fitted.fit(features, one_hot)
    explained = (fitted.x_scores_**2).sum(axis=0) * (fitted.y_loadings_**2).sum(axis=0)
    lengths = (fitted.x_weights_**2).sum(axis=0)
    explained = np.where(lengths > 0, explained, 0.0)
    if not explained.sum() > 0:  # nothing of the classes is told: every feature tells as little
        return np.ones(features.shape[1])
    shares = fitted.x_weights_**2 / np.where(lengths > 0, lengths, 1.0)
    return np.sqrt(features.shape[1] * (shares @ explained) / explained.sum())


def inf_fs(features: np.ndarray, labels: np.ndarray, *, mix: float = 0.5) -> np.ndarray:
    """float64[d]: what all paths through the graph of the features are worth that begin at each; the labels are not read.

    An edge is worth mix max(s_i, s_j) + (1 - mix) (1 - |rank correlation|), s the deviations, the largest 1.

    Args:
      mix: of spread against being unlike, in [0, 1].
    """
    alive, scores = _alive(features)
    ranks = _ranks(alive)
    unlike = 1 - np.abs(np.corrcoef(ranks, rowvar=False).reshape(alive.shape[1], -1))
    spread = alive.std(axis=0)
    spread /= spread.max()
    graph = mix * np.maximum(spread[:, None], spread) + (1 - mix) * unlike.clip(0, 1)
    graph[graph <= _NOISE] = 0
    scores[scores > 0] = paths(graph)
    return scores


def il_fs(features: np.ndarray, labels: np.ndarray, *, tokens: int = 6) -> np.ndarray:
    """float64[d]: as `inf_fs`, an edge being worth the probability that both its features are relevant.

    Args:
      tokens: that the values of a feature are quantised to, by how they tell the classes.
    """
    alive, scores = _alive(features)
    relevance = plsa(token_counts(alive, labels, tokens)).relevance
    scores[scores > 0] = paths(np.outer(relevance, relevance))
    return scores


def paths(graph: np.ndarray, reach: float = REACH) -> np.ndarray:
    """float64[d]: the row sums of sum_l (r A)^l, l from 1 on, of a graph A >= 0 float64[d, d]; r = reach / rho(A).

    In closed form (I - r A)^-1 - I. A graph whose edges are all worth nothing has scores of 0.
    """
    radius = _radius(graph) if graph.any() else 0.0
    if radius <= np.finfo(np.float64).tiny:
        return np.zeros(len(graph))
    system = graph * (-reach / radius)
    system[np.diag_indices_from(system)] += 1
    return np.linalg.solve(system, np.ones(len(graph))) - 1


def _radius(graph: np.ndarray) -> float:
    """The largest eigenvalue of a symmetric matrix without negative entries."""
    if len(graph) <= _FEW:
        return float(np.linalg.eigvalsh(graph)[-1])
    from scipy.sparse.linalg import eigsh

    return float(eigsh(graph, k=1, which="LA", v0=np.ones(len(graph)), return_eigenvectors=False)[0])


def _ranks(features: np.ndarray) -> np.ndarray:
    """float64[n, d]: the rank of each value among those of its feature, the mean of ranks for equal ones."""
    from scipy import stats

    return stats.rankdata(features, axis=0)


def _alive(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float64[n, alive], float64[d]): the features that are not constant, and 1 in their places, 0 in the others'."""
    features = np.asarray(features, np.float64)
    varies = np.ptp(features, axis=0) > 0
    return features[:, varies], varies.astype(np.float64)


def token_counts(features: np.ndarray, labels: np.ndarray, tokens: int) -> np.ndarray:
    """float64[tokens, d]: how often each token stands for a sample, in each feature.

    A value is quantised by its squared distance to the mean of its own class as a share of those to all classes' means: token 0
    are values that lie with their own class, the last those that lie with others.
    """
    classes, own = np.unique(labels, return_inverse=True)
    total, mine = np.zeros_like(features), np.zeros_like(features)
    for number in range(len(classes)):
        members = own == number
        distance = (features - features[members].mean(axis=0)) ** 2
        mine[members] = distance[members]
        total += distance
    share = np.divide(mine, total, out=np.full_like(mine, 1 / len(classes)), where=total > 0)
    token = np.minimum((share * tokens).astype(np.intp), tokens - 1)
    return np.stack([(token == number).sum(axis=0) for number in range(tokens)]).astype(np.float64)


def plsa(counts: np.ndarray, *, iterations: int = 200, tolerance: float = 1e-9) -> Plsa:
    """The latent relevance of features by expectation and maximisation, from counts float64[tokens, d].

    P(token | feature) = sum_z P(token | z) P(z | feature); z is whether the feature is relevant. It begins with tokens that fall
    off for relevant features and rise for the others, and ends where the likelihood gains no more than the tolerance.
    """
    slope = np.arange(len(counts), 0, -1, dtype=np.float64)
    tokens = np.stack([slope, slope[::-1]], axis=1) / slope.sum()
    totals = counts.sum(axis=0)
    # How far the counts lie with the first tokens.
    first = (slope - 0.5) / len(counts) @ counts / totals
    relevance, likelihood = np.stack([first, 1 - first]), []
    while len(likelihood) < iterations:
        expected = [tokens[:, z, None] * relevance[z] for z in range(2)]
        whole = expected[0] + expected[1]
        expected = [counts * part / whole for part in expected]
        relevance = np.stack([part.sum(axis=0) for part in expected]) / totals
        tokens = np.stack([part.sum(axis=1) for part in expected], axis=1)
        tokens /= np.maximum(tokens.sum(axis=0), np.finfo(np.float64).tiny)
        # A token that no feature has any more keeps a share that no logarithm falls over.
        tokens = np.maximum(tokens, np.finfo(np.float64).tiny)
        modelled = np.maximum(tokens @ relevance, np.finfo(np.float64).tiny)
        likelihood.append(float((counts * np.log(modelled)).sum() / counts.sum()))
        if len(likelihood) > 1 and likelihood[-1] - likelihood[-2] <= tolerance:
            break
    return Plsa(relevance[0], tokens, tuple(likelihood))


CRITERIA: dict[str, Callable[..., np.ndarray]] = {"pls": pls, "inf_fs": inf_fs, "il_fs": il_fs}
_LEAST = {"components": (1, None), "mix": (0.0, 1.0), "tokens": (2, None)}


class Importance(NamedTuple):
    """What a criterion says of a stage."""

    score: float  # the mean of the features'
    features: int
    constant: int  # features with no variance, which count with what they tell: nothing


def of_stage(features: np.ndarray, labels: np.ndarray, *, criterion: str, **options) -> Importance:
    """The importance of a stage with features float[n, d] of samples with labels int[n].

    Raises:
      ValueError: as `check`, or where no feature varies, or is finite.
    """
    check(criterion, **options)
    if not np.isfinite(features).all():
        raise ValueError("its features are not finite; the network has diverged, lower train.optimizer.learning_rate")
    constant = int((np.ptp(features, axis=0) == 0).sum())
    if constant == features.shape[1]:
        raise ValueError(
            f"its {constant} features have zero variance over {len(features)} samples: nothing tells their importance; "
            "train for more steps, lower the learning rate, or compare more samples"
        )
    scores = CRITERIA[criterion](features, labels, **options)
    return Importance(float(scores.mean()), features.shape[1], constant)


def options_of(criterion: str) -> tuple[str, ...]:
    """The names of a criterion's options."""
    every = inspect.signature(CRITERIA[criterion]).parameters.values()
    return tuple(one.name for one in every if one.kind is one.KEYWORD_ONLY)


def check(criterion: str, **options) -> None:
    """Raises ValueError for an unknown criterion, an option that it does not have, or one out of its range."""
    if criterion not in CRITERIA:
        raise ValueError(f"grow.criterion is {criterion!r}, choose from {list(CRITERIA)}")
    known = options_of(criterion)
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"grow: the criterion {criterion!r} has no option {name!r}; it has {', '.join(known)}")
        low, high = _LEAST[name]
        fits = type(value) is int if high is None else isinstance(value, (int, float)) and value <= high
        if isinstance(value, bool) or not fits or value < low:
            most = "" if high is None else f" and at most {high}"
            raise ValueError(
                f"grow: {name} is {value!r}, must be a {'whole ' * (high is None)}number of at least {low}{most}"
            )
