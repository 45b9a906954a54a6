import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from vla_cl.envs.robosuite import CAMERAS, Robosuite, axis_times_angle, build_simulation, quiet, require_robosuite
from vla_cl.envs.robosuite_core import RobosuiteCore, SamplingClock
from vla_cl.envs.robosuite_recompile import CannotPatch, patch, skeleton
from vla_cl.envs.robosuite_tasks import TASKS
from vla_cl.types import ConfigurationError

FIELDS = ("qpos", "qvel", "ctrl", "act", "qacc", "qacc_warmstart", "mocap_pos", "xfrc_applied", "qfrc_applied")
FIELDS += ("sensordata", "cfrc_ext", "geom_xpos", "site_xmat", "xquat", "cam_xpos")
REMEMBERED = ("qpos", "actions", "torques", "ee_forcetorques", "ee_pose", "ee_vel", "ee_acc")
CONTROLLER = ("goal_pos", "goal_ori", "ee_pos", "ee_ori_mat", "initial_joint", "torques", "joint_pos", "mass_matrix")
SIZE = 64


def stock(name, images=False):
    """robosuite's own environment, rendering as it does."""
    require_robosuite()
    import robosuite

    with quiet():
        return robosuite.make(
            name,
            robots="Panda",
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            has_renderer=False,
            has_offscreen_renderer=images,
            use_camera_obs=images,
            camera_names=list(CAMERAS.values()),
            camera_heights=SIZE,
            camera_widths=SIZE,
            control_freq=20,
            ignore_done=True,
            hard_reset=True,
        )


def everything(environment):
    data, robot = environment.sim.data._data, environment.robots[0]
    found = {name: np.array(getattr(data, name)) for name in FIELDS}
    found |= {name: np.array(getattr(robot.controller, name), dtype=object) for name in CONTROLLER}
    found |= {"gripper": np.array(getattr(robot.gripper, "current_action", 0)), "time": np.array(data.time)}
    recent = {name: getattr(robot, f"recent_{name}") for name in REMEMBERED}
    found |= {f"{name} now": buffer.current.copy() for name, buffer in recent.items()}
    found |= {f"{name} before": np.array(buffer.last) for name, buffer in recent.items()}
    found |= {"speeds": robot.recent_ee_vel_buffer.buf.copy(), "robot's torques": np.array(robot.torques, dtype=object)}
    model = environment.sim.model._model
    found |= {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "geom_size", "site_rgba")}
    return found


def assert_same(one, other):
    for name, value in everything(one).items():
        np.testing.assert_array_equal(value, everything(other)[name], err_msg=name)


def actions(count, seed=0, size=7):
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (count, size)).astype(np.float32)


def seeded_reset(environment, seed):
    np.random.seed(seed)
    return environment.reset()


def step_both(theirs, ours, count, seed):
    size = theirs.action_dim
    for action in actions(count, seed, size):
        _, reward, _, _ = theirs.step(action)
        assert ours.step(action) == reward
        assert ours.environment._check_success() == theirs._check_success()


@pytest.mark.sim
@pytest.mark.parametrize("name", ["Door", "Lift", "Wipe"])
def test_steps_and_resets_equal_robosuites_own_bit_for_bit(name):
    theirs, ours = stock(name), RobosuiteCore(build_simulation(name))
    for seed in (3, 4, 3):
        seeded_reset(theirs, seed)
        ours.reset(seed)
        assert_same(theirs, ours.environment)
        step_both(theirs, ours, 12, seed)
        assert_same(theirs, ours.environment)


@pytest.mark.sim
@pytest.mark.parametrize("name", ["Door", "Lift", "Stack", "Wipe"])
def test_a_model_that_is_not_compiled_again_equals_one_that_is(name):
    def numbers(model):
        found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}

    theirs, ours = stock(name), RobosuiteCore(build_simulation(name))
    for seed in (0, 1, 2):
        ours.reset(seed)
        model = ours.model if seed else None
    for seed in (3, 1):
        seeded_reset(theirs, seed)
        ours.reset(seed)
        assert ours.model is model, "compiled again"
        expected, found = numbers(theirs.sim.model._model), numbers(ours.model)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        for key in ("meaninertia", "meanmass", "meansize", "extent", "center"):
            np.testing.assert_array_equal(getattr(ours.model.stat, key), getattr(theirs.sim.model._model.stat, key))


