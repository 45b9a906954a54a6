"""Text of others, shown to people."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_cl.types import ConfigurationError

LONGEST = 300
"""Characters of a message."""

_LEAST_REASON = 20
_REASON = 80
_PATH = 120


def harmless(text: str, most: int = 200) -> str:
    """Text for a terminal or a page: one line, without control and direction characters, at most ``most`` long."""
    text = text[: most + 1]
    shown = text if text.isprintable() else "".join(_shown(character) for character in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def counted(number: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def harmless_lines(text: str, most: int = 1_000_000) -> str:
    """The same for text of several lines, such as a traceback: the ends of its lines stay."""
    if text.isprintable():  # also a video of some megabytes, as text
        return text
    return "\n".join(harmless(line, most) for line in text[:most].split("\n"))


def harmless_data(content: Any) -> Any:  # noqa: ANN401 - plain data
    """The same for every text and key in plain data; it has passed the bound on nesting."""
    if isinstance(content, dict):
        return {harmless(str(key)): harmless_data(value) for key, value in content.items()}
    if isinstance(content, list):
        return [harmless_data(value) for value in content]
    return harmless_lines(content) if isinstance(content, str) else content


def reason(error: BaseException, most: int = _REASON) -> str:
    """What an error of a library says, in brackets behind one's own words: one short harmless line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return harmless(words, most)


def short(path: Path | str, most: int = _PATH) -> str:
    """A path for a message: the middle of a long one is left out."""
    text = harmless(str(path), 4096)
    if len(text) <= most:
        return text
    return f"{text[: most // 3]}...{text[-(most - most // 3 - 3) :]}"


@contextmanager
def told_as(problem: str, remedy: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of a library into one sentence; a `ConfigurationError` from inside the body stays as it is.

    Args:
        problem: What the sentence says: ``the task table at a/b.parquet cannot be read``.
        remedy: What to do about it.
        errors: Which errors.

    Raises:
        ConfigurationError: One of them came.
    """
    try:
        yield
    except ConfigurationError:  # it is a ValueError too, and says already what is wrong
        raise
    except errors as error:
        room = max(_LEAST_REASON, LONGEST - len(f"{problem} (); {remedy}"))
        raise ConfigurationError(f"{problem} ({reason(error, min(_REASON, room))}); {remedy}") from error


def _shown(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return " " if character in "\n\t\r" else f"\\x{ord(character):02x}"
    return character
