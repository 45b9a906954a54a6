"""A plug-in's suite is compared with what it declares on a first episode; each fault is told with the method and both
sides."""

from dataclasses import replace

import numpy as np
import pytest
from hanging_suite import HangingSuite
from toy_world import PointEnvironment, PointExpert, PointSuite

from vla_cl.cli.main import main
from vla_cl.rollout.suite_check import check_suite, first_episode
from vla_cl.types import ConfigurationError, Observation, Task, Transition

CAMERA = "observation.image"


def with_spec(**changes):
    class Declaring(PointSuite):
        @property
        def spec(self):
            return replace(super().spec, **changes)

    return Declaring()


def with_world(**methods):
    """The point suite whose environment has these methods instead."""
    environment = type("World", (PointEnvironment,), methods)

    class Suite(PointSuite):
        def make_environment(self, task):
            return environment(task)

    return Suite()


def with_method(**methods):
    return type("Suite", (PointSuite,), methods)()


def observing(image=None, **changes):
    def observe(self):
        seen = PointEnvironment.observe(self)
        return replace(seen, **changes) if image is None else replace(seen, images={CAMERA: image})

    return observe


def forgetting_to_reset(self, initial_state):
    if not hasattr(self, "position"):
        PointEnvironment.reset(self, initial_state)
    self.steps = 0


def drifting(self, initial_state):
    PointEnvironment.reset(self, initial_state)
    type(self).worlds = getattr(type(self), "worlds", 0) + 1
    self.position = self.position + 0.01 * type(self).worlds


def rewarding_by_luck(self, action):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return replace(PointEnvironment.step(self, action), reward=float(type(self).calls))


def raising(self, action):
    raise KeyError("gripper")


class Wild(PointExpert):
    def act(self, environment):
        return np.array([3.0, 0.0], np.float32)


def shared_states(self, split, count):
    return list(range(count))


def twice(self):
    return [Task("point/red", "go to the red side", 20)] * 2


def test_a_good_suite_passes_with_and_without_its_expert():
    first_episode(PointSuite())
    first_episode(PointSuite(), PointSuite().tasks()[2], demonstrated=False)


BLANK = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("suite", "match"),
    [
        (with_spec(state_size=3), r"^PointEnvironment.observe: state must give float32 of shape \(3,\) as in "
         r"spec.state_size; got float32 of shape \(2,\)"),
        (with_spec(action_size=3), r"Declaring.spec.action_low must give action_size=3 numbers; got 2"),
        (with_spec(action_low=(-1.0, 1.0)), "action_low must give numbers below action_high"),
        (with_spec(fps=0), "Declaring.spec.fps must give env steps per second, at least 1; got 0"),
        (with_spec(cameras={"front": (16, 16)}), "spec.cameras must give keys like observation.image .*; got 'front'"),
        (with_spec(cameras={CAMERA: (16, 20)}), r"observation.image must give uint8 of shape \(16, 20, 3\) as in "
         r"spec.cameras; got uint8 of shape \(16, 16, 3\)"),
        (with_spec(cameras={CAMERA: (16, 16), f"{CAMERA}s.wrist": (16, 16)}), r"images must give the cameras of "
         r"Declaring.spec, .*wrist.*; got \['observation.image'\]"),
        (with_method(tasks=twice), "tasks\\(\\) must give each id once; got 'point/red' 2 times"),
        (with_method(tasks=lambda self: []), "tasks\\(\\) must give at least one task"),
        (with_method(initial_states=shared_states), "initial_states must give other states for train, select and"),
        (with_method(make_expert=lambda self, task: Wild()), r"Wild.act must give actions from \(-1.0, -1.0\) to "
         r"\(1.0, 1.0\) as in the spec; got \[3.0, 0.0\]"),
        (with_method(make_environment=lambda self, task: None), "make_environment must give an Environment; got None"),
        (with_world(observe=observing(BLANK.astype(np.float32))), "World.observe: observation.image must give uint8"),
        (with_world(observe=observing(state=np.zeros(2))), "World.observe: state must give float32.*got float64"),
        (with_world(observe=observing(instruction="")), "instruction must give 'go to the red side'; got ''"),
        (with_world(observe=observing(state=np.ones(2, np.float32))), r"World.state must give the state of observe"),
        (with_world(state=lambda self: np.full(2, np.nan, np.float32)), "must give finite numbers"),
        (with_world(film=lambda self: np.zeros((4, 4))), "World.film must give uint8 .*; got float64 of shape"),
        (with_world(step=lambda self, action: None), "World.step must give a Transition; got NoneType"),
        (with_world(step=lambda self, action: Transition(0.0, 1, False)), "step: success must give True or False"),
        (with_world(step=lambda self, action: Transition(np.nan, False, False)), "reward must give a finite number"),
        (with_world(step=raising), r"World.step fails \(KeyError: 'gripper'; test_suite_check.py, line \d+\)"),
        (with_world(reset=forgetting_to_reset), r"World.reset\(0\) must give the same state each time, .* the second"),
        (with_world(reset=drifting), r"World.reset\(0\) must give the same state each time"),
        (with_world(step=rewarding_by_luck), r"step after reset\(0\) must give the same \(success, ended, reward\)"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_the_method_and_both_sides(suite, match):
    with pytest.raises(ConfigurationError, match=match):
        first_episode(suite)


def test_images_that_differ_are_counted():
    def observe(self):
        type(self).seen = getattr(type(self), "seen", 0) + 1
        image = BLANK.copy()
        image[0, 0, 0] = type(self).seen
        return Observation({CAMERA: image}, self.state(), self.task.instruction)

    with pytest.raises(ConfigurationError, match=r"the same observation.image each time; got 1 other values the"):
        first_episode(with_world(observe=observe))


def test_it_is_looked_at_in_a_process_of_its_own(tmp_path):
    check_suite(PointSuite(), PointSuite().tasks()[0], demonstrated=True)
    with pytest.raises(ConfigurationError, match="HangingSuite: the first episode of point/red did not end within"):
        check_suite(HangingSuite(str(tmp_path)), PointSuite().tasks()[0], demonstrated=False, deadline=3)
    with pytest.raises(ConfigurationError, match="Suite cannot be sent to the processes that simulate"):
        check_suite(with_world(), PointSuite().tasks()[0], demonstrated=True)


BROKEN = """
from dataclasses import replace
from toy_world import PointSuite

class Broken(PointSuite):
    name = "broken"

    @property
    def spec(self):
        return replace(super().spec, state_size=3)
"""


@pytest.mark.parametrize("command", ["train", "collect", "check"])
def test_nothing_is_recorded_of_a_suite_that_is_not_what_it_declares(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_world.py").write_text(BROKEN)
    for group, name, text in (
        ("suite", "broken", "name: broken\nclass: broken_world:Broken\n"),
        ("stream", "broken", "name: broken\nsuite: broken\ntasks: [red, green]\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    typed = ["--conf", "conf", "plugins=broken_world", "suite=broken", "stream=broken", "cache_dir=cache"]
    small = ["policy.image_size=16", "device=cpu", "threads=1"]
    assert main([command, *typed, *small]) == 2
    said = capsys.readouterr().err
    assert "PointEnvironment.observe: state must give float32 of shape (3,)" in said
    assert "Traceback" not in said
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "outputs").exists()
