import math

import numpy as np
import pytest
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.interfaces import Method
from vla_cl.random_numbers import Purpose, number
from vla_cl.training.learning import Learning, TrainingSettings, sample_rows
from vla_cl.types import ConfigurationError

SETTINGS = TrainingSettings(steps=7, batch_size=6, learning_rate=0.1, warmup_share=0.3)


def run(method, model=None, **options):
    model = model or TinyModel()
    method.attach(model, 5)
    reports = list(Learning(model, method, experience(), TinyData(), SETTINGS, train_seed=5, **options))
    return model, reports


def test_unedited_it_is_plain_training_bit_for_bit():
    ours, reports = run(Method())
    model, data = TinyModel(), TinyData()
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=0.1, weight_decay=1e-4)
    for step in range(7):
        share = (step + 1) / 2 if step < 2 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 5))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * share
        seed = number(5, Purpose.LOSS, 0, step, 0)
        batch = data.batch(sample_rows(20, 6, step, 5, 0))
        noise = torch.randn((6, 3), generator=torch.Generator().manual_seed(seed))
        loss = (model.module(batch["x"] + 0.01 * noise) - batch["y"]).square().mean(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
        optimizer.step()
        assert reports[step].loss == loss.item()
    assert torch.equal(ours.module.weight, model.module.weight)
    assert [report.step for report in reports] == list(range(1, 8))


def test_an_epoch_has_every_row_once():
    rows = np.concatenate([sample_rows(20, 6, step, 1, 2) for step in range(10)])  # three epochs of 20
    for epoch in range(3):
        assert sorted(rows[20 * epoch : 20 * epoch + 20]) == list(range(20))
    assert rows[:20].tolist() != rows[20:40].tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(sample_rows(4, 8, 0, 0, 0)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_several_tasks_get_as_many_steps_each():
    method, model = Method(), TinyModel()
    method.attach(model, 0)
    assert len(list(Learning(model, method, experience(tasks=2), TinyData(), SETTINGS, train_seed=0))) == 14


class Recorder(Method):
    """Notes the order in which the loop calls."""

    def __init__(self):
        self.calls = []

    def phases(self, steps):
        return [("learn", steps - 1), ("retrain", 1)]

    def __getattribute__(self, name):
        if name in HOOKS:
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)


HOOKS = ("begin_task", "begin_phase", "compose", "loss", "edit_gradients", "after_step", "end_task")


def test_hooks_come_in_the_documented_order():
    method = Recorder()
    run(method)
    step = ["compose", "loss", "edit_gradients", "after_step"]
    assert method.calls == ["begin_task", "begin_phase", *step * 6, "begin_phase", *step, "end_task"]


class Exploding(Method):
    def loss(self, batch, draw):
        return self.model.loss(batch, draw) * float("nan")


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model = TinyModel()
    before = model.module.weight.clone()
    with pytest.raises(FloatingPointError, match="step 1 of experience 'e0'"):
        run(Exploding(), model)
    assert torch.equal(model.module.weight, before)


class ExplodingAt(Method):
    """The loss of one step is no number."""

    def __init__(self, step):
        self.step, self.calls, self.ended = step, 0, False

    def loss(self, batch, draw):
        self.calls += 1
        return self.model.loss(batch, draw) * (float("nan") if self.calls == self.step else 1.0)

    def end_task(self, experience, data):
        self.ended = True


@pytest.fixture
def a_device_that_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("vla_cl.training.learning.answers_at_once", lambda device: False)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.usefixtures("a_device_that_is_not_waited_for")
def test_where_nobody_waits_for_the_device_the_step_is_named_all_the_same(last):
    bad = SETTINGS.steps if last else 3
    method = ExplodingAt(bad)
    method.attach(TinyModel(), 0)
    with pytest.raises(FloatingPointError, match=rf"step {bad} of experience 'e0'.*have been changed by it"):
        list(Learning(method.model, method, experience(), TinyData(), SETTINGS, 0))
    assert method.calls == min(bad + 1, SETTINGS.steps)  # one step later at most, and before the task is ended
    assert not method.ended


@pytest.mark.usefixtures("a_device_that_is_not_waited_for")
def test_weights_of_a_step_that_nobody_has_looked_at_are_not_saved():
    method = ExplodingAt(2)
    method.attach(TinyModel(), 0)
    learning = Learning(method.model, method, experience(), TinyData(), SETTINGS, 0)
    steps = iter(learning)
    next(steps)
    next(steps)
    with pytest.raises(FloatingPointError, match="step 2 of experience 'e0'"):
        learning.state_dict()


@pytest.mark.usefixtures("a_device_that_is_not_waited_for")
def test_no_number_of_a_step_is_read_before_the_next_one_is_under_way(monkeypatch):
    """Reading it waits for the device."""
    read, method = [], Method()
    monkeypatch.setattr("vla_cl.training.step_report.Figures.read", lambda figures: read.append(figures) or (1.0, 1.0))
    method.attach(TinyModel(), 0)
    steps = iter(Learning(method.model, method, experience(), TinyData(), SETTINGS, 0))
    first = next(steps)
    assert read == []
    second = next(steps)
    assert read == [first.figures]
    assert (second.loss, read) == (1.0, [first.figures, second.figures])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 3.0}, {"warmup_share": -0.1}, {"clip_norm": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=f"training.{next(iter(wrong))} must be between"):
        TrainingSettings(**wrong)
