"""Random access to the frames of an experience: decoded once, then a memory map.

A sample is one frame and the chunk of actions that starts there; see `vla_cl.types.Batch`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.source import Source
from vla_cl.interfaces import Data
from vla_cl.types import Batch, ConfigurationError

CACHE_FORMAT = 1


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
        self.spec = folders[0].spec
        for folder in folders[1:]:
            if folder.spec != self.spec:
                raise ConfigurationError(
                    f"datasets of one experience must agree, but {folders[0].root} holds {self.spec} and {folder.root} "
                    f"holds {folder.spec}; record them with the same suite settings"
                )
        self.action_range = folders[0].action_range
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
            raise ConfigurationError(f"no frame matches among {[str(source.root) for source in sources]}")

    def __len__(self) -> int:
        """Number of samples (frames)."""
        return int(self._start[-1])

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Episode number of each row, shape (len(self),), counted over all sources."""
        return self._episode

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one raw frame: pictures, state and one action."""
        pictures = sum(height * width * 3 for height, width in self.spec.cameras.values())
        return pictures + 4 * (self.spec.state_size + self.spec.action_size)

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
        flat = rows.reshape(-1)
        result = np.empty((len(flat), 3, height, width), dtype=np.uint8)
        part_of_row = np.searchsorted(self._start, flat, side="right") - 1
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(part_of_row == number)
            if len(here):
                result[here] = part.pictures[camera][part.stored_row[flat[here] - self._start[number]]]
        return result.reshape(*rows.shape, 3, height, width)

    def _episode_offsets(self) -> list[int]:
        counts = [int(part.episode_number[-1]) + 1 if len(part.episode_number) else 0 for part in self._parts]
        return [sum(counts[:number]) for number in range(len(counts))]


@dataclass(frozen=True)
class _Part:
    """The rows of one source."""

    pictures: Mapping[str, NDArray[np.uint8]]  # camera -> (frames of the whole dataset, 3, H, W)
    stored_row: NDArray[np.int64]  # row of this source -> frame of the dataset
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    episode_number: NDArray[np.int64]
    first_row: NDArray[np.int64]
    last_row: NDArray[np.int64]
    instructions: list[str]

    @classmethod
    def load(cls, folder: DatasetFolder, source: Source, cache: Path) -> _Part:
        keep = _rows_of(folder, source)
        episode = folder.column("episode_index")[keep].astype(np.int64)
        _, number, count = np.unique(episode, return_inverse=True, return_counts=True)
        last = np.cumsum(count) - 1
        state_size = folder.spec.state_size
        states = folder.column("observation.state")[keep] if state_size else np.zeros((len(keep), 0))
        texts = folder.instructions
        recorded = [texts[index] for index in folder.column("task_index")[keep].tolist()]
        return cls(
            pictures={camera: _decoded(folder, camera, cache) for camera in folder.cameras},
            stored_row=keep,
            states=states.reshape(len(keep), state_size).astype(np.float32),
            actions=folder.column("action")[keep].astype(np.float32).reshape(len(keep), -1),
            episode_number=number.astype(np.int64),
            first_row=(last - count + 1)[number],
            last_row=last[number],
            instructions=[source.instruction] * len(keep) if source.instruction else recorded,
        )


def _rows_of(folder: DatasetFolder, source: Source) -> NDArray[np.int64]:
    total = int(folder.info["total_frames"])
    if source.recorded_instruction is None:
        return np.arange(total)
    texts = folder.instructions
    wanted = [index for index, text in texts.items() if text == source.recorded_instruction]
    if not wanted:
        raise ConfigurationError(
            f"no episode of {folder.root} has the instruction {source.recorded_instruction!r}; it has "
            f"{sorted(texts.values())}"
        )
    return np.flatnonzero(np.isin(folder.column("task_index"), wanted))


def _decoded(folder: DatasetFolder, camera: str, cache: Path) -> NDArray[np.uint8]:
    """Every picture of a camera as a read-only memory map (frames, 3, H, W); decoded at the first use."""
    target = cache / f"{_content_key(folder, camera)}.npy"
    if not target.is_file():
        _decode_into(folder, camera, target)
    array: NDArray[np.uint8] = np.load(target, mmap_mode="r", allow_pickle=False)
    return array


def _decode_into(folder: DatasetFolder, camera: str, target: Path) -> None:
    height, width = folder.cameras[camera]
    total = int(folder.info["total_frames"])
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = total * 3 * height * width
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConfigurationError(
            f"decoding {folder.root} needs {needed / 2**30:.1f} GiB in {target.parent}, which has "
            f"{free / 2**30:.1f} GiB free; free some, or set cache_dir to another disk"
        )
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        shape = (total, 3, height, width)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]
        number = -1
        label = f"decoding {folder.root.name}"
        frames = tqdm(folder.images(camera), total=total, desc=label, leave=False, unit="frame")
        for number, frame in enumerate(frames):
            array[number] = frame.transpose(2, 0, 1)
        if number + 1 != total:
            raise ConfigurationError(f"{folder.root} promises {total} frames, but {number + 1} could be decoded")
        array.flush()
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _content_key(folder: DatasetFolder, camera: str) -> str:
    parts = [folder.root / name for name in ("meta", "data", "videos")]
    files = sorted(path for part in parts for path in part.rglob("*") if path.is_file())
    stamp = [(str(path.relative_to(folder.root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([CACHE_FORMAT, str(folder.root.resolve()), camera, stamp])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
