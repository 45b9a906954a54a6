"""What is learnt from: the samples of one experience."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.types import Batch


class Data(ABC):
    """The data of one experience: random access to samples by row number."""

    columns: tuple[str, ...] = ()
    """What `column` gives: of robots ``actions`` and, where there are any, ``states``."""

    def column(self, name: str) -> NDArray[Any]:
        """Numbers of every row, for what looks at all rows at once (rules of selection), shape (len(self), size).

        Raises:
            KeyError: `columns` does not name it.
        """
        raise KeyError(f"{type(self).__name__} has no column {name!r}; it has {', '.join(self.columns) or 'none'}")

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
