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
from tiny_model import TinyModel, experience
from torch import nn

from vla_cl.methods.hft import HalfFineTuning
from vla_cl.types import ConfigurationError


class Layers(TinyModel):
    """Names as in a language model: 6 layers of four projections and two norms each, an embedding, an output."""

    def __init__(self, layers=6):
        self._module = nn.Module()
        self._module.embedding = nn.Embedding(3, 2)
        blocks = []
        for _ in range(layers):
            block = nn.Module()
            block.attention = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("q", "k", "v", "o")})
            block.norms = nn.ModuleDict({name: nn.RMSNorm(2) for name in ("before", "after")})
            blocks.append(block)
        self._module.layers = nn.ModuleList(blocks)
        self._module.output = nn.Linear(2, 3, bias=False)


def attached(model, seed=0, **options):
    method = HalfFineTuning(**options)
    method.attach(model, seed)
    return method


def test_a_share_of_zero_is_sequential():
    assert_sequential(TinyDistillable, HalfFineTuning(frozen_share=0.0))


def test_the_first_task_trains_everything_unless_told_otherwise():
    assert_sequential(TinyDistillable, HalfFineTuning(), tasks=[0])
    model = TinyDistillable()
    method = attached(model, from_task=1)
    method.begin_task(experience(0))
    assert sum(not p.requires_grad for p in model.module.parameters()) == 1 + 3


@pytest.mark.parametrize("grouping", ["block", "module", "all"])
def test_frozen_tensors_stay_bit_for_bit_and_the_others_move(grouping):
    model, method = TinyDistillable(), HalfFineTuning(per_group=grouping)
    run(model, method, [0])
    for task in (1, 2, 3):
        drawn = set(method.drawn(experience(task)))
        before = weights(model)
        run(model, method, [task], attach=False)  # with weight decay
        same = {name for name, value in weights(model).items() if torch.equal(value, before[name])}
        assert len(drawn) == 3
        assert same == drawn | {"scale.weight", "seen"}
        assert [p.requires_grad for p in model.module.parameters()] == [False] + [True] * 6
        assert all(p.grad is None for p in model.module.parameters())


def test_half_is_half_in_every_block():
    method = attached(Layers(), per_group="block")
    for task in range(20):
        drawn = method.drawn(experience(task))
        for layer in range(6):
            assert sum(name.startswith(f"layers.{layer}.attention") for name in drawn) == 2
            assert sum(name.startswith(f"layers.{layer}.norms") for name in drawn) == 1
        assert len(drawn) in (18, 19, 20)


def test_half_is_half_in_every_module_and_over_the_whole():
    for grouping in ("module", "all"):
        method = attached(Layers(), per_group=grouping)
        drawn = [method.drawn(experience(task)) for task in range(20)]
        assert {len(names) for names in drawn} == {19}  # of 38
        counts = [sum(name.startswith("layers.") for name in names) for names in drawn]
        assert set(counts) <= {18, 19, 17}
        attention = {sum(".0.attention." in name for name in names) for names in drawn}
        assert attention != {2}  # not kept in each block


def test_every_tensor_is_frozen_about_half_of_the_time():
    for grouping in ("block", "module", "all"):
        method = attached(Layers(layers=2), per_group=grouping)
        counts = dict.fromkeys(dict(method.model.module.named_parameters()), 0)
        for task in range(400):
            for name in method.drawn(experience(task)):
                counts[name] += 1
        assert all(150 < count < 250 for count in counts.values()), counts  # 200 +- 5 standard deviations


def test_what_is_drawn_follows_from_the_seed_and_the_experience():
    methods = {seed: attached(Layers(), seed) for seed in (0, 1)}
    again = attached(Layers(), 1)
    global_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draws = {(seed, task): tuple(methods[seed].drawn(experience(task))) for seed in (0, 1) for task in (1, 2)}
    assert len(set(draws.values())) == 4
    assert draws[1, 2] == tuple(again.drawn(experience(2)))
    assert torch.equal(torch.get_rng_state(), global_state[0])
    assert np.random.get_state()[1].tolist() == global_state[1]


def test_a_single_tensor_is_refused():
    model = TinyDistillable()
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(name == "head.weight")
    with pytest.raises(
        ConfigurationError, match="'hft' would freeze nothing: a single tensor of TinyDistillable is trained"
    ):
        attached(model)
    attached(model, frozen_share=0.0)


def test_half_of_three_matrices_is_one_or_two_in_turn_as_in_the_paper():
    model = TinyModel()
    blocks = [nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("gate", "up", "down")}) for _ in range(8)]
    model._module = nn.Module()
    model._module.layers = nn.ModuleList([nn.ModuleDict({"mlp": block}) for block in blocks])
    for task in range(10):
        drawn = attached(model).drawn(experience(task))
        counts = [sum(name.startswith(f"layers.{layer}.") for name in drawn) for layer in range(8)]
        assert sorted(counts) == [1] * 4 + [2] * 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_other_shares_hold_too_and_something_is_always_trained(share):
    for model in (Layers(), TinyModel()):
        total = len(list(model.module.parameters()))
        if share * total < 1:
            with pytest.raises(ConfigurationError, match=rf"less than one of the {total} tensors"):
                attached(model, frozen_share=share, per_group="all")
            continue
        method = attached(model, frozen_share=share, per_group="all")
        for task in range(10):
            frozen = len(method.drawn(experience(task)))
            assert frozen < total
            assert frozen == total - 1 or abs(frozen - share * total) < 1


def test_an_experience_that_was_not_ended_leaves_nothing_frozen():
    model = TinyDistillable()
    method = attached(model, from_task=1)
    method.begin_task(experience(0))
    method.begin_task(experience(1))
    frozen = {name for name, p in model.module.named_parameters() if not p.requires_grad}
    method.end_task(experience(1), None)
    assert frozen == {"scale.weight", *method.drawn(experience(1))}


def test_it_continues_after_a_resume():
    assert_continues_after_resume(TinyDistillable, HalfFineTuning)


def test_it_keeps_nothing():
    model = TinyDistillable()
    before = weights(model)["scale.weight"]
    method = HalfFineTuning()
    run(model, method, [0, 1])
    assert method.memory_bytes() == 0
    assert_same({"w": weights(model)["scale.weight"]}, {"w": before})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen_share": 1.0}, "method.frozen_share must be at least 0 and below 1; got 1.0"),
        ({"per_group": "row"}, "method.per_group must be one of block, module, all; got 'row'"),
        ({"from_task": 0}, "method.from_task must be a whole number between 1 and"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        HalfFineTuning(**options)
