"""Data with pictures, states, actions and features that tests can reason about."""

import numpy as np
import torch
from tiny_model import TinyModel

from vla_cl.interfaces import Data
from vla_cl.types import InterfaceSpec


class PictureData(Data):
    """Episodes of smooth moving pictures; the chunk of two actions is held at an episode's end."""

    columns = ("actions", "states")

    def __init__(self, episodes=(6, 4, 5), size=16, seed=0, instructions=("go",), history=False):
        generator = np.random.default_rng(seed)
        self._episode = np.repeat(np.arange(len(episodes)), episodes)
        self.spec = InterfaceSpec({"observation.image": (size, size)}, 2, 3)
        self.states = np.cumsum(generator.standard_normal((len(self), 2)), axis=0).astype(np.float32)
        self.actions = generator.standard_normal((len(self), 3)).astype(np.float32)
        self._texts = [instructions[number % len(instructions)] for number in self._episode]
        self._last = (np.cumsum(episodes) - 1)[self._episode]
        self._first = self._last - np.asarray(episodes)[self._episode] + 1
        self._history = history
        across, down = np.meshgrid(np.arange(size), np.arange(size))
        shift = np.arange(len(self))[:, None, None]
        waves = [128 + 100 * np.sin((across + k * down + shift) / 5 + seed) for k in (0, 1, 2)]
        self.pictures = np.stack(waves, axis=1).astype(np.uint8)

    def __len__(self):
        return len(self._episode)

    def column(self, name):
        return {"actions": self.actions, "states": self.states}[name]

    @property
    def bytes_per_sample(self):
        return self.pictures[0].size + 4 * 5

    @property
    def episode_of_row(self):
        return self._episode

    def batch(self, rows):
        rows = np.asarray(rows, dtype=np.int64)
        chunk = rows[:, None] + np.arange(2)
        held = np.minimum(chunk, self._last[rows][:, None])
        seen = np.maximum(rows[:, None] + np.array([-1, 0]), self._first[rows][:, None]) if self._history else rows
        return {
            "index": torch.from_numpy(rows),
            "task": [self._texts[row] for row in rows],
            "observation.image": torch.from_numpy(self.pictures[seen]),
            "observation.state": torch.from_numpy(self.states[rows]),
            "action": torch.from_numpy(self.actions[held]),
            "action_is_pad": torch.from_numpy(held != chunk),
        }


class TableData(Data):
    """Rows of given features, losses in the first column, and episodes."""

    def __init__(self, features, episodes=None, tasks=None):
        self.features = torch.as_tensor(np.asarray(features, dtype=np.float32))
        self._episode = np.zeros(len(self.features), np.int64) if episodes is None else np.asarray(episodes)
        self._tasks = tasks or ["t"] * len(self.features)

    bytes_per_sample = 10

    def __len__(self):
        return len(self.features)

    @property
    def episode_of_row(self):
        return self._episode

    def batch(self, rows):
        rows = torch.from_numpy(np.asarray(rows))
        return {"x": self.features[rows], "index": rows, "task": [self._tasks[row] for row in rows.tolist()]}


class TableModel(TinyModel):
    """Its features are the table's, its loss the first of them."""

    def loss(self, batch, draw):
        assert not self.module.training
        return batch["x"][:, 0]


def same(one, other):
    """Equal batches: keys, types, shapes and every number."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype, key
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key
