"""The one training loop. Methods edit it; nothing else does.

What a step sees is a pure function of (train_seed, experience, step), so a resumed run continues with the same samples
and the same noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from vla_cl.interfaces import Data, Method, Model
from vla_cl.random_numbers import Purpose, generator, number
from vla_cl.training.step_report import Figures, StepReport, answers_at_once, require_numbers
from vla_cl.types import Batch, ConfigurationError, Draw, Experience

_OPTIMIZER, _NUMBER, _METHOD, _MODEL = "optimizer.", "number.", "method.", "model."
_KINDS = {bool: torch.int64, int: torch.int64, float: torch.float64}
_MOST = 10**9


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
        save_every: Optimizer steps after which a run notes where it is, so that a kill loses no more; 0: only when it
            is asked to stop, and at the end of an experience. It changes no weight.

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
    save_every: int = 500

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, _MOST),
            ("batch_size", 1, _MOST),
            ("learning_rate", 0, 1),
            ("final_share", 0, 1),
            ("warmup_share", 0, 1),
            ("weight_decay", 0, 1e6),
            ("clip_norm", 0, 1e12),
            ("save_every", 0, _MOST),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigurationError(f"training.{name} must be between {low} and {high}; got {value}")


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


class Learning:
    """One experience, a step at each iteration; it can be left after any step and continued there.

    The caller logs and evaluates between the steps. At the end of the iteration `Method.end_task` has been called.

    Args:
        model: What is trained, in place.
        method: The edits; `Method.attach` has been called.
        experience: What to learn.
        data: Its data.
        settings: Length, batch size, learning rate.
        train_seed: Decides the order of the samples and the noise.
        first_step: Steps of the stream before this experience.
    """

    def __init__(
        self,
        model: Model,
        method: Method,
        experience: Experience,
        data: Data,
        settings: TrainingSettings,
        train_seed: int,
        first_step: int = 0,
    ) -> None:
        self.total = settings.steps * len(experience.tasks)
        self.done = 0
        self._model, self._method, self._experience, self._data = model, method, experience, data
        self._settings, self._train_seed, self._first_step = settings, train_seed, first_step
        self._processes = Processes.now()
        self._phases: list[tuple[str, int]] = []
        self._phase = -1  # which of them
        self._left = 0  # steps of it
        self._optimizer: Optimizer | None = None
        self._unseen: StepReport | None = None  # a step whose figures nobody has looked at

    def __iter__(self) -> Iterator[StepReport]:
        """The steps that are left.

        Raises:
            FloatingPointError: The loss or the gradient of a step is not finite. The weights are those of the step
                before; on a graphics card, which nobody waits for, that is seen a step later, and they are lost.
        """
        started = time.perf_counter()
        self._begin()
        while self.done < self.total:
            while not self._left:
                self._begin_phase(self._phase + 1)
            yield self._step(started)
        while self._phase + 1 < len(self._phases):  # phases without a step
            self._begin_phase(self._phase + 1)
        self.require_finite()
        self._method.end_task(self._experience, self._data)

    def require_finite(self) -> None:
        """Wait for the last step, and see that its figures are numbers; before its weights are saved or evaluated.

        Raises:
            FloatingPointError: They are not.
        """
        report, self._unseen = self._unseen, None
        if report is not None:
            require_numbers(
                report, self._experience, "the weights have been changed by it, continue from the last note"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's tensors and numbers, and what method and model keep within a task, less the weights.

        The tensors are the live ones: write them before the next step.

        Raises:
            ConfigurationError: The optimizer keeps something that is neither tensor nor number.
            FloatingPointError: As `require_finite`.
        """
        self.require_finite()
        found: dict[str, Tensor] = {}
        kept = {} if self._optimizer is None else self._optimizer.state_dict()["state"]
        for place, values in kept.items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{place}.{name}"] = value
                elif isinstance(value, int | float):
                    found[f"{_NUMBER}{place}.{name}"] = torch.tensor(value, dtype=_KINDS[type(value)])
                elif value is not None:
                    raise ConfigurationError(
                        f"{type(self._optimizer).__name__} keeps {name!r} as {type(value).__name__}, and only tensors "
                        "and numbers of an optimizer can be noted; use another optimizer"
                    )
        found |= {f"{_METHOD}{name}": value for name, value in self._method.midway_state().items()}
        found |= {f"{_MODEL}{name}": value for name, value in self._model.uncounted_state().items()}
        return {name: tensor.detach() for name, tensor in found.items()}

    def continue_at(self, done: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Be where another `Learning` was after so many steps.

        Model and method are as they were before the task. What the method makes when a task and a phase begin
        (teachers, anchors, bases, made-up samples) follows from that, so it is made once more; then weights,
        optimizer and the rest are put in.

        Args:
            done: Steps of the experience, at least one.
            weights: ``model.module.state_dict()`` of that moment.
            state: `state_dict` of that moment.

        Raises:
            ValueError: What is given does not fit the model, the method or the number of steps.
        """
        if not 1 <= done <= self.total:
            raise ValueError(f"expected between 1 and {self.total} steps, got {done}")
        self._begin()
        while self.done < done:
            self._begin_phase(self._phase + 1)
            steps = min(self._left, done - self.done)
            self.done, self._left = self.done + steps, self._left - steps
        self._model.module.load_state_dict(dict(weights))
        self._method.load_midway_state(_named(state, _METHOD))
        self._model.load_uncounted_state(_named(state, _MODEL))
        self._put_moments(_named(state, _OPTIMIZER) | {k: v.item() for k, v in _named(state, _NUMBER).items()})
        if self._left:
            self._set_learning_rate()

    def _begin(self) -> None:
        if not self._phases:
            self._method.begin_task(self._experience)
            self._phases = list(self._method.phases(self.total))

    def _begin_phase(self, number: int) -> None:
        self.require_finite()
        name, steps = self._phases[number]
        self._method.begin_phase(name)
        settings = self._settings
        self._optimizer = self._method.make_optimizer(
            self._model.parameter_groups(settings.learning_rate), settings.learning_rate, settings.weight_decay
        )
        for group in self._optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self._phase, self._left = number, steps
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if steps:
            self._set_learning_rate()
        self._model.module.train()

    def _set_learning_rate(self) -> None:
        """That of the next step: a pure function of its place in the phase."""
        assert self._optimizer is not None
        steps = self._phases[self._phase][1]
        share = _learning_rate_share(steps - self._left, steps, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def _step(self, started: float) -> StepReport:
        """One update: batch, loss, gradients, the method's edits, clipping, optimizer."""
        assert self._optimizer is not None
        done, method, settings, index = self.done, self._method, self._settings, self._experience.index
        rows = sample_rows(len(self._data), settings.batch_size, done, self._train_seed, index)
        composed = method.compose(self._data.batch(rows), self._first_step + done)
        batch = self._processes.share(composed)
        draw = Draw(number(self._train_seed, Purpose.LOSS, index, done, self._processes.rank))
        loss = method.loss(batch, draw).mean() * self._processes.weight(batch, composed)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self._processes.average(loss, self._parameters)
        method.edit_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm or math.inf)
        report = StepReport(
            step=done + 1,
            total=self.total,
            phase=self._phases[self._phase][0],
            figures=Figures(loss, norm),
            learning_rate=float(self._optimizer.param_groups[0]["lr"]),
            samples=len(composed["task"]),
            seconds=time.perf_counter() - started,
        )
        self._look_at(report, loss.device)
        self._optimizer.step()
        self.done, self._left = done + 1, self._left - 1
        if self._left:
            self._set_learning_rate()
        self._optimizer.zero_grad(set_to_none=True)
        method.after_step()
        return report

    def _look_at(self, report: StepReport, device: torch.device) -> None:
        """Refuse a step whose figures are no numbers; where looking would wait for the device, the step before."""
        if answers_at_once(device):
            require_numbers(report, self._experience, "the weights have not been changed")
            return
        self.require_finite()
        self._unseen = report

    def _put_moments(self, kept: Mapping[str, Tensor | float]) -> None:
        """The optimizer's tensors and numbers, ``<place of the parameter>.<name>``."""
        assert self._optimizer is not None
        of_place: dict[int, dict[str, Tensor | float]] = {}
        for key, value in kept.items():
            place, _, name = key.partition(".")
            if not place.isdecimal() or int(place) >= len(self._parameters):
                raise ValueError(f"the optimizer has {len(self._parameters)} parameters; it holds {key!r}")
            of_place.setdefault(int(place), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": of_place, "param_groups": groups})


def _named(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


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
