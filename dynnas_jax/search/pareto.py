"""The Pareto front of cost (less is better) against accuracy (more is better)."""

import numpy as np


def front(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Mark the points no other point dominates: as cheap and as accurate, and strictly better in one of the two.

    Equal points do not dominate each other, so every copy of a point of the front is marked. O(n log n).

    Args:
        cost: [n], any unit.
        accuracy: [n], any unit.

    Returns:
        bool[n], in the order of the arguments.

    Raises:
        ValueError: if the two are not vectors of one length, or hold a NaN (it can be neither better nor worse).
    """
    cost, accuracy = np.asarray(cost), np.asarray(accuracy)
    if cost.ndim != 1 or cost.shape != accuracy.shape:
        raise ValueError(f"pareto.front: cost {cost.shape} and accuracy {accuracy.shape} must be vectors of one length")
    for name, values in (("cost", cost), ("accuracy", accuracy)):
        if np.isnan(values).any():
            raise ValueError(f"pareto.front: {name}[{int(np.isnan(values).argmax())}] is NaN; leave such points out")
    if not cost.size:
        return np.zeros(0, bool)
    order = np.lexsort((-accuracy, cost))
    sorted_cost, sorted_accuracy = cost[order], accuracy[order]
    start = np.searchsorted(sorted_cost, sorted_cost, side="left")  # the first, most accurate, point of the same cost
    best_so_far = np.maximum.accumulate(sorted_accuracy)
    beats_cheaper = (start == 0) | (sorted_accuracy > best_so_far[start - 1])
    marked = np.empty(cost.size, bool)
    marked[order] = (sorted_accuracy == sorted_accuracy[start]) & beats_cheaper
    return marked
