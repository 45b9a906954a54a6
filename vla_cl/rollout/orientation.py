"""Are a dataset's pictures turned the way the suite's are? Asked of its first frame, before anything is learnt from it.

A policy that learnt from pictures upside down fails in every rollout, and nothing in a LeRobotDataset says how its
pictures are turned. So the dataset's frame and its three turned versions are compared with pictures that the suite
draws of the same task: small, in colour, by the correlation of what deviates from each channel's mean.

Many scenes look much the same turned: a table seen from the front is nearly its own mirror image, and where everything
lies at random no picture looks like another. That is why the suite's own pictures are judged first, each against the
others: a turn is only looked for where it would show in every one of them, and only reported where it shows nearly as
clearly. A dataset that is right is then refused only if its first frame resembles the turned scene, which none of the
suite's own did. What cannot be told is said in one line and let pass.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.source import Source
from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.interfaces import Suite
from vla_cl.rollout.lifeline import children, end_with_parent, in_main_thread, kill_children
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Task

SUITE_PICTURES = 6
"""Initial states whose pictures stand for a task."""

FEWEST_SUITE_PICTURES = 3
SIZE = 16  # pixels: what lies where, not what it looks like
LEAST_MARGIN = 0.15  # of the correlation; with 0.1, one right first frame of 4,440 was refused, in PushT, all chance
LEAST_LIKENESS = 0.3  # below it, the dataset shows another scene, and no turn makes it this one

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Verdict:
    """What a picture's comparison with a suite's says.

    Attributes:
        turned: In which ways it may be turned, the likeliest first; empty: not turned, or it cannot be told.
        decidable: Ways of being turned that would show.
        likeness: Correlation with the suite's pictures as it is (``as it is``) and turned back in each way.
    """

    turned: tuple[str, ...]
    decidable: tuple[str, ...]
    likeness: Mapping[str, float]


def check_orientation(
    suite: Suite,
    tasks: Sequence[Task],
    sources: Mapping[str, Sequence[Source]],
    setting: str = "stream.check_orientation",
) -> None:
    """Refuse recorded datasets whose pictures are turned against the suite's.

    One comparison per dataset: the first frame of the first task in it that the suite has. The suite's pictures are
    drawn in a process of their own.

    Args:
        suite: Where the policy will be rolled out.
        tasks: Tasks of the stream.
        sources: Where the data of each task id lie.
        setting: What leaves this comparison out, for the message.

    Raises:
        ConfigurationError: A camera's pictures are upside down, mirrored or rotated by 180 degrees.
    """
    offered = {task.id for task in suite.tasks()}
    recordings: dict[Path, tuple[Task, Source]] = {}
    for task in tasks:
        for source in sources[task.id]:
            if task.id in offered:
                recordings.setdefault(source.root, (task, source))
    roots = dict.fromkeys(source.root for task in tasks for source in sources[task.id])
    for root in [root for root in roots if root not in recordings]:
        _say(root, f"suite {suite.name!r} has none of its tasks")
    if not recordings:
        return
    before = children()
    with ProcessPoolExecutor(1, get_context("spawn"), _start_worker, (in_main_thread(),)) as pool:
        try:
            _compare(pool, suite, list(recordings.values()), setting)
        except BaseException:  # Ctrl-C as well: the worker may hang
            kill_children(since=before)
            raise


def _compare(pool: ProcessPoolExecutor, suite: Suite, recordings: Sequence[tuple[Task, Source]], setting: str) -> None:
    drawn: dict[str, Mapping[str, list[Picture]] | str] = {}
    for task, source in recordings:
        if task.id not in drawn:
            drawn[task.id] = _drawn(pool, suite, task)
        pictures = drawn[task.id]
        if isinstance(pictures, str):
            _say(source.root, pictures)
        else:
            _check_dataset(suite, task, source, pictures, setting)


def judge(picture: Picture, suite_pictures: Sequence[Picture]) -> Verdict:
    """Compare a picture with a suite's pictures of the same task and camera.

    Args:
        picture: uint8 (H, W, 3).
        suite_pictures: At least two, of any size.
    """
    shown = np.stack([_signature(each) for each in suite_pictures])
    own = {
        name: np.stack([_signature(turn(each)) for each in suite_pictures]) @ shown.T for name, turn in TURNS.items()
    }
    others = ~np.eye(len(shown), dtype=bool)
    mean = {name: np.array([row[mask].mean() for row, mask in zip(own[name], others, strict=True)]) for name in TURNS}
    margins = {name: float((mean[AS_IT_IS] - mean[name]).min()) for name in TURNS if name != AS_IT_IS}
    decidable = tuple(name for name, margin in margins.items() if margin > LEAST_MARGIN)

    likeness = {name: float((shown @ _signature(turn(picture))).mean()) for name, turn in TURNS.items()}
    gains = {name: likeness[name] - likeness[AS_IT_IS] for name in margins}
    ranked = sorted(gains, key=lambda name: -gains[name])
    surely = [
        name
        for name in ranked
        if name in decidable and gains[name] > max(LEAST_MARGIN, margins[name] / 2) and likeness[name] > LEAST_LIKENESS
    ]
    best = likeness[ranked[0]]
    turned = tuple(name for name in ranked if likeness[name] > best - LEAST_MARGIN) if surely else ()
    return Verdict(turned, decidable, likeness)


def _upside_down(picture: Picture) -> Picture:
    return picture[::-1]


def _mirrored(picture: Picture) -> Picture:
    return picture[:, ::-1]


def _rotated(picture: Picture) -> Picture:
    return picture[::-1, ::-1]


AS_IT_IS = "as it is"
TURNS = {
    AS_IT_IS: lambda picture: picture,
    "upside down": _upside_down,
    "mirrored (left and right swapped)": _mirrored,
    "rotated by 180 degrees": _rotated,
}
"""Each undoes itself: a picture that is turned becomes the suite's when it is turned so once more."""


