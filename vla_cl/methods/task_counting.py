"""What methods share that treat the first tasks of a stream differently from the later ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import Tensor

from vla_cl.interfaces import Data, Method
from vla_cl.methods.saved_state import TASKS_LEARNT, require_keys, whole_number
from vla_cl.trust.text import counted
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

    def require_length(self, experiences: int) -> None:
        """Refuse a stream that ends before the first task that is edited.

        A stream of one experience may grow, so there the second may be the first that is edited.

        Raises:
            ConfigurationError: It does.
        """
        if self.from_task > max(experiences, 2):
            raise ConfigurationError(
                f"method.from_task is {self.from_task}, but the stream has {counted(experiences, 'experience')}, so "
                f"method {self.name!r} would change nothing; lower method.from_task, or use method=sequential"
            )

    def end_task(self, experience: Experience, data: Data) -> None:
        """One task more has been learnt."""
        self.tasks_learnt += 1

    def extra_state(self) -> dict[str, object]:
        """How many tasks have been learnt."""
        return {TASKS_LEARNT: self.tasks_learnt}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Count on from there.

        Raises:
            ValueError: The checkpoint holds tensors, or no number of tasks.
        """
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps only the number of tasks learnt, but the checkpoint holds "
                f"{sorted(state) + sorted(extra)}"
            )
        require_keys(type(self).__name__, extra, [TASKS_LEARNT])
        self.tasks_learnt = whole_number(TASKS_LEARNT, extra[TASKS_LEARNT])


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


def checked_shares(setting: str, given: object) -> tuple[float, ...] | None:
    """``method.<setting>``: a list of at least one share, each at least 0 and below 1; None for None.

    Raises:
        ConfigurationError: It is something else.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or any(type(x) not in (int, float) for x in given):
        raise ConfigurationError(f"method.{setting} must be a list of shares, like [0, 0.5]; got {given!r}")
    if not given:
        raise ConfigurationError(f"method.{setting} must hold at least one share; got an empty list")
    for share in cast(Sequence[float], given):
        check_share(setting, share)
    return tuple(float(share) for share in given)


def check_share(setting: str, share: float) -> None:
    """Refuse a share in ``method.<setting>`` that is not at least 0 and below 1.

    Raises:
        ConfigurationError: It is not.
    """
    if not 0 <= share < 1:
        raise ConfigurationError(f"method.{setting}: shares must be at least 0 and below 1; got {share}")
