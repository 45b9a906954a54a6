"""A LeRobot policy from a folder that somebody else may have written: the folder is checked, then LeRobot loads it."""

from __future__ import annotations

import dataclasses
import difflib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import draccus
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.processor.pipeline import ProcessorStepRegistry
from safetensors import SafetensorError

from vla_cl.files import write_json
from vla_cl.models.policy_config import without_backbone
from vla_cl.models.policy_types import BUILT_WITHOUT_WEIGHTS, EMPTY_CAMERA
from vla_cl.models.stored_weights import check_finite, check_weights
from vla_cl.trust.policies import CONFIG, PolicyFolder, check_policy_folder
from vla_cl.trust.reading import read_json_object
from vla_cl.trust.tensors import load_tensors, require_finite
from vla_cl.trust.text import harmless, short, told_as
from vla_cl.types import ConfigurationError

NOTE = "vla_cl.json"
"""Beside the policy's own files: what LeRobot's format has no place for, the conventions of the training data."""

CONVENTIONS = ("render_profile", "control_mode", "image_orientation", "fps")
"""The fields of an `InterfaceSpec` that `NOTE` keeps."""

_RATE = 100_000

STEP_PACKAGES = ("lerobot.processor.", "lerobot.policies.", "vla_cl.policies.")
"""Where steps of a policy's pipelines may be registered; LeRobot registers others for robots and reward models."""

FORBIDDEN_STEPS = frozenset({"reward_classifier_processor"})
"""Loads another policy folder that its settings name."""

_NEEDED = {
    NormalizationMode.MEAN_STD: "mean",
    NormalizationMode.MIN_MAX: "min",
    NormalizationMode.QUANTILES: "q01",
    NormalizationMode.QUANTILE10: "q10",
}
"""One statistic of each mode; LeRobot itself says if the other is missing."""

_ADVICE = "use a policy folder that LeRobot 0.6.1 or vla-cl wrote"
_FAILURES = (
    draccus.utils.DecodingError, draccus.utils.ParsingError, SafetensorError, HfHubHTTPError, HFValidationError,
    LocalEntryNotFoundError, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError,
    AssertionError, IndexError, ArithmeticError, NotImplementedError, MemoryError,
)  # fmt: skip
"""What LeRobot raises for a folder that does not fit it; the message says which file and why."""


@dataclasses.dataclass(frozen=True)
class StoredPolicy:
    """A policy with its processors, and the conventions noted beside it (None where unknown)."""

    policy: PreTrainedPolicy
    preprocessor: Any
    postprocessor: Any
    conventions: dict[str, Any]


def load_policy(folder: Path, device: str, adapt: Callable[[PreTrainedConfig], None] | None = None) -> StoredPolicy:
    """Check a folder and load all of it.

    Args:
        folder: On this disk.
        device: Torch device.
        adapt: Changes the configuration before the network is built (`vla_cl.models.warm_start.fit_to_data`).

    Raises:
        ConfigurationError: As of `vla_cl.trust.policies.check_policy_folder`; or LeRobot does not know the policy or a
            step, the weights do not fit the configuration, or a number in them is none.
    """
    found = check_policy_folder(folder)
    config = stored_config(found, device)
    if adapt is not None:
        adapt(config)
    _check_steps(found)
    conventions = noted_conventions(folder)
    _check_states(found)
    policy = load_weights(found, config)
    with _in_a_sentence(folder, "processors"):
        overrides = {"device_processor": {"device": device}} if "device_processor" in found.steps else {}
        before, after = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
    return StoredPolicy(policy, before, after, conventions)


def load_weights(found: PolicyFolder, config: PreTrainedConfig) -> PreTrainedPolicy:
    """A policy of this configuration with the weights of a checked folder.

    Raises:
        ConfigurationError: They do not fit, or hold NaN.
    """
    what = f"the weights of {short(found.folder)}"
    with _in_a_sentence(found.folder, "weights"), without_backbone(config):
        kind = get_policy_class(config.type)
        if config.type in BUILT_WITHOUT_WEIGHTS:
            with torch.device("meta"):
                check_weights(kind(config), found.tensors, what)
        with redirect_stdout(io.StringIO()):  # LeRobot prints that it loads weights
            policy: PreTrainedPolicy = kind.from_pretrained(str(found.folder), config=config)
        policy.to(config.device)
        check_weights(policy, found.tensors, what)
    check_finite(policy, what)
    return policy


