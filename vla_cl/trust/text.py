"""Text of others, shown to people."""

from __future__ import annotations

import unicodedata


def harmless(text: str, most: int = 200) -> str:
    """Text for a terminal or a page: one line, without control and direction characters, at most ``most`` long."""
    shown = "".join(_shown(character) for character in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _shown(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return " " if character in "\n\t\r" else f"\\x{ord(character):02x}"
    return character
