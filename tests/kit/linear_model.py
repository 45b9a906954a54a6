"""A linear model in double precision whose gradients a test computes by hand; all samples of a kind are alike.

With equal samples nothing depends on which are drawn, so the mean gradient of some steps is that of the equation, if
the steps have the right numbers of samples and weigh them rightly.
"""

import numpy as np
import torch
from keyed_model import KeyedModel
from torch import nn

from vla_cl.interfaces import Data
from vla_cl.types import Ability, Draw, ForwardPass

DRAW = Draw(0)
NEW = (torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0]))
OLD = (torch.tensor([0.3, 1.0, 2.0]), torch.tensor([-1.0]))


class Alike(Data):
    """Rows of one sample."""

    bytes_per_sample = 16

    def __init__(self, sample, rows=12):
        self.sample, self.rows = sample, rows

    def __len__(self):
        return self.rows

    @property
    def episode_of_row(self):
        return np.zeros(self.rows, np.int64)

    def batch(self, rows):
        x, y = (part.expand(len(rows), -1).clone() for part in self.sample)
        return {"x": x, "y": y, "task": ["t"] * len(rows), "index": torch.as_tensor(np.asarray(rows))}


class Linear(KeyedModel):
    """f(x) = w x; the loss is (f - y)^2, the distance (f - z)^2; it makes up the old sample."""

    def __init__(self):
        self._module = nn.Linear(3, 1, bias=False).double()
        self.move([0.2, 0.1, -0.4])

    def move(self, weights):
        with torch.no_grad():
            self._module.weight.copy_(torch.tensor([weights]))

    @property
    def abilities(self):
        return frozenset(set(Ability) - {Ability.MODALITIES})

    def forward_pass(self, batch, draw):
        outputs = self._module(batch["x"].double())
        return ForwardPass((outputs - batch["y"]).square().mean(1), outputs)

    def generate(self, tasks, seed):
        return Alike(OLD).batch(np.arange(len(tasks)))


def gradient(weights, sample, wanted=None):
    """Of (w x - y)^2, or of (w x - wanted)^2, by hand."""
    x, y = (part.double().numpy() for part in sample)
    return 2 * (np.asarray(weights) @ x - (y[0] if wanted is None else wanted)) * x


def mean_gradient(method, size, steps, first=100):
    """Mean over steps of the gradient that the training loop would have, shape (3,)."""
    weight, total = method.model.module.weight, np.zeros(3)
    for step in range(first, first + steps):
        batch = method.compose(Alike(NEW).batch(np.arange(size)), step)
        loss = method.loss(batch, DRAW).mean()
        total += torch.autograd.grad(loss, weight)[0][0].numpy() if len(batch["task"]) else 0
        method.after_step()
    return total / steps
