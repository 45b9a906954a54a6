"""What a policy will be able to do, told before its weights are made or loaded."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from lerobot.policies.factory import get_policy_class

from vla_cl.models.policy_config import register_own_policies
from vla_cl.models.stored_policy import noted_conventions
from vla_cl.types import Ability, InterfaceSpec

_ABILITIES = {
    "features": {Ability.FEATURES},
    "forward_pass": {Ability.OUTPUTS},
    "modalities": {Ability.MODALITIES},
    "draw": {Ability.KEYED_DRAWS},
    "fixed_outputs": {Ability.FIXED_OUTPUTS},
}


def possible_abilities(kind: str) -> frozenset[Ability]:
    """What a policy of this type may have. One that depends on its settings counts: `Method.attach` looks again."""
    register_own_policies()
    chosen = get_policy_class(kind)
    found = {ability for name, given in _ABILITIES.items() if name in dir(chosen) for ability in given}
    if "reduction" in inspect.signature(chosen.forward).parameters:
        found.add(Ability.PER_SAMPLE_LOSSES)
    return frozenset(found)


def warm_spec(folder: Path, data: InterfaceSpec) -> InterfaceSpec:
    """The data's sizes and rate with what a checkpoint notes of its conventions; what it does not say is the data's.

    Raises:
        ConfigurationError: The note cannot be read.
    """
    known: dict[str, Any] = {name: value for name, value in noted_conventions(folder).items() if value is not None}
    known.pop("fps", None)
    return replace(data, **known)
