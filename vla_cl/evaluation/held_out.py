"""Scores on samples that are held out: a trial is a sample that no model learns from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.interfaces import Evaluator, Model
from vla_cl.scores import EvaluationRequest, Measure, Trial
from vla_cl.types import Batch, ConfigurationError, Split, Task

Score = Callable[[Model, Batch], Tensor]
"""One value for each sample of a batch, shape (B,)."""

_REPORTED = 3 / 4
"""Share of the held-out samples that are reported; the others select."""


class HeldOutEvaluator(Evaluator):
    """Scores a model on the held-out samples of each task.

    All held-out samples of a task are computed in one batch, however many are asked for, so that the score of a sample
    is that of the sample and not of its neighbours. The first three quarters are reported, the others select.

    Args:
        batches: Task id to all held-out samples of the task, at least two.
        scores: Each measure, and how it is computed. The first is what reports show.
    """

    def __init__(self, batches: Mapping[str, Batch], scores: Sequence[tuple[Measure, Score]]) -> None:
        self.measures = tuple(measure for measure, _ in scores)
        self._batches = batches
        self._scores = tuple(scores)

    def units(self, task: Task, split: Split, count: int) -> Sequence[int]:
        """Places of samples among the held-out ones.

        Raises:
            ConfigurationError: The task has fewer.
        """
        if task.id not in self._batches:
            return ()
        total = len(self._batches[task.id]["task"])
        first = max(1, int(total * _REPORTED))
        places = range(first) if split == "report" else range(first, total)
        if count > len(places):
            setting = "evaluation.episodes" if split == "report" else "evaluation.curve_episodes"
            raise ConfigurationError(
                f"{setting}={count} asks for more than there is: task {task.id!r} has {len(places)} held-out samples "
                f"to {split}; give at most {len(places)}"
            )
        return places[:count]

    def evaluate(self, model: Model, request: EvaluationRequest) -> list[Trial]:
        """One trial for each sample of each task.

        Raises:
            FloatingPointError: A score is no number.
        """
        trials: list[Trial] = []
        for task in request.tasks:
            units = self.units(task, request.split, request.count)
            if not units:
                continue
            began = time.perf_counter()
            found = {measure.name: self._computed(model, task, measure, score) for measure, score in self._scores}
            seconds = (time.perf_counter() - began) / len(units)
            trials += [
                Trial(task.id, unit, "ok", {name: float(values[unit]) for name, values in found.items()}, {}, seconds)
                for unit in units
            ]
        return trials

    def _computed(self, model: Model, task: Task, measure: Measure, score: Score) -> NDArray[np.float64]:
        with torch.no_grad():
            values: NDArray[np.float64] = score(model, self._batches[task.id]).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"{measure.name} of task {task.id!r} is no number; the model has diverged, lower training.learning_rate"
            )
        return values
