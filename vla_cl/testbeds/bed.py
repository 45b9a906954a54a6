"""A test bed: a model, three tasks, and how well each is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.evaluation.held_out import Score
from vla_cl.interfaces import Data, Model
from vla_cl.models.randomness import evaluating
from vla_cl.scores import Measure
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import Batch, Draw, Experience, Stream, Task

LOSS = Measure("loss", "lower", "mean", low=0.0, title="held-out loss")
"""The model's own loss of samples that it does not learn from."""

SCORE_DRAWS = 4
"""Draws of noise that a score is averaged over."""


@dataclass(frozen=True)
class Bed:
    """Everything that trying a method takes.

    Attributes:
        name: Of the bed.
        make_model: From a seed to a model with fresh weights.
        load_model: From a folder to the model that was saved there.
        stream: Three experiences of one task each.
        data: Of each experience.
        held_out: Samples of each task that are never learnt from.
        training: Enough to learn a task.
        tiny: A few steps, to see that something works.
        scores: What is measured of each held-out sample; the first is what reports show.
    """

    name: str
    make_model: Callable[[int], Model]
    load_model: Callable[[Path], Model]
    stream: Stream
    data: Sequence[Tensors]
    held_out: Sequence[Batch]
    training: TrainingSettings
    tiny: TrainingSettings
    scores: Sequence[tuple[Measure, Score]]

    def score(self, model: Model, task: int) -> float:
        """Mean loss on held-out samples of a task, always under the same noise; lower is better."""
        with torch.no_grad():
            return float(held_out_loss(model, self.held_out[task]).mean())


def held_out_loss(model: Model, batch: Batch) -> Tensor:
    """The model's own loss of each sample, shape (B,), in evaluation mode, always under the same noise."""
    with evaluating(model.module):
        return torch.stack([model.loss(batch, Draw(seed)) for seed in range(SCORE_DRAWS)]).double().mean(0)


def three_tasks(name: str, instructions: Sequence[str]) -> Stream:
    """A stream of one experience per instruction."""
    tasks = [Task(f"{name}/{number}", text, 1) for number, text in enumerate(instructions)]
    return Stream(name, tuple(Experience(number, task.name, (task,)) for number, task in enumerate(tasks)))


class Tensors(Data):
    """Samples that lie in memory: tensors and lists whose first dimension is the samples.

    Args:
        samples: Feature to a tensor or list, all of one length; ``task`` among them.
    """

    def __init__(self, samples: Batch) -> None:
        self.samples = samples

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples["task"])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The samples of these rows, in this order."""
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        result: Batch = {"index": chosen}
        for key, column in self.samples.items():
            result[key] = (
                column[chosen] if isinstance(column, torch.Tensor) else [column[row] for row in chosen.tolist()]
            )
        return result

    @property
    def bytes_per_sample(self) -> int:
        """Of the tensors; the instruction is not counted."""
        tensors = [column for column in self.samples.values() if isinstance(column, torch.Tensor)]
        return sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Eight samples to an episode."""
        return np.arange(len(self)) // 8
