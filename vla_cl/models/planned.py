"""What a policy will be able to do, told before its weights are made or loaded."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy

from vla_cl.interfaces import GivesFeatures, GivesKeyedDraws, GivesModalities, GivesOutputs
from vla_cl.models.policy_config import register_own_policies
from vla_cl.models.stored_policy import noted_conventions
from vla_cl.types import Ability, InterfaceSpec

_DECLARATIONS: dict[type, frozenset[Ability]] = {
    GivesOutputs: frozenset({Ability.OUTPUTS, Ability.FIXED_OUTPUTS}),
    GivesModalities: frozenset({Ability.MODALITIES}),
    GivesKeyedDraws: frozenset({Ability.KEYED_DRAWS}),
    GivesFeatures: frozenset({Ability.FEATURES}),
}


def possible_abilities(kind: str) -> frozenset[Ability]:
    """What a policy of this type may have. One that depends on its settings counts: `Method.attach` looks again."""
    register_own_policies()
    return declared_abilities(get_policy_class(kind))


def declared_abilities(policy_class: type[PreTrainedPolicy]) -> frozenset[Ability]:
    """What a policy's class declares, with that which depends on settings; LeRobot's own say ``reduction`` only."""
    found = {a for declaration, given in _DECLARATIONS.items() if issubclass(policy_class, declaration) for a in given}
    if "reduction" in inspect.signature(policy_class.forward).parameters:
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
