"""Overrides as people type them, made into overrides that Hydra reads as they were meant.

Hydra's grammar gives characters that are common in paths a meaning of their own (``=``, ``,``, ``(``, ``~``, letters
with accents), and reads a list without brackets as several runs. Values of settings that are known to be paths, texts
or lists are quoted and put in brackets here; anything else that does not parse is answered with the quoted form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vla_cl.types import ConfigurationError

PATHS = (
    "output_dir",
    "cache_dir",
    "warm_start",
    "suite.assets",
    "checkpoint",
    "libero_assets",
    "peer_python",
    "output",
)
"""Settings that hold one path."""

PATH_LISTS = ("stream.datasets", "data.datasets")
"""Settings that hold paths."""

TEXTS = ("name", "tracking.project", "suite.instruction", "device")
"""Settings that hold free text."""

LISTS = (*PATH_LISTS, "plugins", "tracking.trackers", "stream.tasks", "tasks", "rows")
"""Settings that hold a list; a single item may be given without brackets."""

STRUCTURED = ("stream.experiences", "cameras")
"""Settings of lists and mappings inside each other; their texts need no quotes either."""

REMOVABLE = ("suite.", "method.", "policy.")
"""Where a key may be left out with ``~key``: the part then has its own default."""

_WHOLE_LISTS = {"stream.tasks": ("all",)}
_QUOTES = "'\""
_QUOTED_KEY = re.compile(r"""([{,]\s*)(['"])([\w.*/-]+)\2\s*:""")
_OPENING = {"[": "]", "{": "}"}


def readable(overrides: Sequence[str]) -> list[str]:
    """The overrides with paths, texts and lists quoted.

    Raises:
        ConfigurationError: One is not of the form ``key=value``, cannot be read, or names several values.
    """
    return [_readable(override) for override in overrides]


def split(override: str) -> tuple[str, str, str]:
    """Prefix (``+``, ``++``, ``~`` or nothing), key, and value as it was typed.

    Raises:
        ConfigurationError: There is no ``=``.
    """
    match = re.match(r"(\+\+|\+|~)?([^=]*)(=)?(.*)", override, re.DOTALL)
    assert match is not None  # the pattern matches any text
    prefix, key, equals, value = match.groups()
    if (not equals and prefix != "~") or not key.strip():
        raise ConfigurationError(f"expected key=value, for example method=er; got {override!r}")
    return prefix or "", key.strip(), value


def quoted(text: str) -> str:
    r"""A text as Hydra's grammar has it in quotes: ``'``, and backslashes before it or the end, get a backslash."""
    inner = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    trailing = len(inner) - len(inner.rstrip("\\"))
    return f"'{inner}{trailing * chr(92)}'"


def require_parsed(overrides: Sequence[str]) -> None:
    """Refuse what Hydra cannot read, or reads as several values.

    Raises:
        ConfigurationError: The message shows how to write it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for override in overrides:
        prefix, key, value = split(override)
        try:
            parsed = parser.parse_override(override)
        except HydraException as error:
            raise ConfigurationError(
                f"{override!r} cannot be read as a setting; {_advice(prefix, key, value)}"
            ) from error
        if parsed.is_sweep_override():
            raise ConfigurationError(_one_at_a_time(key, value))


def typed_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Of each key the value that was typed, as Hydra reads it; the last of several counts.

    Raises:
        ConfigurationError: One cannot be read, names several values, or adds or removes a key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = readable(overrides)
    require_parsed(typed)
    parser, found = OverridesParser.create(), {}
    for override in typed:
        prefix, key, _ = split(override)
        if prefix:
            raise ConfigurationError(f"{override!r} adds or removes a setting; only values can be given here")
        found[key] = parser.parse_override(override).value()
    return found


def _require_closed(override: str, prefix: str, key: str, value: str) -> None:
    if (closing := _unclosed(value)) and value.strip()[:1] in _OPENING:
        raise ConfigurationError(
            f"{override!r} cannot be read as a setting; a bracket is not closed; like this: "
            + _in_shell(f"{prefix}{key}={value}{closing}")
        )


def _advice(prefix: str, key: str, value: str) -> str:
    """How to write a value that Hydra cannot read."""
    if (closing := _unclosed(value)) and value.strip()[:1] in _OPENING:
        return "a bracket is not closed; like this: " + _in_shell(f"{prefix}{key}={value}{closing}")
    if (bare := _QUOTED_KEY.sub(r"\1\3:", value)) != value:
        return "keys inside braces are not quoted; like this: " + _in_shell(f"{prefix}{key}={bare}")
    if value.strip().startswith(("[", "{")) and key not in (*PATHS, *TEXTS, *PATH_LISTS):
        return "close every bracket, and quote each text inside that holds brackets, commas or colons: ['one', 'two']"
    shown = f'{prefix}{key}="{value}"' if '"' not in value else f"{prefix}{key}={quoted(value)}"
    return f"if the value is a text, quote it twice, like this: {_in_shell(shown)}"


def _one_at_a_time(key: str, value: str) -> str:
    values = " ".join(part.strip() for part in value.split(",")) if "(" not in value else "..."
    return (
        f"{key}={value} names several values, and one command is one run; use a loop of the shell, "
        f'`for value in {values}; do vla-cl ... {key}="$value"; done`, or brackets if {key} is a list: '
        f"{key}=[{value}]"
    )


def _readable(override: str) -> str:
    prefix, key, value = split(override)
    if prefix == "~":
        if not key.startswith(REMOVABLE):
            raise ConfigurationError(f"{key!r} cannot be left out of a run; give it a value instead, {key}=...")
        return override
    if key in LISTS:
        return f"{prefix}{key}={_list(key, value)}"
    if key in STRUCTURED:
        _require_closed(override, prefix, key, value)
        return f"{prefix}{key}={_structure(value)}"
    if key in (*PATHS, *TEXTS) and value.strip() not in ("null", ""):
        return f"{prefix}{key}={_text(value)}"
    return override


def _list(key: str, value: str) -> str:
    stripped = value.strip()
    if stripped in ("null", *_WHOLE_LISTS.get(key, ())) or stripped.startswith("{"):
        return value
    if stripped.startswith("[") and stripped.endswith("]"):
        items = _items(stripped[1:-1])
    else:  # a single path may contain commas
        items = [stripped] if key in PATH_LISTS else _items(stripped)
    return f"[{','.join(_text(item) for item in items)}]"


def _text(value: str) -> str:
    """In quotes, unless it is: a mapping or a list stay what they are, and are refused later by their type."""
    stripped = value.strip()
    if len(stripped) > 1 and stripped[0] in _QUOTES and stripped[-1] == stripped[0]:
        return stripped
    if re.fullmatch(r"\[.*\]|\{.*\}", stripped, re.DOTALL):
        return stripped
    return quoted(stripped)


def _structure(value: str) -> str:
    """Lists and mappings with the texts in them quoted; what Hydra reads as it is meant stays as it is."""
    stripped = value.strip()
    inner = stripped[1:-1]
    if stripped.startswith("[") and stripped.endswith("]"):
        return f"[{','.join(_structure(item) for item in _items(inner))}]"
    if stripped.startswith("{") and stripped.endswith("}"):
        pairs = [item.partition(":") for item in _items(inner)]
        if not all(colon for _, colon, _ in pairs):
            return stripped
        return f"{{{','.join(f'{name}:{_structure(item)}' for name, _, item in pairs)}}}"
    return stripped if re.fullmatch(r"[\w./-]*", stripped, re.ASCII) else _text(stripped)


def _items(text: str) -> list[str]:
    """Split at commas that are not in quotes or brackets."""
    items, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and not text[start:position].strip():
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _unclosed(text: str) -> str:
    """The brackets that would close those which are open at the end, outside of quotes; none if others close first."""
    closing, quote = "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            closing = _OPENING[character] + closing
        elif closing.startswith(character):
            closing = closing[1:]
        elif character in _OPENING.values():
            return ""
    return "" if quote else closing


def _in_shell(text: str) -> str:
    return f"'{text}'" if "'" not in text else f'"{text}"' if '"' not in text else text
