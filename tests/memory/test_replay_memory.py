import json
import tracemalloc

import numpy as np
import pytest
import torch
from remembered_data import PictureData, TableData, TableModel
from tiny_model import TinyData, experience

from vla_cl.memory.budget import cosine_distance, divide, similarity_weights
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.memory.settings import parse_bytes
from vla_cl.storage.names import NOTES
from vla_cl.types import ConfigurationError


def made(**settings):
    return ReplayMemory.from_settings(settings)


def filled(count=3, rows=(20, 40, 10), **settings):
    memory = made(**settings)
    datas = [TinyData(rows=rows[index % len(rows)], seed=index) for index in range(count)]
    for index, data in enumerate(datas):
        memory.remember(experience(index), data, seed=7)
    return memory, datas


def frames(memory):
    return [len(task.rows) for task in memory.tasks.values()]


def test_division_is_exact_and_nothing_is_left_over():
    generator = np.random.default_rng(0)
    for _ in range(300):
        count = int(generator.integers(1, 7))
        budget, weights = int(generator.integers(0, 1000)), generator.random(count).round(1)
        capacities = generator.integers(0, 400, count).tolist()
        shares = divide(budget, weights.tolist(), capacities)
        assert sum(shares) <= min(budget, sum(capacities))
        assert all(0 <= share <= most for share, most in zip(shares, capacities, strict=True))
        if (weights > 0).all():
            assert sum(shares) == min(budget, sum(capacities))
            rates = [s / w for s, w, most in zip(shares, weights, capacities, strict=True) if s < most]
            assert not rates or max(rates) - min(rates) <= 2 / weights.min()  # whoever is not full has a fair share


@pytest.mark.parametrize(
    ("arguments", "shares"),
    [
        ((100, [1, 1, 1], [1000, 1000, 1000]), [34, 33, 33]),
        ((100, [1, 3], [1000, 1000]), [25, 75]),
        ((100, [1, 1, 2], [10, 1000, 1000]), [10, 30, 60]),
        ((100, [0, 0], [1000, 1000]), [50, 50]),
        ((100, [1, 1], [30, 20]), [30, 20]),
    ],
)
def test_division(arguments, shares):
    assert divide(*arguments) == shares


def test_a_budget_holds_after_every_task():
    for split in ("equal", "proportional"):
        memory = made(budget=430, split=split)
        for index, rows in enumerate((20, 40, 10, 30, 5)):
            memory.remember(experience(index), TinyData(rows=rows, seed=index), seed=7)
            assert memory.memory_bytes() == 20 * len(memory) <= 430
            assert len(memory) >= min(21, index * 10 + 20) - len(memory.tasks)  # less than a frame per task is unused


def test_an_equal_split_and_a_proportional_one():
    assert frames(filled(budget=20 * 24)[0]) == [8, 8, 8]
    assert frames(filled(budget=20 * 21, split="proportional")[0]) == [6, 12, 3]
    assert frames(filled(budget=20 * 50)[0]) == [20, 20, 10]  # what a short task leaves goes to the others
    assert frames(filled(samples_per_task=15)[0]) == [15, 15, 10]


def test_shrinking_keeps_the_worthiest_and_never_asks_the_data():
    memory, whole = made(budget=20 * 12), made(budget=20 * 12)
    data = TinyData(rows=30)
    memory.remember(experience(0), data, seed=7)
    before = memory.index()["e0"]
    data.batch = None  # the source is gone
    memory.remember(experience(1), TinyData(rows=30, seed=1), seed=7)
    assert memory.index()["e0"] == before[:6]
    whole.remember(experience(0), TinyData(rows=30), seed=7)
    whole.remember(experience(1), TinyData(rows=30, seed=1), seed=7)
    assert whole.index() == memory.index()


