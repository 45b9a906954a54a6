"""The LeRobot configuration of a new policy: its type, its fields, the features of the data, all checked at once."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy

from vla_cl.models.policy_types import (
    BACKBONE_FIELD,
    BUILT_WITHOUT_WEIGHTS,
    CHUNK_FIELDS,
    HUB_FIELDS,
    HUB_NAMES,
    OF_THE_RUN,
    PACKAGES,
    PADDED,
    REFUSED,
    RESIZE_FIELD,
    RESIZES,
    WITH_BACKBONE,
)
from vla_cl.settings.hints import nearest
from vla_cl.trust.text import harmless, short
from vla_cl.trust.torch_weights import check_torch_weights
from vla_cl.types import ConfigurationError, InterfaceSpec

LARGEST = 10**7
"""Largest number that a field of a policy may be."""

LONGEST_CHUNK = 10_000
CHUNKS = ("chunk_size", "horizon", "n_action_steps", "action_chunk_size", "n_action_pred_token", "n_obs_steps")

STATE = "observation.state"
ACTION = "action"

_WRONG_FIELDS = (
    AssertionError,
    AttributeError,
    ArithmeticError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a network's constructor raises when a field does not fit."""


@dataclass(frozen=True)
class Horizon:
    """Which frames, relative to a sample's own, a policy learns from."""

    actions: tuple[int, ...]
    observations: tuple[int, ...] | None


def policy_config(kind: str, settings: Mapping[str, Any], spec: InterfaceSpec, device: str) -> PreTrainedConfig:
    """The LeRobot configuration of a new policy that fits ``spec``.

    Args:
        kind: Registered name of the policy (``nano_vla``, ``act``, ``diffusion``, ``smolvla``, ...).
        settings: Fields of its configuration class.
        spec: Cameras, state and action sizes of the data.
        device: ``cpu``, ``cuda``, ...

    Raises:
        ConfigurationError: The policy or a field is unknown, a value is not allowed, or the policy cannot be used here.
    """
    decoded = decoded_config(configuration_class(kind), kind, settings, device)
    set_features(decoded, spec)
    _validated(decoded)
    return decoded


def configuration_class(kind: str) -> type[PreTrainedConfig]:
    """The configuration class of a policy type.

    Raises:
        ConfigurationError: There is no such type, or it cannot be used here.
    """
    register_own_policies()
    if kind in REFUSED:
        raise ConfigurationError(f"policy type {kind!r} cannot be used here: {REFUSED[kind]}")
    known = sorted(set(PreTrainedConfig.get_known_choices()) - set(REFUSED))
    if kind not in known:
        hint = nearest(kind, known)
        more = "" if hint.startswith("known") else f"; known: {', '.join(known)}"
        own = "; one of a plug-in registers itself in a module configuration_<name>.py of a package under plugins"
        raise ConfigurationError(f"unknown policy type {kind!r}; {hint}{more}{own}")
    chosen: type[PreTrainedConfig] = PreTrainedConfig.get_choice_class(kind)
    return chosen


def decoded_config(
    chosen: type[PreTrainedConfig], kind: str, settings: Mapping[str, Any], device: str
) -> PreTrainedConfig:
    """The configuration with these fields, none of features yet.

    Raises:
        ConfigurationError: A field is unknown, or a value is not allowed.
    """
    check_fields(chosen, kind, settings)
    hints = typing.get_type_hints(chosen)
    for name, value in settings.items():
        if value is None and type(None) not in typing.get_args(hints.get(name)):
            raise ConfigurationError(f"policy.{name} must not be null; leave it out for its default")
        most = LONGEST_CHUNK if name in CHUNKS else LARGEST
        if isinstance(value, int | float) and abs(value) > most:
            raise ConfigurationError(f"policy.{name} must be at most {most}; got {value}")
    try:
        config: PreTrainedConfig = draccus.decode(chosen, {**settings, "device": device, "push_to_hub": False})
    except OSError as error:  # EO-1 asks the hub for its backbone's configuration
        raise ConfigurationError(
            f"policy {kind!r} asks the hub for its backbone, which cannot be had ({_words(error)}); check the "
            "connection, or give a local folder"
        ) from error
    except (draccus.utils.DecodingError, draccus.utils.ParsingError, *_WRONG_FIELDS) as error:
        raise ConfigurationError(
            f"policy {kind!r} does not accept these settings: {_words(error.__cause__ or error)}"
        ) from error
    defaults = _defaults(chosen)
    for name in settings:
        value, default = getattr(config, name), defaults.get(name)
        if isinstance(value, int | float) and isinstance(default, int | float) and value < 0 <= default:
            raise ConfigurationError(f"policy.{name} must not be negative; got {value}")
    return config


