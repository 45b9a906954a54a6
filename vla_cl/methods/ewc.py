"""Elastic weight consolidation (EWC): weights that mattered for past tasks, by the diagonal of the Fisher, move less.

Kirkpatrick et al. 2017, arXiv 1612.00796: penalty strength / 2 * sum_t sum_i F_ti (theta_i - theta*_ti)^2, with
F_ti = E[(d log p / d theta_i)^2] on task t. Schwarz et al. 2018, arXiv 1805.06370, "online": one quadratic around the
last weights, F <- gamma F + F_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Distillable
from vla_cl.methods.checked_settings import MAX_BATCH, check_count, check_range, refuse_idle
from vla_cl.methods.per_sample_gradients_estimate import MEASURED_IN, MeasuredIn, SampledGradients
from vla_cl.methods.quadratic_penalty import ImportancePenalty
from vla_cl.methods.saved_state import require_alike
from vla_cl.random_numbers import Purpose, number
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard

Mode = Literal["online", "separate"]
Estimator = Literal["empirical", "model"]
Fisher = Literal["per_sample", "batch", "weighted_batch", "steps", "falling_steps"]
FISHERS: tuple[Fisher, ...] = ("per_sample", "batch", "weighted_batch", "steps", "falling_steps")
WHILE_LEARNING: tuple[Fisher, ...] = ("steps", "falling_steps")

_SQUARES, _COUNTS = "squares.", "counts"

CERTAIN = 1e4
"""A logit that makes a token certain, in half precision too."""


class ElasticWeightConsolidation(ImportancePenalty):
    """EWC.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        mode: ``online``: one quadratic around the last weights; ``separate``: the sum of one quadratic per task, kept
            merged into one, exactly.
        gamma: What is left of the importance of earlier tasks after each task, with ``online``.
        fisher: After the task, ``per_sample``: mean of the squared gradients of samples, the Fisher's diagonal;
            ``batch``: mean of the squared gradients of batches, as in LIBERO, which is smaller by up to the batch size;
            ``weighted_batch``: the same, where each batch counts by its samples, as in CLoG.
            While the task is learnt, from the gradients of its steps g_1, g_2, ..., penalty included, before clipping,
            ``steps``: their squares' sum over the steps of an epoch, as in TRACE, which grows with the epochs;
            ``falling_steps``: the sum of g_s^2 / s, as in LLMCL. The next four settings have no effect with these two,
            and are refused.
        samples: Of a task, to estimate its Fisher on; None for all.
        batch_size: Samples of one pass; it changes the result with ``batch`` and ``weighted_batch``, and for models
            that draw their noise for a whole batch at once (those without `Ability.KEYED_DRAWS` whose loss is noisy).
        measured_in: The model's mode meanwhile. ``evaluation``, without augmentation and dropout: what acts is
            protected, and what only learning uses (the encoder of actions in ACT) has no importance; ``training``: what
            lowers the training loss is protected, as in LIBERO. Running statistics stand still in both.
        estimator: ``empirical``: gradients at the data's own targets, the empirical Fisher; ``model``: at targets drawn
            from the model itself, the Fisher proper. Actions, velocities and noise are then means of normal
            distributions of unit variance, whatever the loss (a regressed action's absolute error included); tokens are
            categorical. As in the loss, d squared differences are averaged, so their Fisher is (2 / d)^2 times that of
            their joint density (and n tokens' 1 / n^2 times); ``normalise`` takes such factors away. Needs a model
            whose outputs can be compared.
        half: Whether the penalty is strength / 2 * sum_i ...
        normalise: Divide each task's Fisher by its largest entry, so that ``strength`` means the same for any loss.

    Raises:
        ConfigurationError: A setting is out of range, or targets are to be drawn while the task is learnt.
    """

    name = "ewc"
    card = MethodCard(
        title="Elastic weight consolidation (EWC)",
        paradigm="regularisation",
        equation=(
            r"\ell_t(\theta) + \tfrac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2, \quad "
            r"F \leftarrow \gamma F + \tfrac{1}{N} \sum_n \left(\nabla_\theta \log p(y_n | x_n)\right)^2"
        ),
        source="Kirkpatrick et al. 2017, arXiv 1612.00796; online: Schwarz et al. 2018, arXiv 1805.06370",
        step="1 + a pass of 20 bytes per parameter",
        memory="8 bytes per trainable parameter, for any number of tasks; 4 more while it learns, for some Fishers",
        follows=(
            "the penalty and both ways to join tasks. Each preset says whose Fisher it takes, where that differs, and "
            "in which mode of the model it is measured."
        ),
    )
    needs = frozenset({Ability.PER_SAMPLE_LOSSES})  # of the default settings

    def __init__(
        self,
        strength: float = 1e4,
        mode: Mode = "online",
        gamma: float = 1.0,
        fisher: Fisher = "per_sample",
        estimator: Estimator = "empirical",
        half: bool = True,
        normalise: bool = False,
        samples: int | None = 1024,
        batch_size: int = 64,
        measured_in: MeasuredIn = "evaluation",
    ) -> None:
        super().__init__(strength, half)
        for setting, value, allowed in (
            ("mode", mode, ("online", "separate")),
            ("fisher", fisher, FISHERS),
            ("estimator", estimator, ("empirical", "model")),
            ("measured_in", measured_in, MEASURED_IN),
        ):
            if value not in allowed:
                raise ConfigurationError(f"method.{setting} must be one of {', '.join(allowed)}; got {value!r}")
        check_range("gamma", gamma, 0, 1)
        if mode == "separate" and gamma != 1:
            raise ConfigurationError(f"method.gamma must be 1 with mode separate, which forgets no task; got {gamma}")
        if samples is not None:
            check_count("samples", samples)
        check_count("batch_size", batch_size, 1, MAX_BATCH)
        if fisher in WHILE_LEARNING and estimator == "model":
            raise ConfigurationError(
                f"method.estimator must be empirical with method.fisher={fisher}, whose gradients are those of the "
                "steps; got 'model'; use fisher=per_sample or batch to draw targets"
            )
        if fisher in WHILE_LEARNING:
            measured = {"samples": samples, "batch_size": batch_size, "measured_in": measured_in}
            refuse_idle(type(self), measured, "fisher", fisher)
        self.mode = mode
        self.gamma = gamma
        self.fisher: Fisher = fisher
        self.estimator = estimator
        self.normalise = normalise
        self.samples = samples
        self.batch_size = batch_size
        self.measured_in: MeasuredIn = measured_in
        self._squares: dict[str, Tensor] = {}  # of the steps' gradients, while a task is learnt
        self._steps = 0
        self._samples_of_step = 1
        needed = {Ability.PER_SAMPLE_LOSSES} if fisher == "per_sample" else set()
        self.needs = frozenset({Ability.OUTPUTS}) if estimator == "model" else frozenset(needed)

    def begin_task(self, experience: Experience) -> None:
        """Look up what learns; begin the sum over steps, if that is the Fisher."""
        super().begin_task(experience)
        self._squares, self._steps = {}, 0
        if self.strength and self.fisher in WHILE_LEARNING:
            self._squares = {
                name: torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
                for name, parameter in self.parameters.items()
            }

    def compose(self, batch: Batch, step: int) -> Batch:
        """The batch, unedited; its size decides how many steps an epoch has."""
        self._samples_of_step = len(batch["task"])
        return batch

    @torch.no_grad()
    def edit_gradients(self) -> None:
        """Add the penalty's gradient; of the sum of both, add the squares to the Fisher that is taken meanwhile."""
        super().edit_gradients()
        self._steps += 1
        weight = 1 / self._steps if self.fisher == "falling_steps" else 1.0
        for name, total in self._squares.items():
            if (gradient := self.parameters[name].grad) is not None:
                total.addcmul_(gradient.to(total), gradient.to(total), value=weight)

    def midway_state(self) -> dict[str, Tensor]:
        """The sum of squares so far, if the Fisher is taken while a task is learnt, and over how many steps."""
        if not self._squares:
            return {}
        counts = torch.tensor([self._steps, self._samples_of_step])
        return {_SQUARES + name: total for name, total in self._squares.items()} | {_COUNTS: counts}

    def load_midway_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on adding.

        Raises:
            ValueError: It is the sum of other parameters.
        """
        require_alike("EWC", state, self.midway_state())
        for name, total in self._squares.items():
            total.copy_(state[_SQUARES + name])
        if self._squares:
            self._steps, self._samples_of_step = state[_COUNTS].tolist()

    def end_task(self, experience: Experience, data: Data) -> None:
        """Add the Fisher of what was just learnt."""
        super().end_task(experience, data)
        if self.strength == 0:
            return
        importance = self._importance(experience, data)
        if self.normalise:
            _divide_by_maximum(importance)
        weights = dict(self.model.module.named_parameters())
        if self.mode == "separate":
            self.penalty.merge(importance, weights)
        else:
            self.penalty.replace(self.gamma, importance, weights)

    def _importance(self, experience: Experience, data: Data) -> dict[str, Tensor]:
        """The task's Fisher, parameter name to tensor."""
        if self.fisher == "per_sample" or self.fisher == "batch" or self.fisher == "weighted_batch":
            values = self._loss_of_drawn_targets if self.estimator == "model" else self._loss
            sampled = SampledGradients(
                self.model,
                data,
                values,
                self.samples,
                self.batch_size,
                self.train_seed,
                experience.index,
                self.measured_in,
            )
            return sampled.mean("squared", self.fisher).mean
        importance, self._squares = self._squares, {}
        if self.fisher == "steps":
            steps_of_epoch = math.ceil(len(data) / self._samples_of_step)
            for total in importance.values():
                total /= steps_of_epoch
        return importance

    def _loss(self, batch: Batch, draw: Draw, seeds: NDArray[np.int64]) -> Tensor:
        return self.model.loss(batch, draw)

    def _loss_of_drawn_targets(self, batch: Batch, draw: Draw, seeds: NDArray[np.int64]) -> Tensor:
        assert isinstance(self.model, Distillable)
        outputs = self.model.outputs(batch, draw)
        return self.model.distance(outputs, drawn_targets(self.model, outputs.detach(), batch, seeds), batch, 1.0)


def drawn_targets(model: Distillable, outputs: Tensor, batch: Batch, seeds: NDArray[np.int64]) -> Tensor:
    """Targets drawn from the distribution that a model's outputs stand for, as a teacher's outputs.

    Args:
        model: Its `distance` tells whether outputs are logits: it then stays zero when all of them grow by one.
        outputs: Shape (B, ...), without gradient.
        batch: The samples.
        seeds: A number per sample; a sample's target follows from its own alone.

    Returns:
        For logits (B, ..., V): one certain token at each place; else outputs + standard normal noise.
    """
    generators = [torch.Generator().manual_seed(number(seed, Purpose.DRAWN_TARGET)) for seed in seeds.tolist()]
    if model.distance(outputs, outputs + 1, batch, 1.0).max() > 1e-3:
        noise = [torch.randn(outputs.shape[1:], generator=generator) for generator in generators]
        return outputs + torch.stack(noise).to(outputs)
    probabilities = outputs.float().softmax(-1).flatten(1, -2).cpu()
    drawn = [torch.multinomial(rows, 1, generator=g) for rows, g in zip(probabilities, generators, strict=True)]
    places = torch.stack(drawn).view(*outputs.shape[:-1], 1).to(outputs.device)
    return torch.zeros_like(outputs).scatter_(-1, places, CERTAIN)


def _divide_by_maximum(importance: dict[str, Tensor]) -> None:
    largest = max((tensor.max().item() for tensor in importance.values() if tensor.numel()), default=0.0)
    if largest > 0:
        for tensor in importance.values():
            tensor /= largest
