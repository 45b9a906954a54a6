"""Elastic weight consolidation (EWC): weights that mattered for past tasks, by the diagonal of the Fisher, move less.

Kirkpatrick et al. 2017, arXiv 1612.00796: penalty strength / 2 * sum_t sum_i F_ti (theta_i - theta*_ti)^2, with
F_ti = E[(d log p / d theta_i)^2] on task t. Schwarz et al. 2018, arXiv 1805.06370, "online": one quadratic around the
last weights, F <- gamma F + F_t.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Distillable
from vla_cl.methods.per_sample_gradients_estimate import Reduction, SampledGradients
from vla_cl.methods.quadratic_penalty import ImportancePenalty
from vla_cl.methods.task_counting import check_range
from vla_cl.types import Ability, Batch, ConfigurationError, Draw, Experience, MethodCard

Mode = Literal["online", "separate"]
Estimator = Literal["empirical", "model"]

CERTAIN = 1e4
"""A logit that makes a token certain, in half precision too."""


class ElasticWeightConsolidation(ImportancePenalty):
    """EWC.

    Args:
        strength: Of the penalty; 0 is sequential fine-tuning.
        mode: ``online``: one quadratic around the last weights; ``separate``: the sum of one quadratic per task, kept
            merged into one, exactly.
        gamma: What is left of the importance of earlier tasks after each task, with ``online``.
        fisher: ``per_sample``: mean of the squared gradients of samples, the Fisher's diagonal; ``batch``: mean of the
            squared gradients of batches, as in LIBERO, which is smaller by up to the batch size.
        estimator: ``empirical``: gradients of the loss, so of the data's targets; ``model``: targets drawn from the
            model itself, the Fisher proper. Actions, velocities and noise are then means of normal distributions of
            unit variance, whatever the loss (a regressed action's absolute error included); tokens are categorical.
            As in the loss, d squared differences are averaged, so their Fisher is (2 / d)^2 times that of their joint
            density (and n tokens' 1 / n^2 times); ``normalise`` takes such factors away. Needs a model whose outputs
            can be compared.
        half: Whether the penalty is strength / 2 * sum_i ...
        normalise: Divide each task's Fisher by its largest entry, so that ``strength`` means the same for any loss.
        samples: Of a task, to estimate its Fisher on; None for all.
        batch_size: Samples of one pass; with ``batch`` it changes the result.

    Raises:
        ConfigurationError: A setting is out of range.
    """

    name = "ewc"
    card = MethodCard(
        title="Elastic weight consolidation (EWC)",
        family="regularisation",
        equation=(
            r"\ell_t(\theta) + \tfrac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2, \quad "
            r"F \leftarrow \gamma F + \tfrac{1}{N} \sum_n \left(\nabla_\theta \log p(y_n | x_n)\right)^2"
        ),
        source="Kirkpatrick et al. 2017, arXiv 1612.00796; online: Schwarz et al. 2018, arXiv 1805.06370",
        step="1 + a pass of 20 bytes per parameter",
        memory="8 bytes per trainable parameter, for any number of tasks",
        follows=(
            "the penalty and both ways to join tasks. Each preset says whose Fisher it takes, and where that differs."
        ),
    )
    needs = frozenset({Ability.PER_SAMPLE_LOSSES})  # of the default settings

    def __init__(
        self,
        strength: float = 1e4,
        mode: Mode = "online",
        gamma: float = 1.0,
        fisher: Reduction = "per_sample",
        estimator: Estimator = "empirical",
        half: bool = True,
        normalise: bool = False,
        samples: int | None = 1024,
        batch_size: int = 64,
    ) -> None:
        super().__init__(strength, half)
        for setting, value, allowed in (
            ("mode", mode, ("online", "separate")),
            ("fisher", fisher, ("per_sample", "batch")),
            ("estimator", estimator, ("empirical", "model")),
        ):
            if value not in allowed:
                raise ConfigurationError(f"method.{setting} must be one of {', '.join(allowed)}; got {value!r}")
        check_range("gamma", gamma, 0, 1)
        if mode == "separate" and gamma != 1:
            raise ConfigurationError(f"method.gamma must be 1 with mode separate, which forgets no task; got {gamma}")
        if samples is not None:
            check_range("samples", samples, 1, 1e9)
        check_range("batch_size", batch_size, 1, 1e6)
        self.mode = mode
        self.gamma = gamma
        self.fisher: Reduction = fisher
        self.estimator = estimator
        self.normalise = normalise
        self.samples = samples
        self.batch_size = batch_size
        needed = {Ability.PER_SAMPLE_LOSSES} if fisher == "per_sample" else set()
        self.needs = frozenset({Ability.OUTPUTS}) if estimator == "model" else frozenset(needed)

    def end_task(self, experience: Experience, data: Data) -> None:
        """Add the Fisher of what was just learnt."""
        if self.strength == 0:
            return
        seed = [self.train_seed, experience.index]
        values = self._loss_of_drawn_targets if self.estimator == "model" else self._loss
        sampled = SampledGradients(self.model, data, values, self.samples, self.batch_size, seed)
        importance = sampled.mean("squared", self.fisher).mean
        if self.normalise:
            _divide_by_maximum(importance)
        weights = dict(self.model.module.named_parameters())
        if self.mode == "separate":
            self.penalty.merge(importance, weights)
        else:
            self.penalty.replace(self.gamma, importance, weights)

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
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
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
