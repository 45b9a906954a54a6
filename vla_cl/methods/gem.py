"""GEM: a gradient, or the step taken with it, must not raise the loss on any past task's samples, to first order.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, arXiv 1706.08840. With G the
gradients of the past tasks' memories as rows, the projected gradient is G^T v + g, where v solves the dual program
(equation 11)

    min_v  1/2 v^T (G G^T + eps I) v + (G g)^T v    subject to  v >= margin.

As in the authors' code (facebookresearch/GradientEpisodicMemory, `project2cone2`), ``eps`` makes the program strictly
convex, ``margin`` moves towards the past ("memory strength"), and the gradient is left alone where no past loss would
rise. The paper's equation has neither ``eps`` nor ``margin``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_cl.interfaces import Data, Model
from vla_cl.memory.replay_memory import Selection
from vla_cl.methods.checked_settings import check_count, check_range, refuse_idle
from vla_cl.methods.gradient_vectors import GradientRows, dot, gradients_of, require_finite, with_gradient
from vla_cl.methods.remembering import RememberingMethod, make_memory
from vla_cl.methods.step_projection import Project, StepTaken, check_project, require_fine_weights
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Batch, ConfigurationError, Draw, Experience, MethodCard


class GradientEpisodicMemory(RememberingMethod):
    """Projection onto the cone where the loss on no past task's memory rises.

    With ``project: gradient``, as published, the product of each past task's gradient with the projected one is at
    least -eps times its entry of v, so not negative if ``eps`` is 0. Then a step of gradient descent without momentum
    and weight decay (the paper's optimizer), clipped or not, raises no past loss, to first order; one of AdamW may.
    With ``project: step`` the weights' change d by the optimizer, with its momentum, scaling and weight decay, is
    projected, so that G d is at most 0 for every past task, but for the rounding of the weights; the optimizer's
    moments stay as they are. Either way G is taken at the weights before the step, in training mode, on the samples of
    this step.

    A step has another unit than a gradient: with ``project: step``, v is at least ``margin`` times the length of the
    step over that of the gradient before clipping. Of gradient descent without clipping that is the learning rate, and
    both projections give the same step.

    With several processes each computes the gradients of the memories as a whole, since it edits what they averaged.

    Args:
        samples_per_task: Samples kept of each past task.
        batch_size: Remembered samples of each past task in a step, drawn anew each time without replacement; null: all
            that are kept, as the authors do. A step costs as much as one on (batch + past tasks * this) samples.
        margin: Least v: how far beyond not raising a past loss the step goes; 0 is the plain projection.
        eps: Added to the diagonal of G G^T. It has the unit of a squared gradient: where gradients are much smaller
            than its root, only the margin is left of the projection. 0 with ``project: step``, which promises more.
        selection: Which samples are kept.
        memory: In place of ``samples_per_task``, see `vla_cl.methods.remembering.make_memory`.
        project: The ``gradient``, before clipping, as the authors do, or the optimizer's ``step``.

    Raises:
        ConfigurationError: A setting is out of range, or ``eps`` is above 0 with ``project: step``.
    """

    name = "gem"
    card = MethodCard(
        title="Gradient episodic memory (GEM)",
        paradigm="replay",
        equation=r"g \leftarrow G^\top v + g,\quad v = \arg\min_{v \ge m} \tfrac{1}{2} v^\top (G G^\top + \epsilon I) v"
        r" + (G g)^\top v",
        source="Lopez-Paz and Ranzato, NeurIPS 2017, arXiv 1706.08840",
        step="1 + T batch_size / batch, for T past tasks",
        memory="samples; while learning 4 T bytes per parameter, 4 (T + 1) with project=step",
        follows=(
            "the dual program, with the authors' margin and eps. The promise is about gradients: it holds for the "
            "steps of gradient descent and not of AdamW, with project=step and eps=0 for the steps of both."
        ),
    )

    def __init__(
        self,
        samples_per_task: int = 256,
        batch_size: int | None = 32,
        margin: float = 0.5,
        eps: float = 1e-3,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
        project: Project = "gradient",
    ) -> None:
        check_count("samples_per_task", samples_per_task)
        check_count("batch_size", 1 if batch_size is None else batch_size)
        check_range("margin", margin, 0, 1e6)
        check_range("eps", eps, 0, 1e6)
        check_project(project)
        if project == "step" and eps:
            raise ConfigurationError(
                f"method.eps must be 0 with method.project=step, since it lets a step raise past losses; got {eps}; "
                "give method.eps=0"
            )
        self.project = project
        self.batch_size = batch_size
        self.margin = margin
        self.eps = eps
        if memory is not None:
            refuse_idle(type(self), {"samples_per_task": samples_per_task}, "memory", memory)
        self.memory = make_memory(samples_per_task, selection, memory)
        self.memory.require_pictures()
        self._step = 0
        self._rows: GradientRows | None = None  # kept between steps: pages of new memory are slow to come
        self._taken = StepTaken()
        self._parameters: list[nn.Parameter] = []  # what the step moves, from `edit_gradients` to `after_step`
        self._length = 0.0  # of the gradient, just so long

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: The step is to be projected, and the weights are too coarse for it.
        """
        super().attach(model, train_seed)
        require_fine_weights(model.module, self.name, self.project)

    def compose(self, batch: Batch, step: int) -> Batch:
        """The batch, unedited; which remembered samples are looked at follows from the step."""
        self._step = step
        return batch

    def edit_gradients(self) -> None:
        """Project the gradient if it would raise the loss on a past task's samples; or note what that needs.

        Raises:
            FloatingPointError: A gradient is not finite.
        """
        if not len(self.memory):
            return
        parameters = with_gradient(self.model.module)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        rows = self._past_gradients(parameters)
        flat = rows.flat(gradients)
        products = rows.products(flat).cpu().numpy()
        require_finite(products, "the gradient on the batch or on remembered samples")
        if self.project == "step":
            self._parameters = parameters
            self._length = math.sqrt(dot(gradients, gradients))
            self._taken.begin(parameters)
        elif not (products >= 0).all():
            self._add(rows, flat, self._factors(rows, products, self.margin), gradients)

    def after_step(self) -> None:
        """With ``project: step``, project the weights' change if it would raise the loss on a past task's samples."""
        if not self._parameters:
            return
        rows, change = self._rows, self._taken.change()
        assert rows is not None  # written in `edit_gradients`
        flat = rows.flat(change)
        products = -rows.products(flat).cpu().numpy()  # a step goes against a gradient
        if not (products >= 0).all():
            scale = math.sqrt(dot(change, change)) / self._length if self._length else 0.0
            self._add(rows, flat, -self._factors(rows, products, scale * self.margin), self._parameters)
        self._parameters = []

    @staticmethod
    def _add(rows: GradientRows, flat: Tensor, factors: Tensor, edited: Sequence[Tensor]) -> None:
        """Add the rows, each times its factor, to gradients or weights; ``flat`` is overwritten, to save memory."""
        rows.add_to(flat.zero_(), factors)
        rows.add_parts(flat, edited)

    def _factors(self, rows: GradientRows, products: NDArray[np.float64], margin: float) -> Tensor:
        """The solution of the dual program, shape (past tasks,)."""
        gram = rows.gram().cpu().numpy()
        require_finite(gram.ravel(), "the gradient on remembered samples")
        found = minimise_above((gram + gram.T) / 2 + self.eps * np.eye(len(gram)), products, margin)
        return rows.matrix.new_tensor(found)

    def _past_gradients(self, parameters: list[nn.Parameter]) -> GradientRows:
        """The gradient of the mean loss on each past task's samples, a row each.

        A pass per task: a common pass would need T backward passes over all tasks' samples.
        """
        picks = self.memory.everything()
        past = list(dict.fromkeys(picks[:, 0].tolist()))
        if self._rows is None or not self._rows.fits(len(past), parameters):
            self._rows = GradientRows(len(past), parameters)
        for row, experience in enumerate(past):
            chosen = self._some(picks[picks[:, 0] == experience])
            draw = Draw(number(self.train_seed, Purpose.PAST_LOSS, self._step, experience))
            loss = self.model.loss(self.memory.fetch(chosen), draw).mean()
            self._rows.write(row, gradients_of(loss, parameters))
        return self._rows

    def _some(self, picks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Remembered samples of one past task for this step."""
        if self.batch_size is None or len(picks) <= self.batch_size:
            return picks
        random = generator(self.train_seed, Purpose.PAST_ROWS, self._step, int(picks[0, 0]))
        some: NDArray[np.int64] = picks[np.sort(random.choice(len(picks), self.batch_size, replace=False))]
        return some

    def end_task(self, experience: Experience, data: Data) -> None:
        """Remember samples of what was just learnt."""
        self._rows = None
        super().end_task(experience, data)


def minimise_above(matrix: NDArray[np.float64], vector: NDArray[np.float64], low: float) -> NDArray[np.float64]:
    """The v >= low that minimises 1/2 v^T A v + b^T v, exactly but for rounding.

    The active-set algorithm of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23) on v - low: each
    round frees the bound that holds the objective back most, and solves for what is free.

    Args:
        matrix: A, symmetric, positive semidefinite, shape (n, n).
        vector: b, shape (n,).
        low: Bound of every entry.

    Returns:
        v, shape (n,).
    """
    count = len(vector)
    offset = vector + low * matrix.sum(1)  # of the program in v - low
    found: NDArray[np.float64] = np.zeros(count)
    free: NDArray[np.bool_] = np.zeros(count, dtype=bool)
    tolerance = 1e-13 * max(float(np.abs(offset).max()), float(np.abs(matrix).max()))
    for _ in range(3 * count):
        descent = np.where(free, -np.inf, -offset - matrix @ found)
        if descent.max() <= tolerance:
            break
        free[int(descent.argmax())] = True
        while free.any():
            target = np.zeros(count)
            target[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], -offset[free])[0]
            blocked = free & (target <= 0)
            if not blocked.any():
                found = target
                break
            ways = np.where(blocked, found / np.maximum(found - target, np.finfo(float).tiny), np.inf)
            found = np.where(free, found + ways.min() * (target - found), 0)
            free[int(ways.argmin())] = False
            found[~free] = 0
    return found + low
