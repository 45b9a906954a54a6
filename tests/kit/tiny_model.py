"""A model small enough to check by hand, and data for it."""

import numpy as np
import torch
from torch import nn

from vla_cl.interfaces import Data, Model
from vla_cl.types import Experience, InterfaceSpec, Roles, Task


class TinyModel(Model):
    """Linear regression with a noisy loss."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self._module = nn.Linear(3, 2)

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    def roles(self):
        return Roles(("weight", "bias"), frozenset({"weight", "bias"}))

    def loss(self, batch, draw):
        noise = torch.randn(batch["x"].shape, generator=torch.Generator().manual_seed(draw.seed))
        return (self._module(batch["x"] + 0.01 * noise) - batch["y"]).square().mean(1)

    def features(self, batch):
        return batch["x"]

    def save(self, folder):
        folder.mkdir()
        (folder / "weights.txt").write_text(str(self._module.weight.tolist()))


class TinyData(Data):
    spec = InterfaceSpec({}, 3, 2)
    bytes_per_sample = 20

    def __init__(self, rows=20, seed=0):
        generator = np.random.default_rng(seed)
        self.x = torch.from_numpy(generator.standard_normal((rows, 3)).astype(np.float32))
        self.y = self.x[:, :2] * 2 + seed

    def __len__(self):
        return len(self.x)

    @property
    def episode_of_row(self):
        return np.arange(len(self)) // 5

    def batch(self, rows):
        rows = torch.from_numpy(np.asarray(rows))
        return {"x": self.x[rows], "y": self.y[rows], "index": rows, "task": ["t"] * len(rows)}


def experience(index=0, tasks=1):
    return Experience(index, f"e{index}", tuple(Task(f"toy/t{index}-{n}", "do it", 10) for n in range(tasks)))
