"""Meta-World with pictures: the same pixels as stock LeRobot's wrapper, and what the render profiles do."""

import numpy as np
import pytest

from vla_cl.envs.metaworld import MetaWorld
from vla_cl.envs.metaworld_tasks import INSTRUCTIONS
from vla_cl.envs.rendering import choose_gl_backend
from vla_cl.types import Transition

choose_gl_backend()
pytestmark = pytest.mark.sim


def assert_same(theirs: dict, environment) -> None:
    ours = environment.observe()
    assert np.array_equal(ours.images["observation.image"], theirs["pixels"])
    assert np.array_equal(ours.state, theirs["agent_pos"].astype(np.float32))


@pytest.mark.parametrize("name", ["drawer-open", "push"])
def test_the_same_world_and_pixels_as_stock_lerobot(name):
    from lerobot.envs.metaworld import MetaworldEnv

    suite = MetaWorld(image_size=480)
    environment = suite.make_environment(suite.task(name))
    random = np.random.default_rng(0)
    for seed in (1000, 1001):  # our environment is used again, LeRobot's is new
        stock = MetaworldEnv(f"{name}-v3", obs_type="pixels_agent_pos")
        theirs, _ = stock.reset(seed=seed)
        environment.reset(seed)
        assert_same(theirs, environment)
        assert stock.task_description == environment.observe().instruction
        for _ in range(3):
            action = random.uniform(-1.5, 1.5, 4).astype(np.float32)
            theirs, reward, *_ = stock.step(action)
            transition = environment.step(action)
            assert_same(theirs, environment)
            assert transition.reward == float(reward)
        stock.close()
    environment.close()


@pytest.fixture
def blind_stock(monkeypatch):
    """LeRobot's wrapper, spared the rendering."""
    from lerobot.envs.metaworld import MetaworldEnv

    monkeypatch.setattr(MetaworldEnv, "_format_raw_obs", lambda self, raw: {"agent_pos": raw})
    return MetaworldEnv


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(INSTRUCTIONS))
def test_every_task_used_again_is_the_same_world_as_a_new_stock_one(name, blind_stock):
    suite = MetaWorld()
    task = suite.task(name)
    environment, expert = suite.make_environment(task), suite.make_expert(task)
    environment.reset(1000)
    for _ in range(30):
        environment.step(expert.act(environment))
    stock = blind_stock(f"{name}-v3", obs_type="pixels_agent_pos")
    theirs, _ = stock.reset(seed=1001)
    environment.reset(1001)
    for _ in range(30):
        ours = environment._simulation.data
        for key in ("qpos", "qvel", "mocap_pos", "qacc_warmstart", "xpos", "geom_xpos", "site_xpos", "cam_xmat"):
            assert np.array_equal(getattr(ours, key), getattr(stock._env.data, key)), key
        assert np.array_equal(environment.raw_observation, theirs["agent_pos"])
        action = expert.act(environment)
        theirs, reward, terminated, *_ = stock.step(action)
        assert environment.step(action) == Transition(float(reward), terminated, ended=terminated)
        if terminated:
            break


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(INSTRUCTIONS))
def test_every_task_renders_and_moves(name):
    suite = MetaWorld(64, "fast")
    environment = suite.make_environment(suite.task(name))
    environment.reset(1000)
    first = environment.observe().images["observation.image"]
    environment.execute(np.tile(np.array([0.5, 0.5, 0.5, 1], np.float32), (20, 1)))
    later = environment.observe().images["observation.image"]
    assert first.shape == (64, 64, 3) and first.std() > 20
    assert (np.abs(first.astype(int) - later) > 20).any(axis=-1).sum() > 20
    environment.close()


def test_the_same_success_at_the_same_step_as_stock_lerobot(blind_stock):
    suite = MetaWorld()
    task = suite.task("drawer-open")
    environment, expert = suite.make_environment(task), suite.make_expert(task)
    stock = blind_stock("drawer-open-v3", obs_type="pixels_agent_pos")
    stock.reset(seed=1003)
    environment.reset(1003)
    for _ in range(task.max_steps):
        action = expert.act(environment)
        theirs, reward, terminated, _, info = stock.step(action)
        transition = environment.step(action)
        assert (transition.reward, transition.success) == (float(reward), info["is_success"])
        assert np.array_equal(environment.raw_observation, theirs["agent_pos"])
        if transition.ended:
            break
    assert transition.success and terminated
    stock.close()


@pytest.mark.parametrize("profile", ["reference", "fast"])
def test_pictures_do_not_depend_on_the_past(profile):
    suite = MetaWorld(48, profile)
    environment = suite.make_environment(suite.task("push"))
    environment.reset(1000)
    first = environment.observe().images["observation.image"]
    film = environment.film()
    for _ in range(5):
        environment.step(np.ones(4, np.float32))
    moved = environment.observe().images["observation.image"]
    environment.reset(1000)
    again = environment.observe().images["observation.image"]
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert film.shape == (256, 256, 3) and film.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, moved)
    assert np.array_equal(environment.film(), film)
    environment.close()
    environment.close()


def test_profiles_look_different_and_the_size_is_free():
    pictures = {}
    for profile in ("reference", "fast"):
        suite = MetaWorld(64, profile)
        environment = suite.make_environment(suite.task("reach"))
        environment.reset(1000)
        pictures[profile] = environment.observe().images["observation.image"].astype(float)
        environment.close()
    difference = np.abs(pictures["reference"] - pictures["fast"]).mean()
    assert 1 < difference < 30


def test_a_step_does_not_render():
    suite = MetaWorld()
    environment = suite.make_environment(suite.task("reach"))
    environment.reset(1000)
    environment.step(np.zeros(4, np.float32))
    assert environment._renderer is None
