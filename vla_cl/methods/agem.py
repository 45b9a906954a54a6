"""A-GEM: a gradient, or the step taken with it, must not raise the mean loss on remembered samples, to first order.

Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019, arXiv 1812.00420, equation 11; for robots in
LIBERO (Liu et al., NeurIPS 2023), which keeps the first 1000 samples of each task, looks at as many remembered samples
in a step as at new ones, drawn from all past tasks together, and projects the gradient before it is clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vla_cl.interfaces import Model
from vla_cl.memory.mixing import Mixture
from vla_cl.memory.replay_memory import Selection
from vla_cl.methods.checked_settings import check_count, refuse_idle
from vla_cl.methods.gradient_vectors import (
    add_scaled,
    dot,
    gradients_of,
    require_finite,
    with_gradient,
)
from vla_cl.methods.remembering import RememberingMethod, make_memory
from vla_cl.methods.step_projection import Project, StepTaken, check_project, require_fine_weights
from vla_cl.random_numbers import Purpose, number
from vla_cl.types import Batch, Draw, MethodCard


class AveragedGradientEpisodicMemory(RememberingMethod):
    """Projection onto the half space where the loss on one remembered batch does not rise.

    With ``project: gradient``, as published, the product of the gradient with the remembered batch's gradient g_ref is
    not negative. A step of gradient descent without momentum and weight decay (the paper's optimizer), clipped or not,
    then does not raise the loss on that batch, to first order; one of AdamW may. With ``project: step`` the weights'
    change d by the optimizer, with its momentum, scaling and weight decay, is projected, so that g_ref d is at most 0,
    but for the rounding of the weights; the optimizer's moments stay as they are. Either way g_ref is taken at the
    weights before the step, in training mode, on the samples of this step.

    With several processes each computes the remembered batch's gradient as a whole, since it edits what they averaged.

    Args:
        samples_per_task: Samples kept of each past task (LIBERO: 1000).
        share: Remembered samples per sample of the batch; LIBERO takes as many as new ones; 0 is sequential
            fine-tuning.
        selection: Which samples are kept; ``first`` is LIBERO's rule.
        memory: In place of ``samples_per_task``, see `vla_cl.methods.remembering.make_memory`.
        project: The ``gradient``, before clipping, as the paper and LIBERO do, or the optimizer's ``step``.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "agem"
    card = MethodCard(
        title="Averaged gradient episodic memory (A-GEM)",
        paradigm="replay",
        equation=r"g \leftarrow g - \frac{g^\top g_\mathrm{ref}}{g_\mathrm{ref}^\top g_\mathrm{ref}}\, g_\mathrm{ref}"
        r"\quad\text{if}\ g^\top g_\mathrm{ref} < 0",
        source="Chaudhry et al., ICLR 2019, arXiv 1812.00420",
        step="1 + share, and two dot products",
        memory="samples; during a step 4 bytes per parameter, 8 with project=step",
        follows=(
            "equation 11. The promise is about gradients: it holds for the steps of gradient descent and not of AdamW, "
            "with project=step for the steps of both."
        ),
    )

    def __init__(
        self,
        samples_per_task: int = 1000,
        share: float = 1.0,
        selection: Selection = "uniform",
        memory: Mapping[str, Any] | None = None,
        project: Project = "gradient",
    ) -> None:
        check_count("samples_per_task", samples_per_task)
        self._mixture = Mixture("added", share, ("added",))
        check_project(project)
        self.project = project
        self.share = share
        if memory is not None:
            refuse_idle(type(self), {"samples_per_task": samples_per_task}, "memory", memory)
        self.memory = make_memory(samples_per_task, selection, memory)
        if share:
            self.memory.require_pictures()
        self._step = 0
        self._count = 0
        self._taken = StepTaken()
        self._parameters: list[nn.Parameter] = []  # what the step moves, from `edit_gradients` to `after_step`
        self._reference: list[Tensor] = []  # the remembered batch's gradient, just so long

    @property
    def acts(self) -> bool:
        """Whether its settings ask for an edit."""
        return self.share > 0

    def attach(self, model: Model, train_seed: int) -> None:
        """Meet the model.

        Raises:
            ConfigurationError: The step is to be projected, and the weights are too coarse for it.
        """
        super().attach(model, train_seed)
        require_fine_weights(model.module, self.name, self.project)

    def remembered_count(self, total: int, step: int) -> int:
        """How many remembered samples a step with ``total`` new ones looks at: the share on average over the steps.

        At least one, since a step without a reference would not be edited.
        """
        return max(1, self._mixture.count(total, self.train_seed, step)) if self.share else 0

    def compose(self, batch: Batch, step: int) -> Batch:
        """The batch, unedited; which remembered samples are looked at follows from the step."""
        self._step = step
        self._count = self.remembered_count(len(batch["task"]), step)
        return batch

    def edit_gradients(self) -> None:
        """Take the part out of the gradient that raises the remembered loss, if there is one; or note what that needs.

        Raises:
            FloatingPointError: A gradient is not finite.
        """
        if not (self._count and len(self.memory)):
            return
        parameters = with_gradient(self.model.module)
        remembered = self.memory.sample(self._count, self.train_seed, self._step)
        loss = self.model.loss(remembered, Draw(number(self.train_seed, Purpose.PAST_LOSS, self._step))).mean()
        reference = gradients_of(loss, parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        product = dot(gradients, reference)
        require_finite([product], "the gradient on the batch or on remembered samples")
        if self.project == "step":
            self._parameters, self._reference = parameters, reference
            self._taken.begin(parameters)
        elif product < 0:  # a step goes against the gradient
            _take_out(gradients, reference, product)

    def after_step(self) -> None:
        """With ``project: step``, take the part out of the weights' change that raises the remembered loss."""
        if not self._reference:
            return
        product = dot(self._taken.change(), self._reference)
        if product > 0:
            _take_out(self._parameters, self._reference, product)
        self._parameters, self._reference = [], []


def _take_out(vector: Sequence[Tensor], direction: Sequence[Tensor], product: float) -> None:
    """Make a vector, or weights and with them their change, orthogonal to a direction (equation 11), in place.

    Args:
        vector: What is edited.
        direction: What it, or the weights' change, becomes orthogonal to.
        product: Of both, as it is now.
    """
    if (length := dot(direction, direction)) > 0:
        add_scaled(vector, direction, -product / length)
