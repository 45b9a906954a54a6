"""The rows of a LeRobotDataset's data files: which episode, frame, time and task each belongs to, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vla_cl.data.column_values import integers, numbers, scalars
from vla_cl.data.dataset_info import REMEDY
from vla_cl.trust.paths import inside
from vla_cl.trust.tables import TableFile, open_table
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

ROWS_AT_ONCE = 65_536

NEIGHBOUR_STEPS = 1.5
"""Two rows are neighbours in time if they are at most so many frame durations apart: 2 is a lost frame."""

_COLUMNS = ("index", "episode_index", "task_index", "timestamp")
_UNPACKED = 64 * 2**30  # bytes of one column of one file, read in pieces
_STEP_TOLERANCE = 0.25  # how far the usual step may lie from that of the declared fps, as a share


@dataclass(frozen=True)
class RowTable:
    """One entry per row, in the order of the global frame index.

    Attributes:
        index: The global frame index, strictly ascending.
        episode: Episode number as the dataset counts; the rows of an episode lie together.
        frame: Place within the episode, ascending.
        seconds: Time within the episode, never descending.
        task: Task number.
        position: Where the row lies in the data files behind each other.
        files: The data files, in that order.
        file_ends: Rows up to the end of each file.
    """

    index: NDArray[np.int64]
    episode: NDArray[np.int64]
    frame: NDArray[np.int64]
    seconds: NDArray[np.float64]
    task: NDArray[np.int64]
    position: NDArray[np.int64]
    files: tuple[Path, ...]
    file_ends: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"episode {self.episode[row]}, frame {self.frame[row]}"

    @property
    def rate(self) -> float | None:
        """Rows per second by their times: lost frames do not count, rounded times do not matter; None: no two rows."""
        steps = np.diff(self.seconds)[np.diff(self.episode) == 0]
        steps = steps[steps > 0]
        if not len(steps):
            return None
        usual = np.median(steps)
        return float(1 / steps[np.abs(steps - usual) < usual / 2].mean())

    def follows(self, fps: float) -> NDArray[np.bool_]:
        """Whether each row is the one before it gone on in time: same episode, next frame, one step later."""
        result = np.zeros(len(self), dtype=bool)
        step = np.diff(self.seconds)
        result[1:] = (
            (np.diff(self.episode) == 0)
            & (np.diff(self.index) == 1)
            & (np.diff(self.frame) == 1)
            & (step > 0)
            & (step * fps <= NEIGHBOUR_STEPS)
        )
        return result


def data_files(root: Path) -> tuple[Path, ...]:
    """The data files in the order of their names, as LeRobot reads them.

    Raises:
        ConfigurationError: There are none.
    """
    folder = root / "data"
    files = tuple(sorted(path for path in folder.glob("*/*.parquet") if not path.name.startswith(".")))
    if not files:
        missing = "has no folder data/" if not folder.is_dir() else "has no parquet file in data/"
        raise ConfigurationError(f"the dataset {short(root)} is not complete: it {missing}; {REMEDY}")
    return tuple(inside(root, path.relative_to(root).as_posix(), f"the dataset {short(root)}") for path in files)


def read_batches(
    root: Path, columns: Sequence[str], size: int = ROWS_AT_ONCE
) -> Iterator[tuple[Path, dict[str, NDArray[np.generic]]]]:
    """These columns of every data file, ``size`` rows at a time, in the order of the files.

    Raises:
        ConfigurationError: A file or column is missing, damaged, or holds no numbers.
    """
    for path in data_files(root):
        with open_data_file(path, columns) as file:
            at_once = min(size, file.rows_within(columns))
            for piece in file.file.iter_batches(batch_size=at_once, columns=list(columns), use_threads=False):
                yield path, {name: numbers(piece.column(name), _column(root, path, name)) for name in columns}


def read_column(root: Path, key: str) -> NDArray[np.generic]:
    """One column of every data file, in the order of the files.

    Raises:
        ConfigurationError: As of `read_batches`, or rows are of different lengths in different files.
    """
    parts = [values[key] for _, values in read_batches(root, [key])]
    if len({part.shape[1:] for part in parts}) > 1:
        widths = sorted({part.shape[-1] if part.ndim == 2 else 1 for part in parts})
        raise ConfigurationError(
            f"the column {harmless(key, 60)!r} of the dataset {short(root)} has {widths} numbers a row in different "
            f"files; {REMEDY}"
        )
    return np.concatenate(parts) if parts else np.zeros(0)


@contextmanager
def open_data_file(path: Path, columns: Sequence[str]) -> Iterator[TableFile]:
    """A data file, for reading these columns.

    Raises:
        ConfigurationError: It is damaged, or lacks one.
    """
    with open_table(path, "a data file", REMEDY, columns, most=_UNPACKED) as file:
        file.require_columns(columns)
        yield file


def read_rows(root: Path, promised: int, fps: float, episodes: pd.DataFrame, tasks: Sequence[int]) -> RowTable:
    """The rows of a dataset, compared with what its metadata promise.

    Args:
        root: The dataset.
        promised: ``total_frames``.
        fps: As declared.
        episodes: The table of episodes.
        tasks: Numbers of the task table.

    Raises:
        ConfigurationError: Rows are missing or too many, belong to no episode or task, or contradict each other.
    """
    table = _read(root)
    if len(table) != promised:
        raise ConfigurationError(_miscounted(root, table, promised, episodes))
    if not promised:
        raise ConfigurationError(f"the dataset {short(root)} holds no frame; record or copy it again")
    _check_order(root, table)
    _check_episodes(root, table, episodes)
    unknown = np.flatnonzero(~np.isin(table.task, np.asarray(tasks, dtype=np.int64)))
    if len(unknown):
        raise ConfigurationError(
            f"{short(root)}: {table.place(unknown[0])} belongs to task {table.task[unknown[0]]}, which "
            f"meta/tasks.parquet has not; {REMEDY}"
        )
    _check_times(root, table, fps)
    return table


def _read(root: Path) -> RowTable:
    files = data_files(root)
    found: dict[str, list[NDArray[np.generic]]] = {name: [] for name in (*_COLUMNS, "frame_index")}
    ends = []
    for path in files:
        with open_data_file(path, _COLUMNS) as file:
            names = [name for name in found if name in file.schema.names]
            table: pa.Table = file.file.read(columns=names, use_threads=False)
        for name in names:
            read = scalars if name == "timestamp" else integers
            found[name].append(read(table[name], _column(root, path, name)))
        ends.append(len(table))
    values = {name: np.concatenate(parts) for name, parts in found.items() if len(parts) == len(files)}
    index = values["index"].astype(np.int64)
    order = np.argsort(index, kind="stable")
    episode = values["episode_index"].astype(np.int64)[order]
    frame = values["frame_index"].astype(np.int64)[order] if "frame_index" in values else _counted(episode)
    return RowTable(
        index=index[order],
        episode=episode,
        frame=frame,
        seconds=values["timestamp"].astype(np.float64)[order],
        task=values["task_index"].astype(np.int64)[order],
        position=order,
        files=files,
        file_ends=np.cumsum(ends),
    )


def _counted(episode: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each row within its run of equal episodes."""
    begins = np.flatnonzero(np.diff(episode, prepend=-1 if not len(episode) else episode[0] - 1))
    lengths = np.diff([*begins, len(episode)])
    return np.asarray(np.arange(len(episode)) - np.repeat(begins, lengths), dtype=np.int64)


