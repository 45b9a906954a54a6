"""One demonstration: record it, stage it as a file, write many of them as a LeRobotDataset v3.

A dataset is a pure function of suite, task and `Recipe`; `describe` lists them and `content_key` is their hash.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vla_cl.files import replacing, replacing_folder
from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.random_numbers import Purpose, generator
from vla_cl.rollout.episode_files import IMAGE, belongs_to, read_episode, whole_trajectory
from vla_cl.storage.manifest import write_manifest
from vla_cl.trust.reading import as_plain
from vla_cl.types import ConfigurationError, SuiteSpec, Task, Trajectory

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

FORMAT = 2
"""Raised whenever the same recipe would give other files."""

METADATA = "meta/vla_cl.json"
"""Where a dataset says how it was made."""

Record = Literal["expert", "executed"]

_VIDEO = {"vcodec": "h264", "pix_fmt": "yuv444p", "crf": 0, "preset": "ultrafast", "g": 10}
"""Lossless but for the conversion to YUV: 54 dB at about 2.6 kB for a 96 x 96 picture, since rendered surfaces are
smooth. ``yuv420p`` halves the colour resolution and stays at 32 dB however many bits it gets; the policy is evaluated
on raw pictures, so that would be a shift between training and evaluation."""


@dataclass(frozen=True)
class Recipe:
    """How demonstrations of a task are recorded.

    The expert's action is disturbed by Gaussian noise before it is executed, so that the data show how to recover
    (Laskey et al. 2017, "DART"). What is written down as the action is by default what the expert wanted: executed
    actions would add the noise to every target, and as scripted experts often ask for the largest action, clipping
    would also bias them inwards.

    Attributes:
        episodes: Successful episodes wanted.
        noise: Standard deviation, in units of the action.
        seed: Of the noise.
        record: ``expert`` writes the undisturbed action, ``executed`` the disturbed one.
        hold: Env steps kept after the first success; a policy needs to see that it goes on to the very end.
    """

    episodes: int
    noise: float = 0.1
    seed: int = 0
    record: Record = "expert"
    hold: int = 5

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigurationError(
                f"episodes is a number of demonstrations per task, at least 1, got {self.episodes}"
            )
        if not 0 <= self.noise <= 10:
            raise ConfigurationError(f"noise is a standard deviation of the action from 0 to 10, got {self.noise}")
        if self.seed < 0:
            raise ConfigurationError(f"seed is a whole number from 0, got {self.seed}")
        if self.hold < 0:
            raise ConfigurationError(f"hold is a number of env steps from 0, got {self.hold}")
        if self.record not in get_args(Record):
            raise ConfigurationError(f"record is one of {', '.join(get_args(Record))}, got {self.record!r}")


def describe(suite: Suite, task: Task, recipe: Recipe) -> dict[str, object]:
    """All that decides what is in a dataset, as plain data (JSON)."""
    expert = f"{type(suite).__module__}:{type(suite).__qualname__}.make_expert"
    described = {
        "format": FORMAT,
        "suite": suite.fingerprint(),
        "spec": asdict(suite.spec),
        "task": asdict(task),
        "expert": expert,
        **asdict(recipe),
    }
    plain: dict[str, object] = as_plain(described)
    return plain


def content_key(description: Mapping[str, object]) -> str:
    """SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def record_episode(
    environment: Environment, expert: Expert, task: Task, initial_state: int, spec: SuiteSpec, recipe: Recipe
) -> Trajectory:
    """Let the expert act, and film it if it succeeds.

    Rendering costs ten times the simulation, so the episode is first run blind; the recorded steps are then repeated
    from the same initial state with pictures. Steps are taken after a success, up to ``hold`` and the time limit.

    Raises:
        RuntimeError: The repetition differs, so the environment is not deterministic.
    """
    wanted, executed, success = _run_blind(environment, expert, task, initial_state, spec, recipe)
    states = np.zeros((len(executed), spec.state_size), dtype=np.float32)
    images = {key: np.zeros((len(executed), *size, 3), dtype=np.uint8) for key, size in spec.cameras.items()}
    if not success:
        nothing = np.zeros((0, spec.action_size), dtype=np.float32)
        return Trajectory(task, initial_state, {key: v[:0] for key, v in images.items()}, states[:0], nothing, False)
    environment.reset(initial_state)
    repeated = False
    for index, action in enumerate(executed):
        observation = environment.observe()
        states[index] = observation.state
        for key, image in observation.images.items():
            images[key][index] = image
        repeated |= environment.step(action).success
    if not repeated:
        raise RuntimeError(f"{task.id}: the same actions from initial state {initial_state} failed when repeated")
    return Trajectory(task, initial_state, images, states, wanted if recipe.record == "expert" else executed, True)


