"""Synaptic intelligence (SI): weights whose way through the task lowered the loss move less afterwards.

Zenke et al. 2017, arXiv 1703.04200: along the steps of a task W_i -= g_i * (change of theta_i), g the gradient of the
task's loss; at its end importance_i += W_i / ((change of theta_i over the task)^2 + xi), never below zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vla_cl.interfaces import Data
from vla_cl.methods.checked_settings import check_above
from vla_cl.methods.quadratic_penalty import BLOCK, ImportancePenalty
from vla_cl.methods.saved_state import require_alike
from vla_cl.types import Experience, MethodCard

_PATH, _BEFORE = "path.", "before."


class SynapticIntelligence(ImportancePenalty):
    """While it learns it holds three more tensors of the size of the parameters: path, gradient, last weights.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        xi: Keeps importances finite where a weight hardly moved; above 0.
        half: Whether the penalty is strength / 2 * sum_i ...

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "si"
    card = MethodCard(
        title="Synaptic intelligence (SI)",
        paradigm="regularisation",
        equation=(
            r"\ell_t(\theta) + \lambda \sum_i \Omega_i (\theta_i - \theta^*_i)^2, \quad "
            r"\Omega_i \leftarrow \max\left(0, \Omega_i + \frac{W_i}{(\Delta\theta_i)^2 + \xi}\right), \quad "
            r"W_i = -\sum_{\text{steps}} g_i\, \delta\theta_i"
        ),
        source="Zenke et al. 2017, arXiv 1703.04200",
        step="1 + passes of 48 bytes per parameter",
        memory="8 bytes per trainable parameter, for any number of tasks; 12 more while it learns",
        follows=(
            "the path integral, its reset at each task, the quotient. Ours: the gradient is the task's alone, "
            "before clipping; no importance falls below zero."
        ),
    )

    def __init__(self, strength: float = 5.0, xi: float = 0.01, half: bool = False) -> None:
        super().__init__(strength, half)
        check_above("xi", xi, 0, 1e6)
        self.xi = xi
        self._path: dict[str, Tensor] = {}  # W
        self._before: dict[str, Tensor] = {}  # weights before the step
        self._gradient: dict[str, Tensor] = {}  # of the task's loss, before the penalty and before clipping
        self._moving: list[str] = []
        self._has_past = False

    @torch.no_grad()
    def begin_task(self, experience: Experience) -> None:
        """Begin the path where the task begins."""
        super().begin_task(experience)
        if self.strength == 0:
            return
        new = {name: p for name, p in self.parameters.items() if name not in self.penalty.anchor}
        self.penalty.replace(1.0, {name: torch.zeros_like(parameter) for name, parameter in new.items()}, new)
        self._before = {
            name: parameter.detach().clone(memory_format=torch.contiguous_format)
            for name, parameter in self.parameters.items()
        }
        self._path = {name: torch.zeros_like(self.penalty.anchor[name]) for name in self.parameters}
        self._gradient = {name: torch.empty_like(tensor) for name, tensor in self._before.items()}
        self._has_past = any(bool(tensor.any()) for tensor in self.penalty.importance.values())

    @torch.no_grad()
    def edit_gradients(self) -> None:
        """Note the task's gradient, then add the penalty's."""
        if self.strength == 0:
            return
        self._moving = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        for name in self._moving:
            self._gradient[name].copy_(self.parameters[name].grad)  # type: ignore[arg-type] # filtered above
        if self._has_past:
            super().edit_gradients()

    @torch.no_grad()
    def after_step(self) -> None:
        """Go one step further along the path."""
        if self.strength == 0:
            return
        scratch: dict[torch.dtype, Tensor] = {}
        for name in self._moving:
            weights, before = self.parameters[name].detach(), self._before[name]
            if before.dtype not in scratch:
                scratch[before.dtype] = before.new_empty(BLOCK)
            _advance(weights, before, self._gradient[name], self._path[name], scratch[before.dtype])

    def midway_state(self) -> dict[str, Tensor]:
        """The path so far, and the weights that it has come to."""
        return {_PATH + name: path for name, path in self._path.items()} | {
            _BEFORE + name: weights for name, weights in self._before.items()
        }

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on along the path.

        Raises:
            ValueError: It is the path of other parameters.
        """
        require_alike("SI", state, self.midway_state())
        for prefix, kept in ((_PATH, self._path), (_BEFORE, self._before)):
            for name, tensor in kept.items():
                tensor.copy_(state[prefix + name])

    @torch.no_grad()
    def end_task(self, experience: Experience, data: Data) -> None:
        """Add the importances of what was just learnt; the next path begins at zero."""
        super().end_task(experience, data)
        if self.strength == 0:
            return
        importance = {}
        for name, path in self._path.items():
            change = self.parameters[name] - self.penalty.anchor[name]
            # A negative importance would push the weight away for ever.
            importance[name] = torch.maximum(path / (change.square() + self.xi), -self.penalty.importance[name])
        self.penalty.replace(1.0, importance, self.parameters)
        self._path, self._before, self._gradient = {}, {}, {}


def _advance(weights: Tensor, before: Tensor, gradient: Tensor, path: Tensor, scratch: Tensor) -> None:
    """Subtract gradient * (weights - before) from path, set before to weights; block by block: memory is read once."""
    blocks = (torch.split(tensor.reshape(-1), BLOCK) for tensor in (weights, before, gradient, path))
    for weight, old, slope, way in zip(*blocks, strict=True):
        step = torch.sub(weight, old, out=scratch[: len(old)])
        way.addcmul_(slope.to(way), step.to(way), value=-1)
        old.copy_(weight)
