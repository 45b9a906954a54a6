"""A dataset whose pictures are turned against the suite's is refused; one that is right, or cannot be told, is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from turned_world import SceneSuite

from vla_cl.config.compose import compose
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.data.source import Source
from vla_cl.envs.metaworld import MetaWorld
from vla_cl.rollout.demonstrations import write_dataset
from vla_cl.rollout.orientation import AS_IT_IS, SUITE_PICTURES, TURNS, check_orientation, judge
from vla_cl.run import root as run
from vla_cl.types import ConfigurationError, Trajectory

CONF = Path(__file__).parents[1] / "conf"
TURNED = [turn for turn in TURNS if turn != AS_IT_IS]


def record(suite, task, folder, turn=AS_IT_IS, state=1000, steps=3):
    """A dataset of one short episode, its pictures turned."""
    spec = suite.spec
    environment = suite.make_environment(task)
    environment.reset(state)
    images = {key: [] for key in spec.cameras}
    for _ in range(steps):
        for key, picture in environment.observe().images.items():
            images[key].append(TURNS[turn](picture))
        environment.step(np.zeros(spec.action_size, np.float32))
    environment.close()
    stacked = {key: np.stack(frames) for key, frames in images.items()}
    states = np.zeros((steps, spec.state_size), np.float32)
    actions = np.zeros((steps, spec.action_size), np.float32)
    write_dataset(folder, spec, [Trajectory(task, state, stacked, states, actions, True)], {})
    return folder


def check(suite, task, folder):
    check_orientation(suite, [task], {task.id: [Source(folder, recorded_instruction=task.instruction)]})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The toy scene's datasets, by how they are turned."""
    suite, root = SceneSuite(), tmp_path_factory.mktemp("scenes")
    return {turn: record(suite, suite.tasks()[0], root / str(number), turn) for number, turn in enumerate(TURNS)}


@pytest.mark.parametrize("turn", TURNED)
def test_a_turned_dataset_is_refused_with_names_and_fix(scenes, turn):
    suite = SceneSuite()
    with pytest.raises(ConfigurationError) as caught:
        check(suite, suite.tasks()[0], scenes[turn])
    for words in ("'observation.image'", str(scenes[turn]), f"are {turn}", "'point'", "stream.check_orientation=false"):
        assert words in str(caught.value)


