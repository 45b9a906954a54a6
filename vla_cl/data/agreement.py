"""Can one policy learn from these datasets? One rule, for a whole stream beforehand and for the data of an experience.

What a dataset does not say of its conventions is compatible with anything; what another one says of them then counts.
Each dataset is compared with all that is known so far, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vla_cl.data.cameras import listed
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, InterfaceSpec

CONVENTIONS = {
    "control_mode": "control mode",
    "image_orientation": "image orientation",
    "render_profile": "render profile",
}
"""Fields of `InterfaceSpec` that a dataset may leave open, and their names in a message."""


SAME_RATE = 0.01
"""Relative difference of two rates that count as one: 29.97 and 30."""


def same_rate(one: float, other: float) -> bool:
    """Whether movements at these rates (frames per second) have one speed, as far as anybody can tell."""
    return abs(one / other - 1) <= SAME_RATE


@dataclass(frozen=True)
class Described:
    """A dataset, and what it holds.

    Attributes:
        shown: The dataset in a message.
        spec: Its cameras (chosen and renamed), sizes, rate and conventions.
    """

    shown: str
    spec: InterfaceSpec


def agreed(datasets: Sequence[Described], check_fps: bool = True) -> InterfaceSpec:
    """What all datasets hold together: the first one's spec, completed by what others know of its conventions.

    Args:
        datasets: At least one.
        check_fps: Also compare frames per second; otherwise none is known where they differ.

    Raises:
        ConfigurationError: Cameras, sizes, rates or conventions differ; both datasets are named.
    """
    first = datasets[0]
    known: dict[str, tuple[object, str]] = {}
    for dataset in datasets:
        _require_same_cameras(first, dataset)
        for what, value in _compared(dataset.spec, check_fps).items():
            if value is None:
                continue
            before, whose = known.setdefault(what, (value, dataset.shown))
            if before != value:
                raise ConfigurationError(
                    f"all datasets of a stream need the same {what}: {whose} has {_shown(before)}, {dataset.shown} has "
                    f"{_shown(value)}; {_remedy(what)}"
                )
    completed: dict[str, Any] = {name: known[what][0] for name, what in CONVENTIONS.items() if what in known}
    if len({dataset.spec.fps for dataset in datasets}) > 1:
        completed["fps"] = None  # of two rates, none is that of what is learnt
    return replace(first.spec, **completed)


def _require_same_cameras(first: Described, other: Described) -> None:
    names = first.spec.cameras.keys(), other.spec.cameras.keys()
    if names[0] != names[1]:
        raise ConfigurationError(
            f"all datasets of a stream need the same cameras: {first.shown} has {_only(*names)}, {other.shown} has "
            f"{_only(*names[::-1])}; choose or rename with cameras={{new: old}}"
        )


def _compared(spec: InterfaceSpec, check_fps: bool) -> Mapping[str, object]:
    found: dict[str, object] = {
        f"picture size of {harmless(camera, 40)}": f"{height} x {width}"
        for camera, (height, width) in spec.cameras.items()
    }
    found |= {"state size": spec.state_size, "action size": spec.action_size}
    found |= {what: getattr(spec, name) for name, what in CONVENTIONS.items()}
    return found | ({"rate (fps)": spec.fps} if check_fps else {})


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else harmless(str(value), 30)


def _only(these: Iterable[str], others: Iterable[str]) -> str:
    """The cameras that only one side has, which is where the difference lies."""
    return listed(set(these) - set(others), 50)


def _remedy(what: str) -> str:
    if what == "rate (fps)":
        return "use data of one rate, or data.check_fps=false to accept it"
    return "leave one out, or learn them in another run"
