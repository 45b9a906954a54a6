import errno
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from demonstrated_suite import DemonstratedSuite, SmallSuite
from toy_suite import CAMERA, CAMERAS

from vla_cl.rollout import collect as collect_module
from vla_cl.rollout.collect import collect
from vla_cl.rollout.demonstrations import (
    METADATA,
    Recipe,
    content_key,
    describe,
    read_staged,
    record_episode,
    stage,
    write_dataset,
)
from vla_cl.types import ConfigurationError, SuiteSpec, Trajectory

RED, GREEN, BLUE = DemonstratedSuite().tasks()


def demonstrate(initial_state, **recipe):
    suite = DemonstratedSuite()
    environment, expert = suite.make_environment(RED), suite.make_expert(RED)
    return record_episode(environment, expert, RED, initial_state, suite.spec, Recipe(1, **recipe))


def contents(folder):
    """Hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def about(folder):
    return json.loads((folder / METADATA).read_text())


@pytest.fixture
def lerobot_dataset(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return lambda folder: LeRobotDataset("a/label", root=folder, video_backend="pyav")


def test_an_episode_ends_soon_after_success_and_holds_what_was_seen():
    trajectory, longer = demonstrate(0, hold=0), demonstrate(0, hold=3)
    assert trajectory.success and len(longer) == len(trajectory) + 3
    assert trajectory.images[CAMERA].shape == (len(trajectory), 8, 9, 3)
    environment = DemonstratedSuite().make_environment(RED)
    environment.reset(0)
    first = environment.observe()
    assert np.array_equal(trajectory.images[CAMERA][0], first.images[CAMERA])
    assert np.array_equal(trajectory.states[0], first.state)
    assert np.array_equal(longer.actions[: len(trajectory)], trajectory.actions)


def test_noise_is_executed_but_not_recorded_unless_asked_for():
    expert, executed = demonstrate(1, noise=0.3, hold=0), demonstrate(1, noise=0.3, hold=0, record="executed")
    assert np.array_equal(expert.states, executed.states)
    moved = np.diff(executed.states, axis=0) / 0.1
    assert np.allclose(moved, executed.actions[:-1], atol=1e-5) and not np.allclose(
        moved, expert.actions[:-1], atol=0.1
    )
    assert np.abs(executed.actions).max() <= 1
    quiet = demonstrate(1, noise=0.0), demonstrate(1, noise=0.0, record="executed")
    assert np.array_equal(quiet[0].actions, quiet[1].actions)
    assert not np.array_equal(demonstrate(1, noise=0.3, seed=1, hold=0).states, expert.states)


def test_a_failed_episode_is_not_filmed():
    suite = DemonstratedSuite(hopeless=(0,))
    environment, expert = suite.make_environment(RED), suite.make_expert(RED)
    environment.observe = None
    trajectory = record_episode(environment, expert, RED, 0, suite.spec, Recipe(1))
    assert not trajectory.success and len(trajectory) == 0


def test_an_environment_that_cannot_repeat_itself_is_an_error():
    suite = DemonstratedSuite()
    environment, expert = suite.make_environment(RED), suite.make_expert(RED)
    reset, shift = environment.reset, iter((0, 7))
    environment.reset = lambda state: reset(state + next(shift))
    with pytest.raises(RuntimeError, match="failed when repeated"):
        record_episode(environment, expert, RED, 0, suite.spec, Recipe(1, hold=0))


def test_a_staged_trajectory_comes_back(tmp_path):
    trajectory = demonstrate(3)
    stage(tmp_path / "a" / "3.npz", trajectory)
    back = read_staged(tmp_path / "a" / "3.npz", RED, DemonstratedSuite().spec)
    assert (back.task, back.initial_state, back.success) == (RED, 3, True)
    assert np.array_equal(back.images[CAMERA], trajectory.images[CAMERA])
    assert np.array_equal(back.states, trajectory.states) and np.array_equal(back.actions, trajectory.actions)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["3.npz"]


def test_stock_lerobot_reads_what_is_written(tmp_path, lerobot_dataset):
    suite = DemonstratedSuite(hopeless=(1, 4))
    folders = collect(suite, [RED, GREEN, RED], tmp_path, episodes=4, workers=2, progress=False)
    assert folders[0] == folders[2] != folders[1]
    assert list(tmp_path.rglob(".*")) == []
    data = lerobot_dataset(folders[1])
    assert (data.num_episodes, data.fps, data[0]["task"]) == (4, 30, "reach the green target")
    assert about(folders[1])["initial_states"] == [0, 2, 3, 5]
    assert about(folders[1])["failed_initial_states"] == [1, 4]
    environment, expert = suite.make_environment(GREEN), suite.make_expert(GREEN)
    row = 0
    for state in (0, 2, 3, 5):
        trajectory = record_episode(environment, expert, GREEN, state, suite.spec, Recipe(4))
        for step in range(len(trajectory)):
            sample = data[row]
            assert np.array_equal(sample["action"].numpy(), trajectory.actions[step])
            assert np.array_equal(sample["observation.state"].numpy(), trajectory.states[step])
            image = sample[CAMERA].numpy().transpose(1, 2, 0) * 255
            assert np.abs(image - trajectory.images[CAMERA][step]).max() < 3
            row += 1
    assert row == len(data)


def test_a_second_call_records_nothing(tmp_path, monkeypatch):
    suite = DemonstratedSuite()
    first = collect(suite, [RED], tmp_path, episodes=1, progress=False)
    monkeypatch.setattr(collect_module, "_collect_missing", None)
    assert collect(suite, [RED], tmp_path, episodes=1, progress=False) == first
    for path in (METADATA, "MANIFEST.json"):  # somebody else's dataset has this name
        (first[0] / path).unlink()
    with pytest.raises(ConfigurationError, match="move it away"):
        collect(suite, [RED], tmp_path, episodes=1, progress=False)


@pytest.mark.parametrize(("kind", "error"), [("raise", ArithmeticError), ("kill", RuntimeError)])
def test_an_interrupted_call_continues_and_ends_alike(tmp_path, kind, error):
    whole, marks, broken = tmp_path / "whole", tmp_path / "marks", tmp_path / "broken"
    marks.mkdir()
    hopeless = (0,)
    expected = collect(DemonstratedSuite(hopeless=hopeless), [RED, GREEN], whole, 3, workers=2, progress=False)
    faulty = DemonstratedSuite(marks, {("green", 2): (kind, 1)}, hopeless)
    with pytest.raises(error) as caught:
        collect(faulty, [RED, GREEN], broken, 3, workers=1, progress=False)
    if kind == "raise":
        assert "misbehave" in str(caught.value.__cause__)  # the worker's traceback
    staged = sorted(broken.rglob(".*.staged/[0-9]*.npz"))
    stems = [path.stem for path in staged if ".green" in str(path)]
    assert stems[:2] == ["0", "1"] and "2" not in stems  # a worker may end what it had in hand: 3
    times = {path: path.stat().st_mtime_ns for path in staged}
    folders = collect(faulty, [RED, GREEN], broken, 3, workers=1, progress=False)
    assert all(not path.exists() for path in times)
    assert [contents(folder) for folder in folders] == [contents(folder) for folder in expected]


def test_what_was_staged_is_taken_over_and_what_is_damaged_is_not(tmp_path):
    suite = DemonstratedSuite()
    job = collect_module._Job.plan(suite, RED, tmp_path, Recipe(2))
    for state in (0, 1):
        stage(job.path(state), demonstrate(state), job.description_key)
    job.path(1).write_bytes(b"half")
    job.find_staged(suite.spec)
    assert job.outcomes == {0: True} and not job.path(1).exists() and job.next_state() == 1


def test_the_order_of_arrival_does_not_decide_what_is_tried():
    job = collect_module._Job.plan(DemonstratedSuite(), RED, collect_module.Path("/nowhere"), Recipe(2))
    job.running = {0, 1}
    assert job.next_state() is None
    job.running, job.outcomes = {0}, {1: False}
    assert job.next_state() == 2
    job.running, job.outcomes = {0}, {1: True}
    assert job.next_state() is None and not job.is_recorded()
    job.running, job.outcomes = set(), dict.fromkeys(range(6), False)
    assert job.is_recorded()


def test_an_expert_that_never_succeeds_is_an_error_with_counts(tmp_path):
    suite = DemonstratedSuite(hopeless=range(100))
    with pytest.raises(ConfigurationError, match="toy/red succeeded in 0 of 6 episodes"):
        collect(suite, [RED], tmp_path, episodes=2, progress=False)
    assert [path.suffix for path in (tmp_path / "toy").iterdir()] == [".staged"]  # what was tried is known


def test_too_few_successes_are_kept_with_a_warning(tmp_path, capsys):
    suite = SmallSuite(hopeless=(0, 2))
    (folder,) = collect(suite, [RED], tmp_path, episodes=3, progress=False)
    assert about(folder)["initial_states"] == [1, 3]
    assert "2 demonstrations instead of 3, for 4 initial states were tried" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_dataset(tmp_path):
    def trajectories():
        yield demonstrate(0)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_dataset(tmp_path / "toy" / "red", DemonstratedSuite().spec, trajectories(), {})
    assert list((tmp_path / "toy").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"episodes": 0}, "at least 1, got 0"),
        ({"noise": -0.1}, "from 0 to 10, got -0.1"),
        ({"noise": float("nan")}, "got nan"),
        ({"record": "both"}, "expert, executed, got 'both'"),
        ({"hold": -1}, "from 0, got -1"),
        ({"seed": -1}, "from 0, got -1"),
        ({"workers": 0}, "at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        collect(DemonstratedSuite(), [RED], tmp_path, **{"episodes": 1, "progress": False, **arguments})


def test_the_key_depends_on_all_that_matters():
    suite, recipe = DemonstratedSuite(), Recipe(4)
    variants = [replace(recipe, **change) for change in ({"episodes": 5}, {"noise": 0.0}, {"seed": 1}, {"hold": 1})]
    variants += [recipe, replace(recipe, record="executed")]
    keys = {content_key(describe(suite, task, variant)) for task in (RED, GREEN) for variant in variants}
    keys.add(content_key(describe(suite, replace(RED, instruction="go"), recipe)))
    assert len(keys) == 2 * len(variants) + 1
    assert content_key(describe(suite, RED, recipe)) == content_key(describe(DemonstratedSuite(), RED, Recipe(4)))


def test_a_suite_without_state_is_written_without_state(tmp_path, lerobot_dataset):
    spec = SuiteSpec(CAMERAS, 0, 2, fps=10)
    pictures, actions = np.zeros((5, 8, 9, 3), np.uint8), np.zeros((5, 2), np.float32)
    trajectory = Trajectory(RED, 0, {CAMERA: pictures}, np.zeros((5, 0), np.float32), actions, True)
    write_dataset(tmp_path / "red", spec, [trajectory], {"key": "x"})
    data = lerobot_dataset(tmp_path / "red")
    assert len(data) == 5 and "observation.state" not in data[0]


@pytest.mark.sim
def test_meta_world_demonstrations(tmp_path, lerobot_dataset):
    from vla_cl.envs.metaworld import MetaWorld

    suite = MetaWorld(48, "fast")
    task = suite.task("reach")
    (folder,) = collect(suite, [task], tmp_path, episodes=2, workers=1, progress=False)
    data = lerobot_dataset(folder)
    environment = suite.make_environment(task)
    environment.reset(100_000)
    seen, sample = environment.observe(), data[0]
    error = sample["observation.image"].numpy().transpose(1, 2, 0) * 255 - seen.images["observation.image"]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 48  # what rounding to YUV leaves; half the colours leave 32
    assert np.array_equal(sample["observation.state"].numpy(), seen.state)
    assert (sample["task"], data.fps, data.num_episodes) == (task.instruction, 80, 2)
    assert about(folder)["suite"]["mujoco"] and about(folder)["initial_states"] == [100_000, 100_001]
