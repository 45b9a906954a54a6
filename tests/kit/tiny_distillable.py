"""A model small enough to check by hand that can be distilled, with inner features; and data for it."""

import copy

import numpy as np
import torch
from tiny_model import TinyData, TinyModel, experience
from torch import nn

from vla_cl.interfaces import Distillable, Method
from vla_cl.models.randomness import seeded
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import Ability, ForwardPass, Roles

SETTINGS = TrainingSettings(steps=8, batch_size=6, learning_rate=1e-2, weight_decay=0.1)


OUTPUT = ("head.weight", "head.bias")


class TwoEyes(nn.Module):
    """Two inner features, a layer that joins them, one that nobody trains unless asked."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(3, 3, bias=False)
        self.vision = nn.Linear(2, 4)
        self.state = nn.Linear(1, 3)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(7, 2)
        self.register_buffer("seen", torch.zeros(5))


class TinyDistillable(Distillable):
    """Regression with noise on the inputs and dropout, both from torch's generator; ``fixed``: with neither."""

    def __init__(self, seed=0, fixed=False):
        with seeded(seed, torch.device("cpu")):
            self._module = TwoEyes()
        self._module.scale.requires_grad_(False)
        self.fixed = fixed
        self.passes = 0

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    @property
    def abilities(self):
        found = {Ability.PER_SAMPLE_LOSSES, Ability.OUTPUTS, Ability.MODALITIES}
        return frozenset(found | {Ability.FIXED_OUTPUTS} if self.fixed else found)

    @property
    def modalities(self):
        return ("vision", "state")

    def roles(self):
        layers = ("scale.weight", "vision.weight", "vision.bias", "state.weight", "state.bias", *OUTPUT)
        return Roles(layers, frozenset(OUTPUT))

    def forward_pass(self, batch, draw):
        self.passes += 1
        net = self._module
        with seeded(draw.seed, self.device):
            x = batch["x"] if self.fixed else batch["x"] + 0.1 * torch.randn(batch["x"].shape)
            x = net.scale(x)
            found = {"vision": torch.tanh(net.vision(x[:, :2])), "state": net.state(x[:, 2:])}
            joined = torch.cat([*found.values()], dim=1)
            outputs = net.head(joined if self.fixed else net.dropout(joined))
        return ForwardPass((outputs - batch["y"]).square().mean(1), outputs, found)

    def loss(self, batch, draw):
        return self.forward_pass(batch, draw).losses

    def distance(self, student, teacher, batch, temperature=2.0):
        return (student - teacher).square().mean(1)

    def features(self, batch):
        return batch["x"]

    def save(self, folder):
        raise NotImplementedError


def weights(model):
    return {name: value.detach().clone() for name, value in model.module.state_dict().items()}


def run(model, method, tasks, settings=SETTINGS, rows=10, attach=True, data=TinyData):
    """Learn experiences by number with the real loop; the reports of all steps."""
    if attach:
        method.attach(model, train_seed=5)
    reports = []
    for index in tasks:
        reports += Learning(
            model, method, experience(index), data(rows, seed=index), settings, 5, index * settings.steps
        )
    return reports


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_sequential(make_model, method, tasks=(0, 1, 2)):
    """The method does what sequential fine-tuning does, bit for bit."""
    plain, edited = make_model(), make_model()
    run(plain, Method(), tasks)
    run(edited, method, tasks)
    assert_same(weights(edited), weights(plain))


def assert_continues_after_resume(make_model, make_method, tasks=2):
    """A method restored at a task border learns the next task to the same weights, and counts the same bytes."""
    model, method = make_model(), make_method()
    run(model, method, range(tasks))
    extra, before, state = copy.deepcopy(method.extra_state()), weights(model), method.state_dict()
    assert state == {}
    between = method.memory_bytes()
    run(model, method, [tasks], attach=False)

    again, other = make_model(seed=9), make_method()
    again.module.load_state_dict(before)
    other.attach(again, train_seed=5)
    other.load_state_dict({}, extra, iter([]))
    assert other.memory_bytes() == between
    run(again, other, [tasks], attach=False)
    assert_same(weights(again), weights(model))
    assert other.extra_state() == method.extra_state() == {"tasks_learnt": tasks + 1}


__all__ = ["TinyData", "TinyDistillable", "TinyModel", "experience", "np"]
