"""The toy suite of `toy_world`, slowed down or crashing, importable by worker processes and by the command line."""

import time
from dataclasses import replace

from toy_world import PointEnvironment, PointSuite


class TroubledEnvironment(PointEnvironment):
    def __init__(self, task, suite):
        super().__init__(task)
        self.suite = suite

    def reset(self, initial_state):
        super().reset(initial_state)
        self.initial_state = initial_state

    def step(self, action):
        time.sleep(self.suite.seconds)
        if self.steps == 3 and [self.task.name, self.initial_state] in self.suite.crashes:
            raise ArithmeticError("the toy simulator is unstable")
        return super().step(action)


class TroubledSuite(PointSuite):
    """``seconds`` per env step; ``crashes``: pairs of task name and initial state."""

    name = "troubled"

    def __init__(
        self, seconds: float = 0.0, crashes: list | None = None, bounded: bool = True, render_profile: str = "plain"
    ):
        super().__init__(render_profile)
        self.seconds, self.crashes, self.bounded = seconds, crashes or [], bounded

    @property
    def spec(self):
        spec = super().spec
        if self.bounded:
            return spec
        return replace(spec, action_high=(1.0, float("inf")))

    def make_environment(self, task):
        return TroubledEnvironment(task, self)
