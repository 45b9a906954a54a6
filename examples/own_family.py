"""A model, data, an evaluator and a stream of one's own, through the same run, checkpoints, metrics and report.

    python examples/own_family.py
    vla-cl report outputs/lines-sequential outputs/lines-er

A straight line is fitted to points of one slope after another. Its score is the squared error, so lower is better.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vla_cl.evaluation.held_out import HeldOutEvaluator
from vla_cl.interfaces import Data, Evaluator, Family, Method, Model
from vla_cl.library import TrainingSettings, learn_stream
from vla_cl.methods.er import ExperienceReplay
from vla_cl.methods.sequential import Sequential
from vla_cl.random_numbers import Purpose, generator
from vla_cl.scores import Measure
from vla_cl.types import Batch, Draw, Experience, Task

SLOPES = {"up": 1.0, "steep": 2.0, "flat": 0.0}
ERROR = Measure("squared_error", direction="lower", kind="mean", low=0.0, title="squared error")


class Line(Model):
    """``y = a x + b``: what it can is to fit; a task's name it does not see."""

    name = "line"

    def __init__(self, seed: int) -> None:
        self._module = nn.Linear(1, 1)
        first = generator(seed, Purpose.INITIAL_WEIGHTS).normal(size=2)
        with torch.no_grad():
            self._module.weight.fill_(first[0])
            self._module.bias.fill_(first[1])

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return torch.device("cpu")

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """One value per sample."""
        errors: Tensor = (self._module(batch["x"]) - batch["y"]).square().sum(1)
        return errors

    def save(self, folder: Path) -> None:
        """All that acting needs."""
        folder.mkdir()
        save_file(self._module.state_dict(), folder / "line.safetensors")


class Points(Data):
    """Points on a line."""

    bytes_per_sample = 8

    def __init__(self, slopes: Sequence[float], seed: int, rows: int = 64) -> None:
        random = generator(seed, Purpose.TEST_BED)
        self.x = torch.from_numpy(random.uniform(-1, 1, (rows * len(slopes), 1)).astype(np.float32))
        self.y = torch.tensor(slopes).repeat(rows)[:, None] * self.x

    def __len__(self) -> int:
        """Number of points."""
        return len(self.x)

    @property
    def episode_of_row(self) -> NDArray[np.int64]:
        """Every point stands alone."""
        return np.arange(len(self))

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The points of these rows; ``task`` and ``index`` are always there."""
        chosen = torch.from_numpy(np.asarray(rows))
        return {"x": self.x[chosen], "y": self.y[chosen], "index": chosen, "task": ["draw a line"] * len(chosen)}


class Lines(Family):
    """What a run needs: tasks, model, data, evaluator."""

    name = "lines"

    def tasks(self) -> Sequence[Task]:
        """One for each slope."""
        return [Task(f"lines/{name}", f"draw a line that goes {name}", 1) for name in SLOPES]

    def new_model(self, first: Experience, seed: int) -> Model:
        """A line with random weights."""
        return Line(seed)

    def load_model(self, folder: Path) -> Model:
        """What `Line.save` wrote."""
        model = Line(0)
        model.module.load_state_dict(load_file(folder / "line.safetensors"))
        return model

    def data(self, experience: Experience, model: Model) -> Data:
        """Points to learn from, of all tasks of the experience: joint training has them in one."""
        return Points([SLOPES[task.name] for task in experience.tasks], seed=0)

    def evaluator(self) -> Evaluator:
        """Points that are never learnt from."""
        rows = np.arange(64)
        held_out = {task.id: Points([SLOPES[task.name]], seed=1).batch(rows) for task in self.tasks()}
        return HeldOutEvaluator(held_out, [(ERROR, lambda model, batch: model.loss(batch, Draw(0)))])


def main(folder: Path | str = "outputs", steps: int = 100) -> list[Path]:
    """Plain fine-tuning and replay."""
    training = TrainingSettings(steps=steps, batch_size=16, learning_rate=0.05)
    methods: dict[str, Method] = {"sequential": Sequential(), "er": ExperienceReplay(memory={"samples_per_task": 32})}
    return [learn_stream(Lines(), method, Path(folder) / f"lines-{name}", training) for name, method in methods.items()]


if __name__ == "__main__":
    for written in main():
        print(written)
