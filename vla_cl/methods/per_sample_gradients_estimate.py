"""Importances of a task's parameters, estimated from gradients on samples of its data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vla_cl.interfaces import Data, Model
from vla_cl.methods.per_sample_gradients import PerSampleGradients
from vla_cl.methods.per_sample_gradients_layers import NotPerSampleError, Statistic
from vla_cl.methods.quadratic_penalty import trainable
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Ability, Batch, Draw

Values = Callable[[Batch, Draw, NDArray[np.int64]], Tensor]
"""From a batch, its draw and a number per sample to one value per sample, shape (B,), to be differentiated."""

CHECKED_SAMPLES = 5
"""Samples on which gradients per sample are compared with autograd; rarely the size of anything else."""

PASS = 64
"""Samples of one pass where the gradient of a larger batch's mean is asked for: without noise, or with keyed draws, the
result does not depend on it."""

Reduction = Literal["per_sample", "batch", "weighted_batch"]
MeasuredIn = Literal["evaluation", "training"]
MEASURED_IN: tuple[MeasuredIn, ...] = ("evaluation", "training")


@dataclass(frozen=True)
class Estimate:
    """Mean statistic of the gradients.

    Attributes:
        mean: Parameter name to mean, of the parameter's shape, without gradient.
        samples: How many samples it is a mean of.
        loop_reason: Why the samples had to be taken one by one; None if they had not.
    """

    mean: dict[str, Tensor]
    samples: int
    loop_reason: str | None = None


class SampledGradients:
    """Samples of an experience and what is differentiated on them.

    The samples and their order are a function of seed and experience alone. So is their noise in models with keyed
    draws; in others it depends on the batch, too.

    Args:
        model: Its samples are independent meanwhile.
        data: Of the experience.
        values: What is differentiated.
        samples: How many distinct samples; None, or more than there are: all.
        batch_size: Samples of one pass.
        train_seed: Of the run.
        experience: Its index.
        measured_in: The model's mode meanwhile. ``evaluation``: no augmentation, no dropout, and of what only learning
            uses (the encoder of actions in ACT) nothing is measured. ``training``: as in learning, but that layers with
            running statistics use these and do not change them, since a sample's gradient must be its own.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        values: Values,
        samples: int | None,
        batch_size: int,
        train_seed: int,
        experience: int,
        measured_in: MeasuredIn = "evaluation",
    ) -> None:
        random = generator(train_seed, Purpose.IMPORTANCE, experience)
        count = len(data) if samples is None else min(samples, len(data))
        self.rows = np.sort(random.permutation(len(data))[:count])
        self.seeds = random.integers(2**62, size=count)
        self._model, self._data, self._values = model, data, values
        self._batch_size = batch_size
        self._training = measured_in == "training"
        self._parameters = trainable(model.module)

    def mean(self, statistic: Statistic, reduction: Reduction) -> Estimate:
        """Estimate.

        Args:
            statistic: Of each gradient's entries.
            reduction: ``per_sample``: the gradient of each sample; ``batch``: of the mean over each batch, which is
                cheaper and biased (the square of a mean is smaller than the mean of squares); ``weighted_batch``: the
                same, where a batch counts by its samples (the last one may be smaller).
        """
        with _for_gradients(self._model, self._training):
            if reduction != "per_sample":
                slices = self._slices(self._batch_size)
                return Estimate(self._averaged(slices, statistic, reduction == "weighted_batch"), len(self.rows))
            try:
                return Estimate(self._hooked(statistic), len(self.rows))
            except NotPerSampleError as reason:
                logging.getLogger(__name__).warning("gradients are taken sample by sample, slowly: %s", reason)
                return Estimate(self._loop(statistic), len(self.rows), str(reason))

    def _hooked(self, statistic: Statistic) -> dict[str, Tensor]:
        gradients = PerSampleGradients(self._model.module, self._parameters)
        result = self._zeros()
        few = slice(0, min(CHECKED_SAMPLES, len(self.rows)))
        gradients.check(lambda: self._value(few), few.stop)
        for rows in self._slices(self._batch_size):
            found = gradients.sums(lambda rows=rows: self._value(rows), len(self.rows[rows]), statistic)  # type: ignore[misc]
            for name, added in found.items():
                result[name] += added
        return {name: tensor.div_(len(self.rows)) for name, tensor in result.items()}

    def _loop(self, statistic: Statistic) -> dict[str, Tensor]:
        return self._averaged(self._slices(1), statistic, weighted=False)

    def _averaged(self, slices: list[slice], statistic: Statistic, weighted: bool) -> dict[str, Tensor]:
        """Mean over slices of the statistic of the gradient of the slice's mean; each counts 1, or its samples."""
        result = self._zeros()
        for rows in slices:
            share = len(self.rows[rows]) / len(self.rows) if weighted else 1 / len(slices)
            for name, gradient in self._gradient_of_mean(rows).items():
                result[name].add_(gradient.square() if statistic == "squared" else gradient.abs(), alpha=share)
        return result

    def _gradient_of_mean(self, rows: slice) -> dict[str, Tensor]:
        """The gradient of the mean over a slice, in passes of at most `PASS` samples."""
        count = len(self.rows[rows])
        total: dict[str, Tensor] = {}
        for first in range(rows.start, rows.start + count, PASS):
            part = slice(first, min(first + PASS, rows.start + count))
            share = self._value(part).sum() / count
            gradients = torch.autograd.grad(share, [*self._parameters.values()], allow_unused=True)
            for (name, parameter), gradient in zip(self._parameters.items(), gradients, strict=True):
                if gradient is not None:
                    added = gradient.to(torch.promote_types(parameter.dtype, torch.float32))
                    total[name] = total[name] + added if name in total else added
        return total

    def _value(self, rows: slice) -> Tensor:
        seeds = self.seeds[rows]
        keyed = seeds if Ability.KEYED_DRAWS in self._model.abilities else None
        batch_seed = number(int(seeds[0]), Purpose.IMPORTANCE_BATCH)  # not a sample's own, which its noise follows from
        return self._values(self._data.batch(self.rows[rows]), Draw(batch_seed, keyed), seeds)

    def _slices(self, size: int) -> list[slice]:
        return [slice(first, first + size) for first in range(0, len(self.rows), size)]

    def _zeros(self) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(
                parameter,
                dtype=torch.promote_types(parameter.dtype, torch.float32),
                memory_format=torch.contiguous_format,
            )
            for name, parameter in self._parameters.items()
        }


@contextmanager
def _for_gradients(model: Model, training: bool) -> Iterator[None]:
    """Independent samples and gradients inside, in one mode; every module's mode and the random state after."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in model.module.modules()]
    devices = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(model.independent_samples())
        model.module.train(training)
        for module, _ in modes:
            if isinstance(module, _NormBase):  # with running statistics; the others have no mode
                module.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
