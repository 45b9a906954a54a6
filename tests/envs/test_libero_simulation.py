"""LIBERO side by side with LeRobot's own wrapper: every byte of pictures, states and simulation."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from libero_assets import libero_assets  # noqa: F401 - a fixture
from libero_stock import record_stock_episodes, world_of

from vla_cl.envs.libero import FIRST_RANDOM_STATE, FIRST_SEED, Libero
from vla_cl.envs.libero_catalog import SUITES
from vla_cl.envs.libero_package import import_libero

pytestmark = [
    pytest.mark.sim,
    pytest.mark.filterwarnings("ignore"),  # robosuite and lerobot warn while they are imported and closed
]


def random_actions(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 7)).astype(np.float32)


def assert_equal_to_stock(environment, state, moments, actions):
    environment.reset(state)
    transition = None
    for number, moment in enumerate(moments):
        seen = environment.observe()
        assert seen.images.keys() == moment.images.keys()
        for key, picture in seen.images.items():
            assert np.array_equal(picture, moment.images[key]), (state, number, key)
        assert (seen.state.dtype, seen.state.tobytes()) == (moment.state.dtype, moment.state.tobytes()), (state, number)
        assert world_of(environment.core.model, environment.core.data) == moment.world, (state, number)
        if transition is not None:
            assert (transition.reward, transition.success) == (moment.reward, moment.success)
        if number < len(actions):
            transition = environment.step(actions[number])


def compare_with_stock(suite, position, actions, episodes=2):
    import_libero(Path(suite.assets))
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    options = {"control_mode": suite.control_mode, "observation_height": suite.image_size}
    options["observation_width"] = suite.image_size
    stock = record_stock_episodes(suite.name, position, seeds, actions, **options)
    environment = suite.make_environment(suite.tasks()[position])
    try:
        for state in reversed(range(episodes)):  # another order than stock's: the past must not matter
            assert_equal_to_stock(environment, state, stock[state], actions)
    finally:
        environment.close()


def test_an_object_task_equals_stock_lerobot(libero_assets):  # noqa: F811
    compare_with_stock(Libero("libero_object", image_size=128, assets=libero_assets), 0, random_actions(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "position"),
    [("libero_spatial", 4), ("libero_object", 6), ("libero_goal", 7), ("libero_10", 2), ("libero_10", 8)],
)
def test_tasks_of_every_small_suite_equal_stock_lerobot(libero_assets, name, position):  # noqa: F811
    compare_with_stock(Libero(name, assets=libero_assets), position, random_actions(30), episodes=3)


@pytest.mark.slow
def test_absolute_actions_equal_stock_lerobot(libero_assets):  # noqa: F811
    suite = Libero("libero_goal", image_size=128, assets=libero_assets, control_mode="absolute")
    compare_with_stock(suite, 0, random_actions(20) * 0.2)


@pytest.mark.slow
def test_random_placements_equal_stock_lerobot_without_stored_states(libero_assets):  # noqa: F811
    suite = Libero("libero_spatial", image_size=128, assets=libero_assets)
    environment = suite.make_environment(suite.tasks()[4])
    actions = random_actions(5)
    options = {"observation_height": 128, "observation_width": 128, "init_states": False}
    (stock,) = record_stock_episodes("libero_spatial", 4, [FIRST_RANDOM_STATE + 7], actions, **options)
    environment.reset(3)
    assert_equal_to_stock(environment, FIRST_RANDOM_STATE + 7, stock, actions)
    environment.close()


def test_an_episode_leaves_the_global_generator_alone_and_depends_on_its_number_only(libero_assets):  # noqa: F811
    suite = Libero("libero_spatial", image_size=64, render_profile="fast", assets=libero_assets, max_steps=6)
    environment = suite.make_environment(suite.tasks()[4])
    np.random.seed(3)
    expected = np.random.RandomState(3).uniform()

    def fingerprint(state):
        environment.reset(state)
        digest = hashlib.sha256()
        for action in random_actions(6, seed=state):
            seen = environment.observe()
            for part in (*seen.images.values(), seen.state, *world_of(environment.core.model, environment.core.data)):
                digest.update(part if isinstance(part, bytes) else part.tobytes())
            ended = environment.step(action).ended
        assert ended
        return digest.hexdigest()

    first = [fingerprint(state) for state in (0, 44, FIRST_RANDOM_STATE)]
    again = [fingerprint(state) for state in (FIRST_RANDOM_STATE, 0, 44)]
    assert again == [first[2], first[0], first[1]]
    assert len(set(first)) == 3
    assert np.random.uniform() == expected
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step(random_actions(1)[0])
    with pytest.raises(ValueError, match="7 finite numbers"):
        environment.step(np.full(7, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="from 100000 on, got 50"):
        environment.reset(50)
    assert environment.film().shape == (256, 256, 3)
    environment.close()
    environment.close()


def test_a_burner_that_was_turned_on_succeeds_and_is_off_after_a_reset(libero_assets):  # noqa: F811
    suite = Libero("libero_goal", image_size=128, render_profile="fast", assets=libero_assets)
    environment = suite.make_environment(suite.task("turn_on_the_stove"))
    environment.reset(0)
    off = environment.observe()
    still = np.zeros(7, dtype=np.float32)
    assert not environment.step(still).success
    environment.core.environment.sim.data.set_joint_qpos("flat_stove_1_button", 1.0)
    transition = environment.step(still)
    assert (transition.success, transition.reward, transition.ended) == (True, 1.0, True)
    environment.step(still)  # pictures are taken before the burner's colour changes
    on = environment.observe()
    key = "observation.images.image"
    redness = [picture[..., 0].astype(int) - picture[..., 2] for picture in (off.images[key], on.images[key])]
    assert (redness[1] > 120).sum() > (redness[0] > 120).sum() + 10
    environment.reset(0)
    again = environment.observe()
    assert all(np.array_equal(again.images[name], off.images[name]) for name in off.images)
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUITES if name != "libero_90"])
def test_all_tasks_of_the_small_suites_build_step_and_render(libero_assets, name):  # noqa: F811
    suite = Libero(name, image_size=64, render_profile="fast", assets=libero_assets)
    for task in suite.tasks():
        environment = suite.make_environment(task)
        environment.reset(0)
        before = environment.observe()
        environment.step(random_actions(1)[0])
        assert all(picture.std() > 5 for picture in before.images.values()), task.id
        assert np.isfinite(before.state).all()
        assert not environment.step(random_actions(1)[0]).success
        environment.close()
