"""A random subset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule


class Uniform(Rule):
    """At random, without replacement."""

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """The beginning of a random permutation."""
        return candidates.generator().choice(len(candidates), size=candidates.limit, replace=False)
