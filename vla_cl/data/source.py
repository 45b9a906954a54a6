"""Where the data of a task lie. Apart from what reads them, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import ConfigurationError

FEWEST_HELD_OUT = 3
"""Episodes of a task: two of them report, which gives a spread, and one selects."""


@dataclass(frozen=True)
class HoldOut:
    """Which episodes of a task are kept from training, to be scored on.

    Attributes:
        amount: From 1 on a number of episodes of each task; below 1 a share of them, rounded to the nearest whole
            number, of which at least `FEWEST_HELD_OUT` are taken.
        seed: Which ones.
    """

    amount: float
    seed: int = 0

    def wanted_of(self, episodes: int) -> int:
        """How many of so many episodes are asked for."""
        return int(self.amount) if self.amount >= 1 else max(FEWEST_HELD_OUT, round(self.amount * episodes))

    def count_of(self, episodes: int, what: str) -> int:
        """How many of a task's episodes are held out.

        Raises:
            ConfigurationError: None would be left to learn from.
        """
        count = self.wanted_of(episodes)
        if count >= episodes:
            raise ConfigurationError(
                f"data.held_out={self.amount:g} holds out {count} episodes of each task, but {what} has "
                f"{episodes}, so none would be left to learn from; give fewer, or data.held_out=0"
            )
        return count

    def chosen(self, episodes: NDArray[np.int64], total: int, what: str) -> NDArray[np.int64]:
        """The episodes that are held out, in a random order: the first of them report, the others select.

        All episodes of a dataset are ranked once, whatever task they belong to. So tasks that share episodes tend to
        hold out the same ones.

        Args:
            episodes: Numbers of the task's episodes, each once, ascending.
            total: Of the dataset.
            what: The task's data in a message.

        Raises:
            ConfigurationError: Nothing, or too little, would be left on either side.
        """
        count = self.count_of(len(episodes), what)
        ranked = generator(self.seed, Purpose.HELD_OUT).permutation(total)
        order = np.argsort(ranked[episodes], kind="stable")
        chosen: NDArray[np.int64] = episodes[order[:count]]
        return chosen


@dataclass(frozen=True)
class Source:
    """The part of a dataset that belongs to a task.

    Attributes:
        root: A LeRobotDataset v3 folder.
        recorded_instruction: Keep only episodes recorded with this instruction; None keeps all.
        instruction: What the policy is told in training; None leaves the recorded instruction.
        cameras: Pairs of feature keys, what a camera is called here and what the dataset calls it
            (``observation.images.camera1``, ``observation.images.top``); other cameras are left out. None: all of the
            dataset's, by their own names.
        hold_out: Which episodes are kept from training; None: none.
        part: What is read: what is learnt from, or what is held out.
    """

    root: Path
    recorded_instruction: str | None = None
    instruction: str | None = None
    cameras: tuple[tuple[str, str], ...] | None = None
    hold_out: HoldOut | None = None
    part: Literal["learnt", "held_out"] = "learnt"

    @property
    def held_out(self) -> Source:
        """The episodes of the same task that are kept from training.

        Raises:
            ValueError: None are.
        """
        if self.hold_out is None:
            raise ValueError(f"no episode of {self.root} is held out")
        return replace(self, part="held_out")
