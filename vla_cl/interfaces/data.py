"""What is learnt from: the samples of one experience."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import Batch


class Data(ABC):
    """The data of one experience: random access to samples by row number."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples (frames)."""

    @abstractmethod
    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows, in this order (see `vla_cl.types.Batch`)."""

    @property
    @abstractmethod
    def bytes_per_sample(self) -> int:
        """Bytes of one raw sample."""

    @property
    @abstractmethod
    def episode_of_row(self) -> NDArray[np.int64]:
        """The episode that each row belongs to, shape (len(self),)."""
