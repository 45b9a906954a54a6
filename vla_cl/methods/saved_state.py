"""What a method's saved state must be like before it is taken over: names, shapes, types and ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from vla_cl.methods.checked_settings import MAX_COUNT

TASKS_LEARNT = "tasks_learnt"
"""Key of the number of tasks that a method has learnt."""

_SHOWN = 5


def require_keys(method: str, extra: Mapping[str, object], keys: Collection[str]) -> None:
    """Refuse a state whose plain data has other keys.

    Args:
        method: What the sentence calls the method.
        extra: As `vla_cl.interfaces.Method.extra_state` gives it.
        keys: That it must have, all and no others.

    Raises:
        ValueError: It has others.
    """
    if extra.keys() != set(keys):
        raise ValueError(f"{method} keeps {_listed(keys)}, but the checkpoint holds {_listed(extra)}")


def whole_number(name: str, value: object, low: int = 0, high: int = MAX_COUNT) -> int:
    """A number of the plain data.

    Raises:
        ValueError: It is no whole number in ``low..high``.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{name} must be a whole number between {low} and {high:g}; the checkpoint holds {str(value)[:40]!r}"
        )
    return value


def lists_of_texts(name: str, value: object) -> list[list[str]]:
    """A list of lists of the plain data, such as the ids of the tasks of each experience.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise ValueError(f"{name} must hold lists of texts; the checkpoint holds {str(value)[:40]!r}")
    if not all(isinstance(text, str) for part in value for text in part):
        raise ValueError(f"{name} must hold texts; the checkpoint holds {str(value)[:40]!r}")
    return [list(part) for part in value]


def require_alike(method: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors with other names, shapes or types than these.

    Args:
        method: What the sentence calls the method.
        state: As `vla_cl.interfaces.Method.state_dict` gives it.
        expected: Name to a tensor of the shape and type that is due; its values are not looked at.

    Raises:
        ValueError: One is missing, unknown, or of another shape or type.
    """
    if state.keys() != expected.keys():
        missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
        raise ValueError(f"{method}'s checkpoint lacks {_listed(missing)} and holds the unknown {_listed(unknown)}")
    for name, tensor in state.items():
        due = expected[name]
        if (tensor.shape, tensor.dtype) != (due.shape, due.dtype):
            raise ValueError(
                f"{name} must be {due.dtype} of shape {tuple(due.shape)}; the checkpoint holds {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )


def require_finite_state(state: Mapping[str, Tensor]) -> None:
    """Refuse tensors with an entry that is infinite or not a number.

    Raises:
        ValueError: There is one.
    """
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds entries that are not finite")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN]) or "nothing"
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
