"""Small files of others: text and JSON, with bounds on size, nesting and counts."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from vla_cl.trust.text import harmless, reason, short, told_as
from vla_cl.types import ConfigurationError

MIB = 2**20
TEXT_BYTES = 64 * MIB
"""Largest text file that is read whole."""

LINES_BYTES = 1024 * MIB
"""Largest file of lines: a log of ten million steps."""

LINE_BYTES = 16 * MIB
"""Longest single line of such a file."""

NESTING = 64
"""Deepest nesting of JSON and YAML."""

ENTRIES = 2_000_000
"""Most values in one JSON or YAML file."""

_BLOCK = MIB

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
    shown = short(path)
    try:
        found = path.stat()
        regular, size = stat.S_ISREG(found.st_mode), found.st_size
        start = b""
        if regular:  # a pipe would block whoever opens it
            with path.open("rb") as file:
                start = file.read(len(LFS_POINTER))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(f"{what} is missing: {shown} does not exist; {remedy}") from error
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a null byte; RuntimeError: links in a circle
        raise ConfigurationError(f"{what} at {shown} cannot be read ({reason(error)}); {remedy}") from error
    if not regular:
        raise ConfigurationError(f"{what} at {shown} is no file; {remedy}")
    if start == LFS_POINTER:
        raise ConfigurationError(
            f"{what} at {shown} is a Git LFS pointer, not the file itself; run `git lfs pull` in that repository"
        )
    if size == 0:
        raise ConfigurationError(f"{what} at {shown} is empty; {remedy}")
    if most is not None and size > most:
        raise ConfigurationError(f"{what} at {shown} has {size} bytes, more than the {most} allowed; {remedy}")
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
        raise ConfigurationError(
            f"{what} at {short(path)} is not readable UTF-8 text ({reason(error)}); {remedy}"
        ) from error


def read_lines(path: Path, what: str, remedy: str) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a file that may be large: number from 1, content without its end, and whether it has an end.

    Raises:
        ConfigurationError: As of `require_file`, except that an empty file has no lines; or a line is too long.
    """
    if path.is_file() and path.stat().st_size == 0:
        return
    require_file(path, what, remedy, LINES_BYTES)
    with told_as(f"{what} at {short(path)} cannot be read", remedy, OSError), path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES):
            number += 1
            if len(line) == LINE_BYTES:
                raise ConfigurationError(f"line {number} of {short(path)} exceeds {LINE_BYTES} bytes; {remedy}")
            yield number, line.removesuffix(b"\n"), line.endswith(b"\n")


def last_lines(path: Path, longest: int, tail: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file from the last to the first: where each begins, and its content with its end.

    Args:
        path: A regular file; no more of it is in memory than one line and one block.
        longest: Most bytes of a line; of a longer one the content is None.
        tail: Only what lies whole in so many bytes at the end; None: all.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        begin = file.seek(0, os.SEEK_END)
        first = 0 if tail is None else max(0, begin - tail)
        line: bytes | None = b""
        while begin > first:
            size = min(_BLOCK, begin - first)
            file.seek(begin - size)
            last, *earlier = reversed(file.read(size).split(b"\n"))
            line = _joined(last, line, longest)
            begin -= len(last)
            for piece in earlier:
                if line != b"":
                    yield begin, line
                line = _joined(piece, b"\n", longest)
                begin -= 1 + len(piece)
        if first == 0 and line != b"":
            yield 0, line


def _joined(piece: bytes, line: bytes | None, longest: int) -> bytes | None:
    return None if line is None or len(piece) + len(line) > longest else piece + line


def read_json(path: Path, what: str, remedy: str, most: int = TEXT_BYTES) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON file within the bounds of this module; NaN and Infinity are refused, as JSON has none.

    Raises:
        ConfigurationError: As of `read_text`, or it is not JSON, nested too deeply, or of too many values.
    """
    return parse_json(read_text(path, what, remedy, most), f"{what} at {short(path)}", remedy)


def parse_json(text: str | bytes, what: str, remedy: str) -> Any:  # noqa: ANN401 - any JSON value
    """JSON text within the bounds of this module.

    Raises:
        ConfigurationError: It is not JSON, has a key twice, is nested too deeply, of too many values, or of numbers
            beyond any range.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{what} is not JSON ({reason(error)}); {remedy}") from error
    require_bounded(content, what, remedy)
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that comes twice, nobody can say which value counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {harmless(twice, 40)!r} comes twice")
    return content


def read_json_object(path: Path, what: str, remedy: str, most: int = TEXT_BYTES) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ConfigurationError: As of `read_json`, or it holds something else.
    """
    content = read_json(path, what, remedy, most)
    return as_object(content, f"{what} at {short(path)}", remedy)


def parse_json_object(text: str | bytes, what: str, remedy: str) -> dict[str, Any]:
    """JSON text that holds an object.

    Raises:
        ConfigurationError: As of `parse_json`, or it holds something else.
    """
    return as_object(parse_json(text, what, remedy), what, remedy)


def as_object(content: object, what: str, remedy: str) -> dict[str, Any]:
    """The content, if it is an object.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(content, dict):
        raise ConfigurationError(f"{what} holds {type(content).__name__}, expected an object; {remedy}")
    return content


def as_plain(content: object) -> Any:  # noqa: ANN401 - any JSON value
    """One's own content as a JSON file would give it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(content))


def require_entries(
    content: object, kinds: dict[str, type | tuple[type, ...]], what: str, remedy: str
) -> dict[str, Any]:
    """The content, if it is an object with these entries of these types; true and false are no numbers.

    Raises:
        ConfigurationError: An entry is missing or of another type.
    """
    found = as_object(content, what, remedy)
    for key, kind in kinds.items():
        allowed = kind if isinstance(kind, tuple) else (kind,)
        value = found.get(key)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(item.__name__ for item in allowed)
            raise ConfigurationError(
                f"{what} should give {key!r} as {names}, got {harmless(repr(value), 60)}; {remedy}"
            )
    return found


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
    raise ValueError(f"{constant} is not JSON; a value that was not measured is null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the range of a number")
    return value
