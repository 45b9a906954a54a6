"""Another run's memory as the beginning of this one's: the dataset that ``vla-cl memory RUN --export`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.memory.settings import SETTING
from vla_cl.types import ConfigurationError


def reused_frames(
    folder: Path, cache: Path, action_offsets: Sequence[int], observation_offsets: Sequence[int] | None
) -> Frames:
    """What another run remembered.

    Args:
        folder: The dataset that ``method.memory.reuse`` names.
        cache: Folder of decoded pictures.
        action_offsets: As of `Frames`.
        observation_offsets: As of `Frames`.

    Raises:
        ConfigurationError: It holds frames that do not follow one another, so that the chunks of actions would be
            wrong.
    """
    about = DatasetFolder(folder).recording.get("memory", {})
    if not about.get("consecutive_frames", True):
        raise ConfigurationError(
            f"{SETTING}.reuse={folder}: that memory kept single frames, whose chunks of actions do not follow from the "
            f"frames behind them; reuse one of {SETTING}.unit=window or trajectory"
        )
    return Frames([Source(folder)], cache, action_offsets, observation_offsets)
