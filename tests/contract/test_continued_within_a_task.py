"""Every method on every bed: left within an experience, and continued by other objects, it ends with the same bits."""

import copy

import pytest
import torch
from method_neutral import method_settings
from safetensors.torch import load, save

from vla_cl.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS
from vla_cl.train import Learning

SETTINGS = method_settings()
STOPS = (2, 4, 5)
"""Of 6 steps. PackNet's first phase has four: within it, at the border of the phases, within the second one."""


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return BEDS[request.param]()


def started(name, bed):
    model, method = bed.make_model(0), build(SETTINGS[name], Method)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    method.require_length(3)
    method.attach(model, 0)
    return model, method


def learning(bed, model, method, index):
    return Learning(model, method, bed.stream.experiences[index], bed.data[index], bed.tiny, 0, index * bed.tiny.steps)


def through_a_file(tensors):
    return load(save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}))


def border_of(model, method):
    """What a checkpoint at a task's border holds."""
    return (
        through_a_file(model.module.state_dict()),
        through_a_file(method.state_dict()),
        copy.deepcopy(method.extra_state()),
    )


def at_border(name, bed, border, index):
    """Other objects that are where the border was."""
    model, method = started(name, bed)
    weights, tensors, extra = border
    model.module.load_state_dict(weights)
    if index:
        past = ((experience, bed.data[experience.index]) for experience in bed.stream.experiences[:index])
        method.load_state_dict(tensors, extra, past)
    return model, method


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_ends_with_the_same_bits(bed, name, index):
    model, method = started(name, bed)
    for earlier in range(index):
        list(learning(bed, model, method, earlier))
    border = border_of(model, method)
    kept, whole = {}, learning(bed, model, method, index)
    for report in whole:
        if report.step in STOPS:
            kept[report.step] = through_a_file(model.module.state_dict()), through_a_file(whole.state_dict())
    end = model.module.state_dict(), method.state_dict(), method.extra_state()

    for stop, (weights, state) in kept.items():
        again, other = at_border(name, bed, border, index)
        rest = learning(bed, again, other, index)
        rest.continue_at(stop, weights, state)
        assert [report.step for report in rest] == list(range(stop + 1, bed.tiny.steps + 1))
        found = again.module.state_dict(), other.state_dict(), other.extra_state()
        for ours, theirs in zip(end[:2], found[:2], strict=True):
            assert ours.keys() == theirs.keys()
            assert not [key for key in ours if not torch.equal(ours[key], theirs[key])], f"stopped after {stop}"
        assert end[2] == found[2]


def test_another_models_state_is_refused(bed):
    model, method = started("sequential", bed)
    whole = learning(bed, model, method, 0)
    next(iter(whole))
    state = whole.state_dict()
    other = learning(bed, *started("sequential", bed), 0)
    with pytest.raises(ValueError, match="expected between 1 and 6 steps, got 7"):
        other.continue_at(7, {}, {})
    first = next(key for key, tensor in state.items() if tensor.numel() > 1)
    with pytest.raises(ValueError, match="has the shape"):
        other.continue_at(1, model.module.state_dict(), {**state, first: torch.zeros(3, 1, 2)})
