"""The setting ``cameras``: which cameras of a dataset or a suite a policy sees, and under which names.

``cameras={new: old}`` as LeRobot's ``rename_map`` turned round, ``cameras=[old, ...]`` to choose without renaming.
A short name ``top`` stands for ``observation.images.top`` or ``observation.top``, where such a camera exists. Several
old names (``{top: [camera1, cam_high]}``) are alternatives, for datasets that call the same camera differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

PREFIXES = ("", "observation.images.", "observation.")

Pairs = tuple[tuple[str, str], ...]
"""What a camera is called by the policy, and what the dataset or the suite calls it."""


@dataclass(frozen=True)
class Camera:
    """One entry of the setting.

    Attributes:
        new: The policy's name for it; None keeps the name.
        old: Names of the dataset's or the suite's camera, of which exactly one must exist.
    """

    new: str | None
    old: tuple[str, ...]


def parse_cameras(setting: object) -> tuple[Camera, ...]:
    """The setting ``cameras``, checked; empty (``null``) for all cameras by their own names.

    Raises:
        ConfigurationError: It is neither a mapping nor a list of names.
    """
    if setting is None:
        return ()
    if isinstance(setting, Mapping):
        found = [Camera(_name(new), _alternatives(old)) for new, old in setting.items()]
    elif isinstance(setting, str):
        found = [Camera(None, (_name(setting),))]
    elif isinstance(setting, Sequence):
        found = [Camera(None, (_name(old),)) for old in setting]
    else:
        raise _wrong(setting)
    if not found:
        raise ConfigurationError("cameras is empty; leave it out for all cameras, or name at least one")
    return tuple(found)


def chosen_cameras(
    wanted: Sequence[Camera], offered: Iterable[str], who: str, expected: Iterable[str] = ()
) -> Pairs | None:
    """The cameras of one dataset or suite under the policy's names.

    Args:
        wanted: As of `parse_cameras`.
        offered: Cameras of the dataset or the suite.
        who: Whose they are, for the message: ``the dataset /a/b``.
        expected: Cameras that the policy or the suite knows, which short new names may stand for.

    Returns:
        Pairs of the new and the old key; None if nothing is chosen or renamed.

    Raises:
        ConfigurationError: A camera does not exist, two alternatives exist, or two cameras get one name.
    """
    if not wanted:
        return None
    offered, expected = list(offered), list(expected)
    pairs: list[tuple[str, str]] = []
    for camera in wanted:
        old = _the_one(camera, offered, who)
        new = old if camera.new is None else resolved(camera.new, expected) or _long(camera.new)
        if new in dict(pairs):
            raise ConfigurationError(f"cameras gives the name {new!r} to two cameras; give each its own")
        pairs.append((new, old))
    return tuple(pairs)


def suite_cameras(
    wanted: Sequence[Camera], offered: Iterable[str], who: str, expected: Iterable[str] = ()
) -> Pairs | None:
    """The same for a suite, whose cameras may also have the policy's names already.

    Raises:
        ConfigurationError: It has a camera neither by its old nor by its new name, or as of `chosen_cameras`.
    """
    offered, expected = list(offered), tuple(expected)
    entries = []
    for camera in wanted:
        here = any(resolved(name, offered) for name in camera.old)
        new = camera.new and (resolved(camera.new, expected) or _long(camera.new))
        entries.append(Camera(new, (new,)) if new and not here and new in offered else camera)
    return chosen_cameras(entries, offered, who, expected)


def resolved(name: str, offered: Iterable[str]) -> str | None:
    """The camera that a short or whole name stands for; None if there is none."""
    known = set(offered)
    return next((key for prefix in PREFIXES if (key := f"{prefix}{name}") in known), None)


def listed(cameras: Iterable[str], most: int = 120) -> str:
    """Camera names for a message."""
    return harmless(", ".join(map(repr, sorted(cameras))), most) or "none"


def _the_one(camera: Camera, offered: Sequence[str], who: str) -> str:
    found = [key for name in camera.old if (key := resolved(name, offered)) is not None]
    if not found:
        names = " or ".join(harmless(name, 40) for name in camera.old)
        raise ConfigurationError(f"{who} has no camera {names}; it has {listed(offered)}; name one of these in cameras")
    if len(set(found)) > 1:
        raise ConfigurationError(f"{who} has both {found[0]} and {found[1]}, so cameras is ambiguous; name one of them")
    return found[0]


def _alternatives(old: object) -> tuple[str, ...]:
    if isinstance(old, Sequence) and not isinstance(old, str) and old:
        return tuple(_name(item) for item in old)
    return (_name(old),)


def _name(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch(r"[^\s/\\]+", str(value)):
        raise _wrong(value)
    return str(value)


def _long(name: str) -> str:
    return name if name.startswith("observation.") else f"observation.images.{name}"


def _wrong(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"cameras must be {{new: old, ...}} or [old, ...] with names of cameras; got {harmless(repr(value), 60)}"
    )
