"""An index of remembered samples: which rows of which past experience, not a copy of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data
from vla_cl.memory.mixing import concatenate, select
from vla_cl.types import Batch, Experience

Selection = Literal["first", "uniform"]
SELECTIONS: tuple[Selection, ...] = ("first", "uniform")


@dataclass(frozen=True)
class _Entry:
    experience: int
    data: Data
    rows: NDArray[np.int64]


class SampleMemory:
    """Samples kept of each past experience.

    Args:
        samples_per_task: Rows kept of each experience.
        selection: ``first``, as LIBERO does (the first windows, so the first few demonstrations); ``uniform``, a random
            subset.
    """

    def __init__(self, samples_per_task: int, selection: Selection) -> None:
        self.samples_per_task = samples_per_task
        self.selection = selection
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        """Number of remembered samples."""
        return sum(len(entry.rows) for entry in self._entries.values())

    def remember(self, experience: Experience, data: Data, seed: int) -> None:
        """Choose rows of an experience that has been learnt; a pure function of the seed and the experience's index."""
        count = min(self.samples_per_task, len(data))
        if self.selection == "first":
            rows: NDArray[np.int64] = np.arange(count)
        else:
            generator = np.random.default_rng([seed, experience.index])
            rows = np.sort(generator.choice(len(data), size=count, replace=False))
        self._entries[experience.name] = _Entry(experience.index, data, rows)

    def everything(self) -> NDArray[np.int64]:
        """All that is remembered, as rows of (index of the experience, row in its data), shape (len(self), 2)."""
        parts = [np.column_stack([np.full(len(e.rows), e.experience), e.rows]) for e in self._entries.values()]
        return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.int64)

    def pick(self, count: int, seed: int, step: int) -> NDArray[np.int64]:
        """Choose ``count`` remembered samples uniformly, with replacement; a pure function of seed and step.

        Returns:
            As `everything`, in its order, shape (count, 2).

        Raises:
            ValueError: Nothing is remembered yet.
        """
        if not len(self):
            raise ValueError("the memory is empty: nothing has been learnt before")
        generator = np.random.default_rng([seed, step])
        picks: NDArray[np.int64] = self.everything()[np.sort(generator.integers(len(self), size=count))]
        return picks

    def fetch(self, picks: NDArray[np.int64]) -> Batch:
        """The samples that `pick` or `everything` named, in this order."""
        batches = []
        for experience in dict.fromkeys(picks[:, 0].tolist()):
            data = next(entry.data for entry in self._entries.values() if entry.experience == experience)
            batches.append(data.batch(picks[picks[:, 0] == experience, 1]))
        found = concatenate(batches)
        order = np.concatenate([np.flatnonzero(picks[:, 0] == e) for e in dict.fromkeys(picks[:, 0].tolist())])
        return found if (np.diff(order) > 0).all() else select(found, np.argsort(order))

    def sample(self, count: int, seed: int, step: int) -> Batch:
        """`fetch` what `pick` chooses."""
        return self.fetch(self.pick(count, seed, step))

    def memory_bytes(self) -> int:
        """What the remembered samples would take as raw pictures, states and actions."""
        return sum(len(entry.rows) * entry.data.bytes_per_sample for entry in self._entries.values())

    def index(self) -> dict[str, list[int]]:
        """Experience name to remembered rows, as plain data."""
        return {name: entry.rows.tolist() for name, entry in self._entries.items()}

    def restore(self, index: Mapping[str, list[int]], past: Iterator[tuple[Experience, Data]]) -> None:
        """Take the rows from a checkpoint and the data from the stream.

        Raises:
            ValueError: The stream does not hold an experience of the index, or it is shorter than a row number.
        """
        found = {experience.name: (experience.index, data) for experience, data in past}
        for name, rows in index.items():
            if name not in found:
                raise ValueError(f"the checkpoint remembers experience {name!r}, which is not among {sorted(found)}")
            number, data = found[name]
            if rows and max(rows) >= len(data):
                raise ValueError(f"the checkpoint remembers row {max(rows)} of {name!r}, which has {len(data)} rows")
            self._entries[name] = _Entry(number, data, np.asarray(rows, dtype=np.int64))
