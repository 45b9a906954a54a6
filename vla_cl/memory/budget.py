"""How a budget is divided between tasks, to the byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def divide(budget: int, weights: Sequence[float], capacities: Sequence[int]) -> list[int]:
    """Shares in proportion to the weights; what a task cannot fill goes to the others, again in proportion.

    The shares add up to the budget, unless all together need less.

    Args:
        budget: What is divided.
        weights: Not negative; if they are all zero, they count as equal.
        capacities: The most that each can use.
    """
    shares = [0] * len(weights)
    open_ = [number for number in range(len(weights)) if capacities[number] > 0]
    left = min(budget, sum(capacities))
    while open_ and left > 0:
        parts = _proportional(left, [weights[number] for number in open_])
        full = [n for n, part in zip(open_, parts, strict=True) if part >= capacities[n]]
        if not full:
            for number, part in zip(open_, parts, strict=True):
                shares[number] = part
            break
        for number in full:
            shares[number] = capacities[number]
            left -= capacities[number]
        open_ = [number for number in open_ if number not in full]
    return shares


def similarity_weights(means: Sequence[NDArray[np.float64] | None]) -> list[float]:
    """InsCL's shares: the newest task gets an equal one, the past ones share the rest by their distance from it.

    The distance is the cosine distance of mean features, where InsCL (Wang et al., NAACL 2024) takes the Wasserstein
    distance between distributions of instruction embeddings under the cosine cost; for a task of one instruction they
    are the same. What differs most from the newest task is forgotten first, so it is remembered most. InsCL draws from
    data that all stay; here a past task that is just like the newest one is forgotten for good. InsCL's embeddings come
    from an encoder that never changes; here they must all come from one state of the model.

    Args:
        means: Mean features of each task, (D,), under one model; the last is the newest. None: nothing is left of that
            task.
    """
    *earlier, newest = means
    if newest is None or not earlier:
        return [1.0] * len(means)
    distances = np.asarray([0.0 if mean is None else cosine_distance(mean, newest) for mean in earlier])
    past = distances / distances.sum() if distances.sum() > 0 else np.full(len(distances), 1 / len(distances))
    return [*(past * (len(means) - 1) / len(means)).tolist(), 1 / len(means)]


def cosine_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """0 for the same direction, 2 for opposite ones; 0 where one is the zero vector."""
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return max(0.0, 1.0 - float(one @ other) / norms) if norms else 0.0


def _proportional(total: int, weights: Sequence[float]) -> list[int]:
    """Whole parts that add up to ``total``, by largest remainder; ties to the first."""
    weights = weights if sum(weights) > 0 else [1.0] * len(weights)
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda number: parts[number] - exact[number])
    for number in order[: max(0, total - sum(parts))]:
        parts[number] += 1
    return parts
