"""Herding: kept units whose mean feature stays near that of all, after every single one.

Welling, "Herding dynamical weights to learn", ICML 2009; as in iCaRL (Rebuffi et al., arXiv 1611.07725, algorithm 4):
the next unit is the one that brings the mean of those chosen so far nearest to the mean of all. Every beginning of the
order is itself a herd, so a memory can shrink.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule
from vla_cl.memory.settings import SETTING
from vla_cl.types import ConfigurationError

_TINY = 1e-12


class Herding(Rule):
    """Greedy approximation of the mean feature, without replacement.

    Args:
        normalise: Scale every feature to length 1 first (iCaRL).
    """

    def __init__(self, normalise: bool = True) -> None:
        if type(normalise) is not bool:
            raise ConfigurationError(f"{SETTING}.selection_settings.normalise must be true or false; got {normalise!r}")
        self.normalise = normalise

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """The greedy order; ``candidates.limit`` passes over the features."""
        return herd(candidates.features, candidates.limit, self.normalise)


def herd(features: NDArray[np.float64], count: int, normalise: bool = True) -> NDArray[np.int64]:
    """Numbers of ``count`` rows of ``features`` (N, D), in the order in which they are chosen; ties to the first."""
    if normalise:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _TINY)
    mean = features.mean(0)
    squares = (features**2).sum(1)
    towards_mean = features @ mean
    towards_chosen = np.zeros(len(features))
    chosen = np.empty(count, dtype=np.int64)
    free = np.ones(len(features), dtype=bool)
    for number in range(count):
        # |mean - (sum + x) / n|^2, times n^2, without what is the same for every x
        cost = squares + 2 * towards_chosen - 2 * (number + 1) * towards_mean
        best = int(np.argmin(np.where(free, cost, np.inf)))
        chosen[number], free[best] = best, False
        towards_chosen += features @ features[best]
    return chosen
