import pytest
import torch
from tiny_distillable import (
    TinyDistillable,
    assert_continues_after_resume,
    assert_same,
    assert_sequential,
    run,
    weights,
)
from tiny_model import TinyData, experience
from torch.optim.lr_scheduler import LambdaLR

from vla_cl.methods.parameter_patterns import matching
from vla_cl.methods.slca import SlowLearner
from vla_cl.training.learning import Learning, TrainingSettings, sample_rows
from vla_cl.types import ConfigurationError, Draw, Roles


def test_slow_share_one_is_sequential():
    assert_sequential(TinyDistillable, SlowLearner(slow_share=1.0))


def test_the_first_task_is_learnt_at_the_full_rate():
    assert_sequential(TinyDistillable, SlowLearner(), tasks=[0])


def rates(method, model, task):
    """Parameter name to its learning rate, after three steps of a schedule that halves."""
    method.load_state_dict({}, {"tasks_learnt": task - 1}, iter([]))
    groups = [
        {"params": [model.module.vision.weight, model.module.head.weight], "lr": 0.4},
        {"params": [model.module.state.bias, model.module.head.bias], "weight_decay": 0.0},
    ]
    optimizer = method.make_optimizer(groups, 0.8, 0.1)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    names = {id(parameter): name for name, parameter in model.module.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }


def test_the_schedule_multiplies_each_rate_of_each_group():
    model = TinyDistillable()
    method = SlowLearner(slow=["vision.*", "state.*"], slow_share=0.25)
    method.attach(model, 0)
    assert rates(method, model, 1) == {
        "vision.weight": (0.05, 0.1), "head.weight": (0.05, 0.1), "state.bias": (0.1, 0.0), "head.bias": (0.1, 0.0)
    }  # fmt: skip
    assert rates(method, model, 2) == {
        "vision.weight": (0.0125, 0.1), "head.weight": (0.05, 0.1), "state.bias": (0.025, 0.0), "head.bias": (0.1, 0.0)
    }  # fmt: skip


def test_weights_are_those_of_adamw_with_a_rate_of_its_own_for_each_tensor():
    """Plain steps by hand: no method, no groups of the method's."""
    settings = TrainingSettings(
        steps=6, batch_size=5, learning_rate=1e-2, final_share=1.0, warmup_share=0.0, clip_norm=0.0, weight_decay=0.1
    )
    model, method = TinyDistillable(fixed=True), SlowLearner(slow=["vision.*"], slow_share=0.2)
    run(model, method, [0], settings)
    start = weights(model)
    for _ in Learning(model, method, experience(1), TinyData(10, seed=1), settings, 5):
        pass
    other = TinyDistillable(fixed=True)
    other.module.load_state_dict(start)
    moments = {name: [0.0, 0.0] for name, _ in other.module.named_parameters()}
    for step in range(6):
        batch = TinyData(10, seed=1).batch(sample_rows(10, 5, step, 5, 1))
        other.module.zero_grad()
        other.loss(batch, Draw(0)).mean().backward()
        with torch.no_grad():
            for name, parameter in other.module.named_parameters():
                if not parameter.requires_grad:
                    continue
                rate = 1e-2 * (0.2 if name.startswith("vision.") else 1)
                first, second = moments[name]
                first = 0.9 * first + 0.1 * parameter.grad
                second = 0.999 * second + 0.001 * parameter.grad**2
                moments[name] = [first, second]
                parameter *= 1 - rate * 0.1
                parameter -= (
                    rate * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                )
    for name, value in weights(model).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(model)["vision.weight"], start["vision.weight"])


def test_a_share_of_zero_keeps_the_slow_part_bit_for_bit():
    model, method = TinyDistillable(), SlowLearner(slow_share=0.0)
    run(model, method, [0])
    before = weights(model)
    run(model, method, [1], attach=False)
    after = weights(model)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["head.weight", "head.bias"]  # without patterns, all but the output layer is slow


