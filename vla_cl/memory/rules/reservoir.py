"""Reservoir sampling: Vitter, "Random sampling with a reservoir", ACM TOMS 11 (1985), algorithm R.

Unit t (from 0) draws a place from 0 to t. Algorithm R with room for k units puts it there if the place is below k,
and the unit that was there is forgotten. Here the one that was there moves to place t instead, which is beyond every
reservoir too small to have kept it. So the first k places hold, for every k at once, what algorithm R with room for k
holds after the same draws (its first k units in shuffled places), and shrinking gives the smaller reservoir.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule


class Reservoir(Rule):
    """Algorithm R over the units as they come, with one draw per unit."""

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """The places of the reservoir."""
        total = len(candidates)
        draws = candidates.generator().integers(0, np.arange(1, total + 1)).tolist()
        places = list(range(total))
        for number, place in enumerate(draws):
            places[number] = places[place]
            places[place] = number
        return np.asarray(places[: candidates.limit], dtype=np.int64)
