"""Which weights of a network can be set to zero one by one: those of linear layers and convolutions that learn."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from vla_cl.types import ConfigurationError


def prunable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name to weight, of the linear layers (those inside attention too) and convolutions that learn.

    Raises:
        ConfigurationError: A weight is computed from others in a way that zeros do not pass through.
    """
    weights: set[int] = set()
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
            weights.add(id(_weight_behind(name, part)))
        elif isinstance(part, nn.MultiheadAttention):
            joined = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            if parametrize.is_parametrized(part):
                raise _not_prunable(name)
            weights |= {id(weight) for key in joined if (weight := part._parameters[key]) is not None}
    return {name: p for name, p in module.named_parameters() if id(p) in weights and p.requires_grad}


def _weight_behind(name: str, part: nn.Module) -> Tensor | None:
    """The parameter that a layer's weight is, or that spectral normalisation divides by a number to get it."""
    if (weight := part._parameters.get("weight")) is not None:
        return weight
    if parametrize.is_parametrized(part, "weight"):
        steps = cast(nn.ModuleDict, part.parametrizations)["weight"]
        if all(isinstance(step, _SpectralNorm) for step in cast(nn.ModuleList, steps)):
            return cast(Tensor, steps.original)
    elif any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values()):
        return part._parameters["weight_orig"]
    if any(parameter.requires_grad for parameter in part.parameters()):
        raise _not_prunable(name)
    return None


def _not_prunable(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"method 'packnet' cannot prune {name!r}, whose weight is computed from other parameters; of such layers it "
        "knows those with spectral normalisation: remove the parametrisation, or freeze the layer"
    )