@pytest.mark.parametrize("unit", ["window", "trajectory"])
def test_units_are_kept_whole(unit):
    memory, datas = filled(budget=20 * 36, unit=unit, **({"window": 3} if unit == "window" else {}))
    for task, data in zip(memory.tasks.values(), datas, strict=True):
        episodes = data.episode_of_row
        start = 0
        for length in task.lengths.tolist():
            rows = task.rows[start : start + length]
            assert (np.diff(rows) == 1).all()
            assert len(set(episodes[rows])) == 1
            assert length == 5 or unit == "window"
            start += length
    assert memory.memory_bytes() <= 20 * 36
    assert made(trajectories_per_task=2, unit="trajectory").settings.trajectories_per_task == 2


def test_trajectories_per_task():
    memory, _ = filled(trajectories_per_task=2, unit="trajectory", selection="first")
    assert [task.rows.tolist() for task in memory.tasks.values()] == [list(range(10))] * 3
    assert [task.trajectories for task in memory.tasks.values()] == [2, 2, 2]


def test_similarity_gives_most_to_what_is_farthest():
    means = [np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0]), np.asarray([1.0, 1.0]), np.asarray([1.0, 0.0])]
    half = 1 - np.sqrt(0.5)
    expected = np.asarray([0.0, 1.0, half]) / (1 + half) * 3 / 4
    assert np.allclose(similarity_weights(means), [*expected, 1 / 4])
    assert similarity_weights(means[:1]) == [1.0]
    assert similarity_weights([means[0], means[0]]) == [0.5, 0.5]
    assert cosine_distance(means[0], -means[0]) == 2.0
    assert cosine_distance(means[0], 0 * means[0]) == 0.0


def test_a_budget_by_similarity():
    memory = made(budget=10 * 60, split="similarity")
    features = np.asarray([[1.0, 0.0], [0.0, 1.0], [0.5, 1.0]])
    for index, mean in enumerate(features):
        memory.remember(experience(index), TableData(np.tile(mean, (50, 1))), 7, TableModel())
        assert memory.memory_bytes() == 10 * len(memory) <= 10 * 60
    first, second, third = frames(memory)
    assert first > third > second
    assert "mean" not in memory.index()["memory.notes"]["e0"]  # of no use to a later model
    with pytest.raises(ConfigurationError, match="needs a model with features"):
        made(budget=100, split="similarity").remember(experience(), TinyData(), 7)


def test_a_budget_too_small_for_one_unit_is_refused():
    with pytest.raises(ConfigurationError, match="a trajectory takes more than its share of 99"):
        made(budget=99, unit="trajectory").remember(experience(), TinyData(), 7)
    memory = made(budget=199, unit="trajectory")
    memory.remember(experience(0), TinyData(), 7)
    with pytest.warns(UserWarning, match="nothing of e1 is remembered"):
        memory.remember(experience(1), TinyData(), 7)
    assert frames(memory) == [5, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": 20 * 36, "selection": "reservoir"},
        {"budget": 20 * 36, "unit": "window", "window": 4, "split": "proportional"},
        {"samples_per_task": 7},
    ],
)
def test_a_restored_memory_continues_alike(settings):
    memory, datas = filled(**settings)
    index = json.loads(json.dumps(memory.index()))
    other = made(**settings)
    other.restore(index, iter([(experience(number), data) for number, data in enumerate(datas)]))
    assert other.index() == memory.index()
    assert other.memory_bytes() == memory.memory_bytes()
    for each in (memory, other):
        each.remember(experience(3), TinyData(seed=3), seed=7)
    assert other.index() == memory.index()
    assert torch.equal(other.sample(5, 0, 1)["x"], memory.sample(5, 0, 1)["x"])


def test_an_index_of_rows_alone_is_read():
    memory, data = made(samples_per_task=3), TinyData()
    memory.restore({"e0": [4, 2, 9]}, iter([(experience(), data)]))
    assert memory.everything().tolist() == [[0, 2], [0, 4], [0, 9]]
    assert memory.memory_bytes() == 60
    assert memory.index()["e0"] == [4, 2, 9]
    with pytest.raises(ValueError, match="row 20 of 'e0', which has 20 rows"):
        memory.restore({"e0": [20]}, iter([(experience(), data)]))


