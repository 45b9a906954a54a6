"""What a method's settings may be: numbers within bounds, and none that has no effect.

Every number has a finite largest value, far beyond what makes sense, so that a slip of the keyboard is answered with a
sentence and not with a run that hangs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import cast

from vla_cl.memory.settings import MOST_BYTES
from vla_cl.settings.checks import MOST
from vla_cl.settings.rules import shown
from vla_cl.types import ConfigurationError

MAX_COUNT = MOST
"""Of anything that is counted."""

MAX_STRENGTH = 1e12
"""Of a penalty or a distance: beyond it nothing moves any more, in float32."""

MAX_TEMPERATURE = 1e6
"""Its square multiplies a distance; long before it a softmax is flat."""

MAX_LEARNING_RATE = 1.0
"""As of ``training.learning_rate``."""

MAX_BATCH = 10**6
"""Samples of one pass."""

MAX_MEGABYTES = MOST_BYTES / 2**20


def check_range(setting: str, value: float, low: float, high: float) -> None:
    """Refuse a value of ``method.<setting>`` that is no number in ``low..high``, both included.

    Raises:
        ConfigurationError: It is none; the message names the range.
    """
    if not _is_number(value) or not low <= value <= high:
        raise ConfigurationError(f"method.{setting} must be between {low:g} and {high:g}; got {shown(value)}")


def check_above(setting: str, value: float, low: float, high: float) -> None:
    """Refuse a value of ``method.<setting>`` that is no number above ``low`` and at most ``high``.

    Raises:
        ConfigurationError: It is none; the message names the range.
    """
    if not _is_number(value) or not low < value <= high:
        raise ConfigurationError(f"method.{setting} must be above {low:g} and at most {high:g}; got {shown(value)}")


def check_count(setting: str, value: int, low: int = 1, high: int = MAX_COUNT) -> None:
    """Refuse a value of ``method.<setting>`` that is no whole number in ``low..high``, both included.

    Raises:
        ConfigurationError: It is none; the message names the range.
    """
    if type(value) is not int or not low <= value <= high:
        raise ConfigurationError(
            f"method.{setting} must be a whole number between {low} and {high:g}; got {shown(value)}"
        )


def check_part(setting: str, share: float) -> None:
    """Refuse a value of ``method.<setting>`` that is not at least 0 and below 1.

    Raises:
        ConfigurationError: It is not.
    """
    if not _is_number(share) or not 0 <= share < 1:
        raise ConfigurationError(f"method.{setting} must be at least 0 and below 1; got {shown(share)}")


def check_strength(setting: str, value: float) -> None:
    """Refuse a weight of a penalty or a distance that is negative or beyond `MAX_STRENGTH`.

    Raises:
        ConfigurationError: It is.
    """
    check_range(setting, value, 0, MAX_STRENGTH)


def check_temperature(value: float) -> None:
    """Refuse a ``method.temperature`` that is not above 0 and at most `MAX_TEMPERATURE`.

    Raises:
        ConfigurationError: It is not.
    """
    check_above("temperature", value, 0, MAX_TEMPERATURE)


def checked_numbers(setting: str, given: object, low: float, high: float) -> dict[str, float]:
    """``method.<setting>``: names to numbers in ``low..high``; empty for None.

    Raises:
        ConfigurationError: It is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(type(value) in (int, float) for value in given.values()):
        raise ConfigurationError(f"method.{setting} must give names numbers, like {{name: 0.5}}; got {shown(given)}")
    for name, value in given.items():
        check_range(f"{setting}.{shown(name).strip(_QUOTES)}", value, low, high)
    return {str(name): float(value) for name, value in cast(Mapping[str, float], given).items()}


def checked_shares(setting: str, given: object) -> tuple[float, ...] | None:
    """``method.<setting>``: a list of at least one share, each at least 0 and below 1; None for None.

    Raises:
        ConfigurationError: It is something else.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or any(type(x) not in (int, float) for x in given):
        raise ConfigurationError(f"method.{setting} must be a list of shares, like [0, 0.5]; got {shown(given)}")
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
    if not _is_number(share) or not 0 <= share < 1:
        raise ConfigurationError(f"method.{setting}: shares must be at least 0 and below 1; got {shown(share)}")


def refuse_idle(method: type, idle: Mapping[str, object], setting: str, value: object) -> None:
    """Refuse settings that have no effect because of another one, unless they are at their defaults.

    Args:
        method: Whose constructor has the defaults.
        idle: Names and values of the settings without effect.
        setting: The name of the other one.
        value: Its value.

    Raises:
        ConfigurationError: One of them is not at its default.
    """
    defaults = inspect.signature(method).parameters
    for name, given in idle.items():
        if name in defaults and given != (default := defaults[name].default):
            raise ConfigurationError(
                f"method.{name}={_typed(given)} has no effect with method.{setting}={_typed(value)}; set "
                f"method.{name}={_typed(default)}, its default, or change method.{setting}"
            )


_QUOTES = "'\""


def _typed(value: object) -> str:
    """A value as it is typed."""
    return shown(value).strip(_QUOTES) if isinstance(value, str) else shown(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # nan is in no range
