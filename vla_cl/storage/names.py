"""Names made of texts: readable, of any script, and never the same for two texts."""

from __future__ import annotations

import hashlib
import re
import unicodedata

SLUG_BYTES = 60
"""Longest slug; a letter of some scripts has four bytes."""

NAME_BYTES = 120
"""Longest part of a file name that is made of a task's name; the rest of the 255 bytes is for numbers and endings."""

VIDEOS = "videos"
"""The folder of filmed episodes, in a run and in an evaluation."""

NOTES = "memory.notes"
"""Key of a memory's index beside the experiences' names: what else a memory must know of them."""

REUSED = "memory.reused"
"""Under which name a memory keeps what another run remembered."""

RESERVED = frozenset((NOTES, REUSED))
"""What no experience may be called, since a memory's index has it beside the experiences' names."""

_KEPT = "LMN"  # Unicode's categories of letters, the marks on them, and numbers


def slug(text: str) -> str:
    """Letters and numbers of every script, lower case, everything else a hyphen; at most `SLUG_BYTES` bytes.

    Different texts may give one slug: an identity needs `short_hash` too.
    """
    kept = "".join(c if unicodedata.category(c)[0] in _KEPT else " " for c in unicodedata.normalize("NFC", text))
    joined = "-".join(kept.lower().split())
    cut = joined.encode("utf-8", "ignore")[:SLUG_BYTES].decode("utf-8", "ignore")
    return cut.strip("-") or "task"


def short_hash(*parts: str) -> str:
    """Twelve hexadecimal digits of the texts, code point by code point."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:12]


def readable_id(text: str, *more: str) -> str:
    """A slug of the text and a hash of it (and of what else tells it apart): ``lift-the-cube-3f2a9c1bd0e4``."""
    return f"{slug(text)}-{short_hash(text, *more)}"


def task_name(task: str) -> str:
    """What tables and figures call a task: its id without the suite, of `readable_id` four of the twelve digits."""
    suite, _, name = task.partition("/")
    return re.sub(r"(-[0-9a-f]{4})[0-9a-f]{8}$", r"\1", name) if suite == "datasets" else name or suite


def file_name(name: str) -> str:
    """The name itself where it may be a file's on every system and is short; else a slug and a hash of it."""
    plain = all(unicodedata.category(c)[0] in _KEPT or c in "-_." for c in name)
    if name and plain and name[0] not in "-." and len(name.encode()) <= NAME_BYTES:
        return name
    return readable_id(name)
