"""L2 and L2-SP: every weight is pulled alike, to the weights at the last task border or to the warm start.

L2: the control without importances of Kirkpatrick et al. 2017, arXiv 1612.00796. L2-SP: Li et al. 2018, arXiv
1802.01483, alpha / 2 * sum_i (theta_i - start_i)^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from vla_cl.interfaces import Data, Method, Model
from vla_cl.methods.checked_settings import check_strength
from vla_cl.methods.quadratic_penalty import (
    ANCHOR,
    Pull,
    add_quadratic_gradient,
    tensors_named,
    trainable,
)
from vla_cl.methods.saved_state import require_alike, require_finite_state, require_keys
from vla_cl.types import ConfigurationError, Experience, MethodCard

Anchor = Literal["last_task", "warm_start"]
Reduction = Literal["sum", "mean", "mean_per_tensor"]
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean", "mean_per_tensor")


class L2(Method):
    """L2 penalty.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        anchor: ``last_task``: the weights at the last task border, so none in the first task; ``warm_start``: the
            weights before the first task (L2-SP). A parameter that only comes later is pulled to its first weights.
        reduction: ``sum`` over weights; ``mean`` over all that learn; ``mean_per_tensor``: the sum over tensors of the
            mean over each, as in CLoG, so that a tensor counts as much as any other, whatever its size. In a network of
            n tensors of equal size it is n times ``mean``.
        half: Whether the penalty is strength / 2 * ...

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "l2"
    card = MethodCard(
        title="L2 and L2-SP",
        paradigm="regularisation",
        equation=r"\ell_t(\theta) + \lambda \sum_p \frac{1}{n_p} \sum_{i \in p} (\theta_i - \theta^*_i)^2,\quad "
        r"n_p \text{ weights in tensor } p \text{ (or all weights, or 1)}",
        source="Kirkpatrick et al. 2017, arXiv 1612.00796 (L2); Li et al. 2018, arXiv 1802.01483 (L2-SP)",
        step="1 + a pass of 16 bytes per parameter",
        memory="4 bytes per trainable parameter",
        follows=(
            "the penalty; anchors, factor and reduction are settings. L2-SP's own weaker pull of new layers to "
            "zero is left to weight decay."
        ),
    )

    def __init__(
        self,
        strength: float = 500.0,
        anchor: Anchor = "last_task",
        reduction: Reduction = "mean_per_tensor",
        half: bool = False,
    ) -> None:
        check_strength("strength", strength)
        if anchor not in ("last_task", "warm_start"):
            raise ConfigurationError(f"method.anchor must be one of last_task, warm_start; got {anchor!r}")
        if reduction not in REDUCTIONS:
            raise ConfigurationError(f"method.reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
        self.strength = strength
        self.anchor = anchor
        self.to_warm_start = anchor == "warm_start"
        self.reduction: Reduction = reduction
        self.half = half
        self._anchors: dict[str, Tensor] = {}
        self._pulls: list[Pull] = []
        self._has_past = False

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.strength > 0

    @property
    def works_alone(self) -> bool:
        """The warm start pulls from the first step on."""
        return self.acts and self.to_warm_start

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model, and remember its weights if they are the anchor."""
        super().attach(model, train_seed)
        if self.to_warm_start and self.strength:
            self._anchors = _copies(trainable(model.module))

    def begin_task(self, experience: Experience) -> None:
        """Take the anchors, of what learns in this task."""
        parameters = trainable(self.model.module)
        if self.strength == 0 or not (self.to_warm_start or self._has_past):
            self._pulls = []
            return
        if not self.to_warm_start:
            self._anchors = _copies(parameters)
        else:
            self._anchors |= _copies({name: p for name, p in parameters.items() if name not in self._anchors})
        weights = sum(parameter.numel() for parameter in parameters.values())
        self._pulls = [
            Pull(parameter, self._anchors[name], None, self._scale(parameter.numel(), weights))
            for name, parameter in parameters.items()
        ]

    def edit_gradients(self) -> None:
        """Add the penalty's gradient, in closed form."""
        add_quadratic_gradient(self._pulls, self.strength * (1 if self.half else 2))

    def _scale(self, size: int, weights: int) -> float:
        """What one weight of a tensor of this size counts, in a model of so many weights."""
        return {"sum": 1.0, "mean": 1 / weights, "mean_per_tensor": 1 / max(size, 1)}[self.reduction]

    def end_task(self, experience: Experience, data: Data) -> None:
        """From now on there is a past. The last weights need not be kept: the next task begins with them."""
        self._has_past = True
        if not self.to_warm_start:
            self._anchors, self._pulls = {}, []

    def memory_bytes(self) -> int:
        """A copy of what learns: 4 bytes per parameter, from the second task on (L2) or the first (L2-SP)."""
        if self.strength == 0 or not (self.to_warm_start or self._has_past):
            return 0
        kept = self._anchors or trainable(self.model.module)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The warm start, if it is the anchor: ``anchor.<parameter>``."""
        return {ANCHOR + name: tensor for name, tensor in self._anchors.items()} if self.to_warm_start else {}

    def extra_state(self) -> dict[str, object]:
        """Whether a task has been learnt."""
        return {"has_past": self._has_past}

    def load_state_dict(
        self, state: Mapping[str, Tensor], extra: Mapping[str, object], past: Iterator[tuple[Experience, Data]]
    ) -> None:
        """Continue with the same anchors.

        Raises:
            ValueError: The checkpoint is another method's or another model's.
        """
        require_keys("L2", extra, ["has_past"])
        if not isinstance(extra["has_past"], bool):
            raise ValueError(f"has_past must be true or false; the checkpoint holds {str(extra['has_past'])[:40]!r}")
        kept = self.to_warm_start and self.strength > 0
        parameters = self.model.module.named_parameters() if kept else ()
        expected = {ANCHOR + n: p.detach() for n, p in parameters if p.requires_grad or ANCHOR + n in state}
        require_alike("L2", state, expected)
        require_finite_state(state)
        self._anchors = tensors_named(state, ANCHOR, self.model.device)
        self._has_past = extra["has_past"]


def _copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {n: p.detach().clone(memory_format=torch.contiguous_format) for n, p in parameters.items()}
