"""Text of others in Markdown: a name stays in its cell of a table, and is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vla_cl.trust.text import harmless

_LONGEST = 10_000


def code(text: str) -> str:
    """A text in code font, whatever it holds: one harmless line between more backticks than follow one another in it.

    In a row of a table it still needs `row`, which hides its bars.
    """
    text = harmless(text, _LONGEST)
    if not text:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # a space at each end is taken off again, unless there is nothing else
    room = " " if "`" in (text[0], text[-1]) or (text[0] == text[-1] == " " and text.strip()) else ""
    return f"{fence}{room}{text}{room}{fence}"


def row(cells: Sequence[str]) -> str:
    """A row of a table; no cell ends early or begins another line."""
    return f"| {' | '.join(harmless(cell, 2 * _LONGEST).replace('|', '\\|') for cell in cells)} |"
