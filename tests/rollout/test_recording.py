import inspect
import json

import numpy as np
import pytest
from toy_suite import CAMERA, ToyPolicy, ToySuite, comparable, requests

from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.interfaces import Environment, Suite
from vla_cl.rollout.engine import Engine
from vla_cl.rollout.recording import RecordingEnvironment, RecordingSuite, piece_path, read_piece, write_recorded
from vla_cl.types import Outcome


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Episodes of the toy suite, one of which crashes at first and one for good, and their files."""
    folder = tmp_path_factory.mktemp("recorded")
    suite = ToySuite(folder, {("red", 0): ("raise", 1), ("red", 1): ("kill", 1), ("green", 2): ("raise", 3)})
    with Engine(RecordingSuite(suite, folder / "pieces"), workers=2, slots_per_worker=2, replan_every=4) as engine:
        episodes = engine.run(ToyPolicy(), requests(4), progress=False)
    return suite, episodes, folder


def piece(recorded, episode):
    suite, _, folder = recorded
    task = next(task for task in suite.tasks() if task.id == episode.task)
    return task, read_piece(
        piece_path(folder / "pieces", task.id, episode.initial_state), task, episode.initial_state, suite.spec
    )


def test_recording_changes_no_episode(recorded):
    with Engine(ToySuite(), workers=1, slots_per_worker=1, replan_every=4) as engine:
        plain = comparable(engine.run(ToyPolicy(), requests(4), progress=False))
    found = comparable(recorded[1])
    assert [row[3] for row in found].count(Outcome.ERROR) == 1
    assert [row for row in found if row[3] != Outcome.ERROR] == [
        row for row, crashed in zip(plain, found, strict=True) if crashed[3] != Outcome.ERROR
    ]


def test_the_recorded_actions_lead_through_the_recorded_states_and_pictures(recorded):
    _, episodes, _ = recorded
    for episode in episodes:
        if episode.outcome is Outcome.ERROR:
            continue
        task, trajectory = piece(recorded, episode)
        assert len(trajectory) == episode.env_steps
        assert trajectory.success == (episode.outcome is Outcome.SUCCESS)
        environment = ToySuite().make_environment(task)
        environment.reset(episode.initial_state)
        for state, image, action in zip(trajectory.states, trajectory.images[CAMERA], trajectory.actions, strict=True):
            assert np.array_equal(state, environment.state())
            assert np.array_equal(image, environment.observe().images[CAMERA])
            transition = environment.step(action)
        assert transition.ended
        assert transition.success == trajectory.success


def test_a_crashed_episode_leaves_no_file(recorded):
    _, episodes, folder = recorded
    whole = {piece_path(folder / "pieces", e.task, e.initial_state) for e in episodes if e.outcome is not Outcome.ERROR}
    assert set((folder / "pieces").iterdir()) == whole


def test_the_dataset_holds_the_episodes_in_order(recorded, tmp_path):
    suite, episodes, folder = recorded
    target = tmp_path / "evaluation" / "dataset"
    write_recorded(target, suite, suite.tasks(), episodes, folder / "pieces", "some policy")
    whole = [episode for episode in episodes if episode.outcome is not Outcome.ERROR and episode.env_steps > 1]
    dataset = DatasetFolder(target)
    assert dataset.spec.cameras == suite.spec.cameras
    assert dataset.spec.render_profile == "fast"
    assert dataset.episodes["length"].tolist() == [episode.env_steps for episode in whole]
    expected = [piece(recorded, episode)[1] for episode in whole]
    assert np.array_equal(dataset.column("action"), np.concatenate([t.actions for t in expected]))
    assert np.array_equal(dataset.column("observation.state"), np.concatenate([t.states for t in expected]))
    note = json.loads((target / "meta" / "vla_cl.json").read_text())
    assert [(row["task"], row["initial_state"], row["outcome"]) for row in note["episodes"]] == [
        (episode.task, episode.initial_state, episode.outcome.value) for episode in whole
    ]
    assert note["successful_episodes"] == [i for i, e in enumerate(whole) if e.outcome is Outcome.SUCCESS]
    left_out = [(e.task, e.initial_state) for e in episodes if e not in whole]
    assert [(row["task"], row["initial_state"]) for row in note["left_out"]] == left_out
    assert ("toy/green", 2) in left_out
    assert len(left_out) > 1  # one succeeded in its first env step, which LeRobot's writer cannot hold


def test_stock_lerobot_reads_the_dataset(recorded, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    suite, episodes, folder = recorded
    write_recorded(tmp_path / "e" / "dataset", suite, suite.tasks(), episodes, folder / "pieces", "some policy")
    dataset = LeRobotDataset("a/label", root=tmp_path / "e" / "dataset", video_backend="pyav")
    whole = [episode for episode in episodes if episode.outcome is not Outcome.ERROR and episode.env_steps > 1]
    assert dataset.num_episodes == len(whole)
    task, trajectory = piece(recorded, whole[0])
    frame = dataset[0]
    assert frame["task"] == task.instruction
    assert np.array_equal(frame["action"].numpy(), trajectory.actions[0])
    assert frame[CAMERA].shape == (3, 8, 9)


def test_without_a_whole_episode_there_is_no_dataset(recorded, tmp_path):
    suite, episodes, folder = recorded
    crashed = [episode for episode in episodes if episode.outcome is Outcome.ERROR]
    write_recorded(tmp_path / "dataset", suite, suite.tasks(), crashed, folder / "pieces", "some policy")
    assert not (tmp_path / "dataset").exists()


def test_an_unfinished_episode_is_forgotten(tmp_path):
    suite = RecordingSuite(ToySuite(), tmp_path)
    task = suite.tasks()[0]
    environment = suite.make_environment(task)
    environment.reset(0)
    environment.step(np.ones(2, np.float32))
    environment.reset(1)
    still = np.zeros(2, np.float32)
    steps = len(list(environment.execute(np.tile(still, (100, 1)))))
    assert not piece_path(tmp_path, task.id, 0).exists()
    assert len(read_piece(piece_path(tmp_path, task.id, 1), task, 1, ToySuite().spec)) == steps


def test_an_action_that_changes_later_was_recorded_as_it_was(tmp_path):
    environment = RecordingSuite(ToySuite(), tmp_path).make_environment(task := ToySuite().tasks()[0])
    environment.reset(1)
    action = np.zeros(2, np.float32)
    while not environment.step(action).ended:
        action += 0.01
    actions = read_piece(piece_path(tmp_path, task.id, 1), task, 1, ToySuite().spec).actions
    assert len(np.unique(actions[:, 0])) == len(actions)


@pytest.mark.parametrize(
    ("interface", "wrapper", "inherited"),
    [(Suite, RecordingSuite, set()), (Environment, RecordingEnvironment, {"execute"})],
)
def test_everything_of_the_interface_is_passed_on(interface, wrapper, inherited):
    """A method with a default of its own would silently hide that of the wrapped suite."""
    public = {name for name, _ in inspect.getmembers(interface) if not name.startswith("_")}
    assert {name for name in public if getattr(wrapper, name) is getattr(interface, name)} == inherited
