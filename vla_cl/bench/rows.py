"""Rows of ``vla-cl bench``: what a result is made of, which rows of ``rollout`` there are, which ones a user means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vla_cl.types import ConfigurationError


class CannotRunError(Exception):
    """A row has nothing to measure here: assets or a suite are missing. The message is one sentence for the user."""


@dataclass(frozen=True)
class Ratio:
    """How many times better than the peer.

    Attributes:
        median: Of the turns.
        low: Lower end of the 95 % interval of that median.
        high: Its upper end.
        turns: How many pairs of measurements there were.
    """

    median: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True)
class Gate:
    """Whether both sides computed the same; if not, the ratio means nothing.

    Attributes:
        equal: What had to be equal.
        passed: Whether it was.
        detail: How much was compared, or the first difference.
    """

    equal: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Figure:
    """An absolute figure of one side."""

    who: str
    value: float
    unit: str


@dataclass(frozen=True)
class Result:
    """What a row found.

    Attributes:
        compares: What was measured against what, for people.
        gate: None where the two sides cannot be equal (pictures of two looks).
        ratio: None where there is no peer.
        figures: Absolute figures: ours first, then the peer's, then whatever else is worth knowing.
        holds: Whether the goal is reached; None where there is none.
        profile: Where the time goes: part to words.
        others: Ratios to further settings of the peer.
        notes: What a reader should know about the circumstances.
    """

    compares: str
    gate: Gate | None
    ratio: Ratio | None
    figures: Sequence[Figure]
    holds: bool | None
    profile: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Ratio] = field(default_factory=dict)
    notes: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data; a failed gate voids every ratio."""
        content = asdict(self)
        if self.gate is not None and not self.gate.passed:
            content |= {"ratio": None, "others": {}, "holds": False}
        return content


@dataclass(frozen=True)
class RowSettings:
    """What a row may be told.

    Attributes:
        name: Of the row.
        quick: Tiny size, to test the machinery.
        checkpoint: A LeRobot policy folder, or None for one made on the spot.
        libero_assets: Folder of LIBERO's assets, or None for what hf-libero finds.
        peer_python: A Python that has avalanche-lib, or None where there is none.
        workspace: A folder that the row may fill.
    """

    name: str
    quick: bool
    checkpoint: Path | None
    libero_assets: Path | None
    peer_python: Path | None
    workspace: Path


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        goal: For people, as short as it can be.
        measure: Import string of a function from `RowSettings` to `Result`.
        cores: ``one`` keeps every thread pool of the row's process at one thread; ``all`` leaves the defaults.
        minutes: Expected on two quiet cores in full size.
    """

    goal: str
    measure: str
    cores: Literal["one", "all"]
    minutes: float


ROWS: Mapping[str, Row] = {
    "metaworld-10": Row(">= 10x", "vla_cl.bench.evaluations:metaworld_10", "all", 3.5),
    "metaworld-50": Row(">= 30x", "vla_cl.bench.evaluations:metaworld_50", "all", 5),
    "metaworld-1": Row(">= 1.3x", "vla_cl.bench.evaluations:metaworld_1", "all", 3),
    "libero-10": Row(">= 6x hard, 4x soft", "vla_cl.bench.evaluations:libero_10", "all", 3),
    "libero-reset": Row(">= 7x", "vla_cl.bench.resets:libero_reset", "one", 1),
    "robosuite-reset": Row(">= 7x", "vla_cl.bench.resets:robosuite_reset", "one", 0.7),
    "metaworld-state": Row(">= 4x", "vla_cl.bench.stepping:metaworld_state", "one", 0.4),
    "robosuite-step": Row(">= 3x", "vla_cl.bench.stepping:robosuite_step", "one", 0.8),
    "early-end": Row("<= 1.02x", "vla_cl.bench.episodes:early_end", "all", 0.1),
    "fast-profile-metaworld": Row(">= 9x", "vla_cl.bench.pictures:metaworld", "one", 0.3),
    "fast-profile-robosuite": Row(">= 6x", "vla_cl.bench.pictures:robosuite", "one", 0.3),
    "fast-profile-libero": Row(">= 6x", "vla_cl.bench.pictures:libero", "one", 0.4),
    "layouts": Row("0 rows differ", "vla_cl.bench.episodes:layouts", "one", 3),
    "faults": Row("0 rows differ, found in 2 s, no leak", "vla_cl.bench.faults:faults", "all", 1.5),
    "memory-metaworld": Row("<= 1/5", "vla_cl.bench.memory:metaworld", "one", 0.8),
    "memory-robosuite": Row("measured", "vla_cl.bench.memory:robosuite", "one", 0.2),
    "memory-libero": Row("<= 1/5", "vla_cl.bench.memory:libero", "one", 1),
}


def chosen(names: Sequence[str] | str | None, rows: Mapping[str, Row] = ROWS) -> list[str]:
    """The rows that names or beginnings of names stand for, in the table's order.

    Raises:
        ConfigurationError: Nothing begins so.
    """
    if names is None:
        return list(rows)
    wanted = [names] if isinstance(names, str) else list(names)
    found: set[str] = set()
    for name in wanted:
        matches = {name} if name in rows else {row for row in rows if row.startswith(name)}
        if not matches or not name:
            raise ConfigurationError(f"bench has no row {name!r}; there are {', '.join(rows)}")
        found |= matches
    return [row for row in rows if row in found]
