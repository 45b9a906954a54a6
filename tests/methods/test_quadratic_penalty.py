import pytest
import torch
from torch import nn

from vla_cl.methods import quadratic_penalty
from vla_cl.methods.quadratic_penalty import Pull, QuadraticPenalty, add_quadratic_gradient, trainable

TASKS = 10


class Sizes(nn.Module):
    """Small and large tensors, one that is not contiguous, one that does not learn."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.small = nn.Parameter(torch.randn(5, dtype=dtype))
        self.scalar = nn.Parameter(torch.randn((), dtype=dtype))
        self.large = nn.Parameter(torch.randn(300, 500, dtype=dtype))
        self.channels_last = nn.Parameter(
            torch.randn(40, 8, 30, 30, dtype=dtype).contiguous(memory_format=torch.channels_last)
        )
        self.frozen = nn.Parameter(torch.randn(5, dtype=dtype), requires_grad=False)
        self.without_gradient = nn.Parameter(torch.randn(5, dtype=dtype))


def tasks(module, seed=1):
    """Importances and weights of several tasks: weights far from zero, importances over many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TASKS):
        yield tuple(
            {
                name: draw(parameter.shape, generator)
                .to(parameter.dtype)
                .as_strided_(parameter.size(), parameter.stride())
                if parameter.ndim == 4
                else draw(parameter.shape, generator).to(parameter.dtype)
                for name, parameter in module.named_parameters()
            }
            for draw in (
                lambda shape, generator: torch.rand(shape, generator=generator, dtype=torch.float64).pow(8),
                lambda shape, generator: 3 + 0.01 * torch.randn(shape, generator=generator, dtype=torch.float64),
            )
        )


