import copy
import itertools

import numpy as np
import pytest
import torch
from regression_model import RegressionModel
from tiny_distillable import TinyDistillable, assert_same, assert_sequential, run, weights
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.agem import AveragedGradientEpisodicMemory
from vla_cl.methods.gem import GradientEpisodicMemory, minimise_above
from vla_cl.types import ConfigurationError, Draw


def program(tasks, seed, rank=None, scale=1.0):
    """A random program as GEM poses it."""
    generator = np.random.default_rng(seed)
    rows = scale * generator.standard_normal((tasks, rank or 3 * tasks))
    return rows @ rows.T, rows @ (scale * generator.standard_normal(rows.shape[1]))


def by_enumeration(matrix, vector, low):
    """Every set of bounds that may hold: the one that satisfies the conditions of optimality."""
    count = len(vector)
    for size in range(count + 1):
        for bound in itertools.combinations(range(count), size):
            free = [i for i in range(count) if i not in bound]
            found = np.full(count, float(low))
            if free:
                held = matrix[np.ix_(free, bound)] @ found[list(bound)] if bound else 0
                found[free] = np.linalg.solve(matrix[np.ix_(free, free)], -vector[free] - held)
            slope = matrix @ found + vector
            if (found >= low - 1e-12).all() and (slope[list(bound)] >= -1e-9).all():
                return found
    raise AssertionError("no set of bounds is optimal")


@pytest.mark.parametrize("low", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 5, 8])
def test_the_program_is_solved_as_by_trying_every_set_of_bounds(tasks, low):
    some_bound = some_free = False
    for seed in range(20):
        matrix, vector = program(tasks, seed)
        matrix += 1e-3 * np.eye(tasks)
        wanted = by_enumeration(matrix, vector, low)
        np.testing.assert_allclose(minimise_above(matrix, vector, low), wanted, rtol=1e-8, atol=1e-9)
        some_bound |= bool((wanted == low).any())
        some_free |= bool((wanted > low).any())
    assert some_bound
    assert some_free


def test_the_program_of_many_tasks_meets_the_conditions_of_optimality():
    for seed, scale in itertools.product(range(5), (1e-4, 1.0, 1e4)):
        matrix, vector = program(40, seed, scale=scale)
        found = minimise_above(matrix, vector, 0.0)
        slope = matrix @ found + vector
        unit = np.abs(vector).max()
        assert found.min() >= 0
        assert slope.min() >= -1e-9 * unit
        assert np.abs(slope[found > 0]).max() <= 1e-9 * unit


def test_gradients_that_depend_on_each_other_are_no_obstacle():
    matrix, vector = program(6, 0, rank=2)
    found = minimise_above(matrix, vector, 0.0)
    assert (matrix @ found + vector).min() >= -1e-9 * np.abs(vector).max()
    np.testing.assert_allclose(minimise_above(np.zeros((2, 2)), np.zeros(2), 0.5), [0.5, 0.5])


def attached(model, cls=GradientEpisodicMemory, **options):
    method = cls(**options)
    method.attach(model, train_seed=3)
    return method


def gradient(model, batch):
    model.module.zero_grad()
    model.loss(batch, Draw(0)).mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.module.parameters()])


def edited(model, method, batch, step=0):
    gradient(model, batch)
    method.compose(batch, step)
    method.edit_gradients()
    return torch.cat([parameter.grad.flatten() for parameter in model.module.parameters()])


def turned(angle, seed):
    """Tasks that contradict each other."""
    data = TinyData(seed=seed)
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    data.y = data.y @ turn
    return data


PAST = [turned(angle, seed) for seed, angle in enumerate((0.0, 2.0, 4.0))]
NEW = turned(3.0, 7)


def learnt(method, past=PAST):
    for index, data in enumerate(past):
        method.end_task(experience(index), data)
    return method


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_gradient_is_that_of_the_dual_program(margin):
    model = RegressionModel(dtype=torch.float64)
    method = learnt(attached(model, samples_per_task=20, batch_size=None, margin=margin, eps=1e-3))
    batch = NEW.batch(np.arange(6))
    rows = torch.stack([gradient(model, data.batch(np.arange(20))) for data in PAST])
    plain = gradient(model, batch)
    assert (rows @ plain).min() < 0
    matrix = (rows @ rows.T).numpy() + 1e-3 * np.eye(3)
    factors = by_enumeration(matrix, (rows @ plain).numpy(), margin)
    wanted = plain + torch.from_numpy(factors) @ rows
    torch.testing.assert_close(edited(model, method, batch), wanted, rtol=1e-9, atol=1e-9)


