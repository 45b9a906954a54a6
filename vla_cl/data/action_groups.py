"""Which numbers of an action are positions, which rotations and which the gripper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vla_cl.types import ConfigurationError

Groups = Mapping[str, tuple[int, ...]]
"""Name of a group to the places of its numbers in an action."""

WHOLE = "action"
"""The one group of an action of which nothing is known."""

_GROUPS = {
    "gripper": r"grip(per)?|fingers?|claw",
    "rotation": r"roll|pitch|yaw|r[xyz]|rot(ation)?|q[xyzw]|quat(ernion)?|w|w[xyz]|axis_?angle|orientation|euler",
    "position": r"[xyz]|[dp][xyz]|v[xyz]|pos(ition)?|translation",
}
_BEFORE = r"(delta|target|goal|action|ee|eef|tcp|end_?effector|world|arm|left|right)"


def told_groups(size: int, names: Sequence[str] | None) -> Groups:
    """The groups that the names of an action's numbers tell.

    Where every number is named after an axis, a turn or a gripper, these are the groups. Where the names are those of
    joints, the group ``joint`` has all but the gripper. Otherwise one group holds the whole action.

    Args:
        size: Numbers of an action.
        names: Of each number; None where the datasets do not tell.
    """
    if names is None or len(names) != size:
        return {WHOLE: tuple(range(size))}
    kinds = [_kind(name) for name in _without_common_beginning(names)]
    if None not in kinds:
        order = ("position", "rotation", "gripper")
        found = {kind: tuple(place for place, one in enumerate(kinds) if one == kind) for kind in order}
        return {kind: places for kind, places in found.items() if places}
    gripper = tuple(place for place, kind in enumerate(kinds) if kind == "gripper")
    if not gripper or len(gripper) == size or any(_tells_an_axis(name) for name in names):
        return {WHOLE: tuple(range(size))}
    return {"joint": tuple(place for place in range(size) if place not in gripper), "gripper": gripper}


def chosen_groups(size: int, chosen: Mapping[str, Sequence[int]]) -> Groups:
    """The groups of the setting ``data.action_groups``.

    Raises:
        ConfigurationError: A place is not within an action, or is named twice.
    """
    found = {name: tuple(places) for name, places in chosen.items()}
    seen = [place for places in found.values() for place in places]
    wrong = next((place for place in seen if not 0 <= place < size or seen.count(place) > 1), None)
    if wrong is not None:
        why = "more than once" if 0 <= wrong < size else f"which an action of {size} numbers has not"
        raise ConfigurationError(
            f"data.action_groups names place {wrong}, {why}; give each place from 0 to {size - 1} at most once, as in "
            "{position: [0, 1, 2], gripper: [3]}"
        )
    return found


def _without_common_beginning(names: Sequence[str]) -> list[str]:
    """``gripper_x``, ``gripper_yaw``: that all have the hand's name does not make them numbers of its fingers."""
    split = [re.split(r"[\s._/\-]+", name, maxsplit=1) for name in names]
    common = len(names) > 1 and all(len(words) == 2 and words[0] == split[0][0] for words in split)
    common = common and re.fullmatch(_GROUPS["gripper"], split[0][0].lower()) is not None
    return [words[1] for words in split] if common else list(names)


def _kind(name: str) -> str | None:
    """The group of a name; None of a joint's, or of one that tells nothing."""
    words = [word for word in re.split(r"[\s._/\-]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) if word]
    words = [word for word in words if not re.fullmatch(_BEFORE, word)] or words
    for kind, pattern in _GROUPS.items():
        if any(re.fullmatch(pattern, word) for word in words) and (kind == "gripper" or _only_axes(words)):
            return kind
    return None


def _tells_an_axis(name: str) -> bool:
    """Whether a name ends with an axis, as that of a base or of a hand does, and no joint's."""
    return re.search(r"(^|[\s._/\-])[xyz]$", name.lower()) is not None


def _only_axes(words: Sequence[str]) -> bool:
    """Whether a name is that of an axis and nothing else: ``shoulder_pan.pos`` and ``wrist_roll`` are joints."""
    every = "|".join(_GROUPS[kind] for kind in ("rotation", "position"))
    return all(re.fullmatch(rf"{every}|[0-9]+", word) for word in words)
