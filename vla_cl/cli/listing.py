"""``vla-cl list``: what can be chosen, a line each, from the first sentence of each yaml."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from vla_cl.config.compose import choices, leading_comment
from vla_cl.trust.text import harmless

GROUPS = {
    "streams": "stream",
    "suites": "suite",
    "policies": "policy",
    "methods": "method",
    "families": "family",
    "experiments": "experiment",
}
"""What can be listed, and the setting that chooses it."""

_NARROWEST = 60
_SENTENCE = re.compile(r"(?<!et al)(?<!\be\.g)\.(?:\s|$)")


def listed(what: str, folders: Sequence[Path] = ()) -> list[dict[str, str]]:
    """Every choice, its ``name`` and what it is ``about``.

    Args:
        what: One of `GROUPS`.
        folders: Further folders laid out like ``conf/``.
    """
    group = GROUPS[what]
    return [
        {"name": name, "about": harmless(first_sentence(leading_comment(group, name, folders)), 1000)}
        for name in choices(group, folders)
    ]


def listing(what: str, folders: Sequence[Path] = ()) -> str:
    """The same in lines, for a terminal."""
    group = GROUPS[what]
    found = {entry["name"]: entry["about"] for entry in listed(what, folders)}
    widest = max(map(len, found))
    width = max(shutil.get_terminal_size((110, 24)).columns, widest + _NARROWEST)
    lines = [
        textwrap.fill(
            about,
            width,
            initial_indent=f"{name:<{widest}}  ",
            subsequent_indent=" " * (widest + 2),
            break_long_words=False,
        )
        for name, about in found.items()
    ]
    how = "chosen by the stream: vla-cl train stream=bed_language"
    if group != "family":
        how = f"chosen by {group}=NAME: vla-cl train {group}={next(iter(found))}"
    return "\n".join([*lines, "", how])


def first_sentence(comment: str) -> str:
    """Up to the first full stop that ends a sentence."""
    return _SENTENCE.split(comment, maxsplit=1)[0].strip() or "-"
