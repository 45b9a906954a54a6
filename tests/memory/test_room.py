"""A limit that leaves some experience less than one unit is refused beforehand, and the smallest is told."""

import re
import warnings

import numpy as np
import pytest
from remembered_data import PictureData
from tiny_model import TinyData, experience

from vla_cl.memory.copying import LEAST_BYTES, least_picture_bytes
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.memory.room import ExperienceSize, require_units
from vla_cl.memory.settings import MemorySettings
from vla_cl.memory.store import JOURNAL, TrajectoryStore
from vla_cl.types import ConfigurationError


def sizes(frames, longest=5, names="e{}"):
    return [ExperienceSize(names.format(number), count, longest, 20) for number, count in enumerate(frames)]


def smallest(settings, of):
    """What the message says would do."""
    with pytest.raises(ConfigurationError, match="is too little for") as caught:
        require_units(MemorySettings(**settings), of)
    return int(re.search(r"give (\d+) bytes", str(caught.value))[1])


@pytest.mark.parametrize("split", ["equal", "proportional", "similarity"])
@pytest.mark.parametrize("unit", ["frame", "window", "trajectory"])
def test_nine_units_for_ten_tasks_are_too_few_and_ten_are_enough(split, unit):
    length = {"frame": 1, "window": 3, "trajectory": 5}[unit]
    settings = {"unit": unit, "split": split} | ({"window": 3} if unit == "window" else {})
    of = sizes([30] * 10)
    assert smallest({"budget": 9 * length * 20, **settings}, of) == 10 * length * 20
    assert smallest({"budget": 10 * length * 20 - 1, **settings}, of) == 10 * length * 20
    require_units(MemorySettings(budget=10 * length * 20, **settings), of)


@pytest.mark.parametrize("frames", [(20, 40, 10), (5, 5, 200), (30, 30, 30)])
@pytest.mark.parametrize("unit", ["frame", "window", "trajectory"])
@pytest.mark.parametrize("split", ["equal", "proportional"])
def test_with_the_smallest_that_is_said_every_task_keeps_something(frames, unit, split):
    settings = {"unit": unit, "split": split} | ({"window": 4} if unit == "window" else {})
    memory = ReplayMemory.from_settings({"budget": smallest({"budget": 20, **settings}, sizes(frames)), **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index, count in enumerate(frames):
            memory.remember(experience(index), TinyData(rows=count, seed=index), seed=7)
    assert np.unique(memory.everything()[:, 0]).tolist() == list(range(len(frames)))


def test_limits_in_frames_must_hold_a_unit():
    for settings in ({"unit": "window", "window": 4}, {"unit": "trajectory"}):
        needed = 4 if settings["unit"] == "window" else 5
        with pytest.raises(ConfigurationError, match=f"of e0, which has {needed} frames; give at least {needed}"):
            require_units(MemorySettings(samples_per_task=needed - 1, **settings), sizes([20, 20]))
        require_units(MemorySettings(samples_per_task=needed, **settings), sizes([20, 20]))
    require_units(MemorySettings(samples_per_task=4, unit="window", window=9), sizes([20], longest=4))
    require_units(MemorySettings(samples_per_task=1000), sizes([20]))  # more than there are
    require_units(MemorySettings(trajectories_per_task=1, unit="trajectory"), sizes([20]))


def test_what_a_short_task_leaves_counts_for_the_others():
    of = [ExperienceSize("long", 10, 10, 20), ExperienceSize("short", 2, 2, 20)]
    require_units(MemorySettings(budget=240, unit="trajectory"), of)


def test_sizes_that_are_not_known_are_not_guessed():
    of = sizes([None] * 3)
    require_units(MemorySettings(budget=20, split="proportional"), of)
    require_units(MemorySettings(budget=3 * LEAST_BYTES, keep="copy"), of)  # more shows when copies are written
    assert smallest({"budget": 20}, of) == 60


def test_a_task_without_frames_asks_for_no_share():
    require_units(MemorySettings(budget=20, split="proportional"), sizes([0, 1], longest=1))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("side", [8, 24])
def test_the_least_that_a_copy_takes_is_no_more_than_any_copy_takes(encoding, side, tmp_path):
    settings = {"keep": "copy", "encoding": encoding, "samples_per_task": 30}
    least = LEAST_BYTES + least_picture_bytes(MemorySettings(**settings), [(side, side)])
    memory = ReplayMemory.from_settings(settings)
    memory.keep_in(tmp_path)
    data = PictureData(episodes=(4, 4), size=side)
    data.pictures[:3] = np.array([0, 128, 255])[:, None, None, None]
    memory.remember(experience(0), data, seed=7)
    store = TrajectoryStore(next(tmp_path.rglob(JOURNAL)).parent)
    sizes_on_disk = [file.bytes_on_disk for file in store.files.values()]
    assert len(sizes_on_disk) == 8
    assert min(sizes_on_disk) >= least
    if encoding == "raw":
        assert least > 3 * side * side


def test_a_budget_of_copies_holds_at_least_their_files_and_what_is_kept_beside():
    of = [ExperienceSize(f"e{number}", 30, 5, 20, True, 12) for number in range(3)]
    assert smallest_copies({"budget": 20, "keep": "copy"}, of) == 3 * (LEAST_BYTES + 12)
    enough = 3 * (LEAST_BYTES + 5 * 12)
    assert smallest_copies({"budget": enough - 1, "keep": "copy", "unit": "trajectory"}, of) == enough
    require_units(MemorySettings(budget=enough, keep="copy", unit="trajectory"), of)


def smallest_copies(settings, of):
    with pytest.raises(ConfigurationError, match="is too little for") as caught:
        require_units(MemorySettings(**settings), of)
    return int(re.search(r"give at least (\d+) bytes", str(caught.value))[1])