def _signature(picture: Picture) -> NDArray[np.float64]:
    """What deviates from each channel's mean, in `SIZE` x `SIZE`, scaled to length 1; zero for an even picture."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(picture)).resize((SIZE, SIZE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64)
    values = (values - values.mean(axis=(0, 1))).ravel()
    scaled: NDArray[np.float64] = values / max(float(np.linalg.norm(values)), 1.0)
    return scaled


def _check_dataset(
    suite: Suite, task: Task, source: Source, pictures: Mapping[str, Sequence[Picture]], setting: str
) -> None:
    folder = DatasetFolder(source.root)
    row = _first_row(folder, source)
    own_names = dict(source.cameras or ((camera, camera) for camera in folder.cameras))
    compared = [camera for camera in own_names if camera in pictures]
    decidable = False
    for camera in compared:
        verdict = judge(folder.image(own_names[camera], row), pictures[camera])
        decidable |= bool(verdict.decidable)
        if verdict.turned:
            back, straight = verdict.likeness[verdict.turned[0]], verdict.likeness[AS_IT_IS]
            raise ConfigurationError(
                f"the pictures of camera {camera!r} in {short(folder.root, 70)} are {' or '.join(verdict.turned)} "
                f"against those of suite {suite.name!r}: frame {row} correlates {straight:.2f} with {task.id}, and "
                f"{back:.2f} turned back; turn them, or set {setting}=false if it is right all the same"
            )
    if not compared:
        _say(folder.root, f"it has none of the cameras of suite {suite.name!r} ({', '.join(sorted(pictures))})")
    elif not decidable:
        _say(folder.root, f"{task.id} looks much the same turned, to {', '.join(compared)}")


def _first_row(folder: DatasetFolder, source: Source) -> int:
    """The first frame that was recorded with the source's instruction."""
    if source.recorded_instruction is None:
        return 0
    numbers = [number for number, text in folder.instructions.items() if text == source.recorded_instruction]
    rows = np.flatnonzero(np.isin(folder.column("task_index"), numbers))
    return int(rows[0]) if len(rows) else 0


def _drawn(pool: ProcessPoolExecutor, suite: Suite, task: Task) -> Mapping[str, list[Picture]] | str:
    """The suite's pictures of a task by camera; or, in words, why there are none."""
    try:
        return pool.submit(_draw, suite, task).result()
    except ConfigurationError as error:  # not installed, no renderer, no assets
        return str(error)
    except BrokenProcessPool:
        return f"the process that simulated {task.id} died"


def _start_worker(started_in_main_thread: bool) -> None:
    end_with_parent(started_in_main_thread)
    choose_gl_backend(worker=True)


def _draw(suite: Suite, task: Task) -> dict[str, list[Picture]]:
    """In a worker: first pictures of several episodes."""
    states = _initial_states(suite)
    environment = suite.make_environment(task)
    try:
        pictures: dict[str, list[Picture]] = {}
        for state in states:
            environment.reset(state)
            for camera, picture in environment.observe().images.items():
                pictures.setdefault(camera, []).append(picture.copy())
        return pictures
    finally:
        environment.close()


def _initial_states(suite: Suite) -> Sequence[int]:
    """As many as are wanted; fewer if the suite does not have that many.

    Raises:
        ConfigurationError: It has too few to judge by.
    """
    for count in range(SUITE_PICTURES, FEWEST_SUITE_PICTURES, -1):
        try:
            return suite.initial_states("train", count)
        except ConfigurationError:
            continue
    return suite.initial_states("train", FEWEST_SUITE_PICTURES)


def _say(root: Path, why: str) -> None:
    print(f"{root}: whether its pictures are turned against the suite's cannot be checked: {why}", file=sys.stderr)
