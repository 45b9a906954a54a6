"""Environments registered the LeRobot way as suites: what a policy sees and does equals stock ``lerobot-eval``."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from vla_cl.config.compose import build, compose
from vla_cl.envs.lerobot_gym import LeRobotGym
from vla_cl.interfaces import Policy, Suite
from vla_cl.rollout.engine import Engine
from vla_cl.types import ConfigurationError, EpisodeRequest, InterfaceSpec, Outcome

PLUGIN = {"module": "third_party", "plugins": ["third_party"]}


class Stock:
    """The part of ``lerobot-eval``'s rollout that makes environments, observes and steps."""

    def __init__(self, suite, group, index=0):
        from lerobot.envs.factory import make_env, make_env_pre_post_processors

        self.vector = make_env(suite.configuration, n_envs=1)[group][index]
        self.before, self.after = make_env_pre_post_processors(suite.configuration, policy_cfg=None)

    def reset(self, seed):
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        return self._seen(self.vector.reset(seed=[seed], options={NEW_ROLLOUT_OPTION: True})[0])

    def step(self, action):
        action = self.after({"action": torch.from_numpy(action[None])})["action"].numpy()
        raw, reward, terminated, truncated, info = self.vector.step(action)
        success = info["final_info"]["is_success"][0] if "final_info" in info else info["is_success"][0]
        return self._seen(raw), float(reward[0]), bool(success), bool(terminated[0] | truncated[0])

    def _seen(self, raw):
        from lerobot.envs.utils import preprocess_observation

        observed = preprocess_observation(raw)
        try:
            observed["task"] = list(self.vector.call("task_description"))
        except AttributeError:
            observed["task"] = [""]
        return self.before(observed)


def assert_same_observation(observation, stock):
    pictures = {key for key in stock if key.startswith("observation.image")}
    assert observation.images.keys() == pictures
    for key in pictures:
        given_to_the_policy = torch.from_numpy(observation.images[key]).permute(2, 0, 1).float().div_(255)
        assert torch.equal(given_to_the_policy, stock[key][0])
    assert observation.state.dtype == np.float32
    assert np.array_equal(observation.state, stock["observation.state"][0].numpy())
    assert [observation.instruction] == stock["task"]


def compare(suite, task, group, index, seeds, steps, policy):
    """Step both side by side to the end; the successes seen."""
    environment, stock = suite.make_environment(task), Stock(suite, group, index)
    successes = 0
    for seed in seeds:
        environment.reset(seed)
        seen = stock.reset(seed)
        for number in range(steps):
            assert_same_observation(environment.observe(), seen)
            action = policy(environment, number)
            transition = environment.step(action)
            seen, reward, success, ended = stock.step(action)
            assert (transition.reward, transition.success, transition.ended) == (reward, success, ended)
            successes += success
            if ended:
                break
    environment.close()
    stock.vector.close()
    return successes


def test_pusht_is_what_lerobot_eval_shows():
    suite = LeRobotGym("pusht", {"episode_length": 25})
    (task,) = suite.tasks()
    assert (task.id, task.instruction, task.max_steps) == ("pusht/PushT-v0", "", 25)
    assert suite.configuration.features["pixels"].shape == (384, 384, 3)
    assert suite.spec.cameras == {"observation.image": (96, 96)}, "what it shows, not what LeRobot's features say"
    random = np.random.default_rng(0)

    def policy(environment, number):
        return random.uniform(0, 512, 2).astype(np.float32)

    compare(suite, task, "pusht", 0, seeds=[1000, 1001], steps=30, policy=policy)


def test_pusht_success_is_lerobots():
    suite = LeRobotGym("pusht")
    environment, stock = suite.make_environment(suite.tasks()[0]), Stock(suite, "pusht")
    environment.reset(0)
    stock.reset(0)
    for world in (environment._gym.unwrapped, stock.vector.envs[0].unwrapped):
        world.block.angle, world.block.position = np.pi / 4, (256, 256)  # where it belongs
    action = environment.state()
    transition = environment.step(action)
    _, reward, success, ended = stock.step(action)
    assert (transition.reward, transition.success, transition.ended) == (reward, success, ended) == (1.0, True, True)
    environment.close()
    stock.vector.close()


@pytest.mark.parametrize("kind", ["slider", "sliders"])
def test_a_third_partys_environments_are_what_lerobot_eval_shows(kind):
    suite = LeRobotGym(kind, **PLUGIN)

    def policy(environment, number):
        return np.array([0.7, -0.5], np.float32) if number else np.array([-0.3, 0.1], np.float32)

    names = {"slider": ["slider/Slide-v0"], "sliders": ["sliders/right-0", "sliders/right-1", "sliders/left-0"]}
    assert [task.id for task in suite.tasks()] == names[kind]
    places = {"slider": [("slider", 0)], "sliders": [("right", 0), ("right", 1), ("left", 0)]}
    successes = [
        compare(suite, task, group, index, seeds=[1000, 5], steps=20, policy=policy)
        for task, (group, index) in zip(suite.tasks(), places[kind], strict=True)
    ]
    assert successes == {"slider": [2], "sliders": [2, 2, 0]}[kind]


