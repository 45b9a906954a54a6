"""A score of one's own beside those that a family has: the loss of the held-out sample that is done worst.

    python examples/own_evaluator.py
    vla-cl report outputs/worst-er --measure worst_loss

A mean hides a sample that is lost. This one is a number of a whole task (a *statistic*), so it has no interval.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vla_cl.families.beds import BedFamily
from vla_cl.interfaces import Evaluator, Model
from vla_cl.library import TrainingSettings, learn_stream
from vla_cl.methods.er import ExperienceReplay
from vla_cl.models.randomness import evaluating
from vla_cl.scores import EvaluationRequest, Measure, Trial
from vla_cl.testbeds import BEDS
from vla_cl.types import Batch, Draw, Split, Task

WORST = Measure("worst_loss", direction="lower", kind="statistic", low=0.0, title="loss of the worst sample")


class WorstLoss(Evaluator):
    """The highest loss among the held-out samples of a task.

    Args:
        held_out: Task id to all held-out samples of the task.
    """

    measures = (WORST,)
    file = "worst.parquet"  # its table in the run's folder; the family's own evaluator has trials.parquet

    def __init__(self, held_out: Mapping[str, Batch]) -> None:
        self._held_out = held_out

    def units(self, task: Task, split: Split, count: int) -> Sequence[int]:
        """One trial, -1: the task as a whole. Learning curves (``select``) have none."""
        return (-1,) if split == "report" and task.id in self._held_out else ()

    def evaluate(self, model: Model, request: EvaluationRequest) -> list[Trial]:
        """One number for each task."""
        trials = []
        for task in request.tasks:
            with torch.no_grad(), evaluating(model.module):
                losses = model.loss(self._held_out[task.id], Draw(0))
            trials.append(Trial(task.id, -1, "ok", {WORST.name: float(losses.max())}))
        return trials


class Regression(BedFamily):
    """The test bed of a small policy, scored in one more way."""

    def __init__(self) -> None:
        super().__init__("policy_regression")

    def further_evaluators(self) -> Sequence[Evaluator]:
        """Beside the bed's own."""
        ids = [task.id for task in self.tasks()]
        return (WorstLoss(dict(zip(ids, BEDS[self.bed]().held_out, strict=True))),)


def main(folder: Path | str = "outputs", steps: int = 100) -> Path:
    """Replay on the test bed."""
    method = ExperienceReplay(memory={"samples_per_task": 64})
    return learn_stream(Regression(), method, Path(folder) / "worst-er", TrainingSettings(steps=steps))


if __name__ == "__main__":
    print(main())
