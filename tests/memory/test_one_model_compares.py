"""A split by similarity compares features of one model: a task that is learnt again is no distance away from itself."""

import json

import numpy as np
import pytest
import torch
from remembered_data import TableData, TableModel
from tiny_model import experience

from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.memory.settings import MemorySettings
from vla_cl.types import ConfigurationError

ROWS = np.asarray([[1.0, 0.0, 0.3], [0.1, 1.0, 0.0], [0.0, 0.4, 1.0]])
"""What the samples of each task look like; the fourth task is the first again."""
LOOKS = [ROWS[0], ROWS[1], ROWS[2], ROWS[0]]
SIZES = (100, 800, 800, 800)


class Learner(TableModel):
    """Its features are a linear map of the samples that changes with every task."""

    def features(self, batch):
        return batch["x"] @ self.map

    def learn(self, task):
        self.map = torch.from_numpy(np.random.default_rng(task).standard_normal((3, 4)).astype(np.float32))


pytestmark = pytest.mark.filterwarnings("ignore:method.memory. nothing of e0 is remembered")


def filled(until, restored_before=None):
    """A memory of 1700 samples of 10 bytes after some tasks, taken from a checkpoint before one of them."""
    settings = {"budget": 17000, "split": "similarity"}
    memory, model = ReplayMemory.from_settings(settings), Learner()
    data = [TableData(np.tile(look, (size, 1))) for look, size in zip(LOOKS, SIZES, strict=True)]
    for task in range(until):
        if task == restored_before:
            index = json.loads(json.dumps(memory.index()))
            memory = ReplayMemory.from_settings(settings)
            memory.restore(index, iter([(experience(number), data[number]) for number in range(task)]))
        model.learn(task)
        memory.remember(experience(task), data[task], 7, model)
    return memory, model


def test_a_task_learnt_again_is_no_distance_away_from_itself():
    memory, model = filled(3)
    assert [len(task.rows) for task in memory.tasks.values()] == [100, 800, 800]
    memory, model = filled(4)
    means = [look @ model.map.double().numpy() for look in LOOKS]
    cosines = [mean @ means[3] / np.linalg.norm(mean) / np.linalg.norm(means[3]) for mean in means[:3]]
    distances = 1 - np.asarray(cosines)
    assert distances[0] == pytest.approx(0, abs=1e-12)
    expected = [*(distances / distances.sum() * 3 / 4), 1 / 4]
    kept = [len(task.rows) for task in memory.tasks.values()]
    assert sum(kept) == 1700
    assert kept == pytest.approx([1700 * share for share in expected], abs=1)


def test_a_run_that_goes_on_from_a_checkpoint_divides_alike():
    memory, _ = filled(4)
    for border in (1, 2, 3):
        assert filled(4, restored_before=border)[0].index() == memory.index()


def test_features_in_place_of_pictures_cannot_be_compared():
    with pytest.raises(ConfigurationError, match="compares features of one model"):
        MemorySettings(budget=100, split="similarity", keep="copy", encoding="features")
