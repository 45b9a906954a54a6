"""What is remembered of one experience: its units in the order of their worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data
from vla_cl.memory.copied import CopiedData
from vla_cl.memory.selection import Units
from vla_cl.memory.store import StoredFile, TrajectoryStore
from vla_cl.types import Batch, Experience


def _no_numbers() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Remembered:
    """The kept units of an experience.

    Attributes:
        experience: Its index.
        data: Where the samples come from; None while a copy has not been opened.
        bytes_per_sample: Of a raw sample.
        frames_in_total: Samples that the experience had.
        mean: Mean feature, (D,), under the model of the newest experience, while a memory that needs it remembers that;
            it is neither kept nor counted, for later models have other features.
        rows: Rows of the data, unit by unit, the worthiest first, shape (N,).
        lengths: Rows of each unit, shape (U,).
        episodes: Episode of each unit, shape (U,).
        sizes: Bytes of each unit, shape (U,).
        files: Name of each unit's copy; empty for an index.
        beside: Bytes that the method keeps beside each sample, such as outputs.
    """

    name: str
    experience: int
    data: Data | None
    bytes_per_sample: int
    frames_in_total: int
    mean: NDArray[np.float64] | None = None
    rows: NDArray[np.int64] = field(default_factory=_no_numbers)
    lengths: NDArray[np.int64] = field(default_factory=_no_numbers)
    episodes: NDArray[np.int64] = field(default_factory=_no_numbers)
    sizes: NDArray[np.int64] = field(default_factory=_no_numbers)
    files: tuple[str, ...] = ()
    beside: int = 0

    @classmethod
    def nothing_yet(cls, experience: Experience, data: Data) -> Self:
        """Before any unit has been chosen."""
        return cls(experience.name, experience.index, data, data.bytes_per_sample, len(data))

    @property
    def bytes(self) -> int:
        """Bytes of the units and of what is kept beside their samples."""
        return int(self._sizes_with_beside.sum())

    @property
    def _sizes_with_beside(self) -> NDArray[np.int64]:
        return self.sizes + self.beside * self.lengths

    @property
    def trajectories(self) -> int:
        """Number of episodes of which something is kept."""
        return len(np.unique(self.episodes))

    def with_units(self, units: Units, order: NDArray[np.int64]) -> Self:
        """These units, the worthiest first, as an index."""
        rows = [units.rows_of(int(number)) for number in order] if (units.lengths > 1).any() else None
        return replace(
            self,
            rows=units.rows[units.starts[order]] if rows is None else np.concatenate([*rows, _no_numbers()]),
            lengths=units.lengths[order],
            episodes=units.episodes[order],
            sizes=units.lengths[order] * self.bytes_per_sample,
        )

    def with_files(self, files: Sequence[StoredFile]) -> Self:
        """The same units as copies in these files."""
        sizes = np.asarray([file.bytes_on_disk for file in files], dtype=np.int64)
        return replace(self, files=tuple(file.name for file in files), sizes=sizes)

    def opened(self, store: TrajectoryStore) -> Self:
        """With the samples read from the copies."""
        return replace(self, data=CopiedData(store, self.files, self.episodes.tolist(), self.bytes_per_sample))

    def shrunk_to(self, share: int) -> Self:
        """The worthiest units that take at most ``share`` bytes."""
        if self.bytes <= share:
            return self
        return self.first(int(np.searchsorted(np.cumsum(self._sizes_with_beside), share, side="right")))

    def first(self, count: int) -> Self:
        """The worthiest ``count`` units."""
        return replace(
            self,
            rows=self.rows[: int(self.lengths[:count].sum())],
            lengths=self.lengths[:count],
            episodes=self.episodes[:count],
            sizes=self.sizes[:count],
            files=self.files[:count],
        )

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows of the experience's data."""
        if self.data is None:
            raise RuntimeError(f"the copies of {self.name!r} have not been opened")
        return self.data.batch(self.data.find(rows) if isinstance(self.data, CopiedData) else rows)

    def notes(self) -> dict[str, Any]:
        """All but the rows and the data, as plain data."""
        notes: dict[str, Any] = {
            "experience": self.experience,
            "bytes_per_sample": self.bytes_per_sample,
            "frames_in_total": self.frames_in_total,
            "lengths": 1 if (self.lengths == 1).all() else self.lengths.tolist(),
            "episodes": self.episodes.tolist(),
        }
        if self.beside:
            notes["beside"] = self.beside
        if self.files:
            notes |= {"files": list(self.files), "sizes": self.sizes.tolist()}
        return notes


def from_index(
    name: str, experience: int, data: Data | None, rows: Sequence[int], notes: Mapping[str, Any] | None
) -> Remembered:
    """From a checkpoint; one without notes (of rows alone) counts every row as a unit."""
    rows_ = np.asarray(rows, dtype=np.int64)
    if notes is None:
        if data is None:
            raise ValueError(f"the checkpoint says too little about its memory of {name!r}")
        notes = {"lengths": 1, "episodes": np.asarray(data.episode_of_row)[rows_]}
    lengths = np.ones(len(rows_), np.int64) if notes["lengths"] == 1 else np.asarray(notes["lengths"], dtype=np.int64)
    size = int(notes.get("bytes_per_sample", 0 if data is None else data.bytes_per_sample))
    return Remembered(
        name,
        experience,
        data,
        bytes_per_sample=size,
        frames_in_total=int(notes.get("frames_in_total", 0 if data is None else len(data))),
        rows=rows_,
        lengths=lengths,
        episodes=np.asarray(notes["episodes"], dtype=np.int64),
        sizes=np.asarray(notes["sizes"], dtype=np.int64) if "sizes" in notes else lengths * size,
        files=tuple(notes.get("files", ())),
        beside=int(notes.get("beside", 0)),
    )