def stored_config(found: PolicyFolder, device: str) -> PreTrainedConfig:
    """The configuration of a checked folder as LeRobot's class; it starts from nowhere else.

    Raises:
        ConfigurationError: The policy or a field is unknown, or a value is not allowed.
    """
    known = PreTrainedConfig.get_known_choices()
    if found.kind not in known:
        raise ConfigurationError(
            f"{short(found.folder / CONFIG)} has type {harmless(found.kind, 40)!r}, which neither LeRobot 0.6.1 nor "
            f"vla_cl knows; nearest: {', '.join(difflib.get_close_matches(found.kind, known, cutoff=0)[:3])}"
        )
    fields = {key: value for key, value in found.config.items() if key != "type"}
    # pretrained_path says where the policy once started; loading follows it nowhere
    fields |= {"device": device, "push_to_hub": False, "pretrained_path": None}
    with _in_a_sentence(found.folder, CONFIG):
        config: PreTrainedConfig = draccus.decode(known[found.kind], fields)
    return config


def write_note(folder: Path, conventions: Mapping[str, str | float | None]) -> None:
    """Write the conventions of the training data beside a policy."""
    write_json(folder / NOTE, dict(conventions))


def _check_steps(found: PolicyFolder) -> None:
    for name in found.steps:
        known = name in ProcessorStepRegistry.list()
        module = ProcessorStepRegistry.get(name).__module__ if known else ""
        if not known or name in FORBIDDEN_STEPS or not module.startswith(STEP_PACKAGES):
            raise ConfigurationError(
                f"{short(found.folder)} has the processor step {harmless(name, 60)!r}, which neither LeRobot 0.6.1 "
                f"nor vla_cl registers for policies; {_ADVICE}"
            )


def _check_states(found: PolicyFolder) -> None:
    """Statistics that are no numbers would make every action one."""
    for path in found.states:
        require_finite(load_tensors(path, "the state of a processor step", _ADVICE), short(path), _ADVICE)


def require_statistics(policy: PreTrainedPolicy, preprocessor: Any, postprocessor: Any) -> None:  # noqa: ANN401 - LeRobot's
    """Refuse a policy that shall see and give normalised numbers, but has no statistics for them.

    LeRobot passes such numbers on as they are, and the robot moves by them.

    Raises:
        ConfigurationError: A step lacks the statistics of a feature, or the pipelines lack the step.
    """
    steps = [
        step
        for step in (*preprocessor.steps, *postprocessor.steps)
        if isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep)
    ]
    for step in steps:
        for key, feature in step.features.items():
            mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            if mode is NormalizationMode.IDENTITY or key.startswith(EMPTY_CAMERA):
                continue
            if f"{key}.{_NEEDED[mode]}" not in step.state_dict():
                raise ConfigurationError(
                    f"the policy's processors have no statistics ({mode.value}) of {harmless(key, 60)}, so its numbers "
                    "would pass unchanged; use a whole policy folder, or train with normalisation=first_task"
                )
    wanted = policy.config.normalization_mapping.get("ACTION", NormalizationMode.IDENTITY)
    if wanted is not NormalizationMode.IDENTITY and not any(isinstance(s, UnnormalizerProcessorStep) for s in steps):
        raise ConfigurationError(
            f"the policy's actions are normalised ({wanted.value}), and its postprocessor has no step that turns them "
            f"back; {_ADVICE}"
        )


def noted_conventions(folder: Path) -> dict[str, Any]:
    """The conventions of the training data that are noted beside a policy; None where unknown.

    Raises:
        ConfigurationError: The note is damaged.
    """
    path = folder / NOTE
    noted = read_json_object(path, "the note beside the policy", "copy it again", 2**20) if path.exists() else {}
    values = {name: noted.get(name) for name in CONVENTIONS}
    for name, value in values.items():
        if value is not None and not _may_be(name, value):
            expected = f"a number above 0, at most {_RATE}," if name == "fps" else "a name"
            raise ConfigurationError(
                f"{short(path)} gives {name} as {harmless(repr(value), 60)}, expected {expected} or null"
            )
    return values


def _may_be(name: str, value: object) -> bool:
    if name == "fps":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _RATE
    return isinstance(value, str) and len(value) <= 100


@contextmanager
def _in_a_sentence(folder: Path, part: str) -> Iterator[None]:
    with told_as(f"the {part} of the policy {short(folder)} cannot be loaded", _ADVICE, *_FAILURES):
        yield
