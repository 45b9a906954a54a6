"""What the parameters of a network are for, from patterns of their names: which give the output, which come first."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from vla_cl.types import ConfigurationError, Roles

LAST = "<last>"
"""In a pattern: the greatest number that stands there."""

_DEPTH = 2  # numbers in a pattern, at most


@dataclass(frozen=True)
class RolePatterns:
    """The roles of a kind of network.

    Patterns are those of a shell over whole names of parameters; ``#`` is a number, `LAST` the greatest one.

    Attributes:
        forward: Stages in the order of the forward pass. A stage of several patterns runs through its numbers, and for
            each of them through its patterns; one with fewer numbers than its neighbours comes before them if it stands
            before them, else after them. What one pattern matches under the same numbers stays in the order of
            registration. A parameter belongs to the first pattern that matches it.
        outputs: Of the layers that give the final output.
        idle: Of what does not influence the actions; see `vla_cl.interfaces.Roles`.
    """

    forward: tuple[str | tuple[str, ...], ...]
    outputs: tuple[str, ...]
    idle: tuple[str, ...] = ()

    def told_of(self, module: nn.Module, owner: str) -> Roles:
        """The roles of the parameters of one network.

        Args:
            module: The network.
            owner: What messages call it.

        Raises:
            ConfigurationError: A parameter belongs to no stage, or nothing gives the output.
        """
        names = [name for name, _ in module.named_parameters()]
        outputs = frozenset(_matching(self.outputs, names))
        if not outputs:
            raise ConfigurationError(_unknown(owner, "which layer gives its output"))
        return Roles(in_order(names, self.forward, owner), outputs, frozenset(_matching(self.idle, names)))


def in_order(names: Sequence[str], stages: Iterable[str | tuple[str, ...]], owner: str) -> tuple[str, ...]:
    """The names by stage, then by number, then by pattern, then as they come.

    Raises:
        ConfigurationError: A name belongs to no stage.
    """
    places = [place for stage, group in enumerate(stages) for place in _places(stage, group)]

    def key(name: str) -> tuple[float, ...]:
        for stage, number, missing, pattern in places:
            if found := pattern.match(name):
                numbers = [float(part) for part in found.groups()] + [missing] * (_DEPTH - len(found.groups()))
                return stage, *numbers, number
        raise ConfigurationError(_unknown(owner, f"where {name!r} stands in its forward pass"))

    return tuple(sorted(names, key=key))


def _places(stage: int, group: str | tuple[str, ...]) -> list[tuple[int, int, float, re.Pattern[str]]]:
    """Of each pattern of a stage: the stage, its place there, what stands for numbers it lacks, what it matches."""
    group = (group,) if isinstance(group, str) else group
    most = max(pattern.count("#") for pattern in group)
    first = next(place for place, pattern in enumerate(group) if pattern.count("#") == most)
    return [
        (stage, place, -math.inf if place < first else math.inf, _compiled(pattern))
        for place, pattern in enumerate(group)
    ]


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern).replace(r"\#", r"(\d+)"))


def _matching(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that match a pattern."""
    found: list[str] = []
    for pattern in patterns:
        whole = _compiled(pattern.replace(LAST, "#"))
        matches = {name: match.groups() for name in names if (match := whole.match(name))}
        if LAST in pattern:
            last = max((int(numbers[0]) for numbers in matches.values()), default=0)
            matches = {name: numbers for name, numbers in matches.items() if int(numbers[0]) == last}
        found += matches
    return found


def _unknown(owner: str, what: str) -> str:
    return (
        f"{owner} does not tell {what}; name the parameters that the method is about by patterns (method.slow of slca, "
        "method.frozen of layer_freezing), or choose a setting that does not ask (method.output=split of osft)"
    )