class OutputFirst(TinyDistillable):
    """Says that its output comes from the layer that is registered in the middle."""

    def roles(self):
        return Roles(
            tuple(name for name, _ in self.module.named_parameters()), frozenset({"state.weight", "state.bias"})
        )


def test_the_model_tells_which_layer_gives_the_output():
    model, method = OutputFirst(), SlowLearner(slow_share=0.0)
    run(model, method, [0])
    before = weights(model)
    run(model, method, [1], attach=False)
    assert [n for n, w in weights(model).items() if not torch.equal(before[n], w)] == ["state.weight", "state.bias"]


class Silent(TinyDistillable):
    def roles(self):
        return None


def test_a_model_that_does_not_tell_wants_patterns():
    with pytest.raises(ConfigurationError, match=r"Silent does not tell which .* give method\.slow, patterns of names"):
        SlowLearner().attach(Silent(), 0)
    SlowLearner(slow=["vision.*"]).attach(Silent(), 0)
    SlowLearner(slow_share=1.0).attach(Silent(), 0)


def test_where_nothing_would_be_slow_it_refuses():
    model = TinyDistillable()
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    with pytest.raises(ConfigurationError, match=r"slow down nothing: .* gives its output"):
        SlowLearner().attach(model, 0)
    with pytest.raises(ConfigurationError, match=r"slow down nothing: .* matches no pattern of method\.slow"):
        SlowLearner(slow=["vision.*"]).attach(model, 0)
    SlowLearner(slow=["head.weight"]).attach(model, 0)


def test_the_reported_rate_is_the_fast_one():
    settings = TrainingSettings(steps=3, learning_rate=1e-2, final_share=1.0, warmup_share=0.0)
    reports = run(TinyDistillable(), SlowLearner(), [0, 1], settings)
    assert [round(report.learning_rate, 9) for report in reports] == [1e-2] * 6


def test_it_continues_after_a_resume():
    assert_continues_after_resume(TinyDistillable, SlowLearner)


def test_it_keeps_nothing():
    method = SlowLearner()
    run(TinyDistillable(), method, [0, 1])
    assert method.memory_bytes() == 0


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("vison.*", r"did you mean 'vision.\*'"),
        ("head.wieght", "did you mean 'head.weight'"),
        ("state", r"did you mean 'state.*'"),
        ("q", r"parameters are for example 'head.\*', 'scale.\*', 'state.\*', 'vision.\*', 'scale.weight'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest(pattern, hint):
    with pytest.raises(ConfigurationError, match=f"method.slow: no parameter matches .*{hint}"):
        SlowLearner(slow=["head.*", pattern]).attach(TinyDistillable(), 0)


def test_patterns_match_whole_names_in_the_models_order():
    module = TinyDistillable().module
    assert list(matching(module, ["head.*", "*.bias"], "slow")) == [
        "vision.bias", "state.bias", "head.weight", "head.bias"
    ]  # fmt: skip
    assert matching(module, [], "slow") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slow_share": 1.5}, "method.slow_share must be between 0 and 1; got 1.5"),
        ({"slow": "vision.*"}, r"method.slow must be a list of patterns, .*; got 'vision.\*'"),
        ({"slow": 5}, "method.slow must be a list of patterns"),
        ({"from_task": 0}, "method.from_task must be a whole number between 1 and"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SlowLearner(**options)


def test_a_resumed_count_is_needed():
    with pytest.raises(ValueError, match="SlowLearner keeps tasks_learnt"):
        SlowLearner().load_state_dict({}, {}, iter([]))


def test_frozen_by_others_stays_frozen():
    model = TinyDistillable()
    before = weights(model)["scale.weight"]
    run(model, SlowLearner(slow=["scale.*", "vision.*"]), [0, 1])
    assert_same({"w": weights(model)["scale.weight"]}, {"w": before})
