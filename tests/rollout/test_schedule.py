import pytest
from toy_suite import ToySuite, requests

from vla_cl.rollout.pool import EnvironmentPool
from vla_cl.rollout.schedule import PendingEpisodes


def test_a_slot_prefers_the_environment_at_hand_then_a_new_task_then_the_longest():
    pending = PendingEpisodes(requests(states=3))  # 0 to 2 red, 3 to 5 green, 6 to 8 blue
    assert pending.take([], []) == 0
    assert pending.take(["toy/blue"], ["toy/red", "toy/blue"]) == 6
    assert pending.take([], ["toy/red", "toy/blue"]) == 3
    assert pending.take(["toy/green"], ["toy/red", "toy/green", "toy/blue"]) == 4
    assert pending.take([], ["toy/red", "toy/green", "toy/blue"]) == 1
    pending.add(1)
    rest = [pending.take(["toy/red"], ["toy/red", "toy/green", "toy/blue"]) for _ in range(5)]
    assert sorted(rest) == [1, 2, 5, 7, 8]
    assert rest[:2] == [2, 1], "what failed comes last"
    assert not pending
    with pytest.raises(IndexError):
        pending.take([], [])


def test_the_pool_closes_what_was_unused_for_longest(tmp_path):
    red, green, blue = ToySuite().tasks()
    pool = EnvironmentPool(ToySuite(tmp_path), capacity=2, memory=2**40)
    environments = {task: pool.take(task) for task in (red, green, blue)}
    for task in (red, green, blue):
        pool.give_back(task, environments[task])
    assert pool.idle_tasks == ("toy/green", "toy/blue")
    assert len(list(tmp_path.glob("closed-*"))) == 1
    assert pool.take(green) is environments[green]
    pool.close()
    assert pool.idle_tasks == ()
    assert len(list(tmp_path.glob("closed-*"))) == 2


def test_the_pool_keeps_within_its_memory(tmp_path):
    red, green, blue = ToySuite().tasks()
    occupied = iter([0, 0, 11, 11, 9])  # asked after something was given back, and again after something was closed
    pool = EnvironmentPool(ToySuite(tmp_path), capacity=None, memory=10, resident=lambda: next(occupied))
    environments = [pool.take(task) for task in (red, green, blue)]
    for task, environment in zip((red, green, blue), environments, strict=True):
        pool.give_back(task, environment)
    assert pool.idle_tasks == ("toy/blue",)
    assert len(list(tmp_path.glob("closed-*"))) == 2
