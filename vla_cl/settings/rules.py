"""What a value may be: kinds of values with their bounds, each a function from a value to the value that is used."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vla_cl.settings.hints import nearest
from vla_cl.types import ConfigurationError

Rule = Callable[[str, object], object]
"""Takes the setting's name and its value, gives the value that is used, or raises a `ConfigurationError`."""

_LONGEST_TEXT = 200
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,2})?|mps|xpu(:\d{1,2})?")


def whole(low: int, high: int) -> Rule:
    """A whole number; ``1e3`` is one."""

    def check(name: str, value: object) -> object:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigurationError(f"{name} must be a whole number from {low} to {high}; got {shown(value)}")
        return value

    return check


def real(low: float, high: float = math.inf, above: bool = False) -> Rule:
    """A finite number from ``low``, or above it, to ``high``."""
    bounds = f"above {low:g}" if above else f"of at least {low:g}"
    bounds += f" and at most {high:g}" if high < math.inf else ""

    def check(name: str, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (low < value if above else low <= value) or not value <= high or math.isinf(value):  # type: ignore[operator, arg-type]
            raise ConfigurationError(f"{name} must be a finite number {bounds}; got {shown(value)}")
        return value

    return check


def flag(name: str, value: object) -> object:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be true or false; got {shown(value)}")
    return value


def one_of(*allowed: str) -> Rule:
    """One of some words."""

    def check(name: str, value: object) -> object:
        if value not in allowed:
            hint = nearest(str(value), allowed)
            words = ", ".join(allowed)
            raise ConfigurationError(f"{name} must be one of {words}; got {shown(value)}" + (
                f"; {hint}" if hint.startswith("did") else ""
            ))  # fmt: skip
        return value

    return check


def optional(rule: Rule) -> Rule:
    """Null, or what the rule says."""

    def check(name: str, value: object) -> object:
        if value is None:
            return None
        try:
            return rule(name, value)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace(" must be ", " must be null or ", 1)) from error

    return check


def text(name: str, value: object) -> object:
    """A text that is not empty."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a name that looks like a number
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{name} must be a text; got {shown(value)}")
    if len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ConfigurationError(f"{name} must be a printable text of at most {_LONGEST_TEXT} characters")
    return value


def folder_name(name: str, value: object) -> object:
    """A text that can be a folder's name."""
    value = str(text(name, value))
    if "/" in value or value in (".", "..") or len(value.encode()) > _LONGEST_TEXT:
        raise ConfigurationError(
            f"{name}={shown(value)} is to be a folder's name in outputs/, short and without '/'; for a path set "
            "output_dir"
        )
    return value


def path(name: str, value: object) -> object:
    """A path, ``~`` and ``~user`` expanded; relative paths mean the current folder."""
    if not isinstance(value, str) or not value.strip():
        hint = " (is a variable that it comes from empty?)" if value == "" else ""
        raise ConfigurationError(f"{name} must be a path; got {shown(value)}{hint}")
    return expanded(name, value)


def expanded(name: str, value: str) -> str:
    """HOME in a path of the user; the one place where that is done.

    Raises:
        ConfigurationError: There is no such user, or no path has such characters.
    """
    if "\0" in value:
        raise ConfigurationError(f"{name} holds a null character, which no path has")
    if not value.startswith("~"):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise ConfigurationError(
            f"{name}={value!r} cannot be expanded ({error}); give the whole path, or ./{value} for such a folder"
        ) from error


def folder(name: str, value: object) -> object:
    """A path at which a folder is, or can be made."""
    where = str(path(name, value))
    try:
        where.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{name} holds bytes that are no UTF-8, which many libraries cannot open; give a folder of another name"
        ) from error
    for at in (Path(where), *Path(where).absolute().parents):
        try:
            if at.is_dir():
                break
            found = os.path.lexists(at)
        except OSError as error:  # a name too long, a folder that may not be looked into
            raise ConfigurationError(
                f"{name}={shown(where)} cannot be a folder ({error.strerror}); give another one"
            ) from error
        if found:
            what = "a link to nowhere" if at.is_symlink() else "a file"
            raise ConfigurationError(f"{name}={shown(where)} cannot be a folder: {at} is {what}; give another one")
    return where


def names(rule: Rule = text) -> Rule:
    """A list, every item of which follows a rule."""

    def check(name: str, value: object) -> object:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise ConfigurationError(f"{name} must be a list like [a,b]; got {shown(value)}")
        return [rule(f"each of {name}", item) for item in value]

    return check


def names_or(word: str) -> Rule:
    """A list of names, or one word that stands for all of them."""
    listed = names()

    def check(name: str, value: object) -> object:
        return value if value == word else listed(name, value)

    return check


def experience(name: str, value: object) -> object:
    """A name and the names of its tasks."""
    if not isinstance(value, Mapping) or not {"name", "tasks"} <= value.keys():
        raise ConfigurationError(f"{name} must be like {{name: pair, tasks: [push, reach]}}; got {shown(value)}")
    return {
        **value,
        "name": folder_name(f"{name}.name", value["name"]),
        "tasks": names()(f"{name}.tasks", value["tasks"]),
    }


def held_out(name: str, value: object) -> object:
    """Nothing, a share of the episodes, or a number of them."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if not (0 <= number <= 0.5 or (number.is_integer() and 3 <= number <= 10**6)):
        raise ConfigurationError(
            f"{name} must be 0, a share of each task's episodes up to 0.5, or a number of episodes from 3 on (two are "
            f"reported, one is for curves); got {shown(value)}"
        )
    return value


def action_groups(name: str, value: object) -> object:
    """Names of groups, and for each the places of its numbers in an action."""
    example = "{position: [0, 1, 2], rotation: [3, 4, 5], gripper: [6]}"
    good = (
        isinstance(value, Mapping)
        and value
        and all(isinstance(group, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,30}", group) for group in value)
    )
    if not good or not all(_is_places(places) for places in value.values()):  # type: ignore[attr-defined]
        raise ConfigurationError(f"{name} must be like {example}; got {shown(value)}")
    return value


def _is_places(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(place, int) and not isinstance(place, bool) and place >= 0 for place in value)
    )


def device(name: str, value: object) -> object:
    """A torch device."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ConfigurationError(f"{name} must be auto, cpu, cuda or cuda:N; got {shown(value)}")
    return value


def module_name(name: str, value: object) -> object:
    """The name of a Python package that is installed; it is not imported here."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ConfigurationError(
            f"{name} must be the name of a Python package, as in `import`, not of a module in it; got {shown(value)}"
        )
    if value not in sys.modules and importlib.util.find_spec(value) is None:
        raise ConfigurationError(
            f"{name} names {shown(value)}, and no package of this name is installed; install yours with "
            "`pip install -e FOLDER`, or put the folder that holds it into PYTHONPATH"
        )
    return value


def shown(value: object) -> str:
    """A value as a message shows it: short, and as it is typed."""
    words = {"None": "null", "True": "true", "False": "false"}
    written = words.get(repr(value), repr(value))
    return written if len(written) <= 80 else f"{written[:77]}..."
