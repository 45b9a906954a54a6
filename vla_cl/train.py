"""The one training loop. Methods edit it; nothing else does.

What a step sees is a pure function of (train_seed, experience, step), so a resumed run continues with the same samples
and the same noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.interfaces import Data, Method, Model
from vla_cl.types import ConfigurationError, Draw, Experience


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast.

    Attributes:
        steps: Optimizer steps per experience. An experience of several tasks gets as many per task.
        batch_size: Samples of the present experience in each step.
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
    method.begin_task(experience)
    total = settings.steps * len(experience.tasks)
    done = 0
    for phase, steps in method.phases(total):
        method.begin_phase(phase)
        optimizer = torch.optim.AdamW(
            model.parameter_groups(settings.learning_rate),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        share = partial(_learning_rate_share, steps=steps, settings=settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        model.module.train()
        for _ in range(steps):
            rows = sample_rows(len(data), settings.batch_size, done, train_seed, experience.index)
            batch = method.compose(data.batch(rows), first_step + done)
            draw = Draw(seed=_seed(train_seed, experience.index, done))
            loss = method.loss(batch, draw).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            method.edit_gradients()
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
            report = StepReport(
                step=done + 1,
                total=total,
                phase=phase,
                loss=loss.item(),
                learning_rate=float(schedule.get_last_lr()[0]),
                gradient_norm=norm.item(),
                samples=len(batch["task"]),
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
    return np.random.default_rng([train_seed, experience, epoch]).permutation(total)


def _seed(train_seed: int, experience: int, step: int) -> int:
    return int(np.random.SeedSequence([train_seed, experience, step]).generate_state(1, np.uint64)[0] >> 1)


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