def check_fields(chosen: type[PreTrainedConfig], kind: str, settings: Mapping[str, Any]) -> None:
    """Refuse fields that the policy does not have, and those that are not the user's.

    Raises:
        ConfigurationError: The message names the nearest field, or what to set instead.
    """
    fields = [field.name for field in dataclasses.fields(chosen) if field.init]
    for name in settings:
        if name in OF_THE_RUN and name in fields:
            raise ConfigurationError(f"policy.{name} is not a setting: {OF_THE_RUN[name]}")
        if name not in fields:
            hint = nearest(name, sorted(set(fields) - set(OF_THE_RUN)))
            raise ConfigurationError(f"policy {kind!r} has no field {name!r}; {hint}")


def set_features(config: PreTrainedConfig, spec: InterfaceSpec) -> None:
    """Give a configuration the cameras and sizes of the data."""
    config.input_features = {
        key: PolicyFeature(FeatureType.VISUAL, (3, height, width)) for key, (height, width) in spec.cameras.items()
    }
    if spec.state_size:
        config.input_features[STATE] = PolicyFeature(FeatureType.STATE, (spec.state_size,))
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (spec.action_size,))}
    if config.type in PADDED:
        for what, size, most in (
            ("states", spec.state_size, config.max_state_dim),
            ("actions", spec.action_size, config.max_action_dim),
        ):
            if size > most:
                raise ConfigurationError(
                    f"policy {config.type!r} pads {what} to {most} numbers, and the data have {size}; raise "
                    f"policy.max_{what[:-1]}_dim, or take another policy"
                )


def horizon(config: PreTrainedConfig) -> Horizon:
    """The frames that a policy's samples need.

    Raises:
        ConfigurationError: It does not predict chunks.
    """
    actions, observations = config.action_delta_indices, config.observation_delta_indices
    if not actions:
        raise ConfigurationError(f"policy {config.type!r} does not predict chunks of actions; choose one that does")
    # A window of one frame is no history, but brings a time dimension that some policies insist on.
    return Horizon(tuple(actions), None if observations is None else tuple(observations))


def predicted_actions(config: PreTrainedConfig) -> int:
    """Actions that a policy gives at once, from the observation's own step on."""
    if config.type in CHUNK_FIELDS:
        return int(getattr(config, CHUNK_FIELDS[config.type]))
    return sum(offset >= 0 for offset in horizon(config).actions)


def resizes(config: PreTrainedConfig) -> bool:
    """Whether a policy brings pictures of any size to its own."""
    field = RESIZE_FIELD.get(config.type)
    return config.type in RESIZES or (field is not None and getattr(config, field) is not None)


def check_buildable(config: PreTrainedConfig, fresh: bool = True) -> PreTrainedPolicy | None:
    """Try what a policy needs before anything is recorded: packages, weights from elsewhere, fields that fit.

    Args:
        config: Of the policy, with the features of the data.
        fresh: Whether it begins without a checkpoint of its own.

    Returns:
        The network on torch's ``meta`` device, with names and sizes but no weights; None if its type cannot be built
        without loading weights.

    Raises:
        ConfigurationError: Something is missing, or the network cannot be built with these fields.
    """
    for module, package in PACKAGES.get(config.type, ()):
        if importlib.util.find_spec(module) is None:
            raise ConfigurationError(f"policy {config.type!r} needs the module {module!r}; `pip install '{package}'`")
    for field in HUB_FIELDS.get(config.type, ()):
        _require_from_hub(config.type, str(getattr(config, field)), f"set policy.{field} to a local folder")
    for name in HUB_NAMES.get(config.type, ()):
        _require_from_hub(config.type, name, "accept its licence on huggingface.co and `hf auth login`")
    if fresh and config.type in WITH_BACKBONE and getattr(config, BACKBONE_FIELD) is not None:
        _fetch_backbone(config.type, config.vision_backbone, getattr(config, BACKBONE_FIELD))
    return _built_without_weights(config) if config.type in BUILT_WITHOUT_WEIGHTS else None


