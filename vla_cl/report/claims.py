"""What a sentence of the report claims, apart from its words: a test checks each claim against the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

MAX_NAMES = 4
"""Longer lists are cut with "and 3 more"."""


@dataclass(frozen=True)
class Shown:
    """A figure: its value, and how the sentence writes it."""

    value: float
    text: str


Fact = str | int | Shown | tuple["Fact", ...] | Markup
"""A name, a number of things, a figure, or several of them."""


@dataclass(frozen=True)
class Claim:
    """A sentence, or a part of one, that stands for facts.

    Attributes:
        kind: What it says: ``learnt``, ``end``, ``lost``, ``forgot``, ... (`vla_cl.report.lead` lists them).
        of: Label of the group of runs that it speaks of; several are joined by a line break.
        facts: All that it says, by name; the text holds no other number.
        text: In words.
    """

    kind: str
    of: str
    facts: Mapping[str, Fact]
    text: Markup


def claim(kind: str, of: str, words: str, **facts: Fact) -> Claim:
    """A claim whose text is ``words`` with its facts put in.

    Args:
        kind: As in `Claim`.
        of: As in `Claim`.
        words: With the names of facts in braces; a list of facts is written with commas and "and".
        facts: Also those that the words do not use, which a test may want to look at.
    """
    return Claim(kind, of, facts, Markup(words).format(**{name: _written(fact) for name, fact in facts.items()}))


def listing(items: Sequence[Markup]) -> Markup:
    """``a, b and c``; beyond `MAX_NAMES` ``a, b, c, d and 3 more``."""
    if len(items) > MAX_NAMES + 1:  # "and 1 more" would be no shorter
        shown = Markup(", ").join(items[:MAX_NAMES])
        return Markup("{} and {} more").format(shown, len(items) - MAX_NAMES)
    if not items:
        return Markup("")
    return items[0] if len(items) == 1 else Markup("{} and {}").format(Markup(", ").join(items[:-1]), items[-1])


def _written(fact: Fact) -> Markup:
    if isinstance(fact, Shown):
        return escape(fact.text)
    if isinstance(fact, tuple):
        return listing([_written(item) for item in fact])
    return escape(fact)
