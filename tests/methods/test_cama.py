import copy
import math

import numpy as np
import pytest
import torch
from keyed_model import KeyedModel, KeyedTokens, tokens
from safetensors.torch import load, save
from tiny_model import TinyData, experience

from vla_cl.methods import der
from vla_cl.methods.cama import ConfidenceAwareMovingAverage
from vla_cl.types import ConfigurationError, Draw

DRAW = Draw(11)


def attached(model=None, **options):
    method = ConfidenceAwareMovingAverage(**{"samples_per_task": 6, **options})
    method.attach(model or KeyedModel(), train_seed=3)
    return method


def after_one_task(**options):
    method = attached(**options)
    method.end_task(experience(0), TinyData(seed=1))
    return method


def step(method, number):
    """One step without an optimizer: what was replayed, and what the model said of it."""
    batch = method.compose(TinyData(seed=2).batch(np.arange(9)), number)
    rows = [row for row, stored in enumerate(batch[der.STORED]) if stored is not None]
    found = method.model.forward_pass(batch, Draw(0, batch[der.SEED].numpy()))
    method.loss(batch, DRAW)
    places = [tuple(place) for place in batch[der.PLACE][rows].tolist()]
    return places, found.outputs[rows].detach().float(), found.losses[rows].tolist()


def change(model, by=0.1):
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(by)


def test_a_batch_has_three_thirds():
    method = after_one_task()
    batch = method.compose(TinyData(seed=2).batch(np.arange(9)), 0)
    assert (batch[der.LOSS_WEIGHT] > 0).tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert (batch[der.DISTANCE_WEIGHT] > 0).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_stored_outputs_move_by_the_recent_confidence():
    method = after_one_task(recent=2)
    at_storage = {place: method.stored.loss(place) for place in [(0, int(r), 0) for r in method.memory.index()["e0"]]}
    expected = {place: method.stored.output(place).clone() for place in at_storage}
    first = copy.deepcopy(expected)
    history = []
    for number in range(6):
        change(method.model, 0.05)
        places, outputs, losses = step(method, number)
        history.append(np.mean([math.exp(-now / at_storage[place]) for place, now in zip(places, losses, strict=True)]))
        share = np.mean(history[-2:])
        assert 0 < share < 1
        news = {}
        for place, output in zip(places, outputs, strict=True):
            news[place] = (1 - share) * expected[place] + share * output
        expected.update(news)
        method.after_step()
        for place, output in expected.items():
            assert torch.allclose(method.stored.output(place), output, atol=1e-6)
    assert any(not torch.allclose(first[place], expected[place], atol=1e-3) for place in first)
    assert method.extra_state()["confidences"]["0"] == pytest.approx(history[-2:])


def test_a_forgotten_sample_keeps_its_output():
    method = after_one_task(recent=1)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    change(method.model, 1e4)
    step(method, 0)
    method.after_step()
    after = method.state_dict()
    assert torch.equal(after["outputs.0"], before["outputs.0"])


def test_outputs_move_once_per_step():
    method = after_one_task()
    change(method.model)
    step(method, 0)
    method.after_step()
    moved = method.state_dict()["outputs.0"].clone()
    method.after_step()  # nothing has been replayed since
    assert torch.equal(method.state_dict()["outputs.0"], moved)
    assert len(method.extra_state()["confidences"]["0"]) == 1


def test_confidence_in_tokens_is_the_probability_of_the_right_one_less_chance():
    class Sequences(TinyData):
        def batch(self, rows):
            return {key: [v[r] for r in rows] if key == "task" else v[rows] for key, v in tokens(20, 4, 2, 1).items()}

    model = KeyedTokens()
    method = attached(model, recent=1, label_batch="same", share=0.5)
    method.end_task(experience(0), Sequences())
    with torch.no_grad():
        model.module[0].weight.zero_()
        model.module[0].weight[:, 3] = 1.0
    batch = method.compose(tokens(4, 4, 2, 2), 0)
    old = [stored.clone() for stored in batch[der.STORED][2:]]
    method.loss(batch, DRAW)
    method.after_step()
    probabilities = model.module[0].weight[0].detach().softmax(0)
    right = batch["labels"][2:, 2:]
    confidence = probabilities[right].mean().item()
    share = min(1, max(0, confidence - 1 / 5))
    assert method.extra_state()["confidences"]["0"] == [pytest.approx(confidence)]
    for place, before in zip(batch[der.PLACE][2:].tolist(), old, strict=True):
        new = model.module[0].weight.detach()[0].float()
        assert torch.allclose(method.stored.output(place), (1 - share) * before + share * new, atol=1e-6)


def test_state_round_trip():
    method = after_one_task()
    for number in range(3):
        change(method.model, 0.05)
        step(method, number)
        method.after_step()
    state, extra = load(save(method.state_dict())), copy.deepcopy(method.extra_state())
    other = attached(copy.deepcopy(method.model))
    other.load_state_dict(state, extra, iter([(experience(0), TinyData(seed=1))]))
    assert other.memory_bytes() == method.memory_bytes() == 6 * (20 + 2 * 4 + 8 + 4)
    for one in (method, other):
        step(one, 7)
        one.after_step()
    assert torch.equal(method.state_dict()["outputs.0"], other.state_dict()["outputs.0"])
    assert method.extra_state() == other.extra_state()
    with pytest.raises(ValueError, match="confidences"):
        attached().load_state_dict(state, {"memory": {}}, iter([]))


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigurationError, match="cannot learn in 2 processes"):
        attached()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match=r"method\.recent must be a whole number between 1"):
        ConfidenceAwareMovingAverage(recent=0)
