"""The policy that a run was asked to train, looked into but not yet made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vla_cl.types import ConfigurationError


@dataclass(frozen=True)
class PolicySettings:
    """Which policy a run trains, and where its first weights and its normalisation come from.

    Attributes:
        kind: LeRobot's registered name.
        fields: Of its configuration class.
        warm_start: A LeRobot checkpoint (folder or hub name), or None for fresh weights.
        normalisation: ``first_task`` or ``checkpoint``.
        device: Torch device.
        passed_over: A sentence for each damaged checkpoint of the warm start's run that is newer than it.
        chunk: Actions that a sample's target has.
        histories: Whether a sample observes a window of frames, even of one.
        any_size: Whether it brings pictures of any size to its own.
        notes: What somebody should know before it is trained.
        network: LeRobot's policy without weights, on torch's ``meta`` device; None for types that cannot be built so.
    """

    kind: str
    fields: Mapping[str, Any]
    warm_start: str | None
    normalisation: str
    device: str
    passed_over: tuple[str, ...] = ()
    chunk: int = 1
    histories: bool = False
    any_size: bool = True
    notes: tuple[str, ...] = ()
    network: Any = field(default=None, repr=False, compare=False)


def choose_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one.

    Raises:
        ConfigurationError: A GPU was asked for and there is none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"device={name} was asked for, but torch sees no GPU; use device=cpu or device=auto")
    return name
