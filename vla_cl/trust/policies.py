"""Policy folders of others, looked at before LeRobot sees them: it would import and call what they name.

A folder holds ``config.json``, weights as safetensors, and two pipelines of processors. LeRobot imports the ``class``
of a step, follows ``state_file`` wherever it leads, and hands names of other models to libraries that run code from the
hub. None of that gets past here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.trust.paths import inside
from vla_cl.trust.policy_fields import (
    RUNS_HUB_CODE,
    RUNS_HUB_CODE_STEPS,
    check_models,
    check_numbers,
    check_plain,
)
from vla_cl.trust.reading import MIB, read_json_object, require_entries
from vla_cl.trust.tensors import StoredTensor, read_header
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PIPELINES = ("policy_preprocessor.json", "policy_postprocessor.json")

JSON_BYTES = 16 * MIB
"""Largest JSON file of a policy folder; pipelines with embedded statistics reach one."""

STEPS = 200
"""Most steps of a pipeline; the longest of LeRobot's own has some fifteen."""

_PATH = 90
SHARDS = 10_000
FEATURES = 1_000
SIDE = 16_384
"""Largest size of a feature in one dimension, pixels included."""

FEATURE_VALUES = 2**28
"""Most values of one feature: a picture of 9,000 x 9,000 pixels."""

_ADVICE = "use a policy folder that LeRobot wrote"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_STEP_KEYS = {"registry_name", "config", "state_file"}


@dataclass(frozen=True)
class PolicyFolder:
    """A policy folder that passed.

    Attributes:
        folder: Where it lies.
        config: Content of ``config.json``.
        steps: Registered names of all steps of both pipelines.
        states: Files with what the steps hold, statistics among it.
        tensors: What the weights hold, by name.
    """

    folder: Path
    config: Mapping[str, Any]
    steps: tuple[str, ...]
    states: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def kind(self) -> str:
        """LeRobot's name of the policy."""
        return str(self.config["type"])


