import pytest
import torch
from regression_model import RegressionModel
from safetensors.torch import load, save
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.methods import quadratic_penalty, si
from vla_cl.methods.si import SynapticIntelligence
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError

SETTINGS = TrainingSettings(steps=6, batch_size=4, learning_rate=0.05, clip_norm=0.1)


def learnt(model, method, indices):
    for index in indices:
        list(Learning(model, method, experience(index), TinyData(seed=index), SETTINGS, 3, 6 * index))


def attached(model, **settings):
    method = SynapticIntelligence(**settings)
    method.attach(model, train_seed=3)
    return method


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}


class Textbook(Method):
    """SI from the paper: the task's gradient from a pass of its own, the penalty by autograd."""

    def __init__(self, strength, xi):
        self.strength, self.xi = strength, xi

    def attach(self, model, train_seed):
        super().attach(model, train_seed)
        self.importance = {name: torch.zeros_like(p) for name, p in model.module.named_parameters()}
        self.anchor = weights(model)

    def begin_task(self, experience):
        self.path = {name: torch.zeros_like(tensor) for name, tensor in self.anchor.items()}
        self.start = weights(self.model)

    def loss(self, batch, draw):
        losses = self.model.loss(batch, draw)
        named = dict(self.model.module.named_parameters())
        gradients = torch.autograd.grad(losses.mean(), list(named.values()), retain_graph=True)
        self.gradient, self.before = dict(zip(named, gradients, strict=True)), weights(self.model)
        for name, parameter in named.items():
            penalty = (self.importance[name] * (parameter - self.anchor[name]).square()).sum()
            losses = losses + self.strength * penalty
        return losses

    def after_step(self):
        for name, parameter in self.model.module.named_parameters():
            self.path[name] -= self.gradient[name] * (parameter.detach() - self.before[name])

    def end_task(self, experience, data):
        self.anchor = weights(self.model)
        for name, end in self.anchor.items():
            added = self.path[name] / ((end - self.start[name]).square() + self.xi)
            self.importance[name] = (self.importance[name] + added).clamp(min=0)


@pytest.mark.parametrize("block", [1 << 16, 5])
def test_a_run_equals_the_textbook(monkeypatch, block):
    monkeypatch.setattr(si, "BLOCK", block)
    monkeypatch.setattr(quadratic_penalty, "BLOCK", block)
    ours, theirs = RegressionModel(dtype=torch.float64), RegressionModel(dtype=torch.float64)
    method, textbook = attached(ours, strength=2.0, xi=0.01), Textbook(2.0, 0.01)
    textbook.attach(theirs, 3)
    for index in range(3):
        learnt(ours, method, [index])
        learnt(theirs, textbook, [index])
        for name, expected in textbook.importance.items():
            assert torch.allclose(method.penalty.importance[name], expected, rtol=1e-9, atol=1e-12)
            assert (method.penalty.importance[name] >= 0).all()
        for name, expected in weights(theirs).items():
            assert torch.allclose(weights(ours)[name], expected, rtol=1e-9)
            assert torch.equal(method.penalty.anchor[name], weights(ours)[name])
    assert any(tensor.max() > 0.1 for tensor in textbook.importance.values())


def test_the_path_adds_up_to_what_the_loss_fell():
    """Small steps, the whole data in each: sum_i W_i is the decrease of the loss (equation 3 of the paper)."""
    model, data = RegressionModel(dtype=torch.float64), TinyData()
    method = attached(model)
    settings = TrainingSettings(steps=400, batch_size=20, learning_rate=2e-4, warmup_share=0, clip_norm=0.01)
    paths = []
    steps = Learning(model, method, experience(0), data, settings, 3)
    losses = []
    for report in steps:
        losses.append(report.loss)
        if report.step == 399:
            paths = sum(path.sum().item() for path in method._path.values())
    assert paths == pytest.approx(losses[0] - losses[-1], rel=0.01)


def test_strength_zero_and_the_first_task_are_sequential_bit_for_bit():
    for strength, tasks in ((0.0, range(3)), (5.0, [0])):
        ours, plain = TinyModel(), TinyModel()
        method, sequential = attached(ours, strength=strength), Method()
        sequential.attach(plain, 3)
        learnt(ours, method, tasks)
        learnt(plain, sequential, tasks)
        assert torch.equal(ours.module.weight, plain.module.weight)


def test_a_resumed_run_continues_bit_for_bit():
    model = RegressionModel()
    method = attached(model)
    learnt(model, method, range(2))
    state, before = load(save(method.state_dict())), weights(model)
    learnt(model, method, [2])
    again = RegressionModel(seed=5)
    again.module.load_state_dict(before)
    other = attached(again)
    other.load_state_dict(state, method.extra_state(), iter(()))
    learnt(again, other, [2])
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(model)[name])
    assert other.memory_bytes() == method.memory_bytes() == 8 * sum(p.numel() for p in model.module.parameters())


def test_layers_may_freeze_and_thaw_between_tasks():
    model = RegressionModel()
    method = attached(model)
    model.module[0].requires_grad_(False)
    learnt(model, method, [0])
    assert set(method.penalty.importance) == {"2.weight", "2.bias"}
    model.module[0].requires_grad_(True)
    model.module[2].requires_grad_(False)
    kept = method.penalty.importance["2.weight"].clone()
    learnt(model, method, [1])
    assert torch.equal(method.penalty.importance["2.weight"], kept)
    model.module.requires_grad_(True)
    learnt(model, method, [2])
    assert not torch.equal(method.penalty.importance["2.weight"], kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"strength": -1.0}, r"method.strength must be between 0"), ({"xi": 0.0}, r"method.xi must be above 0")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        SynapticIntelligence(**settings)
