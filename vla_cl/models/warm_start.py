"""A checkpoint to start from: its type and fields, and what of it follows the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType

from vla_cl.models.policy_config import (
    STATE,
    check_fields,
    configuration_class,
    register_own_policies,
    set_features,
)
from vla_cl.models.policy_types import EMPTY_CAMERA, EMPTY_CAMERAS, PADDED, WITHOUT_EFFECT_ON_WEIGHTS
from vla_cl.types import ConfigurationError, InterfaceSpec

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
_WEIGHTS = "model.safetensors"
_OPTIMIZATION = ("optimizer_", "scheduler_")


def stored_config(folder: Path, device: str) -> PreTrainedConfig:
    """The configuration of a LeRobot policy on this disk, if it is one that can be started from.

    Raises:
        ConfigurationError: It is none, its type cannot be used, or weights or processors are missing.
    """
    register_own_policies()
    try:
        config: PreTrainedConfig = PreTrainedConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, draccus.utils.DecodingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigurationError(
            f"{folder} is not a LeRobot policy ({type(error).__name__}: {reason}); give the pretrained_model folder of "
            "a checkpoint"
        ) from error
    configuration_class(config.type)
    if not (folder / _WEIGHTS).is_file():
        raise ConfigurationError(f"{folder} holds no {_WEIGHTS}; download the checkpoint again, weights included")
    require_processors(folder)
    config.device = device
    return config


def require_processors(folder: Path) -> None:
    """Refuse a checkpoint from before LeRobot kept processors beside the weights.

    Raises:
        ConfigurationError: The message has the command that makes them.
    """
    missing = [name for name in PROCESSORS if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"{folder} lacks {missing[0]}, so it was written by an older LeRobot; convert it with `python -m "
            f"lerobot.processor.migrate_policy_normalization --pretrained-path {folder}` and give the new folder"
        )


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