def is_of_a_plugin(config: PreTrainedConfig) -> bool:
    """Whether a policy's configuration is neither LeRobot's nor ours."""
    return type(config).__module__.partition(".")[0] not in ("lerobot", "vla_cl")


def _built_without_weights(config: PreTrainedConfig) -> PreTrainedPolicy:
    try:
        with torch.device("meta"), without_backbone(config):
            policy: PreTrainedPolicy = get_policy_class(config.type)(config)
            return policy
    except _WRONG_FIELDS as error:
        raise ConfigurationError(
            f"policy {config.type!r} cannot be built with these fields: {_words(error)}"
        ) from error


@contextlib.contextmanager
def without_backbone(config: PreTrainedConfig) -> Iterator[None]:
    """Build a network without torchvision's weights, which would be fetched only to be overwritten."""
    if config.type not in WITH_BACKBONE:
        yield
        return
    before = getattr(config, BACKBONE_FIELD)
    setattr(config, BACKBONE_FIELD, None)
    try:
        yield
    finally:
        setattr(config, BACKBONE_FIELD, before)


def _fetch_backbone(kind: str, network: str, name: str) -> None:
    """Have torchvision's weights in its cache, so that a missing connection shows now."""
    import torchvision

    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"policy.{BACKBONE_FIELD}={name!r} is no set of weights of torchvision; "
            "use ResNet18_Weights.IMAGENET1K_V1, or null for random ones"
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    cached = file.exists()
    if cached:
        check_torch_weights(file, f"remove the file, or set policy.{BACKBONE_FIELD}=null")
    try:
        # the hash in the name is short enough to be forged, so tensors only: nothing that a pickle could call
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # URLError, a damaged download, or what torch refuses to unpickle
        if cached:
            raise ConfigurationError(
                f"the weights {short(file)} hold more than tensors, and code from data is never run; remove the file, "
                f"or set policy.{BACKBONE_FIELD}=null"
            ) from error
        raise ConfigurationError(
            f"policy {kind!r} begins with torchvision's weights for {network}, which cannot be fetched "
            f"({_words(error, 60)}); set policy.{BACKBONE_FIELD}=null for random ones, or put {file.name} into "
            f"{short(file.parent)}"
        ) from error


def _require_from_hub(kind: str, name: str, remedy: str) -> None:
    if Path(name).is_dir():
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, "config.json")
    except LocalEntryNotFoundError as error:
        raise ConfigurationError(
            f"policy {kind!r} is built from {name!r}, which is not in the hub's cache and cannot be fetched; check the "
            f"connection (HF_HUB_OFFLINE?), or {remedy}"
        ) from error
    except EntryNotFoundError:
        return  # the repository is there, and has no file of this name
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigurationError(
            f"policy {kind!r} is built from {name!r}, which cannot be had from the hub ({_words(error, 60)}); {remedy}"
        ) from error


def _validated(config: PreTrainedConfig) -> None:
    """LeRobot's own check of cameras and sizes; it also adds cameras that may stay empty."""
    try:
        config.validate_features()
        horizon(config)
    except ConfigurationError:
        raise
    except _WRONG_FIELDS as error:
        raise ConfigurationError(f"policy {config.type!r} does not fit the data: {_words(error)}") from error


def _defaults(chosen: type[PreTrainedConfig]) -> dict[str, object]:
    return {
        field.name: field.default for field in dataclasses.fields(chosen) if field.default is not dataclasses.MISSING
    }


def _words(error: BaseException, most: int = 160) -> str:
    return harmless(" ".join(str(error).split()), most) or type(error).__name__


def register_own_policies() -> None:
    """Import every folder of `vla_cl.policies`, as LeRobot does for ``--policy.discover_packages_path``."""
    package = importlib.import_module("vla_cl.policies")
    for folder in pkgutil.iter_modules(package.__path__, "vla_cl.policies."):
        importlib.import_module(folder.name)
