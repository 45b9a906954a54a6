"""Where the data of a task lie. Apart from what reads them, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    """

    root: Path
    recorded_instruction: str | None = None
    instruction: str | None = None
    cameras: tuple[tuple[str, str], ...] | None = None