def _check_order(root: Path, table: RowTable) -> None:
    repeated = np.flatnonzero(np.diff(table.index) == 0)
    if len(repeated):
        raise ConfigurationError(
            f"{short(root)}: two rows have the index {table.index[repeated[0]]} ({table.place(repeated[0])} and "
            f"{table.place(repeated[0] + 1)}); each frame needs its own; {REMEDY}"
        )
    begins = np.flatnonzero(np.diff(table.episode, prepend=table.episode[0] - 1))
    found, counts = np.unique(table.episode[begins], return_counts=True)
    if (counts > 1).any():
        raise ConfigurationError(
            f"{short(root)}: by the column index, the frames of episode {found[counts > 1][0]} do not lie together; "
            f"{REMEDY}"
        )
    same = np.diff(table.episode) == 0
    for name, values in (("timestamp", table.seconds), ("frame_index", table.frame)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ConfigurationError(f"{short(root)}: {table.place(row)} has the timestamp {values[row]}; {REMEDY}")
        backwards = np.flatnonzero(same & (np.diff(values) < (0 if name == "timestamp" else 1)))
        if len(backwards):
            row = int(backwards[0])
            raise ConfigurationError(
                f"{short(root)}: in episode {table.episode[row]}, {name} goes from {values[row]:g} to "
                f"{values[row + 1]:g} while index goes from {table.index[row]} to {table.index[row + 1]}; the order of "
                f"the frames is unclear; {REMEDY}"
            )


def _check_episodes(root: Path, table: RowTable, episodes: pd.DataFrame) -> None:
    found, counts = np.unique(table.episode, return_counts=True)
    promised = dict(zip(episodes["episode_index"].tolist(), episodes["length"].tolist(), strict=True))
    for number, count in zip(found.tolist(), counts.tolist(), strict=True):
        if number not in promised:
            raise ConfigurationError(
                f"{short(root)}: the data files have frames of episode {number}, which meta/episodes has not; {REMEDY}"
            )
        if promised[number] != count:
            raise ConfigurationError(
                f"{short(root)}: episode {number} has {count} frames in the data files, {promised[number]} by "
                f"meta/episodes; {REMEDY}"
            )
    missing = sorted(number for number in promised.keys() - set(found.tolist()) if promised[number])
    if missing:
        raise ConfigurationError(
            f"{short(root)}: meta/episodes promises {promised[missing[0]]} frames of episode {missing[0]}, of which "
            f"the data files have none ({len(missing)} episodes without frames); {REMEDY}"
        )


def _check_times(root: Path, table: RowTable, fps: float) -> None:
    """The usual step of time must be that of the declared rate, or every chunk of actions means something else."""
    same = np.diff(table.episode) == 0
    steps = np.diff(table.seconds)[same]
    steps = steps[steps > 0]
    if len(steps) and abs(float(np.median(steps)) * fps - 1) > _STEP_TOLERANCE:
        raise ConfigurationError(
            f"{short(root)}: meta/info.json declares {fps:g} fps, but its frames are {np.median(steps):.4g} s apart "
            f"({1 / np.median(steps):.4g} fps); correct the one that is wrong"
        )


def _miscounted(root: Path, table: RowTable, promised: int, episodes: pd.DataFrame) -> str:
    missing = sorted(set(episodes["episode_index"].tolist()) - set(np.unique(table.episode).tolist()))
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    about = f" (no frame of episode {missing[0]}{more})" if missing else ""
    return (
        f"the dataset {short(root)} promises {promised} frames in meta/info.json, its data files hold {len(table)}"
        f"{about}; {REMEDY}"
    )


def _column(root: Path, path: Path, name: str) -> str:
    return f"the column {harmless(name, 60)!r} in {path.relative_to(root)} of {short(root, 70)}"
