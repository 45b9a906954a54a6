import numpy as np
import pytest
import torch
from regression_model import RegressionModel, TokenModel
from safetensors.torch import load, save
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.methods.ewc import CERTAIN, ElasticWeightConsolidation, drawn_targets
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

SETTINGS = TrainingSettings(steps=5, batch_size=4, learning_rate=0.05)
DRAW = Draw(0)


def learnt(model, method, indices):
    for index in indices:
        list(Learning(model, method, experience(index), TinyData(seed=index), SETTINGS, 3, 5 * index))


def attached(model, **settings):
    method = ElasticWeightConsolidation(**settings)
    method.attach(model, train_seed=3)
    return method


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}


def fisher(model, data, mean=False):
    """Mean of the squared gradients of samples, one after the other."""
    total = {name: torch.zeros_like(parameter) for name, parameter in model.module.named_parameters()}
    for row in range(len(data)):
        loss = model.loss(data.batch(np.array([row])), DRAW).sum()
        for name, gradient in zip(total, torch.autograd.grad(loss, list(model.module.parameters())), strict=True):
            total[name] += gradient.square() / len(data)
    return total


def task_by_task(model, method, count):
    """Learns and returns the Fisher and the weights of each task."""
    kept = []
    for index in range(count):
        learnt(model, method, [index])
        kept.append((fisher(model, TinyData(seed=index)), weights(model)))
    return kept


def penalty_gradient(method, model):
    """What the method adds to a gradient of zero."""
    method.begin_task(experience(9))
    for parameter in model.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.edit_gradients()
    return {name: parameter.grad for name, parameter in model.module.named_parameters()}


def assert_same(ours, theirs, relative=1e-6):
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= relative * expected.norm(), name


@pytest.mark.parametrize("half", [False, True])
def test_separate_pulls_like_every_past_task_on_its_own(half):
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, mode="separate", strength=10.0, half=half)
    kept = task_by_task(model, method, 3)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.3)
    factor = 10.0 * (1 if half else 2)
    now = weights(model)
    expected = {name: sum(factor * f[name] * (now[name] - w[name]) for f, w in kept) for name in now}
    assert_same(penalty_gradient(method, model), expected, 1e-12)


def test_online_pulls_to_the_last_weights_with_decayed_importance():
    model = RegressionModel()
    method = attached(model, mode="online", gamma=0.8, strength=10.0)
    (first, _), (second, _), (third, last) = task_by_task(model, method, 3)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.3)
    now = weights(model)
    expected = {n: 10 * (0.64 * first[n] + 0.8 * second[n] + third[n]) * (now[n] - last[n]) for n in now}
    assert_same(penalty_gradient(method, model), expected)


@pytest.mark.parametrize("mode", ["online", "separate"])
def test_a_run_equals_the_textbook_with_the_penalty_in_the_loss(mode):
    class Textbook(Method):
        """Every task's Fisher and weights, the penalty by autograd."""

        def attach(self, model, train_seed):
            super().attach(model, train_seed)
            self.kept = []

        def loss(self, batch, draw):
            losses = self.model.loss(batch, draw)
            for importance, anchor in self.kept if mode == "separate" else self.merged():
                for name, parameter in self.model.module.named_parameters():
                    losses = losses + 3.0 / 2 * (importance[name] * (parameter - anchor[name]).square()).sum()
            return losses

        def merged(self):
            total = {}
            for importance, _ in self.kept:
                total = {n: 0.7 * total.get(n, 0) + tensor for n, tensor in importance.items()}
            return [(total, self.kept[-1][1])] if self.kept else []

        def end_task(self, experience, data):
            self.kept.append((fisher(self.model, data), weights(self.model)))

    ours, theirs = RegressionModel(dtype=torch.float64), RegressionModel(dtype=torch.float64)
    textbook = Textbook()
    textbook.attach(theirs, 3)
    learnt(ours, attached(ours, mode=mode, gamma=0.7 if mode == "online" else 1.0, strength=3.0), range(3))
    learnt(theirs, textbook, range(3))
    assert_same(weights(ours), weights(theirs), 1e-9)
    plain = RegressionModel(dtype=torch.float64)
    sequential = Method()
    sequential.attach(plain, 3)
    learnt(plain, sequential, range(3))
    assert (plain.module[0].weight - ours.module[0].weight).norm() > 1e-3


def test_normalised_importances_have_maximum_one():
    model, data = RegressionModel(), TinyData()
    method = attached(model, normalise=True)
    method.end_task(experience(0), data)
    largest = max(tensor.max() for tensor in fisher(model, data).values())
    assert_same(method.penalty.importance, {n: t / largest for n, t in fisher(model, data).items()})
    assert max(tensor.max() for tensor in method.penalty.importance.values()) == 1


def test_batches_give_the_square_of_the_mean_gradient_and_a_smaller_importance():
    model, data = RegressionModel(), TinyData()
    method = attached(model, fisher="batch", batch_size=20)
    method.end_task(experience(0), data)
    loss = model.loss(data.batch(np.arange(20)), DRAW).mean()
    gradients = torch.autograd.grad(loss, list(model.module.parameters()))
    assert_same(method.penalty.importance, dict(zip(weights(model), [g.square() for g in gradients], strict=True)))
    for name, tensor in fisher(model, data).items():
        assert (method.penalty.importance[name] <= tensor).all()


