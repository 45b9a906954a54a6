"""Meta-World's quick steps and resets against the stock simulation: the same bits."""

import gymnasium
import numpy as np
import pytest

from vla_cl.envs.metaworld import MetaWorld, _build_simulation, _Snapshot
from vla_cl.envs.metaworld_evaluation import RotationMatrix, _make_tolerance, hstack, norm
from vla_cl.envs.metaworld_tasks import INSTRUCTIONS
from vla_cl.envs.rendering import choose_gl_backend

choose_gl_backend()
pytestmark = pytest.mark.filterwarnings("ignore:Constant")  # the scripted experts exceed the range on purpose
SUITE = MetaWorld()
CHUNK = 50
SAME = (
    "qpos",
    "qvel",
    "ctrl",
    "mocap_pos",
    "mocap_quat",
    "qacc_warmstart",
    "xpos",
    "geom_xpos",
    "site_xpos",
    "cam_xmat",
)


class Stock:
    """An unmodified simulation, brought to an initial state as a new one would be."""

    def __init__(self, name: str) -> None:
        self.simulation = _build_simulation(f"{name}-v3")
        self._fresh = _Snapshot(self.simulation)

    def reset(self, seed: int) -> np.ndarray:
        self._fresh.restore(self.simulation)
        self.simulation.seed(seed)
        return self.simulation.reset(seed=seed)[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        observation, reward, _, _, info = self.simulation.step(action)
        return observation, float(reward), bool(info["success"])


def assert_same_world(environment, stock) -> None:
    for key in SAME:
        ours, theirs = (getattr(simulation.data, key) for simulation in (environment._simulation, stock.simulation))
        assert np.array_equal(ours, theirs), key


def stock_chunk(stock, observation, policy, noise, random):
    """Actions of an expert (or of chance) and what the stock simulation makes of them, until its limit."""
    actions, results = [], []
    while len(actions) < CHUNK and stock.simulation.curr_path_length < stock.simulation.max_path_length:
        wanted = policy.get_action(observation.copy()) if policy is not None else np.zeros(4)
        action = np.clip(wanted, -1, 1) + (random.normal(0, noise, 4) if noise else 0)
        actions.append(action.astype(np.float32))
        results.append(stock.step(actions[-1]))
        observation = results[-1][0]
    return np.array(actions), results


def compare_episode(environment, stock, seed: int, policy, noise: float, steps: int) -> None:
    """Whole chunks side by side. Episodes go on after success, which the environment does not remember."""
    random = np.random.default_rng(seed)
    environment.reset(seed)
    observation = stock.reset(seed)
    assert_same_world(environment, stock)
    assert np.array_equal(environment.raw_observation, observation)
    for _ in range(steps // CHUNK):
        actions, results = stock_chunk(stock, observation, policy, noise, random)
        done = 0
        while done < len(actions):
            for transition in environment.execute(actions[done:]):
                observation, reward, success = results[done]
                assert (transition.reward, transition.success) == (reward, success)
                done += 1
            assert np.array_equal(environment.raw_observation, observation)
        assert_same_world(environment, stock)


def experts(name: str):
    from metaworld.policies import ENV_POLICY_MAP

    return ENV_POLICY_MAP[f"{name}-v3"]()


@pytest.mark.sim
@pytest.mark.parametrize("name", ["reach", "pick-place", "drawer-open", "stick-pull", "faucet-close"])
def test_chunks_give_the_bits_of_stock_steps(name):
    environment, stock = SUITE.make_environment(SUITE.task(name)), Stock(name)
    compare_episode(environment, stock, 1000, experts(name), 0.0, 150)
    compare_episode(environment, stock, 1001, None, 0.7, 50)
    compare_episode(environment, stock, 1000, experts(name), 0.3, 50)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(INSTRUCTIONS))
def test_whole_episodes_of_every_task_give_the_bits_of_stock_steps(name):
    environment, stock = SUITE.make_environment(SUITE.task(name)), Stock(name)
    for seed in (1000, 1001, 100_000):
        compare_episode(environment, stock, seed, experts(name), 0.0, 500)
    compare_episode(environment, stock, 1000, experts(name), 0.3, 500)
    compare_episode(environment, stock, 1002, None, 0.7, 500)


@pytest.mark.sim
@pytest.mark.filterwarnings("ignore:.*:UserWarning:gymnasium")
@pytest.mark.parametrize("name", ["push", "window-open", "peg-insert-side"])
def test_chunks_equal_a_gym_make_loop(name):
    import metaworld  # noqa: F401 - registers the environments

    peer = gymnasium.make("Meta-World/MT1", env_name=f"{name}-v3", seed=42)
    peer.reset()
    world = peer.unwrapped
    world._freeze_rand_vec, world.seeded_rand_vec = False, True
    environment = SUITE.make_environment(SUITE.task(name))
    actions = np.random.default_rng(0).uniform(-1, 1, (2, CHUNK, 4)).astype(np.float32)
    for seed in (1000, 1001):  # an environment used again on both sides
        world.seed(seed)
        world.reset()
        environment.reset(seed)
        for chunk in actions:
            for action, transition in zip(chunk, environment.execute(chunk), strict=True):
                observation, reward, _, _, info = peer.step(action)
                assert (transition.reward, transition.success) == (float(reward), bool(info["success"]))
            assert np.array_equal(environment.raw_observation, observation)
    peer.close()


@pytest.mark.sim
def test_one_by_one_or_at_once_is_the_same():
    once, single = (SUITE.make_environment(SUITE.task("door-open")) for _ in range(2))
    actions = np.random.default_rng(1).uniform(-1, 1, (CHUNK, 4)).astype(np.float32)
    for seed in (1000, 1001, 1000):
        once.reset(seed)
        single.reset(seed)
        assert list(once.execute(actions)) == [single.step(action) for action in actions]
        assert np.array_equal(once.raw_observation, single.raw_observation)


@pytest.mark.sim
def test_execution_stops_where_the_episode_ends():
    suite = MetaWorld(max_steps=70)
    environment = suite.make_environment(suite.task("reach"))
    environment.reset(1000)
    still = np.zeros((CHUNK, 4), dtype=np.float32)
    assert len(environment.execute(still[:0])) == 0
    assert [transition.ended for transition in environment.execute(still)] == [False] * CHUNK
    assert [transition.ended for transition in environment.execute(still)] == [False] * 19 + [True]
    with pytest.raises(RuntimeError, match="time limit of 70"):
        environment.execute(still)


@pytest.mark.sim
@pytest.mark.parametrize("actions", [np.zeros((3, 5), np.float32), np.zeros(4, np.float32)])
def test_actions_of_another_shape_are_errors(actions):
    environment = SUITE.make_environment(SUITE.task("reach"))
    environment.reset(1000)
    with pytest.raises(ValueError, match="4 finite numbers"):
        environment.execute(actions)


@pytest.mark.sim
def test_the_library_stays_as_it_was():
    from metaworld.envs import sawyer_reach_v3
    from metaworld.sawyer_xyz_env import SawyerXYZEnv
    from metaworld.utils import reward_utils

    kept = dict(vars(SawyerXYZEnv)), dict(vars(sawyer_reach_v3)), dict(vars(reward_utils))
    environment = SUITE.make_environment(SUITE.task("reach"))
    environment.reset(1000)
    environment.execute(np.zeros((5, 4), np.float32))
    assert kept == (dict(vars(SawyerXYZEnv)), dict(vars(sawyer_reach_v3)), dict(vars(reward_utils)))
    assert type(_build_simulation("reach-v3")) is sawyer_reach_v3.SawyerReachEnvV3


@pytest.mark.sim
def test_tolerance_gives_the_bits_and_the_type_of_the_original():
    from metaworld.utils import reward_utils

    fast = _make_tolerance(reward_utils.tolerance)
    random = np.random.default_rng(0)
    for kind in (float, np.float64, np.float32):
        for x, lower, width, margin in random.uniform(0, 1, (2000, 4)):
            arguments = {"bounds": (lower / 2, lower / 2 + width / 4), "margin": margin, "sigmoid": "long_tail"}
            ours, theirs = fast(kind(x), **arguments), reward_utils.tolerance(kind(x), **arguments)
            assert ours == theirs and type(ours) is type(theirs)
    for options in ({"margin": 0.0}, {"margin": 0.3}, {"margin": 0.3, "sigmoid": "long_tail", "value_at_margin": 0.2}):
        assert fast(0.5, bounds=(0, 0.1), **options) == reward_utils.tolerance(0.5, bounds=(0, 0.1), **options)
    with pytest.raises(ValueError, match="non-negative"):
        fast(0.5, margin=-1.0, sigmoid="long_tail")
    with pytest.raises(ValueError, match="Lower bound"):
        fast(0.5, bounds=(1, 0), margin=1.0, sigmoid="long_tail")


def test_norm_and_hstack_give_the_bits_and_the_type_of_the_original():
    random = np.random.default_rng(0)
    odd = [random.normal(size=(3, 3)), np.arange(3), [1.0, 2.0], random.normal(size=8)[::3]]
    for x in [*random.normal(size=(200, 3)), *odd]:
        ours, theirs = norm(x), np.linalg.norm(x)
        assert ours == theirs and type(ours) is type(theirs)
    vector = random.normal(size=3)
    assert norm(vector, ord=2) == np.linalg.norm(vector, ord=2)
    assert norm(vector, ord=1) == np.linalg.norm(vector, ord=1)
    assert np.array_equal(norm(np.eye(3), axis=1), np.ones(3))
    for arrays in [(vector[0], vector[1]), (vector, vector), (vector, 1.0), [vector, vector], (vector,), (1, 2)]:
        ours, theirs = hstack(arrays), np.hstack(arrays)
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_the_quaternion_of_a_matrix_has_the_bits_of_scipy():
    from scipy.spatial.transform import Rotation

    random = np.random.default_rng(0)
    quaternions = random.normal(size=(3000, 4))
    quaternions[::3, :3] *= 1e-3  # nearly upright, as most objects are
    odd = [np.eye(3), np.diag([1.0, -1.0, -1.0]), 1.01 * np.eye(3)]
    for matrix in [*Rotation.from_quat(quaternions).as_matrix(), *odd]:
        assert np.array_equal(RotationMatrix.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat())
    with pytest.raises(ValueError, match="determinant"):
        RotationMatrix.from_matrix(-np.eye(3)).as_quat()
