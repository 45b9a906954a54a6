"""Every method on every bed: left within an experience, and continued by other objects, it ends with the same bits."""

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from method_neutral import method_settings
from safetensors.torch import load, save
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning
from vla_cl.types import ConfigurationError

SETTINGS = method_settings()
WITH_PHASES = (2, 4, 5)
"""Of 6 steps. PackNet's first phase has four: within it, at the border of the phases, within the second one."""


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return small_bed(request.param)


def started(name, bed, **changes):
    model, method = bed.make_model(0), build({**SETTINGS[name], **changes}, Method)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    method.require_length(3)
    method.attach(model, 0)
    return model, method


def learning(bed, model, method, index):
    return Learning(model, method, bed.stream.experiences[index], bed.data[index], bed.tiny, 0, index * bed.tiny.steps)


def through_a_file(tensors):
    return load(save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}))


def noted(model, steps):
    """What a checkpoint within a task holds."""
    return through_a_file(model.module.state_dict()), through_a_file(steps.state_dict())


def border_of(model, method):
    """What a checkpoint at a task's border holds."""
    return (
        through_a_file(model.module.state_dict()),
        through_a_file(method.state_dict()),
        copy.deepcopy(method.extra_state()),
    )


def at_border(name, bed, border, index, **changes):
    """Other objects that are where the border was."""
    model, method = started(name, bed, **changes)
    weights, tensors, extra = border
    model.module.load_state_dict(weights)
    if index:
        past = ((experience, bed.data[experience.index]) for experience in bed.stream.experiences[:index])
        method.load_state_dict(tensors, extra, past)
    return model, method


def assert_equal(ours, theirs, stop):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert not [key for key in one if not torch.equal(one[key], other[key])], f"stopped after {stop}"


def assert_it_continues(name, bed, index, stops, model, method, **changes):
    """Stopped at each of these steps of an experience, and continued by other objects up to the next."""
    border = border_of(model, method)
    kept, whole = {}, learning(bed, model, method, index)
    for report in whole:
        if report.step in stops:
            kept[report.step] = noted(model, whole)

    found = kept[stops[0]]
    for stop, following in pairwise((*stops, bed.tiny.steps)):
        again, other = at_border(name, bed, border, index, **changes)
        rest = learning(bed, again, other, index)
        rest.continue_at(stop, *found)
        steps = iter(rest)
        assert [next(steps).step for _ in range(following - stop)] == list(range(stop + 1, following + 1))
        if following in kept:
            found = noted(again, rest)
            assert_equal(kept[following], found, stop)
    assert list(steps) == []  # which ends the task
    end = model.module.state_dict(), method.state_dict()
    assert_equal(end, (again.module.state_dict(), other.state_dict()), stop)
    assert method.extra_state() == other.extra_state()


@pytest.mark.parametrize("name", SETTINGS)
def test_it_ends_with_the_same_bits(bed, name):
    """In the first task and in the second: there are two stops in each, or three where a task has several phases."""
    model, method = started(name, bed)
    stops = (2, 5) if len(method.phases(bed.tiny.steps)) == 1 else WITH_PHASES
    for index in (0, 1):
        assert_it_continues(name, bed, index, stops, model, method)


def test_another_models_state_is_refused(bed):
    model, method = started("sequential", bed)
    whole = learning(bed, model, method, 0)
    next(iter(whole))
    state = whole.state_dict()
    other = learning(bed, *started("sequential", bed), 0)
    with pytest.raises(ValueError, match="expected between 1 and 6 steps, got 7"):
        other.continue_at(7, {}, {})
    with pytest.raises(ValueError, match=r"parameters; it holds '9999\.exp_avg'"):
        other.continue_at(1, model.module.state_dict(), {**state, "optimizer.9999.exp_avg": torch.zeros(3)})


CHANGED = {
    "mir": {"refresh_every": 3},
    "lwf": {"cache_precision": "float16"},
    "lwf_trace": {"cache_megabytes": 0.02},
    "ewc": {"fisher": "falling_steps", "samples": 1024},
    "packnet": {"retrain_share": 0.5},
    "cama": {"recent": 2},
}
"""Settings with which more lives across steps; epochs end within the experience."""


@pytest.mark.parametrize("name", CHANGED)
def test_it_ends_with_the_same_bits_with_what_lives_across_steps_and_epochs(bed, name):
    small = dataclasses.replace(bed, tiny=dataclasses.replace(bed.tiny, steps=8, batch_size=8))
    model, method = started(name, small, **CHANGED[name])
    list(learning(small, model, method, 0))
    assert_it_continues(name, small, 1, (2, 4, 7), model, method, **CHANGED[name])


@pytest.mark.parametrize("kind", ["Adafactor", "SGD", "RAdam"])
def test_other_optimizers_continue_too(bed, kind):
    class Other(Method):
        def make_optimizer(self, groups, learning_rate, weight_decay):
            return getattr(torch.optim, kind)(groups, lr=learning_rate)

    def begun():
        model, method = bed.make_model(0), Other()
        method.attach(model, 0)
        return model, learning(bed, model, method, 0)

    model, whole = begun()
    for report in whole:
        if report.step == 3:
            kept = through_a_file(model.module.state_dict()), through_a_file(whole.state_dict())
    again, rest = begun()
    rest.continue_at(3, *kept)
    list(rest)
    ours, theirs = model.module.state_dict(), again.module.state_dict()
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]


def test_what_an_optimizer_keeps_that_cannot_be_noted_is_refused(bed):
    model, method = bed.make_model(0), Method()
    method.attach(model, 0)
    begun = learning(bed, model, method, 0)
    begun._optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
    begun._optimizer.state[next(model.module.parameters())] = {"history": [1, 2]}
    with pytest.raises(ConfigurationError, match="SGD keeps 'history' as list"):
        begun.state_dict()
