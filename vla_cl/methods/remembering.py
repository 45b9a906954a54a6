"""What methods share that remember samples: the memory, filled after each task, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from vla_cl.interfaces import Data, Method
from vla_cl.memory.replay_memory import COPIES, REUSED, SELECTIONS, ReplayMemory, Selection
from vla_cl.memory.settings import MOST_BYTES, reused_folder
from vla_cl.methods.checked_settings import MAX_COUNT, check_count
from vla_cl.methods.saved_state import require_alike, require_keys, whole_number
from vla_cl.storage.names import NOTES
from vla_cl.types import ConfigurationError, Experience

_NOTED = frozenset({"experience", "bytes_per_sample", "frames_in_total", "lengths", "episodes"})


def make_memory(samples_per_task: int, selection: Selection, memory: Mapping[str, Any] | None = None) -> ReplayMemory:
    """The memory of a method, from the method's settings.

    Args:
        samples_per_task: Samples kept of each past task.
        selection: Which ones.
        memory: In place of ``samples_per_task``: the fields of `vla_cl.memory.settings.MemorySettings`, for example a
            budget in bytes. Where it names no ``selection`` of its own, the one above holds.

    Raises:
        ConfigurationError: A setting is unknown or out of range.
    """
    if memory is not None:
        return ReplayMemory.from_settings(memory, selection)
    check_count("samples_per_task", samples_per_task)
    if selection not in SELECTIONS:
        raise ConfigurationError(f"method.selection must be one of {', '.join(SELECTIONS)}; got {selection!r}")
    return ReplayMemory(samples_per_task, selection)


def memory_state(memory: ReplayMemory) -> dict[str, object]:
    """Which rows are remembered, and of how many experiences; plain data."""
    return {"memory": memory.index(), "experiences": len(memory.tasks)}


def restore_memory(
    method: str, memory: ReplayMemory, extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
) -> None:
    """Remember again what `memory_state` told.

    Args:
        method: What the sentence calls the method.
        memory: That remembers nothing yet.
        extra: The checkpoint's plain data.
        past: As `vla_cl.interfaces.Method.load_state_dict` has it.

    Raises:
        ValueError: It is another method's, or of another stream, or not whole.
    """
    require_keys(method, extra, ["memory", "experiences"])
    index, experiences = _checked_index(extra["memory"]), whole_number("experiences", extra["experiences"])
    found = len([name for name in index if name != NOTES])
    if found != experiences:
        raise ValueError(f"the memory was of {experiences} experiences, but the checkpoint holds rows of {found}")
    memory.restore(index, past)


def _checked_index(index: object) -> Mapping[str, Any]:
    """What a checkpoint says of a memory, as `ReplayMemory.index` gives it, if it is whole.

    Raises:
        ValueError: It is something else, or rows and notes do not belong together.
    """
    if not isinstance(index, Mapping):
        raise ValueError(f"a memory maps experiences to rows; the checkpoint holds {str(index)[:40]!r}")
    rows_of: dict[str, Any] = {name: rows for name, rows in index.items() if name != NOTES}
    for name, rows in rows_of.items():
        if not _numbers(rows) or len(set(rows)) != len(rows):
            raise ValueError(f"a memory's rows are different whole numbers; those of {name!r} are not")
    if NOTES not in index:  # rows alone
        return index
    notes = index[NOTES]
    if not isinstance(notes, Mapping) or notes.keys() != rows_of.keys():
        raise ValueError(f"a memory has notes on each of {sorted(rows_of)[:5]}; the checkpoint holds others")
    for name, rows in rows_of.items():
        _require_notes_on(name, rows, notes[name])
    return index


def _require_notes_on(name: str, rows: Sequence[int], notes: object) -> None:
    if not isinstance(notes, Mapping) or not notes.keys() >= _NOTED:
        raise ValueError(f"a memory notes {', '.join(sorted(_NOTED))} of {name!r}; the checkpoint holds others")
    lengths, episodes = notes["lengths"], notes["episodes"]
    files: Any = notes.get("files")
    numbers = [notes[key] for key in ("bytes_per_sample", "frames_in_total")] + [notes.get("beside", 0)]
    number = notes["experience"]
    if type(number) is not int or abs(number) > MAX_COUNT or not _numbers(numbers) or not _numbers(episodes):
        raise ValueError(f"a memory's notes on {name!r} are whole numbers; the checkpoint holds others")
    if type(lengths) is int and lengths == 1:
        lengths = [1] * len(rows)
    if not _numbers(lengths) or sum(lengths) != len(rows) or len(lengths) != len(episodes):
        raise ValueError(f"the memory of {name!r} has {len(rows)} rows, but its notes are on another number")
    if files is not None or "sizes" in notes:
        sizes = notes.get("sizes")
        texts = isinstance(files, list) and all(isinstance(file, str) for file in files)
        if not texts or not _numbers(sizes) or not len(files) == len(sizes) == len(lengths):
            raise ValueError(f"the memory of {name!r} has {len(lengths)} copies, but its notes are on others")


def _numbers(values: object) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers from 0 on, as large as bytes can be."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MOST_BYTES for value in values)


class RememberingMethod(Method):
    """A method whose whole state is a memory, which its constructor makes (`make_memory`)."""

    memory: ReplayMemory

    @property
    def works_alone(self) -> bool:
        """With the memory of another run."""
        return self.acts and self.memory.settings.reuse is not None

    @property
    def reuses(self) -> Path | None:
        """What ``method.memory.reuse`` names."""
        return reused_folder(self.memory.settings)

    def open(self, folder: Path) -> None:
        """Copies go to ``memory/``."""
        self.memory.keep_in(folder / COPIES)

    def adopt(self, data: Data) -> None:
        """As an experience before the first."""
        self.memory.adopt(REUSED.name, REUSED.index, data, self.model)

    def committed(self) -> None:
        """Copies that are no longer remembered go."""
        self.memory.settle()

    def end_task(self, experience: Experience, data: Data) -> None:
        """Remember samples of what was just learnt."""
        self.memory.remember(experience, data, self.train_seed, self.model)

    def memory_bytes(self) -> int:
        """Bytes of the remembered samples, raw."""
        return self.memory.memory_bytes()

    def extra_state(self) -> dict[str, object]:
        """Which rows are remembered."""
        return memory_state(self.memory)

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Remember the same rows again.

        Raises:
            ValueError: The checkpoint is another method's, or of another stream.
        """
        require_alike(type(self).__name__, state, {})
        restore_memory(type(self).__name__, self.memory, extra, past)
