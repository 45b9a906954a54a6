import copy

import numpy as np
import pytest
import torch
from keyed_model import KeyedModel
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods.mir import MaximallyInterferedRetrieval
from vla_cl.types import ConfigurationError


class Quiet(TinyModel):
    """Without noise, so that a sample's loss does not depend on its place in the batch."""

    def loss(self, batch, draw):
        return (self.module(batch["x"]) - batch["y"]).square().mean(1)


def attached(model=None, **options):
    method = MaximallyInterferedRetrieval(**{"samples_per_task": 12, **options})
    method.attach(model or Quiet(), train_seed=3)
    for index in range(2):
        method.end_task(experience(index), TinyData(seed=index + 1))
    return method


def current(size=6):
    return TinyData(seed=7).batch(np.arange(size))


@pytest.mark.parametrize("mixing", ["added", "replaced"])
def test_the_choice_is_that_of_brute_force(mixing):
    method = attached(mixing=mixing, candidates=4.0)
    batch, model = current(), method.model
    chosen = method.choose(batch, 3, step=9)

    used = 6 if mixing == "added" else 3
    virtual = copy.deepcopy(model)
    loss = (virtual.module(batch["x"][:used]) - batch["y"][:used]).square().mean()
    loss.backward()
    torch.optim.SGD(virtual.module.parameters(), lr=0.1).step()
    rises = {}
    for place in method.memory.pick(12, 3, 9).tolist():
        sample = TinyData(seed=place[0] + 1).batch(np.asarray([place[1]]))
        rises[tuple(place)] = (virtual.loss(sample, None) - model.loss(sample, None)).item()
    worst = sorted(rises, key=rises.get, reverse=True)[:3]
    assert [tuple(place) for place in chosen.tolist()] == worst
    assert len(rises) > 3  # there was a choice

    mixed = method.compose(batch, 9)
    assert torch.equal(mixed["x"][:used], batch["x"][:used])
    expected = [TinyData(seed=e + 1).x[row] for e, row in worst]
    assert torch.equal(mixed["x"][used:], torch.stack(expected))


def test_nothing_is_disturbed_and_the_choice_is_repeatable():
    method = attached(KeyedModel(dropout=0.0))
    module = method.model.module
    module.register_buffer("seen", torch.zeros(1))
    module[0].bias.requires_grad_(False)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = torch.get_rng_state()
    first = method.choose(current(), 3, 4)
    assert np.array_equal(first, method.choose(current(), 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    assert module[0].weight.grad.eq(1).all()
    assert module[3].weight.grad is None


def test_weights_are_put_back_when_the_model_fails():
    method = attached()
    before = method.model.module.weight.detach().clone()
    calls = []

    def failing(batch, draw):
        calls.append(draw)
        if len(calls) == 3:
            raise FloatingPointError("enough")
        return Quiet.loss(method.model, batch, draw)

    method.model.loss = failing
    with pytest.raises(FloatingPointError):
        method.choose(current(), 3, 4)
    assert calls[1] == calls[2]  # the same noise before and after the virtual step
    assert torch.equal(method.model.module.weight, before)


def test_a_choice_is_kept_until_it_is_refreshed():
    method = attached(refresh_every=3)
    steps = []
    choose = method.choose

    def counting(batch, count, step):
        steps.append(step)
        return choose(batch, count, step)

    method.choose = counting
    for step in range(10, 18):
        method.compose(current(), step)
    assert steps == [10, 13, 16]
    method.begin_task(experience(2))
    method.compose(current(), 18)
    assert steps[-1] == 18


def test_without_a_past_or_a_share_the_batch_is_left_alone():
    method = MaximallyInterferedRetrieval()
    method.attach(Quiet(), 0)
    batch = current()
    assert method.compose(batch, 0) is batch
    assert attached(share=0.0).compose(batch, 0) is batch


def test_a_whole_batch_of_remembered_samples_needs_no_virtual_step():
    mixed = attached(share=1.0).compose(current(), 0)
    assert ((mixed["y"] - 2 * mixed["x"][:, :2]).round() < 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0.5}, "method.candidates must be between 1 and 64"),
        ({"refresh_every": 0}, "method.refresh_every must be a whole number between 1"),
        ({"virtual_learning_rate": -1}, "method.virtual_learning_rate"),
        ({"mixing": "coin_flip"}, "one of added, replaced"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        MaximallyInterferedRetrieval(**options)
