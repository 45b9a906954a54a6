import itertools

import numpy as np
import pytest
from remembered_data import PictureData, TableData, TableModel

from vla_cl.memory.rules.herding import herd
from vla_cl.memory.rules.keyframes import gripper_changes, velocity_minima
from vla_cl.memory.selection import Candidates, cut, round_robin, rule_named, rule_names
from vla_cl.random_numbers import Purpose, generator
from vla_cl.types import ConfigurationError

EPISODES = np.repeat([0, 1, 2], [6, 4, 5])


def ordered(name, data, limit, settings=None, unit="frame", window=2, seed=0, experience=0, model=None):
    candidates = Candidates(data, cut(data, unit, window), limit, seed, experience, model)
    return rule_named(name, settings or {}).order(candidates)


def table(rows=15, seed=0):
    return TableData(np.random.default_rng(seed).standard_normal((rows, 3)), np.repeat([0, 1, 2], [6, 4, rows - 10]))


def test_units_are_cut_inside_episodes():
    data = TableData(np.zeros((15, 1)), EPISODES)
    assert cut(data, "frame", 4).lengths.tolist() == [1] * 15
    windows = cut(data, "window", 4)
    assert [windows.rows_of(number).tolist() for number in range(len(windows))] == [
        [0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11, 12, 13], [14],
    ]  # fmt: skip
    assert windows.episodes.tolist() == [0, 0, 1, 2, 2]
    assert cut(data, "trajectory", 4).lengths.tolist() == [6, 4, 5]


def test_units_of_episodes_whose_rows_are_mixed():
    units = cut(TableData(np.zeros((5, 1)), [1, 0, 1, 0, 1]), "trajectory", 1)
    assert [units.rows_of(number).tolist() for number in range(2)] == [[1, 3], [0, 2, 4]]


@pytest.mark.parametrize("name", rule_names())
@pytest.mark.parametrize("unit", ["frame", "window", "trajectory"])
def test_every_rule_gives_different_units_and_is_repeatable(name, unit):
    data = PictureData()
    model = _PictureModel()
    total = len(cut(data, unit, 2))
    order = ordered(name, data, total, unit=unit, model=model)
    assert sorted(order.tolist()) == list(range(total))
    assert order.tolist() == ordered(name, data, total, unit=unit, model=model).tolist()
    part = ordered(name, data, 2, unit=unit, model=model)[:2]
    assert part.tolist() == order[:2].tolist() or name == "uniform"


class _PictureModel(TableModel):
    def features(self, batch):
        return batch["observation.state"]

    def loss(self, batch, draw):
        return batch["observation.state"][:, 0]


def test_first_is_the_order_of_the_data():
    assert ordered("first", table(), 4).tolist() == [0, 1, 2, 3]


def test_randomness_is_of_seed_and_experience():
    data = table()
    for name in ("uniform", "reservoir", "balanced", "phase"):
        orders = {tuple(ordered(name, data, 15, seed=s, experience=e)) for s, e in ((0, 0), (0, 1), (1, 0))}
        assert len(orders) == 3, name


def test_a_reservoir_is_vitters_algorithm_r_for_every_size():
    data = table(40)
    order = ordered("reservoir", data, 40, seed=5).tolist()
    draws = generator(5, Purpose.SELECTION, 0).integers(0, np.arange(1, 41)).tolist()
    for size in (1, 3, 17, 40):
        reservoir = []
        for unit, place in enumerate(draws):
            if unit < size:
                reservoir.append(unit)
            elif place < size:
                # algorithm R replaces the unit that stands at the drawn place; which places the first units took does
                # not matter for what is kept as long as each place is drawn alike, so take those of the shuffle
                reservoir[reservoir.index(_at(draws, unit, place))] = unit
        assert sorted(order[:size]) == sorted(reservoir)


def _at(draws, units, place):
    """Which of the first units stands at a place."""
    places = list(range(units))
    for number, other in enumerate(draws[:units]):
        places[number] = places[other]
        places[other] = number
    return places[place]


def test_a_reservoir_keeps_every_unit_equally_often():
    data, trials, kept = TableData(np.zeros((12, 1))), 3000, 4
    counts = np.zeros(12)
    for seed in range(trials):
        counts[ordered("reservoir", data, kept, seed=seed)[:kept]] += 1
    expected = trials * kept / 12
    # Sampling without replacement: the counts' variance is that of a multinomial times (N - k) / (N - 1).
    statistic = ((counts - expected) ** 2 / expected).sum() * 11 / 8
    assert statistic < 31.26  # chi-square, 11 degrees of freedom, p = .001
    assert statistic > 1.0


def test_balanced_takes_turns_between_instructions_and_episodes():
    data = TableData(np.zeros((12, 1)), np.repeat([0, 1, 2, 3], [5, 4, 2, 1]), ["a"] * 11 + ["b"])
    order = ordered("balanced", data, 12)
    instruction = np.asarray([0] * 11 + [1])[order]
    assert sorted(instruction[:2].tolist()) == [0, 1]
    episodes = data.episode_of_row[order[instruction == 0]]
    assert [sorted(episodes[start : start + 3].tolist()) for start in (0, 3)] == [[0, 1, 2], [0, 1, 2]]


