import numpy as np
import pytest
import torch
from keyed_model import KeyedTokens, tokens
from regression_model import Columns, RegressionModel, with_padding
from safetensors.torch import load, save
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.methods.mas import MemoryAwareSynapses
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

SETTINGS = TrainingSettings(steps=5, batch_size=4, learning_rate=0.05)


def learnt(model, method, indices):
    for index in indices:
        list(Learning(model, method, experience(index), TinyData(seed=index), SETTINGS, 3, 5 * index))


def attached(model, **settings):
    method = MemoryAwareSynapses(**settings)
    method.attach(model, train_seed=3)
    return method


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}


def importances(model, data, power):
    """Mean absolute gradient of the outputs' norm, one sample after the other."""
    named = dict(model.module.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    for row in range(len(data)):
        norm = model.outputs(data.batch(np.array([row])), Draw(0)).square().sum().sqrt() ** power
        for name, gradient in zip(named, torch.autograd.grad(norm, list(named.values())), strict=True):
            total[name] += gradient.abs() / len(data)
    return total


@pytest.mark.parametrize(("norm", "power"), [("l2", 1), ("l2_squared", 2)])
def test_importances_and_penalty_follow_the_definition(norm, power):
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, norm=norm, strength=4.0, batch_size=6)
    expected = {name: torch.zeros_like(tensor) for name, tensor in weights(model).items()}
    for index in range(2):
        learnt(model, method, [index])
        found = importances(model, TinyData(seed=index), power)
        expected = {name: tensor + found[name] for name, tensor in expected.items()}
        for name, tensor in expected.items():
            assert torch.allclose(method.penalty.importance[name], tensor, rtol=1e-12)
    anchor = weights(model)
    method.begin_task(experience(2))
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.2)
            parameter.grad = torch.ones_like(parameter)
    method.edit_gradients()
    for name, parameter in model.module.named_parameters():
        pull = 4 / 2 * 2 * expected[name] * (parameter.detach() - anchor[name])
        assert torch.allclose(parameter.grad, 1 + pull, rtol=1e-12)


def test_targets_play_no_role():
    model, data = RegressionModel(), TinyData()
    first, second = attached(model), attached(model)
    first.end_task(experience(0), data)
    data.y = data.y * float("nan")
    second.end_task(experience(0), data)
    for name, tensor in first.penalty.importance.items():
        assert torch.equal(tensor, second.penalty.importance[name])


@pytest.mark.parametrize(
    ("norm", "value"),
    [("l2", lambda rows: rows.square().sum().sqrt()), ("l2_rows", lambda rows: rows.square().sum(1).sqrt().sum())],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_of_tokens_only_those_count_that_are_learnt_from(padding, norm, value):
    model, batch = KeyedTokens(), tokens(6, 7, 3, seed=2)
    table = model.module[0].weight
    expected = torch.zeros_like(table)
    for row in range(6):
        said = batch["input_ids"][row, 3:6]  # the places before the three tokens that are learnt from
        (gradient,) = torch.autograd.grad(value(table[said]), table)
        expected += gradient.abs() / 6
    method = attached(model, batch_size=4, norm=norm)
    method.end_task(experience(0), Columns(with_padding(batch, padding)))
    assert torch.allclose(method.penalty.importance["0.weight"], expected, rtol=1e-12)


def test_strength_zero_is_sequential_bit_for_bit():
    ours, plain = RegressionModel(), RegressionModel()
    sequential = Method()
    sequential.attach(plain, 3)
    learnt(ours, attached(ours, strength=0.0), range(3))
    learnt(plain, sequential, range(3))
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(ours)[name], tensor)


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


def test_a_model_without_outputs_is_refused():
    with pytest.raises(ConfigurationError, match="needs a model with outputs"):
        attached(TinyModel())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, r"method.strength must be between 0"),
        ({"norm": "l1"}, r"method.norm must be one of l2, l2_squared, l2_rows; got 'l1'"),
        ({"samples": 0}, r"method.samples must be a whole number between 1"),
        ({"batch_size": 0}, r"method.batch_size must be a whole number between 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        MemoryAwareSynapses(**settings)
