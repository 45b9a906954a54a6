"""Which episodes are kept from training: a number or a share of each task's, the same wherever and whenever."""

import shutil

import numpy as np
import pytest
from odd_datasets import make_dataset

from vla_cl.data.action_groups import chosen_groups, told_groups
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.frames import Frames
from vla_cl.data.held_out import held_out_episodes
from vla_cl.data.source import HoldOut, Source
from vla_cl.types import ConfigurationError

TASKS = ("pick", "place")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve episodes, the two tasks in turn, no two of one length within a task."""
    episodes = [(TASKS[number % 2], 4 + number) for number in range(12)]
    return make_dataset(tmp_path_factory.mktemp("data") / "arm", episodes)


def source(root, amount, seed=0, task="pick"):
    return Source(root, recorded_instruction=task, hold_out=HoldOut(amount, seed))


def episodes(frames):
    return set(frames.recorded_places[1].tolist())


@pytest.mark.parametrize(("amount", "count"), [(3, 3), (5, 5), (0.1, 3), (0.5, 3)])
def test_both_parts_are_the_whole_task_and_share_no_episode(root, tmp_path, amount, count):
    chosen = source(root, amount)
    learnt, held_out = (Frames([part], tmp_path, range(2)) for part in (chosen, chosen.held_out))
    assert len(episodes(held_out)) == count
    assert not episodes(learnt) & episodes(held_out)
    assert episodes(learnt) | episodes(held_out) == {0, 2, 4, 6, 8, 10}
    whole = Frames([Source(root, recorded_instruction="pick")], tmp_path, range(2))
    assert len(learnt) + len(held_out) == len(whole)
    together = np.concatenate([learnt.actions, held_out.actions])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, whole.actions.tolist()))


def test_a_share_is_rounded_to_whole_episodes(tmp_path):
    root = make_dataset(tmp_path / "d", [("pick", 3)] * 45)
    assert len(held_out_episodes(DatasetFolder(root), source(root, 0.1))) == 4
    assert len(held_out_episodes(DatasetFolder(root), source(root, 0.5))) == 22


def test_which_ones_follows_from_the_seed_and_not_from_the_place(root, tmp_path):
    moved = shutil.copytree(root, tmp_path / "moved")
    found = {seed: held_out_episodes(DatasetFolder(root), source(root, 3, seed)).tolist() for seed in range(8)}
    assert held_out_episodes(DatasetFolder(moved), source(moved, 3, 5)).tolist() == found[5]
    assert len({tuple(sorted(chosen)) for chosen in found.values()}) > 3


def test_tasks_that_share_episodes_hold_out_the_same_ones(tmp_path):
    root = make_dataset(tmp_path / "d", [("pick", 4)] * 9)
    everything = Source(root, hold_out=HoldOut(4, 1))
    named = source(root, 4, 1)
    folder = DatasetFolder(root)
    assert set(held_out_episodes(folder, everything)) == set(held_out_episodes(folder, named))


def test_what_one_task_holds_out_no_other_learns_from(tmp_path):
    """Where the instruction changes within an episode."""
    root = make_dataset(
        tmp_path / "d", [("pick", 8)] * 12, task_of=lambda e, s: "place" if e < 6 and s >= 4 else "pick"
    )
    held_out, learnt = set(), set()
    for task in TASKS:
        chosen = source(root, 3, task=task)
        held_out |= episodes(Frames([chosen.held_out], tmp_path, range(2)))
        learnt |= episodes(Frames([chosen], tmp_path, range(2)))
    assert len(held_out) >= 3
    assert not held_out & learnt


@pytest.mark.parametrize("amount", [6, 100])
def test_something_must_be_left_to_learn_from(root, tmp_path, amount):
    with pytest.raises(ConfigurationError, match=r"data.held_out=.* holds out .* of each task, but .*'pick'.* has 6"):
        Frames([source(root, amount)], tmp_path, range(2))


AXES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
GROUPED = {"position": (0, 1, 2), "rotation": (3, 4, 5), "gripper": (6,)}
JOINTS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (AXES, GROUPED),
        (["delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper_position"], GROUPED),
        (["ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz", "ee.gripper_pos"], GROUPED),
        (["gripper", "x", "y"], {"position": (1, 2), "gripper": (0,)}),
        (["x", "y", "z"], {"position": (0, 1, 2)}),
        (JOINTS, {"joint": (0, 1, 2, 3, 4), "gripper": (5,)}),
        ([f"gripper_{name}" for name in (*AXES[:6], "open")], {"action": tuple(range(7))}),
        (
            ["x", "y", "z", "qx", "qy", "qz", "w", "gripper"],
            {"position": (0, 1, 2), "rotation": (3, 4, 5, 6), "gripper": (7,)},
        ),
        (["base_x", "base_y", "gripper"], {"action": (0, 1, 2)}),
        (["joint_1", "joint_2"], {"action": (0, 1)}),
        (["wrist_roll", "wrist_yaw"], {"action": (0, 1)}),
        (["a", "b", "x"], {"action": (0, 1, 2)}),
        (None, {"action": (0, 1, 2, 3, 4, 5, 6)}),
        (AXES[:5], {"action": (0, 1, 2, 3, 4, 5, 6)}),
    ],
)
def test_names_tell_the_groups_and_nothing_is_guessed(names, groups):
    size = len(names) if names and names != AXES[:5] else 7
    assert told_groups(size, names) == groups


@pytest.mark.parametrize(
    ("places", "why"), [([0, 7], "which an action of 7 numbers has not"), ([1, 1], "more than once")]
)
def test_groups_of_ones_own_stay_within_the_action(places, why):
    assert chosen_groups(7, {"position": [0, 1]}) == {"position": (0, 1)}
    with pytest.raises(ConfigurationError, match=why):
        chosen_groups(7, {"position": places})
