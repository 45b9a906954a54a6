"""The nearest name to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

_LISTED = 12
_OFFERED = 3
_SHORTEST_WORD = 3
_SYNONYMS = {"lr": "learning_rate", "bs": "batch_size", "seed": "train_seed", "log": "tracking", "output": "output_dir"}


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: the likeliest ones, else those there are."""
    close = _by_synonym(name, known) or difflib.get_close_matches(name, known, n=_OFFERED, cutoff=0.5)
    if close:
        return did_you_mean(close)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"known: {', '.join(known[:_LISTED])}{more}"


def nearest_titled(name: str, titles: Mapping[str, str]) -> str:
    """As `nearest`, of names with titles: a word of a title counts as well.

    Args:
        name: What was typed.
        titles: Of each known name, what it is in words.
    """
    wanted = name.lower().replace("_", " ").replace("-", " ")
    by_title = [known for known, title in titles.items() if len(wanted) >= _SHORTEST_WORD and wanted in title.lower()]
    by_title.sort(key=lambda known: (len(known), known))
    close = difflib.get_close_matches(name, list(titles), n=_OFFERED, cutoff=0.6)
    found = [*close, *by_title] if close and close[0].startswith(name[:1]) else [*by_title, *close]
    return did_you_mean(found) if found else nearest(name, list(titles))


def did_you_mean(names: Sequence[str]) -> str:
    """The question, of at most three names."""
    offered = list(dict.fromkeys(names))[:_OFFERED]
    return f"did you mean {' or '.join(repr(item) for item in offered)}?"


def _by_synonym(name: str, known: Sequence[str]) -> list[str]:
    """Known dotted names whose last part is the synonym of, or is abbreviated by, that of ``name``."""
    group, _, last = name.rpartition(".")
    found = []
    for item in known:
        item_group, _, item_last = item.rpartition(".")
        initials = "".join(word[:1] for word in item_last.split("_"))
        if item_last == _SYNONYMS.get(last) or (len(last) > 1 and last == initials):
            found.append((item_group != group, item))
    return [item for _, item in sorted(found)]
