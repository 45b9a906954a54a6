"""Whether a memory can keep something of every experience of a stream; asked before anything is learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vla_cl.memory.budget import divide
from vla_cl.memory.copying import LEAST_BYTES
from vla_cl.memory.settings import SETTING, MemorySettings
from vla_cl.trust.text import counted
from vla_cl.types import ConfigurationError


@dataclass(frozen=True)
class ExperienceSize:
    """What is known of an experience's data before they are there.

    Attributes:
        name: Of the experience.
        frames: Its number of frames; None if that is not known.
        longest: Frames of its longest episode, or the fewest that it can have.
        recorded: Whether ``longest`` is that of recorded episodes, and not the fewest.
        bytes_per_sample: Of a raw sample and what the method keeps beside it.
    """

    name: str
    frames: int | None
    longest: int
    bytes_per_sample: int
    recorded: bool = True
    bytes_per_copy: int = 0

    @property
    def at_least(self) -> str:
        """What stands before a number that is only the least."""
        return "" if self.recorded else "at least "


def require_units(settings: MemorySettings, sizes: Sequence[ExperienceSize]) -> None:
    """Refuse a limit that leaves an experience less than a unit of it when all have been learnt.

    Which unit a rule puts first is not known before, so the longest must fit. How large copies get is not known before
    they are written, so a budget of them must hold the least that they can be.

    Args:
        settings: Of the memory.
        sizes: Of all experiences that it will hold, in order.

    Raises:
        ConfigurationError: The limit is too small; the message names the experience and the smallest limit.
    """
    lengths = [_frames_of_unit(settings, size) for size in sizes]
    if settings.samples_per_task is not None:
        for size, length in zip(sizes, lengths, strict=True):
            if length > settings.samples_per_task:
                raise ConfigurationError(
                    f"{SETTING}.samples_per_task={settings.samples_per_task} has no room for a {settings.unit} of "
                    f"{size.name}, which has {size.at_least}{length} frames; give at least {max(lengths)}, or a "
                    "smaller unit"
                )
    if settings.budget_bytes is not None:
        _require_shares(settings, settings.budget_bytes, sizes, lengths)


def _require_shares(
    settings: MemorySettings, budget: int, sizes: Sequence[ExperienceSize], lengths: Sequence[int]
) -> None:
    proportional = settings.split == "proportional"
    if proportional and any(size.frames is None for size in sizes):
        return
    copied = settings.keep == "copy"
    weights = [float(size.frames or 0) if proportional else 1.0 for size in sizes]
    units = [
        length * size.bytes_per_copy + LEAST_BYTES if copied else length * size.bytes_per_sample
        for length, size in zip(lengths, sizes, strict=True)
    ]
    room = [budget if copied or size.frames is None else size.frames * size.bytes_per_sample for size in sizes]
    for size, unit, weight, share in zip(sizes, units, weights, divide(budget, weights, room), strict=True):
        if weight and share < unit:
            enough = max(unit * sum(weights) / weight for unit, weight in zip(units, weights, strict=True) if weight)
            least = "at least " if copied else size.at_least
            raise ConfigurationError(
                f"{SETTING}.budget={settings.budget} is too little for {counted(len(sizes), 'experience')}: one "
                f"{settings.unit} of {size.name} takes {least}{unit} bytes; give {least}{math.ceil(enough)} bytes in "
                "all, or a smaller unit"
            )


def _frames_of_unit(settings: MemorySettings, size: ExperienceSize) -> int:
    """Of the longest unit that is cut from the data."""
    return {"frame": 1, "window": min(settings.window, size.longest), "trajectory": size.longest}[settings.unit]