def test_fetch_gives_what_was_picked_in_this_order():
    memory, datas = filled(samples_per_task=9)
    picks = memory.everything()[[20, 3, 3, 12, 0, 26]]
    batch = memory.fetch(picks)
    expected = torch.stack([datas[number].x[row] for number, row in picks.tolist()])
    assert torch.equal(batch["x"], expected)
    assert torch.equal(memory.sample(8, 1, 2)["x"], memory.fetch(memory.pick(8, 1, 2))["x"])


def test_a_draw_from_a_million_looks_at_no_more_than_it_takes():
    memory = made(samples_per_task=1_000_000, selection="first")
    data = TinyData()
    data.__class__ = _LongData
    memory.remember(experience(), data, 0)
    assert len(memory) == 1_000_000
    memory.pick(64, 0, 0)
    tracemalloc.start()
    for step in range(1, 5):
        memory.pick(64, 0, step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000  # bytes; an array over the million would take eighty times as many


class _LongData(TinyData):
    def __len__(self):
        return 1_000_000

    @property
    def episode_of_row(self):
        return np.arange(len(self)) // 100


def test_another_runs_memory_is_shared_out_like_the_rest():
    memory, old = made(budget=20 * 30), TinyData(rows=40, seed=9)
    memory.adopt("earlier", -1, old)
    assert frames(memory) == [30]
    data = TinyData(rows=40, seed=1)
    memory.remember(experience(0), data, seed=7)
    assert frames(memory) == [15, 15]
    batch = memory.fetch(np.asarray([[-1, 3], [0, int(memory.index()["e0"][0])]]))
    assert torch.equal(batch["x"][0], old.x[3])
    other = made(budget=20 * 30)
    past = [(experience(0), data)]
    other.restore(memory.index(), iter([(_named("earlier", -1), old), *past]))
    assert other.index() == memory.index()


def _named(name, index):
    from vla_cl.types import Experience

    return Experience(index, name, ())


def test_what_a_method_keeps_beside_the_samples_counts():
    memory, datas = made(budget=20 * 30), [TinyData(rows=40, seed=seed) for seed in range(3)]
    memory.remember(experience(0), datas[0], seed=7)
    worthiest = memory.index()["e0"][:20]
    memory.charge(0, 10)
    assert memory.index()["e0"] == worthiest
    assert memory.memory_bytes() == 20 * 30
    memory.remember(experience(1), datas[1], seed=7)
    memory.charge(1, 40)
    assert frames(memory) == [10, 5]
    assert memory.memory_bytes() == 10 * 30 + 5 * 60
    other = made(budget=20 * 30)
    other.restore(json.loads(json.dumps(memory.index())), iter([(experience(i), datas[i]) for i in range(2)]))
    assert other.memory_bytes() == memory.memory_bytes()
    for each in (memory, other):
        each.charge(1, 40)  # nothing new
        each.remember(experience(2), datas[2], seed=7)
        assert each.memory_bytes() <= 600
    assert other.index() == memory.index()
    with pytest.raises(ConfigurationError, match="nothing of e0 is remembered"):
        filled(count=1, budget=20)[0].charge(0, 1)


def test_notes_say_what_a_listing_needs():
    memory, _ = filled(samples_per_task=9)
    notes = memory.index()[NOTES]["e1"]
    assert notes["bytes_per_sample"] == 20
    assert notes["frames_in_total"] == 40
    assert notes["lengths"] == 1


def test_a_budget_is_used_to_the_last_frame():
    data = PictureData(episodes=(50, 50))
    memory = made(budget="25 kB", selection="phase")
    memory.remember(experience(), data, 0)
    assert memory.memory_bytes() == 25_000 // data.bytes_per_sample * data.bytes_per_sample
    assert parse_bytes("25 kB") - memory.memory_bytes() < data.bytes_per_sample
