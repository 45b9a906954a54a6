"""Every value of a configuration against what it may be, before anything is imported, recorded or learnt.

What a suite, a method or a policy takes is checked against its constructor
(`vla_cl.config.compose.build`) and its own bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vla_cl.settings.rules import (
    Rule,
    action_groups,
    device,
    experience,
    flag,
    folder,
    folder_name,
    held_out,
    module_name,
    names,
    names_or,
    one_of,
    optional,
    path,
    real,
    shown,
    text,
    whole,
)
from vla_cl.types import ConfigurationError

MOST = 10**9
"""Largest number of anything that is counted."""

_SEED = whole(0, 2**31 - 1)
_PROCESSES = whole(1, 1024)
_STATES = whole(1, 100_000)

_EVALUATION: dict[str, Rule] = {
    "evaluation.episodes": _STATES,
    "evaluation.replan_every": whole(1, 100_000),
    "evaluation.future_tasks": flag,
    "evaluation.untrained": flag,
    "evaluation.curve_points": whole(0, 10_000),
    "evaluation.curve_episodes": _STATES,
    "evaluation.videos": whole(0, 100_000),
    "evaluation.workers": _PROCESSES,
    "evaluation.slots_per_worker": _PROCESSES,
    "evaluation.batch_size": optional(whole(1, 2**20)),
    "evaluation.deadline": real(0, 1e7, above=True),
    "evaluation.max_attempts": whole(1, 1000),
    "evaluation.check_render_profile": flag,
}

_COMMON: dict[str, Rule] = {
    "output_dir": optional(folder),
    "device": device,
    "threads": whole(0, 1024),
    "plugins": names(module_name),
    "suite.name": folder_name,
}

_TRAIN: dict[str, Rule] = {
    **_COMMON,
    **_EVALUATION,
    "name": optional(folder_name),
    "train_seed": _SEED,
    "cache_dir": folder,
    "arrangement": one_of("sequential", "joint", "independent"),
    "normalisation": one_of("first_task", "checkpoint"),
    "warm_start": optional(path),
    "family.name": folder_name,
    "stream.name": folder_name,
    "method.name": folder_name,
    "demonstrations.episodes": _STATES,
    "demonstrations.noise": real(0, 1000),
    "demonstrations.hold": whole(0, 100_000),
    "demonstrations.seed": _SEED,
    "demonstrations.workers": _PROCESSES,
    "training.steps": whole(1, MOST),
    "training.batch_size": whole(1, 2**20),
    "training.learning_rate": real(0, 1),
    "training.final_share": real(0, 1),
    "training.warmup_share": real(0, 1),
    "training.weight_decay": real(0, 1e6),
    "training.clip_norm": real(0, 1e12),
    "training.save_every": whole(0, MOST),
    "data.same_instruction": one_of("merge", "separate"),
    "data.check_orientation": flag,
    "data.check_fps": flag,
    "data.held_out": held_out,
    "data.held_out_seed": _SEED,
    "data.action_groups": optional(action_groups),
    "data.held_out_frames": whole(0, 10**6),
    "tracking.trackers": names(),
    "tracking.project": text,
}

_EVALUATE: dict[str, Rule] = {
    **_COMMON,
    **_EVALUATION,
    "tasks": optional(names()),
    "split": one_of("report", "select", "train"),
    "record": flag,
    "check_fps": flag,
    "retry_errors": flag,
    "random.seed": _SEED,
    "random.chunk_size": optional(whole(1, 100_000)),
}

_BENCH: dict[str, Rule] = {
    "rows": optional(names()),
    "quick": flag,
    "checkpoint": optional(path),
    "libero_assets": optional(path),
    "peer_python": optional(path),
    "output": optional(path),
    "row_minutes": real(0, above=True),
}

RULES: Mapping[str, Mapping[str, Rule]] = {"config": _TRAIN, "evaluate": _EVALUATE, "bench": _BENCH}
"""Of each root configuration, the rules by dotted name."""

MAPPINGS: Mapping[str, tuple[str, ...]] = {
    "config": (
        "family",
        "suite",
        "stream",
        "policy",
        "method",
        "data",
        "demonstrations",
        "training",
        "evaluation",
        "tracking",
    ),
    "evaluate": ("suite", "random", "evaluation"),
    "bench": (),
}
"""Of each root configuration, the keys that hold settings of their own."""

_NEEDED = {"family": ("name",), "suite": ("name",), "stream": ("name",), "policy": ("type",), "method": ("name",)}

_ANYWHERE: Mapping[str, Rule] = {
    "suite.assets": optional(path),
    "suite.image_size": whole(1, 4096),
    "suite.max_steps": optional(whole(1, 10**6)),
    "suite.order": whole(0, 10**6),
    "stream.suite": optional(text),
    "stream.family": optional(text),
    "stream.tasks": optional(names_or("all")),
    "stream.experiences": optional(names(experience)),
    "stream.datasets": names(path),
    "stream.check_orientation": flag,
    "data.datasets": names(path),
}
"""Settings that only some parts have."""


def checked(settings: Mapping[str, Any], root: str) -> dict[str, Any]:
    """The settings with whole numbers whole, ``~`` expanded, and every value within its bounds.

    Args:
        settings: Plain nested dictionaries, as composed.
        root: Which yaml at the top of ``conf/`` they were composed from.

    Raises:
        ConfigurationError: A value is of another kind or out of bounds.
    """
    result = dict(settings)
    for name in MAPPINGS.get(root, ()):
        if not isinstance(result.get(name), Mapping):
            raise ConfigurationError(_no_mapping(name, result.get(name)))
        result[name] = dict(result[name])
        for key in _NEEDED.get(name, ()):
            if result[name].get(key) is None:
                raise ConfigurationError(f"the {name} has no {name}.{key}; add `{key}: ...` to its yaml")
    for name, rule in {**_ANYWHERE, **RULES.get(root, {})}.items():
        group, _, key = name.rpartition(".")
        holder = result.get(group) if group else result
        if isinstance(holder, dict) and key in holder:
            holder[key] = rule(name, holder[key])
    _require_finite(result, "")
    return result


def _no_mapping(name: str, value: object) -> str:
    example = {
        "family": "robot",
        "suite": "metaworld",
        "stream": "metaworld_demo",
        "policy": "nano_vla",
        "method": "sequential",
    }
    if name in example:
        return (
            f"a run needs a {name}, and {name}={shown(value)} is none; choose one, for example {name}={example[name]}"
        )
    return f"{name} holds settings of its own and cannot be {shown(value)}; set those, as in {name}.KEY=VALUE"


def _require_finite(value: object, name: str) -> None:
    """No setting of any part is infinite or undefined."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{name} must be a finite number; got {value}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_finite(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _require_finite(item, name)
