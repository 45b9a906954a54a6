"""Turns, ratios and their intervals."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vla_cl.bench.rows import Ratio

_RESAMPLES = 10_000


def take_turns(sides: Mapping[str, Callable[[int], float]], turns: int) -> dict[str, list[float]]:
    """Measure A-B-A-B, so that whatever else the machine does meets both sides.

    Args:
        sides: Name to a function that takes the turn's number and gives a figure (seconds, as a rule).
        turns: How often each side is measured.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name, measure in sides.items():
            figure = measure(turn)
            figures[name].append(figure)
            say(f"turn {turn + 1} of {turns}, {name}: {figure:.4g} s")
    return figures


def ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """How many times less we take than the peer: median of the turns' ratios, and the median's 95 % interval.

    The interval resamples the turns (bootstrap). With very few turns it is no wider than their range.
    """
    ratios = np.array([theirs / mine for mine, theirs in zip(ours, peer, strict=True)])
    draws = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(round(statistics.median(ratios.tolist()), 3), round(float(low), 3), round(float(high), 3), len(ratios))


def shares(seconds: Mapping[str, float], whole: float) -> dict[str, str]:
    """Parts of a whole in words: ``12.3 ms (45 %)``; what is missing to the whole is called the rest."""
    parts = {name: value for name, value in seconds.items() if value > 0}
    rest = whole - sum(parts.values())
    if rest > 0.01 * whole:
        parts["the rest"] = rest
    return {name: f"{readable(value)} ({value / whole:.0%})" for name, value in parts.items()}


def readable(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def say(text: str) -> None:
    """Progress, on the terminal."""
    print(f"    {text}", file=sys.stderr, flush=True)