def test_a_right_dataset_passes_in_silence(scenes, capsys):
    suite = SceneSuite()
    check(suite, suite.tasks()[0], scenes[AS_IT_IS])
    assert capsys.readouterr().err == ""
    suite = SceneSuite(image_orientation="upright_mirrored")
    check(suite, suite.tasks()[0], scenes["mirrored (left and right swapped)"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("suite", "why"),
    [
        (SceneSuite(installed=False), "the scene is not installed; run `pip install scene`"),
        (SceneSuite(even=True), "point/red looks much the same turned, to observation.image"),
    ],
    ids=["not installed", "even"],
)
def test_what_cannot_be_told_is_said_in_one_line_and_passes(scenes, suite, why, capsys):
    check(suite, suite.tasks()[0], scenes["upside down"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(f"cannot be checked: {why}\n")


def test_tasks_that_the_suite_does_not_have_are_said_and_start_nothing(scenes, capsys):
    suite = SceneSuite(installed=False)
    own = suite.tasks()[0].__class__("elsewhere/fold", "fold the towel", 0)
    check(suite, own, scenes["upside down"])
    assert capsys.readouterr().err.endswith("cannot be checked: suite 'point' has none of its tasks\n")


def test_the_frame_of_the_task_is_looked_at(tmp_path):
    """In a dataset of several tasks, where only the second is the suite's."""
    suite = SceneSuite()
    first, second = suite.tasks()[:2]
    spec, trajectories = suite.spec, []
    for task, turn in ((first, "upside down"), (second, AS_IT_IS)):
        environment = suite.make_environment(task)
        frames = []
        for state in range(4):
            environment.reset(state)
            frames.append(TURNS[turn](environment.observe().images["observation.image"]))
        zeros = np.zeros((4, 2), np.float32)
        trajectories.append(Trajectory(task, 0, {"observation.image": np.stack(frames)}, zeros, zeros, True))
    write_dataset(tmp_path / "both", spec, trajectories, {})
    check(suite, second, tmp_path / "both")
    with pytest.raises(ConfigurationError, match="upside down"):
        check(suite, first, tmp_path / "both")
    folder = DatasetFolder(tmp_path / "both")
    for row, frame in folder.images("observation.image"):
        assert np.array_equal(folder.image("observation.image", row), frame)


def settings(cache, folder, dataset, *overrides):
    return compose(
        ["plugins=[turned_world]", "suite=point", "suite.class=turned_world:SceneSuite", "policy=tiny", "device=cpu",
         "threads=1", "training.steps=2", "training.batch_size=2", "evaluation.episodes=1", "evaluation.workers=1",
         "evaluation.replan_every=2", "stream=datasets", f"stream.datasets=[{dataset}]", f"cache_dir={cache}",
         f"output_dir={folder}", *overrides],
        folders=[CONF],
    )  # fmt: skip


def test_a_run_refuses_it_before_anything_is_written(scenes, tmp_path):
    dataset = scenes["upside down"]
    with pytest.raises(ConfigurationError, match="upside down"):
        run.train(settings(tmp_path / "cache", tmp_path / "run", dataset))
    assert not (tmp_path / "run").exists()
    override = "stream.check_orientation=false"
    assert run.train(settings(tmp_path / "cache", tmp_path / "run", dataset, override)) == tmp_path / "run"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+suite.control_mode=absolute", "control mode 'relative_position', the suite has 'absolute'"),
        ("+suite.image_orientation=upright_mirrored", "orientation 'upright', the suite has 'upright_mirrored'"),
    ],
)
def test_conventions_travel_from_dataset_to_checkpoint_to_suite(scenes, tmp_path, override, message):
    """Recorded by collect, kept by the checkpoint, compared before the first env step."""
    from vla_cl.models.vla import VlaModel
    from vla_cl.rollout.collect import collect

    suite = SceneSuite()
    (dataset,) = collect(suite, suite.tasks()[:1], tmp_path / "demonstrations", episodes=1, progress=False)
    assert DatasetFolder(dataset).spec.control_mode == "relative_position"
    assert DatasetFolder(dataset).spec.image_orientation == "upright"
    folder = run.train(settings(tmp_path / "cache", tmp_path / "run", dataset))
    policy = folder / "checkpoints" / "001" / "pretrained_model"
    assert json.loads((policy / "vla_cl.json").read_text())["control_mode"] == "relative_position"
    spec = VlaModel.load(policy, "cpu").spec
    assert (spec.render_profile, spec.control_mode, spec.image_orientation) == ("plain", "relative_position", "upright")
    other = ["stream.check_orientation=false", f"warm_start={policy}", "normalisation=checkpoint", override]
    with pytest.raises(ConfigurationError, match=message):
        run.train(settings(tmp_path / "cache", tmp_path / "other", dataset, *other))

    # A policy folder from elsewhere says nothing of it: what the data say, its run says from then on.
    elsewhere = shutil.copytree(policy, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("vla_cl.json"))
    start = f"warm_start={elsewhere}"
    again = run.train(settings(tmp_path / "cache", tmp_path / "again", dataset, other[0], start, other[2]))
    spec = VlaModel.load(again / "checkpoints" / "001" / "pretrained_model", "cpu").spec
    assert (spec.control_mode, spec.image_orientation) == ("relative_position", "upright")
    shutil.rmtree(tmp_path / "cache")


def test_nothing_is_refused_where_everything_lies_at_random():
    """No picture looks like another, so no turn would show in all of them."""
    random = np.random.default_rng(0)
    for _ in range(50):
        pictures = random.integers(0, 256, (SUITE_PICTURES + 1, 24, 24, 3), dtype=np.uint8)
        verdict = judge(pictures[0], pictures[1:])
        assert verdict.turned == verdict.decidable == ()


HARD = ("coffee-push", "peg-insert-side", "reach", "sweep-into", "door-lock")


@pytest.mark.sim
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HARD)
def test_metaworld_pictures_tell_in_every_state_and_look(name):
    """A suite in one look, frames of other initial states and in the other look, turned in every way."""
    fast, reference = (MetaWorld(image_size=48, render_profile=profile) for profile in ("fast", "reference"))
    shown = list(_pictures(fast, name, fast.initial_states("train", SUITE_PICTURES)))
    for suite in (fast, reference):
        for picture in _pictures(suite, name, suite.initial_states("report", 2)):
            for turn, turned in TURNS.items():
                verdict = judge(turned(picture), shown)
                assert set(verdict.decidable) == set(TURNED)
                assert verdict.turned == (() if turn == AS_IT_IS else (turn,))


@pytest.mark.sim
@pytest.mark.timeout(120)
def test_metaworld_datasets_right_and_turned(tmp_path, capsys):
    recorded_with, suite = MetaWorld(image_size=64, render_profile="reference"), MetaWorld(image_size=48)
    task = suite.task("drawer-open")
    check(suite, task, record(recorded_with, task, tmp_path / "right"))
    assert capsys.readouterr().err == ""
    with pytest.raises(
        ConfigurationError, match=r"'observation.image'.* are upside down against those of suite 'metaw"
    ):
        check(suite, task, record(recorded_with, task, tmp_path / "down", "upside down"))


def _pictures(suite, name, states):
    environment = suite.make_environment(suite.task(name))
    for state in states:
        environment.reset(state)
        yield environment.observe().images["observation.image"]
    environment.close()
