import copy

import numpy as np
import pytest
import torch
from keyed_model import KeyedTokens, tokens
from regression_model import Columns, RegressionModel, with_padding
from tiny_distillable import TinyDistillable, assert_same, assert_sequential, run, weights
from tiny_model import TinyData, TinyModel, experience
from torch import nn

from vla_cl.methods.gradient_vectors import GradientRows
from vla_cl.methods.ogd import OrthogonalGradientDescent
from vla_cl.types import ConfigurationError, Draw


def attached(model, **options):
    method = OrthogonalGradientDescent(**options)
    method.attach(model, train_seed=3)
    return method


def basis(method):
    return torch.cat([block.matrix for block in method.basis])


def gradient(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.module.parameters()])


class OneSampleData(TinyData):
    """The same sample again and again."""

    def __init__(self, rows=20, seed=0):
        super().__init__(rows, seed)
        self.x, self.y = self.x[:1].repeat(rows, 1), self.y[:1].repeat(rows, 1)


@pytest.mark.parametrize("of", ["outputs", "loss"])
def test_the_basis_is_orthonormal_and_spans_the_gradients_of_the_samples(of):
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, vectors_per_task=4, of=of)
    data = TinyData(rows=4, seed=1)
    method.end_task(experience(0), data)
    rows = basis(method)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
    for row in range(4):
        batch = data.batch(np.array([row]))
        value = model.outputs(batch, Draw(0)).mean() if of == "outputs" else model.loss(batch, Draw(0)).mean()
        vector = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.module.parameters()))])
        assert (vector - rows.T @ (rows @ vector)).norm() < 1e-12 * vector.norm()


def test_over_many_tasks_it_stays_orthonormal_to_float_precision():
    model = TinyDistillable()
    method = OrthogonalGradientDescent(vectors_per_task=4, of="loss")
    run(model, method, range(5))
    rows = basis(method)
    assert len(rows) == 20
    assert rows.dtype == torch.float32
    assert (rows @ rows.T - torch.eye(len(rows))).abs().max() < 1e-6


def test_nearly_dependent_vectors_come_out_orthonormal():
    model = RegressionModel()
    method = attached(model, vectors_per_task=6)
    data = OneSampleData(rows=6)
    data.x = data.x + 1e-3 * TinyData(rows=6, seed=4).x
    method.end_task(experience(0), data)
    rows = basis(method)
    assert len(rows) > 1
    assert (rows @ rows.T - torch.eye(len(rows))).abs().max() < 1e-6


def test_what_the_basis_spans_already_adds_nothing():
    method = attached(RegressionModel(), vectors_per_task=5)
    method.end_task(experience(0), OneSampleData())
    assert len(basis(method)) == 1
    method.end_task(experience(1), OneSampleData())
    assert len(basis(method)) == 1
    assert method.memory_bytes() == 4 * 26


def test_gradients_are_orthogonal_to_every_past_vector():
    model = RegressionModel()
    method = attached(model, vectors_per_task=3)
    for index in range(3):
        method.end_task(experience(index), TinyData(seed=index))
    assert len(basis(method)) == 9
    model.loss(TinyData(seed=5).batch(np.arange(8)), Draw(0)).mean().backward()
    before = gradient(model).clone()
    method.edit_gradients()
    after = gradient(model)
    rows = basis(method).double()
    wanted = before.double() - rows.T @ (rows @ before.double())
    torch.testing.assert_close(after.double(), wanted, rtol=0, atol=1e-6 * before.norm().item())
    assert (rows @ before.double()).abs().max() > 1e-2 * before.norm()
    assert (rows @ after.double()).abs().max() < 1e-6 * before.norm()


def test_a_small_step_of_gradient_descent_keeps_the_outputs_of_the_samples():
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, vectors_per_task=4)
    past = TinyData(rows=4, seed=1)
    method.end_task(experience(0), past)
    old, new = past.batch(np.arange(4)), TinyData(seed=2).batch(np.arange(8))

    def moved(edited):
        copied = copy.deepcopy(model)
        copied.loss(new, Draw(0)).mean().backward()
        if edited:
            method.model = copied
            method.edit_gradients()
        with torch.no_grad():
            for parameter in copied.module.parameters():
                parameter -= 1e-4 * parameter.grad
            return (copied.outputs(old, Draw(0)).mean(1) - model.outputs(old, Draw(0)).mean(1)).abs().max()

    assert moved(edited=True) < 1e-3 * moved(edited=False)


def test_parameters_without_gradient_stay_out_of_it():
    model = RegressionModel()
    method = attached(model, vectors_per_task=3)
    method.end_task(experience(0), TinyData(seed=1))
    model.loss(TinyData(seed=2).batch(np.arange(8)), Draw(0)).mean().backward()
    model.module[0].bias.grad = None
    before = model.module[0].weight.grad.clone()
    method.edit_gradients()
    assert model.module[0].bias.grad is None
    assert not torch.equal(model.module[0].weight.grad, before)


