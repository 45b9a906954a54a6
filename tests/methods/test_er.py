import numpy as np
import pytest
import torch
from tiny_model import TinyData, TinyModel, experience

from vla_cl.memory.mixing import concatenate, replaced
from vla_cl.memory.replay_memory import ReplayMemory
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
    memory = ReplayMemory(5, "uniform")
    memory.remember(experience(0), TinyData(seed=1), seed=0)
    memory.remember(experience(1), TinyData(seed=2), seed=0)
    assert torch.equal(memory.sample(6, 1, 2)["x"], memory.sample(6, 1, 2)["x"])
    assert not torch.equal(memory.sample(6, 1, 2)["x"], memory.sample(6, 1, 3)["x"])


def test_draws_are_uniform_over_everything_remembered():
    memory = ReplayMemory(10, "first")
    for index in range(3):
        memory.remember(experience(index), TinyData(rows=10, seed=index), seed=0)
    batches = [memory.sample(30, 0, step) for step in range(200)]
    draws = torch.cat([batch["y"] - 2 * batch["x"][:, :2] for batch in batches])
    counts = np.bincount(draws[:, 0].round().int().numpy(), minlength=3)
    expected = 2000
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square, two degrees of freedom, p = .001


def test_first_is_liberos_rule_and_uniform_is_a_subset():
    for selection, check in (("first", lambda rows: rows == [0, 1, 2]), ("uniform", lambda rows: len(set(rows)) == 3)):
        memory = ReplayMemory(3, selection)
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
        method.load_state_dict({}, {"memory": {"e7": [0]}, "experiences": 1}, iter([(experience(0), TinyData())]))


def test_mixing_refuses_what_does_not_fit():
    batch = TinyData().batch(np.arange(2))
    with pytest.raises(ValueError, match="different features"):
        concatenate([batch, {"x": batch["x"]}])
    with pytest.raises(ValueError, match="cannot replace 4 samples of a batch of 2"):
        replaced(batch, TinyData().batch(np.arange(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_task": 0}, "between 1 and"),
        ({"mixing": "shaken"}, "added, replaced"),
        ({"mixing": "replaced", "share": 1.5}, "at most 1.0"),
        ({"selection": "best"}, "first, uniform"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ExperienceReplay(**options)


def test_coin_flip_replays_whole_batches_with_the_given_probability():
    method = attached(samples_per_task=5, mixing="coin_flip", share=0.2)
    batch = TinyData(seed=2).batch(np.arange(4))
    assert method.compose(batch, 0) is batch  # nothing is remembered yet
    method.end_task(experience(0), TinyData(seed=1))
    flips = 0
    for step in range(2000):
        mixed = method.compose(batch, step)
        if mixed is not batch:
            flips += 1
            assert len(mixed["task"]) == 4
            assert ((mixed["y"] - 2 * mixed["x"][:, :2]).round() == 1).all()
    assert abs(flips - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)
    other = attached(samples_per_task=5, mixing="coin_flip", share=0.2)
    assert [other.mixture.count(4, 3, step) for step in range(99)] == [
        method.mixture.count(4, 3, step) for step in range(99)
    ]


def test_a_share_of_zero_replays_nothing_and_one_flips_always():
    for mixing in ("added", "replaced", "coin_flip"):
        method = attached(samples_per_task=5, mixing=mixing, share=0.0)
        method.end_task(experience(0), TinyData(seed=1))
        batch = TinyData(seed=2).batch(np.arange(4))
        assert all(method.compose(batch, step) is batch for step in range(20))
    assert all(attached(mixing="coin_flip", share=1.0).mixture.count(4, 0, step) == 4 for step in range(50))


def test_token_sequences_of_different_lengths_are_padded_on_the_right():
    first = {"input_ids": torch.ones(2, 3, dtype=int), "labels": torch.ones(2, 3, dtype=int), "task": ["a"] * 2}
    second = {"input_ids": torch.full((1, 5), 2), "labels": torch.full((1, 5), 2), "task": ["b"]}
    mixed = concatenate([first, second])
    assert mixed["input_ids"].tolist() == [[1, 1, 1, 0, 0]] * 2 + [[2] * 5]
    assert mixed["labels"].tolist() == [[1, 1, 1, -100, -100]] * 2 + [[2] * 5]


def test_state_of_another_method_is_refused():
    with pytest.raises(ValueError, match="keeps experiences, memory, but the checkpoint holds tasks_learnt"):
        attached().load_state_dict({}, {"tasks_learnt": 1}, iter([]))
