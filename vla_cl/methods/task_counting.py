"""What methods share that treat the first tasks of a stream differently from the later ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor

from vla_cl.interfaces import Data, Method
from vla_cl.types import ConfigurationError, Experience


class TaskCountingMethod(Method):
    """A method that knows how many tasks it has learnt, after a resume too; that number is its whole state."""

    tasks_learnt: int = 0

    from_task: int = 2
    """The first task that is edited, counted from 1."""

    @property
    def works_alone(self) -> bool:
        """Where the first task is edited too."""
        return self.from_task <= 1

    def end_task(self, experience: Experience, data: Data) -> None:
        """One task more has been learnt."""
        self.tasks_learnt += 1

    def extra_state(self) -> dict[str, object]:
        """How many tasks have been learnt."""
        return {"tasks_learnt": self.tasks_learnt}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Count on from there.

        Raises:
            ValueError: The checkpoint holds tensors, or no number of tasks.
        """
        count = extra.get("tasks_learnt")
        if state or extra.keys() != {"tasks_learnt"} or not isinstance(count, int):
            raise ValueError(
                f"{type(self).__name__} keeps only the number of tasks learnt, but the checkpoint holds "
                f"{sorted(state) + sorted(extra)}"
            )
        self.tasks_learnt = count


def check_range(setting: str, value: float, low: float, high: float) -> None:
    """Refuse a value of ``method.<setting>`` that is not in ``low..high``, both included, or not finite.

    Raises:
        ConfigurationError: It is not; the message names the range.
    """
    if not math.isfinite(value) or not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        allowed += "" if math.isfinite(value) else ", and finite"
        raise ConfigurationError(f"method.{setting} must be {allowed}; got {value}")


def checked_numbers(setting: str, given: object, low: float, high: float) -> dict[str, float]:
    """``method.<setting>``: names to numbers in ``low..high``; empty for None.

    Raises:
        ConfigurationError: It is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(type(value) in (int, float) for value in given.values()):
        raise ConfigurationError(f"method.{setting} must give names numbers, like {{name: 0.5}}; got {given!r}")
    for name, value in given.items():
        check_range(f"{setting}.{name}", value, low, high)
    return {str(name): float(value) for name, value in cast(Mapping[str, float], given).items()}
