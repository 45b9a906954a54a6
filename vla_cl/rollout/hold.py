"""How much of a demonstration lies after its success: too much teaches to stay, a single frame cannot be stored."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from vla_cl.types import ConfigurationError, Task, Trajectory

_SHARE = 4
"""One step of staying for so many steps of getting there is what a smaller value is suggested by."""


def require_two_frames(trajectory: Trajectory, hold: int) -> None:
    """Refuse a demonstration of a single frame: LeRobot has no statistics of its images, and cannot append others.

    Args:
        trajectory: What was recorded; a failed one passes.
        hold: Env steps kept after the success.

    Raises:
        ConfigurationError: It has one.
    """
    if trajectory.success and len(trajectory) == 1:
        task = trajectory.task
        raise ConfigurationError(
            f"{task.id}, initial state {trajectory.initial_state}: the expert succeeds in its first step, and with "
            f"demonstrations.hold={hold} and max_steps={task.max_steps} the demonstration has a single frame, which "
            f"LeRobot cannot store; set {'demonstrations.hold=1' if task.max_steps > 1 else 'max_steps=2'} or more"
        )


def counted(trajectories: Iterable[Trajectory], lengths: list[int]) -> Iterator[Trajectory]:
    """The trajectories, the number of frames of each added to ``lengths``."""
    for trajectory in trajectories:
        lengths.append(len(trajectory))
        yield trajectory


def tell_of_hold(task: Task, hold: int, lengths: Sequence[int]) -> None:
    """Print the sentence of `note_of_hold`, if there is one."""
    if (note := note_of_hold(task, hold, lengths)) is not None:
        tqdm.write(note, file=sys.stderr)


def note_of_hold(task: Task, hold: int, lengths: Sequence[int]) -> str | None:
    """A sentence if the median demonstration has more frames after its success than before it; None if not.

    Args:
        task: What was demonstrated.
        hold: Env steps kept after the success.
        lengths: Frames of each demonstration; one that the time limit has cut does not count.
    """
    whole = sorted(length for length in lengths if length < task.max_steps)
    if not whole or hold <= (before := whole[len(whole) // 2] - hold):
        return None
    return (
        f"{task.id}: {hold} of the {before + hold} frames of a demonstration (median) lie after its success "
        f"(demonstrations.hold={hold}), so a policy learns mostly to stay; demonstrations.hold={-(-before // _SHARE)} "
        f"suits episodes of {before} step{'s' * (before != 1)}"
    )
