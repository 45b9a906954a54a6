"""An index of remembered samples: which rows of which past experience, not a copy of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data
from vla_cl.memory.mixing import concatenate
from vla_cl.types import Batch, Experience

Selection = Literal["first", "uniform"]
SELECTIONS: tuple[Selection, ...] = ("first", "uniform")


@dataclass(frozen=True)
class _Entry:
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
        self._entries[experience.name] = _Entry(data, rows)

    def sample(self, count: int, seed: int, step: int) -> Batch:
        """Draw ``count`` remembered samples uniformly, with replacement; a pure function of seed and step.

        Raises:
            ValueError: Nothing is remembered yet.
        """
        if not self._entries:
            raise ValueError("the memory is empty: nothing has been learnt before")
        generator = np.random.default_rng([seed, step])
        picks = np.sort(generator.integers(len(self), size=count))
        batches = []
        start = 0
        for entry in self._entries.values():
            here = picks[(picks >= start) & (picks < start + len(entry.rows))] - start
            if len(here):
                batches.append(entry.data.batch(entry.rows[here]))
            start += len(entry.rows)
        return concatenate(batches)

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
        found = {experience.name: data for experience, data in past}
        for name, rows in index.items():
            if name not in found:
                raise ValueError(f"the checkpoint remembers experience {name!r}, which is not among {sorted(found)}")
            if rows and max(rows) >= len(found[name]):
                raise ValueError(
                    f"the checkpoint remembers row {max(rows)} of {name!r}, which has {len(found[name])} rows"
                )
            self._entries[name] = _Entry(found[name], np.asarray(rows, dtype=np.int64))
