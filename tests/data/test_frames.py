import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.normalisation import SPREAD_FLOOR, frozen_statistics
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError

CHUNK = range(4)


@pytest.fixture
def frames(point_datasets, tmp_path):
    return Frames([Source(root) for root in point_datasets[:2]], tmp_path, CHUNK)


def test_samples_equal_those_of_the_stock_reader(point_datasets, tmp_path):
    root = point_datasets[0]
    fps = DatasetFolder(root).info["fps"]
    stock = LeRobotDataset(
        "local/red",
        root=root,
        delta_timestamps={"action": [offset / fps for offset in CHUNK]},
        video_backend="pyav",
        return_uint8=True,
    )
    ours = Frames([Source(root)], tmp_path, CHUNK)
    assert len(ours) == len(stock)
    batch = ours.batch(np.arange(len(ours)))
    for row in range(len(stock)):
        expected = stock[row]
        assert torch.equal(batch["observation.image"][row], expected["observation.image"])
        assert torch.equal(batch["observation.state"][row], expected["observation.state"])
        assert torch.equal(batch["action"][row], expected["action"])
        assert torch.equal(batch["action_is_pad"][row], expected["action_is_pad"])
        assert batch["task"][row] == expected["task"]


def test_chunks_stay_inside_their_episode(frames):
    episode = frames.episode_of_row
    ends = np.flatnonzero(np.diff(episode))
    batch = frames.batch(ends)
    assert batch["action_is_pad"][:, 0].logical_not().all()
    assert batch["action_is_pad"][:, 1:].all()
    assert torch.equal(batch["action"][:, 1], batch["action"][:, 0])


def test_two_sources_lie_behind_each_other(frames, point_datasets, tmp_path):
    parts = [Frames([Source(root)], tmp_path, CHUNK) for root in point_datasets[:2]]
    assert len(frames) == len(parts[0]) + len(parts[1])
    rows = np.array([0, len(parts[0]), len(frames) - 1, 1])
    batch = frames.batch(rows)
    assert torch.equal(batch["observation.image"][1], parts[1].batch(np.array([0]))["observation.image"][0])
    assert batch["task"] == ["go to the red side", "go to the green side", "go to the green side", "go to the red side"]
    assert frames.episode_of_row.max() == 7


def test_a_window_of_observations_gets_a_time_dimension(point_datasets, tmp_path):
    frames = Frames([Source(point_datasets[0])], tmp_path, CHUNK, observation_offsets=[-1, 0])
    batch = frames.batch(np.array([0, 1]))
    assert batch["observation.image"].shape == (2, 2, 3, 16, 16)
    assert batch["observation.image_is_pad"].tolist() == [[True, False], [False, False]]
    assert torch.equal(batch["observation.state"][0, 0], batch["observation.state"][0, 1])


def test_frames_are_decoded_once(point_datasets, tmp_path, monkeypatch):
    Frames([Source(point_datasets[0])], tmp_path, CHUNK)
    monkeypatch.setattr(DatasetFolder, "images", lambda *_: pytest.fail("decoded again"))
    Frames([Source(point_datasets[0])], tmp_path, CHUNK)


def test_the_instruction_can_be_replaced(point_datasets, tmp_path):
    frames = Frames([Source(point_datasets[0], instruction="left!")], tmp_path, CHUNK)
    assert frames.batch(np.array([3]))["task"] == ["left!"]


def test_a_source_can_be_one_task_of_a_dataset(point_datasets, tmp_path):
    from lerobot.datasets import merge_datasets

    parts = [LeRobotDataset(f"local/{root.name}", root=root) for root in point_datasets]
    merge_datasets(parts, output_repo_id="local/all", output_dir=tmp_path / "all")
    merged = Frames([Source(tmp_path / "all", "go to the green side")], tmp_path / "cache", CHUNK)
    alone = Frames([Source(point_datasets[1])], tmp_path / "cache", CHUNK)
    rows = np.arange(len(alone))
    ours, expected = merged.batch(rows), alone.batch(rows)
    for key in ("observation.image", "observation.state", "action", "action_is_pad", "task"):
        assert np.array_equal(ours[key], expected[key]), key


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda root: [], "at least one dataset"),
        (lambda root: [Source(root / "nothing")], "no LeRobotDataset at"),
        (lambda root: [Source(root, "fly")], "'go to the red side'"),
    ],
)
def test_bad_sources_are_named(point_datasets, tmp_path, source, message):
    with pytest.raises(ConfigurationError, match=message):
        Frames(source(point_datasets[0]), tmp_path, CHUNK)


def test_statistics_have_a_floor(frames):
    statistics = frozen_statistics(frames)
    std = statistics["observation.state"]["std"]
    assert std.min() >= SPREAD_FLOOR * std.max() * 0.999
    assert np.allclose(statistics["action"]["mean"], frames.actions.mean(0), atol=1e-6)
    assert statistics["action"]["min"].tolist() == [-1.0, -1.0]  # the suite's range, not that of these tasks
    assert statistics["action"]["max"].tolist() == [1.0, 1.0]
