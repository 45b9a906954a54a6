"""What a method projects: the gradient, or the step that the optimizer takes with it.

A promise about gradients is one about steps only where a step points along the gradient, as in plain gradient descent.
AdamW divides by the root of its second moments, adds momentum and decays the weights, so that a step may raise a past
loss although the projected gradient does not. With ``project: step`` the weights' change is projected, after the
optimizer: whatever the optimizer did, the promise holds for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vla_cl.types import ConfigurationError

Project = Literal["gradient", "step"]
PROJECTS: tuple[Project, ...] = ("gradient", "step")

_FINE_BYTES = 4


def check_project(project: str) -> None:
    """Refuse anything but `PROJECTS`.

    Raises:
        ConfigurationError: It is something else.
    """
    if project not in PROJECTS:
        raise ConfigurationError(f"method.project must be one of {', '.join(PROJECTS)}; got {project!r}")


def require_fine_weights(module: nn.Module, method: str, project: str) -> None:
    """Refuse weights whose rounding undoes a projected step.

    A step is often smaller than a thousandth of a weight, and bfloat16 has three digits: of 1,500 products of projected
    steps with past gradients most were off then, by up to .11 of their size.

    Raises:
        ConfigurationError: The step is to be projected, and a weight that learns has less than 32 bits.
    """
    coarse = {p.dtype for p in module.parameters() if p.requires_grad and p.element_size() < _FINE_BYTES}
    if project == "step" and coarse:
        kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in coarse))
        raise ConfigurationError(
            f"method {method!r} with project=step needs weights of float32, since {kinds} rounds a projected step "
            "away; load the model in float32, or use method.project=gradient"
        )


class StepTaken:
    """The change of the weights by one step of the optimizer, as a vector like a gradient.

    The optimizer's own state (moments, number of steps) is neither read nor changed. The copy of the old weights is
    kept between steps, since pages of new memory are slow to come.
    """

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._old: list[Tensor] = []

    @torch.no_grad()
    def begin(self, parameters: Sequence[nn.Parameter]) -> None:
        """Note the weights as they are before the step."""
        if len(parameters) != len(self._parameters) or any(
            one is not other for one, other in zip(parameters, self._parameters, strict=True)
        ):
            self._parameters = list(parameters)
            self._old = [torch.empty_like(parameter) for parameter in parameters]
        for old, parameter in zip(self._old, parameters, strict=True):
            old.copy_(parameter)

    @torch.no_grad()
    def change(self) -> list[Tensor]:
        """New weights minus old ones, one tensor per parameter; takes the place of the old weights, so once a step."""
        for old, parameter in zip(self._old, self._parameters, strict=True):
            torch.sub(parameter, old, out=old)
        return self._old
