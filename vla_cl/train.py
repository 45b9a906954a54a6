"""The one training loop. Methods edit it; nothing else does.

What a step sees is a pure function of (train_seed, experience, step), so a resumed run continues with the same samples
and the same noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Data, Method, Model
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.types import Batch, ConfigurationError, Draw, Experience


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast.

    Attributes:
        steps: Optimizer steps per experience. An experience of several tasks gets as many per task.
        batch_size: Samples of the present experience in each step, over all processes.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine down to ``final_share`` of it. Each
            experience starts its own.
        warmup_share: Share of an experience's steps spent warming up.
        weight_decay: AdamW's.
        clip_norm: Gradients are scaled down to this norm; 0 leaves them.

    Raises:
        ConfigurationError: A value is out of range.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    final_share: float = 0.01
    warmup_share: float = 0.05
    weight_decay: float = 1e-4
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, math.inf),
            ("batch_size", 1, math.inf),
            ("learning_rate", 0, 1),
            ("final_share", 0, 1),
            ("warmup_share", 0, 1),
            ("weight_decay", 0, math.inf),
            ("clip_norm", 0, math.inf),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigurationError(f"training.{name} must be between {low} and {high}; got {value}")


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: Steps since the start of the experience, 1 after the first.
        total: Steps of the experience.
        loss: Mean over the batch.
        gradient_norm: Before clipping.
        samples: Samples learnt from in this step, replayed ones included.
        seconds: Since the experience's first step began.
    """

    step: int
    total: int
    phase: str
    loss: float
    learning_rate: float
    gradient_norm: float
    samples: int
    seconds: float


@dataclass(frozen=True)
class Processes:
    """The processes that learn together, if torch.distributed was started (``accelerate launch``, torchrun).

    Every process composes the same whole batch and learns from its share of it; gradients are averaged before the
    method edits them. So whatever a method computes from weights, memory and edited gradients is the same everywhere.
    """

    rank: int
    count: int

    @classmethod
    def now(cls) -> Processes:
        """Those of this moment; one if torch.distributed was not started."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls(0, 1)

    def share(self, batch: Batch) -> Batch:
        """Every ``count``-th sample, from this process's own rank on.

        Raises:
            ConfigurationError: There are fewer samples than processes.
        """
        if self.count == 1:
            return batch
        total = len(batch["task"])
        if total < self.count:
            raise ConfigurationError(
                f"{total} samples per step are too few for {self.count} processes; make training.batch_size at least "
                f"{self.count}"
            )
        return {key: value[self.rank :: self.count] for key, value in batch.items()}

    def weight(self, own: Batch, whole: Batch) -> float:
        """What this process's mean counts, so that the average over processes is the mean over the whole batch.

        1 where all have as many samples; replay may add one that cannot be shared.
        """
        return self.count * len(own["task"]) / len(whole["task"])

    def average(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Average the gradients in place; the average of the losses."""
        loss = loss.detach()
        if self.count == 1:
            return loss
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:  # the same collective calls in every process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([loss.reshape(1).float(), *(gradient.flatten().float() for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat[1:], [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat[0]


def learn(
    model: Model,
    method: Method,
    experience: Experience,
    data: Data,
    settings: TrainingSettings,
    train_seed: int,
    first_step: int = 0,
) -> Iterator[StepReport]:
    """Learn one experience, a step at each iteration; the caller logs, evaluates, and must run it to its end.

    Args:
        model: What is trained, in place.
        method: The edits; `Method.attach` has been called.
        experience: What to learn.
        data: Its data.
        settings: Length, batch size, learning rate.
        train_seed: Decides the order of the samples and the noise.
        first_step: Steps of the stream before this experience.

    Yields:
        A report after every optimizer step.

    Raises:
        FloatingPointError: The loss or the gradient is not finite; the weights are those of the step before.
    """
    started = time.perf_counter()
    processes = Processes.now()
    method.begin_task(experience)
    total = settings.steps * len(experience.tasks)
    done = 0
    for phase, steps in method.phases(total):
        method.begin_phase(phase)
        optimizer = method.make_optimizer(
            model.parameter_groups(settings.learning_rate), settings.learning_rate, settings.weight_decay
        )
        share = partial(_learning_rate_share, steps=steps, settings=settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        model.module.train()
        for _ in range(steps):
            rows = sample_rows(len(data), settings.batch_size, done, train_seed, experience.index)
            composed = method.compose(data.batch(rows), first_step + done)
            batch = processes.share(composed)
            draw = Draw(number(train_seed, Purpose.LOSS, experience.index, done, processes.rank))
            loss = method.loss(batch, draw).mean() * processes.weight(batch, composed)
            loss.backward()  # type: ignore[no-untyped-call]
            loss = processes.average(loss, parameters)
            method.edit_gradients()
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
            report = StepReport(
                step=done + 1,
                total=total,
                phase=phase,
                loss=loss.item(),
                learning_rate=float(schedule.get_last_lr()[0]),
                gradient_norm=norm.item(),
                samples=len(composed["task"]),
                seconds=time.perf_counter() - started,
            )
            _require_finite(report, experience)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step()
            done += 1
            yield report
    method.end_task(experience, data)


def sample_rows(total: int, count: int, step: int, train_seed: int, experience: int) -> NDArray[np.int64]:
    """The rows of a step: epochs of shuffled rows behind each other, cut into batches; an epoch has every row."""
    first = step * count
    epochs = range(first // total, (first + count - 1) // total + 1)
    rows = np.concatenate([_permutation(total, epoch, train_seed, experience) for epoch in epochs])
    offset = first - epochs[0] * total
    return rows[offset : offset + count]


@lru_cache(maxsize=4)  # every step of an epoch asks for the same one
def _permutation(total: int, epoch: int, train_seed: int, experience: int) -> NDArray[np.int64]:
    return generator(train_seed, Purpose.ROW_ORDER, experience, epoch).permutation(total)


def _learning_rate_share(step: int, steps: int, settings: TrainingSettings) -> float:
    warmup = max(1, round(steps * settings.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def _require_finite(report: StepReport, experience: Experience) -> None:
    if not (math.isfinite(report.loss) and math.isfinite(report.gradient_norm)):
        raise FloatingPointError(
            f"step {report.step} of experience {experience.name!r} gave loss {report.loss} and gradient norm "
            f"{report.gradient_norm}; the weights have not been changed; lower training.learning_rate, look at the data"
        )
