"""What every method must keep, on every test bed that it supports; a new yaml in conf/method is tested too."""

from __future__ import annotations

import copy

import pytest
import torch
from method_neutral import NEUTRAL, method_settings
from safetensors.torch import load, save
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning
from vla_cl.types import ConfigurationError

SETTINGS = method_settings()
PAIRS = [(name, bed) for name in SETTINGS for bed in BEDS]


def made(name, **changes):
    return build({**SETTINGS[name], **changes}, Method)


def attached(name, bed, **changes):
    """A model of the bed's and the method, attached; skips the pairs that are refused (the matrix in the docs)."""
    model = bed.make_model(0)
    method = made(name, **changes)
    if method.needs - model.abilities:
        with pytest.raises(ConfigurationError, match=r"needs a model with"):
            method.attach(model, 0)
        pytest.skip(f"{name} is refused on {bed.name}")
    method.attach(model, 0)
    return model, method


def learnt(bed, model, method, experiences, first_step=0):
    for index in experiences:
        experience = bed.stream.experiences[index]
        steps = Learning(model, method, experience, bed.data[index], bed.tiny, 0, first_step + index * bed.tiny.steps)
        assert all(report.loss == report.loss for report in steps)


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.module.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return small_bed(request.param)


@pytest.fixture(scope="module")
def sequential(bed):
    """The weights of plain fine-tuning after each of the three experiences."""
    model, method = bed.make_model(0), Method()
    method.attach(model, 0)
    found = []
    for index in range(3):
        learnt(bed, model, method, [index])
        found.append(weights(model))
    return found


@pytest.mark.parametrize("name", NEUTRAL)
def test_with_nothing_to_edit_it_is_sequential_fine_tuning_bit_for_bit(bed, sequential, name):
    model, method = attached(name, bed, **NEUTRAL[name])
    learnt(bed, model, method, range(3))
    assert_equal(weights(model), sequential[2])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_method_continues_bit_for_bit(bed, name):
    model, method = attached(name, bed)
    learnt(bed, model, method, range(2))
    tensors = {key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()}
    state, extra, before = load(save(tensors)), copy.deepcopy(method.extra_state()), weights(model)
    learnt(bed, model, method, [2])

    again, other = attached(name, bed)
    again.module.load_state_dict(before)
    past = ((experience, bed.data[experience.index]) for experience in bed.stream.experiences[:2])
    other.load_state_dict(state, extra, past)
    assert other.memory_bytes() == method_bytes(name, bed, state, extra, before)
    learnt(bed, again, other, [2])
    assert_equal(weights(again), weights(model))
    assert other.memory_bytes() == method.memory_bytes()


def method_bytes(name, bed, state, extra, before):
    """The bytes that the method had kept at the moment of saving: a third method, restored the same way."""
    model, method = attached(name, bed)
    model.module.load_state_dict(before)
    past = ((experience, bed.data[experience.index]) for experience in bed.stream.experiences[:2])
    method.load_state_dict(state, extra, past)
    return method.memory_bytes()


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_outside_the_trainable_set_moves(bed, name):
    model = bed.make_model(0)
    method = made(name)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    frozen = [parameter for parameter in model.module.parameters() if parameter.ndim > 1][::3]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in frozen]
    buffers = {key: value.clone() for key, value in model.module.named_buffers()}
    state = torch.get_rng_state()
    method.attach(model, 0)
    learnt(bed, model, method, range(2))
    names = [key for key, parameter in model.module.named_parameters() if not parameter.requires_grad]
    assert len(names) == len(frozen)
    for parameter, value in zip(frozen, before, strict=True):
        assert torch.equal(parameter, value)
    for key, value in model.module.named_buffers():
        assert torch.equal(value, buffers[key])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.module.parameters())
