"""A model of 37 tensors of 1 to 4,000 entries, in double precision, small enough to rewrite any method on it."""

from itertools import pairwise

import torch
from method_presets import method_preset
from regression_model import RegressionModel
from tiny_model import TinyData, experience
from torch import nn

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import Ability, ForwardPass

WIDTHS = [3, 2, 7, 40, 100, 13, 1, 9, 4, 17, 30, 5, 8, 3, 6, 11, 16]
SETTINGS = TrainingSettings(steps=7, batch_size=4, learning_rate=2e-3, weight_decay=0.1)


class Chain(nn.Module):
    """Sixteen layers that all reach the outputs, a norm, a scalar, a vector and a table; outputs of (2, 2, 4)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(WIDTHS))
        self.norm = nn.LayerNorm(WIDTHS[-1])
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.shift = nn.Parameter(torch.zeros(2))
        self.table = nn.Parameter(torch.linspace(-1, 1, 3 * WIDTHS[-1]).view(3, -1))

    def forward(self, x):
        h, total = x, x @ self.table
        for layer in self.layers:
            h = torch.tanh(layer(h))
            total = total + self.fitted(h)  # so that every layer matters
        return (self.norm(total) * self.gain).view(-1, 2, 2, 4) + self.shift[:, None, None]

    @staticmethod
    def fitted(h):
        return nn.functional.pad(h, (0, max(0, WIDTHS[-1] - h.shape[1])))[:, : WIDTHS[-1]]


class ManyTensors(RegressionModel):
    """Squared error of outputs like a picture of two channels, two rows and four columns."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self._module = Chain().double()

    def forward_pass(self, batch, draw):
        outputs = self._module(batch["x"].double())
        wanted = batch["y"].double().repeat(1, 8).view_as(outputs)
        return ForwardPass((outputs - wanted).square().flatten(1).mean(1), outputs)

    def distance(self, student, teacher, batch, temperature=2.0):
        return (student - teacher).square().flatten(1).mean(1)


assert Ability.OUTPUTS in ManyTensors().abilities


def preset(name, model, **changes):
    """The method of a yaml, attached; only ``changes`` differ."""
    method = build({**method_preset(name), **changes}, Method)
    method.attach(model, train_seed=3)
    return method


def learnt(model, method, indices, settings=SETTINGS, rows=10):
    for index in indices:
        list(
            Learning(model, method, experience(index), TinyData(rows, seed=index), settings, 3, settings.steps * index)
        )


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}


def moved(model, seed=0):
    """Somewhere else, each tensor by about 0.05."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def gradient_added(method, model, task=9):
    """What the method adds to a gradient of zero when the next task has begun and the weights have moved."""
    method.begin_task(experience(task))
    moved(model)
    for parameter in model.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.edit_gradients()
    found = {name: parameter.grad.clone() for name, parameter in model.module.named_parameters()}
    model.module.zero_grad()
    return found


def gradients(value, model):
    """By autograd; zero where none arrives."""
    named = dict(model.module.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def assert_same(ours, theirs, relative=1e-9):
    """Tensor by tensor."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        difference = (ours[name].double() - expected.double()).norm()
        assert difference <= relative * expected.double().norm(), (name, difference, expected.norm())
