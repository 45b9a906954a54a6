"""What metadata say of a robot beyond sizes: which number of a state or action is which joint, and which robot it was.

Two arms with the same joints in another order have vectors of the same length, so nothing else would show it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vla_cl.data.preflight import DatasetReport
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

_NAME = 24  # characters of a joint's name in a message


def require_same_order(reports: Sequence[DatasetReport]) -> None:
    """Refuse datasets whose states or actions have the same joints in another order.

    Raises:
        ConfigurationError: The message names the feature, both datasets and the first place that differs.
    """
    known: dict[tuple[str, tuple[str, ...]], DatasetReport] = {}
    for report in reports:
        for key, names in report.joints.items():
            for (feature, before), other in known.items():
                if feature != key or before == names or sorted(before) != sorted(names):
                    continue
                place = next(number for number, pair in enumerate(zip(before, names, strict=True)) if len({*pair}) > 1)
                raise ConfigurationError(
                    f"the numbers of {key} come in another order: at place {place + 1}, {other.shown} has "
                    f"{_shown(before[place])} and {report.shown} has {_shown(names[place])}; put them in one order, or "
                    "leave one dataset out"
                )
            known.setdefault((key, names), report)


def other_names(reports: Sequence[DatasetReport]) -> tuple[str, ...]:
    """A sentence for each feature whose numbers have other names in some dataset, and one for other robots."""
    notes = []
    for key in dict.fromkeys(key for report in reports for key in report.joints):
        found = {report.joints[key]: report for report in reversed(reports) if key in report.joints}
        if len(found) > 1:
            (one, first), (other, second), *_ = reversed(found.items())
            place = next(number for number, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1)
            notes.append(
                f"the numbers of {key} have other names: at place {place + 1}, {first.shown} has {_shown(one[place])} "
                f"and {second.shown} has {_shown(other[place])}; they are learnt by their places"
            )
    robots = {report.robot: report for report in reversed(reports) if report.robot is not None}
    if len(robots) > 1:
        shown = ", ".join(f"{_shown(robot)} ({report.shown})" for robot, report in reversed(robots.items()))
        notes.append(f"the datasets come from different robots: {harmless(shown, 200)}; they are learnt as one")
    return tuple(notes)


def _shown(name: str) -> str:
    return f"'{harmless(name, _NAME)}'"
