"""Another run's memory as the beginning of this one's: the dataset that ``vla-cl memory RUN --export`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_cl import names
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.interfaces import Method
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.memory.settings import SETTING, reused_folder
from vla_cl.types import ConfigurationError, Experience

REUSED = Experience(-1, names.REUSED, ())
"""Under which name and number a memory keeps what another run remembered."""


def memory_of(method: Method) -> ReplayMemory | None:
    """The memory of a method that has one, in its attribute ``memory``."""
    memory = getattr(method, "memory", None)
    return memory if isinstance(memory, ReplayMemory) else None


def reused_memory(
    method: Method, cache: Path, action_offsets: Sequence[int], observation_offsets: Sequence[int] | None
) -> list[tuple[Experience, Frames]]:
    """What ``method.memory.reuse`` names, as an experience before the first; empty if it names nothing.

    Args:
        method: Whose memory is asked for its settings.
        cache: Folder of decoded pictures.
        action_offsets: As of `Frames`.
        observation_offsets: As of `Frames`.

    Raises:
        ConfigurationError: There is no dataset, or it holds frames that do not follow one another, so that the chunks
            of actions would be wrong.
    """
    memory = memory_of(method)
    folder = reused_folder(memory.settings) if memory is not None else None
    if folder is None:
        return []
    about = DatasetFolder(folder).recording.get("memory", {})
    if not about.get("consecutive_frames", True):
        raise ConfigurationError(
            f"{SETTING}.reuse={folder}: that memory kept single frames, whose chunks of actions do not follow from the "
            f"frames behind them; reuse one of {SETTING}.unit=window or trajectory"
        )
    return [(REUSED, Frames([Source(folder)], cache, action_offsets, observation_offsets))]
