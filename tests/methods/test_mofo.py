import pytest
import torch
from tiny_distillable import TinyDistillable, assert_continues_after_resume, assert_sequential, run, weights
from tiny_model import TinyModel
from torch.optim import AdamW

from vla_cl.methods.mofo import MomentumFilteredAdamW, MomentumFilteredOptimizer, largest_only
from vla_cl.types import ConfigurationError

SHAPES = [(5, 7), (11,), (3, 2, 4)]
RATE, DECAY = 0.02, 0.3


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def optimizer_for(parameters, alpha, decay="all", vectors=True):
    groups = [{"params": parameters[:2], "lr": RATE}, {"params": parameters[2:], "weight_decay": 0.0}]
    return MomentumFilteredAdamW(groups, 2 * RATE, DECAY, alpha, decay, vectors)


def by_hand(alpha, decay, vectors, steps):
    """Entry by entry, in Python's double precision."""
    parameters = tensors()
    values = [parameter.detach().double().flatten().tolist() for parameter in parameters]
    moments = [[[0.0, 0.0] for _ in entries] for entries in values]
    for step in range(1, steps + 1):
        gradients(parameters, step)
        for number, parameter in enumerate(parameters):
            rate, weight_decay = (RATE, DECAY) if number < 2 else (2 * RATE, 0.0)
            for entry, gradient in zip(moments[number], parameter.grad.flatten().tolist(), strict=True):
                entry[0] = 0.9 * entry[0] + 0.1 * gradient
                entry[1] = 0.999 * entry[1] + 0.001 * gradient**2
            order = sorted(range(len(values[number])), key=lambda place: -abs(moments[number][place][0]))
            count = max(1, int(alpha * len(order)))
            moving = set(order[:count]) if vectors or parameter.ndim > 1 else set(order)
            for place in order:
                if place in moving or decay == "all":
                    values[number][place] *= 1 - rate * weight_decay
                if place in moving:
                    first, second = moments[number][place]
                    first, second = first / (1 - 0.9**step), second / (1 - 0.999**step)
                    values[number][place] -= rate * first / (second**0.5 + 1e-8)
    return [torch.tensor(entries).view(shape).float() for entries, shape in zip(values, SHAPES, strict=True)]


@pytest.mark.parametrize("decay", ["all", "moved"])
@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("alpha", [0.01, 0.15, 0.5])
def test_steps_are_those_of_the_formula(alpha, decay, vectors):
    parameters = tensors()
    optimizer = optimizer_for(parameters, alpha, decay, vectors)
    for step in range(1, 6):
        gradients(parameters, step)
        optimizer.step()
    for ours, expected in zip(parameters, by_hand(alpha, decay, vectors, 5), strict=True):
        torch.testing.assert_close(ours.detach(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_at_alpha_one_it_is_adamw_bit_for_bit(foreach):
    ours, theirs = tensors(), tensors()
    optimizer = MomentumFilteredAdamW([{"params": ours}], RATE, DECAY, alpha=1.0)
    reference = AdamW(theirs, lr=RATE, weight_decay=DECAY, foreach=foreach)
    for step in range(20):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("foreach", [True, False])
def test_what_moves_moves_as_adamw_moves_it_bit_for_bit(foreach):
    ours, theirs = tensors(), tensors()
    optimizer = MomentumFilteredAdamW([{"params": ours}], RATE, DECAY, 0.3, "moved", True)
    reference = AdamW(theirs, lr=RATE, weight_decay=DECAY, foreach=foreach)
    start = [parameter.detach().clone() for parameter in ours]
    gradients(ours, 0)
    gradients(theirs, 0)
    optimizer.step()
    reference.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        moved = one != before
        assert moved.sum() == int(0.3 * one.numel())
        assert torch.equal(one[moved], other[moved])
        assert torch.equal(one[~moved], before[~moved])
        assert torch.equal(optimizer.state[one]["exp_avg"], reference.state[other]["exp_avg"])
        assert torch.equal(optimizer.state[one]["exp_avg_sq"], reference.state[other]["exp_avg_sq"])


def test_parameters_without_gradient_are_left_alone():
    parameters = tensors()
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = optimizer_for(parameters, 0.5)
    gradients(parameters, 0)
    parameters[1].grad = None
    optimizer.step()
    assert [torch.equal(one, before) for one, before in zip(parameters, start, strict=True)] == [False, True, False]


def check_selection(values, count):
    found = largest_only(values, count)
    assert found.shape == values.shape
    assert found.dtype == values.dtype
    chosen = found != 0
    assert torch.equal(found[chosen], values[chosen])
    assert chosen.sum() == min(count, (values != 0).sum())
    if count < values.numel():
        assert found[chosen].abs().min() >= values[~chosen].abs().max()


@pytest.mark.parametrize("size", [1, 2, 1000, 40_000])
@pytest.mark.parametrize("kind", ["normal", "tied", "zeros", "huge"])
def test_exactly_as_many_of_the_largest_are_found_as_asked_for(size, kind):
    values = torch.randn(size, generator=torch.Generator().manual_seed(0))
    if kind == "tied":
        values = (values * 3).round() + 0.5
    elif kind == "zeros":
        values[: size // 2] = 0.0
    elif kind == "huge":
        values *= 10.0 ** torch.linspace(-37, 37, size)
    for count in sorted({1, max(1, size // 7), max(1, size // 2), max(1, size - 3), size}):
        check_selection(values, count)


def test_other_shapes_and_types_are_filtered_too():
    for values in (torch.randn(200, 201).double(), torch.randn(200, 201).bfloat16(), torch.randn(200, 201).t()):
        check_selection(values, 5000)


def test_alpha_one_is_sequential():
    assert_sequential(TinyDistillable, MomentumFilteredOptimizer(alpha=1.0, from_task=1))


def test_the_first_task_is_learnt_with_plain_adamw_unless_told_otherwise():
    assert_sequential(TinyDistillable, MomentumFilteredOptimizer(alpha=0.1), tasks=[0])
    full, filtered = TinyDistillable(), TinyDistillable()
    run(full, MomentumFilteredOptimizer(alpha=0.1), [0])
    run(filtered, MomentumFilteredOptimizer(alpha=0.1, from_task=1), [0])
    assert not torch.equal(weights(full)["head.weight"], weights(filtered)["head.weight"])


def test_it_stays_nearer_to_the_old_weights_than_sequential():
    distance = {}
    for alpha in (0.1, 1.0):
        model, method = TinyDistillable(), MomentumFilteredOptimizer(alpha=alpha, vectors=True)
        run(model, method, [0])
        before = weights(model)
        run(model, method, [1], attach=False)
        distance[alpha] = sum((value - before[name]).norm() ** 2 for name, value in weights(model).items())
    assert distance[0.1] < 0.5 * distance[1.0]


def test_it_continues_after_a_resume():
    assert_continues_after_resume(TinyDistillable, MomentumFilteredOptimizer)


def test_it_keeps_nothing():
    method = MomentumFilteredOptimizer()
    run(TinyModel(), method, [0, 1])
    assert method.memory_bytes() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "method.alpha must be above 0 and at most 1; got 0.0"),
        ({"alpha": 1.1}, "method.alpha must be above 0 and at most 1; got 1.1"),
        ({"decay": "none"}, "method.decay must be one of all, moved; got 'none'"),
        ({"from_task": 0}, "method.from_task must be a whole number between 1 and"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        MomentumFilteredOptimizer(**options)
