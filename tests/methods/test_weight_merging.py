import numpy as np
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
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.methods.weight_merging import WeightMerging
from vla_cl.types import ConfigurationError


def test_share_one_is_sequential():
    assert_sequential(TinyDistillable, WeightMerging(share=1.0))


def test_the_first_task_keeps_its_weights_unless_it_is_merged_too():
    assert_sequential(TinyDistillable, WeightMerging(share=0.5), tasks=[0])
    model = TinyModel()
    before = weights(model)
    run(model, WeightMerging(share=0.0, from_task=1), [0])
    assert_same(weights(model), before)


def by_hand(shares_of_task, tasks=4):
    """Learn each task with the plain loop from merged weights; merge in double precision with numpy."""
    model = TinyDistillable()
    method = Method()
    for task in range(tasks):
        before = weights(model)
        run(model, method, [task])
        with torch.no_grad():
            for name, parameter in model.module.named_parameters():
                share = shares_of_task(task + 1, name)
                old, new = before[name].double().numpy(), parameter.double().numpy()
                parameter.copy_(torch.from_numpy(((1 - share) * old + share * new).astype(np.float32)))
    return weights(model)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"share": 0.3}, lambda task, name: 1 if task == 1 else 0.3),
        ({"share": 0.3, "from_task": 1}, lambda task, name: 0.3),
        ({"mode": "average"}, lambda task, name: 1 / task),
        ({"mode": "average", "from_task": 1}, lambda task, name: 1 / (task + 1)),
        (
            {"share": 0.3, "shares": {"vision.*": 0.9, "*.bias": 1.0}},
            lambda task, name: 1 if task == 1 else 0.9 if "vision" in name else 1 if "bias" in name else 0.3,
        ),
    ],
)
def test_weights_are_those_of_the_formula(options, shares):
    model = TinyDistillable()
    run(model, WeightMerging(**options), range(4))
    expected = by_hand(shares)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_averaging_gives_the_mean_of_the_weights_after_each_task():
    model, method, ends = TinyDistillable(), WeightMerging(mode="average"), []
    method.attach(model, 0)
    generator = torch.Generator().manual_seed(0)
    for task in range(5):
        method.begin_task(experience(task))
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        ends.append(weights(model))
        method.end_task(experience(task), TinyData())
    for name in ("vision.weight", "head.bias"):
        mean = torch.stack([end[name] for end in ends]).mean(0)
        torch.testing.assert_close(weights(model)[name], mean)


def test_what_nobody_trains_and_buffers_stay_as_they_are():
    model, method = TinyDistillable(), WeightMerging(share=0.5)
    run(model, method, [0])
    method.begin_task(experience(1))
    with torch.no_grad():
        model.module.seen += 3  # as a normalisation layer would
    frozen = model.module.scale.weight.clone()
    method.end_task(experience(1), TinyData())
    assert torch.equal(model.module.seen, torch.full((5,), 3.0))
    assert torch.equal(model.module.scale.weight, frozen)


def test_memory_is_a_copy_of_what_is_merged():
    model, method = TinyDistillable(), WeightMerging(share=0.5, shares={"head.*": 1.0})
    method.attach(model, 0)
    trainable = 4 * sum(p.numel() for p in [*model.module.vision.parameters(), *model.module.state.parameters()])
    seen = []
    for index in range(2):
        method.begin_task(experience(index))
        seen.append(method.memory_bytes())
        method.end_task(experience(index), TinyData())
        seen.append(method.memory_bytes())
    assert seen == [0, trainable, trainable, trainable]


@pytest.mark.parametrize("options", [{}, {"mode": "average"}, {"from_task": 1}])
def test_it_continues_after_a_resume(options):
    assert_continues_after_resume(TinyDistillable, lambda: WeightMerging(**options))


def test_an_unknown_pattern_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"shares: no parameter matches 'vison.\*'; did you mean 'vision.\*'"):
        WeightMerging(shares={"vison.*": 0.5}).attach(TinyDistillable(), 0)


def test_where_it_would_merge_nothing_it_refuses():
    with pytest.raises(
        ConfigurationError, match="'weight_merging' would merge nothing: no parameter of TinyDistillable"
    ):
        WeightMerging(share=1.0, shares={"scale.*": 0.5}).attach(TinyDistillable(), 0)  # which is frozen
    with pytest.raises(ConfigurationError, match="would merge nothing"):
        WeightMerging(share=0.5, shares={"*": 1.0}).attach(TinyDistillable(), 0)
    for options in ({"share": 1.0}, {"share": 1.0, "shares": {"head.*": 0.5}}, {"mode": "average"}):
        WeightMerging(**options).attach(TinyDistillable(), 0)


def test_a_share_of_no_parameter_is_refused():
    shares = {"vision.*": 0.2, "state.*": 0.5, "head.*": 0.5}
    with pytest.raises(ConfigurationError, match=r"method.share=0.7 has no effect with method.shares="):
        WeightMerging(share=0.7, shares=shares).attach(TinyDistillable(), 0)
    WeightMerging(share=0.5, shares=shares).attach(TinyDistillable(), 0)
    WeightMerging(share=0.7, shares={"head.*": 0.2}).attach(TinyDistillable(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "method.share must be between 0 and 1; got 1.5"),
        ({"shares": {"head.*": -1.0}}, r"method.shares.head.\* must be between 0 and 1"),
        ({"shares": {"head.*": "half"}}, "method.shares must give names numbers"),
        ({"mode": "sum"}, "method.mode must be one of interpolate, average"),
        ({"from_task": 0}, "method.from_task must be a whole number between 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        WeightMerging(**options)
