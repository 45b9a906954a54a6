"""Read a LeRobotDataset v3 folder without importing LeRobot: metadata, columns, and every frame by its time.

Random access through LeRobot's own reader decodes a video (or, for pictures in parquet, each picture of a window of
actions) per sample: 7 to 28 ms. Training needs each frame decoded once, so this module decodes whole files front to
back and leaves random access to `vla_cl.data.frames`. Importing LeRobot would add seconds to every start.

Nothing is believed because the metadata say it: rows are compared with them, and a camera is what its pictures are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vla_cl.data.dataset_info import (
    REMEDY,
    CameraFeature,
    camera_features,
    joint_names,
    read_info,
    unused_vectors,
    vector_size,
)
from vla_cl.data.dataset_rows import ROWS_AT_ONCE, RowTable, data_files, read_batches, read_column, read_rows
from vla_cl.data.episode_table import read_episodes
from vla_cl.data.identity import identity
from vla_cl.data.picture_source import Picture, PictureSource
from vla_cl.data.source import Source
from vla_cl.data.stored_pictures import StoredCamera
from vla_cl.data.task_table import read_tasks, require_text
from vla_cl.data.video_frames import VideoCamera
from vla_cl.trust.paths import inside
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, InterfaceSpec

STATE = "observation.state"
ACTION = "action"


@dataclass(frozen=True)
class DatasetFolder:
    """One LeRobotDataset v3 on disk.

    Every property and method raises a `vla_cl.types.ConfigurationError` of one sentence where a file is missing,
    damaged, a Git LFS pointer or contradicts another.

    Attributes:
        root: The folder that holds ``meta/``, ``data/`` and, for video, ``videos/``.

    Raises:
        ConfigurationError: There is no dataset, or it is of another version.
    """

    root: Path

    def __post_init__(self) -> None:
        _ = self.info  # read and checked now, so that a wrong folder is refused where it is given

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``meta/info.json``."""
        return read_info(self.root)

    @cached_property
    def recording(self) -> dict[str, Any]:
        """What `vla-cl collect` noted about the recording; empty for datasets from elsewhere."""
        note = self.root / "meta" / "vla_cl.json"
        if not note.exists():
            return {}
        return read_json_object(note, "the note on how the dataset was recorded", "record the dataset again")

    @cached_property
    def identity(self) -> str:
        """A hash of the content: the same wherever the dataset lies and whenever it was copied."""
        return identity(self.root)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Feature key to LeRobot's description (dtype, shape, names)."""
        features: dict[str, dict[str, Any]] = self.info["features"]
        return features

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Cameras that give pictures in colour or grey, with (height, width) of the first picture."""
        return {key: size for key, (size, why) in self._looks.items() if why is None}

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """What is not used or not as declared, a sentence each: depth, tasks without frames, wrongly declared sizes."""
        notes = []
        for key, (size, why) in self._looks.items():
            declared = self._camera_features[key].sizes
            if why is not None:
                notes.append(f"{short(self.root)}: camera {harmless(key, 60)!r} is left out: {why}")
            elif size not in declared:
                said = f"{declared[0][0]}x{declared[0][1]}" if declared else "no size"
                notes.append(
                    f"{short(self.root)}: camera {harmless(key, 60)!r} declares {said} (height x width), its pictures "
                    f"are {size[0]}x{size[1]}; the pictures count"
                )
        for number, text in self.instructions_without_frames.items():
            notes.append(f"{short(self.root)}: task {number} ({harmless(text, 60)!r}) has no frames and is left out")
        unused = harmless(", ".join(unused_vectors(self.features, (STATE, *self._camera_features))), 80)
        if STATE not in self.features:
            but = f" (not used: {unused})" if unused else ""
            notes.append(f"{short(self.root, 80)} has no {STATE}, so it is learnt without a state{but}")
        elif unused:
            notes.append(f"{short(self.root, 80)}: not used: {unused}; the state is {STATE}")
        return tuple(notes)

    @property
    def joints(self) -> dict[str, tuple[str, ...]]:
        """The names of the numbers of states and actions, in order, where the metadata tell them one by one."""
        found = {key: self._names_of(key) for key in (STATE, ACTION) if key in self.features}
        return {key: names for key, names in found.items() if names is not None}

    @property
    def robot(self) -> str | None:
        """Which robot it was, where the metadata tell."""
        return _text(self.info.get("robot_type"))

    @property
    def spec(self) -> InterfaceSpec:
        """What the dataset holds, to be compared with a policy and a suite."""
        recorded = self.recording.get("spec", {})
        recorded = recorded if isinstance(recorded, dict) else {}
        return InterfaceSpec(
            cameras=self.cameras,
            state_size=self._size_of(STATE) if STATE in self.features else 0,
            action_size=self._size_of(ACTION),
            render_profile=_text(recorded.get("render_profile")),
            control_mode=_text(recorded.get("control_mode")),
            image_orientation=_text(recorded.get("image_orientation")),
            fps=self.fps,
        )

    @property
    def action_range(self) -> tuple[list[float], list[float]] | None:
        """Smallest and largest action that the recorded suite takes, if the recording says so."""
        spec = self.recording.get("spec", {})
        if not isinstance(spec, dict) or not spec.get("action_low") or not spec.get("action_high"):
            return None
        low, high = (np.asarray(spec[name], dtype=np.float64).reshape(-1) for name in ("action_low", "action_high"))
        if not len(low) == len(high) == self._size_of(ACTION) or not np.isfinite([low, high]).all():
            raise ConfigurationError(
                f"{short(self.root)}: meta/vla_cl.json gives a range of actions that does not fit its actions of "
                f"{self._size_of(ACTION)} numbers; record the dataset again"
            )
        return low.tolist(), high.tolist()

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """One row per episode, in order: its number, length, and where its data and videos lie."""
        return read_episodes(self.root)

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Task number to text, as the task table has them; some may have no frames."""
        return read_tasks(self.root)

    @cached_property
    def instructions(self) -> dict[int, str]:
        """Task number to instruction, of the tasks that have frames."""
        used = np.unique(self.rows.task).tolist()
        return {number: require_text(self.root, number, self.tasks[number]) for number in used}

    @property
    def instructions_without_frames(self) -> dict[int, str]:
        """Task number to text, of the tasks that no frame belongs to."""
        used = set(np.unique(self.rows.task).tolist())
        return {number: text for number, text in self.tasks.items() if number not in used}

    @cached_property
    def rows(self) -> RowTable:
        """Episode, frame, time and task of every row, in the order of the global frame index, checked."""
        promised = int(self.info["total_frames"])
        found = read_rows(self.root, promised, self.fps, self.episodes, list(self.tasks))
        self.require_episodes()
        return found

    def require_episodes(self) -> None:
        """Refuse another number of episodes than the description promises.

        Raises:
            ConfigurationError: They differ.
        """
        promised = self.info.get("total_episodes")
        if promised is not None and promised != len(self.episodes):
            raise ConfigurationError(
                f"the dataset {short(self.root)} promises {promised} episodes in meta/info.json, meta/episodes has "
                f"{len(self.episodes)}; {REMEDY}"
            )

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """LeRobot's statistics over the whole dataset (``meta/stats.json``)."""
        return read_json_object(self.root / "meta" / "stats.json", "the dataset's statistics", "compute them again")

    @property
    def data_files(self) -> tuple[Path, ...]:
        """The parquet files with the rows, in the order LeRobot reads them."""
        return data_files(self.root)

    def batches(
        self, columns: Sequence[str], size: int = ROWS_AT_ONCE
    ) -> Iterator[tuple[Path, dict[str, NDArray[np.generic]]]]:
        """Columns of numbers in pieces, file after file: the file, and column name to (rows,) or (rows, numbers)."""
        return read_batches(self.root, columns, size)

    def column(self, key: str) -> NDArray[Any]:
        """One column of every frame, shape (frames,) or (frames, size), in the order of the global frame index."""
        values: NDArray[Any] = read_column(self.root, key)[self.rows.position]
        return values

    def vectors(self, key: str) -> NDArray[np.float32]:
        """States or actions of every frame, float32 (frames, size), in the order of the global frame index.

        Raises:
            ConfigurationError: They are of another size than declared, or one is not finite.
        """
        size = self._size_of(key)
        values = self.column(key).reshape(len(self.rows), -1)
        if values.shape[1] != size:
            raise ConfigurationError(
                f"{short(self.root)}: {key} has {values.shape[1]} numbers in the data files, {size} by meta/info.json; "
                "copy or download the dataset again"
            )
        with np.errstate(over="ignore"):
            result = values.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(result).all(axis=1))
        if len(wrong):
            row = int(wrong[0])
            value = values[row][~np.isfinite(result[row])][0]
            raise ConfigurationError(
                f"{short(self.root)}: {key} of {self.rows.place(row)} is {value}, as in {len(wrong)} frames; remove "
                "those episodes or record them again"
            )
        return result

    def camera(self, key: str) -> PictureSource:
        """Where the pictures of a camera come from.

        Raises:
            ConfigurationError: There is no such camera.
        """
        feature = self._camera_features.get(key)
        if feature is None:
            raise ConfigurationError(
                f"the dataset {short(self.root)} has no camera {harmless(key, 60)!r}; it has "
                f"{harmless(', '.join(self._camera_features) or 'none', 100)}"
            )
        if not feature.video:
            return StoredCamera(self.root, key, self.rows)
        return VideoCamera(
            self.root, key, lambda chunk, file: self._video_path(key, chunk, file), self.rows, self.episodes
        )

    def images(self, key: str) -> Iterator[tuple[int, Picture]]:
        """Every row of the global frame index with its picture, uint8 (H, W, 3), each file decoded once."""
        size = self.cameras[key]
        for row, picture in self.camera(key).pictures():
            yield row, self._of_size(picture, size, key, row)

    def image(self, key: str, row: int) -> Picture:
        """One frame of a camera, uint8 (H, W, 3), by its place in the order of the global frame index."""
        return self._of_size(self.camera(key).picture(row), self.cameras[key], key, row)

    def look_at_ends(self, key: str) -> int:
        """Read the first and the last picture of every file of a camera; the number of files."""
        camera = self.camera(key)
        camera.require_files()
        ends = camera.end_rows()
        for row in dict.fromkeys(row for pair in ends for row in pair):
            self._of_size(camera.picture(row), self.cameras[key], key, row)
        return len(ends)

    @cached_property
    def _camera_features(self) -> dict[str, CameraFeature]:
        return camera_features(self.root, self.features)

    @cached_property
    def _looks(self) -> dict[str, tuple[tuple[int, int], str | None]]:
        """Size of the first picture of each camera, and why it is left out."""
        return {
            key: ((0, 0), "it is declared to be a map of distances") if feature.depth else self.camera(key).first_look()
            for key, feature in self._camera_features.items()
        }

    def _names_of(self, key: str) -> tuple[str, ...] | None:
        return joint_names(self.features[key], self._size_of(key))

    def _size_of(self, key: str) -> int:
        if key not in self.features:
            found = harmless(", ".join(sorted(self.features)), 120)
            raise ConfigurationError(f"the dataset at {short(self.root)} has no feature {key!r}; it has {found}")
        return vector_size(self.root, key, self.features[key])

    def _video_path(self, key: str, chunk: int, file: int) -> Path:
        name = self.info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        return inside(self.root, name, f"video_path of the dataset {short(self.root)}")

    def _of_size(self, picture: Picture, size: tuple[int, int], key: str, row: int) -> Picture:
        height, width = picture.shape[:2]
        if (height, width) != size:
            raise ConfigurationError(
                f"{short(self.root)}: the picture of {self.rows.place(row)}, camera {harmless(key, 60)!r}, is "
                f"{height}x{width}, the first is {size[0]}x{size[1]} (height x width); all must be alike"
            )
        return picture


