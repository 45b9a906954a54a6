import pytest
import torch
from regression_model import RegressionModel
from safetensors.torch import load, save
from tiny_model import TinyData, experience

from vla_cl.interfaces import Method
from vla_cl.methods.l2 import L2
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError

SETTINGS = TrainingSettings(steps=5, batch_size=4, learning_rate=0.05)


def learnt(model, method, indices):
    for index in indices:
        list(Learning(model, method, experience(index), TinyData(seed=index), SETTINGS, 3, 5 * index))


def attached(model, **settings):
    method = L2(**settings)
    method.attach(model, train_seed=3)
    return method


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}


class Textbook(Method):
    """The penalty by autograd."""

    def __init__(self, factor, to_warm_start):
        self.factor, self.to_warm_start = factor, to_warm_start
        self.anchor = None

    def attach(self, model, train_seed):
        super().attach(model, train_seed)
        if self.to_warm_start:
            self.anchor = weights(model)

    def loss(self, batch, draw):
        losses = self.model.loss(batch, draw)
        if self.anchor is None:
            return losses
        named = self.model.module.named_parameters()
        return losses + self.factor * sum((p - self.anchor[name]).square().sum() for name, p in named)

    def end_task(self, experience, data):
        if not self.to_warm_start:
            self.anchor = weights(self.model)


@pytest.mark.parametrize("anchor", ["last_task", "warm_start"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_run_equals_the_textbook(anchor, half, reduction):
    ours, theirs = RegressionModel(dtype=torch.float64), RegressionModel(dtype=torch.float64)
    count = sum(parameter.numel() for parameter in ours.module.parameters())
    strength = 0.4 * (count if reduction == "mean" else 1)
    textbook = Textbook(0.4 * (0.5 if half else 1), anchor == "warm_start")
    textbook.attach(theirs, 3)
    learnt(ours, attached(ours, strength=strength, anchor=anchor, half=half, reduction=reduction), range(3))
    learnt(theirs, textbook, range(3))
    for name, tensor in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], tensor, rtol=1e-9)


@pytest.mark.parametrize("anchor", ["last_task", "warm_start"])
def test_strength_zero_is_sequential_bit_for_bit(anchor):
    ours, plain = RegressionModel(), RegressionModel()
    sequential = Method()
    sequential.attach(plain, 3)
    method = attached(ours, strength=0.0, anchor=anchor)
    learnt(ours, method, range(3))
    learnt(plain, sequential, range(3))
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(ours)[name], tensor)
    assert method.memory_bytes() == 0


@pytest.mark.parametrize("anchor", ["last_task", "warm_start"])
def test_a_resumed_run_continues_bit_for_bit(anchor):
    model = RegressionModel()
    method = attached(model, anchor=anchor)
    learnt(model, method, range(2))
    state, extra, before = method.state_dict(), method.extra_state(), weights(model)
    state = load(save(state)) if state else {}
    learnt(model, method, [2])
    again = RegressionModel(seed=5)
    other = attached(again, anchor=anchor)
    again.module.load_state_dict(before)
    other.load_state_dict(state, extra, iter(()))
    learnt(again, other, [2])
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(model)[name])
    assert other.memory_bytes() == method.memory_bytes() == 4 * sum(p.numel() for p in model.module.parameters())
    with pytest.raises(ValueError, match="but the checkpoint holds"):
        other.load_state_dict({"importance.0.weight": torch.ones(4, 3)}, {}, iter(()))


@pytest.mark.parametrize("anchor", ["last_task", "warm_start"])
def test_layers_may_freeze_and_thaw_between_tasks(anchor):
    model = RegressionModel()
    model.module[0].requires_grad_(False)
    method = attached(model, anchor=anchor, strength=1e4)
    learnt(model, method, [0])
    model.module[0].requires_grad_(True)
    model.module[2].requires_grad_(False)
    first, frozen = model.module[0].weight.clone(), model.module[2].weight.clone()
    learnt(model, method, [1])
    assert torch.equal(model.module[2].weight, frozen)
    assert 0 < (model.module[0].weight - first).abs().max() < 0.2  # pulled to its first weights
    model.module.requires_grad_(True)
    learnt(model, method, [2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, r"method.strength must be between 0"),
        ({"anchor": "zero"}, "last_task, warm_start"),
        ({"reduction": "max"}, "sum, mean"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        L2(**settings)
