"""A checkpoint to start from: its type and fields, and what of it follows the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from vla_cl.models.policy_config import (
    STATE,
    check_fields,
    configuration_class,
    register_own_policies,
    resizes,
    set_features,
)
from vla_cl.models.policy_types import EMPTY_CAMERA, EMPTY_CAMERAS, PADDED, WITHOUT_EFFECT_ON_WEIGHTS
from vla_cl.models.stored_policy import stored_config as checked_config
from vla_cl.trust.policies import check_policy_folder
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, InterfaceSpec

_OPTIMIZATION = ("optimizer_", "scheduler_")


def stored_config(folder: Path, device: str) -> PreTrainedConfig:
    """The configuration of a LeRobot policy on this disk, if it is one that can be started from.

    Raises:
        ConfigurationError: It is none, is not to be trusted, or its type cannot be used.
    """
    register_own_policies()
    config = checked_config(check_policy_folder(folder), device)
    configuration_class(config.type)
    return config


def require_type(config: PreTrainedConfig, kind: str, where: str) -> None:
    """Refuse another type than the checkpoint's.

    Raises:
        ConfigurationError: They differ.
    """
    if config.type != kind:
        raise ConfigurationError(
            f"the warm start {where} is a policy of type {config.type!r}, but {kind!r} was asked for; leave policy out "
            "(the type follows the checkpoint), or choose another checkpoint"
        )


def fit_to_data(config: PreTrainedConfig, fields: Mapping[str, Any], spec: InterfaceSpec, where: str) -> None:
    """Set the fields that the user gave, and let cameras and sizes follow the data where the policy allows it.

    A policy that pads takes any state and action up to its ``max_..._dim``. One with ``empty_cameras`` may lack that
    many cameras; every camera of the data must be one that the checkpoint knows.

    Args:
        config: The checkpoint's; changed in place.
        fields: Of the policy, by the user.
        spec: Cameras and sizes of the data.
        where: The checkpoint, for messages.

    Raises:
        ConfigurationError: A field would need other weights, or the data do not fit.
    """
    _set_fields(config, fields, where)
    cameras = [key for key, item in config.input_features.items() if item.type is FeatureType.VISUAL]
    known = [key for key in cameras if not key.startswith(EMPTY_CAMERA)]
    _require_cameras(config, known, spec, where)
    _fit_pictures(config, spec, where)
    stored = sizes(config)
    if config.type in PADDED:
        ordered = {key: spec.cameras[key] for key in known if key in spec.cameras}
        set_features(config, InterfaceSpec(ordered, spec.state_size, spec.action_size))
        config.validate_features()  # adds the empty cameras
    elif stored != (spec.state_size, spec.action_size):
        raise ConfigurationError(
            f"the warm start {where} has states and actions of {stored[0]} and {stored[1]} numbers, the data of "
            f"{spec.state_size} and {spec.action_size}, and policy {config.type!r} does not pad; use such data"
        )


def _fit_pictures(config: PreTrainedConfig, spec: InterfaceSpec, where: str) -> None:
    """Sizes of pictures follow the data where the policy resizes; else they have to be the same."""
    for key, (height, width) in spec.cameras.items():
        shape = config.input_features[key].shape
        if shape[1:] == (height, width):
            continue
        if not resizes(config):
            raise ConfigurationError(
                f"the warm start {where} learnt from pictures of {shape[1]}x{shape[2]} ({harmless(key, 60)}, height x "
                f"width), the data have {height}x{width}, and policy {config.type!r} does not resize; use such data"
            )
        config.input_features[key] = PolicyFeature(FeatureType.VISUAL, (shape[0], height, width))


def sizes(config: PreTrainedConfig) -> tuple[int, int]:
    """Numbers in a state (0: none is read) and in an action."""
    state = config.input_features.get(STATE)
    return (state.shape[0] if state else 0, config.action_feature.shape[0])


def _set_fields(config: PreTrainedConfig, fields: Mapping[str, Any], where: str) -> None:
    chosen = type(config)
    check_fields(chosen, config.type, fields)
    for name, value in fields.items():
        # decoded alone, so that a list becomes the tuple that the class has
        given = getattr(draccus.decode(chosen, {**_plain(config), name: value}), name)
        if given == getattr(config, name):
            continue
        if name not in WITHOUT_EFFECT_ON_WEIGHTS and not name.startswith(_OPTIMIZATION):
            raise ConfigurationError(
                f"policy.{name}={value} contradicts the warm start {where}, which has {getattr(config, name)}; "
                "leave it out"
            )
        setattr(config, name, given)


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    encoded: dict[str, Any] = draccus.encode(config)
    return {name: value for name, value in encoded.items() if name != "type"}


def _require_cameras(config: PreTrainedConfig, known: list[str], spec: InterfaceSpec, where: str) -> None:
    strange = [key for key in spec.cameras if key not in known]
    missing = [key for key in known if key not in spec.cameras]
    if strange or (missing and config.type not in EMPTY_CAMERAS):
        example = (missing or known or ["observation.images.camera1"])[0]
        raise ConfigurationError(
            f"the warm start {where} has the cameras {', '.join(known)}, the data {', '.join(spec.cameras)}; choose "
            f"and rename them: cameras={{{example}: {(strange or list(spec.cameras))[0]}, ...}}"
        )
    if len(missing) > (config.empty_cameras if missing else 0):
        raise ConfigurationError(
            f"the warm start {where} has the cameras {', '.join(known)}, of which the data lack {', '.join(missing)}; "
            f"name others in cameras={{{missing[0]}: ...}}, or allow it: policy.empty_cameras={len(missing)}"
        )