def test_targets_from_the_model_have_the_outputs_own_distribution():
    seeds = np.arange(4000)
    outputs = torch.tensor([[1.0, -2.0]]).repeat(4000, 1)
    noise = drawn_targets(RegressionModel(), outputs, {}, seeds) - outputs
    assert noise.mean(0).abs().max() < 0.06
    assert (noise.std(0) - 1).abs().max() < 0.06
    logits = torch.tensor([[[0.0, 1.0]]]).repeat(4000, 1, 1)
    drawn = drawn_targets(TokenModel(), logits, {}, seeds)
    assert set(drawn.unique().tolist()) == {0.0, CERTAIN}
    assert abs((drawn[:, 0, 1] > 0).float().mean() - 1 / (1 + np.exp(-1))) < 0.03
    again = drawn_targets(TokenModel(), logits[:7], {}, seeds[:7])
    assert torch.equal(again, drawn[:7])


@pytest.mark.parametrize("kind", [RegressionModel, TokenModel])
def test_the_models_own_fisher_approaches_the_exact_one(kind):
    """Exact: for unit normal outputs J^T J, for tokens the expectation over all labels; targets play no role."""
    model, data = kind(), TinyData(rows=2000)
    data.y = data.y * float("nan")
    method = attached(model, estimator="model", samples=None, batch_size=500)
    method.end_task(experience(0), data)
    total = torch.zeros_like(model.module[0].weight)
    for row in range(400):
        outputs = model.outputs(data.batch(np.array([row])), DRAW).flatten()
        logs, chances = outputs.log_softmax(0), outputs.detach().softmax(0)
        for entry in range(2):
            value, share = (outputs[entry], 1.0) if kind is RegressionModel else (logs[entry], chances[entry])
            gradient = torch.autograd.grad(value, model.module[0].weight, retain_graph=True)[0]
            total += share * gradient.square() / 400
    ours = method.penalty.importance["0.weight"]
    assert (ours - total).norm() < 0.15 * total.norm()


def test_the_models_own_fisher_has_the_scale_of_a_mean_over_outputs():
    """Of d unit normal outputs, averaged: (2 / d)^2 J^T J; here d is 5, and J^T J of a weight is its input's square."""
    model, data = RegressionModel(), TinyData(rows=40_000)
    model._module, data.y = torch.nn.Sequential(torch.nn.Linear(3, 5)), torch.zeros(40_000, 5)
    method = attached(model, estimator="model", samples=None, batch_size=500)
    method.end_task(experience(0), data)
    expected = (2 / 5) ** 2 * data.x.square().mean(0).expand(5, 3)
    assert (method.penalty.importance["0.weight"] - expected).norm() < 0.05 * expected.norm()


def test_strength_zero_is_sequential_bit_for_bit():
    ours, plain = TinyModel(), TinyModel()
    method, sequential = attached(ours, strength=0.0), Method()
    sequential.attach(plain, 3)
    learnt(ours, method, range(3))
    learnt(plain, sequential, range(3))
    assert torch.equal(ours.module.weight, plain.module.weight)
    assert method.memory_bytes() == 0


def test_the_first_task_is_learnt_as_without():
    ours, plain = TinyModel(), TinyModel()
    sequential = Method()
    sequential.attach(plain, 3)
    learnt(ours, attached(ours), [0])
    learnt(plain, sequential, [0])
    assert torch.equal(ours.module.weight, plain.module.weight)
    assert all(parameter.grad is None for parameter in ours.module.parameters())


@pytest.mark.parametrize("mode", ["online", "separate"])
def test_a_resumed_run_continues_bit_for_bit(mode):
    model = RegressionModel()
    method = attached(model, mode=mode)
    learnt(model, method, range(2))
    state, before = load(save(method.state_dict())), weights(model)
    learnt(model, method, [2])
    again = RegressionModel(seed=5)
    again.module.load_state_dict(before)
    other = attached(again, mode=mode)
    other.load_state_dict(state, method.extra_state(), iter(()))
    learnt(again, other, [2])
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, weights(model)[name])
    assert other.memory_bytes() == method.memory_bytes() == 8 * sum(p.numel() for p in model.module.parameters())


def test_layers_may_freeze_and_thaw_between_tasks():
    model = RegressionModel()
    method = attached(model, strength=10.0)
    model.module[0].requires_grad_(False)
    learnt(model, method, [0])
    assert set(method.penalty.importance) == {"2.weight", "2.bias"}
    model.module[0].requires_grad_(True)
    model.module[2].requires_grad_(False)
    kept, frozen = method.penalty.importance["2.weight"].clone(), model.module[2].weight.clone()
    learnt(model, method, [1])
    assert set(method.penalty.importance) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(method.penalty.importance["2.weight"], kept)
    assert torch.equal(model.module[2].weight, frozen)
    model.module.requires_grad_(True)
    learnt(model, method, [2])


def test_a_model_without_outputs_has_no_fisher_of_its_own():
    with pytest.raises(ConfigurationError, match="needs a model with outputs"):
        attached(TinyModel(), estimator="model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, r"method.strength must be between 0 and"),
        ({"strength": float("nan")}, r"method.strength must be between 0 and"),
        ({"gamma": 1.1}, r"method.gamma must be between 0 and 1; got 1.1"),
        ({"mode": "separate", "gamma": 0.9}, r"method.gamma must be 1 with mode separate"),
        ({"mode": "merged"}, "online, separate"),
        ({"fisher": "exact"}, "per_sample, batch"),
        ({"estimator": "true"}, "empirical, model"),
        ({"samples": 0}, r"method.samples must be a whole number between 1"),
        ({"batch_size": 0}, r"method.batch_size must be a whole number between 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        ElasticWeightConsolidation(**settings)
