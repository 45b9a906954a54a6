"""Recording rollouts: every env step of every evaluated episode, as a LeRobotDataset v3.

A suite is wrapped; its environments then write each finished episode to a file of its own, in the worker process. When
all are there, they become a dataset in the order of the episode table.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.files import replacing
from vla_cl.interfaces import Environment, Suite
from vla_cl.rollout.demonstrations import FORMAT, versions, write_dataset
from vla_cl.rollout.episode_files import (
    IMAGE,
    belongs_to,
    read_episode,
    remove_damaged,
    unpacked_pictures,
    whole_trajectory,
)
from vla_cl.rollout.wrapped_suite import WrappedEnvironment, WrappedSuite
from vla_cl.storage.names import file_name
from vla_cl.trust.reading import as_plain
from vla_cl.types import (
    ConfigurationError,
    Episode,
    Observation,
    Outcome,
    SuiteSpec,
    Task,
    Trajectory,
    Transition,
)


class RecordingSuite(WrappedSuite):
    """A suite whose environments record; in everything else it is the suite that it wraps.

    Args:
        suite: The suite to record.
        folder: Where finished episodes go (see `piece_path`); absolute, because worker processes write them.
    """

    def __init__(self, suite: Suite, folder: Path) -> None:
        super().__init__(suite)
        self._folder = folder.absolute()

    def make_environment(self, task: Task) -> RecordingEnvironment:
        """The suite's, recording."""
        return RecordingEnvironment(self._suite.make_environment(task), task, self._folder)


class RecordingEnvironment(WrappedEnvironment):
    """Observes before every env step and writes the episode down when it ends, whole or not at all.

    Args:
        environment: What is recorded.
        task: Its task.
        folder: Where the file of an episode goes.
    """

    def __init__(self, environment: Environment, task: Task, folder: Path) -> None:
        super().__init__(environment)
        self._task = task
        self._folder = folder
        self._recording: _Recording | None = None
        self._seen: Observation | None = None  # of the present state, so that a decision's picture is not drawn twice

    def reset(self, initial_state: int) -> None:
        """Start an episode; what was recorded of an unfinished one is forgotten."""
        self._recording, self._seen = None, None
        self._environment.reset(initial_state)
        self._recording = _Recording(initial_state)

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Execute one action, shape (A,); if that ends the episode, its file is written."""
        recording = self._recording
        if recording is not None:
            recording.add(self.observe(), action)
        self._seen = None
        transition = self._environment.step(action)
        over = transition.ended or transition.success
        if recording is not None and (over or len(recording) >= self._task.max_steps):
            recording.write(piece_path(self._folder, self._task.id, recording.initial_state), self._task, transition)
            self._recording = None
        return transition

    def observe(self) -> Observation:
        """Render every camera and read the state."""
        if self._seen is None:
            self._seen = self._environment.observe()
        return self._seen


class _Recording:
    """The steps of an episode so far. Pictures are kept compressed: a raw episode can take hundreds of megabytes."""

    def __init__(self, initial_state: int) -> None:
        self.initial_state = initial_state
        self._images: dict[str, list[bytes]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._states: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._actions)

    def add(self, observation: Observation, action: NDArray[np.float32]) -> None:
        for key, image in observation.images.items():
            self._shapes[key] = image.shape
            self._images.setdefault(key, []).append(zlib.compress(np.ascontiguousarray(image), 1))
        self._states.append(np.array(observation.state, np.float32))
        self._actions.append(np.array(action, np.float32))

    def write(self, path: Path, task: Task, last: Transition) -> None:
        arrays: dict[str, NDArray[Any]] = {
            "states": np.stack(self._states),
            "actions": np.stack(self._actions),
            "success": np.asarray(last.success),
            "belongs_to": np.asarray(belongs_to(task, self.initial_state)),
        }
        for key, pictures in self._images.items():
            arrays[f"{IMAGE}{key}"] = np.frombuffer(b"".join(pictures), np.uint8)
            arrays[f"ends/{key}"] = np.cumsum([len(picture) for picture in pictures])
            arrays[f"shape/{key}"] = np.asarray(self._shapes[key])
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def piece_path(folder: Path, task_id: str, initial_state: int) -> Path:
    """The file of a recorded episode."""
    return folder / f"{file_name(task_id.split('/', 1)[1])}-{initial_state}.npz"


def read_piece(path: Path, task: Task, initial_state: int, spec: SuiteSpec) -> Trajectory:
    """Read the file of a recorded episode.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigurationError: It is damaged, another episode's, or none of this suite.
    """
    arrays = read_episode(path, task, initial_state, spec)
    cameras = [name.removeprefix(IMAGE) for name in arrays if name.startswith(IMAGE)]
    images = {camera: unpacked_pictures(path, camera, spec, arrays) for camera in cameras}
    return whole_trajectory(path, task, initial_state, spec, arrays, images)


def piece_is_whole(path: Path, task: Task, initial_state: int, spec: SuiteSpec) -> bool:
    """Whether a recorded episode is there and undamaged; a damaged one is removed, so that it is recorded again."""
    try:
        read_piece(path, task, initial_state, spec)
    except FileNotFoundError:
        return False
    except ConfigurationError as error:
        print(f"rolling out {task.id}, initial state {initial_state}, again: {str(error).partition(';')[0]}")
        remove_damaged(path)
        return False
    return True


def write_recorded(
    target: Path, suite: Suite, tasks: Sequence[Task], episodes: Sequence[Episode], pieces: Path, policy: str
) -> None:
    """Turn recorded episodes into a LeRobotDataset v3.

    ``meta/vla_cl.json`` says of each of the dataset's episodes its task, initial state and outcome, and lists those
    left out: the crashed ones, and those of a single env step, for which LeRobot's writer has no statistics of the
    pictures. If nothing remains, there is no dataset.

    Args:
        target: The dataset's folder; it appears when it is complete.
        suite: Where the episodes were rolled out.
        tasks: Theirs.
        episodes: In the order that the dataset gets.
        pieces: Folder of the recorded files.
        policy: What the dataset says about who acted.

    Raises:
        ConfigurationError: A recorded file is damaged; the same command then records it again.
        OSError: The disk is full, say.
    """
    by_id = {task.id: task for task in tasks}
    kept = [episode for episode in episodes if _is_kept(episode)]
    if not kept:
        return

    def recorded() -> Iterator[Trajectory]:
        for episode in kept:
            path = piece_path(pieces, episode.task, episode.initial_state)
            yield read_piece(path, by_id[episode.task], episode.initial_state, suite.spec)

    about = {
        "format": FORMAT,
        "recorded": "rollouts",
        "policy": policy,
        "suite": suite.fingerprint(),
        "spec": asdict(suite.spec),
        "episodes": [{"episode_index": index, **_noted(episode)} for index, episode in enumerate(kept)],
        "successful_episodes": [i for i, episode in enumerate(kept) if episode.outcome is Outcome.SUCCESS],
        "left_out": [_noted(episode) for episode in episodes if not _is_kept(episode)],
        "versions": versions(),
    }
    write_dataset(target, suite.spec, recorded(), as_plain(about))


def remove_pieces(pieces: Path) -> None:
    """Remove the files of recorded episodes, and what a killed worker left half written."""
    shutil.rmtree(pieces, ignore_errors=True)


def _is_kept(episode: Episode) -> bool:
    return episode.outcome is not Outcome.ERROR and episode.env_steps > 1


def _noted(episode: Episode) -> dict[str, object]:
    names = ("task", "split", "initial_state", "env_steps")
    return {**{name: getattr(episode, name) for name in names}, "outcome": episode.outcome.value}
