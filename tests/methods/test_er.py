import numpy as np
import pytest
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.memory.mixing import concatenate, replaced
from vla_cl.memory.sample_memory import SampleMemory
from vla_cl.methods.er import ExperienceReplay
from vla_cl.types import ConfigurationError


def attached(**options):
    method = ExperienceReplay(**options)
    method.attach(TinyModel(), train_seed=3)
    return method


def test_the_first_task_is_learnt_as_without_replay():
    batch = TinyData().batch(np.arange(4))
    assert attached().compose(batch, 0) is batch


def test_added_puts_as_many_remembered_samples_on_top():
    method = attached(samples_per_task=5)
    old, new = TinyData(seed=1), TinyData(seed=2)
    method.end_task(experience(0), old)
    batch = new.batch(np.arange(4))
    mixed = method.compose(batch, 10)
    assert torch.equal(mixed["x"][:4], batch["x"])
    kept = old.x[method.memory.index()["e0"]]
    assert len(mixed["task"]) == 8
    for row in mixed["x"][4:]:
        assert (kept == row).all(1).any()


def test_replaced_keeps_the_batch_size():
    method = attached(samples_per_task=5, mixing="replaced", share=0.5)
    method.end_task(experience(0), TinyData(seed=1))
    batch = TinyData(seed=2).batch(np.arange(8))
    mixed = method.compose(batch, 10)
    assert len(mixed["x"]) == 8
    assert torch.equal(mixed["x"][:4], batch["x"][:4])
    assert not torch.equal(mixed["x"][4:], batch["x"][4:])


def test_what_is_drawn_is_a_function_of_seed_and_step():
    memory = SampleMemory(5, "uniform")
    memory.remember(experience(0), TinyData(seed=1), seed=0)
    memory.remember(experience(1), TinyData(seed=2), seed=0)
    assert torch.equal(memory.sample(6, 1, 2)["x"], memory.sample(6, 1, 2)["x"])
    assert not torch.equal(memory.sample(6, 1, 2)["x"], memory.sample(6, 1, 3)["x"])


def test_draws_are_uniform_over_everything_remembered():
    memory = SampleMemory(10, "first")
    for index in range(3):
        memory.remember(experience(index), TinyData(rows=10, seed=index), seed=0)
    batches = [memory.sample(30, 0, step) for step in range(200)]
    draws = torch.cat([batch["y"] - 2 * batch["x"][:, :2] for batch in batches])
    counts = np.bincount(draws[:, 0].round().int().numpy(), minlength=3)
    expected = 2000
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square, two degrees of freedom, p = .001


def test_first_is_liberos_rule_and_uniform_is_a_subset():
    for selection, check in (("first", lambda rows: rows == [0, 1, 2]), ("uniform", lambda rows: len(set(rows)) == 3)):
        memory = SampleMemory(3, selection)
        memory.remember(experience(0), TinyData(), seed=0)
        assert check(memory.index()["e0"])


def test_state_round_trip():
    method, data = attached(samples_per_task=5), TinyData(seed=1)
    method.end_task(experience(0), data)
    other = attached(samples_per_task=5)
    other.load_state_dict({}, method.extra_state(), iter([(experience(0), data)]))
    batch = TinyData(seed=2).batch(np.arange(4))
    assert torch.equal(method.compose(batch, 9)["x"], other.compose(batch, 9)["x"])
    assert other.memory_bytes() == 5 * data.bytes_per_sample


def test_a_memory_of_another_stream_is_refused():
    method = attached()
    with pytest.raises(ValueError, match="'e7', which is not among"):
        method.load_state_dict({}, {"memory": {"e7": [0]}}, iter([(experience(0), TinyData())]))


def test_mixing_refuses_what_does_not_fit():
    batch = TinyData().batch(np.arange(2))
    with pytest.raises(ValueError, match="different features"):
        concatenate([batch, {"x": batch["x"]}])
    with pytest.raises(ValueError, match="cannot replace 4 samples of a batch of 2"):
        replaced(batch, TinyData().batch(np.arange(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_task": 0}, "at least 1"),
        ({"mixing": "shaken"}, "added, replaced"),
        ({"mixing": "replaced", "share": 1.5}, "at most 1.0"),
        ({"selection": "best"}, "first, uniform"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ExperienceReplay(**options)