def test_what_is_not_a_difference_of_numbers_has_to_be_compiled():
    require_robosuite()
    import mujoco

    text = '<mujoco><worldbody><body name="a"><geom name="g" size="{}"/>{}</body></worldbody></mujoco>'
    before = skeleton(text.format(1, ""))
    model = mujoco.MjModel.from_xml_string(text.format(1, ""))
    patch(model, before, skeleton(text.format(2, "")))
    assert model.geom_size[0, 0] == 2
    with pytest.raises(CannotPatch, match="another number of geoms"):
        patch(model, before, skeleton(text.format(2, '<geom size="1"/>')))


def remembered(environment):
    """What all of robosuite's Python objects that an environment leads to hold: numbers, texts and arrays, by path."""
    found, seen, waiting = {}, set(), [("environment", environment)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, np.ndarray | np.generic | int | float | str | bool | None):
            found[path] = np.array(one)
        elif id(one) not in seen:
            seen.add(id(one))
            parts = {}
            if isinstance(one, dict):
                parts = one
            elif isinstance(one, list | tuple):
                parts = dict(enumerate(one))
            elif type(one).__module__.startswith("robosuite.") and "binding_utils" not in type(one).__module__:
                parts = vars(one)
            waiting += [(f"{path}/{name}", part) for name, part in sorted(parts.items(), key=lambda item: str(item[0]))]
    # drawn when somebody looks; what pictures and states are made of is compared with robosuite's observables below
    return {path: value for path, value in found.items() if "/_observables/" not in path and "/_obs_cache/" not in path}


@pytest.mark.sim
@pytest.mark.parametrize("name", ["PickPlaceCan", "Stack", "Wipe"])
def test_a_soft_reset_leaves_nothing_of_the_past_in_any_python_object(name):
    theirs, ours = build_simulation(name), RobosuiteCore(build_simulation(name))
    ours.reset(11)
    for action in actions(8, size=theirs.action_dim):
        ours.step(action)
    for seed in (12, 13):
        ours.reset(seed)
    seeded_reset(theirs, 13)
    expected, found = remembered(theirs), remembered(ours.environment)
    assert expected.keys() == found.keys() and len(found) > 400
    for path, value in expected.items():
        np.testing.assert_array_equal(value, found[path], err_msg=path)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name", [robosuite_class for robosuite_class, _ in TASKS.values()])
def test_five_hundred_steps_of_every_task(name):
    theirs, ours = stock(name), RobosuiteCore(build_simulation(name))
    for seed, count in ((0, 50), (1, 500)):
        seeded_reset(theirs, seed)
        ours.reset(seed)
        assert_same(theirs, ours.environment)
        step_both(theirs, ours, count, seed)
        assert_same(theirs, ours.environment)


@pytest.mark.sim
@pytest.mark.parametrize("name", ["pick-place-can", "lift"])
def test_what_a_policy_sees_equals_robosuites_observables(name):
    theirs = stock(TASKS[name][0], images=True)
    suite = Robosuite(image_size=SIZE)
    ours = suite.make_environment(suite.task(name))
    for seed in (7, 8):
        theirs.sim._render_context_offscreen.gl_ctx.make_current()  # robosuite takes it for granted
        seen = seeded_reset(theirs, seed)
        ours.reset(seed)
        for action in [None, *actions(4, seed)]:
            if action is not None:
                theirs.sim._render_context_offscreen.gl_ctx.make_current()
                seen = theirs.step(action)[0]
                ours.step(action)
            observation = ours.observe()
            for key, camera in CAMERAS.items():
                np.testing.assert_array_equal(observation.images[key], seen[f"{camera}_image"][::-1])
            np.testing.assert_array_equal(observation.state[:3], seen["robot0_eef_pos"].astype(np.float32))
            np.testing.assert_array_equal(observation.state[6:], seen["robot0_gripper_qpos"].astype(np.float32))
            turn = axis_times_angle(seen["robot0_eef_quat"].astype(np.float32))
            np.testing.assert_array_equal(observation.state[3:6], turn)
    ours.close()