def with_gradients(module, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name not in ("frozen", "without_gradient"):
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def by_autograd(module, penalty, strength, half):
    """The penalty's gradient, in double precision, by autograd from its definition."""
    expected = {}
    for name, parameter in module.named_parameters():
        weights = parameter.detach().double().requires_grad_()
        value = sum((f[name].double() * (weights - w[name].double()) ** 2).sum() for f, w in penalty)
        (value * strength * (0.5 if half else 1)).backward()
        expected[name] = weights.grad
    return expected


def assert_added(module, before, expected, relative):
    for name, parameter in module.named_parameters():
        if name not in before:
            assert parameter.grad is None
            continue
        added = parameter.grad.double() - before[name].double()
        assert (added - expected[name]).norm() <= relative * expected[name].norm(), name


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("block", [1 << 18, 1000])
def test_the_merged_gradient_is_that_of_all_tasks_quadratics(monkeypatch, half, dtype, relative, block):
    monkeypatch.setattr(quadratic_penalty, "BLOCK", block)
    module = Sizes(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(3)
    penalty, kept = QuadraticPenalty(), list(tasks(module))
    for importance, weights in kept:
        penalty.merge(importance, weights)
    before = {name: gradient.zero_() for name, gradient in with_gradients(module).items()}
    for name in before:
        module.get_parameter(name).grad.zero_()
    penalty.add_gradient(trainable(module), 5.0, half)
    assert_added(module, before, by_autograd(module, kept, 5.0, half), relative)


def test_merged_values_differ_by_a_constant_from_the_sum():
    module, penalty = Sizes(torch.float64), QuadraticPenalty()
    kept = list(tasks(module))
    for importance, weights in kept:
        penalty.merge(importance, weights)
    differences = []
    for _ in range(2):
        named = dict(module.named_parameters())
        total = sum((f[n] * (p - w[n]).square()).sum().item() for f, w in kept for n, p in named.items()) * 7
        differences.append(total - penalty.value(named, 7.0, half=False))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.5)
    assert differences[0] == pytest.approx(differences[1], rel=1e-9)
    assert penalty.value(named, 7.0, half=True) == pytest.approx(penalty.value(named, 3.5, half=False))


def test_online_keeps_the_last_anchor_and_decays():
    module, penalty = Sizes(), QuadraticPenalty()
    expected = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    for importance, weights in tasks(module):
        penalty.replace(0.9, importance, weights)
        expected = {name: 0.9 * tensor + importance[name] for name, tensor in expected.items()}
    for name, tensor in expected.items():
        assert torch.allclose(penalty.importance[name], tensor, rtol=1e-6)
        assert torch.equal(penalty.anchor[name], weights[name])


def test_where_nothing_was_important_nothing_breaks():
    penalty, zero = QuadraticPenalty(), {"a": torch.zeros(3)}
    penalty.merge(zero, {"a": torch.ones(3)})
    penalty.merge(zero, {"a": torch.full((3,), 2.0)})
    penalty.merge({"a": torch.tensor([1.0, 0.0, 0.0])}, {"a": torch.full((3,), 5.0)})
    assert penalty.anchor["a"].tolist() == [5.0, 1.0, 1.0]
    assert penalty.importance["a"].tolist() == [1.0, 0.0, 0.0]


def test_parameters_may_come_and_go():
    penalty = QuadraticPenalty()
    one, two = torch.ones(2), torch.full((2,), 2.0)
    penalty.merge({"a": one}, {"a": one, "b": one})
    penalty.merge({"b": two}, {"a": two, "b": two})
    penalty.replace(0.5, {"b": two}, {"b": one})
    assert penalty.importance["a"].tolist() == [1.0, 1.0]  # as it was: no gradient said otherwise
    assert penalty.importance["b"].tolist() == [3.0, 3.0]
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    penalty.add_gradient({"b": parameter, "new": nn.Parameter(torch.zeros(2))}, 1.0, half=True)
    assert parameter.grad.tolist() == [-3.0, -3.0]
    with pytest.raises(ValueError, match=r"holds \(2,\) for parameter 'a', but it now has \(3,\)"):
        penalty.merge({"a": torch.ones(3)}, {"a": torch.ones(3)})


def test_what_is_kept_does_not_follow_the_weights():
    weights, importance = torch.ones(4), torch.ones(4)
    penalty = QuadraticPenalty()
    penalty.merge({"a": importance}, {"a": weights})
    weights.zero_()
    importance.zero_()
    assert penalty.importance["a"].sum() == penalty.anchor["a"].sum() == 4


@pytest.mark.parametrize("with_importance", [False, True])
def test_weights_in_low_precision(with_importance):
    parameter = nn.Parameter(torch.randn(1000).bfloat16())
    anchor, importance = torch.randn(1000), torch.rand(1000) if with_importance else None
    parameter.grad = torch.zeros(1000, dtype=torch.bfloat16)
    add_quadratic_gradient([Pull(parameter, anchor, importance)], 2.0)
    expected = 2 * (parameter.detach().float() - anchor) * (1.0 if importance is None else importance)
    assert torch.equal(parameter.grad, expected.bfloat16())


@pytest.mark.parametrize("elements", [1 << 26, 8])
@pytest.mark.parametrize("with_importance", [False, True])
def test_many_tensors_in_few_calls_give_the_same(monkeypatch, elements, with_importance):
    """What accelerators do: here with tensors of the CPU."""
    monkeypatch.setattr(quadratic_penalty, "FOREACH_ELEMENTS", elements)
    ours, theirs = Sizes(), Sizes()
    pulls = []
    for module in (ours, theirs):
        with_gradients(module)
        generator = torch.Generator().manual_seed(7)
        pulls.append(
            [
                Pull(p, torch.full_like(p, 0.5), torch.rand(p.shape, generator=generator) if with_importance else None)
                for p in module.parameters()
                if p.grad is not None
            ]
        )
    quadratic_penalty._add_together(pulls[0], 3.0)
    add_quadratic_gradient(pulls[1], 3.0)
    for ours_, theirs_ in zip(*pulls, strict=True):
        assert torch.allclose(ours_.parameter.grad, theirs_.parameter.grad, rtol=1e-6, atol=1e-5)


def test_without_importance_every_weight_counts_one():
    module = Sizes()
    before = with_gradients(module)
    pulls = [Pull(parameter, torch.full_like(parameter, 0.5), None) for parameter in module.parameters()]
    add_quadratic_gradient(pulls, 3.0)
    for name, parameter in module.named_parameters():
        if name in before:
            assert torch.allclose(parameter.grad, before[name] + 3 * (parameter - 0.5), rtol=1e-5, atol=1e-6)
        else:
            assert parameter.grad is None


def test_strength_zero_touches_nothing():
    module, penalty = Sizes(), QuadraticPenalty()
    importance, weights = next(tasks(module))
    penalty.merge(importance, {name: tensor * float("nan") for name, tensor in weights.items()})
    before = with_gradients(module)
    penalty.add_gradient(trainable(module), 0.0, half=False)
    for name, gradient in before.items():
        assert torch.equal(module.get_parameter(name).grad, gradient)


def test_state_and_bytes():
    module, penalty = Sizes(), QuadraticPenalty()
    for importance, weights in tasks(module):
        penalty.merge(importance, weights)
    assert penalty.memory_bytes() == 8 * sum(parameter.numel() for parameter in module.parameters())
    state = penalty.state_dict()
    assert set(state) == {
        f"{kind}.{name}" for kind in ("importance", "anchor") for name, _ in module.named_parameters()
    }
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)
    other = QuadraticPenalty()
    other.load_state_dict(state, torch.device("cpu"))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.data_ptr() != state[name].data_ptr()
    with pytest.raises(ValueError, match=r"importance\.<parameter> and anchor\.<parameter>"):
        other.load_state_dict({"importance.small": torch.ones(5)}, torch.device("cpu"))
    with pytest.raises(ValueError, match="adapter"):
        other.load_state_dict({"adapter": torch.ones(5)}, torch.device("cpu"))