def _run_blind(
    environment: Environment, expert: Expert, task: Task, initial_state: int, spec: SuiteSpec, recipe: Recipe
) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """The expert's actions, the executed ones, both float32 (T, A), and whether they reached the goal."""
    random = generator(recipe.seed, Purpose.DEMONSTRATION, initial_state, zlib.crc32(task.id.encode()))
    wanted: list[NDArray[np.float32]] = []
    executed: list[NDArray[np.float32]] = []
    last = task.max_steps
    success = False
    environment.reset(initial_state)
    while len(executed) < last:
        action = expert.act(environment)
        disturbed = action + recipe.noise * random.standard_normal(len(action))
        wanted.append(action)
        executed.append(np.clip(disturbed, spec.action_low, spec.action_high).astype(np.float32))
        if environment.step(executed[-1]).success and not success:
            success = True
            last = min(last, len(executed) + recipe.hold)
    return np.array(wanted), np.array(executed), success


def stage(path: Path, trajectory: Trajectory, key: str = "") -> None:
    """Write a trajectory, a failed one too, to an ``.npz`` that is either whole or absent.

    Args:
        path: Where to; named after the initial state.
        trajectory: What was recorded.
        key: Of the recipe (see `content_key`), so that a file in the wrong place is noticed.
    """
    arrays = {f"{IMAGE}{name}": frames for name, frames in trajectory.images.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            states=trajectory.states,
            actions=trajectory.actions,
            success=trajectory.success,
            belongs_to=np.asarray(belongs_to(trajectory.task, trajectory.initial_state, key)),
            **arrays,
        )


def read_staged(path: Path, task: Task, spec: SuiteSpec, key: str = "") -> Trajectory:
    """Read what `stage` wrote; the initial state is the file's name.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigurationError: It is damaged, another episode's, or none of this suite.
    """
    state = int(path.stem)
    arrays = read_episode(path, task, state, spec, key)
    images = {name.removeprefix(IMAGE): array for name, array in arrays.items() if name.startswith(IMAGE)}
    return whole_trajectory(path, task, state, spec, arrays, images)


def write_dataset(
    folder: Path, spec: SuiteSpec, trajectories: Iterable[Trajectory], about: Mapping[str, object]
) -> None:
    """Write a LeRobotDataset v3 with `METADATA` and a manifest; ``folder`` appears when it is complete and on the disk.

    Args:
        folder: Where it goes; its last two parts become the dataset's name.
        spec: The suite's conventions.
        trajectories: In the order of the episodes.
        about: What `METADATA` says.

    Raises:
        OSError: The disk is full, say; nothing is left then.
    """
    try:
        with replacing_folder(folder) as temporary:
            inner = temporary / "dataset"  # LeRobot makes the folder itself
            with _quiet_libraries():
                _write_episodes(inner, f"{folder.parent.name}/{folder.name}", spec, trajectories)
            for path in sorted(inner.iterdir()):
                path.rename(temporary / path.name)
            inner.rmdir()
            (temporary / METADATA).write_text(json.dumps(about, indent=2) + "\n")
            write_manifest(temporary)
    except RuntimeError as error:  # LeRobot's encoder turns an OSError into a RuntimeError
        raise_if_disk_full(error, folder.parent)
        raise


def _write_episodes(folder: Path, name: str, spec: SuiteSpec, trajectories: Iterable[Trajectory]) -> None:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features: dict[str, dict[str, object]] = {
        key: {"dtype": "video", "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for key, size in spec.cameras.items()
    }
    for key, size in (("observation.state", spec.state_size), ("action", spec.action_size)):
        if size:
            features[key] = {"dtype": "float32", "shape": (size,), "names": None}
    dataset = LeRobotDataset.create(
        name,
        fps=spec.fps,
        features=features,
        root=folder,
        video_backend="pyav",
        rgb_encoder=RGBEncoderConfig(**_VIDEO),
        streaming_encoding=True,
        encoder_queue_maxsize=100_000,  # a full queue drops frames
        encoder_threads=1,  # with more, the file depends on the machine
    )
    try:
        for trajectory in trajectories:
            _write_episode(dataset, spec, trajectory)
    finally:  # after an error too: LeRobot's threads must be gone before the folder is removed
        dataset.finalize()


def _write_episode(dataset: LeRobotDataset, spec: SuiteSpec, trajectory: Trajectory) -> None:
    for step in range(len(trajectory)):
        frame = {key: frames[step] for key, frames in trajectory.images.items()}
        if spec.state_size:
            frame["observation.state"] = trajectory.states[step]
        dataset.add_frame({**frame, "action": trajectory.actions[step], "task": trajectory.task.instruction})
    dataset.save_episode()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without a progress bar and FFmpeg's remarks for every episode."""
    import av.logging
    import datasets

    had_bars = datasets.is_progress_bar_enabled()
    av.logging.set_libav_level(av.logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        av.logging.set_libav_level(av.logging.INFO)  # FFmpeg's default
        if had_bars:
            datasets.enable_progress_bars()


def versions() -> dict[str, str]:
    """Versions of the packages that wrote a dataset."""
    return {name: importlib.metadata.version(name) for name in ("vla-cl", "lerobot", "numpy", "av")}


def raise_if_disk_full(error: Exception, folder: Path) -> None:
    """Say that the disk is full where a library hid it.

    Raises:
        OSError: It is, with ``ENOSPC``.
    """
    if shutil.disk_usage(folder).free < 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
