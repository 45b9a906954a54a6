"""Remembered samples read from their copy, as if their dataset were still there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data
from vla_cl.memory.mixing import concatenate, select
from vla_cl.memory.record import NOTE_KEY, Record
from vla_cl.memory.store import TrajectoryStore
from vla_cl.types import Batch


class CopiedData(Data):
    """The units of one experience that a `TrajectoryStore` holds, in the order of worth.

    Rows are numbered from 0 over the units behind each other; ``index`` in a batch is the row that a sample had in
    its dataset (`source_rows`). Keys, shapes and types are those of the batches that were copied.

    Args:
        store: Where the files lie.
        files: Their names.
        episodes: The episode of each unit.
        bytes_per_sample: Of a raw sample, as its dataset counts.
    """

    def __init__(
        self, store: TrajectoryStore, files: Sequence[str], episodes: Sequence[int], bytes_per_sample: int
    ) -> None:
        self._records = [Record.open(store.path(name)) for name in files]
        rows = [record.array("index").reshape(-1) for record in self._records]
        self._start: NDArray[np.int64] = np.cumsum([0, *(len(part) for part in rows)])
        self._source_rows: NDArray[np.int64] = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        self._episodes = np.repeat(np.asarray(episodes, dtype=np.int64), np.diff(self._start))
        self._bytes_per_sample = bytes_per_sample
        self._sorted = np.argsort(self._source_rows, kind="stable")

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._start[-1])

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Number that each row's episode had in its dataset, shape (len(self),)."""
        return self._episodes

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one raw sample; what the copy really takes is the store's to say."""
        return self._bytes_per_sample

    @property
    def source_rows(self) -> NDArray[np.int64]:
        """The row that each sample had in its dataset, shape (len(self),)."""
        return self._source_rows

    def find(self, source_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of samples given by their row in the dataset; all must be here."""
        places = np.searchsorted(self._source_rows, source_rows, sorter=self._sorted)
        return np.asarray(self._sorted[places])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        units = np.searchsorted(self._start, rows, side="right") - 1
        parts, order = [], []
        for unit in np.unique(units):
            here = np.flatnonzero(units == unit)
            parts.append(self._records[unit].read(rows[here] - self._start[unit]))
            order.append(here)
        found = concatenate(parts)
        return select(found, np.argsort(np.concatenate(order), kind="stable"))

    def notes(self, name: str) -> NDArray[Any] | None:
        """What was noted of every sample beside its batch (``action``), in the order of the rows; None if nothing."""
        key = f"{NOTE_KEY}{name}"
        if not self._records or any(key not in record.arrays for record in self._records):
            return None
        return np.asarray(np.concatenate([record.arrays[key] for record in self._records]))