def test_without_margin_no_past_loss_rises_to_first_order():
    for seed in range(10):
        model = RegressionModel(seed)
        method = learnt(attached(model, samples_per_task=20, batch_size=None, margin=0.0, eps=0.0))
        found = edited(model, method, NEW.batch(np.arange(6)))
        rows = torch.stack([gradient(model, data.batch(np.arange(20))) for data in PAST])
        lengths = rows.norm(dim=1) * max(found.norm(), gradient(model, NEW.batch(np.arange(6))).norm())
        assert (rows @ found / lengths).min() > -1e-5


def test_a_gradient_that_raises_no_past_loss_is_left_alone():
    model = RegressionModel()
    method = learnt(attached(model, samples_per_task=20, batch_size=None), PAST[:1])
    batch = PAST[0].batch(np.arange(20))
    assert torch.equal(gradient(model, batch), edited(model, method, batch))


def test_with_one_past_task_and_neither_margin_nor_eps_it_is_agem():
    model, batch = RegressionModel(dtype=torch.float64), NEW.batch(np.arange(20))
    ours = learnt(attached(model, samples_per_task=20, batch_size=None, margin=0.0, eps=0.0), PAST[:1])
    theirs = learnt(attached(model, AveragedGradientEpisodicMemory, samples_per_task=20), PAST[:1])
    theirs.memory.sample = lambda count, seed, step: PAST[0].batch(np.arange(20))
    found = edited(model, ours, batch)
    assert not torch.equal(found, gradient(model, batch))
    torch.testing.assert_close(found, edited(model, theirs, batch), rtol=1e-12, atol=1e-12)


def test_each_past_task_gives_a_batch_of_its_own_drawn_by_seed_and_step():
    model, seen = RegressionModel(), []
    method = learnt(attached(model, samples_per_task=12, batch_size=4))
    loss = model.loss
    model.loss = lambda batch, draw: (seen.append(batch["index"].tolist()), loss(batch, draw))[1]
    for step in (0, 0, 1):
        edited(model, method, NEW.batch(np.arange(6)), step)
    first, again, other = seen[1:4], seen[5:8], seen[9:12]
    assert first == again != other
    kept = method.memory.everything()
    for number, rows in enumerate(first):
        assert len(set(rows)) == 4
        assert set(rows) <= set(kept[kept[:, 0] == number, 1])


def test_parameters_without_gradient_are_left_alone():
    model = RegressionModel()
    method = learnt(attached(model, samples_per_task=12))
    model.module[0].weight.requires_grad_(False)
    batch = NEW.batch(np.arange(6))
    (-model.loss(batch, Draw(0)).mean()).backward()  # uphill, so something is to be projected
    before = model.module[2].weight.grad.clone()
    method.compose(batch, 0)
    method.edit_gradients()
    assert model.module[0].weight.grad is None
    assert not torch.equal(model.module[2].weight.grad, before)


def test_the_first_task_is_learnt_as_sequentially():
    assert_sequential(TinyDistillable, GradientEpisodicMemory(), tasks=[0])


def test_state_round_trip():
    model, method = TinyDistillable(), GradientEpisodicMemory(samples_per_task=5, batch_size=3)
    run(model, method, range(2))
    assert method.memory_bytes() == 10 * TinyData.bytes_per_sample
    extra, before = copy.deepcopy(method.extra_state()), weights(model)
    assert method.state_dict() == {}
    run(model, method, [2], attach=False)
    again, other = TinyDistillable(seed=9), GradientEpisodicMemory(samples_per_task=5, batch_size=3)
    again.module.load_state_dict(before)
    other.attach(again, train_seed=5)
    other.load_state_dict({}, extra, ((experience(index), TinyData(10, seed=index)) for index in range(2)))
    run(again, other, [2], attach=False)
    assert_same(weights(again), weights(model))
    with pytest.raises(ValueError, match="keeps experiences, memory, but the checkpoint holds tasks_learnt"):
        attached(TinyModel()).load_state_dict({}, {"tasks_learnt": 1}, iter([]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_task": 0}, "method.samples_per_task must be a whole number between 1 and"),
        ({"batch_size": 0}, "method.batch_size must be a whole number between 1 and"),
        ({"margin": -1.0}, "method.margin must be between 0 and"),
        ({"eps": -1.0}, "method.eps must be between 0 and"),
        ({"selection": "best"}, "first, uniform"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        GradientEpisodicMemory(**options)
