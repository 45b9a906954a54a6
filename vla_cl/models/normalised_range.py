"""Are actions still of the size that a policy's frozen normalization was made for?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

FARTHEST = 30.0
"""Normalized actions are a few units large; beyond this a policy hardly learns them, and other numbers drown."""


def farthest(postprocessor: Any, actions: NDArray[np.float32]) -> tuple[int, float]:  # noqa: ANN401 - LeRobot's pipeline
    """The number of an action that is largest when normalized, and how large.

    Args:
        postprocessor: Turns normalized actions into the data's units, each number by itself and linearly, as every
            mode of LeRobot does. So two points tell how it is turned back.
        actions: In the data's units, shape (N, A).
    """
    size = actions.shape[1]
    ends = postprocessor(torch.stack([-torch.ones(size), torch.ones(size)])).double().numpy()[:, :size]
    middle, half = ends.mean(axis=0), np.abs(ends[1] - ends[0]) / 2
    reach = np.abs(np.stack([actions.min(axis=0), actions.max(axis=0)]) - middle).max(axis=0) / half
    place = int(reach.argmax())
    return place, float(reach[place])