def spec_of(source: Source, opened: DatasetFolder | None = None) -> InterfaceSpec:
    """What a source holds: its dataset's spec with the cameras that it chooses, by the names that it gives them.

    Args:
        source: The part of a dataset.
        opened: The dataset, if it has been opened already.

    Raises:
        ConfigurationError: The dataset cannot be read, or lacks a camera.
    """
    folder = opened or DatasetFolder(source.root)
    spec = folder.spec
    chosen = {here: spec.cameras[there] for here, there in camera_names(folder, source).items()}
    return replace(spec, cameras=chosen)


def camera_names(folder: DatasetFolder, source: Source) -> dict[str, str]:
    """What each camera is called here, and what the dataset calls it.

    Raises:
        ConfigurationError: The dataset lacks a chosen camera, or two have the same new name.
    """
    there = list(folder.cameras)
    if source.cameras is None:
        return {key: key for key in there}
    for new, old in source.cameras:
        if old not in there:
            raise ConfigurationError(
                f"the dataset {short(source.root)} has no camera {harmless(old, 60)!r} for {harmless(new, 50)!r}; it "
                f"has {harmless(', '.join(there) or 'none', 100)}"
            )
    names = dict(source.cameras)
    if len(names) < len(source.cameras):
        raise ConfigurationError(f"two cameras of the dataset {short(source.root)} are given the same new name")
    return names


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