def test_spec_of_environments_with_a_processor_of_their_own_is_what_comes_out_of_it():
    spec = LeRobotGym("sliders", **PLUGIN).spec
    assert spec.cameras == {"observation.images.top": (10, 12), "observation.images.wrist": (10, 12)}
    assert (spec.state_size, spec.action_size, spec.fps) == (1, 2, 20)
    assert (spec.action_low, spec.action_high) == ((-2.0, -2.0), (2.0, 2.0))
    assert spec.control_mode == "absolute"
    assert LeRobotGym("sliders", **PLUGIN, control_mode="relative").spec.control_mode == "relative"


def test_pusht_yaml():
    suite = build(compose(["suite=pusht"])["suite"], Suite)
    assert suite.name == "pusht"
    assert suite.spec.cameras == {"observation.image": (96, 96)}
    assert (suite.spec.state_size, suite.spec.action_size, suite.spec.fps) == (2, 2, 10)
    assert (suite.spec.action_low, suite.spec.action_high) == ((0.0, 0.0), (512.0, 512.0))
    assert suite.tasks()[0].max_steps == 300
    asked = LeRobotGym("pusht", suite.fields)
    assert asked.spec.action_high == suite.spec.action_high, "the yaml says what the environment says"
    assert {"gymnasium", "lerobot", "gym_pusht", "fields"} <= suite.fingerprint().keys()


def test_nothing_is_imported_that_is_not_needed():
    script = (
        "import sys\n"
        "from vla_cl.config.compose import build, compose\n"
        "from vla_cl.interfaces import Suite\n"
        "suite = build(compose(['suite=pusht'])['suite'], Suite)\n"
        "assert not {'lerobot', 'torch', 'gymnasium'} & sys.modules.keys()\n"
        "suite.tasks(), suite.spec\n"
        "assert not {'gym_pusht', 'pygame', 'pymunk'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_states_are_disjoint_and_where_lerobot_eval_starts():
    suite = LeRobotGym("pusht")
    splits = {split: set(suite.initial_states(split, 500)) for split in ("train", "select", "report")}
    assert len(set().union(*splits.values())) == 1500
    assert suite.initial_states("report", 2)[:] == range(1000, 1002)
    with pytest.raises(ConfigurationError, match="0 to 99000 initial states in split 'report', asked for 99001"):
        suite.initial_states("report", 99_001)


def test_an_initial_state_is_a_world():
    suite = build(compose(["suite=pusht"])["suite"], Suite)
    environment = suite.make_environment(suite.tasks()[0])
    first, seen = [], []
    for kept in (first, seen):
        environment.reset(7)
        kept.append(environment.observe())
        for step in range(5):
            environment.step(np.array([20.0 * step, 300.0], np.float32))
            kept.append(environment.observe())
        environment.reset(8)
    for one, other in zip(first, seen, strict=True):
        assert np.array_equal(one.images["observation.image"], other.images["observation.image"])
        assert np.array_equal(one.state, other.state)
    assert not np.array_equal(environment.observe().state, first[0].state)
    assert environment.film().shape == (384, 384, 3)
    environment.close()
    environment.close()


@pytest.mark.parametrize("rebuild", [False, True])
def test_an_environment_that_remembers_is_rebuilt_on_request(rebuild):
    suite = LeRobotGym("slider", {"forgetful": True}, **PLUGIN, rebuild=rebuild)
    environment = suite.make_environment(suite.tasks()[0])
    environment.reset(3)
    first = environment.state()
    environment.reset(3)
    assert np.array_equal(environment.state(), first) == rebuild


class Chaser(Policy):
    """Acts by what it sees: a function of picture and state, in the suite's units."""

    module = device = property(lambda self: None)

    def __init__(self, suite):
        self._spec = InterfaceSpec(suite.spec.cameras, suite.spec.state_size, suite.spec.action_size)
        self._low, self._high = np.array(suite.spec.action_low), np.array(suite.spec.action_high)

    @property
    def spec(self):
        return self._spec

    @property
    def chunk_size(self):
        return 4

    def act(self, observations):
        seeds = [[int(image.sum()) for image in o.images.values()] for o in observations]
        draws = np.stack([np.random.default_rng(seed).uniform(0, 1, (4, len(self._low))) for seed in seeds])
        return (self._low + draws * (self._high - self._low)).astype(np.float32)

    def loss(self, batch, draw): ...
    def features(self, batch): ...
    def save(self, folder): ...


def rows(episodes):
    return [(e.task, e.initial_state, e.outcome, e.env_steps, e.decisions, e.total_reward, e.error) for e in episodes]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("suite", "layouts"),
    [
        (LeRobotGym("pusht", {"episode_length": 12}), [(1, 1), (1, 2)]),
        (LeRobotGym("sliders", **PLUGIN), [(1, 2)]),
    ],
    ids=["pusht", "third party"],
)
def test_the_engine_rolls_them_out(suite, layouts):
    requests = [
        EpisodeRequest(task, "report", state, film=state == 1000)
        for task in suite.tasks()
        for state in suite.initial_states("report", 2)
    ]
    results = []
    for workers, slots in layouts:
        with Engine(suite, workers=workers, slots_per_worker=slots, replan_every=2) as engine:
            results.append(engine.run(Chaser(suite), requests, progress=False))
    assert rows(results[0]) == rows(results[-1])
    assert {episode.outcome for episode in results[0]} <= {Outcome.SUCCESS, Outcome.FAILURE}
    assert max(episode.env_steps for episode in results[0]) == 12
    assert results[0][0].frames.shape[3] == 3


