"""As much of every instruction, and within it of every episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule, round_robin


class Balanced(Rule):
    """In turn one unit of each instruction; the units of an instruction in turn from its episodes, in random order."""

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """Round robin over instructions, each of which is a round robin over episodes."""
        shuffled = candidates.generator().permutation(len(candidates))
        instructions, episodes = candidates.instructions[shuffled], candidates.units.episodes[shuffled]
        turns = []
        for instruction in np.unique(instructions):
            here = instructions == instruction
            own, own_episodes = shuffled[here], episodes[here]
            turns.append(
                round_robin([own[own_episodes == episode] for episode in dict.fromkeys(own_episodes.tolist())])
            )
        return round_robin(turns)
