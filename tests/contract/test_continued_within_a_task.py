"""Every method on every bed: left within an experience, and continued by other objects, it ends with the same bits."""

import copy

import pytest
import torch
from method_neutral import method_settings
from safetensors.torch import load, save
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.testbeds import BEDS
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError

SETTINGS = method_settings()
STOPS = (2, 4, 5)
"""Of 6 steps. PackNet's first phase has four: within it, at the border of the phases, within the second one."""


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return small_bed(request.param)


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
    settings = TrainingSettings(steps=12, batch_size=16, learning_rate=1e-3)

    def begun(experiences):
        model, method = bed.make_model(0), build({**SETTINGS[name], **CHANGED[name]}, Method)
        if method.needs - model.abilities:
            pytest.skip(f"{name} is refused on {bed.name}")
        method.require_length(3)
        method.attach(model, 0)
        for number in range(experiences):
            list(Learning(model, method, bed.stream.experiences[number], bed.data[number], settings, 0, 12 * number))
        return model, method

    model, method = begun(1)
    whole = Learning(model, method, bed.stream.experiences[1], bed.data[1], settings, 0, 12)
    kept = {}
    for report in whole:
        if report.step in (2, 7, 11):
            kept[report.step] = through_a_file(model.module.state_dict()), through_a_file(whole.state_dict())
    for stop, (weights, state) in kept.items():
        again, other = begun(1)
        rest = Learning(again, other, bed.stream.experiences[1], bed.data[1], settings, 0, 12)
        rest.continue_at(stop, weights, state)
        list(rest)
        ours, theirs = model.module.state_dict(), again.module.state_dict()
        assert not [key for key in ours if not torch.equal(ours[key], theirs[key])], f"stopped after {stop}"


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
