"""What suites look up: the first initial states of a split, and a task by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from vla_cl.types import ConfigurationError, Split

SEEDS: Mapping[Split, range] = {
    "train": range(100_000, 200_000),
    "select": range(200_000, 300_000),
    "report": range(1_000, 100_000),
}
"""Seeds as initial states, for suites that store none; ``lerobot-eval``'s first is 1000."""


def first_states(splits: Mapping[Split, range], split: Split, count: int, suite: str, where: str = "") -> range:
    """The first ``count`` initial states of a split.

    Args:
        splits: The states of each split; no two splits share one.
        split: Which.
        count: How many; may be 0.
        suite: What the message calls the suite.
        where: What the message says behind the split.

    Raises:
        ConfigurationError: There is no such split, or ``count`` is negative or larger than the split.
    """
    if split not in splits:
        raise ConfigurationError(f"split is one of {', '.join(splits)}, got {split!r}")
    available = splits[split]
    if not 0 <= count <= len(available):
        raise ConfigurationError(
            f"{suite} has 0 to {len(available)} initial states in split {split!r}{where}, asked for {count}"
        )
    return available[:count]


def unknown_task(
    suite: str, name: str, guess: str, known: Sequence[str], cutoff: float = 0.6, shown: int | None = None
) -> ConfigurationError:
    """The error for a task that a suite lacks; names the nearest, else those there are.

    Args:
        suite: Its name.
        name: What the user wrote.
        guess: The same in the suite's way of writing names.
        known: The suite's names.
        cutoff: How near a name must be, from 0 to 1 (see `difflib.get_close_matches`).
        shown: How many names to list where none is near; None for all.
    """
    near = difflib.get_close_matches(guess, known, n=3, cutoff=cutoff)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(known[:shown])}"
    return ConfigurationError(f"suite {suite!r} has no task {name!r}; {hint}")
