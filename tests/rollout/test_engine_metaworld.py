import pytest
from toy_suite import ToyPolicy, comparable

from vla_cl.envs.metaworld import IMAGE_KEY, MetaWorld
from vla_cl.rollout.engine import Engine
from vla_cl.types import EpisodeRequest, InterfaceSpec

pytestmark = [pytest.mark.sim, pytest.mark.timeout(120)]


class Wanderer(ToyPolicy):
    """Acts by what it sees, without purpose."""

    camera, action_size = IMAGE_KEY, 4


def test_results_do_not_depend_on_the_layout():
    suite = MetaWorld(image_size=32, render_profile="fast", max_steps=24)
    tasks = [suite.task("reach"), suite.task("drawer-open")]
    states = suite.initial_states("report", 3)
    requests = [EpisodeRequest(task, "report", state, film=state == states[0]) for task in tasks for state in states]
    policy = Wanderer(spec=InterfaceSpec({IMAGE_KEY: (32, 32)}, 4, 4, "fast"))
    with Engine(suite, workers=1, slots_per_worker=1, replan_every=4) as engine:
        expected = engine.run(policy, requests, progress=False)
    with Engine(suite, workers=2, slots_per_worker=2, replan_every=4) as engine:
        episodes = engine.run(policy, requests[::-1], progress=False)
    assert comparable(episodes[::-1]) == comparable(expected)
    assert all(episode.error is None for episode in expected)
    assert {episode.env_steps for episode in expected} == {24}
    assert len({episode.total_reward for episode in expected}) == 6
    film = expected[0].frames
    assert film is not None
    assert film.shape == (6, 256, 256, 3)  # 80 env steps a second: every fifth, and the last
    assert (film == episodes[-1].frames).all()
