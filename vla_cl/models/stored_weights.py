"""Whether a folder's weights are all of a model's."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import nn

from vla_cl.types import ConfigurationError


def check_weights(module: nn.Module, folder: Path) -> None:
    """LeRobot only warns of missing keys; a policy loaded in part would pass for one that has forgotten."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return
    with safe_open(weights, framework="pt") as file:
        stored = set(file.keys())
    expected = set(module.state_dict())
    shared = {name for name in expected - stored if _is_shared(module, name, stored)}
    if missing := expected - stored - shared:
        raise ConfigurationError(f"{weights} lacks {len(missing)} tensors, among them {sorted(missing)[:3]}")
    if extra := stored - expected:
        raise ConfigurationError(
            f"{weights} holds {len(extra)} tensors the policy lacks, among them {sorted(extra)[:3]}"
        )


def _is_shared(module: nn.Module, name: str, stored: set[str]) -> bool:
    """Safetensors stores tied weights once, under one of their names."""
    state = module.state_dict()
    pointer = state[name].data_ptr()
    return any(other in state and state[other].data_ptr() == pointer for other in stored)