def test_axis_times_angle_is_lerobots():
    import torch
    from lerobot.processor.env_processor import LiberoProcessorStep

    quaternions = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    quaternions[0] = 0, 0, 0, 1
    expected = LiberoProcessorStep()._quat2axisangle(torch.from_numpy(quaternions)).numpy()
    found = np.stack([axis_times_angle(quaternion) for quaternion in quaternions])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_clock_counts_as_robosuite_does():
    clock = SamplingClock(1 / 20, 0.002)
    clock.restart(forced=1)
    assert [number for number in range(1, 101) if clock.tick()] == [25, 50, 75, 100]


@pytest.mark.sim
def test_the_global_generator_is_left_alone():
    suite = Robosuite(image_size=32)
    np.random.seed(5)
    expected = np.random.uniform(size=3)
    np.random.seed(5)
    environment = suite.make_environment(suite.task("door"))
    environment.reset(1000)
    environment.step(actions(1)[0])
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)
    environment.close()


@pytest.mark.sim
@pytest.mark.parametrize("name", ["door", "lift"])
def test_an_episode_does_not_depend_on_what_came_before(name):
    suite = Robosuite(image_size=48, render_profile="fast")
    used, new = (suite.make_environment(suite.task(name)) for _ in range(2))
    used.reset(1007)
    for action in actions(10):
        used.step(action)
    used.observe()
    for environment in (used, new):
        environment.reset(1003)
    for action in [*actions(3, seed=1), None]:
        one, other = used.observe(), new.observe()
        assert all((one.images[camera] == other.images[camera]).all() for camera in CAMERAS)
        assert (one.state == other.state).all()
        if action is not None:
            assert used.step(action) == new.step(action)
    assert_same(used.core.environment, new.core.environment)
    used.close()
    new.close()


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_builds_steps_and_renders(name):
    suite = Robosuite(image_size=64, render_profile="fast")
    environment = suite.make_environment(suite.task(name))
    environment.reset(suite.initial_states("report", 1)[0])
    environment.step(np.zeros(7, np.float32))
    observation = environment.observe()
    assert observation.state.shape == (8,)
    assert all(image.shape == (64, 64, 3) and image.std() > 5 for image in observation.images.values())
    assert environment.film().shape == (256, 256, 3)
    environment.close()


def test_importing_robosuite_says_nothing_even_when_it_is_compiled_for_the_first_time():
    code = "from vla_cl.envs.robosuite import require_robosuite; require_robosuite()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    package = Path(importlib.util.find_spec("robosuite").origin).parent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            for source in package.rglob("*.py"):
                compile(source.read_text(), source.name, "exec")


@pytest.mark.sim
def test_steps_print_nothing(capfd):
    suite = Robosuite()
    environment = suite.make_environment(suite.task("wipe"))
    environment.reset(1000)
    robot = environment.core.environment.robots[0]
    limits = environment.core.model.jnt_range
    limits[robot._ref_joint_indexes[0]] = environment.core.data.qpos[robot._ref_joint_pos_indexes[0]]
    limits[robot._ref_joint_indexes[0]][1] += 0.01  # so that this joint is near its limit
    environment.step(np.zeros(7, np.float32))
    assert robot.check_q_limits() and "Joint limit" in capfd.readouterr().out
    environment.step(np.zeros(7, np.float32))
    assert capfd.readouterr().out == ""
    environment.close()


def test_names_states_and_arguments():
    suite = Robosuite()
    assert [task.name for task in suite.tasks()] == sorted(TASKS)
    assert suite.task("robosuite/lift") == suite.task("lift")
    with pytest.raises(ConfigurationError, match="did you mean 'lift'"):
        suite.task("Lifts")
    splits = [set(suite.initial_states(split, 5000)) for split in ("train", "select", "report")]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    with pytest.raises(ConfigurationError, match="asked for -1"):
        suite.initial_states("report", -1)
    with pytest.raises(ConfigurationError, match="image_size"):
        Robosuite(image_size=3)
    with pytest.raises(ConfigurationError, match="max_steps"):
        Robosuite(max_steps=0)


@pytest.mark.sim
def test_bad_actions_and_steps_after_the_end_are_refused():
    suite = Robosuite(max_steps=2)
    environment = suite.make_environment(suite.task("door"))
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step(np.zeros(7, np.float32))
    environment.reset(1000)
    with pytest.raises(ValueError, match="7 finite numbers"):
        environment.step(np.full(7, np.nan, np.float32))
    assert not environment.step(np.zeros(7, np.float32)).ended
    assert environment.step(np.zeros(7, np.float32)).ended
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step(np.zeros(7, np.float32))
    environment.close()
