"""Key frames: where the gripper opens or closes, and where the arm comes to rest.

The usual heuristic of keyframe policies (James and Davison, "Q-attention", arXiv 2105.14829): a frame is a key frame
if the gripper's command changes there or the velocity is near a minimum.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.memory.selection import Candidates, Rule
from vla_cl.memory.settings import SETTING
from vla_cl.settings.checks import MOST
from vla_cl.settings.rules import shown
from vla_cl.types import ConfigurationError

Velocity = Literal["states", "actions"]

_LARGEST_CHANGE = 1e9


class Keyframes(Rule):
    """Gripper changes first, then velocity minima, the slowest first, then the rest in random order.

    A window or a trajectory is worth as much as its best frames: units are ordered by their number of gripper changes,
    then of minima.

    Args:
        gripper: Which dimension of an action is the gripper; null if none is.
        velocity: ``states``: the change of the state from one frame to the next; ``actions``: the length of the action
            (without the gripper), for actions that are themselves changes.
        change: Smallest change of the gripper's command that counts.
    """

    def __init__(self, gripper: int | None = -1, velocity: Velocity = "states", change: float = 0.5) -> None:
        if velocity not in ("states", "actions"):
            raise ConfigurationError(
                f"{SETTING}.selection_settings.velocity must be states or actions; got {velocity!r}"
            )
        if gripper is not None and (type(gripper) is not int or not -MOST <= gripper <= MOST):
            raise ConfigurationError(
                f"{SETTING}.selection_settings.gripper must be a whole number or null, and no larger than {MOST:g}; "
                f"got {shown(gripper)}"
            )
        if type(change) not in (int, float) or not 0 < change <= _LARGEST_CHANGE:
            raise ConfigurationError(
                f"{SETTING}.selection_settings.change must be above 0 and at most {_LARGEST_CHANGE:g}; got "
                f"{shown(change)}"
            )
        self.gripper = gripper
        self.velocity = velocity
        self.change = change

    def order(self, candidates: Candidates) -> NDArray[np.int64]:
        """By gripper changes, velocity minima, speed at them, and chance."""
        units = candidates.units
        episode = np.repeat(units.episodes, units.lengths)
        changes: NDArray[np.bool_] = np.zeros(len(units.rows), dtype=bool)
        if self.gripper is not None:
            actions = candidates.per_frame("actions")
            if not -actions.shape[1] <= self.gripper < actions.shape[1]:
                raise ConfigurationError(
                    f"{SETTING}.selection_settings.gripper={self.gripper}, but actions have {actions.shape[1]} numbers"
                )
            changes = gripper_changes(actions[:, self.gripper], episode, self.change)
        speed = self._speed(candidates, episode)
        minima = velocity_minima(speed, episode)
        slowest = np.minimum.reduceat(np.where(minima, speed, np.inf), units.starts)
        chance = candidates.generator().permutation(len(units))
        counts = [np.add.reduceat(here.astype(np.int64), units.starts) for here in (changes, minima)]
        return np.asarray(np.lexsort((chance, slowest, -counts[1], -counts[0])))

    def _speed(self, candidates: Candidates, episode: NDArray[np.int64]) -> NDArray[np.float64]:
        values = candidates.per_frame(self.velocity).astype(np.float64)
        if self.velocity == "actions":
            if self.gripper is not None:
                values = np.delete(values, self.gripper, axis=1)
            return np.asarray(np.linalg.norm(values, axis=1))
        moved = np.linalg.norm(np.diff(values, axis=0, prepend=values[:1]), axis=1)
        first = np.flatnonzero(np.diff(episode, prepend=-1))
        second = np.minimum(first + 1, len(moved) - 1)
        moved[first] = np.where(episode[second] == episode[first], moved[second], 0.0)
        return np.asarray(moved)


def gripper_changes(gripper: NDArray[np.float32], episode: NDArray[np.int64], change: float) -> NDArray[np.bool_]:
    """Frames whose gripper command differs from that of the frame before, in the same episode, shape (N,)."""
    jumps = np.abs(np.diff(gripper, prepend=gripper[:1])) >= change
    return np.asarray(jumps & (np.diff(episode, prepend=episode[:1]) == 0))


def velocity_minima(speed: NDArray[np.float64], episode: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Frames slower than the one before and not faster than the one after, inside an episode, shape (N,)."""
    result = np.zeros(len(speed), dtype=bool)
    inside = (episode[:-2] == episode[1:-1]) & (episode[1:-1] == episode[2:])
    result[1:-1] = inside & (speed[1:-1] < speed[:-2]) & (speed[1:-1] <= speed[2:])
    return result
