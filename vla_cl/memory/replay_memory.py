"""What a method remembers of past experiences: which samples, within which budget, in which form."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Data, Model
from vla_cl.memory.budget import divide, similarity_weights
from vla_cl.memory.copying import packed
from vla_cl.memory.mixing import concatenate, select
from vla_cl.memory.remembered import Remembered, from_index
from vla_cl.memory.selection import Candidates, Samples, Units, cut, mean_feature, rule_named
from vla_cl.memory.settings import SETTING, MemorySettings
from vla_cl.memory.store import TrajectoryStore
from vla_cl.random_numbers import Purpose, generator
from vla_cl.storage import names
from vla_cl.storage.names import NOTES
from vla_cl.types import Batch, ConfigurationError, Experience

Selection = Literal["first", "uniform"]
SELECTIONS: tuple[Selection, ...] = ("first", "uniform")
"""The rules that need nothing but the data's length; all others are chosen through `MemorySettings`."""

COPIES = "memory"
"""Where copies lie in a run's folder."""

REUSED = Experience(-1, names.REUSED, ())
"""Under which name and number a memory keeps what another run remembered."""


class ReplayMemory:
    """Samples kept of each past experience.

    An index by default: rows of the experiences' data. With ``keep: copy`` the samples are written to `folder`, which
    must be given (`keep_in`) before anything is remembered, and the data may go.

    Args:
        samples_per_task: Rows kept of each experience.
        selection: Name of a rule, a file of `vla_cl.memory.rules`.

    Attributes:
        settings: All settings; those above are the most common two.
    """

    def __init__(self, samples_per_task: int, selection: str = "uniform") -> None:
        self._set_up(MemorySettings(samples_per_task=samples_per_task, selection=selection))

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any] | MemorySettings | None, selection: str = "uniform"
    ) -> ReplayMemory:
        """A memory as ``method.memory`` describes it, see `MemorySettings.of`.

        Raises:
            ConfigurationError: A setting is unknown or out of range.
        """
        memory = cls.__new__(cls)
        memory._set_up(MemorySettings.of(settings, selection))
        return memory

    def _set_up(self, settings: MemorySettings) -> None:
        self.settings = settings
        self._rule = rule_named(settings.selection, settings.selection_settings)
        self._store: TrajectoryStore | None = None
        self._dropped: frozenset[str] = frozenset()
        self._tasks: dict[str, Remembered] = {}
        self._by_experience: dict[int, Remembered] = {}
        self._all: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)

    def __len__(self) -> int:
        """Number of remembered samples."""
        return len(self._all)

    @property
    def tasks(self) -> Mapping[str, Remembered]:
        """What is remembered of each experience, by its name."""
        return self._tasks

    @property
    def store(self) -> TrajectoryStore | None:
        """The copies, where copies are kept."""
        return self._store

    def keep_in(self, folder: Path) -> None:
        """Where copies go; without effect for an index."""
        if self.settings.keep == "copy":
            self._store = TrajectoryStore(folder)

    def remember(self, experience: Experience, data: Data, seed: int, model: Model | None = None) -> None:
        """Choose samples of an experience that has been learnt, and forget what no longer fits.

        A pure function of the data, the seed, the experience's index and, for rules that ask it, the model.

        Args:
            experience: What was learnt.
            data: Its data.
            seed: Of the run.
            model: As it is now; for rules, splits and encodings that need features or losses.

        Raises:
            ConfigurationError: A rule needs a model that is not there, copies have no folder, or nothing at all fits
                into the budget. If the share of an experience has become too small for one unit of it, there is a
                warning.
        """
        if self._store is None and self.settings.keep == "copy":
            raise ConfigurationError(f"{SETTING}.keep=copy needs a folder for the copies; this caller gives none")
        self._remove_dropped()
        newest = self._with_mean(Remembered.nothing_yet(experience, data), data, np.arange(len(data)), model)
        others = {
            name: self._with_mean(kept, kept, np.sort(kept.rows), model)
            for name, kept in self._tasks.items()
            if name != experience.name
        }
        units = cut(data, self.settings.unit, self.settings.window)
        most = self._share_of_newest(others, newest, units)
        candidates = Candidates(data, units, self._units_within(units, data, most), seed, experience.index, model)
        order = self._rule.order(candidates)[: candidates.limit]
        newest = self._fill(newest, units, order, most, model)
        before = {name for name, kept in others.items() if len(kept.rows)} | {experience.name}
        self._tasks = {**others, experience.name: newest}
        self._shrink()
        self._complain_of(before)

    def charge(self, experience: int, bytes_per_sample: int) -> None:
        """Count what the method keeps beside each sample of an experience; for a budget some samples may have to go.

        Args:
            experience: Its index.
            bytes_per_sample: Of outputs, for example.

        Raises:
            ConfigurationError: Nothing at all fits into the budget any more.
        """
        kept = self._by_experience[experience]
        if kept.beside == bytes_per_sample:
            return
        before = {name for name, task in self._tasks.items() if len(task.rows)}
        self._tasks[kept.name] = replace(kept, beside=bytes_per_sample)
        self._shrink()
        self._complain_of(before)

    def adopt(self, name: str, experience: int, data: Data, model: Model | None = None) -> None:
        """Remember all of ``data`` from the start, such as another run's memory.

        Args:
            name: Like that of an experience, but of none in the stream.
            experience: A number that no experience of the stream has; negative.
            data: What is remembered, as an index whatever `MemorySettings.keep` says. A budget counts it, and it
                shrinks like the rest.
            model: For a split by similarity.
        """
        nothing = Remembered.nothing_yet(Experience(experience, name, ()), data)
        nothing = self._with_mean(nothing, data, np.arange(len(data)), model)
        units = cut(data, self.settings.unit, self.settings.window)
        kept = nothing.with_units(units, np.arange(len(units)))
        self._tasks = {name: kept, **self._tasks}
        self._shrink()

    def settle(self) -> None:
        """Remove the files of copies that are no longer remembered; call it when a checkpoint has been written.

        Until then, or until the next experience is remembered, they stay, so that a run that is killed can go on from
        the checkpoint before. With several processes, only one may call it, while the others do not write.
        """
        if self._store is not None:
            self._store.keep_only(self._files())
            self._dropped = frozenset()

    def everything(self) -> NDArray[np.int64]:
        """All that is remembered, as rows of (index of the experience, row in its data), shape (len(self), 2)."""
        return self._all.copy()

    def pick(self, count: int, seed: int, step: int) -> NDArray[np.int64]:
        """Choose ``count`` remembered samples uniformly, with replacement; a pure function of seed and step.

        Returns:
            As `everything`, in its order, shape (count, 2).

        Raises:
            ValueError: Nothing is remembered yet.
        """
        if not len(self):
            raise ValueError("the memory is empty: nothing has been learnt before")
        places = np.sort(generator(seed, Purpose.REPLAY, step).integers(len(self), size=count))
        picks: NDArray[np.int64] = self._all[places]
        return picks

    def fetch(self, picks: NDArray[np.int64]) -> Batch:
        """The samples that `pick` or `everything` named, in this order."""
        experiences = list(dict.fromkeys(picks[:, 0].tolist()))
        places = [np.flatnonzero(picks[:, 0] == experience) for experience in experiences]
        found = concatenate(
            [
                self._by_experience[experience].batch(picks[here, 1])
                for experience, here in zip(experiences, places, strict=True)
            ]
        )
        order = np.concatenate(places)
        return found if (np.diff(order) > 0).all() else select(found, np.argsort(order))

    def sample(self, count: int, seed: int, step: int) -> Batch:
        """`fetch` what `pick` chooses.

        Raises:
            ConfigurationError: The copies hold features in place of pictures.
        """
        self.require_pictures()
        return self.fetch(self.pick(count, seed, step))

    def require_pictures(self) -> None:
        """For whoever learns from the samples.

        Raises:
            ConfigurationError: The copies hold features in place of pictures.
        """
        if self.settings.encoding == "features":
            raise ConfigurationError(
                f"{SETTING}.encoding=features can be read (`fetch`), but no model here learns from features in place "
                "of pictures; use raw, jpeg or h264"
            )

    def memory_bytes(self) -> int:
        """Bytes of what is remembered.

        Of an index, each frame once, as raw pictures, state and action; of copies, their files and the journal's lines.
        What the method keeps beside the samples (`charge`) comes on top. A budget holds all of it.
        """
        return sum(task.bytes for task in self._tasks.values())

    def index(self) -> dict[str, Any]:
        """What a checkpoint holds: experience name to remembered rows, the worthiest first, and `NOTES`; plain data."""
        rows: dict[str, Any] = {name: task.rows.tolist() for name, task in self._tasks.items()}
        return {**rows, NOTES: {name: task.notes() for name, task in self._tasks.items()}}

    def restore(self, index: Mapping[str, Any], past: Iterator[tuple[Experience, Data]]) -> None:
        """Take the rows from a checkpoint and the data from the stream, or from the copies.

        Copies that are gone, because the run went on from this checkpoint, are made again if the stream has the data.

        Raises:
            ValueError: The stream does not hold an experience of the index, or it is shorter than a row number.
            ConfigurationError: A copy is missing or damaged.
        """
        names = [name for name in index if name != NOTES]
        notes: Mapping[str, Mapping[str, Any]] = index.get(NOTES, {})
        copied = {name for name in names if notes.get(name, {}).get("files")}
        empty = {name for name in names if name in notes and not index[name]}
        found: dict[str, tuple[int, Data]] = {}
        if set(names) - copied - empty or any(self._missing(notes[name]["files"]) for name in copied):
            found = {experience.name: (experience.index, data) for experience, data in past}
        self._tasks = {}
        for name in names:
            if name in copied:
                data = found[name][1] if name in found else None
                self._tasks[name] = self._reopened(name, data, index[name], notes[name])
                continue
            if name in empty and name not in found:
                self._tasks[name] = from_index(name, int(notes[name]["experience"]), None, (), notes[name])
                continue
            if name not in found:
                raise ValueError(f"the checkpoint remembers experience {name!r}, which is not among {sorted(found)}")
            number, data = found[name]
            if index[name] and max(index[name]) >= len(data):
                longest = max(index[name])
                raise ValueError(f"the checkpoint remembers row {longest} of {name!r}, which has {len(data)} rows")
            self._tasks[name] = from_index(name, number, data, index[name], notes.get(name))
        self._refresh()

    def _missing(self, files: Sequence[str]) -> list[str]:
        return [] if self._store is None else [name for name in files if not self._store.holds(name)]

    def _reopened(self, name: str, data: Data | None, rows: list[int], notes: Mapping[str, Any]) -> Remembered:
        if self._store is None:
            raise ConfigurationError(f"the checkpoint's memory of {name!r} is a copy, but its folder was not given")
        kept = from_index(name, int(notes["experience"]), data, rows, notes)
        if data is not None and self._missing(kept.files) and self.settings.encoding != "features":
            self._copied(self._store, kept, None, None)
        self._store.verify(kept.files)
        return kept.opened(self._store)

    def _with_mean(
        self, task: Remembered, samples: Samples, rows: NDArray[np.int64], model: Model | None
    ) -> Remembered:
        """With the mean feature where the split asks for it: of all tasks under the same model, the present one."""
        if self.settings.split != "similarity":
            return task
        return replace(task, mean=mean_feature(model, samples, rows))

    def _share_of_newest(self, others: Mapping[str, Remembered], newest: Remembered, units: Units) -> int:
        """The most that the newest experience may take: bytes of a budget, else frames or trajectories."""
        limit = self.settings.samples_per_task or self.settings.trajectories_per_task
        if limit is not None:
            return limit
        # Of a copy nobody knows the size yet; all the budget is its bound, and what it leaves goes to the others.
        raw = int(units.lengths.sum()) * newest.bytes_per_sample
        most = raw if self.settings.keep == "index" else self.settings.budget_bytes or 0
        return self._shares([*others.values(), newest], [*(task.bytes for task in others.values()), most])[-1]

    def _shares(self, tasks: list[Remembered], capacities: list[int]) -> list[int]:
        if self.settings.split == "equal":
            weights = [1.0] * len(tasks)
        elif self.settings.split == "proportional":
            weights = [float(task.frames_in_total) for task in tasks]
        else:
            weights = similarity_weights([task.mean for task in tasks])
        return divide(self.settings.budget_bytes or 0, weights, capacities)

    def _units_within(self, units: Units, data: Data, most: int) -> int:
        """How many units can fit at most: how far an order of worth can matter."""
        if self.settings.trajectories_per_task is not None:
            return min(most, len(units))
        lengths = np.cumsum(np.sort(units.lengths))
        if self.settings.samples_per_task is not None:
            return int(np.searchsorted(lengths, most, side="right"))
        if self.settings.keep == "copy":
            return len(units)  # how small they get shows when they are encoded
        return int(np.searchsorted(lengths * data.bytes_per_sample, most, side="right"))

    def _fill(
        self, newest: Remembered, units: Units, order: NDArray[np.int64], most: int, model: Model | None
    ) -> Remembered:
        """The beginning of the order that fits."""
        store, by_bytes = self._store, self.settings.budget is not None
        if store is None or not by_bytes:
            room, sizes = most, units.lengths[order]
            if self.settings.trajectories_per_task is not None:
                sizes = np.ones_like(sizes)
            elif by_bytes:
                sizes = sizes * newest.bytes_per_sample
            order = order[: int(np.searchsorted(np.cumsum(sizes), room, side="right"))]
        kept = newest.with_units(units, order)
        return kept if store is None else self._copied(store, kept, most if by_bytes else None, model)

    def _copied(self, store: TrajectoryStore, kept: Remembered, most: int | None, model: Model | None) -> Remembered:
        """The units written down in the order of worth, until one does not fit; that one is not written."""
        assert kept.data is not None
        files, used, start = [], 0, 0
        for length in kept.lengths.tolist():
            rows = kept.rows[start : start + length]
            content = packed(kept.data, rows, self.settings, model)
            label = f"{kept.experience:04d}-{int(rows[0]):07d}"
            used += store.plan(label, content).bytes_on_disk
            if most is not None and used > most:
                break
            files.append(store.append(label, content))
            start += length
        return kept.first(len(files)).with_files(files).opened(store)

    def _files(self) -> frozenset[str]:
        return frozenset(name for task in self._tasks.values() for name in task.files)

    def _remove_dropped(self) -> None:
        """Those of the experience before: since then a checkpoint without them has been written."""
        if self._store is not None:
            self._store.remove(self._dropped)
            self._dropped = frozenset()

    def _complain_of(self, before: Collection[str]) -> None:
        """Of experiences of which nothing is left."""
        lost = sorted(name for name in before if not len(self._tasks[name].rows))
        if not lost:
            return
        message = (
            f"{SETTING}: nothing of {', '.join(lost)} is remembered, for a {self.settings.unit} takes more than its "
            f"share of {self.settings.budget or self.settings.samples_per_task}; raise it or choose a smaller unit"
        )
        if self.settings.split == "similarity":
            message += f" (with {SETTING}.split=similarity a past task that is like the newest one has no share)"
        if not len(self):
            raise ConfigurationError(message)
        warnings.warn(message, stacklevel=3)

    def _shrink(self) -> None:
        """Cut every experience down to its share, from the end of its order of worth."""
        before = self._files()
        if self.settings.budget is not None:
            tasks = list(self._tasks.values())
            shares = self._shares(tasks, [task.bytes for task in tasks])
            self._tasks = {
                name: task.shrunk_to(share) for (name, task), share in zip(self._tasks.items(), shares, strict=True)
            }
        self._dropped = self._dropped | (before - self._files())
        self._refresh()

    def _refresh(self) -> None:
        self._by_experience = {task.experience: task for task in self._tasks.values()}
        parts = [
            np.column_stack([np.full(len(task.rows), task.experience), np.sort(task.rows)])
            for task in self._tasks.values()
        ]
        self._all = np.concatenate([*parts, np.empty((0, 2), dtype=np.int64)]).astype(np.int64)