def test_phase_takes_as_much_of_every_part():
    data = TableData(np.zeros((64, 1)), np.repeat([0, 1], 32))
    order = ordered("phase", data, 64, {"phases": 4})
    parts = (np.arange(64) % 32 // 8)[order]
    for start in range(0, 64, 4):
        assert sorted(parts[start : start + 4].tolist()) == [0, 1, 2, 3]


def test_herding_is_the_greedy_choice():
    features = np.random.default_rng(1).standard_normal((9, 4))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for normalise, space in ((True, unit), (False, features)):
        chosen = []
        for _ in range(9):
            rest = [row for row in range(9) if row not in chosen]
            distances = [np.linalg.norm(space.mean(0) - space[[*chosen, row]].mean(0)) for row in rest]
            chosen.append(rest[int(np.argmin(distances))])
        assert herd(features, 9, normalise).tolist() == chosen


def test_herding_is_near_the_best_subset_and_better_than_chance():
    features = np.random.default_rng(2).standard_normal((10, 2))
    goal = features.mean(0)

    def error(rows):
        return np.linalg.norm(features[list(rows)].mean(0) - goal)

    everything = sorted(error(rows) for rows in itertools.combinations(range(10), 4))
    assert error(herd(features, 4, normalise=False)) <= np.quantile(everything, 0.1)
    large = np.random.default_rng(3).standard_normal((500, 8))
    own = np.linalg.norm(large[herd(large, 40, normalise=False)].mean(0) - large.mean(0))
    random = [
        np.linalg.norm(large[np.random.default_rng(s).choice(500, 40, replace=False)].mean(0) - large.mean(0))
        for s in range(100)
    ]
    assert own < min(random) / 5


def test_herding_uses_the_models_features():
    data = table()
    order = ordered("herding", data, 5, model=TableModel())[:5]
    assert order.tolist() == herd(data.features.numpy().astype(float), 5).tolist()


def test_key_frames_are_gripper_changes_then_velocity_minima():
    episode = np.repeat([0, 1], [6, 4])
    gripper = np.asarray([1, 1, -1, -1, -1, 1, -1, -1, -1, -1], np.float32)
    assert np.flatnonzero(gripper_changes(gripper, episode, 0.5)).tolist() == [2, 5]  # not 6: another episode
    speed = np.asarray([3.0, 2, 1, 2, 1, 0, 0, 5, 4, 6])
    assert np.flatnonzero(velocity_minima(speed, episode)).tolist() == [2, 8]  # not at an episode's ends
    data = PictureData((6, 4))
    data.actions[:, 2] = gripper
    data.actions[:, 0], data.actions[:, 1] = speed, 0
    order = ordered("keyframes", data, 10, {"velocity": "actions"})
    assert sorted(order[:2].tolist()) == [2, 5]
    assert order[2] == 8
    assert ordered("keyframes", data, 10, {"velocity": "actions", "gripper": None})[:2].tolist() == [2, 8]


def test_loss_takes_the_highest_or_the_lowest():
    data = TableData(np.asarray([[3.0], [1.0], [2.0]]))
    model = TableModel()
    model.module.train()
    assert ordered("loss", data, 3, model=model).tolist() == [0, 2, 1]
    assert ordered("loss", data, 3, {"prefer": "lowest"}, model=model).tolist() == [1, 2, 0]
    assert model.module.training  # as it was


def test_a_window_counts_by_its_mean():
    data = TableData(np.asarray([[9.0], [0.0], [4.0], [4.0], [7.0]]), [0, 0, 0, 0, 0])
    order = ordered("loss", data, 3, unit="window", model=TableModel())
    assert order.tolist() == [2, 0, 1]


def test_round_robin():
    groups = [np.asarray([1, 2, 3]), np.asarray([4]), np.asarray([5, 6])]
    assert round_robin(groups).tolist() == [1, 4, 5, 2, 6, 3]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("herdign", {}, "did you mean 'herding'"),
        ("phase", {"phase": 3}, "did you mean 'phases'"),
        ("first", {"count": 3}, "it has none"),
        ("phase", {"phases": 0}, "phases must be a whole number between 1 and 1e.09; got 0"),
        ("loss", {"prefer": "middle"}, "highest or lowest"),
        ("keyframes", {"velocity": "joints"}, "states or actions"),
        ("keyframes", {"change": 0}, "above 0"),
        ("keyframes", {"change": float("nan")}, "above 0 and at most 1e.09; got nan"),
        ("keyframes", {"change": "much"}, "above 0 and at most 1e.09; got 'much'"),
        ("keyframes", {"gripper": 1.5}, "gripper must be a whole number or null, .*; got 1.5"),
        ("keyframes", {"gripper": True}, "gripper must be a whole number or null, .*; got true"),
        ("herding", {"normalise": "no"}, "normalise must be true or false; got 'no'"),
        ("phase", ["phases"], "must be a mapping of settings"),
        ("phase", None, "must be a mapping of settings; got None"),
    ],
)
def test_wrong_rules_are_refused(name, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        rule_named(name, settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [("herding", "needs a model with features"), ("keyframes", "with actions"), ("loss", "per_sample_losses")],
)
def test_a_rule_says_what_it_lacks(name, message):
    with pytest.raises(ConfigurationError, match=message):
        ordered(name, table(), 3)


def test_a_gripper_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="gripper=7, but actions have 3 numbers"):
        ordered("keyframes", PictureData(), 3, {"gripper": 7})
