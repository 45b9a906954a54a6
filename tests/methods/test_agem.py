import copy

import numpy as np
import pytest
import torch
from regression_model import RegressionModel
from tiny_distillable import TinyDistillable, assert_same, assert_sequential, run, weights
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.agem import AveragedGradientEpisodicMemory
from vla_cl.random_numbers import Purpose, number
from vla_cl.types import ConfigurationError, Draw


def attached(model, **options):
    method = AveragedGradientEpisodicMemory(**options)
    method.attach(model, train_seed=3)
    return method


def gradient(model, batch):
    model.module.zero_grad()
    model.loss(batch, Draw(0)).mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.module.parameters()]).double()


def after(model, method, batch, step):
    """The gradient of a step, before and after the edit."""
    plain = gradient(model, batch)
    method.compose(batch, step)
    method.edit_gradients()
    return plain, torch.cat([parameter.grad.flatten() for parameter in model.module.parameters()]).double()


def opposed(seed=1):
    """Data whose gradient is against that of ``TinyData(seed=1)`` at most weights."""
    data = TinyData(seed=seed)
    data.y = -data.y
    return data


@pytest.mark.parametrize("data", [opposed(), TinyData(seed=1)], ids=["opposed", "agreeing"])
def test_the_gradient_is_that_of_the_formula(data):
    model = RegressionModel(dtype=torch.float64)
    method = attached(model, samples_per_task=7)
    old = TinyData(seed=1)
    method.end_task(experience(0), old)
    plain, edited = after(model, method, data.batch(np.arange(4)), 10)
    remembered = method.memory.sample(4, 3, 10)
    reference = gradient(model, remembered)
    product = plain @ reference
    wanted = plain - min(0, product) / (reference @ reference) * reference
    torch.testing.assert_close(edited, wanted, rtol=1e-12, atol=1e-12)
    if product < 0:
        assert abs(edited @ reference) < 1e-9 * edited.norm() * reference.norm()
        assert not torch.equal(edited, plain)
    else:
        assert torch.equal(edited, plain)


def test_both_cases_above_happen():
    model = RegressionModel(dtype=torch.float64)
    old = gradient(model, TinyData(seed=1).batch(np.arange(20)))
    assert gradient(model, opposed().batch(np.arange(4))) @ old < 0
    assert gradient(model, TinyData(seed=1).batch(np.arange(4))) @ old > 0


def test_as_many_remembered_samples_as_new_ones_drawn_by_seed_and_step():
    model, seen = RegressionModel(), []
    method = attached(model, samples_per_task=7)
    method.end_task(experience(0), TinyData(seed=1))
    loss = model.loss
    model.loss = lambda batch, draw: (seen.append((batch["x"], draw)), loss(batch, draw))[1]
    for step in (10, 10, 11):
        after(model, method, TinyData(seed=2).batch(np.arange(4)), step)
    (first, draw), (again, _), (other, _) = seen[1::2]
    assert first.shape == (4, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert draw.seed == number(3, Purpose.PAST_LOSS, 10)


@pytest.mark.parametrize(("share", "size"), [(0.5, 3), (0.25, 6), (2 / 3, 5), (1.5, 1)])
def test_on_average_over_the_steps_the_reference_has_its_share(share, size):
    method = attached(RegressionModel(), samples_per_task=7, share=share)
    counts = [method.remembered_count(size, step) for step in range(600)]
    assert abs(np.mean(counts) - share * size) < 1 / 600
    assert max(counts) - min(counts) <= 1


def test_no_step_is_without_a_reference():
    assert attached(RegressionModel(), share=0.1).remembered_count(1, 0) == 1
    assert attached(RegressionModel(), share=0.0).remembered_count(8, 0) == 0


def test_parameters_without_gradient_are_left_alone():
    model = RegressionModel()
    method = attached(model, samples_per_task=7)
    method.end_task(experience(0), TinyData(seed=1))
    model.module[0].weight.requires_grad_(False)
    model.loss(opposed().batch(np.arange(4)), Draw(0)).mean().backward()
    model.module[2].bias.grad = None
    method.compose(opposed().batch(np.arange(4)), 0)
    method.edit_gradients()
    assert model.module[0].weight.grad is None
    assert model.module[2].bias.grad is None
    assert model.module[0].bias.grad is not None


def test_the_first_task_and_a_share_of_nothing_are_sequential():
    assert_sequential(TinyDistillable, AveragedGradientEpisodicMemory(share=0.0))
    assert_sequential(TinyDistillable, AveragedGradientEpisodicMemory(), tasks=[0])


def test_state_round_trip():
    model, method = TinyDistillable(), AveragedGradientEpisodicMemory(samples_per_task=5)
    run(model, method, range(2))
    assert method.memory_bytes() == 10 * TinyData.bytes_per_sample
    extra, before = copy.deepcopy(method.extra_state()), weights(model)
    assert method.state_dict() == {}
    run(model, method, [2], attach=False)
    again, other = TinyDistillable(seed=9), AveragedGradientEpisodicMemory(samples_per_task=5)
    again.module.load_state_dict(before)
    other.attach(again, train_seed=5)
    other.load_state_dict({}, extra, ((experience(index), TinyData(10, seed=index)) for index in range(2)))
    run(again, other, [2], attach=False)
    assert_same(weights(again), weights(model))


def test_another_methods_state_is_refused():
    with pytest.raises(ValueError, match="keeps experiences, memory, but the checkpoint holds tasks_learnt"):
        attached(TinyModel()).load_state_dict({}, {"tasks_learnt": 1}, iter([]))


def test_a_gradient_that_is_not_finite_is_reported():
    model = RegressionModel()
    method = attached(model)
    method.end_task(experience(0), TinyData(seed=1))
    batch = TinyData(seed=2).batch(np.arange(4))
    gradient(model, batch)
    model.module[0].weight.grad.fill_(float("nan"))
    method.compose(batch, 0)
    with pytest.raises(FloatingPointError, match="remembered samples is not finite"):
        method.edit_gradients()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_task": 0}, "method.samples_per_task must be a whole number between 1 and"),
        ({"share": -0.1}, "method.share must be at least 0 and at most 8.0"),
        ({"selection": "best"}, "first, uniform"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AveragedGradientEpisodicMemory(**options)
