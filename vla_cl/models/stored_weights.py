"""Whether a folder's weights are all of a model's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from vla_cl.trust.tensors import StoredTensor
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

_REMEDY = "use a policy folder that is whole"
_NAME = 60


def check_weights(module: nn.Module, stored: Mapping[str, StoredTensor], what: str) -> None:
    """LeRobot only warns of missing keys; a policy loaded in part would pass for one that has forgotten.

    Args:
        module: The policy; its tensors may be on the ``meta`` device, which have a shape and no memory.
        stored: Header of its weights.
        what: The weights, for the message.

    Raises:
        ConfigurationError: A tensor is missing, unknown or of another shape.
    """
    expected = module.state_dict(keep_vars=True)
    missing = {name for name in expected if name not in stored and not _is_shared(name, expected, stored)}
    if missing:
        raise ConfigurationError(f"{what} lacks {len(missing)} tensors, among them {_names(missing)}; {_REMEDY}")
    if extra := stored.keys() - expected.keys():
        raise ConfigurationError(
            f"{what} holds {len(extra)} tensors the policy lacks, among them {_names(extra)}; {_REMEDY}"
        )
    for name, tensor in stored.items():
        if tensor.shape != tuple(expected[name].shape):
            raise ConfigurationError(
                f"{what} has {harmless(name, _NAME)!r} of shape {list(tensor.shape)}, its configuration makes it "
                f"{list(expected[name].shape)}; {_REMEDY}"
            )


def check_finite(module: nn.Module, what: str) -> None:
    """Refuse weights that are no numbers: such a policy would stand still and pass for one that has forgotten.

    Raises:
        ConfigurationError: A weight is NaN or infinite; the message names its tensor.
    """
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not bool(weight.detach().isfinite().all()):
            raise ConfigurationError(f"{what} holds NaN or Infinity in {harmless(name, _NAME)!r}; {_REMEDY}")


def _is_shared(name: str, state: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor]) -> bool:
    """Safetensors stores tied weights once, under one of their names."""
    tensor = state[name]
    same = (other for key, other in state.items() if key in stored)
    if tensor.is_meta:
        return any(other is tensor for other in same)
    return any(other is tensor or other.data_ptr() == tensor.data_ptr() != 0 for other in same)


def _names(names: set[str]) -> str:
    return ", ".join(harmless(name, _NAME // 2) for name in sorted(names)[:2])
