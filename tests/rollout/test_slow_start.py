"""A worker that is slow to start does not hang."""

import time

from toy_suite import ToyPolicy, ToySuite, comparable, requests

from vla_cl.rollout.engine import Engine


class SlowToArrive(ToySuite):
    def __setstate__(self, state):
        time.sleep(4.0)
        self.__dict__.update(state)


def run(suite, **settings):
    with Engine(suite, workers=1, slots_per_worker=2, replan_every=3, **settings) as engine:
        return engine.run(ToyPolicy(), requests(states=1), progress=False)


def test_the_deadline_of_a_command_is_not_that_of_the_start():
    assert comparable(run(SlowToArrive(), deadline=3.0, max_attempts=1)) == comparable(run(ToySuite()))
