"""Phase buckets: as much of every part of an episode, as PHASER keeps a reservoir for each (arXiv 2606.03598)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule, round_robin
from vla_cl.memory.settings import SETTING
from vla_cl.settings.checks import MOST
from vla_cl.settings.rules import shown
from vla_cl.types import ConfigurationError


class Phase(Rule):
    """In turn one unit from each part of the episodes, at random within the part.

    Args:
        phases: Equal parts that every episode is divided into by time.
    """

    def __init__(self, phases: int = 8) -> None:
        if type(phases) is not int or not 1 <= phases <= MOST:
            raise ConfigurationError(
                f"{SETTING}.selection_settings.phases must be a whole number between 1 and {MOST:g}; got "
                f"{shown(phases)}"
            )
        self.phases = phases

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """Round robin over the parts."""
        shuffled = candidates.generator().permutation(len(candidates))
        part = np.minimum((candidates.phase[shuffled] * self.phases).astype(np.int64), self.phases - 1)
        return round_robin([shuffled[part == number] for number in range(self.phases)])