def test_a_suite_can_be_sent_to_a_worker():
    suite = LeRobotGym("sliders", **PLUGIN)
    tasks, spec = suite.tasks(), suite.spec
    sent = pickle.loads(pickle.dumps(suite))  # noqa: S301 - our own
    import third_party

    third_party.built.clear()
    assert (sent.tasks(), sent.spec) == (tasks, spec)
    assert third_party.built == [], "what was asked once is not asked again"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "libero"}, "cannot be used as a suite: it asks questions on the terminal"),
        ({"type": "gym_manipulator"}, "cannot be used as a suite: it steps a robot's own rig"),
        ({"type": "pusht", "fields": {"observation_height": 60_000}}, "a side has 1 to 4096 pixels"),
        ({"type": "pusht", "fields": {"visualization_width": -1}}, "a side has 1 to 4096 pixels"),
        ({"type": "psht"}, "no environment of type 'psht'; did you mean 'pusht'"),
        ({"type": "pusht", "fields": {"observation_hight": 3}}, "'pusht' does not accept these fields.*hight"),
        ({"type": "pusht", "fields": {"obs_type": "environment_state_agent_pos"}}, "shows observation.environment_st"),
        (
            {"type": "pusht", "fields": {"obs_type": "state"}, "instruction": "x"},
            "observation is a ndarray, but LeRobot",
        ),
        ({"type": "aloha", "instruction": "x"}, "'aloha' is not installed .gym_aloha is missing"),
        ({"type": "pusht", "action_range": [3, 1]}, r"action_range is \[smallest, largest\], got \[3, 1\]"),
        ({"type": "remote", **PLUGIN}, "'remote' run code that is downloaded"),
        ({"type": "slider", "module": "third_party.no", "plugins": ["third_party"]}, "'third_party.no', which should"),
        ({"type": "slider", "module": "third_party"}, "'third_party' is not in an allowed package .vla_cl."),
        ({"type": "slider", "module": "os; x", "plugins": ["os; x"]}, "is not in an allowed package"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        suite = LeRobotGym(**settings)
        suite.tasks()
        suite.make_environment(suite.tasks()[0]).reset(0)
        print(suite.spec)


def test_only_the_users_own_list_of_plugins_counts():
    settings = {"name": "s", "class": "vla_cl.envs.lerobot_gym:LeRobotGym", "type": "slider", **PLUGIN}
    with pytest.raises(ConfigurationError, match="'third_party' is not in an allowed package"):
        build(settings, Suite)
    suite = build(settings | {"plugins": []}, Suite, plugins=["third_party"])
    assert suite.tasks()[0].id == "s/Slide-v0"


def test_features_that_are_not_true_are_refused():
    fields = {"features": {"action": {"type": "ACTION", "shape": [3]}, "agent_pos": {"type": "STATE", "shape": [2]}}}
    suite = LeRobotGym("slider", fields, **PLUGIN, instruction="slide", action_range=[-2, 2])
    with pytest.raises(ConfigurationError, match=r"takes actions of the shape \(2,\), its configuration declares"):
        suite.make_environment(suite.tasks()[0])
    fields["features"]["action"]["shape"] = [2]
    suite = LeRobotGym("slider", fields, **PLUGIN, instruction="slide", action_range=[-2, 2])
    environment = suite.make_environment(suite.tasks()[0])
    with pytest.raises(RuntimeError, match="call reset"):
        environment.observe()
    environment.reset(0)
    with pytest.raises(
        ConfigurationError, match=r"shows \(cameras, state size\).*its configuration declares \(\{\}, 2.*set"
    ):
        environment.observe()
    environment.close()
