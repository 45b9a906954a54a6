"""Small files of others: text, JSON and YAML, with bounds on size, nesting and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from vla_cl.types import ConfigurationError

MIB = 2**20
TEXT_BYTES = 64 * MIB
"""Largest text file that is read whole."""

NESTING = 64
"""Deepest nesting of JSON and YAML."""

ENTRIES = 2_000_000
"""Most values in one JSON or YAML file."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def require_file(path: Path, what: str, remedy: str, most: int | None = None) -> int:
    """Refuse what is no readable file of its own content; its size in bytes.

    Args:
        path: The file.
        what: What it is to the reader, for the message: ``the task table``.
        remedy: What to do when it is missing or damaged: ``download the dataset again``.
        most: Largest size in bytes.

    Raises:
        ConfigurationError: It is missing, no file, unreadable, empty, too large, or a Git LFS pointer.
    """
    try:
        if not path.exists():
            raise ConfigurationError(f"{what} is missing: {path} does not exist; {remedy}")
        if not path.is_file():
            raise ConfigurationError(f"{what} at {path} is no file; {remedy}")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise ConfigurationError(f"{what} at {path} cannot be read ({error.strerror}); {remedy}") from error
    if start == LFS_POINTER:
        raise ConfigurationError(
            f"{what} at {path} is a Git LFS pointer, not the file itself; run `git lfs pull` in that repository"
        )
    if size == 0:
        raise ConfigurationError(f"{what} at {path} is empty; {remedy}")
    if most is not None and size > most:
        raise ConfigurationError(f"{what} at {path} has {size} bytes, more than the {most} allowed; {remedy}")
    return size


def read_text(path: Path, what: str, remedy: str, most: int = TEXT_BYTES) -> str:
    """A UTF-8 text file, at most ``most`` bytes.

    Raises:
        ConfigurationError: As of `require_file`, or it is not UTF-8.
    """
    require_file(path, what, remedy, most)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{what} at {path} is not readable UTF-8 text ({error}); {remedy}") from error


def read_json(path: Path, what: str, remedy: str, most: int = TEXT_BYTES) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON file within the bounds of this module; NaN and Infinity are refused, as JSON has none.

    Raises:
        ConfigurationError: As of `read_text`, or it is not JSON, nested too deeply, or of too many values.
    """
    return parse_json(read_text(path, what, remedy, most), f"{what} at {path}", remedy)


def parse_json(text: str, what: str, remedy: str) -> Any:  # noqa: ANN401 - any JSON value
    """JSON text within the bounds of this module.

    Raises:
        ConfigurationError: It is not JSON, nested too deeply, or of too many values.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{what} is not JSON ({error}); {remedy}") from error
    require_bounded(content, what, remedy)
    return content


def read_json_object(path: Path, what: str, remedy: str, most: int = TEXT_BYTES) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ConfigurationError: As of `read_json`, or it holds something else.
    """
    content = read_json(path, what, remedy, most)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{what} at {path} holds {type(content).__name__}, expected an object; {remedy}")
    return content


def require_bounded(content: object, what: str, remedy: str) -> None:
    """Refuse nested plain data that is too deep or too large; walks without recursion.

    Raises:
        ConfigurationError: It is.
    """
    level, entries = [content], 0
    for _ in range(NESTING):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        entries += len(below)
        if entries > ENTRIES:
            raise ConfigurationError(f"{what} has more than {ENTRIES} values; {remedy}")
        if not below:
            return
        level = below
    raise ConfigurationError(f"{what} is nested more than {NESTING} levels deep; {remedy}")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
