"""Maximally interfered retrieval (MIR): replay the samples that the coming step would harm most.

Aljundi et al., "Online continual learning with maximally interfered retrieval", NeurIPS 2019, arXiv 1908.04742.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.memory.mixing import Mixing, take, union_losses
from vla_cl.memory.replay_memory import Selection
from vla_cl.methods.checked_settings import MAX_LEARNING_RATE, check_above, check_count, check_range, refuse_idle
from vla_cl.methods.er import ReplayMethod
from vla_cl.random_numbers import Purpose, number
from vla_cl.types import Ability, Batch, Draw, Experience, MethodCard


class MaximallyInterferedRetrieval(ReplayMethod):
    """Replay of those candidates whose loss rises most in a virtual step on the current samples.

    The virtual step is plain gradient descent; weights and buffers are put back bit for bit. Losses before and after
    it are compared under the same noise. With several processes each chooses for the whole batch, so this part of the
    computation is not shared between them.

    Args:
        samples_per_task: Samples kept of each past task.
        selection: Which samples are kept.
        memory: In place of both, see `vla_cl.methods.remembering.make_memory`.
        mixing: ``replaced`` or ``added``, as in ER.
        share: Remembered samples per sample of the batch that the loop hands over.
        candidates: Candidates per remembered sample that is learnt from (the paper: 50 for 10).
        virtual_learning_rate: Of the virtual step. The paper takes that of its learner, gradient descent; here the
            learner is AdamW, so it is a setting of its own.
        refresh_every: Steps that learn from one choice; each task begins with a new one.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "mir"
    card = MethodCard(
        title="Maximally interfered retrieval (MIR)",
        paradigm="replay",
        equation=(
            r"M_t = \operatorname{top-}k_{x \in C}\; \ell(\theta - \eta \nabla \ell_t(\theta); x) - \ell(\theta; x), "
            r"\quad \mathbb{E}_{x \sim D_t \cup M_t}\left[\ell(\theta; x)\right]"
        ),
        source="Aljundi et al., NeurIPS 2019, arXiv 1908.04742",
        step="ER's, and per refresh: a gradient of the current samples, two forward passes of the candidates",
        memory="samples; during a refresh 8 bytes per parameter",
        follows=(
            "the virtual step and the choice by rise of the loss. Not followed: the search among the best losses "
            "of the past."
        ),
    )
    needs = frozenset({Ability.PER_SAMPLE_LOSSES})

    def __init__(
        self,
        samples_per_task: int = 1000,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
        mixing: Mixing = "replaced",
        share: float = 0.5,
        candidates: float = 2.0,
        virtual_learning_rate: float = 0.1,
        refresh_every: int = 1,
    ) -> None:
        super().__init__(samples_per_task, mixing, share, selection, memory, mixings=("added", "replaced"))
        check_range("candidates", candidates, 1, 64)
        check_above("virtual_learning_rate", virtual_learning_rate, 0, MAX_LEARNING_RATE)
        check_count("refresh_every", refresh_every)
        if candidates == 1 and refresh_every == 1:  # all candidates are learnt from, in any order
            refuse_idle(type(self), {"virtual_learning_rate": virtual_learning_rate}, "candidates", candidates)
        self.candidates = candidates
        self.virtual_learning_rate = virtual_learning_rate
        self.refresh_every = refresh_every
        self._chosen: NDArray[np.int64] | None = None
        self._chosen_at = 0

    def begin_task(self, experience: Experience) -> None:
        """The first step chooses anew."""
        self._chosen = None

    def midway_state(self) -> dict[str, Tensor]:
        """The choice that serves several steps, and the step at which it was made."""
        if self._chosen is None:
            return {}
        return {"chosen": torch.from_numpy(self._chosen.copy()), "chosen_at": torch.tensor(self._chosen_at)}

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Keep to the choice."""
        if state:
            self._chosen, self._chosen_at = state["chosen"].numpy(), int(state["chosen_at"])

    def compose(self, batch: Batch, step: int) -> Batch:
        """Mix the chosen samples in, once anything is remembered."""
        if not self.replays:
            return batch
        count = self.remembered_count(batch, step)
        if not count:
            return self.mixture.union(batch, None)
        if self._chosen is None or len(self._chosen) < count or step - self._chosen_at >= self.refresh_every:
            # a choice that serves several steps must be enough for the one that learns from most
            wanted = count if self.refresh_every == 1 else self.mixture.most(len(batch["task"]))
            self._chosen, self._chosen_at = self.choose(batch, wanted, step), step
        return self.mixture.union(batch, self.memory.fetch(self._chosen[:count]))

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample, shape (B,); on average over the steps their mean is that of the union."""
        return union_losses(self.model.loss(batch, draw), batch)

    def choose(self, batch: Batch, count: int, step: int) -> NDArray[np.int64]:
        """The ``count`` most interfered ones of the candidates, the worst first, as `ReplayMemory.pick` names them.

        A candidate that was drawn twice counts once, unless too few would be left. Of equal ones the earlier is taken.
        """
        candidates = self.memory.pick(math.ceil(round(count * self.candidates, 6)), self.train_seed, step)
        different = np.unique(candidates, axis=0)
        candidates = different if len(different) >= count else candidates
        current = take(batch, self.mixture.current(len(batch["task"]), count))
        rise = self._loss_rise(current, self.memory.fetch(candidates), step)
        order = torch.argsort(rise, descending=True, stable=True)[:count]
        chosen: NDArray[np.int64] = candidates[order.cpu().numpy()]
        return chosen

    def _loss_rise(self, current: Batch, candidates: Batch, step: int) -> Tensor:
        """How much a step on ``current`` would raise the loss of each candidate, shape (number of candidates,)."""
        of_current = Draw(number(self.train_seed, Purpose.VIRTUAL_STEP, step))
        of_candidates = Draw(number(self.train_seed, Purpose.VIRTUAL_COMPARISON, step))
        if not len(current["task"]):  # all of the batch is replaced: there is no step to foresee
            return torch.zeros(len(candidates["task"]))
        with self._weights_put_back() as parameters:
            with torch.enable_grad():
                loss = self.model.loss(current, of_current).mean()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                before = self.model.loss(candidates, of_candidates)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=self.virtual_learning_rate)
                return self.model.loss(candidates, of_candidates) - before

    @contextmanager
    def _weights_put_back(self) -> Iterator[list[Tensor]]:
        """Gives what is trainable; afterwards weights and buffers are what they were, bit for bit."""
        module = self.model.module
        parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        changeable = [*parameters, *module.buffers()]
        copies = [tensor.detach().clone() for tensor in changeable]
        try:
            yield parameters
        finally:
            with torch.no_grad():
                for tensor, copy in zip(changeable, copies, strict=True):
                    tensor.copy_(copy)