def check_policy_folder(folder: Path, pipelines: bool = True) -> PolicyFolder:
    """Look at everything in a policy folder that LeRobot would read; imports no LeRobot and loads no weights.

    Args:
        folder: On this disk.
        pipelines: Whether the processors will be loaded too.

    Raises:
        ConfigurationError: A file is missing, damaged, too large or leads out of the folder; a number is absurd; a step
            names a class; something asks for code from elsewhere, or is of a type that runs code from the hub;
            or the weights are a pickle or an adapter.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{short(folder)} is no folder; give the pretrained_model folder of a checkpoint")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"the name of the folder {short(folder)} is no UTF-8, and its files cannot be opened; rename it"
        ) from error
    config = _check_config(folder)
    steps = [step for name in PIPELINES for step in _check_pipeline(folder, name)] if pipelines else []
    names, states = tuple(name for name, _ in steps), tuple(state for _, state in steps if state is not None)
    return PolicyFolder(folder, config, names, states, _check_weights(folder))


def _check_config(folder: Path) -> dict[str, Any]:
    path = inside(folder, CONFIG, f"the policy {short(folder, _PATH)}")
    if not path.exists():
        raise ConfigurationError(
            f"{short(folder)} is not a LeRobot policy (it has no {CONFIG}); give the pretrained_model folder of a "
            "checkpoint"
        )
    what = f"the policy configuration {short(path, _PATH)}"
    config = read_json_object(path, "the policy configuration", _ADVICE, JSON_BYTES)
    require_entries(config, {"type": str}, what, _ADVICE)
    if not _NAME.fullmatch(config["type"]):
        raise ConfigurationError(f"{what} has type {harmless(config['type'], 40)!r}, which is no name; {_ADVICE}")
    if config["type"] in RUNS_HUB_CODE:
        raise ConfigurationError(
            f"{what} has type {config['type']}, for which LeRobot runs code from the hub, and code from data is never "
            "run; use a policy of another type"
        )
    check_plain(config, what)
    check_numbers(config, what)
    check_models(config, what)
    for group in ("input_features", "output_features"):
        _check_features(config.get(group), f"{group} in {what}")
    if config.get("use_peft"):
        raise ConfigurationError(
            f"{short(folder)} is an adapter (use_peft), not a whole policy; merge it into its policy"
        )
    return config


def _check_features(features: object, what: str) -> None:
    if features is None:
        return
    if not isinstance(features, dict) or len(features) > FEATURES:
        raise ConfigurationError(f"{what} should be an object of at most {FEATURES} features; {_ADVICE}")
    for name, feature in features.items():
        entries = require_entries(feature, {"type": str, "shape": list}, f"{harmless(name, 40)!r} of {what}", _ADVICE)
        values = 1
        for size in entries["shape"]:
            if type(size) is not int or not 0 <= size <= SIDE:
                values = FEATURE_VALUES + 1
                break
            values *= size
        if values > FEATURE_VALUES:
            came = harmless(str(entries["shape"]), 60)
            raise ConfigurationError(
                f"{harmless(name, 40)!r} of {what} has the shape {came}; at most {SIDE} a side; {_ADVICE}"
            )


def _check_pipeline(folder: Path, name: str) -> Iterator[tuple[str, Path | None]]:
    """The registered name of each step, and the file of its state if it has one."""
    path = inside(folder, name, f"the policy {short(folder, _PATH)}")
    if not path.exists():
        raise ConfigurationError(
            f"the policy has no {name}, as before LeRobot 0.4; make a policy that has one: python -m "
            f"lerobot.processor.migrate_policy_normalization --pretrained-path {short(folder)}"
        )
    what = f"the processor pipeline {short(path, _PATH)}"
    content = read_json_object(path, "the processor pipeline", _ADVICE, JSON_BYTES)
    require_entries(content, {"steps": list}, what, _ADVICE)
    if len(content["steps"]) > STEPS:
        raise ConfigurationError(f"{what} has {len(content['steps'])} steps, at most {STEPS} are read; {_ADVICE}")
    for number, step in enumerate(content["steps"]):
        yield _check_step(folder, step, f"step {number} of {what}")


def _check_step(folder: Path, step: object, what: str) -> tuple[str, Path | None]:
    if isinstance(step, dict) and "class" in step:
        raise ConfigurationError(
            f"{what} names the class {harmless(str(step['class']), 60)!r}, and code from data is never run; only steps "
            "by registry_name are; use another policy"
        )
    entries = require_entries(step, {"registry_name": str}, what, _ADVICE)
    more = entries.keys() - _STEP_KEYS
    if more or not _NAME.fullmatch(entries["registry_name"]):
        came = harmless(", ".join(sorted(more)) or entries["registry_name"], 60)
        raise ConfigurationError(f"{what} has {came!r}; allowed are registry_name, config and state_file; {_ADVICE}")
    if entries["registry_name"].startswith(RUNS_HUB_CODE_STEPS):
        raise ConfigurationError(
            f"{what} is {entries['registry_name']}, which runs code from the hub, and code from data is never run; use "
            "another policy"
        )
    config = entries.get("config") or {}
    require_entries({"config": config}, {"config": dict}, what, _ADVICE)
    check_plain(config, what)
    check_numbers(config, what)
    check_models(config, what)
    if config.get("features") is not None:
        _check_features(config["features"], f"features in {what}")
    state = None
    if entries.get("state_file") is not None:
        require_entries(entries, {"state_file": str}, what, _ADVICE)
        state = inside(folder, entries["state_file"], f"state_file of {what}")
        read_header(state, "the state of a processor step", _ADVICE)
    return str(entries["registry_name"]), state


def _check_weights(folder: Path) -> dict[str, StoredTensor]:
    names = _weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        tensors |= read_header(inside(folder, name, f"the policy {short(folder, _PATH)}"), "the weights", _ADVICE)
    return tensors


def _weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights.

    Raises:
        ConfigurationError: There are none, or they are a pickle or an adapter.
    """
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    if (folder / INDEX).exists():
        index = read_json_object(
            inside(folder, INDEX, "the policy"), "the index of the weights", _ADVICE, JSON_BYTES * 4
        )
        listed = require_entries(index, {"weight_map": dict}, f"the index {short(folder / INDEX)}", _ADVICE)[
            "weight_map"
        ]
        files = list(dict.fromkeys(map(str, listed.values())))
        if not 0 < len(files) <= SHARDS or not all(name.endswith(".safetensors") for name in files):
            raise ConfigurationError(
                f"the index {short(folder / INDEX)} names files that are no safetensors; {_ADVICE}"
            )
        return files
    there = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in there:
        raise ConfigurationError(
            f"{short(folder)} is an adapter (PEFT), not a whole policy; merge it into its policy first"
        )
    pickles = [name for name in there if name.endswith(_PICKLES)]
    if pickles:
        raise ConfigurationError(
            f"{short(folder)} has its weights in {harmless(pickles[0], 40)!r}, a pickle, which can run code and is "
            f"never loaded; ask its author for {WEIGHTS}"
        )
    raise ConfigurationError(f"{short(folder)} has no weights ({WEIGHTS}); download it again")
