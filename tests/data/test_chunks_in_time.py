"""A chunk of actions, and a window of observations, goes on in time or ends with padding."""

import numpy as np
import pytest
from odd_datasets import CAMERA, data_file, edit_info, edit_rows, edit_table, episodes_file, make_dataset, set_column

from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.interfaces import Data
from vla_cl.memory.selection import cut

LENGTH = 10


def recorded(root, tasks, length=LENGTH, episodes=1):
    """Action, state and picture of a frame say its number: 100 per episode, 1 per frame."""

    def number(episode, step):
        return [100.0 * episode + step]

    return make_dataset(
        root,
        [("A", length)] * episodes,
        state=1,
        action=1,
        state_of=number,
        action_of=number,
        task_of=lambda episode, step: tasks[step],
        cameras={CAMERA: (16, 16)},
        picture=lambda episode, step, _: np.full((16, 16, 3), 20 * episode + 5 * step, np.uint8),
    )


def chunks(frames):
    """For each row: its own action, and those of its chunk that are no padding."""
    batch = frames.batch(np.arange(len(frames)))
    actions, pads = batch["action"][..., 0].numpy(), batch["action_is_pad"].numpy()
    return {float(row[0]): row[~pad].tolist() for row, pad in zip(actions, pads, strict=True)}


INSTRUCTIONS = {
    "A B A": "AAABBBBAAA",
    "B A B": "BBAAAAABBB",
    "in turns": "ABABABABAB",
    "one frame": "BBBBABBBBB",
    "at the end": "BBBBBBBBAA",
    "all": "AAAAAAAAAA",
}


@pytest.mark.parametrize("order", INSTRUCTIONS)
@pytest.mark.parametrize("episodes", [1, 3])
def test_a_chunk_ends_where_the_task_does(tmp_path, order, episodes):
    tasks = INSTRUCTIONS[order]
    root = recorded(tmp_path / "d", tasks, episodes=episodes)
    frames = Frames([Source(root, "A")], tmp_path / "cache", range(4))
    found = chunks(frames)
    mine = [step for step in range(LENGTH) if tasks[step] == "A"]
    assert len(found) == episodes * len(mine)
    for episode in range(episodes):
        for step in mine:
            follows = next((other for other in range(step, LENGTH) if tasks[other] != "A"), LENGTH)
            expected = [100.0 * episode + other for other in range(step, min(step + 4, follows))]
            assert found[100.0 * episode + step] == expected


def test_without_a_chosen_task_a_chunk_crosses_instructions_as_in_lerobot(tmp_path):
    root = recorded(tmp_path / "d", "AAABBBBAAA")
    assert chunks(Frames([Source(root)], tmp_path / "cache", range(4)))[2.0] == [2.0, 3.0, 4.0, 5.0]


def test_a_window_of_observations_stays_in_its_stretch(tmp_path):
    root = recorded(tmp_path / "d", "AAABBBBAAA")
    frames = Frames([Source(root, "A")], tmp_path / "cache", [0], observation_offsets=[-2, -1, 0])
    batch = frames.batch(np.arange(6))
    assert batch["observation.state"][..., 0].tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [7, 7, 7],
        [7, 7, 8],
        [7, 8, 9],
    ]
    assert batch[f"{CAMERA}_is_pad"].tolist()[3] == [True, True, False]
    assert batch[CAMERA][:, :, 0, 0, 0].tolist() == [
        [0, 0, 0],
        [0, 0, 5],
        [0, 5, 10],
        [35, 35, 35],
        [35, 35, 40],
        [35, 40, 45],
    ]


def times(root, values):
    set_column(data_file(root), "timestamp", np.asarray(values, np.float32))


def test_a_lost_frame_in_the_middle_ends_a_chunk(tmp_path):
    """The recording goes on after a gap: what comes next is not the next action."""
    root = recorded(tmp_path / "d", "A" * LENGTH)
    times(root, [0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 1.9, 2.0, 2.1])
    found = chunks(Frames([Source(root)], tmp_path / "cache", range(4)))
    assert found[2.0] == [2.0, 3.0] and found[4.0] == [4.0, 5.0, 6.0] and found[7.0] == [7.0, 8.0, 9.0]


def test_a_repeated_time_ends_a_chunk(tmp_path):
    root = recorded(tmp_path / "d", "A" * LENGTH)
    times(root, [0, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    found = chunks(Frames([Source(root)], tmp_path / "cache", range(4)))
    assert found[1.0] == [1.0, 2.0] and found[3.0] == [3.0, 4.0, 5.0, 6.0]


def test_a_rate_that_varies_a_little_ends_none(tmp_path):
    root = recorded(tmp_path / "d", "A" * LENGTH)
    steps = np.random.default_rng(0).uniform(0.08, 0.13, LENGTH)
    times(root, np.cumsum(steps) - steps[0])
    assert all(len(chunk) == min(4, LENGTH - int(first)) for first, chunk in chunks(
        Frames([Source(root)], tmp_path / "cache", range(4))).items())  # fmt: skip


@pytest.mark.parametrize("column", ["index", "frame_index"])
def test_frames_that_were_removed_end_a_chunk(tmp_path, column):
    """Rows 4 and 5 were cut out; only one of the numbers says so."""
    root = recorded(tmp_path / "d", "A" * LENGTH)
    set_column(data_file(root), column, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11])
    found = chunks(Frames([Source(root)], tmp_path / "cache", range(4)))
    assert found[2.0] == [2.0, 3.0] and found[4.0] == [4.0, 5.0, 6.0, 7.0]


def test_episodes_of_one_frame_between_others(tmp_path):
    root = recorded(tmp_path / "d", "A" * LENGTH, episodes=1)
    set_column(data_file(root), "episode_index", [0, 0, 0, 1, 2, 2, 2, 2, 2, 2])
    set_column(data_file(root), "frame_index", [0, 1, 2, 0, 0, 1, 2, 3, 4, 5])
    times(root, [0, 0.1, 0.2, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5])
    places = {"dataset_from_index": [0, 3, 4], "dataset_to_index": [3, 4, 10]}
    three = {"episode_index": [0, 1, 2], "length": [3, 1, 6], **places}
    edit_table(episodes_file(root), lambda table: table.loc[[0, 0, 0]].reset_index(drop=True).assign(**three))
    edit_info(root, lambda info: info.update(total_episodes=3))
    found = chunks(Frames([Source(root)], tmp_path / "cache", range(4)))
    assert found[1.0] == [1.0, 2.0] and found[3.0] == [3.0] and found[8.0] == [8.0, 9.0]


def test_rows_out_of_order_are_put_in_time(tmp_path):
    root = recorded(tmp_path / "d", "AABBAAAABB", episodes=2)
    expected = chunks(Frames([Source(root, "A")], tmp_path / "cache", range(4)))
    edit_rows(data_file(root), lambda table: table.take(np.random.default_rng(2).permutation(2 * LENGTH)))
    assert chunks(Frames([Source(root, "A")], tmp_path / "cache", range(4))) == expected


def test_what_a_memory_keeps_as_a_window_or_a_trajectory_goes_on_in_time(tmp_path):
    frames = Frames([Source(recorded(tmp_path / "d", "AAABBBBAAA", episodes=2), "A")], tmp_path / "cache", [0])
    assert isinstance(frames, Data)
    for unit, window in (("trajectory", 1), ("window", 2)):
        units = cut(frames, unit, window)
        for number in range(len(units)):
            numbers = frames.actions[units.rows_of(number), 0]
            assert (np.diff(numbers) == 1).all()
