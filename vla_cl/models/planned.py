"""What a policy will be, told before its weights are made or loaded: sizes, chunks, abilities."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import get_policy_class

from vla_cl.models.vla import CONVENTIONS, EXECUTED_PART_ONLY, NOTE, horizon, policy_config, register_own_policies
from vla_cl.trust.policies import check_policy_folder
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.text import reason, short
from vla_cl.types import Ability, ConfigurationError, InterfaceSpec

_REMEDY = "give the pretrained_model folder of a checkpoint, or another LeRobot policy"


@dataclass(frozen=True)
class PlannedPolicy:
    """A policy before it exists.

    Attributes:
        kind: LeRobot's registered name.
        spec: What it expects.
        chunk_size: Actions given at once.
        observations: Frames that it looks at, relative to the present one; None: the present one.
        abilities: What it may have. One that depends on its settings counts as there: `Method.attach` looks again.
    """

    kind: str
    spec: InterfaceSpec
    chunk_size: int
    observations: tuple[int, ...] | None
    abilities: frozenset[Ability]


def planned_policy(kind: str, fields: Mapping[str, Any], data: InterfaceSpec, device: str) -> PlannedPolicy:
    """A policy with fresh weights, made for these data.

    Raises:
        ConfigurationError: The policy or a field is unknown, or it predicts no chunks.
    """
    return _planned(policy_config(kind, fields, data, device), data)


def warm_policy(folder: Path, data: InterfaceSpec) -> PlannedPolicy:
    """A policy on disk, by its configuration; its weights are not read.

    Conventions that it does not say are those of the data.

    Raises:
        ConfigurationError: It is none, or predicts no chunks.
    """
    register_own_policies()
    check_policy_folder(folder)
    try:
        config = PreTrainedConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, draccus.utils.DecodingError) as error:
        raise ConfigurationError(f"{short(folder)} is not a LeRobot policy ({reason(error)}); {_REMEDY}") from error
    inputs, action = config.input_features or {}, config.action_feature
    if action is None:
        raise ConfigurationError(f"the policy at {short(folder)} has no action in its output; {_REMEDY}")
    state = inputs.get("observation.state")
    note = folder / NOTE
    noted = read_json_object(note, "the note beside the policy", _REMEDY) if note.is_file() else {}
    spec = InterfaceSpec(
        cameras={key: (f.shape[1], f.shape[2]) for key, f in inputs.items() if f.type is FeatureType.VISUAL},
        state_size=state.shape[0] if state else 0,
        action_size=action.shape[0],
    )
    known = {name: noted.get(name) or getattr(data, name) for name in CONVENTIONS}
    return _planned(config, replace(spec, **known))


def _planned(config: PreTrainedConfig, spec: InterfaceSpec) -> PlannedPolicy:
    window = horizon(config)
    chunk = config.n_action_steps if config.type in EXECUTED_PART_ONLY else sum(step >= 0 for step in window.actions)
    return PlannedPolicy(config.type, spec, int(chunk), window.observations, _abilities(config))


def _abilities(config: PreTrainedConfig) -> frozenset[Ability]:
    kind = get_policy_class(config.type)
    found = set()
    if "reduction" in inspect.signature(kind.forward).parameters:
        found.add(Ability.PER_SAMPLE_LOSSES)
    for name, given in (
        ("features", {Ability.FEATURES}),
        ("forward_pass", {Ability.OUTPUTS, Ability.MODALITIES}),
        ("draw", {Ability.KEYED_DRAWS}),
        ("fixed_outputs", {Ability.FIXED_OUTPUTS}),
    ):
        if name in dir(kind):
            found |= given
    return frozenset(found)
