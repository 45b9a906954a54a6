"""The first units: LIBERO's rule, so the first few demonstrations (Liu et al., NeurIPS 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule


class First(Rule):
    """In the order of the data."""

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """0, 1, 2, ..."""
        return np.arange(candidates.limit)