@pytest.mark.parametrize("absent", [["0.bias"], ["0.weight", "0.bias"], ["2.weight"]])
def test_what_moves_is_orthogonal_where_some_parameters_have_no_gradient(absent):
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, vectors_per_task=3)
    for index in range(2):
        method.end_task(experience(index), TinyData(seed=index))
    model.loss(TinyData(seed=5).batch(np.arange(8)), Draw(0)).mean().backward()
    for name in absent:
        model.module.get_parameter(name).grad = None
    method.edit_gradients()
    assert [name for name, p in model.module.named_parameters() if p.grad is None] == absent
    moves = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.module.parameters()]
    step = torch.cat([move.flatten() for move in moves])
    assert (basis(method) @ step).abs().max() < 1e-9


class WithBatchNorm(RegressionModel):
    def __init__(self):
        torch.manual_seed(0)
        self._module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Dropout(0.5))


@pytest.mark.parametrize("of", ["outputs", "loss"])
def test_gradients_are_those_of_evaluation_mode_and_the_model_stays_as_it_is(of):
    model = WithBatchNorm()
    model.module.train()
    model.module[3].eval()  # one part in another mode
    method, before = attached(model, vectors_per_task=4, of=of), weights(model)
    data = TinyData(rows=4, seed=1)
    method.end_task(experience(0), data)
    assert_same(weights(model), before)
    assert [part.training for part in model.module] == [True, True, True, False]
    model.module.eval()
    for row in range(4):
        batch = data.batch(np.array([row]))
        value = model.outputs(batch, Draw(0)).mean() if of == "outputs" else model.loss(batch, Draw(0)).mean()
        vector = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.module.parameters()))])
        assert (vector - basis(method).T @ (basis(method) @ vector)).norm() < 1e-5 * vector.norm()


@pytest.mark.parametrize("padding", [0, 5])
def test_of_tokens_only_those_count_that_are_learnt_from(padding):
    model, batch = KeyedTokens(), tokens(1, 7, 3, seed=2)
    method = attached(model, vectors_per_task=1)
    method.end_task(experience(0), Columns(with_padding(batch, padding)))
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for said in batch["input_ids"][0, 3:6].tolist():  # the places before the three tokens that are learnt from
        expected[said] += 1
    torch.testing.assert_close(basis(method)[0], (expected / expected.norm()).flatten())


def test_long_vectors_come_out_of_length_one_too():
    vector = torch.logspace(-3, 1, 4_000_000) * torch.randn(4_000_000, generator=torch.Generator().manual_seed(0))
    block = GradientRows(1, [vector])
    block.write(0, [vector])
    assert attached(RegressionModel())._orthonormalise(block.matrix, 0)
    assert block.matrix.double().norm().item() == pytest.approx(1, abs=1e-6)


def test_samples_and_noise_are_a_function_of_seed_and_experience():
    one, same, other = (attached(TinyDistillable(), vectors_per_task=3, of="loss") for _ in range(3))
    other.train_seed = 4
    for method in (one, same, other):
        method.end_task(experience(0), TinyData(seed=1))
    assert torch.equal(basis(one), basis(same))
    assert not torch.equal(basis(one), basis(other))


def test_no_vectors_is_sequential_and_so_is_the_first_task():
    assert_sequential(TinyDistillable, OrthogonalGradientDescent(vectors_per_task=0))
    assert_sequential(TinyDistillable, OrthogonalGradientDescent(), tasks=[0])


def test_outputs_are_asked_for_where_they_are_needed():
    with pytest.raises(ConfigurationError, match="needs a model with outputs"):
        attached(TinyModel())
    method = attached(TinyModel(), of="loss", vectors_per_task=2)
    method.end_task(experience(0), TinyData())
    assert len(basis(method)) == 2


def test_other_parameters_than_before_are_refused():
    model = RegressionModel()
    method = attached(model)
    method.end_task(experience(0), TinyData())
    model.module[0].weight.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="keeps gradients of 26 parameters, but 14 learn in 'e1'"):
        method.begin_task(experience(1))


def test_state_round_trip():
    model, method = TinyDistillable(), OrthogonalGradientDescent(vectors_per_task=3)
    run(model, method, range(2))
    state, before = {name: tensor.clone() for name, tensor in method.state_dict().items()}, weights(model)
    extra = method.extra_state()
    assert extra == {"vectors": [3, 3]}
    run(model, method, [2], attach=False)
    again, other = TinyDistillable(seed=9), OrthogonalGradientDescent(vectors_per_task=3)
    again.module.load_state_dict(before)
    other.attach(again, train_seed=5)
    other.load_state_dict(state, extra, iter([]))
    assert other.memory_bytes() == sum(4 * tensor.numel() for tensor in state.values()) > 0
    run(again, other, [2], attach=False)
    assert_same(weights(again), weights(model))
    assert_same(other.state_dict(), method.state_dict())


def test_another_models_state_is_refused():
    with pytest.raises(ValueError, match=r"basis.000 must be torch.float32 of shape \(2, 26\)"):
        attached(RegressionModel()).load_state_dict({"basis.000": torch.zeros(2, 25)}, {"vectors": [2]}, iter([]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors_per_task": -1}, "method.vectors_per_task must be a whole number between 0 and"),
        ({"of": "features"}, "method.of must be one of outputs, loss; got 'features'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        OrthogonalGradientDescent(**options)
