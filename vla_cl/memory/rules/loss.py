"""By the loss of the model that has just learnt the experience."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule
from vla_cl.memory.settings import SETTING
from vla_cl.types import ConfigurationError

Prefer = Literal["highest", "lowest"]


class Loss(Rule):
    """The units with the highest or the lowest mean loss.

    Args:
        prefer: ``highest``, what is hard; ``lowest``, what is typical.
    """

    def __init__(self, prefer: Prefer = "highest") -> None:
        if prefer not in ("highest", "lowest"):
            raise ConfigurationError(f"{SETTING}.selection_settings.prefer must be highest or lowest; got {prefer!r}")
        self.prefer = prefer

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """Sorted by loss; ties in the order of the data."""
        sign = -1 if self.prefer == "highest" else 1
        return np.argsort(sign * candidates.losses, kind="stable")
