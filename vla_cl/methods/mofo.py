"""MoFO: AdamW that in each step moves only the entries with the largest momentum.

Chen et al., "MoFO: momentum-filtered optimizer for mitigating forgetting in LLM fine-tuning", arXiv 2407.20999: of each
tensor, the share alpha of entries with the largest momentum is updated; the others stay nearer to where the task began.
The paper's algorithm is Adam without decay; the authors' code decays every entry, moved or not, and updates biases and
normalisation layers in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from vla_cl.interfaces import Model
from vla_cl.methods.checked_settings import check_above, check_count
from vla_cl.methods.task_counting import TaskCountingMethod
from vla_cl.types import ConfigurationError, MethodCard

Decay = Literal["all", "moved"]
DECAYS: tuple[Decay, ...] = ("all", "moved")

_WORTH_COUNTING = 2**14
"""From this many entries on, counting by leading bits is faster than torch's selection."""


class MomentumFilteredOptimizer(TaskCountingMethod):
    """Sequential fine-tuning but for the optimizer, whose moments stay those of AdamW.

    Args:
        alpha: Share of each tensor's entries that a step moves (the authors advise 0.05 to 0.2; a benchmark of
            text-to-image models uses 0.5); 1 is sequential fine-tuning.
        decay: Which entries weight decay shrinks: ``all``, as the authors' code does, or ``moved``, so that an entry
            that is never moved stays bit for bit.
        vectors: Whether tensors of one dimension (biases, normalisation) are filtered too; the authors' code does not.
        from_task: First task that is filtered; 1 where the run starts from a pretrained model.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "mofo"
    card = MethodCard(
        title="Momentum-filtered optimizer (MoFO)",
        paradigm="regularisation",
        equation=(
            r"\theta \leftarrow \theta - \eta\, \frac{\hat m \odot \mathbb{1}\left[|\hat m| "
            r"\text{ among the largest } \alpha \text{ of its tensor}\right]}{\sqrt{\hat v} + \epsilon}"
        ),
        source="Chen et al. 2024, arXiv 2407.20999",
        step="1 + a selection in each tensor (about one more optimizer step)",
        memory="0",
        follows="the authors' optimizer. Ours: the first task is learnt plainly.",
    )

    def __init__(self, alpha: float = 0.15, decay: Decay = "all", vectors: bool = False, from_task: int = 2) -> None:
        check_above("alpha", alpha, 0, 1)
        if decay not in DECAYS:
            raise ConfigurationError(f"method.decay must be one of {', '.join(DECAYS)}; got {decay!r}")
        check_count("from_task", from_task)
        self.alpha = alpha
        self.decay: Decay = decay
        self.vectors = vectors
        self.from_task = from_task

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.alpha < 1

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: No tensor that learns would be filtered.
        """
        super().attach(model, train_seed)
        learning = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
        if self.acts and not any(p.numel() > 1 and (self.vectors or p.ndim > 1) for p in learning):
            raise ConfigurationError(
                f"method 'mofo' would filter nothing: of {model.name} only tensors of one dimension are trained; "
                "set method.vectors=true, or train more of it"
            )

    def make_optimizer(self, groups: list[dict[str, Any]], learning_rate: float, weight_decay: float) -> Optimizer:
        """The filtered optimizer; plain AdamW before ``from_task`` and where alpha is 1."""
        if self.tasks_learnt + 1 < self.from_task or self.alpha == 1:
            return super().make_optimizer(groups, learning_rate, weight_decay)
        return MomentumFilteredAdamW(groups, learning_rate, weight_decay, self.alpha, self.decay, self.vectors)


class MomentumFilteredAdamW(AdamW):
    """AdamW whose momentum moves only the entries where it is largest in each tensor.

    Moments are those of AdamW, of moved and unmoved entries alike. The selection in each tensor is exact; it costs
    about as much as AdamW's own step again.

    Args:
        groups: Of parameters, as for any optimizer.
        learning_rate: Of groups without their own.
        weight_decay: Decoupled.
        alpha: Share of each tensor's entries to move, rounded down as by the authors, at least one entry.
        decay: As in `MomentumFilteredOptimizer`.
        vectors: As in `MomentumFilteredOptimizer`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        alpha: float,
        decay: Decay = "all",
        vectors: bool = True,
    ) -> None:
        super().__init__(groups, lr=learning_rate, weight_decay=weight_decay)
        self._alpha = alpha
        self._decay = decay
        self._vectors = vectors

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Operations and their order are AdamW's, so that what is moved is moved to the same bits."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        momentum = state["exp_avg"].lerp_(gradient, 1 - beta1)
        squares = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if self._alpha < 1 and (self._vectors or parameter.ndim > 1):
            momentum = largest_only(momentum, max(1, int(self._alpha * parameter.numel())))
        kept = 1 - group["lr"] * group["weight_decay"]
        if self._decay == "all":
            parameter.mul_(kept)
        else:
            torch.where(momentum != 0, parameter * kept, parameter, out=parameter)
        scale = squares.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(momentum, scale, value=-group["lr"] / (1 - beta1**step))


def largest_only(values: Tensor, count: int) -> Tensor:
    """The ``count`` values of largest magnitude where they are, 0 elsewhere; never more, ties or not."""
    if values.dtype != torch.float32 or values.is_cuda or values.numel() < _WORTH_COUNTING:
        flat = values.flatten()
        chosen = torch.zeros_like(flat)
        places = torch.topk(flat.abs(), count, sorted=False).indices
        chosen[places] = flat[places]
        return chosen.view(values.shape)
    # Without their sign, floats are ordered as their bits are: count by the leading bits which of them the threshold
    # has, and select only among the values that share them. Whole tensors are written twice, not sorted.
    flat = values.flatten()
    bits = flat.view(torch.int32)
    leading = (bits >> 16).bitwise_and_(0x7FFF)
    counts = torch.bincount(leading)
    at_least = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, count))
    border = len(counts) - 1 - place
    among = torch.from_numpy(np.flatnonzero(leading.numpy() == border))  # a fifth of torch's time
    needed = count - int(at_least[place] - counts[border])
    chosen = among[torch.topk(flat[among].abs(), needed, sorted=False).indices]
    largest_at_border = torch.tensor((border << 16) | 0xFFFF, dtype=torch.int32).view(torch.float32).item()
    result = functional.hardshrink(flat, largest_at_border)  # zero up to there, in one pass
    result[chosen] = flat[chosen]
    return result.view(values.shape)
