"""A family of somebody else's, outside the package: straight lines are fitted, and scored by their squared error."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vla_cl.evaluation.held_out import HeldOutEvaluator
from vla_cl.interfaces import Data, Family, Model
from vla_cl.scores import Measure
from vla_cl.types import Task

SLOPES = {"up": 1.0, "down": -1.0, "flat": 0.0}
TASKS = [Task(f"lines/{name}", f"draw a line that goes {name}", 1) for name in SLOPES]
ERROR = Measure("squared_error", "lower", "mean", low=0.0, title="squared error")


class Line(Model):
    """``y = a x + b``, whatever the task: so the last one wins."""

    name = "line"

    def __init__(self, seed):
        self._module = nn.Linear(1, 1)
        torch.manual_seed(seed)
        self._module.reset_parameters()

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    def loss(self, batch, draw):
        return (self._module(batch["x"]) - batch["y"]).square().sum(1)

    def save(self, folder):
        folder.mkdir()
        save_file(self._module.state_dict(), folder / "line.safetensors")


class Points(Data):
    bytes_per_sample = 8

    def __init__(self, slope, seed, rows=32):
        self.x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (rows, 1)).astype(np.float32))
        self.y = slope * self.x

    def __len__(self):
        return len(self.x)

    @property
    def episode_of_row(self):
        return np.arange(len(self))

    def batch(self, rows):
        rows = torch.from_numpy(np.asarray(rows))
        return {"x": self.x[rows], "y": self.y[rows], "index": rows, "task": ["line"] * len(rows)}


class Lines(Family):
    """Args: noise_seed: of the points."""

    name = "lines"

    def __init__(self, noise_seed: int = 0):
        self._seed = noise_seed

    def tasks(self):
        return TASKS

    def new_model(self, first, seed):
        return Line(seed)

    def load_model(self, folder: Path):
        model = Line(0)
        model.module.load_state_dict(load_file(folder / "line.safetensors"))
        return model

    def data(self, experience, model):
        (task,) = experience.tasks
        return Points(SLOPES[task.name], self._seed)

    def evaluator(self):
        held_out = {task.id: Points(SLOPES[task.name], self._seed + 1).batch(range(32)) for task in TASKS}
        return HeldOutEvaluator(held_out, [(ERROR, lambda model, batch: model.loss(batch, None))])
