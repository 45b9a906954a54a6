"""Random access to the frames of an experience: decoded once, then a memory map.

A sample is one frame and the chunk of actions that starts there; see `vla_cl.types.Batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data.agreement import Described, agreed
from vla_cl.data.dataset_folder import ACTION, STATE, DatasetFolder, camera_names, spec_of
from vla_cl.data.frame_cache import Pictures
from vla_cl.data.held_out import rows_of
from vla_cl.data.source import Source
from vla_cl.interfaces import Data
from vla_cl.trust.text import short
from vla_cl.types import Batch, ConfigurationError, InterfaceSpec

Range = tuple[list[float], list[float]]
"""Smallest and largest value of each dimension."""


class Frames(Data):
    """The frames of one or more sources, behind each other.

    Args:
        sources: Where the data lie; all must have the same cameras and sizes.
        cache: Folder for decoded pictures, shared by all runs on this machine.
        action_offsets: Frames, relative to the sample's, whose actions form the chunk (``action_delta_indices`` of
            LeRobot).
        observation_offsets: Frames whose observations are stacked (``observation_delta_indices``); None means the
            sample's own frame without a time dimension.

    Raises:
        ConfigurationError: No source, no frame, or sources that do not fit together.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cache: Path,
        action_offsets: Sequence[int],
        observation_offsets: Sequence[int] | None = None,
    ) -> None:
        if not sources:
            raise ConfigurationError("an experience needs at least one dataset; none was given")
        folders = [DatasetFolder(source.root) for source in sources]
        self.spec = spec_of_all(sources)
        self.action_range = _range_of_all([folder.action_range for folder in folders])
        self._action_offsets = np.asarray(action_offsets, dtype=np.int64)
        self._observation_offsets = None if observation_offsets is None else np.asarray(observation_offsets)
        self._parts = [_Part.load(folder, source, cache) for folder, source in zip(folders, sources, strict=True)]
        self._start = np.cumsum([0, *(len(part.actions) for part in self._parts)])
        self._episode = np.concatenate(
            [part.episode_number + offset for part, offset in zip(self._parts, self._episode_offsets(), strict=True)]
        )
        self._first = np.concatenate(
            [part.first_row + start for part, start in zip(self._parts, self._start[:-1], strict=True)]
        )
        self._last = np.concatenate(
            [part.last_row + start for part, start in zip(self._parts, self._start[:-1], strict=True)]
        )
        self._states = np.concatenate([part.states for part in self._parts])
        self._actions = np.concatenate([part.actions for part in self._parts])
        self._instructions = [text for part in self._parts for text in part.instructions]
        if not len(self):
            raise ConfigurationError(f"no frame of {short(sources[0].root)} has the instruction asked for")

    def __len__(self) -> int:
        """Number of samples (frames)."""
        return int(self._start[-1])

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Episode of each row, shape (len(self),), counted over all sources; a gap in time begins another one."""
        return self._episode

    @property
    def recorded_places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of each row, and its episode as that source's dataset counts, each of shape (len(self),)."""
        sources = np.repeat(np.arange(len(self._parts)), np.diff(self._start))
        return sources, np.concatenate([part.recorded_episode for part in self._parts])

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one raw frame: pictures, state and one action."""
        return self.spec.bytes_per_frame

    @property
    def states(self) -> NDArray[np.float32]:
        """Every state, shape (len(self), S)."""
        return self._states

    @property
    def actions(self) -> NDArray[np.float32]:
        """Every action, shape (len(self), A)."""
        return self._actions

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        observed, padded = self._window(rows, self._observation_offsets)
        result: Batch = {"index": torch.from_numpy(rows), "task": [self._instructions[row] for row in rows.tolist()]}
        for camera in self.spec.cameras:
            result[camera] = torch.from_numpy(self._pictures(camera, observed))
            if padded is not None:
                result[f"{camera}_is_pad"] = torch.from_numpy(padded)
        if self.spec.state_size:
            result["observation.state"] = torch.from_numpy(self._states[observed])
        chunk, is_pad = self._window(rows, self._action_offsets)
        result["action"] = torch.from_numpy(self._actions[chunk])
        result["action_is_pad"] = torch.from_numpy(is_pad)
        return result

    def _window(
        self, rows: NDArray[np.int64], offsets: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Row numbers (B, len(offsets)) held inside the episode, and where they had to be held."""
        if offsets is None:
            return rows, None
        wanted = rows[:, None] + offsets[None, :]
        held = np.clip(wanted, self._first[rows][:, None], self._last[rows][:, None])
        return held, held != wanted

    def _pictures(self, camera: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        height, width = self.spec.cameras[camera]
        shape = (*rows.shape, 3, height, width)
        flat = rows.reshape(-1)
        if len(self._parts) == 1:
            part = self._parts[0]
            return part.pictures[camera].take(part.stored_row[flat]).reshape(shape)
        result = np.empty((len(flat), 3, height, width), dtype=np.uint8)
        part_of_row = np.searchsorted(self._start, flat, side="right") - 1
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(part_of_row == number)
            if len(here):
                result[here] = part.pictures[camera].take(part.stored_row[flat[here] - self._start[number]])
        return result.reshape(shape)

    def _episode_offsets(self) -> list[int]:
        counts = [int(part.episode_number[-1]) + 1 if len(part.episode_number) else 0 for part in self._parts]
        return [sum(counts[:number]) for number in range(len(counts))]


def spec_of_all(sources: Sequence[Source]) -> InterfaceSpec:
    """What sources hold together. Rates are not compared: whether they may differ, the pre-flight has asked.

    Raises:
        ConfigurationError: They do not fit together, as of `vla_cl.data.agreement.agreed`.
    """
    found = [Described(short(source.root, 60), spec_of(source)) for source in sources]
    return agreed(found, check_fps=False)


def _range_of_all(ranges: Sequence[Range | None]) -> Range | None:
    """The range of actions that holds those of all recordings that tell theirs."""
    told = [found for found in ranges if found is not None]
    if not told:
        return None
    low, high = np.min([one[0] for one in told], axis=0), np.max([one[1] for one in told], axis=0)
    return low.tolist(), high.tolist()


@dataclass(frozen=True)
class _Part:
    """The rows of one source."""

    pictures: Mapping[str, Pictures]  # camera, by its name here -> pictures of the whole dataset
    stored_row: NDArray[np.int64]  # row of this source -> row of the dataset
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    recorded_episode: NDArray[np.int64]
    episode_number: NDArray[np.int64]
    first_row: NDArray[np.int64]
    last_row: NDArray[np.int64]
    instructions: list[str]

    @classmethod
    def load(cls, folder: DatasetFolder, source: Source, cache: Path) -> _Part:
        keep = rows_of(folder, source)
        first, last, number = _stretches(folder, keep)
        texts = {} if source.instruction else folder.instructions
        recorded = [texts[index] for index in folder.rows.task[keep].tolist()] if texts else []
        has_state = STATE in folder.features
        return cls(
            pictures={here: Pictures(folder, there, cache) for here, there in camera_names(folder, source).items()},
            stored_row=keep,
            states=folder.vectors(STATE)[keep] if has_state else np.zeros((len(keep), 0), np.float32),
            actions=folder.vectors(ACTION)[keep],
            recorded_episode=folder.rows.episode[keep],
            episode_number=number,
            first_row=first,
            last_row=last,
            instructions=[source.instruction] * len(keep) if source.instruction else recorded,
        )


def _stretches(
    folder: DatasetFolder, keep: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First row, last row and number of the stretch of each row: rows that go on in time within an episode.

    A chunk of actions goes on in time or ends. So where the selection leaves frames out (another task in the middle of
    an episode), or the recording lost some, a new stretch begins.
    """
    goes_on = folder.rows.follows(folder.fps)[keep] & (np.diff(keep, prepend=-2) == 1)
    begins = np.flatnonzero(~goes_on)
    lengths = np.diff([*begins, len(keep)])
    number = np.repeat(np.arange(len(begins)), lengths)
    first = begins[number]
    return first, first + lengths[number] - 1, number
