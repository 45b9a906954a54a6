"""A toy suite with an expert, importable by worker processes: the whole path without a simulator."""

import numpy as np

from vla_cl.interfaces import Environment, Expert, Suite
from vla_cl.types import Observation, SuiteSpec, Task, Transition

SIZE = 16
COLOURS = {"red": 0, "green": 1, "blue": 2}


class PointEnvironment(Environment):
    """A bright square has to reach the middle of the side that belongs to the task."""

    goals = {"red": (-0.7, 0.0), "green": (0.7, 0.0), "blue": (0.0, 0.7)}  # noqa: RUF012

    def __init__(self, task):
        self.task = task
        self.goal = np.asarray(self.goals[task.name])

    def reset(self, initial_state):
        self.position = np.random.default_rng(initial_state).uniform(-0.4, 0.4, 2)
        self.steps = 0

    def step(self, action):
        self.steps += 1
        self.position = np.clip(self.position + 0.2 * np.clip(action, -1, 1).astype(np.float64), -1, 1)
        success = bool(np.linalg.norm(self.position - self.goal) < 0.15)
        return Transition(float(success), success, success or self.steps >= self.task.max_steps)

    def observe(self):
        picture = np.full((SIZE, SIZE, 3), 30, np.uint8)
        row, column = np.round((self.position + 1) / 2 * (SIZE - 3)).astype(int)
        picture[row : row + 3, column : column + 3] = 220
        return Observation({"observation.image": picture}, self.state(), self.task.instruction)

    def state(self):
        return self.position.astype(np.float32)

    def film(self):
        return self.observe().images["observation.image"]

    def close(self):
        pass


class PointExpert(Expert):
    def act(self, environment):
        return np.clip((environment.goal - environment.position) / 0.2, -1, 1).astype(np.float32)


class PointSuite(Suite):
    name = "point"

    def __init__(self, render_profile="plain"):
        self.render_profile = render_profile

    @property
    def spec(self):
        return SuiteSpec(
            {"observation.image": (SIZE, SIZE)}, 2, 2, self.render_profile, fps=10,
            action_low=(-1.0, -1.0), action_high=(1.0, 1.0),
        )  # fmt: skip

    def tasks(self):
        return [Task(f"point/{name}", f"go to the {name} side", max_steps=20) for name in COLOURS]

    def initial_states(self, split, count):
        start = {"train": 0, "select": 10_000, "report": 20_000}[split]
        return list(range(start, start + count))

    def make_environment(self, task):
        return PointEnvironment(task)

    def make_expert(self, task):
        return PointExpert()
